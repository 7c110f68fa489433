/* Normalised spectral clustering.
 *
 * Decides   item -> group.
 * Minimises (relaxed) the normalised cut of the affinity graph.
 * Method    the n_groups largest eigenvectors of D^-1/2 A D^-1/2 (D: sums of rows), each divided by sqrt(D): item i
 *           is the point of its coordinates. k-means on those points: seeds drawn by squared distance, the first
 *           restart taking the farthest point each time; means and nearest means until nothing changes. Ties: the
 *           lower index. A group left empty takes the point farthest from its mean.
 * Paper     Shi and Malik, IEEE PAMI 22(8), 2000; von Luxburg, Statistics and Computing 17(4), 2007.
 * Cost      O(n^3) for the eigenvectors, O(n k^2) a round of k-means. */
#include "spectral.h"
#include "eigen.h"
#include <math.h>
#include <moeplan/base.h>
#include <string.h>

#define ROUNDS_MAX 100u

struct cloud {
    uint32_t n, k;
    const double *point; /* [n][k] */
    double *mean;        /* [k][k] */
    double *near;        /* [n] squared distance to the nearest mean */
    uint32_t *size;      /* [k] */
};

static double distance(const struct cloud *c, uint32_t i, const double *mean) {
    const double *p = c->point + (size_t)i * c->k;
    double sum = 0;
    for (uint32_t d = 0; d < c->k; d++)
        sum += (p[d] - mean[d]) * (p[d] - mean[d]);
    return sum;
}

static void take_mean(struct cloud *c, uint32_t of, uint32_t item, bool is_first) {
    memcpy(c->mean + (size_t)of * c->k, c->point + (size_t)item * c->k, c->k * sizeof *c->mean);
    for (uint32_t i = 0; i < c->n; i++) {
        const double d = distance(c, i, c->mean + (size_t)of * c->k);
        c->near[i] = is_first || d < c->near[i] ? d : c->near[i];
    }
}

static void begin(struct cloud *c, bool is_farthest, struct mp_rng *rng) {
    uint32_t item = 0;
    if (is_farthest) { /* the point that is farthest from all others' mean begins */
        double most = -1;
        for (uint32_t d = 0; d < c->k; d++) {
            c->mean[d] = 0;
            for (uint32_t i = 0; i < c->n; i++)
                c->mean[d] += c->point[(size_t)i * c->k + d] / c->n;
        }
        for (uint32_t i = 0; i < c->n; i++) {
            const double far = distance(c, i, c->mean);
            item = far > most ? i : item;
            most = far > most ? far : most;
        }
    } else {
        item = (uint32_t)mp_rng_below(rng, c->n);
    }
    take_mean(c, 0, item, true);
    for (uint32_t m = 1; m < c->k; m++) {
        double total = 0, most = -1, drawn;
        for (uint32_t i = 0; i < c->n; i++)
            total += c->near[i];
        drawn = is_farthest ? 0 : mp_rng_unit(rng) * total;
        item = 0;
        bool is_drawn = false;
        for (uint32_t i = 0; i < c->n && !is_drawn; i++) {
            if (is_farthest) {
                item = c->near[i] > most ? i : item;
                most = c->near[i] > most ? c->near[i] : most;
            } else {
                drawn -= c->near[i];
                item = c->near[i] > 0 ? i : item;
                is_drawn = drawn < 0;
            }
        }
        take_mean(c, m, item, false);
    }
}

/* Every point to its nearest mean; did any go elsewhere? *sum: squared distances. */
static bool assign(struct cloud *c, uint32_t *group, double *sum) {
    bool has_changed = false;
    memset(c->size, 0, c->k * sizeof *c->size);
    *sum = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t best = 0;
        double least = distance(c, i, c->mean);
        for (uint32_t m = 1; m < c->k; m++) {
            const double d = distance(c, i, c->mean + (size_t)m * c->k);
            best = d < least ? m : best;
            least = d < least ? d : least;
        }
        has_changed |= group[i] != best;
        group[i] = best;
        c->near[i] = least;
        c->size[best]++;
        *sum += least;
    }
    for (uint32_t m = 0; m < c->k; m++) {
        uint32_t far = MP_NONE;
        if (c->size[m] > 0)
            continue;
        for (uint32_t i = 0; i < c->n; i++)
            if (c->size[group[i]] > 1 && (far == MP_NONE || c->near[i] > c->near[far]))
                far = i;
        if (far == MP_NONE || c->near[far] == 0)
            continue; /* fewer points than groups */
        c->size[group[far]]--;
        c->size[m]++;
        *sum -= c->near[far];
        c->near[far] = 0;
        group[far] = m;
        has_changed = true;
    }
    return has_changed;
}

static double settle(struct cloud *c, uint32_t *group) {
    double sum = 0;
    for (uint32_t i = 0; i < c->n; i++)
        group[i] = MP_NONE;
    for (uint32_t round = 0; round < ROUNDS_MAX && assign(c, group, &sum); round++) {
        for (uint32_t m = 0; m < c->k; m++)
            if (c->size[m] > 0)
                memset(c->mean + (size_t)m * c->k, 0, c->k * sizeof *c->mean);
        for (uint32_t i = 0; i < c->n; i++)
            for (uint32_t d = 0; d < c->k; d++)
                c->mean[(size_t)group[i] * c->k + d] += c->point[(size_t)i * c->k + d] / c->size[group[i]];
    }
    return sum;
}

/* point[n][k]: coordinates of the items. */
static enum mp_status embed(const struct mp_groups *x, double *point, struct mp_arena *arena, bool *is_found,
                            struct mp_error *err) {
    const size_t n = x->n, k = x->n_groups < x->n ? x->n_groups : x->n;
    double *a = mp_arena_alloc(arena, n * n, sizeof *a), *scale = mp_arena_alloc(arena, n, sizeof *scale);
    double *values = mp_arena_alloc(arena, k, sizeof *values), *vectors = mp_arena_alloc(arena, k * n, sizeof *vectors);
    if (a == NULL || scale == NULL || values == NULL || vectors == NULL)
        return mp_nomem(err, "grouping experts");
    for (size_t i = 0; i < n; i++) {
        uint64_t sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += x->a[i * n + j];
        scale[i] = sum > 0 ? 1 / sqrt((double)sum) : 0;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            a[i * n + j] = (double)x->a[i * n + j] * scale[i] * scale[j];
    enum mp_status status = mp_eigen_largest(a, x->n, (uint32_t)k, values, vectors, arena, is_found, err);
    for (size_t i = 0; i < n && status == MP_OK && *is_found; i++)
        for (size_t d = 0; d < k; d++)
            point[i * x->n_groups + d] = vectors[d * n + i] * scale[i];
    return status;
}

enum mp_status mp_spectral(struct mp_groups *x, uint32_t restarts, uint64_t seed, struct mp_arena *arena,
                           struct mp_error *err) {
    struct cloud c = {.n = x->n, .k = x->n_groups};
    struct mp_rng rng = mp_rng_seed(seed);
    bool is_found = false;
    for (uint32_t i = 0; i < x->n; i++)
        x->group[i] = 0;
    if (x->n_groups == 1 || x->n == 0)
        return MP_OK;
    double *point = mp_arena_alloc(arena, (size_t)x->n * x->n_groups, sizeof *point), best = 0;
    uint32_t *group = mp_arena_alloc(arena, x->n, sizeof *group);
    c.mean = mp_arena_alloc(arena, (size_t)c.k * c.k, sizeof *c.mean);
    c.near = mp_arena_alloc(arena, c.n, sizeof *c.near);
    c.size = mp_arena_alloc(arena, c.k, sizeof *c.size);
    if (point == NULL || group == NULL || c.mean == NULL || c.near == NULL || c.size == NULL)
        return mp_nomem(err, "grouping experts");
    enum mp_status status = embed(x, point, arena, &is_found, err);
    if (status != MP_OK || !is_found)
        return status; /* all in one group: sizes are made to fit later */
    c.point = point;
    for (uint32_t t = 0; t < restarts; t++) {
        begin(&c, t == 0, &rng);
        const double sum = settle(&c, group);
        if (t > 0 && sum >= best)
            continue;
        best = sum;
        memcpy(x->group, group, x->n * sizeof *group);
    }
    return MP_OK;
}
