/* Training steps of random plans over loop, under random policies: every token verified in both directions, every sum
 * on every rank, predictions those of the timeline, every fault of a sum caught. */
#include "../../../executor/train.h"
#include "trial.h"
#include <moeplan/executor.h>

enum { POLICIES = 3 };

static struct mp_train_policy random_policy(struct mp_rng *r) {
    struct mp_train_policy p = {.is_shared = mp_rng_below(r, 3) == 0};
    p.guard = (enum mp_train_guard)mp_rng_below(r, MP_TRAIN_N_GUARDS);
    p.order = (enum mp_train_order)mp_rng_below(r, MP_TRAIN_LISTED);
    p.is_pipelined = mp_rng_below(r, 2);
    p.a2a_chunk_bytes = mp_rng_below(r, 2) ? 200 + mp_rng_below(r, 3000) : 0;
    p.reduce_chunk_bytes = mp_rng_below(r, 2) ? 2000 + mp_rng_below(r, 10000) : 0;
    p.bucket_bytes = mp_rng_below(r, 2) ? mp_rng_below(r, 60000) : 0;
    return p;
}

/* A trial that trains: small gradients, and little to compute. */
static void train_make(struct trial *t, struct mp_exec_policy policies[POLICIES], uint64_t seed) {
    static const char *const names[POLICIES] = {"a", "b", "c"};
    struct mp_rng r = mp_rng_seed(seed);
    trial_make(t, seed, false);
    t->w.model.attention_bytes = 1 + mp_rng_below(&r, 20000);
    t->w.model.shared_bytes = mp_rng_below(&r, 3000);
    t->w.model.dense_bytes = t->w.model.attention_bytes * t->w.model.n_layers + mp_rng_below(&r, 9000);
    t->w.model.expert_bytes = 1 + mp_rng_below(&r, 9000);
    t->w.model.expert_flops_per_token = t->w.model.shared_flops_per_token = t->w.model.attention_flops_per_token = 1000;
    for (uint32_t k = 0; k < POLICIES; k++) {
        policies[k] = (struct mp_exec_policy){.name = names[k]};
        policies[k].policy = random_policy(&r);
    }
    t->in.n_policies = POLICIES;
    t->in.policies = policies;
}

/* What a plan's gradients are in bytes, over all ranks, once. */
static uint64_t gradient_bytes(const struct trial *t, const struct mp_train_step *s) {
    const struct mp_plan *p = t->in.plan;
    uint64_t sum = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        uint64_t replicas = 0, replicated = 0;
        sum += s->layers[l].reduce.ns > 0 ? p->n_gpus * ((s->layers[l].reduce.bytes + 7) / 8 * 8) : 0;
        for (uint32_t e = 0; e < p->n_experts; e++) {
            uint64_t holders = 0;
            for (uint32_t g = 0; g < p->n_gpus; g++) {
                bool holds = false;
                for (uint32_t k = p->gpu_first_slot[g]; k < p->gpu_first_slot[g + 1]; k++)
                    holds |= p->layers[l].slot_expert[k] == e;
                holders += holds;
            }
            replicas += holders > 1 ? holders : 0;
            replicated += holders > 1;
        }
        if (replicated > 0)
            sum += replicas * ((s->layers[l].expert_reduce.bytes / replicated + 7) / 8 * 8);
    }
    return sum;
}

static void check_result(const struct trial *t, const struct mp_exec_result *r, const struct mp_exec_result *forward) {
    struct mp_error err = {0};
    const uint64_t n_plays = (uint64_t)POLICIES * (t->in.n_warmup + t->in.n_iterations);
    struct mp_train_options options = mp_train_defaults();
    struct mp_dispatcher dispatcher = *t->in.dispatcher;
    struct mp_plan plan = *t->in.plan;
    struct mp_cost_setup setup = t->w.setup;
    uint64_t bytes = 0;
    dispatcher.is_overlapped = false;
    plan.fallback_ppm = 0;
    setup.plan = &plan;
    setup.dispatcher = &dispatcher;
    setup.sources = t->in.sources;
    assert_int_equal(r->n_tokens, forward->n_tokens * 2 * n_plays);
    assert_int_equal(r->n_copies, forward->n_copies * 2 * n_plays);
    assert_int_equal(r->n_parts, 0);
    assert_int_equal(r->n_policies, POLICIES);
    for (uint32_t s = 0; s < r->n_steps; s++) {
        struct mp_train_work work;
        CHECK_OK(mp_train_work_make(&work, &setup, s, &options, &err), err);
        bytes += gradient_bytes(t, &work.step) * n_plays;
        for (uint32_t k = 0; k < POLICIES; k++) {
            struct mp_train_policy policy = t->in.policies[k].policy;
            struct mp_train_timeline timeline;
            if (r->training[k].is_cut_down) {
                policy.is_pipelined = false;
                policy.a2a_chunk_bytes = 0;
            }
            CHECK_OK(mp_train_run(&timeline, &work.step, &policy, false, &err), err);
            assert_int_equal(r->training[k].predicted_ns[s], timeline.step_ns);
            for (uint32_t i = 0; i < r->n_iterations; i++) /* nothing is faster than what is waited for */
                assert_true(r->training[k].step_ns[s * r->n_iterations + i] >= timeline.compute_ns);
            mp_train_timeline_free(&timeline);
        }
        mp_train_work_free(&work);
    }
    assert_int_equal(r->n_gradient_bytes, bytes);
}

static void test_exec_train__every_token_and_every_sum_of_random_plans(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_policy policies[POLICIES];
    uint64_t n_tokens = 0, n_bytes = 0;
    uint32_t n_pieces = 0, n_cut_down = 0, n_chunked = 0, n_nodes = 0;
    for (uint64_t seed = 0; seed < 18; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r, *forward;
        struct mp_exec in;
        train_make(&t, policies, seed);
        in = t.in;
        in.n_policies = 0;
        in.n_warmup = 0;
        in.n_iterations = 1;
        CHECK_OK(mp_exec_run(&forward, &in, &err), err);
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        check_result(&t, r, forward);
        n_tokens += r->n_tokens;
        n_bytes += r->n_gradient_bytes;
        n_nodes += t.w.net.levels[0].n_groups > 1;
        for (uint32_t k = 0; k < POLICIES; k++) {
            n_pieces += r->training[k].n_a2a_chunks > 4 * t.in.plan->n_layers;
            n_cut_down += r->training[k].is_cut_down;
            n_chunked += r->training[k].n_sum_chunks > 2 * t.in.plan->n_layers;
        }
        mp_exec_result_free(r);
        mp_exec_result_free(forward);
        world_free(&t.w);
    }
    assert_true(n_tokens > 6000 && n_bytes > 2500000 && n_pieces > 8 && n_cut_down > 1 && n_chunked > 8 &&
                n_nodes > 5);
}

/* The executor's program has what the timeline's has: as many transfers, of the same layers, in the same order. */
static void test_exec_train__the_program_is_the_timelines(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_policy policies[POLICIES];
    uint32_t n_sums = 0;
    for (uint64_t seed = 200; seed < 230; seed++) {
        struct mp_error err = {0};
        struct mp_train_options options = mp_train_defaults();
        struct mp_train_work work;
        struct mp_cost_setup setup;
        train_make(&t, policies, seed);
        setup = t.w.setup;
        setup.dispatcher = t.in.dispatcher;
        setup.sources = t.in.sources;
        CHECK_OK(mp_train_work_make(&work, &setup, 0, &options, &err), err);
        for (uint32_t k = 0; k < POLICIES; k++) {
            struct mp_train_timeline timeline;
            struct ex_program *p;
            uint32_t n_chunks = 0, n_parts = 0, c = 0;
            CHECK_OK(mp_train_run(&timeline, &work.step, &policies[k].policy, true, &err), err);
            CHECK_OK(ex_program_new(&p, &work.step, &policies[k].policy, &err), err);
            for (uint32_t b = 0; b < p->n_buckets; b++)
                n_parts += p->buckets[b].n_chunks;
            for (size_t i = 0; i < timeline.n_events; i++) {
                const struct mp_train_event *e = &timeline.events[i];
                n_chunks += e->what == MP_TRAIN_A2A;
                n_sums += e->what == MP_TRAIN_REDUCE || e->what == MP_TRAIN_EXPERT_REDUCE;
                n_parts -= e->what == MP_TRAIN_REDUCE || e->what == MP_TRAIN_EXPERT_REDUCE;
                if (e->what != MP_TRAIN_A2A)
                    continue;
                while (work.step.layers[p->chunks[c].layer].a2a[p->chunks[c].a2a].ns == 0)
                    c++; /* nothing travels: no event */
                assert_true(p->chunks[c].layer == e->layer && p->chunks[c].a2a == e->a2a &&
                            p->chunks[c].piece == e->chunk);
                c++;
            }
            assert_int_equal(n_parts, 0);
            assert_true(n_chunks <= p->n_chunks);
            ex_program_free(p);
            mp_train_timeline_free(&timeline);
        }
        mp_train_work_free(&work);
        world_free(&t.w);
    }
    assert_true(n_sums > 300);
}

/* ---- the arbiter in a world without delays ---- */

enum { PLAY_RANKS = 3, PLAY_LAYERS = 4 };

struct made { /* a step by hand */
    struct mp_train_step step;
    struct mp_train_layer layers[PLAY_LAYERS];
    uint64_t ns[PLAY_LAYERS][6][PLAY_RANKS];
};

static void make_step(struct made *m, struct mp_rng *r) {
    memset(m, 0, sizeof *m);
    m->step = (struct mp_train_step){.n_ranks = PLAY_RANKS,
                                     .n_layers = PLAY_LAYERS,
                                     .launch_ns = mp_rng_below(r, 300),
                                     .kernel_ns = mp_rng_below(r, 100),
                                     .loss_ns = mp_rng_below(r, 1000),
                                     .update_ns = 777,
                                     .layers = m->layers};
    for (uint32_t l = 0; l < PLAY_LAYERS; l++) {
        struct mp_train_layer *x = &m->layers[l];
        const uint64_t **to[6] = {&x->attention_ns,    &x->expert_ns,      &x->combine_ns,
                                  &x->combine_back_ns, &x->expert_back_ns, &x->attention_back_ns};
        for (int k = 0; k < 6; k++) {
            for (uint32_t i = 0; i < PLAY_RANKS; i++)
                m->ns[l][k][i] = 1 + mp_rng_below(r, k == 2 || k == 3 ? 300 : 9000);
            *to[k] = m->ns[l][k];
        }
        for (int k = 0; k < MP_TRAIN_N_A2A; k++)
            x->a2a[k] = (struct mp_train_transfer){.ns = 1 + mp_rng_below(r, 5000), .bytes = 1 + mp_rng_below(r, 5000)};
        x->reduce = (struct mp_train_transfer){.ns = 1 + mp_rng_below(r, 20000), .bytes = 1 + mp_rng_below(r, 20000)};
        if (mp_rng_below(r, 2))
            x->expert_reduce =
                (struct mp_train_transfer){.ns = 1 + mp_rng_below(r, 9000), .bytes = 1 + mp_rng_below(r, 9000)};
    }
}

struct world_of_one { /* ranks that say what they should the moment they know it */
    const struct ex_program *p;
    struct ex_arbiter *a;
    uint64_t now, clock[PLAY_RANKS], came[4 * PLAY_LAYERS * 40];
    uint32_t next[PLAY_RANKS], n_ended;
};

static void advance_ranks(struct world_of_one *w) {
    for (uint32_t r = 0; r < PLAY_RANKS; r++)
        for (; w->next[r] < w->p->n_computes; w->next[r]++) {
            const struct ex_compute *c = &w->p->computes[w->next[r]];
            uint64_t start = w->clock[r];
            if (c->waits != MP_NONE && c->waits >= w->n_ended)
                break;
            if (c->waits != MP_NONE)
                start = w->came[c->waits] > start ? w->came[c->waits] : start;
            w->clock[r] = start + ex_program_compute_ns(w->p, c, r);
            if (c->n_signals > 0)
                ex_arbiter_hear(
                    w->a,
                    &(struct ex_word){.kind = EX_WORD_READY,
                                      .from = r,
                                      .index = c->signals,
                                      .count = c->n_signals,
                                      .a = (int64_t)(w->clock[r] - w->now),
                                      .b = c->what == MP_TRAIN_WEIGHTING_BACK ? (int64_t)(start - w->now) : INT64_MAX},
                    w->now);
            if (c->bucket != MP_NONE)
                ex_arbiter_hear(
                    w->a,
                    &(struct ex_word){
                        .kind = EX_WORD_GRADIENTS, .from = r, .index = c->bucket, .a = (int64_t)(w->clock[r] - w->now)},
                    w->now);
        }
}

static uint64_t chunk_takes(const struct ex_program *p, uint32_t chunk) {
    const struct ex_chunk *c = &p->chunks[chunk];
    const uint64_t ns = p->step->layers[c->layer].a2a[c->a2a].ns;
    return mp_mul_div(ns, c->piece + (uint64_t)1, c->n_pieces) - mp_mul_div(ns, c->piece, c->n_pieces) +
           p->step->launch_ns;
}

/* When the step is over; late: the arbiter looks that much later than it wanted to. */
static uint64_t play_virtually(const struct ex_program *p, uint64_t late) {
    static struct world_of_one w;
    struct mp_error err = {0};
    struct ex_word go;
    uint64_t next = 0, last_sum = 0, last = 0;
    w = (struct world_of_one){.p = p};
    CHECK_OK(ex_arbiter_new(&w.a, p, PLAY_RANKS, &err), err);
    assert_true(p->n_chunks <= sizeof w.came / sizeof *w.came);
    advance_ranks(&w);
    for (;;) {
        if (ex_arbiter_next(w.a, w.now, &go, &next)) { /* nothing else is on its way: none of these policies shares */
            const bool is_chunk = go.kind == EX_WORD_GO;
            w.now += is_chunk ? chunk_takes(p, go.index) : ex_program_sum_ns(p, go.index, go.count);
            if (is_chunk) {
                w.came[go.index] = w.now;
                w.n_ended = go.index + 1;
            } else {
                last_sum = w.now;
            }
            for (uint32_t r = 0; r < PLAY_RANKS; r++)
                ex_arbiter_hear(
                    w.a,
                    &(struct ex_word){.kind = is_chunk ? EX_WORD_DONE : EX_WORD_SUMMED, .from = r, .index = go.index},
                    w.now);
            advance_ranks(&w);
            continue;
        }
        if (next == UINT64_MAX)
            break;
        w.now = next + late;
    }
    assert_int_equal(ex_arbiter_missing(w.a), MP_NONE);
    assert_int_equal(w.n_ended, p->n_chunks);
    for (uint32_t r = 0; r < PLAY_RANKS; r++)
        last = w.clock[r] > last ? w.clock[r] : last;
    ex_arbiter_free(w.a);
    return (last > last_sum ? last : last_sum) + p->step->update_ns;
}

/* Without delays the executor's rules take a step through exactly as the timeline does. */
static void test_exec_train__the_arbiter_is_the_timelines(void **state) {
    (void)state;
    static struct made m;
    struct mp_rng r = mp_rng_seed(77);
    for (uint32_t i = 0; i < 400; i++) {
        struct mp_error err = {0};
        struct mp_train_policy policy = random_policy(&r);
        struct mp_train_timeline timeline;
        struct ex_program *p;
        make_step(&m, &r);
        policy.is_shared = false;
        policy.a2a_chunk_bytes = policy.a2a_chunk_bytes == 0 ? 0 : 300 + policy.a2a_chunk_bytes;
        CHECK_OK(mp_train_run(&timeline, &m.step, &policy, false, &err), err);
        CHECK_OK(ex_program_new(&p, &m.step, &policy, &err), err);
        assert_int_equal(play_virtually(p, 0), timeline.step_ns);
        ex_program_free(p);
        mp_train_timeline_free(&timeline);
    }
}

/* Gradients that are ready 100 ns before an all-to-all go first under `priority`, although the arbiter wakes 200 ns
 * late: what a step takes does not hang on who is scheduled when. */
static void test_exec_train__a_late_look_changes_no_order(void **state) {
    (void)state;
    static struct made m;
    struct mp_rng r = mp_rng_seed(78);
    uint32_t n = 0;
    for (uint32_t i = 0; i < 100; i++) {
        struct mp_error err = {0};
        const struct mp_train_policy *policy = &mp_train_policy_find(i % 2 ? "priority" : "lina")->policy;
        struct ex_program *p;
        make_step(&m, &r);
        CHECK_OK(ex_program_new(&p, &m.step, policy, &err), err);
        const uint64_t in_time = play_virtually(p, 0), late = play_virtually(p, 3);
        assert_true(late >= in_time && late < in_time + 3 * 2 * (p->n_chunks + 20));
        n += late > in_time;
        ex_program_free(p);
    }
    assert_true(n > 50);
}

static void test_exec_train__faults_of_sums_end_all(void **state) {
    (void)state;
    static struct trial t;
    static const char *const kinds[] = {"sum-corrupt", "sum-lie", "sum-stop", "sum-kill", "sum-slow"};
    struct mp_exec_policy policies[POLICIES];
    uint32_t n = 0;
    for (uint64_t seed = 400; n < 10; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r;
        char fault[64];
        train_make(&t, policies, seed);
        if (t.in.n_ranks < 2) {
            world_free(&t.w);
            continue;
        }
        t.in.deadline_ms = 200;
        snprintf(fault, sizeof fault, "%s@0/0/0/%u", kinds[n % 5], (uint32_t)seed % t.in.n_ranks);
        t.in.fault = fault;
        if (mp_exec_run(&r, &t.in, &err) != MP_EPEER)
            fail_msg("%s: %s", fault, err.message);
        assert_non_null(strstr(err.message, "allreduce"));
        world_free(&t.w);
        n++;
    }
}

static void test_exec_train__asks_for_what_fits(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_policy policies[POLICIES];
    struct mp_exec_result *r;
    struct mp_error err = {0};
    train_make(&t, policies, 5);
    t.in.fault = "sum-kill@0/0/999";
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "no chunk 999 of the gradients of layer 0"));
    err = (struct mp_error){0};
    t.in.n_policies = 0;
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "in training steps only"));
    err = (struct mp_error){0};
    t.in.fault = "sum-swap@0/0/0";
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    err = (struct mp_error){0};
    t.in.fault = NULL;
    t.in.n_policies = POLICIES;
    t.in.with_timeline = true;
    assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "without --timeline"));
    world_free(&t.w);
}

static enum mp_status run_once(void *ctx, struct mp_error *err) {
    const struct trial *t = ctx;
    struct mp_exec_result *r;
    struct mp_out *o = NULL;
    enum mp_status status = mp_exec_run(&r, &t->in, err);
    if (status != MP_OK)
        return status;
    status = mp_out_open_memory(&o, err);
    if (status == MP_OK) {
        mp_exec_write_text(r, &t->in, NULL, o);
        mp_exec_write_json(r, &t->in, o);
        status = mp_out_commit(o, err);
    }
    mp_exec_result_free(r);
    return status;
}
static void test_exec_train__no_memory(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_policy policies[POLICIES];
    train_make(&t, policies, 3);
    t.in.n_warmup = 0;
    t.in.n_iterations = 1;
    t.in.n_policies = 1;
    sweep_faults(run_once, &t, 97);
    world_free(&t.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exec_train__every_token_and_every_sum_of_random_plans),
        cmocka_unit_test(test_exec_train__the_program_is_the_timelines),
        cmocka_unit_test(test_exec_train__the_arbiter_is_the_timelines),
        cmocka_unit_test(test_exec_train__a_late_look_changes_no_order),
        cmocka_unit_test(test_exec_train__faults_of_sums_end_all),
        cmocka_unit_test(test_exec_train__asks_for_what_fits),
        cmocka_unit_test(test_exec_train__no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
