/* Does any plan of this shape exist, and how many slots does each GPU get? Says in numbers what to change when not.
 *
 * Decides   slots of every GPU: min(level, what fits its memory), with the least level that gives n_experts +
 *           n_redundant slots in all. On equal GPUs that is ceil(copies / GPUs) on each.
 * Method    the level by bisection. Equal slots where they are asked for (--slots-per-gpu, a stack that needs them).
 * Cost      O(G log E). */
#include "planner.h"
#include <moeplan/base.h>

#define ULL(x) ((unsigned long long)(x))

/* MoE layers that the GPUs hold: the model's, recorded or not; docs/COST.md part 6. */
static uint32_t n_layers_held(const struct mp_problem *p) {
    uint32_t n = p->workload->trace->n_layers;
    return p->model->n_layers > n ? p->model->n_layers : n;
}

/* Weights that every GPU holds whatever its slots: shared experts and dense ones. */
static uint64_t other_weights(const struct mp_problem *p) {
    uint64_t shared, other;
    return mp_mul_overflow(p->model->shared_bytes, n_layers_held(p), &shared) ||
                   mp_add_overflow(shared, p->model->dense_bytes, &other)
               ? UINT64_MAX
               : other;
}

static uint64_t memory_of(const struct mp_problem *p, uint32_t gpu) {
    return p->topology->types[p->topology->gpus[gpu].type].memory_bytes;
}

/* What a GPU's memory leaves for routed experts. */
static uint64_t expert_room(const struct mp_problem *p, uint32_t gpu) {
    uint64_t has = memory_of(p, gpu), other = other_weights(p);
    uint64_t room = has > other ? has - other : 0;
    return p->memory_bytes != 0 && p->memory_bytes < room ? p->memory_bytes : room;
}

/* Slots that fit; never more than experts, since replicas of one gain nothing on one GPU. */
static uint32_t slots_that_fit(const struct mp_problem *p, uint32_t gpu) {
    uint64_t slot_bytes, n_experts = p->workload->trace->n_experts;
    if (mp_mul_overflow(p->model->expert_bytes, n_layers_held(p), &slot_bytes))
        return 0;
    uint64_t fit = slot_bytes > 0 ? expert_room(p, gpu) / slot_bytes : n_experts;
    return (uint32_t)(fit < n_experts ? fit : n_experts);
}

struct room { /* over all GPUs */
    uint64_t total;
    uint32_t least, most, least_gpu, most_gpu;
};

static struct room room_of(const uint32_t *fit, uint32_t n_gpus) {
    struct room r = {.least = fit[0], .most = fit[0]};
    for (uint32_t g = 0; g < n_gpus; g++) {
        r.total += fit[g];
        if (fit[g] < r.least) {
            r.least = fit[g];
            r.least_gpu = g;
        }
        if (fit[g] > r.most) {
            r.most = fit[g];
            r.most_gpu = g;
        }
    }
    return r;
}

/* Too little room. `r` tells how GPUs differ. */
static enum mp_status decline_memory(const struct mp_problem *p, const struct room *r, bool is_equal,
                                     enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t n_layers = n_layers_held(p), n_experts = p->workload->trace->n_experts, n_gpus = p->topology->n_gpus;
    uint32_t g = r->least_gpu;
    uint64_t slot_bytes, need, room = expert_room(p, g), fit = r->least;
    if (mp_mul_overflow(p->model->expert_bytes, n_layers, &slot_bytes) ||
        mp_mul_overflow(slot_bytes, p->slots_per_gpu, &need))
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: %u slots of %u layers are more bytes than can be counted", p->slots_per_gpu,
                          n_layers);
    bool is_uneven = r->least != r->most;
    uint64_t usable = is_equal ? fit * n_gpus : r->total;
    if (is_uneven && usable >= n_experts && !is_equal)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: %u experts and %u redundant slots of %u layers, and %llu slots fit beside the other "
                          "weights of all GPUs, %u on GPU %u and %u on GPU %u (write --redundant %llu or less)",
                          n_experts, p->n_redundant, n_layers, ULL(r->total), r->least, r->least_gpu, r->most,
                          r->most_gpu, ULL(r->total - n_experts));
    if (usable >= n_experts)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: GPU %u: %u slots of %u layers need %llu bytes and %llu are free beside the "
                          "other weights; %llu slots fit "
                          "(write --redundant %llu or less, or --slots-per-gpu %llu)",
                          g, p->slots_per_gpu, n_layers, ULL(need), ULL(room), ULL(fit), ULL(usable - n_experts),
                          ULL(fit));
    if (is_uneven && is_equal && r->total >= n_experts)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: GPU %u: %u slots of %u layers need %llu bytes and %llu are free beside the other "
                          "weights; %llu slots fit, and equally many on each GPU do not hold %u experts (%s)",
                          g, p->slots_per_gpu, n_layers, ULL(need), ULL(room), ULL(fit), n_experts,
                          p->needs_equal_slots ? "this stack needs equally many: use equal GPUs"
                                               : "leave --slots-per-gpu out: each GPU then gets what fits it");
    if (is_uneven)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: %u experts of %u layers, and %llu slots fit beside the other weights of all GPUs, "
                          "%u on GPU %u and %u on GPU %u (use more GPUs, or a model of fewer bits per weight)",
                          n_experts, n_layers, ULL(r->total), r->least, r->least_gpu, r->most, r->most_gpu);
    if (fit == 0)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: GPU %u: one slot of %u layers needs %llu bytes and %llu are free beside the "
                          "other weights (use GPUs with more "
                          "memory, or a model of fewer bits per weight)",
                          g, n_layers, ULL(slot_bytes), ULL(room));
    return mp_decline(err, outcome, MP_NOT_FOUND,
                      "memory: GPU %u: %u slots of %u layers need %llu bytes and %llu are free beside the other "
                      "weights; %llu slots fit, so %u "
                      "experts need at least %llu GPUs of this kind",
                      g, p->slots_per_gpu, n_layers, ULL(need), ULL(room), ULL(fit), n_experts,
                      ULL(mp_ceil_div(n_experts, fit)));
}

/* The least level at which min(level, fit[g]) add up to n_copies; they do at the most that fits. */
static uint32_t level_of(const uint32_t *fit, uint32_t n_gpus, uint64_t n_copies, uint32_t most) {
    uint32_t low = 0, high = most; /* low is too little, high is enough */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        uint64_t n = 0;
        for (uint32_t g = 0; g < n_gpus; g++)
            n += fit[g] < middle ? fit[g] : middle;
        if (n >= n_copies)
            high = middle;
        else
            low = middle;
    }
    return high;
}

static enum mp_status share_memory(struct mp_problem *p, bool is_equal, struct mp_arena *arena,
                                   enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t n_gpus = p->topology->n_gpus;
    uint64_t n_copies = (uint64_t)p->workload->trace->n_experts + p->n_redundant, slots_bytes;
    uint32_t *fit = mp_arena_alloc(arena, n_gpus, sizeof *fit);
    if (fit == NULL)
        return mp_nomem(err, "planning");
    for (uint32_t g = 0; g < n_gpus; g++)
        fit[g] = slots_that_fit(p, g);
    struct room r = room_of(fit, n_gpus);
    for (uint32_t g = 0; g < n_gpus && r.most > 0; g++) /* no slots there would not help */
        if (other_weights(p) > memory_of(p, g))
            return mp_decline(
                err, outcome, MP_NOT_FOUND,
                "memory: GPU %u: weights beside the experts are %llu bytes, and it has %llu (leave it out "
                "of the topology, or use a model of fewer bits per weight)",
                g, ULL(other_weights(p)), ULL(memory_of(p, g)));
    if (is_equal) { /* more slots than experts may be asked for, so bytes are compared */
        bool fits = !mp_mul_overflow(p->model->expert_bytes, n_layers_held(p), &slots_bytes) &&
                    !mp_mul_overflow(slots_bytes, p->slots_per_gpu, &slots_bytes) &&
                    slots_bytes <= expert_room(p, r.least_gpu);
        for (uint32_t g = 0; fits && g < n_gpus; g++)
            fits = slots_bytes <= expert_room(p, g);
        return fits ? MP_OK : decline_memory(p, &r, true, outcome, err);
    }
    if (r.total < n_copies)
        return decline_memory(p, &r, r.least == r.most, outcome, err);
    uint32_t level = level_of(fit, n_gpus, n_copies, r.most);
    if (level <= r.least)
        return MP_OK; /* slots_per_gpu on each */
    for (uint32_t g = 0; g < n_gpus; g++)
        fit[g] = fit[g] < level ? fit[g] : level;
    p->gpu_slots = fit;
    return MP_OK;
}

enum mp_status mp_problem_check(struct mp_problem *p, struct mp_arena *arena, enum mp_outcome *outcome,
                                struct mp_error *err) {
    uint32_t n_experts = p->workload->trace->n_experts, n_gpus = p->topology->n_gpus;
    uint64_t n_copies = (uint64_t)n_experts + p->n_redundant;
    bool is_equal = p->slots_per_gpu != 0 || p->needs_equal_slots;
    *outcome = MP_FOUND;
    p->gpu_slots = NULL;
    if (n_copies > (uint64_t)n_experts * n_gpus)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "redundant: %u experts with one replica per GPU at most fill %llu slots on %u GPUs, not %llu "
                          "(write --redundant %llu or less)",
                          n_experts, ULL((uint64_t)n_experts * n_gpus), n_gpus, ULL(n_copies),
                          ULL((uint64_t)n_experts * (n_gpus - 1)));
    if (p->slots_per_gpu == 0)
        p->slots_per_gpu = (uint32_t)mp_ceil_div(n_copies, n_gpus);
    uint64_t n_slots = (uint64_t)p->slots_per_gpu * n_gpus;
    if (n_slots < n_copies)
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "slots: %u experts and %u redundant slots do not fit in %u slots on each of %u GPUs, %llu in "
                          "all (write --slots-per-gpu %llu)",
                          n_experts, p->n_redundant, p->slots_per_gpu, n_gpus, ULL(n_slots),
                          ULL(mp_ceil_div(n_copies, n_gpus)));
    return share_memory(p, is_equal, arena, outcome, err);
}
