/* Private to planner/: the placement of one layer with the least cost summed over its steps, as simulated. */
#ifndef EXACT_STEPS_H
#define EXACT_STEPS_H

#include "planner.h"

#define MP_EXACT_COPIES 24u /* at most so many are searched */
#define MP_EXACT_GPUS 16u
#define MP_EXACT_PAIRS (UINT64_C(1) << 22) /* (token, expert) pairs of a layer, all steps */

struct mp_exact_steps {
    const struct mp_problem *problem;
    const struct mp_plan *shape; /* slots of each GPU; what is in them does not matter */
    uint32_t layer, n_copies;
    const uint16_t *copies; /* [n_copies] experts, each at least once */
    uint64_t node_limit;    /* 0 = none */
};
struct mp_exact_steps_answer {
    enum mp_outcome outcome; /* FOUND: proven; STOPPED: the best so far; NOT_FOUND: the copies do not fit */
    /* Sums over steps: ns of max(dispatch, shared) + compute + combine with single shots (objective STEP), or the rows
     * of the fullest GPU (objective PEAK); and what no placement of these copies goes below. */
    uint64_t value, bound, nodes;
    bool has_solution;             /* of STOPPED: gpu and value are one */
    uint16_t gpu[MP_EXACT_COPIES]; /* of each copy; replicas of an expert in rising order */
};
/* Why the search does not apply (too large, a network or objective that it does not know), or NULL. */
const char *mp_exact_steps_declines(const struct mp_problem *in, uint32_t n_copies);
enum mp_status mp_exact_steps_solve(struct mp_exact_steps_answer *out, const struct mp_exact_steps *in,
                                    struct mp_error *err) MP_MUST_CHECK;

/* What one layer's steps ask of one copy; shared with the model for other solvers. */
struct mp_copy_rows {
    uint32_t n_steps, n_copies, n_ranks;
    uint64_t *rows;        /* [n_steps][n_copies] (token, expert) pairs that it serves under the rule EVEN */
    uint64_t *from;        /* [n_steps][n_copies][n_ranks] of them by source rank */
    uint64_t *rank_tokens; /* [n_steps][n_ranks] tokens that start there, padding apart */
    uint64_t *shared_ns;   /* [n_steps] slowest GPU's shared experts */
    /* tokens, for dispatchers that send one copy to several experts */
    uint64_t n_tokens;
    uint32_t *token_step;
    uint16_t *token_source;
    uint64_t *first_pair; /* [n_copies + 1] */
    uint64_t *pair_token; /* tokens that a copy serves */
};
enum mp_status mp_copy_rows_count(struct mp_copy_rows *out, const struct mp_problem *in, uint32_t layer,
                                  const uint16_t *copies, uint32_t n_copies, struct mp_arena *arena,
                                  struct mp_error *err) MP_MUST_CHECK;

#endif
