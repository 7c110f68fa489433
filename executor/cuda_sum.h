/* Sums of gradients on the GPUs of one process: rings (sum.h) as copies and adding kernels on streams of the lowest
 * priority, one for each rank, with an event behind each receive. */
#ifndef EXECUTOR_CUDA_SUM_H
#define EXECUTOR_CUDA_SUM_H

#include "gpu.h"

struct cuda_sums {
    const struct ex_world *world;
    struct gpu_block *blocks; /* [n] */
    uint32_t n;
    cudaStream_t *streams;  /* [n] */
    struct ex_ring **rings; /* [n] begun, and not yet over */
    const struct ex_sum **sums;
    uint8_t **tables; /* [n] on the host, until they have been copied */
    cudaEvent_t **in; /* [n][n_receives] */
    uint32_t n_begun;
    bool is_running;
    uint64_t since_ns;
    ex_attend_fn *attend;
    void *attend_ctx;
    bool is_attending;
};
enum mp_status cuda_sums_open(struct cuda_sums *x, const struct ex_world *world, struct gpu_block *blocks,
                              struct mp_error *err) MP_MUST_CHECK;
enum mp_status cuda_sums_begin(struct cuda_sums *x, uint32_t rank, const struct ex_sum *sum,
                               struct mp_error *err) MP_MUST_CHECK;
enum mp_status cuda_sums_look(struct cuda_sums *x, uint32_t rank, bool *has_ended, struct mp_error *err) MP_MUST_CHECK;
/* Lets who attends work; *next_ns: when again at the latest. */
enum mp_status cuda_sums_attend(struct cuda_sums *x, uint64_t *next_ns, struct mp_error *err) MP_MUST_CHECK;
/* is_idle: nothing is at work any more. */
void cuda_sums_close(struct cuda_sums *x, bool is_idle);

#endif
