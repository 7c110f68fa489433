/* Random plans of every feature, for round trips and mutations: valid by structure, their evidence made up. */
#ifndef RANDOM_PLAN_H
#define RANDOM_PLAN_H

#include <moeplan/plan.h>

struct random_plan_shape {
    uint32_t n_layers, n_experts, n_gpus, n_nodes, slots_per_gpu;
    bool has_orders, has_outlook;
};
/* Without an outlook, one layer is the order of a matrix. Fails the running test when out of memory. */
struct mp_plan *random_plan(struct mp_rng *rng, const struct random_plan_shape *shape);
struct random_plan_shape random_shape(struct mp_rng *rng);
/* An order of random stages over all pairs, valid for one port per GPU. */
void random_order(struct mp_rng *rng, struct mp_plan *p, struct mp_order *order);
/* What random_any_order may use. */
enum random_order_kind { RANDOM_PLAIN = 0, RANDOM_WIDTHS = 1, RANDOM_FLUSH = 2, RANDOM_NODES = 4, RANDOM_SHARED = 8 };
/* Flows cut in up to three pieces, packed into stages at random: sub-ports slow enough to fit anywhere, a flush of what
 * is left, or between nodes; or several transfers of an end in a stage that share its ports. Sums but for WIDTHS with
 * NODES or SHARED, and FLUSH with NODES. */
void random_any_order(struct mp_rng *rng, struct mp_plan *p, struct mp_order *order, enum random_order_kind kind);
/* The text of a plan, NUL-terminated, from malloc. */
char *plan_text(const struct mp_plan *p, size_t *n);
/* Replaces the last line's checksum by that of the text before it. */
void restamp(char *text, size_t n);

#endif
