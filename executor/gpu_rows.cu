/* Gathers and scatters rows of tokens. A copy of rows is bound by memory: what counts is that every access is 16 bytes
 * wide, that neighbours in a warp touch neighbouring bytes, and that each thread has several loads under way before it
 * stores the first. A warp takes a row at a time, AT_ONCE pieces of 16 bytes per lane; warps go over rows in strides of
 * the grid, so short rows do not leave lanes of a block idle behind a long one. */
extern "C" {
#include "gpu_rows.h"
}
#include <cuda_runtime.h>

namespace {

const uint32_t WARP = 32, WARPS_PER_BLOCK = 8, AT_ONCE = 4;

template <bool IS_GATHER>
__global__ void __launch_bounds__(WARP *WARPS_PER_BLOCK)
    move_rows(uint4 *__restrict__ to, const uint4 *__restrict__ from, const uint32_t *__restrict__ index,
              uint32_t n_rows, uint64_t row_pieces) {
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t n_warps = (uint64_t)gridDim.x * WARPS_PER_BLOCK;
    for (uint64_t k = (uint64_t)blockIdx.x * WARPS_PER_BLOCK + threadIdx.x / WARP; k < n_rows; k += n_warps) {
        const uint64_t other = index[k];
        const uint4 *source = from + (IS_GATHER ? other : k) * row_pieces;
        uint4 *target = to + (IS_GATHER ? k : other) * row_pieces;
        uint64_t at = lane;
        for (; at + (AT_ONCE - 1) * WARP < row_pieces; at += AT_ONCE * WARP) {
            uint4 piece[AT_ONCE];
#pragma unroll
            for (uint32_t i = 0; i < AT_ONCE; i++)
                piece[i] = __ldcs(&source[at + i * WARP]); /* read once: no need to keep it */
#pragma unroll
            for (uint32_t i = 0; i < AT_ONCE; i++)
                target[at + i * WARP] = piece[i];
        }
        for (; at < row_pieces; at += WARP)
            target[at] = __ldcs(&source[at]);
    }
}

template <bool IS_GATHER>
int launch(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes, void *stream) {
    if (row_bytes % sizeof(uint4) != 0 || (uintptr_t)to % sizeof(uint4) != 0 || (uintptr_t)from % sizeof(uint4) != 0)
        return (int)cudaErrorInvalidValue;
    if (n_rows == 0 || row_bytes == 0)
        return (int)cudaSuccess;
    int device = 0, n_processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess)
        return (int)error;
    const uint32_t n_needed = (n_rows + WARPS_PER_BLOCK - 1) / WARPS_PER_BLOCK, n_most = 8 * (uint32_t)n_processors;
    // clang-format off
    move_rows<IS_GATHER><<<n_needed < n_most ? n_needed : n_most, WARP * WARPS_PER_BLOCK, 0, (cudaStream_t)stream>>>(
        (uint4 *)to, (const uint4 *)from, index, n_rows, row_bytes / sizeof(uint4));
    // clang-format on
    return (int)cudaGetLastError();
}

} // namespace

extern "C" int gpu_rows_gather(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes,
                               void *stream) {
    return launch<true>(to, from, index, n_rows, row_bytes, stream);
}
extern "C" int gpu_rows_scatter(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes,
                                void *stream) {
    return launch<false>(to, from, index, n_rows, row_bytes, stream);
}
