/* The stages of an order, one after another.
 *
 * Decides    how long a matrix takes in a given order.
 * Method     Where no resource can be contended (each port has one GPU and takes one transfer at a time, or sub-port
 *            caps keep the sum below it, or an uplink is wider than its ports) a transfer's rate is known when it
 *            starts, and one pass over the transfers is exact. Otherwise the same rules run as events (net_events.c)
 *            with max-min fair shares. docs/COST.md part 5.
 * Cost       O(transfers + n_gpus^2) in the first case. */
#include "net.h"
#include <string.h>

static enum mp_status reserve(struct mp_net *n, size_t n_transfers, struct mp_error *err) {
    if (n->transfer_bytes != NULL && n_transfers <= n->n_transfers_allocated)
        return MP_OK;
    n_transfers += n_transfers / 4 + 16;
    void *grown = mp_realloc(n->transfer_bytes, n_transfers, sizeof *n->transfer_bytes);
    if (grown == NULL)
        return mp_nomem(err, "transfers");
    n->transfer_bytes = grown;
    n->n_transfers_allocated = n_transfers;
    return MP_OK;
}

enum mp_status net_cut(struct mp_net *n, const struct mp_order *order, bool is_reversed, const uint64_t *matrix,
                       struct mp_error *err) {
    const size_t gpus = n->n;
    const uint64_t unit = order->unit;
    size_t at = 0, n_transfers = 0;
    for (uint32_t s = 0; s < order->n_stages; s++)
        n_transfers += order->stages[s].n;
    enum mp_status status = reserve(n, n_transfers, err);
    if (status != MP_OK)
        return status;
    if (unit == 0)
        return mp_fail(err, MP_EBUG, "an order with unit 0");
    memset(n->cumulative, 0, gpus * gpus * sizeof *n->cumulative);
    for (uint32_t s = 0; s < order->n_stages; s++) {
        const struct mp_stage *stage = &order->stages[s];
        for (uint32_t k = 0; k < stage->n; k++) {
            const struct mp_transfer *t = &stage->transfers[k];
            if (t->src >= gpus || t->dst >= gpus || t->src == t->dst)
                return mp_fail(err, MP_EBUG, "stage %u sends from %u to %u of %zu GPUs", s, t->src, t->dst, gpus);
            size_t pair = t->src * gpus + t->dst;
            uint64_t bytes = is_reversed ? matrix[t->dst * gpus + t->src] : matrix[pair];
            uint64_t before = n->cumulative[pair], after = before + t->share;
            if (after > unit)
                return mp_fail(err, MP_EBUG, "the shares of %u -> %u pass the unit", t->src, t->dst);
            n->cumulative[pair] = (uint32_t)after;
            if (bytes == 0 || t->share == 0)
                n->transfer_bytes[at++] = 0;
            else if (t->share == unit)
                n->transfer_bytes[at++] = bytes;
            else if (bytes <= UINT32_MAX)
                n->transfer_bytes[at++] = after * bytes / unit - before * bytes / unit;
            else
                n->transfer_bytes[at++] = mp_mul_div(bytes, after, unit) - mp_mul_div(bytes, before, unit);
        }
    }
    for (size_t i = 0; i < gpus; i++)
        for (size_t j = 0; j < gpus; j++)
            if (i != j && n->cumulative[i * gpus + j] != unit && matrix[is_reversed ? j * gpus + i : i * gpus + j] > 0)
                return mp_fail(err, MP_EBUG, "the order leaves part of %zu -> %zu unsent", i, j);
    return MP_OK;
}

/* Most transfers that one GPU sends or receives at once. */
static uint32_t widest(struct mp_net *n, const struct mp_order *order) {
    uint32_t most = 1;
    size_t at = 0;
    const size_t gpus = n->n;
    memset(n->seen_stage, 0, 2 * gpus * sizeof *n->seen_stage);
    memset(n->seen, 0, 2 * gpus * sizeof *n->seen);
    for (uint32_t s = 0; s < order->n_stages; s++)
        for (uint32_t k = 0; k < order->stages[s].n; k++) {
            if (n->transfer_bytes[at++] == 0)
                continue;
            size_t side[2] = {order->stages[s].transfers[k].src, gpus + order->stages[s].transfers[k].dst};
            for (int d = 0; d < 2; d++) {
                if (n->seen_stage[side[d]] != s + 1) {
                    n->seen_stage[side[d]] = s + 1;
                    n->seen[side[d]] = 0;
                }
                if (++n->seen[side[d]] > most)
                    most = n->seen[side[d]];
            }
        }
    return most;
}

static bool is_uncontended(const struct mp_net *n, uint32_t at_once, double cap) {
    if (n->quick == NULL)
        return false;
    for (uint32_t r = 0; r < n->n_resources; r++) {
        const struct net_resource *x = &n->resources[r];
        uint64_t most = (uint64_t)x->n_users * at_once;
        if (x->is_slack || most <= 1)
            continue;
        double worst = net_capacity(x, most > UINT32_MAX ? UINT32_MAX : (uint32_t)most);
        if (!((double)most * cap <= worst * (1 + 1e-12)))
            return false;
    }
    return true;
}

static double quick_run(struct mp_net *n, const struct mp_order *order, bool is_reversed, enum mp_stage_mode mode,
                        double cap) {
    const size_t gpus = n->n;
    const double launch = (double)n->t->stage_launch_ns, slowest = isfinite(cap) ? 1 / cap : 0;
    double *ready = n->ready, *next = n->ready_next, now = 0, last = 0;
    size_t at = 0;
    if (is_reversed)
        for (uint32_t s = 0; s < order->n_stages; s++)
            at += order->stages[s].n;
    memset(ready, 0, 2 * gpus * sizeof *ready);
    memset(next, 0, 2 * gpus * sizeof *next);
    /* COUPLED has one clock per rank: the receive side is the send side. */
    const size_t receive = mode == MP_STAGE_COUPLED ? 0 : gpus;
    for (uint32_t i = 0; i < order->n_stages; i++) {
        const struct mp_stage *stage = &order->stages[is_reversed ? order->n_stages - 1 - i : i];
        at -= is_reversed ? stage->n : 0;
        const uint64_t *bytes = n->transfer_bytes + at;
        at += is_reversed ? 0 : stage->n;
        double longest = 0;
        bool is_used = false;
        for (uint32_t k = 0; k < stage->n; k++) {
            if (bytes[k] == 0)
                continue;
            size_t src = stage->transfers[k].src, dst = stage->transfers[k].dst;
            const struct net_quick *q = is_reversed ? &n->quick[dst * gpus + src] : &n->quick[src * gpus + dst];
            double per_byte = q->ns_per_byte > slowest ? q->ns_per_byte : slowest;
            double taken = q->latency_ns + (double)bytes[k] * per_byte;
            if (mode == MP_STAGE_BARRIER) {
                longest = taken > longest ? taken : longest;
                is_used = true;
                continue;
            }
            size_t a = is_reversed ? dst : src, b = receive + (is_reversed ? src : dst);
            double start = ready[a] > ready[b] ? ready[a] : ready[b];
            double end = start + launch + taken;
            next[a] = end > next[a] ? end : next[a];
            next[b] = end > next[b] ? end : next[b];
        }
        if (mode == MP_STAGE_BARRIER) {
            now += is_used ? launch + longest : 0;
            continue;
        }
        for (uint32_t k = 0; k < stage->n; k++) { /* what the stage changed counts from the next stage on */
            size_t src = stage->transfers[k].src, dst = stage->transfers[k].dst;
            size_t a = is_reversed ? dst : src, b = receive + (is_reversed ? src : dst);
            ready[a] = next[a];
            ready[b] = next[b];
        }
    }
    for (size_t i = 0; i < 2 * gpus; i++)
        last = ready[i] > last ? ready[i] : last;
    return mode == MP_STAGE_BARRIER ? now : last;
}

static enum mp_status event_run(struct mp_net *n, const struct mp_order *order, bool is_reversed,
                                enum mp_stage_mode mode, double cap, double *out, struct mp_error *err) {
    const uint32_t gpus = n->n;
    size_t n_jobs = 0, n_transfers = 0;
    for (uint32_t s = 0; s < order->n_stages; s++)
        n_transfers += order->stages[s].n;
    for (size_t i = 0; i < n_transfers; i++)
        n_jobs += n->transfer_bytes[i] > 0;
    enum mp_status status = net_events_reserve(n, n_jobs, err);
    if (status != MP_OK)
        return status;
    size_t at = is_reversed ? n_transfers : 0;
    n_jobs = 0;
    for (uint32_t i = 0; i < order->n_stages; i++) {
        const struct mp_stage *stage = &order->stages[is_reversed ? order->n_stages - 1 - i : i];
        at -= is_reversed ? stage->n : 0;
        for (uint32_t k = 0; k < stage->n; k++) {
            uint64_t bytes = n->transfer_bytes[at + k];
            if (bytes == 0)
                continue;
            uint32_t src = stage->transfers[k].src, dst = stage->transfers[k].dst;
            if (is_reversed) {
                uint32_t swap = src;
                src = dst;
                dst = swap;
            }
            struct net_pair path;
            net_path(n, src, dst, &path);
            struct net_job *j = &n->jobs[n_jobs++];
            *j = (struct net_job){.src = src,
                                  .dst = dst,
                                  .stage = i,
                                  .bytes = bytes,
                                  .left = (double)bytes,
                                  .cap = fmin(path.cap, cap),
                                  .latency_ns = path.latency_ns,
                                  .n_path = path.n};
            memcpy(j->path, path.resource, path.n * sizeof *j->path);
            j->queue[0] = mode == MP_STAGE_BARRIER ? 0 : src;
            j->queue[1] = mode == MP_STAGE_BARRIER ? MP_NONE : mode == MP_STAGE_COUPLED ? dst : gpus + dst;
        }
        at += is_reversed ? 0 : stage->n;
    }
    *out = net_events_run(n, n_jobs, 2 * gpus, (double)n->t->stage_launch_ns);
    return MP_OK;
}

enum mp_status mp_net_staged(struct mp_net *n, const struct mp_order *order, bool is_reversed, enum mp_stage_mode mode,
                             const uint64_t *matrix, uint64_t *time_ns, struct mp_error *err) {
    *time_ns = 0;
    if (order->between_nodes)
        return net_nodes_staged(n, order, is_reversed, matrix, time_ns, NULL, err);
    enum mp_status status = net_cut(n, order, is_reversed, matrix, err);
    if (status != MP_OK)
        return status;
    double cap = order->port_bytes_per_s > 0 ? (double)order->port_bytes_per_s * 1e-9 : INFINITY, time;
    if (n->log == NULL && is_uncontended(n, widest(n, order), cap))
        time = quick_run(n, order, is_reversed, mode, cap);
    else {
        status = event_run(n, order, is_reversed, mode, cap, &time, err);
        if (status != MP_OK)
            return status;
    }
    uint64_t bound = mp_net_port_bound(n, matrix), rounded = net_round_up(time);
    *time_ns = rounded > bound ? rounded : bound; /* rounding must not pass below what no schedule can */
    return MP_OK;
}
