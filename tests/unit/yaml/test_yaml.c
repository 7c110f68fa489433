#include "support.h"
#include <moeplan/base.h>
#include <moeplan/yaml.h>

static enum mp_status parse_n(struct mp_yaml_doc **d, const char *text, size_t n, const struct mp_limits *l,
                              struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_from_memory(&in, "t.yaml", text, n, err);
    *d = NULL;
    if (status != MP_OK)
        return status;
    status = mp_yaml_parse(d, in, l, err);
    mp_in_close(in);
    return status;
}
static struct mp_yaml_doc *good(const char *text) {
    struct mp_error err = {0};
    struct mp_yaml_doc *d;
    CHECK_OK(parse_n(&d, text, strlen(text), NULL, &err), err);
    return d;
}
/* The text is refused with this status, place and a message that has `part` in it. */
static void refused(const char *text, size_t n, enum mp_status want, uint64_t line, uint64_t column, const char *part) {
    struct mp_error err = {0};
    struct mp_yaml_doc *d;
    uint64_t live = mp_alloc_live();
    assert_int_equal(parse_n(&d, text, n, NULL, &err), want);
    assert_null(d);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" has no \"%s\"", err.message, part);
    assert_int_equal(err.line, line);
    assert_int_equal(err.column, column);
    assert_int_equal(mp_alloc_live(), live);
}
#define REFUSED(text, status, line, column, part) refused(text, sizeof(text) - 1, status, line, column, part)

static void test_yaml__tree_and_positions(void **state) {
    (void)state;
    struct mp_yaml_doc *d = good("a: 1\nb:\n  - x\n  - {k: 'q', m: []}\n  - [1, 2]\nc:\n");
    assert_int_equal(d->root->kind, MP_YAML_MAPPING);
    assert_int_equal(d->root->n, 3);
    assert_null(d->root->key);
    const struct mp_yaml *b = mp_yaml_get(d->root, "b"), *m = &b->items[1];
    assert_int_equal(b->n, 3);
    assert_string_equal(b->items[0].text, "x");
    assert_string_equal(b->items[0].key, "b");
    assert_int_equal(b->items[0].line, 3);
    assert_int_equal(b->items[0].column, 5);
    assert_true(mp_yaml_get(m, "k")->is_quoted);
    assert_int_equal(mp_yaml_get(m, "m")->n, 0);
    assert_int_equal(mp_yaml_get(m, "m")->kind, MP_YAML_SEQUENCE);
    assert_string_equal(b->items[2].items[1].text, "2");
    assert_int_equal(mp_yaml_get(d->root, "c")->length, 0);
    assert_null(mp_yaml_get(d->root, "z"));
    assert_null(mp_yaml_get(&b->items[0], "z"));
    assert_string_equal(d->path, "t.yaml");
    mp_yaml_free(d);
    mp_yaml_free(NULL);
}

static void test_yaml__refuses_what_is_not_plain_data(void **state) {
    (void)state;
    REFUSED("a: &x 1\n", MP_EINPUT, 1, 4, "anchors");
    REFUSED("a: 1\nb: *x\n", MP_EINPUT, 2, 4, "aliases");
    REFUSED("a: !!int 1\n", MP_EINPUT, 1, 4, "tags");
    REFUSED("a: ! 1\n", MP_EINPUT, 1, 4, "tags");
    REFUSED("- !x [1]\n", MP_EINPUT, 1, 3, "tags");
    REFUSED("- &x {a: 1}\n", MP_EINPUT, 1, 3, "anchors");
    REFUSED("%YAML 1.2\n---\na: 1\n", MP_EINPUT, 1, 1, "directives");
    REFUSED("a: 1\n---\nb: 2\n", MP_EINPUT, 2, 1, "second document");
    REFUSED("a: 1\n--- b\n", MP_EINPUT, 2, 1, "second document");
    REFUSED("a: 1\nb: 2\na: 3\n", MP_EINPUT, 3, 1, "there twice");
    REFUSED("x: {a: 1, b: 1, b: 2, a: 2}\n", MP_EINPUT, 1, 17, "\"b\" is there twice");
    REFUSED("[a]: 1\n", MP_EINPUT, 1, 1, "cannot be a key");
    REFUSED("? {a: b}\n: 1\n", MP_EINPUT, 1, 3, "cannot be a key");
    REFUSED("a: \"x\\0y\"\n", MP_EINPUT, 1, 4, "\\0");
    REFUSED("a: x\0y\n", MP_EINPUT, 1, 5, "NUL");
    REFUSED("\xef\xbb\xbf"
            "a: 1\n",
            MP_EINPUT, 1, 1, "byte order mark");
    REFUSED("a: \xc3\xa9 \xff\n", MP_EINPUT, 1, 6, "UTF-8");
    REFUSED("a: \xed\xa0\x80\n", MP_EINPUT, 1, 4, "UTF-8");
    REFUSED("a: \xc0\x80\n", MP_EINPUT, 1, 4, "UTF-8");
    REFUSED("a: \xf4\x90\x80\x80\n", MP_EINPUT, 1, 4, "UTF-8");
    REFUSED("a: \xe2\x82", MP_EINPUT, 1, 4, "UTF-8");
    REFUSED("a: \x01\n", MP_EINPUT, 1, 4, "control character");
    REFUSED("a: \xc2\x85\n", MP_EINPUT, 1, 4, "control character");
    REFUSED("", MP_EINPUT, 1, 1, "no values");
    REFUSED("# only words\n\n", MP_EINPUT, 1, 1, "no values");
    REFUSED("---\n...\n---\na: 1\n", MP_EINPUT, 3, 1, "second document");
    REFUSED("a: [1, 2\n", MP_EINPUT, 2, 1, "not valid YAML");
    REFUSED("a: 1\n\tb: 2\n", MP_EINPUT, 2, 1, "not valid YAML");
    REFUSED("a: 'x\n", MP_EINPUT, 2, 1, "not valid YAML");
}

static void test_yaml__limits_on_both_sides(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_yaml_doc *d;
    struct mp_limits l = mp_limits_default;
    l.yaml_depth = 3;
    CHECK_OK(parse_n(&d, "[[[1]]]", 7, &l, &err), err);
    mp_yaml_free(d);
    assert_int_equal(parse_n(&d, "[[[[1]]]]", 9, &l, &err), MP_ELIMIT);
    assert_int_equal(err.column, 4);
    l = mp_limits_default;
    l.yaml_scalar = 5;
    mp_error_clear(&err);
    CHECK_OK(parse_n(&d, "abcde: abcde", 12, &l, &err), err);
    mp_yaml_free(d);
    assert_int_equal(parse_n(&d, "abcde: abcdef", 13, &l, &err), MP_ELIMIT);
    mp_error_clear(&err);
    assert_int_equal(parse_n(&d, "abcdef: a", 9, &l, &err), MP_ELIMIT);
    l = mp_limits_default;
    l.yaml_bytes = 4;
    mp_error_clear(&err);
    CHECK_OK(parse_n(&d, "a: 1", 4, &l, &err), err);
    mp_yaml_free(d);
    assert_int_equal(parse_n(&d, "a: 12", 5, &l, &err), MP_ELIMIT);
    /* stream, document, [, 1, ], ends: 7 */
    l = mp_limits_default;
    l.yaml_events = 7;
    mp_error_clear(&err);
    CHECK_OK(parse_n(&d, "[1]", 3, &l, &err), err);
    assert_int_equal(d->n_events, 7);
    mp_yaml_free(d);
    assert_int_equal(parse_n(&d, "[1, 2]", 6, &l, &err), MP_ELIMIT);
}

/* 16 MB of anything costs at most a bounded amount of memory, and far fewer events than bytes are looked at. */
static void test_yaml__bombs_are_refused_cheaply(void **state) {
    (void)state;
    static const struct {
        const char *head, *unit, *tail;
    } bombs[] = {
        {"", "[", ""},          {"", "{", ""},          {"", "{a: ", ""},   {"", "- ", ""},
        {"", "? ", ""},         {"", "-\n", ""},        {"a: ", "x", "\n"}, {"a: \"", "x", "\""},
        {"a: \"", "\\L", "\""}, {"a: |\n", " x\n", ""}, {"", "#\n", ""},    {"", "\n", ""},
        {"", " ", ""},          {"a: [", "a,", "]"},    {"", "x\n", ""},    {"", "x ", ""},
        {"a: '", "''", "'"},    {"", "&a ", ""},        {"", "!a ", ""},    {"", "a: ", ""},
        {"{", "a, ", "}"},      {"", "---\n", ""},      {"", "\"", ""},     {"", "[{", ""},
        {"a: >\n", "\n", "x"},  {"a: |\n", "  \n", ""}, {"", "*a ", ""},    {"", ",", ""},
        {"", "]", ""},          {"", "|", ""},          {"", "@", ""},      {"", "...\n", ""},
        {"? ", "x", ""},
    };
    size_t size = (size_t)16 << 20;
    char *text = mp_calloc(size, 1);
    assert_non_null(text);
    for (size_t b = 0; b < sizeof bombs / sizeof bombs[0]; b++) {
        size_t n = strlen(bombs[b].head), unit = strlen(bombs[b].unit), tail = strlen(bombs[b].tail);
        memcpy(text, bombs[b].head, n);
        while (n + unit + tail <= size) {
            memcpy(text + n, bombs[b].unit, unit);
            n += unit;
        }
        memcpy(text + n, bombs[b].tail, tail);
        n += tail;
        struct mp_error err = {0};
        struct mp_yaml_doc *d;
        uint64_t live = mp_alloc_live();
        mp_alloc_limit(live + size + 4096 + ((uint64_t)30 << 20)); /* size: the test's own copy */
        enum mp_status status = parse_n(&d, text, n, NULL, &err);
        mp_alloc_limit(0);
        if (status != MP_EINPUT && status != MP_ELIMIT)
            fail_msg("bomb %s%s...: status %d, %s", bombs[b].head, bombs[b].unit, (int)status, err.message);
        assert_true(err.line > 0 && err.column > 0);
        assert_int_equal(mp_alloc_live(), live);
    }
    mp_free(text);
}

static void test_yaml__a_long_text_is_read_when_asked_for(void **state) {
    (void)state;
    size_t n = 1000003;
    char *text = mp_calloc(n + 1, 1);
    memcpy(text, "a: ", 3);
    memset(text + 3, 'x', n - 3);
    struct mp_error refusal = {0};
    struct mp_yaml_doc *none;
    assert_int_equal(parse_n(&none, text, n, NULL, &refusal), MP_ELIMIT);
    struct mp_limits l = mp_limits_default;
    l.yaml_scalar = 1000000;
    struct mp_error err = {0};
    struct mp_yaml_doc *d;
    CHECK_OK(parse_n(&d, text, n, &l, &err), err);
    assert_int_equal(d->root->items[0].length, 1000000);
    mp_yaml_free(d);
    mp_free(text);
}

/* 10^5 keys: all different are taken, one repeated at the end is found. */
static void test_yaml__many_keys(void **state) {
    (void)state;
    struct mp_out *o;
    struct mp_error err = {0};
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    for (unsigned i = 0; i < 100000; i++)
        mp_out_printf(o, "k%u: 1\n", i * 7919u % 100000u);
    size_t n;
    const char *text = (const char *)mp_out_memory_bytes(o, &n);
    struct mp_yaml_doc *d;
    CHECK_OK(parse_n(&d, text, n, NULL, &err), err);
    assert_int_equal(d->root->n, 100000);
    assert_string_equal(d->root->items[1].key, "k7919");
    mp_yaml_free(d);
    mp_out_puts(o, "k5: 1\n");
    text = (const char *)mp_out_memory_bytes(o, &n);
    refused(text, n, MP_EINPUT, 100001, 1, "\"k5\" is there twice");
    mp_out_cancel(o);
}

/* Any cut and any flipped bit of a document that uses every construct ends in a status, and leaks nothing. */
static void test_yaml__cuts_and_flips(void **state) {
    (void)state;
    static const char text[] =
        "schema: moeplan.x\nlist: [1, 'two', \"t\\x41\\u00e9\", {a: b}]\nblock: |\n  one\n  two\nfolded: >-\n  a\n  b\n"
        "deep:\n  - - x\n    - y\n  - k: v # note\n    ? q\n    : r\n";
    char copy[sizeof text];
    uint64_t live = mp_alloc_live();
    for (size_t cut = 0; cut < sizeof text; cut++)
        for (int bit = -1; bit < 8; bit++) {
            memcpy(copy, text, sizeof text);
            size_t n = cut;
            if (bit >= 0) {
                copy[cut] = (char)(copy[cut] ^ (1 << bit));
                n = sizeof text - 1;
            }
            struct mp_error err = {0};
            struct mp_yaml_doc *d;
            enum mp_status status = parse_n(&d, copy, n, NULL, &err);
            assert_true(status == MP_OK || status == MP_EINPUT || status == MP_ELIMIT);
            assert_true(status == MP_OK || (err.line > 0 && err.message[0] != '\0'));
            mp_yaml_free(d);
        }
    assert_int_equal(mp_alloc_live(), live);
}

static enum mp_status fault_flow(void *ctx, struct mp_error *err) {
    struct mp_yaml_doc *d;
    enum mp_status status = parse_n(&d, ctx, strlen(ctx), NULL, err);
    mp_yaml_free(d);
    return status;
}
static void test_yaml__faults(void **state) {
    (void)state;
    char text[] = "a: [1, 2, {b: c}]\nd: {e: f, g: h}\n";
    sweep_faults(fault_flow, text, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yaml__tree_and_positions),
        cmocka_unit_test(test_yaml__refuses_what_is_not_plain_data),
        cmocka_unit_test(test_yaml__limits_on_both_sides),
        cmocka_unit_test(test_yaml__bombs_are_refused_cheaply),
        cmocka_unit_test(test_yaml__a_long_text_is_read_when_asked_for),
        cmocka_unit_test(test_yaml__many_keys),
        cmocka_unit_test(test_yaml__cuts_and_flips),
        cmocka_unit_test(test_yaml__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
