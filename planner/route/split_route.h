/* Private to planner/: the route strategies split and split-active. */
#ifndef SPLIT_ROUTE_H
#define SPLIT_ROUTE_H

#include "planner.h"

/* with_choice: also the fixed-charge form (split-active). */
extern const struct mp_option mp_split_options[];
enum mp_status mp_split_route(const struct mp_problem *in, bool with_choice, struct mp_arena *scratch,
                              struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

#endif
