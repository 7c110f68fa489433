#include "world.h"

/* Times of the plan as it stands, one component per entry: what the bounds must not pass. */
static void times_of(const struct world *w, uint32_t step, uint32_t layer, struct mp_layer_bound *out) {
    struct mp_error err = {0};
    struct mp_traffic *t;
    struct mp_net *net;
    uint32_t n = w->net.t.n_gpus;
    const struct mp_dispatcher *d = w->setup.dispatcher;
    CHECK_OK(mp_traffic_new(&t, n, &err), err);
    CHECK_OK(mp_net_new(&net, &w->net.t, &err), err);
    CHECK_OK(mp_traffic_compute(t, &w->setup, step, layer, &err), err);
    *out = (struct mp_layer_bound){0};
    for (uint32_t g = 0; g < n; g++) {
        uint64_t ns = mp_compute_ns(&w->net.t, g, &w->model, t->active[g], t->padded_rows[g]);
        out->compute_ns = ns > out->compute_ns ? ns : out->compute_ns;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t first, second, *o = i == 0 ? &out->dispatch_ns : &out->combine_ns;
        CHECK_OK(mp_net_concurrent(net, i == 0 ? t->dispatch : t->combine, &first, NULL, &err), err);
        CHECK_OK(mp_net_concurrent(net, i == 0 ? t->dispatch2 : t->combine2, &second, NULL, &err), err);
        *o = (d->is_overlapped ? (first > second ? first : second) : first + second) +
             d->n_launches * w->net.t.launch_ns;
    }
    mp_net_free(net);
    mp_traffic_free(t);
}

static void test_bound__is_below_2000_random_placements(void **state) {
    (void)state;
    static struct world w;
    double closest[3] = {0};
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        world_make(&w, &r,
                   (struct world_shape){
                       .n_layers = 1, .n_steps = 1, .is_counts = seed % 5 == 0, .no_replicas = seed % 2 == 0});
        for (int k = 0; k < 4; k++) {
            w.setup.dispatcher = seed % 5 == 0 ? mp_dispatcher_find(k % 2 ? "agrs" : "a2av")
                                               : mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
            w.setup.sources = seed % 5 != 0 && mp_rng_below(&r, 4) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
            world_place(&w, &r);
            struct mp_layer_bound b, is;
            CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
            times_of(&w, 0, 0, &is);
            if (b.dispatch_ns > is.dispatch_ns || b.compute_ns > is.compute_ns || b.combine_ns > is.combine_ns)
                fail_msg("seed %llu: bound %llu %llu %llu, plan %llu %llu %llu", (unsigned long long)seed,
                         (unsigned long long)b.dispatch_ns, (unsigned long long)b.compute_ns,
                         (unsigned long long)b.combine_ns, (unsigned long long)is.dispatch_ns,
                         (unsigned long long)is.compute_ns, (unsigned long long)is.combine_ns);
            double ratio[3] = {(double)b.dispatch_ns / (double)(is.dispatch_ns + 1),
                               (double)b.compute_ns / (double)(is.compute_ns + 1),
                               (double)b.combine_ns / (double)(is.combine_ns + 1)};
            for (int i = 0; i < 3; i++)
                closest[i] = ratio[i] > closest[i] ? ratio[i] : closest[i];
        }
        world_free(&w);
    }
    /* Bounds that are always zero would pass too. */
    for (int i = 0; i < 3; i++)
        assert_true(closest[i] > 0.95);
}

/* What a plan for one step alone cannot go below is the bound of a plan with a slot for every expert on every GPU. */
static void test_bound__of_one_step_is_that_of_all_slots(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_less = 0, n_moving = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        world_make(&w, &r, (struct world_shape){.n_layers = 1, .n_steps = 1, .no_replicas = seed % 2 == 0});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        world_place(&w, &r);
        struct mp_layer_bound b, all;
        struct mp_plan *shape;
        uint32_t slots[64];
        const uint32_t n = w.net.t.n_gpus;
        assert_true(n <= 64);
        for (uint32_t g = 0; g < n; g++)
            slots[g] = w.plan->n_experts > w.plan->n_slots ? w.plan->n_experts : w.plan->n_slots;
        CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
        CHECK_OK(mp_plan_new(&shape, 1, w.plan->n_experts, n, slots, &err), err);
        struct mp_cost_setup setup = w.setup;
        setup.plan = shape;
        CHECK_OK(mp_layer_lower_bound(&all, &setup, 0, 0, &err), err);
        assert_true(b.free_dispatch_ns == all.dispatch_ns && b.free_combine_ns == all.combine_ns);
        assert_true(b.free_compute_ns == all.compute_ns);
        assert_true(b.free_compute_ns <= b.compute_ns && b.free_dispatch_ns <= b.dispatch_ns);
        n_less += b.free_compute_ns < b.compute_ns;
        n_moving += b.free_dispatch_ns > 0;
        mp_plan_free(shape);
        world_free(&w);
    }
    assert_true(n_less > 20 && n_moving > 20);
}

/* Every placement of few experts into few slots: none is below the bound, and some come close. */
static void test_bound__is_below_the_best_of_all_placements(void **state) {
    (void)state;
    static struct world w;
    double sum = 0;
    uint32_t n_cases = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 31337);
        struct mp_error err = {0};
        case_plain(&w.net, 1, 2 + (uint32_t)seed % 2, UINT64_C(50000000000), 0);
        w.net.gpus[0].speed_ppm = seed % 3 == 0 ? 700000 : 1000000;
        world_make(&w, &r, (struct world_shape){.n_layers = 1, .n_experts = 4, .n_steps = 1, .n_slots_extra = 1});
        w.setup.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&r, 5));
        struct mp_layer_bound b, is;
        CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
        uint64_t best = UINT64_MAX, bound = b.dispatch_ns + b.compute_ns + b.combine_ns;
        uint32_t n_slots = w.plan->n_slots, n_all = 1;
        assert_true(n_slots <= 5);
        for (uint32_t s = 0; s < n_slots; s++)
            n_all *= 4;
        w.plan->route = MP_ROUTE_EVEN;
        for (uint32_t code = 0; code < n_all; code++) {
            uint32_t used = 0, x = code;
            for (uint32_t s = 0; s < n_slots; s++, x /= 4) {
                w.plan->layers[0].slot_expert[s] = (uint16_t)(x % 4);
                used |= 1u << x % 4;
            }
            if (used != 15)
                continue;
            world_route(&w);
            times_of(&w, 0, 0, &is);
            uint64_t total = is.dispatch_ns + is.compute_ns + is.combine_ns;
            best = total < best ? total : best;
        }
        assert_true(bound <= best);
        sum += (double)bound / (double)best;
        n_cases++;
        world_free(&w);
    }
    print_message("# bound / best of all placements: %.3f on average\n", sum / n_cases);
    assert_true(sum / n_cases > 0.5);
}

/* Known by hand: 4 experts of 16, 8, 4, 4 tokens on 2 equal GPUs, tile 16, no replicas. */
static void test_bound__known_values(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(1);
    struct mp_error err = {0};
    case_plain(&w.net, 1, 2, UINT64_C(1000000000), 0); /* a byte per ns */
    world_make(&w, &r,
               (struct world_shape){
                   .n_layers = 1, .n_experts = 4, .n_steps = 1, .no_replicas = true, .is_counts = true, .top_k = 1});
    uint64_t *counts = (uint64_t *)w.trace->counts;
    static const uint64_t by_hand[2][4] = {{16, 0, 0, 0}, {0, 8, 4, 4}};
    memcpy(counts, by_hand, sizeof by_hand);
    uint32_t *first = (uint32_t *)w.plan->gpu_first_slot;
    first[1] = 2;
    w.net.types[0].tile_tokens = 1;
    w.net.types[0].kernel_ns = 0;
    w.net.types[0].hbm_bytes_per_s = UINT64_C(1000000000000);
    w.net.types[0].flops_16bit = UINT64_C(1000000000000);
    w.net.types[0].hbm_efficiency_ppm = w.net.types[0].flops_efficiency_ppm = 1000000;
    w.model.expert_bytes = 5000;           /* 5 ns each */
    w.model.expert_flops_per_token = 3000; /* 3 ns each */
    w.model.dispatch_bytes = 10;
    w.model.combine_bytes = 20;
    struct mp_layer_bound b;
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.compute_ns, 48); /* 16 tokens, perfect balance and the heaviest expert agree */
    /* Rank 0 can keep expert 0; rank 1 has three experts for two slots: 4 pairs leave it, 10 bytes each. */
    assert_int_equal(b.dispatch_ns, 40);
    assert_int_equal(b.combine_ns, 80);
    counts[0] = 40; /* the heaviest is alone with 40 */
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.compute_ns, 120);
    w.model.expert_flops_per_token = 1; /* weights: 4 experts on 2 GPUs, 2 each */
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.compute_ns, 10);
    uint64_t step_ns;
    CHECK_OK(mp_step_lower_bound(&step_ns, &w.setup, 0, &err), err);
    assert_int_equal(step_ns, b.dispatch_ns + b.compute_ns + b.combine_ns);
    /* The hot expert's rows from elsewhere pass one port: 24 from rank 1 for expert 0. */
    counts[4] = 24;
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.dispatch_ns, 240);
    world_free(&w);
}

/* Four experts on two nodes of one GPU with two slots: rank 0 needs three, so 8 pairs leave its node, past an uplink
 * of half its NIC. */
static void test_bound__counts_the_uplink_of_a_node(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(1);
    struct mp_error err = {0};
    case_plain(&w.net, 2, 1, UINT64_C(1000000000), UINT64_C(1000000000));
    world_make(&w, &r,
               (struct world_shape){
                   .n_layers = 1, .n_experts = 4, .n_steps = 1, .no_replicas = true, .is_counts = true, .top_k = 1});
    static const uint64_t by_hand[2][4] = {{16, 8, 9, 0}, {0, 0, 0, 1}};
    memcpy((uint64_t *)w.trace->counts, by_hand, sizeof by_hand);
    ((uint32_t *)w.plan->gpu_first_slot)[1] = 2;
    w.model.dispatch_bytes = w.model.combine_bytes = 10;
    struct mp_layer_bound b;
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.dispatch_ns, 80); /* through the NIC; both ports of the GPU together would take 40 */
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t k = 0; k < 2; k++) {
            (k == 0 ? w.net.uplink_out : w.net.uplink_in)[0][v] = w.net.t.n_resources;
            w.net.resources[w.net.t.n_resources++] =
                (struct mp_resource){k == 0 ? 500000000 : 250000000, 0, k == 1, true, v};
        }
    w.net.levels[0].uplink_out = w.net.uplink_out[0];
    w.net.levels[0].uplink_in = w.net.uplink_in[0];
    CHECK_OK(mp_layer_lower_bound(&b, &w.setup, 0, 0, &err), err);
    assert_int_equal(b.dispatch_ns, 160);
    assert_int_equal(b.combine_ns, 320);
    world_free(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound__is_below_2000_random_placements),
        cmocka_unit_test(test_bound__of_one_step_is_that_of_all_slots),
        cmocka_unit_test(test_bound__is_below_the_best_of_all_placements),
        cmocka_unit_test(test_bound__known_values),
        cmocka_unit_test(test_bound__counts_the_uplink_of_a_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
