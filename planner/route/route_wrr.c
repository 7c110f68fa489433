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

static const struct mp_option options[] = {
    {"printed", "switch", "1: equation 4 as printed, the load of the whole group spread; 0: by its sentence", 0, 0, 1},
    {NULL, NULL, NULL, 0, 0, 0}};

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    draft->plan->route = MP_ROUTE_WEIGHTED;
    *outcome = MP_FOUND;
    return mp_predicted_weights(in, in->option_values != NULL && in->option_values[0] != 0, scratch, draft, err);
}

const struct mp_strategy mp_strategy_route_wrr = {.name = "wrr",
                                                  .summary = "drawn by weights: the busier the GPU, the fewer tokens",
                                                  .reference = "GRACE-MoE, arXiv 2509.25041, section 4.3",
                                                  .stage = MP_PLAN_ROUTE,
                                                  .is_named_only = true,
                                                  .options = options,
                                                  .solve = solve};
