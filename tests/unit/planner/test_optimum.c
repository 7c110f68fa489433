/* Against every placement there is, on problems small enough to try them all: bound <= optimum <= every recipe. */
#include "support.h"

#include "tiny.h"
#include <math.h>

struct all_placements {
    const struct tiny *tiny;
    struct mp_workload *workload;
    struct mp_plan *plan; /* one layer, its slots overwritten */
    uint32_t used[8];
    uint64_t best_ns, n_tried;
};

/* Puts expert e and those after it in every way; simulates each full placement. */
static void try_from(struct all_placements *a, uint32_t e) {
    struct mp_plan *p = a->plan;
    if (e == p->n_experts) {
        struct mp_error err = {0};
        struct mp_sim_result *r;
        const struct mp_plan_request *q = &a->tiny->request;
        CHECK_OK(mp_simulate(&r, p, a->workload, q->topology, q->model, &q->sim, &err), err);
        a->best_ns = r->mean.step_ns < a->best_ns ? r->mean.step_ns : a->best_ns;
        a->n_tried++;
        mp_sim_result_free(r);
        return;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        uint32_t slot = p->gpu_first_slot[g] + a->used[g];
        if (slot == p->gpu_first_slot[g + 1])
            continue;
        p->layers[0].slot_expert[slot] = (uint16_t)e;
        a->used[g]++;
        try_from(a, e + 1);
        a->used[g]--;
        p->layers[0].slot_expert[slot] = MP_NO_EXPERT;
    }
}

static void test_optimum__bound_below_optimum_below_every_recipe(void **state) {
    (void)state;
    static const char *const topologies[] = {"2:h100", "2x1:h100", "3:h100", "1x2:a100+1x1:l40s"};
    struct mp_rng rng = mp_rng_seed(41);
    unsigned n_auto_best = 0, n_problems = 60;
    uint64_t n_tried = 0;
    double worst_bound = 1, worst_auto = 1;
    for (uint64_t i = 0; i < n_problems; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct tiny_spec s = {.n_layers = 1,
                              .n_experts = 3 + (uint32_t)mp_rng_below(&rng, 3),
                              .n_requests = 20,
                              .n_rows = 6,
                              .topology = topologies[i % 4],
                              .phase = mp_rng_below(&rng, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                              .seed = i};
        s.top_k = 1 + (uint32_t)mp_rng_below(&rng, 2);
        s.batch = s.phase == MP_PHASE_DECODE ? 2 : 12;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        struct all_placements a = {.tiny = &t, .best_ns = UINT64_MAX};
        CHECK_OK(mp_workload_build(&a.workload, &t.part, &t.request.batching, &err), err);
        uint64_t bound = 0, of_auto = 0, least = UINT64_MAX;
        for (uint32_t k = 0; mp_recipe_at(k) != NULL; k++) {
            struct mp_plan *p = NULL;
            enum mp_outcome outcome;
            t.request.strategy = mp_recipe_at(k)->name;
            t.request.order = "single"; /* the placements tried below have no order either */
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            mp_error_clear(&err);
            if (p == NULL)
                continue;
            bound = p->certificates[2].bound_ns;
            of_auto = k == 0 ? p->predicted_step_ns : of_auto; /* the first recipe is auto */
            least = p->predicted_step_ns < least ? p->predicted_step_ns : least;
            mp_plan_free(a.plan);
            a.plan = p;
        }
        for (uint32_t slot = 0; slot < a.plan->n_slots; slot++)
            a.plan->layers[0].slot_expert[slot] = MP_NO_EXPERT;
        try_from(&a, 0);
        if (bound > a.best_ns || a.best_ns > least || of_auto != least)
            fail_msg("problem %llu: bound %llu, optimum %llu, best recipe %llu, auto %llu", (unsigned long long)i,
                     (unsigned long long)bound, (unsigned long long)a.best_ns, (unsigned long long)least,
                     (unsigned long long)of_auto);
        n_auto_best += of_auto == a.best_ns;
        n_tried += a.n_tried;
        worst_bound = fmax(worst_bound, (double)a.best_ns / (double)bound);
        worst_auto = fmax(worst_auto, (double)of_auto / (double)a.best_ns);
        mp_plan_free(a.plan);
        mp_workload_free(a.workload);
        tiny_free(&t);
    }
    print_message(
        "# %u problems, %llu placements: auto optimal in %u, at worst %.4f of it; optimum at worst %.4f of the "
        "bound\n",
        n_problems, (unsigned long long)n_tried, n_auto_best, worst_auto, worst_bound);
}

/* The same recording with its experts renamed by `image`; NULL rows never happen here. */
static enum mp_status rename_experts(struct mp_trace **out, const struct mp_trace *t, const uint32_t *image,
                                     struct mp_error *err) {
    struct mp_trace_builder *b;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = t->phase,
                                       .model = t->model,
                                       .format = "test",
                                       .n_layers = t->n_layers,
                                       .n_experts = t->n_experts,
                                       .top_k = t->top_k};
    enum mp_status status = mp_trace_builder_new(&b, &meta, &mp_limits_default, err);
    if (status != MP_OK)
        return status;
    for (uint64_t r = 0; r < t->n_requests && status == MP_OK; r++) {
        status = mp_trace_builder_request(b, &t->requests[r], err);
        for (uint64_t i = 0; i < t->requests[r].n_rows && status == MP_OK; i++) {
            uint16_t ids[64];
            for (uint32_t l = 0; l < t->n_layers; l++) {
                (void)mp_trace_row(t, l, t->requests[r].first_row + i, ids + l * t->top_k);
                for (uint32_t k = 0; k < t->top_k; k++)
                    ids[l * t->top_k + k] = (uint16_t)image[ids[l * t->top_k + k]];
            }
            status = mp_trace_builder_row(b, ids, NULL, err);
        }
    }
    if (status == MP_OK)
        return mp_trace_builder_finish(b, t->sha256, out, err);
    mp_trace_builder_free(b);
    return status;
}

static bool loads_are_distinct(const struct mp_trace *t) {
    uint64_t load[64];
    for (uint32_t l = 0; l < t->n_layers; l++) {
        mp_trace_load_of_layer(t, l, load);
        for (uint32_t a = 0; a < t->n_experts; a++)
            for (uint32_t b = 0; b < a; b++)
                if (load[a] == load[b])
                    return false;
    }
    return true;
}

/* Names of experts carry no meaning: the plan is the same one, renamed, with the same figures. (Without replicas: which
 * replica serves a token is drawn by the expert's number.) */
static void test_optimum__renaming_experts_renames_the_plan(void **state) {
    (void)state;
    static const char *const blind[] = {"lpt", "eplb"};
    struct mp_rng rng = mp_rng_seed(42);
    unsigned n_compared = 0;
    for (uint64_t i = 0; i < 150; i++) {
        struct mp_error err = {0};
        struct tiny t, u;
        struct tiny_spec s = {.n_layers = 1,
                              .n_experts = 8,
                              .top_k = 2,
                              .n_requests = 24,
                              .n_rows = 10,
                              .topology = i % 2 == 0 ? "4:h100" : "2x2:h100",
                              .phase = MP_PHASE_PREFILL,
                              .batch = 60,
                              .seed = i};
        uint32_t image[8] = {0, 1, 2, 3, 4, 5, 6, 7};
        mp_rng_shuffle(&rng, image, 8);
        CHECK_OK(tiny_make(&t, &s, &err), err);
        CHECK_OK(tiny_make(&u, &s, &err), err);
        mp_part_free(&u.part);
        mp_part_free(&u.unused);
        mp_trace_free(u.trace);
        u.trace = NULL;
        CHECK_OK(rename_experts(&u.trace, t.trace, image, &err), err);
        CHECK_OK(mp_part_split(&u.part, &u.unused, u.trace, &u.request.split, &err), err);
        /* The planning steps use all rows, so that their loads are the trace's. */
        for (int k = 0; k < 2 && loads_are_distinct(t.trace); k++) {
            struct mp_plan *p, *q;
            enum mp_outcome outcome;
            t.request.strategy = u.request.strategy = blind[k];
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            CHECK_OK(mp_plan_make(&q, &u.request, &outcome, NULL, &err), err);
            if (p->n_planning_steps * 240 == t.trace->n_rows) {
                assert_int_equal(p->predicted_step_ns, q->predicted_step_ns);
                assert_int_equal(p->layers[0].rows_max_sum, q->layers[0].rows_max_sum);
                assert_int_equal(p->layers[0].port_bound_ns, q->layers[0].port_bound_ns);
                n_compared++;
            }
            mp_plan_free(p);
            mp_plan_free(q);
        }
        tiny_free(&t);
        tiny_free(&u);
    }
    print_message("# %u pairs of plans compared\n", n_compared);
    assert_true(n_compared >= 20);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_optimum__bound_below_optimum_below_every_recipe),
        cmocka_unit_test(test_optimum__renaming_experts_renames_the_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
