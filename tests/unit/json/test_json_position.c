#include "support.h"
#include <moeplan/json.h>

static void test_json_position__finds_values(void **state) {
    (void)state;
    static const char text[] = "{\"a\": [1, \"]}\\\"\", {\"b c\": [[], {\"x\": -2.5e3}]}],\n \"\xc3\xa9\": 1, \"a/\": "
                               "null,\n\t\"last\": true}";
    static const struct {
        const char *steps;
        uint64_t line, column; /* 0 = no such place */
    } cases[] = {
        {"", 1, 1},
        {"a", 1, 7},
        {"a/0", 1, 8},
        {"a/1", 1, 11},
        {"a/2", 1, 19},
        {"a/2/b c", 1, 27},
        {"a/2/b c/1/x", 1, 38},
        {"last", 3, 10},
        {"\xc3\xa9", 2, 7},
        {"a/3", 0, 0},
        {"b", 0, 0},
        {"a/x", 0, 0},
        {"last/1", 0, 0},
        {"a/2/b", 0, 0},
        {"a/0/0", 0, 0},
        {"a/2/b c/0/0", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t line = 9, column = 9;
        bool found = mp_json_position(text, sizeof text - 1, cases[i].steps, &line, &column);
        if (found != (cases[i].line != 0) || line != cases[i].line || column != cases[i].column)
            fail_msg("%s: %d at %d:%d", cases[i].steps, found, (int)line, (int)column);
    }
}

/* Text that did not parse must not be read past its end either. */
static void test_json_position__stays_inside_broken_text(void **state) {
    (void)state;
    static const char text[] = "{\"a\": [[1, 2], {\"b\": \"c\\\"\"}], \"d\": 5}";
    for (size_t n = 0; n < sizeof text; n++) {
        char *copy = malloc(n + 1);
        uint64_t line, column;
        memcpy(copy, text, n);
        copy[n] = '5';
        (void)mp_json_position(copy, n, "a/1/b", &line, &column);
        (void)mp_json_position(copy, n, "d", &line, &column);
        assert_true(column <= n);
        free(copy);
    }
}

/* A NUL byte inside a text that the parser took line by line once made the search go round for ever. */
static void test_json_position__ends_at_bytes_that_start_no_value(void **state) {
    (void)state;
    static const char text[] = "{\"a\": {\"0\": [0, 1, 2, \"b\", 1, 0\0\n, 1]}, ]]}";
    uint64_t line, column;
    for (size_t n = 0; n < sizeof text; n++) {
        (void)mp_json_position(text, n, "a/0/9", &line, &column);
        (void)mp_json_position(text, n, "c", &line, &column);
        (void)mp_json_position(text + n, sizeof text - n, "c/d", &line, &column);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_position__finds_values),
        cmocka_unit_test(test_json_position__ends_at_bytes_that_start_no_value),
        cmocka_unit_test(test_json_position__stays_inside_broken_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
