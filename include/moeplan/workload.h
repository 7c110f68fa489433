/* Trace -> steps: a plan is judged per forward pass, on data split by whole request. A workload is a list of steps over
 * one part of a trace; it borrows the trace. */
#ifndef MOEPLAN_WORKLOAD_H
#define MOEPLAN_WORKLOAD_H

#include <moeplan/base.h>
#include <moeplan/trace.h>

MP_API_BEGIN

/* How requests become steps (DESIGN.md part 2). */
struct mp_batching {
    enum mp_phase phase;      /* PREFILL or DECODE (TRAIN is built like PREFILL) */
    uint32_t n_ranks;         /* source ranks = GPUs of the expert-parallel group */
    uint32_t batch_per_rank;  /* decode: B concurrent requests per rank */
    uint64_t tokens_per_rank; /* prefill: T; a longer request goes on in the next step, on the same rank */
    uint32_t source_skew_ppm; /* 0 = round-robin; s: rank r gets requests in proportion to (r + 1)^-(s / 10^6) */
    uint32_t pad_tokens;      /* a step's tokens per rank are padded up to a multiple (CUDA graphs); 0 or 1 = none */
    uint32_t n_steps_max;     /* 0 = all; else the middles of so many stretches; with resample: how many (0 = 64) */
    bool resample;            /* bootstrap: rows or pieces of requests drawn at random, with replacement */
    uint64_t seed;
};

enum mp_split_kind {
    MP_SPLIT_NONE,    /* plan and score on everything; labelled "planning data" */
    MP_SPLIT_HASH,    /* seeded hash of the request id, stratified by category when the trace has one */
    MP_SPLIT_TIME,    /* file order: the first part plans */
    MP_SPLIT_CATEGORY /* listed categories plan, all others score */
};
struct mp_split {
    enum mp_split_kind kind;
    uint32_t planning_ppm; /* share of requests (HASH, TIME) used for planning */
    uint64_t seed;
    const char *categories; /* comma-separated (CATEGORY) */
};
/* Parses "0.5", "time:0.5", "category:A,B", "none". *out borrows `text`. */
enum mp_status mp_split_parse(struct mp_split *out, const char *text, uint64_t seed,
                              struct mp_error *err) MP_MUST_CHECK;

/* A part of a trace: request indexes (TOKENS) or iteration indexes (COUNTS), ascending. */
struct mp_home_rule;
struct mp_part {
    const struct mp_trace *trace;
    uint32_t n;
    uint32_t *members;                /* [n], owned */
    const struct mp_home_rule *homes; /* says which rank each request runs on, whatever source it names; NULL: none */
};
/* The planning and the held-out part; for NONE both are everything. MP_EINPUT with the numbers when a part would be
 * empty or a category does not exist. The caller frees both with mp_part_free. */
enum mp_status mp_part_split(struct mp_part *planning, struct mp_part *held_out, const struct mp_trace *trace,
                             const struct mp_split *split, struct mp_error *err) MP_MUST_CHECK;
/* Everything except members whose group (mp_mix64 of the request id, mod n_groups) is `left_out`: for the jackknife. */
enum mp_status mp_part_without_group(struct mp_part *out, const struct mp_part *part, uint32_t n_groups,
                                     uint32_t left_out, struct mp_error *err) MP_MUST_CHECK;
void mp_part_free(struct mp_part *p);

/* One step of a TOKENS workload: n rows of the trace, each with the rank it starts on. */
struct mp_step {
    uint32_t n;
    const uint64_t *row;    /* [n] row of the trace */
    const uint16_t *source; /* [n], non-decreasing */
    const uint32_t
        *padding; /* [n_ranks] padding tokens of each rank (they cost gate and shared-expert time, no dispatch) */
};
struct mp_workload {
    const struct mp_trace *trace;
    struct mp_batching batching;
    bool is_bootstrap;                     /* steps: recorded | bootstrap */
    uint32_t n_steps, n_ranks, n_requests; /* n_requests: distinct requests used */
    uint64_t n_rows;                       /* rows over all steps */
    /* TOKENS */
    const struct mp_step *steps; /* [n_steps] */
    /* COUNTS: iteration of each step; a step's counts split over ranks: mp_workload_counts */
    const uint32_t *iterations; /* [n_steps] or NULL */
    struct mp_arena *arena;
};
/* Builds the steps of a part. MP_EINPUT: the batching rule cannot be filled (the message has the numbers and names
 * --resample). A COUNTS trace has one step per iteration and takes no batching but n_ranks. Deterministic in (part,
 * batching). */
enum mp_status mp_workload_build(struct mp_workload **out, const struct mp_part *part,
                                 const struct mp_batching *batching, struct mp_error *err) MP_MUST_CHECK;
void mp_workload_free(struct mp_workload *w);

/* tokens[n_ranks][n_experts] of one step and layer: (token, expert) pairs by source rank. For COUNTS traces without
 * ranks each expert's count is split evenly, the remainder going to ranks (expert + j) mod n_ranks. */
void mp_workload_tokens(const struct mp_workload *w, uint32_t step, uint32_t layer, uint32_t *tokens);
/* load[n_experts] summed over all steps. */
void mp_workload_load(const struct mp_workload *w, uint32_t layer, uint64_t *load);
/* Dense co-activation pairs[n_experts][n_experts] (symmetric, diagonal = load) summed over all steps. */
enum mp_status mp_workload_pairs(const struct mp_workload *w, uint32_t layer, uint64_t *pairs,
                                 struct mp_error *err) MP_MUST_CHECK;
/* Half the sum of the differences of shares: 0 = the same distribution, 1 = no expert in common. */
double mp_share_distance(const uint64_t *a, const uint64_t *b, uint32_t n);
/* How far the experts' shares of a part are from other data's. */
struct mp_drift {
    uint32_t n_layers, n_beyond; /* layers whose distance is above their noise */
    double *distance;            /* [n_layers] mp_share_distance */
    double *noise;               /* [n_layers] what 95 % of samples of these sizes from one source stay below */
    double mean, mean_noise;     /* of the layers' distances, and what 95 % of such means stay below */
    bool has_noise;              /* false: fewer than 8 requests (iterations) to tell it from */
    struct mp_arena *arena;
};
/* before[n_layers]: rows of each expert there (mp_plan_layer.expert_rows). The caller frees with mp_drift_free. */
enum mp_status mp_drift_measure(struct mp_drift **out, const struct mp_part *part, const uint64_t *const *before,
                                uint64_t seed, unsigned n_threads, struct mp_error *err) MP_MUST_CHECK;
void mp_drift_free(struct mp_drift *d);

/* ---- homes of requests ---- */
#define MP_HOME_NODES_MAX 64u
#define MP_HOME_WEIGHT_MAX 127
#define MP_HOME_TOLERANCE_MAX (UINT64_C(1) << 40)
#define MP_HOME_MILLI_MAX 1000000000 /* of bias and price */

/* The rule; docs/HOMES.md part 2 is normative. All borrowed. Weights of node 0 are 0 and not kept. */
struct mp_home_rule {
    uint32_t n_nodes, n_gpus, n_layers, n_experts;
    const uint32_t *gpu_node; /* [n_gpus] */
    uint32_t prefix_rows;     /* rows of a request that are seen; 0 = all */
    uint64_t tolerance;       /* per GPU: prompt rows (prefill, train) or requests (decode) a node may be ahead */
    uint32_t price_milli;     /* thousandths of a weight, per row seen, that a node at its tolerance has to be better */
    const int32_t *bias_milli;    /* [n_nodes] taken off a node's score, per row seen */
    const int8_t *const *weights; /* [n_layers] -> [n_nodes - 1][n_experts] */
};

/* home[part->n]: the rank of each member, in order, without looking ahead. A member without rows gets rank 0 and counts
 * for nothing. MP_EUSAGE: counts, or a rule of another shape. */
enum mp_status mp_home_assign(uint16_t *home, const struct mp_part *part, const struct mp_home_rule *rule,
                              enum mp_phase phase, struct mp_error *err) MP_MUST_CHECK;
/* The score of one request for every node, per row seen and without balance: score[n_nodes], in thousandths. */
void mp_home_scores(int64_t *score, const struct mp_trace *trace, const struct mp_request *request,
                    const struct mp_home_rule *rule);

/* The hash that replica choice uses for a row: mp_mix64(row), the same in simulator, verifier and executor. */
static inline uint64_t mp_token_hash(uint64_t row) { return mp_mix64(row); }

MP_API_END

#endif
