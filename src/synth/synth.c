/* Synthetic traces from named parameters.
 *
 * Decides   the top-k of every token and layer.
 * Minimises -
 * Method    a token's first expert of a layer gives it a home cluster. Each other comes from there (coactivation_ppm),
 *           or from the cluster that its place in the list was led to by the layer before (cross_layer_ppm; the first
 *           one too), or from anywhere; each time a favourite of the request (stickiness_ppm) or by popularity: its
 *           domain's (domain_ppm), the one drifted to, or the base one. docs/SYNTHETIC.md has it in full.
 * Bound     -
 * Differs   a model of our own; nothing is copied from a real trace but the fitted parameters.
 * Cost      about 2 random numbers per pick, O(rows * layers * k); one stream per request, so that the bytes
 *           of a request do not depend on the others.  Deterministic. */
#include "internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    PPM = 1000000,
    BLOCK_ROWS = 128,   /* rows handed to the builder at a time */
    FAVOURITES_MIN = 4, /* a request's own list has max(this, 2 * top_k) draws */
    TRIES = 32          /* draws of an expert that the token has already, before the next free one is taken */
};

struct generator {
    const struct mp_synth_world *world;
    const struct mp_synth_params *p;
    struct mp_rng rng;
    uint32_t domain;    /* of the request, or MP_NONE */
    uint32_t moved_ppm; /* share of the drift at this request */
    bool is_bare;       /* no stickiness: the prefix */
    uint32_t n_favourites;
    uint16_t *favourites;         /* [n_layers][n_favourites] positions */
    uint16_t *cluster_favourites; /* [n_layers][n_clusters] positions */
};

/* The 16 bits as a number in [0, 10^6): is it below ppm? */
static inline bool below_ppm(uint64_t bits16, uint32_t ppm) { return (bits16 & 0xffff) * PPM >> 16 < ppm; }

/* Position drawn from a popularity by 32 random bits. */
static inline uint32_t draw_from(const struct mp_popularity *y, uint32_t n, uint64_t bits32) {
    bits32 &= UINT32_MAX;
    uint64_t x = bits32 * y->cumulative[n] >> 32;
    uint32_t at = y->guide[bits32 >> 24];
    while (y->cumulative[at + 1] <= x)
        at++;
    return at;
}

/* The popularity that governs one draw. */
static inline const struct mp_popularity *choose_popularity(const struct generator *g,
                                                            const struct mp_synth_layer *layer, uint64_t bits16) {
    uint32_t x = (uint32_t)((bits16 & 0xffff) * PPM >> 16);
    uint32_t domain = g->domain != MP_NONE ? g->p->domain_ppm : 0;
    if (x < domain)
        return &layer->domains[g->domain];
    uint32_t moved = (uint32_t)((uint64_t)(PPM - domain) * g->moved_ppm / PPM);
    return x - domain < moved ? &layer->moved : &layer->base;
}

static uint32_t draw_anywhere(struct generator *g, uint32_t l) {
    uint64_t bits = mp_rng_next(&g->rng);
    const struct mp_synth_layer *layer = &g->world->layers[l];
    return draw_from(choose_popularity(g, layer, bits >> 32), g->p->n_experts, bits);
}

/* What a token has in one layer so far. */
struct picks {
    uint32_t n, positions[MP_MAX_TOP_K];
    uint64_t set[MP_MAX_EXPERTS / 64]; /* bit per position */
};
static inline bool has(const struct picks *k, uint32_t at) { return (k->set[at / 64] >> at % 64 & 1) != 0; }

/* By popularity among the experts of a cluster that the token does not have yet; MP_NONE when it has them all. */
static uint32_t draw_in_cluster(struct generator *g, uint32_t l, uint32_t cluster, const struct picks *taken) {
    uint64_t bits = mp_rng_next(&g->rng);
    const uint32_t *cumulative = choose_popularity(g, &g->world->layers[l], bits >> 32)->cumulative;
    uint32_t begin = cluster * g->p->cluster_size, end = begin + g->p->cluster_size;
    if (end > g->p->n_experts)
        end = g->p->n_experts;
    uint64_t total = cumulative[end] - cumulative[begin];
    for (uint32_t i = 0; i < taken->n; i++)
        if (taken->positions[i] >= begin && taken->positions[i] < end)
            total -= cumulative[taken->positions[i] + 1] - cumulative[taken->positions[i]];
    if (total == 0)
        return MP_NONE;
    uint64_t x = (bits & UINT32_MAX) * total >> 32;
    for (uint32_t at = begin;; at++) { /* x is below what is left, so this ends inside the cluster */
        if (has(taken, at))
            continue;
        uint64_t weight = cumulative[at + 1] - cumulative[at];
        if (x < weight)
            return at;
        x -= weight;
    }
}

/* The next pick; chain[j] is the cluster that pick j is led to, MP_NONE in the first layer. *led: it keeps to its
 * chain. */
static uint32_t draw_pick(struct generator *g, uint32_t l, const uint32_t *chain, uint32_t home,
                          const struct picks *taken, bool *led) {
    const struct mp_synth_params *p = g->p;
    uint64_t bits = mp_rng_next(&g->rng);
    bool sticks = !g->is_bare && below_ppm(bits >> 48, p->stickiness_ppm);
    *led = chain[taken->n] != MP_NONE && below_ppm(bits >> 16, p->cross_layer_ppm);
    uint32_t cluster = *led ? chain[taken->n] : MP_NONE, at = MP_NONE;
    if (home != MP_NONE && below_ppm(bits >> 32, p->coactivation_ppm))
        cluster = home;
    if (sticks)
        at = cluster == MP_NONE ? g->favourites[(size_t)l * g->n_favourites + ((bits & 0xffff) * g->n_favourites >> 16)]
                                : g->cluster_favourites[(size_t)l * g->world->n_clusters + cluster];
    if (at != MP_NONE && !has(taken, at))
        return at;
    if (cluster != MP_NONE && (at = draw_in_cluster(g, l, cluster, taken)) != MP_NONE)
        return at;
    *led = *led && cluster != chain[taken->n]; /* a chain whose cluster is used up ends */
    at = draw_anywhere(g, l);
    for (int t = 1; t < TRIES && has(taken, at); t++)
        at = draw_anywhere(g, l);
    while (has(taken, at)) /* the next free place */
        at = at + 1 < p->n_experts ? at + 1 : 0;
    return at;
}

/* The top-k of one token in one layer. chain: in, the clusters its picks are led to; out, those they are in. */
static void draw_top_k(struct generator *g, uint32_t l, uint32_t *chain, struct picks *taken) {
    uint32_t home = MP_NONE;
    taken->n = 0;
    memset(taken->set, 0, ((size_t)g->p->n_experts + 63) / 64 * sizeof taken->set[0]);
    while (taken->n < g->p->top_k) {
        bool led;
        uint32_t at = draw_pick(g, l, chain, home, taken, &led);
        if (!led)
            chain[taken->n] = at / g->p->cluster_size;
        if (taken->n == 0)
            home = at / g->p->cluster_size;
        taken->positions[taken->n++] = at;
        taken->set[at / 64] |= UINT64_C(1) << at % 64;
    }
}

static void draw_row(struct generator *g, uint16_t *ids) {
    struct picks taken;
    uint32_t chain[MP_MAX_TOP_K];
    for (uint32_t j = 0; j < g->p->top_k; j++)
        chain[j] = MP_NONE;
    for (uint32_t l = 0; l < g->p->n_layers; l++) {
        const struct mp_synth_layer *layer = &g->world->layers[l];
        draw_top_k(g, l, chain, &taken);
        for (uint32_t j = 0; j < g->p->top_k; j++) {
            *ids++ = layer->expert_at[taken.positions[j]];
            if (layer->maps_to != NULL)
                chain[j] = layer->maps_to[chain[j]];
        }
    }
}

/* The first tokens, drawn once: by base popularity, whatever the request. */
static void draw_prefix(struct generator *g, uint16_t *ids) {
    struct generator bare = {.world = g->world, .p = g->p, .domain = MP_NONE, .is_bare = true};
    bare.rng = mp_rng_seed(mp_mix64(g->p->seed) ^ mp_mix64(UINT64_C(0x707265666978)));
    for (uint32_t i = 0; i < g->p->prefix_tokens; i++)
        draw_row(&bare, ids + (size_t)i * g->p->n_layers * g->p->top_k);
}

static uint64_t start_request(struct generator *g, uint64_t r) {
    const struct mp_synth_params *p = g->p;
    g->rng = mp_rng_seed(mp_mix64(p->seed) ^ mp_mix64(UINT64_C(0x72657175657374) + r));
    g->domain = p->n_domains > 0 ? (uint32_t)mp_rng_below(&g->rng, p->n_domains) : MP_NONE;
    g->moved_ppm = p->n_requests > 1 ? (uint32_t)mp_mul_div(p->drift_ppm, r, p->n_requests - 1) : 0;
    uint64_t least = mp_ceil_div(p->tokens_per_request_mean, 2);
    uint64_t most = p->tokens_per_request_mean + p->tokens_per_request_mean / 2;
    uint64_t n = least + mp_rng_below(&g->rng, most - least + 1);
    static const struct picks none;
    for (uint32_t l = 0; l < p->n_layers && p->stickiness_ppm > 0; l++) {
        for (uint32_t i = 0; i < g->n_favourites; i++)
            g->favourites[(size_t)l * g->n_favourites + i] = (uint16_t)draw_anywhere(g, l);
        for (uint32_t c = 0; c < g->world->n_clusters; c++)
            g->cluster_favourites[(size_t)l * g->world->n_clusters + c] = (uint16_t)draw_in_cluster(g, l, c, &none);
    }
    return n;
}

static enum mp_status in_range(const char *option, uint64_t value, uint64_t least, uint64_t most,
                               struct mp_error *err) {
    if (value >= least && value <= most)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "%s %" PRIu64 " is not in [%" PRIu64 ", %" PRIu64 "]", option, value, least, most);
}
static enum mp_status share(const char *option, uint32_t ppm, struct mp_error *err) {
    if (ppm <= PPM)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "%s %u.%06u is not in [0, 1]", option, ppm / PPM, ppm % PPM);
}

static enum mp_status check_params(const struct mp_synth_params *p, struct mp_error *err) {
    enum mp_status status;
    MP_TRY(in_range("--layers", p->n_layers, 1, MP_MAX_LAYERS, err));
    MP_TRY(in_range("--experts", p->n_experts, 1, MP_MAX_EXPERTS, err));
    MP_TRY(in_range("--top-k", p->top_k, 1, p->n_experts < MP_MAX_TOP_K ? p->n_experts : MP_MAX_TOP_K, err));
    MP_TRY(in_range("--n-requests", p->n_requests, 1, UINT32_MAX - 1, err));
    MP_TRY(in_range("--tokens-per-request", p->tokens_per_request_mean, 1, UINT32_MAX, err));
    MP_TRY(in_range("--n-requests times --tokens-per-request", mp_mul_div(p->n_requests, p->tokens_per_request_mean, 1),
                    1, MP_MAX_TOKENS / 2, err));
    MP_TRY(in_range("--cluster", p->cluster_size, 1, p->n_experts, err));
    MP_TRY(in_range("the prefix tokens", p->prefix_tokens, 0, 4096, err));
    MP_TRY(in_range("--domains", p->n_domains, 0, 1024, err));
    if (p->first_layer_id > UINT32_MAX - MP_MAX_LAYERS) {
        status = mp_fail(err, MP_EUSAGE, "the first layer id %u is too large", p->first_layer_id);
        goto out;
    }
    if (p->zipf_ppm > 4 * PPM) {
        status = mp_fail(err, MP_EUSAGE, "--zipf %u.%06u is not in [0, 4]", p->zipf_ppm / PPM, p->zipf_ppm % PPM);
        goto out;
    }
    MP_TRY(share("--coactivation", p->coactivation_ppm, err));
    MP_TRY(share("--cross-layer", p->cross_layer_ppm, err));
    MP_TRY(share("--domain-share", p->domain_ppm, err));
    MP_TRY(share("--drift", p->drift_ppm, err));
    MP_TRY(share("--stickiness", p->stickiness_ppm, err));
    if (p->phase != MP_PHASE_PREFILL && p->phase != MP_PHASE_DECODE && p->phase != MP_PHASE_TRAIN)
        status = mp_fail(err, MP_EUSAGE, "a synthetic trace needs --phase prefill, decode or train");
out:
    return status;
}

enum mp_status mp_synth_generate(struct mp_trace **out, const struct mp_synth_params *p, const struct mp_limits *limits,
                                 struct mp_error *err) {
    *out = NULL;
    enum mp_status status = check_params(p, err);
    if (status != MP_OK)
        return status;
    struct mp_arena *arena = mp_arena_new();
    struct mp_progress_part *part = NULL;
    struct mp_trace_builder *builder = NULL;
    struct mp_synth_world world;
    struct generator g = {.world = &world, .p = p};
    g.n_favourites = 2 * p->top_k > FAVOURITES_MIN ? 2 * p->top_k : FAVOURITES_MIN;
    size_t row_ids = (size_t)p->n_layers * p->top_k;
    uint32_t *layer_ids = mp_calloc(p->n_layers, sizeof *layer_ids);
    uint16_t *ids = mp_calloc(BLOCK_ROWS * row_ids, sizeof *ids);
    uint16_t *prefix = mp_calloc(p->prefix_tokens * row_ids, sizeof *prefix);
    g.favourites = mp_calloc((size_t)p->n_layers * g.n_favourites, sizeof *g.favourites);
    g.cluster_favourites =
        mp_calloc(p->n_layers * mp_ceil_div(p->n_experts, p->cluster_size), sizeof *g.cluster_favourites);
    if (arena == NULL || layer_ids == NULL || ids == NULL || prefix == NULL || g.favourites == NULL ||
        g.cluster_favourites == NULL) {
        status = mp_nomem(err, "the synthetic trace");
        goto out;
    }
    for (uint32_t l = 0; l < p->n_layers; l++)
        layer_ids[l] = p->first_layer_id + l;
    MP_TRY(mp_synth_world_build(&world, p, arena, err));
    draw_prefix(&g, prefix);
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = p->phase,
                                 .model = p->preset != NULL ? p->preset : "",
                                 .format = "synthetic",
                                 .is_synthetic = true,
                                 .is_ranked = true,
                                 .is_time_ordered = true,
                                 .n_layers = p->n_layers,
                                 .n_experts = p->n_experts,
                                 .top_k = p->top_k,
                                 .layer_ids = layer_ids};
    MP_TRY(mp_trace_builder_new(&builder, &meta, limits, err));
    for (uint32_t d = 0; d < p->n_domains; d++) {
        char name[32];
        uint32_t index;
        snprintf(name, sizeof name, "domain-%u", d);
        MP_TRY(mp_trace_builder_category(builder, name, &index, err));
    }
    part = mp_progress_begin(p->progress, "requests", p->n_requests, MP_PROGRESS_LEAF);
    for (uint64_t r = 0; r < p->n_requests; r++) {
        uint64_t n = start_request(&g, r);
        mp_progress_add(part, 1);
        struct mp_request request = {.id = r, .source = MP_NONE, .category = g.domain};
        MP_TRY(mp_trace_builder_request(builder, &request, err));
        uint64_t n_prefix = n < p->prefix_tokens ? n : p->prefix_tokens;
        MP_TRY(mp_trace_builder_rows(builder, prefix, sizeof *prefix, n_prefix, err));
        n -= n_prefix;
        while (n > 0) {
            uint64_t block = n < BLOCK_ROWS ? n : BLOCK_ROWS;
            for (uint64_t i = 0; i < block; i++)
                draw_row(&g, ids + i * row_ids);
            MP_TRY(mp_trace_builder_rows(builder, ids, sizeof *ids, block, err));
            n -= block;
        }
    }
    struct mp_trace_builder *whole = builder;
    builder = NULL; /* finish ends it in either case */
    status = mp_trace_builder_finish(whole, NULL, out, err);
out:
    mp_progress_end(part);
    mp_trace_builder_free(builder);
    mp_free(layer_ids);
    mp_free(ids);
    mp_free(prefix);
    mp_free(g.favourites);
    mp_free(g.cluster_favourites);
    mp_arena_free(arena);
    return status;
}
