/* Two models on one cluster: both evaluators, Aurora's claims, and every strategy against all assignments. */
#include "support.h"

#include "coloc.h"
#include "coloc_levels.h"
#include "coloc_merge.h"
#include "coloc_states.h"
#include "tiny.h"

#define MAX_N 16u

/* A switch with a port in and out for each GPU, rates from a list, and tokens of two models. */
struct instance {
    struct mp_topology t;
    struct mp_gpu gpus[MAX_N];
    struct mp_resource resources[2 * MAX_N];
    struct mp_level level;
    struct mp_gpu_type type;
    uint64_t tokens[2][MAX_N * MAX_N];
    struct mp_coloc_problem p;
};
enum { EQUAL = 0, UNEQUAL = 1, COUPLED = 2, SYMMETRIC = 4 };

static void make(struct instance *x, uint32_t n, uint32_t experts_a, uint32_t experts_b, int kind, uint64_t seed) {
    static const uint64_t rates[] = {100, 80, 50, 40};
    struct mp_rng r = mp_rng_seed(seed);
    memset(x, 0, sizeof *x);
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t rate = kind & UNEQUAL ? rates[g * 4 / n] : 100;
        x->gpus[g] = (struct mp_gpu){.speed_ppm = (uint32_t)rate * 10000};
        x->gpus[g].out_port[0] = 2 * g;
        x->gpus[g].in_port[0] = 2 * g + 1;
        for (uint32_t k = 0; k < 2; k++)
            x->resources[2 * g + k] =
                (struct mp_resource){.bytes_per_s = rate * 10000000, .is_in = k == 1, .first_gpu = g};
    }
    x->level = (struct mp_level){.name = "switch", .n_groups = 1, .latency_ns = seed % 3 * 100};
    x->type = (struct mp_gpu_type){.name = "gpu", .tile_tokens = 1};
    x->t = (struct mp_topology){.name = "switch",
                                .n_gpus = n,
                                .n_types = 1,
                                .n_levels = 1,
                                .n_resources = 2 * n,
                                .gpus = x->gpus,
                                .types = &x->type,
                                .levels = &x->level,
                                .resources = x->resources};
    x->p = (struct mp_coloc_problem){.topology = &x->t, .seed = seed, .n_layers = 4};
    for (uint32_t m = 0; m < 2; m++) {
        const uint32_t experts = m == 0 ? experts_a : experts_b, sources = kind & COUPLED ? experts : n;
        for (uint32_t s = 0; s < sources; s++)
            for (uint32_t e = 0; e < experts; e++)
                x->tokens[m][s * experts + e] = mp_rng_below(&r, 3) == 0 ? mp_rng_below(&r, 900) : mp_rng_below(&r, 90);
        for (uint32_t s = 0; s < sources && kind & SYMMETRIC; s++)
            for (uint32_t e = 0; e < s; e++)
                x->tokens[m][s * experts + e] = x->tokens[m][e * experts + s];
        x->p.model[m] = (struct mp_coloc_model){.n_experts = experts,
                                                .is_coupled = (kind & COUPLED) != 0,
                                                .tokens = x->tokens[m],
                                                .n_steps = 1 + (uint32_t)(seed % 2),
                                                .dispatch_bytes = 100,
                                                .combine_bytes = seed % 5 == 0 ? 150 : 100,
                                                .gate_ps = 10000,
                                                .experts_ps = 30000 + 10000 * m,
                                                .aggregate_ps = 5000};
    }
}

static uint64_t value_of(const struct mp_coloc_problem *p, const struct mp_coloc_plan *plan) {
    struct mp_coloc_times times;
    struct mp_error err = {0};
    CHECK_OK(mp_coloc_evaluate(&times, p, plan, NULL, &err), err);
    return p->objective == MP_COLOC_CLOSED ? times.closed_ns : times.timeline_ns;
}

static struct mp_coloc_plan *solve(const struct mp_coloc_problem *p, const char *name) {
    struct mp_coloc_plan *plan;
    struct mp_error err = {0};
    enum mp_outcome outcome;
    CHECK_OK(mp_coloc_solve(&plan, mp_coloc_strategy_find(name), p, &outcome, &err), err);
    assert_true(outcome == MP_FOUND || outcome == MP_STOPPED);
    return plan;
}

static void swap(uint32_t *a, uint32_t i, uint32_t j) {
    const uint32_t was = a[i];
    a[i] = a[j];
    a[j] = was;
}

static bool next_permutation(uint32_t *a, uint32_t n) {
    uint32_t i = n - 1, j = n - 1;
    while (i > 0 && a[i - 1] >= a[i])
        i--;
    if (i == 0)
        return false;
    while (a[j] <= a[i - 1])
        j--;
    swap(a, i - 1, j);
    for (j = n - 1; i < j; i++, j--)
        swap(a, i, j);
    return true;
}

/* The least value over all ways to give every GPU one expert of each model. */
static uint64_t best_of_all(const struct mp_coloc_problem *p) {
    const uint32_t n = p->topology->n_gpus;
    uint32_t gpu[2][MAX_N];
    struct mp_coloc_plan plan = {.gpu = {gpu[0], gpu[1]}};
    uint64_t best = UINT64_MAX;
    for (uint32_t g = 0; g < n; g++)
        gpu[0][g] = g;
    do {
        for (uint32_t g = 0; g < n; g++)
            gpu[1][g] = g;
        do {
            const uint64_t value = value_of(p, &plan);
            best = value < best ? value : best;
        } while (next_permutation(gpu[1], n));
    } while (next_permutation(gpu[0], n));
    return best;
}

static void test_coloc__exact_is_the_best_of_all_assignments(void **state) {
    uint32_t n_worse = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct instance x;
        const uint32_t n = 2 + (uint32_t)(seed % 3);
        make(&x, n, n, n, (int)(seed / 3) % 8, seed);
        for (int objective = 0; objective < 2; objective++) {
            x.p.objective = (enum mp_coloc_objective)objective;
            struct mp_coloc_plan *exact = solve(&x.p, "exact"), *search = solve(&x.p, "search");
            const uint64_t best = best_of_all(&x.p);
            assert_true(exact->is_optimal);
            assert_true(exact->bound_ns == best);
            assert_true(value_of(&x.p, exact) == best);
            assert_true(value_of(&x.p, search) == best); /* so small that many starts find it */
            struct mp_coloc_plan *decoupled = solve(&x.p, "decoupled");
            n_worse += value_of(&x.p, decoupled) > best;
            mp_coloc_plan_free(exact);
            mp_coloc_plan_free(search);
            mp_coloc_plan_free(decoupled);
        }
    }
    assert_true(n_worse > 0); /* the instances tell strategies apart */
}

static void test_coloc__exact_proves_what_it_stopped_at(void **state) {
    uint32_t n_stopped = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct instance x;
        struct mp_coloc_plan *all, *some;
        make(&x, 5, 5, 5, UNEQUAL | COUPLED, seed);
        x.p.objective = seed % 2 ? MP_COLOC_CLOSED : MP_COLOC_TIMELINE;
        all = solve(&x.p, "exact");
        assert_true(all->is_optimal);
        x.p.work_limit = 3;
        some = solve(&x.p, "exact");
        n_stopped += !some->is_optimal;
        assert_true(some->bound_ns <= all->bound_ns && value_of(&x.p, some) >= all->bound_ns);
        mp_coloc_plan_free(all);
        mp_coloc_plan_free(some);
    }
    assert_true(n_stopped > 0);
}

/* Above 10 GPUs bounds are others. Seven GPUs so slow that nobody wants them, and seven experts of each model that do
 * nothing, leave the optimum what it is without them. */
static void test_coloc__exact_is_the_best_of_all_assignments_on_many_gpus(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct instance few, many;
        make(&few, 4, 4, 4, (int)seed / 2 % 4, seed);
        make(&many, 11, 11, 11, (int)seed / 2 % 4, seed);
        few.p.objective = many.p.objective = seed % 2 ? MP_COLOC_CLOSED : MP_COLOC_TIMELINE;
        for (uint32_t g = 0; g < 11; g++) {
            many.gpus[g].speed_ppm = g < 4 ? few.gpus[g].speed_ppm : 10;
            for (uint32_t k = 0; k < 2; k++)
                many.resources[2 * g + k].bytes_per_s = g < 4 ? few.resources[2 * g + k].bytes_per_s : 1000000;
        }
        for (uint32_t m = 0; m < 2; m++) {
            memset(many.tokens[m], 0, sizeof many.tokens[m]);
            for (uint32_t s = 0; s < 4; s++)
                for (uint32_t e = 0; e < 4; e++)
                    many.tokens[m][s * 11 + e] = few.tokens[m][s * 4 + e];
        }
        many.p.work_limit = 200000;
        struct mp_coloc_plan *exact = solve(&many.p, "exact");
        const uint64_t best = best_of_all(&few.p);
        assert_true(value_of(&many.p, exact) == best && exact->bound_ns <= best);
        assert_true(seed % 2 == 0 || exact->is_optimal); /* the timeline's bound leaves a gap at some leaves */
        mp_coloc_plan_free(exact);
    }
}

/* What the largest pair of groups sends or receives, over all pairings or of one. */
static uint64_t pair_load(const struct mp_coloc_groups *g, const uint32_t *pair) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < g->n; i++)
        for (int side = 0; side < 2; side++) {
            uint64_t sum = mp_coloc_traffic(g, 0, i, side == 1) + mp_coloc_traffic(g, 1, pair[i], side == 1);
            most = sum > most ? sum : most;
        }
    return most;
}

static void test_coloc__case_two_is_the_best_pairing_and_case_one_where_sent_is_received(void **state) {
    uint32_t n_worse = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct instance x;
        struct mp_coloc_groups *g;
        struct mp_error err = {0};
        const bool symmetric = seed % 2 == 0;
        uint32_t pair[5], sorted[5], all[5] = {0, 1, 2, 3, 4};
        uint64_t best = UINT64_MAX;
        make(&x, 5, 5, 5, COUPLED | (symmetric ? SYMMETRIC : 0), seed);
        x.p.model[0].combine_bytes = x.p.model[1].combine_bytes = 100;
        CHECK_OK(mp_coloc_groups_new(&g, &x.p, &err), err);
        CHECK_OK(mp_coloc_pair_bottleneck(g, pair, &err), err);
        CHECK_OK(mp_coloc_pair_sorted(g, sorted, &err), err);
        do {
            const uint64_t load = pair_load(g, all);
            best = load < best ? load : best;
        } while (next_permutation(all, 5));
        assert_true(pair_load(g, pair) == best);
        if (symmetric)
            assert_true(pair_load(g, sorted) == best);
        n_worse += pair_load(g, sorted) > best;
        mp_coloc_groups_free(g);
    }
    assert_true(n_worse > 0); /* case I does need its condition */
}

static void test_coloc__search_is_not_above_what_it_starts_from(void **state) {
    static const char *const names[] = {"sorted", "bottleneck", "decoupled"};
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct instance x;
        make(&x, 8, 8, 8, (int)seed % 8, seed);
        x.p.objective = seed / 2 % 2 ? MP_COLOC_CLOSED : MP_COLOC_TIMELINE;
        x.p.work_limit = seed % 3 == 0 ? 1 : 3000;
        struct mp_coloc_plan *search = solve(&x.p, "search");
        for (uint32_t k = 0; k < 3; k++) {
            struct mp_coloc_plan *other = solve(&x.p, names[k]);
            assert_true(value_of(&x.p, search) <= value_of(&x.p, other));
            mp_coloc_plan_free(other);
        }
        mp_coloc_plan_free(search);
    }
}

static void test_coloc__timeline_runs_one_thing_at_a_time_everywhere(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct instance x;
        struct mp_coloc_log log = {0};
        struct mp_coloc_times times;
        struct mp_error err = {0};
        make(&x, 4, 6, 4, (int)seed % 4, seed);
        struct mp_coloc_plan *plan = solve(&x.p, "random");
        CHECK_OK(mp_coloc_evaluate(&times, &x.p, plan, &log, &err), err);
        uint64_t last = 0, busy = 0, work[2 * MAX_N] = {0}, phase_end[2][4 * 5] = {{0}}, phase_start[2][4 * 5];
        memset(phase_start, 0xff, sizeof phase_start);
        for (size_t i = 0; i < log.n; i++) {
            const struct mp_coloc_event *a = &log.events[i];
            const bool moves = a->phase == 1 || a->phase == 3;
            const uint32_t step = a->phase == 0 ? 0 : 4 * a->layer + a->phase;
            assert_true(a->start_ns < a->end_ns);
            last = a->end_ns > last ? a->end_ns : last;
            if (moves)
                work[a->resource] += a->end_ns - a->start_ns;
            else
                busy += a->end_ns - a->start_ns;
            if (a->start_ns < phase_start[a->model][step])
                phase_start[a->model][step] = a->start_ns;
            if (a->end_ns > phase_end[a->model][step])
                phase_end[a->model][step] = a->end_ns;
            for (size_t k = 0; k < i; k++) {
                const struct mp_coloc_event *b = &log.events[k];
                if ((b->phase == 1 || b->phase == 3) == moves && a->resource == b->resource)
                    assert_true(a->end_ns <= b->start_ns || b->end_ns <= a->start_ns);
            }
        }
        for (int m = 0; m < 2; m++)
            for (uint32_t step = 1; step <= 16; step++) /* a phase waits for the one before, everywhere */
                assert_true(phase_start[m][step] >=
                            phase_end[m][step - 1] + (step % 4 == 2 || step % 4 == 0 ? x.level.latency_ns : 0));
        uint64_t most = 0;
        for (uint32_t p = 0; p < 8; p++)
            most = work[p] > most ? work[p] : most;
        assert_true(most == 4 * times.port_ns);
        assert_true(busy == 4 * times.busy_ns);
        assert_true(times.timeline_ns == mp_ceil_div(last, 4));
        assert_true(times.timeline_ns >= times.port_ns && times.timeline_ns >= times.compute_ns);
        assert_true(times.timeline_ns >= times.alone_ns[0] && times.timeline_ns >= times.alone_ns[1]);
        assert_true(times.timeline_ns <= times.alone_ns[0] + times.alone_ns[1] + 1);
        mp_coloc_log_free(&log);
        mp_coloc_plan_free(plan);
    }
}

static void test_coloc__closed_form_of_one_example_and_its_terms(void **state) {
    /* G 1 and 2, N 10 and 8, N together 13, F 5 and 6, C 9 and 7, C together 14, A 3 and 4, by hand:
     * E_Fa 15, E_Nb 13, E_Fb 21, E_Ca 24, E_Aa 27, E_Cb max(27, 28, 24) = 28, E_Ab 32, t 33. */
    const struct mp_coloc_peaks k = {.gate = {1, 2},
                                     .experts = {5, 6},
                                     .aggregate = {3, 4},
                                     .dispatch = {10, 8},
                                     .combine = {9, 7},
                                     .both_dispatch = 13,
                                     .both_combine = 14};
    struct mp_rng r = mp_rng_seed(4);
    (void)state;
    assert_true(mp_coloc_closed(&k, 0) == 33);
    for (uint32_t round = 0; round < 500; round++) {
        struct mp_coloc_peaks x;
        uint64_t raw[10];
        for (uint32_t i = 0; i < 10; i++)
            raw[i] = mp_rng_below(&r, 100);
        x = (struct mp_coloc_peaks){.gate = {raw[0], raw[1]},
                                    .experts = {raw[2], raw[3]},
                                    .aggregate = {raw[4], raw[5]},
                                    .dispatch = {raw[6], raw[7]},
                                    .combine = {raw[8], raw[9]},
                                    .both_dispatch = raw[6] + raw[7],
                                    .both_combine = raw[8] + raw[9]};
        const uint64_t t = mp_coloc_closed(&x, 0);
        assert_true(t >= raw[6] + raw[7] + raw[8] + raw[9] + raw[5] + raw[0]); /* the wire */
        assert_true(t >= raw[2] + raw[3] + raw[4] + raw[5] + raw[0] + raw[1]); /* the GPU: b's gate, F, F, A, A, G */
        assert_true(t >= raw[6] + raw[2] + raw[8] + raw[4] + raw[0]);          /* a by itself */
        assert_true(t >= raw[1] + raw[7] + raw[3] + raw[9] + raw[5]);          /* b by itself */
        uint64_t *const fields[] = {&x.gate[0],       &x.gate[1],      &x.experts[0],  &x.experts[1],
                                    &x.aggregate[0],  &x.aggregate[1], &x.dispatch[0], &x.dispatch[1],
                                    &x.both_dispatch, &x.both_combine, &x.combine[0],  &x.combine[1]};
        *fields[round % 12] += 7; /* never falls: what branch and bound rests on */
        assert_true(mp_coloc_closed(&x, 0) >= t);
    }
}

static void test_coloc__bounds_hold_for_every_assignment(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct instance x;
        struct mp_coloc_groups *g;
        struct mp_coloc_peaks k;
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(seed);
        uint32_t a[6] = {0, 1, 2, 3, 4, 5}, b[6] = {0, 1, 2, 3, 4, 5}, *const on[2] = {a, b};
        uint64_t value;
        make(&x, 6, 6, 6, (int)seed % 8, seed);
        mp_rng_shuffle(&r, a, 6);
        mp_rng_shuffle(&r, b, 6);
        CHECK_OK(mp_coloc_groups_new(&g, &x.p, &err), err);
        CHECK_OK(mp_coloc_value(g, on, UINT64_MAX, &value, &k, &err), err);
        assert_true(mp_coloc_timeline_bound(&k, &g->shape) <= value);
        mp_coloc_groups_free(g);
    }
}

static void of_one(const struct mp_coloc_peaks *k, uint64_t *out) {
    const uint64_t all[16] = {k->gate[0],       k->gate[1],      k->experts[0], k->experts[1],
                              k->aggregate[0],  k->aggregate[1], k->between[0], k->between[1],
                              k->dispatch[0],   k->dispatch[1],  k->combine[0], k->combine[1],
                              k->both_dispatch, k->both_combine, k->port,       k->compute};
    memcpy(out, all, sizeof all);
}

/* For sets of placed groups: each peak of the rest, by all ways to place it. */
static void test_coloc__states_know_the_least_of_every_peak(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct instance x;
        struct mp_coloc_groups *g;
        struct mp_coloc_states *states;
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(seed);
        uint32_t order[5] = {0, 1, 2, 3, 4}, a[5], b[5], placed[2][5] = {{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}};
        const uint32_t n = 5, depth = (uint32_t)seed % 5;
        make(&x, n, n, n, (int)(seed / 5) % 8, seed);
        mp_rng_shuffle(&r, order, n);
        for (int m = 0; m < 2; m++)
            mp_rng_shuffle(&r, placed[m], n);
        CHECK_OK(mp_coloc_groups_new(&g, &x.p, &err), err);
        CHECK_OK(mp_coloc_states_new(&states, g, order, g->arena, &err), err);
        uint64_t least[16], got[16];
        uint32_t mask[2] = {0, 0};
        memset(least, 0xff, sizeof least);
        for (uint32_t d = 0; d < depth; d++)
            for (int m = 0; m < 2; m++)
                mask[m] |= 1u << placed[m][d];
        for (uint32_t i = 0; i < n; i++)
            a[i] = i;
        do { /* a[k], b[k]: places among what is not placed */
            for (uint32_t i = 0; i < n; i++)
                b[i] = i;
            do {
                struct mp_coloc_peaks k = {.port = 0};
                bool is_other = false;
                for (uint32_t d = 0; d < depth; d++)
                    is_other |= a[d] != d || b[d] != d;
                for (uint32_t d = depth; d < n && !is_other; d++)
                    mp_coloc_peaks_add(&k, g, placed[0][a[d]], placed[1][b[d]], order[d]);
                uint64_t all[16];
                of_one(&k, all);
                for (int i = 0; i < 16 && !is_other; i++)
                    least[i] = all[i] < least[i] ? all[i] : least[i];
            } while (next_permutation(b, n));
        } while (next_permutation(a, n));
        struct mp_coloc_peaks k = {.port = 0};
        mp_coloc_states_raise(states, mask, &k);
        of_one(&k, got);
        assert_memory_equal(got, least, sizeof least);
        mp_coloc_groups_free(g);
    }
}

/* Some GPUs have their groups: no way to place the rest is faster than the bound, which is above that of the peaks. */
static void test_coloc__merged_bounds_hold_for_every_rest(void **state) {
    uint32_t n_above = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct instance x;
        struct mp_coloc_groups *g;
        struct mp_coloc_states *states;
        struct mp_coloc_merge *merge;
        struct mp_coloc_plan *plan;
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(seed);
        const uint32_t n = 5, depth = 1 + (uint32_t)seed % 5;
        uint32_t order[5] = {0, 1, 2, 3, 4}, a[5] = {0, 1, 2, 3, 4}, b[5] = {0, 1, 2, 3, 4}, *const on[2] = {a, b};
        uint32_t rest[2][5], mask[2] = {0, 0};
        make(&x, n, n, n, (int)(seed / 5) % 8, seed);
        x.p.n_layers = 1 + (uint32_t)seed % 6;
        if (seed % 2) /* transfers of another length */
            x.p.model[1].dispatch_bytes *= 1 + seed % 7;
        mp_rng_shuffle(&r, order, n);
        mp_rng_shuffle(&r, a, n);
        mp_rng_shuffle(&r, b, n);
        CHECK_OK(mp_coloc_groups_new(&g, &x.p, &err), err);
        CHECK_OK(mp_coloc_states_new(&states, g, order, g->arena, &err), err);
        CHECK_OK(mp_coloc_merge_new(&merge, g, g->arena, &err), err);
        CHECK_OK(mp_coloc_plan_new(&plan, &x.p, &err), err);
        for (uint32_t d = 0; d < depth; d++) {
            mask[0] |= 1u << a[order[d]];
            mask[1] |= 1u << b[order[d]];
        }
        for (int m = 0; m < 2; m++)
            for (uint32_t d = 0; d < n; d++)
                rest[m][d] = d;
        uint64_t best = UINT64_MAX;
        struct mp_coloc_peaks k = {.port = 0};
        for (uint32_t d = 0; d < depth; d++)
            mp_coloc_peaks_add(&k, g, a[order[d]], b[order[d]], order[d]);
        mp_coloc_states_raise(states, mask, &k);
        const uint64_t of_peaks = mp_coloc_bound(g, &k);
        do { /* rest[m]: a permutation of the places that leaves the first `depth` alone */
            bool is_other = false;
            for (uint32_t d = 0; d < depth; d++)
                is_other |= rest[0][d] != d;
            if (is_other)
                continue;
            for (uint32_t d = 0; d < n; d++)
                rest[1][d] = d;
            do {
                uint32_t all[2][5], *const there[2] = {all[0], all[1]};
                for (uint32_t d = 0; d < n; d++)
                    for (int m = 0; m < 2; m++)
                        all[m][order[d]] = on[m][order[rest[m][d]]];
                for (uint32_t d = 0; d < depth; d++)
                    is_other |= rest[1][d] != d;
                if (!is_other) {
                    mp_coloc_place(g, there, plan);
                    const uint64_t value = value_of(&x.p, plan);
                    best = value < best ? value : best;
                }
                is_other = false;
            } while (next_permutation(rest[1], n));
        } while (next_permutation(rest[0], n));
        const uint64_t bound = mp_coloc_merge_bound(merge, depth, order, on, &k, UINT64_MAX);
        assert_true(bound <= best);
        assert_true(mp_coloc_merge_bound(merge, depth, order, on, &k, best + 1) <= best); /* not given up */
        const uint64_t cut = mp_coloc_merge_bound(merge, depth, order, on, &k, bound);
        assert_true(cut == UINT64_MAX);
        n_above += bound > of_peaks;
        mp_coloc_plan_free(plan);
        mp_coloc_groups_free(g);
    }
    assert_true(n_above >= 30);
}

static void test_coloc__a_timeline_given_up_is_no_shorter_than_its_limit(void **state) {
    uint32_t n_given_up = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct instance x;
        struct mp_coloc_groups *g;
        struct mp_error err = {0};
        struct mp_rng r = mp_rng_seed(seed);
        uint32_t a[6] = {0, 1, 2, 3, 4, 5}, b[6] = {0, 1, 2, 3, 4, 5}, *const on[2] = {a, b};
        make(&x, 6, 6, 6, (int)seed % 8, seed);
        x.p.n_layers = 1 + (uint32_t)seed % 5;
        mp_rng_shuffle(&r, a, 6);
        mp_rng_shuffle(&r, b, 6);
        CHECK_OK(mp_coloc_groups_new(&g, &x.p, &err), err);
        struct mp_coloc_plan *plan;
        CHECK_OK(mp_coloc_plan_new(&plan, &x.p, &err), err);
        mp_coloc_place(g, on, plan);
        const uint64_t exact = value_of(&x.p, plan);
        for (uint64_t permille = 900; permille <= 1100; permille += 10) {
            const uint64_t limit = permille == 1000 ? exact + seed % 2 : exact * permille / 1000;
            uint64_t value;
            CHECK_OK(mp_coloc_value(g, on, limit, &value, NULL, &err), err);
            assert_true(exact < limit ? value == exact : value >= limit);
            n_given_up += value == UINT64_MAX;
        }
        mp_coloc_plan_free(plan);
        mp_coloc_groups_free(g);
    }
    assert_true(n_given_up > 500); /* of 1,100 that could be */
}

static void test_coloc__names_of_equal_gpus_do_not_matter(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct instance x;
        struct mp_coloc_times before, after;
        struct mp_error err = {0};
        make(&x, 8, 8, 8, UNEQUAL | COUPLED, seed); /* GPUs 2k and 2k + 1 are alike */
        struct mp_coloc_plan *plan = solve(&x.p, "random");
        CHECK_OK(mp_coloc_evaluate(&before, &x.p, plan, NULL, &err), err);
        for (int m = 0; m < 2; m++)
            for (uint32_t e = 0; e < 8; e++)
                plan->gpu[m][e] ^= 1;
        CHECK_OK(mp_coloc_evaluate(&after, &x.p, plan, NULL, &err), err);
        assert_memory_equal(&before, &after, sizeof before);
        struct mp_coloc_model first = x.p.model[0]; /* models the other way round: ports and GPUs do the same */
        uint32_t *gpu = plan->gpu[0];
        x.p.model[0] = x.p.model[1];
        x.p.model[1] = first;
        plan->gpu[0] = plan->gpu[1];
        plan->gpu[1] = gpu;
        CHECK_OK(mp_coloc_evaluate(&after, &x.p, plan, NULL, &err), err);
        assert_true(after.port_ns == before.port_ns && after.compute_ns == before.compute_ns);
        assert_true(after.busy_ns == before.busy_ns && after.alone_ns[0] == before.alone_ns[1]);
        mp_coloc_plan_free(plan);
    }
}

static void test_coloc__groups_when_experts_are_not_as_many_as_gpus(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct instance x;
        const uint32_t experts[2] = {3 + (uint32_t)seed % 10, 1 + (uint32_t)seed % 16};
        make(&x, 4, experts[0], experts[1], (int)seed % 4, seed);
        x.p.slots[0] = seed % 2 ? 4 : 0;
        for (uint32_t i = 0; mp_coloc_strategy_at(i) != NULL; i++) {
            struct mp_coloc_plan *plan = solve(&x.p, mp_coloc_strategy_at(i)->name);
            for (int m = 0; m < 2 && !mp_coloc_strategy_at(i)->is_apart; m++)
                for (uint32_t g = 0; g < 4; g++) {
                    uint32_t here = 0;
                    for (uint32_t e = 0; e < experts[m]; e++)
                        here += plan->gpu[m][e] == g;
                    assert_true(here <= (x.p.slots[m] > 0 ? x.p.slots[m] : (experts[m] + 3) / 4));
                }
            if (plan->is_optimal) /* by groups and by experts the same plan is worth the same */
                assert_true(value_of(&x.p, plan) == plan->bound_ns);
            mp_coloc_plan_free(plan);
        }
    }
}

/* GPUs of unlike memory: only `search` knows them, and it finds the best way to put its groups where they fit. */
static void test_coloc__groups_keep_to_the_slots_of_each_gpu(void **state) {
    (void)state;
    static const uint32_t room[2][4] = {{2, 3, 1, 0}, {1, 0, 2, 3}};
    uint32_t n_best = 0, n_other = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct instance x;
        uint32_t at[2][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}}, gpu[2][8], n_at[2][4] = {{0}, {0}};
        struct mp_coloc_plan other = {.gpu = {gpu[0], gpu[1]}};
        uint64_t best = UINT64_MAX;
        make(&x, 4, 5, 4, UNEQUAL, seed);
        for (int m = 0; m < 2; m++)
            x.p.gpu_slots[m] = room[m];
        struct mp_coloc_plan *plan = solve(&x.p, "search");
        for (int m = 0; m < 2; m++)
            for (uint32_t e = 0; e < x.p.model[m].n_experts; e++)
                n_at[m][plan->gpu[m][e]]++;
        for (int m = 0; m < 2; m++)
            for (uint32_t g = 0; g < 4; g++)
                assert_true(n_at[m][g] <= room[m][g]);
        do {
            do { /* what was on GPU g goes to at[m][g] */
                bool fits = true;
                for (int m = 0; m < 2; m++)
                    for (uint32_t g = 0; g < 4; g++)
                        fits &= n_at[m][g] <= room[m][at[m][g]];
                for (int m = 0; m < 2 && fits; m++)
                    for (uint32_t e = 0; e < x.p.model[m].n_experts; e++)
                        gpu[m][e] = at[m][plan->gpu[m][e]];
                const uint64_t value = fits ? value_of(&x.p, &other) : UINT64_MAX;
                best = value < best ? value : best;
            } while (next_permutation(at[1], 4));
            for (uint32_t g = 0; g < 4; g++)
                at[1][g] = g;
        } while (next_permutation(at[0], 4));
        assert_true(best <= value_of(&x.p, plan));
        n_best += best == value_of(&x.p, plan);
        mp_coloc_plan_free(plan);
        static const char *const others[] = {"random", "sorted", "bottleneck", "decoupled", "exact"};
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            struct mp_error err = {0};
            enum mp_outcome outcome;
            CHECK_OK(mp_coloc_solve(&plan, mp_coloc_strategy_find(others[i]), &x.p, &outcome, &err), err);
            if (plan == NULL)
                assert_non_null(strstr(err.message, "(use search)"));
            n_other += plan != NULL;
            mp_coloc_plan_free(plan); /* checked by mp_coloc_solve where there is one */
        }
    }
    assert_int_equal(n_best, 60);
    assert_true(n_other < 60);
}

static void test_coloc__says_no_in_words(void **state) {
    struct instance x;
    struct mp_coloc_plan *plan;
    enum mp_outcome outcome;
    struct mp_error err = {0};
    (void)state;
    make(&x, 4, 9, 4, 0, 1);
    x.p.slots[0] = 2;
    CHECK_OK(mp_coloc_solve(&plan, mp_coloc_strategy_find("search"), &x.p, &outcome, &err), err);
    assert_true(outcome == MP_NOT_FOUND);
    assert_null(plan);
    assert_non_null(strstr(err.message, "9 experts of the first model do not fit 2 slots on each of 4 GPUs"));
    mp_error_clear(&err);
}

/* Levels, and ports that GPUs share: what a group costs depends on where the others are. */
static void test_coloc__exact_on_nodes_is_the_best_of_all_assignments(void **state) {
    static const char *const clusters[] = {"2x2:h100", "1x2:a100+1x2:l40s", "2x2:l40s", "4x1:h100"};
    uint64_t n_nodes = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct instance x;
        struct mp_error err = {0};
        struct mp_topology *t;
        make(&x, 4, 4, 4, seed % 2 ? COUPLED : 0, seed);
        CHECK_OK(mp_topology_load(&t, clusters[seed / 2 % 4], &mp_limits_default, &err), err);
        for (uint32_t g = 0; g < 4 && seed >= 8; g++) { /* all GPUs of a node through one NIC */
            struct mp_gpu *gpus = (struct mp_gpu *)t->gpus;
            gpus[g].out_port[t->n_levels - 1] = gpus[g / 2 * 2].out_port[t->n_levels - 1];
            gpus[g].in_port[t->n_levels - 1] = gpus[g / 2 * 2].in_port[t->n_levels - 1];
        }
        x.p.topology = t;
        for (int objective = 0; objective < 2; objective++) {
            x.p.objective = (enum mp_coloc_objective)objective;
            const uint64_t best = best_of_all(&x.p);
            struct mp_coloc_plan *exact = solve(&x.p, "exact");
            assert_true(exact->is_optimal && exact->bound_ns == best && value_of(&x.p, exact) == best);
            n_nodes += exact->work_used;
            mp_coloc_plan_free(exact);
            x.p.work_limit = 1 + seed % 7; /* and what it says where it is stopped is a bound */
            exact = solve(&x.p, "exact");
            assert_true(exact->bound_ns <= best && value_of(&x.p, exact) >= best);
            x.p.work_limit = 0;
            mp_coloc_plan_free(exact);
        }
        mp_topology_free(t);
    }
    print_message("# %llu nodes for 24 problems; a tree has 1,312\n", (unsigned long long)n_nodes);
    assert_true(n_nodes < 24 * 1312 * 2 / 3);
}

static void test_coloc__search_on_nodes_is_the_best_of_all_assignments(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct instance x;
        struct mp_error err = {0};
        struct mp_topology *t;
        make(&x, 4, 4, 4, seed % 2 ? COUPLED : 0, seed);
        CHECK_OK(mp_topology_load(&t, "2x2:h100", &mp_limits_default, &err), err);
        x.p.topology = t;
        struct mp_coloc_plan *search = solve(&x.p, "search");
        assert_true(value_of(&x.p, search) == best_of_all(&x.p));
        mp_coloc_plan_free(search);
        mp_topology_free(t);
    }
}

/* A layer of a recording costs a model by itself what src/cost says, and a placement made here can be handed to the
 * driver, which has it verified. */
static void test_coloc__layers_of_recordings_agree_with_the_cost_model(void **state) {
    static const char *const clusters[] = {"4:h100", "2x2:h100", "2:a100+2:l40s"};
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        const struct tiny_spec spec = {.n_layers = 2,
                                       .n_experts = 6 + 3 * (uint32_t)(seed % 2),
                                       .top_k = 2,
                                       .n_requests = 40,
                                       .n_rows = 5,
                                       .topology = clusters[seed % 3],
                                       .phase = seed % 2 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                       .batch = seed % 2 ? 3 : 12,
                                       .seed = seed};
        struct mp_error err = {0};
        struct tiny t;
        struct mp_workload *w;
        struct mp_plan *plan;
        struct mp_router *router;
        struct mp_traffic *traffic;
        struct mp_coloc_plan *places[2];
        enum mp_outcome outcome;
        struct mp_arena *arena = mp_arena_new();
        uint32_t given[2 * 9];
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        CHECK_OK(mp_traffic_new(&traffic, 4, &err), err);
        struct mp_coloc_problem p[2];
        for (uint32_t l = 0; l < 2; l++) {
            p[l] = (struct mp_coloc_problem){.topology = t.topology, .seed = seed};
            CHECK_OK(mp_coloc_model_of(&p[l].model[0], w, t.model, t.topology, l, 1, 1, arena, &err), err);
            CHECK_OK(mp_coloc_nobody(&p[l].model[1], 4, arena, &err), err);
            places[l] = solve(&p[l], "search");
            memcpy(given + l * spec.n_experts, places[l]->gpu[0], spec.n_experts * sizeof *given);
        }
        t.request.strategy = "contiguous";
        t.request.given = given;
        t.request.given_name = "made here";
        const struct mp_colocation pair = {.layer = 1, .expert_a = 2, .expert_b = 0, .gpu = given[spec.n_experts + 2]};
        t.request.colocations = &pair;
        t.request.n_colocations = 1;
        CHECK_OK(mp_plan_make(&plan, &t.request, &outcome, NULL, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        assert_string_equal(plan->provenance.place, "made here");
        assert_true(plan->n_colocations == 1 && plan->colocations[0].gpu == pair.gpu);
        CHECK_OK(mp_router_new(&router, plan, &err), err);
        for (uint32_t l = 0; l < 2; l++) {
            struct mp_coloc_load load[2];
            const struct mp_cost_setup setup = {.plan = plan,
                                                .router = router,
                                                .workload = w,
                                                .topology = t.topology,
                                                .model = t.model,
                                                .dispatcher = mp_dispatcher_find("a2av")};
            CHECK_OK(mp_traffic_compute(traffic, &setup, 1, l, &err), err);
            CHECK_OK(mp_coloc_loads(load, &p[l], places[l], arena, &err), err);
            uint64_t dispatch = 0, combine = 0;
            for (uint32_t k = 0; k < t.topology->n_resources; k++) {
                dispatch = load[0].dispatch[k] > dispatch ? load[0].dispatch[k] : dispatch;
                combine = load[0].combine[k] > combine ? load[0].combine[k] : combine;
            }
            assert_true(dispatch == mp_port_bound_ns(t.topology, traffic->dispatch));
            assert_true(combine == mp_port_bound_ns(t.topology, traffic->combine));
            for (uint32_t g = 0; g < 4; g++) {
                assert_true(load[0].gate[g] == mp_attention_ns(t.topology, g, t.model, traffic->source_rows[g]));
                assert_true(load[1].gate[g] == 0 && load[1].experts[g] == 0);
                if (seed % 3 != 2) /* tiles are those of the first GPU */
                    assert_true(load[0].experts[g] ==
                                mp_compute_ns(t.topology, g, t.model, traffic->active[g], traffic->padded_rows[g]) +
                                    mp_shared_ns(t.topology, g, t.model, traffic->source_rows[g]));
            }
            mp_coloc_plan_free(places[l]);
        }
        mp_router_free(router);
        mp_plan_free(plan);
        mp_traffic_free(traffic);
        mp_workload_free(w);
        mp_arena_free(arena);
        tiny_free(&t);
    }
}

static uint64_t popularity(const struct mp_coloc_problem *p, int m, uint32_t e) {
    const struct mp_coloc_model *x = &p->model[m];
    uint64_t sum = 0;
    for (uint32_t s = 0; s < (x->is_coupled ? x->n_experts : p->topology->n_gpus); s++)
        sum += x->tokens[(size_t)s * x->n_experts + e];
    return sum;
}

static void test_coloc__lina_packs_the_most_popular_with_the_least_on_half_of_the_gpus(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct instance x;
        make(&x, 8, 8, 5 + (uint32_t)seed % 12, (int)seed % 4, seed);
        x.p.seed = seed;
        struct mp_coloc_plan *plan = solve(&x.p, "lina");
        uint32_t count[2][8] = {{0}}, n_gpus[2] = {0};
        for (int m = 0; m < 2; m++)
            for (uint32_t e = 0; e < x.p.model[m].n_experts; e++)
                n_gpus[m] += count[m][plan->gpu[m][e]]++ == 0;
        for (uint32_t g = 0; g < 8; g++)
            assert_true(count[0][g] == 0 || count[1][g] == 0);
        assert_int_equal(n_gpus[0], 4);
        assert_true(n_gpus[1] <= 4);
        for (uint32_t e = 0; e < 8; e++) { /* two on a GPU: as many are more popular than one as less than the other */
            uint32_t partner = 0, above = 0, below = 0;
            while (partner == e || plan->gpu[0][partner] != plan->gpu[0][e])
                partner++;
            for (uint32_t k = 0; k < 8; k++) {
                const uint64_t a = popularity(&x.p, 0, e), b = popularity(&x.p, 0, partner), c = popularity(&x.p, 0, k);
                above += c > a || (c == a && k < e);
                below += c < b || (c == b && k > partner);
            }
            assert_int_equal(above, below);
        }
        mp_coloc_plan_free(plan);
    }
}

static enum mp_status run_all(void *ctx, struct mp_error *err) {
    struct instance *x = ctx;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; mp_coloc_strategy_at(i) != NULL && status == MP_OK; i++) {
        struct mp_coloc_plan *plan;
        struct mp_coloc_times times;
        struct mp_coloc_log log = {0};
        enum mp_outcome outcome;
        x->p.work_limit = 20;
        status = mp_coloc_solve(&plan, mp_coloc_strategy_at(i), &x->p, &outcome, err);
        if (status != MP_OK)
            assert_null(plan);
        else
            status = mp_coloc_evaluate(&times, &x->p, plan, &log, err);
        mp_coloc_log_free(&log);
        mp_coloc_plan_free(plan);
    }
    return status;
}
static enum mp_status bound_levels(void *ctx, struct mp_error *err) {
    const struct instance *x = ctx;
    struct mp_coloc_groups *g;
    struct mp_coloc_levels *levels;
    enum mp_status status = mp_coloc_groups_new(&g, &x->p, err);
    if (status != MP_OK)
        return status;
    status = mp_coloc_levels_new(&levels, g, g->arena, err);
    mp_coloc_groups_free(g);
    return status;
}

static void test_coloc__survives_every_failed_allocation(void **state) {
    struct instance x;
    (void)state;
    make(&x, 3, 5, 3, UNEQUAL | COUPLED, 1);
    sweep_faults(run_all, &x, 1);
    struct mp_error err = {0};
    struct mp_topology *t;
    make(&x, 3, 3, 3, 0, 1);
    CHECK_OK(mp_topology_load(&t, "1x2:h100+1x1:h100", &mp_limits_default, &err), err);
    x.p.topology = t;
    sweep_faults(bound_levels, &x, 1);
    mp_topology_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_coloc__exact_is_the_best_of_all_assignments),
        cmocka_unit_test(test_coloc__exact_is_the_best_of_all_assignments_on_many_gpus),
        cmocka_unit_test(test_coloc__exact_proves_what_it_stopped_at),
        cmocka_unit_test(test_coloc__case_two_is_the_best_pairing_and_case_one_where_sent_is_received),
        cmocka_unit_test(test_coloc__search_is_not_above_what_it_starts_from),
        cmocka_unit_test(test_coloc__timeline_runs_one_thing_at_a_time_everywhere),
        cmocka_unit_test(test_coloc__closed_form_of_one_example_and_its_terms),
        cmocka_unit_test(test_coloc__bounds_hold_for_every_assignment),
        cmocka_unit_test(test_coloc__states_know_the_least_of_every_peak),
        cmocka_unit_test(test_coloc__merged_bounds_hold_for_every_rest),
        cmocka_unit_test(test_coloc__a_timeline_given_up_is_no_shorter_than_its_limit),
        cmocka_unit_test(test_coloc__names_of_equal_gpus_do_not_matter),
        cmocka_unit_test(test_coloc__groups_when_experts_are_not_as_many_as_gpus),
        cmocka_unit_test(test_coloc__groups_keep_to_the_slots_of_each_gpu),
        cmocka_unit_test(test_coloc__says_no_in_words),
        cmocka_unit_test(test_coloc__lina_packs_the_most_popular_with_the_least_on_half_of_the_gpus),
        cmocka_unit_test(test_coloc__exact_on_nodes_is_the_best_of_all_assignments),
        cmocka_unit_test(test_coloc__search_on_nodes_is_the_best_of_all_assignments),
        cmocka_unit_test(test_coloc__layers_of_recordings_agree_with_the_cost_model),
        cmocka_unit_test(test_coloc__survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
