/* Orders that send whole flows (list, rcs, sjf), tokens (aurora), and matchings before a list (hybrid). */
#include "support.h"

#include <math.h>

#include "list_schedule.h"

#define MAX_N 16u
static const char *const names[] = {"list", "hybrid", "rcs", "sjf", "aurora"};
#define N_NAMES (sizeof names / sizeof names[0])

/* One switch of n GPUs with ports of their own: 1 byte per ns unless set otherwise. */
struct small_switch {
    struct mp_topology t;
    struct mp_gpu gpus[64];
    struct mp_resource resources[128];
    struct mp_level level;
    struct mp_net *net;
};
/* Over one made before, or over zeros. */
static void make_switch(struct small_switch *s, uint32_t n, uint64_t latency_ns, uint64_t stage_launch_ns) {
    mp_net_free(s->net);
    memset(s, 0, sizeof *s);
    for (uint32_t g = 0; g < n; g++) {
        s->gpus[g].out_port[0] = 2 * g;
        s->gpus[g].in_port[0] = 2 * g + 1;
        for (uint32_t k = 0; k < 2; k++)
            s->resources[2 * g + k] =
                (struct mp_resource){.bytes_per_s = UINT64_C(1000000000), .is_in = k == 1, .first_gpu = g};
    }
    s->level = (struct mp_level){.name = "switch", .n_groups = 1, .latency_ns = latency_ns};
    s->t = (struct mp_topology){.name = "switch",
                                .n_gpus = n,
                                .n_levels = 1,
                                .n_resources = 2 * n,
                                .gpus = s->gpus,
                                .levels = &s->level,
                                .resources = s->resources,
                                .stage_launch_ns = stage_launch_ns};
}
static struct mp_order_problem problem_of(struct small_switch *s, const uint64_t *matrix, enum mp_stage_mode mode) {
    struct mp_error err;
    mp_net_free(s->net);
    CHECK_OK(mp_net_new(&s->net, &s->t, &err), err);
    /* reached_ns: the orders themselves; that the hybrid gives way to a faster single shot is tested in test_order.c.
     */
    return (struct mp_order_problem){
        .topology = &s->t, .matrix = matrix, .net = s->net, .mode = mode, .reached_ns = UINT64_MAX};
}
static void free_switch(struct small_switch *s) {
    mp_net_free(s->net);
    s->net = NULL;
}

/* Zeros, ties, tiny and huge entries, single hot rows or columns; the diagonal is noise that nobody may send. */
static void random_matrix(struct mp_rng *rng, uint64_t *matrix, uint32_t n, uint32_t bits) {
    const uint64_t most = UINT64_C(1) << mp_rng_below(rng, bits), holes = mp_rng_below(rng, 5),
                   kind = mp_rng_below(rng, 4);
    const uint32_t hot = (uint32_t)mp_rng_below(rng, n);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t x = kind == 0 ? most : mp_rng_below(rng, most) + 1;
            if (kind == 1 && (i == hot || j == hot))
                x = x * n;
            matrix[i * n + j] = mp_rng_below(rng, 4) < holes ? 0 : x;
        }
}

static struct mp_schedule run(const char *name, const struct mp_order_problem *in) {
    struct mp_error err;
    struct mp_schedule s;
    enum mp_outcome outcome;
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, name);
    assert_non_null(strategy);
    CHECK_OK(mp_order_run(strategy, in, &s, &outcome, &err), err);
    assert_int_equal(outcome, MP_FOUND);
    return s;
}
static uint64_t time_of(const struct mp_schedule *s, const struct mp_order_problem *in) {
    struct mp_error err;
    uint64_t ns;
    CHECK_OK(mp_schedule_time(s, in, &ns, &err), err);
    return ns;
}
static uint64_t run_time(const char *name, const struct mp_order_problem *in) {
    struct mp_schedule s = run(name, in);
    uint64_t ns = s.n_stages == 0 ? 0 : time_of(&s, in);
    mp_schedule_free(&s);
    return ns;
}

/* Most time of a port at 1 byte per ns, each flow with one startup. */
static uint64_t port_load(const uint64_t *matrix, uint32_t n, uint64_t startup) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        for (int side = 0; side < 2; side++) {
            uint64_t load = 0;
            for (uint32_t j = 0; j < n; j++) {
                uint64_t x = i == j ? 0 : side ? matrix[i * n + j] : matrix[j * n + i];
                load += x + (x > 0 ? startup : 0);
            }
            most = load > most ? load : most;
        }
    return most;
}

static void test_order_list__every_order_moves_exactly_the_matrix(void **state) {
    (void)state;
    static const char *const specs[] = {"2x4:h100", "4x2:h100", "2x2:a100+2x2:l40s"};
    struct mp_error err;
    struct mp_rng rng = mp_rng_seed(1);
    uint32_t n_flushes = 0, n_cut = 0;
    for (uint32_t round = 0; round < 2400; round++) {
        struct small_switch flat = {0};
        struct mp_topology *nested = NULL;
        struct mp_net *net = NULL;
        uint64_t matrix[MAX_N * MAX_N];
        uint32_t n = 1 + (uint32_t)mp_rng_below(&rng, MAX_N);
        enum mp_stage_mode mode = (enum mp_stage_mode)(round % 3);
        if (round % 16 == 15)
            CHECK_OK(mp_topology_load(&nested, specs[round / 16 % 3], NULL, &err), err);
        else
            make_switch(&flat, n, mp_rng_below(&rng, 300), mp_rng_below(&rng, 2) * mp_rng_below(&rng, 20000));
        const struct mp_topology *t = nested == NULL ? &flat.t : nested;
        n = t->n_gpus;
        random_matrix(&rng, matrix, n, round % 2 ? 45 : 30);
        CHECK_OK(mp_net_new(&net, t, &err), err);
        struct mp_order_problem in = {
            .topology = t, .matrix = matrix, .net = net, .mode = mode, .seed = round, .reached_ns = UINT64_MAX};
        for (size_t k = 0; k < N_NAMES; k++) {
            struct mp_schedule s = run(names[k], &in);
            CHECK_OK(mp_schedule_check(&s, matrix, &err), err);
            assert_int_equal(s.ports, 1);
            assert_int_equal(s.port_bytes_per_s, 0);
            assert_false(s.between_nodes);
            n_flushes += s.has_flush;
            bool is_whole = strcmp(names[k], "hybrid") != 0 && strcmp(names[k], "aurora") != 0;
            for (size_t i = 0; i < s.n_pieces; i++) {
                bool is_cut = s.pieces[i].bytes != matrix[s.pieces[i].src * n + s.pieces[i].dst];
                assert_false(is_whole && is_cut);
                n_cut += is_cut;
            }
            if (mode == MP_STAGE_FREE && s.n_stages > 0)
                assert_true(time_of(&s, &in) >= mp_port_bound_ns(t, matrix));
            mp_schedule_free(&s);
        }
        mp_net_free(net);
        mp_topology_free(nested);
    }
    assert_true(n_flushes > 50 && n_cut > 10000); /* both kinds of tail and of piece were there */
}

/* The list by its definition: at every moment at which something ends, every free end in turn. */
static uint64_t plain_list(const uint64_t *matrix, uint32_t n, enum mp_list_priority priority, uint64_t startup) {
    uint64_t left[MAX_N * MAX_N], busy_until[2 * MAX_N] = {0}, now = 0, last = 0;
    for (uint32_t i = 0; i < n * n; i++)
        left[i] = i / n == i % n || matrix[i] == 0 ? 0 : matrix[i] + startup;
    for (;;) {
        uint64_t load[2 * MAX_N] = {0};
        bool is_new[2 * MAX_N];
        for (uint32_t i = 0; i < n * n; i++) {
            load[i / n] += left[i];
            load[n + i % n] += left[i];
        }
        for (uint32_t e = 0; e < 2 * n; e++)
            is_new[e] = busy_until[e] == now;
        uint64_t order_load[2 * MAX_N];
        memcpy(order_load, load, sizeof load);
        for (;;) { /* ends that have just become free, by falling load */
            uint32_t end = MP_NONE, best = MP_NONE;
            for (uint32_t e = 0; e < 2 * n; e++)
                if (is_new[e] && (end == MP_NONE || order_load[e] > order_load[end]))
                    end = e;
            if (end == MP_NONE)
                break;
            is_new[end] = false;
            if (busy_until[end] > now)
                continue;
            uint64_t best_score = 0, best_size = 0;
            uint32_t best_turn = 0;
            for (uint32_t q = 0; q < n; q++) {
                uint32_t other = end < n ? n + q : q;
                uint64_t size = left[end < n ? end * n + q : q * n + end - n];
                if (size == 0 || busy_until[other] > now)
                    continue;
                uint64_t score = priority == MP_LIST_SIZE  ? size
                                 : priority == MP_LIST_SUM ? load[end] + load[other]
                                                           : (load[end] > load[other] ? load[end] : load[other]);
                uint32_t src = end < n ? end : q, dst = end < n ? q : end - n, turn = (dst + n - src) % n;
                if (best == MP_NONE || score > best_score || (score == best_score && size > best_size) ||
                    (score == best_score && size == best_size && turn < best_turn)) {
                    best_turn = turn;
                    best = q;
                    best_score = score;
                    best_size = size;
                }
            }
            if (best == MP_NONE)
                continue;
            uint32_t src = end < n ? end : best, dst = end < n ? best : end - n;
            uint64_t taken = left[src * n + dst];
            left[src * n + dst] = 0;
            load[src] -= taken;
            load[n + dst] -= taken;
            busy_until[src] = busy_until[n + dst] = now + taken;
            last = now + taken > last ? now + taken : last;
        }
        uint64_t next = UINT64_MAX;
        for (uint32_t e = 0; e < 2 * n; e++)
            next = busy_until[e] > now && busy_until[e] < next ? busy_until[e] : next;
        if (next == UINT64_MAX)
            return last;
        now = next;
    }
}

static void test_order_list__agrees_with_the_definition_and_the_simulator(void **state) {
    (void)state;
    struct mp_error err;
    struct mp_rng rng = mp_rng_seed(2);
    struct small_switch flat = {0};
    for (uint32_t round = 0; round < 1500; round++) {
        uint64_t matrix[MAX_N * MAX_N], time[MAX_N * MAX_N], least = UINT64_MAX;
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1);
        const uint64_t latency = mp_rng_below(&rng, 3) * 70, launch = mp_rng_below(&rng, 2) * mp_rng_below(&rng, 9999);
        make_switch(&flat, n, latency, launch);
        random_matrix(&rng, matrix, n, 30); /* ns that doubles hold exactly */
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
        struct mp_arena *arena = mp_arena_new();
        struct mp_ticks *ticks;
        struct mp_list *list;
        CHECK_OK(mp_ticks_new(&ticks, &in, arena, &err), err);
        CHECK_OK(mp_list_new(&list, n, arena, &err), err);
        assert_true(ticks->is_alone);
        assert_true(ticks->port_ns == port_load(matrix, n, latency + launch));
        for (uint32_t i = 0; i < n * n; i++)
            time[i] = ticks->wire[i] == 0 ? 0 : ticks->startup[i] + ticks->wire[i];
        for (int priority = 0; priority < MP_N_LIST_PRIORITIES; priority++) {
            assert_true(mp_list_run(list, time, NULL, (enum mp_list_priority)priority, UINT64_MAX));
            uint64_t makespan = list->makespan,
                     want = plain_list(matrix, n, (enum mp_list_priority)priority, latency + launch);
            assert_true(mp_ticks_ns(ticks, makespan) == want);
            least = want < least ? want : least;
            struct mp_schedule s;
            mp_schedule_init(&s, n);
            CHECK_OK(mp_list_append(list, matrix, &s, arena, &err), err);
            mp_schedule_finish(&s);
            CHECK_OK(mp_schedule_check(&s, matrix, &err), err);
            assert_int_equal(s.n_stages, list->n_stages);
            if (s.n_stages > 0) /* stages run freely start every message when the list does */
                assert_true(time_of(&s, &in) == want);
            mp_schedule_free(&s);
            /* A limit is met exactly. */
            assert_true(mp_list_run(list, time, NULL, (enum mp_list_priority)priority, makespan + 1));
            assert_false(mp_list_run(list, time, NULL, (enum mp_list_priority)priority, makespan));
        }
        uint64_t got = run_time("list", &in);
        assert_true(got == least);
        assert_true(got >= port_load(matrix, n, latency + launch));
        assert_true(got == 0 || got < 2 * port_load(matrix, n, latency + launch)); /* dense schedules */
        assert_true(run_time("hybrid", &in) <= got);
        mp_arena_free(arena);
    }
    free_switch(&flat);
}

/* Unequal ports, rates that are no whole number of bytes per ns: the clock of the list is the simulator's to 1 ns. */
static void test_order_list__knows_its_time_on_unequal_ports(void **state) {
    (void)state;
    struct mp_error err;
    struct mp_rng rng = mp_rng_seed(3);
    struct small_switch flat = {0};
    for (uint32_t round = 0; round < 500; round++) {
        uint64_t matrix[MAX_N * MAX_N];
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1);
        make_switch(&flat, n, mp_rng_below(&rng, 999), mp_rng_below(&rng, 9999));
        for (uint32_t r = 0; r < 2 * n; r++)
            flat.resources[r].bytes_per_s = UINT64_C(3000000000) + mp_rng_below(&rng, UINT64_C(450000000000));
        for (uint32_t i = 0; i < n * n; i++)
            matrix[i] = mp_rng_below(&rng, 5) == 0 ? 0 : mp_rng_below(&rng, UINT64_C(1) << 30);
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
        struct mp_arena *arena = mp_arena_new();
        struct mp_ticks *ticks;
        struct mp_list *list;
        CHECK_OK(mp_ticks_new(&ticks, &in, arena, &err), err);
        CHECK_OK(mp_list_new(&list, n, arena, &err), err);
        for (uint32_t i = 0; i < n * n; i++)
            ticks->wire[i] += ticks->wire[i] == 0 ? 0 : ticks->startup[i];
        uint64_t least = UINT64_MAX;
        for (int priority = 0; priority < MP_N_LIST_PRIORITIES; priority++)
            if (mp_list_run(list, ticks->wire, NULL, (enum mp_list_priority)priority, least))
                least = list->makespan;
        uint64_t got = run_time("list", &in), want = mp_ticks_ns(ticks, least);
        assert_true(got <= want && want <= got + 1);
        mp_arena_free(arena);
    }
    free_switch(&flat);
}

static void test_order_list__a_hot_port_is_met_exactly(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    struct small_switch flat = {0};
    for (uint32_t round = 0; round < 300; round++) {
        uint64_t matrix[MAX_N * MAX_N] = {0};
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1), hot = (uint32_t)mp_rng_below(&rng, n);
        for (uint32_t i = 0; i < n; i++) /* one column, or one row */
            matrix[round % 2 ? i * n + hot : hot * n + i] = 1 + mp_rng_below(&rng, 1000000);
        make_switch(&flat, n, 10, 1000);
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
        for (size_t k = 0; k < 4; k++) /* whole flows, one after another, however sorted */
            assert_true(run_time(names[k], &in) == port_load(matrix, n, 1010));
    }
    free_switch(&flat);
}

static void test_order_list__equal_flows_are_met_exactly(void **state) {
    (void)state;
    struct small_switch flat = {0};
    for (uint32_t n = 2; n <= MAX_N; n++) {
        uint64_t matrix[MAX_N * MAX_N];
        for (uint32_t i = 0; i < n * n; i++)
            matrix[i] = 12345;
        make_switch(&flat, n, 10, 1000);
        for (int mode = 0; mode < 3; mode++) { /* the rounds are the same length for everybody */
            struct mp_order_problem in = problem_of(&flat, matrix, (enum mp_stage_mode)mode);
            assert_true(run_time("list", &in) == port_load(matrix, n, 1010));
        }
    }
    free_switch(&flat);
}

/* Whole flows of sizes 1 .. 3 among three GPUs, all 4096 matrices: against the best of all orders of starting. */
static uint64_t best_order(const uint64_t *matrix, uint64_t *left, uint64_t *ready, uint64_t best) {
    bool any = false;
    for (uint32_t p = 0; p < 9; p++) {
        if (left[p] == 0)
            continue;
        any = true;
        uint32_t a = p / 3, b = 3 + p % 3;
        uint64_t was_a = ready[a], was_b = ready[b], end = (was_a > was_b ? was_a : was_b) + matrix[p];
        if (end >= best)
            continue;
        left[p] = 0;
        ready[a] = ready[b] = end;
        best = best_order(matrix, left, ready, best);
        ready[a] = was_a;
        ready[b] = was_b;
        left[p] = matrix[p];
    }
    uint64_t last = 0;
    for (uint32_t e = 0; e < 6 && !any; e++)
        last = ready[e] > last ? ready[e] : last;
    return any || last >= best ? best : last;
}
static void test_order_list__is_near_the_best_of_three_gpus(void **state) {
    (void)state;
    struct small_switch flat = {0};
    uint32_t n_exact = 0, n_cases = 0;
    double worst = 1;
    make_switch(&flat, 3, 0, 0);
    for (uint32_t code = 1; code < 4096; code++) {
        uint64_t matrix[9], left[9], ready[6] = {0};
        for (uint32_t p = 0, c = code; p < 9; p++) {
            matrix[p] = left[p] = p % 4 == 0 ? 0 : c % 4;
            c /= p % 4 == 0 ? 1 : 4;
        }
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
        uint64_t best = best_order(matrix, left, ready, UINT64_MAX), got = run_time("list", &in);
        assert_true(got >= best);
        n_exact += got == best;
        n_cases++;
        worst = fmax(worst, (double)got / (double)best);
    }
    print_message("# list, three GPUs: %u of %u optimal, worst %.3f\n", n_exact, n_cases, worst);
    assert_true(worst <= 1.4 + 1e-9);
    assert_true(n_exact > n_cases * 9 / 10);
    free_switch(&flat);
}

/* Rows and columns of equal sums, entries lognormal. */
static void balanced(uint64_t *matrix, uint32_t n, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    double x[64 * 64];
    for (uint32_t i = 0; i < n * n; i++) {
        double u = mp_rng_unit(&r), v = mp_rng_unit(&r);
        x[i] = i / n == i % n ? 0 : exp(sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v));
    }
    for (int round = 0; round < 300; round++)
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < n; j++)
                sum += x[round % 2 ? i * n + j : j * n + i];
            for (uint32_t j = 0; j < n; j++)
                x[round % 2 ? i * n + j : j * n + i] /= sum;
        }
    for (uint32_t i = 0; i < n * n; i++)
        matrix[i] = (uint64_t)(x[i] * 1e8);
}

static void test_order_list__hybrid_stays_near_the_bound_with_startups(void **state) {
    (void)state;
    struct small_switch flat = {0};
    static const double most[] = {1.012, 1.012, 1.015, 1.02};
    for (uint32_t k = 0; k < 4; k++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            const uint32_t n = 8u << k;
            static uint64_t matrix[64 * 64];
            balanced(matrix, n, seed);
            make_switch(&flat, n, 0, 10000); /* 1e-4 of the 1e8 ns of every port */
            struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
            double ratio = (double)run_time("hybrid", &in) / (double)port_load(matrix, n, 10000);
            assert_true(ratio >= 1 && ratio <= most[k]);
            assert_true((double)run_time("list", &in) / (double)port_load(matrix, n, 10000) > ratio);
        }
    free_switch(&flat);
}

/* Run as barriers or coupled, where a list is poor, a tail of matchings or a flush keeps the hybrid near the bound. */
static void test_order_list__hybrid_fits_the_mode(void **state) {
    (void)state;
    struct small_switch flat = {0};
    struct mp_error err;
    uint64_t matrix[MAX_N * MAX_N];
    for (uint64_t seed = 1; seed <= 4; seed++)
        for (int mode = MP_STAGE_BARRIER; mode <= MP_STAGE_COUPLED; mode++)
            for (uint64_t launch = 10000; launch <= 10000000; launch *= 10) {
                balanced(matrix, MAX_N, seed);
                make_switch(&flat, MAX_N, 500, launch);
                struct mp_order_problem in = problem_of(&flat, matrix, (enum mp_stage_mode)mode);
                struct mp_schedule s = run("hybrid", &in);
                uint64_t got = time_of(&s, &in), single;
                CHECK_OK(mp_net_concurrent(in.net, matrix, &single, NULL, &err), err);
                double ratio = (double)got / (double)port_load(matrix, MAX_N, 0);
                if (launch == 10000) {
                    assert_true(ratio < 1.03 && ratio * 2 < (double)run_time("list", &in) / 1e8);
                }
                if (launch == 10000000) /* a tenth of the bound: next to all at once */
                    assert_true(s.has_flush && s.n_stages <= 4);
                assert_true(got <= single + launch);
                mp_schedule_free(&s);
            }
    free_switch(&flat);
}

/* Two GPUs to a NIC, one level: the list's own clock is wrong there, and the three lists are simulated. */
static void test_order_list__shared_ports_are_simulated(void **state) {
    (void)state;
    struct mp_error err;
    struct mp_rng rng = mp_rng_seed(9);
    struct small_switch flat = {0};
    uint32_t n_slower = 0;
    for (uint32_t round = 0; round < 200; round++) {
        uint64_t matrix[MAX_N * MAX_N], least = UINT64_MAX, shortest = UINT64_MAX;
        const uint32_t n = 4 + 2 * (uint32_t)mp_rng_below(&rng, 5);
        const enum mp_stage_mode mode = (enum mp_stage_mode)(round % 3);
        random_matrix(&rng, matrix, n, 30);
        make_switch(&flat, n, 10, mp_rng_below(&rng, 2000));
        for (uint32_t g = 1; g < n; g += 2) {
            flat.gpus[g].out_port[0] = flat.gpus[g - 1].out_port[0];
            flat.gpus[g].in_port[0] = flat.gpus[g - 1].in_port[0];
        }
        struct mp_order_problem in = problem_of(&flat, matrix, mode);
        struct mp_arena *arena = mp_arena_new();
        struct mp_ticks *ticks;
        struct mp_list *list;
        CHECK_OK(mp_ticks_new(&ticks, &in, arena, &err), err);
        CHECK_OK(mp_list_new(&list, n, arena, &err), err);
        assert_false(ticks->is_alone);
        for (uint32_t i = 0; i < n * n; i++)
            ticks->wire[i] += ticks->wire[i] == 0 ? 0 : ticks->startup[i];
        for (int priority = 0; priority < MP_N_LIST_PRIORITIES; priority++) {
            struct mp_schedule s;
            mp_schedule_init(&s, n);
            assert_true(mp_list_run(list, ticks->wire, NULL, (enum mp_list_priority)priority, UINT64_MAX));
            CHECK_OK(mp_list_append(list, matrix, &s, arena, &err), err);
            mp_schedule_finish(&s);
            uint64_t ns = s.n_stages == 0 ? 0 : time_of(&s, &in);
            least = ns < least ? ns : least;
            shortest = list->makespan < shortest ? list->makespan : shortest;
            mp_schedule_free(&s);
        }
        n_slower += mp_ticks_ns(ticks, shortest) < least;
        assert_true(run_time("list", &in) == least);
        if (mode == MP_STAGE_FREE)
            assert_true(run_time("hybrid", &in) <= least);
        mp_arena_free(arena);
    }
    assert_true(n_slower > 100);
    free_switch(&flat);
}

/* Small messages between and inside nodes: one launch is all that pays; large ones: matchings do not lose. */
static void test_order_list__hybrid_flushes_small_messages(void **state) {
    (void)state;
    struct mp_error err;
    struct mp_topology *t;
    struct mp_net *net;
    CHECK_OK(mp_topology_load(&t, "2x4:h100", NULL, &err), err);
    CHECK_OK(mp_net_new(&net, t, &err), err);
    for (uint64_t seed = 1; seed <= 5; seed++)
        for (int mode = MP_STAGE_BARRIER; mode <= MP_STAGE_COUPLED; mode++) {
            uint64_t matrix[64], single;
            balanced(matrix, 8, seed);
            for (uint32_t i = 0; i < 64; i++)
                matrix[i] /= 10000; /* some kB */
            struct mp_order_problem in = {
                .topology = t, .matrix = matrix, .net = net, .mode = (enum mp_stage_mode)mode};
            struct mp_schedule s = run("hybrid", &in);
            CHECK_OK(mp_net_concurrent(net, matrix, &single, NULL, &err), err);
            assert_true(s.has_flush && s.n_stages == 1);
            assert_true(time_of(&s, &in) == single + t->stage_launch_ns);
            mp_schedule_free(&s);
        }
    mp_net_free(net);
    mp_topology_free(t);
}

/* Destinations of every sender in stage order. */
static uint32_t queue_of(const struct mp_schedule *s, uint32_t src, uint32_t *queue, uint32_t *stage) {
    uint32_t count = 0;
    for (uint32_t k = 0; k < s->n_stages; k++)
        for (uint32_t i = s->first[k]; i < s->first[k + 1]; i++)
            if (s->pieces[i].src == src) {
                queue[count] = s->pieces[i].dst;
                stage[count++] = k;
            }
    return count;
}
static bool receives(const struct mp_schedule *s, uint32_t stage, uint32_t dst) {
    for (uint32_t i = s->first[stage]; i < s->first[stage + 1]; i++)
        if (s->pieces[i].dst == dst)
            return true;
    return false;
}

static void test_order_list__senders_keep_their_order(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(5);
    struct small_switch flat = {0};
    for (uint32_t round = 0; round < 600; round++) {
        uint64_t matrix[MAX_N * MAX_N];
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1);
        const bool is_sjf = round % 2 == 1;
        random_matrix(&rng, matrix, n, 42);
        make_switch(&flat, n, 0, 0);
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_COUPLED);
        in.seed = round;
        struct mp_schedule s = run(is_sjf ? "sjf" : "rcs", &in);
        struct mp_rng stream = mp_rng_seed(round);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t queue[MAX_N], stage[MAX_N], want[MAX_N], n_want = 0, count = queue_of(&s, i, queue, stage);
            for (uint32_t j = 0; j < n; j++)
                if (j != i && matrix[i * n + j] > 0)
                    want[n_want++] = j;
            assert_int_equal(count, n_want);
            mp_rng_shuffle(&stream, want, n_want); /* the simulator's baseline draws the same (docs/COST.md part 5) */
            for (uint32_t k = 0; k < count; k++) {
                if (!is_sjf)
                    assert_int_equal(queue[k], want[k]);
                else if (k > 0)
                    assert_true(matrix[i * n + queue[k - 1]] < matrix[i * n + queue[k]] ||
                                (matrix[i * n + queue[k - 1]] == matrix[i * n + queue[k]] && queue[k - 1] < queue[k]));
                for (uint32_t t = k == 0 ? 0 : stage[k - 1] + 1; t < stage[k]; t++) /* no sooner stage would do */
                    assert_true(receives(&s, t, queue[k]));
            }
        }
        mp_schedule_free(&s);
    }
    free_switch(&flat);
}

/* The algorithm token by token, on the definition of "conflict". */
#define MOST_SLOTS 800u
static uint32_t plain_aurora(uint8_t to[MOST_SLOTS][MAX_N], const uint64_t *matrix, uint32_t n, uint64_t seed) {
    uint64_t left[MAX_N * MAX_N], traffic[MAX_N];
    bool is_done[MAX_N] = {false};
    uint32_t n_slots = 0;
    struct mp_rng rng = mp_rng_seed(seed);
    memset(to, 0xff, sizeof *to * MOST_SLOTS);
    memcpy(left, matrix, n * n * sizeof *left);
    for (uint32_t turn = 0; turn < n; turn++) {
        uint32_t gpu = MP_NONE;
        for (uint32_t g = 0; g < n && turn < 2; g++) { /* before the first and after it */
            uint64_t out = 0, in = 0;
            for (uint32_t k = 0; k < n; k++) {
                out += left[g * n + k];
                in += left[k * n + g];
            }
            traffic[g] = out > in ? out : in;
        }
        for (uint32_t g = 0; g < n; g++)
            if (!is_done[g] && (gpu == MP_NONE || traffic[g] > traffic[gpu]))
                gpu = g;
        is_done[gpu] = true;
        for (int side = 0; side < 2; side++) {
            static uint32_t peers[MOST_SLOTS];
            uint32_t count = 0;
            for (uint32_t k = 0; k < n; k++) {
                uint64_t *x = side == 0 ? &left[gpu * n + k] : &left[k * n + gpu];
                for (; *x > 0; --*x)
                    peers[count++] = k;
            }
            mp_rng_shuffle(&rng, peers, count);
            for (uint32_t t = 0; t < count; t++) {
                uint32_t src = side == 0 ? gpu : peers[t], dst = side == 0 ? peers[t] : gpu, slot = 0;
                for (;; slot++) {
                    bool is_free = to[slot][src] == 0xff;
                    for (uint32_t i = 0; i < n; i++)
                        is_free &= to[slot][i] != dst;
                    if (is_free)
                        break;
                }
                to[slot][src] = (uint8_t)dst;
                n_slots = slot + 1 > n_slots ? slot + 1 : n_slots;
            }
        }
    }
    return n_slots;
}

static void test_order_list__aurora_agrees_token_by_token(void **state) {
    (void)state;
    static uint8_t to[MOST_SLOTS][MAX_N];
    struct small_switch flat = {0};
    struct mp_rng rng = mp_rng_seed(10);
    int64_t fine[] = {4096};
    for (uint32_t round = 0; round < 300; round++) {
        uint64_t matrix[MAX_N * MAX_N];
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, 9);
        for (uint32_t i = 0; i < n * n; i++)
            matrix[i] = i / n == i % n || mp_rng_below(&rng, 3) == 0 ? 0 : mp_rng_below(&rng, 30);
        make_switch(&flat, n, 0, 0);
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_BARRIER);
        in.option_values = fine;
        in.seed = round;
        struct mp_schedule s = run("aurora", &in);
        uint32_t n_slots = plain_aurora(to, matrix, n, round), slot = 0;
        for (uint32_t k = 0; k < s.n_stages; k++) {
            const uint64_t length = s.pieces[s.first[k]].bytes; /* slots of this stage */
            for (uint64_t t = 0; t < length; t++, slot++) {
                uint32_t at = s.first[k];
                for (uint32_t i = 0; i < n; i++)
                    if (to[slot][i] != 0xff) {
                        assert_true(at < s.first[k + 1] && s.pieces[at].src == i && s.pieces[at].dst == to[slot][i]);
                        assert_true(s.pieces[at++].bytes == length);
                    }
                assert_true(at == s.first[k + 1]);
            }
        }
        assert_int_equal(slot, n_slots);
        mp_schedule_free(&s);
    }
    free_switch(&flat);
}

static void test_order_list__aurora_is_greedy_and_not_exact(void **state) {
    (void)state;
    struct small_switch flat = {0};
    static const uint32_t sizes[] = {4, 8, 16}, tokens[] = {4, 20, 100};
    for (uint32_t k = 0; k < 9; k++) {
        const uint32_t n = sizes[k / 3];
        struct mp_rng rng = mp_rng_seed(6 + k);
        double sum = 0, worst = 1;
        uint32_t n_exact = 0;
        const uint32_t n_rounds = n == 4 ? 2000 : 400;
        make_switch(&flat, n, 0, 0);
        for (uint32_t round = 0; round < n_rounds; round++) {
            uint64_t matrix[MAX_N * MAX_N];
            for (uint32_t i = 0; i < n * n; i++)
                matrix[i] = i / n == i % n ? 0 : mp_rng_below(&rng, tokens[k % 3]) + 1;
            struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_BARRIER);
            int64_t fine[] = {4096}; /* tokens of one byte */
            in.option_values = fine;
            in.seed = round;
            uint64_t bound = port_load(matrix, n, 0), got = run_time("aurora", &in);
            assert_true(got >= bound && got < 2 * bound);
            n_exact += got == bound;
            sum += (double)got / (double)bound;
            worst = fmax(worst, (double)got / (double)bound);
        }
        print_message(
            "# aurora, %2u GPUs, up to %3u tokens per flow: mean %.4f, worst %.4f of the bound, %u of %u exact\n", n,
            tokens[k % 3], sum / n_rounds, worst, n_exact, n_rounds);
    }
    free_switch(&flat);
}

/* Recorded counts: 24 layers, 2 iterations, 6 ranks with 10 experts each; 4096 bytes a token. */
static bool read_recorded(uint64_t matrices[48][36]) {
    const char *path = shared_path("traces/qwen1.5-moe-6ranks/dispatch_counts.csv");
    static char line[4096];
    FILE *f = path == NULL ? NULL : fopen(path, "r");
    if (f == NULL) {
        print_message("# shared data is not here\n");
        return false;
    }
    uint32_t n_lines = 0;
    assert_non_null(fgets(line, sizeof line, f));
    while (fgets(line, sizeof line, f) != NULL) {
        uint64_t field[67];
        char *at = line;
        for (uint32_t k = 0; k < 67; k++) { /* rank, layer, iteration, four times, e0 .. e59 */
            field[k] = (uint64_t)strtod(at, &at);
            at += *at == ',';
        }
        assert_true(field[0] < 6 && field[1] < 24 && field[2] < 2);
        for (uint32_t e = 0; e < 60; e++)
            matrices[field[1] * 2 + field[2]][field[0] * 6 + e / 10] += field[7 + e] * 4096;
        n_lines++;
    }
    fclose(f);
    assert_int_equal(n_lines, 288);
    return true;
}

static void test_order_list__recorded_matrices(void **state) {
    (void)state;
    static uint64_t matrices[48][36];
    struct small_switch flat = {0};
    double sum[N_NAMES] = {0}, worst[N_NAMES] = {0};
    if (!read_recorded(matrices))
        skip();
    for (uint32_t k = 0; k < 48; k++) {
        const uint64_t bound = port_load(matrices[k], 6, 0), startup = bound / 10000;
        assert_true(bound > 0);
        make_switch(&flat, 6, 0, startup);
        struct mp_order_problem in = problem_of(&flat, matrices[k], MP_STAGE_FREE);
        uint64_t ns[N_NAMES];
        for (size_t s = 0; s < N_NAMES; s++) {
            ns[s] = run_time(names[s], &in);
            double ratio = (double)ns[s] / (double)port_load(matrices[k], 6, startup);
            sum[s] += ratio / 48;
            worst[s] = fmax(worst[s], ratio);
            assert_true(ratio >= 1);
        }
        assert_true(ns[1] <= ns[0] && ns[0] < 2 * port_load(matrices[k], 6, startup));
    }
    for (size_t s = 0; s < N_NAMES; s++)
        print_message("# recorded, startup 1e-4: %-6s mean %.4f, worst %.4f of the startup-aware bound\n", names[s],
                      sum[s], worst[s]);
    assert_true(worst[1] < 1.02);
    free_switch(&flat);
}

static bool is_same(const struct mp_schedule *a, const struct mp_schedule *b) {
    if (a->n_stages != b->n_stages || a->n_pieces != b->n_pieces || a->has_flush != b->has_flush)
        return false;
    for (uint32_t k = 0; k <= a->n_stages; k++)
        if (a->n_stages > 0 && a->first[k] != b->first[k])
            return false;
    for (size_t i = 0; i < a->n_pieces; i++)
        if (a->pieces[i].src != b->pieces[i].src || a->pieces[i].dst != b->pieces[i].dst ||
            a->pieces[i].bytes != b->pieces[i].bytes)
            return false;
    return true;
}
static void test_order_list__seeds_decide_and_repeat(void **state) {
    (void)state;
    struct small_switch flat = {0};
    struct mp_rng rng = mp_rng_seed(7);
    uint64_t matrix[MAX_N * MAX_N];
    for (uint32_t i = 0; i < MAX_N * MAX_N; i++)
        matrix[i] = 1 + mp_rng_below(&rng, 1000000);
    make_switch(&flat, MAX_N, 10, 100);
    for (size_t k = 0; k < N_NAMES; k++) {
        struct mp_order_problem in = problem_of(&flat, matrix, MP_STAGE_FREE);
        in.seed = 11;
        struct mp_schedule first = run(names[k], &in), again = run(names[k], &in);
        in.seed = 12;
        struct mp_schedule other = run(names[k], &in);
        assert_true(is_same(&first, &again));
        bool is_random = strcmp(names[k], "rcs") == 0 || strcmp(names[k], "aurora") == 0;
        assert_true(is_same(&first, &other) == !is_random);
        mp_schedule_free(&first);
        mp_schedule_free(&again);
        mp_schedule_free(&other);
    }
    free_switch(&flat);
}

struct fault_case {
    const char *name;
    const struct mp_topology *topology;
    const uint64_t *matrix;
    enum mp_stage_mode mode;
};
static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct fault_case *c = ctx;
    struct mp_order_problem in = {.topology = c->topology, .matrix = c->matrix, .mode = c->mode};
    struct mp_schedule s;
    enum mp_outcome outcome;
    enum mp_status status = mp_net_new(&in.net, in.topology, err); /* what a net has grown to is its own */
    if (status != MP_OK)
        return status;
    status = mp_order_run(mp_strategy_find(MP_PLAN_ORDER, c->name), &in, &s, &outcome, err);
    mp_schedule_free(&s);
    mp_net_free(in.net);
    return status;
}
static void test_order_list__survives_faults(void **state) {
    (void)state;
    struct small_switch flat = {0};
    struct mp_topology *nested;
    struct mp_error err;
    uint64_t matrix[64];
    balanced(matrix, 8, 1);
    make_switch(&flat, 8, 10, 100000);
    CHECK_OK(mp_topology_load(&nested, "2x4:h100", NULL, &err), err);
    for (size_t k = 0; k < N_NAMES; k++)
        for (int mode = 0; mode < 4; mode++) {
            struct fault_case c = {names[k], mode == 3 ? nested : &flat.t, matrix, (enum mp_stage_mode)(mode % 3)};
            sweep_faults(flow, &c, 1);
        }
    mp_topology_free(nested);
    free_switch(&flat);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order_list__every_order_moves_exactly_the_matrix),
                                       cmocka_unit_test(test_order_list__agrees_with_the_definition_and_the_simulator),
                                       cmocka_unit_test(test_order_list__knows_its_time_on_unequal_ports),
                                       cmocka_unit_test(test_order_list__a_hot_port_is_met_exactly),
                                       cmocka_unit_test(test_order_list__equal_flows_are_met_exactly),
                                       cmocka_unit_test(test_order_list__is_near_the_best_of_three_gpus),
                                       cmocka_unit_test(test_order_list__hybrid_stays_near_the_bound_with_startups),
                                       cmocka_unit_test(test_order_list__hybrid_fits_the_mode),
                                       cmocka_unit_test(test_order_list__shared_ports_are_simulated),
                                       cmocka_unit_test(test_order_list__hybrid_flushes_small_messages),
                                       cmocka_unit_test(test_order_list__senders_keep_their_order),
                                       cmocka_unit_test(test_order_list__aurora_agrees_token_by_token),
                                       cmocka_unit_test(test_order_list__aurora_is_greedy_and_not_exact),
                                       cmocka_unit_test(test_order_list__recorded_matrices),
                                       cmocka_unit_test(test_order_list__seeds_decide_and_repeat),
                                       cmocka_unit_test(test_order_list__survives_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
