#include "life.h"

enum {
    TICKS = 8,           /* in a deadline: more would make silences of busy machines rarer, each is a small frame */
    PULSE_NS = 20000000, /* at most so long between looks while a rank works */
    LATER_NS = 20000000, /* who knows less of what a silent rank owes lets those come first who know more */
};

enum mp_status ex_life_new(struct ex_life *l, uint32_t me, uint32_t n, uint64_t deadline_ms, struct mp_error *err) {
    *l = (struct ex_life){.me = me, .n = n, .deadline_ns = deadline_ms * 1000000};
    l->life_ns = mp_calloc(n, sizeof *l->life_ns);
    return l->life_ns != NULL ? MP_OK : mp_nomem(err, "a transport");
}

void ex_life_free(struct ex_life *l) {
    mp_free(l->life_ns);
    l->life_ns = NULL;
}

void ex_life_begin(struct ex_life *l, uint64_t now_ns) {
    for (uint32_t r = 0; r < l->n; r++)
        l->life_ns[r] = r == l->me ? UINT64_MAX : now_ns;
    l->moved_ns = l->others_moved_ns = l->looked_ns = l->tick_ns = l->judge_ns = now_ns;
}

/* Short times without a look do count: what came meanwhile is read before anybody is judged. */
bool ex_life_look(struct ex_life *l, uint64_t now_ns) {
    const uint64_t blind = now_ns - l->looked_ns;
    for (uint32_t r = 0; blind >= l->deadline_ns / 2 && r < l->n; r++)
        l->life_ns[r] += l->life_ns[r] != UINT64_MAX ? blind : 0;
    l->looked_ns = now_ns;
    if (now_ns < l->tick_ns)
        return false;
    l->tick_ns = now_ns + l->deadline_ns / TICKS;
    return true;
}

void ex_life_heard(struct ex_life *l, uint32_t peer, uint64_t age_ns, uint64_t now_ns) {
    const uint64_t moved = age_ns < now_ns ? now_ns - age_ns : 0;
    ex_life_sign(l, peer, now_ns);
    l->others_moved_ns = moved > l->others_moved_ns ? moved : l->others_moved_ns;
}

void ex_life_left(struct ex_life *l, uint32_t peer) { l->life_ns[peer] = UINT64_MAX; }
bool ex_life_has_left(const struct ex_life *l, uint32_t peer) { return l->life_ns[peer] == UINT64_MAX; }

uint32_t ex_life_silent(struct ex_life *l, uint64_t now_ns, ex_owed_fn *owed, const void *run, struct ex_owed *out) {
    uint64_t next = now_ns + l->deadline_ns;
    *out = (struct ex_owed){.bytes = 0};
    if (now_ns < l->judge_ns)
        return MP_NONE;
    for (uint32_t r = 0; r < l->n; r++) {
        if (ex_life_has_left(l, r) || l->life_ns[r] + l->deadline_ns >= next)
            continue;
        *out = (struct ex_owed){.bytes = 0};
        if (owed != NULL)
            owed(run, r, out);
        const uint64_t until = l->life_ns[r] + l->deadline_ns +
                               (out->bytes == 0 ? 2
                                : out->is_next  ? 0
                                                : 1) *
                                   (uint64_t)LATER_NS;
        if (now_ns >= until)
            return r;
        next = until < next ? until : next;
    }
    l->judge_ns = next;
    return MP_NONE;
}

uint64_t ex_life_patience(const struct ex_life *l, uint64_t since_ns) {
    const uint64_t moved = l->others_moved_ns > l->moved_ns ? l->others_moved_ns : l->moved_ns;
    return (moved > since_ns ? moved : since_ns) + l->deadline_ns + 3 * LATER_NS; /* who is silent is named first */
}

uint32_t ex_life_quietest(const struct ex_life *l) {
    uint64_t life_ns = l->looked_ns - l->deadline_ns / 2;
    uint32_t quietest = MP_NONE;
    for (uint32_t r = 0; r < l->n; r++)
        if (l->life_ns[r] < life_ns) {
            life_ns = l->life_ns[r];
            quietest = r;
        }
    return quietest;
}

bool ex_life_works_on(struct ex_life *l, uint64_t now_ns) {
    const uint64_t pause = l->deadline_ns / TICKS < PULSE_NS ? l->deadline_ns / TICKS : PULSE_NS;
    l->moved_ns = now_ns;
    return now_ns >= l->looked_ns + pause;
}

enum mp_status ex_life_fail(struct mp_error *err, const struct ex_script *s, const char *doing, uint32_t me,
                            uint32_t peer, const struct ex_owed *owed, uint64_t deadline_ms) {
    if (s != NULL && owed->bytes > 0)
        return ex_fail_deadline(err, s, me, owed->stage, peer, owed->is_receive, owed->bytes, EX_SILENT, deadline_ms);
    char name[96];
    if (s != NULL)
        doing = ex_script_name(s, name, sizeof name);
    return mp_fail(
        err, MP_EPEER,
        "%s, before a barrier: rank %u, with 0 bytes outstanding, waited %llu ms for rank %u, which showed no "
        "sign of life (is it alive? a slow cluster may need a longer --deadline)",
        doing, me, (unsigned long long)deadline_ms, peer);
}
