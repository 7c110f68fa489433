/* Aurora's case II: the pairing whose most loaded pair has least.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the largest of what a pair of groups sends or receives; then GPUs.
 * Method    bottleneck matching (planner/colocate/coloc_pairs.c), the most loaded pair on the fastest GPU.
 * Bound     optimal for equal GPUs, by the largest sum that a port takes.
 * Paper     Aurora, arXiv 2410.17043, section 6.2.
 * Cost      O(n^3) at worst. */
#include "coloc.h"

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t *pair = mp_arena_alloc(g->arena, g->n, sizeof *pair);
    (void)out, (void)outcome;
    enum mp_status status = pair == NULL ? mp_nomem(err, "a pairing") : mp_coloc_pair_bottleneck(g, pair, err);
    return status != MP_OK ? status : mp_coloc_spread_sorted(g, pair, on, err);
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_bottleneck = {
    .name = "bottleneck",
    .summary = "bottleneck matching of groups, sorted onto the GPUs",
    .reference = "Aurora case II, arXiv 2410.17043, section 6.2",
    .solve = solve};
