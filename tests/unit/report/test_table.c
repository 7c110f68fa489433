#include "support.h"
#include <moeplan/report.h>

static char *text_of(const struct mp_table *t, bool is_markdown) {
    static char text[4096];
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    if (is_markdown)
        mp_table_write_markdown(t, o);
    else
        mp_table_write(t, o);
    size_t n;
    snprintf(text, sizeof text, "%s", (const char *)mp_out_memory_bytes(o, &n));
    CHECK_OK(mp_out_commit(o, &err), err);
    return text;
}

static struct mp_table *example(void) {
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, "name", false);
    mp_table_column(t, "time", true);
    mp_table_column(t, "note", false);
    mp_table_cell(t, "caf\xc3\xa9");
    mp_table_cell(t, "%d", 5);
    mp_table_cell(t, "a|b");
    mp_table_cell(t, "x");
    mp_table_cell(t, "%d", 12345);
    mp_table_cell(t, " ");
    return t;
}

static void test_table__columns_are_as_wide_as_their_widest_cell_in_code_points(void **state) {
    (void)state;
    struct mp_table *t = example();
    assert_string_equal(text_of(t, false), "name   time  note\n"
                                           "----  -----  ----\n"
                                           "caf\xc3\xa9      5  a|b\n"
                                           "x     12345   \n");
    mp_table_free(t);
}

static void test_table__markdown_escapes_bars_and_says_alignment(void **state) {
    (void)state;
    struct mp_table *t = example();
    assert_string_equal(text_of(t, true), "| name |  time | note |\n"
                                          "|------|------:|------|\n"
                                          "| caf\xc3\xa9 |     5 | a\\|b |\n"
                                          "| x    | 12345 |      |\n");
    mp_table_free(t);
}

static void test_table__a_table_without_columns_is_an_error_not_a_crash(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_table *t = mp_table_new();
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_table_cell(t, "lost");
    mp_table_write(t, o);
    assert_int_not_equal(mp_out_commit(o, &err), MP_OK);
    mp_table_free(t);
    mp_table_free(NULL);
}

static enum mp_status write_once(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_out *o;
    struct mp_table *t = mp_table_new();
    if (t == NULL)
        return mp_nomem(err, "table");
    mp_table_column(t, "a", false);
    for (int i = 0; i < 200; i++)
        mp_table_cell(t, "%d", i);
    enum mp_status status = mp_out_open_memory(&o, err);
    if (status == MP_OK) {
        mp_table_write(t, o);
        status = mp_out_commit(o, err);
    }
    mp_table_free(t);
    return status;
}

static void test_table__survives_every_failing_allocation(void **state) {
    (void)state;
    sweep_faults(write_once, NULL, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table__columns_are_as_wide_as_their_widest_cell_in_code_points),
        cmocka_unit_test(test_table__markdown_escapes_bars_and_says_alignment),
        cmocka_unit_test(test_table__a_table_without_columns_is_an_error_not_a_crash),
        cmocka_unit_test(test_table__survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
