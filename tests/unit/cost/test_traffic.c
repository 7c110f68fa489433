#include "world.h"

/* Token by token with sets as plain lists. */
struct brute {
    uint64_t dispatch[CASE_GPUS * CASE_GPUS], second[CASE_GPUS * CASE_GPUS], rows[CASE_GPUS], source[CASE_GPUS],
        slot[256];
    uint64_t by_expert, by_inter, by_gpu, by_node;
};

static uint32_t gateway_of(const struct mp_topology *t, uint32_t src, uint32_t node) {
    uint32_t index = 0, members[CASE_GPUS], n = 0;
    for (uint32_t g = 0; g < src; g++)
        index += t->gpus[g].group[0] == t->gpus[src].group[0];
    for (uint32_t g = 0; g < t->n_gpus; g++)
        if (t->gpus[g].group[0] == node)
            members[n++] = g;
    return members[index % n];
}

static void count_by_hand(const struct world *w, uint32_t step, uint32_t layer, struct brute *b) {
    const struct mp_topology *t = &w->net.t;
    const struct mp_step *s = &w->workload->steps[step];
    uint32_t n = t->n_gpus;
    memset(b, 0, sizeof *b);
    for (uint32_t i = 0; i < s->n; i++) {
        uint16_t ids[MP_MAX_TOP_K];
        uint32_t k = mp_trace_row(w->trace, layer, s->row[i], ids), src = s->source[i];
        if (w->setup.sources == MP_SOURCES_COUPLED)
            src = mp_plan_slot_gpu(w->plan, mp_router_slot(w->router, layer, (uint32_t)(s->row[i] % w->plan->n_experts),
                                                           src, mp_token_hash(s->row[i])));
        b->source[src]++;
        bool gpus[CASE_GPUS] = {0}, nodes[CASE_GPUS] = {0};
        for (uint32_t j = 0; j < k; j++) {
            uint32_t slot = mp_router_slot(w->router, layer, ids[j], src, mp_token_hash(s->row[i])),
                     g = mp_plan_slot_gpu(w->plan, slot);
            b->slot[slot]++;
            b->rows[g]++;
            gpus[g] = true;
            nodes[t->gpus[g].group[0]] = true;
            b->by_expert += g != src;
            b->by_inter += t->gpus[g].group[0] != t->gpus[src].group[0];
            if (w->setup.dispatcher->copies == MP_COPY_PER_EXPERT && g != src)
                b->dispatch[src * n + g]++;
        }
        for (uint32_t g = 0; g < n; g++) {
            bool is_other_node = t->gpus[g].group[0] != t->gpus[src].group[0];
            b->by_gpu += gpus[g] && g != src;
            if (!gpus[g] || g == src)
                continue;
            if (w->setup.dispatcher->copies == MP_COPY_PER_GPU ||
                (w->setup.dispatcher->copies == MP_COPY_PER_NODE && !is_other_node))
                b->dispatch[src * n + g]++;
            if (w->setup.dispatcher->copies == MP_COPY_PER_NODE && is_other_node &&
                gateway_of(t, src, t->gpus[g].group[0]) != g)
                b->second[gateway_of(t, src, t->gpus[g].group[0]) * n + g]++;
        }
        for (uint32_t v = 0; v < t->levels[0].n_groups; v++)
            if (nodes[v] && v != t->gpus[src].group[0]) {
                b->by_node++;
                if (w->setup.dispatcher->copies == MP_COPY_PER_NODE)
                    b->dispatch[src * n + gateway_of(t, src, v)]++;
            }
        for (uint32_t g = 0; g < n && w->setup.dispatcher->copies == MP_COPY_ALL; g++)
            b->dispatch[src * n + g] += g != src;
    }
}

static void test_traffic__agrees_with_token_by_token(void **state) {
    (void)state;
    static struct world w;
    static struct brute b;
    static const struct mp_dispatcher per_gpu = {.name = "per-gpu", .copies = MP_COPY_PER_GPU, .n_launches = 1};
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        struct mp_traffic *t;
        if (seed % 40 == 7) /* more GPUs than bits in a word */
            case_plain(&w.net, 20, 4, UINT64_C(100000000000), UINT64_C(10000000000));
        if (seed % 40 == 17) /* just as many */
            case_plain(&w.net, 16, 4, UINT64_C(100000000000), UINT64_C(10000000000));
        world_make(&w, &r,
                   (struct world_shape){.n_experts = seed % 40 == 7 || seed % 40 == 17 ? 60 : 0,
                                        .top_k = seed % 80 == 7 ? 12 : 0});
        uint32_t n = w.net.t.n_gpus;
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        for (uint32_t kind = 0; kind < 6; kind++)
            for (uint32_t layer = 0; layer < w.plan->n_layers; layer++) {
                w.setup.dispatcher = kind == 5 ? &per_gpu : mp_dispatcher_at(kind);
                w.setup.sources = mp_rng_below(&r, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
                uint32_t step = (uint32_t)mp_rng_below(&r, w.workload->n_steps);
                CHECK_OK(mp_traffic_compute(t, &w.setup, step, layer, &err), err);
                count_by_hand(&w, step, layer, &b);
                uint64_t intra = 0, inter = 0, copies = 0, sent = 0;
                for (uint32_t i = 0; i < n; i++) {
                    uint64_t padded = 0, active = 0, tile = w.net.types[w.net.gpus[i].type].tile_tokens;
                    for (uint32_t slot = w.plan->gpu_first_slot[i]; slot < w.plan->gpu_first_slot[i + 1]; slot++) {
                        assert_int_equal(t->slot_rows[slot], b.slot[slot]);
                        padded += (b.slot[slot] + tile - 1) / tile * tile;
                        active += b.slot[slot] > 0;
                    }
                    assert_int_equal(t->rows[i], b.rows[i]);
                    assert_int_equal(t->padded_rows[i], padded);
                    assert_int_equal(t->active[i], active);
                    assert_int_equal(t->source_rows[i], b.source[i] + w.workload->steps[step].padding[i]);
                    assert_int_equal(t->dispatch[i * n + i], 0);
                    for (uint32_t j = 0; j < n; j++) {
                        uint64_t c = b.dispatch[i * n + j], d = b.second[i * n + j];
                        assert_int_equal(t->dispatch[i * n + j], c * w.model.dispatch_bytes);
                        assert_int_equal(t->combine[j * n + i], c * w.model.combine_bytes);
                        assert_int_equal(t->dispatch2[i * n + j], d * w.model.dispatch_bytes);
                        assert_int_equal(t->combine2[j * n + i], d * w.model.combine_bytes);
                        bool is_near = w.net.gpus[i].group[0] == w.net.gpus[j].group[0];
                        (*(is_near ? &intra : &inter)) += (c + d) * (w.model.dispatch_bytes + w.model.combine_bytes);
                        copies += c;
                        sent += t->dispatch[i * n + j];
                    }
                }
                assert_int_equal(t->intra_bytes, intra);
                assert_int_equal(t->inter_bytes, inter);
                assert_int_equal(t->copies_expert, b.by_expert);
                assert_int_equal(t->copies_inter, b.by_inter);
                assert_int_equal(t->copies_gpu, b.by_gpu);
                assert_int_equal(t->copies_node, b.by_node);
                assert_true(b.by_node <= b.by_gpu && b.by_gpu <= b.by_expert);
                assert_int_equal(sent, copies * w.model.dispatch_bytes); /* nothing is lost */
                if (w.setup.dispatcher->copies == MP_COPY_PER_EXPERT)
                    assert_int_equal(copies, b.by_expert);
                if (w.setup.dispatcher == &per_gpu)
                    assert_int_equal(copies, b.by_gpu);
            }
        mp_traffic_free(t);
        world_free(&w);
    }
}

/* The replica that servers of this kind choose, by their rules in words: entries of the rank before this one counted
 * anew each time. */
static uint32_t chosen_by_hand(const struct world *w, const struct mp_step *s, uint32_t layer, uint32_t i, uint32_t j,
                               struct mp_choice choice) {
    uint16_t ids[MP_MAX_TOP_K], others[MP_MAX_TOP_K];
    uint32_t n, first = i, n_same = 0, top_k = w->trace->top_k;
    (void)mp_trace_row(w->trace, layer, s->row[i], ids);
    const uint32_t *slots = mp_router_replicas(w->router, layer, ids[j], &n);
    while (first > 0 && s->source[first - 1] == s->source[i])
        first--;
    const uint64_t row = i - first, entry = row * top_k + j;
    for (uint32_t a = first; a <= i && choice.kind == MP_CHOICE_TURNS; a++) {
        uint32_t k = mp_trace_row(w->trace, layer, s->row[a], others);
        for (uint32_t b = 0; b < k; b++) {
            uint64_t before = (uint64_t)(a - first) * top_k + b;
            n_same += others[b] == ids[j] && before < entry && before / 1024 == entry / 1024;
        }
    }
    switch (choice.kind) {
    case MP_CHOICE_RANK:
        return slots[s->source[i] % n];
    case MP_CHOICE_ROW:
        return slots[row * 2654435769 % 4294967296 % n];
    case MP_CHOICE_POSITION:
        return slots[entry % n];
    case MP_CHOICE_TURNS:
        return slots[(entry / 1024 + s->source[i] + n_same) % n];
    case MP_CHOICE_TABLE:
        return choice.table[((size_t)layer * w->plan->n_experts + ids[j]) * w->plan->n_gpus + s->source[i]];
    case MP_CHOICE_PLAN:
    default:
        return mp_router_slot(w->router, layer, ids[j], s->source[i], mp_token_hash(s->row[i]));
    }
}

static void test_traffic__choices_of_servers_by_hand(void **state) {
    (void)state;
    static struct world w;
    static uint32_t table[8 * 64 * CASE_GPUS];
    uint32_t n_blocks = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 700);
        struct mp_error err = {0};
        struct mp_traffic *t;
        world_make(&w, &r, (struct world_shape){.n_slots_extra = 12});
        if (seed % 10 == 0) { /* ranks of more than one block of turns */
            struct mp_part part, same;
            struct mp_batching batching = w.workload->batching;
            batching.tokens_per_rank = 2000;
            CHECK_OK(mp_part_split(&part, &same, w.trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
            mp_workload_free(w.workload);
            CHECK_OK(mp_workload_build(&w.workload, &part, &batching, &err), err);
            w.setup.workload = w.workload;
            mp_part_free(&part);
            mp_part_free(&same);
        }
        for (uint32_t l = 0; l < w.plan->n_layers; l++)
            for (uint32_t e = 0; e < w.plan->n_experts; e++)
                for (uint32_t g = 0; g < w.plan->n_gpus; g++) {
                    uint32_t n;
                    const uint32_t *slots = mp_router_replicas(w.router, l, e, &n);
                    table[((size_t)l * w.plan->n_experts + e) * w.plan->n_gpus + g] = slots[mp_rng_below(&r, n)];
                }
        CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
        for (int kind = MP_CHOICE_PLAN; kind <= MP_CHOICE_TABLE; kind++)
            for (uint32_t layer = 0; layer < w.plan->n_layers; layer++) {
                const struct mp_step *s = &w.workload->steps[1];
                uint64_t rows[256] = {0};
                w.setup.choice = (struct mp_choice){(enum mp_choice_kind)kind, table};
                CHECK_OK(mp_traffic_compute(t, &w.setup, 1, layer, &err), err);
                for (uint32_t i = 0; i < s->n; i++) {
                    uint16_t ids[MP_MAX_TOP_K];
                    uint32_t k = mp_trace_row(w.trace, layer, s->row[i], ids);
                    for (uint32_t j = 0; j < k; j++)
                        rows[chosen_by_hand(&w, s, layer, i, j, w.setup.choice)]++;
                }
                assert_memory_equal(t->slot_rows, rows, w.plan->n_slots * sizeof *rows);
                n_blocks += s->n > 1024 * w.net.t.n_gpus;
            }
        w.setup.choice = (struct mp_choice){0};
        mp_traffic_free(t);
        world_free(&w);
    }
    assert_true(n_blocks > 0);
}

/* With one replica per expert, counts and tokens of the same step are one and the same. */
static void test_traffic__counts_agree_with_tokens(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 5000);
        struct mp_error err = {0};
        struct mp_traffic *a, *b;
        world_make(&w, &r, (struct world_shape){.no_replicas = true, .n_steps = 1});
        uint32_t n = w.net.t.n_gpus, n_layers = w.plan->n_layers, n_experts = w.plan->n_experts, tokens[CASE_GPUS * 64];
        struct mp_trace_builder *builder;
        struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                     .phase = MP_PHASE_PREFILL,
                                     .model = "",
                                     .format = "test",
                                     .n_layers = n_layers,
                                     .n_experts = n_experts,
                                     .n_sources = n,
                                     .is_time_ordered = true};
        CHECK_OK(mp_trace_builder_new(&builder, &meta, &mp_limits_default, &err), err);
        CHECK_OK(mp_trace_builder_iteration(builder, MP_NONE, &err), err);
        for (uint32_t l = 0; l < n_layers; l++) {
            mp_workload_tokens(w.workload, 0, l, tokens);
            for (uint32_t i = 0; i < n * n_experts; i++)
                CHECK_OK(mp_trace_builder_count(builder, i / n_experts, l, i % n_experts, tokens[i], &err), err);
        }
        struct mp_trace *counts;
        CHECK_OK(mp_trace_builder_finish(builder, NULL, &counts, &err), err);
        struct mp_part part, same;
        CHECK_OK(mp_part_split(&part, &same, counts, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
        struct mp_workload *cw;
        CHECK_OK(mp_workload_build(&cw, &part, &(struct mp_batching){.n_ranks = n}, &err), err);
        struct mp_cost_setup other = w.setup;
        other.workload = cw;
        CHECK_OK(mp_traffic_new(&a, n, &err), err);
        CHECK_OK(mp_traffic_new(&b, n, &err), err);
        for (uint32_t l = 0; l < n_layers; l++) {
            CHECK_OK(mp_traffic_compute(a, &w.setup, 0, l, &err), err);
            CHECK_OK(mp_traffic_compute(b, &other, 0, l, &err), err);
            assert_memory_equal(a->dispatch, b->dispatch, (size_t)n * n * 8);
            assert_memory_equal(a->combine, b->combine, (size_t)n * n * 8);
            assert_memory_equal(a->padded_rows, b->padded_rows, n * 8);
            assert_memory_equal(a->active, b->active, n * 4);
            assert_int_equal(a->copies_expert, b->copies_expert);
        }
        other.dispatcher = mp_dispatcher_find("deepep-normal");
        assert_int_equal(mp_traffic_compute(b, &other, 0, 0, &err), MP_EUSAGE);
        assert_non_null(strstr(err.message, "--dispatcher a2av"));
        mp_error_clear(&err);
        other.dispatcher = w.setup.dispatcher;
        other.sources = MP_SOURCES_COUPLED;
        assert_int_equal(mp_traffic_compute(b, &other, 0, 0, &err), MP_EUSAGE);
        mp_traffic_free(a);
        mp_traffic_free(b);
        mp_workload_free(cw);
        mp_part_free(&part);
        mp_part_free(&same);
        mp_trace_free(counts);
        world_free(&w);
    }
}

static void test_traffic__counts_with_replicas_keep_every_pair(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 91);
        struct mp_error err = {0};
        struct mp_traffic *t;
        world_make(&w, &r, (struct world_shape){.is_counts = true});
        uint32_t n = w.net.t.n_gpus, tokens[CASE_GPUS * 64];
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        for (uint32_t l = 0; l < w.plan->n_layers; l++) {
            uint64_t pairs = 0, rows = 0, local = 0, sent = 0;
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            mp_workload_tokens(w.workload, 0, l, tokens);
            for (uint32_t i = 0; i < n * w.plan->n_experts; i++)
                pairs += tokens[i];
            for (uint32_t g = 0; g < n; g++)
                rows += t->rows[g];
            for (uint32_t i = 0; i < n * n; i++)
                sent += t->dispatch[i];
            local = pairs - t->copies_expert;
            assert_int_equal(rows, pairs);
            assert_int_equal(sent, (pairs - local) * w.model.dispatch_bytes);
        }
        mp_traffic_free(t);
        world_free(&w);
    }
}

static void test_traffic__refuses_what_does_not_fit(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(1);
    struct mp_error err = {0};
    struct mp_traffic *t;
    world_make(&w, &r, (struct world_shape){0});
    CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
    assert_int_equal(mp_traffic_compute(t, &w.setup, 99, 0, &err), MP_EBUG);
    mp_error_clear(&err);
    w.net.t.n_gpus++;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EUSAGE);
    mp_error_clear(&err);
    w.net.t.n_gpus--;
    for (uint32_t s = 0; s < w.plan->n_slots; s++)
        w.plan->layers[0].slot_expert[s] = MP_NO_EXPERT;
    world_route(&w);
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EINPUT);
    mp_traffic_free(t);
    world_free(&w);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    struct mp_traffic *t = NULL;
    enum mp_status status;
    uint64_t bound;
    MP_TRY(mp_traffic_new(&t, w->net.t.n_gpus, err));
    MP_TRY(mp_traffic_compute(t, &w->setup, 0, 0, err));
    MP_TRY(mp_step_lower_bound(&bound, &w->setup, 0, err));
out:
    mp_traffic_free(t);
    return status;
}
static void test_traffic__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(4);
    world_make(&w, &r, (struct world_shape){0});
    sweep_faults(flow, &w, 1);
    world_free(&w);
    world_make(&w, &r, (struct world_shape){.is_counts = true});
    sweep_faults(flow, &w, 1);
    world_free(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traffic__agrees_with_token_by_token),
        cmocka_unit_test(test_traffic__choices_of_servers_by_hand),
        cmocka_unit_test(test_traffic__counts_agree_with_tokens),
        cmocka_unit_test(test_traffic__counts_with_replicas_keep_every_pair),
        cmocka_unit_test(test_traffic__refuses_what_does_not_fit),
        cmocka_unit_test(test_traffic__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
