#include "../unit/plan/random_plan.h"
#include "mutations.h"
#include "support.h"

/* 15,000 random plans, each broken in four ways in turn: every break must be refused by its name, and the unbroken plan
 * accepted. */
static void test_mutations_structure__all_refused_by_name(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(11);
    uint32_t applied[128] = {0}, next = 0;
    for (uint32_t round = 0; round < 15000; round++) {
        struct random_plan_shape shape = random_shape(&rng);
        uint64_t seed = mp_rng_next(&rng);
        for (int i = -1; i < 4; i++) {
            struct mp_rng own = mp_rng_seed(seed);
            struct mp_plan *p = random_plan(&own, &shape);
            struct mp_verify_report *r;
            struct mp_error err = {0};
            const struct mutation *m = NULL;
            if (i >= 0) {
                m = &mutations[next++ % n_mutations];
                if (m->needs_data || !m->apply(p, &rng)) {
                    mp_plan_free(p);
                    continue;
                }
                applied[m - mutations]++;
            }
            CHECK_OK(mp_plan_verify(&r, p, NULL, NULL, NULL, &err), err);
            bool is_named = i < 0 && r->n == 0;
            for (uint32_t k = 0; m != NULL && k < r->n; k++)
                is_named |= m->kinds >> r->violations[k].kind & 1;
            if (!is_named)
                fail_msg("round %u: %s: %u violations, the first \"%s\"", round, m != NULL ? m->name : "unbroken", r->n,
                         r->n > 0 ? r->violations[0].message : "");
            mp_verify_report_free(r);
            mp_plan_free(p);
        }
    }
    for (uint32_t i = 0; i < n_mutations; i++)
        if (!mutations[i].needs_data && applied[i] < 10)
            fail_msg("%s: applied %u times only", mutations[i].name, applied[i]);
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_verify_report *r;
    enum mp_status status = mp_plan_verify(&r, ctx, NULL, NULL, NULL, err);
    mp_verify_report_free(r);
    return status;
}

static void test_mutations_structure__faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(5);
    struct random_plan_shape shape = {2, 9, 4, 2, 3, true, true};
    for (int i = 0; i < 8; i++) {
        struct mp_plan *p = random_plan(&rng, &shape);
        sweep_faults(flow, p, 1);
        p->layers[0].slot_expert[0] = 999; /* and while there are violations to record */
        sweep_faults(flow, p, 1);
        mp_plan_free(p);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutations_structure__all_refused_by_name),
        cmocka_unit_test(test_mutations_structure__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
