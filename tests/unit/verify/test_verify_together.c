/* The verifier of two plans that share their GPUs, against the planner's evaluators: on random recordings, placements
 * and topologies it must find the very same step of both, and refuse everything that is not so. */
#include "../plan/random_plan.h"
#include "planner.h"
#include "support.h"
#include "tiny.h"
#include <moeplan/coloc.h>
#include <moeplan/verify.h>

static const char *const topologies[] = {"4:h100",
                                         "2x2:a100+2x2:l40s",
                                         "1x3:h100",
                                         "topologies/mixed-a100-l40s.yaml",
                                         "topologies/shared-nic.yaml",
                                         "topologies/rack-two-tier.yaml",
                                         "1:h100"};
enum { N_TOPOLOGIES = 7, PRESETS = 3 };

struct two {
    struct tiny t[2];
    struct mp_plan *plan[2];
    uint32_t *gpu[2]; /* [layers][experts] */
    struct mp_colocation *pairs[2];
    uint32_t n_pairs;
};

static void free_two(struct two *x) {
    for (int m = 0; m < 2; m++) {
        mp_plan_free(x->plan[m]);
        mp_free(x->gpu[m]);
        mp_free(x->pairs[m]);
    }
    tiny_free(&x->t[1]);
    tiny_free(&x->t[0]);
}

/* On each GPU, every expert of one model with every one of the other. */
static void list_pairs(struct two *x) {
    const uint32_t n[2] = {x->t[0].trace->n_experts, x->t[1].trace->n_experts};
    const uint32_t a = x->t[0].trace->n_layers, b = x->t[1].trace->n_layers, layers = a < b ? a : b;
    for (int m = 0; m < 2; m++)
        x->pairs[m] = mp_calloc((size_t)layers * n[0] * n[1] + 1, sizeof *x->pairs[m]);
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t i = 0; i < n[0]; i++)
            for (uint32_t k = 0; k < n[1]; k++)
                if (x->gpu[0][l * n[0] + i] == x->gpu[1][l * n[1] + k]) {
                    const uint32_t gpu = x->gpu[0][l * n[0] + i];
                    x->pairs[0][x->n_pairs] = (struct mp_colocation){l, i, k, gpu};
                    x->pairs[1][x->n_pairs++] = (struct mp_colocation){l, k, i, gpu};
                }
}

/* What the planner's evaluators say: sums over layers of the mean step. */
static void claim(const struct two *x, struct mp_plan_together *out) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_workload *w[2];
    uint32_t nobody = 0, layers = 0;
    for (int m = 0; m < 2; m++) {
        CHECK_OK(mp_workload_build(&w[m], &x->t[m].part, &x->t[m].request.batching, &err), err);
        layers = x->t[m].trace->n_layers > layers ? x->t[m].trace->n_layers : layers;
    }
    for (uint32_t l = 0; l < layers; l++) {
        struct mp_coloc_problem p = {.topology = x->t[0].topology};
        struct mp_coloc_plan places = {.gpu = {&nobody, &nobody}};
        struct mp_coloc_times times;
        for (int m = 0; m < 2; m++) {
            if (l >= x->t[m].trace->n_layers) {
                CHECK_OK(mp_coloc_nobody(&p.model[m], p.topology->n_gpus, arena, &err), err);
                continue;
            }
            places.gpu[m] = x->gpu[m] + (size_t)l * x->t[m].trace->n_experts;
            CHECK_OK(mp_coloc_model_of(&p.model[m], w[m], x->t[m].model, p.topology, l, 0, w[m]->n_steps, arena, &err),
                     err);
        }
        CHECK_OK(mp_coloc_evaluate(&times, &p, &places, NULL, &err), err);
        out->timeline_ns += times.timeline_ns;
        out->closed_form_ns += times.closed_ns;
    }
    mp_workload_free(w[0]);
    mp_workload_free(w[1]);
    mp_arena_free(arena);
}

static void make_two(struct two *x, const char *topology, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    struct mp_error err = {0};
    struct mp_plan_together together = {.is_present = true};
    enum mp_outcome outcome;
    *x = (struct two){.n_pairs = 0};
    for (int m = 0; m < 2; m++) {
        const bool is_prefill = mp_rng_below(&rng, 2) == 1;
        const struct tiny_spec spec = {.n_layers = 1 + (uint32_t)mp_rng_below(&rng, 3),
                                       .n_experts = 4 + (uint32_t)mp_rng_below(&rng, 9),
                                       .top_k = 1 + (uint32_t)mp_rng_below(&rng, 3),
                                       .n_requests = 60,
                                       .n_rows = 5,
                                       .topology = topology,
                                       .shared = m == 1 ? x->t[0].topology : NULL,
                                       .is_counts = mp_rng_below(&rng, 4) == 0,
                                       .phase = is_prefill ? MP_PHASE_PREFILL : MP_PHASE_DECODE,
                                       .batch = is_prefill ? 6 : 1,
                                       .seed = mp_rng_next(&rng)};
        CHECK_OK(tiny_make(&x->t[m], &spec, &err), err);
        if (seed % 3 == 0) { /* the network decides, not the GPUs */
            x->t[m].model->dispatch_bytes *= 64 + mp_rng_below(&rng, 1000);
            x->t[m].model->combine_bytes *= 64 + mp_rng_below(&rng, 1000);
        }
        if (seed % 3 == 1) /* the tokens, not the weights */
            x->t[m].model->expert_flops_per_token *= 10000;
        struct mp_gpu_type *types;
        memcpy(&types, &x->t[0].topology->types, sizeof types);
        for (uint32_t i = 0; m == 0 && i < x->t[0].topology->n_types; i++) /* padding is by the tile of GPU 0 */
            types[i].tile_tokens = 1u << mp_rng_below(&rng, 6);
        struct mp_batching *b = &x->t[m].request.batching;
        b->n_steps_max = 5;
        b->pad_tokens = (uint32_t)mp_rng_below(&rng, 3) * 4;
        const size_t n = (size_t)spec.n_layers * spec.n_experts;
        x->gpu[m] = mp_calloc(n, sizeof *x->gpu[m]);
        for (size_t i = 0; i < n; i++)
            x->gpu[m][i] = (uint32_t)mp_rng_below(&rng, x->t[0].topology->n_gpus);
    }
    list_pairs(x);
    claim(x, &together);
    for (int m = 0; m < 2; m++) {
        struct mp_plan_request request = x->t[m].request;
        together.is_second = m == 1;
        together.other_trace_sha256 = x->t[1 - m].trace->sha256;
        together.other_model_sha256 = x->t[1 - m].model->sha256;
        request.strategy = "contiguous";
        request.given = x->gpu[m];
        request.given_name = "test";
        request.slots_per_gpu = x->t[m].trace->n_experts;
        request.colocations = x->pairs[m];
        request.n_colocations = x->n_pairs;
        request.together = &together;
        CHECK_OK(mp_plan_make(&x->plan[m], &request, &outcome, NULL, &err), err);
        assert_non_null(x->plan[m]);
    }
}

static enum mp_status verify_two(const struct two *x, const struct mp_model *first, struct mp_verify_report **out,
                                 struct mp_error *err) {
    const struct mp_verify_side side[2] = {{x->plan[0], x->t[0].trace, first != NULL ? first : x->t[0].model},
                                           {x->plan[1], x->t[1].trace, x->t[1].model}};
    return mp_plan_verify_together(out, side, x->t[0].topology, err);
}

/* Refused, and for this reason among others; or accepted, with MP_N_VIOLATION_KINDS. */
static void check_verdict(const struct two *x, const struct mp_model *first, enum mp_violation_kind kind,
                          const char *what) {
    struct mp_verify_report *r;
    struct mp_error err = {0};
    bool is_named = false;
    CHECK_OK(verify_two(x, first, &r, &err), err);
    for (uint32_t i = 0; i < r->n; i++)
        is_named |= r->violations[i].kind == kind;
    if (kind == MP_N_VIOLATION_KINDS && r->n > 0)
        fail_msg("%s: %s: %s", what, mp_violation_name(r->violations[0].kind), r->violations[0].message);
    if (kind < MP_N_VIOLATION_KINDS && !is_named)
        fail_msg("%s: not refused for %s, but for %s", what, mp_violation_name(kind),
                 r->n > 0 ? r->violations[0].message : "nothing");
    mp_verify_report_free(r);
}

static void test_verify_together__agrees_with_both_evaluators(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 56; seed++) {
        struct two x;
        const uint64_t k = seed % N_TOPOLOGIES;
        make_two(&x, k < PRESETS || k == N_TOPOLOGIES - 1 ? topologies[k] : source_path(topologies[k]), seed);
        check_verdict(&x, NULL, MP_N_VIOLATION_KINDS, topologies[k]);
        for (int which = 0; which < 4; which++) { /* one nanosecond more or less in both files */
            for (int m = 0; m < 2; m++) {
                uint64_t *ns = which < 2 ? &x.plan[m]->together.timeline_ns : &x.plan[m]->together.closed_form_ns;
                *ns += which % 2 ? UINT64_MAX : 1;
            }
            check_verdict(&x, NULL, MP_V_PREDICTION, "a nanosecond off");
            for (int m = 0; m < 2; m++) {
                uint64_t *ns = which < 2 ? &x.plan[m]->together.timeline_ns : &x.plan[m]->together.closed_form_ns;
                *ns -= which % 2 ? UINT64_MAX : 1;
            }
        }
        free_two(&x);
    }
}

static void test_verify_together__what_does_not_belong_together_is_refused(void **state) {
    (void)state;
    uint32_t n_broken = 0;
    for (uint64_t seed = 100; seed < 112; seed++) {
        struct two x, other;
        make_two(&x, "4:h100", seed);
        make_two(&other, "4:h100", seed + 50);
        struct mp_plan_together kept = x.plan[1]->together;

        x.plan[1]->together.is_present = false;
        check_verdict(&x, NULL, MP_V_COLOCATION, "no section");
        x.plan[1]->together = kept;
        x.plan[1]->together.is_second = false;
        check_verdict(&x, NULL, MP_V_COLOCATION, "two first ones");
        x.plan[1]->together = kept;
        x.plan[1]->together.timeline_ns++;
        check_verdict(&x, NULL, MP_V_PREDICTION, "two timelines");
        x.plan[1]->together = kept;
        x.plan[1]->together.closed_form_ns++;
        check_verdict(&x, NULL, MP_V_PREDICTION, "two closed forms");
        x.plan[1]->together = kept;
        x.plan[1]->together.other_model_sha256 = x.t[1].trace->sha256;
        check_verdict(&x, NULL, MP_V_PROVENANCE, "another model");
        x.plan[1]->together = kept;

        struct mp_plan *partner = x.plan[1];
        x.plan[1] = other.plan[1];
        check_verdict(&x, NULL, MP_V_PROVENANCE, "a plan of another pair");
        x.plan[1] = partner;
        check_verdict(&x, NULL, MP_N_VIOLATION_KINDS, "as it was");

        struct mp_model heavy = *x.t[0].model;
        heavy.dense_bytes = UINT64_C(1) << 62;
        check_verdict(&x, &heavy, MP_V_CAPACITY, "more weights than memory");

        struct mp_colocation *pair = x.pairs[0];
        const uint32_t n = x.plan[0]->n_colocations;
        if (n > 0) {
            memcpy(pair, x.plan[0]->colocations, n * sizeof *pair);
            const struct mp_colocation *was = x.plan[0]->colocations;
            x.plan[0]->colocations = pair;
            x.plan[0]->n_colocations = n - 1;
            check_verdict(&x, NULL, MP_V_COLOCATION, "a pair less");
            x.plan[0]->n_colocations = n;
            pair[n - 1].expert_b ^= 1;
            check_verdict(&x, NULL, MP_V_COLOCATION, "another expert");
            pair[n - 1].expert_b ^= 1;
            pair[n - 1].gpu = (pair[n - 1].gpu + 1) % 4;
            check_verdict(&x, NULL, MP_V_COLOCATION, "another GPU");
            x.plan[0]->n_colocations = x.plan[1]->n_colocations = 0; /* and yet experts share GPUs */
            check_verdict(&x, NULL, MP_V_COLOCATION, "no pairs");
            x.plan[0]->n_colocations = x.plan[1]->n_colocations = n;
            x.plan[0]->colocations = was;
            n_broken++;
        }
        free_two(&other);
        free_two(&x);
    }
    assert_true(n_broken > 6);
}

static void test_verify_together__a_pair_that_is_not_there_is_refused(void **state) {
    (void)state;
    struct two x;
    make_two(&x, "4:h100", 200);
    /* both lists say so, and the second model's expert is elsewhere */
    const uint32_t n = x.n_pairs, experts = x.t[1].trace->n_experts;
    assert_true(n > 0);
    const uint32_t layer = x.pairs[0][0].layer, gpu = x.pairs[0][0].gpu;
    uint32_t e = 0;
    while (e < experts && x.gpu[1][layer * experts + e] == gpu)
        e++;
    assert_true(e < experts);
    x.pairs[0][n] = (struct mp_colocation){layer, x.pairs[0][0].expert_a, e, gpu};
    x.pairs[1][n] = (struct mp_colocation){layer, e, x.pairs[0][0].expert_a, gpu};
    for (int m = 0; m < 2; m++) {
        x.plan[m]->colocations = x.pairs[m];
        x.plan[m]->n_colocations = n + 1;
    }
    check_verdict(&x, NULL, MP_V_COLOCATION, "an expert that is elsewhere");
    free_two(&x);
}

static enum mp_status verify_flow(void *ctx, struct mp_error *err) {
    struct mp_verify_report *r;
    enum mp_status status = verify_two(ctx, NULL, &r, err);
    if (status != MP_OK)
        assert_null(r);
    mp_verify_report_free(r);
    return status;
}
static void test_verify_together__survives_every_failed_allocation(void **state) {
    (void)state;
    struct two x;
    make_two(&x, "2x2:h100", 7);
    sweep_faults(verify_flow, &x, 1);
    free_two(&x);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_together__agrees_with_both_evaluators),
        cmocka_unit_test(test_verify_together__what_does_not_belong_together_is_refused),
        cmocka_unit_test(test_verify_together__a_pair_that_is_not_there_is_refused),
        cmocka_unit_test(test_verify_together__survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
