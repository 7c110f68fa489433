/* The expert part of one layer, evaluated change by change.
 *
 * Decides   nothing; says what a placement of one layer costs on many steps, and what a swap, a move or a cycle would
 *           make of it.
 * Method    per step one row of counts: padded rows, active slots and rows of each GPU, and copies through each
 *           resource; eight steps side by side. A change copies the row, moves the counts of its items, and takes
 *           maxima. Copies per pair move by sums over groups of sources; copies per token (GPU or node) are counted
 *           from sets of tokens as bits: which use an item, which any item of a GPU or node. Dispatch and combine share
 *           their counts, since the combine takes the same paths backwards.
 * Bound     equal to the simulator with every transfer at its port bound.
 * Differs   replicas only under the rules `even` and `nearest`; p95 is taken layer by layer. Another number of replicas
 *           is other items: those of the number an expert has stand on GPUs, all its others nowhere.
 * Cost      O(steps * (GPUs + resources)) for a change, plus a 64th of the tokens times the items of the touched GPUs
 *           where copies are counted per token; tokens of the changed items with coupled sources. */
#include "layer_cost_parts.h"
#include <stdlib.h>
#include <string.h>

void mp_layer_cost_free(struct mp_layer_cost *c) {
    if (c != NULL)
        mp_arena_free(c->arena);
}

bool mp_layer_cost_is_exact(const struct mp_layer_cost *c) { return c->is_exact; }
const uint16_t *mp_layer_cost_gpus(const struct mp_layer_cost *c) { return c->gpu; }
uint64_t mp_layer_cost_now(const struct mp_layer_cost *c) { return c->now; }
const uint64_t *mp_layer_cost_steps(const struct mp_layer_cost *c) {
    for (uint32_t i = 0; i < c->n_steps; i++)
        c->given_ns[c->order[i]] = c->base_ns[i];
    return c->given_ns;
}
uint64_t mp_layer_cost_rows(const struct mp_layer_cost *c, uint32_t item) { return c->total_rows[item]; }
uint64_t mp_layer_cost_work(const struct mp_layer_cost *c) { return c->n_work; }

/* Loops over blocks are compiled twice, for any processor and for one with AVX2; what they call has to be inlined. */
#define INLINE static inline __attribute__((always_inline))
/* Of counts, which are below 2^31: processors compare numbers with a sign. */
#define LARGER(a, b)                                                                                                   \
    (((a) & (lanes)((signed_lanes)(a) > (signed_lanes)(b))) | ((b) & ~(lanes)((signed_lanes)(a) > (signed_lanes)(b))))

INLINE const lanes *lanes_in(const uint32_t *row, size_t at) { return (const lanes *)(row + at * LANES); }
INLINE lanes *lanes_of(uint32_t *row, size_t at) { return (lanes *)(row + at * LANES); }

/* ---- copies on their paths ---- */

/* In one lane, that of `row`: n copies (or -n, wrapping) from src to dst, not the same GPU. */
static void add_copies(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, uint32_t n) {
    uint32_t L = c->n_levels, level = level_of(c, src, dst);
    row[c->out_at[src * L + level] * LANES] += n;
    row[c->in_at[dst * L + level] * LANES] += n;
    for (uint32_t l = 0; l < level; l++)
        if (c->has_uplink[l]) {
            row[c->up_out_at[l * c->n_gpus + c->group[src * L + l]] * LANES] += n;
            row[c->up_in_at[l * c->n_gpus + c->group[dst * L + l]] * LANES] += n;
        }
    if (c->cell_at != NULL && c->cell_at[src * c->n_gpus + dst] != MP_NONE)
        row[c->cell_at[src * c->n_gpus + dst] * LANES] += n;
    if (level > 0)
        row[c->inter_at * LANES] += n;
}
/* The same in the second phase, inside a node. */
static void add_copies2(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, uint32_t n) {
    row[c->out2_at[src] * LANES] += n;
    row[c->in2_at[dst] * LANES] += n;
    if (c->cell2_at != NULL && c->cell2_at[src * c->n_gpus + dst] != MP_NONE)
        row[c->cell2_at[src * c->n_gpus + dst] * LANES] += n;
}
static uint32_t gateway(const struct mp_layer_cost *c, uint32_t src, uint32_t node) {
    return c->node_first[node] + c->index_in_node[src] % c->node_size[node];
}

/* ---- time of steps from their rows ---- */
INLINE void phase_ns(const struct mp_layer_cost *c, const uint32_t *row, uint32_t from, uint32_t to,
                     uint64_t dispatch[LANES], uint64_t combine[LANES]) {
    for (uint32_t i = from; i < to; i++) {
        const struct cost_class *k = &c->classes[i];
        lanes most = *lanes_in(row, k->first);
        for (uint32_t j = 1; j < k->n; j++) {
            const lanes x = *lanes_in(row, k->first + j);
            most = LARGER(x, most);
        }
        for (uint32_t way = 0; way < 2; way++) {
            const struct cost_rate r = way == 0 ? k->dispatch : k->combine;
            uint64_t *longest = way == 0 ? dispatch : combine;
            for (uint32_t x = 0; x < LANES; x++) {
                uint64_t ns = k->is_small ? divide(&r.by, most[x] * r.unit + r.by.by - 1)
                                          : mp_mul_div_ceil(most[x], r.unit, r.by.by);
                longest[x] = ns > longest[x] ? ns : longest[x];
            }
        }
    }
}

INLINE uint64_t compute_ns(const struct gpu_cost *k, uint32_t active, uint32_t padded) {
    if (active == 0)
        return 0;
    uint64_t weights = k->a + k->b * active, tokens = k->c + k->beta * padded;
    return divide(&k->by_speed, (weights > tokens ? weights : tokens) * 1000 + k->speed - 1);
}
INLINE void compute_gpu(const struct mp_layer_cost *c, uint32_t g, const uint32_t *row, uint64_t *compute) {
    const uint32_t *active = row + (c->active_at + g) * (size_t)LANES, *padded = row + g * (size_t)LANES;
    for (uint32_t x = 0; x < LANES; x++)
        compute[g * (size_t)LANES + x] = compute_ns(&c->gpus[g], active[x], padded[x]);
}

/* Coupled sources: attention and shared experts of what starts on each GPU. */
static void sources_ns(const struct mp_layer_cost *c, const uint32_t *row, uint64_t attention[LANES],
                       uint64_t shared[LANES]) {
    for (uint32_t x = 0; x < LANES; x++) {
        attention[x] = layer_slowest_ns(c, row + c->source_at * (size_t)LANES + x, LANES, false) * c->attention_times;
        shared[x] = layer_slowest_ns(c, row + c->source_at * (size_t)LANES + x, LANES, true);
    }
}

/* Times of the steps of block b from their rows; compute[n_gpus] is up to date. ns and value are those of all steps. */
INLINE void time_block(const struct mp_layer_cost *c, uint32_t b, const uint32_t *row, const uint64_t *compute,
                       uint64_t *ns, uint64_t *value) {
    uint64_t dispatch[2][LANES] = {{0}}, combine[2][LANES] = {{0}}, slow[LANES] = {0}, attention[LANES], shared[LANES];
    if (!c->is_alone) {
        phase_ns(c, row, 0, c->n_first, dispatch[0], combine[0]);
        if (c->has_second)
            phase_ns(c, row, c->n_first, c->n_classes, dispatch[1], combine[1]);
        for (uint32_t x = 0; x < LANES; x++) {
            const uint64_t d = dispatch[1][x], k = combine[1][x];
            dispatch[0][x] = (!c->is_overlapped    ? dispatch[0][x] + d
                              : dispatch[0][x] > d ? dispatch[0][x]
                                                   : d) +
                             c->launch_ns;
            combine[0][x] = (!c->is_overlapped   ? combine[0][x] + k
                             : combine[0][x] > k ? combine[0][x]
                                                 : k) +
                            c->launch_ns;
        }
    }
    for (uint32_t g = 0; g < c->n_gpus; g++)
        for (uint32_t x = 0; x < LANES; x++)
            slow[x] = compute[g * (size_t)LANES + x] > slow[x] ? compute[g * (size_t)LANES + x] : slow[x];
    memcpy(attention, c->attention_ns + (size_t)b * LANES, sizeof attention);
    memcpy(shared, c->shared_ns + (size_t)b * LANES, sizeof shared);
    if (c->is_coupled)
        sources_ns(c, row, attention, shared);
    ns += (size_t)b * LANES;
    value += (size_t)b * LANES;
    for (uint32_t x = 0; x < LANES; x++)
        value[x] = ns[x] =
            attention[x] + (dispatch[0][x] > shared[x] ? dispatch[0][x] : shared[x]) + slow[x] + combine[0][x];
    if (c->objective == MP_OBJECTIVE_PEAK) {
        lanes most = *lanes_in(row, c->rows_at);
        for (uint32_t g = 1; g < c->n_gpus; g++) {
            const lanes rows = *lanes_in(row, c->rows_at + g);
            most = LARGER(rows, most);
        }
        for (uint32_t x = 0; x < LANES; x++)
            value[x] = most[x];
    } else if (c->objective == MP_OBJECTIVE_INTER) {
        for (uint32_t x = 0; x < LANES; x++)
            value[x] = row[c->inter_at * (size_t)LANES + x];
    }
}

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}
static uint64_t objective_of(struct mp_layer_cost *c, const uint64_t *value) {
    uint64_t sum = 0;
    uint32_t n = c->n_steps;
    if (c->objective == MP_OBJECTIVE_P95) {
        memcpy(c->sorted, value, n * sizeof *value);
        qsort(c->sorted, n, sizeof *value, descending);
        value = c->sorted;
        n = (uint32_t)mp_ceil_div(n, 8);
    }
    for (uint32_t s = 0; s < n; s++)
        sum += value[s];
    return sum;
}

/* ---- tokens with coupled sources ---- */
/* In one lane, that of `row`: everything that token t sends, added (n = weight) or taken away (n = -weight). */
static void add_token(const struct mp_layer_cost *c, uint32_t *row, uint32_t t, const uint16_t *gpu, uint32_t n) {
    const uint16_t *ids = c->ids + (size_t)t * c->top_k;
    uint32_t src = gpu[c->home[t]], own = node_of(c, src);
    row[(c->source_at + src) * LANES] += n;
    if (c->copies == MP_COPY_ALL) {
        for (uint32_t g = 0; g < c->n_gpus; g++)
            if (g != src)
                add_copies(c, row, src, g, n);
        return;
    }
    for (uint32_t j = 0; j < c->top_k && ids[j] < c->n_items; j++) {
        uint32_t g = gpu[ids[j]], v = node_of(c, g);
        bool is_new_gpu = true, is_new_node = true;
        for (uint32_t i = 0; i < j && c->copies != MP_COPY_PER_EXPERT; i++) {
            is_new_gpu &= gpu[ids[i]] != g;
            is_new_node &= node_of(c, gpu[ids[i]]) != v;
        }
        if (!is_new_gpu || g == src)
            continue;
        if (c->copies != MP_COPY_PER_NODE || v == own) {
            add_copies(c, row, src, g, n);
            continue;
        }
        uint32_t gate = gateway(c, src, v);
        if (is_new_node)
            add_copies(c, row, src, gate, n);
        if (gate != g)
            add_copies2(c, row, gate, g, n);
    }
}

/* ---- sets of tokens ---- */
/* d copies (wrapping) from src to dst, not the same GPU: add_copies on all lanes. */
/* d by address: vectors as arguments would change the ABI where AVX is off. */
INLINE void add_lanes(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, const lanes *d) {
    const uint32_t L = c->n_levels, n = c->n_gpus, level = level_of(c, src, dst);
    *lanes_of(row, c->out_at[src * L + level]) += *d;
    *lanes_of(row, c->in_at[dst * L + level]) += *d;
    for (uint32_t l = 0; l < level; l++)
        if (c->has_uplink[l]) {
            *lanes_of(row, c->up_out_at[l * n + c->group[src * L + l]]) += *d;
            *lanes_of(row, c->up_in_at[l * n + c->group[dst * L + l]]) += *d;
        }
    if (c->cell_at != NULL && c->cell_at[src * n + dst] != MP_NONE)
        *lanes_of(row, c->cell_at[src * n + dst]) += *d;
    if (level > 0)
        *lanes_of(row, c->inter_at) += *d;
}
INLINE void add_lanes2(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, const lanes *d) {
    *lanes_of(row, c->out2_at[src]) += *d;
    *lanes_of(row, c->in2_at[dst]) += *d;
    if (c->cell2_at != NULL && c->cell2_at[src * c->n_gpus + dst] != MP_NONE)
        *lanes_of(row, c->cell2_at[src * c->n_gpus + dst]) += *d;
}

/* Tokens of a set that come from src. */
INLINE uint32_t count_from(const struct mp_layer_cost *c, const uint64_t *set, uint32_t src) {
    if (c->field_bits < 64) {
        const uint32_t at = src * c->field_bits;
        return (uint32_t)__builtin_popcountll(set[at / 64] >> at % 64 & ((UINT64_C(1) << c->field_bits) - 1));
    }
    uint32_t n = 0;
    for (uint32_t w = c->word_first[src]; w < c->word_first[src + 1]; w++)
        n += (uint32_t)__builtin_popcountll(set[w]);
    return n;
}
/* delta[src] of one lane from the words' differences. */
INLINE void sum_difference(const struct mp_layer_cost *c, uint32_t lane) {
    for (uint32_t src = 0; src < c->n_ranks; src++) {
        uint64_t sum = 0;
        for (uint32_t w = c->word_first[src]; w < c->word_first[src + 1]; w++)
            sum += c->difference[w];
        c->delta[(size_t)src * LANES + lane] = (uint32_t)sum * c->weight[0];
    }
}
/* delta[src] of one lane: how many more tokens of each source there are in `is` than in `was` (NULL = none). */
INLINE void count_delta(const struct mp_layer_cost *c, uint32_t lane, const uint64_t *is, const uint64_t *was) {
    if (c->field_bits == 64 && was != NULL) {
        for (uint32_t w = 0; w < c->n_words; w++)
            c->difference[w] = (uint64_t)__builtin_popcountll(is[w]) - (uint64_t)__builtin_popcountll(was[w]);
        sum_difference(c, lane);
        return;
    }
    for (uint32_t src = 0; src < c->n_ranks; src++)
        c->delta[(size_t)src * LANES + lane] =
            (count_from(c, is, src) - (was != NULL ? count_from(c, was, src) : 0)) * c->weight[0];
}
/* The same of a node, one of whose GPUs has the tokens `is` in place of `was`. */
INLINE void count_node_delta(const struct mp_layer_cost *c, uint32_t lane, const uint64_t *is, const uint64_t *was,
                             const uint64_t *once, const uint64_t *twice) {
    if (c->field_bits < 64) {
        for (uint32_t w = 0; w < c->n_words; w++)
            c->set[0][w] = is[w] | twice[w] | (once[w] & ~was[w]);
        count_delta(c, lane, c->set[0], once);
        return;
    }
    for (uint32_t w = 0; w < c->n_words; w++)
        c->difference[w] = (uint64_t)__builtin_popcountll(is[w] | twice[w] | (once[w] & ~was[w])) -
                           (uint64_t)__builtin_popcountll(once[w]);
    sum_difference(c, lane);
}
INLINE void join_set(const struct mp_layer_cost *c, uint64_t *set, const uint64_t *more) {
    for (uint32_t w = 0; w < c->n_words; w += WORDS)
        *(words *)(set + w) |= *(const words *)(more + w);
}
/* All of n sets at once: an item's set is read once, and the joint one is written every fourth time. */
INLINE void join_sets(const struct mp_layer_cost *c, uint64_t *set, const uint64_t *const *sets, uint32_t n) {
    if (n == 0)
        memset(set, 0, c->n_words * sizeof *set);
    for (uint32_t i = 0; i < n; i += 4) {
        const uint64_t *a = sets[i], *b = i + 1 < n ? sets[i + 1] : a, *d = i + 2 < n ? sets[i + 2] : a,
                       *e = i + 3 < n ? sets[i + 3] : a, *before = i > 0 ? set : a;
        for (uint32_t w = 0; w < c->n_words; w += WORDS)
            *(words *)(set + w) = *(const words *)(a + w) | *(const words *)(b + w) | *(const words *)(d + w) |
                                  *(const words *)(e + w) | *(const words *)(before + w);
    }
}
/* Copies that the tokens of `delta` send because of GPU g, or to node v. */
INLINE void send_to_gpu(const struct mp_layer_cost *c, uint32_t *row, uint32_t g) {
    const uint32_t v = node_of(c, g);
    for (uint32_t src = 0; src < c->n_ranks; src++) {
        const lanes d = *lanes_in(c->delta, src);
        if (src == g)
            continue;
        if (c->copies != MP_COPY_PER_NODE || node_of(c, src) == v)
            add_lanes(c, row, src, g, &d);
        else if (c->gate[(size_t)src * c->n_nodes + v] != g)
            add_lanes2(c, row, c->gate[(size_t)src * c->n_nodes + v], g, &d);
    }
}
INLINE void send_to_node(const struct mp_layer_cost *c, uint32_t *row, uint32_t v) {
    for (uint32_t src = 0; src < c->n_ranks; src++)
        if (node_of(c, src) != v)
            add_lanes(c, row, src, c->gate[(size_t)src * c->n_nodes + v], lanes_in(c->delta, src));
}
INLINE uint32_t lanes_used(const struct mp_layer_cost *c, uint32_t b) {
    return c->n_steps - b * LANES < LANES ? c->n_steps - b * LANES : LANES;
}

/* What the node's tokens are, from those of its GPUs. */
INLINE void join_node(struct mp_layer_cost *c, size_t s, uint32_t v) {
    const size_t W = c->n_words;
    uint64_t *once = c->once + (s * c->n_nodes + v) * W, *twice = c->twice + (s * c->n_nodes + v) * W;
    memset(once, 0, W * sizeof *once);
    memset(twice, 0, W * sizeof *twice);
    for (uint32_t g = c->node_first[v]; g < c->node_first[v] + c->node_size[v]; g++) {
        const uint64_t *on = c->on_gpu + (s * c->n_gpus + g) * W;
        for (size_t w = 0; w < W; w++) {
            twice[w] |= once[w] & on[w];
            once[w] |= on[w];
        }
    }
}

/* Everything that the tokens of block b send in this placement. */
static void count_sets(const struct mp_layer_cost *c, uint32_t b, const uint16_t *gpu, uint32_t *row) {
    const size_t I = c->n_items, n = c->n_gpus, W = c->n_words;
    const uint32_t used = lanes_used(c, b);
    memset(c->on_gpu + b * LANES * n * W, 0, used * n * W * sizeof *c->on_gpu);
    memset(c->delta, 0, n * LANES * sizeof *c->delta);
    for (uint32_t x = 0; x < used; x++)
        for (size_t s = b * LANES + x, i = 0; i < I; i++)
            if (gpu[i] != MP_ITEM_OFF)
                join_set(c, c->on_gpu + (s * n + gpu[i]) * W, c->tokens + (s * I + i) * W);
    for (uint32_t g = 0; g < n; g++) {
        for (uint32_t x = 0; x < used; x++)
            count_delta(c, x, c->on_gpu + ((b * LANES + x) * n + g) * W, NULL);
        send_to_gpu(c, row, g);
    }
    for (uint32_t v = 0; c->copies == MP_COPY_PER_NODE && v < c->n_nodes; v++) {
        for (uint32_t x = 0; x < used; x++) {
            memset(c->set[0], 0, W * sizeof *c->set[0]);
            for (uint32_t g = c->node_first[v]; g < c->node_first[v] + c->node_size[v]; g++)
                join_set(c, c->set[0], c->on_gpu + ((b * LANES + x) * n + g) * W);
            count_delta(c, x, c->set[0], NULL);
        }
        send_to_node(c, row, v);
    }
}

/* Counts of block b, everything anew. */
static void count_block(const struct mp_layer_cost *c, uint32_t b, const uint16_t *gpu, uint32_t *row) {
    const size_t I = c->n_items, n = c->n_gpus;
    if (c->tokens != NULL)
        count_sets(c, b, gpu, row);
    for (size_t i = 0; i < I; i++) {
        const uint32_t g = gpu[i];
        if (g == MP_ITEM_OFF)
            continue;
        const lanes rows = *lanes_in(c->lane_rows, b * I + i);
        *lanes_of(row, g) += *lanes_in(c->lane_padded, ((size_t)c->gpus[g].tile_class * c->n_blocks + b) * I + i);
        *lanes_of(row, c->active_at + g) -= (lanes)(rows > 0);
        *lanes_of(row, c->rows_at + g) += rows;
    }
    for (size_t x = 0; x < LANES && b * LANES + x < c->n_steps; x++) {
        const size_t s = b * LANES + x;
        for (size_t i = 0; i < I && c->lane_count != NULL; i++) {
            const uint32_t *count = c->lane_count + (b * I + i) * c->n_counts * LANES + x;
            for (uint32_t src = 0; src < n && gpu[i] != MP_ITEM_OFF; src++)
                if (src != gpu[i] && count[src * LANES] > 0)
                    add_copies(c, row + x, src, gpu[i], count[src * LANES]);
        }
        for (uint32_t t = c->is_coupled ? c->step_first[s] : 0; c->is_coupled && t < c->step_first[s + 1]; t++)
            add_token(c, row + x, t, gpu, c->weight[s]);
        for (uint32_t src = 0; c->is_coupled && src < n; src++) /* padding */
            row[(c->source_at + src) * LANES + x] += c->source_rows[s * n + src];
        for (uint32_t src = 0; !c->is_coupled && c->copies == MP_COPY_ALL && src < n; src++)
            for (uint32_t g = 0; g < n; g++)
                if (g != src)
                    add_copies(c, row + x, src, g, c->tokens_of_rank[s * n + src]);
    }
}

/* What was tried last is forgotten. */
static void forget(struct mp_layer_cost *c) {
    for (uint32_t j = 0; j < c->n_moves; j++)
        c->tried_gpu[c->moves[j].item] = c->gpu[c->moves[j].item];
    for (uint32_t j = 0; c->is_coupled && j < c->n_moves; j++)
        c->tag[c->moves[j].item] = 0;
    for (uint32_t k = 0; c->place != NULL && k < c->n_touched; k++)
        c->place[c->touched[k]] = 0;
    c->n_moves = c->n_touched = 0;
}

/* items of each GPU */
static void list_items(struct mp_layer_cost *c) {
    if (c->tokens == NULL)
        return;
    memset(c->items_first, 0, (c->n_gpus + 2) * sizeof *c->items_first);
    for (uint32_t i = 0; i < c->n_items; i++)
        if (c->gpu[i] != MP_ITEM_OFF)
            c->items_first[c->gpu[i] + 2]++;
    for (uint32_t g = 1; g < c->n_gpus + 2; g++)
        c->items_first[g] += c->items_first[g - 1];
    for (uint32_t i = 0; i < c->n_items; i++)
        if (c->gpu[i] != MP_ITEM_OFF)
            c->items[c->items_first[c->gpu[i] + 1]++] = i;
}

void mp_layer_cost_set(struct mp_layer_cost *c, const uint16_t *gpu) {
    const size_t I = c->n_items, n = c->n_gpus;
    memcpy(c->gpu, gpu, I * sizeof *gpu);
    memcpy(c->tried_gpu, gpu, I * sizeof *gpu);
    memset(c->base, 0, (size_t)c->n_blocks * c->width * LANES * sizeof *c->base);
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        uint32_t *row = c->base + (size_t)b * c->width * LANES;
        uint64_t *compute = c->base_compute + b * n * LANES;
        count_block(c, b, gpu, row);
        for (uint32_t g = 0; g < n; g++)
            compute_gpu(c, g, row, compute);
        time_block(c, b, row, compute, c->base_ns, c->base_value);
    }
    size_t n_on = 0;
    for (size_t i = 0; i < I; i++)
        n_on += gpu[i] != MP_ITEM_OFF;
    c->n_work += (uint64_t)c->n_steps * (c->width + n_on * (c->lane_count != NULL ? n : 1)) +
                 (c->by_token ? (uint64_t)c->step_first[c->n_steps] * 4 : 0);
    for (size_t step = 0; c->once != NULL && step < c->n_steps; step++)
        for (uint32_t v = 0; v < c->n_nodes; v++)
            join_node(c, step, v);
    c->now = objective_of(c, c->base_value);
    c->version++;
    forget(c);
    list_items(c);
}

/* ---- a change ---- */

/* The copies of one item, count[n_counts] by source, less those of another, go to h in place of g. Sources outside the
 * innermost group that holds both leave by the same ports as before, and so do those that were in neither's own part of
 * it. */
INLINE void move_pairs(const struct mp_layer_cost *c, uint32_t *row, const uint32_t *count, const uint32_t *less,
                       uint32_t g, uint32_t h) {
#define COUNT(at) (*lanes_in(count, (at)) - *lanes_in(less, (at)))
    const uint32_t L = c->n_levels, n = c->n_gpus, m = level_of(c, g, h);
    const lanes total = COUNT(c->sum_at[L - 1] + c->group[g * L + L - 1]); /* all GPUs are one group there */
    for (uint32_t side = 0; side < 2; side++) {
        const uint32_t x = side == 0 ? g : h, sign = side == 0 ? UINT32_MAX : 1; /* -1 or 1, wrapping */
        lanes inner = COUNT(x);
        for (uint32_t l = 0; l < L; l++) {
            const lanes here = COUNT(c->sum_at[l] + c->group[x * L + l]);
            *lanes_of(row, c->in_at[x * L + l]) += sign * (here - inner);
            inner = here;
            if (l < m && c->has_uplink[l]) {
                *lanes_of(row, c->up_in_at[l * n + c->group[x * L + l]]) += sign * (total - here);
                *lanes_of(row, c->up_out_at[l * n + c->group[x * L + l]]) -= sign * here;
            }
            if (l == 0 && m > 0)
                *lanes_of(row, c->inter_at) += sign * (total - here);
        }
        uint32_t from = m == 0 ? x : c->group_first[x * L + m - 1], to = m == 0 ? x + 1 : c->group_end[x * L + m - 1];
        for (uint32_t src = from; src < to; src++) {
            const lanes mine = sign * COUNT(src);
            if (src != x)
                *lanes_of(row, c->out_at[src * L + level_of(c, src, x)]) += mine;
            *lanes_of(row, c->out_at[src * L + m]) -= mine;
        }
        for (uint32_t src = 0; c->cell_at != NULL && src < n; src++)
            if (src != x && c->cell_at[src * n + x] != MP_NONE)
                *lanes_of(row, c->cell_at[src * n + x]) += sign * COUNT(src);
    }
#undef COUNT
}

/* The copies of one item come to GPU g (sign 1) or no longer do (-1, wrapping). */
INLINE void join_pairs(const struct mp_layer_cost *c, uint32_t *row, const uint32_t *count, uint32_t g, uint32_t sign) {
    const uint32_t L = c->n_levels, n = c->n_gpus;
    const lanes total = *lanes_in(count, c->sum_at[L - 1] + c->group[g * L + L - 1]);
    lanes inner = *lanes_in(count, g);
    for (uint32_t l = 0; l < L; l++) {
        const lanes here = *lanes_in(count, c->sum_at[l] + c->group[g * L + l]);
        *lanes_of(row, c->in_at[g * L + l]) += sign * (here - inner);
        inner = here;
        if (c->has_uplink[l])
            *lanes_of(row, c->up_in_at[l * n + c->group[g * L + l]]) += sign * (total - here);
        if (l == 0)
            *lanes_of(row, c->inter_at) += sign * (total - here);
    }
    for (uint32_t src = 0; src < n; src++) {
        const lanes mine = sign * *lanes_in(count, src);
        if (src == g)
            continue;
        const uint32_t level = level_of(c, src, g);
        *lanes_of(row, c->out_at[src * L + level]) += mine;
        for (uint32_t l = 0; l < level; l++)
            if (c->has_uplink[l])
                *lanes_of(row, c->up_out_at[l * n + c->group[src * L + l]]) += mine;
        if (c->cell_at != NULL && c->cell_at[src * n + g] != MP_NONE)
            *lanes_of(row, c->cell_at[src * n + g]) += mine;
    }
}

/* The sets of tokens of GPU g's items after the change, in step s. */
INLINE uint32_t list_sets(struct mp_layer_cost *c, size_t s, uint32_t g) {
    const uint64_t *tokens = c->tokens + s * c->n_items * c->n_words;
    uint32_t n = 0;
    for (uint32_t i = c->items_first[g]; i < c->items_first[g + 1]; i++)
        if (c->tried_gpu[c->items[i]] == g)
            c->joined[n++] = tokens + (size_t)c->items[i] * c->n_words;
    for (uint32_t j = 0; j < c->n_moves; j++)
        if (c->moves[j].gpu == g)
            c->joined[n++] = tokens + (size_t)c->moves[j].item * c->n_words;
    return n;
}

/* In the lanes [from, to) of block b: what tokens send because of the touched GPUs and their nodes, after less before.
 */
INLINE void move_sets(struct mp_layer_cost *c, uint32_t b, uint32_t from, uint32_t to, uint32_t *row) {
    const size_t n = c->n_gpus, W = c->n_words;
    memset(c->delta, 0, n * LANES * sizeof *c->delta);
    for (uint32_t k = 0; k < c->n_touched; k++) {
        const uint32_t g = c->touched[k];
        for (uint32_t lane = from; lane < to; lane++) {
            const size_t s = b * LANES + lane;
            uint64_t *set = c->tried_on_gpu + (s * MP_LAYER_MOVES_MAX + k) * W;
            join_sets(c, set, c->joined, list_sets(c, s, g));
            count_delta(c, lane, set, c->on_gpu + (s * n + g) * W);
        }
        send_to_gpu(c, row, g);
    }
    for (uint32_t k = 0; c->once != NULL && k < c->n_touched; k++) {
        const uint32_t g = c->touched[k], v = node_of(c, g), end = c->node_first[v] + c->node_size[v];
        uint32_t n_here = 0; /* touched GPUs of the node */
        bool is_first = true;
        for (uint32_t i = 0; i < c->n_touched; i++) {
            is_first &= i >= k || node_of(c, c->touched[i]) != v;
            n_here += node_of(c, c->touched[i]) == v;
        }
        if (!is_first || n_here == c->n_touched) /* while everything stays in one node, no node changes */
            continue;
        for (uint32_t lane = from; lane < to; lane++) {
            const size_t s = b * LANES + lane;
            const uint64_t *tried = c->tried_on_gpu + s * MP_LAYER_MOVES_MAX * W,
                           *once = c->once + (s * c->n_nodes + v) * W, *twice = c->twice + (s * c->n_nodes + v) * W;
            if (n_here == 1) {
                count_node_delta(c, lane, tried + k * W, c->on_gpu + (s * n + g) * W, once, twice);
                continue;
            }
            memset(c->set[1], 0, W * sizeof *c->set[1]);
            for (uint32_t i = c->node_first[v]; i < end; i++)
                join_set(c, c->set[1], c->place[i] > 0 ? tried + (c->place[i] - 1) * W : c->on_gpu + (s * n + i) * W);
            count_delta(c, lane, c->set[1], once);
        }
        send_to_node(c, row, v);
    }
}

/* Coupled sources: a token is taken out and put back whole. */
static void move_coupled(struct mp_layer_cost *c, uint32_t *row, uint32_t s) {
    for (uint32_t j = 0; j < c->n_moves; j++) {
        size_t cell = (size_t)s * c->n_items + c->moves[j].item;
        const uint64_t earlier = (UINT64_C(1) << j) - 1, here = UINT64_C(1) << j;
        for (int is_home = 0; is_home < 2; is_home++) {
            const uint32_t *first = is_home ? c->home_first : c->token_first, *of = is_home ? c->home_of : c->token_of;
            for (uint32_t a = first[cell]; a < first[cell + 1]; a++) {
                uint64_t tags = 0;
                for (uint32_t i = 0; i < c->top_k; i++)
                    tags |= c->tag[c->ids[(size_t)of[a] * c->top_k + i]];
                if (is_home && (tags & here) != 0)
                    continue; /* found among the tokens of the item */
                tags |= c->tag[c->home[of[a]]];
                if ((tags & earlier) != 0)
                    continue;
                add_token(c, row, of[a], c->gpu, 0 - c->weight[s]);
                add_token(c, row, of[a], c->tried_gpu, c->weight[s]);
                c->step_work[s] += 16 * (uint64_t)c->top_k;
            }
        }
    }
}

/* Rows, padded rows and active slots of one item come to GPU g, or leave it. */
INLINE void join_rows(const struct mp_layer_cost *c, uint32_t b, uint32_t *row, uint32_t i, uint32_t g, uint32_t sign) {
    const size_t at = (size_t)b * c->n_items + i, tile = (size_t)c->gpus[g].tile_class * c->n_blocks * c->n_items;
    const lanes rows = *lanes_in(c->lane_rows, at), is_active = (lanes)(rows > 0); /* all ones: -1 */
    *lanes_of(row, g) += sign * *lanes_in(c->lane_padded, tile + at);
    *lanes_of(row, c->active_at + g) -= sign * is_active;
    *lanes_of(row, c->rows_at + g) += sign * rows;
}

/* Block b of items that are to be filled: all that is counted, and sets of tokens in the lanes [from, to). */
INLINE void fill_counts(struct mp_layer_cost *c, uint32_t b, const struct fill *f) {
    const size_t I = c->n_items, n = c->n_gpus, L = c->n_levels, first = b * I + f->first,
                 each = (size_t)c->n_counts * LANES;
    const uint32_t *source = c->lane_source + ((size_t)b * c->n_experts + f->expert) * n * LANES;
    memset(c->lane_rows + first * LANES, 0, f->n * LANES * sizeof *c->lane_rows);
    if (c->lane_count != NULL)
        memset(c->lane_count + first * each, 0, f->n * each * sizeof *c->lane_count);
    for (size_t src = 0; src < n; src++) {
        const lanes rows = *lanes_in(source, src);
        *lanes_of(c->lane_rows, first + f->replica[src]) += rows;
        if (c->lane_count == NULL)
            continue;
        uint32_t *count = c->lane_count + (first + f->replica[src]) * each;
        *lanes_of(count, src) = rows;
        for (size_t l = 0; l < L; l++)
            *lanes_of(count, c->sum_at[l] + c->group[src * L + l]) += rows;
    }
    for (uint32_t k = 0; k < c->n_tiles; k++)
        for (size_t i = 0; i < f->n * (size_t)LANES; i++) {
            const uint32_t tile = (uint32_t)c->tiles[k];
            c->lane_padded[((size_t)k * c->n_blocks * I + first) * LANES + i] =
                (c->lane_rows[first * LANES + i] + tile - 1) / tile * tile;
        }
}
INLINE void fill_sets(struct mp_layer_cost *c, uint32_t b, uint32_t from_lane, uint32_t to_lane, const struct fill *f) {
    const size_t I = c->n_items, W = c->n_words;
    for (size_t x = from_lane; c->tokens != NULL && x < to_lane; x++)
        for (uint32_t i = 0; i < f->n; i++) {
            const size_t s = b * LANES + x;
            const uint64_t *from = c->tokens + (s * I + f->base) * W, *mask = f->mask + i * W;
            uint64_t *to = c->tokens + (s * I + f->first + i) * W;
            uint32_t kept = 0;
            for (size_t w = 0; w < W; w++) {
                to[w] = from[w] & mask[w];
                kept += (uint32_t)__builtin_popcountll(to[w]);
            }
            c->kept[s * I + f->first + i] = kept;
        }
}

/* What the change makes of block b, but for its tokens. */
INLINE void begin_block(struct mp_layer_cost *c, uint32_t b) {
    const size_t I = c->n_items, n = c->n_gpus;
    const struct mp_item_move *moves = c->moves;
    uint32_t *row = c->work + (size_t)b * c->width * LANES;
    memcpy(row, c->base + (size_t)b * c->width * LANES, c->width * LANES * sizeof *row);
    for (uint32_t j = 0; j < c->n_moves; j++) {
        const uint32_t i = moves[j].item, g = c->gpu[i], h = moves[j].gpu;
        if (g == h)
            continue;
        if (g != MP_ITEM_OFF)
            join_rows(c, b, row, i, g, UINT32_MAX);
        if (h != MP_ITEM_OFF)
            join_rows(c, b, row, i, h, 1);
    }
    if (c->lane_count != NULL) {
        const size_t each = (size_t)c->n_counts * LANES;
        const uint32_t *count = c->lane_count + b * I * each;
        if (c->n_moves == 2 && moves[0].gpu == c->gpu[moves[1].item] && moves[1].gpu == c->gpu[moves[0].item] &&
            moves[0].gpu != MP_ITEM_OFF && moves[1].gpu != MP_ITEM_OFF) {
            if (moves[0].gpu != moves[1].gpu)
                move_pairs(c, row, count + moves[0].item * each, count + moves[1].item * each, moves[1].gpu,
                           moves[0].gpu);
        } else {
            for (uint32_t j = 0; j < c->n_moves; j++) {
                const uint32_t g = c->gpu[moves[j].item], h = moves[j].gpu;
                const uint32_t *mine = count + moves[j].item * each;
                if (g == h)
                    continue;
                if (g != MP_ITEM_OFF && h != MP_ITEM_OFF)
                    move_pairs(c, row, mine, c->no_count, g, h);
                else
                    join_pairs(c, row, mine, g != MP_ITEM_OFF ? g : h, g != MP_ITEM_OFF ? UINT32_MAX : 1);
            }
        }
    }
    uint64_t *compute = c->compute + b * n * LANES;
    memcpy(compute, c->base_compute + b * n * LANES, n * LANES * sizeof *compute);
    for (uint32_t k = 0; k < c->n_touched; k++)
        compute_gpu(c, c->touched[k], row, compute);
}

/* The lanes [from, to) of block b: as long as a change has to be better on those before them, no others are worth their
 * tokens. What has none takes no longer for the whole block. */
INLINE void try_block(struct mp_layer_cost *c, uint32_t b, uint32_t from, uint32_t to) {
    uint32_t *row = c->work + (size_t)b * c->width * LANES;
    if (from > 0 && !c->by_token)
        return;
    for (uint32_t k = 0; k < c->n_fills; k++) {
        if (from == 0)
            fill_counts(c, b, &c->fills[k]);
        fill_sets(c, b, from, to, &c->fills[k]);
    }
    if (from == 0)
        begin_block(c, b);
    if (c->tokens != NULL)
        move_sets(c, b, from, to, row);
    for (uint32_t k = from; c->by_token && k < to; k++) {
        const size_t s = b * LANES + k;
        c->step_work[s] = 0;
        for (uint32_t j = 0; c->tokens != NULL && j < c->n_moves; j++)
            c->step_work[s] += (uint64_t)c->kept[s * c->n_items + c->moves[j].item] * (4 + c->top_k / 2);
        if (c->is_coupled)
            move_coupled(c, row + k, (uint32_t)s);
    }
    time_block(c, b, row, c->compute + (size_t)b * c->n_gpus * LANES, c->ns, c->value);
}

/* Steps [from, to), those before them having been tried. */
INLINE void try_blocks(struct mp_layer_cost *c, uint32_t from, uint32_t to) {
    for (uint32_t b = from / LANES; b * LANES < to; b++)
        try_block(c, b, from > b * LANES ? from - b * LANES : 0, to - b * LANES < LANES ? to - b * LANES : LANES);
}
static void try_anywhere(struct mp_layer_cost *c, uint32_t from, uint32_t to) { try_blocks(c, from, to); }
#if defined(__x86_64__)
static __attribute__((target("avx2,popcnt"))) void try_with_avx2(struct mp_layer_cost *c, uint32_t from, uint32_t to) {
    try_blocks(c, from, to);
}
#else
#define try_with_avx2 try_anywhere
#endif

static void touch(struct mp_layer_cost *c, uint32_t gpu) {
    if (gpu == MP_ITEM_OFF)
        return;
    for (uint32_t k = 0; k < c->n_touched; k++)
        if (c->touched[k] == gpu)
            return;
    if (c->n_touched < MP_LAYER_MOVES_MAX)
        c->touched[c->n_touched++] = gpu;
    if (c->place != NULL)
        c->place[gpu] = (uint8_t)c->n_touched;
}
void mp_layer_cost_fill(struct mp_layer_cost *c, uint32_t expert, uint32_t base, uint32_t first, uint32_t n,
                        const uint8_t *replica) {
    struct fill *f = &c->fills[c->n_fills++];
    f->expert = expert;
    f->base = base;
    f->first = first;
    f->n = n;
    memcpy(f->replica, replica, c->n_ranks);
    if (c->tokens == NULL)
        return;
    memset(f->mask, 0, n * (size_t)c->n_words * sizeof *f->mask);
    for (uint32_t src = 0; src < c->n_ranks; src++) {
        uint64_t *mask = f->mask + (size_t)replica[src] * c->n_words;
        if (c->field_bits < 64) {
            const uint32_t at = src * c->field_bits;
            mask[at / 64] |= ((UINT64_C(1) << c->field_bits) - 1) << at % 64;
        } else {
            memset(mask + c->word_first[src], 0xff, (c->word_first[src + 1] - c->word_first[src]) * sizeof *mask);
        }
    }
}
void mp_layer_cost_fill_now(struct mp_layer_cost *c) {
    for (uint32_t k = 0; k < c->n_fills; k++)
        for (uint32_t b = 0; b < c->n_blocks; b++) {
            fill_counts(c, b, &c->fills[k]);
            fill_sets(c, b, 0, lanes_used(c, b), &c->fills[k]);
        }
    c->n_work += (uint64_t)c->n_steps * c->n_fills * c->n_gpus;
    c->n_fills = 0;
    c->version++;
}

static uint64_t spelled(struct mp_item_move m) { return (uint64_t)m.item << 16 | m.gpu; }
/* Where this change is remembered, with its moves filled in if it is not. NULL: it is not of that kind. */
static struct known *known_of(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n) {
    if (c->known == NULL || n == 0 || n > 2 || c->n_fills > 0)
        return NULL;
    const struct mp_item_move none = {UINT16_MAX, UINT16_MAX}, a = moves[0], b = n == 2 ? moves[1] : none;
    const uint64_t key = a.item < b.item ? spelled(a) << 32 | spelled(b) : spelled(b) << 32 | spelled(a);
    struct known *k = &c->known[mp_mix64(key) & c->known_mask];
    if (k->moves != key)
        *k = (struct known){.moves = key};
    return k;
}

static uint64_t try_change(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n, bool is_race) {
    uint64_t before = 0, after = 0;
    c->n_moves = n < 2 * MP_LAYER_MOVES_MAX ? n : 2 * MP_LAYER_MOVES_MAX;
    for (uint32_t j = 0; j < c->n_moves; j++) {
        c->moves[j] = moves[j];
        touch(c, c->gpu[moves[j].item]);
        touch(c, moves[j].gpu);
        c->tried_gpu[moves[j].item] = moves[j].gpu;
        if (c->is_coupled)
            c->tag[moves[j].item] = UINT64_C(1) << j;
    }
    c->n_work += c->by_token ? 2 * c->n_items : 0;
    is_race &= c->objective != MP_OBJECTIVE_P95 && c->n_steps >= 16;
    uint32_t n_done = 0; /* steps */
    for (uint32_t part = is_race ? 8 : 1; part > 0; part /= 2) {
        const uint32_t until = c->n_steps / part;
        (c->has_avx2 ? try_with_avx2 : try_anywhere)(c, n_done, until);
        for (; n_done < until; n_done++) {
            before += c->base_value[n_done];
            after += c->value[n_done];
            c->n_work += c->by_token ? c->step_work[n_done] : 0;
        }
        if (part > 1 && after >= before) {
            c->n_work += (uint64_t)n_done * c->n_fills * c->n_gpus;
            c->n_fills = 0;
            c->n_work += (uint64_t)n_done * (c->width / 4 + c->n_gpus + 8);
            return c->tried = UINT64_MAX;
        }
    }
    c->n_work += (uint64_t)c->n_steps * (c->width / 4 + c->n_gpus + 8 + (uint64_t)c->n_fills * c->n_gpus);
    c->n_fills = 0;
    c->tried = objective_of(c, c->value);
    return c->tried;
}

uint64_t mp_layer_cost_try(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n, bool is_race) {
    const uint64_t work = c->n_work;
    forget(c);
    struct known *known = is_race ? known_of(c, moves, n) : NULL;
    if (known != NULL && known->version == c->version) {
        c->n_work += known->work;
        return c->tried = UINT64_MAX;
    }
    const uint64_t value = try_change(c, moves, n, is_race);
    if (known != NULL && value >= c->now && c->n_work - work <= UINT32_MAX) {
        known->version = c->version;
        known->work = (uint32_t)(c->n_work - work);
    }
    return value;
}

void mp_layer_cost_keep(struct mp_layer_cost *c) {
    void *base = c->base, *compute = c->base_compute, *ns = c->base_ns, *value = c->base_value;
    if (c->tried == UINT64_MAX)
        return;
    c->base = c->work;
    c->work = base;
    c->base_compute = c->compute;
    c->compute = compute;
    c->base_ns = c->ns;
    c->ns = ns;
    c->base_value = c->value;
    c->value = value;
    for (uint32_t j = 0; j < c->n_moves; j++)
        c->gpu[c->moves[j].item] = c->tried_gpu[c->moves[j].item];
    for (size_t s = 0; c->tokens != NULL && s < c->n_steps; s++)
        for (uint32_t k = 0; k < c->n_touched; k++)
            memcpy(c->on_gpu + (s * c->n_gpus + c->touched[k]) * c->n_words,
                   c->tried_on_gpu + (s * MP_LAYER_MOVES_MAX + k) * c->n_words, c->n_words * sizeof *c->on_gpu);
    for (uint32_t k = 0; c->once != NULL && k < c->n_touched; k++)
        for (size_t s = 0; s < c->n_steps; s++)
            join_node(c, s, node_of(c, c->touched[k]));
    list_items(c);
    forget(c);
    c->version++;
    c->now = c->tried;
}

void mp_layer_cost_busy(const struct mp_layer_cost *c, uint32_t *busy) {
    memset(busy, 0, c->n_gpus * sizeof *busy);
    for (uint32_t s = 0; s < c->n_steps; s++) {
        const uint64_t *compute = c->base_compute + (size_t)(s / LANES) * c->n_gpus * LANES + s % LANES;
        uint32_t most = 0;
        for (uint32_t g = 1; g < c->n_gpus; g++)
            most = compute[g * (size_t)LANES] > compute[most * (size_t)LANES] ? g : most;
        busy[most]++;
    }
}
