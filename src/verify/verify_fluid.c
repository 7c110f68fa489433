/* The verifier's own network: slow, simple, from docs/COST.md parts 4 and 5.
 *
 * Decides   nothing; says how long the transfers of a matrix take, all at once or in stages.
 * Method    progressive filling from scratch at every event: all rates rise together; the port with the least room per
 *           unfinished flow stops its flows; again with the others. Between events rates are constant.
 * Bound     exact up to rounding: each event may be off by a relative 10^-12, so the result differs from another exact
 *           simulation by less than 1 ns before rounding.
 * Differs   from src/sim in everything but the text: no incremental rates, no shared structure.
 * Cost      O(events * (active flows * path + rounds * ports)). Counted in d->n_operations, so that the caller can
 * stop. */
#include "internal.h"
#include <math.h>
#include <string.h>

enum flow_state { WAITING, LAUNCHING, FLOWING, LANDING, ENDED };
struct flow {
    uint32_t src, dst, stage;
    double left;      /* bytes */
    double rate, cap; /* bytes per ns; cap 0 = none */
    double at;        /* LAUNCHING: when bytes start; LANDING: when it has ended */
    uint64_t latency_ns;
    enum flow_state state;
    bool is_fixed; /* in the filling at hand */
    uint32_t n_ports, port[2 + 2 * MP_MAX_LEVELS];
};

/* What queues its transfers stand in: free = sender s and receiver n + r; coupled = rank; barrier = one. */
struct queues {
    uint32_t n;
    uint32_t *open;         /* [n][n_stages] transfers of that group which have not ended */
    uint32_t *stage;        /* [n] the group it is at, as an index in running order */
    double *since;          /* [n] when it came there */
    const double *come;     /* [n ranks] when each rank comes to its first group; NULL = at 0 */
    uint32_t *begin, *past; /* [n_stages] where the flows of a stage, in running order, lie in the list of all */
    uint32_t *reached;      /* [n] scratch: stages that queues have just come to */
};

static void queues_of(const struct flow *f, enum mp_stage_mode mode, uint32_t n, uint32_t q[2]) {
    q[0] = mode == MP_STAGE_BARRIER ? 0 : f->src;
    q[1] = mode == MP_STAGE_BARRIER ? 0 : mode == MP_STAGE_COUPLED ? f->dst : n + f->dst;
}

/* Capacity of a port now, in bytes per ns, with `k` flows through it. */
static double capacity(const struct mp_topology *t, uint32_t r, uint32_t k) {
    const struct mp_resource *port = &t->resources[r];
    const struct mp_level *level = &t->levels[port->level];
    double c = (double)port->bytes_per_s / 1e9;
    if (port->is_in && !port->is_uplink && level->n_incast > 0)
        c *= (double)level->incast_ppm[(k < level->n_incast ? k : level->n_incast) - 1] / 1e6;
    return c;
}

/* Scratch of one matrix. */
struct filling {
    uint32_t *active; /* [flows] those whose turn has come and that have not ended */
    uint32_t n_active;
    uint32_t *count, *first, *users, *stopped; /* [ports], [ports + 1], [flows * path], [flows] */
    double *room;                              /* [ports] */
    bool has_caps;
    bool is_listed; /* all at once: `users` was made at the start and holds the ended ones too */
};

static bool open_filling(struct filling *x, const struct vf_data *d, const struct flow *flows, uint32_t n) {
    uint32_t n_ports = d->v->topology->n_resources;
    size_t n_users = 0;
    for (uint32_t i = 0; i < n; i++)
        n_users += flows[i].n_ports;
    *x = (struct filling){.active = mp_calloc(n, sizeof *x->active),
                          .count = mp_calloc(n_ports, sizeof *x->count),
                          .first = mp_calloc((size_t)n_ports + 1, sizeof *x->first),
                          .users = mp_calloc(n_users, sizeof *x->users),
                          .stopped = mp_calloc(n, sizeof *x->stopped),
                          .room = mp_calloc(n_ports, sizeof *x->room)};
    if (x->active == NULL || x->count == NULL || x->first == NULL || x->users == NULL || x->stopped == NULL ||
        x->room == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        x->has_caps |= flows[i].cap > 0;
        if (flows[i].state == FLOWING || flows[i].state == LAUNCHING)
            x->active[x->n_active++] = i;
    }
    return true;
}

static void close_filling(struct filling *x) {
    mp_free(x->active);
    mp_free(x->count);
    mp_free(x->first);
    mp_free(x->users);
    mp_free(x->stopped);
    mp_free(x->room);
}

/* Which flows that are FLOWING use which port; how many there are in all. */
static uint32_t list_users(struct flow *flows, uint32_t n_ports, struct filling *x) {
    uint32_t n_loose = 0;
    memset(x->count, 0, n_ports * sizeof *x->count);
    for (uint32_t a = 0; a < x->n_active; a++) {
        struct flow *f = &flows[x->active[a]];
        f->is_fixed = f->state != FLOWING;
        n_loose += !f->is_fixed;
        for (uint32_t k = 0; k < f->n_ports && !f->is_fixed; k++)
            x->count[f->port[k]]++;
    }
    if (x->is_listed)
        return n_loose;
    x->first[0] = 0;
    for (uint32_t r = 0; r < n_ports; r++)
        x->first[r + 1] = x->first[r] + x->count[r];
    memset(x->count, 0, n_ports * sizeof *x->count);
    for (uint32_t a = 0; a < x->n_active; a++) {
        const struct flow *f = &flows[x->active[a]];
        for (uint32_t k = 0; k < f->n_ports && !f->is_fixed; k++)
            x->users[x->first[f->port[k]] + x->count[f->port[k]]++] = x->active[a];
    }
    return n_loose;
}

/* Max-min fair rates of the flows that are FLOWING. */
static void fill(struct vf_data *d, struct flow *flows, struct filling *x) {
    const struct mp_topology *t = d->v->topology;
    uint32_t *count = x->count, n_loose = list_users(flows, t->n_resources, x);
    double *room = x->room;
    for (uint32_t r = 0; r < t->n_resources; r++)
        room[r] = count[r] > 0 ? capacity(t, r, count[r]) : 0;
    d->n_operations += t->n_resources + x->n_active * (x->is_listed ? 1u : 4u);
    while (n_loose > 0) {
        /* The level at which the first port is full, or the first cap reached. */
        double level = INFINITY;
        uint32_t n_stopped = 0;
        for (uint32_t r = 0; r < t->n_resources; r++)
            if (count[r] > 0 && room[r] < level * count[r])
                level = room[r] / count[r];
        for (uint32_t a = 0; a < x->n_active && x->has_caps; a++) {
            const struct flow *f = &flows[x->active[a]];
            if (!f->is_fixed && f->cap > 0 && f->cap < level)
                level = f->cap;
        }
        /* Every port is judged at this level before any room changes. */
        for (uint32_t r = 0; r < t->n_resources; r++)
            for (uint32_t k = x->first[r];
                 count[r] > 0 && room[r] <= level * count[r] * (1 + 1e-13) && k < x->first[r + 1]; k++)
                if (!flows[x->users[k]].is_fixed) {
                    flows[x->users[k]].is_fixed = true;
                    x->stopped[n_stopped++] = x->users[k];
                }
        for (uint32_t a = 0; a < x->n_active && x->has_caps; a++) {
            struct flow *f = &flows[x->active[a]];
            if (!f->is_fixed && f->cap > 0 && f->cap <= level) {
                f->is_fixed = true;
                x->stopped[n_stopped++] = x->active[a];
            }
        }
        for (uint32_t i = 0; i < n_stopped; i++) {
            struct flow *f = &flows[x->stopped[i]];
            f->rate = level;
            for (uint32_t k = 0; k < f->n_ports; k++) {
                room[f->port[k]] -= level;
                count[f->port[k]]--;
            }
        }
        n_loose -= n_stopped;
        d->n_operations += t->n_resources + 4 * (uint64_t)n_stopped + (x->has_caps ? x->n_active : 0);
    }
}

static uint64_t round_up(double ns) {
    double up = ceil(ns - (ns * 1e-12 + 1e-6));
    return up <= 0 ? 0 : up >= 1.8e19 ? UINT64_MAX : (uint64_t)up;
}

/* Moves the flows of this stage whose turn has come to LAUNCHING. */
static void start_stage(struct vf_data *d, struct flow *flows, const struct queues *q, uint32_t stage,
                        enum mp_stage_mode mode, struct filling *x) {
    for (uint32_t i = q->begin[stage]; i < q->past[stage]; i++) {
        struct flow *f = &flows[i];
        uint32_t of[2];
        if (f->state != WAITING)
            continue;
        queues_of(f, mode, d->n, of);
        if (q->stage[of[0]] != stage || q->stage[of[1]] != stage)
            continue;
        f->at = fmax(q->since[of[0]], q->since[of[1]]) + (double)d->v->topology->stage_launch_ns;
        f->state = LAUNCHING;
        x->active[x->n_active++] = i;
    }
    d->n_operations += q->past[stage] - q->begin[stage];
}

/* Queues whose group is over move on to their next group that is not empty; its flows may start. */
static void advance(struct vf_data *d, struct flow *flows, struct queues *q, uint32_t n_stages, enum mp_stage_mode mode,
                    double now, struct filling *x) {
    uint32_t n_reached = 0;
    for (uint32_t k = 0; k < q->n; k++) {
        bool has_moved = now == 0; /* at the start all queues come to their first group */
        while (q->stage[k] < n_stages && q->open[(size_t)k * n_stages + q->stage[k]] == 0) {
            q->stage[k]++;
            has_moved = true;
        }
        const double come = q->come != NULL ? q->come[k % d->n] : 0;
        if (has_moved)
            q->since[k] = come > now ? come : now;
        bool is_known = !has_moved || q->stage[k] == n_stages;
        for (uint32_t i = 0; i < n_reached && !is_known; i++)
            is_known = q->reached[i] == q->stage[k];
        if (!is_known)
            q->reached[n_reached++] = q->stage[k];
    }
    for (uint32_t i = 0; i < n_reached; i++)
        start_stage(d, flows, q, q->reached[i], mode, x);
    d->n_operations += q->n;
}

/* What happens to one active flow at `next`. True when it has ended. */
static bool pass_event(struct flow *f, double now, double next, double near, bool is_staged) {
    if (f->state == FLOWING && now + f->left / f->rate <= near) {
        f->state = LANDING;
        f->at = next + (double)f->latency_ns;
    } else if (f->state == FLOWING) {
        f->left -= f->rate * (next - now);
    } else if (f->state == LAUNCHING && f->at <= near) {
        f->state = FLOWING;
    }
    if (f->state != LANDING || (is_staged && f->at > near))
        return false;
    f->state = ENDED;
    f->is_fixed = true;
    return true;
}

/* Runs all flows to their end. n_stages 0: all at once, or gone given each from when its ends have come. gone[ranks]:
 * when each rank's last flow ended, if that is after what it was. Returns false when d->n_operations passed
 * d->operations_max. */
static bool run(struct vf_data *d, struct flow *flows, uint32_t n, struct queues *q, uint32_t n_stages,
                enum mp_stage_mode mode, struct filling *x, double *gone, double *end_ns) {
    double now = 0;
    uint32_t n_left = n;
    *end_ns = 0;
    if (n_stages > 0)
        advance(d, flows, q, n_stages, mode, 0, x);
    while (n_left > 0) {
        fill(d, flows, x);
        x->is_listed = n_stages == 0 && gone == NULL;
        double next = INFINITY;
        for (uint32_t a = 0; a < x->n_active; a++) {
            const struct flow *f = &flows[x->active[a]];
            double at = f->state == FLOWING ? now + f->left / f->rate : f->at;
            next = at < next ? at : next;
        }
        if (next == INFINITY)
            return false;                         /* nothing moves: cannot happen with queues in stage order */
        double near = next + next * 1e-13 + 1e-9; /* events this close are one */
        uint32_t kept = 0, n_before = x->n_active;
        for (uint32_t a = 0; a < n_before; a++) {
            struct flow *f = &flows[x->active[a]];
            uint32_t of[2];
            if (!pass_event(f, now, next, near, n_stages > 0)) {
                x->active[kept++] = x->active[a];
                continue;
            }
            n_left--;
            /* All at once: each flow's bytes are rounded by themselves, then its latency added. */
            double end = n_stages == 0 ? (double)round_up(next) + (double)f->latency_ns : f->at;
            *end_ns = end > *end_ns ? end : *end_ns;
            for (int side = 0; side < 2 && gone != NULL; side++) {
                double *g = &gone[side == 0 ? f->src : f->dst];
                *g = end > *g ? end : *g;
            }
            if (n_stages == 0)
                continue;
            queues_of(f, mode, d->n, of);
            q->open[(size_t)of[0] * n_stages + f->stage]--;
            if (of[1] != of[0])
                q->open[(size_t)of[1] * n_stages + f->stage]--;
        }
        x->n_active = kept;
        now = next;
        if (kept < n_before && n_stages > 0)
            advance(d, flows, q, n_stages, mode, now, x);
        d->n_operations += 3 * (uint64_t)n_before;
        if (d->n_operations > d->operations_max)
            return false;
    }
    return true;
}

static void add_flow(const struct vf_data *d, struct flow *f, uint32_t src, uint32_t dst, uint64_t bytes,
                     uint32_t stage, uint64_t cap) {
    struct mp_path path = vf_path(d, src, dst);
    *f = (struct flow){.src = src,
                       .dst = dst,
                       .stage = stage,
                       .left = (double)bytes,
                       .latency_ns = path.latency_ns,
                       .n_ports = path.n,
                       .state = stage == MP_NONE ? FLOWING : WAITING};
    uint64_t least = path.cap_bytes_per_s == 0                ? cap
                     : cap == 0 || path.cap_bytes_per_s < cap ? path.cap_bytes_per_s
                                                              : cap;
    f->cap = (double)least / 1e9;
    memcpy(f->port, path.resource, path.n * sizeof *f->port);
}

/* Clocks as times from the earliest of them on, in come[n]; gone[n] begins as the same. */
static uint64_t begin_clocks(const struct vf_data *d, const uint64_t *clock, double *come) {
    uint64_t base = clock[0];
    for (uint32_t g = 1; g < d->n; g++)
        base = clock[g] < base ? clock[g] : base;
    for (uint32_t g = 0; g < d->n; g++)
        come[g] = come[d->n + g] = (double)(clock[g] - base);
    return base;
}
static void end_clocks(const struct vf_data *d, uint64_t *clock, uint64_t base, const double *gone) {
    for (uint32_t g = 0; g < d->n; g++) {
        const uint64_t at = base + round_up(gone[g]);
        clock[g] = at > clock[g] ? at : clock[g];
    }
}

enum mp_status vf_concurrent_ns(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed,
                                uint64_t *clock, uint64_t *out_ns, bool *is_done, struct mp_error *err) {
    size_t n_cells = (size_t)d->n * d->n;
    uint32_t n = 0;
    *out_ns = 0;
    *is_done = true;
    for (size_t i = 0; i < n_cells; i++)
        n += copies[i] > 0 && bytes > 0;
    if (n == 0)
        return MP_OK;
    struct flow *flows = mp_calloc(n, sizeof *flows);
    double *come = mp_calloc(2 * (size_t)d->n, sizeof *come);
    struct filling x = {0};
    double end = 0;
    uint64_t base = 0;
    enum mp_status status = MP_OK;
    if (flows == NULL || come == NULL) {
        status = mp_nomem(err, "verifying a plan");
    } else {
        base = clock != NULL ? begin_clocks(d, clock, come) : 0;
        n = 0;
        for (uint32_t i = 0; i < d->n; i++)
            for (uint32_t j = 0; j < d->n; j++)
                if (copies[(size_t)i * d->n + j] > 0)
                    add_flow(d, &flows[n++], is_reversed ? j : i, is_reversed ? i : j,
                             copies[(size_t)i * d->n + j] * bytes, MP_NONE, 0);
        for (uint32_t i = 0; i < n && clock != NULL; i++) {
            flows[i].state = LAUNCHING;
            flows[i].at = fmax(come[flows[i].src], come[flows[i].dst]);
        }
        if (!open_filling(&x, d, flows, n))
            status = mp_nomem(err, "verifying a plan");
        else
            *is_done = run(d, flows, n, NULL, 0, MP_STAGE_FREE, &x, clock != NULL ? come + d->n : NULL, &end);
        *out_ns = round_up(end);
        if (clock != NULL && status == MP_OK)
            end_clocks(d, clock, base, come + d->n);
    }
    mp_free(flows);
    mp_free(come);
    close_filling(&x);
    return status;
}

/* floor(a * b / c): what has been sent of a flow after a cumulative share of a / c. */
static uint64_t cut(uint64_t bytes, uint64_t share, uint64_t unit) {
    return (uint64_t)((unsigned __int128)bytes * share / unit);
}

/* What the order caps a transfer at; 0 = nothing. */
static uint64_t cap_of(const struct mp_order *o, uint32_t stage, const struct mp_transfer *t) {
    unsigned __int128 cap = (unsigned __int128)o->port_bytes_per_s * t->width;
    return (o->has_flush && stage + 1 == o->n_stages) || cap > UINT64_MAX ? 0 : (uint64_t)cap;
}

/* Lists the pieces of the order; with flows NULL only counts them. sent[n][n]: shares so far. */
static uint32_t list_pieces(const struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                            const uint64_t *copies, uint64_t bytes, uint64_t *sent, struct flow *flows) {
    uint32_t n = 0;
    memset(sent, 0, (size_t)d->n * d->n * sizeof *sent);
    for (uint32_t s = 0; s < o->n_stages; s++)
        for (uint32_t i = 0; i < o->stages[s].n; i++) {
            const struct mp_transfer *t = &o->stages[s].transfers[i];
            /* `copies` is the dispatch matrix. A reversed or swapped combine sends dst -> src what the dispatch sent
             * src -> dst; one that runs forward sends src -> dst what the dispatch sent dst -> src. */
            const bool is_swapped = way != MP_COMBINE_FORWARD, is_other = is_combine && !is_swapped;
            uint64_t size =
                (is_other ? copies[(size_t)t->dst * d->n + t->src] : copies[(size_t)t->src * d->n + t->dst]) * bytes;
            uint64_t *share = &sent[(size_t)t->src * d->n + t->dst];
            uint64_t piece = cut(size, *share + t->share, o->unit) - cut(size, *share, o->unit);
            *share += t->share;
            if (piece == 0 || t->src == t->dst)
                continue;
            if (flows != NULL)
                add_flow(d, &flows[n], is_swapped ? t->dst : t->src, is_swapped ? t->src : t->dst, piece,
                         way == MP_COMBINE_REVERSED ? o->n_stages - 1 - s : s, cap_of(o, s, t));
            n++;
        }
    return n;
}

enum mp_status vf_staged_ns(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                            const uint64_t *copies, uint64_t bytes, uint64_t *clock, uint64_t *out_ns, bool *is_done,
                            struct mp_error *err) {
    enum mp_stage_mode mode = d->v->plan->stage_mode;
    struct queues q = {.n = mode == MP_STAGE_BARRIER ? 1 : mode == MP_STAGE_COUPLED ? d->n : 2 * d->n};
    uint64_t *sent = mp_calloc((size_t)d->n * d->n, sizeof *sent);
    double *come = mp_calloc(2 * (size_t)d->n, sizeof *come);
    struct flow *flows = NULL;
    struct filling x = {0};
    uint32_t n = 0;
    double end = 0;
    uint64_t base = 0;
    enum mp_status status = MP_OK;
    *out_ns = 0;
    *is_done = true;
    q.open = mp_calloc((size_t)q.n * o->n_stages, sizeof *q.open);
    q.stage = mp_calloc(q.n, sizeof *q.stage);
    q.since = mp_calloc(q.n, sizeof *q.since);
    q.reached = mp_calloc(q.n, sizeof *q.reached);
    q.begin = mp_calloc(o->n_stages, sizeof *q.begin);
    q.past = mp_calloc(o->n_stages, sizeof *q.past);
    if (sent != NULL) {
        n = list_pieces(d, o, is_combine, way, copies, bytes, sent, NULL);
        flows = mp_calloc(n, sizeof *flows);
    }
    if (sent == NULL || come == NULL || flows == NULL || q.open == NULL || q.stage == NULL || q.since == NULL ||
        q.reached == NULL || q.begin == NULL || q.past == NULL) {
        status = mp_nomem(err, "verifying a plan");
        goto out;
    }
    list_pieces(d, o, is_combine, way, copies, bytes, sent, flows);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t of[2], s = flows[i].stage;
        q.begin[s] = q.past[s] == 0 ? i : q.begin[s]; /* a stage's flows are listed together */
        q.past[s] = i + 1;
        queues_of(&flows[i], mode, d->n, of);
        q.open[(size_t)of[0] * o->n_stages + flows[i].stage]++;
        if (of[1] != of[0])
            q.open[(size_t)of[1] * o->n_stages + flows[i].stage]++;
    }
    if (!open_filling(&x, d, flows, n)) {
        status = mp_nomem(err, "verifying a plan");
        goto out;
    }
    if (clock != NULL) {
        base = begin_clocks(d, clock, come);
        q.come = come;
    }
    *is_done = run(d, flows, n, &q, o->n_stages, mode, &x, clock != NULL ? come + d->n : NULL, &end);
    *out_ns = round_up(end);
    if (clock != NULL)
        end_clocks(d, clock, base, come + d->n);
out:
    mp_free(sent);
    mp_free(come);
    mp_free(flows);
    close_filling(&x);
    mp_free(q.open);
    mp_free(q.stage);
    mp_free(q.since);
    mp_free(q.reached);
    mp_free(q.begin);
    mp_free(q.past);
    return status;
}
