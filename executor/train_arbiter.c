/* Decides what the network does next in a training step, for all ranks, from what they say: the rules of
 * docs/TRAINING.md part 1 with real events in place of predicted ones. Ranks say ahead of time when they will be ready,
 * so that guards can look ahead. */
#include "train.h"

struct chunk_state {
    uint64_t ready_ns, near_ns;
    uint32_t n_ready, n_done;
};
struct bucket_state {
    uint64_t ready_ns;
    uint32_t n_ready, n_begun;
};
struct ex_arbiter {
    const struct ex_program *p;
    uint32_t n_ranks, n_begun;    /* n_begun: chunks */
    uint64_t free_ns;             /* since when nothing is on its way */
    bool is_moving, is_summing;   /* an all-to-all, a sum is on its way */
    uint32_t n_summed;            /* ranks that have their part */
    uint32_t *ready, *done;       /* [n_ranks] chunks that each will be ready for, and has had */
    bool *has_summed;             /* [n_ranks] */
    struct chunk_state *chunks;   /* [n_chunks] */
    struct bucket_state *buckets; /* [n_buckets] */
};

enum mp_status ex_arbiter_new(struct ex_arbiter **out, const struct ex_program *p, uint32_t n_ranks,
                              struct mp_error *err) {
    struct ex_arbiter *a = mp_calloc(1, sizeof *a);
    *out = a;
    if (a == NULL)
        return mp_nomem(err, "a training step");
    *a = (struct ex_arbiter){.p = p,
                             .n_ranks = n_ranks,
                             .ready = mp_calloc(n_ranks, sizeof *a->ready),
                             .done = mp_calloc(n_ranks, sizeof *a->done),
                             .has_summed = mp_calloc(n_ranks, sizeof *a->has_summed),
                             .chunks = mp_calloc(p->n_chunks, sizeof *a->chunks),
                             .buckets = mp_calloc((size_t)p->n_buckets + 1, sizeof *a->buckets)};
    if (a->ready == NULL || a->done == NULL || a->has_summed == NULL || a->chunks == NULL || a->buckets == NULL) {
        ex_arbiter_free(a);
        *out = NULL;
        return mp_nomem(err, "a training step");
    }
    for (uint32_t c = 0; c < p->n_chunks; c++)
        a->chunks[c].near_ns = UINT64_MAX;
    return MP_OK;
}

void ex_arbiter_free(struct ex_arbiter *a) {
    if (a == NULL)
        return;
    mp_free(a->ready);
    mp_free(a->done);
    mp_free(a->has_summed);
    mp_free(a->chunks);
    mp_free(a->buckets);
    mp_free(a);
}

static uint64_t moment(uint64_t now, int64_t delta) {
    return delta >= 0 ? now + (uint64_t)delta : now - ((uint64_t)-delta < now ? (uint64_t)-delta : now);
}

void ex_arbiter_hear(struct ex_arbiter *a, const struct ex_word *w, uint64_t now) {
    if (w->from >= a->n_ranks)
        return;
    if (w->kind == EX_WORD_READY) {
        for (uint32_t c = w->index; c < w->index + w->count && c < a->p->n_chunks; c++) {
            struct chunk_state *x = &a->chunks[c];
            const uint64_t ready = moment(now, w->a), near = w->b == INT64_MAX ? UINT64_MAX : moment(now, w->b);
            x->ready_ns = ready > x->ready_ns ? ready : x->ready_ns;
            x->near_ns = near < x->near_ns ? near : x->near_ns;
            x->n_ready++;
            a->ready[w->from] = c + 1;
        }
    } else if (w->kind == EX_WORD_GRADIENTS && w->index < a->p->n_buckets) {
        struct bucket_state *b = &a->buckets[w->index];
        const uint64_t ready = moment(now, w->a);
        b->ready_ns = ready > b->ready_ns ? ready : b->ready_ns;
        b->n_ready++;
    } else if (w->kind == EX_WORD_DONE && w->index < a->p->n_chunks) {
        a->done[w->from] = w->index + 1;
        if (++a->chunks[w->index].n_done == a->n_ranks) {
            a->is_moving = false;
            a->free_ns = now;
        }
    } else if (w->kind == EX_WORD_SUMMED && !a->has_summed[w->from]) {
        a->has_summed[w->from] = true;
        if (++a->n_summed == a->n_ranks) {
            a->is_summing = false;
            a->free_ns = now;
        }
    }
}

/* The gradients to go on with, or MP_NONE; *next_ns: when others will be ready. */
static uint32_t first_bucket(const struct ex_arbiter *a, uint64_t now, uint64_t *next_ns) {
    const struct ex_program *p = a->p;
    uint32_t best = MP_NONE;
    for (uint32_t i = 0; i < p->n_buckets; i++) {
        const struct bucket_state *b = &a->buckets[i];
        const struct ex_bucket *x = &p->buckets[i];
        if (b->n_begun == x->n_chunks || b->n_ready < x->n_sources * a->n_ranks)
            continue;
        if (b->ready_ns > now) {
            *next_ns = b->ready_ns < *next_ns ? b->ready_ns : *next_ns;
            continue;
        }
        if (best == MP_NONE) {
            best = i;
            continue;
        }
        const struct bucket_state *c = &a->buckets[best];
        const struct ex_bucket *y = &p->buckets[best];
        if ((p->policy->order == MP_TRAIN_FIRST_READY && b->ready_ns < c->ready_ns) ||
            (p->policy->order == MP_TRAIN_FIRST_NEEDED && x->is.first_layer < y->is.first_layer) ||
            (p->policy->order == MP_TRAIN_SHORTEST && mp_mul_div(x->ns, x->n_chunks - b->n_begun, x->n_chunks) <
                                                          mp_mul_div(y->ns, y->n_chunks - c->n_begun, y->n_chunks)))
            best = i;
    }
    return best;
}

static bool may_sum(const struct ex_arbiter *a, uint32_t bucket, uint64_t now) {
    const struct chunk_state *c = a->n_begun < a->p->n_chunks ? &a->chunks[a->n_begun] : NULL;
    if (a->p->policy->is_shared || (c == NULL && !a->is_moving))
        return true;
    switch (a->p->policy->guard) {
    case MP_TRAIN_GUARD_NONE:
        return true;
    case MP_TRAIN_GUARD_NEAR:
        return c == NULL || c->near_ns > now;
    case MP_TRAIN_GUARD_FITS:
        return c != NULL && c->n_ready == a->n_ranks &&
               now + ex_program_sum_ns(a->p, bucket, a->buckets[bucket].n_begun) <= c->ready_ns;
    default:
        return false;
    }
}

static bool begin_chunk(struct ex_arbiter *a, struct ex_word *go) {
    a->is_moving = true;
    *go = (struct ex_word){.kind = EX_WORD_GO, .index = a->n_begun++};
    return true;
}

/* Whoever looks does so a little late. What it finds ready then may have become so in another order than all-to-all
 * first: things begin as they would have if it had looked in time. */
bool ex_arbiter_next(struct ex_arbiter *a, uint64_t now, struct ex_word *go, uint64_t *next_ns) {
    const bool is_shared = a->p->policy->is_shared;
    const struct chunk_state *c = a->n_begun < a->p->n_chunks ? &a->chunks[a->n_begun] : NULL;
    bool may_go = false;
    *next_ns = UINT64_MAX;
    if (!a->is_moving && c != NULL && c->n_ready == a->n_ranks) {
        may_go = c->ready_ns <= now && (is_shared || !a->is_summing);
        if (c->ready_ns > now)
            *next_ns = c->ready_ns;
    }
    if (may_go && (is_shared || c->ready_ns <= a->free_ns))
        return begin_chunk(a, go);
    if (a->is_summing || (!is_shared && a->is_moving))
        return may_go && begin_chunk(a, go);
    const uint32_t bucket = first_bucket(a, now, next_ns);
    if (bucket == MP_NONE)
        return may_go && begin_chunk(a, go);
    const uint64_t ready = a->buckets[bucket].ready_ns, at = ready > a->free_ns ? ready : a->free_ns;
    if (may_go && (c->ready_ns <= at || !may_sum(a, bucket, at)))
        return begin_chunk(a, go);
    if (!may_go && !may_sum(a, bucket, now)) { /* a guard that looks at the clock alone */
        if (c != NULL && c->near_ns > now && c->near_ns < *next_ns)
            *next_ns = c->near_ns;
        return false;
    }
    a->is_summing = true;
    a->n_summed = 0;
    for (uint32_t r = 0; r < a->n_ranks; r++)
        a->has_summed[r] = false;
    *go = (struct ex_word){.kind = EX_WORD_SUM, .index = bucket, .count = a->buckets[bucket].n_begun++};
    return true;
}

uint32_t ex_arbiter_missing(const struct ex_arbiter *a) {
    for (uint32_t r = 0; r < a->n_ranks; r++)
        if (a->is_moving ? a->done[r] < a->n_begun : a->n_begun < a->p->n_chunks && a->ready[r] <= a->n_begun)
            return r;
    for (uint32_t r = 0; r < a->n_ranks && a->is_summing; r++)
        if (!a->has_summed[r])
            return r;
    return MP_NONE;
}
