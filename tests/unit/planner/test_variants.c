/* Plan variants: the guarantee of the rule under anything, groups of requests, one variant is the static plan, a
 * library of two where two kinds of traffic want different placements. */
#include "support.h"

#include "variants.h"
#include <moeplan/base.h>

#include "tiny.h"

/* ---- the rule ---- */

enum { LAYERS = 6, EXPERTS = 4, VARIANTS = 3, GROUPS = 3 };
struct ruled {
    uint32_t first_layer[GROUPS + 1], share[VARIANTS * LAYERS * EXPERTS];
    uint64_t cost[GROUPS * VARIANTS * VARIANTS];
    struct mp_switch_rule rule;
};

/* Variant v is of traffic that uses expert v. */
static void ruled_make(struct ruled *r, uint64_t cost_ns) {
    *r = (struct ruled){.first_layer = {0, 2, 4, 6}};
    for (uint32_t v = 0; v < VARIANTS; v++)
        for (uint32_t l = 0; l < LAYERS; l++)
            r->share[(v * LAYERS + l) * EXPERTS + v] = MP_SHARE_ONE;
    for (uint32_t i = 0; i < GROUPS * VARIANTS * VARIANTS; i++)
        r->cost[i] = i / VARIANTS % VARIANTS == i % VARIANTS ? 0 : cost_ns;
    r->rule = (struct mp_switch_rule){.n_variants = VARIANTS,
                                      .n_groups = GROUPS,
                                      .n_layers = LAYERS,
                                      .n_experts = EXPERTS,
                                      .first_layer = r->first_layer,
                                      .share = r->share,
                                      .cost_ns = r->cost,
                                      .window = 2,
                                      .patience_ppm = 250000,
                                      .budget_ppm = 2000};
}

static void traffic(uint32_t *load, uint32_t expert) {
    memset(load, 0, LAYERS * EXPERTS * sizeof *load);
    for (uint32_t l = 0; l < LAYERS; l++)
        load[l * EXPERTS + expert] = 100;
}

/* One run of `n` steps; kind: who chooses the traffic. Returns the largest time over static time - 1 at any step, the
 * way back included, and in *ahead the last account. */
static double worst_of(const struct mp_switch_rule *rule, uint32_t kind, uint32_t n, uint64_t seed, int64_t *ahead,
                       uint32_t *n_switches) {
    struct mp_error err = {0};
    struct mp_switch *s;
    struct mp_rng rng = mp_rng_seed(seed);
    uint32_t variant[GROUPS], was[GROUPS] = {0}, load[LAYERS * EXPERTS], domain = 0;
    double fixed = 0, own = 0, worst = -1;
    CHECK_OK(mp_switch_new(&s, rule, &err), err);
    *n_switches = 0;
    for (uint32_t t = 0; t < n; t++) {
        uint64_t ns[GROUPS * VARIANTS], back = 0;
        own += (double)mp_switch_choose(s, variant);
        /* The adversary has seen the choice. */
        if (kind == 0) /* what was chosen is slow */
            domain = variant[0] == 1 ? 2 : 1;
        else if (kind == 1) /* back and forth */
            domain = t / 3 % 3;
        else if (kind == 2)
            domain = (uint32_t)mp_rng_below(&rng, VARIANTS);
        else if (kind == 3) /* steady */
            domain = t / 5000 % 2 + 1;
        traffic(load, domain);
        for (uint32_t g = 0; g < GROUPS; g++)
            for (uint32_t v = 0; v < VARIANTS; v++) {
                ns[g * VARIANTS + v] = v == 0 ? 10000 : v == domain ? 9000 : 11000;
                if (kind == 2)
                    ns[g * VARIANTS + v] = 9000 + mp_rng_below(&rng, 2001);
            }
        fixed += 500;
        own += 500;
        for (uint32_t g = 0; g < GROUPS; g++) {
            fixed += (double)ns[g * VARIANTS];
            own += (double)ns[g * VARIANTS + variant[g]];
            back += rule->cost_ns[(g * VARIANTS + variant[g]) * VARIANTS];
            *n_switches += variant[g] != was[g];
            was[g] = variant[g];
        }
        mp_switch_seen(s, load, ns, 500);
        const double here = (own + (double)back) / fixed - 1;
        worst = here > worst ? here : worst;
        assert_true((double)mp_switch_ahead_ns(s) - (fixed - own) < 1);
        assert_true((double)mp_switch_ahead_ns(s) - (fixed - own) > -1);
    }
    *ahead = mp_switch_ahead_ns(s);
    mp_switch_free(s);
    return worst;
}

static void test_variants__never_past_the_budget_whatever_comes(void **state) {
    (void)state;
    for (uint32_t kind = 0; kind < 4; kind++)
        for (uint32_t patience = 0; patience <= 1000000; patience += 250000)
            for (uint64_t cost = 100; cost <= 10000000; cost *= 10) {
                struct ruled r;
                int64_t ahead;
                uint32_t n;
                ruled_make(&r, cost);
                r.rule.patience_ppm = patience;
                r.rule.worst_loss_ns = 6000; /* more than any step loses: 3 groups, 2,000 each */
                assert_true(worst_of(&r.rule, kind, 4000, cost + patience, &ahead, &n) <= 0.002 + 1e-12);
            }
}

/* Nothing is known of how bad a step can be: then the first bad one counts on top, once. */
static void test_variants__an_unknown_worst_step_counts_once(void **state) {
    (void)state;
    for (uint32_t kind = 0; kind < 3; kind++) {
        struct ruled r;
        int64_t ahead;
        uint32_t n;
        ruled_make(&r, 1000);
        const double worst = worst_of(&r.rule, kind, 4000, kind, &ahead, &n);
        assert_true(worst <= 0.002 + 6000.0 / 30500);
        assert_true(ahead >= -(int64_t)(0.002 * 4000 * 30500 + 6000));
    }
}

static void test_variants__follows_what_lasts_and_leaves_what_does_not(void **state) {
    (void)state;
    struct ruled r;
    int64_t ahead;
    uint32_t n;
    ruled_make(&r, 20000);
    r.rule.worst_loss_ns = 3000;
    (void)worst_of(&r.rule, 3, 20000, 1, &ahead, &n);
    assert_in_range(n, 12, 24);                 /* 3 groups, 4 blocks, and no more than a few too many */
    assert_true(ahead > 20000 * 3000 * 9 / 10); /* nine tenths of what switching for free would save */
    (void)worst_of(&r.rule, 1, 20000, 1, &ahead, &n);
    assert_true(n < 600);  /* of 6,667 changes of 3 groups: patience grows */
    r.rule.budget_ppm = 0; /* no credit, and nothing saved yet: nothing is ever switched */
    (void)worst_of(&r.rule, 3, 20000, 1, &ahead, &n);
    assert_int_equal(n, 0);
    assert_int_equal(ahead, 0);
}

static void test_variants__free_switches_follow_at_once(void **state) {
    (void)state;
    struct ruled r;
    struct mp_error err = {0};
    struct mp_switch *s;
    uint32_t variant[GROUPS], load[LAYERS * EXPERTS];
    const uint64_t ns[GROUPS * VARIANTS] = {10, 9, 11, 10, 9, 11, 10, 9, 11};
    ruled_make(&r, 0);
    r.rule.window = 1;
    CHECK_OK(mp_switch_new(&s, &r.rule, &err), err);
    traffic(load, 1);
    for (int t = 0; t < 3000; t++) { /* one step's worst loss must be within the budget first */
        (void)mp_switch_choose(s, variant);
        mp_switch_seen(s, load, ns, 0);
    }
    assert_int_equal(mp_switch_choose(s, variant), 0);
    for (int g = 0; g < GROUPS; g++)
        assert_int_equal(variant[g], 1);
    mp_switch_free(s);
}

static void test_variants__refuses_rules_that_are_none(void **state) {
    (void)state;
    for (int what = 0; what < 7; what++) {
        struct ruled r;
        struct mp_error err = {0};
        struct mp_switch *s;
        ruled_make(&r, 100);
        r.rule.n_variants = what == 0 ? 0 : what == 1 ? MP_VARIANTS_MAX + 1 : VARIANTS;
        r.rule.window = what == 2 ? 0 : 1;
        r.first_layer[GROUPS] = what == 3 ? LAYERS - 1 : LAYERS;
        r.first_layer[1] = what == 4 ? 0 : 2;
        r.cost[0] = what == 5;
        r.rule.n_groups = what == 6 ? 0 : GROUPS;
        assert_int_equal(mp_switch_new(&s, &r.rule, &err), MP_EUSAGE);
        assert_null(s);
    }
}

/* ---- libraries ---- */

enum { N_EXPERTS = 8, N_GPUS = 4, UNIT = 4000, ITERATIONS = 12 };
/* Planned on A, heaviest first, experts 2 and 3 share a GPU; B uses those most. */
static const uint64_t load_a[N_EXPERTS] = {40, 30, 9, 8, 20, 7, 6, 5}, load_b[N_EXPERTS] = {5, 5, 40, 40, 5, 5, 5, 5};

struct two {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part all, unused, part[2];
    struct mp_variants_request request;
};
static const char *const names[2] = {"a", "b"};
static const uint32_t lengths[2] = {10, 1000}, weights[2] = {1, 1};

static void two_free(struct two *t) {
    mp_part_free(&t->all);
    mp_part_free(&t->unused);
    mp_part_free(&t->part[0]);
    mp_part_free(&t->part[1]);
    mp_trace_free(t->trace);
    mp_topology_free(t->topology);
    mp_model_free(t->model);
}

/* Iterations of A, then of B. */
static enum mp_status two_make(struct two *t, const uint64_t *a, const uint64_t *b, struct mp_error *err) {
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_trace_builder *builder = NULL;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "tiny",
                                       .format = "test",
                                       .n_layers = 2,
                                       .n_experts = N_EXPERTS,
                                       .top_k = 1};
    enum mp_status status;
    *t = (struct two){.topology = NULL};
    MP_TRY(mp_trace_builder_new(&builder, &meta, &mp_limits_default, err));
    for (uint32_t i = 0; i < 2 * ITERATIONS && status == MP_OK; i++) {
        status = mp_trace_builder_iteration(builder, MP_NONE, err);
        for (uint32_t cell = 0; cell < 2 * N_EXPERTS && status == MP_OK; cell++) {
            const uint64_t *load = i < ITERATIONS ? a : b;
            status = mp_trace_builder_count(builder, 0, cell / N_EXPERTS, cell % N_EXPERTS,
                                            UNIT * load[cell % N_EXPERTS] + i * 7 % 5, err);
        }
    }
    if (status != MP_OK)
        goto out;
    struct mp_trace_builder *built = builder;
    builder = NULL;
    MP_TRY(mp_trace_builder_finish(built, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &t->trace,
                                   err));
    MP_TRY(mp_topology_load(&t->topology, "4:h100", &mp_limits_default, err));
    MP_TRY(mp_model_generic(&t->model, NULL, 2, N_EXPERTS, 1, err));
    MP_TRY(mp_part_split(&t->all, &t->unused, t->trace, &none, err));
    for (int i = 0; i < 2; i++) {
        t->part[i] = (struct mp_part){t->trace, ITERATIONS, mp_calloc(ITERATIONS, sizeof(uint32_t))};
        if (t->part[i].members == NULL)
            return mp_nomem(err, "a part");
        for (uint32_t m = 0; m < ITERATIONS; m++)
            t->part[i].members[m] = (uint32_t)i * ITERATIONS + m;
    }
    t->request =
        (struct mp_variants_request){.base = {.planning = &t->all,
                                              .batching = {.phase = MP_PHASE_PREFILL, .n_ranks = N_GPUS},
                                              .split = none,
                                              .topology = t->topology,
                                              .model = t->model,
                                              .sim = {.dispatcher = mp_dispatcher_find("a2av"), .stage_mode = -1},
                                              .strategy = "lpt",
                                              .n_threads = 1,
                                              .limits = &mp_limits_default},
                                     .domains = t->part,
                                     .names = names,
                                     .weights = weights,
                                     .n_domains = 2,
                                     .budget_ppm = 2000,
                                     .lengths = lengths,
                                     .n_lengths = 2};
out:
    mp_trace_builder_free(builder);
    return status;
}

static char *text_of(const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_plan_write(p, o);
    char *copy = mp_strdup((const char *)mp_out_memory_bytes(o, &n));
    CHECK_OK(mp_out_commit(o, &err), err);
    assert_non_null(copy);
    return copy;
}

static char *rule_of(const struct mp_variants *v) {
    static const char *const words[MP_VARIANTS_MAX] = {"0", "1", "2", "3", "4", "5", "6", "7",
                                                       "8", "9", "a", "b", "c", "d", "e", "f"};
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_variants_write_rule(v, words, words, o);
    char *copy = mp_strdup((const char *)mp_out_memory_bytes(o, &n));
    CHECK_OK(mp_out_commit(o, &err), err);
    assert_non_null(copy);
    return copy;
}

/* Always the same time, to see that it is counted once for each step. */
static enum mp_status fixed_time(void *ctx, uint32_t which, uint32_t domain, const struct mp_workload *w, uint64_t *ns,
                                 struct mp_error *err) {
    (void)ctx, (void)which, (void)err;
    for (uint32_t t = 0; t < w->n_steps; t++)
        ns[t] = domain == 0 ? 1000000 : 2000000;
    return MP_OK;
}

/* Two kinds that want other placements: two variants, and most of what a plan for each would save. */
static void test_variants__two_kinds_two_variants(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct two t;
    struct mp_variants *v, *again;
    struct mp_variants_score *s;
    enum mp_outcome outcome;
    CHECK_OK(two_make(&t, load_a, load_b, &err), err);
    CHECK_OK(mp_variants_make(&v, &t.request, &outcome, NULL, &err), err);
    assert_non_null(v);
    assert_true(v->n >= 2);
    const struct mp_variants_score_request q = {.base = &t.request.base,
                                                .planned = t.part,
                                                .scored = t.part,
                                                .weights = weights,
                                                .n_domains = 2,
                                                .lengths = lengths,
                                                .n_lengths = 2,
                                                .n_steps = 16,
                                                .seed = 3};
    CHECK_OK(mp_variants_score(&s, v, &q, &err), err);
    for (int i = 0; i < 2; i++) {
        const struct mp_variants_cell *c = &s->cell[i];
        assert_true(c->variants_ns <= 1.002 * c->static_ns);
        assert_true(c->worst_block <= 0.002);
        assert_true(c->best_ns <= c->static_ns && c->oracle_ns <= c->static_ns);
        assert_true(c->bound_ns <= c->best_ns && c->bound_ns <= c->oracle_ns);
    }
    const struct mp_variants_cell *longer = &s->cell[1];
    assert_true(longer->static_ns - longer->variants_ns >= (longer->static_ns - longer->oracle_ns) / 2);
    assert_true(s->break_even > 0 && s->break_even <= 1000);
    t.request.base.n_threads = 3; /* the same for any number of threads */
    CHECK_OK(mp_variants_make(&again, &t.request, &outcome, NULL, &err), err);
    assert_int_equal(again->n, v->n);
    for (uint32_t i = 0; i < v->n; i++) {
        char *a = text_of(v->variant[i].plan), *b = text_of(again->variant[i].plan);
        assert_string_equal(a, b);
        mp_free(a);
        mp_free(b);
    }
    char *a = rule_of(v), *b = rule_of(again);
    assert_string_equal(a, b);
    mp_free(a);
    mp_free(b);
    mp_variants_score_free(s);
    mp_variants_free(v);
    mp_variants_free(again);
    two_free(&t);
}

/* The same traffic twice: one variant, which is the static plan to the byte, and costs nothing. */
static void test_variants__one_kind_is_the_static_plan(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct two t;
    struct mp_variants *v;
    struct mp_variants_score *s;
    struct mp_plan *alone;
    enum mp_outcome outcome;
    for (int capped = 0; capped < 2; capped++) { /* nothing to gain, or no second one allowed */
        CHECK_OK(two_make(&t, load_a, capped ? load_b : load_a, &err), err);
        t.request.n_variants_max = capped ? 1 : 4;
        CHECK_OK(mp_variants_make(&v, &t.request, &outcome, NULL, &err), err);
        CHECK_OK(mp_plan_make(&alone, &t.request.base, &outcome, NULL, &err), err);
        assert_int_equal(v->n, 1);
        char *a = text_of(v->variant[0].plan), *b = text_of(alone);
        assert_string_equal(a, b);
        mp_free(a);
        mp_free(b);
        const struct mp_variants_score_request q = {.base = &t.request.base,
                                                    .planned = t.part,
                                                    .scored = t.part,
                                                    .weights = weights,
                                                    .n_domains = 2,
                                                    .lengths = lengths,
                                                    .n_lengths = 2,
                                                    .n_steps = 16,
                                                    .seed = 3};
        CHECK_OK(mp_variants_score(&s, v, &q, &err), err);
        for (int i = 0; i < 2; i++) {
            assert_true(s->cell[i].variants_ns == s->cell[i].static_ns);
            assert_int_equal(s->cell[i].n_switches, 0);
        }
        assert_int_equal(s->break_even, 0);
        mp_variants_score_free(s);
        mp_plan_free(alone);
        mp_variants_free(v);
        two_free(&t);
    }
}

/* Blocks are as many as the weights say, and what policies take is added up over the same steps. */
static void test_variants__blocks_go_by_weight(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct two t;
    struct mp_variants *v;
    struct mp_variants_score *s;
    enum mp_outcome outcome;
    static const uint32_t three_to_one[2] = {3, 1}, one_alone[2] = {0, 7};
    CHECK_OK(two_make(&t, load_a, load_b, &err), err);
    t.request.n_variants_max = 1;
    CHECK_OK(mp_variants_make(&v, &t.request, &outcome, NULL, &err), err);
    struct mp_variants_score_request q = {.base = &t.request.base,
                                          .planned = t.part,
                                          .scored = t.part,
                                          .weights = three_to_one,
                                          .n_domains = 2,
                                          .lengths = lengths,
                                          .n_lengths = 2,
                                          .seed = 3,
                                          .n_policies = 1,
                                          .policy = fixed_time};
    CHECK_OK(mp_variants_score(&s, v, &q, &err), err);
    for (int i = 0; i < 2; i++)
        assert_true(s->cell[i].policy_ns[0] == 1250000);
    assert_int_equal(s->domain[1].policy_ns[0], 2000000);
    mp_variants_score_free(s);
    q.weights = one_alone;
    CHECK_OK(mp_variants_score(&s, v, &q, &err), err);
    assert_true(s->cell[0].policy_ns[0] == 2000000);
    mp_variants_score_free(s);
    q.n_policies = MP_VARIANT_POLICIES_MAX + 1;
    assert_int_equal(mp_variants_score(&s, v, &q, &err), MP_EUSAGE);
    mp_variants_free(v);
    two_free(&t);
}

static void test_variants__refuses_what_it_cannot_do(void **state) {
    (void)state;
    struct two t;
    struct mp_error err = {0};
    enum mp_outcome outcome;
    struct mp_variants *v;
    CHECK_OK(two_make(&t, load_a, load_b, &err), err);
    struct mp_variants_request q = t.request;
    q.n_domains = 0;
    assert_int_equal(mp_variants_make(&v, &q, &outcome, NULL, &err), MP_EUSAGE);
    assert_null(v);
    mp_error_clear(&err);
    q = t.request;
    q.n_lengths = 0;
    assert_int_equal(mp_variants_make(&v, &q, &outcome, NULL, &err), MP_EUSAGE);
    mp_error_clear(&err);
    q = t.request;
    q.n_variants_max = MP_VARIANTS_MAX + 1;
    assert_int_equal(mp_variants_make(&v, &q, &outcome, NULL, &err), MP_EUSAGE);
    mp_error_clear(&err);
    q = t.request;
    q.base.sim.is_pipelined = true;
    CHECK_OK(mp_variants_make(&v, &q, &outcome, NULL, &err), err);
    assert_int_equal(outcome, MP_NOT_APPLICABLE);
    assert_null(v);
    mp_error_clear(&err);
    struct mp_part none = {.trace = t.trace};
    const struct mp_part parts[2] = {t.part[0], none};
    q = t.request;
    q.domains = parts;
    assert_int_equal(mp_variants_make(&v, &q, &outcome, NULL, &err), MP_EINPUT);
    two_free(&t);
}

/* ---- groups of requests ---- */

static void test_variants__groups_are_what_they_are_made_of(void **state) {
    (void)state;
    struct two t;
    struct mp_error err = {0};
    uint32_t group[2 * ITERATIONS], again[2 * ITERATIONS], n = 2, m = 2;
    CHECK_OK(two_make(&t, load_a, load_b, &err), err);
    CHECK_OK(vcluster_group(group, &n, &t.all, &err), err);
    assert_int_equal(n, 2);
    for (uint32_t i = 0; i < 2 * ITERATIONS; i++)
        assert_int_equal(group[i], i >= ITERATIONS);
    CHECK_OK(vcluster_group(again, &m, &t.all, &err), err);
    assert_memory_equal(group, again, sizeof group);
    uint32_t share[2 * N_EXPERTS], sum = 0;
    CHECK_OK(vcluster_shares(share, &t.part[1], &err), err);
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        sum += share[e];
    assert_in_range(sum, MP_SHARE_ONE - N_EXPERTS, MP_SHARE_ONE);
    assert_in_range(share[2], MP_SHARE_ONE * 35u / 100, MP_SHARE_ONE * 37u / 100); /* 40 of 110 */
    two_free(&t);
}

/* ---- faults ---- */

static enum mp_status whole(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct two t;
    struct mp_variants *v = NULL;
    struct mp_variants_score *s = NULL;
    enum mp_outcome outcome;
    enum mp_status status = two_make(&t, load_a, load_b, err);
    if (status == MP_OK)
        status = mp_variants_make(&v, &t.request, &outcome, NULL, err);
    const struct mp_variants_score_request q = {.base = &t.request.base,
                                                .planned = t.part,
                                                .scored = t.part,
                                                .weights = weights,
                                                .n_domains = 2,
                                                .lengths = lengths,
                                                .n_lengths = 1,
                                                .n_steps = 4,
                                                .seed = 3};
    if (status == MP_OK)
        status = mp_variants_score(&s, v, &q, err);
    mp_variants_score_free(s);
    mp_variants_free(v);
    two_free(&t);
    return status;
}

static void test_variants__survives_faults(void **state) {
    (void)state;
    sweep_faults(whole, NULL, 97);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants__never_past_the_budget_whatever_comes),
        cmocka_unit_test(test_variants__an_unknown_worst_step_counts_once),
        cmocka_unit_test(test_variants__follows_what_lasts_and_leaves_what_does_not),
        cmocka_unit_test(test_variants__free_switches_follow_at_once),
        cmocka_unit_test(test_variants__refuses_rules_that_are_none),
        cmocka_unit_test(test_variants__two_kinds_two_variants),
        cmocka_unit_test(test_variants__one_kind_is_the_static_plan),
        cmocka_unit_test(test_variants__blocks_go_by_weight),
        cmocka_unit_test(test_variants__refuses_what_it_cannot_do),
        cmocka_unit_test(test_variants__groups_are_what_they_are_made_of),
        cmocka_unit_test(test_variants__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
