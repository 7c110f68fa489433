/* Signs of life, for transports whose ranks are processes. Every rank sends a tick to every other one each DEADLINE / 8
 * from wherever it looks at what comes: no thread does it, so that a rank that is stuck counts as stuck. A tick says
 * how long ago anything of its sender moved last. Whoever looks ends the run when
 *   - a peer showed no sign of life (a tick, any byte) for the deadline, whatever else moves, or
 *   - it waits itself, and nothing of any rank moved for the deadline. */
#ifndef EXECUTOR_LIFE_H
#define EXECUTOR_LIFE_H

#include "transport.h"

struct ex_life {
    uint32_t me, n;
    uint64_t deadline_ns;
    uint64_t *life_ns;                     /* [n] the last sign of life; UINT64_MAX: has left, or ourselves */
    uint64_t moved_ns;                     /* when something of ours moved last: bytes, a barrier, work on tokens */
    uint64_t others_moved_ns;              /* of any other rank, by its own word */
    uint64_t looked_ns, tick_ns, judge_ns; /* when we looked last; the next tick is due; silences are counted again */
};
struct ex_owed { /* what is outstanding between us and a peer */
    uint64_t bytes;
    uint32_t stage;
    bool is_receive;
    bool is_next; /* we wait for it now */
};
/* Of a run at hand: *out is zeroed and stays so where there is nothing. */
typedef void ex_owed_fn(const void *run, uint32_t peer, struct ex_owed *out);

enum mp_status ex_life_new(struct ex_life *l, uint32_t me, uint32_t n, uint64_t deadline_ms,
                           struct mp_error *err) MP_MUST_CHECK;
void ex_life_free(struct ex_life *l);
void ex_life_begin(struct ex_life *l, uint64_t now_ns); /* all are alive */
/* Before each look: a long time without one does not count against the others. True: a tick is due, to all who have
 * not left; the next one then later. */
bool ex_life_look(struct ex_life *l, uint64_t now_ns);
static inline void ex_life_sign(struct ex_life *l, uint32_t peer, uint64_t now_ns) {
    if (l->life_ns[peer] != UINT64_MAX)
        l->life_ns[peer] = now_ns;
}
void ex_life_heard(struct ex_life *l, uint32_t peer, uint64_t age_ns, uint64_t now_ns); /* a tick */
void ex_life_left(struct ex_life *l, uint32_t peer);
bool ex_life_has_left(const struct ex_life *l, uint32_t peer);
/* The peer that was silent for too long, or MP_NONE; after all that had come was looked at. owed: NULL = nothing. */
uint32_t ex_life_silent(struct ex_life *l, uint64_t now_ns, ex_owed_fn *owed, const void *run, struct ex_owed *out);
/* When a wait that began at `since_ns` has lasted too long. */
uint64_t ex_life_patience(const struct ex_life *l, uint64_t since_ns);
/* Who has been silent for the longest, and for half the deadline; MP_NONE = nobody. */
uint32_t ex_life_quietest(const struct ex_life *l);
/* A rank works on and looks seldom: is it time to? */
bool ex_life_works_on(struct ex_life *l, uint64_t now_ns);
/* The message of a silent peer. s: the script at hand, or NULL; doing: what else is going on. MP_EPEER. */
enum mp_status ex_life_fail(struct mp_error *err, const struct ex_script *s, const char *doing, uint32_t me,
                            uint32_t peer, const struct ex_owed *owed, uint64_t deadline_ms);

#endif
