/* Eigenvectors against what defines them, and against spectra that are known. */
#include "support.h"

#include "eigen.h"
#include <math.h>
#include <moeplan/base.h>

#define N_MAX 96u

struct found {
    double values[N_MAX], vectors[N_MAX * N_MAX];
};

static bool solve(const double *a, uint32_t n, uint32_t n_vectors, struct found *out) {
    static double copy[N_MAX * N_MAX];
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    bool is_found;
    memcpy(copy, a, (size_t)n * n * sizeof *a);
    CHECK_OK(mp_eigen_largest(copy, n, n_vectors, out->values, out->vectors, arena, &is_found, &err), err);
    mp_arena_free(arena);
    return is_found;
}

/* A v = value v, vectors of length 1 and at right angles, values falling. */
static void check(const double *a, uint32_t n, uint32_t n_vectors, const struct found *f) {
    double size = 0;
    for (uint32_t i = 0; i < n * n; i++)
        size = fmax(size, fabs(a[i]));
    const double tolerance = 1e-13 * n * (size > 0 ? size : 1);
    for (uint32_t k = 0; k < n_vectors; k++) {
        const double *v = f->vectors + (size_t)k * n;
        assert_true(k == 0 || f->values[k - 1] >= f->values[k]);
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += a[(size_t)i * n + j] * v[j];
            if (fabs(sum - f->values[k] * v[i]) > tolerance)
                fail_msg("n %u, vector %u: off by %g", n, k, sum - f->values[k] * v[i]);
        }
        for (uint32_t m = 0; m <= k; m++) {
            double sum = 0;
            for (uint32_t i = 0; i < n; i++)
                sum += v[i] * f->vectors[(size_t)m * n + i];
            assert_true(fabs(sum - (m == k)) < 1e-13 * n + 1e-14);
        }
    }
}

static void test_eigen__random_matrices(void **state) {
    static double a[N_MAX * N_MAX];
    static struct found f, part;
    struct mp_rng rng = mp_rng_seed(1);
    (void)state;
    for (uint32_t n = 1; n <= N_MAX; n += n < 12 ? 1 : 21)
        for (int kind = 0; kind < 4; kind++) {
            double trace = 0, sum = 0;
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j <= i; j++) {
                    double x = mp_rng_unit(&rng) - 0.5;
                    x = kind == 1 ? (double)mp_rng_below(&rng, 3) : kind == 2 ? x * 1e150 : x;
                    x = kind == 3 && mp_rng_below(&rng, 4) > 0 ? 0 : x; /* falls into parts */
                    a[(size_t)i * n + j] = a[(size_t)j * n + i] = x;
                }
            assert_true(solve(a, n, n, &f));
            check(a, n, n, &f);
            for (uint32_t i = 0; i < n; i++) {
                trace += a[(size_t)i * n + i];
                sum += f.values[i];
            }
            assert_true(fabs(trace - sum) <= 1e-12 * n * (kind == 2 ? 1e150 : 1 + fabs(trace)));
            assert_true(solve(a, n, (n + 1) / 2, &part)); /* fewer vectors: the same bits */
            assert_memory_equal(part.values, f.values, (n + 1) / 2 * sizeof *f.values);
            assert_memory_equal(part.vectors, f.vectors, (size_t)((n + 1) / 2) * n * sizeof *f.vectors);
        }
}

static void test_eigen__known_spectra(void **state) {
    static double a[N_MAX * N_MAX];
    static struct found f;
    const uint32_t n = 40;
    (void)state;
    memset(a, 0, sizeof a);
    for (uint32_t i = 0; i < n; i++) { /* a path: 2 cos(pi k / (n + 1)) */
        if (i > 0)
            a[(size_t)i * n + i - 1] = a[(size_t)(i - 1) * n + i] = 1;
    }
    assert_true(solve(a, n, n, &f));
    for (uint32_t k = 0; k < n; k++)
        assert_true(fabs(f.values[k] - 2 * cos(3.14159265358979323846 * (k + 1) / (n + 1))) < 1e-12);
    for (uint32_t i = 0; i < n * n; i++) /* all ones: n once, 0 otherwise */
        a[i] = 1;
    assert_true(solve(a, n, n, &f));
    check(a, n, n, &f);
    assert_true(fabs(f.values[0] - n) < 1e-12 && fabs(f.values[1]) < 1e-12);
    memset(a, 0, sizeof a);
    for (uint32_t i = 0; i < n; i++) /* ascending on the diagonal */
        a[(size_t)i * n + i] = i;
    assert_true(solve(a, n, n, &f));
    for (uint32_t k = 0; k < n; k++)
        assert_true(f.values[k] == n - 1 - k && fabs(f.vectors[(size_t)k * n + n - 1 - k]) == 1);
}

static void test_eigen__what_is_no_number_is_refused(void **state) {
    static struct found f;
    const double a[4] = {1, 0, NAN, 1}, b[4] = {1, 0, 0, INFINITY};
    (void)state;
    assert_false(solve(a, 2, 2, &f));
    assert_false(solve(b, 2, 2, &f));
    assert_false(solve(a, 0, 0, &f));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eigen__random_matrices),
        cmocka_unit_test(test_eigen__known_spectra),
        cmocka_unit_test(test_eigen__what_is_no_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
