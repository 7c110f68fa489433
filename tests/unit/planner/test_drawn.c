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
        cmocka_unit_test(test_drawn__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
