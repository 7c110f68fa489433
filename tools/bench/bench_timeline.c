/* What the pipelined reading of a step (docs/COST.md part 6) changes, on real recordings (the data folder is the
 * argument): plans made on half of the requests, every layer forced to each order, the other half replayed.
 *
 * An order strategy that keeps the single shot on every layer shows "-". One row per recording, cluster, step size and
 * placement, mean held-out step: barrier, pipelined   step time of each reading, and the change from one to the other
 *   best                 the order with the shortest step, and what it gains on the single shot
 * Then what is chosen by each reading (order auto): layers that go in stages, and the pipelined held-out
 * step of both.
 * Reference: the same plan and steps with barriers. */
#include "bench_matrix.h"
#include <moeplan/strategy.h>
#include <string.h>

enum { STEPS_MAX = 16, UNIT = 4096, N_ORDERS = 5 };
static const char *const orders[N_ORDERS] = {"single", "spread-out", "matchings", "bvn", "two-level"};

struct recording {
    const char *file, *model, *name, *split;
    uint32_t n_experts, sizes[2]; /* tokens of a step on all ranks (prefill), requests on each rank (decode) */
    int layer_base;
    enum mp_phase phase;
};
static const struct recording recordings[] = {
    {"traces/qwen1.5-moe-6ranks/dispatch_counts.csv",
     "qwen1.5-moe-a2.7b",
     "qwen1.5 6 ranks",
     "time:0.5",
     0,
     {1},
     0,
     MP_PHASE_PREFILL},
    {"traces/deepseek-v2-lite/chat_prefill.npz",
     "deepseek-v2-lite",
     "deepseek-v2-lite",
     "0.5",
     64,
     {4096, 16384},
     1,
     MP_PHASE_PREFILL},
    {"traces/gpt-oss-20b/mmlu_test.npz", "gpt-oss-20b", "gpt-oss-20b", "0.5", 32, {16, 64}, 0, MP_PHASE_DECODE},
};

struct bench {
    struct mp_trace *trace;
    struct mp_topology *t;
    struct mp_model *model;
    struct mp_part planning, held_out;
    struct mp_workload *planned, *replayed;
    struct mp_sim_options sim;
};

/* The order of each layer's mean planning dispatch; false when the strategy has none here. */
static bool force(const struct bench *b, struct mp_plan *p, const char *name) {
    struct mp_error err = {0};
    struct mp_router *router;
    struct mp_traffic *traffic;
    struct mp_net *net;
    const size_t n = p->n_gpus;
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, name);
    struct mp_order *made = mp_arena_alloc(p->arena, p->n_layers, sizeof *made);
    uint64_t *mean = calloc(n * n, sizeof *mean), *nodes = calloc(n * n, sizeof *nodes);
    bool is_any = false;
    bench_require(mp_router_new(&router, p, &err), &err);
    bench_require(mp_traffic_new(&traffic, p->n_gpus, &err), &err);
    bench_require(mp_net_new(&net, b->t, &err), &err);
    const struct mp_cost_setup setup = {p, router, b->planned, b->t, b->model, b->sim.dispatcher, b->sim.sources};
    p->n_orders = 0;
    p->orders = made;
    p->stage_mode = MP_STAGE_COUPLED;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        struct mp_schedule schedule;
        enum mp_outcome outcome;
        memset(mean, 0, n * n * sizeof *mean);
        p->layers[l].order = MP_NONE;
        for (uint32_t s = 0; s < b->planned->n_steps; s++) {
            bench_require(mp_traffic_compute(traffic, &setup, s, l, &err), &err);
            for (size_t k = 0; k < n * n; k++)
                mean[k] += traffic->dispatch[k];
        }
        for (size_t k = 0; k < n * n; k++)
            mean[k] /= b->planned->n_steps;
        const struct mp_order_problem problem = {
            .topology = b->t, .matrix = mean, .net = net, .mode = MP_STAGE_COUPLED};
        bench_require(mp_order_run(strategy, &problem, &schedule, &outcome, &err), &err);
        if (outcome == MP_FOUND && schedule.n_stages > 0) {
            if (schedule.between_nodes)
                mp_node_matrix(b->t, mean, nodes);
            bench_require(mp_schedule_order(&made[p->n_orders], &schedule, schedule.between_nodes ? nodes : mean, UNIT,
                                            name, p->arena, &err),
                          &err);
            p->layers[l].order = p->n_orders++;
            p->layers[l].combine = schedule.has_flush ? MP_COMBINE_SWAPPED : MP_COMBINE_REVERSED;
            is_any = true;
        }
        mp_schedule_free(&schedule);
    }
    mp_net_free(net);
    mp_traffic_free(traffic);
    mp_router_free(router);
    free(mean);
    free(nodes);
    return is_any;
}

static double step_us(const struct bench *b, const struct mp_plan *p, bool is_pipelined) {
    struct mp_error err = {0};
    struct mp_sim_options o = b->sim;
    struct mp_sim_result *r;
    o.is_pipelined = is_pipelined;
    bench_require(mp_simulate(&r, p, b->replayed, b->t, b->model, &o, &err), &err);
    double us = (double)r->mean.step_ns * 1e-3;
    mp_sim_result_free(r);
    return us;
}

static void row(const struct bench *b, const struct mp_plan_request *request, const char *label) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    double seconds, us[N_ORDERS][2];
    uint32_t best[2] = {0, 0};
    bench_require(mp_plan_make(&p, request, &outcome, &seconds, &err), &err);
    if (p == NULL) {
        printf("%s %s: %s\n", label, request->strategy, err.message);
        return;
    }
    printf("%-40s %-10s %2u%c", label, request->strategy, b->replayed->n_steps, b->replayed->is_bootstrap ? 'd' : 'r');
    for (uint32_t k = 0; k < N_ORDERS; k++) {
        if (k > 0 && !force(b, p, orders[k])) {
            us[k][0] = us[k][1] = INFINITY;
            printf(" | %28s", "-");
            continue;
        }
        for (uint32_t reading = 0; reading < 2; reading++) {
            us[k][reading] = step_us(b, p, reading == 1);
            best[reading] = us[k][reading] < us[best[reading]][reading] ? k : best[reading];
        }
        printf(" | %9.1f %9.1f %+6.2f %%", us[k][0], us[k][1], 100 * (us[k][1] / us[k][0] - 1));
    }
    printf(" | %s %+.2f %%, %s %+.2f %%\n", orders[best[0]], 100 * (us[best[0]][0] / us[0][0] - 1), orders[best[1]],
           100 * (us[best[1]][1] / us[0][1] - 1));
    fflush(stdout);
    mp_plan_free(p);
}

/* The plan by each reading, order `auto`. */
static void choose(const struct bench *b, struct mp_plan_request request, const char *label) {
    struct mp_error err = {0};
    struct mp_plan *p[2] = {NULL, NULL};
    enum mp_outcome outcome;
    double us[2], seconds[2];
    uint32_t n_staged[2] = {0, 0};
    bool is_same = true;
    request.order = "auto";
    for (int reading = 0; reading < 2; reading++) {
        request.sim.is_pipelined = reading == 1;
        bench_require(mp_plan_make(&p[reading], &request, &outcome, &seconds[reading], &err), &err);
        if (p[reading] == NULL)
            exit(4);
        us[reading] = step_us(b, p[reading], true);
        for (uint32_t l = 0; l < p[reading]->n_layers; l++)
            n_staged[reading] += p[reading]->layers[l].order != MP_NONE;
    }
    for (uint32_t l = 0; l < p[0]->n_layers; l++)
        is_same = is_same && p[0]->layers[l].order == p[1]->layers[l].order &&
                  memcmp(p[0]->layers[l].slot_expert, p[1]->layers[l].slot_expert,
                         p[0]->n_slots * sizeof *p[0]->layers[l].slot_expert) == 0;
    printf("%-40s chosen with barriers: %-12s %2u of %u layers staged, %9.1f; pipelined: %-12s %2u, %9.1f  %+.2f %%%s "
           "(%.1f s, %.1f s)\n",
           label, p[0]->provenance.place, n_staged[0], p[0]->n_layers, us[0], p[1]->provenance.place, n_staged[1],
           us[1], 100 * (us[1] / us[0] - 1), is_same ? ", the same plan" : "", seconds[0], seconds[1]);
    fflush(stdout);
    mp_plan_free(p[0]);
    mp_plan_free(p[1]);
}

/* Recorded steps where at least four fill, else drawn ones. */
static void measure(struct bench *b, const struct recording *r, const struct mp_split *split, const char *topology,
                    uint32_t size) {
    static const char *const recipes[] = {"contiguous", "lpt"};
    struct mp_error err = {0};
    const bool is_decode = r->phase == MP_PHASE_DECODE;
    char label[96];
    bench_require(mp_topology_load(&b->t, topology, &mp_limits_default, &err), &err);
    struct mp_batching batching = {.phase = r->phase,
                                   .n_ranks = b->t->n_gpus,
                                   .batch_per_rank = is_decode ? size : 0,
                                   .tokens_per_rank = is_decode ? 0 : mp_ceil_div(size, b->t->n_gpus),
                                   .n_steps_max = STEPS_MAX,
                                   .seed = 1};
    b->sim = (struct mp_sim_options){
        .dispatcher = mp_dispatcher_default(r->phase, b->trace->kind), .stage_mode = -1, .n_threads = 2, .seed = 1};
    for (int is_drawn = 0; is_drawn < 2; is_drawn++) {
        batching.resample = is_drawn == 1;
        enum mp_status status = mp_workload_build(&b->planned, &b->planning, &batching, &err);
        if (status == MP_OK)
            status = mp_workload_build(&b->replayed, &b->held_out, &batching, &err);
        if (status == MP_OK && (b->trace->kind == MP_TRACE_COUNTS || is_drawn || b->planned->n_steps >= 4))
            break;
        mp_workload_free(b->planned);
        mp_workload_free(b->replayed);
        b->planned = b->replayed = NULL;
        mp_error_clear(&err);
    }
    snprintf(label, sizeof label, "%s, %s, %u", r->name, topology, size);
    for (size_t k = 0; k < 2 && b->replayed != NULL; k++) {
        const struct mp_plan_request request = {.planning = &b->planning,
                                                .batching = batching,
                                                .split = *split,
                                                .topology = b->t,
                                                .model = b->model,
                                                .sim = b->sim,
                                                .strategy = recipes[k],
                                                .stage_mode = MP_STAGE_COUPLED,
                                                .seed = 1,
                                                .n_threads = 2,
                                                .limits = &mp_limits_default};
        row(b, &request, label);
        choose(b, request, label);
    }
    mp_workload_free(b->planned);
    mp_workload_free(b->replayed);
    b->planned = b->replayed = NULL;
    mp_topology_free(b->t);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: bench_timeline DATA_FOLDER\n");
        return 2;
    }
    printf("mean held-out step in us: barrier, pipelined, change; by order, and the best order with barriers and "
           "pipelined\n%-54s",
           "recording, cluster, size, placement, steps");
    for (uint32_t k = 0; k < N_ORDERS; k++)
        printf(" | %-28s", orders[k]);
    printf(" | best: barrier, pipelined\n");
    for (size_t i = 0; i < sizeof recordings / sizeof *recordings; i++) {
        const struct recording *r = &recordings[i];
        struct bench b = {0};
        struct mp_error err = {0};
        struct mp_split split;
        struct mp_trace_hints hints = mp_trace_hints_none;
        char path[512];
        snprintf(path, sizeof path, "%s/%s", argv[1], r->file);
        hints.phase = r->phase;
        hints.layer_base = r->layer_base;
        hints.ids_are_physical = 0;
        hints.n_experts = r->n_experts;
        hints.is_ranked = 0;
        bench_require(mp_trace_load(&b.trace, path, &hints, &mp_limits_default, &err), &err);
        bench_require(mp_model_load(&b.model, r->model, &mp_limits_default, &err), &err);
        bench_require(mp_split_parse(&split, r->split, 1, &err), &err);
        bench_require(mp_part_split(&b.planning, &b.held_out, b.trace, &split, &err), &err);
        for (size_t k = 0; k < 2 && r->sizes[k] > 0; k++) {
            static const char *const tokens[] = {"8:h100", "2x8:h100"}, *const counts[] = {"6:h100", "3x2:h100"};
            for (size_t t = 0; t < 2; t++)
                measure(&b, r, &split, b.trace->kind == MP_TRACE_COUNTS ? counts[t] : tokens[t], r->sizes[k]);
        }
        mp_part_free(&b.planning);
        mp_part_free(&b.held_out);
        mp_trace_free(b.trace);
        mp_model_free(b.model);
    }
    return 0;
}
