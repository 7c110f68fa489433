/* gzip and zstd files: in by content, out by the writer, and what is refused. */
#include "support.h"
#include <moeplan/base.h>
#include <moeplan/io.h>

struct bytes {
    uint8_t *p;
    size_t n;
};

/* The packed form of n bytes, by our own writer. */
static struct bytes packed(enum mp_file_packing kind, const void *data, size_t n, size_t part) {
    struct mp_out *o;
    struct mp_error err = {0};
    struct bytes b = {0};
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_out_pack(o, kind);
    for (size_t at = 0; at < n; at += part)
        mp_out_write(o, (const uint8_t *)data + at, part < n - at ? part : n - at);
    mp_out_pack_end(o);
    const uint8_t *p = mp_out_memory_bytes(o, &b.n);
    assert_int_equal(mp_out_offset(o), b.n);
    b.p = malloc(b.n + 1);
    memcpy(b.p, p, b.n);
    CHECK_OK(mp_out_commit(o, &err), err);
    return b;
}

static enum mp_status unpack(struct mp_in **in, const void *p, size_t n, uint64_t max, struct mp_error *err) {
    *err = (struct mp_error){0};
    CHECK_OK(mp_in_from_memory(in, "packed", p, n, err), *err);
    return mp_in_unpack(*in, max, &mp_limits_default, err);
}

static struct bytes lines(size_t n) {
    struct bytes b = {malloc(n * 32), 0};
    for (size_t i = 0; i < n; i++)
        b.n += (size_t)sprintf((char *)b.p + b.n, "%zu,%zu,%zu\n", i, i * i % 9973, i * 31 % 977);
    return b;
}

static void test_packing__gives_back_what_was_packed(void **state) {
    (void)state;
    struct bytes text = lines(20000), small = {(uint8_t *)"a", 1}, none = {(uint8_t *)"", 0};
    const struct bytes all[] = {text, small, none};
    for (int kind = MP_FILE_GZIP; kind <= MP_FILE_ZSTD; kind++)
        for (size_t i = 0; i < 3; i++) {
            struct bytes b = packed((enum mp_file_packing)kind, all[i].p, all[i].n, 777);
            struct mp_in *in;
            struct mp_error err;
            assert_int_equal(mp_file_packing_of(b.p, b.n), kind);
            CHECK_OK(unpack(&in, b.p, b.n, 0, &err), err);
            assert_int_equal(in->size, all[i].n);
            assert_memory_equal(in->data, all[i].p, all[i].n);
            assert_int_equal(in->data[in->size], 0);
            mp_in_close(in);
            /* The same bytes whatever the parts that it was written in. */
            struct bytes again = packed((enum mp_file_packing)kind, all[i].p, all[i].n, 100000);
            if (kind == MP_FILE_GZIP) {
                assert_int_equal(again.n, b.n);
                assert_memory_equal(again.p, b.p, b.n);
            }
            /* Two of them behind one another are both. */
            if (all[i].n > 0) {
                uint8_t *two = malloc(2 * b.n);
                memcpy(two, b.p, b.n);
                memcpy(two + b.n, b.p, b.n);
                CHECK_OK(unpack(&in, two, 2 * b.n, 0, &err), err);
                assert_int_equal(in->size, 2 * all[i].n);
                assert_memory_equal(in->data + all[i].n, all[i].p, all[i].n);
                mp_in_close(in);
                free(two);
            }
            free(again.p);
            free(b.p);
        }
    free(text.p);
}

static void test_packing__skips_frames_that_say_so(void **state) {
    (void)state;
    struct bytes b = packed(MP_FILE_ZSTD, "hello", 5, 5);
    uint8_t *with = malloc(b.n + 11);
    struct mp_in *in;
    struct mp_error err;
    memcpy(with, "\x50\x2a\x4d\x18\x03\0\0\0xyz", 11);
    memcpy(with + 11, b.p, b.n);
    CHECK_OK(unpack(&in, with, b.n + 11, 0, &err), err);
    assert_int_equal(in->size, 5);
    mp_in_close(in);
    free(with);
    free(b.p);
}

/* Every prefix and every flipped byte is refused with a sentence, or (a byte that says nothing) gives the same text. */
static void test_packing__refuses_what_is_cut_or_damaged(void **state) {
    (void)state;
    struct bytes text = lines(200);
    for (int kind = MP_FILE_GZIP; kind <= MP_FILE_ZSTD; kind++) {
        struct bytes b = packed((enum mp_file_packing)kind, text.p, text.n, text.n);
        struct mp_in *in;
        struct mp_error err;
        for (size_t n = 4; n < b.n; n++) {
            assert_int_equal(unpack(&in, b.p, n, 0, &err), MP_EINPUT);
            assert_non_null(strstr(err.message, "ends too early"));
            mp_in_close(in);
        }
        for (size_t i = 4; i < b.n; i++) {
            b.p[i] ^= 0x10;
            enum mp_status status = unpack(&in, b.p, b.n, 0, &err);
            assert_true(status == MP_OK || status == MP_EINPUT || status == MP_ELIMIT);
            if (status == MP_OK) {
                assert_int_equal(in->size, text.n);
                assert_memory_equal(in->data, text.p, text.n);
            } else
                assert_true(err.message[0] != '\0');
            mp_in_close(in);
            b.p[i] ^= 0x10;
        }
        uint8_t *more = malloc(b.n + 3);
        memcpy(more, b.p, b.n);
        memcpy(more + b.n, "xyz", 3);
        assert_int_equal(unpack(&in, more, b.n + 3, 0, &err), MP_EINPUT);
        assert_non_null(strstr(err.message, "3 bytes follow the"));
        mp_in_close(in);
        free(more);
        struct bytes twice = packed((enum mp_file_packing)(MP_FILE_GZIP + MP_FILE_ZSTD - kind), b.p, b.n, b.n);
        assert_int_equal(unpack(&in, twice.p, twice.n, 0, &err), MP_EINPUT);
        assert_non_null(strstr(err.message, "packed twice"));
        mp_in_close(in);
        free(twice.p);
        assert_int_equal(unpack(&in, b.p, b.n, text.n - 1, &err), MP_ELIMIT);
        mp_in_close(in);
        free(b.p);
    }
    free(text.p);
}

static void test_packing__refuses_bombs(void **state) {
    (void)state;
    enum { SIZE = 64 << 20 };
    uint8_t *zeros = calloc(1, SIZE);
    for (int kind = MP_FILE_GZIP; kind <= MP_FILE_ZSTD; kind++) {
        struct bytes b = packed((enum mp_file_packing)kind, zeros, SIZE, SIZE);
        struct mp_in *in;
        struct mp_error err = {0};
        CHECK_OK(mp_in_from_memory(&in, "bomb", b.p, b.n, &err), err);
        mp_alloc_limit(mp_alloc_live() + ((uint64_t)48 << 20)); /* refused for what it is, not for want of memory */
        assert_int_equal(mp_in_unpack(in, 0, &mp_limits_default, &err), MP_ELIMIT);
        mp_alloc_limit(0);
        assert_non_null(strstr(err.message, "a bomb"));
        mp_in_close(in);
        free(b.p);
        /* What is no larger than a text may be is fine, whatever the ratio. */
        b = packed((enum mp_file_packing)kind, zeros, 16 << 20, 16 << 20);
        CHECK_OK(unpack(&in, b.p, b.n, 0, &err), err);
        assert_int_equal(in->size, 16 << 20);
        mp_in_close(in);
        free(b.p);
    }
    free(zeros);
}

/* A frame that asks for a window of 2 GiB is refused before anything is allocated for it. */
static void test_packing__refuses_a_huge_window(void **state) {
    (void)state;
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00};
    struct mp_in *in;
    struct mp_error err;
    assert_int_equal(unpack(&in, frame, sizeof frame, 0, &err), MP_ELIMIT);
    assert_non_null(strstr(err.message, "window of more than 128 MiB"));
    mp_in_close(in);
}

/* To find out what a file is takes its head only, whatever follows. */
static void test_packing__opens_the_head(void **state) {
    (void)state;
    struct bytes text = lines(400000);
    for (int kind = MP_FILE_GZIP; kind <= MP_FILE_ZSTD; kind++) {
        struct bytes b = packed((enum mp_file_packing)kind, text.p, text.n, text.n);
        const char *path = temp_path("head");
        struct mp_in *in;
        struct mp_error err = {0};
        FILE *f = fopen(path, "wb");
        assert_int_equal(fwrite(b.p, 1, b.n - 40, f), b.n - 40); /* cut short, which the head does not show */
        fclose(f);
        CHECK_OK(mp_in_open_head(&in, path, &err), err);
        assert_true(in->size >= 1 << 20 && in->size < text.n);
        assert_memory_equal(in->data, text.p, in->size);
        assert_int_equal(in->data[in->size], 0);
        mp_in_close(in);
        assert_int_equal(mp_in_open(&in, path, 0, &err), MP_EINPUT);
        free(b.p);
    }
    free(text.p);
}

struct flow {
    const char *path;
    enum mp_file_packing kind;
};
static enum mp_status file_flow(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_out *o;
    struct mp_in *in;
    enum mp_status status = mp_out_open(&o, f->path, err);
    if (status != MP_OK)
        return status;
    mp_out_pack(o, f->kind);
    for (int i = 0; i < 500; i++)
        mp_out_printf(o, "%d,%d\n", i, i * 7 % 31);
    if ((status = mp_out_commit(o, err)) != MP_OK)
        return status;
    if ((status = mp_in_open(&in, f->path, 0, err)) != MP_OK)
        return status;
    bool is_right = in->size > 2000 && memcmp(in->data, "0,0\n1,7\n", 8) == 0;
    mp_in_close(in);
    return is_right ? MP_OK : mp_fail(err, MP_EBUG, "other bytes");
}

static void test_packing__survives_faults(void **state) {
    (void)state;
    struct flow gzip = {temp_path("a.gz"), MP_FILE_GZIP}, zstd = {temp_path("a.zst"), MP_FILE_ZSTD};
    sweep_faults(file_flow, &gzip, 1);
    sweep_faults(file_flow, &zstd, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing__gives_back_what_was_packed),
        cmocka_unit_test(test_packing__skips_frames_that_say_so),
        cmocka_unit_test(test_packing__refuses_what_is_cut_or_damaged),
        cmocka_unit_test(test_packing__refuses_bombs),
        cmocka_unit_test(test_packing__refuses_a_huge_window),
        cmocka_unit_test(test_packing__opens_the_head),
        cmocka_unit_test(test_packing__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
