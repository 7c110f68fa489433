/* From the slots a file lists to a plan. */
#include "stack_shared.h"

#include <moeplan/base.h>
#include <stdio.h>

enum mp_status mp_placement_new(struct mp_placement *p, const char *path, uint64_t n_layers, uint64_t n_slots,
                                struct mp_error *err) {
    memset(p, 0, sizeof *p);
    p->path = path;
    if (n_layers == 0 || n_layers > MP_MAX_LAYERS)
        return mp_fail_at(err, n_layers == 0 ? MP_EINPUT : MP_ELIMIT, path, 0, 0,
                          "has %llu layers (1 to %u are possible)", (unsigned long long)n_layers, MP_MAX_LAYERS);
    if (n_slots == 0 || n_slots > STACK_MAX_SLOTS)
        return mp_fail_at(err, n_slots == 0 ? MP_EINPUT : MP_ELIMIT, path, 0, 0,
                          "has %llu slots a layer (1 to %u are possible)", (unsigned long long)n_slots,
                          STACK_MAX_SLOTS);
    p->n_layers = (uint32_t)n_layers;
    p->n_slots = (uint32_t)n_slots;
    p->layer_ids = mp_calloc(n_layers, sizeof *p->layer_ids);
    p->slot_expert = mp_calloc(n_layers * n_slots, sizeof *p->slot_expert);
    p->lines = mp_calloc(n_layers, sizeof *p->lines);
    p->columns = mp_calloc(n_layers, sizeof *p->columns);
    if (p->layer_ids == NULL || p->slot_expert == NULL || p->lines == NULL || p->columns == NULL) {
        mp_placement_free(p);
        return mp_nomem(err, "placement");
    }
    for (uint32_t l = 0; l < p->n_layers; l++)
        p->layer_ids[l] = l;
    memset(p->slot_expert, 0xFF, n_layers * n_slots * sizeof *p->slot_expert);
    return MP_OK;
}

void mp_placement_free(struct mp_placement *p) {
    mp_free(p->layer_ids);
    mp_free(p->slot_expert);
    mp_free(p->slots_per_gpu);
    mp_free(p->lines);
    mp_free(p->columns);
    memset(p, 0, sizeof *p);
}

enum mp_status mp_placement_row(struct mp_placement *p, uint32_t layer, const json_t *list, const struct mp_in *in,
                                const char *where, const char *steps, struct mp_error *err) {
    char place[160];
    if (!json_is_array(list))
        return mp_json_bad(in, steps, err, "%s: is not a list of expert ids", where);
    if (json_array_size(list) != p->n_slots)
        return mp_json_bad(in, steps, err,
                           "%s: has %zu slots where the first layer has %u (every layer needs the same number)", where,
                           json_array_size(list), p->n_slots);
    for (uint32_t s = 0; s < p->n_slots; s++) {
        const json_t *id = json_array_get(list, s);
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < (json_int_t)MP_MAX_EXPERTS) {
            p->slot_expert[(size_t)layer * p->n_slots + s] = (uint16_t)json_integer_value(id);
            continue;
        }
        (void)snprintf(place, sizeof place, "%s/%u", steps, s);
        if (json_is_integer(id))
            return mp_json_bad(in, place, err, "%s: \"%lld\" is not an expert id (slot %u; write 0 to %u)", where,
                               (long long)json_integer_value(id), s, MP_MAX_EXPERTS - 1);
        return mp_json_bad(in, place, err, "%s: slot %u is not a whole number (write the expert's id)", where, s);
    }
    return MP_OK;
}

enum mp_status mp_placement_moe_layers(struct mp_placement *p, const struct mp_stack_options *o, struct mp_error *err) {
    uint32_t base = o->layer_base > 0 ? (uint32_t)o->layer_base : 0;
    const struct mp_model *m = o->model;
    bool fits = m != NULL && m->n_layers == p->n_layers;
    if (m != NULL && m->is_stand_in) { /* the recording's layers: the file's only when they can be all there are */
        fits = fits && m->layer_ids[m->n_layers - 1] - m->layer_ids[0] == m->n_layers - 1;
        if (!fits && o->layer_base < 0)
            return mp_fail_at(
                err, MP_EINPUT, p->path, 0, 0,
                "has %u MoE layers by position, the recording %u from layer %u to %u (give -m MODEL, which "
                "says which layers those are)",
                p->n_layers, m->n_layers, m->layer_ids[0], m->layer_ids[m->n_layers - 1]);
        m = fits ? m : NULL;
    } else if (m != NULL && !fits) {
        return mp_fail_at(err, MP_EINPUT, p->path, 0, 0,
                          "has %u MoE layers, %s has %u (use the placement of this model)", p->n_layers, m->name,
                          m->n_layers);
    }
    if (m == NULL && base >= MP_MAX_LAYERS)
        return mp_fail(err, MP_EUSAGE, "layer base %u is not a layer (give --layer-base below %u)", base,
                       MP_MAX_LAYERS);
    for (uint32_t l = 0; l < p->n_layers; l++)
        p->layer_ids[l] = m != NULL ? m->layer_ids[l] : base + l;
    return MP_OK;
}

static enum mp_status bad_layer(const struct mp_placement *p, uint32_t l, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(4, 5);
static enum mp_status bad_layer(const struct mp_placement *p, uint32_t l, struct mp_error *err, const char *fmt, ...) {
    char message[512], steps[96];
    uint64_t line = p->lines[l], column = p->columns[l];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (p->json != NULL) {
        (void)snprintf(steps, sizeof steps, "%s/%u", p->json_rows, p->json_by_layer_id ? p->layer_ids[l] : l);
        (void)mp_json_position((const char *)p->json->data, p->json->size, steps, &line, &column);
    }
    return mp_fail_at(err, MP_EINPUT, p->path, line, column, "%s", message);
}

/* Ids in range and every expert present. */
static enum mp_status check_experts(const struct mp_placement *p, uint32_t n_experts, const char *how_many,
                                    struct mp_error *err) {
    uint32_t *copies = mp_calloc(n_experts, sizeof *copies);
    enum mp_status status = copies == NULL ? mp_nomem(err, "placement check") : MP_OK;
    for (uint32_t l = 0; l < p->n_layers && status == MP_OK; l++) {
        const uint16_t *row = p->slot_expert + (size_t)l * p->n_slots;
        memset(copies, 0, n_experts * sizeof *copies);
        for (uint32_t s = 0; s < p->n_slots && status == MP_OK; s++) {
            if (row[s] == MP_NO_EXPERT)
                continue;
            if (row[s] >= n_experts)
                status = bad_layer(p, l, err, "layer %u: slot %u holds expert %u, but there are %u experts (%s)",
                                   p->layer_ids[l], s, row[s], n_experts, how_many);
            else
                copies[row[s]]++;
        }
        for (uint32_t e = 0; e < n_experts && status == MP_OK; e++)
            if (copies[e] == 0)
                status = bad_layer(p, l, err, "layer %u: expert %u of %u has no slot (give every expert at least one)",
                                   p->layer_ids[l], e, n_experts);
    }
    mp_free(copies);
    return status;
}

static bool has_duplicates(const struct mp_plan *p) { return mp_stack_duplicates(p) > 0; }

enum mp_status mp_placement_plan(struct mp_plan **out, const struct mp_placement *p, const struct mp_stack_options *o,
                                 const char *stack, struct mp_error *err) {
    *out = NULL;
    uint32_t n_gpus = p->n_gpus != 0 ? p->n_gpus : o->n_gpus;
    if (n_gpus == 0)
        return mp_fail(err, MP_EUSAGE,
                       "%s: a %s placement does not say how many GPUs it is for (give --gpus N, or the topology)",
                       p->path, stack);
    if (o->n_gpus != 0 && o->n_gpus != n_gpus)
        return mp_fail_at(err, MP_EINPUT, p->path, 0, 0, "is for %u GPUs, not for %u (use a topology of %u GPUs)",
                          n_gpus, o->n_gpus, n_gpus);
    if (n_gpus > MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, p->path, 0, 0, "is for %u GPUs, more than %u", n_gpus, MP_MAX_GPUS);
    if (p->slots_per_gpu == NULL && p->n_slots % n_gpus != 0)
        return bad_layer(p, 0, err,
                         "%u slots a layer do not divide among %u GPUs (use %u slots, or another number of GPUs)",
                         p->n_slots, n_gpus, (p->n_slots / n_gpus + 1) * n_gpus);
    uint32_t n_nodes = o->n_nodes == 0 ? 1 : o->n_nodes;
    if (n_gpus % n_nodes != 0)
        return mp_fail(err, MP_EUSAGE, "%s: %u GPUs do not divide among %u nodes", p->path, n_gpus, n_nodes);
    uint32_t n_experts = o->n_experts != 0 ? o->n_experts : o->model != NULL ? o->model->n_experts : p->n_experts;
    const char *how_many = o->n_experts != 0 ? "--experts" : o->model != NULL ? o->model->name : "the largest id + 1";
    if (p->n_experts != 0)
        how_many = o->n_experts == 0 && o->model == NULL ? "the file's own number" : how_many;
    if (p->n_experts != 0 && n_experts != p->n_experts)
        return mp_fail_at(err, MP_EINPUT, p->path, 0, 0, "has %u experts, not %u (%s)", p->n_experts, n_experts,
                          how_many);
    if (n_experts == 0)
        for (size_t i = 0; i < (size_t)p->n_layers * p->n_slots; i++)
            if (p->slot_expert[i] != MP_NO_EXPERT && p->slot_expert[i] >= n_experts)
                n_experts = p->slot_expert[i] + 1u;
    if (n_experts == 0 || n_experts > MP_MAX_EXPERTS)
        return mp_fail_at(err, MP_EINPUT, p->path, 0, 0, "has %u experts (1 to %u are possible)", n_experts,
                          MP_MAX_EXPERTS);
    enum mp_status status = check_experts(p, n_experts, how_many, err);
    if (status != MP_OK)
        return status;

    struct mp_plan *plan = NULL;
    uint32_t *slots = mp_calloc(n_gpus, sizeof *slots);
    if (slots == NULL)
        return mp_nomem(err, "placement");
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = p->slots_per_gpu != NULL ? p->slots_per_gpu[g] : p->n_slots / n_gpus;
    status = mp_plan_new(&plan, p->n_layers, n_experts, n_gpus, slots, err);
    mp_free(slots);
    if (status != MP_OK)
        return status;
    uint32_t *node = mp_arena_alloc(plan->arena, n_gpus, sizeof *node);
    if (node == NULL || plan->n_slots != p->n_slots) {
        status = node == NULL ? mp_nomem(err, "placement") : mp_fail(err, MP_EBUG, "plan of %u slots", plan->n_slots);
        mp_plan_free(plan);
        return status;
    }
    for (uint32_t g = 0; g < n_gpus; g++)
        node[g] = g / (n_gpus / n_nodes);
    plan->gpu_node = node;
    plan->n_nodes = n_nodes;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        plan->layers[l].layer_id = p->layer_ids[l];
        memcpy(plan->layers[l].slot_expert, p->slot_expert + (size_t)l * p->n_slots,
               p->n_slots * sizeof *p->slot_expert);
        plan->layers[l].order = MP_NONE;
    }
    plan->route = MP_ROUTE_EVEN;
    plan->allow_same_gpu_replicas = has_duplicates(plan);
    plan->provenance.place = stack;
    plan->provenance.strategy = "imported";
    plan->provenance.route = mp_route_rule_name(MP_ROUTE_EVEN);
    plan->provenance.is_reproducible = true;
    plan->provenance.has_workload = false;
    *out = plan;
    return MP_OK;
}
