/* A training step replayed: forward and backward all-to-alls with tokens that are checked, allreduces of gradients
 * beside them in chunks, as a policy says. docs/EXECUTOR.md, "Training steps". */
#ifndef EXECUTOR_TRAIN_H
#define EXECUTOR_TRAIN_H

#include "work.h"
#include <moeplan/train.h>

/* ---- what a step is made of (docs/TRAINING.md part 1), the same on all ranks: train_program.c ---- */

struct ex_compute { /* a rank computes; nothing really does, it takes as long as it should */
    enum mp_train_what what;
    uint32_t layer, piece, n_pieces;
    uint32_t waits;              /* chunk; MP_NONE = for nothing */
    uint32_t signals, n_signals; /* chunks that are ready behind it */
    uint32_t bucket;             /* whose gradients it makes; MP_NONE = none */
    const uint64_t *ns;          /* [n_ranks], of all pieces; NULL = none */
};
struct ex_chunk { /* of an all-to-all, in the order of the program */
    uint32_t layer, piece, n_pieces;
    enum mp_train_a2a a2a;
};
struct ex_bucket {
    struct mp_train_bucket is;
    uint64_t ns;        /* whole and alone, as predicted */
    uint32_t n_chunks;  /* 0 = no gradients are in it */
    uint32_t n_sources; /* computations of a rank that make them */
};
struct ex_program {
    const struct mp_train_step *step;
    const struct mp_train_policy *policy;
    struct ex_compute *computes;
    struct ex_chunk *chunks;
    struct ex_bucket *buckets;
    uint32_t n_computes, n_chunks, n_buckets;
    struct mp_arena *arena;
};
enum mp_status ex_program_new(struct ex_program **out, const struct mp_train_step *step,
                              const struct mp_train_policy *policy, struct mp_error *err) MP_MUST_CHECK;
void ex_program_free(struct ex_program *p);
uint64_t ex_program_compute_ns(const struct ex_program *p, const struct ex_compute *c, uint32_t rank);
/* Chunk i of a bucket, alone, launch included. */
uint64_t ex_program_sum_ns(const struct ex_program *p, uint32_t bucket, uint32_t chunk);

/* ---- who begins what: rank 0 decides for all: train_arbiter.c ---- */

enum ex_word_kind {
    EX_WORD_READY = 1, /* chunks index .. + count will be ready in `a` ns; near since `b` (INT64_MAX: not) */
    EX_WORD_GRADIENTS, /* of bucket `index`, likewise */
    EX_WORD_DONE,      /* chunk `index` */
    EX_WORD_SUMMED,    /* the sum at hand */
    EX_WORD_GO,        /* to all: begin chunk `index` */
    EX_WORD_SUM        /* to all: begin chunk `count` of bucket `index` */
};
struct ex_arbiter;
enum mp_status ex_arbiter_new(struct ex_arbiter **out, const struct ex_program *p, uint32_t n_ranks,
                              struct mp_error *err) MP_MUST_CHECK;
void ex_arbiter_free(struct ex_arbiter *a);
void ex_arbiter_hear(struct ex_arbiter *a, const struct ex_word *w, uint64_t now_ns);
/* What may begin now, one thing at a time; false: nothing, before *next_ns or another word. */
bool ex_arbiter_next(struct ex_arbiter *a, uint64_t now_ns, struct ex_word *go, uint64_t *next_ns);
/* A rank that the next chunk, the one on its way or the sum at hand waits for; MP_NONE = none. */
uint32_t ex_arbiter_missing(const struct ex_arbiter *a);

/* ---- gradients: gradients.c ---- */

struct ex_vector {          /* that some ranks hold and sum */
    uint32_t layer, expert; /* expert: MP_NONE = of what all ranks hold */
    uint64_t words;
    uint32_t n_members;
    const uint32_t *members;
};
struct ex_gradients {
    uint32_t first_rank, n_local, n_buckets;
    size_t n_vectors, *first; /* [n_buckets + 1] into vectors */
    struct ex_vector *vectors;
    uint64_t *at;  /* [n_vectors][n_local] in the rank's block; MP_NO_PLACE: it is no member */
    uint64_t *end; /* [n_local] behind the last */
    uint64_t *begin;
    struct mp_arena *arena;
};
#define MP_NO_PLACE UINT64_MAX
/* Behind begin[n_local] bytes of each local rank's block. */
enum mp_status ex_gradients_new(struct ex_gradients **out, const struct ex_program *p, const struct mp_plan *plan,
                                uint32_t first_rank, uint32_t n_local, const uint64_t *begin,
                                struct mp_error *err) MP_MUST_CHECK;
void ex_gradients_free(struct ex_gradients *g);
/* A rank's own gradients: words derived from rank, layer, expert, place, step, iteration and seed. */
void ex_gradients_fill(const struct ex_gradients *g, const struct ex_payload *p, uint32_t local, uint8_t *block);
/* Every word is the sum of all members' own, modulo 2^64. *bytes: how many were compared. */
enum mp_status ex_gradients_check(const struct ex_gradients *g, const struct ex_payload *p, uint32_t local,
                                  const uint8_t *block, uint64_t *bytes, struct mp_error *err) MP_MUST_CHECK;
/* Chunk `chunk` of a bucket for a local rank: that part of every vector, so that all who hold any of them are at work.
 * Freed with ex_gradients_sum_free. */
enum mp_status ex_gradients_sum(struct ex_sum **out, const struct ex_gradients *g, const struct ex_program *p,
                                uint32_t bucket, uint32_t chunk, uint32_t local, struct mp_error *err) MP_MUST_CHECK;
void ex_gradients_sum_free(struct ex_sum *s);

/* ---- all of it: train.c ---- */

struct ex_training { /* borrowed */
    const struct mp_exec *in;
    struct ex_work *work;
    const struct mp_cost_setup *setup;
    struct mp_net *net;
    struct mp_exec_result *r;  /* training is made, and added to */
    uint64_t n_gradient_bytes; /* compared, by this process */
    uint32_t n_plays;
};
/* One step under every policy of in->policies, warm-up and iterations. */
enum mp_status ex_train_step(struct ex_training *t, uint32_t step, struct mp_error *err) MP_MUST_CHECK;
/* Before the first, after the last: r->training. */
enum mp_status ex_train_begin(struct ex_training *t, struct mp_error *err) MP_MUST_CHECK;
void ex_train_end(struct ex_training *t);

#endif
