/* The parts of a script that all ways of making one share: where flows lie, what each rank's program is. */
#include "script_private.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ex_part_name(enum ex_part part) {
    static const char *const names[] = {"dispatch", "dispatch inside nodes", "combine inside nodes", "combine"};
    return names[part];
}

const char *ex_script_name(const struct ex_script *s, char *buf, size_t size) {
    snprintf(buf, size, "%s of step %u, layer %u", ex_part_name(s->part), s->step, s->layer_id);
    return buf;
}

/* ---- flows ---- */

static uint64_t aligned(uint64_t at) { return (at + EX_ALIGN - 1) / EX_ALIGN * EX_ALIGN; }

bool script_take(uint64_t *used, uint64_t bytes, uint64_t *at) {
    *at = aligned(*used);
    return *at >= *used && !mp_add_overflow(*at, bytes, used);
}

enum mp_status ex_flows_new(struct ex_flows **out, uint32_t n, const uint64_t *bytes, uint64_t *used,
                            struct mp_error *err) {
    *out = NULL;
    struct ex_flows *f = mp_calloc(1, sizeof *f);
    if (f == NULL)
        return mp_nomem(err, "flows");
    *f = (struct ex_flows){.n = n,
                           .bytes = bytes,
                           .out_at = mp_calloc((size_t)n * n, sizeof *f->out_at),
                           .in_at = mp_calloc((size_t)n * n, sizeof *f->in_at)};
    if (f->out_at == NULL || f->in_at == NULL) {
        ex_flows_free(f);
        return mp_nomem(err, "flows");
    }
    bool fits = true;
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t j = 0; j < n; j++)
            fits = fits && script_take(&used[r], bytes[(size_t)r * n + j], &f->out_at[(size_t)r * n + j]);
        for (uint32_t i = 0; i < n; i++)
            fits = fits && script_take(&used[r], bytes[(size_t)i * n + r], &f->in_at[(size_t)i * n + r]);
    }
    if (!fits) {
        ex_flows_free(f);
        return mp_fail(err, MP_ELIMIT, "the flows of a rank have more than 2^64 bytes");
    }
    *out = f;
    return MP_OK;
}

void ex_flows_free(struct ex_flows *f) {
    if (f == NULL)
        return;
    mp_free(f->out_at);
    mp_free(f->in_at);
    mp_free(f);
}

/* ---- programs of ranks ---- */

void ex_script_free(struct ex_script *s) {
    if (s == NULL)
        return;
    void *owned[] = {s->messages,   s->stage_first,   s->sends,      s->receives,
                     s->send_first, s->receive_first, s->copy_first, s->copies};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
    mp_free(s);
}

static enum mp_status check_ranges(const struct ex_script *s, struct mp_error *err) {
    uint32_t stage = 0;
    if (s->n_messages > UINT32_MAX)
        return mp_fail(err, MP_ELIMIT, "%zu messages", s->n_messages);
    for (size_t m = 0; m < s->n_messages; m++) {
        const struct ex_message *x = &s->messages[m];
        if (x->stage < stage || x->stage >= s->n_stages || x->src >= s->n_ranks || x->dst >= s->n_ranks)
            return mp_fail(err, MP_EBUG,
                           "message %zu is of stage %u, rank %u to %u: there are %u stages, in order, and %u ranks", m,
                           x->stage, x->src, x->dst, s->n_stages, s->n_ranks);
        stage = x->stage;
    }
    for (size_t c = 0; c < s->n_copies; c++)
        if (s->copies[c].stage >= s->n_stages || s->copies[c].rank >= s->n_ranks)
            return mp_fail(err, MP_EBUG, "copy %zu is of stage %u, rank %u: there are %u stages and %u ranks", c,
                           s->copies[c].stage, s->copies[c].rank, s->n_stages, s->n_ranks);
    return MP_OK;
}

/* Copies by (rank, stage, before), else as they stand: counting sorts, stable. */
static enum mp_status sort_copies(struct ex_script *s, struct mp_error *err) {
    if (s->n_copies == 0)
        return MP_OK;
    struct ex_copy *sorted = mp_calloc(s->n_copies, sizeof *sorted);
    const size_t n_keys[2] = {(size_t)s->n_stages * 2, s->n_ranks};
    size_t *at = mp_calloc((n_keys[0] > n_keys[1] ? n_keys[0] : n_keys[1]) + 1, sizeof *at);
    if (sorted == NULL || at == NULL) {
        mp_free(sorted);
        mp_free(at);
        return mp_nomem(err, "a script");
    }
    for (int pass = 0; pass < 2; pass++) {
        memset(at, 0, (n_keys[pass] + 1) * sizeof *at);
        for (int fill = 0; fill < 2; fill++) {
            for (size_t c = 0; c < s->n_copies; c++) {
                const struct ex_copy *x = &s->copies[c];
                size_t key = pass == 1 ? x->rank : 2 * (size_t)x->stage + !x->is_before;
                if (fill)
                    sorted[at[key]++] = *x;
                else
                    at[key + 1]++;
            }
            for (size_t k = 0; k < n_keys[pass] && !fill; k++)
                at[k + 1] += at[k];
        }
        memcpy(s->copies, sorted, s->n_copies * sizeof *sorted);
    }
    for (size_t c = 0; c < s->n_copies; c++)
        s->copy_first[s->copies[c].rank + 1]++;
    for (uint32_t r = 0; r < s->n_ranks; r++)
        s->copy_first[r + 1] += s->copy_first[r];
    mp_free(sorted);
    mp_free(at);
    return MP_OK;
}

enum mp_status ex_script_index(struct ex_script *s, struct mp_error *err) {
    void *old[] = {s->stage_first, s->sends, s->receives, s->send_first, s->receive_first, s->copy_first};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        mp_free(old[i]);
    s->stage_first = mp_calloc((size_t)s->n_stages + 1, sizeof *s->stage_first);
    s->sends = mp_calloc(s->n_messages, sizeof *s->sends);
    s->receives = mp_calloc(s->n_messages, sizeof *s->receives);
    s->send_first = mp_calloc((size_t)s->n_ranks + 1, sizeof *s->send_first);
    s->receive_first = mp_calloc((size_t)s->n_ranks + 1, sizeof *s->receive_first);
    s->copy_first = mp_calloc((size_t)s->n_ranks + 1, sizeof *s->copy_first);
    if (s->stage_first == NULL || s->sends == NULL || s->receives == NULL || s->send_first == NULL ||
        s->receive_first == NULL || s->copy_first == NULL)
        return mp_nomem(err, "a script");
    enum mp_status status = check_ranges(s, err);
    if (status != MP_OK)
        return status;
    for (size_t m = 0; m < s->n_messages; m++) {
        s->stage_first[s->messages[m].stage + 1]++;
        s->send_first[s->messages[m].src + 1]++;
        s->receive_first[s->messages[m].dst + 1]++;
    }
    for (uint32_t k = 0; k < s->n_stages; k++)
        s->stage_first[k + 1] += s->stage_first[k];
    for (uint32_t r = 0; r < s->n_ranks; r++) {
        s->send_first[r + 1] += s->send_first[r];
        s->receive_first[r + 1] += s->receive_first[r];
    }
    /* Filling moves each start to its end; shifting back by one restores it. */
    for (size_t m = 0; m < s->n_messages; m++) {
        const struct ex_message *x = &s->messages[m];
        s->sends[s->send_first[x->src]++] =
            (struct ex_end){x->stage, x->dst, x->width, (uint32_t)m, x->bytes, x->src_at};
        s->receives[s->receive_first[x->dst]++] =
            (struct ex_end){x->stage, x->src, x->width, (uint32_t)m, x->bytes, x->dst_at};
    }
    memmove(s->send_first + 1, s->send_first, s->n_ranks * sizeof *s->send_first);
    memmove(s->receive_first + 1, s->receive_first, s->n_ranks * sizeof *s->receive_first);
    s->send_first[0] = s->receive_first[0] = 0;
    return sort_copies(s, err);
}

uint64_t ex_script_bytes(const struct ex_script *s, uint32_t rank, bool is_receive) {
    const struct ex_end *ends = is_receive ? s->receives : s->sends;
    const size_t *first = is_receive ? s->receive_first : s->send_first;
    uint64_t sum = 0;
    for (size_t i = first[rank]; i < first[rank + 1]; i++)
        sum += ends[i].bytes;
    return sum;
}

/* ---- one shot ---- */

enum mp_status script_add(struct ex_script *s, size_t *n_allocated, struct ex_message m, struct mp_error *err) {
    if (m.bytes == 0)
        return MP_OK;
    if (s->n_messages == *n_allocated) {
        size_t more = 2 * *n_allocated + 256;
        struct ex_message *grown = mp_realloc(s->messages, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a script");
        s->messages = grown;
        *n_allocated = more;
    }
    s->messages[s->n_messages++] = m;
    return MP_OK;
}

static enum mp_status make_single(struct ex_script *s, const struct ex_flows *f, struct mp_error *err) {
    size_t n_allocated = 0;
    s->n_stages = 1;
    s->is_single = true;
    for (uint32_t i = 0; i < f->n; i++)
        for (uint32_t j = 0; j < f->n; j++) {
            size_t at = (size_t)i * f->n + j;
            enum mp_status status = script_add(
                s, &n_allocated,
                (struct ex_message){0, (uint16_t)i, (uint16_t)j, 1, f->bytes[at], f->out_at[at], f->in_at[at]}, err);
            if (status != MP_OK)
                return status;
        }
    return MP_OK;
}

/* ---- stages between GPUs ---- */

/* Pieces are cut in forward stage order, whichever way the stages run. */
static enum mp_status make_staged(struct ex_script *s, const struct ex_script_request *q, struct mp_error *err) {
    const struct mp_order *order = q->order;
    const struct ex_flows *f = q->flows;
    const uint32_t n = f->n;
    const bool is_turned = q->way != MP_COMBINE_FORWARD;
    size_t n_allocated = 0;
    enum mp_status status = MP_OK;
    uint32_t *cumulative = mp_calloc((size_t)n * n, sizeof *cumulative);
    if (cumulative == NULL)
        return mp_nomem(err, "a script");
    s->n_stages = order->n_stages;
    s->ports = order->ports;
    s->port_bytes_per_s = order->port_bytes_per_s;
    if (order->has_flush && order->n_stages > 0)
        s->flush_stage = q->way == MP_COMBINE_REVERSED ? 0 : order->n_stages - 1;
    for (uint32_t k = 0; k < order->n_stages; k++) {
        const struct mp_stage *stage = &order->stages[k];
        for (uint32_t i = 0; i < stage->n; i++) {
            const struct mp_transfer *r = &stage->transfers[i];
            if (r->src >= n || r->dst >= n || r->src == r->dst) {
                status = mp_fail(err, MP_EBUG, "stage %u sends from GPU %u to %u of %u", k, r->src, r->dst, n);
                goto out;
            }
            const uint16_t src = is_turned ? r->dst : r->src, dst = is_turned ? r->src : r->dst;
            const size_t at = (size_t)src * n + dst;
            const uint32_t before = cumulative[at];
            if (mp_add_overflow(before, r->share, &cumulative[at]) || cumulative[at] > order->unit) {
                status = mp_fail(err, MP_EBUG, "the shares of GPU %u -> %u pass the unit", r->src, r->dst);
                goto out;
            }
            const uint64_t from = mp_mul_div(f->bytes[at], before, order->unit),
                           to = mp_mul_div(f->bytes[at], cumulative[at], order->unit);
            MP_TRY(script_add(s, &n_allocated,
                              (struct ex_message){q->way == MP_COMBINE_REVERSED ? order->n_stages - 1 - k : k, src, dst,
                                                  r->width, to - from, f->out_at[at] + from, f->in_at[at] + from},
                              err));
        }
    }
    for (size_t at = 0; at < (size_t)n * n; at++)
        if (f->bytes[at] > 0 && cumulative[at] != order->unit) {
            status = mp_fail(err, MP_EBUG, "the order leaves part of GPU %zu -> %zu unsent", at / n, at % n);
            goto out;
        }
    /* Stages backwards: their messages too, which stand in the order of the dispatch. */
    if (q->way == MP_COMBINE_REVERSED) {
        size_t i = 0;
        struct ex_message *turned = mp_calloc(s->n_messages, sizeof *turned);
        if (turned == NULL) {
            status = mp_nomem(err, "a script");
            goto out;
        }
        for (size_t end = s->n_messages; end > 0;) {
            size_t begin = end;
            while (begin > 0 && s->messages[begin - 1].stage == s->messages[end - 1].stage)
                begin--;
            memcpy(turned + i, s->messages + begin, (end - begin) * sizeof *turned);
            i += end - begin;
            end = begin;
        }
        mp_free(s->messages);
        s->messages = turned;
    }
out:
    mp_free(cumulative);
    return status;
}

enum mp_status ex_script_new(struct ex_script **out, const struct ex_script_request *q, struct mp_error *err) {
    *out = NULL;
    struct ex_script *s = mp_calloc(1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "a script");
    *s = (struct ex_script){.step = q->step,
                            .layer = q->layer,
                            .layer_id = q->layer_id,
                            .part = q->part,
                            .n_ranks = q->flows->n,
                            .mode = q->mode,
                            .flush_stage = MP_NONE};
    enum mp_status status = MP_OK;
    if (q->order == NULL)
        MP_TRY(make_single(s, q->flows, err));
    else if (q->order->between_nodes)
        MP_TRY(script_nodes(s, q, err));
    else
        MP_TRY(make_staged(s, q, err));
    MP_TRY(ex_script_index(s, err));
out:
    if (status != MP_OK)
        ex_script_free(s);
    else
        *out = s;
    return status;
}
