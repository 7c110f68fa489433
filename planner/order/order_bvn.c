/* Exact one-to-one order.
 *
 * Decides   the stages of transfers: a decomposition of the matrix into matchings (bvn.c).
 * Minimises time without launches. With equal ports the stages add up to the largest port load exactly, so no order
 *           of any kind is faster; each costs a launch, though, and there are about n^2 of them.
 * Bound     the port bound where all ports are equal, no NIC is shared and no uplink limits. With unequal rates the
 *           largest sum over a port of the times of its pairs alone.
 * Paper     as bvn.c.
 * Differs   unequal rates: decomposes the times of the pairs instead of their bytes.
 * Cost      n^3 pieces: 0.3 s and 270 MB at n = 256; declines above. */
#include "bvn.h"
#include "pair_time.h"
#include "planner.h"

#define ENDS_MAX 256u

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    struct mp_bvn *bvn = NULL;
    struct mp_bvn_stage stage;
    if (n > ENDS_MAX)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "bvn: %u GPUs need up to %llu transfers (use matchings above %u GPUs)", n,
                          (unsigned long long)n * n * n, ENDS_MAX);
    *outcome = MP_FOUND;
    uint64_t *time = mp_arena_alloc(scratch, (size_t)n * n, sizeof *time);
    uint64_t *done = mp_arena_alloc(scratch, (size_t)n * n, sizeof *done);
    if (time == NULL || done == NULL)
        return mp_nomem(err, "ordering transfers");
    mp_pair_times(time, in);
    MP_TRY(mp_bvn_new(&bvn, n, time, err));
    while (mp_bvn_next(bvn, &stage)) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++) {
            size_t pair = (size_t)i * n + stage.to[i];
            uint64_t real = mp_bvn_bytes(&stage, i);
            if (real == 0)
                continue;
            uint64_t before = mp_pair_bytes(in->matrix[pair], done[pair], time[pair]);
            done[pair] += real;
            MP_TRY(mp_schedule_add(out, i, stage.to[i], 1,
                                   mp_pair_bytes(in->matrix[pair], done[pair], time[pair]) - before, err));
        }
    }
out:
    mp_bvn_free(bvn);
    return status;
}

const struct mp_strategy mp_strategy_order_bvn = {.name = "bvn",
                                                  .summary = "matchings that reach the port bound exactly; ~n^2 stages",
                                                  .reference = "Birkhoff 1946; Gonzalez, Sahni, J. ACM 23(4), 1976",
                                                  .stage = MP_PLAN_ORDER,
                                                  .order = order};
