#include "support.h"
#include <moeplan/model.h>

static struct mp_model *load(const char *spec) {
    struct mp_error err = {0};
    struct mp_model *m;
    CHECK_OK(mp_model_load(&m, spec, NULL, &err), err);
    return m;
}

/* Figures worked out by hand from the published configurations. */
static void test_model__presets_by_hand(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t n_layers, first, n_experts, top_k, hidden;
        uint64_t expert_bytes, dispatch, combine, kv;
    } want[] = {
        {"gpt-oss-20b", 24, 0, 32, 4, 2880, 13219200, 5760, 5760, 49152},
        {"gpt-oss-120b", 36, 0, 128, 4, 2880, 13219200, 5760, 5760, 73728},
        {"deepseek-v2-lite", 26, 1, 64, 6, 2048, 17301504, 4096, 4096, 31104},
        {"deepseek-v3", 58, 3, 256, 8, 7168, 44040192, 7392, 14336, 70272},
        {"qwen3-30b-a3b", 48, 0, 128, 8, 2048, 9437184, 4096, 4096, 98304},
        {"qwen3-235b-a22b", 94, 0, 128, 8, 4096, 37748736, 8192, 8192, 192512},
        {"qwen3-next-80b-a3b", 48, 0, 512, 10, 2048, 6291456, 4096, 4096, 24576},
        {"olmoe", 16, 0, 64, 8, 2048, 12582912, 4096, 4096, 131072},
        {"mixtral-8x7b", 32, 0, 8, 2, 4096, 352321536, 8192, 8192, 131072},
        {"qwen1.5-moe-a2.7b", 24, 0, 60, 4, 2048, 17301504, 4096, 4096, 196608},
        {"limoe-b16", 4, 5, 8, 1, 768, 9437184, 1536, 1536, 0},
        {"switch-128", 12, 1, 128, 1, 768, 9437184, 1536, 1536, 36864},
    };
    uint32_t n = 0;
    const char *name, *summary;
    while (mp_model_preset(n, &name, &summary))
        n++;
    assert_int_equal(n, sizeof want / sizeof want[0]);
    for (size_t i = 0; i < n; i++) {
        struct mp_model *m = load(want[i].name);
        assert_string_equal(m->name, want[i].name);
        assert_true(m->source[0] != '\0');
        assert_int_equal(m->n_layers, want[i].n_layers);
        assert_int_equal(m->layer_ids[0], want[i].first);
        assert_int_equal(m->n_experts, want[i].n_experts);
        assert_int_equal(m->top_k, want[i].top_k);
        assert_int_equal(m->hidden_size, want[i].hidden);
        assert_int_equal(m->expert_bytes, want[i].expert_bytes);
        assert_int_equal(m->dispatch_bytes, want[i].dispatch);
        assert_int_equal(m->combine_bytes, want[i].combine);
        assert_int_equal(m->kv_bytes_per_token, want[i].kv);
        assert_int_equal(m->is_8bit_compute, strcmp(want[i].name, "deepseek-v3") == 0);
        /* What is built in is the file, byte for byte. */
        char file[256];
        snprintf(file, sizeof file, "src/model/presets/%s.yaml", want[i].name);
        struct mp_model *same = load(source_path(file));
        assert_string_equal(same->sha256, m->sha256);
        mp_model_free(same);
        mp_model_free(m);
    }
}

/* All weights together come to the published sizes, within 2 %. */
static void test_model__presets_have_their_published_size(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double parameters, bytes_per_parameter;
    } want[] = {{"deepseek-v3", 671e9, 1},
                {"deepseek-v2-lite", 15.7e9, 2},
                {"qwen3-30b-a3b", 30.5e9, 2},
                {"qwen3-235b-a22b", 235e9, 2},
                {"qwen3-next-80b-a3b", 80e9, 2},
                {"olmoe", 6.92e9, 2},
                {"mixtral-8x7b", 46.7e9, 2},
                {"qwen1.5-moe-a2.7b", 14.3e9, 2},
                {"gpt-oss-20b", 12.8 * 1.0737e9, 1},
                {"gpt-oss-120b", 60.8 * 1.0737e9, 1},
                {"switch-128", 7.4e9, 2}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct mp_model *m = load(want[i].name);
        double bytes = (double)m->expert_bytes * m->n_experts * m->n_layers + (double)m->shared_bytes * m->n_layers +
                       (double)m->dense_bytes;
        double ratio = bytes / (want[i].parameters * want[i].bytes_per_parameter);
        if (ratio < 0.98 || ratio > 1.02)
            fail_msg("%s: %.4g bytes, %.3f of the published size", m->name, bytes, ratio);
        mp_model_free(m);
    }
}

static void test_model__generic(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_model *m;
    CHECK_OK(mp_model_generic(&m, NULL, 26, 64, 6, &err), err);
    assert_non_null(strstr(m->name, "generic"));
    assert_int_equal(m->n_layers, 26);
    assert_int_equal(m->layer_ids[25], 25);
    assert_int_equal(m->expert_bytes, 50331648);
    assert_int_equal(m->dispatch_bytes, 8192);
    mp_model_free(m);
    CHECK_OK(mp_model_generic(&m, NULL, MP_MAX_LAYERS, MP_MAX_EXPERTS, MP_MAX_TOP_K, &err), err);
    mp_model_free(m);
    assert_int_equal(mp_model_generic(&m, NULL, 0, 1, 1, &err), MP_EUSAGE);
    assert_null(m);
    assert_int_equal(mp_model_generic(&m, NULL, MP_MAX_LAYERS + 1, 1, 1, NULL), MP_EUSAGE);
    assert_int_equal(mp_model_generic(&m, NULL, 1, MP_MAX_EXPERTS + 1, 1, NULL), MP_EUSAGE);
    assert_int_equal(mp_model_generic(&m, NULL, 1, 128, MP_MAX_TOP_K + 1, NULL), MP_EUSAGE);
    assert_int_equal(mp_model_generic(&m, NULL, 1, 4, 5, NULL), MP_EUSAGE);
    mp_model_free(NULL);
}

/* The recording of a stack has its layers where the model has them, dense ones left out. */
static void test_model__generic_keeps_the_layer_ids_of_the_trace(void **state) {
    (void)state;
    static const uint32_t ids[] = {3, 4, 7}, falling[] = {4, 3}, far[] = {MP_MAX_LAYERS};
    struct mp_error err = {0};
    struct mp_model *m;
    CHECK_OK(mp_model_generic(&m, ids, 3, 64, 6, &err), err);
    assert_int_equal(m->n_layers, 3);
    assert_int_equal(m->n_hidden_layers, 8);
    assert_memory_equal(m->layer_ids, ids, sizeof ids);
    mp_model_free(m);
    assert_int_equal(mp_model_generic(&m, falling, 2, 64, 6, &err), MP_EUSAGE);
    assert_null(m);
    assert_int_equal(mp_model_generic(&m, far, 1, 64, 6, NULL), MP_EUSAGE);
}

static void test_model__unknown_names(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_model *m;
    assert_int_equal(mp_model_load(&m, "gpt-5", NULL, &err), MP_EINPUT);
    assert_null(m);
    assert_non_null(strstr(err.message, "not a file or a built-in model"));
    assert_int_equal(mp_model_load(&m, "no/such.yaml", NULL, NULL), MP_EIO);
    assert_int_equal(mp_model_load(&m, "/tmp", NULL, NULL), MP_EIO);
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_model *m;
    enum mp_status status = mp_model_load(&m, ctx, NULL, err);
    mp_model_free(m);
    return status;
}
static enum mp_status generic_flow(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_model *m;
    enum mp_status status = mp_model_generic(&m, NULL, 1000, 8, 2, err);
    mp_model_free(m);
    return status;
}
static void test_model__faults(void **state) {
    (void)state;
    char preset[] = "deepseek-v3", file[4096];
    snprintf(file, sizeof file, "%s", source_path("src/model/presets/olmoe.yaml"));
    sweep_faults(load_flow, preset, 1);
    sweep_faults(load_flow, file, 1);
    sweep_faults(generic_flow, NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model__presets_by_hand),
        cmocka_unit_test(test_model__presets_have_their_published_size),
        cmocka_unit_test(test_model__generic_keeps_the_layer_ids_of_the_trace),
        cmocka_unit_test(test_model__generic),
        cmocka_unit_test(test_model__unknown_names),
        cmocka_unit_test(test_model__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
