/* The network as arrays: resources in bytes per nanosecond, and for up to NET_CACHED_GPUS GPUs the path of every
 * pair. */
#include "net.h"
#include <string.h>

static void free_lists(struct mp_net *n) {
    void *owned[] = {n->resources,
                     n->pair_first,
                     n->pair_resource,
                     n->pair_latency,
                     n->pair_cap,
                     n->quick,
                     n->flow_pair,
                     n->order,
                     n->path,
                     n->where,
                     n->list,
                     n->is_free,
                     n->left,
                     n->cap,
                     n->capped,
                     n->groups,
                     n->local,
                     n->local_stamp,
                     n->global,
                     n->n_alive,
                     n->n_free,
                     n->list_first,
                     n->touched,
                     n->used,
                     n->residual,
                     n->share,
                     n->capacity,
                     n->inverse,
                     n->transfer_bytes,
                     n->cumulative,
                     n->ready,
                     n->ready_next,
                     n->seen,
                     n->seen_stage,
                     n->jobs,
                     n->queue_first,
                     n->queue_jobs,
                     n->queue_head,
                     n->queue_tail,
                     n->queue_left,
                     n->queue_ready,
                     n->starting,
                     n->pending,
                     n->ending,
                     n->ended,
                     n->job_pair,
                     n->job_bytes,
                     n->job_cap,
                     n->seen_width,
                     n->flush_bytes,
                     n->flush_start,
                     n->flush_end,
                     n->sender_list,
                     n->through,
                     n->listed,
                     n->flows,
                     n->port_stamp,
                     n->port_number,
                     n->shot,
                     n->shot_pairs,
                     n->component_first,
                     n->come,
                     n->gone};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        mp_free(owned[i]);
}

void mp_net_free(struct mp_net *n) {
    if (n == NULL)
        return;
    free_lists(n);
    net_ports_free(n->ports);
    mp_free(n);
}

void net_path(const struct mp_net *n, uint32_t src, uint32_t dst, struct net_pair *out) {
    if (n->pair_first != NULL) {
        size_t p = (size_t)src * n->n + dst;
        out->n = n->pair_first[p + 1] - n->pair_first[p];
        memcpy(out->resource, n->pair_resource + n->pair_first[p], out->n * sizeof *out->resource);
        out->latency_ns = n->pair_latency[p];
        out->cap = n->pair_cap[p];
        return;
    }
    struct mp_path path;
    mp_topology_path(n->t, src, dst, &path);
    out->n = 0;
    for (uint32_t i = 0; i < path.n; i++)
        if (!n->resources[path.resource[i]].is_slack)
            out->resource[out->n++] = path.resource[i];
    out->latency_ns = (double)path.latency_ns;
    out->cap = path.cap_bytes_per_s > 0 ? (double)path.cap_bytes_per_s * 1e-9 : INFINITY;
}

/* An uplink is slack when the ports that feed it (out) or that it feeds (in) have no more than its rate together.
 * Also counts the users of every resource. */
static enum mp_status find_users(struct mp_net *n, struct mp_error *err) {
    const struct mp_topology *t = n->t;
    size_t gpus = n->n, n_res = n->n_resources;
    uint32_t *uplink = mp_calloc(n_res, sizeof *uplink), n_uplinks = 0;
    uint32_t *mark_out = mp_calloc(n_res, sizeof *mark_out), *mark_in = mp_calloc(n_res, sizeof *mark_in);
    for (size_t r = 0; uplink != NULL && r < n_res; r++)
        uplink[r] = t->resources[r].is_uplink ? n_uplinks++ : MP_NONE;
    uint8_t *feeds = mp_calloc((size_t)n_uplinks * n_res, 1);
    double *sum = mp_calloc(n_uplinks, sizeof *sum);
    enum mp_status status = MP_OK;
    if (uplink == NULL || mark_out == NULL || mark_in == NULL || feeds == NULL || sum == NULL)
        status = mp_nomem(err, "the network");
    for (uint32_t a = 0; status == MP_OK && a < gpus; a++)
        for (uint32_t b = 0; b < gpus; b++) {
            struct mp_path path;
            for (int direction = 0; a != b && direction < 2; direction++) { /* a is the source, then the destination */
                mp_topology_path(t, direction == 0 ? a : b, direction == 0 ? b : a, &path);
                uint32_t *mark = direction == 0 ? mark_out : mark_in;
                for (uint32_t i = 0; i < path.n; i++) {
                    uint32_t r = path.resource[i];
                    bool is_in = t->resources[r].is_in;
                    if (is_in == (direction == 1) && mark[r] != a + 1) {
                        mark[r] = a + 1;
                        n->resources[r].n_users++;
                    }
                    if (direction == 1 || uplink[r] == MP_NONE)
                        continue;
                    for (uint32_t k = 0; k < path.n; k++) { /* ports of the same direction on the same path */
                        uint32_t port = path.resource[k];
                        uint8_t *is_known = &feeds[(size_t)uplink[r] * n_res + port];
                        if (t->resources[port].is_uplink || t->resources[port].is_in != is_in || *is_known)
                            continue;
                        *is_known = 1;
                        sum[uplink[r]] += n->resources[port].rate;
                    }
                }
            }
        }
    for (size_t r = 0; status == MP_OK && r < n_res; r++)
        n->resources[r].is_slack = uplink[r] != MP_NONE && sum[uplink[r]] > 0 && sum[uplink[r]] <= n->resources[r].rate;
    mp_free(uplink);
    mp_free(mark_out);
    mp_free(mark_in);
    mp_free(feeds);
    mp_free(sum);
    return status;
}

static uint64_t add_to_bound(struct mp_net *n, size_t p, uint64_t bytes) {
    struct mp_path path;
    if (n->pair_first == NULL) {
        mp_topology_path(n->t, (uint32_t)(p / n->n), (uint32_t)(p % n->n), &path);
        for (uint32_t k = 0; k < path.n; k++)
            n->through[path.resource[k]] = net_add(n->through[path.resource[k]], bytes);
        return path.cap_bytes_per_s == 0 ? 0 : mp_mul_div_ceil(bytes, UINT64_C(1000000000), path.cap_bytes_per_s);
    }
    for (uint32_t k = n->pair_first[p]; k < n->pair_first[p + 1]; k++)
        n->through[n->pair_resource[k]] = net_add(n->through[n->pair_resource[k]], bytes);
    if (!isfinite(n->pair_cap[p]))
        return 0;
    mp_topology_path(n->t, (uint32_t)(p / n->n), (uint32_t)(p % n->n), &path);
    return mp_mul_div_ceil(bytes, UINT64_C(1000000000), path.cap_bytes_per_s);
}
static uint64_t end_bound(const struct mp_net *n, uint64_t bound) {
    for (uint32_t r = 0; r < n->n_resources; r++) {
        uint64_t ns = n->through[r] == 0
                          ? 0
                          : mp_mul_div_ceil(n->through[r], UINT64_C(1000000000), n->t->resources[r].bytes_per_s);
        bound = ns > bound ? ns : bound;
    }
    return bound;
}

uint64_t mp_net_port_bound(struct mp_net *n, const uint64_t *matrix) {
    uint64_t bound = 0;
    memset(n->through, 0, n->n_resources * sizeof *n->through);
    for (size_t p = 0; p < (size_t)n->n * n->n; p++) {
        if (matrix[p] == 0 || p / n->n == p % n->n)
            continue;
        uint64_t ns = add_to_bound(n, p, matrix[p]);
        bound = ns > bound ? ns : bound;
    }
    return end_bound(n, bound);
}

uint64_t net_bound_pairs(struct mp_net *n, const uint32_t *pairs, size_t n_pairs, const uint64_t *matrix) {
    uint64_t bound = 0;
    memset(n->through, 0, n->n_resources * sizeof *n->through);
    for (size_t i = 0; i < n_pairs; i++) {
        uint64_t ns = add_to_bound(n, pairs[i], matrix[pairs[i]]);
        bound = ns > bound ? ns : bound;
    }
    return end_bound(n, bound);
}

static enum mp_status cache_paths(struct mp_net *n, struct mp_error *err) {
    size_t gpus = n->n, pairs = gpus * gpus, used = 0, allocated = 0;
    uint32_t *first = mp_calloc(pairs + 1, sizeof *first);
    n->pair_latency = mp_calloc(pairs, sizeof *n->pair_latency);
    n->pair_cap = mp_calloc(pairs, sizeof *n->pair_cap);
    n->quick = mp_calloc(pairs, sizeof *n->quick);
    if (first == NULL || n->pair_latency == NULL || n->pair_cap == NULL || n->quick == NULL) {
        mp_free(first);
        return mp_nomem(err, "the network");
    }
    for (size_t p = 0; p < pairs; p++) {
        struct net_pair path;
        first[p] = (uint32_t)used;
        if (used + NET_MAX_PATH > allocated) {
            allocated = allocated * 2 + 4 * gpus + NET_MAX_PATH;
            uint32_t *grown = mp_realloc(n->pair_resource, allocated, sizeof *grown);
            if (grown == NULL) {
                mp_free(first);
                return mp_nomem(err, "the network");
            }
            n->pair_resource = grown;
        }
        if (p / gpus == p % gpus)
            continue;
        net_path(n, (uint32_t)(p / gpus), (uint32_t)(p % gpus), &path);
        memcpy(n->pair_resource + used, path.resource, path.n * sizeof *path.resource);
        used += path.n;
        double rate = path.cap;
        for (uint32_t i = 0; i < path.n; i++)
            rate = fmin(rate, n->resources[path.resource[i]].rate);
        n->pair_latency[p] = path.latency_ns;
        n->pair_cap[p] = path.cap < rate * (1 + 1e-12) ? path.cap : INFINITY; /* a cap above its ports never binds */
        n->quick[p] = (struct net_quick){1 / rate, path.latency_ns};
    }
    first[pairs] = (uint32_t)used;
    n->pair_first = first; /* last: net_path uses the cache from here on */
    return MP_OK;
}

enum mp_status mp_net_new(struct mp_net **out, const struct mp_topology *t, struct mp_error *err) {
    *out = NULL;
    enum mp_status status = MP_OK;
    struct mp_net *n = mp_calloc(1, sizeof *n);
    if (n == NULL)
        return mp_nomem(err, "the network");
    n->t = t;
    n->n = t->n_gpus;
    n->n_resources = t->n_resources;
    size_t res = t->n_resources, gpus = t->n_gpus;
    n->resources = mp_calloc(res, sizeof *n->resources);
    n->local = mp_calloc(res, sizeof *n->local);
    n->local_stamp = mp_calloc(res, sizeof *n->local_stamp);
    n->global = mp_calloc(res + 1, sizeof *n->global);
    n->n_alive = mp_calloc(res + 1, sizeof *n->n_alive);
    n->n_free = mp_calloc(res + 1, sizeof *n->n_free);
    n->list_first = mp_calloc(res + 2, sizeof *n->list_first);
    n->touched = mp_calloc(res + 1, sizeof *n->touched);
    n->used = mp_calloc(res + 1, sizeof *n->used);
    n->residual = mp_calloc(res + 1, sizeof *n->residual);
    n->share = mp_calloc(res + 1, sizeof *n->share);
    n->capacity = mp_calloc(res + 1, sizeof *n->capacity);
    n->port_stamp = mp_calloc(res, sizeof *n->port_stamp);
    n->port_number = mp_calloc(res, sizeof *n->port_number);
    n->through = mp_calloc(res, sizeof *n->through);
    n->component_first = mp_calloc(res + 2, sizeof *n->component_first);
    n->cumulative = mp_calloc(gpus * gpus, sizeof *n->cumulative);
    n->ready = mp_calloc(2 * gpus, sizeof *n->ready);
    n->ready_next = mp_calloc(2 * gpus, sizeof *n->ready_next);
    n->seen = mp_calloc(2 * gpus, sizeof *n->seen);
    n->seen_stage = mp_calloc(2 * gpus, sizeof *n->seen_stage);
    n->seen_width = mp_calloc(2 * gpus, sizeof *n->seen_width);
    n->queue_first = mp_calloc(2 * gpus + 1, sizeof *n->queue_first);
    n->queue_head = mp_calloc(2 * gpus, sizeof *n->queue_head);
    n->queue_tail = mp_calloc(2 * gpus, sizeof *n->queue_tail);
    n->queue_left = mp_calloc(2 * gpus, sizeof *n->queue_left);
    n->queue_ready = mp_calloc(2 * gpus, sizeof *n->queue_ready);
    n->sender_list = mp_calloc(gpus, sizeof *n->sender_list);
    n->come = mp_calloc(gpus, sizeof *n->come);
    n->gone = mp_calloc(gpus, sizeof *n->gone);
    if (n->resources == NULL || n->local == NULL || n->local_stamp == NULL || n->global == NULL || n->n_alive == NULL ||
        n->n_free == NULL || n->list_first == NULL || n->touched == NULL || n->used == NULL || n->residual == NULL ||
        n->share == NULL || n->capacity == NULL || n->cumulative == NULL || n->ready == NULL || n->ready_next == NULL ||
        n->seen == NULL || n->seen_stage == NULL || n->seen_width == NULL || n->queue_first == NULL ||
        n->queue_head == NULL || n->queue_tail == NULL || n->queue_left == NULL || n->queue_ready == NULL ||
        n->sender_list == NULL || n->through == NULL || n->component_first == NULL || n->port_stamp == NULL ||
        n->port_number == NULL || n->come == NULL || n->gone == NULL) {
        status = mp_nomem(err, "the network");
        goto out;
    }
    MP_TRY(net_ports_new(&n->ports, n->n, err));
    for (size_t r = 0; r < res; r++) {
        const struct mp_resource *in = &t->resources[r];
        struct net_resource *o = &n->resources[r];
        o->rate = (double)in->bytes_per_s * 1e-9;
        if (in->is_in && !in->is_uplink && in->level < t->n_levels) {
            o->incast = t->levels[in->level].incast_ppm;
            o->n_incast = o->incast == NULL ? 0 : t->levels[in->level].n_incast;
        }
        if (gpus > NET_CACHED_GPUS)
            o->n_users = in->is_uplink ? MP_NONE : 1;
    }
    if (gpus <= NET_CACHED_GPUS) {
        MP_TRY(find_users(n, err));
        MP_TRY(cache_paths(n, err));
    } else {
        /* Users of ports without walking every pair: a port shared by two GPUs, and every uplink, counts as
         * contended. */
        for (uint32_t g = 1; g < gpus; g++)
            for (uint32_t l = 0; l < t->n_levels; l++) {
                uint32_t ports[2] = {t->gpus[g].out_port[l], t->gpus[g].in_port[l]};
                for (int k = 0; k < 2; k++)
                    if (ports[k] < res && t->resources[ports[k]].first_gpu != g)
                        n->resources[ports[k]].n_users = MP_NONE;
            }
    }
out:
    if (status == MP_OK)
        *out = n;
    else
        mp_net_free(n);
    return status;
}
