/* The plan of one traffic matrix: whatever order strategy made its schedule, it names the matrix, its certificate is
 * the bound and the time of its own order, it comes back from its file, and no lie about the time leaves. */
#include "planner.h"
#include "real_matrices.h"
#include "support.h"
#include <moeplan/base.h>
#include <moeplan/verify.h>

struct job {
    struct mp_topology *topology;
    struct mp_matrix *matrix;
    uint64_t *bytes;
    struct mp_schedule schedule;
    struct mp_matrix_request request;
};

static void job_free(struct job *j) {
    mp_schedule_free(&j->schedule);
    mp_matrix_free(j->matrix);
    mp_topology_free(j->topology);
    mp_free(j->bytes);
    *j = (struct job){0};
}

/* Schedule of `strategy` on these cells; false where it does not apply. */
static bool job_make(struct job *j, const char *topology, const uint64_t *cells, uint64_t token_bytes,
                     const struct mp_strategy *s, enum mp_stage_mode mode, bool can_pace) {
    struct mp_error err = {0};
    struct mp_out *out;
    struct mp_in *in;
    size_t n_text;
    enum mp_outcome outcome;
    *j = (struct job){0};
    CHECK_OK(mp_topology_load(&j->topology, topology, &mp_limits_default, &err), err);
    const uint32_t n = j->topology->n_gpus;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    mp_matrix_format_find("nccl-tests")->write(n, cells, out);
    const uint8_t *text = mp_out_memory_bytes(out, &n_text);
    CHECK_OK(mp_in_from_memory(&in, "m.txt", text, n_text, &err), err);
    CHECK_OK(mp_matrix_parse(&j->matrix, in, NULL, 0, &mp_limits_default, &err), err);
    mp_in_close(in);
    mp_out_cancel(out);
    j->bytes = mp_calloc((size_t)n * n, sizeof *j->bytes);
    assert_non_null(j->bytes);
    assert_true(mp_matrix_bytes(j->matrix, token_bytes, j->bytes));
    struct mp_order_problem problem = {
        .topology = j->topology, .matrix = j->bytes, .mode = mode, .can_pace = can_pace, .seed = 3};
    CHECK_OK(mp_net_new(&problem.net, j->topology, &err), err);
    CHECK_OK(mp_order_run(s, &problem, &j->schedule, &outcome, &err), err);
    j->request = (struct mp_matrix_request){.matrix = j->matrix,
                                            .token_bytes = token_bytes,
                                            .topology = j->topology,
                                            .schedule = &j->schedule,
                                            .strategy = s->name,
                                            .stage_mode = mode,
                                            .can_pace = can_pace,
                                            .seed = 3,
                                            .stopped_by = "done"};
    const bool applies = outcome == MP_FOUND || outcome == MP_STOPPED;
    if (applies)
        CHECK_OK(mp_schedule_time(&j->schedule, &problem, &j->request.time_ns, &err), err);
    mp_net_free(problem.net);
    if (!applies)
        job_free(j);
    return applies;
}

static void check_plan(const struct job *j) {
    struct mp_error err = {0};
    struct mp_plan *p, *again;
    struct mp_out *first, *second;
    struct mp_in *in;
    struct mp_verify_report *r;
    size_t n, m;
    bool is_simulated;
    CHECK_OK(mp_matrix_plan(&p, &is_simulated, &j->request, &err), err);
    assert_true(is_simulated && p->n_certificates == 1 && p->provenance.matrix.is_present);
    const struct mp_certificate *c = &p->certificates[0];
    const uint64_t ports = mp_port_bound_ns(j->topology, j->bytes), relay = mp_relay_bound_ns(j->topology, j->bytes);
    const struct mp_dispatcher one = {.n_launches = 1};
    assert_int_equal(c->bound_ns,
                     ports == 0 ? 0
                                : (j->schedule.between_nodes ? relay : ports) + mp_launch_floor_ns(j->topology, &one));
    assert_int_equal(c->value_ns, j->request.time_ns > c->bound_ns ? j->request.time_ns : c->bound_ns);
    assert_true(c->value_ns - j->request.time_ns <= 1 + j->request.time_ns / 1000000000);
    assert_string_equal(p->provenance.matrix.sha256, j->matrix->sha256);
    assert_string_equal(p->provenance.order, j->request.strategy);
    /* From its file it is the same, and is accepted with the matrix. */
    CHECK_OK(mp_out_open_memory(&first, &err), err);
    mp_plan_write(p, first);
    const uint8_t *text = mp_out_memory_bytes(first, &n);
    CHECK_OK(mp_in_from_memory(&in, "plan.yaml", text, n, &err), err);
    CHECK_OK(mp_plan_parse(&again, in, NULL, &err), err);
    mp_in_close(in);
    CHECK_OK(mp_out_open_memory(&second, &err), err);
    mp_plan_write(again, second);
    const uint8_t *same = mp_out_memory_bytes(second, &m);
    assert_int_equal(n, m);
    assert_memory_equal(text, same, n);
    CHECK_OK(mp_plan_verify_matrix(&r, again, j->matrix, j->topology, false, &err), err);
    assert_int_equal(r->n, 0);
    mp_verify_report_free(r);
    mp_out_cancel(first);
    mp_out_cancel(second);
    mp_plan_free(p);
    mp_plan_free(again);
}

static void test_matrix_plan__of_every_order_names_its_matrix_and_certifies_its_time(void **state) {
    (void)state;
    static const char *const topologies[] = {"4:h100", "2x3:h100", "1x2:a100+1x2:l40s", "3x2:v100"};
    struct mp_rng rng = mp_rng_seed(31);
    uint32_t n_plans = 0;
    for (uint32_t round = 0; round < 24; round++) {
        const char *topology = topologies[round % 4];
        uint64_t cells[36], token_bytes = round % 3 == 0 ? 7168 : 0;
        for (int i = 0; i < 36; i++)
            cells[i] = mp_rng_below(&rng, 3) == 0 ? 0 : mp_rng_below(&rng, UINT64_C(1) << (6 + mp_rng_below(&rng, 22)));
        for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++) {
            struct job j;
            if (mp_strategy_at(i)->stage != MP_PLAN_ORDER ||
                !job_make(&j, topology, cells, token_bytes, mp_strategy_at(i),
                          (enum mp_stage_mode)mp_rng_below(&rng, 3), mp_rng_below(&rng, 2)))
                continue;
            check_plan(&j);
            job_free(&j);
            n_plans++;
        }
    }
    assert_true(n_plans > 200);
}

/* Cells up to 2^53 bytes: times of hours, in doubles and rounded twice, and shares of 2^32 - 1. */
static void test_matrix_plan__of_cells_as_large_as_they_may_be(void **state) {
    (void)state;
    static const char *const names[] = {"single", "spread-out", "bvn", "hybrid", "two-level"};
    const uint64_t cells[16] = {
        0, UINT64_C(1) << 51, 3, 1, UINT64_C(5) << 49, 0, 7, 0, 0, 12345678901234, 0, 99999999, 17, 333, 1, 0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 2; k++) {
            struct job j;
            assert_true(job_make(&j, "2x2:h100", cells, 0, mp_strategy_find(MP_PLAN_ORDER, names[i]),
                                 k == 0 ? MP_STAGE_FREE : MP_STAGE_COUPLED, false));
            check_plan(&j);
            job_free(&j);
        }
}

static void test_matrix_plan__settings_are_recorded(void **state) {
    (void)state;
    const uint64_t cells[4] = {0, 5, 6, 0};
    const struct mp_setting settings[] = {
        {"two-level", "stages", 3}, {"matchings", "stages", 4}, {"matchings", "stages", 8}};
    struct mp_error err = {0};
    struct mp_plan *p;
    struct job j;
    bool is_simulated;
    assert_true(job_make(&j, "2:h100", cells, 0, mp_strategy_find(MP_PLAN_ORDER, "bvn"), MP_STAGE_FREE, false));
    j.request.settings = settings;
    j.request.n_settings = 3;
    CHECK_OK(mp_matrix_plan(&p, &is_simulated, &j.request, &err), err);
    assert_string_equal(p->provenance.options, "matchings.stages=8,two-level.stages=3");
    mp_plan_free(p);
    job_free(&j);
}

static void test_matrix_plan__what_the_verifier_refuses_does_not_leave(void **state) {
    (void)state;
    const uint64_t cells[16] = {0, 40000, 10000, 10000, 10000, 0,     40000, 30000,
                                0, 10000, 0,     40000, 40000, 10001, 10000, 0};
    struct mp_error err = {0};
    struct mp_plan *p;
    struct job j;
    bool is_simulated;
    assert_true(job_make(&j, "4:h100", cells, 0, mp_strategy_find(MP_PLAN_ORDER, "bvn"), MP_STAGE_FREE, false));
    const uint64_t right = j.request.time_ns;
    const uint64_t lies[] = {0, right - 100, right + 100, UINT64_MAX};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        j.request.time_ns = lies[i];
        assert_int_equal(mp_matrix_plan(&p, &is_simulated, &j.request, &err), MP_EBUG);
        assert_null(p);
        assert_non_null(strstr(err.message, "certificate"));
        mp_error_clear(&err);
    }
    j.request.time_ns = right;
    j.request.token_bytes = UINT64_MAX; /* cells that cannot be counted in bytes */
    assert_int_equal(mp_matrix_plan(&p, &is_simulated, &j.request, &err), MP_EUSAGE);
    assert_null(p);
    job_free(&j);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_plan *p;
    bool is_simulated;
    enum mp_status status = mp_matrix_plan(&p, &is_simulated, ctx, err);
    mp_plan_free(p);
    return status;
}

static void test_matrix_plan__faults(void **state) {
    (void)state;
    static const char *const names[] = {"single", "bvn", "two-level"};
    const uint64_t cells[16] = {0, 40000, 10000, 10000, 10000, 0,     40000, 30000,
                                0, 10000, 0,     40000, 40000, 10001, 10000, 0};
    const struct mp_setting setting = {"matchings", "stages", 4};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct job j;
        assert_true(
            job_make(&j, "2x2:h100", cells, 0, mp_strategy_find(MP_PLAN_ORDER, names[i]), MP_STAGE_FREE, false));
        j.request.settings = &setting;
        j.request.n_settings = 1;
        sweep_faults(flow, &j.request, 1);
        job_free(&j);
    }
}

/* One step's matrix of the recording on six ranks, in every layer. */
static void test_matrix_plan__of_a_recording(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct real_set set;
    char relative[300];
    snprintf(relative, sizeof relative, "traces/%s", real_traces[0].path);
    const char *path = shared_path(relative);
    if (path == NULL)
        skip();
    CHECK_OK(real_set_load(&set, &real_traces[0], path, 6, &err), err);
    for (uint32_t layer = 0; layer < set.trace->n_layers; layer++) {
        uint64_t cells[36];
        struct job j;
        real_matrix(&set, layer, 0, 1, cells);
        assert_true(job_make(&j, "6:h100", cells, 0, mp_strategy_find(MP_PLAN_ORDER, layer % 2 ? "auto" : "bvn"),
                             MP_STAGE_COUPLED, false));
        check_plan(&j);
        job_free(&j);
    }
    real_set_free(&set);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrix_plan__of_every_order_names_its_matrix_and_certifies_its_time),
        cmocka_unit_test(test_matrix_plan__of_cells_as_large_as_they_may_be),
        cmocka_unit_test(test_matrix_plan__settings_are_recorded),
        cmocka_unit_test(test_matrix_plan__what_the_verifier_refuses_does_not_leave),
        cmocka_unit_test(test_matrix_plan__faults),
        cmocka_unit_test(test_matrix_plan__of_a_recording),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
