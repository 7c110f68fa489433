#include "made.h"
#include <math.h>

static struct mp_workload *build(const struct mp_trace *t, const struct mp_batching *b) {
    struct mp_error err = {0};
    struct mp_part all = part_of_all(t);
    struct mp_workload *w;
    CHECK_OK(mp_workload_build(&w, &all, b, &err), err);
    mp_part_free(&all);
    return w;
}

static void check_step(const struct mp_step *s, uint32_t n, const uint64_t *rows, const uint16_t *sources) {
    assert_int_equal(s->n, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(s->row[i], rows[i]);
        assert_int_equal(s->source[i], sources[i]);
    }
}

/* Requests a: rows 0-1, b: 2, c: 3-5, d: 6-7. Three slots: a b c, a d c; then a is over and the queue is empty. */
static void test_steps_decode__replaces_a_finished_request(void **state) {
    (void)state;
    static const uint32_t rows[] = {2, 1, 3, 2};
    struct mp_trace *t = make_trace(&(struct made){.n = 4, .rows = rows});
    struct mp_batching b = {.phase = MP_PHASE_DECODE, .n_ranks = 3, .batch_per_rank = 1};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 2);
    assert_int_equal(w->n_rows, 6);
    assert_int_equal(w->n_requests, 4);
    assert_false(w->is_bootstrap);
    check_step(&w->steps[0], 3, (const uint64_t[]){0, 2, 3}, (const uint16_t[]){0, 1, 2});
    check_step(&w->steps[1], 3, (const uint64_t[]){1, 6, 4}, (const uint16_t[]){0, 1, 2});
    mp_workload_free(w);

    /* Two slots on one rank and padding to 4: a b, a c, d c, d c; the fifth step finds nothing for d's slot. */
    b = (struct mp_batching){.phase = MP_PHASE_DECODE, .n_ranks = 1, .batch_per_rank = 2, .pad_tokens = 4};
    w = build(t, &b);
    assert_int_equal(w->n_steps, 4);
    check_step(&w->steps[2], 2, (const uint64_t[]){6, 4}, (const uint16_t[]){0, 0});
    check_step(&w->steps[3], 2, (const uint64_t[]){7, 5}, (const uint16_t[]){0, 0});
    assert_int_equal(w->steps[0].padding[0], 2);
    mp_workload_free(w);

    /* At most 3 of the 4: floor((2i + 1) * 4 / 6) = 0, 2, 3. At most 2: 1, 3. One: 2, never the common start. */
    b.n_steps_max = 3;
    w = build(t, &b);
    assert_int_equal(w->n_steps, 3);
    check_step(&w->steps[0], 2, (const uint64_t[]){0, 2}, (const uint16_t[]){0, 0});
    check_step(&w->steps[1], 2, (const uint64_t[]){6, 4}, (const uint16_t[]){0, 0});
    check_step(&w->steps[2], 2, (const uint64_t[]){7, 5}, (const uint16_t[]){0, 0});
    mp_workload_free(w);
    b.n_steps_max = 2;
    w = build(t, &b);
    assert_int_equal(w->n_steps, 2);
    check_step(&w->steps[0], 2, (const uint64_t[]){1, 3}, (const uint16_t[]){0, 0});
    check_step(&w->steps[1], 2, (const uint64_t[]){7, 5}, (const uint16_t[]){0, 0});
    mp_workload_free(w);
    b.n_steps_max = 1;
    w = build(t, &b);
    assert_int_equal(w->n_steps, 1);
    check_step(&w->steps[0], 2, (const uint64_t[]){6, 4}, (const uint16_t[]){0, 0});
    mp_workload_free(w);
    b.n_steps_max = 9; /* more than there are: all */
    w = build(t, &b);
    assert_int_equal(w->n_steps, 4);
    mp_workload_free(w);
    mp_trace_free(t);
}

/* Two ranks, B = 2: slots 0 and 2 are rank 0's, 1 and 3 rank 1's; rows are listed rank by rank. */
static void test_steps_decode__lists_by_rank_and_slot(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 1, 1, 1};
    struct mp_trace *t = make_trace(&(struct made){.n = 4, .rows = rows});
    struct mp_batching b = {.phase = MP_PHASE_DECODE, .n_ranks = 2, .batch_per_rank = 2};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 1);
    check_step(&w->steps[0], 4, (const uint64_t[]){0, 2, 1, 3}, (const uint16_t[]){0, 0, 1, 1});
    mp_workload_free(w);
    mp_trace_free(t);
}

/* Requests 0 and 2 belong to rank 1, request 1 (source 4 of 2 ranks) to rank 0, request 3 anywhere. */
static void test_steps_decode__keeps_named_sources(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 2, 1, 2}, sources[] = {1, 4, 3, MP_NONE};
    struct mp_trace *t = make_trace(&(struct made){.n = 4, .rows = rows, .sources = sources});
    struct mp_batching b = {.phase = MP_PHASE_DECODE, .n_ranks = 2, .batch_per_rank = 1};
    struct mp_workload *w = build(t, &b);
    /* rank 0: rows 1, 2 (request 1), then request 3; rank 1: row 0, row 3 (request 2), then nothing in the third step?
     * Request 3 goes to rank 0's slot first, which is refilled first. */
    assert_int_equal(w->n_steps, 2);
    check_step(&w->steps[0], 2, (const uint64_t[]){1, 0}, (const uint16_t[]){0, 1});
    check_step(&w->steps[1], 2, (const uint64_t[]){2, 3}, (const uint16_t[]){0, 1});
    mp_workload_free(w);

    struct mp_part all = part_of_all(t);
    struct mp_error err = {0};
    b.n_ranks = 4; /* rank 2 has no request of its own, and request 3 is taken by it; ranks 1, 3, 0 have one each */
    CHECK_OK(mp_workload_build(&w, &all, &b, &err), err);
    check_step(&w->steps[0], 4, (const uint64_t[]){1, 0, 4, 3}, (const uint16_t[]){0, 1, 2, 3});
    mp_workload_free(w);
    b.n_ranks = 2;
    b.batch_per_rank = 2;
    CHECK_OK(mp_workload_build(&w, &all, &b, &err), err);
    mp_workload_free(w);
    mp_part_free(&all);
    mp_trace_free(t);

    static const uint32_t all_on_1[] = {1, 1, 1, 1};
    t = make_trace(&(struct made){.n = 4, .rows = rows, .sources = all_on_1});
    all = part_of_all(t);
    assert_int_equal(mp_workload_build(&w, &all, &b, &err), MP_EINPUT);
    assert_string_equal(
        err.message,
        "decode with 2 requests per rank on 2 ranks needs 2 concurrent requests on rank 0 and runs out: by "
        "their recorded source, 0 of the part's 4 requests may run there (use --resample, a smaller --batch, "
        "or a larger trace)");
    assert_null(w);
    mp_part_free(&all);
    mp_trace_free(t);
}

static void test_steps_decode__shares_slots_by_largest_remainder(void **state) {
    (void)state;
    uint32_t rows[12];
    for (int i = 0; i < 12; i++)
        rows[i] = 1;
    struct mp_trace *t = make_trace(&(struct made){.n = 12, .rows = rows});
    /* Weights 1, 1/2, 1/3 of 12 slots: 6.55, 3.27, 2.18, so 7, 3, 2. Slots are dealt 0 1 2 0 1 2 0 1 0 0 0 0. */
    struct mp_batching b = {.phase = MP_PHASE_DECODE, .n_ranks = 3, .batch_per_rank = 4, .source_skew_ppm = 1000000};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 1);
    check_step(&w->steps[0], 12, (const uint64_t[]){0, 3, 6, 8, 9, 10, 11, 1, 4, 7, 2, 5},
               (const uint16_t[]){0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2});
    mp_workload_free(w);
    mp_trace_free(t);
}

static void test_steps_decode__refuses_with_the_numbers(void **state) {
    (void)state;
    uint32_t rows[85];
    for (int i = 0; i < 85; i++)
        rows[i] = 3;
    struct mp_trace *t = make_trace(&(struct made){.n = 85, .rows = rows});
    struct mp_part all = part_of_all(t);
    struct mp_workload *w;
    static const struct {
        struct mp_batching b;
        enum mp_status status;
        const char *message;
    } cases[] = {
        {{.phase = MP_PHASE_DECODE, .n_ranks = 16, .batch_per_rank = 64},
         MP_EINPUT,
         "decode with 64 requests per rank on 16 ranks needs 1,024 concurrent requests, the part has 85 (use "
         "--resample, a "
         "smaller --batch, or a larger trace)"},
        {{.phase = MP_PHASE_DECODE, .n_ranks = 16}, MP_EUSAGE, "decode steps need the requests per rank (use --batch)"},
        {{.phase = MP_PHASE_DECODE, .batch_per_rank = 1}, MP_EUSAGE, "0 source ranks are not in [1, 4096]"},
        {{.phase = MP_PHASE_DECODE, .n_ranks = 4097, .batch_per_rank = 1},
         MP_EUSAGE,
         "4097 source ranks are not in [1, 4096]"},
        {{.phase = MP_PHASE_DECODE, .n_ranks = 4096, .batch_per_rank = UINT32_MAX},
         MP_ELIMIT,
         "4294967295 requests per rank on 4096 ranks are 17,592,186,040,320 rows per step (at most 4,294,967,295)"},
        {{.phase = MP_PHASE_DECODE, .n_ranks = 4, .batch_per_rank = 1 << 29},
         MP_EINPUT, /* before anything of that size is allocated */
         "decode with 536,870,912 requests per rank on 4 ranks needs 2,147,483,648 concurrent requests, the part has "
         "85 (use --resample, a smaller --batch, or a larger trace)"},
        {{.phase = MP_PHASE_DECODE, .n_ranks = 4, .batch_per_rank = 8, .n_steps_max = UINT32_MAX, .resample = true},
         MP_ELIMIT,
         "4,294,967,295 drawn steps of up to 32 rows are more than 16,777,216 rows in all (use fewer --steps)"},
        {{.phase = MP_PHASE_PREFILL, .n_ranks = 4, .tokens_per_rank = 1 << 20, .resample = true},
         MP_ELIMIT,
         "64 drawn steps of up to 4,194,304 rows are more than 16,777,216 rows in all (use fewer --steps)"},
        {{.phase = MP_PHASE_PREFILL, .n_ranks = 4},
         MP_EUSAGE,
         "prefill steps need the tokens per rank (use --tokens-per-rank)"},
        {{.phase = MP_PHASE_PREFILL, .n_ranks = 4, .tokens_per_rank = UINT64_MAX},
         MP_ELIMIT,
         "18,446,744,073,709,551,615 tokens per rank on 4 ranks are more rows per step than 4,294,967,295"},
        {{.phase = MP_PHASE_PREFILL, .n_ranks = 4, .tokens_per_rank = 1000},
         MP_EINPUT,
         "prefill with 1,000 tokens per rank on 4 ranks needs 2,000 tokens for half a step, the first step of the "
         "part's 85 requests has 255 "
         "(use --resample, a smaller --tokens-per-rank, or a larger trace)"},
        {{.phase = MP_PHASE_MIXED, .n_ranks = 4, .batch_per_rank = 1},
         MP_EUSAGE,
         "the phase of the steps is not known (use --phase decode or --phase prefill)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        assert_int_equal(mp_workload_build(&w, &all, &cases[i].b, &err), cases[i].status);
        assert_string_equal(err.message, cases[i].message);
        assert_null(w);
    }
    mp_part_free(&all);
    mp_trace_free(t);
}

/* ---- the rules of docs/STEPS.md once more, without queues and slots' order ---- */
static uint32_t draw(struct mp_rng *rng, uint32_t least, uint32_t most) {
    return least + (uint32_t)mp_rng_below(rng, most - least + 1);
}
struct random_case {
    uint32_t rows[64], sources[64];
    struct made m;
    struct mp_batching b;
};
static void make_case(struct random_case *c, struct mp_rng *rng) {
    c->m = (struct made){.n = draw(rng, 1, 64), .rows = c->rows};
    if (draw(rng, 0, 1) == 1)
        c->m.sources = c->sources;
    for (uint32_t i = 0; i < c->m.n; i++) {
        c->rows[i] = draw(rng, 1, 9);
        c->sources[i] = draw(rng, 0, 2) == 0 ? MP_NONE : draw(rng, 0, 9);
    }
    c->b = (struct mp_batching){.phase = MP_PHASE_DECODE,
                                .n_ranks = draw(rng, 1, 5),
                                .batch_per_rank = draw(rng, 1, 4),
                                .source_skew_ppm = draw(rng, 0, 1) * draw(rng, 0, 2000000),
                                .pad_tokens = draw(rng, 0, 5),
                                .n_steps_max = draw(rng, 0, 1) * draw(rng, 1, 6),
                                .seed = mp_rng_next(rng)};
}

/* Slot -> rank, by the text. */
static uint32_t reference_slots(const struct mp_batching *b, uint32_t *rank_of) {
    uint32_t n_slots = b->n_ranks * b->batch_per_rank, share[8], given = 0;
    uint64_t w[8], sum = 0, rest[8];
    for (uint32_t r = 0; r < b->n_ranks; r++)
        sum += w[r] = (uint64_t)llround(pow(r + 1.0, -(b->source_skew_ppm / 1e6)) * 1048576);
    for (uint32_t r = 0; r < b->n_ranks; r++) {
        given += share[r] = (uint32_t)(n_slots * w[r] / sum);
        rest[r] = n_slots * w[r] % sum;
    }
    for (; given < n_slots; given++) {
        uint32_t best = 0;
        for (uint32_t r = 0; r < b->n_ranks; r++)
            best = rest[r] > rest[best] ? r : best;
        share[best]++;
        rest[best] = 0;
    }
    uint32_t s = 0;
    for (uint32_t round = 0; round < n_slots; round++)
        for (uint32_t r = 0; r < b->n_ranks; r++)
            if (round < share[r])
                rank_of[s++] = r;
    assert_int_equal(s, n_slots);
    return n_slots;
}

enum { MOST_STEPS = 600 };
static uint32_t reference_decode(const struct mp_trace *t, const struct mp_batching *b, uint64_t steps[][20]) {
    uint32_t rank_of[20], n_slots = reference_slots(b, rank_of), holds[20], at[20] = {0};
    bool is_taken[64] = {false};
    for (uint32_t s = 0; s < n_slots; s++)
        holds[s] = MP_NONE;
    for (uint32_t step = 0;; step++) {
        for (uint32_t s = 0; s < n_slots; s++) {
            if (holds[s] != MP_NONE && at[s] < t->requests[holds[s]].n_rows)
                continue;
            uint32_t r = 0;
            while (r < t->n_requests && (is_taken[r] || (t->requests[r].source != MP_NONE &&
                                                         t->requests[r].source % b->n_ranks != rank_of[s])))
                r++;
            if (r == t->n_requests)
                return step;
            is_taken[r] = true;
            holds[s] = r;
            at[s] = 0;
        }
        assert_true(step < MOST_STEPS);
        uint32_t place = 0;
        for (uint32_t r = 0; r < b->n_ranks; r++)
            for (uint32_t s = 0; s < n_slots; s++)
                if (rank_of[s] == r)
                    steps[step][place++] = t->requests[holds[s]].first_row + at[s]++;
    }
}

static void test_steps_decode__agrees_with_the_rule(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(11);
    static uint64_t expected[MOST_STEPS][20];
    uint32_t n_filled = 0;
    for (int round = 0; round < 2000; round++) {
        struct random_case c;
        make_case(&c, &rng);
        struct mp_trace *t = make_trace(&c.m);
        struct mp_part all = part_of_all(t);
        struct mp_workload *w;
        struct mp_error err = {0};
        uint32_t n = reference_decode(t, &c.b, expected);
        enum mp_status status = mp_workload_build(&w, &all, &c.b, &err);
        if (n == 0) {
            assert_int_equal(status, MP_EINPUT);
            assert_non_null(strstr(err.message, "--resample"));
        } else {
            CHECK_OK(status, err);
            n_filled++;
            uint32_t kept = c.b.n_steps_max == 0 || c.b.n_steps_max > n ? n : c.b.n_steps_max;
            assert_int_equal(w->n_steps, kept);
            uint8_t used[64 * 9] = {0};
            bool is_used[64] = {false};
            uint32_t n_used = 0;
            for (uint32_t i = 0; i < kept; i++) {
                const struct mp_step *s = &w->steps[i];
                uint32_t of_rank[8] = {0};
                assert_int_equal(s->n, c.b.n_ranks * c.b.batch_per_rank);
                for (uint32_t j = 0; j < s->n; j++) {
                    assert_int_equal(s->row[j], expected[(2 * (uint64_t)i + 1) * n / (2 * kept)][j]);
                    assert_true(j == 0 || s->source[j] >= s->source[j - 1]);
                    assert_int_equal(used[s->row[j]]++, 0);
                    of_rank[s->source[j]]++;
                    for (uint32_t r = 0; r < t->n_requests; r++)
                        if (s->row[j] - t->requests[r].first_row < t->requests[r].n_rows) {
                            n_used += !is_used[r];
                            is_used[r] = true;
                            if (t->requests[r].source != MP_NONE)
                                assert_int_equal(s->source[j], t->requests[r].source % c.b.n_ranks);
                        }
                }
                for (uint32_t r = 0; r < c.b.n_ranks; r++) {
                    uint32_t padded = of_rank[r] + s->padding[r], unit = c.b.pad_tokens > 0 ? c.b.pad_tokens : 1;
                    assert_true(padded % unit == 0 && s->padding[r] < unit);
                }
            }
            assert_int_equal(w->n_requests, n_used);
            mp_workload_free(w);
        }
        mp_part_free(&all);
        mp_trace_free(t);
    }
    assert_true(n_filled > 500);
}

static void test_steps_decode__bootstrap_agrees_with_the_rule(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(12);
    for (int round = 0; round < 300; round++) {
        struct random_case c;
        make_case(&c, &rng);
        c.b.resample = true;
        struct mp_trace *t = make_trace(&c.m);
        struct mp_workload *w = build(t, &c.b);
        uint32_t rank_of[20], n_slots = reference_slots(&c.b, rank_of);
        assert_true(w->is_bootstrap);
        assert_int_equal(w->n_steps, c.b.n_steps_max == 0 ? 64 : c.b.n_steps_max);
        struct mp_rng again = mp_rng_seed(c.b.seed);
        for (uint32_t i = 0; i < w->n_steps; i++) {
            uint64_t row[20];
            for (uint32_t s = 0; s < n_slots; s++) {
                const struct mp_request *r = &t->requests[mp_rng_below(&again, t->n_requests)];
                row[s] = r->first_row + mp_rng_below(&again, r->n_rows);
            }
            uint32_t place = 0;
            for (uint32_t r = 0; r < c.b.n_ranks; r++)
                for (uint32_t s = 0; s < n_slots; s++)
                    if (rank_of[s] == r) {
                        assert_int_equal(w->steps[i].row[place], row[s]);
                        assert_int_equal(w->steps[i].source[place++], r);
                    }
        }
        mp_workload_free(w);
        mp_trace_free(t);
    }
}

/* 10^6 requests of 2 rows over 128 slots: 7,812 rounds of 2 steps, then 64 requests are left for 128 slots. */
static void test_steps_decode__a_million_requests(void **state) {
    (void)state;
    enum { N = 1000000 };
    uint32_t *rows = calloc(N, sizeof *rows);
    for (int i = 0; i < N; i++)
        rows[i] = 2;
    struct mp_trace *t = make_trace(&(struct made){.n = N, .rows = rows});
    uint64_t live = mp_alloc_live();
    struct mp_batching b = {.phase = MP_PHASE_DECODE, .n_ranks = 8, .batch_per_rank = 16};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 15624);
    assert_int_equal(w->n_requests, 15624 / 2 * 128);
    /* Eight bytes a row and a little per step. */
    assert_true(mp_alloc_live() - live < w->n_rows * 9 + w->n_steps * 64);
    mp_workload_free(w);
    b.n_steps_max = 8;
    w = build(t, &b);
    assert_int_equal(w->n_steps, 8);
    /* Step 7 of 8 is step 14,647: the second row of round 7,323. Slot 0 is the first on rank 0. */
    assert_int_equal(w->steps[7].row[0], 2 * (7323 * 128) + 1);
    assert_true(mp_alloc_live() - live < 32768);
    mp_workload_free(w);
    mp_trace_free(t);
    free(rows);
}

struct flow {
    const struct mp_part *part;
    struct mp_batching b;
};
static enum mp_status build_flow(void *ctx, struct mp_error *err) {
    struct flow *f = ctx;
    struct mp_workload *w;
    enum mp_status status = mp_workload_build(&w, f->part, &f->b, err);
    if (status != MP_OK)
        assert_null(w);
    mp_workload_free(w);
    return status;
}

static void test_steps_decode__survives_faults(void **state) {
    (void)state;
    static const uint32_t rows[] = {2, 1, 3, 2, 4, 4, 4};
    struct mp_trace *t = make_trace(&(struct made){.n = 7, .rows = rows});
    struct mp_part all = part_of_all(t);
    struct flow f = {&all, {.phase = MP_PHASE_DECODE, .n_ranks = 2, .batch_per_rank = 2}};
    sweep_faults(build_flow, &f, 1);
    f.b.resample = true;
    sweep_faults(build_flow, &f, 1);
    f.b = (struct mp_batching){.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 3};
    sweep_faults(build_flow, &f, 1);
    f.b.resample = true;
    sweep_faults(build_flow, &f, 1);
    mp_part_free(&all);
    mp_trace_free(t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_decode__replaces_a_finished_request),
        cmocka_unit_test(test_steps_decode__lists_by_rank_and_slot),
        cmocka_unit_test(test_steps_decode__keeps_named_sources),
        cmocka_unit_test(test_steps_decode__shares_slots_by_largest_remainder),
        cmocka_unit_test(test_steps_decode__refuses_with_the_numbers),
        cmocka_unit_test(test_steps_decode__agrees_with_the_rule),
        cmocka_unit_test(test_steps_decode__bootstrap_agrees_with_the_rule),
        cmocka_unit_test(test_steps_decode__a_million_requests),
        cmocka_unit_test(test_steps_decode__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
