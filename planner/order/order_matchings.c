/* Few matchings and a flush.
 *
 * Decides   the stages of transfers: matchings with the largest smallest entry, each as long as that entry, and one
 *           launch of all that is left.
 * Minimises simulated time with its launches, over the number of stages.
 * Method    slack is filled in so that all ports carry the same; a bottleneck matching then lowers the load of every
 *           port by its whole length (bottleneck.c). Lengths only fall, so the stages of k are the first of those of
 *           k + 1: one run gives every count, and flush_order.c chooses. The flush runs all at once, which loses 10 to
 *           20 % on balanced ports with skewed pairs, but only on what is left by then.
 * Bound     port bound + loss of the flush + launches. Sinkhorn-balanced lognormal matrices of 8 to 64 GPUs, launches
 *           excluded: 2n stages within 0.4 %, 3n within 0.05 % of the port bound (bench_bvn). Longer stages than the
 *           smallest entry lose more by idle ports than they save launches (twice as long: 20 % of the bound and more).
 * Paper     Birkhoff decompositions with few terms, bottleneck choice among others: F. Dufosse, B. Ucar, Lin. Alg.
 * Appl. 497, 2016.
 * Differs   stops early and flushes; real bytes go before filling. Unequal rates: entries are times.
 * Cost      bottleneck.c for each stage, and some 30 simulations of a single shot. */
#include "bottleneck.h"
#include "flush_order.h"
#include "planner.h"
#include <string.h>

static const struct mp_option options[] = {
    {"stages", "stages", "stages before the flush; 0 = as many as pay", 0, 0, 65536}, {NULL, NULL, NULL, 0, 0, 0}};

#define STAGES_PER_GPU_MAX 8u /* past 6n nothing measurable is left to flush */

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n, wanted = (uint32_t)in->option_values[0];
    enum mp_status status = MP_OK;
    uint64_t time_ns = UINT64_MAX;
    struct mp_flush_order *f = NULL;
    struct mp_bottleneck *b = NULL;
    struct mp_turn *turns = mp_arena_alloc(scratch, n, sizeof *turns);
    *outcome = MP_FOUND;
    if (turns == NULL)
        return mp_nomem(err, "ordering transfers");
    MP_TRY(mp_flush_order_new(&f, in, wanted == 0, err));
    MP_TRY(mp_bottleneck_new(&b, n, mp_flush_order_filled(f), err));
    if (wanted == 0)
        MP_TRY(mp_flush_order_choose(f, 0, &time_ns, err)); /* single shot */
    const uint32_t most = wanted > 0 ? wanted : STAGES_PER_GPU_MAX * n;
    while (mp_flush_order_n_stages(f) < most && !mp_order_is_stopped(in->budget) &&
           (wanted > 0 || mp_flush_order_may_pay(f, time_ns))) {
        uint64_t length = mp_bottleneck_next(b);
        if (length == 0)
            break;
        for (uint32_t i = 0; i < n; i++)
            turns[i] = (struct mp_turn){(uint16_t)i, (uint16_t)mp_bottleneck_to(b)[i], length};
        MP_TRY(mp_flush_order_add(f, turns, n, err));
        for (uint32_t i = 0; i < n; i++)
            mp_bottleneck_take(b, i, turns[i].dst, length);
    }
    MP_TRY(mp_flush_order_choose(f, wanted, wanted > 0 ? NULL : &time_ns, err));
    status = mp_flush_order_write(f, out, err);
out:
    mp_bottleneck_free(b);
    mp_flush_order_free(f);
    return status;
}

const struct mp_strategy mp_strategy_order_matchings = {.name = "matchings",
                                                        .summary = "the best few matchings, then all the rest at once",
                                                        .reference = "bottleneck matchings; Dufosse, Ucar 2016",
                                                        .stage = MP_PLAN_ORDER,
                                                        .options = options,
                                                        .order = order};
