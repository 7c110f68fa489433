/* The optimal split of tokens over replicas: brute force and GLPK agree with it, nothing else is better. */
#include "support.h"
#include "mip.h"
#include "split.h"
#include <moeplan/base.h>

#define GPUS_MAX 64u
#define SLOTS_MAX 320u
#define EXPERTS_MAX 256u

struct instance {
    struct mp_split_problem p;
    uint32_t gpu_node[GPUS_MAX], class_gpu[GPUS_MAX], class_node[GPUS_MAX], slot_gpu[SLOTS_MAX];
    uint16_t slot_expert[SLOTS_MAX];
    uint64_t rows[GPUS_MAX * EXPERTS_MAX], row_ps[GPUS_MAX], fixed_ps[GPUS_MAX];
};

/* n_slots / n_gpus slots each; every expert once, the rest drawn; rows in [0, rows_max]. */
static void draw(struct instance *x, struct mp_rng *rng, uint32_t n_nodes, uint32_t n_gpus, uint32_t n_experts,
                 uint32_t n_slots, uint64_t rows_max, bool is_by_node, bool is_unequal) {
    uint32_t order[SLOTS_MAX];
    x->p = (struct mp_split_problem){.n_gpus = n_gpus,
                                     .n_classes = is_by_node ? n_nodes : n_gpus,
                                     .n_experts = n_experts,
                                     .n_slots = n_slots,
                                     .gpu_node = x->gpu_node,
                                     .class_gpu = is_by_node ? NULL : x->class_gpu,
                                     .class_node = x->class_node,
                                     .slot_expert = x->slot_expert,
                                     .slot_gpu = x->slot_gpu,
                                     .rows = x->rows,
                                     .row_ps = x->row_ps,
                                     .fixed_ps = is_unequal ? x->fixed_ps : NULL};
    for (uint32_t g = 0; g < n_gpus; g++) {
        x->gpu_node[g] = g * n_nodes / n_gpus;
        x->row_ps[g] = is_unequal ? 1 + mp_rng_below(rng, 5) : 1;
        x->fixed_ps[g] = mp_rng_below(rng, 4);
    }
    for (uint32_t c = 0; c < x->p.n_classes; c++) {
        x->class_gpu[c] = c;
        x->class_node[c] = is_by_node ? c : x->gpu_node[c];
    }
    for (uint32_t s = 0; s < n_slots; s++) {
        order[s] = s;
        x->slot_gpu[s] = s * n_gpus / n_slots;
    }
    mp_rng_shuffle(rng, order, n_slots);
    for (uint32_t s = 0; s < n_slots; s++)
        x->slot_expert[order[s]] = (uint16_t)(s < n_experts ? s : mp_rng_below(rng, n_experts));
    for (uint32_t i = 0; i < x->p.n_classes * n_experts; i++)
        x->rows[i] = mp_rng_below(rng, rows_max + 1);
}

static bool is_better(const struct mp_split_value *a, const struct mp_split_value *b) {
    if (a->peak_ps != b->peak_ps)
        return a->peak_ps < b->peak_ps;
    return a->inter_rows != b->inter_rows ? a->inter_rows < b->inter_rows : a->intra_rows < b->intra_rows;
}

static void check_same(const struct mp_split_value *a, const struct mp_split_value *b) {
    assert_int_equal(a->peak_ps, b->peak_ps);
    assert_int_equal(a->inter_rows, b->inter_rows);
    assert_int_equal(a->intra_rows, b->intra_rows);
}

/* Solves, and checks that the split is one and is worth what it says. */
static struct mp_split_value solve(const struct mp_split_problem *p, struct mp_splitter **out, struct mp_arena *arena,
                                   uint64_t limit) {
    struct mp_error err = {0};
    static uint64_t rows[GPUS_MAX * SLOTS_MAX], gpu_rows[GPUS_MAX];
    CHECK_OK(mp_split_new(out, p, arena, &err), err);
    const uint64_t peak = mp_split_peak(*out);
    const struct mp_split_value v = mp_split_within(*out, limit > peak ? limit : peak);
    mp_split_rows(*out, rows);
    const struct mp_split_value real = mp_split_value_of(p, rows, gpu_rows);
    check_same(&v, &real);
    if (limit <= peak)
        assert_int_equal(v.peak_ps, peak);
    else
        assert_true(v.peak_ps <= limit);
    for (uint32_t c = 0; c < p->n_classes; c++) {
        uint64_t sum[EXPERTS_MAX] = {0};
        for (uint32_t s = 0; s < p->n_slots; s++)
            sum[p->slot_expert[s]] += rows[(size_t)c * p->n_slots + s];
        for (uint32_t e = 0; e < p->n_experts; e++)
            assert_int_equal(sum[e], p->rows[(size_t)c * p->n_experts + e]);
    }
    return v;
}

/* ---- brute force: every split in whole rows ---- */
struct brute {
    const struct mp_split_problem *p;
    uint64_t rows[8 * 8], gpu_rows[GPUS_MAX];
    struct mp_split_value best;
};
static void try_all(struct brute *b, uint32_t class, uint32_t expert, uint32_t slot, uint64_t left) {
    const struct mp_split_problem *p = b->p;
    if (class == p->n_classes) {
        const struct mp_split_value v = mp_split_value_of(p, b->rows, b->gpu_rows);
        b->best = is_better(&v, &b->best) ? v : b->best;
        return;
    }
    while (slot < p->n_slots && p->slot_expert[slot] != expert)
        slot++;
    if (slot == p->n_slots) {
        const bool is_last = expert + 1 == p->n_experts;
        const uint32_t c = class + is_last, e = is_last ? 0 : expert + 1;
        if (left == 0)
            try_all(b, c, e, 0, c < p->n_classes ? p->rows[c * p->n_experts + e] : 0);
        return;
    }
    for (uint64_t n = 0; n <= left; n++) {
        b->rows[class * p->n_slots + slot] = n;
        try_all(b, class, expert, slot + 1, left - n);
    }
    b->rows[class * p->n_slots + slot] = 0;
}

static void test_route_split__brute_force(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    static struct instance x;
    for (int i = 0; i < 400; i++) {
        const uint32_t n_nodes = 1 + i % 2, n_gpus = n_nodes * (1 + (uint32_t)mp_rng_below(&rng, 2)),
                       n_experts = n_gpus + (uint32_t)mp_rng_below(&rng, 2), n_slots = n_experts + 2;
        draw(&x, &rng, n_nodes, n_gpus, n_experts, n_slots, 2, i % 3 == 2, i % 5 > 2);
        struct mp_arena *arena = mp_arena_new();
        struct mp_splitter *s;
        struct brute b = {.p = &x.p, .best = {UINT64_MAX, 0, 0}};
        try_all(&b, 0, 0, 0, x.rows[0]);
        const struct mp_split_value v = solve(&x.p, &s, arena, 0);
        check_same(&v, &b.best);
        mp_arena_free(arena);
    }
}

/* ---- GLPK: the fewest copies within a limit as a linear program; its rows are a transport's, so that the optimum is
 * whole. False: the limit cannot be kept. ---- */
static bool by_glpk(const struct mp_split_problem *p, uint64_t limit, struct mp_split_value *v) {
    struct mp_error err = {0};
    struct mp_mip *m;
    struct mp_mip_answer answer;
    struct mp_arena *arena = mp_arena_new();
    struct mp_mip_term *terms = mp_arena_alloc(arena, p->n_slots * p->n_classes, sizeof *terms);
    uint64_t total = 0;
    char name[MP_MIP_NAME_MAX];
    CHECK_OK(mp_mip_new(&m, &err), err);
    for (uint32_t i = 0; i < p->n_classes * p->n_experts; i++)
        total += p->rows[i];
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t s = 0; s < p->n_slots; s++) {
            const uint32_t gpu = p->slot_gpu[s];
            const bool is_intra = p->class_gpu != NULL && p->class_gpu[c] != gpu;
            snprintf(name, sizeof name, "x_%u_%u", c, s);
            const struct mp_mip_variable x = {.name = name,
                                              .upper = (int64_t)p->rows[c * p->n_experts + p->slot_expert[s]],
                                              .cost =
                                                  p->gpu_node[gpu] != p->class_node[c] ? (int64_t)total + 1 : is_intra};
            CHECK_OK(mp_mip_add_variable(m, &x, NULL, &err), err);
        }
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t e = 0; e < p->n_experts; e++) {
            uint32_t n = 0;
            for (uint32_t s = 0; s < p->n_slots; s++)
                if (p->slot_expert[s] == e)
                    terms[n++] = (struct mp_mip_term){c * p->n_slots + s, 1};
            const int64_t rows = (int64_t)p->rows[c * p->n_experts + e];
            snprintf(name, sizeof name, "all_%u_%u", c, e);
            CHECK_OK(mp_mip_add_row(m, &(struct mp_mip_row){name, rows, rows, n, terms}, &err), err);
        }
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        const uint64_t fixed = p->fixed_ps != NULL ? p->fixed_ps[g] : 0;
        uint32_t n = 0;
        for (uint32_t c = 0; c < p->n_classes; c++)
            for (uint32_t s = 0; s < p->n_slots; s++)
                if (p->slot_gpu[s] == g)
                    terms[n++] = (struct mp_mip_term){c * p->n_slots + s, 1};
        const int64_t rows = limit < fixed ? 0 : (int64_t)((limit - fixed) / p->row_ps[g]);
        snprintf(name, sizeof name, "gpu_%u", g);
        CHECK_OK(mp_mip_add_row(m, &(struct mp_mip_row){name, -MP_MIP_FREE, rows, n, terms}, &err), err);
    }
    CHECK_OK(mp_mip_solve(&answer, m, &(struct mp_mip_options){.node_limit = 1000}, arena, &err), err);
    assert_true(answer.outcome == MP_FOUND || answer.outcome == MP_NOT_FOUND);
    if (answer.outcome == MP_FOUND) {
        v->inter_rows = (uint64_t)answer.objective / (total + 1);
        v->intra_rows = (uint64_t)answer.objective % (total + 1);
    }
    mp_mip_free(m);
    mp_arena_free(arena);
    return answer.outcome == MP_FOUND;
}

static void test_route_split__glpk(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(2);
    static struct instance x;
    for (int i = 0; i < 150; i++) {
        const uint32_t n_nodes = 1 + (uint32_t)mp_rng_below(&rng, 3), n_gpus = n_nodes * 2, n_experts = 3 * n_gpus,
                       n_slots = 4 * n_gpus;
        draw(&x, &rng, n_nodes, n_gpus, n_experts, n_slots, 40, i % 4 == 3, i % 3 == 2);
        struct mp_arena *arena = mp_arena_new();
        struct mp_splitter *s;
        const struct mp_split_value v = solve(&x.p, &s, arena, 0);
        struct mp_split_value best = {0};
        assert_false(by_glpk(&x.p, v.peak_ps - 1, &best));
        assert_true(by_glpk(&x.p, v.peak_ps, &best));
        assert_int_equal(v.inter_rows, best.inter_rows);
        assert_int_equal(v.intra_rows, best.intra_rows);
        /* and with room above the least peak */
        const uint64_t limit = v.peak_ps + v.peak_ps / 10 + 1;
        const struct mp_split_value more = mp_split_within(s, limit);
        assert_true(by_glpk(&x.p, limit, &best));
        assert_int_equal(more.inter_rows, best.inter_rows);
        assert_int_equal(more.intra_rows, best.intra_rows);
        mp_arena_free(arena);
    }
}

/* ---- properties ---- */
static void test_route_split__never_worse_than_others(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    static struct instance x;
    static uint64_t rows[GPUS_MAX * SLOTS_MAX], gpu_rows[GPUS_MAX];
    for (int i = 0; i < 60; i++) {
        draw(&x, &rng, 1 + i % 4, 4 * (1 + (uint32_t)i % 4), 32, 48, 1000, i % 4 == 3, i % 2);
        struct mp_arena *arena = mp_arena_new();
        struct mp_splitter *s;
        const struct mp_split_value v = solve(&x.p, &s, arena, 0);
        for (int how = 0; how < 3; how++) { /* evenly, all to one replica, drawn */
            memset(rows, 0, sizeof rows);
            for (uint32_t c = 0; c < x.p.n_classes; c++)
                for (uint32_t e = 0; e < x.p.n_experts; e++) {
                    uint32_t slots[SLOTS_MAX], n = 0;
                    for (uint32_t k = 0; k < x.p.n_slots; k++)
                        if (x.slot_expert[k] == e)
                            slots[n++] = k;
                    for (uint64_t left = x.rows[c * x.p.n_experts + e], j = 0; left > 0; left--, j++)
                        rows[c * x.p.n_slots + slots[how == 0 ? j % n : how == 1 ? c % n : mp_rng_below(&rng, n)]]++;
                }
            const struct mp_split_value other = mp_split_value_of(&x.p, rows, gpu_rows);
            assert_false(is_better(&other, &v));
        }
        mp_arena_free(arena);
    }
}

/* More room for the peak never means more copies, and the least peak is not passed by a limit below it. */
static void test_route_split__limits(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    static struct instance x;
    draw(&x, &rng, 4, 16, 64, 96, 5000, false, true);
    struct mp_arena *arena = mp_arena_new();
    struct mp_splitter *s;
    struct mp_split_value last = solve(&x.p, &s, arena, 0);
    const uint64_t peak = last.peak_ps;
    for (uint64_t percent = 1; percent < 200; percent += 7) {
        const struct mp_split_value v = solve(&x.p, &s, arena, peak + peak * percent / 100);
        assert_true(v.inter_rows < last.inter_rows ||
                    (v.inter_rows == last.inter_rows && v.intra_rows <= last.intra_rows));
        last = v;
    }
    assert_true(last.inter_rows < solve(&x.p, &s, arena, 0).inter_rows);
    const struct mp_split_value low = mp_split_within(s, 1);
    assert_int_equal(low.peak_ps, peak);
    mp_arena_free(arena);
}

/* Two nodes of two GPUs, expert 0 on GPUs 0 and 2, expert 1 on GPU 1, expert 2 on GPU 3. */
static void test_route_split__known(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(5);
    draw(&x, &rng, 2, 4, 3, 4, 0, false, false);
    const uint16_t experts[4] = {0, 1, 0, 2};
    memcpy(x.slot_expert, experts, sizeof experts);
    const uint64_t rows[4][3] = {{10, 8, 0}, {30, 0, 0}, {20, 0, 8}, {0, 0, 0}};
    memcpy(x.rows, rows, sizeof rows);
    struct mp_arena *arena = mp_arena_new();
    struct mp_splitter *s;
    uint32_t weights[4 * 4];
    /* 60 rows on two GPUs: 30 each, so that 10 rows of GPU 1 leave their node, and 20 go to GPU 0 beside them; expert
     * 1's 8 rows of GPU 0 and expert 2's of GPU 2 stay inside. */
    struct mp_split_value v = solve(&x.p, &s, arena, 0);
    check_same(&v, &(struct mp_split_value){30, 10, 36});
    mp_split_weights(s, 64, weights);
    assert_int_equal(weights[0 * 4 + 0], 1); /* own GPU */
    assert_int_equal(weights[0 * 4 + 2], 0);
    assert_int_equal(weights[1 * 4 + 0], 43); /* two of three */
    assert_int_equal(weights[1 * 4 + 2], 21);
    assert_int_equal(weights[2 * 4 + 0], 0);
    assert_int_equal(weights[2 * 4 + 2], 1);
    assert_int_equal(weights[3 * 4 + 0], 0); /* nobody came from there: the replica on its node */
    assert_int_equal(weights[3 * 4 + 2], 1);
    assert_int_equal(weights[0 * 4 + 1], 0); /* expert 1 has nothing to choose */
    /* With room for 40 nothing leaves its node. */
    v = solve(&x.p, &s, arena, 40);
    check_same(&v, &(struct mp_split_value){40, 0, 46});
    /* GPU 2 takes twice as long for a row: 40 rows on GPU 0. */
    x.row_ps[2] = 2;
    v = solve(&x.p, &s, arena, 0);
    check_same(&v, &(struct mp_split_value){40, 0, 46});
    mp_arena_free(arena);
}

/* Two replicas on one GPU are one, and its weight is all on the lower slot. */
static void test_route_split__twins(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(6);
    draw(&x, &rng, 1, 2, 2, 4, 9, false, false);
    const uint16_t experts[4] = {0, 0, 1, MP_NO_EXPERT};
    memcpy(x.slot_expert, experts, sizeof experts);
    struct mp_arena *arena = mp_arena_new();
    struct mp_splitter *s;
    struct mp_error err = {0};
    uint32_t weights[2 * 4];
    CHECK_OK(mp_split_new(&s, &x.p, arena, &err), err);
    assert_int_equal(mp_split_peak(s),
                     x.rows[0] + x.rows[2] > x.rows[1] + x.rows[3] ? x.rows[0] + x.rows[2] : x.rows[1] + x.rows[3]);
    (void)mp_split_within(s, 0);
    mp_split_weights(s, 64, weights);
    const uint32_t expected[2 * 4] = {1, 0, 0, 0, 1, 0, 0, 0};
    assert_memory_equal(weights, expected, sizeof weights);
    mp_arena_free(arena);
}

/* Weights add up to at most 64 for each expert with several slots and each class, and give each GPU the rows of the
 * split within what 64ths can: a row in 128 of each of its replicated experts, and one for each class. */
static void test_route_split__weights(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(7);
    static struct instance x;
    static uint64_t rows[GPUS_MAX * SLOTS_MAX], gpu_rows[GPUS_MAX], weighted[GPUS_MAX];
    static uint32_t weights[GPUS_MAX * SLOTS_MAX];
    for (int i = 0; i < 40; i++) {
        draw(&x, &rng, 1 + i % 4, 16, 64, 96, 5000, i % 3 == 2, i % 2);
        struct mp_arena *arena = mp_arena_new();
        struct mp_splitter *s;
        (void)solve(&x.p, &s, arena, 0);
        mp_split_rows(s, rows);
        (void)mp_split_value_of(&x.p, rows, gpu_rows);
        mp_split_weights(s, 64, weights);
        uint64_t slack[GPUS_MAX] = {0};
        memset(weighted, 0, sizeof weighted);
        for (uint32_t e = 0; e < x.p.n_experts; e++) {
            uint32_t n_slots = 0;
            uint64_t all = 0;
            for (uint32_t k = 0; k < x.p.n_slots; k++)
                n_slots += x.slot_expert[k] == e;
            for (uint32_t c = 0; c < x.p.n_classes; c++) {
                uint64_t sum = 0;
                const uint64_t n = x.rows[c * x.p.n_experts + e];
                all += n;
                for (uint32_t k = 0; k < x.p.n_slots; k++)
                    sum += x.slot_expert[k] == e ? weights[c * x.p.n_slots + k] : 0;
                assert_true(n_slots == 1 ? sum == 0 : sum >= 1 && sum <= 64);
                for (uint32_t k = 0; k < x.p.n_slots; k++)
                    if (x.slot_expert[k] == e)
                        weighted[x.slot_gpu[k]] += n_slots == 1 ? n : n * weights[c * x.p.n_slots + k] / sum;
            }
            for (uint32_t k = 0; k < x.p.n_slots; k++)
                if (x.slot_expert[k] == e)
                    slack[x.slot_gpu[k]] += all / 64 + x.p.n_classes + 1;
        }
        for (uint32_t g = 0; g < x.p.n_gpus; g++) {
            assert_true(weighted[g] <= gpu_rows[g] + slack[g]);
            assert_true(gpu_rows[g] <= weighted[g] + slack[g]);
        }
        mp_arena_free(arena);
    }
}

static void test_route_split__too_long(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(8);
    struct mp_error err = {0};
    struct mp_splitter *s;
    draw(&x, &rng, 1, 2, 2, 4, 9, false, false);
    struct mp_arena *arena = mp_arena_new();
    x.rows[1] = UINT64_C(1) << 61;
    assert_int_equal(mp_split_new(&s, &x.p, arena, &err), MP_EUSAGE);
    assert_null(s);
    mp_arena_free(arena);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct instance *x = ctx;
    struct mp_splitter *s;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "a test");
    enum mp_status status = mp_split_new(&s, &x->p, arena, err);
    if (status == MP_OK)
        (void)mp_split_within(s, 0);
    mp_arena_free(arena);
    return status;
}
static void test_route_split__faults(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(9);
    draw(&x, &rng, 2, 8, 16, 24, 100, false, false);
    sweep_faults(flow, &x, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_route_split__brute_force),
                                       cmocka_unit_test(test_route_split__glpk),
                                       cmocka_unit_test(test_route_split__never_worse_than_others),
                                       cmocka_unit_test(test_route_split__limits),
                                       cmocka_unit_test(test_route_split__known),
                                       cmocka_unit_test(test_route_split__twins),
                                       cmocka_unit_test(test_route_split__weights),
                                       cmocka_unit_test(test_route_split__too_long),
                                       cmocka_unit_test(test_route_split__faults)};
    return cmocka_run_group_tests_name("split", tests, NULL, NULL);
}
