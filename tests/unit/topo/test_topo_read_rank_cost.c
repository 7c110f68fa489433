/* SGLang's rank_cost_matrix in and out. */
#include "import.h"
#include <moeplan/base.h>

static void test_topo_read_rank_cost__costs_become_rates(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("", "{\"rank_cost_matrix\": [[0, 2, 8, 8], [2, 0, 8, 8], [8, 8, 0, 2.0], [8, 8, 2, 0]]}", ":h100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(port_out(t, 0, 0), 380000000000);
    assert_int_equal(port_out(t, 3, 1), 95000000000);
    mp_topology_free(t);
}

static void test_topo_read_rank_cost__free_pairs_and_single_ranks(void **state) {
    (void)state;
    struct mp_topology *t = import_text("", "{\"rank_cost_matrix\": [[0, 0, 1], [0, 0, 1], [1, 1, 0]]}", ":h100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(port_out(t, 0, 0), 380000000000);
    assert_int_equal(port_out(t, 0, 1), 48850000000);
    mp_topology_free(t);
    t = import_text("2x", "{\"rank_cost_matrix\": [[0]]}", ":h100");
    assert_int_equal(t->n_gpus, 2);
    mp_topology_free(t);
    t = import_text("", "{\"rank_cost_matrix\": [[0, 0], [0, 0]]}", ":h100");
    assert_int_equal(t->n_levels, 1);
    mp_topology_free(t);
}

/* Sizes of nested groups, drawn; the costs of the levels, drawn, ascending from 1. */
static size_t random_matrix(struct mp_rng *r, char *text, uint32_t *n_out) {
    uint32_t group[4][64], n = 0, n_levels = 1 + (uint32_t)mp_rng_below(r, 4);
    uint64_t cost[4] = {100};
    for (uint32_t l = 1; l < n_levels; l++)
        cost[l] = cost[l - 1] + 1 + mp_rng_below(r, 500);
    n = 2 + (uint32_t)mp_rng_below(r, 20);
    for (uint32_t l = n_levels; l-- > 0;)
        for (uint32_t g = 0; g < n; g++) {
            const bool is_cut = g > 0 && ((l + 1 < n_levels && group[l + 1][g] != group[l + 1][g - 1]) ||
                                          (l + 1 < n_levels && mp_rng_below(r, 3) == 0));
            group[l][g] = g == 0 ? 0 : group[l][g - 1] + is_cut;
        }
    /* The cheapest cost occurs, as what is written has it 1. */
    size_t used = (size_t)sprintf(text, "{\"rank_cost_matrix\": [");
    bool has_first = false;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++) {
            uint32_t l = 0;
            while (group[l][i] != group[l][k])
                l++;
            has_first = has_first || (i != k && l == 0);
            char number[32];
            snprintf(number, sizeof number, "%.9g", i == k ? 0 : (double)cost[l] / 100);
            used += (size_t)sprintf(text + used, "%s%s%s", k > 0 ? ", " : "[", number,
                                    k + 1 < n   ? ""
                                    : i + 1 < n ? "],\n"
                                                : "]]}\n");
        }
    *n_out = n;
    return has_first ? used : 0;
}

static void test_topo_read_rank_cost__written_as_it_was_read(void **state) {
    (void)state;
    struct mp_rng r = mp_rng_seed(7);
    static char text[20000];
    uint32_t n, n_done = 0;
    for (uint32_t i = 0; i < 300; i++) {
        if (random_matrix(&r, text, &n) == 0)
            continue;
        struct mp_topology *t = import_text("", text, ":h100");
        assert_int_equal(t->n_gpus, n);
        assert_string_equal(written(t, "rank-cost-matrix", NULL), text);
        mp_topology_free(t);
        n_done++;
    }
    assert_true(n_done > 100);
}

/* What presets write is read again to the same costs; shared NICs and uplinks count by who shares them. */
static void test_topo_read_rank_cost__presets_through_the_matrix(void **state) {
    (void)state;
    static const char *const specs[] = {
        "h100-n1g8", "nvl72", "mi300x-n1g8", "shared-nic", "h100-n4g8-oversubscribed", "rack-two-tier", "4x8:h100"};
    static char first[1 << 20];
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct mp_error err = {0};
        struct mp_topology *t = NULL;
        CHECK_OK(mp_topology_load(&t, specs[i], NULL, &err), err);
        snprintf(first, sizeof first, "%s", written(t, "rank-cost-matrix", NULL));
        mp_topology_free(t);
        t = import_text("", first, ":h100");
        assert_string_equal(written(t, "rank-cost-matrix", NULL), first);
        mp_topology_free(t);
    }
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    CHECK_OK(mp_topology_load(&t, "shared-nic", NULL, &err), err);
    /* 125 GB/s in the node; two GPUs share a NIC of 9.5: 2 * 125 / 9.5 times the cost. */
    assert_non_null(strstr(written(t, "rank-cost-matrix", NULL), "1, 26.3157895, 26.3157895"));
    mp_topology_free(t);
}

static void test_topo_read_rank_cost__refuses_with_the_path(void **state) {
    (void)state;
#define COSTS(x) "{\"rank_cost_matrix\": " x "}"
    import_refused("", COSTS("[]"), ":h100", 1, 22, "rank_cost_matrix: is not a list of 1 to 4096 rows");
    import_refused("", COSTS("3"), ":h100", 1, 22, "is not a list");
    import_refused("", COSTS("[[0, 1],\n [1]]"), ":h100", 2, 2,
                   "rank_cost_matrix/1: 1 entries in a row of a matrix of 2");
    import_refused("", COSTS("[[0, 1],\n [-1, 0]]"), ":h100", 2, 3, "rank_cost_matrix/1/0: -1 is negative");
    import_refused("", COSTS("[[0, 1],\n [1, 2]]"), ":h100", 2, 6, "rank_cost_matrix/1/1: 2 from a rank to itself");
    import_refused("", COSTS("[[0, \"a\"], [1, 0]]"), ":h100", 1, 27, "rank_cost_matrix/0/1: is not a number");
    import_refused("", COSTS("[[0, 1],\n [2, 0]]"), ":h100", 2, 3, "2 here and 1 from rank 0 to rank 1");
    import_refused("", COSTS("[[0, 1, 8], [1, 0, 1], [8, 1, 0]]"), ":h100", 1, 30,
                   "8, but rank 0 to 1 costs 1 and 1 to 2 costs 1: no tree");
    import_refused("", COSTS("[[0, 8, 1], [8, 0, 8], [1, 8, 0]]"), ":h100", 1, 30, "group by group: 0 2 1");
    import_refused("", COSTS("[[0, 1e-300, 1], [1e-300, 0, 1], [1, 1, 0]]"), ":h100", 1, 22,
                   "write costs that are nearer");
    import_refused("", COSTS("[[0, NaN], [1, 0]]"), ":h100", 1, 29, "not valid JSON");
    import_refused("", COSTS("[[0, 1], [1, 0]]"), "", 0, 0, "which GPUs the ranks have");
    import_refused("", COSTS("[[0, 1], [1, 0]]"), ":h900", 0, 0, "\"h900\" behind the colon");
    import_refused("", COSTS("[[0,1,2,3,4,5],[1,0,2,3,4,5],[2,2,0,3,4,5],[3,3,3,0,4,5],[4,4,4,4,0,5],[5,5,5,5,5,0]]"),
                   ":h100", 1, 94, "5 is one more than 4 different costs");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_rank_cost__costs_become_rates),
        cmocka_unit_test(test_topo_read_rank_cost__free_pairs_and_single_ranks),
        cmocka_unit_test(test_topo_read_rank_cost__written_as_it_was_read),
        cmocka_unit_test(test_topo_read_rank_cost__presets_through_the_matrix),
        cmocka_unit_test(test_topo_read_rank_cost__refuses_with_the_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
