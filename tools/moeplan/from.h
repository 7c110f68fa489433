/* plan --from OLD: the new plan beside the placement in use. */
#ifndef TOOL_FROM_H
#define TOOL_FROM_H

#include "score.h"

struct from {
    bool is_used;
    const char *old_name;
    uint32_t n_layers, n_changed;    /* layers that are not as in OLD */
    uint64_t n_moves, n_all, budget; /* experts that move; for the whole new plan; MP budget in experts */
    bool has_budget;
    uint64_t expert_bytes, old_step_ns, step_ns,
        all_step_ns; /* on the planning steps: OLD, this plan, the whole new one */
};
/* Reads OLD, and gives the options OLD's slots per GPU where they say none. */
enum mp_status from_load(struct score *old, struct opts *own, struct setup *s, struct mp_error *err) MP_MUST_CHECK;
/* Puts the plan in place of score->plan whose layers are those of OLD or of score->plan under the labels that move
 * least: those that gain most on the planning steps within the budget. */
enum mp_status from_plan(struct from *out, struct score *score, const struct score *old, const struct setup *s,
                         struct mp_error *err) MP_MUST_CHECK;
void from_write(const struct from *f, struct mp_out *o);
json_t *from_json(const struct from *f); /* null without --from */

#endif
