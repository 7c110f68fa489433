/* How far the use of experts has moved since a plan was made.
 *
 * Decides   nothing; per layer the distance between two distributions of (token, expert) pairs over the experts, and
 *           how much of it sampling alone gives.
 * Method    total variation: half the sum of the differences of shares. The noise is taken from the new data itself:
 *           its requests are dealt to 32 groups at random, half of the groups are held against the other half 40 times,
 *           and the distances are scaled from halves to samples of both sizes (a distance of samples falls as the root
 *           of their sizes). Requests, not tokens, are dealt: the tokens of one request are alike.
 * Bound     -
 * Differs   the old data's requests are not known, only its pairs: it is taken to vary as much per pair as the new.
 * Cost      one pass over the part, and O(layers * experts * 32 * 40).  Deterministic in (part, rows, seed). */
#include "internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 32, GROUPS_MIN = 8, DRAWS = 40, DRAW_95 = 37 /* nearest rank: the 38th of 40 */ };

struct measure {
    const struct mp_part *part;
    const uint64_t *const *before; /* [n_layers][n_experts] */
    uint32_t n_groups, *group;     /* [part->n] */
    bool is_first[DRAWS][GROUPS];  /* of the halving's first half */
    double *draw;                  /* [n_layers][DRAWS] scaled distances of halves */
    struct mp_drift *out;
};

static uint64_t sum_of(const uint64_t *v, uint32_t n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += v[i];
    return sum;
}

double mp_share_distance(const uint64_t *a, const uint64_t *b, uint32_t n) {
    const uint64_t sum_a = sum_of(a, n), sum_b = sum_of(b, n);
    double distance = 0;
    if (sum_a == 0 || sum_b == 0)
        return sum_a == sum_b ? 0 : 1;
    for (uint32_t i = 0; i < n; i++)
        distance += fabs((double)a[i] / (double)sum_a - (double)b[i] / (double)sum_b);
    return distance / 2;
}

/* load[group][expert] of one layer. */
static void load_groups(const struct measure *m, uint32_t layer, uint64_t *load) {
    const struct mp_trace *t = m->part->trace;
    memset(load, 0, (size_t)m->n_groups * t->n_experts * sizeof *load);
    for (uint32_t i = 0; i < m->part->n; i++) {
        uint64_t *to = load + (size_t)m->group[i] * t->n_experts;
        const uint32_t member = m->part->members[i];
        if (t->kind == MP_TRACE_COUNTS) {
            for (uint32_t q = 0; q < t->n_sources; q++) {
                const uint64_t *from =
                    t->counts + (((size_t)member * t->n_sources + q) * t->n_layers + layer) * t->n_experts;
                for (uint32_t e = 0; e < t->n_experts; e++)
                    to[e] += from[e];
            }
            continue;
        }
        uint16_t ids[MP_MAX_TOP_K];
        const struct mp_request *r = &t->requests[member];
        for (uint64_t row = r->first_row; row < r->first_row + r->n_rows; row++) {
            uint32_t k = mp_trace_row(t, layer, row, ids);
            for (uint32_t j = 0; j < k; j++)
                to[ids[j]]++;
        }
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum mp_status measure_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    struct measure *m = ctx;
    const uint32_t n = m->part->trace->n_experts;
    (void)worker;
    uint64_t *load = mp_calloc((size_t)(m->n_groups + 3) * n, sizeof *load);
    if (load == NULL)
        return mp_nomem(err, "drift");
    uint64_t *all = load + (size_t)m->n_groups * n, *half[2] = {all + n, all + 2 * (size_t)n};
    load_groups(m, (uint32_t)layer, load);
    for (uint32_t g = 0; g < m->n_groups; g++)
        for (uint32_t e = 0; e < n; e++)
            all[e] += load[(size_t)g * n + e];
    m->out->distance[layer] = mp_share_distance(m->before[layer], all, n);
    const double of_both = 1 / (double)sum_of(m->before[layer], n) + 1 / (double)sum_of(all, n);
    for (int d = 0; d < DRAWS && m->out->has_noise; d++) {
        memset(half[0], 0, 2 * (size_t)n * sizeof *half[0]);
        for (uint32_t g = 0; g < m->n_groups; g++)
            for (uint32_t e = 0; e < n; e++)
                half[m->is_first[d][g]][e] += load[(size_t)g * n + e];
        const double of_halves = 1 / (double)sum_of(half[0], n) + 1 / (double)sum_of(half[1], n);
        double scaled = mp_share_distance(half[0], half[1], n) * sqrt(of_both / of_halves);
        m->draw[layer * DRAWS + (size_t)d] = isfinite(scaled) ? scaled : 1;
    }
    mp_free(load);
    return MP_OK;
}

enum mp_status mp_drift_measure(struct mp_drift **out, const struct mp_part *part, const uint64_t *const *before,
                                uint64_t seed, unsigned n_threads, struct mp_error *err) {
    const struct mp_trace *t = part->trace;
    struct measure m = {.part = part, .before = before, .n_groups = part->n < GROUPS ? part->n : GROUPS};
    enum mp_status status = MP_OK;
    struct mp_arena *arena = mp_arena_new();
    uint32_t *order = mp_calloc(part->n > 0 ? part->n : 1, sizeof *order);
    double sorted[DRAWS];
    *out = NULL;
    m.out = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *m.out) : NULL;
    m.draw = mp_calloc((size_t)t->n_layers * DRAWS, sizeof *m.draw);
    m.group = mp_calloc(part->n > 0 ? part->n : 1, sizeof *m.group);
    if (m.out != NULL) {
        *m.out = (struct mp_drift){.n_layers = t->n_layers, .has_noise = part->n >= GROUPS_MIN, .arena = arena};
        m.out->distance = mp_arena_alloc(arena, t->n_layers, sizeof *m.out->distance);
        m.out->noise = mp_arena_alloc(arena, t->n_layers, sizeof *m.out->noise);
    }
    if (m.out == NULL || m.out->distance == NULL || m.out->noise == NULL || m.draw == NULL || m.group == NULL ||
        order == NULL) {
        status = mp_nomem(err, "drift");
        goto out;
    }
    struct mp_rng rng = mp_rng_seed(seed);
    for (uint32_t i = 0; i < part->n; i++)
        order[i] = i;
    mp_rng_shuffle(&rng, order, part->n);
    for (uint32_t i = 0; i < part->n; i++)
        m.group[order[i]] = i % m.n_groups;
    for (int d = 0; d < DRAWS; d++) {
        uint32_t groups[GROUPS];
        for (uint32_t g = 0; g < m.n_groups; g++)
            groups[g] = g;
        mp_rng_shuffle(&rng, groups, m.n_groups);
        for (uint32_t g = 0; g < m.n_groups; g++)
            m.is_first[d][groups[g]] = g < m.n_groups / 2;
    }
    MP_TRY(mp_parallel_for(n_threads, t->n_layers, measure_layer, &m, err));
    for (uint32_t l = 0; l < t->n_layers; l++) {
        memcpy(sorted, m.draw + (size_t)l * DRAWS, sizeof sorted);
        qsort(sorted, DRAWS, sizeof *sorted, ascending);
        m.out->noise[l] = sorted[DRAW_95];
        m.out->mean += m.out->distance[l] / t->n_layers;
        m.out->n_beyond += m.out->has_noise && m.out->distance[l] > m.out->noise[l];
    }
    for (int d = 0; d < DRAWS; d++) {
        sorted[d] = 0;
        for (uint32_t l = 0; l < t->n_layers; l++)
            sorted[d] += m.draw[(size_t)l * DRAWS + (size_t)d] / t->n_layers;
    }
    qsort(sorted, DRAWS, sizeof *sorted, ascending);
    m.out->mean_noise = sorted[DRAW_95];
    *out = m.out;
    arena = NULL;
out:
    mp_free(order);
    mp_free(m.draw);
    mp_free(m.group);
    mp_arena_free(arena);
    return status;
}

void mp_drift_free(struct mp_drift *d) {
    if (d != NULL)
        mp_arena_free(d->arena);
}
