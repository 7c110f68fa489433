#include "support.h"
#include <moeplan/report.h>

static struct mp_knee of(uint32_t n, const double *y) {
    static const double x[] = {0, 8, 16, 24, 32, 40, 48, 56, 64};
    return mp_knee_of(n, x, y);
}

static void test_knee__is_where_a_convex_curve_bends(void **state) {
    (void)state;
    const double y[] = {100, 60, 52, 50, 49};
    struct mp_knee k = of(5, y);
    assert_int_equal(k.kind, MP_KNEE_BEND);
    assert_int_equal(k.at, 1); /* down 40/51 - across 1/4 = 0.534; the next: 48/51 - 1/2 = 0.441 */
    assert_true(k.distance > 0.377 && k.distance < 0.378);
}

static void test_knee__does_not_look_behind_the_lowest_point(void **state) {
    (void)state;
    const double y[] = {100, 60, 52, 50, 49}, rising[] = {100, 60, 52, 50, 49, 70, 80, 90, 95};
    assert_int_equal(of(5, y).at, of(9, rising).at);
    const double dip[] = {100, 60, 70, 80};
    assert_int_equal(of(4, dip).kind, MP_KNEE_END);
    assert_int_equal(of(4, dip).at, 1);
}

static void test_knee__of_a_straight_or_accelerating_fall_is_its_end(void **state) {
    (void)state;
    const double straight[] = {100, 90, 80, 70}, faster[] = {100, 99, 95, 70};
    assert_int_equal(of(4, straight).kind, MP_KNEE_END);
    assert_int_equal(of(4, straight).at, 3);
    assert_int_equal(of(4, faster).kind, MP_KNEE_END);
    assert_int_equal(of(4, faster).at, 3);
}

static void test_knee__there_is_none_when_nothing_falls(void **state) {
    (void)state;
    const double rising[] = {100, 101, 102}, flat[] = {5, 5, 5};
    assert_int_equal(of(3, rising).kind, MP_KNEE_NONE);
    assert_int_equal(of(3, flat).kind, MP_KNEE_NONE);
    assert_int_equal(of(1, flat).kind, MP_KNEE_NONE);
    assert_int_equal(of(0, flat).kind, MP_KNEE_NONE);
}

static void test_knee__does_not_depend_on_units(void **state) {
    (void)state;
    const double y[] = {900, 700, 450, 420, 415, 414};
    double scaled[6], x[6];
    for (int i = 0; i < 6; i++) {
        scaled[i] = 3 + y[i] * 1e6;
        x[i] = 100 + i * 0.125;
    }
    assert_int_equal(of(6, y).at, 2);
    assert_int_equal(mp_knee_of(6, x, scaled).at, 2);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_knee__is_where_a_convex_curve_bends),
        cmocka_unit_test(test_knee__does_not_look_behind_the_lowest_point),
        cmocka_unit_test(test_knee__of_a_straight_or_accelerating_fall_is_its_end),
        cmocka_unit_test(test_knee__there_is_none_when_nothing_falls),
        cmocka_unit_test(test_knee__does_not_depend_on_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
