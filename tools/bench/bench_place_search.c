/* Time and memory of planning at full size: 58 layers of 256 experts, top 8, on 8 nodes of 8 GPUs, one million tokens
 * of prefill (synthetic), two threads. References for `auto`: 60 s without redundancy, 90 s with 64 slots more, 2 GiB.
 *
 * usage: bench_place_search [TOKENS [LAYERS [REDUNDANT [STRATEGY...]]]] */
#include <moeplan/moeplan.h>
#include <moeplan/strategy.h>
#include <moeplan/synth.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_place_search: %s\n", err->message);
    exit(1);
}

int main(int argc, char **argv) {
    struct mp_error err = {0};
    struct mp_synth_params params = {.n_layers = 58,
                                     .n_experts = 256,
                                     .top_k = 8,
                                     .first_layer_id = 3,
                                     .n_requests = 2000,
                                     .tokens_per_request_mean = 500,
                                     .phase = MP_PHASE_PREFILL,
                                     .zipf_ppm = 500000,
                                     .coactivation_ppm = 250000,
                                     .cluster_size = 8,
                                     .n_domains = 4,
                                     .domain_ppm = 300000,
                                     .stickiness_ppm = 100000,
                                     .seed = 1};
    struct mp_limits limits = mp_limits_default;
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part, unused;
    if (argc > 1)
        params.n_requests = strtoull(argv[1], NULL, 10) / 500;
    if (argc > 2)
        params.n_layers = (uint32_t)strtoul(argv[2], NULL, 10);
    const uint32_t n_redundant = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    mp_alloc_limit(UINT64_C(16) << 30); /* counts */
    double t0 = seconds();
    require(mp_synth_generate(&trace, &params, &limits, &err), &err);
    require(mp_topology_load(&topology, "8x8:h100", &limits, &err), &err);
    require(mp_model_load(&model, "deepseek-v3", &limits, &err), &err);
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    require(mp_part_split(&part, &unused, trace, &split, &err), &err);
    printf(
        "%u layers of %u experts, top %u, %u redundant slots, %llu tokens (made in %.1f s), 64 GPUs; trace %.2f GiB\n",
        params.n_layers, params.n_experts, params.top_k, n_redundant, (unsigned long long)trace->n_rows, seconds() - t0,
        (double)mp_alloc_live() / (1 << 30));
    printf("%-17s %10s %10s %10s %10s   reference\n", "strategy", "step, ms", "seconds", "of a core", "peak GiB");
    static const char *const strategies[] = {"contiguous",        "eplb",           "search",
                                             "search-replicated", "search-nearest", "auto"};
    const char *const *names = argc > 4 ? (const char *const *)argv + 4 : strategies;
    const size_t n_names = argc > 4 ? (size_t)argc - 4 : sizeof strategies / sizeof *strategies;
    for (size_t i = 0; i < n_names; i++) {
        if (n_redundant == 0 && strncmp(names[i], "search-", 7) == 0)
            continue;
        const struct mp_plan_request request = {
            .planning = &part,
            .batching = {.phase = MP_PHASE_PREFILL, .n_ranks = 64, .tokens_per_rank = 1024},
            .split = split,
            .topology = topology,
            .model = model,
            .sim = {.dispatcher = mp_dispatcher_default(MP_PHASE_PREFILL, MP_TRACE_TOKENS), .stage_mode = -1},
            .strategy = names[i],
            .n_redundant = n_redundant,
            .n_threads = 2,
            .limits = &limits};
        struct mp_plan *plan;
        enum mp_outcome outcome;
        double taken;
        clock_t before = clock();
        require(mp_plan_make(&plan, &request, &outcome, &taken, &err), &err);
        if (plan == NULL) {
            printf("%-17s %s\n", names[i], err.message);
            continue;
        }
        printf("%-17s %10.3f %10.1f %10.1f %10.2f   %s\n", names[i], (double)plan->predicted_step_ns / 1e6, taken,
               (double)(clock() - before) / CLOCKS_PER_SEC, (double)mp_alloc_peak() / (1 << 30),
               strcmp(names[i], "auto") != 0 ? ""
               : n_redundant > 0             ? "90 s, 2 GiB"
                                             : "60 s, 2 GiB");
        fflush(stdout);
        mp_plan_free(plan);
    }
    mp_part_free(&part);
    mp_part_free(&unused);
    mp_trace_free(trace);
    mp_topology_free(topology);
    mp_model_free(model);
    return 0;
}
