/* All flows at once, for networks whose paths are one out port and one in port, at most 64 of each: the common case,
 * and the fast one.
 *
 * Decides    when each flow ends, as net_maxmin.c does, with the same result up to rounding.
 * Method     The rate of a flow is the lower of the levels at which its two ports filled. So the filling needs no
 *            rates of flows: a port that fills takes its open flows (a 64-bit set) with it and lowers the room of the
 *            ports opposite. A port keeps a clock of bytes that each of its own flows has sent, and a flow the
 *            reading at which it ends; as long as a flow stays with its port nothing about it is touched. When a flow
 *            ends, ports that filled below its rate keep theirs, and only the later ones are undone and filled again.
 * Differs    from net_maxmin.c only in what it costs: O(ports + flows moved) per level and event.
 * Cost       O(events * (open flows at or above the ended flow's rate + levels * ports)), a few cycles each. */
#include "net.h"
#include <stdlib.h>
#include <string.h>

#define SIDE NET_PORTS_SIDE

struct port_level { /* one port that filled, in order of filling */
    uint64_t flows; /* its own, by port opposite */
    double rate, since, finish,
        first_finish; /* finish: of its first flow; first_finish: least of this and the levels before */
    uint32_t port;
};

struct net_ports {
    uint32_t n_out, n_ports, n_levels, n_left; /* ports: outs, then ins */
    uint64_t open[2];                          /* ports not filled, by side */
    double now;
    uint64_t alive[2 * SIDE], own[2 * SIDE]; /* flows by port opposite: not ended; ended only with this port */
    double capacity[2 * SIDE], room[2 * SIDE], share[2 * SIDE], sent[2 * SIDE], least_end[2 * SIDE], inverse[SIDE + 1];
    uint32_t n_open[2 * SIDE], n_alive[2 * SIDE], resource[2 * SIDE];
    bool is_stale[2 * SIDE]; /* least_end is to be found again */
    struct port_level levels[2 * SIDE];
    double end[2 * SIDE][SIDE]; /* clock of the port at which the flow ends; INFINITY = not this port's */
    uint32_t pair[SIDE][SIDE];
};

size_t net_ports_size(void) { return sizeof(struct net_ports); }

/* Least of x[0 .. n), four at a time so that the comparisons do not wait for each other. */
static inline double least_of(const double *x, uint32_t n) {
    double a = INFINITY, b = INFINITY, c = INFINITY, d = INFINITY;
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        a = x[i] < a ? x[i] : a;
        b = x[i + 1] < b ? x[i + 1] : b;
        c = x[i + 2] < c ? x[i + 2] : c;
        d = x[i + 3] < d ? x[i + 3] : d;
    }
    for (; i < n; i++)
        a = x[i] < a ? x[i] : a;
    a = b < a ? b : a;
    c = d < c ? d : c;
    return c < a ? c : a;
}

/* The share carries its port in its lowest 7 bits, so that the least share names its port. A relative change of 2^-45
 * only matters between equals. */
static inline double named(double share, uint32_t port) {
    uint64_t bits;
    memcpy(&bits, &share, sizeof bits);
    bits = (bits & ~UINT64_C(127)) | port;
    memcpy(&share, &bits, sizeof share);
    return share;
}
static inline uint32_t name_of(double share) {
    uint64_t bits;
    memcpy(&bits, &share, sizeof bits);
    return (uint32_t)(bits & 127);
}

static void fill(struct net_ports *p) {
    const uint32_t n_out = p->n_out, n_ports = p->n_ports;
    double level = p->n_levels > 0 ? p->levels[p->n_levels - 1].rate : 0;
    double first = p->n_levels > 0 ? p->levels[p->n_levels - 1].first_finish : INFINITY;
    for (;;) {
        double least = least_of(p->share, n_ports);
        if (!(least < INFINITY))
            break;
        const uint32_t port = name_of(least), side = port >= n_out, me = side ? port - n_out : port,
                       base = side ? 0 : n_out;
        double rate = p->room[port] * p->inverse[p->n_open[port]];
        level = rate > level ? rate : level; /* levels never fall; rounding must not make them */
        const uint64_t flows = p->alive[port] & p->open[!side];
        p->open[side] &= ~(UINT64_C(1) << me);
        p->share[port] = INFINITY;
        double *end = p->end[port];
        for (uint64_t joined = flows & ~p->own[port]; joined != 0; joined &= joined - 1) {
            uint32_t q = (uint32_t)__builtin_ctzll(joined), other = base + q;
            end[q] = p->sent[port] + (p->end[other][me] - p->sent[other]);
            p->end[other][me] = INFINITY;
        }
        if (flows != p->own[port] || p->is_stale[port]) {
            p->own[port] = flows;
            p->is_stale[port] = false;
            p->least_end[port] = least_of(end, side ? n_out : n_ports - n_out);
        }
        for (uint64_t left = flows; left != 0; left &= left - 1) {
            uint32_t other = base + (uint32_t)__builtin_ctzll(left), n = --p->n_open[other];
            double room = p->room[other] - level;
            p->room[other] = room;
            p->share[other] = n > 0 ? named(room * p->inverse[n], other) : INFINITY;
        }
        double finish = p->now + (p->least_end[port] - p->sent[port]) / level;
        first = finish < first ? finish : first;
        p->levels[p->n_levels++] = (struct port_level){flows, level, p->now, finish, first, port};
    }
    /* What is still open has lost all its flows to other ports. */
    for (uint32_t side = 0; side < 2; side++)
        for (uint64_t left = p->open[side]; left != 0; left &= left - 1)
            p->own[(side ? n_out : 0) + (uint32_t)__builtin_ctzll(left)] = 0;
}

/* Shares of all open ports, from rooms and counts. */
static void open_shares(struct net_ports *p) {
    for (uint32_t port = 0; port < p->n_ports; port++) {
        uint32_t side = port >= p->n_out, me = side ? port - p->n_out : port;
        bool is_open = (p->open[side] >> me & 1) != 0 && p->n_open[port] > 0;
        if (is_open && p->n_open[port] == p->n_alive[port])
            p->room[port] = p->capacity[port]; /* nothing taken: forget what rounding has left */
        p->share[port] = is_open ? named(p->room[port] * p->inverse[p->n_open[port]], port) : INFINITY;
    }
}

static void end_flow(struct net_ports *p, const struct mp_net *n, struct net_end *e, uint32_t out, uint32_t in) {
    uint32_t q = p->n_out + in, pair = p->pair[out][in];
    p->alive[out] &= ~(UINT64_C(1) << in);
    p->alive[q] &= ~(UINT64_C(1) << out);
    p->own[out] &= ~(UINT64_C(1) << in);
    p->own[q] &= ~(UINT64_C(1) << out);
    p->end[out][in] = p->end[q][out] = INFINITY;
    p->n_open[out]--; /* the caller has undone or will undo the levels, which counts both ends as open again */
    p->n_open[q]--;
    p->n_alive[out]--;
    double capacity = net_capacity(&n->resources[p->resource[q]], --p->n_alive[q]);
    p->room[q] += capacity - p->capacity[q];
    p->capacity[q] = capacity;
    p->n_left--;
    net_end(n, e, pair, p->now);
}

/* Time moves on; what ends by now ends; the levels from number g on are undone. */
static void undo(struct net_ports *p, const struct mp_net *n, struct net_end *e, double now, uint32_t g) {
    p->now = now;
    const double tolerance = net_tolerance(p->now), limit = p->now + tolerance;
    for (uint32_t k = g; k < p->n_levels; k++) {
        const struct port_level *l = &p->levels[k];
        const uint32_t port = l->port, side = port >= p->n_out, me = side ? port - p->n_out : port,
                       base = side ? 0 : p->n_out;
        for (uint64_t left = l->flows; left != 0; left &= left - 1) {
            uint32_t other = base + (uint32_t)__builtin_ctzll(left);
            p->room[other] += l->rate;
            p->n_open[other]++;
        }
        p->open[side] |= UINT64_C(1) << me;
        p->sent[port] += l->rate * (p->now - l->since);
        if (l->finish > limit)
            continue;
        const double reached = p->sent[port] + l->rate * tolerance;
        p->is_stale[port] = true;
        for (uint64_t left = l->flows; left != 0; left &= left - 1) {
            uint32_t q = (uint32_t)__builtin_ctzll(left);
            if (p->end[port][q] <= reached)
                end_flow(p, n, e, side ? q : me, side ? me : q);
        }
    }
    p->n_levels = g;
}

/* The next flows end; the levels from the first that holds one of them are undone. */
static void next_end(struct net_ports *p, const struct mp_net *n, struct net_end *e) {
    const double now = p->levels[p->n_levels - 1].first_finish, limit = now + net_tolerance(now);
    uint32_t g = 0;
    while (p->levels[g].first_finish > limit)
        g++;
    undo(p, n, e, now, g);
    open_shares(p);
}

static void start_flow(struct net_ports *p, const struct mp_net *n, uint32_t pair, double bytes) {
    const uint32_t *path = n->pair_resource + n->pair_first[pair];
    uint32_t out = n->port_number[path[0]], in = n->port_number[path[1]], q = p->n_out + in;
    p->alive[out] |= UINT64_C(1) << in;
    p->alive[q] |= UINT64_C(1) << out;
    p->end[out][in] = p->sent[out] + bytes;
    p->end[q][out] = p->sent[q] + bytes;
    p->pair[out][in] = pair;
    const uint32_t ports[2] = {out, q};
    for (int k = 0; k < 2; k++) {
        p->n_alive[ports[k]]++;
        p->n_open[ports[k]]++;
        p->capacity[ports[k]] = net_capacity(&n->resources[p->resource[ports[k]]], p->n_alive[ports[k]]);
    }
}

static int by_start(const void *a, const void *b, void *ctx) {
    const double *start = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return start[x] < start[y] ? -1 : start[x] > start[y] ? 1 : (x > y) - (x < y);
}

static bool is_simple(struct mp_net *n, const uint32_t *pairs, size_t n_pairs, uint32_t n_side[2],
                      uint32_t ids[2][SIDE]) {
    uint64_t taken[SIDE] = {0};
    if (n_pairs > SIDE * SIDE)
        return false;
    for (size_t i = 0; i < n_pairs; i++) {
        uint32_t number[2];
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t r = n->pair_resource[n->pair_first[pairs[i]] + k];
            if (n->port_stamp[r] != n->stamp) {
                if (n_side[k] == SIDE)
                    return false;
                n->port_stamp[r] = n->stamp;
                n->port_number[r] = n_side[k];
                ids[k][n_side[k]++] = r;
            }
            number[k] = n->port_number[r];
        }
        if ((taken[number[0]] >> number[1] & 1) != 0)
            return false; /* two flows through the same two ports: a shared NIC */
        taken[number[0]] |= UINT64_C(1) << number[1];
    }
    return true;
}

/* Flows of one component: pairs of out port and in port, all distinct. start NULL: all at 0. False, with nothing done,
 * when it is not of this kind. `pairs` may be reordered. */
bool net_ports_run(struct mp_net *n, uint32_t *pairs, size_t n_pairs, const uint64_t *matrix, const double *start,
                   struct net_end *e) {
    struct net_ports *p = n->ports;
    uint32_t n_side[2] = {0, 0}, ids[2][SIDE];
    if (!is_simple(n, pairs, n_pairs, n_side, ids))
        return false;
    p->n_out = n_side[0];
    p->n_ports = n_side[0] + n_side[1];
    p->n_levels = 0;
    p->n_left = (uint32_t)n_pairs;
    p->now = 0;
    for (uint32_t i = 0; i <= SIDE; i++)
        p->inverse[i] = i == 0 ? 0 : 1.0 / i;
    for (uint32_t side = 0; side < 2; side++) {
        p->open[side] = n_side[side] == 64 ? UINT64_MAX : (UINT64_C(1) << n_side[side]) - 1;
        for (uint32_t i = 0; i < n_side[side]; i++) {
            uint32_t port = side ? p->n_out + i : i;
            p->resource[port] = ids[side][i];
            p->alive[port] = p->own[port] = 0;
            p->n_alive[port] = p->n_open[port] = 0;
            p->sent[port] = 0;
            p->is_stale[port] = true;
            for (uint32_t q = 0; q < n_side[!side]; q++)
                p->end[port][q] = INFINITY;
        }
    }
    if (start != NULL)
        qsort_r(pairs, n_pairs, sizeof *pairs, by_start, (void *)(uintptr_t)start);
    for (size_t at = 0; p->n_left > 0;) {
        double next = p->n_levels > 0 ? p->levels[p->n_levels - 1].first_finish : INFINITY;
        if (at < n_pairs && (start == NULL || start[pairs[at]] <= next)) {
            double now = start == NULL ? 0 : start[pairs[at]], limit = now + net_tolerance(now);
            undo(p, n, e, now, 0);
            for (; at < n_pairs && (start == NULL || start[pairs[at]] <= limit); at++)
                start_flow(p, n, pairs[at], (double)matrix[pairs[at]]);
            open_shares(p);
        } else {
            next_end(p, n, e);
        }
        if (p->n_left > 0)
            fill(p);
    }
    return true;
}
