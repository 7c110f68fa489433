/* Two models on unequal GPUs: how far each strategy is from the proven optimum, by both evaluators. GPUs of 100, 80,
 * 50 and 40 Gbps on one switch, equally many; experts of Zipf popularity (0.4 to 1.2), and sources that move with them
 * as Aurora has it: equal, skewed on their own, or as their experts; computation is a fifth of the time or so.
 * References: Aurora, arXiv 2410.17043 (decoupled: mean 1.07 of brute force). usage: bench_coloc [INSTANCES [GPUS]] */
#include "bench_matrix.h"
#include <moeplan/coloc.h>
#include <string.h>

#define N_MAX 16u

/* Tokens of n sources to n experts, top-1. Sources are equal (0), skewed on their own (1), or as busy as the expert
 * that they move with (2). */
static void fill(uint64_t *tokens, uint32_t n, double zipf, uint32_t kind, struct mp_rng *r) {
    uint32_t expert_rank[N_MAX], source_rank[N_MAX];
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

struct tally {
    double sum, most;
    uint32_t n, optimal;
};
static void add(struct tally *t, double ratio) {
    t->sum += ratio;
    t->most = fmax(t->most, ratio);
    t->n++;
    t->optimal += ratio <= 1;
}

static void measure(uint32_t n, uint32_t instances, enum mp_coloc_objective objective, uint64_t nodes) {
    struct tally tally[16] = {{0}}, certified = {0};
    double seconds[16] = {0}, longest = 0;
    uint32_t proven = 0;
    for (uint32_t k = 0; k < instances; k++) {
        struct mp_arena *arena = mp_arena_new();
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(k + 1000 * n);
        static uint64_t tokens[2][N_MAX * N_MAX];
        struct mp_coloc_problem p = {
            .topology = bench_aurora_switch(arena, n, true), .objective = objective, .seed = k, .work_limit = nodes};
        for (int m = 0; m < 2; m++) {
            fill(tokens[m], n, 0.4 + 0.2 * (k % 5), k / 5 % 3, &r);
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
        uint64_t value[16] = {0}, bound = 0;
        uint32_t exact = 0;
        for (uint32_t i = 0; mp_coloc_strategy_at(i) != NULL; i++) {
            struct mp_coloc_plan *plan;
            struct mp_coloc_times times;
            enum mp_outcome outcome;
            p.work_limit = strcmp(mp_coloc_strategy_at(i)->name, "exact") == 0 ? nodes : 0;
            double start = bench_seconds();
            bench_require(mp_coloc_solve(&plan, mp_coloc_strategy_at(i), &p, &outcome, &err), &err);
            seconds[i] += bench_seconds() - start;
            bench_require(mp_coloc_evaluate(&times, &p, plan, NULL, &err), &err);
            value[i] = objective == MP_COLOC_CLOSED ? times.closed_ns : times.timeline_ns;
            if (p.work_limit > 0) {
                exact = i;
                bound = plan->bound_ns;
                proven += plan->is_optimal;
                longest = fmax(longest, bench_seconds() - start);
            }
            mp_coloc_plan_free(plan);
        }
        for (uint32_t i = 0; mp_coloc_strategy_at(i) != NULL; i++)
            add(&tally[i], (double)value[i] / (double)value[exact]);
        add(&certified, (double)value[exact] / (double)bound);
        mp_arena_free(arena);
    }
    printf("%u GPUs of 4 types, %u instances, %s: %u proven optimal, certified gap %.3f %% mean %.3f %% most, exact "
           "%.2f s at most\n",
           n, instances, objective == MP_COLOC_CLOSED ? "closed form" : "timeline", proven,
           100 * (certified.sum / instances - 1), 100 * (certified.most - 1), longest);
    if (n == 16)
        printf("    (to reach: 2 %% mean in 10 s)\n");
    for (uint32_t i = 0; mp_coloc_strategy_at(i) != NULL; i++) {
        const char *name = mp_coloc_strategy_at(i)->name;
        printf("    %-11s %.4f mean %.4f most of %s, %4u optimal, %8.3f ms", name, tally[i].sum / instances,
               tally[i].most, proven == instances ? "the optimum" : "the best known", tally[i].optimal,
               1e3 * seconds[i] / instances);
        if (strcmp(name, "decoupled") == 0)
            printf("   (paper: 1.07 mean)");
        if (strcmp(name, "search") == 0 && n < 16)
            printf("   (to reach: 1.001 mean, 1.02 most)");
        printf("\n");
    }
}

int main(int argc, char **argv) {
    const uint32_t instances = argc > 1 ? (uint32_t)atoi(argv[1]) : 50, only = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    for (uint32_t n = 4; n <= N_MAX; n *= 2)
        for (int objective = 0; objective < 2 && (only == 0 || only == n); objective++)
            measure(n, n == 16 && instances > 20 ? 20 : instances, (enum mp_coloc_objective)objective,
                    n < 16 ? 100000000 : 2000000);
    return 0;
}
