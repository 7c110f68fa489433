#include "samples.h"

static enum mp_status read_text(struct mp_trace **t, const char *text, const struct mp_trace_hints *h,
                                struct mp_error *err) {
    return read_bytes(t, "json", text, strlen(text), h, NULL, err);
}
static struct mp_trace_hints json_hints(void) {
    struct mp_trace_hints h = full_hints();
    h.n_experts = 0;
    h.phase = MP_PHASE_UNKNOWN;
    return h;
}

static void test_trace_json__samples_read_as_written(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = json_hints();
    CHECK_OK(read_text(&t, json_sample, &h, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->phase, MP_PHASE_DECODE);
    assert_string_equal(t->model, "toy");
    assert_int_equal(t->top_k, 2);
    static const uint64_t want[] = {4, 3, 1, 0, 4, 4};
    assert_memory_equal(t->counts, want, sizeof want);
    assert_int_equal(t->n_pairs, 2);
    assert_int_equal(t->pairs[0].first, 0);
    assert_int_equal(t->pairs[0].second, 1);
    assert_int_equal(t->pairs[0].count, 3);
    mp_trace_free(t);
    h.phase = MP_PHASE_PREFILL;
    assert_int_equal(read_text(&t, json_sample, &h, &err), MP_EUSAGE);
    mp_error_clear(&err);
    CHECK_OK(read_text(&t, json_logical_sample, &h, &err), err);
    assert_int_equal(t->n_iterations, 2); /* the empty buffer row is dropped */
    assert_false(t->is_time_ordered);
    static const uint64_t want_logical[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1};
    assert_memory_equal(t->counts, want_logical, sizeof want_logical);
    mp_trace_free(t);
}

static void test_trace_json__real_files(void **state) {
    (void)state;
    const char *shared = shared_path("traces/qwen3-30b-a3b/coactivation.json");
    if (shared == NULL)
        skip();
    struct mp_trace_hints h = json_hints();
    struct mp_trace *a, *b;
    struct mp_error err = {0};
    CHECK_OK(mp_trace_load(&a, shared, &h, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(a, &err), err);
    assert_string_equal(a->model, "qwen3-30b-a3b");
    assert_int_equal(a->n_layers, 48);
    assert_int_equal(a->n_experts, 128);
    assert_int_equal(a->n_pairs, 83065);
    for (uint32_t l = 0; l < 48; l++) {
        uint64_t load[128], sum = 0;
        mp_trace_load_of_layer(a, l, load);
        for (uint32_t e = 0; e < 128; e++)
            sum += load[e];
        assert_int_equal(sum, 75773 * 8); /* every token counts in eight experts */
    }
    struct bytes n = native_bytes(a);
    CHECK_OK(read_bytes(&b, "native", n.p, n.n, NULL, NULL, &err), err);
    assert_true(mp_trace_equal(a, b));
    free(n.p);
    mp_trace_free(a);
    mp_trace_free(b);
    h.phase = MP_PHASE_DECODE;
    shared = shared_path("formats/load_sglang_logical_count.json");
    CHECK_OK(mp_trace_load(&a, shared, &h, &mp_limits_default, &err), err);
    assert_int_equal(a->n_iterations, 1);
    assert_int_equal(a->counts[0], 90);
    assert_int_equal(a->counts[23], 27);
    mp_trace_free(a);
}

static void test_trace_json__mistakes_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{", "JSON"},
        {"[]", "neither \"layers\""},
        {"{\"layers\": [], \"n_expert_per_layer\": 3}", "n_layers"},
        {"{\"layers\": [], \"n_layers\": 0, \"n_expert_per_layer\": 3}", "n_layers: \"0\""},
        {"{\"layers\": [], \"n_layers\": 1, \"n_expert_per_layer\": 3}", "layers has 0 entries"},
        {"{\"layers\": [1], \"n_layers\": 1, \"n_expert_per_layer\": 3}", "layers[0] is not an object"},
        {"{\"layers\": [{\"heat\": [1, 2]}], \"n_layers\": 1, \"n_expert_per_layer\": 3}", "heat has 2 entries, not 3"},
        {"{\"layers\": [{\"heat\": [1, -2, 3]}], \"n_layers\": 1, \"n_expert_per_layer\": 3}", "layers[0].heat[1]"},
        {"{\"layers\": [{\"layer\": 4, \"heat\": [1, 2, 3]}], \"n_layers\": 1, \"n_expert_per_layer\": 3}",
         "says layer 4"},
        {"{\"layers\": [{\"heat\": [1, 2, 3], \"pairs\": [[0, 3, 1]]}], \"n_layers\": 1, \"n_expert_per_layer\": 3}",
         "layers[0].pairs[0][1]"},
        {"{\"layers\": [{\"heat\": [1, 2, 3], \"pairs\": [[0, 0, 1]]}], \"n_layers\": 1, \"n_expert_per_layer\": 3}",
         "not two ascending experts"},
        {"{\"layers\": [{\"heat\": [1, 2, 3], \"pairs\": [[0, 1, 1], [1, 0, 1]]}], \"n_layers\": 1, "
         "\"n_expert_per_layer\": 3}",
         "given twice"},
        {"{\"layers\": [{\"heat\": [1, 2, 3], \"pairs\": 1}], \"n_layers\": 1, \"n_expert_per_layer\": 3}",
         "pairs is not a list"},
        {"{\"layers\": [{\"heat\": [1, 2, 3]}], \"n_layers\": 1, \"n_expert_per_layer\": 3, \"k\": 4}", "k: \"4\""},
        {"{\"logical_count\": 3}", "logical_count is not"},
        {"{\"logical_count\": [[1, 2], [3]]}", "has 1 experts, the first has 2"},
        {"{\"logical_count\": [[[1, 2], [3, 4]], [[1, 2]]]}", "has 1 layers, the first has 2"},
        {"{\"logical_count\": [[[0, 0]], [[0, 0]]]}", "no counts"},
    };
    struct mp_trace_hints h = json_hints();
    h.phase = MP_PHASE_DECODE;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        enum mp_status status = read_text(&t, cases[i].text, &h, &err);
        /* All but broken JSON have a place in the text that starts with the wrong thing. */
        if (status != MP_EINPUT || err.line == 0 || err.column > strlen(cases[i].text) + 1 ||
            strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: status %d, %s", i, (int)status, err.message);
    }
}

static void test_trace_json__damage_is_found_or_harmless(void **state) {
    (void)state;
    struct mp_trace_hints h = json_hints();
    struct bytes b = text_bytes(json_sample);
    cut_everywhere("json", b, &h, false);
    flip_everywhere("json", b, &h, false);
    free(b.p);
    h.phase = MP_PHASE_DECODE;
    b = text_bytes(json_logical_sample);
    cut_everywhere("json", b, &h, false);
    flip_everywhere("json", b, &h, false);
    free(b.p);
}

static struct mp_trace_hints swept_hints;
static enum mp_status load_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, &swept_hints, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_json__every_fault_is_reported(void **state) {
    (void)state;
    char path[256];
    swept_hints = json_hints();
    snprintf(path, sizeof path, "%s", save_bytes("swept.json", json_sample, strlen(json_sample)));
    sweep_faults(load_once, path, 1);
    swept_hints.phase = MP_PHASE_DECODE;
    snprintf(path, sizeof path, "%s", save_bytes("swept2.json", json_logical_sample, strlen(json_logical_sample)));
    sweep_faults(load_once, path, 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_json__samples_read_as_written),
    cmocka_unit_test(test_trace_json__real_files),
    cmocka_unit_test(test_trace_json__mistakes_are_named),
    cmocka_unit_test(test_trace_json__damage_is_found_or_harmless),
    cmocka_unit_test(test_trace_json__every_fault_is_reported),
};
RUN(tests)
