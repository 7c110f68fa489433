/* Private to planner/: list scheduling of whole messages, and the clock it shares with the hybrid. */
#ifndef LIST_SCHEDULE_H
#define LIST_SCHEDULE_H

#include "planner.h"

/* How long a message of a pair takes when both ends have nothing else to do, in whole ticks: 2^shift of them are one
 * ns, as many as keep every sum below 2^62. All arrays are [n * n]. */
struct mp_ticks {
    uint32_t n;
    unsigned shift;
    bool is_alone;     /* no transfer can slow down another one of other ends: ticks are what the simulator says */
    uint64_t *rate;    /* bytes per second: the least of the path's */
    uint64_t *startup; /* stage launch and latency */
    uint64_t *wire;    /* bytes of the problem's matrix over rate, rounded up; 0 = no message (diagonal) */
    uint64_t port_ns;  /* most time of an end, startups included, rounded up: no one-to-one order is faster */
};
/* In memory of `arena`. */
enum mp_status mp_ticks_new(struct mp_ticks **out, const struct mp_order_problem *in, struct mp_arena *arena,
                            struct mp_error *err) MP_MUST_CHECK;
static inline uint64_t mp_ticks_wire(const struct mp_ticks *t, size_t pair, uint64_t bytes) {
    return mp_mul_div_ceil(bytes, UINT64_C(1000000000) << t->shift, t->rate[pair]);
}
static inline uint64_t mp_ticks_bytes(const struct mp_ticks *t, size_t pair, uint64_t ticks) {
    return mp_mul_div(ticks, t->rate[pair], UINT64_C(1000000000) << t->shift);
}
static inline uint64_t mp_ticks_ns(const struct mp_ticks *t, uint64_t ticks) { /* rounded up */
    return (ticks >> t->shift) + ((ticks & ((UINT64_C(1) << t->shift) - 1)) != 0);
}

/* Which partner an end that has become free takes; ties to the larger message, then to the receiver
 * that comes first after its sender, counting around. */
enum mp_list_priority {
    MP_LIST_LOAD, /* the largest of both ends' remaining loads */
    MP_LIST_SIZE, /* the largest message */
    MP_LIST_SUM,  /* the largest sum of both ends' remaining loads */
    MP_N_LIST_PRIORITIES
};

struct mp_list_message {
    uint16_t src, dst;
    uint32_t stage; /* from 0 */
};
/* Scratch and result, reused from run to run. */
struct mp_list {
    uint32_t n, n_words, n_messages, n_stages;
    uint64_t makespan;                /* ticks */
    struct mp_list_message *messages; /* [n * n] in order of start */
    uint64_t *load;                   /* [2 * n] not started yet: senders, then receivers */
    uint64_t *idle;                   /* [2 * n_words] bits */
    uint64_t *left;                   /* [2 * n * n_words] messages not started, by end: bits of the other end */
    uint32_t *level, *freed;          /* [2 * n] */
    struct mp_list_event *events;     /* [n] heap */
};
enum mp_status mp_list_new(struct mp_list **out, uint32_t n, struct mp_arena *arena,
                           struct mp_error *err) MP_MUST_CHECK;
/* time[n * n]: ticks of each message, startup included, 0 = none. ready NULL or [2 * n]: when senders, then receivers
 * are free at first. False, stopping early, when the makespan is not below `limit` (UINT64_MAX = no limit). */
bool mp_list_run(struct mp_list *l, const uint64_t *time, const uint64_t *ready, enum mp_list_priority priority,
                 uint64_t limit);
/* Appends the messages as stages: one send and one receive per end and stage, each end's messages in the order of the
 * list, so that under FREE they start when the list has them start. bytes[n * n]: what is sent of each pair. */
enum mp_status mp_list_append(const struct mp_list *l, const uint64_t *bytes, struct mp_schedule *out,
                              struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

#endif
