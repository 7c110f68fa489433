/* Unequal ports cut into equal sub-ports.
 *
 * Decides   the rate u of a sub-port, how many each port has, and over which pairs of sub-ports a flow is spread.
 * Minimises the largest load of a port over its sub-ports; then the number of sub-ports.
 * Method    u is tried as every k-th part (k <= 64) of every loaded port's rate. A port of rate B has floor(B / u)
 *           sub-ports, 64 at most, and the time is T = max load / (sub-ports * u): the port bound exactly when u
 * divides the rate of the port that sets it and rounds the others down by less than their slack, as the greatest common
 * divisor always does. Then ports that are not full are given only the sub-ports that their load needs within T. Flows
 * are laid into the sub-ports of their sender one behind the other, each filled to T, and at the same time into those
 * of their receiver: a transportation problem with equal capacities, in which only flows at a border are split, so at
 * most pairs + sub-ports entries come of it.
 * Bound     lines of the matrix sum to at most T exactly: bytes are multiplied by the denominator of T.
 * Differs   from splitting every flow evenly over all pairs of sub-ports (docs: METHODS A.2.3): a few entries in place
 *           of p_i * p_j for each flow, hence fewer stages.
 * Cost      O(n^2 * levels + candidates * ports). */
#include "sub_ports.h"
#include <string.h>

#define LOAD_MAX (UINT64_C(1) << 55) /* bytes of a port, so that 64 times as many can be added up */
#define CANDIDATE_RATES 256u

struct port {
    uint32_t resource, gpu, side; /* side: 0 sends, 1 receives */
    uint64_t rate, load;
    uint32_t n_sub, first; /* first: number of its first sub-port on its side */
};
struct work {
    const struct mp_order_problem *in;
    uint32_t n_ports;
    struct port *ports; /* those with load */
    uint32_t *port_of;  /* [n_resources] into ports, MP_NONE */
    uint32_t *owner;    /* [n_resources] GPU, MP_NONE = none */
    uint64_t slowest;   /* of all ports that any pair may use */
};

/* The ports of a pair: never slack, never more than these two when uplinks do not limit. */
static void ends_of(const struct work *w, uint32_t src, uint32_t dst, uint32_t ends[2], struct mp_path *path) {
    const struct mp_topology *t = w->in->topology;
    mp_topology_path(t, src, dst, path);
    for (uint32_t k = 0; k < path->n; k++)
        if (!t->resources[path->resource[k]].is_uplink)
            ends[t->resources[path->resource[k]].is_in] = path->resource[k];
}

/* Rates of the distinct ports through which GPUs of a group leave it (or enter). */
static uint64_t rate_through(const struct mp_topology *t, uint32_t level, uint32_t group, bool is_in) {
    uint64_t sum = 0;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const uint32_t *port = is_in ? t->gpus[g].in_port : t->gpus[g].out_port;
        if (t->gpus[g].group[level] != group)
            continue;
        for (uint32_t l = level + 1; l < t->n_levels; l++) {
            bool is_known = port[l] >= t->n_resources;
            for (uint32_t m = level + 1; m < l; m++)
                is_known = is_known || port[m] == port[l];
            if (!is_known && mp_add_overflow(sum, t->resources[port[l]].bytes_per_s, &sum))
                return UINT64_MAX;
        }
    }
    return sum;
}

static enum mp_status check_uplinks(const struct mp_topology *t, enum mp_outcome *outcome, struct mp_error *err) {
    for (uint32_t l = 0; l + 1 < t->n_levels; l++)
        for (uint32_t v = 0; v < t->levels[l].n_groups && t->levels[l].uplink_out != NULL; v++)
            for (int is_in = 0; is_in < 2; is_in++) {
                uint32_t r = is_in ? t->levels[l].uplink_in[v] : t->levels[l].uplink_out[v];
                if (rate_through(t, l, v, is_in) > t->resources[r].bytes_per_s)
                    return mp_decline(
                        err, outcome, MP_NOT_APPLICABLE,
                        "sub-ports need uplinks as wide as the ports behind them, and that of %s group %u is not",
                        t->levels[l].name, v);
            }
    return MP_OK;
}

/* Loads of ports, and everything that sub-ports cannot express. */
static enum mp_status survey(struct work *w, enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = w->in->topology;
    const uint32_t n = t->n_gpus;
    for (uint32_t r = 0; r < t->n_resources; r++)
        w->port_of[r] = w->owner[r] = MP_NONE;
    w->slowest = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t ends[2] = {MP_NONE, MP_NONE};
            uint64_t bytes = w->in->matrix[(size_t)i * n + j], narrower = UINT64_MAX;
            struct mp_path path;
            if (i == j)
                continue;
            ends_of(w, i, j, ends, &path);
            for (uint32_t side = 0; side < 2; side++) {
                const struct mp_resource *x = &t->resources[ends[side]];
                const uint32_t gpu = side == 0 ? i : j;
                if (w->owner[ends[side]] != MP_NONE && w->owner[ends[side]] != gpu)
                    return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                                      "sub-ports need ports of one GPU each, and GPU %u and GPU %u share one",
                                      w->owner[ends[side]], gpu);
                w->owner[ends[side]] = gpu;
                narrower = x->bytes_per_s < narrower ? x->bytes_per_s : narrower;
                w->slowest = x->bytes_per_s < w->slowest ? x->bytes_per_s : w->slowest;
                if (bytes == 0)
                    continue;
                if (w->port_of[ends[side]] == MP_NONE) {
                    w->port_of[ends[side]] = w->n_ports;
                    w->ports[w->n_ports++] =
                        (struct port){.resource = ends[side], .gpu = gpu, .side = side, .rate = x->bytes_per_s};
                }
                uint64_t *load = &w->ports[w->port_of[ends[side]]].load;
                if (bytes > LOAD_MAX || (*load += bytes) > LOAD_MAX)
                    return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                                      "sub-ports count to 2^55 bytes, and GPU %u has more", gpu);
            }
            if (path.cap_bytes_per_s > 0 && path.cap_bytes_per_s < narrower)
                return mp_decline(
                    err, outcome, MP_NOT_APPLICABLE,
                    "sub-ports need pairs that can use their ports in full, and %u and %u cannot (a mesh)", i, j);
        }
    return MP_OK;
}

static uint32_t sub_ports_of(const struct port *p, uint64_t unit) {
    uint64_t n = p->rate / unit;
    return n > MP_SUB_PORTS_OF_PORT ? MP_SUB_PORTS_OF_PORT : (uint32_t)n;
}

/* Time of a unit: load / (width * unit) of the port that takes longest. */
struct choice {
    uint64_t unit, load;
    uint32_t width;
    uint32_t n_sub[2]; /* with only as many sub-ports as their loads need */
};
static uint32_t needed(const struct port *p, const struct choice *c) {
    return (uint32_t)mp_mul_div_ceil(p->load, c->width, c->load);
}
static struct choice weigh(const struct work *w, uint64_t unit) {
    struct choice c = {.unit = unit};
    for (uint32_t k = 0; k < w->n_ports; k++) {
        const struct port *p = &w->ports[k];
        uint32_t width = sub_ports_of(p, unit);
        if (c.width == 0 || (unsigned __int128)p->load * c.width > (unsigned __int128)c.load * width) {
            c.load = p->load;
            c.width = width;
        }
    }
    for (uint32_t k = 0; k < w->n_ports; k++)
        c.n_sub[w->ports[k].side] += needed(&w->ports[k], &c);
    return c;
}
/* -1: a is faster, 1: b is. */
static int compare(const struct choice *a, const struct choice *b) {
    unsigned __int128 x = (unsigned __int128)a->load * (b->width * b->unit),
                      y = (unsigned __int128)b->load * (a->width * a->unit);
    return (x > y) - (x < y);
}

static bool choose_unit(const struct work *w, struct choice *best) {
    uint64_t rates[CANDIDATE_RATES];
    uint32_t n_rates = 0;
    *best = (struct choice){0};
    for (uint32_t k = 0; k < w->n_ports; k++) {
        bool is_known = n_rates == CANDIDATE_RATES;
        for (uint32_t i = 0; i < n_rates; i++)
            is_known = is_known || rates[i] == w->ports[k].rate;
        if (is_known)
            continue;
        rates[n_rates++] = w->ports[k].rate;
        for (uint32_t parts = 1; parts <= MP_SUB_PORTS_OF_PORT; parts++) {
            uint64_t unit = w->ports[k].rate / parts;
            if (unit == 0 || unit > w->slowest || unit > UINT64_MAX / (2 * MP_SUB_PORTS_OF_PORT))
                continue;
            struct choice c = weigh(w, unit);
            if (c.n_sub[0] > MP_SUB_PORTS_TOTAL || c.n_sub[1] > MP_SUB_PORTS_TOTAL)
                continue;
            int order = best->unit == 0 ? -1 : compare(&c, best);
            if (order < 0 || (order == 0 && c.n_sub[0] + c.n_sub[1] < best->n_sub[0] + best->n_sub[1]))
                *best = c;
        }
    }
    return best->unit > 0;
}

/* The time of the choice against the port bound, which is the longest load / rate. */
static uint32_t loss_of(const struct work *w, const struct choice *c) {
    const struct port *worst = &w->ports[0];
    for (uint32_t k = 1; k < w->n_ports; k++)
        if ((unsigned __int128)w->ports[k].load * worst->rate > (unsigned __int128)worst->load * w->ports[k].rate)
            worst = &w->ports[k];
    unsigned __int128 ours = (unsigned __int128)c->load * worst->rate,
                      least = (unsigned __int128)worst->load * (c->width * c->unit);
    if (ours <= least)
        return 0;
    for (; least > UINT64_MAX; least >>= 1) /* the rest is only for the eye */
        ours >>= 1;
    uint64_t over = ours - least > UINT64_MAX / 2 ? UINT64_MAX / 2 : (uint64_t)(ours - least);
    uint64_t ppm = mp_mul_div_ceil(over, 1000000, (uint64_t)least);
    return ppm == 0 ? 1 : ppm > UINT32_MAX ? UINT32_MAX : (uint32_t)ppm;
}

/* Where the next bytes of a port go. */
struct filling {
    uint32_t sub;
    uint64_t room;
};

static void lay(struct mp_sub_ports *s, const struct work *w, struct filling *at) {
    const uint32_t n = w->in->topology->n_gpus;
    for (uint32_t k = 0; k < w->n_ports; k++)
        at[k] = (struct filling){w->ports[k].first, s->bound};
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t left = i == j ? 0 : w->in->matrix[(size_t)i * n + j] * s->scale;
            uint32_t ends[2] = {MP_NONE, MP_NONE};
            struct mp_path path;
            if (left == 0)
                continue;
            ends_of(w, i, j, ends, &path);
            struct filling *a = &at[w->port_of[ends[0]]], *b = &at[w->port_of[ends[1]]];
            while (left > 0) {
                for (int side = 0; side < 2; side++) {
                    struct filling *f = side == 0 ? a : b;
                    if (f->room == 0)
                        *f = (struct filling){f->sub + 1, s->bound};
                }
                uint64_t x = left < a->room ? left : a->room;
                x = x < b->room ? x : b->room;
                s->matrix[(size_t)a->sub * s->n_sub + b->sub] += x;
                a->room -= x;
                b->room -= x;
                left -= x;
            }
        }
}

enum mp_status mp_sub_ports_new(struct mp_sub_ports **out, const struct mp_order_problem *in, struct mp_arena *arena,
                                enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    enum mp_status status = MP_OK;
    struct work w = {.in = in};
    struct choice c;
    *out = NULL;
    *outcome = MP_FOUND;
    if (t->n_gpus > MP_SUB_PORTS_TOTAL)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "sub-ports of %u GPUs are too many: at most %u (use matchings)", t->n_gpus,
                          MP_SUB_PORTS_TOTAL);
    struct mp_sub_ports *s = mp_arena_alloc(arena, 1, sizeof *s);
    w.ports = mp_arena_alloc(arena, t->n_resources, sizeof *w.ports);
    w.port_of = mp_arena_alloc(arena, t->n_resources, sizeof *w.port_of);
    w.owner = mp_arena_alloc(arena, t->n_resources, sizeof *w.owner);
    struct filling *at = mp_arena_alloc(arena, t->n_resources, sizeof *at);
    if (s == NULL || w.ports == NULL || w.port_of == NULL || w.owner == NULL || at == NULL)
        return mp_nomem(err, "ordering transfers");
    MP_TRY(check_uplinks(t, outcome, err));
    if (*outcome == MP_FOUND)
        MP_TRY(survey(&w, outcome, err));
    if (*outcome != MP_FOUND || w.n_ports == 0) {
        *out = s; /* without any: nothing is sent */
        goto out;
    }
    if (!choose_unit(&w, &c)) {
        status =
            mp_decline(err, outcome, MP_NOT_APPLICABLE, "more than %u sub-ports would be needed", MP_SUB_PORTS_TOTAL);
        goto out;
    }
    /* load / width in whole numbers. */
    uint64_t common = c.width, rest = c.load % c.width;
    while (rest != 0) {
        uint64_t r = common % rest;
        common = rest;
        rest = r;
    }
    s->unit_bytes_per_s = c.unit;
    s->scale = c.width / common;
    s->bound = c.load / common;
    s->loss_ppm = loss_of(&w, &c);
    for (int side = 0; side < 2; side++) {
        s->n[side] = c.n_sub[side];
        s->n_sub = s->n[side] > s->n_sub ? s->n[side] : s->n_sub;
        s->gpu[side] = mp_arena_alloc(arena, s->n[side], sizeof *s->gpu[side]);
        s->port[side] = mp_arena_alloc(arena, s->n[side], sizeof *s->port[side]);
        if (s->gpu[side] == NULL || s->port[side] == NULL) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
    }
    s->matrix = mp_arena_alloc(arena, (size_t)s->n_sub * s->n_sub, sizeof *s->matrix);
    if (s->matrix == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    uint32_t first[2] = {0, 0};
    for (uint32_t k = 0; k < w.n_ports; k++) {
        struct port *p = &w.ports[k];
        p->first = first[p->side];
        p->n_sub = needed(p, &c);
        for (uint32_t i = 0; i < p->n_sub; i++) {
            s->gpu[p->side][first[p->side]] = p->gpu;
            s->port[p->side][first[p->side]++] = p->resource;
        }
    }
    lay(s, &w, at);
    *out = s;
out:
    return status;
}
