/* Replicas without looking at loads: slot s holds expert s mod E.
 *
 * Decides   which experts get replicas: 0, 1, 2, ... in id order, again from 0 when there are more.
 * Minimises nothing; it is what serving stacks start with before they have measured anything.
 * Method    SGLang's `--init-expert-location trivial` and vLLM's initial mapping with redundant experts.
 * Cost      O(L S) for S slots. */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget, (void)scratch, (void)err;
    const struct mp_plan *p = draft->plan;
    draft->n_copies = p->n_experts + in->n_redundant;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t i = 0; i < draft->n_copies; i++)
            draft->copies[(size_t)l * p->n_slots + i] = (uint16_t)(i % p->n_experts);
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_cycle = {.name = "cycle",
                                                   .summary = "extra slots repeat experts 0, 1, 2, ...",
                                                   .reference = "SGLang --init-expert-location trivial",
                                                   .stage = MP_PLAN_REPLICATE,
                                                   .solve = solve};
