/* Work on long flows beats all along, so that nobody takes who does it for stuck, and stops when a beat fails. */
#include "../../../executor/payload.h"
#include "support.h"
#include <moeplan/alloc.h>

enum { MIB = 1 << 20, N = 5 * MIB + 13, BEATS = 6 };
static uint32_t n_beats, fails_at;

static enum mp_status beat(struct ex_link *link, struct mp_error *err) {
    (void)link;
    return ++n_beats == fails_at ? mp_fail(err, MP_EPEER, "enough") : MP_OK;
}

static struct ex_pulse begin(uint32_t fail) {
    n_beats = 0;
    fails_at = fail;
    return (struct ex_pulse){.beat = beat};
}

static void test_payload__long_work_beats_all_along(void **state) {
    (void)state;
    struct ex_pulse pulse = begin(0);
    const struct ex_payload p = {.pulse = &pulse, .dispatch_bytes = N, .combine_bytes = N};
    uint8_t *a = ex_payload_room(&pulse, N), *b = ex_payload_room(&pulse, N);
    assert_true(a != NULL && b != NULL);
    assert_int_equal(n_beats, 2 * BEATS);
    for (size_t i = 0; i < N; i++)
        if (a[i] != 0)
            fail_msg("byte %zu is not zero", i);
    ex_payload_blank(&p, a, 0xEE, N);
    memset(b, 0xEE, N);
    assert_int_equal(n_beats, 3 * BEATS);
    assert_int_equal(ex_payload_differs(&p, a, b, N), N);
    assert_int_equal(n_beats, 4 * BEATS);
    const uint64_t key = ex_payload_key(&p, a);
    assert_int_equal(n_beats, 5 * BEATS);
    static const size_t places[] = {0, 7, MIB - 1, MIB, 3 * MIB + 5, N - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        b[places[i]] ^= 1;
        assert_int_equal(ex_payload_differs(&p, a, b, N), places[i]);
        assert_true(ex_payload_key(&p, b) != key);
        b[places[i]] ^= 1;
    }
    assert_true(ex_payload_key(&p, b) == key);
    a[3] = 1; /* pieces in another order are another activation */
    b[MIB + 3] = 1;
    assert_true(ex_payload_key(&p, a) != ex_payload_key(&p, b));
    mp_free(a);
    mp_free(b);
}

static void test_payload__work_stops_when_a_beat_fails(void **state) {
    (void)state;
    struct ex_pulse pulse = begin(3);
    const struct ex_payload p = {.pulse = &pulse, .dispatch_bytes = N};
    uint8_t *a = mp_calloc(N, 1);
    assert_non_null(a);
    ex_payload_blank(&p, a, 0xEE, N);
    assert_int_equal(pulse.status, MP_EPEER);
    assert_string_equal(pulse.why.message, "enough");
    assert_int_equal(a[2 * MIB - 1], 0xEE);
    assert_int_equal(a[2 * MIB], 0);
    mp_free(a);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_payload__long_work_beats_all_along),
        cmocka_unit_test(test_payload__work_stops_when_a_beat_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
