/* Private to planner/: the route strategies split and split-active. */
#ifndef SPLIT_ROUTE_H
#define SPLIT_ROUTE_H

#include "planner.h"

struct mp_split_options {
    bool with_choice; /* also the fixed-charge form */
    bool by_node;     /* classes of sources are nodes even where the table has room for GPUs */
    uint32_t sum;     /* of an expert's weights in a class, at most */
    uint32_t n_steps; /* looked at, at most */
    uint64_t pairs;   /* and (token, expert) pairs per look */
};
#define MP_SPLIT_PAIRS UINT64_C(12000000)
enum mp_status mp_split_route(const struct mp_problem *in, const struct mp_split_options *options,
                              struct mp_arena *scratch, struct mp_draft *draft, enum mp_outcome *outcome,
                              struct mp_error *err) MP_MUST_CHECK;

#endif
