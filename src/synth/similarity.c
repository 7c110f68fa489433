/* How alike tokens are by their signatures: the statistics of docs/SYNTHETIC.md, "Signatures", of any trace that has
 * some. */
#include <moeplan/base.h>
#include <moeplan/synth.h>

enum { RUN_ROWS = 1024, N_RUNS = 16, QUEUE_ROWS = 256 };

/* Tokens of one run that use one expert in a layer, so many at most. */
struct queue {
    uint32_t n;
    uint64_t row[QUEUE_ROWS];
};

static uint32_t fill_queue(const struct mp_trace *t, uint32_t layer, uint32_t expert, uint64_t from, uint64_t to,
                           struct queue *q) {
    uint16_t ids[MP_MAX_TOP_K];
    q->n = 0;
    for (uint64_t row = from; row < to && q->n < QUEUE_ROWS; row++) {
        const uint32_t k = mp_trace_row(t, layer, row, ids);
        for (uint32_t j = 0; j < k; j++)
            if (ids[j] == expert) {
                q->row[q->n++] = row;
                break;
            }
    }
    return q->n;
}

struct sums {
    uint64_t pairs, above, kept, kept_of, tokens, with_peer;
};

static void count_queue(const struct mp_trace *t, uint32_t layer, const struct queue *q, const int reach[3],
                        struct sums *s) {
    for (uint32_t i = 0; i < q->n; i++) {
        const uint64_t a = mp_trace_signature(t, layer, q->row[i]);
        bool has_peer = false;
        for (uint32_t j = 0; j < q->n; j++) {
            const int d = (int)mp_signature_distance(a, mp_trace_signature(t, layer, q->row[j]));
            has_peer |= j != i && d <= reach[2];
            if (j >= i)
                continue;
            s->pairs++;
            s->above += d <= reach[0];
            if (d <= reach[1] && layer + 1 < t->n_layers) {
                s->kept_of++;
                s->kept += (int)mp_signature_distance(mp_trace_signature(t, layer + 1, q->row[i]),
                                                      mp_trace_signature(t, layer + 1, q->row[j])) <= reach[1];
            }
        }
        s->tokens++;
        s->with_peer += has_peer;
    }
}

void mp_trace_similarity(struct mp_similarity_stats *out, const struct mp_trace *t, uint32_t layer,
                         uint32_t threshold_ppm) {
    const int reach[3] = {mp_signature_reach(threshold_ppm), mp_signature_reach(MP_SIMILAR_PPM),
                          mp_signature_reach(MP_VERY_SIMILAR_PPM)};
    const uint64_t n_blocks = mp_ceil_div(t->n_rows, RUN_ROWS), n_runs = n_blocks < N_RUNS ? n_blocks : N_RUNS;
    struct sums s = {0};
    struct queue q;
    for (uint64_t r = 0; r < n_runs; r++) {
        const uint64_t from = mp_mul_div(r, n_blocks, n_runs) * RUN_ROWS,
                       to = from + RUN_ROWS < t->n_rows ? from + RUN_ROWS : t->n_rows;
        for (uint32_t e = 0; e < t->n_experts; e++)
            if (fill_queue(t, layer, e, from, to, &q) > 0)
                count_queue(t, layer, &q, reach, &s);
    }
    *out = (struct mp_similarity_stats){
        .pairs_above = s.pairs == 0 ? 0 : (double)s.above / (double)s.pairs,
        .persistence = s.kept_of == 0 ? 0 : (double)s.kept / (double)s.kept_of,
        .tokens_very_similar = s.tokens == 0 ? 0 : (double)s.with_peer / (double)s.tokens,
    };
}
