#include "made.h"

/* Sums of a workload, row by row through mp_trace_row. */
static void reference(const struct mp_workload *w, uint32_t layer, uint32_t step, uint32_t *tokens, uint64_t *load,
                      uint64_t *pairs) {
    const struct mp_trace *t = w->trace;
    const struct mp_step *s = &w->steps[step];
    for (uint32_t i = 0; i < s->n; i++) {
        uint16_t ids[64];
        uint32_t k = mp_trace_row(t, layer, s->row[i], ids);
        for (uint32_t a = 0; a < k; a++) {
            tokens[s->source[i] * t->n_experts + ids[a]]++;
            load[ids[a]]++;
            for (uint32_t b = 0; b < k; b++)
                pairs[ids[a] * t->n_experts + ids[b]]++;
        }
    }
}

static void check_tables(const struct mp_workload *w) {
    const struct mp_trace *t = w->trace;
    size_t e = t->n_experts;
    uint32_t *tokens = calloc(w->n_ranks * e, sizeof *tokens), *got_tokens = calloc(w->n_ranks * e, sizeof *tokens);
    uint64_t *load = calloc(e, sizeof *load), *got_load = calloc(e, sizeof *load);
    uint64_t *pairs = calloc(e * e, sizeof *pairs), *got_pairs = calloc(e * e, sizeof *pairs);
    for (uint32_t l = 0; l < t->n_layers; l++) {
        struct mp_error err = {0};
        memset(load, 0, e * sizeof *load);
        memset(pairs, 0, e * e * sizeof *pairs);
        for (uint32_t s = 0; s < w->n_steps; s++) {
            memset(tokens, 0, w->n_ranks * e * sizeof *tokens);
            reference(w, l, s, tokens, load, pairs);
            mp_workload_tokens(w, s, l, got_tokens);
            assert_memory_equal(tokens, got_tokens, w->n_ranks * e * sizeof *tokens);
        }
        mp_workload_load(w, l, got_load);
        assert_memory_equal(load, got_load, e * sizeof *load);
        CHECK_OK(mp_workload_pairs(w, l, got_pairs, &err), err);
        assert_memory_equal(pairs, got_pairs, e * e * sizeof *pairs);
    }
    free(tokens);
    free(got_tokens);
    free(load);
    free(got_load);
    free(pairs);
    free(got_pairs);
}

static void test_digest__tables_are_sums_over_rows(void **state) {
    (void)state;
    /* The second trace crosses a chunk; the third has two-byte ids. */
    static const uint32_t small[] = {5, 7, 3, 9, 4, 6, 8}, large[] = {40000, 40000, 20000};
    static const struct made cases[] = {
        {.n = 7, .rows = small, .n_layers = 3, .n_experts = 12, .top_k = 3},
        {.n = 3, .rows = large, .n_layers = 2, .n_experts = 5, .top_k = 2},
        {.n = 7, .rows = small, .n_layers = 2, .n_experts = 300, .top_k = 8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_trace *t = make_trace(&cases[i]);
        struct mp_part all = part_of_all(t);
        struct mp_batching batchings[] = {
            {.phase = MP_PHASE_DECODE, .n_ranks = 2, .batch_per_rank = 1, .n_steps_max = 50},
            {.phase = MP_PHASE_DECODE, .n_ranks = 2, .batch_per_rank = 3, .resample = true},
            {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = i == 1 ? 30000 : 10},
            {.phase = MP_PHASE_PREFILL, .n_ranks = 3, .tokens_per_rank = 20, .resample = true, .n_steps_max = 5},
        };
        for (size_t j = 0; j < sizeof batchings / sizeof batchings[0]; j++) {
            struct mp_error err = {0};
            struct mp_workload *w;
            CHECK_OK(mp_workload_build(&w, &all, &batchings[j], &err), err);
            check_tables(w);
            mp_workload_free(w);
        }
        mp_part_free(&all);
        mp_trace_free(t);
    }
}

/* ---- COUNTS ---- */
static struct mp_trace *counts_trace(uint32_t n_sources, bool with_pairs) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .is_time_ordered = true,
                                 .n_layers = 2,
                                 .n_experts = 3,
                                 .top_k = 2,
                                 .n_sources = n_sources};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
        for (uint32_t q = 0; i != 2 && q < (n_sources > 0 ? n_sources : 1); q++)
            for (uint32_t l = 0; l < 2; l++)
                for (uint32_t e = 0; e < 3; e++)
                    CHECK_OK(mp_trace_builder_count(b, q, l, e, 1 + i + 3 * q + 2 * e + 5 * l, &err), err);
    }
    if (with_pairs)
        CHECK_OK(mp_trace_builder_pair(b, &(struct mp_pair){.layer = 1, .first = 0, .second = 2, .count = 9}, &err),
                 err);
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}

static void test_digest__counts_are_split_over_ranks(void **state) {
    (void)state;
    struct mp_trace *t = counts_trace(0, true);
    struct mp_part all = part_of_all(t);
    struct mp_batching b = {.n_ranks = 4};
    struct mp_workload *w;
    struct mp_error err = {0};
    CHECK_OK(mp_workload_build(&w, &all, &b, &err), err);
    /* Iteration 2 is empty and dropped. */
    static const uint32_t iterations[] = {0, 1, 3, 4};
    assert_int_equal(w->n_steps, 4);
    assert_memory_equal(w->iterations, iterations, sizeof iterations);
    uint32_t tokens[4][3];
    mp_workload_tokens(w, 1, 0, &tokens[0][0]);
    /* Counts 2, 4, 6: expert 0's two go to ranks 0 and 1, expert 1's one to each, expert 2's five and six to ranks 2
     * and 3. */
    static const uint32_t expected[4][3] = {{1, 1, 1}, {1, 1, 1}, {0, 1, 2}, {0, 1, 2}};
    assert_memory_equal(tokens, expected, sizeof expected);
    uint64_t load[3], pairs[3][3];
    mp_workload_load(w, 1, load);
    /* sum over i in 0, 1, 3, 4 of 6 + i + 2 e */
    assert_int_equal(load[0], 32);
    assert_int_equal(load[2], 48);
    CHECK_OK(mp_workload_pairs(w, 1, &pairs[0][0], &err), err);
    assert_int_equal(pairs[0][2], 9);
    assert_int_equal(pairs[2][0], 9);
    assert_int_equal(pairs[0][1], 0);
    assert_int_equal(pairs[2][2], 48);
    mp_workload_free(w);

    /* Recorded pairs are of the whole recording: a part of it may not use them. */
    b.n_steps_max = 2;
    CHECK_OK(mp_workload_build(&w, &all, &b, &err), err);
    assert_int_equal(w->n_steps, 2);
    assert_int_equal(w->iterations[0], 1); /* of 0, 1, 3, 4: the middles of two stretches */
    assert_int_equal(w->iterations[1], 4);
    assert_int_equal(mp_workload_pairs(w, 1, &pairs[0][0], &err), MP_EUSAGE);
    mp_workload_free(w);
    mp_part_free(&all);
    mp_trace_free(t);
}

static void test_digest__counts_of_recorded_ranks(void **state) {
    (void)state;
    struct mp_trace *t = counts_trace(3, false);
    struct mp_part all = part_of_all(t);
    struct mp_batching b = {.n_ranks = 2};
    struct mp_workload *w;
    struct mp_error err = {0};
    CHECK_OK(mp_workload_build(&w, &all, &b, &err), err);
    uint32_t tokens[2][3];
    mp_workload_tokens(w, 0, 0, &tokens[0][0]);
    /* Sources 0 and 2 are rank 0's: (1 + 2e) + (7 + 2e); source 1 is rank 1's: 4 + 2e. */
    static const uint32_t expected[2][3] = {{8, 12, 16}, {4, 6, 8}};
    assert_memory_equal(tokens, expected, sizeof expected);
    uint64_t pairs[9];
    assert_int_equal(mp_workload_pairs(w, 0, pairs, &err), MP_EUSAGE);
    assert_string_equal(err.message,
                        "co-activation needs the experts of each token, and this recording has only counts "
                        "(record top-k ids per token)");
    mp_workload_free(w);
    mp_part_free(&all);
    mp_trace_free(t);
}

static void test_digest__refuses_counts_that_do_not_fit(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .n_layers = 1,
                                 .n_experts = 2,
                                 .top_k = 1};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
    CHECK_OK(mp_trace_builder_count(b, 0, 0, 1, UINT64_C(1) << 32, &err), err);
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    struct mp_part all = part_of_all(t);
    struct mp_batching batching = {.n_ranks = 2};
    struct mp_workload *w;
    assert_int_equal(mp_workload_build(&w, &all, &batching, &err), MP_ELIMIT);
    assert_string_equal(err.message,
                        "iteration 0 counts 4,294,967,296 tokens for one expert (at most 4,294,967,295 per step "
                        "and source)");
    mp_part_free(&all);
    mp_trace_free(t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest__tables_are_sums_over_rows),
        cmocka_unit_test(test_digest__counts_are_split_over_ranks),
        cmocka_unit_test(test_digest__counts_of_recorded_ranks),
        cmocka_unit_test(test_digest__refuses_counts_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
