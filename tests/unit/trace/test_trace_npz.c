#include "support.h"
#include <moeplan/trace.h>

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

static void test_trace_npz__real_files_survive_the_native_format(void **state) {
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

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_npz__real_files_survive_the_native_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
