/* All flows at once, at max-min fair rates.
 *
 * Decides    when each flow of a matrix ends if all start together, as one grouped all-to-all does.
 * Method     fluid simulation. Rates come from progressive filling (D. Bertsekas, R. Gallager, Data Networks, 1992, 6.5.2): all rates
 *            rise together, a flow stops when a resource on its path is full or its own cap is reached. Each end of a flow is an event.
 *            Flows are kept in the order in which the filling froze them. A flow that ends with rate x uses no resource that filled
 *            below x, so everything frozen below x keeps its rate, and only the rest of the order is filled again.
 * Differs    an in port with an incast curve has a capacity that depends on how many flows use it; it falls with that number, so the
 *            argument above holds.
 * Cost       O(sum over events of flows at or above the ended flow's rate * path length); flows that end together are one event. */
#include "net.h"
#include <stdlib.h>
#include <string.h>

static enum mp_status reserve(struct mp_net *n, size_t flows, size_t entries, struct mp_error *err) {
#define GROW(field, count)                                                                                                           \
    do {                                                                                                                             \
        void *grown_ = mp_realloc(n->field, (count), sizeof *n->field);                                                              \
        if (grown_ == NULL)                                                                                                          \
            return mp_nomem(err, "flows");                                                                                           \
        n->field = grown_;                                                                                                           \
    } while (0)
    if (flows > n->n_flows_allocated) {
        flows += flows / 4 + 16;
        n->n_flows_allocated = 0;
        GROW(flow_pair, flows);
        GROW(order, flows);
        GROW(is_free, flows);
        GROW(left, flows);
        GROW(rate, flows);
        GROW(since, flows);
        GROW(finish, flows);
        GROW(cap, flows);
        GROW(capped, flows);
        GROW(groups, flows + 1);
        n->n_flows_allocated = flows;
    }
    if (entries > n->n_entries_allocated) {
        entries += entries / 4 + 16;
        n->n_entries_allocated = 0;
        GROW(path, entries);
        GROW(where, entries);
        GROW(list, entries);
        GROW(inverse, entries + 1);
        for (size_t i = 1; i <= entries; i++)
            n->inverse[i] = 1.0 / (double)i;
        n->n_entries_allocated = entries;
    }
#undef GROW
    return MP_OK;
}

/* Bytes per ns of the resource that pads short paths: it never limits, and is finite so that sums with it are numbers. */
#define UNLIMITED 1e300

/* The state of one simulation that is not in the scratch. */
struct fluid {
    struct mp_net *n;
    uint32_t n_local, stride, n_left, n_groups, n_capped;
    double now;
};

/* Flows [start, n_left) of the order get new rates; everything before keeps its own. */
static void fill(struct fluid *x, uint32_t start, double level) {
    struct mp_net *n = x->n;
    const uint32_t stride = x->stride;
    uint32_t n_touched = 0, pos = start, next_capped = 0;
    for (uint32_t i = start; i < x->n_left; i++) {
        uint32_t f = n->order[i];
        n->is_free[f] = 1;
        for (uint32_t k = 0; k < stride; k++) {
            uint32_t r = n->path[(size_t)f * stride + k];
            if (n->n_free[r]++ == 0)
                n->touched[n_touched++] = r;
            n->used[r] -= n->rate[f];
        }
    }
    uint32_t n_open = 0;
    for (uint32_t i = 0; i < n_touched; i++) {
        uint32_t r = n->touched[i];
        if (n->n_free[r] == n->n_alive[r])
            n->used[r] = 0;
        n->residual[r] = n->capacity[r] - n->used[r];
        n_open++;
    }
    const double no_earlier = x->n_groups > 0 ? n->groups[x->n_groups - 1].first_finish : INFINITY;
    double earliest = no_earlier;
    while (pos < x->n_left) {
        double least = INFINITY;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n_open; i++) {
            uint32_t r = n->touched[i];
            if (n->n_free[r] == 0) {
                n->used[r] = n->capacity[r] - n->residual[r];
                continue;
            }
            double share = n->residual[r] * n->inverse[n->n_free[r]];
            n->share[kept] = share;
            n->touched[kept++] = r;
            least = share < least ? share : least;
        }
        n_open = kept;
        while (next_capped < x->n_capped && !n->is_free[n->capped[next_capped]])
            next_capped++;
        double cap = next_capped < x->n_capped ? n->cap[n->capped[next_capped]] : INFINITY;
        bool is_cap = cap <= least;
        double rate = is_cap ? cap : least;
        level = rate > level ? rate : level; /* levels never fall; rounding must not make them */
        const double inverse_rate = 1 / level;
        struct net_group *group = &n->groups[x->n_groups++];
        group->start = pos;
        group->rate = level;
#define FREEZE(f)                                                                                                                    \
    do {                                                                                                                             \
        n->is_free[f] = 0;                                                                                                           \
        n->order[pos++] = (f);                                                                                                       \
        n->rate[f] = level;                                                                                                          \
        double finish_ = x->now + n->left[f] * inverse_rate;                                                                         \
        n->finish[f] = finish_;                                                                                                      \
        earliest = finish_ < earliest ? finish_ : earliest;                                                                          \
        for (uint32_t k_ = 0; k_ < stride; k_++) {                                                                                   \
            uint32_t q_ = n->path[(size_t)(f) * stride + k_];                                                                        \
            n->residual[q_] -= level;                                                                                                \
            n->n_free[q_]--;                                                                                                         \
        }                                                                                                                            \
    } while (0)
        if (is_cap) {
            for (; next_capped < x->n_capped && n->cap[n->capped[next_capped]] <= cap; next_capped++)
                if (n->is_free[n->capped[next_capped]])
                    FREEZE(n->capped[next_capped]);
        } else {
            double limit = least * (1 + 1e-13);
            for (uint32_t i = 0; i < n_open; i++) {
                if (n->share[i] > limit)
                    continue;
                uint32_t r = n->touched[i];
                const uint32_t *list = n->list + n->list_first[r];
                for (uint32_t j = 0; n->n_free[r] > 0 && j < n->n_alive[r]; j++)
                    if (n->is_free[list[j]])
                        FREEZE(list[j]);
            }
        }
#undef FREEZE
        group->first_finish = earliest;
    }
    for (uint32_t i = 0; i < n_open; i++) {
        uint32_t r = n->touched[i];
        n->used[r] = n->capacity[r] - n->residual[r];
        n->n_free[r] = 0;
    }
}

static void remove_flow(struct fluid *x, uint32_t f) {
    struct mp_net *n = x->n;
    for (uint32_t k = 0; k < x->stride; k++) {
        size_t entry = (size_t)f * x->stride + k;
        uint32_t r = n->path[entry];
        if (r == x->n_local) /* padding */
            return;
        uint32_t *list = n->list + n->list_first[r], last = --n->n_alive[r];
        uint32_t moved = list[last], at = n->where[entry];
        list[at] = moved;
        for (uint32_t m = 0; m < x->stride; m++)
            if (n->path[(size_t)moved * x->stride + m] == r)
                n->where[(size_t)moved * x->stride + m] = at;
        n->used[r] -= n->rate[f];
        n->capacity[r] = net_capacity(&n->resources[n->global[r]], last);
    }
}

static int by_cap(const void *a, const void *b, void *ctx) {
    const double *cap = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return cap[x] < cap[y] ? -1 : cap[x] > cap[y] ? 1 : (x > y) - (x < y);
}

/* Lists the flows with their paths in dense local resource numbers; paths shorter than the longest end in a resource without limit. */
static enum mp_status flatten(struct fluid *x, const uint64_t *matrix, struct mp_error *err) {
    struct mp_net *n = x->n;
    size_t pairs = (size_t)n->n * n->n, n_flows = 0;
    uint32_t stride = 1;
    for (size_t p = 0; p < pairs; p++)
        if (matrix[p] > 0 && p / n->n != p % n->n) {
            n_flows++;
            if (n->pair_first != NULL && n->pair_first[p + 1] - n->pair_first[p] > stride)
                stride = n->pair_first[p + 1] - n->pair_first[p];
        }
    if (n->pair_first == NULL)
        stride = NET_MAX_PATH;
    enum mp_status status = reserve(n, n_flows, n_flows * stride, err);
    if (status != MP_OK)
        return status;
    x->stride = stride;
    x->n_left = (uint32_t)n_flows;
    if (++n->stamp == 0) {
        memset(n->local_stamp, 0, n->n_resources * sizeof *n->local_stamp);
        n->stamp = 1;
    }
    uint32_t n_local = 0, f = 0;
    for (uint32_t src = 0; src < n->n; src++)
        for (uint32_t dst = 0; dst < n->n; dst++) {
            size_t p = (size_t)src * n->n + dst;
            if (matrix[p] == 0 || src == dst)
                continue;
            struct net_pair path;
            net_path(n, src, dst, &path);
            for (uint32_t k = 0; k < stride; k++) {
                uint32_t r = MP_NONE;
                if (k < path.n) {
                    uint32_t g = path.resource[k];
                    if (n->local_stamp[g] != n->stamp) {
                        n->local_stamp[g] = n->stamp;
                        n->local[g] = n_local;
                        n->global[n_local] = g;
                        n->n_alive[n_local++] = 0;
                    }
                    r = n->local[g];
                    n->n_alive[r]++;
                }
                n->path[(size_t)f * stride + k] = r;
            }
            n->flow_pair[f] = (uint32_t)p;
            n->left[f] = (double)matrix[p];
            n->rate[f] = 0;
            n->since[f] = 0;
            n->cap[f] = path.cap;
            if (isfinite(path.cap))
                n->capped[x->n_capped++] = f;
            n->order[f] = f;
            f++;
        }
    x->n_local = n_local;
    uint32_t at = 0;
    for (uint32_t r = 0; r <= n_local; r++) {
        n->list_first[r] = at;
        at += r < n_local ? n->n_alive[r] : 0;
        n->used[r] = 0;
        n->n_free[r] = 0;
        n->capacity[r] = r < n_local ? net_capacity(&n->resources[n->global[r]], n->n_alive[r]) : UNLIMITED;
        n->n_alive[r] = 0;
    }
    for (f = 0; f < n_flows; f++)
        for (uint32_t k = 0; k < stride; k++) {
            size_t entry = (size_t)f * stride + k;
            uint32_t r = n->path[entry];
            if (r == MP_NONE) {
                n->path[entry] = n_local;
                continue;
            }
            n->where[entry] = n->n_alive[r];
            n->list[n->list_first[r] + n->n_alive[r]++] = f;
        }
    if (x->n_capped > 1)
        qsort_r(n->capped, x->n_capped, sizeof *n->capped, by_cap, n->cap);
    return MP_OK;
}

enum mp_status mp_net_concurrent(struct mp_net *n, const uint64_t *matrix, uint64_t *time_ns, uint64_t *finish_ns,
                                 struct mp_error *err) {
    struct fluid x = {.n = n};
    if (finish_ns != NULL)
        memset(finish_ns, 0, (size_t)n->n * n->n * sizeof *finish_ns);
    *time_ns = 0;
    enum mp_status status = flatten(&x, matrix, err);
    if (status != MP_OK)
        return status;
    if (x.n_left > 0)
        fill(&x, 0, 0);
    uint64_t longest = 0, least_latency = UINT64_MAX;
    while (x.n_left > 0) {
        x.now = n->groups[x.n_groups - 1].first_finish;
        double limit = x.now + net_tolerance(x.now);
        uint32_t g = 0;
        while (n->groups[g].first_finish > limit)
            g++;
        uint32_t start = n->groups[g].start, kept = start;
        for (uint32_t i = start; i < x.n_left; i++) {
            uint32_t f = n->order[i];
            if (n->finish[f] <= limit) {
                uint32_t p = n->flow_pair[f];
                struct net_pair path = {.latency_ns = n->pair_first != NULL ? n->pair_latency[p] : 0};
                if (n->pair_first == NULL)
                    net_path(n, p / n->n, p % n->n, &path);
                uint64_t latency = (uint64_t)path.latency_ns, end = net_round_up(n->finish[f]) + latency;
                least_latency = latency < least_latency ? latency : least_latency;
                longest = end > longest ? end : longest;
                if (finish_ns != NULL)
                    finish_ns[p] = end;
                remove_flow(&x, f);
                continue;
            }
            n->left[f] -= n->rate[f] * (x.now - n->since[f]);
            n->since[f] = x.now;
            n->order[kept++] = f;
        }
        x.n_left = kept;
        x.n_groups = g;
        if (kept > 0)
            fill(&x, start, g > 0 ? n->groups[g - 1].rate : 0);
    }
    /* Exact arithmetic would never be below the bound; rounding must not be either. */
    uint64_t bound = longest > 0 ? mp_net_port_bound(n, matrix) + least_latency : 0;
    *time_ns = longest > bound ? longest : bound;
    return MP_OK;
}
