#include "world.h"
#include <math.h>

static void random_clocks(struct mp_rng *r, uint64_t *clock, uint32_t n) {
    const uint64_t spread = mp_rng_below(r, 4) == 0 ? 1 : 1 + mp_rng_below(r, 100000);
    for (uint32_t g = 0; g < n; g++)
        clock[g] = 1000000 + mp_rng_below(r, spread);
}
static void move(struct mp_net *net, const struct mp_order *o, enum mp_combine way, enum mp_stage_mode mode,
                 const uint64_t *matrix, uint64_t *clock) {
    struct mp_error err = {0};
    if (o == NULL)
        CHECK_OK(mp_net_concurrent_from(net, matrix, clock, &err), err);
    else
        CHECK_OK(mp_net_staged_from(net, o, way, mode, matrix, clock, &err), err);
}
static uint64_t latest(const uint64_t *clock, uint32_t n) {
    uint64_t last = 0;
    for (uint32_t g = 0; g < n; g++)
        last = clock[g] > last ? clock[g] : last;
    return last;
}

/* Every rank's end against predecessors worked out pair by pair; contended networks and ports to themselves, with and
 * without a flush, sub-ports, all directions; and a shift of the clocks shifts the ends. */
static void test_pipeline__clocks_agree_with_a_slow_simulator(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 17);
        if (seed % 2 == 0)
            case_random(&c, &r, 2, 3);
        else {
            case_plain(&c, 1 + (uint32_t)mp_rng_below(&r, 2), 2 + (uint32_t)mp_rng_below(&r, 3), UINT64_C(90000000000),
                       UINT64_C(40000000000));
            c.levels[0].latency_ns = mp_rng_below(&r, 3000);
            c.t.stage_launch_ns = mp_rng_below(&r, 5000);
            case_matrix(&c, &r);
        }
        const uint32_t n = c.t.n_gpus, ports = mp_rng_below(&r, 3) == 0 ? 3 : 1;
        case_order(&x, &r, n, ports, ports > 1 && mp_rng_below(&r, 2) ? UINT64_C(10000000000) : 0,
                   mp_rng_below(&r, 2) == 0);
        struct mp_net *net;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        for (int mode = -1; mode < 3; mode++) {
            const enum mp_combine way = (enum mp_combine)mp_rng_below(&r, MP_N_COMBINES);
            uint64_t come[CASE_GPUS], got[CASE_GPUS], shifted[CASE_GPUS];
            long double want[CASE_GPUS];
            random_clocks(&r, come, n);
            for (uint32_t g = 0; g < n; g++) {
                got[g] = come[g];
                shifted[g] = come[g] + 123456789;
            }
            move(net, mode < 0 ? NULL : &x.o, way, (enum mp_stage_mode)mode, c.matrix, got);
            move(net, mode < 0 ? NULL : &x.o, way, (enum mp_stage_mode)mode, c.matrix, shifted);
            if (mode < 0)
                slow_concurrent_from(&c.t, c.matrix, come, want);
            else if (mode == MP_STAGE_BARRIER) {
                long double time = slow_staged(&c.t, &x.o, way, MP_STAGE_BARRIER, c.matrix);
                for (uint32_t g = 0; g < n; g++)
                    want[g] = (long double)latest(come, n) + time;
            } else
                slow_staged_from(&c.t, &x.o, way, (enum mp_stage_mode)mode, c.matrix, come, want);
            for (uint32_t g = 0; g < n; g++) {
                if (fabsl((long double)got[g] - ceill(want[g] - 1e-6L)) > 1)
                    fail_msg("case %llu, mode %d, rank %u: %llu ns, expected %.6Lf", (unsigned long long)seed, mode, g,
                             (unsigned long long)got[g], want[g]);
                assert_int_equal(shifted[g], got[g] + 123456789);
            }
        }
        mp_net_free(net);
    }
}

/* Ranks that come together end as the barrier reading has it, to the nanosecond. */
static void test_pipeline__together_is_the_other_reading(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 5);
        case_random(&c, &r, 2, 3);
        case_order(&x, &r, c.t.n_gpus, 1, 0, mp_rng_below(&r, 2) == 0);
        struct mp_net *net;
        uint64_t clock[CASE_GPUS], time_ns;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        for (int mode = -1; mode < 3; mode++) {
            for (uint32_t g = 0; g < c.t.n_gpus; g++)
                clock[g] = 77;
            move(net, mode < 0 ? NULL : &x.o, MP_COMBINE_REVERSED, (enum mp_stage_mode)mode, c.matrix, clock);
            if (mode < 0)
                CHECK_OK(mp_net_concurrent(net, c.matrix, &time_ns, NULL, &err), err);
            else
                CHECK_OK(
                    mp_net_staged(net, &x.o, MP_COMBINE_REVERSED, (enum mp_stage_mode)mode, c.matrix, &time_ns, &err),
                    err);
            assert_int_equal(latest(clock, c.t.n_gpus), 77 + time_ns);
        }
        mp_net_free(net);
    }
}

/* Where no port is shared, nobody goes on earlier because somebody comes later. */
static void test_pipeline__coming_later_helps_nobody_where_ports_are_alone(void **state) {
    (void)state;
    static struct net_case c;
    static struct test_order x;
    struct mp_error err = {0};
    uint32_t n_moved = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 33);
        case_plain(&c, 1, 5, UINT64_C(50000000000), 0);
        c.t.stage_launch_ns = mp_rng_below(&r, 5000);
        case_matrix(&c, &r);
        case_order(&x, &r, 5, 1, 0, false);
        struct mp_net *net;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        for (int mode = 0; mode < 3; mode++) {
            uint64_t early[CASE_GPUS], late[CASE_GPUS];
            random_clocks(&r, early, 5);
            memcpy(late, early, sizeof late);
            late[mp_rng_below(&r, 5)] += 1 + mp_rng_below(&r, 200000);
            move(net, &x.o, MP_COMBINE_FORWARD, (enum mp_stage_mode)mode, c.matrix, early);
            move(net, &x.o, MP_COMBINE_FORWARD, (enum mp_stage_mode)mode, c.matrix, late);
            for (uint32_t g = 0; g < 5; g++) {
                assert_true(late[g] + 1 >= early[g]);
                n_moved += late[g] > early[g];
            }
        }
        mp_net_free(net);
    }
    assert_true(n_moved > 3000);
}

/* ---- steps ---- */

static uint64_t routing_ns; /* of the case at hand */

static struct mp_sim_result *simulate(const struct world *w, bool is_pipelined, unsigned n_threads) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    struct mp_sim_options o = {.dispatcher = w->setup.dispatcher,
                               .sources = w->setup.sources,
                               .stage_mode = -1,
                               .n_threads = n_threads,
                               .seed = 7,
                               .is_pipelined = is_pipelined,
                               .routing_ns = routing_ns,
                               .with_bound = true};
    CHECK_OK(mp_simulate(&r, w->plan, w->workload, &w->net.t, &w->model, &o, &err), err);
    return r;
}

/* One phase by the slow simulator; clocks in whole nanoseconds between phases. */
static void slow_move(const struct world *w, uint32_t layer, bool is_first, bool is_combine, const uint64_t *matrix,
                      uint64_t *clock) {
    const struct mp_plan_layer *l = &w->plan->layers[layer];
    long double gone[CASE_GPUS];
    if (is_first && l->order != MP_NONE)
        slow_staged_from(&w->net.t, &w->plan->orders[l->order], is_combine ? l->combine : MP_COMBINE_FORWARD,
                         w->plan->stage_mode, matrix, clock, gone);
    else
        slow_concurrent_from(&w->net.t, matrix, clock, gone);
    for (uint32_t g = 0; g < w->net.t.n_gpus; g++)
        clock[g] = (uint64_t)ceill(gone[g] - 1e-6L);
}

/* A dispatch or combine of one layer, launches and both phases. */
static void slow_direction(const struct world *w, const struct mp_traffic *t, uint32_t layer, bool is_combine,
                           uint64_t *clock) {
    const struct mp_dispatcher *d = w->setup.dispatcher;
    const uint32_t n = w->net.t.n_gpus;
    const uint64_t *first = is_combine ? t->combine : t->dispatch, *second = is_combine ? t->combine2 : t->dispatch2;
    uint64_t other[CASE_GPUS];
    for (uint32_t g = 0; g < n; g++)
        clock[g] += (d->n_launches - (w->plan->layers[layer].order != MP_NONE)) * w->net.t.launch_ns +
                    (is_combine ? 0 : routing_ns);
    memcpy(other, clock, sizeof other);
    if (!d->is_overlapped && is_combine)
        slow_move(w, layer, false, true, second, clock);
    slow_move(w, layer, true, is_combine, first, clock);
    for (uint32_t g = 0; g < n && !d->is_overlapped && !is_combine && t->has_second; g++)
        if (!d->hides_routing || clock[g] < other[g] + routing_ns)
            clock[g] = (d->hides_routing ? other[g] : clock[g]) + routing_ns;
    if (!d->is_overlapped && !is_combine)
        slow_move(w, layer, false, false, second, clock);
    if (!d->is_overlapped)
        return;
    slow_move(w, layer, false, is_combine, second, other);
    for (uint32_t g = 0; g < n; g++)
        clock[g] = clock[g] > other[g] ? clock[g] : other[g];
}

static uint64_t slow_step(const struct world *w, struct mp_traffic *t, uint32_t step) {
    struct mp_error err = {0};
    const struct mp_topology *c = &w->net.t;
    const struct mp_model *m = &w->model;
    uint64_t at[CASE_GPUS] = {0}, shared[CASE_GPUS];
    for (uint32_t l = 0; l < w->plan->n_layers; l++) {
        CHECK_OK(mp_traffic_compute(t, &w->setup, step, l, &err), err);
        for (uint32_t g = 0; g < c->n_gpus; g++) {
            at[g] += mp_attention_ns(c, g, m, t->source_rows[g]) * (l == 0 ? 1 + m->n_hidden_layers - m->n_layers : 1);
            shared[g] = at[g] + mp_shared_ns(c, g, m, t->source_rows[g]);
        }
        slow_direction(w, t, l, false, at);
        for (uint32_t g = 0; g < c->n_gpus; g++) {
            at[g] = at[g] > shared[g] ? at[g] : shared[g];
            at[g] += mp_compute_ns(c, g, m, t->active[g], t->padded_rows[g]);
        }
        slow_direction(w, t, l, true, at);
    }
    return latest(at, c->n_gpus) + m->other_ns_per_step;
}

static void test_pipeline__steps_agree_with_a_slow_simulator(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_shorter = 0, n_steps = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 900);
        struct mp_error err = {0};
        struct mp_traffic *t;
        world_make(&w, &r, (struct world_shape){.max_nodes = 2});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 6));
        routing_ns = seed % 3 == 0 ? mp_rng_below(&r, 20000) : 0;
        if (seed % 2 == 0)
            world_rotation(&w);
        w.plan->stage_mode = mp_rng_below(&r, 2) ? MP_STAGE_FREE : MP_STAGE_COUPLED;
        CHECK_OK(mp_traffic_new(&t, w.plan->n_gpus, &err), err);
        struct mp_sim_result *got = simulate(&w, true, 1), *barrier = simulate(&w, false, 1);
        double layers = 0, moe = 0;
        for (uint32_t i = 0; i < got->n_steps; i++) {
            const struct mp_step_times *s = &got->steps[i];
            uint64_t want = slow_step(&w, t, i), off = s->step_ns > want ? s->step_ns - want : want - s->step_ns;
            if (off > 8 * w.plan->n_layers) /* 1 for each phase */
                fail_msg("case %llu, step %u: %llu ns, expected %llu", (unsigned long long)seed, i,
                         (unsigned long long)s->step_ns, (unsigned long long)want);
            assert_int_equal(s->step_ns, s->dispatch_ns + s->compute_ns + s->combine_ns + s->other_ns);
            n_shorter += s->step_ns < barrier->steps[i].step_ns;
            n_steps++;
            moe += (double)(s->dispatch_ns + s->compute_ns + s->combine_ns);
        }
        for (uint32_t l = 0; l < got->n_layers; l++)
            layers += got->layer_ns[l] * got->n_steps;
        assert_true(fabs(layers - moe) <= 1e-9 * moe + 1);
        assert_true(got->utilization >= 0 && got->utilization <= 1);
        assert_int_equal(got->lower_bound_ns, 0);
        assert_true(got->port_bound_ns == barrier->port_bound_ns && got->inter_bytes == barrier->inter_bytes);
        assert_memory_equal(&got->balance, &barrier->balance, sizeof got->balance);
        mp_sim_result_free(got);
        mp_sim_result_free(barrier);
        mp_traffic_free(t);
        world_free(&w);
    }
    routing_ns = 0;
    assert_true(n_shorter * 2 > n_steps);
}

/* Staged, ports to themselves: no barrier is ever better than one. Up to the rounding of each direction. */
static void test_pipeline__is_never_behind_barriers_where_ports_are_alone(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_shorter = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 4000);
        case_plain(&w.net, 1, 2 + (uint32_t)mp_rng_below(&r, 4), UINT64_C(20000000000), 0);
        w.net.t.stage_launch_ns = mp_rng_below(&r, 3000);
        w.net.t.launch_ns = mp_rng_below(&r, 3000);
        world_make(&w, &r, (struct world_shape){0});
        world_rotation(&w);
        for (uint32_t l = 0; l < w.plan->n_layers; l++)
            w.plan->layers[l].order = 0;
        w.plan->stage_mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
        struct mp_sim_result *a = simulate(&w, true, 1), *b = simulate(&w, false, 1);
        for (uint32_t i = 0; i < a->n_steps; i++) {
            assert_true(a->steps[i].step_ns <= b->steps[i].step_ns + 2 * w.plan->n_layers);
            n_shorter += a->steps[i].step_ns < b->steps[i].step_ns;
        }
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        world_free(&w);
    }
    assert_true(n_shorter > 50);
}

/* GPUs that all have the same to do: nothing to overlap, the same step to the nanosecond. */
static void test_pipeline__equal_loads_make_no_difference(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 60);
        const uint32_t n = 2 + (uint32_t)mp_rng_below(&r, 4);
        case_plain(&w.net, 1, n, UINT64_C(20000000000), 0);
        w.net.levels[0].latency_ns = mp_rng_below(&r, 3000);
        w.net.t.launch_ns = mp_rng_below(&r, 3000);
        world_make(&w, &r,
                   (struct world_shape){
                       .n_layers = 3, .n_experts = 2 * n, .is_counts = true, .no_replicas = true, .top_k = 1});
        for (size_t i = 0; i < (size_t)w.trace->n_iterations * n * 3 * 2 * n; i++)
            ((uint64_t *)(uintptr_t)w.trace->counts)[i] = 16;
        for (uint32_t s = 0; s < 2 * n; s++) {
            ((uint32_t *)(uintptr_t)w.plan->slot_gpu)[s] = s / 2;
            for (uint32_t l = 0; l < 3; l++)
                w.plan->layers[l].slot_expert[s] = (uint16_t)s;
        }
        for (uint32_t g = 0; g <= n; g++)
            ((uint32_t *)(uintptr_t)w.plan->gpu_first_slot)[g] = 2 * g;
        world_route(&w);
        if (seed % 2 == 0)
            world_rotation(&w);
        struct mp_sim_result *a = simulate(&w, true, 1), *b = simulate(&w, false, 1);
        assert_true(b->steps[0].dispatch_ns > 0);
        for (uint32_t i = 0; i < a->n_steps; i++)
            assert_memory_equal(&a->steps[i], &b->steps[i], sizeof a->steps[i]);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        world_free(&w);
    }
}

static void test_pipeline__threads_do_not_matter(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 10);
        world_make(&w, &r, (struct world_shape){.n_steps = 13});
        world_rotation(&w);
        struct mp_sim_result *a = simulate(&w, true, 1), *b = simulate(&w, true, 3);
        assert_memory_equal(a->steps, b->steps, a->n_steps * sizeof *a->steps);
        assert_memory_equal(a->layer_ns, b->layer_ns, a->n_layers * sizeof *a->layer_ns);
        assert_memory_equal(&a->utilization, &b->utilization, sizeof(double));
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        world_free(&w);
    }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct world *w = ctx;
    struct mp_sim_options o = {.dispatcher = w->setup.dispatcher, .stage_mode = -1, .n_threads = 1};
    o.is_pipelined = true;
    struct mp_sim_result *r;
    enum mp_status status = mp_simulate(&r, w->plan, w->workload, &w->net.t, &w->model, &o, err);
    mp_sim_result_free(r);
    return status;
}
static void test_pipeline__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(6);
    world_make(&w, &r, (struct world_shape){0});
    world_rotation(&w);
    sweep_faults(flow, &w, 1);
    world_free(&w);
}

/* The papers' baselines have no clocks: their directions are barriers, and a step is no shorter than its parts. */
static void test_pipeline__other_networks_wait_for_all(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 80);
        struct mp_error err = {0};
        world_make(&w, &r, (struct world_shape){0});
        for (int network = MP_NETWORK_RCS; network <= MP_NETWORK_SPREAD_OUT; network++) {
            struct mp_sim_options o = {.dispatcher = w.setup.dispatcher,
                                       .network = (enum mp_network_mode)network,
                                       .stage_mode = -1,
                                       .n_threads = 1};
            struct mp_sim_result *barrier, *got;
            CHECK_OK(mp_simulate(&barrier, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
            o.is_pipelined = true;
            CHECK_OK(mp_simulate(&got, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
            for (uint32_t i = 0; i < got->n_steps; i++) { /* only attention and shared experts may overlap there */
                assert_true(got->steps[i].step_ns <= barrier->steps[i].step_ns);
                assert_true(got->steps[i].step_ns >= barrier->steps[i].dispatch_ns + barrier->steps[i].combine_ns);
            }
            mp_sim_result_free(barrier);
            mp_sim_result_free(got);
        }
        struct mp_sim_options o = {
            .dispatcher = w.setup.dispatcher, .network = MP_NETWORK_SJF, .stage_mode = -1, .is_pipelined = true};
        struct mp_timeline *t;
        assert_int_equal(mp_simulate_timeline(&t, w.plan, w.workload, &w.net.t, &w.model, &o, 0, &err), MP_EUSAGE);
        assert_null(t);
        world_free(&w);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline__clocks_agree_with_a_slow_simulator),
        cmocka_unit_test(test_pipeline__together_is_the_other_reading),
        cmocka_unit_test(test_pipeline__coming_later_helps_nobody_where_ports_are_alone),
        cmocka_unit_test(test_pipeline__steps_agree_with_a_slow_simulator),
        cmocka_unit_test(test_pipeline__is_never_behind_barriers_where_ports_are_alone),
        cmocka_unit_test(test_pipeline__equal_loads_make_no_difference),
        cmocka_unit_test(test_pipeline__threads_do_not_matter),
        cmocka_unit_test(test_pipeline__survives_every_fault),
        cmocka_unit_test(test_pipeline__other_networks_wait_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
