/* Whole runs of random plans on random recordings and clusters over loop: every token verified, counts and predictions
 * those of the cost model and the simulator, and every fault caught. */
#include "trial.h"
#include "real_matrices.h"
#include <moeplan/executor.h>
#include <moeplan/report.h>

/* ---- what a run has done ---- */

static void check_counts(const struct trial *t, const struct mp_exec_result *r) {
    struct mp_error err = {0};
    struct mp_cost_setup setup = t->w.setup;
    struct mp_traffic *x;
    setup.dispatcher = t->in.dispatcher;
    setup.sources = t->in.sources;
    CHECK_OK(mp_traffic_new(&x, t->in.n_ranks, &err), err);
    const uint64_t times = t->in.n_warmup + t->in.n_iterations;
    const size_t cells = (size_t)t->in.n_ranks * t->in.n_ranks;
    uint64_t n_tokens = 0, n_copies = 0, bytes = 0;
    size_t part = 0;
    for (uint32_t s = 0; s < t->w.workload->n_steps; s++)
        for (uint32_t l = 0; l < t->w.plan->n_layers; l++) {
            CHECK_OK(mp_traffic_compute(x, &setup, s, l, &err), err);
            const uint64_t *const matrices[] = {x->dispatch, x->dispatch2, x->combine2, x->combine};
            for (int k = 0; k < MP_N_EXEC_PARTS; k++) {
                uint64_t sum = 0;
                if (!x->has_second && (k == MP_EXEC_DISPATCH_INSIDE || k == MP_EXEC_COMBINE_INSIDE))
                    continue;
                for (size_t p = 0; p < cells; p++)
                    sum += matrices[k][p];
                assert_true(part < r->n_parts);
                const struct mp_exec_part *p = &r->parts[part++];
                assert_true(p->step == s && p->layer == l && (int)p->kind == k);
                assert_int_equal(p->bytes, sum);
                bytes += sum * times;
                if (k == MP_EXEC_DISPATCH || k == MP_EXEC_DISPATCH_INSIDE)
                    n_copies += sum / t->w.model.dispatch_bytes * times;
            }
            if (t->w.workload->steps != NULL)
                n_tokens += t->w.workload->steps[s].n * times;
            else
                for (uint32_t k = 0; k < x->n_slots; k++)
                    n_tokens += x->slot_rows[k] * times;
        }
    assert_int_equal(part, r->n_parts);
    assert_int_equal(r->n_tokens, n_tokens);
    assert_int_equal(r->n_copies, n_copies);
    if (t->order.o.between_nodes) /* what is passed on is moved more than once */
        assert_true(r->n_bytes >= bytes);
    else
        assert_int_equal(r->n_bytes, bytes);
    mp_traffic_free(x);
}

static void test_exec__every_token_of_random_plans(void **state) {
    (void)state;
    static struct trial t;
    uint64_t n_tokens = 0;
    uint32_t n_staged = 0, n_fallen_back = 0, n_inside = 0;
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r;
        trial_make(&t, seed, seed % 8 == 7);
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        check_counts(&t, r);
        n_tokens += r->n_tokens;
        for (size_t i = 0; i < r->n_parts; i++) {
            n_staged += r->parts[i].is_staged;
            n_fallen_back += r->parts[i].has_fallen_back;
            n_inside += r->parts[i].kind == MP_EXEC_DISPATCH_INSIDE && r->parts[i].bytes > 0;
        }
        mp_exec_result_free(r);
        world_free(&t.w);
    }
    assert_true(n_tokens > 10000 && n_staged > 100 && n_fallen_back > 2 && n_inside > 20);
}

/* Without overlap the parts of a step add up to the simulator's dispatch and combine, to the nanosecond. */
static void test_exec__predictions_are_the_simulators(void **state) {
    (void)state;
    static struct trial t;
    uint32_t n = 0;
    for (uint64_t seed = 1000; seed < 1060; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r;
        struct mp_sim_result *sim;
        trial_make(&t, seed, false);
        const struct mp_sim_options options = {.dispatcher = t.in.dispatcher,
                                               .sources = t.in.sources,
                                               .network = MP_NETWORK_PLAN,
                                               .stage_mode = -1,
                                               .no_pacing = true,
                                               .n_threads = 1};
        if (t.in.dispatcher->is_overlapped || t.in.n_ranks < 2) {
            world_free(&t.w);
            continue;
        }
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        CHECK_OK(mp_simulate(&sim, t.w.plan, t.w.workload, &t.w.net.t, &t.w.model, &options, &err), err);
        for (uint32_t s = 0; s < sim->n_steps; s++) {
            uint64_t ns = 0;
            for (size_t i = 0; i < r->n_parts; i++)
                ns += r->parts[i].step == s ? r->parts[i].predicted_ns : 0;
            assert_int_equal(ns, sim->steps[s].dispatch_ns + sim->steps[s].combine_ns);
            n++;
        }
        mp_sim_result_free(sim);
        mp_exec_result_free(r);
        world_free(&t.w);
    }
    assert_true(n > 40);
}

/* Where a transport ends a stage before the next (nccl), free stages are run, predicted and reported as coupled. */
static void test_exec__stages_that_a_transport_couples_are_predicted_so(void **state) {
    (void)state;
    static struct trial t;
    const struct ex_limits couples = {.couples = true}, any = {0};
    const enum mp_stage_mode runs[] = {MP_STAGE_COUPLED, MP_STAGE_BARRIER, MP_STAGE_COUPLED};
    uint32_t n_staged = 0, n_others = 0;
    for (uint64_t seed = 7000; seed < 7120; seed++) {
        struct mp_error err = {0};
        struct mp_net *net;
        trial_make(&t, seed, false);
        const struct mp_plan_layer *layer = &t.w.plan->layers[0];
        if (layer->order == MP_NONE || t.w.plan->orders[layer->order].between_nodes) {
            world_free(&t.w);
            continue; /* between nodes there always are barriers */
        }
        t.w.plan->fallback_ppm = 0;
        struct mp_cost_setup setup = t.w.setup;
        setup.dispatcher = t.in.dispatcher;
        setup.sources = t.in.sources;
        CHECK_OK(mp_net_new(&net, &t.w.net.t, &err), err);
        for (int wanted = 0; wanted < 3; wanted++) {
            struct ex_layer *l, *as_run;
            uint64_t got, want, free_ns, bound;
            CHECK_OK(ex_layer_new(&l, &setup, net, wanted, &couples, 0, 0, &err), err);
            CHECK_OK(ex_layer_new(&as_run, &setup, net, (int)runs[wanted], &any, 0, 0, &err), err);
            assert_int_equal(l->scripts[EX_DISPATCH]->mode, runs[wanted]);
            CHECK_OK(ex_layer_predict(l, &setup, net, wanted, &couples, EX_DISPATCH, NULL, &got, &bound, &err), err);
            CHECK_OK(
                ex_layer_predict(as_run, &setup, net, (int)runs[wanted], &any, EX_DISPATCH, NULL, &want, &bound, &err),
                err);
            CHECK_OK(
                ex_layer_predict(as_run, &setup, net, MP_STAGE_FREE, &any, EX_DISPATCH, NULL, &free_ns, &bound, &err),
                err);
            assert_int_equal(got, want);
            n_staged += !l->scripts[EX_DISPATCH]->is_single;
            n_others += wanted == MP_STAGE_FREE && got != free_ns;
            ex_layer_free(l);
            ex_layer_free(as_run);
        }
        mp_net_free(net);
        world_free(&t.w);
    }
    assert_true(n_staged > 40 && n_others > 5);
}

static void test_exec__the_report_says_how_stages_were_run(void **state) {
    (void)state;
    static struct trial t;
    uint32_t n = 0;
    for (uint64_t seed = 0; seed < 40 && n < 3; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r;
        trial_make(&t, seed, false);
        t.w.plan->stage_mode = MP_STAGE_FREE;
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        if (r->parts[0].is_staged && !t.order.o.between_nodes) {
            for (int is_coupled = 0; is_coupled < 2; is_coupled++) {
                struct mp_out *text, *json;
                size_t size;
                CHECK_OK(mp_out_open_memory(&text, &err), err);
                CHECK_OK(mp_out_open_memory(&json, &err), err);
                for (size_t i = 0; i < r->n_parts && is_coupled; i++)
                    r->parts[i].mode = MP_STAGE_COUPLED;
                mp_exec_write_text(r, &t.in, NULL, text);
                mp_out_write(text, "", 1);
                mp_exec_write_json(r, &t.in, json);
                mp_out_write(json, "", 1);
                assert_true((strstr((const char *)mp_out_memory_bytes(text, &size), "stages are coupled") != NULL) ==
                            is_coupled);
                assert_non_null(strstr((const char *)mp_out_memory_bytes(json, &size),
                                       is_coupled ? "\"stage_mode\": \"coupled\"" : "\"stage_mode\": \"free\""));
                CHECK_OK(mp_out_commit(text, &err), err);
                CHECK_OK(mp_out_commit(json, &err), err);
            }
            n++;
        }
        mp_exec_result_free(r);
        world_free(&t.w);
    }
    assert_int_equal(n, 3);
}

/* All but measured times is the same for any number of threads. */
static void test_exec__threads_do_not_matter(void **state) {
    (void)state;
    static struct trial t;
    for (uint64_t seed = 2000; seed < 2015; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *a, *b;
        trial_make(&t, seed, false);
        t.in.with_timeline = true;
        CHECK_OK(mp_exec_run(&a, &t.in, &err), err);
        t.in.n_threads = 3;
        CHECK_OK(mp_exec_run(&b, &t.in, &err), err);
        assert_true(a->n_tokens == b->n_tokens && a->n_copies == b->n_copies && a->n_bytes == b->n_bytes &&
                    a->n_parts == b->n_parts && a->n_predicted == b->n_predicted && a->n_measured == b->n_measured);
        for (size_t i = 0; i < a->n_parts; i++)
            assert_true(a->parts[i].predicted_ns == b->parts[i].predicted_ns &&
                        a->parts[i].bound_ns == b->parts[i].bound_ns && a->parts[i].bytes == b->parts[i].bytes);
        for (size_t i = 0; i < a->n_predicted; i++)
            assert_true(a->predicted[i].src == b->predicted[i].src && a->predicted[i].dst == b->predicted[i].dst &&
                        a->predicted[i].begin_ns == b->predicted[i].begin_ns &&
                        a->predicted[i].end_ns == b->predicted[i].end_ns);
        for (size_t i = 0; i < a->n_measured; i++)
            assert_true(a->measured[i].src == b->measured[i].src && a->measured[i].bytes == b->measured[i].bytes &&
                        a->measured[i].stage == b->measured[i].stage);
        mp_exec_result_free(a);
        mp_exec_result_free(b);
        world_free(&t.w);
    }
}

/* Every copy goes to where its experts are, every expert of every token gets its copy. */
static void test_exec__copies_reach_all_experts(void **state) {
    (void)state;
    static struct trial t;
    for (uint64_t seed = 3000; seed < 3060; seed++) {
        struct mp_error err = {0};
        struct ex_route *route;
        trial_make(&t, seed, false);
        struct mp_cost_setup setup = t.w.setup;
        setup.dispatcher = t.in.dispatcher;
        setup.sources = t.in.sources;
        CHECK_OK(ex_route_new(&route, &setup, 0, 0, &err), err);
        const uint32_t n = route->n;
        for (uint32_t i = 0; i < route->n_tokens; i++)
            for (uint32_t c = route->tokens[i].first_choice;
                 c < route->tokens[i].first_choice + route->tokens[i].n_choices; c++) {
                const uint32_t src = route->tokens[i].source, g = route->choices[c].gpu;
                uint32_t found = g == src;
                for (uint32_t from = 0; from < n; from++)
                    for (int inside = 0; inside < 2; inside++) {
                        const struct ex_carriage *x = inside ? &route->inside : &route->out;
                        for (size_t k = x->first[from * n + g]; k < x->first[from * n + g + 1]; k++)
                            found += x->list[k].token == i && (x->list[k].choice == MP_NONE || x->list[k].choice == c);
                    }
                assert_int_equal(found, 1);
            }
        for (size_t k = 0; route->has_inside && k < route->inside.first[n * n]; k++) {
            size_t flow = 0; /* what is passed on came to the gateway first */
            while (route->inside.first[flow + 1] <= k)
                flow++;
            const struct ex_carried *x = &route->inside.list[k];
            const size_t brought = route->tokens[x->token].source * n + flow / n;
            assert_true(route->out.first[brought] + x->relay < route->out.first[brought + 1]);
            assert_int_equal(route->out.list[route->out.first[brought] + x->relay].token, x->token);
        }
        ex_route_free(route);
        world_free(&t.w);
    }
}

/* A matrix without tokens goes there and back, in any order. */
static void test_exec__plain_matrices(void **state) {
    (void)state;
    static struct trial t;
    static uint64_t matrix[CASE_GPUS * CASE_GPUS];
    uint32_t n_staged = 0, n_caught = 0;
    for (uint64_t seed = 6000; seed < 6050; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r = NULL;
        struct mp_rng rng = mp_rng_seed(seed);
        uint64_t bytes = 0, n_flows = 0;
        trial_make(&t, seed, false);
        const uint32_t n = t.in.n_ranks;
        for (uint32_t p = 0; p < n * n; p++) {
            matrix[p] = mp_rng_below(&rng, 3) == 0 ? 0 : mp_rng_below(&rng, 5000); /* the diagonal is not moved */
            bytes += p % (n + 1) == 0 ? 0 : matrix[p];
            n_flows += p % (n + 1) != 0 && matrix[p] > 0;
        }
        t.in.matrix = matrix;
        t.in.workload = NULL;
        t.in.model = NULL;
        t.in.dispatcher = NULL;
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        const uint64_t times = t.in.n_warmup + t.in.n_iterations;
        assert_true(r->n_parts == 2 && r->parts[0].bytes == bytes && r->parts[1].bytes == bytes);
        assert_true(r->n_tokens == n_flows * times && r->n_copies == n_flows * times &&
                    r->n_bytes >= 2 * bytes * times);
        n_staged += r->parts[0].is_staged;
        mp_exec_result_free(r);
        /* One bit on its way from a rank that sends in the first stage. */
        struct ex_layer *l;
        struct mp_net *net;
        char fault[64] = "";
        struct mp_cost_setup setup = {.plan = t.w.plan, .topology = &t.w.net.t};
        CHECK_OK(mp_net_new(&net, &t.w.net.t, &err), err);
        CHECK_OK(ex_layer_plain(&l, &setup, net, matrix, -1, &(struct ex_limits){0}, &err), err);
        if (l->scripts[EX_DISPATCH]->n_messages > 0)
            snprintf(fault, sizeof fault, "corrupt@0/0/%u/%u", l->scripts[EX_DISPATCH]->messages[0].stage,
                     l->scripts[EX_DISPATCH]->messages[0].src);
        ex_layer_free(l);
        mp_net_free(net);
        t.in.fault = fault;
        if (fault[0] != '\0') {
            assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EPEER);
            assert_non_null(strstr(err.message, "came wrong"));
            n_caught++;
        }
        world_free(&t.w);
    }
    assert_true(n_staged > 10 && n_caught > 40);
}

/* ---- faults ---- */

static void test_exec__faults_are_caught(void **state) {
    (void)state;
    static struct trial t;
    static const char *const kinds[] = {"corrupt", "swap", "drop", "lie", "stop"};
    uint32_t n[5] = {0};
    for (uint64_t seed = 4000; seed < 4060; seed++) {
        uint32_t rank = 0, stage = 0;
        uint64_t n_sends = 0;
        char fault[64];
        trial_make(&t, seed, false);
        const size_t k = seed % 5;
        if (trial_victim(&t, &rank, &stage, &n_sends) && (k != 4 || n[4] < 3)) {
            struct mp_error err = {0};
            struct mp_exec_result *r;
            snprintf(fault, sizeof fault, "%s@0/0/%u/%u", kinds[k], stage, rank);
            t.in.fault = fault;
            t.in.deadline_ms = k == 4 ? 300 : 30000;
            assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EPEER);
            assert_null(r);
            const bool is_data = k < 3;
            if (strstr(err.message, is_data ? "wrong" : "bytes") == NULL || strstr(err.message, "rank") == NULL)
                fail_msg("%s: %s", fault, err.message);
            n[k]++;
        }
        world_free(&t.w);
    }
    for (size_t k = 0; k < 5; k++)
        assert_true(n[k] >= 2);
}

static enum mp_status run_once(void *ctx, struct mp_error *err) {
    const struct trial *t = ctx;
    struct mp_exec_result *r;
    struct mp_out *o = NULL;
    enum mp_status status = mp_exec_run(&r, &t->in, err);
    if (status != MP_OK)
        return status;
    status = mp_out_open_memory(&o, err);
    if (status == MP_OK) {
        mp_exec_write_text(r, &t->in, NULL, o);
        mp_exec_write_timeline(r, &t->in, o);
        status = mp_out_commit(o, err);
    }
    mp_exec_result_free(r);
    return status;
}
static void test_exec__no_memory(void **state) {
    (void)state;
    static struct trial t;
    for (uint64_t seed = 5002; seed < 5006; seed++) {
        trial_make(&t, seed, false);
        t.in.n_warmup = 0;
        t.in.n_iterations = 1;
        t.in.with_timeline = true;
        sweep_faults(run_once, &t, 11);
        world_free(&t.w);
    }
}

static void test_exec__asks_for_what_fits(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_result *r;
    struct mp_error err = {0};
    trial_make(&t, 1, false);
    t.in.transport = "pigeon";
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--list transports"));
    err = (struct mp_error){0};
    t.in.transport = "loop";
    t.in.n_ranks++;
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    world_free(&t.w);
    trial_make(&t, 7, true);
    err = (struct mp_error){0};
    t.in.dispatcher = mp_dispatcher_find("deepep-normal");
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    world_free(&t.w);
}

/* ---- recordings ---- */

/* Gate weights of a recording are those of the answers; 0 counts as 1, for an answer of nothing could be lost. */
static void test_exec__weights_are_the_recordings(void **state) {
    (void)state;
    static struct trial t;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace *trace;
    struct mp_part part, same;
    struct mp_workload *w;
    struct ex_route *route;
    const uint32_t n_rows = 40;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "",
                                       .format = "test",
                                       .n_layers = 2,
                                       .n_experts = 4,
                                       .top_k = 2,
                                       .has_weights = true};
    memset(&t, 0, sizeof t);
    case_plain(&t.w.net, 1, 2, 1000, 1000);
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint16_t ids[4] = {(uint16_t)(i % 4), (uint16_t)((i + 1) % 4), (uint16_t)(i % 3), 3},
                       weights[4] = {(uint16_t)(i * 10), 7, (uint16_t)(i * 100), (uint16_t)(65535 - i)};
        if (i % 10 == 0)
            CHECK_OK(mp_trace_builder_request(b, &(struct mp_request){.id = i, .source = MP_NONE, .category = MP_NONE},
                                              &err),
                     err);
        CHECK_OK(mp_trace_builder_row(b, ids, weights, &err), err);
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &trace, &err), err);
    CHECK_OK(mp_part_split(&part, &same, trace, &(struct mp_split){.kind = MP_SPLIT_NONE}, &err), err);
    CHECK_OK(mp_workload_build(&w, &part,
                               &(struct mp_batching){.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 20},
                               &err),
             err);
    const uint32_t slots[2] = {2, 2};
    struct mp_plan *plan;
    struct mp_router *router;
    CHECK_OK(mp_plan_new(&plan, 2, 4, 2, slots, &err), err);
    for (uint32_t l = 0; l < 2; l++)
        for (uint16_t e = 0; e < 4; e++)
            plan->layers[l].slot_expert[e] = e;
    CHECK_OK(mp_router_new(&router, plan, &err), err);
    const struct mp_model model = {.name = "m", .n_experts = 4, .n_layers = 2, .dispatch_bytes = 8, .combine_bytes = 8};
    const struct mp_cost_setup setup = {.plan = plan,
                                        .router = router,
                                        .workload = w,
                                        .topology = &t.w.net.t,
                                        .model = &model,
                                        .dispatcher = mp_dispatcher_find("a2av")};
    for (uint32_t l = 0; l < 2; l++) {
        CHECK_OK(ex_route_new(&route, &setup, 0, l, &err), err);
        assert_int_equal(route->n_tokens, n_rows);
        for (uint32_t i = 0; i < route->n_tokens; i++) {
            const struct ex_choice *c = &route->choices[route->tokens[i].first_choice];
            const uint64_t row = route->tokens[i].row;
            const uint16_t first = (uint16_t)(row * (l == 0 ? 10 : 100)), second = (uint16_t)(l == 0 ? 7 : 65535 - row);
            assert_true(c[0].weight == (first > 0 ? first : 1) && c[1].weight == second);
            assert_int_equal(c[0].expert, l == 0 ? row % 4 : row % 3);
        }
        ex_route_free(route);
    }
    mp_router_free(router);
    mp_plan_free(plan);
    mp_workload_free(w);
    mp_part_free(&part);
    mp_part_free(&same);
    mp_trace_free(trace);
}

/* A real recording, with its model's sizes, on two nodes, by every dispatcher. */
static void test_exec__recorded_tokens(void **state) {
    (void)state;
    const struct real_trace *real = &real_traces[3];
    char path[512];
    struct mp_error err = {0};
    struct real_set set;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_plan *plan;
    struct mp_exec_result *r;
    uint32_t slots[8];
    snprintf(path, sizeof path, "traces/%s", real->path);
    const char *found = shared_path(path);
    if (found == NULL)
        skip();
    CHECK_OK(real_set_load(&set, real, found, 8, &err), err);
    CHECK_OK(mp_topology_load(&topology, "2x4:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_load(&model, "gpt-oss-20b", &mp_limits_default, &err), err);
    for (uint32_t g = 0; g < 8; g++)
        slots[g] = 4;
    CHECK_OK(mp_plan_new(&plan, set.trace->n_layers, 32, 8, slots, &err), err);
    for (uint32_t l = 0; l < plan->n_layers; l++)
        for (uint16_t e = 0; e < 32; e++)
            plan->layers[l].slot_expert[e] = e;
    for (uint32_t g = 0; g < 8; g++)
        ((uint32_t *)(uintptr_t)plan->gpu_node)[g] = g / 4;
    plan->n_nodes = 2;
    plan->provenance.strategy = "contiguous";
    set.workload->n_steps = 1;
    for (size_t k = 0; k < N_TRIAL_DISPATCHERS; k++) {
        const struct mp_exec in = {.plan = plan,
                                   .workload = set.workload,
                                   .topology = topology,
                                   .model = model,
                                   .dispatcher = mp_dispatcher_find(trial_dispatchers[k]),
                                   .stage_mode = -1,
                                   .transport = "loop",
                                   .n_iterations = 1,
                                   .n_threads = 2,
                                   .deadline_ms = 30000,
                                   .n_ranks = 8,
                                   .n_local = 8,
                                   .launcher_fd = -1};
        CHECK_OK(mp_exec_run(&r, &in, &err), err);
        assert_int_equal(r->n_tokens, (uint64_t)set.workload->steps[0].n * plan->n_layers);
        mp_exec_result_free(r);
    }
    mp_plan_free(plan);
    mp_model_free(model);
    mp_topology_free(topology);
    real_set_free(&set);
}

/* ---- payloads ---- */

static void test_exec__payloads(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    uint8_t a[300], b[300], sum[300], other[300];
    for (uint32_t i = 0; i < 400; i++) {
        struct ex_payload p = {.seed = i,
                               .step = i % 3,
                               .layer = i % 5,
                               .iteration = i % 2,
                               .dispatch_bytes = 1 + mp_rng_below(&rng, 200),
                               .combine_bytes = 1 + mp_rng_below(&rng, 200)};
        const uint64_t row = mp_rng_next(&rng), at = mp_rng_below(&rng, p.dispatch_bytes);
        memset(a, 0x5A, sizeof a);
        ex_payload_fill(&p, row, a);
        assert_int_equal(a[p.dispatch_bytes], 0x5A);
        assert_int_equal(ex_payload_check(&p, row, a), p.dispatch_bytes);
        assert_int_equal(ex_payload_byte(&p, row, at), a[at]);
        const uint64_t key = ex_payload_key(&p, a);
        a[at] ^= (uint8_t)(1u << mp_rng_below(&rng, 8));
        assert_int_equal(ex_payload_check(&p, row, a), at);
        assert_true(ex_payload_key(&p, a) != key);
        if (p.dispatch_bytes >= 24) { /* what an earlier iteration left does not pass */
            ex_payload_fill(&p, row, a);
            p.iteration++;
            assert_true(ex_payload_check(&p, row, a) < p.dispatch_bytes);
        }
        /* Sums of answers do not know their order, and end where they shall. */
        memset(sum, 0, sizeof sum);
        memset(b, 0, sizeof b);
        memset(other, 0, sizeof other);
        ex_payload_answer(&p, key, 1, 3, sum);
        ex_payload_answer(&p, key, 2, 65535, sum);
        ex_payload_answer(&p, key, 2, 65535, b);
        ex_payload_answer(&p, key, 1, 3, other);
        ex_payload_add(&p, other, 1, b);
        assert_memory_equal(sum, b, sizeof sum);
        for (size_t k = p.combine_bytes; k < sizeof sum; k++)
            assert_int_equal(sum[k], 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exec__every_token_of_random_plans),
        cmocka_unit_test(test_exec__predictions_are_the_simulators),
        cmocka_unit_test(test_exec__stages_that_a_transport_couples_are_predicted_so),
        cmocka_unit_test(test_exec__the_report_says_how_stages_were_run),
        cmocka_unit_test(test_exec__threads_do_not_matter),
        cmocka_unit_test(test_exec__copies_reach_all_experts),
        cmocka_unit_test(test_exec__plain_matrices),
        cmocka_unit_test(test_exec__faults_are_caught),
        cmocka_unit_test(test_exec__no_memory),
        cmocka_unit_test(test_exec__asks_for_what_fits),
        cmocka_unit_test(test_exec__weights_are_the_recordings),
        cmocka_unit_test(test_exec__recorded_tokens),
        cmocka_unit_test(test_exec__payloads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
