/* Time of the traffic of one layer and of simulating a whole step: 1,024 tokens, 24 layers, 256 experts, top 8, one
 * core. */
#include "bench_matrix.h"

#define N_LAYERS 24u
#define N_EXPERTS 256u
#define TOP_K 8u
#define N_TOKENS 1024u

static struct mp_trace *make_trace(void) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_PREFILL,
                                 .model = "",
                                 .format = "made",
                                 .is_time_ordered = true,
                                 .n_layers = N_LAYERS,
                                 .n_experts = N_EXPERTS,
                                 .top_k = TOP_K};
    bench_require(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), &err);
    struct mp_rng r = mp_rng_seed(1);
    for (uint32_t i = 0; i < 256; i++) {
        struct mp_request q = {.id = i, .source = MP_NONE, .category = MP_NONE};
        bench_require(mp_trace_builder_request(b, &q, &err), &err);
        for (uint32_t row = 0; row < 16; row++) {
            uint16_t ids[N_LAYERS * TOP_K];
            for (uint32_t l = 0; l < N_LAYERS; l++)
                for (uint32_t k = 0; k < TOP_K;) { /* skewed: the smaller of two draws, no expert twice */
                    uint16_t a = (uint16_t)mp_rng_below(&r, N_EXPERTS), c = (uint16_t)mp_rng_below(&r, N_EXPERTS),
                             e = a < c ? a : c;
                    uint32_t j = 0;
                    while (j < k && ids[l * TOP_K + j] != e)
                        j++;
                    ids[l * TOP_K + k] = e;
                    k += j == k;
                }
            bench_require(mp_trace_builder_row(b, ids, NULL, &err), &err);
        }
    }
    bench_require(mp_trace_builder_finish(b, NULL, &t, &err), &err);
    return t;
}

int main(void) {
    struct mp_error err = {0};
    struct mp_trace *trace = make_trace();
    static const uint32_t sizes[] = {8, 64};
    for (int size = 0; size < 2; size++) {
        uint32_t n = sizes[size], slots[64];
        struct mp_arena *arena = mp_arena_new();
        struct mp_topology *t = bench_switch(arena, n);
        struct mp_part part, same;
        struct mp_workload *w;
        struct mp_plan *plan;
        struct mp_router *router;
        struct mp_model model = {.name = "made",
                                 .n_hidden_layers = N_LAYERS,
                                 .n_layers = N_LAYERS,
                                 .n_experts = N_EXPERTS,
                                 .top_k = TOP_K,
                                 .expert_bytes = 44000000,
                                 .expert_flops_per_token = 88000000,
                                 .dispatch_bytes = 7168,
                                 .combine_bytes = 14336};
        struct mp_batching batching = {
            .phase = MP_PHASE_PREFILL, .n_ranks = n, .tokens_per_rank = N_TOKENS / n, .n_steps_max = 4};
        bench_require(mp_part_split(&part, &same, trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), &err);
        bench_require(mp_workload_build(&w, &part, &batching, &err), &err);
        for (uint32_t g = 0; g < n; g++)
            slots[g] = (N_EXPERTS + 64) / n;
        bench_require(mp_plan_new(&plan, N_LAYERS, N_EXPERTS, n, slots, &err), &err);
        for (uint32_t l = 0; l < N_LAYERS; l++)
            for (uint32_t s = 0; s < plan->n_slots; s++)
                plan->layers[l].slot_expert[s] = (uint16_t)((s * 37 + l) % N_EXPERTS);
        bench_require(mp_router_new(&router, plan, &err), &err);
        for (uint32_t k = 0; k < 5; k++) {
            struct mp_cost_setup setup = {plan, router, w, t, &model, mp_dispatcher_at(k), MP_SOURCES_DP};
            struct mp_traffic *traffic;
            bench_require(mp_traffic_new(&traffic, n, &err), &err);
            double start = bench_seconds(), n_layers = 0, seconds;
            for (seconds = 0; seconds < 0.1; seconds = bench_seconds() - start)
                for (uint32_t l = 0; l < N_LAYERS; l++, n_layers++)
                    bench_require(mp_traffic_compute(traffic, &setup, (uint32_t)n_layers % w->n_steps, l, &err), &err);
            printf("traffic,  %2u GPUs, %-14s %8.1f us per layer of 1,024 tokens   (reference 1,000 us, %.0fx)\n", n,
                   setup.dispatcher->name, seconds / n_layers * 1e6, n_layers * 1e-3 / seconds);
            mp_traffic_free(traffic);
            if (k > 1)
                continue;
            struct mp_sim_options o = {.dispatcher = setup.dispatcher, .stage_mode = -1, .n_threads = 1};
            double n_steps = 0;
            start = bench_seconds();
            for (seconds = 0; seconds < 0.1; seconds = bench_seconds() - start) {
                struct mp_sim_result *r;
                bench_require(mp_simulate(&r, plan, w, t, &model, &o, &err), &err);
                n_steps += r->n_steps;
                mp_sim_result_free(r);
            }
            printf("simulate, %2u GPUs, %-14s %8.2f ms per step of 24 layers\n", n, setup.dispatcher->name,
                   seconds / n_steps * 1e3);
        }
        mp_router_free(router);
        mp_plan_free(plan);
        mp_workload_free(w);
        mp_part_free(&part);
        mp_part_free(&same);
        mp_arena_free(arena);
    }
    mp_trace_free(trace);
    return 0;
}
