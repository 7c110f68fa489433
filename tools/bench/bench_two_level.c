/* Orders between nodes at 9:1 NVLink to NIC: milliseconds of planning on one core, and simulated time with launches
 * over the relay bound (every byte through the NICs of its node), with what the direct single shot takes beside it.
 *
 * On more than 400 GPUs a full simulation takes minutes: there the time is the sum over the single shots of launch,
 * latency and port bound, plus what all pairs of nodes at once lose by sharing ports fairly, simulated once on nodes.
 */
#include "bench_two_level_cases.h"
#include <moeplan/strategy.h>
#include <string.h>

struct reference {
    uint32_t n_nodes, per_node;
    double planning_ms, gain; /* 0 = none */
};

static double node_loss(uint32_t n_nodes, const struct mp_topology *t, const uint64_t *matrix, struct mp_arena *arena) {
    struct mp_error err = {0};
    struct mp_topology *nodes = bench_switch(arena, n_nodes);
    uint64_t *between = calloc((size_t)n_nodes * n_nodes, sizeof *between), time_ns;
    struct mp_net *net;
    if (between == NULL)
        exit(4);
    mp_node_matrix(t, matrix, between);
    bench_require(mp_net_new(&net, nodes, &err), &err);
    bench_require(mp_net_concurrent(net, between, &time_ns, NULL, &err), &err);
    double loss = (double)(time_ns - nodes->levels[0].latency_ns) / (double)mp_net_port_bound(net, between) - 1;
    mp_net_free(net);
    free(between);
    return loss;
}

/* Estimated time of the schedule as an order of the plan. */
static double estimate(const struct mp_schedule *s, const struct mp_order_problem *in) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_order order;
    uint64_t *between = calloc((size_t)s->n * s->n, sizeof *between), staged_ns, single_ns;
    if (between == NULL || arena == NULL)
        exit(4);
    mp_node_matrix(in->topology, in->matrix, between);
    bench_require(mp_schedule_order(&order, s, between, 65536, "two-level", arena, &err), &err);
    bench_require(mp_net_order_estimate(in->net, &order, MP_COMBINE_FORWARD, in->matrix, &staged_ns, &single_ns, &err),
                  &err);
    mp_arena_free(arena);
    free(between);
    return (double)staged_ns;
}

static void measure(const struct reference *x, enum bench_skew skew, double s, uint32_t simulated_max) {
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, "two-level");
    const uint32_t n = x->n_nodes * x->per_node;
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_cluster(arena, x->n_nodes, x->per_node);
    uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix), time_ns = 0, direct_ns = 0;
    if (strategy == NULL || matrix == NULL)
        exit(4);
    if (skew == BENCH_EVEN) /* 235 MB: 4,096 tokens * 8 experts * 7,168 bytes from each GPU */
        bench_even_nodes(matrix, x->n_nodes, x->per_node, 235e6, 5);
    else
        bench_zipf(matrix, n, skew, s, 235e6, 1);
    struct mp_order_problem in = {.topology = t, .matrix = matrix, .mode = MP_STAGE_COUPLED};
    bench_require(mp_net_new(&in.net, t, &err), &err);
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    double planning = 1e9;
    for (int k = 0; k < (n > 400 ? 3 : 7); k++) {
        if (k > 0)
            mp_schedule_free(&schedule);
        double start = bench_seconds();
        bench_require(mp_order_run(strategy, &in, &schedule, &outcome, &err), &err);
        planning = fmin(planning, bench_seconds() - start);
    }
    const double relay = (double)mp_relay_bound_ns(t, matrix);
    double staged, direct;
    if (n > simulated_max) {
        staged = estimate(&schedule, &in) + node_loss(x->n_nodes, t, matrix, arena) * relay;
        direct = (double)mp_net_port_bound(in.net, matrix);
    } else {
        bench_require(mp_schedule_time(&schedule, &in, &time_ns, &err), &err);
        staged = (double)time_ns;
        if (n <= 64)
            bench_require(mp_net_concurrent(in.net, matrix, &direct_ns, NULL, &err), &err);
        direct = n <= 64 ? (double)(direct_ns + t->launch_ns) : (double)mp_net_port_bound(in.net, matrix);
    }
    char what[40];
    if (skew == BENCH_EVEN)
        snprintf(what, sizeof what, "even nodes, uneven pairs");
    else
        snprintf(what, sizeof what, "Zipf %.1f over %s", s, bench_skew_names[skew]);
    printf("%3u x %u GPUs, %-24s  %2u stages, planning %6.2f ms", x->n_nodes, x->per_node, what, schedule.n_stages,
           planning * 1e3);
    if (x->planning_ms > 0 && skew != BENCH_EVEN)
        printf(" (reference %3.0f)", x->planning_ms);
    printf("  %s %.3f of the bound of %6.2f ms (reference 1.05), direct %s %.3f: %.2fx",
           n > simulated_max ? "summed" : "takes", staged / relay, relay / 1e6, n <= 64 ? "takes" : "at least",
           direct / relay, direct / staged);
    if (x->gain > 0 && s > 0.7 && s < 0.9)
        printf(" (reference %.1fx)", x->gain);
    printf("\n");
    mp_schedule_free(&schedule);
    mp_net_free(in.net);
    mp_arena_free(arena);
    free(matrix);
}

int main(int argc, char **argv) {
    static const struct reference cases[] = {{4, 2, 0, 1.4}, {4, 8, 0, 0}, {40, 8, 10, 0}, {128, 8, 100, 0}};
    const uint32_t simulated_max = argc > 1 && strcmp(argv[1], "simulate") == 0 ? 4096 : 400;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (int skew = BENCH_PAIRS; skew <= BENCH_EXPERTS; skew++)
            for (int s = 4; s <= 12; s += 4)
                measure(&cases[c], (enum bench_skew)skew, s / 10.0, simulated_max);
        measure(&cases[c], BENCH_EVEN, 0, simulated_max);
    }
    return 0;
}
