/* The named parameter sets: they work, they are as near to the recordings as docs/SYNTHETIC.md says, and the shipped
 * samples are theirs. */
#include "support.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/synth.h>

static struct mp_synth_params preset(const char *wanted) {
    const char *name;
    struct mp_synth_params p;
    for (uint32_t i = 0; mp_synth_preset(i, &name, NULL, &p); i++)
        if (strcmp(name, wanted) == 0)
            return p;
    fail_msg("no preset %s", wanted);
    return p;
}
static struct mp_trace *generate(const struct mp_synth_params *p) {
    struct mp_error err = {0};
    struct mp_trace *t;
    CHECK_OK(mp_synth_generate(&t, p, &mp_limits_default, &err), err);
    return t;
}

static void test_synth_presets__all_work_and_have_names_of_their_own(void **state) {
    (void)state;
    static const char *const expected[] = {"gpt-oss-20b-like", "deepseek-v2-lite-like", "qwen3-30b-a3b-like",
                                           "olmoe-like",       "switch-128-like",       "deepseek-v3-like",
                                           "limoe-b16-like",   "limoe-b32-like"};
    const char *name, *summary;
    struct mp_synth_params p;
    uint32_t n = 0;
    for (; mp_synth_preset(n, &name, &summary, &p); n++) {
        assert_true(n < sizeof expected / sizeof expected[0]);
        assert_string_equal(name, expected[n]);
        assert_string_equal(p.preset, name);
        /* What was not measured says so. */
        bool is_fitted = strstr(summary, "fitted") != NULL;
        assert_true(is_fitted || strstr(summary, "not measured") != NULL);
        p.n_requests = 3;
        p.tokens_per_request_mean = 4;
        struct mp_trace *t = generate(&p);
        assert_true(t->is_synthetic);
        assert_string_equal(t->model, name);
        struct mp_error err = {0};
        CHECK_OK(mp_trace_check(t, &err), err);
        mp_trace_free(t);
    }
    assert_int_equal(n, sizeof expected / sizeof expected[0]);
}

/* traces/README.md gives the command of each. */
static void test_synth_presets__make_the_shipped_samples(void **state) {
    (void)state;
    struct {
        const char *path;
        struct mp_synth_params p;
    } samples[] = {
        {"traces/samples/decode.mpt", preset("gpt-oss-20b-like")},
        {"traces/samples/prefill.mpt", preset("deepseek-v2-lite-like")},
        {"traces/samples/limoe.mpt", preset("limoe-b16-like")},
    };
    samples[0].p.n_requests = 120;
    samples[0].p.tokens_per_request_mean = 24;
    samples[1].p.n_requests = 120;
    samples[1].p.tokens_per_request_mean = 48;
    samples[1].p.n_layers = 8;
    samples[1].p.n_domains = 4;
    samples[1].p.domain_ppm = 200000;
    samples[2].p.n_requests = 128;
    samples[2].p.tokens_per_request_mean = 64;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        samples[i].p.seed = 1;
        struct mp_error err = {0};
        struct mp_trace *t = generate(&samples[i].p);
        struct mp_out *o;
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        mp_trace_write(t, o);
        size_t size;
        const uint8_t *bytes = mp_out_memory_bytes(o, &size);
        struct mp_in *shipped;
        CHECK_OK(mp_in_open(&shipped, source_path(samples[i].path), 0, &err), err);
        assert_true(size < 300000);
        if (size != shipped->size || memcmp(bytes, shipped->data, size) != 0)
            fail_msg("%s is not what its preset makes", samples[i].path);
        mp_in_close(shipped);
        CHECK_OK(mp_out_commit(o, &err), err);
        mp_trace_free(t);
    }
}

static void test_synth_presets__are_near_the_recordings(void **state) {
    (void)state;
    static const struct {
        const char *name, *path;
        uint32_t n_experts;
    } fitted[] = {
        {"gpt-oss-20b-like", "traces/gpt-oss-20b/mmlu_test.npz", 32},
        {"deepseek-v2-lite-like", "traces/deepseek-v2-lite/chat_prefill.npz", 64},
    };
    for (size_t i = 0; i < sizeof fitted / sizeof fitted[0]; i++) {
        const char *path = shared_path(fitted[i].path);
        if (path == NULL)
            skip();
        struct mp_synth_params p = preset(fitted[i].name);
        struct mp_trace_hints hints = mp_trace_hints_none;
        hints.layer_base = 0;
        hints.ids_are_physical = 0;
        hints.is_ranked = 0;
        hints.phase = p.phase;
        hints.n_experts = fitted[i].n_experts;
        struct mp_error err = {0};
        struct mp_trace *real, *made = generate(&p);
        struct mp_trace_stats r, m;
        CHECK_OK(mp_trace_load(&real, path, &hints, &mp_limits_default, &err), err);
        CHECK_OK(mp_trace_statistics(&r, real, 1, &err), err);
        CHECK_OK(mp_trace_statistics(&m, made, 1, &err), err);
        const double pairs[][2] = {{r.load_max_over_mean, m.load_max_over_mean},
                                   {r.pair_lift, m.pair_lift},
                                   {r.cross_layer_information, m.cross_layer_information},
                                   {r.step_max_over_mean, m.step_max_over_mean},
                                   {r.run_max_over_mean, m.run_max_over_mean}};
        for (size_t j = 0; j < sizeof pairs / sizeof pairs[0]; j++)
            if (fabs(pairs[j][1] / pairs[j][0] - 1) > 0.15)
                fail_msg("%s: statistic %zu is %.3f, recorded %.3f", fitted[i].name, j, pairs[j][1], pairs[j][0]);
        mp_trace_free(real);
        mp_trace_free(made);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synth_presets__all_work_and_have_names_of_their_own),
        cmocka_unit_test(test_synth_presets__make_the_shipped_samples),
        cmocka_unit_test(test_synth_presets__are_near_the_recordings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
