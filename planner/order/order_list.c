/* List scheduling.
 *
 * Decides   the order of transfers: whole flows, one at a time per sender and receiver.
 * Minimises the simulated time of the order, over three priorities (list_schedule.h).
 * Bound     run freely: below 2 * the largest load of a port, startups included; that load itself when one port is
 *           part of every flow. Stages that wait for each other lose this: on 16 balanced ports with skewed pairs 2.6
 *           times the bound coupled and 4.1 times with barriers (test_order_list).
 * Paper     greedy open-shop scheduling; whole flows as in Sunflow: X. Huang, X. Sun, T. Ng, CoNEXT 2016.
 * Cost      three lists (list_schedule.c); three simulations of the order unless run freely on ports of their own,
 *           where the list knows its time. */
#include "list_schedule.h"

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_ticks *ticks;
    struct mp_list *best, *next;
    enum mp_status status = MP_OK;
    uint64_t least = UINT64_MAX;
    *outcome = MP_FOUND;
    MP_TRY(mp_ticks_new(&ticks, in, scratch, err));
    MP_TRY(mp_list_new(&best, out->n, scratch, err));
    MP_TRY(mp_list_new(&next, out->n, scratch, err));
    const size_t pairs = (size_t)out->n * out->n;
    uint64_t *time = mp_arena_alloc(scratch, pairs, sizeof *time);
    if (time == NULL)
        return mp_nomem(err, "ordering transfers");
    for (size_t p = 0; p < pairs; p++)
        time[p] = ticks->wire[p] == 0 ? 0 : ticks->startup[p] + ticks->wire[p];
    const bool is_known = ticks->is_alone && in->mode == MP_STAGE_FREE;
    for (int priority = 0; priority < MP_N_LIST_PRIORITIES; priority++) {
        uint64_t taken;
        if (!mp_list_run(next, time, NULL, (enum mp_list_priority)priority, is_known ? least : UINT64_MAX))
            continue;
        taken = next->makespan;
        if (!is_known) {
            if (!mp_order_spend(in->budget) && least < UINT64_MAX)
                break;
            struct mp_schedule tried;
            mp_schedule_init(&tried, out->n);
            status = mp_list_append(next, in->matrix, &tried, scratch, err);
            if (status == MP_OK) {
                mp_schedule_finish(&tried);
                status = mp_schedule_time(&tried, in, &taken, err);
            }
            mp_schedule_free(&tried);
            if (status != MP_OK)
                goto out;
        }
        if (taken >= least)
            continue;
        least = taken;
        struct mp_list *swap = best;
        best = next;
        next = swap;
    }
    status = mp_list_append(best, in->matrix, out, scratch, err);
out:
    return status;
}

const struct mp_strategy mp_strategy_order_list = {.name = "list",
                                                   .summary = "whole flows, each end always busy where it can be",
                                                   .reference = "list scheduling of open shops",
                                                   .stage = MP_PLAN_ORDER,
                                                   .order = order};
