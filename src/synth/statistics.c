/* Statistics of a trace by which a fitted trace and a real one are compared.
 *
 * Decides   nothing; the definitions are in <moeplan/synth.h>.
 * Minimises -
 * Method    dense tables per layer; mutual information from the joint table of all k x k pairs of a row in two layers.
 * Bound     -
 * Differs   the mutual information is corrected by a shuffle, the pair lift by n (n - 1) in place of n^2: small samples
 *           fake structure otherwise.
 * Cost      O(layers * (rows * k^2 + experts^2)) time, O(rows * k + experts^2) memory.  Deterministic in (trace, seed).
 */
#include "internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE_ROWS = 1 << 20, STEP_ROWS = 128, N_STEPS = 64 };

struct sampler {
    const struct mp_trace *t;
    struct mp_rng rng;
    uint32_t n_rows; /* sampled */
    uint64_t stride;
    uint32_t n_requests;                                        /* that have rows */
    uint32_t *requests;                                         /* [n_requests] */
    uint32_t *shuffled;                                         /* [n_rows] */
    uint16_t *here, *next;                                      /* [n_rows][k] ids of two layers */
    uint64_t *load;                                             /* [n_experts] */
    uint64_t *other_load;                                       /* [n_experts] */
    uint64_t *table;                                            /* [n_experts][n_experts] */
    uint64_t step_rows[N_STEPS][STEP_ROWS], run_first[N_STEPS]; /* the same for all layers */
    uint32_t n_step_rows[N_STEPS], n_run_rows;
    uint8_t *half_by_file, *half_by_category, *half_by_chance; /* [trace's requests] */
    uint64_t *keys;                                            /* [n_requests] category << 32 | request */
};

static void sampler_free(struct sampler *s) {
    if (s == NULL)
        return;
    mp_free(s->requests);
    mp_free(s->shuffled);
    mp_free(s->here);
    mp_free(s->next);
    mp_free(s->load);
    mp_free(s->other_load);
    mp_free(s->table);
    mp_free(s->half_by_file);
    mp_free(s->half_by_category);
    mp_free(s->keys);
    mp_free(s->half_by_chance);
    mp_free(s);
}

static int by_number(const void *pa, const void *pb) {
    uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;
    return (a > b) - (a < b);
}

static void split_halves(struct sampler *s) {
    const struct mp_trace *t = s->t;
    for (uint32_t r = 0; r < t->n_requests; r++)
        if (t->requests[r].n_rows > 0)
            s->requests[s->n_requests++] = r;
    for (uint32_t i = 0; i < s->n_requests; i++)
        s->half_by_file[s->requests[i]] = i >= s->n_requests / 2;
    for (uint32_t i = 0; i < s->n_requests; i++) {
        uint32_t c = t->requests[s->requests[i]].category;
        s->keys[i] = (uint64_t)(c < t->n_categories ? c : t->n_categories) << 32 | s->requests[i];
    }
    qsort(s->keys, s->n_requests, sizeof *s->keys, by_number);
    for (uint32_t i = 0; i < s->n_requests; i++)
        s->half_by_category[(uint32_t)s->keys[i]] = i >= s->n_requests / 2;
    mp_rng_shuffle(&s->rng, s->requests, s->n_requests);
    for (uint32_t i = 0; i < s->n_requests; i++)
        s->half_by_chance[s->requests[i]] = i >= s->n_requests / 2;
}

/* The request that has a row: the last that begins at or before it and is not empty. */
static uint32_t request_of(const struct mp_trace *t, uint64_t row) {
    uint32_t low = 0, high = (uint32_t)t->n_requests;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (t->requests[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void draw_steps(struct sampler *s) {
    const struct mp_trace *t = s->t;
    s->n_run_rows = t->n_rows < STEP_ROWS ? (uint32_t)t->n_rows : STEP_ROWS;
    uint32_t wanted = s->n_requests < STEP_ROWS ? s->n_requests : STEP_ROWS;
    for (uint32_t i = 0; i < N_STEPS; i++) {
        uint32_t requests[STEP_ROWS], n = 0;
        /* When a few requests hold nearly all rows a step may stay smaller. */
        for (uint32_t tries = 0; n < wanted && tries < 64 * STEP_ROWS; tries++) {
            uint64_t row = mp_rng_below(&s->rng, t->n_rows);
            requests[n] = request_of(t, row);
            uint32_t same = 0;
            while (requests[same] != requests[n])
                same++;
            if (same == n)
                s->step_rows[i][n++] = row;
        }
        s->n_step_rows[i] = n;
        s->run_first[i] = mp_rng_below(&s->rng, t->n_rows - s->n_run_rows + 1);
    }
}

static enum mp_status sampler_new(struct sampler **out, const struct mp_trace *t, uint64_t seed, struct mp_error *err) {
    struct sampler *s = mp_calloc(1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "the statistics");
    s->t = t;
    s->rng = mp_rng_seed(seed);
    s->stride = mp_ceil_div(t->n_rows, SAMPLE_ROWS);
    s->n_rows = (uint32_t)mp_ceil_div(t->n_rows, s->stride);
    size_t ids = (size_t)s->n_rows * t->top_k;
    s->requests = mp_calloc((size_t)t->n_requests, sizeof *s->requests);
    s->shuffled = mp_calloc(s->n_rows, sizeof *s->shuffled);
    s->here = mp_calloc(ids, sizeof *s->here);
    s->next = mp_calloc(ids, sizeof *s->next);
    s->load = mp_calloc(t->n_experts, sizeof *s->load);
    s->other_load = mp_calloc(t->n_experts, sizeof *s->other_load);
    s->table = mp_calloc((size_t)t->n_experts * t->n_experts, sizeof *s->table);
    s->half_by_file = mp_calloc((size_t)t->n_requests, 1);
    s->half_by_category = mp_calloc((size_t)t->n_requests, 1);
    s->keys = mp_calloc((size_t)t->n_requests, sizeof *s->keys);
    s->half_by_chance = mp_calloc((size_t)t->n_requests, 1);
    if (s->requests == NULL || s->shuffled == NULL || s->here == NULL || s->next == NULL || s->load == NULL ||
        s->other_load == NULL || s->table == NULL || s->half_by_file == NULL || s->half_by_chance == NULL ||
        s->half_by_category == NULL || s->keys == NULL) {
        sampler_free(s);
        return mp_nomem(err, "the statistics");
    }
    for (uint32_t i = 0; i < s->n_rows; i++)
        s->shuffled[i] = i;
    mp_rng_shuffle(&s->rng, s->shuffled, s->n_rows);
    split_halves(s);
    draw_steps(s);
    *out = s;
    return MP_OK;
}

static void read_layer(const struct sampler *s, uint32_t layer, uint16_t *ids) {
    for (uint32_t i = 0; i < s->n_rows; i++)
        (void)mp_trace_row(s->t, layer, i * s->stride, ids + (size_t)i * s->t->top_k);
}

static double max_over_mean(const uint64_t *load, uint32_t n) {
    uint64_t most = 0, sum = 0;
    for (uint32_t e = 0; e < n; e++) {
        most = load[e] > most ? load[e] : most;
        sum += load[e];
    }
    return sum > 0 ? (double)most * n / (double)sum : 0;
}

/* Fills load and table from the rows of `here`: c_i and n_ij for i < j. */
static void count_pairs(struct sampler *s) {
    uint32_t n = s->t->n_experts, k = s->t->top_k;
    memset(s->load, 0, n * sizeof *s->load);
    memset(s->table, 0, (size_t)n * n * sizeof *s->table);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const uint16_t *ids = s->here + (size_t)i * k;
        for (uint32_t a = 0; a < k && ids[a] != MP_NO_EXPERT; a++) {
            s->load[ids[a]]++;
            for (uint32_t b = 0; b < a; b++)
                s->table[ids[a] < ids[b] ? (size_t)ids[a] * n + ids[b] : (size_t)ids[b] * n + ids[a]]++;
        }
    }
}

static double pair_lift(const struct sampler *s) {
    uint32_t n = s->t->n_experts;
    double weighted = 0, total = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++) {
            double both = (double)s->table[(size_t)i * n + j];
            if (both > 0) {
                weighted += both * (both - 1) / ((double)s->load[i] * (double)s->load[j]);
                total += both;
            }
        }
    return total > 0 ? weighted * (double)s->n_rows / total : 0;
}

/* Mutual information of an expert of a row of `here` and one of the paired row of `next`. */
static double information(struct sampler *s, bool shuffled) {
    uint32_t n = s->t->n_experts, k = s->t->top_k;
    memset(s->load, 0, n * sizeof *s->load);
    memset(s->other_load, 0, n * sizeof *s->other_load);
    memset(s->table, 0, (size_t)n * n * sizeof *s->table);
    uint64_t total = 0;
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const uint16_t *x = s->here + (size_t)i * k, *y = s->next + (size_t)(shuffled ? s->shuffled[i] : i) * k;
        for (uint32_t a = 0; a < k && x[a] != MP_NO_EXPERT; a++)
            for (uint32_t b = 0; b < k && y[b] != MP_NO_EXPERT; b++) {
                s->table[(size_t)x[a] * n + y[b]]++;
                s->load[x[a]]++;
                s->other_load[y[b]]++;
                total++;
            }
    }
    double bits = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double both = (double)s->table[(size_t)i * n + j];
            if (both > 0)
                bits += both * log2(both * (double)total / ((double)s->load[i] * (double)s->other_load[j]));
        }
    return total > 0 ? bits / (double)total : 0;
}

static void add_row(struct sampler *s, uint32_t layer, uint64_t row) {
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t k = mp_trace_row(s->t, layer, row, ids);
    for (uint32_t j = 0; j < k; j++)
        s->load[ids[j]]++;
}

/* Means over the steps of one layer. */
static void step_imbalance(struct sampler *s, uint32_t layer, double *step, double *run) {
    uint32_t n = s->t->n_experts;
    *step = *run = 0;
    for (uint32_t i = 0; i < N_STEPS; i++) {
        memset(s->load, 0, n * sizeof *s->load);
        for (uint32_t j = 0; j < s->n_step_rows[i]; j++)
            add_row(s, layer, s->step_rows[i][j]);
        *step += max_over_mean(s->load, n) / N_STEPS;
        memset(s->load, 0, n * sizeof *s->load);
        for (uint32_t j = 0; j < s->n_run_rows; j++)
            add_row(s, layer, s->run_first[i] + j);
        *run += max_over_mean(s->load, n) / N_STEPS;
    }
}

static double halves_distance(struct sampler *s, const uint8_t *half) {
    uint32_t n = s->t->n_experts, k = s->t->top_k, request = 0;
    uint64_t sums[2] = {0, 0}, *loads[2] = {s->load, s->other_load};
    memset(s->load, 0, n * sizeof *s->load);
    memset(s->other_load, 0, n * sizeof *s->other_load);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        uint64_t row = i * s->stride;
        while (row >= s->t->requests[request].first_row + s->t->requests[request].n_rows)
            request++;
        for (uint32_t a = 0; a < k && s->here[(size_t)i * k + a] != MP_NO_EXPERT; a++) {
            loads[half[request]][s->here[(size_t)i * k + a]]++;
            sums[half[request]]++;
        }
    }
    if (sums[0] == 0 || sums[1] == 0)
        return 0;
    double distance = 0;
    for (uint32_t e = 0; e < n; e++)
        distance += fabs((double)s->load[e] / (double)sums[0] - (double)s->other_load[e] / (double)sums[1]);
    return distance / 2;
}

enum mp_status mp_trace_statistics(struct mp_trace_stats *out, const struct mp_trace *t, uint64_t seed,
                                   struct mp_error *err) {
    *out = (struct mp_trace_stats){0};
    if (t->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE,
                       "these statistics need the experts of each token, and this recording has only counts "
                       "(record top-k ids per token)");
    if (t->n_rows == 0 || t->n_requests == 0 || t->n_requests >= UINT32_MAX)
        return mp_fail(err, MP_EUSAGE, "a trace without rows has no statistics");
    struct sampler *s = NULL;
    enum mp_status status = sampler_new(&s, t, seed, err);
    if (status != MP_OK)
        return status;
    struct mp_trace_stats sum = {0};
    read_layer(s, 0, s->here);
    for (uint32_t l = 0; l < t->n_layers; l++) {
        double step, run;
        count_pairs(s);
        sum.load_max_over_mean += max_over_mean(s->load, t->n_experts);
        sum.pair_lift += pair_lift(s);
        step_imbalance(s, l, &step, &run);
        sum.step_max_over_mean += step;
        sum.run_max_over_mean += run;
        double by_chance = halves_distance(s, s->half_by_chance);
        sum.half_shift += halves_distance(s, s->half_by_file) - by_chance;
        if (t->n_categories > 0)
            sum.category_shift += halves_distance(s, s->half_by_category) - by_chance;
        if (l + 1 < t->n_layers) {
            read_layer(s, l + 1, s->next);
            sum.cross_layer_information += information(s, false) - information(s, true);
            uint16_t *here = s->here;
            s->here = s->next;
            s->next = here;
        }
    }
    double n = t->n_layers;
    *out = (struct mp_trace_stats){.load_max_over_mean = sum.load_max_over_mean / n,
                                   .pair_lift = sum.pair_lift / n,
                                   .cross_layer_information = n > 1 ? sum.cross_layer_information / (n - 1) : 0,
                                   .step_max_over_mean = sum.step_max_over_mean / n,
                                   .run_max_over_mean = sum.run_max_over_mean / n,
                                   .half_shift = sum.half_shift / n,
                                   .category_shift = sum.category_shift / n};
    sampler_free(s);
    return MP_OK;
}
