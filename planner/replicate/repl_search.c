/* Replicas by the local search that places them.
 *
 * Decides   nothing yet: one copy of each expert, and that the place stage may add up to n_redundant replicas.
 * Minimises what the place stage minimises.
 * Method    planner/place/joint.c, called by place search.
 * Bound     never worse than no replicas, nor than EPLB's, on the steps that the search looks at.
 * Differs   from replicating first and placing afterwards: what a replica is worth depends on where it stands.
 * Cost      O(L E) here. */
#include "planner.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget, (void)scratch, (void)err;
    const struct mp_plan *p = draft->plan;
    draft->n_copies = p->n_experts;
    draft->is_open = draft->by_rule = in->n_redundant > 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t e = 0; e < p->n_experts; e++)
            draft->copies[(size_t)l * p->n_slots + e] = (uint16_t)e;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_search = {.name = "search",
                                                    .summary = "as the search that places them finds it fastest",
                                                    .reference = "docs/STRATEGIES.md",
                                                    .stage = MP_PLAN_REPLICATE,
                                                    .solve = solve};
