/* plan --robust: one plan for several recordings, or for groups of one recording's categories. */
#ifndef TOOL_ROBUST_H
#define TOOL_ROBUST_H

#include "kinds.h"
#include <moeplan/robust.h>

/* What the plan is for, and how it and the plan of TRACE alone do there. */
struct robust {
    bool is_used;
    struct kinds kinds;
    struct mp_scenario scenarios[MP_SCENARIOS_MAX];
    struct mp_robust how;
    uint32_t n_steps[MP_SCENARIOS_MAX + 1]; /* 0 = no step could be filled; the last: what the other figures are of */
    uint64_t step_ns[MP_SCENARIOS_MAX + 1], plain_ns[MP_SCENARIOS_MAX + 1];
};
/* Do the options of --robust fit each other and the others? */
enum mp_status robust_check(const struct opts *o, struct mp_error *err) MP_MUST_CHECK;
/* In place of score_plan; trace: what to call the recording. score->plan NULL: score->note says why. */
enum mp_status robust_plan(struct robust *r, struct score *score, const struct setup *s, const char *trace,
                           struct mp_error *err) MP_MUST_CHECK;
void robust_write(const struct robust *r, const struct setup *s, struct mp_out *o);
json_t *robust_json(const struct robust *r, const struct setup *s); /* null when it is not used */
void robust_free(struct robust *r);

#endif
