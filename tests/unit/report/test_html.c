#include "support.h"
#include <moeplan/page.h>

static const char *escaped(const char *text, char *buf, size_t size) {
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_html_text(o, text);
    snprintf(buf, size, "%s", (const char *)mp_out_memory_bytes(o, &n));
    mp_out_cancel(o);
    return buf;
}

static void test_html__no_text_ends_an_element_or_an_attribute(void **state) {
    (void)state;
    char buf[256];
    assert_string_equal(escaped("</script><b a='x' b=\"y\">&amp;", buf, sizeof buf),
                        "&lt;/script&gt;&lt;b a=&#39;x&#39; b=&quot;y&quot;&gt;&amp;amp;");
    assert_string_equal(escaped("", buf, sizeof buf), "");
    assert_string_equal(escaped("gpt-oss-20b, 8:h100 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80", buf, sizeof buf),
                        "gpt-oss-20b, 8:h100 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80");
}

static void test_html__figures_keep_their_units(void **state) {
    (void)state;
    static const char *const texts[][2] = {
        {"17.6 % of 335.7 us", "17.6\xc2\xa0% of 335.7\xc2\xa0\xc2\xb5s"},
        {"5 GB, 3 s and 2 ms", "5\xc2\xa0GB, 3\xc2\xa0s and 2\xc2\xa0ms"},
        {"3 steps, 5 users, a us, 7 ", "3 steps, 5 users, a us, 7 "},
        {"<1 %\xff", "&lt;1\xc2\xa0%\xef\xbf\xbd"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct mp_error err;
        struct mp_out *o;
        size_t n;
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        mp_html_figures(o, texts[i][0]);
        assert_string_equal((const char *)mp_out_memory_bytes(o, &n), texts[i][1]);
        mp_out_cancel(o);
    }
}

#define BAD "\xef\xbf\xbd"
/* Overlong forms, surrogates, what ends early, beyond U+10FFFF, control characters. */
static const struct {
    const char *is, *becomes;
} broken[] = {{"a\xc0\xafz", "a" BAD BAD "z"},
              {"\xe0\x80\xaf", BAD BAD BAD},
              {"\xed\xa0\x80", BAD BAD BAD},
              {"\xe2\x82", BAD BAD},
              {"\xf4\x90\x80\x80", BAD BAD BAD BAD},
              {"\xf5", BAD},
              {"\x80", BAD},
              {"x\x01\x1by\x7f", "x" BAD BAD "y" BAD},
              {"\xf0\x9f\x98", BAD BAD BAD},
              {"line\nand\ttab", "line\nand\ttab"}};

static void test_html__what_is_no_text_is_replaced(void **state) {
    (void)state;
    char buf[256];
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        assert_string_equal(escaped(broken[i].is, buf, sizeof buf), broken[i].becomes);
        json_t *o = mp_json_text(broken[i].is);
        assert_non_null(o);
        assert_string_equal(json_string_value(o), broken[i].becomes);
        json_decref(o);
    }
    json_t *none = mp_json_text(NULL);
    assert_true(json_is_null(none));
    json_decref(none);
}

static void test_html__json_cannot_end_its_script(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    json_t *back,
        *value = json_pack("{s:s,s:[f,i]}", "</script><!-- & \xe2\x80\xa8 \xc3\xa4", "<script>]]>", "v", 0.25, 7);
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_json_write_in_script(value, o);
    const char *text = (const char *)mp_out_memory_bytes(o, &n);
    for (size_t i = 0; i < n; i++)
        assert_true(text[i] >= ' ' && text[i] < 0x7F && text[i] != '<' && text[i] != '>' && text[i] != '&');
    CHECK_OK(mp_json_parse(&back, "page", text, n, 1, &mp_limits_default, &err), err);
    assert_true(json_equal(value, back));
    json_decref(back);
    json_decref(value);
    mp_out_cancel(o);
}

static enum mp_status write_all(void *ctx, struct mp_error *err) {
    struct mp_out *o;
    (void)ctx;
    enum mp_status status = mp_out_open(&o, temp_path("page.txt"), err);
    if (status != MP_OK)
        return status;
    json_t *text = mp_json_text("a <name> \xff");
    json_t *value = text != NULL ? json_pack("{s:o}", "name", text) : NULL;
    mp_html_text(o, "a <name> \xff");
    mp_json_write_in_script(value, o);
    json_decref(value);
    return mp_out_commit(o, err);
}

static void test_html__faults_are_told(void **state) {
    (void)state;
    sweep_faults(write_all, NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_html__no_text_ends_an_element_or_an_attribute),
        cmocka_unit_test(test_html__figures_keep_their_units),
        cmocka_unit_test(test_html__what_is_no_text_is_replaced),
        cmocka_unit_test(test_html__json_cannot_end_its_script),
        cmocka_unit_test(test_html__faults_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
