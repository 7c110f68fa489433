/* The lower bound of orders between nodes.
 *
 * Decides    nothing; says what no way of passing bytes on inside nodes can beat.
 * Bound      bytes between a node and the others over all ports between them; bytes through an uplink over its rate;
 *            bytes of a GPU over all its ports. docs/BOUNDS.md part 3 has the proof.
 * Cost       O(n_gpus^2), no memory: groups are runs of GPUs. */
#include <moeplan/cost.h>

#define NS_PER_S UINT64_C(1000000000)

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}
static uint64_t over(uint64_t bytes, uint64_t rate) { return rate == 0 ? 0 : mp_mul_div_ceil(bytes, NS_PER_S, rate); }

/* Rates of the ports of GPU g from level `from` on that no GPU of [first, g) has there. */
static uint64_t new_ports(const struct mp_topology *t, uint32_t first, uint32_t g, uint32_t from, bool is_in) {
    uint64_t rate = 0;
    for (uint32_t l = from; l < t->n_levels; l++) {
        uint32_t port = is_in ? t->gpus[g].in_port[l] : t->gpus[g].out_port[l];
        bool is_known = port >= t->n_resources;
        for (uint32_t k = from; k < l && !is_known; k++)
            is_known = (is_in ? t->gpus[g].in_port[k] : t->gpus[g].out_port[k]) == port;
        for (uint32_t x = first; x < g && !is_known && t->resources[port].first_gpu != g; x++)
            for (uint32_t k = from; k < t->n_levels; k++)
                is_known |= (is_in ? t->gpus[x].in_port[k] : t->gpus[x].out_port[k]) == port;
        if (!is_known)
            rate = add(rate, t->resources[port].bytes_per_s);
    }
    return rate;
}

static uint64_t bound_of_direction(const struct mp_topology *t, const uint64_t *matrix, bool is_in) {
    const uint32_t n = t->n_gpus;
    uint64_t bound = 0, node_rate = 0, leaving[MP_MAX_LEVELS] = {0}; /* bytes out of the group of each level */
    uint32_t node_first = 0;
    for (uint32_t g = 0; g < n; g++) {
        uint64_t mine = 0;
        for (uint32_t o = 0; o < n; o++) {
            uint64_t bytes = is_in ? matrix[(size_t)o * n + g] : matrix[(size_t)g * n + o];
            if (o == g || bytes == 0)
                continue;
            mine = add(mine, bytes);
            for (uint32_t l = 0; l < t->n_levels && t->gpus[g].group[l] != t->gpus[o].group[l]; l++)
                leaving[l] = add(leaving[l], bytes);
        }
        bound = larger(bound, over(mine, new_ports(t, g, g, 0, is_in)));
        node_rate = add(node_rate, new_ports(t, node_first, g, 1, is_in));
        for (uint32_t l = 0; l + 1 < t->n_levels; l++) {
            if (g + 1 < n && t->gpus[g + 1].group[l] == t->gpus[g].group[l])
                continue; /* the group goes on */
            const uint32_t *uplink = is_in ? t->levels[l].uplink_in : t->levels[l].uplink_out;
            if (uplink != NULL)
                bound = larger(bound, over(leaving[l], t->resources[uplink[t->gpus[g].group[l]]].bytes_per_s));
            if (l == 0) {
                bound = larger(bound, over(leaving[0], node_rate));
                node_rate = 0;
                node_first = g + 1;
            }
            leaving[l] = 0;
        }
    }
    return bound;
}

uint64_t mp_relay_bound_ns(const struct mp_topology *t, const uint64_t *matrix) {
    return larger(bound_of_direction(t, matrix, false), bound_of_direction(t, matrix, true));
}
