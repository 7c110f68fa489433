/* Is a script safe to run, and does it move what it shall? Answered before anything moves.
 *
 * Decides   nothing.
 * Method    the programs of both ends are held against each other message by message. Then every block is seen as
 * ranges that are written once: what flows bring along, what messages and copies write. Ranges are sorted by offset,
 * which shows overlaps; in the order of time each learns from the ranges that it reads which bytes of which flow it
 *           holds. In the end the places where flows shall arrive must hold them, whole and in order.
 * Cost      O(m log m + labels), m = messages + copies + flows. */
#include "prove.h"
#include <stdlib.h>
#include <string.h>

/* ---- both ends, ports, limits ---- */

struct proof {
    const struct ex_script *s;
    const struct ex_flows *flows;
    const uint64_t *block_bytes;
    char name[96];
    struct mp_error *err;
};

static enum mp_status check_end(const struct proof *x, uint32_t rank, const struct ex_end *e, bool is_receive,
                                size_t *end_of, size_t i) {
    const struct ex_script *s = x->s;
    const char *does = is_receive ? "receives" : "sends", *way = is_receive ? "from" : "to";
    if (e->message >= s->n_messages || e->stage >= s->n_stages)
        return mp_fail(x->err, MP_EBUG, "%s: rank %u %s message %u in stage %u: there are %zu messages and %u stages",
                       x->name, rank, does, e->message, e->stage, s->n_messages, s->n_stages);
    const struct ex_message *m = &s->messages[e->message];
    if ((is_receive ? m->dst : m->src) != rank || (is_receive ? m->src : m->dst) != e->peer || m->stage != e->stage ||
        m->bytes != e->bytes || m->width != e->width || (is_receive ? m->dst_at : m->src_at) != e->at)
        return mp_fail(x->err, MP_EBUG,
                       "%s: rank %u %s %llu bytes %s rank %u in stage %u, the other end has %llu bytes of rank %u to "
                       "%u in stage %u",
                       x->name, rank, does, (unsigned long long)e->bytes, way, e->peer, e->stage,
                       (unsigned long long)m->bytes, m->src, m->dst, m->stage);
    if (end_of[e->message] != SIZE_MAX)
        return mp_fail(x->err, MP_EBUG, "%s: rank %u %s the same %llu bytes %s rank %u twice", x->name, rank, does,
                       (unsigned long long)e->bytes, way, e->peer);
    end_of[e->message] = i;
    return MP_OK;
}

static enum mp_status check_stage(const struct proof *x, const struct ex_limits *limits, uint32_t rank, uint32_t stage,
                                  const uint64_t n[2], const uint64_t widths[2]) {
    const struct ex_script *s = x->s;
    for (int k = 0; k < 2; k++)
        if (!s->is_single && stage != s->flush_stage && s->ports > 0 && widths[k] > s->ports)
            return mp_fail(x->err, MP_EBUG, "%s: rank %u %s over %llu ports in stage %u, there are %u", x->name, rank,
                           k == 0 ? "sends" : "receives", (unsigned long long)widths[k], stage, s->ports);
    if (limits->ops_per_stage > 0 && n[0] + n[1] > limits->ops_per_stage)
        return mp_fail(x->err, MP_EUSAGE,
                       "%s: rank %u has %llu sends and receives in stage %u, the transport does at most %u at once "
                       "(take a plan with an order, or another transport)",
                       x->name, rank, (unsigned long long)(n[0] + n[1]), stage, limits->ops_per_stage);
    return MP_OK;
}

static enum mp_status check_rank(const struct proof *x, const struct ex_limits *limits, uint32_t rank,
                                 size_t *const end_of[2]) {
    const struct ex_script *s = x->s;
    const struct ex_end *ends[2] = {s->sends, s->receives};
    const size_t last[2] = {s->send_first[rank + 1], s->receive_first[rank + 1]};
    size_t at[2] = {s->send_first[rank], s->receive_first[rank]};
    for (uint32_t stage = 0; at[0] < last[0] || at[1] < last[1]; stage++) {
        uint64_t n[2] = {0}, widths[2] = {0};
        for (int k = 0; k < 2; k++)
            for (; at[k] < last[k] && ends[k][at[k]].stage <= stage; at[k]++) {
                const struct ex_end *e = &ends[k][at[k]];
                if (e->stage < stage)
                    return mp_fail(x->err, MP_EBUG, "%s: rank %u comes to stage %u after stage %u", x->name, rank,
                                   e->stage, stage);
                n[k]++;
                widths[k] += e->width;
                enum mp_status status = check_end(x, rank, e, k == 1, end_of[k], at[k]);
                if (status != MP_OK)
                    return status;
            }
        enum mp_status status = check_stage(x, limits, rank, stage, n, widths);
        if (status != MP_OK || stage >= s->n_stages)
            return status != MP_OK ? status
                                   : mp_fail(x->err, MP_EBUG, "%s: rank %u passes the last stage", x->name, rank);
    }
    return MP_OK;
}

/* Every message has both its ends; those of a pair come in the same order at both. */
static enum mp_status check_pairs(const struct proof *x, size_t *const end_of[2]) {
    const struct ex_script *s = x->s;
    enum mp_status status = MP_OK;
    size_t *last = mp_calloc((size_t)s->n_ranks * s->n_ranks, sizeof *last); /* + 1: where the pair's last one was */
    uint32_t *order = mp_calloc(s->n_messages, sizeof *order);               /* messages as senders have them */
    if (last == NULL || order == NULL) {
        status = mp_nomem(x->err, "proving a script");
        goto out;
    }
    for (size_t m = 0; m < s->n_messages; m++) {
        const struct ex_message *e = &s->messages[m];
        for (int k = 0; k < 2; k++)
            if (end_of[k][m] == SIZE_MAX) {
                status = mp_fail(x->err, MP_EBUG, "%s: rank %u does not %s the %llu bytes of rank %u to %u in stage %u",
                                 x->name, k == 0 ? e->src : e->dst, k == 0 ? "send" : "receive",
                                 (unsigned long long)e->bytes, e->src, e->dst, e->stage);
                goto out;
            }
        order[end_of[0][m]] = (uint32_t)m;
    }
    for (size_t i = 0; i < s->n_messages; i++) {
        const struct ex_message *e = &s->messages[order[i]];
        size_t *before = &last[(size_t)e->src * s->n_ranks + e->dst], place = end_of[1][order[i]] + 1;
        if (place <= *before) {
            status = mp_fail(x->err, MP_EBUG, "%s: rank %u sends to %u in another order than %u receives from %u",
                             x->name, e->src, e->dst, e->dst, e->src);
            goto out;
        }
        *before = place;
    }
out:
    mp_free(last);
    mp_free(order);
    return status;
}

static enum mp_status check_programs(const struct proof *x, const struct ex_limits *limits) {
    const struct ex_script *s = x->s;
    enum mp_status status = MP_OK;
    size_t *end_of[2] = {mp_calloc(s->n_messages, sizeof(size_t)), mp_calloc(s->n_messages, sizeof(size_t))};
    if (end_of[0] == NULL || end_of[1] == NULL) {
        status = mp_nomem(x->err, "proving a script");
        goto out;
    }
    for (int k = 0; k < 2; k++)
        memset(end_of[k], 0xFF, s->n_messages * sizeof *end_of[k]);
    for (uint32_t r = 0; r < s->n_ranks; r++)
        MP_TRY(check_rank(x, limits, r, end_of));
    status = check_pairs(x, end_of);
out:
    mp_free(end_of[0]);
    mp_free(end_of[1]);
    return status;
}

/* ---- every byte, once, in its place ---- */

struct label { /* bytes of a range, from its start on: which of which flow */
    uint64_t bytes, offset;
    size_t flow;
};
struct range {
    uint32_t rank, from_rank;
    uint64_t at, bytes, from_at;
    uint64_t time; /* 0 = a flow that is there from the start; else 3 * stage + 1 before it, 2 in it, 3 after it */
    size_t first_label, n_labels;
};
struct ranges {
    struct range *all;
    size_t n, *first; /* [n_ranks + 1], once sorted */
    struct label *labels;
    size_t n_labels, n_labels_allocated;
};

static int by_place(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->at != y->at ? (x->at < y->at ? -1 : 1) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}
static int by_time(const void *a, const void *b) {
    const struct range *x = *(struct range *const *)a, *y = *(struct range *const *)b;
    return x->time != y->time ? (x->time < y->time ? -1 : 1) : (x > y) - (x < y);
}

static enum mp_status list_ranges(const struct proof *x, struct ranges *w) {
    const struct ex_script *s = x->s;
    const size_t n_flows = (size_t)s->n_ranks * s->n_ranks;
    w->all = mp_calloc(n_flows + s->n_messages + s->n_copies, sizeof *w->all);
    w->first = mp_calloc((size_t)s->n_ranks + 1, sizeof *w->first);
    if (w->all == NULL || w->first == NULL)
        return mp_nomem(x->err, "proving a script");
    for (size_t f = 0; f < n_flows; f++)
        if (x->flows->bytes[f] > 0)
            w->all[w->n++] = (struct range){.rank = (uint32_t)(f / s->n_ranks),
                                            .at = x->flows->out_at[f],
                                            .bytes = x->flows->bytes[f],
                                            .from_at = f};
    for (size_t m = 0; m < s->n_messages; m++) {
        const struct ex_message *e = &s->messages[m];
        w->all[w->n++] = (struct range){.rank = e->dst,
                                        .from_rank = e->src,
                                        .at = e->dst_at,
                                        .bytes = e->bytes,
                                        .from_at = e->src_at,
                                        .time = 3 * (uint64_t)e->stage + 2};
    }
    for (size_t c = 0; c < s->n_copies; c++) {
        const struct ex_copy *e = &s->copies[c];
        if (e->rank >= s->n_ranks || e->stage >= s->n_stages)
            return mp_fail(x->err, MP_EBUG, "%s: copy %zu is of rank %u, stage %u: there are %u ranks and %u stages",
                           x->name, c, e->rank, e->stage, s->n_ranks, s->n_stages);
        w->all[w->n++] = (struct range){.rank = e->rank,
                                        .from_rank = e->rank,
                                        .at = e->to_at,
                                        .bytes = e->bytes,
                                        .from_at = e->from_at,
                                        .time = 3 * (uint64_t)e->stage + (e->is_before ? 1 : 3)};
    }
    return MP_OK;
}

static enum mp_status check_overlaps(const struct proof *x, struct ranges *w) {
    qsort(w->all, w->n, sizeof *w->all, by_place);
    for (size_t i = 0; i < w->n; i++) {
        const struct range *r = &w->all[i], *before = i > 0 && r[-1].rank == r->rank ? r - 1 : NULL;
        uint64_t end;
        if (r->bytes == 0 || mp_add_overflow(r->at, r->bytes, &end) || end > x->block_bytes[r->rank])
            return mp_fail(x->err, MP_EBUG,
                           "%s: %llu bytes from %llu on are written into the block of rank %u, which has %llu", x->name,
                           (unsigned long long)r->bytes, (unsigned long long)r->at, r->rank,
                           (unsigned long long)x->block_bytes[r->rank]);
        if (before != NULL && before->at + before->bytes > r->at)
            return mp_fail(x->err, MP_EBUG, "%s: byte %llu of the block of rank %u is written twice", x->name,
                           (unsigned long long)r->at, r->rank);
        w->first[r->rank + 1] = i + 1;
    }
    for (uint32_t k = 0; k < x->s->n_ranks; k++)
        w->first[k + 1] = w->first[k + 1] > w->first[k] ? w->first[k + 1] : w->first[k];
    return MP_OK;
}

static enum mp_status add_label(const struct proof *x, struct ranges *w, struct range *r, struct label l) {
    if (r->n_labels > 0) {
        struct label *last = &w->labels[w->n_labels - 1];
        if (last->flow == l.flow && last->offset + last->bytes == l.offset) {
            last->bytes += l.bytes;
            return MP_OK;
        }
    }
    if (w->n_labels == w->n_labels_allocated) {
        size_t more = 2 * w->n_labels_allocated + 1024;
        struct label *grown = mp_realloc(w->labels, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(x->err, "proving a script");
        w->labels = grown;
        w->n_labels_allocated = more;
    }
    w->labels[w->n_labels++] = l;
    r->n_labels++;
    return MP_OK;
}

/* What lies in `bytes` bytes of a block from `at` on at a time, appended to the labels of `to`. */
static enum mp_status read_range(const struct proof *x, struct ranges *w, uint32_t rank, uint64_t at, uint64_t bytes,
                                 uint64_t time, struct range *to) {
    size_t low = w->first[rank], high = w->first[rank + 1];
    while (low < high) { /* the first range that ends behind `at` */
        size_t middle = low + (high - low) / 2;
        if (w->all[middle].at + w->all[middle].bytes <= at)
            low = middle + 1;
        else
            high = middle;
    }
    for (; bytes > 0; low++) {
        const struct range *r = &w->all[low];
        const bool is_free = time > 0 && time < UINT64_MAX && x->s->mode != MP_STAGE_BARRIER;
        if (low >= w->first[rank + 1] || r->at > at || r->time >= time || (is_free && r->time > 0))
            return mp_fail(x->err, MP_EBUG,
                           time == UINT64_MAX ? "%s: byte %llu of the block of rank %u never comes"
                                              : "%s: byte %llu of the block of rank %u is read before it is there",
                           x->name, (unsigned long long)at, rank);
        uint64_t skip = at - r->at;
        for (size_t i = r->first_label; i < r->first_label + r->n_labels && bytes > 0; i++) {
            struct label l = w->labels[i];
            if (skip >= l.bytes) {
                skip -= l.bytes;
                continue;
            }
            l.offset += skip;
            l.bytes -= skip;
            skip = 0;
            l.bytes = l.bytes < bytes ? l.bytes : bytes;
            at += l.bytes;
            bytes -= l.bytes;
            enum mp_status status = add_label(x, w, to, l);
            if (status != MP_OK)
                return status;
        }
    }
    return MP_OK;
}

static enum mp_status check_bytes(const struct proof *x, struct ranges *w) {
    const struct ex_script *s = x->s;
    enum mp_status status = MP_OK;
    struct range **order = mp_calloc(w->n, sizeof *order);
    if (order == NULL)
        return mp_nomem(x->err, "proving a script");
    for (size_t i = 0; i < w->n; i++)
        order[i] = &w->all[i];
    qsort(order, w->n, sizeof *order, by_time);
    for (size_t i = 0; i < w->n; i++) {
        struct range *r = order[i];
        r->first_label = w->n_labels;
        if (r->time == 0)
            MP_TRY(add_label(x, w, r, (struct label){r->bytes, 0, r->from_at}));
        else
            MP_TRY(read_range(x, w, r->from_rank, r->from_at, r->bytes, r->time, r));
    }
    for (size_t f = 0; f < (size_t)s->n_ranks * s->n_ranks; f++) {
        struct range whole = {.first_label = w->n_labels};
        if (x->flows->bytes[f] == 0)
            continue;
        MP_TRY(
            read_range(x, w, (uint32_t)(f % s->n_ranks), x->flows->in_at[f], x->flows->bytes[f], UINT64_MAX, &whole));
        const struct label *l = &w->labels[whole.first_label];
        if (whole.n_labels != 1 || l->flow != f || l->offset != 0) {
            status = mp_fail(x->err, MP_EBUG, "%s: what comes for the flow of rank %zu to %zu is not that flow",
                             x->name, f / s->n_ranks, f % s->n_ranks);
            goto out;
        }
        w->n_labels = whole.first_label;
    }
out:
    mp_free(order);
    return status;
}

enum mp_status ex_prove(const struct ex_script *s, const struct ex_flows *flows, const uint64_t *block_bytes,
                        const struct ex_limits *limits, struct mp_error *err) {
    struct proof x = {.s = s, .flows = flows, .block_bytes = block_bytes, .err = err};
    struct ranges w = {0};
    enum mp_status status = MP_OK;
    (void)ex_script_name(s, x.name, sizeof x.name);
    if (limits->max_ranks > 0 && s->n_ranks > limits->max_ranks)
        return mp_fail(err, MP_EUSAGE, "the transport has at most %u ranks, the plan %u (take another transport)",
                       limits->max_ranks, s->n_ranks);
    if (s->mode != MP_STAGE_BARRIER && s->n_copies > 0)
        return mp_fail(err, MP_EBUG, "%s: copies inside a block need a barrier after each stage", x.name);
    MP_TRY(check_programs(&x, limits));
    MP_TRY(list_ranges(&x, &w));
    MP_TRY(check_overlaps(&x, &w));
    status = check_bytes(&x, &w);
out:
    mp_free(w.all);
    mp_free(w.first);
    mp_free(w.labels);
    return status;
}
