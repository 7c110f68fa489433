/* Signs of life, on a clock of our own: who is silent is found at the deadline and never before. */
#include "../../../executor/life.h"
#include "support.h"

enum { N = 4, DEADLINE_MS = 400 };
static const uint64_t MS = 1000000;

static void begin(struct ex_life *l, uint64_t now) {
    struct mp_error err = {0};
    CHECK_OK(ex_life_new(l, 0, N, DEADLINE_MS, &err), err);
    ex_life_begin(l, now);
}

/* What rank 2 owes, and nobody else. */
static void owes(const void *run, uint32_t peer, struct ex_owed *out) {
    (void)run;
    if (peer == 2)
        *out = (struct ex_owed){.bytes = 7, .stage = 3, .is_receive = true, .is_next = true};
}

static void test_life__a_stopped_rank_is_found_at_the_deadline_whatever_else_moves(void **state) {
    (void)state;
    for (uint32_t stopped = 1; stopped < N; stopped++) {
        struct ex_life l;
        struct ex_owed owed;
        uint64_t now = 1000 * MS, found = 0;
        begin(&l, now);
        for (; found == 0 && now < 5000 * MS; now += MS) {
            l.moved_ns = now; /* we have enough to do */
            if (ex_life_look(&l, now))
                for (uint32_t r = 1; r < N; r++)
                    if (r != stopped || now <= 1500 * MS)
                        ex_life_heard(&l, r, 0, now); /* and so have they */
            const uint32_t silent = ex_life_silent(&l, now, owes, NULL, &owed);
            if (silent != MP_NONE) {
                assert_int_equal(silent, stopped);
                assert_int_equal(owed.bytes, stopped == 2 ? 7 : 0);
                found = now;
            }
        }
        /* The last tick was up to an eighth of the deadline before it stopped; who is owed nothing lets others speak.
         */
        assert_true(found >= (1500 + DEADLINE_MS - DEADLINE_MS / 8) * MS);
        assert_true(found <= (1500 + DEADLINE_MS + 100) * MS);
        ex_life_free(&l);
    }
}

static void test_life__who_waits_goes_on_while_anything_moves(void **state) {
    (void)state;
    struct ex_life l;
    struct ex_owed owed;
    const uint64_t since = 1000 * MS, moved_last = 3000 * MS;
    uint64_t now = since;
    begin(&l, now);
    for (; now < 10000 * MS; now += MS) {
        if (ex_life_look(&l, now))
            for (uint32_t r = 1; r < N; r++) /* rank 3 moves something, the others wait as we do */
                ex_life_heard(&l, r, r < 3 ? now - since : now > moved_last ? now - moved_last : 0, now);
        assert_int_equal(ex_life_silent(&l, now, NULL, NULL, &owed), MP_NONE);
        if (now >= ex_life_patience(&l, since))
            break;
    }
    assert_true(now >= moved_last + (DEADLINE_MS - DEADLINE_MS / 8) * MS);
    assert_true(now <= moved_last + (DEADLINE_MS + 100) * MS);
    assert_int_equal(ex_life_quietest(&l), MP_NONE);
    ex_life_free(&l);
}

/* Who did not look cannot have seen: a long time without a look counts against nobody, but silence after it does. */
static void test_life__a_time_without_a_look_counts_against_nobody(void **state) {
    (void)state;
    struct ex_life l;
    struct ex_owed owed;
    begin(&l, 1000 * MS);
    (void)ex_life_look(&l, 9000 * MS);
    assert_int_equal(ex_life_silent(&l, 9000 * MS, NULL, NULL, &owed), MP_NONE);
    uint64_t now = 9000 * MS;
    while (ex_life_silent(&l, now, NULL, NULL, &owed) == MP_NONE && now < 20000 * MS) {
        now += MS;
        (void)ex_life_look(&l, now);
    }
    assert_true(now >= (9000 + DEADLINE_MS) * MS && now <= (9000 + DEADLINE_MS + 100) * MS);
    ex_life_free(&l);
}

static void test_life__who_has_left_is_not_missed(void **state) {
    (void)state;
    struct ex_life l;
    struct ex_owed owed;
    begin(&l, 1000 * MS);
    for (uint32_t r = 1; r < N; r++) {
        ex_life_left(&l, r);
        ex_life_heard(&l, r, 0, 1001 * MS); /* a tick that comes late brings it not back */
        assert_true(ex_life_has_left(&l, r));
    }
    for (uint64_t now = 1000 * MS; now < 5000 * MS; now += 10 * MS) {
        (void)ex_life_look(&l, now);
        assert_int_equal(ex_life_silent(&l, now, NULL, NULL, &owed), MP_NONE);
    }
    ex_life_free(&l);
}

static void test_life__who_works_shows_it(void **state) {
    (void)state;
    struct ex_life l;
    uint32_t n_looks = 0;
    begin(&l, 1000 * MS);
    for (uint64_t now = 1000 * MS; now < 2000 * MS; now += MS) {
        if (!ex_life_works_on(&l, now))
            continue;
        (void)ex_life_look(&l, now);
        n_looks++;
    }
    assert_int_equal(n_looks, 49); /* each 20 ms */
    assert_true(l.moved_ns == 1999 * MS);
    ex_life_free(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life__a_stopped_rank_is_found_at_the_deadline_whatever_else_moves),
        cmocka_unit_test(test_life__who_waits_goes_on_while_anything_moves),
        cmocka_unit_test(test_life__a_time_without_a_look_counts_against_nobody),
        cmocka_unit_test(test_life__who_has_left_is_not_missed),
        cmocka_unit_test(test_life__who_works_shows_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
