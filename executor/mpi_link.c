#include "mpi_link.h"
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_IDENTITY = 64, DRAIN_NS = 20000000 };

uint64_t mpi_now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void mpi_nap(uint64_t since_ns) {
    const struct timespec nap = {0, 20000};
    if (mpi_now_ns() - since_ns > 200000)
        (void)nanosleep(&nap, NULL);
}

enum mp_status mpi_fail(struct ex_link *l, struct mp_error *err, int error, const char *doing) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;
    (void)MPI_Error_string(error, text, &n);
    text[n < 0 || n > MPI_MAX_ERROR_STRING ? 0 : n] = '\0';
    l->is_broken = true;
    return mp_fail(err, MP_EPEER, "rank %u, %s: MPI: %.200s", l->me, doing, text);
}

void mpi_misbehave(const struct ex_link *l) {
    const struct ex_fault *f = &l->world.fault;
    if (f->kind == EX_FAULT_KILL)
        (void)raise(SIGKILL);
    const uint64_t since = mpi_now_ns();
    while (f->kind == EX_FAULT_STOP || mpi_now_ns() - since < 2 * l->world.deadline_ms * 1000000) {
        const struct timespec nap = {0, 10000000};
        (void)nanosleep(&nap, NULL); /* stopped: until mpirun ends us, which it does when the others fail */
    }
}

void mpi_begins(struct ex_link *l, const struct ex_script *s) {
    char name[96];
    (void)snprintf(l->doing, sizeof l->doing, "before %s", ex_script_name(s, name, sizeof name));
}
void mpi_is_behind(struct ex_link *l, const struct ex_script *s, uint32_t stage) {
    char name[96];
    (void)ex_script_name(s, name, sizeof name);
    if (stage == MP_NONE)
        (void)snprintf(l->doing, sizeof l->doing, "behind %s", name);
    else
        (void)snprintf(l->doing, sizeof l->doing, "behind stage %u of %s", stage, name);
}

/* ---- signs of life ---- */

/* A peer whose last tick has not gone out yet gets no other one. */
static enum mp_status tick(struct ex_link *l, bool is_last, struct mp_error *err) {
    const uint64_t age_ns = mpi_now_ns() - l->life.moved_ns;
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < l->n; r++) {
        int is_done = 1;
        if (ex_life_has_left(&l->life, r))
            continue;
        MPI_TRY(MPI_Test(&l->ticks[r].request, &is_done, MPI_STATUS_IGNORE), "a sign of life");
        if (!is_done)
            continue;
        l->ticks[r].age_ns = is_last ? UINT64_MAX : age_ns;
        MPI_TRY(
            MPI_Isend(&l->ticks[r].age_ns, 1, MPI_UINT64_T, (int)r, MPI_TAG_TICK, MPI_COMM_WORLD, &l->ticks[r].request),
            "a sign of life");
    }
out:
    return status;
}

static enum mp_status drain(struct ex_link *l, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (;;) {
        int is_there = 0;
        uint64_t age_ns = 0;
        MPI_Status from;
        MPI_TRY(MPI_Iprobe(MPI_ANY_SOURCE, MPI_TAG_TICK, MPI_COMM_WORLD, &is_there, &from), "a sign of life");
        if (!is_there)
            return MP_OK;
        MPI_TRY(MPI_Recv(&age_ns, 1, MPI_UINT64_T, from.MPI_SOURCE, MPI_TAG_TICK, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                "a sign of life");
        if (age_ns == UINT64_MAX)
            ex_life_left(&l->life, (uint32_t)from.MPI_SOURCE);
        else
            ex_life_heard(&l->life, (uint32_t)from.MPI_SOURCE, age_ns, mpi_now_ns());
    }
out:
    return status;
}

enum mp_status mpi_look(struct ex_link *l, struct mp_error *err) {
    const uint64_t now = mpi_now_ns(), pause = l->life.deadline_ns / 32;
    struct ex_owed owed;
    enum mp_status status = MP_OK;
    if (now < l->drain_ns)
        return MP_OK;
    l->drain_ns = now + (pause < DRAIN_NS ? pause : DRAIN_NS);
    if (ex_life_look(&l->life, now))
        MP_TRY(tick(l, false, err));
    MP_TRY(drain(l, err));
    const uint32_t peer = ex_life_silent(&l->life, now, l->owed, l->run, &owed);
    if (peer != MP_NONE) {
        l->is_broken = true;
        return ex_life_fail(err, l->owed != NULL ? l->script : NULL, l->doing, l->me, peer, &owed,
                            l->world.deadline_ms);
    }
out:
    return status;
}

enum mp_status mpi_pulse(struct ex_link *l, struct mp_error *err) {
    return ex_life_works_on(&l->life, mpi_now_ns()) ? mpi_look(l, err) : MP_OK;
}

/* MPI does not say who is missing. The deadline counts from when anything of any rank moved last. */
static enum mp_status wait_for(struct ex_link *l, MPI_Request *request, const char *what, struct mp_error *err) {
    const uint64_t since = mpi_now_ns();
    char doing[200];
    int is_done = 0;
    enum mp_status status = MP_OK;
    (void)snprintf(doing, sizeof doing, "the %s %s", what, l->doing);
    for (;;) {
        MPI_TRY(MPI_Test(request, &is_done, MPI_STATUS_IGNORE), doing);
        if (is_done) {
            l->life.moved_ns = mpi_now_ns();
            return MP_OK;
        }
        MP_TRY(mpi_look(l, err));
        if (mpi_now_ns() > ex_life_patience(&l->life, since)) {
            l->is_broken = true;
            return mp_fail(
                err, MP_EPEER,
                "%s: rank %u waited %llu ms for other ranks, which did not come, nor did anything move (0 bytes are "
                "outstanding; MPI does not say which rank; a slow cluster may need a longer --deadline)",
                doing, l->me, (unsigned long long)l->world.deadline_ms);
        }
        mpi_nap(since);
    }
out:
    return status;
}

enum mp_status mpi_barrier(struct ex_link *l, struct mp_error *err) {
    MPI_Request request;
    enum mp_status status = MP_OK;
    MPI_TRY(MPI_Ibarrier(MPI_COMM_WORLD, &request), l->doing);
    status = wait_for(l, &request, "barrier", err);
out:
    return status;
}

enum mp_status mpi_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) {
    MPI_Request request;
    enum mp_status status = MP_OK;
    if (n > INT_MAX)
        return mp_fail(err, MP_ELIMIT, "%zu bytes are more than MPI gathers at once (leave out --timeline)", n);
    MPI_TRY(MPI_Iallgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, MPI_COMM_WORLD, &request), l->doing);
    status = wait_for(l, &request, "gather", err);
out:
    return status;
}

enum mp_status mpi_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **host_view, struct mp_error *err) {
    (void)rank;
    struct ex_pulse pulse = {.beat = mpi_pulse, .link = l};
    if (l->block == NULL || l->block_bytes < bytes) {
        mp_free(l->block);
        l->block = ex_payload_room(&pulse, bytes);
        l->block_bytes = l->block != NULL ? bytes : 0;
    }
    *host_view = l->block;
    if (pulse.status != MP_OK && err != NULL)
        *err = pulse.why;
    if (pulse.status != MP_OK)
        return pulse.status;
    return *host_view != NULL
               ? MP_OK
               : mp_nomem(err, "the memory of a rank (fewer --steps, a smaller --batch or smaller experts need less)");
}

/* MPI_Abort would end this process before it has said why. It ends by itself, with its exit code and without
 * MPI_Finalize, and mpirun then ends all others. */
void mpi_abort(struct ex_link *l, const struct mp_error *why) {
    (void)why;
    l->is_broken = true;
}

void mpi_close(struct ex_link *l) {
    if (l == NULL)
        return;
    struct mp_error ignored = {0};
    if (!l->is_broken && tick(l, true, &ignored) == MP_OK)
        (void)MPI_Finalize();
    ex_life_free(&l->life);
    mp_free(l->ticks);
    mp_free(l->block);
    mp_free(l);
}

static enum mp_status compare(struct ex_link *l, struct mp_error *err) {
    char *all = mp_calloc(l->n, N_IDENTITY);
    enum mp_status status = MP_OK;
    if (all == NULL)
        return mp_nomem(err, "a meeting of ranks");
    MP_TRY(mpi_gather(l, l->world.identity, all, N_IDENTITY, err));
    for (uint32_t r = 1; r < l->n && status == MP_OK; r++)
        if (memcmp(all, all + (size_t)r * N_IDENTITY, N_IDENTITY) != 0)
            status = mp_fail(err, MP_EPEER,
                             "rank %u is about to run something else: plan, recording, topology or options are not "
                             "rank 0's (%.12s... and %.12s...)",
                             r, all + (size_t)r * N_IDENTITY, all);
out:
    mp_free(all);
    return status;
}

enum mp_status mpi_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    int is_initialized = 0, provided, me = 0, n = 0;
    struct ex_link *l = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (world->sockets_fd >= 0 || world->hosts != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "transport mpi is started by mpirun, which knows the ranks and their addresses (mpirun -np %u "
                       "moeplan-exec ..., without --local and --hosts)",
                       world->n_ranks);
    l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "a transport");
    l->world = *world;
    l->is_broken = true; /* until MPI is up */
    (void)snprintf(l->doing, sizeof l->doing, "before the first transfer");
    MPI_TRY(MPI_Initialized(&is_initialized), "starting");
    if (!is_initialized)
        MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "starting");
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "starting");
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &me), "starting");
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &n), "starting");
    l->is_broken = false;
    l->me = (uint32_t)me;
    l->n = (uint32_t)n;
    if (l->n != world->n_ranks || l->me != world->first_rank) {
        status = mp_fail(err, MP_EUSAGE,
                         "MPI says rank %d of %d, the launch rank %u of %u (mpirun -np %u moeplan-exec ..., without "
                         "--rank and --nranks)",
                         me, n, world->first_rank, world->n_ranks, world->n_ranks);
        goto out;
    }
    MP_TRY(ex_life_new(&l->life, l->me, l->n, world->deadline_ms, err));
    l->ticks = mp_calloc(l->n, sizeof *l->ticks);
    if (l->ticks == NULL) {
        status = mp_nomem(err, "a transport");
        goto out;
    }
    for (uint32_t r = 0; r < l->n; r++)
        l->ticks[r].request = MPI_REQUEST_NULL;
    ex_life_begin(&l->life, mpi_now_ns());
    status = compare(l, err);
out:
    if (status != MP_OK) {
        l->is_broken = true;
        mpi_close(l);
    } else {
        *out = l;
    }
    return status;
}
