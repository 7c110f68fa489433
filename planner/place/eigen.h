/* Private to planner/: eigenvectors of small dense symmetric matrices. */
#ifndef EIGEN_H
#define EIGEN_H

#include <moeplan/alloc.h>
#include <moeplan/status.h>
#include <stdbool.h>

/* The n_vectors largest eigenvalues of the symmetric a[n][n], falling, and their eigenvectors, of length 1:
 * vectors[k][n]. Only the lower triangle is read, and a is overwritten. Where eigenvalues are equal, some basis of
 * their space; the same input gives the same bits on every machine of IEEE doubles. *is_found false: an entry is not a
 * finite number. O(n^3). */
enum mp_status mp_eigen_largest(double *a, uint32_t n, uint32_t n_vectors, double *values, double *vectors,
                                struct mp_arena *arena, bool *is_found, struct mp_error *err) MP_MUST_CHECK;

#endif
