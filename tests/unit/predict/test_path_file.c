#include "support.h"
#include "paths.h"
#include <zlib.h>

static void put_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
/* Makes the header's checksum right again. */
static void seal(uint8_t *file) {
    uint32_t n_layers;
    memcpy(&n_layers, file + 24, 4);
    put_u32(file + 124, 0);
    put_u32(file + 124, (uint32_t)crc32(0, file, 128 + 4 * n_layers));
}
static uint8_t *stored(const struct mp_path_tables *t, uint32_t places, size_t *size) {
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    CHECK_OK(mp_path_write(t, places, o, &err), err);
    const uint8_t *bytes = mp_out_memory_bytes(o, size);
    uint8_t *copy = malloc(*size);
    assert_true(bytes != NULL && copy != NULL);
    memcpy(copy, bytes, *size);
    mp_out_cancel(o);
    return copy;
}
static enum mp_status read_back(struct mp_path_tables **out, const uint8_t *bytes, size_t size, struct mp_error *err) {
    struct mp_in *in;
    CHECK_OK(mp_in_from_memory(&in, "tables", bytes, size, err), *err);
    enum mp_status status = mp_path_read(out, in, err);
    mp_in_close(in);
    assert_true((status == MP_OK) == (*out != NULL));
    return status;
}

/* Every number comes back, rounded as asked; a second writing gives the same bytes; and what was learned from is known.
 */
static void test_path_file__comes_back(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct learned x = learn(make_trace(40, true, 1), 3);
    mp_sha256_hex("a recording", 11, x.tables->trace_sha256);
    for (uint32_t places = 0; places <= MP_PATH_PLACES_MAX; places++) {
        size_t size, size_again;
        uint8_t *file = stored(x.tables, places, &size);
        struct mp_path_tables *t;
        CHECK_OK(read_back(&t, file, size, &err), err);
        uint8_t *again = stored(t, places, &size_again);
        assert_true(size == size_again && memcmp(file, again, size) == 0);
        assert_int_equal(t->hint_places, places);
        assert_int_equal(t->n_tokens, x.tables->n_tokens);
        assert_int_equal(t->part_checksum, mp_path_part_checksum(&x.a));
        assert_int_not_equal(t->part_checksum, mp_path_part_checksum(&x.b));
        assert_string_equal(t->trace_sha256, x.tables->trace_sha256);
        const int32_t half = 1 << (15 - places);
        for (uint32_t l = 1; l < LAYERS; l++) {
            const uint32_t n = (l < 3 ? l : 3) * EXPERTS * EXPERTS;
            for (uint32_t i = 0; i < n; i++) {
                const size_t at = (size_t)l * 3 * EXPERTS * EXPERTS + i;
                assert_true(abs(t->hint[at] - x.tables->hint[at]) <= half);
                assert_int_equal(t->hint[at] % (2 * half), 0);
            }
            assert_int_equal(t->layer_ids[l], x.trace->layer_ids[l]);
        }
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
            assert_true(abs(t->popularity[i] - x.tables->popularity[i]) <= 128);
        mp_path_free(t);
        free(file);
        free(again);
    }
    forget(&x);
}

/* No flipped bit and no missing or further byte gets through. */
static void test_path_file__damage_is_seen(void **state) {
    (void)state;
    struct learned x = learn(make_trace(8, true, 2), 1);
    size_t size;
    uint8_t *file = stored(x.tables, 3, &size), *longer = calloc(size + 1, 1);
    struct mp_path_tables *t;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        struct mp_error err = {0};
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(read_back(&t, file, size, &err), MP_EINPUT);
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < size; n++) {
        struct mp_error err = {0};
        assert_int_equal(read_back(&t, file, n, &err), MP_EINPUT);
    }
    memcpy(longer, file, size);
    struct mp_error err = {0};
    assert_int_equal(read_back(&t, longer, size + 1, &err), MP_EINPUT);
    free(longer);
    free(file);
    forget(&x);
}

/* Right checksums over wrong figures: refused before anything of that size is allocated. */
static void test_path_file__believes_no_figure(void **state) {
    (void)state;
    static const struct {
        uint32_t at, value;
        const char *says;
    } wrong[] = {{8, 2, "version 2"},
                 {12, 9, "binary places"},
                 {16, 1, "cut short"},
                 {24, 0, "layers: 0"},
                 {24, MP_MAX_LAYERS, "do not fit"},
                 {28, 0, "experts: 0"},
                 {28, MP_MAX_EXPERTS, "its shape needs"},
                 {32, 13, "top-k: 13"},
                 {36, 5, "path length: 5"},
                 {36, 3, "its shape needs"},
                 {56, 100, "its shape needs"},
                 {64, 3, "bytes of a hint: 3"},
                 {64, 2, "its shape needs"},
                 {128, 9, "layer: 1"},
                 {120, 0, "checksum of the entries"}};
    struct learned x = learn(make_trace(8, true, 2), 2);
    size_t size;
    uint8_t *file = stored(x.tables, 3, &size);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct mp_error err = {0};
        struct mp_path_tables *t;
        uint8_t *copy = malloc(size);
        memcpy(copy, file, size);
        put_u32(copy + wrong[i].at, wrong[i].value);
        if (wrong[i].at != 24)
            seal(copy);
        assert_int_equal(read_back(&t, copy, size, &err), MP_EINPUT);
        if (strstr(err.message, wrong[i].says) == NULL)
            fail_msg("%u at %u: %s", wrong[i].value, wrong[i].at, err.message);
        free(copy);
    }
    free(file);
    forget(&x);
}

/* Eighths of an octave are enough: stored tables find as many experts as those in memory. */
static void test_path_file__rounding_costs_little(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct learned x = learn(make_trace(80, false, 3), 2);
    struct mp_path_tables *t;
    size_t size;
    uint8_t *file = stored(x.tables, 3, &size);
    CHECK_OK(read_back(&t, file, size, &err), err);
    struct mp_path_accuracy exact = measured(x.tables, &x.b, 2, 1), rounded = measured(t, &x.b, 2, 1);
    assert_true(exact.recall - rounded.recall < 0.01);
    assert_true(size < 2 * LAYERS * 2 * EXPERTS * EXPERTS);
    mp_path_accuracy_free(&exact);
    mp_path_accuracy_free(&rounded);
    mp_path_free(t);
    free(file);
    forget(&x);
}

/* Tables of another model are told from the recording's. */
static void test_path_file__fits_its_model_alone(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct learned x = learn(make_trace(8, true, 2), 1);
    CHECK_OK(mp_path_check_fit(x.tables, "tables", x.trace, &err), err);
    x.tables->layer_ids[1] = 7;
    assert_int_equal(mp_path_check_fit(x.tables, "tables", x.trace, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "table 1 is of layer 7"));
    mp_error_clear(&err);
    x.tables->n_experts = 64;
    assert_int_equal(mp_path_check_fit(x.tables, "tables", x.trace, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "the top-2 of 64 experts"));
    x.tables->n_experts = EXPERTS;
    forget(&x);
}

static enum mp_status write_and_read(void *ctx, struct mp_error *err) {
    const struct learned *x = ctx;
    struct mp_out *o = NULL;
    struct mp_in *in = NULL;
    struct mp_path_tables *t = NULL;
    enum mp_status status = MP_OK;
    const char *path = temp_path("faulted.paths");
    MP_TRY(mp_out_open(&o, path, err));
    status = mp_path_write(x->tables, 3, o, err);
    if (status != MP_OK) {
        mp_out_cancel(o);
        return status;
    }
    MP_TRY(mp_out_commit(o, err));
    MP_TRY(mp_in_open(&in, path, 0, err));
    status = mp_path_read(&t, in, err);
out:
    mp_path_free(t);
    mp_in_close(in);
    return status;
}
static void test_path_file__survives_faults(void **state) {
    (void)state;
    struct learned x = learn(make_trace(6, true, 4), 2);
    sweep_faults(write_and_read, &x, 1);
    forget(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path_file__comes_back),           cmocka_unit_test(test_path_file__damage_is_seen),
        cmocka_unit_test(test_path_file__believes_no_figure),   cmocka_unit_test(test_path_file__rounding_costs_little),
        cmocka_unit_test(test_path_file__fits_its_model_alone), cmocka_unit_test(test_path_file__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
