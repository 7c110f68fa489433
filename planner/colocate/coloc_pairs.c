/* Aurora's pairings of two models' groups, and its assignments of pairs to GPUs.
 *
 * Decides   which groups share a GPU (sorted: theorem 6.2; bottleneck: case II), then which GPU (sorted: theorem 5.1;
 *           bottleneck: the second half of the decoupled heuristic).
 * Minimises pairing: the largest of (a_i + b_j sent, a_i + b_j received), GPUs left out of account; bottleneck
 *           assignment: the largest time of a pair by itself on its GPU, by the closed form.
 * Method    sorting; thresholds with augmenting paths (planner/order/bottleneck.c) on the entries' distance to the
 * largest.
 * Bound     sorted pairing: optimal where every group sends what it receives; bottleneck pairing: optimal for what it
 *           minimises; the two steps together: none (three-dimensional bottleneck matching is NP-hard).
 * Paper     arXiv 2410.17043, theorems 5.1, 6.2, sections 6.2, 7.2; Crama and Spieksma, EJOR 60, 1992.
 * Differs   one warm threshold method in place of bisection with Hopcroft and Karp's matching: the same optimum.
 * Cost      O(n log n); O(n^3) at worst. */
#include "bottleneck.h"
#include "coloc.h"
#include <stdlib.h>

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }

struct ranked {
    uint64_t weight, second;
    uint32_t index;
};
static int by_weight(const void *x, const void *y) { /* heaviest first */
    const struct ranked *a = x, *b = y;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    if (a->second != b->second)
        return a->second > b->second ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

enum mp_status mp_coloc_least_largest(uint32_t n, const uint64_t *weight, uint32_t *to, uint64_t *largest,
                                      struct mp_error *err) {
    uint64_t most = 0, threshold;
    struct mp_bottleneck *b = NULL;
    uint64_t *flipped = mp_calloc((size_t)n * n, sizeof *flipped);
    enum mp_status status = MP_OK;
    if (flipped == NULL)
        return mp_nomem(err, "a bottleneck assignment");
    for (size_t k = 0; k < (size_t)n * n; k++)
        most = more(most, weight[k]);
    for (size_t k = 0; k < (size_t)n * n; k++)
        flipped[k] = most - weight[k] + 1;
    MP_TRY(mp_bottleneck_new(&b, n, flipped, err));
    threshold = mp_bottleneck_next(b);
    for (uint32_t i = 0; i < n && to != NULL; i++)
        to[i] = mp_bottleneck_to(b)[i];
    if (largest != NULL)
        *largest = most + 1 - threshold;
out:
    mp_bottleneck_free(b);
    mp_free(flipped);
    return status;
}

/* Both are filled with what the groups of a model send and receive. */
static void flows(const struct mp_coloc_groups *g, uint32_t model, struct ranked *out) {
    for (uint32_t i = 0; i < g->n; i++) {
        const uint64_t sent = mp_coloc_traffic(g, model, i, false), received = mp_coloc_traffic(g, model, i, true);
        out[i] = (struct ranked){
            .weight = sent > received ? sent : received, .second = sent > received ? received : sent, .index = i};
    }
}

enum mp_status mp_coloc_pair_sorted(const struct mp_coloc_groups *g, uint32_t *pair, struct mp_error *err) {
    struct ranked *a = mp_calloc(2 * (size_t)g->n, sizeof *a);
    if (a == NULL)
        return mp_nomem(err, "a pairing");
    struct ranked *b = a + g->n;
    flows(g, 0, a);
    flows(g, 1, b);
    qsort(a, g->n, sizeof *a, by_weight);
    qsort(b, g->n, sizeof *b, by_weight);
    for (uint32_t k = 0; k < g->n; k++)
        pair[a[k].index] = b[g->n - 1 - k].index;
    mp_free(a);
    return MP_OK;
}

enum mp_status mp_coloc_pair_bottleneck(const struct mp_coloc_groups *g, uint32_t *pair, struct mp_error *err) {
    const uint32_t n = g->n;
    enum mp_status status = MP_OK;
    uint64_t *weight = mp_calloc((size_t)n * n + 4 * (size_t)n, sizeof *weight);
    if (weight == NULL)
        return mp_nomem(err, "a pairing");
    uint64_t *flow = weight + (size_t)n * n; /* [model][out, in][n] */
    for (uint32_t k = 0; k < 4 * n; k++)
        flow[k] = mp_coloc_traffic(g, k / (2 * n), k % n, k / n % 2 == 1);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            weight[(size_t)i * n + j] = more(flow[i] + flow[2 * n + j], flow[n + i] + flow[3 * n + j]);
    MP_TRY(mp_coloc_least_largest(n, weight, pair, NULL, err));
out:
    mp_free(weight);
    return status;
}

/* Time of a GPU over all groups it might have: the lower, the faster it is. */
static uint64_t slowness(const struct mp_coloc_groups *g, uint32_t gpu) {
    uint64_t sum = 0;
    for (int m = 0; m < 2; m++)
        for (uint32_t i = 0; i < g->n; i++) {
            const size_t at = (size_t)i * g->n + gpu;
            sum += g->experts[m][at] + g->dispatch[m][0][at] + g->dispatch[m][1][at];
        }
    return sum;
}

enum mp_status mp_coloc_spread_sorted(const struct mp_coloc_groups *g, const uint32_t *pair, uint32_t *const on[2],
                                      struct mp_error *err) {
    struct ranked *pairs = mp_calloc(2 * (size_t)g->n, sizeof *pairs);
    if (pairs == NULL)
        return mp_nomem(err, "an assignment");
    struct ranked *gpus = pairs + g->n;
    for (uint32_t i = 0; i < g->n; i++) {
        const uint64_t sent = mp_coloc_traffic(g, 0, i, false) + mp_coloc_traffic(g, 1, pair[i], false);
        const uint64_t received = mp_coloc_traffic(g, 0, i, true) + mp_coloc_traffic(g, 1, pair[i], true);
        pairs[i] = (struct ranked){.weight = more(sent, received), .index = i};
        gpus[i] = (struct ranked){.weight = slowness(g, i), .index = i};
    }
    qsort(pairs, g->n, sizeof *pairs, by_weight);
    qsort(gpus, g->n, sizeof *gpus, by_weight);
    for (uint32_t k = 0; k < g->n; k++) {
        const uint32_t gpu = gpus[g->n - 1 - k].index;
        on[0][gpu] = pairs[k].index;
        on[1][gpu] = pair[pairs[k].index];
    }
    mp_free(pairs);
    return MP_OK;
}

void mp_coloc_peaks_add(struct mp_coloc_peaks *k, const struct mp_coloc_groups *g, uint32_t i, uint32_t j,
                        uint32_t gpu) {
    const size_t at[2] = {(size_t)i * g->n + gpu, (size_t)j * g->n + gpu};
    uint64_t compute = 0;
    for (int m = 0; m < 2; m++) {
        const uint64_t gate = g->gate[m][at[m]], experts = g->experts[m][at[m]], end = g->aggregate[m][at[m]];
        k->gate[m] = more(k->gate[m], gate);
        k->experts[m] = more(k->experts[m], experts);
        k->aggregate[m] = more(k->aggregate[m], end);
        k->between[m] = more(k->between[m], gate + end);
        compute += gate + experts + end;
    }
    k->compute = more(k->compute, compute);
    for (int side = 0; side < 2; side++) {
        const uint64_t da = g->dispatch[0][side][at[0]], db = g->dispatch[1][side][at[1]];
        const uint64_t ca = g->combine[0][side][at[0]], cb = g->combine[1][side][at[1]];
        k->dispatch[0] = more(k->dispatch[0], da);
        k->dispatch[1] = more(k->dispatch[1], db);
        k->combine[0] = more(k->combine[0], ca);
        k->combine[1] = more(k->combine[1], cb);
        k->both_dispatch = more(k->both_dispatch, da + db);
        k->both_combine = more(k->both_combine, ca + cb);
        k->port = more(k->port, da + db + ca + cb);
    }
}

enum mp_status mp_coloc_spread_bottleneck(const struct mp_coloc_groups *g, const uint32_t *pair, uint32_t *const on[2],
                                          struct mp_error *err) {
    const uint32_t n = g->n;
    enum mp_status status = MP_OK;
    uint64_t *weight = mp_calloc((size_t)n * n, sizeof *weight);
    uint32_t *to = mp_calloc(n, sizeof *to);
    if (weight == NULL || to == NULL) {
        status = mp_nomem(err, "an assignment");
        goto out;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t gpu = 0; gpu < n; gpu++) {
            struct mp_coloc_peaks k = {.port = 0};
            mp_coloc_peaks_add(&k, g, i, pair[i], gpu);
            weight[(size_t)i * n + gpu] = mp_coloc_closed(&k, g->shape.shot_ns);
        }
    MP_TRY(mp_coloc_least_largest(n, weight, to, NULL, err));
    for (uint32_t i = 0; i < n; i++) {
        on[0][to[i]] = i;
        on[1][to[i]] = pair[i];
    }
out:
    mp_free(weight);
    mp_free(to);
    return status;
}
