#include "support.h"
#include <math.h>
#include <moeplan/moeplan.h>
#include <moeplan/synth.h>

struct world {
    struct mp_trace *trace;
    struct mp_part part, other;
    struct mp_workload *workload;
    struct mp_cost_setup setup;
};

static void world_make(struct world *w, const char *preset, uint64_t tokens_per_rank) {
    const struct mp_synth_params params = {.n_layers = 4,
                                           .n_experts = 4,
                                           .top_k = 2,
                                           .n_requests = 60,
                                           .tokens_per_request_mean = 60,
                                           .phase = MP_PHASE_TRAIN,
                                           .zipf_ppm = 300000,
                                           .cluster_size = 2,
                                           .seed = 3};
    const struct mp_batching batching = {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = tokens_per_rank};
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_error err = {0};
    *w = (struct world){0};
    CHECK_OK(mp_synth_generate(&w->trace, &params, &mp_limits_default, &err), err);
    if (preset != NULL)
        CHECK_OK(mp_synth_signatures(w->trace, mp_synth_similarity_find(preset), 9, &mp_limits_default, &err), err);
    CHECK_OK(mp_part_split(&w->part, &w->other, w->trace, &none, &err), err);
    CHECK_OK(mp_workload_build(&w->workload, &w->part, &batching, &err), err);
    w->setup.workload = w->workload;
}
static void world_free(struct world *w) {
    mp_workload_free(w->workload);
    mp_part_free(&w->part);
    mp_part_free(&w->other);
    mp_trace_free(w->trace);
}

static struct mp_token_flow *condense(struct world *w, const struct mp_condense *c, struct mp_condense_sums *sums) {
    struct mp_error err = {0};
    struct mp_token_flow *f;
    CHECK_OK(mp_flow_new(&f, w->workload, 0, &err), err);
    for (uint32_t s = 0; s < f->n_sequences; s++) /* some have moved */
        for (uint32_t l = 1; l <= f->n_layers; l++)
            f->home[(size_t)l * f->n_sequences + s] = (s + l / 2) % 2;
    CHECK_OK(mp_condense_step(f, &w->setup, 0, c, sums, &err), err);
    return f;
}

static uint32_t home_of(const struct mp_token_flow *f, uint32_t layer, uint32_t row) {
    uint32_t s = 0;
    while (f->first_row[s + 1] <= row)
        s++;
    return f->home[(size_t)layer * f->n_sequences + s];
}

static bool alike(const struct world *w, const struct mp_condense *c, uint32_t layer, uint32_t a, uint32_t b) {
    const struct mp_step *st = &w->workload->steps[0];
    const uint32_t h = c->threshold_ppm[0];
    if (layer > 0) {
        const uint32_t before = mp_signature_similarity_ppm(mp_signature_distance(
            mp_trace_signature(w->trace, layer - 1, st->row[a]), mp_trace_signature(w->trace, layer - 1, st->row[b])));
        if (c->sure_ppm <= 1000000 && before >= c->sure_ppm && before >= h)
            return true;
        if (before < c->never_ppm)
            return false;
    }
    return mp_signature_similarity_ppm(mp_signature_distance(mp_trace_signature(w->trace, layer, st->row[a]),
                                                             mp_trace_signature(w->trace, layer, st->row[b]))) >= h;
}

/* The method once more, in the plainest form, on queues that are compared whole. */
static void test_condense__is_the_plain_greedy_cover(void **state) {
    (void)state;
    static const uint32_t thresholds[] = {600000, 800000, 900000, 1000000};
    struct world w;
    world_make(&w, "gpt2", 400);
    for (size_t k = 0; k < 8; k++) {
        const struct mp_condense c = {.threshold_ppm = &thresholds[k % 4],
                                      .n_thresholds = 1,
                                      .sure_ppm = k < 4 ? 2000000 : 850000,
                                      .never_ppm = k < 4 ? 0 : 300000};
        struct mp_condense_sums sums;
        struct mp_token_flow *f = condense(&w, &c, &sums);
        const struct mp_step *st = &w.workload->steps[0];
        uint64_t condensed = 0, tokens = 0;
        for (uint32_t l = 0; l < 4; l++)
            for (uint32_t queue = 0; queue < 8; queue++) {
                uint32_t member[800], place[800], n = 0, stands[800];
                bool left[800];
                for (uint32_t i = 0; i < st->n; i++) {
                    uint16_t ids[MP_MAX_TOP_K];
                    mp_trace_row(w.trace, l, st->row[i], ids);
                    for (uint32_t j = 0; j < 2; j++)
                        if (ids[j] == queue / 2 && home_of(f, l, i) == queue % 2) {
                            left[n] = true;
                            place[n] = j;
                            stands[n] = i;
                            member[n++] = i;
                        }
                }
                tokens += n;
                for (;;) {
                    uint32_t best = 0, most = 0;
                    for (uint32_t a = 0; a < n; a++) {
                        uint32_t degree = 0;
                        for (uint32_t b = 0; b < n && left[a]; b++)
                            degree += left[b] && a != b && alike(&w, &c, l, member[a], member[b]);
                        if (degree > most) {
                            most = degree;
                            best = a;
                        }
                    }
                    if (most == 0)
                        break;
                    left[best] = false;
                    for (uint32_t b = 0; b < n; b++)
                        if (left[b] && alike(&w, &c, l, member[best], member[b])) {
                            left[b] = false;
                            stands[b] = member[best];
                            condensed++;
                        }
                }
                for (uint32_t a = 0; a < n; a++)
                    assert_int_equal(f->stands_for[((size_t)l * f->n_rows + member[a]) * 2 + place[a]], stands[a]);
            }
        assert_int_equal(sums.condensed, condensed);
        assert_int_equal(sums.tokens, tokens);
        assert_int_equal(sums.compared, sums.pairs);
        assert_true(k < 4 ? sums.by_history == 0 : sums.by_history > 0);
        assert_true(k == 3 || condensed > tokens / 20);
        mp_flow_free(f);
    }
    world_free(&w);
}

/* Smaller blocks compare fewer pairs and find little less, since queues are sorted by signature. */
static void test_condense__blocks_find_nearly_as_much(void **state) {
    (void)state;
    static const uint32_t h = 800000;
    struct world w;
    struct mp_condense_sums whole, cut;
    struct mp_condense c = {.threshold_ppm = &h, .n_thresholds = 1, .sure_ppm = 2000000, .block_rows = 4096};
    world_make(&w, "txl", 1500);
    mp_flow_free(condense(&w, &c, &whole));
    c.block_rows = 128;
    mp_flow_free(condense(&w, &c, &cut));
    assert_int_equal(whole.compared, whole.pairs);
    assert_int_equal(cut.pairs, whole.pairs);
    assert_true(cut.compared < whole.compared / 4);
    assert_true(cut.condensed <= whole.condensed && (double)cut.condensed > 0.9 * (double)whole.condensed);
    world_free(&w);
}

/* Nothing alike, nothing condensed; all alike, one per queue. */
static void test_condense__thresholds_at_the_ends(void **state) {
    (void)state;
    static const uint32_t series[] = {1000000, 0};
    struct world w;
    struct mp_condense_sums sums;
    struct mp_condense c = {.threshold_ppm = &series[1], .n_thresholds = 1, .sure_ppm = 2000000};
    world_make(&w, "txl", 300);
    mp_flow_free(condense(&w, &c, &sums));
    assert_int_equal(sums.tokens - sums.condensed, 4 * 8); /* one of each queue is left */
    c.threshold_ppm = series;
    struct mp_token_flow *f = condense(&w, &c, &sums);
    for (uint32_t l = 0; l < 4; l++)
        for (uint32_t i = 0; i < f->n_rows; i++)
            for (uint32_t j = 0; j < 2; j++)
                assert_true(
                    mp_trace_signature(w.trace, l, w.workload->steps[0].row[i]) ==
                    mp_trace_signature(w.trace, l,
                                       w.workload->steps[0].row[f->stands_for[((size_t)l * f->n_rows + i) * 2 + j]]));
    mp_flow_free(f);
    world_free(&w);
}

static struct mp_sim_result *simulate(struct world *w, const struct mp_condense *c, unsigned n_threads) {
    struct mp_topology *t;
    struct mp_model *m;
    struct mp_plan *plan;
    struct mp_sim_result *r;
    struct mp_error err = {0};
    enum mp_outcome outcome;
    double seconds;
    CHECK_OK(mp_topology_load(&t, "2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&m, w->trace->layer_ids, 4, 4, 2, &err), err);
    const struct mp_flow_maker maker = {mp_condense_make, (void *)(uintptr_t)c};
    const struct mp_plan_request request = {.planning = &w->part,
                                            .batching = w->workload->batching,
                                            .topology = t,
                                            .model = m,
                                            .sim = {.dispatcher = mp_dispatcher_find("deepep-normal"), .n_threads = 1},
                                            .strategy = "contiguous",
                                            .n_threads = 1,
                                            .limits = &mp_limits_default};
    CHECK_OK(mp_plan_make(&plan, &request, &outcome, &seconds, &err), err);
    const struct mp_sim_options options = {.dispatcher = request.sim.dispatcher,
                                           .n_threads = n_threads,
                                           .with_bound = true,
                                           .flow = c != NULL ? &maker : NULL};
    CHECK_OK(mp_simulate(&r, plan, w->workload, t, m, &options, &err), err);
    mp_plan_free(plan);
    mp_model_free(m);
    mp_topology_free(t);
    return r;
}

/* What a step saves, and the same for any number of threads. */
static void test_condense__fewer_tokens_and_bytes_in_a_step(void **state) {
    (void)state;
    static const uint32_t h = 800000;
    struct world w;
    const struct mp_condense c = {.threshold_ppm = &h, .n_thresholds = 1, .sure_ppm = 900000, .never_ppm = 200000};
    world_make(&w, "txl", 300);
    assert_true(w.workload->n_steps > 2);
    struct mp_sim_result *none = simulate(&w, NULL, 1), *one = simulate(&w, &c, 1), *many = simulate(&w, &c, 3);
    double rows[2] = {0};
    for (uint32_t i = 0; i < 4 * 2; i++) {
        rows[0] += none->gpu_rows[i];
        rows[1] += one->gpu_rows[i];
        assert_true(one->gpu_rows[i] == many->gpu_rows[i]);
    }
    assert_true(rows[1] < 0.6 * rows[0]);
    assert_true(one->intra_bytes < 0.8 * none->intra_bytes);
    assert_true(one->mean.step_ns < none->mean.step_ns);
    assert_int_equal(one->mean.step_ns, many->mean.step_ns);
    assert_int_equal(one->lower_bound_ns, 0);
    mp_sim_result_free(none);
    mp_sim_result_free(one);
    mp_sim_result_free(many);
    world_free(&w);
}

/* A plan that condenses says that it is lossy, and keeps every figure. */
static void test_condense__a_plan_keeps_it(void **state) {
    (void)state;
    static const uint32_t slots[2] = {1, 1};
    struct mp_error err = {0};
    struct mp_plan *plan, *back;
    struct mp_out *o;
    struct mp_in *in;
    uint32_t shares[2] = {123456, 1000000};
    CHECK_OK(mp_plan_new(&plan, 2, 2, 2, slots, &err), err);
    for (uint32_t l = 0; l < 2; l++)
        for (uint16_t e = 0; e < 2; e++)
            plan->layers[l].slot_expert[e] = e;
    plan->condense = (struct mp_plan_condense){true, 800000, 2000000, 100000, shares};
    CHECK_OK(mp_plan_check(plan, &err), err);
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_plan_write(plan, o);
    size_t n;
    const uint8_t *bytes = mp_out_memory_bytes(o, &n);
    assert_non_null(strstr((const char *)bytes, "condense:\n  lossy: true\n"));
    CHECK_OK(mp_in_from_memory(&in, "plan", bytes, n, &err), err);
    CHECK_OK(mp_plan_parse(&back, in, &mp_limits_default, &err), err);
    assert_true(back->condense.is_present);
    assert_int_equal(back->condense.threshold_ppm, 800000);
    assert_int_equal(back->condense.sure_ppm, 2000000);
    assert_int_equal(back->condense.never_ppm, 100000);
    assert_memory_equal(back->condense.condensed_ppm, shares, sizeof shares);
    shares[1] = 1000001;
    assert_int_equal(mp_plan_check(plan, &err), MP_EINPUT);
    mp_plan_free(plan);
    mp_plan_free(back);
    mp_in_close(in);
    mp_out_cancel(o);
}

static void test_condense__without_signatures_it_says_what_to_record(void **state) {
    (void)state;
    static const uint32_t h = 800000;
    struct world w;
    struct mp_error err = {0};
    struct mp_token_flow *f;
    struct mp_condense c = {.threshold_ppm = &h, .n_thresholds = 1};
    world_make(&w, NULL, 300);
    assert_int_equal(mp_condense_make(&f, &c, &w.setup, 0, &err), MP_EUSAGE);
    assert_null(f);
    assert_non_null(strstr(err.message, "similarity signatures"));
    world_free(&w);
}

static enum mp_status make_once(void *ctx, struct mp_error *err) {
    static const uint32_t h = 800000;
    struct mp_condense c = {.threshold_ppm = &h, .n_thresholds = 1};
    struct mp_token_flow *f;
    enum mp_status status = mp_condense_make(&f, &c, ctx, 0, err);
    assert_true((f == NULL) == (status != MP_OK));
    mp_flow_free(f);
    return status;
}
static const char *file_of(const char *text) {
    static char path[256];
    snprintf(path, sizeof path, "%s", temp_path("series.csv"));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}
static enum mp_status parse_once(void *ctx, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    const uint32_t *h;
    uint32_t n;
    if (arena == NULL)
        return mp_nomem(err, "arena");
    enum mp_status status = mp_condense_parse(&h, &n, ctx, arena, err);
    mp_arena_free(arena);
    return status;
}
static void test_condense__every_fault_is_reported(void **state) {
    (void)state;
    struct world w;
    char text[300];
    world_make(&w, "txl", 100);
    sweep_faults(make_once, &w.setup, 1);
    snprintf(text, sizeof text, "sigmoid:%s", file_of("4\n3\n"));
    sweep_faults(parse_once, text, 1);
    world_free(&w);
}

static void test_condense__thresholds_are_read(void **state) {
    (void)state;
    struct mp_arena *arena = mp_arena_new();
    struct mp_error err = {0};
    const uint32_t *h;
    uint32_t n;
    char text[300];
    CHECK_OK(mp_condense_parse(&h, &n, "0.75", arena, &err), err);
    assert_int_equal(n, 1);
    assert_int_equal(h[0], 750000);
    CHECK_OK(mp_condense_parse(&h, &n, file_of("step,h\r\n0, 0.5\r\n1,1 \r\n# more\n\n2,0"), arena, &err), err);
    assert_int_equal(n, 3);
    assert_int_equal(h[0], 500000);
    assert_int_equal(h[1], 1000000);
    assert_int_equal(h[2], 0);
    snprintf(text, sizeof text, "sigmoid:%s", file_of("loss\n4\n2\n0.0001\n8\n"));
    CHECK_OK(mp_condense_parse(&h, &n, text, arena, &err), err);
    assert_int_equal(n, 5);
    assert_int_equal(h[0], 500000); /* nothing is known of a loss yet */
    assert_int_equal(h[1], 500000);
    assert_int_equal(h[2], (uint32_t)llround(1e6 / (1 + exp(0.5))));
    assert_in_range(h[3], 268941, 268950); /* never below 1 / (1 + e), whatever the prose wants */
    assert_int_equal(h[4], (uint32_t)llround(1e6 / (1 + exp(-1))));
    static const struct {
        const char *text, *say;
        enum mp_status status;
        uint64_t line, column;
    } bad[] = {{"0.5\n1.5\n", "\"1.5\" is not a threshold", MP_EINPUT, 2, 1},
               {"a,0.5\nb,x\n", "\"x\" is not a threshold", MP_EINPUT, 2, 3},
               {"h\n", "holds no thresholds", MP_EINPUT, 0, 0},
               {"nan\n0.5\nnan\n", "\"nan\" is not a threshold", MP_EINPUT, 3, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct mp_error){0};
        assert_int_equal(mp_condense_parse(&h, &n, file_of(bad[i].text), arena, &err), bad[i].status);
        assert_non_null(strstr(err.message, bad[i].say));
        assert_int_equal(err.line, bad[i].line);
        assert_int_equal(err.column, bad[i].column);
    }
    err = (struct mp_error){0};
    snprintf(text, sizeof text, "sigmoid:%s", file_of("3\n-1\n"));
    assert_int_equal(mp_condense_parse(&h, &n, text, arena, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "is not a loss"));
    err = (struct mp_error){0};
    assert_int_equal(mp_condense_parse(&h, &n, "1.2", arena, &err), MP_EUSAGE);
    err = (struct mp_error){0};
    assert_int_equal(mp_condense_parse(&h, &n, "/nowhere/at.all", arena, &err), MP_EIO);
    mp_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_condense__is_the_plain_greedy_cover),
        cmocka_unit_test(test_condense__blocks_find_nearly_as_much),
        cmocka_unit_test(test_condense__thresholds_at_the_ends),
        cmocka_unit_test(test_condense__fewer_tokens_and_bytes_in_a_step),
        cmocka_unit_test(test_condense__a_plan_keeps_it),
        cmocka_unit_test(test_condense__without_signatures_it_says_what_to_record),
        cmocka_unit_test(test_condense__every_fault_is_reported),
        cmocka_unit_test(test_condense__thresholds_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
