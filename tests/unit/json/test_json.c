#include "support.h"
#include <moeplan/json.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static enum mp_status parse(json_t **j, const char *text, size_t n, const struct mp_limits *l, struct mp_error *err) {
    return mp_json_parse(j, "t.jsonl", text, n, 10, l, err);
}
static void refused(const char *text, size_t n, const struct mp_limits *l, enum mp_status want, uint64_t line,
                    const char *part) {
    struct mp_error err = {0};
    json_t *j = NULL;
    uint64_t live = mp_alloc_live();
    assert_int_equal(parse(&j, text, n, l, &err), want);
    assert_null(j);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" has no \"%s\"", err.message, part);
    if (err.line != line)
        fail_msg("line %llu: %s", (unsigned long long)err.line, err.message);
    assert_true(err.column > 0);
    assert_int_equal(mp_alloc_live(), live);
}
#define REFUSED(text, status, line, part) refused(text, sizeof(text) - 1, NULL, status, line, part)

static void test_json__reads_and_counts_memory(void **state) {
    (void)state;
    struct mp_error err = {0};
    json_t *j;
    uint64_t live = mp_alloc_live(), v;
    static const char text[] = "{\"a\": 5, \"b\": [1, 2.5, null], \"s\": \"x\"}\n";
    CHECK_OK(parse(&j, text, strlen(text), NULL, &err), err);
    assert_true(mp_alloc_live() > live);
    CHECK_OK(mp_json_u64(j, "a", "t", 1, 5, 5, &v, &err), err);
    assert_int_equal(v, 5);
    assert_int_equal(mp_json_u64(j, "a", "t", 7, 6, 9, &v, &err), MP_EINPUT);
    assert_string_equal(err.message,
                        "a: \"5\" is not a whole number in [6, 9] (write digits, without quotes or a point)");
    assert_int_equal(err.line, 7);
    for (const char *k = "b\0s\0z\0"; *k != '\0'; k += 2)
        assert_int_equal(mp_json_u64(j, k, "t", 1, 0, UINT64_MAX, &v, NULL), MP_EINPUT);
    json_decref(j);
    assert_int_equal(mp_alloc_live(), live);
}

static void test_json__refuses(void **state) {
    (void)state;
    REFUSED("{\"a\": 1, \"a\": 2}", MP_EINPUT, 10, "uplicate");
    REFUSED("{\"a\": NaN}", MP_EINPUT, 10, "not valid JSON");
    REFUSED("[Infinity]", MP_EINPUT, 10, "not valid JSON");
    REFUSED("[1e999]", MP_EINPUT, 10, "overflow");
    REFUSED("[99999999999999999999]", MP_EINPUT, 10, "too big");
    REFUSED("[1,\n2,]", MP_EINPUT, 11, "not valid JSON");
    REFUSED("[1] x", MP_EINPUT, 10, "not valid JSON");
    REFUSED("[\"\\u0000\"]", MP_EINPUT, 10, "not valid JSON");
    REFUSED("[\"\xff\"]", MP_EINPUT, 10, "not valid JSON");
    REFUSED("[1, \"x\0\"]", MP_EINPUT, 10, "not valid JSON");
    REFUSED("", MP_EINPUT, 10, "not valid JSON");
    REFUSED("{\"a\": [1, 2", MP_EINPUT, 10, "too early");
    REFUSED("\"x\"", MP_EINPUT, 10, "not valid JSON");
}

static void test_json__limits_on_both_sides(void **state) {
    (void)state;
    struct mp_limits l = mp_limits_default;
    struct mp_error err = {0};
    json_t *j;
    l.json_depth = 3;
    CHECK_OK(parse(&j, "[[[\"[[[[\"]]]", 12, &l, &err), err);
    json_decref(j);
    refused("[[\n[[]]]]", 9, &l, MP_ELIMIT, 11, "deeper than 3");
    l = mp_limits_default;
    l.json_bytes = 3;
    CHECK_OK(parse(&j, "[1]", 3, &l, &err), err);
    json_decref(j);
    refused("[12]", 4, &l, MP_ELIMIT, 10, "4 bytes");
    l = mp_limits_default;
    l.json_heap_bytes = 200;
    refused("[1,2,3,4,5,6,7,8,9,10,11,12,13]", 31, &l, MP_ELIMIT, 10, "more than 200 bytes of memory");
}

static void test_json__bombs_are_refused_cheaply(void **state) {
    (void)state;
    static const struct {
        const char *head, *unit;
    } bombs[] = {{"", "["},   {"", "{\"a\":"},    {"[", "{},"},   {"[", "[],"}, {"[", "1,"},
                 {"\"", "x"}, {"[\"", "\\u0041"}, {"[", "\"\","}, {"", " "},    {"[1", "0"}};
    size_t size = (size_t)16 << 20;
    char *text = mp_calloc(size, 1);
    struct mp_limits l = mp_limits_default;
    for (size_t b = 0; b < sizeof bombs / sizeof bombs[0]; b++) {
        size_t n = strlen(bombs[b].head), unit = strlen(bombs[b].unit);
        memcpy(text, bombs[b].head, n);
        for (; n + unit <= size; n += unit)
            memcpy(text + n, bombs[b].unit, unit);
        struct mp_error err = {0};
        json_t *j;
        uint64_t live = mp_alloc_live();
        mp_alloc_limit(live + l.json_heap_bytes * 2);
        enum mp_status status = parse(&j, text, n, &l, &err);
        mp_alloc_limit(0);
        if (status != MP_EINPUT && status != MP_ELIMIT)
            fail_msg("bomb %s%s...: status %d, %s", bombs[b].head, bombs[b].unit, (int)status, err.message);
        assert_int_equal(mp_alloc_live(), live);
    }
    mp_free(text);
}

/* What a program does that uses jansson beside the library. */
static void test_json__blocks_go_to_free_and_come_from_malloc(void **state) {
    (void)state;
    struct mp_error err = {0};
    json_t *j;
    json_malloc_t allocate;
    json_free_t release;
    json_get_alloc_funcs(&allocate, &release);
    json_set_alloc_funcs(malloc, free); /* as before the library was loaded */
    json_t *older = json_pack("{s:s}", "made", "by malloc");
    json_set_alloc_funcs(allocate, release);
    json_decref(older);
    uint64_t live = mp_alloc_live();
    CHECK_OK(parse(&j, "[1, \"two\"]", 10, NULL, &err), err);
    char *text = json_dumps(j, JSON_COMPACT);
    assert_string_equal(text, "[1,\"two\"]");
    json_decref(j);
    free(text);
    assert_true(mp_alloc_live() < live + 64); /* counted, for nobody told us */
    assert_true(mp_alloc_live() >= live);
}

/* Keys are released behind their values: deep and wide, that must not take the square of what there is. */
static void test_json__deep_and_wide_objects_are_quick(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_limits l = mp_limits_default;
    const size_t size = (size_t)4 << 20;
    char *text = mp_calloc(size + 1024, 1);
    size_t n = 0;
    for (int depth = 0; depth < 60; depth++)
        n += (size_t)sprintf(text + n, "{\"k\":");
    text[n++] = '{';
    for (unsigned i = 0; n < size; i++)
        n += (size_t)sprintf(text + n, "%s\"%x\":{}", i > 0 ? "," : "", i);
    memset(text + n, '}', 61);
    json_t *j;
    l.json_heap_bytes = SIZE_MAX / 2;
    double started = now();
    CHECK_OK(parse(&j, text, n + 61, &l, &err), err);
    if (now() - started > 5) /* a tenth of a second; sanitizers and busy machines take their share */
        fail_msg("%.1f s", now() - started);
    json_decref(j);
    mp_free(text);
}

static void test_json__cuts_and_flips(void **state) {
    (void)state;
    static const char text[] = "{\"a\": [1, -2, 3.5e2, true, null], \"b\": {\"c\": \"\\u00e9\\n\"}}";
    char copy[sizeof text];
    uint64_t live = mp_alloc_live();
    for (size_t cut = 0; cut < sizeof text - 1; cut++)
        for (int bit = -1; bit < 8; bit++) {
            memcpy(copy, text, sizeof text);
            if (bit >= 0)
                copy[cut] = (char)(copy[cut] ^ (1 << bit));
            struct mp_error err = {0};
            json_t *j;
            enum mp_status status = parse(&j, copy, bit >= 0 ? sizeof text - 1 : cut, NULL, &err);
            assert_true(status == MP_OK || status == MP_EINPUT || status == MP_ELIMIT);
            json_decref(j);
        }
    assert_int_equal(mp_alloc_live(), live);
}

static void test_json__lines(void **state) {
    (void)state;
    static const char text[] = "a\r\n\nbc\n\rd";
    static const char *const want[] = {"a", "", "bc", "\rd"};
    const char *cursor = text, *line;
    size_t n, i = 0;
    while (mp_next_line(&cursor, text + sizeof text - 1, &line, &n)) {
        assert_true(i < 4);
        assert_int_equal(n, strlen(want[i]));
        assert_memory_equal(line, want[i], n);
        i++;
    }
    assert_int_equal(i, 4);
    cursor = text;
    assert_false(mp_next_line(&cursor, text, &line, &n));
    cursor = "12345678";
    assert_true(mp_next_line_within(&cursor, cursor + 8, 4, &line, &n));
    assert_true(n > 4);
    assert_false(mp_next_line_within(&cursor, cursor, 4, &line, &n));
}

static enum mp_status fault_flow(void *ctx, struct mp_error *err) {
    json_t *j;
    enum mp_status status = parse(&j, ctx, strlen(ctx), NULL, err);
    json_decref(j);
    return status;
}
static void test_json__faults(void **state) {
    (void)state;
    char text[] = "{\"a\": [1, 2.5, \"long enough to need a larger buffer than the first one\"], \"b\": {\"c\": true}}";
    sweep_faults(fault_flow, text, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json__reads_and_counts_memory),
        cmocka_unit_test(test_json__refuses),
        cmocka_unit_test(test_json__limits_on_both_sides),
        cmocka_unit_test(test_json__bombs_are_refused_cheaply),
        cmocka_unit_test(test_json__blocks_go_to_free_and_come_from_malloc),
        cmocka_unit_test(test_json__deep_and_wide_objects_are_quick),
        cmocka_unit_test(test_json__cuts_and_flips),
        cmocka_unit_test(test_json__lines),
        cmocka_unit_test(test_json__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
