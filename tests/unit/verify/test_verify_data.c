/* The verifier against planner, cost model and simulator: two derivations of the same text must agree on random
 * problems of every dispatcher, source mode, routing rule, stage mode and shape of topology. mp_plan_make itself asks
 * the verifier; here the plans are then changed further than any strategy goes, proved again by the planner's code, and
 * verified. */
#include "../plan/random_plan.h"
#include "tiny.h"
#include "planner.h"
#include "support.h"
#include "twist.h"
#include <moeplan/verify.h>

static const char *const topologies[] = {"1x4:h100",
                                         "2x4:h100",
                                         "2x2:a100+2x2:l40s",
                                         "1x8:mi300x",
                                         "4x2:v100",
                                         "1x1:h100",
                                         "topologies/mixed-a100-l40s.yaml",
                                         "topologies/shared-nic.yaml",
                                         "topologies/h100-n4g8-oversubscribed.yaml",
                                         "topologies/rack-two-tier.yaml"};
static const char *const strategies[] = {"contiguous", "round-robin", "random", "lpt", "eplb", "auto"};

static void check_accepted(const struct mp_plan *p, const struct tiny *t, const char *what) {
    struct mp_error err = {0};
    struct mp_verify_report *r;
    CHECK_OK(mp_plan_verify(&r, p, t->trace, t->topology, t->model, &err), err);
    if (r->n > 0)
        fail_msg("%s: %s: %s", what, mp_violation_name(r->violations[0].kind), r->violations[0].message);
    assert_true(r->n_checks > 10 && r->has_data);
    assert_int_equal(r->n_steps_simulated, p->n_samples);
    mp_verify_report_free(r);
}

static void test_verify_data__agrees_with_planner_and_simulator(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};
    uint32_t n_accepted = 0;
    for (uint32_t round = 0; round < 60; round++) {
        struct mp_error err = {0};
        const char *topology = topologies[round % 10];
        struct tiny_spec spec = {.n_layers = 1 + (uint32_t)mp_rng_below(&rng, 3),
                                 .n_experts = 32 + (uint32_t)mp_rng_below(&rng, 9),
                                 .top_k = 1 + (uint32_t)mp_rng_below(&rng, 4),
                                 .n_requests = 80,
                                 .n_rows = 5,
                                 .topology = round % 10 >= 6 ? source_path(topology) : topology,
                                 .is_counts = mp_rng_below(&rng, 4) == 0,
                                 .phase = mp_rng_below(&rng, 2) ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                 .seed = mp_rng_next(&rng)};
        spec.batch = spec.phase == MP_PHASE_DECODE ? 1 : 6;
        struct tiny t;
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        const char *name =
            spec.is_counts ? (mp_rng_below(&rng, 2) ? "agrs" : "a2av") : dispatchers[mp_rng_below(&rng, 5)];
        t.request.sim.dispatcher = mp_dispatcher_find(name);
        t.request.sim.sources = !spec.is_counts && mp_rng_below(&rng, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        t.request.strategy = strategies[mp_rng_below(&rng, 6)];
        t.request.n_redundant = t.topology->n_gpus * (uint32_t)mp_rng_below(&rng, 3);
        t.request.batching.n_steps_max = 6;
        t.request.batching.pad_tokens = (uint32_t)mp_rng_below(&rng, 3) * 4;
        t.request.batching.source_skew_ppm = (uint32_t)mp_rng_below(&rng, 2) * 500000;
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        if (p != NULL) {
            check_accepted(p, &t, t.request.strategy);
            struct mp_workload *w;
            CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
            const struct mp_problem problem = {
                .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
            for (int i = 0; i < 3; i++) {
                char what[200];
                twist(&rng, p, t.topology);
                CHECK_OK(mp_plan_prove(p, &problem, &err), err);
                snprintf(what, sizeof what, "round %u: %s, %s%s, %s, route %s, stages %s, %u orders", round, topology,
                         name, t.request.sim.sources == MP_SOURCES_COUPLED ? " coupled" : "", mp_phase_name(spec.phase),
                         mp_route_rule_name(p->route), mp_stage_mode_name(p->stage_mode), p->n_orders);
                check_accepted(p, &t, what);
                n_accepted++;
            }
            mp_workload_free(w);
        }
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_accepted > 120);
}

struct flow {
    const struct mp_plan *plan;
    const struct tiny *tiny;
};
static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_verify_report *r;
    enum mp_status status = mp_plan_verify(&r, f->plan, f->tiny->trace, f->tiny->topology, f->tiny->model, err);
    mp_verify_report_free(r);
    return status;
}

static void test_verify_data__survives_faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    struct mp_error err = {0};
    const struct tiny_spec spec = {2, 8, 2, 20, 4, "2x2:h100", false, MP_PHASE_DECODE, 2, 9};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    t.request.n_redundant = 4;
    t.request.strategy = "eplb";
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_non_null(p);
    struct mp_workload *w;
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    const struct mp_problem problem = {
        .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
    for (int i = 0; i < 4; i++) {
        struct flow f = {p, &t};
        twist(&rng, p, t.topology);
        CHECK_OK(mp_plan_prove(p, &problem, &err), err);
        sweep_faults(flow, &f, 1);
    }
    mp_workload_free(w);
    mp_plan_free(p);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_data__agrees_with_planner_and_simulator),
        cmocka_unit_test(test_verify_data__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
