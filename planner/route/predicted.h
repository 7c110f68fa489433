/* Private to planner/: GRACE's polling weights (arXiv 2509.25041, equation 4), for the rules weighted and tiered. */
#ifndef PREDICTED_H
#define PREDICTED_H

#include "planner.h"

/* Weights of every filled slot of every layer of draft->plan, in inverse proportion to what its GPU is predicted to
 * compute; those of an expert's most idle GPU are MP_PREDICTED_WEIGHT. as_printed: equation 4 as the paper prints it,
 * which spreads the whole load of a group of experts over the GPUs that hold copies of them, and not only theirs. */
#define MP_PREDICTED_WEIGHT 1000u
enum mp_status mp_predicted_weights(const struct mp_problem *in, bool as_printed, struct mp_arena *scratch,
                                    struct mp_draft *draft, struct mp_error *err) MP_MUST_CHECK;

/* What the route strategies wrr and tar share: their options, and such weights under a rule. */
extern const struct mp_option mp_predicted_options[];
enum mp_status mp_predicted_route(const struct mp_problem *in, enum mp_route_rule rule, struct mp_arena *scratch,
                                  struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

#endif
