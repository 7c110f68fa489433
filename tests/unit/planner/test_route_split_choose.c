/* Which replicas are used at all: every choice tried and GLPK agree with the exact form, and the descent is between it
 * and its bound. */
#include "support.h"
#include "mip.h"
#include "split.h"
#include <moeplan/base.h>

#define GPUS 4u
#define EXPERTS 6u
#define SLOTS 10u

struct instance {
    struct mp_split_problem p;
    struct mp_split_charges charges;
    uint32_t gpu_node[GPUS], slot_gpu[SLOTS];
    uint16_t slot_expert[SLOTS];
    uint64_t rows[GPUS * EXPERTS], row_ps[GPUS], fixed_ps[GPUS], active[EXPERTS], base_ps[GPUS], read_ps[GPUS];
};

static void draw(struct instance *x, struct mp_rng *rng, bool is_unequal) {
    uint32_t order[SLOTS];
    *x = (struct instance){.p = {.n_gpus = GPUS,
                                 .n_classes = GPUS,
                                 .n_experts = EXPERTS,
                                 .n_slots = SLOTS,
                                 .gpu_node = x->gpu_node,
                                 .class_node = x->gpu_node,
                                 .slot_expert = x->slot_expert,
                                 .slot_gpu = x->slot_gpu,
                                 .rows = x->rows,
                                 .row_ps = x->row_ps,
                                 .fixed_ps = x->fixed_ps},
                           .charges = {x->active, x->base_ps, x->read_ps}};
    static const uint32_t class_gpu[GPUS] = {0, 1, 2, 3};
    x->p.class_gpu = class_gpu;
    const uint64_t heavy = 1 + mp_rng_below(rng, 4); /* from readings that bind to rows that do */
    for (uint32_t g = 0; g < GPUS; g++) {
        x->gpu_node[g] = g / 2;
        x->row_ps[g] = is_unequal ? heavy + mp_rng_below(rng, 3) : heavy;
        x->fixed_ps[g] = 3;
        x->base_ps[g] = 5;
        x->read_ps[g] = is_unequal ? 8 + mp_rng_below(rng, 8) : 12;
    }
    for (uint32_t s = 0; s < SLOTS; s++) {
        order[s] = s;
        x->slot_gpu[s] = s * GPUS / SLOTS;
    }
    mp_rng_shuffle(rng, order, SLOTS);
    for (uint32_t s = 0; s < SLOTS; s++)
        x->slot_expert[order[s]] = (uint16_t)(s < EXPERTS ? s : mp_rng_below(rng, EXPERTS));
    for (uint32_t i = 0; i < GPUS * EXPERTS; i++)
        x->rows[i] = mp_rng_below(rng, 6);
    for (uint32_t e = 0; e < EXPERTS; e++)
        x->active[e] = is_unequal ? 1 + mp_rng_below(rng, 3) : 2;
}

/* What slots in use take at least; UINT64_MAX where an expert has none. */
static uint64_t peak_of(const struct instance *x, const uint16_t *slot_expert) {
    struct mp_error err = {0};
    uint64_t peak = 0;
    struct mp_split_problem p = x->p;
    struct mp_splitter *s;
    bool has[EXPERTS] = {false};
    p.slot_expert = slot_expert;
    for (uint32_t g = 0; g < GPUS; g++) {
        uint64_t time = x->base_ps[g];
        for (uint32_t i = 0; i < SLOTS; i++)
            if (x->slot_gpu[i] == g && slot_expert[i] != MP_NO_EXPERT) {
                time += x->read_ps[g] * x->active[slot_expert[i]];
                has[slot_expert[i]] = true;
            }
        peak = time > peak ? time : peak;
    }
    for (uint32_t e = 0; e < EXPERTS; e++)
        if (!has[e])
            return UINT64_MAX;
    struct mp_arena *arena = mp_arena_new();
    CHECK_OK(mp_split_new(&s, &p, arena, &err), err);
    const uint64_t rows = mp_split_peak(s);
    mp_arena_free(arena);
    return rows > peak ? rows : peak;
}

static uint64_t best_of_all(const struct instance *x) {
    uint64_t best = UINT64_MAX;
    for (uint32_t set = 1; set < 1u << SLOTS; set++) {
        uint16_t used[SLOTS];
        for (uint32_t i = 0; i < SLOTS; i++)
            used[i] = set >> i & 1 ? x->slot_expert[i] : MP_NO_EXPERT;
        const uint64_t peak = peak_of(x, used);
        best = peak < best ? peak : best;
    }
    return best;
}

static struct mp_split_choice choose(const struct instance *x, bool is_lean, uint64_t exact_max,
                                     struct mp_arena *arena) {
    struct mp_error err = {0};
    struct mp_split_choice choice;
    CHECK_OK(mp_split_choose(&choice, &x->p, &x->charges, is_lean, exact_max, 1000, arena, &err), err);
    assert_int_equal(peak_of(x, choice.slot_expert), choice.peak_ps); /* it is what it says */
    assert_true(choice.bound_ps <= choice.peak_ps);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_true(choice.slot_expert[i] == x->slot_expert[i] || choice.slot_expert[i] == MP_NO_EXPERT);
    return choice;
}

static void test_route_split_choose__every_choice(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    static struct instance x;
    uint32_t n_best = 0, n = 60;
    double worst = 1;
    for (uint32_t i = 0; i < n; i++) {
        draw(&x, &rng, i % 2);
        struct mp_arena *arena = mp_arena_new();
        const uint64_t best = best_of_all(&x);
        const struct mp_split_choice exact = choose(&x, i % 4 > 1, UINT64_MAX, arena);
        assert_true(exact.is_exact);
        assert_int_equal(exact.peak_ps, best);
        const struct mp_split_choice found = choose(&x, i % 4 > 1, 0, arena);
        assert_true(found.peak_ps >= best);
        assert_true(!found.is_exact || found.peak_ps == best);
        n_best += found.peak_ps == best;
        worst = (double)found.peak_ps / (double)best > worst ? (double)found.peak_ps / (double)best : worst;
        mp_arena_free(arena);
    }
    print_message("# descent: optimal in %u of %u, at worst %.3f of the optimum\n", n_best, n, worst);
    assert_true(n_best >= n * 9 / 10);
    assert_true(worst < 1.2);
}

/* As an integer program: is a replica used, and how many rows does it take. */
static uint64_t by_glpk(const struct instance *x) {
    struct mp_error err = {0};
    struct mp_mip *m;
    struct mp_mip_answer answer;
    struct mp_arena *arena = mp_arena_new();
    uint64_t rows[EXPERTS] = {0};
    for (uint32_t c = 0; c < GPUS; c++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            rows[e] += x->rows[c * EXPERTS + e];
    CHECK_OK(mp_mip_new(&m, &err), err);
    char name[MP_MIP_NAME_MAX];
    for (uint32_t s = 0; s < 2 * SLOTS; s++) {
        const int64_t most = s < SLOTS ? (int64_t)rows[x->slot_expert[s]] : 1;
        snprintf(name, sizeof name, "%s_%u", s < SLOTS ? "rows" : "used", s % SLOTS);
        CHECK_OK(mp_mip_add_variable(m, &(struct mp_mip_variable){name, 0, most, 0, true}, NULL, &err), err);
    }
    CHECK_OK(mp_mip_add_variable(m, &(struct mp_mip_variable){"peak", 0, 1 << 20, 1, true}, NULL, &err), err);
    for (uint32_t s = 0; s < SLOTS; s++) {
        const int64_t most = (int64_t)rows[x->slot_expert[s]];
        struct mp_mip_term terms[2] = {{s, 1}, {SLOTS + s, -most}};
        snprintf(name, sizeof name, "opened_%u", s);
        if (most > 0)
            CHECK_OK(mp_mip_add_row(m, &(struct mp_mip_row){name, -MP_MIP_FREE, 0, 2, terms}, &err), err);
    }
    for (uint32_t e = 0; e < 2 * EXPERTS; e++) {
        struct mp_mip_term terms[SLOTS];
        uint32_t n = 0;
        for (uint32_t s = 0; s < SLOTS; s++)
            if (x->slot_expert[s] == e % EXPERTS)
                terms[n++] = (struct mp_mip_term){s + (e < EXPERTS ? 0 : SLOTS), 1};
        const int64_t least = e < EXPERTS ? (int64_t)rows[e] : 1;
        snprintf(name, sizeof name, "expert_%u", e);
        CHECK_OK(
            mp_mip_add_row(m, &(struct mp_mip_row){name, least, e < EXPERTS ? least : MP_MIP_FREE, n, terms}, &err),
            err);
    }
    for (uint32_t g = 0; g < 2 * GPUS; g++) {
        const uint32_t gpu = g % GPUS;
        struct mp_mip_term terms[SLOTS + 1];
        uint32_t n = 0;
        for (uint32_t s = 0; s < SLOTS; s++)
            if (x->slot_gpu[s] == gpu)
                terms[n++] = g < GPUS ? (struct mp_mip_term){s, (int64_t)x->row_ps[gpu]}
                                      : (struct mp_mip_term){SLOTS + s,
                                                             (int64_t)(x->read_ps[gpu] * x->active[x->slot_expert[s]])};
        terms[n++] = (struct mp_mip_term){2 * SLOTS, -1};
        const int64_t base = -(int64_t)(g < GPUS ? x->fixed_ps[gpu] : x->base_ps[gpu]);
        snprintf(name, sizeof name, "time_%u", g);
        CHECK_OK(mp_mip_add_row(m, &(struct mp_mip_row){name, -MP_MIP_FREE, base, n, terms}, &err), err);
    }
    CHECK_OK(mp_mip_solve(&answer, m, &(struct mp_mip_options){.node_limit = 100000}, arena, &err), err);
    const uint64_t objective = (uint64_t)answer.objective;
    assert_int_equal(answer.outcome, MP_FOUND);
    mp_mip_free(m);
    mp_arena_free(arena);
    return objective;
}

static void test_route_split_choose__glpk(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(2);
    static struct instance x;
    for (uint32_t i = 0; i < 25; i++) {
        draw(&x, &rng, i % 2);
        struct mp_arena *arena = mp_arena_new();
        assert_int_equal(choose(&x, false, UINT64_MAX, arena).peak_ps, by_glpk(&x));
        mp_arena_free(arena);
    }
}

/* Three experts on three GPUs, each GPU with one expert of its own and a second replica of another: where readings
 * bind, one replica each is enough; where rows do, the heavy expert is split. */
static void test_route_split_choose__known(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(3);
    draw(&x, &rng, false);
    const uint16_t experts[SLOTS] = {0, 1, MP_NO_EXPERT, 1, 2, 3, 0, 4, 5, MP_NO_EXPERT};
    memcpy(x.slot_expert, experts, sizeof experts);
    memset(x.rows, 0, sizeof x.rows);
    for (uint32_t e = 0; e < EXPERTS; e++) { /* 2 slots each on GPU 0, 2 on GPU 1 and so on: 3, 2, 3, 2 slots */
        x.rows[e] = e == 0 ? 40 : 1;
        x.active[e] = 1;
    }
    for (uint32_t g = 0; g < GPUS; g++) {
        x.read_ps[g] = 100;
        x.row_ps[g] = 1;
    }
    struct mp_arena *arena = mp_arena_new();
    struct mp_split_choice c = choose(&x, true, UINT64_MAX, arena);
    assert_int_equal(c.peak_ps, 205); /* 6 experts on 4 GPUs */
    for (uint32_t g = 0; g < GPUS; g++)
        x.row_ps[g] = 100;
    c = choose(&x, false, UINT64_MAX, arena);
    const struct mp_split_choice again = choose(&x, false, 0, arena);
    assert_int_equal(c.peak_ps, again.peak_ps);
    assert_int_equal(c.slot_expert[0], 0); /* both replicas of expert 0 */
    assert_int_equal(c.slot_expert[6], 0);
    mp_arena_free(arena);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct instance *x = ctx;
    struct mp_split_choice choice;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "a test");
    enum mp_status status = mp_split_choose(&choice, &x->p, &x->charges, false, 0, 100, arena, err);
    mp_arena_free(arena);
    return status;
}
static void test_route_split_choose__faults(void **state) {
    (void)state;
    static struct instance x;
    struct mp_rng rng = mp_rng_seed(4);
    draw(&x, &rng, false);
    sweep_faults(flow, &x, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route_split_choose__every_choice), cmocka_unit_test(test_route_split_choose__glpk),
        cmocka_unit_test(test_route_split_choose__known), cmocka_unit_test(test_route_split_choose__faults)};
    return cmocka_run_group_tests_name("split_choose", tests, NULL, NULL);
}
