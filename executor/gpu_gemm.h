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

#endif
