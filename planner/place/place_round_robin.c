/* Round-robin placement.
 *
 * Decides   expert -> GPU.
 * Minimises nothing; vLLM's `round_robin`, meant for models with expert groups, whose neighbours are hot together.
 * Method    copy i goes to GPU i mod n_gpus.
 * Differs   where that GPU has the expert already, the copy goes to the next GPU that can take it.
 * Cost      O(L (S + G)). */
#include "grid.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint16_t *copies = draft->copies + (size_t)l * p->n_slots;
        mp_grid_begin(grid, p, l);
        for (uint32_t i = 0; i < mp_draft_n(draft, l); i++)
            if (!mp_grid_put_from(grid, i % p->n_gpus, copies[i]))
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "round-robin", l);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_round_robin = {.name = "round-robin",
                                                          .summary = "expert e on GPU e mod n",
                                                          .reference = "vLLM --expert-placement-strategy round_robin",
                                                          .stage = MP_PLAN_PLACE,
                                                          .takes_layers = true,
                                                          .solve = solve};
