/* Proofs by search, run again: honest ones hold, false ones that the verifier cannot tell are refuted. */
#include "support.h"

#include "tiny.h"
#include <moeplan/verify.h>

/* A random problem of one or two layers; counts where it must be. */
static void make(struct tiny *t, struct mp_rng *rng, uint64_t seed) {
    static const char *const topologies[] = {"2:h100", "2x1:h100", "3:h100", "1x2:a100+1x1:l40s"};
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical"};
    struct mp_error err = {0};
    struct tiny_spec s = {.n_layers = 1 + (uint32_t)(seed % 2),
                          .n_experts = 4 + (uint32_t)mp_rng_below(rng, 3),
                          .top_k = 1 + (uint32_t)mp_rng_below(rng, 2),
                          .n_requests = 20,
                          .n_rows = 6,
                          .topology = topologies[seed % 4],
                          .phase = mp_rng_below(rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                          .seed = seed};
    s.batch = s.phase == MP_PHASE_DECODE ? 2 : 12;
    CHECK_OK(tiny_make(t, &s, &err), err);
    t->request.sim.dispatcher = mp_dispatcher_find(dispatchers[mp_rng_below(rng, 4)]);
    t->request.n_redundant = seed % 3 == 0 ? 1 : 0;
    t->request.replicate = t->request.n_redundant > 0 ? "eplb" : "none";
    t->request.order = "single";
    t->request.route = "even";
}

static struct mp_plan *plan_with(struct tiny *t, const char *strategy) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    t->request.strategy = strategy;
    CHECK_OK(mp_plan_make(&p, &t->request, &outcome, NULL, &err), err);
    assert_non_null(p);
    return p;
}

static struct mp_proof_again again(const struct tiny *t, const struct mp_plan *p, uint64_t nodes) {
    struct mp_error err = {0};
    struct mp_proof_again a;
    CHECK_OK(mp_plan_prove_again(&a, p, t->trace, t->topology, t->model, nodes, 2, &err), err);
    return a;
}

static void test_reprove__honest_proofs_hold(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(71);
    for (uint64_t i = 0; i < 60; i++) {
        struct tiny t;
        make(&t, &rng, i);
        struct mp_plan *p = plan_with(&t, "exact");
        struct mp_proof_again a = again(&t, p, 0);
        assert_int_equal(p->n_certificates, 5);
        assert_int_equal(a.verdict, MP_PROOF_HOLDS);
        assert_int_equal(a.best_ns, p->certificates[4].bound_ns);
        assert_int_equal(a.bound_ns, a.best_ns);
        assert_true(a.nodes > 0);
        mp_plan_free(p);
        p = plan_with(&t, "lpt"); /* claims no search */
        assert_int_equal(again(&t, p, 0).verdict, MP_PROOF_IS_NONE);
        mp_plan_free(p);
        tiny_free(&t);
    }
}

/* A worse placement that says it is the best there is: all that the verifier can derive is right. */
static void test_reprove__false_proofs_are_refuted(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(72);
    unsigned n_false = 0;
    for (uint64_t i = 0; i < 60; i++) {
        struct mp_error err = {0};
        struct mp_verify_report *report;
        struct tiny t;
        make(&t, &rng, i);
        struct mp_plan *best = plan_with(&t, "exact"), *p = plan_with(&t, "contiguous");
        const uint64_t optimum = best->certificates[4].bound_ns;
        struct mp_certificate five[5];
        memcpy(five, p->certificates, 4 * sizeof *five);
        five[4] = best->certificates[4];
        five[4].value_ns = five[4].bound_ns = p->predicted_step_ns;
        p->certificates = five;
        p->n_certificates = 5;
        CHECK_OK(mp_plan_verify(&report, p, t.trace, t.topology, t.model, &err), err);
        assert_int_equal(report->n, 0);
        mp_verify_report_free(report);
        struct mp_proof_again a = again(&t, p, 0);
        if (p->predicted_step_ns > optimum + 1) {
            assert_int_equal(a.verdict, MP_PROOF_IS_REFUTED);
            assert_int_equal(a.best_ns, optimum);
            assert_int_equal(a.claimed_ns, p->predicted_step_ns);
            n_false++;
        }
        five[4].bound_ns = optimum; /* the same placement, and the truth about it */
        five[4].proof = MP_PROOF_STOPPED;
        assert_int_equal(again(&t, p, 0).verdict, MP_PROOF_HOLDS);
        mp_plan_free(best);
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_false >= 30);
}

/* Proofs that a budget ended hold with as many nodes; with fewer they are open, never refuted. */
static void test_reprove__stopped_proofs_hold_and_few_nodes_leave_them_open(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(73);
    unsigned n_stopped = 0, n_open = 0;
    for (uint64_t i = 0; i < 60; i++) {
        struct tiny t;
        make(&t, &rng, i);
        struct mp_plan *p = plan_with(&t, "exact");
        struct mp_proof_again a = again(&t, p, 1);
        assert_true(a.verdict == MP_PROOF_HOLDS || a.verdict == MP_PROOF_IS_OPEN);
        assert_null(a.why);
        n_open += a.verdict == MP_PROOF_IS_OPEN;
        mp_plan_free(p);
        t.request.work_limit = 1 + mp_rng_below(&rng, 60);
        p = plan_with(&t, "exact");
        n_stopped += p->certificates[4].proof == MP_PROOF_STOPPED;
        assert_int_equal(again(&t, p, 0).verdict, MP_PROOF_HOLDS);
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_stopped >= 10 && n_open >= 10);
}

struct flow {
    const struct tiny *tiny;
    const struct mp_plan *plan;
};
static enum mp_status prove(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_proof_again a;
    return mp_plan_prove_again(&a, f->plan, f->tiny->trace, f->tiny->topology, f->tiny->model, 0, 1, err);
}
static void test_reprove__survives_faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(74);
    struct tiny t;
    make(&t, &rng, 1);
    struct mp_plan *p = plan_with(&t, "exact");
    struct flow f = {&t, p};
    sweep_faults(prove, &f, 1);
    mp_plan_free(p);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reprove__honest_proofs_hold),
        cmocka_unit_test(test_reprove__false_proofs_are_refuted),
        cmocka_unit_test(test_reprove__stopped_proofs_hold_and_few_nodes_leave_them_open),
        cmocka_unit_test(test_reprove__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
