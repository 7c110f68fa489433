/* Probes: patterns of transfers made so that one figure of a topology decides how long they take, and their scripts. */
#ifndef EXECUTOR_PROBE_H
#define EXECUTOR_PROBE_H

#include "transport.h"

struct ex_edge {
    uint32_t stage, src, dst;
};
struct ex_pattern { /* every edge carries the same number of bytes */
    uint32_t n_ranks, n_stages;
    size_t n, n_allocated;
    struct ex_edge *edges;
};
void ex_pattern_free(struct ex_pattern *p);

/* Figures of a topology that one fit can tell apart: ports, uplinks or pairs of a level with the same nominal rate. */
struct ex_class {
    uint32_t level;
    bool is_uplink, is_pair;
    uint64_t bytes_per_s;
};
/* Every GPU of the class (NULL: every GPU) sends to one in another group of the level below, one GPU for each port;
 * at level 0 to another GPU of its node. In each stage to one further on. Adds nothing where there are no such peers.
 */
enum mp_status ex_pattern_ring(struct ex_pattern *p, const struct mp_topology *t, const struct ex_class *c,
                               uint32_t level, uint32_t n_stages, struct mp_error *err) MP_MUST_CHECK;
/* A pattern that loads the class's figures at least as much as any other figure, each by its nominal rate; *load:
 * edges through the busiest of them. No edge in it: there is none. */
enum mp_status ex_pattern_of_class(struct ex_pattern *p, uint32_t *load, const struct mp_topology *t,
                                   const struct ex_class *c, struct mp_error *err) MP_MUST_CHECK;
/* What a byte on every edge takes at the topology's rates: the busiest figure's time, ns. */
enum mp_status ex_pattern_bound(double *ns, const struct ex_pattern *p, const struct mp_topology *t,
                                struct mp_error *err) MP_MUST_CHECK;
/* Senders to one receiver of the level: edge i is the i-th of them, no two through one port, as long as the receiver's
 * port is what limits even the first one alone. */
enum mp_status ex_pattern_incast(struct ex_pattern *p, const struct mp_topology *t, uint32_t level,
                                 struct mp_error *err) MP_MUST_CHECK;

struct ex_probe {
    uint64_t *matrix, *used;
    struct ex_flows *flows;
    struct ex_script *script;
    struct ex_probe *next;
};
/* The script of the first n_edges edges with `bytes` on each, proven. number names it in messages. */
enum mp_status ex_probe_new(struct ex_probe **out, const struct ex_pattern *p, size_t n_edges, uint64_t bytes,
                            enum mp_stage_mode mode, const struct ex_limits *limits, uint32_t number,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_probe_free(struct ex_probe *p);
/* Most bytes on each edge so that no rank needs a larger block. */
uint64_t ex_pattern_most(const struct ex_pattern *p, uint64_t block_bytes);

#endif
