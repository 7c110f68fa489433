/* Single shot.
 *
 * Decides   the order of transfers: none; every layer's all-to-all is one launch with all flows at once.
 * Minimises launches. Where one port is much hotter than the others no order can gain much on it (DESIGN.md part 3).
 * Cost      none. */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)in, (void)budget, (void)scratch, (void)err;
    for (uint32_t l = 0; l < draft->plan->n_layers; l++)
        draft->plan->layers[l].order = MP_NONE;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_order_single = {.name = "single",
                                                     .summary = "all transfers at once, one launch",
                                                     .reference =
                                                         "ncclGroupStart / ncclGroupEnd around all sends and receives",
                                                     .stage = MP_PLAN_ORDER,
                                                     .solve = solve};
