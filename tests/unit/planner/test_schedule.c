/* Schedules in bytes and the same as shares: what goes in comes out to the byte, and no pair is forgotten. */
#include "support.h"

#include <moeplan/base.h>
#include <moeplan/schedule.h>

#define MAX_N 9u

/* Stages of random matchings (or of up to `ports` of them) until everything is sent, the rest perhaps flushed. */
static void random_schedule(struct mp_schedule *s, struct mp_rng *rng, const uint64_t *matrix, uint32_t n,
                            uint32_t ports, uint32_t n_before_flush) {
    struct mp_error err;
    uint64_t left[MAX_N * MAX_N], total = 0;
    mp_schedule_init(s, n);
    s->ports = ports;
    for (uint32_t i = 0; i < n * n; i++)
        total += left[i] = i / n == i % n ? 0 : matrix[i];
    while (total > 0) {
        uint32_t sends[MAX_N] = {0}, takes[MAX_N] = {0};
        bool is_flush = n_before_flush > 0 && s->n_stages >= n_before_flush;
        CHECK_OK(mp_schedule_stage(s, &err), err);
        s->has_flush = is_flush;
        for (uint32_t k = 0; k < n * n; k++) {
            uint32_t at = is_flush ? k : (uint32_t)mp_rng_below(rng, n * n), i = at / n, j = at % n;
            uint32_t first = s->first[s->n_stages - 1], seen = 0;
            for (uint32_t p = first; p < s->n_pieces; p++)
                seen += s->pieces[p].src == i && s->pieces[p].dst == j;
            if (left[at] == 0 || seen > 0 || (!is_flush && (sends[i] == ports || takes[j] == ports)))
                continue;
            uint64_t bytes = is_flush || mp_rng_below(rng, 3) == 0 ? left[at] : 1 + mp_rng_below(rng, left[at]);
            sends[i]++, takes[j]++;
            CHECK_OK(mp_schedule_add(s, i, j, 1, bytes, &err), err);
            left[at] -= bytes;
            total -= bytes;
        }
    }
    mp_schedule_finish(s);
}

static void random_matrix(struct mp_rng *rng, uint64_t *matrix, uint32_t n, uint64_t most) {
    uint64_t holes = mp_rng_below(rng, 4);
    for (uint32_t i = 0; i < n * n; i++)
        matrix[i] = mp_rng_below(rng, 4) < holes ? 0 : mp_rng_below(rng, most);
}

/* Shares of each pair sum to the unit, GPUs stay within their ports, pairs are in order, no stage is empty. */
static void check_shares(const struct mp_order *o, uint32_t n) {
    uint64_t sum[MAX_N * MAX_N] = {0};
    for (uint32_t k = 0; k < o->n_stages; k++) {
        uint32_t sends[MAX_N] = {0}, takes[MAX_N] = {0};
        assert_true(o->stages[k].n > 0);
        for (uint32_t i = 0; i < o->stages[k].n; i++) {
            const struct mp_transfer *t = &o->stages[k].transfers[i];
            assert_true(t->src < n && t->dst < n && t->src != t->dst && t->share > 0 && t->width == 1);
            if (i > 0)
                assert_true(t[-1].src * n + t[-1].dst < t->src * n + t->dst);
            sum[t->src * n + t->dst] += t->share;
            sends[t->src]++, takes[t->dst]++;
        }
        for (uint32_t g = 0; g < n && !(o->has_flush && k + 1 == o->n_stages); g++)
            assert_true(sends[g] <= o->ports && takes[g] <= o->ports);
    }
    for (uint32_t i = 0; i < n * n; i++)
        assert_int_equal(sum[i], i / n == i % n ? 0 : o->unit);
}

static void test_schedule__shares_cut_the_same_matrix_to_the_byte(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    for (int round = 0; round < 3000; round++) {
        struct mp_error err;
        struct mp_schedule s;
        struct mp_order order;
        uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1), ports = 1 + (uint32_t)mp_rng_below(&rng, 3);
        uint64_t matrix[MAX_N * MAX_N], most = UINT64_C(1) << (1 + mp_rng_below(&rng, 31)), largest = 1;
        random_matrix(&rng, matrix, n, most);
        for (uint32_t i = 0; i < n * n; i++)
            largest = matrix[i] > largest ? matrix[i] : largest;
        random_schedule(&s, &rng, matrix, n, ports, (uint32_t)mp_rng_below(&rng, 4));
        CHECK_OK(mp_schedule_check(&s, matrix, &err), err);
        struct mp_arena *arena = mp_arena_new();
        uint32_t unit = (uint32_t)(largest + mp_rng_below(&rng, UINT32_MAX - largest));
        CHECK_OK(mp_schedule_order(&order, &s, matrix, unit, "random", arena, &err), err);
        check_shares(&order, n);
        assert_int_equal(order.has_flush, s.has_flush);
        /* Cut the matrix again: every piece is there, and nothing else but pieces of pairs without bytes. */
        uint64_t done[MAX_N * MAX_N] = {0};
        size_t at = 0;
        for (uint32_t k = 0; k < order.n_stages; k++)
            for (uint32_t i = 0; i < order.stages[k].n; i++) {
                const struct mp_transfer *t = &order.stages[k].transfers[i];
                uint32_t pair = t->src * n + t->dst;
                uint64_t bytes =
                    mp_mul_div(matrix[pair], done[pair] + t->share, unit) - mp_mul_div(matrix[pair], done[pair], unit);
                done[pair] += t->share;
                if (bytes == 0)
                    continue;
                assert_true(at < s.n_pieces);
                assert_true(s.first[k] <= at && at < s.first[k + 1]);
                assert_int_equal(t->src, s.pieces[at].src);
                assert_int_equal(t->dst, s.pieces[at].dst);
                assert_int_equal(bytes, s.pieces[at].bytes);
                at++;
            }
        assert_int_equal(at, s.n_pieces);
        mp_arena_free(arena);
        mp_schedule_free(&s);
    }
}

static void test_schedule__coarse_shares_lose_no_pair(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(4);
    for (int round = 0; round < 2000; round++) {
        struct mp_error err;
        struct mp_schedule s;
        struct mp_order order;
        uint32_t n = 2 + (uint32_t)mp_rng_below(&rng, MAX_N - 1), ports = 1 + (uint32_t)mp_rng_below(&rng, 2);
        uint64_t matrix[MAX_N * MAX_N];
        random_matrix(&rng, matrix, n, UINT64_C(1) << 50);
        random_schedule(&s, &rng, matrix, n, ports, (uint32_t)mp_rng_below(&rng, 4));
        struct mp_arena *arena = mp_arena_new();
        CHECK_OK(mp_schedule_order(&order, &s, matrix, 1 + (uint32_t)mp_rng_below(&rng, 20), "coarse", arena, &err),
                 err);
        check_shares(&order, n);
        mp_arena_free(arena);
        mp_schedule_free(&s);
    }
}

static void test_schedule__check_names_what_is_wrong(void **state) {
    (void)state;
    const uint64_t matrix[] = {0, 5, 7, 0, 0, 0, 0, 4, 0};
    const struct {
        uint32_t n_first; /* pieces of the first stage; the rest are the second */
        uint32_t n;
        struct mp_piece pieces[4];
        const char *says;
    } cases[] = {
        {1, 3, {{0, 1, 1, 5}, {0, 2, 1, 7}, {2, 1, 1, 4}}, NULL},
        {2, 3, {{0, 1, 1, 5}, {0, 2, 1, 7}, {2, 1, 1, 4}}, "one transfer too many"},
        {2, 3, {{0, 1, 1, 5}, {2, 1, 1, 4}, {0, 2, 1, 7}}, "one transfer too many"},
        {1, 3, {{0, 1, 1, 5}, {0, 2, 1, 6}, {2, 1, 1, 4}}, "0>2: 1 bytes are not sent"},
        {1, 3, {{0, 1, 1, 6}, {0, 2, 1, 7}, {2, 1, 1, 4}}, "more than there is"},
        {1, 3, {{0, 1, 2, 5}, {0, 2, 1, 7}, {2, 1, 1, 4}}, "one transfer too many"},
        {1, 4, {{0, 1, 1, 5}, {0, 2, 1, 7}, {1, 1, 1, 1}, {2, 1, 1, 4}}, "a piece 1>1"},
        {1, 4, {{0, 1, 1, 5}, {0, 2, 1, 4}, {0, 2, 1, 3}, {2, 1, 1, 4}}, "out of order"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct mp_error err = {0};
        struct mp_schedule s;
        mp_schedule_init(&s, 3);
        for (uint32_t i = 0; i < cases[c].n; i++) {
            const struct mp_piece *p = &cases[c].pieces[i];
            if (i == 0 || i == cases[c].n_first)
                CHECK_OK(mp_schedule_stage(&s, &err), err);
            CHECK_OK(mp_schedule_add(&s, p->src, p->dst, p->width, p->bytes, &err), err);
        }
        enum mp_status status = mp_schedule_check(&s, matrix, &err);
        if (cases[c].says == NULL) {
            CHECK_OK(status, err);
        } else {
            assert_int_equal(status, MP_EBUG);
            if (strstr(err.message, cases[c].says) == NULL)
                fail_msg("case %zu: \"%s\" does not say \"%s\"", c, err.message, cases[c].says);
        }
        mp_schedule_free(&s);
    }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    (void)ctx;
    const uint64_t matrix[] = {0, 5, 0, 7, 0, 2, 3, 4, 0};
    struct mp_schedule s;
    struct mp_order order;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = arena == NULL ? mp_nomem(err, "a test") : MP_OK;
    mp_schedule_init(&s, 3);
    for (uint32_t k = 1; k < 3 && status == MP_OK; k++) {
        status = mp_schedule_stage(&s, err);
        for (uint32_t i = 0; i < 3 && status == MP_OK; i++)
            status = mp_schedule_add(&s, i, (i + k) % 3, 1, matrix[i * 3 + (i + k) % 3], err);
    }
    mp_schedule_finish(&s);
    if (status == MP_OK)
        status = mp_schedule_check(&s, matrix, err);
    if (status == MP_OK)
        status = mp_schedule_order(&order, &s, matrix, 100, "faults", arena, err);
    mp_schedule_free(&s);
    mp_arena_free(arena);
    return status;
}
static void test_schedule__survives_faults(void **state) {
    (void)state;
    sweep_faults(flow, NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedule__shares_cut_the_same_matrix_to_the_byte),
                                       cmocka_unit_test(test_schedule__coarse_shares_lose_no_pair),
                                       cmocka_unit_test(test_schedule__check_names_what_is_wrong),
                                       cmocka_unit_test(test_schedule__survives_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
