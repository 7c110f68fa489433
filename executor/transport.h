/* Transports: one file transport_<name>.c with a struct ex_transport, one word in executor/meson.build.
 *
 * A transport owns the blocks of its ranks and carries out scripts. It knows nothing of tokens. Every wait in it has a
 * deadline; whoever fails tells the others (abort), and everybody ends with MP_EPEER within deadline + 100 ms. */
#ifndef EXECUTOR_TRANSPORT_H
#define EXECUTOR_TRANSPORT_H

#include "fault.h"
#include "rows.h"
#include "script.h"
#include "sum.h"

/* Who takes part. Only main reads the environment and the command line; it is all in here. */
struct ex_world {
    uint32_t n_ranks;             /* = GPUs of the topology; rank r is GPU r */
    uint32_t first_rank, n_local; /* ranks of this process: all, or one */
    uint32_t local_rank;          /* of this process on its host: which GPU device to take */
    const struct mp_topology *topology;
    uint64_t deadline_ms;   /* of every wait */
    const char *rendezvous; /* "file:///path", "tcp://host:port", or NULL where all ranks are in this process */
    const char *hosts;      /* file of tools/emulate: `rank node address_of_level_0 address_of_level_1 ...`, or NULL */
    const char *congestion; /* TCP_CONGESTION of sockets, or NULL */
    int sockets_fd;         /* a connection that main made before it forked, or -1; the launcher's business */
    char identity[65];      /* SHA-256 of plan, trace, topology and options: all ranks must have the same */
    bool with_timeline;     /* every message of the first step is wanted with its times */
    bool with_sums;         /* gradients are to be summed beside scripts (struct ex_beside) */
    struct ex_fault fault;  /* what goes wrong on purpose; kind NONE in real life */
};

/* What a transport can carry out; prove.h holds scripts against it. */
struct ex_limits {
    uint32_t max_ranks;     /* 0 = any */
    uint32_t ops_per_stage; /* most sends plus receives of a rank in one stage (NCCL: 256 in a group); 0 = any */
    bool paces;             /* keeps port_bytes_per_s; else caps count for nothing (docs/ORDERS.md part 3) */
    bool packs;             /* has `rows`: blocks have room for tokens and tables (rows.h) */
    bool couples;           /* a rank ends a stage, both ways, before the next: free stages run as coupled ones */
};
/* How stages that somebody wants in this mode follow each other on such a transport: what is run and predicted. */
enum mp_stage_mode ex_limits_mode(const struct ex_limits *limits, enum mp_stage_mode wanted);

/* What the experts of a rank compute in one layer: expert i has rows[i] tokens; hidden -> up -> (gate) inner -> hidden.
 */
struct ex_gemm {
    uint32_t n_experts, hidden, up, inner;
    const uint32_t *rows;
};

/* When what happened, of the ranks of this process, in ns since the rank left the barrier that begins a run. */
struct ex_times {
    uint32_t n_ranks, n_stages;  /* of the script; rows of other processes' ranks stay 0 */
    uint64_t *total_ns;          /* [n_ranks] when the rank had done all of it */
    uint64_t *begin_ns, *end_ns; /* [n_ranks][n_stages] first start and last end of the rank's part of a stage; both 0
                                  * where it has none, or where the transport cannot tell (a captured graph) */
    uint64_t *message_begin_ns, *message_end_ns; /* [n_messages] as its receiver saw it (else its sender), or 0 */
};
enum mp_status ex_times_new(struct ex_times **out, const struct ex_script *s, struct mp_error *err) MP_MUST_CHECK;
void ex_times_free(struct ex_times *t); /* NULL is fine */

/* What ranks tell each other in a training step; what the numbers mean is the business of train.h. */
struct ex_word {
    uint32_t kind, from, index, count, serial;
    int64_t a, b;
};
/* What a rank does beside everything else: called whenever the transport looks at what comes, in run, barrier and idle
 * too, never while it is at work itself. next_ns: when it wants to be called again at the latest. */
typedef enum mp_status ex_attend_fn(void *ctx, uint64_t now_ns, uint64_t *next_ns, struct mp_error *err);

struct ex_link; /* an open transport: each file defines its own */

/* Sums of gradients beside scripts, on connections (a stream, a thread) of their own. */
struct ex_beside {
    /* From now on `fn` attends; NULL: nobody does. Who comes first is the caller's business: what was begun travels. */
    enum mp_status (*attend)(struct ex_link *link, ex_attend_fn *fn, void *ctx, struct mp_error *err);
    /* NULL, or what is done once for sets of ranks that will sum something together, named by all in the same order:
     * members of sets[i]; the rest of it does not count. */
    enum mp_status (*prepare)(struct ex_link *link, uint32_t n_sets, const struct ex_span *sets, struct mp_error *err);
    /* Begins a local rank's part of a sum; at most one at a time. `sum` stays where it is until it has ended. */
    enum mp_status (*sum)(struct ex_link *link, uint32_t rank, const struct ex_sum *sum, struct mp_error *err);
    /* Has the local rank's part ended? True where none was begun. */
    enum mp_status (*has_summed)(struct ex_link *link, uint32_t rank, bool *has, struct mp_error *err);
    /* Waits until something has happened, until `until_ns` at most. waits_for: a rank, or MP_NONE: this one computes
     * meanwhile. Fails as everything that waits does: when nothing moves for the deadline though all wait. */
    enum mp_status (*idle)(struct ex_link *link, uint64_t until_ns, uint32_t waits_for, const char *doing,
                           struct mp_error *err);
    void (*stir)(struct ex_link *link); /* there is something new for who attends: soon, please */
    /* NULL where all ranks are in this process: a word to another rank; the next one that has come. */
    enum mp_status (*tell)(struct ex_link *link, uint32_t to, const struct ex_word *word, struct mp_error *err);
    bool (*hear)(struct ex_link *link, struct ex_word *word);
};
struct ex_transport {
    const char *name, *summary, *needs; /* --list transports prints them; needs: "nothing", "a GPU", ... */
    struct ex_limits limits;
    bool has_one_rank_each; /* process; else all ranks are in one */
    /* Meets the other ranks, compares identities, connects. On failure *out is NULL and nothing is left open. */
    enum mp_status (*open)(struct ex_link **out, const struct ex_world *world, struct mp_error *err);
    /* The block of a local rank, at least `bytes` bytes, zeroed. Again with more bytes: a new block, the old one is
     * gone. *host_view is where this process packs and checks: the block itself, or memory that push and pull copy. */
    enum mp_status (*alloc)(struct ex_link *link, uint32_t rank, uint64_t bytes, void **host_view,
                            struct mp_error *err);
    /* NULL where host_view is the block. push: host_view to block; pull: block to host_view. */
    enum mp_status (*push)(struct ex_link *link, uint32_t rank, uint64_t at, uint64_t bytes, struct mp_error *err);
    enum mp_status (*pull)(struct ex_link *link, uint32_t rank, uint64_t at, uint64_t bytes, struct mp_error *err);
    /* NULL, or what is done once for scripts before they are timed: connections, warm-up, capture. The scripts stay
     * where they are until they have run for the last time. */
    enum mp_status (*prepare)(struct ex_link *link, const struct ex_script *const *scripts, size_t n,
                              struct mp_error *err);
    /* All local ranks' part of a script, which was proven. Begins with a barrier of all ranks, which is not timed.
     * times is zeroed by the caller. MP_EPEER names stage, peer and bytes. */
    enum mp_status (*run)(struct ex_link *link, const struct ex_script *script, struct ex_times *times,
                          struct mp_error *err);
    /* NULL where ranks pack on the host. A table of a local rank, carried out by a kernel on its block as it is on the
     * device, after all that was pushed and before all that is pulled; *ns: what it took there. */
    enum mp_status (*rows)(struct ex_link *link, uint32_t rank, const struct ex_rows_table *table, uint64_t *ns,
                           struct mp_error *err);
    /* NULL, or real matrix products of a local rank's experts, of these sizes; *ns: what they took on the device. */
    enum mp_status (*compute)(struct ex_link *link, uint32_t rank, const struct ex_gemm *gemm, uint64_t *ns,
                              struct mp_error *err);
    const struct ex_beside *beside; /* NULL where gradients cannot be summed beside scripts */
    enum mp_status (*barrier)(struct ex_link *link, struct mp_error *err);
    /* NULL, or: this rank works on. Whoever works between waits calls it every now and then (it is cheap), so that the
     * others see life and this rank hears when they end. */
    enum mp_status (*pulse)(struct ex_link *link, struct mp_error *err);
    /* n bytes of every local rank (mine[n_local][n]) to everybody: all[n_ranks][n]. */
    enum mp_status (*gather)(struct ex_link *link, const void *mine, void *all, size_t n, struct mp_error *err);
    /* Tells the others why this process ends; never blocks, may be called more than once, after any failure. */
    void (*abort)(struct ex_link *link, const struct mp_error *why);
    void (*close)(struct ex_link *link); /* NULL is fine; after abort it must not wait for anybody */
};
const struct ex_transport *ex_transport_at(uint32_t i); /* NULL past the last */
const struct ex_transport *ex_transport_find(const char *name);

/* The message of a wait that passed its deadline: what `rank` waited for in this stage. Returns MP_EPEER. */
enum ex_silence {
    EX_LATE,   /* for the deadline, whatever else moved */
    EX_IDLE,   /* nothing of any rank moved for the deadline */
    EX_SILENT, /* the peer showed no sign of life for the deadline */
};
enum mp_status ex_fail_deadline(struct mp_error *err, const struct ex_script *s, uint32_t rank, uint32_t stage,
                                uint32_t peer, bool is_receive, uint64_t bytes, enum ex_silence how,
                                uint64_t deadline_ms);

#endif
