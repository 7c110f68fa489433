#include "world.h"
#include <math.h>

static struct mp_sim_options options_of(const struct world *w) {
    return (struct mp_sim_options){.dispatcher = w->setup.dispatcher,
                                   .sources = w->setup.sources,
                                   .stage_mode = -1,
                                   .n_threads = 1,
                                   .seed = 7,
                                   .with_bound = true};
}
static struct mp_sim_result *simulate(const struct world *w, const struct mp_sim_options *o) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    CHECK_OK(mp_simulate(&r, w->plan, w->workload, &w->net.t, &w->model, o, &err), err);
    return r;
}

/* The step put together again from its parts. */
static void test_simulate__is_the_sum_of_its_parts(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_fell_back = 0, n_staged = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        world_make(&w, &r, (struct world_shape){0});
        uint32_t n = w.net.t.n_gpus;
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        w.setup.sources = mp_rng_below(&r, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        if (seed % 2 == 0)
            world_rotation(&w);
        w.plan->stage_mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
        w.plan->fallback_ppm = mp_rng_below(&r, 2) ? 1 + (uint32_t)mp_rng_below(&r, 500000) : 0;
        struct mp_sim_options o = options_of(&w);
        struct mp_sim_result *got = simulate(&w, &o);
        struct mp_traffic *t;
        struct mp_net *net;
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        CHECK_OK(mp_net_new(&net, &w.net.t, &err), err);
        assert_int_equal(got->n_steps, w.workload->n_steps);
        for (uint32_t i = 0; i < got->n_steps; i++) {
            struct mp_step_times want = {.other_ns = w.model.other_ns_per_step};
            uint64_t sum_inter = 0;
            for (uint32_t l = 0; l < w.plan->n_layers; l++) {
                uint64_t ns[2], attention = 0, shared = 0, compute = 0;
                CHECK_OK(mp_traffic_compute(t, &w.setup, i, l, &err), err);
                for (int d = 0; d < 2; d++) {
                    uint64_t first, second, launches = w.setup.dispatcher->n_launches;
                    const uint64_t *m = d == 0 ? t->dispatch : t->combine;
                    const enum mp_combine way = d == 1 ? w.plan->layers[l].combine : MP_COMBINE_FORWARD;
                    bool falls_back = false;
                    if (w.plan->layers[l].order != MP_NONE)
                        CHECK_OK(
                            mp_net_falls_back(net, &w.plan->orders[0], way, w.plan->fallback_ppm, m, &falls_back, &err),
                            err);
                    n_fell_back += falls_back;
                    if (w.plan->layers[l].order != MP_NONE && !falls_back) {
                        n_staged++;
                        CHECK_OK(mp_net_staged(net, &w.plan->orders[0], way, w.plan->stage_mode, m, &first, &err), err);
                        launches--;
                    } else
                        CHECK_OK(mp_net_concurrent(net, m, &first, NULL, &err), err);
                    CHECK_OK(mp_net_concurrent(net, d == 0 ? t->dispatch2 : t->combine2, &second, NULL, &err), err);
                    ns[d] = launches * w.net.t.launch_ns + (!w.setup.dispatcher->is_overlapped ? first + second
                                                            : first > second                   ? first
                                                                                               : second);
                }
                for (uint32_t g = 0; g < n; g++) {
                    uint64_t a = mp_attention_ns(&w.net.t, g, &w.model, t->source_rows[g]),
                             s = mp_shared_ns(&w.net.t, g, &w.model, t->source_rows[g]);
                    uint64_t c = mp_compute_ns(&w.net.t, g, &w.model, t->active[g], t->padded_rows[g]);
                    attention = a > attention ? a : attention;
                    shared = s > shared ? s : shared;
                    compute = c > compute ? c : compute;
                }
                want.dispatch_ns += ns[0];
                want.compute_ns += compute;
                want.combine_ns += ns[1];
                want.other_ns += attention * (l == 0 ? 1 + w.model.n_hidden_layers - w.model.n_layers : 1) +
                                 (shared > ns[0] ? shared - ns[0] : 0);
                sum_inter += t->inter_bytes;
            }
            assert_int_equal(got->steps[i].dispatch_ns, want.dispatch_ns);
            assert_int_equal(got->steps[i].compute_ns, want.compute_ns);
            assert_int_equal(got->steps[i].combine_ns, want.combine_ns);
            assert_int_equal(got->steps[i].other_ns, want.other_ns);
            assert_int_equal(got->steps[i].step_ns,
                             want.dispatch_ns + want.compute_ns + want.combine_ns + want.other_ns);
            (void)sum_inter;
        }
        assert_true(got->lower_bound_ns <= got->mean.step_ns);
        assert_true(got->gap >= 0);
        assert_true(got->port_bound_ns <= (double)(got->mean.dispatch_ns + got->mean.combine_ns) + 1);
        assert_true(got->utilization >= 0 && got->utilization <= 1);
        assert_true(got->p50_ns <= got->p95_ns && got->p95_ns <= got->max_ns);
        mp_net_free(net);
        mp_traffic_free(t);
        mp_sim_result_free(got);
        world_free(&w);
    }
    assert_true(n_fell_back > 100 && n_staged > 100);
}

/* Orders between nodes may go below the port bound of their matrix, and the floor still is one. */
static void test_simulate__the_floor_holds_for_orders_between_nodes(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_tried = 0;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 300);
        world_make(&w, &r, (struct world_shape){0});
        uint32_t n_nodes = mp_topology_n_nodes(&w.net.t);
        if (n_nodes > 1) {
            n_tried++;
            uint32_t n_gpus = w.plan->n_gpus;
            w.plan->n_gpus = n_nodes; /* a rotation of nodes */
            world_rotation(&w);
            w.plan->n_gpus = n_gpus;
            ((struct mp_order *)(uintptr_t)w.plan->orders)->between_nodes = true;
            w.plan->fallback_ppm = (uint32_t)mp_rng_below(&r, 2) * 1000;
            struct mp_sim_options o = options_of(&w);
            struct mp_sim_result *got = simulate(&w, &o);
            o.network = MP_NETWORK_PORT_BOUND;
            struct mp_sim_result *floor = simulate(&w, &o);
            for (uint32_t i = 0; i < got->n_steps; i++) {
                assert_true(floor->steps[i].dispatch_ns <= got->steps[i].dispatch_ns);
                assert_true(floor->steps[i].combine_ns <= got->steps[i].combine_ns);
            }
            assert_true(got->port_bound_ns <= (double)(got->mean.dispatch_ns + got->mean.combine_ns) + 1);
            mp_sim_result_free(got);
            mp_sim_result_free(floor);
        }
        world_free(&w);
    }
    assert_true(n_tried > 50);
}

/* A target that cannot cap rates runs the same stages at whatever rate the ports allow. */
static void test_simulate__without_pacing_caps_do_not_count(void **state) {
    (void)state;
    static struct world w;
    bool any = false;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 70);
        world_make(&w, &r, (struct world_shape){0});
        world_rotation(&w);
        struct mp_order *order = (struct mp_order *)(uintptr_t)w.plan->orders;
        struct mp_sim_options o = options_of(&w);
        struct mp_sim_result *without = simulate(&w, &o);
        order->port_bytes_per_s = 1000000000;
        struct mp_sim_result *not_paced = simulate(&w, &o);
        w.plan->is_paced = true;
        struct mp_sim_result *capped = simulate(&w, &o);
        o.no_pacing = true;
        struct mp_sim_result *free_again = simulate(&w, &o);
        assert_int_equal(free_again->mean.step_ns, without->mean.step_ns);
        assert_int_equal(not_paced->mean.step_ns, without->mean.step_ns);
        mp_sim_result_free(not_paced);
        any = any || capped->mean.step_ns > without->mean.step_ns; /* the caps did count */
        mp_sim_result_free(without);
        mp_sim_result_free(capped);
        mp_sim_result_free(free_again);
        world_free(&w);
    }
    assert_true(any);
}

static void test_simulate__threads_do_not_matter(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 10);
        world_make(&w, &r, (struct world_shape){.n_steps = 13});
        world_rotation(&w);
        struct mp_sim_options o = options_of(&w);
        for (int network = 0; network < 5; network++) {
            o.network = (enum mp_network_mode)network;
            o.n_threads = 1;
            struct mp_sim_result *a = simulate(&w, &o);
            static const unsigned threads[] = {2, 3, 8};
            for (int k = 0; k < 3; k++) {
                o.n_threads = threads[k];
                struct mp_sim_result *b = simulate(&w, &o);
                assert_memory_equal(a->steps, b->steps, a->n_steps * sizeof *a->steps);
                assert_memory_equal(a->gpu_rows, b->gpu_rows, (size_t)a->n_layers * a->n_gpus * sizeof *a->gpu_rows);
                assert_memory_equal(a->layer_ns, b->layer_ns, a->n_layers * sizeof *a->layer_ns);
                assert_memory_equal(a->layer_imbalance, b->layer_imbalance, a->n_layers * sizeof *a->layer_imbalance);
                assert_memory_equal(&a->balance, &b->balance, sizeof a->balance);
                assert_memory_equal(&a->utilization, &b->utilization, sizeof(double));
                assert_int_equal(a->lower_bound_ns, b->lower_bound_ns);
                assert_int_equal(a->moe_ns, b->moe_ns);
                mp_sim_result_free(b);
            }
            mp_sim_result_free(a);
        }
        world_free(&w);
    }
}

static void test_simulate__picks_steps_evenly_and_ranks_them(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(2);
    world_make(&w, &r, (struct world_shape){.n_steps = 20});
    struct mp_sim_options o = options_of(&w);
    struct mp_sim_result *all = simulate(&w, &o);
    uint64_t sorted[20], sum = 0;
    for (int i = 0; i < 20; i++) {
        sorted[i] = all->steps[i].step_ns;
        sum += sorted[i];
    }
    for (int i = 0; i < 20; i++)
        for (int j = i + 1; j < 20; j++)
            if (sorted[j] < sorted[i]) {
                uint64_t swap = sorted[i];
                sorted[i] = sorted[j];
                sorted[j] = swap;
            }
    assert_int_equal(all->p50_ns, sorted[9]);
    assert_int_equal(all->p95_ns, sorted[18]);
    assert_int_equal(all->max_ns, sorted[19]);
    assert_int_equal(all->mean.step_ns, (sum + 10) / 20);
    assert_true(mp_sim_objective(all, MP_OBJECTIVE_STEP) == (double)all->mean.step_ns);
    assert_true(mp_sim_objective(all, MP_OBJECTIVE_P95) == (double)all->p95_ns);
    assert_true(mp_sim_objective(all, MP_OBJECTIVE_PEAK) == all->balance.peak_rows);
    assert_true(mp_sim_objective(all, MP_OBJECTIVE_INTER) == all->inter_bytes);
    o.n_steps_max = 3;
    struct mp_sim_result *some = simulate(&w, &o);
    static const uint64_t want[] = {3, 10, 16}; /* floor((2i + 1) * 20 / 6) */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(some->step_of[i], want[i]);
        assert_int_equal(some->steps[i].step_ns, all->steps[want[i]].step_ns);
    }
    mp_sim_result_free(some);
    mp_sim_result_free(all);
    world_free(&w);
}

/* One step, one layer, two GPUs; every number worked out on paper. */
static void test_simulate__balance_and_memory_by_hand(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(1);
    case_plain(&w.net, 1, 2, UINT64_C(1000000000), 0);
    world_make(&w, &r,
               (struct world_shape){
                   .n_layers = 1, .n_experts = 4, .n_steps = 1, .no_replicas = true, .is_counts = true, .top_k = 1});
    static const uint64_t counts[2][4] = {{16, 0, 0, 2}, {0, 8, 4, 0}};
    memcpy((uint64_t *)w.trace->counts, counts, sizeof counts);
    ((uint32_t *)w.plan->gpu_first_slot)[1] = 2;
    for (uint32_t s = 0; s < 4; s++) {
        w.plan->layers[0].slot_expert[s] = (uint16_t)s;
        ((uint32_t *)w.plan->slot_gpu)[s] = s / 2;
    }
    world_route(&w);
    struct mp_sim_options o = options_of(&w);
    struct mp_sim_result *x = simulate(&w, &o);
    const struct mp_balance *b = &x->balance; /* rows 24 and 6, slots 16 8 4 2 */
    assert_true(fabs(b->max_over_mean - 1.6) < 1e-12);
    assert_true(fabs(b->max_over_mean_worst - 1.6) < 1e-12);
    assert_true(fabs(b->mean_over_max - (15 + 1e-5) / (24 + 1e-5)) < 1e-12);
    assert_true(fabs(b->sum_mean_over_sum_max - 0.625) < 1e-12);
    assert_true(fabs(b->excess - 0.6) < 1e-12);
    assert_true(fabs(b->flashlb - 48.01 / 30.01) < 1e-12);
    assert_true(fabs(b->min_over_max_slot - 0.125) < 1e-12);
    assert_true(fabs(b->totals_max_over_mean - 1.6) < 1e-12);
    assert_true(b->peak_rows == 24);
    assert_true(x->gpu_rows[0] == 24 && x->gpu_rows[1] == 6);
    assert_true(x->copies_expert == 8 + 2);
    assert_int_equal(x->memory_bytes_max, 2 * w.model.expert_bytes + w.model.shared_bytes + w.model.dense_bytes);
    assert_int_equal(x->kv_tokens_min, (w.net.types[0].memory_bytes - x->memory_bytes_max) / 1000);
    uint64_t of_recorded = x->memory_bytes_max;
    mp_sim_result_free(x);
    uint32_t n_layers = w.model.n_layers; /* layers that are not recorded take memory too */
    w.model.n_layers = 7;
    x = simulate(&w, &o);
    assert_int_equal(x->memory_bytes_max, 7 * (of_recorded - w.model.dense_bytes) + w.model.dense_bytes);
    mp_sim_result_free(x);
    w.model.n_layers = n_layers;
    w.net.types[0].memory_bytes = w.net.types[1].memory_bytes = 5;
    x = simulate(&w, &o);
    assert_int_equal(x->kv_tokens_min, 0);
    mp_sim_result_free(x);
    struct mp_error err = {0};
    o.dispatcher = NULL;
    assert_int_equal(mp_simulate(&x, w.plan, w.workload, &w.net.t, &w.model, &o, &err), MP_EUSAGE);
    assert_null(x);
    mp_sim_result_free(NULL);
    world_free(&w);
}

/* A step of c times the bytes, without latency, launches and computation, takes c times as long. */
static void test_simulate__scales_with_bytes(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 3);
        world_make(&w, &r, (struct world_shape){.n_layers = 1});
        w.net.t.launch_ns = w.net.t.stage_launch_ns = 0;
        for (uint32_t l = 0; l < w.net.t.n_levels; l++)
            w.net.levels[l].latency_ns = 0;
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        struct mp_sim_options o = options_of(&w);
        struct mp_sim_result *a = simulate(&w, &o);
        w.model.dispatch_bytes *= 1000;
        w.model.combine_bytes *= 1000;
        struct mp_sim_result *b = simulate(&w, &o);
        for (uint32_t i = 0; i < a->n_steps; i++) {
            assert_true(b->steps[i].dispatch_ns <= a->steps[i].dispatch_ns * 1000 + 2);
            assert_true(b->steps[i].dispatch_ns + 2000 >= a->steps[i].dispatch_ns * 1000);
            assert_int_equal(a->steps[i].compute_ns, b->steps[i].compute_ns);
        }
        assert_true(b->inter_bytes == a->inter_bytes * 1000);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        world_free(&w);
    }
}

/* Routing once before a dispatch, and once more before a second phase that does not overlap: behind the first phase
 * under hsc, as far as that lasts. Nothing else of the step changes. */
static void test_simulate__routing_waits_or_hides(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_hidden = 0, n_partly = 0, n_second = 0;
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 70);
        struct mp_error err = {0};
        struct mp_traffic *t;
        struct mp_net *net;
        world_make(&w, &r, (struct world_shape){.max_nodes = 3});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        if (seed % 2 == 0)
            w.setup.dispatcher = mp_dispatcher_find("hsc");
        bool is_hsc = w.setup.dispatcher->hides_routing;
        struct mp_sim_options o = options_of(&w);
        struct mp_sim_result *without = simulate(&w, &o);
        CHECK_OK(mp_traffic_new(&t, w.plan->n_gpus, &err), err);
        CHECK_OK(mp_net_new(&net, &w.net.t, &err), err);
        for (uint32_t k = 0; k < 3; k++) {
            o.routing_ns = (uint64_t[]){1, 3000, 1000000000}[k];
            struct mp_sim_result *with = simulate(&w, &o);
            for (uint32_t i = 0; i < with->n_steps; i++) {
                uint64_t more = 0, first;
                for (uint32_t l = 0; w.plan->n_gpus > 1 && l < w.plan->n_layers; l++) {
                    CHECK_OK(mp_traffic_compute(t, &w.setup, i, l, &err), err);
                    CHECK_OK(mp_net_concurrent(net, t->dispatch, &first, NULL, &err), err);
                    const bool has_second = t->has_second && !w.setup.dispatcher->is_overlapped;
                    const uint64_t second = !has_second            ? 0
                                            : !is_hsc              ? o.routing_ns
                                            : first < o.routing_ns ? o.routing_ns - first
                                                                   : 0;
                    more += o.routing_ns + second;
                    n_second += has_second;
                    n_hidden += has_second && second == 0;
                    n_partly += has_second && second > 0 && second < o.routing_ns;
                }
                assert_int_equal(with->steps[i].dispatch_ns, without->steps[i].dispatch_ns + more);
                assert_int_equal(with->steps[i].combine_ns, without->steps[i].combine_ns);
                assert_int_equal(with->steps[i].compute_ns, without->steps[i].compute_ns);
                assert_true(with->steps[i].other_ns <= without->steps[i].other_ns); /* shared experts run beside */
            }
            mp_sim_result_free(with);
        }
        mp_net_free(net);
        mp_traffic_free(t);
        mp_sim_result_free(without);
        world_free(&w);
    }
    assert_true(n_second > 100 && n_hidden > 50 && n_partly > 50);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct world *w = ctx;
    struct mp_sim_options o = options_of(w);
    o.n_threads = 2;
    struct mp_sim_result *r;
    enum mp_status status = mp_simulate(&r, w->plan, w->workload, &w->net.t, &w->model, &o, err);
    mp_sim_result_free(r);
    return status;
}
static enum mp_status flow_alone(void *ctx, struct mp_error *err) {
    const struct world *w = ctx;
    struct mp_sim_options o = options_of(w);
    struct mp_sim_result *r;
    enum mp_status status = mp_simulate(&r, w->plan, w->workload, &w->net.t, &w->model, &o, err);
    mp_sim_result_free(r);
    return status;
}
static void test_simulate__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(6);
    world_make(&w, &r, (struct world_shape){0});
    world_rotation(&w);
    sweep_faults(flow_alone, &w, 1);
    struct mp_error err = {0};
    CHECK_OK(flow(&w, &err), err);
    world_free(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulate__is_the_sum_of_its_parts),
        cmocka_unit_test(test_simulate__the_floor_holds_for_orders_between_nodes),
        cmocka_unit_test(test_simulate__without_pacing_caps_do_not_count),
        cmocka_unit_test(test_simulate__threads_do_not_matter),
        cmocka_unit_test(test_simulate__picks_steps_evenly_and_ranks_them),
        cmocka_unit_test(test_simulate__balance_and_memory_by_hand),
        cmocka_unit_test(test_simulate__scales_with_bytes),
        cmocka_unit_test(test_simulate__routing_waits_or_hides),
        cmocka_unit_test(test_simulate__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
