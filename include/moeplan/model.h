/* A Mixture-of-Experts model as the planner sees it: layers, experts, sizes. Immutable after load. */
#ifndef MOEPLAN_MODEL_H
#define MOEPLAN_MODEL_H

#include <moeplan/alloc.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>

MP_API_BEGIN

struct mp_model {
    const char *name, *source;
    uint32_t n_hidden_layers;                       /* all transformer layers, dense ones included */
    uint32_t n_layers;                              /* MoE layers */
    const uint32_t *layer_ids;                      /* [n_layers] absolute index of each MoE layer, ascending */
    uint32_t n_experts, top_k;                      /* routed experts of a layer; experts per token */
    uint32_t n_shared_experts;                      /* always-on experts, held by every GPU (data parallel) */
    uint32_t n_groups;                              /* expert groups of group-limited routing; 1 = none */
    uint32_t hidden_size, expert_size, shared_size; /* FFN inner sizes; shared_size of all shared experts together */
    uint32_t weight_bits_x100;                      /* bits per expert weight x 100: bf16 1600, fp8 800, mxfp4 425 */
    uint32_t dense_bits_x100;                       /* of a weight outside of experts; 0 = as experts */
    bool is_8bit_compute;                           /* which FLOPS figure of the GPU applies */
    uint64_t expert_bytes;           /* weights of one routed expert (from the above when the file gives none) */
    uint64_t expert_flops_per_token; /* 6 * hidden * expert_size for gated FFNs, 4 * for plain ones */
    uint64_t shared_bytes, shared_flops_per_token;
    uint64_t dispatch_bytes, combine_bytes; /* of one token's activation, out and back */
    uint64_t attention_bytes;               /* non-expert weights read per layer and step, on each GPU */
    uint64_t attention_flops_per_token;     /* per layer */
    uint64_t kv_bytes_per_token;            /* KV cache, all layers */
    uint64_t dense_bytes;       /* non-expert weights in all (embeddings, attention, dense FFNs), on each GPU */
    uint64_t other_ns_per_step; /* sampling, head, host gaps */
    bool is_stand_in; /* made by mp_model_generic: its layers are those of the trace, maybe not all there are */
    char sha256[65];
    struct mp_arena *arena;
};

/* `spec` is a YAML file or a preset's name. */
enum mp_status mp_model_load(struct mp_model **out, const char *spec, const struct mp_limits *limits,
                             struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_model_parse(struct mp_model **out, const struct mp_in *in, const struct mp_limits *limits,
                              struct mp_error *err) MP_MUST_CHECK;
/* A stand-in for a trace that comes without a model: bf16, hidden 4096, expert 2048; says so in its name. layer_ids
 * are the n_layers MoE layers, rising (NULL = 0, 1, ...); hidden layers end with the last of them. */
enum mp_status mp_model_generic(struct mp_model **out, const uint32_t *layer_ids, uint32_t n_layers, uint32_t n_experts,
                                uint32_t top_k, struct mp_error *err) MP_MUST_CHECK;
void mp_model_free(struct mp_model *m);
bool mp_model_preset(uint32_t i, const char **name, const char **summary);

MP_API_END

#endif
