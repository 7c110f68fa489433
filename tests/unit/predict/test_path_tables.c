#include "support.h"
#include "paths.h"
#include <math.h>

/* Where the next expert follows from the last one it is foreseen every time, and batches' lists with it. */
static void test_path_tables__a_chain_is_foreseen(void **state) {
    (void)state;
    struct mp_trace *t = make_trace(60, true, 1);
    struct learned x = learn(t, 3);
    struct mp_path_accuracy none = measured(x.tables, &x.b, 0, 1), one = measured(x.tables, &x.b, 1, 2),
                            three = measured(x.tables, &x.b, 3, 3);
    assert_true(one.recall == 1 && one.recall_k == 1 && three.recall == 1 && three.recall_k == 1);
    assert_true(none.recall < 0.6 && none.recall_k < 0.4);
    assert_true(one.lists_common > none.lists_common + 0.2);
    for (uint32_t l = 1; l < LAYERS; l++)
        assert_true(one.layer_recall[l] == 1);
    mp_path_accuracy_free(&none);
    mp_path_accuracy_free(&one);
    mp_path_accuracy_free(&three);
    forget(&x);
}

/* Where layers have nothing to do with each other, looking back neither helps nor harms much, and probabilities are
 * those of the experts. */
static void test_path_tables__independent_layers_are_popularity(void **state) {
    (void)state;
    struct mp_trace *t = make_trace(400, false, 2);
    struct learned x = learn(t, 1);
    struct mp_path_accuracy none = measured(x.tables, &x.b, 0, 1), one = measured(x.tables, &x.b, 1, 1);
    assert_true(fabs(none.recall - one.recall) < 0.03 && one.calibration < 0.02 && none.calibration < 0.02);
    mp_path_accuracy_free(&none);
    mp_path_accuracy_free(&one);
    forget(&x);
}

/* Scores are the logarithms that they say, worked out in floating point; probabilities sum to top-k; and a result is
 * the same for any number of threads. */
static void test_path_tables__scores_by_the_formula(void **state) {
    (void)state;
    struct mp_trace *t = make_trace(30, true, 3);
    struct learned x = learn(t, 2);
    const struct mp_request *q = &t->requests[x.b.members[0]];
    for (uint32_t l = 1; l < LAYERS; l++) {
        int64_t scores[EXPERTS];
        double p[EXPERTS], sum = 0, n_tokens = 0;
        uint16_t own[TOP_K], there[TOP_K], before[TOP_K];
        mp_path_scores(x.tables, t, l, q->first_row, 2, scores);
        mp_path_probabilities(x.tables, scores, p);
        for (uint32_t e = 0; e < EXPERTS; e++) {
            double want = 0, load = 0;
            for (uint32_t m = 0; m < x.a.n; m++)
                for (uint64_t row = 0; row < t->requests[x.a.members[m]].n_rows; row++) {
                    (void)mp_trace_row(t, l, t->requests[x.a.members[m]].first_row + row, own);
                    load += own[0] == e || own[1] == e;
                    n_tokens += e == 0;
                }
            for (uint32_t d = 1; d <= 2 && d <= l; d++) {
                (void)mp_trace_row(t, l - d, q->first_row, there);
                for (uint32_t j = 0; j < TOP_K; j++) {
                    double pairs = 0, seen = 0;
                    for (uint32_t m = 0; m < x.a.n; m++)
                        for (uint64_t row = 0; row < t->requests[x.a.members[m]].n_rows; row++) {
                            (void)mp_trace_row(t, l, t->requests[x.a.members[m]].first_row + row, own);
                            (void)mp_trace_row(t, l - d, t->requests[x.a.members[m]].first_row + row, before);
                            const bool is_there = before[0] == there[j] || before[1] == there[j];
                            seen += is_there;
                            pairs += is_there && (own[0] == e || own[1] == e);
                        }
                    const double popular = (2 * load + 1) / (2 * n_tokens + 2);
                    want += log2((pairs + 8 * popular) / ((seen + 8) * popular)) / (d == 1 ? 1 : 2);
                }
            }
            assert_true(fabs((double)scores[e] / 65536 - want - log2(2 * load + 1)) < 0.35);
            sum += p[e];
        }
        assert_true(fabs(sum - TOP_K) < 1e-6);
    }
    struct mp_path_accuracy one = measured(x.tables, &x.b, 2, 1), three = measured(x.tables, &x.b, 2, 3);
    assert_true(one.recall == three.recall && one.calibration == three.calibration &&
                one.lists_common == three.lists_common);
    mp_path_accuracy_free(&one);
    mp_path_accuracy_free(&three);
    forget(&x);
}

struct flow {
    struct mp_part learned, scored;
};
static enum mp_status faulted(void *ctx, struct mp_error *err) {
    const struct flow *f = ctx;
    struct mp_path_tables *tables;
    struct mp_path_accuracy a;
    enum mp_status status = mp_path_learn(&tables, &f->learned, 2, err);
    if (status != MP_OK)
        return status;
    status = mp_path_measure(&a, &(struct mp_foresight){.tables = tables, .length = 2}, &f->scored, NULL, 1, err);
    if (status == MP_OK)
        mp_path_accuracy_free(&a);
    mp_path_free(tables);
    return status;
}
static void test_path_tables__survives_faults(void **state) {
    (void)state;
    struct mp_trace *t = make_trace(6, true, 4);
    struct flow f;
    struct mp_error err = {0};
    struct mp_path_tables *tables;
    halves(t, &f.learned, &f.scored);
    assert_int_equal(mp_path_learn(&tables, &f.learned, MP_PATH_MAX + 1, &err), MP_EUSAGE);
    sweep_faults(faulted, &f, 1);
    mp_part_free(&f.learned);
    mp_part_free(&f.scored);
    mp_trace_free(t);
}

/* gpt-oss-20b, held out by request: a path of earlier experts finds five in six of a token's experts among 8 of 32,
 * where popularity finds half. */
static void test_path_tables__recorded_decode(void **state) {
    (void)state;
    const char *path = shared_path("traces/gpt-oss-20b/mmlu_test.npz");
    if (path == NULL)
        skip();
    struct mp_error err = {0};
    struct mp_trace_hints hints = mp_trace_hints_none;
    hints.layer_base = 0;
    hints.ids_are_physical = 0;
    hints.phase = MP_PHASE_DECODE;
    hints.n_experts = 32;
    struct mp_trace *t;
    struct mp_path_accuracy none, two;
    CHECK_OK(mp_trace_load(&t, path, &hints, &mp_limits_default, &err), err);
    struct learned x = learn(t, 2);
    x.b.n = 20; /* of 100 */
    CHECK_OK(mp_path_measure(&none, &(struct mp_foresight){.tables = x.tables}, &x.b, NULL, 2, &err), err);
    CHECK_OK(mp_path_measure(&two, &(struct mp_foresight){.tables = x.tables, .length = 2}, &x.b, NULL, 2, &err), err);
    assert_true(none.recall < 0.57 && two.recall > 0.82);
    mp_path_accuracy_free(&none);
    mp_path_accuracy_free(&two);
    forget(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path_tables__a_chain_is_foreseen),
        cmocka_unit_test(test_path_tables__independent_layers_are_popularity),
        cmocka_unit_test(test_path_tables__scores_by_the_formula),
        cmocka_unit_test(test_path_tables__survives_faults),
        cmocka_unit_test(test_path_tables__recorded_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
