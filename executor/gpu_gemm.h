/* Real experts on a GPU: a matrix product for each, of different numbers of rows, through cuBLAS, which is loaded when
 * it is asked for. */
#ifndef EXECUTOR_GPU_GEMM_H
#define EXECUTOR_GPU_GEMM_H

#include "gpu.h"

struct gpu_gemm;
/* On the device that is current. MP_EIO: cuBLAS is not installed or refuses. */
enum mp_status gpu_gemm_open(struct gpu_gemm **out, struct mp_error *err) MP_MUST_CHECK;
void gpu_gemm_close(struct gpu_gemm *g);
/* For each expert e: out rows = in rows * weights of e, bfloat16 with sums in float. rows[e] rows of `in` (k wide) and
 * `out` (n wide) lie one expert behind the other; weights of e are k * n, one expert behind the other. Row-major. All
 * of the device, enqueued on the stream. */
enum mp_status gpu_gemm_run(struct gpu_gemm *g, uint32_t n_experts, const uint32_t *rows, uint32_t n, uint32_t k,
                            const void *in, const void *weights, void *out, cudaStream_t stream,
                            struct mp_error *err) MP_MUST_CHECK;

/* Experts of ranks on one device: their products, one rank at a time, with memory that grows as needed. */
struct gpu_experts {
    struct gpu_gemm *gemm;
    uint8_t *memory[4]; /* in and out, up, inner, weights: their contents do not matter */
    uint64_t n_bytes[4];
    cudaStream_t stream;
    cudaEvent_t from, to;
};
enum mp_status gpu_experts_run(struct gpu_experts *x, int device, const struct ex_gemm *q, uint64_t deadline_ms,
                               uint64_t *ns, struct mp_error *err) MP_MUST_CHECK;
void gpu_experts_close(struct gpu_experts *x);

#endif
