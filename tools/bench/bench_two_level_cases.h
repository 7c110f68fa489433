/* What the benchmark of orders between nodes runs on: nodes of GPUs with an NVLink port and a NIC each, and matrices
 * of MoE traffic with Zipf skew of realistic size. */
#ifndef BENCH_TWO_LEVEL_CASES_H
#define BENCH_TWO_LEVEL_CASES_H

#include "bench_matrix.h"

#define BENCH_NVLINK UINT64_C(450000000000)
#define BENCH_NIC UINT64_C(50000000000)

static inline struct mp_topology *bench_cluster(struct mp_arena *a, uint32_t n_nodes, uint32_t per_node) {
    uint32_t n = n_nodes * per_node;
    struct mp_topology *t = bench_switch(a, n);
    struct mp_gpu *gpus = mp_arena_alloc(a, n, sizeof *gpus);
    struct mp_resource *resources = mp_arena_alloc(a, (size_t)4 * n, sizeof *resources);
    struct mp_level *levels = mp_arena_alloc(a, 2, sizeof *levels);
    if (gpus == NULL || resources == NULL || levels == NULL)
        exit(4);
    for (uint32_t g = 0; g < n; g++) {
        gpus[g] = (struct mp_gpu){.speed_ppm = 1000000, .group = {g / per_node}};
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t id = 4 * g + 2 * l + k;
                resources[id] = (struct mp_resource){
                    .bytes_per_s = l == 0 ? BENCH_NVLINK : BENCH_NIC, .level = l, .is_in = k == 1, .first_gpu = g};
                *(k == 0 ? &gpus[g].out_port[l] : &gpus[g].in_port[l]) = id;
            }
    }
    levels[0] = (struct mp_level){.name = "nvlink", .n_groups = n_nodes, .latency_ns = 936};
    levels[1] = (struct mp_level){.name = "nic", .n_groups = 1, .latency_ns = 2600};
    t->n_levels = 2;
    t->levels = levels;
    t->gpus = gpus;
    t->resources = resources;
    t->n_resources = 4 * n;
    t->launch_ns = t->stage_launch_ns = 10000;
    return t;
}

/* Pairs of nodes with lognormal(1.5) traffic, scaled until every node sends and receives the same (Sinkhorn): nodes are
 * even, pairs are not. Each GPU sends 3 MB to each other of its node. */
static inline void bench_even_nodes(uint64_t *matrix, uint32_t n_nodes, uint32_t per_node, double mean, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    const uint32_t n = n_nodes * per_node;
    double *x = malloc((size_t)n_nodes * n_nodes * sizeof *x);
    if (x == NULL)
        exit(4);
    for (uint32_t p = 0; p < n_nodes * n_nodes; p++)
        x[p] = p % (n_nodes + 1) == 0 ? 0 : exp(1.5 * bench_normal(&r));
    for (int round = 0; round < 600; round++)
        for (uint32_t a = 0; a < n_nodes; a++) {
            double sum = 0;
            for (uint32_t b = 0; b < n_nodes; b++)
                sum += x[round % 2 == 0 ? a * n_nodes + b : b * n_nodes + a];
            for (uint32_t b = 0; b < n_nodes; b++)
                x[round % 2 == 0 ? a * n_nodes + b : b * n_nodes + a] /= sum;
        }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double share = x[i / per_node * n_nodes + j / per_node] * mean / per_node;
            matrix[(size_t)i * n + j] = i == j                         ? 0
                                        : i / per_node == j / per_node ? 3000000
                                                                       : (uint64_t)(share * (0.5 + mp_rng_unit(&r)));
        }
    free(x);
}

/* Node 0 receives four times what each other node does; its first GPU half of that. */
static inline void bench_hot_node(uint64_t *matrix, uint32_t n_nodes, uint32_t per_node, double mean, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    const uint32_t n = n_nodes * per_node;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double weight = j >= per_node ? 1 : j == 0 ? 2.0 * per_node : 2.0 * per_node / (per_node - 1);
            matrix[(size_t)i * n + j] = i == j ? 0 : (uint64_t)(weight * mean / n * (0.5 + mp_rng_unit(&r)));
        }
}

/* PAIRS: the pairs of GPUs, in random sequence, get weights 1 / rank^s. EXPERTS: each GPU holds one of n groups of
 * experts of Zipf popularity, sources differ by a factor in [1/2, 3/2]. Each GPU sends `mean` bytes on average. */
enum bench_skew { BENCH_PAIRS, BENCH_EXPERTS, BENCH_EVEN, BENCH_HOT };
static const char *const bench_skew_names[] = {"pairs", "experts", "even nodes, uneven pairs", "one hot node"};

static inline void bench_zipf(uint64_t *matrix, uint32_t n, enum bench_skew skew, double s, double mean,
                              uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    size_t count = skew == BENCH_PAIRS ? (size_t)n * n : n;
    uint32_t *rank = malloc(count * sizeof *rank);
    double *weight = malloc((size_t)n * n * sizeof *weight), sum = 0;
    if (rank == NULL || weight == NULL)
        exit(4);
    for (size_t i = 0; i < count; i++)
        rank[i] = (uint32_t)i;
    mp_rng_shuffle(&r, rank, count);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            size_t at = (size_t)i * n + j;
            weight[at] = pow(1 + rank[skew == BENCH_PAIRS ? at : j], -s);
            if (skew == BENCH_EXPERTS)
                weight[at] *= 0.5 + mp_rng_unit(&r);
            weight[at] = i == j ? 0 : weight[at];
            sum += weight[at];
        }
    for (size_t i = 0; i < (size_t)n * n; i++)
        matrix[i] = (uint64_t)(weight[i] / sum * mean * n);
    free(rank);
    free(weight);
}

#endif
