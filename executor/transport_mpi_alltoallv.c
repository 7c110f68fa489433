/* The baseline from outside: MPI_Alltoallv in place of a script of one stage. It blocks inside MPI, so a thread watches
 * the clock and ends the process at the deadline, saying what was to come from whom (which of these ranks is missing
 * nobody knows); mpirun ends the others, with its exit code. Not by MPI_Abort: when several ranks call it at once, Open
 * MPI 4.1's mpirun can crash. */
#include "mpi_link.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct watch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_over;
    uint64_t deadline_ms;
    char late[500]; /* what to say at the deadline */
};

static void *watch_main(void *ctx) {
    struct watch *w = ctx;
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(w->deadline_ms / 1000);
    until.tv_nsec += (long)(w->deadline_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_mutex_lock(&w->lock);
    while (!w->is_over && pthread_cond_timedwait(&w->changed, &w->lock, &until) != ETIMEDOUT)
        ;
    const bool is_late = !w->is_over;
    (void)pthread_mutex_unlock(&w->lock);
    if (is_late) {
        (void)!write(STDERR_FILENO, w->late, strlen(w->late));
        _exit(mp_exit_code(MP_EPEER));
    }
    return NULL;
}

/* What this rank waits for: bytes both ways, and the peers that have some for it. */
static void say_late(const struct ex_link *l, const struct ex_script *s, char *to, size_t size) {
    char name[96], peers[120] = "";
    size_t used = 0;
    for (size_t i = s->receive_first[l->me]; i < s->receive_first[l->me + 1] && used + 20 < sizeof peers; i++) {
        const bool is_cut = used + 40 > sizeof peers && i + 1 < s->receive_first[l->me + 1];
        const int n = snprintf(peers + used, sizeof peers - used, "%s%u%s", used > 0 ? ", " : "", s->receives[i].peer,
                               is_cut ? ", ..." : "");
        used += is_cut ? sizeof peers : n > 0 ? (size_t)n : 0;
    }
    (void)snprintf(to, size,
                   "moeplan-exec: %s, stage 0: rank %u waited %" PRIu64 " ms for MPI_Alltoallv, %" PRIu64
                   " bytes to go out and %" PRIu64 " to come from rank%s %s (MPI does not say which is missing; are "
                   "all alive? a slow cluster may need a longer --deadline)\n",
                   ex_script_name(s, name, sizeof name), l->me, l->world.deadline_ms, ex_script_bytes(s, l->me, false),
                   ex_script_bytes(s, l->me, true), used > 0 && strchr(peers, ',') == NULL ? "" : "s",
                   used > 0 ? peers : "(none)");
}

static enum mp_status exchange(struct ex_link *l, const struct ex_script *s, int *const counts[2], int *const at[2],
                               struct mp_error *err) {
    struct watch w = {.deadline_ms = l->world.deadline_ms};
    pthread_condattr_t attributes;
    pthread_t thread;
    enum mp_status status = MP_OK;
    say_late(l, s, w.late, sizeof w.late);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w.lock, NULL);
    (void)pthread_cond_init(&w.changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    const int error = pthread_create(&thread, NULL, watch_main, &w);
    if (error != 0) {
        status = mp_fail(err, MP_ENOMEM, "cannot start a thread: %s", strerror(error));
    } else {
        /* Both ranges lie in one block and do not overlap: proven before. */
        const int result =
            MPI_Alltoallv(l->block, counts[0], at[0], MPI_BYTE, l->block, counts[1], at[1], MPI_BYTE, MPI_COMM_WORLD);
        (void)pthread_mutex_lock(&w.lock);
        w.is_over = true;
        (void)pthread_cond_signal(&w.changed);
        (void)pthread_mutex_unlock(&w.lock);
        (void)pthread_join(thread, NULL);
        if (result != MPI_SUCCESS)
            status = mpi_fail(l, err, result, l->doing);
    }
    (void)pthread_mutex_destroy(&w.lock);
    (void)pthread_cond_destroy(&w.changed);
    return status;
}

static enum mp_status run(struct ex_link *l, const struct ex_script *s, struct ex_times *times, struct mp_error *err) {
    const struct ex_end *ends[2] = {s->sends, s->receives};
    const size_t *first[2] = {s->send_first, s->receive_first};
    const struct ex_fault *f = &l->world.fault;
    int *counts[2] = {NULL, NULL}, *at[2] = {NULL, NULL};
    enum mp_status status = MP_OK;
    if (s->n_stages > 1)
        return mp_fail(err, MP_EBUG, "MPI_Alltoallv was not asked in advance whether it knows stages");
    for (int k = 0; k < 2; k++) {
        counts[k] = mp_calloc(l->n, sizeof(int));
        at[k] = mp_calloc(l->n, sizeof(int));
        if (counts[k] == NULL || at[k] == NULL) {
            status = mp_nomem(err, "running a script");
            goto out;
        }
        for (size_t i = first[k][l->me]; i < first[k][l->me + 1]; i++) {
            counts[k][ends[k][i].peer] = (int)ends[k][i].bytes;
            at[k][ends[k][i].peer] = (int)ends[k][i].at;
        }
    }
    if (f->kind == EX_FAULT_CORRUPT && ex_fault_strikes(f, s, 0, l->me) && first[0][l->me] < first[0][l->me + 1])
        l->block[ends[0][first[0][l->me]].at + ends[0][first[0][l->me]].bytes / 2] ^= 1;
    mpi_begins(l, s);
    MP_TRY(mpi_barrier(l, err));
    const uint64_t origin = mpi_now_ns();
    if (f->kind != EX_FAULT_NONE && f->kind != EX_FAULT_CORRUPT && ex_fault_strikes(f, s, 0, l->me))
        mpi_misbehave(l);
    MP_TRY(exchange(l, s, counts, at, err));
    const uint64_t took = mpi_now_ns() - origin;
    mpi_is_behind(l, s, MP_NONE);
    times->total_ns[l->me] = took;
    for (int k = 0; k < 2; k++)
        for (size_t i = first[k][l->me]; i < first[k][l->me + 1]; i++) {
            times->end_ns[l->me] = times->message_end_ns[ends[k][i].message] = took; /* of all, nobody knows more */
        }
out:
    for (int k = 0; k < 2; k++) {
        mp_free(counts[k]);
        mp_free(at[k]);
    }
    return status;
}

static enum mp_status prepare(struct ex_link *l, const struct ex_script *const *scripts, size_t n,
                              struct mp_error *err) {
    const struct ex_fault *f = &l->world.fault;
    if (f->kind == EX_FAULT_SWAP || f->kind == EX_FAULT_DROP || f->kind == EX_FAULT_LIE)
        return mp_fail(err, MP_EUSAGE, "--fault: MPI_Alltoallv has no messages of its own to swap, drop or cut");
    if (l->block_bytes >= INT_MAX)
        return mp_fail(err, MP_EUSAGE,
                       "MPI counts to 2^31 - 1: a block of %llu bytes is too long (take --transport mpi)",
                       (unsigned long long)l->block_bytes);
    for (size_t i = 0; i < n; i++)
        if (scripts[i]->n_stages > 1)
            return mp_fail(err, MP_EUSAGE,
                           "MPI_Alltoallv knows no stages, the plan has an order (take --transport mpi, or a plan made "
                           "with --order none)");
    return MP_OK;
}

const struct ex_transport ex_mpi_alltoallv = {
    .name = "mpi-alltoallv",
    .summary = "the baseline from outside: MPI_Alltoallv in place of one shot, started by mpirun",
    .needs = "mpirun",
    .limits = {.max_ranks = 4096},
    .has_one_rank_each = true,
    .open = mpi_open,
    .alloc = mpi_alloc,
    .prepare = prepare,
    .run = run,
    .barrier = mpi_barrier,
    .pulse = mpi_pulse,
    .gather = mpi_gather,
    .abort = mpi_abort,
    .close = mpi_close,
};
