/* What ranks do between scripts: pack activations, hand them on, compute, add up, and check all of it. */
#include "run.h"
#include <stdio.h>
#include <string.h>

static size_t flow_of(const struct ex_layer *l, uint32_t src, uint32_t dst) { return (size_t)src * l->route->n + dst; }

/* Copy `place` of flow src -> dst in the block of src (out) or of dst (in). */
static uint64_t out_at(const struct ex_layer *l, enum ex_part part, uint32_t src, uint32_t dst, size_t place,
                       uint64_t copy_bytes) {
    return l->flows[part]->out_at[flow_of(l, src, dst)] + place * copy_bytes;
}
static uint64_t in_at(const struct ex_layer *l, enum ex_part part, uint32_t src, uint32_t dst, size_t place,
                      uint64_t copy_bytes) {
    return l->flows[part]->in_at[flow_of(l, src, dst)] + place * copy_bytes;
}

/* Each of the rank's tokens once, and the tables by which a kernel makes the flows of them. */
static void pack_rows(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    const struct ex_rows *rows = &l->rows[rank];
    uint64_t to = rows->tokens_at;
    for (uint32_t dst = 0; dst < r->n; dst++) /* a row that is forgotten is seen */
        ex_payload_blank(p, block + out_at(l, EX_DISPATCH, rank, dst, 0, 0), 0xEE,
                         l->matrix[EX_DISPATCH][flow_of(l, rank, dst)]);
    for (uint32_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i].source == rank) {
            ex_payload_fill(p, r->tokens[i].row, block + to);
            to += rows->token_stride;
        }
    memcpy(block + rows->image_at, rows->image, rows->image_bytes);
}

void ex_pack(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    if (r == NULL) {
        ex_plain_pack(l, p, rank, block);
        return;
    }
    for (int part = 0; part < EX_N_PARTS; part++) /* nothing that is left of an earlier run may pass for new */
        for (uint32_t i = 0; l->flows[part] != NULL && i < r->n; i++)
            ex_payload_blank(p, block + in_at(l, (enum ex_part)part, i, rank, 0, 0), 0xEE,
                             l->matrix[part][flow_of(l, i, rank)]);
    if (l->rows != NULL) {
        pack_rows(l, p, rank, block);
        return;
    }
    for (uint32_t dst = 0; dst < r->n; dst++) {
        const size_t flow = flow_of(l, rank, dst), first = r->out.first[flow];
        for (size_t c = first; c < r->out.first[flow + 1]; c++)
            ex_payload_fill(p, r->tokens[r->out.list[c].token].row,
                            block + out_at(l, EX_DISPATCH, rank, dst, c - first, p->dispatch_bytes));
    }
}

void ex_pass_on(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    for (uint32_t dst = 0; dst < r->n; dst++) {
        const size_t flow = flow_of(l, rank, dst), first = r->inside.first[flow];
        for (size_t c = first; c < r->inside.first[flow + 1]; c++) {
            const struct ex_carried *x = &r->inside.list[c];
            memcpy(block + out_at(l, EX_DISPATCH_INSIDE, rank, dst, c - first, p->dispatch_bytes),
                   block + in_at(l, EX_DISPATCH, r->tokens[x->token].source, rank, x->relay, p->dispatch_bytes),
                   p->dispatch_bytes);
        }
    }
}

/* The activation of a copy as it came to `rank`, and what its experts there answer. */
static enum mp_status answer(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint32_t from,
                             const struct ex_carried *x, const uint8_t *activation, uint8_t *sum,
                             struct mp_error *err) {
    const struct ex_route *r = l->route;
    const struct ex_token *t = &r->tokens[x->token];
    const uint64_t differs = ex_payload_check(p, t->row, activation);
    const struct ex_choice *c = r->choices + t->first_choice, *first = NULL;
    for (uint32_t j = 0; j < t->n_choices && first == NULL; j++)
        if (x->choice == MP_NONE ? c[j].gpu == rank : t->first_choice + j == x->choice)
            first = &c[j];
    if (differs < p->dispatch_bytes) {
        char expert[48] = "that is passed on or not used there";
        if (first != NULL)
            snprintf(expert, sizeof expert, "for expert %u", first->expert);
        return mp_fail(err, MP_EPEER,
                       "dispatch of step %u, layer %u: token %llu of rank %u, %s, came wrong from rank %u to rank %u: "
                       "byte %llu of %llu is 0x%02x and should be 0x%02x",
                       p->step, l->scripts[EX_DISPATCH]->layer_id, (unsigned long long)t->row, t->source, expert, from,
                       rank, (unsigned long long)differs, (unsigned long long)p->dispatch_bytes, activation[differs],
                       ex_payload_byte(p, t->row, differs));
    }
    memset(sum, 0, p->combine_bytes);
    if (first == NULL)
        return MP_OK;
    const uint64_t key = ex_payload_key(p, activation);
    for (uint32_t j = 0; j < t->n_choices; j++)
        if (x->choice == MP_NONE ? c[j].gpu == rank : t->first_choice + j == x->choice)
            ex_payload_answer(p, key, c[j].expert, x->choice == MP_NONE ? c[j].weight : 1, sum);
    return MP_OK;
}

/* What the rank's own experts answer its own tokens: what the sums of its kernel begin with. */
static void answer_own(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    const struct ex_rows *rows = &l->rows[rank];
    for (uint32_t i = 0, own = 0; i < r->n_tokens; i++) {
        const struct ex_token *t = &r->tokens[i];
        if (t->source != rank)
            continue;
        uint8_t *sum = block + rows->home_at + own * rows->home_stride;
        const uint64_t key = ex_payload_key(p, block + rows->tokens_at + own * rows->token_stride);
        memset(sum, 0, p->combine_bytes);
        for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++)
            if (r->choices[c].gpu == rank)
                ex_payload_answer(p, key, r->choices[c].expert, r->choices[c].weight, sum);
        own++;
    }
}

enum mp_status ex_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                          uint64_t *n_copies, struct mp_error *err) {
    const struct ex_route *r = l->route;
    if (r == NULL)
        return ex_plain_experts(l, p, rank, block, n_copies, err);
    if (r->moves != NULL)
        return ex_moves_experts(l, p, rank, block, n_copies, err);
    for (int inside = 0; inside < 2; inside++) {
        const struct ex_carriage *from = inside ? &r->inside : &r->out;
        const enum ex_part came = inside ? EX_DISPATCH_INSIDE : EX_DISPATCH,
                           goes = inside ? EX_COMBINE_INSIDE : EX_COMBINE;
        for (uint32_t src = 0; src < r->n; src++) {
            const size_t flow = flow_of(l, src, rank), first = from->first[flow];
            for (size_t c = first; c < from->first[flow + 1]; c++) {
                enum mp_status status = answer(l, p, rank, src, &from->list[c],
                                               block + in_at(l, came, src, rank, c - first, p->dispatch_bytes),
                                               block + out_at(l, goes, rank, src, c - first, p->combine_bytes), err);
                if (status != MP_OK)
                    return status;
            }
            *n_copies += from->first[flow + 1] - first;
        }
    }
    if (l->rows != NULL)
        answer_own(l, p, rank, block);
    return MP_OK;
}

void ex_gather_up(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    for (uint32_t g = 0; g < r->n; g++) {
        const size_t flow = flow_of(l, rank, g), first = r->inside.first[flow];
        for (size_t c = first; c < r->inside.first[flow + 1]; c++) {
            const struct ex_carried *x = &r->inside.list[c];
            ex_payload_add(p, block + in_at(l, EX_COMBINE_INSIDE, g, rank, c - first, p->combine_bytes), 1,
                           block + out_at(l, EX_COMBINE, rank, r->tokens[x->token].source, x->relay, p->combine_bytes));
        }
    }
}

/* c: the one choice whose answer it is, or NULL: all of the token's added up. */
static enum mp_status wrong_answer(const struct ex_layer *l, const struct ex_payload *p, const struct ex_token *t,
                                   const struct ex_choice *c, const uint8_t *got, const uint8_t *want,
                                   struct mp_error *err) {
    uint64_t at = 0;
    char expert[64] = "that has no expert";
    if (c != NULL)
        snprintf(expert, sizeof expert, "of its expert %u on rank %u", c->expert, c->gpu);
    else if (t->n_choices > 0)
        snprintf(expert, sizeof expert, "whose first expert is %u on rank %u",
                 l->route->choices[t->first_choice].expert, l->route->choices[t->first_choice].gpu);
    while (got[at] == want[at])
        at++;
    return mp_fail(
        err, MP_EPEER,
        "combine of step %u, layer %u: the answer to token %llu of rank %u, %s, came home wrong: byte %llu of "
        "%llu is 0x%02x and should be 0x%02x",
        p->step, l->scripts[EX_COMBINE]->layer_id, (unsigned long long)t->row, t->source, expert,
        (unsigned long long)at, (unsigned long long)p->combine_bytes, got[at], want[at]);
}

struct home { /* what checking a rank's answers needs */
    const struct ex_layer *l;
    const struct ex_payload *p;
    uint32_t rank;
    const uint8_t *block;
    size_t *next;                    /* [n] copies of each flow that were added up */
    uint8_t *own, *one, *got, *want; /* an activation; an answer, and sums */
};

/* Every expert's answer as it should be, weighted. One that came for itself is compared before it is weighted: times
 * an even weight a wrong bit may vanish. */
static enum mp_status add_answers(struct home *h, const struct ex_token *t, struct mp_error *err) {
    const struct ex_layer *l = h->l;
    const struct ex_payload *p = h->p;
    memset(h->got, 0, p->combine_bytes);
    memset(h->want, 0, p->combine_bytes);
    ex_payload_fill(p, t->row, h->own);
    const uint64_t key = ex_payload_key(p, h->own);
    for (uint32_t i = t->first_choice; i < t->first_choice + t->n_choices; i++) {
        const struct ex_choice *c = &l->route->choices[i];
        memset(h->one, 0, p->combine_bytes);
        ex_payload_answer(p, key, c->expert, 1, h->one);
        ex_payload_add(p, h->one, c->weight, h->want);
        if (c->gpu == h->rank) {
            ex_payload_add(p, h->one, c->weight, h->got);
        } else if (l->route->copies == MP_COPY_PER_EXPERT) {
            const uint8_t *came = h->block + in_at(l, EX_COMBINE, c->gpu, h->rank, h->next[c->gpu]++, p->combine_bytes);
            if (memcmp(came, h->one, p->combine_bytes) != 0)
                return wrong_answer(l, p, t, c, came, h->one, err);
            ex_payload_add(p, came, c->weight, h->got);
        }
    }
    return MP_OK;
}

enum mp_status ex_check_home(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                             uint64_t *n_tokens, struct mp_error *err) {
    const struct ex_route *r = l->route;
    enum mp_status status = MP_OK;
    if (r == NULL)
        return ex_plain_check_home(l, p, rank, block, n_tokens, err);
    if (r->moves != NULL)
        return ex_moves_check(l, p, rank, block, n_tokens, err);
    struct home h = {.l = l,
                     .p = p,
                     .rank = rank,
                     .block = block,
                     .next = mp_calloc(r->n, sizeof *h.next),
                     .own = mp_calloc(p->dispatch_bytes, 1),
                     .one = mp_calloc(p->combine_bytes, 1),
                     .got = mp_calloc(p->combine_bytes, 1),
                     .want = mp_calloc(p->combine_bytes, 1)};
    if (h.next == NULL || h.own == NULL || h.one == NULL || h.got == NULL || h.want == NULL) {
        status = mp_nomem(err, "checking tokens");
        goto out;
    }
    uint64_t home_at = l->rows != NULL ? l->rows[rank].home_at : 0;
    for (uint32_t i = 0; i < r->n_tokens; i++) {
        const struct ex_token *t = &r->tokens[i];
        if (t->source != rank)
            continue;
        MP_TRY(add_answers(&h, t, err));
        for (uint32_t g = 0; g < r->n && r->copies != MP_COPY_PER_EXPERT; g++) {
            const size_t flow = flow_of(l, rank, g), first = r->out.first[flow];
            size_t *next = &h.next[g];
            for (; first + *next < r->out.first[flow + 1] && r->out.list[first + *next].token == i; (*next)++)
                ex_payload_add(p, block + in_at(l, EX_COMBINE, g, rank, *next, p->combine_bytes), 1, h.got);
        }
        if (memcmp(h.got, h.want, p->combine_bytes) != 0) {
            status = wrong_answer(l, p, t, NULL, h.got, h.want, err);
            goto out;
        }
        if (l->rows != NULL) { /* and so is what the kernel made of it */
            const uint8_t *sum = block + home_at;
            home_at += l->rows[rank].home_stride;
            if (memcmp(sum, h.want, p->combine_bytes) != 0) {
                status = wrong_answer(l, p, t, NULL, sum, h.want, err);
                goto out;
            }
        }
        (*n_tokens)++;
    }
out:
    mp_free(h.next);
    mp_free(h.own);
    mp_free(h.one);
    mp_free(h.got);
    mp_free(h.want);
    return status;
}
