#include "support.h"
#include <moeplan/base.h>
#include <moeplan/trace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pt_writer.h"

static void save(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}
/* Reads bytes as a recording. */
static enum mp_status read_bytes(struct mp_trace **t, const struct bytes *b, const struct mp_trace_hints *hints,
                                 struct mp_error *err) {
    char path[512];
    memset(err, 0, sizeof *err);
    snprintf(path, sizeof path, "%s", temp_path("recording.pt"));
    save(path, b->at, b->n);
    return mp_trace_load(t, path, hints, &mp_limits_default, err);
}
static uint64_t count_at(const struct mp_trace *t, uint32_t i, uint32_t l, uint32_t e) {
    return t->counts[((size_t)i * t->n_layers + l) * t->n_experts + e];
}
static void check_refused(const struct bytes *b, const struct mp_trace_hints *hints, enum mp_status want,
                          const char *words) {
    struct mp_error err;
    struct mp_trace *t;
    enum mp_status status = read_bytes(&t, b, hints, &err);
    if (status != want || strstr(err.message, words) == NULL)
        fail_msg("%d: %s (wanted %d: %s)", (int)status, err.message, (int)want, words);
    assert_null(t);
}

/* The samples' stored members, found by the ZIP's own structure and nothing of the reader's: raw numbers of member
 * "data/<key>". */
static const uint8_t *raw_member(const uint8_t *file, size_t n, const char *suffix) {
    size_t k = strlen(suffix);
    for (size_t at = 0; at + 30 < n; at++) {
        size_t name = file[at + 26] | file[at + 27] << 8, extra = file[at + 28] | file[at + 29] << 8;
        if (memcmp(file + at, "PK\3\4", 4) == 0 && name >= k && memcmp(file + at + 30 + name - k, suffix, k) == 0)
            return file + at + 30 + name + extra;
    }
    fail_msg("no member %s", suffix);
    return NULL;
}
static uint8_t *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    uint8_t *buf = malloc(1 << 20);
    assert_non_null(f);
    *n = fread(buf, 1, 1 << 20, f);
    fclose(f);
    return buf;
}
static int32_t i32(const uint8_t *p, size_t i) {
    int32_t v;
    memcpy(&v, p + i * 4, 4);
    return v;
}
static int64_t i64(const uint8_t *p, size_t i) {
    int64_t v;
    memcpy(&v, p + i * 8, 8);
    return v;
}

static void test_trace_sglang_pt__stat_sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/sglang_stat.pt");
    if (path == NULL)
        skip();
    struct mp_error err = {0};
    struct mp_trace *t;
    size_t n;
    uint8_t *file = slurp(path, &n);
    const uint8_t *raw = raw_member(file, n, "/data/0"); /* int32[2][2][4] */
    CHECK_OK(mp_trace_load(&t, path, NULL, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->kind, MP_TRACE_COUNTS);
    assert_false(t->is_time_ordered);
    assert_int_equal(t->n_experts, 4);
    assert_string_equal(t->format, "sglang_pt");
    uint32_t row = 0;
    for (uint32_t b = 0; b < 2; b++) {
        bool used = false;
        for (uint32_t i = 0; i < 8; i++)
            used |= i32(raw, b * 8 + i) != 0;
        if (!used)
            continue;
        for (uint32_t l = 0; l < t->n_layers; l++)
            for (uint32_t e = 0; e < 4; e++)
                assert_int_equal(count_at(t, row, l, e), i32(raw, (b * 2 + t->layer_ids[l]) * 4 + e));
        row++;
    }
    assert_int_equal(t->n_iterations, row);
    mp_trace_free(t);
    free(file);
}

static void test_trace_sglang_pt__per_pass_sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/sglang_per_pass.pt");
    if (path == NULL)
        skip();
    struct mp_error err = {0};
    struct mp_trace *t;
    size_t n;
    uint8_t *file = slurp(path, &n);
    const uint8_t *pass[2] = {raw_member(file, n, "/data/0"), raw_member(file, n, "/data/1")},
                  *map = raw_member(file, n, "/data/2");
    CHECK_OK(mp_trace_load(&t, path, NULL, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_true(t->is_time_ordered);
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t l = 0; l < t->n_layers; l++) {
            uint64_t want[16] = {0};
            for (uint32_t p = 0; p < 6; p++)
                want[i64(map, t->layer_ids[l] * 6 + p)] += (uint64_t)i32(pass[i], t->layer_ids[l] * 6 + p);
            for (uint32_t e = 0; e < t->n_experts; e++)
                assert_int_equal(count_at(t, i, l, e), want[e]);
        }
    mp_trace_free(t);
    free(file);
}

static void test_trace_sglang_pt__per_token_sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/sglang_per_token.pt");
    if (path == NULL)
        skip();
    struct mp_error err = {0};
    struct mp_trace *t;
    size_t n;
    uint8_t *file = slurp(path, &n);
    const uint8_t *ids = raw_member(file, n, "/data/0"),
                  *map = raw_member(file, n, "/data/2"); /* int32[2][3][8], int64[2][6] */
    CHECK_OK(mp_trace_load(&t, path, NULL, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->kind, MP_TRACE_TOKENS);
    assert_int_equal(t->phase, MP_PHASE_PREFILL);
    assert_int_equal(t->n_rows, 3);
    assert_int_equal(t->n_requests, 1);
    assert_int_equal(t->requests[0].source, 0);
    assert_int_equal(t->requests[0].first_position, 0);
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t j = 0; j < 3; j++) {
            uint16_t row[MP_MAX_TOP_K];
            uint32_t used = mp_trace_row(t, l, j, row), want = 0;
            bool seen[4] = {false}; /* the sample's ids are random: slots and experts repeat inside a token */
            for (uint32_t k = 0; k < 8; k++) {
                int32_t slot = i32(ids, (t->layer_ids[l] * 3 + j) * 8 + k);
                int64_t expert = slot < 0 ? 0 : i64(map, t->layer_ids[l] * 6 + (uint32_t)slot);
                if (slot >= 0 && !seen[expert])
                    assert_int_equal(row[want++], expert);
                seen[expert] |= slot >= 0;
            }
            assert_int_equal(used, want);
        }
    mp_trace_free(t);
    free(file);
}

/* One record of a made-up recording. */
struct record {
    int64_t pass, rank, mode; /* mode 0 = per_pass */
    uint32_t n_tokens;
    const int64_t *positions, *lengths;
    uint32_t n_lengths;
    const int32_t *numbers; /* [3][4] counts, or [3][n_tokens][list_width] slots */
};
static const int64_t map[3][4] = {{0, 1, 2, 0}, {2, 1, 0, 1}, {0, 1, 2, 2}};

static bool is_deflated; /* of the storages of recording() */
static uint32_t list_width = 8;
static bool is_long; /* slots of recording() are int64 */
static struct bytes recording(const struct record *r, size_t n, const int64_t (*with_map)[4]) {
    struct bytes p = {0};
    struct zip_writer z = {0};
    char name[64];
    pickle_start(&p);
    put_text(&p, "}(");
    pickle_string(&p, "records");
    put_text(&p, "](");
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%zu", i);
        put_text(&p, "}(");
        pickle_string(&p, "forward_pass_id");
        pickle_int(&p, r[i].pass);
        pickle_string(&p, "rank");
        pickle_int(&p, r[i].rank);
        if (r[i].mode == 0) {
            pickle_string(&p, "global_physical_count");
            pickle_tensor(&p, "IntStorage", name, 2, (const uint64_t[]){3, 4});
        } else {
            pickle_string(&p, "forward_mode");
            pickle_int(&p, r[i].mode);
            pickle_string(&p, "positions");
            pickle_ints(&p, r[i].positions, r[i].n_tokens);
            pickle_string(&p, "extend_seq_lens");
            if (r[i].lengths == NULL)
                put_text(&p, "N");
            else
                pickle_ints(&p, r[i].lengths, r[i].n_lengths);
            pickle_string(&p, "topk_ids_of_layer");
            pickle_tensor(&p, is_long ? "LongStorage" : "IntStorage", name, 3,
                          (const uint64_t[]){3, r[i].n_tokens, list_width});
        }
        put_text(&p, "u");
    }
    put_text(&p, "e");
    pickle_string(&p, "last_physical_to_logical_map");
    snprintf(name, sizeof name, "%zu", n);
    pickle_tensor(&p, "LongStorage", name, 2, (const uint64_t[]){3, 4});
    put_text(&p, "u.");
    zip_member(&z, "rec/data.pkl", p.at, p.n);
    zip_member(&z, "rec/byteorder", "little", 6);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "rec/data/%zu", i);
        size_t n_numbers = r[i].mode == 0 ? 12 : (size_t)r[i].n_tokens * 3 * list_width;
        struct bytes wide = {0};
        for (size_t k = 0; is_long && k < n_numbers; k++)
            put(&wide, &(int64_t){r[i].numbers[k]}, 8);
        zip_member_as(&z, name, is_long ? (const void *)wide.at : r[i].numbers, n_numbers * (is_long ? 8 : 4),
                      is_deflated);
        free(wide.at);
    }
    snprintf(name, sizeof name, "rec/data/%zu", n);
    zip_member_as(&z, name, with_map, sizeof map, is_deflated);
    zip_member(&z, "rec/version", "3\n", 2);
    zip_member(&z, "rec/.data/serialization_id", "123", 3);
    free(p.at);
    return zip_finish(&z);
}

static const int32_t counts_a[12] = {0, 0, 0, 0, 5, 6, 7, 8, 1, 2, 3, 4},
                     counts_b[12] = {0, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 100}, counts_zero[12] = {0};

static void test_trace_sglang_pt__per_pass_sums_ranks_and_drops_dense_layers(void **state) {
    (void)state;
    /* Rank 1 joined one pass late: pass 1 is left out. */
    const struct record r0[] = {{.pass = 1, .rank = 0, .numbers = counts_a},
                                {.pass = 3, .rank = 0, .numbers = counts_zero},
                                {.pass = 2, .rank = 0, .numbers = counts_a}},
                        r1[] = {{.pass = 2, .rank = 1, .numbers = counts_b},
                                {.pass = 3, .rank = 1, .numbers = counts_b}};
    struct bytes f0 = recording(r0, 3, map), f1 = recording(r1, 2, map);
    char folder[512], name[600];
    struct mp_error err = {0};
    struct mp_trace *t;
    snprintf(folder, sizeof folder, "%s", temp_path("ranks"));
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(name, sizeof name, "%s/x_0.pt", folder);
    save(name, f0.at, f0.n);
    snprintf(name, sizeof name, "%s/x_1.pt", folder);
    save(name, f1.at, f1.n);
    CHECK_OK(mp_trace_load(&t, folder, NULL, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 1);
    assert_int_equal(t->layer_ids[1], 2);
    assert_int_equal(t->n_experts, 3);
    assert_false(t->source_known);
    const uint64_t want[2][2][3] = {{{7, 6 + 8 + 1, 5 + 10}, {1, 2, 3 + 4 + 100}}, {{0, 1, 10}, {0, 0, 100}}};
    assert_memory_equal(t->counts, want, sizeof want);
    assert_int_equal(strlen(t->sha256), 64);
    mp_trace_free(t);
    /* The same pass and rank twice. */
    snprintf(name, sizeof name, "%s/x_2.pt", folder);
    save(name, f1.at, f1.n);
    assert_int_equal(mp_trace_load(&t, folder, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "forward pass 2 of rank 1 is there twice"));
    unlink(name);
    /* Another map: a rebalance happened in between. */
    int64_t other[3][4];
    memcpy(other, map, sizeof other);
    other[2][0] = 2;
    other[2][3] = 0;
    const struct record r2[] = {{.pass = 3, .rank = 2, .numbers = counts_b}};
    struct bytes f2 = recording(r2, 1, other);
    save(name, f2.at, f2.n);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_load(&t, folder, NULL, &mp_limits_default, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "differs from the first file's"));
    unlink(name);
    free(f0.at);
    free(f1.at);
    free(f2.at);
}

/* [3 layers][n][8] slots: layer 0 dense; token j uses slots a and b of layer 1, and c, d of layer 2. */
static void slots_of(int32_t *to, uint32_t n, uint32_t j, int a, int b, int c, int d) {
    for (uint32_t l = 0; l < 3; l++)
        for (uint32_t k = 0; k < 8; k++)
            to[(l * n + j) * 8 + k] = l == 0 || k > 1 ? -1 : l == 1 ? (k == 0 ? a : b) : (k == 0 ? c : d);
}
static const struct mp_trace_hints
    prefill = {.layer_base = -1, .ids_are_physical = -1, .is_ranked = -1, .phase = MP_PHASE_PREFILL},
    decode = {.layer_base = -1, .ids_are_physical = -1, .is_ranked = -1, .phase = MP_PHASE_DECODE};

static void test_trace_sglang_pt__per_token_requests(void **state) {
    (void)state;
    int32_t pre[3 * 6 * 8], d1[3 * 3 * 8], d2[3 * 2 * 8], d3[3 * 2 * 8];
    /* Prefill: requests of 3 and 2 tokens, then one row of padding. */
    for (uint32_t j = 0; j < 5; j++)
        slots_of(pre, 6, j, 0, 1, (int)j % 2, 2);
    slots_of(pre, 6, 5, -1, -1, -1, -1);
    /* Decode, batch of 3: rows 0 and 1 go on, row 2 ends; then row 0 goes on and row 1 is another request. */
    for (uint32_t j = 0; j < 3; j++)
        slots_of(d1, 3, j, 3, (int)j == 0 ? 1 : 0, 0, 1);
    slots_of(d1, 3, 0, 3, 0, 0, 1);
    slots_of(d1, 3, 1, 2, 3, -1, 0);
    for (uint32_t j = 0; j < 2; j++) {
        slots_of(d2, 2, j, 0, 1, 1, 2);
        slots_of(d3, 2, j, 1, 3, 2, 0); /* both hold expert 1 in layer 1 */
    }
    const int64_t p_pre[] = {0, 1, 2, 7, 8, 0}, lengths[] = {3, 2}, p1[] = {3, 9, 20}, p2[] = {4, 10}, p3[] = {5, 40};
    const struct record r[] = {
        {.pass = 4, .mode = 2, .n_tokens = 2, .positions = p2, .numbers = d2},
        {.pass = 1, .mode = 1, .n_tokens = 6, .positions = p_pre, .lengths = lengths, .n_lengths = 2, .numbers = pre},
        {.pass = 2, .mode = 2, .n_tokens = 3, .positions = p1, .numbers = d1},
        {.pass = 5, .mode = 2, .n_tokens = 2, .positions = p3, .numbers = d3}};
    struct bytes f = recording(r, 4, map);
    struct mp_error err = {0};
    struct mp_trace *t;
    uint16_t row[MP_MAX_TOP_K];
    check_refused(&f, NULL, MP_EUSAGE, "1 prefill and 3 decode passes (give --phase prefill or --phase decode)");
    CHECK_OK(read_bytes(&t, &f, &prefill, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->n_requests, 2);
    assert_int_equal(t->n_rows, 5);
    assert_int_equal(t->requests[0].n_rows, 3);
    assert_int_equal(t->requests[1].first_position, 7);
    assert_int_equal(t->top_k, 2);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 1);
    assert_int_equal(mp_trace_row(t, 0, 0, row), 2);
    assert_int_equal(row[0], 2); /* slot 0 of layer 1 */
    assert_int_equal(row[1], 1);
    mp_trace_free(t);
    CHECK_OK(read_bytes(&t, &f, &decode, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    static const struct { uint64_t position, n_rows; } want[] = {{3, 3}, {9, 2}, {20, 1}, {40, 1}};
    assert_int_equal(t->n_requests, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(t->requests[i].first_position, want[i].position);
        assert_int_equal(t->requests[i].n_rows, want[i].n_rows);
    }
    /* Row 3 of the trace is pass 2's row 1: slots 2, 3 of layer 1 and only slot 0 of layer 2. */
    assert_int_equal(mp_trace_row(t, 0, 3, row), 2);
    assert_int_equal(row[0], 0);
    assert_int_equal(row[1], 1);
    assert_int_equal(mp_trace_row(t, 1, 3, row), 1);
    assert_int_equal(row[0], 0);
    assert_int_equal(mp_trace_row(t, 0, 2, row), 1); /* pass 5's row 0: two replicas of expert 1 count once */
    assert_int_equal(row[0], 1);
    mp_trace_free(t);
    free(f.at);
}

/* The distinct experts of a list, the slow way. */
static uint32_t experts_of(const int32_t *slots, uint32_t layer, uint16_t *to) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < list_width; i++) {
        uint32_t k = 0;
        while (slots[i] >= 0 && k < n && to[k] != map[layer][slots[i]])
            k++;
        if (slots[i] >= 0 && k == n)
            to[n++] = (uint16_t)map[layer][slots[i]];
    }
    return n;
}

/* A decoding batch of many passes, row by row against a request followed by hand. `is_plain`: every list holds as many
 * experts as places; else replicas, slots named twice, unused places and padding. */
static void check_decode(uint32_t n_passes, uint32_t batch, bool is_plain) {
    struct mp_rng rng = mp_rng_seed(7);
    size_t per_pass = (size_t)3 * batch * list_width;
    int32_t *slots = test_malloc(n_passes * per_pass * sizeof *slots);
    int64_t *positions = test_malloc((size_t)n_passes * batch * sizeof *positions);
    struct record *r = test_calloc(n_passes, sizeof *r);
    for (uint32_t i = 0; i < n_passes; i++) {
        int32_t *own = slots + i * per_pass;
        for (size_t k = 0; k < per_pass; k++)
            own[k] = is_plain ? (k % list_width == 0 ? 1 : (int32_t)mp_rng_below(&rng, 2) * 2)
                              : (int32_t)mp_rng_below(&rng, 5) - 1;
        for (uint32_t j = 0; j < batch; j++) {
            bool goes_on = i > 0 && mp_rng_below(&rng, 30) != 0;
            positions[i * batch + j] = goes_on ? positions[(i - 1) * batch + j] + 1 : 0;
            for (uint32_t k = 0; !is_plain && j % 5 == i % 7 && k < 3 * list_width; k++) /* padding */
                own[((k / list_width) * batch + j) * list_width + k % list_width] = -1;
        }
        r[i] = (struct record){
            .pass = i, .mode = 2, .n_tokens = batch, .positions = positions + i * batch, .numbers = own};
    }
    struct bytes f = recording(r, n_passes, map);
    struct mp_error err = {0};
    struct mp_trace *t;
    CHECK_OK(read_bytes(&t, &f, NULL, &err), err);
    CHECK_OK(mp_trace_check(t, &err), err);
    uint64_t at = 0, request = 0;
    for (uint32_t i = 0; i < n_passes; i++)
        for (uint32_t j = 0; j < batch; j++) {
            uint64_t first = at;
            for (uint32_t k = i; k < n_passes && (k == i) == (positions[k * batch + j] == 0 || k == 0); k++) {
                uint16_t want[3][8], row[MP_MAX_TOP_K];
                uint32_t n[3], n_all = 0;
                for (uint32_t l = 0; l < 3; l++)
                    n_all += n[l] = experts_of(slots + k * per_pass + (l * batch + j) * list_width, l, want[l]);
                for (uint32_t l = 0; n_all > 0 && l < 3; l++) {
                    assert_int_equal(mp_trace_row(t, l, at, row), n[l]);
                    assert_memory_equal(row, want[l], n[l] * sizeof *row);
                }
                if (n_all > 0 && at == first)
                    assert_int_equal(t->requests[request].first_position, positions[k * batch + j]);
                at += n_all > 0;
            }
            if (at > first)
                assert_int_equal(t->requests[request++].n_rows, at - first);
        }
    assert_int_equal(t->n_rows, at);
    assert_int_equal(t->n_requests, request);
    mp_trace_free(t);
    test_free(slots);
    test_free(positions);
    test_free(r);
    free(f.at);
}
static void test_trace_sglang_pt__per_token_agrees_with_a_plain_reading(void **state) {
    (void)state;
    list_width = 2;
    check_decode(300, 256, true); /* more than a chunk */
    is_long = true;
    check_decode(20, 100, true);
    list_width = 3;
    check_decode(40, 130, false);
    is_long = false;
    check_decode(40, 130, false);
    list_width = 8;
}

static void test_trace_sglang_pt__per_token_refusals(void **state) {
    (void)state;
    int32_t two[3 * 2 * 8], far[3 * 2 * 8];
    for (uint32_t j = 0; j < 2; j++) {
        slots_of(two, 2, j, 0, 1, 0, 1);
        slots_of(far, 2, j, 0, 4, 0, 1);
    }
    const int64_t at[] = {0, 1}, gap[] = {0, 2}, long_one[] = {3}, one[] = {2};
    const struct {
        struct record r;
        const char *want;
    } cases[] = {
        {{.mode = 3, .n_tokens = 2, .positions = at, .numbers = two}, "--enable-mixed-chunk"},
        {{.mode = 5, .n_tokens = 2, .positions = at, .numbers = two}, "speculative"},
        {{.mode = 1, .n_tokens = 2, .positions = at, .numbers = two}, "without extend_seq_lens"},
        {{.mode = 1, .n_tokens = 2, .positions = at, .lengths = long_one, .n_lengths = 1, .numbers = two},
         "more tokens than the pass"},
        {{.mode = 1, .n_tokens = 2, .positions = gap, .lengths = one, .n_lengths = 1, .numbers = two},
         "not consecutive"},
        {{.mode = 2, .n_tokens = 2, .positions = at, .numbers = far}, "\"4\" is not a slot of the map (0 to 3)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes f = recording(&cases[i].r, 1, map);
        check_refused(&f, NULL, MP_EINPUT, cases[i].want);
        free(f.at);
    }
    struct record r = {.mode = 2, .n_tokens = 2, .positions = at, .numbers = two};
    struct bytes f = recording(&r, 1, map);
    check_refused(&f, &prefill, MP_EINPUT, "holds no prefill pass");
    struct mp_trace_hints h = decode;
    h.layer_base = 3;
    check_refused(&f, &h, MP_EUSAGE, "--layer-base");
    h.layer_base = -1;
    h.top_k = 1;
    check_refused(&f, &h, MP_EINPUT, "--top-k says 1");
    free(f.at);
}

/* A stat file of [rows][layers][experts]. */
static struct bytes stat_file(const void *numbers, const char *storage, uint32_t item, uint64_t rows, uint64_t layers,
                              uint64_t experts, size_t n) {
    struct bytes p = {0};
    struct zip_writer z = {0};
    pickle_start(&p);
    put_text(&p, "}(");
    pickle_string(&p, "rank");
    pickle_int(&p, 0);
    pickle_string(&p, "logical_count");
    pickle_tensor(&p, storage, "0", 3, (const uint64_t[]){rows, layers, experts});
    put_text(&p, "u.");
    zip_member(&z, "stat/data.pkl", p.at, p.n);
    zip_member(&z, "stat/data/0", numbers, n * item);
    free(p.at);
    return zip_finish(&z);
}

static void test_trace_sglang_pt__stat(void **state) {
    (void)state;
    static const int64_t rows[4][2][3] = {{{0}}, {{0, 0, 0}, {1, 2, INT64_C(1) << 40}}, {{0}}, {{0, 0, 0}, {4, 5, 6}}};
    struct mp_error err = {0};
    struct mp_trace *t;
    struct bytes f = stat_file(rows, "LongStorage", 8, 4, 2, 3, 24);
    CHECK_OK(read_bytes(&t, &f, NULL, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_int_equal(t->n_layers, 1);
    assert_int_equal(t->layer_ids[0], 1);
    assert_true(count_at(t, 0, 0, 2) == UINT64_C(1) << 40);
    assert_int_equal(count_at(t, 1, 0, 0), 4);
    mp_trace_free(t);
    free(f.at);
    int32_t bad[2][1][2] = {{{1, 2}}, {{3, -4}}};
    f = stat_file(bad, "IntStorage", 4, 2, 1, 2, 4);
    check_refused(&f, NULL, MP_EINPUT, "\"-4\" is not a count");
    free(f.at);
    memset(bad, 0, sizeof bad);
    f = stat_file(bad, "IntStorage", 4, 2, 1, 2, 4);
    check_refused(&f, NULL, MP_EINPUT, "every count is 0");
    free(f.at);
    bad[0][0][0] = 1;
    f = stat_file(bad, "FloatStorage", 4, 2, 1, 2, 4);
    check_refused(&f, NULL, MP_EINPUT, "FloatStorage");
    free(f.at);
    f = stat_file(bad, "IntStorage", 4, 2, 1, 2, 3); /* one number short */
    check_refused(&f, NULL, MP_EINPUT, "do not fit");
    free(f.at);
    f = stat_file(bad, "IntStorage", 4, 2, 1, 2, 4);
    struct mp_trace_hints h = mp_trace_hints_none;
    h.n_experts = 3;
    check_refused(&f, &h, MP_EINPUT, "has 2 experts, but --experts says 3");
    free(f.at);
}

/* Someone zipped it again: counts are read all the same, token ids are refused with the way out. */
static void test_trace_sglang_pt__packed_members(void **state) {
    (void)state;
    const struct record r[] = {{.pass = 1, .numbers = counts_a}, {.pass = 2, .numbers = counts_b}};
    int32_t two[3 * 2 * 8];
    const int64_t at[] = {0, 1};
    const struct record token = {.mode = 2, .n_tokens = 2, .positions = at, .numbers = two};
    struct mp_error err = {0};
    struct mp_trace *stored, *packed;
    struct bytes f = recording(r, 2, map);
    CHECK_OK(read_bytes(&stored, &f, NULL, &err), err);
    free(f.at);
    is_deflated = true;
    f = recording(r, 2, map);
    CHECK_OK(read_bytes(&packed, &f, NULL, &err), err);
    assert_true(mp_trace_equal(stored, packed));
    free(f.at);
    mp_trace_free(stored);
    mp_trace_free(packed);
    for (uint32_t j = 0; j < 2; j++)
        slots_of(two, 2, j, 0, 1, 0, 1);
    f = recording(&token, 1, map);
    is_deflated = false;
    check_refused(&f, NULL, MP_EINPUT, "topk_ids_of_layer is packed");
    free(f.at);
}

static void test_trace_sglang_pt__archives_that_are_no_recording(void **state) {
    (void)state;
    struct zip_writer z = {0};
    zip_member(&z, "a/data.pkl", "\x80\x02}.", 4);
    struct bytes f = zip_finish(&z);
    check_refused(&f, NULL, MP_EINPUT, "without logical_count or records");
    free(f.at);
    zip_member(&z, "a/data.pkl", "\x80\x02}.", 4);
    zip_member(&z, "b/data.pkl", "\x80\x02}.", 4);
    f = zip_finish(&z);
    check_refused(&f, NULL, MP_EINPUT, "two data.pkl");
    free(f.at);
    zip_member(&z, "a/data.pkl", "\x80\x02}.", 4);
    zip_member(&z, "a/byteorder", "big", 3);
    f = zip_finish(&z);
    check_refused(&f, NULL, MP_EINPUT, "not little-endian");
    free(f.at);
    zip_member(&z, "a/data.pkl",
               "\x80\x02"
               "cos\nsystem\nX\2\0\0\0id\x85R.",
               23);
    f = zip_finish(&z);
    check_refused(&f, NULL, MP_EINPUT, "os.system");
    free(f.at);
}

/* Neither a cut nor a flipped bit of a real file may crash, and what is read must be sound. */
static void test_trace_sglang_pt__survives_damage(void **state) {
    (void)state;
    static const char *const names[] = {"formats/sglang_stat.pt", "formats/sglang_per_pass.pt",
                                        "formats/sglang_per_token.pt"};
    for (size_t s = 0; s < 3; s++) {
        const char *path = shared_path(names[s]);
        if (path == NULL)
            skip();
        size_t n;
        uint8_t *file = slurp(path, &n);
        uint64_t live = mp_alloc_live();
        const struct mp_trace_format *format = NULL;
        for (uint32_t i = 0; (format = mp_trace_format_at(i)) != NULL && strcmp(format->name, "sglang_pt") != 0;)
            i++;
        for (size_t k = 0; k < n * 9; k++) {
            struct mp_error err = {0};
            struct mp_trace *t = NULL;
            struct mp_in *in;
            bool keep_in = false;
            if (k >= n)
                file[(k - n) / 8] ^= (uint8_t)(1 << (k - n) % 8);
            CHECK_OK(mp_in_from_memory(&in, "damaged", file, k < n ? k : n, &err), err);
            enum mp_status status =
                format->read(&t, "damaged", in, &keep_in, &mp_trace_hints_none, &mp_limits_default, &err);
            assert_true((status == MP_OK) == (t != NULL));
            assert_true(k >= n || status == MP_EINPUT);
            if (t != NULL)
                CHECK_OK(mp_trace_check(t, &err), err);
            mp_trace_free(t);
            mp_in_close(in);
            if (k >= n)
                file[(k - n) / 8] ^= (uint8_t)(1 << (k - n) % 8);
        }
        assert_int_equal(mp_alloc_live(), live);
        free(file);
    }
}

static enum mp_status load(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, NULL, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_sglang_pt__leaks_nothing_on_faults(void **state) {
    (void)state;
    char path[512];
    const struct record r[] = {{.pass = 1, .numbers = counts_a}, {.pass = 2, .numbers = counts_b}};
    int32_t two[3 * 2 * 8];
    for (uint32_t j = 0; j < 2; j++)
        slots_of(two, 2, j, 0, 1, 0, 1);
    const int64_t at[] = {0, 1};
    const struct record token = {.mode = 2, .n_tokens = 2, .positions = at, .numbers = two};
    struct bytes f[3] = {recording(r, 2, map), recording(&token, 1, map),
                         stat_file(counts_a, "IntStorage", 4, 2, 2, 3, 12)};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s", temp_path("faults.pt"));
        save(path, f[i].at, f[i].n);
        sweep_faults(load, path, 1);
        free(f[i].at);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_sglang_pt__stat_sample),
        cmocka_unit_test(test_trace_sglang_pt__per_pass_sample),
        cmocka_unit_test(test_trace_sglang_pt__per_token_sample),
        cmocka_unit_test(test_trace_sglang_pt__per_pass_sums_ranks_and_drops_dense_layers),
        cmocka_unit_test(test_trace_sglang_pt__per_token_requests),
        cmocka_unit_test(test_trace_sglang_pt__per_token_agrees_with_a_plain_reading),
        cmocka_unit_test(test_trace_sglang_pt__per_token_refusals),
        cmocka_unit_test(test_trace_sglang_pt__stat),
        cmocka_unit_test(test_trace_sglang_pt__packed_members),
        cmocka_unit_test(test_trace_sglang_pt__archives_that_are_no_recording),
        cmocka_unit_test(test_trace_sglang_pt__survives_damage),
        cmocka_unit_test(test_trace_sglang_pt__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
