/* Named parameter sets. Constants fitted to recordings by tools/dev/fit_presets, except where the summary says otherwise;
 * the table of fitted against real is in docs/SYNTHETIC.md. */
#include <moeplan/synth.h>
#include <stddef.h>

struct preset {
    const char *summary;
    struct mp_synth_params params;
};

static const struct preset presets[] = {
    {"gpt-oss-20b decode, fitted to 61,020 recorded tokens of mmlu questions",
     {.preset = "gpt-oss-20b-like", .n_layers = 24, .n_experts = 32, .top_k = 4, .n_requests = 200,
      .tokens_per_request_mean = 304, .phase = MP_PHASE_DECODE, .zipf_ppm = 1175000, .coactivation_ppm = 712500,
      .cluster_size = 3, .cross_layer_ppm = 981250, .n_domains = 4, .domain_ppm = 600000, .stickiness_ppm = 793750}},
    {"deepseek-v2-lite prefill, fitted to 94,165 recorded tokens of chat prompts",
     {.preset = "deepseek-v2-lite-like", .n_layers = 26, .n_experts = 64, .top_k = 6, .first_layer_id = 1, .n_requests = 999,
      .tokens_per_request_mean = 94, .phase = MP_PHASE_PREFILL, .zipf_ppm = 600000, .coactivation_ppm = 500000,
      .cluster_size = 4, .cross_layer_ppm = 900000, .stickiness_ppm = 500000, .prefix_tokens = 1}},
};

bool mp_synth_preset(uint32_t i, const char **name, const char **summary, struct mp_synth_params *params) {
    if (i >= sizeof presets / sizeof presets[0])
        return false;
    if (name != NULL)
        *name = presets[i].params.preset;
    if (summary != NULL)
        *summary = presets[i].summary;
    if (params != NULL)
        *params = presets[i].params;
    return true;
}
