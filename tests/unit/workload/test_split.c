#include "made.h"

static void test_split__parses(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum mp_split_kind kind;
        uint32_t ppm;
        const char *categories;
    } good[] = {
        {"none", MP_SPLIT_NONE, 0, NULL},
        {"0.5", MP_SPLIT_HASH, 500000, NULL},
        {"hash:0.25", MP_SPLIT_HASH, 250000, NULL},
        {"time:0.333333", MP_SPLIT_TIME, 333333, NULL},
        {"1e-6", MP_SPLIT_HASH, 1, NULL},
        {"0.999999", MP_SPLIT_HASH, 999999, NULL},
        {"category:A,B", MP_SPLIT_CATEGORY, 0, "A,B"},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct mp_error err = {0};
        struct mp_split s;
        CHECK_OK(mp_split_parse(&s, good[i].text, 7, &err), err);
        assert_int_equal(s.kind, good[i].kind);
        assert_int_equal(s.planning_ppm, good[i].ppm);
        assert_int_equal(s.seed, 7);
        if (good[i].categories != NULL)
            assert_string_equal(s.categories, good[i].categories);
    }
    static const char *const bad[] = {"",        "0",     "1",         "-0.5", "1.5",      "half",
                                      "0.5x",    "time:", "time:1",    "nan",  "inf",      "1e-9",
                                      "0x0.8p0", "hash:", "category:", " 0.5", "0.9999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mp_error err = {0};
        struct mp_split s;
        if (mp_split_parse(&s, bad[i], 0, &err) != MP_EUSAGE)
            fail_msg("\"%s\" was taken as a split", bad[i]);
        assert_non_null(strstr(err.message, "write"));
    }
}

/* The rule of docs/STEPS.md once more, by repeated selection of the smallest key. */
static void reference_hash(const struct mp_trace *t, uint32_t ppm, uint64_t seed, bool *plans) {
    uint64_t cum = 0, taken = 0;
    for (uint32_t c = 0; c <= t->n_categories; c++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < t->n_requests; i++) {
            uint32_t own = t->requests[i].category == MP_NONE ? t->n_categories : t->requests[i].category;
            n += own == c;
        }
        cum += n * ppm;
        uint64_t take = (cum + 500000) / 1000000 - taken;
        taken += take;
        for (; take > 0; take--) {
            uint32_t best = MP_NONE;
            uint64_t best_key = 0;
            for (uint32_t i = 0; i < t->n_requests; i++) {
                uint32_t own = t->requests[i].category == MP_NONE ? t->n_categories : t->requests[i].category;
                uint64_t key = mp_mix64(t->requests[i].id ^ mp_mix64(seed));
                if (own == c && !plans[i] && (best == MP_NONE || key < best_key)) {
                    best = i;
                    best_key = key;
                }
            }
            plans[best] = true;
        }
    }
}

static void test_split__hash_agrees_with_the_rule(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    for (int round = 0; round < 300; round++) {
        uint32_t rows[40], categories[40];
        uint64_t ids[40];
        struct made m = {.n = 2 + (uint32_t)mp_rng_below(&rng, 38), .rows = rows, .ids = ids};
        uint32_t n_categories = (uint32_t)mp_rng_below(&rng, 5);
        m.categories = n_categories > 0 ? categories : NULL;
        for (uint32_t i = 0; i < m.n; i++) {
            rows[i] = 1;
            /* ids repeat now and then, so that ties of keys occur */
            ids[i] = mp_rng_below(&rng, 50);
            categories[i] =
                mp_rng_below(&rng, 6) == 0 ? MP_NONE : (uint32_t)mp_rng_below(&rng, n_categories + (n_categories == 0));
        }
        struct mp_trace *t = make_trace(&m);
        struct mp_split split = {
            .kind = MP_SPLIT_HASH, .planning_ppm = 1 + (uint32_t)mp_rng_below(&rng, 999999), .seed = mp_rng_next(&rng)};
        bool plans[40] = {false};
        reference_hash(t, split.planning_ppm, split.seed, plans);
        struct mp_part planning, held_out;
        struct mp_error err = {0};
        uint32_t n_plans = 0;
        for (uint32_t i = 0; i < m.n; i++)
            n_plans += plans[i];
        enum mp_status status = mp_part_split(&planning, &held_out, t, &split, &err);
        if (n_plans == 0 || n_plans == m.n) {
            assert_int_equal(status, MP_EINPUT);
            assert_null(planning.members);
            assert_null(held_out.members);
        } else {
            CHECK_OK(status, err);
            /* Disjoint, ascending, everything covered. */
            assert_int_equal(planning.n + held_out.n, m.n);
            for (uint32_t i = 0, p = 0, h = 0; i < m.n; i++)
                if (plans[i])
                    assert_int_equal(planning.members[p++], i);
                else
                    assert_int_equal(held_out.members[h++], i);
            /* Shares: the whole within one half, each category within one. */
            double share = split.planning_ppm / 1e6;
            assert_true(planning.n <= share * m.n + 0.5 + 1e-9 && planning.n >= share * m.n - 0.5 - 1e-9);
            for (uint32_t c = 0; c <= t->n_categories; c++) {
                double of_category = 0, planned = 0;
                for (uint32_t i = 0; i < m.n; i++) {
                    uint32_t own = t->requests[i].category == MP_NONE ? t->n_categories : t->requests[i].category;
                    of_category += own == c;
                    planned += own == c && plans[i];
                }
                assert_true(planned < share * of_category + 1 && planned > share * of_category - 1);
            }
        }
        mp_part_free(&planning);
        mp_part_free(&held_out);
        mp_trace_free(t);
    }
}

/* The set of ids that plan does not depend on where they stand in the file. */
static void test_split__hash_ignores_the_order_of_requests(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(2);
    enum { N = 60 };
    uint32_t rows[N], categories[N], shuffled_categories[N], order[N];
    uint64_t ids[N], shuffled_ids[N];
    for (uint32_t i = 0; i < N; i++) {
        rows[i] = 1;
        ids[i] = mp_rng_next(&rng);
        categories[i] = i % 4;
        order[i] = i;
    }
    mp_rng_shuffle(&rng, order, N);
    for (uint32_t i = 0; i < N; i++) {
        shuffled_ids[i] = ids[order[i]];
        shuffled_categories[i] = categories[order[i]];
    }
    struct mp_trace *a = make_trace(&(struct made){.n = N, .rows = rows, .ids = ids, .categories = categories});
    struct mp_trace *b =
        make_trace(&(struct made){.n = N, .rows = rows, .ids = shuffled_ids, .categories = shuffled_categories});
    struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 400000, .seed = 5};
    struct mp_part plan_a, plan_b, rest;
    struct mp_error err = {0};
    CHECK_OK(mp_part_split(&plan_a, &rest, a, &split, &err), err);
    mp_part_free(&rest);
    CHECK_OK(mp_part_split(&plan_b, &rest, b, &split, &err), err);
    mp_part_free(&rest);
    assert_int_equal(plan_a.n, plan_b.n);
    uint64_t sum_a = 0, sum_b = 0;
    for (uint32_t i = 0; i < plan_a.n; i++) {
        sum_a += mp_mix64(a->requests[plan_a.members[i]].id);
        sum_b += mp_mix64(b->requests[plan_b.members[i]].id);
    }
    assert_int_equal(sum_a, sum_b);
    mp_part_free(&plan_a);
    mp_part_free(&plan_b);
    mp_trace_free(a);
    mp_trace_free(b);
}

static void test_split__time_category_and_none(void **state) {
    (void)state;
    static const uint32_t rows[5] = {1, 1, 1, 1, 1}, categories[5] = {0, 1, MP_NONE, 2, 1};
    struct mp_trace *t = make_trace(&(struct made){.n = 5, .rows = rows, .categories = categories});
    struct mp_part planning, held_out;
    struct mp_error err = {0};
    struct mp_split split;
    CHECK_OK(mp_split_parse(&split, "time:0.5", 0, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, t, &split, &err), err);
    assert_int_equal(planning.n, 3); /* 2.5 is rounded up */
    assert_int_equal(planning.members[2], 2);
    assert_int_equal(held_out.members[0], 3);
    mp_part_free(&planning);
    mp_part_free(&held_out);

    CHECK_OK(mp_split_parse(&split, "category:B,A,B", 0, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, t, &split, &err), err);
    static const uint32_t in_a_or_b[] = {0, 1, 4}, others[] = {2, 3};
    assert_int_equal(planning.n, 3);
    assert_memory_equal(planning.members, in_a_or_b, sizeof in_a_or_b);
    assert_int_equal(held_out.n, 2);
    assert_memory_equal(held_out.members, others, sizeof others);
    mp_part_free(&planning);
    mp_part_free(&held_out);

    CHECK_OK(mp_split_parse(&split, "none", 0, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, t, &split, &err), err);
    assert_int_equal(planning.n, 5);
    assert_int_equal(held_out.n, 5);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    mp_trace_free(t);
}

static void refused(const struct mp_trace *t, const char *text, const char *message) {
    struct mp_part planning, held_out;
    struct mp_error err = {0};
    struct mp_split split;
    CHECK_OK(mp_split_parse(&split, text, 0, &err), err);
    assert_int_equal(mp_part_split(&planning, &held_out, t, &split, &err), MP_EINPUT);
    assert_string_equal(err.message, message);
    assert_null(planning.members);
    assert_null(held_out.members);
}

static void test_split__refuses_with_the_numbers(void **state) {
    (void)state;
    static const uint32_t rows[3] = {1, 1, 1}, categories[3] = {0, 1, 1};
    struct mp_trace *t = make_trace(&(struct made){.n = 3, .rows = rows, .categories = categories});
    refused(t, "category:A,C", "the trace has no category \"C\" (its 2 are: A, B)");
    refused(t, "category:,", "the trace has no category \"\" (its 2 are: A, B)");
    refused(
        t, "category:A,B",
        "the split leaves 3 of 3 requests for planning and 0 held out: each part needs one (use another share, other "
        "categories, a larger trace, or --split none)");
    refused(
        t, "time:0.1",
        "the split leaves 0 of 3 requests for planning and 3 held out: each part needs one (use another share, other "
        "categories, a larger trace, or --split none)");
    mp_trace_free(t);
    t = make_trace(&(struct made){.n = 3, .rows = rows});
    refused(t, "category:A", "the trace has no categories to split by (use --split 0.5, or record them)");
    mp_trace_free(t);
}

static void test_split__jackknife_groups_partition_a_part(void **state) {
    (void)state;
    uint32_t rows[50];
    for (uint32_t i = 0; i < 50; i++)
        rows[i] = 1;
    struct mp_trace *t = make_trace(&(struct made){.n = 50, .rows = rows});
    struct mp_part all = part_of_all(t), rest;
    struct mp_error err = {0};
    uint32_t kept[50] = {0};
    for (uint32_t g = 0; g < 7; g++) {
        CHECK_OK(mp_part_without_group(&rest, &all, 7, g, &err), err);
        for (uint32_t i = 0; i < rest.n; i++) {
            kept[rest.members[i]]++;
            assert_true(mp_mix64(rest.members[i]) % 7 != g);
        }
        mp_part_free(&rest);
    }
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(kept[i], 6);
    assert_int_equal(mp_part_without_group(&rest, &all, 7, 7, &err), MP_EUSAGE);
    mp_part_free(&all);
    mp_trace_free(t);
}

static void test_split__splits_iterations_of_counts(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .is_time_ordered = false,
                                 .n_layers = 1,
                                 .n_experts = 2,
                                 .top_k = 1};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    uint32_t c[2];
    CHECK_OK(mp_trace_builder_category(b, "one", &c[0], &err), err);
    CHECK_OK(mp_trace_builder_category(b, "two", &c[1], &err), err);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_OK(mp_trace_builder_iteration(b, c[i % 2], &err), err);
        CHECK_OK(mp_trace_builder_count(b, 0, 0, i % 2, 1 + i, &err), err);
    }
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    struct mp_part planning, held_out;
    struct mp_split split;
    CHECK_OK(mp_split_parse(&split, "category:two", 0, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, t, &split, &err), err);
    assert_int_equal(planning.n, 5);
    assert_int_equal(planning.members[0], 1);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    CHECK_OK(mp_split_parse(&split, "0.4", 0, &err), err);
    CHECK_OK(mp_part_split(&planning, &held_out, t, &split, &err), err);
    assert_int_equal(planning.n, 4);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    refused(t, "time:0.5",
            "the iterations of this recording do not stand in time order, so they cannot be split by time "
            "(use --split 0.5)");
    mp_trace_free(t);
}

static enum mp_status split_flow(void *ctx, struct mp_error *err) {
    struct mp_split split;
    struct mp_part planning, held_out, rest = {0};
    enum mp_status status = mp_split_parse(&split, "0.5", 1, err);
    if (status == MP_OK)
        status = mp_part_split(&planning, &held_out, ctx, &split, err);
    if (status != MP_OK)
        return status;
    status = mp_part_without_group(&rest, &planning, 3, 1, err);
    mp_part_free(&planning);
    mp_part_free(&held_out);
    mp_part_free(&rest);
    if (status != MP_OK)
        return status;
    MP_TRY(mp_split_parse(&split, "category:A", 1, err));
    MP_TRY(mp_part_split(&planning, &held_out, ctx, &split, err));
    mp_part_free(&planning);
    mp_part_free(&held_out);
out:
    return status;
}

static void test_split__survives_faults(void **state) {
    (void)state;
    static const uint32_t rows[6] = {1, 1, 1, 1, 1, 1}, categories[6] = {0, 1, 0, 1, 0, 1};
    struct mp_trace *t = make_trace(&(struct made){.n = 6, .rows = rows, .categories = categories});
    sweep_faults(split_flow, t, 1);
    mp_trace_free(t);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split__parses),
        cmocka_unit_test(test_split__hash_agrees_with_the_rule),
        cmocka_unit_test(test_split__hash_ignores_the_order_of_requests),
        cmocka_unit_test(test_split__time_category_and_none),
        cmocka_unit_test(test_split__refuses_with_the_numbers),
        cmocka_unit_test(test_split__jackknife_groups_partition_a_part),
        cmocka_unit_test(test_split__splits_iterations_of_counts),
        cmocka_unit_test(test_split__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
