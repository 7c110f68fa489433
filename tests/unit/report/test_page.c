#include "support.h"
#include <moeplan/page.h>

static const char *const names[] = {"TITLE", "VERDICT", "COMPARISON", "CERTIFICATES", "LIMITS", "PROVENANCE", "DATA"};
enum { N_PARTS = 7 };

static void put_name(void *ctx, struct mp_out *o) { mp_out_printf(o, "[[%s]]\n", (const char *)ctx); }

static void take_parts(struct mp_page_part *parts) {
    for (int i = 0; i < N_PARTS; i++)
        parts[i] = (struct mp_page_part){names[i], put_name, (void *)(uintptr_t)names[i]};
}

static void test_page__every_part_stands_once_and_in_order(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_page_part parts[N_PARTS];
    struct mp_out *o;
    size_t n;
    char mark[64];
    take_parts(parts);
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    CHECK_OK(mp_page_write(o, parts, N_PARTS, &err), err);
    const char *text = (const char *)mp_out_memory_bytes(o, &n), *at = text;
    for (int i = 0; i < N_PARTS; i++) {
        snprintf(mark, sizeof mark, "[[%s]]", names[i]);
        at = strstr(at, mark);
        assert_non_null(at);
        at += strlen(mark);
        assert_null(strstr(at, mark));
    }
    assert_int_equal(memcmp(text, "<!DOCTYPE html>", 15), 0);
    assert_null(strstr(text, "<!--STYLE-->"));
    assert_null(strstr(text, "<!--SCRIPT-->"));
    assert_non_null(strstr(text, "<script type=\"application/json\" id=\"data\">\n[[DATA]]\n</script>"));
    assert_null(strstr(text, "src=\"http")); /* nothing is fetched */
    assert_null(strstr(text, "<link"));
    mp_out_cancel(o);
}

static void test_page__a_place_that_nothing_fills_is_a_bug(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_page_part parts[N_PARTS + 1];
    struct mp_out *o;
    take_parts(parts);
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    assert_int_equal(mp_page_write(o, parts, N_PARTS - 1, &err), MP_EBUG);
    mp_error_clear(&err);
    parts[N_PARTS] = (struct mp_page_part){"ELSEWHERE", put_name, (void *)(uintptr_t) "ELSEWHERE"};
    assert_int_equal(mp_page_write(o, parts, N_PARTS + 1, &err), MP_EBUG);
    mp_out_cancel(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page__every_part_stands_once_and_in_order),
        cmocka_unit_test(test_page__a_place_that_nothing_fills_is_a_bug),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
