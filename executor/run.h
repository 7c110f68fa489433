/* One step of a plan, ready to run: routing, memory and proven scripts of every layer. */
#ifndef EXECUTOR_RUN_H
#define EXECUTOR_RUN_H

#include "payload.h"
#include "route.h"
#include "transport.h"
#include <moeplan/executor.h>

struct ex_layer {
    struct ex_route *route;             /* NULL: a plain matrix, whose flows are not made of tokens */
    struct ex_flows *flows[EX_N_PARTS]; /* NULL: the layer has no such part */
    struct ex_script *scripts[EX_N_PARTS];
    const uint64_t *matrix[EX_N_PARTS]; /* the route's, or those of `plain` */
    uint64_t *plain;                    /* [2][n * n] the matrix and its transpose, or NULL */
    bool has_fallen_back[EX_N_PARTS];
    uint64_t *used;       /* [n_ranks] bytes of each block */
    struct ex_rows *rows; /* [n_ranks] where the transport packs by tables, else NULL */
};
/* Makes and proves all of a layer for the limits of a transport. */
enum mp_status ex_layer_new(struct ex_layer **out, const struct mp_cost_setup *setup, struct mp_net *net,
                            int stage_mode, const struct ex_limits *limits, uint32_t step, uint32_t layer,
                            struct mp_error *err) MP_MUST_CHECK;
/* A plain matrix in place of a step's traffic, in the order of the plan's first layer; its combine is the transpose. Of
 * setup only plan and topology are used. */
enum mp_status ex_layer_plain(struct ex_layer **out, const struct mp_cost_setup *setup, struct mp_net *net,
                              const uint64_t *matrix, int stage_mode, const struct ex_limits *limits,
                              struct mp_error *err) MP_MUST_CHECK;
void ex_layer_free(struct ex_layer *l);

/* Piece i of n of a part of a layer, by whole copies of every flow. Its relays are laid behind l->used, which moves on.
 */
struct ex_piece {
    uint64_t *bytes; /* the flows' */
    struct ex_flows flows;
    struct ex_script *script;
};
enum mp_status ex_piece_new(struct ex_piece **out, struct ex_layer *l, const struct mp_cost_setup *setup,
                            struct mp_net *net, int stage_mode, const struct ex_limits *limits, uint32_t step,
                            uint32_t layer, enum ex_part part, uint32_t i, uint32_t n,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_piece_free(struct ex_piece *p);
/* What the network model says of a script's part as the transport runs it, launches included; log: NULL, or where its
 * transfers go. */
enum mp_status ex_layer_predict(const struct ex_layer *l, const struct mp_cost_setup *setup, struct mp_net *net,
                                int stage_mode, const struct ex_limits *limits, enum ex_part part,
                                struct mp_net_log *log, uint64_t *predicted_ns, uint64_t *bound_ns,
                                struct mp_error *err) MP_MUST_CHECK;

/* What rank r does with its block between scripts. `p` says which step, layer and iteration. With l->rows, ex_pack lays
 * down tokens and tables, ex_experts what the rank's own experts answer its own tokens, and kernels do the rest of
 * packing, passing on and adding up: ex_pass_on and ex_gather_up are not called. */
void ex_pack(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block);
/* A gateway hands what came on inside its node. */
void ex_pass_on(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block);
/* Checks every activation that came, computes and packs the answers. *n_copies: how many were checked. */
enum mp_status ex_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                          uint64_t *n_copies, struct mp_error *err) MP_MUST_CHECK;
/* A gateway adds up what came from its node. */
void ex_gather_up(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block);
/* Back home: adds up the answers of every token of the rank and compares with what it derives itself. */
enum mp_status ex_check_home(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                             uint64_t *n_tokens, struct mp_error *err) MP_MUST_CHECK;

/* The same for layers whose tokens move or stand for others; ex_experts and ex_check_home call them. */
enum mp_status ex_moves_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                                uint64_t *n_copies, struct mp_error *err) MP_MUST_CHECK;
enum mp_status ex_moves_check(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, const uint8_t *block,
                              uint64_t *n_tokens, struct mp_error *err) MP_MUST_CHECK;

/* The sizes of a model's experts, none of them yet. */
struct ex_gemm ex_gemm_of(const struct mp_model *model);
/* Matrix products of the sizes that the experts of a rank have, on a transport that has `compute`. */
enum mp_status ex_compute(const struct ex_transport *t, struct ex_link *link, const struct ex_layer *l,
                          const struct mp_model *model, uint32_t rank, uint64_t *ns,
                          struct mp_error *err) MP_MUST_CHECK;

/* The same for plain matrices: a flow is one activation of its size, its answer goes back in as many bytes. */
void ex_plain_pack(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block);
enum mp_status ex_plain_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                                uint64_t *n_copies, struct mp_error *err) MP_MUST_CHECK;
enum mp_status ex_plain_check_home(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank,
                                   const uint8_t *block, uint64_t *n_tokens, struct mp_error *err) MP_MUST_CHECK;

#endif
