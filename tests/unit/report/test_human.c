#include "support.h"
#include <math.h>
#include <moeplan/report.h>

static void test_human__times_and_sizes_keep_four_digits_at_most(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *ns, *bytes;
    } cases[] = {
        {0, "0 ns", "0 B"},
        {7, "7 ns", "7 B"},
        {999, "999 ns", "999 B"},
        {999.9, "1.000 us", "1.000 kB"},
        {1234, "1.234 us", "1.234 kB"},
        {56789, "56.79 us", "56.79 kB"},
        {567890, "567.9 us", "567.9 kB"},
        {999600, "1.000 ms", "1.000 MB"},
        {12345678, "12.35 ms", "12.35 MB"},
        {9.87e9, "9.870 s", "9.870 GB"},
        {-1500, "-1.500 us", "-1.500 kB"},
        {1.5e13, "15000 s", "15.00 TB"},
    };
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(mp_human_ns(cases[i].value, buf), cases[i].ns);
        assert_string_equal(mp_human_bytes(cases[i].value, buf), cases[i].bytes);
    }
}

static void test_human__what_is_not_a_number_is_a_dash(void **state) {
    (void)state;
    char buf[32];
    assert_string_equal(mp_human_ns(NAN, buf), "-");
    assert_string_equal(mp_human_bytes(INFINITY, buf), "-");
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_human__times_and_sizes_keep_four_digits_at_most),
        cmocka_unit_test(test_human__what_is_not_a_number_is_a_dash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
