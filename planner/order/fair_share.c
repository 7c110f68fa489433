/* All flows at once, in steps of time.
 *
 * Decides   nothing: says what fair sharing loses against the port bound.
 * Method    time goes in steps of a 32nd of the port bound. In each, rates are max-min fair: the resource with the
 *           least for each of its flows gives them that, and so on with what is left. A flow that would end within the
 *           step at its share gets just what it needs, so that the others have the rest.
 * Bound     none proven. Within 0.6 % of the event simulation on Zipf and balanced lognormal pairs of 4 to 128 nodes;
 *           held to 2 % by test_order_two_level, with uplinks, shared NICs, incast and pair caps.
 * Differs   from src/sim: that follows every end of a flow, which takes 17 times as long on 128 nodes, and on 320 GPUs
 *           with two levels more than a thousand times.
 * Cost      per step O(flows + resources^2). */
#include "fair_share.h"
#include <moeplan/alloc.h>
#include <string.h>

#define STEPS 32        /* to the port bound */
#define STEPS_MAX 4096u /* where incast or pair caps make it much longer, what is left then is added by its bound */

struct flow {
    double left, cap, rate; /* bytes, bytes per ns */
    uint32_t first, n;      /* its resources in `through` */
    bool is_fixed;
};
struct fair {
    const struct mp_topology *t;
    uint32_t n_flows, n_resources;
    struct flow *flows;
    uint32_t *active; /* [n_flows] those that have not ended, n_active of them */
    uint32_t n_active;
    uint32_t *through;     /* resources of the flows, one flow after the other */
    uint32_t *first, *end; /* [n_resources] into users */
    uint32_t *users;       /* flows of each resource */
    uint32_t *count;       /* [n_resources] flows whose rate is not known */
    double *room;          /* [n_resources] bytes per ns that are not given away */
};

static double capacity(const struct mp_topology *t, uint32_t r, uint32_t n_flows) {
    const struct mp_level *level = &t->levels[t->resources[r].level];
    const double rate = (double)t->resources[r].bytes_per_s * 1e-9;
    if (!t->resources[r].is_in || t->resources[r].is_uplink || level->n_incast == 0 || n_flows == 0)
        return rate;
    return rate * level->incast_ppm[(n_flows < level->n_incast ? n_flows : level->n_incast) - 1] * 1e-6;
}

static enum mp_status make_flows(struct fair *f, const uint64_t *matrix, struct mp_arena *scratch,
                                 struct mp_error *err) {
    const uint32_t n = f->t->n_gpus;
    struct mp_path path;
    size_t n_through = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            if (i == j || matrix[(size_t)i * n + j] == 0)
                continue;
            mp_topology_path(f->t, i, j, &path);
            n_through += path.n;
            f->n_flows++;
        }
    f->flows = mp_arena_alloc(scratch, (size_t)f->n_flows + 1, sizeof *f->flows);
    f->active = mp_arena_alloc(scratch, (size_t)f->n_flows + 1, sizeof *f->active);
    f->through = mp_arena_alloc(scratch, n_through + 1, sizeof *f->through);
    f->users = mp_arena_alloc(scratch, n_through + 1, sizeof *f->users);
    f->first = mp_arena_alloc(scratch, (size_t)f->n_resources + 1, sizeof *f->first);
    f->end = mp_arena_alloc(scratch, (size_t)f->n_resources + 1, sizeof *f->end);
    f->count = mp_arena_alloc(scratch, (size_t)f->n_resources + 1, sizeof *f->count);
    f->room = mp_arena_alloc(scratch, (size_t)f->n_resources + 1, sizeof *f->room);
    if (f->flows == NULL || f->active == NULL || f->through == NULL || f->users == NULL || f->first == NULL ||
        f->end == NULL || f->count == NULL || f->room == NULL)
        return mp_nomem(err, "estimating traffic");
    uint32_t at = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            if (i == j || matrix[(size_t)i * n + j] == 0)
                continue;
            mp_topology_path(f->t, i, j, &path);
            f->flows[f->n_active] = (struct flow){.left = (double)matrix[(size_t)i * n + j],
                                                  .cap = (double)path.cap_bytes_per_s * 1e-9,
                                                  .first = at,
                                                  .n = path.n};
            for (uint32_t k = 0; k < path.n; k++) {
                f->through[at++] = path.resource[k];
                f->end[path.resource[k]]++;
            }
            f->active[f->n_active] = f->n_active;
            f->n_active++;
        }
    for (uint32_t r = 0, before = 0; r < f->n_resources; r++) {
        f->first[r] = before;
        before += f->end[r];
        f->end[r] = f->first[r];
    }
    for (uint32_t i = 0; i < f->n_flows; i++)
        for (uint32_t k = 0; k < f->flows[i].n; k++)
            f->users[f->end[f->through[f->flows[i].first + k]]++] = i;
    return MP_OK;
}

static void fix(struct fair *f, struct flow *x, double rate) {
    x->rate = rate;
    x->is_fixed = true;
    for (uint32_t k = 0; k < x->n; k++) {
        const uint32_t r = f->through[x->first + k];
        f->room[r] = f->room[r] > rate ? f->room[r] - rate : 0;
        f->count[r]--;
    }
}

/* Flows that need less than their share for what is left of them, and those with less of a cap; they are all when true
 * is returned. */
static bool fix_small(struct fair *f, double step_ns) {
    uint32_t n_open = 0;
    for (uint32_t i = 0; i < f->n_active; i++) {
        struct flow *x = &f->flows[f->active[i]];
        double share = -1, wanted = x->left / step_ns;
        if (x->is_fixed)
            continue;
        wanted = x->cap > 0 && x->cap < wanted ? x->cap : wanted;
        for (uint32_t k = 0; k < x->n; k++) {
            const uint32_t r = f->through[x->first + k];
            const double each = f->room[r] / f->count[r];
            share = share < 0 || each < share ? each : share;
        }
        if (wanted <= share)
            fix(f, x, wanted);
        else
            n_open++;
    }
    return n_open == 0;
}

static void fix_rest(struct fair *f) {
    for (;;) {
        uint32_t tightest = MP_NONE;
        double least = 0;
        for (uint32_t r = 0; r < f->n_resources; r++)
            if (f->count[r] > 0 && (tightest == MP_NONE || f->room[r] < least * f->count[r])) {
                tightest = r;
                least = f->room[r] / f->count[r];
            }
        if (tightest == MP_NONE)
            return;
        for (uint32_t i = f->first[tightest]; i < f->end[tightest]; i++) {
            struct flow *x = &f->flows[f->users[i]];
            if (!x->is_fixed)
                fix(f, x, x->cap > 0 && x->cap < least ? x->cap : least);
        }
    }
}

/* Time that the busiest resource needs for what is left. */
static double bound(const struct fair *f) {
    double most = 0;
    for (uint32_t r = 0; r < f->n_resources; r++) {
        double bytes = 0;
        for (uint32_t i = f->first[r]; i < f->end[r]; i++)
            bytes += f->flows[f->users[i]].left;
        bytes /= capacity(f->t, r, 1);
        most = bytes > most ? bytes : most;
    }
    for (uint32_t i = 0; i < f->n_active; i++) {
        const struct flow *x = &f->flows[f->active[i]];
        most = x->cap > 0 && x->left / x->cap > most ? x->left / x->cap : most;
    }
    return most;
}

static void drop_ended(struct fair *f) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n_active; i++)
        if (f->flows[f->active[i]].left > 0)
            f->active[kept++] = f->active[i];
    f->n_active = kept;
    for (uint32_t r = 0; r < f->n_resources; r++) {
        kept = f->first[r];
        for (uint32_t i = f->first[r]; i < f->end[r]; i++)
            if (f->flows[f->users[i]].left > 0)
                f->users[kept++] = f->users[i];
        f->end[r] = kept;
    }
}

enum mp_status mp_fair_share_ns(double *ns, const struct mp_topology *t, const uint64_t *matrix,
                                struct mp_arena *scratch, struct mp_error *err) {
    struct fair f = {.t = t, .n_resources = t->n_resources};
    enum mp_status status = make_flows(&f, matrix, scratch, err);
    *ns = 0;
    if (status != MP_OK || f.n_flows == 0)
        return status;
    const double step_ns = bound(&f) / STEPS;
    for (uint32_t step = 0; f.n_active > 0; step++) {
        for (uint32_t r = 0; r < f.n_resources; r++) {
            f.count[r] = f.end[r] - f.first[r];
            f.room[r] = capacity(t, r, f.count[r]);
        }
        for (uint32_t i = 0; i < f.n_active; i++)
            f.flows[f.active[i]].is_fixed = false;
        const bool is_last = fix_small(&f, step_ns) || fix_small(&f, step_ns);
        if ((is_last && f.n_active > 0) || step == STEPS_MAX) { /* or all capped, with steps to go */
            double rest = bound(&f);
            if (rest <= step_ns || step == STEPS_MAX) {
                *ns += rest;
                break;
            }
        }
        fix_rest(&f);
        for (uint32_t i = 0; i < f.n_active; i++) {
            struct flow *x = &f.flows[f.active[i]];
            x->left = x->rate * step_ns >= x->left * (1 - 1e-9) ? 0 : x->left - x->rate * step_ns;
        }
        drop_ended(&f);
        *ns += step_ns;
    }
    return MP_OK;
}
