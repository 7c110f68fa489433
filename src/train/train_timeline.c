/* Runs a training step: every rank's computation in program order, all-to-alls in program order, allreduces when the
 * policy lets them.
 *
 * Decides    nothing: plays a policy.
 * Method     A rank's computation is a list of tasks; a task may wait for a chunk of an all-to-all and may complete
 *            chunks of one. Ranks run ahead as far as what has arrived lets them, so the moments at which the next
 *            all-to-all and the next gradients are ready are known before the network gets there. The network goes from
 *            event to event: a chunk ends, or something becomes ready. Chunks on their way are never interrupted. Two
 *            that travel beside each other share every port that both use: each gets half of it, or what the other
 *            leaves.
 * Paper      Lina (USENIX ATC'23, arXiv 2210.17223), sections 2.2 and 4.
 * Differs    All ranks begin a collective together, when the last has come: collectives come in the same order on all
 *            ranks, where Lina's queues are local and have to agree. A rank goes on when its own part has come.
 * Cost       O(chunks * (ranks + layers)). */
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/limits.h>
#include <moeplan/train.h>
#include <inttypes.h>
#include <string.h>

#define MOST_CHUNKS 16000000u /* times ranks */
#define FULL 1000000u         /* ppm */
#define MOST_NS (UINT64_C(1) << 43)
#define UNKNOWN UINT64_MAX

struct task { /* the same on all ranks */
    enum mp_train_what what;
    uint32_t layer, piece, n_pieces;
    uint32_t waits;              /* chunk; MP_NONE = for nothing */
    uint32_t signals, n_signals; /* chunks that it is one condition of */
    const uint64_t *ns;          /* [n_ranks], of all pieces; NULL = none */
    uint32_t bucket;             /* gradients that it is one condition of; MP_NONE = none */
};

struct chunk { /* of an all-to-all, in the order of the program */
    uint64_t ns, ready_ns;
    uint64_t near_ns; /* since when it is near: the earliest start of the combine's computation before it */
    uint32_t n_waiting, layer, index;
    enum mp_train_a2a a2a;
};

struct bucket { /* gradients that travel as one tensor */
    uint64_t ns, bytes, ready_ns;
    uint32_t n_waiting;   /* (rank, layer)s whose gradient is not there yet */
    uint32_t first, last; /* layers */
    uint32_t n_chunks, n_begun;
    bool is_experts;
};

struct flight { /* what travels */
    bool is_on_its_way;
    uint32_t index, part; /* chunk; or bucket and which chunk of it */
    uint64_t work, left;  /* ns * FULL */
    uint64_t ahead;       /* of the work: before the first byte */
    uint64_t start_ns;
    const struct mp_train_transfer *transfer;
};

struct run {
    const struct mp_train_step *s;
    const struct mp_train_policy *p;
    struct task *tasks;
    struct chunk *chunks;
    struct bucket *buckets;
    uint32_t n_tasks, n_chunks, n_buckets, n_begun, n_ended; /* begun and ended: chunks, in their order */
    uint64_t *clock, *busy;                                  /* [n_ranks] */
    uint32_t *next;                                          /* [n_ranks] task */
    uint64_t *came;                                          /* [n_chunks][n_ranks] */
    struct flight a2a, reduce;
    uint64_t now, a2a_end;
    struct mp_train_timeline *out;
    size_t n_events_allocated;
    bool with_events, is_unlisted; /* gradients that no bucket of the policy's list is of */
    struct mp_arena *arena;
};

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t n_pieces(uint64_t bytes, uint64_t chunk_bytes) {
    return chunk_bytes == 0 || bytes <= chunk_bytes ? 1 : mp_ceil_div(bytes, chunk_bytes);
}

/* Piece i of n of x. */
static uint64_t piece(uint64_t x, uint64_t i, uint64_t n) { return mp_mul_div(x, i + 1, n) - mp_mul_div(x, i, n); }

/* What chunk i of n takes alone. */
static uint64_t chunk_ns(const struct mp_train_step *s, uint64_t ns, uint64_t i, uint64_t n) {
    return ns == 0 ? 0 : add(piece(ns, i, n), s->launch_ns + (n > 1 && i == 0 ? s->split_ns : 0));
}

/* ---- the program ---- */

static struct task *task(struct run *r, enum mp_train_what what, uint32_t layer, const uint64_t *ns) {
    struct task *t = &r->tasks[r->n_tasks++];
    *t = (struct task){.what = what, .layer = layer, .n_pieces = 1, .waits = MP_NONE, .ns = ns, .bucket = MP_NONE};
    return t;
}

static uint32_t chunks_of(const struct run *r, uint32_t layer, enum mp_train_a2a a2a) {
    return (uint32_t)n_pieces(r->s->layers[layer].a2a[a2a].bytes, r->p->a2a_chunk_bytes);
}

/* n chunks of an all-to-all; `before` is a condition of all of them. */
static uint32_t chunks(struct run *r, struct task *before, uint32_t layer, enum mp_train_a2a a2a, uint32_t n) {
    uint32_t first = r->n_chunks;
    for (uint32_t i = 0; i < n; i++)
        r->chunks[r->n_chunks++] = (struct chunk){.ns = chunk_ns(r->s, r->s->layers[layer].a2a[a2a].ns, i, n),
                                                  .near_ns = UNKNOWN,
                                                  .n_waiting = r->s->n_ranks,
                                                  .layer = layer,
                                                  .index = i,
                                                  .a2a = a2a};
    if (before != NULL) {
        before->signals = first;
        before->n_signals = n;
    }
    return first;
}

/* All-to-all, experts, all-to-all: in pieces where they are pipelined. Returns the last chunk of the second. */
static uint32_t there_and_back(struct run *r, struct task *before, uint32_t layer, enum mp_train_a2a there,
                               enum mp_train_what what, const uint64_t *ns, enum mp_train_a2a back) {
    uint32_t n_there = chunks_of(r, layer, there), first = chunks(r, before, layer, there, n_there);
    uint32_t n = r->p->is_pipelined ? n_there : 1, n_back = r->p->is_pipelined ? n : chunks_of(r, layer, back);
    for (uint32_t i = 0; i < n; i++) {
        struct task *t = task(r, what, layer, ns);
        t->piece = i;
        t->n_pieces = n;
        t->waits = first + (n == 1 ? n_there - 1 : i);
        t->signals = first + n_there + i;
        t->n_signals = n == 1 ? n_back : 1;
    }
    return chunks(r, NULL, layer, back, n_back) + n_back - 1;
}

/* The bucket of the layer's gradients of one kind: among those listed, or the open one. MP_NONE = none is listed. */
static uint32_t bucket_of(struct run *r, uint32_t layer, bool is_experts, uint32_t *open) {
    if (r->p->buckets == NULL) {
        if (*open == MP_NONE) {
            *open = r->n_buckets++;
            r->buckets[*open] = (struct bucket){.is_experts = is_experts};
        }
        return *open;
    }
    for (uint32_t i = 0; i < r->p->n_buckets; i++) {
        const struct mp_train_bucket *b = &r->p->buckets[i];
        if (b->is_experts == is_experts && b->first_layer <= layer && layer <= b->last_layer)
            return i;
    }
    r->is_unlisted = true;
    return MP_NONE;
}

/* The layer's gradients of one kind become ready when `t` has ended. A bucket is closed when it is large enough. */
static void gradients(struct run *r, struct task *t, const struct mp_train_transfer *x, uint32_t layer, bool is_experts,
                      uint32_t *open) {
    if (x->ns == 0 || (t->bucket = bucket_of(r, layer, is_experts, open)) == MP_NONE)
        return;
    struct bucket *b = &r->buckets[t->bucket];
    if (b->n_waiting == 0)
        b->last = layer;
    b->first = layer;
    b->ns = add(b->ns, x->ns);
    b->bytes = add(b->bytes, x->bytes);
    b->n_waiting += r->s->n_ranks;
    if (b->bytes >= r->p->bucket_bytes || b->ns > MOST_NS / 2)
        *open = MP_NONE;
}

static void program(struct run *r) {
    const struct mp_train_step *s = r->s;
    uint32_t open = MP_NONE, open_experts = MP_NONE;
    for (uint32_t i = 0; i < r->p->n_buckets && r->p->buckets != NULL; i++)
        r->buckets[r->n_buckets++] = (struct bucket){.is_experts = r->p->buckets[i].is_experts};
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct mp_train_layer *x = &s->layers[l];
        struct task *t = task(r, MP_TRAIN_ATTENTION, l, x->attention_ns);
        uint32_t last = there_and_back(r, t, l, MP_TRAIN_DISPATCH, MP_TRAIN_EXPERTS, x->expert_ns, MP_TRAIN_COMBINE);
        task(r, MP_TRAIN_WEIGHTING, l, x->combine_ns)->waits = last;
    }
    task(r, MP_TRAIN_LOSS, s->n_layers - 1, NULL);
    for (uint32_t l = s->n_layers; l-- > 0;) {
        const struct mp_train_layer *x = &s->layers[l];
        struct task *t = task(r, MP_TRAIN_WEIGHTING_BACK, l, x->combine_back_ns);
        uint32_t last = there_and_back(r, t, l, MP_TRAIN_COMBINE_BACK, MP_TRAIN_EXPERTS_BACK, x->expert_back_ns,
                                       MP_TRAIN_DISPATCH_BACK);
        gradients(r, &r->tasks[r->n_tasks - 1], &x->expert_reduce, l, true, &open_experts);
        t = task(r, MP_TRAIN_ATTENTION_BACK, l, x->attention_back_ns);
        t->waits = last;
        gradients(r, t, &x->reduce, l, false, &open);
    }
    for (uint32_t b = 0; b < r->n_buckets; b++)
        r->buckets[b].n_chunks =
            r->buckets[b].ns == 0 ? 0 : (uint32_t)n_pieces(r->buckets[b].bytes, r->p->reduce_chunk_bytes);
}

/* ---- ranks ---- */

static enum mp_status log_event(struct run *r, struct mp_train_event event, struct mp_error *err) {
    if (!r->with_events)
        return MP_OK;
    if (r->out->n_events == r->n_events_allocated) {
        size_t n = 2 * r->n_events_allocated + 256;
        struct mp_train_event *grown = mp_realloc(r->out->events, n, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "the timeline");
        r->out->events = grown;
        r->n_events_allocated = n;
    }
    r->out->events[r->out->n_events++] = event;
    return MP_OK;
}

static uint64_t task_ns(const struct run *r, const struct task *t, uint32_t rank) {
    if (t->what == MP_TRAIN_LOSS)
        return r->s->loss_ns;
    if (t->ns == NULL)
        return 0;
    uint64_t ns = t->ns[rank], again = ns < r->s->kernel_ns ? ns : r->s->kernel_ns;
    return t->n_pieces == 1 ? ns : again + piece(ns - again, t->piece, t->n_pieces);
}

/* Every rank as far as it gets. */
static enum mp_status advance(struct run *r, struct mp_error *err) {
    for (uint32_t rank = 0; rank < r->s->n_ranks; rank++) {
        for (; r->next[rank] < r->n_tasks; r->next[rank]++) {
            const struct task *t = &r->tasks[r->next[rank]];
            uint64_t start = r->clock[rank], ns = task_ns(r, t, rank);
            if (t->waits != MP_NONE) {
                if (t->waits >= r->n_ended)
                    break;
                uint64_t came = r->came[(size_t)t->waits * r->s->n_ranks + rank];
                start = came > start ? came : start;
            }
            uint64_t end = r->clock[rank] = add(start, ns);
            r->busy[rank] = add(r->busy[rank], ns);
            for (uint32_t i = 0; i < t->n_signals; i++) {
                struct chunk *c = &r->chunks[t->signals + i];
                c->ready_ns = end > c->ready_ns ? end : c->ready_ns;
                c->n_waiting--;
                if (t->what == MP_TRAIN_WEIGHTING_BACK && start < c->near_ns)
                    c->near_ns = start;
            }
            if (t->bucket != MP_NONE) {
                struct bucket *b = &r->buckets[t->bucket];
                b->ready_ns = end > b->ready_ns ? end : b->ready_ns;
                b->n_waiting--;
            }
            if (t->what == MP_TRAIN_LOSS && start > r->out->forward_ns)
                r->out->forward_ns = start;
            struct mp_train_event event = {t->what, rank, t->layer, t->piece, 0, start, start, end};
            enum mp_status status = ns == 0 ? MP_OK : log_event(r, event, err);
            if (status != MP_OK)
                return status;
        }
    }
    return MP_OK;
}

/* ---- the network ---- */

static const struct chunk *head(const struct run *r) {
    return r->n_begun < r->n_chunks ? &r->chunks[r->n_begun] : NULL;
}

static uint64_t bucket_chunk_ns(const struct run *r, const struct bucket *b) {
    return chunk_ns(r->s, b->ns, b->n_begun, b->n_chunks);
}

/* The gradients to go on with, or MP_NONE; *next_ns: when others will be ready. */
static uint32_t first_bucket(const struct run *r, uint64_t *next_ns) {
    uint32_t best = MP_NONE;
    *next_ns = UNKNOWN;
    for (uint32_t i = 0; i < r->n_buckets; i++) {
        const struct bucket *b = &r->buckets[i], *c = best == MP_NONE ? NULL : &r->buckets[best];
        if (b->n_waiting > 0 || b->n_begun == b->n_chunks)
            continue;
        if (b->ready_ns > r->now) {
            *next_ns = b->ready_ns < *next_ns ? b->ready_ns : *next_ns;
            continue;
        }
        if (c == NULL || (r->p->order == MP_TRAIN_FIRST_READY && b->ready_ns < c->ready_ns) ||
            (r->p->order == MP_TRAIN_FIRST_NEEDED && b->first < c->first) ||
            (r->p->order == MP_TRAIN_SHORTEST && mp_mul_div(b->ns, b->n_chunks - b->n_begun, b->n_chunks) <
                                                     mp_mul_div(c->ns, c->n_chunks - c->n_begun, c->n_chunks)))
            best = i;
    }
    return best;
}

static bool may_reduce(const struct run *r, const struct bucket *b) {
    const struct chunk *c = head(r);
    if (r->p->is_shared || (c == NULL && !r->a2a.is_on_its_way))
        return true;
    switch (r->p->guard) {
    case MP_TRAIN_GUARD_NONE:
        return true;
    case MP_TRAIN_GUARD_NEAR:
        return c == NULL || c->near_ns > r->now;
    case MP_TRAIN_GUARD_FITS:
        return c != NULL && c->n_waiting == 0 && add(r->now, bucket_chunk_ns(r, b)) <= c->ready_ns;
    default:
        return false;
    }
}

static void begin(struct flight *f, uint32_t index, uint32_t part, uint64_t ns, uint64_t ahead_ns,
                  const struct mp_train_transfer *transfer, uint64_t now) {
    *f = (struct flight){.is_on_its_way = true,
                         .index = index,
                         .part = part,
                         .work = ns * FULL,
                         .left = ns * FULL,
                         .ahead = (ahead_ns < ns ? ahead_ns : ns) * FULL,
                         .start_ns = now,
                         .transfer = transfer};
}

/* Begins what may begin now; returns when something else may. */
static uint64_t begin_all(struct run *r) {
    uint64_t next_ns = UNKNOWN, gradients_ns;
    const struct chunk *c = head(r);
    if (!r->a2a.is_on_its_way && c != NULL && c->n_waiting == 0) {
        if (c->ready_ns > r->now)
            next_ns = c->ready_ns;
        else if (r->p->is_shared || !r->reduce.is_on_its_way)
            begin(&r->a2a, r->n_begun++, c->index, c->ns, r->s->launch_ns, &r->s->layers[c->layer].a2a[c->a2a], r->now);
    }
    if (!r->reduce.is_on_its_way && (r->p->is_shared || !r->a2a.is_on_its_way)) {
        uint32_t i = first_bucket(r, &gradients_ns);
        next_ns = gradients_ns < next_ns ? gradients_ns : next_ns;
        if (i != MP_NONE && may_reduce(r, &r->buckets[i])) {
            struct bucket *b = &r->buckets[i];
            const struct mp_train_layer *x = &r->s->layers[b->first];
            uint64_t ns = bucket_chunk_ns(r, b);
            begin(&r->reduce, i, b->n_begun++, ns, r->s->launch_ns, b->is_experts ? &x->expert_reduce : &x->reduce,
                  r->now);
        }
    }
    return next_ns;
}

/* How fast a transfer is that fills `own` of its ports alone, beside one that fills `other`, in ppm. */
static uint64_t rate_beside(const uint32_t *own, const uint32_t *other, uint32_t n_ports) {
    uint64_t rate = FULL;
    for (uint32_t p = 0; p < n_ports || (p == 0 && (own == NULL || other == NULL)); p++) {
        uint64_t a = own == NULL ? FULL : own[p], b = other == NULL ? FULL : other[p];
        if (a == 0 || a + b <= FULL)
            continue;
        uint64_t part = b < FULL / 2 ? FULL - b : FULL / 2;
        if (part < a && part * FULL / a < rate)
            rate = part * FULL / a;
    }
    return rate;
}

/* When each rank has its part of the chunk that goes on at this rate from r->now to `to`. */
static void arrive(struct run *r, const struct flight *f, uint64_t rate, uint64_t to) {
    uint64_t done = f->work - f->left, *came = r->came + (size_t)f->index * r->s->n_ranks;
    for (uint32_t rank = 0; rank < r->s->n_ranks; rank++) {
        if (came[rank] != UNKNOWN)
            continue;
        uint64_t ppm = f->transfer->end_ppm == NULL ? FULL : f->transfer->end_ppm[rank];
        uint64_t need = f->ahead + mp_mul_div_ceil(f->work - f->ahead, ppm, FULL);
        uint64_t at = need <= done ? r->now : r->now + mp_ceil_div(need - done, rate);
        if (at <= to)
            came[rank] = at;
    }
}

static void go_on(struct flight *f, uint64_t ns, uint64_t rate) {
    uint64_t done = ns * rate; /* at most left + rate */
    f->left = done < f->left ? f->left - done : 0;
}

static enum mp_status end_chunk(struct run *r, struct mp_error *err) {
    const struct chunk *c = &r->chunks[r->a2a.index];
    uint64_t from = c->ready_ns > r->a2a_end ? c->ready_ns : r->a2a_end;
    r->a2a.is_on_its_way = false;
    r->n_ended++;
    r->out->a2a_ns = add(r->out->a2a_ns, r->now - from);
    r->a2a_end = r->now;
    enum mp_status status = c->ns == 0
                                ? MP_OK
                                : log_event(r,
                                            (struct mp_train_event){MP_TRAIN_A2A, MP_NONE, c->layer, c->index, c->a2a,
                                                                    c->ready_ns, r->a2a.start_ns, r->now},
                                            err);
    return status == MP_OK ? advance(r, err) : status;
}

static enum mp_status end_reduce(struct run *r, struct mp_error *err) {
    const struct bucket *b = &r->buckets[r->reduce.index];
    r->reduce.is_on_its_way = false;
    r->out->reduce_ns = r->now;
    for (uint32_t l = b->first; l <= b->last && r->reduce.part + 1 == b->n_chunks && !b->is_experts; l++)
        if (r->s->layers[l].reduce.ns > 0)
            r->out->reduced_ns[l] = r->now;
    return log_event(r,
                     (struct mp_train_event){b->is_experts ? MP_TRAIN_EXPERT_REDUCE : MP_TRAIN_REDUCE, MP_NONE,
                                             b->first, r->reduce.part, 0, b->ready_ns, r->reduce.start_ns, r->now},
                     err);
}

static enum mp_status run(struct run *r, struct mp_error *err) {
    enum mp_status status = advance(r, err);
    while (status == MP_OK) {
        uint64_t to = begin_all(r), a2a_rate = FULL, reduce_rate = FULL;
        if (r->a2a.is_on_its_way && r->reduce.is_on_its_way) {
            const uint32_t *a = r->a2a.transfer->load_ppm, *b = r->reduce.transfer->load_ppm;
            a2a_rate = rate_beside(a, b, r->s->n_ports);
            reduce_rate = rate_beside(b, a, r->s->n_ports);
        }
        uint64_t a2a_to = r->a2a.is_on_its_way ? add(r->now, mp_ceil_div(r->a2a.left, a2a_rate)) : UNKNOWN;
        uint64_t reduce_to = r->reduce.is_on_its_way ? add(r->now, mp_ceil_div(r->reduce.left, reduce_rate)) : UNKNOWN;
        to = a2a_to < to ? a2a_to : to;
        to = reduce_to < to ? reduce_to : to;
        if (to == UNKNOWN)
            break;
        if (r->a2a.is_on_its_way) {
            arrive(r, &r->a2a, a2a_rate, to);
            go_on(&r->a2a, to - r->now, a2a_rate);
        }
        if (r->reduce.is_on_its_way)
            go_on(&r->reduce, to - r->now, reduce_rate);
        r->now = to;
        if (a2a_to == to)
            status = end_chunk(r, err);
        if (reduce_to == to && status == MP_OK)
            status = end_reduce(r, err);
    }
    for (uint32_t i = 0; i < r->n_buckets && status == MP_OK; i++)
        if (r->buckets[i].n_begun < r->buckets[i].n_chunks)
            status = mp_fail(err, MP_EBUG, "gradients of layer %u were never sent", r->buckets[i].first);
    if (status == MP_OK && r->n_ended < r->n_chunks)
        status = mp_fail(err, MP_EBUG, "chunk %u of all-to-alls was never sent", r->n_ended);
    return status;
}

/* ---- begin and end ---- */

enum mp_status mp_train_buckets(const struct mp_train_bucket **out, uint32_t *n, const struct mp_train_step *step,
                                uint64_t bucket_bytes, struct mp_arena *arena, struct mp_error *err) {
    struct mp_train_bucket *b = mp_arena_alloc(arena, 2 * (size_t)step->n_layers + 1, sizeof *b);
    uint64_t ns[2] = {0};
    uint32_t open[2] = {MP_NONE, MP_NONE};
    *out = b;
    *n = 0;
    if (b == NULL)
        return mp_nomem(err, "buckets of gradients");
    for (uint32_t l = step->n_layers; l-- > 0;)
        for (uint32_t common = 0; common < 2; common++) { /* gradients() for the same moments */
            const struct mp_train_transfer *x = common ? &step->layers[l].reduce : &step->layers[l].expert_reduce;
            if (x->ns == 0)
                continue;
            if (open[common] == MP_NONE) {
                open[common] = (*n)++;
                ns[common] = 0;
                b[open[common]] = (struct mp_train_bucket){.is_experts = common == 0, .last_layer = l};
            }
            struct mp_train_bucket *own = &b[open[common]];
            own->first_layer = l;
            own->bytes = add(own->bytes, x->bytes);
            ns[common] = add(ns[common], x->ns);
            if (own->bytes >= bucket_bytes || ns[common] > MOST_NS / 2)
                open[common] = MP_NONE;
        }
    return MP_OK;
}

/* No part is past MOST_NS, so that it fits FULL times. */
static enum mp_status check_times(const struct mp_train_step *s, struct mp_error *err) {
    const uint64_t most = MOST_NS;
    bool fits = s->launch_ns <= most && s->split_ns <= most && s->loss_ns <= most && s->update_ns <= most;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct mp_train_layer *x = &s->layers[l];
        const uint64_t *ns[] = {x->attention_ns,    x->expert_ns,      x->combine_ns,
                                x->combine_back_ns, x->expert_back_ns, x->attention_back_ns};
        fits = fits && x->reduce.ns <= most && x->expert_reduce.ns <= most;
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            fits = fits && x->a2a[i].ns <= most;
        for (uint32_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
            for (uint32_t rank = 0; rank < s->n_ranks && ns[i] != NULL; rank++)
                fits = fits && ns[i][rank] <= most;
    }
    return fits ? MP_OK : mp_fail(err, MP_EUSAGE, "a part of a training step takes more than two hours");
}

/* Room for everything that is made. */
static enum mp_status make(struct run *r, struct mp_error *err) {
    const struct mp_train_step *s = r->s;
    uint64_t n_chunks = 0, n_tasks = 1, n_reduced = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct mp_train_transfer *x = s->layers[l].a2a;
        uint64_t n[MP_TRAIN_N_A2A];
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            n[i] = n_pieces(x[i].bytes, r->p->a2a_chunk_bytes);
        uint64_t there = add(n[MP_TRAIN_DISPATCH], n[MP_TRAIN_COMBINE_BACK]);
        n_chunks = add(n_chunks, r->p->is_pipelined ? add(there, there)
                                                    : add(there, add(n[MP_TRAIN_COMBINE], n[MP_TRAIN_DISPATCH_BACK])));
        n_tasks = add(n_tasks, 4 + (r->p->is_pipelined ? there : 2));
        n_reduced = add(n_reduced, add(n_pieces(s->layers[l].reduce.bytes, r->p->reduce_chunk_bytes),
                                       n_pieces(s->layers[l].expert_reduce.bytes, r->p->reduce_chunk_bytes)));
    }
    if (n_chunks > MOST_CHUNKS / s->n_ranks || n_reduced > MOST_CHUNKS)
        return mp_fail(err, MP_EUSAGE, "chunks of %" PRIu64 " and %" PRIu64 " bytes are too many (write larger ones)",
                       r->p->a2a_chunk_bytes, r->p->reduce_chunk_bytes);
    r->tasks = mp_arena_alloc(r->arena, n_tasks, sizeof *r->tasks);
    r->chunks = mp_arena_alloc(r->arena, n_chunks, sizeof *r->chunks);
    const size_t n_listed = r->p->buckets == NULL ? 0 : r->p->n_buckets;
    r->buckets = mp_arena_alloc(r->arena, 2 * (size_t)s->n_layers + n_listed, sizeof *r->buckets);
    r->clock = mp_arena_alloc(r->arena, s->n_ranks, sizeof *r->clock);
    r->busy = mp_arena_alloc(r->arena, s->n_ranks, sizeof *r->busy);
    r->next = mp_arena_alloc(r->arena, s->n_ranks, sizeof *r->next);
    r->came = mp_arena_alloc(r->arena, n_chunks * s->n_ranks, sizeof *r->came);
    r->out->reduced_ns = mp_calloc(s->n_layers, sizeof *r->out->reduced_ns);
    if (r->tasks == NULL || r->chunks == NULL || r->buckets == NULL || r->clock == NULL || r->busy == NULL ||
        r->next == NULL || r->came == NULL || r->out->reduced_ns == NULL)
        return mp_nomem(err, "a training step");
    memset(r->came, 0xff, n_chunks * s->n_ranks * sizeof *r->came);
    return MP_OK;
}

static void sums(struct run *r) {
    struct mp_train_timeline *o = r->out;
    uint64_t blocked = 0;
    for (uint32_t rank = 0; rank < r->s->n_ranks; rank++) {
        o->backward_ns = r->clock[rank] > o->backward_ns ? r->clock[rank] : o->backward_ns;
        o->compute_ns = r->busy[rank] > o->compute_ns ? r->busy[rank] : o->compute_ns;
        blocked = add(blocked, r->clock[rank] - r->busy[rank]);
    }
    o->blocked_ns = blocked / r->s->n_ranks;
    for (uint32_t l = 0; l < r->s->n_layers; l++)
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            o->a2a_alone_ns = add(o->a2a_alone_ns, chunk_ns(r->s, r->s->layers[l].a2a[i].ns, 0, 1));
    o->step_ns = add(o->backward_ns > o->reduce_ns ? o->backward_ns : o->reduce_ns, r->s->update_ns);
}

enum mp_status mp_train_run(struct mp_train_timeline *out, const struct mp_train_step *step,
                            const struct mp_train_policy *policy, bool with_events, struct mp_error *err) {
    *out = (struct mp_train_timeline){0};
    if (step->n_ranks == 0 || step->n_layers == 0)
        return mp_fail(err, MP_EUSAGE, "a training step needs ranks and layers");
    enum mp_status status = check_times(step, err);
    if (status != MP_OK)
        return status;
    struct run r = {.s = step, .p = policy, .out = out, .with_events = with_events, .arena = mp_arena_new()};
    status = r.arena == NULL ? mp_nomem(err, "a training step") : make(&r, err);
    if (status == MP_OK) {
        program(&r);
        status = r.is_unlisted ? mp_fail(err, MP_EUSAGE, "the policy's buckets leave out gradients of the step")
                               : run(&r, err);
    }
    if (status == MP_OK)
        sums(&r);
    else
        mp_train_timeline_free(out);
    mp_arena_free(r.arena);
    return status;
}

void mp_train_timeline_free(struct mp_train_timeline *t) {
    mp_free(t->events);
    mp_free(t->reduced_ns);
    *t = (struct mp_train_timeline){0};
}
