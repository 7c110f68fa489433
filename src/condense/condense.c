/* Token condensation of a step.
 *
 * Decides   for each (layer, token, place in its top-k) which token's copy travels to the expert and is computed.
 * Minimises the copies, greedily: a dominating set of the graph of tokens that are alike.
 * Method    a queue for each (GPU where the token is, expert). Two tokens of a queue are joined when the layer before
 *           says that they are surely alike, or does not say that they never are and their signatures are at least as
 *           alike as h. Then, again and again: the token that is joined with most of those left stands for all of
 *           them (ties: the lower row). Tokens of different queues are never joined.
 * Bound     at most 1 + ln(largest degree) times the least dominating set (greedy set cover); none on what it saves.
 * Differs   Y. Li et al., Communication-Efficient Sparsely-Activated Model Training via Sequence Migration and Token
 *           Condensation, arXiv 2411.15419, part "token condensation": similarity is the cosine that signatures say,
 *           not that of the vectors; queues of more than `block` tokens are sorted by signature and cut, pairs
 *           across cuts count as different; queues are per GPU, since tokens are condensed before they are sent.
 * Cost      O(rows * top_k * (block + log rows)) per layer, memory O(rows * top_k + block^2 / 8).  Deterministic. */
#include <moeplan/base.h>
#include <moeplan/condense.h>
#include <stdlib.h>
#include <string.h>

struct entry { /* a token in a queue */
    uint64_t queue, now, before;
    uint32_t row, place; /* of the step; in its top-k */
};
struct block {
    uint32_t n, n_words;
    const struct entry *entries;
    uint64_t *joined;  /* [n][n_words] */
    uint64_t *left;    /* [n_words] neither standing for others nor stood for */
    uint64_t *leaving; /* [n_words] */
    uint32_t *degree;  /* [n] joined with, of those left */
};
struct work {
    const struct mp_condense *c;
    const struct mp_cost_setup *setup;
    const struct mp_step *step;
    struct mp_token_flow *flow;
    uint32_t *sequence_of; /* [rows] */
    struct entry *entries; /* [rows * top_k] */
    struct block block;
    uint32_t block_rows;
    int reach, sure, never; /* bits that may differ */
    struct mp_condense_sums sums;
};

static int compare_entries(const void *pa, const void *pb) {
    const struct entry *a = pa, *b = pb;
    if (a->queue != b->queue)
        return a->queue < b->queue ? -1 : 1;
    if (a->now != b->now)
        return a->now < b->now ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

/* All tokens of a layer, queue by queue. */
static uint32_t fill_queues(struct work *w, uint32_t layer) {
    const struct mp_trace *t = w->setup->workload->trace;
    const struct mp_token_flow *f = w->flow;
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->step->n; i++) {
        const uint64_t row = w->step->row[i], now = mp_trace_signature(t, layer, row),
                       before = layer > 0 ? mp_trace_signature(t, layer - 1, row) : 0;
        const uint64_t home = f->home[(size_t)layer * f->n_sequences + w->sequence_of[i]];
        const uint32_t k = mp_trace_row(t, layer, row, ids);
        for (uint32_t j = 0; j < k; j++)
            w->entries[n++] = (struct entry){home * t->n_experts + ids[j], now, before, i, j};
    }
    qsort(w->entries, n, sizeof *w->entries, compare_entries); /* no two are equal */
    return n;
}

/* Bits of the block's first `n` tokens that token i is joined with. */
static void join_with(struct work *w, uint32_t i, bool has_before, uint64_t *bits) {
    const struct entry *e = w->block.entries;
    const uint64_t now = e[i].now, before = e[i].before;
    uint64_t by_history = 0;
    for (uint32_t j = 0; j < i; j++) {
        bool is_joined;
        const int d = has_before ? (int)mp_signature_distance(before, e[j].before) : 0;
        if (has_before && (d <= w->sure || d > w->never)) {
            is_joined = d <= w->sure;
            by_history++;
        } else {
            is_joined = (int)mp_signature_distance(now, e[j].now) <= w->reach;
        }
        bits[j / 64] |= (uint64_t)is_joined << j % 64;
    }
    w->sums.by_history += by_history;
}

static uint32_t bits_in(const uint64_t *a, const uint64_t *b, uint32_t n_words) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < n_words; k++)
        n += mp_signature_distance(a[k] & b[k], 0);
    return n;
}

static void join(struct work *w, bool has_before) {
    struct block *b = &w->block;
    memset(b->joined, 0, (size_t)b->n * b->n_words * sizeof *b->joined);
    memset(b->left, 0, b->n_words * sizeof *b->left);
    for (uint32_t i = 0; i < b->n; i++) {
        uint64_t *own = b->joined + (size_t)i * b->n_words;
        b->left[i / 64] |= UINT64_C(1) << i % 64;
        join_with(w, i, has_before, own);
        for (uint32_t k = 0; k <= i / 64; k++)
            for (uint64_t m = own[k]; m != 0; m &= m - 1)
                b->joined[(size_t)(k * 64 + (uint32_t)__builtin_ctzll(m)) * b->n_words + i / 64] |= UINT64_C(1)
                                                                                                    << i % 64;
    }
    for (uint32_t i = 0; i < b->n; i++)
        b->degree[i] = bits_in(b->joined + (size_t)i * b->n_words, b->left, b->n_words);
    w->sums.compared += (uint64_t)b->n * (b->n - 1) / 2;
}

/* The token with most neighbours; MP_NONE when nobody has any. */
static uint32_t widest(const struct block *b) {
    uint32_t best = MP_NONE;
    for (uint32_t i = 0; i < b->n; i++)
        if (b->degree[i] > 0 && (best == MP_NONE || b->degree[i] > b->degree[best] ||
                                 (b->degree[i] == b->degree[best] && b->entries[i].row < b->entries[best].row)))
            best = i;
    return best;
}

/* These, in the same words as `left`, leave; those that stay no longer count them. Few: they are subtracted; many: what
 * is left is counted anew. */
static void take_out(struct block *b, const uint64_t *leaving, uint32_t n_leaving) {
    for (uint32_t k = 0; k < b->n_words; k++)
        b->left[k] &= ~leaving[k];
    for (uint32_t k = 0; k < b->n_words; k++)
        for (uint64_t m = leaving[k]; m != 0; m &= m - 1) {
            const uint32_t i = k * 64 + (uint32_t)__builtin_ctzll(m);
            const uint64_t *joined = b->joined + (size_t)i * b->n_words;
            b->degree[i] = 0;
            for (uint32_t q = 0; n_leaving < b->n_words && q < b->n_words; q++)
                for (uint64_t r = joined[q] & b->left[q]; r != 0; r &= r - 1)
                    b->degree[q * 64 + (uint32_t)__builtin_ctzll(r)]--;
        }
    for (uint32_t k = 0; n_leaving >= b->n_words && k < b->n_words; k++)
        for (uint64_t m = b->left[k]; m != 0; m &= m - 1) {
            const uint32_t i = k * 64 + (uint32_t)__builtin_ctzll(m);
            b->degree[i] = b->degree[i] == 0 ? 0 : bits_in(b->joined + (size_t)i * b->n_words, b->left, b->n_words);
        }
}

static void condense_block(struct work *w, uint32_t layer, const struct entry *entries, uint32_t n) {
    struct block *b = &w->block;
    struct mp_token_flow *f = w->flow;
    const uint32_t top_k = w->setup->workload->trace->top_k;
    b->entries = entries;
    b->n = n;
    b->n_words = (n + 63) / 64;
    join(w, layer > 0);
    for (uint32_t i = widest(b); i != MP_NONE; i = widest(b)) {
        const uint64_t *joined = b->joined + (size_t)i * b->n_words;
        const uint32_t n_stood_for = b->degree[i];
        for (uint32_t k = 0; k < b->n_words; k++) {
            b->leaving[k] = joined[k] & b->left[k];
            for (uint64_t m = b->leaving[k]; m != 0; m &= m - 1) {
                const struct entry *e = &entries[k * 64 + (uint32_t)__builtin_ctzll(m)];
                f->stands_for[((size_t)layer * f->n_rows + e->row) * top_k + e->place] = entries[i].row;
            }
        }
        w->sums.condensed += n_stood_for;
        b->leaving[i / 64] |= UINT64_C(1) << i % 64;
        take_out(b, b->leaving, n_stood_for + 1);
    }
}

static void condense_layer(struct work *w, uint32_t layer) {
    const uint32_t n = fill_queues(w, layer);
    for (uint32_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && w->entries[to].queue == w->entries[from].queue;)
            to++;
        const uint32_t size = to - from, n_blocks = (uint32_t)mp_ceil_div(size, w->block_rows);
        w->sums.tokens += size;
        w->sums.pairs += (uint64_t)size * (size - 1) / 2;
        for (uint32_t k = 0; k < n_blocks; k++) {
            const uint32_t begin = (uint32_t)((uint64_t)size * k / n_blocks),
                           end = (uint32_t)((uint64_t)size * (k + 1) / n_blocks);
            condense_block(w, layer, w->entries + from + begin, end - begin);
        }
    }
}

enum mp_status mp_condense_step(struct mp_token_flow *f, const struct mp_cost_setup *setup, uint32_t step,
                                const struct mp_condense *c, struct mp_condense_sums *sums, struct mp_error *err) {
    const struct mp_trace *t = setup->workload->trace;
    if (t->kind != MP_TRACE_TOKENS || t->signature_chunks == NULL)
        return mp_fail(err, MP_EUSAGE,
                       "the recording has no similarity signatures, so nobody knows which tokens are alike "
                       "(traces/FORMAT.md says how to record them)");
    if (c->n_thresholds == 0 || c->block_rows > MP_CONDENSE_BLOCK_MAX || step >= setup->workload->n_steps)
        return mp_fail(err, MP_EBUG, "condensation without a threshold, in too large blocks, or of no step");
    struct work w = {.c = c, .setup = setup, .step = &setup->workload->steps[step], .flow = f};
    const uint32_t h = c->threshold_ppm[step < c->n_thresholds ? step : c->n_thresholds - 1];
    w.reach = mp_signature_reach(h);
    w.sure = mp_signature_reach(c->sure_ppm > h ? c->sure_ppm : h);
    w.sure = c->sure_ppm > 1000000 ? -1 : w.sure;
    w.never = mp_signature_reach(c->never_ppm);
    w.block_rows = c->block_rows == 0 ? MP_CONDENSE_BLOCK : c->block_rows;
    const size_t n_words = (w.block_rows + 63) / 64;
    enum mp_status status = MP_OK;
    if (f->stands_for == NULL)
        MP_TRY(mp_flow_add_stands_for(f, t->top_k, err));
    w.sequence_of = mp_calloc(w.step->n, sizeof *w.sequence_of);
    w.entries = mp_calloc((size_t)w.step->n * t->top_k, sizeof *w.entries);
    w.block.joined = mp_calloc(w.block_rows * n_words, sizeof *w.block.joined);
    w.block.left = mp_calloc(n_words, sizeof *w.block.left);
    w.block.leaving = mp_calloc(n_words, sizeof *w.block.leaving);
    w.block.degree = mp_calloc(w.block_rows, sizeof *w.block.degree);
    if (w.sequence_of == NULL || w.entries == NULL || w.block.joined == NULL || w.block.left == NULL ||
        w.block.leaving == NULL || w.block.degree == NULL) {
        status = mp_nomem(err, "token condensation");
        goto out;
    }
    for (uint32_t s = 0; s < f->n_sequences; s++)
        for (uint32_t i = f->first_row[s]; i < f->first_row[s + 1]; i++)
            w.sequence_of[i] = s;
    for (uint32_t l = 0; l < f->n_layers; l++)
        condense_layer(&w, l);
    if (sums != NULL)
        *sums = w.sums;
out:
    mp_free(w.sequence_of);
    mp_free(w.entries);
    mp_free(w.block.joined);
    mp_free(w.block.left);
    mp_free(w.block.leaving);
    mp_free(w.block.degree);
    return status;
}

enum mp_status mp_condense_make(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *setup, uint32_t step,
                                struct mp_error *err) {
    const struct mp_condense *c = ctx;
    enum mp_status status = c->base != NULL ? c->base->make(out, c->base->ctx, setup, step, err)
                                            : mp_flow_new(out, setup->workload, step, err);
    if (status != MP_OK)
        return status;
    status = mp_condense_step(*out, setup, step, c, NULL, err);
    if (status != MP_OK) {
        mp_flow_free(*out);
        *out = NULL;
    }
    return status;
}
