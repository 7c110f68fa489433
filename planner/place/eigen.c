/* Eigenvectors of a dense symmetric matrix, largest eigenvalues first.
 *
 * Method    Householder reflections from both sides leave three diagonals; rotations with implicit Wilkinson-like
 *           shifts (QL) make those one; eigenvectors of the three diagonals are gathered as rows, so that a rotation
 *           works on two runs of memory, and only the wanted ones are taken back through the reflections.
 * Exact     to rounding (tests/unit/planner/test_eigen.c: residuals, orthogonality, known spectra). Sums run in one
 *           order and nothing but + - * / and sqrt is used: the same bits everywhere.
 * Source    Householder 1958, Francis 1961, as in Wilkinson and Reinsch, Handbook for Automatic Computation II, 1971.
 * Cost      about 7 n^3 operations: 0.1 s for n = 256. */
#include "eigen.h"
#include <math.h>
#include <string.h>

#define TURNS_MAX 64u /* of one eigenvalue; three are usual */

struct work {
    uint32_t n;
    double *a;       /* [n][n]: below the diagonal, column k holds reflection k from row k + 1 on */
    double *factor;  /* [n] 2 / (v v) of each reflection, 0 = none */
    double *d, *e;   /* [n] the three diagonals: e[i] between i and i + 1 */
    double *z;       /* [n][n] row i: coordinates of the i-th eigenvector of the three diagonals */
    double *v, *p;   /* [n] */
    uint32_t *order; /* [n] */
};

/* Columns 0 .. n - 3 one by one: what is left below the sub-diagonal goes into the sub-diagonal. */
static void reflect(struct work *w) {
    const uint32_t n = w->n;
    for (uint32_t k = 0; k + 2 < n; k++) {
        double largest = 0, sum = 0;
        for (uint32_t i = k + 1; i < n; i++)
            largest = fmax(largest, fabs(w->a[(size_t)i * n + k]));
        w->factor[k] = 0;
        bool is_done = true; /* nothing below the sub-diagonal */
        for (uint32_t i = k + 2; i < n; i++)
            is_done &= w->a[(size_t)i * n + k] == 0;
        if (is_done) {
            w->e[k] = w->a[(size_t)(k + 1) * n + k];
            continue;
        }
        for (uint32_t i = k + 1; i < n; i++) { /* scaled, so that squares stay in range */
            w->v[i] = w->a[(size_t)i * n + k] / largest;
            sum += w->v[i] * w->v[i];
        }
        const double length = w->v[k + 1] > 0 ? -sqrt(sum) : sqrt(sum);
        w->e[k] = length * largest;
        sum -= w->v[k + 1] * length; /* half of v v, once its head is changed */
        w->v[k + 1] -= length;
        w->factor[k] = 1 / sum;
        double along = 0;
        for (uint32_t i = k + 1; i < n; i++)
            w->p[i] = 0;
        for (uint32_t i = k + 1; i < n; i++) { /* p = A v, from the lower triangle */
            const double *row = w->a + (size_t)i * n;
            double here = 0;
            for (uint32_t j = k + 1; j < i; j++) {
                here += row[j] * w->v[j];
                w->p[j] += row[j] * w->v[i];
            }
            w->p[i] += here + row[i] * w->v[i];
        }
        for (uint32_t i = k + 1; i < n; i++) {
            w->p[i] *= w->factor[k];
            along += w->p[i] * w->v[i];
        }
        along *= w->factor[k] / 2;
        for (uint32_t i = k + 1; i < n; i++)
            w->p[i] -= along * w->v[i];
        for (uint32_t i = k + 1; i < n; i++) {
            double *row = w->a + (size_t)i * n;
            for (uint32_t j = k + 1; j <= i; j++)
                row[j] -= w->v[i] * w->p[j] + w->p[i] * w->v[j];
        }
        for (uint32_t i = k + 1; i < n; i++)
            w->a[(size_t)i * n + k] = w->v[i];
    }
    for (uint32_t i = 0; i < n; i++)
        w->d[i] = w->a[(size_t)i * n + i];
    if (n >= 2)
        w->e[n - 2] = w->a[(size_t)(n - 1) * n + n - 2];
    w->e[n - 1] = 0;
}

/* sqrt(a a + b b) without leaving the range of doubles. */
static double length_of(double a, double b) {
    a = fabs(a);
    b = fabs(b);
    const double large = a > b ? a : b, small = a > b ? b : a;
    if (large == 0)
        return 0;
    return large * sqrt(1 + (small / large) * (small / large));
}

/* One sweep of rotations over the block [low, high], from its bottom up. */
static void sweep(struct work *w, uint32_t low, uint32_t high) {
    const uint32_t n = w->n;
    double t = (w->d[low + 1] - w->d[low]) / (2 * w->e[low]), r = length_of(t, 1);
    double g = w->d[high] - w->d[low] + w->e[low] / (t + (t >= 0 ? r : -r)); /* less the shift */
    double s = 1, c = 1, shifted = 0;
    for (uint32_t i = high; i-- > low;) {
        const double f = s * w->e[i], b = c * w->e[i];
        r = length_of(f, g);
        w->e[i + 1] = r;
        if (r == 0) { /* falls in two */
            w->d[i + 1] -= shifted;
            w->e[high] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = w->d[i + 1] - shifted;
        t = (w->d[i] - g) * s + 2 * c * b;
        shifted = s * t;
        w->d[i + 1] = g + shifted;
        g = c * t - b;
        double *restrict upper = w->z + (size_t)i * n, *restrict lower = w->z + (size_t)(i + 1) * n;
        for (uint32_t k = 0; k < n; k++) {
            const double x = lower[k], y = upper[k];
            lower[k] = s * y + c * x;
            upper[k] = c * y - s * x;
        }
    }
    w->d[low] -= shifted;
    w->e[low] = g;
    w->e[high] = 0;
}

static bool rotate(struct work *w) {
    const uint32_t n = w->n;
    memset(w->z, 0, (size_t)n * n * sizeof *w->z);
    for (uint32_t i = 0; i < n; i++)
        w->z[(size_t)i * n + i] = 1;
    for (uint32_t low = 0; low < n; low++)
        for (uint32_t turn = 0;; turn++) {
            uint32_t high = low;
            for (; high + 1 < n; high++) { /* up to a coupling that is below what doubles tell apart */
                const double near = fabs(w->d[high]) + fabs(w->d[high + 1]);
                if (near + fabs(w->e[high]) == near)
                    break;
            }
            if (high == low)
                break;
            if (turn == TURNS_MAX)
                return false;
            sweep(w, low, high);
        }
    return true;
}

/* Row `from` of z, back through the reflections. */
static void take_back(const struct work *w, uint32_t from, double *vector) {
    const uint32_t n = w->n;
    memcpy(vector, w->z + (size_t)from * n, n * sizeof *vector);
    for (uint32_t k = n > 2 ? n - 2 : 0; k-- > 0;) {
        double along = 0;
        if (w->factor[k] == 0)
            continue;
        for (uint32_t i = k + 1; i < n; i++)
            along += w->a[(size_t)i * n + k] * vector[i];
        along *= w->factor[k];
        for (uint32_t i = k + 1; i < n; i++)
            vector[i] -= along * w->a[(size_t)i * n + k];
    }
}

enum mp_status mp_eigen_largest(double *a, uint32_t n, uint32_t n_vectors, double *values, double *vectors,
                                struct mp_arena *arena, bool *is_found, struct mp_error *err) {
    struct work w = {.n = n, .a = a};
    *is_found = false;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j <= i; j++)
            if (!isfinite(a[(size_t)i * n + j]))
                return MP_OK;
    w.factor = mp_arena_alloc(arena, n, sizeof *w.factor);
    w.d = mp_arena_alloc(arena, n, sizeof *w.d);
    w.e = mp_arena_alloc(arena, n, sizeof *w.e);
    w.v = mp_arena_alloc(arena, n, sizeof *w.v);
    w.p = mp_arena_alloc(arena, n, sizeof *w.p);
    w.z = mp_arena_alloc(arena, (size_t)n * n, sizeof *w.z);
    w.order = mp_arena_alloc(arena, n, sizeof *w.order);
    if (w.factor == NULL || w.d == NULL || w.e == NULL || w.v == NULL || w.p == NULL || w.z == NULL || w.order == NULL)
        return mp_nomem(err, "eigenvectors");
    if (n == 0)
        return MP_OK;
    reflect(&w);
    if (!rotate(&w))
        return MP_OK;
    for (uint32_t i = 0; i < n; i++) { /* falling; equal ones as they come */
        uint32_t at = i;
        for (; at > 0 && w.d[w.order[at - 1]] < w.d[i]; at--)
            w.order[at] = w.order[at - 1];
        w.order[at] = i;
    }
    for (uint32_t k = 0; k < n_vectors && k < n; k++) {
        values[k] = w.d[w.order[k]];
        take_back(&w, w.order[k], vectors + (size_t)k * n);
    }
    *is_found = true;
    return MP_OK;
}
