/* The stages of an order, one after another.
 *
 * Decides    how long a matrix takes in a given order.
 * Method     Where no resource can be contended (each port has one GPU and takes one transfer at a time, or sub-port
 *            caps keep the sum below it, or an uplink is wider than its ports) a transfer's rate is known when it
 *            starts, and one pass over the transfers is exact. Otherwise the same rules run as events (net_events.c)
 *            with max-min fair shares. docs/COST.md part 5.
 *            A flush is contended by nature. Where no port has two GPUs it meets no other stage anywhere: when one of
 *            its transfers starts, all that went before at its two ports has ended. So it is run by itself
 *            (net_ports.c), with start times that the pass gives, or before the pass when the order runs backwards.
 *            The same holds on any network when a barrier comes between.
 * Cost       O(transfers + n_gpus^2) in the first case, and what a matrix all at once costs for the flush. */
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

enum mp_status net_cut(struct mp_net *n, const struct mp_order *order, bool is_swapped, const uint64_t *matrix,
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
            uint64_t bytes = is_swapped ? matrix[t->dst * gpus + t->src] : matrix[pair];
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
            if (i != j && n->cumulative[i * gpus + j] != unit && matrix[is_swapped ? j * gpus + i : i * gpus + j] > 0)
                return mp_fail(err, MP_EBUG, "the order leaves part of %zu -> %zu unsent", i, j);
    return MP_OK;
}

/* How the stages run: what every part of this file is told. */
struct run {
    struct mp_net *n;
    const struct mp_order *order;
    bool is_swapped;   /* src and dst of its transfers */
    bool is_backwards; /* its stages, last one first */
    enum mp_stage_mode mode;
    double cap;           /* bytes per ns of one sub-port */
    uint32_t first, stop; /* stages that run in this pass, counted as they run */
    double now;           /* BARRIER: when the last stage ended */
};

static bool is_flush(const struct mp_order *o, uint32_t stage) { return o->has_flush && stage + 1 == o->n_stages; }

/* The most transfers, and sub-ports of transfers, that one GPU sends or receives in a stage that is no flush. */
struct most {
    uint32_t transfers;
    uint64_t width;
};
static struct most find_most(struct mp_net *n, const struct mp_order *order) {
    struct most most = {1, 1};
    const size_t gpus = n->n;
    const uint64_t *bytes = n->transfer_bytes;
    memset(n->seen_stage, 0, 2 * gpus * sizeof *n->seen_stage);
    for (uint32_t s = 0; s < order->n_stages && !is_flush(order, s); s++)
        for (uint32_t k = 0; k < order->stages[s].n; k++) {
            const struct mp_transfer *t = &order->stages[s].transfers[k];
            if (*bytes++ == 0)
                continue;
            size_t side[2] = {t->src, gpus + t->dst};
            for (int d = 0; d < 2; d++) {
                if (n->seen_stage[side[d]] != s + 1) {
                    n->seen_stage[side[d]] = s + 1;
                    n->seen[side[d]] = 0;
                    n->seen_width[side[d]] = 0;
                }
                n->seen_width[side[d]] += t->width;
                most.transfers = ++n->seen[side[d]] > most.transfers ? n->seen[side[d]] : most.transfers;
                most.width = n->seen_width[side[d]] > most.width ? n->seen_width[side[d]] : most.width;
            }
        }
    return most;
}

/* Do the caps of a stage's transfers fit into every port of one GPU? A port's groups come one after another, so that
 * stages need not be compared. */
static bool fits(const struct run *x) {
    struct mp_net *n = x->n;
    const uint64_t *bytes = n->transfer_bytes;
    memset(n->touched, 0, n->n_resources * sizeof *n->touched); /* the last stage seen at a port; then its transfers */
    for (uint32_t s = 0; s < x->order->n_stages && !is_flush(x->order, s); s++)
        for (uint32_t k = 0; k < x->order->stages[s].n; k++) {
            const struct mp_transfer *t = &x->order->stages[s].transfers[k];
            if (*bytes++ == 0)
                continue;
            size_t pair = x->is_swapped ? (size_t)t->dst * n->n + t->src : (size_t)t->src * n->n + t->dst;
            for (uint32_t i = n->pair_first[pair]; i < n->pair_first[pair + 1]; i++) {
                uint32_t r = n->pair_resource[i];
                if (n->touched[r] != s + 1) {
                    n->touched[r] = s + 1;
                    n->n_free[r] = 0;
                    n->through[r] = 0;
                }
                n->n_free[r]++;
                n->through[r] += t->width;
                if (n->n_free[r] > 1 && n->resources[r].n_users <= 1 &&
                    !((double)n->through[r] * x->cap <= net_capacity(&n->resources[r], n->n_free[r]) * (1 + 1e-12)))
                    return false;
            }
        }
    return true;
}

/* Does every transfer but those of a flush run at the rate of its path and cap, whatever else does? */
static bool is_uncontended(const struct run *x) {
    const struct mp_net *n = x->n;
    if (n->quick == NULL)
        return false;
    const struct most most = find_most(x->n, x->order);
    for (uint32_t r = 0; r < n->n_resources; r++) {
        const struct net_resource *q = &n->resources[r];
        if (q->is_slack || q->n_users <= 1)
            continue;
        uint64_t at_once = (uint64_t)q->n_users * most.transfers;
        double worst = net_capacity(q, at_once > UINT32_MAX ? UINT32_MAX : (uint32_t)at_once);
        if (!((double)q->n_users * (double)most.width * x->cap <= worst * (1 + 1e-12)))
            return false;
    }
    return most.transfers == 1 || (isfinite(x->cap) && fits(x));
}

static bool has_shared(const struct mp_net *n) {
    for (uint32_t r = 0; r < n->n_resources; r++)
        if (!n->resources[r].is_slack && n->resources[r].n_users > 1)
            return true;
    return false;
}

static size_t n_transfers_before(const struct mp_order *o, uint32_t stage) {
    size_t count = 0;
    for (uint32_t s = 0; s < stage; s++)
        count += o->stages[s].n;
    return count;
}

/* Where a transfer waits: [0] the clock of its sender, [1] of its receiver. COUPLED has one clock per rank. */
static inline void clocks(const struct run *x, const struct mp_transfer *t, size_t *a, size_t *b) {
    const size_t receive = x->mode == MP_STAGE_COUPLED ? 0 : x->n->n;
    *a = x->is_swapped ? t->dst : t->src;
    *b = receive + (x->is_swapped ? t->src : t->dst);
}

/* n->ready: when each clock has come to the stage; n->ready_next: with what the stage under way adds. */
static void quick_run(struct run *x) {
    struct mp_net *n = x->n;
    const struct mp_order *order = x->order;
    const size_t gpus = n->n;
    const bool is_swapped = x->is_swapped, is_backwards = x->is_backwards, is_capped = isfinite(x->cap);
    const double launch = (double)n->t->stage_launch_ns, slowest = is_capped ? 1 / x->cap : 0;
    double *ready = n->ready, *next = n->ready_next;
    size_t at = n_transfers_before(order, is_backwards ? order->n_stages - x->first : x->first);
    for (uint32_t i = x->first; i < x->stop; i++) {
        const struct mp_stage *stage = &order->stages[is_backwards ? order->n_stages - 1 - i : i];
        at -= is_backwards ? stage->n : 0;
        const uint64_t *bytes = n->transfer_bytes + at;
        at += is_backwards ? 0 : stage->n;
        double longest = 0;
        bool is_used = false;
        for (uint32_t k = 0; k < stage->n; k++) {
            if (bytes[k] == 0)
                continue;
            const struct mp_transfer *t = &stage->transfers[k];
            const struct net_quick *q = &n->quick[is_swapped ? t->dst * gpus + t->src : t->src * gpus + t->dst];
            double least = is_capped ? slowest / t->width : 0;
            double per_byte = q->ns_per_byte > least ? q->ns_per_byte : least;
            double taken = q->latency_ns + (double)bytes[k] * per_byte;
            if (x->mode == MP_STAGE_BARRIER) {
                longest = taken > longest ? taken : longest;
                is_used = true;
                continue;
            }
            size_t a, b;
            clocks(x, t, &a, &b);
            double start = ready[a] > ready[b] ? ready[a] : ready[b];
            double end = start + launch + taken;
            next[a] = end > next[a] ? end : next[a];
            next[b] = end > next[b] ? end : next[b];
        }
        if (x->mode == MP_STAGE_BARRIER) {
            x->now += is_used ? launch + longest : 0;
            continue;
        }
        for (uint32_t k = 0; k < stage->n; k++) { /* what the stage changed counts from the next stage on */
            size_t a, b;
            clocks(x, &stage->transfers[k], &a, &b);
            ready[a] = next[a];
            ready[b] = next[b];
        }
    }
}

static enum mp_status event_run(struct run *x, struct mp_error *err) {
    struct mp_net *n = x->n;
    const struct mp_order *order = x->order;
    const uint32_t gpus = n->n;
    size_t at = n_transfers_before(order, x->is_backwards ? order->n_stages - x->first : x->first), n_jobs = 0;
    double last = 0;
    enum mp_status status = MP_OK;
    MP_TRY(net_events_reserve(n, n_transfers_before(order, order->n_stages), err));
    for (uint32_t i = x->first; i < x->stop; i++) {
        const uint32_t s = x->is_backwards ? order->n_stages - 1 - i : i;
        const struct mp_stage *stage = &order->stages[s];
        at -= x->is_backwards ? stage->n : 0;
        for (uint32_t k = 0; k < stage->n; k++) {
            const struct mp_transfer *t = &stage->transfers[k];
            uint64_t bytes = n->transfer_bytes[at + k];
            if (bytes == 0)
                continue;
            uint32_t src = x->is_swapped ? t->dst : t->src, dst = x->is_swapped ? t->src : t->dst;
            struct net_job job = {.stage = i, .queue = {0, MP_NONE}};
            if (x->mode != MP_STAGE_BARRIER) {
                job.queue[0] = src;
                job.queue[1] = x->mode == MP_STAGE_COUPLED ? dst : gpus + dst;
            }
            net_events_job(n, n_jobs++, job, src, dst, (double)bytes,
                           is_flush(order, s) ? INFINITY : x->cap * t->width);
        }
        at += x->is_backwards ? 0 : stage->n;
    }
    MP_TRY(net_events_run(n, n_jobs, x->mode == MP_STAGE_BARRIER ? 1 : 2 * gpus, (double)n->t->stage_launch_ns, NULL,
                          &last, err));
    x->now += last;
    for (size_t i = 0; n->has_clocks && i < n_jobs; i++) { /* `time` is when it ended */
        const uint32_t src = n->job_pair[i] / gpus, dst = n->job_pair[i] % gpus;
        n->ready[src] = fmax(n->ready[src], n->jobs[i].time);
        n->ready[dst] = fmax(n->ready[dst], n->jobs[i].time);
    }
out:
    return status;
}

enum mp_status net_flush_reserve(struct mp_net *n, size_t n_flows, struct mp_error *err) {
    const size_t pairs = (size_t)n->n * n->n;
    if (n->flush_bytes == NULL)
        n->flush_bytes = mp_calloc(pairs, sizeof *n->flush_bytes);
    if (n->flush_start == NULL)
        n->flush_start = mp_calloc(pairs, sizeof *n->flush_start);
    if (n->flush_end == NULL)
        n->flush_end = mp_calloc(pairs, sizeof *n->flush_end);
    if (n->flush_bytes == NULL || n->flush_start == NULL || n->flush_end == NULL)
        return mp_nomem(err, "a flush");
    return net_list_reserve(n, n_flows, err);
}

/* The flush by itself: from where the clocks are, and they move on to its ends. */
static enum mp_status flush_run(struct run *x, struct mp_error *err) {
    struct mp_net *n = x->n;
    const struct mp_order *order = x->order;
    const size_t gpus = n->n;
    const struct mp_stage *stage = &order->stages[order->n_stages - 1];
    const uint64_t *bytes = n->transfer_bytes + n_transfers_before(order, order->n_stages - 1);
    const double launch = (double)n->t->stage_launch_ns;
    struct net_end end = {.least_latency_ns = UINT64_MAX};
    size_t n_flows = 0;
    bool is_together = true; /* all start at once: nothing else ran before, or a barrier did */
    enum mp_status status = MP_OK;
    MP_TRY(net_flush_reserve(n, stage->n, err));
    for (uint32_t k = 0; k < stage->n; k++) {
        const struct mp_transfer *t = &stage->transfers[k];
        size_t pair = x->is_swapped ? t->dst * gpus + t->src : t->src * gpus + t->dst, a, b;
        if (bytes[k] == 0)
            continue;
        clocks(x, t, &a, &b);
        n->listed[n_flows++] = (uint32_t)pair;
        n->flush_bytes[pair] = bytes[k];
        if (x->mode == MP_STAGE_BARRIER)
            continue;
        n->flush_start[pair] = fmax(n->ready[a], n->ready[b]) + launch;
        is_together &= n->flush_start[pair] <= launch;
    }
    end.finish = x->mode == MP_STAGE_BARRIER ? NULL : n->flush_end;
    MP_TRY(net_at_once(n, n->listed, n_flows, n->flush_bytes, is_together ? NULL : n->flush_start, &end, err));
    if (x->mode == MP_STAGE_BARRIER) {
        x->now += n_flows > 0 ? launch + end.last : 0;
        goto out;
    }
    for (uint32_t k = 0; k < stage->n; k++) {
        const struct mp_transfer *t = &stage->transfers[k];
        size_t pair = x->is_swapped ? t->dst * gpus + t->src : t->src * gpus + t->dst, a, b;
        if (bytes[k] == 0)
            continue;
        clocks(x, t, &a, &b);
        double ended = n->flush_end[pair] + (is_together ? launch : 0);
        n->ready_next[a] = fmax(n->ready_next[a], ended);
        n->ready_next[b] = fmax(n->ready_next[b], ended);
    }
    memcpy(n->ready, n->ready_next, 2 * gpus * sizeof *n->ready);
out:
    return status;
}

/* The whole order; its end in *last. With n->has_clocks ranks come at n->come, and n->ready is when each ended. */
static enum mp_status run_stages(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                 enum mp_stage_mode mode, const uint64_t *matrix, double *last, struct mp_error *err) {
    struct run x = {.n = n,
                    .order = order,
                    .is_swapped = way != MP_COMBINE_FORWARD,
                    .is_backwards = way == MP_COMBINE_REVERSED,
                    .mode = mode,
                    .cap = order->port_bytes_per_s > 0 ? (double)order->port_bytes_per_s * 1e-9 : INFINITY};
    enum mp_status status = MP_OK;
    MP_TRY(net_cut(n, order, x.is_swapped, matrix, err));
    const bool is_quick = n->log == NULL && is_uncontended(&x); /* who listens wants to hear of every transfer */
    const bool is_apart = order->has_flush && n->log == NULL && order->n_stages > 0 &&
                          (mode == MP_STAGE_BARRIER || (is_quick && !has_shared(n))); /* the flush by itself */
    for (size_t i = 0; i < 2 * (size_t)n->n; i++)
        n->ready[i] = n->ready_next[i] = n->has_clocks ? n->come[i % n->n] : 0;
    x.first = is_apart && x.is_backwards;
    x.stop = order->n_stages - (is_apart && !x.is_backwards);
    if (is_apart && x.is_backwards)
        MP_TRY(flush_run(&x, err));
    if (is_quick && (is_apart || !order->has_flush))
        quick_run(&x);
    else
        MP_TRY(event_run(&x, err));
    if (is_apart && !x.is_backwards)
        MP_TRY(flush_run(&x, err));
    *last = x.now;
    for (size_t i = 0; i < 2 * (size_t)n->n; i++)
        *last = n->ready[i] > *last ? n->ready[i] : *last;
out:
    return status;
}

enum mp_status mp_net_staged(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                             enum mp_stage_mode mode, const uint64_t *matrix, uint64_t *time_ns, struct mp_error *err) {
    double last = 0;
    *time_ns = 0;
    if (order->between_nodes)
        return net_nodes_staged(n, order, way, matrix, time_ns, NULL, err);
    enum mp_status status = run_stages(n, order, way, mode, matrix, &last, err);
    if (status != MP_OK)
        return status;
    uint64_t bound = mp_net_port_bound(n, matrix), rounded = net_round_up(last);
    *time_ns = rounded > bound ? rounded : bound; /* rounding must not pass below what no schedule can */
    return MP_OK;
}

enum mp_status mp_net_staged_from(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                  enum mp_stage_mode mode, const uint64_t *matrix, uint64_t *clock_ns,
                                  struct mp_error *err) {
    const size_t logged = n->log == NULL ? 0 : n->log->n;
    uint64_t time_ns, base_ns = 0;
    double last = 0;
    if (order->between_nodes || mode == MP_STAGE_BARRIER) {
        enum mp_status status = mp_net_staged(n, order, way, mode, matrix, &time_ns, err);
        for (size_t i = 0; i < n->n; i++)
            base_ns = clock_ns[i] > base_ns ? clock_ns[i] : base_ns;
        if (status != MP_OK)
            return status;
        net_clocks_log(n, logged, base_ns);
        net_clocks_barrier(n, clock_ns, time_ns);
        return MP_OK;
    }
    net_clocks_begin(n, clock_ns, &base_ns);
    n->has_clocks = true;
    enum mp_status status = run_stages(n, order, way, mode, matrix, &last, err);
    n->has_clocks = false;
    if (status != MP_OK)
        return status;
    for (size_t i = 0; i < n->n; i++)
        n->gone[i] = fmax(n->ready[i], n->ready[n->n + i]);
    net_clocks_log(n, logged, base_ns);
    net_clocks_end(n, clock_ns, base_ns, mp_net_port_bound(n, matrix));
    return MP_OK;
}
