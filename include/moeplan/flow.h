/* Tokens that move between layers, and tokens that stand for others: docs/LUFFY.md. Without a flow (NULL) every token
 * comes back to the rank it started on, and all travel. */
#ifndef MOEPLAN_FLOW_H
#define MOEPLAN_FLOW_H

#include <moeplan/cost.h>

MP_API_BEGIN

/* Where the tokens of one step are, layer by layer. A sequence is consecutive rows of the step that stay together:
 * those of one request on one rank; of a decode step each row is one. */
struct mp_token_flow {
    uint32_t n_layers, n_rows, n_sequences; /* layers of the plan; rows of the step */
    const uint32_t *first_row;              /* [n_sequences + 1] sequence i is rows [first_row[i], first_row[i + 1]) */
    /* [n_layers + 1][n_sequences] the GPU where a sequence is when layer l begins: its attention and gate run there,
     * its dispatch starts there. The combine of layer l brings it to its home of layer l + 1, its residual with it; the
     * last one is where it ends. */
    uint32_t *home;
    /* NULL = every token travels (lossless). Else [n_layers][n_rows][top_k]: the row of the step whose copy travels and
     * is computed in place of this row's, for the expert at this place of its list; its own row = it travels itself.
     * The row named has the same expert and stands for itself there. */
    uint32_t *stands_for;
    bool
        is_padded; /* attention takes as long as that of as many sequences of the longest one's length (Luffy, eq. 1) */
    struct mp_arena *arena;
};
/* The flow that leaves every sequence where batching put it. The caller changes homes at will and frees it with
 * mp_flow_free. MP_EUSAGE for a COUNTS trace, which has no tokens. */
enum mp_status mp_flow_new(struct mp_token_flow **out, const struct mp_workload *w, uint32_t step,
                           struct mp_error *err) MP_MUST_CHECK;
/* Fills flow->stands_for with each row itself, for condensation to change. */
enum mp_status mp_flow_add_stands_for(struct mp_token_flow *f, uint32_t top_k, struct mp_error *err) MP_MUST_CHECK;
void mp_flow_free(struct mp_token_flow *f); /* NULL is fine */
/* rows[n_gpus]: tokens on each GPU when layer l (0 .. n_layers) begins. */
void mp_flow_rows(const struct mp_token_flow *f, uint32_t l, uint64_t *rows, uint32_t n_gpus);

/* Makes the flow of a step: ctx belongs to the maker. Called from several threads; the result depends on (setup, step)
 * alone. setup->flow is NULL. */
struct mp_flow_maker {
    enum mp_status (*make)(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *setup, uint32_t step,
                           struct mp_error *err);
    void *ctx;
};

/* Attention of n sequences of up to `longest` tokens, padded to that: attention_flops_per_token for the projections
 * (6 hidden^2 where the model gives none), and 4 * longest * hidden for the scores, per token. In the ratio of Luffy's
 * T_att(B, L) = 3 B L d^2 / P + 2 B L^2 d / P, with weights read and a kernel launched as mp_attention_ns has them. */
uint64_t mp_sequences_attention_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t n,
                                   uint64_t longest);
/* Attention and gate of one GPU in the layer that `traffic` was computed for: mp_attention_ns of its tokens, or of its
 * padded sequences where the setup has a flow that says so. */
uint64_t mp_layer_attention_ns(const struct mp_cost_setup *s, const struct mp_traffic *traffic, uint32_t gpu);

MP_API_END

#endif
