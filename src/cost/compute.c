/* Time of computation: a roofline of the GPU, or measured coefficients. Whole picoseconds inside, 128-bit products,
 * rounded up to nanoseconds once. docs/COST.md part 3. */
#include <moeplan/base.h>
#include <moeplan/flow.h>
#include <string.h>

typedef unsigned __int128 u128;

static uint64_t saturate(u128 x) { return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x; }

/* ceil(amount * 10^12 / (peak * efficiency_ppm / 10^6)) picoseconds. */
static uint64_t picoseconds(uint64_t amount, uint64_t peak_per_s, uint32_t efficiency_ppm) {
    u128 rate = (u128)peak_per_s * efficiency_ppm;
    if (amount == 0)
        return 0;
    if (rate == 0)
        return UINT64_MAX;
    /* amount < 2^64 and 10^18 < 2^60: the product fits 124 bits. */
    return saturate(((u128)amount * 1000000000000000000u + (rate - 1)) / rate);
}

static uint64_t peak_flops(const struct mp_gpu_type *type, const struct mp_model *m) {
    return m->is_8bit_compute && type->flops_8bit > 0 ? type->flops_8bit : type->flops_16bit;
}

struct mp_compute_coefficients mp_compute_coefficients(const struct mp_topology *t, uint32_t gpu,
                                                       const struct mp_model *m) {
    const struct mp_gpu_type *type = &t->types[t->gpus[gpu].type];
    for (uint32_t i = 0; i < type->n_coefficients; i++)
        if (m->name != NULL && strcmp(type->coefficients[i].model, m->name) == 0)
            return type->coefficients[i];
    uint64_t fixed_ps = saturate((u128)type->kernel_ns * 1000);
    return (struct mp_compute_coefficients){
        .model = m->name,
        .a_ps = fixed_ps,
        .c_ps = fixed_ps,
        .b_ps = picoseconds(m->expert_bytes, type->hbm_bytes_per_s, type->hbm_efficiency_ppm),
        .beta_ps = picoseconds(m->expert_flops_per_token, peak_flops(type, m), type->flops_efficiency_ppm)};
}

/* ceil(ps / 1000 / (speed_ppm / 10^6)). */
static uint64_t nanoseconds(u128 ps, uint32_t speed_ppm) {
    u128 speed = speed_ppm == 0 ? 1 : speed_ppm;
    if (ps > ((u128)1 << 100)) /* keeps the product below inside 128 bits; no real time is near it */
        return UINT64_MAX;
    return saturate((ps * 1000 + (speed - 1)) / speed);
}

uint64_t mp_compute_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint32_t active,
                       uint64_t padded_rows) {
    if (active == 0)
        return 0;
    struct mp_compute_coefficients k = mp_compute_coefficients(t, gpu, m);
    u128 weights = (u128)k.a_ps + (u128)k.b_ps * active, tokens = (u128)k.c_ps + (u128)k.beta_ps * padded_rows;
    return nanoseconds(weights > tokens ? weights : tokens, t->gpus[gpu].speed_ppm);
}

static uint64_t always_on_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t rows,
                             uint64_t bytes, uint64_t flops_per_token) {
    if (rows == 0 || (bytes == 0 && flops_per_token == 0))
        return 0;
    const struct mp_gpu_type *type = &t->types[t->gpus[gpu].type];
    u128 read = picoseconds(bytes, type->hbm_bytes_per_s, type->hbm_efficiency_ppm);
    u128 multiply = (u128)picoseconds(flops_per_token, peak_flops(type, m), type->flops_efficiency_ppm) * rows;
    return nanoseconds((u128)type->kernel_ns * 1000 + (read > multiply ? read : multiply), t->gpus[gpu].speed_ppm);
}

uint64_t mp_attention_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t rows) {
    return always_on_ns(t, gpu, m, rows, m->attention_bytes, m->attention_flops_per_token);
}

uint64_t mp_shared_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t rows) {
    return m->n_shared_experts == 0 ? 0 : always_on_ns(t, gpu, m, rows, m->shared_bytes, m->shared_flops_per_token);
}

uint64_t mp_sequences_attention_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t n,
                                   uint64_t longest) {
    const u128 hidden = m->hidden_size,
               projections = m->attention_flops_per_token > 0 ? m->attention_flops_per_token : 6 * hidden * hidden,
               rows = (u128)n * longest;
    return always_on_ns(t, gpu, m, saturate(rows), m->attention_bytes, saturate(projections + 4 * hidden * longest));
}
