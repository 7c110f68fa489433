#include "support.h"
#include <moeplan/base.h>
#include <moeplan/limits.h>
#include <moeplan/train.h>
#include <stdlib.h>
#include <string.h>

#define US UINT64_C(1000)
#define MOST_RANKS 4
#define MOST_LAYERS 4

/* Lina, figure 7: the backward pass of one MoE layer while the gradients of the layer before it are summed. The paper
 * prints ends, not durations. Five of its figures (29.0, 30.9 and 24.6 ms for the layer's gradients, the end of the
 * allreduce of gradient i-2 and that it comes 6.6 ms, 21.7 %, earlier with chunks) determine these five durations; the
 * sixth, 1.6 ms of the experts' time hidden by pipelining, has to come out of them. */
struct figure_7 {
    uint64_t before[1], experts[1], behind[1];
    struct mp_train_layer layers[2];
    struct mp_train_step step;
};
static void figure_7(struct figure_7 *f) {
    const uint64_t a2a = 2200 * US;
    *f = (struct figure_7){.before = {6500 * US}, .experts = {6600 * US}, .behind = {7100 * US}};
    f->layers[0].expert_back_ns = f->experts;
    f->layers[0].attention_back_ns = f->behind;
    f->layers[0].a2a[MP_TRAIN_COMBINE_BACK] = (struct mp_train_transfer){.ns = a2a, .bytes = 4000};
    f->layers[0].a2a[MP_TRAIN_DISPATCH_BACK] = (struct mp_train_transfer){.ns = a2a, .bytes = 4000};
    f->layers[1].attention_back_ns = f->before;
    f->layers[1].reduce = (struct mp_train_transfer){.ns = 12900 * US, .bytes = 24000};
    f->step = (struct mp_train_step){.n_ranks = 1, .n_layers = 2, .layers = f->layers};
}
static uint64_t backward_of(const struct mp_train_step *s, const struct mp_train_policy *p, uint64_t *reduced_ns) {
    struct mp_error err = {0};
    struct mp_train_timeline t;
    CHECK_OK(mp_train_run(&t, s, p, false, &err), err);
    const uint64_t backward = t.backward_ns;
    if (reduced_ns != NULL)
        *reduced_ns = t.reduced_ns[1];
    mp_train_timeline_free(&t);
    return backward;
}
static void test_train_timeline__lina_figure_7(void **state) {
    (void)state;
    struct figure_7 f;
    figure_7(&f);
    uint64_t deferred_reduced, chunked_reduced;
    assert_int_equal(backward_of(&f.step, &mp_train_policy_find("fair")->policy, NULL), 29000 * US);
    assert_int_equal(backward_of(&f.step, &mp_train_policy_find("priority")->policy, NULL), 30900 * US);
    assert_int_equal(backward_of(&f.step, &mp_train_policy_find("deferred")->policy, &deferred_reduced), 24600 * US);
    struct mp_train_policy lina = mp_train_policy_find("lina")->policy;
    lina.is_pipelined = false;
    lina.a2a_chunk_bytes = lina.reduce_chunk_bytes = 1000; /* of 4,000 and 24,000 */
    backward_of(&f.step, &lina, &chunked_reduced);
    assert_int_equal(deferred_reduced, 30400 * US);
    assert_int_equal(deferred_reduced - chunked_reduced, 6600 * US);
    /* Nothing else on its way, four chunks: three quarters of each all-to-all lie beside the experts. */
    f.layers[1].reduce.ns = 0;
    const uint64_t whole = backward_of(&f.step, &lina, NULL);
    lina.is_pipelined = true;
    assert_int_equal(whole - backward_of(&f.step, &lina, NULL), 2 * 1650 * US);
}

/* ---- random steps against what has to hold of every timeline ---- */

struct random_step {
    struct mp_train_layer layers[MOST_LAYERS];
    uint64_t ns[MOST_LAYERS][6][MOST_RANKS];
    uint32_t ppm[MOST_LAYERS][6][MOST_RANKS];
    struct mp_train_step s;
};
static struct mp_train_transfer random_transfer(struct mp_rng *r, const uint32_t *end_ppm) {
    struct mp_train_transfer x = {.ns = mp_rng_below(r, 4) == 0 ? 0 : 1 + mp_rng_below(r, 5000),
                                  .bytes = mp_rng_below(r, 9000)};
    x.end_ppm = mp_rng_below(r, 2) == 0 ? NULL : end_ppm;
    return x;
}
static void random_step(struct random_step *x, struct mp_rng *r) {
    *x = (struct random_step){.s = {.n_ranks = 1 + (uint32_t)mp_rng_below(r, MOST_RANKS),
                                    .n_layers = 1 + (uint32_t)mp_rng_below(r, MOST_LAYERS),
                                    .launch_ns = mp_rng_below(r, 30),
                                    .kernel_ns = mp_rng_below(r, 100),
                                    .split_ns = mp_rng_below(r, 20),
                                    .loss_ns = mp_rng_below(r, 500),
                                    .update_ns = mp_rng_below(r, 500)}};
    x->s.layers = x->layers;
    for (uint32_t l = 0; l < x->s.n_layers; l++) {
        for (uint32_t i = 0; i < 6; i++)
            for (uint32_t rank = 0; rank < MOST_RANKS; rank++) {
                x->ns[l][i][rank] = mp_rng_below(r, 3000);
                x->ppm[l][i][rank] = rank == 0 ? 1000000 : (uint32_t)mp_rng_below(r, 1000001);
            }
        x->layers[l] = (struct mp_train_layer){.attention_ns = x->ns[l][0],
                                               .expert_ns = x->ns[l][1],
                                               .combine_ns = x->ns[l][2],
                                               .combine_back_ns = x->ns[l][3],
                                               .expert_back_ns = x->ns[l][4],
                                               .attention_back_ns = x->ns[l][5],
                                               .reduce = random_transfer(r, NULL),
                                               .expert_reduce = random_transfer(r, NULL)};
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            x->layers[l].a2a[i] = random_transfer(r, x->ppm[l][i]);
    }
}
static struct mp_train_policy random_policy(struct mp_rng *r) {
    return (struct mp_train_policy){.is_shared = mp_rng_below(r, 4) == 0,
                                    .guard = (enum mp_train_guard)mp_rng_below(r, MP_TRAIN_N_GUARDS),
                                    .order = (enum mp_train_order)mp_rng_below(r, MP_TRAIN_N_ORDERS),
                                    .is_pipelined = mp_rng_below(r, 2) == 0,
                                    .a2a_chunk_bytes = mp_rng_below(r, 3) == 0 ? 0 : 500 + mp_rng_below(r, 5000),
                                    .reduce_chunk_bytes = mp_rng_below(r, 3) == 0 ? 0 : 500 + mp_rng_below(r, 5000),
                                    .bucket_bytes = mp_rng_below(r, 2) == 0 ? 0 : mp_rng_below(r, 20000)};
}
static bool is_transfer(const struct mp_train_event *e) { return e->what >= MP_TRAIN_A2A; }
static bool overlap(const struct mp_train_event *a, const struct mp_train_event *b) {
    return a->start_ns < b->end_ns && b->start_ns < a->end_ns;
}

/* A rank computes one thing at a time; of each kind one transfer is on its way, of both kinds one unless they share;
 * every nanosecond of every tensor is sent, no faster than alone; nothing begins before it is ready. */
static void check_events(const struct mp_train_step *s, const struct mp_train_policy *p,
                         const struct mp_train_timeline *t) {
    uint64_t sent = 0, given = 0, a2a = 0, reduces = 0;
    for (size_t i = 0; i < t->n_events; i++) {
        const struct mp_train_event *e = &t->events[i];
        assert_true(e->ready_ns <= e->start_ns && e->start_ns <= e->end_ns && e->end_ns <= t->step_ns);
        for (size_t j = 0; j < i; j++) {
            const struct mp_train_event *other = &t->events[j];
            if (!is_transfer(e) && !is_transfer(other))
                assert_true(e->rank != other->rank || !overlap(e, other));
            else if (is_transfer(e) && is_transfer(other) &&
                     (!p->is_shared || (e->what == MP_TRAIN_A2A) == (other->what == MP_TRAIN_A2A)))
                assert_false(overlap(e, other));
        }
        if (is_transfer(e))
            sent += e->end_ns - e->start_ns;
        a2a += e->what == MP_TRAIN_A2A;
        reduces += e->what > MP_TRAIN_A2A;
    }
    uint64_t tensors = 0;
    for (uint32_t l = 0; l < s->n_layers; l++) {
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            given += s->layers[l].a2a[i].ns, tensors += s->layers[l].a2a[i].ns > 0;
        given += s->layers[l].reduce.ns + s->layers[l].expert_reduce.ns;
    }
    given += (a2a + reduces) * s->launch_ns;
    if (p->is_shared)
        assert_true(sent >= given);
    else
        assert_in_range(sent, given, given + (a2a + reduces) * s->split_ns);
    assert_true(a2a >= tensors);
}
/* Experts compute on what has come: an independent look at one layer's chain, rank by rank. */
static uint64_t end_of(const struct mp_train_timeline *t, enum mp_train_what what, uint32_t layer,
                       enum mp_train_a2a a2a, uint32_t rank) {
    uint64_t end = 0;
    for (size_t i = 0; i < t->n_events; i++) {
        const struct mp_train_event *e = &t->events[i];
        if (e->what == what && e->layer == layer && (what == MP_TRAIN_A2A ? e->a2a == a2a : e->rank == rank) &&
            e->end_ns > end)
            end = e->end_ns;
    }
    return end;
}
static void check_chain(const struct mp_train_step *s, const struct mp_train_timeline *t) {
    static const enum mp_train_what needs[MP_TRAIN_N_A2A] = {MP_TRAIN_ATTENTION, MP_TRAIN_EXPERTS,
                                                             MP_TRAIN_WEIGHTING_BACK, MP_TRAIN_EXPERTS_BACK};
    for (size_t i = 0; i < t->n_events; i++) {
        const struct mp_train_event *e = &t->events[i];
        if (e->what != MP_TRAIN_A2A || (e->a2a != MP_TRAIN_DISPATCH && e->a2a != MP_TRAIN_COMBINE_BACK))
            continue;
        for (uint32_t rank = 0; rank < s->n_ranks; rank++)
            assert_true(e->start_ns >= end_of(t, needs[e->a2a], e->layer, 0, rank));
    }
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t rank = 0; rank < s->n_ranks; rank++) {
            const uint64_t last = end_of(t, MP_TRAIN_A2A, l, MP_TRAIN_COMBINE, 0);
            assert_true(last == 0 || last >= end_of(t, MP_TRAIN_EXPERTS, l, 0, rank));
            assert_true(t->reduced_ns[l] == 0 || t->reduced_ns[l] >= end_of(t, MP_TRAIN_ATTENTION_BACK, l, 0, rank));
        }
}
static void test_train_timeline__random_steps(void **state) {
    (void)state;
    static struct random_step x;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 1500; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        random_step(&x, &r);
        const struct mp_train_policy p = random_policy(&r);
        struct mp_train_timeline t;
        CHECK_OK(mp_train_run(&t, &x.s, &p, true, &err), err);
        check_events(&x.s, &p, &t);
        check_chain(&x.s, &t);
        assert_true(t.forward_ns <= t.backward_ns && t.compute_ns + t.blocked_ns >= t.compute_ns);
        assert_true(t.step_ns == (t.backward_ns > t.reduce_ns ? t.backward_ns : t.reduce_ns) + x.s.update_ns);
        for (uint32_t l = 0; l < x.s.n_layers; l++)
            assert_true((t.reduced_ns[l] > 0) == (x.layers[l].reduce.ns > 0));
        mp_train_timeline_free(&t);
    }
}

/* All-to-alls are never late behind a guard that foresees them, so the backward pass is that of no allreduces at all,
 * and gradients are summed no later than when they wait for its end. */
static void test_train_timeline__a_guard_that_fits_costs_nothing(void **state) {
    (void)state;
    static struct random_step x;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 1500; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 7000);
        random_step(&x, &r);
        struct mp_train_policy p = random_policy(&r);
        p.is_shared = false;
        struct mp_train_timeline fits, behind, shared;
        p.guard = MP_TRAIN_GUARD_FITS;
        CHECK_OK(mp_train_run(&fits, &x.s, &p, false, &err), err);
        p.guard = MP_TRAIN_GUARD_BEHIND;
        CHECK_OK(mp_train_run(&behind, &x.s, &p, false, &err), err);
        assert_int_equal(fits.backward_ns, behind.backward_ns);
        assert_true(fits.reduce_ns <= behind.reduce_ns && fits.step_ns <= behind.step_ns);
        p.is_shared = true;
        CHECK_OK(mp_train_run(&shared, &x.s, &p, false, &err), err);
        assert_true(shared.backward_ns >= behind.backward_ns);
        mp_train_timeline_free(&fits);
        mp_train_timeline_free(&behind);
        mp_train_timeline_free(&shared);
    }
}

/* Ports that the allreduce does not use cost the all-to-all nothing; half of one that both fill costs it double. */
static void test_train_timeline__shares_ports(void **state) {
    (void)state;
    struct figure_7 f;
    figure_7(&f);
    const uint32_t first[2] = {1000000, 0}, second[2] = {0, 1000000}, quarter[2] = {250000, 0};
    f.step.n_ports = 2;
    f.layers[1].reduce.load_ppm = first;
    for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
        f.layers[0].a2a[i].load_ppm = second;
    const struct mp_train_policy fair = mp_train_policy_find("fair")->policy;
    assert_int_equal(backward_of(&f.step, &fair, NULL), 24600 * US);
    for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
        f.layers[0].a2a[i].load_ppm = first;
    assert_int_equal(backward_of(&f.step, &fair, NULL), 29000 * US);
    f.layers[1].reduce.load_ppm = quarter; /* the all-to-all takes the other three */
    assert_in_range(backward_of(&f.step, &fair, NULL), 24600 * US + 2 * 2200 * US / 3 - 10,
                    24600 * US + 2 * 2200 * US / 3 + 10);
}

static void test_train_timeline__too_many_chunks(void **state) {
    (void)state;
    struct figure_7 f;
    figure_7(&f);
    f.layers[0].a2a[MP_TRAIN_COMBINE_BACK].bytes = UINT64_C(1) << 60;
    struct mp_train_policy p = mp_train_policy_find("lina")->policy;
    struct mp_train_timeline t;
    struct mp_error err = {0};
    assert_int_equal(mp_train_run(&t, &f.step, &p, false, &err), MP_EUSAGE);
    figure_7(&f);
    f.step.loss_ns = UINT64_C(1) << 50;
    err = (struct mp_error){0};
    assert_int_equal(mp_train_run(&t, &f.step, &p, false, &err), MP_EUSAGE);
}

static enum mp_status faulted(void *ctx, struct mp_error *err) {
    struct mp_train_timeline t;
    const enum mp_status status = mp_train_run(&t, ctx, &mp_train_policy_find("lina")->policy, true, err);
    if (status == MP_OK)
        mp_train_timeline_free(&t);
    return status;
}
static void test_train_timeline__survives_faults(void **state) {
    (void)state;
    static struct random_step x;
    struct mp_rng r = mp_rng_seed(5);
    random_step(&x, &r);
    sweep_faults(faulted, &x.s, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_timeline__lina_figure_7),
        cmocka_unit_test(test_train_timeline__random_steps),
        cmocka_unit_test(test_train_timeline__a_guard_that_fits_costs_nothing),
        cmocka_unit_test(test_train_timeline__shares_ports),
        cmocka_unit_test(test_train_timeline__too_many_chunks),
        cmocka_unit_test(test_train_timeline__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
