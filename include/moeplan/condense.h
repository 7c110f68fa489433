/* Token condensation (Luffy, arXiv 2411.15419): tokens that are nearly the same in front of an expert travel once, and
 * one's output is taken for all. LOSSY: a model's results change. docs/LUFFY.md. */
#ifndef MOEPLAN_CONDENSE_H
#define MOEPLAN_CONDENSE_H

#include <moeplan/flow.h>

MP_API_BEGIN

enum { MP_CONDENSE_BLOCK = 1024, MP_CONDENSE_BLOCK_MAX = 4096 };
struct mp_condense {
    const uint32_t *threshold_ppm; /* [n_thresholds] h of the workload's steps in turn; the last one stays */
    uint32_t n_thresholds;
    /* History: what the layer before says of a pair saves looking at it. At least `sure`: taken for the same, though
     * never below h; below `never`: taken for different. sure above 10^6 and never 0: every pair is looked at. */
    uint32_t sure_ppm, never_ppm;
    uint32_t block_rows;              /* tokens of a queue that are compared with each other; 0 = MP_CONDENSE_BLOCK */
    const struct mp_flow_maker *base; /* where tokens are; NULL = where batching puts them */
};
struct mp_condense_sums { /* (token, expert) */
    uint64_t tokens;      /* in all queues */
    uint64_t condensed;   /* of them, those that another one stands for */
    uint64_t pairs;       /* of tokens of one queue */
    uint64_t compared;    /* of these, those in one block; the others are taken for different */
    uint64_t by_history;  /* of these, those that the layer before decided */
};

/* Fills f->stands_for. A queue is what one GPU sends to one expert in a layer: a token is condensed before it is sent,
 * so only those that are on the same GPU can stand for each other. sums NULL = not wanted. O(rows * top_k * block)
 * time per layer, O(rows * top_k + block^2 / 8) memory. MP_EUSAGE: the recording has no signatures. */
enum mp_status mp_condense_step(struct mp_token_flow *f, const struct mp_cost_setup *setup, uint32_t step,
                                const struct mp_condense *c, struct mp_condense_sums *sums,
                                struct mp_error *err) MP_MUST_CHECK;
/* The same as a flow maker; ctx is a const struct mp_condense. */
enum mp_status mp_condense_make(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *setup, uint32_t step,
                                struct mp_error *err) MP_MUST_CHECK;

/* The printed threshold of a step, from the first loss and that of the step before: 1 / (1 + exp((first - before) /
 * first)), in [0.269, 0.5] while losses fall. In millionths. */
uint32_t mp_condense_sigmoid_ppm(double loss_first, double loss_before);
/* Thresholds of "0.8" (one for all steps), "sigmoid:FILE" (losses, one a line) or "FILE" (thresholds in [0, 1], one a
 * line). Of a line its last comma-separated cell counts; a first line without numbers is skipped. The thresholds are
 * arena's. MP_EUSAGE, MP_EINPUT with file and line. */
enum mp_status mp_condense_parse(const uint32_t **threshold_ppm, uint32_t *n, const char *text, struct mp_arena *arena,
                                 struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
