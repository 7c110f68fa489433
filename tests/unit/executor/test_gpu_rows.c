/* Rows moved and added up by tables: the CPU reference by its definition, and the kernels against it where there is a
 * GPU. */
#include "support.h"
#include "../../../executor/gpu_rows.h"
#include <moeplan/base.h>
#include <cuda_runtime_api.h>

/* Rows that are moved or added to lie in the front of the block, one behind the other as in a flow, those that are read
 * behind them; then come the tables, as they do in the block of a rank. */
struct rows {
    uint32_t n, n_terms, n_from;
    uint64_t bytes, from_at, moves_at, sums_at, terms_at, size;
    uint8_t *block;
};
static uint64_t row_word(const uint8_t *row, uint64_t at, uint64_t bytes) {
    uint64_t word = 0;
    for (uint64_t i = 0; i < 8 && at + i < bytes; i++)
        word |= (uint64_t)row[at + i] << 8 * i;
    return word;
}
static void rows_make(struct rows *r, uint32_t n, uint64_t bytes, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    *r = (struct rows){.n = n, .n_from = n + 1, .bytes = bytes};
    uint32_t *n_terms_of = calloc(n + 1, sizeof *n_terms_of);
    assert_non_null(n_terms_of);
    for (uint32_t k = 0; k < n; k++)
        r->n_terms += n_terms_of[k] = (uint32_t)mp_rng_below(&rng, 11);
    r->from_at = (n * bytes + 63) / 64 * 64;
    r->moves_at = (r->from_at + r->n_from * bytes + 63) / 64 * 64;
    r->sums_at = r->moves_at + n * sizeof(struct gpu_row_move);
    r->terms_at = r->sums_at + n * sizeof(struct gpu_row_sum);
    r->size = r->terms_at + r->n_terms * sizeof(struct gpu_row_term) + 1;
    r->block = malloc(r->size);
    assert_non_null(r->block);
    for (uint64_t i = 0; i < r->size; i++)
        r->block[i] = (uint8_t)mp_rng_next(&rng);
    struct gpu_row_move *moves = (void *)(r->block + r->moves_at);
    struct gpu_row_sum *sums = (void *)(r->block + r->sums_at);
    struct gpu_row_term *terms = (void *)(r->block + r->terms_at);
    for (uint32_t k = 0, first = 0; k < n; first += n_terms_of[k++]) {
        const uint32_t other = (uint32_t)mp_rng_below(&rng, (uint64_t)k + 1);
        moves[k] = (struct gpu_row_move){r->from_at + mp_rng_below(&rng, r->n_from) * bytes, moves[other].to_at};
        moves[other].to_at = k * bytes;
        sums[k] = (struct gpu_row_sum){k * bytes, first, n_terms_of[k]};
    }
    for (uint32_t t = 0; t < r->n_terms; t++)
        terms[t] = (struct gpu_row_term){r->from_at + mp_rng_below(&rng, r->n_from) * bytes,
                                         mp_rng_below(&rng, 3) == 0 ? 1 : mp_rng_next(&rng)};
    free(n_terms_of);
}
static void apply(const struct rows *r, uint8_t *block, bool adds) {
    if (adds)
        gpu_rows_add_reference(block, (void *)(block + r->sums_at), (void *)(block + r->terms_at), r->n, r->bytes);
    else
        gpu_rows_move_reference(block, (void *)(block + r->moves_at), r->n, r->bytes);
}
static uint8_t *copy_of(const struct rows *r) {
    uint8_t *copy = malloc(r->size);
    assert_non_null(copy);
    memcpy(copy, r->block, r->size);
    return copy;
}
static const uint64_t sizes[] = {1, 3, 8, 13, 16, 24, 48, 100, 496, 512, 520, 528, 2048, 2064, 7168, 7175, 14336};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void test_gpu_rows__reference(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct rows r;
        rows_make(&r, (uint32_t)(seed * 7 % 50), sizes[seed % 10], seed);
        uint8_t *moved = copy_of(&r), *added = copy_of(&r);
        const struct gpu_row_move *moves = (void *)(r.block + r.moves_at);
        const struct gpu_row_sum *sums = (void *)(r.block + r.sums_at);
        const struct gpu_row_term *terms = (void *)(r.block + r.terms_at);
        apply(&r, moved, false);
        apply(&r, added, true);
        for (uint32_t k = 0; k < r.n; k++) {
            for (uint64_t i = 0; i < r.bytes; i++)
                assert_int_equal(moved[moves[k].to_at + i], r.block[moves[k].from_at + i]);
            for (uint64_t at = 0; at < r.bytes; at += 8) {
                uint64_t want = row_word(r.block + sums[k].to_at, at, r.bytes);
                for (uint32_t t = 0; t < sums[k].n_terms; t++)
                    want += terms[sums[k].first_term + t].weight *
                            row_word(r.block + terms[sums[k].first_term + t].from_at, at, r.bytes);
                const uint64_t mask = r.bytes - at < 8 ? (UINT64_C(1) << 8 * (r.bytes - at)) - 1 : UINT64_MAX;
                assert_true(row_word(added + sums[k].to_at, at, r.bytes) == (want & mask));
            }
        }
        /* Nothing else is touched. */
        assert_memory_equal(moved + r.n * r.bytes, r.block + r.n * r.bytes, r.size - r.n * r.bytes);
        assert_memory_equal(added + r.n * r.bytes, r.block + r.n * r.bytes, r.size - r.n * r.bytes);
        free(moved);
        free(added);
        free(r.block);
    }
}

static bool has_gpu(void) {
    int n = 0;
    const bool has = cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
    if (!has)
        print_message("skipped: no CUDA driver or no GPU on this machine\n");
    return has;
}

static void test_gpu_rows__kernels_agree_with_the_reference(void **state) {
    (void)state;
    if (!has_gpu())
        skip();
    for (uint64_t seed = 0; seed < 5 * N_SIZES; seed++) {
        struct rows r;
        void *memory;
        rows_make(&r, (uint32_t)(seed * 37 % 1500), sizes[seed % N_SIZES], seed);
        assert_int_equal(cudaMalloc(&memory, r.size), cudaSuccess);
        uint8_t *block = memory;
        for (int adds = 0; adds < 2; adds++) {
            uint8_t *want = copy_of(&r), *got = copy_of(&r);
            apply(&r, want, adds);
            assert_int_equal(cudaMemcpy(block, r.block, r.size, cudaMemcpyHostToDevice), cudaSuccess);
            assert_int_equal(adds ? gpu_rows_add(block, (void *)(block + r.sums_at), (void *)(block + r.terms_at), r.n,
                                                 r.bytes, NULL)
                                  : gpu_rows_move(block, (void *)(block + r.moves_at), r.n, r.bytes, NULL),
                             0);
            assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
            assert_int_equal(cudaMemcpy(got, block, r.size, cudaMemcpyDeviceToHost), cudaSuccess);
            assert_memory_equal(got, want, r.size);
            free(want);
            free(got);
        }
        assert_int_equal(cudaFree(memory), cudaSuccess);
        free(r.block);
    }
}

static void test_gpu_rows__nothing_to_do_needs_no_gpu(void **state) {
    (void)state;
    assert_int_equal(gpu_rows_move(NULL, NULL, 0, 16, NULL), cudaSuccess);
    assert_int_equal(gpu_rows_move(NULL, NULL, 3, 0, NULL), cudaSuccess);
    assert_int_equal(gpu_rows_add(NULL, NULL, NULL, 0, 16, NULL), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpu_rows__reference),
        cmocka_unit_test(test_gpu_rows__kernels_agree_with_the_reference),
        cmocka_unit_test(test_gpu_rows__nothing_to_do_needs_no_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
