/* Fixed nearest routing.
 *
 * Decides   which replica serves a token, fixed per (layer, expert, source GPU): one on the source's GPU, else on
 *           its node, else any.
 * Minimises traffic between nodes, at the price of balance.
 * Method    SGLang's `--ep-dispatch-algorithm static` since sglang#9849; the rule is written down at enum
 *           mp_route_rule.
 * Differs   where SGLang draws fairly with random.Random(42), sources take the candidates in turn.
 * Cost      none here; O(L E G) once when a router is made. */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)in, (void)budget, (void)scratch, (void)err;
    draft->plan->route = MP_ROUTE_NEAREST;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_route_nearest = {.name = "nearest",
                                                      .summary =
                                                          "own GPU, then own node, then anywhere; fixed per source",
                                                      .reference = "SGLang --ep-dispatch-algorithm static",
                                                      .stage = MP_PLAN_ROUTE,
                                                      .solve = solve};
