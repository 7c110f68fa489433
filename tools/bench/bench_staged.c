/* Transfers per second of the staged simulation, one core. Where ports are not contended a transfer takes a few
 * nanoseconds; orders whose transfers share NICs, uplinks or a flush run as events at max-min fair rates. */
#include "bench_matrix.h"
#include <moeplan/strategy.h>
#include <string.h>

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

/* Rounds that move 3/4 of every flow in n_parts * (n - 1) matchings, and a flush of all the rest. */
static struct mp_order rounds_and_flush(struct mp_arena *a, uint32_t n, uint32_t n_parts) {
    struct mp_order o = rounds(a, n, n_parts);
    struct mp_stage *stages = mp_arena_alloc(a, o.n_stages + 1, sizeof *stages);
    struct mp_transfer *rest = mp_arena_alloc(a, (size_t)n * n, sizeof *rest);
    if (stages == NULL || rest == NULL)
        exit(4);
    for (uint32_t s = 0; s < o.n_stages; s++)
        stages[s] = o.stages[s];
    stages[o.n_stages] = (struct mp_stage){0, rest};
    o.unit = n_parts * 4;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if (i != j)
                rest[stages[o.n_stages].n++] = (struct mp_transfer){(uint16_t)i, (uint16_t)j, n_parts, 1};
    o.stages = stages;
    o.n_stages++;
    o.has_flush = true;
    return o;
}

/* Nodes of 8 with a NIC for every `share` GPUs, and an uplink of every node that carries half of its NICs if asked. */
static struct mp_topology *nodes_of_8(struct mp_arena *a, uint32_t n, uint32_t share, bool has_uplink) {
    struct mp_topology *t = bench_switch(a, n);
    struct mp_gpu *gpus = mp_arena_alloc(a, n, sizeof *gpus);
    struct mp_resource *resources = mp_arena_alloc(a, 4 * (size_t)n + n, sizeof *resources);
    struct mp_level *levels = mp_arena_alloc(a, 2, sizeof *levels);
    uint32_t *uplinks = mp_arena_alloc(a, n, sizeof *uplinks), id = 2 * n, n_nodes = n / 8;
    if (gpus == NULL || resources == NULL || levels == NULL || uplinks == NULL)
        exit(4);
    memcpy(gpus, t->gpus, n * sizeof *gpus);
    memcpy(resources, t->resources, 2 * n * sizeof *resources);
    levels[0] = (struct mp_level){.name = "nvlink", .n_groups = n_nodes, .latency_ns = 500};
    levels[1] = (struct mp_level){.name = "ib", .n_groups = 1, .latency_ns = 3000};
    for (uint32_t g = 0; g < n; g++) {
        gpus[g].group[0] = g / 8;
        for (uint32_t is_in = 0; is_in < 2; is_in++) {
            uint32_t *port = is_in ? gpus[g].in_port : gpus[g].out_port;
            port[1] = g % share != 0 ? (is_in ? gpus[g - 1].in_port : gpus[g - 1].out_port)[1] : id;
            if (g % share == 0)
                resources[id++] = (struct mp_resource){
                    .bytes_per_s = UINT64_C(50000000000), .level = 1, .is_in = is_in == 1, .first_gpu = g};
        }
    }
    for (uint32_t v = 0; v < n_nodes && has_uplink; v++)
        for (uint32_t is_in = 0; is_in < 2; is_in++) {
            uplinks[is_in * n_nodes + v] = id;
            resources[id++] = (struct mp_resource){.bytes_per_s = UINT64_C(200000000000) / share,
                                                   .is_in = is_in == 1,
                                                   .is_uplink = true,
                                                   .first_gpu = 8 * v};
        }
    levels[0].uplink_out = has_uplink ? uplinks : NULL;
    levels[0].uplink_in = has_uplink ? uplinks + n_nodes : NULL;
    t->gpus = gpus;
    t->resources = resources;
    t->levels = levels;
    t->n_levels = 2;
    t->n_resources = id;
    return t;
}

/* Lognormal pairs, all ports equally full: where orders matter most. */
static void fill_balanced(uint64_t *matrix, uint32_t n) {
    bench_fill(matrix, n, BENCH_LOGNORMAL, 1);
    for (uint32_t pass = 0; pass < 200; pass++)
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += (double)matrix[pass % 2 == 0 ? i * n + j : j * n + i];
            for (uint32_t j = 0; j < n; j++) {
                uint64_t *x = &matrix[pass % 2 == 0 ? i * n + j : j * n + i];
                *x = (uint64_t)((double)*x * 1e8 / sum);
            }
        }
}

static void measure(const char *what, struct mp_arena *arena, struct mp_topology *t, const struct mp_order *order,
                    double reference) {
    static const char *const modes[] = {"free", "barrier", "coupled"};
    const uint32_t n = t->n_gpus;
    struct mp_error err = {0};
    struct mp_net *net;
    uint64_t n_transfers = 0, time_ns;
    bench_require(mp_net_new(&net, t, &err), &err);
    uint64_t *matrix = mp_arena_alloc(arena, (size_t)n * n, sizeof *matrix);
    if (matrix == NULL)
        exit(4);
    fill_balanced(matrix, n);
    for (uint32_t s = 0; s < order->n_stages; s++)
        n_transfers += order->stages[s].n;
    for (int mode = 0; mode < 3; mode++) {
        double used = 0, flows = 0;
        while (used < 0.3) {
            double start = bench_seconds();
            for (int k = 0; k < (n_transfers < 1000 ? 100 : 2); k++) {
                bench_require(mp_net_staged(net, order, k % 2 == 1 ? MP_COMBINE_REVERSED : MP_COMBINE_FORWARD,
                                            (enum mp_stage_mode)mode, matrix, &time_ns, &err),
                              &err);
                flows += (double)n_transfers;
            }
            used += bench_seconds() - start;
        }
        printf("%-22s %-7s %5llu transfers, %3u stages, %2u GPUs %8.3f ms %9.3g flows/s (reference %.0e, %.1fx)\n",
               what, modes[mode], (unsigned long long)n_transfers, order->n_stages, n,
               1e3 * used * (double)n_transfers / flows, flows / used, reference, flows / used / reference);
    }
    mp_net_free(net);
}

/* What planning makes: 2 n bottleneck matchings and the flush that they leave. */
static struct mp_order planned(struct mp_arena *a, struct mp_topology *t) {
    const uint32_t n = t->n_gpus;
    const int64_t options[] = {2 * n};
    struct mp_error err = {0};
    struct mp_net *net;
    struct mp_schedule s;
    struct mp_order order;
    enum mp_outcome outcome;
    uint64_t *matrix = mp_arena_alloc(a, (size_t)n * n, sizeof *matrix);
    if (matrix == NULL)
        exit(4);
    fill_balanced(matrix, n);
    bench_require(mp_net_new(&net, t, &err), &err);
    struct mp_order_problem in = {
        .topology = t, .matrix = matrix, .net = net, .mode = MP_STAGE_COUPLED, .option_values = options};
    bench_require(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, "matchings"), &in, &s, &outcome, &err), &err);
    bench_require(mp_schedule_order(&order, &s, matrix, 65536, "matchings", a, &err), &err);
    mp_schedule_free(&s);
    mp_net_free(net);
    return order;
}

int main(void) {
    struct mp_arena *a = mp_arena_new();
    struct mp_order order;
    static const uint32_t plain[][2] = {{8, 1}, {8, 4}, {64, 1}, {64, 4}};
    for (size_t k = 0; k < sizeof plain / sizeof plain[0]; k++) {
        order = rounds(a, plain[k][0], plain[k][1]);
        measure("own ports", a, bench_switch(a, plain[k][0]), &order, 1e7);
    }
    order = rounds_and_flush(a, 8, 2);
    measure("own ports, flush", a, bench_switch(a, 8), &order, 1e5);
    order = rounds_and_flush(a, 64, 2);
    measure("own ports, flush", a, bench_switch(a, 64), &order, 1e5);
    order = planned(a, bench_switch(a, 64));
    measure("2n matchings, flush", a, bench_switch(a, 64), &order, 1e5);
    order = rounds_and_flush(a, 64, 2);
    measure("NVLink and NICs, flush", a, nodes_of_8(a, 64, 1, false), &order, 1e5);
    measure("shared NICs, flush", a, nodes_of_8(a, 64, 2, false), &order, 1e5);
    order = rounds(a, 64, 1);
    measure("shared NICs", a, nodes_of_8(a, 64, 2, false), &order, 1e5);
    measure("uplinks at half", a, nodes_of_8(a, 64, 1, true), &order, 1e5);
    mp_arena_free(a);
    return 0;
}
