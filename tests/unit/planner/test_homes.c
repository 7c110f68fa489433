/* Homes of requests: the rule's balance, the two parts of codesign against all answers, and plans that carry a rule. */
#include "support.h"

#include "homes_parts.h"
#include "tiny.h"

static const struct tiny_spec spec = {.n_layers = 3,
                                      .n_experts = 8,
                                      .top_k = 2,
                                      .n_requests = 48,
                                      .n_rows = 6,
                                      .topology = "2x2:h100",
                                      .phase = MP_PHASE_PREFILL,
                                      .batch = 12,
                                      .seed = 3};

/* Any rule over n_nodes nodes of gpus[v] GPUs; everything of it in `arena`. */
static struct mp_home_rule any_rule(struct mp_rng *rng, const struct mp_trace *t, uint32_t n_nodes,
                                    const uint32_t *gpus, struct mp_arena *arena) {
    uint32_t n_gpus = 0, at = 0;
    for (uint32_t v = 0; v < n_nodes; v++)
        n_gpus += gpus[v];
    uint32_t *node = mp_arena_alloc(arena, n_gpus, sizeof *node);
    int32_t *bias = mp_arena_alloc(arena, n_nodes, sizeof *bias);
    const int8_t **weights = mp_arena_alloc(arena, t->n_layers, sizeof *weights);
    for (uint32_t v = 0; v < n_nodes; v++) {
        bias[v] = (int32_t)mp_rng_below(rng, 1000) - 500;
        for (uint32_t g = 0; g < gpus[v]; g++)
            node[at++] = v;
    }
    for (uint32_t l = 0; l < t->n_layers; l++) {
        int8_t *w = mp_arena_alloc(arena, (size_t)(n_nodes - 1) * t->n_experts, 1);
        for (size_t i = 0; i < (size_t)(n_nodes - 1) * t->n_experts; i++)
            w[i] = (int8_t)((int)mp_rng_below(rng, 255) - 127);
        weights[l] = w;
    }
    return (struct mp_home_rule){.n_nodes = n_nodes,
                                 .n_gpus = n_gpus,
                                 .n_layers = t->n_layers,
                                 .n_experts = t->n_experts,
                                 .gpu_node = node,
                                 .prefix_rows = (uint32_t)mp_rng_below(rng, 5),
                                 .tolerance = 1 + mp_rng_below(rng, 20),
                                 .price_milli = (uint32_t)mp_rng_below(rng, 3000),
                                 .bias_milli = bias,
                                 .weights = weights};
}

/* However lopsided the weights: after every request no node is ahead, per GPU, by more than the tolerance and one
 * request, and no rank of a node by more than one request. */
static void test_homes__balance_is_never_broken(void **state) {
    (void)state;
    static const uint32_t shapes[][4] = {{2, 2}, {1, 3}, {2, 2, 1}, {1, 1, 1, 1}};
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_error err = {0};
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_rng rng = mp_rng_seed(seed);
        struct mp_arena *arena = mp_arena_new();
        const uint32_t *gpus = shapes[seed % 4], n_nodes = seed % 4 < 2 ? 2 : seed % 4 == 2 ? 3 : 4;
        const bool is_decode = seed % 3 == 0;
        uint16_t home[48];
        s.seed = seed;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        const struct mp_home_rule rule = any_rule(&rng, t.trace, n_nodes, gpus, arena);
        CHECK_OK(mp_home_assign(home, &t.part, &rule, is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL, &err), err);
        double of_node[4] = {0}, of_rank[8] = {0};
        const double size = is_decode ? 1 : spec.n_rows;
        for (uint32_t m = 0; m < t.part.n; m++) {
            assert_true(home[m] < rule.n_gpus);
            of_rank[home[m]] += size;
            of_node[rule.gpu_node[home[m]]] += size;
            for (uint32_t a = 0; a < n_nodes; a++)
                for (uint32_t b = 0; b < n_nodes; b++)
                    assert_true(of_node[a] / gpus[a] - of_node[b] / gpus[b] <=
                                (double)rule.tolerance + size / gpus[a] + 1e-3);
            for (uint32_t a = 0; a < rule.n_gpus; a++)
                for (uint32_t b = 0; b < rule.n_gpus; b++)
                    assert_true(rule.gpu_node[a] != rule.gpu_node[b] || of_rank[a] - of_rank[b] <= size);
        }
        mp_arena_free(arena);
        tiny_free(&t);
    }
}

/* A request's home depends on those before it and on its own prefix, and on nothing else. */
static void test_homes__nothing_is_looked_ahead(void **state) {
    (void)state;
    const uint32_t gpus[2] = {2, 2};
    struct mp_error err = {0};
    struct tiny t;
    struct mp_rng rng = mp_rng_seed(5);
    struct mp_arena *arena = mp_arena_new();
    uint16_t all[48], first[48];
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    struct mp_home_rule rule = any_rule(&rng, t.trace, 2, gpus, arena);
    rule.prefix_rows = 3;
    CHECK_OK(mp_home_assign(all, &t.part, &rule, MP_PHASE_PREFILL, &err), err);
    for (uint32_t n = 1; n < t.part.n; n++) {
        const struct mp_part part = {.trace = t.trace, .n = n, .members = t.part.members};
        CHECK_OK(mp_home_assign(first, &part, &rule, MP_PHASE_PREFILL, &err), err);
        assert_memory_equal(first, all, n * sizeof *all);
    }
    /* Rows after the prefix do not count: the same rule for a recording that ends there. */
    for (uint32_t m = 0; m < t.part.n; m++) {
        struct mp_request cut = t.trace->requests[m];
        int64_t whole[2], prefix[2];
        mp_home_scores(whole, t.trace, &t.trace->requests[m], &rule);
        cut.n_rows = 3;
        mp_home_scores(prefix, t.trace, &cut, &rule);
        assert_int_equal(whole[1], prefix[1]);
    }
    mp_arena_free(arena);
    tiny_free(&t);
}

/* Two nodes of one GPU, weight 1 for expert 0 on node 1, no bias and price: who uses expert 0 goes to node 1 until it
 * is more than 2 requests ahead. */
static void test_homes__known_answer(void **state) {
    (void)state;
    static const uint16_t uses[8] = {0, 0, 0, 0, 1, 1, 0, 1};
    static const uint16_t expected[8] = {1, 1, 1, 0, 0, 0, 1, 0};
    static const uint32_t node[2] = {0, 1};
    static const int32_t bias[2] = {0, 1};
    static const int8_t weights[2] = {1, 0};
    const int8_t *layers[1] = {weights};
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace *t;
    uint32_t members[8];
    uint16_t home[8];
    const struct mp_trace_meta meta = {
        .kind = MP_TRACE_TOKENS, .model = "", .format = "test", .n_layers = 1, .n_experts = 2, .top_k = 1};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t r = 0; r < 8; r++) {
        members[r] = r;
        CHECK_OK(
            mp_trace_builder_request(b, &(struct mp_request){.id = r, .source = MP_NONE, .category = MP_NONE}, &err),
            err);
        CHECK_OK(mp_trace_builder_row(b, &uses[r], NULL, &err), err);
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    const struct mp_part part = {.trace = t, .n = 8, .members = members};
    const struct mp_home_rule rule = {2, 2, 1, 2, node, 0, 2, 0, bias, layers};
    CHECK_OK(mp_home_assign(home, &part, &rule, MP_PHASE_DECODE, &err), err);
    assert_memory_equal(home, expected, sizeof home);
    mp_trace_free(t);
}

/* ---- requests to nodes ---- */
struct best_deal {
    const struct mp_home_deal *x;
    uint64_t limit[3];
    int64_t best;
};
static void try_all(struct best_deal *b, uint32_t r, uint64_t *load, int64_t cost) {
    if (r == b->x->n) {
        b->best = cost < b->best ? cost : b->best;
        return;
    }
    for (uint32_t v = 0; v < b->x->n_nodes; v++)
        if (load[v] + b->x->size[r] <= b->limit[v]) {
            load[v] += b->x->size[r];
            try_all(b, r + 1, load, cost + b->x->cost[(size_t)r * b->x->n_nodes + v]);
            load[v] -= b->x->size[r];
        }
}

static void test_homes__deal_against_all_deals(void **state) {
    (void)state;
    static const uint64_t gpus[3] = {2, 2, 1};
    uint32_t n_within = 0, n_best = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_error err = {0};
        struct mp_rng rng = mp_rng_seed(seed);
        int64_t cost[9 * 3];
        uint64_t size[9], total = 0, load[3] = {0};
        uint16_t home[9];
        struct mp_home_deal x = {
            .n = 9, .n_nodes = 2 + seed % 2, .cost = cost, .size = size, .gpus_of = gpus, .home = home};
        const bool is_unit = seed % 4 < 2;
        x.slack_ppm = is_unit ? 0 : 200000;
        for (uint32_t r = 0; r < x.n; r++) {
            size[r] = is_unit ? 1 : 1 + mp_rng_below(&rng, 5);
            total += size[r];
            for (uint32_t v = 0; v < x.n_nodes; v++)
                cost[r * x.n_nodes + v] = (int64_t)mp_rng_below(&rng, 2000) - 1000;
        }
        CHECK_OK(mp_home_deal(&x, &err), err);
        struct best_deal b = {.x = &x, .best = INT64_MAX};
        for (uint32_t v = 0; v < x.n_nodes; v++) {
            const uint64_t all = (x.n_nodes == 3 ? 5 : 4) * UINT64_C(1000000);
            b.limit[v] = mp_mul_div_ceil(total, gpus[v] * (1000000 + x.slack_ppm), all);
        }
        try_all(&b, 0, load, 0);
        if (b.best == INT64_MAX) /* the sizes do not fit at all */
            continue;
        assert_true(x.bound <= b.best);
        int64_t value = 0;
        uint64_t got[3] = {0};
        for (uint32_t r = 0; r < x.n; r++) {
            value += cost[r * x.n_nodes + home[r]];
            got[home[r]] += size[r];
        }
        assert_int_equal(value, x.value);
        bool is_within = true;
        for (uint32_t v = 0; v < x.n_nodes; v++)
            is_within &= got[v] <= b.limit[v];
        assert_int_equal(is_within, x.is_within);
        if (!is_within)
            continue;
        assert_true(x.value >= b.best);
        n_within++;
        n_best += x.value == b.best;
        if (is_unit && x.n_nodes == 2)
            assert_int_equal(x.value, b.best);
    }
    assert_true(n_within >= 150);
    assert_true(n_best * 10 >= n_within * 6);
}

/* ---- experts to nodes ---- */
static void data_of(struct mp_home_data *d, struct tiny *t, struct mp_plan **like, struct mp_arena *arena) {
    struct mp_error err = {0};
    enum mp_outcome outcome;
    t->request.strategy = "contiguous";
    CHECK_OK(mp_plan_make(like, &t->request, &outcome, NULL, &err), err);
    CHECK_OK(mp_home_data_new(d, &t->request, *like, arena, &err), err);
    d->node_milli = 1000;
    d->expert_milli = 150;
    d->load_ppm = 1000000;
}

static int64_t cost_of(const struct mp_home_data *d, const uint16_t *node, const uint16_t *home) {
    struct mp_error err = {0};
    int64_t *cost = mp_calloc((size_t)d->n_requests * d->n_nodes, sizeof *cost), sum = 0;
    CHECK_OK(mp_home_costs(cost, d, node, &err), err);
    for (uint32_t r = 0; r < d->n_requests; r++)
        sum += cost[(size_t)r * d->n_nodes + home[r]];
    mp_free(cost);
    return sum;
}

/* The same from the definition. */
static int64_t counted(const struct mp_home_data *d, const uint16_t *node, const uint16_t *home) {
    int64_t sum = 0;
    for (uint32_t r = 0; r < d->n_requests; r++)
        for (uint64_t i = 0; i < d->request[r]->n_rows; i++)
            for (uint32_t l = 0; l < d->n_layers; l++) {
                uint16_t ids[MP_MAX_TOP_K];
                uint64_t nodes = 0;
                const uint32_t k = mp_trace_row(d->trace, l, d->request[r]->first_row + i, ids);
                for (uint32_t j = 0; j < k; j++) {
                    const uint16_t v = node[l * d->n_experts + ids[j]];
                    sum += v != home[r] ? d->expert_milli : 0;
                    nodes |= v != home[r] ? UINT64_C(1) << v : 0;
                }
                sum += d->node_milli * __builtin_popcountll(nodes);
            }
    return sum;
}

static void test_homes__split_against_all_splits(void **state) {
    (void)state;
    uint32_t n_best = 0, n = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct mp_error err = {0};
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_plan *like;
        struct mp_home_data d;
        struct mp_rng rng = mp_rng_seed(seed);
        struct mp_arena *arena = mp_arena_new();
        uint16_t node[8], home[48];
        s.seed = 100 + seed;
        s.n_layers = 1;
        s.top_k = 3;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        data_of(&d, &t, &like, arena);
        d.seed = seed;
        for (uint32_t r = 0; r < d.n_requests; r++)
            home[r] = (uint16_t)mp_rng_below(&rng, 2);
        int64_t best = INT64_MAX;
        for (uint32_t set = 0; set < 256; set++) {
            if (__builtin_popcount(set) != 4)
                continue;
            for (uint32_t e = 0; e < 8; e++)
                node[e] = set >> e & 1;
            const int64_t c = counted(&d, node, home);
            assert_int_equal(c, cost_of(&d, node, home));
            best = c < best ? c : best;
        }
        for (uint32_t e = 0; e < 8; e++)
            node[e] = e % 2;
        const int64_t before = counted(&d, node, home);
        CHECK_OK(mp_home_split(node, &d, home, 8, &err), err);
        const int64_t after = counted(&d, node, home);
        uint32_t on_one = 0;
        for (uint32_t e = 0; e < 8; e++)
            on_one += node[e];
        assert_int_equal(on_one, 4);
        assert_true(after <= before && after >= best);
        n_best += after == best;
        n++;
        mp_plan_free(like);
        mp_arena_free(arena);
        tiny_free(&t);
    }
    assert_true(n_best * 10 >= n * 9);
}

/* Rows of a node stay within the tolerance where experts allow it. */
static void test_homes__split_keeps_nodes_even(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct mp_error err = {0};
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_plan *like;
        struct mp_home_data d;
        struct mp_arena *arena = mp_arena_new();
        uint16_t node[24], home[48];
        s.seed = 200 + seed;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        data_of(&d, &t, &like, arena);
        d.load_ppm = 100000;
        for (uint32_t r = 0; r < d.n_requests; r++)
            home[r] = r % 2;
        for (uint32_t i = 0; i < 24; i++)
            node[i] = i % 8 < 4; /* low ids are used most: all on one node */
        CHECK_OK(mp_home_split(node, &d, home, 4, &err), err);
        for (uint32_t l = 0; l < 3; l++) {
            uint64_t rows[2] = {0}, least = UINT64_MAX, total = 0;
            for (uint32_t e = 0; e < 8; e++) {
                rows[node[l * 8 + e]] += d.load[l * 8 + e];
                total += d.load[l * 8 + e];
            }
            for (uint32_t set = 0; set < 256; set++) {
                uint64_t sum = 0;
                for (uint32_t e = 0; e < 8 && __builtin_popcount(set) == 4; e++)
                    sum += set >> e & 1 ? d.load[l * 8 + e] : 0;
                const uint64_t most = sum > total - sum ? sum : total - sum;
                least = __builtin_popcount(set) == 4 && most < least ? most : least;
            }
            if (least * 20 <= total * 11) /* some split is within */
                assert_true((rows[0] > rows[1] ? rows[0] : rows[1]) * 20 <= total * 11);
        }
        mp_plan_free(like);
        mp_arena_free(arena);
        tiny_free(&t);
    }
}

/* ---- whole plans ---- */
static char *plan_with(struct tiny *t, const char *homes, struct mp_plan **out) {
    struct mp_error err = {0};
    enum mp_outcome outcome;
    struct mp_plan *p;
    t->request.homes = homes;
    CHECK_OK(mp_plan_make(&p, &t->request, &outcome, NULL, &err), err);
    assert_non_null(p);
    char *text = tiny_text(p);
    if (out != NULL)
        *out = p;
    else
        mp_plan_free(p);
    return text;
}

static void test_homes__none_is_as_without(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    t.request.strategy = "search";
    char *without = plan_with(&t, NULL, NULL), *none = plan_with(&t, "none", NULL);
    assert_string_equal(without, none);
    assert_null(strstr(none, "homes:"));
    mp_free(without);
    mp_free(none);
    tiny_free(&t);
}

static void test_homes__same_bytes_on_any_number_of_threads(void **state) {
    (void)state;
    static const char *const methods[] = {"affinity", "codesign"};
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    t.request.strategy = "search-nearest";
    for (uint32_t redundant = 0; redundant <= 4; redundant += 4)
        for (int m = 0; m < 2; m++) {
            char *texts[3];
            t.request.n_redundant = redundant;
            for (unsigned n = 0; n < 3; n++) {
                t.request.n_threads = n + 1;
                texts[n] = plan_with(&t, methods[m], NULL);
                assert_non_null(strstr(texts[n], "\nhomes:\n"));
            }
            assert_string_equal(texts[0], texts[1]);
            assert_string_equal(texts[0], texts[2]);
            for (int n = 0; n < 3; n++)
                mp_free(texts[n]);
        }
    tiny_free(&t);
}

/* Requests of two kinds, each with four of the eight experts, other ones in every layer: nothing has to leave a node,
 * and everything that is left alone does. */
static void test_homes__codesign_finds_what_was_planted(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_trace_builder *b;
    struct mp_plan *p;
    struct mp_workload *w;
    struct mp_sim_result *r;
    struct mp_rng rng = mp_rng_seed(9);
    uint32_t kind[3][8] = {{0}};
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    mp_trace_free(t.trace);
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = 3,
                                       .n_experts = 8,
                                       .top_k = 2};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t l = 0; l < 3; l++) {
        for (uint32_t e = 0; e < 8; e++)
            kind[l][e] = e;
        mp_rng_shuffle(&rng, kind[l], 8);
    }
    for (uint32_t q = 0; q < spec.n_requests; q++) {
        const uint32_t first = q % 2 ? 4 : 0;
        CHECK_OK(
            mp_trace_builder_request(b, &(struct mp_request){.id = q, .source = MP_NONE, .category = MP_NONE}, &err),
            err);
        for (uint32_t i = 0; i < spec.n_rows; i++) {
            uint16_t ids[6];
            for (uint32_t l = 0; l < 3; l++) {
                const uint32_t at = (uint32_t)mp_rng_below(&rng, 4);
                ids[2 * l] = (uint16_t)kind[l][first + at];
                ids[2 * l + 1] = (uint16_t)kind[l][first + (at + 1 + mp_rng_below(&rng, 3)) % 4];
            }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t.trace, &err), err);
    t.part.trace = t.trace;
    /* nodes as the kinds need them, and no limit on the busiest GPU */
    static const struct mp_setting settings[] = {
        {"codesign", "slack", 1000}, {"codesign", "peak", 1000000}, {"codesign", "load", 200000}};
    t.request.settings = settings;
    t.request.n_settings = 3;
    t.request.strategy = "contiguous";
    mp_free(plan_with(&t, "codesign", &p));
    struct mp_part homed = t.part;
    CHECK_OK(mp_plan_home_rule(&homed.homes, p, &err), err);
    CHECK_OK(mp_workload_build(&w, &homed, &t.request.batching, &err), err);
    CHECK_OK(mp_simulate(&r, p, w, t.topology, t.model, &t.request.sim, &err), err);
    assert_true(r->copies_expert > 0);
    assert_true(r->copies_inter == 0);
    assert_true(r->copies_node == 0);
    mp_sim_result_free(r);
    mp_workload_free(w);
    mp_plan_free(p);
    tiny_free(&t);
}

/* Steps follow the homes: every row starts on its request's rank; drawn ones on its node. */
static void test_homes__steps_follow_them(void **state) {
    (void)state;
    struct mp_error err = {0};
    for (int is_decode = 0; is_decode < 2; is_decode++) {
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_plan *p;
        uint16_t home[48];
        s.phase = is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL;
        s.batch = is_decode ? 3 : 12;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "lpt";
        mp_free(plan_with(&t, "affinity", &p));
        struct mp_part homed = t.part;
        CHECK_OK(mp_plan_home_rule(&homed.homes, p, &err), err);
        CHECK_OK(mp_home_assign(home, &homed, homed.homes, s.phase, &err), err);
        for (int is_drawn = 0; is_drawn < 2; is_drawn++) {
            struct mp_workload *w;
            struct mp_batching batching = t.request.batching;
            uint8_t seen[48 * 6] = {0};
            batching.resample = is_drawn;
            batching.n_steps_max = is_drawn ? 20 : 0;
            CHECK_OK(mp_workload_build(&w, &homed, &batching, &err), err);
            assert_true(w->n_steps > 0);
            for (uint32_t k = 0; k < w->n_steps; k++)
                for (uint32_t i = 0; i < w->steps[k].n; i++) {
                    const uint64_t row = w->steps[k].row[i];
                    const uint32_t rank = home[row / spec.n_rows], source = w->steps[k].source[i];
                    if (is_drawn)
                        assert_int_equal(p->gpu_node[source], p->gpu_node[rank]);
                    else
                        assert_int_equal(source, rank);
                    assert_true(is_drawn || seen[row]++ == 0);
                }
            mp_workload_free(w);
        }
        mp_plan_free(p);
        tiny_free(&t);
    }
}

static void test_homes__plan_reads_back(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_plan *p, *again;
    struct mp_in *in;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    t.request.strategy = "lpt";
    char *text = plan_with(&t, "codesign", &p);
    CHECK_OK(mp_in_from_memory(&in, "plan.yaml", text, strlen(text), &err), err);
    CHECK_OK(mp_plan_parse(&again, in, NULL, &err), err);
    mp_in_close(in);
    assert_true(again->homes.is_present);
    assert_int_equal(again->homes.tolerance, p->homes.tolerance);
    for (uint32_t l = 0; l < p->n_layers; l++)
        assert_memory_equal(again->layers[l].home_weights, p->layers[l].home_weights, p->n_experts);
    char *second = tiny_text(again);
    assert_string_equal(text, second);
    /* A rule for other shapes is refused. */
    p->homes.tolerance = 0;
    assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
    mp_free(text);
    mp_free(second);
    mp_plan_free(p);
    mp_plan_free(again);
    tiny_free(&t);
}

static void test_homes__declines_what_has_none(void **state) {
    (void)state;
    struct mp_error err = {0};
    for (int i = 0; i < 4; i++) {
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_plan *p;
        enum mp_outcome outcome;
        s.is_counts = i == 0;
        s.topology = i == 1 ? "4:h100" : "2x2:h100";
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "lpt";
        t.request.homes = "codesign";
        t.request.sim.sources = i == 2 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        t.request.batching.source_skew_ppm = i == 3 ? 500000 : 0;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_null(p);
        assert_int_equal(outcome, MP_NOT_APPLICABLE);
        assert_non_null(strstr(err.message, "homes"));
        mp_error_clear(&err);
        t.request.homes = "elsewhere";
        assert_int_equal(mp_plan_make(&p, &t.request, &outcome, NULL, &err), MP_EUSAGE);
        mp_error_clear(&err);
        tiny_free(&t);
    }
}

static enum mp_status make_one(void *ctx, struct mp_error *err) {
    struct tiny *t = ctx;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &t->request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}

static void test_homes__survives_faults(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = spec;
    struct tiny t;
    s.n_layers = 1;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.strategy = "lpt";
    t.request.homes = "codesign";
    sweep_faults(make_one, &t, 11);
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_homes__balance_is_never_broken),
        cmocka_unit_test(test_homes__nothing_is_looked_ahead),
        cmocka_unit_test(test_homes__known_answer),
        cmocka_unit_test(test_homes__deal_against_all_deals),
        cmocka_unit_test(test_homes__split_against_all_splits),
        cmocka_unit_test(test_homes__split_keeps_nodes_even),
        cmocka_unit_test(test_homes__none_is_as_without),
        cmocka_unit_test(test_homes__same_bytes_on_any_number_of_threads),
        cmocka_unit_test(test_homes__codesign_finds_what_was_planted),
        cmocka_unit_test(test_homes__steps_follow_them),
        cmocka_unit_test(test_homes__plan_reads_back),
        cmocka_unit_test(test_homes__declines_what_has_none),
        cmocka_unit_test(test_homes__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
