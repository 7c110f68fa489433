/* Bottleneck matchings against all permutations. */
#include "support.h"

#include "bottleneck.h"
#include <moeplan/base.h>

/* The largest smallest entry of a perfect matching, by trying all: column of row `row` on. */
static uint64_t best_of_all(const uint64_t *matrix, uint32_t n, uint32_t row, uint32_t used) {
    uint64_t best = 0;
    if (row == n)
        return UINT64_MAX;
    for (uint32_t j = 0; j < n; j++) {
        if (used >> j & 1 || matrix[row * n + j] <= best)
            continue;
        uint64_t rest = best_of_all(matrix, n, row + 1, used | 1u << j);
        uint64_t least = rest < matrix[row * n + j] ? rest : matrix[row * n + j];
        best = least > best ? least : best;
    }
    return best;
}

static void check_matching(const uint32_t *to, const uint64_t *matrix, uint32_t n, uint64_t threshold) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(to[i] < n && !(used >> to[i] & 1));
        used |= 1u << to[i];
        assert_true(matrix[i * n + to[i]] >= threshold);
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++) { /* no exchange makes the sum larger */
            uint64_t a = matrix[i * n + to[k]], b = matrix[k * n + to[i]];
            assert_false(a >= threshold && b >= threshold && a + b > matrix[i * n + to[i]] + matrix[k * n + to[k]]);
        }
}

static void test_bottleneck__best_of_all_permutations_while_the_matrix_shrinks(void **state) {
    struct mp_rng r = mp_rng_seed(3);
    uint32_t n_found = 0;
    (void)state;
    for (uint32_t round = 0; round < 400; round++) {
        struct mp_error err = {0};
        struct mp_bottleneck *b;
        const uint32_t n = 1 + (uint32_t)mp_rng_below(&r, 6);
        const uint64_t most = round % 3 == 0 ? 4 : 1000;
        uint64_t matrix[36], threshold;
        for (uint32_t k = 0; k < n * n; k++)
            matrix[k] = mp_rng_below(&r, 4) == 0 ? 0 : mp_rng_below(&r, most);
        CHECK_OK(mp_bottleneck_new(&b, n, matrix, &err), err);
        while ((threshold = mp_bottleneck_next(b)) > 0) {
            uint32_t to[6];
            n_found++;
            assert_true(threshold == best_of_all(matrix, n, 0, 0));
            memcpy(to, mp_bottleneck_to(b), n * sizeof *to);
            check_matching(to, matrix, n, threshold);
            for (uint32_t i = 0; i < n; i++) {
                uint64_t *x = &matrix[i * n + to[i]];
                uint64_t amount = round % 2 == 0 ? threshold : 1 + mp_rng_below(&r, *x); /* any amounts may go */
                mp_bottleneck_take(b, i, to[i], amount);
                *x -= amount;
                assert_true(mp_bottleneck_left(b, i, to[i]) == *x);
            }
        }
        assert_true(best_of_all(matrix, n, 0, 0) == 0);
        mp_bottleneck_free(b);
    }
    assert_true(n_found > 1000);
}

static void test_bottleneck__transposing_keeps_the_threshold(void **state) {
    struct mp_rng r = mp_rng_seed(4);
    static uint64_t matrix[70 * 70], transposed[70 * 70];
    (void)state;
    for (uint32_t round = 0; round < 10; round++) {
        struct mp_error err = {0};
        struct mp_bottleneck *b, *c;
        for (uint32_t i = 0; i < 70; i++)
            for (uint32_t j = 0; j < 70; j++)
                matrix[i * 70 + j] = transposed[j * 70 + i] = mp_rng_below(&r, 100000);
        CHECK_OK(mp_bottleneck_new(&b, 70, matrix, &err), err);
        CHECK_OK(mp_bottleneck_new(&c, 70, transposed, &err), err);
        assert_true(mp_bottleneck_next(b) == mp_bottleneck_next(c));
        mp_bottleneck_free(b);
        mp_bottleneck_free(c);
    }
}

static enum mp_status match_once(void *ctx, struct mp_error *err) {
    struct mp_bottleneck *b;
    enum mp_status status = mp_bottleneck_new(&b, 4, ctx, err);
    if (status != MP_OK) {
        assert_null(b);
        return status;
    }
    assert_true(mp_bottleneck_next(b) == 9);
    mp_bottleneck_free(b);
    return MP_OK;
}
static void test_bottleneck__survives_every_failed_allocation(void **state) {
    uint64_t matrix[16] = {1, 9, 9, 9, 9, 0, 0, 9, 9, 0, 0, 9, 9, 9, 9, 0};
    (void)state;
    sweep_faults(match_once, matrix, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bottleneck__best_of_all_permutations_while_the_matrix_shrinks),
        cmocka_unit_test(test_bottleneck__transposing_keeps_the_threshold),
        cmocka_unit_test(test_bottleneck__survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
