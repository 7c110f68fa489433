/* moeplan's own colocation: local search over pairs and GPUs together.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the problem's objective.
 * Method    planner/colocate/coloc_local.c.
 * Bound     never above what sorted, bottleneck and decoupled reach, where the work limit leaves time to look at them.
 * Paper     none.
 * Cost      work_limit evaluations, 20,000 by default, fewer on many GPUs with shared ports. */
#include "coloc.h"

#define EVALUATIONS 20000u

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    uint64_t value;
    const uint64_t usual = g->is_separable ? EVALUATIONS : EVALUATIONS / (1 + (uint64_t)g->n * g->n / 256);
    const uint64_t limit = g->in->work_limit > 0 ? g->in->work_limit : usual;
    (void)outcome;
    return mp_coloc_improve(g, on, limit, &value, &out->work_used, err);
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_search = {.name = "search",
                                                           .summary =
                                                               "local search over pairs and GPUs from several starts",
                                                           .reference = "moeplan",
                                                           .solve = solve};
