/* One process per rank, TCP between them: real links, emulated clusters, drills.
 *
 * Every rank has a queue of sends and a queue of receives, whose groups are its messages of a stage (docs/COST.md part
 * 5). Queues go on by themselves, both in order. A receiver tells the sender of a message when its queue has come to it
 * (a credit; those of its first group need none), a little ahead: as soon as no more than WINDOW bytes of what it has
 * granted are still to come, so that its port never runs dry while a credit travels. Coupled, a rank comes to a stage
 * when all it sends and receives before is done at the other end; with barriers all go on together and need no credits.
 *
 * Bytes go from the block of the sender to that of the receiver without a copy in this program. Each message has a
 * header, which the receiver compares with what its own script says. */
#include "socket.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    WINDOW = 96 * 1024,  /* bytes granted and not yet here, when a receiver grants the next group */
    IO = 128 * 1024,     /* at most so much in one call: both ends work at once, on what their caches still hold */
    CHUNK = 1024 * 1024, /* at most so much to or from one peer before the others have their turn */
};

struct lane {                    /* one peer, in this run */
    size_t send, receive;        /* the next message to it and from it; the number of all = none */
    uint32_t n_sent, n_received; /* how many messages before it */
    uint32_t granted, credit;    /* messages from it that our queue has come to; to it, that it has granted */
    struct socket_frame out, in; /* headers of the message at hand */
    size_t n_out, n_in;          /* bytes of them that are through */
    uint64_t sent, received;     /* payload that is through */
    bool has_begun;
    uint64_t begun_ns, came_ns; /* came_ns: when a byte from it came last */
};
struct run {
    struct ex_link *link;
    const struct ex_script *s;
    struct ex_times *times;
    const struct ex_end *sends, *receives; /* of this rank; sends as a fault may have changed them */
    struct ex_end *faulty;
    size_t n_sends, n_receives;
    size_t *send_next, *receive_next;            /* the next message of the same peer */
    uint32_t *send_number;                       /* how many messages to the same peer come before */
    uint8_t *is_sent, *is_received;              /* is_sent: 1 all is with the kernel, 2 the receiver has it */
    struct lane *lanes;                          /* [n] */
    size_t send, send_end, receive, receive_end; /* the groups the queues have come to */
    size_t granted;                              /* receives before it are granted */
    uint64_t outstanding;                        /* bytes granted that are not here */
    size_t copy;
    uint32_t stage; /* with barriers: where all are */
    bool has_barriers, is_coupled, has_copied, is_at_barrier, has_misbehaved;
    uint64_t origin_ns, stall_ns; /* stall_ns: when to look again whether a message has stopped on its way */
};

static uint64_t small(uint64_t bytes) { return bytes < IO ? bytes : IO; }

static uint32_t send_stage(const struct run *x) { return x->send < x->n_sends ? x->sends[x->send].stage : MP_NONE; }
static uint32_t receive_stage(const struct run *x) {
    return x->receive < x->n_receives ? x->receives[x->receive].stage : MP_NONE;
}
static uint32_t rank_stage(const struct run *x) {
    const uint32_t a = send_stage(x), b = receive_stage(x);
    return a < b ? a : b;
}
static bool is_open(const struct run *x, uint32_t stage) {
    if (stage == MP_NONE)
        return false;
    if (x->has_barriers)
        return stage == x->stage && x->has_copied && !x->is_at_barrier;
    return !x->is_coupled || stage == rank_stage(x);
}

/* ---- making a run ---- */

static size_t group_end(const struct ex_end *ends, size_t n, size_t first) {
    size_t i = first;
    while (i < n && ends[i].stage == ends[first].stage)
        i++;
    return i;
}

/* Messages of rank `from` to us, or of us to `to`, that need no credit: those of the receiver's first group. */
static uint32_t n_first(const struct run *x, uint32_t sender, uint32_t receiver) {
    const struct ex_script *s = x->s;
    const size_t first = s->receive_first[receiver], end = s->receive_first[receiver + 1];
    uint32_t n = 0;
    if (first == end || (x->is_coupled && s->send_first[receiver] < s->send_first[receiver + 1] &&
                         s->sends[s->send_first[receiver]].stage < s->receives[first].stage))
        return 0;
    for (size_t i = first; i < end && s->receives[i].stage == s->receives[first].stage; i++)
        n += s->receives[i].peer == sender;
    return n;
}

static enum mp_status make(struct run *x, struct mp_error *err) {
    const struct ex_script *s = x->s;
    const uint32_t n = x->link->n, me = x->link->me;
    x->n_sends = s->send_first[me + 1] - s->send_first[me];
    x->n_receives = s->receive_first[me + 1] - s->receive_first[me];
    enum mp_status status = ex_fault_sends(&x->faulty, &x->link->world.fault, s, me, err);
    if (status != MP_OK)
        return status;
    x->sends = x->faulty != NULL ? x->faulty : s->sends + s->send_first[me];
    x->receives = s->receives + s->receive_first[me];
    x->send_next = mp_calloc(x->n_sends, sizeof *x->send_next);
    x->send_number = mp_calloc(x->n_sends, sizeof *x->send_number);
    x->receive_next = mp_calloc(x->n_receives, sizeof *x->receive_next);
    x->is_sent = mp_calloc(x->n_sends, 1);
    x->is_received = mp_calloc(x->n_receives, 1);
    x->lanes = mp_calloc(n, sizeof *x->lanes);
    if (x->send_next == NULL || x->send_number == NULL || x->receive_next == NULL || x->is_sent == NULL ||
        x->is_received == NULL || x->lanes == NULL)
        return mp_nomem(err, "running a script");
    for (uint32_t r = 0; r < n; r++)
        x->lanes[r] = (struct lane){.send = x->n_sends, .receive = x->n_receives};
    for (size_t i = x->n_sends; i-- > 0;) {
        x->is_sent[i] = x->sends[i].bytes == 0 ? 2 : 0; /* a stage that is left out */
        x->send_next[i] = x->lanes[x->sends[i].peer].send;
        if (x->is_sent[i] == 0)
            x->lanes[x->sends[i].peer].send = i;
    }
    for (size_t i = 0; i < x->n_sends; i++)
        x->send_number[i] = x->lanes[x->sends[i].peer].n_sent++;
    for (size_t i = x->n_receives; i-- > 0;) {
        x->receive_next[i] = x->lanes[x->receives[i].peer].receive;
        x->lanes[x->receives[i].peer].receive = i;
        x->is_received[i] = x->link->world.fault.kind == EX_FAULT_DROP &&
                            ex_fault_strikes(&x->link->world.fault, s, x->receives[i].stage, me);
    }
    for (uint32_t r = 0; r < n; r++) {
        x->lanes[r].n_sent = 0;
        if (r != me && x->lanes[r].send < x->n_sends)
            x->lanes[r].credit = n_first(x, me, r);
    }
    x->send_end = group_end(x->sends, x->n_sends, 0);
    x->receive_end = group_end(x->receives, x->n_receives, 0);
    x->copy = s->copy_first[me];
    return MP_OK;
}

static void unmake(struct run *x) {
    mp_free(x->faulty);
    mp_free(x->send_next);
    mp_free(x->send_number);
    mp_free(x->receive_next);
    mp_free(x->is_sent);
    mp_free(x->is_received);
    mp_free(x->lanes);
}

static void note(struct run *x, const struct ex_end *e, uint64_t begin_ns, bool is_receive) {
    struct ex_times *t = x->times;
    const size_t cell = (size_t)x->link->me * x->s->n_stages + e->stage;
    const uint64_t end = ex_now_ns() - x->origin_ns;
    if (is_receive || t->message_end_ns[e->message] == 0) {
        t->message_begin_ns[e->message] = begin_ns;
        t->message_end_ns[e->message] = end;
    }
    if (t->end_ns[cell] == 0 || begin_ns < t->begin_ns[cell])
        t->begin_ns[cell] = begin_ns;
    if (end > t->end_ns[cell])
        t->end_ns[cell] = end;
}

/* ---- receiving ---- */

/* Tells senders that our queue has come, or is about to come, to what they send. */
static enum mp_status grant(struct run *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    while (x->granted < x->n_receives && !x->has_barriers) {
        const size_t end = group_end(x->receives, x->n_receives, x->granted);
        const bool has_come = x->granted < x->receive || /* left out, and passed */
                              (x->granted == x->receive && is_open(x, x->receives[x->granted].stage));
        if (!has_come && (x->is_coupled || x->outstanding > WINDOW))
            break;
        for (size_t i = x->granted; i < end; i++) {
            struct lane *lane = &x->lanes[x->receives[i].peer];
            lane->granted++;
            x->outstanding += x->is_received[i] ? 0 : x->receives[i].bytes;
            const uint32_t for_free = n_first(x, x->receives[i].peer, x->link->me);
            if (lane->granted > for_free)
                MP_TRY(socket_tell(x->link, x->receives[i].peer, SOCKET_CREDIT, x->link->n_runs, lane->granted, NULL, 0,
                                   err));
        }
        x->granted = end;
    }
out:
    return status;
}

static enum mp_status check_header(struct run *x, uint32_t from, const struct ex_end *e, struct mp_error *err) {
    const struct socket_frame *f = &x->lanes[from].in;
    char name[96];
    if (f->magic == SOCKET_MAGIC && f->kind == SOCKET_MESSAGE && f->from == from && f->serial == x->link->n_runs &&
        f->stage == e->stage && f->index == e->message && f->bytes == e->bytes)
        return MP_OK;
    (void)ex_script_name(x->s, name, sizeof name);
    if (f->magic == SOCKET_MAGIC && f->kind == SOCKET_MESSAGE && f->bytes != e->bytes && f->index == e->message)
        return socket_break(x->link, err, "%s, stage %u: rank %u sends %llu bytes to rank %u where %llu were agreed",
                            name, e->stage, from, (unsigned long long)f->bytes, x->link->me,
                            (unsigned long long)e->bytes);
    return socket_break(
        x->link, err,
        "%s, stage %u: rank %u sends rank %u something else than the %llu bytes that were agreed (message "
        "%u of stage %u in run %llu, where message %u of run %llu was due)",
        name, e->stage, from, x->link->me, (unsigned long long)e->bytes, f->index, f->stage,
        (unsigned long long)f->serial, e->message, (unsigned long long)x->link->n_runs);
}

static void received(struct run *x, uint32_t from, size_t i) {
    struct lane *lane = &x->lanes[from];
    x->is_received[i] = 1;
    lane->receive = x->receive_next[i];
    lane->n_received++;
    lane->n_in = 0;
    lane->received = 0;
}

static enum mp_status receive_some(struct run *x, uint32_t from, bool *did, struct mp_error *err) {
    struct ex_link *l = x->link;
    struct lane *lane = &x->lanes[from];
    struct socket_peer *p = &l->peers[from];
    uint64_t taken = 0;
    enum mp_status status = MP_OK;
    while (p->can_receive && taken < CHUNK) {
        while (lane->receive < x->n_receives && x->is_received[lane->receive])
            received(x, from, lane->receive);
        if (lane->receive == x->n_receives)
            return MP_OK; /* what comes is of a later run */
        const size_t i = lane->receive;
        const struct ex_end *e = &x->receives[i];
        const size_t header = sizeof lane->in - lane->n_in;
        struct iovec parts[2] = {{(uint8_t *)&lane->in + lane->n_in, header},
                                 {l->block + e->at + lane->received, small(e->bytes - lane->received)}};
        struct msghdr m = {.msg_iov = header > 0 ? parts : parts + 1, .msg_iovlen = header > 0 ? 2 : 1};
        const ssize_t k = recvmsg(p->in, &m, MSG_DONTWAIT);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            p->can_receive = false;
            return MP_OK;
        }
        if (k <= 0)
            return socket_gone(l, from, k == 0 ? 0 : errno, err);
        *did = true;
        lane->came_ns = l->life.looked_ns; /* just before */
        taken += (uint64_t)k;
        if (header > 0) {
            if (lane->n_in == 0)
                x->times->message_begin_ns[e->message] = ex_now_ns() - x->origin_ns;
            lane->n_in += (size_t)k < header ? (size_t)k : header;
            if (lane->n_in < sizeof lane->in)
                continue;
            MP_TRY(check_header(x, from, e, err));
        }
        const uint64_t payload = (size_t)k > header ? (size_t)k - header : 0;
        lane->received += payload;
        if (i < x->granted)
            x->outstanding -= payload < x->outstanding ? payload : x->outstanding;
        if (lane->received < e->bytes)
            continue;
        note(x, e, x->times->message_begin_ns[e->message], true);
        received(x, from, i);
        if (x->is_coupled)
            MP_TRY(socket_tell(l, from, SOCKET_DONE, l->n_runs, lane->n_received, NULL, 0, err));
    }
out:
    return status;
}

/* ---- sending ---- */

/* The rate of a message on its socket. What the kernel still has of the message before goes out at the new rate. */
static void pace(struct socket_peer *p, uint64_t bytes_per_s) {
    const unsigned long rate = bytes_per_s > 0 ? bytes_per_s : ~0ul;
    if (p->pace == bytes_per_s)
        return;
    (void)setsockopt(p->out, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
    p->pace = bytes_per_s;
}

static void begin_send(struct run *x, size_t i) {
    const struct ex_end *e = &x->sends[i];
    struct lane *lane = &x->lanes[e->peer];
    lane->out = (struct socket_frame){.magic = SOCKET_MAGIC,
                                      .kind = SOCKET_MESSAGE,
                                      .from = (uint16_t)x->link->me,
                                      .serial = x->link->n_runs,
                                      .stage = e->stage,
                                      .index = e->message,
                                      .bytes = e->bytes};
    lane->n_out = 0;
    lane->sent = 0;
    lane->has_begun = true;
    pace(&x->link->peers[e->peer],
         x->s->flush_stage != e->stage && !x->s->is_single ? x->s->port_bytes_per_s * e->width : 0);
}

/* The fault that spoils a byte on its way: it is wrong as long as the message is being sent. */
static void spoil(struct run *x, size_t i) {
    const struct ex_fault *f = &x->link->world.fault;
    if (f->kind == EX_FAULT_CORRUPT && i == x->send && ex_fault_strikes(f, x->s, x->sends[i].stage, x->link->me))
        x->link->block[x->sends[i].at + x->sends[i].bytes / 2] ^= 1;
}

static enum mp_status send_some(struct run *x, size_t i, bool *did, struct mp_error *err) {
    struct ex_link *l = x->link;
    const struct ex_end *e = &x->sends[i];
    struct lane *lane = &x->lanes[e->peer];
    struct socket_peer *p = &l->peers[e->peer];
    uint64_t given = 0;
    if (!lane->has_begun) {
        begin_send(x, i);
        spoil(x, i);
        lane->begun_ns = ex_now_ns() - x->origin_ns;
        *did = true;
    }
    while (p->can_send && given < CHUNK) {
        const size_t header = sizeof lane->out - lane->n_out;
        struct iovec parts[2] = {{(uint8_t *)&lane->out + lane->n_out, header},
                                 {l->block + e->at + lane->sent, small(e->bytes - lane->sent)}};
        struct msghdr m = {.msg_iov = header > 0 ? parts : parts + 1, .msg_iovlen = header > 0 ? 2 : 1};
        const ssize_t k = sendmsg(p->out, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            p->can_send = false;
            return MP_OK;
        }
        if (k < 0)
            return socket_gone(x->link, e->peer, errno, err);
        *did = true;
        given += (uint64_t)k;
        const size_t of_header = (size_t)k < header ? (size_t)k : header;
        lane->n_out += of_header;
        lane->sent += (size_t)k - of_header;
        if (lane->n_out == sizeof lane->out && lane->sent == e->bytes) {
            spoil(x, i); /* right again */
            x->is_sent[i] = x->is_coupled ? 1 : 2;
            note(x, e, lane->begun_ns, false);
            lane->send = x->send_next[i];
            lane->n_sent++;
            lane->has_begun = false;
            return MP_OK;
        }
    }
    return MP_OK;
}

/* The first send of the open group to a rank above ours, or the first. A stage's are listed in ascending order. */
static size_t first_behind(const struct run *x) {
    for (size_t i = x->send; i < x->send_end; i++)
        if (x->sends[i].peer > x->link->me)
            return i;
    return x->send;
}

static bool may_begin(struct run *x, size_t i) {
    const struct ex_end *e = &x->sends[i];
    const struct socket_peer *p = &x->link->peers[e->peer];
    struct lane *lane = &x->lanes[e->peer];
    if (p->run == x->link->n_runs && p->credit > lane->credit)
        lane->credit = p->credit;
    return x->has_barriers || lane->has_begun || x->send_number[i] < lane->credit;
}

/* ---- queues ---- */

/* Groups that are done go on. */
static bool go_on(struct run *x) {
    bool did = false;
    while (x->send < x->n_sends) {
        bool is_done = true;
        for (size_t i = x->send; i < x->send_end && is_done; i++) {
            const struct socket_peer *p = &x->link->peers[x->sends[i].peer];
            if (x->is_sent[i] == 1 && p->run == x->link->n_runs && p->done > x->send_number[i])
                x->is_sent[i] = 2;
            is_done = x->is_sent[i] == 2;
        }
        if (!is_done)
            break;
        x->send = x->send_end;
        x->send_end = group_end(x->sends, x->n_sends, x->send);
        did = true;
    }
    while (x->receive < x->n_receives) {
        bool is_done = true;
        for (size_t i = x->receive; i < x->receive_end && is_done; i++)
            is_done = x->is_received[i];
        if (!is_done)
            break;
        x->receive = x->receive_end;
        x->receive_end = group_end(x->receives, x->n_receives, x->receive);
        did = true;
    }
    return did;
}

static void copy_around(struct run *x, bool is_before) {
    const struct ex_script *s = x->s;
    uint8_t *block = x->link->block;
    for (; x->copy < s->copy_first[x->link->me + 1] && s->copies[x->copy].stage == x->stage &&
           s->copies[x->copy].is_before == is_before;
         x->copy++)
        memcpy(block + s->copies[x->copy].to_at, block + s->copies[x->copy].from_at, s->copies[x->copy].bytes);
}

/* With barriers: into the stage, out of it, on to the next. */
static enum mp_status move_stage(struct run *x, bool *did, struct mp_error *err) {
    enum mp_status status = MP_OK;
    while (x->stage < x->s->n_stages) {
        if (!x->has_copied) {
            copy_around(x, true);
            x->has_copied = *did = true;
        }
        if (!x->is_at_barrier) {
            if (rank_stage(x) <= x->stage)
                return MP_OK;
            copy_around(x, false);
            *did = true;
            if (x->stage + 1 == x->s->n_stages) { /* the next run begins with a barrier anyway */
                x->stage++;
                return MP_OK;
            }
            x->is_at_barrier = true;
            MP_TRY(socket_arrive(x->link, err));
        }
        bool has_passed = false;
        MP_TRY(socket_passed(x->link, &has_passed, err));
        if (!has_passed)
            return MP_OK;
        x->is_at_barrier = x->has_copied = false;
        x->stage++;
        *did = true;
    }
out:
    return status;
}

/* ---- waiting and failing ---- */

/* What we wait for first: a receive, a send, a barrier. */
static void awaited(const struct run *x, uint32_t *stage, uint32_t *peer, bool *is_receive, uint64_t *bytes) {
    const struct ex_link *l = x->link;
    *is_receive = true;
    *bytes = 0;
    if (x->is_at_barrier) {
        *stage = x->stage;
        *peer = 0;
        for (uint32_t r = 1; l->me == 0 && r < l->n; r++)
            if (l->peers[r].arrived < l->n_barriers) {
                *peer = r;
                break;
            }
        return;
    }
    if (is_open(x, receive_stage(x)))
        for (size_t i = x->receive; i < x->receive_end; i++)
            if (!x->is_received[i]) {
                const struct lane *lane = &x->lanes[x->receives[i].peer];
                *stage = x->receives[i].stage;
                *peer = x->receives[i].peer;
                *bytes = x->receives[i].bytes - (lane->receive == i ? lane->received : 0);
                return;
            }
    *is_receive = false;
    for (size_t i = x->send; i < x->send_end; i++)
        if (x->is_sent[i] != 2) {
            const struct lane *lane = &x->lanes[x->sends[i].peer];
            *stage = x->sends[i].stage;
            *peer = x->sends[i].peer;
            *bytes = x->sends[i].bytes - (lane->send == i && lane->has_begun ? lane->sent : 0);
            return;
        }
    *stage = x->stage;
    *peer = 0;
}

/* What is outstanding between us and a peer, for the message when that peer is silent. */
static void owed(const void *run, uint32_t peer, struct ex_owed *out) {
    const struct run *x = run;
    const struct lane *lane = &x->lanes[peer];
    if (lane->receive < x->n_receives) {
        const struct ex_end *e = &x->receives[lane->receive];
        *out = (struct ex_owed){.bytes = e->bytes - lane->received,
                                .stage = e->stage,
                                .is_receive = true,
                                .is_next = lane->receive < x->receive_end && is_open(x, e->stage)};
        return;
    }
    for (size_t i = x->send; i < x->send_end; i++)
        if (x->sends[i].peer == peer && x->is_sent[i] == 1) { /* it has not said that it has them */
            *out = (struct ex_owed){.bytes = x->sends[i].bytes, .stage = x->sends[i].stage, .is_next = true};
            return;
        }
    if (lane->send < x->n_sends)
        *out = (struct ex_owed){.bytes = x->sends[lane->send].bytes - lane->sent,
                                .stage = x->sends[lane->send].stage,
                                .is_next = lane->send < x->send_end && is_open(x, x->sends[lane->send].stage)};
}

/* Whoever shows no life is found by socket_step. Here: a message that has begun to come and has stopped on its way,
 * whatever else moves. A clock for messages that have not begun would fail healthy runs: their sender may not have come
 * to them, for as long as others keep its queue busy. */
static enum mp_status check_stalls(struct run *x, struct mp_error *err) {
    struct ex_link *l = x->link;
    const uint64_t deadline_ns = l->world.deadline_ms * 1000000, now = l->life.looked_ns;
    if (now < x->stall_ns)
        return MP_OK;
    x->stall_ns = now + deadline_ns;
    for (uint32_t r = 0; r < l->n; r++) {
        const struct lane *lane = &x->lanes[r];
        if (lane->n_in == 0)
            continue;
        const struct ex_end *e = &x->receives[lane->receive];
        struct mp_error why = {0};
        if (now >= lane->came_ns + deadline_ns) {
            (void)ex_fail_deadline(&why, x->s, l->me, e->stage, r, true, e->bytes - lane->received, EX_LATE,
                                   l->world.deadline_ms);
            return socket_break(l, err, "%s", why.message);
        }
        x->stall_ns = lane->came_ns + deadline_ns < x->stall_ns ? lane->came_ns + deadline_ns : x->stall_ns;
    }
    return MP_OK;
}

/* Nothing can go on now. The deadline counts from when anything of any rank moved last. */
static enum mp_status wait_on(struct run *x, struct mp_error *err) {
    struct ex_link *l = x->link;
    const uint64_t until = ex_life_patience(&l->life, l->life.moved_ns);
    uint32_t stage, peer;
    bool is_receive;
    uint64_t bytes;
    awaited(x, &stage, &peer, &is_receive, &bytes);
    l->waits_for = peer;
    if (ex_now_ns() < until)
        return socket_step(l, x->stall_ns < until ? x->stall_ns : until, err);
    const uint32_t culprit = socket_culprit(l, peer);
    struct mp_error why = {0};
    char name[96];
    if (culprit == peer)
        (void)ex_fail_deadline(&why, x->s, l->me, stage, peer, is_receive, bytes, EX_IDLE, l->world.deadline_ms);
    else
        (void)mp_fail(
            &why, MP_EPEER,
            "%s, stage %u: rank %u waited %llu ms for %llu bytes %s rank %u, which did not come, nor did anything else "
            "move; behind it is rank %u (is that one alive? a slow cluster may need a longer --deadline)",
            ex_script_name(x->s, name, sizeof name), stage, l->me, (unsigned long long)l->world.deadline_ms,
            (unsigned long long)bytes, is_receive ? "from" : "to go to", peer, culprit);
    return socket_break(l, err, "%s", why.message);
}

/* What a faulty rank does when it comes to the stage. */
static enum mp_status misbehave(struct run *x, struct mp_error *err) {
    struct ex_link *l = x->link;
    const struct ex_fault *f = &l->world.fault;
    enum mp_status status = MP_OK;
    if (x->has_misbehaved || (f->kind != EX_FAULT_SLOW && f->kind != EX_FAULT_STOP && f->kind != EX_FAULT_KILL) ||
        !ex_fault_strikes(f, x->s, f->stage, l->me) || (x->has_barriers ? x->stage : rank_stage(x)) < f->stage)
        return MP_OK;
    x->has_misbehaved = true;
    if (f->kind == EX_FAULT_KILL)
        (void)raise(SIGKILL);
    const uint64_t until = f->kind == EX_FAULT_STOP ? UINT64_MAX : ex_now_ns() + 2 * l->world.deadline_ms * 1000000;
    l->is_silent =
        true; /* what goes wrong in a rank keeps it from its connections; here it only hears that others end */
    while (status == MP_OK && ex_now_ns() < until)
        status = socket_step(l, until, err);
    l->is_silent = false;
    return status;
}

/* ---- the table's functions ---- */

static enum mp_status carry_out(struct run *x, struct mp_error *err) {
    struct ex_link *l = x->link;
    enum mp_status status = MP_OK;
    l->life.moved_ns = x->stall_ns = x->origin_ns = ex_now_ns();
    for (;;) {
        bool did = go_on(x);
        if (x->has_barriers)
            MP_TRY(move_stage(x, &did, err));
        MP_TRY(misbehave(x, err));
        MP_TRY(grant(x, err));
        if (x->has_barriers ? x->stage == x->s->n_stages : rank_stage(x) == MP_NONE)
            break;
        /* From the rank behind ours on: if all began with rank 0, the ports of the last would stay idle at first. */
        if (is_open(x, send_stage(x)))
            for (size_t k = 0, i = first_behind(x); k < x->send_end - x->send; k++, i++) {
                if (i == x->send_end)
                    i = x->send;
                if (x->is_sent[i] == 0 && x->lanes[x->sends[i].peer].send == i && may_begin(x, i))
                    MP_TRY(send_some(x, i, &did, err));
            }
        for (uint32_t r = 0; r < l->n; r++)
            if (l->peers[r].can_receive)
                MP_TRY(receive_some(x, r, &did, err));
        MP_TRY(check_stalls(x, err));
        if (did) {
            l->life.moved_ns = ex_now_ns();
            l->waits_for = MP_NONE;
            MP_TRY(socket_step(l, 0, err));
        } else {
            MP_TRY(wait_on(x, err));
        }
    }
    x->times->total_ns[l->me] = ex_now_ns() - x->origin_ns;
out:
    return status;
}

static enum mp_status socket_run(struct ex_link *l, const struct ex_script *s, struct ex_times *times,
                                 struct mp_error *err) {
    struct run x = {.link = l,
                    .s = s,
                    .times = times,
                    .has_barriers = s->mode == MP_STAGE_BARRIER,
                    .is_coupled = s->mode == MP_STAGE_COUPLED && s->n_stages > 1};
    char name[96];
    enum mp_status status = MP_OK;
    (void)snprintf(l->doing, sizeof l->doing, "%s", ex_script_name(s, name, sizeof name));
    l->n_runs++;
    MP_TRY(make(&x, err));
    if (!s->is_agreed)
        MP_TRY(socket_barrier(l, err));
    l->owed = owed;
    l->run = &x;
    l->script = s;
    MP_TRY(carry_out(&x, err));
out:
    l->owed = NULL;
    (void)snprintf(l->doing, sizeof l->doing, "after %s", ex_script_name(s, name, sizeof name));
    unmake(&x);
    return status;
}

static enum mp_status socket_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **host_view,
                                   struct mp_error *err) {
    (void)rank;
    struct ex_pulse pulse = {.beat = socket_pulse, .link = l};
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

const struct ex_transport ex_socket = {
    .name = "socket",
    .summary = "TCP, one process per rank: real links and emulated clusters",
    .needs = "a network between the ranks",
    .limits = {.max_ranks = 4096, .paces = true},
    .has_one_rank_each = true,
    .open = socket_open,
    .alloc = socket_alloc,
    .run = socket_run,
    .beside = &socket_beside_ops,
    .barrier = socket_barrier,
    .pulse = socket_pulse,
    .gather = socket_gather,
    .abort = socket_abort,
    .close = socket_close,
};
