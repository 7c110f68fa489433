/* Routing by the optimal split with a charge for every expert that a GPU reads.
 *
 * Decides   which replicas of each expert take rows at all, and the weights of those.
 * Minimises the objective of steps. The candidates of `split`, and besides splits over the replicas that keep the
 * longest of max(a + b * experts read, c + beta * rows) least (planner/route/split_choose.c).
 * Method    planner/route/split_route.c.
 * Bound     never worse than even and nearest on the steps that plans are scored on (docs/STRATEGIES.md).
 * Differs   TEMPO (KlingAI, 2026) decides for each batch.
 * Cost      at most twenty looks at the steps. */
#include "split_route.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    return mp_split_route(in, true, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_split_active = {
    .name = "split-active",
    .summary = "as split, with a charge for every expert that a GPU reads: some replicas get nothing",
    .reference = "TEMPO, KlingAI 2026; docs/STRATEGIES.md",
    .stage = MP_PLAN_ROUTE,
    .is_named_only = true, /* auto tries it on its best placements */
    .options = mp_split_options,
    .solve = solve};
