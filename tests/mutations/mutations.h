/* Ways of breaking a plan, each with the violation a verifier must name. */
#ifndef MUTATIONS_H
#define MUTATIONS_H

#include <moeplan/verify.h>

struct mutation {
    const char *name;
    uint32_t kinds;  /* set of enum mp_violation_kind, as bits; one of them must be among the violations */
    bool needs_data; /* can only be seen against trace, topology and model */
    bool (*apply)(struct mp_plan *p, struct mp_rng *rng); /* false = nothing there to break */
    bool may_stay_true;                                   /* the broken plan may by chance be as true as the old one */
};
extern const struct mutation mutations[];
extern const uint32_t n_mutations;

#endif
