#include "tiny.h"
#include "mutations.h"
#include "../unit/plan/random_plan.h"
#include "../unit/verify/twist.h"
#include "planner.h"
#include "support.h"

static const struct mutation *const no_mutation = NULL;

/* A plan with other slots may by chance keep every sum it claims: then it is a true plan, and accepted. Rare, and
 * counted. */
static uint32_t n_still_true;

static void check(const struct mp_plan *p, const struct tiny *t, const struct mutation *m, uint32_t round) {
    struct mp_error err = {0};
    struct mp_verify_report *r;
    CHECK_OK(mp_plan_verify(&r, p, t->trace, t->topology, t->model, &err), err);
    bool is_named = m == no_mutation && r->n == 0;
    for (uint32_t k = 0; m != no_mutation && k < r->n; k++)
        is_named |= m->kinds >> r->violations[k].kind & 1;
    if (m != no_mutation && m->may_stay_true && r->n == 0) {
        n_still_true++;
        is_named = true;
    }
    if (!is_named)
        fail_msg("round %u: %s: %u violations, the first \"%s\"", round, m != no_mutation ? m->name : "unbroken", r->n,
                 r->n > 0 ? r->violations[0].message : "");
    mp_verify_report_free(r);
}

static struct mp_plan *reread(const char *text) {
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_plan *p;
    CHECK_OK(mp_in_from_memory(&in, "plan.yaml", text, strlen(text), &err), err);
    CHECK_OK(mp_plan_parse(&p, in, NULL, &err), err);
    mp_in_close(in);
    return p;
}

/* The same placement under weights by source, with the evidence that goes with them. */
static void source(struct mp_rng *rng, struct mp_plan *p, const struct tiny *t) {
    struct mp_error err = {0};
    struct mp_workload *w;
    CHECK_OK(mp_plan_source_weights(p, (enum mp_route_by)mp_rng_below(rng, MP_N_ROUTE_BY), &err), err);
    p->provenance.route = mp_route_rule_name(p->route);
    for (uint32_t l = 0; l < p->n_layers; l++)
        twist_sources(rng, p, &p->layers[l]);
    CHECK_OK(mp_workload_build(&w, &t->part, &t->request.batching, &err), err);
    const struct mp_problem problem = {
        .workload = w, .topology = t->topology, .model = t->model, .sim = t->request.sim, .n_threads = 1};
    CHECK_OK(mp_plan_prove(p, &problem, &err), err);
    mp_workload_free(w);
}

/* 1,100 tiny problems planned for real (some strategies decline some shapes), each plan broken in several ways in turn.
 */
static void test_mutations_data__all_refused_by_name(void **state) {
    (void)state;
    static const char *const topologies[] = {"1x4:h100", "2x2:h100", "2x2:a100+1x2:l40s", "3x2:v100"};
    static const char *const orders_known[] = {NULL, "spread-out", "hybrid", "two-level", "matchings"};
    static const char *const recipes[] = {"lpt", "eplb", "round-robin", "random"};
    struct mp_rng rng = mp_rng_seed(21);
    uint32_t applied[128] = {0}, next = 0, n_declined = 0;
    for (uint32_t round = 0; round < 1100; round++) {
        struct mp_error err = {0};
        bool is_decode = mp_rng_below(&rng, 2);
        const struct tiny_spec spec = {1 + (uint32_t)mp_rng_below(&rng, 3),
                                       8,
                                       2,
                                       16,
                                       4,
                                       topologies[round % 4],
                                       false,
                                       is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                       is_decode ? 1 : 6,
                                       mp_rng_next(&rng)};
        struct tiny t;
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        t.request.strategy = recipes[mp_rng_below(&rng, 4)];
        t.request.order = orders_known[mp_rng_below(&rng, sizeof orders_known / sizeof orders_known[0])];
        t.request.can_pace = mp_rng_below(&rng, 2);
        t.request.sim.is_pipelined = round % 3 == 0;
        t.request.n_redundant = t.topology->n_gpus * (uint32_t)mp_rng_below(&rng, 2);
        bool is_sourced = t.request.n_redundant > 0 && round % 2 == 0;
        if (is_sourced)
            t.request.replicate = "eplb";
        struct mp_plan *p;
        enum mp_outcome outcome;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        if (p == NULL) { /* a strategy that cannot on this shape */
            tiny_free(&t);
            n_declined++;
            continue;
        }
        if (is_sourced)
            source(&rng, p, &t);
        /* And orders that no layer uses: they change no number, and are checked all the same. */
        struct mp_order *orders = mp_arena_alloc(p->arena, (size_t)p->n_orders + 3, sizeof *orders);
        assert_non_null(orders);
        if (p->n_orders > 0)
            memcpy(orders, p->orders, p->n_orders * sizeof *orders);
        random_any_order(&rng, p, &orders[p->n_orders], RANDOM_WIDTHS);
        random_any_order(&rng, p, &orders[p->n_orders + 1], RANDOM_FLUSH);
        random_any_order(&rng, p, &orders[p->n_orders + 2], RANDOM_NODES);
        p->orders = orders;
        p->n_orders += 3;
        char *text = tiny_text(p);
        assert_non_null(text);
        check(p, &t, no_mutation, round);
        mp_plan_free(p);
        for (int i = 0; i < 8; i++) {
            const struct mutation *m = &mutations[next++ % n_mutations];
            p = reread(text);
            if (m->apply(p, &rng)) {
                applied[m - mutations]++;
                check(p, &t, m, round);
            }
            mp_plan_free(p);
        }
        /* The same plan on GPUs that are too small for it. */
        if (round % 50 == 0) {
            const struct mutation capacity = {"less-memory", UINT32_C(1) << MP_V_CAPACITY, true, NULL, false};
            struct mp_gpu_type *type = (void *)(uintptr_t)&t.topology->types[0];
            p = reread(text);
            uint32_t n_slots = p->gpu_first_slot[1];
            type->memory_bytes = (t.model->expert_bytes * n_slots + t.model->shared_bytes) * p->n_layers +
                                 t.model->dense_bytes; /* just enough */
            check(p, &t, no_mutation, round);
            type->memory_bytes--;
            check(p, &t, &capacity, round);
            mp_plan_free(p);
        }
        mp_free(text);
        tiny_free(&t);
    }
    assert_true(n_declined < 200 && n_still_true < 20);
    for (uint32_t i = 0; i < n_mutations; i++)
        if (mutations[i].needs_data && applied[i] < 10)
            fail_msg("%s: applied %u times only", mutations[i].name, applied[i]);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations_data__all_refused_by_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
