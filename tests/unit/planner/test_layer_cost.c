/* The evaluator of one layer against the simulator: after every change the same nanoseconds, and the change's value
 * said beforehand. */
#include "support.h"

#include "layer_cost.h"
#include "tiny.h"
#include <math.h>

struct world {
    struct tiny tiny;
    struct mp_workload *workload;
    struct mp_problem problem;
    struct mp_plan *plan;
    struct mp_layer_cost *cost[2];
    uint16_t copies[2][64], gpu[2][64]; /* of items; MP_ITEM_OFF where the number of replicas is another one */
    uint32_t n_items, n_experts;
    uint8_t most[16]; /* replicas of each expert, where they are added and dropped */
    uint32_t first[17];
};

/* The plan that has item i of layer l on gpu[l][i]: slots by GPU, experts ascending. */
static void write_plan(struct world *w) {
    for (uint32_t l = 0; l < w->plan->n_layers; l++) {
        uint16_t *slots = w->plan->layers[l].slot_expert;
        memset(slots, 0xff, w->plan->n_slots * sizeof *slots);
        for (uint32_t g = 0; g < w->plan->n_gpus; g++) {
            uint32_t at = w->plan->gpu_first_slot[g];
            for (uint32_t i = 0; i < w->n_items; i++)
                if (w->gpu[l][i] == g)
                    slots[at++] = w->copies[l][i];
        }
    }
}

/* Replicas of an expert on distinct, rising GPUs, at random. */
static void deal(struct world *w, struct mp_rng *rng, uint32_t l) {
    uint32_t n_gpus = w->plan->n_gpus;
    for (uint32_t i = 0; i < w->n_items; i++) {
        bool is_taken = true;
        while (is_taken) {
            w->gpu[l][i] = (uint16_t)mp_rng_below(rng, n_gpus);
            is_taken = false;
            for (uint32_t j = 0; j < i; j++)
                is_taken |= w->copies[l][j] == w->copies[l][i] && w->gpu[l][j] == w->gpu[l][i];
        }
    }
    for (uint32_t i = 0; i < w->n_items; i++)
        for (uint32_t j = 0; j < i; j++)
            if (w->copies[l][j] == w->copies[l][i] && w->gpu[l][j] > w->gpu[l][i]) {
                uint16_t x = w->gpu[l][j];
                w->gpu[l][j] = w->gpu[l][i];
                w->gpu[l][i] = x;
            }
}

/* Simulates, and compares step by step. */
static void compare(struct world *w) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    struct mp_sim_options options = w->problem.sim;
    options.network = MP_NETWORK_PORT_BOUND;
    options.stage_mode = -1;
    write_plan(w);
    CHECK_OK(mp_simulate(&r, w->plan, w->workload, w->problem.topology, w->problem.model, &options, &err), err);
    uint64_t total = 0;
    for (uint32_t s = 0; s < r->n_steps; s++) {
        uint64_t sum = w->problem.model->other_ns_per_step;
        for (uint32_t l = 0; l < w->plan->n_layers; l++)
            sum += mp_layer_cost_steps(w->cost[l])[s];
        assert_int_equal(sum, r->steps[s].step_ns);
        total += sum;
    }
    uint64_t now = mp_layer_cost_now(w->cost[0]) + mp_layer_cost_now(w->cost[1]);
    const struct mp_model *m = w->problem.model;
    switch (w->problem.objective) {
    case MP_OBJECTIVE_STEP:
        assert_int_equal(now, total - r->n_steps * m->other_ns_per_step);
        break;
    case MP_OBJECTIVE_PEAK:
        assert_true(fabs((double)now / (2 * r->n_steps) - r->balance.peak_rows) < 1e-9);
        break;
    case MP_OBJECTIVE_INTER:
        assert_true(fabs((double)now * (double)(m->dispatch_bytes + m->combine_bytes) / r->n_steps - r->inter_bytes) <
                    1e-3 * (1 + r->inter_bytes));
        break;
    case MP_OBJECTIVE_P95:
    default:
        break;
    }
    mp_sim_result_free(r);
}

/* Expert e of layer l gets n replicas on distinct, rising GPUs: into gpu[]. */
static void replicate(const struct world *w, struct mp_rng *rng, uint32_t e, uint32_t n, uint16_t *gpu) {
    for (uint32_t m = 1; m <= w->most[e]; m++)
        for (uint32_t r = 0; r < m; r++)
            gpu[mp_replica_item(w->first[e], m, r)] = MP_ITEM_OFF;
    for (uint32_t r = 0, g = 0, left = n; left > 0; g++) /* each set of n GPUs equally likely */
        if (mp_rng_below(rng, w->plan->n_gpus - g) < left) {
            gpu[mp_replica_item(w->first[e], n, r++)] = (uint16_t)g;
            left--;
        }
}

/* One or two experts get another number of replicas, elsewhere; kept half of the time. */
static void change_replicas(struct world *w, struct mp_rng *rng) {
    const uint32_t l = (uint32_t)mp_rng_below(rng, 2), n = 1 + (uint32_t)mp_rng_below(rng, 2);
    uint16_t gpu[64];
    struct mp_item_move moves[2 * MP_LAYER_MOVES_MAX];
    uint32_t n_moves = 0;
    memcpy(gpu, w->gpu[l], sizeof gpu);
    for (uint32_t k = 0, e = (uint32_t)mp_rng_below(rng, w->n_experts); k < n; k++, e = (e + 1) % w->n_experts)
        replicate(w, rng, e, 1 + (uint32_t)mp_rng_below(rng, w->most[e]), gpu);
    for (uint32_t i = 0; i < w->n_items; i++)
        if (gpu[i] != w->gpu[l][i])
            moves[n_moves++] = (struct mp_item_move){(uint16_t)i, gpu[i]};
    uint64_t value = mp_layer_cost_try(w->cost[l], moves, n_moves, false);
    if (mp_rng_below(rng, 2) == 0)
        return;
    mp_layer_cost_keep(w->cost[l]);
    assert_int_equal(value, mp_layer_cost_now(w->cost[l]));
    memcpy(w->gpu[l], gpu, sizeof gpu);
    assert_memory_equal(mp_layer_cost_gpus(w->cost[l]), gpu, w->n_items * sizeof *gpu);
}

/* A race gives up or says what the whole does; met again, from its other end, it does the same at the same work. */
static void race(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n) {
    struct mp_item_move turned[3];
    for (uint32_t k = 0; k < n; k++)
        turned[k] = moves[n - 1 - k];
    const uint64_t now = mp_layer_cost_now(c), whole = mp_layer_cost_try(c, moves, n, false),
                   begun = mp_layer_cost_work(c), first = mp_layer_cost_try(c, moves, n, true),
                   between = mp_layer_cost_work(c), second = mp_layer_cost_try(c, turned, n, true);
    assert_true(first == UINT64_MAX || first == whole);
    assert_int_equal(mp_layer_cost_work(c) - between, between - begun);
    assert_true(first < now ? second == first : second >= now);
}

/* One to three items of experts without replicas to random GPUs, or one replica; kept half of the time. */
static void change(struct world *w, struct mp_rng *rng) {
    uint32_t l = (uint32_t)mp_rng_below(rng, 2), n = 1 + (uint32_t)mp_rng_below(rng, 3);
    struct mp_item_move moves[3];
    for (uint32_t k = 0; k < n; k++) {
        bool is_bad = true;
        while (is_bad) {
            moves[k].item = (uint16_t)mp_rng_below(rng, w->n_items);
            is_bad = false;
            for (uint32_t j = 0; j < k; j++)
                is_bad |= moves[j].item == moves[k].item;
            for (uint32_t i = 0; i < w->n_items; i++)
                is_bad |= i != moves[k].item && w->copies[l][i] == w->copies[l][moves[k].item];
        }
        moves[k].gpu = (uint16_t)mp_rng_below(rng, w->plan->n_gpus);
    }
    race(w->cost[l], moves, n);
    uint64_t value = mp_layer_cost_try(w->cost[l], moves, n, false);
    if (mp_rng_below(rng, 2) == 0)
        return;
    mp_layer_cost_keep(w->cost[l]);
    assert_int_equal(value, mp_layer_cost_now(w->cost[l]));
    for (uint32_t k = 0; k < n; k++)
        w->gpu[l][moves[k].item] = moves[k].gpu;
    assert_memory_equal(mp_layer_cost_gpus(w->cost[l]), w->gpu[l], w->n_items * sizeof(uint16_t));
}

#define ADD_AND_DROP UINT32_MAX /* replicas come and go */
static void run_world(const struct tiny_spec *spec, const char *dispatcher, enum mp_sources sources,
                      enum mp_objective objective, uint32_t n_replicas, uint64_t seed) {
    const bool is_open = n_replicas == ADD_AND_DROP;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(seed);
    static struct world w;
    enum mp_outcome outcome;
    uint32_t slots[MP_MAX_GPUS];
    w = (struct world){0};
    CHECK_OK(tiny_make(&w.tiny, spec, &err), err);
    w.tiny.request.sim.dispatcher = mp_dispatcher_find(dispatcher);
    w.tiny.request.sim.sources = sources;
    CHECK_OK(mp_workload_build(&w.workload, &w.tiny.part, &w.tiny.request.batching, &err), err);
    w.problem = (struct mp_problem){.workload = w.workload,
                                    .topology = w.tiny.topology,
                                    .model = w.tiny.model,
                                    .sim = w.tiny.request.sim,
                                    .objective = objective,
                                    .n_threads = 1};
    w.n_experts = spec->n_experts;
    for (uint32_t e = 0; e < w.n_experts && is_open; e++) {
        w.most[e] = (uint8_t)(1 + mp_rng_below(&rng, w.tiny.topology->n_gpus < 3 ? w.tiny.topology->n_gpus : 3));
        w.first[e + 1] = w.first[e] + mp_layer_items(MP_ROUTE_EVEN, w.most[e]);
    }
    w.n_items = is_open ? w.first[w.n_experts] : spec->n_experts + n_replicas;
    assert_true(w.n_items <= 64);
    for (uint32_t g = 0; g < w.tiny.topology->n_gpus; g++)
        slots[g] = w.n_items;
    CHECK_OK(mp_plan_new(&w.plan, 2, spec->n_experts, w.tiny.topology->n_gpus, slots, &err), err);
    uint32_t *node = mp_arena_alloc(w.plan->arena, w.plan->n_gpus, sizeof *node);
    for (uint32_t g = 0; g < w.plan->n_gpus; g++)
        node[g] = mp_topology_node(w.tiny.topology, g);
    w.plan->gpu_node = node;
    w.plan->n_nodes = mp_topology_n_nodes(w.tiny.topology);
    for (uint32_t l = 0; l < 2; l++) {
        for (uint32_t i = 0; i < w.n_items && !is_open; i++)
            w.copies[l][i] = (uint16_t)(i < spec->n_experts ? i : i % 2); /* experts 0 and 1 have the replicas */
        for (uint32_t e = 0; e < w.n_experts && is_open; e++) {
            for (uint32_t i = w.first[e]; i < w.first[e + 1]; i++)
                w.copies[l][i] = (uint16_t)e;
            replicate(&w, &rng, e, 1 + (uint32_t)mp_rng_below(&rng, w.most[e]), w.gpu[l]);
        }
        if (!is_open)
            deal(&w, &rng, l);
        const struct mp_layer_cost_spec cost = {.problem = &w.problem,
                                                .copies = is_open ? NULL : w.copies[l],
                                                .most = is_open ? w.most : NULL,
                                                .n_copies = w.n_items,
                                                .layer = l,
                                                .n_steps = w.workload->n_steps};
        CHECK_OK(mp_layer_cost_new(&w.cost[l], &cost, &outcome, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        mp_layer_cost_set(w.cost[l], w.gpu[l]);
    }
    compare(&w);
    for (int k = 0; k < 12; k++) {
        if (is_open)
            change_replicas(&w, &rng);
        else
            change(&w, &rng);
        compare(&w);
    }
    for (uint32_t l = 0; l < 2; l++)
        mp_layer_cost_free(w.cost[l]);
    mp_plan_free(w.plan);
    mp_workload_free(w.workload);
    tiny_free(&w.tiny);
}

static const char *const files[] = {"topologies/shared-nic.yaml", "topologies/rack-two-tier.yaml",
                                    "topologies/mi300x-n1g8.yaml", "topologies/mixed-a100-l40s.yaml",
                                    "topologies/h100-n4g8-oversubscribed.yaml"};
static const char *const shapes[] = {"1:h100", "2:h100", "2x2:h100", "4x1:h100", "1x2:a100+1x1:l40s", "2x4:h100"};

static void test_layer_cost__equals_the_simulator(void **state) {
    (void)state;
    static const char *const dispatchers[] = {"a2av", "deepep-ll", "deepep-normal", "hierarchical", "agrs"};
    struct mp_rng rng = mp_rng_seed(7);
    for (uint64_t i = 0; i < 110; i++) {
        struct tiny_spec s = {.n_layers = 2,
                              .n_experts = 6 + (uint32_t)mp_rng_below(&rng, 8),
                              .top_k = 1 + (uint32_t)mp_rng_below(&rng, 4),
                              .n_rows = 4 + (uint32_t)mp_rng_below(&rng, 12),
                              .topology = i % 2 == 0 ? shapes[i / 2 % 6] : source_path(files[i / 2 % 5]),
                              .phase = i % 3 == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .seed = i};
        s.batch = s.phase == MP_PHASE_DECODE ? 2 : 24;
        s.n_requests = 160;
        if (i % 9 == 4 && s.phase == MP_PHASE_PREFILL) { /* more than 64 tokens of a source */
            s.batch = 150;
            s.n_rows = 40;
        }
        run_world(&s, dispatchers[i % 5], i % 7 == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP, (enum mp_objective)(i % 4),
                  0, i);
    }
}

static void test_layer_cost__equals_the_simulator_with_replicas(void **state) {
    (void)state;
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "hierarchical"};
    for (uint64_t i = 0; i < 40; i++) {
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 8,
                                    .top_k = 3,
                                    .n_requests = 160,
                                    .n_rows = 8,
                                    .topology = i % 2 == 0 ? "4:h100" : "2x4:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 40,
                                    .seed = i};
        run_world(&s, dispatchers[i % 3], i % 5 == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP, MP_OBJECTIVE_STEP, 3, i);
    }
}

/* Replicas are added, dropped and moved, by one change each; every dispatcher, counts too. */
static void test_layer_cost__equals_the_simulator_while_replicas_come_and_go(void **state) {
    (void)state;
    static const char *const dispatchers[] = {"a2av", "deepep-ll", "deepep-normal", "hierarchical", "agrs"};
    for (uint64_t i = 0; i < 60; i++) {
        const bool is_counts = i % 10 == 1;
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 10,
                                    .top_k = 3,
                                    .n_requests = is_counts ? 6 : 160,
                                    .n_rows = is_counts ? 1 : 8,
                                    .is_counts = is_counts,
                                    .topology = i % 2 == 0 ? shapes[i / 2 % 6] : source_path(files[i / 2 % 5]),
                                    .phase = i % 3 == 0 && !is_counts ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                    .batch = i % 3 == 0 ? 2 : 20,
                                    .seed = i};
        run_world(&s, dispatchers[i % 5], MP_SOURCES_DP, (enum mp_objective)(i % 4), ADD_AND_DROP, i);
    }
}

/* What coupled tokens do depends on where their own expert is: their items stay. */
static void test_layer_cost__coupled_sources_keep_their_replicas(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_workload *w;
    struct mp_layer_cost *c;
    enum mp_outcome outcome;
    const struct tiny_spec s = {.n_layers = 1,
                                .n_experts = 4,
                                .top_k = 2,
                                .n_requests = 60,
                                .n_rows = 8,
                                .topology = "2:h100",
                                .phase = MP_PHASE_PREFILL,
                                .batch = 20};
    const uint8_t most[4] = {1, 2, 1, 1};
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.sim.sources = MP_SOURCES_COUPLED;
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    const struct mp_problem problem = {
        .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
    const struct mp_layer_cost_spec spec = {.problem = &problem, .most = most, .n_copies = 6, .n_steps = w->n_steps};
    CHECK_OK(mp_layer_cost_new(&c, &spec, &outcome, &err), err);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    assert_non_null(strstr(err.message, "write --replicate eplb"));
    assert_null(c);
    mp_workload_free(w);
    tiny_free(&t);
}

static void test_layer_cost__equals_the_simulator_on_counts(void **state) {
    (void)state;
    static const char *const dispatchers[] = {"a2av", "deepep-ll", "agrs"};
    for (uint64_t i = 0; i < 40; i++) {
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 9,
                                    .top_k = 2,
                                    .n_requests = 6,
                                    .n_rows = 1,
                                    .topology = i % 2 == 0 ? shapes[i / 2 % 6] : source_path(files[i / 2 % 5]),
                                    .is_counts = true,
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 8,
                                    .seed = i};
        bool has_replicas = i % 4 != 0 && strcmp(s.topology, "1:h100") != 0 && strcmp(s.topology, "2:h100") != 0;
        run_world(&s, dispatchers[i % 3], MP_SOURCES_DP, (enum mp_objective)(i % 4), has_replicas ? 3 : 0, i);
    }
}

/* ---- groups ---- */
/* Expert e belongs with those of e mod n_groups: nine tokens in ten use only experts of one group. */
static void plant(struct mp_trace *t, uint32_t n_groups, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    const uint32_t each = t->n_experts / n_groups;
    for (uint64_t row = 0; row < t->n_rows; row++) {
        uint64_t n_rows;
        uint8_t *ids = (uint8_t *)mp_trace_ids(t, 0, row, &n_rows);
        uint32_t group = (uint32_t)mp_rng_below(&rng, n_groups), shift = (uint32_t)mp_rng_below(&rng, each);
        bool is_loose = mp_rng_below(&rng, 10) == 0;
        for (uint32_t k = 0; k < t->top_k; k++)
            ids[k] = (uint8_t)(is_loose ? (group + 5 * k) % t->n_experts : (k + shift) % each * n_groups + group);
    }
}

static void test_layer_cost__groups_experts_that_are_used_together(void **state) {
    (void)state;
    static const struct {
        const char *topology;
        uint32_t n_groups; /* nodes, or GPUs of the only node */
    } cases[] = {{"2x2:h100", 2}, {"4x1:h100", 4}, {"4:h100", 4}, {"2x4:h100", 2}, {"4x2:h100", 4}};
    for (uint64_t i = 0; i < 40; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct mp_workload *w;
        struct mp_layer_cost *c;
        enum mp_outcome outcome;
        const uint32_t n_groups = cases[i % 5].n_groups;
        const struct tiny_spec s = {.n_layers = 1,
                                    .n_experts = 16,
                                    .top_k = 3,
                                    .n_requests = 60,
                                    .n_rows = 10,
                                    .topology = cases[i % 5].topology,
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 20,
                                    .seed = i};
        CHECK_OK(tiny_make(&t, &s, &err), err);
        plant(t.trace, n_groups, i);
        t.model->dispatch_bytes *= 16; /* copies matter more than rows do */
        t.model->combine_bytes *= 16;
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        uint16_t copies[16], gpu[16], again[16];
        uint32_t first_slot[9], at[16];
        const uint32_t n_gpus = t.topology->n_gpus;
        struct mp_rng rng = mp_rng_seed(i);
        for (uint32_t e = 0; e < 16; e++) {
            copies[e] = (uint16_t)e;
            at[e] = e * n_gpus / 16;
        }
        mp_rng_shuffle(&rng, at, 16);
        for (uint32_t e = 0; e < 16; e++)
            gpu[e] = again[e] = (uint16_t)at[e];
        for (uint32_t g = 0; g <= n_gpus; g++)
            first_slot[g] = g * 16 / n_gpus;
        const struct mp_layer_cost_spec spec = {
            .problem = &problem, .copies = copies, .n_copies = 16, .n_steps = w->n_steps};
        CHECK_OK(mp_layer_cost_new(&c, &spec, &outcome, &err), err);
        bool has_groups;
        uint64_t before = mp_layer_cost_work(c);
        struct mp_rng same = mp_rng_seed(i + 1000), twin = same;
        CHECK_OK(mp_layer_cost_groups(c, &spec, first_slot, &same, 20000000, gpu, &has_groups, &err), err);
        assert_true(has_groups);
        assert_true(mp_layer_cost_work(c) > before);
        uint32_t used[8] = {0};
        for (uint32_t e = 0; e < 16; e++) {
            used[gpu[e]]++;
            for (uint32_t f = 0; f < 16; f++) {
                uint32_t u = n_groups == n_gpus ? gpu[e] : mp_topology_node(t.topology, gpu[e]),
                         v = n_groups == n_gpus ? gpu[f] : mp_topology_node(t.topology, gpu[f]);
                assert_true((u == v) == (e % n_groups == f % n_groups));
            }
        }
        for (uint32_t g = 0; g < n_gpus; g++)
            assert_int_equal(used[g], 16 / n_gpus);
        CHECK_OK(mp_layer_cost_groups(c, &spec, first_slot, &twin, 20000000, again, &has_groups, &err), err);
        assert_memory_equal(gpu, again, sizeof gpu);
        mp_layer_cost_free(c);
        mp_workload_free(w);
        tiny_free(&t);
    }
}

/* A copy for every (token, expert) costs the same wherever experts that are used together stand. */
static void test_layer_cost__groups_only_where_copies_are_saved(void **state) {
    (void)state;
    static const char *const dispatchers[] = {"a2av", "deepep-ll", "agrs", "deepep-normal", "hierarchical"};
    for (uint32_t i = 0; i < 5; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct mp_workload *w;
        struct mp_layer_cost *c;
        enum mp_outcome outcome;
        const struct tiny_spec s = {.n_layers = 1,
                                    .n_experts = 8,
                                    .top_k = 2,
                                    .n_requests = 60,
                                    .n_rows = 10,
                                    .topology = "2x2:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 20,
                                    .seed = i};
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.sim.dispatcher = mp_dispatcher_find(dispatchers[i]);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        uint16_t copies[8], gpu[8];
        const uint32_t first_slot[5] = {0, 2, 4, 6, 8};
        for (uint32_t e = 0; e < 8; e++) {
            copies[e] = (uint16_t)e;
            gpu[e] = (uint16_t)(e / 2);
        }
        const struct mp_layer_cost_spec spec = {
            .problem = &problem, .copies = copies, .n_copies = 8, .n_steps = w->n_steps};
        CHECK_OK(mp_layer_cost_new(&c, &spec, &outcome, &err), err);
        bool has_groups;
        struct mp_rng rng = mp_rng_seed(i);
        CHECK_OK(mp_layer_cost_groups(c, &spec, first_slot, &rng, 1000000, gpu, &has_groups, &err), err);
        assert_int_equal(has_groups, i >= 3);
        for (uint32_t e = 0; e < 8 && !has_groups; e++)
            assert_int_equal(gpu[e], e / 2);
        mp_layer_cost_free(c);
        mp_workload_free(w);
        tiny_free(&t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_cost__equals_the_simulator),
        cmocka_unit_test(test_layer_cost__equals_the_simulator_with_replicas),
        cmocka_unit_test(test_layer_cost__equals_the_simulator_while_replicas_come_and_go),
        cmocka_unit_test(test_layer_cost__coupled_sources_keep_their_replicas),
        cmocka_unit_test(test_layer_cost__equals_the_simulator_on_counts),
        cmocka_unit_test(test_layer_cost__groups_experts_that_are_used_together),
        cmocka_unit_test(test_layer_cost__groups_only_where_copies_are_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
