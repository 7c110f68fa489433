/* Steps that the search and `auto` draw: from the part's requests only, the same for one seed, and only where drawing
 * forgets nothing that matters. */
#include "support.h"

#include "planner.h"
#include "tiny.h"

static const struct tiny_spec spec = {.n_layers = 1,
                                      .n_experts = 6,
                                      .top_k = 2,
                                      .n_requests = 60,
                                      .n_rows = 5,
                                      .topology = "2:h100",
                                      .phase = MP_PHASE_DECODE,
                                      .batch = 4,
                                      .seed = 1};

static bool has_same_rows(const struct mp_workload *a, const struct mp_workload *b) {
    bool is_same = a->n_steps == b->n_steps;
    for (uint32_t s = 0; is_same && s < a->n_steps; s++)
        is_same = a->steps[s].n == b->steps[s].n &&
                  memcmp(a->steps[s].row, b->steps[s].row, a->steps[s].n * sizeof *a->steps[s].row) == 0;
    return is_same;
}

static void test_drawn__uses_the_requests_of_the_part(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    struct mp_part part;
    struct mp_workload *w[3];
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    CHECK_OK(mp_part_without_group(&part, &t.part, 4, 0, &err), err);
    assert_true(part.n < t.part.n && mp_can_draw(&part));
    for (int i = 0; i < 3; i++)
        CHECK_OK(mp_draw_steps(&w[i], &part, &t.request.batching, 20, i == 2 ? 8 : 7, &err), err);
    assert_int_equal(w[0]->n_steps, 20);
    assert_true(w[0]->is_bootstrap);
    assert_true(has_same_rows(w[0], w[1]));
    assert_false(has_same_rows(w[0], w[2]));
    for (uint32_t s = 0; s < w[0]->n_steps; s++)
        for (uint32_t i = 0; i < w[0]->steps[s].n; i++) {
            bool is_member = false;
            for (uint32_t m = 0; m < part.n; m++) {
                const struct mp_request *r = &t.trace->requests[part.members[m]];
                is_member |= w[0]->steps[s].row[i] >= r->first_row && w[0]->steps[s].row[i] < r->first_row + r->n_rows;
            }
            assert_true(is_member);
        }
    for (int i = 0; i < 3; i++)
        mp_workload_free(w[i]);
    mp_part_free(&part);
    tiny_free(&t);
}

/* However many are asked for: no more than 256, and fewer of longer steps, but 16 at least. */
static void test_drawn__draws_fewer_of_longer_steps(void **state) {
    (void)state;
    static const struct {
        uint32_t batch, n_steps;
    } cases[] = {{4, 256}, {1024, 256}, {2048, 128}, {8192, 32}, {65536, 16}};
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_workload *w;
        t.request.batching.batch_per_rank = cases[i].batch;
        CHECK_OK(mp_draw_steps(&w, &t.part, &t.request.batching, 1000, 1, &err), err);
        assert_non_null(w);
        assert_int_equal(w->n_steps, cases[i].n_steps);
        mp_workload_free(w);
    }
    tiny_free(&t);
}

static void test_drawn__not_where_it_forgets_something(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    assert_false(mp_can_draw(NULL));
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    assert_true(mp_can_draw(&t.part));
    t.part.n = MP_DRAWN_REQUESTS_MIN;
    assert_true(mp_can_draw(&t.part));
    t.part.n = MP_DRAWN_REQUESTS_MIN - 1;
    assert_false(mp_can_draw(&t.part));
    t.part.n = 60;
    ((struct mp_request *)t.trace->requests)[59].source = 1; /* some request says where it comes from */
    assert_false(mp_can_draw(&t.part));
    tiny_free(&t);
    struct tiny_spec counts = spec;
    counts.is_counts = true;
    CHECK_OK(tiny_make(&t, &counts, &err), err);
    assert_false(mp_can_draw(&t.part));
    tiny_free(&t);
}

/* With fits_steps nothing is drawn and nothing kept back: `auto` is as good on the planning steps as the exact search,
 * and what the requests are does not matter. Without, it chooses on requests kept back. */
static void test_drawn__fits_the_steps_alone_where_asked_to(void **state) {
    (void)state;
    unsigned n_apart = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct mp_error err = {0};
        struct tiny_spec s = spec;
        struct tiny t;
        uint64_t step_ns[3];
        s.seed = seed;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.order = "single";
        for (int i = 0; i < 3; i++) { /* exact; auto of the steps; auto of the requests */
            struct mp_plan *p = NULL;
            enum mp_outcome outcome;
            t.request.strategy = i == 0 ? "exact" : "auto";
            t.request.fits_steps = i == 1;
            CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
            assert_non_null(p);
            step_ns[i] = p->predicted_step_ns;
            assert_string_equal(p->provenance.selected_on, i == 2 ? "validation part" : "planning data");
            if (i == 2)
                assert_string_not_equal(p->provenance.place, "exact"); /* the recorded steps' optimum: not looked at */
            mp_plan_free(p);
        }
        assert_int_equal(step_ns[1], step_ns[0]);
        assert_true(step_ns[2] >= step_ns[0]);
        n_apart += step_ns[2] > step_ns[0];
        tiny_free(&t);
    }
    assert_true(n_apart > 0);
}

/* What a candidate that `auto` may take comes to on requests kept back: those of group `turn`. 0: it does not apply. */
static double score_kept_back(const struct tiny *t, const char *strategy, uint32_t turn) {
    struct mp_error err = {0};
    struct mp_part fit, kept = {.trace = t->trace};
    struct mp_plan_request q = t->request;
    struct mp_workload *w;
    struct mp_plan *p = NULL;
    struct mp_sim_result *r;
    enum mp_outcome outcome;
    double score = 0;
    CHECK_OK(mp_part_without_group(&fit, &t->part, 4, turn, &err), err);
    uint32_t *members = mp_calloc(t->part.n, sizeof *members);
    for (uint32_t i = 0, j = 0; i < t->part.n; i++)
        if (j < fit.n && fit.members[j] == t->part.members[i])
            j++;
        else
            members[kept.n++] = t->part.members[i];
    kept.members = members;
    q.planning = &fit;
    q.strategy = strategy;
    q.is_trial = true; /* exact searches get as little as inside `auto` */
    CHECK_OK(mp_draw_steps(&w, &kept, &q.batching, 64, 2, &err), err);
    CHECK_OK(mp_plan_make(&p, &q, &outcome, NULL, &err), err);
    if (p != NULL) {
        CHECK_OK(mp_simulate(&r, p, w, q.topology, q.model, &q.sim, &err), err);
        score = mp_sim_objective(r, MP_OBJECTIVE_STEP);
        mp_sim_result_free(r);
    }
    mp_plan_free(p);
    mp_workload_free(w);
    mp_free(members);
    mp_part_free(&fit);
    return score;
}

/* Of the strategies that are near on the first quarter of the requests, the one that is best on three quarters in turn.
 */
static void test_drawn__auto_takes_what_is_best_in_turn(void **state) {
    (void)state;
    static const char *const names[] = {"contiguous", "round-robin", "random", "lpt",   "sorted", "bottleneck",
                                        "exact-load", "moetuner",    "eplb",   "search"}; /* as recipes come */
    enum { N = sizeof names / sizeof *names };
    unsigned n_others = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct mp_error err = {0};
        struct tiny_spec s = spec;
        struct tiny t;
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        double first[N], sum[N], least = 0, best = 0, taken = 0;
        s.seed = 50 + seed;
        s.n_experts = 8;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.order = "single";
        t.request.strategy = "auto";
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        for (int i = 0; i < N; i++) {
            first[i] = sum[i] = score_kept_back(&t, names[i], 0);
            least = first[i] > 0 && (least == 0 || first[i] < least) ? first[i] : least;
        }
        for (int i = 0; i < N; i++) {
            if (first[i] == 0 || first[i] > 1.01 * least)
                continue;
            bool is_other = true; /* the same plan by another strategy is not a candidate */
            for (int k = 0; k < i; k++)
                is_other = is_other && first[k] != first[i];
            for (uint32_t turn = 1; turn < 3; turn++)
                sum[i] += score_kept_back(&t, names[i], turn);
            best = is_other && (best == 0 || sum[i] < best) ? sum[i] : best;
        }
        for (int i = 0; i < N; i++)
            if (strcmp(names[i], p->provenance.place) == 0) {
                taken = sum[i];
                n_others += first[i] > least;
            }
        if (taken == 0 || taken > best)
            fail_msg("recording %llu: %s is taken, %.0f in turn, and the best is %.0f", (unsigned long long)seed,
                     p->provenance.place, taken, best);
        mp_plan_free(p);
        tiny_free(&t);
    }
    print_message("# %u of 10 times not the best of the first quarter\n", n_others);
    assert_true(n_others > 0);
}

static enum mp_status draw_once(void *ctx, struct mp_error *err) {
    const struct tiny *t = ctx;
    struct mp_workload *w = NULL;
    enum mp_status status = mp_draw_steps(&w, &t->part, &t->request.batching, 8, 1, err);
    if (status != MP_OK)
        assert_null(w);
    mp_workload_free(w);
    return status;
}
static void test_drawn__survives_faults(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct tiny t;
    CHECK_OK(tiny_make(&t, &spec, &err), err);
    sweep_faults(draw_once, &t, 1);
    tiny_free(&t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drawn__uses_the_requests_of_the_part),
        cmocka_unit_test(test_drawn__draws_fewer_of_longer_steps),
        cmocka_unit_test(test_drawn__not_where_it_forgets_something),
        cmocka_unit_test(test_drawn__fits_the_steps_alone_where_asked_to),
        cmocka_unit_test(test_drawn__auto_takes_what_is_best_in_turn),
        cmocka_unit_test(test_drawn__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
