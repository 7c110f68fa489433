/* GRACE's weighted choice of replicas ("weighted round robin").
 *
 * Decides   which replica serves a token: drawn by its hash with the weights of planner/route/predicted.c, wherever it
 *           starts (rule weighted).
 * Minimises nothing; the busy GPU of an expert gets fewer of its tokens.
 * Differs   the paper draws at random for each token; here a hash of the token decides, so that simulator and executor
 *           agree.
 * Paper     GRACE-MoE, arXiv 2509.25041, section 4.3.
 * Cost      that of the weights. */
#include "predicted.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    return mp_predicted_route(in, MP_ROUTE_WEIGHTED, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_wrr = {.name = "wrr",
                                                  .summary = "drawn by weights: the busier the GPU, the fewer tokens",
                                                  .reference = "GRACE-MoE, arXiv 2509.25041, section 4.3",
                                                  .stage = MP_PLAN_ROUTE,
                                                  .is_named_only = true,
                                                  .options = mp_predicted_options,
                                                  .solve = solve};
