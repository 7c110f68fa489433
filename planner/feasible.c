/* Does any plan of this shape exist? Says in numbers what to change when not. */
#include "planner.h"
#include <moeplan/base.h>

#define ULL(x) ((unsigned long long)(x))

/* What a GPU's memory leaves for routed experts. */
static uint64_t expert_room(const struct mp_problem *p, uint32_t gpu) {
    uint64_t has = p->topology->types[p->topology->gpus[gpu].type].memory_bytes;
    if (p->memory_bytes != 0)
        return p->memory_bytes;
    uint64_t shared, other;
    if (mp_mul_overflow(p->model->shared_bytes, p->workload->trace->n_layers, &shared) ||
        mp_add_overflow(shared, p->model->dense_bytes, &other))
        return 0;
    return has > other ? has - other : 0;
}

static enum mp_status check_memory(const struct mp_problem *p, enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t n_layers = p->workload->trace->n_layers;
    uint64_t slot_bytes = p->model->expert_bytes, need;
    if (mp_mul_overflow(slot_bytes, n_layers, &slot_bytes) || mp_mul_overflow(slot_bytes, p->slots_per_gpu, &need))
        return mp_decline(err, outcome, MP_NOT_FOUND,
                          "memory: %u slots of %u layers are more bytes than can be counted", p->slots_per_gpu,
                          n_layers);
    for (uint32_t g = 0; g < p->topology->n_gpus; g++) {
        uint64_t room = expert_room(p, g);
        if (need <= room)
            continue;
        uint64_t fit = slot_bytes > 0 ? room / slot_bytes : 0;
        uint32_t n_experts = p->workload->trace->n_experts;
        if (fit * p->topology->n_gpus >= n_experts)
            return mp_decline(err, outcome, MP_NOT_FOUND,
                              "memory: GPU %u: %u slots of %u layers need %llu bytes and %llu are free beside the "
                              "other weights; %llu slots fit "
                              "(write --redundant %llu or less, or --slots-per-gpu %llu)",
                              g, p->slots_per_gpu, n_layers, ULL(need), ULL(room), ULL(fit),
                              ULL(fit * p->topology->n_gpus - n_experts), ULL(fit));
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
    return MP_OK;
}

enum mp_status mp_problem_check(struct mp_problem *p, enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t n_experts = p->workload->trace->n_experts, n_gpus = p->topology->n_gpus;
    uint64_t n_copies = (uint64_t)n_experts + p->n_redundant;
    *outcome = MP_FOUND;
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
    return check_memory(p, outcome, err);
}
