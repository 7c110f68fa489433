/* Lists of buckets: the same timeline as the rule that they stand for, and the search over them. */
#include "support.h"
#include <moeplan/base.h>
#include <moeplan/train.h>

#define LAYERS 3u
#define RANKS 2u

struct small {
    struct mp_train_layer layers[LAYERS];
    uint64_t ns[LAYERS][4][RANKS];
    struct mp_train_step step;
};
static struct mp_train_transfer transfer(struct mp_rng *r, uint64_t most) {
    struct mp_train_transfer x = {.bytes = 1 + mp_rng_below(r, 40000000)};
    x.ns = mp_rng_below(r, 8) == 0 ? 0 : 1 + mp_rng_below(r, most);
    return x;
}
static void small_make(struct small *x, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    *x = (struct small){.step = {.n_ranks = RANKS, .n_layers = LAYERS, .launch_ns = 10, .layers = x->layers}};
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct mp_train_layer *y = &x->layers[l];
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t g = 0; g < RANKS; g++)
                x->ns[l][i][g] = mp_rng_below(&r, 3000);
        y->attention_ns = x->ns[l][0];
        y->expert_ns = x->ns[l][1];
        y->expert_back_ns = x->ns[l][2];
        y->attention_back_ns = x->ns[l][3];
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            y->a2a[i] = transfer(&r, 2000);
        y->reduce = transfer(&r, 6000);
        y->expert_reduce = transfer(&r, 6000);
    }
}
static uint64_t step_of(const struct small *x, const struct mp_train_policy *p) {
    struct mp_error err = {0};
    const struct mp_train_step *step = &x->step;
    uint64_t ns;
    CHECK_OK(mp_train_mean(&ns, &step, 1, p, 1, &err), err);
    return ns;
}
static struct mp_train_policy some_policy(uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    struct mp_train_policy p = {.is_shared = seed % 5 == 0};
    p.guard = (enum mp_train_guard)mp_rng_below(&r, MP_TRAIN_N_GUARDS);
    p.order = (enum mp_train_order)mp_rng_below(&r, MP_TRAIN_LISTED);
    p.is_pipelined = seed % 2 == 0;
    p.a2a_chunk_bytes = seed % 3 == 0 ? 0 : 8000000;
    p.reduce_chunk_bytes = seed % 3 == 1 ? 0 : 8000000;
    p.bucket_bytes = mp_rng_below(&r, 2) * mp_rng_below(&r, 90000000);
    return p;
}

static void test_train_buckets__a_list_is_the_rule_that_made_it(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        static struct small x;
        struct mp_error err = {0};
        struct mp_arena *arena = mp_arena_new();
        struct mp_train_policy rule = some_policy(seed), listed = rule;
        small_make(&x, seed);
        CHECK_OK(mp_train_buckets(&listed.buckets, &listed.n_buckets, &x.step, rule.bucket_bytes, arena, &err), err);
        listed.bucket_bytes = 7; /* has no say any more */
        uint64_t bytes = 0;
        for (uint32_t l = 0; l < LAYERS; l++)
            bytes += (x.layers[l].reduce.ns > 0 ? x.layers[l].reduce.bytes : 0) +
                     (x.layers[l].expert_reduce.ns > 0 ? x.layers[l].expert_reduce.bytes : 0);
        for (uint32_t i = 0; i < listed.n_buckets; i++)
            bytes -= listed.buckets[i].bytes;
        assert_int_equal(bytes, 0);
        assert_int_equal(step_of(&x, &listed), step_of(&x, &rule));
        mp_arena_free(arena);
    }
}

static void test_train_buckets__gradients_left_out_are_refused(void **state) {
    (void)state;
    static struct small x;
    struct mp_error err = {0};
    struct mp_train_timeline t;
    small_make(&x, 4);
    x.layers[1].reduce.ns = 5;
    const struct mp_train_bucket list[] = {{false, 2, 2, 1}, {true, 0, 2, 1}, {false, 0, 0, 1}};
    const struct mp_train_policy p = {.buckets = list, .n_buckets = 3};
    assert_int_equal(mp_train_run(&t, &x.step, &p, false, &err), MP_EUSAGE);
    assert_string_equal(err.message, "the policy's buckets leave out gradients of the step");
}

/* Every order of single buckets: the listed one that stands first goes first, so all of them are timelines of their
 * own, and the search is never above where it began. How often it finds the best of them is printed. */
static void test_train_buckets__search_never_rises(void **state) {
    (void)state;
    uint32_t n_best = 0, n = 0, n_listed = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        static struct small x;
        struct mp_error err = {0};
        struct mp_arena *arena = mp_arena_new();
        struct mp_train_policy p = some_policy(seed), any;
        const struct mp_train_step *step = &x.step;
        small_make(&x, 1000 + seed);
        p.bucket_bytes = 0;
        any = p;
        const uint64_t before = step_of(&x, &p);
        uint64_t found = before, least = before;
        CHECK_OK(mp_train_search_buckets(&p, &found, &step, 1, 1, arena, &err), err);
        assert_true(found <= before);
        assert_int_equal(found, step_of(&x, &p));
        if (p.buckets != NULL)
            for (uint32_t l = 0; l < LAYERS; l++)
                for (uint32_t kind = 0; kind < 2; kind++) {
                    uint32_t times = 0;
                    for (uint32_t i = 0; i < p.n_buckets; i++)
                        times += p.buckets[i].is_experts == (kind == 1) && p.buckets[i].first_layer <= l &&
                                 l <= p.buckets[i].last_layer;
                    const bool has = kind == 1 ? x.layers[l].expert_reduce.ns > 0 : x.layers[l].reduce.ns > 0;
                    assert_true(times <= 1 && (times == 1 || !has));
                }
        struct mp_train_bucket list[2 * LAYERS];
        const struct mp_train_bucket *own;
        uint32_t at[2 * LAYERS] = {0};
        CHECK_OK(mp_train_buckets(&own, &any.n_buckets, &x.step, 0, arena, &err), err);
        any.buckets = list;
        any.order = MP_TRAIN_LISTED;
        for (bool is_more = true; is_more;) { /* all orders, by the places that buckets are put in */
            for (uint32_t i = 0; i < any.n_buckets; i++) {
                for (uint32_t j = i; j > at[i]; j--)
                    list[j] = list[j - 1];
                list[at[i]] = own[i];
            }
            const uint64_t ns = step_of(&x, &any);
            least = ns < least ? ns : least;
            uint32_t i = 0;
            while (i < any.n_buckets && at[i] == i)
                at[i++] = 0;
            is_more = i < any.n_buckets;
            if (is_more)
                at[i]++;
        }
        n++;
        n_best += found <= least;
        n_listed += p.order == MP_TRAIN_LISTED;
        mp_arena_free(arena);
    }
    printf("# as good as the best order of single buckets, or better: %u of %u; listed: %u\n", n_best, n, n_listed);
    assert_true(4 * n_best >= 3 * n && n_listed > 0);
}

static struct small faulted_step;
static enum mp_status faulted(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_arena *arena = mp_arena_new();
    const struct mp_train_step *step = &faulted_step.step;
    struct mp_train_policy p = some_policy(2);
    uint64_t ns = UINT64_MAX;
    if (arena == NULL)
        return mp_nomem(err, "a test");
    const enum mp_status status = mp_train_search_buckets(&p, &ns, &step, 1, 1, arena, err);
    mp_arena_free(arena);
    return status;
}
static void test_train_buckets__survives_faults(void **state) {
    (void)state;
    small_make(&faulted_step, 2);
    sweep_faults(faulted, NULL, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_buckets__a_list_is_the_rule_that_made_it),
        cmocka_unit_test(test_train_buckets__gradients_left_out_are_refused),
        cmocka_unit_test(test_train_buckets__search_never_rises),
        cmocka_unit_test(test_train_buckets__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
