/* The expert part of one layer, evaluated change by change.
 *
 * Decides   nothing; says what a placement of one layer costs on many steps, and what a swap, a move or a cycle would
 *           make of it.
 * Method    per step one row of counts: padded rows, active slots and rows of each GPU, and copies through each
 *           resource. A change copies the row, moves the counts of its items, and takes maxima. Copies per pair move by
 *           sums over groups of sources; copies per token (GPU or node) move only for tokens that use a changed item
 *           and whose set of GPUs or nodes changes. Dispatch and combine share their counts, since the combine takes
 *           the same paths backwards.
 * Bound     equal to the simulator with every transfer at its port bound.
 * Differs   replicas only under the rule `even`; p95 is taken layer by layer.
 * Cost      O(steps * (GPUs + resources)) for a change, plus the tokens of its items where copies are counted per
 * token. */
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
const uint64_t *mp_layer_cost_steps(const struct mp_layer_cost *c) { return c->base_ns; }
uint64_t mp_layer_cost_rows(const struct mp_layer_cost *c, uint32_t item) { return c->total_rows[item]; }
uint64_t mp_layer_cost_work(const struct mp_layer_cost *c) { return c->n_work; }

/* ---- copies on their paths ---- */

/* n copies (or -n, wrapping) from src to dst, not the same GPU. */
static void add_copies(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, uint32_t n) {
    uint32_t L = c->n_levels, level = level_of(c, src, dst);
    row[c->out_at[src * L + level]] += n;
    row[c->in_at[dst * L + level]] += n;
    for (uint32_t l = 0; l < level; l++)
        if (c->has_uplink[l]) {
            row[c->up_out_at[l * c->n_gpus + c->group[src * L + l]]] += n;
            row[c->up_in_at[l * c->n_gpus + c->group[dst * L + l]]] += n;
        }
    if (c->cell_at != NULL && c->cell_at[src * c->n_gpus + dst] != MP_NONE)
        row[c->cell_at[src * c->n_gpus + dst]] += n;
    if (level > 0)
        row[c->inter_at] += n;
}
/* The same in the second phase, inside a node. */
static void add_copies2(const struct mp_layer_cost *c, uint32_t *row, uint32_t src, uint32_t dst, uint32_t n) {
    row[c->out2_at[src]] += n;
    row[c->in2_at[dst]] += n;
    if (c->cell2_at != NULL && c->cell2_at[src * c->n_gpus + dst] != MP_NONE)
        row[c->cell2_at[src * c->n_gpus + dst]] += n;
}
static uint32_t gateway(const struct mp_layer_cost *c, uint32_t src, uint32_t node) {
    return c->node_first[node] + c->index_in_node[src] % c->node_size[node];
}

/* ---- time of a step from its row ---- */
static inline uint64_t wire_ns(uint64_t count, uint64_t bytes, uint64_t rate, bool is_small) {
    if (is_small)
        return (count * bytes * NS_PER_S + rate - 1) / rate;
    return mp_mul_div_ceil(count * bytes, NS_PER_S, rate);
}

static void phase_ns(const struct mp_layer_cost *c, const uint32_t *row, uint32_t from, uint32_t to, uint64_t *dispatch,
                     uint64_t *combine) {
    *dispatch = *combine = 0;
    for (uint32_t i = from; i < to; i++) {
        const struct cost_class *k = &c->classes[i];
        const uint32_t *at = row + k->first;
        uint32_t most = 0;
        for (uint32_t j = 0; j < k->n; j++)
            most = at[j] > most ? at[j] : most;
        uint64_t d = wire_ns(most, c->dispatch_bytes, k->dispatch_rate, k->is_small),
                 b = wire_ns(most, c->combine_bytes, k->combine_rate, k->is_small);
        *dispatch = d > *dispatch ? d : *dispatch;
        *combine = b > *combine ? b : *combine;
    }
}

static inline uint64_t compute_ns(const struct gpu_cost *k, uint32_t active, uint32_t padded) {
    if (active == 0)
        return 0;
    uint64_t weights = k->a + k->b * active, tokens = k->c + k->beta * padded;
    return ((weights > tokens ? weights : tokens) * 1000 + k->speed - 1) / k->speed;
}

/* Times of step s from its row; compute[n_gpus] is up to date. */
static void time_step(const struct mp_layer_cost *c, uint32_t s, const uint32_t *row, const uint64_t *compute,
                      uint64_t *ns, uint64_t *value) {
    uint64_t dispatch[2] = {0, 0}, combine[2] = {0, 0}, slow = 0;
    if (!c->is_alone) {
        phase_ns(c, row, 0, c->n_first, &dispatch[0], &combine[0]);
        if (c->has_second)
            phase_ns(c, row, c->n_first, c->n_classes, &dispatch[1], &combine[1]);
        for (int k = 0; k < 2; k++) {
            uint64_t *x = k == 0 ? dispatch : combine;
            x[0] = (!c->is_overlapped ? x[0] + x[1] : x[0] > x[1] ? x[0] : x[1]) + c->launch_ns;
        }
    }
    for (uint32_t g = 0; g < c->n_gpus; g++)
        slow = compute[g] > slow ? compute[g] : slow;
    uint64_t attention = c->attention_ns[s], shared = c->shared_ns[s];
    if (c->is_coupled) {
        attention = layer_slowest_ns(c, row + c->source_at, false) * c->attention_times;
        shared = layer_slowest_ns(c, row + c->source_at, true);
    }
    *ns = attention + (dispatch[0] > shared ? dispatch[0] : shared) + slow + combine[0];
    if (c->objective == MP_OBJECTIVE_PEAK) {
        uint32_t most = 0;
        for (uint32_t g = 0; g < c->n_gpus; g++)
            most = row[c->rows_at + g] > most ? row[c->rows_at + g] : most;
        *value = most;
    } else {
        *value = c->objective == MP_OBJECTIVE_INTER ? row[c->inter_at] : *ns;
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

/* ---- tokens ---- */
/* Everything that token t sends, added (n = weight) or taken away (n = -weight). */
static void add_token(const struct mp_layer_cost *c, uint32_t *row, uint32_t t, const uint16_t *gpu, uint32_t n) {
    const uint16_t *ids = c->ids + (size_t)t * c->top_k;
    uint32_t src = c->is_coupled ? gpu[c->home[t]] : c->source[t], own = node_of(c, src);
    if (c->is_coupled)
        row[c->source_at + src] += n;
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

void mp_layer_cost_set(struct mp_layer_cost *c, const uint16_t *gpu) {
    const size_t I = c->n_items, n = c->n_gpus;
    memcpy(c->gpu, gpu, I * sizeof *gpu);
    memcpy(c->tried_gpu, gpu, I * sizeof *gpu);
    memset(c->base, 0, (size_t)c->n_steps * c->width * sizeof *c->base);
    for (uint32_t s = 0; s < c->n_steps; s++) {
        uint32_t *row = c->base + (size_t)s * c->width;
        for (size_t i = 0; i < I; i++) {
            uint32_t g = gpu[i], rows = c->rows[s * I + i];
            row[g] += c->padded[((size_t)c->gpus[g].tile_class * c->n_steps + s) * I + i];
            row[c->active_at + g] += rows > 0;
            row[c->rows_at + g] += rows;
            for (uint32_t src = 0; c->count != NULL && src < n; src++)
                if (src != g && c->count[(s * I + i) * n + src] > 0)
                    add_copies(c, row, src, g, c->count[(s * I + i) * n + src]);
        }
        for (uint32_t t = c->by_token ? c->step_first[s] : 0; c->by_token && t < c->step_first[s + 1]; t++)
            add_token(c, row, t, gpu, c->weight[s]);
        for (uint32_t src = 0; c->is_coupled && src < n; src++) /* padding */
            row[c->source_at + src] += c->source_rows[s * n + src];
        for (uint32_t src = 0; !c->is_coupled && c->copies == MP_COPY_ALL && src < n; src++)
            for (uint32_t g = 0; g < n; g++)
                if (g != src)
                    add_copies(c, row, src, g, c->tokens_of_rank[s * n + src]);
        uint64_t *compute = c->base_compute + s * n;
        for (uint32_t g = 0; g < n; g++)
            compute[g] = compute_ns(&c->gpus[g], row[c->active_at + g], row[g]);
        time_step(c, s, row, compute, &c->base_ns[s], &c->base_value[s]);
    }
    c->n_work += (uint64_t)c->n_steps * (c->width + I * (c->count != NULL ? n : 1)) +
                 (c->by_token ? (uint64_t)c->step_first[c->n_steps] * c->top_k * 8 : 0);
    c->now = objective_of(c, c->base_value);
    c->n_moves = 0;
}

/* ---- a change ---- */
static uint32_t sum_of(const uint32_t *x, uint32_t from, uint32_t to) {
    uint32_t sum = 0;
    for (uint32_t i = from; i < to; i++)
        sum += x[i];
    return sum;
}

/* The copies of one item, count[n_gpus] by source, go to h in place of g. Sources outside the innermost group that
 * holds both leave by the same ports as before, and so do those that were in neither's own part of it. */
static void move_pairs(const struct mp_layer_cost *c, uint32_t *row, const uint32_t *count, uint32_t g, uint32_t h) {
    const uint32_t L = c->n_levels, n = c->n_gpus, m = level_of(c, g, h);
    for (int side = 0; side < 2; side++) {
        const uint32_t x = side == 0 ? g : h, sign = side == 0 ? UINT32_MAX : 1; /* -1 or 1, wrapping */
        uint32_t inner = count[x], total = 0;
        if (m > 0)
            total = sum_of(count, 0, n);
        for (uint32_t l = 0; l < L; l++) {
            uint32_t here = sum_of(count, c->group_first[x * L + l], c->group_end[x * L + l]);
            row[c->in_at[x * L + l]] += sign * (here - inner);
            inner = here;
            if (l < m && c->has_uplink[l]) {
                row[c->up_in_at[l * n + c->group[x * L + l]]] += sign * (total - here);
                row[c->up_out_at[l * n + c->group[x * L + l]]] -= sign * here;
            }
            if (l == 0 && m > 0)
                row[c->inter_at] += sign * (total - here);
        }
        uint32_t from = m == 0 ? x : c->group_first[x * L + m - 1], to = m == 0 ? x + 1 : c->group_end[x * L + m - 1];
        for (uint32_t src = from; src < to; src++) {
            if (src != x)
                row[c->out_at[src * L + level_of(c, src, x)]] += sign * count[src];
            row[c->out_at[src * L + m]] -= sign * count[src];
        }
        for (uint32_t src = 0; c->cell_at != NULL && src < n; src++)
            if (src != x && c->cell_at[src * n + x] != MP_NONE)
                row[c->cell_at[src * n + x]] += sign * count[src];
    }
}

struct change {
    uint32_t n_gpus, gpus[MP_LAYER_MOVES_MAX]; /* touched */
};

/* tag of an item: bits 0-7 which touched GPU it was on, 8-15 which touched GPU's node; 16-31 the same after the
 * change; 32 + j: it is moved item j. */
static void set_tags(struct mp_layer_cost *c, const struct change *x) {
    for (uint32_t i = 0; i < c->n_items; i++) {
        uint64_t tag = 0;
        uint32_t was = c->gpu[i], is = c->tried_gpu[i], was_node = node_of(c, was), is_node = node_of(c, is);
        for (uint32_t k = 0; k < x->n_gpus; k++) {
            uint32_t g = x->gpus[k], v = node_of(c, g);
            tag |= (uint64_t)(was == g) << k | (uint64_t)(was_node == v) << (8 + k) | (uint64_t)(is == g) << (16 + k) |
                   (uint64_t)(is_node == v) << (24 + k);
        }
        c->tag[i] = tag;
    }
    for (uint32_t j = 0; j < c->n_moves; j++)
        c->tag[c->moves[j].item] |= UINT64_C(1) << (32 + j);
    c->tag[c->n_items] = 0;
    c->n_work += 2 * c->n_items;
}

/* Token t, whose set of touched GPUs or nodes differs. */
static void move_token(const struct mp_layer_cost *c, uint32_t *row, uint32_t t, uint64_t tags, const struct change *x,
                       uint32_t weight) {
    const uint32_t src = c->source[t], own = node_of(c, src);
    uint32_t gone = (uint32_t)(tags & ~(tags >> 16)) & 0xff, come = (uint32_t)(tags >> 16 & ~tags) & 0xff;
    for (uint32_t left = gone | come; left != 0; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctz(left), g = x->gpus[k], v = node_of(c, g);
        uint32_t n = (gone >> k & 1) != 0 ? 0 - weight : weight;
        if (g == src)
            continue;
        if (c->copies != MP_COPY_PER_NODE || v == own) {
            add_copies(c, row, src, g, n);
        } else {
            uint32_t gate = gateway(c, src, v);
            if (gate != g)
                add_copies2(c, row, gate, g, n);
        }
    }
    if (c->copies != MP_COPY_PER_NODE)
        return;
    gone = (uint32_t)(tags >> 8 & ~(tags >> 24)) & 0xff;
    come = (uint32_t)(tags >> 24 & ~(tags >> 8)) & 0xff;
    for (uint32_t left = gone | come; left != 0; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctz(left), v = node_of(c, x->gpus[k]);
        bool is_first = true; /* touched GPUs of one node share their bit's meaning */
        for (uint32_t i = 0; i < k; i++)
            is_first &= node_of(c, x->gpus[i]) != v;
        if (is_first && v != own)
            add_copies(c, row, src, gateway(c, src, v), (gone >> k & 1) != 0 ? 0 - weight : weight);
    }
}

static void move_tokens(struct mp_layer_cost *c, uint32_t *row, uint32_t s, const struct change *x) {
    const uint32_t k = c->top_k;
    for (uint32_t j = 0; j < c->n_moves; j++) {
        size_t cell = (size_t)s * c->n_items + c->moves[j].item;
        const uint64_t earlier = ((UINT64_C(1) << j) - 1) << 32;
        for (uint32_t a = c->token_first[cell]; a < c->token_first[cell + 1]; a++) {
            uint32_t t = c->token_of[a];
            const uint16_t *ids = c->ids + (size_t)t * k;
            uint64_t tags = 0;
            for (uint32_t i = 0; i < k; i++)
                tags |= c->tag[ids[i]];
            if ((tags & earlier) != 0 || ((tags ^ tags >> 16) & 0xffff) == 0)
                continue;
            move_token(c, row, t, tags, x, c->weight[s]);
        }
        c->n_work += (uint64_t)(c->token_first[cell + 1] - c->token_first[cell]) * (4 + k / 2);
    }
}

/* Coupled sources: a token is taken out and put back whole. */
static void move_coupled(struct mp_layer_cost *c, uint32_t *row, uint32_t s) {
    for (uint32_t j = 0; j < c->n_moves; j++) {
        size_t cell = (size_t)s * c->n_items + c->moves[j].item;
        const uint64_t earlier = ((UINT64_C(1) << j) - 1) << 32, here = UINT64_C(1) << (32 + j);
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
                c->n_work += 16 * (uint64_t)c->top_k;
            }
        }
    }
}

static void try_step(struct mp_layer_cost *c, uint32_t s, const struct change *x) {
    const size_t I = c->n_items, n = c->n_gpus;
    uint32_t *row = c->work + (size_t)s * c->width;
    memcpy(row, c->base + (size_t)s * c->width, c->width * sizeof *row);
    for (uint32_t j = 0; j < c->n_moves; j++) {
        uint32_t i = c->moves[j].item, g = c->gpu[i], h = c->moves[j].gpu, rows = c->rows[s * I + i];
        if (g == h)
            continue;
        row[g] -= c->padded[((size_t)c->gpus[g].tile_class * c->n_steps + s) * I + i];
        row[h] += c->padded[((size_t)c->gpus[h].tile_class * c->n_steps + s) * I + i];
        row[c->active_at + g] -= rows > 0;
        row[c->active_at + h] += rows > 0;
        row[c->rows_at + g] -= rows;
        row[c->rows_at + h] += rows;
        if (c->count != NULL)
            move_pairs(c, row, c->count + (s * I + i) * n, g, h);
    }
    if (c->is_coupled)
        move_coupled(c, row, s);
    else if (c->by_token)
        move_tokens(c, row, s, x);
    uint64_t *compute = c->compute + s * n;
    memcpy(compute, c->base_compute + s * n, n * sizeof *compute);
    for (uint32_t k = 0; k < x->n_gpus; k++) {
        uint32_t g = x->gpus[k];
        compute[g] = compute_ns(&c->gpus[g], row[c->active_at + g], row[g]);
    }
    time_step(c, s, row, compute, &c->ns[s], &c->value[s]);
}

static void touch(struct change *x, uint32_t gpu) {
    for (uint32_t k = 0; k < x->n_gpus; k++)
        if (x->gpus[k] == gpu)
            return;
    if (x->n_gpus < MP_LAYER_MOVES_MAX)
        x->gpus[x->n_gpus++] = gpu;
}

uint64_t mp_layer_cost_try(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n, bool is_race) {
    struct change x = {0};
    uint64_t before = 0, after = 0;
    for (uint32_t j = 0; j < c->n_moves; j++) /* what was tried last and not kept */
        c->tried_gpu[c->moves[j].item] = c->gpu[c->moves[j].item];
    c->n_moves = n < 2 * MP_LAYER_MOVES_MAX ? n : 2 * MP_LAYER_MOVES_MAX;
    for (uint32_t j = 0; j < c->n_moves; j++) {
        c->moves[j] = moves[j];
        touch(&x, c->gpu[moves[j].item]);
        touch(&x, moves[j].gpu);
        c->tried_gpu[moves[j].item] = moves[j].gpu;
    }
    if (c->by_token)
        set_tags(c, &x);
    is_race &= c->objective != MP_OBJECTIVE_P95 && c->n_steps >= 16;
    for (uint32_t i = 0; i < c->n_steps; i++) {
        uint32_t s = c->order[i];
        try_step(c, s, &x);
        before += c->base_value[s];
        after += c->value[s];
        if (is_race && (i + 1 == c->n_steps / 8 || i + 1 == c->n_steps / 4 || i + 1 == c->n_steps / 2) &&
            after >= before) {
            c->n_work += (uint64_t)(i + 1) * (c->width / 4 + c->n_gpus + 8);
            return c->tried = UINT64_MAX;
        }
    }
    c->n_work += (uint64_t)c->n_steps * (c->width / 4 + c->n_gpus + 8);
    c->tried = objective_of(c, c->value);
    return c->tried;
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
    c->n_moves = 0;
    c->now = c->tried;
}

void mp_layer_cost_busy(const struct mp_layer_cost *c, uint32_t *busy) {
    memset(busy, 0, c->n_gpus * sizeof *busy);
    for (uint32_t s = 0; s < c->n_steps; s++) {
        const uint64_t *compute = c->base_compute + (size_t)s * c->n_gpus;
        uint32_t most = 0;
        for (uint32_t g = 1; g < c->n_gpus; g++)
            most = compute[g] > compute[most] ? g : most;
        busy[most]++;
    }
}
