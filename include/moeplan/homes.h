/* Planning homes of requests: which rank a request runs on, decided once, when it arrives, from the experts its prefix
 * uses (docs/HOMES.md). The rule itself is in workload.h: steps are built by it. */
#ifndef MOEPLAN_HOMES_H
#define MOEPLAN_HOMES_H

#include <moeplan/strategy.h>

MP_API_BEGIN

/* How homes are planned: none, affinity, codesign. Options as strategies have them; it is no stage of a plan. */
const struct mp_strategy *mp_homes_at(uint32_t i); /* NULL past the last */
const struct mp_strategy *mp_homes_find(const char *name);
/* mp_plan_make where request->homes is one of these and not "none"; mp_plan_make itself calls it. */
enum mp_status mp_homes_plan(struct mp_plan **out, const struct mp_plan_request *request, enum mp_outcome *outcome,
                             double *seconds, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
