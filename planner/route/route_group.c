/* Routing inside groups.
 *
 * Decides   which replica serves a token: that of its own group, where every run of n GPUs / replicas consecutive GPUs
 *           holds each expert once.
 * Minimises what leaves a group: nothing does.
 * Method    rule nearest where that says the same, else weights by source (enum mp_route_rule).
 * Paper     Lina, USENIX ATC 2023, section 4.2: the groups of its expert packing.
 * Differs   Lina does not say which devices form a group; here they are neighbours.
 * Cost      O(L E G) here and in the router. */
#include "planner.h"

/* The fewest redundant slots with which groups of GPUs can hold each expert once, equally many on a GPU. */
static uint32_t redundant_of(uint32_t n_experts, uint32_t n_gpus) {
    uint32_t a = n_experts, b = n_gpus;
    while (b != 0) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return n_experts / a * n_gpus - n_experts;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct mp_error why = {0};
    uint32_t n = 0;
    (void)in, (void)budget, (void)scratch;
    for (uint32_t s = 0; s < p->n_slots; s++)
        n += p->layers[0].slot_expert[s] == 0;
    if (n == 0 || p->n_gpus % n != 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "group: %u replicas of expert 0 are not one for each of several equal groups of %u GPUs", n,
                          p->n_gpus);
    enum mp_status status = mp_plan_route_groups(p, p->n_gpus / n, &why);
    if (status == MP_EUSAGE)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "group: %s (strategy packed with --redundant %u, for instance)", why.message,
                          redundant_of(p->n_experts, p->n_gpus));
    if (status != MP_OK)
        return mp_fail(err, status, "%s", why.message);
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_route_group = {.name = "group",
                                                    .summary = "inside groups of GPUs that hold each expert once",
                                                    .reference = "Lina, USENIX ATC 2023, section 4.2",
                                                    .stage = MP_PLAN_ROUTE,
                                                    .is_named_only = true,
                                                    .is_only_asked = true,
                                                    .solve = solve};
