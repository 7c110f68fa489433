/* Private to planner/: one layer's placement while it is being built. */
#ifndef GRID_H
#define GRID_H

#include "planner.h"

struct mp_grid {
    uint32_t n_gpus, n_experts, n_words;
    bool is_distinct;           /* at most one replica of an expert on a GPU */
    const uint32_t *first_slot; /* [n_gpus + 1] */
    uint16_t *slots;            /* [n_slots] of the layer at hand */
    uint32_t *n_used;           /* [n_gpus] */
    uint64_t *holds;            /* [n_gpus][n_words] bit set of experts */
};
/* Scratch for all layers of a plan, in `arena`. */
enum mp_status mp_grid_new(struct mp_grid **out, const struct mp_problem *in, const struct mp_draft *draft,
                           struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* Begins a layer: every slot empty. */
void mp_grid_begin(struct mp_grid *g, struct mp_plan *plan, uint32_t layer);
bool mp_grid_has(const struct mp_grid *g, uint32_t gpu, uint32_t expert);
/* Is there a free slot on the GPU, and may the expert go there? */
bool mp_grid_can(const struct mp_grid *g, uint32_t gpu, uint32_t expert);
void mp_grid_put(struct mp_grid *g, uint32_t gpu, uint32_t expert);
/* Puts the expert on `gpu` or the next GPU after it (cyclically) that can take it. Where every GPU with room has it
 * already, another expert is moved out of the way. False only when the expert has more replicas than there are
 * GPUs, or no slot is free. */
bool mp_grid_put_from(struct mp_grid *g, uint32_t gpu, uint32_t expert);
/* How many of n copies each GPU gets when all get equally many, as far as its slots go; the remainder to the first that
 * have a slot left. quota[n_gpus]. */
void mp_grid_quota(const struct mp_grid *g, uint32_t n, uint32_t *quota);
/* Why mp_grid_put_from may fail: strategy and layer. */
#define MP_GRID_STUCK                                                                                                  \
    "%s: layer %u: no GPU with a free slot is without the expert that is left (write fewer --redundant)"
/* Ascending experts inside each GPU, empty slots last: same sets, same bytes. */
void mp_grid_sort(struct mp_grid *g);

#endif
