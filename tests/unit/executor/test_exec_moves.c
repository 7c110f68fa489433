/* Tokens that move between layers and tokens that stand for others, replayed: every token verified where it is next,
 * for random homes and random stand-ins; the bytes are the cost model's; an answer or a residual that comes to the
 * wrong place is seen. */
#include "../../../executor/run.h"
#include "trial.h"
#include <moeplan/executor.h>
#include <moeplan/flow.h>

struct dice { /* a flow maker: random homes, and stand-ins where `condenses` */
    uint64_t seed;
    bool moves, condenses;
};

static void condense_layer(struct mp_token_flow *f, const struct mp_cost_setup *s, uint32_t step, uint32_t l,
                           struct mp_rng *r) {
    const struct mp_trace *t = s->workload->trace;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        uint16_t ids[MP_MAX_TOP_K], theirs[MP_MAX_TOP_K];
        const uint32_t k = mp_trace_row(t, l, s->workload->steps[step].row[i], ids),
                       other = (uint32_t)mp_rng_below(r, i + 1);
        const uint32_t n = mp_trace_row(t, l, s->workload->steps[step].row[other], theirs);
        uint32_t *own = f->stands_for + ((size_t)l * f->n_rows + i) * t->top_k,
                 *there = f->stands_for + ((size_t)l * f->n_rows + other) * t->top_k;
        if (other == i || i % 3 == 0)
            continue;
        for (uint32_t j = 0; j < k; j++)
            for (uint32_t q = 0; q < n; q++)
                if (theirs[q] == ids[j] && there[q] == other && mp_rng_below(r, 3) > 0) {
                    own[j] = other;
                    break;
                }
    }
    /* Who stands for others stays its own: later rows may have taken one that was condensed since. */
    for (uint32_t i = 0; i < f->n_rows; i++) {
        uint16_t ids[MP_MAX_TOP_K], theirs[MP_MAX_TOP_K];
        const uint32_t k = mp_trace_row(t, l, s->workload->steps[step].row[i], ids);
        for (uint32_t j = 0; j < k; j++) {
            uint32_t *own = f->stands_for + ((size_t)l * f->n_rows + i) * t->top_k, q = 0;
            const uint32_t n = mp_trace_row(t, l, s->workload->steps[step].row[own[j]], theirs);
            while (q < n && theirs[q] != ids[j])
                q++;
            if (q == n || f->stands_for[((size_t)l * f->n_rows + own[j]) * t->top_k + q] != own[j])
                own[j] = i;
        }
    }
}

static enum mp_status throw_dice(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *s, uint32_t step,
                                 struct mp_error *err) {
    const struct dice *d = ctx;
    struct mp_rng r = mp_rng_seed(d->seed + step);
    enum mp_status status = mp_flow_new(out, s->workload, step, err);
    if (status != MP_OK)
        return status;
    struct mp_token_flow *f = *out;
    for (size_t i = 0; i < ((size_t)f->n_layers + 1) * f->n_sequences && d->moves; i++)
        f->home[i] = (uint32_t)mp_rng_below(&r, s->plan->n_gpus);
    if (d->condenses)
        status = mp_flow_add_stands_for(f, s->workload->trace->top_k, err);
    for (uint32_t l = 0; l < f->n_layers && d->condenses && status == MP_OK; l++)
        condense_layer(f, s, step, l, &r);
    if (status != MP_OK) {
        mp_flow_free(f);
        *out = NULL;
    }
    return status;
}

static const char *const able[] = {"a2av", "deepep-ll", "deepep-normal"};

/* A trial with this flow; false: not one that can be replayed. */
static bool moves_make(struct trial *t, uint64_t seed) {
    trial_make(t, seed, false);
    t->in.dispatcher = mp_dispatcher_find(able[seed % 3]);
    t->in.sources = MP_SOURCES_DP;
    return seed % 3 < 2 || t->w.net.levels[0].n_groups == 1;
}

static void test_exec_moves__every_token_where_it_is_next(void **state) {
    (void)state;
    static struct trial t;
    uint64_t n_tokens = 0, n_saved = 0;
    uint32_t n_sums = 0, n_runs = 0;
    for (uint64_t seed = 0; seed < 140; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r, *still;
        struct dice dice = {seed, (seed & 1) != 0, (seed & 2) != 0};
        const struct mp_flow_maker maker = {throw_dice, &dice};
        if (!moves_make(&t, seed)) {
            world_free(&t.w);
            continue;
        }
        CHECK_OK(mp_exec_run(&still, &t.in, &err), err);
        t.in.flow = &maker;
        t.in.flow_name = "dice";
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        assert_int_equal(r->n_tokens, still->n_tokens); /* each of them somewhere, once */
        if (!dice.moves && !dice.condenses)
            assert_true(r->n_copies == still->n_copies && r->n_bytes == still->n_bytes);
        if (!dice.moves && dice.condenses) {
            assert_true(r->n_copies <= still->n_copies);
            n_saved += still->n_copies - r->n_copies;
        }
        n_tokens += r->n_tokens;
        n_sums += seed % 3 == 2;
        n_runs++;
        mp_exec_result_free(r);
        mp_exec_result_free(still);
        world_free(&t.w);
    }
    assert_true(n_tokens > 10000 && n_saved > 500 && n_sums > 5 && n_runs > 80);
}

/* ---- what comes to the wrong place ---- */

struct by_hand { /* a layer and the blocks of all ranks */
    struct trial t;
    struct mp_net *net;
    struct mp_token_flow *flow;
    struct ex_layer *l;
    struct ex_payload p;
    uint8_t *blocks[64];
};

static void move(struct by_hand *h, enum ex_part part) {
    const struct ex_flows *f = h->l->flows[part];
    for (uint32_t i = 0; i < f->n; i++)
        for (uint32_t j = 0; j < f->n; j++)
            memcpy(h->blocks[j] + f->in_at[(size_t)i * f->n + j], h->blocks[i] + f->out_at[(size_t)i * f->n + j],
                   f->bytes[(size_t)i * f->n + j]);
}

static enum mp_status check_all(struct by_hand *h, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint64_t n = 0;
    for (uint32_t r = 0; r < h->l->route->n && status == MP_OK; r++)
        status = ex_check_home(h->l, &h->p, r, h->blocks[r], &n, err);
    if (status == MP_OK)
        assert_int_equal(n, h->l->route->n_tokens);
    return status;
}

static bool begin(struct by_hand *h, uint64_t seed) {
    struct mp_error err = {0};
    struct dice dice = {seed, true, true};
    uint64_t n_copies = 0;
    memset(h, 0, sizeof *h);
    if (!moves_make(&h->t, seed) || h->t.in.n_ranks < 2) {
        world_free(&h->t.w);
        return false;
    }
    struct mp_cost_setup setup = h->t.w.setup;
    setup.dispatcher = h->t.in.dispatcher;
    setup.sources = MP_SOURCES_DP;
    CHECK_OK(throw_dice(&h->flow, &dice, &setup, 0, &err), err);
    setup.flow = h->flow;
    CHECK_OK(mp_net_new(&h->net, &h->t.w.net.t, &err), err);
    CHECK_OK(ex_layer_new(&h->l, &setup, h->net, -1, &(struct ex_limits){0}, 0, 0, &err), err);
    h->p = (struct ex_payload){
        .seed = seed, .dispatch_bytes = h->t.w.model.dispatch_bytes, .combine_bytes = h->t.w.model.combine_bytes};
    for (uint32_t r = 0; r < h->l->route->n; r++) {
        h->blocks[r] = calloc(h->l->used[r] + 1, 1);
        ex_pack(h->l, &h->p, r, h->blocks[r]);
    }
    move(h, EX_DISPATCH);
    for (uint32_t r = 0; r < h->l->route->n; r++)
        CHECK_OK(ex_experts(h->l, &h->p, r, h->blocks[r], &n_copies, &err), err);
    move(h, EX_COMBINE);
    CHECK_OK(check_all(h, &err), err);
    return true;
}

static void end(struct by_hand *h) {
    for (uint32_t r = 0; r < h->l->route->n; r++)
        free(h->blocks[r]);
    ex_layer_free(h->l);
    mp_flow_free(h->flow);
    mp_net_free(h->net);
    world_free(&h->t.w);
}

static void test_exec_moves__a_wrong_bit_or_a_wrong_place_is_seen(void **state) {
    (void)state;
    static struct by_hand h;
    uint32_t n_bits = 0, n_swaps = 0;
    for (uint64_t seed = 500; seed < 560; seed++) {
        if (!begin(&h, seed))
            continue;
        const struct ex_route *r = h.l->route;
        const struct ex_flows *f = h.l->flows[EX_COMBINE];
        const uint64_t bytes = h.p.combine_bytes;
        for (size_t flow = 0; flow < (size_t)r->n * r->n; flow++) {
            const size_t n = r->moves->back.first[flow + 1] - r->moves->back.first[flow];
            uint8_t *at = h.blocks[flow % r->n] + f->in_at[flow];
            struct mp_error err = {0};
            if (n == 0)
                continue;
            at[(n - 1) * bytes] ^= 1;
            assert_int_equal(check_all(&h, &err), MP_EPEER);
            assert_non_null(strstr(err.message, "moves from rank"));
            at[(n - 1) * bytes] ^= 1;
            n_bits++;
            if (n < 2 || bytes < 8 || memcmp(at, at + bytes, bytes) == 0)
                continue;
            for (uint64_t b = 0; b < bytes; b++) { /* two rows in each other's place */
                const uint8_t byte = at[b];
                at[b] = at[bytes + b];
                at[bytes + b] = byte;
            }
            err = (struct mp_error){0};
            assert_int_equal(check_all(&h, &err), MP_EPEER);
            for (uint64_t b = 0; b < bytes; b++) {
                const uint8_t byte = at[b];
                at[b] = at[bytes + b];
                at[bytes + b] = byte;
            }
            n_swaps++;
        }
        struct mp_error err = {0};
        CHECK_OK(check_all(&h, &err), err);
        end(&h);
    }
    assert_true(n_bits > 100 && n_swaps > 50);
}

static void test_exec_moves__asks_for_what_it_can(void **state) {
    (void)state;
    static struct trial t;
    struct dice dice = {1, true, false};
    const struct mp_flow_maker maker = {throw_dice, &dice};
    struct mp_exec_result *r;
    struct mp_error err = {0};
    struct mp_exec_policy policy = {.name = "p"};
    trial_make(&t, 3, false);
    t.in.flow = &maker;
    t.in.sources = MP_SOURCES_DP;
    t.in.dispatcher = mp_dispatcher_find("agrs");
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--dispatcher deepep-ll"));
    err = (struct mp_error){0};
    t.in.n_policies = 1;
    t.in.policies = &policy;
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "leave out --train"));
    world_free(&t.w);
}

static enum mp_status run_once(void *ctx, struct mp_error *err) {
    const struct trial *t = ctx;
    struct mp_exec_result *r;
    enum mp_status status = mp_exec_run(&r, &t->in, err);
    if (status == MP_OK)
        mp_exec_result_free(r);
    return status;
}
static void test_exec_moves__no_memory(void **state) {
    (void)state;
    static struct trial t;
    struct dice dice = {1, true, true};
    const struct mp_flow_maker maker = {throw_dice, &dice};
    (void)moves_make(&t, 6);
    t.in.flow = &maker;
    t.in.n_warmup = 0;
    t.in.n_iterations = 1;
    sweep_faults(run_once, &t, 23);
    world_free(&t.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exec_moves__every_token_where_it_is_next),
        cmocka_unit_test(test_exec_moves__a_wrong_bit_or_a_wrong_place_is_seen),
        cmocka_unit_test(test_exec_moves__asks_for_what_it_can),
        cmocka_unit_test(test_exec_moves__no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
