/* EPLB's replicas.
 *
 * Decides   which experts get the redundant slots.
 * Minimises max over experts of load / replicas (greedily).
 * Method    one slot each; then each redundant slot goes to the first expert with the largest load / replicas, in
 *           float32.
 * Bound     optimal for that objective without a cap: each step lowers the only quotient that is the maximum.
 * Differs   where replicas of an expert must be on distinct GPUs, no expert gets more replicas than there are GPUs.
 * Paper     DeepSeek EPLB (replicate_experts), github.com/deepseek-ai/EPLB, 2025.
 * Cost      O(E + R log E) per layer with a heap. */
#include "eplb.h"

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    draft->n_copies = p->n_experts + in->n_redundant;
    const struct mp_eplb_shape shape = {
        p->n_experts, draft->n_copies, 1, 1, p->n_gpus, in->needs_distinct ? p->n_gpus : 0};
    struct mp_eplb *w;
    enum mp_status status = mp_eplb_new(&w, &shape, scratch, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++)
        mp_eplb_copies(w, in->load + (size_t)l * p->n_experts, draft->copies + (size_t)l * p->n_slots);
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_eplb = {.name = "eplb",
                                                  .summary =
                                                      "each extra slot to the expert with the largest load per replica",
                                                  .reference = "DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025",
                                                  .stage = MP_PLAN_REPLICATE,
                                                  .solve = solve};
