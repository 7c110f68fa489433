/* Bytes of pairs as time.
 *
 * Decides   nothing. A matching that holds its pairs for t seconds moves t * rate bytes of each, so with unequal rates
 *           matchings are sought among times and not among bytes.
 * Bound     with unequal ports one transfer at a time per end cannot reach the port bound (docs/ORDERS.md part 3:
 *           sub-ports can); a shared NIC or uplink is not seen here.
 * Cost      O(n^2). */
#include "pair_time.h"

uint64_t mp_path_rate(const struct mp_topology *t, const struct mp_path *path) {
    uint64_t rate = path->cap_bytes_per_s > 0 ? path->cap_bytes_per_s : UINT64_MAX;
    for (uint32_t k = 0; k < path->n; k++)
        if (t->resources[path->resource[k]].bytes_per_s < rate)
            rate = t->resources[path->resource[k]].bytes_per_s;
    return rate;
}

static uint64_t rate_alone(const struct mp_topology *t, uint32_t src, uint32_t dst) {
    struct mp_path path;
    mp_topology_path(t, src, dst, &path);
    return mp_path_rate(t, &path);
}

uint64_t mp_pair_times(uint64_t *time, const struct mp_order_problem *in) {
    const uint32_t n = in->topology->n_gpus;
    uint64_t fastest = 0;
    bool is_equal = true;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t *x = &time[(size_t)i * n + j];
            *x = i == j || in->matrix[(size_t)i * n + j] == 0 ? 0 : rate_alone(in->topology, i, j);
            is_equal = is_equal && (*x == 0 || fastest == 0 || *x == fastest);
            fastest = *x > fastest ? *x : fastest;
        }
    for (size_t k = 0; k < (size_t)n * n; k++)
        if (time[k] > 0)
            time[k] = is_equal ? in->matrix[k] : mp_mul_div_ceil(in->matrix[k], fastest, time[k]);
    return fastest;
}
