/* Orders between nodes as scripts: docs/ORDERS.md part 4.
 *
 * Decides   where bytes lie on their way: what GPUs pass on needs room, and what a hop takes must lie in one piece.
 * Minimises copies: a hop whose bytes happen to lie in one piece, where they are or where they shall end, is not
 * copied.
 * Method    the relays of every stage are cut into hops; hops of one single shot between two GPUs, for one purpose, are
 * one message. Message by message, in the order of time, its bytes are gathered, sent and scattered. The bytes of each
 *           message are held against those of mp_nodes_shots, which adds them up in another way.
 * Cost      O(r log r), r = relays; memory: what is passed on, once for each time it is passed on. */
#include "script_private.h"
#include <stdlib.h>
#include <string.h>

struct relay {       /* bytes of a flow on their way */
    uint32_t gpu[4]; /* where they start, pass, pass, end; the same twice = no hop */
    uint32_t stage;
    uint64_t bytes;
    uint64_t at;     /* where they lie now, in the block of the GPU that they have come to */
    uint64_t end_at; /* where they shall end */
};
struct hop {           /* of one relay */
    uint32_t position; /* of the shot as run */
    enum mp_hop_part part;
    uint32_t from, to;
    size_t relay;
    bool is_last; /* it ends where the relay ends: what follows a rail inside the node may be nothing */
};
struct shot { /* one hop of one shot as mp_nodes_shots has it */
    uint32_t position, k;
    struct mp_hop hop;
};
struct nodes {
    struct ex_script *s;
    const struct ex_script_request *q;
    struct relay *relays;
    struct hop *hops;
    struct shot *shots;
    size_t n_relays, n_relays_allocated, n_hops, n_shots, n_shots_allocated;
    uint32_t *position_of; /* [n_stages + 2] of shot k, or MP_NONE */
    uint64_t *inside_sent; /* [n * n] bytes of flows inside nodes before the shot at hand */
    size_t n_messages_allocated, n_copies_allocated;
};

/* ---- what there is to move ---- */

static enum mp_status keep_shot(void *ctx, uint32_t k, const struct mp_hop *hops, size_t n, struct mp_error *err) {
    struct nodes *x = ctx;
    if (x->n_shots + n > x->n_shots_allocated) {
        size_t more = 2 * x->n_shots_allocated + n + 64;
        struct shot *grown = mp_realloc(x->shots, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a script");
        x->shots = grown;
        x->n_shots_allocated = more;
    }
    for (size_t i = 0; i < n; i++)
        x->shots[x->n_shots++] = (struct shot){x->s->n_stages, k, hops[i]};
    x->position_of[k] = x->s->n_stages++;
    return MP_OK;
}

static enum mp_status keep_relays(void *ctx, uint32_t stage, const struct mp_relay *relays, size_t n,
                                  struct mp_error *err) {
    struct nodes *x = ctx;
    const struct ex_flows *f = x->q->flows;
    const bool is_turned = x->q->way != MP_COMBINE_FORWARD;
    if (x->n_relays + n > x->n_relays_allocated) {
        size_t more = 2 * x->n_relays_allocated + n + 64;
        struct relay *grown = mp_realloc(x->relays, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a script");
        x->relays = grown;
        x->n_relays_allocated = more;
    }
    for (size_t i = 0; i < n; i++) {
        const struct mp_relay *r = &relays[i];
        const size_t flow = is_turned ? (size_t)r->dst * f->n + r->src : (size_t)r->src * f->n + r->dst;
        x->relays[x->n_relays++] = (struct relay){
            .gpu = {is_turned ? r->dst : r->src, is_turned ? r->in : r->out, is_turned ? r->out : r->in,
                    is_turned ? r->src : r->dst},
            .stage = stage,
            .bytes = r->bytes,
            .at = f->out_at[flow] + r->offset,
            .end_at = f->in_at[flow] + r->offset,
        };
    }
    return MP_OK;
}

static int in_time(const void *a, const void *b) {
    const struct hop *x = a, *y = b;
    const uint32_t keys[4][2] = {{x->position, y->position}, {x->part, y->part}, {x->from, y->from}, {x->to, y->to}};
    for (int i = 0; i < 4; i++)
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return x->relay < y->relay ? -1 : x->relay > y->relay;
}

/* Hops of all relays, as they follow each other. The first goes with the part that the way begins with. */
static enum mp_status make_hops(struct nodes *x, struct mp_error *err) {
    const enum mp_combine way = x->q->way;
    const enum mp_hop_part parts[3] = {way == MP_COMBINE_FORWARD ? MP_HOP_BALANCE : MP_HOP_FORWARD, MP_HOP_RAIL,
                                       way == MP_COMBINE_FORWARD ? MP_HOP_FORWARD : MP_HOP_BALANCE};
    x->hops = mp_calloc(3 * x->n_relays, sizeof *x->hops);
    if (x->hops == NULL)
        return mp_nomem(err, "a script");
    for (size_t i = 0; i < x->n_relays; i++) {
        const struct relay *r = &x->relays[i];
        for (uint32_t h = 0; h < 3; h++) {
            if (r->gpu[h] == r->gpu[h + 1])
                continue;
            /* Numbers of shots rise from hop to hop, but where they run backwards. */
            const uint32_t k = r->stage + (way == MP_COMBINE_REVERSED ? 2 - h : h);
            if (x->position_of[k] == MP_NONE)
                return mp_fail(err, MP_EBUG, "stage %u passes bytes on in single shot %u, which has none", r->stage, k);
            x->hops[x->n_hops++] = (struct hop){x->position_of[k], parts[h], r->gpu[h],
                                                r->gpu[h + 1],     i,        h > 0 && r->gpu[h + 1] == r->gpu[3]};
        }
    }
    qsort(x->hops, x->n_hops, sizeof *x->hops, in_time);
    return MP_OK;
}

/* ---- messages ---- */

static enum mp_status add_copy(struct nodes *x, uint32_t stage, uint32_t rank, bool is_before, uint64_t from_at,
                               uint64_t to_at, uint64_t bytes, struct mp_error *err) {
    struct ex_script *s = x->s;
    struct ex_copy *last = s->n_copies > 0 ? &s->copies[s->n_copies - 1] : NULL;
    if (last != NULL && last->stage == stage && last->rank == rank && last->is_before == is_before &&
        last->from_at + last->bytes == from_at && last->to_at + last->bytes == to_at) {
        last->bytes += bytes;
        return MP_OK;
    }
    if (s->n_copies == x->n_copies_allocated) {
        size_t more = 2 * x->n_copies_allocated + 256;
        struct ex_copy *grown = mp_realloc(s->copies, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a script");
        s->copies = grown;
        x->n_copies_allocated = more;
    }
    s->copies[s->n_copies++] = (struct ex_copy){stage, rank, is_before, from_at, to_at, bytes};
    return MP_OK;
}

static enum mp_status take_room(const struct nodes *x, uint32_t rank, uint64_t bytes, uint64_t *at,
                                struct mp_error *err) {
    if (script_take(&x->q->used[rank], bytes, at))
        return MP_OK;
    return mp_fail(err, MP_ELIMIT, "what rank %u passes on has more than 2^64 bytes", rank);
}

/* Hops [first, end) of one shot, part, sender and receiver: gathered, sent, scattered. */
static enum mp_status make_message(struct nodes *x, size_t first, size_t end, struct mp_error *err) {
    const struct hop *h = &x->hops[first];
    struct ex_message m = {h->position, (uint16_t)h->from,      (uint16_t)h->to,           1,
                           0,           x->relays[h->relay].at, x->relays[h->relay].end_at};
    bool is_gathered = true, is_in_place = true;
    enum mp_status status = MP_OK;
    for (size_t i = first; i < end; i++) {
        const struct relay *r = &x->relays[x->hops[i].relay];
        is_gathered &= r->at == m.src_at + m.bytes;
        is_in_place &= x->hops[i].is_last && r->end_at == m.dst_at + m.bytes;
        m.bytes += r->bytes;
    }
    if (!is_gathered)
        MP_TRY(take_room(x, h->from, m.bytes, &m.src_at, err));
    if (!is_in_place)
        MP_TRY(take_room(x, h->to, m.bytes, &m.dst_at, err));
    uint64_t done = 0;
    for (size_t i = first; i < end; i++) {
        struct relay *r = &x->relays[x->hops[i].relay];
        if (!is_gathered)
            MP_TRY(add_copy(x, h->position, h->from, true, r->at, m.src_at + done, r->bytes, err));
        r->at = m.dst_at + done;
        done += r->bytes;
    }
    for (size_t i = first; i < end && !is_in_place; i++) {
        const struct relay *r = &x->relays[x->hops[i].relay];
        if (x->hops[i].is_last)
            MP_TRY(add_copy(x, h->position, h->to, false, r->at, r->end_at, r->bytes, err));
    }
    status = script_add(x->s, &x->n_messages_allocated, m, err);
out:
    return status;
}

/* Traffic inside nodes: the next piece of the flow, as it lies. */
static enum mp_status make_inside(struct nodes *x, const struct shot *shot, struct mp_error *err) {
    const struct ex_flows *f = x->q->flows;
    const size_t flow = (size_t)shot->hop.src * f->n + shot->hop.dst;
    const uint64_t sent = x->inside_sent[flow];
    x->inside_sent[flow] += shot->hop.bytes;
    return script_add(x->s, &x->n_messages_allocated,
                      (struct ex_message){shot->position, (uint16_t)shot->hop.src, (uint16_t)shot->hop.dst, 1,
                                          shot->hop.bytes, f->out_at[flow] + sent, f->in_at[flow] + sent},
                      err);
}

static int shots_in_time(const void *a, const void *b) {
    const struct shot *x = a, *y = b;
    const uint32_t keys[4][2] = {
        {x->position, y->position}, {x->hop.part, y->hop.part}, {x->hop.src, y->hop.src}, {x->hop.dst, y->hop.dst}};
    for (int i = 0; i < 4; i++)
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return 0;
}

/* Shots and hops stand in the same order: each hop of a shot is the message of its hops of relays, byte for byte. */
static enum mp_status make_messages(struct nodes *x, struct mp_error *err) {
    size_t next = 0;
    for (size_t i = 0; i < x->n_shots; i++) {
        const struct shot *shot = &x->shots[i];
        const size_t first = next;
        uint64_t bytes = 0;
        enum mp_status status = MP_OK;
        if (shot->hop.part == MP_HOP_INSIDE) {
            status = make_inside(x, shot, err);
            if (status != MP_OK)
                return status;
            continue;
        }
        for (; next < x->n_hops && x->hops[next].position == shot->position && x->hops[next].part == shot->hop.part &&
               x->hops[next].from == shot->hop.src && x->hops[next].to == shot->hop.dst;
             next++)
            bytes += x->relays[x->hops[next].relay].bytes;
        if (bytes != shot->hop.bytes || bytes == 0)
            return mp_fail(err, MP_EBUG, "single shot %u moves %llu bytes from GPU %u to %u, its relays %llu", shot->k,
                           (unsigned long long)shot->hop.bytes, shot->hop.src, shot->hop.dst,
                           (unsigned long long)bytes);
        status = make_message(x, first, next, err);
        if (status != MP_OK)
            return status;
    }
    if (next < x->n_hops)
        return mp_fail(err, MP_EBUG, "relays have %zu hops more than the single shots", x->n_hops - next);
    return MP_OK;
}

enum mp_status script_nodes(struct ex_script *s, const struct ex_script_request *q, struct mp_error *err) {
    struct nodes x = {.s = s, .q = q};
    const size_t n = q->flows->n;
    enum mp_status status = MP_OK;
    uint64_t *turned = NULL;
    x.position_of = mp_calloc((size_t)q->order->n_stages + 2, sizeof *x.position_of);
    x.inside_sent = mp_calloc(n * n, sizeof *x.inside_sent);
    turned = mp_calloc(n * n, sizeof *turned);
    if (x.position_of == NULL || x.inside_sent == NULL || turned == NULL) {
        status = mp_nomem(err, "a script");
        goto out;
    }
    memset(x.position_of, 0xFF, ((size_t)q->order->n_stages + 2) * sizeof *x.position_of);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            turned[i * n + j] = q->flows->bytes[q->way == MP_COMBINE_FORWARD ? i * n + j : j * n + i];
    s->mode = MP_STAGE_BARRIER;
    MP_TRY(mp_nodes_shots(q->order, q->topology, q->way, q->flows->bytes, keep_shot, &x, err));
    MP_TRY(mp_nodes_relays(q->order, q->topology, turned, keep_relays, &x, err));
    MP_TRY(make_hops(&x, err));
    if (x.n_shots > 0)
        qsort(x.shots, x.n_shots, sizeof *x.shots, shots_in_time);
    status = make_messages(&x, err);
out:
    mp_free(turned);
    mp_free(x.relays);
    mp_free(x.hops);
    mp_free(x.shots);
    mp_free(x.position_of);
    mp_free(x.inside_sent);
    return status;
}
