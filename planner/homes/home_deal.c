/* Requests to nodes, balanced.
 *
 * Decides   the node of every request.
 * Minimises the sum of their costs; no node gets more than its part of the sizes, by its GPUs, and a slack.
 * Method    prices per unit of size on nodes, each in turn the least for which its node is not too full (bisection:
 * what a node gets falls as its price rises), until no price changes. Then single requests move out of nodes that are
 * still too full, cheapest first: only ties and the sizes of requests leave any.
 * Bound     for any prices: the sum of each request's least cost with prices, less what full nodes would pay (weak
 *           duality of the transportation problem). Two nodes: short of the value by less than one request's cost.
 * Paper     the assignment is that of any capacitated transportation problem; METHODS.md L.4.
 * Cost      O(rounds * nodes * 64 * requests * nodes).  Integers, deterministic. */
#include "homes_parts.h"
#include <string.h>

#define ROUNDS 40u

static uint32_t cheapest(const struct mp_home_deal *x, uint32_t r) {
    uint32_t best = 0;
    __int128 least = 0;
    for (uint32_t v = 0; v < x->n_nodes; v++) {
        const __int128 c = (__int128)x->cost[(size_t)r * x->n_nodes + v] + (__int128)x->price[v] * x->size[r];
        if (v == 0 || c < least) {
            least = c;
            best = v;
        }
    }
    return best;
}

static uint64_t load_at(const struct mp_home_deal *x, uint32_t node) {
    uint64_t sum = 0;
    for (uint32_t r = 0; r < x->n; r++)
        sum += cheapest(x, r) == node ? x->size[r] : 0;
    return sum;
}

/* The least price from 0 on at which the node is not too full. True when it changed. */
static bool set_price(struct mp_home_deal *x, uint32_t node, uint64_t limit, int64_t most) {
    const int64_t was = x->price[node];
    int64_t low = -1, high = most; /* too full at low, not at high */
    while (high - low > 1) {
        x->price[node] = low + (high - low) / 2;
        *(load_at(x, node) > limit ? &low : &high) = x->price[node];
    }
    x->price[node] = high;
    return high != was;
}

/* Takes the cheapest move of a request from a node that is too full to one that has room for it. */
static bool move_one(struct mp_home_deal *x, uint64_t *load, const uint64_t *limit) {
    uint32_t best = MP_NONE, to = 0;
    int64_t least = 0;
    for (uint32_t r = 0; r < x->n; r++) {
        const uint32_t from = x->home[r];
        if (load[from] <= limit[from])
            continue;
        for (uint32_t v = 0; v < x->n_nodes; v++) {
            const int64_t *cost = x->cost + (size_t)r * x->n_nodes;
            if (v == from || load[v] + x->size[r] > limit[v] || (best != MP_NONE && cost[v] - cost[from] >= least))
                continue;
            best = r;
            to = v;
            least = cost[v] - cost[from];
        }
    }
    if (best == MP_NONE)
        return false;
    load[x->home[best]] -= x->size[best];
    load[to] += x->size[best];
    x->home[best] = (uint16_t)to;
    return true;
}

enum mp_status mp_home_deal(struct mp_home_deal *x, struct mp_error *err) {
    uint64_t total = 0, gpus = 0, limit[MP_HOME_NODES_MAX], load[MP_HOME_NODES_MAX] = {0};
    int64_t most = 1;
    if (x->n_nodes < 1 || x->n_nodes > MP_HOME_NODES_MAX)
        return mp_fail(err, MP_EUSAGE, "homes: %u nodes (1 to %u)", x->n_nodes, MP_HOME_NODES_MAX);
    for (uint32_t v = 0; v < x->n_nodes; v++)
        gpus += x->gpus_of[v];
    for (uint32_t r = 0; r < x->n; r++) {
        int64_t low = INT64_MAX, high = INT64_MIN;
        total += x->size[r];
        for (uint32_t v = 0; v < x->n_nodes; v++) {
            const int64_t c = x->cost[(size_t)r * x->n_nodes + v];
            low = c < low ? c : low;
            high = c > high ? c : high;
        }
        const int64_t each = x->size[r] > 0 ? (high - low) / (int64_t)x->size[r] + 1 : 0;
        most = each > most ? each : most;
    }
    most *= 2 * (int64_t)x->n_nodes; /* beyond any difference, whatever the other prices are */
    memset(x->price, 0, sizeof x->price);
    for (uint32_t v = 0; v < x->n_nodes; v++)
        limit[v] = mp_mul_div_ceil(total, x->gpus_of[v] * (1000000 + (uint64_t)x->slack_ppm), gpus * 1000000);
    for (uint32_t round = 0, changed = 1; round < ROUNDS && changed; round++) {
        changed = 0;
        for (uint32_t v = 0; v < x->n_nodes; v++)
            changed |= set_price(x, v, limit[v], most);
    }
    __int128 bound = 0;
    for (uint32_t r = 0; r < x->n; r++) {
        x->home[r] = (uint16_t)cheapest(x, r);
        load[x->home[r]] += x->size[r];
        bound += (__int128)x->cost[(size_t)r * x->n_nodes + x->home[r]] + (__int128)x->price[x->home[r]] * x->size[r];
    }
    for (uint32_t v = 0; v < x->n_nodes; v++)
        bound -= (__int128)x->price[v] * limit[v];
    x->bound = (int64_t)bound;
    while (move_one(x, load, limit))
        ;
    x->is_within = true;
    x->value = 0;
    for (uint32_t r = 0; r < x->n; r++)
        x->value += x->cost[(size_t)r * x->n_nodes + x->home[r]];
    for (uint32_t v = 0; v < x->n_nodes; v++)
        x->is_within &= load[v] <= limit[v];
    return MP_OK;
}
