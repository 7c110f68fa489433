/* Routing by the optimal split with a charge for every expert that a GPU reads.
 *
 * Decides   which replicas of each expert take rows at all, and the weights of those.
 * Minimises the objective of steps. The candidates of `split`, and besides splits over the replicas that keep the
 * longest of max(a + b * experts read, c + beta * rows) least (planner/route/split_choose.c).
 * Method    planner/route/split_route.c.
 * Bound     never worse than even and nearest on the planning steps.
 * Differs   TEMPO (KlingAI, 2026) decides for each batch.
 * Cost      at most twenty looks at the steps. */
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
    const struct mp_split_options o = {.with_choice = true,

                                       .by_node = in->option_values[OPTION_NODES] != 0,
                                       .sum = (uint32_t)in->option_values[OPTION_WEIGHTS],
                                       .n_steps = (uint32_t)in->option_values[OPTION_STEPS],
                                       .pairs = MP_SPLIT_PAIRS};
    return mp_split_route(in, &o, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_split_active = {
    .name = "split-active",
    .summary = "as split, with a charge for every expert that a GPU reads: some replicas get nothing",
    .reference = "TEMPO, KlingAI 2026; docs/STRATEGIES.md",
    .stage = MP_PLAN_ROUTE,
    .is_named_only = true, /* auto tries them on its best placements */
    .options = options,
    .solve = solve};
