/* The plan in memory: making an empty one, freeing it, and checking that every index in it may be followed. */
#include "plan_text.h"
#include <string.h>

const char *const plan_route_names[MP_N_ROUTE_RULES + 1] = {"even", "nearest", "weighted", "tiered", "sourced", NULL};
const char *const plan_route_by_names[MP_N_ROUTE_BY + 1] = {"gpu", "node", NULL};
static const char *const stage_mode_names[] = {"free", "barrier", "coupled"};

const char *mp_route_rule_name(enum mp_route_rule rule) {
    return (unsigned)rule < MP_N_ROUTE_RULES ? plan_route_names[rule] : "?";
}
const char *mp_route_by_name(enum mp_route_by by) {
    return (unsigned)by < MP_N_ROUTE_BY ? plan_route_by_names[by] : "?";
}

const char *mp_combine_name(enum mp_combine combine) {
    return (unsigned)combine < MP_N_COMBINES ? plan_combine_names[combine] : "?";
}
const char *mp_stage_mode_name(enum mp_stage_mode mode) { return (unsigned)mode < 3 ? stage_mode_names[mode] : "?"; }

/* Strings are never NULL, so that writers and comparisons need no special case. */
static void empty_provenance(struct mp_provenance *v) {
    v->tool = v->trace_sha256 = v->trace_format = v->trace_model = "";
    v->topology = v->topology_sha256 = v->model = v->model_sha256 = "";
    v->place = v->replicate = v->route = v->order = v->strategy = v->options = "";
    v->dispatcher = v->sources = v->selected_on = "";
    v->stopped_by = "done";
    v->is_reproducible = true;
    v->split.categories = "";
    v->matrix.format = v->matrix.sha256 = "";
}

enum mp_status mp_plan_new(struct mp_plan **out, uint32_t n_layers, uint32_t n_experts, uint32_t n_gpus,
                           const uint32_t *slots_per_gpu, struct mp_error *err) {
    *out = NULL;
    if (n_layers == 0 || n_layers > MP_MAX_LAYERS || n_experts == 0 || n_experts > MP_MAX_EXPERTS || n_gpus == 0 ||
        n_gpus > MP_MAX_GPUS)
        return mp_fail(err, MP_EUSAGE, "a plan cannot have %u layers, %u experts and %u GPUs (at most %u, %u and %u)",
                       n_layers, n_experts, n_gpus, MP_MAX_LAYERS, MP_MAX_EXPERTS, MP_MAX_GPUS);
    uint64_t n_slots = 0;
    for (uint32_t g = 0; g < n_gpus; g++)
        n_slots += slots_per_gpu[g];
    if (n_slots == 0 || n_slots > PLAN_MAX_SLOTS)
        return mp_fail(err, MP_EUSAGE, "a plan cannot have %llu slots (1 to %u)", (unsigned long long)n_slots,
                       PLAN_MAX_SLOTS);
    struct mp_arena *arena = mp_arena_new();
    struct mp_plan *p = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *p) : NULL;
    if (p == NULL)
        goto nomem;
    p->arena = arena;
    p->n_layers = n_layers;
    p->n_experts = n_experts;
    p->n_gpus = n_gpus;
    p->n_nodes = 1;
    p->n_slots = (uint32_t)n_slots;
    uint32_t *first = mp_arena_alloc(arena, (size_t)n_gpus + 1, sizeof *first);
    uint32_t *slot_gpu = mp_arena_alloc(arena, p->n_slots, sizeof *slot_gpu);
    p->gpu_first_slot = first;
    p->slot_gpu = slot_gpu;
    p->gpu_node = mp_arena_alloc(arena, n_gpus, sizeof *p->gpu_node);
    p->layers = mp_arena_alloc(arena, n_layers, sizeof *p->layers);
    uint16_t *experts = mp_arena_alloc(arena, (size_t)n_layers * p->n_slots, sizeof *experts);
    if (first == NULL || slot_gpu == NULL || p->gpu_node == NULL || p->layers == NULL || experts == NULL)
        goto nomem;
    for (uint32_t g = 0; g < n_gpus; g++) {
        first[g + 1] = first[g] + slots_per_gpu[g];
        for (uint32_t s = first[g]; s < first[g + 1]; s++)
            slot_gpu[s] = g;
    }
    memset(experts, 0xff, (size_t)n_layers * p->n_slots * sizeof *experts);
    for (uint32_t l = 0; l < n_layers; l++) {
        p->layers[l].layer_id = l;
        p->layers[l].slot_expert = experts + (size_t)l * p->n_slots;
        p->layers[l].order = MP_NONE;
    }
    empty_provenance(&p->provenance);
    *out = p;
    return MP_OK;
nomem:
    mp_arena_free(arena);
    return mp_nomem(err, "making a plan");
}

void mp_plan_free(struct mp_plan *p) {
    if (p != NULL)
        mp_arena_free(p->arena);
}

uint32_t mp_plan_slot_gpu(const struct mp_plan *p, uint32_t slot) { return p->slot_gpu[slot]; }

uint32_t mp_plan_n_classes(const struct mp_plan *p) { return p->route_by == MP_ROUTE_BY_NODE ? p->n_nodes : p->n_gpus; }
uint32_t mp_plan_class(const struct mp_plan *p, uint32_t source) {
    return p->route_by == MP_ROUTE_BY_NODE ? p->gpu_node[source] : source;
}

enum mp_status mp_plan_source_weights(struct mp_plan *p, enum mp_route_by by, struct mp_error *err) {
    p->route = MP_ROUTE_SOURCED;
    p->route_by = by;
    size_t cells = (size_t)mp_plan_n_classes(p) * p->n_slots;
    if (cells * p->n_layers > MP_MAX_ROUTE_CELLS)
        return mp_fail(err, MP_ELIMIT,
                       "weights for %u layers, %u classes of sources and %u slots are more than %llu numbers (write "
                       "weights by node, or another rule)",
                       p->n_layers, mp_plan_n_classes(p), p->n_slots, (unsigned long long)MP_MAX_ROUTE_CELLS);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        p->layers[l].slot_weight = NULL;
        p->layers[l].slot_weight_by_source = mp_arena_alloc(p->arena, cells, sizeof(uint32_t));
        if (p->layers[l].slot_weight_by_source == NULL)
            return mp_nomem(err, "making routing weights");
    }
    return MP_OK;
}

static enum mp_status check_shape(const struct mp_plan *p, struct mp_error *err) {
    if (p->n_layers == 0 || p->n_layers > MP_MAX_LAYERS || p->n_experts == 0 || p->n_experts > MP_MAX_EXPERTS ||
        p->n_gpus == 0 || p->n_gpus > MP_MAX_GPUS || p->n_nodes == 0 || p->n_nodes > p->n_gpus || p->n_slots == 0 ||
        p->n_slots > PLAN_MAX_SLOTS)
        return mp_fail(err, MP_EINPUT,
                       "plan: shape: %u layers, %u experts, %u GPUs, %u nodes, %u slots are out of range", p->n_layers,
                       p->n_experts, p->n_gpus, p->n_nodes, p->n_slots);
    if (p->gpu_first_slot[0] != 0 || p->gpu_first_slot[p->n_gpus] != p->n_slots)
        return mp_fail(err, MP_EINPUT, "plan: shape: the GPUs' slots do not add up to %u", p->n_slots);
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        if (p->gpu_first_slot[g + 1] < p->gpu_first_slot[g] || p->gpu_first_slot[g + 1] > p->n_slots)
            return mp_fail(err, MP_EINPUT, "plan: shape: GPU %u: slots are not in order", g);
        if (p->gpu_node[g] >= p->n_nodes)
            return mp_fail(err, MP_EINPUT, "plan: shape: GPU %u: node %u of %u", g, p->gpu_node[g], p->n_nodes);
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
            if (p->slot_gpu[s] != g)
                return mp_fail(err, MP_EINPUT, "plan: shape: slot %u is listed on GPU %u, not %u", s, p->slot_gpu[s],
                               g);
    }
    if ((unsigned)p->route >= MP_N_ROUTE_RULES || (unsigned)p->stage_mode > MP_STAGE_COUPLED)
        return mp_fail(err, MP_EINPUT, "plan: shape: unknown route rule %u or stage mode %u", (unsigned)p->route,
                       (unsigned)p->stage_mode);
    if ((unsigned)p->route_by >= MP_N_ROUTE_BY)
        return mp_fail(err, MP_EINPUT, "plan: shape: unknown classes of sources %u", (unsigned)p->route_by);
    if (p->route == MP_ROUTE_SOURCED && (uint64_t)mp_plan_n_classes(p) * p->n_slots * p->n_layers > MP_MAX_ROUTE_CELLS)
        return mp_fail(err, MP_EINPUT, "plan: shape: %u layers of %u classes and %u slots: more than %llu weights",
                       p->n_layers, mp_plan_n_classes(p), p->n_slots, (unsigned long long)MP_MAX_ROUTE_CELLS);
    return MP_OK;
}

static enum mp_status check_layer(const struct mp_plan *p, uint32_t l, struct mp_error *err) {
    const struct mp_plan_layer *layer = &p->layers[l];
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (layer->slot_expert[s] != MP_NO_EXPERT && layer->slot_expert[s] >= p->n_experts)
            return mp_fail(err, MP_EINPUT, "plan: expert-range: layer %u slot %u: expert %u of %u", layer->layer_id, s,
                           layer->slot_expert[s], p->n_experts);
    bool needs_weights = p->route == MP_ROUTE_WEIGHTED || p->route == MP_ROUTE_TIERED;
    if (needs_weights != (layer->slot_weight != NULL))
        return mp_fail(err, MP_EINPUT, "plan: route-weights: layer %u: weights are %s by route rule %s",
                       layer->layer_id, needs_weights ? "needed" : "not used", mp_route_rule_name(p->route));
    bool is_sourced = p->route == MP_ROUTE_SOURCED;
    if (is_sourced != (layer->slot_weight_by_source != NULL))
        return mp_fail(err, MP_EINPUT, "plan: route-weights: layer %u: weights by source are %s by route rule %s",
                       layer->layer_id, is_sourced ? "needed" : "not used", mp_route_rule_name(p->route));
    if ((unsigned)layer->combine >= MP_N_COMBINES)
        return mp_fail(err, MP_EINPUT, "plan: shape: layer %u: unknown way %u of running the combine", layer->layer_id,
                       (unsigned)layer->combine);
    if (layer->order != MP_NONE && layer->order >= p->n_orders)
        return mp_fail(err, MP_EINPUT, "plan: shape: layer %u: order %u of %u", layer->layer_id, layer->order,
                       p->n_orders);
    return MP_OK;
}

static enum mp_status check_order(const struct mp_plan *p, uint32_t o, struct mp_error *err) {
    const struct mp_order *order = &p->orders[o];
    uint32_t n_ends = order->between_nodes ? p->n_nodes : p->n_gpus;
    if (order->unit == 0 || order->ports == 0)
        return mp_fail(err, MP_EINPUT, "plan: order-share: order %u: unit %u, ports %u", o, order->unit, order->ports);
    if (order->has_flush && order->n_stages == 0)
        return mp_fail(err, MP_EINPUT, "plan: order-flush: order %u: a flush among no stages", o);
    for (uint32_t s = 0; s < order->n_stages; s++)
        for (uint32_t i = 0; i < order->stages[s].n; i++) {
            const struct mp_transfer *t = &order->stages[s].transfers[i];
            if (t->src >= n_ends || t->dst >= n_ends)
                return mp_fail(err, MP_EINPUT, "plan: shape: order %u stage %u: transfer %u>%u among %u %s", o, s,
                               t->src, t->dst, n_ends, order->between_nodes ? "nodes" : "GPUs");
            if (t->width == 0)
                return mp_fail(err, MP_EINPUT, "plan: order-port: order %u stage %u: transfer %u>%u of width 0", o, s,
                               t->src, t->dst);
        }
    return MP_OK;
}

enum mp_status mp_plan_check(const struct mp_plan *p, struct mp_error *err) {
    enum mp_status status = check_shape(p, err);
    if (status == MP_OK && p->provenance.has_workload && p->provenance.matrix.is_present)
        status = mp_fail(err, MP_EINPUT, "plan: provenance: planned on a workload and made for a matrix");
    for (uint32_t l = 0; status == MP_OK && l < p->n_layers; l++)
        status = check_layer(p, l, err);
    for (uint32_t o = 0; status == MP_OK && o < p->n_orders; o++)
        status = check_order(p, o, err);
    for (uint32_t i = 0; status == MP_OK && i < p->n_colocations; i++) {
        const struct mp_colocation *c = &p->colocations[i];
        if (c->layer >= p->n_layers || c->expert_a >= p->n_experts || c->gpu >= p->n_gpus)
            status = mp_fail(err, MP_EINPUT, "plan: colocation: entry %u: layer %u, expert %u, GPU %u are out of range",
                             i, c->layer, c->expert_a, c->gpu);
    }
    for (uint32_t i = 0; status == MP_OK && i < p->n_samples; i++)
        if (p->samples[i].step >= p->n_planning_steps)
            status = mp_fail(err, MP_EINPUT, "plan: sample: step %u of %llu", p->samples[i].step,
                             (unsigned long long)p->n_planning_steps);
    if (status == MP_OK)
        status = plan_check_training(p, err);
    if (status == MP_OK)
        status = plan_check_homes(p, err);
    if (status == MP_OK)
        status = plan_check_condense(p, err);
    return status;
}
