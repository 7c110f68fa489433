/* Private to planner/: what MoETuner's two programs think of a placement. */
#ifndef PLACE_MOETUNER_H
#define PLACE_MOETUNER_H

#include "planner.h"

#define MP_MOETUNER_EXPERTS 64u
#define MP_MOETUNER_GPUS 8u

/* Both are sums over layers: the rows of the fullest GPU; and the longest transfer between two GPUs, ns, when tokens go
 * from the experts of a layer straight to those of the next. Placements of one copy per expert, token traces. */
struct mp_moetuner_worth {
    uint64_t rows, transfer_ns;
};
enum mp_status mp_moetuner_worth(struct mp_moetuner_worth *out, const struct mp_problem *in, const struct mp_plan *plan,
                                 struct mp_error *err) MP_MUST_CHECK;

#endif
