/* Private to src/rehome. */
#ifndef REHOME_PRIVATE_H
#define REHOME_PRIVATE_H

#include <moeplan/rehome.h>

/* Where the experts of each sequence's tokens are in one layer. */
struct counts {
    uint32_t *outputs; /* [n][n_gpus] (token, expert) pairs */
    uint32_t *rows;    /* [n][n_gpus] tokens with an expert there */
    uint32_t *on_node; /* [n][n_nodes] tokens with an expert there */
};
struct clusters { /* what counting needs of the topology */
    uint32_t n_gpus, n_nodes;
    uint32_t *node, *index, *first, *members; /* [n_gpus] node; index in it; [n_nodes + 1] into members[n_gpus] */
};
enum mp_status clusters_of(struct clusters *out, const struct mp_topology *t, struct mp_arena *arena,
                           struct mp_error *err) MP_MUST_CHECK;
static inline uint32_t gateway_in(const struct clusters *c, uint32_t gpu, uint32_t node) {
    return c->members[c->first[node] + c->index[gpu] % (c->first[node + 1] - c->first[node])];
}

struct counting {
    const struct mp_cost_setup *setup;
    const struct mp_token_flow *flow;
    const struct clusters *clusters;
    uint32_t step;
    uint32_t *slot_gpu;             /* [n_slots] */
    uint32_t *gpu_seen, *node_seen; /* [n_gpus], [n_nodes] the last token there */
    uint32_t stamp;
};
enum mp_status counting_init(struct counting *c, const struct mp_cost_setup *setup, const struct mp_token_flow *flow,
                             const struct clusters *clusters, uint32_t step, struct mp_arena *arena,
                             struct mp_error *err) MP_MUST_CHECK;
enum mp_status counts_new(struct counts *out, const struct counting *c, struct mp_arena *arena,
                          struct mp_error *err) MP_MUST_CHECK;
/* Of this layer, its tokens starting at home[n_sequences]. is_anywhere: an expert with replicas counts wherever it is,
 * if sources are served by the nearest; for sequences that may yet go anywhere. */
enum mp_status counts_make(struct counts *out, struct counting *c, uint32_t layer, const uint32_t *home,
                           bool is_anywhere, struct mp_error *err) MP_MUST_CHECK;

/* What homes save, summed into node_bytes[n][n_nodes] and gpu_bytes[n][n_gpus]. */
struct saving {
    const struct clusters *clusters;
    const struct mp_model *model;
    enum mp_copy_count copies;
    uint32_t n;
    const uint32_t *length;
    uint64_t *node_bytes, *gpu_bytes;
};
/* The combine that ends there, its residual coming from `before`. */
void save_combine(const struct saving *s, const struct counts *c, const uint32_t *before);
/* The dispatch that starts there. */
void save_dispatch(const struct saving *s, const struct counts *c);
/* The residual that goes on to `next` from there, by the combine of the layer counted. */
void save_residual(const struct saving *s, const struct counts *c, const uint32_t *next);

/* Luffy's Algorithm 1; by_most: the printed line 6. */
enum mp_status algorithm1(uint32_t *home, const struct mp_rehome_problem *in, bool by_most, struct mp_arena *scratch,
                          struct mp_error *err) MP_MUST_CHECK;
/* NetMoE's two stages: nodes, then GPUs of each. */
enum mp_status two_stage(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                         struct mp_error *err) MP_MUST_CHECK;

/* The same where GPUs take tokens. */
enum mp_status by_tokens(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                         struct mp_error *err) MP_MUST_CHECK;
/* worth[n][n_gpus]: bytes between nodes times *steps, plus a rank by bytes inside them that is less than one step over
 * all sequences; *steps 0: bytes between nodes alone. */
enum mp_status worth_of_gpus(const int64_t **out, int64_t *steps, const struct mp_rehome_problem *in,
                             struct mp_arena *scratch, struct mp_error *err) MP_MUST_CHECK;
/* What a strategy that matches does: by what the problem limits. */
enum mp_status match(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                     struct mp_error *err) MP_MUST_CHECK;

#endif
