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

void ex_pack(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    if (r == NULL) {
        ex_plain_pack(l, p, rank, block);
        return;
    }
    for (int part = 0; part < EX_N_PARTS; part++) /* nothing that is left of an earlier run may pass for new */
        for (uint32_t i = 0; l->flows[part] != NULL && i < r->n; i++)
            memset(block + in_at(l, (enum ex_part)part, i, rank, 0, 0), 0xEE, l->matrix[part][flow_of(l, i, rank)]);
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
            ex_payload_answer(p, key, c[j].expert, c[j].weight, sum);
    return MP_OK;
}

enum mp_status ex_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                          uint64_t *n_copies, struct mp_error *err) {
    const struct ex_route *r = l->route;
    if (r == NULL)
        return ex_plain_experts(l, p, rank, block, n_copies, err);
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
    return MP_OK;
}

void ex_gather_up(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const struct ex_route *r = l->route;
    for (uint32_t g = 0; g < r->n; g++) {
        const size_t flow = flow_of(l, rank, g), first = r->inside.first[flow];
        for (size_t c = first; c < r->inside.first[flow + 1]; c++) {
            const struct ex_carried *x = &r->inside.list[c];
            ex_payload_add(p, block + in_at(l, EX_COMBINE_INSIDE, g, rank, c - first, p->combine_bytes),
                           block + out_at(l, EX_COMBINE, rank, r->tokens[x->token].source, x->relay, p->combine_bytes));
        }
    }
}

static enum mp_status wrong_answer(const struct ex_layer *l, const struct ex_payload *p, const struct ex_token *t,
                                   const uint8_t *got, const uint8_t *want, struct mp_error *err) {
    uint64_t at = 0;
    char expert[64] = "that has no expert";
    if (t->n_choices > 0)
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

enum mp_status ex_check_home(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                             uint64_t *n_tokens, struct mp_error *err) {
    const struct ex_route *r = l->route;
    enum mp_status status = MP_OK;
    if (r == NULL)
        return ex_plain_check_home(l, p, rank, block, n_tokens, err);
    size_t *next = mp_calloc(r->n, sizeof *next); /* copies of each flow that were added up */
    uint8_t *own = mp_calloc(p->dispatch_bytes, 1), *got = mp_calloc(p->combine_bytes, 1),
            *want = mp_calloc(p->combine_bytes, 1);
    if (next == NULL || own == NULL || got == NULL || want == NULL) {
        status = mp_nomem(err, "checking tokens");
        goto out;
    }
    for (uint32_t i = 0; i < r->n_tokens && status == MP_OK; i++) {
        const struct ex_token *t = &r->tokens[i];
        if (t->source != rank)
            continue;
        memset(got, 0, p->combine_bytes);
        memset(want, 0, p->combine_bytes);
        ex_payload_fill(p, t->row, own);
        const uint64_t key = ex_payload_key(p, own);
        for (uint32_t c = t->first_choice; c < t->first_choice + t->n_choices; c++) {
            ex_payload_answer(p, key, r->choices[c].expert, r->choices[c].weight, want);
            if (r->choices[c].gpu == rank)
                ex_payload_answer(p, key, r->choices[c].expert, r->choices[c].weight, got);
        }
        for (uint32_t g = 0; g < r->n; g++) {
            const size_t flow = flow_of(l, rank, g), first = r->out.first[flow];
            for (; first + next[g] < r->out.first[flow + 1] && r->out.list[first + next[g]].token == i; next[g]++)
                ex_payload_add(p, block + in_at(l, EX_COMBINE, g, rank, next[g], p->combine_bytes), got);
        }
        if (memcmp(got, want, p->combine_bytes) != 0)
            status = wrong_answer(l, p, t, got, want, err);
        (*n_tokens)++;
    }
out:
    mp_free(next);
    mp_free(own);
    mp_free(got);
    mp_free(want);
    return status;
}
