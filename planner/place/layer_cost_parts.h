/* Private to layer_cost*.c: the tables of one layer's cost. */
#ifndef LAYER_COST_PARTS_H
#define LAYER_COST_PARTS_H

#include "layer_cost.h"
#include <moeplan/base.h>

#define NS_PER_S UINT64_C(1000000000)

struct cost_class { /* counters of equal rates, consecutive in a row */
    uint32_t first, n;
    uint64_t dispatch_rate, combine_rate;
    bool is_small; /* count * bytes * 10^9 fits 64 bits */
};
struct gpu_cost {
    uint64_t a, b, c, beta, speed;
    uint32_t tile_class;
};

struct mp_layer_cost {
    struct mp_arena *arena;
    struct mp_problem problem;
    uint32_t layer, n_gpus, n_items, n_steps, n_ranks, n_levels, n_tiles, top_k;
    enum mp_copy_count copies;
    enum mp_objective objective;
    bool is_coupled, has_second, is_overlapped, is_counts, by_token, is_alone, is_exact;
    uint64_t dispatch_bytes, combine_bytes, launch_ns;
    struct gpu_cost *gpus; /* [n_gpus] */
    uint64_t *tiles;       /* [n_tiles] */

    /* topology: positions in a row. Of [gpu][level]; of groups [level][group] */
    uint32_t *out_at, *in_at, *out2_at, *in2_at, *group, *group_first, *group_end, *up_out_at, *up_in_at;
    uint32_t *cell_at; /* [n_gpus][n_gpus] of pairs with a cap; NULL = none */
    uint32_t *cell2_at;
    bool *has_uplink;
    uint32_t *node_first, *node_size, *index_in_node; /* nodes hold consecutive GPUs */
    struct cost_class *classes;                       /* of the first phase, then of the second */
    uint32_t n_first, n_classes;
    uint32_t active_at, rows_at, inter_at, source_at, width; /* of a row; padded rows begin it */

    /* what the steps ask for */
    uint32_t *rows;   /* [n_steps][n_items] */
    uint32_t *padded; /* [n_tiles][n_steps][n_items] */
    uint32_t *count;  /* [n_steps][n_items][n_gpus] by source; NULL where copies are counted per token */
    uint32_t *token_first, *token_of;   /* tokens of [step][item]: [n_steps * n_items + 1], ascending */
    uint32_t *home_first, *home_of;     /* coupled sources: the same by the item a token starts at */
    uint16_t *ids, *source, *home;      /* of a token: items [top_k] (n_items = unused), rank, item it starts at */
    uint32_t *step_first;               /* [n_steps + 1] tokens */
    uint32_t *weight;                   /* [n_steps] tokens that one kept token stands for */
    uint32_t *source_rows;              /* [n_steps][n_gpus] coupled: padding only */
    uint32_t *tokens_of_rank;           /* [n_steps][n_gpus] */
    uint64_t *attention_ns, *shared_ns; /* [n_steps] of the slowest GPU; coupled: worked out step by step */
    uint32_t attention_times;
    uint64_t *total_rows; /* [n_items] */

    /* the placement, and what was tried last */
    uint16_t *gpu, *tried_gpu;
    uint32_t *base, *work;            /* [n_steps][width] */
    uint64_t *base_compute, *compute; /* [n_steps][n_gpus] */
    uint64_t *base_ns, *ns;           /* [n_steps] */
    uint64_t *base_value, *value;     /* [n_steps] the objective's term */
    uint64_t *sorted;                 /* [n_steps] */
    uint32_t *order;                  /* [n_steps] in which steps are looked at */
    uint64_t *tag;                    /* [n_items + 1] */
    uint64_t now, tried, n_work;
    struct mp_item_move moves[2 * MP_LAYER_MOVES_MAX];
    uint32_t n_moves;
};

/* Innermost level of which both are in one group. */
static inline uint32_t level_of(const struct mp_layer_cost *c, uint32_t i, uint32_t j) {
    uint32_t l = 0;
    while (c->group[i * c->n_levels + l] != c->group[j * c->n_levels + l])
        l++;
    return l;
}
static inline uint32_t node_of(const struct mp_layer_cost *c, uint32_t gpu) { return c->group[gpu * c->n_levels]; }

/* Attention, or shared experts, of the GPU they take longest on; rows[n_gpus]. */
uint64_t layer_slowest_ns(const struct mp_layer_cost *c, const uint32_t *rows, bool is_shared);

#endif
