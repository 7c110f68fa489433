/* Rows of tokens into the order that somebody needs them in, on a GPU: what packing and unpacking are. */
#ifndef EXECUTOR_GPU_ROWS_H
#define EXECUTOR_GPU_ROWS_H

#include <stdint.h>

/* gather: row k of `to` becomes row index[k] of `from`; scatter: row index[k] of `to` becomes row k of `from` (the
 * index then has no row twice). n_rows rows of row_bytes bytes, a multiple of 16, both sides aligned to 16. All
 * pointers but those of the CPU reference are of the device; stream is a cudaStream_t. Returns a cudaError_t as int. */
int gpu_rows_gather(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes,
                    void *stream);
int gpu_rows_scatter(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes,
                     void *stream);
/* The same on the CPU: what the kernels are compared with. */
void gpu_rows_gather_reference(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes);
void gpu_rows_scatter_reference(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes);

#endif
