/* Lina's packing: experts of one model share a GPU, and each model has half of the GPUs.
 *
 * Decides   the GPU of each expert of both models.
 * Minimises the spread of popularity between the GPUs of a model.
 * Method    GPUs are shuffled; the first half of them is the first model's. Its experts, most popular first, are dealt
 *           to them forwards and backwards in turn: with two on a GPU the most popular beside the least.
 * Bound     none.
 * Paper     Lina, USENIX ATC 2023, as the baseline of Aurora, arXiv 2410.17043 section 8.1.
 * Differs   any number of experts; which GPUs are whose is one draw of the seed.
 * Cost      O(sources * experts + experts * log experts). */
#include "coloc.h"
#include "planner.h"
#include <moeplan/base.h>
#include <stdlib.h>

struct popular {
    uint64_t tokens;
    uint32_t expert;
};
static int by_popularity(const void *x, const void *y) {
    const struct popular *a = x, *b = y;
    if (a->tokens != b->tokens)
        return a->tokens > b->tokens ? -1 : 1;
    return a->expert < b->expert ? -1 : a->expert > b->expert;
}

static enum mp_status deal(const struct mp_coloc_problem *in, int m, const uint32_t *gpus, uint32_t n, uint32_t *to,
                           struct mp_error *err) {
    const struct mp_coloc_model *x = &in->model[m];
    const uint32_t sources = x->is_coupled ? x->n_experts : in->topology->n_gpus;
    struct popular *by = mp_calloc(x->n_experts, sizeof *by);
    if (by == NULL)
        return mp_nomem(err, "a packing");
    for (uint32_t e = 0; e < x->n_experts; e++) {
        by[e].expert = e;
        for (uint32_t s = 0; s < sources; s++)
            by[e].tokens += x->tokens[(size_t)s * x->n_experts + e];
    }
    qsort(by, x->n_experts, sizeof *by, by_popularity);
    for (uint32_t k = 0; k < x->n_experts; k++)
        to[by[k].expert] = gpus[k / n % 2 == 0 ? k % n : n - 1 - k % n];
    mp_free(by);
    return MP_OK;
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    const uint32_t n = in->topology->n_gpus;
    struct mp_rng rng = mp_rng_seed(in->seed);
    enum mp_status status = MP_OK;
    if (n < 2)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "one GPU cannot be halved (use two or more)");
    uint32_t *gpus = mp_calloc(n, sizeof *gpus);
    if (gpus == NULL)
        return mp_nomem(err, "a packing");
    for (uint32_t g = 0; g < n; g++)
        gpus[g] = g;
    mp_rng_shuffle(&rng, gpus, n);
    MP_TRY(deal(in, 0, gpus, n / 2, out->gpu[0], err));
    MP_TRY(deal(in, 1, gpus + n / 2, n - n / 2, out->gpu[1], err));
    *outcome = MP_FOUND;
out:
    mp_free(gpus);
    return status;
}

const struct mp_coloc_strategy mp_strategy_coloc_lina = {
    .name = "lina",
    .summary = "experts of one model share a GPU, each model has half of the GPUs",
    .reference = "Lina, USENIX ATC 2023, as in Aurora section 8.1",
    .is_apart = true,
    .solve = solve};
