/* What the GPU transports share: devices, errors in words, the block of a rank in device memory. */
#ifndef EXECUTOR_GPU_H
#define EXECUTOR_GPU_H

#include "transport.h"
#include <cuda_runtime_api.h>

/* What a call of the CUDA runtime said, in words: memory MP_ENOMEM, the rest MP_EIO; both end with exit code 4. */
enum mp_status gpu_fail(struct mp_error *err, cudaError_t error, const char *doing);
#define GPU_TRY(call, doing)                                                                                           \
    do {                                                                                                               \
        cudaError_t gpu_error_ = (call);                                                                               \
        if (gpu_error_ != cudaSuccess) {                                                                               \
            status = gpu_fail(err, gpu_error_, doing);                                                                 \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* How many devices there are: at least one. MP_EIO: no driver, no device, and what to do. */
enum mp_status gpu_count(int *out, const char *transport, struct mp_error *err) MP_MUST_CHECK;

struct gpu_block { /* the memory of one rank */
    int device;
    uint8_t *bytes, *view; /* on the device; pinned on the host */
    uint64_t n;
    cudaStream_t stream; /* of push, pull and rows */
    cudaEvent_t done, timed[2];
};
enum mp_status gpu_block_open(struct gpu_block *b, int device, struct mp_error *err) MP_MUST_CHECK;
/* At least `n` bytes, zeroed, at both ends; what was there is gone. */
enum mp_status gpu_block_room(struct gpu_block *b, uint32_t rank, uint64_t n, struct mp_error *err) MP_MUST_CHECK;
enum mp_status gpu_block_push(struct gpu_block *b, uint64_t at, uint64_t n, uint64_t deadline_ms,
                              struct mp_error *err) MP_MUST_CHECK;
enum mp_status gpu_block_pull(struct gpu_block *b, uint64_t at, uint64_t n, uint64_t deadline_ms,
                              struct mp_error *err) MP_MUST_CHECK;
/* A table of rows by a kernel, on the block's stream. */
enum mp_status gpu_block_rows(struct gpu_block *b, uint32_t rank, const struct ex_rows_table *table,
                              uint64_t deadline_ms, uint64_t *ns, struct mp_error *err) MP_MUST_CHECK;
void gpu_block_close(struct gpu_block *b);

uint64_t gpu_now_ns(void); /* CLOCK_MONOTONIC */
/* Between two looks at what a device has done: nothing at first, then short naps. `since_ns`: when waiting began. */
void gpu_nap(uint64_t since_ns);
/* Milliseconds between two events of one device, in ns. */
uint64_t gpu_elapsed_ns(cudaEvent_t from, cudaEvent_t to);

#endif
