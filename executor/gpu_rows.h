/* Rows of tokens inside a block of GPU memory, moved and added up by a table: what packing, passing on and combining
 * are. Rows have any number of bytes and begin anywhere; 16 bytes, or 8, at a time where these go into both. */
#ifndef EXECUTOR_GPU_ROWS_H
#define EXECUTOR_GPU_ROWS_H

#include <stdint.h>

struct gpu_row_move { /* offsets into the block */
    uint64_t from_at, to_at;
};
struct gpu_row_sum { /* adds terms[first_term ...] to the row at to_at */
    uint64_t to_at;
    uint32_t first_term, n_terms;
};
struct gpu_row_term { /* a row, times its weight */
    uint64_t from_at, weight;
};
/* Row rows[k].from_at becomes row rows[k].to_at, each row_bytes long; no row that is written is another one's source.
 * All pointers but those of the CPU reference are of the device; stream is a cudaStream_t. Returns a cudaError_t. */
int gpu_rows_move(uint8_t *block, const struct gpu_row_move *rows, uint32_t n_rows, uint64_t row_bytes, void *stream);
/* Rows are words of 64 bits, little-endian, the last one may be cut: word w of a sum becomes itself plus the sum of
 * weight * word w of its terms, modulo 2^64. No sum is another one's term. */
int gpu_rows_add(uint8_t *block, const struct gpu_row_sum *sums, const struct gpu_row_term *terms, uint32_t n_sums,
                 uint64_t row_bytes, void *stream);
/* The same on the CPU: what the kernels are compared with. */
void gpu_rows_move_reference(uint8_t *block, const struct gpu_row_move *rows, uint32_t n_rows, uint64_t row_bytes);
void gpu_rows_add_reference(uint8_t *block, const struct gpu_row_sum *sums, const struct gpu_row_term *terms,
                            uint32_t n_sums, uint64_t row_bytes);

#endif
