/* What one token's past says of its next experts, by pairs or by sample paths, and what a batch's tokens add up to. */
#include <moeplan/predict.h>
#include <string.h>

#define MILLION 1000000

bool mp_foresee_is_among(const uint64_t *value, uint32_t e, uint32_t n, uint32_t n_experts) {
    uint32_t n_better = 0;
    for (uint32_t i = 0; i < n_experts; i++)
        n_better += value[i] > value[e] || (value[i] == value[e] && i < e);
    return n_better < n;
}

void mp_foresee(const struct mp_foresight *f, const struct mp_trace *trace, uint32_t layer, uint64_t row,
                int64_t *scores, double *p) {
    const struct mp_path_tables *t = f->tables;
    if (f->paths == NULL) {
        mp_path_scores(t, trace, layer, row, f->length, scores);
        mp_path_probabilities(t, scores, p);
        return;
    }
    /* What the path says decides, popularity where it says the same: of experts that never followed it, say. */
    uint64_t *seen = (uint64_t *)scores;
    mp_sample_paths_probabilities(f->paths, trace, layer, row, f->length, f->back_off, seen);
    for (uint32_t e = 0; e < t->n_experts; e++) {
        p[e] = (double)seen[e] / (double)(UINT64_C(1) << 32);
        scores[e] = (int64_t)(seen[e] << 22) + t->popularity[(size_t)layer * t->n_experts + e];
    }
}

void mp_foresee_add(const struct mp_foresight *f, const int64_t *scores, const double *p, uint64_t *estimated) {
    const uint32_t n = f->tables->n_experts;
    for (uint32_t e = 0; e < n; e++) {
        uint32_t n_better = 0;
        for (uint32_t i = 0; i < n && f->keeps_top; i++)
            n_better += scores[i] > scores[e] || (scores[i] == scores[e] && i < e);
        if (!f->keeps_top || n_better < f->tables->top_k)
            estimated[e] += (uint64_t)(p[e] * MILLION + 0.5);
    }
}
