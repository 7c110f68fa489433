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
      .tokens_per_request_mean = 304, .phase = MP_PHASE_DECODE, .zipf_ppm = 1396875, .coactivation_ppm = 285937,
      .cluster_size = 4, .cross_layer_ppm = 965625, .n_domains = 4, .domain_ppm = 621875, .stickiness_ppm = 993750}},
    {"deepseek-v2-lite prefill, fitted to 94,165 recorded tokens of chat prompts",
     {.preset = "deepseek-v2-lite-like", .n_layers = 26, .n_experts = 64, .top_k = 6, .first_layer_id = 1, .n_requests = 999,
      .tokens_per_request_mean = 94, .phase = MP_PHASE_PREFILL, .zipf_ppm = 256250, .coactivation_ppm = 300000,
      .cluster_size = 4, .cross_layer_ppm = 1000000, .stickiness_ppm = 843750, .prefix_tokens = 1}},
    {"qwen3-30b-a3b decode, max/mean and listed pairs fitted to recorded counts; the rest assumed",
     {.preset = "qwen3-30b-a3b-like", .n_layers = 48, .n_experts = 128, .top_k = 8, .n_requests = 250,
      .tokens_per_request_mean = 303, .phase = MP_PHASE_DECODE, .zipf_ppm = 632500, .coactivation_ppm = 166405,
      .cluster_size = 6, .cross_layer_ppm = 950000, .stickiness_ppm = 800000}},
    {"olmoe prefill, max/mean and six domains fitted to recorded counts; the rest assumed",
     {.preset = "olmoe-like", .n_layers = 16, .n_experts = 64, .top_k = 8, .n_requests = 600, .tokens_per_request_mean = 128,
      .phase = MP_PHASE_PREFILL, .zipf_ppm = 1406250, .coactivation_ppm = 300000, .cluster_size = 4, .cross_layer_ppm = 950000,
      .n_domains = 6, .domain_ppm = 834375, .stickiness_ppm = 800000}},
    {"switch-128 training, top-1, max/mean and three data sets fitted to recorded counts; the rest assumed",
     {.preset = "switch-128-like", .n_layers = 6, .n_experts = 128, .top_k = 1, .n_requests = 600,
      .tokens_per_request_mean = 128, .phase = MP_PHASE_TRAIN, .zipf_ppm = 1334375, .cluster_size = 4,
      .cross_layer_ppm = 500000, .n_domains = 3, .domain_ppm = 476562, .stickiness_ppm = 300000}},
    {"deepseek-v3 decode in shape (58 layers of 256 experts, top-8); not measured: the parameters of qwen3-30b-a3b-like",
     {.preset = "deepseek-v3-like", .n_layers = 58, .n_experts = 256, .top_k = 8, .first_layer_id = 3, .n_requests = 512,
      .tokens_per_request_mean = 32, .phase = MP_PHASE_DECODE, .zipf_ppm = 632500, .coactivation_ppm = 166405,
      .cluster_size = 6, .cross_layer_ppm = 950000, .stickiness_ppm = 800000}},
    {"LIMoE-B/16 in shape (8 experts on 8 GPUs, top-1, 4 layers, two modalities); not measured: all assumed",
     {.preset = "limoe-b16-like", .n_layers = 4, .n_experts = 8, .top_k = 1, .n_requests = 256,
      .tokens_per_request_mean = 212, .phase = MP_PHASE_PREFILL, .zipf_ppm = 800000, .cluster_size = 2,
      .cross_layer_ppm = 500000, .n_domains = 2, .domain_ppm = 500000, .stickiness_ppm = 300000}},
    {"LIMoE-B/32 in shape (8 experts on 8 GPUs, top-1, 4 layers, two modalities); not measured: all assumed",
     {.preset = "limoe-b32-like", .n_layers = 4, .n_experts = 8, .top_k = 1, .n_requests = 256,
      .tokens_per_request_mean = 65, .phase = MP_PHASE_PREFILL, .zipf_ppm = 1000000, .cluster_size = 2,
      .cross_layer_ppm = 500000, .n_domains = 2, .domain_ppm = 500000, .stickiness_ppm = 300000}},
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
