/* The meeting is a star that lives for a moment: every rank connects to rank 0 and says who it is, which port it
 * listens at and what it is going to run (a SHA-256); rank 0 answers with a refusal or with everybody's address. */
#include "rendezvous.h"
#include "guests.h"
#include <moeplan/io.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x6d6f6531, N_TEXT = 600, RETRY_NS = 3000000, FILE_MAX = 4096 };

struct hello { /* rank to rank 0 */
    uint32_t magic, rank, n_ranks;
    uint16_t port, unused;
    char identity[64];
};
struct answer { /* rank 0 to rank; then n_ranks * struct where */
    uint32_t magic, is_refused;
    uint64_t token;
    char why[N_TEXT];
};
struct where {
    uint16_t port;
    char address[EX_ADDRESS_SIZE];
};

uint64_t ex_now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    (void)nanosleep(&t, NULL);
}

bool ex_wait(int fd, bool is_write, uint64_t until_ns) {
    for (;;) {
        const uint64_t now = ex_now_ns();
        if (now >= until_ns)
            return false;
        struct pollfd p = {.fd = fd, .events = is_write ? POLLOUT : POLLIN};
        const struct timespec left = {(time_t)((until_ns - now) / 1000000000), (long)((until_ns - now) % 1000000000)};
        if (ppoll(&p, 1, &left, NULL) > 0)
            return true;
    }
}

/* ---- sockets ---- */

/* A name service knows nothing of deadlines: a thread asks it, and is left to itself when time is up. */
struct question {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    char host[256], address[EX_ADDRESS_SIZE];
    bool is_answered, is_forgotten; /* forgotten: who answers frees it */
    int code;                       /* of getaddrinfo */
};

static void free_question(struct question *q) {
    (void)pthread_cond_destroy(&q->answered);
    (void)pthread_mutex_destroy(&q->lock);
    mp_free(q);
}

static int look_up(const char *host, int flags, char to[EX_ADDRESS_SIZE]) {
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, NULL, &hints, &found);
    if (code == 0) {
        code = getnameinfo(found->ai_addr, found->ai_addrlen, to, EX_ADDRESS_SIZE, NULL, 0, NI_NUMERICHOST);
        freeaddrinfo(found);
    }
    return code;
}

static void *ask(void *ctx) {
    struct question *q = ctx;
    char address[EX_ADDRESS_SIZE] = "";
    const int code = look_up(q->host, 0, address);
    (void)pthread_mutex_lock(&q->lock);
    q->code = code;
    memcpy(q->address, address, sizeof address);
    q->is_answered = true;
    const bool is_ours = q->is_forgotten;
    (void)pthread_cond_signal(&q->answered);
    (void)pthread_mutex_unlock(&q->lock);
    if (is_ours)
        free_question(q);
    return NULL;
}

/* The address of a host. 0, or why not as getaddrinfo says it; EAI_AGAIN when time is up. */
static int address_of_host(const char *host, uint64_t until_ns, char to[EX_ADDRESS_SIZE]) {
    const struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    struct question *q;
    pthread_t thread;
    int code = look_up(host, AI_NUMERICHOST, to);
    if (code == 0)
        return 0;
    q = mp_calloc(1, sizeof *q);
    if (q == NULL)
        return EAI_MEMORY;
    (void)snprintf(q->host, sizeof q->host, "%s", host);
    (void)pthread_mutex_init(&q->lock, NULL);
    (void)pthread_cond_init(&q->answered, NULL);
    if (pthread_create(&thread, NULL, ask, q) != 0) {
        free_question(q);
        return EAI_MEMORY;
    }
    (void)pthread_detach(thread);
    (void)pthread_mutex_lock(&q->lock);
    while (!q->is_answered && pthread_cond_clockwait(&q->answered, &q->lock, CLOCK_MONOTONIC, &until) == 0)
        ;
    const bool is_answered = q->is_answered;
    code = is_answered ? q->code : EAI_AGAIN;
    memcpy(to, q->address, sizeof q->address);
    q->is_forgotten = !is_answered;
    (void)pthread_mutex_unlock(&q->lock);
    if (is_answered)
        free_question(q);
    return code;
}

static struct addrinfo *resolve(const char *host, uint16_t port, int flags) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char service[8];
    (void)snprintf(service, sizeof service, "%u", port);
    if (host == NULL || *host == '\0') {
        hints.ai_family = AF_INET;
        hints.ai_flags |= AI_PASSIVE;
        host = NULL;
    }
    return getaddrinfo(host, service, &hints, &found) == 0 ? found : NULL;
}

int ex_listen(const char *host, uint16_t port) {
    struct addrinfo *a = resolve(host, port, 0);
    int fd = -1, on = 1;
    if (a == NULL) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
                    bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0)) {
        const int error = errno;
        (void)close(fd);
        errno = error;
        fd = -1;
    }
    freeaddrinfo(a);
    return fd;
}

uint16_t ex_port(int fd) {
    struct sockaddr_storage s;
    socklen_t n = sizeof s;
    if (getsockname(fd, (struct sockaddr *)&s, &n) != 0)
        return 0;
    return ntohs(s.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&s)->sin6_port
                                         : ((struct sockaddr_in *)&s)->sin_port);
}

int ex_connect(const char *host, uint16_t port, const char *own) {
    struct addrinfo *a = resolve(host, port, 0), *from = own != NULL ? resolve(own, 0, AI_NUMERICHOST) : NULL;
    int fd = -1, error = EADDRNOTAVAIL;
    if (a != NULL && (own == NULL || from != NULL)) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        error = errno;
        if (fd >= 0 && ((from != NULL && bind(fd, from->ai_addr, from->ai_addrlen) != 0) ||
                        (connect(fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS))) {
            error = errno;
            (void)close(fd);
            fd = -1;
        }
    }
    if (a != NULL)
        freeaddrinfo(a);
    if (from != NULL)
        freeaddrinfo(from);
    errno = error;
    return fd;
}

/* The address of this (or the other) end, as text. */
static void address_of(int fd, bool is_peer, char to[EX_ADDRESS_SIZE]) {
    struct sockaddr_storage s;
    socklen_t n = sizeof s;
    *to = '\0';
    if ((is_peer ? getpeername(fd, (struct sockaddr *)&s, &n) : getsockname(fd, (struct sockaddr *)&s, &n)) == 0)
        (void)getnameinfo((struct sockaddr *)&s, n, to, EX_ADDRESS_SIZE, NULL, 0, NI_NUMERICHOST);
}

static bool read_all(int fd, void *to, size_t n, uint64_t until_ns) {
    for (size_t got = 0; got < n;) {
        ssize_t k = recv(fd, (char *)to + got, n - got, 0);
        if (k > 0)
            got += (size_t)k;
        else if (k == 0 || (errno != EAGAIN && errno != EINTR) || (errno == EAGAIN && !ex_wait(fd, false, until_ns)))
            return false;
    }
    return true;
}
static bool write_all(int fd, const void *from, size_t n, uint64_t until_ns) {
    for (size_t sent = 0; sent < n;) {
        ssize_t k = send(fd, (const char *)from + sent, n - sent, MSG_NOSIGNAL);
        if (k >= 0)
            sent += (size_t)k;
        else if ((errno != EAGAIN && errno != EINTR) || (errno == EAGAIN && !ex_wait(fd, true, until_ns)))
            return false;
    }
    return true;
}

/* ---- where ---- */

struct place { /* of rank 0 */
    char host[256];
    uint16_t port;
    const char *file; /* or NULL */
};

static enum mp_status parse_place(struct place *out, const char *text, struct mp_error *err) {
    *out = (struct place){.file = NULL};
    if (strncmp(text, "file:///", 8) == 0 && text[8] != '\0') {
        out->file = text + 7;
        return MP_OK;
    }
    const char *colon = strrchr(text, ':');
    uint64_t port = 0;
    if (strncmp(text, "tcp://", 6) == 0 && colon != NULL && colon > text + 6 &&
        (size_t)(colon - text - 6) < sizeof out->host && mp_parse_u64(colon + 1, strlen(colon + 1), &port) &&
        port > 0 && port < 65536) {
        size_t n = (size_t)(colon - text - 6);
        const bool is_bracketed = n > 2 && text[6] == '[' && colon[-1] == ']';
        memcpy(out->host, text + 6 + is_bracketed, n - 2 * is_bracketed);
        out->port = (uint16_t)port;
        return MP_OK;
    }
    return mp_fail(err, MP_EUSAGE, "--rendezvous: \"%.200s\" is neither file:///PATH nor tcp://HOST:PORT", text);
}

/* The file says where rank 0 listens: "moeplan-exec HOST PORT\n". False: not there (yet), or of something else. */
static bool read_file(struct place *p) {
    struct mp_in *in = NULL;
    struct mp_error ignored = {0};
    static const char head[] = "moeplan-exec ";
    const size_t n_head = sizeof head - 1;
    uint64_t port = 0;
    if (access(p->file, R_OK) != 0 || mp_in_open(&in, p->file, FILE_MAX, &ignored) != MP_OK)
        return false;
    const char *text = (const char *)in->data;
    const char *blank =
        in->size > n_head && memcmp(text, head, n_head) == 0 ? memchr(text + n_head, ' ', in->size - n_head) : NULL;
    const size_t n_host = blank != NULL ? (size_t)(blank - text) - n_head : 0;
    const bool is_good = blank != NULL && n_host < sizeof p->host && text[in->size - 1] == '\n' &&
                         mp_parse_u64(blank + 1, in->size - n_head - n_host - 2, &port) && port > 0 && port < 65536;
    if (is_good) {
        memcpy(p->host, text + n_head, n_host);
        p->host[n_host] = '\0';
        p->port = (uint16_t)port;
    }
    mp_in_close(in);
    return is_good;
}
static enum mp_status write_file(const struct place *p, const char *host, uint16_t port, struct mp_error *err) {
    struct mp_out *out = NULL;
    enum mp_status status = mp_out_open(&out, p->file, err);
    if (status != MP_OK)
        return status;
    mp_out_printf(out, "moeplan-exec %s %u\n", host, port);
    return mp_out_commit(out, err);
}

/* ---- rank 0 ---- */

/* Takes in whoever comes until every rank is there. fds[r] is rank r's; a stranger is shown the door. */
static enum mp_status receive_all(int listener, uint32_t n, struct hello *hellos, int *fds, uint64_t until_ns,
                                  char *refusal) {
    struct ex_guests guests;
    struct hello h;
    enum mp_status status = ex_guests_open(&guests, listener, sizeof h, 2 * n + 64, NULL);
    if (status != MP_OK)
        return status;
    for (uint32_t n_known = 1; n_known < n && status == MP_OK;) {
        const int fd = ex_guests_next(&guests, &h, until_ns);
        if (fd < 0) {
            status = MP_EPEER;
        } else if (h.magic != MAGIC) {
            (void)close(fd);
        } else if (h.rank == 0 || h.rank >= n || fds[h.rank] >= 0 || h.n_ranks != n) {
            (void)snprintf(refusal, N_TEXT,
                           h.n_ranks != n ? "rank %u was started as one of %u ranks, rank 0 as one of %u"
                                          : "rank %u of %u came twice or cannot be (each rank is started once)",
                           h.rank, h.n_ranks, n);
            (void)close(fd);
            status = MP_EPEER;
        } else {
            hellos[h.rank] = h;
            fds[h.rank] = fd;
            n_known++;
        }
    }
    ex_guests_close(&guests);
    return status;
}

static void compare(const struct ex_world *w, const struct hello *hellos, char *refusal) {
    for (uint32_t r = 1; r < w->n_ranks; r++)
        if (memcmp(hellos[r].identity, w->identity, sizeof hellos[r].identity) != 0) {
            (void)snprintf(refusal, N_TEXT,
                           "rank %u is about to run something else: plan, recording, topology or options are not rank "
                           "0's (%.12s... and %.12s...)",
                           r, hellos[r].identity, w->identity);
            return;
        }
}

static void name_missing(const int *fds, uint32_t n, uint64_t deadline_ms, char *refusal) {
    char list[200];
    size_t at = 0;
    uint32_t n_missing = 0;
    for (uint32_t r = 1; r < n; r++)
        if (fds[r] < 0 && ++n_missing <= 16)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%u", n_missing > 1 ? ", " : "", r);
    (void)snprintf(refusal, N_TEXT,
                   "rank%s %s%s did not come within %llu ms (were they started, can they reach rank 0?)",
                   n_missing > 1 ? "s" : "", list, n_missing > 16 ? ", ..." : "", (unsigned long long)deadline_ms);
}

static enum mp_status host(struct ex_meeting *m, const struct ex_world *w, const struct place *place, uint64_t until_ns,
                           struct mp_error *err) {
    const uint32_t n = w->n_ranks;
    struct hello *hellos = mp_calloc(n, sizeof *hellos);
    int *fds = mp_calloc(n, sizeof *fds);
    struct where *all = mp_calloc(n, sizeof *all);
    struct answer answer = {.magic = MAGIC};
    int listener = w->sockets_fd;
    enum mp_status status = MP_OK;
    if (hellos == NULL || fds == NULL || all == NULL) {
        status = mp_nomem(err, "a meeting of ranks");
        goto out;
    }
    for (uint32_t r = 0; r < n; r++)
        fds[r] = -1;
    const char *at = w->hosts != NULL ? NULL : place->file != NULL ? "127.0.0.1" : place->host;
    char address[EX_ADDRESS_SIZE];
    if (at != NULL && place->file == NULL && listener < 0) {
        const int code = address_of_host(at, until_ns, address);
        if (code != 0) {
            status = mp_fail(err, MP_EUSAGE,
                             "--rendezvous: rank 0 cannot listen at \"%s\": %s (write a name or an address of the "
                             "machine of rank 0)",
                             at, gai_strerror(code));
            goto out;
        }
        at = address;
    }
    if (listener < 0)
        listener = ex_listen(at, place->port);
    if (listener < 0 && errno == EADDRNOTAVAIL)
        listener = ex_listen(NULL, place->port); /* a name of this machine that no interface has */
    m->listener = listener >= 0 ? ex_listen(at, 0) : -1;
    if (m->listener < 0 && listener >= 0)
        m->listener = ex_listen(NULL, 0);
    if (listener < 0 || m->listener < 0) {
        status = mp_fail(err, MP_EIO, "rank 0 cannot listen at %s port %u: %s", at != NULL ? at : "any address",
                         place->port, strerror(errno));
        goto out;
    }
    if (place->file != NULL)
        MP_TRY(write_file(place, "127.0.0.1", ex_port(listener), err));
    status = receive_all(listener, n, hellos, fds, until_ns, answer.why);
    if (status == MP_ENOMEM) {
        (void)mp_nomem(err, "a meeting of ranks");
        goto out;
    }
    if (status == MP_OK)
        compare(w, hellos, answer.why);
    else if (answer.why[0] == '\0')
        name_missing(fds, n, w->deadline_ms, answer.why);
    answer.is_refused = answer.why[0] != '\0';
    answer.token = mp_mix64(ex_now_ns() ^ (uint64_t)getpid() << 32);
    for (uint32_t r = 0; r < n; r++) {
        all[r].port = r == 0 ? ex_port(m->listener) : hellos[r].port;
        if (r > 0 && fds[r] >= 0)
            address_of(fds[r], true, all[r].address);
    }
    const uint64_t until_told = answer.is_refused ? ex_now_ns() + 50000000 : until_ns;
    for (uint32_t r = 1; r < n; r++)
        if (fds[r] >= 0 &&
            (!write_all(fds[r], &answer, sizeof answer, until_told) ||
             (!answer.is_refused && !write_all(fds[r], all, n * sizeof *all, until_told))) &&
            !answer.is_refused) {
            status = mp_fail(err, MP_EPEER, "rank %u was gone when all ranks had met", r);
            goto out;
        }
    if (answer.is_refused) {
        status = mp_fail(err, MP_EPEER, "%s", answer.why);
        goto out;
    }
    m->token = answer.token;
    for (uint32_t r = 0; r < n; r++) {
        m->ports[r] = all[r].port;
        memcpy(m->addresses[r], all[r].address, sizeof m->addresses[r]);
    }
out:
    if (place->file != NULL && listener >= 0)
        (void)unlink(place->file);
    if (listener >= 0)
        (void)close(listener);
    for (uint32_t r = 0; fds != NULL && r < n; r++)
        if (fds[r] >= 0)
            (void)close(fds[r]);
    mp_free(hellos);
    mp_free(fds);
    mp_free(all);
    return status;
}

/* ---- the others ---- */

/* One attempt: connected and greeted, or -1; `code`: of the name of rank 0's host. */
static int greet(struct ex_meeting *m, const struct ex_world *w, const struct place *place,
                 const struct ex_hosts *hosts, uint64_t until_ns, int *code) {
    const char *to = place->host, *own = NULL;
    struct hello h = {.magic = MAGIC, .rank = w->first_rank, .n_ranks = w->n_ranks};
    char address[EX_ADDRESS_SIZE], host_address[EX_ADDRESS_SIZE];
    int error = 0;
    socklen_t n = sizeof error;
    if (hosts->addresses == NULL) {
        const int found = address_of_host(to, until_ns, host_address);
        *code = found == EAI_AGAIN && *code != 0 ? *code : found; /* the last look has no time */
        if (found != 0)
            return -1;
        to = host_address;
    } else {
        to = ex_hosts_address(hosts, w->topology, 0, w->first_rank);
        own = ex_hosts_address(hosts, w->topology, w->first_rank, 0);
    }
    int fd = to != NULL ? ex_connect(to, place->port, own) : -1;
    if (fd < 0)
        return -1;
    if (!ex_wait(fd, true, until_ns) || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0 || error != 0)
        goto fail;
    if (m->listener < 0) {
        address_of(fd, false, address);
        m->listener = ex_listen(w->hosts != NULL ? NULL : address, 0);
        if (m->listener < 0)
            goto fail;
    }
    h.port = ex_port(m->listener);
    memcpy(h.identity, w->identity, sizeof h.identity);
    if (write_all(fd, &h, sizeof h, until_ns))
        return fd;
fail:
    (void)close(fd);
    return -1;
}

static enum mp_status visit(struct ex_meeting *m, const struct ex_world *w, struct place *place,
                            const struct ex_hosts *hosts, uint64_t until_ns, struct mp_error *err) {
    const uint32_t n = w->n_ranks;
    struct where *all = mp_calloc(n, sizeof *all);
    struct answer answer = {0};
    enum mp_status status = MP_OK;
    int fd = -1, code = 0;
    if (all == NULL)
        return mp_nomem(err, "a meeting of ranks");
    while (answer.magic != MAGIC) { /* rank 0 may not listen yet, or what listens is left from another run */
        if (fd >= 0)
            (void)close(fd);
        fd = -1;
        const uint64_t now = ex_now_ns();
        if (now >= until_ns && code != 0) {
            status = mp_fail(err, MP_EPEER,
                             "rank %u did not reach rank 0 at %s within %llu ms: \"%s\": %s (does this machine know "
                             "that name?)",
                             w->first_rank, w->rendezvous, (unsigned long long)w->deadline_ms, place->host,
                             gai_strerror(code));
            goto out;
        }
        if (now >= until_ns) {
            status = mp_fail(err, MP_EPEER,
                             "rank %u did not reach rank 0 at %s within %llu ms (is rank 0 running, with the same "
                             "--rendezvous?)",
                             w->first_rank, w->rendezvous, (unsigned long long)w->deadline_ms);
            goto out;
        }
        if (place->file == NULL || read_file(place))
            fd = greet(m, w, place, hosts, until_ns, &code);
        if (fd < 0 || !read_all(fd, &answer, sizeof answer, until_ns)) {
            answer.magic = 0;
            nap(RETRY_NS);
        }
    }
    answer.why[N_TEXT - 1] = '\0';
    if (answer.is_refused) {
        status = mp_fail(err, MP_EPEER, "%s", answer.why);
        goto out;
    }
    if (!read_all(fd, all, n * sizeof *all, until_ns)) {
        status = mp_fail(err, MP_EPEER, "rank 0 was gone when all ranks had met");
        goto out;
    }
    m->token = answer.token;
    for (uint32_t r = 0; r < n; r++) {
        m->ports[r] = all[r].port;
        all[r].address[EX_ADDRESS_SIZE - 1] = '\0';
        memcpy(m->addresses[r], all[r].address, sizeof m->addresses[r]);
    }
    address_of(fd, true, m->addresses[0]);
out:
    if (fd >= 0)
        (void)close(fd);
    mp_free(all);
    return status;
}

enum mp_status ex_meet(struct ex_meeting *out, const struct ex_world *world, uint64_t until_ns, struct mp_error *err) {
    struct ex_hosts hosts = {0};
    struct place place;
    enum mp_status status = MP_OK;
    *out = (struct ex_meeting){.listener = -1};
    if (world->rendezvous == NULL)
        return mp_fail(err, MP_EUSAGE,
                       "ranks in processes of their own must meet somewhere (--rendezvous, or --local)");
    status = parse_place(&place, world->rendezvous, err);
    if (status != MP_OK)
        return status;
    if (world->hosts != NULL)
        MP_TRY(ex_hosts_load(&hosts, world->hosts, world->topology, err));
    out->ports = mp_calloc(world->n_ranks, sizeof *out->ports);
    out->addresses = mp_calloc(world->n_ranks, sizeof *out->addresses);
    if (out->ports == NULL || out->addresses == NULL) {
        status = mp_nomem(err, "a meeting of ranks");
        goto out;
    }
    if (world->first_rank == 0)
        status = host(out, world, &place, until_ns, err);
    else
        status = visit(out, world, &place, &hosts, until_ns, err);
out:
    ex_hosts_free(&hosts);
    if (status != MP_OK)
        ex_meeting_close(out);
    return status;
}

void ex_meeting_close(struct ex_meeting *m) {
    if (m->listener >= 0)
        (void)close(m->listener);
    mp_free(m->ports);
    mp_free(m->addresses);
    *m = (struct ex_meeting){.listener = -1};
}

/* ---- the hosts file ---- */

enum mp_status ex_hosts_load(struct ex_hosts *out, const char *path, const struct mp_topology *t,
                             struct mp_error *err) {
    struct mp_in *in = NULL;
    enum mp_status status = MP_OK;
    *out = (struct ex_hosts){.n_ranks = t->n_gpus, .n_levels = t->n_levels};
    MP_TRY(mp_in_open(&in, path, 1 << 24, err));
    out->addresses = mp_calloc((size_t)t->n_gpus * t->n_levels, sizeof *out->addresses);
    if (out->addresses == NULL) {
        status = mp_nomem(err, path);
        goto out;
    }
    uint64_t line = 1;
    uint32_t n_read = 0;
    for (size_t at = 0; at < in->size; line++) {
        const char *text = (const char *)in->data + at;
        const char *newline = memchr(text, '\n', in->size - at);
        const size_t length = newline != NULL ? (size_t)(newline - text) : in->size - at;
        uint32_t n_words = 0;
        at += length + 1;
        for (size_t i = 0; i < length;) {
            size_t n = 0;
            uint64_t number;
            while (i + n < length && text[i + n] != ' ')
                n++;
            if (n_words == 0 && (!mp_parse_u64(text + i, n, &number) || number != n_read || n_read >= t->n_gpus)) {
                status = mp_fail_at(err, MP_EINPUT, path, line, i + 1,
                                    "\"%.*s\" is not rank %u of %u (a line for each rank, in order: rank, node, an "
                                    "address for each level)",
                                    (int)(n < 40 ? n : 40), text + i, n_read, t->n_gpus);
                goto out;
            }
            if (n_words >= 2 && n_words - 2 < t->n_levels && !(n == 1 && text[i] == '-')) {
                struct in6_addr six;
                char *to = out->addresses[(size_t)n_read * t->n_levels + n_words - 2];
                if (n < EX_ADDRESS_SIZE)
                    memcpy(to, text + i, n);
                if (n >= EX_ADDRESS_SIZE || (inet_pton(AF_INET, to, &six) != 1 && inet_pton(AF_INET6, to, &six) != 1)) {
                    status = mp_fail_at(err, MP_EINPUT, path, line, i + 1,
                                        "\"%.*s\" is not an IP address (write one, or - where the rank has none)",
                                        (int)(n < 40 ? n : 40), text + i);
                    goto out;
                }
            }
            n_words++;
            i += n + 1;
        }
        if (n_words < 2 + t->n_levels) {
            status = mp_fail_at(err, MP_EINPUT, path, line, 0,
                                "has %u words (rank, node and an address for each of %u levels make %u)", n_words,
                                t->n_levels, 2 + t->n_levels);
            goto out;
        }
        n_read++;
    }
    if (n_read != t->n_gpus)
        status = mp_fail_at(err, MP_EINPUT, path, line, 0, "has %u ranks, the topology has %u GPUs (a line for each)",
                            n_read, t->n_gpus);
out:
    mp_in_close(in);
    if (status != MP_OK)
        ex_hosts_free(out);
    return status;
}

void ex_hosts_free(struct ex_hosts *h) {
    mp_free(h->addresses);
    *h = (struct ex_hosts){0};
}

const char *ex_hosts_address(const struct ex_hosts *h, const struct mp_topology *t, uint32_t rank, uint32_t peer) {
    for (uint32_t l = 0; l < h->n_levels; l++)
        if (t->gpus[rank].group[l] == t->gpus[peer].group[l]) {
            const char *address = h->addresses[(size_t)rank * h->n_levels + l];
            return *address != '\0' ? address : NULL;
        }
    return NULL;
}
