/* Private to src/sim: the flattened network that all simulators share. */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <math.h>
#include <moeplan/sim.h>

#define NET_CACHED_GPUS 1024u /* up to here the paths of all pairs are kept; above they are asked for one by one */
#define NET_MAX_PATH (2u + 2u * MP_MAX_LEVELS)

/* What one transfer uses, without the resources that can never limit it. */
struct net_pair {
    uint32_t n;
    uint32_t resource[NET_MAX_PATH];
    double latency_ns, cap; /* cap: bytes per ns, INFINITY = none */
};
struct net_quick { /* a transfer that has its ports to itself */
    double ns_per_byte, latency_ns;
};

struct net_resource {
    double rate;            /* bytes per ns */
    const uint32_t *incast; /* goodput by number of flows, or NULL */
    uint32_t n_incast;
    uint32_t n_users; /* GPUs that can send (out) or receive (in) through it */
    bool is_slack;    /* an uplink that its ports together cannot fill */
};

struct net_group { /* flows frozen at one level of the filling: order[start .. next group's start) */
    uint32_t start;
    double rate, since, first_finish; /* since: when `left` of its flows was right; first_finish: least of this and all
                                         earlier groups */
};

struct mp_net {
    const struct mp_topology *t;
    uint32_t n, n_resources;
    struct net_resource *resources;
    /* Cached paths. */
    uint32_t *pair_first, *pair_resource; /* [n * n + 1], ragged */
    double *pair_latency, *pair_cap;      /* [n * n] */
    struct net_quick *quick;              /* [n * n] */

    /* Max-min scratch: one entry per flow, path entries at flow * stride. */
    size_t n_flows_allocated, n_entries_allocated;
    uint32_t *flow_pair, *order, *path, *where, *list;
    uint8_t *is_free; /* not yet frozen in this filling */
    double *left, *cap;
    uint32_t *capped; /* flows with a finite cap, by ascending cap */
    struct net_group *groups;
    /* One entry per resource. */
    uint32_t *local, *local_stamp, stamp; /* resource -> dense number of this call */
    uint32_t *global, *n_alive, *n_free, *list_first, *touched;
    double *used, *residual, *share, *capacity;
    uint32_t *listed, *flows;  /* pairs with bytes; the same by component */
    uint32_t *component_first; /* [n_resources + 2] into flows */
    size_t n_listed_allocated;
    struct net_ports *ports;
    uint64_t *shot;       /* [n * n] bytes of a single shot, or NULL; all zero between calls */
    uint32_t *shot_pairs; /* its pairs */
    size_t n_shot_allocated;
    uint32_t *port_stamp, *port_number; /* [n_resources] */
    uint64_t *through;                  /* [n_resources] bytes */
    double *inverse;                    /* [n_entries_allocated + 1] 1 / i */

    /* Staged and event scratch. */
    size_t n_transfers_allocated, n_stages_allocated;
    uint64_t *transfer_bytes;   /* of each transfer of an order, in forward order */
    uint32_t *cumulative;       /* [n * n] shares seen so far */
    double *ready, *ready_next; /* [2 * n] */
    uint32_t *seen;             /* [2 * n] transfers of the stage so far */
    uint32_t *seen_stage;       /* [2 * n] */

    size_t n_jobs_allocated;
    struct net_job *jobs;
    uint32_t *job_pair; /* src * n + dst */
    double *job_bytes, *job_cap;
    uint32_t *queue_first, *queue_jobs;             /* [2 * n + 1], [2 * n_jobs] */
    uint32_t *queue_head, *queue_tail, *queue_left; /* [2 * n] */
    double *queue_ready;
    uint32_t *starting, *pending, *ending, *ended; /* pending, ending: heaps by time */
    uint64_t *flush_bytes;                         /* [n * n], these three NULL until they are needed */
    double *flush_start, *flush_end;
    uint64_t *seen_width;  /* [2 * n] */
    uint32_t *sender_list; /* [n] */

    struct mp_net_log *log; /* NULL = nobody listens */
    double *come, *gone;    /* [n] of a call with clocks: when ranks come, from the first on, and when they go on */
    bool has_clocks;        /* such a call is under way: queues start at `come` */
};

struct net_job {
    uint32_t stage;
    uint32_t queue[2]; /* MP_NONE = none; without any it starts at `time` */
    uint32_t n_waiting;
    double latency_ns, start, time; /* time: when it starts, then when it ends */
};

void net_path(const struct mp_net *n, uint32_t src, uint32_t dst, struct net_pair *out);
/* capacity of a resource while k flows use it, bytes per ns */
static inline double net_capacity(const struct net_resource *r, uint32_t k) {
    if (r->n_incast == 0 || k == 0)
        return r->rate;
    return r->rate * (double)r->incast[(k < r->n_incast ? k : r->n_incast) - 1] * 1e-6;
}
/* Nanoseconds are rounded up, but a time within rounding error of a whole number is that number. */
static inline uint64_t net_round_up(double ns) {
    double x = ceil(ns - (ns * 1e-12 + 1e-6));
    return x <= 0 ? 0 : x >= 1.8e19 ? UINT64_MAX : (uint64_t)x;
}
static inline uint64_t net_add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}
/* Two times closer than this are one event. */
static inline double net_tolerance(double t) { return t * 1e-13 + 1e-9; }

/* What the ends of flows add up to. */
struct net_end {
    uint64_t *finish_ns;    /* [n * n] or NULL */
    double *finish;         /* the same, not rounded */
    const uint64_t *matrix; /* for the log */
    uint64_t longest_ns, least_latency_ns;
    double last;
    const double *start; /* set by net_at_once: when each pair of the matrix starts; NULL = at 0 */
};
void net_end(const struct mp_net *n, struct net_end *e, uint32_t pair, double now);
enum mp_status net_ports_new(struct net_ports **out, uint32_t n_gpus, struct mp_error *err);
void net_ports_free(struct net_ports *p);
bool net_ports_run(struct mp_net *n, uint32_t *pairs, size_t n_pairs, const uint64_t *matrix, const double *start,
                   struct net_end *e);
/* Room for n_flows in n->listed and n->flows. */
enum mp_status net_list_reserve(struct mp_net *n, size_t n_flows, struct mp_error *err);
/* The flows of these pairs of a matrix at max-min fair rates; start NULL (all at 0) or [n * n]. */
enum mp_status net_at_once(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                           const double *start, struct net_end *end, struct mp_error *err);

/* Clocks of ranks (net_clocks.c). Begin: n->come from clock_ns, less the earliest, which is *base_ns. End: clock_ns of
 * n->gone; the last of it is not below *base_ns + least_ns, what no rounding may pass. */
void net_clocks_begin(struct mp_net *n, const uint64_t *clock_ns, uint64_t *base_ns);
void net_clocks_end(struct mp_net *n, uint64_t *clock_ns, uint64_t base_ns, uint64_t least_ns);
/* The log's entries from `first` on were made from *base_ns on. */
void net_clocks_log(const struct mp_net *n, size_t first, uint64_t base_ns);
/* Everybody waits for the last, and goes on time_ns later. */
void net_clocks_barrier(const struct mp_net *n, uint64_t *clock_ns, uint64_t time_ns);
/* n->flush_*, and room for n_flows in n->listed. */
enum mp_status net_flush_reserve(struct mp_net *n, size_t n_flows, struct mp_error *err);

/* Makes room for n more entries of the log, when there is one; then each is added. */
enum mp_status net_log_reserve(struct mp_net *n, size_t n_more, struct mp_error *err);
void net_log_add(const struct mp_net *n, uint32_t src, uint32_t dst, uint32_t stage, uint64_t bytes, double start,
                 uint64_t end_ns);
/* mp_net_port_bound of these pairs of the matrix. */
uint64_t net_bound_pairs(struct mp_net *n, const uint32_t *pairs, size_t n_pairs, const uint64_t *matrix);
/* The flows pairs[0 .. n_pairs), all different and with bytes > 0 in matrix, at once; what else is in matrix does not
 * count. Sets end->longest_ns, never below *bound_ns, their port bound, plus the least latency. */
enum mp_status net_concurrent_pairs(struct mp_net *n, const uint32_t *pairs, size_t n_pairs, const uint64_t *matrix,
                                    uint64_t *bound_ns, struct net_end *end, struct mp_error *err) MP_MUST_CHECK;

/* Flows that start one by one. Numbered 0 .. n_flows - 1, each started once. */
struct net_fluid {
    struct mp_net *n;
    struct net_end *end; /* or NULL: ended flows are listed */
    uint32_t *ended, n_ended;
    uint32_t n_local, stride, n_left, n_groups, n_capped, freed_from;
    double now;
};
enum mp_status net_fluid_new(struct net_fluid *x, struct mp_net *n, const uint32_t *pairs, const double *caps,
                             const double *bytes, uint32_t *ended, size_t n_flows, struct mp_error *err);
/* One event: time moves on to now and what ends is listed; then what starts now starts; then new rates, and when the
 * next flow ends. */
void net_fluid_end(struct net_fluid *x, double now);
void net_fluid_start(struct net_fluid *x, const uint32_t *flows, uint32_t n_new);
double net_fluid_settle(struct net_fluid *x);

/* Runs n_jobs jobs (by ascending stage) through n_queues queues; each start waits launch_ns after its queues are
 * ready. */
enum mp_status net_events_reserve(struct mp_net *n, size_t n_jobs, struct mp_error *err);
void net_events_job(struct mp_net *n, size_t i, struct net_job job, uint32_t src, uint32_t dst, double bytes,
                    double cap);
enum mp_status net_events_run(struct mp_net *n, size_t n_jobs, uint32_t n_queues, double launch_ns, struct net_end *end,
                              double *last, struct mp_error *err);
/* Flows without queues, each at its own time. */
enum mp_status net_events_timed(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                                const double *start, struct net_end *end, struct mp_error *err);

/* Bytes of every transfer of the order into net->transfer_bytes, cut where the cumulative share says, in forward order
 * whichever way the stages run. MP_EBUG when the order does not send the matrix exactly. */
enum mp_status net_cut(struct mp_net *n, const struct mp_order *order, bool is_swapped, const uint64_t *matrix,
                       struct mp_error *err);

/* Orders between nodes (docs/ORDERS.md part 4): the time, never below the relay bound, and the `staged` side of part 5.
 * Either output may be NULL. */
enum mp_status net_nodes_staged(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                const uint64_t *matrix, uint64_t *time_ns, uint64_t *estimate_ns, struct mp_error *err);

#endif
