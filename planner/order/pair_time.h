/* Private to planner/: bytes of a matrix as time on their paths, for orders that give a pair its ends for a while. */
#ifndef PAIR_TIME_H
#define PAIR_TIME_H

#include <moeplan/base.h>
#include <moeplan/strategy.h>

/* Bytes per second of a transfer that has its path to itself: the least on the way, the pair's cap included. */
uint64_t mp_path_rate(const struct mp_topology *t, const struct mp_path *path);

/* time[n_gpus][n_gpus], diagonal 0: the bytes themselves where all pairs with traffic have the same rate alone, else
 * the bytes that the fastest of them would carry in the pair's time, rounded up. Returns that fastest rate, in bytes
 * per second; 0 = no traffic. */
uint64_t mp_pair_times(uint64_t *time, const struct mp_order_problem *in);

/* The first `done` of the pair's `time`, in bytes: all of them when done = time. */
static inline uint64_t mp_pair_bytes(uint64_t bytes, uint64_t done, uint64_t time) {
    return done >= time ? bytes : time == bytes ? done : mp_mul_div(bytes, done, time);
}

#endif
