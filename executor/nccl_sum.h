/* Sums of gradients over NCCL beside scripts: ncclAllReduce of 64-bit words on a stream of lower priority than that of
 * the scripts, on communicators of their own, one for each set of ranks that sums something together. */
#ifndef EXECUTOR_NCCL_SUM_H
#define EXECUTOR_NCCL_SUM_H

#include "nccl_library.h"

enum { NCCL_SETS_MAX = 64 };
struct nccl_set {
    uint32_t n, *members;
    ncclComm_t comm; /* NULL: this rank is no member */
};
struct nccl_sums {
    const struct nccl_library *nccl;
    struct ex_link *control;
    const struct ex_world *world;
    struct gpu_block *block;
    uint32_t me, n_sets;
    struct nccl_set sets[NCCL_SETS_MAX];
    cudaStream_t stream;
    cudaEvent_t done;
    const struct ex_sum *sum; /* at hand, or NULL */
    bool is_recorded;         /* NCCL has taken it in, and `done` stands behind it */
    uint64_t since_ns;
};
enum mp_status nccl_sums_open(struct nccl_sums *x, const struct nccl_library *nccl, struct ex_link *control,
                              const struct ex_world *world, struct gpu_block *block,
                              struct mp_error *err) MP_MUST_CHECK;
/* Communicators for these sets of ranks, which all ranks name in the same order. */
enum mp_status nccl_sums_prepare(struct nccl_sums *x, uint32_t n_sets, const struct ex_span *sets,
                                 struct mp_error *err) MP_MUST_CHECK;
enum mp_status nccl_sums_begin(struct nccl_sums *x, const struct ex_sum *sum, struct mp_error *err) MP_MUST_CHECK;
enum mp_status nccl_sums_look(struct nccl_sums *x, bool *has_ended, struct mp_error *err) MP_MUST_CHECK;
/* is_broken: communicators are given up, and nothing waits for the GPU. */
void nccl_sums_close(struct nccl_sums *x, bool is_broken);

#endif
