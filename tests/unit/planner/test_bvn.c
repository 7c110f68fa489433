/* The decomposition into matchings: exact on every matrix, and nothing but matchings. */
#include "support.h"

#include "bvn.h"
#include "real_matrices.h"

static uint64_t line_bound(const uint64_t *matrix, uint32_t n) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t row = 0, column = 0;
        for (uint32_t j = 0; j < n; j++) {
            row += matrix[(size_t)i * n + j];
            column += matrix[(size_t)j * n + i];
        }
        most = row > most ? row : most;
        most = column > most ? column : most;
    }
    return most;
}

/* Decomposes and checks everything that bvn.h promises; returns how many stages. */
static uint32_t check_exact(const uint64_t *matrix, uint32_t n) {
    struct mp_error err = {0};
    struct mp_bvn *b;
    struct mp_bvn_stage s;
    uint64_t *left = malloc((size_t)n * n * sizeof *left), now = 0;
    uint8_t *taken = malloc(n);
    uint32_t n_stages = 0;
    memcpy(left, matrix, (size_t)n * n * sizeof *left);
    CHECK_OK(mp_bvn_new(&b, n, matrix, &err), err);
    assert_true(mp_bvn_bound(b) == line_bound(matrix, n));
    for (; mp_bvn_next(b, &s); n_stages++) {
        assert_true(s.start == now && s.end > s.start);
        now = s.end;
        memset(taken, 0, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(s.to[i] < n && !taken[s.to[i]]);
            taken[s.to[i]] = 1;
            uint64_t bytes = mp_bvn_bytes(&s, i), *x = &left[(size_t)i * n + s.to[i]];
            assert_true(bytes <= s.end - s.start && bytes <= *x);
            assert_true(bytes == s.end - s.start || bytes == *x); /* real bytes go before dummies */
            *x -= bytes;
        }
    }
    assert_true(now == mp_bvn_bound(b));
    assert_false(mp_bvn_next(b, &s));
    for (size_t k = 0; k < (size_t)n * n; k++)
        assert_true(left[k] == 0);
    assert_true(n_stages <= (uint64_t)n * n - 2 * n + 2);
    mp_bvn_free(b);
    free(left);
    free(taken);
    return n_stages;
}

static void shuffle_rows(uint32_t *to, uint32_t n, struct mp_rng *r) {
    for (uint32_t i = 0; i < n; i++)
        to[i] = i;
    mp_rng_shuffle(r, to, n);
}

enum shape { DENSE, SPARSE, SMALL, HUGE_VALUES, EMPTY_LINES, SUM_OF_PERMUTATIONS, HOT_COLUMN, ONE_ENTRY, N_SHAPES };
static void make(uint64_t *matrix, uint32_t n, enum shape shape, struct mp_rng *r) {
    uint32_t to[16];
    memset(matrix, 0, (size_t)n * n * sizeof *matrix);
    if (shape == SUM_OF_PERMUTATIONS) {
        for (uint64_t k = 1 + mp_rng_below(r, 5); k > 0; k--) {
            uint64_t weight = 1 + mp_rng_below(r, 1000);
            shuffle_rows(to, n, r);
            for (uint32_t i = 0; i < n; i++)
                matrix[(size_t)i * n + to[i]] += weight;
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t *x = &matrix[(size_t)i * n + j];
            *x = i == j ? 0 : mp_rng_below(r, 1 << 20);
            if (shape == SPARSE && mp_rng_below(r, 4) > 0)
                *x = 0;
            if (shape == SMALL)
                *x = mp_rng_below(r, 4);
            if (shape == HUGE_VALUES)
                *x = mp_rng_below(r, UINT64_C(1) << (mp_rng_below(r, 2) == 0 ? 58 : 3));
            if (shape == EMPTY_LINES && (i % 3 == 1 || j % 4 == 2))
                *x = 0;
            if (shape == HOT_COLUMN)
                *x = j == n / 2 ? *x * 50 : *x;
            if (shape == ONE_ENTRY)
                *x = i == 0 && j == n - 1 ? *x : 0;
        }
}

static void test_bvn__reaches_the_bound_on_10000_random_matrices(void **state) {
    struct mp_rng r = mp_rng_seed(1);
    uint64_t matrix[144];
    uint32_t most_stages = 0;
    (void)state;
    for (uint32_t k = 0; k < 10000; k++) {
        uint32_t n = 2 + (uint32_t)mp_rng_below(&r, 11);
        make(matrix, n, (enum shape)(k % N_SHAPES), &r);
        uint32_t n_stages = check_exact(matrix, n);
        most_stages = n_stages > most_stages ? n_stages : most_stages;
    }
    assert_true(most_stages > 80); /* the dense ones of 12 ends are no easy matrices */
}

static void test_bvn__exact_where_rows_take_several_words(void **state) {
    static const uint32_t sizes[] = {1, 63, 64, 65, 100, 129};
    (void)state;
    for (int k = 0; k < 6; k++) {
        uint32_t n = sizes[k];
        struct mp_rng r = mp_rng_seed(n);
        uint64_t *matrix = calloc((size_t)n * n, sizeof *matrix);
        for (int is_sparse = 0; is_sparse < 2; is_sparse++) {
            for (size_t i = 0; i < (size_t)n * n; i++)
                matrix[i] = is_sparse && mp_rng_below(&r, 8) > 0 ? 0 : mp_rng_below(&r, 1 << 10);
            check_exact(matrix, n);
        }
        free(matrix);
    }
}

static void test_bvn__known_optima(void **state) {
    uint64_t matrix[256] = {0};
    (void)state;
    assert_int_equal(check_exact(matrix, 16), 0);
    for (uint32_t i = 0; i < 16; i++)
        matrix[i * 16 + (i * 5 + 3) % 16] = 77; /* one permutation: one stage */
    assert_int_equal(check_exact(matrix, 16), 1);
    for (uint32_t i = 0; i < 16; i++)
        for (uint32_t j = 0; j < 16; j++)
            matrix[i * 16 + j] = i == j ? 0 : 9; /* all pairs alike: as many stages as peers */
    assert_int_equal(check_exact(matrix, 16), 15);
    memset(matrix, 0, sizeof matrix);
    for (uint32_t j = 1; j < 16; j++)
        matrix[j] = j; /* one sender: its peers one after the other */
    assert_int_equal(check_exact(matrix, 16), 15);
    matrix[0] = UINT64_C(1) << 62;
    assert_int_equal(check_exact(matrix, 1), 1);
}

static void test_bvn__scaled_traffic_has_the_same_stages(void **state) {
    struct mp_rng r = mp_rng_seed(5);
    struct mp_error err = {0};
    uint64_t matrix[100], scaled[100];
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct mp_bvn *a, *b, *again;
        struct mp_bvn_stage s, t, u;
        make(matrix, 10, round % 2 == 0 ? DENSE : SPARSE, &r);
        for (int k = 0; k < 100; k++)
            scaled[k] = matrix[k] * 1000;
        CHECK_OK(mp_bvn_new(&a, 10, matrix, &err), err);
        CHECK_OK(mp_bvn_new(&b, 10, scaled, &err), err);
        CHECK_OK(mp_bvn_new(&again, 10, matrix, &err), err);
        while (mp_bvn_next(a, &s)) {
            assert_true(mp_bvn_next(b, &t) && mp_bvn_next(again, &u));
            assert_true(t.start == 1000 * s.start && t.end == 1000 * s.end && u.end == s.end);
            assert_memory_equal(t.to, s.to, 10 * sizeof *s.to);
            assert_memory_equal(u.to, s.to, 10 * sizeof *s.to);
        }
        assert_false(mp_bvn_next(b, &t));
        mp_bvn_free(a);
        mp_bvn_free(b);
        mp_bvn_free(again);
    }
}

static void check_refused(uint32_t n, const uint64_t *matrix, const char *message) {
    struct mp_error err = {0};
    struct mp_bvn *b = (struct mp_bvn *)&err;
    assert_int_equal(mp_bvn_new(&b, n, matrix, &err), MP_ELIMIT);
    assert_null(b);
    assert_string_equal(err.message, message);
}
static void test_bvn__refuses_sums_that_do_not_fit(void **state) {
    uint64_t matrix[9] = {0};
    (void)state;
    matrix[1] = (UINT64_C(1) << 62) + 1;
    check_refused(3, matrix, "traffic of end 0 or 1 adds up to more than 2^62 (use a larger unit)");
    matrix[1] = matrix[2] = (UINT64_C(1) << 61) + 1;
    check_refused(3, matrix, "traffic of end 0 or 2 adds up to more than 2^62 (use a larger unit)");
    matrix[2] = 0;
    matrix[7] = UINT64_MAX - 1;
    check_refused(3, matrix, "traffic of end 2 or 1 adds up to more than 2^62 (use a larger unit)");
    matrix[7] = UINT64_C(1) << 61;
    check_refused(3, matrix, "traffic of end 2 or 1 adds up to more than 2^62 (use a larger unit)");
    matrix[7]--;
    check_exact(matrix, 3);
    check_refused(0, matrix, "0 ends (a decomposition into matchings has 1 to 4096)");
    check_refused(4097, matrix, "4097 ends (a decomposition into matchings has 1 to 4096)");
}

static void test_bvn__exact_on_recorded_traffic(void **state) {
    (void)state;
    for (size_t k = 0; k < N_REAL_TRACES; k++)
        for (int size = 0; size < 3 && real_traces[k].n_gpus[size] > 0; size++) {
            char relative[256];
            struct mp_error err = {0};
            struct real_set set;
            const uint32_t n = real_traces[k].n_gpus[size];
            uint64_t matrix[64 * 64];
            snprintf(relative, sizeof relative, "traces/%s", real_traces[k].path);
            const char *path = shared_path(relative);
            if (path == NULL)
                skip();
            CHECK_OK(real_set_load(&set, &real_traces[k], path, n, &err), err);
            for (uint32_t l = 0; l < set.trace->n_layers; l++) {
                real_matrix(&set, l, 0, set.workload->n_steps, matrix);
                assert_true(line_bound(matrix, n) > 0);
                check_exact(matrix, n);
                real_matrix(&set, l, 0, 1, matrix);
                check_exact(matrix, n);
            }
            real_set_free(&set);
        }
}

static enum mp_status decompose(void *ctx, struct mp_error *err) {
    struct mp_bvn *b;
    struct mp_bvn_stage s;
    enum mp_status status = mp_bvn_new(&b, 9, ctx, err);
    if (status != MP_OK) {
        assert_null(b);
        return status;
    }
    while (mp_bvn_next(b, &s))
        assert_true(s.end > s.start);
    mp_bvn_free(b);
    return MP_OK;
}
static void test_bvn__survives_every_failed_allocation(void **state) {
    struct mp_rng r = mp_rng_seed(9);
    uint64_t matrix[81];
    (void)state;
    make(matrix, 9, DENSE, &r);
    sweep_faults(decompose, matrix, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bvn__reaches_the_bound_on_10000_random_matrices),
        cmocka_unit_test(test_bvn__exact_where_rows_take_several_words),
        cmocka_unit_test(test_bvn__known_optima),
        cmocka_unit_test(test_bvn__scaled_traffic_has_the_same_stages),
        cmocka_unit_test(test_bvn__refuses_sums_that_do_not_fit),
        cmocka_unit_test(test_bvn__exact_on_recorded_traffic),
        cmocka_unit_test(test_bvn__survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
