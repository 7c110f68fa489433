#include "random_plan.h"
#include "support.h"

static void test_plan__new_is_empty_and_consistent(void **state) {
    (void)state;
    struct mp_error err = {0};
    const uint32_t slots[3] = {2, 0, 3};
    struct mp_plan *p;
    CHECK_OK(mp_plan_new(&p, 2, 4, 3, slots, &err), err);
    CHECK_OK(mp_plan_check(p, &err), err);
    assert_int_equal(p->n_slots, 5);
    const uint32_t gpu[5] = {0, 0, 2, 2, 2};
    for (uint32_t s = 0; s < 5; s++) {
        assert_int_equal(mp_plan_slot_gpu(p, s), gpu[s]);
        assert_int_equal(p->layers[1].slot_expert[s], MP_NO_EXPERT);
    }
    assert_int_equal(p->layers[1].order, MP_NONE);
    mp_plan_free(p);
    mp_plan_free(NULL);
}

static void test_plan__new_refuses_impossible_shapes(void **state) {
    (void)state;
    const uint32_t none[2] = {0, 0}, many[2] = {UINT32_MAX, UINT32_MAX}, some[2] = {1, 1};
    const struct {
        uint32_t n_layers, n_experts, n_gpus;
        const uint32_t *slots;
    } cases[] = {{0, 1, 2, some},
                 {1, 0, 2, some},
                 {1, 1, 0, some},
                 {1, 1, 2, none},
                 {1, 1, 2, many},
                 {MP_MAX_LAYERS + 1, 1, 2, some},
                 {1, MP_MAX_EXPERTS + 1, 2, some},
                 {1, 1, MP_MAX_GPUS + 1, some}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        struct mp_plan *p;
        assert_int_equal(mp_plan_new(&p, cases[i].n_layers, cases[i].n_experts, cases[i].n_gpus, cases[i].slots, &err),
                         MP_EUSAGE);
        assert_null(p);
        assert_true(err.message[0] != '\0');
    }
}

/* Every index that other code follows: one past its end must be found. */
static void test_plan__check_finds_every_wild_index(void **state) {
    (void)state;
    enum { CASES = 15 };
    for (int i = 0; i < CASES; i++) {
        struct mp_rng rng = mp_rng_seed(7);
        struct random_plan_shape shape = {2, 5, 4, 2, 2, true, true};
        struct mp_plan *p = random_plan(&rng, &shape);
        uint32_t *first = (void *)(uintptr_t)p->gpu_first_slot, *node = (void *)(uintptr_t)p->gpu_node,
                 *gpu = (void *)(uintptr_t)p->slot_gpu;
        struct mp_order *order = (void *)(uintptr_t)p->orders;
        struct mp_transfer *t = (void *)(uintptr_t)order->stages[0].transfers;
        struct mp_colocation pair = {0, 0, 0, p->n_gpus};
        struct mp_train_bucket bucket = {.last_layer = p->n_layers};
        struct mp_plan_sample sample = {.step = (uint32_t)p->n_planning_steps};
        switch (i) {
        case 0:
            p->n_slots--;
            break;
        case 1:
            first[1] = first[2] + 1;
            break;
        case 2:
            node[3] = p->n_nodes;
            break;
        case 3:
            gpu[0] = 1;
            break;
        case 4:
            p->layers[1].slot_expert[3] = (uint16_t)p->n_experts;
            break;
        case 5:
            p->layers[0].order = p->n_orders;
            break;
        case 6:
            order->unit = 0;
            break;
        case 7:
            t->dst = (uint16_t)p->n_gpus;
            break;
        case 8:
            p->colocations = &pair;
            p->n_colocations = 1;
            break;
        case 9:
            p->training = (struct mp_plan_training){.is_present = true, .policy = {.buckets = &bucket, .n_buckets = 1}};
            break;
        case 10:
            p->samples = &sample;
            p->n_samples = 1;
            break;
        case 11:
            t->width = 0;
            break;
        case 12:
            t->dst = (uint16_t)p->n_nodes; /* a GPU, and no node */
            order->between_nodes = true;
            break;
        case 13:
            order->has_flush = true;
            order->n_stages = 0;
            break;
        default:
            p->route = MP_N_ROUTE_RULES;
            break;
        }
        struct mp_error err = {0};
        assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
        assert_true(strncmp(err.message, "plan: ", 6) == 0);
        mp_plan_free(p);
    }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_plan *p;
    enum mp_status status = mp_plan_new(&p, 3, 4, 2, ctx, err);
    mp_plan_free(p);
    return status;
}

static void test_plan__survives_faults(void **state) {
    (void)state;
    uint32_t slots[2] = {2, 3};
    sweep_faults(flow, slots, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan__new_is_empty_and_consistent),
        cmocka_unit_test(test_plan__new_refuses_impossible_shapes),
        cmocka_unit_test(test_plan__check_finds_every_wild_index),
        cmocka_unit_test(test_plan__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
