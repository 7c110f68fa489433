#include "world.h"
#include <moeplan/rehome.h>

static struct mp_token_flow *flow_of(const struct world *w, const char *name, enum mp_rehome_balance balance,
                                     const char *balance_of, uint32_t step) {
    struct mp_error err = {0};
    struct mp_token_flow *f;
    const struct mp_rehome_job job = {.strategy = mp_rehome_find(name),
                                      .balance = balance,
                                      .balance_of = mp_rehome_find(balance_of),
                                      .slack_ppm = 50000};
    assert_non_null(job.strategy);
    CHECK_OK(mp_rehome_flow(&f, &job, &w->setup, step, &err), err);
    return f;
}

/* Bytes between and inside nodes of the whole step. */
static uint64_t bytes_of(const struct world *w, const struct mp_token_flow *f, uint32_t step, uint64_t *inside) {
    struct mp_error err = {0};
    struct mp_cost_setup setup = w->setup;
    struct mp_traffic *t;
    uint64_t between = 0;
    setup.flow = f;
    CHECK_OK(mp_traffic_new(&t, w->net.t.n_gpus, &err), err);
    for (uint32_t l = 0; l < w->plan->n_layers; l++) {
        CHECK_OK(mp_traffic_compute(t, &setup, step, l, &err), err);
        between += t->inter_bytes;
        if (inside != NULL)
            *inside += t->intra_bytes;
    }
    mp_traffic_free(t);
    return between;
}

struct on {
    uint64_t tokens;
    uint32_t n, longest;
};
static void put_on(const struct mp_token_flow *f, uint32_t t, struct on *on) {
    memset(on, 0, CASE_GPUS * sizeof *on);
    for (uint32_t q = 0; q < f->n_sequences; q++) {
        struct on *x = &on[f->home[t * f->n_sequences + q]];
        const uint32_t length = f->first_row[q + 1] - f->first_row[q];
        x->n++;
        x->tokens += length;
        x->longest = length > x->longest ? length : x->longest;
    }
}
static uint64_t slowest(const struct world *w, const struct on *on, bool is_padded) {
    uint64_t most = 0;
    for (uint32_t g = 0; g < w->net.t.n_gpus; g++) {
        const uint64_t ns = is_padded ? mp_sequences_attention_ns(&w->net.t, g, &w->model, on[g].n, on[g].longest)
                                      : mp_attention_ns(&w->net.t, g, &w->model, on[g].tokens);
        most = ns > most ? ns : most;
    }
    return most;
}

/* ---- whole steps ---- */

/* What each balance promises is kept by every strategy; none changes nothing; matching at Algorithm 1's balance never
 * sends more between nodes, nor does sweeping add to it. */
static void test_rehome__keeps_its_promises(void **state) {
    (void)state;
    static struct world w;
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "agrs", "deepep-ll", "hierarchical"};
    uint64_t sum[3] = {0};
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        world_make(&w, &r, (struct world_shape){.n_steps = 1, .no_replicas = seed % 3 > 0, .max_nodes = 4});
        w.model.hidden_size = 64 + 64 * (uint32_t)mp_rng_below(&r, 20);
        w.setup.dispatcher = mp_dispatcher_find(dispatchers[seed % 5]);
        const uint32_t n = w.net.t.n_gpus;
        for (int balance = MP_REHOME_TOKENS; balance <= MP_REHOME_SEQUENCES; balance++) {
            const bool is_padded = balance == MP_REHOME_SEQUENCES;
            struct mp_token_flow *stay = flow_of(&w, "none", balance, NULL, 0);
            struct mp_token_flow *luffy = flow_of(&w, "luffy", balance, NULL, 0);
            struct mp_token_flow *same = flow_of(&w, "matching", balance, "luffy", 0);
            struct mp_token_flow *swept = flow_of(&w, "swept", balance, "luffy", 0);
            assert_int_equal(stay->is_padded, is_padded);
            for (uint32_t t = 1; t <= stay->n_layers; t++)
                assert_memory_equal(stay->home, stay->home + t * stay->n_sequences, stay->n_sequences * 4);
            const uint64_t bytes[3] = {bytes_of(&w, luffy, 0, NULL), bytes_of(&w, same, 0, NULL),
                                       bytes_of(&w, swept, 0, NULL)};
            assert_true(bytes[1] <= bytes[0] && bytes[2] <= bytes[1]);
            for (uint32_t i = 0; i < 3; i++)
                sum[i] += bytes[i];
            for (uint32_t t = 0; t <= stay->n_layers; t++) {
                struct on a[CASE_GPUS], b[CASE_GPUS];
                put_on(luffy, t, a);
                put_on(same, t, b);
                assert_true(slowest(&w, b, is_padded) <= slowest(&w, a, is_padded));
                for (uint32_t g = 0; g < n && is_padded; g++)
                    assert_int_equal(a[g].n, b[g].n);
            }
            for (uint32_t i = 0; mp_rehome_at(i) != NULL; i++) {
                struct mp_token_flow *f = flow_of(&w, mp_rehome_at(i)->name, balance, NULL, 0);
                assert_memory_equal(f->home, stay->home, f->n_sequences * sizeof *f->home);
                for (uint32_t t = 0; t <= f->n_layers; t++) {
                    struct on a[CASE_GPUS], b[CASE_GPUS];
                    put_on(stay, t, a);
                    put_on(f, t, b);
                    for (uint32_t g = 0; g < n && is_padded; g++)
                        assert_int_equal(a[g].n, b[g].n);
                    const bool is_luffy = strncmp(mp_rehome_at(i)->name, "luffy", 5) == 0;
                    if (is_padded && !is_luffy)
                        assert_true(slowest(&w, b, true) <= slowest(&w, a, true));
                    if (!is_padded && !is_luffy)
                        for (uint32_t g = 0; g < n; g++) {
                            uint64_t most = 0;
                            for (uint32_t h = 0; h < n; h++)
                                most = a[h].tokens > most ? a[h].tokens : most;
                            assert_true(b[g].tokens <= most + most / 20);
                        }
                }
                mp_flow_free(f);
            }
            mp_flow_free(stay);
            mp_flow_free(luffy);
            mp_flow_free(same);
            mp_flow_free(swept);
        }
        world_free(&w);
    }
    assert_true(sum[1] < sum[0] && sum[2] < sum[1]);
}

/* ---- one layer, all ways ---- */

struct trial {
    struct world *w;
    struct mp_token_flow *f;
    struct on first[CASE_GPUS];
    uint64_t slowest_ns, best_between;
    uint32_t n_ways;
};

/* Homes of sequence q and on, each GPU taking as many as it had. */
static void try_homes(struct trial *x, uint32_t q, uint32_t *left) {
    struct mp_token_flow *f = x->f;
    if (q == f->n_sequences) {
        struct on on[CASE_GPUS];
        put_on(f, 1, on);
        if (slowest(x->w, on, true) > x->slowest_ns)
            return;
        const uint64_t between = bytes_of(x->w, f, 0, NULL);
        x->best_between = between < x->best_between ? between : x->best_between;
        x->n_ways++;
        return;
    }
    for (uint32_t g = 0; g < x->w->net.t.n_gpus; g++)
        if (left[g] > 0) {
            left[g]--;
            f->home[f->n_sequences + q] = g;
            try_homes(x, q + 1, left);
            left[g]++;
        }
}

/* With one layer the matching's bytes between nodes, as traffic counts them, are the least there are. */
static void test_rehome__matching_is_best_of_all_homes(void **state) {
    (void)state;
    static struct world w;
    static const char *const dispatchers[] = {"a2av", "hierarchical"};
    uint32_t n_tried = 0;
    for (uint64_t seed = 0; n_tried < 30 && seed < 3000; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 11);
        struct mp_error err = {0};
        world_make(
            &w, &r,
            (struct world_shape){.n_layers = 1, .n_steps = 1, .no_replicas = true, .max_nodes = 3, .max_per_node = 2});
        w.model.hidden_size = 256;
        w.setup.dispatcher = mp_dispatcher_find(dispatchers[seed % 2]);
        struct trial x = {.w = &w, .best_between = UINT64_MAX};
        CHECK_OK(mp_flow_new(&x.f, w.workload, 0, &err), err);
        if (x.f->n_sequences > 1 && x.f->n_sequences < 8 && w.net.levels[0].n_groups > 1) {
            uint32_t left[CASE_GPUS];
            put_on(x.f, 0, x.first);
            x.slowest_ns = slowest(&w, x.first, true);
            for (uint32_t g = 0; g < w.net.t.n_gpus; g++)
                left[g] = x.first[g].n;
            try_homes(&x, 0, left);
            struct mp_token_flow *f = flow_of(&w, "matching", MP_REHOME_SEQUENCES, NULL, 0);
            assert_true(x.n_ways > 0);
            assert_int_equal(bytes_of(&w, f, 0, NULL), x.best_between);
            mp_flow_free(f);
            n_tried++;
        }
        mp_flow_free(x.f);
        world_free(&w);
    }
    assert_int_equal(n_tried, 30);
}

/* The floor is what the best homes reach when every GPU may take all, each sequence tried alone through all layers, and
 * no strategy goes below it. */
static void test_rehome__floor_is_reached_without_limits(void **state) {
    (void)state;
    static struct world w;
    static const char *const dispatchers[] = {"a2av", "hierarchical"};
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 70);
        struct mp_error err = {0};
        world_make(
            &w, &r,
            (struct world_shape){.n_layers = 2, .n_steps = 1, .no_replicas = true, .max_nodes = 3, .max_per_node = 2});
        w.model.hidden_size = 256;
        w.setup.dispatcher = mp_dispatcher_find(dispatchers[seed % 2]);
        const uint32_t n = w.net.t.n_gpus;
        uint64_t floor_bytes;
        struct mp_token_flow *f;
        CHECK_OK(mp_rehome_floor(&floor_bytes, &w.setup, 0, &err), err);
        CHECK_OK(mp_flow_new(&f, w.workload, 0, &err), err);
        uint32_t *own = f->home, n_all = f->n_sequences;
        for (uint32_t q = 0; q < n_all; q++) { /* others stay meanwhile: sequences do not touch each other's bytes */
            uint64_t best = UINT64_MAX;
            uint32_t best_homes[2] = {0, 0};
            for (uint32_t c = 0; c < n * n; c++) {
                own[n_all + q] = c / n;
                own[2 * n_all + q] = c % n;
                const uint64_t bytes = bytes_of(&w, f, 0, NULL);
                if (bytes < best) {
                    best = bytes;
                    best_homes[0] = c / n;
                    best_homes[1] = c % n;
                }
            }
            own[n_all + q] = best_homes[0];
            own[2 * n_all + q] = best_homes[1];
        }
        assert_int_equal(bytes_of(&w, f, 0, NULL), floor_bytes);
        mp_flow_free(f);
        for (uint32_t i = 0; mp_rehome_at(i) != NULL; i++) {
            f = flow_of(&w, mp_rehome_at(i)->name, MP_REHOME_TOKENS, NULL, 0);
            assert_true(bytes_of(&w, f, 0, NULL) >= floor_bytes);
            mp_flow_free(f);
        }
        w.setup.dispatcher = mp_dispatcher_find("agrs");
        CHECK_OK(mp_rehome_floor(&floor_bytes, &w.setup, 0, &err), err);
        assert_int_equal(floor_bytes, 0);
        world_free(&w);
    }
}

/* ---- one problem ---- */

struct problem {
    struct mp_rehome_problem in;
    struct net_case net;
    struct mp_model model;
    uint32_t node[CASE_GPUS], length[64], home[64], outputs[64 * CASE_GPUS], most[CASE_GPUS], longest[CASE_GPUS];
    uint64_t node_bytes[64 * CASE_GPUS], gpu_bytes[64 * CASE_GPUS], most_tokens[CASE_GPUS];
};

static void make_problem(struct problem *p, struct mp_rng *r, uint32_t n, uint32_t n_nodes, uint32_t per_node) {
    case_plain(&p->net, n_nodes, per_node, UINT64_C(100000000000), UINT64_C(10000000000));
    const uint32_t m = p->net.t.n_gpus;
    p->model = (struct mp_model){.name = "x", .hidden_size = 1024};
    memset(p->most, 0, sizeof p->most);
    memset(p->most_tokens, 0, sizeof p->most_tokens);
    memset(p->node_bytes, 0, sizeof p->node_bytes);
    for (uint32_t g = 0; g < m; g++) {
        p->node[g] = g / per_node;
        p->longest[g] = 100;
    }
    for (uint32_t i = 0; i < n; i++) {
        p->length[i] = 1 + (uint32_t)mp_rng_below(r, 100);
        p->home[i] = (uint32_t)mp_rng_below(r, m);
        p->most[p->home[i]]++;
        p->most_tokens[p->home[i]] += p->length[i];
        for (uint32_t g = 0; g < m; g++) {
            p->outputs[i * m + g] = (uint32_t)mp_rng_below(r, 20);
            p->gpu_bytes[i * m + g] = 1000 * p->outputs[i * m + g];
            p->node_bytes[i * n_nodes + p->node[g]] += p->gpu_bytes[i * m + g];
        }
    }
    p->in = (struct mp_rehome_problem){.n = n,
                                       .n_gpus = m,
                                       .n_nodes = n_nodes,
                                       .gpu_node = p->node,
                                       .length = p->length,
                                       .home = p->home,
                                       .outputs = p->outputs,
                                       .node_bytes = p->node_bytes,
                                       .gpu_bytes = p->gpu_bytes,
                                       .most = p->most,
                                       .longest = p->longest,
                                       .start = p->home,
                                       .topology = &p->net.t,
                                       .model = &p->model,
                                       .n_candidates = 2};
}

static uint64_t saved(const struct problem *p, const uint32_t *home) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->in.n; i++)
        sum += p->node_bytes[i * p->in.n_nodes + p->node[home[i]]];
    return sum;
}

static void solve(const struct problem *p, const char *name, uint32_t *home, uint64_t *bound) {
    struct mp_error err = {0};
    struct mp_arena *scratch = mp_arena_new();
    CHECK_OK(mp_rehome_find(name)->solve(home, bound, &p->in, scratch, &err), err);
    mp_arena_free(scratch);
}

static void best_by_tokens(const struct problem *p, uint32_t i, uint32_t *home, uint64_t *load, uint64_t *best) {
    if (i == p->in.n) {
        const uint64_t sum = saved(p, home);
        *best = sum > *best ? sum : *best;
        return;
    }
    for (uint32_t g = 0; g < p->in.n_gpus; g++)
        if (load[g] + p->length[i] <= p->most_tokens[g]) {
            load[g] += p->length[i];
            home[i] = g;
            best_by_tokens(p, i + 1, home, load, best);
            load[g] -= p->length[i];
        }
}

/* Within tokens the matching keeps its limits, is between the homes it began with and its bound, and nearly always the
 * best of all homes. */
static void test_rehome__tokens_against_all_homes(void **state) {
    (void)state;
    static struct problem p;
    uint32_t n_best = 0;
    for (uint64_t seed = 0; seed < 80; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 5);
        uint32_t home[64], other[64];
        uint64_t load[CASE_GPUS] = {0}, bound, best = 0, tokens[CASE_GPUS] = {0};
        make_problem(&p, &r, 4 + (uint32_t)mp_rng_below(&r, 5), 2, 1 + (uint32_t)mp_rng_below(&r, 2));
        for (uint32_t g = 0; g < p.in.n_gpus; g++)
            p.most_tokens[g] += mp_rng_below(&r, 60);
        p.in.most_tokens = p.most_tokens;
        solve(&p, "matching", home, &bound);
        best_by_tokens(&p, 0, other, load, &best);
        for (uint32_t i = 0; i < p.in.n; i++)
            tokens[home[i]] += p.length[i];
        for (uint32_t g = 0; g < p.in.n_gpus; g++)
            assert_true(tokens[g] <= p.most_tokens[g]);
        assert_true(saved(&p, home) >= saved(&p, p.home));
        assert_true(saved(&p, home) <= best);
        assert_true(best <= bound);
        n_best += saved(&p, home) == best;
    }
    assert_true(n_best >= 70);
}

/* The first stage's bound is met, and unlike lengths and limits change nothing about that. */
static void test_rehome__two_stages_meet_their_bound(void **state) {
    (void)state;
    static struct problem p;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 500);
        uint32_t home[64], n_on[CASE_GPUS] = {0};
        uint64_t bound;
        make_problem(&p, &r, 1 + (uint32_t)mp_rng_below(&r, 60), 1 + (uint32_t)mp_rng_below(&r, 4),
                     1 + (uint32_t)mp_rng_below(&r, 4));
        for (uint32_t g = 0; g < p.in.n_gpus && seed % 2 == 0; g++) { /* as long as what is there, and a bit */
            p.longest[g] = (uint32_t)mp_rng_below(&r, 20);
            for (uint32_t i = 0; i < p.in.n; i++)
                if (p.home[i] == g && p.length[i] > p.longest[g])
                    p.longest[g] = p.length[i];
        }
        solve(&p, "matching", home, &bound);
        assert_int_equal(saved(&p, home), bound);
        for (uint32_t i = 0; i < p.in.n; i++) {
            n_on[home[i]]++;
            assert_true(p.length[i] <= p.longest[home[i]]);
        }
        for (uint32_t g = 0; g < p.in.n_gpus; g++)
            assert_int_equal(n_on[g], p.most[g]);
    }
}

/* Two GPUs, q = 2: the longest goes where its outputs are, the short ones where padding costs least, not traffic. */
static void test_rehome__algorithm_1_by_hand(void **state) {
    (void)state;
    static struct problem p;
    struct mp_rng r = mp_rng_seed(1);
    uint32_t home[64];
    uint64_t bound;
    make_problem(&p, &r, 4, 2, 1);
    static const uint32_t length[] = {1000, 900, 10, 10}, outputs[] = {9, 1, 8, 2, 6, 4, 6, 4}, most[] = {2, 2};
    memcpy(p.length, length, sizeof length);
    memcpy(p.outputs, outputs, sizeof outputs);
    memcpy(p.most, most, sizeof most);
    for (uint32_t i = 0; i < 4; i++)
        p.home[i] = 1;
    p.in.n_candidates = 1; /* traffic alone, until it is full */
    solve(&p, "luffy", home, &bound);
    assert_memory_equal(home, ((uint32_t[]){0, 0, 1, 1}), 16);
    assert_int_equal(bound, UINT64_MAX);
    p.in.n_candidates = 2;
    /* 1000 tokens: equal growth, so traffic: GPU 0. 900: beside it one more padded to 1000, or alone on GPU 1: that.
     * The short ones: beside 1000 one more of 1000, beside 900 one more of 900: GPU 1 until it is full. */
    solve(&p, "luffy", home, &bound);
    assert_memory_equal(home, ((uint32_t[]){0, 1, 1, 0}), 16);
    /* As printed: most growth, so all of them beside the longest as long as there is room. */
    solve(&p, "luffy-printed", home, &bound);
    assert_memory_equal(home, ((uint32_t[]){0, 0, 1, 1}), 16);
}

static void test_rehome__simulates_for_any_number_of_threads(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(8);
    struct mp_error err = {0};
    struct mp_sim_result *a, *b;
    world_make(&w, &r, (struct world_shape){.n_steps = 6});
    w.model.hidden_size = 512;
    const struct mp_rehome_job job = {.strategy = mp_rehome_find("matching"), .balance = MP_REHOME_SEQUENCES};
    const struct mp_flow_maker maker = mp_rehome_maker(&job);
    struct mp_sim_options o = {
        .dispatcher = mp_dispatcher_find("a2av"), .stage_mode = -1, .n_threads = 1, .flow = &maker};
    CHECK_OK(mp_simulate(&a, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
    o.n_threads = 4;
    CHECK_OK(mp_simulate(&b, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
    assert_memory_equal(a->steps, b->steps, a->n_steps * sizeof *a->steps);
    mp_sim_result_free(a);
    mp_sim_result_free(b);
    world_free(&w);
}

static void test_rehome__has_unlike_names(void **state) {
    (void)state;
    assert_null(mp_rehome_find("nothing"));
    assert_null(mp_rehome_find(NULL));
    for (uint32_t i = 0; mp_rehome_at(i) != NULL; i++)
        assert_ptr_equal(mp_rehome_find(mp_rehome_at(i)->name), mp_rehome_at(i));
}

static enum mp_status whole(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    uint64_t bytes;
    enum mp_status floor_status = mp_rehome_floor(&bytes, &w->setup, 0, err);
    if (floor_status != MP_OK)
        return floor_status;
    for (int balance = MP_REHOME_TOKENS; balance <= MP_REHOME_SEQUENCES; balance++) {
        struct mp_token_flow *f;
        const struct mp_rehome_job job = {.strategy = mp_rehome_find("swept"),
                                          .balance = (enum mp_rehome_balance)balance,
                                          .balance_of = mp_rehome_find("luffy")};
        enum mp_status status = mp_rehome_flow(&f, &job, &w->setup, 0, err);
        if (status != MP_OK)
            return status;
        mp_flow_free(f);
    }
    return MP_OK;
}
static void test_rehome__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(4);
    world_make(
        &w, &r,
        (struct world_shape){.n_layers = 2, .n_steps = 1, .max_nodes = 2, .max_per_node = 2, .no_replicas = true});
    w.model.hidden_size = 512;
    sweep_faults(whole, &w, 3);
    world_free(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rehome__keeps_its_promises),
        cmocka_unit_test(test_rehome__matching_is_best_of_all_homes),
        cmocka_unit_test(test_rehome__floor_is_reached_without_limits),
        cmocka_unit_test(test_rehome__tokens_against_all_homes),
        cmocka_unit_test(test_rehome__two_stages_meet_their_bound),
        cmocka_unit_test(test_rehome__algorithm_1_by_hand),
        cmocka_unit_test(test_rehome__simulates_for_any_number_of_threads),
        cmocka_unit_test(test_rehome__has_unlike_names),
        cmocka_unit_test(test_rehome__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
