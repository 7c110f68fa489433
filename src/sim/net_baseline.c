/* How the papers' baselines send: one flow at a time per sender, receivers shared fairly (docs/COST.md part 5). RCS
 * takes a random order, SJF the shortest first (Aurora, arXiv 2410.17043, part 8), spread-out the rotation i + 1, i +
 * 2, ... (FAST, arXiv 2505.09764). */
#include "net.h"
#include <stdlib.h>

struct by_size {
    const uint64_t *row;
};
static int shortest_first(const void *a, const void *b, void *ctx) {
    const struct by_size *c = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint64_t p = c->row[x], q = c->row[y];
    return p < q ? -1 : p > q ? 1 : (x > y) - (x < y);
}

enum mp_status mp_net_baseline(struct mp_net *n, enum mp_baseline which, uint64_t seed, const uint64_t *matrix,
                               uint64_t *time_ns, struct mp_error *err) {
    *time_ns = 0;
    size_t n_jobs = 0;
    for (size_t i = 0; i < n->n; i++)
        for (size_t j = 0; j < n->n; j++)
            n_jobs += i != j && matrix[i * n->n + j] > 0;
    enum mp_status status = net_events_reserve(n, n_jobs, err);
    if (status != MP_OK)
        return status;
    struct mp_rng rng = mp_rng_seed(seed);
    n_jobs = 0;
    for (uint32_t src = 0; src < n->n; src++) {
        uint32_t *list = n->sender_list, count = 0;
        const uint64_t *row = matrix + (size_t)src * n->n;
        for (uint32_t k = 0; k < n->n; k++) {
            uint32_t dst = which == MP_BASELINE_SPREAD_OUT ? (src + k) % n->n : k;
            if (dst != src && row[dst] > 0)
                list[count++] = dst;
        }
        if (which == MP_BASELINE_RCS)
            mp_rng_shuffle(&rng, list, count);
        if (which == MP_BASELINE_SJF)
            qsort_r(list, count, sizeof *list, shortest_first, &(struct by_size){row});
        for (uint32_t k = 0; k < count; k++) {
            net_events_job(n, n_jobs++, (struct net_job){.stage = k, .queue = {src, MP_NONE}}, src, list[k],
                           (double)row[list[k]], INFINITY);
        }
    }
    double last;
    status = net_events_run(n, n_jobs, n->n, 0, NULL, &last, err);
    if (status != MP_OK)
        return status;
    uint64_t bound = mp_net_port_bound(n, matrix), rounded = net_round_up(last);
    *time_ns = rounded > bound ? rounded : bound;
    return MP_OK;
}
