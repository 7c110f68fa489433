#include "support.h"
#include <moeplan/report.h>

typedef enum mp_status (*draw_fn)(const struct mp_topology *t, struct mp_out *o, struct mp_error *err);

static struct mp_topology *load(const char *spec) {
    struct mp_error err = {0};
    struct mp_topology *t;
    CHECK_OK(mp_topology_load(&t, spec, &mp_limits_default, &err), err);
    return t;
}

static char *drawn(const struct mp_topology *t, draw_fn draw) {
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    CHECK_OK(draw(t, o, &err), err);
    const uint8_t *bytes = mp_out_memory_bytes(o, &n);
    char *text = calloc(n + 1, 1);
    memcpy(text, bytes, n);
    mp_out_cancel(o);
    return text;
}

static uint32_t count(const char *text, const char *what) {
    uint32_t n = 0;
    for (const char *s = strstr(text, what); s != NULL; s = strstr(s + 1, what))
        n++;
    return n;
}

/* Every element is closed, in order, and no bare & or < stands in text. */
static void check_well_formed(const char *s) {
    char open[64][16];
    uint32_t depth = 0;
    for (; *s != '\0'; s++) {
        if (*s == '&')
            assert_true(strncmp(s, "&lt;", 4) == 0 || strncmp(s, "&gt;", 4) == 0 || strncmp(s, "&amp;", 5) == 0);
        if (*s != '<')
            continue;
        const char *end = strchr(s, '>');
        assert_non_null(end);
        size_t n = strcspn(s + 1 + (s[1] == '/'), " >/");
        assert_true(n < 16);
        if (s[1] == '/') {
            assert_true(depth > 0);
            depth--;
            assert_true(strlen(open[depth]) == n && strncmp(open[depth], s + 2, n) == 0);
        } else if (end[-1] != '/') {
            assert_true(depth < 64);
            memcpy(open[depth], s + 1, n);
            open[depth++][n] = '\0';
        }
        s = end;
    }
    assert_int_equal(depth, 0);
}

static void test_topology_drawing__every_gpu_of_a_small_cluster_is_in_the_picture(void **state) {
    (void)state;
    static const char *const specs[] = {"8:h100",          "1:l40s",     "2x4:h100",    "2x4:a100+2x4:l40s", "nvl72",
                                        "mixed-a100-l40s", "shared-nic", "mi300x-n1g8", "rack-two-tier"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct mp_topology *t = load(specs[i]);
        char *svg = drawn(t, mp_topology_draw_svg), *text = drawn(t, mp_topology_draw_text);
        check_well_formed(svg);
        assert_int_equal(count(svg, "class=\"gpu "), t->n_gpus);
        assert_int_equal(count(svg, "class=\"bar l0"), mp_topology_n_nodes(t));
        assert_true(count(text, " (GPU") >= 1);
        free(svg);
        free(text);
        mp_topology_free(t);
    }
}

static void test_topology_drawing__shared_nics_are_one_chip(void **state) {
    (void)state;
    struct mp_topology *t = load("shared-nic");
    char *svg = drawn(t, mp_topology_draw_svg), *text = drawn(t, mp_topology_draw_text);
    assert_int_equal(count(svg, "class=\"chip l1"), 8); /* 16 GPUs, two to a NIC */
    assert_int_equal(count(text, "9.500 GB/s for each 2"), 1);
    free(svg);
    free(text);
    mp_topology_free(t);
}

static void test_topology_drawing__alike_parts_of_a_large_cluster_are_drawn_once(void **state) {
    (void)state;
    struct mp_topology *t = load("500x8:h100+12x8:a100");
    char *svg = drawn(t, mp_topology_draw_svg), *text = drawn(t, mp_topology_draw_text);
    check_well_formed(svg);
    assert_int_equal(count(svg, "class=\"gpu "), 16);
    assert_int_equal(count(svg, "500 alike: node 0 to 499"), 1);
    assert_int_equal(count(text, "\n"), 5);
    assert_int_equal(count(text, "12 alike, nodes 500 to 511"), 1);
    free(svg);
    free(text);
    mp_topology_free(t);
}

static void test_topology_drawing__unlike_parts_are_drawn_apart(void **state) {
    (void)state;
    struct mp_topology *t = load("mixed-a100-l40s");
    char *text = drawn(t, mp_topology_draw_text);
    assert_int_equal(count(text, "2 alike, nodes 0 to 1"), 1);
    assert_int_equal(count(text, "-- node 2:"), 1);
    assert_int_equal(count(text, "-- node 3:"), 1);
    assert_int_equal(count(text, "12.50 GB/s out, 25.00 GB/s in"), 1);
    free(text);
    mp_topology_free(t);
}

static void test_topology_drawing__names_cannot_leave_their_text(void **state) {
    (void)state;
    static const char yaml[] = "schema: moeplan.topology\nversion: 1\nname: a </title><script>&\nlaunch: 1 us\n"
                               "levels:\n  - {name: \"<b>&\", latency: 1 us}\ngpus:\n"
                               "  - {repeat: 2, type: h100, ports: {\"<b>&\": 1 GB/s}}\n";
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_topology *t;
    CHECK_OK(mp_in_from_memory(&in, "t", yaml, sizeof yaml - 1, &err), err);
    CHECK_OK(mp_topology_parse(&t, in, &mp_limits_default, &err), err);
    char *svg = drawn(t, mp_topology_draw_svg);
    check_well_formed(svg);
    assert_null(strstr(svg, "<script>"));
    free(svg);
    mp_topology_free(t);
    mp_in_close(in);
}

static enum mp_status draw_both(void *ctx, struct mp_error *err) {
    for (uint32_t k = 0; k < 2; k++) {
        struct mp_out *o = NULL;
        enum mp_status status = mp_out_open_memory(&o, err);
        if (status == MP_OK)
            status = k == 0 ? mp_topology_draw_text(ctx, o, err) : mp_topology_draw_svg(ctx, o, err);
        if (status == MP_OK)
            status = mp_out_commit(o, err);
        else
            mp_out_cancel(o);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static void test_topology_drawing__survives_every_fault(void **state) {
    (void)state;
    struct mp_topology *t = load("shared-nic");
    sweep_faults(draw_both, t, 1);
    mp_topology_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topology_drawing__every_gpu_of_a_small_cluster_is_in_the_picture),
        cmocka_unit_test(test_topology_drawing__shared_nics_are_one_chip),
        cmocka_unit_test(test_topology_drawing__alike_parts_of_a_large_cluster_are_drawn_once),
        cmocka_unit_test(test_topology_drawing__unlike_parts_are_drawn_apart),
        cmocka_unit_test(test_topology_drawing__names_cannot_leave_their_text),
        cmocka_unit_test(test_topology_drawing__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
