/* Private to planner/replicate: what strategies that replicate an existing placement begin with. */
#ifndef REPLICATE_START_H
#define REPLICATE_START_H

#include "joint.h"

/* Steps to weigh replicas on: drawn like those that place search looks at, at most `n`, fewer where they are long;
 * *drawn NULL: the problem's own.
 * *out is the problem with them. steps[*n_steps] in `arena`, evenly spaced. */
enum mp_status mp_replicate_steps(struct mp_problem *out, struct mp_workload **drawn, uint32_t **steps,
                                  uint32_t *n_steps, const struct mp_problem *in, uint32_t n, struct mp_arena *arena,
                                  struct mp_error *err) MP_MUST_CHECK;
/* One copy of each expert as the place strategy `name` puts it, in a plan of the draft's shape (mp_plan_free). Outcome
 * as that strategy's. */
enum mp_status mp_replicate_start(struct mp_plan **out, const struct mp_problem *in, const struct mp_budget *budget,
                                  const struct mp_draft *draft, const char *name, enum mp_outcome *outcome,
                                  struct mp_error *err) MP_MUST_CHECK;
/* The draft's copies and wishes of one layer. */
void mp_replicate_write(struct mp_draft *draft, uint32_t layer, const struct mp_replica_set *set);

#endif
