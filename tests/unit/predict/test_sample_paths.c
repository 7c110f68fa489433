#include "support.h"
#include "paths.h"

static bool same_path(const struct mp_trace *t, uint32_t layer, uint64_t a, uint64_t b, uint32_t length) {
    uint16_t x[TOP_K], y[TOP_K];
    for (uint32_t d = 1; d <= length; d++) {
        (void)mp_trace_row(t, layer - d, a, x);
        (void)mp_trace_row(t, layer - d, b, y);
        if (x[0] != y[0])
            return false;
    }
    return true;
}
static bool is_first_of(const struct mp_part *part, uint32_t layer, uint64_t row, uint32_t length) {
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_request *q = &part->trace->requests[part->members[m]];
        for (uint64_t i = q->first_row; i < q->first_row + q->n_rows; i++) {
            if (i == row)
                return true;
            if (same_path(part->trace, layer, i, row, length))
                return false;
        }
    }
    return true;
}

/* Against counting by going through all rows: the longest path that any row took, and what followed. */
static void test_sample_paths__by_brute_force(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct learned x = learn(make_trace(24, false, 5), 3);
    struct mp_sample_paths *s;
    CHECK_OK(mp_sample_paths_learn(&s, &x.a, 3, 2, &err), err);
    uint32_t n_backed_off = 0, n_whole = 0;
    for (uint32_t m = 0; m < x.b.n; m++) {
        const uint64_t row = x.trace->requests[x.b.members[m]].first_row + m;
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t length = 0; length <= 3; length++) {
                uint64_t p[EXPERTS], n = 0, seen[EXPERTS] = {0};
                uint32_t d = length < l ? length : l;
                for (bool is_found = false; !is_found;) {
                    for (uint32_t q = 0; q < x.a.n; q++) {
                        const struct mp_request *r = &x.trace->requests[x.a.members[q]];
                        for (uint64_t i = r->first_row; i < r->first_row + r->n_rows; i++) {
                            uint16_t ids[TOP_K];
                            if (!same_path(x.trace, l, i, row, d))
                                continue;
                            n++;
                            (void)mp_trace_row(x.trace, l, i, ids);
                            seen[ids[0]]++;
                            seen[ids[1]]++;
                        }
                    }
                    is_found = n > 0;
                    n_backed_off += !is_found;
                    d -= !is_found;
                }
                n_whole += d == 3;
                mp_sample_paths_probabilities(s, x.trace, l, row, length, 0, p);
                for (uint32_t e = 0; e < EXPERTS; e++)
                    assert_int_equal(p[e], (seen[e] << 32) / n);
                uint64_t sum = 0;
                mp_sample_paths_probabilities(s, x.trace, l, row, length, 4, p);
                for (uint32_t e = 0; e < EXPERTS; e++)
                    sum += p[e];
                assert_true(sum <= (uint64_t)TOP_K << 32 && sum + 64 > (uint64_t)TOP_K << 32);
            }
    }
    assert_true(n_backed_off > 0 && n_whole > 0); /* both ways were taken */
    uint64_t n_paths, want = 0;
    for (uint32_t l = 1; l < LAYERS; l++)
        for (uint32_t d = 1; d <= 3 && d <= l; d++)
            for (uint32_t m = 0; m < x.a.n; m++) {
                const struct mp_request *q = &x.trace->requests[x.a.members[m]];
                for (uint64_t row = q->first_row; row < q->first_row + q->n_rows; row++)
                    want += is_first_of(&x.a, l, row, d);
            }
    assert_true(mp_sample_paths_bytes(s, 3, &n_paths) >= want * (8 + 4 * TOP_K));
    assert_int_equal(n_paths, want);
    mp_sample_paths_free(s);
    forget(&x);
}

static struct mp_path_accuracy measured_paths(const struct learned *x, uint32_t length, unsigned threads) {
    struct mp_error err = {0};
    struct mp_sample_paths *s;
    struct mp_path_accuracy a;
    CHECK_OK(mp_sample_paths_learn(&s, &x->a, length, threads, &err), err);
    const struct mp_foresight how = {.tables = x->tables, .paths = s, .length = length, .keeps_top = true};
    CHECK_OK(mp_path_measure(&a, &how, &x->b, NULL, threads, &err), err);
    mp_sample_paths_free(s);
    return a;
}

/* Where the whole of the next layer follows from the last one's first expert, a path of one layer knows it. With
 * top-2 chains it knows the first one's follower for sure. */
static void test_sample_paths__a_chain_is_foreseen(void **state) {
    (void)state;
    struct learned x = learn(make_trace(60, true, 1), 3);
    struct mp_path_accuracy one = measured_paths(&x, 1, 1), three = measured_paths(&x, 3, 3),
                            again = measured_paths(&x, 3, 1), none = measured(x.tables, &x.b, 0, 1);
    assert_true(one.recall_k > 0.5 && one.recall > none.recall + 0.1 && three.recall > none.recall + 0.1);
    assert_true(three.recall == again.recall && three.calibration == again.calibration);
    mp_path_accuracy_free(&one);
    mp_path_accuracy_free(&three);
    mp_path_accuracy_free(&again);
    mp_path_accuracy_free(&none);
    forget(&x);
}

/* Of a batch only each token's top-k count where Lina's rule is followed. */
static void test_sample_paths__keeps_the_top(void **state) {
    (void)state;
    struct learned x = learn(make_trace(6, true, 4), 1);
    const struct mp_foresight all = {.tables = x.tables, .length = 1},
                              top = {.tables = x.tables, .length = 1, .keeps_top = true};
    int64_t scores[EXPERTS];
    double p[EXPERTS];
    uint64_t a[EXPERTS] = {0}, b[EXPERTS] = {0};
    uint32_t n_kept = 0;
    mp_foresee(&all, x.trace, 2, 0, scores, p);
    mp_foresee_add(&all, scores, p, a);
    mp_foresee_add(&top, scores, p, b);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        assert_true(b[e] == 0 || b[e] == a[e]);
        n_kept += b[e] > 0;
    }
    assert_int_equal(n_kept, TOP_K);
    forget(&x);
}

static enum mp_status learn_and_free(void *ctx, struct mp_error *err) {
    const struct learned *x = ctx;
    struct mp_sample_paths *s;
    enum mp_status status = mp_sample_paths_learn(&s, &x->a, 2, 1, err);
    mp_sample_paths_free(s);
    return status;
}
static void test_sample_paths__survives_faults(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_sample_paths *s;
    struct learned x = learn(make_trace(6, true, 4), 2);
    assert_int_equal(mp_sample_paths_learn(&s, &x.a, MP_PATH_MAX + 1, 1, &err), MP_EUSAGE);
    sweep_faults(learn_and_free, &x, 1);
    forget(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_paths__by_brute_force),
        cmocka_unit_test(test_sample_paths__a_chain_is_foreseen),
        cmocka_unit_test(test_sample_paths__keeps_the_top),
        cmocka_unit_test(test_sample_paths__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
