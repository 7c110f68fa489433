/* What a training step is made of, by docs/TRAINING.md part 1: the timeline of src/train has the same lists. */
#include "train.h"
#include <string.h>

static uint64_t n_pieces(uint64_t bytes, uint64_t chunk_bytes) {
    return chunk_bytes == 0 || bytes <= chunk_bytes ? 1 : mp_ceil_div(bytes, chunk_bytes);
}
static uint64_t piece(uint64_t x, uint64_t i, uint64_t n) { return mp_mul_div(x, i + 1, n) - mp_mul_div(x, i, n); }

static struct ex_compute *compute(struct ex_program *p, enum mp_train_what what, uint32_t layer, const uint64_t *ns) {
    struct ex_compute *c = &p->computes[p->n_computes++];
    *c =
        (struct ex_compute){.what = what, .layer = layer, .n_pieces = 1, .waits = MP_NONE, .ns = ns, .bucket = MP_NONE};
    return c;
}

static uint32_t chunks(struct ex_program *p, uint32_t layer, enum mp_train_a2a a2a, uint32_t n) {
    const uint32_t first = p->n_chunks;
    for (uint32_t i = 0; i < n; i++)
        p->chunks[p->n_chunks++] = (struct ex_chunk){.layer = layer, .piece = i, .n_pieces = n, .a2a = a2a};
    return first;
}

/* All-to-all, experts, all-to-all. Returns the last chunk. */
static uint32_t there_and_back(struct ex_program *p, struct ex_compute *before, uint32_t layer, enum mp_train_a2a there,
                               enum mp_train_what what, const uint64_t *ns, enum mp_train_a2a back) {
    const struct mp_train_transfer *x = p->step->layers[layer].a2a;
    const uint32_t n_there = (uint32_t)n_pieces(x[there].bytes, p->policy->a2a_chunk_bytes);
    const uint32_t n = p->policy->is_pipelined ? n_there : 1;
    const uint32_t n_back = p->policy->is_pipelined ? n : (uint32_t)n_pieces(x[back].bytes, p->policy->a2a_chunk_bytes);
    const uint32_t first = chunks(p, layer, there, n_there);
    before->signals = first;
    before->n_signals = n_there;
    for (uint32_t i = 0; i < n; i++) {
        struct ex_compute *c = compute(p, what, layer, ns);
        c->piece = i;
        c->n_pieces = n;
        c->waits = first + (n == 1 ? n_there - 1 : i);
        c->signals = first + n_there + i;
        c->n_signals = n == 1 ? n_back : 1;
    }
    return chunks(p, layer, back, n_back) + n_back - 1;
}

/* The bucket that the layer's gradients of one kind, which `c` makes, are in. */
static bool put_in_bucket(struct ex_program *p, struct ex_compute *c, const struct mp_train_transfer *x, uint32_t layer,
                          bool is_experts) {
    for (uint32_t i = 0; i < p->n_buckets && x->ns > 0; i++) {
        struct ex_bucket *b = &p->buckets[i];
        if (b->is.is_experts != is_experts || layer < b->is.first_layer || layer > b->is.last_layer)
            continue;
        c->bucket = i;
        b->ns += x->ns;
        b->is.bytes += x->bytes;
        b->n_sources++;
        return true;
    }
    return x->ns == 0;
}

static bool program(struct ex_program *p) {
    const struct mp_train_step *s = p->step;
    bool is_whole = true;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct mp_train_layer *x = &s->layers[l];
        struct ex_compute *c = compute(p, MP_TRAIN_ATTENTION, l, x->attention_ns);
        const uint32_t last =
            there_and_back(p, c, l, MP_TRAIN_DISPATCH, MP_TRAIN_EXPERTS, x->expert_ns, MP_TRAIN_COMBINE);
        compute(p, MP_TRAIN_WEIGHTING, l, x->combine_ns)->waits = last;
    }
    (void)compute(p, MP_TRAIN_LOSS, s->n_layers - 1, NULL);
    for (uint32_t l = s->n_layers; l-- > 0;) {
        const struct mp_train_layer *x = &s->layers[l];
        struct ex_compute *c = compute(p, MP_TRAIN_WEIGHTING_BACK, l, x->combine_back_ns);
        const uint32_t last = there_and_back(p, c, l, MP_TRAIN_COMBINE_BACK, MP_TRAIN_EXPERTS_BACK, x->expert_back_ns,
                                             MP_TRAIN_DISPATCH_BACK);
        is_whole = put_in_bucket(p, &p->computes[p->n_computes - 1], &x->expert_reduce, l, true) && is_whole;
        c = compute(p, MP_TRAIN_ATTENTION_BACK, l, x->attention_back_ns);
        c->waits = last;
        is_whole = put_in_bucket(p, c, &x->reduce, l, false) && is_whole;
    }
    for (uint32_t i = 0; i < p->n_buckets; i++)
        if (p->buckets[i].ns > 0)
            p->buckets[i].n_chunks = (uint32_t)n_pieces(p->buckets[i].is.bytes, p->policy->reduce_chunk_bytes);
    return is_whole;
}

enum mp_status ex_program_new(struct ex_program **out, const struct mp_train_step *step,
                              const struct mp_train_policy *policy, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct ex_program *p = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *p) : NULL;
    const struct mp_train_bucket *listed = policy->buckets;
    uint32_t n_listed = policy->n_buckets;
    uint64_t n_chunks = 0;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (p == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "a training step");
    }
    *p = (struct ex_program){.step = step, .policy = policy, .arena = arena};
    for (uint32_t l = 0; l < step->n_layers; l++)
        for (int i = 0; i < MP_TRAIN_N_A2A; i++) {
            const uint64_t n = n_pieces(step->layers[l].a2a[i].bytes, policy->a2a_chunk_bytes);
            n_chunks = n > UINT32_MAX / 4 ? UINT32_MAX : n_chunks + 2 * n; /* pipelined: as many back as there */
        }
    if (n_chunks >= UINT32_MAX / 4) {
        status = mp_fail(err, MP_EUSAGE, "chunks of %llu bytes are too many (write larger ones)",
                         (unsigned long long)policy->a2a_chunk_bytes);
        goto out;
    }
    if (listed == NULL)
        MP_TRY(mp_train_buckets(&listed, &n_listed, step, policy->bucket_bytes, arena, err));
    p->chunks = mp_arena_alloc(arena, n_chunks, sizeof *p->chunks);
    p->computes = mp_arena_alloc(arena, n_chunks + 6 * (size_t)step->n_layers + 1, sizeof *p->computes);
    p->buckets = mp_arena_alloc(arena, n_listed + (size_t)1, sizeof *p->buckets);
    if (p->chunks == NULL || p->computes == NULL || p->buckets == NULL) {
        status = mp_nomem(err, "a training step");
        goto out;
    }
    for (uint32_t i = 0; i < n_listed; i++)
        p->buckets[p->n_buckets++] = (struct ex_bucket){.is = {.is_experts = listed[i].is_experts,
                                                               .first_layer = listed[i].first_layer,
                                                               .last_layer = listed[i].last_layer}};
    if (!program(p))
        status = mp_fail(err, MP_EUSAGE, "the policy's buckets leave out gradients of the step");
out:
    if (status != MP_OK)
        ex_program_free(p);
    else
        *out = p;
    return status;
}

void ex_program_free(struct ex_program *p) {
    if (p != NULL)
        mp_arena_free(p->arena);
}

uint64_t ex_program_compute_ns(const struct ex_program *p, const struct ex_compute *c, uint32_t rank) {
    if (c->what == MP_TRAIN_LOSS)
        return p->step->loss_ns;
    if (c->ns == NULL)
        return 0;
    const uint64_t ns = c->ns[rank], again = ns < p->step->kernel_ns ? ns : p->step->kernel_ns;
    return c->n_pieces == 1 ? ns : again + piece(ns - again, c->piece, c->n_pieces);
}

uint64_t ex_program_sum_ns(const struct ex_program *p, uint32_t bucket, uint32_t chunk) {
    const struct ex_bucket *b = &p->buckets[bucket];
    return piece(b->ns, chunk, b->n_chunks) + p->step->launch_ns +
           (b->n_chunks > 1 && chunk == 0 ? p->step->split_ns : 0);
}
