/* Takes a plan further than any strategy goes. Shared by the test of the verifier and the program that writes such
 * plans for plancheck. */
#ifndef TWIST_H
#define TWIST_H

#include "../plan/random_plan.h"
#include "support.h"
#include <moeplan/strategy.h>

/* An order of any kind: plain, with sub-ports, with a flush, both, or between nodes. Sub-ports are so slow that they
 * fit anywhere and bind, or so quick that only their number does. */
static inline void twist_order(struct mp_rng *rng, struct mp_plan *p, struct mp_order *order) {
    static const enum random_order_kind kinds[] = {RANDOM_PLAIN,  RANDOM_WIDTHS,
                                                   RANDOM_FLUSH,  RANDOM_WIDTHS | RANDOM_FLUSH,
                                                   RANDOM_NODES,  RANDOM_NODES | RANDOM_SHARED,
                                                   RANDOM_SHARED, RANDOM_SHARED | RANDOM_FLUSH};
    random_any_order(rng, p, order, kinds[mp_rng_below(rng, 8)]);
    if (order->port_bytes_per_s > 0)
        order->port_bytes_per_s = mp_rng_below(rng, 2) ? 500000000 : 5000000;
}

/* What one of the order strategies makes of a random matrix; false where it makes no stages. */
static inline bool strategy_order(struct mp_rng *rng, struct mp_plan *p, const struct mp_topology *t,
                                  struct mp_order *order) {
    const struct mp_strategy *known[64];
    uint32_t n_known = 0, n = t->n_gpus;
    struct mp_error err = {0};
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++)
        if (mp_strategy_at(i)->stage == MP_PLAN_ORDER && n_known < 64)
            known[n_known++] = mp_strategy_at(i);
    const struct mp_strategy *s = known[mp_rng_below(rng, n_known)];
    uint64_t *matrix = mp_calloc((size_t)n * n, sizeof *matrix), *nodes = mp_calloc((size_t)n * n, sizeof *nodes);
    assert_true(matrix != NULL && nodes != NULL);
    for (size_t i = 0; i < (size_t)n * n; i++)
        matrix[i] = i / n == i % n || mp_rng_below(rng, 4) == 0
                        ? 0
                        : mp_rng_below(rng, UINT64_C(1) << (10 + mp_rng_below(rng, 20)));
    struct mp_order_problem problem = {.topology = t,
                                       .matrix = matrix,
                                       .mode = (enum mp_stage_mode)mp_rng_below(rng, 3),
                                       .can_pace = mp_rng_below(rng, 2),
                                       .seed = mp_rng_next(rng)};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    CHECK_OK(mp_net_new(&problem.net, t, &err), err);
    CHECK_OK(mp_order_run(s, &problem, &schedule, &outcome, &err), err);
    bool has_stages = (outcome == MP_FOUND || outcome == MP_STOPPED) && schedule.n_stages > 0;
    if (has_stages) {
        if (schedule.between_nodes)
            mp_node_matrix(t, matrix, nodes);
        CHECK_OK(mp_schedule_order(order, &schedule, schedule.between_nodes ? nodes : matrix,
                                   mp_rng_below(rng, 2) ? 65536 : 3, s->name, p->arena, &err),
                 err);
    }
    mp_schedule_free(&schedule);
    mp_net_free(problem.net);
    mp_free(matrix);
    mp_free(nodes);
    return has_stages;
}

/* Weights by source of replicated experts: small, some 0, classes often equal to the one before. */
static inline void twist_sources(struct mp_rng *rng, struct mp_plan *p, struct mp_plan_layer *layer) {
    for (uint32_t s = 0; s < p->n_slots; s++) {
        uint32_t first = p->n_slots, n = 0; /* the expert's first slot, which keeps a weight in every class */
        for (uint32_t k = 0; k < p->n_slots; k++)
            if (layer->slot_expert[k] == layer->slot_expert[s] && layer->slot_expert[k] != MP_NO_EXPERT) {
                first = first == p->n_slots ? k : first;
                n++;
            }
        for (uint32_t c = 0; n > 1 && c < mp_plan_n_classes(p); c++) {
            uint32_t *weight = layer->slot_weight_by_source + (size_t)c * p->n_slots + s;
            *weight = c > 0 && mp_rng_below(rng, 2) ? weight[-(ptrdiff_t)p->n_slots]
                                                    : (uint32_t)(s == first) + (uint32_t)mp_rng_below(rng, 4);
        }
    }
}

/* Another routing rule, other weights, random orders, another stage mode, another limit of falling back; then what the
 * planner proves about that. */
static inline void twist(struct mp_rng *rng, struct mp_plan *p, const struct mp_topology *t) {
    p->route = (enum mp_route_rule)mp_rng_below(rng, MP_N_ROUTE_RULES);
    p->provenance.route = mp_route_rule_name(p->route);
    struct mp_error err = {0};
    if (p->route == MP_ROUTE_SOURCED)
        CHECK_OK(mp_plan_source_weights(p, (enum mp_route_by)mp_rng_below(rng, MP_N_ROUTE_BY), &err), err);
    p->stage_mode = (enum mp_stage_mode)mp_rng_below(rng, 3);
    struct mp_order *orders = NULL;
    p->n_orders = 0;
    if (p->n_gpus > 1 && mp_rng_below(rng, 3) > 0) {
        p->n_orders = 2;
        orders = mp_arena_alloc(p->arena, 2, sizeof *orders);
        assert_non_null(orders);
        random_order(rng, p, &orders[0]);
        for (int i = 0; i < 2; i++)
            if (mp_rng_below(rng, 2) || !strategy_order(rng, p, t, &orders[i]))
                twist_order(rng, p, &orders[i]);
        if (mp_rng_below(rng, 4) == 0)
            random_order(rng, p, &orders[0]);
    }
    static const uint32_t limits[] = {0, 0, 1, 20000, 300000, 2000000};
    p->fallback_ppm = limits[mp_rng_below(rng, 6)];
    p->is_paced = mp_rng_below(rng, 3) > 0;
    p->is_pipelined = p->fallback_ppm == 0 || p->fallback_ppm == 20000;
    p->orders = orders;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        struct mp_plan_layer *layer = &p->layers[l];
        layer->order = p->n_orders > 0 && mp_rng_below(rng, 4) > 0 ? (uint32_t)mp_rng_below(rng, 2) : MP_NONE;
        layer->combine =
            layer->order == MP_NONE ? MP_COMBINE_FORWARD : (enum mp_combine)mp_rng_below(rng, MP_N_COMBINES);
        if (p->route == MP_ROUTE_SOURCED)
            twist_sources(rng, p, layer);
        else
            layer->slot_weight_by_source = NULL;
        layer->slot_weight = NULL;
        if (p->route != MP_ROUTE_WEIGHTED && p->route != MP_ROUTE_TIERED)
            continue;
        layer->slot_weight = mp_arena_alloc(p->arena, p->n_slots, sizeof *layer->slot_weight);
        assert_non_null(layer->slot_weight);
        for (uint32_t s = 0; s < p->n_slots; s++)
            layer->slot_weight[s] = 1 + (uint32_t)mp_rng_below(rng, 5);
        for (uint32_t s = 0; s < p->n_slots; s++) /* a weight of 0 where another replica keeps one */
            for (uint32_t k = 0; k < s; k++)
                if (layer->slot_expert[k] == layer->slot_expert[s] && mp_rng_below(rng, 8) == 0 &&
                    layer->slot_weight[k] > 0) {
                    layer->slot_weight[s] = 0;
                    break;
                }
    }
}

#endif
