#include "samples.h"

static struct mp_trace_builder *new_builder(struct shape s) {
    struct mp_trace_builder *b;
    struct mp_error err = {0};
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .n_layers = s.n_layers,
                                 .n_experts = s.n_experts,
                                 .top_k = s.top_k,
                                 .has_weights = s.has_weights,
                                 .has_unused = s.has_unused};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    return b;
}

/* Rows of ascending pseudo-random ids, token-major: distinct in each list by construction. */
static uint32_t id_of(uint64_t row, uint32_t layer, uint32_t j, struct shape s) {
    return (uint32_t)((mp_mix64(row * 131 + layer) + (uint64_t)j * (s.n_experts / s.top_k)) % s.n_experts);
}

/* Both ways in, every width, over the borders of chunks: what goes in comes out. */
static void test_trace_builder__rows_come_out_as_they_went_in(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        {2, 64, 6, 3, 30000, false, false}, {1, 256, 8, 2, 65536, false, false}, {3, 300, 2, 4, 33000, false, true}};
    for (size_t i = 0; i < 3; i++) {
        struct shape s = shapes[i];
        uint64_t n = (uint64_t)s.n_requests * s.rows_per_request;
        struct mp_trace *first = NULL;
        for (uint32_t width = i == 0 ? 1 : 2; width <= 8; width *= 2) {
            struct mp_trace_builder *b = new_builder(s);
            struct mp_error err = {0};
            size_t list = (size_t)s.n_layers * s.top_k;
            uint8_t *block = calloc(s.rows_per_request * list, width);
            for (uint32_t r = 0; r < s.n_requests; r++) {
                struct mp_request q = {.id = r, .source = MP_NONE, .category = MP_NONE};
                CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
                for (uint32_t row = 0; row < s.rows_per_request; row++)
                    for (uint32_t l = 0; l < s.n_layers; l++)
                        for (uint32_t j = 0; j < s.top_k; j++) {
                            uint64_t v = id_of((uint64_t)r * s.rows_per_request + row, l, j, s);
                            memcpy(block + (row * list + l * s.top_k + j) * width, &v, width);
                        }
                uint32_t half = r % 2 == 0 ? s.rows_per_request : s.rows_per_request / 3;
                CHECK_OK(mp_trace_builder_rows(b, block, width, half, &err), err);
                for (uint32_t row = half; row < s.rows_per_request; row++) {
                    uint16_t ids[64];
                    for (size_t c = 0; c < list; c++) {
                        uint64_t v = 0;
                        memcpy(&v, block + (row * list + c) * width, width);
                        ids[c] = (uint16_t)v;
                    }
                    CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
                }
            }
            free(block);
            struct mp_trace *t;
            CHECK_OK(mp_trace_builder_finish(b, "abc", &t, &err), err);
            assert_int_equal(t->n_rows, n);
            assert_string_equal(t->sha256, "abc");
            CHECK_OK(mp_trace_check(t, &err), err);
            if (first == NULL) {
                first = t;
                for (uint64_t row = 0; row < n; row += row % 7 + 1)
                    for (uint32_t l = 0; l < s.n_layers; l++) {
                        uint16_t ids[16];
                        assert_int_equal(mp_trace_row(t, l, row, ids), s.top_k);
                        for (uint32_t j = 0; j < s.top_k; j++)
                            assert_int_equal(ids[j], id_of(row, l, j, s));
                    }
            } else {
                assert_true(mp_trace_equal(first, t));
                mp_trace_free(t);
            }
        }
        mp_trace_free(first);
    }
}

/* A wrong id anywhere is found, in either way in: the fast check of many lists against the plain rule. */
static void test_trace_builder__one_wrong_id_among_many_is_found(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        {1, 64, 4, 1, 5000, false, false},  {1, 64, 7, 1, 5000, false, true},  {1, 256, 8, 1, 3000, false, false},
        {1, 2000, 5, 1, 3000, false, true}, {1, 90, 17, 1, 600, false, false}, {1, 9, 1, 1, 9000, false, true},
        {1, 64, 8, 1, 3000, false, true},   {1, 64, 4, 1, 5000, false, true},  {1, 300, 4, 1, 3000, false, true},
        {1, 300, 8, 1, 3000, false, false}, {1, 60, 6, 1, 3000, false, true},  {1, 60, 10, 1, 3000, false, false}};
    struct mp_rng rng = mp_rng_seed(9);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct shape s = shapes[i];
        uint32_t n = s.rows_per_request, k = s.top_k;
        uint16_t *ids = calloc((size_t)n * k, sizeof *ids);
        for (uint32_t row = 0; row < n; row++)
            for (uint32_t j = 0; j < k; j++)
                ids[row * k + j] = (uint16_t)id_of(row, 0, j, s);
        for (int round = 0; round < 60; round++) {
            uint32_t row = round == 0   ? 0
                           : round == 1 ? n - 1
                                        : (uint32_t)mp_rng_below(&rng, n),
                     j = (uint32_t)mp_rng_below(&rng, k);
            uint16_t *at = &ids[row * k + j], old = *at;
            int kind = round % 3;
            if (kind == 0 && k > 1)
                *at = ids[row * k + (j + 1) % k]; /* twice */
            else if (kind == 1 && s.has_unused && j + 1 < k)
                *at = MP_NO_EXPERT; /* a gap */
            else if (s.n_experts != 256)
                *at = (uint16_t)s.n_experts;
            else
                *at = 256;
            struct mp_trace_builder *b = new_builder(s);
            struct mp_error err = {0};
            struct mp_request q = {.id = 5, .source = MP_NONE, .category = MP_NONE};
            struct mp_trace *t = NULL;
            CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
            enum mp_status status = mp_trace_builder_rows(b, ids, 2, n, &err);
            if (status == MP_OK)
                status = mp_trace_builder_finish(b, NULL, &t, &err);
            else
                mp_trace_builder_free(b);
            assert_int_equal(status, MP_EINPUT);
            char want[64];
            snprintf(want, sizeof want, "token %u of request 5, layer 0: ", row);
            if (strncmp(err.message, want, strlen(want)) != 0)
                fail_msg("%s instead of %s", err.message, want);
            *at = old;
        }
        free(ids);
    }
}

static void test_trace_builder__misuse_and_limits_are_refused(void **state) {
    (void)state;
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_error err = {0};
    static const uint32_t descending[] = {3, 2};
    struct mp_trace_meta good = {.kind = MP_TRACE_TOKENS, .n_layers = 2, .n_experts = 8, .top_k = 2}, bad[8];
    for (size_t i = 0; i < 8; i++)
        bad[i] = good;
    bad[0].n_layers = 0;
    bad[1].n_layers = MP_MAX_LAYERS + 1;
    bad[2].n_experts = MP_MAX_EXPERTS + 1;
    bad[3].top_k = 0;
    bad[4].top_k = 9;
    bad[5].layer_ids = descending;
    bad[6].model = "a\nb";
    bad[7].n_experts = 4000, bad[7].top_k = MP_MAX_TOP_K + 1;
    for (size_t i = 0; i < 8; i++) {
        mp_error_clear(&err);
        assert_int_not_equal(mp_trace_builder_new(&b, &bad[i], &mp_limits_default, &err), MP_OK);
        assert_null(b);
    }
    mp_error_clear(&err);
    b = new_builder((struct shape){2, 8, 2, 0, 0, false, false});
    assert_int_equal(mp_trace_builder_finish(b, NULL, &t, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "no tokens"));
    b = new_builder((struct shape){2, 8, 2, 0, 0, false, false});
    struct mp_request q = {.id = 1, .source = MP_NONE, .category = MP_NONE};
    mp_error_clear(&err);
    CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
    assert_int_equal(mp_trace_builder_request(b, &q, &err), MP_EINPUT);
    assert_string_equal(err.message, "request 1 has no tokens");
    mp_trace_builder_free(b);
    /* The memory limit is felt before the memory is taken. */
    struct mp_limits small = mp_limits_default;
    small.memory_bytes = 1 << 20;
    mp_error_clear(&err);
    CHECK_OK(mp_trace_builder_new(&b, &good, &small, &err), err);
    CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
    uint8_t row[4] = {0, 1, 2, 3};
    enum mp_status status = MP_OK;
    uint64_t n = 0, before = mp_alloc_live();
    for (; status == MP_OK; n++)
        status = mp_trace_builder_rows(b, row, 1, 1, &err);
    assert_int_equal(status, MP_ELIMIT);
    assert_true(n > 100000 && n <= (1 << 18) + 1);
    assert_true(mp_alloc_live() - before < (3 << 19));
    mp_trace_builder_free(b);
    struct mp_trace_meta counts = {.kind = MP_TRACE_COUNTS, .n_layers = 1024, .n_experts = 4096, .n_sources = 4096};
    mp_error_clear(&err);
    CHECK_OK(mp_trace_builder_new(&b, &counts, &mp_limits_default, &err), err);
    assert_int_equal(mp_trace_builder_iteration(b, MP_NONE, &err), MP_ELIMIT);
    mp_trace_builder_free(b);
}

static void test_trace_builder__many_categories_keep_their_indexes(void **state) {
    (void)state;
    struct mp_trace_builder *b = new_builder((struct shape){1, 8, 2, 0, 0, false, false});
    struct mp_error err = {0};
    for (int round = 0; round < 2; round++)
        for (uint32_t i = 0; i < 5000; i++) {
            char name[32];
            uint32_t index;
            snprintf(name, sizeof name, "c%u", i * 7919);
            CHECK_OK(mp_trace_builder_category(b, name, &index, &err), err);
            assert_int_equal(index, i);
        }
    uint32_t index;
    assert_int_equal(mp_trace_builder_category(b, "", &index, &err), MP_EINPUT);
    mp_error_clear(&err);
    assert_int_equal(mp_trace_builder_category(b, "\x80", &index, &err), MP_EINPUT);
    mp_trace_builder_free(b);
}

static void test_trace_builder__pairs_are_sorted_and_unique(void **state) {
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        struct mp_trace_builder *b;
        struct mp_trace *t;
        struct mp_error err = {0};
        struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS, .n_layers = 2, .n_experts = 4};
        CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
        CHECK_OK(mp_trace_builder_iteration(b, MP_NONE, &err), err);
        static const struct mp_pair pairs[] = {{1, 0, 1, 5}, {0, 2, 3, 4}, {0, 0, 3, 3}, {0, 2, 3, 1}};
        for (int i = 0; i < 3 + twice; i++)
            CHECK_OK(mp_trace_builder_pair(b, &pairs[i], &err), err);
        enum mp_status status = mp_trace_builder_finish(b, NULL, &t, &err);
        if (twice) {
            assert_int_equal(status, MP_EINPUT);
            assert_non_null(strstr(err.message, "given twice"));
        } else {
            CHECK_OK(status, err);
            CHECK_OK(mp_trace_check(t, &err), err);
            assert_int_equal(t->pairs[0].first, 0);
            assert_int_equal(t->pairs[2].layer, 1);
            mp_trace_free(t);
        }
    }
}

static enum mp_status build_once(void *ctx, struct mp_error *err) {
    (void)ctx;
    struct mp_trace_builder *b = NULL;
    struct mp_trace *t = NULL;
    struct mp_trace_meta meta = {
        .kind = MP_TRACE_TOKENS, .n_layers = 2, .n_experts = 8, .top_k = 2, .has_weights = true};
    enum mp_status status = mp_trace_builder_new(&b, &meta, &mp_limits_default, err);
    struct mp_request q = {.id = 1, .source = MP_NONE, .category = MP_NONE};
    if (status == MP_OK)
        status = mp_trace_builder_category(b, "c", &q.category, err);
    if (status == MP_OK)
        status = mp_trace_builder_request(b, &q, err);
    for (int i = 0; i < 600 && status == MP_OK; i++)
        status = mp_trace_builder_row(b, (const uint16_t[]){0, 1, 2, 3}, (const uint16_t[]){1, 2, 3, 4}, err);
    if (status == MP_OK)
        status = mp_trace_builder_finish(b, NULL, &t, err);
    else
        mp_trace_builder_free(b);
    mp_trace_free(t);
    return status;
}
static void test_trace_builder__every_fault_is_reported(void **state) {
    (void)state;
    sweep_faults(build_once, NULL, 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_trace_builder__rows_come_out_as_they_went_in),
    cmocka_unit_test(test_trace_builder__one_wrong_id_among_many_is_found),
    cmocka_unit_test(test_trace_builder__misuse_and_limits_are_refused),
    cmocka_unit_test(test_trace_builder__many_categories_keep_their_indexes),
    cmocka_unit_test(test_trace_builder__pairs_are_sorted_and_unique),
    cmocka_unit_test(test_trace_builder__every_fault_is_reported),
};
RUN(tests)
