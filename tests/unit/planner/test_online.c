/* eplb-online on recordings whose drift is known. Decode of 4 GPUs with 2 requests each: 8 requests of R rows fill the
 * first R steps, the next 8 the R steps after them. */
#include "support.h"

#include "planner.h"
#include "tiny.h"

enum { LAYERS = 3, EXPERTS = 8, SLOTS = 12, GPUS = 4, BATCH = 2, PER_PHASE = GPUS * BATCH };
enum { LARGE = 64 }; /* requests per GPU where computing takes as long as its tokens say */

/* n_phases times 8 requests of n_rows rows. In phase p the hot experts of layer l are 2p + l and the next one, or 0
 * and 1 for good when nothing drifts. */
struct world {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part, rest; /* of the whole */
    struct mp_batching batching;
    struct mp_workload *workload;
    struct mp_plan *start; /* EPLB's of the first phase */
    struct mp_online_request request;
};

static void free_world(struct world *w) {
    mp_plan_free(w->start);
    mp_workload_free(w->workload);
    mp_part_free(&w->part);
    mp_part_free(&w->rest);
    mp_model_free(w->model);
    mp_topology_free(w->topology);
    mp_trace_free(w->trace);
}

static struct mp_plan *eplb_of(const struct world *w, const struct mp_part *part, const char *strategy) {
    struct mp_error err = {0};
    struct mp_plan *p;
    enum mp_outcome outcome;
    const struct mp_plan_request r = {.planning = part,
                                      .batching = w->batching,
                                      .topology = w->topology,
                                      .model = w->model,
                                      .sim = w->request.sim,
                                      .strategy = strategy,
                                      .n_redundant = SLOTS - EXPERTS,
                                      .n_threads = 1,
                                      .is_trial = true};
    CHECK_OK(mp_plan_make(&p, &r, &outcome, NULL, &err), err);
    assert_non_null(p);
    return p;
}

static void make_large(struct world *w, uint32_t n_phases, uint32_t n_rows, bool has_drift, uint32_t batch) {
    struct mp_error err = {0};
    const uint32_t per_phase = GPUS * batch;
    struct mp_rng rng = mp_rng_seed(7 + n_rows);
    struct mp_trace_builder *b;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "",
                                       .format = "test",
                                       .is_time_ordered = true,
                                       .n_layers = LAYERS,
                                       .n_experts = EXPERTS,
                                       .top_k = 2};
    *w = (struct world){.batching = {.phase = MP_PHASE_DECODE, .n_ranks = GPUS, .batch_per_rank = batch}};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t r = 0; r < n_phases * per_phase; r++) {
        const struct mp_request request = {.id = r, .source = MP_NONE, .category = MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &request, &err), err);
        for (uint32_t i = 0; i < n_rows; i++) {
            uint16_t ids[2 * LAYERS];
            for (uint32_t l = 0; l < LAYERS; l++) {
                uint32_t hot = has_drift ? 2 * (r / per_phase) + l : 0;
                bool is_hot = mp_rng_below(&rng, 8) != 0;
                uint32_t first = is_hot ? hot : (uint32_t)mp_rng_below(&rng, EXPERTS);
                ids[2 * l] = (uint16_t)(first % EXPERTS);
                ids[2 * l + 1] = (uint16_t)((first + (is_hot ? 1 : 1 + mp_rng_below(&rng, EXPERTS - 1))) % EXPERTS);
            }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &w->trace, &err), err);
    CHECK_OK(mp_topology_load(&w->topology, "2x2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&w->model, NULL, LAYERS, EXPERTS, 2, &err), err);
    CHECK_OK(mp_part_split(&w->part, &w->rest, w->trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
    CHECK_OK(mp_workload_build(&w->workload, &w->part, &w->batching, &err), err);
    assert_int_equal(w->workload->n_steps, n_phases * n_rows);
    w->request = (struct mp_online_request){.workload = w->workload,
                                            .topology = w->topology,
                                            .model = w->model,
                                            .sim = {.dispatcher = mp_dispatcher_find("deepep-ll"), .stage_mode = -1},
                                            .n_redundant = SLOTS - EXPERTS};
    struct mp_part first = w->part; /* borrows */
    first.n = per_phase;
    w->start = eplb_of(w, &first, "eplb");
    w->request.start = w->start;
}

static void make_world(struct world *w, uint32_t n_phases, uint32_t n_rows, bool has_drift) {
    make_large(w, n_phases, n_rows, has_drift, BATCH);
}

struct settings {
    int64_t window, interval, chunk, is_synchronous, move, share;
};
/* Stretch 1: a step is a step. */
static struct mp_online_result *run(struct world *w, struct settings s) {
    struct mp_error err = {0};
    struct mp_online_result *r;
    const struct mp_setting settings[] = {{"eplb-online", "window", s.window},
                                          {"eplb-online", "interval", s.interval},
                                          {"eplb-online", "layers-per-chunk", s.chunk},
                                          {"eplb-online", "synchronous", s.is_synchronous},
                                          {"eplb-online", "move-percent", s.move},
                                          {"eplb-online", "stretch", 1},
                                          {"eplb-online", "share-percent", s.share > 0 ? s.share : 50}};
    w->request.settings = settings;
    w->request.n_settings = sizeof settings / sizeof *settings;
    CHECK_OK(mp_online_simulate(&r, &w->request, &err), err);
    return r;
}

static struct mp_sim_result *simulated(const struct world *w, const struct mp_plan *p, const struct mp_workload *on) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    CHECK_OK(mp_simulate(&r, p, on, w->topology, w->model, &w->request.sim, &err), err);
    return r;
}

static void same_steps(const struct mp_step_times *a, const struct mp_step_times *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].step_ns, b[i].step_ns);
        assert_int_equal(a[i].dispatch_ns, b[i].dispatch_ns);
        assert_int_equal(a[i].compute_ns, b[i].compute_ns);
        assert_int_equal(a[i].combine_ns, b[i].combine_ns);
        assert_int_equal(a[i].other_ns, b[i].other_ns);
    }
}

/* Without an interval, or with one past the last step, nothing is different from the plan it starts with. */
static void test_online__never_is_the_static_plan(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 2, 6, true);
    struct mp_sim_result *s = simulated(&w, w.start, w.workload);
    for (int64_t interval = 0; interval <= 12; interval += 12) {
        struct mp_online_result *r = run(&w, (struct settings){0, interval, 0, 1, 100, 0});
        assert_int_equal(r->n_rebalances, 0);
        assert_int_equal(r->n_versions, 1);
        assert_int_equal(r->moved_bytes, 0);
        assert_int_equal(r->sim->n_steps, s->n_steps);
        same_steps(r->sim->steps, s->steps, s->n_steps);
        assert_memory_equal(&r->sim->mean, &s->mean, sizeof s->mean);
        assert_memory_equal(&r->sim->balance, &s->balance, sizeof s->balance);
        mp_online_result_free(r);
    }
    mp_sim_result_free(s);
    free_world(&w);
}

/* Free moves, a window of all that was: from the second phase on it is EPLB planned on the first. The placement it
 * starts with is one that fits the third. */
static void test_online__free_moves_are_eplb_planned_again(void **state) {
    (void)state;
    struct world w;
    struct mp_error err = {0};
    make_world(&w, 2, 6, true);
    struct mp_part first = w.part, second = w.part; /* borrow */
    struct mp_workload *later;
    first.n = second.n = PER_PHASE;
    second.members = w.part.members + PER_PHASE;
    CHECK_OK(mp_workload_build(&later, &second, &w.batching, &err), err);
    assert_int_equal(later->n_steps, 6);
    struct mp_plan *again = eplb_of(&w, &first, "eplb"), *other = eplb_of(&w, &second, "eplb");
    w.request.start = other;
    struct mp_online_result *r = run(&w, (struct settings){0, 6, 0, 1, 0, 0});
    struct mp_sim_result *before = simulated(&w, other, w.workload), *after = simulated(&w, again, later);
    assert_int_equal(r->n_rebalances, 1);
    assert_true(r->moved_bytes > 0);
    assert_int_equal(r->mean_wait_ns, 0);
    same_steps(r->sim->steps, before->steps, 6);
    same_steps(r->sim->steps + 6, after->steps, 6);
    for (uint32_t l = 0; l < LAYERS; l++)
        assert_memory_equal(r->versions[1].plan->layers[l].slot_expert, again->layers[l].slot_expert, SLOTS * 2);
    mp_sim_result_free(before);
    mp_sim_result_free(after);
    mp_online_result_free(r);
    mp_workload_free(later);
    mp_plan_free(again);
    mp_plan_free(other);
    free_world(&w);
}

/* A window of the last phase alone sees what a window of everything has forgotten to forget. */
static void test_online__windows_see_only_their_steps(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 3, 6, true);
    struct mp_part second = w.part;
    second.n = PER_PHASE;
    second.members = w.part.members + PER_PHASE;
    struct mp_plan *p = eplb_of(&w, &second, "eplb");
    struct mp_online_result *near = run(&w, (struct settings){6, 12, 0, 1, 0, 0}),
                            *all = run(&w, (struct settings){0, 12, 0, 1, 0, 0});
    uint32_t n_same = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        assert_memory_equal(near->versions[1].plan->layers[l].slot_expert, p->layers[l].slot_expert, SLOTS * 2);
        n_same += memcmp(all->versions[1].plan->layers[l].slot_expert, p->layers[l].slot_expert, SLOTS * 2) == 0;
    }
    assert_true(n_same < LAYERS);
    mp_plan_free(p);
    mp_online_result_free(near);
    mp_online_result_free(all);
    free_world(&w);
}

/* Experts that a GPU holds in a version and did not hold in the one before, times their bytes. */
static void test_online__moved_bytes_by_brute_force(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 4, 5, true);
    w.model->expert_bytes = 100000; /* moves end before the next ones are due */
    static const struct settings all[] = {
        {5, 5, 0, 1, 100, 0}, {3, 4, 1, 1, 100, 0}, {5, 5, 2, 0, 100, 0}, {0, 3, 0, 0, 0, 0}, {2, 7, 1, 0, 100, 20}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct mp_online_result *r = run(&w, all[i]);
        uint64_t n_moved = 0;
        assert_true(r->n_versions > 1);
        for (uint32_t v = 1; v < r->n_versions; v++)
            for (uint32_t l = 0; l < LAYERS; l++)
                for (uint32_t g = 0; g < GPUS; g++)
                    for (uint32_t e = 0; e < EXPERTS; e++) {
                        bool has[2] = {false, false};
                        for (uint32_t s = g * SLOTS / GPUS; s < (g + 1) * SLOTS / GPUS; s++)
                            for (uint32_t k = 0; k < 2; k++)
                                has[k] |= r->versions[v - k].plan->layers[l].slot_expert[s] == e;
                        n_moved += has[0] && !has[1];
                    }
        assert_int_equal(r->n_left_out, 0);
        assert_true(n_moved > 0);
        assert_int_equal(r->moved_experts, n_moved);
        assert_int_equal(r->moved_bytes, r->moved_experts * w.model->expert_bytes);
        assert_true(r->moved_inter_bytes <= r->moved_bytes);
        mp_online_result_free(r);
    }
    free_world(&w);
}

/* One layer per chunk and step: layer c of the new placement serves from c steps after the rebalance on. */
static void test_online__chunks_move_one_after_the_other(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 2, 8, true);
    struct mp_online_result *r = run(&w, (struct settings){4, 12, 1, 1, 100, 0});
    assert_int_equal(r->n_rebalances, 1);
    assert_int_equal(r->n_versions, 1 + LAYERS);
    for (uint32_t v = 1; v <= LAYERS; v++) {
        assert_int_equal(r->versions[v].from_step, 12 + v - 1);
        for (uint32_t l = 0; l < LAYERS; l++) {
            const struct mp_plan *of = l < v ? r->made[0] : w.start;
            assert_memory_equal(r->versions[v].plan->layers[l].slot_expert, of->layers[l].slot_expert, SLOTS * 2);
        }
    }
    for (uint32_t t = 0; t < 16; t++)
        assert_int_equal(r->wait_ns[t] > 0, t >= 12 && t < 12 + LAYERS);
    /* all at once: one wait, of fewer launches and better filled ports */
    struct mp_online_result *once = run(&w, (struct settings){4, 12, 0, 1, 100, 0});
    assert_int_equal(once->n_versions, 2);
    assert_true(once->wait_ns[12] > 0 && once->wait_ns[12] <= r->wait_ns[12] + r->wait_ns[13] + r->wait_ns[14]);
    assert_int_equal(once->moved_bytes, r->moved_bytes);
    mp_online_result_free(r);
    mp_online_result_free(once);
    free_world(&w);
}

/* Hot experts move every 40 steps. Who follows them wins over who stays, if moving is not too dear; and beside the
 * steps moving costs less than while they wait. */
static void test_online__wins_on_drift_and_loses_without(void **state) {
    (void)state;
    struct world w;
    uint64_t drift[3], still[3], wait[2];
    for (int has_drift = 0; has_drift < 2; has_drift++) {
        uint64_t *ns = has_drift ? drift : still;
        make_large(&w, 4, 40, has_drift != 0, LARGE);
        w.model->expert_flops_per_token = 2000000000;
        struct mp_sim_result *s = simulated(&w, w.start, w.workload);
        ns[0] = s->mean.step_ns;
        for (int is_synchronous = 0; is_synchronous < 2; is_synchronous++) {
            struct mp_online_result *r = run(&w, (struct settings){10, 10, 0, is_synchronous, 100, 0});
            ns[1 + is_synchronous] = r->sim->mean.step_ns;
            wait[is_synchronous] = r->mean_wait_ns;
            assert_true(r->n_rebalances > 10);
            assert_true(r->mean_wait_ns > 0);
            mp_online_result_free(r);
        }
        assert_true(wait[0] < wait[1]);
        mp_sim_result_free(s);
        free_world(&w);
    }
    assert_true(drift[1] < drift[0]);
    assert_true(drift[2] < drift[0]);
    assert_true(still[2] > still[0]);
    assert_true(still[1] < still[2]);
}

/* Beside the steps: a step is lengthened by at most what share-percent of its transfers says, and moving goes on until
 * all is done; a larger share is done sooner. */
static void test_online__moves_beside_steps(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 2, 40, true);
    w.model->expert_bytes = 60000000;
    uint32_t done[2];
    for (int i = 0; i < 2; i++) {
        const int64_t share = i == 0 ? 20 : 80;
        struct mp_online_result *r = run(&w, (struct settings){5, 45, 0, 0, 100, share}),
                                *sync = run(&w, (struct settings){5, 45, 0, 1, 100, share});
        uint64_t sum = 0, first = 0;
        assert_int_equal(r->n_rebalances, 1);
        assert_int_equal(r->n_versions, 2);
        done[i] = r->versions[1].from_step;
        assert_true(done[i] > 46);
        struct mp_sim_result *s = simulated(&w, w.start, w.workload);
        for (uint32_t t = 0; t < 80; t++) {
            const struct mp_step_times *x = &s->steps[t];
            const uint64_t most = (x->dispatch_ns + x->combine_ns) * (uint64_t)share / (uint64_t)(100 - share);
            assert_int_equal(r->wait_ns[t] > 0, t >= 45 && t < done[i]);
            assert_true(r->wait_ns[t] <= most);
            if (t >= 45 && t + 1 < done[i]) { /* not the last, which has only a rest to wait for */
                assert_int_equal(r->wait_ns[t], most);
                first += x->step_ns - x->dispatch_ns - x->combine_ns + most;
            }
            sum += r->wait_ns[t];
        }
        /* what the ports gave is what the moves take alone */
        const struct mp_step_times *x = &s->steps[done[i] - 1];
        assert_true(first < sync->wait_ns[45]);
        assert_true(sync->wait_ns[45] <= first + x->step_ns + r->wait_ns[done[i] - 1]);
        assert_true(sum < sync->wait_ns[45] * (uint64_t)share / (uint64_t)(100 - share));
        mp_sim_result_free(s);
        mp_online_result_free(r);
        mp_online_result_free(sync);
    }
    assert_true(done[1] < done[0]);
    free_world(&w);
}

/* A rebalance that is due while the last one still moves is left out. */
static void test_online__one_rebalance_at_a_time(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 2, 40, true);
    w.model->expert_bytes = 400000000;
    struct mp_online_result *r = run(&w, (struct settings){2, 2, 0, 0, 100, 50});
    assert_true(r->n_left_out > 0);
    assert_int_equal(r->n_rebalances + r->n_left_out, 39);
    mp_online_result_free(r);
    free_world(&w);
}

/* Of 80 steps 20 are simulated: the policy does the same, and the mean wait is that of all steps. */
static void test_online__some_steps_stand_for_all(void **state) {
    (void)state;
    struct world w;
    make_world(&w, 2, 40, true);
    struct mp_online_result *all = run(&w, (struct settings){5, 5, 1, 1, 100, 0});
    w.request.sim.n_steps_max = 20;
    w.request.sim.n_threads = 3;
    struct mp_online_result *some = run(&w, (struct settings){5, 5, 1, 1, 100, 0});
    assert_int_equal(some->sim->n_steps, 20);
    assert_int_equal(some->n_versions, all->n_versions);
    assert_int_equal(some->moved_bytes, all->moved_bytes);
    uint64_t sum = 0, other = 0;
    for (uint32_t t = 0; t < 80; t++)
        sum += all->wait_ns[t];
    for (uint32_t i = 0; i < 20; i++) {
        const uint64_t t = some->sim->step_of[i];
        assert_int_equal(some->sim->steps[i].compute_ns, all->sim->steps[t].compute_ns);
        other += some->sim->steps[i].other_ns - (all->sim->steps[t].other_ns - all->wait_ns[t]);
    }
    assert_in_range(other * 4, sum - 80, sum);
    w.request.sim.n_steps_max = 0;
    struct mp_online_result *threads = run(&w, (struct settings){5, 5, 1, 1, 100, 0});
    same_steps(threads->sim->steps, all->sim->steps, 80);
    mp_online_result_free(all);
    mp_online_result_free(some);
    mp_online_result_free(threads);
    free_world(&w);
}

static enum mp_status online(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    struct mp_online_result *r = NULL;
    enum mp_status status = mp_online_simulate(&r, &w->request, err);
    mp_online_result_free(r);
    return status;
}
static void test_online__leaks_nothing_on_faults(void **state) {
    (void)state;
    struct world w;
    const struct mp_setting settings[] = {
        {"eplb-online", "interval", 4}, {"eplb-online", "stretch", 1}, {"eplb-online", "synchronous", 0}};
    make_world(&w, 1, 6, true);
    w.request.settings = settings;
    w.request.n_settings = 3;
    sweep_faults(online, &w, 1);
    free_world(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_online__never_is_the_static_plan),
        cmocka_unit_test(test_online__free_moves_are_eplb_planned_again),
        cmocka_unit_test(test_online__windows_see_only_their_steps),
        cmocka_unit_test(test_online__moved_bytes_by_brute_force),
        cmocka_unit_test(test_online__chunks_move_one_after_the_other),
        cmocka_unit_test(test_online__wins_on_drift_and_loses_without),
        cmocka_unit_test(test_online__moves_beside_steps),
        cmocka_unit_test(test_online__one_rebalance_at_a_time),
        cmocka_unit_test(test_online__some_steps_stand_for_all),
        cmocka_unit_test(test_online__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
