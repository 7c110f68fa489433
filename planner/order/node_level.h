/* Private to planner/: a cluster seen as its nodes, each with the ports that all its GPUs have together. */
#ifndef NODE_LEVEL_H
#define NODE_LEVEL_H

#include <moeplan/topology.h>

/* A topology of mp_topology_n_nodes(t) ends without the innermost level of t, in memory of `arena`; t must have more
 * than one node. Port of a node and level: the sum of its GPUs' different ports, or the uplink of the node when that is
 * less. */
enum mp_status mp_node_level(struct mp_topology **out, const struct mp_topology *t, struct mp_arena *arena,
                             struct mp_error *err) MP_MUST_CHECK;

#endif
