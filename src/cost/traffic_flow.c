/* Copies of a step whose tokens move from one home to the next, or stand for others: docs/LUFFY.md part 1. The combine
 * is no longer the dispatch backwards: it is counted on its own.
 *
 * A residual that moves is one more thing to sum where it was: where partial sums travel it joins the one of its GPU or
 * node, and only where every pair travels alone is it a row of its own. A partial sum of a row that stands for another
 * serves both where both end on one GPU and it has nothing in it but what they share. */
#include "traffic.h"
#include <moeplan/base.h>
#include <moeplan/flow.h>
#include <string.h>

struct flow_row {
    uint32_t row, src, dst, k;
    const uint32_t *slots, *stands; /* [k]; stands NULL = itself */
};
struct flow_count {
    struct traffic_scratch *s;
    const struct mp_cost_setup *in;
    uint32_t layer, top_k;
    const struct mp_token_flow *flow;
    const struct mp_step *step;
};

static enum mp_status check_flow(const struct flow_count *c, struct mp_error *err) {
    const struct mp_token_flow *f = c->flow;
    const uint32_t *home = f->home + (size_t)c->layer * f->n_sequences;
    if (c->in->workload->trace->kind != MP_TRACE_TOKENS || c->in->sources != MP_SOURCES_DP)
        return mp_fail(err, MP_EUSAGE,
                       "tokens move only where each is known and starts on its request's rank (record the top-k of "
                       "every token, and use --sources dp)");
    if (f->n_layers != c->in->plan->n_layers || f->n_rows != c->step->n)
        return mp_fail(err, MP_EBUG, "a flow of %u layers and %u rows for %u and %u", f->n_layers, f->n_rows,
                       c->in->plan->n_layers, c->step->n);
    for (size_t i = 0; i < 2 * (size_t)f->n_sequences; i++)
        if (home[i] >= c->in->plan->n_gpus)
            return mp_fail(err, MP_EBUG, "sequence %zu has home %u of %u", i % f->n_sequences, home[i],
                           c->in->plan->n_gpus);
    return MP_OK;
}

static enum mp_status room(struct traffic_scratch *s, uint32_t n_rows, uint32_t top_k, struct mp_error *err) {
    const uint64_t n_slots = (uint64_t)n_rows * top_k;
    if (n_rows > s->n_order_rows) {
        uint32_t *order = mp_realloc(s->order, n_rows, sizeof *order);
        if (order == NULL)
            return mp_nomem(err, "tokens by home");
        s->order = order;
        uint32_t *sequence = mp_realloc(s->row_sequence, n_rows, sizeof *sequence);
        if (sequence == NULL)
            return mp_nomem(err, "tokens by home");
        s->row_sequence = sequence;
        s->n_order_rows = n_rows;
    }
    if (n_slots > s->n_row_slots) {
        uint32_t *slots = mp_realloc(s->row_slot, n_slots, sizeof *slots);
        if (slots == NULL)
            return mp_nomem(err, "slots of tokens");
        s->row_slot = slots;
        s->n_row_slots = n_slots;
    }
    if (s->first_at == NULL && (s->first_at = mp_calloc((size_t)s->pub.n_gpus + 1, sizeof *s->first_at)) == NULL)
        return mp_nomem(err, "tokens by home");
    return MP_OK;
}

/* Rows by the GPU they are on, in the step's order on each: what a rank has before it when it chooses replicas. */
static void order_rows(struct flow_count *c) {
    struct traffic_scratch *s = c->s;
    const struct mp_token_flow *f = c->flow;
    const uint32_t *home = f->home + (size_t)c->layer * f->n_sequences, n = s->pub.n_gpus;
    memset(s->first_at, 0, ((size_t)n + 1) * sizeof *s->first_at);
    for (uint32_t q = 0; q < f->n_sequences; q++) {
        const uint32_t g = home[q], length = f->first_row[q + 1] - f->first_row[q];
        s->first_at[g + 1] += length;
        s->pub.sequences[g]++;
        s->pub.longest[g] = length > s->pub.longest[g] ? length : s->pub.longest[g];
    }
    for (uint32_t g = 0; g < n; g++) {
        s->pub.source_rows[g] = s->first_at[g + 1];
        s->first_at[g + 1] += s->first_at[g];
    }
    for (uint32_t q = 0; q < f->n_sequences; q++)
        for (uint32_t i = f->first_row[q]; i < f->first_row[q + 1]; i++) {
            s->row_sequence[i] = q;
            s->order[s->first_at[home[q]]++] = i;
        }
}

static const uint32_t *stands_of(const struct flow_count *c, uint32_t row) {
    return c->flow->stands_for == NULL ? NULL
                                       : c->flow->stands_for + ((size_t)c->layer * c->flow->n_rows + row) * c->top_k;
}

static struct flow_row flow_row(const struct flow_count *c, uint32_t row) {
    const struct mp_token_flow *f = c->flow;
    const uint32_t q = c->s->row_sequence[row], *home = f->home + (size_t)c->layer * f->n_sequences;
    uint16_t ids[MP_MAX_TOP_K];
    return (struct flow_row){.row = row,
                             .src = home[q],
                             .dst = home[f->n_sequences + q],
                             .k = mp_trace_row(c->in->workload->trace, c->layer, c->step->row[row], ids),
                             .slots = c->s->row_slot + (size_t)row * c->top_k,
                             .stands = stands_of(c, row)};
}

/* Slots of the pairs that travel; MP_NONE of the others. */
static enum mp_status choose_own(struct flow_count *c, struct mp_error *err) {
    const uint32_t *home = c->flow->home + (size_t)c->layer * c->flow->n_sequences;
    c->s->rank = MP_NONE;
    for (uint32_t i = 0; i < c->flow->n_rows; i++) {
        const uint32_t row = c->s->order[i], *stands = stands_of(c, row);
        uint16_t ids[MP_MAX_TOP_K], own[MP_MAX_TOP_K];
        uint32_t slots[MP_MAX_TOP_K], n = 0, *out = c->s->row_slot + (size_t)row * c->top_k;
        const uint32_t k = mp_trace_row(c->in->workload->trace, c->layer, c->step->row[row], ids);
        for (uint32_t j = 0; j < k; j++)
            if (stands == NULL || stands[j] == row)
                own[n++] = ids[j];
        enum mp_status status = traffic_choose(c->s, c->in, c->layer, home[c->s->row_sequence[row]],
                                               mp_token_hash(c->step->row[row]), own, n, slots, err);
        if (status != MP_OK)
            return status;
        n = 0;
        for (uint32_t j = 0; j < k; j++)
            out[j] = stands == NULL || stands[j] == row ? slots[n++] : MP_NONE;
    }
    return MP_OK;
}

/* The others are computed where the row that stands for them is. */
static enum mp_status choose_condensed(struct flow_count *c, struct mp_error *err) {
    for (uint32_t row = 0; c->flow->stands_for != NULL && row < c->flow->n_rows; row++) {
        const uint32_t *stands = stands_of(c, row);
        uint16_t ids[MP_MAX_TOP_K], theirs[MP_MAX_TOP_K];
        const uint32_t k = mp_trace_row(c->in->workload->trace, c->layer, c->step->row[row], ids);
        for (uint32_t j = 0; j < k; j++) {
            const uint32_t other = stands[j];
            uint32_t n = 0, at = 0;
            if (other == row)
                continue;
            if (other < c->flow->n_rows) {
                n = mp_trace_row(c->in->workload->trace, c->layer, c->step->row[other], theirs);
                while (at < n && theirs[at] != ids[j])
                    at++;
            }
            if (at >= n || stands_of(c, other)[at] != other)
                return mp_fail(err, MP_EBUG, "row %u does not stand for row %u of expert %u", other, row, ids[j]);
            c->s->row_slot[(size_t)row * c->top_k + j] = c->s->row_slot[(size_t)other * c->top_k + at];
        }
    }
    return MP_OK;
}

/* Do the pairs of `x` in this place (where[] of its slots' GPUs is `at`; NULL: anywhere) have the same sum as those of
 * one other row that ends on the same GPU? Then that one's copy serves both. */
static bool is_served(const struct flow_count *c, const struct flow_row *x, const uint32_t *where, uint32_t at) {
    const uint32_t *slot_gpu = c->s->slot_gpu;
    uint32_t other = MP_NONE, n = 0, m = 0;
    if (x->stands == NULL)
        return false;
    for (uint32_t j = 0; j < x->k; j++) {
        if (where != NULL && where[slot_gpu[x->slots[j]]] != at)
            continue;
        if (x->stands[j] == x->row || (other != MP_NONE && x->stands[j] != other))
            return false;
        other = x->stands[j];
        n++;
    }
    if (other == MP_NONE)
        return false;
    const struct flow_row y = flow_row(c, other);
    if (y.dst != x->dst)
        return false;
    /* A residual that is on its way from there is in the sum. */
    if ((x->src != x->dst && (where == NULL || where[x->src] == at)) ||
        (y.src != y.dst && (where == NULL || where[y.src] == at)))
        return false;
    for (uint32_t j = 0; j < y.k; j++)
        m += where == NULL || where[slot_gpu[y.slots[j]]] == at;
    return m == n;
}

static bool travels(const struct flow_row *x, uint32_t j) { return x->stands == NULL || x->stands[j] == x->row; }

static void count_dispatch(struct flow_count *c, const struct flow_row *x) {
    struct traffic_scratch *s = c->s;
    struct mp_traffic *t = &s->pub;
    const enum mp_copy_count copies = c->in->dispatcher->copies;
    const size_t n = t->n_gpus;
    const uint32_t src = x->src;
    const uint64_t stamp = ++s->stamp;
    uint32_t n_own = 0;
    s->gpu_stamp[src] = stamp;
    for (uint32_t j = 0; j < x->k; j++) {
        const uint32_t g = s->slot_gpu[x->slots[j]], v = s->node[g];
        if (!travels(x, j))
            continue;
        n_own++;
        t->slot_rows[x->slots[j]]++;
        t->copies_expert += g != src;
        t->copies_inter += v != s->node[src];
        if (copies == MP_COPY_PER_EXPERT && g != src)
            t->dispatch[src * n + g]++;
        if (s->gpu_stamp[g] == stamp)
            continue;
        s->gpu_stamp[g] = stamp;
        t->copies_gpu++;
        if (copies == MP_COPY_PER_GPU || (copies == MP_COPY_PER_NODE && v == s->node[src]))
            t->dispatch[src * n + g]++;
        if (v == s->node[src])
            continue;
        const bool is_first = s->node_stamp[v] != stamp; /* in its node */
        s->node_stamp[v] = stamp;
        t->copies_node += is_first;
        if (copies != MP_COPY_PER_NODE)
            continue;
        const uint32_t gateway = traffic_gateway(s, src, v);
        t->dispatch[src * n + gateway] += is_first;
        t->dispatch2[gateway * n + g] += gateway != g;
    }
    for (uint32_t g = 0; g < n && copies == MP_COPY_ALL && (n_own > 0 || x->k == 0); g++)
        t->dispatch[src * n + g] += g != src;
}

/* One partial sum leaves GPU g for where the row ends. */
static void count_sum(struct flow_count *c, const struct flow_row *x, uint32_t g, uint64_t stamp) {
    struct traffic_scratch *s = c->s;
    struct mp_traffic *t = &s->pub;
    const size_t n = t->n_gpus;
    const uint32_t v = s->node[g], dst = x->dst;
    if (s->gpu_stamp[g] == stamp)
        return;
    s->gpu_stamp[g] = stamp;
    if (c->in->dispatcher->copies == MP_COPY_PER_GPU || v == s->node[dst]) {
        t->combine[g * n + dst] += !is_served(c, x, c->s->own_index, g);
        return;
    }
    const uint32_t gateway = traffic_gateway(s, dst, v);
    if (s->node_stamp[v] != stamp)
        t->combine[gateway * n + dst] += !is_served(c, x, s->node, v);
    s->node_stamp[v] = stamp;
    if (g != gateway)
        t->combine2[g * n + gateway] += !is_served(c, x, c->s->own_index, g);
}

static void count_combine(struct flow_count *c, const struct flow_row *x) {
    struct traffic_scratch *s = c->s;
    struct mp_traffic *t = &s->pub;
    const enum mp_copy_count copies = c->in->dispatcher->copies;
    const size_t n = t->n_gpus;
    const uint32_t dst = x->dst;
    if (copies == MP_COPY_PER_EXPERT) {
        for (uint32_t j = 0; j < x->k; j++) {
            const uint32_t g = s->slot_gpu[x->slots[j]];
            t->combine[g * n + dst] += g != dst && (travels(x, j) || flow_row(c, x->stands[j]).dst != dst);
        }
        t->combine[x->src * n + dst] += x->src != dst;
        return;
    }
    if (copies == MP_COPY_ALL) {
        const bool is_served_whole = is_served(c, x, NULL, 0);
        for (uint32_t g = 0; g < n && !is_served_whole; g++)
            t->combine[g * n + dst] += g != dst;
        return;
    }
    const uint64_t stamp = ++s->stamp;
    s->gpu_stamp[dst] = stamp;
    for (uint32_t j = 0; j < x->k; j++)
        count_sum(c, x, s->slot_gpu[x->slots[j]], stamp);
    count_sum(c, x, x->src, stamp); /* the residual */
}

enum mp_status traffic_flow_count(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                  uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    struct flow_count c = {.s = s,
                           .in = in,
                           .layer = layer,
                           .top_k = in->workload->trace->top_k,
                           .flow = in->flow,
                           .step = &in->workload->steps[step]};
    const uint32_t n = t->n_gpus, pad = in->workload->batching.pad_tokens;
    enum mp_status status = MP_OK;
    MP_TRY(check_flow(&c, err));
    MP_TRY(room(s, c.step->n, c.top_k, err));
    memset(t->combine, 0, (size_t)n * n * sizeof *t->combine);
    for (uint32_t g = 0; g < n; g++)
        s->own_index[g] = g;
    order_rows(&c);
    MP_TRY(choose_own(&c, err));
    MP_TRY(choose_condensed(&c, err));
    for (uint32_t i = 0; i < c.step->n; i++) {
        const struct flow_row x = flow_row(&c, i);
        count_dispatch(&c, &x);
        count_combine(&c, &x);
    }
    for (uint32_t g = 0; g < n && c.step->padding != NULL && pad > 1; g++)
        t->source_rows[g] = mp_ceil_div(t->source_rows[g], pad) * pad;
out:
    return status;
}
