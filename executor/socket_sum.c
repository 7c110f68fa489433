/* Sums of gradients beside scripts: connections of their own, so that they never stand in front of an all-to-all; rings
 * (sum.h) carried out whenever this rank looks at its connections, whatever it waits for.
 *
 * Each message has a header, which the receiver compares with its own list. What is to be added is added as it comes;
 * what takes the place of something goes right there. Where a script and a sum travel at the same time TCP shares the
 * ports, by connections. */
#include "socket.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    IO = 128 * 1024,  /* at most so much in one call */
    TURN = 512 * 1024 /* at most so much to or from one peer before others have their turn */
};

struct lane { /* of one peer */
    int out, in;
    bool can_send, can_receive;
    size_t send, receive; /* the next move to it and from it; the number of all = none */
    struct socket_frame head_out, head_in;
    size_t n_out, n_in; /* bytes of them that are through */
    uint64_t sent, received;
    bool has_begun;
    uint64_t came_ns;
    uint8_t tail[8]; /* of a word that has not come whole */
    size_t n_tail;
};
struct socket_sums {
    struct lane *lanes;       /* [n] */
    const struct ex_sum *sum; /* at hand; NULL = none yet */
    struct ex_ring *ring;
    uint8_t *is_in; /* [n_receives] */
    size_t n_left;  /* moves */
    bool has_misbehaved, is_spoilt;
    uint8_t *scratch; /* [IO + 8] */
};

/* ---- for socket_mesh.c ---- */

enum mp_status socket_sums_new(struct ex_link *l, struct mp_error *err) {
    struct socket_sums *x = l->sums = mp_calloc(1, sizeof *x);
    if (x == NULL || (x->lanes = mp_calloc(l->n, sizeof *x->lanes)) == NULL ||
        (x->scratch = mp_calloc(IO + 8, 1)) == NULL)
        return mp_nomem(err, "sums of gradients");
    for (uint32_t r = 0; r < l->n; r++)
        x->lanes[r] = (struct lane){.out = -1, .in = -1};
    return MP_OK;
}

void socket_sums_free(struct ex_link *l) {
    struct socket_sums *x = l->sums;
    if (x == NULL)
        return;
    for (uint32_t r = 0; x->lanes != NULL && r < l->n; r++) {
        if (x->lanes[r].out >= 0)
            (void)close(x->lanes[r].out);
        if (x->lanes[r].in >= 0)
            (void)close(x->lanes[r].in);
    }
    ex_ring_free(x->ring);
    mp_free(x->is_in);
    mp_free(x->scratch);
    mp_free(x->lanes);
    mp_free(x);
    l->sums = NULL;
}

int *socket_sums_fd(struct ex_link *l, uint32_t peer, bool is_in) {
    return is_in ? &l->sums->lanes[peer].in : &l->sums->lanes[peer].out;
}

void socket_sums_event(struct ex_link *l, uint32_t peer, bool is_in, uint32_t events) {
    struct lane *lane = &l->sums->lanes[peer];
    const bool has_ended = (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
    if (is_in)
        lane->can_receive |= has_ended || (events & EPOLLIN) != 0;
    else
        lane->can_send |= has_ended || (events & EPOLLOUT) != 0;
}

bool socket_sums_are_busy(const struct ex_link *l) { return l->sums != NULL && l->sums->n_left > 0; }

uint64_t socket_sums_owed(const struct ex_link *l, uint32_t peer, uint64_t *of_peer, char *buf, size_t size) {
    const struct socket_sums *x = l->sums;
    uint64_t bytes = 0;
    *of_peer = 0;
    if (!socket_sums_are_busy(l))
        return 0;
    for (size_t i = 0; i < x->ring->n_receives; i++) {
        const struct ex_move *m = &x->ring->receives[i];
        if (x->is_in[i])
            continue;
        const uint64_t left = m->bytes - (x->lanes[m->peer].receive == i ? x->lanes[m->peer].received : 0);
        bytes += left;
        *of_peer += m->peer == peer ? left : 0;
    }
    (void)ex_sum_name(x->sum, buf, size);
    return bytes;
}

static bool can_go(const struct socket_sums *x, size_t send) {
    const uint32_t needs = send < x->ring->n_sends ? x->ring->sends[send].needs : MP_NONE;
    return send < x->ring->n_sends && (needs == MP_NONE || x->is_in[needs]);
}

/* ---- messages ---- */

static size_t next_of(const struct ex_move *moves, size_t n, size_t from, uint32_t peer) {
    while (from < n && moves[from].peer != peer)
        from++;
    return from;
}

static enum mp_status check_header(struct ex_link *l, uint32_t from, size_t i, struct mp_error *err) {
    const struct socket_sums *x = l->sums;
    const struct socket_frame *f = &x->lanes[from].head_in;
    const struct ex_move *m = &x->ring->receives[i];
    char name[112];
    if (f->magic == SOCKET_MAGIC && f->kind == SOCKET_MESSAGE && f->from == from && f->serial == x->sum->serial &&
        f->bytes == m->bytes)
        return MP_OK;
    return socket_break(l, err, "%s: rank %u sends rank %u %llu bytes%s where %llu bytes were agreed",
                        ex_sum_name(x->sum, name, sizeof name), from, l->me, (unsigned long long)f->bytes,
                        f->serial != x->sum->serial ? " of another chunk" : "", (unsigned long long)m->bytes);
}

/* What a faulty rank does once its first receive is in. */
static enum mp_status misbehave(struct ex_link *l, struct mp_error *err) {
    struct socket_sums *x = l->sums;
    const enum ex_fault_kind kind = l->world.fault.kind;
    enum mp_status status = MP_OK;
    if (x->has_misbehaved || !x->sum->is_struck ||
        (kind != EX_FAULT_KILL && kind != EX_FAULT_STOP && kind != EX_FAULT_SLOW))
        return MP_OK;
    x->has_misbehaved = true;
    if (kind == EX_FAULT_KILL)
        (void)raise(SIGKILL);
    const uint64_t until = kind == EX_FAULT_STOP ? UINT64_MAX : ex_now_ns() + 2 * l->world.deadline_ms * 1000000;
    l->is_silent = true;
    while (status == MP_OK && ex_now_ns() < until)
        status = socket_step(l, until, err);
    l->is_silent = false;
    return status;
}

/* k bytes have come behind x->scratch's tail, or right into their place. */
static void take(struct socket_sums *x, struct lane *lane, const struct ex_move *m, uint8_t *block, size_t k) {
    if (!m->adds) {
        lane->received += k;
        return;
    }
    const size_t n = lane->n_tail + k, whole = n / 8 * 8;
    ex_sum_add(block + m->at + lane->received - lane->n_tail, x->scratch, whole);
    lane->received += k;
    lane->n_tail = n - whole;
    memcpy(lane->tail, x->scratch + whole, lane->n_tail);
}

static uint64_t small(uint64_t bytes) { return bytes < IO ? bytes : IO; }

static enum mp_status receive_some(struct ex_link *l, uint32_t from, bool *did, struct mp_error *err) {
    struct socket_sums *x = l->sums;
    struct lane *lane = &x->lanes[from];
    size_t taken = 0;
    enum mp_status status = MP_OK;
    while (lane->can_receive && lane->receive < x->ring->n_receives && taken < TURN) {
        const size_t i = lane->receive;
        const struct ex_move *m = &x->ring->receives[i];
        const bool in_header = lane->n_in < SOCKET_FRAME;
        const size_t room = in_header ? SOCKET_FRAME - lane->n_in : small(m->bytes - lane->received);
        uint8_t *to = (uint8_t *)&lane->head_in + lane->n_in;
        if (!in_header && m->adds) {
            memcpy(x->scratch, lane->tail, lane->n_tail);
            to = x->scratch + lane->n_tail;
        } else if (!in_header) {
            to = l->block + m->at + lane->received;
        }
        const ssize_t k = recv(lane->in, to, room, MSG_DONTWAIT);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            lane->can_receive = false;
            return MP_OK;
        }
        if (k <= 0)
            return socket_gone(l, from, k == 0 ? 0 : errno, err);
        *did = true;
        lane->came_ns = l->life.looked_ns;
        ex_life_sign(&l->life, from, l->life.looked_ns);
        taken += (size_t)k;
        if (in_header) {
            lane->n_in += (size_t)k;
            if (lane->n_in == SOCKET_FRAME)
                MP_TRY(check_header(l, from, i, err));
            continue;
        }
        take(x, lane, m, l->block, (size_t)k);
        if (lane->received < m->bytes)
            continue;
        x->is_in[i] = 1;
        x->n_left--;
        lane->receive = next_of(x->ring->receives, x->ring->n_receives, i + 1, from);
        lane->n_in = lane->n_tail = 0;
        lane->received = 0;
        MP_TRY(misbehave(l, err));
    }
out:
    return status;
}

/* A wrong bit in the first message, as long as it is on its way. */
static void spoil(struct ex_link *l, const struct ex_move *m, bool is_begin) {
    struct socket_sums *x = l->sums;
    if (!x->sum->is_struck || l->world.fault.kind != EX_FAULT_CORRUPT || x->is_spoilt != !is_begin ||
        (is_begin && x->has_misbehaved))
        return;
    x->has_misbehaved = true;
    x->is_spoilt = is_begin;
    l->block[m->at + m->bytes / 2] ^= 1;
}

static enum mp_status send_some(struct ex_link *l, uint32_t to, bool *did, struct mp_error *err) {
    struct socket_sums *x = l->sums;
    struct lane *lane = &x->lanes[to];
    size_t given = 0;
    while (lane->can_send && can_go(x, lane->send) && given < TURN) {
        const struct ex_move *m = &x->ring->sends[lane->send];
        if (!lane->has_begun) {
            const bool lies = x->sum->is_struck && l->world.fault.kind == EX_FAULT_LIE;
            lane->head_out = (struct socket_frame){.magic = SOCKET_MAGIC,
                                                   .kind = SOCKET_MESSAGE,
                                                   .from = (uint16_t)l->me,
                                                   .serial = x->sum->serial,
                                                   .index = (uint32_t)lane->send,
                                                   .bytes = m->bytes - (lies ? 8 : 0)};
            lane->n_out = 0;
            lane->sent = 0;
            lane->has_begun = true;
            spoil(l, m, true);
        }
        const size_t header = SOCKET_FRAME - lane->n_out;
        struct iovec parts[2] = {{(uint8_t *)&lane->head_out + lane->n_out, header},
                                 {l->block + m->at + lane->sent, small(m->bytes - lane->sent)}};
        struct msghdr message = {.msg_iov = header > 0 ? parts : parts + 1, .msg_iovlen = header > 0 ? 2 : 1};
        const ssize_t k = sendmsg(lane->out, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            lane->can_send = false;
            return MP_OK;
        }
        if (k < 0)
            return socket_gone(l, to, errno, err);
        *did = true;
        given += (size_t)k;
        const size_t of_header = (size_t)k < header ? (size_t)k : header;
        lane->n_out += of_header;
        lane->sent += (size_t)k - of_header;
        if (lane->n_out < SOCKET_FRAME || lane->sent < m->bytes)
            continue;
        spoil(l, m, false);
        lane->has_begun = false;
        lane->send = next_of(x->ring->sends, x->ring->n_sends, lane->send + 1, to);
        x->n_left--;
    }
    return MP_OK;
}

/* A message that has begun to come and has stopped on its way. */
static enum mp_status check_stalls(struct ex_link *l, uint64_t now, struct mp_error *err) {
    const struct socket_sums *x = l->sums;
    const uint64_t deadline_ns = l->world.deadline_ms * 1000000;
    char name[112];
    for (uint32_t r = 0; r < l->n; r++) {
        const struct lane *lane = &x->lanes[r];
        if (lane->n_in > 0 && lane->receive < x->ring->n_receives && now >= lane->came_ns + deadline_ns)
            return socket_break(l, err, "%s: rank %u waited %llu ms for %llu bytes from rank %u, which did not come",
                                ex_sum_name(x->sum, name, sizeof name), l->me, (unsigned long long)l->world.deadline_ms,
                                (unsigned long long)(x->ring->receives[lane->receive].bytes - lane->received), r);
    }
    return MP_OK;
}

static enum mp_status go_on(struct ex_link *l, uint64_t now, bool *did, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < l->n && l->sums->n_left > 0; r++) {
        MP_TRY(send_some(l, r, did, err));
        MP_TRY(receive_some(l, r, did, err));
    }
    if (l->sums->n_left > 0)
        MP_TRY(check_stalls(l, now, err));
out:
    return status;
}

enum mp_status socket_beside(struct ex_link *l, uint64_t now, struct mp_error *err) {
    enum mp_status status = MP_OK;
    bool did = false;
    if (l->is_beside || l->is_silent || l->is_asking || l->is_broken || (l->sums == NULL && l->attend == NULL))
        return MP_OK;
    l->is_beside = true;
    if (socket_sums_are_busy(l))
        MP_TRY(go_on(l, now, &did, err));
    const bool was_busy = socket_sums_are_busy(l);
    l->attend_ns = UINT64_MAX;
    if (l->attend != NULL)
        MP_TRY(l->attend(l->attend_ctx, now, &l->attend_ns, err));
    if (did)
        l->life.moved_ns = now;
    if (did || was_busy != socket_sums_are_busy(l))
        l->attend_ns = now; /* there may be more */
out:
    l->is_beside = false;
    return status;
}

/* ---- the table's functions ---- */

static enum mp_status socket_attend(struct ex_link *l, ex_attend_fn *fn, void *ctx, struct mp_error *err) {
    if (l->sums == NULL)
        return mp_fail(err, MP_EBUG, "no connections for sums");
    l->attend = fn;
    l->attend_ctx = ctx;
    l->attend_ns = 0;
    return MP_OK;
}

static enum mp_status socket_sum(struct ex_link *l, uint32_t rank, const struct ex_sum *sum, struct mp_error *err) {
    struct socket_sums *x = l->sums;
    enum mp_status status = MP_OK;
    ex_ring_free(x->ring);
    x->ring = NULL;
    mp_free(x->is_in);
    x->is_in = NULL;
    MP_TRY(ex_ring_new(&x->ring, sum, rank, l->world.topology, err));
    x->is_in = mp_calloc(x->ring->n_receives, 1);
    if (x->is_in == NULL) {
        status = mp_nomem(err, "sums of gradients");
        goto out;
    }
    x->sum = sum;
    x->has_misbehaved = x->is_spoilt = false;
    x->n_left = x->ring->n_sends + x->ring->n_receives;
    for (uint32_t r = 0; r < l->n; r++) {
        struct lane *lane = &x->lanes[r];
        lane->send = next_of(x->ring->sends, x->ring->n_sends, 0, r);
        lane->receive = next_of(x->ring->receives, x->ring->n_receives, 0, r);
        lane->n_in = lane->n_tail = 0;
        lane->received = 0;
        lane->has_begun = false;
    }
out:
    return status;
}

static enum mp_status socket_has_summed(struct ex_link *l, uint32_t rank, bool *has, struct mp_error *err) {
    (void)rank;
    (void)err;
    *has = !socket_sums_are_busy(l);
    return MP_OK;
}

enum mp_status socket_idle(struct ex_link *l, uint64_t until_ns, uint32_t waits_for, const char *doing,
                           struct mp_error *err) {
    (void)snprintf(l->doing, sizeof l->doing, "%s", doing);
    l->waits_for = waits_for;
    if (waits_for == MP_NONE) { /* it computes: that counts as moving, for half a deadline at a time */
        l->life.moved_ns = ex_now_ns();
        const uint64_t look = l->life.moved_ns + l->life.deadline_ns / 2;
        return socket_step(l, until_ns < look ? until_ns : look, err);
    }
    const uint64_t patience = ex_life_patience(&l->life, l->life.moved_ns);
    if (ex_now_ns() < patience)
        return socket_step(l, until_ns < patience ? until_ns : patience, err);
    return socket_break(l, err,
                        "%s: rank %u waited %llu ms for rank %u, which did not come, nor did anything move (a slow "
                        "cluster may need a longer --deadline)",
                        doing, l->me, (unsigned long long)l->world.deadline_ms, socket_culprit(l, waits_for));
}

void socket_stir(struct ex_link *l) { l->attend_ns = 0; }

enum mp_status socket_tell_word(struct ex_link *l, uint32_t to, const struct ex_word *word, struct mp_error *err) {
    return socket_tell(l, to, SOCKET_WORD, 0, 0, word, sizeof *word, err);
}

bool socket_hear_word(struct ex_link *l, struct ex_word *word) {
    struct socket_buffer *b = &l->words;
    if (b->n - b->at < sizeof *word)
        return false;
    memcpy(word, b->bytes + b->at, sizeof *word);
    b->at += sizeof *word;
    return true;
}

const struct ex_beside socket_beside_ops = {
    .attend = socket_attend,
    .sum = socket_sum,
    .has_summed = socket_has_summed,
    .idle = socket_idle,
    .stir = socket_stir,
    .tell = socket_tell_word,
    .hear = socket_hear_word,
};
