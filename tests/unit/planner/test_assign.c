/* Bottleneck assignments and sums of them against every permutation. */
#include "support.h"

#include "assign.h"
#include <moeplan/base.h>

#define N_MAX 7u

struct every {
    uint32_t n_left, n_right, n_tables, used, to[N_MAX];
    const uint64_t *const *weight;
    uint64_t best;
    bool is_found;
};

static void try_from(struct every *v, uint32_t i) {
    if (i == v->n_left) {
        uint64_t sum = 0;
        for (uint32_t t = 0; t < v->n_tables; t++) {
            uint64_t worst = 0;
            for (uint32_t k = 0; k < v->n_left; k++) {
                uint64_t w = v->weight[t][k * v->n_right + v->to[k]];
                if (w == MP_ASSIGN_NEVER)
                    return;
                worst = w > worst ? w : worst;
            }
            sum += worst;
        }
        if (!v->is_found || sum < v->best)
            v->best = sum;
        v->is_found = true;
        return;
    }
    for (uint32_t j = 0; j < v->n_right; j++) {
        if (v->used >> j & 1)
            continue;
        v->used |= 1u << j;
        v->to[i] = j;
        try_from(v, i + 1);
        v->used &= ~(1u << j);
    }
}

static uint64_t value_of(const struct every *v, const uint32_t *to) {
    uint64_t sum = 0;
    uint32_t used = 0;
    for (uint32_t t = 0; t < v->n_tables; t++) {
        uint64_t worst = 0;
        for (uint32_t k = 0; k < v->n_left; k++) {
            uint64_t w = v->weight[t][k * v->n_right + to[k]];
            assert_true(to[k] < v->n_right && w != MP_ASSIGN_NEVER);
            worst = w > worst ? w : worst;
            used |= 1u << to[k];
        }
        sum += worst;
    }
    assert_int_equal(__builtin_popcount(used), v->n_left);
    return sum;
}

static void test_assign__agrees_with_every_permutation(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(61);
    unsigned n_none = 0, n_found = 0;
    for (int i = 0; i < 4000; i++) {
        uint64_t table[3][N_MAX * N_MAX], worst, sum, bound, nodes;
        const uint64_t *const tables[3] = {table[0], table[1], table[2]};
        uint32_t to[N_MAX], n_right = 1 + (uint32_t)mp_rng_below(&rng, i % 10 == 0 ? N_MAX : 5);
        struct every v = {.n_right = n_right, .n_left = (uint32_t)mp_rng_below(&rng, n_right + 1), .weight = tables};
        uint64_t range = mp_rng_below(&rng, 2) == 0 ? 6 : 1000, never = mp_rng_below(&rng, 4);
        for (int t = 0; t < 3; t++)
            for (uint32_t k = 0; k < v.n_left * n_right; k++)
                table[t][k] = mp_rng_below(&rng, 10) < never ? MP_ASSIGN_NEVER : mp_rng_below(&rng, range);
        struct mp_error err = {0};
        bool is_found, is_proven;
        v.n_tables = 1;
        try_from(&v, 0);
        CHECK_OK(mp_assign_bottleneck(v.n_left, n_right, table[0], to, &worst, &is_found, &err), err);
        assert_int_equal(is_found, v.is_found);
        if (is_found) {
            assert_int_equal(worst, v.best);
            assert_int_equal(value_of(&v, to), worst);
        }
        v.n_tables = 1 + (uint32_t)mp_rng_below(&rng, 3);
        v.is_found = false;
        try_from(&v, 0);
        CHECK_OK(mp_assign_sum(v.n_left, n_right, v.n_tables, tables, 0, to, &sum, &bound, &nodes, &is_found,
                               &is_proven, &err),
                 err);
        assert_int_equal(is_found, v.is_found);
        assert_int_equal(is_found, is_proven);
        n_none += !is_found;
        n_found += is_found;
        if (!is_found)
            continue;
        assert_int_equal(sum, v.best);
        assert_int_equal(bound, v.best);
        assert_int_equal(value_of(&v, to), sum);
        /* With a budget: still an assignment, and an honest bound. */
        CHECK_OK(mp_assign_sum(v.n_left, n_right, v.n_tables, tables, 1 + mp_rng_below(&rng, 4), to, &sum, &bound,
                               &nodes, &is_found, &is_proven, &err),
                 err);
        assert_true(is_found && bound <= v.best && sum >= v.best && is_proven == (bound == sum));
        assert_int_equal(value_of(&v, to), sum);
    }
    assert_true(n_none >= 200 && n_found >= 2000);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    static const uint64_t table[9] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    const uint64_t *const tables[2] = {table, table};
    uint32_t to[3];
    uint64_t worst, sum, bound, nodes;
    bool is_found, is_proven;
    (void)ctx;
    enum mp_status status = mp_assign_bottleneck(3, 3, table, to, &worst, &is_found, err);
    if (status == MP_OK)
        status = mp_assign_sum(3, 3, 2, tables, 0, to, &sum, &bound, &nodes, &is_found, &is_proven, err);
    return status;
}

static void test_assign__survives_faults(void **state) {
    (void)state;
    sweep_faults(flow, NULL, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_assign__agrees_with_every_permutation),
        cmocka_unit_test(test_assign__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
