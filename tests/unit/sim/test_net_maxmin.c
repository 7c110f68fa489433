#include "net_case.h"
#include <math.h>

static uint64_t concurrent(const struct net_case *c, uint64_t *finish) {
    struct mp_error err = {0};
    struct mp_net *net;
    uint64_t time_ns;
    CHECK_OK(mp_net_new(&net, &c->t, &err), err);
    CHECK_OK(mp_net_concurrent(net, c->matrix, &time_ns, finish, &err), err);
    assert_int_equal(mp_net_port_bound(net, c->matrix), mp_port_bound_ns(&c->t, c->matrix));
    mp_net_free(net);
    return time_ns;
}
static void assert_near(uint64_t got, long double want, uint64_t seed, const char *what) {
    if (fabsl((long double)got - ceill(want - 1e-6L)) > 1)
        fail_msg("case %llu, %s: %llu ns, expected %.6Lf", (unsigned long long)seed, what, (unsigned long long)got,
                 want);
}

static void test_net_maxmin__agrees_with_filling_from_scratch_on_10000_cases(void **state) {
    (void)state;
    static struct net_case c;
    static uint64_t finish[CASE_GPUS * CASE_GPUS];
    static long double slow[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 10000; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        bool is_large = seed % 500 == 0;
        case_random(&c, &r, is_large ? 4 : 3, is_large ? 4 : 3);
        uint64_t time_ns = concurrent(&c, finish);
        long double want = slow_concurrent(&c.t, c.matrix, slow);
        assert_near(time_ns, want, seed, "time");
        for (uint32_t p = 0; p < c.t.n_gpus * c.t.n_gpus; p++)
            assert_near(finish[p], slow[p], seed, "one flow");
        assert_true(time_ns >= mp_port_bound_ns(&c.t, c.matrix));
    }
}

/* Enough flows for many levels and events: rounding must not add up. */
static void test_net_maxmin__agrees_on_large_matrices(void **state) {
    (void)state;
    static struct net_case c;
    static uint64_t finish[CASE_GPUS * CASE_GPUS];
    static long double slow[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        uint32_t n = 24;
        case_plain(&c, 1, n, UINT64_C(50000000000), 0);
        for (uint32_t g = 0; g < n && seed % 2 == 1; g++) /* unequal ports */
            c.resources[g].bytes_per_s += mp_rng_below(&r, UINT64_C(50000000000));
        if (seed == 2) { /* a cap that nearly never binds sends everything the general way */
            c.levels[0].pair_bytes_per_s = UINT64_C(49000000000);
        }
        for (uint32_t p = 0; p < n * n; p++)
            c.matrix[p] = p % (n + 1) == 0 ? 0 : (uint64_t)(1e9 * exp(2 * mp_rng_unit(&r) - 6 * (double)(p % 5 == 0)));
        uint64_t time_ns = concurrent(&c, finish);
        long double want = slow_concurrent(&c.t, c.matrix, slow);
        assert_near(time_ns, want, seed, "time");
        for (uint32_t p = 0; p < n * n; p++)
            assert_near(finish[p], slow[p], seed, "one flow");
    }
}

/* More than 64 ports of a side: sets of several words. Against the slow simulator where flows have few sizes, and
 * against the general way, which a cap brings about even where it does not matter. */
static void test_net_maxmin__agrees_on_more_ports_than_a_word_has_bits(void **state) {
    (void)state;
    static struct net_case c;
    static uint64_t finish[CASE_GPUS * CASE_GPUS], general[CASE_GPUS * CASE_GPUS];
    static long double slow[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 9; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        const uint32_t n = seed == 8 ? 64 : 66 + 2 * (uint32_t)seed;
        case_plain(&c, 1, n, UINT64_C(50000000000), 0);
        for (uint32_t g = 0; g < n && seed % 2 == 1; g++) /* unequal ports */
            c.resources[g].bytes_per_s += mp_rng_below(&r, UINT64_C(50000000000));
        if (seed % 4 == 2) {
            for (uint32_t k = 0; k < 4; k++)
                c.incast[0][k] = 1000000 - 50000 * k;
            c.levels[0].incast_ppm = c.incast[0];
            c.levels[0].n_incast = 4;
        }
        for (uint32_t p = 0; p < n * n; p++) {
            c.matrix[p] = (uint64_t)(1e8 * exp(2 * mp_rng_unit(&r) - 6 * (double)(p % 5 == 0)));
            if (seed < 2)
                c.matrix[p] = 100000 * mp_rng_below(&r, 2 + (uint32_t)seed) * (mp_rng_below(&r, 8) == 0);
            if (p % (n + 1) == 0 || (seed == 4 && mp_rng_below(&r, 3) > 0))
                c.matrix[p] = 0;
        }
        const uint64_t time_ns = concurrent(&c, finish);
        if (seed < 2) {
            assert_near(time_ns, slow_concurrent(&c.t, c.matrix, slow), seed, "time");
            for (uint32_t p = 0; p < n * n; p++)
                assert_near(finish[p], slow[p], seed, "one flow");
        }
        for (uint32_t p = 0; p < n * n; p++) { /* the cap: what the fastest pair has alone */
            const uint64_t out = c.resources[c.gpus[p / n].out_port[0]].bytes_per_s,
                           in = c.resources[c.gpus[p % n].in_port[0]].bytes_per_s, rate = out < in ? out : in;
            if (c.matrix[p] > 0 && rate > c.levels[0].pair_bytes_per_s)
                c.levels[0].pair_bytes_per_s = rate;
        }
        assert_near(time_ns, (long double)concurrent(&c, general), seed, "time, general");
        for (uint32_t p = 0; p < n * n; p++)
            assert_near(finish[p], (long double)general[p], seed, "one flow, general");
    }
}

/* Past NET_CACHED_GPUS paths are not kept: the same flows among 1100 GPUs and among 22. */
static void test_net_maxmin__more_gpus_than_paths_are_kept_for(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_error err = {0};
    struct mp_net *net;
    enum { N = 1100, STEP = 50 };
    struct mp_rng r = mp_rng_seed(3);
    case_plain(&c, 1, N / STEP, UINT64_C(50000000000), 0);
    case_matrix(&c, &r);
    c.levels[0].latency_ns = 123;
    struct mp_topology large = c.t;
    struct mp_gpu *gpus = calloc(N, sizeof *gpus);
    struct mp_resource *resources = calloc(2 * N, sizeof *resources);
    uint64_t *matrix = calloc((size_t)N * N, sizeof *matrix), *finish = calloc((size_t)N * N, sizeof *finish), time_ns;
    assert_true(gpus != NULL && resources != NULL && matrix != NULL && finish != NULL);
    for (uint32_t g = 0; g < N; g++) {
        gpus[g].speed_ppm = 1000000;
        gpus[g].out_port[0] = 2 * g;
        gpus[g].in_port[0] = 2 * g + 1;
        for (uint32_t k = 0; k < 2; k++)
            resources[2 * g + k] = (struct mp_resource){UINT64_C(50000000000), 0, k == 1, false, g};
    }
    large.n_gpus = N;
    large.n_resources = 2 * N;
    large.gpus = gpus;
    large.resources = resources;
    uint32_t n = c.t.n_gpus;
    for (uint32_t p = 0; p < n * n; p++)
        matrix[(size_t)(p / n) * STEP * N + p % n * STEP] = c.matrix[p];
    static uint64_t small[CASE_GPUS * CASE_GPUS];
    uint64_t want = concurrent(&c, small), baseline[2];
    CHECK_OK(mp_net_new(&net, &large, &err), err);
    CHECK_OK(mp_net_concurrent(net, matrix, &time_ns, finish, &err), err);
    assert_true(time_ns <= want + 1 && want <= time_ns + 1);
    for (uint32_t p = 0; p < n * n; p++)
        assert_near(finish[(size_t)(p / n) * STEP * N + p % n * STEP], small[p], p, "one flow");
    CHECK_OK(mp_net_baseline(net, MP_BASELINE_SJF, 0, matrix, &baseline[0], &err), err);
    mp_net_free(net);
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    CHECK_OK(mp_net_baseline(net, MP_BASELINE_SJF, 0, c.matrix, &baseline[1], &err), err);
    assert_int_equal(baseline[0], baseline[1]);
    mp_net_free(net);
    free(gpus);
    free(resources);
    free(matrix);
    free(finish);
}

static void test_net_maxmin__known_times(void **state) {
    (void)state;
    static struct net_case c;
    case_plain(&c, 1, 4, UINT64_C(100000000000), 0); /* 100 bytes per ns */
    assert_int_equal(concurrent(&c, NULL), 0);
    c.matrix[1] = 1000; /* one flow */
    assert_int_equal(concurrent(&c, NULL), 10);
    c.levels[0].latency_ns = 7;
    assert_int_equal(concurrent(&c, NULL), 17);
    c.matrix[1] = 1001; /* rounded up */
    assert_int_equal(concurrent(&c, NULL), 18);
    c.levels[0].latency_ns = 0;
    for (uint32_t p = 0; p < 16; p++) /* all equal */
        c.matrix[p] = p % 5 == 0 ? 0 : 1000;
    assert_int_equal(concurrent(&c, NULL), 30);
    memset(c.matrix, 0, sizeof c.matrix);
    c.matrix[1 * 4] = 1000; /* one hot receiver: 100 + 300 more at 100 bytes per ns after both share */
    c.matrix[2 * 4] = 4000;
    uint64_t finish[16];
    assert_int_equal(concurrent(&c, finish), 50);
    assert_int_equal(finish[1 * 4], 20);
    c.levels[0].n_incast = 2; /* two arrivals at once get half */
    c.levels[0].incast_ppm = c.incast[0];
    c.incast[0][0] = 1000000;
    c.incast[0][1] = 500000;
    assert_int_equal(concurrent(&c, finish), 40 + 30);
    assert_int_equal(finish[1 * 4], 40);
    c.levels[0].n_incast = 0;
    c.levels[0].pair_bytes_per_s = UINT64_C(10000000000);
    assert_int_equal(concurrent(&c, NULL), 400);
}

static void test_net_maxmin__shared_ports_and_uplinks(void **state) {
    (void)state;
    static struct net_case c;
    case_plain(&c, 2, 2, UINT64_C(100000000000), UINT64_C(10000000000));
    c.matrix[0 * 4 + 2] = 1000;
    c.matrix[1 * 4 + 3] = 1000;
    assert_int_equal(concurrent(&c, NULL), 100);
    c.gpus[1].out_port[1] = c.gpus[0].out_port[1]; /* one NIC for both */
    assert_int_equal(concurrent(&c, NULL), 200);
    c.gpus[1].out_port[1] = c.gpus[1].out_port[0];
    for (uint32_t v = 0; v < 2; v++) {
        c.uplink_out[0][v] = c.t.n_resources;
        c.resources[c.t.n_resources++] = (struct mp_resource){UINT64_C(5000000000), 0, false, true, 2 * v};
        c.uplink_in[0][v] = c.t.n_resources;
        c.resources[c.t.n_resources++] = (struct mp_resource){UINT64_C(20000000000), 0, true, true, 2 * v};
    }
    c.levels[0].uplink_out = c.uplink_out[0];
    c.levels[0].uplink_in = c.uplink_in[0];
    assert_int_equal(concurrent(&c, NULL), 400);
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 400);
}

static void test_net_maxmin__scaling_renaming_and_splitting(void **state) {
    (void)state;
    static struct net_case c, d;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 77);
        case_random(&c, &r, 3, 3);
        uint32_t n = c.t.n_gpus;
        for (uint32_t l = 0; l < c.t.n_levels; l++)
            c.levels[l].latency_ns = 0;
        uint64_t before = concurrent(&c, NULL);
        for (uint32_t p = 0; p < n * n; p++)
            c.matrix[p] *= 1000;
        uint64_t scaled = concurrent(&c, NULL);
        if (scaled > before * 1000 + 1 || scaled + 1000 < before * 1000)
            fail_msg("seed %llu: %llu ns became %llu", (unsigned long long)seed, (unsigned long long)before,
                     (unsigned long long)scaled);

        /* GPUs of equal kind may change names. */
        case_plain(&d, 1, 6, UINT64_C(100000000000), 0);
        case_matrix(&d, &r);
        uint64_t as_is = concurrent(&d, NULL), moved[36];
        uint32_t perm[6] = {0, 1, 2, 3, 4, 5};
        mp_rng_shuffle(&r, perm, 6);
        for (uint32_t i = 0; i < 6; i++)
            for (uint32_t j = 0; j < 6; j++)
                moved[perm[i] * 6 + perm[j]] = d.matrix[i * 6 + j];
        memcpy(d.matrix, moved, sizeof moved);
        uint64_t renamed = concurrent(&d, NULL);
        assert_true(renamed <= as_is + 1 && as_is <= renamed + 1);
    }
    /* Halves of a flow that share no queue: two GPUs with one NIC together, one or both sending the same bytes. */
    case_plain(&c, 2, 2, UINT64_C(100000000000), UINT64_C(10000000000));
    c.gpus[1].out_port[1] = c.gpus[0].out_port[1];
    c.gpus[3].in_port[1] = c.gpus[2].in_port[1];
    c.matrix[0 * 4 + 2] = 123456;
    uint64_t whole = concurrent(&c, NULL);
    c.matrix[0 * 4 + 2] = c.matrix[1 * 4 + 3] = 61728;
    assert_int_equal(concurrent(&c, NULL), whole);
}

/* METHODS.md A.6: against the port bound, n = 8, all at once 1.000-1.07, one at a time in random order or shortest
 * first 1.08-1.64. */
static void test_net_maxmin__papers_baselines_stand_where_the_papers_put_them(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_error err = {0};
    struct mp_net *net;
    case_plain(&c, 1, 8, UINT64_C(12500000000), 0);
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    double sum[4] = {0}, worst = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        for (uint32_t i = 0; i < 8; i++)
            for (uint32_t j = 0; j < 8; j++) /* popular experts, every source alike up to noise */
                c.matrix[i * 8 + j] = i == j ? 0 : (uint64_t)(1e8 * pow(1 + j, -0.8) * (0.5 + mp_rng_unit(&r)));
        uint64_t bound = mp_net_port_bound(net, c.matrix), t[4];
        CHECK_OK(mp_net_concurrent(net, c.matrix, &t[0], NULL, &err), err);
        for (int b = 0; b < 3; b++)
            CHECK_OK(mp_net_baseline(net, (enum mp_baseline)b, seed, c.matrix, &t[1 + b], &err), err);
        for (int k = 0; k < 4; k++) {
            assert_true(t[k] >= bound);
            sum[k] += (double)t[k] / (double)bound / 200;
        }
        worst = fmax(worst, (double)t[0] / (double)bound);
    }
    mp_net_free(net);
    print_message("# ratio to the port bound: all at once %.4f (worst %.4f), rcs %.3f, sjf %.3f, spread-out %.3f\n",
                  sum[0], worst, sum[1], sum[2], sum[3]);
    assert_true(sum[0] < 1.01 && worst <= 1.07);
    assert_true(sum[1] >= 1.05 && sum[1] <= 1.7);
    assert_true(sum[2] >= 1.05 && sum[2] <= 1.7);
}

static void test_net_maxmin__baselines_agree_with_the_slow_ones(void **state) {
    (void)state;
    static struct net_case c;
    static uint32_t order[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 1500; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 999);
        struct mp_error err = {0};
        struct mp_net *net;
        case_random(&c, &r, 3, 2);
        uint32_t n = c.t.n_gpus;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        for (int which = 0; which < 3; which++) {
            struct mp_rng stream = mp_rng_seed(seed);
            for (uint32_t i = 0; i < n; i++) {
                uint32_t k = 0, *list = order + i * n;
                for (uint32_t j = 1; j < n; j++)
                    if (which == MP_BASELINE_SPREAD_OUT && c.matrix[i * n + (i + j) % n] > 0)
                        list[k++] = (i + j) % n;
                for (uint32_t j = 0; j < n; j++)
                    if (which != MP_BASELINE_SPREAD_OUT && c.matrix[i * n + j] > 0)
                        list[k++] = j;
                if (which == MP_BASELINE_RCS)
                    mp_rng_shuffle(&stream, list, k);
                for (uint32_t a = 1; a < k && which == MP_BASELINE_SJF; a++)
                    for (uint32_t b = a; b > 0 && c.matrix[i * n + list[b]] < c.matrix[i * n + list[b - 1]]; b--) {
                        uint32_t swap = list[b];
                        list[b] = list[b - 1];
                        list[b - 1] = swap;
                    }
                if (k < n)
                    list[k] = MP_NONE;
            }
            uint64_t time_ns;
            CHECK_OK(mp_net_baseline(net, (enum mp_baseline)which, seed, c.matrix, &time_ns, &err), err);
            assert_near(time_ns, slow_one_at_a_time(&c.t, order, c.matrix), seed, "a baseline");
        }
        mp_net_free(net);
    }
}

static enum mp_status all_at_once(void *ctx, struct mp_error *err) {
    const struct net_case *c = ctx;
    struct mp_net *net = NULL;
    uint64_t t;
    enum mp_status status;
    MP_TRY(mp_net_new(&net, &c->t, err));
    MP_TRY(mp_net_concurrent(net, c->matrix, &t, NULL, err));
    MP_TRY(mp_net_baseline(net, MP_BASELINE_RCS, 1, c->matrix, &t, err));
out:
    mp_net_free(net);
    return status;
}
static void test_net_maxmin__survives_every_fault(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_rng r = mp_rng_seed(5);
    case_random(&c, &r, 3, 3);
    sweep_faults(all_at_once, &c, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_maxmin__agrees_with_filling_from_scratch_on_10000_cases),
        cmocka_unit_test(test_net_maxmin__agrees_on_large_matrices),
        cmocka_unit_test(test_net_maxmin__agrees_on_more_ports_than_a_word_has_bits),
        cmocka_unit_test(test_net_maxmin__more_gpus_than_paths_are_kept_for),
        cmocka_unit_test(test_net_maxmin__known_times),
        cmocka_unit_test(test_net_maxmin__shared_ports_and_uplinks),
        cmocka_unit_test(test_net_maxmin__scaling_renaming_and_splitting),
        cmocka_unit_test(test_net_maxmin__papers_baselines_stand_where_the_papers_put_them),
        cmocka_unit_test(test_net_maxmin__baselines_agree_with_the_slow_ones),
        cmocka_unit_test(test_net_maxmin__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
