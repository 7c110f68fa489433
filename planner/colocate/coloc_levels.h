/* Private to planner/colocate: what ports need at least where what a group costs depends on where the others are. */
#ifndef COLOC_LEVELS_H
#define COLOC_LEVELS_H

#include "coloc.h"

struct mp_coloc_levels;
/* From here on g's tables of dispatch and combine are lower bounds, and for branch and bound only. */
enum mp_status mp_coloc_levels_new(struct mp_coloc_levels **out, struct mp_coloc_groups *g, struct mp_arena *arena,
                                   struct mp_error *err) MP_MUST_CHECK;
/* The first n GPUs of `gpus` have the groups of `on`: raises the peaks of transfers to what these bring on every port.
 */
void mp_coloc_levels_raise(const struct mp_coloc_levels *s, uint32_t n, const uint32_t *gpus, uint32_t *const on[2],
                           struct mp_coloc_peaks *k);

#endif
