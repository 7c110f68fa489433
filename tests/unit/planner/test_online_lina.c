/* Lina's policies: replays whose outcome is known. Decode of 4 GPUs, tokens that choose one
 * expert. */
#include "support.h"

#include "planner.h"
#include <moeplan/predict.h>

enum { LAYERS = 5, EXPERTS = 8, GPUS = 4, BATCH = 16, ROWS = 6, REQUESTS = 2 * GPUS * BATCH };

struct world {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part, rest;
    struct mp_workload *workload;
    struct mp_plan *start;
    struct mp_online_request request;
};

/* Tokens start at an expert, low ones more often, and go one further in each layer; is_random: anew in each layer. */
static void make_world(struct world *w, bool is_random) {
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(5);
    struct mp_trace_builder *b;
    const struct mp_batching batching = {.phase = MP_PHASE_DECODE, .n_ranks = GPUS, .batch_per_rank = BATCH};
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "",
                                       .format = "test",
                                       .n_layers = LAYERS,
                                       .n_experts = EXPERTS,
                                       .top_k = 1};
    *w = (struct world){0};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        const struct mp_request request = {.id = r, .source = MP_NONE, .category = MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &request, &err), err);
        for (uint32_t i = 0; i < ROWS; i++) {
            uint16_t ids[LAYERS];
            for (uint32_t l = 0; l < LAYERS; l++) {
                const uint64_t x = mp_rng_below(&rng, EXPERTS), y = mp_rng_below(&rng, EXPERTS);
                ids[l] = l > 0 && !is_random ? (uint16_t)((ids[l - 1] + 1) % EXPERTS) : (uint16_t)(x < y ? x : y);
            }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &w->trace, &err), err);
    CHECK_OK(mp_topology_load(&w->topology, "2x2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&w->model, NULL, LAYERS, EXPERTS, 1, &err), err);
    CHECK_OK(mp_part_split(&w->part, &w->rest, w->trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
    CHECK_OK(mp_workload_build(&w->workload, &w->part, &batching, &err), err);
    assert_int_equal(w->workload->n_steps, 2 * ROWS);
    w->request = (struct mp_online_request){.planning = &w->part,
                                            .workload = w->workload,
                                            .topology = w->topology,
                                            .model = w->model,
                                            .sim = {.dispatcher = mp_dispatcher_find("deepep-ll"), .stage_mode = -1}};
    enum mp_outcome outcome;
    const struct mp_plan_request r = {.planning = &w->part,
                                      .batching = batching,
                                      .topology = w->topology,
                                      .model = w->model,
                                      .sim = w->request.sim,
                                      .strategy = "contiguous",
                                      .n_threads = 1,
                                      .is_trial = true};
    CHECK_OK(mp_plan_make(&w->start, &r, &outcome, NULL, &err), err);
    assert_non_null(w->start);
    w->request.start = w->start;
}
static void free_world(struct world *w) {
    mp_plan_free(w->start);
    mp_workload_free(w->workload);
    mp_part_free(&w->part);
    mp_part_free(&w->rest);
    mp_model_free(w->model);
    mp_topology_free(w->topology);
    mp_trace_free(w->trace);
}
static struct mp_online_result *run(struct world *w, const char *policy, const struct mp_setting *settings,
                                    uint32_t n_settings) {
    struct mp_error err = {0};
    struct mp_online_result *r;
    w->request.policy = mp_policy_find(policy);
    assert_non_null(w->request.policy);
    w->request.settings = settings;
    w->request.n_settings = n_settings;
    CHECK_OK(mp_online_simulate(&r, &w->request, &err), err);
    return r;
}
static void same_steps(const struct mp_online_result *a, const struct mp_online_result *b) {
    assert_int_equal(a->sim->n_steps, b->sim->n_steps);
    for (uint32_t i = 0; i < a->sim->n_steps; i++) {
        assert_int_equal(a->sim->steps[i].step_ns, b->sim->steps[i].step_ns);
        assert_int_equal(a->sim->steps[i].compute_ns, b->sim->steps[i].compute_ns);
        assert_int_equal(a->sim->steps[i].dispatch_ns, b->sim->steps[i].dispatch_ns);
    }
}
static const struct mp_setting by_first_layer[] = {{"lina-online", "path-length", 1}, {"lina-online", "early", 1}};

/* Where the next expert follows from the last one, what is foreseen is what comes: nothing is placed again in layers
 * that have one before them, and from there on placements are those by actual popularity. Pairs and paths alike. */
static void test_online_lina__a_chain_is_foreseen(void **state) {
    (void)state;
    struct world w;
    make_world(&w, false);
    struct mp_online_result *actual = run(&w, "lina-actual", NULL, 0);
    for (int64_t by = 2; by <= 3; by++) {
        const struct mp_setting settings[] = {{"lina-online", "path-length", 1}, {"lina-online", "estimate", by}};
        struct mp_online_result *free_of_cost = run(&w, "lina-free", settings, 2);
        if (by == 3)
            assert_int_equal(free_of_cost->n_tuned, 0);
        assert_int_equal(free_of_cost->n_schedules, (LAYERS - 1) * w.workload->n_steps);
        for (uint32_t t = 0; t < w.workload->n_steps; t++)
            for (uint32_t l = 1; l < LAYERS && by == 3; l++)
                assert_memory_equal(free_of_cost->versions[t].plan->layers[l].slot_expert,
                                    actual->versions[t].plan->layers[l].slot_expert,
                                    actual->versions[t].plan->n_slots * sizeof(uint16_t));
        mp_online_result_free(free_of_cost);
    }
    assert_int_equal(actual->n_schedules, LAYERS * w.workload->n_steps);
    assert_int_equal(actual->n_tuned, 0);
    mp_online_result_free(actual);
    free_world(&w);
}

/* Placed after the gate by what came, or before it by what will come: the same placements, and without cost the same
 * steps. */
static void test_online_lina__blind_is_actual_late(void **state) {
    (void)state;
    struct world w;
    make_world(&w, true);
    const struct mp_setting nothing[] = {
        {"lina-online", "schedule-us", 0}, {"lina-online", "check-us", 0}, {"lina-online", "swap-percent", 0}};
    struct mp_online_result *actual = run(&w, "lina-actual", NULL, 0), *blind = run(&w, "lina-blind", nothing, 3);
    same_steps(actual, blind);
    assert_int_equal(blind->n_tuned, LAYERS * w.workload->n_steps);
    assert_int_equal(blind->moved_experts, actual->moved_experts);
    assert_int_equal(blind->mean_wait_ns, 0);
    mp_online_result_free(actual);
    mp_online_result_free(blind);
    free_world(&w);
}

/* Waits are what the options say, to the nanosecond: nothing hidden, all hidden, and what fits a layer. */
static void test_online_lina__waits_add_up(void **state) {
    (void)state;
    struct world w;
    make_world(&w, true);
    struct mp_setting settings[] = {{"lina-online", "schedule-us", 700}, {"lina-online", "check-us", 30},
                                    {"lina-online", "swap-percent", 0},  {"lina-online", "hide", 0},
                                    {"lina-online", "path-length", 1},   {"lina-online", "early", 0}};
    const uint64_t n_steps = w.workload->n_steps, n = n_steps * (LAYERS - 1);
    struct mp_online_result *r = run(&w, "lina-online", settings, 6), *free_of_cost = run(&w, "lina-free", settings, 6);
    assert_true(r->n_tuned > 0 && r->n_tuned < n);
    assert_int_equal(r->n_checks, n);
    assert_int_equal(r->mean_wait_ns, (n * 730000 + r->n_tuned * 700000) / n_steps);
    for (uint32_t t = 0; t < n_steps; t++)
        assert_int_equal(r->sim->steps[t].step_ns, free_of_cost->sim->steps[t].step_ns + r->wait_ns[t]);
    const uint64_t layer_ns = free_of_cost->sim->mean.step_ns / LAYERS, n_tuned = r->n_tuned;
    mp_online_result_free(r);
    settings[3].value = 2;
    r = run(&w, "lina-online", settings, 6);
    assert_int_equal(r->mean_wait_ns, (n * 30000 + n_tuned * 700000) / n_steps);
    mp_online_result_free(r);
    settings[3].value = 1;
    r = run(&w, "lina-online", settings, 6);
    assert_true(layer_ns < 700000);
    assert_int_equal(r->mean_wait_ns, (n * (730000 - layer_ns) + n_tuned * 700000) / n_steps);
    mp_online_result_free(r);
    r = run(&w, "lina-once", settings, 6);                                      /* no comparing either */
    const uint64_t once_ns = (r->sim->mean.step_ns - r->mean_wait_ns) / LAYERS; /* its own placements' */
    assert_int_equal(r->mean_wait_ns, n * (700000 - once_ns) / n_steps);
    assert_int_equal(r->n_tuned, 0);
    mp_online_result_free(r);
    mp_online_result_free(free_of_cost);
    free_world(&w);
}

/* Bytes from hosts against counting what each GPU lacks, and their time by the GPU with the most. */
static void test_online_lina__swaps_by_brute_force(void **state) {
    (void)state;
    struct world w;
    make_world(&w, true);
    const struct mp_setting settings[] = {
        {"lina-online", "schedule-us", 0}, {"lina-online", "host-mbytes", 1000}, {"lina-online", "experts-per-gpu", 3}};
    struct mp_online_result *r = run(&w, "lina-blind", settings, 3);
    uint64_t n = 0;
    for (uint32_t t = 0; t < w.workload->n_steps; t++) {
        uint64_t wait_ns = 0;
        for (uint32_t l = 0; l < LAYERS; l++) {
            uint64_t most = 0;
            const struct mp_plan *now = r->versions[t].plan;
            assert_int_equal(now->n_slots, 3 * GPUS);
            for (uint32_t g = 0; g < GPUS; g++) {
                uint64_t own = 0;
                for (uint32_t s = 3 * g; s < 3 * (g + 1); s++) {
                    const uint16_t e = now->layers[l].slot_expert[s];
                    bool is_there = e == MP_NO_EXPERT;
                    for (uint32_t k = 3 * g; t > 0 && k < 3 * (g + 1); k++)
                        is_there |= r->versions[t - 1].plan->layers[l].slot_expert[k] == e;
                    is_there |= t == 0 && e / (EXPERTS / GPUS) == g; /* contiguous */
                    own += !is_there;
                }
                n += own;
                most = own > most ? own : most;
            }
            wait_ns += most * w.model->expert_bytes; /* 1 ns a byte */
        }
        assert_int_equal(r->wait_ns[t], wait_ns);
    }
    assert_true(n > 0);
    assert_int_equal(r->moved_experts, n);
    assert_int_equal(r->moved_bytes, n * w.model->expert_bytes);
    mp_online_result_free(r);
    free_world(&w);
}

/* Skewed loads that change: by actual popularity the busiest GPU has less than where experts stay. */
static void test_online_lina__balances(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct world w;
    make_world(&w, true);
    struct mp_sim_result *stays;
    struct mp_online_result *r = run(&w, "lina-actual", NULL, 0);
    CHECK_OK(mp_simulate(&stays, w.start, w.workload, w.topology, w.model, &w.request.sim, &err), err);
    assert_true(r->sim->balance.max_over_mean < stays->balance.max_over_mean);
    mp_sim_result_free(stays);
    mp_online_result_free(r);
    free_world(&w);
}

static void test_online_lina__same_for_any_threads(void **state) {
    (void)state;
    struct world w;
    make_world(&w, true);
    struct mp_online_result *one = run(&w, "lina-online", by_first_layer, 2);
    w.request.sim.n_threads = 3;
    struct mp_online_result *three = run(&w, "lina-online", by_first_layer, 2);
    same_steps(one, three);
    assert_int_equal(one->n_tuned, three->n_tuned);
    assert_int_equal(one->moved_bytes, three->moved_bytes);
    assert_int_equal(one->n_schedules, LAYERS * w.workload->n_steps); /* early: the first layer too */
    mp_online_result_free(one);
    mp_online_result_free(three);
    free_world(&w);
}

static enum mp_status faulted(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    struct mp_online_result *r;
    enum mp_status status = mp_online_simulate(&r, &w->request, err);
    assert_true((status == MP_OK) == (r != NULL));
    mp_online_result_free(r);
    return status;
}
static void test_online_lina__survives_faults(void **state) {
    (void)state;
    struct world w;
    make_world(&w, true);
    mp_online_result_free(run(&w, "lina-online", by_first_layer, 2));
    sweep_faults(faulted, &w, 1);
    free_world(&w);
}

/* Counts do not know tokens; and the variants are told by name. */
static void test_online_lina__refuses_counts(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_online_result *r;
    struct world w;
    make_world(&w, true);
    w.request.policy = mp_policy_find("lina-free");
    w.request.planning = NULL;
    assert_int_equal(mp_online_simulate(&r, &w.request, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "record tokens"));
    assert_true(mp_online_needs_tokens(mp_policy_find("lina-online")));
    assert_false(mp_online_needs_tokens(mp_policy_find("eplb-online")));
    assert_null(mp_policy_find("lina"));
    free_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_online_lina__a_chain_is_foreseen),
        cmocka_unit_test(test_online_lina__blind_is_actual_late),
        cmocka_unit_test(test_online_lina__waits_add_up),
        cmocka_unit_test(test_online_lina__swaps_by_brute_force),
        cmocka_unit_test(test_online_lina__balances),
        cmocka_unit_test(test_online_lina__same_for_any_threads),
        cmocka_unit_test(test_online_lina__survives_faults),
        cmocka_unit_test(test_online_lina__refuses_counts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
