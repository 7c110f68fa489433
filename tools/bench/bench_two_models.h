/* Shared by the benchmarks of colocation: two models on Aurora's cluster of unequal GPUs. */
#ifndef BENCH_TWO_MODELS_H
#define BENCH_TWO_MODELS_H

#include "bench_matrix.h"
#include <moeplan/coloc.h>

#define BENCH_TWO_MODELS_GPUS 32u

/* Tokens of n sources to n experts, top-1. Sources are equal (0), skewed on their own (1), or as busy as the expert
 * that they move with (2). */
static inline void bench_two_models_fill(uint64_t *tokens, uint32_t n, double zipf, uint32_t kind, struct mp_rng *r) {
    uint32_t expert_rank[BENCH_TWO_MODELS_GPUS], source_rank[BENCH_TWO_MODELS_GPUS];
    double sum = 0;
    for (uint32_t e = 0; e < n; e++) {
        expert_rank[e] = source_rank[e] = e;
        sum += pow(1 + e, -zipf);
    }
    mp_rng_shuffle(r, expert_rank, n);
    mp_rng_shuffle(r, source_rank, n);
    for (uint32_t s = 0; s < n; s++) {
        const uint32_t rank = kind == 1 ? source_rank[s] : expert_rank[s];
        const double from = kind == 0 ? 1 : n * pow(1 + rank, -zipf) / sum;
        for (uint32_t e = 0; e < n; e++) {
            double to = pow(1 + expert_rank[e], -zipf) / sum * exp(0.3 * bench_normal(r));
            tokens[s * n + e] = (uint64_t)(4096 * from * to + 0.5);
        }
    }
}

/* Instance k: GPUs of 100, 80, 50 and 40 Gbps on one switch, equally many (n a multiple of 4, or nearly); experts of
 * Zipf popularity (0.4 to 1.2), sources that move with them as Aurora has it. tokens[2]: scratch of n * n each. */
static inline struct mp_coloc_problem bench_two_models(struct mp_arena *arena, uint32_t n, uint32_t k,
                                                       uint64_t *tokens[2]) {
    struct mp_rng r = mp_rng_seed(k + 1000 * n);
    struct mp_coloc_problem p = {.topology = bench_aurora_switch(arena, n, true), .seed = k};
    for (int m = 0; m < 2; m++) {
        bench_two_models_fill(tokens[m], n, 0.4 + 0.2 * (k % 5), k / 5 % 3, &r);
        p.model[m] = (struct mp_coloc_model){.n_experts = n,
                                             .is_coupled = true,
                                             .tokens = tokens[m],
                                             .n_steps = 1,
                                             .dispatch_bytes = 2048,
                                             .combine_bytes = 2048,
                                             .gate_ps = 10000,
                                             .experts_ps = 60000,
                                             .aggregate_ps = 10000};
    }
    return p;
}

#endif
