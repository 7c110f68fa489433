#include "net_case.h"
#include <math.h>

static uint64_t staged(struct net_case *c, const struct test_order *x, enum mp_combine way, enum mp_stage_mode mode) {
    struct mp_error err = {0};
    struct mp_net *net;
    uint64_t time_ns;
    CHECK_OK(mp_net_new(&net, &c->t, &err), err);
    CHECK_OK(mp_net_staged(net, &x->o, way, mode, c->matrix, &time_ns, &err), err);
    mp_net_free(net);
    return time_ns;
}

static void test_net_staged__agrees_with_predecessors_worked_out_by_hand(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    uint32_t n_wide = 0, n_flush = 0;
    for (uint64_t seed = 0; seed < 6000; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        if (seed % 2 == 0)
            case_random(&c, &r, 2, 3);
        else { /* ports to themselves: the quick way */
            case_plain(&c, 1 + (uint32_t)mp_rng_below(&r, 2), 2 + (uint32_t)mp_rng_below(&r, 3), UINT64_C(90000000000),
                       UINT64_C(40000000000));
            c.levels[0].latency_ns = mp_rng_below(&r, 3000);
            c.t.stage_launch_ns = mp_rng_below(&r, 5000);
            case_matrix(&c, &r);
        }
        uint32_t ports = mp_rng_below(&r, 3) == 0 ? 2 + (uint32_t)mp_rng_below(&r, 4) : 1;
        uint64_t rate = ports > 1 && mp_rng_below(&r, 2) ? UINT64_C(20000000000) >> mp_rng_below(&r, 3) : 0;
        n_wide += rate > 0;
        case_order(&x, &r, c.t.n_gpus, ports, rate, mp_rng_below(&r, 2) == 0);
        n_flush += x.o.has_flush;
        for (int mode = 0; mode < 3; mode++) {
            enum mp_combine way = (enum mp_combine)mp_rng_below(&r, MP_N_COMBINES);
            uint64_t got = staged(&c, &x, way, (enum mp_stage_mode)mode);
            long double want = slow_staged(&c.t, &x.o, way, (enum mp_stage_mode)mode, c.matrix);
            if (fabsl((long double)got - ceill(want - 1e-6L)) > 1)
                fail_msg("case %llu, mode %d, combine %d: %llu ns, expected %.6Lf", (unsigned long long)seed, mode,
                         (int)way, (unsigned long long)got, want);
            assert_true(got >= mp_port_bound_ns(&c.t, c.matrix));
        }
    }
    assert_true(n_wide > 500);
    assert_true(n_flush > 2000);
}

static void test_net_staged__free_is_never_behind_where_ports_are_alone(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 4242);
        case_plain(&c, 1, 5, UINT64_C(50000000000), 0);
        c.t.stage_launch_ns = mp_rng_below(&r, 5000);
        c.levels[0].latency_ns = mp_rng_below(&r, 2000);
        case_matrix(&c, &r);
        case_order(&x, &r, 5, 1, 0, false);
        uint64_t relaxed = staged(&c, &x, false, MP_STAGE_FREE),
                 coupled = staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_COUPLED);
        assert_true(relaxed <= coupled);
        assert_true(coupled <= staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER));
        assert_true(mp_port_bound_ns(&c.t, c.matrix) <= relaxed);
    }
}

/* Rounds of whole or half flows, the rest in a flush, on 24 GPUs: once with ports of their own, once with an uplink
 * that takes one byte per second less than its ports, so that everything runs as events. */
static void test_net_staged__a_flush_by_itself_is_the_flush_among_events(void **state) {
    (void)state;
    static struct net_case c;
    static struct mp_transfer transfers[25][24 * 24];
    struct mp_stage stages[25];
    const uint32_t n = 24;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 99);
        case_plain(&c, 2, n / 2, UINT64_C(300000000000), UINT64_C(50000000000));
        c.levels[0].latency_ns = mp_rng_below(&r, 2) * 700;
        c.levels[1].latency_ns = mp_rng_below(&r, 5000);
        c.t.stage_launch_ns = mp_rng_below(&r, 5000);
        case_matrix(&c, &r);
        uint32_t n_rounds = (uint32_t)mp_rng_below(&r, n);
        struct mp_order o = {.unit = 2, .ports = 1, .has_flush = true, .n_stages = n_rounds + 1, .stages = stages};
        for (uint32_t s = 0; s <= n_rounds; s++)
            stages[s] = (struct mp_stage){0, transfers[s]};
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++) {
                uint32_t round = (j + n - i) % n, share = 0;
                if (i == j)
                    continue;
                if (round <= n_rounds) {
                    share = (uint32_t)mp_rng_below(&r, 3);
                    if (share > 0)
                        transfers[round - 1][stages[round - 1].n++] =
                            (struct mp_transfer){(uint16_t)i, (uint16_t)j, share, 1};
                }
                if (share < 2)
                    transfers[n_rounds][stages[n_rounds].n++] =
                        (struct mp_transfer){(uint16_t)i, (uint16_t)j, 2 - share, 1};
            }
        struct test_order x = {.o = o};
        uint64_t apart[6], among[6];
        for (int k = 0; k < 6; k++)
            apart[k] = staged(&c, &x, k >= 3, (enum mp_stage_mode)(k % 3));
        for (uint32_t v = 0; v < 2; v++) {
            uint32_t id = c.t.n_resources;
            c.t.n_resources += 2;
            c.resources[id] = (struct mp_resource){UINT64_C(600000000000) - 1, 0, false, true, v * n / 2};
            c.resources[id + 1] = (struct mp_resource){UINT64_C(600000000000) - 1, 0, true, true, v * n / 2};
            c.uplink_out[0][v] = id;
            c.uplink_in[0][v] = id + 1;
        }
        c.levels[0].uplink_out = c.uplink_out[0];
        c.levels[0].uplink_in = c.uplink_in[0];
        for (int k = 0; k < 6; k++) {
            among[k] = staged(&c, &x, k >= 3, (enum mp_stage_mode)(k % 3));
            if (apart[k] > among[k] + 2 || among[k] > apart[k] + 2)
                fail_msg("case %llu, run %d: %llu ns apart, %llu ns among events", (unsigned long long)seed, k,
                         (unsigned long long)apart[k], (unsigned long long)among[k]);
        }
    }
}

/* docs/ORDERS.md part 5 written down again, with a matrix for every stage. */
static uint64_t slow_estimate(const struct net_case *c, const struct mp_order *o, enum mp_combine way) {
    static uint64_t piece[CASE_GPUS * CASE_GPUS], before[CASE_GPUS * CASE_GPUS];
    const uint32_t n = c->t.n_gpus;
    uint64_t latency = 0, sum = 0;
    memset(before, 0, sizeof before);
    for (uint32_t l = 0; l < c->t.n_levels; l++)
        latency = c->t.levels[l].latency_ns > latency ? c->t.levels[l].latency_ns : latency;
    for (uint32_t s = 0; s < o->n_stages; s++) {
        uint64_t bound = 0, total = 0;
        memset(piece, 0, sizeof piece);
        for (uint32_t k = 0; k < o->stages[s].n; k++) {
            struct mp_transfer x = o->stages[s].transfers[k];
            size_t forward = (size_t)x.src * n + x.dst,
                   actual = way != MP_COMBINE_FORWARD ? (size_t)x.dst * n + x.src : forward;
            unsigned __int128 all = c->matrix[actual];
            piece[actual] = (uint64_t)(all * (before[forward] + x.share) / o->unit - all * before[forward] / o->unit);
            before[forward] += x.share;
            total += piece[actual];
            if (o->port_bytes_per_s > 0 && !(o->has_flush && s == o->n_stages - 1)) {
                unsigned __int128 rate = (unsigned __int128)o->port_bytes_per_s * x.width;
                uint64_t ns = (uint64_t)(((unsigned __int128)piece[actual] * 1000000000 + rate - 1) / rate);
                bound = ns > bound ? ns : bound;
            }
        }
        uint64_t ports = mp_port_bound_ns(&c->t, piece);
        bound = ports > bound ? ports : bound;
        sum += total > 0 ? c->t.stage_launch_ns + latency + bound : 0;
    }
    return sum;
}
static void test_net_staged__estimate_and_fallback(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    uint32_t n_lost = 0, n_kept = 0;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 77);
        struct mp_error err = {0};
        struct mp_net *net;
        uint64_t got, single, latency = 0, time_ns;
        bool falls_back;
        enum mp_combine way = (enum mp_combine)mp_rng_below(&r, MP_N_COMBINES);
        case_random(&c, &r, 2, 3);
        uint32_t ports = 1 + (uint32_t)mp_rng_below(&r, 3);
        case_order(&x, &r, c.t.n_gpus, ports, mp_rng_below(&r, 2) * UINT64_C(7000000000), mp_rng_below(&r, 2) == 0);
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        CHECK_OK(mp_net_order_estimate(net, &x.o, way, c.matrix, &got, &single, &err), err);
        assert_int_equal(got, slow_estimate(&c, &x.o, way));
        for (uint32_t l = 0; l < c.t.n_levels; l++)
            latency = c.t.levels[l].latency_ns > latency ? c.t.levels[l].latency_ns : latency;
        assert_int_equal(single, c.t.launch_ns + latency + mp_port_bound_ns(&c.t, c.matrix));
        uint32_t ppm = (uint32_t)mp_rng_below(&r, 1500000);
        bool has_traffic = mp_port_bound_ns(&c.t, c.matrix) > 0;
        CHECK_OK(mp_net_falls_back(net, &x.o, way, ppm, c.matrix, &falls_back, &err), err);
        assert_int_equal(falls_back,
                         has_traffic && ppm > 0 &&
                             (unsigned __int128)got * 1000000 > (unsigned __int128)single * (1000000 + (uint64_t)ppm));
        n_lost += falls_back;
        n_kept += !falls_back;
        CHECK_OK(mp_net_falls_back(net, &x.o, way, 0, c.matrix, &falls_back, &err), err);
        assert_false(falls_back);
        /* One-to-one stages with ports to themselves never take longer than their estimate under BARRIER. */
        if (seed % 4 == 0) {
            mp_net_free(net);
            case_plain(&c, 1, 4, UINT64_C(50000000000), 0);
            case_matrix(&c, &r);
            case_order(&x, &r, 4, 1, 0, false);
            CHECK_OK(mp_net_new(&net, &c.t, &err), err);
            CHECK_OK(mp_net_order_estimate(net, &x.o, MP_COMBINE_FORWARD, c.matrix, &got, &single, &err), err);
            CHECK_OK(mp_net_staged(net, &x.o, MP_COMBINE_FORWARD, MP_STAGE_BARRIER, c.matrix, &time_ns, &err), err);
            assert_true(time_ns <= got && got <= time_ns + x.o.n_stages);
        }
        mp_net_free(net);
    }
    assert_true(n_lost > 100 && n_kept > 100);
}

static struct test_order rotation(uint32_t n) {
    static struct test_order x;
    memset(&x, 0, sizeof x);
    x.o = (struct mp_order){.name = "rotation", .unit = 1, .ports = 1, .n_stages = n - 1};
    for (uint32_t s = 0; s + 1 < n; s++) {
        for (uint32_t i = 0; i < n; i++)
            x.transfers[s][i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + s + 1) % n), 1, 1};
        x.stages[s] = (struct mp_stage){n, x.transfers[s]};
    }
    return x;
}

static void test_net_staged__known_times(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    case_plain(&c, 1, 3, UINT64_C(100000000000), 0);
    c.t.stage_launch_ns = 5;
    c.levels[0].latency_ns = 2;
    x = rotation(3);
    x.o.stages = x.stages;
    for (uint32_t s = 0; s < 2; s++)
        x.stages[s].transfers = x.transfers[s];
    for (uint32_t p = 0; p < 9; p++)
        c.matrix[p] = p % 4 == 0 ? 0 : 1000;
    for (int mode = 0; mode < 3; mode++) /* full matchings do not care */
        assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, (enum mp_stage_mode)mode), 2 * (5 + 2 + 10));
    memset(c.matrix, 0, sizeof c.matrix);
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER), 0); /* empty stages cost nothing */
    c.matrix[0 * 3 + 1] = 5000;                                                /* stage 0 */
    c.matrix[2 * 3 + 1] = 100; /* stage 1 (2 -> 1), waits for receiver 1 */
    c.matrix[1 * 3 + 0] = 300; /* stage 1 (1 -> 0) */
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_FREE), 57 + 8);
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_COUPLED),
                     57 + 10); /* rank 1 receives until 57 before it sends */
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER), 57 + 10);
    c.matrix[1 * 3 + 0] = 4900;
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_FREE), 57 + 8); /* sent from time 0 on */
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_COUPLED), 57 + 56);
}

/* By hand: 0 -> 1 in a stage of 100 ns, then a flush of 0 -> 2 and 2 -> 1 (100 bytes each, 1 byte/ns): 2 may start when
 * nothing of its own came before, if the queue of 1's receives lets it. */
static void test_net_staged__known_times_of_a_flush(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_transfer first = {0, 1, 1, 1},
                       rest[5] = {{0, 2, 1, 1}, {1, 0, 1, 1}, {1, 2, 1, 1}, {2, 0, 1, 1}, {2, 1, 1, 1}};
    struct mp_stage stages[2] = {{1, &first}, {5, rest}};
    struct test_order x = {.o = {.unit = 1, .ports = 1, .has_flush = true, .n_stages = 2, .stages = stages}};
    case_plain(&c, 1, 3, UINT64_C(1000000000), 0);
    c.t.stage_launch_ns = 5;
    c.levels[0].latency_ns = 2;
    c.matrix[0 * 3 + 1] = 100;
    c.matrix[0 * 3 + 2] = 40;
    c.matrix[1 * 3 + 2] = 40;
    /* FREE: 1 -> 2 runs from 5 to 45; 0 -> 2 from 107 + 5 on. */
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_FREE), 107 + 5 + 40 + 2);
    /* COUPLED and BARRIER: both start at 112 and share the port of 2. */
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_COUPLED), 107 + 5 + 80 + 2);
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER), 107 + 5 + 80 + 2);
    /* Reversed: the combine of the transpose starts with the flush, 2 -> 0 and 2 -> 1; then 1 -> 0. */
    uint64_t dispatch[9];
    memcpy(dispatch, c.matrix, sizeof dispatch);
    for (uint32_t i = 0; i < 9; i++)
        c.matrix[i] = dispatch[i % 3 * 3 + i / 3];
    for (int mode = 0; mode < 3; mode++) /* FREE: 1 waits for nothing, but 0 receives from 2 until 87 */
        assert_int_equal(staged(&c, &x, MP_COMBINE_REVERSED, (enum mp_stage_mode)mode), 87 + 5 + 100 + 2);
    /* A cap holds for the stage, not for the flush. */
    memcpy(c.matrix, dispatch, sizeof dispatch);
    x.o.port_bytes_per_s = UINT64_C(500000000);
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER), 207 + 5 + 80 + 2);
    first.width = 2;
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_BARRIER), 107 + 5 + 80 + 2);
}

/* Sub-ports: a port of 2 units drives two receivers of 1 unit at their own rate, which one-to-one stages cannot. */
static void test_net_staged__sub_ports_reach_the_bound_of_unequal_ports(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    case_plain(&c, 1, 3, UINT64_C(50000000000), 0);
    c.resources[c.gpus[0].out_port[0]].bytes_per_s = UINT64_C(100000000000);
    c.matrix[1] = c.matrix[2] = 50000;
    memset(&x, 0, sizeof x);
    x.o = (struct mp_order){
        .unit = 1, .ports = 2, .port_bytes_per_s = UINT64_C(50000000000), .n_stages = 1, .stages = x.stages};
    x.transfers[0][0] = (struct mp_transfer){0, 1, 1, 1};
    x.transfers[0][1] = (struct mp_transfer){0, 2, 1, 1};
    x.stages[0] = (struct mp_stage){2, x.transfers[0]};
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_FREE), 1000);
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 1000);
    x.o.n_stages = 2;
    x.transfers[1][0] = x.transfers[0][1];
    x.stages[0].n = 1;
    x.stages[1] = (struct mp_stage){1, x.transfers[1]};
    assert_int_equal(staged(&c, &x, MP_COMBINE_FORWARD, MP_STAGE_FREE), 2000);
}

static void test_net_staged__refuses_orders_that_lose_bytes(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    struct mp_error err = {0};
    struct mp_net *net;
    uint64_t time_ns;
    case_plain(&c, 1, 3, UINT64_C(50000000000), 0);
    c.matrix[1] = 10;
    x = rotation(3);
    x.o.stages = x.stages;
    for (uint32_t s = 0; s < 2; s++)
        x.stages[s].transfers = x.transfers[s];
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    x.transfers[0][0].share = 0;
    assert_int_equal(mp_net_staged(net, &x.o, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    mp_error_clear(&err);
    x.transfers[0][0].share = 2;
    assert_int_equal(mp_net_staged(net, &x.o, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    mp_error_clear(&err);
    x.transfers[0][0] = (struct mp_transfer){0, 9, 1, 1};
    assert_int_equal(mp_net_staged(net, &x.o, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    mp_net_free(net);
}

static enum mp_status one_staged(void *ctx, struct mp_error *err) {
    const struct net_case *c = ctx;
    static struct test_order x;
    struct mp_net *net = NULL;
    uint64_t t;
    enum mp_status status;
    struct mp_rng r = mp_rng_seed(1);
    case_order(&x, &r, c->t.n_gpus, 1, 0, true);
    MP_TRY(mp_net_new(&net, &c->t, err));
    MP_TRY(mp_net_staged(net, &x.o, MP_COMBINE_FORWARD, MP_STAGE_FREE, c->matrix, &t, err));
out:
    mp_net_free(net);
    return status;
}
static void test_net_staged__survives_every_fault(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_rng r = mp_rng_seed(3);
    case_random(&c, &r, 3, 2);
    sweep_faults(one_staged, &c, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_staged__agrees_with_predecessors_worked_out_by_hand),
        cmocka_unit_test(test_net_staged__free_is_never_behind_where_ports_are_alone),
        cmocka_unit_test(test_net_staged__a_flush_by_itself_is_the_flush_among_events),
        cmocka_unit_test(test_net_staged__estimate_and_fallback),
        cmocka_unit_test(test_net_staged__known_times),
        cmocka_unit_test(test_net_staged__known_times_of_a_flush),
        cmocka_unit_test(test_net_staged__sub_ports_reach_the_bound_of_unequal_ports),
        cmocka_unit_test(test_net_staged__refuses_orders_that_lose_bytes),
        cmocka_unit_test(test_net_staged__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
