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

/* T = 4, two ranks. Requests of 3, 2, 1, 6, 2 rows: rows 0-2, 3-4, 5, 6-11, 12-13.
 * Step 0: 3 -> rank 0 (3 used), 2 -> rank 1 (2), 1 -> rank 0 (4), cursor 1; 6 fits nowhere whole: rank 1 takes 2 of it,
 * cursor 0; nobody has room. Step 1: rank 1 goes on with 4; 2 -> rank 0, cursor 1. Over: 6 of 8, kept. */
static void test_steps_prefill__deals_with_a_cursor(void **state) {
    (void)state;
    static const uint32_t rows[] = {3, 2, 1, 6, 2};
    struct mp_trace *t = make_trace(&(struct made){.n = 5, .rows = rows});
    struct mp_batching b = {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 4, .pad_tokens = 4};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 2);
    assert_int_equal(w->n_rows, 14);
    assert_int_equal(w->n_requests, 5);
    check_step(&w->steps[0], 8, (const uint64_t[]){0, 1, 2, 5, 3, 4, 6, 7}, (const uint16_t[]){0, 0, 0, 0, 1, 1, 1, 1});
    assert_int_equal(w->steps[0].padding[0], 0);
    assert_int_equal(w->steps[0].padding[1], 0);
    check_step(&w->steps[1], 6, (const uint64_t[]){12, 13, 8, 9, 10, 11}, (const uint16_t[]){0, 0, 1, 1, 1, 1});
    assert_int_equal(w->steps[1].padding[0], 2);
    assert_int_equal(w->steps[1].padding[1], 0);
    mp_workload_free(w);
    b.phase = MP_PHASE_TRAIN; /* batched like prefill */
    w = build(t, &b);
    assert_int_equal(w->n_steps, 2);
    mp_workload_free(w);
    mp_trace_free(t);
}

/* A piece needs the keys and values of those before it: never two pieces of a request in one step, never two ranks.
 * T = 4: 10 rows are 4 + 4 + 2 on rank 0, while rank 1 takes 1, 3, then 4 of 5; in step 2, 1 -> rank 1 and 2 -> rank 0.
 */
static void test_steps_prefill__a_long_request_stays_on_its_rank(void **state) {
    (void)state;
    static const uint32_t rows[] = {10, 1, 3, 5, 2, 1};
    struct mp_trace *t = make_trace(&(struct made){.n = 6, .rows = rows});
    struct mp_batching b = {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 4};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 3);
    check_step(&w->steps[0], 8, (const uint64_t[]){0, 1, 2, 3, 10, 11, 12, 13},
               (const uint16_t[]){0, 0, 0, 0, 1, 1, 1, 1});
    check_step(&w->steps[1], 8, (const uint64_t[]){4, 5, 6, 7, 14, 15, 16, 17},
               (const uint16_t[]){0, 0, 0, 0, 1, 1, 1, 1});
    check_step(&w->steps[2], 6, (const uint64_t[]){8, 9, 19, 20, 18, 21}, (const uint16_t[]){0, 0, 0, 0, 1, 1});
    mp_workload_free(w);
    mp_trace_free(t);

    /* Alone it fills one rank of four: a quarter of a step, less than half. On one rank it runs to its end. */
    static const uint32_t alone[] = {11};
    t = make_trace(&(struct made){.n = 1, .rows = alone});
    struct mp_part all = part_of_all(t);
    struct mp_error err = {0};
    b.n_ranks = 4;
    assert_int_equal(mp_workload_build(&w, &all, &b, &err), MP_EINPUT);
    assert_non_null(
        strstr(err.message, "needs 8 tokens for half a step, the first step of the part's 1 requests has 4 "));
    mp_part_free(&all);
    b.n_ranks = 1;
    w = build(t, &b);
    assert_int_equal(w->n_steps, 3);
    check_step(&w->steps[2], 3, (const uint64_t[]){8, 9, 10}, (const uint16_t[]){0, 0, 0});
    mp_workload_free(w);
    mp_trace_free(t);
}

static void test_steps_prefill__keeps_a_last_step_that_is_half_full(void **state) {
    (void)state;
    for (uint32_t last = 1; last <= 8; last++) {
        const uint32_t rows[] = {4, 4, last};
        struct mp_trace *t = make_trace(&(struct made){.n = 3, .rows = rows});
        struct mp_batching b = {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 4};
        struct mp_workload *w = build(t, &b);
        assert_int_equal(w->n_steps, last == 8 ? 3 : last >= 4 ? 2 : 1); /* 8: two steps of 4 on rank 0 */
        assert_int_equal(w->n_requests, last >= 4 ? 3 : 2);
        mp_workload_free(w);
        mp_trace_free(t);
    }
}

static void test_steps_prefill__keeps_named_sources(void **state) {
    (void)state;
    /* Both requests of rank 1; the second finds no room beside the first: two steps with rank 0 idle, each half full.
     */
    static const uint32_t rows[] = {4, 4}, sources[] = {1, 3};
    struct mp_trace *t = make_trace(&(struct made){.n = 2, .rows = rows, .sources = sources});
    struct mp_batching b = {.phase = MP_PHASE_PREFILL, .n_ranks = 2, .tokens_per_rank = 4};
    struct mp_workload *w = build(t, &b);
    assert_int_equal(w->n_steps, 2);
    check_step(&w->steps[1], 4, (const uint64_t[]){4, 5, 6, 7}, (const uint16_t[]){1, 1, 1, 1});
    mp_workload_free(w);
    mp_trace_free(t);
}

/* ---- the rules of docs/STEPS.md once more ---- */
static uint32_t draw(struct mp_rng *rng, uint32_t least, uint32_t most) {
    return least + (uint32_t)mp_rng_below(rng, most - least + 1);
}
struct reference {
    uint32_t n_ranks, cursor;
    uint64_t budget[8], used[8];
    uint64_t rows[8][64]; /* of the open step by rank */
};
static void reference_init(struct reference *f, const struct mp_batching *b) {
    *f = (struct reference){.n_ranks = b->n_ranks};
    uint64_t w[8], sum = 0;
    for (uint32_t r = 0; r < b->n_ranks; r++)
        sum += w[r] = (uint64_t)llround(pow(r + 1.0, -(b->source_skew_ppm / 1e6)) * 1048576);
    for (uint32_t r = 0; r < b->n_ranks; r++) {
        f->budget[r] = b->tokens_per_rank * b->n_ranks * w[r] / sum;
        f->budget[r] += f->budget[r] == 0;
    }
}
/* Gives rank r up to n rows; returns how many it took. */
static uint64_t reference_take(struct reference *f, uint32_t r, uint64_t first, uint64_t n) {
    uint64_t taken = 0;
    while (taken < n && f->used[r] < f->budget[r])
        f->rows[r][f->used[r]++] = first + taken++;
    return taken;
}
/* The rank that a request of n rows goes to: whole in the first round over the ranks, cut in the second. */
static uint32_t reference_rank(struct reference *f, uint64_t n, uint32_t source) {
    for (int may_cut = 0; may_cut < 2; may_cut++)
        for (uint32_t i = 0; i < f->n_ranks; i++) {
            uint32_t r = (f->cursor + i) % f->n_ranks;
            if ((source == MP_NONE || r == source % f->n_ranks) && f->used[r] + (may_cut ? 1 : n) <= f->budget[r])
                return f->cursor = (r + 1) % f->n_ranks, r;
        }
    return MP_NONE;
}
struct flat_step {
    uint32_t n, of_rank[8];
    uint64_t rows[128];
};
static void reference_close(struct reference *f, struct flat_step *out) {
    out->n = 0;
    for (uint32_t r = 0; r < f->n_ranks; r++) {
        for (uint64_t j = 0; j < f->used[r]; j++)
            out->rows[out->n++] = f->rows[r][j];
        out->of_rank[r] = (uint32_t)f->used[r];
        f->used[r] = 0;
    }
}

enum { MOST_STEPS = 64 * 40 };
static uint32_t reference_prefill(const struct mp_trace *t, const struct mp_batching *b, struct flat_step *steps) {
    struct reference f;
    reference_init(&f, b);
    uint32_t n = 0, head = 0;
    struct {
        uint64_t at, left;
    } begun[8] = {{0, 0}};
    for (;;) {
        uint64_t filled = 0;
        bool is_closed = false;
        for (uint32_t r = 0; r < b->n_ranks; r++) {
            uint64_t taken = reference_take(&f, r, begun[r].at, begun[r].left);
            begun[r].at += taken;
            begun[r].left -= taken;
        }
        for (; head < t->n_requests; head++) {
            const struct mp_request *q = &t->requests[head];
            uint32_t r = reference_rank(&f, q->n_rows, q->source);
            if (r == MP_NONE) {
                is_closed = true;
                break;
            }
            assert_int_equal(begun[r].left, 0);
            uint64_t taken = reference_take(&f, r, q->first_row, q->n_rows);
            begun[r].at = q->first_row + taken;
            begun[r].left = q->n_rows - taken;
        }
        for (uint32_t r = 0; r < b->n_ranks; r++)
            filled += f.used[r];
        if (!is_closed && (filled == 0 || 2 * filled < b->n_ranks * b->tokens_per_rank))
            return n;
        assert_true(n < MOST_STEPS);
        reference_close(&f, &steps[n++]);
    }
}

static void same_step(const struct mp_step *s, const struct flat_step *e, const struct mp_batching *b) {
    assert_int_equal(s->n, e->n);
    uint32_t of_rank[8] = {0};
    for (uint32_t j = 0; j < s->n; j++) {
        assert_int_equal(s->row[j], e->rows[j]);
        assert_true(j == 0 || s->source[j] >= s->source[j - 1]);
        of_rank[s->source[j]]++;
    }
    for (uint32_t r = 0; r < b->n_ranks; r++) {
        assert_int_equal(of_rank[r], e->of_rank[r]);
        uint32_t unit = b->pad_tokens > 0 ? b->pad_tokens : 1;
        assert_true((of_rank[r] + s->padding[r]) % unit == 0 && s->padding[r] < unit);
    }
}

static void make_case(struct made *m, uint32_t *rows, uint32_t *sources, struct mp_batching *b, struct mp_rng *rng) {
    *m = (struct made){.n = draw(rng, 1, 64), .rows = rows};
    if (draw(rng, 0, 1) == 1)
        m->sources = sources;
    for (uint32_t i = 0; i < m->n; i++) {
        rows[i] = draw(rng, 0, 9) == 0 ? draw(rng, 10, 40) : draw(rng, 1, 9);
        sources[i] = draw(rng, 0, 2) == 0 ? MP_NONE : draw(rng, 0, 9);
    }
    *b = (struct mp_batching){.phase = MP_PHASE_PREFILL,
                              .n_ranks = draw(rng, 1, 5),
                              .tokens_per_rank = draw(rng, 1, 12),
                              .source_skew_ppm = draw(rng, 0, 1) * draw(rng, 0, 3000000),
                              .pad_tokens = draw(rng, 0, 5),
                              .n_steps_max = draw(rng, 0, 1) * draw(rng, 1, 6),
                              .seed = mp_rng_next(rng)};
}

static void test_steps_prefill__agrees_with_the_rule(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(21);
    static struct flat_step expected[MOST_STEPS];
    uint32_t n_filled = 0;
    for (int round = 0; round < 2000; round++) {
        struct made m;
        uint32_t rows[64], sources[64];
        struct mp_batching b;
        make_case(&m, rows, sources, &b, &rng);
        struct mp_trace *t = make_trace(&m);
        struct mp_part all = part_of_all(t);
        struct mp_workload *w;
        struct mp_error err = {0};
        uint32_t n = reference_prefill(t, &b, expected);
        enum mp_status status = mp_workload_build(&w, &all, &b, &err);
        if (n == 0) {
            assert_int_equal(status, MP_EINPUT);
            assert_non_null(strstr(err.message, "--resample"));
        } else {
            CHECK_OK(status, err);
            n_filled++;
            uint32_t kept = b.n_steps_max == 0 || b.n_steps_max > n ? n : b.n_steps_max;
            assert_int_equal(w->n_steps, kept);
            uint8_t used[64 * 40] = {0};
            for (uint32_t i = 0; i < kept; i++) {
                same_step(&w->steps[i], &expected[(2 * (uint64_t)i + 1) * n / (2 * kept)], &b);
                for (uint32_t j = 0; j < w->steps[i].n; j++)
                    assert_int_equal(used[w->steps[i].row[j]]++, 0);
            }
            mp_workload_free(w);
        }
        mp_part_free(&all);
        mp_trace_free(t);
    }
    assert_true(n_filled > 500);
}

/* Whatever the case: the rows of a request run in order, on one rank, in steps without a gap; without named sources
 * every step but the last ones has all ranks full. */
static void test_steps_prefill__every_request_is_causal(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(23);
    uint32_t n_cut = 0;
    for (int round = 0; round < 500; round++) {
        struct made m;
        uint32_t rows[64], sources[64];
        struct mp_batching b;
        make_case(&m, rows, sources, &b, &rng);
        b.n_steps_max = 0;
        struct mp_trace *t = make_trace(&m);
        struct mp_part all = part_of_all(t);
        struct mp_workload *w;
        struct mp_error err = {0};
        uint32_t request_of[64 * 40], n_seen[64] = {0}, rank_of[64], last_step[64] = {0};
        for (uint32_t i = 0; i < t->n_requests; i++)
            for (uint64_t row = 0; row < t->requests[i].n_rows; row++)
                request_of[t->requests[i].first_row + row] = i;
        if (mp_workload_build(&w, &all, &b, &err) == MP_OK) {
            for (uint32_t s = 0; s < w->n_steps; s++)
                for (uint32_t j = 0; j < w->steps[s].n; j++) {
                    uint32_t i = request_of[w->steps[s].row[j]], rank = w->steps[s].source[j];
                    assert_int_equal(w->steps[s].row[j], t->requests[i].first_row + n_seen[i]);
                    if (n_seen[i]++ > 0) {
                        assert_int_equal(rank, rank_of[i]);
                        assert_true(s - last_step[i] <= 1);
                        n_cut += s - last_step[i];
                    }
                    rank_of[i] = rank;
                    last_step[i] = s;
                }
            bool is_over = false; /* every request has begun */
            for (uint32_t s = 0; m.sources == NULL && s < w->n_steps && !is_over; s++) {
                struct reference f;
                reference_init(&f, &b);
                uint64_t full = 0;
                for (uint32_t r = 0; r < b.n_ranks; r++)
                    full += f.budget[r];
                for (uint32_t j = 0; j < w->steps[s].n; j++)
                    is_over |= request_of[w->steps[s].row[j]] == t->n_requests - 1;
                assert_true(is_over || w->steps[s].n == full);
            }
            mp_workload_free(w);
        }
        mp_part_free(&all);
        mp_trace_free(t);
    }
    assert_true(n_cut > 500);
}

static void test_steps_prefill__bootstrap_agrees_with_the_rule(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(22);
    for (int round = 0; round < 500; round++) {
        struct made m;
        uint32_t rows[64], sources[64];
        struct mp_batching b;
        make_case(&m, rows, sources, &b, &rng);
        b.resample = true;
        struct mp_trace *t = make_trace(&m);
        struct mp_workload *w = build(t, &b);
        assert_true(w->is_bootstrap);
        assert_int_equal(w->n_steps, b.n_steps_max == 0 ? 64 : b.n_steps_max);
        struct {
            uint64_t first, n;
        } units[64 * 40];
        uint32_t n_units = 0;
        for (uint32_t i = 0; i < t->n_requests; i++)
            for (uint64_t at = 0; at < t->requests[i].n_rows; at += b.tokens_per_rank) {
                uint64_t left = t->requests[i].n_rows - at;
                units[n_units].first = t->requests[i].first_row + at;
                units[n_units++].n = left < b.tokens_per_rank ? left : b.tokens_per_rank;
            }
        struct mp_rng again = mp_rng_seed(b.seed);
        struct reference f;
        reference_init(&f, &b);
        for (uint32_t i = 0; i < w->n_steps; i++) {
            struct flat_step expected;
            f.cursor = 0;
            uint64_t left = 0;
            for (uint32_t r = 0; r < b.n_ranks; r++)
                left += f.budget[r];
            while (left > 0) {
                uint64_t u = mp_rng_below(&again, n_units);
                left -= reference_take(&f, reference_rank(&f, units[u].n, MP_NONE), units[u].first, units[u].n);
            }
            reference_close(&f, &expected);
            same_step(&w->steps[i], &expected, &b);
        }
        mp_workload_free(w);
        mp_trace_free(t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_prefill__deals_with_a_cursor),
        cmocka_unit_test(test_steps_prefill__a_long_request_stays_on_its_rank),
        cmocka_unit_test(test_steps_prefill__every_request_is_causal),
        cmocka_unit_test(test_steps_prefill__keeps_a_last_step_that_is_half_full),
        cmocka_unit_test(test_steps_prefill__keeps_named_sources),
        cmocka_unit_test(test_steps_prefill__agrees_with_the_rule),
        cmocka_unit_test(test_steps_prefill__bootstrap_agrees_with_the_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
