/* Private to planner/: what all flows at once take, roughly and fast, where simulating every end of a flow takes too
 * long to plan with. */
#ifndef FAIR_SHARE_H
#define FAIR_SHARE_H

#include <moeplan/topology.h>

/* Nanoseconds of matrix[n_gpus][n_gpus] (bytes, diagonal ignored) at max-min fair rates, incast curves and pair caps
 * in, latencies out; within some 2 % of mp_net_concurrent. Memory from `scratch`. O(flows) for each of some 40 steps of
 * time. Deterministic. */
enum mp_status mp_fair_share_ns(double *ns, const struct mp_topology *t, const uint64_t *matrix,
                                struct mp_arena *scratch, struct mp_error *err) MP_MUST_CHECK;

#endif
