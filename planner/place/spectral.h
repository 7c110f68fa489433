/* Private to planner/: spectral clustering of items by affinity. */
#ifndef SPECTRAL_H
#define SPECTRAL_H

#include "affinity.h"

/* Groups x->n items into x->n_groups (at least 1) by normalised spectral clustering, sizes as they come (x->least and
 * x->most are not looked at, a group may be empty). `restarts` of k-means from seeds of their own, the tightest wins.
 * The same input gives the same groups on every machine. */
enum mp_status mp_spectral(struct mp_groups *x, uint32_t restarts, uint64_t seed, struct mp_arena *arena,
                           struct mp_error *err) MP_MUST_CHECK;

#endif
