/* Experts ahead of time: what the experts that a token used in earlier layers say about those of the next one.
 * docs/PREDICTION.md. */
#ifndef MOEPLAN_PREDICT_H
#define MOEPLAN_PREDICT_H

#include <moeplan/workload.h>

#define MP_PATH_MAX 6u

/* For every layer, distance back and expert there: what that says about each expert here. */
struct mp_path_tables {
    uint32_t n_layers, n_experts, top_k, length;
    int32_t *hint;       /* [n_layers][length][n_experts][n_experts]: 2^16 log2 of P(here | there) / P(here) */
    int32_t *popularity; /* [n_layers][n_experts]: 2^16 log2 of its tokens, in halves */
    uint64_t n_tokens;
};
/* length 0 to MP_PATH_MAX: 0 = popularity of the layer alone. MP_EUSAGE for COUNTS traces, MP_ELIMIT past 2^31 tokens.
 */
enum mp_status mp_path_learn(struct mp_path_tables **out, const struct mp_part *part, uint32_t length,
                             struct mp_error *err) MP_MUST_CHECK;
void mp_path_free(struct mp_path_tables *t); /* NULL is fine */

/* How likely each expert of `layer` is for this row, from what it used in the layers before: a larger score is
 * likelier. Whole numbers, 2^16 = a factor of two against another expert. length: at most that of the tables. */
void mp_path_scores(const struct mp_path_tables *t, const struct mp_trace *trace, uint32_t layer, uint64_t row,
                    uint32_t length, int64_t *scores);
/* Probabilities that sum to top_k, none above 1, in proportion to 2^(score / 2^16) as far as that allows. */
void mp_path_probabilities(const struct mp_path_tables *t, const int64_t *scores, double *p);

#define MP_PATH_BINS 10u
struct mp_path_accuracy { /* of one length, over all layers but the first and every row of a part */
    uint32_t length;
    double recall;      /* share of the true top-k among the 2k likeliest */
    double recall_k;    /* among the k likeliest */
    double calibration; /* mean distance between a predicted probability and how often it came true */
    double predicted[MP_PATH_BINS], came[MP_PATH_BINS]; /* means by tenths of probability */
    uint64_t n[MP_PATH_BINS];
    /* Lina's check before it keeps a schedule: the 2k most popular experts of a batch as estimated and as they are. */
    double lists_equal, lists_common; /* share of (step, layer)s where they are the same set; mean share in common */
    uint64_t n_batches;
    double *layer_recall; /* [n_layers] */
};
/* steps: batches of the part for the lists, or NULL. Same result for any number of threads. */
enum mp_status mp_path_measure(struct mp_path_accuracy *out, const struct mp_path_tables *t, const struct mp_part *part,
                               const struct mp_workload *steps, uint32_t length, unsigned n_threads,
                               struct mp_error *err) MP_MUST_CHECK;
void mp_path_accuracy_free(struct mp_path_accuracy *a); /* its memory, not *a */

#endif
