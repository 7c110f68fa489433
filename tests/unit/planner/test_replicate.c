/* The replicate stage: known answers of Lina's rule, CRAFT's knapsack against every allocation, bundles where they are
 * planted, replicas that are chosen while placing, targets that need every slot; threads, faults, a recording. */
#include "support.h"

#include "tiny.h"

static struct mp_plan *make(const struct mp_plan_request *r) {
    struct mp_error err = {0};
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, r, &outcome, NULL, &err), err);
    if (p == NULL)
        fail_msg("%s", err.message);
    return p;
}
static uint32_t copies_of(const struct mp_plan *p, uint32_t layer, uint32_t expert) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        n += p->layers[layer].slot_expert[s] == expert;
    return n;
}
static uint32_t extra_of(const struct mp_plan *p, uint32_t layer) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        n += p->layers[layer].slot_expert[s] != MP_NO_EXPERT;
    return n - p->n_experts;
}

/* A counts trace of one iteration in place of the tiny one. */
static void use_counts(struct tiny *t, const uint64_t *counts, uint32_t n_layers, uint32_t n_experts) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = n_layers,
                                       .n_experts = n_experts,
                                       .top_k = 1};
    mp_part_free(&t->part);
    mp_part_free(&t->unused);
    mp_trace_free(t->trace);
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
    for (uint32_t l = 0; l < n_layers; l++)
        for (uint32_t e = 0; e < n_experts; e++)
            CHECK_OK(mp_trace_builder_count(b, 0, l, e, counts[l * n_experts + e], &err), err);
    CHECK_OK(
        mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &t->trace, &err),
        err);
    CHECK_OK(mp_part_split(&t->part, &t->unused, t->trace, &t->request.split, &err), err);
    t->request.sim.dispatcher = mp_dispatcher_find("a2av");
}

/* ---- lina ---- */
static void test_replicate__lina_gives_slots_by_popularity(void **state) {
    (void)state;
    /* slots * popularity, by hand: 8 * {.50, .25, .15, .10} = 4, 2, 1.2, .8; then nothing used at all */
    static const uint64_t counts[2][4] = {{50, 25, 15, 10}, {0, 0, 0, 0}};
    static const struct {
        const char *topology;
        uint32_t n_redundant;
        int64_t devices, round;
        uint32_t n[4];
    } cases[] = {
        {"4:h100", 4, 0, 1, {4, 2, 1, 1}}, /* as counted */
        {"2:h100", 4, 0, 1, {2, 2, 1, 1}}, /* one on each GPU: two slots stay empty */
        {"4:h100", 3, 0, 1, {3, 2, 1, 1}}, /* 7: 3.5, 1.75, 1.05, .7 -> 4, 2, 1, 1 are 8; 50 / 4 = 25 / 2 */
        {"4:h100", 3, 0, 0, {3, 1, 1, 1}}, /* the same rounded down: 6 */
        {"4:h100", 4, 1, 1, {2, 1, 1, 1}}, /* 4 GPUs: 2, 1, .6, .4 */
        {"4:h100", 0, 0, 1, {1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_error err = {0};
        struct tiny t;
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 4,
                                    .top_k = 1,
                                    .n_requests = 4,
                                    .n_rows = 4,
                                    .topology = cases[i].topology,
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 4};
        const struct mp_setting settings[] = {{"lina", "devices", cases[i].devices}, {"lina", "round", cases[i].round}};
        CHECK_OK(tiny_make(&t, &s, &err), err);
        use_counts(&t, counts[0], 2, 4);
        t.request.strategy = "lina";
        t.request.n_redundant = cases[i].n_redundant;
        t.request.settings = settings;
        t.request.n_settings = 2;
        struct mp_plan *p = make(&t.request);
        for (uint32_t e = 0; e < 4; e++) {
            assert_int_equal(copies_of(p, 0, e), cases[i].n[e]);
            assert_int_equal(copies_of(p, 1, e), 1);
        }
        mp_plan_free(p);
        tiny_free(&t);
    }
}

/* ---- craft ---- */
static uint64_t port_bound_ns(const struct tiny *t, const struct mp_workload *w, const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    struct mp_sim_options options = t->request.sim;
    uint64_t sum = 0;
    options.network = MP_NETWORK_PORT_BOUND;
    CHECK_OK(mp_simulate(&r, p, w, t->topology, t->model, &options, &err), err);
    for (uint32_t s = 0; s < r->n_steps; s++)
        sum += r->steps[s].step_ns;
    mp_sim_result_free(r);
    return sum;
}

/* The cost of every number of replicas as craft's greedy rule has it, one layer at a time, by simulating every add. */
static void curve_of(const struct tiny *t, const struct mp_workload *w, struct mp_plan *p, uint32_t layer,
                     uint32_t n_extra, uint64_t *curve) {
    uint16_t *slots = p->layers[layer].slot_expert;
    curve[0] = port_bound_ns(t, w, p);
    for (uint32_t k = 0; k < n_extra; k++) {
        uint32_t at = MP_NONE, expert = 0;
        curve[k + 1] = UINT64_MAX;
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t e = 0; e < p->n_experts; e++) {
                uint32_t empty = MP_NONE;
                bool has_it = false;
                for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++) {
                    has_it |= slots[s] == e;
                    empty = slots[s] == MP_NO_EXPERT && empty == MP_NONE ? s : empty;
                }
                if (has_it || empty == MP_NONE)
                    continue;
                slots[empty] = (uint16_t)e;
                const uint64_t now = port_bound_ns(t, w, p);
                slots[empty] = MP_NO_EXPERT;
                if (now < curve[k + 1]) {
                    curve[k + 1] = now;
                    at = empty;
                    expert = e;
                }
            }
        if (at == MP_NONE)
            return;
        slots[at] = (uint16_t)expert;
    }
}

/* Two layers, one hot and one even: the budget goes where it is worth most, as every allocation tried by hand says. */
static void test_replicate__craft_is_the_best_allocation(void **state) {
    (void)state;
    unsigned n_uneven = 0;
    for (uint64_t i = 0; i < 12; i++) {
        struct mp_error err = {0};
        struct mp_rng rng = mp_rng_seed(i);
        struct tiny t;
        struct mp_workload *w;
        uint64_t counts[3][5], curve[3][4];
        const struct tiny_spec s = {.n_layers = 3,
                                    .n_experts = 5,
                                    .top_k = 1,
                                    .n_requests = 4,
                                    .n_rows = 4,
                                    .topology = i % 2 == 0 ? "3:h100" : "3x1:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 4};
        for (uint32_t l = 0; l < 3; l++)
            for (uint32_t e = 0; e < 5; e++)
                counts[l][e] = 1000 + mp_rng_below(&rng, 400) + (l == i % 3 && e == i % 5 ? 40000 : 0) +
                               (l == (i + 1) % 3 && e < 2 ? mp_rng_below(&rng, 20000) : 0);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        use_counts(&t, &counts[0][0], 3, 5);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const uint32_t mean = 1 + (uint32_t)(i % 2), n_redundant = 3;
        const struct mp_setting settings[] = {{"craft", "mean", mean}};
        t.request.strategy = "lpt";
        t.request.n_redundant = n_redundant;
        for (uint32_t l = 0; l < 3; l++) { /* the other layers as lpt has them */
            struct mp_plan *p = make(&t.request);
            const uint64_t base = port_bound_ns(&t, w, p);
            memset(curve[l], 0xff, sizeof curve[l]);
            curve_of(&t, w, p, l, n_redundant, curve[l]);
            for (uint32_t k = 0; k <= n_redundant; k++)
                curve[l][k] = curve[l][k] == UINT64_MAX ? UINT64_MAX : curve[l][k] + (UINT64_C(1) << 40) - base;
            mp_plan_free(p);
        }
        uint64_t best = UINT64_MAX;
        for (uint32_t a = 0; a <= n_redundant; a++)
            for (uint32_t b = 0; b <= n_redundant; b++)
                for (uint32_t c = 0; c <= n_redundant && a + b + c <= mean * 3; c++)
                    if (curve[0][a] != UINT64_MAX && curve[1][b] != UINT64_MAX && curve[2][c] != UINT64_MAX &&
                        curve[0][a] + curve[1][b] + curve[2][c] < best)
                        best = curve[0][a] + curve[1][b] + curve[2][c];
        struct mp_plan *single = make(&t.request);
        t.request.strategy = "craft";
        t.request.settings = settings;
        t.request.n_settings = 1;
        struct mp_plan *p = make(&t.request);
        const uint32_t extra[3] = {extra_of(p, 0), extra_of(p, 1), extra_of(p, 2)};
        assert_true(extra[0] + extra[1] + extra[2] <= mean * 3);
        n_uneven += extra[0] != extra[1] || extra[1] != extra[2];
        assert_int_equal(port_bound_ns(&t, w, p) + 3 * (UINT64_C(1) << 40), best + port_bound_ns(&t, w, single));
        mp_plan_free(p);
        mp_plan_free(single);
        mp_workload_free(w);
        tiny_free(&t);
    }
    assert_true(n_uneven >= 6);
}

/* ---- grace ---- */
/* Four groups of three experts 3 k, 3 k + 1, 3 k + 2; of the tokens of a group three in five use the first two and the
 * others the first and the last. n[k] tokens each. */
static void plant_groups(struct mp_trace *t, const uint32_t *n) {
    uint64_t row = 0;
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t i = 0; i < n[k]; i++, row++) {
            uint64_t n_rows;
            uint8_t *ids = (uint8_t *)mp_trace_ids(t, 0, row, &n_rows);
            ids[0] = (uint8_t)(3 * k);
            ids[1] = (uint8_t)(3 * k + (i % 5 < 3 ? 1 : 2));
        }
    assert_int_equal(row, t->n_rows);
}

static void test_replicate__grace_copies_what_the_fullest_gpu_has_most_of(void **state) {
    (void)state;
    static const uint32_t n_tokens[4] = {100, 90, 70, 40};
    static const struct {
        int64_t rounds, printed;
        uint32_t n[12];
    } cases[] = {
        /* rows 200, 180, 140, 80: rho = 1, so half of 200 is copied once: expert 0 has it, to the GPU of 80 */
        {1, 0, {2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
        {1, 1, {2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
        /* its 100 rows in two parts: 150, 180, 140, 130; then half of 180 is expert 3 */
        {2, 0, {2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1}},
        /* as printed 200 / 2 on both: 200, 180, 140, 180; then half of 200 is experts 1 and 2 */
        {2, 1, {2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_error err = {0};
        struct tiny t;
        const struct tiny_spec s = {.n_layers = 1,
                                    .n_experts = 12,
                                    .top_k = 2,
                                    .n_requests = 30,
                                    .n_rows = 10,
                                    .topology = "4:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 25};
        const struct mp_setting settings[] = {{"grace-dynamic", "rounds", cases[i].rounds},
                                              {"grace-dynamic", "printed", cases[i].printed}};
        CHECK_OK(tiny_make(&t, &s, &err), err);
        plant_groups(t.trace, n_tokens);
        t.request.strategy = "grace";
        t.request.n_redundant = 8;
        t.request.slots_per_gpu = 5;
        t.request.settings = settings;
        t.request.n_settings = 2;
        struct mp_plan *p = make(&t.request);
        uint32_t gpu[12]; /* of the first copy: only where there is one copy it is sure */
        for (uint32_t e = 0; e < 12; e++)
            assert_int_equal(copies_of(p, 0, e), cases[i].n[e]);
        for (uint32_t slot = 0; slot < p->n_slots; slot++)
            if (p->layers[0].slot_expert[slot] != MP_NO_EXPERT)
                gpu[p->layers[0].slot_expert[slot]] = mp_plan_slot_gpu(p, slot);
        for (uint32_t k = 2; k < 4; k++) /* groups stay together */
            assert_true(gpu[3 * k] == gpu[3 * k + 1] && gpu[3 * k] == gpu[3 * k + 2]);
        bool is_beside = false; /* the copy of expert 0 is on the GPU of the last group */
        for (uint32_t slot = p->gpu_first_slot[gpu[9]]; slot < p->gpu_first_slot[gpu[9] + 1]; slot++)
            is_beside |= p->layers[0].slot_expert[slot] == 0;
        assert_true(is_beside);
        mp_plan_free(p);
        tiny_free(&t);
    }
}

/* ---- bundles ---- */
/* Experts 2 i and 2 i + 1 are always used together. */
static void plant_pairs(struct mp_trace *t, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    for (uint64_t row = 0; row < t->n_rows; row++) {
        uint64_t n_rows;
        uint8_t *ids = (uint8_t *)mp_trace_ids(t, 0, row, &n_rows);
        const uint64_t pair = mp_rng_below(&rng, t->n_experts / 2);
        ids[0] = (uint8_t)(2 * pair);
        ids[1] = (uint8_t)(2 * pair + 1);
    }
}

/* With copies between nodes as the measure, single replicas close no token, and a bundle of two all that use it. */
static void test_replicate__bundles_close_what_single_replicas_do_not(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_workload *w;
    const struct tiny_spec s = {.n_layers = 1,
                                .n_experts = 8,
                                .top_k = 2,
                                .n_requests = 60,
                                .n_rows = 10,
                                .topology = "2x2:h100",
                                .phase = MP_PHASE_PREFILL,
                                .batch = 40,
                                .seed = 3};
    double inter[3];
    uint32_t extra[3];
    CHECK_OK(tiny_make(&t, &s, &err), err);
    plant_pairs(t.trace, 4);
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    t.request.objective = MP_OBJECTIVE_INTER;
    t.request.sim.dispatcher = mp_dispatcher_find("deepep-normal");
    t.request.n_redundant = 8;
    t.request.n_settings = 2;
    for (uint32_t k = 0; k < 3; k++) { /* none, of one, of two */
        const struct mp_setting settings[] = {{"bundle", "size", k < 2 ? 1 : 2}, {"bundle", "tries", 100}};
        struct mp_sim_result *r;
        t.request.settings = settings;
        t.request.strategy = k == 0 ? "lpt" : "bundle";
        struct mp_plan *p = make(&t.request);
        CHECK_OK(mp_simulate(&r, p, w, t.topology, t.model, &t.request.sim, &err), err);
        inter[k] = r->inter_bytes;
        extra[k] = extra_of(p, 0);
        mp_sim_result_free(r);
        mp_plan_free(p);
    }
    /* lpt parts some pairs: a token of those needs the other node for one expert, and a single replica closes it */
    print_message("# copies between nodes: %.0f, single replicas %.0f (%u), pairs %.0f (%u)\n", inter[0], inter[1],
                  extra[1], inter[2], extra[2]);
    assert_true(inter[0] > 0);
    assert_int_equal((uint64_t)inter[2], 0); /* eight replicas: every expert on both nodes */
    assert_int_equal(extra[2], 8);
    assert_true(extra[1] < 8 && inter[1] > inter[0] / 4);
    mp_workload_free(w);
    tiny_free(&t);
}

static void declines(const struct mp_plan_request *r, const char *words) {
    struct mp_error err = {0};
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, r, &outcome, NULL, &err), err);
    assert_null(p);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" is not in: %s", words, err.message);
}

static struct tiny_spec middle(uint64_t seed) {
    return (struct tiny_spec){.n_layers = 3,
                              .n_experts = 12,
                              .top_k = 3,
                              .n_requests = 60,
                              .n_rows = 20,
                              .topology = "2x2:h100",
                              .phase = MP_PHASE_PREFILL,
                              .batch = 40,
                              .seed = seed};
}

static void test_replicate__pairs_of_strategies_that_cannot_be_say_what_to_write(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    const struct tiny_spec s = middle(1);
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.n_redundant = 4;
    t.request.strategy = "search-replicated";
    t.request.place = "lpt";
    declines(&t.request, "search: replicas are chosen while placing, and place lpt places those it is given");
    t.request.strategy = "lina";
    t.request.place = "kept";
    declines(&t.request, "kept: the replicate stage does not say where copies go");
    t.request.strategy = "bundle";
    t.request.place = NULL;
    t.request.route = "even";
    declines(&t.request, "bundle: a bundle at home is of use only to tokens that go to the nearest replica");
    t.request.strategy = "craft";
    t.request.route = NULL;
    t.request.needs_equal_slots = true;
    declines(&t.request, "craft: ");
    const uint64_t counts[36] = {90, 3, 1, 5, 3, 1, 5, 3, 1, 5, 3, 1, 5, 5, 5, 5, 5, 5,
                                 5,  5, 5, 5, 5, 5, 5, 3, 1, 5, 3, 1, 5, 3, 1, 5, 3, 1};
    use_counts(&t, counts, 3, 12);
    t.request.needs_equal_slots = false;
    t.request.strategy = "bundle";
    declines(&t.request, "bundle: counts do not say which experts a token uses together");
    t.request.strategy = "lina"; /* the first layer has a hot expert, the second is even */
    t.request.place = "sorted";
    declines(&t.request, "lina: layers have different numbers of replicas, and place sorted");
    t.request.place = "eplb";
    declines(&t.request, "lina: layers have different numbers of replicas, and place eplb");
    tiny_free(&t);
}

/* A target that needs every slot: what is chosen while placing fills them, Lina's rule the rest by load. */
static void test_replicate__every_slot_is_filled_where_the_target_needs_it(void **state) {
    (void)state;
    static const char *const names[] = {"search-replicated", "search-nearest", "lina"};
    for (uint64_t i = 0; i < 6; i++) {
        struct mp_error err = {0};
        struct tiny t;
        const struct tiny_spec s = middle(i);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.n_redundant = i < 3 ? 4 : 8;
        t.request.strategy = names[i % 3];
        t.request.needs_equal_slots = t.request.needs_distinct = true;
        struct mp_plan *p = make(&t.request);
        for (uint32_t l = 0; l < 3; l++)
            assert_int_equal(extra_of(p, l), t.request.n_redundant);
        assert_false(p->allow_same_gpu_replicas);
        mp_plan_free(p);
        tiny_free(&t);
    }
}

/* Any number of threads, the same bytes; no more replicas than asked for; on the steps looked at never worse than none
 * nor than EPLB's under the rule it was placed for. */
static void test_replicate__search_is_never_worse_than_none_or_eplb(void **state) {
    (void)state;
    static const char *const names[] = {"search-replicated", "search-nearest", "craft", "craft-nearest", "bundle"};
    for (uint64_t i = 0; i < 10; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct mp_workload *w;
        const struct tiny_spec s = middle(i);
        const bool is_search = i % 5 < 2, is_near = i % 5 == 1 || i % 5 > 2;
        const struct mp_setting settings[] = {{"search", "effort", 2}, {"search", "draw", 0}};
        char *text[2];
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.model->expert_bytes /= 64;
        t.request.n_redundant = 4;
        t.request.needs_distinct = true;
        t.request.order = "single";
        t.request.settings = settings;
        t.request.n_settings = 2;
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        uint64_t ns[4];
        for (int k = 0; k < 5; k++) {
            t.request.strategy = k == 0 ? "lpt" : k == 1 ? "lpt-replicated" : k == 2 ? "eplb" : names[i % 5];
            t.request.route = is_near ? "nearest" : "even";
            t.request.n_threads = k == 4 ? 3 : 1;
            struct mp_plan *p = make(&t.request);
            if (k < 4)
                ns[k] = port_bound_ns(&t, w, p);
            if (k >= 3) {
                text[k - 3] = tiny_text(p);
                for (uint32_t l = 0; l < 3; l++)
                    assert_true(extra_of(p, l) <= 4);
            }
            mp_plan_free(p);
        }
        assert_string_equal(text[0], text[1]);
        mp_free(text[0]);
        mp_free(text[1]);
        for (int k = 0; k < 3 && is_search; k++)
            assert_true(ns[3] <= ns[k]);
        mp_workload_free(w);
        tiny_free(&t);
    }
}

/* Recorded decode steps of gpt-oss-20b, half of the requests plan, the other half scores, two nodes of four, as many
 * redundant slots as experts: when what each node needs is on it, hardly anything crosses. */
static void test_replicate__real_steps_not_seen_are_faster(void **state) {
    const char *path = shared_path("traces/gpt-oss-20b/mmlu_test.npz");
    static const char *const names[] = {"eplb", "eplb-nearest", "lpt", "search-nearest"};
    struct mp_trace_hints hints = mp_trace_hints_none;
    struct mp_error err = {0};
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part planning, held_out;
    struct mp_workload *w;
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000};
    const struct mp_setting settings[] = {{"search", "effort", 4}};
    (void)state;
    if (path == NULL)
        skip();
    hints.phase = MP_PHASE_DECODE;
    hints.layer_base = 0;
    hints.ids_are_physical = 0;
    hints.n_experts = 32;
    CHECK_OK(mp_trace_load(&trace, path, &hints, &mp_limits_default, &err), err);
    CHECK_OK(mp_topology_load(&topology, "2x4:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_load(&model, "gpt-oss-20b", &mp_limits_default, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, trace, &split, &err), err);
    const struct mp_batching batching = {
        .phase = MP_PHASE_DECODE, .n_ranks = 8, .batch_per_rank = 64, .n_steps_max = 16, .resample = true};
    CHECK_OK(mp_workload_build(&w, &held_out, &batching, &err), err);
    uint64_t ns[4];
    for (int k = 0; k < 4; k++) {
        struct mp_sim_result *r;
        const struct mp_plan_request request = {
            .planning = &planning,
            .batching = batching,
            .split = split,
            .topology = topology,
            .model = model,
            .sim = {.dispatcher = mp_dispatcher_find("deepep-ll"), .stage_mode = -1},
            .strategy = names[k],
            .n_redundant = 32,
            .settings = settings,
            .n_settings = 1,
            .n_threads = 2,
            .is_trial = true,
            .limits = &mp_limits_default};
        struct mp_plan *p = make(&request);
        CHECK_OK(mp_simulate(&r, p, w, topology, model, &request.sim, &err), err);
        ns[k] = r->mean.step_ns;
        print_message("# %s: %.3f ms\n", names[k], (double)ns[k] / 1e6);
        mp_sim_result_free(r);
        mp_plan_free(p);
    }
    for (int k = 0; k < 3; k++)
        assert_true(ns[3] * 100 < ns[k] * 90);
    mp_workload_free(w);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    mp_trace_free(trace);
    mp_topology_free(topology);
    mp_model_free(model);
}

static enum mp_status plan_once(void *ctx, struct mp_error *err) {
    struct tiny *t = ctx;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &t->request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}
static void test_replicate__every_fault_is_survived(void **state) {
    (void)state;
    static const char *const names[] = {"lina", "craft", "bundle", "grace", "search-nearest", "search-replicated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct tiny_spec s = middle(3);
        s.n_layers = 2;
        s.n_requests = 12;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = names[i];
        t.request.n_redundant = 4;
        t.request.work_limit = 20;
        sweep_faults(plan_once, &t, i < 3 ? 1 : 3);
        tiny_free(&t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replicate__lina_gives_slots_by_popularity),
        cmocka_unit_test(test_replicate__craft_is_the_best_allocation),
        cmocka_unit_test(test_replicate__grace_copies_what_the_fullest_gpu_has_most_of),
        cmocka_unit_test(test_replicate__bundles_close_what_single_replicas_do_not),
        cmocka_unit_test(test_replicate__pairs_of_strategies_that_cannot_be_say_what_to_write),
        cmocka_unit_test(test_replicate__every_slot_is_filled_where_the_target_needs_it),
        cmocka_unit_test(test_replicate__search_is_never_worse_than_none_or_eplb),
        cmocka_unit_test(test_replicate__real_steps_not_seen_are_faster),
        cmocka_unit_test(test_replicate__every_fault_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
