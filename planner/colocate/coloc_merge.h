/* Private to planner/colocate: what a timeline needs at least when only some GPUs have their groups. */
#ifndef COLOC_MERGE_H
#define COLOC_MERGE_H

#include "coloc.h"

#define MP_COLOC_MERGE_LAYERS 16u /* in more layers there are too many orders */

struct mp_coloc_merge;
enum mp_status mp_coloc_merge_new(struct mp_coloc_merge **out, const struct mp_coloc_groups *g, struct mp_arena *arena,
                                  struct mp_error *err) MP_MUST_CHECK;
/* The first n GPUs of `gpus` have the groups of `on`; peaks: what no way to place the rest goes below. Mean ns per
 * layer that no timeline of such an assignment goes below, or UINT64_MAX: none is below `limit`. At most
 * MP_COLOC_MERGE_LAYERS layers. */
uint64_t mp_coloc_merge_bound(struct mp_coloc_merge *s, uint32_t n, const uint32_t *gpus, uint32_t *const on[2],
                              const struct mp_coloc_peaks *peaks, uint64_t limit);

#endif
