#include "support.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/report.h>

static void test_interval__quantiles_agree_with_the_tables(void **state) {
    (void)state;
    static const struct {
        uint32_t freedom;
        double t;
    } known[] = {{1, 12.7062}, {2, 4.3027},  {5, 2.5706},  {9, 2.2622},   {20, 2.0860},     {21, 2.0796},
                 {24, 2.0639}, {30, 2.0423}, {60, 2.0003}, {120, 1.9799}, {1000000, 1.9600}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(fabs(mp_t_quantile_95(known[i].freedom) - known[i].t) < 1e-4);
    assert_true(isinf(mp_t_quantile_95(0)));
    for (uint32_t n = 1; n < 200; n++)
        assert_true(mp_t_quantile_95(n) > mp_t_quantile_95(n + 1));
}

/* For a plain mean over equal groups the jackknife is the textbook standard error of the group means. */
static void test_interval__of_a_mean_is_the_textbook_one(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    for (uint32_t n = 2; n <= 30; n++) {
        double group[30], without[30], sum = 0, squares = 0;
        for (uint32_t g = 0; g < n; g++)
            sum += group[g] = 1e6 * mp_rng_unit(&rng);
        double mean = sum / n;
        for (uint32_t g = 0; g < n; g++) {
            without[g] = (sum - group[g]) / (n - 1);
            squares += (group[g] - mean) * (group[g] - mean);
        }
        double half = mp_t_quantile_95(n - 1) * sqrt(squares / (n - 1) / n);
        struct mp_interval i = mp_interval_jackknife(mean, without, n);
        assert_true(i.is_known);
        assert_true(fabs(i.low - (mean - half)) < 1e-6 * mean);
        assert_true(fabs(i.high - (mean + half)) < 1e-6 * mean);
    }
}

/* 95 % means 95 %: over many samples of a normal-like mean the true value is inside about that often. */
static void test_interval__covers_the_truth_as_often_as_it_says(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(11);
    enum { RUNS = 4000, GROUPS = 10 };
    int inside = 0;
    for (int run = 0; run < RUNS; run++) {
        double group[GROUPS], without[GROUPS], sum = 0;
        for (int g = 0; g < GROUPS; g++) {
            group[g] = 0;
            for (int k = 0; k < 12; k++)
                group[g] += mp_rng_unit(&rng);
            sum += group[g];
        }
        for (int g = 0; g < GROUPS; g++)
            without[g] = (sum - group[g]) / (GROUPS - 1);
        struct mp_interval i = mp_interval_jackknife(sum / GROUPS, without, GROUPS);
        inside += i.low <= 6.0 && 6.0 <= i.high;
    }
    assert_in_range(inside, RUNS * 94 / 100, RUNS * 96 / 100);
}

static void test_interval__is_unknown_without_groups_or_numbers(void **state) {
    (void)state;
    double values[3] = {1, 2, 3};
    assert_false(mp_interval_jackknife(2, values, 0).is_known);
    assert_false(mp_interval_jackknife(2, values, 1).is_known);
    assert_false(mp_interval_jackknife(NAN, values, 3).is_known);
    values[1] = INFINITY;
    assert_false(mp_interval_jackknife(2, values, 3).is_known);
}

static void test_interval__of_equal_figures_is_a_point(void **state) {
    (void)state;
    double values[4] = {5, 5, 5, 5};
    struct mp_interval i = mp_interval_jackknife(5, values, 4);
    assert_true(i.is_known && i.low == 5 && i.high == 5);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interval__quantiles_agree_with_the_tables),
        cmocka_unit_test(test_interval__of_a_mean_is_the_textbook_one),
        cmocka_unit_test(test_interval__covers_the_truth_as_often_as_it_says),
        cmocka_unit_test(test_interval__is_unknown_without_groups_or_numbers),
        cmocka_unit_test(test_interval__of_equal_figures_is_a_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
