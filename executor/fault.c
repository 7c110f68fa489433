#include "fault.h"
#include <moeplan/base.h>
#include <string.h>

static const char *const kinds[] = {"none", "corrupt", "swap", "drop", "stop", "kill", "lie", "slow"};

enum mp_status ex_fault_parse(struct ex_fault *out, const char *text, struct mp_error *err) {
    const bool is_of_sums = strncmp(text, "sum-", 4) == 0;
    const char *const whole = text;
    text += is_of_sums ? 4 : 0;
    const size_t n_kind = strcspn(text, "@");
    uint64_t numbers[4] = {0};
    size_t n = 0;
    *out = (struct ex_fault){0};
    for (uint32_t k = 1; k < sizeof kinds / sizeof *kinds; k++)
        if (strlen(kinds[k]) == n_kind && memcmp(kinds[k], text, n_kind) == 0)
            out->kind = (enum ex_fault_kind)k;
    const char *p = text + n_kind;
    bool is_good =
        out->kind != EX_FAULT_NONE && (!is_of_sums || (out->kind != EX_FAULT_SWAP && out->kind != EX_FAULT_DROP));
    out->is_of_sums = is_of_sums;
    while (*p != '\0' && n < 4 && is_good) {
        const size_t length = strcspn(++p, "/"); /* behind the @ or a / */
        is_good = mp_parse_u64(p, length, &numbers[n]) && numbers[n] < MP_NONE;
        n++;
        p += length;
    }
    if (!is_good || n < 3 || *p != '\0')
        return mp_fail(err, MP_EUSAGE, "--fault: \"%.80s\" is not %s", whole,
                       is_of_sums ? "sum-KIND@STEP/LAYER/CHUNK[/RANK] (KIND: corrupt, stop, kill, lie or slow)"
                                  : "KIND@STEP/LAYER/STAGE[/RANK] (KIND: corrupt, swap, drop, stop, kill, lie or slow; "
                                    "in a sum of gradients sum-KIND@STEP/LAYER/CHUNK[/RANK])");
    out->step = (uint32_t)numbers[0];
    out->layer = (uint32_t)numbers[1];
    out->stage = (uint32_t)numbers[2];
    out->rank = (uint32_t)numbers[3];
    return MP_OK;
}

bool ex_fault_strikes(const struct ex_fault *f, const struct ex_script *s, uint32_t stage, uint32_t rank) {
    return f->kind != EX_FAULT_NONE && !f->is_of_sums && s->part == EX_DISPATCH && f->step == s->step &&
           f->layer == s->layer && f->stage == stage && (f->kind == EX_FAULT_DROP || f->rank == rank);
}

/* The first two messages of the rank from the stage on exchange what they carry; where sizes differ, what lies around
 * it goes along, within what the rank has to send. */
static void swap(struct ex_end *sends, size_t n, uint32_t stage) {
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++)
        end = sends[i].at + sends[i].bytes > end ? sends[i].at + sends[i].bytes : end;
    for (size_t i = 0; i + 1 < n; i++)
        if (sends[i].stage >= stage) {
            const uint64_t at[2] = {sends[i + 1].at, sends[i].at};
            for (size_t k = 0; k < 2; k++)
                sends[i + k].at = at[k] + sends[i + k].bytes <= end ? at[k] : end - sends[i + k].bytes;
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
