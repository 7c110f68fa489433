/* Private to planner/colocate: what is still to come after each set of placed groups, on few GPUs. */
#ifndef COLOC_STATES_H
#define COLOC_STATES_H

#include "coloc.h"

#define MP_COLOC_STATES_GPUS 16u /* for the peaks of one model */
#define MP_COLOC_PAIRS_GPUS 10u  /* for those of both */

/* GPUs are filled in a fixed order. A state is the groups of both models that are on the first d of them; for each
 * state and peak, the least that the peak of the rest can be, every way to place it counted. */
struct mp_coloc_states;
/* g->n <= MP_COLOC_STATES_GPUS. */
enum mp_status mp_coloc_states_new(struct mp_coloc_states **out, const struct mp_coloc_groups *g, const uint32_t *order,
                                   struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* Raises every peak to what the rest needs by itself; above MP_COLOC_PAIRS_GPUS those of one model only. mask[m]:
 * groups of model m that are placed, as many of each. */
void mp_coloc_states_raise(const struct mp_coloc_states *s, const uint32_t mask[2], struct mp_coloc_peaks *k);

#endif
