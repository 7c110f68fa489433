/* mp_plan_make as a whole, on tiny problems. */
#include "support.h"

#include "planner.h"
#include "tiny.h"
#include <moeplan/verify.h>

static const struct tiny_spec small = {.n_layers = 2,
                                       .n_experts = 8,
                                       .top_k = 2,
                                       .n_requests = 24,
                                       .n_rows = 6,
                                       .topology = "4:h100",
                                       .phase = MP_PHASE_DECODE,
                                       .batch = 2,
                                       .seed = 1};

static struct mp_plan *make(const struct mp_plan_request *r) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    double seconds = -1;
    CHECK_OK(mp_plan_make(&p, r, &outcome, &seconds, &err), err);
    if (p == NULL)
        fail_msg("%s: %s", r->strategy, err.message);
    assert_int_equal(outcome, MP_FOUND);
    assert_true(seconds >= 0);
    return p;
}

/* The plan is not made; the message is exactly this. */
static void expect_declined(const struct mp_plan_request *r, enum mp_outcome want, const char *message) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, r, &outcome, NULL, &err), err);
    assert_null(p);
    assert_int_equal(outcome, want);
    assert_string_equal(err.message, message);
}

static void check_accepted(const struct mp_plan *p, const struct tiny *t) {
    struct mp_error err = {0};
    struct mp_verify_report *report;
    CHECK_OK(mp_plan_verify(&report, p, t->trace, t->topology, t->model, &err), err);
    if (report->n > 0)
        fail_msg("%s: %s", mp_violation_name(report->violations[0].kind), report->violations[0].message);
    assert_true(report->has_data);
    mp_verify_report_free(report);
}

/* What is written reads back, is accepted, and is written the same again. */
static void check_round_trip(const char *text, const struct tiny *t) {
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_plan *p;
    CHECK_OK(mp_in_from_memory(&in, "plan", text, strlen(text), &err), err);
    CHECK_OK(mp_plan_parse(&p, in, &mp_limits_default, &err), err);
    check_accepted(p, t);
    char *again = tiny_text(p);
    assert_string_equal(again, text);
    mp_free(again);
    mp_plan_free(p);
    mp_in_close(in);
}

static void random_spec(struct mp_rng *rng, struct tiny_spec *s, uint64_t seed) {
    static const char *const topologies[] = {"1:h100", "2:h100",  "4:a100", "2x2:h100", "3:h100", "1x2:a100+1x2:l40s",
                                             "8:h200", "2x3:h100"};
    *s = (struct tiny_spec){.n_layers = 1 + (uint32_t)mp_rng_below(rng, 3),
                            .n_experts = 2 + (uint32_t)mp_rng_below(rng, 11),
                            .topology = topologies[mp_rng_below(rng, 8)],
                            .phase = mp_rng_below(rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                            .n_requests = 20 + (uint32_t)mp_rng_below(rng, 8),
                            .n_rows = 3 + (uint32_t)mp_rng_below(rng, 4),
                            .seed = seed,
                            .is_counts = mp_rng_below(rng, 5) == 0};
    s->top_k = 1 + (uint32_t)mp_rng_below(rng, s->n_experts < 4 ? s->n_experts : 4);
    s->batch = s->phase == MP_PHASE_DECODE ? 1 + (uint32_t)mp_rng_below(rng, 2) : 8;
    if (s->is_counts)
        s->n_requests = 1 + (uint32_t)mp_rng_below(rng, 5);
}

/* These need the experts of each token; exflow also a layer that follows. */
static bool is_grouper(const char *recipe) {
    return strcmp(recipe, "grace-grouping") == 0 || strcmp(recipe, "grace") == 0 || strcmp(recipe, "metis") == 0 ||
           strcmp(recipe, "occult") == 0 || strcmp(recipe, "exflow") == 0;
}

/* Replicas that are weighed one by one need sources that stay, bundles tokens. */
static bool declines_replicas(const struct tiny *t, bool is_counts) {
    static const char *const names[] = {"search-replicated", "search-nearest", "craft", "craft-nearest", "bundle"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(t->request.strategy, names[i]) == 0)
            return t->request.sim.sources == MP_SOURCES_COUPLED || (i == 4 && is_counts);
    return false;
}

static void test_planner__every_recipe_on_random_problems_is_verified_and_reproducible(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(31);
    unsigned n_made = 0, n_declined = 0;
    for (uint64_t i = 0; i < 140; i++) {
        struct mp_error err = {0};
        struct tiny_spec s;
        struct tiny t;
        random_spec(&rng, &s, i);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        uint32_t n_gpus = t.topology->n_gpus;
        t.request.n_redundant =
            mp_rng_below(&rng, 2) == 0 ? 0 : (uint32_t)mp_rng_below(&rng, (uint64_t)s.n_experts * (n_gpus - 1) / 2 + 1);
        t.request.needs_distinct = mp_rng_below(&rng, 3) == 0;
        t.request.seed = i;
        if (!s.is_counts) {
            t.request.sim.dispatcher = mp_dispatcher_at((uint32_t)mp_rng_below(&rng, 5));
            t.request.sim.sources = mp_rng_below(&rng, 4) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        }
        for (uint32_t k = 0; mp_recipe_at(k) != NULL; k++) {
            t.request.strategy = mp_recipe_at(k)->name;
            t.request.work_limit = strncmp(t.request.strategy, "exact", 5) == 0 ? 200 : 0;
            char *first = NULL;
            static const unsigned threads[3] = {1, 2, 8};
            for (int n = 0; n < (i % 4 == 0 ? 3 : 1); n++) {
                struct mp_plan *p = NULL;
                enum mp_outcome outcome;
                t.request.n_threads = threads[n];
                CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
                if (p == NULL) {
                    assert_int_equal(outcome, MP_NOT_APPLICABLE);
                    assert_true(
                        err.message[0] != '\0' &&
                        (strncmp(t.request.strategy, "eplb", 4) == 0 || strcmp(t.request.strategy, "packed") == 0 ||
                         strcmp(t.request.strategy, "moetuner") == 0 || strcmp(t.request.strategy, "exact") == 0 ||
                         declines_replicas(&t, s.is_counts) || is_grouper(t.request.strategy)));
                    assert_true(!is_grouper(t.request.strategy) || s.is_counts || s.n_layers == 1 ||
                                strstr(err.message, "libmetis-dev") != NULL);
                    mp_error_clear(&err);
                    n_declined++;
                    break;
                }
                char *text = tiny_text(p);
                assert_non_null(text);
                if (first != NULL) {
                    assert_string_equal(first, text);
                } else {
                    check_round_trip(text, &t);
                    first = mp_strdup(text);
                }
                mp_free(text);
                mp_plan_free(p);
                n_made++;
            }
            mp_free(first);
        }
        tiny_free(&t);
    }
    print_message("# %u plans made, %u declined\n", n_made, n_declined);
    assert_true(n_made > 2000);
}

static void test_planner__plan_says_where_it_comes_from_and_what_it_is_worth(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &small, &err), err);
    t.request.strategy = "lpt";
    struct mp_plan *p = make(&t.request);
    assert_string_equal(p->provenance.strategy, "lpt");
    assert_string_equal(p->provenance.place, "lpt");
    assert_string_equal(p->provenance.replicate, "none");
    assert_string_equal(p->provenance.route, "even");
    assert_string_equal(p->provenance.order, "single");
    assert_string_equal(p->provenance.selected_on, "planning data");
    assert_string_equal(p->provenance.stopped_by, "done");
    assert_string_equal(p->provenance.dispatcher, "deepep-ll");
    assert_string_equal(p->provenance.trace_sha256, t.trace->sha256);
    assert_true(p->provenance.has_workload && p->provenance.is_synthetic && p->provenance.is_reproducible);
    assert_int_equal(p->n_samples, 3);
    assert_int_equal(p->n_certificates, 4);
    for (uint32_t c = 0; c < 4; c++) {
        assert_int_equal(p->certificates[c].proof, MP_PROOF_CLOSED_FORM);
        assert_true(p->certificates[c].bound_ns > 0 && p->certificates[c].bound_ns <= p->certificates[c].value_ns);
    }
    assert_int_equal(p->certificates[2].value_ns, p->predicted_step_ns);
    assert_true(p->certificates[3].kind == MP_CERT_RESIDUAL);
    assert_int_equal(p->certificates[3].value_ns, p->predicted_step_ns);
    assert_true(p->certificates[3].bound_ns < p->certificates[2].bound_ns); /* tokens have to travel in these slots */
    /* 8 slots in use and 16 tokens x 2 experts a step: the fullest GPU computes at least a quarter. */
    assert_true(p->layers[0].rows_max_sum * 4 >= p->n_planning_steps * 16);
    mp_plan_free(p);
    tiny_free(&t);
}

static void test_planner__stages_can_be_chosen_one_by_one(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &small, &err), err);
    t.request.strategy = "contiguous";
    t.request.replicate = "eplb";
    t.request.place = "lpt";
    t.request.route = "nearest";
    t.request.order = "spread-out";
    t.request.n_redundant = 4;
    struct mp_plan *p = make(&t.request);
    assert_string_equal(p->provenance.replicate, "eplb");
    assert_string_equal(p->provenance.place, "lpt");
    assert_string_equal(p->provenance.order, "spread-out");
    assert_int_equal(p->route, MP_ROUTE_NEAREST);
    assert_int_equal(p->n_slots, 12);
    mp_plan_free(p);
    tiny_free(&t);
}

static void test_planner__unknown_names_are_refused_with_the_known_ones(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    struct tiny t;
    CHECK_OK(tiny_make(&t, &small, &err), err);
    t.request.strategy = "best";
    assert_int_equal(mp_plan_make(&p, &t.request, &outcome, NULL, &err), MP_EUSAGE);
    assert_null(p);
    assert_non_null(strstr(err.message, "\"best\" is not a strategy (write one of auto, contiguous, round-robin"));
    mp_error_clear(&err);
    t.request.strategy = "lpt";
    t.request.route = "far";
    assert_int_equal(mp_plan_make(&p, &t.request, &outcome, NULL, &err), MP_EUSAGE);
    char expected[512] = "route: \"far\" is not a strategy of this stage (write one of ";
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++)
        if (mp_strategy_at(i)->stage == MP_PLAN_ROUTE) {
            size_t n = strlen(expected);
            snprintf(expected + n, sizeof expected - n, "%s%s", expected[n - 1] == ' ' ? "" : ", ",
                     mp_strategy_at(i)->name);
        }
    strcat(expected, ")");
    assert_non_null(strstr(expected, "even, nearest"));
    assert_string_equal(err.message, expected);
    tiny_free(&t);
}

static void test_planner__infeasible_requests_say_what_to_change(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &small, &err), err);
    t.request.slots_per_gpu = 1;
    expect_declined(&t.request, MP_NOT_FOUND,
                    "slots: 8 experts and 0 redundant slots do not fit in 1 slots on each of 4 GPUs, 4 in all (write "
                    "--slots-per-gpu 2)");
    t.request.slots_per_gpu = 0;
    t.request.n_redundant = 25;
    expect_declined(&t.request, MP_NOT_FOUND,
                    "redundant: 8 experts with one replica per GPU at most fill 32 slots on 4 GPUs, not 33 (write "
                    "--redundant 24 or less)");
    uint64_t slot = t.model->expert_bytes * small.n_layers;
    t.request.n_redundant = 4;
    t.request.memory_bytes = slot * 2 + 1;
    char want[512];
    (void)snprintf(want, sizeof want,
                   "memory: GPU 0: 3 slots of 2 layers need %llu bytes and %llu are free beside the other weights; 2 "
                   "slots fit (write --redundant 0 or "
                   "less, or --slots-per-gpu 2)",
                   (unsigned long long)slot * 3, (unsigned long long)slot * 2 + 1);
    expect_declined(&t.request, MP_NOT_FOUND, want);
    t.request.memory_bytes = slot;
    t.request.n_redundant = 0;
    (void)snprintf(want, sizeof want,
                   "memory: GPU 0: 2 slots of 2 layers need %llu bytes and %llu are free beside the other weights; 1 "
                   "slots fit, so 8 experts need at "
                   "least 8 GPUs of this kind",
                   (unsigned long long)slot * 2, (unsigned long long)slot);
    expect_declined(&t.request, MP_NOT_FOUND, want);
    t.request.memory_bytes = slot - 1;
    (void)snprintf(want, sizeof want,
                   "memory: GPU 0: one slot of 2 layers needs %llu bytes and %llu are free beside the other weights "
                   "(use GPUs with more memory, or a "
                   "model of fewer bits per weight)",
                   (unsigned long long)slot, (unsigned long long)slot - 1);
    expect_declined(&t.request, MP_NOT_FOUND, want);
    t.request.memory_bytes = slot * 2;
    t.request.strategy = "lpt";
    mp_plan_free(make(&t.request));
    tiny_free(&t);
}

/* Own GPU types on which `slots` slots of all layers fit beside the other weights. */
static void set_memory(struct tiny *t, uint32_t type, uint64_t slots, uint64_t more) {
    struct mp_gpu_type *types = (void *)(uintptr_t)t->topology->types;
    types[type].memory_bytes = t->model->dense_bytes + t->model->shared_bytes * t->model->n_layers +
                               t->model->expert_bytes * t->model->n_layers * slots + more;
}

static void test_planner__unequal_gpus_get_the_slots_that_fit(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    s.n_experts = 16;
    s.topology = "1x2:h100+1x2:l40s";
    CHECK_OK(tiny_make(&t, &s, &err), err);
    set_memory(&t, 0, 9, 5);
    set_memory(&t, 1, 1, 0);
    static const char *const recipes[] = {"contiguous", "round-robin", "random", "lpt", "lpt-replicated", "auto"};
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        t.request.strategy = recipes[i];
        struct mp_plan *p = make(&t.request); /* 16 = 7 + 7 + 1 + 1 */
        static const uint32_t first[] = {0, 7, 14, 15, 16};
        assert_memory_equal(p->gpu_first_slot, first, sizeof first);
        check_accepted(p, &t);
        if (i == 0) /* cut in order */
            for (uint32_t e = 0; e < 16; e++)
                assert_int_equal(p->layers[1].slot_expert[e], e);
        mp_plan_free(p);
    }
    t.request.n_redundant = 3;
    t.request.strategy = "lpt-replicated";
    struct mp_plan *p = make(&t.request); /* 19 in 9 + 9 + 1 + 1 */
    assert_int_equal(p->n_slots, 20);
    check_accepted(p, &t);
    mp_plan_free(p);
    t.request.n_redundant = 4;
    t.request.strategy = "eplb";
    expect_declined(&t.request, MP_NOT_APPLICABLE,
                    "eplb: EPLB as published puts 5 slots on each GPU, and the memory of some has room for fewer (use "
                    "strategy lpt or lpt-replicated)");
    t.request.strategy = "eplb-hierarchical";
    expect_declined(
        &t.request, MP_NOT_APPLICABLE,
        "eplb-hierarchical: EPLB as published puts 5 slots on each GPU, and the memory of some has room for "
        "fewer (use strategy lpt or lpt-replicated)");
    t.request.n_redundant = 5;
    expect_declined(
        &t.request, MP_NOT_FOUND,
        "memory: 16 experts and 5 redundant slots of 2 layers, and 20 slots fit beside the other weights of "
        "all GPUs, 1 on GPU 2 and 9 on GPU 0 (write --redundant 4 or less)");
    t.request.n_redundant = 0;
    t.request.slots_per_gpu = 4;
    char want[512];
    (void)snprintf(
        want, sizeof want,
        "memory: GPU 2: 4 slots of 2 layers need %llu bytes and %llu are free beside the other weights; 1 "
        "slots fit, and equally many on each GPU do not hold 16 experts (leave --slots-per-gpu out: each GPU "
        "then gets what fits it)",
        (unsigned long long)t.model->expert_bytes * 8, (unsigned long long)t.model->expert_bytes * 2);
    expect_declined(&t.request, MP_NOT_FOUND, want);
    t.request.slots_per_gpu = 0;
    set_memory(&t, 0, 6, 5);
    expect_declined(&t.request, MP_NOT_FOUND,
                    "memory: 16 experts of 2 layers, and 14 slots fit beside the other weights of all GPUs, 1 on GPU 2 "
                    "and 6 on GPU 0 (use more GPUs, or a model of fewer bits per weight)");
    tiny_free(&t);
}

/* Any memory: a plan that both hold, or a reason. Without replicas a plan exists exactly when there are slots enough.
 */
/* It was given no slots, and the verifier refused the plan: exit code 70 where the answer is no. */
static void test_planner__a_gpu_without_room_for_the_dense_weights_is_infeasible(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    s.n_experts = 16;
    s.topology = "1x2:h100+1x2:l40s";
    CHECK_OK(tiny_make(&t, &s, &err), err);
    set_memory(&t, 0, 16, 0);
    t.model->dense_bytes += 1000;
    set_memory(&t, 1, 0, 0);
    t.request.strategy = "lpt";
    mp_plan_free(make(&t.request)); /* just fits, without a slot */
    struct mp_gpu_type *types = (void *)(uintptr_t)t.topology->types;
    types[1].memory_bytes--;
    char want[300];
    const unsigned long long has = types[1].memory_bytes;
    (void)snprintf(want, sizeof want,
                   "memory: GPU 2: weights beside the experts are %llu bytes, and it has %llu (leave it out of the "
                   "topology, or use a model of fewer bits per weight)",
                   has + 1, has);
    expect_declined(&t.request, MP_NOT_FOUND, want);
    tiny_free(&t);
}

static void test_planner__random_memory_is_used_or_declined(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(9);
    unsigned n_made = 0, n_stuck = 0;
    for (uint64_t i = 0; i < 150; i++) {
        struct mp_error err = {0};
        struct tiny_spec s = small;
        struct tiny t;
        s.n_experts = 4 + (uint32_t)mp_rng_below(&rng, 12);
        s.topology = "1x2:h100+1x1:a100+1x2:l40s";
        s.batch = 1;
        s.seed = i;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        uint64_t total = 0;
        static const uint32_t n_gpus[] = {2, 1, 2};
        for (uint32_t type = 0; type < 3; type++) {
            uint64_t slots = mp_rng_below(&rng, s.n_experts / 2 + 2);
            set_memory(&t, type, slots, 3);
            total += n_gpus[type] * (slots < s.n_experts ? slots : s.n_experts);
        }
        t.request.n_redundant = mp_rng_below(&rng, 2) ? 0 : (uint32_t)mp_rng_below(&rng, s.n_experts);
        for (uint32_t k = 0; mp_recipe_at(k) != NULL; k++) {
            struct mp_plan *p = NULL;
            enum mp_outcome outcome;
            t.request.strategy = mp_recipe_at(k)->name;
            if (i % 3 != 0 && strcmp(t.request.strategy, "auto") == 0)
                continue; /* it tries the others, which are here already, and takes as long as all of them */
            t.request.work_limit = strncmp(t.request.strategy, "exact", 5) == 0 ? 300 : 0;
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            if (p != NULL) {
                assert_true(total >= s.n_experts + t.request.n_redundant);
                check_accepted(p, &t);
                n_made++;
            } else {
                assert_true(err.message[0] != '\0');
                if (total >= s.n_experts + t.request.n_redundant && outcome == MP_NOT_FOUND) {
                    assert_true(t.request.n_redundant > 0);
                    n_stuck++;
                }
                mp_error_clear(&err);
            }
            mp_plan_free(p);
        }
        tiny_free(&t);
    }
    print_message("# %u plans on uneven memory, %u times no free slot for a replica\n", n_made, n_stuck);
    assert_true(n_made > 500 && n_stuck < n_made / 10);
}

/* Two of seven layers are recorded: memory is that of seven, in the planner and in the verifier. */
static void test_planner__memory_counts_layers_that_are_not_recorded(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &small, &err), err);
    struct mp_model *m = (void *)(uintptr_t)t.model;
    m->n_layers = 7;
    m->shared_bytes = 1234567;
    t.request.strategy = "lpt";
    set_memory(&t, 0, 2, 0);
    struct mp_plan *p = make(&t.request);
    check_accepted(p, &t);
    set_memory(&t, 0, 2, UINT64_MAX); /* one byte less */
    struct mp_verify_report *report;
    CHECK_OK(mp_plan_verify(&report, p, t.trace, t.topology, t.model, &err), err);
    assert_int_equal(report->violations[0].kind, MP_V_CAPACITY);
    mp_verify_report_free(report);
    mp_plan_free(p);
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_int_equal(outcome, MP_NOT_FOUND);
    assert_non_null(strstr(err.message, "memory: GPU 0: 2 slots of 7 layers need "));
    mp_error_clear(&err);
    tiny_free(&t);
}

static void test_planner__equal_slots_are_kept_or_declined(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    s.n_experts = 6;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.needs_equal_slots = true;
    t.request.strategy = "lpt";
    expect_declined(&t.request, MP_NOT_APPLICABLE,
                    "none: 6 of 8 slots would be filled, and the target needs all (write --redundant 2 with a strategy "
                    "that replicates, such as eplb)");
    t.request.n_redundant = 2;
    t.request.strategy = "auto";
    struct mp_plan *p = make(&t.request);
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t slot = 0; slot < p->n_slots; slot++)
            assert_int_not_equal(p->layers[l].slot_expert[slot], MP_NO_EXPERT);
    mp_plan_free(p);
    tiny_free(&t);
}

/* A target that follows one rule only: auto keeps to it, whichever it is, and a recipe with the other declines. */
static void test_planner__routes_of_the_target_are_kept(void **state) {
    (void)state;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct tiny_spec s = small;
        struct tiny t;
        s.seed = seed;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.n_redundant = 8;
        for (enum mp_route_rule only = MP_ROUTE_EVEN; only <= MP_ROUTE_NEAREST; only++) {
            t.request.strategy = "auto";
            t.request.allowed_routes = 1u << only;
            struct mp_plan *p = make(&t.request);
            assert_int_equal(p->route, only);
            mp_plan_free(p);
        }
        t.request.allowed_routes = 1u << MP_ROUTE_EVEN;
        t.request.strategy = "eplb-nearest";
        expect_declined(&t.request, MP_NOT_APPLICABLE,
                        "nearest: the target does not choose replicas by the rule nearest (write --route even)");
        tiny_free(&t);
    }
}

static bool has_repeat(const struct mp_plan *p) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t a = p->gpu_first_slot[g]; a < p->gpu_first_slot[g + 1]; a++)
                for (uint32_t b = p->gpu_first_slot[g]; b < a; b++)
                    if (p->layers[l].slot_expert[a] == p->layers[l].slot_expert[b])
                        return true;
    return false;
}

static void test_planner__eplb_repeats_are_said_or_repaired(void **state) {
    (void)state;
    struct mp_error err = {0};
    unsigned n_repeats = 0;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct tiny_spec s = small;
        struct tiny t;
        s.seed = seed;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "eplb";
        t.request.n_redundant = 8;
        struct mp_plan *p = make(&t.request);
        assert_int_equal(p->allow_same_gpu_replicas, has_repeat(p));
        n_repeats += has_repeat(p);
        mp_plan_free(p);
        t.request.needs_distinct = true;
        p = make(&t.request);
        assert_false(p->allow_same_gpu_replicas || has_repeat(p));
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_repeats > 0);
}

static void test_planner__counts_need_a_dispatcher_that_counts_can_feed(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    struct tiny_spec s = small;
    struct tiny t;
    s.is_counts = true;
    s.n_requests = 5;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    p = make(&t.request);
    assert_int_equal(p->n_planning_steps, 5);
    mp_plan_free(p);
    t.request.sim.dispatcher = mp_dispatcher_find("deepep-normal");
    assert_int_equal(mp_plan_make(&p, &t.request, &outcome, NULL, &err), MP_EUSAGE);
    assert_null(p);
    assert_non_null(strstr(err.message, "--dispatcher a2av"));
    tiny_free(&t);
}

static void test_planner__auto_is_never_worse_than_any_named_recipe(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(32);
    for (uint64_t i = 0; i < 40; i++) {
        struct mp_error err = {0};
        struct tiny_spec s;
        struct tiny t;
        random_spec(&rng, &s, i);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.n_redundant = (uint32_t)mp_rng_below(&rng, t.topology->n_gpus == 1 ? 1 : s.n_experts + 1);
        struct mp_plan *best = make(&t.request);
        assert_string_equal(best->provenance.strategy, "auto");
        assert_string_equal(best->provenance.selected_on,
                            "planning data"); /* so the prediction is the selection score */
        for (uint32_t k = 0; mp_recipe_at(k) != NULL; k++) {
            struct mp_plan *p = NULL;
            enum mp_outcome outcome;
            t.request.strategy = mp_recipe_at(k)->name;
            t.request.work_limit = strncmp(t.request.strategy, "exact", 5) == 0 ? 100 * t.trace->n_layers : 0;
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            if (p != NULL && p->predicted_step_ns < best->predicted_step_ns)
                fail_msg("problem %llu: %s is predicted %llu ns and auto (%s, %s, %s, %s) %llu", (unsigned long long)i,
                         t.request.strategy, (unsigned long long)p->predicted_step_ns, best->provenance.replicate,
                         best->provenance.place, best->provenance.route, best->provenance.order,
                         (unsigned long long)best->predicted_step_ns);
            mp_plan_free(p);
            mp_error_clear(&err);
        }
        mp_plan_free(best);
        tiny_free(&t);
    }
}

static void test_planner__scores_from_below_are_below_and_exact_where_the_network_has_no_part(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(33);
    for (uint64_t i = 0; i < 60; i++) {
        struct mp_error err = {0};
        struct tiny_spec s;
        struct tiny t;
        random_spec(&rng, &s, i);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "lpt";
        struct mp_plan *p = make(&t.request);
        struct mp_workload *w;
        struct mp_sim_result *timed, *below;
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        uint64_t work = 0;
        CHECK_OK(mp_score(&timed, p, &problem, &work, &err), err);
        CHECK_OK(mp_score_below(&below, p, &problem, &err), err);
        assert_int_equal(work, (uint64_t)p->n_layers * timed->n_steps);
        for (uint32_t k = 0; k < timed->n_steps; k++) {
            assert_true(below->steps[k].step_ns <= timed->steps[k].step_ns);
            assert_int_equal(below->steps[k].compute_ns, timed->steps[k].compute_ns);
        }
        for (int o = MP_OBJECTIVE_STEP; o <= MP_OBJECTIVE_INTER; o++) {
            double a = mp_sim_objective(below, (enum mp_objective)o), b = mp_sim_objective(timed, (enum mp_objective)o);
            assert_true(o == MP_OBJECTIVE_PEAK || o == MP_OBJECTIVE_INTER ? a == b : a <= b);
        }
        mp_sim_result_free(timed);
        mp_sim_result_free(below);
        mp_workload_free(w);
        mp_plan_free(p);
        tiny_free(&t);
    }
}

static void test_planner__placements_in_a_list_are_made_once_and_are_the_same(void **state) {
    (void)state;
    static const char *const places[] = {"search", "eplb", "exact", "lpt"};
    static const char *const routes[] = {"even", "nearest"};
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    struct mp_workload *w;
    struct mp_placed_list *list;
    struct mp_arena *arena = mp_arena_new();
    s.n_experts = 6; /* small enough for `exact`, which leaves a certificate */
    CHECK_OK(tiny_make(&t, &s, &err), err);
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    struct mp_problem problem = {.workload = w,
                                 .topology = t.topology,
                                 .model = t.model,
                                 .sim = t.request.sim,
                                 .n_redundant = 2,
                                 .n_threads = 1};
    enum mp_outcome outcome;
    CHECK_OK(mp_problem_check(&problem, arena, &outcome, &err), err);
    CHECK_OK(mp_load_table(&problem.load, w, 1, arena, &err), err);
    CHECK_OK(mp_placed_list_new(&list, &err), err);
    const struct mp_budget budget = {0};
    for (size_t k = 0; k < sizeof places / sizeof *places; k++)
        for (int is_repeating = 0; is_repeating < 2; is_repeating++)
            for (size_t r = 0; r < 2; r++) {
                struct mp_combination c = {.may_repeat_on_gpu = is_repeating};
                struct mp_plan *alone, *listed;
                uint64_t work_alone = 0, work_listed = 0;
                c.stage[MP_PLAN_REPLICATE] = mp_strategy_find(MP_PLAN_REPLICATE, "eplb");
                c.stage[MP_PLAN_PLACE] = mp_strategy_find(MP_PLAN_PLACE, places[k]);
                c.stage[MP_PLAN_ROUTE] = mp_strategy_find(MP_PLAN_ROUTE, routes[r]);
                c.stage[MP_PLAN_ORDER] = mp_strategy_find(MP_PLAN_ORDER, "single");
                CHECK_OK(mp_combination_run(&alone, &problem, &c, NULL, &budget, &work_alone, &outcome, &err), err);
                const enum mp_outcome found = outcome;
                CHECK_OK(mp_combination_run(&listed, &problem, &c, list, &budget, &work_listed, &outcome, &err), err);
                assert_int_equal(outcome, found);
                assert_int_equal(work_listed, r == 0 ? work_alone : 0);
                if (is_repeating && strcmp(places[k], "exact") == 0) { /* its replicas are distinct */
                    assert_int_equal(found, MP_NOT_APPLICABLE);
                    assert_true(alone == NULL && listed == NULL);
                    mp_error_clear(&err);
                    continue;
                }
                assert_int_equal(found, MP_FOUND);
                assert_int_equal(listed->n_certificates, alone->n_certificates);
                char *a = tiny_text(alone), *b = tiny_text(listed);
                assert_string_equal(a, b);
                mp_free(a);
                mp_free(b);
                mp_plan_free(alone);
                mp_plan_free(listed);
            }
    mp_placed_list_free(list);
    mp_workload_free(w);
    tiny_free(&t);
    mp_arena_free(arena);
}

static void test_planner__auto_keeps_a_validation_part_and_a_work_limit(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    s.n_requests = 60;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.n_redundant = 4;
    struct mp_plan *p = make(&t.request);
    assert_string_equal(p->provenance.selected_on, "validation part");
    assert_string_equal(p->provenance.stopped_by, "done");
    assert_true(p->provenance.work_used > 0);
    uint64_t all = p->provenance.work_used;
    mp_plan_free(p);
    t.request.work_limit = 1;
    p = make(&t.request);
    assert_string_equal(p->provenance.stopped_by, "work_limit");
    assert_true(p->provenance.is_reproducible && p->provenance.work_used < all);
    mp_plan_free(p);
    t.request.work_limit = 0;
    t.request.wall_seconds = 1e-9; /* the safety net strikes after the first candidate */
    p = make(&t.request);
    assert_string_equal(p->provenance.stopped_by, "wall_clock");
    assert_false(p->provenance.is_reproducible);
    mp_plan_free(p);
    t.request.wall_seconds = 0;
    t.request.place = "round-robin";
    p = make(&t.request);
    assert_string_equal(p->provenance.place, "round-robin");
    mp_plan_free(p);
    tiny_free(&t);
}

static void test_planner__layers_are_staged_only_where_that_pays(void **state) {
    (void)state;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct tiny_spec s = small;
        struct tiny t;
        struct mp_sim_result *single, *planned;
        s.seed = seed;
        s.topology = seed % 2 == 0 ? "4:h100" : "4x1:h100";
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "spread-out";
        struct mp_plan *p = make(&t.request);
        struct mp_workload *w;
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        struct mp_sim_options o = t.request.sim;
        o.network = MP_NETWORK_PLAN;
        CHECK_OK(mp_simulate(&planned, p, w, t.topology, t.model, &o, &err), err);
        o.network = MP_NETWORK_CONCURRENT;
        CHECK_OK(mp_simulate(&single, p, w, t.topology, t.model, &o, &err), err);
        for (uint32_t l = 0; l < p->n_layers; l++) {
            if (p->layers[l].order == MP_NONE)
                assert_true(planned->layer_ns[l] == single->layer_ns[l]);
            else
                assert_true(planned->layer_ns[l] < single->layer_ns[l]);
        }
        mp_sim_result_free(planned);
        mp_sim_result_free(single);
        mp_workload_free(w);
        mp_plan_free(p);
        tiny_free(&t);
    }
}

static enum mp_status make_and_free(void *ctx, struct mp_error *err) {
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, ctx, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}

static void test_planner__every_fault_is_survived(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny_spec s = small;
    struct tiny t;
    s.n_layers = 1;
    s.n_experts = 4;
    s.topology = "2:h100";
    s.n_requests = 6;
    s.n_rows = 2;
    s.batch = 1;
    CHECK_OK(tiny_make(&t, &s, &err), err);
    t.request.n_redundant = 2;
    t.request.strategy = "eplb";
    sweep_faults(make_and_free, &t.request, 1);
    t.request.strategy = "spread-out";
    sweep_faults(make_and_free, &t.request, 3);
    t.request.strategy = "auto";
    sweep_faults(make_and_free, &t.request, 41);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planner__every_recipe_on_random_problems_is_verified_and_reproducible),
        cmocka_unit_test(test_planner__plan_says_where_it_comes_from_and_what_it_is_worth),
        cmocka_unit_test(test_planner__stages_can_be_chosen_one_by_one),
        cmocka_unit_test(test_planner__unknown_names_are_refused_with_the_known_ones),
        cmocka_unit_test(test_planner__infeasible_requests_say_what_to_change),
        cmocka_unit_test(test_planner__unequal_gpus_get_the_slots_that_fit),
        cmocka_unit_test(test_planner__a_gpu_without_room_for_the_dense_weights_is_infeasible),
        cmocka_unit_test(test_planner__random_memory_is_used_or_declined),
        cmocka_unit_test(test_planner__memory_counts_layers_that_are_not_recorded),
        cmocka_unit_test(test_planner__equal_slots_are_kept_or_declined),
        cmocka_unit_test(test_planner__routes_of_the_target_are_kept),
        cmocka_unit_test(test_planner__eplb_repeats_are_said_or_repaired),
        cmocka_unit_test(test_planner__counts_need_a_dispatcher_that_counts_can_feed),
        cmocka_unit_test(test_planner__auto_is_never_worse_than_any_named_recipe),
        cmocka_unit_test(test_planner__scores_from_below_are_below_and_exact_where_the_network_has_no_part),
        cmocka_unit_test(test_planner__placements_in_a_list_are_made_once_and_are_the_same),
        cmocka_unit_test(test_planner__auto_keeps_a_validation_part_and_a_work_limit),
        cmocka_unit_test(test_planner__layers_are_staged_only_where_that_pays),
        cmocka_unit_test(test_planner__every_fault_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
