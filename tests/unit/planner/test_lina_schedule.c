/* What a phase of Lina's scheduling places, by hand and whatever popularity is. */
#include "support.h"

#include "lina_schedule.h"
#include <moeplan/trace.h>

struct placed {
    uint16_t slots[64];
    struct lina_rule rule;
};
static struct placed place(struct lina_rule rule, const uint64_t *popularity) {
    struct placed p = {.rule = rule};
    void *room = malloc(lina_room(&rule));
    assert_non_null(room);
    lina_schedule(p.slots, &rule, popularity, room);
    free(room);
    return p;
}
static uint32_t copies_of(const struct placed *p, uint16_t expert) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->rule.n_gpus * p->rule.per_gpu; s++)
        n += p->slots[s] == expert;
    return n;
}
static uint32_t on_gpu(const struct placed *p, uint32_t g) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->rule.per_gpu; s++)
        n += p->slots[g * p->rule.per_gpu + s] != MP_NO_EXPERT;
    return n;
}

/* Half of all tokens want expert 2: it gets two of four GPUs, a quarter want expert 0: one; six share the last, which
 * they fill. */
static void test_lina_schedule__as_printed(void **state) {
    (void)state;
    const struct lina_rule rule = {.n_experts = 8, .n_gpus = 4, .per_gpu = 6};
    const uint64_t popularity[8] = {240, 40, 480, 40, 40, 40, 40, 40};
    struct placed p = place(rule, popularity);
    assert_int_equal(copies_of(&p, 2), 2);
    assert_int_equal(copies_of(&p, 0), 1);
    for (uint16_t e = 0; e < 8; e++)
        assert_true(copies_of(&p, e) >= 1);
    assert_int_equal(on_gpu(&p, 0), 1);
    assert_int_equal(on_gpu(&p, 1), 1);
    assert_int_equal(on_gpu(&p, 2), 1);
    assert_int_equal(on_gpu(&p, 3), 6);
    assert_int_equal(p.slots[0], 0); /* as much to do as each replica of 2, and the lower number */
    assert_int_equal(p.slots[6], 2);
    assert_int_equal(p.slots[12], 2);
}

/* With four slots a GPU one GPU cannot take six: expert 0 shares the two that are left. */
static void test_lina_schedule__makes_room(void **state) {
    (void)state;
    const struct lina_rule rule = {.n_experts = 8, .n_gpus = 4, .per_gpu = 4};
    const uint64_t popularity[8] = {240, 40, 480, 40, 40, 40, 40, 40};
    struct placed p = place(rule, popularity);
    uint32_t n_small = 0;
    for (uint16_t e = 0; e < 8; e++)
        assert_true(copies_of(&p, e) >= 1);
    for (uint32_t g = 0; g < 4; g++)
        n_small += on_gpu(&p, g) > 1;
    assert_int_equal(n_small, 2);
    assert_int_equal(copies_of(&p, 2), 2);
    assert_int_equal(copies_of(&p, 0), 1);
}

/* Whatever popularity is: every expert somewhere, none twice on a GPU, no hole before a slot that is used; in slots
 * copies are no more than slots, and shares rounded down are never more than to the nearest. */
static void test_lina_schedule__always_a_placement(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(11);
    for (uint32_t round = 0; round < 4000; round++) {
        struct lina_rule rule = {.n_experts = 1 + (uint32_t)mp_rng_below(&rng, 12),
                                 .n_gpus = 1 + (uint32_t)mp_rng_below(&rng, 6)};
        const uint32_t extra = (uint32_t)mp_rng_below(&rng, 5), skew = 1 + (uint32_t)mp_rng_below(&rng, 9);
        rule.per_gpu = (rule.n_experts + extra + rule.n_gpus - 1) / rule.n_gpus;
        rule.n_slots = round % 2 == 0 ? 0 : rule.n_experts + extra;
        rule.is_down = round % 3 == 0;
        uint64_t popularity[12], n_copies = 0;
        for (uint32_t e = 0; e < rule.n_experts; e++) {
            const uint64_t x = mp_rng_below(&rng, 100);
            popularity[e] = round % 7 == 0 ? 0 : x >> (e % skew);
        }
        struct placed p = place(rule, popularity);
        for (uint16_t e = 0; e < rule.n_experts; e++) {
            assert_true(copies_of(&p, e) >= 1);
            n_copies += copies_of(&p, e);
        }
        for (uint32_t g = 0; g < rule.n_gpus; g++)
            for (uint32_t a = 0; a < rule.per_gpu; a++) {
                const uint16_t *own = p.slots + (size_t)g * rule.per_gpu;
                assert_true(own[a] == MP_NO_EXPERT || own[a] < rule.n_experts);
                for (uint32_t b = 0; b < a; b++)
                    assert_true(own[a] == MP_NO_EXPERT || (own[b] != own[a] && own[b] != MP_NO_EXPERT));
            }
        assert_true(rule.n_slots == 0 || n_copies <= rule.n_slots);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lina_schedule__as_printed),
        cmocka_unit_test(test_lina_schedule__makes_room),
        cmocka_unit_test(test_lina_schedule__always_a_placement),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
