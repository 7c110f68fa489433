/* What work tells of itself. */
#include "support.h"
#include <moeplan/progress.h>
#include <string.h>

static void test_progress__parts_lie_inside_each_other(void **state) {
    (void)state;
    struct mp_progress *p = mp_progress_new();
    struct mp_progress_state now[MP_PROGRESS_DEPTH];
    assert_non_null(p);
    assert_int_equal(mp_progress_read(p, now), 0);
    struct mp_progress_part *outer = mp_progress_begin(p, "strategies", 7, MP_PROGRESS_UNEVEN);
    mp_progress_add(outer, 2);
    struct mp_progress_part *inner = mp_progress_begin(p, "bytes", 0, MP_PROGRESS_LEAF);
    mp_progress_add(inner, 100);
    mp_progress_expect(inner, 1000);
    assert_null(mp_progress_begin(p, "inside a leaf", 1, 0));
    assert_int_equal(mp_progress_read(p, now), 2);
    assert_string_equal(now[0].what, "strategies");
    assert_int_equal(now[0].done, 2);
    assert_int_equal(now[0].total, 7);
    assert_true(now[0].is_uneven && !now[1].is_uneven);
    assert_string_equal(now[1].what, "bytes");
    assert_int_equal(now[1].done, 100);
    assert_int_equal(now[1].total, 1000);
    const uint64_t serial = now[1].serial;
    mp_progress_end(inner);
    assert_int_equal(mp_progress_read(p, now), 1);
    inner = mp_progress_begin(p, "steps", 3, 0);
    assert_int_equal(mp_progress_read(p, now), 2);
    assert_int_equal(now[1].done, 0);
    assert_int_not_equal(now[1].serial, serial);
    mp_progress_end(outer); /* on the way out of an error: the inner one goes too */
    assert_int_equal(mp_progress_read(p, now), 0);
    mp_progress_end(inner);
    mp_progress_free(p);
}

static void test_progress__deeper_than_is_told_is_not_told(void **state) {
    (void)state;
    struct mp_progress *p = mp_progress_new();
    struct mp_progress_state now[MP_PROGRESS_DEPTH];
    assert_non_null(p);
    for (int i = 0; i < MP_PROGRESS_DEPTH; i++)
        assert_non_null(mp_progress_begin(p, "parts", 1, 0));
    assert_null(mp_progress_begin(p, "parts", 1, 0));
    assert_int_equal(mp_progress_read(p, now), MP_PROGRESS_DEPTH);
    mp_progress_free(p);
}

static void test_progress__nobody_needs_to_listen(void **state) {
    (void)state;
    struct mp_progress_state now[MP_PROGRESS_DEPTH];
    assert_null(mp_progress_begin(NULL, "x", 1, 0));
    mp_progress_add(NULL, 1);
    mp_progress_expect(NULL, 1);
    mp_progress_end(NULL);
    assert_int_equal(mp_progress_read(NULL, now), 0);
    mp_progress_free(NULL);
}

struct seen {
    struct mp_progress *progress;
    uint64_t sum[8];
    uint32_t n_inner;
};

static enum mp_status count(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)err;
    struct seen *s = ctx;
    s->sum[worker] += i;
    struct mp_progress_part *part = mp_progress_begin(s->progress, "inner", 1, 0);
    assert_null(part); /* every thread would tell its own */
    return i == 5000 ? mp_fail(err, MP_EINPUT, "item %zu", i) : MP_OK;
}

static void test_progress__a_told_loop_does_what_an_untold_one_does(void **state) {
    (void)state;
    struct mp_progress_state now[MP_PROGRESS_DEPTH];
    for (unsigned n_threads = 1; n_threads <= 4; n_threads++)
        for (size_t n = 0; n < 6000; n = 3 * n + 1) {
            struct mp_error err = {0}, told_err = {0};
            struct seen plain = {.progress = NULL}, told = {.progress = mp_progress_new()};
            uint64_t sums[2] = {0};
            enum mp_status a = mp_parallel_for(n_threads, n, count, &plain, &err);
            enum mp_status b = mp_parallel_for_told(told.progress, "items", n_threads, n, count, &told, &told_err);
            assert_int_equal(a, b);
            assert_string_equal(err.message, told_err.message);
            for (int k = 0; k < 8; k++) {
                sums[0] += plain.sum[k];
                sums[1] += told.sum[k];
            }
            if (a == MP_OK)
                assert_int_equal(sums[0], sums[1]);
            assert_int_equal(mp_progress_read(told.progress, now), 0);
            mp_progress_free(told.progress);
        }
}

static enum mp_status make_once(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_progress *p = mp_progress_new();
    if (p == NULL)
        return mp_nomem(err, "progress");
    mp_progress_end(mp_progress_begin(p, "x", 1, 0));
    mp_progress_free(p);
    return MP_OK;
}

static void test_progress__survives_every_failing_allocation(void **state) {
    (void)state;
    sweep_faults(make_once, NULL, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress__parts_lie_inside_each_other),
        cmocka_unit_test(test_progress__deeper_than_is_told_is_not_told),
        cmocka_unit_test(test_progress__nobody_needs_to_listen),
        cmocka_unit_test(test_progress__a_told_loop_does_what_an_untold_one_does),
        cmocka_unit_test(test_progress__survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
