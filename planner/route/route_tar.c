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

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    return mp_predicted_route(in, MP_ROUTE_TIERED, scratch, draft, outcome, err);
}

const struct mp_strategy mp_strategy_route_tar = {.name = "tar",
                                                  .summary = "own GPU, then own node, then anywhere, drawn by weights",
                                                  .reference = "GRACE-MoE, arXiv 2509.25041, section 4.3",
                                                  .stage = MP_PLAN_ROUTE,
                                                  .is_named_only = true,
                                                  .options = mp_predicted_options,
                                                  .solve = solve};
