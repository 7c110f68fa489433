/* Transfers between ranks that come to them at their own times.
 *
 * Decides    when each rank goes on, given when each came: at its own last end of a transfer.
 * Method     the times are handed to the simulators of net_maxmin.c and net_staged.c as those at which flows, or
 *            queues, may start. Clocks are whole nanoseconds, counted from the earliest while they are computed with,
 *            so that a shift of all of them shifts the result by as much, exactly.
 * Differs    from a barrier: only the two ends of a transfer wait for each other. */
#include "net.h"

void net_clocks_begin(struct mp_net *n, const uint64_t *clock_ns, uint64_t *base_ns) {
    *base_ns = clock_ns[0];
    for (size_t i = 1; i < n->n; i++)
        *base_ns = clock_ns[i] < *base_ns ? clock_ns[i] : *base_ns;
    for (size_t i = 0; i < n->n; i++)
        n->come[i] = n->gone[i] = (double)(clock_ns[i] - *base_ns);
}

void net_clocks_end(struct mp_net *n, uint64_t *clock_ns, uint64_t base_ns, uint64_t least_ns) {
    uint64_t last = 0;
    const uint64_t least = net_add(base_ns, least_ns);
    for (size_t i = 0; i < n->n; i++) {
        uint64_t gone = net_add(base_ns, net_round_up(n->gone[i]));
        clock_ns[i] = gone > clock_ns[i] ? gone : clock_ns[i];
        last = clock_ns[i] > last ? clock_ns[i] : last;
    }
    for (size_t i = 0; last < least && i < n->n; i++)
        if (clock_ns[i] == last)
            clock_ns[i] = least;
}

void net_clocks_log(const struct mp_net *n, size_t first, uint64_t base_ns) {
    for (size_t i = first; n->log != NULL && i < n->log->n; i++) {
        n->log->transfers[i].start_ns = net_add(n->log->transfers[i].start_ns, base_ns);
        n->log->transfers[i].end_ns = net_add(n->log->transfers[i].end_ns, base_ns);
    }
}

void net_clocks_barrier(const struct mp_net *n, uint64_t *clock_ns, uint64_t time_ns) {
    uint64_t last = 0;
    for (size_t i = 0; i < n->n; i++)
        last = clock_ns[i] > last ? clock_ns[i] : last;
    for (size_t i = 0; i < n->n; i++)
        clock_ns[i] = net_add(last, time_ns);
}

enum mp_status mp_net_concurrent_from(struct mp_net *n, const uint64_t *matrix, uint64_t *clock_ns,
                                      struct mp_error *err) {
    const size_t gpus = n->n;
    struct net_end end = {.least_latency_ns = UINT64_MAX};
    const size_t logged = n->log == NULL ? 0 : n->log->n;
    size_t count = 0;
    uint64_t base_ns;
    bool is_together = true;
    for (size_t p = 0; p < gpus * gpus; p++)
        count += matrix[p] > 0 && p / gpus != p % gpus;
    if (count == 0)
        return MP_OK;
    enum mp_status status = net_flush_reserve(n, count, err);
    if (status != MP_OK)
        return status;
    net_clocks_begin(n, clock_ns, &base_ns);
    count = 0;
    for (size_t p = 0; p < gpus * gpus; p++) {
        if (matrix[p] == 0 || p / gpus == p % gpus)
            continue;
        n->flush_start[p] = fmax(n->come[p / gpus], n->come[p % gpus]);
        is_together &= n->flush_start[p] <= 0;
        n->listed[count++] = (uint32_t)p;
    }
    end.finish = n->flush_end;
    status = net_at_once(n, n->listed, count, matrix, is_together ? NULL : n->flush_start, &end, err);
    if (status != MP_OK)
        return status;
    for (size_t p = 0; p < gpus * gpus; p++)
        if (matrix[p] > 0 && p / gpus != p % gpus) {
            n->gone[p / gpus] = fmax(n->gone[p / gpus], n->flush_end[p]);
            n->gone[p % gpus] = fmax(n->gone[p % gpus], n->flush_end[p]);
        }
    net_clocks_log(n, logged, base_ns);
    net_clocks_end(n, clock_ns, base_ns, net_add(mp_net_port_bound(n, matrix), end.least_latency_ns));
    return MP_OK;
}
