/* Gradients of a training step as bytes: what each rank holds, what it should hold in the end, and which part of it a
 * chunk is. Integers, so that sums are the same in any order and can be compared bit for bit. */
#include "train.h"
#include <string.h>

enum { PIECE_WORDS = 1 << 16 }; /* between two beats */

/* ---- which vectors there are ---- */

/* The GPUs that hold each expert of a layer, ascending: gpus[first[e] ..), without doubles; n_gpus[e] of them. */
struct holders {
    uint32_t *gpus, *first, *n;
};

static enum mp_status hold(struct holders *h, const struct mp_plan *plan, uint32_t layer, struct mp_arena *arena,
                           struct mp_error *err) {
    const struct mp_plan_layer *l = &plan->layers[layer];
    h->gpus = mp_arena_alloc(arena, plan->n_slots, sizeof *h->gpus);
    h->first = mp_arena_alloc(arena, (size_t)plan->n_experts + 1, sizeof *h->first);
    h->n = mp_arena_alloc(arena, plan->n_experts, sizeof *h->n);
    if (h->gpus == NULL || h->first == NULL || h->n == NULL)
        return mp_nomem(err, "gradients");
    for (uint32_t s = 0; s < plan->n_slots; s++)
        if (l->slot_expert[s] != MP_NO_EXPERT)
            h->first[l->slot_expert[s] + 1]++;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        h->first[e + 1] += h->first[e];
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        for (uint32_t s = plan->gpu_first_slot[g]; s < plan->gpu_first_slot[g + 1]; s++) {
            const uint32_t e = l->slot_expert[s];
            if (e == MP_NO_EXPERT || (h->n[e] > 0 && h->gpus[h->first[e] + h->n[e] - 1] == g))
                continue;
            h->gpus[h->first[e] + h->n[e]++] = g;
        }
    return MP_OK;
}

static uint64_t words(uint64_t bytes) { return mp_ceil_div(bytes, 8); }

/* The vectors of a bucket's layer. */
static enum mp_status add_layer(struct ex_gradients *g, const struct ex_program *p, const struct mp_plan *plan,
                                const struct ex_bucket *b, uint32_t layer, const uint32_t *all, struct mp_error *err) {
    const struct mp_train_layer *x = &p->step->layers[layer];
    struct holders h;
    uint32_t n = 0;
    if (!b->is.is_experts) {
        if (x->reduce.ns > 0)
            g->vectors[g->n_vectors++] = (struct ex_vector){.layer = layer,
                                                            .expert = MP_NONE,
                                                            .words = words(x->reduce.bytes),
                                                            .n_members = plan->n_gpus,
                                                            .members = all};
        return MP_OK;
    }
    if (x->expert_reduce.ns == 0)
        return MP_OK;
    enum mp_status status = hold(&h, plan, layer, g->arena, err);
    if (status != MP_OK)
        return status;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        n += h.n[e] > 1;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        if (h.n[e] > 1)
            g->vectors[g->n_vectors++] = (struct ex_vector){.layer = layer,
                                                            .expert = e,
                                                            .words = words(x->expert_reduce.bytes / n),
                                                            .n_members = h.n[e],
                                                            .members = h.gpus + h.first[e]};
    return MP_OK;
}

static bool is_member(const struct ex_vector *v, uint32_t rank) {
    for (uint32_t i = 0; i < v->n_members; i++)
        if (v->members[i] == rank)
            return true;
    return false;
}

/* Where each local rank has them. */
static enum mp_status lay(struct ex_gradients *g, const uint64_t *begin, struct mp_error *err) {
    bool fits = true;
    g->at = mp_arena_alloc(g->arena, (g->n_vectors + 1) * g->n_local, sizeof *g->at);
    g->begin = mp_arena_alloc(g->arena, g->n_local, sizeof *g->begin);
    g->end = mp_arena_alloc(g->arena, g->n_local, sizeof *g->end);
    if (g->at == NULL || g->begin == NULL || g->end == NULL)
        return mp_nomem(err, "gradients");
    for (uint32_t i = 0; i < g->n_local; i++) {
        g->begin[i] = (begin[i] + EX_ALIGN - 1) / EX_ALIGN * EX_ALIGN;
        g->end[i] = g->begin[i];
        for (size_t v = 0; v < g->n_vectors; v++) {
            uint64_t bytes = g->vectors[v].words;
            g->at[v * g->n_local + i] = MP_NO_PLACE;
            if (!is_member(&g->vectors[v], g->first_rank + i))
                continue;
            g->at[v * g->n_local + i] = g->end[i];
            fits = fits && !mp_mul_overflow(bytes, 8, &bytes) && !mp_add_overflow(g->end[i], bytes, &g->end[i]);
        }
    }
    return fits ? MP_OK : mp_fail(err, MP_ELIMIT, "the gradients of a rank have more than 2^64 bytes");
}

enum mp_status ex_gradients_new(struct ex_gradients **out, const struct ex_program *p, const struct mp_plan *plan,
                                uint32_t first_rank, uint32_t n_local, const uint64_t *begin, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct ex_gradients *g = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *g) : NULL;
    uint32_t *all = arena != NULL ? mp_arena_alloc(arena, plan->n_gpus, sizeof *all) : NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (g == NULL || all == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "gradients");
    }
    *g = (struct ex_gradients){.first_rank = first_rank, .n_local = n_local, .n_buckets = p->n_buckets, .arena = arena};
    for (uint32_t i = 0; i < plan->n_gpus; i++)
        all[i] = i;
    g->first = mp_arena_alloc(arena, (size_t)p->n_buckets + 1, sizeof *g->first);
    g->vectors = mp_arena_alloc(arena, (size_t)plan->n_layers * (plan->n_experts + (size_t)1), sizeof *g->vectors);
    if (g->first == NULL || g->vectors == NULL) {
        status = mp_nomem(err, "gradients");
        goto out;
    }
    for (uint32_t b = 0; b < p->n_buckets; b++) {
        for (uint32_t l = p->buckets[b].is.last_layer + 1; l-- > p->buckets[b].is.first_layer;)
            MP_TRY(add_layer(g, p, plan, &p->buckets[b], l, all, err));
        g->first[b + 1] = g->n_vectors;
    }
    MP_TRY(lay(g, begin, err));
out:
    if (status != MP_OK)
        ex_gradients_free(g);
    else
        *out = g;
    return status;
}

void ex_gradients_free(struct ex_gradients *g) {
    if (g != NULL)
        mp_arena_free(g->arena);
}

/* ---- what is in them ---- */

static uint64_t stream(const struct ex_payload *p, const struct ex_vector *v, uint32_t rank) {
    return mp_mix64(mp_mix64((uint64_t)v->layer << 32 | rank) ^ mp_mix64((uint64_t)v->expert << 32 | p->step) ^
                    mp_mix64(p->seed ^ mp_mix64(~(uint64_t)p->iteration)));
}

void ex_gradients_fill(const struct ex_gradients *g, const struct ex_payload *p, uint32_t local, uint8_t *block) {
    for (size_t v = 0; v < g->n_vectors; v++) {
        const uint64_t at = g->at[v * g->n_local + local], s = stream(p, &g->vectors[v], g->first_rank + local);
        for (uint64_t w = 0; at != MP_NO_PLACE && w < g->vectors[v].words; w++) {
            const uint64_t word = mp_mix64(s + w);
            if (w % PIECE_WORDS == 0)
                ex_pulse_beat(p->pulse);
            memcpy(block + at + w * 8, &word, 8);
        }
    }
}

static enum mp_status wrong(const struct ex_vector *v, const struct ex_payload *p, uint32_t rank, uint64_t word,
                            uint64_t got, uint64_t want, struct mp_error *err) {
    char of[48] = "what all ranks hold";
    if (v->expert != MP_NONE)
        snprintf(of, sizeof of, "expert %u, on %u ranks", v->expert, v->n_members);
    return mp_fail(
        err, MP_EPEER,
        "allreduce of step %u: word %llu of %llu of the gradients of %s, layer %u of the plan, is 0x%016llx on "
        "rank %u and should be 0x%016llx",
        p->step, (unsigned long long)word, (unsigned long long)v->words, of, v->layer, (unsigned long long)got, rank,
        (unsigned long long)want);
}

enum mp_status ex_gradients_check(const struct ex_gradients *g, const struct ex_payload *p, uint32_t local,
                                  const uint8_t *block, uint64_t *bytes, struct mp_error *err) {
    uint32_t most = 0;
    for (size_t v = 0; v < g->n_vectors; v++)
        most = g->vectors[v].n_members > most ? g->vectors[v].n_members : most;
    uint64_t *streams = mp_calloc((size_t)most + 1, sizeof *streams);
    enum mp_status status = streams == NULL ? mp_nomem(err, "checking gradients") : MP_OK;
    for (size_t i = 0; i < g->n_vectors && status == MP_OK; i++) {
        const struct ex_vector *v = &g->vectors[i];
        const uint64_t at = g->at[i * g->n_local + local];
        if (at == MP_NO_PLACE)
            continue;
        for (uint32_t m = 0; m < v->n_members; m++)
            streams[m] = stream(p, v, v->members[m]);
        for (uint64_t w = 0; w < v->words && status == MP_OK; w++) {
            uint64_t got, want = 0;
            memcpy(&got, block + at + w * 8, 8);
            for (uint32_t m = 0; m < v->n_members; m++)
                want += mp_mix64(streams[m] + w);
            if (w % PIECE_WORDS == 0)
                ex_pulse_beat(p->pulse);
            if (got != want)
                status = wrong(v, p, g->first_rank + local, w, got, want, err);
        }
        *bytes += v->words * 8;
    }
    mp_free(streams);
    return status;
}

/* ---- chunks ---- */

enum mp_status ex_gradients_sum(struct ex_sum **out, const struct ex_gradients *g, const struct ex_program *p,
                                uint32_t bucket, uint32_t chunk, uint32_t local, struct mp_error *err) {
    const size_t first = g->first[bucket], n = g->first[bucket + 1] - first;
    const uint64_t n_chunks = p->buckets[bucket].n_chunks;
    struct ex_sum *s = mp_calloc(1, sizeof *s);
    *out = s;
    if (s == NULL || (s->spans = mp_calloc(n, sizeof *s->spans)) == NULL) {
        mp_free(s);
        *out = NULL;
        return mp_nomem(err, "sums of gradients");
    }
    s->chunk = chunk;
    s->is_experts = p->buckets[bucket].is.is_experts;
    for (size_t i = first; i < first + n; i++) {
        const struct ex_vector *v = &g->vectors[i];
        const uint64_t begin = mp_mul_div(v->words, chunk, n_chunks),
                       end = mp_mul_div(v->words, chunk + (uint64_t)1, n_chunks), at = g->at[i * g->n_local + local];
        if (begin < end && at != MP_NO_PLACE)
            s->spans[s->n_spans++] = (struct ex_span){
                .at = at + begin * 8, .bytes = (end - begin) * 8, .n_members = v->n_members, .members = v->members};
    }
    return MP_OK;
}

void ex_gradients_sum_free(struct ex_sum *s) {
    if (s == NULL)
        return;
    mp_free(s->spans);
    mp_free(s);
}
