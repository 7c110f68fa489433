/* Which copies of which tokens travel in one step and layer: the simulator's routing, token by token. */
#ifndef EXECUTOR_ROUTE_H
#define EXECUTOR_ROUTE_H

#include <moeplan/cost.h>

struct ex_choice { /* one of a token's experts */
    uint32_t gpu;  /* of the slot that serves it */
    uint16_t expert, weight;
};
struct ex_token {
    uint64_t row;
    uint32_t source, first_choice, n_choices;
};
/* One activation on its way. Flow i -> j is its copies one behind the other, in the order of the tokens in the step,
 * then of their experts. */
struct ex_carried {
    uint32_t token;
    uint32_t choice; /* the one expert it is for, or MP_NONE: all of the token's on the GPU it goes to */
    uint32_t relay;  /* phase inside nodes: its place in the flow that brought it to the gateway; else MP_NONE */
};
struct ex_carriage { /* of one phase */
    size_t *first;   /* [n * n + 1] copies of flow i * n + j: list[first[i * n + j] ..] */
    struct ex_carried *list;
};
/* With a flow (docs/LUFFY.md): where tokens are next, and which pairs stand for others. */
struct ex_pair {     /* a token's choice */
    uint32_t token;  /* whose it is */
    uint32_t stands; /* the choice whose copy travels and is computed in its place; itself: it travels itself */
    uint32_t place;  /* of the copy that it is computed from in the flow to its GPU; MP_NONE: the token is there */
    uint32_t back;   /* of the answer, or of the partial sum that it is in, in the flow to where its token is next;
                      * MP_NONE: its GPU is that */
};
struct ex_moves {
    struct ex_pair *pairs;   /* [n_choices] */
    uint32_t *next;          /* [n_tokens] the GPU where the token is when the next layer begins */
    uint32_t *residual_back; /* [n_tokens] place of the residual, or of the sum that has it, in the flow from where the
                              * token was to where it is next; MP_NONE: it stays */
    struct ex_carriage back; /* the combine's copies; choice: one expert's answer, MP_NONE: all of the token's on the
                              * GPU that it comes from and the residual if it was there, or EX_RESIDUAL: that alone */
};
#define EX_RESIDUAL (MP_NONE - 1)

struct ex_route {
    uint32_t n; /* GPUs */
    enum mp_copy_count copies;
    bool has_inside;
    uint32_t n_tokens, n_choices;
    struct ex_token *tokens; /* in the order of the step */
    struct ex_choice *choices;
    struct ex_carriage out, inside; /* inside: of MP_COPY_PER_NODE, from gateways on */
    struct ex_moves *moves;         /* NULL = tokens come back where they were, and all travel */
    struct mp_traffic *traffic;     /* what mp_traffic_compute says; the copies have exactly these bytes */
};
/* COUNTS traces: every (token, expert) pair counts as a token of one expert, its row made up from source, expert and
 * number; only with one copy per expert (MP_EUSAGE). MP_EBUG when the copies are not those of mp_traffic_compute. */
enum mp_status ex_route_new(struct ex_route **out, const struct mp_cost_setup *setup, uint32_t step, uint32_t layer,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_route_free(struct ex_route *r);
/* route_moves.c: what route.c shares with it. */
enum mp_status ex_moves_new(struct ex_route *r, const struct mp_cost_setup *setup, uint32_t step, uint32_t layer,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_moves_free(struct ex_moves *m);
/* Gate weight of place j of a row; 1 in recordings without weights, and never 0, which would hide an answer. */
uint16_t ex_route_weight(const struct mp_trace *t, uint32_t layer, uint64_t row, uint32_t j);
/* The GPU of `node` that takes what a source on another node sends there (docs/COST.md part 2). */
uint32_t ex_route_gateway(const struct mp_topology *t, uint32_t source, uint32_t node);

#endif
