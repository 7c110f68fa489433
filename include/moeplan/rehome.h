/* Sequence migration: where each sequence of a step is, layer by layer, so that fewer bytes travel. docs/LUFFY.md part
 * 2. Lossless. For training and prefill steps: a cache of keys and values would have to move with its sequence. */
#ifndef MOEPLAN_REHOME_H
#define MOEPLAN_REHOME_H

#include <moeplan/flow.h>

MP_API_BEGIN

/* One layer: the homes that its combine brings the sequences to. */
struct mp_rehome_problem {
    uint32_t n, n_gpus, n_nodes;
    const uint32_t *gpu_node; /* [n_gpus] */
    const uint32_t *length;   /* [n] tokens */
    const uint32_t *home;     /* [n] where they are now */
    const uint32_t *outputs;  /* [n][n_gpus] (token, expert) outputs that are on each GPU */
    /* What does not travel between nodes if the sequence's home is on this node, and inside nodes if it is this GPU: of
     * this layer's combine with the residual, and for strategies that see it of the next layer's dispatch. */
    const uint64_t *node_bytes;  /* [n][n_nodes] */
    const uint64_t *gpu_bytes;   /* [n][n_gpus] */
    const uint32_t *most;        /* [n_gpus] sequences it takes; at least n in all */
    const uint32_t *longest;     /* [n_gpus] tokens of the longest it takes */
    const uint64_t *most_tokens; /* NULL, or [n_gpus] tokens it takes, in place of `most` and `longest` */
    const uint32_t *start;       /* [n] homes within the limits */
    const struct mp_topology *topology;
    const struct mp_model *model;
    uint32_t n_candidates; /* Algorithm 1's q */
};
struct mp_rehome {
    const char *name, *summary, *reference;
    bool sees_next; /* node_bytes and gpu_bytes have the next layer's dispatch in them, which takes a forecast of it */
    bool sweeps;    /* asked again for every layer, knowing the homes before and after it, while bytes get fewer */
    /* home[n], within the limits (Algorithm 1 may exceed most_tokens where nothing fits). *bound: no homes within those
     * limits save more node_bytes; UINT64_MAX = none is known. NULL solve: sequences stay. */
    enum mp_status (*solve)(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in,
                            struct mp_arena *scratch, struct mp_error *err);
};
/* src/rehome/rehome_<name>.c and one word in its meson.build; NULL past the last. */
const struct mp_rehome *mp_rehome_at(uint32_t i);
const struct mp_rehome *mp_rehome_find(const char *name);

/* What stays equal on the GPUs. */
enum mp_rehome_balance {
    MP_REHOME_TOKENS,   /* tokens: none is slower at attention, timed by tokens, than the slowest was, by more than
                         * slack_ppm */
    MP_REHOME_SEQUENCES /* each keeps its number of sequences; none is slower at attention, padded to the longest of
                         * them (Luffy, eq. 1), than the slowest was. The flow's attention is timed so */
};
struct mp_rehome_job {
    const struct mp_rehome *strategy;
    enum mp_rehome_balance balance;
    uint32_t slack_ppm;    /* TOKENS */
    uint32_t n_candidates; /* 0 = 2 */
    /* What is kept equal is what batching made it; or, not NULL, what this strategy makes of it, layer by layer, no
     * slack. Then the bytes between nodes over the whole step are never more than its. */
    const struct mp_rehome *balance_of;
};
/* The flow of one step under the strategy; mp_flow_free releases it. */
enum mp_status mp_rehome_flow(struct mp_token_flow **out, const struct mp_rehome_job *job,
                              const struct mp_cost_setup *setup, uint32_t step, struct mp_error *err) MP_MUST_CHECK;
/* Bytes between nodes of the step that no homes go below, whatever their balance: every sequence on its cheapest path.
 * 0 = none is known: dispatchers other than per expert and per node, experts with replicas. */
enum mp_status mp_rehome_floor(uint64_t *bytes, const struct mp_cost_setup *setup, uint32_t step,
                               struct mp_error *err) MP_MUST_CHECK;
/* For mp_sim_options.flow; the job is borrowed. */
struct mp_flow_maker mp_rehome_maker(const struct mp_rehome_job *job);

/* The most that n things can be worth in m bins: worth[n][m], at most room[m] of them in each, none whose size is over
 * limit[m] (sizes NULL = all fit). Exact. bin[n]. price[m]: what one more place in each bin is worth at most, the
 * certificate: sum over things of max(worth - price) plus sum of room * price is the value reached. MP_EUSAGE when they
 * do not fit. Sums of worth must stay below 2^62. */
struct mp_bins {
    uint32_t n, m;
    const int64_t *worth;
    const uint32_t *room, *size, *limit;
};
enum mp_status mp_bins_fill(uint32_t *bin, int64_t *price, const struct mp_bins *in, struct mp_arena *scratch,
                            struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
