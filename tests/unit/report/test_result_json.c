#include "support.h"
#include <math.h>
#include <moeplan/report.h>

static const struct mp_sim_result result = {
    .n_steps = 4,
    .n_layers = 2,
    .n_gpus = 2,
    .mean = {.step_ns = 100, .dispatch_ns = 10, .compute_ns = 20, .combine_ns = 30, .other_ns = 40},
    .p50_ns = 99,
    .p95_ns = 120,
    .max_ns = 130,
    .moe_ns = 60,
    .intra_bytes = 5.5,
    .inter_bytes = 7,
    .balance = {.max_over_mean = 1.5, .mean_over_max = 0.66},
    .utilization = 0.5,
    .lower_bound_ns = 80,
    .gap = 0.25};
static const struct mp_workload workload = {.n_steps = 4, .n_requests = 9, .n_rows = 77};

/* Every key that DESIGN.md part 6 promises, with its type. */
static void test_result_json__has_every_promised_key(void **state) {
    (void)state;
    struct mp_scored s = {.strategy = "lpt",
                          .result = &result,
                          .plan_seconds = 0.5,
                          .evaluated_on = "held-out",
                          .step_ns = {.low = 90, .high = 110, .is_known = true}};
    json_t *o = mp_scored_json(&s, &workload);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "strategy")), "lpt");
    assert_string_equal(json_string_value(json_object_get(o, "evaluated_on")), "held-out");
    assert_string_equal(json_string_value(json_object_get(o, "steps")), "recorded");
    json_t *times = json_object_get(o, "step_time_ns");
    assert_int_equal(json_integer_value(json_object_get(times, "mean")), 100);
    assert_int_equal(json_integer_value(json_object_get(times, "p50")), 99);
    assert_int_equal(json_integer_value(json_object_get(times, "p95")), 120);
    assert_int_equal(json_integer_value(json_object_get(times, "max")), 130);
    assert_int_equal(json_integer_value(json_object_get(o, "dispatch_ns")), 10);
    assert_int_equal(json_integer_value(json_object_get(o, "compute_ns")), 20);
    assert_int_equal(json_integer_value(json_object_get(o, "combine_ns")), 30);
    assert_int_equal(json_integer_value(json_object_get(o, "lower_bound_ns")), 80);
    assert_true(json_real_value(json_object_get(o, "gap")) == 0.25);
    assert_true(json_real_value(json_object_get(o, "utilization")) == 0.5);
    assert_true(json_real_value(json_object_get(o, "plan_seconds")) == 0.5);
    assert_true(json_real_value(json_object_get(json_object_get(o, "bytes"), "intra_node")) == 5.5);
    assert_true(json_real_value(json_object_get(json_object_get(o, "bytes"), "inter_node")) == 7);
    assert_true(json_real_value(json_object_get(json_object_get(o, "imbalance"), "max_over_mean")) == 1.5);
    assert_true(json_real_value(json_object_get(json_object_get(o, "imbalance"), "mean_over_max")) == 0.66);
    assert_true(json_real_value(json_object_get(json_object_get(o, "step_time_interval_ns"), "high")) == 110);
    assert_int_equal(json_integer_value(json_object_get(o, "n_requests")), 9);
    json_decref(o);
}

static void test_result_json__what_is_not_finite_or_unknown_is_null(void **state) {
    (void)state;
    struct mp_sim_result odd = result;
    odd.utilization = NAN;
    odd.lower_bound_ns = 0;
    odd.gap = INFINITY;
    struct mp_scored s = {.strategy = "x", .result = &odd, .plan_seconds = INFINITY, .evaluated_on = "planning data"};
    json_t *o = mp_scored_json(&s, NULL);
    assert_true(json_is_null(json_object_get(o, "utilization")));
    assert_true(json_is_null(json_object_get(o, "gap")));
    assert_true(json_is_null(json_object_get(o, "lower_bound_ns")));
    assert_true(json_is_null(json_object_get(o, "plan_seconds")));
    assert_true(json_is_null(json_object_get(o, "step_time_interval_ns")));
    assert_null(json_object_get(o, "steps"));
    json_decref(o);
}

static void test_result_json__no_kv_cache_is_null_and_not_0_tokens(void **state) {
    (void)state;
    struct mp_scored s = {.strategy = "x", .result = &result, .evaluated_on = "unknown origin"};
    json_t *o = mp_scored_json(&s, NULL);
    assert_true(json_is_integer(json_object_get(o, "kv_tokens_min")));
    json_decref(o);
    s.is_without_kv_cache = true;
    s.no_interval = "too few requests";
    o = mp_scored_json(&s, NULL);
    assert_true(json_is_null(json_object_get(o, "kv_tokens_min")));
    assert_string_equal(json_string_value(json_object_get(o, "interval_note")), "too few requests");
    json_decref(o);
}

static void test_result_json__a_strategy_that_did_not_apply_says_why(void **state) {
    (void)state;
    struct mp_scored s = {.strategy = "x", .evaluated_on = "held-out", .note = "needs tokens"};
    json_t *o = mp_scored_json(&s, &workload);
    assert_string_equal(json_string_value(json_object_get(o, "note")), "needs tokens");
    static const char *const keys[] = {"step_time_ns", "bytes", "imbalance", "gap", "kv_tokens_min", "moe_ns"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_true(json_is_null(json_object_get(o, keys[i])));
    json_decref(o);
}

static void test_result_json__a_missing_document_fails_the_writer(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_json_write(NULL, o);
    assert_int_equal(mp_out_commit(o, &err), MP_ENOMEM);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_result_json__has_every_promised_key),
        cmocka_unit_test(test_result_json__what_is_not_finite_or_unknown_is_null),
        cmocka_unit_test(test_result_json__no_kv_cache_is_null_and_not_0_tokens),
        cmocka_unit_test(test_result_json__a_strategy_that_did_not_apply_says_why),
        cmocka_unit_test(test_result_json__a_missing_document_fails_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
