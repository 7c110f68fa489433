#include "support.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/page.h>

static size_t decode(const char *text, uint8_t *bytes) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, n_bits = 0;
    size_t n = 0;
    assert_int_equal(strlen(text) % 4, 0);
    for (const char *c = text; *c != '\0' && *c != '='; c++) {
        const char *at = strchr(letters, *c);
        assert_non_null(at);
        bits = (bits << 6 | (uint32_t)(at - letters)) & 0xFFFFFF;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            bytes[n++] = (uint8_t)(bits >> n_bits & 255);
        }
    }
    return n;
}

/* Packs, unpacks, and wants every value within half a scale. */
static double check(enum mp_packed_type type, const double *values, const uint32_t *shape, uint32_t n_dims) {
    static const size_t width[] = {1, 2, 4};
    static const char *const names[] = {"u8", "u16", "u32"};
    uint8_t bytes[4096];
    size_t n = 1;
    json_t *o = mp_json_packed(type, values, shape, n_dims);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "type")), names[type]);
    assert_int_equal(json_array_size(json_object_get(o, "shape")), n_dims);
    for (uint32_t d = 0; d < n_dims; d++) {
        n *= shape[d];
        assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "shape"), d)), shape[d]);
    }
    const double scale = json_number_value(json_object_get(o, "scale"));
    assert_true(scale > 0);
    assert_int_equal(decode(json_string_value(json_object_get(o, "base64")), bytes), n * width[type]);
    for (size_t i = 0; i < n; i++) {
        uint64_t whole = 0;
        for (size_t k = 0; k < width[type]; k++)
            whole |= (uint64_t)bytes[i * width[type] + k] << 8 * k;
        assert_true(fabs((double)whole * scale - values[i]) <= scale * 0.500001);
    }
    json_decref(o);
    return scale;
}

static void test_packed__whole_numbers_that_fit_are_exact(void **state) {
    (void)state;
    const double values[] = {0, 1, 65535, 4096, 17};
    const uint32_t shape[] = {5}, square[] = {2, 2};
    assert_true(check(MP_PACK_U16, values, shape, 1) == 1);
    const double one_more[] = {0, 1, 65536, 3};
    assert_true(check(MP_PACK_U16, one_more, square, 2) == 2);
    assert_true(check(MP_PACK_U32, one_more, square, 2) == 1);
    const double small[] = {0, 255, 3, 9};
    assert_true(check(MP_PACK_U8, small, square, 2) == 1);
}

static void test_packed__every_value_is_within_half_a_scale(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(7);
    double values[60];
    const uint32_t shape[] = {3, 4, 5};
    for (int magnitude = -8; magnitude < 14; magnitude++)
        for (int type = 0; type < 3; type++) {
            double most = 0;
            for (int i = 0; i < 60; i++) {
                values[i] = mp_rng_unit(&rng) * pow(10, magnitude);
                most = values[i] > most ? values[i] : most;
            }
            const double scale = check((enum mp_packed_type)type, values, shape, 3);
            static const double top[] = {255, 65535, 4294967295.0};
            assert_true(scale <= fmax(2.6 * most / top[type], 1e-9));
        }
}

static void test_packed__nothing_and_zeros(void **state) {
    (void)state;
    const double zeros[4] = {0};
    const uint32_t shape[] = {4}, none[] = {0, 3};
    assert_true(check(MP_PACK_U16, zeros, shape, 1) == 1);
    assert_true(check(MP_PACK_U16, zeros, none, 2) == 1);
}

static void test_packed__the_same_bytes_each_time(void **state) {
    (void)state;
    const double values[] = {0.1, 0.2, 1.0 / 3, 12345.678};
    const uint32_t shape[] = {4};
    json_t *a = mp_json_packed(MP_PACK_U16, values, shape, 1), *b = mp_json_packed(MP_PACK_U16, values, shape, 1);
    assert_true(json_equal(a, b));
    /* scale 0.2: 1, 1, 2, 61728 */
    assert_string_equal(json_string_value(json_object_get(a, "base64")), "AQABAAIAIPE=");
    json_decref(a);
    json_decref(b);
}

static enum mp_status pack(void *ctx, struct mp_error *err) {
    const double values[] = {1, 2, 3, 4};
    const uint32_t shape[] = {2, 2};
    (void)ctx;
    json_t *o = mp_json_packed(MP_PACK_U16, values, shape, 2);
    const bool is_ok = o != NULL;
    json_decref(o);
    return is_ok ? MP_OK : mp_nomem(err, "packed");
}

static void test_packed__faults_are_told(void **state) {
    (void)state;
    sweep_faults(pack, NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed__whole_numbers_that_fit_are_exact),
        cmocka_unit_test(test_packed__every_value_is_within_half_a_scale),
        cmocka_unit_test(test_packed__nothing_and_zeros),
        cmocka_unit_test(test_packed__the_same_bytes_each_time),
        cmocka_unit_test(test_packed__faults_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
