/* plan and compare of two models on one cluster. docs/COLOCATION.md. */
#ifndef TOOL_COLOCATE_H
#define TOOL_COLOCATE_H

#include "score.h"

/* Do the arguments and options fit together, with and without --colocate? */
enum mp_status colocate_check(const struct opts *o, const struct args *args, struct mp_error *err) MP_MUST_CHECK;
enum mp_status colocate_plan(const struct opts *o, const struct args *args, int *exit_code,
                             struct mp_error *err) MP_MUST_CHECK;
enum mp_status colocate_compare(const struct opts *o, const struct args *args, int *exit_code,
                                struct mp_error *err) MP_MUST_CHECK;

#endif
