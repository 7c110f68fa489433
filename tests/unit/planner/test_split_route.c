/* Routes split and split-active: never worse than even and nearest on the planning steps, whatever is asked of them. */
#include "support.h"

#include "planner.h"
#include "tiny.h"

static void make(struct mp_plan **p, struct tiny *t, const char *route, enum mp_outcome expected) {
    struct mp_error err = {0};
    enum mp_outcome outcome;
    t->request.route = route;
    CHECK_OK(mp_plan_make(p, &t->request, &outcome, NULL, &err), err);
    assert_int_equal(outcome, expected);
}

/* What the objective sums up, on all planning steps. */
static double value_of(const struct tiny *t, const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_workload *w;
    struct mp_sim_result *r;
    CHECK_OK(mp_workload_build(&w, &t->part, &t->request.batching, &err), err);
    CHECK_OK(mp_simulate(&r, p, w, t->topology, t->model, &t->request.sim, &err), err);
    const double value = mp_sim_objective(r, t->request.objective);
    mp_sim_result_free(r);
    mp_workload_free(w);
    return value;
}

static struct tiny_spec spec_of(uint64_t i) {
    static const char *const topologies[] = {"2x2:h100", "4:h100", "2x1:h100+2x1:l40s", "3x2:a100"};
    return (struct tiny_spec){.n_layers = 3,
                              .n_experts = 8,
                              .top_k = 2,
                              .n_requests = i % 2 == 0 ? 30 : 50, /* from 40 on steps are drawn */
                              .n_rows = 12,
                              .topology = topologies[i % 4],
                              .is_counts = i % 6 == 5,
                              .phase = i % 3 == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .batch = i % 3 == 0 ? 4 : 24,
                              .seed = i};
}

static void ask(struct tiny *t, uint64_t i) {
    t->request.strategy = i % 5 == 4 ? "lpt-replicated" : "eplb"; /* the second may put replicas on one GPU */
    t->request.n_redundant = t->topology->n_gpus == 6 ? 4 : i % 7 < 4 ? 4 : 8;
    t->request.objective = i % 8 == 6 ? MP_OBJECTIVE_PEAK : i % 8 == 7 ? MP_OBJECTIVE_INTER : MP_OBJECTIVE_STEP;
}

static void test_split_route__never_worse_on_planning_steps(void **state) {
    (void)state;
    static const char *const routes[] = {"even", "nearest", "split", "split-active"};
    unsigned n_sourced = 0, n_better = 0;
    for (uint64_t i = 0; i < 36; i++) {
        struct mp_error err = {0};
        const struct tiny_spec s = spec_of(i);
        struct tiny t;
        double value[4];
        CHECK_OK(tiny_make(&t, &s, &err), err);
        ask(&t, i);
        for (int r = 0; r < 4; r++) {
            struct mp_plan *p;
            make(&p, &t, routes[r], MP_FOUND);
            value[r] = value_of(&t, p);
            if (r > 1) {
                assert_true(value[r] <= value[0]);
                assert_true(value[r] <= value[1]);
                n_sourced += p->route == MP_ROUTE_SOURCED;
                n_better += value[r] < value[0] && value[r] < value[1];
                for (uint32_t l = 0; l < p->n_layers; l++)
                    assert_true((p->layers[l].slot_weight_by_source != NULL) == (p->route == MP_ROUTE_SOURCED));
            }
            mp_plan_free(p);
        }
        tiny_free(&t);
    }
    print_message("# of 72 plans %u have a table, %u are better than even and nearest\n", n_sourced, n_better);
    assert_true(n_better >= 36);
}

/* The same bytes for any number of threads; and they read back as they are. */
static void test_split_route__same_bytes(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        struct mp_error err = {0};
        const struct tiny_spec s = spec_of(i);
        struct tiny t;
        char *text[2];
        CHECK_OK(tiny_make(&t, &s, &err), err);
        ask(&t, i);
        for (unsigned k = 0; k < 2; k++) {
            struct mp_plan *p;
            t.request.n_threads = 1 + 3 * k;
            make(&p, &t, "split-active", MP_FOUND);
            text[k] = tiny_text(p);
            assert_non_null(text[k]);
            mp_plan_free(p);
        }
        assert_string_equal(text[0], text[1]);
        mp_free(text[0]);
        mp_free(text[1]);
        tiny_free(&t);
    }
}

/* With weights for nodes there is one class a node, and the result still is no worse. */
static void test_split_route__by_node(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = spec_of(1);
    struct tiny t;
    struct mp_plan *p, *even;
    bool has_table = false;
    const struct mp_setting by_node = {"split", "nodes", 1};
    s.topology = "3x2:a100";
    for (uint64_t i = 0; i < 8; i++) {
        s.seed = i;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        ask(&t, 0);
        t.request.settings = &by_node;
        make(&p, &t, "split", MP_FOUND);
        make(&even, &t, "even", MP_FOUND);
        assert_true(value_of(&t, p) <= value_of(&t, even));
        if (p->route == MP_ROUTE_SOURCED) {
            has_table = true;
            assert_int_equal(p->route_by, MP_ROUTE_BY_NODE);
            assert_int_equal(mp_plan_n_classes(p), 3);
        }
        mp_plan_free(p);
        mp_plan_free(even);
        tiny_free(&t);
    }
    assert_true(has_table);
}

/* Nothing to choose: even. A target without tables: declined, with a sentence. */
static void test_split_route__declines(void **state) {
    (void)state;
    struct mp_error err = {0};
    const struct tiny_spec s = spec_of(0);
    struct tiny t;
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    ask(&t, 0);
    t.request.n_redundant = 0;
    make(&p, &t, "split", MP_FOUND);
    assert_int_equal(p->route, MP_ROUTE_EVEN);
    mp_plan_free(p);
    t.request.n_redundant = 4;
    t.request.allowed_routes = 1u << MP_ROUTE_EVEN;
    t.request.route = "split-active";
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    assert_null(p);
    assert_string_equal(err.message,
                        "split: the target does not choose replicas by the rule sourced (write --route even)");
    tiny_free(&t);
}

/* `auto` tries the split on its best placements, and where a route is asked for nothing else. */
static void test_split_route__in_auto(void **state) {
    (void)state;
    unsigned n_split = 0;
    for (uint64_t i = 0; i < 4; i++) {
        struct mp_error err = {0};
        const struct tiny_spec s = spec_of(4 * i + 1);
        struct tiny t;
        struct mp_plan *p;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.n_redundant = 8;
        t.request.replicate = t.request.place = "eplb";
        make(&p, &t, NULL, MP_FOUND);
        n_split += strcmp(p->provenance.route, "split-active") == 0 && p->route == MP_ROUTE_SOURCED;
        mp_plan_free(p);
        make(&p, &t, "nearest", MP_FOUND);
        assert_string_equal(p->provenance.route, "nearest");
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_split > 0);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct tiny *t = ctx;
    struct mp_plan *p;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &t->request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}
static void test_split_route__faults(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = spec_of(1);
    struct tiny t;
    s.n_layers = 1;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    ask(&t, 1);
    t.request.route = "split-active";
    sweep_faults(flow, &t, 3);
    tiny_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_split_route__never_worse_on_planning_steps),
                                       cmocka_unit_test(test_split_route__same_bytes),
                                       cmocka_unit_test(test_split_route__by_node),
                                       cmocka_unit_test(test_split_route__declines),
                                       cmocka_unit_test(test_split_route__in_auto),
                                       cmocka_unit_test(test_split_route__faults)};
    return cmocka_run_group_tests_name("split_route", tests, NULL, NULL);
}
