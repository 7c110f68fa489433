/* The sequences of a step and where they are. docs/LUFFY.md part 1. */
#include <moeplan/flow.h>
#include <moeplan/base.h>

/* The last row of a sequence is followed by another one's: a new rank, a gap, or the next request. */
static bool begins(const struct mp_step *st, uint32_t i, const struct mp_request *request) {
    return i == 0 || st->source[i] != st->source[i - 1] || st->row[i] != st->row[i - 1] + 1 ||
           st->row[i] < request->first_row || st->row[i] - request->first_row >= request->n_rows;
}

static const struct mp_request *request_of(const struct mp_trace *t, uint64_t row) {
    uint64_t low = 0, high = t->n_requests; /* requests[low].first_row <= row < requests[high].first_row */
    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        if (t->requests[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return &t->requests[low];
}

enum mp_status mp_flow_new(struct mp_token_flow **out, const struct mp_workload *w, uint32_t step,
                           struct mp_error *err) {
    *out = NULL;
    if (w->trace->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE,
                       "counts do not say which tokens there are, so none can move (record the top-k "
                       "of every token)");
    if (step >= w->n_steps)
        return mp_fail(err, MP_EBUG, "step %u of %u", step, w->n_steps);
    const struct mp_step *st = &w->steps[step];
    const bool is_decode = w->batching.phase == MP_PHASE_DECODE;
    struct mp_token_flow *f = mp_calloc(1, sizeof *f);
    if (f == NULL || (f->arena = mp_arena_new()) == NULL) {
        mp_free(f);
        return mp_nomem(err, "a flow of tokens");
    }
    uint32_t *first = mp_arena_alloc(f->arena, (size_t)st->n + 1, sizeof *first), n = 0;
    const struct mp_request *request = NULL;
    for (uint32_t i = 0; first != NULL && i < st->n; i++)
        if (is_decode || begins(st, i, request)) {
            request = is_decode ? NULL : request_of(w->trace, st->row[i]);
            first[n++] = i;
        }
    if (first != NULL)
        first[n] = st->n;
    f->n_layers = w->trace->n_layers;
    f->n_rows = st->n;
    f->n_sequences = n;
    f->first_row = first;
    f->home = mp_arena_alloc(f->arena, ((size_t)f->n_layers + 1) * n, sizeof *f->home);
    if (first == NULL || f->home == NULL) {
        mp_flow_free(f);
        return mp_nomem(err, "a flow of tokens");
    }
    for (uint32_t l = 0; l <= f->n_layers; l++)
        for (uint32_t i = 0; i < n; i++)
            f->home[(size_t)l * n + i] = st->source[first[i]];
    *out = f;
    return MP_OK;
}

enum mp_status mp_flow_add_stands_for(struct mp_token_flow *f, uint32_t top_k, struct mp_error *err) {
    const uint64_t cells = (uint64_t)f->n_layers * f->n_rows;
    uint32_t *x = cells > SIZE_MAX / 4 / (top_k + 1) ? NULL : mp_arena_alloc(f->arena, cells * top_k, sizeof *x);
    if (x == NULL)
        return mp_nomem(err, "tokens that stand for others");
    for (uint64_t c = 0; c < cells; c++)
        for (uint32_t k = 0; k < top_k; k++)
            x[c * top_k + k] = (uint32_t)(c % f->n_rows);
    f->stands_for = x;
    return MP_OK;
}

void mp_flow_free(struct mp_token_flow *f) {
    if (f == NULL)
        return;
    mp_arena_free(f->arena);
    mp_free(f);
}

void mp_flow_rows(const struct mp_token_flow *f, uint32_t l, uint64_t *rows, uint32_t n_gpus) {
    memset(rows, 0, n_gpus * sizeof *rows);
    for (uint32_t q = 0; q < f->n_sequences; q++)
        rows[f->home[(size_t)l * f->n_sequences + q]] += f->first_row[q + 1] - f->first_row[q];
}

uint64_t mp_layer_attention_ns(const struct mp_cost_setup *s, const struct mp_traffic *traffic, uint32_t gpu) {
    if (s->flow == NULL || !s->flow->is_padded)
        return mp_attention_ns(s->topology, gpu, s->model, traffic->source_rows[gpu]);
    return mp_sequences_attention_ns(s->topology, gpu, s->model, traffic->sequences[gpu], traffic->longest[gpu]);
}
