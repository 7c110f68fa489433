/* Private to planner/: stages of transfers between nodes, found by ordering the nodes as if they were GPUs. */
#ifndef NODE_STAGES_H
#define NODE_STAGES_H

#include <moeplan/strategy.h>

/* What --set two-level.nodes counts. */
enum mp_node_way {
    MP_NODES_BEST,
    MP_NODES_SLICES,    /* every pair of nodes in every stage */
    MP_NODES_MATCHINGS, /* bottleneck matchings, then all the rest as one more slice */
    MP_NODES_EXACT,     /* the whole of a Birkhoff-von Neumann decomposition */
    MP_NODES_HYBRID,    /* bottleneck matchings, the rest packed into matchings or as one more slice */
    MP_NODES_NESTED,    /* many bottleneck matchings in each stage, then all the rest as one more slice */
    MP_N_NODE_WAYS
};

/* The nodes as ends of their own. */
struct mp_node_net {
    struct mp_topology *t;
    struct mp_net *net;
    const uint64_t *matrix; /* [n_nodes][n_nodes] */
    double launch;          /* ns of a stage beside its bytes: launch and latency */
    double bound_ns;        /* port bound of the matrix */
    double loss_ns;         /* what all of it at once takes longer (fair_share.h) */
};
/* `nodes` is borrowed, t and the topology are in memory of `scratch`. */
enum mp_status mp_node_net_open(struct mp_node_net *out, const struct mp_topology *t, const uint64_t *nodes,
                                double launch, struct mp_arena *scratch, struct mp_error *err) MP_MUST_CHECK;
void mp_node_net_close(struct mp_node_net *x);

/* Could this way (MATCHINGS and following) come below time_ns? Launches and the port bound only. */
bool mp_nodes_may_pay(const struct mp_node_net *x, enum mp_node_way way, double time_ns);
/* Appends the stages of one way to an empty schedule of nodes; none when the way has none that pay. *rails_ns: what
 * they take on the rails, launches in. `in` gives budget and seed. */
enum mp_status mp_node_stages(struct mp_schedule *out, const struct mp_node_net *x, enum mp_node_way way,
                              const struct mp_order_problem *in, double *rails_ns, struct mp_arena *scratch,
                              struct mp_error *err) MP_MUST_CHECK;

#endif
