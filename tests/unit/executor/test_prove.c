/* The proof refuses what is not safe: each test breaks correct scripts in one way and must see each refused. */
#include "script_case.h"
#include <moeplan/base.h>

typedef bool (*mutation)(struct script_case *c, struct mp_rng *r); /* false: nothing to break in this one */

static enum mp_status prove(const struct script_case *c, struct mp_error *err) {
    *err = (struct mp_error){0};
    return ex_prove(c->script, c->flows, c->used, &no_limits, err);
}

/* Every case that can be broken so must be refused, for the reason given, and accepted before. */
static void check_mutation(mutation mutate, const char *const *reasons, uint32_t least) {
    static struct script_case c;
    uint32_t n = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct mp_error err;
        struct mp_rng r = mp_rng_seed(seed);
        script_case_make(&c, seed);
        CHECK_OK(prove(&c, &err), err);
        if (mutate(&c, &r)) {
            n++;
            if (prove(&c, &err) != MP_EBUG)
                fail_msg("case %llu was accepted", (unsigned long long)seed);
            bool is_known = false;
            for (size_t i = 0; reasons[i] != NULL; i++)
                is_known |= strstr(err.message, reasons[i]) != NULL;
            if (!is_known)
                fail_msg("case %llu was refused because: %s", (unsigned long long)seed, err.message);
        }
        script_case_free(&c);
    }
    if (n < least)
        fail_msg("only %u cases could be broken", n);
}
#define CHECK_MUTATION(mutate, least, ...) check_mutation(mutate, (const char *const[]){__VA_ARGS__, NULL}, least)

static void reindex(struct script_case *c) {
    struct mp_error err = {0};
    CHECK_OK(ex_script_index(c->script, &err), err);
}
static size_t any(struct mp_rng *r, size_t n) { return (size_t)mp_rng_below(r, n); }

/* ---- ends ---- */

static bool move_one_end(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0 || s->n_stages < 2)
        return false;
    const size_t rank = s->messages[any(r, s->n_messages)].src;
    struct ex_end *last = &s->sends[s->send_first[rank + 1] - 1]; /* so that the program's stages still rise */
    if (last->stage + 1 == s->n_stages)
        return false;
    last->stage++;
    return true;
}
static bool forget_end(struct ex_end *ends, size_t *first, uint32_t n_ranks, size_t n, struct mp_rng *r) {
    if (n == 0)
        return false;
    const size_t i = any(r, n);
    memmove(ends + i, ends + i + 1, (n - 1 - i) * sizeof *ends);
    for (uint32_t k = 0; k <= n_ranks; k++)
        first[k] -= first[k] > i;
    return true;
}
static bool forget_send(struct script_case *c, struct mp_rng *r) {
    return forget_end(c->script->sends, c->script->send_first, c->script->n_ranks, c->script->n_messages, r);
}
static bool forget_receive(struct script_case *c, struct mp_rng *r) {
    return forget_end(c->script->receives, c->script->receive_first, c->script->n_ranks, c->script->n_messages, r);
}
static bool receive_elsewhere(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0)
        return false;
    s->receives[any(r, s->n_messages)].at += 8;
    return true;
}
static bool promise_more(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0)
        return false;
    s->sends[any(r, s->n_messages)].bytes++;
    return true;
}
/* Two messages of a pair in one stage, as between nodes: sent in one order, received in the other. */
static bool other_order(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i + 1 < s->n_messages; i++)
        for (size_t k = i + 1; k < s->n_messages && s->sends[k].stage == s->sends[i].stage; k++)
            if (s->messages[s->sends[i].message].src == s->messages[s->sends[k].message].src &&
                s->sends[i].peer == s->sends[k].peer) {
                struct ex_end e = s->sends[i];
                s->sends[i] = s->sends[k];
                s->sends[k] = e;
                return true;
            }
    return false;
}

static void test_prove__both_ends(void **state) {
    (void)state;
    CHECK_MUTATION(move_one_end, 150, "the other end has");
    CHECK_MUTATION(forget_send, 400, "does not send");
    CHECK_MUTATION(forget_receive, 400, "does not receive");
    CHECK_MUTATION(receive_elsewhere, 400, "the other end has");
    CHECK_MUTATION(promise_more, 400, "the other end has");
    CHECK_MUTATION(other_order, 20, "in another order");
}

/* ---- messages, moved or wrong at both ends ---- */

/* Into a stage in which its sender has all ports busy. */
static bool move_to_busy_stage(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i < s->n_messages && s->ports > 0; i++)
        for (size_t k = 0; k < s->n_messages; k++)
            if (s->messages[i].src == s->messages[k].src && s->messages[i].stage != s->messages[k].stage &&
                s->messages[k].stage != s->flush_stage && s->messages[i].width + s->messages[k].width > s->ports) {
                struct ex_message m = s->messages[i];
                m.stage = s->messages[k].stage;
                if (k < i) {
                    memmove(s->messages + k + 1, s->messages + k, (i - k) * sizeof m);
                    s->messages[k] = m;
                } else {
                    memmove(s->messages + i, s->messages + i + 1, (k - i) * sizeof m);
                    s->messages[k] = m;
                }
                reindex(c);
                return true;
            }
    return false;
}
static bool is_flow_place(const struct script_case *c, const struct ex_message *m) {
    for (uint32_t i = 0; i < c->flows->n; i++) {
        const size_t flow = (size_t)i * c->flows->n + m->dst;
        if (m->dst_at >= c->flows->in_at[flow] && m->dst_at < c->flows->in_at[flow] + c->flows->bytes[flow])
            return true;
    }
    return false;
}
/* What others pass on, sent in the last stage, when they have passed it on already. */
static bool pass_on_too_late(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i < s->n_messages && s->n_copies > 0; i++) {
        struct ex_message m = s->messages[i];
        if (m.stage + 1 == s->n_stages || is_flow_place(c, &m))
            continue;
        m.stage = s->n_stages - 1;
        memmove(s->messages + i, s->messages + i + 1, (s->n_messages - 1 - i) * sizeof m);
        s->messages[s->n_messages - 1] = m;
        reindex(c);
        return true;
    }
    return false;
}
static bool lose_message(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0)
        return false;
    const size_t i = any(r, s->n_messages);
    memmove(s->messages + i, s->messages + i + 1, (s->n_messages - 1 - i) * sizeof *s->messages);
    s->n_messages--;
    reindex(c);
    return true;
}
static bool send_twice(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0 || s->n_copies > 0 || s->ports > 0)
        return false;
    struct ex_message *grown = mp_realloc(s->messages, s->n_messages + 1, sizeof *grown);
    assert_non_null(grown);
    s->messages = grown;
    grown[s->n_messages] = grown[any(r, s->n_messages)];
    grown[s->n_messages++].stage = s->n_stages - 1;
    reindex(c);
    return true;
}
static bool overlap(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i < s->n_messages; i++)
        for (size_t k = i + 1; k < s->n_messages; k++)
            if (s->messages[i].dst == s->messages[k].dst && s->messages[i].src != s->messages[k].src) {
                s->messages[k].dst_at = s->messages[i].dst_at + s->messages[i].bytes - 1;
                reindex(c);
                return true;
            }
    return false;
}
/* Two messages of one receiver and size, each where the other belongs. */
static bool exchange_places(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i < s->n_messages; i++)
        for (size_t k = i + 1; k < s->n_messages; k++)
            if (s->messages[i].dst == s->messages[k].dst && s->messages[i].src != s->messages[k].src &&
                s->messages[i].bytes == s->messages[k].bytes && is_flow_place(c, &s->messages[i]) &&
                is_flow_place(c, &s->messages[k])) {
                uint64_t at = s->messages[i].dst_at;
                s->messages[i].dst_at = s->messages[k].dst_at;
                s->messages[k].dst_at = at;
                reindex(c);
                return true;
            }
    return false;
}
static bool read_one_further(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0)
        return false;
    s->messages[any(r, s->n_messages)].src_at++;
    reindex(c);
    return true;
}
static bool cut_short(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    const size_t i = s->n_messages > 0 ? any(r, s->n_messages) : 0;
    if (s->n_messages == 0 || s->messages[i].bytes < 2)
        return false;
    s->messages[i].bytes--;
    reindex(c);
    return true;
}
static bool leave_block(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_messages == 0)
        return false;
    struct ex_message *m = &s->messages[any(r, s->n_messages)];
    m->dst_at = c->used[m->dst] - m->bytes + 1;
    reindex(c);
    return true;
}

static void test_prove__messages(void **state) {
    (void)state;
    CHECK_MUTATION(move_to_busy_stage, 100, "ports in stage");
    CHECK_MUTATION(pass_on_too_late, 60, "before it is there");
    CHECK_MUTATION(lose_message, 400, "never comes", "before it is there");
    CHECK_MUTATION(send_twice, 20, "written twice");
    CHECK_MUTATION(overlap, 300, "written twice", "are written into the block");
    CHECK_MUTATION(exchange_places, 30, "is not that flow", "in another order");
    CHECK_MUTATION(read_one_further, 400, "is not that flow", "before it is there");
    CHECK_MUTATION(cut_short, 300, "never comes", "before it is there");
    CHECK_MUTATION(leave_block, 400, "are written into the block", "written twice");
}

/* ---- copies ---- */

static bool lose_copy(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    if (s->n_copies == 0)
        return false;
    s->copies[any(r, s->n_copies)].bytes--;
    return true;
}
static bool gather_too_late(struct script_case *c, struct mp_rng *r) {
    struct ex_script *s = c->script;
    (void)r;
    for (size_t i = 0; i < s->n_copies; i++)
        if (s->copies[i].is_before) {
            s->copies[i].is_before = false;
            reindex(c);
            return true;
        }
    return false;
}
static bool drop_barriers(struct script_case *c, struct mp_rng *r) {
    c->script->mode = (enum mp_stage_mode[]){MP_STAGE_FREE, MP_STAGE_COUPLED}[any(r, 2)];
    return c->script->n_copies > 0;
}
static void test_prove__copies(void **state) {
    (void)state;
    CHECK_MUTATION(lose_copy, 60, "never comes", "before it is there", "written twice", "are written into");
    CHECK_MUTATION(gather_too_late, 60, "before it is there");
    CHECK_MUTATION(drop_barriers, 100, "need a barrier");
}

/* One flow 0 -> 2 by way of 1, without a copy: fine where stages have barriers, and only there. */
static void test_prove__passing_on_needs_barriers(void **state) {
    (void)state;
    static struct script_case c;
    struct mp_error err = {0};
    memset(&c, 0, sizeof c);
    case_plain(&c.net, 1, 3, 1000, 1000);
    c.net.matrix[2] = 100;
    c.is_single = true;
    script_case_build(&c);
    struct ex_message *m = mp_realloc(c.script->messages, 2, sizeof *m);
    assert_non_null(m);
    c.script->messages = m;
    c.script->n_messages = c.script->n_stages = 2;
    m[0] = (struct ex_message){0, 0, 1, 1, 100, c.flows->out_at[2], c.used[1]};
    m[1] = (struct ex_message){1, 1, 2, 1, 100, c.used[1], c.flows->in_at[2]};
    c.used[1] += 100;
    reindex(&c);
    for (int mode = 0; mode < 3; mode++) {
        c.script->mode = (enum mp_stage_mode)mode;
        assert_int_equal(prove(&c, &err), mode == MP_STAGE_BARRIER ? MP_OK : MP_EBUG);
    }
    assert_non_null(strstr(err.message, "before it is there"));
    m[1].stage = 0; /* at once with what brings it */
    c.script->mode = MP_STAGE_BARRIER;
    reindex(&c);
    assert_int_equal(prove(&c, &err), MP_EBUG);
    script_case_free(&c);
}

/* ---- limits ---- */

static void test_prove__limits(void **state) {
    (void)state;
    static struct script_case c;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_error err = {0};
        script_case_make(&c, seed);
        const struct ex_script *s = c.script;
        uint32_t most = 0;
        for (uint32_t k = 0; k < s->n_stages; k++)
            for (uint32_t rank = 0; rank < s->n_ranks; rank++) {
                uint32_t n = 0;
                for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; m++)
                    n += (s->messages[m].src == rank) + (s->messages[m].dst == rank);
                most = n > most ? n : most;
            }
        const struct ex_limits enough = {.max_ranks = s->n_ranks, .ops_per_stage = most > 0 ? most : 1},
                               few_ops = {.ops_per_stage = most - 1}, few_ranks = {.max_ranks = s->n_ranks - 1};
        CHECK_OK(ex_prove(s, c.flows, c.used, &enough, &err), err);
        if (most > 1) {
            assert_int_equal(ex_prove(s, c.flows, c.used, &few_ops, &err), MP_EUSAGE);
            assert_non_null(strstr(err.message, "take a plan with an order"));
        }
        err = (struct mp_error){0};
        assert_int_equal(ex_prove(s, c.flows, c.used, &few_ranks, &err), MP_EUSAGE);
        script_case_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prove__both_ends), cmocka_unit_test(test_prove__messages),
        cmocka_unit_test(test_prove__copies),    cmocka_unit_test(test_prove__passing_on_needs_barriers),
        cmocka_unit_test(test_prove__limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
