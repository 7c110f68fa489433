/* All flows at once, at max-min fair rates.
 *
 * Decides    when each flow of a matrix ends if all start together, as one grouped all-to-all does.
 * Method     fluid simulation. Rates come from progressive filling (D. Bertsekas, R. Gallager, Data Networks, 1992,
 *            6.5.2): all rates rise together, a flow stops when a resource on its path is full or its own cap is
 *            reached. Each end of a flow is an event. Flows are kept in the order in which the filling froze them. A
 *            flow that ends with rate x uses no resource that filled below x, so everything frozen below x keeps its
 *            rate, and only the rest of the order is filled again.
 * Differs    an in port with an incast curve has a capacity that depends on how many flows use it; it falls with that
 *            number, so the argument above holds.
 * Cost       O(sum over events of flows at or above the ended flow's rate * path length); flows that end together are
 *            one event. */
#include "net.h"
#include <stdlib.h>
#include <string.h>

static enum mp_status reserve(struct mp_net *n, size_t flows, size_t entries, struct mp_error *err) {
#define GROW(field, count)                                                                                             \
    do {                                                                                                               \
        void *grown_ = mp_realloc(n->field, (count), sizeof *n->field);                                                \
        if (grown_ == NULL)                                                                                            \
            return mp_nomem(err, "flows");                                                                             \
        n->field = grown_;                                                                                             \
    } while (0)
    if (flows > n->n_flows_allocated) {
        flows += flows / 4 + 16;
        n->n_flows_allocated = 0;
        GROW(flow_pair, flows);
        GROW(order, flows);
        GROW(is_free, flows);
        GROW(left, flows);
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

/* Bytes per ns of the resource that pads short paths: it never limits, and is finite so that sums with it are
 * numbers. */
#define UNLIMITED 1e300

/* Least of x[0 .. n), four at a time so that the comparisons do not wait for each other. */
static double least_of(const double *x, uint32_t n) {
    double a = INFINITY, b = INFINITY, c = INFINITY, d = INFINITY;
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        a = x[i] < a ? x[i] : a;
        b = x[i + 1] < b ? x[i + 1] : b;
        c = x[i + 2] < c ? x[i + 2] : c;
        d = x[i + 3] < d ? x[i + 3] : d;
    }
    for (; i < n; i++)
        a = x[i] < a ? x[i] : a;
    a = b < a ? b : a;
    c = d < c ? d : c;
    return c < a ? c : a;
}

/* Flow f has its final rate; its resources have one free flow less. Returns the bytes it still has to send. */
static inline __attribute__((always_inline)) double freeze(struct mp_net *n, uint32_t f, double level, uint32_t stride,
                                                           uint32_t *pos) {
    n->is_free[f] = 0;
    n->order[(*pos)++] = f;
    for (uint32_t k = 0; k < stride; k++) {
        uint32_t r = n->path[(size_t)f * stride + k], left = --n->n_free[r];
        n->residual[r] -= level;
        n->share[r] = left > 0 ? n->residual[r] * n->inverse[left] : INFINITY;
    }
    return n->left[f];
}

/* Flows [start, n_left) of the order, marked free and counted in n_free and residual, get new rates; everything
 * before keeps its own. */
static inline __attribute__((always_inline)) void fill(struct net_fluid *x, uint32_t start, uint32_t stride) {
    struct mp_net *n = x->n;
    uint32_t pos = start, next_capped = 0;
    const uint32_t n_local = x->n_local;
    for (uint32_t r = 0; r < n_local; r++) {
        if (n->n_free[r] == n->n_alive[r])
            n->residual[r] = n->capacity[r]; /* nothing frozen: forget what rounding has left */
        n->share[r] = n->n_free[r] > 0 ? n->residual[r] * n->inverse[n->n_free[r]] : INFINITY;
    }
    double level = x->n_groups > 0 ? n->groups[x->n_groups - 1].rate : 0;
    double earliest = x->n_groups > 0 ? n->groups[x->n_groups - 1].first_finish : INFINITY;
    while (pos < x->n_left) {
        double least = least_of(n->share, n_local), cap = INFINITY;
        if (x->n_capped > 0) {
            while (next_capped < x->n_capped && !n->is_free[n->capped[next_capped]])
                next_capped++;
            cap = next_capped < x->n_capped ? n->cap[n->capped[next_capped]] : INFINITY;
        }
        double rate = cap <= least ? cap : least, first = INFINITY;
        level = rate > level ? rate : level; /* levels never fall; rounding must not make them */
        struct net_group *group = &n->groups[x->n_groups++];
        group->start = pos;
        group->rate = level;
        group->since = x->now;
        if (cap <= least) {
            for (; next_capped < x->n_capped && n->cap[n->capped[next_capped]] <= cap; next_capped++)
                if (n->is_free[n->capped[next_capped]]) {
                    double left = freeze(n, n->capped[next_capped], level, stride, &pos);
                    first = left < first ? left : first;
                }
        } else {
            double limit = least * (1 + 1e-13);
            for (uint32_t r = 0; r < n_local; r++) {
                if (n->share[r] > limit)
                    continue;
                const uint32_t *list = n->list + n->list_first[r];
                for (uint32_t j = 0; n->n_free[r] > 0; j++)
                    if (n->is_free[list[j]]) {
                        double left = freeze(n, list[j], level, stride, &pos);
                        first = left < first ? left : first;
                    }
                n->share[r] = INFINITY;
            }
        }
        first = x->now + first / level;
        earliest = first < earliest ? first : earliest;
        group->first_finish = earliest;
    }
}

/* Where a flow of this cap is, or would go, in the list of capped flows. */
static uint32_t find_cap(const struct mp_net *n, uint32_t n_capped, uint32_t f) {
    uint32_t low = 0, high = n_capped;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2, g = n->capped[middle];
        if (n->cap[g] < n->cap[f] || (n->cap[g] <= n->cap[f] && g < f))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void end_flow(struct net_fluid *x, uint32_t f) {
    struct mp_net *n = x->n;
    if (x->end != NULL)
        net_end(n, x->end, n->flow_pair[f], x->now);
    else
        x->ended[x->n_ended++] = f;
    if (isfinite(n->cap[f])) {
        uint32_t at = find_cap(n, x->n_capped--, f);
        memmove(n->capped + at, n->capped + at + 1, (x->n_capped - at) * sizeof *n->capped);
    }
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
        double capacity = net_capacity(&n->resources[n->global[r]], last);
        n->residual[r] += capacity - n->capacity[r];
        n->capacity[r] = capacity;
    }
}

/* The flows of groups [g, n_groups), which stand in order[groups[g].start .. stop), are free again; those that end by
 * now, within rounding, are gone. Returns where the flows that are left stop. */
static inline __attribute__((always_inline)) uint32_t free_groups(struct net_fluid *x, uint32_t g, uint32_t stop,
                                                                  uint32_t stride) {
    struct mp_net *n = x->n;
    const double tolerance = net_tolerance(x->now);
    uint32_t kept = n->groups[g].start;
    for (uint32_t q = g; q < x->n_groups; q++) {
        const uint32_t last = q + 1 < x->n_groups ? n->groups[q + 1].start : stop;
        const double rate = n->groups[q].rate, sent = rate * (x->now - n->groups[q].since), rest = rate * tolerance;
        for (uint32_t i = n->groups[q].start; i < last; i++) {
            uint32_t f = n->order[i];
            double left = n->left[f] - sent;
            for (uint32_t k = 0; k < stride; k++)
                n->residual[n->path[(size_t)f * stride + k]] += rate;
            if (left <= rest) {
                end_flow(x, f);
                continue;
            }
            n->left[f] = left;
            n->is_free[f] = 1;
            n->order[kept++] = f;
            for (uint32_t k = 0; k < stride; k++)
                n->n_free[n->path[(size_t)f * stride + k]]++;
        }
    }
    x->n_groups = g;
    return kept;
}

/* At x->now some flows end. All flows from the first group that holds one of them are freed. Returns where in the
 * order that is. */
static inline __attribute__((always_inline)) uint32_t free_rest(struct net_fluid *x, uint32_t stride) {
    const double limit = x->now + net_tolerance(x->now);
    uint32_t g = 0;
    while (x->n->groups[g].first_finish > limit)
        g++;
    const uint32_t start = x->n->groups[g].start;
    x->n_left = free_groups(x, g, x->n_left, stride);
    return start;
}

static inline __attribute__((always_inline)) void run(struct net_fluid *x, uint32_t stride) {
    fill(x, 0, stride);
    while (x->n_left > 0) {
        x->now = x->n->groups[x->n_groups - 1].first_finish;
        uint32_t start = free_rest(x, stride);
        if (start < x->n_left)
            fill(x, start, stride);
    }
}
/* Most networks have paths of an out and an in port: those loops are compiled for them. */
static void run_pairs(struct net_fluid *x) { run(x, 2); }
static void run_paths(struct net_fluid *x) { run(x, x->stride); }

static inline __attribute__((always_inline)) void start_flows(struct net_fluid *x, const uint32_t *flows,
                                                              uint32_t n_new, uint32_t stride) {
    struct mp_net *n = x->n;
    /* Whatever the last ends left frozen is freed too: it stands in front of what they freed. */
    if (x->n_groups > 0) {
        uint32_t stop = x->freed_from, kept = free_groups(x, 0, stop, stride);
        memmove(n->order + kept, n->order + stop, (x->n_left - stop) * sizeof *n->order);
        x->n_left -= stop - kept;
    }
    for (uint32_t i = 0; i < n_new; i++) {
        uint32_t f = flows[i];
        n->order[x->n_left++] = f;
        n->is_free[f] = 1;
        if (isfinite(n->cap[f])) {
            uint32_t at = find_cap(n, x->n_capped, f);
            memmove(n->capped + at + 1, n->capped + at, (x->n_capped++ - at) * sizeof *n->capped);
            n->capped[at] = f;
        }
        for (uint32_t k = 0; k < stride; k++) {
            size_t entry = (size_t)f * stride + k;
            uint32_t r = n->path[entry];
            if (r == x->n_local)
                break;
            n->where[entry] = n->n_alive[r];
            n->list[n->list_first[r] + n->n_alive[r]++] = f;
            n->n_free[r]++;
            n->capacity[r] = net_capacity(&n->resources[n->global[r]], n->n_alive[r]);
        }
    }
    x->freed_from = 0;
}
static inline __attribute__((always_inline)) void end_flows(struct net_fluid *x, double now, uint32_t stride) {
    x->now = now;
    x->freed_from = x->n_left;
    if (x->n_left > 0 && x->n->groups[x->n_groups - 1].first_finish <= now + net_tolerance(now))
        x->freed_from = free_rest(x, stride);
}
static inline __attribute__((always_inline)) double settle(struct net_fluid *x, uint32_t stride) {
    if (x->freed_from < x->n_left)
        fill(x, x->freed_from, stride);
    x->freed_from = x->n_left;
    return x->n_left > 0 ? x->n->groups[x->n_groups - 1].first_finish : INFINITY;
}
void net_fluid_end(struct net_fluid *x, double now) {
    if (x->stride == 2)
        end_flows(x, now, 2);
    else
        end_flows(x, now, x->stride);
}
void net_fluid_start(struct net_fluid *x, const uint32_t *flows, uint32_t n_new) {
    if (x->stride == 2)
        start_flows(x, flows, n_new, 2);
    else
        start_flows(x, flows, n_new, x->stride);
}
double net_fluid_settle(struct net_fluid *x) { return x->stride == 2 ? settle(x, 2) : settle(x, x->stride); }

void net_end(const struct mp_net *n, struct net_end *e, uint32_t pair, double now) {
    struct net_pair path;
    if (n->pair_first == NULL)
        net_path(n, pair / n->n, pair % n->n, &path);
    double latency_ns = n->pair_first != NULL ? n->pair_latency[pair] : path.latency_ns;
    uint64_t latency = (uint64_t)latency_ns, end = net_add(net_round_up(now), latency);
    e->last = now + latency_ns > e->last ? now + latency_ns : e->last;
    e->longest_ns = end > e->longest_ns ? end : e->longest_ns;
    e->least_latency_ns = latency < e->least_latency_ns ? latency : e->least_latency_ns;
    if (e->finish_ns != NULL)
        e->finish_ns[pair] = end;
    if (n->log != NULL)
        net_log_add(n, pair / n->n, pair % n->n, 0, e->matrix[pair], e->start != NULL ? e->start[pair] : 0, end);
    if (e->finish != NULL)
        e->finish[pair] = now + latency_ns;
}

static int by_cap(const void *a, const void *b, void *ctx) {
    const double *cap = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return cap[x] < cap[y] ? -1 : cap[x] > cap[y] ? 1 : (x > y) - (x < y);
}

static void next_stamp(struct mp_net *n) {
    if (++n->stamp == 0) {
        memset(n->local_stamp, 0, n->n_resources * sizeof *n->local_stamp);
        memset(n->port_stamp, 0, n->n_resources * sizeof *n->port_stamp);
        n->stamp = 1;
    }
}

/* Lists the flows with their paths in dense local resource numbers; paths shorter than the longest end in a resource
 * without limit. None has started: n_alive counts, until start_all or net_fluid_start, what there will be. */
static enum mp_status flatten(struct net_fluid *x, const uint32_t *pairs, const double *caps, size_t n_flows,
                              struct mp_error *err) {
    struct mp_net *n = x->n;
    uint32_t stride = 2;
    for (size_t f = 0; f < n_flows && n->pair_first != NULL; f++)
        if (n->pair_first[pairs[f] + 1] - n->pair_first[pairs[f]] > stride)
            stride = n->pair_first[pairs[f] + 1] - n->pair_first[pairs[f]];
    if (n->pair_first == NULL)
        stride = NET_MAX_PATH;
    enum mp_status status = reserve(n, n_flows, n_flows * stride, err);
    if (status != MP_OK)
        return status;
    x->stride = stride;
    next_stamp(n);
    uint32_t n_local = 0, f;
    for (f = 0; f < n_flows; f++) {
        uint32_t p = pairs[f];
        struct net_pair path;
        net_path(n, p / n->n, p % n->n, &path);
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
        n->flow_pair[f] = p;
        n->is_free[f] = 0;
        n->cap[f] = caps != NULL && caps[f] < path.cap ? caps[f] : path.cap;
    }
    x->n_local = n_local;
    uint32_t at = 0;
    for (uint32_t r = 0; r <= n_local; r++) {
        n->list_first[r] = at;
        at += r < n_local ? n->n_alive[r] : 0;
        n->n_free[r] = r < n_local ? 0 : (uint32_t)(n_flows * stride); /* of the padding: more than ever needed */
        n->capacity[r] = n->residual[r] = r < n_local ? n->resources[n->global[r]].rate : UNLIMITED;
        n->n_alive[r] = 0;
    }
    for (size_t entry = 0; entry < n_flows * stride; entry++)
        if (n->path[entry] == MP_NONE)
            n->path[entry] = n_local;
    return MP_OK;
}

/* All flows start at 0. */
static void start_all(struct net_fluid *x, size_t n_flows) {
    struct mp_net *n = x->n;
    for (uint32_t f = 0; f < n_flows; f++) {
        n->is_free[f] = 1;
        n->order[f] = f;
        if (isfinite(n->cap[f]))
            n->capped[x->n_capped++] = f;
        for (uint32_t k = 0; k < x->stride; k++) {
            size_t entry = (size_t)f * x->stride + k;
            uint32_t r = n->path[entry];
            if (r == x->n_local)
                continue;
            n->where[entry] = n->n_alive[r];
            n->list[n->list_first[r] + n->n_alive[r]++] = f;
            n->n_free[r]++;
        }
    }
    for (uint32_t r = 0; r < x->n_local; r++)
        n->capacity[r] = n->residual[r] = net_capacity(&n->resources[n->global[r]], n->n_alive[r]);
    x->n_left = (uint32_t)n_flows;
    if (x->n_capped > 1)
        qsort_r(n->capped, x->n_capped, sizeof *n->capped, by_cap, n->cap);
}

enum mp_status net_fluid_new(struct net_fluid *x, struct mp_net *n, const uint32_t *pairs, const double *caps,
                             const double *bytes, uint32_t *ended, size_t n_flows, struct mp_error *err) {
    *x = (struct net_fluid){.n = n, .ended = ended};
    enum mp_status status = flatten(x, pairs, caps, n_flows, err);
    if (status == MP_OK && n_flows > 0)
        memcpy(n->left, bytes, n_flows * sizeof *n->left);
    return status;
}

static uint32_t root_of(uint32_t *parent, uint32_t r) {
    while (parent[r] != r) {
        parent[r] = parent[parent[r]];
        r = parent[r];
    }
    return r;
}

enum mp_status net_list_reserve(struct mp_net *n, size_t count, struct mp_error *err) {
    if (count <= n->n_listed_allocated)
        return MP_OK;
    n->n_listed_allocated = 0;
    uint32_t *grown = mp_realloc(n->listed, count, sizeof *grown);
    if (grown == NULL)
        return mp_nomem(err, "flows");
    n->listed = grown;
    grown = mp_realloc(n->flows, count, sizeof *grown);
    if (grown == NULL)
        return mp_nomem(err, "flows");
    n->flows = grown;
    n->n_listed_allocated = count;
    return MP_OK;
}

/* Lists the flows by component: flows that share no resource, directly or through others, do not touch each other's
 * rates. n->flows[first[c] .. first[c + 1]) are those of component c, first = n->component_first; the first *n_simple
 * of the *n_components are of a kind that net_ports.c may be able to run. */
static void list_flows(struct mp_net *n, const uint32_t *pairs, size_t count, uint32_t *n_simple,
                       uint32_t *n_components) {
    *n_simple = *n_components = 0;
    if (n->pair_first == NULL) {
        memcpy(n->flows, pairs, count * sizeof *n->flows);
        n->component_first[0] = 0;
        n->component_first[(*n_components)++ + 1] = (uint32_t)count;
        return;
    }
    next_stamp(n);
    uint32_t *parent = n->local, n_touched = 0;
    for (size_t f = 0; f < count; f++) {
        const uint32_t *path = n->pair_resource + n->pair_first[pairs[f]],
                       length = n->pair_first[pairs[f] + 1] - n->pair_first[pairs[f]];
        for (uint32_t k = 0; k < length; k++) {
            if (n->local_stamp[path[k]] != n->stamp) {
                n->local_stamp[path[k]] = n->stamp;
                parent[path[k]] = path[k];
                n->n_alive[path[k]] = 0; /* flows of the component, kept at its root */
                n->n_free[path[k]] = 0;  /* is it one for the general way? */
                n->touched[n_touched++] = path[k];
            }
            parent[root_of(parent, path[k])] = root_of(parent, path[0]);
        }
    }
    for (size_t f = 0; f < count; f++) {
        uint32_t pair = pairs[f], root = root_of(parent, n->pair_resource[n->pair_first[pair]]);
        n->n_alive[root]++;
        n->n_free[root] |= n->pair_first[pair + 1] - n->pair_first[pair] != 2 || isfinite(n->pair_cap[pair]);
    }
    uint32_t at = 0;
    for (uint32_t is_general = 0; is_general < 2; is_general++) {
        for (uint32_t i = 0; i < n_touched; i++) {
            uint32_t r = n->touched[i];
            if (parent[r] != r || n->n_free[r] != is_general)
                continue;
            n->component_first[(*n_components)++] = at;
            at += n->n_alive[r];
            n->n_alive[r] = at - n->n_alive[r]; /* where its next flow goes */
        }
        *n_simple = is_general ? *n_simple : *n_components;
    }
    n->component_first[*n_components] = at;
    for (size_t f = 0; f < count; f++) {
        uint32_t root = root_of(parent, n->pair_resource[n->pair_first[pairs[f]]]);
        n->flows[n->n_alive[root]++] = pairs[f];
    }
}

/* Flows that start together, the general way. */
static enum mp_status run_general(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                                  struct net_end *end, struct mp_error *err) {
    struct net_fluid x = {.n = n, .end = end};
    enum mp_status status = flatten(&x, pairs, NULL, n_flows, err);
    if (status != MP_OK)
        return status;
    for (size_t f = 0; f < n_flows; f++)
        n->left[f] = (double)matrix[n->flow_pair[f]];
    start_all(&x, n_flows);
    if (x.stride == 2)
        run_pairs(&x);
    else
        run_paths(&x);
    return MP_OK;
}

enum mp_status net_at_once(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                           const double *start, struct net_end *end, struct mp_error *err) {
    uint32_t n_simple, n_components;
    enum mp_status status = net_list_reserve(n, n_flows, err);
    if (status != MP_OK || n_flows == 0)
        return status;
    status = net_log_reserve(n, n_flows, err);
    if (status != MP_OK)
        return status;
    end->matrix = matrix;
    end->start = start;
    list_flows(n, pairs, n_flows, &n_simple, &n_components);
    size_t rest = n_flows; /* flows with starts of their own that stay for the events are gathered at the end */
    for (uint32_t c = n_components; c-- > 0;) {
        const uint32_t first = n->component_first[c], count = n->component_first[c + 1] - first;
        next_stamp(n);
        if (c < n_simple && net_ports_run(n, n->flows + first, count, matrix, start, end))
            continue;
        if (start == NULL) {
            status = run_general(n, n->flows + first, count, matrix, end, err);
            if (status != MP_OK)
                return status;
            continue;
        }
        rest -= count;
        memmove(n->flows + rest, n->flows + first, count * sizeof *n->flows);
    }
    return rest == n_flows ? MP_OK : net_events_timed(n, n->flows + rest, n_flows - rest, matrix, start, end, err);
}

enum mp_status net_concurrent_pairs(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                                    uint64_t *bound_ns, struct net_end *end, struct mp_error *err) {
    *bound_ns = 0;
    enum mp_status status = net_at_once(n, pairs, n_flows, matrix, NULL, end, err);
    if (status != MP_OK || n_flows == 0)
        return status;
    /* Exact arithmetic would never be below the bound; rounding must not be either. */
    *bound_ns = net_bound_pairs(n, pairs, n_flows, matrix);
    uint64_t least = net_add(*bound_ns, end->least_latency_ns);
    end->longest_ns = end->longest_ns > least ? end->longest_ns : least;
    return MP_OK;
}

enum mp_status mp_net_concurrent(struct mp_net *n, const uint64_t *matrix, uint64_t *time_ns, uint64_t *finish_ns,
                                 struct mp_error *err) {
    struct net_end end = {.finish_ns = finish_ns, .least_latency_ns = UINT64_MAX};
    const size_t gpus = n->n;
    size_t count = 0;
    uint64_t bound;
    if (finish_ns != NULL)
        memset(finish_ns, 0, gpus * gpus * sizeof *finish_ns);
    *time_ns = 0;
    for (size_t i = 0; i < gpus; i++)
        for (size_t j = 0; j < gpus; j++)
            count += matrix[i * gpus + j] > 0 && i != j;
    enum mp_status status = net_list_reserve(n, count, err);
    if (status != MP_OK)
        return status;
    count = 0;
    for (size_t p = 0; p < gpus * gpus; p++)
        if (matrix[p] > 0 && p / gpus != p % gpus)
            n->listed[count++] = (uint32_t)p;
    status = net_concurrent_pairs(n, n->listed, count, matrix, &bound, &end, err);
    if (status == MP_OK)
        *time_ns = end.longest_ns;
    return status;
}
