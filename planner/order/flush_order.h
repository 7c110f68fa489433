/* Private to planner/: stages that each lower the load of every port alike, then one launch of all that is left; and
 * how many of the stages pay for their launches. */
#ifndef FLUSH_ORDER_H
#define FLUSH_ORDER_H

#include <moeplan/strategy.h>

struct mp_flush_order;
struct mp_turn { /* of one pair in a stage */
    uint16_t src, dst;
    uint64_t length; /* time it gets, in the unit of mp_flush_order_filled */
};
/* Borrows `in`. is_timed: the time of stages will be asked for. */
enum mp_status mp_flush_order_new(struct mp_flush_order **out, const struct mp_order_problem *in, bool is_timed,
                                  struct mp_error *err) MP_MUST_CHECK;
void mp_flush_order_free(struct mp_flush_order *f);
/* [n][n] times of the pairs (pair_time.h) with slack filled in, so that all rows and columns sum to the same. Borrowed.
 * The diagonal is filling. */
const uint64_t *mp_flush_order_filled(const struct mp_flush_order *f);
/* Appends a stage; no pair twice. Nothing happens when only filling would move. */
enum mp_status mp_flush_order_add(struct mp_flush_order *f, const struct mp_turn *turns, size_t n_turns,
                                  struct mp_error *err) MP_MUST_CHECK;
uint32_t mp_flush_order_n_stages(const struct mp_flush_order *f);
/* May any count of stages, those there are and more, take less than time_ns? Launches only add up, and no order is
 * below the port bound. */
bool mp_flush_order_may_pay(struct mp_flush_order *f, uint64_t time_ns);
/* Chooses the first n_stages stages, or with 0 as many as take the least time (none at all = single shot, looked at
 * only while *time_ns is UINT64_MAX), if that is below *time_ns, which it then becomes. time_ns NULL: without a look at
 * the time, n_stages > 0; the only choice where stages are not timed. */
enum mp_status mp_flush_order_choose(struct mp_flush_order *f, uint32_t n_stages, uint64_t *time_ns,
                                     struct mp_error *err) MP_MUST_CHECK;
/* Writes the stages chosen, and the flush if anything is left. */
enum mp_status mp_flush_order_write(struct mp_flush_order *f, struct mp_schedule *out,
                                    struct mp_error *err) MP_MUST_CHECK;

#endif
