/* Synthetic traces by named parameters, and how far they are from a real one. Always marked synthetic. */
#ifndef MOEPLAN_SYNTH_H
#define MOEPLAN_SYNTH_H

#include <moeplan/trace.h>

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
};
bool mp_synth_preset(uint32_t i, const char **name, const char **summary, struct mp_synth_params *params);
enum mp_status mp_synth_generate(struct mp_trace **out, const struct mp_synth_params *p, const struct mp_limits *limits,
                                 struct mp_error *err) MP_MUST_CHECK;

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

#endif
