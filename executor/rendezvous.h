/* How the processes of a run find each other: one place that all know (a file or an address), where rank 0 listens,
 * compares what everybody is about to run, and tells all where the others are. */
#ifndef EXECUTOR_RENDEZVOUS_H
#define EXECUTOR_RENDEZVOUS_H

#include "transport.h"

enum { EX_ADDRESS_SIZE = 64 }; /* text of an IPv4 or IPv6 address, its NUL and room */

struct ex_meeting { /* what every rank then knows */
    uint64_t token; /* of this run, so that nobody of another one comes in */
    uint16_t *ports;
    char (*addresses)[EX_ADDRESS_SIZE]; /* [n_ranks] where without a hosts file */
    int listener;                       /* of this rank, non-blocking, at its own port */
};
/* Every rank comes, or all that came fail by `until_ns` (CLOCK_MONOTONIC). Ranks whose identity is not rank 0's, or
 * that come twice, are named to all: MP_EPEER. On failure nothing is left open. */
enum mp_status ex_meet(struct ex_meeting *out, const struct ex_world *world, uint64_t until_ns,
                       struct mp_error *err) MP_MUST_CHECK;
void ex_meeting_close(struct ex_meeting *m);

/* The file of tools/emulate: a line for each rank, `rank node address_of_level_0 ...`, "-" where it has none. */
struct ex_hosts {
    uint32_t n_ranks, n_levels;
    char (*addresses)[EX_ADDRESS_SIZE]; /* [n_ranks][n_levels], "" where none */
};
enum mp_status ex_hosts_load(struct ex_hosts *out, const char *path, const struct mp_topology *t,
                             struct mp_error *err) MP_MUST_CHECK;
void ex_hosts_free(struct ex_hosts *h);
/* The address of `rank` for talking to `peer`: that of the lowest level at which they share a group. NULL: it has none
 * there. */
const char *ex_hosts_address(const struct ex_hosts *h, const struct mp_topology *t, uint32_t rank, uint32_t peer);

/* ---- sockets, with a deadline ---- */

uint64_t ex_now_ns(void); /* CLOCK_MONOTONIC */
/* A listening socket, non-blocking. host NULL or "": every address; port 0: any, see ex_port. -1 and errno. */
int ex_listen(const char *host, uint16_t port);
uint16_t ex_port(int fd);
/* Begins to connect, non-blocking, from `own` (NULL = any address). -1 and errno; EINPROGRESS is not an error. */
int ex_connect(const char *host, uint16_t port, const char *own);
/* Waits until the socket can be read (written). False at the deadline. */
bool ex_wait(int fd, bool is_write, uint64_t until_ns);

#endif
