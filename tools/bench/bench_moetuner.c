/* MoETuner's two integer programs on recorded requests, beside what they are compared with: what the programs count
 * themselves (rows of the fullest GPU over an even share; longest transfers from layer to layer), and the honest
 * column: the mean step on requests that were not planned on, as simulated, tokens back at their own GPU after each
 * layer. Reference: MoETuner, arXiv 2502.06643: 9.3 % (one node) and 17.5 % (two) end to end over contiguous,
 * Mixtral-8x7B. usage: bench_moetuner DATA_FOLDER [LAYERS [NODES]] */
#include "place_moetuner.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_moetuner: %s\n", err->message);
    exit(1);
}

/* The first layers of a recording, in pieces of 24 tokens of one request each, 1,000 at most. */
static void shorten(struct mp_trace **out, const struct mp_trace *t, uint32_t n_layers) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    static uint16_t ids[128 * MP_MAX_TOP_K];
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "reduced",
                                       .format = "bench",
                                       .n_layers = n_layers,
                                       .n_experts = t->n_experts,
                                       .top_k = t->top_k};
    require(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), &err);
    uint64_t n_pieces = 0;
    for (uint64_t q = 0; q < t->n_requests; q++)
        for (uint64_t i = 0; i < t->requests[q].n_rows / 24 * 24 && n_pieces < 1000; i++) {
            const struct mp_request request = {.id = n_pieces, .source = MP_NONE, .category = MP_NONE};
            if (i % 24 == 0)
                require(mp_trace_builder_request(b, &request, &err), &err);
            n_pieces += i % 24 == 23;
            for (uint32_t l = 0; l < n_layers; l++) {
                uint16_t *of = ids + (size_t)l * t->top_k;
                for (uint32_t k = mp_trace_row(t, l, t->requests[q].first_row + i, of); k < t->top_k; k++)
                    of[k] = MP_NO_EXPERT;
            }
            require(mp_trace_builder_row(b, ids, NULL, &err), &err);
        }
    require(mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", out, &err),
            &err);
}

static void measure(const struct mp_trace *trace, const char *name, const char *cluster, uint64_t nodes) {
    static const char *const strategies[] = {"contiguous", "lpt", "moetuner", "search"};
    struct mp_error err = {0};
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part[2];
    struct mp_workload *w[2];
    struct mp_arena *arena = mp_arena_new();
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000};
    double first = 0;
    require(mp_topology_load(&topology, cluster, &mp_limits_default, &err), &err);
    require(mp_model_generic(&model, NULL, trace->n_layers, trace->n_experts, trace->top_k, &err), &err);
    require(mp_part_split(&part[0], &part[1], trace, &split, &err), &err);
    struct mp_plan_request request = {.planning = &part[0],
                                      .batching = {.phase = MP_PHASE_DECODE,
                                                   .n_ranks = topology->n_gpus,
                                                   .batch_per_rank = 48 / topology->n_gpus,
                                                   .n_steps_max = 64},
                                      .split = split,
                                      .topology = topology,
                                      .model = model,
                                      .sim = {.dispatcher = mp_dispatcher_find("deepep-ll"), .stage_mode = -1},
                                      .n_threads = 1,
                                      .limits = &mp_limits_default};
    for (int k = 0; k < 2; k++)
        require(mp_workload_build(&w[k], &part[k], &request.batching, &err), &err);
    struct mp_problem problem = {.workload = w[0], .topology = topology, .model = model};
    require(mp_load_table(&problem.load, w[0], 1, arena, &err), &err);
    uint64_t even = 0;
    for (uint64_t i = 0; i < (uint64_t)trace->n_layers * trace->n_experts; i++)
        even += problem.load[i];
    printf("%s, %u layers of %u experts, top %u, %s\n", name, trace->n_layers, trace->n_experts, trace->top_k, cluster);
    for (size_t i = 0; i < sizeof strategies / sizeof *strategies; i++) {
        const struct mp_setting setting = {"moetuner", "nodes", (int64_t)nodes};
        struct mp_plan *p;
        struct mp_sim_result *r;
        struct mp_moetuner_worth worth;
        enum mp_outcome outcome;
        request.strategy = strategies[i];
        request.settings = &setting;
        request.n_settings = strcmp(strategies[i], "moetuner") == 0;
        double start = seconds();
        require(mp_plan_make(&p, &request, &outcome, NULL, &err), &err);
        start = seconds() - start;
        if (p == NULL) {
            printf("  %-11s n/a: %s\n", strategies[i], err.message);
            mp_error_clear(&err);
            continue;
        }
        require(mp_moetuner_worth(&worth, &problem, p, &err), &err);
        require(mp_simulate(&r, p, w[1], topology, model, &request.sim, &err), &err);
        first = i == 0 ? (double)r->mean.step_ns : first;
        printf("  %-11s fullest GPU %.4f of even, transfers %9.1f us; held out: step %8.1f us, %+.2f %%; %6.2f s%s\n",
               strategies[i], (double)worth.rows * topology->n_gpus / (double)even, (double)worth.transfer_ns / 1e3,
               (double)r->mean.step_ns / 1e3, 100 * ((double)r->mean.step_ns / first - 1), start,
               outcome == MP_STOPPED ? ", stopped by its nodes" : "");
        mp_sim_result_free(r);
        mp_plan_free(p);
    }
    for (int k = 0; k < 2; k++) {
        mp_workload_free(w[k]);
        mp_part_free(&part[k]);
    }
    mp_arena_free(arena);
    mp_topology_free(topology);
    mp_model_free(model);
}

int main(int argc, char **argv) {
    static const char *const names[] = {"traces/gpt-oss-20b/tulu_polyglot.npz",
                                        "traces/deepseek-v2-lite/chat_prefill.npz"};
    static const char *const clusters[] = {"4:h100", "8:h100", "2x2:h100", "2x4:h100"};
    const uint32_t n_layers = argc > 2 ? (uint32_t)atoi(argv[2]) : 4;
    const uint64_t nodes = argc > 3 ? strtoull(argv[3], NULL, 10) : 200;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_moetuner DATA_FOLDER [LAYERS [NODES]]\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < 2; i++) {
        struct mp_error err = {0};
        struct mp_trace *all, *some;
        struct mp_trace_hints hints = mp_trace_hints_none;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", argv[1], names[i]);
        hints.phase = i == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL;
        hints.layer_base = i;
        hints.ids_are_physical = 0;
        hints.n_experts = i == 0 ? 32 : 64;
        hints.is_ranked = i == 0;
        require(mp_trace_load(&all, path, &hints, &mp_limits_default, &err), &err);
        shorten(&some, all, n_layers < all->n_layers ? n_layers : all->n_layers);
        for (size_t c = 0; c < sizeof clusters / sizeof *clusters; c++)
            measure(some, i == 0 ? "gpt-oss-20b" : "deepseek-v2-lite", clusters[c], nodes);
        mp_trace_free(some);
        mp_trace_free(all);
    }
    return 0;
}
