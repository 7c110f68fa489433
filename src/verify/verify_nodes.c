/* Orders between nodes and the rule of falling back to one shot, from docs/ORDERS.md parts 4 and 5.
 *
 * Decides   nothing; says how long such an order takes, what it cannot go below, and whether it is used.
 * Method    every stage's bytes are walked as one line per transfer: what a GPU keeps, what it is handed, who takes it
 *           from the line on the other side. Three matrices per stage; each single shot goes through the slow network.
 * Cost      O(stages * n^2) and one simulation for each single shot. */
#include "internal.h"
#include <string.h>

typedef unsigned __int128 u128;

#define NS_PER_S UINT64_C(1000000000)
#define MOST_NS (UINT64_C(1) << 52) /* where sums of times stop */

static uint64_t min_of(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t max_of(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t clip(u128 x) { return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x; }
static uint64_t part(uint64_t n, uint64_t share, uint64_t unit) { return (uint64_t)((u128)n * share / unit); }
static uint64_t ns_of(uint64_t bytes, uint64_t bytes_per_s) {
    return bytes_per_s == 0 ? 0 : clip(((u128)bytes * NS_PER_S + bytes_per_s - 1) / bytes_per_s);
}

/* ---- what no way of passing bytes on can go below ---- */

uint64_t vf_relay_bound(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed) {
    const struct mp_topology *t = d->v->topology;
    const struct vf_bounds *b = &d->bounds;
    uint64_t bound = 0;
    memset(d->through, 0, t->n_resources * sizeof *d->through);
    memset(d->leaving, 0, 2 * (size_t)d->n * sizeof *d->leaving);
    memset(d->node_leaving, 0, 2 * (size_t)d->n * sizeof *d->node_leaving);
    for (uint32_t i = 0; i < d->n; i++)
        for (uint32_t j = 0; j < d->n; j++) {
            uint64_t size = copies[(size_t)i * d->n + j] * bytes;
            uint32_t from = is_reversed ? j : i, to = is_reversed ? i : j;
            if (size == 0 || i == j)
                continue;
            d->leaving[from] += size;
            d->leaving[d->n + to] += size;
            if (d->node[from] != d->node[to]) {
                d->node_leaving[d->node[from]] += size;
                d->node_leaving[d->n + d->node[to]] += size;
            }
            struct mp_path path = vf_path(d, from, to);
            for (uint32_t k = 0; k < path.n; k++)
                if (t->resources[path.resource[k]].is_uplink)
                    d->through[path.resource[k]] += size;
        }
    for (uint32_t r = 0; r < t->n_resources; r++)
        bound = max_of(bound, ns_of(d->through[r], t->resources[r].bytes_per_s));
    for (uint32_t g = 0; g < d->n; g++)
        bound = max_of(bound, max_of(ns_of(d->leaving[g], b->out_rate[g]), ns_of(d->leaving[d->n + g], b->in_rate[g])));
    for (uint32_t v = 0; v < d->v->plan->n_nodes; v++)
        bound = max_of(
            bound, max_of(ns_of(d->node_leaving[v], b->node_out[v]), ns_of(d->node_leaving[d->n + v], b->node_in[v])));
    return bound;
}

/* ---- single shots ---- */

/* One order on one matrix `m` of bytes, as the stages list them; the network runs its transpose when is_reversed. */
struct shots {
    struct vf_data *d;
    const struct mp_order *o;
    bool is_reversed, is_forward_first; /* the second: stages in sequence, F_s before the rails and B_s after them */
    uint64_t *m;
    uint64_t *balance, *rail, *forward; /* [n][n] of the stage at hand */
    uint64_t *rail_before, *forward_before, *forward_earlier, *shot;
    uint64_t *kept, *over; /* [largest node][largest node] of the transfer at hand */
    uint64_t *room, *take; /* [largest node] */
    uint64_t *rail_ns;     /* [n_stages] t_s */
    uint32_t *sent;        /* [n_nodes][n_nodes] shares so far */
    struct mp_arena *arena;
};

static uint64_t *table(struct mp_arena *arena, size_t n, bool *is_full) {
    uint64_t *t = mp_arena_alloc(arena, n, sizeof *t);
    *is_full |= t == NULL;
    return t;
}

static enum mp_status open_shots(struct shots *x, struct vf_data *d, const struct mp_order *o, bool is_combine,
                                 enum mp_combine way, const uint64_t *copies, uint64_t bytes, struct mp_error *err) {
    size_t n = d->n, cells = n * n, widest = 1, n_nodes = d->v->plan->n_nodes;
    bool is_full = false;
    *x = (struct shots){.d = d,
                        .o = o,
                        .is_reversed = way != MP_COMBINE_FORWARD,
                        .is_forward_first = way == MP_COMBINE_SWAPPED,
                        .arena = mp_arena_new()};
    if (x->arena == NULL)
        return mp_nomem(err, "verifying a plan");
    for (size_t v = 0; v < n_nodes; v++)
        widest = max_of(widest, d->node_size[v]);
    uint64_t **squares[] = {
        &x->m, &x->balance, &x->rail, &x->forward, &x->rail_before, &x->forward_before, &x->forward_earlier, &x->shot};
    for (size_t i = 0; i < sizeof squares / sizeof squares[0]; i++)
        *squares[i] = table(x->arena, cells, &is_full);
    x->kept = table(x->arena, widest * widest, &is_full);
    x->over = table(x->arena, widest * widest, &is_full);
    x->room = table(x->arena, widest, &is_full);
    x->take = table(x->arena, widest, &is_full);
    x->rail_ns = table(x->arena, (size_t)o->n_stages + 1, &is_full);
    x->sent = mp_arena_alloc(x->arena, n_nodes * n_nodes, sizeof *x->sent);
    if (is_full || x->sent == NULL)
        return mp_nomem(err, "verifying a plan");
    /* `copies` is the dispatch's. A combine on its own matrix is cut as that, the transpose. */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            x->m[i * n + j] = i == j ? 0 : copies[is_combine && !x->is_reversed ? j * n + i : i * n + j] * bytes;
    return MP_OK;
}

/* How much of a node's traffic this GPU's ports towards the other nodes can carry. */
static uint64_t weight(const struct vf_data *d, uint32_t gpu, bool is_in) {
    const struct mp_topology *t = d->v->topology;
    if (t->n_levels < 2)
        return 1;
    uint32_t port = is_in ? t->gpus[gpu].in_port[1] : t->gpus[gpu].out_port[1], users = 0;
    const uint32_t *gpus = d->node_gpus + (size_t)d->node[gpu] * d->n;
    for (uint32_t i = 0; i < d->node_size[d->node[gpu]]; i++)
        users += (is_in ? t->gpus[gpus[i]].in_port[1] : t->gpus[gpus[i]].out_port[1]) == port;
    return max_of(1, port < t->n_resources ? t->resources[port].bytes_per_s / users : 0);
}

/* quota[x] of P bytes for each GPU of a node, by weight. */
static void share_out(const struct vf_data *d, uint32_t node, bool is_in, uint64_t P, uint64_t *quota) {
    const uint32_t *gpus = d->node_gpus + (size_t)node * d->n;
    u128 sum = 0, so_far = 0;
    for (uint32_t x = 0; x < d->node_size[node]; x++)
        sum += weight(d, gpus[x], is_in);
    for (uint32_t x = 0; x < d->node_size[node]; x++) {
        uint64_t before = (uint64_t)(P * so_far / sum); /* rates are far below 2^63, so that neither product wraps */
        so_far += weight(d, gpus[x], is_in);
        quota[x] = (uint64_t)(P * so_far / sum) - before;
    }
}

/* The line of bytes of one transfer: the next `bytes` of it are at GPU x of node a and meant for GPU j of node b; *y
 * says whose turn it is to take them. */
static void pass_on(struct shots *s, const uint32_t *a, const uint32_t *b, uint32_t x, uint32_t j, uint64_t bytes,
                    uint32_t *y) {
    const size_t n = s->d->n;
    while (bytes > 0) {
        while (s->take[*y] == 0)
            ++*y;
        uint64_t now = min_of(bytes, s->take[*y]);
        s->rail[a[x] * n + b[*y]] += now;
        if (*y != j)
            s->forward[b[*y] * n + b[j]] += now;
        s->take[*y] -= now;
        bytes -= now;
    }
}

static void add_transfer(struct shots *s, const struct mp_transfer *t) {
    const struct vf_data *d = s->d;
    const uint32_t *a = d->node_gpus + (size_t)t->src * d->n, *b = d->node_gpus + (size_t)t->dst * d->n;
    const uint32_t n_a = d->node_size[t->src], n_b = d->node_size[t->dst];
    uint32_t *sent = &s->sent[(size_t)t->src * d->v->plan->n_nodes + t->dst];
    uint64_t P = 0;
    for (uint32_t i = 0; i < n_a; i++)
        for (uint32_t j = 0; j < n_b; j++) {
            uint64_t bytes = s->m[(size_t)a[i] * d->n + b[j]];
            s->over[i * n_b + j] = part(bytes, (uint64_t)*sent + t->share, s->o->unit) - part(bytes, *sent, s->o->unit);
            P += s->over[i * n_b + j];
        }
    *sent += t->share;
    if (P == 0)
        return;
    share_out(d, t->src, false, P, s->room);
    share_out(d, t->dst, true, P, s->take);
    for (uint32_t i = 0; i < n_a; i++)
        for (uint32_t j = 0; j < n_b; j++) {
            uint64_t keeps = min_of(s->over[i * n_b + j], s->room[i]);
            s->kept[i * n_b + j] = keeps;
            s->over[i * n_b + j] -= keeps;
            s->room[i] -= keeps;
        }
    uint32_t at = 0, y = 0; /* the first of `over` that nobody has been handed yet; the taker */
    for (uint32_t x = 0; x < n_a; x++) {
        for (uint32_t j = 0; j < n_b; j++)
            pass_on(s, a, b, x, j, s->kept[x * n_b + j], &y);
        while (s->room[x] > 0) {
            while (s->over[at] == 0)
                at++;
            uint64_t moved = min_of(s->over[at], s->room[x]);
            s->balance[(size_t)a[at / n_b] * d->n + a[x]] += moved;
            pass_on(s, a, b, x, at % n_b, moved, &y);
            s->over[at] -= moved;
            s->room[x] -= moved;
        }
    }
}

/* balance, rail and forward of the next stage. */
static void walk_stage(struct shots *s, uint32_t stage) {
    const size_t cells = (size_t)s->d->n * s->d->n;
    memset(s->balance, 0, cells * sizeof *s->balance);
    memset(s->rail, 0, cells * sizeof *s->rail);
    memset(s->forward, 0, cells * sizeof *s->forward);
    for (uint32_t i = 0; i < s->o->stages[stage].n; i++)
        add_transfer(s, &s->o->stages[stage].transfers[i]);
    s->d->n_operations += 4 * cells;
}

static void rewind_shots(struct shots *s) {
    memset(s->sent, 0, (size_t)s->d->v->plan->n_nodes * s->d->v->plan->n_nodes * sizeof *s->sent);
}

/* Flows inside nodes, as far as they go beside rail `k` of those that take `all` ns together. */
static void add_inside(struct shots *s, uint64_t before, uint64_t after, uint64_t all, bool is_first) {
    const struct vf_data *d = s->d;
    for (uint32_t i = 0; i < d->n; i++)
        for (uint32_t j = 0; j < d->n; j++) {
            uint64_t bytes = s->m[(size_t)i * d->n + j];
            if (i == j || d->node[i] != d->node[j] || bytes == 0)
                continue;
            s->shot[(size_t)i * d->n + j] += all > 0    ? part(bytes, after, all) - part(bytes, before, all)
                                             : is_first ? bytes
                                                        : 0;
        }
}

static void add_matrix(uint64_t *to, const uint64_t *from, size_t n) {
    for (size_t i = 0; i < n; i++)
        to[i] += from[i];
}

static void swap(uint64_t **a, uint64_t **b) {
    uint64_t *t = *a;
    *a = *b;
    *b = t;
}

/* Single shot k into s->shot; to be called for k = 0, 1, ..., n_stages + 1. *rails: sum of t_s so far. */
static void next_shot(struct shots *s, uint32_t k, uint64_t all, uint64_t *rails) {
    const size_t cells = (size_t)s->d->n * s->d->n;
    const uint32_t n_stages = s->o->n_stages;
    swap(&s->forward_earlier, &s->forward_before);
    swap(&s->forward_before, &s->forward);
    swap(&s->rail_before, &s->rail);
    memset(s->shot, 0, cells * sizeof *s->shot);
    if (k < n_stages) {
        walk_stage(s, k);
        if (s->is_forward_first)
            swap(&s->balance, &s->forward);
        add_matrix(s->shot, s->balance, cells);
    } else {
        memset(s->rail, 0, cells * sizeof *s->rail);
        memset(s->forward, 0, cells * sizeof *s->forward);
    }
    if (k >= 1)
        add_matrix(s->shot, s->rail_before, cells);
    if (k >= 2)
        add_matrix(s->shot, s->forward_earlier, cells);
    if (k >= 1 && k <= (n_stages > 0 ? n_stages : 1)) {
        uint64_t own = n_stages > 0 ? s->rail_ns[k - 1] : 0;
        uint64_t after = min_of(MOST_NS, *rails + own);
        add_inside(s, *rails, after, all, k == 1);
        *rails = after;
    }
}

static bool is_empty(const uint64_t *m, size_t cells) {
    for (size_t i = 0; i < cells; i++)
        if (m[i] > 0)
            return false;
    return true;
}

/* Sum over the single shots that move anything: of simulated times, or with is_estimate of the fallback rule's. */
static enum mp_status run_shots(struct shots *s, bool is_estimate, uint64_t latency_ns, uint64_t *out_ns, bool *is_done,
                                struct mp_error *err) {
    struct vf_data *d = s->d;
    const size_t cells = (size_t)d->n * d->n;
    uint64_t all = 0, rails = 0;
    enum mp_status status = MP_OK;
    *out_ns = 0;
    *is_done = true;
    rewind_shots(s);
    for (uint32_t k = 0; k < s->o->n_stages; k++) {
        walk_stage(s, k);
        s->rail_ns[k] = min_of(MOST_NS, vf_port_bound(d, s->rail, 1, false));
        all = min_of(MOST_NS, all + s->rail_ns[k]);
    }
    rewind_shots(s);
    memset(s->rail, 0, cells * sizeof *s->rail);
    memset(s->forward, 0, cells * sizeof *s->forward);
    for (uint32_t k = 0; k < s->o->n_stages + 2 && status == MP_OK && *is_done; k++) {
        uint64_t ns = 0;
        next_shot(s, k, all, &rails);
        if (is_empty(s->shot, cells))
            continue;
        if (is_estimate)
            ns = min_of(MOST_NS, vf_port_bound(d, s->shot, 1, s->is_reversed)) + latency_ns;
        else
            status = vf_concurrent_ns(d, s->shot, 1, s->is_reversed, NULL, &ns, is_done, err);
        *out_ns += d->v->topology->stage_launch_ns + ns;
        *out_ns = min_of(*out_ns, MOST_NS);
        if (d->n_operations > d->operations_max)
            *is_done = false;
    }
    return status;
}

enum mp_status vf_nodes_ns(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                           const uint64_t *copies, uint64_t bytes, uint64_t *out_ns, bool *is_done,
                           struct mp_error *err) {
    struct shots s;
    *out_ns = 0;
    *is_done = true;
    enum mp_status status = open_shots(&s, d, o, is_combine, way, copies, bytes, err);
    if (status == MP_OK)
        status = run_shots(&s, false, 0, out_ns, is_done, err);
    if (status == MP_OK && *is_done)
        *out_ns = max_of(*out_ns, vf_relay_bound(d, s.m, 1, s.is_reversed));
    mp_arena_free(s.arena);
    return status;
}

/* ---- the fallback rule ---- */

static uint64_t stage_estimate(struct vf_data *d, const struct mp_order *o, uint32_t stage, bool is_transposed,
                               bool is_swapped, const uint64_t *copies, uint64_t bytes, uint64_t *sent) {
    const struct mp_topology *t = d->v->topology;
    const bool is_capped = o->port_bytes_per_s > 0 && !(o->has_flush && stage + 1 == o->n_stages);
    uint64_t longest = 0;
    memset(d->through, 0, t->n_resources * sizeof *d->through);
    for (uint32_t i = 0; i < o->stages[stage].n; i++) {
        const struct mp_transfer *f = &o->stages[stage].transfers[i];
        uint64_t size = copies[is_transposed ? (size_t)f->dst * d->n + f->src : (size_t)f->src * d->n + f->dst] * bytes;
        uint64_t *so_far = &sent[(size_t)f->src * d->n + f->dst];
        uint64_t piece = part(size, *so_far + f->share, o->unit) - part(size, *so_far, o->unit);
        *so_far += f->share;
        if (piece == 0)
            continue;
        struct mp_path path = is_swapped ? vf_path(d, f->dst, f->src) : vf_path(d, f->src, f->dst);
        for (uint32_t k = 0; k < path.n; k++)
            d->through[path.resource[k]] += piece;
        longest = max_of(longest, ns_of(piece, path.cap_bytes_per_s));
        if (is_capped)
            longest = max_of(longest, ns_of(piece, clip((u128)o->port_bytes_per_s * f->width)));
    }
    for (uint32_t r = 0; r < t->n_resources; r++)
        longest = max_of(longest, ns_of(d->through[r], t->resources[r].bytes_per_s));
    d->n_operations += t->n_resources + 4 * (uint64_t)o->stages[stage].n;
    return longest;
}

static enum mp_status estimate(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                               const uint64_t *copies, uint64_t bytes, uint64_t latency_ns, uint64_t *out_ns,
                               struct mp_error *err) {
    const bool is_swapped = way != MP_COMBINE_FORWARD;
    *out_ns = 0;
    if (o->between_nodes) {
        struct shots s;
        bool is_done;
        enum mp_status status = open_shots(&s, d, o, is_combine, way, copies, bytes, err);
        if (status == MP_OK)
            status = run_shots(&s, true, latency_ns, out_ns, &is_done, err);
        mp_arena_free(s.arena);
        return status;
    }
    uint64_t *sent = mp_calloc((size_t)d->n * d->n, sizeof *sent);
    if (sent == NULL)
        return mp_nomem(err, "verifying a plan");
    for (uint32_t k = 0; k < o->n_stages; k++) {
        uint64_t ns =
            min_of(MOST_NS, stage_estimate(d, o, k, is_combine && !is_swapped, is_swapped, copies, bytes, sent));
        if (ns > 0)
            *out_ns = min_of(MOST_NS, *out_ns + d->v->topology->stage_launch_ns + latency_ns + ns);
    }
    mp_free(sent);
    return MP_OK;
}

enum mp_status vf_falls_back(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                             const uint64_t *copies, uint64_t bytes, bool *falls_back, struct mp_error *err) {
    const struct mp_topology *t = d->v->topology;
    uint64_t latency = 0, staged = 0, single;
    *falls_back = false;
    if (d->v->plan->fallback_ppm == 0)
        return MP_OK;
    single = vf_port_bound(d, copies, bytes, is_combine);
    if (single == 0)
        return MP_OK;
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency = max_of(latency, t->levels[l].latency_ns);
    single = min_of(MOST_NS, min_of(MOST_NS, single) + t->launch_ns + latency);
    enum mp_status status = estimate(d, o, is_combine, way, copies, bytes, latency, &staged, err);
    *falls_back = (u128)staged * 1000000 > (u128)single * (1000000 + (u128)d->v->plan->fallback_ppm);
    return status;
}
