/* Private to planner/: who gets whom, when only the worst pair counts. */
#ifndef ASSIGN_H
#define ASSIGN_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>

#define MP_ASSIGN_NEVER UINT64_MAX /* a pair that must not be */
#define MP_ASSIGN_TABLES_MAX 4u

/* Gives each of n_left a partner of its own among n_right so that the largest weight[left][right] is least. to[n_left].
 * *worst: that weight. *is_found false: no such assignment without MP_ASSIGN_NEVER. Exact; O(n_left * n_right *
 * sqrt(n) * log n). */
enum mp_status mp_assign_bottleneck(uint32_t n_left, uint32_t n_right, const uint64_t *weight, uint32_t *to,
                                    uint64_t *worst, bool *is_found, struct mp_error *err) MP_MUST_CHECK;
/* The same for several tables, minimising the sum of the tables' largest weights: a layer is its slowest dispatch, then
 * its slowest expert, then its slowest combine. Weights below 2^60. Exact while *nodes stays below node_limit (0 =
 * none); then *is_proven is false and *bound what no assignment can go below. */
enum mp_status mp_assign_sum(uint32_t n_left, uint32_t n_right, uint32_t n_tables, const uint64_t *const *weight,
                             uint64_t node_limit, uint32_t *to, uint64_t *sum, uint64_t *bound, uint64_t *nodes,
                             bool *is_found, bool *is_proven, struct mp_error *err) MP_MUST_CHECK;

/* Square: gives each of n on the left a partner of its own so that the sum of weight[left][right] is least. Weights
 * below 2^52 / n, or MP_ASSIGN_NEVER; *is_found false: no assignment without those. u[n], v[n]: potentials that prove
 * it: u[left] + v[right] <= weight everywhere, and all of them add up to *total. Exact; O(n^3). */
enum mp_status mp_assign_least(uint32_t n, const uint64_t *weight, uint32_t *to, int64_t *u, int64_t *v,
                               uint64_t *total, bool *is_found, struct mp_error *err) MP_MUST_CHECK;

#endif
