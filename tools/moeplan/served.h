/* --for STACK: scoring what a stack's servers do with a placement alone. They choose replicas in their own way, post
 * all transfers at once, and know nothing of a plan's routing weights and orders. */
#ifndef TOOL_SERVED_H
#define TOOL_SERVED_H

#include "score.h"

/* The stack of --for with --replica-choice, checked: does it exist, and can it be scored? *out NULL without --for. */
enum mp_status served_check(const struct mp_stack_choice **out, const struct opts *o,
                            struct mp_error *err) MP_MUST_CHECK;
/* mp_simulate with `sim`, and with --for as the stack's servers would run the placement. */
enum mp_status served_simulate(struct mp_sim_result **out, const struct setup *s, const struct mp_plan *plan,
                               const struct mp_workload *w, const struct mp_sim_options *sim,
                               struct mp_error *err) MP_MUST_CHECK;
/* Replays eplb-online from this placement, planned with the request's redundancy and settings; the same with --for,
 * where a table of replicas (SGLang static) is scored by the rule that stands for it, since it would be drawn anew with
 * every placement. */
enum mp_status served_online(struct mp_online_result **out, const struct setup *s, const char *policy,
                             const struct mp_plan *start, const struct mp_workload *w, const struct mp_sim_options *sim,
                             struct mp_error *err) MP_MUST_CHECK;
/* How the stack of --for chooses replicas in this plan; NULL without --for. */
const struct mp_stack_choice *served_choice(const struct opts *o, const struct mp_plan *plan);
/* Is the plan's rule one that these servers do not follow? Never without --for. */
bool served_loses_route(const struct opts *o, const struct mp_plan *plan);
/* "sglang static: one replica ...; rule nearest stands for it", or "" without --for; buf of at least 400. */
const char *served_describe(const struct opts *o, const struct mp_plan *plan, char *buf, size_t size);
/* {stack, name, exact, summary, stands}, or null without --for. */
json_t *served_json(const struct opts *o, const struct mp_plan *plan);

#endif
