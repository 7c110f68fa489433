/* Flows per second of the max-min simulation, one core. */
#include "bench_matrix.h"

/* Of this process: other programs on the machine do not count. */
static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static void measure(uint32_t n, double reference) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_switch(arena, n);
    struct mp_net *net;
    bench_require(mp_net_new(&net, t, &err), &err);
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix), time_ns;
    for (int shape = 0; matrix != NULL && shape < BENCH_N_SHAPES; shape++) {
        double used = 0, flows = 0;
        for (uint64_t seed = 0; used < 0.4; seed++) {
            bench_fill(matrix, n, (enum bench_shape)shape, seed);
            double start = cpu_seconds();
            for (int k = 0; k < (n < 16 ? 50 : 1); k++) {
                bench_require(mp_net_concurrent(net, matrix, &time_ns, NULL, &err), &err);
                flows += (double)n * (n - 1);
            }
            used += cpu_seconds() - start;
        }
        printf("max-min, %5u flows on %3u ports, %-12s  %10.3g flows/s", n * (n - 1), n, bench_shape_names[shape],
               flows / used);
        if (reference > 0)
            printf("   (reference %.0e, %.1fx)\n", reference, flows / used / reference);
        else
            printf("   (%.2f s a matrix)\n", used * n * (n - 1) / flows);
    }
    free(matrix);
    mp_net_free(net);
    mp_arena_free(arena);
}

/* The same matrices the general way, for any path and any cap: a cap that does not matter brings it about. */
static void one_shot(uint32_t n) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_switch(arena, n);
    struct mp_level level = t->levels[0];
    struct mp_net *net[2];
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix), time_ns[2];
    bench_require(mp_net_new(&net[0], t, &err), &err);
    level.pair_bytes_per_s = UINT64_C(450000000000); /* a port's rate */
    t->levels = &level;
    bench_require(mp_net_new(&net[1], t, &err), &err);
    for (int shape = 0; matrix != NULL && shape < BENCH_N_SHAPES; shape++) {
        double used[2];
        bench_fill(matrix, n, (enum bench_shape)shape, 1);
        for (int k = 0; k < 2; k++) {
            const double start = cpu_seconds();
            for (int i = 0; i < 5; i++)
                bench_require(mp_net_concurrent(net[k], matrix, &time_ns[k], NULL, &err), &err);
            used[k] = (cpu_seconds() - start) / 5;
        }
        printf("one shot of %u flows, %-12s  ports only %8.2f ms, %llu ns   (reference: the general way %8.2f ms, %llu "
               "ns, %.1fx)\n",
               n * (n - 1), bench_shape_names[shape], 1e3 * used[0], (unsigned long long)time_ns[0], 1e3 * used[1],
               (unsigned long long)time_ns[1], used[1] / used[0]);
    }
    free(matrix);
    mp_net_free(net[0]);
    mp_net_free(net[1]);
    mp_arena_free(arena);
}

int main(void) {
    measure(8, 1e6);
    measure(64, 1e5);
    measure(256, 0);
    one_shot(64);
    return 0;
}
