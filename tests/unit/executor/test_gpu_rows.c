/* Gathers and scatters of rows: the CPU reference by its definition, and the kernels against it where there is a GPU.
 */
#include "support.h"
#include "../../../executor/gpu_rows.h"
#include <moeplan/base.h>
#include <cuda_runtime_api.h>

struct rows {
    uint32_t n, *index; /* a permutation */
    uint64_t bytes;
    uint8_t *from, *to, *want;
};
static void rows_make(struct rows *r, uint32_t n, uint64_t bytes, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    *r = (struct rows){
        n, calloc(n + 1, sizeof *r->index), bytes, malloc(n * bytes + 1), malloc(n * bytes + 1), malloc(n * bytes + 1)};
    assert_true(r->index != NULL && r->from != NULL && r->to != NULL && r->want != NULL);
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t other = (uint32_t)mp_rng_below(&rng, k + 1);
        r->index[k] = r->index[other];
        r->index[other] = k;
    }
    for (uint64_t i = 0; i < n * bytes; i++)
        r->from[i] = (uint8_t)mp_rng_below(&rng, 256);
    memset(r->to, 0xEE, n * bytes + 1);
    memset(r->want, 0xEE, n * bytes + 1);
}
static void rows_free(struct rows *r) {
    free(r->index);
    free(r->from);
    free(r->to);
    free(r->want);
}

static void test_gpu_rows__reference(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct rows r;
        rows_make(&r, (uint32_t)(seed * 7 % 50), 16 * (1 + seed % 9), seed);
        gpu_rows_gather_reference(r.to, r.from, r.index, r.n, r.bytes);
        for (uint64_t i = 0; i < r.n * r.bytes; i++)
            assert_int_equal(r.to[i], r.from[r.index[i / r.bytes] * r.bytes + i % r.bytes]);
        assert_int_equal(r.to[r.n * r.bytes], 0xEE);
        gpu_rows_scatter_reference(r.want, r.to, r.index, r.n, r.bytes); /* back again */
        assert_memory_equal(r.want, r.from, r.n * r.bytes);
        assert_int_equal(r.want[r.n * r.bytes], 0xEE);
        rows_free(&r);
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
    static const uint64_t bytes[] = {16, 48, 496, 512, 528, 2048, 2064, 7168, 14336, 28672};
    if (!has_gpu())
        skip();
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct rows r;
        void *from, *to, *index;
        rows_make(&r, (uint32_t)(seed * 37 % 3000), bytes[seed % 10], seed);
        const size_t n = r.n * r.bytes;
        assert_int_equal(cudaMalloc(&from, n + 16), cudaSuccess);
        assert_int_equal(cudaMalloc(&to, n + 16), cudaSuccess);
        assert_int_equal(cudaMalloc(&index, r.n * sizeof *r.index + 16), cudaSuccess);
        assert_int_equal(cudaMemcpy(from, r.from, n, cudaMemcpyHostToDevice), cudaSuccess);
        assert_int_equal(cudaMemcpy(index, r.index, r.n * sizeof *r.index, cudaMemcpyHostToDevice), cudaSuccess);
        for (int is_gather = 0; is_gather < 2; is_gather++) {
            memset(r.want, 0xEE, n);
            assert_int_equal(cudaMemset(to, 0xEE, n + 16), cudaSuccess);
            (is_gather ? gpu_rows_gather_reference : gpu_rows_scatter_reference)(r.want, r.from, r.index, r.n, r.bytes);
            assert_int_equal((is_gather ? gpu_rows_gather : gpu_rows_scatter)(to, from, index, r.n, r.bytes, NULL), 0);
            assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
            assert_int_equal(cudaMemcpy(r.to, to, n, cudaMemcpyDeviceToHost), cudaSuccess);
            assert_memory_equal(r.to, r.want, n);
        }
        assert_int_equal(cudaFree(from), cudaSuccess);
        assert_int_equal(cudaFree(to), cudaSuccess);
        assert_int_equal(cudaFree(index), cudaSuccess);
        rows_free(&r);
    }
}

static void test_gpu_rows__refuses_what_is_not_aligned(void **state) {
    (void)state;
    static _Alignas(16) uint8_t bytes[64];
    static const uint32_t index[1];
    assert_int_equal(gpu_rows_gather(bytes, bytes + 32, index, 1, 15, NULL), cudaErrorInvalidValue);
    assert_int_equal(gpu_rows_scatter(bytes + 1, bytes + 32, index, 1, 16, NULL), cudaErrorInvalidValue);
    assert_int_equal(gpu_rows_gather(bytes, bytes + 33, index, 1, 16, NULL), cudaErrorInvalidValue);
    assert_int_equal(gpu_rows_gather(bytes, bytes + 32, index, 0, 16, NULL), cudaSuccess); /* nothing to do */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpu_rows__reference),
        cmocka_unit_test(test_gpu_rows__kernels_agree_with_the_reference),
        cmocka_unit_test(test_gpu_rows__refuses_what_is_not_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
