/* Dense tables of a workload: tokens by source and expert, load, co-activation.
 *
 * Decides   nothing; sums.
 * Minimises -
 * Method    one pass over the rows of the steps; consecutive rows are read in one run of the trace's columns.
 * Bound     -
 * Differs   -
 * Cost      O(rows * k) per layer for tokens and load, O(rows * k^2) for pairs.  Deterministic. */
#include "internal.h"
#include <string.h>

/* A run of consecutive rows of one step within one chunk of the trace. */
struct run {
    const uint8_t *ids;
    uint32_t n;
};
static struct run run_at(const struct mp_trace *t, uint32_t layer, const struct mp_step *s, uint32_t i) {
    uint64_t available;
    const uint8_t *ids = mp_trace_ids(t, layer, s->row[i], &available);
    uint32_t n = 1;
    while (i + n < s->n && n < available && s->row[i + n] == s->row[i] + n)
        n++;
    return (struct run){ids, n};
}

/* The id at place j of a list, MP_NO_EXPERT when the place is unused (every id past n_experts is). */
static inline uint32_t id_at(const struct mp_trace *t, const uint8_t *ids, size_t j) {
    return t->id_bytes == 1 ? ids[j] : (uint32_t)ids[2 * j] | (uint32_t)ids[2 * j + 1] << 8;
}

static uint64_t count_at(const struct mp_trace *t, uint32_t iteration, uint32_t source, uint32_t layer,
                         uint32_t expert) {
    return t->counts[(((uint64_t)iteration * t->n_sources + source) * t->n_layers + layer) * t->n_experts + expert];
}

static void tokens_of_counts(const struct mp_workload *w, uint32_t step, uint32_t layer, uint32_t *tokens) {
    const struct mp_trace *t = w->trace;
    for (uint32_t q = 0; q < t->n_sources; q++)
        for (uint32_t e = 0; e < t->n_experts; e++) {
            uint64_t n = count_at(t, w->iterations[step], q, layer, e);
            if (t->source_known) {
                tokens[(size_t)(q % w->n_ranks) * t->n_experts + e] += (uint32_t)n;
                continue;
            }
            for (uint32_t r = 0; r < w->n_ranks; r++)
                tokens[(size_t)r * t->n_experts + e] += (uint32_t)(n / w->n_ranks);
            for (uint32_t j = 0; j < n % w->n_ranks; j++)
                tokens[(size_t)((e + j) % w->n_ranks) * t->n_experts + e]++;
        }
}

void mp_workload_tokens(const struct mp_workload *w, uint32_t step, uint32_t layer, uint32_t *tokens) {
    const struct mp_trace *t = w->trace;
    memset(tokens, 0, (size_t)w->n_ranks * t->n_experts * sizeof *tokens);
    if (t->kind == MP_TRACE_COUNTS) {
        tokens_of_counts(w, step, layer, tokens);
        return;
    }
    const struct mp_step *s = &w->steps[step];
    for (uint32_t i = 0; i < s->n;) {
        struct run run = run_at(t, layer, s, i);
        for (uint32_t r = 0; r < run.n; r++) {
            uint32_t *of_source = tokens + (size_t)s->source[i + r] * t->n_experts;
            for (uint32_t j = 0; j < t->top_k; j++) {
                uint32_t e = id_at(t, run.ids, (size_t)r * t->top_k + j);
                if (e < t->n_experts)
                    of_source[e]++;
            }
        }
        i += run.n;
    }
}

void mp_workload_load(const struct mp_workload *w, uint32_t layer, uint64_t *load) {
    const struct mp_trace *t = w->trace;
    memset(load, 0, t->n_experts * sizeof *load);
    if (t->kind == MP_TRACE_COUNTS) {
        for (uint32_t i = 0; i < w->n_steps; i++)
            for (uint32_t q = 0; q < t->n_sources; q++)
                for (uint32_t e = 0; e < t->n_experts; e++)
                    load[e] += count_at(t, w->iterations[i], q, layer, e);
        return;
    }
    for (uint32_t step = 0; step < w->n_steps; step++) {
        const struct mp_step *s = &w->steps[step];
        for (uint32_t i = 0; i < s->n;) {
            struct run run = run_at(t, layer, s, i);
            for (size_t j = 0; j < (size_t)run.n * t->top_k; j++) {
                uint32_t e = id_at(t, run.ids, j);
                if (e < t->n_experts)
                    load[e]++;
            }
            i += run.n;
        }
    }
}

/* Co-activation that a COUNTS recording carries is of the whole recording: usable only when all of it is in the steps.
 */
static enum mp_status pairs_of_counts(const struct mp_workload *w, uint32_t layer, uint64_t *pairs,
                                      struct mp_error *err) {
    const struct mp_trace *t = w->trace;
    if (t->n_pairs == 0)
        return mp_fail(err, MP_EUSAGE,
                       "co-activation needs the experts of each token, and this recording has only counts "
                       "(record top-k ids per token)");
    uint64_t all = 0, here = 0;
    for (uint32_t i = 0; i < t->n_iterations; i++)
        for (uint32_t e = 0; e < t->n_experts; e++)
            for (uint32_t q = 0; q < t->n_sources; q++)
                all += count_at(t, i, q, layer, e);
    for (uint32_t e = 0; e < t->n_experts; e++)
        here += pairs[(size_t)e * t->n_experts + e];
    if (here != all)
        return mp_fail(err, MP_EUSAGE,
                       "the recording's co-activation is of all its %u iterations and cannot be split (use "
                       "--split none, or record top-k ids per token)",
                       t->n_iterations);
    for (uint64_t i = 0; i < t->n_pairs; i++) {
        const struct mp_pair *p = &t->pairs[i];
        if (p->layer != layer)
            continue;
        pairs[(size_t)p->first * t->n_experts + p->second] = p->count;
        pairs[(size_t)p->second * t->n_experts + p->first] = p->count;
    }
    return MP_OK;
}

enum mp_status mp_workload_pairs(const struct mp_workload *w, uint32_t layer, uint64_t *pairs, struct mp_error *err) {
    const struct mp_trace *t = w->trace;
    size_t n = t->n_experts;
    memset(pairs, 0, n * n * sizeof *pairs);
    if (t->kind == MP_TRACE_COUNTS) {
        for (uint32_t i = 0; i < w->n_steps; i++)
            for (uint32_t q = 0; q < t->n_sources; q++)
                for (uint32_t e = 0; e < n; e++)
                    pairs[e * n + e] += count_at(t, w->iterations[i], q, layer, e);
        return pairs_of_counts(w, layer, pairs, err);
    }
    for (uint32_t step = 0; step < w->n_steps; step++) {
        const struct mp_step *s = &w->steps[step];
        for (uint32_t i = 0; i < s->n;) {
            struct run run = run_at(t, layer, s, i);
            for (uint32_t r = 0; r < run.n; r++) {
                uint32_t ids[MP_MAX_TOP_K], k = 0;
                for (uint32_t j = 0; j < t->top_k; j++) {
                    uint32_t e = id_at(t, run.ids, (size_t)r * t->top_k + j);
                    if (e < n && k < MP_MAX_TOP_K)
                        ids[k++] = e;
                }
                for (uint32_t a = 0; a < k; a++) /* each pair once, in either place */
                    for (uint32_t b = a; b < k; b++)
                        pairs[ids[a] * n + ids[b]]++;
            }
            i += run.n;
        }
    }
    for (size_t a = 0; a < n; a++)
        for (size_t b = a + 1; b < n; b++) {
            const uint64_t both = pairs[a * n + b] + pairs[b * n + a];
            pairs[a * n + b] = pairs[b * n + a] = both;
        }
    return MP_OK;
}
