/* Transfers per second of the staged simulation, one core. */
#include "bench_matrix.h"

/* Shifted rounds, each flow cut into n_parts equal shares. */
static struct mp_order rounds(struct mp_arena *a, uint32_t n, uint32_t n_parts) {
    struct mp_order o = {.name = "rounds", .unit = n_parts * 3, .ports = 1, .n_stages = n_parts * (n - 1)};
    struct mp_stage *stages = mp_arena_alloc(a, o.n_stages, sizeof *stages);
    for (uint32_t s = 0; stages != NULL && s < o.n_stages; s++) {
        struct mp_transfer *t = mp_arena_alloc(a, n, sizeof *t);
        if (t == NULL)
            exit(4);
        for (uint32_t i = 0; i < n; i++)
            t[i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + 1 + s % (n - 1)) % n), 3, 1};
        stages[s] = (struct mp_stage){n, t};
    }
    o.stages = stages;
    return o;
}

static void measure(uint32_t n, uint32_t n_parts) {
    static const char *const modes[] = {"free", "barrier", "coupled"};
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_switch(arena, n);
    struct mp_net *net;
    bench_require(mp_net_new(&net, t, &err), &err);
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix), time_ns;
    struct mp_order order = rounds(arena, n, n_parts);
    bench_fill(matrix, n, BENCH_LOGNORMAL, 1);
    for (int mode = 0; mode < 3; mode++) {
        double used = 0, flows = 0;
        while (used < 0.3) {
            double start = bench_seconds();
            for (int k = 0; k < (n < 16 ? 100 : 2); k++) {
                bench_require(mp_net_staged(net, &order, k % 2 == 1, (enum mp_stage_mode)mode, matrix, &time_ns, &err),
                              &err);
                flows += (double)n * order.n_stages;
            }
            used += bench_seconds() - start;
        }
        printf("staged %-7s %5u transfers in %4u stages on %2u ports  %10.3g flows/s   (reference 1e+07, %.1fx)\n",
               modes[mode], n * order.n_stages, order.n_stages, n, flows / used, flows / used / 1e7);
    }
    free(matrix);
    mp_net_free(net);
    mp_arena_free(arena);
}

int main(void) {
    measure(8, 1);
    measure(8, 4);
    measure(64, 1);
    measure(64, 4);
    return 0;
}
