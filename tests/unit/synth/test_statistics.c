#include "support.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/synth.h>

/* top_k experts of row i in layer l. */
typedef void (*row_rule)(uint32_t i, uint32_t l, uint16_t *ids);

static struct mp_trace *make(uint32_t n_requests, uint32_t rows, uint32_t n_layers, uint32_t n_experts, uint32_t top_k,
                             row_rule rule) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .n_layers = n_layers,
                                 .n_experts = n_experts,
                                 .top_k = top_k};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    uint16_t ids[64];
    for (uint32_t r = 0, i = 0; r < n_requests; r++) {
        struct mp_request request = {.id = r, .source = MP_NONE, .category = MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &request, &err), err);
        for (uint32_t j = 0; j < rows; j++, i++) {
            for (uint32_t l = 0; l < n_layers; l++)
                rule(i, l, ids + l * top_k);
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}
static struct mp_trace_stats statistics(const struct mp_trace *t) {
    struct mp_error err = {0};
    struct mp_trace_stats s;
    CHECK_OK(mp_trace_statistics(&s, t, 3, &err), err);
    return s;
}
static void near(double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%.6f is not within %.6f of %.6f", got, tolerance, expected);
}
static uint64_t mixed(uint32_t i, uint32_t l) { return mp_mix64(i * UINT64_C(1000) + l); }

static void same_expert_in_all_layers(uint32_t i, uint32_t l, uint16_t *ids) {
    (void)l;
    ids[0] = (uint16_t)(i % 8);
}
static void independent_layers(uint32_t i, uint32_t l, uint16_t *ids) { ids[0] = (uint16_t)(mixed(i, l) % 8); }
static void fixed_pairs(uint32_t i, uint32_t l, uint16_t *ids) {
    uint32_t pair = (uint32_t)(mixed(i, l) % 2);
    ids[0] = (uint16_t)(2 * pair);
    ids[1] = (uint16_t)(2 * pair + 1);
}
static void all_pairs(uint32_t i, uint32_t l, uint16_t *ids) {
    uint64_t x = mixed(i, l);
    ids[0] = (uint16_t)(x % 8);
    ids[1] = (uint16_t)((ids[0] + 1 + x / 8 % 7) % 8);
}
static void half_on_one(uint32_t i, uint32_t l, uint16_t *ids) {
    (void)l;
    ids[0] = (uint16_t)(i % 2 == 0 ? 0 : 1 + i / 2 % 4);
}
static void first_half_elsewhere(uint32_t i, uint32_t l, uint16_t *ids) {
    (void)l;
    ids[0] = (uint16_t)(i % 4 + (i < 4000 ? 0 : 4));
}

static void test_statistics__known_values(void **state) {
    (void)state;
    struct mp_trace *t = make(200, 40, 3, 8, 1, same_expert_in_all_layers);
    struct mp_trace_stats s = statistics(t);
    near(s.load_max_over_mean, 1, 1e-12);
    near(s.cross_layer_information, 3, 0.02); /* log2 8 bits, less a shuffle's noise */
    near(s.pair_lift, 0, 0);                  /* one expert per token: no pairs */
    near(s.run_max_over_mean, 1, 1e-12);      /* 128 rows in turn are 16 of each */
    near(s.half_shift, 0, 0.02);
    near(s.category_shift, 0, 0);
    mp_trace_free(t);

    t = make(200, 40, 3, 8, 1, independent_layers);
    s = statistics(t);
    near(s.cross_layer_information, 0, 0.01);
    /* 128 balls in 8 cells: a mean of 16, the fullest at about 22. */
    near(s.step_max_over_mean, 1.36, 0.08);
    near(s.run_max_over_mean, 1.36, 0.08);
    mp_trace_free(t);

    t = make(200, 40, 2, 4, 2, fixed_pairs);
    s = statistics(t);
    near(s.pair_lift, 2, 0.1); /* P(ij) = P(i) = P(j) = 1/2 */
    mp_trace_free(t);

    t = make(200, 40, 2, 8, 2, all_pairs);
    s = statistics(t);
    near(s.pair_lift, 8.0 / 7 / 2, 0.01); /* P(ij) = 1/28, P(i) = 1/4 */
    mp_trace_free(t);

    t = make(200, 40, 2, 5, 1, half_on_one);
    s = statistics(t);
    near(s.load_max_over_mean, 2.5, 1e-12);
    near(s.run_max_over_mean, 2.5, 1e-12);
    mp_trace_free(t);

    t = make(200, 40, 1, 8, 1, first_half_elsewhere);
    s = statistics(t);
    near(s.half_shift, 1, 0.15); /* disjoint halves, less what a random halving is off */
    near(s.cross_layer_information, 0, 0);
    mp_trace_free(t);
}

static void test_statistics__small_traces_have_finite_values(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 3; n++)
        for (uint32_t rows = 1; rows <= 2; rows++) {
            struct mp_trace *t = make(n, rows, 2, 4, 2, fixed_pairs);
            struct mp_trace_stats s = statistics(t);
            assert_true(isfinite(s.load_max_over_mean) && isfinite(s.pair_lift) && isfinite(s.cross_layer_information));
            assert_true(isfinite(s.step_max_over_mean) && isfinite(s.run_max_over_mean) && isfinite(s.half_shift));
            assert_true(s.step_max_over_mean >= 1 && s.run_max_over_mean >= 1);
            mp_trace_free(t);
        }
}

static void test_statistics__refuse_counts(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .n_layers = 1,
                                 .n_experts = 2,
                                 .top_k = 1};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
    CHECK_OK(mp_trace_builder_count(b, 0, 0, 1, 5, &err), err);
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    struct mp_trace_stats s;
    assert_int_equal(mp_trace_statistics(&s, t, 0, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "record top-k ids per token"));
    mp_trace_free(t);
}

static enum mp_status statistics_flow(void *ctx, struct mp_error *err) {
    struct mp_trace_stats s;
    return mp_trace_statistics(&s, ctx, 1, err);
}
static void test_statistics__survive_faults(void **state) {
    (void)state;
    struct mp_trace *t = make(5, 4, 2, 4, 2, fixed_pairs);
    sweep_faults(statistics_flow, t, 1);
    mp_trace_free(t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics__known_values),
        cmocka_unit_test(test_statistics__small_traces_have_finite_values),
        cmocka_unit_test(test_statistics__refuse_counts),
        cmocka_unit_test(test_statistics__survive_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
