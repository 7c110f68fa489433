/* One plan for several kinds of traffic: where single plans are bad by construction, where there is nothing to gain,
 * joined recordings, groups of categories. */
#include "support.h"

#include <moeplan/robust.h>

#include "tiny.h"

enum { N_EXPERTS = 8, N_GPUS = 4, UNIT = 400 };
/* Planned on A, heaviest first, experts 2 and 3 share a GPU; B uses those most. */
static const uint64_t load_a[N_EXPERTS] = {40, 30, 9, 8, 20, 7, 6, 5}, load_b[N_EXPERTS] = {5, 5, 40, 40, 5, 5, 5, 5};

static enum mp_status counts_trace(struct mp_trace **out, const uint64_t *load, uint32_t n_experts,
                                   struct mp_error *err) {
    struct mp_trace_builder *b = NULL;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = 1,
                                       .n_experts = n_experts,
                                       .top_k = 1};
    enum mp_status status = mp_trace_builder_new(&b, &meta, &mp_limits_default, err);
    for (uint32_t i = 0; i < 3 && status == MP_OK; i++) {
        status = mp_trace_builder_iteration(b, MP_NONE, err);
        for (uint32_t e = 0; e < n_experts && status == MP_OK; e++)
            status = mp_trace_builder_count(b, 0, 0, e, UNIT * load[e % N_EXPERTS], err);
    }
    if (status == MP_OK)
        return mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", out, err);
    mp_trace_builder_free(b);
    return status;
}

/* Two recordings, behind one another and with a problem on the first. */
struct two {
    struct mp_trace *trace[2], *joined;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part own, unused, part[2];
    struct mp_scenario scenario[2];
    struct mp_robust_request request;
};

static void two_free(struct two *t) {
    for (int i = 0; i < 2; i++) {
        mp_trace_free(t->trace[i]);
        mp_part_free(&t->part[i]);
    }
    mp_part_free(&t->own);
    mp_part_free(&t->unused);
    mp_trace_free(t->joined);
    mp_topology_free(t->topology);
    mp_model_free(t->model);
}

static enum mp_status two_make(struct two *t, const uint64_t *a, const uint64_t *b, const char *strategy,
                               struct mp_error *err) {
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    const char *const paths[2] = {"a", "b"};
    uint32_t first[2];
    enum mp_status status;
    *t = (struct two){.topology = NULL};
    MP_TRY(counts_trace(&t->trace[0], a, N_EXPERTS, err));
    MP_TRY(counts_trace(&t->trace[1], b, N_EXPERTS, err));
    const struct mp_trace *const traces[2] = {t->trace[0], t->trace[1]};
    MP_TRY(mp_traces_join(&t->joined, first, traces, paths, 2, &mp_limits_default, err));
    MP_TRY(mp_topology_load(&t->topology, "4:h100", &mp_limits_default, err));
    MP_TRY(mp_model_generic(&t->model, NULL, 1, N_EXPERTS, 1, err));
    MP_TRY(mp_part_split(&t->own, &t->unused, t->trace[0], &none, err));
    for (int i = 0; i < 2; i++) {
        mp_part_free(&t->unused);
        MP_TRY(mp_part_split(&t->part[i], &t->unused, t->trace[i], &none, err));
        t->part[i].trace = t->joined;
        for (uint32_t m = 0; m < t->part[i].n; m++)
            t->part[i].members[m] += first[i];
        t->scenario[i] = (struct mp_scenario){&t->part[i], 1};
    }
    t->request =
        (struct mp_robust_request){.base = {.planning = &t->own,
                                            .batching = {.phase = MP_PHASE_PREFILL, .n_ranks = N_GPUS},
                                            .split = none,
                                            .topology = t->topology,
                                            .model = t->model,
                                            .sim = {.dispatcher = mp_dispatcher_find("a2av"), .stage_mode = -1},
                                            .strategy = strategy,
                                            .settings = tiny_settings,
                                            .n_settings = 1,
                                            .n_threads = 1,
                                            .limits = &mp_limits_default},
                                   .scenarios = t->scenario,
                                   .n = 2,
                                   .is_worst = true};
out:
    return status;
}

static uint64_t fullest(const struct mp_plan *p, const uint64_t *load) {
    uint64_t most = 0;
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        uint64_t sum = 0;
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
            sum += p->layers[0].slot_expert[s] != MP_NO_EXPERT ? load[p->layers[0].slot_expert[s]] : 0;
        most = sum > most ? sum : most;
    }
    return most;
}
static uint64_t fullest_of_both(const struct mp_plan *p) {
    const uint64_t a = fullest(p, load_a), b = fullest(p, load_b);
    return a > b ? a : b;
}

/* Of all ways to put two experts on each GPU: the least that the fullest GPU has in the worse of both. */
static uint64_t least_worst(uint16_t *slots, uint32_t n, uint32_t used) {
    if (n == N_EXPERTS) {
        uint64_t worst = 0;
        for (uint32_t g = 0; g < N_GPUS; g++)
            for (int i = 0; i < 2; i++) {
                const uint64_t *load = i == 0 ? load_a : load_b;
                const uint64_t sum = load[slots[2 * g]] + load[slots[2 * g + 1]];
                worst = sum > worst ? sum : worst;
            }
        return worst;
    }
    uint64_t least = UINT64_MAX;
    for (uint16_t e = 0; e < N_EXPERTS; e++)
        if ((used >> e & 1) == 0) {
            slots[n] = e;
            const uint64_t worst = least_worst(slots, n + 1, used | UINT32_C(1) << e);
            least = worst < least ? worst : least;
        }
    return least;
}

static void test_robust__spreads_what_is_hot_in_either(void **state) {
    (void)state;
    static const char *const strategies[] = {"lpt", "search"};
    uint16_t slots[N_EXPERTS];
    const uint64_t least = least_worst(slots, 0, 0);
    assert_int_equal(least, 45);
    for (size_t i = 0; i < 2; i++) {
        struct mp_error err = {0};
        struct mp_plan *p = NULL;
        struct mp_robust how;
        enum mp_outcome outcome;
        struct two t;
        CHECK_OK(two_make(&t, load_a, load_b, strategies[i], &err), err);
        CHECK_OK(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), err);
        assert_non_null(p);
        assert_int_equal(outcome, MP_FOUND);
        if (i == 0) /* the trap is one: heaviest first on A pairs the two that B uses most */
            assert_int_equal(fullest_of_both(how.plain), 80);
        assert_true(fullest_of_both(p) <= 50 && fullest_of_both(p) >= least);
        assert_true(how.score <= how.plain_score);
        if (i == 0) {
            assert_true(how.score < how.plain_score && how.from != MP_ROBUST_PLAIN);
            assert_string_equal(p->provenance.strategy, "robust");
            assert_string_equal(p->provenance.place, "lpt");
        }
        /* Proven on A, whatever it was chosen on. */
        assert_string_equal(p->provenance.trace_sha256, t.trace[0]->sha256);
        assert_int_equal(p->n_planning_steps, 3);
        assert_int_equal(p->layers[0].expert_rows[0], 3 * UNIT * load_a[0]);
        mp_plan_free(p);
        mp_robust_free(&how);
        two_free(&t);
    }
}

/* A hundred times as much of A: the mean is A's, and the plan of A alone is the best there is for A. */
static void test_robust__weighs_the_mean(void **state) {
    (void)state;
    struct mp_error err = {0};
    uint64_t of_a[2];
    for (int i = 0; i < 2; i++) {
        struct mp_plan *p = NULL;
        struct mp_robust how;
        enum mp_outcome outcome;
        struct two t;
        CHECK_OK(two_make(&t, load_a, load_b, "lpt", &err), err);
        t.request.is_worst = false;
        t.scenario[0].weight = i == 0 ? 1000000 : 1;
        t.scenario[1].weight = i == 0 ? 1 : 1000000;
        CHECK_OK(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), err);
        assert_non_null(p);
        assert_true(how.score <= how.plain_score);
        of_a[i] = fullest(p, load_a);
        if (i == 1)
            assert_int_equal(fullest(p, load_b), 45);
        mp_plan_free(p);
        mp_robust_free(&how);
        two_free(&t);
    }
    assert_int_equal(of_a[0], 45);
    assert_true(of_a[1] >= of_a[0]);
}

/* The same traffic twice asks for nothing else: the plan is the one without scenarios, byte for byte. */
static void test_robust__equal_traces_give_the_plan_of_one(void **state) {
    (void)state;
    static const char *const strategies[] = {"lpt", "eplb", "auto"};
    for (size_t i = 0; i < 3; i++) {
        struct mp_error err = {0};
        struct mp_plan *p = NULL, *one = NULL;
        struct mp_robust how;
        enum mp_outcome outcome;
        struct two t;
        CHECK_OK(two_make(&t, load_a, load_a, strategies[i], &err), err);
        CHECK_OK(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), err);
        CHECK_OK(mp_plan_make(&one, &t.request.base, &outcome, NULL, &err), err);
        assert_int_equal(how.from, MP_ROBUST_PLAIN);
        char *a = tiny_text(p), *b = tiny_text(one);
        assert_string_equal(a, b);
        mp_free(a);
        mp_free(b);
        mp_plan_free(p);
        mp_plan_free(one);
        mp_robust_free(&how);
        two_free(&t);
    }
}

static void test_robust__any_number_of_threads(void **state) {
    (void)state;
    static const unsigned threads[] = {1, 1, 3};
    char *text[3];
    for (int i = 0; i < 3; i++) {
        struct mp_error err = {0};
        struct mp_plan *p = NULL;
        struct mp_robust how;
        enum mp_outcome outcome;
        struct two t;
        CHECK_OK(two_make(&t, load_a, load_b, "auto", &err), err);
        t.request.base.n_threads = threads[i];
        t.request.base.n_redundant = 4;
        CHECK_OK(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), err);
        assert_non_null(p);
        text[i] = tiny_text(p);
        mp_plan_free(p);
        mp_robust_free(&how);
        two_free(&t);
    }
    for (int i = 1; i < 3; i++)
        assert_string_equal(text[0], text[i]);
    for (int i = 0; i < 3; i++)
        mp_free(text[i]);
}

static void test_robust__says_what_cannot_be(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    struct mp_robust how;
    enum mp_outcome outcome;
    struct two t;
    CHECK_OK(two_make(&t, load_a, load_b, "lpt", &err), err);
    t.request.base.memory_bytes = 1; /* no expert fits */
    CHECK_OK(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), err);
    assert_null(p);
    assert_null(how.plain);
    assert_int_equal(outcome, MP_NOT_FOUND);
    assert_true(err.message[0] != '\0');
    t.request.n = 0;
    assert_int_equal(mp_robust_make(&p, &how, &t.request, &outcome, NULL, &err), MP_EUSAGE);
    two_free(&t);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_plan *p = NULL;
    struct mp_robust how = {.plain = NULL};
    enum mp_outcome outcome;
    struct two t;
    (void)ctx;
    enum mp_status status = two_make(&t, load_a, load_b, "lpt", err);
    if (status == MP_OK)
        status = mp_robust_make(&p, &how, &t.request, &outcome, NULL, err);
    mp_plan_free(p);
    mp_robust_free(&how);
    two_free(&t);
    return status;
}
static void test_robust__survives_faults(void **state) {
    (void)state;
    sweep_faults(flow, NULL, 7);
}

/* ---- joined recordings ---- */

static const struct tiny_spec spec = {.n_layers = 2,
                                      .n_experts = 6,
                                      .top_k = 2,
                                      .n_requests = 60,
                                      .n_rows = 5,
                                      .topology = "2:h100",
                                      .phase = MP_PHASE_DECODE,
                                      .batch = 4,
                                      .seed = 1};

static void test_robust__joins_tokens_row_by_row(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec other = spec;
    struct tiny t[2];
    struct mp_trace *joined;
    uint32_t first[2];
    other.seed = 2;
    other.n_requests = 7;
    CHECK_OK(tiny_make(&t[0], &spec, &err), err);
    CHECK_OK(tiny_make(&t[1], &other, &err), err);
    const struct mp_trace *const traces[2] = {t[0].trace, t[1].trace};
    const char *const paths[2] = {"a", "b"};
    CHECK_OK(mp_traces_join(&joined, first, traces, paths, 2, &mp_limits_default, &err), err);
    assert_int_equal(first[0], 0);
    assert_int_equal(first[1], 60);
    assert_int_equal(joined->n_requests, 67);
    assert_int_equal(joined->n_rows, t[0].trace->n_rows + t[1].trace->n_rows);
    for (uint64_t row = 0; row < joined->n_rows; row++)
        for (uint32_t l = 0; l < 2; l++) {
            const int which = row >= t[0].trace->n_rows;
            uint16_t a[2], b[2];
            (void)mp_trace_row(joined, l, row, a);
            (void)mp_trace_row(traces[which], l, which ? row - t[0].trace->n_rows : row, b);
            assert_memory_equal(a, b, sizeof a);
        }
    mp_trace_free(joined);
    tiny_free(&t[0]);
    tiny_free(&t[1]);
}

static void test_robust__does_not_join_other_shapes(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec others[] = {spec, spec, spec, spec};
    struct tiny a;
    others[0].n_experts = 8;
    others[1].n_layers = 3;
    others[2].top_k = 1;
    others[3].is_counts = true;
    static const char *const says[] = {"another number of experts", "other layers", "another top-k", "do not mix"};
    CHECK_OK(tiny_make(&a, &spec, &err), err);
    for (int i = 0; i < 4; i++) {
        struct tiny b;
        struct mp_trace *joined;
        uint32_t first[2];
        CHECK_OK(tiny_make(&b, &others[i], &err), err);
        const struct mp_trace *const traces[2] = {a.trace, b.trace};
        const char *const paths[2] = {"a.mpt", "b.mpt"};
        assert_int_equal(mp_traces_join(&joined, first, traces, paths, 2, &mp_limits_default, &err), MP_EINPUT);
        assert_null(joined);
        assert_non_null(strstr(err.message, says[i]));
        assert_string_equal(err.path, "b.mpt");
        mp_error_clear(&err);
        tiny_free(&b);
    }
    tiny_free(&a);
}

/* ---- groups of categories ---- */

static enum mp_status categories_trace(struct mp_trace **out, uint32_t n_categories, struct mp_error *err) {
    static const char *const names[] = {"red", "green", "blue", "black"};
    struct mp_trace_builder *b = NULL;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = 1,
                                       .n_experts = 8,
                                       .top_k = 1};
    enum mp_status status = mp_trace_builder_new(&b, &meta, &mp_limits_default, err);
    for (uint32_t r = 0; r < 24 && status == MP_OK; r++) {
        struct mp_request request = {.id = r, .source = MP_NONE};
        status = mp_trace_builder_category(b, names[r % n_categories], &request.category, err);
        if (status == MP_OK)
            status = mp_trace_builder_request(b, &request, err);
        for (uint16_t i = 0; i < 4 && status == MP_OK; i++) { /* red and blue use 0-3, green and black 4-7 */
            const uint16_t expert = (uint16_t)(r % 2 * 4 + i);
            status = mp_trace_builder_row(b, &expert, NULL, err);
        }
    }
    if (status == MP_OK)
        return mp_trace_builder_finish(b, NULL, out, err);
    mp_trace_builder_free(b);
    return status;
}

static void test_robust__groups_like_categories(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace *t;
    struct mp_part part, unused, groups[4];
    const char *names[4];
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_arena *arena = mp_arena_new();
    uint32_t n = 2, n_members = 0;
    assert_non_null(arena);
    CHECK_OK(categories_trace(&t, 4, &err), err);
    CHECK_OK(mp_part_split(&part, &unused, t, &none, &err), err);
    CHECK_OK(mp_part_groups(groups, names, &n, &part, arena, &err), err);
    assert_int_equal(n, 2);
    for (uint32_t k = 0; k < n; k++) {
        assert_string_equal(names[k], groups[k].members[0] % 2 == 0 ? "red,blue" : "green,black");
        for (uint32_t m = 0; m < groups[k].n; m++)
            assert_int_equal(groups[k].members[m] % 2, groups[k].members[0] % 2);
        n_members += groups[k].n;
        mp_part_free(&groups[k]);
    }
    assert_int_equal(n_members, 24);
    mp_part_free(&part);
    mp_part_free(&unused);
    mp_trace_free(t);
    CHECK_OK(categories_trace(&t, 1, &err), err);
    CHECK_OK(mp_part_split(&part, &unused, t, &none, &err), err);
    n = 2;
    assert_int_equal(mp_part_groups(groups, names, &n, &part, arena, &err), MP_EINPUT);
    mp_part_free(&part);
    mp_part_free(&unused);
    mp_trace_free(t);
    mp_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_robust__spreads_what_is_hot_in_either),
        cmocka_unit_test(test_robust__weighs_the_mean),
        cmocka_unit_test(test_robust__equal_traces_give_the_plan_of_one),
        cmocka_unit_test(test_robust__any_number_of_threads),
        cmocka_unit_test(test_robust__says_what_cannot_be),
        cmocka_unit_test(test_robust__survives_faults),
        cmocka_unit_test(test_robust__joins_tokens_row_by_row),
        cmocka_unit_test(test_robust__does_not_join_other_shapes),
        cmocka_unit_test(test_robust__groups_like_categories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
