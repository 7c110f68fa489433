/* Metamorphic properties of the whole way from trace to simulated plan: what must not change, or change in proportion,
 * when the input is renamed, reordered, scaled, split or joined. */
#include "support.h"
#include <moeplan/base.h>
#include <math.h>
#include <moeplan/sim.h>

enum { LAYERS = 3, EXPERTS = 12, TOP_K = 2, GPUS = 4, REQUESTS = 16, LENGTH = 5, CASES = 400 };

/* A small world that can be renamed and reordered before it becomes a trace and a plan. */
struct world {
    uint16_t ids[REQUESTS][LENGTH][LAYERS][TOP_K];
    uint32_t source[REQUESTS];
    uint16_t gpu_of[LAYERS][EXPERTS]; /* one copy each, EXPERTS / GPUS per GPU */
};

static void random_world(struct world *w, struct mp_rng *rng) {
    for (uint32_t r = 0; r < REQUESTS; r++) {
        w->source[r] = r % GPUS;
        for (uint32_t t = 0; t < LENGTH; t++)
            for (uint32_t l = 0; l < LAYERS; l++) {
                w->ids[r][t][l][0] = (uint16_t)(mp_rng_below(rng, 3) == 0 ? 0 : mp_rng_below(rng, EXPERTS));
                do
                    w->ids[r][t][l][1] = (uint16_t)mp_rng_below(rng, EXPERTS);
                while (w->ids[r][t][l][1] == w->ids[r][t][l][0]);
            }
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t order[EXPERTS];
        for (uint32_t e = 0; e < EXPERTS; e++)
            order[e] = e;
        mp_rng_shuffle(rng, order, EXPERTS);
        for (uint32_t i = 0; i < EXPERTS; i++)
            w->gpu_of[l][order[i]] = (uint16_t)(i / (EXPERTS / GPUS));
    }
}

static struct mp_trace *world_trace(const struct world *w, uint32_t first, uint32_t n, uint32_t copies) {
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "test",
                                 .is_time_ordered = true,
                                 .n_layers = LAYERS,
                                 .n_experts = EXPERTS,
                                 .top_k = TOP_K};
    struct mp_trace_builder *b;
    struct mp_error err = {0};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t r = first; r < first + n; r++)
        for (uint32_t c = 0; c < copies; c++) {
            struct mp_request request = {.id = r * copies + c, .source = w->source[r], .category = MP_NONE};
            CHECK_OK(mp_trace_builder_request(b, &request, &err), err);
            for (uint32_t t = 0; t < LENGTH; t++)
                CHECK_OK(mp_trace_builder_row(b, &w->ids[r][t][0][0], NULL, &err), err);
        }
    struct mp_trace *trace;
    static const char zeros[65] = "0000000000000000000000000000000000000000000000000000000000000000";
    CHECK_OK(mp_trace_builder_finish(b, zeros, &trace, &err), err);
    return trace;
}

static struct mp_plan *world_plan(const struct world *w) {
    uint32_t slots[GPUS], fill[GPUS];
    for (uint32_t g = 0; g < GPUS; g++)
        slots[g] = EXPERTS / GPUS;
    struct mp_plan *plan;
    struct mp_error err = {0};
    CHECK_OK(mp_plan_new(&plan, LAYERS, EXPERTS, GPUS, slots, &err), err);
    for (uint32_t l = 0; l < LAYERS; l++) {
        memset(fill, 0, sizeof fill);
        for (uint32_t e = 0; e < EXPERTS; e++) {
            uint32_t g = w->gpu_of[l][e];
            plan->layers[l].slot_expert[plan->gpu_first_slot[g] + fill[g]++] = (uint16_t)e;
        }
    }
    return plan;
}

/* Means per step are quotients of whole numbers: equal up to the rounding of the division. */
static void assert_close(double a, double b) { assert_true(fabs(a - b) <= 1e-12 * (fabs(a) + fabs(b))); }

static const char *const topology_texts[] = {"4:h100", "2x2:h100", "2x2:l40s"};

/* Simulates requests [first, first + n) of the world, each `copies` times, all of them concurrently. */
static struct mp_sim_result *simulate(const struct world *w, uint32_t first, uint32_t n, uint32_t copies,
                                      const struct mp_topology *topology, const struct mp_model *model,
                                      const char *dispatcher, struct mp_trace **kept_trace) {
    struct mp_error err = {0};
    struct mp_trace *trace = world_trace(w, first, n, copies);
    struct mp_plan *plan = world_plan(w);
    struct mp_part planning, held_out;
    struct mp_split split = {.kind = MP_SPLIT_NONE};
    struct mp_batching batching = {.phase = MP_PHASE_DECODE, .n_ranks = GPUS, .batch_per_rank = n * copies / GPUS};
    struct mp_workload *workload;
    struct mp_sim_result *result;
    struct mp_sim_options options = {.dispatcher = mp_dispatcher_find(dispatcher), .stage_mode = -1, .n_threads = 1};
    CHECK_OK(mp_part_split(&planning, &held_out, trace, &split, &err), err);
    CHECK_OK(mp_workload_build(&workload, &planning, &batching, &err), err);
    CHECK_OK(mp_simulate(&result, plan, workload, topology, model, &options, &err), err);
    assert_int_equal(result->n_steps, LENGTH);
    mp_workload_free(workload);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    mp_plan_free(plan);
    if (kept_trace != NULL)
        *kept_trace = trace;
    else
        mp_trace_free(trace);
    return result;
}

static void assert_same(const struct mp_sim_result *a, const struct mp_sim_result *b) {
    assert_int_equal(a->n_steps, b->n_steps);
    for (uint32_t s = 0; s < a->n_steps; s++) {
        assert_int_equal(a->steps[s].step_ns, b->steps[s].step_ns);
        assert_int_equal(a->steps[s].dispatch_ns, b->steps[s].dispatch_ns);
        assert_int_equal(a->steps[s].compute_ns, b->steps[s].compute_ns);
        assert_int_equal(a->steps[s].combine_ns, b->steps[s].combine_ns);
    }
    assert_true(a->intra_bytes == b->intra_bytes && a->inter_bytes == b->inter_bytes);
    assert_true(a->copies_expert == b->copies_expert && a->copies_gpu == b->copies_gpu &&
                a->copies_node == b->copies_node);
}

struct setting {
    struct mp_topology *topology;
    struct mp_model *model;
    const char *dispatcher;
};
static void setting_open(struct setting *s, uint32_t i) {
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};
    struct mp_error err = {0};
    CHECK_OK(mp_topology_load(&s->topology, topology_texts[i % 3], &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&s->model, NULL, LAYERS, EXPERTS, TOP_K, &err), err);
    s->dispatcher = dispatchers[i % 5];
}
static void setting_close(struct setting *s) {
    mp_topology_free(s->topology);
    mp_model_free(s->model);
}

static void test_metamorphic__experts_renamed(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    for (uint32_t i = 0; i < CASES; i++) {
        struct setting s;
        struct world w, renamed;
        setting_open(&s, i);
        random_world(&w, &rng);
        renamed = w;
        for (uint32_t l = 0; l < LAYERS; l++) {
            uint32_t name[EXPERTS];
            for (uint32_t e = 0; e < EXPERTS; e++)
                name[e] = e;
            mp_rng_shuffle(&rng, name, EXPERTS);
            for (uint32_t e = 0; e < EXPERTS; e++)
                renamed.gpu_of[l][name[e]] = w.gpu_of[l][e];
            for (uint32_t r = 0; r < REQUESTS; r++)
                for (uint32_t t = 0; t < LENGTH; t++)
                    for (uint32_t k = 0; k < TOP_K; k++)
                        renamed.ids[r][t][l][k] = (uint16_t)name[w.ids[r][t][l][k]];
        }
        struct mp_sim_result *a = simulate(&w, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        struct mp_sim_result *b = simulate(&renamed, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        assert_same(a, b);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        setting_close(&s);
    }
}

/* GPUs 0 and 1, 2 and 3 share a node in every topology used here: swapping inside nodes and swapping whole nodes are
 * symmetries. */
static void test_metamorphic__gpus_of_equal_kind_renamed(void **state) {
    (void)state;
    static const uint32_t symmetries[][GPUS] = {{1, 0, 2, 3}, {0, 1, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
    struct mp_rng rng = mp_rng_seed(2);
    for (uint32_t i = 0; i < CASES; i++) {
        struct setting s;
        struct world w, renamed;
        setting_open(&s, i);
        random_world(&w, &rng);
        renamed = w;
        const uint32_t *name = symmetries[i % 4];
        /* A two-level dispatcher sends to the peer with the same index in the node: swap in both nodes or whole nodes.
         */
        static const uint32_t both[GPUS] = {1, 0, 3, 2};
        if (i % 4 < 2)
            name = both;
        for (uint32_t r = 0; r < REQUESTS; r++)
            renamed.source[r] = name[w.source[r]];
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t e = 0; e < EXPERTS; e++)
                renamed.gpu_of[l][e] = (uint16_t)name[w.gpu_of[l][e]];
        struct mp_sim_result *a = simulate(&w, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        struct mp_sim_result *b = simulate(&renamed, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        assert_same(a, b);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        setting_close(&s);
    }
}

static void test_metamorphic__requests_reordered(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    for (uint32_t i = 0; i < CASES; i++) {
        struct setting s;
        struct world w, shuffled;
        setting_open(&s, i);
        random_world(&w, &rng);
        uint32_t order[REQUESTS];
        for (uint32_t r = 0; r < REQUESTS; r++)
            order[r] = r;
        mp_rng_shuffle(&rng, order, REQUESTS);
        shuffled = w;
        for (uint32_t r = 0; r < REQUESTS; r++) {
            memcpy(shuffled.ids[r], w.ids[order[r]], sizeof w.ids[r]);
            shuffled.source[r] = w.source[order[r]];
        }
        struct mp_sim_result *a = simulate(&w, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        struct mp_sim_result *b = simulate(&shuffled, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        assert_same(a, b);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        setting_close(&s);
    }
}

static void test_metamorphic__every_request_c_times_carries_c_times_the_bytes(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    for (uint32_t i = 0; i < CASES; i++) {
        struct setting s;
        struct world w;
        setting_open(&s, i);
        random_world(&w, &rng);
        uint32_t c = 2 + i % 3;
        struct mp_sim_result *a = simulate(&w, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, NULL);
        struct mp_sim_result *b = simulate(&w, 0, REQUESTS, c, s.topology, s.model, s.dispatcher, NULL);
        assert_close(b->intra_bytes, c * a->intra_bytes);
        assert_close(b->inter_bytes, c * a->inter_bytes);
        assert_close(b->copies_gpu, c * a->copies_gpu);
        assert_true(fabs(b->balance.max_over_mean - a->balance.max_over_mean) < 1e-9);
        for (uint32_t step = 0; step < a->n_steps; step++) { /* more work, never less time, and launches are shared */
            assert_true(b->steps[step].step_ns >= a->steps[step].step_ns);
            assert_true(b->steps[step].dispatch_ns <= c * a->steps[step].dispatch_ns + LAYERS * c);
        }
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        setting_close(&s);
    }
}

static void test_metamorphic__split_and_join(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(5);
    for (uint32_t i = 0; i < CASES; i++) {
        struct setting s;
        struct world w;
        setting_open(&s, i);
        random_world(&w, &rng);
        uint32_t half = REQUESTS / 2;
        struct mp_trace *whole, *left, *right;
        struct mp_sim_result *a = simulate(&w, 0, REQUESTS, 1, s.topology, s.model, s.dispatcher, &whole);
        struct mp_sim_result *b = simulate(&w, 0, half, 1, s.topology, s.model, s.dispatcher, &left);
        struct mp_sim_result *c = simulate(&w, half, half, 1, s.topology, s.model, s.dispatcher, &right);
        assert_close(a->intra_bytes, b->intra_bytes + c->intra_bytes);
        assert_close(a->inter_bytes, b->inter_bytes + c->inter_bytes);
        assert_close(a->copies_expert, b->copies_expert + c->copies_expert);
        for (uint32_t l = 0; l < LAYERS; l++) {
            uint64_t all[EXPERTS], first[EXPERTS], second[EXPERTS];
            mp_trace_load_of_layer(whole, l, all);
            mp_trace_load_of_layer(left, l, first);
            mp_trace_load_of_layer(right, l, second);
            for (uint32_t e = 0; e < EXPERTS; e++)
                assert_int_equal(all[e], first[e] + second[e]);
            for (uint32_t g = 0; g < GPUS; g++)
                assert_true(fabs(a->gpu_rows[l * GPUS + g] - b->gpu_rows[l * GPUS + g] - c->gpu_rows[l * GPUS + g]) <
                            1e-6);
        }
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        mp_sim_result_free(c);
        mp_trace_free(whole);
        mp_trace_free(left);
        mp_trace_free(right);
        setting_close(&s);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metamorphic__experts_renamed),
        cmocka_unit_test(test_metamorphic__gpus_of_equal_kind_renamed),
        cmocka_unit_test(test_metamorphic__requests_reordered),
        cmocka_unit_test(test_metamorphic__every_request_c_times_carries_c_times_the_bytes),
        cmocka_unit_test(test_metamorphic__split_and_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
