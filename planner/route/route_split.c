/* Routing by the optimal split of mean loads.
 *
 * Decides   the weights of each (layer, replicated expert, source GPU, replica).
 * Minimises the objective of steps: of splits with the least peak and with the fewest copies at some more, and of even
 *           and nearest replicas, each layer takes the best (planner/route/split_route.c).
 * Method    maximum flow and minimum-cost flow in whole rows (planner/route/split.c).
 * Bound     never worse than even and nearest on the planning steps.
 * Differs   LPLB (github.com/deepseek-ai/LPLB) solves for each batch and for balance alone.
 * Cost      eight looks at the steps. */
#include "split_route.h"

enum { OPTION_STEPS, OPTION_WEIGHTS, OPTION_NODES };
static const struct mp_option options[] = {
    {"steps", "steps", "how many steps are looked at, at most", 64, 1, 4096},
    {"weights", "", "what the weights of an expert add up to, at most", 64, 1, 4096},
    {"nodes", "",
     "1: the sources of a node share their weights, which makes a small table; 0: only where there are too many", 0, 0,
     1},
    {NULL, NULL, NULL, 0, 0, 0}};

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_split_options o = {.by_node = in->option_values[OPTION_NODES] != 0,
                                       .sum = (uint32_t)in->option_values[OPTION_WEIGHTS],
                                       .n_steps = (uint32_t)in->option_values[OPTION_STEPS],
                                       .pairs = MP_SPLIT_PAIRS};
    return mp_split_route(in, &o, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_split = {
    .name = "split",
    .summary = "least peak, then fewest copies, for mean loads; layer by layer the best on steps",
    .reference = "LPLB, github.com/deepseek-ai/LPLB; docs/STRATEGIES.md",
    .stage = MP_PLAN_ROUTE,
    .is_named_only = true, /* auto tries them on its best placements */
    .options = options,
    .solve = solve};
