/* Exact placements against every placement there is, as simulated; programs for other solvers and their answers. */
#include "support.h"

#include "exact_steps.h"
#include "place_model.h"
#include "tiny.h"

struct every {
    const struct mp_plan_request *request;
    struct mp_workload *workload;
    struct mp_plan *plan; /* one layer, its slots overwritten */
    uint16_t copies[16];
    uint32_t n_copies, used[8];
    unsigned __int128 best;
    bool is_found;
};

static bool holds(const struct mp_plan *p, uint32_t g, uint32_t e) {
    for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
        if (p->layers[0].slot_expert[s] == e)
            return true;
    return false;
}

/* What the exact search minimises, by simulating all of it. */
static unsigned __int128 cost_of(const struct every *v, const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    const struct mp_plan_request *q = v->request;
    unsigned __int128 sum = 0;
    CHECK_OK(mp_simulate(&r, p, v->workload, q->topology, q->model, &q->sim, &err), err);
    for (uint32_t s = 0; s < r->n_steps; s++)
        sum += r->steps[s].step_ns;
    if (q->objective == MP_OBJECTIVE_PEAK)
        sum = (unsigned __int128)(r->balance.peak_rows * r->n_steps + 0.5);
    mp_sim_result_free(r);
    return sum;
}

static void try_from(struct every *v, uint32_t c) {
    struct mp_plan *p = v->plan;
    if (c == v->n_copies) {
        unsigned __int128 cost = cost_of(v, p);
        v->best = !v->is_found || cost < v->best ? cost : v->best;
        v->is_found = true;
        return;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        uint32_t slot = p->gpu_first_slot[g] + v->used[g];
        if (slot == p->gpu_first_slot[g + 1] || holds(p, g, v->copies[c]))
            continue;
        p->layers[0].slot_expert[slot] = v->copies[c];
        v->used[g]++;
        try_from(v, c + 1);
        v->used[g]--;
        p->layers[0].slot_expert[slot] = MP_NO_EXPERT;
    }
}

/* A random problem of one layer; the plan's copies in *v. */
static struct mp_plan *make(struct tiny *t, struct every *v, struct mp_rng *rng, uint64_t seed, const char *strategy) {
    static const char *const topologies[] = {"2:h100", "2x1:h100", "3:h100", "1x2:a100+1x1:l40s", "2x2:h100"};
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};
    struct mp_error err = {0};
    struct tiny_spec s = {.n_layers = 1,
                          .n_experts = 3 + (uint32_t)mp_rng_below(rng, 3),
                          .n_requests = 20,
                          .n_rows = 6,
                          .topology = topologies[seed % 5],
                          .phase = mp_rng_below(rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                          .is_counts = mp_rng_below(rng, 6) == 0,
                          .seed = seed};
    s.top_k = 1 + (uint32_t)mp_rng_below(rng, 2);
    s.batch = s.phase == MP_PHASE_DECODE ? 2 : 12;
    CHECK_OK(tiny_make(t, &s, &err), err);
    struct mp_plan_request *q = &t->request;
    const char *dispatcher = dispatchers[s.is_counts ? 0 : mp_rng_below(rng, 5)];
    q->sim.dispatcher = mp_dispatcher_find(dispatcher);
    q->objective = mp_rng_below(rng, 4) == 0 ? MP_OBJECTIVE_PEAK : MP_OBJECTIVE_STEP;
    q->n_redundant = q->topology->n_gpus == 4 ? 0 : (uint32_t)mp_rng_below(rng, 3);
    q->strategy = strategy;
    q->replicate = q->n_redundant > 0 ? "eplb" : "none";
    *v = (struct every){.request = q};
    CHECK_OK(mp_workload_build(&v->workload, &t->part, &q->batching, &err), err);
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, q, &outcome, NULL, &err), err);
    if (p == NULL)
        return NULL;
    for (uint32_t e = 0; e < p->n_experts; e++)
        for (uint32_t slot = 0; slot < p->n_slots; slot++)
            if (p->layers[0].slot_expert[slot] == e)
                v->copies[v->n_copies++] = (uint16_t)e;
    return p;
}

static void free_all(struct tiny *t, struct every *v, struct mp_plan *p) {
    mp_plan_free(p);
    mp_plan_free(v->plan);
    mp_workload_free(v->workload);
    tiny_free(t);
}

static struct mp_plan *emptied_copy(const struct tiny *t, const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_plan *q;
    uint32_t slots[8], *node;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    CHECK_OK(mp_plan_new(&q, 1, p->n_experts, p->n_gpus, slots, &err), err);
    node = mp_arena_alloc(q->arena, p->n_gpus, sizeof *node);
    for (uint32_t g = 0; g < p->n_gpus; g++)
        node[g] = mp_topology_node(t->topology, g);
    q->gpu_node = node;
    q->n_nodes = p->n_nodes;
    return q;
}

static void test_exact__agrees_with_every_placement(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(91);
    unsigned n_replicated = 0, n_peak = 0, n_searched = 0;
    for (uint64_t i = 0; i < 110; i++) {
        struct tiny t;
        struct every v;
        struct mp_plan *p = make(&t, &v, &rng, i, "exact");
        assert_non_null(p);
        v.plan = emptied_copy(&t, p);
        try_from(&v, 0);
        assert_true(v.is_found);
        if (cost_of(&v, p) != v.best)
            fail_msg("problem %llu (%s, %u GPUs, %u copies): %llu ns, and the best of all is %llu",
                     (unsigned long long)i, t.request.sim.dispatcher->name, p->n_gpus, v.n_copies,
                     (unsigned long long)cost_of(&v, p), (unsigned long long)v.best);
        n_replicated += v.n_copies > p->n_experts;
        if (t.request.objective == MP_OBJECTIVE_PEAK) {
            n_peak++;
            assert_int_equal(p->n_certificates, 4);
        } else {
            const struct mp_certificate *c = &p->certificates[4];
            assert_int_equal(p->n_certificates, 5);
            assert_int_equal(c->proof, MP_PROOF_SEARCH);
            assert_int_equal(c->value_ns, p->predicted_step_ns);
            assert_int_equal(c->bound_ns, (uint64_t)(v.best / p->n_planning_steps));
            assert_true(c->nodes > 0);
            n_searched++;
        }
        free_all(&t, &v, p);
    }
    assert_true(n_replicated >= 25 && n_peak >= 10 && n_searched >= 50);
}

/* Stopped at any number of nodes: a plan, and a bound that the optimum does not go below. */
static void test_exact__stopped_bounds_are_bounds(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(92);
    unsigned n_stopped = 0, n_open = 0;
    for (uint64_t i = 0; i < 80; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct every v;
        struct mp_plan *p = make(&t, &v, &rng, i, "exact"), *q = NULL;
        enum mp_outcome outcome;
        t.request.work_limit = 1 + mp_rng_below(&rng, 60);
        CHECK_OK(mp_plan_make(&q, &t.request, &outcome, NULL, &err), err);
        if (q != NULL && outcome == MP_STOPPED) {
            assert_string_equal(q->provenance.stopped_by, "work_limit");
            assert_true(q->provenance.work_used >= t.request.work_limit);
            n_stopped++;
        }
        if (q != NULL)
            assert_true(q->provenance.work_used > 0 && q->provenance.work_used <= p->provenance.work_used);
        if (q != NULL && t.request.objective == MP_OBJECTIVE_STEP) {
            const struct mp_certificate *c = &q->certificates[4];
            assert_int_equal(q->n_certificates, 5);
            assert_int_equal(c->proof, outcome == MP_STOPPED ? MP_PROOF_STOPPED : MP_PROOF_SEARCH);
            assert_int_equal(c->value_ns, q->predicted_step_ns);
            assert_true(c->nodes == q->provenance.work_used);
            assert_true(c->bound_ns <= p->certificates[4].bound_ns && c->bound_ns <= c->value_ns);
            assert_true(q->predicted_step_ns >= p->predicted_step_ns);
            n_open += c->bound_ns < c->value_ns;
        }
        mp_plan_free(q);
        free_all(&t, &v, p);
    }
    assert_true(n_stopped >= 15 && n_open >= 10);
}

static void test_exact__the_same_for_any_number_of_threads(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct tiny_spec s = {.n_layers = 5,
                          .n_experts = 6,
                          .top_k = 2,
                          .n_requests = 40,
                          .n_rows = 6,
                          .topology = "2x2:h100",
                          .phase = MP_PHASE_DECODE,
                          .batch = 2,
                          .seed = 5};
    CHECK_OK(tiny_make(&t, &s, &err), err);
    const uint8_t *text[2];
    struct mp_out *o[2];
    size_t size[2];
    for (int i = 0; i < 2; i++) {
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        t.request.strategy = "exact";
        t.request.n_threads = i == 0 ? 1 : 3;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        CHECK_OK(mp_out_open_memory(&o[i], &err), err);
        mp_plan_write(p, o[i]);
        text[i] = mp_out_memory_bytes(o[i], &size[i]);
        mp_plan_free(p);
    }
    assert_true(size[0] == size[1] && memcmp(text[0], text[1], size[0]) == 0);
    mp_out_cancel(o[0]);
    mp_out_cancel(o[1]);
    tiny_free(&t);
}

/* Rows of the fullest GPU: the program says exactly what the search does, so GLPK proves the same optimum. */
static void test_exact__glpk_proves_the_same_peak(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(93);
    for (uint64_t i = 0; i < 60; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct every v;
        struct mp_plan *p = make(&t, &v, &rng, i, "lpt");
        if (p == NULL) {
            free_all(&t, &v, p);
            continue;
        }
        const uint64_t load[8] = {0};
        const struct mp_problem in = {.workload = v.workload,
                                      .topology = t.topology,
                                      .model = t.model,
                                      .sim = t.request.sim,
                                      .objective = MP_OBJECTIVE_PEAK,
                                      .load = load};
        const struct mp_exact_steps search = {.problem = &in, .shape = p, .copies = v.copies, .n_copies = v.n_copies};
        struct mp_exact_steps_answer a;
        struct mp_mip *m;
        struct mp_mip_answer b;
        enum mp_outcome outcome;
        struct mp_arena *arena = mp_arena_new();
        const struct mp_mip_options o = {.node_limit = UINT64_MAX};
        CHECK_OK(mp_exact_steps_solve(&a, &search, &err), err);
        CHECK_OK(mp_place_model_new(&m, &in, p, v.copies, v.n_copies, 0, 1, &outcome, &err), err);
        CHECK_OK(mp_mip_solve(&b, m, &o, arena, &err), err);
        assert_int_equal(a.outcome, MP_FOUND);
        assert_int_equal(b.outcome, MP_FOUND);
        assert_int_equal(a.value, b.objective);
        mp_arena_free(arena);
        mp_mip_free(m);
        free_all(&t, &v, p);
    }
}

/* Step time: the program's optimum is no more than ports and computation need, so it is below the simulated optimum by
 * no more than latencies and contention; and what GLPK places is as good as its own count says. */
static void test_exact__glpk_is_near_on_step_time(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(94);
    unsigned n = 0;
    double worst = 1;
    for (uint64_t i = 0; i < 60; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct every v;
        struct mp_plan *p = make(&t, &v, &rng, 5 * i, "exact"), *q = NULL; /* equal GPUs */
        enum mp_outcome outcome;
        enum mp_copy_count kind = t.request.sim.dispatcher->copies;
        const struct mp_setting setting = {"exact", "engine", 1};
        t.request.settings = &setting;
        t.request.n_settings = 1;
        CHECK_OK(mp_plan_make(&q, &t.request, &outcome, NULL, &err), err);
        if (t.request.objective == MP_OBJECTIVE_STEP && kind != MP_COPY_PER_EXPERT && kind != MP_COPY_ALL) {
            assert_null(q);
            assert_int_equal(outcome, MP_NOT_APPLICABLE);
        } else {
            assert_non_null(q);
            assert_int_equal(outcome, MP_FOUND);
            double gap = (double)cost_of(&v, q) / (double)cost_of(&v, p);
            assert_true(gap >= 1 && gap < 1.05);
            worst = gap > worst ? gap : worst;
            assert_int_equal(q->n_certificates, 4);
            n++;
        }
        mp_plan_free(q);
        free_all(&t, &v, p);
    }
    print_message("# %u problems, GLPK at worst %.5f of the simulated optimum\n", n, worst);
    assert_true(n >= 20);
}

static enum mp_status write_file(const char *path, const char *text) {
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_out_puts(o, text);
    return mp_out_commit(o, &err);
}

static void test_exact__a_solution_comes_back(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct tiny_spec s = {.n_layers = 2,
                          .n_experts = 4,
                          .top_k = 2,
                          .n_requests = 20,
                          .n_rows = 6,
                          .topology = "2:h100",
                          .phase = MP_PHASE_DECODE,
                          .batch = 2,
                          .seed = 6};
    char lp[512], solution[512];
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    snprintf(lp, sizeof lp, "%s", temp_path("out.lp"));
    snprintf(solution, sizeof solution, "%s", temp_path("solution.txt"));
    t.request.strategy = "exact";
    t.request.export_lp = lp;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_non_null(p);
    mp_plan_free(p);
    struct mp_in *in;
    CHECK_OK(mp_in_open(&in, lp, 0, &err), err);
    assert_non_null(memmem(in->data, in->size, " x_0_3_0_1\n", 11));
    assert_non_null(memmem(in->data, in->size, "combine_1_0", 11));
    mp_in_close(in);
    t.request.export_lp = NULL;
    t.request.import_solution = solution;
    CHECK_OK(write_file(solution, "# mine\nx_0_0_0_0 1\nx_0_1_0_1 1\nx_0_2_0_0 1\nx_0_3_0_1 1\n"
                                  "x_1_0_0_1 1\nx_1_1_0_1 1\nx_1_2_0_0 1\nx_1_3_0_0 1\n"),
             err);
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_non_null(p);
    static const uint16_t want[2][4] = {{0, 2, 1, 3}, {2, 3, 0, 1}};
    assert_memory_equal(p->layers[0].slot_expert, want[0], sizeof want[0]);
    assert_memory_equal(p->layers[1].slot_expert, want[1], sizeof want[1]);
    assert_int_equal(p->n_certificates, 4);
    mp_plan_free(p);
    p = NULL;
    static const char *const bad[2] = {"x_0_0_0_0 1\nx_0_1_0_0 1\nx_0_2_0_0 1\n", "x_0_0_0_0 1\n"};
    static const char *const broken[2] = {"somewhere_0_3_3 does not hold", "somewhere_0_1_1 does not hold"};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(write_file(solution, bad[i]), err);
        assert_int_equal(mp_plan_make(&p, &t.request, &outcome, NULL, &err), MP_EINPUT);
        assert_null(p);
        assert_non_null(strstr(err.message, broken[i]));
        mp_error_clear(&err);
    }
    tiny_free(&t);
}

/* "come back with --import-solution", said the export, and then more than 24 copies were not read. Whose answer it is
 * stands in the plan. */
static void test_exact__a_solution_of_more_copies_than_are_searched_comes_back(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct tiny_spec s = {.n_layers = 2,
                          .n_experts = 40,
                          .top_k = 2,
                          .n_requests = 20,
                          .n_rows = 6,
                          .topology = "4:h100",
                          .phase = MP_PHASE_DECODE,
                          .batch = 2,
                          .seed = 6};
    char lp[512], solution[512], text[4000] = "";
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    snprintf(lp, sizeof lp, "%s", temp_path("large.lp"));
    snprintf(solution, sizeof solution, "%s", temp_path("large.txt"));
    t.request.strategy = "exact";
    t.request.sim.dispatcher = mp_dispatcher_find("a2av");
    t.request.export_lp = lp;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_null(p);
    assert_non_null(strstr(err.message, "solve it and come back with --import-solution"));
    mp_error_clear(&err);
    for (int l = 0; l < 2; l++)
        for (int e = 0; e < 40; e++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "x_%d_%d_0_%d 1\n", l, e, (e + l) % 4);
    CHECK_OK(write_file(solution, text), err);
    t.request.export_lp = NULL;
    t.request.import_solution = solution;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_non_null(p);
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t i = 0; i < 40; i++)
            assert_int_equal((p->layers[l].slot_expert[i] + l) % 4, i / 10);
    assert_string_equal(p->provenance.strategy, "imported");
    assert_string_equal(p->provenance.place, "imported");
    mp_plan_free(p);
    tiny_free(&t);
}

static void test_exact__declines_with_a_reason(void **state) {
    (void)state;
    static const struct {
        const char *strategy, *want;
        struct tiny_spec spec;
        enum mp_sources sources;
        enum mp_objective objective;
    } cases[] = {
        {"exact", "more than 24 copies", {.n_experts = 25, .topology = "2:h100"}, MP_SOURCES_DP, MP_OBJECTIVE_STEP},
        {"exact", "coupled sources", {.n_experts = 4, .topology = "2:h100"}, MP_SOURCES_COUPLED, MP_OBJECTIVE_STEP},
        {"exact", "only the objectives", {.n_experts = 4, .topology = "2:h100"}, MP_SOURCES_DP, MP_OBJECTIVE_P95},
        {"exact-load",
         "more than 64 experts",
         {.n_experts = 65, .topology = "2:h100"},
         MP_SOURCES_DP,
         MP_OBJECTIVE_STEP}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct tiny_spec s = cases[i].spec;
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        s.n_layers = s.top_k = 1;
        s.n_requests = 20;
        s.n_rows = 6;
        s.phase = MP_PHASE_DECODE;
        s.batch = 2;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = cases[i].strategy;
        t.request.sim.sources = cases[i].sources;
        t.request.objective = cases[i].objective;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_null(p);
        assert_int_equal(outcome, MP_NOT_APPLICABLE);
        if (strstr(err.message, cases[i].want) == NULL)
            fail_msg("%s", err.message);
        tiny_free(&t);
    }
}

/* Out of memory inside GLPK: no plan that looks as if it had been solved, and GLPK's own words. */
static void test_exact__what_glpk_says_when_it_fails(void **state) {
    (void)state;
    const struct mp_setting settings[2] = {{"exact", "engine", 1}, {"exact", "memory", 1}};
    struct mp_error err = {0};
    struct tiny t;
    struct tiny_spec s = {.n_layers = 1,
                          .n_experts = 12,
                          .top_k = 2,
                          .n_requests = 60,
                          .n_rows = 8,
                          .topology = "4:h100",
                          .phase = MP_PHASE_DECODE,
                          .batch = 4,
                          .seed = 8};
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.strategy = "exact";
    t.request.sim.dispatcher = mp_dispatcher_find("a2av");
    t.request.settings = settings;
    t.request.n_settings = 2;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_null(p);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    if (strstr(err.message, "exact: layer 0: GLPK gives up: ") == NULL || strstr(err.message, "memory") == NULL ||
        strstr(err.message, ":  (") != NULL)
        fail_msg("%s", err.message);
    tiny_free(&t);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct tiny *t = ctx;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &t->request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}

static void test_exact__survives_faults(void **state) {
    (void)state;
    static const char *const strategies[] = {"exact", "exact-load", "sorted", "bottleneck"};
    struct tiny t;
    struct tiny_spec s = {.n_layers = 1,
                          .n_experts = 4,
                          .top_k = 2,
                          .n_requests = 20,
                          .n_rows = 4,
                          .topology = "2:h100",
                          .phase = MP_PHASE_DECODE,
                          .batch = 2,
                          .seed = 7};
    struct mp_error err = {0};
    char lp[512];
    snprintf(lp, sizeof lp, "%s", temp_path("fault.lp"));
    CHECK_OK(tiny_make(&t, &s, &err), err);
    for (int i = 0; i < 4; i++) {
        t.request.strategy = strategies[i];
        t.request.export_lp = i == 0 ? lp : NULL;
        sweep_faults(flow, &t, i == 0 ? 3 : 5);
    }
    const struct mp_setting setting = {"exact", "engine", 1};
    t.request.strategy = "exact";
    t.request.settings = &setting;
    t.request.n_settings = 1;
    sweep_faults(flow, &t, 7);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact__agrees_with_every_placement),
        cmocka_unit_test(test_exact__stopped_bounds_are_bounds),
        cmocka_unit_test(test_exact__the_same_for_any_number_of_threads),
        cmocka_unit_test(test_exact__glpk_proves_the_same_peak),
        cmocka_unit_test(test_exact__glpk_is_near_on_step_time),
        cmocka_unit_test(test_exact__what_glpk_says_when_it_fails),
        cmocka_unit_test(test_exact__a_solution_comes_back),
        cmocka_unit_test(test_exact__a_solution_of_more_copies_than_are_searched_comes_back),
        cmocka_unit_test(test_exact__declines_with_a_reason),
        cmocka_unit_test(test_exact__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
