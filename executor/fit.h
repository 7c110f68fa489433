/* Fits of what calibration measures: pure functions of the measurements. Residuals are the root of the mean square of
 * fitted / measured - 1. */
#ifndef EXECUTOR_FIT_H
#define EXECUTOR_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ex_sample {
    double x, ns; /* ns > 0 */
};
struct ex_line { /* ns = a + b * x */
    double a, b;
    double a_error, b_error; /* standard errors; 0 with two samples, which a line always meets */
    double residual;
};
/* False when there are fewer than two different x. */
bool ex_fit_line(struct ex_line *out, const struct ex_sample *samples, size_t n);
/* The constant of these samples. */
struct ex_line ex_fit_constant(const struct ex_sample *samples, size_t n);

enum { EX_FALLING_MAX = 64 };
/* The nearest sequence that never rises and never passes 1, by least squares (pool adjacent violators), in place; of at
 * most EX_FALLING_MAX values. Returns the root of the mean square of what was changed. */
double ex_fit_falling(double *values, size_t n);

/* Computation of a GPU in a layer: ns = max(a + b * experts, c + beta * rows). */
struct ex_work {
    double experts, rows, ns; /* ns > 0 */
};
struct ex_compute_fit {
    double a, b, c, beta;
    double residual;
    bool has_weights_side, has_rows_side; /* false: no sample is on it, and its coefficients are 0 */
};
/* Two lines, each fitted to the samples on its side; which side a sample is on is tried by rows per expert and then
 * settled by the fit itself. False with fewer than two samples or without two different numbers of rows and experts. */
bool ex_fit_compute(struct ex_compute_fit *out, const struct ex_work *samples, size_t n);

#endif
