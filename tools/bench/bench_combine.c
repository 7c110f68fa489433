/* What the combine of an order loses on the port bound, backwards and in the sequence of the dispatch, launches
 * included.
 *
 * One row per number of GPUs, incast curve, stage mode and shape of the matrix: 5 MB a pair on 100 Gbit/s Ethernet, few
 * matchings and a flush. The order is planned on one matrix and run on another: every pair times a lognormal of
 * `noise`. Mean over SEEDS matrices. The reference of a combine is its dispatch; where senders are hot, the combine has
 * hot receivers and an incast curve counts for it alone, whatever the sequence. */
#include "bench_matrix.h"
#include <moeplan/strategy.h>
#include <string.h>

enum { SEEDS = 4 };
static const uint32_t mild[] = {1000000, 970000, 940000, 900000, 870000, 840000, 820000},
                      steep[] = {1000000, 900000, 800000, 700000, 650000, 600000, 550000, 500000};
static const struct {
    const char *name;
    const uint32_t *ppm;
    uint32_t n;
} curves[] = {{"none", NULL, 0}, {"to 0.82", mild, sizeof mild / 4}, {"to 0.5", steep, sizeof steep / 4}};
static const char *const shapes[] = {"balanced", "hot senders", "hot receivers"};
static const double noises[] = {0, 0.1, 0.5};

/* 0: lognormal pairs, all ports equally full. */
static void fill(uint64_t *matrix, uint32_t n, int shape, uint64_t seed) {
    bench_fill(matrix, n, shape == 0 ? BENCH_LOGNORMAL : BENCH_ZIPF, seed);
    for (uint32_t pass = 0; pass < (shape == 0 ? 200 : 0); pass++)
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += (double)matrix[pass % 2 == 0 ? i * n + j : j * n + i];
            for (uint32_t j = 0; j < n; j++) {
                uint64_t *x = &matrix[pass % 2 == 0 ? i * n + j : j * n + i];
                *x = (uint64_t)((double)*x * 5e6 * n / sum);
            }
        }
    for (uint32_t i = 0; shape > 0 && i < n; i++)
        for (uint32_t j = 0; j <= i; j++) {
            uint64_t a = matrix[i * n + j] * 10, b = matrix[j * n + i] * 10;
            matrix[i * n + j] = shape == 1 ? b : a;
            matrix[j * n + i] = shape == 1 ? a : b;
        }
}

static void row(struct mp_topology *t, const char *curve, enum mp_stage_mode mode, int shape, double noise,
                bool is_both_ways) {
    const size_t n = t->n_gpus;
    struct mp_error err = {0};
    struct mp_arena *a = mp_arena_new();
    struct mp_net *net;
    double loss[MP_N_COMBINES] = {0};
    uint32_t n_stages = 0, n_flushes = 0;
    uint64_t *matrix = mp_arena_alloc(a, n * n, sizeof *matrix), *turned = mp_arena_alloc(a, n * n, sizeof *turned),
             *run = mp_arena_alloc(a, n * n, sizeof *run);
    if (matrix == NULL || turned == NULL || run == NULL)
        exit(4);
    bench_require(mp_net_new(&net, t, &err), &err);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct mp_schedule s;
        struct mp_order order;
        enum mp_outcome outcome;
        fill(matrix, t->n_gpus, shape, seed);
        struct mp_rng r = mp_rng_seed(seed + 1000);
        for (size_t p = 0; p < n * n; p++)
            turned[p % n * n + p / n] = run[p] = (uint64_t)((double)matrix[p] * exp(noise * bench_normal(&r)));
        const struct mp_order_problem in = {
            .topology = t, .matrix = matrix, .net = net, .mode = mode, .is_both_ways = is_both_ways};
        bench_require(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, "matchings"), &in, &s, &outcome, &err), &err);
        n_stages += s.n_stages;
        n_flushes += s.has_flush;
        if (s.n_stages > 0) {
            bench_require(mp_schedule_order(&order, &s, matrix, 65536, "matchings", a, &err), &err);
            for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
                const uint64_t *m = way == MP_COMBINE_FORWARD ? run : turned;
                uint64_t ns;
                bench_require(mp_net_staged(net, &order, way, mode, m, &ns, &err), &err);
                loss[way] += 100 * ((double)ns / (double)mp_net_port_bound(net, m) - 1) / SEEDS;
            }
        }
        mp_schedule_free(&s);
    }
    mp_net_free(net);
    mp_arena_free(a);
    if (n_stages == 0)
        printf("%3zu GPUs, incast %-8s %-8s %-13s noise %.1f, %-8s one shot\n", n, curve, mp_stage_mode_name(mode),
               shapes[shape], noise, is_both_ways ? "mean" : "dispatch");
    else
        printf("%3zu GPUs, incast %-8s %-8s %-13s noise %.1f, %-8s %4u stages, flush in %u of %d | dispatch %6.2f %% | "
               "combine reversed "
               "%6.2f %%, swapped %6.2f %%\n",
               n, curve, mp_stage_mode_name(mode), shapes[shape], noise, is_both_ways ? "mean" : "dispatch",
               n_stages / SEEDS, n_flushes, SEEDS, loss[MP_COMBINE_FORWARD], loss[MP_COMBINE_REVERSED],
               loss[MP_COMBINE_SWAPPED]);
    fflush(stdout);
}

int main(void) {
    static const uint32_t sizes[] = {8, 32};
    for (size_t k = 0; k < 2; k++)
        for (size_t c = 0; c < sizeof curves / sizeof *curves; c++)
            for (int mode = 0; mode < 3; mode++)
                for (int s = 0; s < 18; s++) {
                    struct mp_arena *a = mp_arena_new();
                    struct mp_topology *t = bench_switch(a, sizes[k]);
                    struct mp_resource *ports = mp_arena_alloc(a, t->n_resources, sizeof *ports);
                    struct mp_level level = t->levels[0];
                    if (ports == NULL)
                        exit(4);
                    for (uint32_t r = 0; r < t->n_resources; r++) {
                        ports[r] = t->resources[r];
                        ports[r].bytes_per_s = UINT64_C(11000000000);
                    }
                    level.latency_ns = 5000;
                    level.incast_ppm = curves[c].ppm;
                    level.n_incast = curves[c].n;
                    t->resources = ports;
                    t->levels = &level;
                    t->launch_ns = t->stage_launch_ns = 10000;
                    row(t, curves[c].name, (enum mp_stage_mode)mode, s / 6, noises[s / 2 % 3], s % 2 == 1);
                    mp_arena_free(a);
                }
    return 0;
}
