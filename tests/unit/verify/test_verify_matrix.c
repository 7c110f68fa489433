/* The verifier on plans of one traffic matrix: its own bound and time must be those of cost model and simulator, for
 * every kind of order, and whatever else the plan says of matrix, bound or time is refused by its name. */
#include "matrix_case.h"

static const char *const topologies[] = {"1x4:h100",
                                         "2x4:h100",
                                         "2x2:a100+2x2:l40s",
                                         "1x8:mi300x",
                                         "4x2:v100",
                                         "topologies/mixed-a100-l40s.yaml",
                                         "topologies/shared-nic.yaml",
                                         "topologies/h100-n4g8-oversubscribed.yaml",
                                         "topologies/rack-two-tier.yaml"};
enum { N_TOPOLOGIES = sizeof topologies / sizeof *topologies };

static struct mp_topology *load(const char *spec) {
    struct mp_error err = {0};
    struct mp_topology *t;
    CHECK_OK(mp_topology_load(&t, strchr(spec, '/') != NULL ? source_path(spec) : spec, &mp_limits_default, &err), err);
    return t;
}

/* The first violation; MP_N_VIOLATION_KINDS when accepted. */
static enum mp_violation_kind judge(const struct matrix_case *c, const struct mp_matrix *m, const struct mp_topology *t,
                                    char *text, size_t size) {
    struct mp_error err = {0};
    struct mp_verify_report *r;
    CHECK_OK(mp_plan_verify_matrix(&r, c->plan, m, t, true, &err), err);
    assert_true(r->has_matrix && !r->has_data && r->n_checks > 20);
    enum mp_violation_kind kind = r->n > 0 ? r->violations[0].kind : MP_N_VIOLATION_KINDS;
    snprintf(text, size, "%s", r->n > 0 ? r->violations[0].message : "");
    if (r->n == 0)
        assert_int_equal(r->n_steps_simulated, 1);
    mp_verify_report_free(r);
    return kind;
}

static void expect(const struct matrix_case *c, const struct mp_topology *t, enum mp_violation_kind kind,
                   const char *what) {
    char text[512];
    enum mp_violation_kind got = judge(c, c->matrix, t, text, sizeof text);
    if (got != kind)
        fail_msg("%s: %s: %s", what, got < MP_N_VIOLATION_KINDS ? mp_violation_name(got) : "accepted", text);
}

static void test_verify_matrix__agrees_with_cost_model_and_simulator(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(8);
    uint32_t n_ordered = 0, n_between = 0, n_tokens = 0, n_empty = 0;
    for (uint32_t round = 0; round < 270; round++) {
        struct mp_topology *t = load(topologies[round % N_TOPOLOGIES]);
        struct matrix_case c;
        char what[160];
        matrix_case_make(&c, &rng, t);
        const struct mp_plan *p = c.plan;
        const bool has_order = p->n_orders > 0;
        snprintf(what, sizeof what, "round %u: %s, stages %s, %s", round, topologies[round % N_TOPOLOGIES],
                 mp_stage_mode_name(p->stage_mode), has_order ? p->orders[0].name : "single");
        expect(&c, t, MP_N_VIOLATION_KINDS, what);
        /* Alone it is accepted too, and says what the structure is. */
        struct mp_error err = {0};
        struct mp_verify_report *r;
        CHECK_OK(mp_plan_verify(&r, p, NULL, NULL, NULL, &err), err);
        assert_true(r->n == 0 && !r->has_matrix);
        mp_verify_report_free(r);
        n_ordered += has_order;
        n_between += has_order && p->orders[0].between_nodes;
        n_tokens += p->provenance.matrix.token_bytes > 0;
        n_empty += p->certificates[0].bound_ns == 0;
        matrix_case_free(&c);
        mp_topology_free(t);
    }
    assert_true(n_ordered > 150 && n_between > 20 && n_tokens > 50 && n_empty < 90);
}

static void test_verify_matrix__another_time_or_bound_is_refused(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(9);
    uint32_t n_below = 0;
    for (uint32_t round = 0; round < 60; round++) {
        struct mp_topology *t = load(topologies[round % 5]);
        struct matrix_case c;
        matrix_case_make(&c, &rng, t);
        struct mp_certificate *claim = &c.plan->certificates[0], good = *claim;
        const struct mp_order *o = c.plan->n_orders > 0 ? &c.plan->orders[0] : NULL;
        /* One way of rounding for each fluid time, twice over. */
        const uint64_t far = 2 * (o != NULL && o->between_nodes ? o->n_stages + 2 : 1) + 1;
        claim->value_ns = good.value_ns + far;
        expect(&c, t, MP_V_CERTIFICATE, "a longer time");
        claim->value_ns = good.value_ns - far;
        if (good.value_ns >= good.bound_ns + far) {
            expect(&c, t, MP_V_CERTIFICATE, "a shorter time");
            n_below++;
        }
        *claim = good;
        claim->bound_ns++;
        claim->value_ns += claim->bound_ns > claim->value_ns;
        expect(&c, t, MP_V_CERTIFICATE, "a higher bound");
        *claim = good;
        if (claim->bound_ns > 0) {
            claim->bound_ns--;
            expect(&c, t, MP_V_CERTIFICATE, "a lower bound");
        }
        matrix_case_free(&c);
        mp_topology_free(t);
    }
    assert_true(n_below > 20);
}

static const uint64_t small[16] = {5, 400000, 100000, 100000, 100000, 0, 400000, 300000,
                                   1, 100000, 9,      400000, 400000, 1, 0,      7};

static void test_verify_matrix__another_matrix_is_refused(void **state) {
    (void)state;
    struct mp_topology *t = load("1x4:h100"), *other = load("1x4:a100"), *wide = load("2x2:h100");
    struct matrix_case c = {0};
    char text[512];
    matrix_case_read(&c, 4, small, "nccl-tests", 0);
    matrix_case_plan(&c, t, 0);
    matrix_case_certify(&c, t);
    expect(&c, t, MP_N_VIOLATION_KINDS, "as it is");
    assert_int_equal(judge(&c, c.matrix, other, text, sizeof text), MP_V_PROVENANCE);
    assert_int_equal(judge(&c, c.matrix, wide, text, sizeof text), MP_V_SHAPE);
    /* The same numbers in another file are another file; one bit of another cell too; so is one of another size. */
    struct matrix_case d = {0};
    matrix_case_read(&d, 4, small, "csv", 0);
    assert_int_equal(judge(&c, d.matrix, t, text, sizeof text), MP_V_PROVENANCE);
    matrix_case_free(&d);
    uint64_t changed[16];
    memcpy(changed, small, sizeof changed);
    changed[1] ^= 1;
    matrix_case_read(&d, 4, changed, "nccl-tests", 0);
    assert_int_equal(judge(&c, d.matrix, t, text, sizeof text), MP_V_PROVENANCE);
    assert_non_null(strstr(text, "SHA-256"));
    matrix_case_free(&d);
    matrix_case_read(&d, 3, small, "nccl-tests", 0);
    assert_int_equal(judge(&c, d.matrix, t, text, sizeof text), MP_V_SHAPE);
    matrix_case_free(&d);
    /* A lie about what was read. */
    struct mp_matrix_source *m = &c.plan->provenance.matrix;
    m->format = "csv";
    expect(&c, t, MP_V_PROVENANCE, "another format");
    m->format = "no name";
    expect(&c, t, MP_V_PROVENANCE, "no format");
    m->format = c.matrix->format;
    const char *sha256 = m->sha256;
    m->sha256 = "0f";
    expect(&c, t, MP_V_PROVENANCE, "a short hash");
    m->sha256 = sha256;
    /* A plan that names no matrix. */
    m->is_present = false;
    expect(&c, t, MP_V_PROVENANCE, "a matrix for a plan without one");
    matrix_case_free(&c);
    mp_topology_free(t);
    mp_topology_free(other);
    mp_topology_free(wide);
}

static void test_verify_matrix__tokens_count_and_the_diagonal_does_not(void **state) {
    (void)state;
    struct mp_topology *t = load("1x4:h100");
    struct matrix_case c = {0}, plain = {0};
    uint64_t without[16];
    for (int i = 0; i < 16; i++)
        without[i] = i / 4 == i % 4 ? 0 : small[i] * 4096;
    matrix_case_read(&c, 4, small, "csv", 4096);
    matrix_case_plan(&c, t, 4096);
    matrix_case_certify(&c, t);
    matrix_case_read(&plain, 4, without, "csv", 0);
    matrix_case_plan(&plain, t, 0);
    matrix_case_certify(&plain, t);
    expect(&c, t, MP_N_VIOLATION_KINDS, "tokens");
    expect(&plain, t, MP_N_VIOLATION_KINDS, "bytes");
    assert_int_equal(c.plan->certificates[0].value_ns, plain.plan->certificates[0].value_ns);
    assert_int_equal(c.plan->certificates[0].bound_ns, plain.plan->certificates[0].bound_ns);
    c.plan->provenance.matrix.token_bytes = 4095;
    expect(&c, t, MP_V_CERTIFICATE, "smaller tokens");
    c.plan->provenance.matrix.token_bytes = 0;
    expect(&c, t, MP_V_CERTIFICATE, "bytes in place of tokens");
    c.plan->provenance.matrix.token_bytes = MP_MAX_TOKEN_BYTES + 1;
    expect(&c, t, MP_V_PROVENANCE, "tokens of too many bytes");
    matrix_case_free(&plain);
    /* Within the file's limit of 2^53, past it with the tokens' bytes. */
    const uint64_t large[4] = {0, UINT64_C(1) << 50, UINT64_C(1) << 50, 0};
    struct mp_topology *two = load("1x2:h100");
    matrix_case_read(&plain, 2, large, "csv", 4);
    matrix_case_plan(&plain, two, 4);
    matrix_case_certify(&plain, two);
    expect(&plain, two, MP_N_VIOLATION_KINDS, "2^53 bytes");
    plain.plan->provenance.matrix.token_bytes = 5;
    expect(&plain, two, MP_V_PROVENANCE, "more than 2^53 bytes");
    matrix_case_free(&plain);
    matrix_case_free(&c);
    mp_topology_free(two);
    mp_topology_free(t);
}

static void test_verify_matrix__a_matrix_of_nothing_takes_no_time(void **state) {
    (void)state;
    struct mp_topology *t = load("1x2:h100");
    const uint64_t diagonal[4] = {7, 0, 0, 7};
    struct matrix_case c = {0};
    matrix_case_read(&c, 2, diagonal, "csv", 0);
    matrix_case_plan(&c, t, 0);
    matrix_case_certify(&c, t);
    assert_true(c.plan->certificates[0].value_ns == 0 && c.plan->certificates[0].bound_ns == 0);
    expect(&c, t, MP_N_VIOLATION_KINDS, "nothing");
    c.plan->certificates[0].value_ns = t->launch_ns;
    expect(&c, t, MP_V_CERTIFICATE, "a launch of nothing");
    matrix_case_free(&c);
    mp_topology_free(t);
}

static void test_verify_matrix__only_one_layer_and_one_kind_of_certificate(void **state) {
    (void)state;
    struct mp_topology *t = load("1x4:h100");
    struct matrix_case c = {0};
    matrix_case_read(&c, 4, small, "csv", 0);
    matrix_case_plan(&c, t, 0);
    matrix_case_certify(&c, t);
    struct mp_plan *p = c.plan;
    struct mp_certificate good = p->certificates[0];
    p->certificates[0].scope = "dispatch, all layers, planning steps";
    expect(&c, t, MP_V_CERTIFICATE, "another scope");
    p->certificates[0] = good;
    p->certificates[0].kind = MP_CERT_PLACEMENT;
    expect(&c, t, MP_V_CERTIFICATE, "of a placement");
    p->certificates[0] = good;
    p->certificates[0].proof = MP_PROOF_SEARCH;
    p->certificates[0].nodes = 3;
    expect(&c, t, MP_V_CERTIFICATE, "by search");
    p->certificates[0] = good;
    p->n_certificates = 0;
    expect(&c, t, MP_V_CERTIFICATE, "none");
    p->n_certificates = 1;
    p->provenance.order = "";
    expect(&c, t, MP_V_PROVENANCE, "no strategy named");
    p->provenance.order = "random";
    struct mp_plan_layer two[2] = {p->layers[0], p->layers[0]}, *one = p->layers;
    two[1].layer_id = 1;
    p->layers = two;
    p->n_layers = 2;
    expect(&c, t, MP_V_SHAPE, "two layers");
    p->layers = one;
    p->n_layers = 1;
    expect(&c, t, MP_N_VIOLATION_KINDS, "as it was");
    matrix_case_free(&c);
    mp_topology_free(t);
}

/* More flows than the slow network takes: the bound is exact, the time is only held against it, and the report says so.
 */
static void test_verify_matrix__too_many_flows_are_bounded(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_topology *t = load("130x8:h100");
    const size_t n = t->n_gpus;
    struct matrix_case c = {0};
    uint64_t *cells = mp_calloc(n * n, sizeof *cells);
    assert_non_null(cells);
    for (size_t i = 0; i < n * n; i++)
        cells[i] = 1000;
    matrix_case_read(&c, (uint32_t)n, cells, "csv", 0);
    matrix_case_plan(&c, t, 0);
    CHECK_OK(mp_matrix_certify(c.plan, t, c.bytes, UINT64_C(1) << 40, &err), err);
    for (int round = 0; round < 3; round++) {
        struct mp_verify_report *r;
        CHECK_OK(mp_plan_verify_matrix(&r, c.plan, c.matrix, t, false, &err), err);
        assert_int_equal(r->n_steps_simulated, 0);
        assert_int_equal(r->n, round == 0 ? 0 : 1);
        for (uint32_t i = 0; i < r->n; i++)
            assert_int_equal(r->violations[i].kind, MP_V_CERTIFICATE);
        mp_verify_report_free(r);
        struct mp_certificate *claim = &c.plan->certificates[0];
        if (round == 0)
            claim->bound_ns++;
        else if (round == 1)
            claim->value_ns = --claim->bound_ns - 1;
    }
    mp_free(cells);
    matrix_case_free(&c);
    mp_topology_free(t);
}

struct fault {
    const struct matrix_case *c;
    const struct mp_topology *t;
};
static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct fault *f = ctx;
    struct mp_verify_report *r;
    enum mp_status status = mp_plan_verify_matrix(&r, f->c->plan, f->c->matrix, f->t, false, err);
    mp_verify_report_free(r);
    return status;
}

static void test_verify_matrix__faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    for (uint32_t round = 0; round < 8; round++) {
        struct mp_topology *t = load(topologies[round % 5]);
        struct matrix_case c;
        matrix_case_make(&c, &rng, t);
        struct fault f = {&c, t};
        sweep_faults(flow, &f, 1);
        c.plan->certificates[0].value_ns += 1000000; /* and while there is a violation to record */
        sweep_faults(flow, &f, 1);
        matrix_case_free(&c);
        mp_topology_free(t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_matrix__agrees_with_cost_model_and_simulator),
        cmocka_unit_test(test_verify_matrix__another_time_or_bound_is_refused),
        cmocka_unit_test(test_verify_matrix__another_matrix_is_refused),
        cmocka_unit_test(test_verify_matrix__tokens_count_and_the_diagonal_does_not),
        cmocka_unit_test(test_verify_matrix__a_matrix_of_nothing_takes_no_time),
        cmocka_unit_test(test_verify_matrix__only_one_layer_and_one_kind_of_certificate),
        cmocka_unit_test(test_verify_matrix__too_many_flows_are_bounded),
        cmocka_unit_test(test_verify_matrix__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
