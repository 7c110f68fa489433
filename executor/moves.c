/* What ranks do with tokens that move on to other GPUs, or stand for each other: answers go where their token is next,
 * with its residual, and one answer counts for all that its token stands for. */
#include "run.h"
#include <stdio.h>
#include <string.h>

static size_t flow_of(const struct ex_layer *l, uint32_t src, uint32_t dst) { return (size_t)src * l->route->n + dst; }

static enum mp_status check_copies(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank,
                                   const uint8_t *block, uint64_t *n_copies, struct mp_error *err) {
    const struct ex_route *r = l->route;
    for (uint32_t src = 0; src < r->n; src++) {
        const size_t flow = flow_of(l, src, rank), first = r->out.first[flow], n = r->out.first[flow + 1] - first;
        for (size_t c = 0; c < n; c++) {
            const struct ex_token *t = &r->tokens[r->out.list[first + c].token];
            const uint8_t *at = block + l->flows[EX_DISPATCH]->in_at[flow] + c * p->dispatch_bytes;
            const uint64_t differs = ex_payload_check(p, t->row, at);
            if (differs < p->dispatch_bytes)
                return mp_fail(err, MP_EPEER,
                               "dispatch of step %u, layer %u: token %llu of rank %u came wrong to rank %u: byte %llu "
                               "of %llu is 0x%02x and should be 0x%02x",
                               p->step, l->scripts[EX_DISPATCH]->layer_id, (unsigned long long)t->row, src, rank,
                               (unsigned long long)differs, (unsigned long long)p->dispatch_bytes, at[differs],
                               ex_payload_byte(p, t->row, differs));
        }
        *n_copies += n;
    }
    return MP_OK;
}

/* The key of the activation that a choice is computed from, as it lies on its GPU. `own`: room for one. */
static uint64_t key_of(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                       uint32_t choice, uint8_t *own) {
    const struct ex_route *r = l->route;
    const struct ex_pair *by = &r->moves->pairs[r->moves->pairs[choice].stands];
    const struct ex_token *t = &r->tokens[by->token];
    if (by->place != MP_NONE)
        return ex_payload_key(p, block + l->flows[EX_DISPATCH]->in_at[flow_of(l, t->source, rank)] +
                                     by->place * p->dispatch_bytes);
    ex_payload_fill(p, t->row, own);
    return ex_payload_key(p, own);
}

static uint32_t weight_of(const struct ex_route *r, uint32_t choice) {
    return r->choices[r->moves->pairs[choice].stands].weight;
}

enum mp_status ex_moves_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                                uint64_t *n_copies, struct mp_error *err) {
    const struct ex_route *r = l->route;
    uint8_t *own = mp_calloc(p->dispatch_bytes, 1);
    enum mp_status status = own == NULL ? mp_nomem(err, "computing tokens") : MP_OK;
    if (status == MP_OK)
        status = check_copies(l, p, rank, block, n_copies, err);
    for (uint32_t dst = 0; dst < r->n && status == MP_OK; dst++) {
        const size_t flow = flow_of(l, rank, dst), first = r->moves->back.first[flow],
                     n = r->moves->back.first[flow + 1] - first;
        for (size_t c = 0; c < n; c++) {
            const struct ex_carried *x = &r->moves->back.list[first + c];
            const struct ex_token *t = &r->tokens[x->token];
            uint8_t *sum = block + l->flows[EX_COMBINE]->out_at[flow] + c * p->combine_bytes;
            memset(sum, 0, p->combine_bytes);
            if (x->choice == EX_RESIDUAL ||
                (x->choice == MP_NONE && t->source == rank && r->moves->next[x->token] != rank))
                ex_payload_residual(p, t->row, sum);
            for (uint32_t k = t->first_choice; k < t->first_choice + t->n_choices; k++)
                if (x->choice == MP_NONE ? r->choices[k].gpu == rank : x->choice == k)
                    ex_payload_answer(p, key_of(l, p, rank, block, k, own), r->choices[k].expert,
                                      x->choice == MP_NONE ? weight_of(r, k) : 1, sum);
        }
    }
    mp_free(own);
    return status;
}

struct next { /* what checking a rank's new tokens needs */
    const struct ex_layer *l;
    const struct ex_payload *p;
    uint32_t rank;
    const uint8_t *block;
    uint8_t *own, *one, *got, *want, *residual;
    uint64_t *stamp; /* [n] the last token (1, 2, ...) whose sum from there was added */
};

static const uint8_t *came_from(const struct next *x, uint32_t g, uint32_t place) {
    return x->block + x->l->flows[EX_COMBINE]->in_at[flow_of(x->l, g, x->rank)] + place * x->p->combine_bytes;
}

static enum mp_status wrong(const struct next *x, uint32_t token, const char *what, uint32_t from, const uint8_t *got,
                            const uint8_t *want, struct mp_error *err) {
    const struct ex_token *t = &x->l->route->tokens[token];
    uint64_t at = 0;
    while (at + 1 < x->p->combine_bytes && got[at] == want[at])
        at++;
    return mp_fail(
        err, MP_EPEER,
        "combine of step %u, layer %u: token %llu, which moves from rank %u to rank %u: %s from rank %u came "
        "wrong: byte %llu of %llu is 0x%02x and should be 0x%02x",
        x->p->step, x->l->scripts[EX_COMBINE]->layer_id, (unsigned long long)t->row, t->source, x->rank, what, from,
        (unsigned long long)at, (unsigned long long)x->p->combine_bytes, got[at], want[at]);
}

/* One of the token's answers: what it should be is added to `want`, what came to `got`. */
static enum mp_status add_answer(struct next *x, uint32_t token, uint32_t choice, struct mp_error *err) {
    const struct ex_route *r = x->l->route;
    const struct ex_payload *p = x->p;
    const struct ex_pair *pair = &r->moves->pairs[choice];
    const uint32_t g = r->choices[choice].gpu;
    ex_payload_fill(p, r->tokens[r->moves->pairs[pair->stands].token].row, x->own);
    memset(x->one, 0, p->combine_bytes);
    ex_payload_answer(p, ex_payload_key(p, x->own), r->choices[choice].expert, 1, x->one);
    ex_payload_add(p, x->one, weight_of(r, choice), x->want);
    if (g == x->rank) {
        ex_payload_add(p, x->one, weight_of(r, choice), x->got);
    } else if (r->copies == MP_COPY_PER_EXPERT) {
        const uint8_t *came = came_from(x, g, pair->back);
        if (memcmp(came, x->one, p->combine_bytes) != 0)
            return wrong(x, token, "the answer of an expert", g, came, x->one, err);
        ex_payload_add(p, came, weight_of(r, choice), x->got);
    } else if (x->stamp[g] != token + (uint64_t)1) {
        x->stamp[g] = token + (uint64_t)1;
        ex_payload_add(p, came_from(x, g, pair->back), 1, x->got);
    }
    return MP_OK;
}

static enum mp_status check_token(struct next *x, uint32_t token, struct mp_error *err) {
    const struct ex_route *r = x->l->route;
    const struct ex_payload *p = x->p;
    const struct ex_token *t = &r->tokens[token];
    const uint32_t place = r->moves->residual_back[token];
    memset(x->got, 0, p->combine_bytes);
    memset(x->want, 0, p->combine_bytes);
    memset(x->residual, 0, p->combine_bytes);
    ex_payload_residual(p, t->row, x->residual);
    for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++) {
        enum mp_status status = add_answer(x, token, c, err);
        if (status != MP_OK)
            return status;
    }
    if (t->source == x->rank) { /* what it had it still has */
        ex_payload_add(p, x->residual, 1, x->got);
    } else if (r->copies == MP_COPY_PER_EXPERT) {
        const uint8_t *came = came_from(x, t->source, place);
        if (memcmp(came, x->residual, p->combine_bytes) != 0)
            return wrong(x, token, "the residual", t->source, came, x->residual, err);
        ex_payload_add(p, came, 1, x->got);
    } else if (x->stamp[t->source] != token + (uint64_t)1) {
        ex_payload_add(p, came_from(x, t->source, place), 1, x->got);
    }
    ex_payload_add(p, x->residual, 1, x->want);
    return memcmp(x->got, x->want, p->combine_bytes) == 0
               ? MP_OK
               : wrong(x, token, "the sum, first of all what came", t->source, x->got, x->want, err);
}

enum mp_status ex_moves_check(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                              uint64_t *n_tokens, struct mp_error *err) {
    const struct ex_route *r = l->route;
    enum mp_status status = MP_OK;
    struct next x = {.l = l,
                     .p = p,
                     .rank = rank,
                     .block = block,
                     .own = mp_calloc(p->dispatch_bytes, 1),
                     .one = mp_calloc(p->combine_bytes, 1),
                     .got = mp_calloc(p->combine_bytes, 1),
                     .want = mp_calloc(p->combine_bytes, 1),
                     .residual = mp_calloc(p->combine_bytes, 1),
                     .stamp = mp_calloc(r->n, sizeof *x.stamp)};
    if (x.own == NULL || x.one == NULL || x.got == NULL || x.want == NULL || x.residual == NULL || x.stamp == NULL)
        status = mp_nomem(err, "checking tokens");
    for (uint32_t i = 0; i < r->n_tokens && status == MP_OK; i++)
        if (r->moves->next[i] == rank) {
            status = check_token(&x, i, err);
            *n_tokens += status == MP_OK;
        }
    void *owned[] = {x.own, x.one, x.got, x.want, x.residual, x.stamp};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
    return status;
}
