/* Private to planner/: GRACE's groups, for its rule of replication, which begins with them. */
#ifndef PLACE_GRACE_H
#define PLACE_GRACE_H

#include "planner.h"

/* gpu[n_layers][n_experts]: the GPU where `--place grace` puts each expert's first copy, in slots like those of `shape`
 * (an empty plan will do), with the options of place grace among in->settings. Outcome as the strategy's. */
enum mp_status mp_grace_groups(uint16_t *gpu, const struct mp_problem *in, const struct mp_plan *shape,
                               struct mp_arena *arena, enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

#endif
