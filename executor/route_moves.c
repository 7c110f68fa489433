/* Routing of a step and layer whose tokens move on to other GPUs, or stand for each other (docs/LUFFY.md part 1). The
 * combine is no longer the dispatch backwards: it has a list of its own.
 *
 * Decides   nothing: homes and who stands for whom are the flow's, replicas mp_router_slot's.
 * Method    tokens and experts; then pairs that another one stands for; then what is sent out, then what is sent home.
 *           Flows are filled in two passes: counted, then written.
 * Cost      O(tokens * top-k + GPUs^2). */
#include "route.h"
#include <moeplan/flow.h>
#include <string.h>

struct maker {
    struct ex_route *r;
    struct ex_moves *x;
    const struct mp_cost_setup *in;
    uint32_t layer;
    uint64_t *stamp; /* [n] the last token (1, 2, ...) that was there */
    uint32_t *place; /* [n] where that one is; by stamp */
    uint32_t *count; /* [n * n] copies of a flow */
    bool is_writing; /* the second pass */
};

/* ---- tokens and their experts ---- */

static enum mp_status take_tokens(struct maker *m, const struct mp_step *st, struct mp_error *err) {
    const struct mp_cost_setup *in = m->in;
    const struct mp_token_flow *f = in->flow;
    const struct mp_trace *trace = in->workload->trace;
    const uint32_t *home = f->home + (size_t)m->layer * f->n_sequences, *next = home + f->n_sequences;
    struct ex_route *r = m->r;
    for (uint32_t q = 0; q < f->n_sequences; q++)
        for (uint32_t i = f->first_row[q]; i < f->first_row[q + 1]; i++) {
            uint16_t ids[MP_MAX_TOP_K];
            const uint64_t row = st->row[i], hash = mp_token_hash(row);
            const uint32_t k = mp_trace_row(trace, m->layer, row, ids);
            r->tokens[i] = (struct ex_token){row, home[q], r->n_choices, k};
            m->x->next[i] = next[q];
            for (uint32_t j = 0; j < k; j++) {
                const uint32_t slot = mp_router_slot(in->router, m->layer, ids[j], home[q], hash);
                if (slot == MP_NONE)
                    return mp_fail(err, MP_EINPUT, "layer %u: expert %u has no slot in the plan",
                                   in->plan->layers[m->layer].layer_id, ids[j]);
                m->x->pairs[r->n_choices] =
                    (struct ex_pair){.token = i, .stands = r->n_choices, .place = MP_NONE, .back = MP_NONE};
                r->choices[r->n_choices++] =
                    (struct ex_choice){in->plan->slot_gpu[slot], ids[j], ex_route_weight(trace, m->layer, row, j)};
            }
        }
    return MP_OK;
}

/* Pairs that another row stands for: computed where that one is, with its weight. */
static enum mp_status condense(struct maker *m, struct mp_error *err) {
    const struct mp_token_flow *f = m->in->flow;
    const uint32_t top_k = m->in->workload->trace->top_k;
    struct ex_route *r = m->r;
    for (uint32_t i = 0; i < r->n_tokens && f->stands_for != NULL; i++) {
        const uint32_t *by = f->stands_for + ((size_t)m->layer * f->n_rows + i) * top_k;
        for (uint32_t j = 0; j < r->tokens[i].n_choices; j++) {
            const uint32_t own = r->tokens[i].first_choice + j;
            if (by[j] == i)
                continue;
            const struct ex_token *other = by[j] < r->n_tokens ? &r->tokens[by[j]] : NULL;
            uint32_t at = 0;
            while (other != NULL && at < other->n_choices &&
                   r->choices[other->first_choice + at].expert != r->choices[own].expert)
                at++;
            if (other == NULL || at == other->n_choices)
                return mp_fail(err, MP_EBUG, "row %u does not stand for row %u of expert %u", by[j], i,
                               r->choices[own].expert);
            m->x->pairs[own].stands = other->first_choice + at;
            r->choices[own] = r->choices[other->first_choice + at];
        }
    }
    return MP_OK;
}

/* ---- what is sent ---- */

/* The place of the copy in its flow. */
static uint32_t send(struct maker *m, struct ex_carriage *c, uint32_t src, uint32_t dst, uint32_t token,
                     uint32_t choice) {
    const size_t flow = (size_t)src * m->r->n + dst;
    const uint32_t place = m->count[flow]++;
    if (m->is_writing)
        c->list[c->first[flow] + place] = (struct ex_carried){token, choice, MP_NONE};
    return place;
}

static void send_out(struct maker *m, uint32_t i) {
    const struct ex_route *r = m->r;
    const struct ex_token *t = &r->tokens[i];
    const uint64_t stamp = i + (uint64_t)1;
    for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++) {
        struct ex_pair *p = &m->x->pairs[c];
        const uint32_t g = r->choices[c].gpu;
        if (p->stands != c || g == t->source)
            continue;
        if (r->copies == MP_COPY_PER_EXPERT) {
            p->place = send(m, &m->r->out, t->source, g, i, c);
            continue;
        }
        if (m->stamp[g] != stamp) {
            m->stamp[g] = stamp;
            m->place[g] = send(m, &m->r->out, t->source, g, i, MP_NONE);
        }
        p->place = m->place[g];
    }
}

/* The one token whose sum on GPU g, which goes to the same GPU, has all that this one's has and nothing else; or
 * MP_NONE. */
static uint32_t served_by(const struct maker *m, uint32_t i, uint32_t g) {
    const struct ex_route *r = m->r;
    const struct ex_token *t = &r->tokens[i];
    const uint32_t next = m->x->next[i];
    uint32_t other = MP_NONE, n_own = 0, n_other = 0;
    for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++) {
        if (r->choices[c].gpu != g)
            continue;
        const uint32_t by = m->x->pairs[m->x->pairs[c].stands].token;
        if (by == i || (other != MP_NONE && by != other))
            return MP_NONE;
        other = by;
        n_own++;
    }
    if (other == MP_NONE || m->x->next[other] != next || (t->source == g && t->source != next) ||
        (r->tokens[other].source == g && r->tokens[other].source != next))
        return MP_NONE;
    for (uint32_t c = r->tokens[other].first_choice; c < r->tokens[other].first_choice + r->tokens[other].n_choices;
         c++)
        n_other += r->choices[c].gpu == g;
    return n_own == n_other ? other : MP_NONE;
}

static void send_each_home(struct maker *m, uint32_t i) {
    const struct ex_route *r = m->r;
    const struct ex_token *t = &r->tokens[i];
    const uint32_t next = m->x->next[i];
    for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++) {
        struct ex_pair *p = &m->x->pairs[c];
        const uint32_t g = r->choices[c].gpu;
        if (g != next && (p->stands == c || m->x->next[m->x->pairs[p->stands].token] != next))
            p->back = send(m, &m->x->back, g, next, i, c);
    }
    if (t->source != next)
        m->x->residual_back[i] = send(m, &m->x->back, t->source, next, i, EX_RESIDUAL);
}

/* A sum for each GPU that has something of the token. */
static void send_sums_home(struct maker *m, uint32_t i) {
    const struct ex_route *r = m->r;
    const struct ex_token *t = &r->tokens[i];
    const uint32_t next = m->x->next[i];
    const uint64_t stamp = i + (uint64_t)1;
    for (uint32_t k = 0; k <= t->n_choices; k++) {
        const bool is_residual = k == t->n_choices;
        const uint32_t c = t->first_choice + k, g = is_residual ? t->source : r->choices[c].gpu;
        if (g == next)
            continue;
        if (m->stamp[g] != stamp) {
            m->stamp[g] = stamp;
            m->place[g] = served_by(m, i, g) == MP_NONE ? send(m, &m->x->back, g, next, i, MP_NONE) : MP_NONE;
        }
        if (is_residual)
            m->x->residual_back[i] = m->place[g];
        else
            m->x->pairs[c].back = m->place[g];
    }
}

/* Where answers are that one copy brings for several: known once all copies are. */
static void share_answers(struct maker *m) {
    const struct ex_route *r = m->r;
    for (uint32_t c = 0; c < r->n_choices; c++) {
        struct ex_pair *p = &m->x->pairs[c];
        if (p->back != MP_NONE || r->choices[c].gpu == m->x->next[p->token])
            continue;
        p->back = m->x->pairs[p->stands].back;
    }
}

static enum mp_status list_copies(struct maker *m, struct ex_carriage *c, void (*of_token)(struct maker *, uint32_t),
                                  struct mp_error *err) {
    const size_t n_flows = (size_t)m->r->n * m->r->n;
    c->first = mp_calloc(n_flows + 1, sizeof *c->first);
    if (c->first == NULL)
        return mp_nomem(err, "the copies of a step");
    for (int pass = 0; pass < 2; pass++) {
        memset(m->count, 0, n_flows * sizeof *m->count);
        memset(m->stamp, 0, m->r->n * sizeof *m->stamp);
        m->is_writing = pass == 1;
        for (uint32_t i = 0; i < m->r->n_tokens; i++)
            of_token(m, i);
        if (pass == 1)
            break;
        for (size_t f = 0; f < n_flows; f++)
            c->first[f + 1] = c->first[f] + m->count[f];
        c->list = mp_calloc(c->first[n_flows], sizeof *c->list);
        if (c->list == NULL)
            return mp_nomem(err, "the copies of a step");
    }
    return MP_OK;
}

enum mp_status ex_moves_new(struct ex_route *r, const struct mp_cost_setup *in, uint32_t step, uint32_t layer,
                            struct mp_error *err) {
    const struct mp_step *st = &in->workload->steps[step];
    const size_t n_choices = (size_t)st->n * in->workload->trace->top_k;
    const bool is_flat = mp_topology_n_nodes(in->topology) == 1;
    struct maker m = {.r = r, .in = in, .layer = layer};
    enum mp_status status = MP_OK;
    if (r->copies == MP_COPY_ALL || (r->copies == MP_COPY_PER_NODE && !is_flat))
        return mp_fail(err, MP_EUSAGE,
                       "tokens that move or stand for others are replayed with a copy per expert or per GPU (take "
                       "--dispatcher deepep-ll or a2av)");
    r->moves = m.x = mp_calloc(1, sizeof *r->moves);
    r->tokens = mp_calloc(st->n, sizeof *r->tokens);
    r->choices = mp_calloc(n_choices, sizeof *r->choices);
    m.stamp = mp_calloc(r->n, sizeof *m.stamp);
    m.place = mp_calloc(r->n, sizeof *m.place);
    m.count = mp_calloc((size_t)r->n * r->n, sizeof *m.count);
    r->inside.first = mp_calloc((size_t)r->n * r->n + 1, sizeof *r->inside.first);
    if (m.x != NULL) {
        m.x->pairs = mp_calloc(n_choices, sizeof *m.x->pairs);
        m.x->next = mp_calloc(st->n, sizeof *m.x->next);
        m.x->residual_back = mp_calloc(st->n, sizeof *m.x->residual_back);
    }
    if (m.x == NULL || m.x->pairs == NULL || m.x->next == NULL || m.x->residual_back == NULL || r->tokens == NULL ||
        r->choices == NULL || m.stamp == NULL || m.place == NULL || m.count == NULL || r->inside.first == NULL) {
        status = mp_nomem(err, "the routing of a step");
        goto out;
    }
    r->n_tokens = st->n;
    memset(m.x->residual_back, 0xff, st->n * sizeof *m.x->residual_back);
    MP_TRY(take_tokens(&m, st, err));
    MP_TRY(condense(&m, err));
    MP_TRY(list_copies(&m, &r->out, send_out, err));
    MP_TRY(list_copies(&m, &m.x->back, r->copies == MP_COPY_PER_EXPERT ? send_each_home : send_sums_home, err));
    share_answers(&m);
out:
    mp_free(m.stamp);
    mp_free(m.place);
    mp_free(m.count);
    return status;
}

void ex_moves_free(struct ex_moves *m) {
    if (m == NULL)
        return;
    mp_free(m->pairs);
    mp_free(m->next);
    mp_free(m->residual_back);
    mp_free(m->back.first);
    mp_free(m->back.list);
    mp_free(m);
}
