#include "fault.h"
#include <moeplan/base.h>
#include <string.h>

static const char *const kinds[] = {"none", "corrupt", "swap", "drop", "stop", "kill", "lie", "slow"};

enum mp_status ex_fault_parse(struct ex_fault *out, const char *text, struct mp_error *err) {
    const char *at = strchr(text, '@');
    uint64_t numbers[4] = {0};
    size_t n = 0;
    *out = (struct ex_fault){0};
    for (uint32_t k = 1; at != NULL && k < sizeof kinds / sizeof *kinds; k++)
        if (strlen(kinds[k]) == (size_t)(at - text) && memcmp(kinds[k], text, (size_t)(at - text)) == 0)
            out->kind = (enum ex_fault_kind)k;
    for (const char *p = at; p != NULL && n < 4; n++) {
        size_t length = strcspn(++p, "/");
        if (!mp_parse_u64(p, length, &numbers[n]) || numbers[n] >= MP_NONE)
            break;
        p = p[length] == '/' ? p + length : NULL;
        if (p == NULL) {
            n++;
            break;
        }
        if (n == 3)
            break;
    }
    if (out->kind == EX_FAULT_NONE || n < 3 || strspn(at + 1, "0123456789/") != strlen(at + 1))
        return mp_fail(err, MP_EUSAGE,
                       "--fault: \"%.80s\" is not KIND@STEP/LAYER/STAGE[/RANK] (KIND: corrupt, swap, drop, stop, kill, "
                       "lie or slow)",
                       text);
    out->step = (uint32_t)numbers[0];
    out->layer = (uint32_t)numbers[1];
    out->stage = (uint32_t)numbers[2];
    out->rank = (uint32_t)numbers[3];
    return MP_OK;
}

bool ex_fault_strikes(const struct ex_fault *f, const struct ex_script *s, uint32_t stage, uint32_t rank) {
    return f->kind != EX_FAULT_NONE && s->part == EX_DISPATCH && f->step == s->step && f->layer == s->layer &&
           f->stage == stage && (f->kind == EX_FAULT_DROP || f->rank == rank);
}

/* Two messages whose payloads are exchanged: the first two of the rank from the stage on, MP_NONE when there are not
 * two. */
static void swap(struct ex_end *sends, size_t n, uint32_t stage) {
    for (size_t i = 0; i + 1 < n; i++)
        if (sends[i].stage >= stage) {
            uint64_t at = sends[i].at;
            sends[i].at = sends[i + 1].at;
            sends[i + 1].at = at;
            return;
        }
}

enum mp_status ex_fault_sends(struct ex_end **out, const struct ex_fault *f, const struct ex_script *s, uint32_t rank,
                              struct mp_error *err) {
    *out = NULL;
    if ((f->kind != EX_FAULT_SWAP && f->kind != EX_FAULT_DROP && f->kind != EX_FAULT_LIE) ||
        !ex_fault_strikes(f, s, f->stage, rank))
        return MP_OK;
    const struct ex_end *from = s->sends + s->send_first[rank];
    const size_t n = s->send_first[rank + 1] - s->send_first[rank];
    struct ex_end *sends = mp_calloc(n, sizeof *sends);
    if (sends == NULL)
        return mp_nomem(err, "a fault");
    memcpy(sends, from, n * sizeof *sends);
    if (f->kind == EX_FAULT_SWAP)
        swap(sends, n, f->stage);
    for (size_t i = 0; i < n; i++) {
        if (sends[i].stage != f->stage)
            continue;
        if (f->kind == EX_FAULT_DROP)
            sends[i].bytes = 0;
        if (f->kind == EX_FAULT_LIE) {
            sends[i].bytes += sends[i].bytes > 1 ? UINT64_MAX : 1; /* one less, or two where one was agreed */
            break;
        }
    }
    *out = sends;
    return MP_OK;
}
