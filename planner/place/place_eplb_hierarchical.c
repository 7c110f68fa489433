/* EPLB's hierarchical policy.
 *
 * Decides   expert -> node -> replicas -> GPU. Does its own replication: of the replicate stage it takes only the
 *           number of copies.
 * Minimises max over GPUs of the summed load / replicas (greedily), with each expert group on one node.
 * Method    groups of the model (group-limited routing) to nodes by balanced packing, then EPLB's replication and
 *           packing inside each node.
 * Differs   as published, groups that do not divide by the nodes mean the global policy. GPUs of a node need not be
 *           numbered in a row here. Distinct replicas, where needed, by the same exchange as in place_eplb, inside
 *           the node. Declines unless the nodes have equally many GPUs, groups divide the experts and slots divide
 *           by the GPUs.
 * Paper     DeepSeek EPLB (rebalance_experts_hierarchical), github.com/deepseek-ai/EPLB, 2025.
 * Cost      O(L S log S). */
#include "eplb.h"
#include <string.h>

/* GPUs by ascending (node, index); NULL when the nodes differ in size. */
static uint32_t *gpus_by_node(const struct mp_plan *p, struct mp_arena *scratch, bool *is_even) {
    uint32_t *gpus = mp_arena_alloc(scratch, p->n_gpus, sizeof *gpus), n = 0;
    *is_even = true;
    if (gpus == NULL)
        return NULL;
    for (uint32_t node = 0; node < p->n_nodes; node++) {
        for (uint32_t g = 0; g < p->n_gpus; g++)
            if (p->gpu_node[g] == node)
                gpus[n++] = g;
        *is_even &= (uint64_t)n * p->n_nodes == (uint64_t)(node + 1) * p->n_gpus;
    }
    return gpus;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    uint32_t n = draft->n_copies, n_groups = in->model->n_groups;
    bool is_even;
    uint32_t *gpus = gpus_by_node(p, scratch, &is_even);
    uint16_t *phy2log = mp_arena_alloc(scratch, n, sizeof *phy2log), *rank = mp_arena_alloc(scratch, n, sizeof *rank);
    uint16_t *count = mp_arena_alloc(scratch, p->n_experts, sizeof *count);
    if (gpus == NULL || phy2log == NULL || rank == NULL || count == NULL)
        return mp_nomem(err, "EPLB");
    if (n % p->n_gpus != 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "eplb-hierarchical: %u slots do not divide by %u GPUs, which EPLB as published needs (use "
                          "--redundant %u, or strategy lpt)",
                          n, p->n_gpus, in->n_redundant + p->n_gpus - n % p->n_gpus);
    if (!mp_eplb_has_room(p, n))
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, MP_EPLB_NO_ROOM, "eplb-hierarchical", n / p->n_gpus);
    bool is_global = n_groups == 0 || n_groups % p->n_nodes != 0;
    if (!is_global && !is_even)
        return mp_decline(
            err, outcome, MP_NOT_APPLICABLE,
            "eplb-hierarchical: %u GPUs are not spread evenly over %u nodes (use strategy eplb or lpt-replicated)",
            p->n_gpus, p->n_nodes);
    if (!is_global && p->n_experts % n_groups != 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "eplb-hierarchical: the model's %u groups do not divide its %u experts (use eplb)", n_groups,
                          p->n_experts);
    uint32_t n_reach = is_global ? p->n_gpus : p->n_gpus / p->n_nodes;
    uint32_t n_mates = is_global ? p->n_experts : p->n_experts / p->n_nodes;
    if (in->needs_distinct && (uint64_t)n / (is_global ? 1 : p->n_nodes) > (uint64_t)n_mates * n_reach)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "eplb-hierarchical: %u slots are more than one per expert and GPU (use less --redundant)", n);
    const struct mp_eplb_shape shape = {p->n_experts,
                                        n,
                                        is_global ? 1 : n_groups,
                                        is_global ? 1 : p->n_nodes,
                                        p->n_gpus,
                                        in->needs_distinct ? n_reach : 0};
    struct mp_eplb *w;
    enum mp_status status = mp_eplb_new(&w, &shape, scratch, err);
    if (status != MP_OK)
        return status;
    uint32_t per_gpu = n / p->n_gpus;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint64_t *load = in->load + (size_t)l * p->n_experts;
        mp_eplb_layer(w, load, phy2log, rank, count);
        if (in->needs_distinct)
            mp_eplb_make_distinct(w, load, phy2log);
        for (uint32_t i = 0; i < p->n_gpus; i++) {
            uint32_t g = is_global ? i : gpus[i];
            memcpy(p->layers[l].slot_expert + p->gpu_first_slot[g], phy2log + i * per_gpu, per_gpu * sizeof *phy2log);
        }
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_eplb_hierarchical = {
    .name = "eplb-hierarchical",
    .summary = "EPLB with expert groups packed to nodes first",
    .reference = "DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025",
    .stage = MP_PLAN_PLACE,
    .solve = solve};
