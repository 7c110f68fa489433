/* NCCL without GPUs, for processes that were forked with a socket between every two: a group is an operation on a
 * stream of the mock of CUDA that goes on whenever the stream is looked at, until all its bytes have gone and come. It
 * is as strict as NCCL should be: both ends agree on bytes, sends and receives are in groups of at most 256. */
#ifndef MOCK_NCCL_H
#define MOCK_NCCL_H

#include <stdint.h>

/* As new, in the process of rank `me`; sockets[n]: to each other rank, which this one may read and write; sums[n]: the
 * same for sums, or NULL. */
void mock_nccl_begin(uint32_t me, uint32_t n, const int *sockets, const int *sums);
uint64_t mock_nccl_groups(void); /* groups that were carried out, however often each of a graph */
uint64_t mock_nccl_sums(void);   /* calls of ncclAllReduce that were carried out */
uint32_t mock_nccl_sets(void);   /* communicators of fewer than all ranks */
uint32_t mock_nccl_most(void);   /* most operations of a group */
void mock_nccl_end(void);

#endif
