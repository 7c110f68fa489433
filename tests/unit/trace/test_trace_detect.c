#include "samples.h"
#include <moeplan/stack.h>

struct sample {
    const char *format;
    struct bytes b;
};

static const char json_described_sample[] =
    "{\"moeplan_trace\": 1, \"phase\": \"decode\", \"ids\": \"logical\", \"layer_base\": 0, \"n_layers\": 1, "
    "\"n_expert_per_layer\": 4, \"layers\": [\n{\"layer\": 3, \"heat\": [4, 3, 1, 0]}]}";
static const char csv_described_sample[] =
    "# {\"moeplan_trace\": 1, \"time_ordered\": false}\nlayer,e0,e1,e2,e3\n0,1,2,3,4\n";
static const char megatron_sample[] =
    "{\"iter\": 100, \"block\": \"decoder\", \"layer\": 3, \"tpe\": [[128, 64, 1, 2], [96, 80, 3, 4]]}\n";
static const char omni_sample[] = "1\t2\t3\t4\t\n5\t6\t7\t8\t\n";
static const char omni_log_sample[] =
    "INFO [dump activation] decode step 0 in rank 0 for layer 0 get 4 experts data: 1\t2\t3\t4\n";

static size_t all_samples(struct sample *s) {
    struct mp_trace *tokens = token_trace((struct shape){2, 8, 2, 2, 3, false, false}, 1),
                    *counts = count_trace(2, 2, 1, 3, 4);
    struct sample all[] = {
        {"native", native_bytes(tokens)},
        {"native", native_bytes(counts)},
        {"npz", npz_sample(false)},
        {"npz", npz_sample(true)},
        {"npz", npy_bytes("|u1", "(5, 2, 2)", ids_sample, sizeof ids_sample)},
        {"jsonl", text_bytes(jsonl_sample)},
        {"jsonl", text_bytes(strchr(jsonl_sample, '\n') + 1)},
        {"csv", text_bytes(csv_long_sample)},
        {"csv", text_bytes(csv_wide_sample)},
        {"json", text_bytes(json_sample)},
        {"json", text_bytes(json_logical_sample)},
        {"json", text_bytes(json_described_sample)},
        {"csv", text_bytes(csv_described_sample)},
        {"megatron", text_bytes(megatron_sample)},
        {"omni_counts", text_bytes(omni_sample)},
        {"omni_counts", text_bytes(omni_log_sample)},
    };
    mp_trace_free(tokens);
    mp_trace_free(counts);
    memcpy(s, all, sizeof all);
    return sizeof all / sizeof all[0];
}

/* Content decides: under a name that says nothing, each sample is its own format's and nobody else's as much. */
static void test_trace_detect__every_sample_is_its_own_formats(void **state) {
    (void)state;
    struct sample s[32];
    size_t n = all_samples(s);
    for (size_t i = 0; i < n; i++) {
        struct mp_in *in;
        struct mp_error err = {0};
        CHECK_OK(mp_in_from_memory(&in, "file", s[i].b.p, s[i].b.n, &err), err);
        int own = format_named(s[i].format)->probe("file", in);
        assert_true(own > 0);
        for (uint32_t f = 0; mp_trace_format_at(f) != NULL; f++)
            if (strcmp(mp_trace_format_at(f)->name, s[i].format) != 0 &&
                mp_trace_format_at(f)->probe("file", in) >= own)
                fail_msg("sample %zu (%s): %s is as sure", i, s[i].format, mp_trace_format_at(f)->name);
        mp_in_close(in);
        free(s[i].b.p);
    }
}

static void test_trace_detect__load_finds_the_format(void **state) {
    (void)state;
    struct sample s[32];
    size_t n = all_samples(s);
    struct mp_trace_hints h;
    char requests[256];
    snprintf(requests, sizeof requests, "%s", save_bytes("r.csv", requests_sample, strlen(requests_sample)));
    for (size_t i = 0; i < n; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        h = full_hints();
        h.requests_path = requests;
        h.axes = "tokens,layers,k";
        h.n_experts = strcmp(s[i].format, "json") == 0 || i == 8 ? 0 : 4; /* these say it themselves */
        h.layer_base = i == 5 ? 3 : 0;
        if (strcmp(s[i].format, "native") == 0) /* says everything itself */
            h = mp_trace_hints_none;
        const char *path = save_bytes("anything", s[i].b.p, s[i].b.n);
        enum mp_status status = mp_trace_load(&t, path, &h, &mp_limits_default, &err);
        CHECK_OK(status, err);
        if (strcmp(s[i].format, "native") != 0)
            assert_string_equal(t->format, s[i].format);
        /* Naming the right format changes nothing; naming another is an error of the input, never a crash. */
        for (uint32_t f = 0; mp_trace_format_at(f) != NULL; f++) {
            struct mp_trace *u;
            mp_error_clear(&err);
            h.format = mp_trace_format_at(f)->name;
            status = mp_trace_load(&u, path, &h, &mp_limits_default, &err);
            /* A bare array is read as routed experts where that is named. */
            const bool is_routed = s[i].b.n > 6 && memcmp(s[i].b.p, "\x93NUMPY", 6) == 0;
            if (strcmp(h.format, s[i].format) == 0 || (is_routed && strcmp(h.format, "routed_npy") == 0)) {
                CHECK_OK(status, err);
                assert_true(mp_trace_equal(t, u));
            } else
                assert_true(status == MP_EINPUT || status == MP_EUSAGE || status == MP_ELIMIT);
            mp_trace_free(u);
        }
        h.format = NULL;
        mp_trace_free(t);
        free(s[i].b.p);
    }
}

/* --input-format names recordings and placements of serving stacks alike; the one name that is both is told apart by
 * being a folder (tests/cli). */
static void test_trace_detect__no_name_is_a_stack_too(void **state) {
    (void)state;
    for (uint32_t i = 0; mp_trace_format_at(i) != NULL; i++)
        for (uint32_t k = 0; mp_stack_at(k) != NULL; k++)
            if (strcmp(mp_trace_format_at(i)->name, "trtllm") != 0)
                assert_string_not_equal(mp_trace_format_at(i)->name, mp_stack_at(k)->name);
}

static void test_trace_detect__what_nobody_knows_is_said(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(mp_trace_load(&t, save_bytes("odd.bin", "what is this", 12), NULL, &mp_limits_default, &err),
                     MP_EINPUT);
    assert_non_null(strstr(err.message, "--input-format"));
    assert_non_null(strstr(err.message, "moeplan list formats"));
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, save_bytes("empty", "", 0), NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_string_equal(err.message, "the file is empty");
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, "/nowhere/at/all", NULL, &mp_limits_default, &err), MP_EIO);
    mp_error_clear(&err);
    struct mp_trace_hints h = mp_trace_hints_none;
    h.format = "tarot";
    assert_int_equal(mp_trace_load(&t, temp_path("empty"), &h, &mp_limits_default, &err), MP_EUSAGE);
    /* A name alone still leads to the reader whose message helps most. */
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, save_bytes("broken.npz", "PX\3\4", 4), NULL, &mp_limits_default, &err),
                     MP_EINPUT);
    assert_non_null(strstr(err.message, "NumPy"));
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, save_bytes("broken.mpt", "PX\3\4", 4), NULL, &mp_limits_default, &err),
                     MP_EINPUT);
    assert_non_null(strstr(err.message, "native trace"));
}

static void test_trace_detect__names_and_phases(void **state) {
    (void)state;
    assert_string_equal(mp_phase_name(MP_PHASE_PREFILL), "prefill");
    assert_string_equal(mp_phase_name(MP_PHASE_MIXED), "mixed");
    assert_string_equal(mp_phase_name((enum mp_phase)77), "unknown");
    for (uint32_t f = 0; mp_trace_format_at(f) != NULL; f++) {
        const struct mp_trace_format *a = mp_trace_format_at(f);
        assert_true(a->summary[0] != '\0' && a->reference[0] != '\0' && a->probe != NULL && a->read != NULL);
        for (uint32_t g = 0; g < f; g++)
            assert_string_not_equal(a->name, mp_trace_format_at(g)->name);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_detect__every_sample_is_its_own_formats),
    cmocka_unit_test(test_trace_detect__load_finds_the_format),
    cmocka_unit_test(test_trace_detect__no_name_is_a_stack_too),
    cmocka_unit_test(test_trace_detect__what_nobody_knows_is_said),
    cmocka_unit_test(test_trace_detect__names_and_phases),
};
RUN(tests)
