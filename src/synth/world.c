/* What all requests of a synthetic trace share: popularity, clusters, and which cluster leads to which.
 *
 * Decides   per layer: a popularity order, a partition into clusters, a map of clusters to those of the next layer.
 * Minimises -
 * Method    Zipf weights under random permutations, as integers; clusters of consecutive places of another permutation;
 *           the i-th heaviest cluster leads to the i-th heaviest of the next layer, which keeps a layer's popularity.
 * Bound     -
 * Differs   a model of our own; parameters are fitted by tools/dev/fit_presets (docs/SYNTHETIC.md).
 * Cost      O(layers * experts * (domains + 2)) time and memory.  Deterministic in the parameters. */
#include "internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights of Zipf's law, integers in [1, 2^19], so that 4,096 of them stay below 2^32. */
static void zipf_weights(uint32_t n, uint32_t zipf_ppm, uint32_t *weights) {
    for (uint32_t r = 0; r < n; r++) {
        long long w = llround(pow((double)r + 1, -(double)zipf_ppm / 1e6) * 524288.0);
        weights[r] = w < 1 ? 1 : (uint32_t)w;
    }
}

struct builder {
    const struct mp_synth_params *p;
    struct mp_arena *arena;
    uint32_t *weights;  /* [n_experts] by popularity rank */
    uint32_t *order;    /* [n_experts] scratch permutation */
    uint32_t *position; /* [n_experts] of each expert in this layer's cluster order */
};

/* One popularity: a fresh permutation decides which expert has which rank. */
static enum mp_status draw_popularity(struct builder *b, struct mp_rng *rng, struct mp_popularity *out,
                                      struct mp_error *err) {
    uint32_t n = b->p->n_experts;
    uint32_t *cumulative = mp_arena_alloc(b->arena, (size_t)n + 1, sizeof *cumulative);
    uint16_t *guide = mp_arena_alloc(b->arena, 256, sizeof *guide);
    if (cumulative == NULL || guide == NULL)
        return mp_nomem(err, "the synthetic trace");
    for (uint32_t i = 0; i < n; i++)
        b->order[i] = i;
    mp_rng_shuffle(rng, b->order, n);
    for (uint32_t rank = 0; rank < n; rank++)
        cumulative[b->position[b->order[rank]] + 1] = b->weights[rank];
    for (uint32_t i = 0; i < n; i++)
        cumulative[i + 1] += cumulative[i];
    uint32_t at = 0;
    for (uint32_t g = 0; g < 256; g++) {
        uint64_t x = ((uint64_t)g << 24) * cumulative[n] >> 32;
        while (cumulative[at + 1] <= x)
            at++;
        guide[g] = (uint16_t)at;
    }
    *out = (struct mp_popularity){cumulative, guide};
    return MP_OK;
}

static enum mp_status draw_layer(struct builder *b, struct mp_rng *rng, struct mp_synth_layer *layer,
                                 struct mp_error *err) {
    uint32_t n = b->p->n_experts;
    uint16_t *expert_at = mp_arena_alloc(b->arena, n, sizeof *expert_at);
    struct mp_popularity *domains = mp_arena_alloc(b->arena, b->p->n_domains, sizeof *domains);
    if (expert_at == NULL || domains == NULL)
        return mp_nomem(err, "the synthetic trace");
    for (uint32_t i = 0; i < n; i++)
        b->order[i] = i;
    mp_rng_shuffle(rng, b->order, n);
    for (uint32_t i = 0; i < n; i++) {
        expert_at[i] = (uint16_t)b->order[i];
        b->position[b->order[i]] = i;
    }
    layer->expert_at = expert_at;
    layer->domains = domains;
    enum mp_status status;
    MP_TRY(draw_popularity(b, rng, &layer->base, err));
    MP_TRY(draw_popularity(b, rng, &layer->moved, err));
    for (uint32_t d = 0; d < b->p->n_domains; d++)
        MP_TRY(draw_popularity(b, rng, &domains[d], err));
out:
    return status;
}

struct cluster {
    uint32_t index, weight;
};
static int by_falling_weight(const void *pa, const void *pb) {
    const struct cluster *a = pa, *b = pb;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}
static void rank_clusters(const struct mp_synth_world *w, uint32_t layer, struct cluster *out) {
    uint32_t size = w->params->cluster_size, n = w->params->n_experts;
    const uint32_t *cumulative = w->layers[layer].base.cumulative;
    for (uint32_t c = 0; c < w->n_clusters; c++) {
        uint32_t end = (c + 1) * size < n ? (c + 1) * size : n;
        out[c] = (struct cluster){c, cumulative[end] - cumulative[c * size]};
    }
    qsort(out, w->n_clusters, sizeof *out, by_falling_weight);
}

enum mp_status mp_synth_world_build(struct mp_synth_world *w, const struct mp_synth_params *p, struct mp_arena *arena,
                                    struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_synth_layer *layers = mp_arena_alloc(arena, p->n_layers, sizeof *layers);
    *w = (struct mp_synth_world){
        .params = p, .n_clusters = (uint32_t)mp_ceil_div(p->n_experts, p->cluster_size), .layers = layers};
    struct builder b = {.p = p, .arena = arena};
    struct cluster *here = mp_calloc(w->n_clusters, sizeof *here), *next = mp_calloc(w->n_clusters, sizeof *next);
    b.weights = mp_calloc(p->n_experts, sizeof *b.weights);
    b.order = mp_calloc(p->n_experts, sizeof *b.order);
    b.position = mp_calloc(p->n_experts, sizeof *b.position);
    if (layers == NULL || here == NULL || next == NULL || b.weights == NULL || b.order == NULL || b.position == NULL) {
        status = mp_nomem(err, "the synthetic trace");
        goto out;
    }
    zipf_weights(p->n_experts, p->zipf_ppm, b.weights);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        /* A stream per layer: fewer layers give the same first ones. */
        struct mp_rng rng = mp_rng_seed(mp_mix64(p->seed) ^ mp_mix64(UINT64_C(0x6c61796572) + l));
        MP_TRY(draw_layer(&b, &rng, &layers[l], err));
    }
    for (uint32_t l = 0; l + 1 < p->n_layers; l++) {
        uint32_t *maps_to = mp_arena_alloc(arena, w->n_clusters, sizeof *maps_to);
        if (maps_to == NULL) {
            status = mp_nomem(err, "the synthetic trace");
            goto out;
        }
        rank_clusters(w, l, here);
        rank_clusters(w, l + 1, next);
        for (uint32_t i = 0; i < w->n_clusters; i++)
            maps_to[here[i].index] = next[i].index;
        layers[l].maps_to = maps_to;
    }
out:
    mp_free(here);
    mp_free(next);
    mp_free(b.weights);
    mp_free(b.order);
    mp_free(b.position);
    return status;
}
