/* The optimal split of tokens over replicas, linear form.
 *
 * Decides   how many rows of each (expert, source class) each replica computes, placement and loads given.
 * Minimises the peak: the longest time of a GPU, rows times its time per row, so that unequal GPUs get what they can
 *           do; then rows that leave their node; then rows that leave their GPU.
 * Method    the peak by maximum flow from experts to GPUs with Newton's (Dinkelbach's) search: every limit tried is a
 *           lower bound, the cut that shows it is too low gives the next one, and the flow so far is kept. Then
 *           successive shortest paths over GPUs, in phases of equal length, from the split in which every row goes to
 *           its nearest replica. Classes that see the replicas of an expert alike (own GPU, own node, elsewhere) are
 *           one supply: an expert with r replicas has at most 2r + 1 of them, however many sources there are.
 * Bound     exact, in whole rows.
 * Differs   LPLB (DeepSeek) solves a linear program of a fixed replica graph per batch by an interior-point method and
 *           balances rows alone; here any placement, unequal GPUs, and traffic second.
 * Cost      0.14 ms per layer of 64 GPUs, 256 experts, 320 slots (tools/bench/bench_split.c). */
#include "split.h"
#include <moeplan/base.h>
#include <string.h>

#define TIME_MAX (UINT64_C(1) << 62)
#define NO_HOST UINT32_MAX

/* A GPU that holds a replicated expert; several slots of it there are one, the first, which gets all the rows. */
struct host {
    uint32_t expert; /* index into `replicated` */
    uint32_t gpu, slot;
    uint64_t flow; /* rows of all groups, while the peak is searched */
    bool is_closed;
};
/* Sources that see the hosts of an expert alike. */
struct group {
    uint64_t rows;
    uint32_t cells; /* first of its n_hosts cells */
};
/* An expert on more than one GPU. */
struct replicated {
    uint32_t expert;
    uint32_t first_host, n_hosts;
    uint32_t first_group, n_groups; /* one per host's GPU, one per node of hosts, and the rest */
    uint64_t rows;
};
struct mp_splitter {
    struct mp_split_problem p;
    uint32_t n_replicated, n_hosts;
    struct replicated *replicated;
    struct host *hosts;
    struct group *groups;
    uint16_t *group_of;   /* [n_replicated][n_classes], from the expert's first */
    uint64_t *flow;       /* cells: rows of a group on a host */
    int64_t *cost;        /* cells: of one row */
    uint32_t *gpu_first;  /* [n_gpus + 1] into gpu_hosts */
    uint32_t *gpu_hosts;  /* [n_hosts] */
    uint32_t *first_slot; /* [n_experts] lowest slot, MP_NONE without */
    uint8_t *has_twin;    /* [n_experts] has several slots */
    uint64_t *base;       /* [n_gpus] rows of experts on that GPU alone */
    uint64_t base_inter, base_intra;
    uint64_t peak_ps;
    bool has_peak;
    /* scratch of searches over GPUs */
    uint64_t *room, *excess;
    int64_t *dist;
    uint32_t *queue, *from; /* the GPU before on a path */
    uint32_t *via, *out_of; /* the host by which a path comes, and the one it leaves the GPU before by */
    uint16_t *mark;
    int64_t *carry; /* [most hosts of an expert] */
    uint64_t *rest; /* the same */
};

static uint64_t fixed_of(const struct mp_splitter *s, uint32_t gpu) {
    return s->p.fixed_ps != NULL ? s->p.fixed_ps[gpu] : 0;
}

/* ---- preparing ---- */
static bool is_too_long(const struct mp_split_problem *p) {
    uint64_t sum = 0, slowest = 0, time;
    for (size_t i = 0; i < (size_t)p->n_classes * p->n_experts; i++)
        if (mp_add_overflow(sum, p->rows[i], &sum))
            return true;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slowest = p->row_ps[g] > slowest ? p->row_ps[g] : slowest;
    if (mp_mul_overflow(sum, slowest, &time) || time >= TIME_MAX / 2)
        return true;
    for (uint32_t g = 0; p->fixed_ps != NULL && g < p->n_gpus; g++)
        if (p->fixed_ps[g] >= TIME_MAX / 2)
            return true;
    return false;
}

static bool allocate(struct mp_splitter *s, struct mp_arena *arena) {
    const struct mp_split_problem *p = &s->p;
    s->hosts = mp_arena_alloc(arena, p->n_slots, sizeof *s->hosts);
    s->replicated = mp_arena_alloc(arena, p->n_experts, sizeof *s->replicated);
    s->first_slot = mp_arena_alloc(arena, p->n_experts, sizeof *s->first_slot);
    s->has_twin = mp_arena_alloc(arena, p->n_experts, sizeof *s->has_twin);
    s->gpu_first = mp_arena_alloc(arena, p->n_gpus + 1, sizeof *s->gpu_first);
    s->gpu_hosts = mp_arena_alloc(arena, p->n_slots, sizeof *s->gpu_hosts);
    s->base = mp_arena_alloc(arena, p->n_gpus, sizeof *s->base);
    s->room = mp_arena_alloc(arena, p->n_gpus, sizeof *s->room);
    s->excess = mp_arena_alloc(arena, p->n_gpus, sizeof *s->excess);
    s->dist = mp_arena_alloc(arena, p->n_gpus, sizeof *s->dist);
    s->queue = mp_arena_alloc(arena, p->n_gpus, sizeof *s->queue);
    s->via = mp_arena_alloc(arena, p->n_gpus, sizeof *s->via);
    s->out_of = mp_arena_alloc(arena, p->n_gpus, sizeof *s->out_of);
    s->from = mp_arena_alloc(arena, p->n_gpus, sizeof *s->from);
    s->mark = mp_arena_alloc(arena, p->n_gpus, sizeof *s->mark);
    return s->hosts != NULL && s->replicated != NULL && s->first_slot != NULL && s->has_twin != NULL &&
           s->gpu_first != NULL && s->gpu_hosts != NULL && s->base != NULL && s->room != NULL && s->excess != NULL &&
           s->dist != NULL && s->queue != NULL && s->from != NULL && s->via != NULL && s->out_of != NULL &&
           s->mark != NULL;
}

/* Hosts of all experts by counting; an expert on one GPU leaves no host. */
static bool list_hosts(struct mp_splitter *s, struct mp_arena *arena) {
    const struct mp_split_problem *p = &s->p;
    uint32_t *first = mp_arena_alloc(arena, p->n_experts + 1, sizeof *first);
    uint32_t *slots = mp_arena_alloc(arena, p->n_slots, sizeof *slots);
    if (first == NULL || slots == NULL)
        return false;
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->slot_expert[i] < p->n_experts)
            first[p->slot_expert[i] + 1]++;
    for (uint32_t e = 0; e < p->n_experts; e++)
        first[e + 1] += first[e];
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->slot_expert[i] < p->n_experts)
            slots[first[p->slot_expert[i]]++] = i;
    for (uint32_t e = 0, from = 0; e < p->n_experts; e++) { /* first[e] is now where e ends */
        const uint32_t to = first[e], before = s->n_hosts;
        s->first_slot[e] = to > from ? slots[from] : MP_NONE;
        s->has_twin[e] = to > from + 1;
        for (uint32_t i = from; i < to; i++) {
            bool is_new = true;
            for (uint32_t h = before; h < s->n_hosts && is_new; h++)
                is_new = s->hosts[h].gpu != p->slot_gpu[slots[i]];
            if (is_new)
                s->hosts[s->n_hosts++] = (struct host){s->n_replicated, p->slot_gpu[slots[i]], slots[i], 0};
        }
        from = to;
        if (s->n_hosts - before < 2)
            s->n_hosts = before;
        else
            s->replicated[s->n_replicated++] =
                (struct replicated){.expert = e, .first_host = before, .n_hosts = s->n_hosts - before};
    }
    for (uint32_t h = 0; h < s->n_hosts; h++)
        s->gpu_first[s->hosts[h].gpu + 1]++;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        s->gpu_first[g + 1] += s->gpu_first[g];
    for (uint32_t h = 0; h < s->n_hosts; h++)
        s->gpu_hosts[s->gpu_first[s->hosts[h].gpu]++] = h;
    memmove(s->gpu_first + 1, s->gpu_first, p->n_gpus * sizeof *s->gpu_first);
    s->gpu_first[0] = 0;
    return true;
}

static bool is_replicated(const struct mp_splitter *s, uint32_t expert, uint32_t *next) {
    while (*next < s->n_replicated && s->replicated[*next].expert < expert)
        ++*next;
    return *next < s->n_replicated && s->replicated[*next].expert == expert;
}

/* Rows that have no choice. */
static void add_base(struct mp_splitter *s) {
    const struct mp_split_problem *p = &s->p;
    for (uint32_t e = 0, next = 0; e < p->n_experts; e++) {
        if (s->first_slot[e] == MP_NONE || is_replicated(s, e, &next))
            continue;
        const uint32_t gpu = p->slot_gpu[s->first_slot[e]];
        for (uint32_t c = 0; c < p->n_classes; c++) {
            const uint64_t n = p->rows[(size_t)c * p->n_experts + e];
            s->base[gpu] += n;
            if (p->class_node[c] != p->gpu_node[gpu])
                s->base_inter += n;
            else if (p->class_gpu != NULL && p->class_gpu[c] != gpu)
                s->base_intra += n;
        }
    }
}

static int64_t inter_cost(const struct mp_splitter *s) {
    return 2 * (int64_t)s->p.n_gpus + 2; /* more than a path of moves inside nodes can make up for */
}

/* Groups of an expert: 0 .. n-1 the GPUs of its hosts, then their nodes, then everywhere else. node_group: the group of
 * a host's node, from n. */
static bool make_groups(struct mp_splitter *s, struct mp_arena *arena) {
    const struct mp_split_problem *p = &s->p;
    size_t n_groups = 0, n_cells = 0, most = 1;
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const size_t n = s->replicated[x].n_hosts;
        n_groups += 2 * n + 1;
        n_cells += (2 * n + 1) * n;
        most = n > most ? n : most;
    }
    uint32_t *nodes = mp_arena_alloc(arena, most, sizeof *nodes);
    s->groups = mp_arena_alloc(arena, n_groups, sizeof *s->groups);
    s->flow = mp_arena_alloc(arena, n_cells, sizeof *s->flow);
    s->cost = mp_arena_alloc(arena, n_cells, sizeof *s->cost);
    s->group_of = mp_arena_alloc(arena, (size_t)s->n_replicated * p->n_classes, sizeof *s->group_of);
    s->carry = mp_arena_alloc(arena, most, sizeof *s->carry);
    s->rest = mp_arena_alloc(arena, most, sizeof *s->rest);
    if (nodes == NULL || s->groups == NULL || s->flow == NULL || s->cost == NULL || s->group_of == NULL ||
        s->carry == NULL || s->rest == NULL)
        return false;
    uint32_t group = 0, cell = 0;
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        struct replicated *r = &s->replicated[x];
        const struct host *h = s->hosts + r->first_host;
        uint32_t n_nodes = 0;
        for (uint32_t i = 0; i < r->n_hosts; i++) {
            uint32_t k = 0;
            while (k < n_nodes && nodes[k] != p->gpu_node[h[i].gpu])
                k++;
            if (k == n_nodes)
                nodes[n_nodes++] = p->gpu_node[h[i].gpu];
        }
        r->first_group = group;
        r->n_groups = r->n_hosts + n_nodes + 1;
        for (uint32_t k = 0; k < r->n_groups; k++, cell += r->n_hosts) {
            s->groups[group + k].cells = cell;
            for (uint32_t i = 0; i < r->n_hosts; i++) {
                const uint32_t node = p->gpu_node[h[i].gpu];
                const uint32_t of = k < r->n_hosts             ? p->gpu_node[h[k].gpu]
                                    : k < r->n_hosts + n_nodes ? nodes[k - r->n_hosts]
                                                               : MP_NONE;
                s->cost[cell + i] = of != node ? inter_cost(s) : i == k ? 0 : 1;
            }
        }
        for (uint32_t c = 0; c < p->n_classes; c++) {
            uint32_t k = p->class_gpu != NULL ? 0 : r->n_hosts;
            while (k < r->n_hosts && h[k].gpu != p->class_gpu[c])
                k++;
            if (k == r->n_hosts)
                while (k < r->n_hosts + n_nodes && nodes[k - r->n_hosts] != p->class_node[c])
                    k++;
            s->group_of[(size_t)x * p->n_classes + c] = (uint16_t)k;
            const uint64_t n = p->rows[(size_t)c * p->n_experts + r->expert];
            s->groups[group + k].rows += n;
            r->rows += n;
        }
        group += r->n_groups;
    }
    return true;
}

enum mp_status mp_split_new(struct mp_splitter **out, const struct mp_split_problem *problem, struct mp_arena *arena,
                            struct mp_error *err) {
    *out = NULL;
    if (is_too_long(problem))
        return mp_fail(err, MP_EUSAGE,
                       "splitting tokens over replicas: the rows of a layer could take more than 53 days");
    struct mp_splitter *s = mp_arena_alloc(arena, 1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "splitting tokens over replicas");
    s->p = *problem;
    if (!allocate(s, arena) || !list_hosts(s, arena) || !make_groups(s, arena))
        return mp_nomem(err, "splitting tokens over replicas");
    add_base(s);
    *out = s;
    return MP_OK;
}

/* ---- the peak ---- */
/* Rows that a GPU can compute within `limit`. */
static uint64_t rows_within(const struct mp_splitter *s, uint32_t gpu, uint64_t limit) {
    const uint64_t fixed = fixed_of(s, gpu);
    return limit > fixed ? (limit - fixed) / s->p.row_ps[gpu] : 0;
}

static void set_room(struct mp_splitter *s, uint64_t limit) {
    for (uint32_t g = 0; g < s->p.n_gpus; g++) {
        const uint64_t rows = rows_within(s, g, limit);
        uint64_t used = s->base[g];
        for (uint32_t i = s->gpu_first[g]; i < s->gpu_first[g + 1]; i++)
            used += s->hosts[s->gpu_hosts[i]].flow;
        s->room[g] = rows > used ? rows - used : 0;
    }
}

/* Can the marked GPUs compute `rows` and what is theirs alone within `limit`? */
static bool can_hold(const struct mp_splitter *s, uint64_t limit, uint64_t rows) {
    uint64_t sum = 0;
    for (uint32_t g = 0; g < s->p.n_gpus && sum < rows; g++) {
        const uint64_t n = s->mark[g] != 0 ? rows_within(s, g, limit) : 0;
        sum += n > s->base[g] ? n - s->base[g] : 0;
    }
    return sum >= rows;
}

/* The least limit above `limit`, which is too low, within which they can. */
static uint64_t least_limit(const struct mp_splitter *s, uint64_t limit, uint64_t rows) {
    double inverse = 0, sum = (double)rows;
    uint64_t low = limit, high, slack = 1;
    for (uint32_t g = 0; g < s->p.n_gpus; g++) {
        if (s->mark[g] == 0)
            continue;
        const double each = (double)s->p.row_ps[g];
        inverse += 1 / each;
        sum += (double)s->base[g] + (double)fixed_of(s, g) / each;
        slack = s->p.row_ps[g] > slack ? s->p.row_ps[g] : slack;
    }
    /* Rounding down loses less than a row on each GPU: the answer is within the slowest row of this. A guess that is
     * off costs time alone. */
    const double guess = sum / inverse * (1 - 1e-12) - 1;
    const uint64_t from = guess >= 1e18 ? (uint64_t)1 << 59 : guess < 1 ? 1 : (uint64_t)guess;
    if (from > low && !can_hold(s, from, rows))
        low = from;
    high = low + slack;
    for (; !can_hold(s, high, rows); slack *= 2) {
        low = high;
        high = high + slack < TIME_MAX ? high + slack : TIME_MAX;
    }
    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        if (can_hold(s, middle, rows))
            high = middle;
        else
            low = middle;
    }
    return high;
}

static void visit(struct mp_splitter *s, uint32_t *n, uint32_t host, uint32_t out_of) {
    const uint32_t gpu = s->hosts[host].gpu;
    if (s->mark[gpu] != 0 || s->hosts[host].is_closed)
        return;
    s->mark[gpu] = 1;
    s->via[gpu] = host;
    s->out_of[gpu] = out_of;
    s->queue[(*n)++] = gpu;
}

/* A shortest path from the expert to a GPU with room; MP_NONE: the marked GPUs are all it can reach, and full. */
static uint32_t find_room(struct mp_splitter *s, const struct replicated *r) {
    uint32_t n = 0;
    memset(s->mark, 0, s->p.n_gpus * sizeof *s->mark);
    for (uint32_t i = 0; i < r->n_hosts; i++)
        visit(s, &n, r->first_host + i, NO_HOST);
    for (uint32_t at = 0; at < n; at++) {
        const uint32_t gpu = s->queue[at];
        if (s->room[gpu] > 0)
            return gpu;
        for (uint32_t i = s->gpu_first[gpu]; i < s->gpu_first[gpu + 1]; i++) {
            const uint32_t host = s->gpu_hosts[i];
            const struct replicated *other = &s->replicated[s->hosts[host].expert];
            for (uint32_t j = 0; s->hosts[host].flow > 0 && j < other->n_hosts; j++)
                visit(s, &n, other->first_host + j, host);
        }
    }
    return MP_NONE;
}

static uint64_t send(struct mp_splitter *s, uint32_t gpu, uint64_t rows) {
    uint64_t n = s->room[gpu] < rows ? s->room[gpu] : rows;
    for (uint32_t g = gpu; s->out_of[g] != NO_HOST; g = s->hosts[s->out_of[g]].gpu)
        n = s->hosts[s->out_of[g]].flow < n ? s->hosts[s->out_of[g]].flow : n;
    s->room[gpu] -= n;
    for (uint32_t g = gpu;;) {
        const uint32_t out_of = s->out_of[g];
        s->hosts[s->via[g]].flow += n;
        if (out_of == NO_HOST)
            return n;
        s->hosts[out_of].flow -= n;
        g = s->hosts[out_of].gpu;
    }
}

/* UINT64_MAX: the peak is above give_up. */
static uint64_t find_peak(struct mp_splitter *s, uint64_t give_up) {
    uint64_t limit = 0, rows = 0;
    for (uint32_t h = 0; h < s->n_hosts; h++)
        s->hosts[h].flow = 0;
    for (uint32_t g = 0; g < s->p.n_gpus; g++) {
        const uint64_t time = fixed_of(s, g) + s->base[g] * s->p.row_ps[g];
        limit = time > limit ? time : limit;
        s->mark[g] = 1;
    }
    for (uint32_t x = 0; x < s->n_replicated; x++)
        rows += s->replicated[x].rows;
    if (!can_hold(s, limit, rows)) /* also when all of them share it out */
        limit = least_limit(s, limit, rows);
    set_room(s, limit);
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        for (uint64_t left = r->rows; left > 0;) {
            const uint32_t gpu = find_room(s, r);
            if (limit > give_up)
                return UINT64_MAX; /* no limit tried is above the peak */
            if (gpu != MP_NONE) {
                left -= send(s, gpu, left);
                continue;
            }
            uint64_t held = left; /* what the reached experts need of the reached GPUs: a cut */
            for (uint32_t h = 0; h < s->n_hosts; h++)
                held += s->mark[s->hosts[h].gpu] != 0 ? s->hosts[h].flow : 0;
            limit = least_limit(s, limit, held);
            set_room(s, limit);
        }
    }
    return limit > give_up ? UINT64_MAX : limit;
}

uint64_t mp_split_peak(struct mp_splitter *s) {
    if (!s->has_peak) {
        for (uint32_t h = 0; h < s->n_hosts; h++)
            s->hosts[h].is_closed = false;
        s->peak_ps = find_peak(s, UINT64_MAX);
        s->has_peak = true;
    }
    return s->peak_ps;
}

uint64_t mp_split_peak_open(struct mp_splitter *s, const bool *is_open, uint64_t give_up_ps) {
    for (uint32_t h = 0; h < s->n_hosts; h++)
        s->hosts[h].is_closed = !is_open[s->hosts[h].slot];
    return find_peak(s, give_up_ps);
}

/* ---- the fewest copies within a limit ---- */
/* Every row to its nearest replicas, evenly. */
static void send_nearest(struct mp_splitter *s) {
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        for (uint32_t k = 0; k < r->n_groups; k++) {
            const struct group *group = &s->groups[r->first_group + k];
            uint32_t n = 0, at = 0;
            int64_t least = INT64_MAX;
            for (uint32_t i = 0; i < r->n_hosts; i++) {
                const int64_t cost = s->cost[group->cells + i];
                n = cost < least ? 1 : n + (cost == least);
                least = cost < least ? cost : least;
            }
            for (uint32_t i = 0; i < r->n_hosts; i++) {
                const bool is_near = s->cost[group->cells + i] == least;
                s->flow[group->cells + i] = is_near ? group->rows / n + (at < group->rows % n) : 0;
                at += is_near;
            }
        }
    }
}

/* A row of a group goes from one host of its expert to another. */
struct move {
    uint32_t from_cell, to_cell, to_gpu;
    int64_t cost;
};
/* All moves that rows on a GPU can make. */
struct moves {
    uint32_t at, end, group, host;
};
static struct moves moves_from(const struct mp_splitter *s, uint32_t gpu) {
    return (struct moves){s->gpu_first[gpu], s->gpu_first[gpu + 1], 0, 0};
}
static bool next_move(const struct mp_splitter *s, struct moves *m, struct move *out) {
    for (; m->at < m->end; m->at++, m->group = 0) {
        const uint32_t host = s->gpu_hosts[m->at];
        const struct replicated *r = &s->replicated[s->hosts[host].expert];
        const uint32_t i = host - r->first_host;
        for (; m->group < r->n_groups; m->group++, m->host = 0) {
            const uint32_t cells = s->groups[r->first_group + m->group].cells;
            if (s->flow[cells + i] == 0)
                continue;
            m->host += m->host == i;
            if (m->host >= r->n_hosts)
                continue;
            const uint32_t j = m->host++;
            *out = (struct move){cells + i, cells + j, s->hosts[r->first_host + j].gpu,
                                 s->cost[cells + j] - s->cost[cells + i]};
            return true;
        }
    }
    return false;
}

/* Least cost of bringing a row from any GPU with too many to each; the least of those with room. */
static int64_t find_distances(struct mp_splitter *s) {
    const uint32_t n_gpus = s->p.n_gpus;
    uint32_t head = 0, n = 0;
    for (uint32_t g = 0; g < n_gpus; g++) {
        s->mark[g] = s->excess[g] > 0; /* is in the queue */
        s->dist[g] = s->excess[g] > 0 ? 0 : INT64_MAX;
        if (s->excess[g] > 0)
            s->queue[n++] = g;
    }
    for (; n > 0; n--) {
        const uint32_t gpu = s->queue[head];
        head = head + 1 == n_gpus ? 0 : head + 1;
        s->mark[gpu] = 0;
        struct move move;
        for (struct moves m = moves_from(s, gpu); next_move(s, &m, &move);) {
            const int64_t d = s->dist[gpu] + move.cost;
            if (d >= s->dist[move.to_gpu])
                continue;
            s->dist[move.to_gpu] = d;
            if (s->mark[move.to_gpu] != 0)
                continue;
            s->mark[move.to_gpu] = 1;
            s->queue[(head + n++ - 1) % n_gpus] = move.to_gpu; /* this one still counts in n */
        }
    }
    int64_t least = INT64_MAX;
    for (uint32_t g = 0; g < n_gpus; g++)
        least = s->room[g] > 0 && s->dist[g] < least ? s->dist[g] : least;
    return least;
}

/* A path of moves that keep to the distances, from GPUs with too many to one with room at `least`; MP_NONE: none left.
 * via[g]: the cell of the GPU before that a row leaves; out_of[g]: the one it comes to. */
static uint32_t find_path(struct mp_splitter *s, int64_t least) {
    uint32_t n = 0;
    for (uint32_t g = 0; g < s->p.n_gpus; g++) {
        s->mark[g] = s->excess[g] > 0;
        if (s->excess[g] > 0) {
            s->from[g] = MP_NONE;
            s->queue[n++] = g;
        }
    }
    for (uint32_t at = 0; at < n; at++) {
        const uint32_t gpu = s->queue[at];
        if (s->room[gpu] > 0 && s->dist[gpu] == least)
            return gpu;
        struct move move;
        for (struct moves m = moves_from(s, gpu); next_move(s, &m, &move);) {
            const uint32_t to = move.to_gpu;
            if (s->mark[to] != 0 || s->dist[to] != s->dist[gpu] + move.cost)
                continue;
            s->mark[to] = 1;
            s->via[to] = move.from_cell;
            s->out_of[to] = move.to_cell;
            s->from[to] = gpu;
            s->queue[n++] = to;
        }
    }
    return MP_NONE;
}

static void move_rows(struct mp_splitter *s, uint32_t gpu) {
    uint64_t n = s->room[gpu];
    uint32_t g = gpu;
    for (; s->from[g] != MP_NONE; g = s->from[g])
        n = s->flow[s->via[g]] < n ? s->flow[s->via[g]] : n;
    n = s->excess[g] < n ? s->excess[g] : n;
    s->excess[g] -= n;
    s->room[gpu] -= n;
    for (g = gpu; s->from[g] != MP_NONE; g = s->from[g]) {
        s->flow[s->via[g]] -= n;
        s->flow[s->out_of[g]] += n;
    }
}

static void count_gpu_rows(const struct mp_splitter *s, uint64_t *rows) {
    memcpy(rows, s->base, s->p.n_gpus * sizeof *rows);
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        for (uint32_t k = 0; k < r->n_groups; k++)
            for (uint32_t i = 0; i < r->n_hosts; i++)
                rows[s->hosts[r->first_host + i].gpu] += s->flow[s->groups[r->first_group + k].cells + i];
    }
}

static struct mp_split_value value_of(const struct mp_splitter *s) {
    const struct mp_split_problem *p = &s->p;
    struct mp_split_value v = {0, s->base_inter, s->base_intra};
    count_gpu_rows(s, s->room);
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        const uint64_t time = fixed_of(s, g) + s->room[g] * p->row_ps[g];
        v.peak_ps = time > v.peak_ps ? time : v.peak_ps;
    }
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        for (uint32_t k = 0; k < r->n_groups; k++)
            for (uint32_t i = 0; i < r->n_hosts; i++) {
                const uint32_t cell = s->groups[r->first_group + k].cells + i;
                if (s->cost[cell] > 1)
                    v.inter_rows += s->flow[cell];
                else if (s->cost[cell] == 1 && p->class_gpu != NULL)
                    v.intra_rows += s->flow[cell];
            }
    }
    return v;
}

struct mp_split_value mp_split_within(struct mp_splitter *s, uint64_t limit_ps) {
    const uint64_t peak = mp_split_peak(s), limit = limit_ps > peak ? limit_ps : peak;
    send_nearest(s);
    count_gpu_rows(s, s->excess);
    for (uint32_t g = 0; g < s->p.n_gpus; g++) {
        const uint64_t most = rows_within(s, g, limit), rows = s->excess[g];
        s->excess[g] = rows > most ? rows - most : 0;
        s->room[g] = rows < most ? most - rows : 0;
    }
    for (;;) {
        const int64_t least = find_distances(s);
        uint32_t gpu = least == INT64_MAX ? MP_NONE : find_path(s, least);
        if (gpu == MP_NONE)
            break; /* nothing is too much any more: the limit can be kept */
        for (; gpu != MP_NONE; gpu = find_path(s, least))
            move_rows(s, gpu);
    }
    return value_of(s);
}

/* ---- what came out ---- */
void mp_split_rows(const struct mp_splitter *s, uint64_t *rows) {
    const struct mp_split_problem *p = &s->p;
    memset(rows, 0, (size_t)p->n_classes * p->n_slots * sizeof *rows);
    for (uint32_t e = 0, next = 0; e < p->n_experts; e++)
        for (uint32_t c = 0; s->first_slot[e] != MP_NONE && !is_replicated(s, e, &next) && c < p->n_classes; c++)
            rows[(size_t)c * p->n_slots + s->first_slot[e]] = p->rows[(size_t)c * p->n_experts + e];
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        for (uint32_t k = 0; k < r->n_groups; k++) { /* classes in turn, hosts in turn */
            const uint32_t cells = s->groups[r->first_group + k].cells;
            uint64_t left = s->flow[cells];
            uint32_t i = 0;
            for (uint32_t c = 0; c < p->n_classes; c++) {
                if (s->group_of[(size_t)x * p->n_classes + c] != k)
                    continue;
                for (uint64_t n = p->rows[(size_t)c * p->n_experts + r->expert]; n > 0;) {
                    while (left == 0)
                        left = s->flow[cells + ++i];
                    const uint64_t part = n < left ? n : left;
                    rows[(size_t)c * p->n_slots + s->hosts[r->first_host + i].slot] = part;
                    n -= part;
                    left -= part;
                }
            }
        }
    }
}

/* Weights of a group, in s->rest, that add up to `sum`; what they give a host too much or too little of is carried on.
 */
static void weigh(const struct mp_splitter *s, const struct replicated *r, const struct group *group, uint32_t sum) {
    const uint64_t *flow = s->flow + group->cells;
    uint64_t *weight = s->rest, left = sum;
    if (group->rows == 0) { /* nobody has come from there: its nearest replicas */
        int64_t least = INT64_MAX;
        for (uint32_t i = 0; i < r->n_hosts; i++)
            least = s->cost[group->cells + i] < least ? s->cost[group->cells + i] : least;
        for (uint32_t i = 0; i < r->n_hosts; i++)
            weight[i] = s->cost[group->cells + i] == least;
        return;
    }
    for (uint32_t i = 0; i < r->n_hosts; i++) {
        const int64_t wanted = (int64_t)flow[i] + s->carry[i];
        weight[i] = wanted > 0 && flow[i] > 0 ? mp_mul_div((uint64_t)wanted, sum, group->rows) : 0;
        weight[i] = weight[i] < left ? weight[i] : left;
        left -= weight[i];
    }
    for (; left > 0; left--) { /* to whom most is lacking */
        uint32_t most = 0;
        int64_t lack_of_most = INT64_MIN;
        for (uint32_t i = 0; i < r->n_hosts; i++) {
            const int64_t lack = (int64_t)flow[i] + s->carry[i] - (int64_t)mp_mul_div(group->rows, weight[i], sum);
            if (flow[i] > 0 && lack > lack_of_most) {
                lack_of_most = lack;
                most = i;
            }
        }
        weight[most]++;
    }
    for (uint32_t i = 0; i < r->n_hosts; i++)
        s->carry[i] += (int64_t)flow[i] - (int64_t)mp_mul_div(group->rows, weight[i], sum);
}

static uint64_t common_factor(const uint64_t *weight, uint32_t n) {
    uint64_t a = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t b = weight[i], rest; b > 0; b = rest) {
            rest = a % b;
            a = b;
        }
    return a > 0 ? a : 1;
}

void mp_split_weights(const struct mp_splitter *s, uint32_t sum, uint32_t *weights) {
    const struct mp_split_problem *p = &s->p;
    memset(weights, 0, (size_t)p->n_classes * p->n_slots * sizeof *weights);
    for (uint32_t x = 0; x < s->n_replicated; x++) {
        const struct replicated *r = &s->replicated[x];
        memset(s->carry, 0, r->n_hosts * sizeof *s->carry);
        for (uint32_t k = 0; k < r->n_groups; k++) {
            weigh(s, r, &s->groups[r->first_group + k], sum);
            const uint64_t factor = common_factor(s->rest, r->n_hosts);
            for (uint32_t c = 0; c < p->n_classes; c++)
                for (uint32_t i = 0; s->group_of[(size_t)x * p->n_classes + c] == k && i < r->n_hosts; i++)
                    weights[(size_t)c * p->n_slots + s->hosts[r->first_host + i].slot] =
                        (uint32_t)(s->rest[i] / factor);
        }
    }
    /* Several slots on one GPU are one replica, and the first of them serves it. */
    for (uint32_t e = 0, next = 0; e < p->n_experts; e++)
        for (uint32_t c = 0; s->first_slot[e] != MP_NONE && !is_replicated(s, e, &next) && c < p->n_classes; c++)
            weights[(size_t)c * p->n_slots + s->first_slot[e]] = s->has_twin[e];
}

struct mp_split_value mp_split_value_of(const struct mp_split_problem *p, const uint64_t *rows, uint64_t *gpu_rows) {
    struct mp_split_value v = {0};
    memset(gpu_rows, 0, p->n_gpus * sizeof *gpu_rows);
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->n_slots; i++) {
            const uint64_t n = rows[(size_t)c * p->n_slots + i];
            const uint32_t gpu = p->slot_gpu[i];
            gpu_rows[gpu] += n;
            if (p->class_node[c] != p->gpu_node[gpu])
                v.inter_rows += n;
            else if (p->class_gpu != NULL && p->class_gpu[c] != gpu)
                v.intra_rows += n;
        }
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        const uint64_t time = (p->fixed_ps != NULL ? p->fixed_ps[g] : 0) + gpu_rows[g] * p->row_ps[g];
        v.peak_ps = time > v.peak_ps ? time : v.peak_ps;
    }
    return v;
}
