/* Orders for the layers of a plan, and order `auto`. Traffic is planted: a count recording with as many experts as
 * GPUs, contiguous, makes every matrix of a step a matrix of counts. */
#include "support.h"

#include "planner.h"
#include "tiny.h"
#include <math.h>

#define N_MAX 16u

/* counts[iteration][layer][source][expert] of a recording. */
typedef void (*plant_fn)(uint32_t n, uint32_t iteration, uint32_t layer, double *matrix);

struct planted {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part, unused;
    struct mp_plan_request request;
};

static void planted_free(struct planted *t) {
    mp_part_free(&t->part);
    mp_part_free(&t->unused);
    mp_trace_free(t->trace);
    mp_topology_free(t->topology);
    mp_model_free(t->model);
}

static enum mp_status planted_make(struct planted *t, const char *topology, uint32_t n_layers, uint32_t n_steps,
                                   plant_fn plant, struct mp_error *err) {
    double matrix[N_MAX * N_MAX];
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    *t = (struct planted){0};
    MP_TRY(mp_topology_load(&t->topology, topology, &mp_limits_default, err));
    const uint32_t n = t->topology->n_gpus;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "planted",
                                       .format = "test",
                                       .is_synthetic = true,
                                       .is_time_ordered = true,
                                       .n_layers = n_layers,
                                       .n_experts = n,
                                       .top_k = 1,
                                       .n_sources = n};
    MP_TRY(mp_trace_builder_new(&b, &meta, &mp_limits_default, err));
    for (uint32_t i = 0; i < n_steps; i++) {
        MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
        for (uint32_t l = 0; l < n_layers; l++) {
            plant(n, i, l, matrix);
            for (uint32_t p = 0; p < n * n; p++)
                MP_TRY(mp_trace_builder_count(b, p / n, l, p % n, p / n == p % n ? 0 : (uint64_t)matrix[p], err));
        }
    }
    status =
        mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &t->trace, err);
    b = NULL;
    if (status != MP_OK)
        goto out;
    MP_TRY(mp_model_generic(&t->model, NULL, n_layers, n, 1, err));
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    MP_TRY(mp_part_split(&t->part, &t->unused, t->trace, &split, err));
    t->request = (struct mp_plan_request){.planning = &t->part,
                                          .batching = {.phase = MP_PHASE_PREFILL, .n_ranks = n, .tokens_per_rank = 1},
                                          .split = split,
                                          .topology = t->topology,
                                          .model = t->model,
                                          .sim = {.dispatcher = mp_dispatcher_find("a2av"), .stage_mode = -1},
                                          .strategy = "contiguous",
                                          .order = "auto",
                                          .stage_mode = MP_STAGE_COUPLED,
                                          .n_threads = 1,
                                          .limits = &mp_limits_default};
out:
    mp_trace_builder_free(b);
    return status;
}

static struct mp_plan *planted_plan(const struct planted *t) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t->request, &outcome, NULL, &err), err);
    if (p == NULL)
        fail_msg("%s", err.message);
    return p;
}

/* Mean MoE time of every layer over all planning steps; the caller frees it. */
static struct mp_sim_result *run_on_planning(const struct planted *t, const struct mp_plan *p,
                                             enum mp_network_mode network) {
    struct mp_error err = {0};
    struct mp_workload *w;
    struct mp_sim_result *r;
    struct mp_sim_options o = t->request.sim;
    o.network = network;
    CHECK_OK(mp_workload_build(&w, &t->part, &t->request.batching, &err), err);
    CHECK_OK(mp_simulate(&r, p, w, t->topology, t->model, &o, &err), err);
    mp_workload_free(w);
    return r;
}

static double uniform(uint64_t key) { return ((double)(mp_mix64(key) >> 11) + 0.5) * 0x1p-53; }
static double normal(uint64_t key) {
    return sqrt(-2 * log(uniform(2 * key))) * cos(6.283185307179586 * uniform(2 * key + 1));
}

/* Lognormal, scaled until all rows and columns are equal: no port is hotter than another, and single flows are skewed.
 * `size` tokens leave each GPU. */
static void balanced_skewed(uint32_t n, uint64_t seed, double size, double *m) {
    for (uint32_t p = 0; p < n * n; p++)
        m[p] = p / n == p % n ? 0 : exp(2 * normal(seed * 4096 + p));
    for (int round = 0; round < 200; round++)
        for (uint32_t a = 0; a < n; a++) {
            double sum = 0;
            for (uint32_t b = 0; b < n; b++)
                sum += round % 2 == 0 ? m[a * n + b] : m[b * n + a];
            for (uint32_t b = 0; b < n; b++)
                m[round % 2 == 0 ? a * n + b : b * n + a] *= size / sum;
        }
}
static void jitter(uint32_t n, uint64_t seed, double by, double *m) {
    for (uint32_t p = 0; p < n * n; p++)
        m[p] *= 1 + by * (uniform(seed * 4096 + p) - 0.5);
}

static void plant_balanced(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1 + layer, 4e5, m);
    jitter(n, 1000 + 100 * layer + iteration, 0.02, m);
}
static void plant_alike(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1, 4e5, m);
    jitter(n, 1000 + 100 * layer + iteration, 0.004, m);
}
static void plant_hot(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    for (uint32_t p = 0; p < n * n; p++)
        m[p] = (p % n == layer % n ? 3e5 : 5e4) * (1 + 0.02 * uniform(iteration * 4096 + p));
}
static void plant_small(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1 + layer, 16, m);
    jitter(n, iteration, 0.02, m);
}
/* Two long steps, then two short ones, and so on. */
static void plant_long_and_short(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1 + layer, iteration % 4 < 2 ? 4e5 : 2e3, m);
    jitter(n, 1000 + 100 * layer + iteration, 0.02, m);
}
/* The second half of the steps has nothing to do with the first. */
static void plant_changed(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1 + layer + (iteration < 4 ? 0 : 50 + iteration), 4e5, m);
}

static uint32_t n_staged(const struct mp_plan *p) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        n += p->layers[l].order != MP_NONE;
    return n;
}

static void check_never_slower(const struct planted *t, const struct mp_plan *p, double *gain) {
    struct mp_sim_result *as_planned = run_on_planning(t, p, MP_NETWORK_PLAN),
                         *single = run_on_planning(t, p, MP_NETWORK_CONCURRENT);
    *gain = 1 - (double)as_planned->moe_ns / (double)single->moe_ns;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        assert_true(as_planned->layer_ns[l] <= single->layer_ns[l]);
        if (p->layers[l].order != MP_NONE)
            assert_true(as_planned->layer_ns[l] < single->layer_ns[l]);
    }
    mp_sim_result_free(as_planned);
    mp_sim_result_free(single);
}

static void test_order__balanced_skewed_layers_are_staged_and_hot_ones_are_not(void **state) {
    (void)state;
    static const struct {
        plant_fn plant;
        bool is_staged;
    } cases[] = {{plant_balanced, true}, {plant_hot, false}, {plant_small, false}, {plant_changed, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int mode = 0; mode < 3; mode++) {
            struct mp_error err = {0};
            struct planted t;
            double gain;
            CHECK_OK(planted_make(&t, "8:h100", 3, 8, cases[i].plant, &err), err);
            t.request.stage_mode = (enum mp_stage_mode)mode;
            struct mp_plan *p = planted_plan(&t);
            assert_int_equal(n_staged(p), cases[i].is_staged ? 3 : 0);
            check_never_slower(&t, p, &gain);
            print_message("# case %zu, %s: gain %.2f %%\n", i, mp_stage_mode_name((enum mp_stage_mode)mode),
                          100 * gain);
            assert_true(cases[i].is_staged ? gain > 0.02 : gain == 0);
            if (cases[i].is_staged)
                assert_int_equal(p->stage_mode, mode);
            else
                assert_true(p->n_orders == 0 && p->fallback_ppm == 0);
            mp_plan_free(p);
            planted_free(&t);
        }
}

static void test_order__layers_alike_share_one_order(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct planted t;
    double gain;
    CHECK_OK(planted_make(&t, "8:h100", 12, 4, plant_alike, &err), err);
    struct mp_plan *p = planted_plan(&t);
    assert_int_equal(n_staged(p), 12);
    assert_int_equal(p->n_orders, 1);
    check_never_slower(&t, p, &gain);
    mp_plan_free(p);
    planted_free(&t);
    CHECK_OK(planted_make(&t, "8:h100", 6, 4, plant_balanced, &err), err);
    p = planted_plan(&t);
    assert_int_equal(n_staged(p), 6);
    assert_int_equal(p->n_orders, 6);
    mp_plan_free(p);
    planted_free(&t);
}

/* Orders that do not fit the plan's text are not made: layers share those that do, or go in one shot. */
static void test_order__orders_keep_their_part_of_the_text(void **state) {
    (void)state;
    uint32_t n_before = 0;
    for (uint32_t kib = 0; kib <= 512; kib = kib == 0 ? 8 : 4 * kib) {
        struct mp_error err = {0};
        struct mp_limits limits = mp_limits_default;
        struct planted t;
        double gain;
        limits.yaml_bytes = 1024 * (size_t)kib;
        CHECK_OK(planted_make(&t, "8:h100", 10, 2, plant_balanced, &err), err);
        t.request.limits = &limits;
        struct mp_plan *p = planted_plan(&t);
        check_never_slower(&t, p, &gain);
        const uint32_t n_orders = p->n_orders;
        assert_true(n_orders >= n_before && n_staged(p) >= n_orders);
        p->n_orders = 0;
        char *text = tiny_text(p);
        const size_t without = strlen(text);
        mp_free(text);
        p->n_orders = n_orders;
        text = tiny_text(p);
        print_message("# %u KiB: %u orders, %u layers staged, %zu bytes, gain %.2f %%\n", kib / 8, n_orders,
                      n_staged(p), strlen(text) - without, 100 * gain);
        assert_true(strlen(text) - without <= limits.yaml_bytes / 8 + 16);
        n_before = n_orders;
        mp_free(text);
        mp_plan_free(p);
        planted_free(&t);
    }
    assert_int_equal(n_before, 10);
}

/* The fallback costs next to nothing on the planning steps, and where some of them are short it helps. */
static void test_order__fallback_helps_or_is_free(void **state) {
    (void)state;
    static const plant_fn plants[] = {plant_alike, plant_balanced, plant_long_and_short};
    for (size_t i = 0; i < 3; i++) {
        struct mp_error err = {0};
        struct planted t;
        CHECK_OK(planted_make(&t, "8:h100", 2, 8, plants[i], &err), err);
        struct mp_plan *p = planted_plan(&t);
        assert_int_equal(n_staged(p), 2);
        assert_true(p->fallback_ppm > 0);
        struct mp_sim_result *with = run_on_planning(&t, p, MP_NETWORK_PLAN);
        p->fallback_ppm = 0;
        struct mp_sim_result *without = run_on_planning(&t, p, MP_NETWORK_PLAN);
        if (i == 2)
            assert_true(with->moe_ns < without->moe_ns);
        else
            assert_true((double)with->moe_ns <= (double)without->moe_ns * 1.0005);
        mp_sim_result_free(with);
        mp_sim_result_free(without);
        mp_plan_free(p);
        planted_free(&t);
    }
}

static void plant_noisy(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    balanced_skewed(n, 1 + layer, 4e5, m);
    jitter(n, 1000 + 100 * layer + iteration, 0.3, m);
}
/* A combine that begins with the flush has all senders at it at once; at the end they come to it one by one. */
static void test_order__the_combine_runs_the_faster_way(void **state) {
    (void)state;
    static const uint32_t curve[] = {1000000, 900000, 800000, 700000, 600000, 500000};
    static const int64_t stages[] = {6, 12};
    uint32_t n_faster = 0;
    for (uint32_t i = 0; i < 12; i++) {
        struct mp_error err = {0};
        struct planted t;
        CHECK_OK(planted_make(&t, "8:h100", 3, 6, i % 2 ? plant_noisy : plant_balanced, &err), err);
        struct mp_level level = t.topology->levels[0];
        level.incast_ppm = i < 8 ? curve : NULL;
        level.n_incast = i < 8 ? sizeof curve / sizeof *curve : 0;
        const struct mp_level *loaded = t.topology->levels;
        t.topology->levels = &level;
        const struct mp_setting setting = {"matchings", "stages", stages[i / 2 % 2]};
        t.request.order = "matchings";
        t.request.stage_mode = i % 4 < 2 ? MP_STAGE_FREE : MP_STAGE_COUPLED;
        t.request.settings = &setting;
        t.request.n_settings = 1;
        struct mp_plan *p = planted_plan(&t);
        p->fallback_ppm = 0;
        struct mp_sim_result *chosen = run_on_planning(&t, p, MP_NETWORK_PLAN);
        for (enum mp_combine way = MP_COMBINE_REVERSED; way < MP_N_COMBINES; way++) {
            for (uint32_t l = 0; l < p->n_layers; l++) {
                assert_int_equal(p->layers[l].order == MP_NONE, p->layers[l].combine == MP_COMBINE_FORWARD);
                p->layers[l].combine = p->layers[l].order == MP_NONE ? MP_COMBINE_FORWARD : way;
            }
            struct mp_sim_result *other = run_on_planning(&t, p, MP_NETWORK_PLAN);
            assert_true((double)chosen->mean.combine_ns <= (double)other->mean.combine_ns * 1.002);
            n_faster +=
                way == MP_COMBINE_REVERSED && (double)chosen->mean.combine_ns < (double)other->mean.combine_ns * 0.998;
            mp_sim_result_free(other);
        }
        mp_sim_result_free(chosen);
        t.topology->levels = loaded;
        mp_plan_free(p);
        planted_free(&t);
    }
    print_message("# backwards would be more than 0.2 %% slower in %u of 12 plans\n", n_faster);
    assert_true(n_faster > 0);
}

/* Hot senders are hot receivers on the way back: an order for both ways takes more stages before its flush. */
static void test_order__incast_on_the_way_back_counts(void **state) {
    (void)state;
    static const uint32_t curve[] = {1000000, 900000, 800000, 700000, 600000, 500000};
    const struct mp_strategy *s = mp_strategy_find(MP_PLAN_ORDER, "matchings");
    uint32_t n_better = 0;
    for (uint32_t i = 0; i < 10; i++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        struct mp_net *net;
        uint64_t matrix[64], ns[2];
        CHECK_OK(mp_topology_load(&t, "8:h100", &mp_limits_default, &err), err);
        struct mp_level level = t->levels[0];
        const struct mp_level *loaded = t->levels;
        level.incast_ppm = i < 8 ? curve : NULL;
        level.n_incast = i < 8 ? sizeof curve / sizeof *curve : 0;
        t->levels = &level;
        CHECK_OK(mp_net_new(&net, t, &err), err);
        for (uint32_t p = 0; p < 64; p++)
            matrix[p] = p % 9 == 0 ? 0 : (uint64_t)(4e7 * (1 + uniform(i * 64 + p)) / (1 + p / 8));
        const struct mp_order_problem both = {.topology = t, .matrix = matrix, .net = net, .is_both_ways = true};
        for (int k = 0; k < 2; k++) {
            struct mp_order_problem in = both;
            struct mp_schedule made;
            enum mp_outcome outcome;
            in.is_both_ways = k == 1;
            CHECK_OK(mp_order_run(s, &in, &made, &outcome, &err), err);
            CHECK_OK(mp_schedule_time(&made, &both, &ns[k], &err), err);
            mp_schedule_free(&made);
        }
        assert_true(ns[1] <= ns[0] + ns[0] / 500 && (i < 8 || ns[1] == ns[0]));
        n_better += ns[1] < ns[0] - ns[0] / 50;
        mp_net_free(net);
        t->levels = loaded;
        mp_topology_free(t);
    }
    assert_true(n_better >= 6);
}

static void test_order__a_plan_names_its_options_and_pacing(void **state) {
    (void)state;
    static const struct mp_setting settings[] = {
        {"nested", "peers", 2}, {"matchings", "stages", 3}, {"matchings", "stages", 9}};
    static const char *const names[] = {"", "nested.peers=2", "matchings.stages=3,nested.peers=2"};
    for (uint32_t i = 0; i < 8; i++) {
        struct mp_error err = {0};
        struct planted t;
        CHECK_OK(planted_make(&t, "4:h100", 2, 4, plant_balanced, &err), err);
        t.request.settings = settings;
        t.request.n_settings = i % 4 < 3 ? i % 4 : 2;
        t.request.can_pace = i >= 4;
        t.request.order = i % 2 ? "single" : "matchings";
        struct mp_plan *p = planted_plan(&t);
        assert_string_equal(p->provenance.options, names[t.request.n_settings]);
        assert_int_equal(p->is_paced, i >= 4);
        mp_plan_free(p);
        /* Of two the later one holds. */
        const struct mp_setting twice[] = {settings[1], settings[0], settings[2]};
        t.request.settings = twice;
        t.request.n_settings = 3;
        p = planted_plan(&t);
        assert_string_equal(p->provenance.options, "matchings.stages=9,nested.peers=2");
        mp_plan_free(p);
        planted_free(&t);
    }
}

static void plant_random(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    static const plant_fn plants[] = {plant_balanced, plant_alike,          plant_hot,
                                      plant_small,    plant_long_and_short, plant_changed};
    plants[(layer * 7 + n) % 6](n, iteration, layer, m);
}

static void test_order__no_layer_is_slower_on_planning_steps_with_any_strategy(void **state) {
    (void)state;
    static const char *const topologies[] = {"5:h100", "2x3:h100", "1x2:a100+1x3:l40s", "8:mi300x"};
    unsigned n_plans = 0, n_with_orders = 0;
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++)
        for (size_t k = 0; k < 4 && mp_strategy_at(i)->stage == MP_PLAN_ORDER; k++) {
            struct mp_error err = {0};
            struct planted t;
            double gain;
            char *first = NULL;
            static const unsigned threads[3] = {1, 2, 8};
            CHECK_OK(planted_make(&t, topologies[k], 4, 1 + (i + (uint32_t)k) % 6, plant_random, &err), err);
            t.request.order = mp_strategy_at(i)->name;
            t.request.stage_mode = (enum mp_stage_mode)((i + k) % 3);
            t.request.can_pace = (i + k) % 2 == 0;
            for (int n = 0; n < 3; n++) {
                struct mp_plan *p = NULL;
                enum mp_outcome outcome;
                t.request.n_threads = threads[n];
                CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
                if (p == NULL) {
                    assert_true(outcome == MP_NOT_APPLICABLE && err.message[0] != '\0');
                    break;
                }
                if (n == 0)
                    check_never_slower(&t, p, &gain);
                n_plans++;
                n_with_orders += p->n_orders > 0;
                char *text = tiny_text(p);
                assert_non_null(text);
                if (first == NULL)
                    first = mp_strdup(text);
                assert_string_equal(first, text);
                mp_free(text);
                mp_plan_free(p);
            }
            mp_free(first);
            planted_free(&t);
        }
    print_message("# %u plans, %u with orders\n", n_plans, n_with_orders);
    assert_true(n_with_orders > 10);
}

/* Few pairs have most, others in each layer: a GPU that is waited for in one layer waits in the next. Layers grow. */
static void plant_sparse(uint32_t n, uint32_t iteration, uint32_t layer, double *m) {
    const double size = 6e3 * pow(1.6, layer);
    for (uint32_t p = 0; p < n * n; p++)
        m[p] = p / n == p % n                           ? 0
               : uniform((layer + 1) * 8192 + p) < 0.25 ? size * (1 + uniform((layer + 9) * 4096 + p))
                                                        : 2e3;
    jitter(n, 1000 + 100 * layer + iteration, 0.02, m);
}

/* Chosen by the step of a clock per GPU: no slower in that reading than with single shots, on the planning steps; what
 * is claimed is with barriers; the same for any number of threads. */
static void test_order__plans_chosen_by_the_pipelined_step(void **state) {
    (void)state;
    static const char *const topologies[] = {"5:h100", "2x3:h100", "3x2:h100", "8:l40s"};
    static const char *const orders[] = {"auto", "matchings", "two-level", "spread-out"};
    unsigned n_kept = 0, n_dropped = 0, n_gone = 0;
    double worth = 0;
    for (uint32_t i = 0; i < 48; i++) {
        struct mp_error err = {0};
        struct planted t;
        char *first = NULL;
        CHECK_OK(planted_make(&t, topologies[i % 4], 6, 1 + i % 5, i % 3 == 0 ? plant_random : plant_sparse, &err),
                 err);
        t.request.order = orders[i / 4 % 4];
        t.request.stage_mode = (enum mp_stage_mode)(i / 16);
        struct mp_plan *with_barriers = NULL;
        enum mp_outcome outcome;
        CHECK_OK(mp_plan_make(&with_barriers, &t.request, &outcome, NULL, &err), err);
        if (with_barriers == NULL) { /* two-level on one node */
            planted_free(&t);
            continue;
        }
        assert_false(with_barriers->is_pipelined);
        t.request.sim.is_pipelined = true;
        for (uint32_t k = 0; k < 3; k++) {
            static const unsigned threads[3] = {1, 2, 8};
            t.request.n_threads = threads[k];
            struct mp_plan *p = planted_plan(&t);
            char *text = tiny_text(p);
            assert_true(p->is_pipelined);
            assert_non_null(text);
            if (k > 0)
                assert_string_equal(first, text);
            else
                first = mp_strdup(text);
            mp_free(text);
            if (k == 0) {
                struct mp_sim_result *as_planned = run_on_planning(&t, p, MP_NETWORK_PLAN),
                                     *single = run_on_planning(&t, p, MP_NETWORK_CONCURRENT),
                                     *barrier_choice = run_on_planning(&t, with_barriers, MP_NETWORK_PLAN);
                assert_true(as_planned->mean.step_ns <= single->mean.step_ns);
                assert_true(p->n_orders == 0 || as_planned->mean.step_ns < single->mean.step_ns);
                assert_true(as_planned->mean.step_ns <= barrier_choice->mean.step_ns);
                t.request.sim.is_pipelined = false;
                struct mp_sim_result *claimed = run_on_planning(&t, p, MP_NETWORK_PLAN);
                t.request.sim.is_pipelined = true;
                assert_int_equal(p->predicted_step_ns, claimed->mean.step_ns);
                worth = fmax(worth, 1 - (double)as_planned->mean.step_ns / (double)barrier_choice->mean.step_ns);
                n_kept += n_staged(p) > 0 && n_staged(p) == n_staged(with_barriers);
                n_dropped += n_staged(p) > 0 && n_staged(p) < n_staged(with_barriers);
                n_gone += n_staged(p) == 0 && n_staged(with_barriers) > 0;
                for (uint32_t o = 0; o < p->n_orders; o++) { /* none without a layer */
                    uint32_t n_users = 0;
                    for (uint32_t l = 0; l < p->n_layers; l++)
                        n_users += p->layers[l].order == o;
                    assert_true(n_users > 0);
                }
                mp_sim_result_free(as_planned);
                mp_sim_result_free(single);
                mp_sim_result_free(barrier_choice);
                mp_sim_result_free(claimed);
            }
            mp_plan_free(p);
        }
        mp_free(first);
        mp_plan_free(with_barriers);
        planted_free(&t);
    }
    print_message("# %u plans keep all orders, %u some, %u none; up to %.2f %% of a step\n", n_kept, n_dropped, n_gone,
                  100 * worth);
    assert_true(n_kept > 3 && n_dropped + n_gone > 0 && worth > 0.001);
}

/* auto is never worse than any other strategy, nor than the single shot. */
/* Every strategy on random matrices against `auto`. */
static void compare_auto(uint32_t n_cases, bool are_stages_free, unsigned *n_single, unsigned *n_staged) {
    static const char *const topologies[] = {
        "2:h100", "4:a100", "6:h100", "8:h100", "2x2:h100", "2x3:h100", "1x2:a100+1x2:l40s", "3x2:h100"};
    struct mp_rng rng = mp_rng_seed(7);
    *n_single = *n_staged = 0;
    for (uint32_t i = 0; i < n_cases; i++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        struct mp_net *net;
        uint64_t matrix[N_MAX * N_MAX], best_ns = UINT64_MAX, auto_ns = UINT64_MAX;
        double m[N_MAX * N_MAX];
        CHECK_OK(mp_topology_load(&t, topologies[i % 8], &mp_limits_default, &err), err);
        if (are_stages_free)
            t->stage_launch_ns = 0;
        CHECK_OK(mp_net_new(&net, t, &err), err);
        const uint32_t n = t->n_gpus;
        const double size = pow(10, i % 4 == 0 ? 4 : 8 + 2 * mp_rng_unit(&rng));
        if (i % 3 == 0)
            balanced_skewed(n, i, size, m);
        for (uint32_t p = 0; p < n * n; p++) {
            if (i % 3 == 1)
                m[p] = size * mp_rng_unit(&rng);
            if (i % 3 == 2)
                m[p] = mp_rng_below(&rng, 3) == 0 ? size * mp_rng_unit(&rng) : 0;
            matrix[p] = p / n == p % n ? 0 : (uint64_t)m[p];
        }
        const struct mp_order_problem problem = {.topology = t,
                                                 .matrix = matrix,
                                                 .net = net,
                                                 .mode = (enum mp_stage_mode)mp_rng_below(&rng, 3),
                                                 .can_pace = mp_rng_below(&rng, 2) == 0,
                                                 .seed = i};
        for (uint32_t k = 0; mp_strategy_at(k) != NULL; k++) {
            const struct mp_strategy *s = mp_strategy_at(k);
            struct mp_schedule schedule;
            enum mp_outcome outcome;
            uint64_t ns;
            if (s->stage != MP_PLAN_ORDER)
                continue;
            CHECK_OK(mp_order_run(s, &problem, &schedule, &outcome, &err), err);
            if (outcome == MP_FOUND || outcome == MP_STOPPED) {
                CHECK_OK(mp_schedule_time(&schedule, &problem, &ns, &err), err);
                best_ns = ns < best_ns ? ns : best_ns;
                if (strcmp(s->name, "auto") == 0) {
                    auto_ns = ns;
                    *n_single += schedule.n_stages == 0;
                    *n_staged += schedule.n_stages > 0;
                }
            }
            mp_schedule_free(&schedule);
        }
        if (auto_ns != best_ns)
            fail_msg("case %u: auto %llu, best %llu", i, (unsigned long long)auto_ns, (unsigned long long)best_ns);
        mp_net_free(net);
        mp_topology_free(t);
    }
    print_message("# %u single shots, %u orders\n", *n_single, *n_staged);
}
static void test_order__auto_is_never_worse_than_another(void **state) {
    (void)state;
    unsigned n_single, n_staged;
    compare_auto(300, false, &n_single, &n_staged);
    assert_true(n_single > 50 && n_staged > 50);
}
/* A flush of everything may launch sooner than the single shot. */
static void test_order__auto_is_never_worse_where_stages_launch_sooner(void **state) {
    (void)state;
    unsigned n_single, n_staged;
    compare_auto(100, true, &n_single, &n_staged);
    assert_true(n_staged > 50);
}

static void test_order__floor_is_below_every_order(void **state) {
    (void)state;
    static const char *const topologies[] = {"2:h100", "5:a100", "2x2:h100", "1x2:a100+1x2:l40s", "8:mi300x"};
    struct mp_rng rng = mp_rng_seed(11);
    for (uint32_t i = 0; i < 100; i++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        struct mp_net *net;
        uint64_t matrix[N_MAX * N_MAX];
        CHECK_OK(mp_topology_load(&t, topologies[i % 5], &mp_limits_default, &err), err);
        CHECK_OK(mp_net_new(&net, t, &err), err);
        for (uint32_t p = 0; p < t->n_gpus * t->n_gpus; p++)
            matrix[p] = mp_rng_below(&rng, 4) == 0 ? mp_rng_below(&rng, 100000000) : 0;
        struct mp_order_problem problem = {.topology = t, .matrix = matrix, .net = net, .can_pace = true};
        for (uint32_t k = 0; mp_strategy_at(k) != NULL; k++) {
            struct mp_schedule schedule;
            enum mp_outcome outcome;
            uint64_t ns;
            if (mp_strategy_at(k)->stage != MP_PLAN_ORDER)
                continue;
            problem.mode = (enum mp_stage_mode)((i + k) % 3);
            CHECK_OK(mp_order_run(mp_strategy_at(k), &problem, &schedule, &outcome, &err), err);
            if ((outcome == MP_FOUND || outcome == MP_STOPPED) && schedule.n_stages > 0) {
                CHECK_OK(mp_schedule_time(&schedule, &problem, &ns, &err), err);
                if (ns < mp_order_floor(&problem))
                    fail_msg("%s: %llu below the floor %llu", mp_strategy_at(k)->name, (unsigned long long)ns,
                             (unsigned long long)mp_order_floor(&problem));
            }
            mp_schedule_free(&schedule);
        }
        mp_net_free(net);
        mp_topology_free(t);
    }
}

/* Without work there is no order; the plan is made all the same. */
static void test_order__a_budget_ends_the_making_of_orders(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct planted t;
    CHECK_OK(planted_make(&t, "8:h100", 3, 8, plant_balanced, &err), err);
    t.request.work_limit = 1;
    struct mp_plan *p = planted_plan(&t);
    assert_int_equal(n_staged(p), 0);
    assert_true(p->provenance.work_used > 0);
    assert_string_equal(p->provenance.stopped_by, "work_limit");
    assert_true(p->provenance.is_reproducible);
    mp_plan_free(p);
    t.request.work_limit = 1000000;
    p = planted_plan(&t);
    assert_int_equal(n_staged(p), 3);
    assert_string_equal(p->provenance.stopped_by, "done");
    mp_plan_free(p);
    t.request.work_limit = 0;
    t.request.wall_seconds = 1e-9;
    p = planted_plan(&t);
    assert_int_equal(n_staged(p), 0);
    assert_string_equal(p->provenance.stopped_by, "wall_clock");
    assert_false(p->provenance.is_reproducible);
    mp_plan_free(p);
    planted_free(&t);
}

/* A lognormal matrix on a topology, for tests of one order. */
struct one {
    struct mp_topology *t;
    struct mp_net *net;
    uint64_t *matrix;
    struct mp_order_problem in;
};
static void one_make(struct one *o, const char *topology, uint64_t seed) {
    struct mp_error err = {0};
    CHECK_OK(mp_topology_load(&o->t, topology, &mp_limits_default, &err), err);
    CHECK_OK(mp_net_new(&o->net, o->t, &err), err);
    const size_t n = o->t->n_gpus;
    o->matrix = calloc(n * n, sizeof *o->matrix);
    for (size_t p = 0; p < n * n; p++)
        o->matrix[p] = p / n == p % n ? 0 : (uint64_t)(1e6 * exp(1.5 * normal(seed * 65536 + p)));
    o->in = (struct mp_order_problem){
        .topology = o->t, .matrix = o->matrix, .net = o->net, .mode = MP_STAGE_COUPLED, .seed = seed};
}
static void one_free(struct one *o) {
    free(o->matrix);
    mp_net_free(o->net);
    mp_topology_free(o->t);
}
static uint64_t one_run(const struct one *o, const char *name, enum mp_outcome *outcome, uint32_t *n_stages) {
    struct mp_error err = {0};
    struct mp_schedule s;
    uint64_t ns;
    CHECK_OK(mp_order_run(mp_strategy_find(MP_PLAN_ORDER, name), &o->in, &s, outcome, &err), err);
    CHECK_OK(mp_schedule_time(&s, &o->in, &ns, &err), err);
    *n_stages = s.n_stages;
    mp_schedule_free(&s);
    return ns;
}

/* Every limit up to what the order wants: it stops, keeps to the limit, is never worse than with less, and ends with
 * what it finds unlimited. */
static void test_order__a_work_limit_keeps_the_best_so_far(void **state) {
    (void)state;
    static const char *const names[] = {"auto", "matchings", "nested", "hybrid", "list", "two-level"};
    struct one o;
    one_make(&o, "3x4:h100", 3);
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        uint64_t free_ns, single_ns;
        uint32_t n_stages;
        enum mp_outcome outcome;
        struct mp_spent all = {0};
        const struct mp_budget unlimited = {.spent = &all};
        single_ns = one_run(&o, "single", &outcome, &n_stages);
        o.in.budget = &unlimited;
        free_ns = one_run(&o, names[k], &outcome, &n_stages);
        assert_int_equal(outcome, MP_FOUND);
        assert_true((all.work > 0 || strcmp(names[k], "two-level") == 0) && !all.is_stopped);
        for (uint64_t limit = 1; limit <= all.work + 1; limit++) {
            struct mp_spent spent = {0};
            const struct mp_budget budget = {.work_limit = limit, .spent = &spent};
            o.in.budget = &budget;
            uint64_t ns = one_run(&o, names[k], &outcome, &n_stages);
            assert_int_equal(outcome, spent.is_stopped ? MP_STOPPED : MP_FOUND);
            assert_true(spent.work <= limit);
            assert_true(limit + 1 >= all.work || spent.is_stopped);
            if (limit > all.work)
                assert_true(ns == free_ns && outcome == MP_FOUND);
            if (strcmp(names[k], "auto") == 0)
                assert_true(ns >= free_ns && ns <= single_ns);
        }
        o.in.budget = NULL;
    }
    one_free(&o);
}

static void test_order__a_wall_clock_that_struck_is_told(void **state) {
    (void)state;
    struct one o;
    enum mp_outcome outcome;
    uint32_t n_stages;
    bool struck = false;
    struct mp_spent spent = {.started = 1e-9}; /* long ago */
    const struct mp_budget budget = {.wall_seconds = 1e-6, .wall_struck = &struck, .spent = &spent};
    one_make(&o, "2x4:h100", 4);
    o.in.budget = &budget;
    (void)one_run(&o, "auto", &outcome, &n_stages);
    assert_int_equal(outcome, MP_STOPPED);
    assert_true(struck && spent.work <= 1);
    one_free(&o);
}

/* 128 GPUs in 16 nodes: the order between nodes is below the port bound, so nothing else is even simulated. */
static void test_order__auto_on_many_gpus_goes_by_bounds(void **state) {
    (void)state;
    struct one o;
    enum mp_outcome outcome;
    uint32_t n_stages;
    struct mp_spent spent = {0};
    const struct mp_budget budget = {.spent = &spent};
    one_make(&o, "16x8:h100", 5);
    o.in.budget = &budget;
    uint64_t ns = one_run(&o, "auto", &outcome, &n_stages), two_level_ns;
    assert_true(spent.work <= 2);
    two_level_ns = one_run(&o, "two-level", &outcome, &n_stages);
    assert_true(ns == two_level_ns && ns < mp_port_bound_ns(o.t, o.matrix));
    one_free(&o);
}

/* Above 32 GPUs all at once was not among what it simulates. */
static void test_order__hybrid_never_loses_to_the_single_shot(void **state) {
    (void)state;
    static const char *const topologies[] = {"8x8:h100", "2x4:h100", "12:h100", "40:h100"};
    for (uint64_t k = 0; k < 12; k++) {
        struct one o;
        enum mp_outcome outcome;
        uint32_t n_stages;
        if (k % 4 == 0 && k > 0)
            continue; /* the largest once */
        one_make(&o, topologies[k % 4], k);
        o.in.mode = k % 4 == 0 ? MP_STAGE_COUPLED : (enum mp_stage_mode)(k / 4);
        uint64_t hybrid_ns = one_run(&o, "hybrid", &outcome, &n_stages);
        assert_true(hybrid_ns <= one_run(&o, "single", &outcome, &n_stages));
        one_free(&o);
    }
}

static void test_order__rounding_is_no_gain(void **state) {
    (void)state;
    struct one o;
    enum mp_outcome outcome;
    uint32_t n_stages;
    assert_false(mp_order_gains(1000, 1000));
    assert_false(mp_order_gains(999, 1000));
    assert_true(mp_order_gains(998, 1000));
    assert_false(mp_order_gains(1000, 998));
    assert_true(mp_order_gains(23703155944465u - 1000, 23703155944465u));
    one_make(&o, "2:h100", 1);
    o.matrix[1] = UINT64_C(1) << 53;
    o.matrix[2] = 0;
    (void)one_run(&o, "auto", &outcome, &n_stages);
    assert_int_equal(n_stages, 0);
    one_free(&o);
}

static enum mp_status fault_flow(void *ctx, struct mp_error *err) {
    struct planted t;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = planted_make(&t, "3:h100", 2, 2, plant_balanced, err);
    t.request.sim.is_pipelined = ctx != NULL;
    if (status == MP_OK)
        status = mp_plan_make(&p, &t.request, &outcome, NULL, err);
    mp_plan_free(p);
    planted_free(&t);
    return status;
}

static void test_order__faults_leak_nothing(void **state) {
    (void)state;
    bool is_pipelined = true;
    sweep_faults(fault_flow, NULL, 5);
    sweep_faults(fault_flow, &is_pipelined, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order__balanced_skewed_layers_are_staged_and_hot_ones_are_not),
        cmocka_unit_test(test_order__layers_alike_share_one_order),
        cmocka_unit_test(test_order__orders_keep_their_part_of_the_text),
        cmocka_unit_test(test_order__fallback_helps_or_is_free),
        cmocka_unit_test(test_order__the_combine_runs_the_faster_way),
        cmocka_unit_test(test_order__a_plan_names_its_options_and_pacing),
        cmocka_unit_test(test_order__incast_on_the_way_back_counts),
        cmocka_unit_test(test_order__no_layer_is_slower_on_planning_steps_with_any_strategy),
        cmocka_unit_test(test_order__plans_chosen_by_the_pipelined_step),
        cmocka_unit_test(test_order__auto_is_never_worse_than_another),
        cmocka_unit_test(test_order__auto_is_never_worse_where_stages_launch_sooner),
        cmocka_unit_test(test_order__floor_is_below_every_order),
        cmocka_unit_test(test_order__a_budget_ends_the_making_of_orders),
        cmocka_unit_test(test_order__a_work_limit_keeps_the_best_so_far),
        cmocka_unit_test(test_order__a_wall_clock_that_struck_is_told),
        cmocka_unit_test(test_order__auto_on_many_gpus_goes_by_bounds),
        cmocka_unit_test(test_order__hybrid_never_loses_to_the_single_shot),
        cmocka_unit_test(test_order__rounding_is_no_gain),
        cmocka_unit_test(test_order__faults_leak_nothing),
    };
    return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
