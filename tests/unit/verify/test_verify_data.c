/* The verifier against planner, cost model and simulator: two derivations of the same text must agree on random
 * problems of every dispatcher, source mode, routing rule, stage mode and shape of topology. mp_plan_make itself asks
 * the verifier; here the plans are then changed further than any strategy goes, proved again by the planner's code, and
 * verified. */
#include "../plan/random_plan.h"
#include "tiny.h"
#include "planner.h"
#include "support.h"
#include "twist.h"
#include <moeplan/verify.h>

static const char *const topologies[] = {"1x4:h100",
                                         "2x4:h100",
                                         "2x2:a100+2x2:l40s",
                                         "1x8:mi300x",
                                         "4x2:v100",
                                         "1x1:h100",
                                         "topologies/mixed-a100-l40s.yaml",
                                         "topologies/shared-nic.yaml",
                                         "topologies/h100-n4g8-oversubscribed.yaml",
                                         "topologies/rack-two-tier.yaml"};
static const char *const strategies[] = {"contiguous", "round-robin", "random", "lpt", "eplb", "auto"};

static void check_accepted(const struct mp_plan *p, const struct tiny *t, const char *what) {
    struct mp_error err = {0};
    struct mp_verify_report *r;
    CHECK_OK(mp_plan_verify(&r, p, t->trace, t->topology, t->model, &err), err);
    if (r->n > 0)
        fail_msg("%s: %s: %s", what, mp_violation_name(r->violations[0].kind), r->violations[0].message);
    assert_true(r->n_checks > 10 && r->has_data);
    assert_int_equal(r->n_steps_simulated, p->n_samples);
    mp_verify_report_free(r);
}

static void test_verify_data__agrees_with_planner_and_simulator(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};
    uint32_t n_accepted = 0;
    for (uint32_t round = 0; round < 60; round++) {
        struct mp_error err = {0};
        const char *topology = topologies[round % 10];
        struct tiny_spec spec = {.n_layers = 1 + (uint32_t)mp_rng_below(&rng, 3),
                                 .n_experts = 32 + (uint32_t)mp_rng_below(&rng, 9),
                                 .top_k = 1 + (uint32_t)mp_rng_below(&rng, 4),
                                 .n_requests = 80,
                                 .n_rows = 5,
                                 .topology = round % 10 >= 6 ? source_path(topology) : topology,
                                 .is_counts = mp_rng_below(&rng, 4) == 0,
                                 .phase = mp_rng_below(&rng, 2) ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                 .seed = mp_rng_next(&rng)};
        spec.batch = spec.phase == MP_PHASE_DECODE ? 1 : 6;
        struct tiny t;
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        const char *name =
            spec.is_counts ? (mp_rng_below(&rng, 2) ? "agrs" : "a2av") : dispatchers[mp_rng_below(&rng, 5)];
        t.request.sim.dispatcher = mp_dispatcher_find(name);
        t.request.sim.sources = !spec.is_counts && mp_rng_below(&rng, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        t.request.strategy = strategies[mp_rng_below(&rng, 6)];
        t.request.n_redundant = t.topology->n_gpus * (uint32_t)mp_rng_below(&rng, 3);
        t.request.batching.n_steps_max = 6;
        t.request.batching.pad_tokens = (uint32_t)mp_rng_below(&rng, 3) * 4;
        t.request.batching.source_skew_ppm = (uint32_t)mp_rng_below(&rng, 2) * 500000;
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        if (p != NULL) {
            check_accepted(p, &t, t.request.strategy);
            struct mp_workload *w;
            CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
            const struct mp_problem problem = {
                .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
            for (int i = 0; i < 3; i++) {
                char what[200];
                twist(&rng, p, t.topology);
                CHECK_OK(mp_plan_prove(p, &problem, &err), err);
                snprintf(what, sizeof what, "round %u: %s, %s%s, %s, route %s, stages %s, %u orders", round, topology,
                         name, t.request.sim.sources == MP_SOURCES_COUPLED ? " coupled" : "", mp_phase_name(spec.phase),
                         mp_route_rule_name(p->route), mp_stage_mode_name(p->stage_mode), p->n_orders);
                check_accepted(p, &t, what);
                n_accepted++;
            }
            mp_workload_free(w);
        }
        mp_plan_free(p);
        tiny_free(&t);
    }
    assert_true(n_accepted > 120);
}

/* ---- true claims about another order are lies about this one ---- */

/* Ways to change what a plan does without breaking its structure. False: nothing there to change. */
static bool change_limit(struct mp_rng *rng, struct mp_plan *p) {
    p->fallback_ppm = p->fallback_ppm > 0 ? 0 : 1 + (uint32_t)mp_rng_below(rng, 500000);
    return p->n_orders > 0;
}
static bool change_limit_slightly(struct mp_rng *rng, struct mp_plan *p) {
    p->fallback_ppm = (uint32_t)mp_rng_below(rng, 1000000);
    return p->n_orders > 0;
}
static bool change_mode(struct mp_rng *rng, struct mp_plan *p) {
    p->stage_mode = (enum mp_stage_mode)((p->stage_mode + 1 + mp_rng_below(rng, 2)) % 3);
    return p->n_orders > 0;
}
static bool change_width(struct mp_rng *rng, struct mp_plan *p) {
    (void)rng;
    bool has_changed = false;
    for (uint32_t o = 0; o < p->n_orders; o++)
        for (uint32_t s = 0; s < p->orders[o].n_stages; s++)
            for (uint32_t i = 0; i < p->orders[o].stages[s].n; i++) {
                struct mp_transfer *t = (void *)(uintptr_t)&p->orders[o].stages[s].transfers[i];
                has_changed |= t->width > 1;
                t->width = 1;
            }
    return has_changed;
}
static bool change_cap(struct mp_rng *rng, struct mp_plan *p) {
    bool has_changed = false;
    for (uint32_t o = 0; o < p->n_orders; o++) {
        struct mp_order *order = (void *)(uintptr_t)&p->orders[o];
        has_changed |= order->port_bytes_per_s > 1;
        order->port_bytes_per_s -= order->port_bytes_per_s / (2 + mp_rng_below(rng, 8));
    }
    return has_changed;
}
static bool change_pacing(struct mp_rng *rng, struct mp_plan *p) {
    (void)rng;
    p->is_paced = !p->is_paced;
    return p->n_orders > 0;
}
static bool change_sequence(struct mp_rng *rng, struct mp_plan *p) {
    bool has_changed = false;
    for (uint32_t o = 0; o < p->n_orders; o++) {
        const struct mp_order *order = &p->orders[o];
        struct mp_stage *stages = (void *)(uintptr_t)order->stages;
        uint32_t n = order->n_stages - (order->has_flush ? 1 : 0);
        if (n < 2)
            continue;
        uint32_t a = (uint32_t)mp_rng_below(rng, n), b = (uint32_t)mp_rng_below(rng, n);
        struct mp_stage kept = stages[a];
        stages[a] = stages[b];
        stages[b] = kept;
        has_changed |= a != b;
    }
    return has_changed;
}
static bool change_combine(struct mp_rng *rng, struct mp_plan *p) {
    bool has_changed = false;
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (p->layers[l].order != MP_NONE) {
            p->layers[l].combine =
                (enum mp_combine)(((unsigned)p->layers[l].combine + 1 + mp_rng_below(rng, 2)) % MP_N_COMBINES);
            has_changed = true;
        }
    return has_changed;
}
static bool change_to_single(struct mp_rng *rng, struct mp_plan *p) {
    (void)rng;
    bool has_changed = false;
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (p->layers[l].order != MP_NONE) {
            p->layers[l].order = MP_NONE;
            p->layers[l].combine = MP_COMBINE_FORWARD;
            has_changed = true;
        }
    return has_changed;
}

static bool (*const changes[])(struct mp_rng *, struct mp_plan *) = {
    change_limit,  change_limit_slightly, change_mode,    change_width,    change_cap,
    change_pacing, change_sequence,       change_combine, change_to_single};
#define N_CHANGES (sizeof changes / sizeof changes[0])

static uint64_t apart(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

/* Old claims and the ones that are true now: does some sample differ by more than rounding? */
static bool differ(const struct mp_plan_sample *a, const struct mp_plan_sample *b, uint32_t n) {
    bool is_far = false;
    for (uint32_t i = 0; i < n; i++)
        is_far |= apart(a[i].dispatch_ns, b[i].dispatch_ns) > 1000 || apart(a[i].combine_ns, b[i].combine_ns) > 1000;
    return is_far;
}

static void check_refused(const struct mp_plan *p, const struct tiny *t, uint32_t kinds, const char *what) {
    struct mp_error err = {0};
    struct mp_verify_report *r;
    CHECK_OK(mp_plan_verify(&r, p, t->trace, t->topology, t->model, &err), err);
    if (r->n == 0 || (kinds >> r->violations[0].kind & 1) == 0)
        fail_msg("%s: %s", what, r->n == 0 ? "accepted" : r->violations[0].message);
    mp_verify_report_free(r);
}

/* Orders of every kind but those of strategies, so that what this test reaches does not depend on them; with sub-ports
 * only where the change is about those. */
static void give_orders(struct mp_rng *rng, struct mp_plan *p, bool is_about_ports) {
    struct mp_order *orders = mp_arena_alloc(p->arena, 2, sizeof *orders);
    assert_non_null(orders);
    for (int i = 0; i < 2; i++)
        if (is_about_ports) {
            random_any_order(rng, p, &orders[i], RANDOM_WIDTHS);
            orders[i].port_bytes_per_s = 5000000;
        } else {
            twist_order(rng, p, &orders[i]);
        }
    p->orders = orders;
    p->n_orders = 2;
    p->fallback_ppm = is_about_ports || mp_rng_below(rng, 2) ? 0 : (uint32_t)mp_rng_below(rng, 1000000);
    p->stage_mode = (enum mp_stage_mode)mp_rng_below(rng, 3);
    p->is_paced = true;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        p->layers[l].order = (uint32_t)mp_rng_below(rng, 2);
        p->layers[l].combine = (enum mp_combine)mp_rng_below(rng, MP_N_COMBINES);
    }
}

/* One twisted plan: true before the change, a lie after it, refused by name. */
static bool lie_is_refused(struct mp_rng *rng, struct mp_plan *p, const struct tiny *t,
                           const struct mp_problem *problem, uint32_t change, const char *name) {
    struct mp_error err = {0};
    struct mp_plan_sample *samples = p->samples;
    struct mp_certificate *certificates = p->certificates;
    uint64_t step_ns = p->predicted_step_ns;
    if (!changes[change](rng, p))
        return false;
    CHECK_OK(mp_plan_prove(p, problem, &err), err);
    check_accepted(p, t, name);
    if (!differ(samples, p->samples, p->n_samples))
        return false;
    p->samples = samples;
    p->certificates = certificates;
    p->predicted_step_ns = step_ns;
    check_refused(p, t, 1u << MP_V_SAMPLE, name);
    return true;
}

/* A bound of the dispatch or the combine that is 1 ns too high. */
static uint32_t raised_bounds_are_refused(struct mp_plan *p, const struct tiny *t) {
    uint32_t n_raised = 0;
    for (uint32_t c = 0; c < 2; c++)
        if (p->certificates[c].bound_ns < p->certificates[c].value_ns) {
            p->certificates[c].bound_ns++;
            check_refused(p, t, 1u << MP_V_CERTIFICATE, "a bound too high");
            p->certificates[c].bound_ns--;
            n_raised++;
        }
    return n_raised;
}

static void test_verify_data__claims_of_another_order_are_refused(void **state) {
    (void)state;
    static const char *const names[N_CHANGES] = {"limit",  "limit slightly", "mode",    "width", "cap",
                                                 "pacing", "sequence",       "combine", "single"};
    static const char *const shapes[] = {"2x3:h100", "2x2:a100+1x2:l40s", "3x2:v100"};
    struct mp_rng rng = mp_rng_seed(8);
    uint32_t n_refused[N_CHANGES] = {0}, n_raised = 0, n_relayed = 0;
    for (uint32_t round = 0; round < 45; round++) {
        struct mp_error err = {0};
        const struct tiny_spec spec = {.n_layers = 1 + (uint32_t)mp_rng_below(&rng, 2),
                                       .n_experts = 12,
                                       .top_k = 3,
                                       .n_requests = 30,
                                       .n_rows = 3,
                                       .topology = shapes[round % 3],
                                       .phase = MP_PHASE_PREFILL,
                                       .batch = 24,
                                       .seed = mp_rng_next(&rng)};
        struct tiny t;
        struct mp_plan *p;
        struct mp_workload *w;
        enum mp_outcome outcome;
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        t.request.strategy = "lpt";
        t.request.batching.n_steps_max = 3;
        t.request.sim.dispatcher = mp_dispatcher_find(mp_rng_below(&rng, 2) ? "a2av" : "hierarchical");
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        for (uint32_t k = 0; k < N_CHANGES; k++) {
            give_orders(&rng, p, changes[k] == change_width || changes[k] == change_cap || changes[k] == change_pacing);
            CHECK_OK(mp_plan_prove(p, &problem, &err), err);
            check_accepted(p, &t, "before the change");
            uint32_t raised = raised_bounds_are_refused(p, &t);
            n_raised += raised;
            for (uint32_t l = 0; l < p->n_layers; l++)
                if (p->layers[l].order != MP_NONE && p->orders[p->layers[l].order].between_nodes) {
                    n_relayed += raised;
                    break;
                }
            n_refused[k] += lie_is_refused(&rng, p, &t, &problem, k, names[k]);
        }
        mp_workload_free(w);
        mp_plan_free(p);
        tiny_free(&t);
    }
    for (uint32_t i = 0; i < N_CHANGES; i++)
        if (n_refused[i] < 4)
            fail_msg("%s: %u lies", names[i], n_refused[i]);
    assert_true(n_raised > 200 && n_relayed > 20);
}

struct flow {
    const struct mp_plan *plan;
    const struct tiny *tiny;
};
static enum mp_status flow(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_verify_report *r;
    enum mp_status status = mp_plan_verify(&r, f->plan, f->tiny->trace, f->tiny->topology, f->tiny->model, err);
    mp_verify_report_free(r);
    return status;
}

static void test_verify_data__survives_faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    struct mp_error err = {0};
    const struct tiny_spec spec = {2, 8, 2, 20, 4, "2x2:h100", false, MP_PHASE_DECODE, 2, 9};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    t.request.n_redundant = 4;
    t.request.strategy = "eplb";
    struct mp_plan *p;
    enum mp_outcome outcome;
    CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
    assert_non_null(p);
    struct mp_workload *w;
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    const struct mp_problem problem = {
        .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
    for (int i = 0; i < 4; i++) {
        struct flow f = {p, &t};
        twist(&rng, p, t.topology);
        CHECK_OK(mp_plan_prove(p, &problem, &err), err);
        sweep_faults(flow, &f, 1);
    }
    mp_workload_free(w);
    mp_plan_free(p);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_data__agrees_with_planner_and_simulator),
        cmocka_unit_test(test_verify_data__claims_of_another_order_are_refused),
        cmocka_unit_test(test_verify_data__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
