/* Orders between nodes at 9:1 NVLink to NIC: milliseconds of planning on one core, and simulated time with launches
 * over the relay bound (every byte through the NICs of its node), with what the direct single shot takes beside it;
 * then every way of ordering the nodes (two-level.nodes) beside the others.
 *
 * On more than 400 GPUs a full simulation takes minutes: there the time is the sum over the single shots of launch,
 * latency and port bound, plus what the rails of each stage lose by sharing ports fairly, simulated on nodes. On more
 * than 64 GPUs the direct shot is an estimate (planner/order/fair_share.c), and on more than 400 its port bound.
 */
#include "bench_two_level_cases.h"
#include "fair_share.h"
#include "node_stages.h"
#include <string.h>

struct reference {
    uint32_t n_nodes, per_node;
    double planning_ms, gain; /* 0 = none */
};

/* What the rails of the order's stages lose by fair shares. A slice loses like all others do. */
static double rails_loss(const struct mp_schedule *s, const uint64_t *between, struct mp_arena *arena) {
    struct mp_error err = {0};
    const size_t n = s->n;
    struct mp_topology *nodes = bench_switch(arena, s->n);
    uint64_t *stage = calloc(n * n, sizeof *stage), time_ns, all = 0;
    struct mp_net *net;
    double loss = 0, of_slices = -1;
    if (stage == NULL)
        exit(4);
    bench_require(mp_net_new(&net, nodes, &err), &err);
    for (size_t p = 0; p < n * n; p++)
        all += p % (n + 1) == 0 ? 0 : between[p];
    for (uint32_t k = 0; k < s->n_stages; k++) {
        uint64_t bytes = 0;
        bool is_slice = true;
        memset(stage, 0, n * n * sizeof *stage);
        for (uint32_t i = s->first[k]; i < s->first[k + 1]; i++) {
            const size_t pair = s->pieces[i].src * n + s->pieces[i].dst;
            stage[pair] = s->pieces[i].bytes;
            bytes += s->pieces[i].bytes;
        }
        const double share = (double)bytes / (double)all;
        for (size_t p = 0; p < n * n && is_slice; p++)
            is_slice =
                p % (n + 1) == 0 || fabs((double)stage[p] - share * (double)between[p]) < 1e-3 * (double)between[p];
        if (s->first[k + 1] - s->first[k] <= n || (is_slice && of_slices >= 0)) { /* a matching loses nothing */
            loss += s->first[k + 1] - s->first[k] <= n ? 0 : of_slices * share;
            continue;
        }
        bench_require(mp_net_concurrent(net, stage, &time_ns, NULL, &err), &err);
        const double lost =
            (double)time_ns - (double)nodes->levels[0].latency_ns - (double)mp_net_port_bound(net, stage);
        of_slices = is_slice ? lost / share : of_slices;
        loss += lost;
    }
    mp_net_free(net);
    free(stage);
    /* Nodes of the switch have ports of 450 GB/s, those of the cluster eight NICs of 50. */
    return loss * 450 / 400;
}

/* Estimated time of the schedule as an order of the plan. */
static double estimate(const struct mp_schedule *s, const struct mp_order_problem *in, uint32_t per_node) {
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
    const double loss = rails_loss(s, between, arena) * 8 / per_node;
    mp_arena_free(arena);
    free(between);
    return (double)staged_ns + loss;
}

/* Plans and times `way`, `rounds` times over. */
static double run_way(struct mp_order_problem *in, enum mp_node_way way, int rounds, uint32_t per_node,
                      bool is_simulated, uint32_t *n_stages, double *planning) {
    const struct mp_setting setting = {"two-level", "nodes", way};
    struct mp_error err = {0};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t time_ns = 0;
    double ns;
    in->settings = &setting;
    in->n_settings = 1;
    *planning = 1e9;
    for (int k = 0; k < rounds; k++) {
        if (k > 0)
            mp_schedule_free(&schedule);
        double start = bench_seconds();
        bench_require(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, "two-level"), in, &schedule, &outcome, &err), &err);
        *planning = fmin(*planning, bench_seconds() - start);
    }
    *n_stages = schedule.n_stages;
    if (schedule.n_stages == 0) {
        ns = 0;
    } else if (is_simulated) {
        bench_require(mp_schedule_time(&schedule, in, &time_ns, &err), &err);
        ns = (double)time_ns;
    } else {
        ns = estimate(&schedule, in, per_node);
    }
    mp_schedule_free(&schedule);
    return ns;
}

static uint64_t *matrix_of(enum bench_skew skew, double s, uint32_t n_nodes, uint32_t per_node) {
    uint64_t *matrix = calloc((size_t)n_nodes * per_node * n_nodes * per_node, sizeof *matrix);
    if (matrix == NULL)
        exit(4);
    if (skew == BENCH_EVEN) /* 235 MB: 4,096 tokens * 8 experts * 7,168 bytes from each GPU */
        bench_even_nodes(matrix, n_nodes, per_node, 235e6, 5);
    else if (skew == BENCH_HOT)
        bench_hot_node(matrix, n_nodes, per_node, 235e6, 3);
    else
        bench_zipf(matrix, n_nodes * per_node, skew, s, 235e6, 1);
    return matrix;
}

static const char *name_of(char *text, size_t size, enum bench_skew skew, double s) {
    if (skew == BENCH_EVEN || skew == BENCH_HOT)
        snprintf(text, size, "%s", bench_skew_names[skew]);
    else
        snprintf(text, size, "Zipf %.1f over %s", s, bench_skew_names[skew]);
    return text;
}

/* The direct shot; *how says how it is known. */
static double direct_ns(const struct mp_order_problem *in, struct mp_arena *arena, const char **how) {
    const struct mp_topology *t = in->topology;
    struct mp_error err = {0};
    uint64_t time_ns;
    double ns;
    *how = t->n_gpus <= 64 ? "takes" : t->n_gpus <= 400 ? "about" : "at least";
    if (t->n_gpus <= 64) {
        bench_require(mp_net_concurrent(in->net, in->matrix, &time_ns, NULL, &err), &err);
        ns = (double)time_ns;
    } else if (t->n_gpus <= 400) {
        bench_require(mp_fair_share_ns(&ns, t, in->matrix, arena, &err), &err);
    } else {
        ns = (double)mp_net_port_bound(in->net, in->matrix);
    }
    return ns + (double)t->launch_ns;
}

static void measure(const struct reference *x, enum bench_skew skew, double s, uint32_t simulated_max) {
    const uint32_t n = x->n_nodes * x->per_node;
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_cluster(arena, x->n_nodes, x->per_node);
    uint64_t *matrix = matrix_of(skew, s, x->n_nodes, x->per_node);
    struct mp_order_problem in = {.topology = t, .matrix = matrix, .mode = MP_STAGE_COUPLED};
    bench_require(mp_net_new(&in.net, t, &err), &err);
    const double relay = (double)mp_relay_bound_ns(t, matrix);
    const char *how;
    char what[40];
    uint32_t n_stages;
    double planning, direct = direct_ns(&in, arena, &how);
    double staged = run_way(&in, MP_NODES_BEST, n > 400 ? 3 : 7, x->per_node, n <= simulated_max, &n_stages, &planning);
    printf("%3u x %u GPUs, %-24s  %2u stages, planning %6.2f ms", x->n_nodes, x->per_node,
           name_of(what, sizeof what, skew, s), n_stages, planning * 1e3);
    if (x->planning_ms > 0)
        printf(" (reference %3.0f)", x->planning_ms);
    if (n_stages == 0)
        printf("  single shot: no order between nodes is known to be faster");
    else
        printf("  %s %.3f of the bound of %6.2f ms (reference 1.05), direct %s %.3f: %.2fx",
               n > simulated_max ? "summed" : "takes", staged / relay, relay / 1e6, how, direct / relay,
               direct / staged);
    if (x->gain > 0 && s > 0.7 && s < 0.9)
        printf(" (reference %.1fx)", x->gain);
    printf("\n");
    mp_net_free(in.net);
    mp_arena_free(arena);
    free(matrix);
}

/* One line of the table of ways. Exact decompositions of many nodes have thousands of stages, each a launch. */
static void compare_ways(const struct reference *x, enum bench_skew skew, double s, uint32_t simulated_max) {
    static const enum mp_node_way ways[] = {MP_NODES_SLICES, MP_NODES_MATCHINGS, MP_NODES_NESTED,
                                            MP_NODES_HYBRID, MP_NODES_EXACT,     MP_NODES_BEST};
    const uint32_t n = x->n_nodes * x->per_node;
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_topology *t = bench_cluster(arena, x->n_nodes, x->per_node);
    uint64_t *matrix = matrix_of(skew, s, x->n_nodes, x->per_node);
    struct mp_order_problem in = {.topology = t, .matrix = matrix, .mode = MP_STAGE_COUPLED};
    bench_require(mp_net_new(&in.net, t, &err), &err);
    const double relay = (double)mp_relay_bound_ns(t, matrix);
    const char *how;
    char what[40];
    const double direct = direct_ns(&in, arena, &how);
    printf("%3u x %u %-24s", x->n_nodes, x->per_node, name_of(what, sizeof what, skew, s));
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        uint32_t n_stages;
        double planning;
        if (x->n_nodes > 64 && (ways[i] == MP_NODES_HYBRID || ways[i] == MP_NODES_EXACT)) {
            printf(" %20s", "-");
            continue;
        }
        double ns = run_way(&in, ways[i], n > 400 ? 1 : 3, x->per_node, n <= simulated_max, &n_stages, &planning);
        if (n_stages == 0)
            printf(" %20s", "single shot");
        else
            printf(" %6.3f %5u %6.2f ", ns / relay, n_stages, planning * 1e3);
        fflush(stdout);
    }
    printf("  %s %.3f\n", how, direct / relay);
    mp_net_free(in.net);
    mp_arena_free(arena);
    free(matrix);
}

int main(int argc, char **argv) {
    static const struct reference cases[] = {{4, 2, 0, 1.4}, {4, 8, 0, 0}, {40, 8, 10, 0}, {128, 8, 100, 0}};
    static const struct reference tables[] = {{4, 8, 0, 0}, {16, 8, 0, 0}, {40, 8, 10, 0}, {128, 8, 100, 0}};
    const uint32_t simulated_max = argc > 1 && strcmp(argv[1], "simulate") == 0 ? 4096 : 400;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (int skew = BENCH_PAIRS; skew <= BENCH_EXPERTS; skew++)
            for (int s = 4; s <= 12; s += 4)
                measure(&cases[c], (enum bench_skew)skew, s / 10.0, simulated_max);
        measure(&cases[c], BENCH_EVEN, 0, simulated_max);
    }
    printf("\nways of ordering the nodes: time over the relay bound, stages, planning in ms\n%-32s %20s %20s %20s %20s "
           "%20s %20s  direct\n",
           "", "slices", "matchings", "nested", "hybrid", "exact", "chosen");
    for (size_t c = 0; c < sizeof tables / sizeof tables[0]; c++) {
        for (int s = 4; s <= 12; s += 4)
            compare_ways(&tables[c], BENCH_PAIRS, s / 10.0, simulated_max);
        compare_ways(&tables[c], BENCH_EVEN, 0, simulated_max);
        compare_ways(&tables[c], BENCH_HOT, 0, simulated_max);
    }
    return 0;
}
