#include "support.h"
#include <moeplan/base.h>
#include <moeplan/matrix.h>

static enum mp_status parse(struct mp_matrix **out, const void *data, size_t size, const char *format,
                            uint64_t token_bytes, struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_from_memory(&in, "m", data, size, err);
    if (status != MP_OK)
        return status;
    status = mp_matrix_parse(out, in, format, token_bytes, &mp_limits_default, err);
    mp_in_close(in);
    return status;
}

static struct mp_matrix *good(const char *text, const char *format) {
    struct mp_error err = {0};
    struct mp_matrix *m;
    CHECK_OK(parse(&m, text, strlen(text), NULL, 0, &err), err);
    assert_string_equal(m->format, format);
    return m;
}

static void bad(const char *text, enum mp_status want, uint64_t line, uint64_t column, const char *words) {
    struct mp_error err = {0};
    struct mp_matrix *m;
    assert_int_equal(parse(&m, text, strlen(text), NULL, 0, &err), want);
    assert_null(m);
    assert_int_equal(err.line, line);
    assert_int_equal(err.column, column);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

/* Random matrices, sparse and dense, small and huge numbers. */
static void fill(struct mp_rng *r, uint32_t n, uint64_t *cells) {
    uint64_t most = UINT64_C(1) << mp_rng_below(r, 32);
    for (size_t k = 0; k < (size_t)n * n; k++)
        cells[k] = mp_rng_below(r, 3) == 0 ? 0 : mp_rng_below(r, most);
}

static void test_matrix__what_is_written_is_read_back(void **state) {
    (void)state;
    uint64_t cells[20 * 20];
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        uint32_t n = 2 + (uint32_t)mp_rng_below(&r, 19), n_written = 0;
        fill(&r, n, cells);
        for (uint32_t f = 0; mp_matrix_format_at(f) != NULL; f++) {
            struct mp_error err = {0};
            struct mp_out *out;
            struct mp_matrix *m;
            size_t size;
            if (mp_matrix_format_at(f)->write == NULL)
                continue;
            CHECK_OK(mp_out_open_memory(&out, &err), err);
            mp_matrix_format_at(f)->write(n, cells, out);
            const uint8_t *bytes = mp_out_memory_bytes(out, &size);
            CHECK_OK(parse(&m, bytes, size, NULL, 0, &err), err);
            assert_string_equal(m->format, mp_matrix_format_at(f)->name);
            assert_int_equal(m->n, n);
            assert_memory_equal(m->cells, cells, (size_t)n * n * sizeof *cells);
            mp_matrix_free(m);
            CHECK_OK(parse(&m, bytes, size, mp_matrix_format_at(f)->name, 4096, &err), err);
            for (size_t k = 0; k < (size_t)n * n; k++)
                assert_int_equal(m->cells[k], cells[k] * 4096);
            mp_matrix_free(m);
            mp_out_cancel(out);
            n_written++;
        }
        assert_int_equal(n_written, 2);
    }
}

/* A version 1 array of any type and order, as NumPy writes it. */
static size_t npy(uint8_t *to, const char *descr, bool is_fortran, uint32_t n, const uint64_t *cells) {
    int length = snprintf((char *)to + 10, 118, "{'descr': '%s', 'fortran_order': %s, 'shape': (%u, %u), }", descr,
                          is_fortran ? "True" : "False", n, n);
    memcpy(to, "\x93NUMPY\x01\x00\x76\x00", 10);
    memset(to + 10 + length, ' ', (size_t)(118 - length));
    to[127] = '\n';
    size_t at = 128, item = (size_t)(descr[2] - '0');
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++, at += item) {
            uint64_t v = cells[is_fortran ? b * n + a : a * n + b];
            double real = (double)v;
            float narrow = (float)real;
            memcpy(to + at, descr[1] != 'f' ? (void *)&v : item == 8 ? (void *)&real : (void *)&narrow, item);
        }
    return at;
}

static void test_matrix__reads_arrays_of_every_type_in_both_orders(void **state) {
    (void)state;
    static const char *const types[] = {"<u1", "|u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8"};
    uint8_t bytes[128 + 8 * 81];
    uint64_t cells[81];
    for (size_t k = 0; k < 2 * sizeof types / sizeof *types; k++)
        for (uint32_t n = 2; n <= 9; n++) {
            struct mp_error err = {0};
            struct mp_matrix *m;
            struct mp_rng r = mp_rng_seed(k * 100 + n);
            for (uint32_t i = 0; i < n * n; i++)
                cells[i] = mp_rng_below(&r, 128);
            size_t size = npy(bytes, types[k / 2], k % 2 == 1, n, cells);
            CHECK_OK(parse(&m, bytes, size, NULL, 0, &err), err);
            assert_string_equal(m->format, "npy");
            assert_int_equal(m->n, n);
            assert_memory_equal(m->cells, cells, n * n * sizeof *cells);
            mp_matrix_free(m);
            assert_int_equal(parse(&m, bytes, size - 1, NULL, 0, &err), MP_EINPUT);
            assert_null(m);
        }
}

static void test_matrix__refuses_cells_of_arrays_that_are_no_amounts(void **state) {
    (void)state;
    const struct {
        const char *descr;
        uint64_t bits;
        enum mp_status status;
        const char *words;
    } cases[] = {
        {"<i1", 0x80, MP_EINPUT, "is negative"},
        {"<i8", UINT64_MAX, MP_EINPUT, "is negative"},
        {"<u8", UINT64_MAX, MP_EINPUT, "is more than 2^53"},
        {"<f8", UINT64_C(0x3fe0000000000000), MP_EINPUT, "is not whole"},
        {"<f8", UINT64_C(0xbff0000000000000), MP_EINPUT, "is negative"},
        {"<f8", UINT64_C(0x7ff8000000000000), MP_EINPUT, "is no number"},
        {"<f8", UINT64_C(0x7ff0000000000000), MP_EINPUT, "is more than 2^53"},
        {"<f4", 0x7fc00000, MP_EINPUT, "is no number"},
        {"<f4", 0x3f000000, MP_EINPUT, "is not whole"},
        {"<u8", UINT64_C(1) << 53, MP_ELIMIT, "add up to more than 2^53"},
    };
    static const uint64_t cells[9] = {0, 1, 2, 3, 0, 4, 5, 6, 0};
    uint8_t bytes[256];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct mp_error err = {0};
        struct mp_matrix *m;
        size_t size = npy(bytes, cases[k].descr, false, 3, cells), item = (size_t)(cases[k].descr[2] - '0');
        memcpy(bytes + 128 + 3 * item, &cases[k].bits, item);
        assert_int_equal(parse(&m, bytes, size, NULL, 0, &err), cases[k].status);
        assert_int_equal(err.column, 128 + 3 * item + 1);
        if (strstr(err.message, cases[k].words) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.message, cases[k].words);
    }
}

static void test_matrix__text_as_people_write_it(void **state) {
    (void)state;
    static const char *const equal[] = {
        "0 200 144\n48 0 64\n304 144 0\n",
        "\n  0\t200   144 \r\n48 0 64\r\n\r\n304 144 0",
        "0 2e2 144.0\n48 0 64\n304 144 0\n",
        "0,200,144\n48,0,64\n304,144,0\n",
        "# bytes\nto 0,to 1,to 2\n0, 200 ,144\n\n48,0,64\n# last\n304,144,0",
    };
    static const uint64_t want[] = {0, 200, 144, 48, 0, 64, 304, 144, 0};
    for (size_t k = 0; k < sizeof equal / sizeof *equal; k++) {
        struct mp_matrix *m = good(equal[k], k < 3 ? "nccl-tests" : "csv");
        assert_int_equal(m->n, 3);
        assert_memory_equal(m->cells, want, sizeof want);
        mp_matrix_free(m);
    }
}

static void test_matrix__says_where_text_is_wrong(void **state) {
    (void)state;
    bad("", MP_EINPUT, 0, 0, "is empty");
    bad("\n\n", MP_EINPUT, 1, 1, "not a matrix of a known format");
    bad("7\n", MP_EINPUT, 0, 0, "a single cell");
    bad("0 1\n2\n", MP_EINPUT, 2, 1, "row 1 has 1 numbers, the first row has 2");
    bad("0 1\n2 0 3\n", MP_EINPUT, 2, 5, "row 1 has more than the 2 numbers");
    bad("0 1 2\n2 0 3\n", MP_EINPUT, 2, 1, "ends after 2 rows of 3");
    bad("0 1\n2 0\n3 4\n", MP_EINPUT, 3, 1, "more than 2 rows of 2 numbers");
    bad("0 1\n -2 0\n", MP_EINPUT, 2, 2, "\"-2\" is not a whole number");
    bad("0 1\n2.5 0\n", MP_EINPUT, 2, 1, "\"2.5\" is not a whole number");
    bad("0 1\n2 0 # x\n", MP_EINPUT, 2, 5, "has more than");
    bad("0,1\n,0\n", MP_EINPUT, 2, 1, "write 0 where nothing is sent");
    bad("0,1;2\n", MP_EINPUT, 1, 3, "by commas, not by semicolons");
    bad("0 nan\n1 0\n", MP_EINPUT, 1, 3, "\"nan\" is not a whole number");
    bad("0 1e20\n1 0\n", MP_ELIMIT, 1, 3, "more than 2^53");
    bad("0 9007199254740992\n1 0\n", MP_ELIMIT, 2, 1, "add up to more than 2^53");
    bad("a,b\nc,d\n", MP_EINPUT, 2, 1, "\"c\" is not a whole number");
}

static void test_matrix__numbers_of_tokens_have_a_limit_in_bytes(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_matrix *m;
    static const char text[] = "0 4503599627370496\n0 0\n"; /* 2^52 */
    CHECK_OK(parse(&m, text, sizeof text - 1, NULL, 2, &err), err);
    mp_matrix_free(m);
    assert_int_equal(parse(&m, text, sizeof text - 1, NULL, 3, &err), MP_ELIMIT);
    assert_int_equal(parse(&m, text, sizeof text - 1, NULL, UINT64_MAX, &err), MP_ELIMIT);
    mp_error_clear(&err);
    assert_int_equal(parse(&m, text, sizeof text - 1, "tsv", 0, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "nccl-tests, csv, npy"));
}

static enum mp_status load_all(void *ctx, struct mp_error *err) {
    const char *const *paths = ctx;
    for (int k = 0; k < 3; k++) {
        struct mp_matrix *m;
        enum mp_status status = mp_matrix_load(&m, paths[k], NULL, 0, &mp_limits_default, err);
        if (status != MP_OK) {
            assert_null(m);
            return status;
        }
        mp_matrix_free(m);
    }
    return MP_OK;
}

static void test_matrix__survives_every_fault(void **state) {
    (void)state;
    struct mp_error err = {0};
    uint64_t cells[144];
    uint8_t array[128 + 8 * 144];
    struct mp_rng r = mp_rng_seed(3);
    char names[3][512];
    const char *paths[3];
    fill(&r, 12, cells);
    for (uint32_t k = 0; k < 3; k++) {
        struct mp_out *out;
        snprintf(names[k], sizeof names[k], "%s", temp_path(mp_matrix_format_at(k)->name));
        paths[k] = names[k];
        CHECK_OK(mp_out_open(&out, names[k], &err), err);
        if (mp_matrix_format_at(k)->write != NULL)
            mp_matrix_format_at(k)->write(12, cells, out);
        else
            mp_out_write(out, array, npy(array, "<u8", false, 12, cells));
        CHECK_OK(mp_out_commit(out, &err), err);
    }
    sweep_faults(load_all, paths, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrix__what_is_written_is_read_back),
        cmocka_unit_test(test_matrix__reads_arrays_of_every_type_in_both_orders),
        cmocka_unit_test(test_matrix__refuses_cells_of_arrays_that_are_no_amounts),
        cmocka_unit_test(test_matrix__text_as_people_write_it),
        cmocka_unit_test(test_matrix__says_where_text_is_wrong),
        cmocka_unit_test(test_matrix__numbers_of_tokens_have_a_limit_in_bytes),
        cmocka_unit_test(test_matrix__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
