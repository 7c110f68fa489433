/* Replicas and placement searched together: the cost of every shift against the simulator, under both rules; the search
 * against every choice of replicas and GPUs there is; what it promises; as a strategy. */
#include "support.h"

#include "joint.h"
#include "tiny.h"

/* ---- shifts against the simulator ---- */
struct shifts_world {
    struct tiny tiny;
    struct mp_workload *workload;
    struct mp_problem problem;
    struct mp_plan *plan;
    struct mp_replicated x;
    struct mp_arena *arena;
    uint8_t most[16];
};

static void make_plan(struct mp_plan **out, const struct tiny *t, uint32_t n_layers, uint32_t n_experts,
                      uint32_t slots_per_gpu) {
    struct mp_error err = {0};
    uint32_t slots[MP_MAX_GPUS];
    for (uint32_t g = 0; g < t->topology->n_gpus; g++)
        slots[g] = slots_per_gpu;
    CHECK_OK(mp_plan_new(out, n_layers, n_experts, t->topology->n_gpus, slots, &err), err);
    uint32_t *node = mp_arena_alloc((*out)->arena, (*out)->n_gpus, sizeof *node);
    for (uint32_t g = 0; g < (*out)->n_gpus; g++)
        node[g] = mp_topology_node(t->topology, g);
    (*out)->gpu_node = node;
    (*out)->n_nodes = mp_topology_n_nodes(t->topology);
}

static void compare(struct shifts_world *w) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    struct mp_sim_options options = w->problem.sim;
    options.network = MP_NETWORK_PORT_BOUND;
    mp_replicated_write(&w->x, w->plan->layers[0].slot_expert, w->plan->n_slots);
    CHECK_OK(mp_simulate(&r, w->plan, w->workload, w->problem.topology, w->problem.model, &options, &err), err);
    for (uint32_t s = 0; s < r->n_steps; s++)
        assert_int_equal(w->problem.model->other_ns_per_step + mp_layer_cost_steps(w->x.cost)[s], r->steps[s].step_ns);
    mp_sim_result_free(r);
}

/* One or two random shifts; kept half of the time. */
static void shift(struct shifts_world *w, struct mp_rng *rng) {
    struct mp_shift shifts[2];
    const uint32_t n = 1 + (uint32_t)mp_rng_below(rng, 2), n_gpus = w->plan->n_gpus, n_experts = w->plan->n_experts;
    uint32_t e = (uint32_t)mp_rng_below(rng, n_experts);
    for (uint32_t k = 0; k < n; k++, e = (e + 1) % n_experts) {
        const struct mp_replica_set *s = &w->x.set[e];
        const bool adds = mp_rng_below(rng, 3) == 0, drops = !adds && mp_rng_below(rng, 3) == 0;
        shifts[k].expert = (uint16_t)e;
        shifts[k].from = adds ? MP_ITEM_OFF : s->gpu[mp_rng_below(rng, s->n)];
        shifts[k].to = drops ? MP_ITEM_OFF : (uint16_t)mp_rng_below(rng, n_gpus);
    }
    const uint64_t value = mp_replicated_try(&w->x, shifts, n, false);
    if (value == UINT64_MAX || mp_rng_below(rng, 2) == 0)
        return;
    mp_replicated_keep(&w->x, shifts, n);
    assert_int_equal(value, mp_layer_cost_now(w->x.cost));
}

static const char *const dispatchers[] = {"a2av", "deepep-ll", "deepep-normal", "hierarchical", "agrs"};

static void test_joint__shifts_equal_the_simulator(void **state) {
    (void)state;
    static const char *const shapes[] = {"2:h100", "2x2:h100", "4x1:h100", "1x2:a100+1x1:l40s", "2x4:h100"};
    static const char *const files[] = {"topologies/shared-nic.yaml", "topologies/rack-two-tier.yaml",
                                        "topologies/mixed-a100-l40s.yaml"};
    for (uint64_t i = 0; i < 120; i++) {
        struct mp_error err = {0};
        struct mp_rng rng = mp_rng_seed(i);
        enum mp_outcome outcome;
        const bool is_counts = i % 15 == 1;
        static struct shifts_world w;
        w = (struct shifts_world){0};
        struct tiny_spec s = {.n_layers = 1,
                              .n_experts = 9,
                              .top_k = 1 + (uint32_t)mp_rng_below(&rng, 4),
                              .n_requests = is_counts ? 6 : 160,
                              .n_rows = is_counts ? 1 : 8,
                              .is_counts = is_counts,
                              .topology = i % 8 < 5 ? shapes[i % 8] : source_path(files[i % 8 - 5]),
                              .phase = i % 3 == 0 && !is_counts ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .batch = i % 3 == 0 ? 2 : 20,
                              .seed = i};
        if (i % 9 == 4) { /* more than 64 tokens of a source */
            s.batch = 150;
            s.n_rows = 40;
        }
        CHECK_OK(tiny_make(&w.tiny, &s, &err), err);
        w.tiny.request.sim.dispatcher = mp_dispatcher_find(dispatchers[is_counts ? i % 2 : i / 2 % 5]);
        CHECK_OK(mp_workload_build(&w.workload, &w.tiny.part, &w.tiny.request.batching, &err), err);
        w.problem = (struct mp_problem){.workload = w.workload,
                                        .topology = w.tiny.topology,
                                        .model = w.tiny.model,
                                        .sim = w.tiny.request.sim,
                                        .n_threads = 1};
        make_plan(&w.plan, &w.tiny, 1, s.n_experts, s.n_experts);
        w.plan->route = i % 2 == 0 ? MP_ROUTE_NEAREST : MP_ROUTE_EVEN;
        const uint32_t n_gpus = w.plan->n_gpus;
        for (uint32_t e = 0; e < s.n_experts; e++) {
            w.most[e] = (uint8_t)(1 + mp_rng_below(&rng, n_gpus < 5 ? n_gpus : 5));
            w.plan->layers[0].slot_expert[w.plan->gpu_first_slot[mp_rng_below(&rng, n_gpus)] + e] = (uint16_t)e;
        }
        w.arena = mp_arena_new();
        const struct mp_layer_cost_spec spec = {
            .problem = &w.problem, .n_steps = w.workload->n_steps, .rule = w.plan->route};
        CHECK_OK(mp_replicated_new(&w.x, &spec, w.most, w.plan->gpu_first_slot, w.arena, &outcome, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        assert_true(mp_replicated_read(&w.x, w.plan->layers[0].slot_expert));
        compare(&w);
        for (int k = 0; k < 30; k++) {
            shift(&w, &rng);
            if (k % 3 == 0)
                compare(&w);
        }
        compare(&w);
        mp_replicated_set(&w.x, w.x.set); /* anew: what has been kept step by step */
        compare(&w);
        mp_layer_cost_free(w.x.cost);
        mp_arena_free(w.arena);
        mp_plan_free(w.plan);
        mp_workload_free(w.workload);
        tiny_free(&w.tiny);
    }
}

/* What cannot be is refused: two replicas on a GPU, no replica left, more than there may be, one that is not there. */
static void test_joint__impossible_shifts_are_refused(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_workload *w;
    struct mp_replicated x;
    enum mp_outcome outcome;
    const struct tiny_spec s = {.n_layers = 1,
                                .n_experts = 3,
                                .top_k = 1,
                                .n_requests = 60,
                                .n_rows = 8,
                                .topology = "3:h100",
                                .phase = MP_PHASE_PREFILL,
                                .batch = 20};
    const uint8_t most[3] = {2, 1, 3};
    const uint32_t first_slot[4] = {0, 3, 6, 9};
    const uint16_t none = MP_NO_EXPERT, slots[9] = {0, 1, none, 0, none, none, 2, none, none},
                   twice[9] = {0, 0, 1, 2, none, none, none, none, none},
                   missing[9] = {0, 1, none, none, none, none, none, none, none},
                   many[9] = {0, 1, none, 1, 2, none, none, none, none};
    CHECK_OK(tiny_make(&t, &s, &err), err);
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    const struct mp_problem problem = {
        .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
    const struct mp_layer_cost_spec spec = {.problem = &problem, .n_steps = w->n_steps};
    struct mp_arena *arena = mp_arena_new();
    CHECK_OK(mp_replicated_new(&x, &spec, most, first_slot, arena, &outcome, &err), err);
    assert_false(mp_replicated_read(&x, twice));
    assert_false(mp_replicated_read(&x, missing));
    assert_false(mp_replicated_read(&x, many));
    assert_true(mp_replicated_read(&x, slots));
    assert_int_equal(x.n_extra, 1);
    assert_int_equal(mp_replicated_room(&x, 0), 1);
    const struct mp_shift bad[] = {{0, 0, 1}, {1, 0, MP_ITEM_OFF}, {0, MP_ITEM_OFF, 2}, {1, 1, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_true(mp_replicated_try(&x, &bad[i], 1, false) == UINT64_MAX);
    const struct mp_shift good = {2, MP_ITEM_OFF, 0};
    assert_true(mp_replicated_try(&x, &good, 1, false) != UINT64_MAX);
    mp_replicated_keep(&x, &good, 1);
    assert_true(mp_replicated_has(&x, 2, 0));
    assert_int_equal(mp_replicated_room(&x, 0), 0);
    assert_int_equal(x.n_extra, 2);
    mp_layer_cost_free(x.cost);
    mp_arena_free(arena);
    mp_workload_free(w);
    tiny_free(&t);
}

/* ---- what nodes need at home ---- */
/* Tokens of all steps that need something of the other node, on either node, with these slots. */
static uint64_t copies_between(const struct mp_workload *w, const struct mp_topology *t, const uint16_t *slots,
                               uint32_t n_slots, uint32_t per_gpu) {
    bool has[2][8] = {{false}};
    uint64_t n = 0;
    for (uint32_t s = 0; s < n_slots; s++)
        if (slots[s] != MP_NO_EXPERT)
            has[mp_topology_node(t, s / per_gpu)][slots[s]] = true;
    for (uint32_t i = 0; i < w->n_steps; i++)
        for (uint32_t r = 0; r < w->steps[i].n; r++) {
            uint16_t ids[MP_MAX_TOP_K];
            const uint32_t k = mp_trace_row(w->trace, 0, w->steps[i].row[r], ids);
            for (uint32_t v = 0; v < 2; v++) {
                bool needs = false;
                for (uint32_t j = 0; j < k; j++)
                    needs |= !has[v][ids[j]];
                n += needs;
            }
        }
    return n;
}

static void test_joint__nodes_get_at_home_what_ends_most_copies(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_workload *w;
    bool has_near;
    const struct tiny_spec s = {.n_layers = 1,
                                .n_experts = 6,
                                .top_k = 2,
                                .n_requests = 60,
                                .n_rows = 8,
                                .topology = "2x2:h100",
                                .phase = MP_PHASE_PREFILL,
                                .batch = 20};
    const uint8_t most[6] = {2, 2, 2, 2, 2, 2};
    const uint32_t first_slot[5] = {0, 3, 6, 9, 12};
    const uint16_t none = MP_NO_EXPERT, singles[12] = {0, 4, none, 1, none, 5, 2, none, none, 3, none, none};
    uint16_t slots[12];
    CHECK_OK(tiny_make(&t, &s, &err), err);
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    uint64_t load[6] = {0};
    mp_workload_load(w, 0, load);
    struct mp_problem problem = {
        .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
    problem.sim.dispatcher = mp_dispatcher_find("deepep-normal");
    struct mp_joint in = {.cost = {.problem = &problem, .n_steps = w->n_steps, .rule = MP_ROUTE_NEAREST},
                          .first_slot = first_slot,
                          .n_extra = 1,
                          .load = load};
    struct mp_arena *arena = mp_arena_new();
    /* One replica: the best of all there are. */
    memcpy(slots, singles, sizeof slots);
    CHECK_OK(mp_joint_near(&in, most, slots, &has_near, arena, &err), err);
    assert_true(has_near);
    uint64_t best = UINT64_MAX;
    for (uint32_t at = 0; at < 12; at++)
        for (uint16_t e = 0; e < 6 && singles[at] == none; e++) {
            uint16_t tried[12];
            memcpy(tried, singles, sizeof tried);
            tried[at] = e;
            const uint64_t n = copies_between(w, t.topology, tried, 12, 3);
            best = n < best ? n : best;
        }
    assert_int_equal(copies_between(w, t.topology, slots, 12, 3), best);
    assert_true(best < copies_between(w, t.topology, singles, 12, 3));
    /* As many as there is room for: every expert on both nodes, once on each. */
    in.n_extra = 6;
    memcpy(slots, singles, sizeof slots);
    CHECK_OK(mp_joint_near(&in, most, slots, &has_near, arena, &err), err);
    for (uint32_t v = 0; v < 2; v++)
        for (uint16_t e = 0; e < 6; e++) {
            uint32_t n = 0;
            for (uint32_t at = 6 * v; at < 6 * (v + 1); at++)
                n += slots[at] == e;
            assert_int_equal(n, 1);
        }
    assert_int_equal(copies_between(w, t.topology, slots, 12, 3), 0);
    /* Tokens dealt evenly have no home. */
    in.cost.rule = MP_ROUTE_EVEN;
    memcpy(slots, singles, sizeof slots);
    CHECK_OK(mp_joint_near(&in, most, slots, &has_near, arena, &err), err);
    assert_false(has_near);
    assert_memory_equal(slots, singles, sizeof slots);
    mp_arena_free(arena);
    mp_workload_free(w);
    tiny_free(&t);
}

/* ---- the search against everything there is ---- */
struct brute {
    struct mp_replicated *x;
    struct mp_replica_set set[8];
    uint32_t used[4], n_extra, n_slots; /* n_slots: of each GPU */
    bool must_fill;
    uint64_t best, n;
};
static void try_from(struct brute *b, uint32_t e) {
    const uint32_t n_gpus = b->x->n_gpus;
    if (e == b->x->n_experts) {
        for (uint32_t g = 0; g < n_gpus && b->must_fill; g++)
            if (b->used[g] < b->n_slots)
                return;
        mp_replicated_set(b->x, b->set);
        const uint64_t now = mp_layer_cost_now(b->x->cost);
        b->best = now < b->best ? now : b->best;
        b->n++;
        return;
    }
    for (uint32_t on = 1; on < UINT32_C(1) << n_gpus; on++) {
        struct mp_replica_set *s = &b->set[e];
        bool fits = true;
        s->n = 0;
        for (uint32_t g = 0; g < n_gpus; g++)
            if ((on >> g & 1) != 0) {
                fits &= b->used[g] < b->n_slots;
                s->gpu[s->n++] = (uint16_t)g;
            }
        if (!fits || s->n - 1u > b->n_extra)
            continue;
        const uint32_t n = s->n;
        b->n_extra -= n - 1;
        for (uint32_t g = 0; g < n_gpus; g++)
            b->used[g] += on >> g & 1;
        try_from(b, e + 1);
        for (uint32_t g = 0; g < n_gpus; g++)
            b->used[g] -= on >> g & 1;
        b->n_extra += n - 1;
    }
}

static void test_joint__finds_the_optimum_of_tiny_problems(void **state) {
    (void)state;
    static const char *const topologies[] = {"2:h100", "2x1:h100", "3:h100", "1x2:a100+1x1:l40s"};
    unsigned n_optimal = 0, n_problems = 120;
    uint64_t n_tried = 0;
    for (uint64_t i = 0; i < n_problems; i++) {
        struct mp_error err = {0};
        struct mp_rng rng = mp_rng_seed(i);
        struct tiny t;
        struct mp_workload *w;
        struct mp_replicated x;
        enum mp_outcome outcome;
        bool has_struck = false;
        uint64_t value, work = 0;
        struct tiny_spec s = {.n_layers = 1,
                              .n_experts = 4 + (uint32_t)mp_rng_below(&rng, 2),
                              .n_requests = 24,
                              .n_rows = 6,
                              .topology = topologies[i % 4],
                              .phase = mp_rng_below(&rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .seed = i};
        s.top_k = 1 + (uint32_t)mp_rng_below(&rng, 3);
        s.batch = s.phase == MP_PHASE_DECODE ? 2 : 12;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.model->expert_bytes /= 64; /* or reading one more expert is all that counts */
        t.request.sim.dispatcher = mp_dispatcher_find(dispatchers[i / 4 % 4]);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        const uint32_t n_gpus = t.topology->n_gpus, each = (s.n_experts + n_gpus - 1) / n_gpus + 1;
        const bool must_fill = i % 5 == 3;
        uint64_t load[8];
        uint32_t first_slot[5] = {0};
        uint16_t slots[16], start[16];
        mp_workload_load(w, 0, load);
        memset(start, 0xff, sizeof start);
        for (uint32_t g = 0; g < n_gpus; g++)
            first_slot[g + 1] = first_slot[g] + each;
        const uint32_t n_extra = must_fill ? n_gpus * each - s.n_experts : 1 + (uint32_t)(i % 3);
        for (uint32_t e = 0; e < s.n_experts; e++)
            start[first_slot[e % n_gpus] + e / n_gpus] = (uint16_t)e;
        for (uint32_t g = 0; g < n_gpus && must_fill; g++) /* any that fill everything */
            for (uint32_t at = first_slot[g], e = 0; at < first_slot[g + 1]; at++) {
                while (start[at] == MP_NO_EXPERT && e % n_gpus == g)
                    e++;
                if (start[at] == MP_NO_EXPERT)
                    start[at] = (uint16_t)e++;
            }
        const uint16_t *starts[] = {start};
        const struct mp_budget budget = {0};
        const struct mp_joint in = {
            .cost = {.problem = &problem, .n_steps = w->n_steps, .rule = i % 2 == 0 ? MP_ROUTE_EVEN : MP_ROUTE_NEAREST},
            .first_slot = first_slot,
            .n_extra = n_extra,
            .must_fill = must_fill,
            .load = load,
            .n_starts = 1,
            .starts = starts,
            .kicks = 60,
            .effort = 20000000,
            .seed = i,
            .budget = &budget};
        CHECK_OK(mp_joint_search(&in, slots, &value, &work, &has_struck, &outcome, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        assert_false(has_struck);
        uint8_t most[8];
        struct mp_arena *arena = mp_arena_new();
        for (uint32_t e = 0; e < s.n_experts; e++)
            most[e] = (uint8_t)n_gpus;
        CHECK_OK(mp_replicated_new(&x, &in.cost, most, first_slot, arena, &outcome, &err), err);
        assert_true(mp_replicated_read(&x, start));
        assert_true(mp_layer_cost_now(x.cost) >= value);
        assert_true(mp_replicated_read(&x, slots));
        assert_int_equal(mp_layer_cost_now(x.cost), value);
        assert_true(x.n_extra <= n_extra);
        for (uint32_t g = 0; g < n_gpus; g++)
            assert_true(x.n_used[g] <= each && (!must_fill || x.n_used[g] == each));
        struct brute b = {.x = &x, .n_extra = n_extra, .n_slots = each, .must_fill = must_fill, .best = UINT64_MAX};
        try_from(&b, 0);
        if (value < b.best)
            fail_msg("problem %llu: %llu is below the optimum %llu", (unsigned long long)i, (unsigned long long)value,
                     (unsigned long long)b.best);
        n_optimal += value == b.best;
        n_tried += b.n;
        mp_layer_cost_free(x.cost);
        mp_arena_free(arena);
        mp_workload_free(w);
        tiny_free(&t);
    }
    print_message("# optimal in %u of %u problems, %llu choices tried\n", n_optimal, n_problems,
                  (unsigned long long)n_tried);
    assert_true(n_optimal >= n_problems * 90 / 100);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joint__shifts_equal_the_simulator),
        cmocka_unit_test(test_joint__impossible_shifts_are_refused),
        cmocka_unit_test(test_joint__nodes_get_at_home_what_ends_most_copies),
        cmocka_unit_test(test_joint__finds_the_optimum_of_tiny_problems),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
