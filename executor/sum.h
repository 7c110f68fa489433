/* Sums of gradients over ranks: what every rank of a ring sends, receives and adds, as a list that any transport with
 * messages can carry out. docs/EXECUTOR.md, "Training steps". */
#ifndef EXECUTOR_SUM_H
#define EXECUTOR_SUM_H

#include <moeplan/topology.h>

/* A range of 64-bit words that some ranks hold and want summed, modulo 2^64. */
struct ex_span {
    uint64_t at, bytes;      /* in the block of the rank whose list it is; bytes: a multiple of 8 */
    uint32_t n_members;      /* at least 2 */
    const uint32_t *members; /* [n_members] ranks, ascending */
};
struct ex_sum { /* one chunk of a bucket, as one rank has it: the spans that it is a member of, in the order of all */
    uint32_t step, layer_id, chunk; /* for messages; layer_id: of the bucket's first layer */
    bool is_experts, is_struck;     /* is_struck: a fault of this kind strikes this rank here */
    uint64_t serial;                /* of all ranks alike: which chunk of the run this is */
    uint64_t scratch_at; /* room in the block for who adds by kernels: EX_SUM_ROOM for each span, and bytes */
    size_t n_spans;
    struct ex_span *spans;
};
/* Tables of a span's receives: four slices, two rounds for each of n members. */
#define EX_SUM_ROOM(n_members) (4 * 2 * (uint64_t)(n_members)*64)
/* "allreduce chunk 3 of layer 7's gradients" into buf, which is returned. */
const char *ex_sum_name(const struct ex_sum *s, char *buf, size_t size);

struct ex_move {
    uint32_t peer;
    uint32_t needs; /* of sends: the receive that has to be in and added before; MP_NONE = none */
    bool adds;      /* of receives: what comes is added to what is there, else it takes its place */
    uint64_t at, bytes;
};
/* A rank's part, in the order in which it goes to each peer. All ranks' lists are cut from one list in which whatever
 * needs something stands behind it, so queues per pair of ranks never wait for each other in a circle. */
struct ex_ring {
    size_t n_sends, n_receives;
    struct ex_move *sends, *receives;
};
/* Rings: a span is cut into as many pieces as it has members; each piece is passed on and added up all the way round,
 * then passed on once more: 2 (n - 1) rounds. Where a span's members are all ranks, and nodes are alike, first inside
 * nodes, then between the ranks with the same index in their nodes, each for its share, then inside nodes again. Long
 * spans go in up to four slices, one round behind each other, so that nobody waits for a round to end. */
enum mp_status ex_ring_new(struct ex_ring **out, const struct ex_sum *sum, uint32_t rank,
                           const struct mp_topology *topology, struct mp_error *err) MP_MUST_CHECK;
void ex_ring_free(struct ex_ring *r); /* NULL is fine */

/* All ranks' lists over blocks in one memory: the reference. MP_EBUG when they do not fit each other, MP_EPEER where
 * the sizes of two ends differ. */
enum mp_status ex_rings_carry_out(struct ex_ring *const *rings, uint8_t *const *blocks, uint32_t n,
                                  struct mp_error *err) MP_MUST_CHECK;

/* Adds n bytes of words; n is a multiple of 8. */
void ex_sum_add(uint8_t *to, const uint8_t *from, uint64_t n);

#endif
