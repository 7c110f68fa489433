#include "support.h"
#include <math.h>
#include <moeplan/report.h>

static const char *text_of(const struct mp_curve *curves, uint32_t n) {
    static char text[4096];
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_plot_write(curves, n, "redundant", mp_human_ns, o);
    size_t size;
    snprintf(text, sizeof text, "%s", (const char *)mp_out_memory_bytes(o, &size));
    CHECK_OK(mp_out_commit(o, &err), err);
    return text;
}

/* The character of plot row `row` (0 = top) and column `column` (0 = first). */
static char cell(const char *text, int row, int column) {
    for (; row > 0; row--)
        text = strchr(text, '\n') + 1;
    const char *bar = strchr(text, '|'), *end = strchr(text, '\n');
    return bar + 1 + column < end ? bar[1 + column] : ' ';
}

static void test_plot__corners_are_the_extremes_and_labels_say_them(void **state) {
    (void)state;
    const double x[] = {0, 32, 64}, y[] = {3000, 2000, 1000};
    const char *text = text_of(&(struct mp_curve){"a", 3, x, y}, 1);
    assert_int_equal(cell(text, 0, 0), '*');
    assert_int_equal(cell(text, 13, 63), '*');
    assert_int_equal(cell(text, 6, 32), '*');
    int n_marks = 0;
    for (const char *p = text; *p != '\0'; p++)
        n_marks += *p == '*';
    assert_int_equal(n_marks, 3);
    assert_memory_equal(text, "  3.000 us |*", 13);
    assert_non_null(strstr(text, "  1.000 us |"));
    assert_non_null(strstr(text, " redundant  0 "));
    assert_memory_equal(text + strlen(text) - 4, " 64\n", 4);
    assert_null(strstr(text, "  * a")); /* one curve needs no legend */
}

static void test_plot__points_that_are_not_finite_are_left_out(void **state) {
    (void)state;
    const double x[] = {0, 5, 10}, y[] = {1, NAN, 2}, none[] = {NAN, NAN, INFINITY};
    const char *text = text_of(&(struct mp_curve){"a", 3, x, y}, 1);
    assert_int_equal(cell(text, 13, 0), '*');
    assert_int_equal(cell(text, 0, 63), '*');
    assert_string_equal(text_of(&(struct mp_curve){"a", 3, x, none}, 1), "");
}

static void test_plot__several_curves_have_marks_of_their_own_and_the_first_wins(void **state) {
    (void)state;
    const double x[] = {0, 1}, a[] = {1, 2}, b[] = {1, 1};
    const struct mp_curve curves[] = {{"first", 2, x, a}, {"second", 2, x, b}};
    const char *text = text_of(curves, 2);
    assert_int_equal(cell(text, 13, 0), '*');
    assert_int_equal(cell(text, 13, 63), 'o');
    assert_non_null(strstr(text, "  * first\n"));
    assert_non_null(strstr(text, "  o second\n"));
}

static void test_plot__a_single_point_is_drawn(void **state) {
    (void)state;
    const double x[] = {7}, y[] = {5};
    assert_int_equal(cell(text_of(&(struct mp_curve){"a", 1, x, y}, 1), 13, 0), '*');
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plot__corners_are_the_extremes_and_labels_say_them),
        cmocka_unit_test(test_plot__points_that_are_not_finite_are_left_out),
        cmocka_unit_test(test_plot__several_curves_have_marks_of_their_own_and_the_first_wins),
        cmocka_unit_test(test_plot__a_single_point_is_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
