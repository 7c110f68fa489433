/* What the ways of breaking a plan share. */
#ifndef MUTATION_PARTS_H
#define MUTATION_PARTS_H

#include "mutations.h"

static inline uint32_t below(struct mp_rng *rng, uint64_t n) { return (uint32_t)mp_rng_below(rng, n); }

static inline struct mp_plan_layer *any_layer(struct mp_plan *p, struct mp_rng *rng) {
    return &p->layers[below(rng, p->n_layers)];
}

static inline uint32_t filled_slot(struct mp_plan *p, const struct mp_plan_layer *layer, struct mp_rng *rng) {
    uint32_t s;
    do
        s = below(rng, p->n_slots);
    while (layer->slot_expert[s] == MP_NO_EXPERT);
    return s;
}

static inline uint32_t replicas_of(const struct mp_plan *p, const struct mp_plan_layer *layer, uint16_t e) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        n += layer->slot_expert[s] == e;
    return n;
}

/* mutations_weights.c */
bool mutate_zero_weights(struct mp_plan *p, struct mp_rng *rng);
bool mutate_no_weights(struct mp_plan *p, struct mp_rng *rng);
bool mutate_unused_weights(struct mp_plan *p, struct mp_rng *rng);
bool mutate_zero_source_weights(struct mp_plan *p, struct mp_rng *rng);
bool mutate_source_weight_elsewhere(struct mp_plan *p, struct mp_rng *rng);
bool mutate_unused_source_weights(struct mp_plan *p, struct mp_rng *rng);
bool mutate_unknown_sources(struct mp_plan *p, struct mp_rng *rng);
bool mutate_move_source_weight(struct mp_plan *p, struct mp_rng *rng);

#endif
