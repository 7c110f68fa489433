/* A whole tiny problem made at random: cluster, model, recording, steps, plan. */
#ifndef WORLD_H
#define WORLD_H

#include "net_case.h"

struct world {
    struct net_case net;
    struct mp_model model;
    struct mp_trace *trace;
    struct mp_workload *workload;
    struct mp_plan *plan;
    struct mp_router *router;
    struct mp_cost_setup setup;
};
struct world_shape {
    uint32_t n_layers, n_experts, top_k, n_slots_extra, n_steps; /* 0 = random; n_slots_extra is at most this */
    uint32_t max_nodes, max_per_node;
    bool is_counts, no_replicas;
};
/* net is made by the caller or, when net.t.n_gpus is 0, at random. */
void world_make(struct world *w, struct mp_rng *r, struct world_shape shape);
/* Puts experts into slots anew, at random but validly, and prepares routing again. */
void world_place(struct world *w, struct mp_rng *r);
/* The router of the plan as it is now. */
void world_route(struct world *w);
/* Rotation for every second layer, in the plan's own memory. */
void world_rotation(struct world *w);
void world_free(struct world *w);

#endif
