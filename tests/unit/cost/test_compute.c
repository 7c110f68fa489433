#include "world.h"

static void test_compute__roofline_by_hand(void **state) {
    (void)state;
    static struct net_case c;
    case_plain(&c, 1, 2, 1000000000, 0);
    c.types[0].hbm_bytes_per_s = UINT64_C(2000000000000);
    c.types[0].hbm_efficiency_ppm = 500000; /* 1 byte per ps */
    c.types[0].flops_16bit = UINT64_C(1000000000000000);
    c.types[0].flops_8bit = UINT64_C(2000000000000000);
    c.types[0].flops_efficiency_ppm = 500000; /* 500 or 1000 FLOPs per ps */
    c.types[0].kernel_ns = 10;
    struct mp_model m = {.name = "m",
                         .expert_bytes = 1000000,
                         .expert_flops_per_token = 1000000,
                         .attention_bytes = 300001,
                         .attention_flops_per_token = 500000,
                         .shared_bytes = 1000,
                         .shared_flops_per_token = 1};
    struct mp_compute_coefficients k = mp_compute_coefficients(&c.t, 0, &m);
    assert_int_equal(k.a_ps, 10000);
    assert_int_equal(k.c_ps, 10000);
    assert_int_equal(k.b_ps, 1000000);
    assert_int_equal(k.beta_ps, 2000);
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 0, 0), 0);
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 3, 16), 3010);       /* weights */
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 1, 100000), 200010); /* tokens */
    c.gpus[0].speed_ppm = 750000;
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 3, 16), 4014); /* 4013.33 rounded up */
    c.gpus[0].speed_ppm = 1000000;
    m.is_8bit_compute = true;
    assert_int_equal(mp_compute_coefficients(&c.t, 0, &m).beta_ps, 1000);
    c.types[0].flops_8bit = 0;
    assert_int_equal(mp_compute_coefficients(&c.t, 0, &m).beta_ps, 2000);
    assert_int_equal(mp_attention_ns(&c.t, 0, &m, 0), 0);
    assert_int_equal(mp_attention_ns(&c.t, 0, &m, 1), 311); /* 10 + 300.001 */
    assert_int_equal(mp_attention_ns(&c.t, 0, &m, 1000), 1010);
    assert_int_equal(mp_shared_ns(&c.t, 0, &m, 5), 0); /* the model has no shared expert */
    m.n_shared_experts = 1;
    assert_int_equal(mp_shared_ns(&c.t, 0, &m, 5), 11);
    struct mp_compute_coefficients measured[] = {{"other", 1, 1, 1, 1}, {"m", 5000, 700, 6000, 9}};
    c.types[0].coefficients = measured;
    c.types[0].n_coefficients = 2;
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 2, 1000), 15); /* max(6400, 15000) ps */
    assert_int_equal(mp_compute_ns(&c.t, 0, &m, 4095, UINT64_MAX),
                     UINT64_MAX / 1000 * 9 + 6 + 6); /* no overflow on the way */
}

static void test_compute__port_bound_by_hand(void **state) {
    (void)state;
    static struct net_case c;
    case_plain(&c, 2, 2, UINT64_C(100000000000), UINT64_C(10000000000));
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 0);
    c.matrix[0 * 4 + 1] = 1001; /* NVLink out of 0, into 1 */
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 11);
    c.matrix[0 * 4 + 2] = 500;
    c.matrix[1 * 4 + 2] = 700; /* NIC into 2: 1,200 at 10 per ns */
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 120);
    c.levels[1].pair_bytes_per_s = UINT64_C(1000000000);
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 700);
}

static void test_compute__dispatchers_are_listed(void **state) {
    (void)state;
    static const char *const names[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs", "hsc"};
    for (uint32_t i = 0; i < 6; i++) {
        assert_string_equal(mp_dispatcher_at(i)->name, names[i]);
        assert_ptr_equal(mp_dispatcher_find(names[i]), mp_dispatcher_at(i));
        assert_true(strlen(mp_dispatcher_at(i)->reference) > 10);
    }
    assert_null(mp_dispatcher_at(6));
    assert_null(mp_dispatcher_find("nvshmem"));
    assert_null(mp_dispatcher_find(NULL));
    assert_string_equal(mp_dispatcher_default(MP_PHASE_DECODE, MP_TRACE_TOKENS)->name, "deepep-ll");
    assert_string_equal(mp_dispatcher_default(MP_PHASE_PREFILL, MP_TRACE_TOKENS)->name, "deepep-normal");
    assert_string_equal(mp_dispatcher_default(MP_PHASE_TRAIN, MP_TRACE_TOKENS)->name, "deepep-normal");
    assert_string_equal(mp_dispatcher_default(MP_PHASE_DECODE, MP_TRACE_COUNTS)->name, "a2av");
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compute__roofline_by_hand),
        cmocka_unit_test(test_compute__port_bound_by_hand),
        cmocka_unit_test(test_compute__dispatchers_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
