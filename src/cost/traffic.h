/* Private to src/cost: what counting tokens keeps between calls. */
#ifndef COST_TRAFFIC_H
#define COST_TRAFFIC_H

#include <moeplan/cost.h>

#define NARROW 64u /* GPUs, so many that those of a token fit one word */
#define EIGHT 8u
#define PLANES 32u

/* Of each of 64 things how many words have its bit, in binary: bit i of all counts in plane[i]. Words wait until there
 * are eight of them. */
struct tally {
    uint64_t plane[PLANES], wait[EIGHT];
    uint32_t n_planes;
};
struct place {          /* of a slot */
    uint64_t gpu, node; /* a bit */
};

struct slot_traffic {
    uint64_t remote; /* (token, expert) pairs from other GPUs */
    uint32_t slot;
};

/* The public part plus scratch that is grown when a larger plan comes. */
struct traffic_scratch {
    struct mp_traffic pub; /* first member: a pointer to it is a pointer to the whole */
    uint32_t *node, *index_in_node, *node_first, *node_gpus; /* [n_gpus (+ 1)] */
    uint64_t *gpu_stamp, *node_stamp;                        /* the last token (1, 2, ...) that touched it */
    uint64_t stamp;
    uint32_t n_slots_allocated, n_experts_allocated, n_cells_allocated;
    uint32_t *slot_gpu;        /* [n_slots] */
    uint32_t *only_slot;       /* [n_experts] the slot of an expert with one replica, else MP_NONE */
    uint32_t *certain;         /* [n_experts] the same for tokens of one source */
    bool has_choice;           /* any such */
    struct place *place;       /* [n_slots] up to NARROW GPUs */
    struct tally gpus, nodes;  /* of the tokens of one source */
    uint32_t *turns;           /* [n_experts] MP_CHOICE_TURNS: entries of this rank's block so far */
    uint32_t rank, row, block; /* of the token that chooses: its rank, its row there, its block of turns */
    uint32_t *tokens;          /* [n_ranks * n_experts], count traces only */
    uint64_t *share;           /* [n_slots], count traces only */
    /* Where tokens move (traffic_flow.c): */
    uint32_t *order, *first_at, *own_index; /* [n_rows] by the GPU they start on; [n_gpus + 1]; [n_gpus] 0, 1, ... */
    uint32_t *row_slot, *row_sequence;      /* [n_rows][top_k] slot of each pair; [n_rows] */
    uint64_t n_row_slots, n_order_rows;     /* allocated */
    /* Where experts travel (traffic_weights.c): */
    uint64_t *pairs, *trial;         /* [n_gpus][n_slots] (token, expert) by where the token is; 3 [n_gpus][n_gpus] */
    bool *is_copied;                 /* [n_slots] */
    struct slot_traffic *by_traffic; /* [n_slots] */
    uint64_t n_pair_cells;           /* allocated */
};

/* Turns to the next token of a rank, then finds where experts ids[k] of it are served: slots[k]. */
enum mp_status traffic_choose(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer, uint32_t src,
                              uint64_t hash, const uint16_t *ids, uint32_t k, uint32_t *slots,
                              struct mp_error *err) MP_MUST_CHECK;
/* Counts of a step whose tokens move: copies of dispatch and of combine, each in their own matrices. */
enum mp_status traffic_flow_count(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                  uint32_t layer, struct mp_error *err) MP_MUST_CHECK;
/* Counts of a step whose experts travel: copies of tokens that still do, rows where they are computed, and
 * pub.weights. */
enum mp_status traffic_weights_count(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                     uint32_t layer, struct mp_error *err) MP_MUST_CHECK;
uint32_t traffic_gateway(const struct traffic_scratch *s, uint32_t src, uint32_t node);

#endif
