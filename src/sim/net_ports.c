/* All flows at once, for networks whose paths are one out port and one in port, at most 256 of each: the common case,
 * and the fast one.
 *
 * Decides    when each flow ends, as net_maxmin.c does, with the same result up to rounding.
 * Method     The rate of a flow is the lower of the levels at which its two ports filled, so rates of flows are kept
 *            nowhere. Ports stand in the order in which they filled; a port that fills takes its open flows (a set of
 *            bits) with it, and its level is what the levels of the ports before it leave of its capacity, by flow. Any
 *            order in which levels do not fall, and in which no port is over its capacity, is the max-min one: every
 *            flow then has a full port at which none is faster. So after an end the ports from the ended flow's level
 *            on fill again in the order they had, and one that comes out below its predecessor moves to where it
 *            belongs. A port keeps a clock of bytes that each of its own flows has sent, and a flow the reading at
 *            which it ends; as long as a flow stays with its port nothing about it is touched.
 * Differs    from net_maxmin.c only in what it costs.
 * Cost       O(events * (levels at or above the ended flow's rate + moves) * ports / 4), a few cycles each. */
#include "net.h"
#include <stdlib.h>
#include <string.h>

#define SMALL_SIDE 64u
#define LARGE_SIDE 256u
#define MOST_WORDS (LARGE_SIDE / 64)
#define MOST_PORTS (2 * LARGE_SIDE)
#define ROUNDING 1e-12 /* relative; levels and capacities closer than this are equal */

/* Loops are compiled twice, for any processor and for one with AVX2, and for one word and four words of a set: what
 * they call has to be inlined. */
#define INLINE static inline __attribute__((always_inline))
typedef double four __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t four_bits __attribute__((vector_size(32), aligned(8), may_alias));

struct port_level {             /* one port that filled, in order of filling */
    uint64_t flows[MOST_WORDS]; /* its own, by port opposite */
    double rate, since, finish,
        first_finish; /* finish: of its first flow; first_finish: least of this and the levels before */
};

/* Ports: outs from 0, ins from in_base on, a multiple of 4. Sets are of the side opposite, or of the port's own for
 * `open`. */
struct net_ports {
    uint32_t side; /* [side] of `end` and `pair` */
    uint32_t n_out, n_in, in_base, n_ports, n_levels, n_order, n_left;
    double now;
    uint64_t open[2][MOST_WORDS];                                        /* ports not filled, by side */
    uint64_t alive[MOST_PORTS][MOST_WORDS], own[MOST_PORTS][MOST_WORDS]; /* not ended; ended only with this port */
    double capacity[MOST_PORTS], sent[MOST_PORTS], least_end[MOST_PORTS];
    double rate[MOST_PORTS + 8]; /* of the level; 0 = not filled; read eight at a time */
    uint32_t n_alive[MOST_PORTS], resource[MOST_PORTS];
    bool is_stale[MOST_PORTS];  /* least_end is to be found again */
    uint32_t order[MOST_PORTS]; /* [n_order] ports with flows: the filled ones, then those that never are full */
    struct port_level levels[MOST_PORTS]; /* [n_levels] of the first of them */
    double *end;    /* [2 * side][side] clock of the port at which the flow ends; INFINITY = not this port's */
    uint32_t *pair; /* [side][side] */
};

enum mp_status net_ports_new(struct net_ports **out, uint32_t n_gpus, struct mp_error *err) {
    struct net_ports *p = *out = mp_calloc(1, sizeof **out);
    if (p == NULL)
        return mp_nomem(err, "the network");
    p->side = n_gpus <= SMALL_SIDE ? SMALL_SIDE : LARGE_SIDE;
    p->end = mp_calloc(2 * (size_t)p->side * p->side, sizeof *p->end);
    p->pair = mp_calloc((size_t)p->side * p->side, sizeof *p->pair);
    return p->end != NULL && p->pair != NULL ? MP_OK : mp_nomem(err, "the network");
}
void net_ports_free(struct net_ports *p) {
    if (p == NULL)
        return;
    mp_free(p->end);
    mp_free(p->pair);
    mp_free(p);
}

INLINE double *ends_of(struct net_ports *p, uint32_t port) {
    return p->end + (size_t)(port < p->in_base ? port : p->side + port - p->in_base) * p->side;
}

static const int64_t lane_masks[16][4] = {{0, 0, 0, 0},   {-1, 0, 0, 0},   {0, -1, 0, 0},   {-1, -1, 0, 0},
                                          {0, 0, -1, 0},  {-1, 0, -1, 0},  {0, -1, -1, 0},  {-1, -1, -1, 0},
                                          {0, 0, 0, -1},  {-1, 0, 0, -1},  {0, -1, 0, -1},  {-1, -1, 0, -1},
                                          {0, 0, -1, -1}, {-1, 0, -1, -1}, {0, -1, -1, -1}, {-1, -1, -1, -1}};
#define LANES_OF(bits) (*(const four_bits *)lane_masks[bits])
INLINE bool has_bit(const uint64_t *set, uint32_t k) { return (set[k / 64] >> k % 64 & 1) != 0; }
INLINE void set_bit(uint64_t *set, uint32_t k) { set[k / 64] |= UINT64_C(1) << k % 64; }
INLINE void clear_bit(uint64_t *set, uint32_t k) { set[k / 64] &= ~(UINT64_C(1) << k % 64); }

/* Least of x[0 .. n), not negative, n a multiple of 4: such numbers are in the order of their bits. */
INLINE double least_of(const double *x, uint32_t n) {
    four_bits a = (four_bits)(four){INFINITY, INFINITY, INFINITY, INFINITY}, b = a;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const four_bits c = *(const four_bits *)(x + i), d = *(const four_bits *)(x + i + 4), is_c = c < a,
                        is_d = d < b;
        a = (c & is_c) | (a & ~is_c);
        b = (d & is_d) | (b & ~is_d);
    }
    if (i < n) {
        const four_bits c = *(const four_bits *)(x + i), is_c = c < a;
        a = (c & is_c) | (a & ~is_c);
    }
    const four_bits is_b = b < a;
    a = (b & is_b) | (a & ~is_b);
    int64_t least = a[0];
    for (int k = 1; k < 4; k++)
        least = a[k] < least ? a[k] : least;
    double number;
    memcpy(&number, &least, sizeof number);
    return number;
}

struct need {     /* of a port at its turn */
    double taken; /* by flows that other ports have taken with them */
    uint32_t n;   /* flows that are open */
};
INLINE struct need need_of(const struct net_ports *p, uint32_t port, const uint32_t W) {
    const uint32_t side = port >= p->in_base, n = side ? p->n_out : p->n_in;
    const uint64_t *alive = p->alive[port], *open = p->open[!side];
    const double *rates = p->rate + (side ? 0 : p->in_base);
    struct need need = {0, 0};
    four_bits zero = {0};
    four a = (four)zero, b = a;
    for (uint32_t k = 0; k < n; k += 8) {
        const uint32_t bits = (uint32_t)(alive[k / 64] >> k % 64) & 255;
        a += (four)(*(const four_bits *)(rates + k) & LANES_OF(bits & 15));
        b += (four)(*(const four_bits *)(rates + k + 4) & LANES_OF(bits >> 4));
    }
    a += b;
    need.taken = (a[0] + a[1]) + (a[2] + a[3]);
    for (uint32_t w = 0; w < W; w++)
        need.n += (uint32_t)__builtin_popcountll(alive[w] & open[w]);
    return need;
}

/* The port fills as number k of the order. */
INLINE void place(struct net_ports *p, uint32_t k, uint32_t port, double rate, const uint32_t W) {
    const uint32_t side = port >= p->in_base;
    struct port_level *l = &p->levels[k];
    rate = k > 0 && p->levels[k - 1].rate > rate ? p->levels[k - 1].rate : rate; /* rounding must not let levels fall */
    for (uint32_t w = 0; w < W; w++)
        l->flows[w] = p->alive[port][w] & p->open[!side][w];
    l->rate = p->rate[port] = rate;
    clear_bit(p->open[side], side ? port - p->in_base : port);
}
INLINE void unplace(struct net_ports *p, uint32_t port) {
    const uint32_t side = port >= p->in_base;
    p->rate[port] = 0;
    set_bit(p->open[side], side ? port - p->in_base : port);
}

/* Ports from number g on in the order that the least share gives: the slow and certain way. */
INLINE void order_anew(struct net_ports *p, uint32_t g, const uint32_t W) {
    for (uint32_t k = g; k < p->n_levels; k++)
        unplace(p, p->order[k]);
    for (p->n_levels = g;; p->n_levels++) {
        double least = INFINITY;
        uint32_t best = 0;
        for (uint32_t k = p->n_levels; k < p->n_order; k++) {
            const struct need need = need_of(p, p->order[k], W);
            const double share = (p->capacity[p->order[k]] - need.taken) / (need.n > 0 ? need.n : 1);
            if (need.n == 0 || !(share < least))
                continue;
            least = share;
            best = k;
        }
        if (!(least < INFINITY))
            return;
        const uint32_t port = p->order[best];
        p->order[best] = p->order[p->n_levels];
        p->order[p->n_levels] = port;
        place(p, p->n_levels, port, least, W);
    }
}

/* Ports from number n_levels on fill, in the order they have, as far as that is right. */
INLINE void find_levels(struct net_ports *p, const uint32_t W) {
    const uint32_t g = p->n_levels;
    uint32_t n_idle = 0; /* ports at the end of the order that were found to have no open flow, one after the other */
    for (uint32_t work = 16 * p->n_order + 64; n_idle < p->n_order - p->n_levels; work--) {
        uint32_t k = p->n_levels;
        const uint32_t port = p->order[k], side = port >= p->in_base, me = side ? port - p->in_base : port;
        const double capacity = p->capacity[port];
        struct need need = need_of(p, port, W);
        if (need.n == 0 && need.taken <= capacity * (1 + ROUNDING)) {
            memmove(p->order + k, p->order + k + 1, (p->n_order - k - 1) * sizeof *p->order);
            p->order[p->n_order - 1] = port;
            n_idle++;
            continue;
        }
        if (work == 0) {
            order_anew(p, g, W);
            return;
        }
        n_idle = 0;
        while (k > g && (need.n == 0 || (capacity - need.taken) < p->levels[k - 1].rate * (1 - ROUNDING) * need.n)) {
            const struct port_level *l = &p->levels[--k];
            const uint32_t other = p->order[k];
            unplace(p, other);
            p->order[k + 1] = other;
            if ((other >= p->in_base) != side && has_bit(l->flows, me)) {
                need.taken -= l->rate;
                need.n++;
            }
        }
        p->order[k] = port;
        p->n_levels = k;
        if (need.n == 0) { /* only rounding can do that: over its capacity by others that were before */
            order_anew(p, g, W);
            return;
        }
        place(p, k, port, (capacity - need.taken) / need.n, W);
        p->n_levels++;
    }
}

INLINE void fill(struct net_ports *p, const uint32_t W) {
    const uint32_t g = p->n_levels;
    find_levels(p, W);
    double first = g > 0 ? p->levels[g - 1].first_finish : INFINITY;
    for (uint32_t k = g; k < p->n_levels; k++) {
        struct port_level *l = &p->levels[k];
        const uint32_t port = p->order[k], side = port >= p->in_base, me = side ? port - p->in_base : port,
                       base = side ? 0 : p->in_base;
        double *end = ends_of(p, port);
        bool is_changed = p->is_stale[port];
        for (uint32_t w = 0; w < W; w++) {
            const uint64_t flows = l->flows[w];
            for (uint64_t joined = flows & ~p->own[port][w]; joined != 0; joined &= joined - 1) {
                uint32_t q = 64 * w + (uint32_t)__builtin_ctzll(joined), other = base + q;
                double *other_end = &ends_of(p, other)[me];
                end[q] = p->sent[port] + (*other_end - p->sent[other]);
                *other_end = INFINITY;
            }
            is_changed |= flows != p->own[port][w];
            p->own[port][w] = flows;
        }
        if (is_changed) {
            p->is_stale[port] = false;
            p->least_end[port] = least_of(end, ((side ? p->n_out : p->n_in) + 3) & ~3u);
        }
        l->since = p->now;
        l->finish = p->now + (p->least_end[port] - p->sent[port]) / l->rate;
        first = l->finish < first ? l->finish : first;
        l->first_finish = first;
    }
    for (uint32_t k = p->n_levels; k < p->n_order; k++) /* they have lost all their flows to other ports */
        memset(p->own[p->order[k]], 0, W * sizeof(uint64_t));
}

INLINE void end_flow(struct net_ports *p, const struct mp_net *n, struct net_end *e, uint32_t out, uint32_t in) {
    uint32_t q = p->in_base + in, pair = p->pair[(size_t)out * p->side + in];
    clear_bit(p->alive[out], in);
    clear_bit(p->alive[q], out);
    clear_bit(p->own[out], in);
    clear_bit(p->own[q], out);
    ends_of(p, out)[in] = ends_of(p, q)[out] = INFINITY;
    p->n_alive[out]--;
    p->capacity[q] = net_capacity(&n->resources[p->resource[q]], --p->n_alive[q]);
    p->n_left--;
    net_end(n, e, pair, p->now);
}

/* Time moves on; what ends by now ends; the levels from number g on are undone. */
INLINE void undo(struct net_ports *p, const struct mp_net *n, struct net_end *e, double now, uint32_t g,
                 const uint32_t W) {
    p->now = now;
    const double tolerance = net_tolerance(p->now), limit = p->now + tolerance;
    for (uint32_t k = g; k < p->n_levels; k++) {
        const struct port_level *l = &p->levels[k];
        const uint32_t port = p->order[k], side = port >= p->in_base, me = side ? port - p->in_base : port;
        unplace(p, port);
        p->sent[port] += l->rate * (p->now - l->since);
        if (l->finish > limit)
            continue;
        const double reached = p->sent[port] + l->rate * tolerance, *end = ends_of(p, port);
        p->is_stale[port] = true;
        for (uint32_t w = 0; w < W; w++)
            for (uint64_t left = l->flows[w]; left != 0; left &= left - 1) {
                uint32_t q = 64 * w + (uint32_t)__builtin_ctzll(left);
                if (end[q] <= reached)
                    end_flow(p, n, e, side ? q : me, side ? me : q);
            }
    }
    p->n_levels = g;
    uint32_t n_order = g;
    for (uint32_t k = g; k < p->n_order; k++)
        if (p->n_alive[p->order[k]] > 0)
            p->order[n_order++] = p->order[k];
    p->n_order = n_order;
}

/* The next flows end; the levels from the first that holds one of them are undone. */
INLINE void next_end(struct net_ports *p, const struct mp_net *n, struct net_end *e, const uint32_t W) {
    const double now = p->levels[p->n_levels - 1].first_finish, limit = now + net_tolerance(now);
    uint32_t g = 0;
    while (p->levels[g].first_finish > limit)
        g++;
    undo(p, n, e, now, g, W);
}

INLINE void start_flow(struct net_ports *p, const struct mp_net *n, uint32_t pair, double bytes) {
    const uint32_t *path = n->pair_resource + n->pair_first[pair];
    uint32_t out = n->port_number[path[0]], in = n->port_number[path[1]], q = p->in_base + in;
    set_bit(p->alive[out], in);
    set_bit(p->alive[q], out);
    ends_of(p, out)[in] = p->sent[out] + bytes;
    ends_of(p, q)[out] = p->sent[q] + bytes;
    p->pair[(size_t)out * p->side + in] = pair;
    const uint32_t ports[2] = {out, q};
    for (int k = 0; k < 2; k++) {
        if (p->n_alive[ports[k]]++ == 0)
            p->order[p->n_order++] = ports[k];
        p->capacity[ports[k]] = net_capacity(&n->resources[p->resource[ports[k]]], p->n_alive[ports[k]]);
    }
}

/* All start together: by what each would get alone. */
static void sort_order(struct net_ports *p) {
    double shares[MOST_PORTS];
    for (uint32_t k = 0; k < p->n_order; k++) {
        const uint32_t port = p->order[k];
        const double share = p->capacity[port] / p->n_alive[port];
        uint32_t at = k;
        for (; at > 0 && shares[at - 1] > share; at--) {
            p->order[at] = p->order[at - 1];
            shares[at] = shares[at - 1];
        }
        p->order[at] = port;
        shares[at] = share;
    }
}

static int by_start(const void *a, const void *b, void *ctx) {
    const double *start = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return start[x] < start[y] ? -1 : start[x] > start[y] ? 1 : (x > y) - (x < y);
}

static bool is_simple(struct mp_net *n, const uint32_t *pairs, size_t n_pairs, uint32_t n_side[2],
                      uint32_t ids[2][LARGE_SIDE]) {
    const uint32_t side = n->ports->side;
    uint64_t taken[LARGE_SIDE][MOST_WORDS];
    if (n_pairs > (size_t)side * side)
        return false;
    memset(taken, 0, side * sizeof taken[0]);
    for (size_t i = 0; i < n_pairs; i++) {
        uint32_t number[2];
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t r = n->pair_resource[n->pair_first[pairs[i]] + k];
            if (n->port_stamp[r] != n->stamp) {
                if (n_side[k] == side)
                    return false;
                n->port_stamp[r] = n->stamp;
                n->port_number[r] = n_side[k];
                ids[k][n_side[k]++] = r;
            }
            number[k] = n->port_number[r];
        }
        if (has_bit(taken[number[0]], number[1]))
            return false; /* two flows through the same two ports: a shared NIC */
        set_bit(taken[number[0]], number[1]);
    }
    return true;
}

INLINE void run(struct net_ports *p, const struct mp_net *n, const uint32_t *pairs, size_t n_pairs,
                const uint64_t *matrix, const double *start, struct net_end *e, const uint32_t W) {
    for (size_t at = 0; p->n_left > 0;) {
        double next = p->n_levels > 0 ? p->levels[p->n_levels - 1].first_finish : INFINITY;
        if (at < n_pairs && (start == NULL || start[pairs[at]] <= next)) {
            double now = start == NULL ? 0 : start[pairs[at]], limit = now + net_tolerance(now);
            undo(p, n, e, now, 0, W);
            for (; at < n_pairs && (start == NULL || start[pairs[at]] <= limit); at++)
                start_flow(p, n, pairs[at], (double)matrix[pairs[at]]);
            if (start == NULL)
                sort_order(p);
        } else {
            next_end(p, n, e, W);
        }
        if (p->n_left > 0)
            fill(p, W);
    }
}
typedef void run_fn(struct net_ports *p, const struct mp_net *n, const uint32_t *pairs, size_t n_pairs,
                    const uint64_t *matrix, const double *start, struct net_end *e);
#define RUN(name, attribute, W)                                                                                        \
    static attribute void name(struct net_ports *p, const struct mp_net *n, const uint32_t *pairs, size_t n_pairs,     \
                               const uint64_t *matrix, const double *start, struct net_end *e) {                       \
        run(p, n, pairs, n_pairs, matrix, start, e, W);                                                                \
    }
RUN(run_small, , 1)
RUN(run_large, , MOST_WORDS)
#if defined(__x86_64__)
RUN(run_small_avx2, __attribute__((target("avx2,popcnt"))), 1)
RUN(run_large_avx2, __attribute__((target("avx2,popcnt"))), MOST_WORDS)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt"); }
#else
#define run_small_avx2 run_small
#define run_large_avx2 run_large
static bool has_avx2(void) { return false; }
#endif

/* Flows of one component: pairs of out port and in port, all distinct. start NULL: all at 0. False, with nothing done,
 * when it is not of this kind. `pairs` may be reordered. */
bool net_ports_run(struct mp_net *n, uint32_t *pairs, size_t n_pairs, const uint64_t *matrix, const double *start,
                   struct net_end *e) {
    struct net_ports *p = n->ports;
    uint32_t n_side[2] = {0, 0}, ids[2][LARGE_SIDE];
    if (!is_simple(n, pairs, n_pairs, n_side, ids))
        return false;
    p->n_out = n_side[0];
    p->n_in = n_side[1];
    p->in_base = (p->n_out + 3) & ~3u;
    p->n_ports = p->in_base + p->n_in;
    p->n_levels = p->n_order = 0;
    p->n_left = (uint32_t)n_pairs;
    p->now = 0;
    memset(p->open, 0, sizeof p->open);
    for (uint32_t port = 0; port < p->n_ports; port++) {
        memset(p->alive[port], 0, sizeof p->alive[port]);
        memset(p->own[port], 0, sizeof p->own[port]);
        p->sent[port] = p->rate[port] = 0;
        p->n_alive[port] = 0;
        p->is_stale[port] = true;
    }
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t i = 0; i < n_side[side]; i++) {
            uint32_t port = side ? p->in_base + i : i;
            double *end = ends_of(p, port);
            p->resource[port] = ids[side][i];
            set_bit(p->open[side], i);
            for (uint32_t q = 0; q < ((n_side[!side] + 3) & ~3u); q++)
                end[q] = INFINITY;
        }
    if (start != NULL)
        qsort_r(pairs, n_pairs, sizeof *pairs, by_start, (void *)(uintptr_t)start);
    const bool is_small = p->n_out <= SMALL_SIDE && p->n_in <= SMALL_SIDE;
    run_fn *const fn = has_avx2() ? is_small ? run_small_avx2 : run_large_avx2 : is_small ? run_small : run_large;
    fn(p, n, pairs, n_pairs, matrix, start, e);
    return true;
}
