/* Colocation by chance: Aurora's baselines REC (random pairs) and RGA (random GPUs) together.
 *
 * Decides   the GPU of each group of both models.
 * Minimises nothing.
 * Method    one shuffle for each model, seeded.
 * Bound     none.
 * Paper     arXiv 2410.17043 section 8.1.
 * Cost      O(n). */
#include "coloc.h"
#include <moeplan/base.h>

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_rng rng = mp_rng_seed(g->in->seed);
    (void)out, (void)outcome, (void)err;
    for (int m = 0; m < 2; m++) {
        for (uint32_t x = 0; x < g->n; x++)
            on[m][x] = x;
        mp_rng_shuffle(&rng, on[m], g->n);
    }
    return MP_OK;
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_random = {.name = "random",
                                                           .summary = "random groups on random GPUs",
                                                           .reference = "Aurora section 8.1, REC and RGA",
                                                           .solve = solve};
