#include "support.h"
#include <moeplan/trace.h>

static const struct mp_trace_hints base3 = {.layer_base = 3, .ids_are_physical = -1, .is_ranked = -1};

static enum mp_status read_text(struct mp_trace **t, const char *text, const struct mp_trace_hints *hints,
                                struct mp_error *err) {
    char path[512];
    memset(err, 0, sizeof *err);
    snprintf(path, sizeof path, "%s", temp_path("load.jsonl"));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return mp_trace_load(t, path, hints, &mp_limits_default, err);
}

#define META                                                                                                           \
    "{\"record_type\": \"eplb_load_meta\", \"version\": 1, \"model\": \"m\", \"num_ranks\": 2, \"num_groups\": 1, "    \
    "\"num_nodes\": 1, "                                                                                               \
    "\"num_layers\": 2, \"num_redundant_experts\": 1}\n"
#define STATS(step, load, map)                                                                                         \
    "{\"record_type\": \"eplb_load_stats\", \"version\": 1, \"step\": " step                                           \
    ", \"num_ranks\": 2, \"expert_load\": " load ", \"p2l_map\": " map "}\n"
#define MAP "[[0, 1, 2, 0], [2, 1, 1, 0]]"

static void test_trace_vllm_jsonl__sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/load_vllm_pr41141.jsonl");
    if (path == NULL)
        skip();
    static const uint64_t want[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                         {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
    struct mp_error err = {0};
    struct mp_trace *t;
    CHECK_OK(mp_trace_load(&t, path, &base3, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_string_equal(t->format, "vllm_jsonl");
    assert_string_equal(t->model, "demo");
    assert_int_equal(t->n_iterations, 1);
    assert_int_equal(t->layer_ids[0], 3);
    assert_int_equal(t->layer_ids[1], 4);
    assert_memory_equal(t->counts, want, sizeof want);
    mp_trace_free(t);
    assert_int_equal(mp_trace_load(&t, path, NULL, &mp_limits_default, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--layer-base"));
}

static void test_trace_vllm_jsonl__both_revisions_fold_each_lines_map(void **state) {
    (void)state;
    static const char lines[] =
        STATS("5", "[[1, 2, 3, 4], [5, 6, 7, 8]]", MAP) "{\"record_type\": \"session_metadata\", \"x\": [1]}\n\n" STATS(
            "7", "[[1, 2, 3, 4], [5, 6, 7, 8]]", "[[0, 0, 1, 2], [0, 1, 2, 2]]");
    static const uint64_t want[2][2][3] = {{{5, 2, 3}, {8, 13, 5}}, {{3, 3, 4}, {5, 6, 15}}};
    char with_meta[2048];
    snprintf(with_meta, sizeof with_meta, "%s%s", META, lines);
    const char *texts[] = {lines, with_meta};
    for (int i = 0; i < 2; i++) {
        struct mp_error err;
        struct mp_trace *t;
        CHECK_OK(read_text(&t, texts[i], &base3, &err), err);
        assert_int_equal(t->n_iterations, 2);
        assert_int_equal(t->n_experts, 3);
        assert_true(t->is_time_ordered);
        assert_memory_equal(t->counts, want, sizeof want);
        mp_trace_free(t);
    }
}

static void test_trace_vllm_jsonl__snapshots(void **state) {
    (void)state;
    static const char text[] =
        "{\"snapshots\": [{\"step\": 1, \"window_expert_load\": [[9, 9]], \"latest_expert_load\": [[1, 2]],\n"
        " \"physical_to_logical_map\": [[1, 0]]}], \"world_size\": 2}";
    struct mp_error err;
    struct mp_trace *t;
    CHECK_OK(read_text(&t, text, &base3, &err), err);
    assert_int_equal(t->counts[0], 2);
    assert_int_equal(t->counts[1], 1);
    mp_trace_free(t);
}

static void test_trace_vllm_jsonl__refusals_name_the_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
        uint64_t line, column;
    } cases[] = {
        {STATS("1", "[[1, 2, 3, 4], [5, 6, -7, 8]]", MAP), "expert_load[1][2]: \"-7\"", 1, 114},
        {STATS("1", "[[1, 2, 3, 4], [5, 6, 7.5, 8]]", MAP), "expert_load[1][2]: is not a whole number", 1, 114},
        {STATS("1", "[[1, 2, 3, 4], [5, 6, 7]]", MAP), "expert_load[1]: has 3 slots, not 4", 1, 0},
        {STATS("1", "[[1, 2, 3, 4]]", MAP), "p2l_map: has 2 layers, not 1", 1, 0},
        {STATS("1", "[]", MAP), "expert_load: is not [1..1024 layers]", 1, 0},
        {STATS("1", "[[1, 2]]", "[[0, 9999]]"), "p2l_map[0][1]: \"9999\"", 1, 0},
        {STATS("1", "[[1, 2]]", "[[0, 1]]") STATS("1", "[[1, 2]]", "[[0, 1]]"),
         "step: \"1\" does not come after step 1", 2, 58},
        {STATS("1", "[[1, 2]]", "[[0, 1]]") STATS("2", "[[1, 2]]", "[[0, 2]]"), "p2l_map[0][1]: \"2\"", 2, 0},
        {STATS("1", "[[1, 2]]", "[[0, 1]]") META, "stands after the first eplb_load_stats", 2, 17},
        {META META, "stands after another one", 2, 17},
        {META STATS("1", "[[1, 2, 3, 4]]", "[[0, 1, 2, 0]]"), "the meta line says 2", 2, 0},
        {META STATS("1", "[[1, 2, 3], [1, 2, 3]]", "[[0, 1, 2], [0, 1, 2]]"), "the meta line says 1 are redundant", 2,
         0},
        {META, "holds no expert loads", 0, 0},
        {STATS("1", "[[0, 0]]", "[[0, 1]]"), "every load is 0", 0, 0},
        {"{\"record_type\": \"eplb_load_stats\", \"version\": 2}\n", "version: is not a whole number in [1, 1]", 1, 47},
        {"{\"record_type\": \"eplb_load_stats\", \"version\": 1,\n", "not valid JSON", 1, 0},
        {"{\"snapshots\": [{\"step\": 1, \"window_expert_load\": [[1]]}]}", "has no latest_expert_load", 1, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_error err;
        struct mp_trace *t;
        enum mp_status status = read_text(&t, cases[i].text, &base3, &err);
        if (status != MP_EINPUT || strstr(err.message, cases[i].want) == NULL || err.line != cases[i].line ||
            (cases[i].column != 0 && err.column != cases[i].column))
            fail_msg("case %zu: %d %d:%d %s", i, (int)status, (int)err.line, (int)err.column, err.message);
        assert_null(t);
    }
}

static void test_trace_vllm_jsonl__survives_damage(void **state) {
    (void)state;
    char text[] = META STATS("5", "[[1, 2, 3, 4], [5, 6, 7, 8]]", MAP);
    size_t n = sizeof text - 1;
    const struct mp_trace_format *format = NULL;
    for (uint32_t i = 0; (format = mp_trace_format_at(i)) != NULL && strcmp(format->name, "vllm_jsonl") != 0;)
        i++;
    uint64_t live = mp_alloc_live();
    for (size_t k = 0; k < n * 9; k++) {
        struct mp_error err = {0};
        struct mp_trace *t = NULL;
        struct mp_in *in;
        bool keep_in = false;
        if (k >= n)
            text[(k - n) / 8] ^= (char)(1 << (k - n) % 8);
        CHECK_OK(mp_in_from_memory(&in, "damaged", text, k < n ? k : n, &err), err);
        enum mp_status status = format->read(&t, "damaged", in, &keep_in, &base3, &mp_limits_default, &err);
        assert_true((status == MP_OK) == (t != NULL));
        assert_true(status == MP_OK || status == MP_EINPUT || status == MP_ELIMIT);
        mp_trace_free(t);
        mp_in_close(in);
        if (k >= n)
            text[(k - n) / 8] ^= (char)(1 << (k - n) % 8);
    }
    assert_int_equal(mp_alloc_live(), live);
}

static enum mp_status load(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, &base3, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_vllm_jsonl__leaks_nothing_on_faults(void **state) {
    (void)state;
    struct mp_error err;
    struct mp_trace *t;
    char path[512];
    CHECK_OK(read_text(&t, META STATS("5", "[[1, 2, 3, 4], [5, 6, 7, 8]]", MAP), &base3, &err), err);
    mp_trace_free(t);
    snprintf(path, sizeof path, "%s", temp_path("load.jsonl"));
    sweep_faults(load, path, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_vllm_jsonl__sample),
        cmocka_unit_test(test_trace_vllm_jsonl__both_revisions_fold_each_lines_map),
        cmocka_unit_test(test_trace_vllm_jsonl__snapshots),
        cmocka_unit_test(test_trace_vllm_jsonl__refusals_name_the_place),
        cmocka_unit_test(test_trace_vllm_jsonl__survives_damage),
        cmocka_unit_test(test_trace_vllm_jsonl__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
