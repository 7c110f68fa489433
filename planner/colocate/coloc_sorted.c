/* Aurora's case I: the most loaded group of one model with the least loaded of the other.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the largest of what a pair of groups sends or receives; then GPUs.
 * Method    pairs by rank (planner/colocate/coloc_pairs.c), the most loaded pair on the fastest GPU.
 * Bound     optimal for equal GPUs where every group sends what it receives (theorem 6.2).
 * Paper     Aurora, arXiv 2410.17043, theorems 5.1 and 6.2.
 * Cost      O(n log n). */
#include "coloc.h"

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t *pair = mp_arena_alloc(g->arena, g->n, sizeof *pair);
    (void)out, (void)outcome;
    enum mp_status status = pair == NULL ? mp_nomem(err, "a pairing") : mp_coloc_pair_sorted(g, pair, err);
    return status != MP_OK ? status : mp_coloc_spread_sorted(g, pair, on, err);
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_sorted = {
    .name = "sorted",
    .summary = "most loaded with least loaded, sorted onto the GPUs",
    .reference = "Aurora case I, arXiv 2410.17043, theorems 5.1 and 6.2",
    .solve = solve};
