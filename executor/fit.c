/* Decides:  coefficients of straight lines, of a falling curve, and of the larger of two lines.
 * Minimises: the mean square of fitted - measured of a line (what disturbs runs of one probe is as long for short ones
 *           as for long ones), of fitted / measured - 1 of the two lines, of the change of a curve.
 * Method:   least squares in closed form; pool adjacent violators (Ayer et al. 1955); for the two lines every
 *           cut by rows per expert as a start, then samples go to the line that is higher and both are fitted anew
 *           until nothing moves (as in k-means, Lloyd 1982).
 * Bound:    the lines are optimal for their samples; the assignment is the best of all starts, no more.
 * Cost:     O(n); O(n^2) for the two lines. */
#include "fit.h"
#include <float.h>
#include <math.h>

struct sums {
    double w, x, y, xx, xy;
};

static bool line_of(double *a, double *b, const struct sums *s) {
    const double d = s->w * s->xx - s->x * s->x;
    if (!(d > DBL_EPSILON * s->w * s->xx))
        return false;
    *b = (s->w * s->xy - s->x * s->y) / d;
    *a = (s->y - *b * s->x) / s->w;
    return true;
}

static void add(struct sums *s, double x, double ns, double w) {
    s->w += w;
    s->x += w * x;
    s->y += w * ns;
    s->xx += w * x * x;
    s->xy += w * x * ns;
}

bool ex_fit_line(struct ex_line *out, const struct ex_sample *samples, size_t n) {
    struct sums s = {0};
    double square = 0, relative = 0;
    *out = (struct ex_line){0};
    for (size_t i = 0; i < n; i++)
        add(&s, samples[i].x, samples[i].ns, 1);
    if (n < 2 || !line_of(&out->a, &out->b, &s))
        return false;
    for (size_t i = 0; i < n; i++) {
        const double off = out->a + out->b * samples[i].x - samples[i].ns;
        square += off * off;
        relative += off / samples[i].ns * (off / samples[i].ns);
    }
    out->residual = sqrt(relative / (double)n);
    if (n > 2) {
        const double variance = square / (double)(n - 2), d = s.w * s.xx - s.x * s.x;
        out->a_error = sqrt(variance * s.xx / d);
        out->b_error = sqrt(variance * s.w / d);
    }
    return true;
}

struct ex_line ex_fit_constant(const struct ex_sample *samples, size_t n) {
    struct ex_line out = {0};
    struct sums s = {0};
    double square = 0, relative = 0;
    for (size_t i = 0; i < n; i++)
        add(&s, 0, samples[i].ns, 1);
    if (n == 0)
        return out;
    out.a = s.y / s.w;
    for (size_t i = 0; i < n; i++) {
        square += (out.a - samples[i].ns) * (out.a - samples[i].ns);
        relative += (out.a / samples[i].ns - 1) * (out.a / samples[i].ns - 1);
    }
    out.residual = sqrt(relative / (double)n);
    if (n > 1)
        out.a_error = sqrt(square / (double)(n - 1) / s.w);
    return out;
}

double ex_fit_falling(double *values, size_t n) {
    double square = 0;
    /* The value at i of the nearest falling sequence: the least over j <= i of the most over k >= i of the mean of
     * values j to k. Curves have some ten values, so the plain formula does. */
    double fitted[EX_FALLING_MAX];
    if (n > EX_FALLING_MAX)
        n = EX_FALLING_MAX;
    for (size_t i = 0; i < n; i++) {
        fitted[i] = DBL_MAX;
        for (size_t j = 0; j <= i; j++) {
            double most = -DBL_MAX, sum = 0;
            for (size_t k = j; k < n; k++) {
                sum += values[k];
                if (k >= i && sum / (double)(k - j + 1) > most)
                    most = sum / (double)(k - j + 1);
            }
            fitted[i] = most < fitted[i] ? most : fitted[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        fitted[i] = fitted[i] > 1 ? 1 : fitted[i];
        square += (fitted[i] - values[i]) * (fitted[i] - values[i]);
        values[i] = fitted[i];
    }
    return n > 0 ? sqrt(square / (double)n) : 0;
}

/* ---- the larger of two lines ---- */

/* A line through samples of one side that never falls and never starts below 0. */
static void side_line(double *a, double *b, const struct sums *s) {
    *a = *b = 0;
    if (s->w <= 0)
        return;
    if (!line_of(a, b, s)) { /* one x only: all of it grows with x */
        *b = s->xx > 0 ? s->xy / s->xx : 0;
        *a = 0;
    } else if (*a < 0) {
        *b = s->xy / s->xx;
        *a = 0;
    } else if (*b < 0) {
        *a = s->y / s->w;
        *b = 0;
    }
}

static double value(const struct ex_compute_fit *f, const struct ex_work *w) {
    const double weights = f->a + f->b * w->experts, rows = f->c + f->beta * w->rows;
    return weights > rows ? weights : rows;
}

/* Fits both sides, where samples with at most `cut` rows per expert start on the side of weights. */
static struct ex_compute_fit from_cut(const struct ex_work *samples, size_t n, double cut) {
    struct ex_compute_fit f = {0}, best = {.residual = DBL_MAX};
    enum { ROUNDS = 32 };
    for (int round = 0; round < ROUNDS; round++) {
        struct sums weights = {0}, rows = {0};
        double square = 0;
        for (size_t i = 0; i < n; i++) {
            const struct ex_work *w = &samples[i];
            const bool is_weights =
                round == 0 ? w->rows <= cut * w->experts : f.a + f.b * w->experts > f.c + f.beta * w->rows;
            if (is_weights)
                add(&weights, w->experts, w->ns, 1 / (w->ns * w->ns));
            else
                add(&rows, w->rows, w->ns, 1 / (w->ns * w->ns));
        }
        f = (struct ex_compute_fit){.has_weights_side = weights.w > 0, .has_rows_side = rows.w > 0};
        side_line(&f.a, &f.b, &weights);
        side_line(&f.c, &f.beta, &rows);
        for (size_t i = 0; i < n; i++) {
            const double off = value(&f, &samples[i]) / samples[i].ns - 1;
            square += off * off;
        }
        f.residual = sqrt(square / (double)n);
        if (f.residual >= best.residual)
            break;
        best = f;
    }
    return best;
}

bool ex_fit_compute(struct ex_compute_fit *out, const struct ex_work *samples, size_t n) {
    bool has_experts = false, has_rows = false;
    *out = (struct ex_compute_fit){.residual = DBL_MAX};
    for (size_t i = 0; i < n; i++) {
        has_experts |= samples[i].experts < samples[0].experts || samples[i].experts > samples[0].experts;
        has_rows |= samples[i].rows < samples[0].rows || samples[i].rows > samples[0].rows;
    }
    if (!has_experts || !has_rows)
        return false;
    for (size_t i = 0; i <= n; i++) { /* i = n: all samples on the side of rows */
        const double cut = i < n ? samples[i].rows / samples[i].experts : -1;
        const struct ex_compute_fit f = from_cut(samples, n, cut);
        if (f.residual < out->residual)
            *out = f;
    }
    return true;
}
