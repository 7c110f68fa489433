/* Experts ahead of time: what the experts that a token used in earlier layers say about those of the next one.
 * docs/PREDICTION.md. */
#ifndef MOEPLAN_PREDICT_H
#define MOEPLAN_PREDICT_H

#include <moeplan/progress.h>
#include <moeplan/workload.h>

MP_API_BEGIN

#define MP_PATH_MAX 6u

/* For every layer, distance back and expert there: what that says about each expert here. */
struct mp_path_tables {
    uint32_t n_layers, n_experts, top_k, length;
    int32_t *hint;       /* [n_layers][length][n_experts][n_experts]: 2^16 log2 of P(here | there) / P(here) */
    int32_t *popularity; /* [n_layers][n_experts]: 2^16 log2 of its tokens, in halves */
    uint64_t n_tokens;
    uint32_t *layer_ids;    /* [n_layers] absolute layer index, as the recording has them */
    uint32_t hint_places;   /* binary places of the hints: 16 as learned, fewer when they were stored */
    char trace_sha256[65];  /* of the recording; "" = built in memory */
    uint64_t part_checksum; /* mp_path_part_checksum of what was learned from */
};
/* length 0 to MP_PATH_MAX: 0 = popularity of the layer alone. MP_EUSAGE for COUNTS traces, MP_ELIMIT past 2^31 tokens.
 */
enum mp_status mp_path_learn(struct mp_path_tables **out, const struct mp_part *part, uint32_t length,
                             struct mp_error *err) MP_MUST_CHECK;
void mp_path_free(struct mp_path_tables *t); /* NULL is fine */
uint64_t mp_path_part_checksum(const struct mp_part *part);

/* Tables in a file (docs/PREDICTION.md section 4): hints rounded to 2^-hint_places, 0 to MP_PATH_PLACES_MAX, and
 * packed. MP_ELIMIT past 2 GiB of entries. */
#define MP_PATH_PLACES_MAX 8u
enum mp_status mp_path_write(const struct mp_path_tables *t, uint32_t hint_places, struct mp_out *o,
                             struct mp_error *err) MP_MUST_CHECK;
/* Everything is checked before it is used. MP_EINPUT with the byte. */
enum mp_status mp_path_read(struct mp_path_tables **out, const struct mp_in *in, struct mp_error *err) MP_MUST_CHECK;
/* Are the tables of this model's layers? MP_EINPUT otherwise; path: the tables' file, for the message. */
enum mp_status mp_path_check_fit(const struct mp_path_tables *t, const char *path, const struct mp_trace *trace,
                                 struct mp_error *err) MP_MUST_CHECK;

/* Lina's tables as published: for every layer and sample path, the experts that came next. A sample path is the first
 * expert of the token's list in each of the 1 to MP_PATH_MAX layers before. */
struct mp_sample_paths;
enum mp_status mp_sample_paths_learn(struct mp_sample_paths **out, const struct mp_part *part, uint32_t length,
                                     unsigned n_threads, struct mp_error *err) MP_MUST_CHECK;
void mp_sample_paths_free(struct mp_sample_paths *s); /* NULL is fine */
/* p[n_experts] in 2^-32: how often the expert followed the token's longest path that was seen, of at most `length`
 * layers. back_off > 0: not that alone, but as if what shorter paths say had been seen so many more times. */
void mp_sample_paths_probabilities(const struct mp_sample_paths *s, const struct mp_trace *trace, uint32_t layer,
                                   uint64_t row, uint32_t length, uint32_t back_off, uint64_t *p);
/* What hash maps of all paths of 1 to `length` layers hold: 8 bytes for a path, 4 for each expert that followed. */
uint64_t mp_sample_paths_bytes(const struct mp_sample_paths *s, uint32_t length, uint64_t *n_paths);

/* How likely each expert of `layer` is for this row, from what it used in the layers before: a larger score is
 * likelier. Whole numbers, 2^16 = a factor of two against another expert. length: at most that of the tables. */
void mp_path_scores(const struct mp_path_tables *t, const struct mp_trace *trace, uint32_t layer, uint64_t row,
                    uint32_t length, int64_t *scores);
/* Probabilities that sum to top_k, none above 1, in proportion to 2^(score / 2^16) as far as that allows. */
void mp_path_probabilities(const struct mp_path_tables *t, const int64_t *scores, double *p);

/* A way to foresee experts: pairs (tables) or sample paths, by so many layers before; 0 = popularity alone. */
struct mp_foresight {
    const struct mp_path_tables *tables;
    const struct mp_sample_paths *paths; /* NULL = tables; tables are needed in any case */
    uint32_t length, back_off;
    bool keeps_top;               /* for a batch only the top-k experts of each token count, as in Lina */
    struct mp_progress *progress; /* of mp_path_measure; NULL = nobody listens */
};
/* Scores (larger = likelier) and probabilities that sum to top_k, of one row; scores[n_experts], p[n_experts]. */
void mp_foresee(const struct mp_foresight *f, const struct mp_trace *trace, uint32_t layer, uint64_t row,
                int64_t *scores, double *p);
/* Adds what a token is foreseen to bring to each expert to estimated[n_experts], in millionths. */
void mp_foresee_add(const struct mp_foresight *f, const int64_t *scores, const double *p, uint64_t *estimated);
/* Is expert e among the n with the largest values? Ties go to the lower. */
bool mp_foresee_is_among(const uint64_t *value, uint32_t e, uint32_t n, uint32_t n_experts);

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
enum mp_status mp_path_measure(struct mp_path_accuracy *out, const struct mp_foresight *f, const struct mp_part *part,
                               const struct mp_workload *steps, unsigned n_threads, struct mp_error *err) MP_MUST_CHECK;
void mp_path_accuracy_free(struct mp_path_accuracy *a); /* its memory, not *a */

MP_API_END

#endif
