#include "world.h"
#include <moeplan/train.h>

static struct mp_train_work make(const struct world *w, uint32_t step) {
    struct mp_error err = {0};
    struct mp_train_work work;
    const struct mp_train_options options = mp_train_defaults();
    CHECK_OK(mp_train_work_make(&work, &w->setup, step, &options, &err), err);
    return work;
}
static uint64_t most(const uint64_t *ns, uint32_t n) {
    uint64_t x = 0;
    for (uint32_t i = 0; i < n; i++)
        x = ns[i] > x ? ns[i] : x;
    return x;
}

/* All-to-alls take what the network says of their matrices, back as well as there, and the forward pass of a deferred
 * step lies between a rank's own computation and the sum of the slowest parts. */
static void test_train_work__agrees_with_the_forward_step(void **state) {
    (void)state;
    static struct world w;
    static uint64_t back[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        world_make(&w, &r, (struct world_shape){0});
        const uint32_t n = w.net.t.n_gpus;
        struct mp_traffic *t;
        struct mp_net *net;
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        CHECK_OK(mp_net_new(&net, &w.net.t, &err), err);
        struct mp_train_work work = make(&w, 0);
        uint64_t longest = 0;
        for (uint32_t l = 0; l < w.plan->n_layers; l++) {
            const struct mp_train_layer *x = &work.step.layers[l];
            uint64_t there, home, gradients;
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < n; j++)
                    back[i * n + j] = t->combine[j * n + i];
            CHECK_OK(mp_net_concurrent(net, t->dispatch, &there, NULL, &err), err);
            CHECK_OK(mp_net_concurrent(net, t->combine, &home, NULL, &err), err);
            CHECK_OK(mp_net_concurrent(net, back, &gradients, NULL, &err), err);
            assert_int_equal(x->a2a[MP_TRAIN_DISPATCH].ns, there);
            assert_int_equal(x->a2a[MP_TRAIN_COMBINE].ns, home);
            assert_int_equal(x->a2a[MP_TRAIN_DISPATCH_BACK].ns, home);
            assert_int_equal(x->a2a[MP_TRAIN_COMBINE_BACK].ns, gradients);
            bool is_one_full = there == 0;
            for (uint32_t g = 0; g < n; g++) {
                assert_int_equal(x->expert_ns[g],
                                 mp_compute_ns(&w.net.t, g, &w.model, t->active[g], t->padded_rows[g]));
                assert_int_equal(x->expert_back_ns[g], 2 * x->expert_ns[g]);
                assert_true(x->a2a[MP_TRAIN_DISPATCH].end_ppm[g] <= 1000000);
                is_one_full = is_one_full || x->a2a[MP_TRAIN_DISPATCH].end_ppm[g] == 1000000;
            }
            assert_true(is_one_full);
            longest += most(x->attention_ns, n) + most(x->expert_ns, n) + most(x->combine_ns, n) + there + home +
                       2 * work.step.launch_ns;
        }
        struct mp_train_timeline line;
        CHECK_OK(mp_train_run(&line, &work.step, &mp_train_policy_find("deferred")->policy, false, &err), err);
        assert_true(line.forward_ns <= longest);
        for (uint32_t g = 0; g < n; g++) {
            uint64_t own = 0;
            for (uint32_t l = 0; l < w.plan->n_layers; l++)
                own += work.step.layers[l].attention_ns[g] + work.step.layers[l].expert_ns[g] +
                       work.step.layers[l].combine_ns[g];
            assert_true(line.forward_ns >= own);
        }
        mp_train_timeline_free(&line);
        mp_train_work_free(&work);
        mp_traffic_free(t);
        mp_net_free(net);
        world_free(&w);
    }
}

/* Two nodes of two: what all hold is summed in rings of the nodes and rings of like indices, an expert between those
 * that hold it. Worked out by hand. */
static void test_train_work__gradients_by_hand(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(3);
    case_plain(&w.net, 2, 2, 100 * UINT64_C(1000000000), 10 * UINT64_C(1000000000));
    world_make(&w, &r, (struct world_shape){.n_layers = 1, .n_experts = 4, .top_k = 1, .no_replicas = true});
    struct mp_error err = {0};
    const uint32_t slots[4] = {2, 1, 2, 1};
    const uint16_t held[6] = {0, 1, 2, 0, 3, 0}; /* expert 0 on GPUs 0, 2 and 3 */
    struct mp_plan *plan;
    CHECK_OK(mp_plan_new(&plan, 1, 4, 4, slots, &err), err);
    memcpy(plan->layers[0].slot_expert, held, sizeof held);
    memcpy((uint32_t *)plan->gpu_node, (const uint32_t[]){0, 0, 1, 1}, 4 * sizeof(uint32_t));
    plan->n_nodes = 2;
    plan->layers[0].order = MP_NONE;
    mp_plan_free(w.plan);
    w.plan = plan;
    w.setup.plan = plan;
    world_route(&w);
    w.model.weight_bits_x100 = 800; /* gradients of 16 bits: twice the bytes */
    w.model.expert_bytes = 3000000;
    w.model.attention_bytes = 4000000;
    w.model.shared_bytes = 0;
    w.model.dense_bytes = 14000000; /* 10 MB beside the layer's attention */
    struct mp_train_work work = make(&w, 0);
    const struct mp_train_layer *x = &work.step.layers[0];
    /* 28 MB: inside a node 2 * 1/2 of it at 100 GB/s, between nodes 2 * 1/2 of half of it at 10 GB/s. */
    assert_int_equal(x->reduce.bytes, 28000000);
    assert_int_equal(x->reduce.ns, 1400000);
    /* 6 MB over 0 -> 2 -> 3 -> 0: 2 * 2/3 of it at 10 GB/s. */
    assert_int_equal(x->expert_reduce.bytes, 6000000);
    assert_int_equal(x->expert_reduce.ns, 400000 * 2);
    /* Of the ring the way inside node 1 is hardly filled. */
    uint32_t full = 0, slack = 0;
    for (uint32_t p = 0; p < w.net.t.n_resources; p++) {
        full += x->expert_reduce.load_ppm[p] >= 999000;
        slack += x->expert_reduce.load_ppm[p] > 0 && x->expert_reduce.load_ppm[p] <= 100000;
    }
    assert_int_equal(full, 4);
    assert_int_equal(slack, 2);
    mp_train_work_free(&work);
    world_free(&w);
}

/* Experts of 4 bits beside attention of 16: each kind's gradients count its own weights. They were all counted as
 * weights of experts, four times too many of attention. */
static void test_train_work__dense_weights_have_bits_of_their_own(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(3);
    case_plain(&w.net, 2, 2, 100 * UINT64_C(1000000000), 10 * UINT64_C(1000000000));
    world_make(&w, &r, (struct world_shape){.n_layers = 1, .n_experts = 4, .top_k = 1});
    w.model.weight_bits_x100 = 400;
    w.model.dense_bits_x100 = 1600;
    w.model.expert_bytes = 3000000;
    w.model.attention_bytes = 4000000;
    w.model.shared_bytes = 1000000;
    w.model.dense_bytes = 14000000;
    struct mp_train_work work = make(&w, 0);
    assert_int_equal(work.step.layers[0].reduce.bytes, 14000000 + 4 * 1000000);
    const uint64_t experts = work.memory.weight_bytes - 15000000;
    assert_int_equal(experts % 3000000, 0);
    assert_int_equal(work.memory.gradient_bytes, 14000000 + 4 * (experts + 1000000));
    assert_int_equal(work.memory.state_bytes, 6 * 14000000 + 24 * (experts + 1000000));
    mp_train_work_free(&work);
    world_free(&w);
}

/* On the steps it looks at the searched policy is no slower than any named one, for any number of threads the same. */
static void test_train_work__searched_policy_is_never_slower(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 40);
        struct mp_error err = {0};
        world_make(&w, &r, (struct world_shape){.n_layers = 3});
        w.model.dispatch_bytes = w.model.combine_bytes = 200000;
        struct mp_train_work works[2] = {make(&w, 0), make(&w, 1)};
        const struct mp_train_step *const steps[2] = {&works[0].step, &works[1].step};
        struct mp_train_policy found[2];
        uint64_t ns[2], named;
        for (unsigned k = 0; k < 2; k++)
            CHECK_OK(mp_train_search(&found[k], &ns[k], steps, 2, 1 + k, &err), err);
        assert_true(found[0].is_shared == found[1].is_shared && found[0].guard == found[1].guard &&
                    found[0].order == found[1].order && found[0].is_pipelined == found[1].is_pipelined &&
                    found[0].a2a_chunk_bytes == found[1].a2a_chunk_bytes &&
                    found[0].reduce_chunk_bytes == found[1].reduce_chunk_bytes &&
                    found[0].bucket_bytes == found[1].bucket_bytes);
        assert_int_equal(ns[0], ns[1]);
        for (uint32_t i = 0; mp_train_policy_at(i) != NULL; i++) {
            CHECK_OK(mp_train_mean(&named, steps, 2, &mp_train_policy_at(i)->policy, 1, &err), err);
            assert_true(ns[0] <= named);
        }
        for (uint32_t k = 0; k < 2; k++)
            mp_train_work_free(&works[k]);
        world_free(&w);
    }
}

static struct world faulted_world;
static enum mp_status faulted(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_train_work work;
    const struct mp_train_options options = mp_train_defaults();
    const enum mp_status status = mp_train_work_make(&work, &faulted_world.setup, 0, &options, err);
    if (status == MP_OK)
        mp_train_work_free(&work);
    return status;
}
static void test_train_work__survives_faults(void **state) {
    (void)state;
    struct mp_rng r = mp_rng_seed(9);
    world_make(&faulted_world, &r, (struct world_shape){.n_layers = 2, .max_nodes = 2, .max_per_node = 2});
    sweep_faults(faulted, NULL, 1);
    world_free(&faulted_world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_work__agrees_with_the_forward_step),
        cmocka_unit_test(test_train_work__gradients_by_hand),
        cmocka_unit_test(test_train_work__dense_weights_have_bits_of_their_own),
        cmocka_unit_test(test_train_work__searched_policy_is_never_slower),
        cmocka_unit_test(test_train_work__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
