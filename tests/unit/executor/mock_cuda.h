/* A CUDA runtime without a GPU: device memory is memory, and what streams, events and graphs let run next runs in any
 * order (drawn from a seed). So an ordering that is missing shows as wrong bytes, capture rules that are broken as
 * errors. */
#ifndef MOCK_CUDA_H
#define MOCK_CUDA_H

#include <stdbool.h>
#include <stdint.h>

struct CUstream_st;
/* As new: this many devices (0 = no driver), this seed, allocation number fail_at of device memory fails (0 = none). */
void mock_cuda_begin(int n_devices, uint64_t seed, uint64_t fail_at);
/* Objects and memory not given back; waits for host functions. */
uint64_t mock_cuda_end(void);
/* Carries out all that can be, host functions too, however long they take. */
void mock_cuda_drain(void);
uint64_t mock_cuda_launches(void); /* of graphs */
uint64_t mock_cuda_peer_copies(void);
uint64_t mock_cuda_rows(bool adds); /* rows that kernels moved, that they added up */
/* From now on one row of every table that moves (adds) rows has a wrong index: it is read from where the next one is.
 */
void mock_cuda_mistake_row(bool adds);
int mock_cuda_priority(const struct CUstream_st *s); /* 0 is the lowest, -5 the highest */
/* For mocks of other libraries: an operation of the stream, which goes on each time it is called and says whether it is
 * done. What is captured into a graph is done again by each launch. */
void mock_cuda_enqueue(struct CUstream_st *s, bool (*progress)(void *ctx), void *ctx);

#endif
