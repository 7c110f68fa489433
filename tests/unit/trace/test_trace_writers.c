/* Recordings written in another form and read again: the same sha256, or a refusal that names what would be lost. */
#include "samples.h"

/* Writes a recording in a form (packed when the suffix says so), reads it without hints, and compares. */
static void comes_back(const struct mp_trace *t, const char *form, const char *suffix) {
    struct mp_error err = {0};
    struct mp_trace_form f;
    struct mp_trace *back;
    struct mp_out *o, *table = NULL;
    char path[600], beside[600], sha256[65];
    uint32_t i = 0;
    while (mp_trace_writer(i, &f) && strcmp(f.name, form) != 0)
        i++;
    snprintf(path, sizeof path, "%s.%s%s", temp_path("form"), form, suffix);
    snprintf(beside, sizeof beside, "%s.requests.csv", temp_path("form"));
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_out_pack(o, strcmp(suffix, ".gz") == 0    ? MP_FILE_GZIP
                   : strcmp(suffix, ".zst") == 0 ? MP_FILE_ZSTD
                                                 : MP_FILE_PLAIN);
    if (f.has_table)
        CHECK_OK(mp_out_open(&table, beside, &err), err);
    CHECK_OK(mp_trace_write_as(t, form, o, table, &err), err);
    CHECK_OK(mp_out_commit(o, &err), err);
    if (table != NULL)
        CHECK_OK(mp_out_commit(table, &err), err);
    CHECK_OK(mp_trace_load(&back, path, &mp_trace_hints_none, &mp_limits_default, &err), err);
    struct bytes want = native_bytes(t), got = native_bytes(back);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.p, want.p, want.n);
    assert_true(mp_trace_equal(t, back));
    memcpy(sha256, back->sha256, sizeof sha256);
    assert_int_equal(strlen(sha256), 64);
    mp_trace_free(back);
    free(want.p);
    free(got.p);
}

static void is_refused(const struct mp_trace *t, const char *form, const char *text) {
    struct mp_error err = {0};
    struct mp_out *o, *table;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    CHECK_OK(mp_out_open_memory(&table, &err), err);
    enum mp_status status = mp_trace_write_as(t, form, o, table, &err);
    if (status != MP_EINPUT || strstr(err.message, text) == NULL)
        fail_msg("%s: %d \"%s\", not \"%s\"", form, (int)status, err.message, text);
    mp_out_cancel(o);
    mp_out_cancel(table);
}

static void test_trace_writers__tokens_come_back(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        {3, 8, 2, 5, 7, false, false},     {2, 8, 3, 4, 9, true, false},    {2, 300, 4, 3, 50, false, true},
        {1, 256, 8, 2, 20, false, false},  {1, 256, 8, 2, 20, false, true}, {4, 255, 2, 6, 3, false, true},
        {1, 4096, 64, 2, 2, false, false}, {1, 1, 1, 1, 1, true, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct mp_trace *t = token_trace(shapes[i], 7 + i);
        comes_back(t, "native", "");
        comes_back(t, "jsonl", "");
        comes_back(t, "jsonl", ".gz");
        comes_back(t, "jsonl", ".zst");
        if (shapes[i].has_weights)
            is_refused(t, "npz", "cannot carry the gate weights");
        else
            comes_back(t, "npz", "");
        is_refused(t, "csv", "carries counts");
        is_refused(t, "json", "carries counts");
        mp_trace_free(t);
    }
    struct mp_trace *t = token_trace((struct shape){2, 300, 4, 3, 50, true, true}, 1);
    is_refused(t, "jsonl", "a gate weight of an unused place");
    mp_trace_free(t);
    t = signed_trace(shapes[0], 3);
    is_refused(t, "jsonl", "similarity signatures of 35 tokens");
    is_refused(t, "npz", "similarity signatures");
    mp_trace_free(t);
}

/* Layers with gaps, names that need escapes, flags, categories that nobody has, more than one chunk. */
static void test_trace_writers__what_no_row_says_comes_back(void **state) {
    (void)state;
    static const uint32_t layers[] = {3, 4, 9};
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_MIXED,
                                 .model = "a \"model\"\t\\ \xc3\xa9",
                                 .is_synthetic = true,
                                 .n_layers = 3,
                                 .n_experts = 4,
                                 .top_k = 2,
                                 .has_unused = true,
                                 .layer_ids = layers};
    uint32_t c;
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_builder_category(b, "nobody's", &c, &err), err);
    CHECK_OK(mp_trace_builder_category(b, "back\\slash\tand tab", &c, &err), err);
    struct mp_request r = {.id = 1, .first_position = 5, .source = 4095, .category = c},
                      q = {.id = 0, .source = MP_NONE};
    CHECK_OK(mp_trace_builder_category(b, "last first", &q.category, &err), err);
    CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
    static const uint16_t rows[2][6] = {{0, 1, 2, MP_NO_EXPERT, MP_NO_EXPERT, MP_NO_EXPERT}, {1, 0, 3, 2, 1, 3}};
    for (int i = 0; i < 66000; i++) {
        if (i == 10)
            CHECK_OK(mp_trace_builder_request(b, &r, &err), err);
        CHECK_OK(mp_trace_builder_row(b, rows[i % 2], NULL, &err), err);
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    comes_back(t, "jsonl", ".zst");
    comes_back(t, "npz", "");
    mp_trace_free(t);
}

static void test_trace_writers__counts_come_back(void **state) {
    (void)state;
    struct mp_error err = {0};
    for (uint32_t n_sources = 1; n_sources <= 3; n_sources += 2) {
        struct mp_trace *t = count_trace(7, n_sources, 3, 5, 11);
        is_refused(t, "csv", "co-activation pairs");
        is_refused(t, "json", "one iteration");
        is_refused(t, "npz", "carries tokens");
        mp_trace_free(t);
    }
    static const uint32_t layers[] = {0, 7};
    for (int i = 0; i < 16; i++) {
        struct mp_trace_builder *b;
        struct mp_trace *t;
        bool has_sources = i & 1, has_categories = i & 2, has_pairs = i & 4;
        struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                     .phase = i & 1 ? MP_PHASE_TRAIN : MP_PHASE_UNKNOWN,
                                     .model = "m",
                                     .is_ranked = i & 8,
                                     .is_time_ordered = i & 8,
                                     .is_synthetic = !(i & 8),
                                     .n_layers = 2,
                                     .n_experts = 3,
                                     .top_k = i & 8 ? 2 : 0,
                                     .n_sources = has_sources ? 4 : 0,
                                     .layer_ids = layers};
        uint32_t z = MP_NONE, a = MP_NONE;
        CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
        if (has_categories) {
            CHECK_OK(mp_trace_builder_category(b, "z", &z, &err), err);
            CHECK_OK(mp_trace_builder_category(b, "a", &a, &err), err);
        }
        for (uint32_t n = 0; n < (has_pairs ? 1 : 5); n++) {
            CHECK_OK(mp_trace_builder_iteration(b, n % 3 == 0 ? z : n % 3 == 1 ? MP_NONE : a, &err), err);
            for (uint32_t s = 0; s < (has_sources ? 4 : 1); s++)
                CHECK_OK(mp_trace_builder_count(b, s, n % 2, (n + s) % 3, (UINT64_C(1) << (n * 12)) + s, &err), err);
        }
        struct mp_pair pair = {.layer = 1, .first = 0, .second = 2, .count = 77};
        if (has_pairs)
            CHECK_OK(mp_trace_builder_pair(b, &pair, &err), err);
        CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
        if (!has_pairs) {
            comes_back(t, "csv", "");
            comes_back(t, "csv", ".gz");
        } else if (!has_sources && !has_categories) {
            comes_back(t, "json", "");
            comes_back(t, "json", ".zst");
        } else
            is_refused(t, "json", "one iteration");
        mp_trace_free(t);
    }
}

static void test_trace_writers__requests_that_no_form_can_tell_apart(void **state) {
    (void)state;
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_meta meta = {
        .kind = MP_TRACE_TOKENS, .phase = MP_PHASE_DECODE, .n_layers = 1, .n_experts = 4, .top_k = 1};
    uint16_t id = 2;
    struct mp_request q = {.id = 5, .source = MP_NONE};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_builder_category(b, "one, two", &q.category, &err), err);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
        CHECK_OK(mp_trace_builder_row(b, &id, NULL, &err), err);
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    is_refused(t, "jsonl", "two requests with the id 5");
    is_refused(t, "npz", "the category \"one, two\"");
    mp_trace_free(t);
    /* More categories than a description may list. */
    meta.kind = MP_TRACE_COUNTS;
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0, c; i < 4097; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%u", i);
        CHECK_OK(mp_trace_builder_category(b, name, &c, &err), err);
        if (i % 4096 == 0)
            CHECK_OK(mp_trace_builder_iteration(b, c, &err), err);
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    is_refused(t, "csv", "cannot carry 4097 categories");
    mp_trace_free(t);
    assert_int_equal(mp_trace_write_as(NULL, "tarot", NULL, NULL, &err), MP_EUSAGE);
}

/* A small part of what tools/bench/bench_round_trips.py does. */
static void test_trace_writers__real_recordings_come_back(void **state) {
    (void)state;
    static const struct {
        const char *path, *forms[3];
    } files[] = {{"traces/gpt-oss-20b/tulu_polyglot.npz", {"npz", NULL}},
                 {"traces/olmoe/expert_counts.csv", {"csv", NULL}},
                 {"traces/qwen3-30b-a3b/coactivation.json", {"json", NULL}}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *path = shared_path(files[i].path);
        if (path == NULL)
            skip();
        struct mp_trace *t;
        struct mp_error err = {0};
        struct mp_trace_hints h = full_hints();
        h.n_experts = i == 0 ? 32 : i == 1 ? 64 : 0;
        CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
        for (size_t k = 0; files[i].forms[k] != NULL; k++)
            comes_back(t, files[i].forms[k], "");
        mp_trace_free(t);
    }
}

struct flow {
    const struct mp_trace *t;
    const char *form;
};
static enum mp_status write_flow(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_out *o = NULL, *table = NULL;
    char path[600];
    snprintf(path, sizeof path, "%s", temp_path("faults.csv"));
    enum mp_status status = mp_out_open(&o, temp_path("faults.out"), err);
    if (status == MP_OK)
        status = mp_out_open(&table, path, err);
    if (status == MP_OK) {
        mp_out_pack(o, strcmp(f->form, "jsonl") == 0 ? MP_FILE_ZSTD : MP_FILE_PLAIN);
        status = mp_trace_write_as(f->t, f->form, o, table, err);
    }
    if (status != MP_OK) {
        mp_out_cancel(o);
        mp_out_cancel(table);
        return status;
    }
    status = mp_out_commit(o, err);
    enum mp_status other = mp_out_commit(table, status == MP_OK ? err : NULL);
    return status != MP_OK ? status : other;
}
static void test_trace_writers__survive_faults(void **state) {
    (void)state;
    struct shape shape = {2, 8, 2, 3, 4, false, false};
    struct mp_trace *t = token_trace(shape, 1);
    sweep_faults(write_flow, &(struct flow){t, "jsonl"}, 1);
    sweep_faults(write_flow, &(struct flow){t, "npz"}, 1);
    mp_trace_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_writers__tokens_come_back),
        cmocka_unit_test(test_trace_writers__what_no_row_says_comes_back),
        cmocka_unit_test(test_trace_writers__counts_come_back),
        cmocka_unit_test(test_trace_writers__requests_that_no_form_can_tell_apart),
        cmocka_unit_test(test_trace_writers__real_recordings_come_back),
        cmocka_unit_test(test_trace_writers__survive_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
