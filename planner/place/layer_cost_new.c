/* What the evaluator of one layer needs to know: where each resource's count stands in a row, and what every step asks
 * of every item. Read once; planner/place/layer_cost.c then works on it. */
#include "layer_cost_parts.h"
#include <stdlib.h>
#include <string.h>

#define KNOWN_MAX 32768u /* changes to be remembered */

/* Resources in the order of their rates: [resource] -> position. */
struct ranked {
    uint64_t dispatch_rate, combine_rate;
    uint32_t key; /* resource, or n_resources + pair */
};
static int by_rates(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->dispatch_rate != y->dispatch_rate)
        return x->dispatch_rate < y->dispatch_rate ? -1 : 1;
    if (x->combine_rate != y->combine_rate)
        return x->combine_rate < y->combine_rate ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}
/* Sorts the counters, numbers them from *width on, appends their classes. at[key] becomes the position. */
static void number(struct mp_layer_cost *c, struct ranked *r, uint32_t n, uint32_t *at) {
    qsort(r, n, sizeof *r, by_rates);
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || r[i].dispatch_rate != r[i - 1].dispatch_rate || r[i].combine_rate != r[i - 1].combine_rate)
            c->classes[c->n_classes++] = (struct cost_class){.first = c->width,
                                                             .dispatch.bytes_per_s = r[i].dispatch_rate,
                                                             .combine.bytes_per_s = r[i].combine_rate};
        c->classes[c->n_classes - 1].n++;
        at[r[i].key] = c->width++;
    }
}

static void fill_cells(const struct mp_layer_cost *c, uint32_t *cell_at, const uint32_t *at, uint32_t n_resources,
                       bool only_inside) {
    const struct mp_topology *t = c->problem.topology;
    for (uint32_t i = 0; i < c->n_gpus; i++)
        for (uint32_t j = 0; j < c->n_gpus; j++) {
            uint32_t level = i == j ? 0 : level_of(c, i, j), pair = i * c->n_gpus + j;
            bool is_capped = i != j && t->levels[level].pair_bytes_per_s > 0 && (!only_inside || level == 0);
            cell_at[pair] = is_capped ? at[n_resources + pair] : MP_NONE;
        }
}

static enum mp_status lay_out(struct mp_layer_cost *c, struct mp_error *err) {
    const struct mp_topology *t = c->problem.topology;
    uint32_t n = c->n_gpus, L = c->n_levels, R = t->n_resources;
    bool has_caps = false;
    for (uint32_t l = 0; l < L; l++)
        has_caps |= t->levels[l].pair_bytes_per_s > 0;
    size_t pairs = has_caps ? (size_t)n * n : 0;
    uint32_t *at = mp_arena_alloc(c->arena, R + pairs, sizeof *at);
    struct ranked *ranked = mp_arena_alloc(c->arena, R + pairs, sizeof *ranked);
    uint64_t *mirror = mp_arena_alloc(c->arena, R, sizeof *mirror);
    c->classes = mp_arena_alloc(c->arena, 2 * (R + (size_t)L), sizeof *c->classes);
    c->out_at = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->out_at);
    c->in_at = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->in_at);
    c->out2_at = mp_arena_alloc(c->arena, n, sizeof *c->out2_at);
    c->in2_at = mp_arena_alloc(c->arena, n, sizeof *c->in2_at);
    c->group = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->group);
    c->group_first = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->group_first);
    c->group_end = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->group_end);
    c->up_out_at = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->up_out_at);
    c->up_in_at = mp_arena_alloc(c->arena, (size_t)n * L, sizeof *c->up_in_at);
    c->has_uplink = mp_arena_alloc(c->arena, L, sizeof *c->has_uplink);
    c->node_first = mp_arena_alloc(c->arena, n, sizeof *c->node_first);
    c->node_size = mp_arena_alloc(c->arena, n, sizeof *c->node_size);
    c->index_in_node = mp_arena_alloc(c->arena, n, sizeof *c->index_in_node);
    c->level = mp_arena_alloc(c->arena, (size_t)n * n, sizeof *c->level);
    c->sum_at = mp_arena_alloc(c->arena, L, sizeof *c->sum_at);
    if (has_caps) {
        c->cell_at = mp_arena_alloc(c->arena, pairs, sizeof *c->cell_at);
        c->cell2_at = mp_arena_alloc(c->arena, pairs, sizeof *c->cell2_at);
    }
    if (at == NULL || ranked == NULL || mirror == NULL || c->classes == NULL || c->out_at == NULL || c->in_at == NULL ||
        c->out2_at == NULL || c->in2_at == NULL || c->group == NULL || c->group_first == NULL || c->group_end == NULL ||
        c->up_out_at == NULL || c->up_in_at == NULL || c->has_uplink == NULL || c->node_first == NULL ||
        c->node_size == NULL || c->index_in_node == NULL || c->level == NULL || c->sum_at == NULL ||
        (has_caps && (c->cell_at == NULL || c->cell2_at == NULL)))
        return mp_nomem(err, "the cost of a layer");
    for (uint32_t r = 0; r < R; r++)
        mirror[r] = t->resources[r].bytes_per_s;
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t l = 0; l < L; l++) {
            const struct mp_gpu *gpu = &t->gpus[g];
            uint32_t first = g;
            c->group[g * L + l] = gpu->group[l];
            while (first > 0 && t->gpus[first - 1].group[l] == gpu->group[l])
                first--;
            c->group_first[g * L + l] = first;
            c->group_end[first * L + l] = g + 1; /* the last one of the group that comes by is right */
            mirror[gpu->out_port[l]] = t->resources[gpu->in_port[l]].bytes_per_s;
            mirror[gpu->in_port[l]] = t->resources[gpu->out_port[l]].bytes_per_s;
        }
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t l = 0; l < L; l++)
            c->group_end[g * L + l] = c->group_end[c->group_first[g * L + l] * L + l];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            for (uint8_t *l = &c->level[i * n + j]; c->group[i * L + *l] != c->group[j * L + *l];)
                ++*l;
    c->n_counts = n;
    for (uint32_t l = 0; l < L; l++) {
        c->sum_at[l] = c->n_counts;
        c->n_counts += t->levels[l].n_groups;
    }
    c->n_nodes = t->levels[0].n_groups;
    for (uint32_t g = 0; g < n; g++) {
        uint32_t node = node_of(c, g);
        c->node_first[node] = c->group_first[g * L];
        c->node_size[node] = c->group_end[g * L] - c->group_first[g * L];
        c->index_in_node[g] = g - c->group_first[g * L];
    }
    for (uint32_t l = 0; l < L; l++) {
        c->has_uplink[l] = t->levels[l].uplink_out != NULL;
        for (uint32_t i = 0; c->has_uplink[l] && i < t->levels[l].n_groups; i++) {
            uint32_t out = t->levels[l].uplink_out[i], in = t->levels[l].uplink_in[i];
            mirror[out] = t->resources[in].bytes_per_s;
            mirror[in] = t->resources[out].bytes_per_s;
        }
    }
    c->active_at = n;
    c->rows_at = 2 * n;
    c->inter_at = 3 * n;
    c->source_at = 3 * n + 1;
    c->width = c->source_at + (c->is_coupled ? n : 0);
    for (uint32_t phase = 0; phase < 1 + (uint32_t)c->has_second; phase++) {
        uint32_t m = 0;
        for (uint32_t r = 0; r < R; r++)
            if (phase == 0 || (t->resources[r].level == 0 && !t->resources[r].is_uplink))
                ranked[m++] = (struct ranked){t->resources[r].bytes_per_s, mirror[r], r};
        number(c, ranked, m, at);
        if (has_caps) {
            m = 0;
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < n; j++) {
                    uint64_t cap = i == j ? 0 : t->levels[level_of(c, i, j)].pair_bytes_per_s;
                    if (cap > 0 && (phase == 0 || level_of(c, i, j) == 0))
                        ranked[m++] = (struct ranked){cap, cap, R + i * n + j};
                }
            number(c, ranked, m, at);
            fill_cells(c, phase == 0 ? c->cell_at : c->cell2_at, at, R, phase == 1);
        }
        if (phase == 1) {
            for (uint32_t g = 0; g < n; g++) {
                c->out2_at[g] = at[t->gpus[g].out_port[0]];
                c->in2_at[g] = at[t->gpus[g].in_port[0]];
            }
            break;
        }
        c->n_first = c->n_classes;
        for (uint32_t g = 0; g < n; g++)
            for (uint32_t l = 0; l < L; l++) {
                c->out_at[g * L + l] = at[t->gpus[g].out_port[l]];
                c->in_at[g * L + l] = at[t->gpus[g].in_port[l]];
                if (c->has_uplink[l]) {
                    uint32_t group = c->group[g * L + l];
                    c->up_out_at[l * n + group] = at[t->levels[l].uplink_out[group]];
                    c->up_in_at[l * n + group] = at[t->levels[l].uplink_in[group]];
                }
            }
    }
    return MP_OK;
}

/* ---- what the steps ask for ---- */
/* Items of an expert in order: its replicas, or with `most` those of one replica, of two, ... first[n_experts + 1] into
 * list[n_items]. */
struct replicas {
    const uint8_t *most;
    enum mp_route_rule rule;
    uint32_t *first, *list;
};
static enum mp_status list_replicas(struct replicas *r, const struct mp_layer_cost *c,
                                    const struct mp_layer_cost_spec *s, struct mp_error *err) {
    const uint32_t n_experts = s->problem->workload->trace->n_experts;
    r->most = s->most;
    r->rule = s->rule;
    r->first = mp_arena_alloc(c->arena, n_experts + 2, sizeof *r->first);
    r->list = mp_arena_alloc(c->arena, c->n_items, sizeof *r->list);
    if (r->first == NULL || r->list == NULL)
        return mp_nomem(err, "the cost of a layer");
    for (uint32_t i = 0; i < c->n_items; i++)
        r->list[i] = i;
    for (uint32_t e = 0; s->most != NULL && e < n_experts; e++)
        r->first[e + 1] = r->first[e] + mp_layer_items(s->rule, s->most[e]);
    if (s->most != NULL)
        return MP_OK;
    for (uint32_t i = 0; i < c->n_items; i++)
        r->first[s->copies[i] + 2]++;
    for (uint32_t e = 1; e < n_experts + 2; e++)
        r->first[e] += r->first[e - 1];
    for (uint32_t i = 0; i < c->n_items; i++)
        r->list[r->first[s->copies[i] + 1]++] = i;
    return MP_OK;
}
/* The numbers of replicas that an expert may have: [least, most]. */
static uint32_t least_of(const struct replicas *r, uint32_t expert) {
    return r->most != NULL ? 1 : r->first[expert + 1] - r->first[expert];
}
static uint32_t most_of(const struct replicas *r, uint32_t expert) {
    return r->most != NULL ? (r->rule == MP_ROUTE_NEAREST ? 1 : r->most[expert])
                           : r->first[expert + 1] - r->first[expert];
}
/* Replica j of n. */
static uint32_t replica_of(const struct replicas *r, uint32_t expert, uint32_t n, uint32_t j) {
    return r->list[r->most != NULL ? mp_replica_item(r->first[expert], n, j) : r->first[expert] + j];
}
/* hash % n for an expert's few replicas; by a number that is known it is a multiplication. */
static inline uint32_t rest_of(uint64_t hash, uint32_t n) {
    switch (n) {
    case 2:
        return (uint32_t)(hash % 2);
    case 3:
        return (uint32_t)(hash % 3);
    case 4:
        return (uint32_t)(hash % 4);
    case 5:
        return (uint32_t)(hash % 5);
    case 6:
        return (uint32_t)(hash % 6);
    case 7:
        return (uint32_t)(hash % 7);
    case 8:
        return (uint32_t)(hash % 8);
    default:
        return (uint32_t)(hash % n);
    }
}
static uint64_t draw_of(uint32_t layer, uint32_t expert, uint64_t token_hash) {
    return mp_mix64(token_hash ^ ((uint64_t)layer << 32 | expert));
}
static inline uint32_t item_of(const struct replicas *r, uint32_t expert, uint32_t n, uint64_t draw) {
    return replica_of(r, expert, n, n < 2 ? 0 : rest_of(draw, n));
}

/* The step that is looked at as the i-th. */
static uint32_t step_at(const struct mp_layer_cost *c, const struct mp_layer_cost_spec *s, uint32_t i) {
    return s->steps != NULL ? s->steps[c->order[i]] : c->order[i];
}

static enum mp_status read_counts(struct mp_layer_cost *c, const struct replicas *r, const struct mp_layer_cost_spec *s,
                                  struct mp_error *err) {
    const struct mp_workload *w = s->problem->workload;
    uint32_t n_experts = w->trace->n_experts, k = s->problem->model->top_k > 0 ? s->problem->model->top_k : 1;
    uint32_t *tokens = mp_arena_alloc(c->arena, (size_t)w->n_ranks * n_experts, sizeof *tokens);
    if (tokens == NULL)
        return mp_nomem(err, "the cost of a layer");
    for (uint32_t i = 0; i < c->n_steps; i++) {
        mp_workload_tokens(w, step_at(c, s, i), c->layer, tokens);
        for (uint32_t src = 0; src < w->n_ranks; src++) {
            uint64_t pairs = 0;
            for (uint32_t e = 0; e < n_experts; e++) {
                const uint32_t count = tokens[(size_t)src * n_experts + e];
                pairs += count;
                for (uint32_t n = least_of(r, e); n <= most_of(r, e) && count > 0; n++)
                    for (uint32_t j = 0; j < n; j++) { /* mp_router_split, rule even */
                        uint32_t share = count / n + ((j + n - src % n) % n < count % n);
                        size_t cell = (size_t)i * c->n_items + replica_of(r, e, n, j);
                        c->rows[cell] += share;
                        if (c->count != NULL)
                            c->count[cell * c->n_gpus + src] += share;
                    }
            }
            c->tokens_of_rank[(size_t)i * c->n_gpus + src] = (uint32_t)mp_ceil_div(pairs, k);
        }
    }
    return MP_OK;
}

/* Room for the sets of every step's kept tokens: every `every`-th. */
static enum mp_status lay_out_sets(struct mp_layer_cost *c, const struct mp_layer_cost_spec *s, uint32_t every,
                                   struct mp_error *err) {
    const struct mp_workload *w = s->problem->workload;
    const size_t S = c->n_steps, I = c->n_items, n = c->n_gpus;
    uint32_t *most = mp_arena_alloc(c->arena, n, sizeof *most), all = 1;
    c->delta = mp_arena_alloc(c->arena, n * LANES, sizeof *c->delta);
    c->word_first = mp_arena_alloc(c->arena, n + 1, sizeof *c->word_first);
    if (most == NULL || c->delta == NULL || c->word_first == NULL)
        return mp_nomem(err, "the tokens of a layer");
    for (uint32_t i = 0; i < S; i++) {
        const struct mp_step *st = &w->steps[step_at(c, s, i)];
        memset(c->delta, 0, n * sizeof *c->delta);
        for (uint32_t k = 0; k < st->n; k += every) {
            const uint32_t src = st->source[k], count = ++c->delta[src];
            most[src] = count > most[src] ? count : most[src];
            all = count > all ? count : all;
        }
    }
    memset(c->delta, 0, n * sizeof *c->delta);
    c->field_bits = 1;
    while (c->field_bits < all && c->field_bits < 64)
        c->field_bits *= 2;
    for (uint32_t src = 0; src < n; src++)
        c->word_first[src + 1] = c->word_first[src] + (uint32_t)mp_ceil_div(most[src], 64);
    c->n_words = c->field_bits == 64 ? c->word_first[n] : (uint32_t)mp_ceil_div(n * c->field_bits, 64);
    c->n_words = (uint32_t)mp_ceil_div(c->n_words > 0 ? c->n_words : 1, WORDS) * WORDS;
    c->tokens = mp_arena_alloc(c->arena, S * I * c->n_words, sizeof *c->tokens);
    c->on_gpu = mp_arena_alloc(c->arena, S * n * c->n_words, sizeof *c->on_gpu);
    c->tried_on_gpu = mp_arena_alloc(c->arena, S * MP_LAYER_MOVES_MAX * c->n_words, sizeof *c->tried_on_gpu);
    c->kept = mp_arena_alloc(c->arena, S * I, sizeof *c->kept);
    c->items_first = mp_arena_alloc(c->arena, n + 2, sizeof *c->items_first);
    c->items = mp_arena_alloc(c->arena, I, sizeof *c->items);
    c->place = mp_arena_alloc(c->arena, n, sizeof *c->place);
    for (int k = 0; k < 2; k++)
        c->set[k] = mp_arena_alloc(c->arena, c->n_words, sizeof *c->set[k]);
    c->gate = mp_arena_alloc(c->arena, n * c->n_nodes, sizeof *c->gate);
    c->difference = mp_arena_alloc(c->arena, c->n_words, sizeof *c->difference);
    c->joined = mp_arena_alloc(c->arena, I + 2 * MP_LAYER_MOVES_MAX, sizeof *c->joined);
    if (c->copies == MP_COPY_PER_NODE && c->n_nodes > 1) {
        c->once = mp_arena_alloc(c->arena, S * c->n_nodes * c->n_words, sizeof *c->once);
        c->twice = mp_arena_alloc(c->arena, S * c->n_nodes * c->n_words, sizeof *c->twice);
        if (c->once == NULL || c->twice == NULL)
            return mp_nomem(err, "the tokens of a layer");
    }
    if (c->difference == NULL || c->joined == NULL)
        return mp_nomem(err, "the tokens of a layer");
    if (c->tokens == NULL || c->on_gpu == NULL || c->tried_on_gpu == NULL || c->kept == NULL ||
        c->items_first == NULL || c->items == NULL || c->set[0] == NULL || c->set[1] == NULL || c->place == NULL ||
        c->gate == NULL)
        return mp_nomem(err, "the tokens of a layer");
    for (size_t src = 0; src < n; src++)
        for (size_t v = 0; v < c->n_nodes; v++)
            c->gate[src * c->n_nodes + v] = c->node_first[v] + c->index_in_node[src] % c->node_size[v];
    return MP_OK;
}
/* The bit of the step's next kept token from src; delta counts them. */
static size_t next_bit(struct mp_layer_cost *c, uint32_t src) {
    const size_t k = c->delta[src]++;
    return c->field_bits == 64 ? (size_t)c->word_first[src] * 64 + k : (size_t)src * c->field_bits + k;
}

/* A step's rows where each expert has one item and sources stay; there may be a million. */
static void read_step(struct mp_layer_cost *c, const struct replicas *r, const struct mp_step *st, uint32_t i,
                      uint32_t every) {
    const struct mp_trace *t = c->problem.workload->trace;
    const size_t n_gpus = c->n_gpus, n_words = c->n_words, cells = (size_t)i * c->n_items;
    const uint32_t layer = c->layer, *const item = r->list, *const first = r->first;
    uint32_t *const rows = c->rows + cells, *const count = c->count != NULL ? c->count + cells * n_gpus : NULL,
                    *const of_rank = c->tokens_of_rank + i * n_gpus, *const kept = c->by_token ? c->kept + cells : NULL;
    uint64_t *const tokens = c->by_token ? c->tokens + cells * n_words : NULL;
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t k = 0, left = 0; k < st->n; k++) { /* left: rows until the next that is kept */
        const uint32_t n = mp_trace_row(t, layer, st->row[k], ids), src = st->source[k];
        of_rank[src]++;
        for (uint32_t j = 0; j < n; j++)
            rows[item[first[ids[j]]]]++;
        for (uint32_t j = 0; j < n && count != NULL; j++)
            count[item[first[ids[j]]] * n_gpus + src]++;
        if (kept != NULL && left == 0) {
            const size_t bit = next_bit(c, src);
            for (uint32_t j = 0; j < n; j++) {
                tokens[item[first[ids[j]]] * n_words + bit / 64] |= UINT64_C(1) << bit % 64;
                kept[item[first[ids[j]]]]++;
            }
        }
        left = left > 0 ? left - 1 : every - 1;
    }
}

static enum mp_status read_tokens(struct mp_layer_cost *c, const struct replicas *r, const struct mp_layer_cost_spec *s,
                                  struct mp_error *err) {
    const struct mp_workload *w = s->problem->workload;
    const struct mp_trace *t = w->trace;
    uint16_t ids[MP_MAX_TOP_K];
    uint64_t n_rows = 0, n_kept = 0;
    for (uint32_t i = 0; i < c->n_steps; i++)
        n_rows += w->steps[step_at(c, s, i)].n;
    uint64_t every = s->rows_max > 0 && !c->is_coupled ? mp_ceil_div(n_rows, s->rows_max) : 1;
    every = every < 1 || !c->by_token ? 1 : every;
    c->is_exact = every == 1;
    for (uint32_t i = 0; i < c->n_steps; i++)
        n_kept += mp_ceil_div(w->steps[step_at(c, s, i)].n, every);
    if (c->by_token) {
        c->step_first = mp_arena_alloc(c->arena, c->n_steps + 1, sizeof *c->step_first);
        c->weight = mp_arena_alloc(c->arena, c->n_steps, sizeof *c->weight);
        if (c->step_first == NULL || c->weight == NULL)
            return mp_nomem(err, "the tokens of a layer");
    }
    if (c->is_coupled) {
        c->ids = mp_arena_alloc(c->arena, n_kept * c->top_k, sizeof *c->ids);
        c->home = mp_arena_alloc(c->arena, n_kept, sizeof *c->home);
        c->token_first = mp_arena_alloc(c->arena, (size_t)c->n_steps * c->n_items + 2, sizeof *c->token_first);
        c->token_of = mp_arena_alloc(c->arena, n_kept * c->top_k, sizeof *c->token_of);
        c->home_first = mp_arena_alloc(c->arena, (size_t)c->n_steps * c->n_items + 2, sizeof *c->home_first);
        c->home_of = mp_arena_alloc(c->arena, n_kept, sizeof *c->home_of);
        if (c->ids == NULL || c->home == NULL || c->token_first == NULL || c->token_of == NULL ||
            c->home_first == NULL || c->home_of == NULL)
            return mp_nomem(err, "the tokens of a layer");
    } else if (c->by_token) {
        enum mp_status status = lay_out_sets(c, s, (uint32_t)every, err);
        if (status != MP_OK)
            return status;
    }
    bool is_plain = !c->is_coupled;
    for (uint32_t e = 0; e < t->n_experts; e++)
        is_plain &= least_of(r, e) == 1 && most_of(r, e) == 1;
    uint32_t token = 0;
    for (uint32_t i = 0; i < c->n_steps; i++) {
        const struct mp_step *st = &w->steps[step_at(c, s, i)];
        if (c->by_token) {
            c->step_first[i] = token;
            c->weight[i] = (uint32_t)every;
        }
        if (is_plain) {
            read_step(c, r, st, i, (uint32_t)every);
            token += c->by_token ? (uint32_t)mp_ceil_div(st->n, every) : 0;
        }
        for (uint32_t k = 0; k < st->n && !is_plain; k++) {
            uint64_t hash = mp_token_hash(st->row[k]);
            uint32_t n = mp_trace_row(t, c->layer, st->row[k], ids), src = st->source[k];
            bool is_kept = c->by_token && k % every == 0;
            c->tokens_of_rank[(size_t)i * c->n_gpus + src]++;
            const size_t bit = is_kept && !c->is_coupled ? next_bit(c, src) : 0;
            for (uint32_t j = 0; j < n; j++) {
                const uint64_t draw = most_of(r, ids[j]) > 1 ? draw_of(c->layer, ids[j], hash) : 0;
                for (uint32_t m = least_of(r, ids[j]); m <= most_of(r, ids[j]); m++) {
                    uint32_t item = item_of(r, ids[j], m, draw);
                    size_t cell = (size_t)i * c->n_items + item;
                    c->rows[cell]++;
                    if (c->count != NULL)
                        c->count[cell * c->n_gpus + src]++;
                    if (!is_kept)
                        continue;
                    if (!c->is_coupled) {
                        c->tokens[cell * c->n_words + bit / 64] |= UINT64_C(1) << bit % 64;
                        c->kept[cell]++;
                        continue;
                    }
                    c->ids[(size_t)token * c->top_k + j] = (uint16_t)item;
                    c->token_first[cell + 2]++;
                }
            }
            if (!is_kept)
                continue;
            if (c->is_coupled) {
                for (uint32_t j = n; j < c->top_k; j++)
                    c->ids[(size_t)token * c->top_k + j] = (uint16_t)c->n_items;
                const uint32_t home = (uint32_t)(st->row[k] % t->n_experts);
                c->home[token] = (uint16_t)item_of(r, home, most_of(r, home), draw_of(c->layer, home, hash));
                c->home_first[(size_t)i * c->n_items + c->home[token] + 2]++;
            }
            token++;
        }
        for (uint32_t src = 0; c->n_words > 0 && src < c->n_gpus; src++)
            c->delta[src] = 0;
        for (uint32_t g = 0; g < w->n_ranks; g++)
            c->source_rows[(size_t)i * c->n_gpus + g] = st->padding != NULL ? st->padding[g] : 0;
    }
    if (!c->by_token)
        return MP_OK;
    c->step_first[c->n_steps] = token;
    if (!c->is_coupled)
        return MP_OK;
    size_t cells = (size_t)c->n_steps * c->n_items;
    for (size_t i = 1; i < cells + 2; i++)
        c->token_first[i] += c->token_first[i - 1];
    for (size_t i = 1; i < cells + 2; i++)
        c->home_first[i] += c->home_first[i - 1];
    for (uint32_t i = 0; i < c->n_steps; i++)
        for (uint32_t k = c->step_first[i]; k < c->step_first[i + 1]; k++) {
            for (uint32_t j = 0; j < c->top_k && c->ids[(size_t)k * c->top_k + j] < c->n_items; j++)
                c->token_of[c->token_first[(size_t)i * c->n_items + c->ids[(size_t)k * c->top_k + j] + 1]++] = k;
            c->home_of[c->home_first[(size_t)i * c->n_items + c->home[k] + 1]++] = k;
        }
    return MP_OK;
}

/* (1 - w) * own + w * part / all * total, rounded. */
static uint32_t shrunk(uint64_t own, uint64_t total, uint64_t part, uint64_t all, uint32_t permille) {
    uint64_t pooled = all > 0 ? mp_mul_div(total * permille, part, all) : 0; /* in thousandths */
    return (uint32_t)((own * (1000 - permille) + pooled + 500) / 1000);
}
/* Is this item of an expert that has one replica? Their rows are all there are. Without `most`: all items count. */
static bool is_single(const struct replicas *r, uint32_t n_experts, uint32_t *expert, size_t item) {
    if (r->most == NULL)
        return true;
    while (*expert + 1 < n_experts && r->first[*expert + 1] <= item)
        ++*expert;
    return r->first[*expert] == item;
}
/* Fills in padded rows, and pulls them and the copies towards the pool. */
static void pad_and_shrink(struct mp_layer_cost *c, const struct replicas *r, uint32_t permille) {
    const uint32_t n_experts = c->problem.workload->trace->n_experts;
    const size_t S = c->n_steps, I = c->n_items, n = c->n_gpus;
    uint64_t all = 0;
    for (size_t s = 0; s < S; s++) {
        uint32_t expert = 0;
        for (size_t i = 0; i < I; i++) {
            c->total_rows[i] += c->rows[s * I + i];
            all += is_single(r, n_experts, &expert, i) ? c->rows[s * I + i] : 0;
        }
    }
    for (size_t s = 0; s < S; s++) {
        const uint32_t *rows = c->rows + s * I;
        uint64_t total = 0;
        uint32_t expert = 0;
        for (size_t i = 0; i < I; i++)
            total += is_single(r, n_experts, &expert, i) ? rows[i] : 0;
        for (size_t i = 0; i < I; i++) {
            uint32_t mine = permille > 0 ? shrunk(rows[i], total, c->total_rows[i], all, permille) : rows[i];
            for (size_t k = 0; k < c->n_tiles; k++)
                c->padded[(k * S + s) * I + i] = (uint32_t)(mp_ceil_div(mine, c->tiles[k]) * c->tiles[k]);
        }
        for (size_t src = 0; permille > 0 && c->count != NULL && src < n; src++) {
            uint64_t sent = 0;
            expert = 0;
            for (size_t i = 0; i < I; i++)
                sent += !is_single(r, n_experts, &expert, i) ? 0 : c->count[(s * I + i) * n + src];
            for (size_t i = 0; i < I; i++) {
                uint32_t *cell = &c->count[(s * I + i) * n + src];
                *cell = shrunk(*cell, sent, c->total_rows[i], all, permille);
            }
        }
    }
}

static struct divider divider_of(uint64_t by) {
    const uint32_t log = by < 2 ? 0 : 64 - (uint32_t)__builtin_clzll(by - 1); /* rounded up */
    return (struct divider){by, (uint64_t)((((unsigned __int128)1 << (63 + log)) + by - 1) / by), log};
}
static void set_rate(struct cost_rate *r, uint64_t bytes) {
    uint64_t a = bytes * NS_PER_S, b = r->bytes_per_s; /* bytes < 2^32 */
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    r->unit = bytes * NS_PER_S / a;
    r->by = divider_of(r->bytes_per_s / a);
}

/* Picoseconds and bytes times 10^9 stay inside 64 bits for the largest counts there are; false where they do not. */
static bool fits(struct mp_layer_cost *c, uint64_t rows_most, uint64_t copies_most) {
    const unsigned __int128 most = (unsigned __int128)1 << 52;
    if (rows_most > INT32_MAX || copies_most > INT32_MAX)
        return false;
    for (uint32_t g = 0; g < c->n_gpus; g++) {
        const struct gpu_cost *k = &c->gpus[g];
        const unsigned __int128 weights = k->a + (unsigned __int128)k->b * c->n_items,
                                tokens = k->c + (unsigned __int128)k->beta * rows_most;
        if (weights >= most || tokens >= most || weights * 1000 / k->speed >= most || tokens * 1000 / k->speed >= most)
            return false;
    }
    uint64_t bytes = c->dispatch_bytes > c->combine_bytes ? c->dispatch_bytes : c->combine_bytes;
    if (bytes >= UINT64_C(1) << 32)
        return false;
    for (uint32_t i = 0; i < c->n_classes; i++) {
        struct cost_class *k = &c->classes[i];
        unsigned __int128 product = (unsigned __int128)copies_most * bytes * NS_PER_S;
        uint64_t rate =
            k->dispatch.bytes_per_s < k->combine.bytes_per_s ? k->dispatch.bytes_per_s : k->combine.bytes_per_s;
        if (product / rate >= most)
            return false;
        set_rate(&k->dispatch, c->dispatch_bytes);
        set_rate(&k->combine, c->combine_bytes);
        const uint64_t unit = k->dispatch.unit > k->combine.unit ? k->dispatch.unit : k->combine.unit;
        k->is_small =
            (unsigned __int128)copies_most * unit + k->dispatch.by.by + k->combine.by.by < (unsigned __int128)1 << 63;
    }
    return true;
}

static enum mp_status set_gpus(struct mp_layer_cost *c, struct mp_error *err) {
    const struct mp_problem *p = &c->problem;
    c->gpus = mp_arena_alloc(c->arena, c->n_gpus, sizeof *c->gpus);
    c->tiles = mp_arena_alloc(c->arena, c->n_gpus, sizeof *c->tiles);
    if (c->gpus == NULL || c->tiles == NULL)
        return mp_nomem(err, "the cost of a layer");
    for (uint32_t g = 0; g < c->n_gpus; g++) {
        const struct mp_compute_coefficients k = mp_compute_coefficients(p->topology, g, p->model);
        uint32_t speed = p->topology->gpus[g].speed_ppm, i = 0;
        uint64_t tile = p->topology->types[p->topology->gpus[g].type].tile_tokens;
        tile = tile == 0 ? 1 : tile;
        while (i < c->n_tiles && c->tiles[i] != tile)
            i++;
        c->tiles[i] = tile;
        c->n_tiles = i == c->n_tiles ? i + 1 : c->n_tiles;
        speed = speed == 0 ? 1 : speed;
        c->gpus[g] = (struct gpu_cost){k.a_ps, k.b_ps, k.c_ps, k.beta_ps, speed, divider_of(speed), i};
    }
    return MP_OK;
}

uint64_t layer_slowest_ns(const struct mp_layer_cost *c, const uint32_t *rows, size_t stride, bool is_shared) {
    uint64_t most = 0;
    for (uint32_t g = 0; g < c->n_gpus; g++) {
        uint64_t ns = is_shared ? mp_shared_ns(c->problem.topology, g, c->problem.model, rows[g * stride])
                                : mp_attention_ns(c->problem.topology, g, c->problem.model, rows[g * stride]);
        most = ns > most ? ns : most;
    }
    return most < UINT64_C(1) << 52 ? most : UINT64_C(1) << 52;
}

/* What was read, eight steps side by side. */
static void fold(struct mp_layer_cost *c, const struct replicas *r) {
    const size_t S = c->n_steps, I = c->n_items, n = c->n_gpus, L = c->n_levels, C = c->n_counts;
    for (size_t s = 0; s < S; s++) {
        const size_t block = s / LANES, lane = s % LANES;
        for (size_t i = 0; i < I; i++) {
            c->lane_rows[(block * I + i) * LANES + lane] = c->rows[s * I + i];
            for (size_t k = 0; k < c->n_tiles; k++)
                c->lane_padded[((k * c->n_blocks + block) * I + i) * LANES + lane] = c->padded[(k * S + s) * I + i];
            if (c->lane_count == NULL)
                continue;
            uint32_t *to = c->lane_count + (block * I + i) * C * LANES + lane;
            for (size_t src = 0; src < n; src++) {
                const uint32_t count = c->count[(s * I + i) * n + src];
                to[src * LANES] = count;
                for (size_t l = 0; l < L && count > 0; l++)
                    to[(c->sum_at[l] + c->group[src * L + l]) * LANES] += count;
            }
        }
        for (size_t e = 0; c->lane_source != NULL && e < c->n_experts; e++)
            for (size_t src = 0; src < n; src++)
                c->lane_source[((block * c->n_experts + e) * n + src) * LANES + lane] =
                    c->count[(s * I + r->first[e]) * n + src];
    }
}

/* Room for what is to be filled. */
static enum mp_status make_fills(struct mp_layer_cost *c, struct mp_error *err) {
    for (uint32_t k = 0; k < MP_LAYER_FILLS_MAX; k++) {
        struct fill *f = &c->fills[k];
        f->replica = mp_arena_alloc(c->arena, c->n_gpus, sizeof *f->replica);
        f->mask = mp_arena_alloc(c->arena, (size_t)MP_REPLICAS_MAX * c->n_words + 1, sizeof *f->mask);
        if (f->replica == NULL || f->mask == NULL)
            return mp_nomem(err, "the cost of a layer");
    }
    return MP_OK;
}

/* Steps in an order in which every beginning is spread over all of them: by the digits of the index, reversed. */
static void spread_steps(struct mp_layer_cost *c) {
    uint32_t bits = 0, n = 0;
    while (UINT32_C(1) << bits < c->n_steps)
        bits++;
    for (uint32_t i = 0; i < UINT32_C(1) << bits; i++) {
        uint32_t turned = 0;
        for (uint32_t b = 0; b < bits; b++)
            turned |= (i >> b & 1) << (bits - 1 - b);
        if (turned < c->n_steps)
            c->order[n++] = turned;
    }
}

enum mp_status mp_layer_cost_new(struct mp_layer_cost **out, const struct mp_layer_cost_spec *spec,
                                 enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_problem *p = spec->problem;
    const struct mp_dispatcher *d = p->sim.dispatcher;
    const struct mp_model *m = p->model;
    struct mp_arena *arena = mp_arena_new();
    struct mp_arena *read = mp_arena_new(); /* tables that are needed until they are folded */
    struct mp_layer_cost *c = arena != NULL && read != NULL ? mp_arena_alloc(arena, 1, sizeof *c) : NULL;
    struct replicas replicas;
    enum mp_status status;
    *out = NULL;
    *outcome = MP_FOUND;
    if (c == NULL) {
        mp_arena_free(arena);
        mp_arena_free(read);
        return mp_nomem(err, "the cost of a layer");
    }
    *c = (struct mp_layer_cost){.arena = arena,
                                .problem = *p,
                                .layer = spec->layer,
                                .n_gpus = p->topology->n_gpus,
                                .n_items = spec->n_copies,
                                .n_steps = spec->n_steps,
                                .n_ranks = p->workload->n_ranks,
                                .n_experts = p->workload->trace->n_experts,
                                .n_levels = p->topology->n_levels,
                                .top_k = p->workload->trace->top_k,
                                .copies = d->copies,
                                .objective = p->objective,
                                .is_coupled = p->sim.sources == MP_SOURCES_COUPLED,
                                .has_second = d->copies == MP_COPY_PER_NODE,
                                .is_overlapped = d->is_overlapped,
                                .is_counts = p->workload->trace->kind == MP_TRACE_COUNTS,
                                .is_alone = p->topology->n_gpus < 2,
                                .is_exact = true,
                                .dispatch_bytes = m->dispatch_bytes,
                                .combine_bytes = m->combine_bytes};
#if defined(__x86_64__)
    c->has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
#endif
    c->by_token = c->is_coupled || c->copies == MP_COPY_PER_NODE || c->copies == MP_COPY_PER_GPU;
    if (c->is_coupled && spec->most != NULL) {
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                            "with coupled sources replicas are not chosen while placing (write --replicate eplb)");
        goto out;
    }
    if (c->by_token && c->is_counts) {
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                            "%s needs to know each token (record the top-k of every token, or use --dispatcher a2av)",
                            d->name);
        goto out;
    }
    uint64_t launch = p->topology->launch_ns < UINT64_C(1) << 52 ? p->topology->launch_ns : UINT64_C(1) << 52;
    c->launch_ns = d->n_launches * launch;
    c->attention_times =
        spec->layer == 0 ? 1 + (m->n_hidden_layers > m->n_layers ? m->n_hidden_layers - m->n_layers : 0) : 1;
    size_t S = c->n_steps, I = c->n_items, n = c->n_gpus;
    MP_TRY(set_gpus(c, err));
    MP_TRY(lay_out(c, err));
    c->n_blocks = (uint32_t)mp_ceil_div(S, LANES);
    const size_t P = (size_t)c->n_blocks * LANES;
    bool by_pair = !c->by_token && c->copies == MP_COPY_PER_EXPERT;
    c->rows = mp_arena_alloc(read, S * I, sizeof *c->rows);
    c->padded = mp_arena_alloc(read, S * I * c->n_tiles, sizeof *c->padded);
    c->lane_rows = mp_arena_alloc(arena, P * I, sizeof *c->lane_rows);
    c->lane_padded = mp_arena_alloc(arena, P * I * c->n_tiles, sizeof *c->lane_padded);
    c->tokens_of_rank = mp_arena_alloc(arena, S * n, sizeof *c->tokens_of_rank);
    c->source_rows = mp_arena_alloc(arena, S * n, sizeof *c->source_rows);
    c->attention_ns = mp_arena_alloc(arena, P, sizeof *c->attention_ns);
    c->shared_ns = mp_arena_alloc(arena, P, sizeof *c->shared_ns);
    c->total_rows = mp_arena_alloc(arena, I, sizeof *c->total_rows);
    c->gpu = mp_arena_alloc(arena, I, sizeof *c->gpu);
    c->tried_gpu = mp_arena_alloc(arena, I, sizeof *c->tried_gpu);
    c->base = mp_arena_alloc(arena, P * c->width, sizeof *c->base);
    c->work = mp_arena_alloc(arena, P * c->width, sizeof *c->work);
    c->base_compute = mp_arena_alloc(arena, P * n, sizeof *c->base_compute);
    c->compute = mp_arena_alloc(arena, P * n, sizeof *c->compute);
    c->base_ns = mp_arena_alloc(arena, P, sizeof *c->base_ns);
    c->ns = mp_arena_alloc(arena, P, sizeof *c->ns);
    c->base_value = mp_arena_alloc(arena, P, sizeof *c->base_value);
    c->value = mp_arena_alloc(arena, P, sizeof *c->value);
    c->step_work = mp_arena_alloc(arena, P, sizeof *c->step_work);
    c->sorted = mp_arena_alloc(arena, S, sizeof *c->sorted);
    c->order = mp_arena_alloc(arena, S, sizeof *c->order);
    c->given_ns = mp_arena_alloc(arena, S, sizeof *c->given_ns);
    c->tag = mp_arena_alloc(arena, I + 1, sizeof *c->tag);
    const bool is_nearest = spec->most != NULL && spec->rule == MP_ROUTE_NEAREST;
    if (is_nearest) {
        c->count = mp_arena_alloc(read, S * I * n, sizeof *c->count);
        c->lane_source = mp_arena_alloc(arena, P * c->n_experts * n, sizeof *c->lane_source);
        if (c->count == NULL || c->lane_source == NULL) {
            status = mp_nomem(err, "the cost of a layer");
            goto out;
        }
    }
    if (by_pair) {
        c->count = is_nearest ? c->count : mp_arena_alloc(read, S * I * n, sizeof *c->count);
        c->lane_count = mp_arena_alloc(arena, P * I * c->n_counts, sizeof *c->lane_count);
        c->no_count = mp_arena_alloc(arena, (size_t)c->n_counts * LANES, sizeof *c->no_count);
    }
    if (c->rows == NULL || c->padded == NULL || c->lane_rows == NULL || c->lane_padded == NULL ||
        c->tokens_of_rank == NULL || c->source_rows == NULL || c->attention_ns == NULL || c->shared_ns == NULL ||
        c->total_rows == NULL || c->gpu == NULL || c->tried_gpu == NULL || c->base == NULL || c->work == NULL ||
        c->base_compute == NULL || c->compute == NULL || c->base_ns == NULL || c->ns == NULL || c->base_value == NULL ||
        c->value == NULL || c->step_work == NULL || c->sorted == NULL || c->order == NULL || c->given_ns == NULL ||
        c->tag == NULL || (by_pair && (c->count == NULL || c->lane_count == NULL || c->no_count == NULL))) {
        status = mp_nomem(err, "the cost of a layer");
        goto out;
    }
    if (!c->is_coupled) {
        const uint64_t wanted = I * I / 2 < KNOWN_MAX ? I * I / 2 : KNOWN_MAX;
        while (c->known_mask < wanted)
            c->known_mask = 2 * c->known_mask + 1;
        c->known = mp_arena_alloc(arena, (size_t)c->known_mask + 1, sizeof *c->known);
        if (c->known == NULL) {
            status = mp_nomem(err, "the cost of a layer");
            goto out;
        }
    }
    spread_steps(c);
    MP_TRY(list_replicas(&replicas, c, spec, err));
    MP_TRY(c->is_counts ? read_counts(c, &replicas, spec, err) : read_tokens(c, &replicas, spec, err));
    if (is_nearest)
        MP_TRY(make_fills(c, err));
    pad_and_shrink(c, &replicas, is_nearest ? 0 : spec->shrink_permille);
    uint64_t rows_most = 0, copies_most = 0;
    for (size_t s = 0; s < S; s++) {
        uint64_t of_step[2] = {0, 0}, tokens = 0;
        for (size_t i = 0; i < I; i++) {
            uint32_t rows = c->rows[s * I + i];
            of_step[0] += rows;
            for (uint32_t k = 0; k < c->n_tiles; k++)
                of_step[1] += c->padded[(k * S + s) * I + i] + (is_nearest ? c->tiles[k] : 0);
        }
        for (size_t g = 0; g < n; g++) {
            tokens += c->tokens_of_rank[s * n + g];
            if (!c->is_coupled)
                c->source_rows[s * n + g] += c->tokens_of_rank[s * n + g];
        }
        uint64_t copies = c->copies == MP_COPY_ALL ? tokens * n : of_step[0] + tokens;
        rows_most = of_step[1] > rows_most ? of_step[1] : rows_most;
        copies_most = copies > copies_most ? copies : copies_most;
        if (!c->is_coupled) {
            c->attention_ns[s] = layer_slowest_ns(c, c->source_rows + s * n, 1, false) * c->attention_times;
            c->shared_ns[s] = layer_slowest_ns(c, c->source_rows + s * n, 1, true);
        }
    }
    if (!fits(c, rows_most, c->is_exact ? copies_most : copies_most * 2)) {
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                            "layer %u: steps of %llu rows are too long to be searched (use strategy lpt)", c->layer,
                            (unsigned long long)rows_most);
        goto out;
    }
    fold(c, &replicas);
    c->rows = c->padded = c->count = NULL;
    *out = c;
    c = NULL;
out:
    if (c != NULL)
        mp_arena_free(arena);
    mp_arena_free(read);
    return status;
}
