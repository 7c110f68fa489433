/* Strategy search: against every placement there is, on unequal GPUs, with empty slots and replicas; the same bytes for
 * any number of threads; budgets; faults. */
#include "support.h"

#include "layer_cost.h"
#include "tiny.h"

struct brute {
    struct mp_layer_cost *cost;
    uint32_t n_items, n_gpus;
    const uint32_t *first_slot;
    uint32_t used[8];
    uint16_t gpu[16];
    uint64_t best, n;
};
static void try_from(struct brute *b, uint32_t item) {
    if (item == b->n_items) {
        mp_layer_cost_set(b->cost, b->gpu);
        b->best = mp_layer_cost_now(b->cost) < b->best ? mp_layer_cost_now(b->cost) : b->best;
        b->n++;
        return;
    }
    for (uint32_t g = 0; g < b->n_gpus; g++) {
        if (b->used[g] == b->first_slot[g + 1] - b->first_slot[g])
            continue;
        b->used[g]++;
        b->gpu[item] = (uint16_t)g;
        try_from(b, item + 1);
        b->used[g]--;
    }
}

static void test_place_search__finds_the_optimum_of_tiny_problems(void **state) {
    (void)state;
    static const char *const topologies[] = {"2:h100", "2x1:h100", "3:h100", "1x2:a100+1x1:l40s", "2x2:h100"};
    static const char *const dispatchers[] = {"deepep-normal", "a2av", "hierarchical", "deepep-ll"};
    struct mp_rng rng = mp_rng_seed(5);
    unsigned n_optimal = 0, n_problems = 300;
    uint64_t n_tried = 0;
    for (uint64_t i = 0; i < n_problems; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct mp_workload *w;
        struct mp_plan *p;
        enum mp_outcome outcome;
        struct tiny_spec s = {.n_layers = 1,
                              .n_experts = 4 + (uint32_t)mp_rng_below(&rng, 3),
                              .n_requests = 24,
                              .n_rows = 6,
                              .topology = topologies[i % 5],
                              .phase = mp_rng_below(&rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .seed = i};
        s.top_k = 1 + (uint32_t)mp_rng_below(&rng, 3);
        s.batch = s.phase == MP_PHASE_DECODE ? 2 : 12;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.sim.dispatcher = mp_dispatcher_find(dispatchers[i / 5 % 4]);
        t.request.objective = i % 11 == 0 ? MP_OBJECTIVE_PEAK : i % 13 == 0 ? MP_OBJECTIVE_INTER : MP_OBJECTIVE_STEP;
        if (i % 3 == 0) /* room for an empty slot on each GPU */
            t.request.slots_per_gpu = (s.n_experts + t.topology->n_gpus - 1) / t.topology->n_gpus + 1;
        t.request.strategy = "search";
        t.request.n_settings = 0; /* the defaults */
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {.workload = w,
                                           .topology = t.topology,
                                           .model = t.model,
                                           .sim = t.request.sim,
                                           .objective = t.request.objective};
        uint16_t copies[16], gpu[16];
        for (uint32_t e = 0; e < s.n_experts; e++)
            copies[e] = (uint16_t)e;
        for (uint32_t slot = 0; slot < p->n_slots; slot++)
            if (p->layers[0].slot_expert[slot] != MP_NO_EXPERT)
                gpu[p->layers[0].slot_expert[slot]] = (uint16_t)mp_plan_slot_gpu(p, slot);
        const struct mp_layer_cost_spec spec = {
            .problem = &problem, .copies = copies, .n_copies = s.n_experts, .n_steps = w->n_steps};
        struct brute b = {
            .n_items = s.n_experts, .n_gpus = p->n_gpus, .first_slot = p->gpu_first_slot, .best = UINT64_MAX};
        CHECK_OK(mp_layer_cost_new(&b.cost, &spec, &outcome, &err), err);
        try_from(&b, 0);
        mp_layer_cost_set(b.cost, gpu);
        if (mp_layer_cost_now(b.cost) < b.best)
            fail_msg("problem %llu: %llu is below the optimum %llu", (unsigned long long)i,
                     (unsigned long long)mp_layer_cost_now(b.cost), (unsigned long long)b.best);
        n_optimal += mp_layer_cost_now(b.cost) == b.best;
        n_tried += b.n;
        mp_layer_cost_free(b.cost);
        mp_workload_free(w);
        mp_plan_free(p);
        tiny_free(&t);
    }
    print_message("# optimal in %u of %u problems, %llu placements tried\n", n_optimal, n_problems,
                  (unsigned long long)n_tried);
    assert_true(n_optimal >= n_problems * 95 / 100);
}

static struct tiny_spec middle(uint64_t seed) {
    return (struct tiny_spec){.n_layers = 3,
                              .n_experts = 12,
                              .top_k = 3,
                              .n_requests = 40,
                              .n_rows = 20,
                              .topology = "2x2:h100",
                              .phase = MP_PHASE_PREFILL,
                              .batch = 20,
                              .seed = seed};
}

/* Never worse than its starts in its own measure, the steps it looks at, for each replicate strategy; replicas stay
 * distinct (the verifier accepts); threads change nothing. */
static void test_place_search__is_never_worse_than_its_starts(void **state) {
    (void)state;
    static const char *const starts[] = {"contiguous", "lpt", "eplb"};
    for (uint64_t i = 0; i < 6; i++) {
        struct mp_error err = {0};
        const struct tiny_spec s = middle(i);
        struct tiny t;
        struct mp_plan *p;
        struct mp_workload *w;
        enum mp_outcome outcome;
        uint64_t step_ns[4];
        char *text[2];
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.n_redundant = i % 3 == 0 ? 0 : 4;
        t.request.replicate = i % 3 == 0 ? "none" : i % 3 == 1 ? "eplb" : "cycle";
        t.request.needs_distinct = true;
        t.request.order = "single";
        const struct mp_setting settings[] = {{"search", "effort", 1}, {"search", "draw", i < 3 ? 0 : 32}};
        t.request.settings = settings;
        t.request.n_settings = 2;
        if (i < 3)
            CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        else
            CHECK_OK(mp_draw_steps(&w, &t.part, &t.request.batching, 32, t.request.seed, &err), err);
        assert_non_null(w);
        struct mp_sim_options options = t.request.sim;
        options.network = MP_NETWORK_PORT_BOUND;
        for (int k = 0; k < 5; k++) {
            struct mp_sim_result *r;
            t.request.strategy = k < 3 ? "contiguous" : "search";
            t.request.place = k < 3 ? starts[k] : NULL;
            t.request.n_threads = k == 4 ? 3 : 1;
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            assert_int_equal(outcome, MP_FOUND);
            CHECK_OK(mp_simulate(&r, p, w, t.topology, t.model, &options, &err), err);
            if (k < 4)
                step_ns[k] = r->mean.step_ns;
            if (k >= 3)
                text[k - 3] = tiny_text(p);
            mp_sim_result_free(r);
            mp_plan_free(p);
        }
        assert_string_equal(text[0], text[1]);
        mp_free(text[0]);
        mp_free(text[1]);
        for (int k = 0; k < 3; k++)
            assert_true(step_ns[3] <= step_ns[k]);
        mp_workload_free(w);
        tiny_free(&t);
    }
}

/* A work limit makes the search stop early and still gives a plan, the same one each time. */
static void test_place_search__stops_at_a_work_limit(void **state) {
    (void)state;
    struct mp_error err = {0};
    const struct tiny_spec s = middle(1);
    struct tiny t;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.strategy = "search";
    uint64_t work[3];
    char *text[3];
    for (int k = 0; k < 3; k++) {
        struct mp_plan *p;
        enum mp_outcome outcome;
        t.request.work_limit = k < 2 ? 300 : 0;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_non_null(p);
        work[k] = p->provenance.work_used;
        assert_true(p->provenance.is_reproducible);
        text[k] = tiny_text(p);
        mp_plan_free(p);
    }
    assert_string_equal(text[0], text[1]);
    print_message("# work %llu with a limit, %llu without\n", (unsigned long long)work[0], (unsigned long long)work[2]);
    assert_true(work[0] <= 2 * 300 && work[0] < work[2]);
    for (int k = 0; k < 3; k++)
        mp_free(text[k]);
    tiny_free(&t);
}

/* With every expert hot in turn, totals say nothing; steps do: experts that are hot together must part. */
static void test_place_search__sees_steps_where_totals_are_even(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct tiny t;
    const struct tiny_spec s = middle(2);
    CHECK_OK(tiny_make(&t, &s, &err), err);
    mp_part_free(&t.part);
    mp_part_free(&t.unused);
    mp_trace_free(t.trace);
    const struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = 3,
                                       .n_experts = 12,
                                       .top_k = 3};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < 6; i++) { /* experts 2i and 2i + 1 are hot in iteration i */
        CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
        for (uint32_t l = 0; l < 3; l++)
            for (uint32_t e = 0; e < 12; e++)
                CHECK_OK(mp_trace_builder_count(b, 0, l, e, e / 2 == i ? 30000 : 300, &err), err);
    }
    CHECK_OK(
        mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &t.trace, &err),
        err);
    CHECK_OK(mp_part_split(&t.part, &t.unused, t.trace, &t.request.split, &err), err);
    t.request.sim.dispatcher = mp_dispatcher_find("a2av");
    t.request.strategy = "search";
    t.request.objective = MP_OBJECTIVE_PEAK;
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    for (uint32_t l = 0; l < 3; l++) {
        uint32_t gpu[12];
        for (uint32_t slot = 0; slot < p->n_slots; slot++)
            gpu[p->layers[l].slot_expert[slot]] = mp_plan_slot_gpu(p, slot);
        for (uint32_t e = 0; e < 12; e += 2)
            assert_int_not_equal(gpu[e], gpu[e + 1]);
        assert_int_equal(p->layers[l].rows_max_sum, 6 * (30000 + 2 * 300));
    }
    mp_plan_free(p);
    tiny_free(&t);
}

static enum mp_status plan_once(void *ctx, struct mp_error *err) {
    struct tiny *t = ctx;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &t->request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}
static void test_place_search__survives_faults(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = middle(3);
    struct tiny t;
    s.n_layers = 2;
    s.n_requests = 8;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.strategy = "search";
    t.request.work_limit = 20;
    sweep_faults(plan_once, &t, 1);
    t.request.sim.sources = MP_SOURCES_COUPLED;
    sweep_faults(plan_once, &t, 3);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place_search__finds_the_optimum_of_tiny_problems),
        cmocka_unit_test(test_place_search__is_never_worse_than_its_starts),
        cmocka_unit_test(test_place_search__stops_at_a_work_limit),
        cmocka_unit_test(test_place_search__sees_steps_where_totals_are_even),
        cmocka_unit_test(test_place_search__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
