#include "samples.h"

static enum mp_status read_text(struct mp_trace **t, const char *text, const struct mp_trace_hints *h,
                                struct mp_error *err) {
    return read_bytes(t, "jsonl", text, strlen(text), h, NULL, err);
}

static void test_trace_jsonl__sample_reads_as_written(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    CHECK_OK(read_text(&t, jsonl_sample, NULL, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_string_equal(t->model, "toy");
    assert_int_equal(t->phase, MP_PHASE_DECODE);
    assert_true(t->is_ranked);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 3);
    assert_int_equal(t->layer_ids[1], 4);
    assert_int_equal(t->n_experts, 4);
    assert_int_equal(t->top_k, 2);
    assert_int_equal(t->n_rows, 3);
    assert_int_equal(t->n_requests, 2);
    assert_int_equal(t->requests[0].id, 7);
    assert_int_equal(t->requests[0].first_position, 5);
    assert_int_equal(t->requests[0].n_rows, 2);
    assert_int_equal(t->requests[0].source, 1);
    assert_int_equal(t->requests[1].source, MP_NONE);
    assert_string_equal(t->categories[t->requests[0].category], "a");
    static const uint16_t want[3][2][2] = {{{1, 2}, {0, 3}}, {{2, MP_NO_EXPERT}, {3, 0}}, {{0, 1}, {2, 1}}};
    for (uint32_t row = 0; row < 3; row++)
        for (uint32_t l = 0; l < 2; l++) {
            uint16_t ids[2];
            assert_int_equal(mp_trace_row(t, l, row, ids), want[row][l][1] == MP_NO_EXPERT ? 1 : 2);
            assert_memory_equal(ids, want[row][l], sizeof ids);
        }
    uint16_t w[2];
    memcpy(w, t->weight_chunks[0], sizeof w);
    assert_int_equal(w[0], 49151);
    assert_int_equal(w[1], 16384);
    mp_trace_free(t);
}

static void test_trace_jsonl__order_of_a_requests_lines_does_not_matter(void **state) {
    (void)state;
    const char *lines[16];
    size_t n = 0, length[16];
    const char *cursor = jsonl_sample;
    while (*cursor != '\0') {
        const char *end = strchr(cursor, '\n') + 1;
        lines[n] = cursor;
        length[n++] = (size_t)(end - cursor);
        cursor = end;
    }
    struct mp_trace *a, *b;
    struct mp_error err = {0};
    CHECK_OK(read_text(&a, jsonl_sample, NULL, &err), err);
    struct mp_rng rng = mp_rng_seed(1);
    for (int i = 0; i < 200; i++) {
        uint32_t order[16];
        for (uint32_t j = 0; j < n; j++)
            order[j] = j;
        mp_rng_shuffle(&rng, order + 1, 4); /* request 7's lines, then request 9's */
        mp_rng_shuffle(&rng, order + 5, 2);
        struct bytes text = {0};
        for (size_t j = 0; j < n; j++)
            append(&text, lines[order[j]], length[order[j]]);
        CHECK_OK(read_text(&b, (char *)text.p, NULL, &err), err);
        assert_true(mp_trace_equal(a, b));
        mp_trace_free(b);
        free(text.p);
    }
    mp_trace_free(a);
}

static void test_trace_jsonl__options_fill_in_but_do_not_contradict(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    const char *bare = strchr(jsonl_sample, '\n') + 1;
    assert_int_equal(read_text(&t, bare, NULL, &err), MP_EUSAGE);
    mp_error_clear(&err);
    struct mp_trace_hints h = full_hints();
    CHECK_OK(read_text(&t, bare, &h, &err), err);
    mp_trace_free(t);
    h.phase = MP_PHASE_PREFILL;
    assert_int_equal(read_text(&t, jsonl_sample, &h, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--phase"));
}

static void test_trace_jsonl__mistakes_are_placed(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t line;
        const char *message;
    } cases[] = {
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [0, 1]\n", 1, "JSON"},
        {"[1]\n", 1, "not an object"},
        {"{\"position\": 0, \"layer\": 0, \"experts\": [0]}\n", 1, "\"request\" is missing"},
        {"{\"request\": 1, \"position\": -1, \"layer\": 0, \"experts\": [0]}\n", 1, "position: \"-1\""},
        {"{\"request\": 1, \"position\": 0, \"layer\": 2000, \"experts\": [0]}\n", 1, "layer: \"2000\""},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": 0}\n", 1, "experts is not a list"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [0, \"1\"]}\n", 1,
         "experts[1] is not an expert"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [4]}\n", 1, "4 is not an expert in [0, 4)"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1, 1]}\n", 1, "expert 1 is chosen twice"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1], \"weights\": [1.5]}\n", 1,
         "weights[0] is not a number in [0, 1]"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1], \"weights\": []}\n", 1,
         "weights has 0 entries"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1], \"expert\": 1}\n", 1,
         "key \"expert\" is not known"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1]}\n{\"request\": 1, \"position\": 0, "
         "\"layer\": 0, \"experts\": [1]}\n{\"request\": 1, "
         "\"position\": 0, \"layer\": 1, \"experts\": [1]}\n",
         2, "stands on line 1 already"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1]}\n{\"request\": 1, \"position\": 2, "
         "\"layer\": 0, \"experts\": [1]}\n",
         2, "jumps"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1]}\n{\"request\": 1, \"position\": 0, "
         "\"layer\": 1, \"experts\": [1]}\n{\"request\": 1, "
         "\"position\": 1, \"layer\": 1, \"experts\": [1]}\n",
         3, "no line for layer 0"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1]}\n{\"request\": 1, \"position\": 1, "
         "\"layer\": 0, \"experts\": [1], \"source\": 2}\n",
         2, "another source"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [1]}\n{\"moeplan_trace\": 1}\n", 2,
         "must be the first"},
        {"{\"moeplan_trace\": 2}\n", 1, "moeplan_trace: \"2\""},
        {"{\"moeplan_trace\": 1, \"phase\": \"fast\"}\n", 1, "phase is not one of"},
        {"{\"moeplan_trace\": 1, \"ids\": 0}\n", 1, "ids is neither"},
        {"{\"moeplan_trace\": 1}\n", 1, "no tokens"},
        {"{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": []}\n", 0, "no token uses any expert"},
    };
    struct mp_trace_hints h = full_hints();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        enum mp_status status = read_text(&t, cases[i].text, &h, &err);
        if (status != MP_EINPUT || err.line != cases[i].line || strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: status %d, line %llu, %s", i, (int)status, (unsigned long long)err.line, err.message);
    }
}

static void test_trace_jsonl__bombs_are_refused(void **state) {
    (void)state;
    struct mp_trace_hints h = full_hints();
    struct mp_trace *t;
    struct mp_error err = {0};
    struct bytes b = {0};
    mp_alloc_limit(mp_alloc_live() + ((uint64_t)64 << 20));
    append_repeated(&b, "[", 100000);
    assert_int_equal(read_bytes(&t, "jsonl", b.p, b.n, &h, NULL, &err), MP_ELIMIT);
    b.n = 0;
    mp_error_clear(&err);
    append_text(&b, "{\"request\": 1, \"position\": 0, \"layer\": 0, \"experts\": [");
    append_repeated(&b, "0,", 1000000);
    append_text(&b, "0]}\n");
    enum mp_status status = read_bytes(&t, "jsonl", b.p, b.n, &h, NULL, &err);
    assert_true(status == MP_ELIMIT || status == MP_EINPUT);
    b.n = 0;
    mp_error_clear(&err);
    append_repeated(&b, " ", 5000000);
    assert_int_equal(read_bytes(&t, "jsonl", b.p, b.n, &h, NULL, &err), MP_ELIMIT);
    mp_alloc_limit(0);
    free(b.p);
}

static void test_trace_jsonl__damage_is_found_or_harmless(void **state) {
    (void)state;
    struct bytes b = text_bytes(jsonl_sample);
    cut_everywhere("jsonl", b, NULL, true);
    flip_everywhere("jsonl", b, NULL, false);
    free(b.p);
}

static enum mp_status load_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, NULL, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_jsonl__every_fault_is_reported(void **state) {
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s", save_bytes("swept.jsonl", jsonl_sample, strlen(jsonl_sample)));
    sweep_faults(load_once, path, 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_jsonl__sample_reads_as_written),
    cmocka_unit_test(test_trace_jsonl__order_of_a_requests_lines_does_not_matter),
    cmocka_unit_test(test_trace_jsonl__options_fill_in_but_do_not_contradict),
    cmocka_unit_test(test_trace_jsonl__mistakes_are_placed),
    cmocka_unit_test(test_trace_jsonl__bombs_are_refused),
    cmocka_unit_test(test_trace_jsonl__damage_is_found_or_harmless),
    cmocka_unit_test(test_trace_jsonl__every_fault_is_reported),
};
RUN(tests)
