/* The sockets of one rank: a TCP connection to every other rank for what it sends, one from every other rank for what
 * it receives. The way back of each is free for small control frames, which so never wait behind bulk data. One epoll
 * set watches all of them; whoever waits calls socket_step. */
#ifndef EXECUTOR_SOCKET_H
#define EXECUTOR_SOCKET_H

#include "life.h"
#include "payload.h"
#include "rendezvous.h"

enum socket_kind {
    SOCKET_MESSAGE = 1, /* bulk: a message of a script; its bytes follow */
    SOCKET_CREDIT,      /* index: how many of my messages of this run the receiver has come to */
    SOCKET_DONE,        /* index: how many of my messages of this run the receiver has in full (coupled) */
    SOCKET_ARRIVED,     /* at barrier `serial`, to rank 0 */
    SOCKET_GO,          /* all have arrived there */
    SOCKET_ROW,         /* a rank's part of gather `serial`, to rank 0; its bytes follow */
    SOCKET_ALL,         /* the rows of all, from rank 0 */
    SOCKET_TICK,        /* a sign of life: something of the sender moved `serial` ns ago; it waits for rank `index` */
    SOCKET_WORD,        /* of a training step: a struct ex_word follows */
    SOCKET_ABORT,       /* a reason follows */
    SOCKET_LEAVE        /* nothing more will come, and that is right so */
};
struct socket_frame { /* in front of everything that is sent; the bytes of both ends' machine */
    uint32_t magic;
    uint16_t kind, from;
    uint64_t serial; /* which run, barrier or gather: all ranks count them alike */
    uint32_t stage, index;
    uint64_t bytes; /* that follow */
};
struct socket_buffer {
    uint8_t *bytes;
    size_t n, room, at; /* bytes[at .. n) are still to be read or sent */
};
struct socket_peer {
    int out, in;                /* -1 = none (ourselves) */
    bool can_send, can_receive; /* bulk; until the kernel says "not now" */
    bool out_has_ended;         /* nothing more can be read from, in_has_ended ... */
    bool in_has_ended;
    struct socket_buffer commands; /* control frames that came on `out` and are not whole yet */
    struct socket_buffer replies;  /* control frames on their way out on `in` */
    uint64_t pace;                 /* SO_MAX_PACING_RATE in force; 0 = none */
    /* What the peer told us. */
    uint64_t arrived;   /* rank 0: the last barrier */
    uint32_t waits_for; /* MP_NONE = nobody */
    uint64_t run;       /* the run that credit and done are of */
    uint32_t credit, done;
    uint64_t row_serial;
    struct socket_buffer row; /* rank 0: its part of a gather */
};
struct socket_sums; /* connections for sums of gradients, and the sum at hand: socket_sum.c */
struct ex_link {
    struct ex_world world;
    uint32_t me, n;
    struct socket_peer *peers; /* [n] */
    struct socket_sums *sums;  /* NULL = none */
    int epoll, listener;
    uint8_t *block;
    uint64_t block_bytes;
    uint64_t n_runs, n_barriers, n_gathers; /* done or begun */
    uint64_t go, all_serial;                /* what rank 0 has said */
    struct socket_buffer all;
    bool is_broken, is_asking; /* is_asking: a connection ended, and we wait a moment for the reason */
    struct ex_life life;
    uint32_t waits_for; /* whom ticks name; MP_NONE = nobody */
    bool is_silent;     /* a fault: no ticks, no judgement */
    ex_owed_fn *owed;   /* NULL, or what of `script` is outstanding */
    const void *run;    /* for owed */
    const struct ex_script *script;
    struct mp_error why;
    ex_attend_fn *attend; /* NULL = nobody */
    void *attend_ctx;
    uint64_t attend_ns; /* when it wants to be called at the latest */
    struct socket_buffer words;
    bool is_beside;  /* sums and attend are at work: not again from within */
    char doing[160]; /* for messages: what is going on when somebody is gone */
};

/* socket_mesh.c */
enum mp_status socket_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) MP_MUST_CHECK;
void socket_close(struct ex_link *l);
void socket_abort(struct ex_link *l, const struct mp_error *why);
enum mp_status socket_barrier(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
enum mp_status socket_gather(struct ex_link *l, const void *mine, void *all, size_t n,
                             struct mp_error *err) MP_MUST_CHECK;
/* Waits for something to happen, until `until_ns` at most, and does what control frames ask. Fails when a peer is gone
 * or has aborted: with l->why. */
enum mp_status socket_step(struct ex_link *l, uint64_t until_ns, struct mp_error *err) MP_MUST_CHECK;
/* Sends a control frame, at once or as soon as it can go. */
enum mp_status socket_tell(struct ex_link *l, uint32_t to, enum socket_kind kind, uint64_t serial, uint32_t index,
                           const void *more, uint64_t n_more, struct mp_error *err) MP_MUST_CHECK;
/* Tells rank 0 that we have arrived at the next barrier; passed when all have. */
enum mp_status socket_arrive(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
enum mp_status socket_passed(struct ex_link *l, bool *has_passed, struct mp_error *err) MP_MUST_CHECK;
/* Who is behind it when we wait for `peer`: who has been silent for long, else the last of those that say that they
 * wait for somebody. */
uint32_t socket_culprit(const struct ex_link *l, uint32_t peer);
/* This rank works on, without looking at its connections: now and then it does. Cheap. */
enum mp_status socket_pulse(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
/* The peer's connection ended, or what it sent makes no sense: everything ends. */
enum mp_status socket_gone(struct ex_link *l, uint32_t peer, int error, struct mp_error *err) MP_MUST_CHECK;
enum mp_status socket_break(struct ex_link *l, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(3, 4) MP_MUST_CHECK;
/* SUMS: of the first bytes on a connection of theirs. */
enum { SOCKET_MAGIC = 0x6d6f7632, SOCKET_MAGIC_SUMS = 0x6d6f7633, SOCKET_FRAME = sizeof(struct socket_frame) };

/* socket_sum.c */
enum mp_status socket_sums_new(struct ex_link *l, struct mp_error *err) MP_MUST_CHECK;
void socket_sums_free(struct ex_link *l);
/* The connections to a peer; -1 = none yet. */
int *socket_sums_fd(struct ex_link *l, uint32_t peer, bool is_in);
void socket_sums_event(struct ex_link *l, uint32_t peer, bool is_in, uint32_t events);
/* Sends and receives what can go now of the sum at hand, and lets attend work. */
enum mp_status socket_beside(struct ex_link *l, uint64_t now_ns, struct mp_error *err) MP_MUST_CHECK;
bool socket_sums_are_busy(const struct ex_link *l); /* a sum is at hand and not over */
/* struct ex_beside's, also for transports that tell each other things over this mesh. */
enum mp_status socket_idle(struct ex_link *l, uint64_t until_ns, uint32_t waits_for, const char *doing,
                           struct mp_error *err) MP_MUST_CHECK;
void socket_stir(struct ex_link *l);
enum mp_status socket_tell_word(struct ex_link *l, uint32_t to, const struct ex_word *word,
                                struct mp_error *err) MP_MUST_CHECK;
bool socket_hear_word(struct ex_link *l, struct ex_word *word);
/* Bytes that are still to come of the sum at hand, whose name is written to buf, and of those from a peer. */
uint64_t socket_sums_owed(const struct ex_link *l, uint32_t peer, uint64_t *of_peer, char *buf, size_t size);
extern const struct ex_beside socket_beside_ops;

#endif
