/* Fits of calibration: exact measurements give their coefficients back; disturbed ones the optimum that a search finds.
 */
#include "../../../executor/fit.h"
#include "support.h"
#include <moeplan/base.h>
#include <math.h>

static void near(double got, double want) {
    if (fabs(got - want) > 1e-7 * (fabs(want) + 1))
        fail_msg("got %.12g, want %.12g", got, want);
}

static void test_fit__a_line_comes_back(void **state) {
    (void)state;
    struct ex_sample s[4];
    struct ex_line line;
    for (int i = 0; i < 4; i++)
        s[i] = (struct ex_sample){1e6 * (i + 1), 25000 + 80 * 1e6 * (i + 1)};
    assert_true(ex_fit_line(&line, s, 4));
    near(line.a, 25000);
    near(line.b, 80);
    assert_true(line.residual < 1e-12);
    assert_true(ex_fit_line(&line, s, 2));
    near(line.b, 80);
    for (int i = 0; i < 4; i++) /* a negative constant is said, not hidden */
        s[i].ns -= 50000;
    assert_true(ex_fit_line(&line, s, 4));
    near(line.a, -25000);
}

static void test_fit__a_line_needs_two_places(void **state) {
    (void)state;
    const struct ex_sample s[3] = {{5, 10}, {5, 11}, {5, 12}};
    struct ex_line line;
    assert_false(ex_fit_line(&line, s, 3));
    assert_false(ex_fit_line(&line, s, 1));
    assert_false(ex_fit_line(&line, s, 0));
}

static double squares(const struct ex_sample *s, size_t n, double a, double b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a + b * s[i].x - s[i].ns) * (a + b * s[i].x - s[i].ns);
    return sum;
}

static void test_fit__no_other_line_is_nearer(void **state) {
    (void)state;
    const struct ex_sample s[5] = {{1, 12}, {2, 19}, {4, 47}, {8, 80}, {16, 171}};
    struct ex_line line;
    assert_true(ex_fit_line(&line, s, 5));
    const double least = squares(s, 5, line.a, line.b);
    for (int i = -1; i <= 1; i++)
        for (int j = -1; j <= 1; j++)
            assert_true(squares(s, 5, line.a + 1e-3 * i, line.b + 1e-4 * j) >= least - 1e-9);
    assert_true(line.b_error > 0 && line.a_error > line.b_error);
    assert_true(line.residual > 0.01 && line.residual < 0.2);
}

static void test_fit__errors_are_those_of_the_textbook(void **state) {
    (void)state;
    /* y = x with +1, -1, -1, +1 at x = 1..4: slope 1, constant 0, variance 4 / 2, Sxx 5. */
    const struct ex_sample s[4] = {{1, 2}, {2, 1}, {3, 2}, {4, 5}};
    struct ex_line line;
    assert_true(ex_fit_line(&line, s, 4));
    near(line.b, 1);
    near(line.a, 0);
    near(line.b_error, sqrt(2.0 / 5));
    near(line.a_error, sqrt(2.0 * 30 / (4 * 5)));
}

static void test_fit__a_constant_is_the_mean(void **state) {
    (void)state;
    const struct ex_sample s[4] = {{8, 20}, {16, 30}, {32, 25}, {64, 25}};
    const struct ex_line line = ex_fit_constant(s, 4);
    near(line.a, 25);
    near(line.residual, sqrt((0.0625 + 1.0 / 36) / 4));
    near(ex_fit_constant(s, 1).a, 20);
}

static void test_fit__a_falling_curve_stays(void **state) {
    (void)state;
    double v[4] = {1, 0.9, 0.85, 0.85};
    near(ex_fit_falling(v, 4), 0);
    near(v[1], 0.9);
    near(v[3], 0.85);
}

/* Against every falling curve of a grid. */
static void test_fit__no_other_falling_curve_is_nearer(void **state) {
    (void)state;
    enum { GRID = 20 };
    struct mp_rng rng = mp_rng_seed(3);
    for (int round = 0; round < 40; round++) {
        double raw[4], fitted[4], least = 1e9, own = 0;
        for (int i = 0; i < 4; i++)
            raw[i] = fitted[i] = (double)mp_rng_below(&rng, 2 * GRID) / GRID;
        (void)ex_fit_falling(fitted, 4);
        for (int i = 0; i < 4; i++) {
            own += (fitted[i] - raw[i]) * (fitted[i] - raw[i]);
            assert_true(fitted[i] <= 1 && (i == 0 || fitted[i] <= fitted[i - 1] + 1e-12));
        }
        for (int a = 0; a <= GRID; a++)
            for (int b = 0; b <= a; b++)
                for (int c = 0; c <= b; c++)
                    for (int d = 0; d <= c; d++) {
                        const double v[4] = {1.0 * a / GRID, 1.0 * b / GRID, 1.0 * c / GRID, 1.0 * d / GRID};
                        double sum = 0;
                        for (int i = 0; i < 4; i++)
                            sum += (v[i] - raw[i]) * (v[i] - raw[i]);
                        least = sum < least ? sum : least;
                    }
        assert_true(own <= least + 1e-12);
    }
}

static size_t work_of(struct ex_work *out, double a, double b, double c, double beta) {
    size_t n = 0;
    for (double g = 1; g <= 8; g *= 2)
        for (double rows = 64; rows <= 4096; rows *= 4) {
            const double weights = a + b * g, by_rows = c + beta * g * rows;
            out[n++] = (struct ex_work){g, g * rows, weights > by_rows ? weights : by_rows};
        }
    return n;
}

static void test_fit__both_sides_of_computation_come_back(void **state) {
    (void)state;
    static const double cases[][4] = {{21000, 11600, 27000, 62.6}, {3000, 30000, 3000, 40}, {0, 50000, 90000, 100}};
    struct ex_work work[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double *k = cases[i];
        struct ex_compute_fit fit;
        assert_true(ex_fit_compute(&fit, work, work_of(work, k[0], k[1], k[2], k[3])));
        assert_true(fit.has_weights_side && fit.has_rows_side);
        assert_true(fit.residual < 1e-9);
        near(fit.a, k[0]);
        near(fit.b, k[1]);
        near(fit.c, k[2]);
        near(fit.beta, k[3]);
    }
}

static void test_fit__a_side_that_never_shows_is_said(void **state) {
    (void)state;
    struct ex_work work[64];
    struct ex_compute_fit fit;
    assert_true(ex_fit_compute(&fit, work, work_of(work, 0, 0, 1000, 50)));
    assert_true(fit.has_rows_side);
    near(fit.c, 1000);
    near(fit.beta, 50);
    assert_true(fit.residual < 1e-9);
    const struct ex_work one[2] = {{1, 64, 100}, {1, 64, 100}};
    assert_false(ex_fit_compute(&fit, one, 2));
    assert_false(ex_fit_compute(&fit, one, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fit__a_line_comes_back),
        cmocka_unit_test(test_fit__a_line_needs_two_places),
        cmocka_unit_test(test_fit__no_other_line_is_nearer),
        cmocka_unit_test(test_fit__errors_are_those_of_the_textbook),
        cmocka_unit_test(test_fit__a_constant_is_the_mean),
        cmocka_unit_test(test_fit__a_falling_curve_stays),
        cmocka_unit_test(test_fit__no_other_falling_curve_is_nearer),
        cmocka_unit_test(test_fit__both_sides_of_computation_come_back),
        cmocka_unit_test(test_fit__a_side_that_never_shows_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
