/* Signatures of a synthetic trace say what Luffy's paper says of its models, and so do their statistics. */
#include "support.h"
#include <moeplan/base.h>
#include <moeplan/synth.h>

static struct mp_trace *signed_trace(const char *preset, uint64_t seed) {
    static const struct mp_synth_params params = {.n_layers = 8,
                                                  .n_experts = 8,
                                                  .top_k = 2,
                                                  .n_requests = 80,
                                                  .tokens_per_request_mean = 100,
                                                  .phase = MP_PHASE_TRAIN,
                                                  .zipf_ppm = 300000,
                                                  .cluster_size = 2,
                                                  .seed = 3};
    struct mp_error err = {0};
    struct mp_trace *t;
    CHECK_OK(mp_synth_generate(&t, &params, &mp_limits_default, &err), err);
    CHECK_OK(mp_synth_signatures(t, mp_synth_similarity_find(preset), seed, &mp_limits_default, &err), err);
    return t;
}

static void near(double got, double want, double by) {
    if (got < want - by || got > want + by)
        fail_msg("%.3f is not %.3f within %.3f", got, want, by);
}

static void test_signatures__pairs_are_as_alike_as_the_paper_says(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double first, sixth;
    } cases[] = {{"txl", 0.25, 0.85}, {"bert-l", 0.19, 0.57}, {"gpt2", 0.18, 0.50}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct mp_synth_similarity *p = mp_synth_similarity_find(cases[i].name);
        struct mp_trace *t = signed_trace(cases[i].name, 5);
        struct mp_similarity_stats s;
        double very = 0;
        for (uint32_t l = 0; l < 6; l++) {
            mp_trace_similarity(&s, t, l, p->threshold_ppm);
            very += s.tokens_very_similar / 6;
            near(s.persistence, 0.9, 0.04);
            if (l == 0)
                near(s.pairs_above, cases[i].first, 0.02);
        }
        near(s.pairs_above, cases[i].sixth, 0.02);
        mp_trace_similarity(&s, t, 7, p->threshold_ppm);
        near(s.pairs_above, cases[i].sixth, 0.03); /* as in block 6 behind it */
        assert_true(s.persistence == 0);
        if (i == 0)
            near(very, 0.62, 0.03);
        mp_trace_free(t);
    }
    assert_null(mp_synth_similarity_find("lstm"));
}

/* Counted again pair by pair, on a run that fits whole. */
static void test_signatures__statistics_agree_with_a_count_by_pairs(void **state) {
    (void)state;
    struct mp_trace *t = signed_trace("gpt2", 6);
    uint16_t a[MP_MAX_TOP_K];
    uint64_t pairs = 0, above = 0;
    for (uint64_t from = 0; from < t->n_rows; from += 1024)
        for (uint32_t e = 0; e < t->n_experts; e++) {
            uint64_t rows[256], n = 0;
            for (uint64_t r = from; r < t->n_rows && r < from + 1024 && n < 256; r++) {
                mp_trace_row(t, 2, r, a);
                if (a[0] == e || a[1] == e)
                    rows[n++] = r;
            }
            for (uint64_t i = 0; i < n; i++)
                for (uint64_t j = 0; j < i; j++) {
                    uint32_t d =
                        mp_signature_distance(mp_trace_signature(t, 2, rows[i]), mp_trace_signature(t, 2, rows[j]));
                    pairs++;
                    above += mp_signature_similarity_ppm(d) >= 500000;
                }
        }
    struct mp_similarity_stats s;
    mp_trace_similarity(&s, t, 2, 500000);
    assert_true(pairs > 10000 && t->n_rows <= 16 * 1024);
    near(s.pairs_above, (double)above / (double)pairs, 1e-12);
    mp_trace_free(t);
}

static void test_signatures__same_seed_same_bits(void **state) {
    (void)state;
    struct mp_trace *a = signed_trace("txl", 1), *b = signed_trace("txl", 1), *c = signed_trace("txl", 2);
    struct mp_error err = {0};
    uint64_t *const *chunks;
    assert_true(mp_trace_equal(a, b));
    assert_false(mp_trace_equal(a, c));
    assert_int_equal(mp_trace_signatures_add(a, &chunks, &mp_limits_default, &err), MP_EBUG);
    mp_trace_signatures_drop(b);
    mp_trace_signatures_drop(c);
    assert_true(mp_trace_equal(b, c)); /* the experts are the same */
    assert_false(mp_trace_equal(a, b));
    mp_trace_free(a);
    mp_trace_free(b);
    mp_trace_free(c);
}

static enum mp_status sign_once(void *ctx, struct mp_error *err) {
    struct mp_trace *t = ctx;
    enum mp_status status = mp_synth_signatures(t, mp_synth_similarity_at(0), 1, &mp_limits_default, err);
    mp_trace_signatures_drop(t);
    return status;
}
static void test_signatures__every_fault_is_reported(void **state) {
    (void)state;
    struct mp_trace *t = signed_trace("txl", 1);
    struct mp_limits small = mp_limits_default;
    struct mp_error err = {0};
    mp_trace_signatures_drop(t);
    sweep_faults(sign_once, t, 1);
    small.memory_bytes = 1 << 16;
    assert_int_equal(mp_synth_signatures(t, mp_synth_similarity_at(0), 1, &small, &err), MP_ELIMIT);
    assert_null(t->signature_chunks);
    mp_trace_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signatures__pairs_are_as_alike_as_the_paper_says),
        cmocka_unit_test(test_signatures__statistics_agree_with_a_count_by_pairs),
        cmocka_unit_test(test_signatures__same_seed_same_bits),
        cmocka_unit_test(test_signatures__every_fault_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
