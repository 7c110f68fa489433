/* Room for two models: slots of every GPU within its memory, together and in shares of the cluster. */
#include "colocate_job.h"
#include <stdio.h>

/* Weights of so many slots a layer on a GPU, saturating. */
uint64_t colocate_weights(const struct side *x, uint64_t slots) {
    const struct mp_model *m = x->s.model;
    uint64_t layers = m->n_layers > x->s.trace->n_layers ? m->n_layers : x->s.trace->n_layers, experts, shared;
    if (mp_mul_overflow(slots * layers, m->expert_bytes, &experts) ||
        mp_mul_overflow(layers, m->shared_bytes, &shared) || mp_add_overflow(experts, shared, &experts) ||
        mp_add_overflow(experts, m->dense_bytes, &experts))
        return UINT64_MAX;
    return experts;
}

uint64_t colocate_memory(const struct mp_topology *t, uint32_t gpu) { return t->types[t->gpus[gpu].type].memory_bytes; }

uint64_t colocate_slots_on(const struct side *x, uint32_t gpu) {
    return x->gpu_slots != NULL ? x->gpu_slots[gpu] : x->slots;
}

/* 64ths of an equal share of both models (of those in `which`) as experts of model m. */
static uint64_t experts_at(const struct job *j, int m, uint64_t level, uint32_t n) {
    return mp_ceil_div(level * j->side[m].s.trace->n_experts, 64 * (uint64_t)n);
}

static bool holds(const struct job *j, unsigned which, uint32_t gpu, uint64_t level, uint32_t n) {
    uint64_t both = 0;
    for (int m = 0; m < 2; m++)
        if ((which >> m & 1) != 0 &&
            mp_add_overflow(both, colocate_weights(&j->side[m], experts_at(j, m, level, n)), &both))
            return false;
    return both <= colocate_memory(j->topology, gpu);
}

/* Every GPU what its memory holds, up to this level. Is it enough? */
static bool deal(const struct job *j, unsigned which, uint32_t first, uint32_t n, uint64_t level, uint32_t *slots[2]) {
    uint64_t sum[2] = {0, 0};
    for (uint32_t g = first; g < first + n; g++) {
        uint64_t fits = 0, most = level + 1; /* fits holds, most does not */
        if (!holds(j, which, g, 0, n))
            return false; /* not even without experts */
        while (most - fits > 1) {
            const uint64_t middle = fits + (most - fits) / 2;
            if (holds(j, which, g, middle, n))
                fits = middle;
            else
                most = middle;
        }
        for (int m = 0; m < 2; m++)
            if ((which >> m & 1) != 0)
                sum[m] += slots[m][g] = (uint32_t)experts_at(j, m, fits, n);
    }
    bool is_enough = true;
    for (int m = 0; m < 2; m++)
        is_enough &= (which >> m & 1) == 0 || sum[m] >= j->side[m].s.trace->n_experts;
    return is_enough;
}

/* Slots of GPUs [first, first + n) for one or both models (which: bit m), when not all have room for equally many:
 * every GPU what its memory holds of both, up to one level for all, the least that is enough. False: no level is. */
static bool share_memory(const struct job *j, unsigned which, uint32_t first, uint32_t n, uint32_t *slots[2]) {
    uint64_t low = 0, high = 64 * (uint64_t)n + 1; /* low is too little, high is enough */
    while (high - low > 1) {
        const uint64_t level = low + (high - low) / 2;
        if (deal(j, which, first, n, level, slots))
            high = level;
        else
            low = level;
    }
    return high <= 64 * (uint64_t)n && deal(j, which, first, n, high, slots);
}

/* NULL: both fit on every GPU. Else says why not. gpu_slots: NULL, or where the strategy keeps the models apart. */
const char *colocate_no_room(const struct job *j, uint32_t *const *gpu_slots, char *buf, size_t size) {
    for (uint32_t g = 0; g < j->topology->n_gpus; g++) {
        char a[32], b[32], c[32];
        uint64_t both, first = colocate_weights(&j->side[0], gpu_slots != NULL ? gpu_slots[0][g]
                                                                               : colocate_slots_on(&j->side[0], g));
        uint64_t second =
            colocate_weights(&j->side[1], gpu_slots != NULL ? gpu_slots[1][g] : colocate_slots_on(&j->side[1], g));
        if (mp_add_overflow(first, second, &both))
            both = UINT64_MAX;
        if (both <= colocate_memory(j->topology, g))
            continue;
        snprintf(buf, size, "the weights of both models do not fit: %s and %s on GPU %u of %s (use more GPUs)",
                 mp_human_bytes((double)first, a), mp_human_bytes((double)second, b), g,
                 mp_human_bytes((double)colocate_memory(j->topology, g), c));
        return buf;
    }
    return NULL;
}

/* Where as many experts on each GPU do not fit: as many as fit each. A note, where that is not enough either. */
enum mp_status colocate_find_room(struct job *j, char *note, size_t size, bool *is_found, struct mp_error *err) {
    const uint32_t n = j->topology->n_gpus;
    uint32_t *slots = mp_arena_alloc(j->arena, 2 * (size_t)n, sizeof *slots);
    uint32_t *of[2] = {slots, slots + n};
    *is_found = colocate_no_room(j, NULL, note, size) == NULL;
    if (slots == NULL)
        return mp_nomem(err, "two models");
    if (*is_found || j->o->slots_per_gpu > 0 || !share_memory(j, 3, 0, n, of))
        return MP_OK;
    for (int m = 0; m < 2; m++)
        j->side[m].gpu_slots = of[m];
    *is_found = true;
    return MP_OK;
}

/* Slots of each GPU in a share: what the colocated layout has on all GPUs, dealt to these, as far as memory goes.
 * False: not even one slot for each expert fits. */
bool colocate_share_fits(struct job *j, struct share *share) {
    for (int m = 0; m < 2; m++) {
        const struct side *x = &j->side[m];
        const uint32_t own = share->n_gpus[m], least = (x->s.trace->n_experts + own - 1) / own;
        const uint32_t all = (x->s.trace->n_experts + j->topology->n_gpus - 1) / j->topology->n_gpus;
        uint32_t slots = least;
        uint64_t memory = UINT64_MAX;
        for (uint32_t g = share->gpu[m]; g < share->gpu[m] + own; g++)
            if (colocate_memory(j->topology, g) < memory)
                memory = colocate_memory(j->topology, g);
        share->slots[m] = least;
        if (colocate_weights(x, least) > memory) {
            share->gpu_slots[m] = mp_arena_alloc(j->arena, j->topology->n_gpus, sizeof *share->gpu_slots[m]);
            if (share->gpu_slots[m] == NULL || j->o->slots_per_gpu > 0 ||
                !share_memory(j, 1u << m, share->gpu[m], own, share->gpu_slots))
                return false;
            continue;
        }
        if (x->slots > all) { /* --slots-per-gpu leaves room */
            const uint64_t most = mp_ceil_div((uint64_t)x->slots * j->topology->n_gpus, own);
            while (slots < most && slots < x->s.trace->n_experts && colocate_weights(x, (uint64_t)slots + 1) <= memory)
                slots++;
        }
        share->slots[m] = slots;
    }
    return true;
}

/* Is the cluster the same counted from its last GPU? */
bool colocate_is_same_backwards(const struct mp_topology *t) {
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct mp_gpu *x = &t->gpus[g], *y = &t->gpus[t->n_gpus - 1 - g];
        if (x->type != y->type || x->speed_ppm != y->speed_ppm)
            return false;
        for (uint32_t l = 0; l < t->n_levels; l++) {
            const struct mp_level *level = &t->levels[l];
            if (x->group[l] + y->group[l] + 1 != level->n_groups ||
                t->resources[x->out_port[l]].bytes_per_s != t->resources[y->out_port[l]].bytes_per_s ||
                t->resources[x->in_port[l]].bytes_per_s != t->resources[y->in_port[l]].bytes_per_s)
                return false;
            if (level->uplink_out != NULL && (t->resources[level->uplink_out[x->group[l]]].bytes_per_s !=
                                                  t->resources[level->uplink_out[y->group[l]]].bytes_per_s ||
                                              t->resources[level->uplink_in[x->group[l]]].bytes_per_s !=
                                                  t->resources[level->uplink_in[y->group[l]]].bytes_per_s))
                return false;
        }
    }
    return true;
}
