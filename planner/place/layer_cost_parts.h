/* Private to layer_cost*.c: the tables of one layer's cost. */
#ifndef LAYER_COST_PARTS_H
#define LAYER_COST_PARTS_H

#include "layer_cost.h"
#include <moeplan/base.h>

#define NS_PER_S UINT64_C(1000000000)

/* Steps are worked on eight at a time: a *block*. Every counter of a row is eight numbers side by side, one of each
 * step; what is left of the last block is steps without tokens. */
#define LANES 8u
typedef uint32_t lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint64_t words __attribute__((vector_size(32), aligned(8), may_alias));
#define WORDS 4u
typedef int32_t signed_lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Division by a number that stays, of anything below 2^63: 2 * ceil(2^(63 + shift) / by) / 2^(64 + shift) is close
 * enough to 1 / by (T. Granlund, P. Montgomery, PLDI 1994). */
struct divider {
    uint64_t by, magic;
    uint32_t shift;
};
static inline uint64_t divide(const struct divider *d, uint64_t x) {
    return (uint64_t)((unsigned __int128)(2 * x) * d->magic >> 64) >> d->shift;
}

struct cost_rate { /* ns of a count: ceil(count * unit / by), the fraction in lowest terms */
    uint64_t bytes_per_s, unit;
    struct divider by;
};
struct cost_class { /* counters of equal rates, consecutive in a row */
    uint32_t first, n;
    struct cost_rate dispatch, combine;
    bool is_small; /* count * unit fits 63 bits */
};
struct gpu_cost {
    uint64_t a, b, c, beta, speed;
    struct divider by_speed;
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

    uint8_t *level; /* [n_gpus][n_gpus] */
    uint32_t *sum_at,
        n_counts; /* [n_levels] where the sums over a level's groups begin in a row of counts; its length */

    /* what the steps ask for; steps are in the order in which they are looked at: the i-th is the order[i]-th given */
    uint32_t n_blocks;
    uint32_t *rows, *padded, *count;                /* while they are read: [n_steps][n_items], [n_tiles][n_steps]
                                                       [n_items], [n_steps][n_items][n_gpus] by source */
    uint32_t *lane_rows, *lane_padded, *lane_count; /* [n_blocks][n_items][LANES], [n_tiles] of the same, [n_blocks]
                                                       [n_items][n_counts][LANES]: by source, then sums over groups;
                                                       NULL where copies are counted per token */
    uint32_t *no_count;                             /* [n_counts][LANES] zero */
    uint32_t *lane_source; /* rule nearest: [n_blocks][n_experts][n_gpus][LANES] rows of each source */
    uint32_t n_experts, n_fills;
    struct fill { /* items to be filled before the next change */
        uint32_t expert, base, first, n;
        uint8_t *replica; /* [n_gpus] */
        uint64_t *mask;   /* [MP_REPLICAS_MAX][n_words] tokens of its sources */
    } fills[MP_LAYER_FILLS_MAX];
    /* Copies per GPU or node, sources that stay: sets of tokens as bits. Those of source r are field_bits bits from
     * field_bits * r on; where that is 64, the words [word_first[r], word_first[r + 1]). */
    uint32_t n_words, field_bits, *word_first; /* n_words: of a set, a multiple of WORDS */
    uint64_t *tokens;                          /* [n_steps][n_items][n_words] that use the item */
    uint64_t *on_gpu, *tried_on_gpu;           /* [n_steps][n_gpus][n_words] that use any item there; [n_steps]
                                                  [MP_LAYER_MOVES_MAX][n_words] of the touched GPUs after the change */
    uint64_t *once, *twice;                    /* [n_steps][n_nodes][n_words] of tokens that use any item there, and of
                                                  those that use several GPUs of the node; copies per node alone */
    uint64_t *set[2];                          /* [n_words] scratch */
    uint64_t *difference;                      /* [n_words] scratch: of words' counts */
    const uint64_t **joined;                   /* [2 * n_items] scratch */
    uint32_t *kept;                            /* [n_steps][n_items] tokens in the set */
    uint32_t *delta;                           /* [n_gpus][LANES] scratch: by source */
    uint32_t *gate;                            /* [n_gpus][n_nodes] through which a source reaches a node */
    uint32_t *items_first, *items;             /* [n_gpus + 2], [n_items] of each GPU in the placement */
    uint8_t *place;                            /* [n_gpus] 1 + which of the touched GPUs it is, or 0 */
    uint32_t n_nodes;

    /* Coupled sources. */
    uint32_t *token_first, *token_of;   /* tokens of [step][item]: [n_steps * n_items + 1], ascending */
    uint32_t *home_first, *home_of;     /* the same by the item a token starts at */
    uint16_t *ids, *home;               /* of a token: items [top_k] (n_items = unused), item it starts at */
    uint32_t *step_first;               /* [n_steps + 1] tokens */
    uint32_t *weight;                   /* [n_steps] tokens that one kept token stands for */
    uint32_t *source_rows;              /* [n_steps][n_gpus] coupled: padding only */
    uint32_t *tokens_of_rank;           /* [n_steps][n_gpus] */
    uint64_t *attention_ns, *shared_ns; /* [n_blocks * LANES] of the slowest GPU; coupled: worked out step by step */
    uint32_t attention_times;
    uint64_t *total_rows; /* [n_items] */

    /* the placement, and what was tried last */
    uint16_t *gpu, *tried_gpu;
    uint32_t *base, *work;            /* [n_blocks][width][LANES] */
    uint64_t *base_compute, *compute; /* [n_blocks][n_gpus][LANES] */
    uint64_t *base_ns, *ns;           /* [n_blocks * LANES] */
    uint64_t *base_value, *value;     /* [n_blocks * LANES] the objective's term */
    uint64_t *sorted;                 /* [n_steps] */
    uint64_t *step_work;              /* [n_blocks * LANES] of the change at hand: operations on tokens */
    uint32_t *order;                  /* [n_steps] */
    uint64_t *given_ns;               /* [n_steps] base_ns as the steps were given */
    uint64_t *tag;                    /* [n_items + 1] coupled sources; bit j: it is moved item j */
    uint64_t now, tried, n_work;
    /* Changes of one or two items that were no better than this placement; an exchange is met from both its ends, and a
     * last round over all GPUs meets what the rounds before it did. */
    struct known {
        uint64_t moves; /* item and GPU of both, the lower item first */
        uint32_t version, work;
    } * known;                    /* [known_mask + 1], or NULL */
    uint32_t known_mask, version; /* version: of the placement, from 1 on */
    struct mp_item_move moves[2 * MP_LAYER_MOVES_MAX];
    uint32_t n_moves, n_touched, touched[MP_LAYER_MOVES_MAX]; /* GPUs */
    bool has_avx2;
};

/* Innermost level of which both are in one group. */
static inline uint32_t level_of(const struct mp_layer_cost *c, uint32_t i, uint32_t j) {
    return c->level[(size_t)i * c->n_gpus + j];
}
static inline uint32_t node_of(const struct mp_layer_cost *c, uint32_t gpu) { return c->group[gpu * c->n_levels]; }

/* Attention, or shared experts, of the GPU they take longest on; rows[g * stride]. */
uint64_t layer_slowest_ns(const struct mp_layer_cost *c, const uint32_t *rows, size_t stride, bool is_shared);

#endif
