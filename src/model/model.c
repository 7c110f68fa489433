/* Loading a model from a file or a preset; the stand-in for traces without one. */
#include "model.h"
#include <moeplan/base.h>
#include <string.h>
#include <sys/stat.h>

void mp_model_free(struct mp_model *m) {
    if (m != NULL)
        mp_arena_free(m->arena);
}

bool mp_model_preset(uint32_t i, const char **name, const char **summary) {
    for (uint32_t k = 0; model_presets[k].name != NULL; k++)
        if (k == i) {
            *name = model_presets[k].name;
            *summary = model_presets[k].summary;
            return true;
        }
    return false;
}

enum mp_status mp_model_load(struct mp_model **out, const char *spec, const struct mp_limits *limits,
                             struct mp_error *err) {
    *out = NULL;
    struct stat st;
    const struct mp_embedded *preset = model_presets;
    while (preset->name != NULL && strcmp(preset->name, spec) != 0)
        preset++;
    bool is_file = strcmp(spec, "-") == 0 || (stat(spec, &st) == 0 && !(preset->name != NULL && S_ISDIR(st.st_mode)));
    bool looks_like_path = strchr(spec, '/') != NULL || strstr(spec, ".yaml") != NULL || strstr(spec, ".yml") != NULL;
    struct mp_in *in;
    enum mp_status status;
    if (!is_file && preset->name != NULL) {
        status = mp_in_from_memory(&in, preset->name, preset->text, preset->length, err);
    } else if (!is_file && !looks_like_path) {
        char quoted[200];
        return mp_fail(
            err, MP_EINPUT,
            "\"%s\" is not a file or a built-in model (write a path, or a name that \"moeplan list presets\" shows)",
            mp_quote(spec, strlen(spec), quoted, sizeof quoted));
    } else {
        status = mp_in_open(&in, spec, (limits != NULL ? limits : &mp_limits_default)->yaml_bytes, err);
    }
    if (status != MP_OK)
        return status;
    status = mp_model_parse(out, in, limits, err);
    mp_in_close(in);
    return status;
}

enum mp_status mp_model_generic(struct mp_model **out, const uint32_t *layer_ids, uint32_t n_layers, uint32_t n_experts,
                                uint32_t top_k, struct mp_error *err) {
    enum { HIDDEN = 4096, EXPERT = 2048 };
    *out = NULL;
    if (n_layers == 0 || n_layers > MP_MAX_LAYERS || n_experts == 0 || n_experts > MP_MAX_EXPERTS || top_k == 0 ||
        top_k > MP_MAX_TOP_K || top_k > n_experts)
        return mp_fail(
            err, MP_EUSAGE,
            "a model with %u layers, %u experts and top-%u cannot be (give at most %u layers, %u experts, top-%u)",
            n_layers, n_experts, top_k, MP_MAX_LAYERS, MP_MAX_EXPERTS, MP_MAX_TOP_K);
    for (uint32_t l = 0; layer_ids != NULL && l < n_layers; l++)
        if (layer_ids[l] >= MP_MAX_LAYERS || (l > 0 && layer_ids[l] <= layer_ids[l - 1]))
            return mp_fail(err, MP_EUSAGE, "MoE layer %u of a model cannot have id %u (write rising ids below %u)", l,
                           layer_ids[l], MP_MAX_LAYERS);
    const uint32_t n_hidden = layer_ids != NULL ? layer_ids[n_layers - 1] + 1 : n_layers;
    struct mp_arena *arena = mp_arena_new();
    struct mp_model *m = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *m) : NULL;
    uint32_t *ids = m != NULL ? mp_arena_alloc(arena, n_layers, sizeof *ids) : NULL;
    const char *name = NULL; /* also what the hash is of: all that sets two stand-ins apart */
    if (ids != NULL && n_hidden == n_layers)
        name = mp_arena_printf(arena, "generic stand-in (%u layers, %u experts, top-%u)", n_layers, n_experts, top_k);
    else if (ids != NULL)
        name = mp_arena_printf(arena, "generic stand-in (%u of %u layers, %u experts, top-%u)", n_layers, n_hidden,
                               n_experts, top_k);
    if (name == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "making a model");
    }
    for (uint32_t l = 0; l < n_layers; l++)
        ids[l] = layer_ids != NULL ? layer_ids[l] : l;
    const uint64_t attention_weights = UINT64_C(4) * HIDDEN * HIDDEN;
    *m = (struct mp_model){
        .name = name,
        .source =
            "assumed by moeplan: bf16, hidden 4096, expert 2048, four square attention matrices, 8 KV heads of 128",
        .n_hidden_layers = n_hidden,
        .n_layers = n_layers,
        .layer_ids = ids,
        .n_experts = n_experts,
        .top_k = top_k,
        .n_groups = 1,
        .hidden_size = HIDDEN,
        .expert_size = EXPERT,
        .weight_bits_x100 = 1600,
        .dense_bits_x100 = 1600,
        .expert_bytes = UINT64_C(3) * HIDDEN * EXPERT * 2,
        .expert_flops_per_token = UINT64_C(6) * HIDDEN * EXPERT,
        .dispatch_bytes = 2 * HIDDEN,
        .combine_bytes = 2 * HIDDEN,
        .attention_bytes = attention_weights * 2,
        .attention_flops_per_token = attention_weights * 2,
        .kv_bytes_per_token = UINT64_C(2) * 8 * 128 * 2 * n_hidden,
        .dense_bytes = attention_weights * 2 * n_hidden,
        .is_stand_in = true,
        .arena = arena,
    };
    mp_sha256_hex(name, strlen(name), m->sha256);
    *out = m;
    return MP_OK;
}
