/* Flows per second of the max-min simulation, one core. */
#include "bench_matrix.h"

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
            double start = bench_seconds();
            for (int k = 0; k < (n < 16 ? 50 : 1); k++) {
                bench_require(mp_net_concurrent(net, matrix, &time_ns, NULL, &err), &err);
                flows += (double)n * (n - 1);
            }
            used += bench_seconds() - start;
        }
        printf("max-min, %5u flows on %2u ports, %-12s  %10.3g flows/s   (reference %.0e, %.1fx)\n", n * (n - 1), n,
               bench_shape_names[shape], flows / used, reference, flows / used / reference);
    }
    free(matrix);
    mp_net_free(net);
    mp_arena_free(arena);
}

int main(void) {
    measure(8, 1e6);
    measure(64, 1e5);
    return 0;
}
