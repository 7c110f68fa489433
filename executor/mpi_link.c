#include "mpi_link.h"
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_IDENTITY = 64 };

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

/* MPI does not say who is missing. */
static enum mp_status wait_for(struct ex_link *l, MPI_Request *request, const char *what, struct mp_error *err) {
    const uint64_t since = mpi_now_ns();
    char doing[200];
    int is_done = 0;
    enum mp_status status = MP_OK;
    (void)snprintf(doing, sizeof doing, "the %s %s", what, l->doing);
    for (;;) {
        MPI_TRY(MPI_Test(request, &is_done, MPI_STATUS_IGNORE), doing);
        if (is_done)
            return MP_OK;
        if (mpi_now_ns() - since > l->world.deadline_ms * 1000000) {
            l->is_broken = true;
            return mp_fail(
                err, MP_EPEER,
                "%s: rank %u waited %llu ms for other ranks, which did not come (0 bytes are outstanding; MPI "
                "does not say which rank; are all alive? a slow cluster may need a longer --deadline)",
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
    if (l->block == NULL || l->block_bytes < bytes) {
        mp_free(l->block);
        l->block = mp_calloc(bytes, 1);
        l->block_bytes = l->block != NULL ? bytes : 0;
    }
    *host_view = l->block;
    return *host_view != NULL ? MP_OK
                              : mp_nomem(err, "the memory of a rank (fewer --steps or a smaller --batch need less)");
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
    if (!l->is_broken)
        (void)MPI_Finalize();
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
