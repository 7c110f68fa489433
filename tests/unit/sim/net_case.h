/* Random clusters and matrices, and simulators that are slow, obvious and share nothing with src/sim. */
#ifndef NET_CASE_H
#define NET_CASE_H

#include "support.h"
#include <moeplan/sim.h>

#define CASE_GPUS 80u
#define CASE_RESOURCES (CASE_GPUS * 6)

struct net_case {
    struct mp_topology t;
    struct mp_gpu gpus[CASE_GPUS];
    struct mp_gpu_type types[2];
    struct mp_level levels[3];
    struct mp_resource resources[CASE_RESOURCES];
    uint32_t uplink_out[2][CASE_GPUS], uplink_in[2][CASE_GPUS], incast[3][4];
    uint64_t matrix[CASE_GPUS * CASE_GPUS];
};

/* A cluster of n_nodes * per_node equal GPUs: NVLink inside, one NIC each; no latency, launch or uplink. */
void case_plain(struct net_case *c, uint32_t n_nodes, uint32_t per_node, uint64_t nvlink, uint64_t nic);
/* Anything: unequal ports, shared NICs, NICs that are the NVLink port, uplinks, three levels, pair caps, incast
 * curves, latencies, ties. */
void case_random(struct net_case *c, struct mp_rng *r, uint32_t max_nodes, uint32_t max_per_node);
/* Rows may be zero, entries equal, tiny or huge. */
void case_matrix(struct net_case *c, struct mp_rng *r);

#define CASE_STAGES 64
#define CASE_PER_STAGE 64
struct test_order {
    struct mp_order o;
    struct mp_stage stages[CASE_STAGES];
    struct mp_transfer transfers[CASE_STAGES][CASE_PER_STAGE];
};
/* Every pair's unit cut into random pieces, each put into a stage where both ends have a port left; `ports` per GPU, a
 * transfer takes one or more of them. With a flush, what a pair has left at some point goes there. */
void case_order(struct test_order *x, struct mp_rng *r, uint32_t n, uint32_t ports, uint64_t port_rate, bool has_flush);

/* The definitions of docs/COST.md parts 4 and 5, from scratch at every event, in long double. finish NULL or [n][n],
 * latency included. */
long double slow_concurrent(const struct mp_topology *t, const uint64_t *matrix, long double *finish);
long double slow_staged(const struct mp_topology *t, const struct mp_order *o, enum mp_combine way,
                        enum mp_stage_mode mode, const uint64_t *matrix);
/* Ranks come at come[n]; gone[n]: when each has ended all that it sends and receives. */
long double slow_staged_from(const struct mp_topology *t, const struct mp_order *o, enum mp_combine way,
                             enum mp_stage_mode mode, const uint64_t *matrix, const uint64_t *come, long double *gone);
void slow_concurrent_from(const struct mp_topology *t, const uint64_t *matrix, const uint64_t *come, long double *gone);
/* Lists order[sender][k] of destinations, MP_NONE at the end; one flow at a time per sender. */
long double slow_one_at_a_time(const struct mp_topology *t, const uint32_t *order, const uint64_t *matrix);

#endif
