/* Shared by the network benchmarks: traffic matrices of three shapes, and a clock. */
#ifndef BENCH_MATRIX_H
#define BENCH_MATRIX_H

#include <math.h>
#include <moeplan/sim.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum bench_shape { BENCH_UNIFORM, BENCH_LOGNORMAL, BENCH_ZIPF, BENCH_N_SHAPES };
static const char *const bench_shape_names[BENCH_N_SHAPES] = {"uniform", "lognormal(1)", "zipf columns"};

static inline double bench_normal(struct mp_rng *r) {
    double u = mp_rng_unit(r), v = mp_rng_unit(r);
    return sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v);
}
static inline void bench_fill(uint64_t *matrix, uint32_t n, enum bench_shape shape, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double x = 1 + mp_rng_unit(&r);
            if (shape == BENCH_LOGNORMAL)
                x = exp(bench_normal(&r));
            if (shape == BENCH_ZIPF)
                x *= pow(1 + (i + 7 * j) % n, -0.3) * pow(1 + j, -0.6);
            matrix[(size_t)i * n + j] = i == j ? 0 : (uint64_t)(x * 1e6) + 1;
        }
}
/* One switch with n ports of 450 GB/s each way, made by hand so that no reader or preset is part of the figure. */
static inline struct mp_topology *bench_switch(struct mp_arena *a, uint32_t n) {
    struct mp_topology *t = mp_arena_alloc(a, 1, sizeof *t);
    struct mp_gpu *gpus = mp_arena_alloc(a, n, sizeof *gpus);
    struct mp_resource *resources = mp_arena_alloc(a, 2 * n, sizeof *resources);
    struct mp_level *level = mp_arena_alloc(a, 1, sizeof *level);
    struct mp_gpu_type *type = mp_arena_alloc(a, 1, sizeof *type);
    if (t == NULL || gpus == NULL || resources == NULL || level == NULL || type == NULL)
        exit(4);
    for (uint32_t g = 0; g < n; g++) {
        gpus[g].speed_ppm = 1000000;
        gpus[g].out_port[0] = 2 * g;
        gpus[g].in_port[0] = 2 * g + 1;
        for (uint32_t k = 0; k < 2; k++)
            resources[2 * g + k] =
                (struct mp_resource){.bytes_per_s = UINT64_C(450000000000), .is_in = k == 1, .first_gpu = g};
    }
    *level = (struct mp_level){.name = "switch", .n_groups = 1, .latency_ns = 500};
    *type = (struct mp_gpu_type){.name = "gpu",
                                 .memory_bytes = UINT64_C(80) << 30,
                                 .hbm_bytes_per_s = UINT64_C(3350000000000),
                                 .flops_16bit = UINT64_C(989000000000000),
                                 .hbm_efficiency_ppm = 800000,
                                 .flops_efficiency_ppm = 700000,
                                 .kernel_ns = 3000,
                                 .tile_tokens = 64};
    *t = (struct mp_topology){.name = "switch",
                              .n_gpus = n,
                              .n_types = 1,
                              .n_levels = 1,
                              .n_resources = 2 * n,
                              .gpus = gpus,
                              .types = type,
                              .levels = level,
                              .resources = resources,
                              .launch_ns = 10000,
                              .stage_launch_ns = 10000};
    return t;
}
/* Aurora's clusters: a big switch without launch or latency cost, 100 Gbit/s a port, or 100, 80, 50 and 40 in equal
 * parts with compute speeds to match. */
static inline struct mp_topology *bench_aurora_switch(struct mp_arena *a, uint32_t n, bool is_unequal) {
    static const uint64_t gbps[] = {100, 80, 50, 40};
    struct mp_topology *t = bench_switch(a, n);
    struct mp_gpu *gpus = mp_arena_alloc(a, n, sizeof *gpus);
    struct mp_resource *ports = mp_arena_alloc(a, 2 * n, sizeof *ports);
    struct mp_level *level = mp_arena_alloc(a, 1, sizeof *level);
    if (gpus == NULL || ports == NULL || level == NULL)
        exit(4);
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t rate = is_unequal ? gbps[g * 4 / n] : 100;
        gpus[g] = t->gpus[g];
        gpus[g].speed_ppm = (uint32_t)rate * 10000;
        for (uint32_t k = 0; k < 2; k++) {
            ports[2 * g + k] = t->resources[2 * g + k];
            ports[2 * g + k].bytes_per_s = rate * 125000000;
        }
    }
    *level = *t->levels;
    level->latency_ns = 0;
    t->gpus = gpus;
    t->resources = ports;
    t->levels = level;
    t->launch_ns = t->stage_launch_ns = 0;
    return t;
}
static inline double bench_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static inline void bench_require(enum mp_status status, const struct mp_error *err) {
    char text[1024];
    if (status == MP_OK)
        return;
    fprintf(stderr, "%s\n", mp_error_text(err, text, sizeof text));
    exit(mp_exit_code(status));
}

#endif
