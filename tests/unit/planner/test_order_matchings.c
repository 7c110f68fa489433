/* Orders by matchings, exact and few with a flush, under the simulator. */
#include "support.h"

#include "planner.h"
#include "real_matrices.h"
#include <math.h>

/* One switch of equal ports; no launch and no latency unless given. */
struct setting {
    struct mp_topology *topology;
    struct mp_net *net;
    struct mp_level levels[MP_MAX_LEVELS];
};
static void setting_new(struct setting *s, const char *spec, uint64_t launch_ns, uint64_t latency_ns) {
    struct mp_error err = {0};
    CHECK_OK(mp_topology_load(&s->topology, spec, &mp_limits_default, &err), err);
    for (uint32_t l = 0; l < s->topology->n_levels; l++) {
        s->levels[l] = s->topology->levels[l];
        s->levels[l].latency_ns = latency_ns;
    }
    s->topology->levels = s->levels;
    s->topology->launch_ns = s->topology->stage_launch_ns = launch_ns;
    CHECK_OK(mp_net_new(&s->net, s->topology, &err), err);
}
static void setting_free(struct setting *s) {
    mp_net_free(s->net);
    mp_topology_free(s->topology);
}

/* Runs the order, which mp_order_run checks byte by byte; its time, and the schedule when wanted. */
static uint64_t run_with(struct setting *s, const uint64_t *matrix, const char *order, const int64_t *values,
                         enum mp_stage_mode mode, struct mp_schedule *keep) {
    struct mp_error err = {0};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t time_ns;
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, order);
    struct mp_order_problem in = {
        .topology = s->topology, .matrix = matrix, .net = s->net, .mode = mode, .option_values = values};
    assert_non_null(strategy);
    CHECK_OK(mp_order_run(strategy, &in, &schedule, &outcome, &err), err);
    assert_int_equal(outcome, MP_FOUND);
    CHECK_OK(mp_schedule_time(&schedule, &in, &time_ns, &err), err);
    if (keep != NULL)
        *keep = schedule;
    else
        mp_schedule_free(&schedule);
    return time_ns;
}

/* With so many stages and the other options as they are. */
static uint64_t run(struct setting *s, const uint64_t *matrix, const char *order, int64_t n_stages,
                    enum mp_stage_mode mode, struct mp_schedule *keep) {
    const int64_t values[3] = {n_stages, 0, 0};
    return run_with(s, matrix, order, values, mode, keep);
}

static void fill_random(uint64_t *matrix, uint32_t n, struct mp_rng *r, uint32_t one_in) {
    for (size_t k = 0; k < (size_t)n * n; k++)
        matrix[k] = mp_rng_below(r, one_in) > 0 ? 0 : mp_rng_below(r, 10000000);
}

/* Lognormal pairs scaled until all ports carry `port` bytes. */
static void fill_balanced(uint64_t *matrix, uint32_t n, double sigma, uint64_t port, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    double *x = malloc((size_t)n * n * sizeof *x);
    for (size_t k = 0; k < (size_t)n * n; k++) {
        double u = mp_rng_unit(&r), v = mp_rng_unit(&r);
        x[k] = k / n == k % n ? 0 : exp(sigma * sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v));
    }
    for (int round = 0; round < 300; round++)
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t i = 0; i < n; i++) {
                double sum = 0;
                for (uint32_t j = 0; j < n; j++)
                    sum += x[side == 0 ? i * n + j : j * n + i];
                for (uint32_t j = 0; j < n; j++)
                    x[side == 0 ? i * n + j : j * n + i] /= sum;
            }
    for (size_t k = 0; k < (size_t)n * n; k++)
        matrix[k] = (uint64_t)(x[k] * (double)port + 0.5);
    free(x);
}

/* Times are rounded up once, at the end. */
static void check_bound_reached(struct setting *s, const uint64_t *matrix) {
    static const enum mp_stage_mode modes[] = {MP_STAGE_FREE, MP_STAGE_BARRIER, MP_STAGE_COUPLED};
    uint64_t bound = mp_net_port_bound(s->net, matrix);
    for (int m = 0; m < 3; m++) {
        uint64_t time = run(s, matrix, "bvn", 0, modes[m], NULL);
        assert_true(time >= bound && time <= bound + 1);
    }
}

static void test_order_matchings__bvn_takes_the_port_bound_in_every_mode(void **state) {
    static const char *const specs[] = {"2:h100", "3:h100", "5:h100", "8:h100", "12:h100"};
    struct mp_rng r = mp_rng_seed(8);
    uint64_t matrix[144] = {0};
    (void)state;
    for (int k = 0; k < 5; k++) {
        struct setting s;
        setting_new(&s, specs[k], 0, 0);
        for (uint32_t round = 0; round < 12; round++) {
            fill_random(matrix, s.topology->n_gpus, &r, 1 + round % 4);
            check_bound_reached(&s, matrix);
        }
        setting_free(&s);
    }
}

static void test_order_matchings__bvn_pays_one_launch_and_latency_a_stage(void **state) {
    struct mp_rng r = mp_rng_seed(2);
    uint64_t matrix[64];
    struct setting s;
    struct mp_schedule schedule;
    (void)state;
    setting_new(&s, "8:h100", 7000, 300);
    fill_random(matrix, 8, &r, 1);
    uint64_t bound = mp_net_port_bound(s.net, matrix), time = run(&s, matrix, "bvn", 0, MP_STAGE_BARRIER, &schedule);
    uint64_t launches = schedule.n_stages * UINT64_C(7300);
    assert_true(schedule.n_stages > 20 && !schedule.has_flush);
    assert_true(time >= bound + launches && time <= bound + launches + 1);
    mp_schedule_free(&schedule);
    setting_free(&s);
}

static void check_losses(struct setting *s, const uint64_t *matrix) {
    const uint32_t n = s->topology->n_gpus;
    static const enum mp_stage_mode modes[] = {MP_STAGE_BARRIER, MP_STAGE_COUPLED};
    double bound = (double)mp_net_port_bound(s->net, matrix);
    for (int m = 0; m < 2; m++) {
        struct mp_schedule schedule;
        assert_true((double)run(s, matrix, "matchings", 2 * (int64_t)n, modes[m], &schedule) <= bound * 1.015);
        assert_true(schedule.n_stages <= 2 * n + schedule.has_flush);
        mp_schedule_free(&schedule);
        assert_true((double)run(s, matrix, "matchings", 3 * (int64_t)n, modes[m], NULL) <= bound * 1.003);
    }
}
static void test_order_matchings__two_n_stages_and_a_flush_are_near_the_bound(void **state) {
    static const char *const specs[] = {"8:h100", "16:h100", "32:h100"};
    static uint64_t matrix[32 * 32];
    (void)state;
    for (int k = 0; k < 3; k++) {
        struct setting s;
        setting_new(&s, specs[k], 0, 0);
        for (uint64_t seed = 0; seed < (k == 0 ? 40 : k == 1 ? 10 : 1); seed++)
            for (int sigma = 1; sigma <= 2; sigma++) {
                fill_balanced(matrix, s.topology->n_gpus, sigma, UINT64_C(100000000000), seed);
                check_losses(&s, matrix);
            }
        setting_free(&s);
    }
}

static void test_order_matchings__recorded_traffic_is_near_the_bound(void **state) {
    static uint64_t matrix[64 * 64];
    (void)state;
    for (size_t k = 0; k < N_REAL_TRACES; k++) {
        char relative[256], spec[32];
        struct mp_error err = {0};
        struct real_set set;
        struct setting s;
        const uint32_t n = real_traces[k].n_gpus[0];
        snprintf(relative, sizeof relative, "traces/%s", real_traces[k].path);
        const char *path = shared_path(relative);
        if (path == NULL)
            skip();
        CHECK_OK(real_set_load(&set, &real_traces[k], path, n, &err), err);
        snprintf(spec, sizeof spec, "%u:h100", n);
        setting_new(&s, spec, 0, 0);
        for (uint32_t l = 0; l < set.trace->n_layers; l++) {
            real_matrix(&set, l, 0, set.workload->n_steps, matrix);
            for (size_t i = 0; i < (size_t)n * n; i++)
                matrix[i] *= 1000; /* far above the rounding of a nanosecond a stage */
            check_losses(&s, matrix);
            check_bound_reached(&s, matrix);
        }
        setting_free(&s);
        real_set_free(&set);
    }
}

/* With barriers the time is what the strategy computed itself, so its choice is the best of the counts it tried. */
static void test_order_matchings__no_fixed_count_is_faster_than_its_choice(void **state) {
    static const uint64_t launches_ns[] = {0, 3000, 20000, 300000};
    uint64_t matrix[64];
    uint32_t n_staged = 0, n_single = 0;
    (void)state;
    for (int k = 0; k < 4; k++) {
        struct setting s;
        setting_new(&s, "8:h100", launches_ns[k], 700);
        for (uint64_t seed = 0; seed < 6; seed++) {
            struct mp_schedule schedule;
            fill_balanced(matrix, 8, 1 + (double)(seed % 2), UINT64_C(1000000000), seed);
            uint64_t time = run(&s, matrix, "matchings", 0, MP_STAGE_BARRIER, &schedule);
            n_staged += schedule.n_stages > 0;
            n_single += schedule.n_stages == 0;
            mp_schedule_free(&schedule);
            assert_true(time <= run(&s, matrix, "single", 0, MP_STAGE_BARRIER, NULL));
            for (int64_t count = 1; count <= 24; count++) {
                uint64_t fixed = run(&s, matrix, "matchings", count, MP_STAGE_BARRIER, NULL);
                bool is_tried = count <= 4 || count == 6 || count == 8 || count == 10 || count == 12 || count == 15;
                assert_true(time <= (is_tried ? fixed + 24 : fixed + fixed / 50));
            }
        }
        setting_free(&s);
    }
    assert_true(n_staged > 6 && n_single > 5);
}

static void test_order_matchings__ends_when_nothing_is_left(void **state) {
    struct setting s;
    struct mp_schedule schedule;
    uint64_t matrix[16] = {5, 0, 0, 9000, 9000, 5, 0, 0, 0, 9000, 5, 0, 0, 0, 9000, 5};
    (void)state;
    setting_new(&s, "4:h100", 0, 0);
    run(&s, matrix, "matchings", 1000, MP_STAGE_COUPLED, &schedule); /* a permutation; the diagonal is no traffic */
    assert_int_equal(schedule.n_stages, 1);
    assert_false(schedule.has_flush);
    mp_schedule_free(&schedule);
    memset(matrix, 0, sizeof matrix);
    assert_int_equal(run(&s, matrix, "matchings", 3, MP_STAGE_COUPLED, &schedule), 0);
    assert_int_equal(schedule.n_stages, 0);
    mp_schedule_free(&schedule);
    assert_int_equal(run(&s, matrix, "nested", 3, MP_STAGE_COUPLED, &schedule), 0);
    assert_int_equal(schedule.n_stages, 0);
    mp_schedule_free(&schedule);
    assert_int_equal(run(&s, matrix, "bvn", 0, MP_STAGE_COUPLED, &schedule), 0);
    assert_int_equal(schedule.n_stages, 0);
    mp_schedule_free(&schedule);
    setting_free(&s);
}

/* mp_order_run has checked that every byte is sent once. */
static void test_order_matchings__unequal_ports_lose_no_byte(void **state) {
    static const char *const specs[] = {"2x3:h100", "1x2:h100+1x4:l40s", "2x2:a100+1x2:l40s"};
    struct mp_rng r = mp_rng_seed(6);
    uint64_t matrix[36];
    (void)state;
    for (int k = 0; k < 3; k++) {
        struct setting s;
        setting_new(&s, specs[k], 100, 0);
        assert_true(s.topology->n_gpus <= 6);
        for (uint32_t round = 0; round < 20; round++) {
            struct mp_schedule schedule;
            fill_random(matrix, s.topology->n_gpus, &r, 1 + round % 3);
            uint64_t bound = mp_net_port_bound(s.net, matrix);
            assert_true(run(&s, matrix, "bvn", 0, MP_STAGE_BARRIER, &schedule) >= bound);
            assert_true(schedule.n_stages > 0);
            mp_schedule_free(&schedule);
            for (int64_t count = 0; count < 5; count++)
                assert_true(run(&s, matrix, "matchings", count, MP_STAGE_COUPLED, NULL) >= bound &&
                            run(&s, matrix, "nested", count, MP_STAGE_COUPLED, NULL) >= bound);
        }
        setting_free(&s);
    }
}

static void test_order_matchings__bvn_declines_what_would_not_fit(void **state) {
    struct setting s;
    struct mp_error err = {0};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t *matrix = calloc(257 * 257, sizeof *matrix);
    (void)state;
    setting_new(&s, "257:h100", 0, 0);
    struct mp_order_problem in = {.topology = s.topology, .matrix = matrix, .net = s.net};
    CHECK_OK(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, "bvn"), &in, &schedule, &outcome, &err), err);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    assert_string_equal(err.message, "bvn: 257 GPUs need up to 16974593 transfers (use matchings above 256 GPUs)");
    mp_schedule_free(&schedule);
    setting_free(&s);
    free(matrix);
}

/* Each stage of `nested` alone, all at once at fair rates, takes no longer than the port bound of its bytes. */
static void check_stages_lossless(struct setting *s, const struct mp_schedule *schedule, uint64_t *stage) {
    struct mp_error err = {0};
    const uint32_t n = s->topology->n_gpus;
    for (uint32_t k = 0; k < schedule->n_stages - schedule->has_flush; k++) {
        uint64_t time;
        memset(stage, 0, (size_t)n * n * sizeof *stage);
        for (uint32_t i = schedule->first[k]; i < schedule->first[k + 1]; i++)
            stage[(size_t)schedule->pieces[i].src * n + schedule->pieces[i].dst] = schedule->pieces[i].bytes;
        CHECK_OK(mp_net_concurrent(s->net, stage, &time, NULL, &err), err);
        uint64_t bound = mp_net_port_bound(s->net, stage);
        assert_true(time >= bound && time <= bound + 50); /* balanced only to a byte per pair */
    }
}
static void test_order_matchings__nested_stages_of_many_peers_lose_nothing(void **state) {
    static const char *const specs[] = {"5:h100", "8:h100", "16:h100", "24:h100"};
    static uint64_t matrix[24 * 24], stage[24 * 24];
    (void)state;
    for (int k = 0; k < 4; k++) {
        struct setting s;
        setting_new(&s, specs[k], 0, 0);
        const uint32_t n = s.topology->n_gpus;
        for (uint64_t seed = 0; seed < 6; seed++) {
            struct mp_schedule schedule;
            fill_balanced(matrix, n, 1, UINT64_C(100000000000), seed);
            double bound = (double)mp_net_port_bound(s.net, matrix);
            uint64_t time = run(&s, matrix, "nested", 8, MP_STAGE_COUPLED, &schedule);
            assert_true((double)time <= bound * 1.013); /* one launch more than 8; matchings need 2n */
            assert_true(schedule.ports > 1 && schedule.ports < n);
            check_stages_lossless(&s, &schedule, stage);
            mp_schedule_free(&schedule);
            const int64_t two_peers[3] = {3, 2, 1};
            run_with(&s, matrix, "nested", two_peers, MP_STAGE_COUPLED, &schedule);
            assert_int_equal(schedule.ports, 2);
            check_stages_lossless(&s, &schedule, stage);
            mp_schedule_free(&schedule);
            const int64_t one_peer[3] = {4, 1, 0};
            run_with(&s, matrix, "nested", one_peer, MP_STAGE_BARRIER, &schedule);
            assert_int_equal(schedule.ports, 1);
            check_stages_lossless(&s, &schedule, stage);
            mp_schedule_free(&schedule);
        }
        setting_free(&s);
    }
}

static void test_order_matchings__nested_pays_its_launches(void **state) {
    static uint64_t matrix[16 * 16];
    uint64_t nested = 0, matchings = 0, single = 0;
    struct setting s;
    (void)state;
    setting_new(&s, "16:h100", 20000, 1000);
    for (uint64_t seed = 0; seed < 10; seed++) {
        uint64_t time;
        fill_balanced(matrix, 16, 1 + (double)(seed % 2), UINT64_C(2000000000), seed);
        nested += time = run(&s, matrix, "nested", 0, MP_STAGE_BARRIER, NULL);
        matchings += run(&s, matrix, "matchings", 0, MP_STAGE_BARRIER, NULL);
        single += run(&s, matrix, "single", 0, MP_STAGE_BARRIER, NULL);
        assert_true(time <= run(&s, matrix, "single", 0, MP_STAGE_BARRIER, NULL));
    }
    assert_true(nested < matchings && matchings < single);
    fill_random(matrix, 16, &(struct mp_rng){{1, 2, 3, 4}}, 1);
    for (int k = 0; k < 256; k++)
        matrix[k] /= 1000; /* too small for any launch but one */
    struct mp_schedule schedule;
    run(&s, matrix, "nested", 0, MP_STAGE_COUPLED, &schedule);
    assert_int_equal(schedule.n_stages, 0);
    mp_schedule_free(&schedule);
    setting_free(&s);
}

struct flow {
    struct setting *setting;
    const char *order;
};
static enum mp_status order_once(void *ctx, struct mp_error *err) {
    struct flow *f = ctx;
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t matrix[25];
    struct mp_rng r = mp_rng_seed(1);
    struct mp_net *net; /* of its own: what it grows to while it works is not lost */
    fill_random(matrix, 5, &r, 1);
    enum mp_status status = mp_net_new(&net, f->setting->topology, err);
    if (status != MP_OK)
        return status;
    struct mp_order_problem in = {.topology = f->setting->topology, .matrix = matrix, .net = net};
    status = mp_order_run(mp_strategy_find(MP_PLAN_ORDER, f->order), &in, &schedule, &outcome, err);
    mp_schedule_free(&schedule);
    mp_net_free(net);
    return status;
}
static void test_order_matchings__survive_every_failed_allocation(void **state) {
    struct setting s;
    (void)state;
    setting_new(&s, "5:h100", 10, 0);
    sweep_faults(order_once, &(struct flow){&s, "bvn"}, 1);
    sweep_faults(order_once, &(struct flow){&s, "matchings"}, 1);
    sweep_faults(order_once, &(struct flow){&s, "nested"}, 1);
    setting_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_matchings__bvn_takes_the_port_bound_in_every_mode),
        cmocka_unit_test(test_order_matchings__bvn_pays_one_launch_and_latency_a_stage),
        cmocka_unit_test(test_order_matchings__two_n_stages_and_a_flush_are_near_the_bound),
        cmocka_unit_test(test_order_matchings__recorded_traffic_is_near_the_bound),
        cmocka_unit_test(test_order_matchings__no_fixed_count_is_faster_than_its_choice),
        cmocka_unit_test(test_order_matchings__ends_when_nothing_is_left),
        cmocka_unit_test(test_order_matchings__unequal_ports_lose_no_byte),
        cmocka_unit_test(test_order_matchings__bvn_declines_what_would_not_fit),
        cmocka_unit_test(test_order_matchings__nested_stages_of_many_peers_lose_nothing),
        cmocka_unit_test(test_order_matchings__nested_pays_its_launches),
        cmocka_unit_test(test_order_matchings__survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
