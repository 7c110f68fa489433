/* Moves and adds up rows of tokens. Both are bound by memory: what counts is that every access is 16 bytes wide, that
 * neighbours in a warp touch neighbouring bytes, and that each thread has several loads under way before it stores the
 * first. A warp takes a row at a time, AT_ONCE pieces per lane; warps go over rows in strides of the grid, so short
 * rows do not leave lanes of a block idle behind a long one. A sum is one warp's from its first term to its last: no
 * atomics, and the same order of terms each time (which of sums modulo 2^64 does not even matter). */
extern "C" {
#include "gpu_rows.h"
}
#include <cuda_runtime.h>

namespace {

const uint32_t WARP = 32, WARPS_PER_BLOCK = 8, AT_ONCE = 4;

template <typename PIECE>
__global__ void __launch_bounds__(WARP *WARPS_PER_BLOCK)
    move_rows(uint8_t *block, const gpu_row_move *rows, uint32_t n_rows, uint64_t n_pieces) {
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t n_warps = (uint64_t)gridDim.x * WARPS_PER_BLOCK;
    for (uint64_t k = (uint64_t)blockIdx.x * WARPS_PER_BLOCK + threadIdx.x / WARP; k < n_rows; k += n_warps) {
        const gpu_row_move row = rows[k];
        const PIECE *source = (const PIECE *)(block + row.from_at);
        PIECE *target = (PIECE *)(block + row.to_at);
        uint64_t at = lane;
        for (; at + (AT_ONCE - 1) * WARP < n_pieces; at += AT_ONCE * WARP) {
            PIECE piece[AT_ONCE];
#pragma unroll
            for (uint32_t i = 0; i < AT_ONCE; i++)
                piece[i] = __ldcs(&source[at + i * WARP]); /* read once: no need to keep it */
#pragma unroll
            for (uint32_t i = 0; i < AT_ONCE; i++)
                target[at + i * WARP] = piece[i];
        }
        for (; at < n_pieces; at += WARP)
            target[at] = __ldcs(&source[at]);
    }
}

__device__ ulonglong2 weighted(ulonglong2 sum, unsigned long long weight, ulonglong2 word) {
    sum.x += weight * word.x;
    sum.y += weight * word.y;
    return sum;
}
__device__ unsigned long long weighted(unsigned long long sum, unsigned long long weight, unsigned long long word) {
    return sum + weight * word;
}

template <typename PIECE>
__global__ void __launch_bounds__(WARP *WARPS_PER_BLOCK)
    add_rows(uint8_t *block, const gpu_row_sum *sums, const gpu_row_term *terms, uint32_t n_sums, uint64_t n_pieces) {
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t n_warps = (uint64_t)gridDim.x * WARPS_PER_BLOCK;
    for (uint64_t k = (uint64_t)blockIdx.x * WARPS_PER_BLOCK + threadIdx.x / WARP; k < n_sums; k += n_warps) {
        const gpu_row_sum sum = sums[k];
        const gpu_row_term *own = terms + sum.first_term;
        PIECE *target = (PIECE *)(block + sum.to_at);
        for (uint64_t at = lane; at < n_pieces; at += WARP) {
            PIECE total = target[at];
            uint32_t t = 0;
            for (; t + AT_ONCE <= sum.n_terms; t += AT_ONCE) {
                PIECE piece[AT_ONCE];
#pragma unroll
                for (uint32_t i = 0; i < AT_ONCE; i++)
                    piece[i] = __ldcs((const PIECE *)(block + own[t + i].from_at) + at);
#pragma unroll
                for (uint32_t i = 0; i < AT_ONCE; i++)
                    total = weighted(total, own[t + i].weight, piece[i]);
            }
            for (; t < sum.n_terms; t++)
                total = weighted(total, own[t].weight, __ldcs((const PIECE *)(block + own[t].from_at) + at));
            target[at] = total;
        }
    }
}

/* Rows that are no whole number of words: byte by byte. A lane takes a word. */
__device__ unsigned long long load_word(const uint8_t *at, uint32_t bytes) {
    unsigned long long word = 0;
    for (uint32_t i = 0; i < bytes; i++)
        word |= (unsigned long long)at[i] << 8 * i;
    return word;
}
__global__ void __launch_bounds__(WARP *WARPS_PER_BLOCK)
    add_odd_rows(uint8_t *block, const gpu_row_sum *sums, const gpu_row_term *terms, uint32_t n_sums,
                 uint64_t row_bytes) {
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t n_warps = (uint64_t)gridDim.x * WARPS_PER_BLOCK;
    for (uint64_t k = (uint64_t)blockIdx.x * WARPS_PER_BLOCK + threadIdx.x / WARP; k < n_sums; k += n_warps) {
        const gpu_row_sum sum = sums[k];
        for (uint64_t at = 8 * (uint64_t)lane; at < row_bytes; at += 8 * WARP) {
            const uint32_t bytes = row_bytes - at < 8 ? (uint32_t)(row_bytes - at) : 8;
            unsigned long long total = load_word(block + sum.to_at + at, bytes);
            for (uint32_t t = sum.first_term; t < sum.first_term + sum.n_terms; t++)
                total += terms[t].weight * load_word(block + terms[t].from_at + at, bytes);
            for (uint32_t i = 0; i < bytes; i++)
                block[sum.to_at + at + i] = (uint8_t)(total >> 8 * i);
        }
    }
}

/* Blocks of threads for n rows: as many as a GPU has at work, or fewer. */
cudaError_t grid_of(uint32_t n, uint32_t *n_blocks) {
    int device = 0, n_processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device);
    const uint32_t n_needed = n / WARPS_PER_BLOCK + (n % WARPS_PER_BLOCK > 0), n_most = 8 * (uint32_t)n_processors;
    *n_blocks = n_needed < n_most ? n_needed : n_most;
    return error;
}
bool is_aligned(const uint8_t *block, uint64_t row_bytes, uint64_t to) {
    return (uintptr_t)block % to == 0 && row_bytes % to == 0;
}

} // namespace

// clang-format off
extern "C" int gpu_rows_move(uint8_t *block, const struct gpu_row_move *rows, uint32_t n_rows, uint64_t row_bytes,
                             void *stream) {
    const uint32_t n_threads = WARP * WARPS_PER_BLOCK;
    cudaStream_t s = (cudaStream_t)stream;
    uint32_t n_blocks = 0;
    if (n_rows == 0 || row_bytes == 0)
        return (int)cudaSuccess;
    const cudaError_t error = grid_of(n_rows, &n_blocks);
    if (error != cudaSuccess)
        return (int)error;
    if (is_aligned(block, row_bytes, 16))
        move_rows<uint4><<<n_blocks, n_threads, 0, s>>>(block, rows, n_rows, row_bytes / 16);
    else if (is_aligned(block, row_bytes, 8))
        move_rows<unsigned long long><<<n_blocks, n_threads, 0, s>>>(block, rows, n_rows, row_bytes / 8);
    else
        move_rows<unsigned char><<<n_blocks, n_threads, 0, s>>>(block, rows, n_rows, row_bytes);
    return (int)cudaGetLastError();
}

extern "C" int gpu_rows_add(uint8_t *block, const struct gpu_row_sum *sums, const struct gpu_row_term *terms,
                            uint32_t n_sums, uint64_t row_bytes, void *stream) {
    const uint32_t n_threads = WARP * WARPS_PER_BLOCK;
    cudaStream_t s = (cudaStream_t)stream;
    uint32_t n_blocks = 0;
    if (n_sums == 0 || row_bytes == 0)
        return (int)cudaSuccess;
    const cudaError_t error = grid_of(n_sums, &n_blocks);
    if (error != cudaSuccess)
        return (int)error;
    if (is_aligned(block, row_bytes, 16))
        add_rows<ulonglong2><<<n_blocks, n_threads, 0, s>>>(block, sums, terms, n_sums, row_bytes / 16);
    else if (is_aligned(block, row_bytes, 8))
        add_rows<unsigned long long><<<n_blocks, n_threads, 0, s>>>(block, sums, terms, n_sums, row_bytes / 8);
    else
        add_odd_rows<<<n_blocks, n_threads, 0, s>>>(block, sums, terms, n_sums, row_bytes);
    return (int)cudaGetLastError();
}
// clang-format on
