/* CSV of JSON records. */
#include "support.h"
#include <moeplan/report.h>

static const struct mp_record_column columns[] = {{"name", NULL},  {"step_ns", "step.mean"}, {"share", "share"},
                                                  {"is_on", "on"}, {"list", "list"},         {"note", NULL},
                                                  {NULL, NULL}};

static json_t *rows_of(const char *text) {
    struct mp_error err = {0};
    json_t *rows;
    CHECK_OK(mp_json_parse(&rows, "rows", text, strlen(text), 1, &mp_limits_default, &err), err);
    return rows;
}

static char *csv_of(const char *json) {
    static char text[4096];
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    json_t *rows = rows_of(json);
    struct mp_table *t = mp_table_of_records(rows, columns);
    assert_non_null(t);
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_table_write_csv(t, o);
    snprintf(text, sizeof text, "%s", (const char *)mp_out_memory_bytes(o, &n));
    CHECK_OK(mp_out_commit(o, &err), err);
    mp_table_free(t);
    json_decref(rows);
    return text;
}

static void test_records__values_are_those_of_the_document(void **state) {
    (void)state;
    assert_string_equal(csv_of("[{\"name\": \"a\", \"step\": {\"mean\": 12345678901}, \"share\": 0.1, \"on\": true, "
                               "\"list\": [1, 2.5], \"note\": null},"
                               " {\"name\": \"b\", \"step\": {\"mean\": 1.5}, \"share\": 1e-9, \"on\": false}]"),
                        "name,step_ns,share,is_on,list,note\n"
                        "a,12345678901,0.1,true,\"[1,2.5]\",\n"
                        "b,2,1e-09,false,,\n");
}

static void test_records__what_readers_would_split_or_trim_is_quoted(void **state) {
    (void)state;
    assert_string_equal(csv_of("[{\"name\": \"a,b\", \"note\": \"say \\\"no\\\"\"}, {\"name\": \" x\", \"note\": "
                               "\"two\\nlines\"}, {\"name\": \"\xc3\xa9\"}, 3]"),
                        "name,step_ns,share,is_on,list,note\n"
                        "\"a,b\",,,,,\"say \"\"no\"\"\"\n"
                        "\" x\",,,,,\"two\nlines\"\n"
                        "\xc3\xa9,,,,,\n"
                        ",,,,,\n");
    assert_string_equal(csv_of("[]"), "name,step_ns,share,is_on,list,note\n");
}

static void test_records__a_line_of_one_empty_cell_is_a_line(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, "one", false);
    mp_table_text(t, "");
    mp_table_text(t, "x");
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_table_write_csv(t, o);
    assert_string_equal((const char *)mp_out_memory_bytes(o, &n), "one\n\"\"\nx\n");
    CHECK_OK(mp_out_commit(o, &err), err);
    mp_table_free(t);
}

static enum mp_status write_once(void *ctx, struct mp_error *err) {
    struct mp_out *o;
    struct mp_table *t = mp_table_of_records(ctx, columns);
    if (t == NULL)
        return mp_nomem(err, "table");
    enum mp_status status = mp_out_open_memory(&o, err);
    if (status == MP_OK) {
        mp_table_write_csv(t, o);
        status = mp_out_commit(o, err);
    }
    mp_table_free(t);
    return status;
}

static void test_records__survive_every_failing_allocation(void **state) {
    (void)state;
    json_t *rows = rows_of("[{\"name\": \"a\", \"list\": [1, 2, {\"x\": 3}]}, {\"name\": \"b\"}]");
    sweep_faults(write_once, rows, 1);
    json_decref(rows);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records__values_are_those_of_the_document),
        cmocka_unit_test(test_records__what_readers_would_split_or_trim_is_quoted),
        cmocka_unit_test(test_records__a_line_of_one_empty_cell_is_a_line),
        cmocka_unit_test(test_records__survive_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
