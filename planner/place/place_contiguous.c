/* Contiguous placement.
 *
 * Decides   expert -> GPU.
 * Minimises nothing; it is the default of vLLM (linear), SGLang and TensorRT-LLM, and the baseline of every
 *           comparison.
 * Method    the list of copies is cut into n_gpus consecutive parts; the first (n_copies mod n_gpus) GPUs get one
 *           more. GPUs with fewer slots than that get what they have slots for, and the others share the rest.
 * Differs   where a cut would put two replicas of an expert on one GPU, the later one goes to the next GPU that can
 *           take it.
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
    uint32_t *quota = mp_arena_alloc(scratch, p->n_gpus, sizeof *quota);
    if (quota == NULL)
        return mp_nomem(err, "placing experts");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_grid_quota(grid, mp_draft_n(draft, l), quota);
        const uint16_t *copy = draft->copies + (size_t)l * p->n_slots;
        mp_grid_begin(grid, p, l);
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t i = 0; i < quota[g]; i++)
                if (!mp_grid_put_from(grid, g, *copy++))
                    return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "contiguous", l);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_contiguous = {.name = "contiguous",
                                                         .summary = "experts in id order, equally many on each GPU",
                                                         .reference = "vLLM --expert-placement-strategy linear",
                                                         .stage = MP_PLAN_PLACE,
                                                         .takes_layers = true,
                                                         .solve = solve};
