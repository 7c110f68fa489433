/* Routing weights that are missing, of no use, all 0, where they do not belong, or others. */
#include "mutation_parts.h"
#include "support.h"

bool mutate_zero_weights(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    if (layer->slot_weight == NULL)
        return false;
    uint16_t e = layer->slot_expert[filled_slot(p, layer, rng)];
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (layer->slot_expert[s] == e)
            layer->slot_weight[s] = 0;
    return true;
}

bool mutate_no_weights(struct mp_plan *p, struct mp_rng *rng) {
    static const enum mp_route_rule rules[] = {MP_ROUTE_WEIGHTED, MP_ROUTE_TIERED, MP_ROUTE_SOURCED};
    p->route = rules[below(rng, 3)];
    struct mp_plan_layer *layer = any_layer(p, rng);
    layer->slot_weight = NULL;
    layer->slot_weight_by_source = NULL;
    return true;
}

/* A random replicated expert's slots, as a bit for each slot; 0 = there is none. */
static uint64_t replicated(const struct mp_plan *p, const struct mp_plan_layer *layer, struct mp_rng *rng) {
    uint32_t from = below(rng, p->n_slots);
    for (uint32_t i = 0; i < p->n_slots; i++) {
        uint16_t e = layer->slot_expert[(from + i) % p->n_slots];
        uint64_t set = 0;
        if (e == MP_NO_EXPERT || replicas_of(p, layer, e) < 2)
            continue;
        for (uint32_t s = 0; s < p->n_slots && s < 64; s++)
            set |= (uint64_t)(layer->slot_expert[s] == e) << s;
        return set;
    }
    return 0;
}

bool mutate_zero_source_weights(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint64_t set = replicated(p, layer, rng);
    if (layer->slot_weight_by_source == NULL || set == 0 || p->n_slots > 64)
        return false;
    size_t row = (size_t)below(rng, mp_plan_n_classes(p)) * p->n_slots;
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (set >> s & 1)
            layer->slot_weight_by_source[row + s] = 0;
    return true;
}

bool mutate_source_weight_elsewhere(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint32_t s = below(rng, p->n_slots);
    if (layer->slot_weight_by_source == NULL ||
        (layer->slot_expert[s] != MP_NO_EXPERT && replicas_of(p, layer, layer->slot_expert[s]) > 1))
        return false;
    layer->slot_weight_by_source[(size_t)below(rng, mp_plan_n_classes(p)) * p->n_slots + s] = 1;
    return true;
}

bool mutate_unused_source_weights(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    if (layer->slot_weight_by_source == NULL)
        return false;
    p->route = below(rng, 2) ? MP_ROUTE_EVEN : MP_ROUTE_NEAREST;
    return true;
}

bool mutate_unknown_sources(struct mp_plan *p, struct mp_rng *rng) {
    p->route_by = (enum mp_route_by)(MP_N_ROUTE_BY + below(rng, 3));
    return true;
}

/* All tokens of a replicated expert to one of its slots, to the other where that is so already. */
bool mutate_move_source_weight(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint64_t set = replicated(p, layer, rng);
    if (layer->slot_weight_by_source == NULL || set == 0 || p->n_slots > 64)
        return false;
    uint32_t first = (uint32_t)__builtin_ctzll(set), second = (uint32_t)__builtin_ctzll(set & (set - 1));
    uint32_t to = layer->slot_weight_by_source[second] == 0 ? second : first;
    for (uint32_t c = 0; c < mp_plan_n_classes(p); c++)
        for (uint32_t s = 0; s < p->n_slots; s++)
            if (set >> s & 1)
                layer->slot_weight_by_source[(size_t)c * p->n_slots + s] = s == to;
    return p->provenance.has_workload;
}

bool mutate_unused_weights(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    if (layer->slot_weight == NULL)
        return false;
    p->route = MP_ROUTE_EVEN;
    return true;
}
