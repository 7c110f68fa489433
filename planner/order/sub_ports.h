/* Private to planner/: a cluster of unequal ports as one of equal sub-ports. */
#ifndef SUB_PORTS_H
#define SUB_PORTS_H

#include "planner.h"

#define MP_SUB_PORTS_OF_PORT 64u /* at most */
#define MP_SUB_PORTS_TOTAL 512u  /* of one side, at most */

/* A matrix between sub-ports in which no line sums to more than `bound`; all of bytes * scale. Memory of the arena it
 * was made in. */
struct mp_sub_ports {
    uint64_t unit_bytes_per_s; /* rate of a sub-port */
    uint64_t scale;            /* entries of `matrix` per byte */
    uint64_t bound;            /* largest line: all stages last bound / (scale * unit_bytes_per_s) seconds together */
    uint32_t loss_ppm;         /* how much above the port bound that is, rounded up; 0 = it is the port bound exactly */
    uint32_t n[2], n_sub;      /* sub-ports that send, that receive; the larger of them */
    uint32_t *gpu[2];          /* [n[side]] whose they are */
    uint32_t *port[2];         /* [n[side]] resource they are part of */
    uint64_t *matrix;          /* [n_sub][n_sub] */
};
/* NOT_APPLICABLE says why. */
enum mp_status mp_sub_ports_new(struct mp_sub_ports **out, const struct mp_order_problem *in, struct mp_arena *arena,
                                enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

#endif
