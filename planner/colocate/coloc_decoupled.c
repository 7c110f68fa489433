/* Aurora's heuristic for unequal GPUs: pairs first, then GPUs.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the largest of what a pair of groups sends or receives; then GPUs.
 * Method    bottleneck matching of groups, then bottleneck matching of pairs and GPUs (planner/colocate/coloc_pairs.c).
 * Bound     none; the paper measures a mean of 1.07 times the optimum.
 * Paper     Aurora, arXiv 2410.17043, section 7.2.
 * Cost      O(n^3) at worst. */
#include "coloc.h"

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t *pair = mp_arena_alloc(g->arena, g->n, sizeof *pair);
    (void)out, (void)outcome;
    enum mp_status status = pair == NULL ? mp_nomem(err, "a pairing") : mp_coloc_pair_bottleneck(g, pair, err);
    return status != MP_OK ? status : mp_coloc_spread_bottleneck(g, pair, on, err);
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_decoupled = {
    .name = "decoupled",
    .summary = "bottleneck matching of groups, then of pairs and GPUs",
    .reference = "Aurora, arXiv 2410.17043, section 7.2",
    .solve = solve};
