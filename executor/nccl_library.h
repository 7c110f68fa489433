/* NCCL, loaded when it is asked for: a program that was built with it starts where it is not installed. */
#ifndef EXECUTOR_NCCL_LIBRARY_H
#define EXECUTOR_NCCL_LIBRARY_H

#include "gpu.h"
#include "socket.h"
#include <nccl.h>

struct nccl_library {
    ncclResult_t (*GetVersion)(int *version);
    ncclResult_t (*GetUniqueId)(ncclUniqueId *id);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *comm, int n, ncclUniqueId id, int rank, ncclConfig_t *config);
    ncclResult_t (*CommGetAsyncError)(ncclComm_t comm, ncclResult_t *error);
    ncclResult_t (*CommFinalize)(ncclComm_t comm);
    ncclResult_t (*CommDestroy)(ncclComm_t comm);
    ncclResult_t (*CommAbort)(ncclComm_t comm);
    ncclResult_t (*Send)(const void *from, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s);
    ncclResult_t (*Recv)(void *to, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s);
    ncclResult_t (*AllReduce)(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op,
                              ncclComm_t comm, cudaStream_t s);
    ncclResult_t (*GroupStart)(void);
    ncclResult_t (*GroupEnd)(void);
    const char *(*GetErrorString)(ncclResult_t result);
    const char *(*GetLastError)(ncclComm_t comm);
};
/* MP_EIO: it is not installed, or lacks a function. It stays loaded until the process ends. */
enum mp_status nccl_load(struct nccl_library *out, struct mp_error *err) MP_MUST_CHECK;
/* Rank 0 makes the id of a communicator, all get it. Needs no GPU. */
enum mp_status nccl_share_id(const struct nccl_library *nccl, struct ex_link *control, ncclUniqueId *out,
                             struct mp_error *err) MP_MUST_CHECK;

#endif
