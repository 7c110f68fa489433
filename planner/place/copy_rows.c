/* What the steps of one layer ask of every copy of every expert, before anything is placed: replica i of an expert is
 * the i-th by GPU, and under the rule EVEN the tokens it serves follow from that alone. */
#include "exact_steps.h"
#include <moeplan/base.h>

struct counter {
    struct mp_copy_rows *out;
    const struct mp_problem *in;
    uint32_t layer;
    uint32_t *n_replicas, *first; /* of each expert; copies of an expert: list[first ..] */
    uint32_t *list;
};

static uint32_t copy_of(const struct counter *c, uint32_t expert, uint64_t hash) {
    uint64_t draw = mp_mix64(hash ^ ((uint64_t)c->layer << 32 | expert));
    return c->list[c->first[expert] + (uint32_t)(draw % c->n_replicas[expert])];
}

static void add(struct mp_copy_rows *o, uint32_t step, uint32_t copy, uint32_t source, uint64_t n) {
    size_t at = (size_t)step * o->n_copies + copy;
    o->rows[at] += n;
    o->from[at * o->n_ranks + source] += n;
}

/* Fills the lists of pairs when they are there (second pass), else counts them in first_pair. */
static void count_tokens(struct counter *c, bool is_second) {
    struct mp_copy_rows *o = c->out;
    const struct mp_workload *w = c->in->workload;
    uint16_t ids[MP_MAX_TOP_K];
    uint64_t token = 0;
    for (uint32_t s = 0; s < w->n_steps; s++)
        for (uint32_t i = 0; i < w->steps[s].n; i++, token++) {
            uint64_t row = w->steps[s].row[i], hash = mp_token_hash(row);
            uint32_t k = mp_trace_row(w->trace, c->layer, row, ids);
            if (is_second) {
                o->token_step[token] = s;
                o->token_source[token] = w->steps[s].source[i];
            } else {
                o->rank_tokens[(size_t)s * o->n_ranks + w->steps[s].source[i]]++;
            }
            for (uint32_t j = 0; j < k; j++) {
                uint32_t copy = copy_of(c, ids[j], hash);
                if (is_second) {
                    o->pair_token[o->first_pair[copy + 1]++] = token;
                } else {
                    add(o, s, copy, w->steps[s].source[i], 1);
                    o->first_pair[copy + 2]++;
                }
            }
        }
    o->n_tokens = token;
}

static enum mp_status count_counts(struct counter *c, struct mp_arena *arena, struct mp_error *err) {
    struct mp_copy_rows *o = c->out;
    const struct mp_workload *w = c->in->workload;
    uint32_t n_experts = w->trace->n_experts, top_k = c->in->model->top_k > 0 ? c->in->model->top_k : 1;
    uint32_t *tokens = mp_arena_alloc(arena, (size_t)w->n_ranks * n_experts, sizeof *tokens);
    if (tokens == NULL)
        return mp_nomem(err, "an exact placement");
    for (uint32_t s = 0; s < w->n_steps; s++) {
        mp_workload_tokens(w, s, c->layer, tokens);
        for (uint32_t r = 0; r < w->n_ranks; r++) {
            uint64_t pairs = 0;
            for (uint32_t e = 0; e < n_experts; e++) {
                uint64_t n = tokens[(size_t)r * n_experts + e];
                uint32_t k = c->n_replicas[e], rest = (uint32_t)(n % k);
                pairs += n;
                for (uint32_t i = 0; i < k && n > 0; i++) /* the remainder to replicas (r + j) mod k, j < rest */
                    add(o, s, c->list[c->first[e] + i], r, n / k + ((i + k - r % k) % k < rest));
            }
            o->rank_tokens[(size_t)s * o->n_ranks + r] = mp_ceil_div(pairs, top_k);
        }
    }
    return MP_OK;
}

enum mp_status mp_copy_rows_count(struct mp_copy_rows *out, const struct mp_problem *in, uint32_t layer,
                                  const uint16_t *copies, uint32_t n_copies, struct mp_arena *arena,
                                  struct mp_error *err) {
    const struct mp_workload *w = in->workload;
    uint32_t n_experts = w->trace->n_experts;
    bool has_tokens = w->trace->kind == MP_TRACE_TOKENS;
    size_t cells = (size_t)w->n_steps * n_copies;
    uint64_t n_tokens = 0;
    *out = (struct mp_copy_rows){.n_steps = w->n_steps, .n_copies = n_copies, .n_ranks = w->n_ranks};
    struct counter c = {.out = out, .in = in, .layer = layer};
    c.n_replicas = mp_arena_alloc(arena, n_experts, sizeof *c.n_replicas);
    c.first = mp_arena_alloc(arena, (size_t)n_experts + 1, sizeof *c.first);
    c.list = mp_arena_alloc(arena, n_copies, sizeof *c.list);
    out->rows = mp_arena_alloc(arena, cells, sizeof *out->rows);
    out->from = mp_arena_alloc(arena, cells * w->n_ranks, sizeof *out->from);
    out->rank_tokens = mp_arena_alloc(arena, (size_t)w->n_steps * w->n_ranks, sizeof *out->rank_tokens);
    out->shared_ns = mp_arena_alloc(arena, w->n_steps, sizeof *out->shared_ns);
    out->first_pair = mp_arena_alloc(arena, (size_t)n_copies + 2, sizeof *out->first_pair);
    if (c.n_replicas == NULL || c.first == NULL || c.list == NULL || out->rows == NULL || out->from == NULL ||
        out->rank_tokens == NULL || out->shared_ns == NULL || out->first_pair == NULL)
        return mp_nomem(err, "an exact placement");
    for (uint32_t i = 0; i < n_copies; i++)
        c.n_replicas[copies[i]]++;
    for (uint32_t e = 0; e < n_experts; e++)
        c.first[e + 1] = c.first[e] + c.n_replicas[e];
    for (uint32_t e = 0; e < n_experts; e++)
        c.n_replicas[e] = 0;
    for (uint32_t i = 0; i < n_copies; i++)
        c.list[c.first[copies[i]] + c.n_replicas[copies[i]]++] = i;
    if (has_tokens) {
        count_tokens(&c, false);
        n_tokens = out->n_tokens;
        for (uint32_t i = 0; i < n_copies; i++)
            out->first_pair[i + 1] += i > 0 ? out->first_pair[i] : 0;
        out->token_step = mp_arena_alloc(arena, n_tokens, sizeof *out->token_step);
        out->token_source = mp_arena_alloc(arena, n_tokens, sizeof *out->token_source);
        uint64_t n_pairs = 0;
        for (size_t i = 0; i < cells; i++)
            n_pairs += out->rows[i];
        out->pair_token = mp_arena_alloc(arena, n_pairs, sizeof *out->pair_token);
        if (out->token_step == NULL || out->token_source == NULL || out->pair_token == NULL)
            return mp_nomem(err, "an exact placement");
        count_tokens(&c, true);
    } else {
        enum mp_status status = count_counts(&c, arena, err);
        if (status != MP_OK)
            return status;
    }
    for (uint32_t s = 0; s < w->n_steps; s++)
        for (uint32_t r = 0; r < w->n_ranks; r++) {
            uint64_t tokens = out->rank_tokens[(size_t)s * w->n_ranks + r];
            if (has_tokens && w->steps[s].padding != NULL)
                tokens += w->steps[s].padding[r];
            uint64_t ns = mp_shared_ns(in->topology, r, in->model, tokens);
            out->shared_ns[s] = ns > out->shared_ns[s] ? ns : out->shared_ns[s];
        }
    return MP_OK;
}
