/* A placement that was decided elsewhere, for the driver to prove and have verified.
 *
 * Decides   nothing: expert e of layer l goes to GPU given[l][e], into its lowest free slot, experts ascending; or
 * every slot is that of given_slots, replicas and all.
 * Minimises nothing.
 * Method    copying.
 * Bound     none.
 * Paper     none.
 * Cost      O(slots) per layer. */
#include "planner.h"
#include <string.h>

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_plan *p = draft->plan, *from = in->given_slots;
    (void)budget, (void)scratch;
    *outcome = MP_FOUND;
    if (from != NULL) {
        if (from->n_layers != p->n_layers || from->n_gpus != p->n_gpus || from->n_slots != p->n_slots ||
            memcmp(from->gpu_first_slot, p->gpu_first_slot, (p->n_gpus + 1) * sizeof *p->gpu_first_slot) != 0)
            return mp_decline(err, outcome, MP_NOT_FOUND, "the placement that was given has other slots (%u, not %u)",
                              from->n_slots, p->n_slots);
        for (uint32_t l = 0; l < p->n_layers; l++)
            memcpy(p->layers[l].slot_expert, from->layers[l].slot_expert, p->n_slots * sizeof(uint16_t));
        return MP_OK;
    }
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t e = 0; e < p->n_experts; e++) {
            const uint32_t gpu = in->given[(size_t)l * p->n_experts + e];
            uint32_t slot = gpu < p->n_gpus ? p->gpu_first_slot[gpu] : 0;
            const uint32_t end = gpu < p->n_gpus ? p->gpu_first_slot[gpu + 1] : 0;
            while (slot < end && p->layers[l].slot_expert[slot] != MP_NO_EXPERT)
                slot++;
            if (slot == end)
                return mp_decline(err, outcome, MP_NOT_FOUND, "layer %u: GPU %u has no slot left for expert %u",
                                  p->layers[l].layer_id, gpu, e);
            p->layers[l].slot_expert[slot] = (uint16_t)e;
        }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_place_given = {
    .name = "given", .summary = "as decided elsewhere", .reference = "moeplan", .stage = MP_PLAN_PLACE, .solve = solve};
