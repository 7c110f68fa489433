#include "mip.h"
#include "support.h"
#include <moeplan/rehome.h>

struct made {
    struct mp_bins in;
    int64_t worth[4096];
    uint32_t room[64], size[128], limit[64];
};

static void make(struct made *x, struct mp_rng *r, uint32_t n, uint32_t m, bool has_sizes) {
    const uint32_t most = 1 + (uint32_t)mp_rng_below(r, 1000);
    uint32_t all = 0;
    for (uint32_t c = 0; c < n * m; c++)
        x->worth[c] = (int64_t)mp_rng_below(r, most) - (int64_t)(mp_rng_below(r, 4) == 0 ? most / 2 : 0);
    for (uint32_t b = 0; b < m; b++) {
        x->room[b] = (uint32_t)mp_rng_below(r, 2 * n / m + 1);
        x->limit[b] = (uint32_t)mp_rng_below(r, 10);
        all += x->room[b];
    }
    while (all++ < n)
        x->room[mp_rng_below(r, m)]++;
    for (uint32_t i = 0; i < n; i++)
        x->size[i] = (uint32_t)mp_rng_below(r, 8);
    x->in = (struct mp_bins){.n = n,
                             .m = m,
                             .worth = x->worth,
                             .room = x->room,
                             .size = has_sizes ? x->size : NULL,
                             .limit = has_sizes ? x->limit : NULL};
}

static bool fits(const struct mp_bins *in, uint32_t i, uint32_t b) {
    return in->size == NULL || in->size[i] <= in->limit[b];
}

/* What is reached if it keeps the rules, checked, and the certificate beside it. */
static int64_t reached(const struct mp_bins *in, const uint32_t *bin, const int64_t *price) {
    uint32_t load[64] = {0};
    int64_t sum = 0, bound = 0;
    for (uint32_t i = 0; i < in->n; i++) {
        int64_t best = INT64_MIN;
        assert_true(bin[i] < in->m && fits(in, i, bin[i]));
        load[bin[i]]++;
        sum += in->worth[i * in->m + bin[i]];
        for (uint32_t b = 0; b < in->m; b++)
            if (fits(in, i, b) && in->worth[i * in->m + b] - price[b] > best)
                best = in->worth[i * in->m + b] - price[b];
        bound += best;
    }
    for (uint32_t b = 0; b < in->m; b++) {
        assert_true(load[b] <= in->room[b]);
        assert_true(price[b] >= 0);
        assert_true(price[b] == 0 || load[b] == in->room[b]);
        bound += price[b] * in->room[b];
    }
    assert_int_equal(bound, sum); /* the prices prove it */
    return sum;
}

static void try_all(const struct mp_bins *in, uint32_t i, int64_t sum, uint32_t *load, int64_t *best) {
    if (i == in->n) {
        *best = sum > *best ? sum : *best;
        return;
    }
    for (uint32_t b = 0; b < in->m; b++)
        if (load[b] < in->room[b] && fits(in, i, b)) {
            load[b]++;
            try_all(in, i + 1, sum + in->worth[i * in->m + b], load, best);
            load[b]--;
        }
}

static void test_bins__agree_with_all_ways(void **state) {
    (void)state;
    static struct made x;
    uint32_t n_fitting = 0;
    for (uint64_t seed = 0; seed < 600; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        struct mp_arena *scratch = mp_arena_new();
        uint32_t bin[128], load[64] = {0}, m = 1 + (uint32_t)mp_rng_below(&r, 4);
        int64_t price[64], best = INT64_MIN;
        make(&x, &r, (uint32_t)mp_rng_below(&r, 8), m, seed % 2 == 0);
        try_all(&x.in, 0, 0, load, &best);
        const enum mp_status status = mp_bins_fill(bin, price, &x.in, scratch, &err);
        assert_int_equal(status, best == INT64_MIN ? MP_EUSAGE : MP_OK);
        if (status == MP_OK)
            assert_int_equal(reached(&x.in, bin, price), best);
        n_fitting += status == MP_OK;
        mp_error_clear(&err);
        mp_arena_free(scratch);
    }
    assert_true(n_fitting > 300 && n_fitting < 600);
}

static void test_bins__agree_with_glpk(void **state) {
    (void)state;
    static struct made x;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 90);
        struct mp_error err = {0};
        struct mp_arena *scratch = mp_arena_new();
        const uint32_t n = 30 + (uint32_t)mp_rng_below(&r, 30), m = 3 + (uint32_t)mp_rng_below(&r, 8);
        struct mp_mip *p;
        struct mp_mip_answer answer;
        uint32_t bin[128];
        int64_t price[64];
        make(&x, &r, n, m, false);
        CHECK_OK(mp_bins_fill(bin, price, &x.in, scratch, &err), err);
        CHECK_OK(mp_mip_new(&p, &err), err);
        struct mp_mip_term terms[128];
        char name[32];
        for (uint32_t c = 0; c < n * m; c++) {
            snprintf(name, sizeof name, "x_%u", c);
            CHECK_OK(mp_mip_add_variable(
                         p,
                         &(struct mp_mip_variable){.name = name, .upper = 1, .cost = -x.worth[c], .is_integer = true},
                         NULL, &err),
                     err);
        }
        for (uint32_t i = 0; i < n; i++) {
            snprintf(name, sizeof name, "one_%u", i);
            for (uint32_t b = 0; b < m; b++)
                terms[b] = (struct mp_mip_term){i * m + b, 1};
            CHECK_OK(mp_mip_add_row(p, &(struct mp_mip_row){name, 1, 1, m, terms}, &err), err);
        }
        for (uint32_t b = 0; b < m; b++) {
            snprintf(name, sizeof name, "room_%u", b);
            for (uint32_t i = 0; i < n; i++)
                terms[i] = (struct mp_mip_term){i * m + b, 1};
            CHECK_OK(mp_mip_add_row(p, &(struct mp_mip_row){name, 0, x.room[b], n, terms}, &err), err);
        }
        CHECK_OK(mp_mip_solve(&answer, p, &(struct mp_mip_options){.node_limit = 100000}, scratch, &err), err);
        assert_int_equal(answer.outcome, MP_FOUND);
        assert_int_equal(-answer.objective, reached(&x.in, bin, price));
        mp_mip_free(p);
        mp_arena_free(scratch);
    }
}

/* As many things as are asked for, and sizes that make every bin's limit matter: the certificate alone. */
static void test_bins__are_certified_at_size(void **state) {
    (void)state;
    static int64_t worth[1024 * 64], price[64];
    static uint32_t room[64], size[1024], limit[64], bin[1024];
    struct mp_rng r = mp_rng_seed(1);
    for (uint32_t m = 8; m <= 64; m += 56) {
        struct mp_error err = {0};
        struct mp_arena *scratch = mp_arena_new();
        for (uint32_t i = 0; i < 1024; i++) {
            size[i] = (uint32_t)mp_rng_below(&r, 500);
            for (uint32_t b = 0; b < m; b++)
                worth[i * m + b] = (int64_t)mp_rng_below(&r, 1000000000) * (b < m / 4 ? 2 : 1);
        }
        for (uint32_t b = 0; b < m; b++) {
            room[b] = 1024 / m;
            limit[b] = 500 - b % 8 / 2;
        }
        const struct mp_bins in = {1024, m, worth, room, size, limit};
        CHECK_OK(mp_bins_fill(bin, price, &in, scratch, &err), err);
        assert_true(reached(&in, bin, price) > 0);
        mp_arena_free(scratch);
    }
}

static enum mp_status fill(void *ctx, struct mp_error *err) {
    const struct made *x = ctx;
    uint32_t bin[128];
    int64_t price[64];
    struct mp_arena *scratch = mp_arena_new();
    if (scratch == NULL)
        return mp_nomem(err, "a test");
    const enum mp_status status = mp_bins_fill(bin, price, &x->in, scratch, err);
    mp_arena_free(scratch);
    return status;
}
static void test_bins__survive_every_fault(void **state) {
    (void)state;
    static struct made x;
    struct mp_rng r = mp_rng_seed(4);
    make(&x, &r, 20, 4, false);
    sweep_faults(fill, &x, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bins__agree_with_all_ways),
        cmocka_unit_test(test_bins__agree_with_glpk),
        cmocka_unit_test(test_bins__are_certified_at_size),
        cmocka_unit_test(test_bins__survive_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
