/* Who this process is among the ranks, from the environment of whatever started it; and starting all of them here. */
#include "rendezvous.h"
#include <moeplan/executor.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the environment ---- */

static const struct launcher {
    const char *name, *rank, *n_ranks, *n_ranks_too, *local_rank;
} launchers[] = {
    {"tools/emulate", "MOEPLAN_RANK", "MOEPLAN_NRANKS", NULL, "LOCAL_RANK"},
    {"torchrun", "RANK", "WORLD_SIZE", NULL, "LOCAL_RANK"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL, "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"PMI", "PMI_RANK", "PMI_SIZE", NULL, "MPI_LOCALRANKID"},
    {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID"},
};

static bool number_of(const char *text, uint64_t most, uint32_t *out) {
    uint64_t n;
    if (text == NULL || !mp_parse_u64(text, strlen(text), &n) || n > most)
        return false;
    *out = (uint32_t)n;
    return true;
}

enum mp_status mp_launch_find(struct mp_launch *out, const char *(*get)(void *ctx, const char *name), void *ctx,
                              struct mp_error *err) {
    *out = (struct mp_launch){.by = NULL};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const struct launcher *l = &launchers[i];
        const char *rank = get(ctx, l->rank), *n_ranks = get(ctx, l->n_ranks);
        if (n_ranks == NULL && l->n_ranks_too != NULL)
            n_ranks = get(ctx, l->n_ranks_too);
        if (rank == NULL || n_ranks == NULL)
            continue;
        if (!number_of(n_ranks, MP_MAX_GPUS, &out->n_ranks) || !number_of(rank, MP_MAX_GPUS, &out->rank) ||
            out->rank >= out->n_ranks)
            return mp_fail(
                err, MP_EUSAGE,
                "the environment of %s has %s \"%.40s\" and %s \"%.40s\", which name no rank (give --rank and "
                "--nranks)",
                l->name, l->rank, rank, l->n_ranks, n_ranks);
        if (!number_of(get(ctx, l->local_rank), MP_MAX_GPUS, &out->local_rank))
            out->local_rank = 0;
        out->by = l->name;
        break;
    }
    out->hosts = get(ctx, "MOEPLAN_HOSTS");
    const char *address = get(ctx, "MASTER_ADDR");
    uint32_t port;
    /* torchrun itself listens at its port: one further. */
    if (address != NULL && number_of(get(ctx, "MASTER_PORT"), 65535, &port) &&
        (size_t)snprintf(out->rendezvous, sizeof out->rendezvous, "tcp://%s:%u", address,
                         port < 65535 ? port + 1 : port - 1) >= sizeof out->rendezvous)
        out->rendezvous[0] = '\0';
    return MP_OK;
}

/* ---- all ranks on this machine ---- */

struct mp_local {
    uint32_t n_ranks, rank; /* rank MP_NONE: the parent */
    int listener, told[2];  /* told: children write what went wrong */
    pid_t *children;        /* [n_ranks] 0 = ended */
    sigset_t watched, before;
};
struct word { /* of a child; smaller than what a pipe takes at once */
    uint32_t rank;
    struct mp_error why;
};
_Static_assert(sizeof(struct word) < 4096, "a pipe takes it whole");

static void forget(struct mp_local *l) {
    if (l->listener >= 0)
        (void)close(l->listener);
    for (int i = 0; i < 2; i++)
        if (l->told[i] >= 0)
            (void)close(l->told[i]);
    mp_free(l->children);
    mp_free(l);
}

static void kill_all(const struct mp_local *l, int number) {
    for (uint32_t r = 0; r < l->n_ranks; r++)
        if (l->children[r] > 0)
            (void)kill(l->children[r], number);
}

enum mp_status mp_local_start(struct mp_local **out, uint32_t n_ranks, uint32_t *rank, int *launcher_fd,
                              char rendezvous[MP_RENDEZVOUS_SIZE], struct mp_error *err) {
    const pid_t parent = getpid();
    *out = NULL;
    struct mp_local *l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "ranks");
    *l =
        (struct mp_local){.n_ranks = n_ranks, .rank = MP_NONE, .told = {-1, -1}, .listener = ex_listen("127.0.0.1", 0)};
    l->children = mp_calloc(n_ranks, sizeof *l->children);
    if (l->children == NULL || l->listener < 0 || pipe2(l->told, O_CLOEXEC) != 0) {
        forget(l);
        return mp_fail(err, MP_EIO, "cannot start %u ranks: %s", n_ranks, strerror(errno));
    }
    (void)fcntl(l->told[0], F_SETFL, O_NONBLOCK);
    (void)snprintf(rendezvous, MP_RENDEZVOUS_SIZE, "tcp://127.0.0.1:%u", ex_port(l->listener));
    sigemptyset(&l->watched);
    const int numbers[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&l->watched, numbers[i]);
    (void)sigprocmask(SIG_BLOCK, &l->watched, &l->before);
    for (uint32_t r = 0; r < n_ranks; r++) {
        const pid_t child = fork();
        if (child < 0) {
            const int error = errno;
            kill_all(l, SIGKILL);
            for (uint32_t k = 0; k < r; k++)
                (void)waitpid(l->children[k], NULL, 0);
            (void)sigprocmask(SIG_SETMASK, &l->before, NULL);
            forget(l);
            return mp_fail(err, MP_EIO, "cannot start rank %u of %u: %s", r, n_ranks, strerror(error));
        }
        if (child == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)sigprocmask(SIG_SETMASK, &l->before, NULL);
            if (getppid() != parent)
                (void)raise(SIGKILL);
            (void)close(l->told[0]);
            l->told[0] = -1;
            l->rank = *rank = r;
            *launcher_fd = r == 0 ? l->listener : -1; /* rank 0 listens there, and closes it */
            if (r > 0)
                (void)close(l->listener);
            l->listener = -1;
            *out = l;
            return MP_OK;
        }
        l->children[r] = child;
    }
    (void)close(l->listener);
    (void)close(l->told[1]);
    l->listener = l->told[1] = -1;
    *rank = MP_NONE;
    *out = l;
    return MP_OK;
}

/* Does this only say what another rank said? */
static bool is_hearsay(const struct mp_error *e) { return strstr(e->message, " ended the run: ") != NULL; }

void mp_local_fail(struct mp_local *l, const struct mp_error *why) {
    const struct word w = {.rank = l->rank, .why = *why};
    if (write(l->told[1], &w, sizeof w) < 0) {
        /* the parent is gone, and nobody is there to be told */
    }
}

static void listen_to(struct mp_local *l, struct word *first) {
    struct word w;
    while (read(l->told[0], &w, sizeof w) == (ssize_t)sizeof w)
        if (first->why.status == MP_OK || (is_hearsay(&first->why) && !is_hearsay(&w.why)))
            *first = w;
}

enum mp_status mp_local_wait(struct mp_local *l, uint64_t patience_ms, int *signal_number, int *no,
                             struct mp_error *err) {
    uint32_t n_left = l->n_ranks, killed_rank = MP_NONE;
    int killed_by = 0, exit_code = 0;
    bool is_ending = false, is_killed = false;
    uint64_t kill_at = UINT64_MAX;
    struct word first = {0};
    *signal_number = *no = 0;
    while (n_left > 0) {
        for (uint32_t r = 0; r < l->n_ranks; r++) {
            int how;
            if (l->children[r] <= 0 || waitpid(l->children[r], &how, WNOHANG) != l->children[r])
                continue;
            l->children[r] = 0;
            n_left--;
            if (WIFSIGNALED(how) && !is_killed && *signal_number == 0 && killed_rank == MP_NONE) {
                killed_rank = r;
                killed_by = WTERMSIG(how);
            }
            const bool is_no = WIFEXITED(how) && WEXITSTATUS(how) == 1;
            *no |= is_no;
            if (WIFEXITED(how) && exit_code == 0 && !is_no)
                exit_code = WEXITSTATUS(how);
            if ((WIFSIGNALED(how) || (WEXITSTATUS(how) != 0 && !is_no)) && !is_ending) {
                is_ending = true;
                kill_at = ex_now_ns() + patience_ms * 1000000;
            }
        }
        listen_to(l, &first);
        const uint64_t now = ex_now_ns();
        if (n_left == 0)
            break;
        if (now >= kill_at) {
            kill_all(l, SIGKILL);
            is_killed = true;
            kill_at = UINT64_MAX;
        }
        const uint64_t left = kill_at == UINT64_MAX ? 3600000000000 : kill_at - now;
        const struct timespec t = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
        const int number = sigtimedwait(&l->watched, NULL, &t);
        if (number > 0 && number != SIGCHLD) {
            *signal_number = number;
            kill_all(l, number);
            kill_all(l, SIGCONT);
            is_ending = true;
            kill_at = ex_now_ns() + 1000000000;
        }
    }
    listen_to(l, &first);
    (void)sigprocmask(SIG_SETMASK, &l->before, NULL);
    forget(l);
    if (killed_rank != MP_NONE)
        return mp_fail(err, MP_EPEER, "rank %u was ended by %s%s%.700s", killed_rank, strsignal(killed_by),
                       first.why.status != MP_OK ? "; " : "", first.why.message);
    if (first.why.status != MP_OK) {
        if (err != NULL && err->status == MP_OK)
            *err = first.why;
        return first.why.status;
    }
    return exit_code == 0 ? MP_OK
                          : mp_fail(err, MP_EPEER, "a rank ended with exit code %d and said nothing", exit_code);
}

void mp_local_leave(struct mp_local *l) { forget(l); }
