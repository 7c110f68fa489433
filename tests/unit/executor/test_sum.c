/* Rings of sums: every rank ends with the sum of all members' words whatever the members, sizes and nodes; nobody waits
 * in a circle; each sends what a ring costs and no more. */
#include "../../../executor/sum.h"
#include "support.h"
#include <moeplan/base.h>

enum { RANKS_MAX = 12, SPANS_MAX = 5 };

struct group { /* ranks with blocks and their lists */
    struct mp_topology *t;
    uint32_t n, n_spans;
    uint32_t members[SPANS_MAX][RANKS_MAX], n_members[SPANS_MAX];
    uint64_t words[SPANS_MAX], block_bytes;
    uint64_t at[SPANS_MAX]; /* the same on all ranks */
    uint8_t *blocks[RANKS_MAX];
    struct ex_ring *rings[RANKS_MAX];
};

static uint64_t word_of(uint32_t span, uint32_t rank, uint64_t w) {
    return mp_mix64((uint64_t)span << 48 | (uint64_t)rank << 32 | w);
}

static void add_span(struct group *g, struct mp_rng *r, bool is_all, uint64_t words) {
    const uint32_t s = g->n_spans++;
    g->words[s] = words;
    for (uint32_t k = 0; k < g->n; k++)
        if (is_all || mp_rng_below(r, 3) > 0)
            g->members[s][g->n_members[s]++] = k;
    for (uint32_t k = 0; g->n_members[s] < 2; k++) { /* the first two */
        g->members[s][0] = 0;
        g->members[s][1] = 1;
        g->n_members[s] = 2;
    }
    g->at[s] = g->block_bytes;
    g->block_bytes += words * 8;
}

static void prepare(struct group *g) {
    for (uint32_t k = 0; k < g->n; k++) {
        struct mp_error err = {0};
        struct ex_span spans[SPANS_MAX];
        struct ex_sum sum = {.spans = spans};
        g->blocks[k] = calloc(g->block_bytes + 1, 1);
        for (uint32_t s = 0; s < g->n_spans; s++) {
            for (uint64_t w = 0; w < g->words[s]; w++) {
                const uint64_t word = word_of(s, k, w);
                memcpy(g->blocks[k] + g->at[s] + w * 8, &word, 8);
            }
            for (uint32_t m = 0; m < g->n_members[s]; m++)
                if (g->members[s][m] == k)
                    spans[sum.n_spans++] = (struct ex_span){g->at[s], g->words[s] * 8, g->n_members[s], g->members[s]};
        }
        CHECK_OK(ex_ring_new(&g->rings[k], &sum, k, g->t, &err), err);
    }
}

static void check_sums(const struct group *g) {
    for (uint32_t s = 0; s < g->n_spans; s++)
        for (uint64_t w = 0; w < g->words[s]; w++) {
            uint64_t want = 0, got;
            bool is_member[RANKS_MAX] = {false};
            for (uint32_t m = 0; m < g->n_members[s]; m++) {
                want += word_of(s, g->members[s][m], w);
                is_member[g->members[s][m]] = true;
            }
            for (uint32_t k = 0; k < g->n; k++) {
                memcpy(&got, g->blocks[k] + g->at[s] + w * 8, 8);
                assert_true(got == (is_member[k] ? want : word_of(s, k, w)));
            }
        }
}

static void drop(struct group *g) {
    for (uint32_t k = 0; k < g->n; k++) {
        free(g->blocks[k]);
        ex_ring_free(g->rings[k]);
    }
    mp_topology_free(g->t);
    memset(g, 0, sizeof *g);
}

static void load(struct group *g, uint32_t n_nodes, uint32_t size) {
    char text[32];
    struct mp_error err = {0};
    snprintf(text, sizeof text, "%ux%u:h100", n_nodes, size);
    memset(g, 0, sizeof *g);
    CHECK_OK(mp_topology_load(&g->t, text, &mp_limits_default, &err), err);
    g->n = g->t->n_gpus;
}

static void test_sum__every_member_ends_with_the_sum(void **state) {
    (void)state;
    static struct group g;
    struct mp_rng r = mp_rng_seed(7);
    uint32_t n_hierarchical = 0;
    for (uint32_t seed = 0; seed < 150; seed++) {
        struct mp_error err = {0};
        const uint32_t n_nodes = 1 + (uint32_t)mp_rng_below(&r, 3);
        const uint32_t size = (n_nodes == 1 ? 2 : 1) + (uint32_t)mp_rng_below(&r, 3);
        load(&g, n_nodes, size);
        const uint32_t n_spans = 1 + (uint32_t)mp_rng_below(&r, SPANS_MAX);
        for (uint32_t s = 0; s < n_spans; s++) {
            const bool is_all = mp_rng_below(&r, 2) == 0, is_long = mp_rng_below(&r, 4) == 0;
            n_hierarchical += is_all && n_nodes > 1 && size > 1;
            add_span(&g, &r, is_all, 1 + mp_rng_below(&r, is_long ? 100000 : 40));
        }
        prepare(&g);
        CHECK_OK(ex_rings_carry_out(g.rings, g.blocks, g.n, &err), err);
        check_sums(&g);
        drop(&g);
    }
    assert_true(n_hierarchical > 40);
}

/* A ring of n sends 2 (n - 1) / n of the words; where nodes are alike, only 2 (N - 1) / N of a GPU's share leaves them.
 */
static void test_sum__what_a_ring_sends(void **state) {
    (void)state;
    static struct group g;
    static const struct { uint32_t n_nodes, size; } shapes[] = {{1, 4}, {4, 1}, {2, 4}, {3, 2}, {1, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const uint32_t n_nodes = shapes[i].n_nodes, size = shapes[i].size;
        struct mp_rng r = mp_rng_seed(1);
        load(&g, n_nodes, size);
        const uint64_t words = 24 * 1000;
        add_span(&g, &r, true, words);
        prepare(&g);
        for (uint32_t k = 0; k < g.n; k++) {
            uint64_t inside = 0, between = 0;
            for (size_t m = 0; m < g.rings[k]->n_sends; m++) {
                const struct ex_move *x = &g.rings[k]->sends[m];
                if (mp_topology_node(g.t, x->peer) == mp_topology_node(g.t, k))
                    inside += x->bytes;
                else
                    between += x->bytes;
            }
            const uint64_t of_inside = 2 * (size - 1) * words * 8 / size,
                           of_between = size > 1 || n_nodes > 1 ? 2 * (n_nodes - 1) * words * 8 / g.n : 0;
            assert_true(inside + 8 * 32 >= of_inside && inside <= of_inside + 8 * 32);
            assert_true(between + 8 * 32 >= of_between && between <= of_between + 8 * 32);
        }
        drop(&g);
    }
}

/* Two ends that do not agree are seen. */
static void test_sum__a_lie_is_seen(void **state) {
    (void)state;
    static struct group g;
    struct mp_error err = {0};
    struct mp_rng r = mp_rng_seed(3);
    load(&g, 1, 4);
    add_span(&g, &r, true, 100);
    prepare(&g);
    g.rings[2]->sends[0].bytes -= 8;
    assert_int_equal(ex_rings_carry_out(g.rings, g.blocks, g.n, &err), MP_EPEER);
    assert_non_null(strstr(err.message, "rank 2 sends rank 3"));
    drop(&g);
}

struct making {
    struct group *g;
    struct ex_sum *sum;
};
static enum mp_status make_ring(void *ctx, struct mp_error *err) {
    const struct making *m = ctx;
    struct ex_ring *ring;
    enum mp_status status = ex_ring_new(&ring, m->sum, 1, m->g->t, err);
    if (status == MP_OK)
        ex_ring_free(ring);
    else
        assert_null(ring);
    return status;
}
static void test_sum__faults(void **state) {
    (void)state;
    static struct group g;
    struct mp_rng r = mp_rng_seed(3);
    load(&g, 1, 4);
    add_span(&g, &r, true, 100);
    struct ex_span span = {0, 800, 4, g.members[0]};
    struct ex_sum sum = {.n_spans = 1, .spans = &span};
    sweep_faults(make_ring, &(struct making){&g, &sum}, 1);
    mp_topology_free(g.t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum__every_member_ends_with_the_sum),
        cmocka_unit_test(test_sum__what_a_ring_sends),
        cmocka_unit_test(test_sum__a_lie_is_seen),
        cmocka_unit_test(test_sum__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
