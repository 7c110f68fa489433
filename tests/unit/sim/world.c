#include "world.h"

void world_route(struct world *w) {
    struct mp_error err = {0};
    mp_router_free(w->router);
    CHECK_OK(mp_router_new(&w->router, w->plan, &err), err);
    w->setup.router = w->router;
}

void world_place(struct world *w, struct mp_rng *r) {
    struct mp_plan *p = w->plan;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint16_t *slot = p->layers[l].slot_expert;
        uint32_t order[256];
        assert_true(p->n_slots <= 256);
        for (uint32_t s = 0; s < p->n_slots; s++) {
            slot[s] = MP_NO_EXPERT;
            order[s] = s;
        }
        mp_rng_shuffle(r, order, p->n_slots);
        for (uint32_t s = 0; s < p->n_slots; s++)
            slot[order[s]] = s < p->n_experts          ? (uint16_t)s
                             : mp_rng_below(r, 4) == 0 ? MP_NO_EXPERT
                                                       : (uint16_t)mp_rng_below(r, p->n_experts);
        if (p->layers[l].slot_weight == NULL)
            p->layers[l].slot_weight = mp_arena_alloc(p->arena, p->n_slots, sizeof(uint32_t));
        for (uint32_t s = 0; s < p->n_slots; s++)
            p->layers[l].slot_weight[s] = 1 + (uint32_t)mp_rng_below(r, 9);
    }
    p->route = (enum mp_route_rule)mp_rng_below(r, MP_N_ROUTE_RULES);
    if (p->route == MP_ROUTE_SOURCED) {
        struct mp_error err = {0};
        CHECK_OK(mp_plan_source_weights(p, (enum mp_route_by)mp_rng_below(r, MP_N_ROUTE_BY), &err), err);
        for (uint32_t l = 0; l < p->n_layers; l++)
            for (uint32_t i = 0; i < mp_plan_n_classes(p) * p->n_slots; i++)
                p->layers[l].slot_weight_by_source[i] = 1 + (uint32_t)mp_rng_below(r, 9);
    }
    world_route(w);
}

static void make_trace(struct world *w, struct mp_rng *r, const struct world_shape *s) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = s->is_counts ? MP_TRACE_COUNTS : MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_PREFILL,
                                 .model = "",
                                 .format = "test",
                                 .n_layers = s->n_layers,
                                 .n_experts = s->n_experts,
                                 .top_k = s->top_k,
                                 .has_unused = true,
                                 .n_sources = s->is_counts ? w->net.t.n_gpus : 0,
                                 .is_time_ordered = true};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < (s->is_counts ? s->n_steps : 6); i++) {
        if (s->is_counts) {
            CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
            for (uint32_t src = 0; src < w->net.t.n_gpus; src++)
                for (uint32_t l = 0; l < s->n_layers; l++)
                    for (uint32_t e = 0; e < s->n_experts; e++)
                        CHECK_OK(mp_trace_builder_count(b, src, l, e, mp_rng_below(r, 3) == 0 ? 0 : mp_rng_below(r, 40),
                                                        &err),
                                 err);
            continue;
        }
        struct mp_request q = {.id = i, .source = MP_NONE, .category = MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
        for (uint64_t row = 1 + mp_rng_below(r, 12); row > 0; row--) {
            uint16_t ids[4 * MP_MAX_TOP_K];
            for (uint32_t l = 0; l < s->n_layers; l++) {
                uint32_t pool[256],
                    n_used = mp_rng_below(r, 8) == 0 ? (uint32_t)mp_rng_below(r, s->top_k + 1) : s->top_k;
                for (uint32_t e = 0; e < s->n_experts; e++)
                    pool[e] = e;
                mp_rng_shuffle(r, pool, s->n_experts);
                if (mp_rng_below(r, 2) == 0) /* a hot expert */
                    for (uint32_t e = 0; e < s->n_experts; e++)
                        if (pool[e] == 0) {
                            pool[e] = pool[0];
                            pool[0] = 0;
                        }
                for (uint32_t k = 0; k < s->top_k; k++)
                    ids[l * s->top_k + k] = k < n_used ? (uint16_t)pool[k] : MP_NO_EXPERT;
            }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &w->trace, &err), err);
}

void world_make(struct world *w, struct mp_rng *r, struct world_shape s) {
    struct mp_error err = {0};
    uint32_t n_given = w->net.t.n_gpus;
    w->trace = NULL;
    w->workload = NULL;
    w->plan = NULL;
    w->router = NULL;
    if (n_given == 0)
        case_random(&w->net, r, s.max_nodes ? s.max_nodes : 3, s.max_per_node ? s.max_per_node : 3);
    s.n_layers = s.n_layers ? s.n_layers : 1 + (uint32_t)mp_rng_below(r, 3);
    s.n_experts = s.n_experts ? s.n_experts : 2 + (uint32_t)mp_rng_below(r, 9);
    s.top_k = s.top_k ? s.top_k : 1 + (uint32_t)mp_rng_below(r, s.n_experts < 4 ? s.n_experts : 4);
    s.n_steps = s.n_steps ? s.n_steps : 2;
    w->model = (struct mp_model){.name = "tiny",
                                 .n_hidden_layers = s.n_layers + (uint32_t)mp_rng_below(r, 3),
                                 .n_layers = s.n_layers,
                                 .n_experts = s.n_experts,
                                 .top_k = s.top_k,
                                 .n_shared_experts = (uint32_t)mp_rng_below(r, 2),
                                 .expert_bytes = 1000000 + mp_rng_below(r, 9000000),
                                 .expert_flops_per_token = 1000000 + mp_rng_below(r, 900000000),
                                 .shared_bytes = 1000000,
                                 .shared_flops_per_token = mp_rng_below(r, 900000000),
                                 .dispatch_bytes = 1 + mp_rng_below(r, 8192),
                                 .combine_bytes = 1 + mp_rng_below(r, 16384),
                                 .attention_bytes = 3000000,
                                 .attention_flops_per_token = 30000000,
                                 .kv_bytes_per_token = 1000,
                                 .dense_bytes = 5000000,
                                 .other_ns_per_step = mp_rng_below(r, 10000)};
    make_trace(w, r, &s);
    struct mp_part part, same;
    CHECK_OK(mp_part_split(&part, &same, w->trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
    struct mp_batching batching = {.phase = MP_PHASE_PREFILL,
                                   .n_ranks = w->net.t.n_gpus,
                                   .tokens_per_rank = 12 + mp_rng_below(r, 20),
                                   .n_steps_max = s.is_counts ? 0 : s.n_steps,
                                   .resample = !s.is_counts,
                                   .seed = mp_rng_next(r),
                                   .pad_tokens = mp_rng_below(r, 2) ? 8 : 0};
    CHECK_OK(mp_workload_build(&w->workload, &part, &batching, &err), err);
    mp_part_free(&part);
    mp_part_free(&same);
    uint32_t n = w->net.t.n_gpus,
             extra = s.no_replicas ? 0 : (uint32_t)mp_rng_below(r, (s.n_slots_extra ? s.n_slots_extra : 5) + 1);
    uint32_t slots[CASE_GPUS] = {0}, gpu_node[CASE_GPUS];
    for (uint32_t i = 0; i < s.n_experts + extra; i++)
        slots[mp_rng_below(r, 4) == 0 ? mp_rng_below(r, n) : i % n]++;
    CHECK_OK(mp_plan_new(&w->plan, s.n_layers, s.n_experts, n, slots, &err), err);
    for (uint32_t g = 0; g < n; g++)
        gpu_node[g] = w->net.gpus[g].group[0];
    memcpy((uint32_t *)w->plan->gpu_node, gpu_node, n * sizeof *gpu_node);
    w->plan->n_nodes = w->net.levels[0].n_groups;
    w->plan->allow_same_gpu_replicas = true;
    w->setup = (struct mp_cost_setup){.plan = w->plan,
                                      .workload = w->workload,
                                      .topology = &w->net.t,
                                      .model = &w->model,
                                      .dispatcher = mp_dispatcher_find("a2av")};
    world_place(w, r);
}

void world_rotation(struct world *w) {
    struct mp_plan *p = w->plan;
    uint32_t n = p->n_gpus;
    struct mp_order *o = mp_arena_alloc(p->arena, 1, sizeof *o);
    struct mp_stage *stages = mp_arena_alloc(p->arena, n, sizeof *stages);
    for (uint32_t s = 0; s + 1 < n; s++) {
        struct mp_transfer *t = mp_arena_alloc(p->arena, n, sizeof *t);
        for (uint32_t i = 0; i < n; i++)
            t[i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + s + 1) % n), 1, 1};
        stages[s] = (struct mp_stage){n, t};
    }
    *o = (struct mp_order){.name = "rotation", .unit = 1, .ports = 1, .n_stages = n - 1, .stages = stages};
    p->orders = o;
    p->n_orders = 1;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        p->layers[l].order = l % 2 == 0 ? 0 : MP_NONE;
        p->layers[l].combine = (enum mp_combine)(l / 2 % MP_N_COMBINES);
    }
}

void world_free(struct world *w) {
    mp_router_free(w->router);
    mp_plan_free(w->plan);
    mp_workload_free(w->workload);
    mp_trace_free(w->trace);
    w->net.t.n_gpus = 0;
}
