/* Orders by matchings: time of the exact decomposition on one core, how near to the port bound few stages and a flush
 * come (launches excluded), and how many stages are fastest with launches.
 *
 * usage: bench_bvn [FOLDER OF THE SHARED TRACES] */
#include "bench_matrix.h"
#include "bvn.h"
#include "real_matrices.h"
#include <moeplan/strategy.h>

static void no_diagonal(uint64_t *matrix, uint32_t n, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    for (size_t k = 0; k < (size_t)n * n; k++)
        matrix[k] = k / n == k % n ? 0 : 1 + mp_rng_below(&r, 1 << 20);
}

/* Lognormal pairs, rows and columns scaled until each port carries `port` bytes (Sinkhorn). */
static void balanced(uint64_t *matrix, uint32_t n, double sigma, uint64_t port, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    double *x = calloc((size_t)n * n, sizeof *x);
    for (size_t k = 0; k < (size_t)n * n; k++)
        x[k] = k / n == k % n ? 0 : exp(sigma * bench_normal(&r));
    for (int round = 0; round < 1000; round++)
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t i = 0; i < n; i++) {
                double sum = 0;
                for (uint32_t j = 0; j < n; j++)
                    sum += x[side == 0 ? i * n + j : j * n + i];
                for (uint32_t j = 0; j < n; j++)
                    x[side == 0 ? i * n + j : j * n + i] /= sum;
            }
    for (size_t k = 0; k < (size_t)n * n; k++)
        matrix[k] = (uint64_t)(x[k] * (double)port + 0.5);
    free(x);
}

static void measure_bvn(uint32_t n, double reference_ms, double public_ms) {
    struct mp_error err = {0};
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix), *left = calloc((size_t)n * n, sizeof *left);
    double best = 1e9, best_listed = 1e9;
    uint32_t n_stages = 0;
    bool is_exact = true;
    no_diagonal(matrix, n, n);
    for (int k = 0; k < 10; k++) {
        struct mp_bvn *b;
        struct mp_bvn_stage s;
        const bool is_listed = k % 2 == 1;
        uint64_t sum = 0;
        memcpy(left, matrix, (size_t)n * n * sizeof *left);
        n_stages = 0;
        double start = bench_seconds();
        bench_require(mp_bvn_new(&b, n, matrix, &err), &err);
        for (; mp_bvn_next(b, &s); n_stages++) {
            sum += s.end - s.start;
            for (uint32_t i = 0; is_listed && i < n; i++)
                left[(size_t)i * n + s.to[i]] -= mp_bvn_bytes(&s, i);
        }
        double seconds = bench_seconds() - start, *to = is_listed ? &best_listed : &best;
        *to = seconds < *to ? seconds : *to;
        is_exact = is_exact && sum == mp_bvn_bound(b);
        for (size_t pair = 0; is_listed && pair < (size_t)n * n; pair++)
            is_exact = is_exact && left[pair] == 0;
        mp_bvn_free(b);
    }
    printf("bvn, dense random %3u x %3u: %8.2f ms, %8.2f ms with every transfer of every stage; %5u stages of at most "
           "%5u, %s  (reference %g ms, %.1fx",
           n, n, best * 1e3, best_listed * 1e3, n_stages, n * n - 2 * n + 2, is_exact ? "bound reached" : "WRONG",
           reference_ms, reference_ms / best_listed * 1e-3);
    if (public_ms > 0)
        printf("; a public C++ implementation %g ms", public_ms);
    printf(")\n");
    free(matrix);
    free(left);
}

struct setting {
    struct mp_arena *arena;
    struct mp_topology *topology;
    struct mp_net *net;
};
static void setting_new(struct setting *s, uint32_t n, uint64_t bytes_per_s) {
    struct mp_error err = {0};
    s->arena = mp_arena_new();
    s->topology = bench_switch(s->arena, n);
    struct mp_resource *resources = mp_arena_alloc(s->arena, 2 * n, sizeof *resources);
    for (uint32_t k = 0; k < 2 * n; k++) {
        resources[k] = s->topology->resources[k];
        resources[k].bytes_per_s = bytes_per_s;
    }
    s->topology->resources = resources;
    bench_require(mp_net_new(&s->net, s->topology, &err), &err);
}
static void setting_free(struct setting *s) {
    mp_net_free(s->net);
    mp_arena_free(s->arena);
}
static void set_launches(struct setting *s, uint64_t launch_ns, uint64_t latency_ns) {
    struct mp_level *level = mp_arena_alloc(s->arena, 1, sizeof *level);
    *level = s->topology->levels[0];
    level->latency_ns = latency_ns;
    s->topology->levels = level;
    s->topology->launch_ns = s->topology->stage_launch_ns = launch_ns;
    struct mp_error err = {0};
    mp_net_free(s->net);
    bench_require(mp_net_new(&s->net, s->topology, &err), &err);
}

/* Time of `order` with so many stages (0 = its choice); its stages before a flush and the seconds spent. */
static uint64_t order_time(struct setting *s, const uint64_t *matrix, const char *order, int64_t wanted,
                           uint32_t *n_stages, double *seconds) {
    const int64_t values[3] = {wanted, 0, 0};
    struct mp_error err = {0};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t time_ns;
    struct mp_order_problem in = {
        .topology = s->topology, .matrix = matrix, .net = s->net, .mode = MP_STAGE_COUPLED, .option_values = values};
    double start = bench_seconds();
    bench_require(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, order), &in, &schedule, &outcome, &err), &err);
    *seconds += bench_seconds() - start;
    bench_require(mp_schedule_time(&schedule, &in, &time_ns, &err), &err);
    *n_stages = schedule.n_stages - schedule.has_flush;
    mp_schedule_free(&schedule);
    return time_ns;
}

#define N_COUNTS 3
struct losses {
    double worst[N_COUNTS], sum[N_COUNTS], nested[N_COUNTS], single_worst, seconds;
    uint32_t n;
};
static void add_losses(struct losses *l, const uint64_t *matrix, struct setting *s) {
    uint64_t bound = mp_net_port_bound(s->net, matrix);
    uint32_t n = s->topology->n_gpus, n_stages;
    double unused = 0;
    for (uint32_t k = 0; k < N_COUNTS; k++) {
        double loss = (double)order_time(s, matrix, "matchings", (int64_t)(k + 1) * n, &n_stages, &l->seconds);
        loss = loss / (double)bound - 1;
        l->sum[k] += loss;
        l->worst[k] = loss > l->worst[k] ? loss : l->worst[k];
        loss = (double)order_time(s, matrix, "nested", 4 << k, &n_stages, &unused) / (double)bound - 1;
        l->nested[k] = loss > l->nested[k] ? loss : l->nested[k];
    }
    double single = (double)order_time(s, matrix, "single", 0, &n_stages, &unused) / (double)bound - 1;
    l->single_worst = single > l->single_worst ? single : l->single_worst;
    l->n++;
}
static void print_losses(const char *name, uint32_t n, const struct losses *l) {
    printf("%-34s %3u %4u %8.2f %% |", name, n, l->n, 100 * l->single_worst);
    for (uint32_t k = 0; k < N_COUNTS; k++)
        printf(" %6.3f %7.3f |", 100 * l->sum[k] / l->n, 100 * l->worst[k]);
    printf(" %7.2f ms |", l->seconds / l->n / N_COUNTS * 1e3);
    for (uint32_t k = 0; k < N_COUNTS; k++)
        printf(" %6.3f", 100 * l->nested[k]);
    printf(" %s\n", l->worst[1] <= 0.015 && l->worst[2] <= 0.003 ? "" : "PAST THE REFERENCE");
}

static void real_losses(const char *folder) {
    for (size_t r = 0; r < N_REAL_TRACES; r++)
        for (int size = 0; size < 3 && real_traces[r].n_gpus[size] > 0; size++) {
            char path[1024];
            const uint32_t n = real_traces[r].n_gpus[size];
            struct mp_error err = {0};
            struct real_set set;
            struct setting s;
            uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
            snprintf(path, sizeof path, "%s/%s", folder, real_traces[r].path);
            bench_require(real_set_load(&set, &real_traces[r], path, n, &err), &err);
            setting_new(&s, n, UINT64_C(1000000000));
            set_launches(&s, 0, 0);
            struct losses mean = {0}, step = {0};
            for (uint32_t l = 0; l < set.trace->n_layers; l += 1 + (n > 16) * 4) {
                real_matrix(&set, l, 0, set.workload->n_steps, matrix);
                add_losses(&mean, matrix, &s);
                real_matrix(&set, l, set.workload->n_steps - 1, set.workload->n_steps, matrix);
                add_losses(&step, matrix, &s);
            }
            snprintf(path, sizeof path, "%s, mean", real_traces[r].name);
            print_losses(path, n, &mean);
            snprintf(path, sizeof path, "%s, one step", real_traces[r].name);
            print_losses(path, n, &step);
            setting_free(&s);
            real_set_free(&set);
            free(matrix);
        }
}

static void best_counts(void) {
    static const uint64_t launches_us[] = {5, 20, 40}, megabytes[] = {4, 64, 512};
    printf("\nfastest number of stages before the flush, 50 GB/s ports, latency 2 us, coupled; time over port bound "
           "with all launches, and of the single shot with one\n");
    for (uint32_t n = 8; n <= 64; n *= 2)
        for (int m = 0; m < 3; m++) {
            struct setting s;
            uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
            setting_new(&s, n, UINT64_C(50000000000));
            balanced(matrix, n, 1, megabytes[m] * 1000000, n);
            printf("n = %2u, %3u MB per GPU, sigma 1:", n, (unsigned)megabytes[m]);
            for (int k = 0; k < 3; k++) {
                uint32_t n_stages, none;
                double seconds = 0, unused = 0;
                set_launches(&s, launches_us[k] * 1000, 2000);
                double bound = (double)mp_net_port_bound(s.net, matrix);
                double time = (double)order_time(&s, matrix, "matchings", 0, &n_stages, &seconds) / bound;
                double single = (double)order_time(&s, matrix, "single", 0, &none, &unused) / bound;
                uint32_t n_nested;
                double nested = (double)order_time(&s, matrix, "nested", 0, &n_nested, &unused) / bound;
                printf(" | %2u us: matchings %3u stages %.4f, nested %2u %.4f, single %.4f (%.0f ms)",
                       (unsigned)launches_us[k], n_stages, time, n_nested, nested, single, seconds * 1e3);
            }
            printf("\n");
            setting_free(&s);
            free(matrix);
        }
}

int main(int argc, char **argv) {
    measure_bvn(64, 1.2, 567);
    measure_bvn(128, 9, 17000);
    measure_bvn(256, 120, 0);
    printf("\nbottleneck matchings and a flush: loss over the port bound in %%, launches and latency excluded, coupled "
           "(reference 2n <= 1.5 %%, 3n <= 0.3 %%)\n"
           "%-34s %3s %4s %10s | %14s | %14s | %14s | %10s | %s\n",
           "matrices", "n", "", "single", "n  mean   worst", "2n mean   worst", "3n mean   worst", "per order",
           "nested with 4, 8, 16 stages, worst");
    for (uint32_t n = 8; n <= 64; n *= 2)
        for (int sigma = 1; sigma <= 2; sigma++) {
            struct losses l = {0};
            struct setting s;
            char name[64];
            uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
            setting_new(&s, n, UINT64_C(1000000000));
            set_launches(&s, 0, 0);
            for (uint64_t seed = 0; seed < (n <= 16 ? 20 : 4); seed++) {
                balanced(matrix, n, sigma, UINT64_C(1000000000), seed);
                add_losses(&l, matrix, &s);
            }
            snprintf(name, sizeof name, "balanced lognormal, sigma %d", sigma);
            print_losses(name, n, &l);
            setting_free(&s);
            free(matrix);
        }
    if (argc > 1)
        real_losses(argv[1]);
    best_counts();
    return 0;
}
