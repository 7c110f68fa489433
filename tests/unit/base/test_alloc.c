#include "support.h"

static void test_alloc__limit_is_enforced_and_live_returns_to_zero(void **state) {
    (void)state;
    uint64_t before = mp_alloc_live();
    mp_alloc_limit(before + 1000);
    void *p = mp_calloc(10, 50);
    assert_non_null(p);
    assert_null(mp_calloc(10, 50));
    mp_free(p);
    assert_int_equal(mp_alloc_live(), before);
    mp_alloc_limit(0);
}

static void test_alloc__overflowing_sizes_are_refused(void **state) {
    (void)state;
    assert_null(mp_calloc(SIZE_MAX / 2, 3));
    assert_null(mp_calloc(SIZE_MAX, 1));
    struct mp_arena *a = mp_arena_new();
    assert_null(mp_arena_alloc(a, SIZE_MAX / 2, 3));
    assert_null(mp_arena_alloc(a, SIZE_MAX, 1));
    mp_arena_free(a);
}

static void test_alloc__arena_memory_is_zero_aligned_and_separate(void **state) {
    (void)state;
    struct mp_arena *a = mp_arena_new();
    unsigned char *blocks[300];
    for (size_t i = 0; i < 300; i++) {
        size_t n = i * 37 % 5000 + 1;
        blocks[i] = mp_arena_alloc(a, n, 1);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        for (size_t j = 0; j < n; j++)
            assert_int_equal(blocks[i][j], 0);
        memset(blocks[i], (int)(i % 255 + 1), n);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t j = 0; j < i * 37 % 5000 + 1; j++)
            assert_int_equal(blocks[i][j], i % 255 + 1);
    mp_arena_free(a);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc__limit_is_enforced_and_live_returns_to_zero),
        cmocka_unit_test(test_alloc__overflowing_sizes_are_refused),
        cmocka_unit_test(test_alloc__arena_memory_is_zero_aligned_and_separate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
