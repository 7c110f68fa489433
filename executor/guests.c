#include "guests.h"
#include "rendezvous.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct ex_guest {
    int fd;
    size_t got;
    uint32_t at; /* its place in `first` */
};

enum mp_status ex_guests_open(struct ex_guests *g, int listener, size_t n_first, uint32_t n_most,
                              struct mp_error *err) {
    *g = (struct ex_guests){.listener = listener, .n_first = n_first, .n_most = n_most};
    g->all = mp_calloc(n_most, sizeof *g->all);
    g->first = mp_calloc(n_most, n_first);
    g->polls = mp_calloc((size_t)n_most + 1, sizeof *g->polls);
    if (g->all == NULL || g->first == NULL || g->polls == NULL) {
        ex_guests_close(g);
        return mp_nomem(err, "a meeting of ranks");
    }
    for (uint32_t i = 0; i < n_most; i++)
        g->all[i].at = i;
    return MP_OK;
}

/* Guest i is one no more; its place is the next one's to be taken. */
static int dismiss(struct ex_guests *g, uint32_t i) {
    const struct ex_guest gone = g->all[i];
    memmove(&g->all[i], &g->all[i + 1], (g->n - i - 1) * sizeof *g->all);
    g->all[--g->n] = (struct ex_guest){.fd = -1, .at = gone.at};
    return gone.fd;
}

/* Takes in who knocks. */
static void accept_some(struct ex_guests *g) {
    for (uint32_t i = 0; i < g->n_most; i++) {
        const int fd = accept4(g->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && g->n > 0) {
            (void)close(dismiss(g, 0));
            continue;
        }
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
            const struct timespec nap = {0, 3000000}; /* the knocking does not end, and nobody can go */
            (void)nanosleep(&nap, NULL);
        }
        if (fd < 0)
            return;
        if (g->n == g->n_most)
            (void)close(dismiss(g, 0));
        g->all[g->n].fd = fd;
        g->all[g->n++].got = 0;
    }
}

/* What guest i says. True: all its first bytes are there, or it is gone (then it is dismissed, and *fd is -1). */
static bool hear(struct ex_guests *g, uint32_t i, void *first, int *fd) {
    struct ex_guest *q = &g->all[i];
    uint8_t *to = g->first + q->at * g->n_first;
    const ssize_t k = recv(q->fd, to + q->got, g->n_first - q->got, 0);
    if (k < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    q->got += k > 0 ? (size_t)k : 0;
    if (k > 0 && q->got < g->n_first)
        return false;
    const bool is_there = k > 0;
    *fd = dismiss(g, i);
    if (is_there) {
        memcpy(first, to, g->n_first);
    } else {
        (void)close(*fd);
        *fd = -1;
    }
    return true;
}

int ex_guests_next(struct ex_guests *g, void *first, uint64_t until_ns) {
    for (;;) {
        for (uint32_t i = 0; i < g->n;) {
            int fd = -1;
            if (!hear(g, i, first, &fd))
                i++;
            else if (fd >= 0)
                return fd;
        }
        const uint64_t now = ex_now_ns();
        if (now >= until_ns)
            return -1;
        const struct timespec left = {(time_t)((until_ns - now) / 1000000000), (long)((until_ns - now) % 1000000000)};
        g->polls[0] = (struct pollfd){.fd = g->listener, .events = POLLIN};
        for (uint32_t i = 0; i < g->n; i++)
            g->polls[i + 1] = (struct pollfd){.fd = g->all[i].fd, .events = POLLIN};
        if (ppoll(g->polls, g->n + 1, &left, NULL) > 0 && g->polls[0].revents != 0)
            accept_some(g);
    }
}

void ex_guests_close(struct ex_guests *g) {
    for (uint32_t i = 0; g->all != NULL && i < g->n; i++)
        (void)close(g->all[i].fd);
    mp_free(g->all);
    mp_free(g->first);
    mp_free(g->polls);
    *g = (struct ex_guests){.listener = -1};
}
