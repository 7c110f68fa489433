/* Private to planner/: how many replicas each expert gets and where they go, so that the fullest GPU is least full. */
#ifndef EXACT_LOAD_H
#define EXACT_LOAD_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>

struct mp_exact_load {
    uint32_t n_experts, n_gpus; /* 1 .. MP_EXACT_LOAD_EXPERTS, 1 .. MP_EXACT_LOAD_GPUS */
    const uint64_t *load;       /* [n_experts] */
    const uint32_t *slots;      /* [n_gpus] */
    uint32_t n_copies_max;      /* at most so many copies in all (>= n_experts) */
    uint64_t node_limit;        /* 0 = none */
};
#define MP_EXACT_LOAD_EXPERTS 64u
#define MP_EXACT_LOAD_GPUS 64u
#define MP_EXACT_LOAD_REPLICAS 8u         /* of one expert */
#define MP_EXACT_LOAD_SCALE UINT64_C(840) /* divisible by 1 .. 8: loads over replicas are whole numbers of 1/840 rows  \
                                           */

struct mp_exact_load_answer {
    enum mp_outcome outcome; /* FOUND: proven; STOPPED: the best so far; NOT_FOUND: does not fit */
    uint64_t value, bound;   /* load of the fullest GPU in 1/840 rows, and what no plan goes below */
    uint64_t nodes;
    uint32_t n_replicas[MP_EXACT_LOAD_EXPERTS];
    uint32_t gpu[MP_EXACT_LOAD_EXPERTS][MP_EXACT_LOAD_REPLICAS]; /* rising */
};
/* Replicas of an expert are on distinct GPUs and share its load evenly; an expert has at most 8 of them, slots may stay
 * empty. MP_ELIMIT: more experts, GPUs or load (2^50) than it takes. */
enum mp_status mp_exact_load_solve(struct mp_exact_load_answer *out, const struct mp_exact_load *in,
                                   struct mp_error *err) MP_MUST_CHECK;

#endif
