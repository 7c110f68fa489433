/* Routing of packed placements: every run of so many consecutive GPUs holds each expert once, and its tokens stay in
 * it. */
#include "plan_text.h"
#include <string.h>

/* where[run][n_experts]: the run's slot of each expert. */
static enum mp_status find_slots(const struct mp_plan *p, uint32_t l, uint32_t group, uint32_t *where,
                                 struct mp_error *err) {
    memset(where, 0xff, (size_t)(p->n_gpus / group) * p->n_experts * sizeof *where);
    for (uint32_t s = 0; s < p->n_slots; s++) {
        const uint16_t e = p->layers[l].slot_expert[s];
        const uint32_t run = p->slot_gpu[s] / group;
        if (e == MP_NO_EXPERT)
            continue;
        uint32_t *slot = &where[(size_t)run * p->n_experts + e];
        if (*slot != MP_NONE)
            return mp_fail(err, MP_EUSAGE, "layer %u: GPUs %u to %u hold expert %u twice, and a group holds each once",
                           p->layers[l].layer_id, run * group, (run + 1) * group - 1, e);
        *slot = s;
    }
    for (uint32_t run = 0; run < p->n_gpus / group; run++)
        for (uint32_t e = 0; e < p->n_experts; e++)
            if (where[(size_t)run * p->n_experts + e] == MP_NONE)
                return mp_fail(err, MP_EUSAGE, "layer %u: GPUs %u to %u do not hold expert %u, and a group holds all",
                               p->layers[l].layer_id, run * group, (run + 1) * group - 1, e);
    return MP_OK;
}

/* Does rule NEAREST send every token to its own run's slot? on_node[n_nodes]: room. */
static bool is_nearest(const struct mp_plan *p, uint32_t group, const uint32_t *where, uint32_t *on_node) {
    const uint32_t n_runs = p->n_gpus / group;
    for (uint32_t e = 0; e < p->n_experts; e++) {
        memset(on_node, 0, p->n_nodes * sizeof *on_node);
        for (uint32_t run = 0; run < n_runs; run++)
            on_node[p->gpu_node[p->slot_gpu[where[(size_t)run * p->n_experts + e]]]]++;
        for (uint32_t g = 0; g < p->n_gpus; g++) {
            const uint32_t own = p->slot_gpu[where[(size_t)(g / group) * p->n_experts + e]], node = p->gpu_node[g];
            if (own != g && n_runs > 1 && (p->gpu_node[own] != node || on_node[node] != 1))
                return false;
        }
    }
    return true;
}

static bool are_nodes_whole(const struct mp_plan *p, uint32_t group) {
    for (uint32_t g = 1; g < p->n_gpus; g++)
        if (p->gpu_node[g] == p->gpu_node[g - 1] && g / group != (g - 1) / group)
            return false;
    return true;
}

enum mp_status mp_plan_route_groups(struct mp_plan *p, uint32_t group, struct mp_error *err) {
    if (group == 0 || p->n_gpus % group != 0)
        return mp_fail(err, MP_EUSAGE, "groups of %u GPUs do not share out %u", group, p->n_gpus);
    const size_t cells = (size_t)(p->n_gpus / group) * p->n_experts;
    uint32_t *where = mp_calloc(cells * p->n_layers, sizeof *where), *on_node = mp_calloc(p->n_nodes, sizeof *on_node);
    enum mp_status status = where == NULL || on_node == NULL ? mp_nomem(err, "routing inside groups") : MP_OK;
    bool is_near = true;
    for (uint32_t l = 0; l < p->n_layers && status == MP_OK; l++) {
        status = find_slots(p, l, group, where + l * cells, err);
        is_near = status == MP_OK && is_near && is_nearest(p, group, where + l * cells, on_node);
    }
    if (status == MP_OK && is_near)
        p->route = MP_ROUTE_NEAREST;
    else if (status == MP_OK)
        status = mp_plan_source_weights(p, are_nodes_whole(p, group) ? MP_ROUTE_BY_NODE : MP_ROUTE_BY_GPU, err);
    for (uint32_t g = 0; g < p->n_gpus && status == MP_OK && !is_near; g++)
        for (uint32_t l = 0; l < p->n_layers; l++)
            for (uint32_t e = 0; e < p->n_experts; e++)
                p->layers[l].slot_weight_by_source[(size_t)mp_plan_class(p, g) * p->n_slots +
                                                   where[l * cells + (size_t)(g / group) * p->n_experts + e]] = 1;
    mp_free(where);
    mp_free(on_node);
    return status;
}
