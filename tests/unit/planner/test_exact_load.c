/* Replica counts and placement of least load against every one there is. */
#include "support.h"

#include "exact_load.h"
#include <moeplan/base.h>

/* Every replica vector and every set of GPUs for it. */
struct every {
    const struct mp_exact_load *in;
    uint64_t load[8], best;
    uint32_t free[8];
    bool is_found;
};

static void try_from(struct every *v, uint32_t e, uint32_t n_copies) {
    const struct mp_exact_load *in = v->in;
    if (e == in->n_experts) {
        uint64_t most = 0;
        for (uint32_t g = 0; g < in->n_gpus; g++)
            most = v->load[g] > most ? v->load[g] : most;
        v->best = !v->is_found || most < v->best ? most : v->best;
        v->is_found = true;
        return;
    }
    for (uint32_t set = 1; set < 1u << in->n_gpus; set++) {
        uint32_t r = (uint32_t)__builtin_popcount(set);
        bool fits = r <= MP_EXACT_LOAD_REPLICAS && n_copies + r + in->n_experts - e - 1 <= in->n_copies_max;
        for (uint32_t g = 0; g < in->n_gpus; g++)
            fits &= (set >> g & 1) == 0 || v->free[g] > 0;
        if (!fits)
            continue;
        for (uint32_t g = 0; g < in->n_gpus; g++)
            if (set >> g & 1) {
                v->free[g]--;
                v->load[g] += in->load[e] * (MP_EXACT_LOAD_SCALE / r);
            }
        try_from(v, e + 1, n_copies + r);
        for (uint32_t g = 0; g < in->n_gpus; g++)
            if (set >> g & 1) {
                v->free[g]++;
                v->load[g] -= in->load[e] * (MP_EXACT_LOAD_SCALE / r);
            }
    }
}

static uint64_t check_answer(const struct mp_exact_load *in, const struct mp_exact_load_answer *a) {
    uint64_t load[MP_EXACT_LOAD_GPUS] = {0}, most = 0;
    uint32_t used[MP_EXACT_LOAD_GPUS] = {0}, n = 0;
    for (uint32_t e = 0; e < in->n_experts; e++) {
        assert_true(a->n_replicas[e] >= 1 && a->n_replicas[e] <= MP_EXACT_LOAD_REPLICAS);
        for (uint32_t i = 0; i < a->n_replicas[e]; i++, n++) {
            assert_true(a->gpu[e][i] < in->n_gpus && (i == 0 || a->gpu[e][i] > a->gpu[e][i - 1]));
            load[a->gpu[e][i]] += in->load[e] * (MP_EXACT_LOAD_SCALE / a->n_replicas[e]);
            used[a->gpu[e][i]]++;
        }
    }
    assert_true(n <= in->n_copies_max);
    for (uint32_t g = 0; g < in->n_gpus; g++) {
        assert_true(used[g] <= in->slots[g]);
        most = load[g] > most ? load[g] : most;
    }
    assert_int_equal(most, a->value);
    return most;
}

static void test_exact_load__agrees_with_every_placement(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(81);
    unsigned n_none = 0, n_found = 0, n_stopped = 0;
    for (int i = 0; i < 2500; i++) {
        uint64_t load[5];
        uint32_t slots[4];
        struct mp_exact_load in = {.n_experts = 1 + (uint32_t)mp_rng_below(&rng, 5),
                                   .n_gpus = 1 + (uint32_t)mp_rng_below(&rng, 4),
                                   .load = load,
                                   .slots = slots};
        uint64_t range = mp_rng_below(&rng, 2) == 0 ? 4 : 1000;
        for (uint32_t e = 0; e < in.n_experts; e++)
            load[e] = mp_rng_below(&rng, range);
        for (uint32_t g = 0; g < in.n_gpus; g++)
            slots[g] = (uint32_t)mp_rng_below(&rng, 4);
        in.n_copies_max = in.n_experts + (uint32_t)mp_rng_below(&rng, 4);
        struct every v = {.in = &in};
        memcpy(v.free, slots, in.n_gpus * sizeof *slots);
        try_from(&v, 0, 0);
        struct mp_error err = {0};
        struct mp_exact_load_answer a;
        CHECK_OK(mp_exact_load_solve(&a, &in, &err), err);
        assert_int_equal(a.outcome, v.is_found ? MP_FOUND : MP_NOT_FOUND);
        n_none += !v.is_found;
        if (!v.is_found)
            continue;
        n_found++;
        assert_int_equal(check_answer(&in, &a), v.best);
        assert_int_equal(a.bound, v.best);
        in.node_limit = 1 + mp_rng_below(&rng, 5);
        CHECK_OK(mp_exact_load_solve(&a, &in, &err), err);
        if (a.outcome == MP_STOPPED)
            n_stopped++;
        if (a.n_replicas[0] > 0) {
            assert_true(check_answer(&in, &a) >= v.best && a.bound <= v.best);
            assert_true(a.outcome == MP_STOPPED || a.value == v.best);
        }
    }
    assert_true(n_none >= 50 && n_found >= 1500 && n_stopped >= 50);
}

static void test_exact_load__published_optima(void **state) {
    (void)state;
    static const struct {
        uint64_t load[12];
        uint32_t n_experts;
        uint64_t value; /* in 840ths */
    } known[] = {{{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, 12, 136 * 840},
                 {{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, 12, 172 * 840},
                 {{600, 560, 120, 120, 20, 10, 10, 10}, 8, 590 * 840 / 3}};
    static const uint32_t slots[8] = {2, 2, 2, 2, 2, 2, 2, 2};
    for (int i = 0; i < 3; i++) {
        const struct mp_exact_load in = {
            .n_experts = known[i].n_experts, .n_gpus = 8, .load = known[i].load, .slots = slots, .n_copies_max = 16};
        struct mp_error err = {0};
        struct mp_exact_load_answer a;
        CHECK_OK(mp_exact_load_solve(&a, &in, &err), err);
        assert_int_equal(a.outcome, MP_FOUND);
        assert_int_equal(a.value, known[i].value);
        assert_int_equal(a.bound, known[i].value);
        (void)check_answer(&in, &a);
        print_message("# optimum %.3f proven in %llu nodes\n", (double)a.value / 840, (unsigned long long)a.nodes);
    }
}

static void test_exact_load__says_what_is_too_large(void **state) {
    (void)state;
    uint64_t load[65] = {0};
    uint32_t slots[65] = {1};
    struct mp_error err = {0};
    struct mp_exact_load_answer a;
    struct mp_exact_load in = {.n_experts = 65, .n_gpus = 8, .load = load, .slots = slots, .n_copies_max = 65};
    assert_int_equal(mp_exact_load_solve(&a, &in, &err), MP_ELIMIT);
    in.n_experts = 2;
    load[1] = UINT64_C(1) << 50;
    mp_error_clear(&err);
    assert_int_equal(mp_exact_load_solve(&a, &in, &err), MP_ELIMIT);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_load__agrees_with_every_placement),
        cmocka_unit_test(test_exact_load__published_optima),
        cmocka_unit_test(test_exact_load__says_what_is_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
