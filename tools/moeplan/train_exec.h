/* Which policies moeplan-exec replays training steps under. */
#ifndef TOOL_TRAIN_EXEC_H
#define TOOL_TRAIN_EXEC_H

#include "score.h"
#include <moeplan/executor.h>

enum { TRAIN_POLICIES_MAX = 16 };
struct train_policies {
    uint32_t n; /* 0 = forward passes */
    struct mp_exec_policy list[TRAIN_POLICIES_MAX];
    char names[TRAIN_POLICIES_MAX][32];
};
/* Those of --train; without it the plan's own, where it has one and the phase is train. */
enum mp_status train_policies(struct train_policies *out, const struct setup *s, const struct mp_plan *plan,
                              struct mp_error *err) MP_MUST_CHECK;

#endif
