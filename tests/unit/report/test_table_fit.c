/* Tables on terminals: no line is wider than the terminal where the numbers leave room, and nothing is lost unsaid. */
#include "support.h"
#include <moeplan/base.h>
#include <moeplan/report.h>

static char *shown(const struct mp_table *t, const struct mp_style *style) {
    static char text[1 << 16];
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_table_show(t, style, o);
    snprintf(text, sizeof text, "%s", (const char *)mp_out_memory_bytes(o, &n));
    CHECK_OK(mp_out_commit(o, &err), err);
    return text;
}

static size_t widest_line(const char *text) {
    size_t most = 0;
    while (*text != '\0') {
        char line[4096];
        const size_t n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        const size_t w = mp_text_width(line);
        most = w > most ? w : most;
        text += n + (text[n] == '\n');
    }
    return most;
}

static struct mp_table *example(void) {
    static const char *const titles[] = {"name", "mean step", "share of all steps", "what it is"};
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, titles[0], false);
    mp_table_columns(t, titles + 1, 2, "02", 0);
    mp_table_column(t, titles[3], false);
    mp_table_cell(t, "first");
    mp_table_cell(t, "1.234 ms");
    mp_table_cell(t, "12.3 %%");
    mp_table_text(t, "a sentence of several words");
    mp_table_cell(t, "second");
    mp_table_cell(t, "5.6 us");
    mp_table_cell(t, "7 %%");
    mp_table_text(t, "short");
    return t;
}

static void test_table_fit__what_fits_is_as_without_a_terminal(void **state) {
    (void)state;
    struct mp_table *t = example();
    char plain[4096];
    snprintf(plain, sizeof plain, "%s", shown(t, NULL));
    assert_string_equal(plain, "name    mean step  share of all steps  what it is\n"
                               "------  ---------  ------------------  ---------------------------\n"
                               "first    1.234 ms              12.3 %  a sentence of several words\n"
                               "second     5.6 us                 7 %  short\n");
    assert_string_equal(shown(t, &(struct mp_style){.width = 66}), plain);
    mp_table_free(t);
}

static void test_table_fit__titles_wrap_then_columns_go_then_texts_wrap(void **state) {
    (void)state;
    struct mp_table *t = example();
    assert_string_equal(shown(t, &(struct mp_style){.width = 60}),
                        "name    mean step  share of all  what it is\n"
                        "                          steps\n"
                        "------  ---------  ------------  ---------------------------\n"
                        "first    1.234 ms        12.3 %  a sentence of several words\n"
                        "second     5.6 us           7 %  short\n");
    assert_string_equal(shown(t, &(struct mp_style){.width = 36}), "name        mean  what it is\n"
                                                                   "            step\n"
                                                                   "------  --------  ------------------\n"
                                                                   "first   1.234 ms  a sentence of\n"
                                                                   "                  several words\n"
                                                                   "second    5.6 us  short\n"
                                                                   "(not shown: share of all steps;\n"
                                                                   "--wide shows all)\n");
    mp_table_free(t);
}

static void test_table_fit__wide_and_combining_characters_keep_columns_in_line(void **state) {
    (void)state;
    assert_int_equal(mp_text_width("caf\xc3\xa9"), 4);
    assert_int_equal(mp_text_width("cafe\xcc\x81"), 4);                             /* e and a combining acute */
    assert_int_equal(mp_text_width("\xe4\xb8\x93\xe5\xae\xb6"), 4);                 /* two ideographs */
    assert_int_equal(mp_text_width("\xef\xbd\x81\xea\xb0\x80\xf0\x9f\x9a\x80"), 6); /* fullwidth, Hangul, a rocket */
    assert_int_equal(mp_text_width("\xff\xc3("), 3);                                /* no UTF-8 */
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, "n", false);
    mp_table_column(t, "v", true);
    mp_table_text(t, "\xe4\xb8\x93\xe5\xae\xb6");
    mp_table_text(t, "1");
    mp_table_text(t, "cafe\xcc\x81!");
    mp_table_text(t, "22");
    assert_string_equal(shown(t, NULL), "n       v\n"
                                        "-----  --\n"
                                        "\xe4\xb8\x93\xe5\xae\xb6    1\n"
                                        "cafe\xcc\x81!  22\n");
    mp_table_free(t);
}

static void test_table_fit__colour_is_around_titles_alone(void **state) {
    (void)state;
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, "a", false);
    mp_table_text(t, "x");
    assert_string_equal(shown(t, &(struct mp_style){.has_color = true}), "\033[1ma\033[0m\n-\nx\n");
    mp_table_free(t);
}

/* The words of a text without spaces and rules, to compare what is there. */
static bool has_all_letters(const char *narrow, const char *cell) {
    for (const char *p = cell; *p != '\0'; p++)
        if (*p != ' ' && strchr(narrow, *p) == NULL)
            return false;
    return true;
}

static void test_table_fit__random_tables_fit_every_width_that_their_numbers_leave(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(8);
    for (int round = 0; round < 400; round++) {
        struct mp_table *t = mp_table_new();
        assert_non_null(t);
        const uint32_t n_columns = 1 + (uint32_t)mp_rng_below(&rng, 7), n_rows = (uint32_t)mp_rng_below(&rng, 5);
        bool is_right[8];
        size_t least = 0;
        for (uint32_t c = 0; c < n_columns; c++) {
            char title[64];
            size_t n_words = 1 + mp_rng_below(&rng, 4), used = 0;
            for (size_t w = 0; w < n_words; w++)
                used += (size_t)snprintf(title + used, sizeof title - used, "%st%.*s", w > 0 ? " " : "",
                                         (int)mp_rng_below(&rng, 6), "itlexx");
            is_right[c] = mp_rng_below(&rng, 2) == 0;
            mp_table_column(t, title, is_right[c]);
            if (c > 0 && mp_rng_below(&rng, 3) == 0)
                mp_table_may_drop(t, 1 + (unsigned)mp_rng_below(&rng, 4));
            least += 2 + 10; /* numbers and words of titles have at most 10 */
        }
        for (uint32_t i = 0; i < n_rows * n_columns; i++) {
            if (is_right[i % n_columns]) {
                mp_table_cell(t, "%llu", (unsigned long long)mp_rng_below(&rng, 1000000000));
                continue;
            }
            char text[512];
            size_t used = 0, n_words = mp_rng_below(&rng, 12);
            for (size_t w = 0; w < n_words; w++)
                used +=
                    (size_t)snprintf(text + used, sizeof text - used, "%s%.*s", w > 0 ? " " : "",
                                     1 + (int)mp_rng_below(&rng, 40), "abcdefghijklmnopqrstuvwyzabcdefghijklmnopqrst");
            text[used] = '\0';
            mp_table_text(t, text);
        }
        for (unsigned width = 20; width < 160; width += 1 + (unsigned)mp_rng_below(&rng, 20)) {
            const char *text = shown(t, &(struct mp_style){.width = width});
            if (width >= least)
                assert_in_range(widest_line(text), 0, width);
        }
        mp_table_free(t);
    }
    /* One text of long words is broken, not cut. */
    struct mp_table *t = mp_table_new();
    assert_non_null(t);
    mp_table_column(t, "x", false);
    mp_table_text(t, "0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ!");
    const char *text = shown(t, &(struct mp_style){.width = 20});
    assert_int_equal(widest_line(text), 20);
    assert_true(has_all_letters(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!"));
    mp_table_free(t);
}

static enum mp_status show_narrow(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_out *o;
    struct mp_table *t = mp_table_new();
    if (t == NULL)
        return mp_nomem(err, "table");
    mp_table_column(t, "a", false);
    mp_table_column(t, "b c", true);
    mp_table_may_drop(t, 1);
    for (int i = 0; i < 20; i++)
        mp_table_text(t, "words in a cell that wraps");
    enum mp_status status = mp_out_open_memory(&o, err);
    if (status == MP_OK) {
        mp_table_show(t, &(struct mp_style){.width = 20, .has_color = true}, o);
        mp_table_write_csv(t, o);
        status = mp_out_commit(o, err);
    }
    mp_table_free(t);
    return status;
}

static void test_table_fit__survives_every_failing_allocation(void **state) {
    (void)state;
    sweep_faults(show_narrow, NULL, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_fit__what_fits_is_as_without_a_terminal),
        cmocka_unit_test(test_table_fit__titles_wrap_then_columns_go_then_texts_wrap),
        cmocka_unit_test(test_table_fit__wide_and_combining_characters_keep_columns_in_line),
        cmocka_unit_test(test_table_fit__colour_is_around_titles_alone),
        cmocka_unit_test(test_table_fit__random_tables_fit_every_width_that_their_numbers_leave),
        cmocka_unit_test(test_table_fit__survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
