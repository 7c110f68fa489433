/* Even routing.
 *
 * Decides   which replica serves a token: candidate (hash of the token) mod n, the same share to each.
 * Minimises nothing; it is what EPLB assumes when it divides an expert's load by its replicas.
 * Cost      none. */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)in, (void)budget, (void)scratch, (void)err;
    draft->plan->route = MP_ROUTE_EVEN;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_route_even = {.name = "even",
                                                   .summary = "every replica gets the same share of the tokens",
                                                   .reference = "DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025",
                                                   .stage = MP_PLAN_ROUTE,
                                                   .solve = solve};
