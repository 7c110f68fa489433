/* EPLB's placement, global policy.
 *
 * Decides   expert -> GPU.
 * Minimises max over GPUs of the summed load / replicas (greedily).
 * Method    balanced packing: heaviest replica first, to the lightest GPU with room; float32, ties to the lower
 *           index.
 * Differs   as published two replicas of an expert may meet on one GPU; where the problem needs them distinct, each
 *           duplicate changes places with the slot of nearest load elsewhere. Declines unless the copies divide by
 *           the GPUs, as the original asserts, and every GPU has memory for its share.
 * Paper     DeepSeek EPLB (balanced_packing), github.com/deepseek-ai/EPLB, 2025.
 * Cost      O(L S log S); the repair O(S) per duplicate. */
#include "eplb.h"
#include <string.h>

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    uint32_t n = draft->n_copies;
    if (mp_draft_varies(draft))
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "eplb: layers have different numbers of replicas, and EPLB "
                          "needs equally many (use place lpt)");
    if (n % p->n_gpus != 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "eplb: %u slots do not divide by %u GPUs, which EPLB as published needs (use --redundant %u, "
                          "or strategy lpt)",
                          n, p->n_gpus, in->n_redundant + p->n_gpus - n % p->n_gpus);
    if (!mp_eplb_has_room(p, n))
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, MP_EPLB_NO_ROOM, "eplb", n / p->n_gpus);
    const struct mp_eplb_shape shape = {p->n_experts, n, 1, 1, p->n_gpus, 0};
    struct mp_eplb *w;
    enum mp_status status = mp_eplb_new(&w, &shape, scratch, err);
    if (status != MP_OK)
        return status;
    uint16_t *phy2log = mp_arena_alloc(scratch, n, sizeof *phy2log);
    if (phy2log == NULL)
        return mp_nomem(err, "EPLB");
    uint32_t per_gpu = n / p->n_gpus;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint64_t *load = in->load + (size_t)l * p->n_experts;
        mp_eplb_pack_copies(w, load, draft->copies + (size_t)l * p->n_slots, phy2log);
        if (in->needs_distinct)
            mp_eplb_make_distinct(w, load, phy2log);
        for (uint32_t g = 0; g < p->n_gpus; g++)
            memcpy(p->layers[l].slot_expert + p->gpu_first_slot[g], phy2log + g * per_gpu, per_gpu * sizeof *phy2log);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_eplb = {.name = "eplb",
                                                   .summary = "EPLB's balanced packing of replicas onto GPUs",
                                                   .reference = "DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025",
                                                   .stage = MP_PLAN_PLACE,
                                                   .solve = solve};
