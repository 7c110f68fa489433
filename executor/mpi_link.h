/* What the transports over MPI share: one process per rank, started by mpirun. Nothing blocks inside MPI: requests are
 * tested until the deadline, but for the one blocking collective that is the baseline. */
#ifndef EXECUTOR_MPI_LINK_H
#define EXECUTOR_MPI_LINK_H

#include "life.h"
#include "payload.h"
#include <mpi.h>

/* Messages have the tags below: the tick of each rank, which is one word, the last. MPI promises no more tags. */
enum { MPI_TAGS = 32767, MPI_TAG_TICK = MPI_TAGS };

struct ex_link {
    struct ex_world world;
    uint32_t me, n;
    uint8_t *block;
    uint64_t block_bytes;
    bool is_broken;
    char doing[160]; /* for messages of barriers and gathers: what is going on, or what is just over */
    struct ex_life life;
    uint64_t drain_ns; /* when to look for ticks again */
    struct mpi_tick {
        MPI_Request request;
        uint64_t age_ns; /* of what moved last; UINT64_MAX: the sender leaves */
    } * ticks;           /* [n] on their way out */
    ex_owed_fn *owed;    /* NULL, or what of `script` is outstanding */
    const void *run;     /* for owed */
    const struct ex_script *script;
};
enum mp_status mpi_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mpi_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **host_view,
                         struct mp_error *err) MP_MUST_CHECK;
/* From now on messages name this: the script, at its begin, behind a stage, or (MP_NONE) behind all of it. */
void mpi_begins(struct ex_link *l, const struct ex_script *s);
void mpi_is_behind(struct ex_link *l, const struct ex_script *s, uint32_t stage);
enum mp_status mpi_barrier(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mpi_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) MP_MUST_CHECK;
void mpi_abort(struct ex_link *l, const struct mp_error *why);
void mpi_close(struct ex_link *l);

uint64_t mpi_now_ns(void); /* CLOCK_MONOTONIC */
/* Signs of life, ours and the others'; whoever waits calls it again and again, it is cheap. Fails when a peer is
 * silent.
 */
enum mp_status mpi_look(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mpi_pulse(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
/* Between two looks: nothing at first, then short naps. */
void mpi_nap(uint64_t since_ns);
/* What a call of MPI returned, in words; MP_EPEER. */
enum mp_status mpi_fail(struct ex_link *l, struct mp_error *err, int error, const char *doing);
#define MPI_TRY(call, doing)                                                                                           \
    do {                                                                                                               \
        int mpi_error_ = (call);                                                                                       \
        if (mpi_error_ != MPI_SUCCESS) {                                                                               \
            status = mpi_fail(l, err, mpi_error_, doing);                                                              \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)
/* Nothing happens to this rank any more: faults that stop, kill or slow it down. */
void mpi_misbehave(const struct ex_link *l);

#endif
