/* Connections between all ranks, control frames, barriers and gathers over them, and how everything ends.
 *
 * A barrier is a star: everybody tells rank 0, rank 0 tells everybody, 2 (n - 1) small frames. A gather likewise. */
#include "socket.h"
#include "guests.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    COMMANDS_ROOM = 4096,
    ROW_BYTES_MAX = 1 << 30,
    REASON_MAX = 900,
    SUMS_NS = 1000000,       /* between looks of a rank that works while gradients are summed */
    GRACE_NS = 25000000,     /* from a connection's end until we give up hearing the reason from somebody */
    SEND_BUFFER = 128 * 1024 /* little waits in front of the next message; more was slower on loopback */
};

/* ---- failure ---- */

enum mp_status socket_break(struct ex_link *l, struct mp_error *err, const char *fmt, ...) {
    char text[sizeof l->why.message];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!l->is_broken) {
        l->is_broken = true;
        (void)mp_fail(&l->why, MP_EPEER, "%s", text);
    }
    return mp_fail(err, l->why.status, "%s", l->why.message);
}

static enum mp_status broken(const struct ex_link *l, struct mp_error *err) {
    return mp_fail(err, l->why.status, "%s", l->why.message);
}

/* ---- buffers ---- */

static bool buffer_append(struct socket_buffer *b, const void *bytes, size_t n) {
    if (b->at == b->n)
        b->at = b->n = 0;
    if (b->n + n > b->room) {
        const size_t room = 2 * (b->n + n);
        uint8_t *grown = mp_realloc(b->bytes, room, 1);
        if (grown == NULL)
            return false;
        b->bytes = grown;
        b->room = room;
    }
    if (n > 0)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    return true;
}

/* ---- control frames out ---- */

static void flush_replies(struct socket_peer *p) {
    struct socket_buffer *b = &p->replies;
    while (b->at < b->n) {
        const ssize_t k = send(p->in, b->bytes + b->at, b->n - b->at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k > 0)
            b->at += (size_t)k;
        else if (errno != EINTR)
            return; /* later; a dead connection is seen by who reads it */
    }
    b->at = b->n = 0;
}

enum mp_status socket_tell(struct ex_link *l, uint32_t to, enum socket_kind kind, uint64_t serial, uint32_t index,
                           const void *more, uint64_t n_more, struct mp_error *err) {
    struct socket_peer *p = &l->peers[to];
    const struct socket_frame f = {.magic = SOCKET_MAGIC,
                                   .kind = (uint16_t)kind,
                                   .from = (uint16_t)l->me,
                                   .serial = serial,
                                   .index = index,
                                   .bytes = n_more};
    if (p->in < 0)
        return MP_OK;
    if (!buffer_append(&p->replies, &f, sizeof f) || !buffer_append(&p->replies, more, n_more))
        return mp_nomem(err, "a control frame");
    flush_replies(p);
    return MP_OK;
}

/* ---- control frames in ---- */

/* Every rank passes on why it ends, word for word, so that whoever sees a connection end finds the reason on it. */
static bool is_hearsay(const char *text, size_t n) { return memmem(text, n, " ended the run: ", 15) != NULL; }

static enum mp_status obey(struct ex_link *l, uint32_t from, const struct socket_frame *f, const uint8_t *more,
                           struct mp_error *err) {
    struct socket_peer *p = &l->peers[from];
    switch (f->kind) {
    case SOCKET_CREDIT:
    case SOCKET_DONE:
        if (p->run != f->serial)
            p->credit = p->done = 0;
        p->run = f->serial;
        *(f->kind == SOCKET_CREDIT ? &p->credit : &p->done) = f->index;
        return MP_OK;
    case SOCKET_ARRIVED:
        p->arrived = f->serial;
        return MP_OK;
    case SOCKET_GO:
        l->go = f->serial;
        return MP_OK;
    case SOCKET_ROW:
    case SOCKET_ALL: {
        struct socket_buffer *b = f->kind == SOCKET_ROW ? &p->row : &l->all;
        b->at = b->n = 0;
        if (!buffer_append(b, more, f->bytes))
            return mp_nomem(err, "what ranks tell each other");
        *(f->kind == SOCKET_ROW ? &p->row_serial : &l->all_serial) = f->serial;
        return MP_OK;
    }
    case SOCKET_TICK:
        p->waits_for = f->index;
        ex_life_heard(&l->life, from, f->serial, ex_now_ns());
        return MP_OK;
    case SOCKET_WORD:
        return buffer_append(&l->words, more, f->bytes) ? MP_OK : mp_nomem(err, "what ranks tell each other");
    case SOCKET_LEAVE:
        ex_life_left(&l->life, from);
        return MP_OK;
    default: /* SOCKET_ABORT, of the rank itself or passed on by it */
        if (is_hearsay((const char *)more, f->bytes))
            return socket_break(l, err, "%.*s", (int)f->bytes, (const char *)more);
        return socket_break(l, err, "rank %u ended the run: %.*s", from, (int)f->bytes, (const char *)more);
    }
}

static enum mp_status read_commands(struct ex_link *l, uint32_t from, struct mp_error *err) {
    struct socket_peer *p = &l->peers[from];
    struct socket_buffer *b = &p->commands;
    enum mp_status status = MP_OK;
    while (!p->out_has_ended) {
        if (b->at == b->n)
            b->at = b->n = 0;
        if (b->room - b->n < COMMANDS_ROOM) {
            if (b->at > 0)
                memmove(b->bytes, b->bytes + b->at, b->n - b->at);
            b->n -= b->at;
            b->at = 0;
            const size_t had = b->n;
            static const uint8_t room[COMMANDS_ROOM];
            if (!buffer_append(b, room, sizeof room))
                return mp_nomem(err, "control frames");
            b->n = had;
        }
        const ssize_t k = recv(p->out, b->bytes + b->n, b->room - b->n, MSG_DONTWAIT);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN)
            break;
        if (k <= 0)
            p->out_has_ended = true;
        else
            ex_life_sign(&l->life, from, ex_now_ns());
        b->n += k > 0 ? (size_t)k : 0;
        while (b->n - b->at >= sizeof(struct socket_frame)) {
            struct socket_frame f;
            memcpy(&f, b->bytes + b->at, sizeof f);
            const uint64_t most = f.kind == SOCKET_ROW || f.kind == SOCKET_ALL ? ROW_BYTES_MAX
                                  : f.kind == SOCKET_ABORT                     ? REASON_MAX
                                  : f.kind == SOCKET_WORD                      ? sizeof(struct ex_word)
                                                                               : 0;
            if (f.magic != SOCKET_MAGIC || f.from != from || f.kind <= SOCKET_MESSAGE || f.kind > SOCKET_LEAVE ||
                f.bytes > most || (f.kind == SOCKET_WORD && f.bytes != most))
                return socket_break(l, err, "rank %u sent rank %u a control frame that makes no sense", from, l->me);
            if (b->n - b->at < sizeof f + f.bytes)
                break;
            b->at += sizeof f + f.bytes;
            MP_TRY(obey(l, from, &f, b->bytes + b->at - f.bytes, err));
        }
    }
    return MP_OK;
out:
    return status;
}

/* Somebody's connection has ended without a word. When it told a reason to anybody, that comes within a moment. */
enum mp_status socket_gone(struct ex_link *l, uint32_t peer, int error, struct mp_error *err) {
    const uint64_t until = ex_now_ns() + GRACE_NS;
    struct ex_owed owed = {.bytes = 0};
    char name[112], what[256];
    uint64_t of_peer = 0;
    const uint64_t of_sum = socket_sums_owed(l, peer, &of_peer, name, sizeof name);
    if (l->owed != NULL)
        l->owed(l->run, peer, &owed);
    if (owed.bytes == 0 && of_sum > 0)
        (void)snprintf(what, sizeof what, "%s: %llu bytes are outstanding, %llu of them from rank %u", name,
                       (unsigned long long)of_sum, (unsigned long long)of_peer, peer);
    else if (owed.bytes > 0)
        (void)snprintf(what, sizeof what, "%s, stage %u: %llu bytes %s rank %u are outstanding",
                       ex_script_name(l->script, name, sizeof name), owed.stage, (unsigned long long)owed.bytes,
                       owed.is_receive ? "from" : "to", peer);
    else
        (void)snprintf(what, sizeof what, "%s, with 0 bytes outstanding", l->doing);
    if (!l->is_broken && !l->is_asking) { /* a step below may find more of them */
        struct mp_error ignored = {0};
        l->is_asking = true;
        while (!l->is_broken && !l->peers[peer].out_has_ended && ex_now_ns() < until)
            if (socket_step(l, until, &ignored) != MP_OK)
                break;
        l->is_asking = false;
    }
    return socket_break(l, err, "%s: rank %u is gone (its connection to rank %u %s)", what, peer, l->me,
                        error == 0 ? "was closed" : strerror(error));
}

/* ---- signs of life ---- */

static enum mp_status tick(struct ex_link *l, uint64_t now, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < l->n && status == MP_OK; r++)
        if (!ex_life_has_left(&l->life, r))
            status = socket_tell(l, r, SOCKET_TICK, now - l->life.moved_ns, l->waits_for, NULL, 0, err);
    return status;
}

/* Fails when a peer has been silent for too long. */
static enum mp_status judge(struct ex_link *l, uint64_t now, struct mp_error *err) {
    struct ex_owed owed;
    struct mp_error why = {0};
    const uint32_t peer = ex_life_silent(&l->life, now, l->owed, l->run, &owed);
    if (peer == MP_NONE)
        return MP_OK;
    (void)ex_life_fail(&why, l->owed != NULL ? l->script : NULL, l->doing, l->me, peer, &owed, l->world.deadline_ms);
    return socket_break(l, err, "%s", why.message);
}

enum mp_status socket_pulse(struct ex_link *l, struct mp_error *err) {
    const uint64_t now = ex_now_ns();
    const bool is_due = ex_life_works_on(&l->life, now); /* always: it notes that something moves */
    return is_due || (socket_sums_are_busy(l) && now >= l->life.looked_ns + SUMS_NS) ? socket_step(l, 0, err) : MP_OK;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Training steps begin things at moments that they foresee: there milliseconds are not exact enough. */
static int wait_for_events(const struct ex_link *l, struct epoll_event *events, uint64_t left_ns) {
    const struct timespec exact = {.tv_sec = (time_t)(left_ns / 1000000000), .tv_nsec = (long)(left_ns % 1000000000)};
    const int ms = left_ns / 1000000 < 1000000 ? (int)mp_ceil_div(left_ns, 1000000) : 1000000;
    int n = -1;
    errno = ENOSYS;
    if (l->attend != NULL && ms > 0 && ms < 1000000)
        n = epoll_pwait2(l->epoll, events, EVENTS, &exact, NULL);
    return n < 0 && errno == ENOSYS ? epoll_wait(l->epoll, events, EVENTS, ms) : n; /* kernels before 5.11 */
}

enum mp_status socket_step(struct ex_link *l, uint64_t until_ns, struct mp_error *err) {
    struct epoll_event events[EVENTS];
    enum mp_status status = MP_OK;
    if (l->is_broken)
        return broken(l, err);
    uint64_t now = ex_now_ns();
    if (ex_life_look(&l->life, now) && !l->is_silent)
        MP_TRY(tick(l, now, err));
    if (!l->is_silent)
        until_ns = earlier(until_ns, earlier(l->life.tick_ns, l->life.judge_ns));
    if (l->attend != NULL && !l->is_silent && !l->is_beside)
        until_ns = earlier(until_ns, l->attend_ns);
    const uint64_t left = until_ns > now ? until_ns - now : 0;
    const int n = wait_for_events(l, events, left);
    if (left > 0)
        now = ex_now_ns();
    l->life.looked_ns = now;
    for (int i = 0; i < n; i++) {
        const uint32_t r = (uint32_t)(events[i].data.u64 >> 2);
        const bool is_in = (events[i].data.u64 & 1) != 0;
        struct socket_peer *p = &l->peers[r];
        const uint32_t e = events[i].events;
        if ((events[i].data.u64 & 2) != 0) {
            socket_sums_event(l, r, is_in, e);
            continue;
        }
        if (is_in) {
            p->can_receive |= (e & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
            if ((e & EPOLLIN) != 0)
                ex_life_sign(&l->life, r, now);
            if ((e & EPOLLOUT) != 0)
                flush_replies(p);
        } else {
            p->can_send |= (e & EPOLLOUT) != 0;
            if ((e & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0)
                MP_TRY(read_commands(l, r, err));
        }
    }
    for (int i = 0; i < n; i++) { /* after all reasons are heard */
        const uint32_t r = (uint32_t)(events[i].data.u64 >> 2);
        if (l->peers[r].out_has_ended && !ex_life_has_left(&l->life, r))
            MP_TRY(socket_gone(l, r, 0, err));
    }
    if (n < EVENTS && !l->is_silent && !l->is_asking) /* all that had come was looked at */
        MP_TRY(judge(l, now, err));
    status = socket_beside(l, now, err);
out:
    return status;
}

/* ---- whom to blame ---- */

uint32_t socket_culprit(const struct ex_link *l, uint32_t peer) {
    const uint32_t quietest = ex_life_quietest(&l->life);
    if (quietest != MP_NONE)
        return quietest;
    for (uint32_t hops = 0; hops < l->n && peer != l->me && l->peers[peer].waits_for < l->n; hops++)
        if (l->peers[peer].waits_for == l->me)
            break;
        else
            peer = l->peers[peer].waits_for;
    return peer;
}

/* ---- barriers and gathers ---- */

/* Who has not come: any of them for rank 0, rank 0 for the others. */
static uint32_t missing_from(const struct ex_link *l, bool is_barrier) {
    uint32_t r = l->me == 0 && l->n > 1 ? 1 : 0;
    while (l->me == 0 && r + 1 < l->n &&
           (is_barrier ? l->peers[r].arrived >= l->n_barriers : l->peers[r].row_serial >= l->n_gathers))
        r++;
    return r;
}

/* Waits a while at a barrier (a gather) that began at `begin_ns`; fails when nothing moved anywhere for the deadline.
 */
static enum mp_status wait_on(struct ex_link *l, bool is_barrier, uint64_t begin_ns, struct mp_error *err) {
    const uint32_t missing = missing_from(l, is_barrier);
    if (ex_now_ns() >= ex_life_patience(&l->life, begin_ns)) {
        const uint32_t culprit = socket_culprit(l, missing);
        return socket_break(
            l, err,
            "%s, at a %s: rank %u waited %llu ms for rank %u, which did not come, nor did anything move (0 bytes are "
            "outstanding; a slow cluster may need a longer --deadline)",
            l->doing, is_barrier ? "barrier" : "gather", l->me, (unsigned long long)l->world.deadline_ms, culprit);
    }
    l->waits_for = missing;
    return socket_step(l, ex_life_patience(&l->life, begin_ns), err);
}

/* What we waited for has come. */
static void come(struct ex_link *l) {
    l->waits_for = MP_NONE;
    l->life.moved_ns = ex_now_ns();
}

enum mp_status socket_arrive(struct ex_link *l, struct mp_error *err) {
    l->n_barriers++;
    return l->me == 0 ? MP_OK : socket_tell(l, 0, SOCKET_ARRIVED, l->n_barriers, 0, NULL, 0, err);
}

enum mp_status socket_passed(struct ex_link *l, bool *has_passed, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *has_passed = l->go >= l->n_barriers;
    if (*has_passed || l->me != 0)
        return MP_OK;
    for (uint32_t r = 1; r < l->n; r++)
        if (l->peers[r].arrived < l->n_barriers)
            return MP_OK;
    l->go = l->n_barriers;
    *has_passed = true;
    for (uint32_t r = 1; r < l->n; r++)
        MP_TRY(socket_tell(l, r, SOCKET_GO, l->n_barriers, 0, NULL, 0, err));
out:
    return status;
}

enum mp_status socket_barrier(struct ex_link *l, struct mp_error *err) {
    const uint64_t begin = ex_now_ns();
    bool has_passed = false;
    enum mp_status status = MP_OK;
    if (l->is_broken)
        return broken(l, err);
    l->life.moved_ns = begin;
    MP_TRY(socket_arrive(l, err));
    MP_TRY(socket_passed(l, &has_passed, err));
    while (!has_passed) {
        MP_TRY(wait_on(l, true, begin, err));
        MP_TRY(socket_passed(l, &has_passed, err));
    }
    come(l);
out:
    return status;
}

/* Until everything that was told has gone out. */
static enum mp_status flush_all(struct ex_link *l, uint64_t begin, struct mp_error *err) {
    for (uint32_t r = 0; r < l->n; r++)
        while (l->peers[r].replies.at < l->peers[r].replies.n && !ex_life_has_left(&l->life, r)) {
            enum mp_status status = wait_on(l, false, begin, err);
            if (status != MP_OK)
                return status;
        }
    return MP_OK;
}

enum mp_status socket_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) {
    const uint64_t begin = ex_now_ns();
    enum mp_status status = MP_OK;
    if (l->is_broken)
        return broken(l, err);
    if (n > ROW_BYTES_MAX / l->n)
        return mp_fail(err, MP_ELIMIT, "ranks cannot tell each other %zu bytes at a time (ask for less: no --timeline)",
                       n);
    l->n_gathers++;
    l->life.moved_ns = begin;
    if (l->me == 0) {
        memcpy(all, mine, n);
        for (uint32_t r = 1; r < l->n; r++) {
            struct socket_peer *p = &l->peers[r];
            while (p->row_serial < l->n_gathers)
                MP_TRY(wait_on(l, false, begin, err));
            if (p->row.n != n)
                return socket_break(l, err, "gather: rank %u sends %zu bytes where %zu were agreed", r, p->row.n, n);
            memcpy((uint8_t *)all + r * n, p->row.bytes, n);
        }
        for (uint32_t r = 1; r < l->n; r++)
            MP_TRY(socket_tell(l, r, SOCKET_ALL, l->n_gathers, 0, all, n * l->n, err));
        MP_TRY(flush_all(l, begin, err));
        come(l);
        return MP_OK;
    }
    MP_TRY(socket_tell(l, 0, SOCKET_ROW, l->n_gathers, 0, mine, n, err));
    while (l->all_serial < l->n_gathers)
        MP_TRY(wait_on(l, false, begin, err));
    come(l);
    if (l->all.n != n * l->n)
        return socket_break(l, err, "gather: rank 0 sends %zu bytes where %zu were agreed", l->all.n, n * l->n);
    memcpy(all, l->all.bytes, n * l->n);
out:
    return status;
}

/* ---- opening ---- */

static void set(int fd, int level, int name, int value) { (void)setsockopt(fd, level, name, &value, sizeof value); }

static enum mp_status ready(struct ex_link *l, uint32_t peer, int fd, bool is_for_sums, bool is_in,
                            struct mp_error *err) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                            .data.u64 = (uint64_t)peer << 2 | (uint64_t)is_for_sums << 1 | is_in};
    const char *congestion = l->world.congestion != NULL ? l->world.congestion : "cubic";
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion)) != 0 &&
        l->world.congestion != NULL)
        return mp_fail(err, MP_EUSAGE, "TCP congestion control \"%.40s\" is not available here: %s", congestion,
                       strerror(errno));
    if (!is_in)
        set(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER);
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) == 0
               ? MP_OK
               : mp_fail(err, MP_EIO, "epoll cannot watch a connection: %s", strerror(errno));
}

/* Two descriptors for each peer, and two more for sums. */
static rlim_t n_files(const struct ex_link *l) { return (l->sums != NULL ? 4 : 2) * (rlim_t)l->n + 64; }
static void raise_limit(const struct ex_link *l) {
    const rlim_t most = n_files(l);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < most) {
        limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

struct card { /* the first bytes on a connection */
    uint64_t token;
    uint32_t magic, from;
};

static bool send_now(int fd, const void *bytes, size_t n) { return send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n; }

static int *fd_of(struct ex_link *l, uint32_t peer, bool is_for_sums, bool is_in) {
    if (is_for_sums)
        return socket_sums_fd(l, peer, is_in);
    return is_in ? &l->peers[peer].in : &l->peers[peer].out;
}

/* Connects to every rank; the kernel accepts for those that are busy. */
static enum mp_status connect_all(struct ex_link *l, const struct ex_meeting *m, const struct ex_hosts *hosts,
                                  bool is_for_sums, uint64_t until, struct mp_error *err) {
    const struct card card = {m->token, is_for_sums ? SOCKET_MAGIC_SUMS : SOCKET_MAGIC, l->me};
    for (uint32_t k = 1; k < l->n; k++) {
        const uint32_t r = (l->me + k) % l->n;
        const char *to = m->addresses[r], *own = NULL;
        if (hosts->addresses != NULL) {
            to = ex_hosts_address(hosts, l->world.topology, r, l->me);
            own = ex_hosts_address(hosts, l->world.topology, l->me, r);
            if (to == NULL || own == NULL)
                return mp_fail(err, MP_EUSAGE, "%s: rank %u has no address at the level that it shares with rank %u",
                               l->world.hosts, to == NULL ? r : l->me, to == NULL ? l->me : r);
        }
        int *fd = fd_of(l, r, is_for_sums, false);
        *fd = ex_connect(to, m->ports[r], own);
        if (*fd < 0 && errno != EMFILE && errno != ENFILE)
            return mp_fail(err, MP_EPEER, "rank %u cannot reach rank %u at %s port %u: %s", l->me, r, to, m->ports[r],
                           strerror(errno));
        if (*fd < 0)
            return mp_fail(err, MP_EIO, "%u ranks need more open files than allowed (ulimit -n %llu)", l->n,
                           (unsigned long long)n_files(l));
    }
    for (uint32_t r = 0; r < l->n; r++) {
        int error = 0;
        socklen_t size = sizeof error;
        if (r == l->me)
            continue;
        const int fd = *fd_of(l, r, is_for_sums, false);
        const bool is_there = ex_wait(fd, true, until);
        if (is_there)
            (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (!is_there || error != 0 || !send_now(fd, &card, sizeof card))
            return mp_fail(err, MP_EPEER, "rank %u cannot reach rank %u: %s", l->me, r,
                           !is_there    ? "no answer within the deadline"
                           : error != 0 ? strerror(error)
                                        : strerror(errno));
        enum mp_status status = ready(l, r, fd, is_for_sums, false, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* Everybody has connected to us, or will; cards come with the connections. */
static enum mp_status accept_all(struct ex_link *l, const struct ex_meeting *m, uint64_t until, struct mp_error *err) {
    struct ex_guests guests;
    struct card card;
    enum mp_status status = ex_guests_open(&guests, m->listener, sizeof card, (uint32_t)n_files(l), err);
    for (uint32_t n_in = 0; n_in < (l->n - 1) * (l->sums != NULL ? 2 : 1) && status == MP_OK;) {
        const int fd = ex_guests_next(&guests, &card, until);
        if (fd < 0) {
            uint32_t missing = 0;
            while (missing == l->me || (missing + 1 < l->n && l->peers[missing].in >= 0 &&
                                        (l->sums == NULL || *socket_sums_fd(l, missing, true) >= 0)))
                missing++;
            status = mp_fail(err, MP_EPEER, "rank %u waited %llu ms for rank %u to connect, which did not come", l->me,
                             (unsigned long long)l->world.deadline_ms, missing);
        } else if ((card.magic != SOCKET_MAGIC && (card.magic != SOCKET_MAGIC_SUMS || l->sums == NULL)) ||
                   card.token != m->token || card.from >= l->n || card.from == l->me ||
                   *fd_of(l, card.from, card.magic == SOCKET_MAGIC_SUMS, true) >= 0) {
            (void)close(fd); /* nobody of us */
        } else {
            const bool is_for_sums = card.magic == SOCKET_MAGIC_SUMS;
            *fd_of(l, card.from, is_for_sums, true) = fd;
            n_in++;
            status = ready(l, card.from, fd, is_for_sums, true, err);
        }
    }
    ex_guests_close(&guests);
    return status;
}

enum mp_status socket_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    struct ex_meeting meeting = {.listener = -1};
    struct ex_hosts hosts = {0};
    const uint64_t until = ex_now_ns() + world->deadline_ms * 1000000;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (world->n_local != 1)
        return mp_fail(err, MP_EUSAGE,
                       "transport socket has one rank in each process (add --local %u, or --rendezvous)",
                       world->n_ranks);
    struct ex_link *l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "a transport");
    *l = (struct ex_link){.world = *world,
                          .me = world->first_rank,
                          .n = world->n_ranks,
                          .epoll = epoll_create1(EPOLL_CLOEXEC),
                          .listener = -1,
                          .waits_for = MP_NONE,
                          .doing = "before the first transfer",
                          .peers = mp_calloc(world->n_ranks, sizeof *l->peers)};
    if (l->peers == NULL) {
        status = mp_nomem(err, "a transport");
        goto out;
    }
    for (uint32_t r = 0; r < l->n; r++)
        l->peers[r] = (struct socket_peer){.out = -1, .in = -1, .waits_for = MP_NONE};
    if (l->epoll < 0) {
        status = mp_fail(err, MP_EIO, "epoll: %s", strerror(errno));
        goto out;
    }
    MP_TRY(ex_life_new(&l->life, l->me, l->n, world->deadline_ms, err));
    if (world->with_sums)
        MP_TRY(socket_sums_new(l, err));
    raise_limit(l);
    MP_TRY(ex_meet(&meeting, world, until, err));
    if (world->hosts != NULL)
        MP_TRY(ex_hosts_load(&hosts, world->hosts, world->topology, err));
    for (int is_for_sums = 0; is_for_sums <= (l->sums != NULL); is_for_sums++)
        MP_TRY(connect_all(l, &meeting, &hosts, is_for_sums, until, err));
    MP_TRY(accept_all(l, &meeting, until, err));
    ex_life_begin(&l->life, ex_now_ns());
    *out = l;
    l = NULL;
out:
    ex_hosts_free(&hosts);
    ex_meeting_close(&meeting);
    socket_close(l);
    return status;
}

/* ---- ending ---- */

void socket_abort(struct ex_link *l, const struct mp_error *why) {
    char text[REASON_MAX];
    struct mp_error ignored = {0};
    if (!l->is_broken) {
        l->is_broken = true;
        l->why = *why;
    }
    (void)mp_error_text(why, text, sizeof text);
    for (uint32_t r = 0; r < l->n; r++)
        if (l->peers[r].in >= 0 && socket_tell(l, r, SOCKET_ABORT, 0, 0, text, strlen(text), &ignored) != MP_OK)
            continue; /* it sees our connections end */
}

void socket_close(struct ex_link *l) {
    struct mp_error ignored = {0};
    if (l == NULL)
        return;
    for (uint32_t r = 0; l->peers != NULL && r < l->n && !l->is_broken; r++)
        if (l->peers[r].in >= 0 && socket_tell(l, r, SOCKET_LEAVE, 0, 0, NULL, 0, &ignored) != MP_OK)
            continue;
    for (uint32_t r = 0; l->peers != NULL && r < l->n; r++) {
        struct socket_peer *p = &l->peers[r];
        if (p->out >= 0)
            (void)close(p->out);
        if (p->in >= 0)
            (void)close(p->in);
        mp_free(p->commands.bytes);
        mp_free(p->replies.bytes);
        mp_free(p->row.bytes);
    }
    if (l->epoll >= 0)
        (void)close(l->epoll);
    ex_life_free(&l->life);
    mp_free(l->all.bytes);
    mp_free(l->words.bytes);
    socket_sums_free(l);
    mp_free(l->block);
    mp_free(l->peers);
    mp_free(l);
}
