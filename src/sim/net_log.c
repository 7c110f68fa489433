/* Who wants to know when each transfer ran: entries are added while a log is set, and only then. */
#include "net.h"

void mp_net_log_to(struct mp_net *n, struct mp_net_log *log) { n->log = log; }

void mp_net_log_free(struct mp_net_log *log) {
    mp_free(log->transfers);
    *log = (struct mp_net_log){0};
}

enum mp_status net_log_reserve(struct mp_net *n, size_t n_more, struct mp_error *err) {
    struct mp_net_log *log = n->log;
    if (log == NULL || log->n_allocated - log->n >= n_more)
        return MP_OK;
    size_t wanted = log->n + n_more + log->n_allocated / 2 + 16;
    struct mp_net_transfer *grown = mp_realloc(log->transfers, wanted, sizeof *grown);
    if (grown == NULL)
        return mp_nomem(err, "transfers");
    log->transfers = grown;
    log->n_allocated = wanted;
    return MP_OK;
}

/* Starts are rounded like ends: one that follows an end is not before it. */
void net_log_add(const struct mp_net *n, uint32_t src, uint32_t dst, uint32_t stage, uint64_t bytes, double start,
                 uint64_t end_ns) {
    struct mp_net_log *log = n->log;
    uint64_t start_ns = net_round_up(start);
    log->transfers[log->n++] = (struct mp_net_transfer){
        .src = src, .dst = dst, .stage = stage, .bytes = bytes, .start_ns = start_ns, .end_ns = end_ns};
}
