/* No replicas.
 *
 * Decides   which experts get replicas: none; slots beyond one per expert stay empty.
 * Minimises nothing.
 * Method    copies 0 .. E-1.
 * Cost      O(L E). */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)in, (void)budget, (void)scratch, (void)err;
    const struct mp_plan *p = draft->plan;
    draft->n_copies = p->n_experts;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t e = 0; e < p->n_experts; e++)
            draft->copies[(size_t)l * p->n_slots + e] = (uint16_t)e;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_none = {
    .name = "none", .summary = "one slot per expert", .reference = "", .stage = MP_PLAN_REPLICATE, .solve = solve};
