/* What an order is expected to take on a matrix, from counts alone.
 *
 * Decides    whether a direction of a plan with a fallback rule goes in stages or in one shot (docs/ORDERS.md part 5).
 * Method     every stage takes its launch, the largest latency of a level and the port bound of its own bytes.
 * Differs    from the simulation: no stage overlaps another, so it is above COUPLED and FREE where ranks run ahead.
 * Cost       O(transfers + stages with bytes + resources used). */
#include "net.h"
#include <string.h>

#define MOST_NS (UINT64_C(1) << 52)
#define NS_PER_S UINT64_C(1000000000)

static uint64_t most_latency(const struct mp_topology *t) {
    uint64_t most = 0;
    for (uint32_t l = 0; l < t->n_levels; l++)
        most = t->levels[l].latency_ns > most ? t->levels[l].latency_ns : most;
    return most;
}
static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum = net_add(a, b);
    return sum < MOST_NS ? sum : MOST_NS;
}

/* Port bound of the transfers of one stage, and their rate caps. */
static uint64_t stage_bound(struct mp_net *n, const struct mp_order *order, uint32_t s, bool is_swapped,
                            const uint64_t *bytes) {
    const struct mp_stage *stage = &order->stages[s];
    const bool is_capped = order->port_bytes_per_s > 0 && !(order->has_flush && s + 1 == order->n_stages);
    uint64_t bound = 0;
    uint32_t n_touched = 0;
    for (uint32_t k = 0; k < stage->n; k++) {
        const struct mp_transfer *t = &stage->transfers[k];
        uint64_t rate, ns;
        struct mp_path path;
        if (bytes[k] == 0)
            continue;
        mp_topology_path(n->t, is_swapped ? t->dst : t->src, is_swapped ? t->src : t->dst, &path);
        for (uint32_t i = 0; i < path.n; i++) {
            uint32_t r = path.resource[i];
            if (n->through[r] == 0)
                n->touched[n_touched++] = r;
            n->through[r] = net_add(n->through[r], bytes[k]);
        }
        if (path.cap_bytes_per_s > 0) {
            ns = mp_mul_div_ceil(bytes[k], NS_PER_S, path.cap_bytes_per_s);
            bound = ns > bound ? ns : bound;
        }
        if (is_capped && !__builtin_mul_overflow(order->port_bytes_per_s, (uint64_t)t->width, &rate) && rate > 0) {
            ns = mp_mul_div_ceil(bytes[k], NS_PER_S, rate);
            bound = ns > bound ? ns : bound;
        }
    }
    for (uint32_t i = 0; i < n_touched; i++) {
        uint32_t r = n->touched[i];
        uint64_t ns = mp_mul_div_ceil(n->through[r], NS_PER_S, n->t->resources[r].bytes_per_s);
        bound = ns > bound ? ns : bound;
        n->through[r] = 0;
    }
    return bound;
}

enum mp_status mp_net_order_estimate(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                     const uint64_t *matrix, uint64_t *staged_ns, uint64_t *single_ns,
                                     struct mp_error *err) {
    const uint64_t latency = most_latency(n->t);
    const bool is_swapped = way != MP_COMBINE_FORWARD;
    enum mp_status status = MP_OK;
    *staged_ns = 0;
    *single_ns = add(add(n->t->launch_ns, latency), mp_net_port_bound(n, matrix));
    if (order->between_nodes) {
        MP_TRY(net_nodes_staged(n, order, way, matrix, NULL, staged_ns, err));
        goto out;
    }
    MP_TRY(net_cut(n, order, is_swapped, matrix, err));
    memset(n->through, 0, n->n_resources * sizeof *n->through);
    const uint64_t *bytes = n->transfer_bytes;
    for (uint32_t s = 0; s < order->n_stages; bytes += order->stages[s++].n) {
        uint64_t bound = stage_bound(n, order, s, is_swapped, bytes);
        if (bound > 0)
            *staged_ns = add(*staged_ns, add(add(n->t->stage_launch_ns, latency), bound));
    }
out:
    return status;
}

enum mp_status mp_net_falls_back(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                 uint32_t fallback_ppm, const uint64_t *matrix, bool *falls_back,
                                 struct mp_error *err) {
    uint64_t staged, single;
    enum mp_status status = MP_OK;
    *falls_back = false;
    if (fallback_ppm == 0 || mp_net_port_bound(n, matrix) == 0)
        return MP_OK;
    MP_TRY(mp_net_order_estimate(n, order, way, matrix, &staged, &single, err));
    *falls_back = (unsigned __int128)staged * 1000000 > (unsigned __int128)single * (UINT64_C(1000000) + fallback_ppm);
out:
    return status;
}
