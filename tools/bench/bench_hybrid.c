/* Orders with startups: how far above the startup-aware bound max over ports of (bytes / rate + startup * messages),
 * and how long they take to make, on one core. The reference is the figures of the project's notes (EXECUTION.md 4.3),
 * taken with another implementation on matrices of the same kind but not the same ones. */
#include "bench_matrix.h"
#include <moeplan/strategy.h>
#include <string.h>

enum kind { BALANCED, NEAR_UNIFORM, HOT, N_KINDS };
static const char *const kind_names[N_KINDS] = {"balanced-skew", "near-uniform", "hot columns"};

static void fill(uint64_t *matrix, uint32_t n, enum kind kind, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    double *x = calloc((size_t)n * n, sizeof *x);
    if (x == NULL)
        exit(4);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            x[i * n + j] = i == j                 ? 0
                           : kind == BALANCED     ? exp(bench_normal(&r))
                           : kind == NEAR_UNIFORM ? 0.5 + mp_rng_unit(&r)
                                                  : exp(0.5 * bench_normal(&r)) * pow(1 + j, -0.8);
    for (int round = 0; kind == BALANCED && round < 400; round++) /* Sinkhorn: rows, then columns, sum to one */
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += round % 2 ? x[i * n + j] : x[j * n + i];
            for (uint32_t j = 0; j < n; j++)
                *(round % 2 ? &x[i * n + j] : &x[j * n + i]) /= sum;
        }
    for (size_t i = 0; i < (size_t)n * n; i++)
        matrix[i] = (uint64_t)(x[i] * (kind == BALANCED ? 1e9 : 1e9 / n));
    free(x);
}

/* Startup-aware bound, ns, and the most bytes of a port. */
static double bound_of(const uint64_t *matrix, uint32_t n, double rate, double startup_ns, double *port_ns) {
    double most = 0;
    *port_ns = 0;
    for (uint32_t i = 0; i < n; i++)
        for (int side = 0; side < 2; side++) {
            double ns = 0;
            uint32_t degree = 0;
            for (uint32_t j = 0; j < n; j++) {
                uint64_t bytes = side ? matrix[(size_t)i * n + j] : matrix[(size_t)j * n + i];
                ns += (double)bytes / rate;
                degree += bytes > 0;
            }
            *port_ns = fmax(*port_ns, ns);
            most = fmax(most, ns + startup_ns * degree);
        }
    return most;
}

/* Ratios of EXECUTION.md 4.3: list, hybrid; 0 = not given. */
static void reference(uint32_t n, enum kind kind, double alpha, double *list, double *hybrid) {
    static const struct {
        uint32_t n;
        enum kind kind;
        double alpha, list, hybrid;
    } known[] = {{8, BALANCED, 1e-4, 1.195, 1.011},   {16, BALANCED, 1e-4, 1.132, 1.011},
                 {32, BALANCED, 1e-4, 1.079, 1.013},  {32, BALANCED, 1e-3, 1.079, 1.048},
                 {64, BALANCED, 1e-4, 1.048, 1.015},  {64, BALANCED, 1e-3, 1.042, 1.063},
                 {128, BALANCED, 1e-4, 1.029, 1.020}, {64, NEAR_UNIFORM, 1e-4, 1.010, 1.008}};
    *list = *hybrid = kind == HOT ? 1.0 : 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].n == n && known[i].kind == kind && known[i].alpha == alpha) {
            *list = known[i].list;
            *hybrid = known[i].hybrid;
        }
}

static void measure(uint32_t n, enum kind kind, double alpha, enum mp_stage_mode mode) {
    static const char *const names[] = {"list", "hybrid", "bvn"};
    struct mp_error err = {0};
    const uint32_t n_seeds = n > 64 ? 1 : 3;
    double wanted[3] = {0};
    reference(n, kind, alpha, &wanted[0], &wanted[1]);
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
    for (size_t k = 0; k < (n > 64 ? 2 : 3); k++) { /* 2 million pieces of bvn say nothing new */
        const struct mp_strategy *s = mp_strategy_find(MP_PLAN_ORDER, names[k]);
        double mean = 0, worst = 0, seconds = 1e9, stages = 0, pieces = 0;
        for (uint64_t seed = 1; s != NULL && seed <= n_seeds; seed++) {
            struct mp_arena *arena = mp_arena_new();
            struct mp_topology *t = bench_switch(arena, n);
            struct mp_level level = t->levels[0];
            level.latency_ns = 0;
            t->levels = &level;
            fill(matrix, n, kind, seed);
            double port_ns, rate = (double)t->resources[0].bytes_per_s * 1e-9;
            bound_of(matrix, n, rate, 0, &port_ns);
            t->stage_launch_ns = (uint64_t)(alpha * port_ns + 0.5);
            double bound = bound_of(matrix, n, rate, (double)t->stage_launch_ns, &port_ns);
            struct mp_net *net;
            bench_require(mp_net_new(&net, t, &err), &err);
            struct mp_order_problem problem = {.topology = t, .matrix = matrix, .net = net, .mode = mode};
            struct mp_schedule out;
            enum mp_outcome outcome;
            uint64_t time_ns;
            double start = bench_seconds();
            bench_require(mp_order_run(s, &problem, &out, &outcome, &err), &err);
            seconds = fmin(seconds, bench_seconds() - start);
            bench_require(mp_schedule_time(&out, &problem, &time_ns, &err), &err);
            double ratio = (double)time_ns / bound;
            mean += ratio / n_seeds;
            worst = fmax(worst, ratio);
            stages += (double)out.n_stages / n_seeds;
            pieces += (double)out.n_pieces / n_seeds;
            mp_schedule_free(&out);
            mp_net_free(net);
            mp_arena_free(arena);
        }
        if (s == NULL)
            continue;
        printf(
            "%4u %-13s startup %.0e %-7s %-6s  %.4f mean %.4f worst of bound, %7.0f pieces in %5.0f stages, %8.3f ms",
            n, kind_names[kind], alpha, mode == MP_STAGE_FREE ? "free" : "coupled", names[k], mean, worst, pieces,
            stages, seconds * 1e3);
        if (wanted[k] > 0 && mode == MP_STAGE_FREE)
            printf("   (reference %.3f)", wanted[k]);
        if (k == 1 && n == 64 && alpha == 1e-4)
            printf("   (to reach: 1.02 in 20 ms)");
        printf("\n");
    }
    free(matrix);
}

/* Time of the list alone on many ports; making the matrix takes longer. */
static void measure_list(uint32_t n) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_switch(arena, n);
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
    struct mp_net *net;
    struct mp_schedule out;
    enum mp_outcome outcome;
    bench_fill(matrix, n, BENCH_LOGNORMAL, 1);
    bench_require(mp_net_new(&net, t, &err), &err);
    struct mp_order_problem problem = {.topology = t, .matrix = matrix, .net = net, .mode = MP_STAGE_FREE};
    double start = bench_seconds();
    bench_require(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, "list"), &problem, &out, &outcome, &err), &err);
    printf("%4u lognormal: list of %zu messages in %.0f ms   (reference %s)\n", n, out.n_pieces,
           (bench_seconds() - start) * 1e3, n == 256 ? "62 ms" : "about 4 s");
    mp_schedule_free(&out);
    mp_net_free(net);
    mp_arena_free(arena);
    free(matrix);
}

int main(int argc, char **argv) {
    uint32_t only = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    for (uint32_t n = 8; n <= 128; n *= 2)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int k = 0; k < 2; k++)
                for (int mode = 0; mode < 2 && (only == 0 || only == n); mode++)
                    measure(n, (enum kind)kind, k == 0 ? 1e-4 : 1e-3, mode == 0 ? MP_STAGE_FREE : MP_STAGE_COUPLED);
    for (uint32_t n = 256; n <= 1024; n *= 4)
        if (only == 0 || only == n)
            measure_list(n);
    return 0;
}
