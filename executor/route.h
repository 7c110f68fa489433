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
struct ex_route {
    uint32_t n; /* GPUs */
    enum mp_copy_count copies;
    bool has_inside;
    uint32_t n_tokens, n_choices;
    struct ex_token *tokens; /* in the order of the step */
    struct ex_choice *choices;
    struct ex_carriage out, inside; /* inside: of MP_COPY_PER_NODE, from gateways on */
    struct mp_traffic *traffic;     /* what mp_traffic_compute says; the copies have exactly these bytes */
};
/* COUNTS traces: every (token, expert) pair counts as a token of one expert, its row made up from source, expert and
 * number; only with one copy per expert (MP_EUSAGE). MP_EBUG when the copies are not those of mp_traffic_compute. */
enum mp_status ex_route_new(struct ex_route **out, const struct mp_cost_setup *setup, uint32_t step, uint32_t layer,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_route_free(struct ex_route *r);
/* The GPU of `node` that takes what a source on another node sends there (docs/COST.md part 2). */
uint32_t ex_route_gateway(const struct mp_topology *t, uint32_t source, uint32_t node);

#endif
