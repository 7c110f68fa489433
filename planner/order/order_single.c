/* Single shot.
 *
 * Decides   the order of transfers: none; the all-to-all is one launch with all flows at once.
 * Minimises launches. Where one port is much hotter than the others no order can gain much on it (DESIGN.md part 3).
 * Cost      none. */
#include "planner.h"

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    (void)in, (void)scratch, (void)out, (void)err;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_order_single = {.name = "single",
                                                     .summary = "all transfers at once, one launch",
                                                     .reference =
                                                         "ncclGroupStart / ncclGroupEnd around all sends and receives",
                                                     .stage = MP_PLAN_ORDER,
                                                     .order = order};
