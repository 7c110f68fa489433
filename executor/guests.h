/* Who comes to a listening socket: connections whose first bytes say who they are. Strangers may connect as well, and
 * may say nothing for ever: nobody waits for them, and no number of them keeps others out. */
#ifndef EXECUTOR_GUESTS_H
#define EXECUTOR_GUESTS_H

#include <moeplan/base.h>

struct pollfd;
struct ex_guest;
struct ex_guests {
    int listener;
    size_t n_first; /* bytes that everybody begins with */
    uint32_t n, n_most;
    struct ex_guest *all; /* [n] that have not said enough yet, the oldest first */
    uint8_t *first;       /* [n_most][n_first] what they have said */
    struct pollfd *polls;
};
/* listener: non-blocking, borrowed. n_most: so many wait at the same time; the oldest goes when one more comes. */
enum mp_status ex_guests_open(struct ex_guests *g, int listener, size_t n_first, uint32_t n_most,
                              struct mp_error *err) MP_MUST_CHECK;
/* The next connection (non-blocking, the caller's) that has said its first bytes, and these; -1 at the deadline. */
int ex_guests_next(struct ex_guests *g, void *first, uint64_t until_ns);
void ex_guests_close(struct ex_guests *g);

#endif
