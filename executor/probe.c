#include "probe.h"
#include "prove.h"
#include <string.h>

void ex_pattern_free(struct ex_pattern *p) {
    mp_free(p->edges);
    *p = (struct ex_pattern){0};
}

static enum mp_status add_edge(struct ex_pattern *p, uint32_t stage, uint32_t src, uint32_t dst, struct mp_error *err) {
    if (p->n == p->n_allocated) {
        const size_t more = 2 * p->n_allocated + 64;
        struct ex_edge *grown = mp_realloc(p->edges, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a probe");
        p->edges = grown;
        p->n_allocated = more;
    }
    p->edges[p->n++] = (struct ex_edge){stage, src, dst};
    p->n_stages = stage + 1 > p->n_stages ? stage + 1 : p->n_stages;
    return MP_OK;
}

/* ---- who talks at a level ---- */

static bool is_of_class(const struct mp_topology *t, uint32_t gpu, uint32_t level, const struct ex_class *c) {
    const uint32_t ids[] = {t->gpus[gpu].out_port[level], t->gpus[gpu].in_port[level]};
    if (c == NULL || c->is_uplink || c->is_pair)
        return true;
    for (int i = 0; i < 2; i++)
        if (t->resources[ids[i]].level == c->level && t->resources[ids[i]].bytes_per_s == c->bytes_per_s)
            return true;
    return false;
}

/* Is it the first GPU that uses its ports? */
static bool is_first_of_port(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return t->resources[t->gpus[gpu].out_port[level]].first_gpu == gpu;
}

static uint32_t group_of(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return t->gpus[gpu].group[level];
}
/* Its part of the level's group: the group of the level below, itself at level 0. */
static uint32_t part_of(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return level == 0 ? gpu : group_of(t, gpu, level - 1);
}

/* The k-th GPU of the class in a part of the level, one for each port; MP_NONE = it has fewer. */
static uint32_t member(const struct mp_topology *t, const struct ex_class *c, uint32_t level, uint32_t part,
                       uint32_t k) {
    const bool is_all = c != NULL && c->is_uplink; /* an uplink takes all it can get */
    for (uint32_t g = 0; g < t->n_gpus; g++)
        if (part_of(t, g, level) == part && is_of_class(t, g, level, c) && (is_all || is_first_of_port(t, g, level)) &&
            k-- == 0)
            return g;
    return MP_NONE;
}

/* The k-th members of all parts of a level's group, in order. */
static uint32_t k_th_members(const struct mp_topology *t, const struct ex_class *c, uint32_t level, uint32_t group,
                             uint32_t k, uint32_t *out) {
    uint32_t n = 0, last = MP_NONE;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        if (group_of(t, g, level) != group || part_of(t, g, level) == last)
            continue;
        last = part_of(t, g, level); /* parts are consecutive GPUs */
        const uint32_t m = member(t, c, level, last, k);
        if (m != MP_NONE)
            out[n++] = m;
    }
    return n;
}

enum mp_status ex_pattern_ring(struct ex_pattern *p, const struct mp_topology *t, const struct ex_class *c,
                               uint32_t level, uint32_t n_stages, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint32_t *ring = mp_calloc(t->n_gpus, sizeof *ring);
    if (ring == NULL)
        return mp_nomem(err, "a probe");
    p->n_ranks = t->n_gpus;
    for (uint32_t stage = 0; stage < n_stages; stage++)
        for (uint32_t group = 0; group < t->levels[level].n_groups; group++)
            for (uint32_t k = 0, n; (n = k_th_members(t, c, level, group, k, ring)) > 0; k++)
                for (uint32_t i = 0; n > 1 && i < n; i++)
                    MP_TRY(add_edge(p, stage, ring[i], ring[(i + 1 + stage % (n - 1)) % n], err));
out:
    mp_free(ring);
    return status;
}

/* Everybody to everybody at the level. */
static enum mp_status uniform(struct ex_pattern *p, const struct mp_topology *t, uint32_t level, struct mp_error *err) {
    enum mp_status status = MP_OK;
    p->n_ranks = t->n_gpus;
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t j = 0; j < t->n_gpus; j++)
            if (group_of(t, i, level) == group_of(t, j, level) && part_of(t, i, level) != part_of(t, j, level))
                MP_TRY(add_edge(p, 0, i, j, err));
out:
    return status;
}

/* From (to) the first GPU of the class that has peers at the level, to (from) all of them. */
static enum mp_status fan(struct ex_pattern *p, const struct mp_topology *t, const struct ex_class *c, uint32_t level,
                          bool is_in, struct mp_error *err) {
    enum mp_status status = MP_OK;
    p->n_ranks = t->n_gpus;
    for (uint32_t g = 0; g < t->n_gpus && p->n == 0; g++) {
        if (!is_of_class(t, g, level, c))
            continue;
        for (uint32_t peer = 0; peer < t->n_gpus; peer++)
            if (group_of(t, g, level) == group_of(t, peer, level) && part_of(t, g, level) != part_of(t, peer, level) &&
                is_first_of_port(t, peer, level))
                MP_TRY(add_edge(p, 0, is_in ? peer : g, is_in ? g : peer, err));
    }
out:
    return status;
}

/* ---- what limits a pattern ---- */

/* Edges through the busiest figure of the class, and whether no other figure takes longer, each at its nominal rate.
 * *worst: what the busiest of all takes, in seconds for each byte on an edge. */
static enum mp_status limits_it(bool *out, uint32_t *load, double *worst, const struct ex_pattern *p,
                                const struct mp_topology *t, const struct ex_class *c, struct mp_error *err) {
    uint32_t *loads = mp_calloc(t->n_resources, sizeof *loads);
    double own = 0;
    *load = 0;
    *worst = 0;
    if (loads == NULL)
        return mp_nomem(err, "a probe");
    for (size_t i = 0; i < p->n; i++) {
        struct mp_path path;
        mp_topology_path(t, p->edges[i].src, p->edges[i].dst, &path);
        for (uint32_t k = 0; k < path.n; k++)
            loads[path.resource[k]]++;
        if (path.cap_bytes_per_s > 0) {
            const double time = 1 / (double)path.cap_bytes_per_s;
            *worst = time > *worst ? time : *worst;
            if (c->is_pair && path.level == c->level) {
                own = time;
                *load = 1;
            }
        }
    }
    for (uint32_t r = 0; r < t->n_resources; r++) {
        const struct mp_resource *x = &t->resources[r];
        const double time = loads[r] / (double)x->bytes_per_s;
        *worst = time > *worst ? time : *worst;
        if (!c->is_pair && x->level == c->level && x->is_uplink == c->is_uplink && x->bytes_per_s == c->bytes_per_s &&
            loads[r] > *load) {
            *load = loads[r];
            own = time;
        }
    }
    *out = *load > 0 && own >= *worst * (1 - 1e-9);
    mp_free(loads);
    return MP_OK;
}

enum mp_status ex_pattern_bound(double *ns, const struct ex_pattern *p, const struct mp_topology *t,
                                struct mp_error *err) {
    bool is_any;
    uint32_t load;
    enum mp_status status = limits_it(&is_any, &load, ns, p, t, &(struct ex_class){.level = MP_NONE}, err);
    *ns *= 1e9;
    return status;
}

enum mp_status ex_pattern_of_class(struct ex_pattern *p, uint32_t *load, const struct mp_topology *t,
                                   const struct ex_class *c, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t level = c->is_uplink ? c->level + 1 : c->level; level < t->n_levels; level++)
        for (int way = 0; way < 4; way++) {
            bool is_good = false;
            double worst;
            if (way == 0)
                MP_TRY(ex_pattern_ring(p, t, c, level, 1, err));
            else if (way == 1)
                MP_TRY(uniform(p, t, level, err));
            else
                MP_TRY(fan(p, t, c, level, way == 3, err));
            MP_TRY(limits_it(&is_good, load, &worst, p, t, c, err));
            if (is_good)
                return MP_OK;
            ex_pattern_free(p);
        }
out:
    return status;
}

static bool has_sender(const struct ex_pattern *p, const struct mp_topology *t, uint32_t level, uint32_t gpu) {
    for (size_t i = 0; i < p->n; i++)
        if (t->gpus[p->edges[i].src].out_port[level] == t->gpus[gpu].out_port[level])
            return true;
    return false;
}

enum mp_status ex_pattern_incast(struct ex_pattern *p, const struct mp_topology *t, uint32_t level,
                                 struct mp_error *err) {
    enum mp_status status = MP_OK;
    /* A receiver with the slowest port: so that one sender can fill it. */
    uint32_t to = MP_NONE;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        bool has_peer = false;
        for (uint32_t peer = 0; peer < t->n_gpus && !has_peer; peer++)
            has_peer =
                group_of(t, g, level) == group_of(t, peer, level) && part_of(t, g, level) != part_of(t, peer, level);
        if (has_peer && (to == MP_NONE || t->resources[t->gpus[g].in_port[level]].bytes_per_s <
                                              t->resources[t->gpus[to].in_port[level]].bytes_per_s))
            to = g;
    }
    p->n_ranks = t->n_gpus;
    /* One of each part in turn, so that uplinks of senders are shared by as few as can be. */
    for (uint32_t k = 0, found = 1; to != MP_NONE && found > 0; k++) {
        uint32_t last = MP_NONE;
        found = 0;
        for (uint32_t g = 0; g < t->n_gpus; g++) {
            if (group_of(t, g, level) != group_of(t, to, level) || part_of(t, g, level) == part_of(t, to, level) ||
                part_of(t, g, level) == last)
                continue;
            last = part_of(t, g, level);
            const uint32_t from = member(t, NULL, level, last, k);
            if (from == MP_NONE || has_sender(p, t, level, from))
                continue;
            struct mp_path path;
            mp_topology_path(t, from, to, &path);
            const uint64_t in = t->resources[t->gpus[to].in_port[level]].bytes_per_s;
            bool fills = path.cap_bytes_per_s == 0 || path.cap_bytes_per_s >= in;
            for (uint32_t i = 0; i < path.n; i++)
                fills &= t->resources[path.resource[i]].bytes_per_s >= in;
            found++;
            if (fills)
                MP_TRY(add_edge(p, 0, from, to, err));
        }
    }
out:
    return status;
}

/* ---- scripts ---- */

uint64_t ex_pattern_most(const struct ex_pattern *p, uint64_t block_bytes) {
    uint32_t busiest = 1;
    for (uint32_t r = 0; r < p->n_ranks; r++) {
        uint32_t n = 0;
        for (size_t i = 0; i < p->n; i++)
            n += (p->edges[i].src == r) + (p->edges[i].dst == r);
        busiest = n > busiest ? n : busiest;
    }
    const uint64_t each = block_bytes / busiest;
    return each > 2 * EX_ALIGN ? (each - EX_ALIGN) / EX_ALIGN * EX_ALIGN : EX_ALIGN;
}

void ex_probe_free(struct ex_probe *p) {
    if (p == NULL)
        return;
    ex_script_free(p->script);
    ex_flows_free(p->flows);
    mp_free(p->matrix);
    mp_free(p->used);
    mp_free(p);
}

/* Messages by stage; those of a flow lie one behind the other. */
static enum mp_status fill(struct ex_probe *x, const struct ex_pattern *p, size_t n_edges, uint64_t bytes,
                           struct mp_error *err) {
    const size_t n = p->n_ranks;
    struct ex_script *s = x->script;
    uint64_t *taken = mp_calloc(n * n, sizeof *taken);
    if (taken == NULL)
        return mp_nomem(err, "a probe");
    for (size_t i = 0; i < n_edges; i++) {
        const struct ex_edge *e = &p->edges[i];
        const size_t flow = e->src * n + e->dst;
        s->messages[i] = (struct ex_message){.stage = e->stage,
                                             .src = (uint16_t)e->src,
                                             .dst = (uint16_t)e->dst,
                                             .width = 1,
                                             .bytes = bytes,
                                             .src_at = x->flows->out_at[flow] + taken[flow],
                                             .dst_at = x->flows->in_at[flow] + taken[flow]};
        taken[flow] += bytes;
    }
    mp_free(taken);
    return ex_script_index(s, err);
}

enum mp_status ex_probe_new(struct ex_probe **out, const struct ex_pattern *p, size_t n_edges, uint64_t bytes,
                            enum mp_stage_mode mode, const struct ex_limits *limits, uint32_t number,
                            struct mp_error *err) {
    enum mp_status status = MP_OK;
    const size_t n = p->n_ranks;
    *out = NULL;
    struct ex_probe *x = mp_calloc(1, sizeof *x);
    if (x == NULL)
        return mp_nomem(err, "a probe");
    x->matrix = mp_calloc(n * n, sizeof *x->matrix);
    x->used = mp_calloc(n, sizeof *x->used);
    x->script = mp_calloc(1, sizeof *x->script);
    if (x->script != NULL) {
        *x->script = (struct ex_script){.step = number,
                                        .part = EX_DISPATCH,
                                        .n_ranks = p->n_ranks,
                                        .n_stages = p->n_stages,
                                        .mode = mode,
                                        .is_single = p->n_stages == 1,
                                        .flush_stage = MP_NONE,
                                        .ports = p->n_stages > 1,
                                        .n_messages = n_edges,
                                        .messages = mp_calloc(n_edges, sizeof *x->script->messages)};
    }
    if (x->matrix == NULL || x->used == NULL || x->script == NULL || x->script->messages == NULL) {
        status = mp_nomem(err, "a probe");
        goto out;
    }
    for (size_t i = 0; i < n_edges; i++)
        x->matrix[p->edges[i].src * n + p->edges[i].dst] += bytes;
    MP_TRY(ex_flows_new(&x->flows, p->n_ranks, x->matrix, x->used, err));
    MP_TRY(fill(x, p, n_edges, bytes, err));
    MP_TRY(ex_prove(x->script, x->flows, x->used, limits, err));
    *out = x;
    x = NULL;
out:
    ex_probe_free(x);
    return status;
}
