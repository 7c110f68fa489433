/* Routing of one step and layer: tokens, their experts, and the copies that travel, flow by flow.
 *
 * Decides   nothing: which replica serves a token is mp_router_slot's choice, which copies travel is docs/COST.md
 * part 2.
 * Method    tokens in the order of the step; copies are listed as they come, then put to their flows by counting.
 * Cost      O(tokens * top-k + GPUs^2). */
#include "route.h"
#include <string.h>

uint32_t ex_route_gateway(const struct mp_topology *t, uint32_t source, uint32_t node) {
    uint32_t home = mp_topology_node(t, source), first = source, begin = 0, end;
    while (first > 0 && mp_topology_node(t, first - 1) == home) /* GPUs of a node are consecutive */
        first--;
    while (begin < t->n_gpus && mp_topology_node(t, begin) != node)
        begin++;
    for (end = begin; end < t->n_gpus && mp_topology_node(t, end) == node;)
        end++;
    return begin + (source - first) % (end - begin);
}

struct listed { /* a copy before it is put to its flow */
    uint32_t flow;
    struct ex_carried carried;
};
struct list {
    struct listed *copies;
    size_t n, n_allocated;
};
struct maker {
    struct ex_route *r;
    const struct mp_cost_setup *in;
    uint32_t layer;
    struct list out, inside;
    uint32_t *n_out;      /* [n * n] copies of a flow so far */
    uint32_t *gateway;    /* [n][n_nodes] */
    uint64_t *gpu_stamp;  /* [n] the last token (1, 2, ...) that went there */
    uint32_t *node_place; /* [n_nodes] where the token is in the flow to the gateway; by node_stamp */
    uint64_t *node_stamp; /* [n_nodes] */
    size_t n_tokens_allocated, n_choices_allocated;
};

static enum mp_status add_copy(struct list *l, uint32_t flow, struct ex_carried carried, struct mp_error *err) {
    if (l->n == l->n_allocated) {
        size_t more = 2 * l->n_allocated + 1024;
        struct listed *grown = mp_realloc(l->copies, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "the copies of a step");
        l->copies = grown;
        l->n_allocated = more;
    }
    l->copies[l->n++] = (struct listed){flow, carried};
    return MP_OK;
}

static enum mp_status add_token(struct maker *m, uint64_t row, uint32_t source, struct mp_error *err) {
    struct ex_route *r = m->r;
    if (r->n_tokens == m->n_tokens_allocated) {
        size_t more = 2 * m->n_tokens_allocated + 256;
        struct ex_token *grown = mp_realloc(r->tokens, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "the tokens of a step");
        r->tokens = grown;
        m->n_tokens_allocated = more;
    }
    r->tokens[r->n_tokens++] = (struct ex_token){row, source, r->n_choices, 0};
    return MP_OK;
}

/* Of the last token. */
static enum mp_status add_choice(struct maker *m, struct ex_choice choice, struct mp_error *err) {
    struct ex_route *r = m->r;
    if (r->n_choices == m->n_choices_allocated) {
        size_t more = 2 * m->n_choices_allocated + 1024;
        struct ex_choice *grown = mp_realloc(r->choices, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "the experts of a step's tokens");
        r->choices = grown;
        m->n_choices_allocated = more;
    }
    r->choices[r->n_choices++] = choice;
    r->tokens[r->n_tokens - 1].n_choices++;
    return MP_OK;
}

static enum mp_status send(struct maker *m, uint32_t src, uint32_t dst, uint32_t choice, struct mp_error *err) {
    const uint32_t flow = src * m->r->n + dst;
    m->n_out[flow]++;
    return add_copy(&m->out, flow, (struct ex_carried){m->r->n_tokens - 1, choice, MP_NONE}, err);
}

/* One GPU, not its own, that computes the last token. */
static enum mp_status send_to_gpu(struct maker *m, uint32_t g, uint64_t stamp, struct mp_error *err) {
    const struct ex_route *r = m->r;
    const struct mp_topology *t = m->in->topology;
    const uint32_t src = r->tokens[r->n_tokens - 1].source, v = mp_topology_node(t, g);
    if (r->copies == MP_COPY_PER_GPU || v == mp_topology_node(t, src))
        return send(m, src, g, MP_NONE, err);
    const uint32_t gateway = m->gateway[(size_t)src * mp_topology_n_nodes(t) + v];
    enum mp_status status = MP_OK;
    if (m->node_stamp[v] != stamp) {
        m->node_stamp[v] = stamp;
        m->node_place[v] = m->n_out[src * r->n + gateway];
        status = send(m, src, gateway, MP_NONE, err);
    }
    if (status != MP_OK || gateway == g)
        return status;
    return add_copy(&m->inside, gateway * r->n + g, (struct ex_carried){r->n_tokens - 1, MP_NONE, m->node_place[v]},
                    err);
}

/* The copies of the last token, whose experts are known. */
static enum mp_status send_token(struct maker *m, struct mp_error *err) {
    const struct ex_route *r = m->r;
    const struct ex_token *t = &r->tokens[r->n_tokens - 1];
    const uint64_t stamp = r->n_tokens; /* from 1 on */
    enum mp_status status = MP_OK;
    if (r->copies == MP_COPY_ALL) {
        for (uint32_t g = 0; g < r->n && status == MP_OK; g++)
            if (g != t->source)
                status = send(m, t->source, g, MP_NONE, err);
        return status;
    }
    for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices && status == MP_OK; c++) {
        const uint32_t g = r->choices[c].gpu;
        if (g == t->source)
            continue;
        if (r->copies == MP_COPY_PER_EXPERT) {
            status = send(m, t->source, g, c, err);
        } else if (m->gpu_stamp[g] != stamp) {
            m->gpu_stamp[g] = stamp;
            status = send_to_gpu(m, g, stamp, err);
        }
    }
    return status;
}

static enum mp_status no_slot(const struct maker *m, uint32_t expert, struct mp_error *err) {
    return mp_fail(err, MP_EINPUT, "layer %u: expert %u has no slot in the plan",
                   m->in->plan->layers[m->layer].layer_id, expert);
}

uint16_t ex_route_weight(const struct mp_trace *t, uint32_t layer, uint64_t row, uint32_t j) {
    if (t->weight_chunks == NULL)
        return 1;
    const uint64_t chunk = row / MP_CHUNK_TOKENS, first = chunk * MP_CHUNK_TOKENS;
    const uint64_t rows = t->n_rows - first < MP_CHUNK_TOKENS ? t->n_rows - first : MP_CHUNK_TOKENS;
    uint16_t weight;
    memcpy(&weight, t->weight_chunks[chunk] + ((layer * rows + row - first) * t->top_k + j) * sizeof weight,
           sizeof weight);
    return weight > 0 ? weight : 1;
}

static enum mp_status route_tokens(struct maker *m, uint32_t step, struct mp_error *err) {
    const struct mp_cost_setup *in = m->in;
    const struct mp_step *st = &in->workload->steps[step];
    const struct mp_trace *trace = in->workload->trace;
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t i = 0; i < st->n; i++) {
        const uint64_t row = st->row[i], hash = mp_token_hash(row);
        const uint32_t k = mp_trace_row(trace, m->layer, row, ids);
        uint32_t source = st->source[i];
        if (in->sources == MP_SOURCES_COUPLED) {
            const uint32_t expert = (uint32_t)(row % in->plan->n_experts),
                           home = mp_router_slot(in->router, m->layer, expert, source, hash);
            if (home == MP_NONE)
                return no_slot(m, expert, err);
            source = in->plan->slot_gpu[home];
        }
        enum mp_status status = add_token(m, row, source, err);
        for (uint32_t j = 0; j < k && status == MP_OK; j++) {
            const uint32_t slot = mp_router_slot(in->router, m->layer, ids[j], source, hash);
            if (slot == MP_NONE)
                return no_slot(m, ids[j], err);
            status = add_choice(
                m, (struct ex_choice){in->plan->slot_gpu[slot], ids[j], ex_route_weight(trace, m->layer, row, j)}, err);
        }
        if (status == MP_OK)
            status = send_token(m, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* Counts know pairs, not tokens: each is a token of its own. */
static enum mp_status route_counts(struct maker *m, uint32_t step, struct mp_error *err) {
    const struct mp_cost_setup *in = m->in;
    const uint32_t n_experts = in->plan->n_experts, n_ranks = in->workload->n_ranks;
    if (m->r->copies != MP_COPY_PER_EXPERT)
        return mp_fail(err, MP_EUSAGE,
                       "the recording has counts only, which do not say which experts one token used (record the top-k "
                       "of every token, or use --dispatcher a2av)");
    uint32_t *counts = mp_calloc((size_t)n_ranks * n_experts, sizeof *counts);
    uint64_t *share = mp_calloc(in->plan->n_slots, sizeof *share);
    enum mp_status status = counts == NULL || share == NULL ? mp_nomem(err, "the tokens of a step") : MP_OK;
    if (status == MP_OK)
        mp_workload_tokens(in->workload, step, m->layer, counts);
    for (uint32_t src = 0; src < n_ranks && status == MP_OK; src++)
        for (uint32_t e = 0; e < n_experts && status == MP_OK; e++) {
            const uint64_t count = counts[(size_t)src * n_experts + e];
            uint32_t n_replicas;
            uint64_t number = 0;
            if (count == 0)
                continue;
            const uint32_t *slots = mp_router_replicas(in->router, m->layer, e, &n_replicas);
            if (n_replicas == 0) {
                status = no_slot(m, e, err);
                break;
            }
            mp_router_split(in->router, m->layer, e, src, count, share);
            for (uint32_t i = 0; i < n_replicas; i++)
                for (uint64_t k = 0; k < share[i] && status == MP_OK; k++, number++) {
                    status = add_token(m, (uint64_t)src << 48 | (uint64_t)e << 32 | number, src, err);
                    if (status == MP_OK)
                        status = add_choice(m, (struct ex_choice){in->plan->slot_gpu[slots[i]], (uint16_t)e, 1}, err);
                    if (status == MP_OK)
                        status = send_token(m, err);
                }
        }
    mp_free(counts);
    mp_free(share);
    return status;
}

/* Copies to their flows, each flow's in the order in which they were listed. */
static enum mp_status put_to_flows(struct ex_carriage *c, const struct list *l, uint32_t n, struct mp_error *err) {
    const size_t n_flows = (size_t)n * n;
    c->first = mp_calloc(n_flows + 1, sizeof *c->first);
    c->list = mp_calloc(l->n, sizeof *c->list);
    if (c->first == NULL || c->list == NULL)
        return mp_nomem(err, "the copies of a step");
    for (size_t i = 0; i < l->n; i++)
        c->first[l->copies[i].flow + 1]++;
    for (size_t f = 0; f < n_flows; f++)
        c->first[f + 1] += c->first[f];
    for (size_t i = 0; i < l->n; i++) /* moves each start to its end; shifting back by one restores it */
        c->list[c->first[l->copies[i].flow]++] = l->copies[i].carried;
    memmove(c->first + 1, c->first, n_flows * sizeof *c->first);
    c->first[0] = 0;
    return MP_OK;
}

/* The copies must have the bytes that the cost model counts: two ways to the same number. */
static enum mp_status check_matrix(const struct ex_route *r, const struct ex_carriage *c, const uint64_t *matrix,
                                   uint64_t copy_bytes, const char *phase, struct mp_error *err) {
    for (size_t f = 0; f < (size_t)r->n * r->n; f++)
        if ((c->first[f + 1] - c->first[f]) * copy_bytes != matrix[f])
            return mp_fail(err, MP_EBUG, "%s: GPU %zu -> %zu: %zu copies of %llu bytes routed, %llu bytes counted",
                           phase, f / r->n, f % r->n, c->first[f + 1] - c->first[f], (unsigned long long)copy_bytes,
                           (unsigned long long)matrix[f]);
    return MP_OK;
}

enum mp_status ex_route_new(struct ex_route **out, const struct mp_cost_setup *in, uint32_t step, uint32_t layer,
                            struct mp_error *err) {
    *out = NULL;
    const size_t n = in->plan->n_gpus, n_nodes = mp_topology_n_nodes(in->topology);
    struct ex_route *r = mp_calloc(1, sizeof *r);
    if (r == NULL)
        return mp_nomem(err, "the routing of a step");
    struct maker m = {.r = r, .in = in, .layer = layer};
    enum mp_status status = MP_OK;
    r->n = (uint32_t)n;
    r->copies = in->dispatcher->copies;
    r->has_inside = r->copies == MP_COPY_PER_NODE;
    MP_TRY(mp_traffic_new(&r->traffic, r->n, err));
    MP_TRY(mp_traffic_compute(r->traffic, in, step, layer, err)); /* says what does not fit together */
    m.n_out = mp_calloc(n * n, sizeof *m.n_out);
    m.gateway = mp_calloc(n * n_nodes, sizeof *m.gateway);
    m.gpu_stamp = mp_calloc(n, sizeof *m.gpu_stamp);
    m.node_place = mp_calloc(n_nodes, sizeof *m.node_place);
    m.node_stamp = mp_calloc(n_nodes, sizeof *m.node_stamp);
    if (m.n_out == NULL || m.gateway == NULL || m.gpu_stamp == NULL || m.node_place == NULL || m.node_stamp == NULL) {
        status = mp_nomem(err, "the routing of a step");
        goto out;
    }
    for (uint32_t g = 0; g < n && r->has_inside; g++)
        for (uint32_t v = 0; v < n_nodes; v++)
            m.gateway[(size_t)g * n_nodes + v] = ex_route_gateway(in->topology, g, v);
    if (in->flow != NULL) { /* makes out and inside too */
        MP_TRY(ex_moves_new(r, in, step, layer, err));
    } else if (in->workload->trace->kind == MP_TRACE_COUNTS) {
        MP_TRY(route_counts(&m, step, err));
    } else {
        MP_TRY(route_tokens(&m, step, err));
    }
    if (in->flow == NULL) {
        MP_TRY(put_to_flows(&r->out, &m.out, r->n, err));
        MP_TRY(put_to_flows(&r->inside, &m.inside, r->n, err));
    }
    MP_TRY(check_matrix(r, &r->out, r->traffic->dispatch, in->model->dispatch_bytes, "dispatch", err));
    if (r->has_inside)
        MP_TRY(check_matrix(r, &r->inside, r->traffic->dispatch2, in->model->dispatch_bytes, "dispatch inside nodes",
                            err));
    if (r->moves != NULL)
        status = check_matrix(r, &r->moves->back, r->traffic->combine, in->model->combine_bytes, "combine", err);
out:
    mp_free(m.out.copies);
    mp_free(m.inside.copies);
    mp_free(m.n_out);
    mp_free(m.gateway);
    mp_free(m.gpu_stamp);
    mp_free(m.node_place);
    mp_free(m.node_stamp);
    if (status != MP_OK)
        ex_route_free(r);
    else
        *out = r;
    return status;
}

void ex_route_free(struct ex_route *r) {
    if (r == NULL)
        return;
    mp_traffic_free(r->traffic);
    ex_moves_free(r->moves);
    void *owned[] = {r->tokens, r->choices, r->out.first, r->out.list, r->inside.first, r->inside.list};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
    mp_free(r);
}
