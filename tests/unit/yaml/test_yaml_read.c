#include "support.h"
#include <moeplan/yaml.h>

static struct mp_yaml_doc *doc(const char *text) {
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_yaml_doc *d;
    CHECK_OK(mp_in_from_memory(&in, "t.yaml", text, strlen(text), &err), err);
    CHECK_OK(mp_yaml_parse(&d, in, NULL, &err), err);
    mp_in_close(in);
    return d;
}
static void check_message(const struct mp_error *err, const char *want) {
    char text[2048];
    assert_string_equal(mp_error_text(err, text, sizeof text), want);
}

static void test_yaml_read__whole_numbers(void **state) {
    (void)state;
    struct mp_yaml_doc *d = doc(
        "a: 17\nb: 18446744073709551615\nc: 18446744073709551616\nd: '1'\ne: 07\nf: -1\ng: 1.0\nh: [1]\ni:\nj: 0x10\n");
    struct mp_error err = {0};
    uint64_t v;
    uint32_t w;
    CHECK_OK(mp_yaml_u64(d, mp_yaml_get(d->root, "a"), 17, 17, &v, &err), err);
    assert_int_equal(v, 17);
    CHECK_OK(mp_yaml_u32(d, mp_yaml_get(d->root, "a"), 0, UINT32_MAX, &w, &err), err);
    assert_int_equal(w, 17);
    CHECK_OK(mp_yaml_u64(d, mp_yaml_get(d->root, "b"), 0, UINT64_MAX, &v, &err), err);
    assert_true(v == UINT64_MAX);
    for (const char *k = "c\0d\0e\0f\0g\0h\0i\0j\0"; *k != '\0'; k += 2) {
        mp_error_clear(&err);
        assert_int_equal(mp_yaml_u64(d, mp_yaml_get(d->root, k), 0, UINT64_MAX, &v, &err), MP_EINPUT);
    }
    mp_error_clear(&err);
    assert_int_equal(mp_yaml_u64(d, mp_yaml_get(d->root, "a"), 1, 16, &v, &err), MP_EINPUT);
    check_message(&err, "t.yaml:1:4: a: \"17\" is not a whole number in [1, 16] (write one in this range)");
    mp_yaml_free(d);
}

static void test_yaml_read__quantities(void **state) {
    (void)state;
    static const struct {
        const char *text, *unit;
        uint64_t want; /* UINT64_MAX = refused */
    } cases[] = {
        {"450 GB/s", "bytes/s", 450000000000},
        {"450GB/s", "bytes/s", 450000000000},
        {"400 Gbit/s", "bytes/s", 50000000000},
        {"48.85 GB/s", "bytes/s", 48850000000},
        {"141 GiB", "bytes", UINT64_C(141) << 30},
        {"2.5 us", "ns", 2500},
        {"0.5 ns", "ns", UINT64_MAX},
        {"989 TFLOPS", "flops", 989000000000000},
        {"362.05 TFLOPS", "flops", 362050000000000},
        {"0.8", "ppm", 800000},
        {"80 %", "ppm", 800000},
        {"1.0", "ppm", 1000000},
        {"1", "ppm", 1},
        {"800000", "ppm", 800000},
        {"0.0000001", "ppm", UINT64_MAX},
        {"12", "bytes", 12},
        {"2.5", "bytes", UINT64_MAX},
        {"2.5 B", "bytes", UINT64_MAX},
        {"3 Gbit/s", "bytes", UINT64_MAX},
        {"3 bit", "bytes", UINT64_MAX},
        {"1 kbit/s", "bytes/s", 125},
        {"GB", "bytes", UINT64_MAX},
        {"1e9 B", "bytes", UINT64_MAX},
        {"-1 GB", "bytes", UINT64_MAX},
        {"1  GB", "bytes", UINT64_MAX},
        {"1 gb", "bytes", UINT64_MAX},
        {"1.", "ppm", UINT64_MAX},
        {".5", "ppm", UINT64_MAX},
        {"1.2.3", "ppm", UINT64_MAX},
        {"'5'", "bytes", UINT64_MAX},
        {"99999999999999999999 B", "bytes", UINT64_MAX},
        {"18446744073709551615 GB", "bytes", UINT64_MAX},
        {"16 TiB", "bytes", UINT64_C(16) << 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "x: %s\n", cases[i].text);
        struct mp_yaml_doc *d = doc(text);
        struct mp_error err = {0};
        uint64_t v = 0;
        enum mp_status status = mp_yaml_quantity(d, &d->root->items[0], cases[i].unit, 0, UINT64_MAX - 1, &v, &err);
        if (status != (cases[i].want == UINT64_MAX ? MP_EINPUT : MP_OK) || (status == MP_OK && v != cases[i].want))
            fail_msg("%s: status %d, %llu", cases[i].text, (int)status, (unsigned long long)v);
        mp_yaml_free(d);
    }
    struct mp_yaml_doc *d = doc("x: 3 GB/s\n");
    struct mp_error err = {0};
    uint64_t v;
    assert_int_equal(mp_yaml_quantity(d, &d->root->items[0], "bytes/s", 1, 5, &v, &err), MP_EINPUT);
    check_message(&err, "t.yaml:1:4: x: \"3 GB/s\" is 3000000000 bytes/s, outside [1, 5] (write for instance 450 GB/s "
                        "or 400 Gbit/s)");
    mp_yaml_free(d);
}

static void test_yaml_read__keys_kinds_words(void **state) {
    (void)state;
    struct mp_yaml_doc *d = doc("a: true\nbb: [x]\nc: \"tab\\x1b\"\nd: yes\n");
    struct mp_error err = {0};
    static const char *const keys[] = {"a", "c", "d", NULL};
    assert_int_equal(mp_yaml_keys(d, d->root, keys, &err), MP_EINPUT);
    check_message(&err, "t.yaml:2:5: bb: no such key here (write one of: a, c, d)");
    const struct mp_yaml *n;
    mp_error_clear(&err);
    assert_int_equal(mp_yaml_need(d, d->root, "zz", &n, &err), MP_EINPUT);
    check_message(&err, "t.yaml:1:1: the key \"zz\" is missing (add \"zz: ...\")");
    mp_error_clear(&err);
    assert_int_equal(mp_yaml_expect(d, mp_yaml_get(d->root, "bb"), MP_YAML_MAPPING, &err), MP_EINPUT);
    bool b;
    mp_error_clear(&err);
    CHECK_OK(mp_yaml_bool(d, mp_yaml_get(d->root, "a"), &b, &err), err);
    assert_true(b);
    assert_int_equal(mp_yaml_bool(d, mp_yaml_get(d->root, "d"), &b, &err), MP_EINPUT);
    const char *s;
    mp_error_clear(&err);
    assert_int_equal(mp_yaml_string(d, mp_yaml_get(d->root, "c"), d->arena, &s, &err), MP_EINPUT);
    check_message(&err, "t.yaml:3:4: c: \"tab\\x1b\" is not a line of text (write printable characters)");
    mp_error_clear(&err);
    assert_int_equal(mp_yaml_need(d, mp_yaml_get(d->root, "a"), "zz", &n, &err), MP_EINPUT);
    mp_yaml_free(d);
}

/* What is written comes back, for every kind of text, and is plain ASCII. */
static void test_yaml_read__strings_round_trip(void **state) {
    (void)state;
    static const char *const texts[] = {"h100",
                                        "4x8:h100",
                                        "true",
                                        "No",
                                        "12",
                                        "1.5",
                                        " a",
                                        "a ",
                                        "a#b",
                                        "a: b",
                                        "a\"b\\c",
                                        "tab\there",
                                        "\xc3\xa9t\xc3\xa9",
                                        "\xf0\x9f\x98\x80",
                                        "-",
                                        "~",
                                        "null",
                                        "a, b",
                                        "[x]",
                                        "it's",
                                        "x (y) z/w+v-u_t.s",
                                        "\xc3\xa9 and\na new line",
                                        "\x01",
                                        "\x7f"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct mp_error err = {0};
        struct mp_out *o;
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        mp_out_puts(o, "k: ");
        mp_yaml_write_string(o, texts[i]);
        mp_out_puts(o, "\n");
        size_t n;
        const char *text = (const char *)mp_out_memory_bytes(o, &n);
        for (size_t k = 0; k < n; k++)
            assert_true((unsigned char)text[k] < 0x7f);
        struct mp_yaml_doc *d = doc(text);
        assert_string_equal(d->root->items[0].text, texts[i]);
        mp_yaml_free(d);
        mp_out_cancel(o);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yaml_read__whole_numbers),
        cmocka_unit_test(test_yaml_read__quantities),
        cmocka_unit_test(test_yaml_read__keys_kinds_words),
        cmocka_unit_test(test_yaml_read__strings_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
