/* Copies where the replicate stage counted on them.
 *
 * Decides   nothing: expert -> GPU is what the replicate stage has worked out.
 * Minimises nothing.
 * Method    for replicate strategies whose replicas are worth something only beside or far from certain others (grace,
 *           craft, bundle).
 * Cost      O(L S). */
#include "grid.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    if (!draft->has_wish)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "kept: the replicate stage does not say where copies go (write --replicate craft or "
                          "bundle, or another --place)");
    enum mp_status status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_grid_begin(grid, p, l);
        for (size_t i = (size_t)l * p->n_slots; i < (size_t)l * p->n_slots + mp_draft_n(draft, l); i++)
            if (!mp_grid_put_from(grid, draft->wish[i], draft->copies[i]))
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "kept", l);
        mp_grid_sort(grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_kept = {.name = "kept",
                                                   .summary = "where the replicate stage counted on them",
                                                   .reference = "docs/STRATEGIES.md",
                                                   .stage = MP_PLAN_PLACE,
                                                   .is_named_only = true,
                                                   .takes_layers = true,
                                                   .solve = solve};
