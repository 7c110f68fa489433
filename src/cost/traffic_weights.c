/* Copies and rows of a step whose experts travel. docs/LUFFY.md, "Experts that travel".
 *
 * Decides   which experts are copied to the GPUs of their tokens in one layer of one step.
 * Minimises of a shadowing dispatcher: port bounds of tokens there and back and of the experts' bytes, plus the slowest
 *           GPU's computation; in a training step with the passes that each of them makes.
 * Method    fetching: all that are used. Shadowing: the best number of experts, those with most remote tokens first
 *           (ties: the lower slot).
 * Bound     none.
 * Differs   Janus (J. Liu et al., SIGCOMM 2023) also schedules when experts are fetched, and hides it behind
 *           computation; FasterMoE (J. He et al., PPoPP 2022) predicts with its own linear model, and overlaps.
 * Cost      O(rows * top_k + slots * GPUs), shadowing about 10 port bounds on top.  Deterministic. */
#include "traffic.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE = 8 };

struct count {
    struct traffic_scratch *s;
    const struct mp_cost_setup *in;
    uint32_t layer;
    size_t n, n_slots;
};

static enum mp_status room(struct traffic_scratch *s, size_t n, size_t n_slots, struct mp_error *err) {
    if (n * n_slots <= s->n_pair_cells && s->trial != NULL)
        return MP_OK;
    mp_free(s->pairs);
    mp_free(s->trial);
    mp_free(s->is_copied);
    mp_free(s->by_traffic);
    s->pairs = mp_calloc(n * n_slots, sizeof *s->pairs);
    s->trial = mp_calloc(3 * n * n, sizeof *s->trial);
    s->is_copied = mp_calloc(n_slots, sizeof *s->is_copied);
    s->by_traffic = mp_calloc(n_slots, sizeof *s->by_traffic);
    s->n_pair_cells = n * n_slots;
    if (s->pairs == NULL || s->trial == NULL || s->is_copied == NULL || s->by_traffic == NULL) {
        s->n_pair_cells = 0;
        return mp_nomem(err, "experts that travel");
    }
    return MP_OK;
}

static enum mp_status count_pairs(struct count *c, uint32_t step, struct mp_error *err) {
    struct traffic_scratch *s = c->s;
    const struct mp_trace *trace = c->in->workload->trace;
    const struct mp_step *st = &c->in->workload->steps[step];
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t slots[MP_MAX_TOP_K];
    memset(s->pairs, 0, c->n * c->n_slots * sizeof *s->pairs);
    s->rank = MP_NONE;
    for (uint32_t i = 0; i < st->n; i++) {
        const uint32_t k = mp_trace_row(trace, c->layer, st->row[i], ids), src = st->source[i];
        enum mp_status status = traffic_choose(s, c->in, c->layer, src, mp_token_hash(st->row[i]), ids, k, slots, err);
        if (status != MP_OK)
            return status;
        s->pub.source_rows[src]++;
        for (uint32_t j = 0; j < k; j++)
            s->pairs[src * c->n_slots + slots[j]]++;
    }
    for (uint32_t r = 0; r < c->in->workload->n_ranks; r++)
        s->pub.source_rows[r] += st->padding != NULL ? st->padding[r] : 0;
    return MP_OK;
}

/* The bytes of a copied expert: to each node once, to its first GPU that wants it, and from there to the others. */
static void send_expert(struct count *c, uint32_t slot, uint64_t *weights) {
    struct traffic_scratch *s = c->s;
    const bool is_wanted_everywhere = c->in->dispatcher->weights == MP_WEIGHTS_SHADOW;
    const uint64_t bytes = c->in->model->expert_bytes;
    const uint32_t from = s->slot_gpu[slot], n_nodes = mp_topology_n_nodes(c->in->topology);
    for (uint32_t v = 0; v < n_nodes; v++) {
        uint32_t has = v == s->node[from] ? from : MP_NONE;
        for (uint32_t i = s->node_first[v]; i < s->node_first[v + 1]; i++) {
            const uint32_t g = s->node_gpus[i];
            if (g == from || (!is_wanted_everywhere && s->pairs[g * c->n_slots + slot] == 0))
                continue;
            weights[(has == MP_NONE ? from : has) * c->n + g] += bytes;
            has = has == MP_NONE ? g : has;
        }
    }
}

/* What GPU g computes: its own experts' tokens, and those of its tokens whose experts have come. */
static void rows_of(const struct count *c, uint32_t g, uint64_t *rows, uint64_t *padded, uint32_t *active) {
    const struct traffic_scratch *s = c->s;
    uint64_t tile = c->in->topology->types[c->in->topology->gpus[g].type].tile_tokens;
    tile = tile == 0 ? 1 : tile;
    *rows = *padded = *active = 0;
    for (uint32_t slot = 0; slot < c->n_slots; slot++) {
        uint64_t here = 0;
        if (s->is_copied[slot])
            here = s->pairs[g * c->n_slots + slot];
        else if (s->slot_gpu[slot] == g)
            for (size_t i = 0; i < c->n; i++)
                here += s->pairs[i * c->n_slots + slot];
        *rows += here;
        *padded += mp_ceil_div(here, tile) * tile;
        *active += here > 0;
    }
}

/* Of what is copied now. */
static uint64_t estimate_ns(struct count *c) {
    struct traffic_scratch *s = c->s;
    const size_t cells = c->n * c->n;
    uint64_t *dispatch = s->trial, *combine = s->trial + cells, *weights = s->trial + 2 * cells, slowest = 0;
    const struct mp_model *m = c->in->model;
    memset(s->trial, 0, 3 * cells * sizeof *s->trial);
    for (uint32_t slot = 0; slot < c->n_slots; slot++) {
        if (s->is_copied[slot]) {
            send_expert(c, slot, weights);
            continue;
        }
        const size_t to = s->slot_gpu[slot];
        for (size_t i = 0; i < c->n; i++) {
            const uint64_t copies = i == to ? 0 : s->pairs[i * c->n_slots + slot];
            dispatch[i * c->n + to] += copies * m->dispatch_bytes;
            combine[to * c->n + i] += copies * m->combine_bytes;
        }
    }
    for (uint32_t g = 0; g < c->n; g++) {
        uint64_t rows, padded;
        uint32_t active;
        rows_of(c, g, &rows, &padded, &active);
        const uint64_t ns = mp_compute_ns(c->in->topology, g, m, active, padded);
        slowest = ns > slowest ? ns : slowest;
    }
    /* Training: tokens there and back twice, experts there twice and their gradients back, computation three times. */
    const bool is_training = c->in->workload->batching.phase == MP_PHASE_TRAIN;
    const uint64_t tokens = mp_port_bound_ns(c->in->topology, dispatch) + mp_port_bound_ns(c->in->topology, combine);
    return (is_training ? 2 : 1) * tokens +
           (is_training ? 3 : 1) * (mp_port_bound_ns(c->in->topology, weights) + slowest);
}

static int by_falling_traffic(const void *pa, const void *pb) {
    const struct slot_traffic *a = pa, *b = pb;
    if (a->remote != b->remote)
        return a->remote > b->remote ? -1 : 1;
    return (a->slot > b->slot) - (a->slot < b->slot);
}

static void sort_slots(struct count *c) {
    struct traffic_scratch *s = c->s;
    for (uint32_t k = 0; k < c->n_slots; k++) {
        s->by_traffic[k] = (struct slot_traffic){.slot = k};
        for (size_t i = 0; i < c->n; i++)
            s->by_traffic[k].remote += i == s->slot_gpu[k] ? 0 : s->pairs[i * c->n_slots + k];
    }
    qsort(s->by_traffic, c->n_slots, sizeof *s->by_traffic, by_falling_traffic);
}

/* The best number of experts, the busiest first: numbers are tried until PATIENCE in a row were no better than the
 * best, and all of them. */
static void shadow(struct count *c) {
    struct traffic_scratch *s = c->s;
    uint64_t best = estimate_ns(c);
    uint32_t n_best = 0;
    sort_slots(c);
    for (uint32_t n = 1; n <= c->n_slots; n++) {
        s->is_copied[s->by_traffic[n - 1].slot] = true;
        if (n > n_best + PATIENCE && n < c->n_slots)
            continue;
        const uint64_t ns = estimate_ns(c);
        n_best = ns < best ? n : n_best;
        best = ns < best ? ns : best;
    }
    for (uint32_t n = n_best; n < c->n_slots; n++)
        s->is_copied[s->by_traffic[n].slot] = false;
}

enum mp_status traffic_weights_count(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                     uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    struct count c = {.s = s, .in = in, .layer = layer, .n = t->n_gpus, .n_slots = in->plan->n_slots};
    enum mp_status status = MP_OK;
    if (in->workload->trace->kind != MP_TRACE_TOKENS || in->sources != MP_SOURCES_DP || in->flow != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "%s: experts travel to tokens that are known and stay where they start (record the top-k of "
                       "every token, use --sources dp, and neither move nor condense tokens)",
                       in->dispatcher->name);
    MP_TRY(room(s, c.n, c.n_slots, err));
    MP_TRY(count_pairs(&c, step, err));
    memset(s->is_copied, in->dispatcher->weights == MP_WEIGHTS_FETCH, c.n_slots * sizeof *s->is_copied);
    if (in->dispatcher->weights == MP_WEIGHTS_SHADOW)
        shadow(&c);
    for (uint32_t slot = 0; slot < c.n_slots; slot++) {
        if (s->is_copied[slot])
            send_expert(&c, slot, t->weights);
        for (size_t i = 0; i < c.n; i++) {
            const uint32_t to = s->slot_gpu[slot];
            const uint64_t pairs = s->pairs[i * c.n_slots + slot];
            if (s->is_copied[slot] || i == to) {
                t->slot_rows[slot] += i == to ? pairs : 0;
                continue;
            }
            t->slot_rows[slot] += pairs;
            t->dispatch[i * c.n + to] += pairs;
            t->copies_expert += pairs;
            t->copies_inter += s->node[i] != s->node[to] ? pairs : 0;
        }
    }
    for (uint32_t g = 0; g < c.n; g++)
        rows_of(&c, g, &t->rows[g], &t->padded_rows[g], &t->active[g]);
out:
    return status;
}
