/* Makes the tables by which GPUs pack, pass on, gather up and bring home.
 *
 * Decides   nothing: which copies travel is the routing's, where they lie the flows'.
 * Method    copies of a flow lie one behind the other, so a table is a walk along the routing's lists; sums are put
 *           together by counting, first the terms of each row, then the terms.
 * Cost      O(copies + GPUs^2). */
#include "rows.h"
#include "script_private.h"
#include <string.h>

enum { ROW_ALIGN = 16 }; /* of rows that are laid apart: kernels then move 16 bytes at a time */

struct maker {
    const struct ex_route *r;
    struct ex_flows *const *flows;
    uint64_t dispatch_bytes, combine_bytes;
    uint32_t *place; /* [n_tokens] among those of the token's rank */
    uint32_t *n_own; /* [n] tokens of each rank */
};

const char *ex_rows_name(enum ex_rows_kind kind) {
    static const char *const names[] = {"packing", "passing on", "adding up inside a node", "combining"};
    return names[kind];
}

static size_t flow_of(const struct maker *m, uint32_t src, uint32_t dst) { return (size_t)src * m->r->n + dst; }
static size_t n_copies(const struct maker *m, bool inside, uint32_t src, uint32_t dst) {
    const size_t *first = inside ? m->r->inside.first : m->r->out.first;
    return first[flow_of(m, src, dst) + 1] - first[flow_of(m, src, dst)];
}
static const struct ex_carried *copies(const struct maker *m, bool inside, uint32_t src, uint32_t dst) {
    const struct ex_carriage *c = inside ? &m->r->inside : &m->r->out;
    return c->list + c->first[flow_of(m, src, dst)];
}

/* ---- moves ---- */

static void fill_pack(const struct maker *m, const struct ex_rows *x, uint32_t rank, struct gpu_row_move *row) {
    for (uint32_t dst = 0; dst < m->r->n; dst++)
        for (size_t c = 0; c < n_copies(m, false, rank, dst); c++)
            *row++ =
                (struct gpu_row_move){x->tokens_at + m->place[copies(m, false, rank, dst)[c].token] * x->token_stride,
                                      m->flows[EX_DISPATCH]->out_at[flow_of(m, rank, dst)] + c * m->dispatch_bytes};
}

static void fill_pass_on(const struct maker *m, uint32_t rank, struct gpu_row_move *row) {
    for (uint32_t dst = 0; m->r->has_inside && dst < m->r->n; dst++)
        for (size_t c = 0; c < n_copies(m, true, rank, dst); c++) {
            const struct ex_carried *x = &copies(m, true, rank, dst)[c];
            const uint32_t source = m->r->tokens[x->token].source;
            *row++ = (struct gpu_row_move){
                m->flows[EX_DISPATCH]->in_at[flow_of(m, source, rank)] + x->relay * m->dispatch_bytes,
                m->flows[EX_DISPATCH_INSIDE]->out_at[flow_of(m, rank, dst)] + c * m->dispatch_bytes};
        }
}

/* ---- sums ---- */

struct sums { /* n of them; terms are added twice: counted, then put */
    struct gpu_row_sum *sums;
    struct gpu_row_term *terms;
    bool is_counted;
};
static void add_term(struct sums *s, uint64_t sum, struct gpu_row_term term) {
    struct gpu_row_sum *to = &s->sums[sum];
    if (s->is_counted)
        s->terms[to->first_term + to->n_terms] = term;
    to->n_terms++;
}
static void counted(struct sums *s, uint32_t n) {
    uint32_t first = 0;
    for (uint32_t k = 0; k < n; k++) {
        s->sums[k].first_term = first;
        first += s->sums[k].n_terms;
        s->sums[k].n_terms = 0;
    }
    s->is_counted = true;
}

/* A sum for each copy that came to the gateway, flow by flow; first[n]: the first of a flow. */
static void fill_gather_up(const struct maker *m, uint32_t rank, struct sums *s, uint32_t *first) {
    uint32_t n = 0;
    for (uint32_t src = 0; src < m->r->n; src++) {
        first[src] = n;
        for (size_t c = 0; c < n_copies(m, false, src, rank); c++)
            s->sums[n++].to_at = m->flows[EX_COMBINE]->out_at[flow_of(m, rank, src)] + c * m->combine_bytes;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t g = 0; g < m->r->n; g++)
            for (size_t c = 0; c < n_copies(m, true, rank, g); c++) {
                const struct ex_carried *x = &copies(m, true, rank, g)[c];
                add_term(s, first[m->r->tokens[x->token].source] + x->relay,
                         (struct gpu_row_term){
                             m->flows[EX_COMBINE_INSIDE]->in_at[flow_of(m, g, rank)] + c * m->combine_bytes, 1});
            }
        if (pass == 0)
            counted(s, n);
    }
}

static void fill_home(const struct maker *m, const struct ex_rows *x, uint32_t rank, struct sums *s) {
    for (uint32_t i = 0; i < m->n_own[rank]; i++)
        s->sums[i].to_at = x->home_at + i * x->home_stride;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t g = 0; g < m->r->n; g++)
            for (size_t c = 0; c < n_copies(m, false, rank, g); c++) {
                const struct ex_carried *copy = &copies(m, false, rank, g)[c];
                add_term(s, m->place[copy->token],
                         (struct gpu_row_term){m->flows[EX_COMBINE]->in_at[flow_of(m, g, rank)] + c * m->combine_bytes,
                                               copy->choice == MP_NONE ? 1 : m->r->choices[copy->choice].weight});
            }
        if (pass == 0)
            counted(s, m->n_own[rank]);
    }
}

/* ---- a rank ---- */

static bool take_rows(uint64_t *used, uint32_t n, uint64_t row_bytes, uint64_t *stride, uint64_t *at) {
    uint64_t bytes;
    *stride = (row_bytes + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    return *stride >= row_bytes && !mp_mul_overflow(*stride, n, &bytes) && script_take(used, bytes, at);
}

/* Puts a table behind those before; at: offset into the image until the image has its place. */
static bool take_table(struct ex_rows *x, enum ex_rows_kind kind, uint64_t n, uint64_t n_terms, uint64_t row_bytes) {
    struct ex_rows_table *t = &x->tables[kind];
    *t = (struct ex_rows_table){
        .kind = kind, .adds = kind >= EX_ROWS_GATHER_UP, .n = (uint32_t)n, .row_bytes = row_bytes};
    return n <= UINT32_MAX && n_terms <= UINT32_MAX &&
           script_take(&x->image_bytes, n * (t->adds ? sizeof(struct gpu_row_sum) : sizeof(struct gpu_row_move)),
                       &t->at) &&
           script_take(&x->image_bytes, n_terms * sizeof(struct gpu_row_term), &t->terms_at);
}

static enum mp_status make_rank(struct ex_rows *x, const struct maker *m, uint32_t rank, uint32_t *first,
                                uint64_t *used, struct mp_error *err) {
    uint64_t n_out = 0, n_in = 0, n_inside = 0;
    for (uint32_t peer = 0; peer < m->r->n; peer++) {
        n_out += n_copies(m, false, rank, peer);
        n_in += n_copies(m, false, peer, rank);
        n_inside += m->r->has_inside ? n_copies(m, true, rank, peer) : 0;
    }
    if (!take_rows(used, m->n_own[rank], m->dispatch_bytes, &x->token_stride, &x->tokens_at) ||
        !take_rows(used, m->n_own[rank], m->combine_bytes, &x->home_stride, &x->home_at) ||
        !take_table(x, EX_ROWS_PACK, n_out, 0, m->dispatch_bytes) ||
        !take_table(x, EX_ROWS_PASS_ON, n_inside, 0, m->dispatch_bytes) ||
        !take_table(x, EX_ROWS_GATHER_UP, n_inside > 0 ? n_in : 0, n_inside, m->combine_bytes) ||
        !take_table(x, EX_ROWS_HOME, m->n_own[rank], n_out, m->combine_bytes) ||
        !script_take(used, x->image_bytes, &x->image_at))
        return mp_fail(err, MP_ELIMIT, "the rows of a rank have more than 2^64 bytes or 2^32 places");
    x->image = mp_calloc(x->image_bytes, 1);
    if (x->image == NULL)
        return mp_nomem(err, "tables of rows");
    struct sums sums[2];
    for (int k = 0; k < 2; k++) {
        const struct ex_rows_table *t = &x->tables[EX_ROWS_GATHER_UP + k];
        sums[k] = (struct sums){(void *)(x->image + t->at), (void *)(x->image + t->terms_at), false};
    }
    fill_pack(m, x, rank, (void *)(x->image + x->tables[EX_ROWS_PACK].at));
    fill_pass_on(m, rank, (void *)(x->image + x->tables[EX_ROWS_PASS_ON].at));
    if (n_inside > 0)
        fill_gather_up(m, rank, &sums[0], first);
    fill_home(m, x, rank, &sums[1]);
    for (int k = 0; k < EX_N_ROWS; k++) {
        x->tables[k].at += x->image_at;
        x->tables[k].terms_at += x->image_at;
    }
    return MP_OK;
}

enum mp_status ex_rows_new(struct ex_rows **out, const struct ex_route *route, struct ex_flows *const flows[EX_N_PARTS],
                           uint64_t dispatch_bytes, uint64_t combine_bytes, uint64_t *used, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *out = NULL;
    struct maker m = {.r = route, .flows = flows, .dispatch_bytes = dispatch_bytes, .combine_bytes = combine_bytes};
    struct ex_rows *x = mp_calloc(route->n, sizeof *x);
    uint32_t *first = mp_calloc(route->n, sizeof *first);
    m.place = mp_calloc(route->n_tokens, sizeof *m.place);
    m.n_own = mp_calloc(route->n, sizeof *m.n_own);
    if (x == NULL || first == NULL || m.place == NULL || m.n_own == NULL) {
        status = mp_nomem(err, "tables of rows");
        goto out;
    }
    for (uint32_t i = 0; i < route->n_tokens; i++)
        m.place[i] = m.n_own[route->tokens[i].source]++;
    for (uint32_t rank = 0; rank < route->n; rank++)
        MP_TRY(make_rank(&x[rank], &m, rank, first, &used[rank], err));
    *out = x;
    x = NULL;
out:
    ex_rows_free(x, route->n);
    mp_free(first);
    mp_free(m.place);
    mp_free(m.n_own);
    return status;
}

void ex_rows_free(struct ex_rows *rows, uint32_t n) {
    for (uint32_t r = 0; rows != NULL && r < n; r++)
        mp_free(rows[r].image);
    mp_free(rows);
}
