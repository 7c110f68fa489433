/* GRACE's topology-aware choice of replicas.
 *
 * Decides   which replica serves a token: one on the GPU where it starts, else one of its node, else any, several left
 *           drawn with the weights of planner/route/predicted.c (rule tiered).
 * Minimises traffic first, and then what the weights even out.
 * Differs   in its last case the printed algorithm draws with the weights of a list that is not defined there; here
 *           with those of all replicas.
 * Paper     GRACE-MoE, arXiv 2509.25041, section 4.3.
 * Cost      that of the weights. */
#include "predicted.h"

static const struct mp_option options[] = {
    {"printed", "switch", "1: equation 4 as printed, the load of the whole group spread; 0: by its sentence", 0, 0, 1},
    {NULL, NULL, NULL, 0, 0, 0}};

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    draft->plan->route = MP_ROUTE_TIERED;
    *outcome = MP_FOUND;
    return mp_predicted_weights(in, in->option_values != NULL && in->option_values[0] != 0, scratch, draft, err);
}

const struct mp_strategy mp_strategy_route_tar = {.name = "tar",
                                                  .summary = "own GPU, then own node, then anywhere, drawn by weights",
                                                  .reference = "GRACE-MoE, arXiv 2509.25041, section 4.3",
                                                  .stage = MP_PLAN_ROUTE,
                                                  .is_named_only = true,
                                                  .options = options,
                                                  .solve = solve};
