/* Rings. See sum.h. */
#include "sum.h"
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

enum { SLICES = 4, SLICE_BYTES = 32 * 1024 /* least piece of one */ };

const char *ex_sum_name(const struct ex_sum *s, char *buf, size_t size) {
    snprintf(buf, size, "allreduce of step %u, chunk %u of the %sgradients from layer %u on", s->step, s->chunk,
             s->is_experts ? "experts' " : "", s->layer_id);
    return buf;
}

void ex_sum_add(uint8_t *to, const uint8_t *from, uint64_t n) {
    for (uint64_t at = 0; at < n; at += 8) {
        uint64_t a, b;
        memcpy(&a, to + at, 8);
        memcpy(&b, from + at, 8);
        a += b;
        memcpy(to + at, &a, 8);
    }
}

/* How a span's members stand: `inner` ranks in each of `outer` nodes, node by node; flat rings have one node. */
struct shape {
    uint32_t inner, outer, place; /* place: of this rank among the members */
};

struct range { /* words of a span */
    uint64_t from, to;
};
static struct range cut(struct range r, uint64_t i, uint64_t n) {
    const uint64_t words = r.to - r.from;
    return (struct range){r.from + mp_mul_div(words, i, n), r.from + mp_mul_div(words, i + 1, n)};
}

static struct shape shape_of(const struct ex_span *s, uint32_t rank, const struct mp_topology *t) {
    struct shape out = {.inner = s->n_members, .outer = 1};
    const uint32_t n_nodes = mp_topology_n_nodes(t), size = t->n_gpus / n_nodes;
    bool is_even = s->n_members == t->n_gpus && t->n_gpus % n_nodes == 0 && n_nodes > 1 && size > 1;
    for (uint32_t i = 0; i < s->n_members; i++) {
        if (s->members[i] == rank)
            out.place = i;
        is_even = is_even && mp_topology_node(t, i) == i / size;
    }
    if (is_even) {
        out.inner = size;
        out.outer = n_nodes;
    }
    return out;
}

static uint32_t n_rounds(const struct shape *s) { return 2 * (s->inner - 1) + 2 * (s->outer - 1); }

static uint32_t n_slices(const struct ex_span *s) {
    const uint64_t most = s->bytes / s->n_members / SLICE_BYTES;
    return most < 1 ? 1 : most < SLICES ? (uint32_t)most : SLICES;
}

/* The pieces that go out and come in in a round. */
struct turn {
    uint32_t to, from; /* places */
    struct range out, in;
    bool adds;
};
/* Round t of a ring of n in which this rank stands at `place`: in n - 1 rounds pieces are added up, in as many more all
 * get the sums. */
static struct turn ring_turn(struct range all, uint32_t place, uint32_t n, uint32_t t) {
    const uint32_t out = (place + 2 * n - t) % n, in = (out + n - 1) % n;
    return (struct turn){(place + 1) % n, (place + n - 1) % n, cut(all, out, n), cut(all, in, n), t < n - 1};
}

/* Round t of a slice; what turn says of places becomes places among the members. */
static struct turn turn_of(const struct shape *s, struct range slice, uint32_t t) {
    const uint32_t index = s->place % s->inner, node = s->place / s->inner, first = s->inner - 1,
                   between = 2 * (s->outer - 1);
    struct turn turn;
    if (t >= first && t < first + between) {
        const struct range own = cut(slice, (index + 1) % s->inner, s->inner); /* what this index has summed */
        turn = ring_turn(s->inner == 1 ? slice : own, node, s->outer, t - first);
        turn.to = turn.to * s->inner + index;
        turn.from = turn.from * s->inner + index;
        return turn;
    }
    turn = ring_turn(slice, index, s->inner, t < first ? t : t - between);
    turn.to += node * s->inner;
    turn.from += node * s->inner;
    return turn;
}

static struct ex_move move_of(const struct ex_span *s, uint32_t place, struct range r) {
    return (struct ex_move){
        .peer = s->members[place], .needs = MP_NONE, .at = s->at + r.from * 8, .bytes = (r.to - r.from) * 8};
}

enum mp_status ex_ring_new(struct ex_ring **out, const struct ex_sum *sum, uint32_t rank, const struct mp_topology *t,
                           struct mp_error *err) {
    *out = NULL;
    struct ex_ring *r = mp_calloc(1, sizeof *r);
    struct shape *shapes = mp_calloc(sum->n_spans, sizeof *shapes);
    uint32_t *last = mp_calloc(sum->n_spans * SLICES, sizeof *last); /* the receive before, of each span and slice */
    uint64_t n = 0, n_keys = 0;
    enum mp_status status = MP_OK;
    for (size_t i = 0; i < sum->n_spans && shapes != NULL; i++) {
        shapes[i] = shape_of(&sum->spans[i], rank, t);
        n += (uint64_t)n_rounds(&shapes[i]) * n_slices(&sum->spans[i]);
        n_keys = n_rounds(&shapes[i]) > n_keys ? n_rounds(&shapes[i]) : n_keys;
    }
    if (r == NULL || shapes == NULL || last == NULL || (r->sends = mp_calloc(n, sizeof *r->sends)) == NULL ||
        (r->receives = mp_calloc(n, sizeof *r->receives)) == NULL) {
        status = mp_nomem(err, "sums of gradients");
        goto out;
    }
    memset(last, 0xff, sum->n_spans * SLICES * sizeof *last);
    for (uint64_t key = 0; key < n_keys + SLICES - 1; key++)
        for (uint32_t slice = 0; slice < SLICES && slice <= key; slice++)
            for (size_t i = 0; i < sum->n_spans; i++) {
                const struct ex_span *s = &sum->spans[i];
                const uint32_t slices = n_slices(s);
                if (slice >= slices || key - slice >= n_rounds(&shapes[i]))
                    continue;
                const struct turn turn =
                    turn_of(&shapes[i], cut((struct range){0, s->bytes / 8}, slice, slices), (uint32_t)(key - slice));
                uint32_t *before = &last[i * SLICES + slice];
                r->sends[r->n_sends] = move_of(s, turn.to, turn.out);
                r->sends[r->n_sends].needs = *before;
                r->n_sends += r->sends[r->n_sends].bytes > 0;
                r->receives[r->n_receives] = move_of(s, turn.from, turn.in);
                r->receives[r->n_receives].adds = turn.adds;
                if (r->receives[r->n_receives].bytes > 0)
                    *before = (uint32_t)r->n_receives++;
            }
out:
    mp_free(shapes);
    mp_free(last);
    if (status != MP_OK)
        ex_ring_free(r);
    else
        *out = r;
    return status;
}

void ex_ring_free(struct ex_ring *r) {
    if (r == NULL)
        return;
    mp_free(r->sends);
    mp_free(r->receives);
    mp_free(r);
}

/* ---- the reference ---- */

static size_t next_of(const struct ex_move *moves, size_t n, size_t from, uint32_t peer) {
    while (from < n && moves[from].peer != peer)
        from++;
    return from;
}

/* Moves what the pair can move now. */
static enum mp_status move_pair(struct ex_ring *const *rings, uint8_t *const *blocks, uint8_t *const *is_in,
                                uint32_t src, uint32_t dst, size_t *send, size_t *receive, size_t *n_moved,
                                struct mp_error *err) {
    const struct ex_ring *a = rings[src], *b = rings[dst];
    for (; *send < a->n_sends; (*n_moved)++) {
        const struct ex_move *s = &a->sends[*send], *r = &b->receives[*receive];
        if (s->needs != MP_NONE && !is_in[src][s->needs])
            return MP_OK;
        if (*receive == b->n_receives)
            return mp_fail(err, MP_EBUG, "rank %u sends rank %u more than that expects", src, dst);
        if (s->bytes != r->bytes)
            return mp_fail(err, MP_EPEER, "allreduce: rank %u sends rank %u %llu bytes where %llu were agreed", src,
                           dst, (unsigned long long)s->bytes, (unsigned long long)r->bytes);
        if (r->adds)
            ex_sum_add(blocks[dst] + r->at, blocks[src] + s->at, s->bytes);
        else
            memcpy(blocks[dst] + r->at, blocks[src] + s->at, s->bytes);
        is_in[dst][*receive] = 1;
        *send = next_of(a->sends, a->n_sends, *send + 1, dst);
        *receive = next_of(b->receives, b->n_receives, *receive + 1, src);
    }
    return MP_OK;
}

enum mp_status ex_rings_carry_out(struct ex_ring *const *rings, uint8_t *const *blocks, uint32_t n,
                                  struct mp_error *err) {
    const size_t cells = (size_t)n * n;
    size_t *next = mp_calloc(2 * cells, sizeof *next), n_left = 0, n_moved = 1;
    uint8_t **is_in = mp_calloc(n, sizeof *is_in);
    enum mp_status status = next == NULL || is_in == NULL ? mp_nomem(err, "sums of gradients") : MP_OK;
    for (uint32_t r = 0; r < n && status == MP_OK; r++) {
        is_in[r] = mp_calloc(rings[r]->n_receives + 1, 1);
        if (is_in[r] == NULL)
            status = mp_nomem(err, "sums of gradients");
        n_left += rings[r]->n_sends;
        for (uint32_t k = 0; k < n; k++) {
            next[(size_t)r * n + k] = next_of(rings[r]->sends, rings[r]->n_sends, 0, k);
            next[cells + (size_t)k * n + r] = next_of(rings[r]->receives, rings[r]->n_receives, 0, k);
        }
    }
    while (n_left > 0 && n_moved > 0 && status == MP_OK) {
        n_moved = 0;
        for (size_t c = 0; c < cells && status == MP_OK; c++)
            status = move_pair(rings, blocks, is_in, (uint32_t)(c / n), (uint32_t)(c % n), &next[c], &next[cells + c],
                               &n_moved, err);
        n_left -= n_moved;
    }
    if (status == MP_OK && n_left > 0)
        status = mp_fail(err, MP_EBUG, "%zu messages of an allreduce wait for each other", n_left);
    for (uint32_t r = 0; is_in != NULL && r < n; r++)
        mp_free(is_in[r]);
    mp_free(is_in);
    mp_free(next);
    return status;
}
