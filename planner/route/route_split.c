/* Routing by the optimal split of mean loads.
 *
 * Decides   the weights of each (layer, replicated expert, source GPU, replica).
 * Minimises the objective of steps: of splits with the least peak and with the fewest copies at some more, and of even
 *           and nearest replicas, each layer takes the best (planner/route/split_route.c).
 * Method    maximum flow and minimum-cost flow in whole rows (planner/route/split.c).
 * Bound     never worse than even and nearest on the steps that plans are scored on (docs/STRATEGIES.md).
 * Differs   LPLB (github.com/deepseek-ai/LPLB) solves for each batch and for balance alone.
 * Cost      eight looks at the steps. */
#include "split_route.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    return mp_split_route(in, false, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_split = {
    .name = "split",
    .summary = "least peak, then fewest copies, for mean loads; layer by layer the best on steps",
    .reference = "LPLB, github.com/deepseek-ai/LPLB; docs/STRATEGIES.md",
    .stage = MP_PLAN_ROUTE,
    .is_named_only = true, /* auto tries it on its best placements */
    .options = mp_split_options,
    .solve = solve};
