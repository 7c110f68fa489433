#include "world.h"

static int by_gpu_and_start(const void *a, const void *b) {
    const struct mp_timeline_event *x = a, *y = b;
    if (x->gpu != y->gpu)
        return x->gpu < y->gpu ? -1 : 1;
    return (x->start_ns > y->start_ns) - (x->start_ns < y->start_ns);
}

/* The event of the step itself in which e lies. */
static const struct mp_timeline_event *part_of(const struct mp_timeline *t, const struct mp_timeline_event *e) {
    for (size_t i = 0; i < t->n; i++)
        if (t->events[i].gpu == MP_NONE && t->events[i].layer == e->layer && t->events[i].kind == e->kind)
            return &t->events[i];
    return NULL;
}

static void check_step(const struct world *w, const struct mp_timeline *t, uint32_t step, bool is_pipelined) {
    uint64_t at = 0, sum[7] = {0}, dispatched = 0, combined = 0, moved[2] = {0};
    struct mp_error err = {0};
    struct mp_traffic *traffic;
    for (size_t i = 0; i < t->n; i++) {
        const struct mp_timeline_event *e = &t->events[i];
        assert_true(e->start_ns < e->end_ns && e->end_ns <= t->times.step_ns);
        if (e->gpu == MP_NONE) { /* without a gap */
            assert_int_equal(e->start_ns, at);
            at = e->end_ns;
            sum[e->kind] += e->end_ns - e->start_ns;
            continue;
        }
        if (e->peer == MP_NONE)
            continue;
        const struct mp_timeline_event *part = part_of(t, e);
        assert_true(is_pipelined || part != NULL);
        assert_true(is_pipelined || (e->start_ns >= part->start_ns && e->end_ns <= part->end_ns));
        assert_true(e->kind == MP_TIME_DISPATCH || e->kind == MP_TIME_COMBINE);
        moved[e->kind == MP_TIME_COMBINE] += e->bytes;
    }
    assert_int_equal(at, t->times.step_ns);
    assert_int_equal(sum[MP_TIME_DISPATCH], t->times.dispatch_ns);
    assert_int_equal(sum[MP_TIME_EXPERTS], t->times.compute_ns);
    assert_int_equal(sum[MP_TIME_COMBINE], t->times.combine_ns);
    assert_int_equal(sum[MP_TIME_ATTENTION] + sum[MP_TIME_DENSE] + sum[MP_TIME_SHARED] + sum[MP_TIME_OTHER],
                     t->times.other_ns);
    /* Every byte of the traffic is there. */
    CHECK_OK(mp_traffic_new(&traffic, t->n_gpus, &err), err);
    for (uint32_t l = 0; l < t->n_layers && t->n_gpus > 1; l++) {
        CHECK_OK(mp_traffic_compute(traffic, &w->setup, step, l, &err), err);
        for (size_t k = 0; k < (size_t)t->n_gpus * t->n_gpus; k++) {
            dispatched += traffic->dispatch[k] + traffic->dispatch2[k];
            combined += traffic->combine[k] + traffic->combine2[k];
        }
    }
    mp_traffic_free(traffic);
    assert_int_equal(moved[0], dispatched);
    assert_int_equal(moved[1], combined);
}

/* A GPU computes one thing at a time, and in one-to-one stages it sends one thing at a time. */
static void check_lanes(const struct world *w, struct mp_timeline *t) {
    uint64_t free_at[2][256] = {{0}};
    qsort(t->events, t->n, sizeof *t->events, by_gpu_and_start);
    for (size_t i = 0; i < t->n; i++) {
        const struct mp_timeline_event *e = &t->events[i];
        bool is_staged = e->stage != MP_NONE;
        if (e->gpu == MP_NONE || (e->peer != MP_NONE && !is_staged))
            continue;
        assert_true(!is_staged || w->plan->layers[e->layer].order != MP_NONE);
        assert_true(e->start_ns >= free_at[is_staged][e->gpu]);
        free_at[is_staged][e->gpu] = e->end_ns;
    }
}

static void test_timeline__adds_up_to_what_is_simulated(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        struct mp_sim_result *result;
        world_make(&w, &r, (struct world_shape){0});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        w.setup.sources = mp_rng_below(&r, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        if (seed % 4 != 0 && w.plan->n_gpus > 1)
            world_rotation(&w);
        w.plan->stage_mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
        w.plan->fallback_ppm = seed % 5 == 0 ? 100000 : 0;
        struct mp_sim_options o = {.dispatcher = w.setup.dispatcher,
                                   .sources = w.setup.sources,
                                   .network = seed % 7 == 6 ? MP_NETWORK_SJF : MP_NETWORK_PLAN,
                                   .stage_mode = -1,
                                   .n_threads = 1,
                                   .seed = 7};
        CHECK_OK(mp_simulate(&result, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
        for (uint32_t i = 0; i < result->n_steps; i++) {
            struct mp_timeline *t;
            CHECK_OK(mp_simulate_timeline(&t, w.plan, w.workload, &w.net.t, &w.model, &o, i, &err), err);
            assert_memory_equal(&t->times, &result->steps[i], sizeof t->times);
            check_step(&w, t, i, false);
            check_lanes(&w, t);
            mp_timeline_free(t);
        }
        struct mp_timeline *none;
        assert_int_equal(mp_simulate_timeline(&none, w.plan, w.workload, &w.net.t, &w.model, &o, result->n_steps, &err),
                         MP_EUSAGE);
        assert_null(none);
        mp_sim_result_free(result);
        world_free(&w);
    }
}

/* Each GPU does one part after the other: what it computes in a layer begins when the transfers before have ended at
 * it, and its transfers when it has computed what comes before. */
static void check_clocks(const struct mp_timeline *t) {
    enum { GATE, DISPATCH, EXPERTS, COMBINE, N_PARTS };
    static const int part_of_kind[] = {GATE, GATE, DISPATCH, GATE, EXPERTS, COMBINE, GATE};
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        uint64_t reached = 0; /* ends of all parts before */
        for (uint32_t l = 0; l < t->n_layers; l++)
            for (int part = GATE; part < N_PARTS; part++) {
                uint64_t end = reached;
                for (size_t i = 0; i < t->n; i++) {
                    const struct mp_timeline_event *e = &t->events[i];
                    if (e->gpu == MP_NONE || e->layer != l || (e->gpu != g && e->peer != g) ||
                        part_of_kind[e->kind] != part)
                        continue;
                    assert_true(e->start_ns >= reached);
                    if (e->kind != MP_TIME_SHARED) /* runs beside the dispatch */
                        end = e->end_ns > end ? e->end_ns : end;
                }
                reached = end;
            }
    }
}

static void test_timeline__of_the_pipelined_reading(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_shorter = 0;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 500);
        struct mp_error err = {0};
        struct mp_sim_result *result;
        world_make(&w, &r, (struct world_shape){0});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        w.setup.sources = mp_rng_below(&r, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        if (seed % 4 != 0 && w.plan->n_gpus > 1)
            world_rotation(&w);
        w.plan->stage_mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
        w.plan->fallback_ppm = seed % 5 == 0 ? 100000 : 0;
        struct mp_sim_options o = {.dispatcher = w.setup.dispatcher,
                                   .sources = w.setup.sources,
                                   .network = seed % 7 == 6 ? MP_NETWORK_CONCURRENT : MP_NETWORK_PLAN,
                                   .stage_mode = -1,
                                   .n_threads = 1,
                                   .is_pipelined = true};
        CHECK_OK(mp_simulate(&result, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
        for (uint32_t i = 0; i < result->n_steps; i++) {
            struct mp_timeline *t, *barrier;
            CHECK_OK(mp_simulate_timeline(&t, w.plan, w.workload, &w.net.t, &w.model, &o, i, &err), err);
            assert_memory_equal(&t->times, &result->steps[i], sizeof t->times);
            check_step(&w, t, i, true);
            check_clocks(t);
            o.is_pipelined = false;
            CHECK_OK(mp_simulate_timeline(&barrier, w.plan, w.workload, &w.net.t, &w.model, &o, i, &err), err);
            o.is_pipelined = true;
            n_shorter += t->times.step_ns < barrier->times.step_ns;
            mp_timeline_free(barrier);
            mp_timeline_free(t);
        }
        mp_sim_result_free(result);
        world_free(&w);
    }
    assert_true(n_shorter > 50);
}

/* The log of a schedule: what is told ends when the call says, and starts follow ends. */
static void test_timeline__the_log_ends_with_the_call(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 1000);
        struct mp_error err = {0};
        static struct net_case c;
        case_plain(&c, 1, 5, UINT64_C(1000000000), 700);
        uint64_t matrix[25], ns, quick, total = 0;
        for (size_t k = 0; k < 25; k++) {
            matrix[k] = k % 6 == 0 || mp_rng_below(&r, 3) == 0 ? 0 : mp_rng_below(&r, 100000);
            total += matrix[k];
        }
        struct mp_transfer t[4][5];
        struct mp_stage stages[4];
        for (uint32_t s = 0; s < 4; s++) {
            for (uint32_t i = 0; i < 5; i++)
                t[s][i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + s + 1) % 5), 1, 1};
            stages[s] = (struct mp_stage){5, t[s]};
        }
        const struct mp_order order = {.unit = 1, .ports = 1, .n_stages = 4, .stages = stages};
        struct mp_net *net;
        struct mp_net_log log = {0};
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        for (int mode = 0; mode < 4; mode++) {
            uint64_t last = 0, bytes = 0;
            mp_net_log_to(net, NULL);
            if (mode < 3)
                CHECK_OK(mp_net_staged(net, &order, (enum mp_combine)(seed % MP_N_COMBINES), (enum mp_stage_mode)mode,
                                       matrix, &quick, &err),
                         err);
            else
                CHECK_OK(mp_net_concurrent(net, matrix, &quick, NULL, &err), err);
            mp_net_log_to(net, &log);
            log.n = 0;
            if (mode < 3)
                CHECK_OK(mp_net_staged(net, &order, (enum mp_combine)(seed % MP_N_COMBINES), (enum mp_stage_mode)mode,
                                       matrix, &ns, &err),
                         err);
            else
                CHECK_OK(mp_net_concurrent(net, matrix, &ns, NULL, &err), err);
            assert_int_equal(ns, quick);
            for (size_t i = 0; i < log.n; i++) {
                const struct mp_net_transfer *x = &log.transfers[i];
                assert_true(x->start_ns < x->end_ns);
                assert_int_equal(x->bytes, matrix[x->src * 5 + x->dst]);
                last = x->end_ns > last ? x->end_ns : last;
                bytes += x->bytes;
                for (size_t k = 0; k < i && mode < 3; k++) { /* one send and one receive at a time */
                    const struct mp_net_transfer *y = &log.transfers[k];
                    if (x->src == y->src || x->dst == y->dst)
                        assert_true(x->start_ns >= y->end_ns || y->start_ns >= x->end_ns);
                }
            }
            assert_int_equal(last, ns);
            assert_int_equal(bytes, total);
        }
        mp_net_log_free(&log);
        mp_net_free(net);
    }
}

struct faulted {
    struct world *w;
    struct mp_sim_options o;
};
static enum mp_status tell(void *ctx, struct mp_error *err) {
    struct faulted *f = ctx;
    struct mp_timeline *t;
    enum mp_status status =
        mp_simulate_timeline(&t, f->w->plan, f->w->workload, &f->w->net.t, &f->w->model, &f->o, 0, err);
    assert_int_equal(status == MP_OK, t != NULL);
    mp_timeline_free(t);
    return status;
}

static void test_timeline__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(5);
    world_make(&w, &r, (struct world_shape){.n_layers = 2, .n_steps = 2});
    if (w.plan->n_gpus > 1)
        world_rotation(&w);
    struct faulted f = {&w, {.dispatcher = w.setup.dispatcher, .sources = w.setup.sources, .stage_mode = -1}};
    sweep_faults(tell, &f, 1);
    f.o.is_pipelined = true;
    sweep_faults(tell, &f, 1);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeline__adds_up_to_what_is_simulated),
        cmocka_unit_test(test_timeline__of_the_pipelined_reading),
        cmocka_unit_test(test_timeline__the_log_ends_with_the_call),
        cmocka_unit_test(test_timeline__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
