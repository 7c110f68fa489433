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
      .tokens_per_request_mean = 300, .phase = MP_PHASE_DECODE, .zipf_ppm = 500000, .coactivation_ppm = 300000,
      .cluster_size = 4, .cross_layer_ppm = 300000, .n_domains = 8, .domain_ppm = 100000, .stickiness_ppm = 100000}},
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
