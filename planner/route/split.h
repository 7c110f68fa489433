/* Private to planner/: the best split of one layer's replicated experts over their replicas, for given loads. */
#ifndef SPLIT_H
#define SPLIT_H

#include "planner.h"

/* Rows (token, expert pairs) come from source classes: GPUs, or whole nodes. All borrowed. */
struct mp_split_problem {
    uint32_t n_gpus, n_classes, n_experts, n_slots;
    const uint32_t *gpu_node;    /* [n_gpus] */
    const uint32_t *class_gpu;   /* [n_classes] the GPU of each class; NULL: classes are whole nodes */
    const uint32_t *class_node;  /* [n_classes] */
    const uint16_t *slot_expert; /* [n_slots] or MP_NO_EXPERT */
    const uint32_t *slot_gpu;    /* [n_slots] */
    const uint64_t *rows;        /* [n_classes][n_experts] */
    const uint64_t *row_ps;      /* [n_gpus] > 0: what a row takes there */
    const uint64_t *fixed_ps;    /* [n_gpus] what a GPU takes besides, or NULL = 0 */
};

struct mp_split_value {
    uint64_t peak_ps;    /* max over GPUs of fixed + rows * row_ps */
    uint64_t inter_rows; /* rows that leave their node */
    uint64_t intra_rows; /* rows that leave their GPU and not their node; classes that are nodes have none */
};

struct mp_splitter;
/* Prepares; what it holds lives in `arena` and reads the problem's arrays later on. MP_EUSAGE: times could pass 2^62.
 */
enum mp_status mp_split_new(struct mp_splitter **out, const struct mp_split_problem *problem, struct mp_arena *arena,
                            struct mp_error *err) MP_MUST_CHECK;
/* The least peak of any split in whole rows: exact. */
uint64_t mp_split_peak(struct mp_splitter *s);
/* The least peak where only these slots [n_slots] take rows (of every expert at least one does); UINT64_MAX: it is
 * above give_up_ps. Forgets the split found last. */
uint64_t mp_split_peak_open(struct mp_splitter *s, const bool *is_open, uint64_t give_up_ps);
/* Of all splits in whole rows whose peak is at most limit_ps (>= mp_split_peak) one with the fewest rows between nodes,
 * and of those one with the fewest between GPUs: exact. May be called again with other limits. */
struct mp_split_value mp_split_within(struct mp_splitter *s, uint64_t limit_ps);
/* The split found last, rows[n_classes][n_slots]: all experts', also those with one slot. */
void mp_split_rows(const struct mp_splitter *s, uint64_t *rows);
/* The same as whole weights[n_classes][n_slots] for the rule `sourced`: of each expert with several slots and each
 * class they add up to at most `sum`; other cells are 0. What rounding takes from a replica in one class it gives back
 * in another of the same expert as far as it can. */
void mp_split_weights(const struct mp_splitter *s, uint32_t sum, uint32_t *weights);
/* What the measure above says of any rows[n_classes][n_slots]. */
struct mp_split_value mp_split_value_of(const struct mp_split_problem *problem, const uint64_t *rows,
                                        uint64_t *gpu_rows);

/* ---- the fixed-charge form ---- */
/* Where weights have to be read for each activated expert: a GPU takes max(read_base + read * active, fixed + rows *
 * row_ps), the second term as above. All borrowed. */
struct mp_split_charges {
    const uint64_t *active;       /* [n_experts] in how many steps somebody needs the expert */
    const uint64_t *read_base_ps; /* [n_gpus] */
    const uint64_t *read_ps;      /* [n_gpus] > 0 */
};
struct mp_split_choice {
    uint16_t *slot_expert; /* [n_slots] the problem's, MP_NO_EXPERT where a replica gets no rows */
    uint64_t peak_ps, bound_ps;
    uint64_t least_rows_ps, least_reads_ps; /* the two bounds of which bound_ps is the larger */
    bool is_exact;                          /* proven: all choices were looked at */
    uint64_t n_tried;                       /* splits made */
};
/* Which replicas of each expert take rows at all. is_lean: the fewest that reach the peak found, also where they are
 * not in the way. exact_max: all choices are tried where there are at most so many; else `effort` splits. MP_EUSAGE as
 * mp_split_new. */
enum mp_status mp_split_choose(struct mp_split_choice *out, const struct mp_split_problem *problem,
                               const struct mp_split_charges *charges, bool is_lean, uint64_t exact_max,
                               uint64_t effort, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

#endif
