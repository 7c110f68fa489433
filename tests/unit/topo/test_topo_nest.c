/* Nested groups in a matrix of distances, against the definition. */
#include "import.h"
#include "../../../src/topo/topo_draft.h"
#include <moeplan/base.h>

static bool is_near(const uint8_t *d, uint32_t n, uint32_t l, uint32_t a, uint32_t b) {
    return a == b || d[a * n + b] <= l;
}

static void test_topo_nest__agrees_with_the_definition(void **state) {
    (void)state;
    struct mp_rng r = mp_rng_seed(11);
    uint32_t count[3] = {0, 0, 0};
    for (uint32_t round = 0; round < 20000; round++) {
        const uint32_t n = 1 + (uint32_t)mp_rng_below(&r, 6), n_levels = 1 + (uint32_t)mp_rng_below(&r, 3);
        uint8_t d[36] = {0};
        uint32_t group[18], at[3];
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < a; b++)
                d[a * n + b] = d[b * n + a] = (uint8_t)mp_rng_below(&r, n_levels);
        struct topo_nest nest = {.n = n, .n_levels = n_levels, .group = group};
        bool is_transitive = true, is_run = true;
        for (uint32_t l = 0; l < n_levels; l++)
            for (uint32_t a = 0; a < n; a++)
                for (uint32_t b = 0; b < n; b++)
                    for (uint32_t c = 0; c < n; c++) {
                        const bool ab = is_near(d, n, l, a, b), bc = is_near(d, n, l, b, c),
                                   ac = is_near(d, n, l, a, c);
                        is_transitive = is_transitive && !(ab && bc && !ac);
                        is_run = is_run && !(a < b && b < c && ac && !ab);
                    }
        const enum topo_nest_outcome got = topo_nest_find(&nest, d, at);
        assert_int_equal(got, !is_transitive ? TOPO_NEST_BROKEN : is_run ? TOPO_NEST_OK : TOPO_NEST_SCATTERED);
        count[got]++;
        if (got == TOPO_NEST_BROKEN) {
            assert_true(d[at[0] * n + at[1]] < d[at[0] * n + at[2]] && d[at[1] * n + at[2]] < d[at[0] * n + at[2]]);
        } else if (got == TOPO_NEST_SCATTERED) {
            assert_true(at[0] < at[1] && at[1] < at[2]);
            assert_true(d[at[0] * n + at[2]] < d[at[0] * n + at[1]]);
            /* In the order proposed, all groups are runs. */
            char order[200];
            uint32_t rank[6], k = 0;
            const char *s = topo_nest_order(&nest, order, sizeof order);
            for (char *end; *s != '\0'; s = end)
                rank[k++] = (uint32_t)strtoul(s, &end, 10);
            assert_int_equal(k, n);
            uint8_t moved[36];
            for (uint32_t a = 0; a < n; a++)
                for (uint32_t b = 0; b < n; b++)
                    moved[a * n + b] = d[rank[a] * n + rank[b]];
            assert_int_equal(topo_nest_find(&nest, moved, at), TOPO_NEST_OK);
        } else {
            for (uint32_t l = 0; l < n_levels; l++)
                for (uint32_t a = 0; a < n; a++)
                    for (uint32_t b = 0; b < n; b++)
                        assert_int_equal(group[l * n + a] == group[l * n + b], is_near(d, n, l, a, b));
        }
    }
    assert_true(count[0] > 500 && count[1] > 1000 && count[2] > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_topo_nest__agrees_with_the_definition)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
