/* The reference transport: every byte arrives under every rule of stages, the rules are kept, and what goes wrong is
 * caught. */
#include "script_case.h"
#include <moeplan/base.h>
#include <time.h>

struct opened {
    struct ex_link *link;
    struct ex_times *times;
    uint8_t **views;
};

static void open_case(struct opened *o, const struct script_case *c, struct ex_fault fault, uint64_t deadline_ms) {
    struct mp_error err = {0};
    const uint32_t n = c->net.t.n_gpus;
    const struct ex_world world = {
        .n_ranks = n, .n_local = n, .topology = &c->net.t, .deadline_ms = deadline_ms, .fault = fault};
    const struct ex_transport *t = ex_transport_find("loop");
    CHECK_OK(t->open(&o->link, &world, &err), err);
    CHECK_OK(ex_times_new(&o->times, c->script, &err), err);
    o->views = calloc(n, sizeof *o->views);
    assert_non_null(o->views);
    for (uint32_t r = 0; r < n; r++) {
        void *view;
        CHECK_OK(t->alloc(o->link, r, c->used[r] + 1, &view, &err), err);
        o->views[r] = view;
    }
    blocks_fill(o->views, c->flows, c->used);
}
static void close_case(struct opened *o) {
    ex_transport_find("loop")->close(o->link);
    ex_times_free(o->times);
    free(o->views);
}

static void test_transport_loop__every_byte_arrives(void **state) {
    (void)state;
    static struct script_case c;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_error err = {0};
        struct opened o;
        script_case_make(&c, seed);
        open_case(&o, &c, (struct ex_fault){0}, 30000);
        for (int again = 0; again < 2; again++) {
            CHECK_OK(ex_transport_find("loop")->run(o.link, c.script, o.times, &err), err);
            assert_int_equal(n_wrong(o.views, c.flows), 0);
            blocks_fill(o.views, c.flows, c.used);
        }
        close_case(&o);
        script_case_free(&c);
    }
}

/* Does message b wait for message a? They meet at a queue that they have in common, a in an earlier stage. */
static bool waits(const struct script_case *c, const struct ex_message *a, const struct ex_message *b) {
    if (a->stage >= b->stage)
        return false;
    if (c->script->mode == MP_STAGE_BARRIER)
        return true;
    if (a->src == b->src || a->dst == b->dst)
        return true;
    return c->script->mode == MP_STAGE_COUPLED && (a->src == b->dst || a->dst == b->src);
}

static void test_transport_loop__keeps_the_rules_of_stages(void **state) {
    (void)state;
    static struct script_case c;
    uint64_t n_checked[3] = {0};
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_error err = {0};
        struct opened o;
        script_case_make(&c, seed);
        const struct ex_script *s = c.script;
        open_case(&o, &c, (struct ex_fault){0}, 30000);
        CHECK_OK(ex_transport_find("loop")->run(o.link, s, o.times, &err), err);
        for (size_t a = 0; a < s->n_messages; a++) {
            const struct ex_message *m = &s->messages[a];
            const size_t cell = (size_t)m->src * s->n_stages + m->stage;
            assert_true(o.times->message_end_ns[a] >= o.times->message_begin_ns[a]);
            assert_true(o.times->begin_ns[cell] <= o.times->message_begin_ns[a] &&
                        o.times->end_ns[cell] >= o.times->message_end_ns[a] &&
                        o.times->total_ns[m->dst] >= o.times->message_end_ns[a]);
            for (size_t b = a + 1; b < s->n_messages; b++)
                if (waits(&c, m, &s->messages[b])) {
                    n_checked[s->mode]++;
                    assert_true(o.times->message_begin_ns[b] >= o.times->message_end_ns[a]);
                }
        }
        close_case(&o);
        script_case_free(&c);
    }
    assert_true(n_checked[MP_STAGE_FREE] > 1000 && n_checked[MP_STAGE_BARRIER] > 1000 &&
                n_checked[MP_STAGE_COUPLED] > 1000);
}

/* ---- faults ---- */

/* A stage and a rank that sends at least `least` messages of 8 bytes or more from it on, the first in it. */
static bool find_victim(const struct script_case *c, struct mp_rng *r, size_t least, struct ex_fault *f) {
    const struct ex_script *s = c->script;
    for (int tries = 0; tries < 20 && s->n_messages > 0; tries++) {
        const struct ex_message *m = &s->messages[mp_rng_below(r, s->n_messages)];
        size_t n = 0;
        bool are_large = true;
        for (size_t i = s->send_first[m->src]; i < s->send_first[m->src + 1]; i++)
            if (s->sends[i].stage >= m->stage && n++ < least)
                are_large &= s->sends[i].bytes >= 8;
        if (n >= least && are_large) {
            *f = (struct ex_fault){f->kind, s->step, s->layer, m->stage, m->src};
            return true;
        }
    }
    return false;
}

static void check_wrong_data(enum ex_fault_kind kind, size_t least_sends) {
    static struct script_case c;
    uint32_t n = 0;
    for (uint64_t seed = 0; seed < 80; seed++) {
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(seed);
        struct ex_fault fault = {.kind = kind};
        struct opened o;
        script_case_make(&c, seed);
        c.script->part = EX_DISPATCH;
        if (find_victim(&c, &r, least_sends, &fault)) {
            open_case(&o, &c, fault, 30000);
            CHECK_OK(ex_transport_find("loop")->run(o.link, c.script, o.times, &err), err);
            if (n_wrong(o.views, c.flows) == 0)
                fail_msg("case %llu: all is right in spite of the fault", (unsigned long long)seed);
            close_case(&o);
            n++;
        }
        script_case_free(&c);
    }
    assert_true(n > 30);
}
static void test_transport_loop__corrupt_swap_and_drop_change_bytes(void **state) {
    (void)state;
    check_wrong_data(EX_FAULT_CORRUPT, 1);
    check_wrong_data(EX_FAULT_SWAP, 2);
    check_wrong_data(EX_FAULT_DROP, 1);
}

/* Ranks that lie, stop, are gone or slow: the run ends, names them, and says the stage. */
static void test_transport_loop__bad_ranks_end_the_run(void **state) {
    (void)state;
    static struct script_case c;
    static const enum ex_fault_kind kinds[] = {EX_FAULT_LIE, EX_FAULT_STOP, EX_FAULT_KILL, EX_FAULT_SLOW};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        uint32_t n = 0;
        for (uint64_t seed = 0; seed < 9; seed++) {
            struct mp_error err = {0};
            struct mp_rng r = mp_rng_seed(seed);
            struct ex_fault fault = {.kind = kinds[k]};
            struct opened o;
            char who[32], stage[32];
            script_case_make(&c, seed);
            c.script->part = EX_DISPATCH;
            if (find_victim(&c, &r, 1, &fault)) {
                open_case(&o, &c, fault, 200);
                assert_int_equal(ex_transport_find("loop")->run(o.link, c.script, o.times, &err), MP_EPEER);
                snprintf(who, sizeof who, "rank %u", fault.rank);
                snprintf(stage, sizeof stage, "stage %u:", fault.stage);
                if (strstr(err.message, who) == NULL || strstr(err.message, "bytes") == NULL)
                    fail_msg("kind %zu, case %llu, rank %u, stage %u: %s", k, (unsigned long long)seed, fault.rank,
                             fault.stage, err.message);
                if (c.script->mode == MP_STAGE_BARRIER && strstr(err.message, stage) == NULL)
                    fail_msg("kind %zu, case %llu, stage %u: %s", k, (unsigned long long)seed, fault.stage,
                             err.message);
                /* Broken once, it stays so. */
                assert_int_equal(ex_transport_find("loop")->run(o.link, c.script, o.times, &err), MP_EPEER);
                close_case(&o);
                n++;
            }
            script_case_free(&c);
        }
        assert_true(n > 3);
    }
}

enum { LONG_BYTES = 8 << 20, LONG_DEADLINE_MS = 400 };

/* Rank 0 sends to 1, stage by stage the same bytes, for about so many deadlines as this machine copies; only then
 * something to rank 2. */
static void make_long(struct ex_script *s, double deadlines) {
    struct mp_error err = {0};
    uint8_t *from = calloc(2, LONG_BYTES);
    assert_non_null(from);
    memset(from, 1, LONG_BYTES);
    struct timespec t[2];
    uint64_t least_ns = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        clock_gettime(CLOCK_MONOTONIC, &t[0]);
        memcpy(from + LONG_BYTES, from, LONG_BYTES);
        clock_gettime(CLOCK_MONOTONIC, &t[1]);
        const uint64_t ns =
            (uint64_t)(t[1].tv_sec - t[0].tv_sec) * 1000000000 + (uint64_t)t[1].tv_nsec - (uint64_t)t[0].tv_nsec;
        least_ns = ns < least_ns ? ns : least_ns;
    }
    free(from);
    const uint32_t n = (uint32_t)(deadlines * LONG_DEADLINE_MS * 1e6 / (double)least_ns) + 1;
    *s = (struct ex_script){.n_ranks = 3, .n_stages = n + 1, .mode = MP_STAGE_FREE, .flush_stage = MP_NONE};
    s->n_messages = n + 1;
    s->messages = mp_calloc(n + 1, sizeof *s->messages);
    assert_non_null(s->messages);
    for (uint32_t i = 0; i <= n; i++)
        s->messages[i] =
            (struct ex_message){.stage = i, .dst = i < n ? 1 : 2, .width = 1, .bytes = i < n ? LONG_BYTES : 8};
    CHECK_OK(ex_script_index(s, &err), err);
}
static void run_long(double deadlines, enum ex_fault_kind fault, enum mp_status want) {
    const struct ex_transport *t = ex_transport_find("loop");
    struct mp_error err = {0};
    struct ex_script *s = mp_calloc(1, sizeof *s);
    struct ex_link *link;
    struct ex_times *times;
    void *view;
    assert_non_null(s);
    make_long(s, deadlines);
    const uint32_t last = s->n_stages - 1;
    const struct ex_world world = {.n_ranks = 3,
                                   .n_local = 3,
                                   .deadline_ms = LONG_DEADLINE_MS,
                                   .fault = {.kind = fault, .stage = last, .rank = 2}};
    CHECK_OK(t->open(&link, &world, &err), err);
    CHECK_OK(ex_times_new(&times, s, &err), err);
    for (uint32_t r = 0; r < 3; r++) {
        CHECK_OK(t->alloc(link, r, LONG_BYTES, &view, &err), err);
        memset(view, (int)r, LONG_BYTES); /* pages of their own */
    }
    const enum mp_status status = t->run(link, s, times, &err);
    if (status != want)
        fail_msg("%d %s", status, err.message);
    if (want != MP_OK) { /* before the others were through */
        assert_non_null(strstr(err.message, "rank 2, which showed no sign of life"));
        assert_true(times->message_end_ns[last - 1] == 0);
    }
    t->close(link);
    ex_times_free(times);
    ex_script_free(s);
}
static void test_transport_loop__a_stopped_rank_is_found_while_others_move(void **state) {
    (void)state;
    run_long(8, EX_FAULT_STOP, MP_EPEER);
}
static void test_transport_loop__who_waits_longer_than_the_deadline_goes_on_while_others_move(void **state) {
    (void)state;
    run_long(2.5, EX_FAULT_NONE, MP_OK);
}

static void test_transport_loop__abort_ends_runs(void **state) {
    (void)state;
    static struct script_case c;
    struct opened o;
    struct mp_error err = {0}, why = {.status = MP_EINPUT, .message = "because"};
    script_case_make(&c, 1);
    open_case(&o, &c, (struct ex_fault){0}, 30000);
    ex_transport_find("loop")->abort(o.link, &why);
    assert_int_equal(ex_transport_find("loop")->run(o.link, c.script, o.times, &err), MP_EINPUT);
    assert_string_equal(err.message, "because");
    close_case(&o);
    script_case_free(&c);
}

static void test_transport_loop__needs_all_ranks(void **state) {
    (void)state;
    struct ex_link *link;
    struct mp_error err = {0};
    const struct ex_world some = {.n_ranks = 4, .n_local = 1, .deadline_ms = 1},
                          many = {.n_ranks = 4096, .n_local = 4096, .deadline_ms = 1};
    assert_int_equal(ex_transport_find("loop")->open(&link, &some, &err), MP_EUSAGE);
    assert_null(link);
    err = (struct mp_error){0};
    assert_int_equal(ex_transport_find("loop")->open(&link, &many, &err), MP_EUSAGE);
}

static void test_transport_loop__fault_text(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",           "corrupt",   "corrupt@",    "corrupt@1/2", "@1/2/3",      "bend@1/2/3", "stop@1/2/3/4/5",
        "stop@1/2/x", "stop@1//3", "stop@1/2/3/", "stop@-1/2/3", "stop@1/2/3 ", "none@1/2/3"};
    struct mp_error err = {0};
    struct ex_fault f;
    CHECK_OK(ex_fault_parse(&f, "slow@1/22/333", &err), err);
    assert_true(f.kind == EX_FAULT_SLOW && f.step == 1 && f.layer == 22 && f.stage == 333 && f.rank == 0);
    CHECK_OK(ex_fault_parse(&f, "swap@0/0/0/7", &err), err);
    assert_true(f.kind == EX_FAULT_SWAP && f.rank == 7);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err = (struct mp_error){0};
        if (ex_fault_parse(&f, wrong[i], &err) != MP_EUSAGE)
            fail_msg("\"%s\" was taken", wrong[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport_loop__every_byte_arrives),
        cmocka_unit_test(test_transport_loop__keeps_the_rules_of_stages),
        cmocka_unit_test(test_transport_loop__corrupt_swap_and_drop_change_bytes),
        cmocka_unit_test(test_transport_loop__bad_ranks_end_the_run),
        cmocka_unit_test(test_transport_loop__a_stopped_rank_is_found_while_others_move),
        cmocka_unit_test(test_transport_loop__who_waits_longer_than_the_deadline_goes_on_while_others_move),
        cmocka_unit_test(test_transport_loop__abort_ends_runs),
        cmocka_unit_test(test_transport_loop__needs_all_ranks),
        cmocka_unit_test(test_transport_loop__fault_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
