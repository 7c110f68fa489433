/* Spread-out rounds.
 *
 * Decides   the order of transfers: n - 1 stages, in stage k GPU i sends its whole flow to GPU (i + k) mod n.
 * Minimises nothing: the order does not look at the matrix.
 * Bound     none: a stage waits for its largest flow, so skew costs up to n - 1 times.
 * Paper     spread-out all-to-all of MPI practice: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005.
 * Cost      O(n^2). */
#include "planner.h"

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    (void)scratch;
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    *outcome = MP_FOUND;
    for (uint32_t k = 1; k < n; k++) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++)
            MP_TRY(mp_schedule_add(out, i, (i + k) % n, 1, in->matrix[(size_t)i * n + (i + k) % n], err));
    }
out:
    return status;
}

const struct mp_strategy mp_strategy_order_spread_out = {.name = "spread-out",
                                                         .summary = "rounds of one peer each",
                                                         .reference = "Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005",
                                                         .stage = MP_PLAN_ORDER,
                                                         .order = order};
