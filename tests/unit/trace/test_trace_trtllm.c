#include "support.h"
#include <moeplan/trace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pt_writer.h"
#include "safetensors.h"

static void save(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}
/* A .safetensors file: header text, then data. */
static struct bytes file_of(const char *header, const void *data, size_t n) {
    struct bytes b = {0};
    put_le(&b, strlen(header), 8);
    put_text(&b, header);
    put(&b, data, n);
    return b;
}
/* A fresh folder with a meta file. */
static const char *folder(const char *name, const char *meta) {
    static char path[512];
    char file[600];
    snprintf(path, sizeof path, "%s", temp_path(name));
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(file, sizeof file, "%s/meta_info.json", path);
    save(file, meta, strlen(meta));
    return path;
}
static void save_in(const char *dir, const char *name, const struct bytes *b) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    save(path, b->at, b->n);
}

static void test_trace_trtllm__sample(void **state) {
    (void)state;
    const char *shared = shared_path("formats/trtllm_expert_statistic");
    if (shared == NULL)
        skip();
    char dir[512], name[600];
    uint64_t want[2][2][12] = {{{0}}};
    snprintf(dir, sizeof dir, "%s", shared);
    for (int rank = 0; rank < 2; rank++) { /* four I64[12] after a header of 0x118 bytes */
        uint8_t buf[1024];
        snprintf(name, sizeof name, "%s/rank%d.safetensors", dir, rank);
        FILE *f = fopen(name, "rb");
        assert_non_null(f);
        assert_int_equal(fread(buf, 1, sizeof buf, f), 672);
        fclose(f);
        for (size_t i = 0; i < 48; i++) {
            uint64_t v;
            memcpy(&v, buf + 288 + i * 8, 8);
            want[i / 24][i / 12 % 2][i % 12] += v;
        }
    }
    struct mp_error err = {0};
    struct mp_trace *t, *same;
    CHECK_OK(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_string_equal(t->format, "trtllm");
    assert_int_equal(t->n_iterations, 2);
    assert_int_equal(t->top_k, 2);
    assert_int_equal(t->layer_ids[0], 3);
    assert_int_equal(t->layer_ids[1], 4);
    assert_memory_equal(t->counts, want, sizeof want);
    snprintf(name, sizeof name, "%s/meta_info.json", dir);
    CHECK_OK(mp_trace_load(&same, name, NULL, &mp_limits_default, &err), err);
    assert_true(mp_trace_equal(t, same));
    assert_string_equal(t->sha256, same->sha256);
    mp_trace_free(t);
    mp_trace_free(same);
}

#define ENTRY(name, dtype, shape, from, to)                                                                            \
    "\"" name "\": {\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": [" #from ", " #to "]}"

static void test_trace_trtllm__raw_tokens(void **state) {
    (void)state;
    /* Rank 0: 2 tokens in iteration 5, 1 in 6; rank 1: 1 and 0. Two layers, top-2. */
    static const int32_t d0[] = {0, 1, 2, 3, /* 5_7 */ 3, 2, 1, 0, /* 5_9 */ 0, 2, /* 6_7 */ 1, -1 /* 6_9 */},
                         d1[] = {2, 0, 0, 3};
    struct bytes r0 = file_of(
                     "{" ENTRY("5_7", "I32", "[2, 2]", 0, 16) ", " ENTRY("5_9", "I32", "[2, 2]", 16, 32) ", " ENTRY(
                         "6_9", "I32", "[1, 2]", 40, 48) ", " ENTRY("6_7", "I32", "[1, 2]", 32, 40) "}",
                     d0, sizeof d0),
                 r1 = file_of("{\"__metadata__\": {\"a\": \"b\\\"c\"}, " ENTRY("5_7", "I32", "[1, 2]", 0, 8) ", " ENTRY(
                                  "5_9", "I32", "[1, 2]", 8, 16) ", " ENTRY("6_7", "I32", "[0, 2]", 16,
                                                                            16) ", " ENTRY("6_9", "I32", "[0, 2]", 16,
                                                                                           16) "}   ",
                              d1, sizeof d1);
    const char *dir = folder("raw", "{\"num_experts\": 4, \"num_experts_per_token\": 2}");
    save_in(dir, "rank0_raw.safetensors", &r0);
    save_in(dir, "rank1_raw.safetensors", &r1);
    struct mp_error err = {0};
    struct mp_trace *t;
    struct mp_trace_hints h = mp_trace_hints_none;
    uint16_t row[MP_MAX_TOP_K];
    assert_int_equal(mp_trace_load(&t, dir, &h, &mp_limits_default, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--phase"));
    mp_error_clear(&err);
    h.phase = MP_PHASE_PREFILL;
    CHECK_OK(mp_trace_load(&t, dir, &h, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->n_rows, 4);
    assert_int_equal(t->n_requests, 3);
    assert_int_equal(t->requests[0].n_rows, 2);
    assert_int_equal(t->requests[0].source, 0);
    assert_int_equal(t->requests[1].source, 1);
    assert_int_equal(t->layer_ids[1], 9);
    assert_int_equal(mp_trace_row(t, 1, 1, row), 2);
    assert_int_equal(row[0], 1);
    assert_int_equal(mp_trace_row(t, 0, 2, row), 2);
    assert_int_equal(row[0], 2);
    assert_int_equal(mp_trace_row(t, 1, 3, row), 1);
    assert_int_equal(row[0], 1);
    mp_trace_free(t);
    h.phase = MP_PHASE_DECODE;
    CHECK_OK(mp_trace_load(&t, dir, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_requests, 4);
    mp_trace_free(t);
    free(r0.at);
    free(r1.at);
}

/* One rank with this header over 16 bytes of data. */
static void test_trace_trtllm__refuses_bad_safetensors(void **state) {
    (void)state;
    static const int32_t data[] = {1, 2, 3, 4};
    static const struct {
        const char *header, *want; /* want NULL = fine */
    } cases[] = {
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("1_1", "I32", "[2]", 8, 16) "}", NULL},
        {"{" ENTRY("1_0", "I64", "[2]", 0, 16) "}", NULL},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("1_1", "I32", "[2]", 4, 12) "}", "overlap"},
        {"{" ENTRY("1_0", "I32", "[2]", 12, 20) "}", "past the end of the file"},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 12) "}", "do not span"},
        {"{" ENTRY("1_0", "I32", "[2]", 8, 0) "}", "do not span"},
        {"{" ENTRY("1_0", "I64", "[2305843009213693952]", 0, 0) "}", "do not span"},
        {"{" ENTRY("1_0", "I64", "[4294967296, 4294967296]", 0, 0) "}", "do not span"},
        {"{" ENTRY("1_0", "F32", "[2]", 0, 8) "}", "dtype is not I32 or I64"},
        {"{" ENTRY("1_0", "I32", "[1, 1, 2]", 0, 8) "}", "shape is not one or two"},
        {"{" ENTRY("1_0", "I32", "[]", 0, 8) "}", "shape is not one or two"},
        {"{" ENTRY("1_0", "I32", "[-2]", 0, 8) "}", "shape is not one or two"},
        {"{" ENTRY("1-0", "I32", "[2]", 0, 8) "}", "is not <iteration>_<layer>"},
        {"{" ENTRY("1_5000", "I32", "[2]", 0, 8) "}", "is not <iteration>_<layer>"},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("1_0", "I32", "[2]", 8, 16) "}", "is there twice"},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("3_0", "I32", "[2]", 8, 16) "}", "tensor 2_0 is missing"},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("2_1", "I32", "[2]", 8, 16) "}", "tensor 2_0 is missing"},
        {"{" ENTRY("1_0", "I32", "[3]", 0, 12) "}", "has 3 numbers, meta_info.json says 2 experts"},
        {"{\"1_0\": {\"dtype\": \"I32\", \"shape\": [2]}}", "lacks dtype, shape or data_offsets"},
        {"{\"1_0\": {\"dtype\": \"I32\", \"dtype\": \"I32\"}}", "one twice"},
        {"{\"1_0\": {\"x\": 1}}", "a key other than"},
        {"{\"1_0\": 3}", "is not an object"},
        {"{}", "holds no tensors"},
        {"[]", "not a JSON object"},
        {"{" ENTRY("1_0", "I32", "[2]", 0, 8), "not valid JSON"},
        {"{} x", "text follows"},
        {"{\"__metadata__\": {\"a\": 1}}", "__metadata__ is not"},
    };
    char dir[512];
    snprintf(dir, sizeof dir, "%s", folder("bad", "{\"num_experts\": 2, \"num_experts_per_token\": 1}"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes b = file_of(cases[i].header, data, sizeof data);
        struct mp_error err = {0};
        struct mp_trace *t;
        save_in(dir, "rank0.safetensors", &b);
        enum mp_status status = mp_trace_load(&t, dir, NULL, &mp_limits_default, &err);
        if (cases[i].want == NULL ? status != MP_OK : status != MP_EINPUT || strstr(err.message, cases[i].want) == NULL)
            fail_msg("case %zu: %d %s", i, (int)status, err.message);
        mp_trace_free(t);
        free(b.at);
    }
    /* Header lengths that lie. */
    static const uint64_t lengths[] = {17, 1000, UINT64_C(1) << 40, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        struct bytes b = {0};
        struct mp_error err = {0};
        struct mp_trace *t;
        put_le(&b, lengths[i], 8);
        put_text(&b, "{}              ");
        save_in(dir, "rank0.safetensors", &b);
        enum mp_status status = mp_trace_load(&t, dir, NULL, &mp_limits_default, &err);
        assert_int_equal(status, i < 2 ? MP_EINPUT : MP_ELIMIT);
        free(b.at);
    }
}

static void test_trace_trtllm__refuses_incomplete_folders(void **state) {
    (void)state;
    static const int32_t data[] = {1, 2, 3, -4};
    struct bytes one = file_of("{" ENTRY("1_0", "I32", "[2]", 0, 8) "}", data, sizeof data),
                 two = file_of("{" ENTRY("1_0", "I32", "[2]", 0, 8) ", " ENTRY("2_0", "I32", "[2]", 8, 16) "}", data,
                               sizeof data);
    char dir[512];
    struct mp_error err = {0};
    struct mp_trace *t;
    snprintf(dir, sizeof dir, "%s", folder("incomplete", "{\"num_experts\": 2, \"num_experts_per_token\": 1}"));
    assert_int_equal(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "no rank<R>.safetensors"));
    save_in(dir, "rank0.safetensors", &one);
    save_in(dir, "rank2.safetensors", &one);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "the files of 2 ranks, but rank 2 is the highest"));
    save_in(dir, "rank1.safetensors", &two);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "holds tensor 2_0, which rank 0 does not"));
    save_in(dir, "rank0.safetensors", &two);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "tensor 2_0 is missing"));
    save_in(dir, "rank2.safetensors", &two);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, dir, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "\"-4\" is not a count"));
    free(one.at);
    free(two.at);
}

static void test_trace_trtllm__survives_damage(void **state) {
    (void)state;
    static const int32_t data[] = {1, 2, 3, 4};
    struct bytes b = file_of("{\"__metadata__\": {\"a\": \"b\"}, " ENTRY("1_0", "I32", "[2]", 0,
                                                                         8) ", " ENTRY("1_1", "I32", "[2]", 8, 16) "}",
                             data, sizeof data);
    uint64_t live = mp_alloc_live();
    for (size_t k = 0; k < b.n * 9; k++) {
        struct mp_error err = {0};
        struct safetensors s;
        struct mp_in *in;
        if (k >= b.n)
            b.at[(k - b.n) / 8] ^= (uint8_t)(1 << (k - b.n) % 8);
        CHECK_OK(mp_in_from_memory(&in, "damaged", b.at, k < b.n ? k : b.n, &err), err);
        enum mp_status status = safetensors_read(&s, in, &mp_limits_default, &err);
        for (uint32_t i = 0; status == MP_OK && i < s.n; i++)
            assert_true(s.at[i].offset + s.at[i].size[0] * s.at[i].size[1] * s.at[i].item <= in->size);
        assert_true(k >= b.n || status == MP_EINPUT);
        safetensors_clear(&s);
        mp_in_close(in);
        if (k >= b.n)
            b.at[(k - b.n) / 8] ^= (uint8_t)(1 << (k - b.n) % 8);
    }
    assert_int_equal(mp_alloc_live(), live);
    free(b.at);
}

static enum mp_status load(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_DECODE;
    enum mp_status status = mp_trace_load(&t, ctx, &h, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_trtllm__leaks_nothing_on_faults(void **state) {
    (void)state;
    static const int32_t data[] = {1, 0, 3, 2};
    struct bytes counts = file_of("{" ENTRY("1_0", "I32", "[4]", 0, 16) "}", data, sizeof data),
                 raw = file_of("{" ENTRY("1_0", "I32", "[2, 2]", 0, 16) "}", data, sizeof data);
    char dir[512];
    snprintf(dir, sizeof dir, "%s", folder("faults", "{\"num_experts\": 4, \"num_experts_per_token\": 2}"));
    save_in(dir, "rank0.safetensors", &counts);
    sweep_faults(load, dir, 1);
    save_in(dir, "rank0_raw.safetensors", &raw);
    sweep_faults(load, dir, 1);
    free(counts.at);
    free(raw.at);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_trtllm__sample),
        cmocka_unit_test(test_trace_trtllm__raw_tokens),
        cmocka_unit_test(test_trace_trtllm__refuses_bad_safetensors),
        cmocka_unit_test(test_trace_trtllm__refuses_incomplete_folders),
        cmocka_unit_test(test_trace_trtllm__survives_damage),
        cmocka_unit_test(test_trace_trtllm__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
