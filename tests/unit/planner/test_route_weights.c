/* GRACE's weights for replicas: equation 4 by hand, both readings, and what holds for any plan. */
#include "support.h"

#include "predicted.h"
#include <moeplan/base.h>

#define MAX_E 64u
#define MAX_G 16u

struct hand {
    struct mp_topology topology;
    struct mp_gpu gpus[MAX_G];
    struct mp_gpu_type type;
    struct mp_model model;
    struct mp_workload workload;
    struct mp_problem problem;
    uint64_t load[2 * MAX_E];
    struct mp_plan *plan;
};

static void make_hand(struct hand *h, uint32_t n_layers, uint32_t n_experts, uint32_t n_gpus, uint32_t slots_per_gpu) {
    struct mp_error err = {0};
    uint32_t slots[MAX_G];
    *h = (struct hand){.type = {.name = "test",
                                .hbm_bytes_per_s = 1000000000000,
                                .flops_16bit = 1000000000000000,
                                .hbm_efficiency_ppm = 1000000,
                                .flops_efficiency_ppm = 1000000,
                                .kernel_ns = 1000,
                                .tile_tokens = 1}};
    for (uint32_t g = 0; g < n_gpus; g++) {
        h->gpus[g].speed_ppm = 1000000;
        slots[g] = slots_per_gpu;
    }
    h->topology =
        (struct mp_topology){.name = "hand", .n_gpus = n_gpus, .n_types = 1, .gpus = h->gpus, .types = &h->type};
    h->model = (struct mp_model){.name = "hand",
                                 .n_layers = n_layers,
                                 .n_experts = n_experts,
                                 .top_k = 1,
                                 .expert_bytes = 1000,
                                 .expert_flops_per_token = 1000000000};
    h->problem = (struct mp_problem){
        .workload = &h->workload, .topology = &h->topology, .model = &h->model, .load = h->load, .n_threads = 1};
    CHECK_OK(mp_plan_new(&h->plan, n_layers, n_experts, n_gpus, slots, &err), err);
}

static void weigh(struct hand *h, bool as_printed) {
    struct mp_error err = {0};
    struct mp_arena *scratch = mp_arena_new();
    struct mp_draft draft = {.plan = h->plan};
    assert_non_null(scratch);
    CHECK_OK(mp_predicted_weights(&h->problem, as_printed, scratch, &draft, &err), err);
    mp_arena_free(scratch);
}

static void fill(struct hand *h, uint32_t layer, const int *experts) {
    for (uint32_t s = 0; s < h->plan->n_slots; s++)
        h->plan->layers[layer].slot_expert[s] = experts[s] < 0 ? MP_NO_EXPERT : (uint16_t)experts[s];
}

/* GRACE's own replication: group {0, 1} of load 100 on GPU 0, of which expert 0 with 60 is copied to the idlest GPU 1.
 * By its sentence W_p = 60 / 2: 100 - 60 + 30 = 70 on GPU 0, 20 + 30 = 50 on GPU 1. As printed W_p = 100 / 2: 90 and
 * 70. */
static void test_route_weights__equation_4_by_hand(void **state) {
    (void)state;
    static const int experts[] = {0, 1, -1, 2, 0, -1, 3, -1, -1};
    static const uint64_t load[] = {60, 40, 20, 50};
    struct hand h;
    make_hand(&h, 1, 4, 3, 3);
    fill(&h, 0, experts);
    memcpy(h.load, load, sizeof load);
    weigh(&h, false);
    static const uint32_t by_sentence[] = {714, 1000, 0, 1000, 1000, 0, 1000, 0, 0};
    assert_memory_equal(h.plan->layers[0].slot_weight, by_sentence, sizeof by_sentence);
    weigh(&h, true);
    static const uint32_t printed[] = {778, 1000, 0, 1000, 1000, 0, 1000, 0, 0};
    assert_memory_equal(h.plan->layers[0].slot_weight, printed, sizeof printed);
    mp_plan_free(h.plan);
}

/* Two hot experts of GPU 0, 30 and 30 of 100, copied to the two idlest: n = 2, three instances. By its sentence
 * W_p = 60 / 3: 60 on GPU 0, 30 and 40 on the others; as printed 100 / 3, once for each GPU however many experts it
 * got: 40 + 33.3, 10 + 33.3, 20 + 33.3. */
static void test_route_weights__two_hot_experts_by_hand(void **state) {
    (void)state;
    static const int experts[] = {0, 1, 2, 3, 0, 1, 4, 1, 0};
    static const uint64_t load[] = {30, 30, 40, 10, 20};
    struct hand h;
    make_hand(&h, 1, 5, 3, 3);
    fill(&h, 0, experts);
    memcpy(h.load, load, sizeof load);
    weigh(&h, false); /* 30 : 60 : 40 upside down */
    static const uint32_t by_sentence[] = {500, 500, 1000, 1000, 1000, 1000, 1000, 750, 750};
    assert_memory_equal(h.plan->layers[0].slot_weight, by_sentence, sizeof by_sentence);
    weigh(&h, true); /* 43.3 : 73.3 : 53.3 */
    static const uint32_t printed[] = {591, 591, 1000, 1000, 1000, 1000, 1000, 812, 812};
    for (uint32_t s = 0; s < 9; s++)
        assert_in_range(h.plan->layers[0].slot_weight[s], printed[s] - 1, printed[s] + 1);
    mp_plan_free(h.plan);
}

static void test_route_weights__a_slow_gpu_gets_less(void **state) {
    (void)state;
    static const int experts[] = {0, 1, 0, 2};
    struct hand h;
    make_hand(&h, 1, 3, 2, 2);
    fill(&h, 0, experts);
    h.load[0] = h.load[1] = h.load[2] = 1000000;
    h.gpus[1].speed_ppm = 250000;
    weigh(&h, false);
    static const uint32_t expected[] = {1000, 1000, 250, 1000};
    assert_memory_equal(h.plan->layers[0].slot_weight, expected, sizeof expected);
    mp_plan_free(h.plan);
}

/* A million times the load is the same weights; and weights are 1 to 1,000 in filled slots, 0 in the others, also where
 * nobody uses an expert. */
static void test_route_weights__any_plan(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    uint32_t n_unlike = 0;
    for (int round = 0; round < 400; round++) {
        uint32_t n_gpus = 1 + (uint32_t)mp_rng_below(&rng, 8), n_experts = 1 + (uint32_t)mp_rng_below(&rng, 20),
                 before[2][256];
        bool as_printed = mp_rng_below(&rng, 2);
        struct hand h;
        make_hand(&h, 2, n_experts, n_gpus, (n_experts + n_gpus - 1) / n_gpus + 2);
        for (uint32_t l = 0; l < 2; l++) {
            for (uint32_t s = 0; s < h.plan->n_slots; s++)
                h.plan->layers[l].slot_expert[s] = s < n_experts ? (uint16_t)s
                                                   : mp_rng_below(&rng, 4) == 0
                                                       ? MP_NO_EXPERT
                                                       : (uint16_t)mp_rng_below(&rng, n_experts);
            for (uint32_t e = 0; e < n_experts; e++)
                h.load[l * n_experts + e] = mp_rng_below(&rng, 3) ? mp_rng_below(&rng, 100000) * 1000 : 0;
        }
        weigh(&h, as_printed);
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t s = 0; s < h.plan->n_slots; s++) {
                uint32_t weight = before[l][s] = h.plan->layers[l].slot_weight[s], best = 0;
                uint16_t e = h.plan->layers[l].slot_expert[s];
                assert_in_range(weight, e != MP_NO_EXPERT, e != MP_NO_EXPERT ? MP_PREDICTED_WEIGHT : 0);
                for (uint32_t k = 0; k < h.plan->n_slots; k++)
                    if (h.plan->layers[l].slot_expert[k] == e && h.plan->layers[l].slot_weight[k] > best)
                        best = h.plan->layers[l].slot_weight[k];
                if (e != MP_NO_EXPERT)
                    assert_int_equal(best, MP_PREDICTED_WEIGHT);
                n_unlike += weight > 0 && weight < MP_PREDICTED_WEIGHT;
            }
        for (uint32_t i = 0; i < 2 * n_experts; i++)
            h.load[i] *= 1000000;
        weigh(&h, as_printed);
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t s = 0; s < h.plan->n_slots; s++)
                assert_in_range(h.plan->layers[l].slot_weight[s], before[l][s] - (before[l][s] > 1), before[l][s] + 1);
        mp_plan_free(h.plan);
    }
    assert_true(n_unlike > 1000);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct hand *h = ctx;
    struct mp_arena *scratch = mp_arena_new();
    struct mp_draft draft = {.plan = h->plan};
    if (scratch == NULL)
        return mp_nomem(err, "testing");
    enum mp_status status = mp_predicted_weights(&h->problem, true, scratch, &draft, err);
    mp_arena_free(scratch);
    return status;
}

static void test_route_weights__survives_faults(void **state) {
    (void)state;
    static const int experts[] = {0, 1, 0, 2};
    struct hand h;
    make_hand(&h, 1, 3, 2, 2);
    fill(&h, 0, experts);
    sweep_faults(flow, &h, 1);
    mp_plan_free(h.plan);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route_weights__equation_4_by_hand),
        cmocka_unit_test(test_route_weights__two_hot_experts_by_hand),
        cmocka_unit_test(test_route_weights__a_slow_gpu_gets_less),
        cmocka_unit_test(test_route_weights__any_plan),
        cmocka_unit_test(test_route_weights__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
