/* Two models on unequal GPUs: how far each strategy is from the proven optimum, by both evaluators. GPUs of 100, 80,
 * 50 and 40 Gbps on one switch, equally many; experts of Zipf popularity (0.4 to 1.2), and sources that move with them
 * as Aurora has it: equal, skewed on their own, or as their experts; computation is a fifth of the time or so.
 * References: Aurora, arXiv 2410.17043 (decoupled: mean 1.07 of brute force). usage: bench_coloc [INSTANCES [GPUS]] */
#include "bench_two_models.h"
#include <string.h>

#define N_MAX 16u

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
        static uint64_t tokens[2][N_MAX * N_MAX];
        struct mp_coloc_problem p = bench_two_models(arena, n, k, (uint64_t *[2]){tokens[0], tokens[1]});
        p.objective = objective;
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
