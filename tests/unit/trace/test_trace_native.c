#include "samples.h"
#include <math.h>

static void round_trip(struct mp_trace *t) {
    struct bytes b = native_bytes(t), again;
    struct mp_trace *u;
    struct mp_error err = {0};
    CHECK_OK(read_bytes(&u, "native", b.p, b.n, NULL, NULL, &err), err);
    assert_true(mp_trace_equal(t, u));
    CHECK_OK(mp_trace_check(u, &err), err);
    assert_int_equal(strlen(u->sha256), 64);
    again = native_bytes(u);
    assert_int_equal(again.n, b.n);
    assert_memory_equal(again.p, b.p, b.n);
    char hex[65];
    uint64_t header;
    memcpy(&header, b.p + 24, 8);
    mp_sha256_hex(b.p, header, hex);
    assert_string_equal(hex, u->sha256);
    mp_trace_free(u);
    mp_trace_free(t);
    free(b.p);
    free(again.p);
}

static void test_trace_native__every_shape_survives(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        {1, 1, 1, 1, 1, false, false},     {2, 4, 2, 3, 5, false, false},     {3, 8, 2, 5, 7, true, false},
        {2, 255, 8, 2, 9, false, true},    {2, 256, 8, 3, 50, false, false},  {2, 256, 8, 3, 50, false, true},
        {2, 257, 3, 2, 40, true, true},    {1, 4096, 64, 2, 3, false, false}, {58, 256, 8, 2, 3, false, false},
        {1, 32, 4, 3, 30000, true, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        round_trip(token_trace(shapes[i], i));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        round_trip(signed_trace(shapes[i], i));
    round_trip(count_trace(1, 1, 1, 1, 0));
    round_trip(count_trace(7, 3, 2, 5, 1));
    round_trip(count_trace(40, 6, 12, 512, 2)); /* more than one block */
}

static void test_trace_native__threads_do_not_matter(void **state) {
    (void)state;
    struct mp_trace *t = token_trace((struct shape){1, 8, 2, 3, 50000, false, false}, 5), *u;
    struct bytes b = native_bytes(t);
    for (unsigned n = 1; n <= 8; n *= 2) {
        struct mp_trace_hints h = mp_trace_hints_none;
        struct mp_error err = {0};
        h.n_threads = n;
        CHECK_OK(read_bytes(&u, "native", b.p, b.n, &h, NULL, &err), err);
        assert_true(mp_trace_equal(t, u));
        mp_trace_free(u);
        /* Two damaged chunks: the first is named, whichever thread finds it. */
        b.p[b.n - 1] ^= 1;
        b.p[b.n - 150000 * 2 + 5] ^= 1;
        assert_int_equal(read_bytes(&u, "native", b.p, b.n, &h, NULL, &err), MP_EINPUT);
        assert_non_null(strstr(err.message, "chunk 0"));
        b.p[b.n - 1] ^= 1;
        b.p[b.n - 150000 * 2 + 5] ^= 1;
    }
    free(b.p);
    mp_trace_free(t);
}

static void test_trace_native__damage_is_found_and_placed(void **state) {
    (void)state;
    struct mp_trace *traces[] = {token_trace((struct shape){2, 8, 2, 2, 3, true, true}, 3),
                                 signed_trace((struct shape){2, 8, 2, 2, 3, true, true}, 3),
                                 signed_trace((struct shape){2, 8, 2, 2, 3, false, true}, 3),
                                 count_trace(2, 2, 1, 3, 4)};
    for (size_t i = 0; i < sizeof traces / sizeof *traces; i++) {
        struct bytes b = native_bytes(traces[i]);
        cut_everywhere("native", b, NULL, false);
        flip_everywhere("native", b, NULL, true);
        append(&b, "x", 1);
        struct mp_trace *t;
        struct mp_error err = {0};
        assert_int_equal(read_bytes(&t, "native", b.p, b.n, NULL, NULL, &err), MP_EINPUT);
        free(b.p);
        mp_trace_free(traces[i]);
    }
}

static void fix_header(struct bytes b) {
    uint64_t header;
    memcpy(&header, b.p + 24, 8);
    memset(b.p + 124, 0, 4);
    if (header > b.n)
        return;
    uint32_t crc = (uint32_t)crc32(0, b.p, (unsigned)header);
    memcpy(b.p + 124, &crc, 4);
}

/* A right checksum is no reason to believe a header: each field takes each extreme value, with the checksum made right
 * again. */
static void test_trace_native__hostile_headers_are_refused(void **state) {
    (void)state;
    static const uint64_t extremes[] = {0,
                                        1,
                                        2,
                                        3,
                                        4,
                                        5,
                                        127,
                                        255,
                                        256,
                                        65535,
                                        65536,
                                        1u << 24,
                                        UINT32_MAX,
                                        UINT64_C(1) << 32,
                                        UINT64_C(1000000000000),
                                        UINT64_C(1) << 53,
                                        UINT64_C(1) << 62,
                                        INT64_MAX,
                                        UINT64_MAX};
    struct mp_trace *traces[] = {token_trace((struct shape){2, 8, 2, 2, 3, true, true}, 3),
                                 signed_trace((struct shape){2, 8, 2, 2, 3, false, true}, 3),
                                 count_trace(3, 2, 1, 3, 4)};
    uint64_t live = 0;
    for (size_t i = 0; i < sizeof traces / sizeof *traces; i++) {
        struct bytes b = native_bytes(traces[i]);
        uint64_t header;
        memcpy(&header, b.p + 24, 8);
        live = mp_alloc_live();
        for (size_t at = 8; at < header; at += 4)
            for (size_t width = 4; width <= 8 && at + width <= header; width += 4)
                for (size_t e = 0; e < sizeof extremes / sizeof extremes[0]; e++) {
                    uint64_t old;
                    memcpy(&old, b.p + at, 8 < b.n - at ? 8 : 4);
                    memcpy(b.p + at, &extremes[e], width);
                    fix_header(b);
                    struct mp_trace *t;
                    struct mp_error err = {0};
                    uint64_t before = mp_alloc_live();
                    (void)before;
                    enum mp_status status = read_bytes(&t, "native", b.p, b.n, NULL, NULL, &err);
                    if (status == MP_OK) {
                        CHECK_OK(mp_trace_check(t, &err), err);
                        mp_trace_free(t);
                    } else if (status == MP_EBUG)
                        fail_msg("field %zu = %llu: %s", at, (unsigned long long)extremes[e], err.message);
                    assert_int_equal(mp_alloc_live(), live);
                    memcpy(b.p + at, &old, 8 < b.n - at ? 8 : 4);
                }
        fix_header(b);
        struct mp_trace *t;
        struct mp_error err = {0};
        CHECK_OK(read_bytes(&t, "native", b.p, b.n, NULL, NULL, &err), err);
        mp_trace_free(t);
        free(b.p);
        mp_trace_free(traces[i]);
    }
}

/* Checksums right, ids wrong: the ids are checked all the same, with their place. */
static void test_trace_native__wrong_ids_behind_right_checksums_are_refused(void **state) {
    (void)state;
    struct mp_trace *trace = token_trace((struct shape){2, 8, 3, 1, 2000, false, false}, 3);
    struct bytes b = native_bytes(trace);
    uint64_t header, offset;
    memcpy(&header, b.p + 24, 8);
    size_t entry = 128 + 8 + 40;
    memcpy(&offset, b.p + entry, 8);
    assert_int_equal(offset, header);
    static const size_t rows[] = {0, 1, 1000, 1365, 1366, 1998, 1999};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int kind = 0; kind < 3; kind++) {
            uint8_t *list = b.p + offset + (2000 + rows[i]) * 3, old[3];
            memcpy(old, list, 3);
            if (kind == 0)
                list[1] = 8;
            else if (kind == 1)
                list[2] = list[0];
            else
                list[0] = 0xff;
            uint32_t crc = (uint32_t)crc32(0, b.p + offset, 12000);
            memcpy(b.p + entry + 16, &crc, 4);
            fix_header(b);
            struct mp_trace *t;
            struct mp_error err = {0};
            assert_int_equal(read_bytes(&t, "native", b.p, b.n, NULL, NULL, &err), MP_EINPUT);
            assert_int_equal(err.column, offset + (2000 + rows[i]) * 3 + 1);
            char want[64];
            snprintf(want, sizeof want, "token %zu, layer 1: ", rows[i]);
            assert_memory_equal(err.message, want, strlen(want));
            memcpy(list, old, 3);
        }
    free(b.p);
    mp_trace_free(trace);
}

/* A mapped file costs tables, not ids. */
static void test_trace_native__a_large_file_is_not_copied(void **state) {
    (void)state;
    struct mp_trace *t = token_trace((struct shape){4, 64, 8, 2, 80000, false, false}, 5), *u;
    struct mp_error err = {0};
    struct mp_out *o;
    char path[256];
    snprintf(path, sizeof path, "%s", temp_path("large.mpt"));
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_trace_write(t, o);
    CHECK_OK(mp_out_commit(o, &err), err);
    mp_alloc_limit(mp_alloc_live() + (64 << 10)); /* of 5 MB */
    CHECK_OK(mp_trace_load(&u, path, NULL, &mp_limits_default, &err), err);
    mp_alloc_limit(0);
    assert_non_null(u->mapped);
    assert_true(u->mapped->is_mapped && u->mapped->size > (5 << 20) - (1 << 19));
    assert_true(mp_trace_equal(t, u));
    mp_trace_free(t);
    mp_trace_free(u);
}

/* Dropped, the bytes are those of a recording that never had any; a reader that is given them again has the same. */
static void test_trace_native__signatures_are_read_and_dropped(void **state) {
    (void)state;
    const struct shape shape = {3, 8, 2, 3, 30000, true, false};
    struct mp_trace *plain = token_trace(shape, 4), *t = signed_trace(shape, 4), *u;
    struct bytes bare = native_bytes(plain), full = native_bytes(t), again;
    struct mp_error err = {0};
    assert_int_equal(full.n > bare.n + 90000 * 3 * 8, true);
    CHECK_OK(read_bytes(&u, "native", full.p, full.n, NULL, NULL, &err), err);
    assert_non_null(u->signature_chunks);
    assert_false(mp_trace_equal(plain, u));
    for (uint64_t row = 0; row < u->n_rows; row += 997)
        for (uint32_t l = 0; l < 3; l++)
            assert_true(mp_trace_signature(u, l, row) == mp_trace_signature(t, l, row));
    mp_trace_signatures_drop(u);
    mp_trace_signatures_drop(u); /* twice is fine */
    assert_true(mp_trace_equal(plain, u));
    again = native_bytes(u);
    assert_int_equal(again.n, bare.n);
    assert_memory_equal(again.p, bare.p, bare.n);
    free(bare.p);
    free(full.p);
    free(again.p);
    mp_trace_free(plain);
    mp_trace_free(t);
    mp_trace_free(u);
}

static void test_trace_native__a_distance_says_a_cosine(void **state) {
    (void)state;
    for (uint32_t d = 0; d <= 64; d++) {
        const double want = d < 32 ? cos(3.14159265358979 * d / 64) : 0;
        assert_true(fabs(mp_signature_similarity_ppm(d) / 1e6 - want) < 1e-6);
        if (d <= 32)
            assert_int_equal(mp_signature_reach(mp_signature_similarity_ppm(d)), d < 32 ? d : 64);
    }
    assert_int_equal(mp_signature_reach(1000001), -1);
    assert_int_equal(mp_signature_reach(800000), 13);
    assert_int_equal(mp_signature_distance(0xff, 0x0f), 4);
}

static struct bytes swept;
static enum mp_status read_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_trace_load(&t, ctx, NULL, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static enum mp_status write_once(void *ctx, struct mp_error *err) {
    struct mp_out *o;
    enum mp_status status = mp_out_open(&o, ctx, err);
    if (status != MP_OK)
        return status;
    struct mp_trace *t;
    if ((status = read_bytes(&t, "native", swept.p, swept.n, NULL, NULL, err)) != MP_OK) {
        mp_out_cancel(o);
        return status;
    }
    mp_trace_write(t, o);
    mp_trace_free(t);
    return mp_out_commit(o, err);
}
static void test_trace_native__every_fault_is_reported(void **state) {
    (void)state;
    struct mp_trace *t = signed_trace((struct shape){2, 8, 2, 2, 3, true, true}, 3);
    swept = native_bytes(t);
    char path[256];
    snprintf(path, sizeof path, "%s", save_bytes("swept.mpt", swept.p, swept.n));
    sweep_faults(read_once, path, 1);
    snprintf(path, sizeof path, "%s", temp_path("written.mpt"));
    sweep_faults(write_once, path, 1);
    free(swept.p);
    mp_trace_free(t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_native__every_shape_survives),
    cmocka_unit_test(test_trace_native__threads_do_not_matter),
    cmocka_unit_test(test_trace_native__damage_is_found_and_placed),
    cmocka_unit_test(test_trace_native__hostile_headers_are_refused),
    cmocka_unit_test(test_trace_native__wrong_ids_behind_right_checksums_are_refused),
    cmocka_unit_test(test_trace_native__a_large_file_is_not_copied),
    cmocka_unit_test(test_trace_native__signatures_are_read_and_dropped),
    cmocka_unit_test(test_trace_native__a_distance_says_a_cosine),
    cmocka_unit_test(test_trace_native__every_fault_is_reported),
};
RUN(tests)
