/* Synthetic traces by named parameters, and how far they are from a real one. Always marked synthetic. */
#ifndef MOEPLAN_SYNTH_H
#define MOEPLAN_SYNTH_H

#include <moeplan/trace.h>

struct mp_synth_params {
    const char *preset;          /* for the record; may be NULL */
    uint32_t n_layers, n_experts, top_k, first_layer_id;
    uint64_t n_requests, tokens_per_request_mean;
    enum mp_phase phase;
    uint32_t zipf_ppm;           /* popularity of rank r in proportion to (r + 1)^-(zipf / 10^6) */
    uint32_t coactivation_ppm;   /* probability that a token's further experts come from its first one's cluster */
    uint32_t cluster_size;       /* experts of a cluster */
    uint32_t cross_layer_ppm;    /* probability that a token's cluster in layer l + 1 follows from its own in layer l */
    uint32_t n_domains;          /* categories with popularity permuted against each other */
    uint32_t domain_ppm;         /* how much of the popularity a domain replaces by its own */
    uint32_t drift_ppm;          /* how far popularity moves from the first request to the last */
    uint32_t stickiness_ppm;     /* per-request popularity on top: bursts, what makes steps worse than totals */
    uint64_t seed;
};
bool mp_synth_preset(uint32_t i, const char **name, const char **summary, struct mp_synth_params *params);
enum mp_status mp_synth_generate(struct mp_trace **out, const struct mp_synth_params *p, const struct mp_limits *limits,
                                 struct mp_error *err) MP_MUST_CHECK;

/* Statistics by which fitted and real are compared. */
struct mp_trace_stats {
    double load_max_over_mean;      /* over experts, totals, averaged over layers */
    double pair_lift;               /* mean over layers of sum_{pairs} P(ij)^2-weighted lift: E over co-activated pairs of P(ij)/(P(i)P(j)) */
    double cross_layer_information; /* mean over adjacent layers of I(first expert of l; first expert of l + 1), bits, shuffle-corrected */
    double step_max_over_mean;      /* over experts, per step of 128 rows drawn from distinct requests, averaged */
};
enum mp_status mp_trace_statistics(struct mp_trace_stats *out, const struct mp_trace *t, uint64_t seed, struct mp_error *err) MP_MUST_CHECK;

#endif
