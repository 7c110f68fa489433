#include "made.h"

enum { REQUESTS = 200, ROWS = 40, LAYERS = 3, EXPERTS = 16, TOP_K = 2 };

static struct mp_trace *uniform(uint64_t seed) {
    static uint32_t rows[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++)
        rows[i] = ROWS;
    struct made m = {
        .n = REQUESTS, .n_layers = LAYERS, .n_experts = EXPERTS, .top_k = TOP_K, .rows = rows, .seed = seed};
    return make_trace(&m);
}

/* rows[LAYERS][EXPERTS] of a whole trace, with pointers to them. */
static void rows_of(const struct mp_trace *t, uint64_t rows[LAYERS][EXPERTS], const uint64_t *at[LAYERS]) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        mp_trace_load_of_layer(t, l, rows[l]);
        at[l] = rows[l];
    }
}

static void test_drift__distance_is_the_share_that_would_have_to_move(void **state) {
    (void)state;
    const uint64_t a[] = {10, 10, 0, 0}, b[] = {100, 50, 50, 0}, c[] = {0, 0, 1, 3}, none[] = {0, 0, 0, 0};
    assert_true(mp_share_distance(a, b, 4) == 0.25);
    assert_true(mp_share_distance(b, a, 4) == 0.25);
    assert_true(mp_share_distance(a, c, 4) == 1);
    assert_true(mp_share_distance(a, a, 4) == 0);
    assert_true(mp_share_distance(none, none, 4) == 0);
    assert_true(mp_share_distance(a, none, 4) == 1);
}

static void test_drift__samples_of_one_source_stay_within_the_noise(void **state) {
    (void)state;
    struct mp_error err = {0};
    uint32_t n_beyond = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct mp_trace *old = uniform(seed), *new = uniform(seed + 1000);
        struct mp_part part = part_of_all(new);
        uint64_t rows[LAYERS][EXPERTS];
        const uint64_t *at[LAYERS];
        struct mp_drift *d;
        rows_of(old, rows, at);
        CHECK_OK(mp_drift_measure(&d, &part, at, 1, 1, &err), err);
        assert_true(d->has_noise);
        assert_true(d->mean > 0 && d->mean < 0.05);
        n_beyond += d->n_beyond;
        mp_drift_free(d);
        mp_part_free(&part);
        mp_trace_free(old);
        mp_trace_free(new);
    }
    assert_in_range(n_beyond, 0, 12); /* 5 % of 60 are expected */
}

static void test_drift__a_moved_share_is_measured_and_beyond_the_noise(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace *t = uniform(3);
    struct mp_part part = part_of_all(t);
    uint64_t rows[LAYERS][EXPERTS], sum = 0;
    const uint64_t *at[LAYERS];
    struct mp_drift *d, *twice;
    rows_of(t, rows, at);
    for (uint32_t e = 0; e < EXPERTS; e++)
        sum += rows[1][e];
    uint64_t moved = rows[1][0] / 2; /* layer 1 alone: half of expert 0's pairs were another's */
    rows[1][0] -= moved;
    rows[1][1] += moved;
    CHECK_OK(mp_drift_measure(&d, &part, at, 1, 1, &err), err);
    assert_true(d->distance[0] == 0 && d->distance[2] == 0);
    double off = d->distance[1] - (double)moved / (double)sum;
    assert_true(off < 1e-9 && off > -1e-9);
    assert_int_equal(d->n_beyond, 1);
    CHECK_OK(mp_drift_measure(&twice, &part, at, 1, 4, &err), err); /* threads do not matter */
    assert_memory_equal(d->noise, twice->noise, LAYERS * sizeof *d->noise);
    assert_true(d->mean == twice->mean && d->mean_noise == twice->mean_noise);
    mp_drift_free(d);
    mp_drift_free(twice);
    mp_part_free(&part);
    mp_trace_free(t);
}

static void test_drift__requests_that_are_alike_inside_make_more_noise_than_tokens_would(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .n_layers = 1,
                                 .n_experts = EXPERTS,
                                 .top_k = 1};
    struct mp_rng rng = mp_rng_seed(5);
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct mp_request r = {.id = i, .source = MP_NONE, .category = MP_NONE};
        uint16_t own = (uint16_t)mp_rng_below(&rng, EXPERTS); /* the whole request uses one expert */
        CHECK_OK(mp_trace_builder_request(b, &r, &err), err);
        for (uint32_t row = 0; row < ROWS; row++)
            CHECK_OK(mp_trace_builder_row(b, &own, NULL, &err), err);
    }
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    struct mp_trace *even = uniform(9);
    uint64_t rows[LAYERS][EXPERTS];
    const uint64_t *at[LAYERS];
    struct mp_part part = part_of_all(t), part_even = part_of_all(even);
    struct mp_drift *alike, *apart;
    rows_of(even, rows, at);
    CHECK_OK(mp_drift_measure(&alike, &part, at, 1, 1, &err), err);
    CHECK_OK(mp_drift_measure(&apart, &part_even, at, 1, 1, &err), err);
    assert_true(alike->noise[0] > 3 * apart->noise[0]);
    mp_drift_free(alike);
    mp_drift_free(apart);
    mp_part_free(&part);
    mp_part_free(&part_even);
    mp_trace_free(even);
    mp_trace_free(t);
}

static void test_drift__few_requests_say_nothing_about_noise(void **state) {
    (void)state;
    struct mp_error err = {0};
    const uint32_t rows_each[] = {5, 5, 5};
    struct made m = {.n = 3, .n_layers = 1, .n_experts = 4, .rows = rows_each, .seed = 1};
    struct mp_trace *t = make_trace(&m);
    struct mp_part part = part_of_all(t);
    const uint64_t before[] = {15, 0, 0, 0}, *at[] = {before};
    struct mp_drift *d;
    CHECK_OK(mp_drift_measure(&d, &part, at, 1, 1, &err), err);
    assert_false(d->has_noise);
    assert_int_equal(d->n_beyond, 0);
    mp_drift_free(d);
    mp_part_free(&part);
    mp_trace_free(t);
}

static enum mp_status measure(void *ctx, struct mp_error *err) {
    struct mp_part *part = ctx;
    static const uint64_t before[EXPERTS] = {1, 2, 3};
    const uint64_t *at[LAYERS] = {before, before, before};
    struct mp_drift *d;
    enum mp_status status = mp_drift_measure(&d, part, at, 1, 1, err);
    mp_drift_free(d);
    return status;
}

static void test_drift__survives_every_fault(void **state) {
    (void)state;
    struct mp_trace *t = uniform(1);
    struct mp_part part = part_of_all(t);
    sweep_faults(measure, &part, 1);
    mp_part_free(&part);
    mp_trace_free(t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drift__distance_is_the_share_that_would_have_to_move),
        cmocka_unit_test(test_drift__samples_of_one_source_stay_within_the_noise),
        cmocka_unit_test(test_drift__a_moved_share_is_measured_and_beyond_the_noise),
        cmocka_unit_test(test_drift__requests_that_are_alike_inside_make_more_noise_than_tokens_would),
        cmocka_unit_test(test_drift__few_requests_say_nothing_about_noise),
        cmocka_unit_test(test_drift__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
