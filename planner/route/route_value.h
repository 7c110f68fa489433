/* Private to planner/: what each layer takes over many steps with the routing that a plan has now. */
#ifndef ROUTE_VALUE_H
#define ROUTE_VALUE_H

#include "planner.h"

struct mp_route_value;
/* Of these steps (as many as `pairs_max` (token, expert) pairs over all layers allow, at least 2, at most steps_max,
 * evenly spaced). */
enum mp_status mp_route_value_new(struct mp_route_value **out, const struct mp_problem *problem,
                                  const struct mp_workload *steps, uint32_t steps_max, uint64_t pairs_max,
                                  struct mp_error *err) MP_MUST_CHECK;
void mp_route_value_free(struct mp_route_value *v);
/* Even two steps are more pairs than that. */
bool mp_route_value_is_dear(const struct mp_route_value *v);
/* What a layer takes over all these steps, and over a quarter of them: ns as mp_simulate has them with every transfer
 * at its port bound, attention left out; for the objectives peak and inter rows of the busiest GPU and bytes between
 * nodes.
 */
struct mp_layer_value {
    uint64_t quarter, all;
};
/* value[n_layers]. best[n_layers] (NULL = none): a layer that takes 1 % more over the quarter, or as much before all
 * steps are looked at, is given up: all = UINT64_MAX. Layers with is_left_out (NULL = none) are not looked at, the
 * same.
 */
enum mp_status mp_route_value_of(struct mp_route_value *v, const struct mp_plan *plan,
                                 const struct mp_layer_value *best, const bool *is_left_out,
                                 struct mp_layer_value *value, struct mp_error *err) MP_MUST_CHECK;

#endif
