/* Placing and replicating strategies alone: no trace, no steps, a problem made by hand. */
#include "support.h"

#include "grid.h"
#include <moeplan/base.h>

#define MAX_E 64u
#define MAX_G 16u

extern const struct mp_strategy mp_strategy_xyz;

struct hand {
    struct mp_topology topology;
    struct mp_gpu gpus[MAX_G];
    struct mp_gpu_type type;
    struct mp_level level;
    struct mp_model model;
    struct mp_workload workload;
    struct mp_problem problem;
    uint64_t load[MAX_E];
};

static void make_hand(struct hand *h, const uint64_t *load, uint32_t n_experts, uint32_t n_gpus, uint32_t n_redundant) {
    *h = (struct hand){.type = {.name = "test",
                                .memory_bytes = UINT64_C(1) << 40,
                                .hbm_bytes_per_s = 1000000000000,
                                .flops_16bit = 1000000000000000,
                                .hbm_efficiency_ppm = 1000000,
                                .flops_efficiency_ppm = 1000000,
                                .kernel_ns = 1000,
                                .tile_tokens = 1}};
    memcpy(h->load, load, n_experts * sizeof *load);
    for (uint32_t g = 0; g < n_gpus; g++)
        h->gpus[g].speed_ppm = 1000000;
    h->level = (struct mp_level){.name = "nvlink", .n_groups = 1};
    h->topology = (struct mp_topology){.name = "hand",
                                       .n_gpus = n_gpus,
                                       .n_types = 1,
                                       .n_levels = 1,
                                       .gpus = h->gpus,
                                       .types = &h->type,
                                       .levels = &h->level};
    h->model = (struct mp_model){.name = "hand",
                                 .n_layers = 1,
                                 .n_experts = n_experts,
                                 .top_k = 1,
                                 .n_groups = 1,
                                 .expert_bytes = 1000,
                                 .expert_flops_per_token = UINT64_C(1000000000000)};
    h->workload.n_steps = 1;
    h->problem = (struct mp_problem){.workload = &h->workload,
                                     .topology = &h->topology,
                                     .model = &h->model,
                                     .n_redundant = n_redundant,
                                     .needs_distinct = true,
                                     .load = h->load,
                                     .n_threads = 1};
}

/* Runs replicate and place into a one-layer plan; the caller frees it. NULL when a stage declined. */
static struct mp_plan *run(struct hand *h, const char *replicate, const struct mp_strategy *place,
                           uint32_t slots_per_gpu) {
    struct mp_error err = {0};
    struct mp_draft draft = {0};
    struct mp_budget budget = {0};
    enum mp_outcome outcome;
    uint32_t slots[MAX_G] = {0}, n_gpus = h->topology.n_gpus, n_nodes = h->level.n_groups;
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = slots_per_gpu;
    CHECK_OK(mp_plan_new(&draft.plan, 1, h->model.n_experts, n_gpus, slots, &err), err);
    uint32_t *node = mp_arena_alloc(draft.plan->arena, n_gpus, sizeof *node);
    for (uint32_t g = 0; g < n_gpus; g++)
        node[g] = h->gpus[g].group[0];
    draft.plan->gpu_node = node;
    draft.plan->n_nodes = n_nodes;
    draft.copies = mp_arena_alloc(draft.plan->arena, draft.plan->n_slots, sizeof *draft.copies);
    struct mp_arena *scratch = mp_arena_new();
    const struct mp_strategy *stages[2] = {mp_strategy_find(MP_PLAN_REPLICATE, replicate), place};
    for (int s = 0; s < 2; s++) {
        CHECK_OK(stages[s]->solve(&h->problem, &budget, scratch, &draft, &outcome, &err), err);
        if (outcome != MP_FOUND) {
            mp_plan_free(draft.plan);
            draft.plan = NULL;
            assert_true(err.message[0] != '\0');
            break;
        }
    }
    mp_arena_free(scratch);
    return draft.plan;
}

static struct mp_plan *run_named(struct hand *h, const char *replicate, const char *place, uint32_t slots_per_gpu) {
    const struct mp_strategy *s = mp_strategy_find(MP_PLAN_PLACE, place);
    assert_non_null(s);
    return run(h, replicate, s, slots_per_gpu);
}

/* Every expert has a slot, replicas are distinct; gpu_load[g] = sum of load / replicas. Returns the largest. */
static double check_plan(const struct hand *h, const struct mp_plan *p, uint32_t n_copies, bool is_distinct,
                         double *gpu_load) {
    uint32_t count[MAX_E] = {0}, n = 0;
    double most = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (p->layers[0].slot_expert[s] != MP_NO_EXPERT) {
            count[p->layers[0].slot_expert[s]]++;
            n++;
        }
    assert_int_equal(n, n_copies);
    for (uint32_t e = 0; e < p->n_experts; e++)
        assert_true(count[e] >= 1);
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        double sum = 0;
        for (uint32_t a = p->gpu_first_slot[g]; a < p->gpu_first_slot[g + 1]; a++) {
            uint16_t e = p->layers[0].slot_expert[a];
            if (e == MP_NO_EXPERT)
                continue;
            for (uint32_t b = p->gpu_first_slot[g]; b < a && is_distinct; b++)
                assert_int_not_equal(e, p->layers[0].slot_expert[b]);
            sum += (double)h->load[e] / count[e];
        }
        if (gpu_load != NULL)
            gpu_load[g] = sum;
        most = sum > most ? sum : most;
    }
    return most;
}

static bool holds(const struct mp_plan *p, uint32_t gpu, uint32_t expert) {
    for (uint32_t s = p->gpu_first_slot[gpu]; s < p->gpu_first_slot[gpu + 1]; s++)
        if (p->layers[0].slot_expert[s] == expert)
            return true;
    return false;
}

static const char *const placers[] = {"contiguous", "round-robin", "random", "lpt", "eplb", "eplb-hierarchical"};

/* One line of placement_optima.txt. */
struct instance {
    char name[64];
    uint64_t load[MAX_E], n_gpus, slots, optimum;
    uint32_t n_experts;
};

/* The field at *at, ends at ';' or the end of the line; blanks around it are not part of it. */
static const char *field(const char **at, const char *end, size_t *n) {
    const char *start = *at, *stop = memchr(start, ';', (size_t)(end - start));
    stop = stop != NULL ? stop : end;
    *at = stop < end ? stop + 1 : end;
    while (start < stop && *start == ' ')
        start++;
    while (stop > start && stop[-1] == ' ')
        stop--;
    *n = (size_t)(stop - start);
    return start;
}

static bool read_instance(const char *line, size_t n, struct instance *out) {
    const char *at = line, *end = line + n, *text = field(&at, end, &n);
    (void)snprintf(out->name, sizeof out->name, "%.*s", (int)n, text);
    text = field(&at, end, &n);
    out->n_experts = 0;
    for (const char *stop = text + n; text < stop; text++) {
        size_t digits = strspn(text, "0123456789");
        if (out->n_experts == MAX_E || !mp_parse_u64(text, digits, &out->load[out->n_experts++]))
            return false;
        text += digits;
    }
    uint64_t *const rest[3] = {&out->n_gpus, &out->slots, &out->optimum};
    for (int i = 0; i < 3; i++) {
        text = field(&at, end, &n);
        if (!mp_parse_u64(text, n, rest[i]))
            return false;
    }
    return true;
}

/* Every placing strategy against the optimum; *ratio gets lpt's. */
static void check_instance(const struct instance *in, double *ratio) {
    for (size_t i = 0; i < sizeof placers / sizeof placers[0]; i++) {
        struct hand h;
        make_hand(&h, in->load, in->n_experts, (uint32_t)in->n_gpus, 0);
        struct mp_plan *p = run_named(&h, "none", placers[i], (uint32_t)in->slots);
        if (p == NULL) {
            assert_true(in->n_experts % in->n_gpus != 0 && strncmp(placers[i], "eplb", 4) == 0);
            continue;
        }
        double most = check_plan(&h, p, in->n_experts, true, NULL), optimum = (double)in->optimum;
        if (most < optimum)
            fail_msg("%s: %s has %g, below the optimum %g", in->name, placers[i], most, optimum);
        if (strcmp(placers[i], "lpt") == 0)
            *ratio = in->optimum > 0 ? most / optimum : 1;
        mp_plan_free(p);
    }
}

static void test_place__known_optima(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_in *in;
    CHECK_OK(mp_in_open(&in, source_path("tests/instances/placement_optima.txt"), 0, &err), err);
    const char *at = (const char *)in->data, *end = at + in->size;
    unsigned n_lines = 0, n_free = 0;
    double worst_free = 1, worst_bound = 1;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        struct instance it;
        double ratio = 1;
        assert_non_null(stop);
        if (*at != '#') {
            if (!read_instance(at, (size_t)(stop - at), &it))
                fail_msg("placement_optima.txt: cannot read \"%.*s\"", (int)(stop - at), at);
            check_instance(&it, &ratio);
            bool is_free = it.slots >= it.n_experts;
            double graham = 4.0 / 3 - 1.0 / (3 * (double)it.n_gpus), *worst = is_free ? &worst_free : &worst_bound;
            if (ratio > (is_free ? graham + 1e-9 : 2.0))
                fail_msg("%s: lpt is %g times optimal", it.name, ratio);
            *worst = ratio > *worst ? ratio : *worst;
            n_lines++;
            n_free += is_free;
        }
        at = stop + 1;
    }
    mp_in_close(in);
    assert_true(n_lines >= 100 && n_free >= 20);
    print_message("# %u lines; lpt at worst %.4f of optimal where slots do not bind, %.4f where they do\n", n_lines,
                  worst_free, worst_bound);
}

static void test_place__grahams_worst_cases_are_met_exactly(void **state) {
    (void)state;
    for (uint32_t m = 2; m <= 5; m++) {
        uint64_t load[16];
        uint32_t n = 0;
        for (uint32_t v = 2 * m - 1; v > m; v--) {
            load[n++] = v;
            load[n++] = v;
        }
        for (int i = 0; i < 3; i++)
            load[n++] = m;
        struct hand h;
        make_hand(&h, load, n, m, 0);
        struct mp_plan *p = run_named(&h, "none", "lpt", n);
        assert_int_equal((int)check_plan(&h, p, n, true, NULL), 4 * m - 1);
        mp_plan_free(p);
    }
}

static void test_place__published_figures_of_eplb(void **state) {
    (void)state;
    /* FORMATS.md 3.5: the fullest GPU under EPLB's global policy. */
    static const struct {
        uint64_t load[12];
        uint32_t n_experts;
        double eplb, optimum;
    } known[] = {{{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, 12, 138.5, 136},
                 {{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, 12, 172, 172},
                 {{600, 560, 120, 120, 20, 10, 10, 10}, 8, 232, 590.0 / 3}};
    for (int i = 0; i < 3; i++) {
        struct hand h;
        make_hand(&h, known[i].load, known[i].n_experts, 8, 16 - known[i].n_experts);
        h.problem.needs_distinct = false;
        struct mp_plan *p = run_named(&h, "eplb", "eplb", 2);
        assert_true(check_plan(&h, p, 16, false, NULL) == known[i].eplb);
        mp_plan_free(p);
        h.problem.needs_distinct = true;
        const char *const distinct[] = {"eplb", "lpt"};
        for (int d = 0; d < 2; d++) {
            p = run_named(&h, "eplb", distinct[d], 2);
            double most = check_plan(&h, p, 16, true, NULL);
            assert_true(most >= known[i].optimum - 1e-9 && most <= 1.25 * known[i].optimum);
            mp_plan_free(p);
        }
    }
}

static void test_place__random_problems_place_every_copy_on_distinct_gpus(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(21);
    static const char *const replicators[] = {"none", "eplb", "cycle"};
    for (int i = 0; i < 3000; i++) {
        uint32_t n_gpus = 1 + (uint32_t)mp_rng_below(&rng, 8), n = 1 + (uint32_t)mp_rng_below(&rng, 24);
        uint32_t redundant = (uint32_t)mp_rng_below(&rng, (uint64_t)n * (n_gpus - 1) + 1),
                 spare = (uint32_t)mp_rng_below(&rng, 2);
        uint64_t load[MAX_E];
        for (uint32_t e = 0; e < n; e++)
            load[e] = mp_rng_below(&rng, 3) == 0 ? 0 : mp_rng_below(&rng, 1000);
        const char *repl = replicators[mp_rng_below(&rng, 3)], *place = placers[mp_rng_below(&rng, 6)];
        struct hand h;
        make_hand(&h, load, n, n_gpus, redundant);
        h.level.n_groups = n_gpus % 2 == 0 && mp_rng_below(&rng, 2) == 0 ? 2 : 1;
        for (uint32_t g = 0; g < n_gpus; g++)
            h.gpus[g].group[0] = h.level.n_groups == 1 ? 0 : mp_rng_below(&rng, 2) == 0 || g == 0 ? g % 2 : (g + 1) % 2;
        h.model.n_groups = n % 2 == 0 ? 2 : 1;
        h.problem.seed = mp_rng_next(&rng);
        h.problem.needs_distinct = mp_rng_below(&rng, 4) != 0;
        uint32_t n_copies = strcmp(repl, "none") == 0 ? n : n + redundant;
        struct mp_plan *p = run_named(&h, repl, place, (n + redundant + n_gpus - 1) / n_gpus + spare);
        if (p == NULL) {
            assert_int_equal(strncmp(place, "eplb", 4), 0);
            continue;
        }
        (void)check_plan(&h, p, n_copies, h.problem.needs_distinct, NULL);
        mp_plan_free(p);
    }
}

static void test_place__permuting_experts_permutes_the_plan(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(22);
    static const char *const movable[] = {"lpt", "eplb"};
    for (int i = 0; i < 1000; i++) {
        uint32_t n_gpus = 2 + (uint32_t)mp_rng_below(&rng, 5), per_gpu = 2 + (uint32_t)mp_rng_below(&rng, 3),
                 n = n_gpus * per_gpu;
        uint32_t image[MAX_E];
        uint64_t load[MAX_E], moved[MAX_E], factor = 1 + mp_rng_below(&rng, 9);
        for (uint32_t e = 0; e < n; e++) {
            load[e] = e * 1009 + mp_rng_below(&rng, 1000); /* distinct */
            image[e] = e;
        }
        mp_rng_shuffle(&rng, image, n);
        for (uint32_t e = 0; e < n; e++)
            moved[image[e]] = load[e] * factor; /* and scaled: nothing may change by that either */
        for (int m = 0; m < 2; m++) {
            struct hand h, k;
            make_hand(&h, load, n, n_gpus, 0);
            make_hand(&k, moved, n, n_gpus, 0);
            struct mp_plan *p = run_named(&h, "none", movable[m], per_gpu),
                           *q = run_named(&k, "none", movable[m], per_gpu);
            for (uint32_t g = 0; g < n_gpus; g++)
                for (uint32_t e = 0; e < n; e++)
                    assert_int_equal(holds(p, g, e), holds(q, g, image[e]));
            mp_plan_free(p);
            mp_plan_free(q);
        }
    }
}

static void test_place__lpt_gives_slow_gpus_less_and_follows_them_around(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(23);
    static const uint32_t speeds[4] = {1000000, 830000, 500000, 260000};
    for (int i = 0; i < 300; i++) {
        uint32_t image[4] = {0, 1, 2, 3};
        uint64_t load[24];
        double p_load[4], q_load[4];
        for (uint32_t e = 0; e < 24; e++)
            load[e] = 10000 + e * 1009 + mp_rng_below(&rng, 1000);
        mp_rng_shuffle(&rng, image, 4);
        struct hand h, k;
        make_hand(&h, load, 24, 4, 0);
        make_hand(&k, load, 24, 4, 0);
        for (uint32_t g = 0; g < 4; g++) {
            h.gpus[g].speed_ppm = speeds[g];
            k.gpus[image[g]].speed_ppm = speeds[g];
        }
        struct mp_plan *p = run_named(&h, "none", "lpt", 24), *q = run_named(&k, "none", "lpt", 24);
        (void)check_plan(&h, p, 24, true, p_load);
        (void)check_plan(&k, q, 24, true, q_load);
        for (uint32_t g = 0; g < 4; g++) {
            assert_true(p_load[g] == q_load[image[g]]);
            if (g > 0)
                assert_true(p_load[g] < p_load[g - 1]);
        }
        mp_plan_free(p);
        mp_plan_free(q);
    }
}

static void test_place__contiguous_and_round_robin_are_what_vllm_does(void **state) {
    (void)state;
    const uint64_t load[10] = {0};
    static const uint16_t linear[12] = {0, 1, 2, 3, 4, 5, 6, 7, MP_NO_EXPERT, 8, 9, MP_NO_EXPERT};
    static const uint16_t robin[12] = {0, 4, 8, 1, 5, 9, 2, 6, MP_NO_EXPERT, 3, 7, MP_NO_EXPERT};
    struct hand h;
    make_hand(&h, load, 10, 4, 0);
    struct mp_plan *p = run_named(&h, "none", "contiguous", 3), *q = run_named(&h, "none", "round-robin", 3);
    assert_memory_equal(p->layers[0].slot_expert, linear, sizeof linear);
    assert_memory_equal(q->layers[0].slot_expert, robin, sizeof robin);
    mp_plan_free(p);
    mp_plan_free(q);
    /* SGLang's trivial map: slot s holds expert s mod E. */
    make_hand(&h, load, 10, 4, 6);
    p = run_named(&h, "cycle", "contiguous", 4);
    for (uint32_t s = 0; s < 16; s++)
        assert_int_equal(p->layers[0].slot_expert[s], s % 10);
    mp_plan_free(p);
}

static void test_place__random_depends_on_the_seed_and_nothing_else(void **state) {
    (void)state;
    const uint64_t load[32] = {0};
    struct hand h;
    make_hand(&h, load, 32, 4, 0);
    uint32_t n_equal = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        h.problem.seed = seed;
        struct mp_plan *p = run_named(&h, "none", "random", 8), *q = run_named(&h, "none", "random", 8);
        h.problem.seed = seed + 1;
        struct mp_plan *r = run_named(&h, "none", "random", 8);
        assert_memory_equal(p->layers[0].slot_expert, q->layers[0].slot_expert, 64);
        n_equal += memcmp(p->layers[0].slot_expert, r->layers[0].slot_expert, 64) == 0;
        mp_plan_free(p);
        mp_plan_free(q);
        mp_plan_free(r);
    }
    assert_int_equal(n_equal, 0);
}

static void test_place__eplb_declines_what_does_not_divide(void **state) {
    (void)state;
    uint64_t load[60];
    for (uint32_t e = 0; e < 60; e++)
        load[e] = e;
    struct hand h;
    make_hand(&h, load, 60, 8, 0);
    struct mp_error err = {0};
    struct mp_draft draft = {0};
    enum mp_outcome outcome;
    const uint32_t slots[8] = {8, 8, 8, 8, 8, 8, 8, 8};
    struct mp_arena *scratch = mp_arena_new();
    CHECK_OK(mp_plan_new(&draft.plan, 1, 60, 8, slots, &err), err);
    draft.copies = mp_arena_alloc(draft.plan->arena, 64, sizeof *draft.copies);
    CHECK_OK(mp_strategy_find(MP_PLAN_REPLICATE, "eplb")->solve(&h.problem, NULL, scratch, &draft, &outcome, &err),
             err);
    CHECK_OK(mp_strategy_find(MP_PLAN_PLACE, "eplb")->solve(&h.problem, NULL, scratch, &draft, &outcome, &err), err);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    assert_string_equal(err.message, "eplb: 60 slots do not divide by 8 GPUs, which EPLB as published needs (use "
                                     "--redundant 4, or strategy lpt)");
    mp_plan_free(draft.plan);
    mp_arena_free(scratch);
    /* The others put 7 or 8 on each. */
    for (int i = 0; i < 4; i++) {
        struct mp_plan *p = run_named(&h, "none", placers[i], 8);
        (void)check_plan(&h, p, 60, true, NULL);
        mp_plan_free(p);
    }
}

static void test_place__hierarchical_keeps_groups_on_one_node(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(24);
    uint64_t load[32];
    for (uint32_t e = 0; e < 32; e++)
        load[e] = mp_rng_below(&rng, 10000);
    struct hand h;
    make_hand(&h, load, 32, 8, 8);
    h.level.n_groups = 2;
    h.model.n_groups = 4;
    for (uint32_t g = 0; g < 8; g++)
        h.gpus[g].group[0] = g % 2; /* nodes need not be numbered in a row */
    struct mp_plan *p = run_named(&h, "eplb", "eplb-hierarchical", 5);
    (void)check_plan(&h, p, 40, true, NULL);
    for (uint32_t group = 0; group < 4; group++) {
        uint32_t node = MP_NONE;
        for (uint32_t s = 0; s < 40; s++)
            if (p->layers[0].slot_expert[s] / 8 == group) {
                if (node == MP_NONE)
                    node = p->gpu_node[s / 5];
                assert_int_equal(p->gpu_node[s / 5], node);
            }
    }
    mp_plan_free(p);
}

static void test_place__template_deals_a_snake(void **state) {
    (void)state;
    const uint64_t load[8] = {80, 70, 60, 50, 40, 30, 20, 10};
    static const uint16_t want[8] = {0, 7, 1, 6, 2, 5, 3, 4};
    struct hand h;
    make_hand(&h, load, 8, 4, 0);
    struct mp_plan *p = run(&h, "none", &mp_strategy_xyz, 2);
    assert_memory_equal(p->layers[0].slot_expert, want, sizeof want);
    mp_plan_free(p);
    const int64_t values[1] = {1};
    h.problem.option_values = values;
    p = run(&h, "none", &mp_strategy_xyz, 2);
    assert_int_equal(p->layers[0].slot_expert[2], 0);
    mp_plan_free(p);
    make_hand(&h, load, 8, 1, 0);
    assert_null(run(&h, "none", &mp_strategy_xyz, 8));
    assert_null(mp_strategy_find(MP_PLAN_PLACE, "xyz"));
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place__known_optima),
        cmocka_unit_test(test_place__grahams_worst_cases_are_met_exactly),
        cmocka_unit_test(test_place__published_figures_of_eplb),
        cmocka_unit_test(test_place__random_problems_place_every_copy_on_distinct_gpus),
        cmocka_unit_test(test_place__permuting_experts_permutes_the_plan),
        cmocka_unit_test(test_place__lpt_gives_slow_gpus_less_and_follows_them_around),
        cmocka_unit_test(test_place__contiguous_and_round_robin_are_what_vllm_does),
        cmocka_unit_test(test_place__random_depends_on_the_seed_and_nothing_else),
        cmocka_unit_test(test_place__eplb_declines_what_does_not_divide),
        cmocka_unit_test(test_place__hierarchical_keeps_groups_on_one_node),
        cmocka_unit_test(test_place__template_deals_a_snake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
