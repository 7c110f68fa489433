#include "samples.h"

static enum mp_status read_text(struct mp_trace **t, const char *text, const struct mp_trace_hints *h,
                                struct mp_error *err) {
    return read_bytes(t, "csv", text, strlen(text), h, NULL, err);
}
static struct mp_trace_hints wide_hints(void) {
    struct mp_trace_hints h = full_hints();
    h.n_experts = 0;
    return h;
}

static void test_trace_csv__both_shapes_read_as_written(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = full_hints();
    h.layer_base = 10;
    CHECK_OK(read_text(&t, csv_long_sample, &h, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->n_iterations, 1);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 10);
    assert_int_equal(t->layer_ids[1], 12);
    static const uint64_t want[] = {5, 6, 0, 7, 1, 2, 3, 0};
    assert_memory_equal(t->counts, want, sizeof want);
    mp_trace_free(t);
    h = wide_hints();
    CHECK_OK(read_text(&t, csv_wide_sample, &h, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_int_equal(t->n_sources, 2);
    assert_true(t->source_known);
    assert_true(t->is_time_ordered);
    assert_int_equal(t->n_experts, 3);
    for (uint64_t i = 0; i < 12; i++)
        assert_int_equal(t->counts[i], i + 1);
    mp_trace_free(t);
}

/* Shuffled lines, shuffled columns and CR LF give the same recording. */
static void test_trace_csv__order_does_not_matter(void **state) {
    (void)state;
    struct mp_trace *a, *b;
    struct mp_error err = {0};
    struct mp_trace_hints h = wide_hints();
    CHECK_OK(read_text(&a, csv_wide_sample, &h, &err), err);
    CHECK_OK(read_text(
                 &b, "e1,iteration,e0,layer,rank,e2\r\n11,1,10,0,1,12\r\n2,0,1,0,0,3\r\n\r\n8,1,7,0,0,9\r\n5,0,4,0,1,6",
                 &h, &err),
             err);
    assert_true(mp_trace_equal(a, b));
    mp_trace_free(a);
    mp_trace_free(b);
    struct bytes lines[40];
    struct mp_rng rng = mp_rng_seed(3);
    for (size_t i = 0; i < 40; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s,%zu,%zu,%llu,%llu\n",
                 i % 3 == 0   ? "zeta"
                 : i % 3 == 1 ? "alpha"
                              : "mid",
                 i / 6, i % 2 == 0 ? (size_t)0 : (size_t)5, (unsigned long long)mp_rng_below(&rng, 50),
                 (unsigned long long)mp_rng_below(&rng, 50));
        lines[i] = text_bytes(text);
    }
    a = NULL;
    for (int round = 0; round < 50; round++) {
        uint32_t order[36];
        for (uint32_t i = 0; i < 36; i++)
            order[i] = i;
        if (round > 0)
            mp_rng_shuffle(&rng, order, 36);
        struct bytes text = text_bytes("domain,iteration,layer,0,1\n");
        for (size_t i = 0; i < 36; i++)
            append(&text, lines[order[i]].p, lines[order[i]].n);
        CHECK_OK(read_bytes(&b, "csv", text.p, text.n, &h, NULL, &err), err);
        if (a == NULL) {
            a = b;
            assert_int_equal(a->n_iterations, 18);
            assert_string_equal(a->categories[0], "alpha");
            assert_false(a->is_time_ordered);
        } else {
            assert_true(mp_trace_equal(a, b));
            mp_trace_free(b);
        }
        free(text.p);
    }
    mp_trace_free(a);
    for (size_t i = 0; i < 40; i++)
        free(lines[i].p);
}

/* Every number of a real file, added up by a plain walk over its text from column `first` on. */
static void check_real(const char *relative, uint32_t first, uint32_t n_iterations, uint32_t n_sources,
                       uint32_t n_layers, uint32_t n_experts, uint32_t n_categories) {
    const char *shared = shared_path(relative);
    if (shared == NULL)
        skip();
    char path[512];
    snprintf(path, sizeof path, "%s", shared);
    struct mp_trace_hints h = wide_hints();
    h.phase = MP_PHASE_PREFILL;
    struct mp_trace *a, *b;
    struct mp_error err = {0};
    CHECK_OK(mp_trace_load(&a, path, &h, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(a, &err), err);
    assert_string_equal(a->format, "csv");
    assert_int_equal(a->n_iterations, n_iterations);
    assert_int_equal(a->n_sources, n_sources);
    assert_int_equal(a->n_layers, n_layers);
    assert_int_equal(a->n_experts, n_experts);
    assert_int_equal(a->n_categories, n_categories);
    uint64_t sums[256] = {0}, load[256], got[256] = {0};
    FILE *f = fopen(path, "r");
    static char line[65536];
    assert_non_null(fgets(line, sizeof line, f));
    while (fgets(line, sizeof line, f) != NULL) {
        uint32_t column = 0;
        for (char *p = line; p != NULL; column++) {
            char *next = strchr(p, ',');
            if (column >= first)
                sums[column - first] += strtoull(p, NULL, 10);
            p = next != NULL ? next + 1 : NULL;
        }
    }
    fclose(f);
    for (uint32_t l = 0; l < n_layers; l++) {
        mp_trace_load_of_layer(a, l, load);
        for (uint32_t e = 0; e < n_experts; e++)
            got[e] += load[e];
    }
    assert_memory_equal(got, sums, sizeof got);
    struct bytes n = native_bytes(a);
    CHECK_OK(read_bytes(&b, "native", n.p, n.n, NULL, NULL, &err), err);
    assert_true(mp_trace_equal(a, b));
    free(n.p);
    mp_trace_free(a);
    mp_trace_free(b);
}

static void test_trace_csv__real_files_hold_what_a_plain_sum_finds(void **state) {
    (void)state;
    check_real("traces/qwen1.5-moe-6ranks/dispatch_counts.csv", 7, 2, 6, 24, 60, 0);
    check_real("traces/qwen1.5-moe-6ranks/expert_freq_qwen_policy.csv", 4, 80, 1, 12, 60, 4);
    check_real("traces/qwen1.5-moe-6ranks/expert_freq_switch128.csv", 4, 120, 1, 12, 128, 4);
    check_real("traces/olmoe/expert_counts.csv", 2, 6, 1, 3, 64, 6);
}

static void test_trace_csv__mistakes_are_placed(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t line, column;
        const char *message;
    } cases[] = {
        {"", 1, 1, "no header"},
        {"\n\n", 1, 1, "no header"},
        {"a,b\n1,2\n", 1, 1, "no column layer"},
        {"layer,expert\n0,0\n", 1, 1, "neither expert and count nor e0"},
        {"layer,expert,count,e0\n0,0,0,0\n", 1, 1, "both expert and count"},
        {"layer,e0,e2\n0,1,1\n", 1, 10, "\"e2\" cannot be one of 2"},
        {"layer,e0,e1,0\n0,1,1,1\n", 1, 13, "there twice"},
        {"layer,e0,e1\n", 1, 1, "no line follows"},
        {"layer,e0,e1\n0,1\n", 2, 1, "2 fields but the header has 3"},
        {"layer,e0,e1\n0,1,1,1\n", 2, 1, "4 fields but the header has 3"},
        {"layer,e0,e1\n0,1,-1\n", 2, 5, "e1: \"-1\""},
        {"layer,e0,e1\n0,1, 1\n", 2, 5, "e1: \" 1\""},
        {"layer,e0,e1\n0,1,1.5\n", 2, 5, "e1: \"1.5\""},
        {"layer,e0,e1\n0,1,18446744073709551616\n", 2, 5, "e1"},
        {"layer,e0,e1\n1024,1,1\n", 2, 1, "layer: \"1024\""},
        {"layer,e0,e1\n0,1,1\n0,2,2\n", 3, 1, "as line 2"},
        {"rank,layer,e0,e1\n0,0,1,1\n2,0,1,1\n", 2, 1, "no line for rank 1, layer 0"},
        {"iteration,layer,e0,e1\n0,0,1,1\n0,7,1,1\n3,7,1,1\n", 4, 1, "no line for rank 0, layer 0 in iteration 3"},
        {"rank,layer,e0,e1\n4096,0,1,1\n", 2, 1, "rank: \"4096\""},
        {"domain,layer,e0\n\"a\",0,1\n", 2, 1, "without quotes"},
        {"\xef\xbb\xbflayer,e0\n0,1\n", 1, 1, "byte-order mark"},
    };
    struct mp_trace_hints h = wide_hints();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        enum mp_status status = read_text(&t, cases[i].text, &h, &err);
        if (status != MP_EINPUT || err.line != cases[i].line || err.column != cases[i].column ||
            strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: status %d, %llu:%llu %s", i, (int)status, (unsigned long long)err.line,
                     (unsigned long long)err.column, err.message);
    }
    /* The long shape does not say how many experts there are. */
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_text(&t, csv_long_sample, &h, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--experts"));
    mp_error_clear(&err);
    h.n_experts = 3;
    assert_int_equal(read_text(&t, csv_long_sample, &h, &err), MP_EINPUT);
    assert_int_equal(err.line, 4);
    assert_int_equal(err.column, 3);
}

static void test_trace_csv__limits_and_long_lines(void **state) {
    (void)state;
    struct mp_trace_hints h = wide_hints();
    struct mp_trace *t;
    struct mp_error err = {0};
    struct bytes b = text_bytes("layer");
    for (uint32_t e = 0; e < MP_MAX_EXPERTS; e++) {
        char name[16];
        snprintf(name, sizeof name, ",e%u", e);
        append_text(&b, name);
    }
    append_text(&b, "\n3");
    for (uint32_t e = 0; e < MP_MAX_EXPERTS; e++)
        append_text(&b, ",1");
    append_text(&b, "\n");
    CHECK_OK(read_bytes(&t, "csv", b.p, b.n, &h, NULL, &err), err);
    assert_int_equal(t->n_experts, MP_MAX_EXPERTS);
    mp_trace_free(t);
    b.n = 0;
    append_repeated(&b, "layer,", 5000);
    assert_int_equal(read_bytes(&t, "csv", b.p, b.n, &h, NULL, &err), MP_ELIMIT);
    b.n = 0;
    append_repeated(&b, "x", 5000000);
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "csv", b.p, b.n, &h, NULL, &err), MP_ELIMIT);
    free(b.p);
    /* One iteration of this would need 4096 * 1024 * 4096 * 8 bytes. */
    mp_error_clear(&err);
    h.n_experts = MP_MAX_EXPERTS;
    assert_int_equal(read_text(&t,
                               "rank,layer,expert,count\n4095,0,0,1\n0,1,0,1\n0,2,0,1\n0,3,0,1\n0,4,0,1\n0,5,0,1\n0,6,"
                               "0,1\n0,7,0,1\n0,8,0,1\n0,9,0,1\n0,10,0,1\n"
                               "0,11,0,1\n0,12,0,1\n0,13,0,1\n0,14,0,1\n0,15,0,1\n0,16,0,1\n",
                               &h, &err),
                     MP_ELIMIT);
}

static void test_trace_csv__damage_is_found_or_harmless(void **state) {
    (void)state;
    struct mp_trace_hints h = full_hints(), w = wide_hints();
    struct bytes a = text_bytes(csv_long_sample), b = text_bytes(csv_wide_sample);
    cut_everywhere("csv", a, &h, true);
    flip_everywhere("csv", a, &h, false);
    cut_everywhere("csv", b, &w, true);
    flip_everywhere("csv", b, &w, false);
    free(a.p);
    free(b.p);
}

static struct mp_trace_hints swept_hints;
static enum mp_status load_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, &swept_hints, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_csv__every_fault_is_reported(void **state) {
    (void)state;
    char path[256];
    static const char text[] = "domain,iteration,layer,0,1\nb,0,0,1,2\na,0,0,3,4\n";
    swept_hints = wide_hints();
    snprintf(path, sizeof path, "%s", save_bytes("swept.csv", text, strlen(text)));
    sweep_faults(load_once, path, 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_csv__both_shapes_read_as_written),
    cmocka_unit_test(test_trace_csv__order_does_not_matter),
    cmocka_unit_test(test_trace_csv__real_files_hold_what_a_plain_sum_finds),
    cmocka_unit_test(test_trace_csv__mistakes_are_placed),
    cmocka_unit_test(test_trace_csv__limits_and_long_lines),
    cmocka_unit_test(test_trace_csv__damage_is_found_or_harmless),
    cmocka_unit_test(test_trace_csv__every_fault_is_reported),
};
RUN(tests)
