/* Sub-ports against the port bound, in whole numbers. */
#include "bvn.h"
#include "real_matrices.h"
#include "sub_ports.h"
#include "support.h"

#define GPUS 64u
#define RANDOM_GPUS 12u
struct cluster {
    struct mp_topology t;
    struct mp_gpu gpus[GPUS];
    struct mp_gpu_type type;
    struct mp_level levels[2];
    struct mp_resource resources[4 * GPUS];
    uint64_t matrix[GPUS * GPUS];
};

/* n GPUs in nodes of per_node with an out and an in port each per level in use. rates[2 * level + is_in][n], GB/s. */
static void make(struct cluster *c, uint32_t n, uint32_t per_node, uint64_t (*rates)[GPUS]) {
    memset(c, 0, sizeof *c);
    const uint32_t n_levels = per_node < n ? 2 : 1;
    c->type = (struct mp_gpu_type){.name = "gpu", .memory_bytes = 1, .hbm_bytes_per_s = 1, .flops_16bit = 1};
    c->levels[0] = (struct mp_level){.name = "in", .n_groups = (n + per_node - 1) / per_node};
    c->levels[1] = (struct mp_level){.name = "out", .n_groups = 1};
    c->t = (struct mp_topology){.name = "test",
                                .n_gpus = n,
                                .n_types = 1,
                                .n_levels = n_levels,
                                .gpus = c->gpus,
                                .types = &c->type,
                                .levels = c->levels,
                                .resources = c->resources};
    for (uint32_t g = 0; g < n; g++) {
        c->gpus[g] = (struct mp_gpu){.speed_ppm = 1000000, .group = {g / per_node}};
        for (uint32_t l = 0; l < n_levels; l++)
            for (uint32_t is_in = 0; is_in < 2; is_in++) {
                uint32_t id = c->t.n_resources++;
                *(is_in ? &c->gpus[g].in_port[l] : &c->gpus[g].out_port[l]) = id;
                c->resources[id] = (struct mp_resource){.bytes_per_s = rates[2 * l + is_in][g] * 1000000000,
                                                        .level = l,
                                                        .is_in = is_in == 1,
                                                        .first_gpu = g};
            }
    }
}

/* The port that sets the bound: load / rate, as a fraction. */
static void port_bound(const struct cluster *c, uint64_t *load, uint64_t *rate) {
    uint64_t through[4 * GPUS] = {0};
    const uint32_t n = c->t.n_gpus;
    *load = 0;
    *rate = 1;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t l = c->gpus[i].group[0] == c->gpus[j].group[0] ? 0 : 1;
            if (i == j)
                continue;
            through[c->gpus[i].out_port[l]] += c->matrix[i * n + j];
            through[c->gpus[j].in_port[l]] += c->matrix[i * n + j];
        }
    for (uint32_t r = 0; r < c->t.n_resources; r++)
        if ((unsigned __int128)through[r] * *rate > (unsigned __int128)*load * c->resources[r].bytes_per_s) {
            *load = through[r];
            *rate = c->resources[r].bytes_per_s;
        }
}

static void fill(struct cluster *c, struct mp_rng *r) {
    const uint32_t n = c->t.n_gpus, shape = (uint32_t)mp_rng_below(r, 4);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t bytes = 1 + mp_rng_below(r, 1000000);
            if (shape == 1)
                bytes = mp_rng_below(r, 3) == 0 ? bytes : 0;
            if (shape == 2)
                bytes *= c->resources[c->gpus[j].in_port[0]].bytes_per_s / 1000000000; /* hot experts on fast GPUs */
            if (shape == 3)
                bytes = UINT64_C(1) << mp_rng_below(r, 30);
            c->matrix[i * n + j] = i == j ? 0 : bytes;
        }
}

static const uint64_t paper_rates[] = {100, 80, 50, 40};

static void make_random(struct cluster *c, struct mp_rng *r) {
    uint64_t rates[4][GPUS];
    uint32_t n = 2 + (uint32_t)mp_rng_below(r, RANDOM_GPUS - 1), per_node = mp_rng_below(r, 3) == 0 ? (n + 1) / 2 : n;
    bool is_same = mp_rng_below(r, 2) == 0; /* out and in */
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t g = 0; g < n; g++)
            rates[k][g] = k % 2 == 1 && is_same ? rates[k - 1][g] : paper_rates[mp_rng_below(r, 4)];
    make(c, n, per_node, rates);
    fill(c, r);
}

/* The whole claim: stages of the decomposition, each at full rate, add up to the port bound exactly. */
static void check_exact(const struct cluster *c) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_sub_ports *s;
    struct mp_bvn *bvn;
    struct mp_bvn_stage stage;
    enum mp_outcome outcome;
    uint64_t load, rate, sum = 0;
    static uint64_t sent[GPUS * GPUS];
    struct mp_order_problem in = {.topology = &c->t, .matrix = c->matrix, .can_pace = true};
    const uint32_t n = c->t.n_gpus;
    CHECK_OK(mp_sub_ports_new(&s, &in, arena, &outcome, &err), err);
    assert_int_equal(outcome, MP_FOUND);
    port_bound(c, &load, &rate);
    if (load == 0) {
        assert_int_equal(s->n_sub, 0);
        mp_arena_free(arena);
        return;
    }
    assert_int_equal(s->loss_ppm, 0);
    assert_true((unsigned __int128)s->bound * rate == (unsigned __int128)load * s->scale * s->unit_bytes_per_s);
    for (uint32_t side = 0; side < 2; side++) { /* no port is promised more than it has, nor more than 64 units */
        uint32_t count[4 * GPUS] = {0};
        for (uint32_t a = 0; a < s->n[side]; a++)
            count[s->port[side][a]]++;
        for (uint32_t p = 0; p < c->t.n_resources; p++) {
            assert_true(count[p] * s->unit_bytes_per_s <= c->resources[p].bytes_per_s);
            assert_true(count[p] <= 64);
        }
    }
    memset(sent, 0, sizeof sent);
    CHECK_OK(mp_bvn_new(&bvn, s->n_sub, s->matrix, &err), err);
    while (mp_bvn_next(bvn, &stage)) {
        assert_int_equal(stage.start, sum);
        sum = stage.end;
        for (uint32_t a = 0; a < s->n[0]; a++)
            if (mp_bvn_bytes(&stage, a) > 0)
                sent[s->gpu[0][a] * n + s->gpu[1][stage.to[a]]] += mp_bvn_bytes(&stage, a);
    }
    assert_int_equal(sum, s->bound);
    for (uint32_t p = 0; p < n * n; p++)
        assert_int_equal(sent[p], p / n == p % n ? 0 : c->matrix[p] * s->scale);
    mp_bvn_free(bvn);
    mp_arena_free(arena);
}
static void test_sub_ports__the_stages_add_up_to_the_port_bound(void **state) {
    (void)state;
    static struct cluster c;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        make_random(&c, &r);
        check_exact(&c);
    }
}

/* Recorded traffic on ports of 100, 80, 50 and 40, dealt out by the layer. */
static void test_sub_ports__exact_on_recorded_traffic(void **state) {
    (void)state;
    static struct cluster c;
    static uint64_t rates[4][GPUS];
    for (size_t k = 0; k < N_REAL_TRACES; k++)
        for (int size = 0; size < 3 && real_traces[k].n_gpus[size] > 0; size++) {
            char relative[256];
            struct mp_error err = {0};
            struct real_set set;
            const uint32_t n = real_traces[k].n_gpus[size];
            snprintf(relative, sizeof relative, "traces/%s", real_traces[k].path);
            const char *path = shared_path(relative);
            if (path == NULL)
                skip();
            CHECK_OK(real_set_load(&set, &real_traces[k], path, n, &err), err);
            for (uint32_t l = 0; l < set.trace->n_layers; l++) {
                for (uint32_t g = 0; g < n; g++)
                    rates[0][g] = rates[1][g] = paper_rates[(g * 7 + l) % 13 % 4];
                make(&c, n, n, rates);
                real_matrix(&set, l, 0, set.workload->n_steps, c.matrix);
                for (uint32_t g = 0; g < n; g++)
                    c.matrix[(size_t)g * n + g] = 0;
                check_exact(&c);
            }
            real_set_free(&set);
        }
}

static const struct mp_strategy *strategy(const char *name) {
    const struct mp_strategy *s = mp_strategy_find(MP_PLAN_ORDER, name);
    assert_non_null(s);
    return s;
}
/* Simulated time of a strategy's schedule on its own matrix; sub-ports with all stages unless `is_free` to choose. */
static uint64_t time_as(struct cluster *c, const char *name, bool is_free, enum mp_stage_mode mode,
                        struct mp_schedule *out) {
    static const int64_t all[] = {65536};
    struct mp_error err = {0};
    struct mp_net *net;
    enum mp_outcome outcome;
    uint64_t time_ns;
    CHECK_OK(mp_net_new(&net, &c->t, &err), err);
    struct mp_order_problem in = {.topology = &c->t, .matrix = c->matrix, .net = net, .mode = mode, .can_pace = true};
    if (!is_free && strcmp(name, "sub-ports") == 0)
        in.option_values = all;
    CHECK_OK(mp_order_run(strategy(name), &in, out, &outcome, &err), err);
    assert_int_equal(outcome, MP_FOUND);
    CHECK_OK(mp_schedule_time(out, &in, &time_ns, &err), err);
    mp_net_free(net);
    return time_ns;
}

static uint64_t time_of(struct cluster *c, const char *name, enum mp_stage_mode mode, struct mp_schedule *out) {
    return time_as(c, name, false, mode, out);
}

/* The same through the strategy and the simulator: bytes are whole, so each stage may be a byte per sub-port longer. */
static void test_sub_ports__simulated_at_the_port_bound(void **state) {
    (void)state;
    static struct cluster c;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 5000);
        struct mp_schedule s;
        make_random(&c, &r);
        enum mp_stage_mode mode = (enum mp_stage_mode)(seed % 3);
        uint64_t got = time_of(&c, "sub-ports", mode, &s), bound = mp_port_bound_ns(&c.t, c.matrix);
        assert_true(got >= bound);
        if (s.n_stages > 0) {
            uint64_t byte_ns = mp_mul_div_ceil(s.n_stages, 1000000000, s.port_bytes_per_s);
            if (got > bound + byte_ns + 1)
                fail_msg("case %llu: %llu ns, bound %llu", (unsigned long long)seed, (unsigned long long)got,
                         (unsigned long long)bound);
        }
        for (uint32_t k = 0; k < s.n_stages; k++) { /* docs/ORDERS.md part 3, port by port */
            uint64_t used[4 * GPUS] = {0};
            for (uint32_t i = s.first[k]; i < s.first[k + 1]; i++) {
                const struct mp_piece *p = &s.pieces[i];
                uint32_t l = c.gpus[p->src].group[0] == c.gpus[p->dst].group[0] ? 0 : 1;
                used[c.gpus[p->src].out_port[l]] += p->width * s.port_bytes_per_s;
                used[c.gpus[p->dst].in_port[l]] += p->width * s.port_bytes_per_s;
            }
            for (uint32_t x = 0; x < c.t.n_resources; x++)
                assert_true(used[x] <= c.resources[x].bytes_per_s);
        }
        mp_schedule_free(&s);
    }
}

/* METHODS A.6.2: a sender of 1, two receivers of 1/2, 50 units for each: 100 against 200 one at a time. */
static void test_sub_ports__one_to_one_takes_twice_as_long(void **state) {
    (void)state;
    static struct cluster c;
    uint64_t rates[4][GPUS] = {{100, 50, 50}, {100, 50, 50}};
    struct mp_schedule wide, narrow;
    make(&c, 3, 3, rates);
    c.matrix[1] = c.matrix[2] = 50000000;
    for (int mode = 0; mode < 3; mode++) {
        assert_int_equal(time_of(&c, "sub-ports", (enum mp_stage_mode)mode, &wide), 1000000);
        assert_int_equal(time_of(&c, "bvn", (enum mp_stage_mode)mode, &narrow), 2000000);
        assert_int_equal(wide.n_stages, 1);
        assert_int_equal(wide.port_bytes_per_s, UINT64_C(50000000000));
        assert_int_equal(wide.ports, 2);
        mp_schedule_free(&wide);
        mp_schedule_free(&narrow);
    }
}

/* Rates without a common unit: the printed loss is what the simulator sees. */
static void test_sub_ports__says_what_rounding_rates_costs(void **state) {
    (void)state;
    static struct cluster c;
    uint32_t n_rounded = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 9000);
        uint64_t rates[4][GPUS];
        struct mp_schedule s;
        uint32_t n = 3 + (uint32_t)mp_rng_below(&r, 6);
        for (uint32_t g = 0; g < n; g++)
            rates[0][g] = rates[1][g] = 101 + mp_rng_below(&r, 300);
        make(&c, n, n, rates);
        uint64_t room[2][GPUS]; /* ports as full as can be: no slack to hide in */
        for (uint32_t g = 0; g < n; g++)
            room[0][g] = room[1][g] = rates[0][g] * 1000000;
        for (uint32_t pass = 0; pass < 8 * n; pass++)
            for (uint32_t i = 0; i < n; i++) {
                uint32_t j = (i + 1 + pass % (n - 1)) % n;
                uint64_t x = (room[0][i] < room[1][j] ? room[0][i] : room[1][j]) / (pass < 4 * n ? 4 : 1);
                c.matrix[i * n + j] += x;
                room[0][i] -= x;
                room[1][j] -= x;
            }
        uint64_t got = time_of(&c, "sub-ports", MP_STAGE_BARRIER, &s), bound = mp_port_bound_ns(&c.t, c.matrix);
        double loss = (double)got / (double)bound - 1, said = s.loss_ppm * 1e-6;
        assert_true(loss <= said + 2e-6 + 2.0 * s.n_stages / (double)bound);
        assert_true(loss >= said - 2e-6);
        assert_true(said < 0.02);
        n_rounded += s.loss_ppm > 0;
        mp_schedule_free(&s);
    }
    assert_true(n_rounded > 50);
}

/* Left to choose, it is never behind the single shot or all stages by more than the barriers it assumes, and the flush
 * takes what stages leave. */
static void test_sub_ports__as_many_stages_as_pay(void **state) {
    (void)state;
    static struct cluster c;
    uint32_t n_flushed = 0, n_all = 0, n_single = 0;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 700);
        struct mp_schedule chosen, all, single;
        make_random(&c, &r);
        const uint32_t n = c.t.n_gpus;
        double m[GPUS][GPUS];
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                m[i][j] = i == j ? 0 : (double)(1 + mp_rng_below(&r, 60) * mp_rng_below(&r, 60));
        for (uint32_t pass = 0; pass < 60; pass++) /* skewed pairs on full ports: there orders gain */
            for (uint32_t i = 0; i < n; i++) {
                double sum = 0;
                for (uint32_t j = 0; j < n; j++)
                    sum += pass % 2 == 0 ? m[i][j] : m[j][i];
                const uint32_t port = pass % 2 == 0 ? c.gpus[i].out_port[0] : c.gpus[i].in_port[0];
                for (uint32_t j = 0; j < n; j++)
                    *(pass % 2 == 0 ? &m[i][j] : &m[j][i]) *= (double)c.resources[port].bytes_per_s * 1e-3 / sum;
            }
        for (uint32_t p = 0; p < n * n; p++)
            c.matrix[p] = (uint64_t)m[p / n][p % n];
        c.t.launch_ns = c.t.stage_launch_ns = (uint64_t)1 << mp_rng_below(&r, 22);
        uint64_t got = time_as(&c, "sub-ports", true, MP_STAGE_BARRIER, &chosen),
                 exact = time_of(&c, "sub-ports", MP_STAGE_BARRIER, &all),
                 once = time_of(&c, "single", MP_STAGE_BARRIER, &single);
        assert_true(got <= once + chosen.n_stages + 1);
        if (all.n_stages > 0 && chosen.n_stages == all.n_stages && !chosen.has_flush)
            assert_true(got <= exact);
        n_flushed += chosen.has_flush;
        n_all += chosen.n_stages > 0 && !chosen.has_flush;
        n_single += chosen.n_stages == 0;
        mp_schedule_free(&chosen);
        mp_schedule_free(&all);
        mp_schedule_free(&single);
    }
    assert_true(n_flushed > 10 && n_all > 0 && n_single > 10);
}

static const char *reason(struct cluster *c, bool can_pace, struct mp_error *err) {
    struct mp_order_problem in = {.topology = &c->t, .matrix = c->matrix, .can_pace = can_pace};
    struct mp_schedule s;
    enum mp_outcome outcome;
    mp_error_clear(err);
    CHECK_OK(mp_order_run(strategy("sub-ports"), &in, &s, &outcome, err), *err);
    mp_schedule_free(&s);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    return err->message;
}
static void test_sub_ports__declines_what_it_cannot_express(void **state) {
    (void)state;
    static struct cluster c;
    struct mp_error err = {0};
    uint64_t rates[4][GPUS];
    uint32_t uplinks[2] = {16, 17};
    for (uint32_t g = 0; g < 4; g++)
        rates[0][g] = rates[1][g] = 400, rates[2][g] = rates[3][g] = 50;
    make(&c, 4, 2, rates);
    c.matrix[1] = 1000;
    c.matrix[2] = 1000;
    assert_non_null(strstr(reason(&c, false, &err), "NCCL"));
    c.levels[0].pair_bytes_per_s = UINT64_C(64000000000);
    assert_non_null(strstr(reason(&c, true, &err), "mesh"));
    c.levels[0].pair_bytes_per_s = 0;
    c.t.n_resources = 18;
    c.resources[16] = c.resources[17] = (struct mp_resource){.bytes_per_s = UINT64_C(99000000000), .is_uplink = true};
    c.levels[0].uplink_out = c.levels[0].uplink_in = uplinks;
    assert_non_null(strstr(reason(&c, true, &err), "uplink"));
    c.levels[0].uplink_out = c.levels[0].uplink_in = NULL;
    c.gpus[1].out_port[1] = c.gpus[0].out_port[1];
    assert_non_null(strstr(reason(&c, true, &err), "GPU 0 and GPU 1 share one"));
}

/* As a plan holds it: pairs without bytes go into a flush, and the same matrix comes back to the byte. */
static void test_sub_ports__unplanned_pairs_go_into_a_flush(void **state) {
    (void)state;
    static struct cluster c;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 31);
        struct mp_error err = {0};
        struct mp_arena *arena = mp_arena_new();
        struct mp_schedule s;
        struct mp_order o;
        make_random(&c, &r);
        const uint32_t n = c.t.n_gpus;
        bool is_sparse = false;
        for (uint32_t p = 0; p < n * n; p++) {
            if (mp_rng_below(&r, 4) == 0)
                c.matrix[p] = 0;
            is_sparse = is_sparse || (p / n != p % n && c.matrix[p] == 0);
        }
        time_of(&c, "sub-ports", MP_STAGE_COUPLED, &s);
        CHECK_OK(mp_schedule_order(&o, &s, c.matrix, UINT64_C(1) << 31, "sub-ports", arena, &err), err);
        if (s.n_stages > 0) {
            assert_int_equal(o.has_flush, is_sparse);
            assert_int_equal(o.n_stages, s.n_stages + is_sparse);
            for (uint32_t k = 0; k < s.n_stages; k++)
                assert_int_equal(o.stages[k].n, s.first[k + 1] - s.first[k]);
        }
        mp_schedule_free(&s);
        mp_arena_free(arena);
    }
}

static enum mp_status one_order(void *ctx, struct mp_error *err) {
    struct cluster *c = ctx;
    struct mp_schedule s;
    enum mp_outcome outcome;
    struct mp_net *net = NULL;
    enum mp_status status = MP_OK;
    mp_schedule_init(&s, c->t.n_gpus);
    MP_TRY(mp_net_new(&net, &c->t, err));
    for (int k = 0; k < 2; k++) { /* exact; then with launches */
        c->t.stage_launch_ns = k == 0 ? 0 : 1000;
        struct mp_order_problem in = {.topology = &c->t, .matrix = c->matrix, .net = net, .can_pace = true};
        mp_schedule_free(&s);
        MP_TRY(mp_order_run(strategy("sub-ports"), &in, &s, &outcome, err));
    }
out:
    mp_schedule_free(&s);
    mp_net_free(net);
    return status;
}
static void test_sub_ports__survives_every_fault(void **state) {
    (void)state;
    static struct cluster c;
    struct mp_rng r = mp_rng_seed(8);
    make_random(&c, &r);
    sweep_faults(one_order, &c, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sub_ports__the_stages_add_up_to_the_port_bound),
        cmocka_unit_test(test_sub_ports__exact_on_recorded_traffic),
        cmocka_unit_test(test_sub_ports__simulated_at_the_port_bound),
        cmocka_unit_test(test_sub_ports__one_to_one_takes_twice_as_long),
        cmocka_unit_test(test_sub_ports__says_what_rounding_rates_costs),
        cmocka_unit_test(test_sub_ports__as_many_stages_as_pay),
        cmocka_unit_test(test_sub_ports__declines_what_it_cannot_express),
        cmocka_unit_test(test_sub_ports__unplanned_pairs_go_into_a_flush),
        cmocka_unit_test(test_sub_ports__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
