#include "samples.h"

struct real {
    const char *path;
    uint32_t n_experts, base, n_layers, top_k;
    enum mp_phase phase;
    uint64_t n_rows, n_requests, n_categories;
};
static const struct real reals[] = {
    {"traces/gpt-oss-20b/mmlu_dev.npz", 32, 0, 24, 4, MP_PHASE_DECODE, 24629, 97, 57},
    {"traces/gpt-oss-20b/mmlu_test.npz", 32, 0, 24, 4, MP_PHASE_DECODE, 0, 201, 0},
    {"traces/gpt-oss-20b/mmlu_validation.npz", 32, 0, 24, 4, MP_PHASE_DECODE, 0, 145, 0},
    {"traces/gpt-oss-20b/tulu_polyglot.npz", 32, 0, 24, 4, MP_PHASE_DECODE, 2658, 8, 2},
    {"traces/deepseek-v2-lite/chat_prefill.npz", 64, 1, 26, 6, MP_PHASE_PREFILL, 94165, 999, 0},
};

/* The ids of an .npz by the shortest way: zlib over the first member, nothing of ours. */
static struct bytes plain_ids(const char *path) {
    struct bytes file = {0}, ids = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t buf[65536];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        append(&file, buf, n);
    fclose(f);
    z_stream s = {0};
    assert_int_equal(inflateInit2(&s, -15), Z_OK);
    size_t at = 30u + file.p[26] + file.p[27] * 256u + file.p[28] + file.p[29] * 256u;
    s.next_in = file.p + at;
    s.avail_in = (unsigned)(file.n - at);
    int rc;
    do {
        s.next_out = buf;
        s.avail_out = sizeof buf;
        rc = inflate(&s, Z_NO_FLUSH);
        append(&ids, buf, sizeof buf - s.avail_out);
    } while (rc == Z_OK);
    assert_int_equal(rc, Z_STREAM_END);
    inflateEnd(&s);
    free(file.p);
    memmove(ids.p, ids.p + 128, ids.n - 128);
    ids.n -= 128;
    return ids;
}

static void test_trace_npz__real_files_hold_what_a_plain_count_finds(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        const char *shared = shared_path(reals[i].path);
        if (shared == NULL)
            skip();
        char path[512], native[512];
        snprintf(path, sizeof path, "%s", shared);
        snprintf(native, sizeof native, "%s", temp_path("real.mpt"));
        struct mp_trace_hints hints = mp_trace_hints_none;
        hints.phase = reals[i].phase;
        hints.layer_base = (int)reals[i].base;
        hints.n_experts = reals[i].n_experts;
        hints.ids_are_physical = 0;
        struct mp_error err = {0};
        struct mp_trace *a, *b;
        CHECK_OK(mp_trace_load(&a, path, &hints, &mp_limits_default, &err), err);
        assert_string_equal(a->format, "npz");
        assert_int_equal(a->n_layers, reals[i].n_layers);
        assert_int_equal(a->top_k, reals[i].top_k);
        assert_int_equal(a->layer_ids[0], reals[i].base);
        assert_int_equal(a->n_requests, reals[i].n_requests);
        if (reals[i].n_rows != 0)
            assert_int_equal(a->n_rows, reals[i].n_rows);
        if (reals[i].n_categories != 0)
            assert_int_equal(a->n_categories, reals[i].n_categories);
        CHECK_OK(mp_trace_check(a, &err), err);
        struct bytes ids = plain_ids(path);
        uint32_t L = a->n_layers, k = a->top_k;
        assert_int_equal(ids.n, a->n_rows * L * k);
        uint64_t load[64], want[64];
        for (uint32_t l = 0; l < L; l++) {
            memset(want, 0, sizeof want);
            for (uint64_t row = 0; row < a->n_rows; row++) {
                uint16_t list[8];
                assert_int_equal(mp_trace_row(a, l, row, list), k);
                for (uint32_t j = 0; j < k; j++) {
                    uint8_t id = ids.p[(row * L + l) * k + j];
                    want[id]++;
                    if (list[j] != id)
                        fail_msg("%s: row %llu, layer %u", path, (unsigned long long)row, l);
                }
            }
            mp_trace_load_of_layer(a, l, load);
            assert_memory_equal(load, want, a->n_experts * sizeof load[0]);
        }
        free(ids.p);
        struct mp_out *o;
        CHECK_OK(mp_out_open(&o, native, &err), err);
        mp_trace_write(a, o);
        CHECK_OK(mp_out_commit(o, &err), err);
        CHECK_OK(mp_trace_load(&b, native, NULL, &mp_limits_default, &err), err);
        assert_true(mp_trace_equal(a, b));
        mp_trace_free(a);
        mp_trace_free(b);
    }
}

static const char *requests_file(const char *text) { return save_bytes("sample.requests.csv", text, strlen(text)); }

static struct mp_trace_hints npz_hints(void) {
    struct mp_trace_hints h = full_hints();
    h.requests_path = requests_file(requests_sample);
    return h;
}

static void check_sample(const struct mp_trace *t) {
    struct mp_error err = {0};
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_int_equal(t->n_rows, 5);
    assert_int_equal(t->n_requests, 2);
    assert_int_equal(t->requests[0].first_position, 10);
    assert_string_equal(t->categories[t->requests[0].category], "x");
    assert_int_equal(t->requests[1].category, MP_NONE);
    assert_int_equal(t->requests[1].id, 4);
    for (uint32_t row = 0; row < 5; row++)
        for (uint32_t l = 0; l < 2; l++) {
            uint16_t ids[2];
            assert_int_equal(mp_trace_row(t, l, row, ids), 2);
            assert_int_equal(ids[0], ids_sample[(row * 2 + l) * 2]);
            assert_int_equal(ids[1], ids_sample[(row * 2 + l) * 2 + 1]);
        }
}

static void test_trace_npz__every_integer_type_reads_the_same(void **state) {
    (void)state;
    static const struct {
        const char *descr;
        size_t width;
    } types[] = {{"|u1", 1}, {"|i1", 1}, {"<u2", 2}, {"<i2", 2}, {"<u4", 4}, {"<i4", 4}, {"<u8", 8}, {"<i8", 8}};
    struct mp_trace_hints h = npz_hints();
    struct mp_error err = {0};
    struct mp_trace *t;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct bytes data = {0};
        for (size_t j = 0; j < sizeof ids_sample; j++)
            append_number(&data, ids_sample[j], types[i].width);
        struct bytes npy = npy_bytes(types[i].descr, "(5, 2, 2)", data.p, data.n);
        h.axes = "tokens,layers,k";
        CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
        check_sample(t);
        mp_trace_free(t);
        for (int deflate = 0; deflate < 2; deflate++) {
            struct member m = {"topk_ids.npy", npy, deflate};
            struct bytes z = zip_bytes(&m, 1);
            h.axes = NULL;
            CHECK_OK(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), err);
            check_sample(t);
            mp_trace_free(t);
            free(z.p);
        }
        free(npy.p);
        free(data.p);
    }
}

static void test_trace_npz__minus_one_is_unused_in_signed_types_only(void **state) {
    (void)state;
    struct mp_trace_hints h = npz_hints();
    h.axes = "tokens,layers,k";
    uint8_t ids[sizeof ids_sample];
    memcpy(ids, ids_sample, sizeof ids);
    ids[1] = 0xff;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        struct bytes npy = npy_bytes(is_signed ? "|i1" : "|u1", "(5, 2, 2)", ids, sizeof ids);
        struct mp_trace *t;
        struct mp_error err = {0};
        enum mp_status status = read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err);
        if (is_signed) {
            CHECK_OK(status, err);
            uint16_t list[2];
            assert_int_equal(mp_trace_row(t, 0, 0, list), 1);
            assert_int_equal(list[1], MP_NO_EXPERT);
            mp_trace_free(t);
        } else {
            assert_int_equal(status, MP_EINPUT);
            assert_string_equal(err.message, "token 0 of request 0, layer 0: 255 is not an expert in [0, 4)");
        }
        free(npy.p);
    }
    /* An unused place before a used one, and other negative numbers, are mistakes. */
    ids[0] = 0xff;
    ids[1] = 2;
    struct bytes npy = npy_bytes("|i1", "(5, 2, 2)", ids, sizeof ids);
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EINPUT);
    assert_string_equal(err.message, "token 0 of request 0, layer 0: expert 2 stands after an unused place");
    npy.p[npy.n - sizeof ids] = 0xfe;
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "254 is not an expert"));
    free(npy.p);
}

static void test_trace_npz__counts_need_their_axes(void **state) {
    (void)state;
    uint32_t data[12];
    for (uint32_t i = 0; i < 12; i++)
        data[i] = i * 10;
    struct bytes npy = npy_bytes("<i4", "(3, 2, 2)", data, sizeof data);
    struct mp_trace_hints h = full_hints();
    h.n_experts = 0;
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--axes"));
    mp_error_clear(&err);
    h.axes = "iterations,layers,experts";
    CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
    assert_int_equal(t->n_iterations, 3);
    assert_int_equal(t->n_sources, 1);
    assert_false(t->source_known);
    for (uint32_t i = 0; i < 12; i++)
        assert_int_equal(t->counts[i], i * 10);
    mp_trace_free(t);
    h.axes = "sources,layers,experts";
    CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
    assert_int_equal(t->n_iterations, 1);
    assert_int_equal(t->n_sources, 3);
    assert_true(t->source_known);
    for (uint32_t i = 0; i < 12; i++)
        assert_int_equal(t->counts[i], i * 10);
    mp_trace_free(t);
    h.axes = "layers,experts";
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EINPUT);
    mp_error_clear(&err);
    free(npy.p);
    npy = npy_bytes("<i4", "(4, 3)", data, sizeof data);
    CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
    assert_int_equal(t->n_layers, 4);
    assert_int_equal(t->n_experts, 3);
    mp_trace_free(t);
    free(npy.p);
}

static void test_trace_npz__slots_are_mapped_to_experts(void **state) {
    (void)state;
    const char *map_text = "{\"physical_to_logical_map\": [[0, 1, 2, 2], [2, 1, 0, 1]]}";
    struct mp_trace_hints h = npz_hints();
    h.axes = "tokens,layers,k";
    h.ids_are_physical = 1;
    h.n_experts = 3;
    static const uint8_t slots[] = {0, 3, 3, 2};
    struct bytes npy = npy_bytes("|u1", "(1, 2, 2)", slots, sizeof slots);
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--map FILE"));
    mp_error_clear(&err);
    h.map_path = save_bytes("map.json", map_text, strlen(map_text));
    h.requests_path = save_bytes("one.csv", "request,first_row,tokens\n0,0,1\n", 31);
    CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
    uint16_t list[2];
    mp_trace_row(t, 0, 0, list);
    assert_int_equal(list[0], 0);
    assert_int_equal(list[1], 2);
    mp_trace_row(t, 1, 0, list);
    assert_int_equal(list[0], 1);
    assert_int_equal(list[1], 0);
    mp_trace_free(t);
    static const struct {
        const char *text;
        uint64_t line, column;
    } wrong[] = {
        {"{\"physical_to_logical_map\": [[0, 1, 2, 2],\n [2, -1, 0, 1]]}", 2, 6},
        {"[[0, 1, 2, 2],\n [2, 1, 0]]", 2, 2},
        {"[[0, 1, 2, 2],\n [2, 1, 0, \"1\"]]", 2, 12},
        {"[[0, 1, 2, 2]]", 0, 0},
        {"[[0, 1, 2, 9], [0, 1, 2, 2]]", 0, 0},
        {"{}", 0, 0},
        {"[[0, 1", 1, 6},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        h.map_path = save_bytes("map.json", wrong[i].text, strlen(wrong[i].text));
        assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EINPUT);
        assert_string_equal(err.path, h.map_path);
        if (err.line != wrong[i].line || err.column != wrong[i].column)
            fail_msg("map %zu: %llu:%llu %s", i, (unsigned long long)err.line, (unsigned long long)err.column,
                     err.message);
        mp_error_clear(&err);
    }
    free(npy.p);
}

static void test_trace_npz__damage_is_found(void **state) {
    (void)state;
    struct mp_trace_hints h = npz_hints();
    for (int deflate = 0; deflate < 2; deflate++) {
        struct bytes z = npz_sample(deflate);
        cut_everywhere("npz", z, &h, false);
        flip_everywhere("npz", z, &h, false);
        free(z.p);
    }
    h.axes = "tokens,layers,k";
    struct bytes npy = npy_bytes("|u1", "(5, 2, 2)", ids_sample, sizeof ids_sample);
    cut_everywhere("npz", npy, &h, false);
    flip_everywhere("npz", npy, &h, false);
    free(npy.p);
}

/* Each is refused at once, long before it could take memory. */
static const char *save_packed(const char *name, enum mp_file_packing kind, const void *p, size_t n) {
    const char *path = temp_path(name);
    struct mp_out *o;
    struct mp_error err = {0};
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_out_pack(o, kind);
    mp_out_write(o, p, n);
    CHECK_OK(mp_out_commit(o, &err), err);
    return path;
}

/* A packed array finds its packed table. */
static void test_trace_npz__packed_with_its_table(void **state) {
    (void)state;
    struct bytes npy = npy_bytes("|u1", "(5, 2, 2)", ids_sample, sizeof ids_sample);
    struct mp_trace_hints h = full_hints();
    struct mp_trace *t;
    struct mp_error err = {0};
    h.axes = "tokens,layers,k";
    const char *path = save_packed("packed.npy.gz", MP_FILE_GZIP, npy.p, npy.n);
    assert_int_equal(mp_trace_load(&t, path, &h, &mp_limits_default, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "packed.requests.csv\" is not there"));
    mp_error_clear(&err);
    (void)save_packed("packed.requests.csv.zst", MP_FILE_ZSTD, requests_sample, strlen(requests_sample));
    CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_requests, 2);
    mp_trace_free(t);
    free(npy.p);
}

static void test_trace_npz__bombs_are_refused(void **state) {
    (void)state;
    struct mp_trace_hints h = npz_hints();
    h.axes = "tokens,layers,k";
    struct mp_trace *t;
    static const char *const shapes[] = {"(1000000000000, 58, 8)",
                                         "(18446744073709551615, 58, 8)",
                                         "(4294967296, 4294967296, 1)",
                                         "(5, 2000, 2)",
                                         "(5, 2, 65)",
                                         "(0, 2, 2)",
                                         "(5, 0, 2)",
                                         "(2, 2, 2, 2, 2, 2, 2, 2, 2)",
                                         "(5, 2)",
                                         "()",
                                         "(5, 2, 2",
                                         "(5, 2, -2)",
                                         "(5, 2, 2.0)",
                                         "(5, 2, 2),",
                                         "((5), 2, 2)",
                                         "(99999999999999999999, 2, 2)"};
    mp_alloc_limit(mp_alloc_live() + ((uint64_t)64 << 20));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct bytes npy = npy_bytes("|u1", shapes[i], ids_sample, sizeof ids_sample);
        struct mp_error err = {0};
        enum mp_status status = read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err);
        if (status != MP_EINPUT && status != MP_ELIMIT)
            fail_msg("shape %s: status %d, %s", shapes[i], (int)status, err.message);
        free(npy.p);
    }
    /* A header that says it has 4 GB. */
    struct bytes huge = {0};
    append(&huge, "\x93NUMPY\x02\x00\xff\xff\xff\xff{", 13);
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", huge.p, huge.n, &h, NULL, &err), MP_ELIMIT);
    free(huge.p);
    /* 15 MiB of zeros from 15 KiB, with a right header: its rows repeat expert 0, which the first full chunk shows. */
    size_t n = (size_t)15 << 20;
    uint8_t *zeros = calloc(n, 1);
    char shape[64];
    snprintf(shape, sizeof shape, "(%zu, 2, 2)", n / 4);
    struct bytes npy = npy_bytes("|u1", shape, zeros, n);
    struct member m = {"topk_ids.npy", npy, true};
    struct bytes z = zip_bytes(&m, 1);
    assert_true(z.n < 100000);
    mp_error_clear(&err);
    h.requests_path = NULL;
    char table[128];
    snprintf(table, sizeof table, "request,first_row,tokens\n0,0,%zu\n", n / 4);
    h.requests_path = save_bytes("bomb.csv", table, strlen(table));
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "expert 0 is chosen twice"));
    /* A member that claims more than a recording packs to. */
    for (size_t i = z.n - 3; i-- > 4;)
        if (memcmp(z.p + i, "PK\1\2", 4) == 0) {
            memset(z.p + i + 24, 0xfe, 4);
            break;
        }
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_ELIMIT);
    free(z.p);
    free(npy.p);
    free(zeros);
    mp_alloc_limit(0);
}

/* The array is never held beside the trace: inflating takes the trace itself, a chunk that grows, and a buffer. */
static void test_trace_npz__inflating_takes_little_more_than_the_trace(void **state) {
    (void)state;
    enum { ROWS = 600000, K = 8 };
    uint8_t *ids = malloc((size_t)ROWS * K);
    for (size_t i = 0; i < (size_t)ROWS * K; i++)
        ids[i] = (uint8_t)(i % K * 16 + (mp_mix64(i) & 15));
    struct bytes npy = npy_bytes("|u1", "(600000, 1, 8)", ids, (size_t)ROWS * K);
    struct member m = {"topk_ids.npy", npy, true};
    struct bytes z = zip_bytes(&m, 1);
    struct mp_trace_hints h = full_hints();
    char path[256], table[256];
    snprintf(path, sizeof path, "%s", save_bytes("large.npz", z.p, z.n)); /* over 1 MiB: mapped */
    snprintf(table, sizeof table, "%s", save_bytes("large.requests.csv", "request,first_row,tokens\n0,0,600000\n", 36));
    h.n_experts = 128;
    struct mp_trace *t;
    struct mp_error err = {0};
    mp_alloc_limit(mp_alloc_live() + (size_t)ROWS * K + (1 << 20));
    CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
    mp_alloc_limit(0);
    assert_int_equal(t->n_rows, ROWS);
    mp_trace_free(t);
    free(ids);
    free(npy.p);
    free(z.p);
}

static void set_directory(struct bytes z, size_t at, uint32_t v, size_t n) {
    for (size_t i = z.n - 3; i-- > 4;)
        if (memcmp(z.p + i, "PK\1\2", 4) == 0) {
            memcpy(z.p + i + at, &v, n);
            return;
        }
}

static void test_trace_npz__odd_archives_are_refused(void **state) {
    (void)state;
    static const struct {
        size_t at;
        uint32_t value;
        size_t n;
        const char *message;
    } cases[] = {
        {8, 1, 2, "encrypted"},
        {10, 12, 2, "packed by method 12"},
        {20, 0x7fffffff, 4, "more than the file holds"},
        {24, 3, 4, "two sizes differ"},
        {42, 5, 4, "is not where"},
        {28, 65535, 2, "damaged"},
        {16, 0, 4, "checksum"},
        {42, 0xffffffff, 4, "64-bit sizes are missing"},
    };
    struct mp_trace_hints h = npz_hints();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bytes z = npz_sample(false);
        set_directory(z, cases[i].at, cases[i].value, cases[i].n);
        struct mp_trace *t;
        struct mp_error err = {0};
        assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EINPUT);
        if (strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: %s", i, err.message);
        free(z.p);
    }
    /* The same bytes named twice in the directory, and a name twice. */
    struct bytes npy = npy_bytes("|u1", "(5, 2, 2)", ids_sample, sizeof ids_sample);
    struct member twice[] = {{"topk_ids.npy", npy, false}, {"topk_ids.npy", npy, false}};
    struct bytes z = zip_bytes(twice, 2);
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "is there twice"));
    set_directory(z, 42, 0, 4);
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "overlaps"));
    free(z.p);
    free(npy.p);
}

static void test_trace_npz__wrong_requests_tables_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t line, column;
    } cases[] = {
        {"", 1, 1},
        {"request,tokens\n0,5\n", 1, 1},
        {"request,first_row,tokens\n0,0,4\n", 2, 1},
        {"request,first_row,tokens\n0,0,6\n", 2, 5},
        {"request,first_row,tokens\n0,0,2\n1,3,2\n", 3, 3},
        {"request,first_row,tokens\n0,0,0\n", 2, 5},
        {"request,first_row,tokens\n0,0,-5\n", 2, 5},
        {"request,first_row,tokens\n0,0\n", 2, 1},
        {"request,first_row,tokens\nx,0,5\n", 2, 1},
        {"request,first_row,tokens,source\n1,0,5,9999\n", 2, 7},
        {"request,first_row,tokens,category\n1,0,5,\x01\n", 2, 7},
        {"\xef\xbb\xbfrequest,first_row,tokens\n1,0,5\n", 1, 1},
    };
    struct mp_trace_hints h = npz_hints();
    struct bytes z = npz_sample(true);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        h.requests_path = requests_file(cases[i].text);
        struct mp_trace *t;
        struct mp_error err = {0};
        assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EINPUT);
        assert_string_equal(err.path, h.requests_path);
        if (err.line != cases[i].line || err.column != cases[i].column)
            fail_msg("case %zu: %llu:%llu %s", i, (unsigned long long)err.line, (unsigned long long)err.column,
                     err.message);
    }
    /* CR LF and blank lines are fine, columns may stand in any order. */
    h.requests_path =
        requests_file("category,tokens,extra,first_position,first_row,request\r\nx,2,?,10,0,0\r\n\r\n,3,?,0,2,4\r\n");
    struct mp_trace *t;
    struct mp_error err = {0};
    CHECK_OK(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), err);
    check_sample(t);
    mp_trace_free(t);
    free(z.p);
}

static void test_trace_npz__all_that_is_missing_is_asked_for_at_once(void **state) {
    (void)state;
    struct bytes z = npz_sample(true);
    struct mp_trace *t;
    struct mp_error err = {0};
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, NULL, NULL, &err), MP_EUSAGE);
    assert_string_equal(err.message, "a recording of the format npz does not say its phase (give --phase "
                                     "prefill|decode|train|mixed); which layer of the model its layer 0 "
                                     "is (give --layer-base N); whether its ids are experts or slots (give --ids "
                                     "logical|physical); how many experts a layer has (give "
                                     "--experts N)");
    struct mp_trace_hints h = full_hints();
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "npz", z.p, z.n, &h, NULL, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--requests FILE"));
    free(z.p);
}

static struct mp_trace_hints swept_hints;
static enum mp_status load_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, &swept_hints, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_npz__every_fault_is_reported(void **state) {
    (void)state;
    struct bytes z = npz_sample(true);
    char path[256], requests[256], map[256];
    const char *map_text = "[[0, 1, 2, 3], [3, 2, 1, 0]]";
    snprintf(path, sizeof path, "%s", save_bytes("swept.npz", z.p, z.n));
    snprintf(requests, sizeof requests, "%s",
             save_bytes("swept.requests.csv", requests_sample, strlen(requests_sample)));
    snprintf(map, sizeof map, "%s", save_bytes("map.json", map_text, strlen(map_text)));
    swept_hints = full_hints();
    sweep_faults(load_once, path, 1);
    swept_hints.ids_are_physical = 1;
    swept_hints.map_path = map;
    sweep_faults(load_once, path, 1);
    free(z.p);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_npz__packed_with_its_table),
    cmocka_unit_test(test_trace_npz__real_files_hold_what_a_plain_count_finds),
    cmocka_unit_test(test_trace_npz__every_integer_type_reads_the_same),
    cmocka_unit_test(test_trace_npz__minus_one_is_unused_in_signed_types_only),
    cmocka_unit_test(test_trace_npz__counts_need_their_axes),
    cmocka_unit_test(test_trace_npz__slots_are_mapped_to_experts),
    cmocka_unit_test(test_trace_npz__damage_is_found),
    cmocka_unit_test(test_trace_npz__bombs_are_refused),
    cmocka_unit_test(test_trace_npz__inflating_takes_little_more_than_the_trace),
    cmocka_unit_test(test_trace_npz__odd_archives_are_refused),
    cmocka_unit_test(test_trace_npz__wrong_requests_tables_are_refused),
    cmocka_unit_test(test_trace_npz__all_that_is_missing_is_asked_for_at_once),
    cmocka_unit_test(test_trace_npz__every_fault_is_reported),
};
RUN(tests)
