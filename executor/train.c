/* A training step under a policy: a rank's all-to-alls in the order of the program, one after the other; its
 * computation as a clock that says until when it would compute, in which tokens are packed and checked; sums of
 * gradients beside all of that, begun when rank 0 says so. docs/EXECUTOR.md, "Training steps". */
#include "train.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct layer_of_step {
    struct ex_layer *way[2]; /* forward; backward, where activations have the bytes of answers */
    struct {
        uint32_t n;
        struct ex_piece **pieces;               /* [n]; NULL: whole, the way's own scripts */
        const struct ex_script *first, *second; /* whole: second NULL = one phase */
        struct ex_times **times;                /* [2 * n] */
    } a2a[MP_TRAIN_N_A2A];
};

struct play { /* one step under one policy, in this process */
    struct ex_training *t;
    const struct ex_beside *beside;
    const struct ex_program *p;
    const struct mp_exec_policy *policy;
    struct layer_of_step *layers;
    struct ex_gradients *gradients;
    uint32_t n_local, first_rank, n_ranks;

    /* While it runs. The lock is for transports that attend in a thread of their own. */
    pthread_mutex_t lock;
    struct ex_arbiter *arbiter; /* NULL: rank 0 is elsewhere */
    uint32_t serial;            /* of this play, so that no word of an earlier one counts */
    uint64_t origin_ns;
    uint32_t n_may, n_ended; /* chunks that may begin, that have ended here */
    uint64_t *clock_ns;      /* [n_local] until when a rank computes */
    uint64_t *ready_ns;      /* [n_local] when the last chunk signalled was ready */
    uint32_t *next;          /* [n_local] computation */
    uint64_t *came_ns;       /* [n_chunks][n_local] */
    uint64_t *chunk_ns;      /* [n_chunks][n_local] what they took */
    struct ex_sum **sums;    /* [n_local] at hand */
    bool is_summing;
    uint32_t bucket, chunk; /* of the sum at hand */
    uint32_t n_sums, n_sums_ended;
    uint64_t forward_ns, backward_ns, gradients_ns, end_ns, late_ns;
    uint64_t *reduced_ns; /* [n_layers] */
};

static uint64_t now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- making a step ---- */

static void free_layers(struct layer_of_step *layers, uint32_t n) {
    for (uint32_t l = 0; layers != NULL && l < n; l++) {
        for (int k = 0; k < MP_TRAIN_N_A2A; k++) {
            for (uint32_t i = 0; layers[l].a2a[k].pieces != NULL && i < layers[l].a2a[k].n; i++)
                ex_piece_free(layers[l].a2a[k].pieces[i]);
            for (uint32_t i = 0; layers[l].a2a[k].times != NULL && i < 2 * layers[l].a2a[k].n; i++)
                ex_times_free(layers[l].a2a[k].times[i]);
            mp_free(layers[l].a2a[k].pieces);
            mp_free(layers[l].a2a[k].times);
        }
        ex_layer_free(layers[l].way[0]);
        ex_layer_free(layers[l].way[1]);
    }
    mp_free(layers);
}

/* What the parts of a layer are called in the two directions. */
static enum ex_part part_of(enum mp_train_a2a a2a) {
    return a2a == MP_TRAIN_DISPATCH || a2a == MP_TRAIN_COMBINE_BACK ? EX_DISPATCH : EX_COMBINE;
}
static int way_of(enum mp_train_a2a a2a) { return a2a == MP_TRAIN_COMBINE_BACK || a2a == MP_TRAIN_DISPATCH_BACK; }

static const struct ex_script *script_of(const struct layer_of_step *l, enum mp_train_a2a a2a, uint32_t piece,
                                         bool is_second) {
    if (l->a2a[a2a].pieces != NULL)
        return is_second ? NULL : l->a2a[a2a].pieces[piece]->script;
    return is_second ? l->a2a[a2a].second : l->a2a[a2a].first;
}

static enum mp_status make_a2a(struct play *x, const struct mp_cost_setup *setup, uint32_t step, uint32_t layer,
                               enum mp_train_a2a a2a, uint32_t n, struct mp_error *err) {
    struct layer_of_step *l = &x->layers[layer];
    struct ex_layer *way = l->way[way_of(a2a)];
    const enum ex_part part = part_of(a2a), inside = part == EX_DISPATCH ? EX_DISPATCH_INSIDE : EX_COMBINE_INSIDE;
    enum mp_status status = MP_OK;
    l->a2a[a2a].n = n;
    l->a2a[a2a].times = mp_calloc(2 * (size_t)n, sizeof(struct ex_times *));
    if (l->a2a[a2a].times == NULL)
        return mp_nomem(err, "a training step");
    if (n == 1) { /* what gathers up comes first */
        struct ex_script *first = way->scripts[part], *second = way->scripts[inside];
        if (second != NULL && part == EX_COMBINE) {
            first = way->scripts[inside];
            second = way->scripts[part];
        }
        first->is_agreed = true;
        l->a2a[a2a].first = first;
        l->a2a[a2a].second = second;
    } else {
        l->a2a[a2a].pieces = mp_calloc(n, sizeof(struct ex_piece *));
        if (l->a2a[a2a].pieces == NULL)
            return mp_nomem(err, "a training step");
        for (uint32_t i = 0; i < n; i++) {
            MP_TRY(ex_piece_new(&l->a2a[a2a].pieces[i], way, setup, x->t->net, x->t->in->stage_mode,
                                &x->t->work->transport->limits, step, layer, part, i, n, err));
            l->a2a[a2a].pieces[i]->script->is_agreed = true;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            if (script_of(l, a2a, i, k) != NULL)
                MP_TRY(ex_times_new(&l->a2a[a2a].times[2 * i + (uint32_t)k], script_of(l, a2a, i, k), err));
out:
    return status;
}

/* setups: forward, backward. */
static enum mp_status make_layers(struct play *x, const struct mp_cost_setup setups[2], uint32_t step,
                                  struct mp_error *err) {
    const struct ex_work *w = x->t->work;
    const uint32_t n_layers = setups[0].plan->n_layers;
    enum mp_status status = MP_OK;
    x->layers = mp_calloc(n_layers, sizeof *x->layers);
    if (x->layers == NULL)
        return mp_nomem(err, "a training step");
    for (uint32_t l = 0; l < n_layers; l++)
        for (int way = 0; way < 2; way++) {
            MP_TRY(ex_layer_new(&x->layers[l].way[way], &setups[way], x->t->net, x->t->in->stage_mode,
                                &w->transport->limits, step, l, err));
            if (w->transport->pulse != NULL)
                MP_TRY(w->transport->pulse(w->link, err));
        }
    for (uint32_t c = 0; c < x->p->n_chunks; c++) {
        const struct ex_chunk *chunk = &x->p->chunks[c];
        if (chunk->piece == 0)
            MP_TRY(make_a2a(x, &setups[way_of(chunk->a2a)], step, chunk->layer, chunk->a2a, chunk->n_pieces, err));
    }
out:
    return status;
}

/* The sets of ranks that sum something together, each once. */
static enum mp_status prepare_sums(struct play *x, struct mp_error *err) {
    const struct ex_gradients *g = x->gradients;
    struct ex_span *sets = mp_calloc(g->n_vectors + 1, sizeof *sets);
    uint32_t n = 0;
    if (sets == NULL)
        return mp_nomem(err, "sums of gradients");
    for (size_t v = 0; v < g->n_vectors; v++) {
        const struct ex_vector *one = &g->vectors[v];
        uint32_t i = 0;
        while (i < n && (sets[i].n_members != one->n_members ||
                         memcmp(sets[i].members, one->members, one->n_members * sizeof *one->members) != 0))
            i++;
        if (i == n)
            sets[n++] = (struct ex_span){.n_members = one->n_members, .members = one->members};
    }
    enum mp_status status = x->beside->prepare(x->t->work->link, n, sets, err);
    mp_free(sets);
    return status;
}

/* Room for tokens, relays and, behind them, gradients; and what the transport does once for all scripts. */
static enum mp_status make_room(struct play *x, uint32_t n_layers, struct mp_error *err) {
    struct ex_work *w = x->t->work;
    uint64_t *most = mp_calloc(x->n_local, sizeof *most);
    const struct ex_script **all = mp_calloc(2 * (size_t)x->p->n_chunks, sizeof *all);
    size_t n = 0;
    enum mp_status status = MP_OK;
    if (most == NULL || all == NULL) {
        status = mp_nomem(err, "a training step");
        goto out;
    }
    for (uint32_t i = 0; i < x->n_local; i++)
        for (uint32_t l = 0; l < n_layers; l++)
            for (int way = 0; way < 2; way++) {
                const uint64_t used = x->layers[l].way[way]->used[x->first_rank + i];
                most[i] = used > most[i] ? used : most[i];
            }
    MP_TRY(ex_gradients_new(&x->gradients, x->p, x->t->in->plan, x->first_rank, x->n_local, most, err));
    for (uint32_t i = 0; i < x->n_local; i++) {
        most[i] = x->gradients->end[i] + EX_ALIGN;
        if (w->transport->limits.packs) { /* adds by kernels: what comes lies behind, and tables */
            most[i] += x->gradients->end[i] - x->gradients->begin[i] + EX_ALIGN;
            for (size_t v = 0; v < x->gradients->n_vectors; v++)
                most[i] += EX_SUM_ROOM(x->gradients->vectors[v].n_members);
        }
    }
    MP_TRY(ex_work_room(w, most, err));
    for (uint32_t c = 0; c < x->p->n_chunks; c++)
        for (int k = 0; k < 2; k++) {
            const struct ex_chunk *chunk = &x->p->chunks[c];
            const struct ex_script *s = script_of(&x->layers[chunk->layer], chunk->a2a, chunk->piece, k);
            if (s != NULL)
                all[n++] = s;
        }
    if (x->beside->prepare != NULL)
        MP_TRY(prepare_sums(x, err));
    if (w->transport->prepare != NULL)
        status = w->transport->prepare(w->link, all, n, err);
out:
    mp_free(most);
    mp_free(all);
    return status;
}

/* ---- words ---- */

static enum mp_status say(struct play *x, struct ex_word w, struct mp_error *err) {
    w.serial = x->serial;
    if (x->arbiter == NULL)
        return x->beside->tell(x->t->work->link, 0, &w, err);
    ex_arbiter_hear(x->arbiter, &w, now_ns());
    x->beside->stir(x->t->work->link);
    return MP_OK;
}

static enum mp_status begin_sum(struct play *x, uint32_t bucket, uint32_t chunk, struct mp_error *err) {
    const struct ex_fault *f = &x->t->work->world.fault;
    const struct mp_train_bucket *b = &x->p->buckets[bucket].is;
    enum mp_status status = MP_OK;
    x->is_summing = true;
    x->bucket = bucket;
    x->chunk = chunk;
    for (uint32_t i = 0; i < x->n_local; i++) {
        MP_TRY(ex_gradients_sum(&x->sums[i], x->gradients, x->p, bucket, chunk, i, err));
        struct ex_sum *s = x->sums[i];
        s->step = x->t->work->payload.step;
        s->layer_id = x->t->in->plan->layers[b->first_layer].layer_id;
        s->serial = (uint64_t)x->serial << 32 | x->n_sums;
        s->scratch_at = (x->gradients->end[i] + EX_ALIGN - 1) / EX_ALIGN * EX_ALIGN;
        s->is_struck = f->kind != EX_FAULT_NONE && f->is_of_sums && f->step == s->step && f->stage == chunk &&
                       f->rank == x->first_rank + i && b->first_layer <= f->layer && f->layer <= b->last_layer;
        MP_TRY(x->beside->sum(x->t->work->link, x->first_rank + i, s, err));
    }
    x->n_sums++;
out:
    return status;
}

/* What rank 0 says, to all. */
static enum mp_status obey(struct play *x, const struct ex_word *w, struct mp_error *err) {
    if (w->kind == EX_WORD_GO) {
        x->n_may = w->index + 1;
        return MP_OK;
    }
    if (w->kind != EX_WORD_SUM || w->index >= x->p->n_buckets || x->is_summing)
        return mp_fail(err, MP_EBUG, "word %u of rank %u makes no sense", w->kind, w->from);
    return begin_sum(x, w->index, w->count, err);
}

static enum mp_status end_sum(struct play *x, uint64_t now, struct mp_error *err) {
    const struct ex_bucket *b = &x->p->buckets[x->bucket];
    enum mp_status status = MP_OK;
    x->is_summing = false;
    x->n_sums_ended++;
    x->gradients_ns = now - x->origin_ns;
    for (uint32_t l = b->is.first_layer; l <= b->is.last_layer && x->chunk + 1 == b->n_chunks; l++)
        if (!b->is.is_experts && x->p->step->layers[l].reduce.ns > 0)
            x->reduced_ns[l] = now - x->origin_ns;
    for (uint32_t i = 0; i < x->n_local; i++) {
        ex_gradients_sum_free(x->sums[i]);
        x->sums[i] = NULL;
        MP_TRY(say(x, (struct ex_word){.kind = EX_WORD_SUMMED, .from = x->first_rank + i}, err));
    }
out:
    return status;
}

/* What others say; a sum that has ended. *did: something was new. */
static enum mp_status catch_up(struct play *x, uint64_t now, bool *did, struct mp_error *err) {
    struct ex_link *link = x->t->work->link;
    struct ex_word w;
    enum mp_status status = MP_OK;
    while (x->beside->hear != NULL && x->beside->hear(link, &w)) {
        if (w.serial != x->serial)
            continue;
        *did = true;
        if (w.kind == EX_WORD_GO || w.kind == EX_WORD_SUM)
            MP_TRY(obey(x, &w, err));
        else if (x->arbiter != NULL)
            ex_arbiter_hear(x->arbiter, &w, now);
    }
    bool has_summed = x->is_summing;
    for (uint32_t i = 0; i < x->n_local && has_summed; i++)
        MP_TRY(x->beside->has_summed(link, x->first_rank + i, &has_summed, err));
    if (has_summed)
        MP_TRY(end_sum(x, now, err));
    *did |= has_summed;
out:
    return status;
}

/* Until nothing is new: a rank that holds nothing of what is summed has its part as soon as that begins. */
static enum mp_status attend_locked(struct play *x, uint64_t now, uint64_t *next_ns, struct mp_error *err) {
    struct ex_link *link = x->t->work->link;
    struct ex_word w;
    bool did = true;
    enum mp_status status = MP_OK;
    while (did) {
        did = false;
        *next_ns = UINT64_MAX;
        MP_TRY(catch_up(x, now, &did, err));
        while (x->arbiter != NULL && ex_arbiter_next(x->arbiter, now, &w, next_ns)) {
            did = true;
            w.serial = x->serial;
            for (uint32_t r = 0; r < x->n_ranks; r++)
                if (r < x->first_rank || r >= x->first_rank + x->n_local)
                    MP_TRY(x->beside->tell(link, r, &w, err));
            MP_TRY(obey(x, &w, err));
        }
    }
out:
    return status;
}

static enum mp_status attend(void *ctx, uint64_t now, uint64_t *next_ns, struct mp_error *err) {
    struct play *x = ctx;
    (void)pthread_mutex_lock(&x->lock);
    enum mp_status status = attend_locked(x, now, next_ns, err);
    (void)pthread_mutex_unlock(&x->lock);
    return status;
}

/* ---- computation ---- */

static int64_t since(uint64_t at, uint64_t now) { return (int64_t)(at - now); }

/* Local rank i's clock as far as what has come lets it run; says what will be ready when. */
static enum mp_status advance(struct play *x, uint32_t i, struct mp_error *err) {
    const uint32_t rank = x->first_rank + i;
    enum mp_status status = MP_OK;
    for (; x->next[i] < x->p->n_computes; x->next[i]++) {
        const struct ex_compute *c = &x->p->computes[x->next[i]];
        uint64_t start = x->clock_ns[i];
        if (c->waits != MP_NONE) {
            if (c->waits >= x->n_ended)
                break;
            const uint64_t came = x->came_ns[(size_t)c->waits * x->n_local + i];
            start = came > start ? came : start;
        }
        const uint64_t end = x->clock_ns[i] = start + ex_program_compute_ns(x->p, c, rank), now = now_ns();
        if (c->what == MP_TRAIN_LOSS)
            x->forward_ns = start - x->origin_ns > x->forward_ns ? start - x->origin_ns : x->forward_ns;
        if (c->n_signals > 0) {
            x->ready_ns[i] = end;
            MP_TRY(say(x,
                       (struct ex_word){.kind = EX_WORD_READY,
                                        .from = rank,
                                        .index = c->signals,
                                        .count = c->n_signals,
                                        .a = since(end, now),
                                        .b = c->what == MP_TRAIN_WEIGHTING_BACK ? since(start, now) : INT64_MAX},
                       err));
        }
        if (c->bucket != MP_NONE)
            MP_TRY(say(
                x, (struct ex_word){.kind = EX_WORD_GRADIENTS, .from = rank, .index = c->bucket, .a = since(end, now)},
                err));
    }
out:
    return status;
}

static enum mp_status advance_all(struct play *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    (void)pthread_mutex_lock(&x->lock);
    for (uint32_t i = 0; i < x->n_local && status == MP_OK; i++)
        status = advance(x, i, err);
    (void)pthread_mutex_unlock(&x->lock);
    return status;
}

/* ---- waiting ---- */

struct view { /* of what other threads may change */
    bool may_go, has_all_sums;
    uint32_t missing;
    uint64_t computes_until_ns;
};
static struct view look(struct play *x, uint32_t chunk, uint32_t n_sums) {
    struct view v = {.missing = 0};
    (void)pthread_mutex_lock(&x->lock);
    v.may_go = x->n_may > chunk;
    v.has_all_sums = x->n_sums_ended == n_sums;
    if (x->arbiter != NULL)
        v.missing = ex_arbiter_missing(x->arbiter);
    for (uint32_t i = 0; i < x->n_local; i++)
        v.computes_until_ns = x->clock_ns[i] > v.computes_until_ns ? x->clock_ns[i] : v.computes_until_ns;
    (void)pthread_mutex_unlock(&x->lock);
    if (v.missing == MP_NONE || v.missing == x->first_rank)
        v.missing = x->n_ranks > 1 ? (x->first_rank + 1) % x->n_ranks : 0;
    return v;
}

static enum mp_status wait_a_while(struct play *x, const struct view *v, uint32_t chunk, struct mp_error *err) {
    static const char *const names[] = {"dispatch", "combine", "gradients to the experts", "gradients home"};
    char doing[128];
    if (chunk < x->p->n_chunks) {
        const struct ex_chunk *c = &x->p->chunks[chunk];
        (void)snprintf(doing, sizeof doing, "training step %u, layer %u, before its %s (chunk %u)",
                       x->t->work->payload.step, x->t->in->plan->layers[c->layer].layer_id, names[c->a2a], c->piece);
    } else {
        (void)snprintf(doing, sizeof doing, "training step %u, before the last gradients are summed",
                       x->t->work->payload.step);
    }
    const bool computes = v->computes_until_ns > now_ns();
    return x->beside->idle(x->t->work->link, computes ? v->computes_until_ns : UINT64_MAX,
                           computes ? MP_NONE : v->missing, doing, err);
}

/* ---- an all-to-all ---- */

static enum mp_status work_on(struct play *x, const struct ex_chunk *c, enum ex_task task, struct mp_error *err) {
    struct ex_work *w = x->t->work;
    const int way = way_of(c->a2a);
    const struct mp_model *model = x->t->setup->model;
    w->layer = x->layers[c->layer].way[way];
    w->payload.layer = 2 * c->layer + (uint32_t)way; /* so that nothing of one direction passes in the other */
    w->payload.dispatch_bytes = way == 0 ? model->dispatch_bytes : model->combine_bytes;
    w->payload.combine_bytes = model->combine_bytes;
    return ex_work_all(w, task, err);
}

static void clear(struct ex_times *t) {
    const size_t cells = (size_t)t->n_ranks * t->n_stages;
    memset(t->total_ns, 0, t->n_ranks * sizeof *t->total_ns);
    memset(t->begin_ns, 0, cells * sizeof *t->begin_ns);
    memset(t->end_ns, 0, cells * sizeof *t->end_ns);
}

/* What has to be in the block before a chunk goes; local rank i is late by what that took beyond its computation. */
static enum mp_status before_chunk(struct play *x, uint32_t chunk, struct mp_error *err) {
    const struct ex_chunk *c = &x->p->chunks[chunk];
    enum mp_status status = MP_OK;
    if (c->piece > 0)
        return MP_OK;
    status = work_on(x, c, part_of(c->a2a) == EX_DISPATCH ? EX_WORK_PACK : EX_WORK_EXPERTS, err);
    uint64_t ready = 0;
    for (uint32_t i = 0; i < x->n_local; i++) {
        const uint64_t came = chunk > 0 ? x->came_ns[(size_t)(chunk - 1) * x->n_local + i] : x->origin_ns;
        ready = x->ready_ns[i] > ready ? x->ready_ns[i] : ready;
        ready = came > ready ? came : ready;
    }
    const uint64_t now = now_ns();
    x->late_ns += now > ready ? now - ready : 0;
    return status;
}

static enum mp_status run_chunk(struct play *x, uint32_t chunk, struct mp_error *err) {
    const struct ex_chunk *c = &x->p->chunks[chunk];
    struct ex_work *w = x->t->work;
    struct layer_of_step *l = &x->layers[c->layer];
    const uint64_t begin = now_ns();
    enum mp_status status = MP_OK;
    for (int k = 0; k < 2; k++) {
        const struct ex_script *s = script_of(l, c->a2a, c->piece, k);
        if (s == NULL)
            continue;
        if (k == 1)
            MP_TRY(work_on(x, c, part_of(c->a2a) == EX_DISPATCH ? EX_WORK_PASS_ON : EX_WORK_GATHER_UP, err));
        struct ex_times *times = l->a2a[c->a2a].times[2 * c->piece + (uint32_t)k];
        clear(times);
        MP_TRY(w->transport->run(w->link, s, times, err));
        for (uint32_t i = 0; i < x->n_local; i++)
            x->t->r->n_bytes += ex_script_bytes(s, x->first_rank + i, true);
    }
    const uint64_t now = now_ns();
    (void)pthread_mutex_lock(&x->lock);
    x->n_ended = chunk + 1;
    for (uint32_t i = 0; i < x->n_local; i++) {
        x->came_ns[(size_t)chunk * x->n_local + i] = now;
        x->chunk_ns[(size_t)chunk * x->n_local + i] = now - begin;
        if (status == MP_OK)
            status = say(x, (struct ex_word){.kind = EX_WORD_DONE, .from = x->first_rank + i, .index = chunk}, err);
    }
    (void)pthread_mutex_unlock(&x->lock);
out:
    return status;
}

static enum mp_status play_through(struct play *x, struct mp_error *err) {
    uint32_t n_sums = 0;
    enum mp_status status = MP_OK;
    for (uint32_t b = 0; b < x->p->n_buckets; b++)
        n_sums += x->p->buckets[b].n_chunks;
    MP_TRY(advance_all(x, err));
    for (uint32_t c = 0; c < x->p->n_chunks; c++) {
        const struct ex_chunk *chunk = &x->p->chunks[c];
        MP_TRY(before_chunk(x, c, err));
        struct view v = look(x, c, n_sums);
        while (!v.may_go) {
            MP_TRY(wait_a_while(x, &v, c, err));
            v = look(x, c, n_sums);
        }
        MP_TRY(run_chunk(x, c, err));
        MP_TRY(advance_all(x, err));
        if (chunk->piece + 1 == chunk->n_pieces && part_of(chunk->a2a) == EX_COMBINE)
            MP_TRY(work_on(x, chunk, EX_WORK_CHECK, err));
    }
    struct view v = look(x, x->p->n_chunks, n_sums);
    while (!v.has_all_sums || v.computes_until_ns > now_ns()) {
        MP_TRY(wait_a_while(x, &v, x->p->n_chunks, err));
        v = look(x, x->p->n_chunks, n_sums);
    }
    x->backward_ns = v.computes_until_ns - x->origin_ns;
    x->end_ns = (x->backward_ns > x->gradients_ns ? x->backward_ns : x->gradients_ns) + x->p->step->update_ns;
out:
    return status;
}

/* ---- gradients in the blocks ---- */

static enum mp_status fill_gradients(struct play *x, struct mp_error *err) {
    struct ex_work *w = x->t->work;
    const struct ex_gradients *g = x->gradients;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < x->n_local; i++) {
        ex_gradients_fill(g, &w->payload, i, w->views[i]);
        if (w->transport->push != NULL && g->end[i] > g->begin[i])
            MP_TRY(w->transport->push(w->link, x->first_rank + i, g->begin[i], g->end[i] - g->begin[i], err));
    }
out:
    return status;
}

static enum mp_status check_gradients(struct play *x, struct mp_error *err) {
    struct ex_work *w = x->t->work;
    const struct ex_gradients *g = x->gradients;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < x->n_local; i++) {
        if (w->transport->pull != NULL && g->end[i] > g->begin[i])
            MP_TRY(w->transport->pull(w->link, x->first_rank + i, g->begin[i], g->end[i] - g->begin[i], err));
        MP_TRY(ex_gradients_check(g, &w->payload, i, w->views[i], &x->t->n_gradient_bytes, err));
    }
    if (w->pulse.status != MP_OK) {
        *err = w->pulse.why;
        status = w->pulse.status;
    }
out:
    return status;
}

/* ---- one play ---- */

enum { FORWARD, BACKWARD, GRADIENTS, END, LATE, N_TIMES };

/* The slowest rank's times of the play into the result. */
static enum mp_status keep(struct play *x, struct mp_exec_training *r, uint64_t *step_ns, struct mp_error *err) {
    const struct ex_work *w = x->t->work;
    const uint32_t n_layers = x->p->step->n_layers;
    const size_t n = N_TIMES + n_layers + (size_t)x->p->n_chunks;
    uint64_t *mine = mp_calloc(n * x->n_local, sizeof *mine), *all = mp_calloc(n * x->n_ranks, sizeof *all);
    enum mp_status status = MP_OK;
    if (mine == NULL || all == NULL) {
        status = mp_nomem(err, "times");
        goto out;
    }
    for (uint32_t i = 0; i < x->n_local; i++) {
        uint64_t *own = mine + i * n;
        own[FORWARD] = x->forward_ns;
        own[BACKWARD] = x->backward_ns;
        own[GRADIENTS] = x->gradients_ns;
        own[END] = x->end_ns;
        own[LATE] = x->late_ns;
        memcpy(own + N_TIMES, x->reduced_ns, n_layers * sizeof *own);
        for (uint32_t c = 0; c < x->p->n_chunks; c++)
            own[N_TIMES + n_layers + c] = x->chunk_ns[(size_t)c * x->n_local + i];
    }
    MP_TRY(w->transport->gather(w->link, mine, all, n * sizeof *mine, err));
    for (uint32_t k = 1; k < x->n_ranks; k++)
        for (size_t i = 0; i < n; i++)
            all[i] = all[k * n + i] > all[i] ? all[k * n + i] : all[i];
    if (step_ns == NULL)
        goto out;
    *step_ns = all[END];
    r->forward_ns += all[FORWARD]; /* sums; means in the end */
    r->backward_ns += all[BACKWARD];
    r->gradients_ns += all[GRADIENTS];
    r->late_ns += all[LATE];
    for (uint32_t l = 0; l < n_layers; l++)
        r->layers[l].reduced_ns += all[N_TIMES + l];
    for (uint32_t c = 0; c < x->p->n_chunks; c++)
        r->layers[x->p->chunks[c].layer].a2a_ns[x->p->chunks[c].a2a] += all[N_TIMES + n_layers + c];
out:
    mp_free(mine);
    mp_free(all);
    return status;
}

static enum mp_status play_once(struct play *x, struct mp_error *err) {
    struct ex_work *w = x->t->work;
    struct mp_error ignored = {0};
    enum mp_status status = MP_OK;
    x->n_may = x->n_ended = x->n_sums = x->n_sums_ended = 0;
    x->is_summing = false;
    x->forward_ns = x->backward_ns = x->gradients_ns = x->end_ns = x->late_ns = 0;
    memset(x->next, 0, x->n_local * sizeof *x->next);
    memset(x->reduced_ns, 0, x->p->step->n_layers * sizeof *x->reduced_ns);
    x->serial++;
    if (x->first_rank == 0)
        MP_TRY(ex_arbiter_new(&x->arbiter, x->p, x->n_ranks, err));
    MP_TRY(fill_gradients(x, err));
    MP_TRY(w->transport->barrier(w->link, err));
    x->origin_ns = now_ns();
    for (uint32_t i = 0; i < x->n_local; i++)
        x->clock_ns[i] = x->ready_ns[i] = x->origin_ns;
    MP_TRY(x->beside->attend(w->link, attend, x, err));
    status = play_through(x, err);
    /* Whatever has happened: nobody attends when this is over. */
    const enum mp_status left = x->beside->attend(w->link, NULL, NULL, status == MP_OK ? err : &ignored);
    status = status == MP_OK ? left : status;
    if (status != MP_OK)
        goto out;
    MP_TRY(w->transport->barrier(w->link, err));
    MP_TRY(check_gradients(x, err));
out:
    for (uint32_t i = 0; i < x->n_local; i++) {
        ex_gradients_sum_free(x->sums[i]);
        x->sums[i] = NULL;
    }
    ex_arbiter_free(x->arbiter);
    x->arbiter = NULL;
    return status;
}

/* ---- a step under a policy ---- */

static enum mp_status predict(const struct play *x, struct mp_exec_training *r, uint64_t *predicted_ns,
                              struct mp_error *err) {
    struct mp_train_timeline timeline;
    enum mp_status status = mp_train_run(&timeline, x->p->step, x->p->policy, true, err);
    if (status != MP_OK)
        return status;
    *predicted_ns = timeline.step_ns;
    r->predicted_forward_ns += timeline.forward_ns;
    r->predicted_backward_ns += timeline.backward_ns;
    r->predicted_gradients_ns += timeline.reduce_ns;
    for (uint32_t l = 0; l < x->p->step->n_layers; l++)
        r->layers[l].predicted_reduced_ns += timeline.reduced_ns[l];
    for (size_t i = 0; i < timeline.n_events; i++)
        if (timeline.events[i].what == MP_TRAIN_A2A)
            r->layers[timeline.events[i].layer].predicted_a2a_ns[timeline.events[i].a2a] +=
                timeline.events[i].end_ns - timeline.events[i].start_ns;
    mp_train_timeline_free(&timeline);
    return MP_OK;
}

static enum mp_status make_play(struct play *x, struct mp_error *err) {
    x->clock_ns = mp_calloc(x->n_local, sizeof *x->clock_ns);
    x->ready_ns = mp_calloc(x->n_local, sizeof *x->ready_ns);
    x->next = mp_calloc(x->n_local, sizeof *x->next);
    x->sums = mp_calloc(x->n_local, sizeof(struct ex_sum *));
    x->came_ns = mp_calloc((size_t)x->p->n_chunks * x->n_local, sizeof *x->came_ns);
    x->chunk_ns = mp_calloc((size_t)x->p->n_chunks * x->n_local, sizeof *x->chunk_ns);
    x->reduced_ns = mp_calloc(x->p->step->n_layers, sizeof *x->reduced_ns);
    return x->clock_ns == NULL || x->ready_ns == NULL || x->next == NULL || x->sums == NULL || x->came_ns == NULL ||
                   x->chunk_ns == NULL || x->reduced_ns == NULL
               ? mp_nomem(err, "a training step")
               : MP_OK;
}

static void free_play(struct play *x, uint32_t n_layers) {
    void *owned[] = {x->clock_ns, x->ready_ns, x->next, x->sums, x->came_ns, x->chunk_ns, x->reduced_ns};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
    free_layers(x->layers, n_layers);
    ex_gradients_free(x->gradients);
}

/* A fault that strikes nothing would look like one that is not caught. */
static enum mp_status check_fault(const struct play *x, uint32_t step, struct mp_error *err) {
    const struct ex_fault *f = &x->t->work->world.fault;
    if (f->kind == EX_FAULT_NONE || !f->is_of_sums || f->step != step)
        return MP_OK;
    for (uint32_t b = 0; b < x->p->n_buckets; b++)
        if (x->p->buckets[b].is.first_layer <= f->layer && f->layer <= x->p->buckets[b].is.last_layer &&
            f->stage < x->p->buckets[b].n_chunks && f->rank < x->n_ranks)
            return MP_OK;
    return mp_fail(err, MP_EUSAGE, "--fault: no chunk %u of the gradients of layer %u is summed on rank %u", f->stage,
                   f->layer, f->rank);
}

static enum mp_status train(struct ex_training *t, const struct mp_cost_setup setups[2],
                            const struct mp_train_step *work, uint32_t step, uint32_t k, struct mp_error *err) {
    struct mp_exec_training *r = &t->r->training[k];
    struct mp_exec_policy policy = t->in->policies[k];
    struct ex_program *p = NULL;
    enum mp_status status = MP_OK;
    if (r->is_cut_down) {
        policy.policy.a2a_chunk_bytes = 0;
        policy.policy.is_pipelined = false;
    }
    MP_TRY(ex_program_new(&p, work, &policy.policy, err));
    struct play x = {.t = t,
                     .beside = t->work->transport->beside,
                     .p = p,
                     .policy = &policy,
                     .n_local = t->work->world.n_local,
                     .first_rank = t->work->world.first_rank,
                     .n_ranks = t->work->world.n_ranks,
                     .serial = t->n_plays,
                     .lock = PTHREAD_MUTEX_INITIALIZER};
    status = make_play(&x, err);
    if (status == MP_OK)
        status = check_fault(&x, step, err);
    if (status == MP_OK)
        status = predict(&x, r, &r->predicted_ns[step], err);
    if (status == MP_OK)
        status = make_layers(&x, setups, step, err);
    if (status == MP_OK)
        status = make_room(&x, work->n_layers, err);
    t->work->payload.step = step;
    for (uint32_t i = 0; i < t->in->n_warmup + t->in->n_iterations && status == MP_OK; i++) {
        t->work->payload.iteration = k * (t->in->n_warmup + t->in->n_iterations) + i;
        status = play_once(&x, err);
        if (status == MP_OK)
            status =
                keep(&x, r,
                     i < t->in->n_warmup ? NULL : &r->step_ns[(size_t)step * t->in->n_iterations + i - t->in->n_warmup],
                     err);
    }
    t->n_plays = x.serial;
    r->n_a2a_chunks = p->n_chunks;
    r->n_sum_chunks = x.n_sums;
    free_play(&x, work->n_layers);
out:
    ex_program_free(p);
    return status;
}

enum mp_status ex_train_step(struct ex_training *t, uint32_t step, struct mp_error *err) {
    struct mp_train_options options = mp_train_defaults();
    struct mp_plan plan = *t->in->plan; /* a plan's orders never fall back here */
    struct mp_dispatcher dispatcher = *t->in->dispatcher;
    struct mp_model back = *t->in->model; /* gradients have the bytes of answers, both ways */
    struct mp_train_work work;
    const int mode = t->in->stage_mode < 0 ? (int)plan.stage_mode : t->in->stage_mode;
    plan.fallback_ppm = 0;
    plan.stage_mode = ex_limits_mode(&t->work->transport->limits, (enum mp_stage_mode)mode);
    dispatcher.is_overlapped = false;
    back.dispatch_bytes = back.combine_bytes;
    if (t->in->gradient_bits > 0)
        options.gradient_bits = t->in->gradient_bits;
    if (plan.training.is_present)
        options.offload = plan.training.offload;
    struct mp_cost_setup setups[2] = {*t->setup, *t->setup};
    for (int i = 0; i < 2; i++) {
        setups[i].plan = &plan;
        setups[i].dispatcher = &dispatcher;
    }
    setups[1].model = &back;
    enum mp_status status = mp_train_work_make(&work, &setups[0], step, &options, err);
    if (status != MP_OK)
        return status;
    for (uint32_t k = 0; k < t->in->n_policies && status == MP_OK; k++)
        status = train(t, setups, &work.step, step, k, err);
    mp_train_work_free(&work);
    return status;
}

/* ---- begin and end ---- */

enum mp_status ex_train_begin(struct ex_training *t, struct mp_error *err) {
    struct mp_exec_result *r = t->r;
    const struct mp_exec *in = t->in;
    const struct mp_topology *topology = in->topology;
    r->n_policies = in->n_policies;
    r->training = mp_arena_alloc(r->arena, in->n_policies, sizeof *r->training);
    for (uint32_t k = 0; k < in->n_policies && r->training != NULL; k++) {
        struct mp_exec_training *x = &r->training[k];
        x->policy = in->policies[k].name;
        x->is_cut_down = in->dispatcher->copies == MP_COPY_PER_NODE && mp_topology_n_nodes(topology) > 1 &&
                         (in->policies[k].policy.a2a_chunk_bytes > 0 || in->policies[k].policy.is_pipelined);
        x->step_ns = mp_arena_alloc(r->arena, (size_t)r->n_steps * r->n_iterations, sizeof *x->step_ns);
        x->predicted_ns = mp_arena_alloc(r->arena, r->n_steps, sizeof *x->predicted_ns);
        x->layers = mp_arena_alloc(r->arena, r->n_layers, sizeof *x->layers);
        if (x->step_ns == NULL || x->predicted_ns == NULL || x->layers == NULL)
            return mp_nomem(err, "a result");
    }
    return r->training != NULL ? MP_OK : mp_nomem(err, "a result");
}

void ex_train_end(struct ex_training *t) {
    const struct mp_exec_result *r = t->r;
    const uint64_t n_steps = r->n_steps, n_runs = n_steps * r->n_iterations;
    for (uint32_t k = 0; k < r->n_policies; k++) {
        struct mp_exec_training *x = &r->training[k];
        uint64_t *measured[] = {&x->forward_ns, &x->backward_ns, &x->gradients_ns, &x->late_ns},
                 *predicted[] = {&x->predicted_forward_ns, &x->predicted_backward_ns, &x->predicted_gradients_ns};
        for (size_t i = 0; i < sizeof measured / sizeof *measured; i++)
            *measured[i] /= n_runs;
        for (size_t i = 0; i < sizeof predicted / sizeof *predicted; i++)
            *predicted[i] /= n_steps;
        for (uint32_t l = 0; l < r->n_layers; l++) {
            x->layers[l].reduced_ns /= n_runs;
            x->layers[l].predicted_reduced_ns /= n_steps;
            for (int a = 0; a < 4; a++) {
                x->layers[l].a2a_ns[a] /= n_runs;
                x->layers[l].predicted_a2a_ns[a] /= n_steps;
            }
        }
    }
}
