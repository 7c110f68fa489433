/* Synthetic traces by named parameters, and how far they are from a real one. Always marked synthetic. */
#ifndef MOEPLAN_SYNTH_H
#define MOEPLAN_SYNTH_H

#include <moeplan/trace.h>

MP_API_BEGIN

struct mp_synth_params {
    const char *preset; /* for the record; may be NULL */
    uint32_t n_layers, n_experts, top_k, first_layer_id;
    uint64_t n_requests, tokens_per_request_mean;
    enum mp_phase phase;
    uint32_t zipf_ppm;         /* popularity of rank r in proportion to (r + 1)^-(zipf / 10^6) */
    uint32_t coactivation_ppm; /* chance that a further expert of a token comes from the cluster of its first one */
    uint32_t cluster_size;     /* experts of a cluster; a cluster leads to one of the next layer */
    uint32_t cross_layer_ppm;  /* chance that an expert comes from the cluster its place was led to by the last layer */
    uint32_t n_domains;        /* categories with popularity permuted against each other */
    uint32_t domain_ppm;       /* how much of the popularity a domain replaces by its own */
    uint32_t drift_ppm;        /* how far popularity moves from the first request to the last */
    uint32_t stickiness_ppm;   /* chance that a draw takes a favourite of the request: bursts within a request */
    uint32_t prefix_tokens;    /* first tokens that are the same in all requests (a BOS token, a template) */
    uint64_t seed;
    struct mp_progress *progress; /* told of requests; NULL = nobody listens */
};
bool mp_synth_preset(uint32_t i, const char **name, const char **summary, struct mp_synth_params *params);
enum mp_status mp_synth_generate(struct mp_trace **out, const struct mp_synth_params *p, const struct mp_limits *limits,
                                 struct mp_error *err) MP_MUST_CHECK;

/* Similarity signatures for a trace (docs/SYNTHETIC.md, "Signatures"). Block b is layer index b - 1. */
struct mp_synth_similarity {
    const char *name, *summary;
    uint32_t common_first_ppm, common_sixth_ppm; /* share of tokens that are alike, in blocks 1 and 6; as in 6 behind */
    uint32_t flips_256;                          /* largest chance, in 256ths, that a bit of such a token differs */
    uint32_t threshold_ppm;                      /* of the pairs that the paper counts */
    uint32_t stay_ppm;                           /* chance that a token that is alike still is one layer later */
};
const struct mp_synth_similarity *mp_synth_similarity_at(uint32_t i); /* txl, bert-l, gpt2; NULL past the last */
const struct mp_synth_similarity *mp_synth_similarity_find(const char *name);
/* Gives a TOKENS trace without signatures such ones; its experts stay. Each row has a random stream of its own. */
enum mp_status mp_synth_signatures(struct mp_trace *t, const struct mp_synth_similarity *p, uint64_t seed,
                                   const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;

/* How alike tokens are that use the same expert of a layer, by their signatures. Up to 16 runs of 1,024 rows that
 * follow each other, spread over the trace; of each run and expert the first 256 tokens. Only of a trace that has
 * signatures. */
#define MP_SIMILAR_PPM 800000u
#define MP_VERY_SIMILAR_PPM 900000u
struct mp_similarity_stats {
    double pairs_above; /* of pairs of such tokens, those with at least the threshold */
    double persistence; /* of pairs of at least 0.8 in this layer, those that are in the next one; 0 in the last */
    double tokens_very_similar; /* of such tokens, those with another one of at least 0.9 */
};
void mp_trace_similarity(struct mp_similarity_stats *out, const struct mp_trace *t, uint32_t layer,
                         uint32_t threshold_ppm);

/* Statistics by which fitted and real are compared (docs/SYNTHETIC.md). Of a TOKENS trace; of more than 2^20 rows,
 * every m-th row is used where nothing else is said. c_i: rows that use expert i, n_ij: rows that use both i and j, N:
 * rows, k: top_k. A value that cannot be had (pairs of a top-1 trace, one layer, one request) is 0. Random draws come
 * from `seed`. */
struct mp_trace_stats {
    /* Mean over layers of max_i c_i / mean_i c_i. */
    double load_max_over_mean;
    /* Mean over layers of sum_{i<j} n_ij (n_ij - 1) N / (c_i c_j) over sum_{i<j} n_ij: the lift P(ij) / (P(i) P(j)) of
     * a pair drawn as tokens use them. (n - 1 in place of n takes out what a sample's noise adds.) Below 1 for
     * independent draws without replacement. */
    double pair_lift;
    /* Mean over adjacent layers of the mutual information, in bits, of X = one of the k experts of a row in layer l,
     * drawn evenly, and Y = one of those in l + 1; less the same with the rows of l + 1 shuffled, which is what a
     * sample's noise adds. */
    double cross_layer_information;
    /* Max / mean over experts of steps of up to 128 rows drawn evenly from the trace, each of another request (a long
     * request is in flight longer); mean over 64 steps and all layers. What decode sees. */
    double step_max_over_mean;
    /* The same over 64 runs of 128 rows that follow each other in the file (fewer when the trace has fewer): bursts,
     * what prefill sees. */
    double run_max_over_mean;
    /* Total variation distance between the loads of the first and of the second half of the requests, less the same for
     * a random halving; mean over layers. Drift, and domain shift where the file is sorted by domain. */
    double half_shift;
    /* The same for halves in the order of (category, place in the file): domain shift. 0 without categories. */
    double category_shift;
};
enum mp_status mp_trace_statistics(struct mp_trace_stats *out, const struct mp_trace *t, uint64_t seed,
                                   struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
