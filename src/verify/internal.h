/* The verifier's parts. Nothing here may include cost.h, sim.h or strategy.h: what those compute is derived anew. */
#ifndef VERIFY_INTERNAL_H
#define VERIFY_INTERNAL_H

#include <moeplan/verify.h>

#define MAX_VIOLATIONS 1000u
#define ULL(x) ((unsigned long long)(x))

struct verifier {
    struct mp_verify_report *report;
    const struct mp_plan *plan;
    const struct mp_trace *trace; /* any of the three may be NULL */
    const struct mp_topology *topology;
    const struct mp_model *model;
    struct mp_arena *arena; /* the report's */
    bool is_full;           /* out of memory while recording a violation */
};

/* Counts one compared fact; when it does not hold, records a violation. Returns `holds`. */
bool vf_expect(struct verifier *v, bool holds, enum mp_violation_kind kind, const char *fmt, ...) MP_PRINTF(4, 5);

/* Each returns MP_OK whatever it finds; other statuses are out of memory and the like. */
enum mp_status vf_check_structure(struct verifier *v, bool *is_indexable, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_orders(struct verifier *v, struct mp_error *err) MP_MUST_CHECK;

#endif
