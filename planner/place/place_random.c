/* Random placement.
 *
 * Decides   expert -> GPU.
 * Minimises nothing: what luck gives, the zero line of a comparison.
 * Method    per layer a Fisher-Yates shuffle of the copies (xoshiro256** seeded by seed and layer), cut as
 *           contiguous does; experts ascending inside a GPU.
 * Cost      O(L (S log S + G)). */
#include "grid.h"
#include <moeplan/base.h>

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    uint32_t *shuffled = mp_arena_alloc(scratch, draft->n_copies, sizeof *shuffled);
    if (shuffled == NULL)
        return mp_nomem(err, "placing experts at random");
    uint32_t *quota = mp_arena_alloc(scratch, p->n_gpus, sizeof *quota);
    if (quota == NULL)
        return mp_nomem(err, "placing experts");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        struct mp_rng rng = mp_rng_seed(in->seed ^ mp_mix64(l));
        const uint32_t n = mp_draft_n(draft, l);
        mp_grid_quota(grid, n, quota);
        for (uint32_t i = 0; i < n; i++)
            shuffled[i] = draft->copies[(size_t)l * p->n_slots + i];
        mp_rng_shuffle(&rng, shuffled, n);
        mp_grid_begin(grid, p, l);
        const uint32_t *copy = shuffled;
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t i = 0; i < quota[g]; i++)
                if (!mp_grid_put_from(grid, g, *copy++))
                    return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "random", l);
        mp_grid_sort(grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_random = {
    .name = "random",
    .summary = "seeded shuffle, cut evenly",
    .reference = "",
    .stage = MP_PLAN_PLACE,
    .takes_layers = true,
    .solve = solve};
