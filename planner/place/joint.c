/* Replicas and placement of one layer, searched together.
 *
 * Decides   how many replicas each expert of a layer has, and the GPU of each; slots may stay empty.
 * Minimises what planner/place/layer_cost.h says of the steps looked at, tokens dealt to replicas by the rule `even`.
 * Method    local search from the placements given. Moves, around the GPU that computes longest: drop a replica; add
 * one on a GPU with room; put an expert of this GPU in the place of another's replica; move one; exchange two. The
 * first that is better is taken. When nothing is: a kick of random moves, and back where that leads to nothing better.
 * Bound     never above any of the placements it begins with.
 * Differs   METRO and CRAFT (docs/STRATEGIES.md) choose replicas by loads or by experts activated; here every replica,
 *           and every empty slot, is weighed by the whole step: weights read, rows, tiles and each port.
 * Cost      `effort` elementary operations. */
#include "joint.h"
#include "eplb.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS_MAX 8192u /* with all numbers of replicas */
#define LOG_MAX 1024u
#define NODES_MAX 4u

struct local {
    const struct mp_joint *in;
    const uint16_t **starts; /* [n_starts] */
    uint32_t n_starts;
    struct mp_replicated x;
    struct mp_rng rng;
    bool *is_dirty; /* [n_gpus] */
    uint32_t *busy; /* [n_gpus] */
    uint16_t *here; /* [n_experts] of a scan */
    struct mp_replica_set *best;
    uint64_t best_value, limit;
    struct mp_shift (*log)[MP_SHIFTS_MAX]; /* changes since the best placement */
    uint8_t *log_n;                        /* [LOG_MAX] */
    uint32_t n_log;
    bool is_over, has_struck;
};

enum mp_status mp_joint_most(uint8_t *most, const uint64_t *load, uint32_t n_experts, uint32_t n_gpus, uint32_t n_extra,
                             struct mp_arena *arena, struct mp_error *err) {
    const uint32_t n = n_experts + n_extra, cap = n_gpus < MP_REPLICAS_MAX ? n_gpus : MP_REPLICAS_MAX;
    struct mp_eplb *w;
    const struct mp_eplb_shape shape = {n_experts, n, 1, 1, 1, n_gpus};
    uint16_t *copies = mp_arena_alloc(arena, n, sizeof *copies);
    uint64_t items = 0;
    if (copies == NULL)
        return mp_nomem(err, "replicas of a layer");
    enum mp_status status = mp_eplb_new(&w, &shape, arena, err);
    if (status != MP_OK)
        return status;
    mp_eplb_copies(w, load, copies);
    memset(most, 0, n_experts * sizeof *most);
    for (uint32_t i = 0; i < n; i++)
        most[copies[i]] = (uint8_t)(most[copies[i]] + (most[copies[i]] < cap));
    for (uint32_t e = 0; e < n_experts; e++) {
        most[e] = (uint8_t)(most[e] + (most[e] < cap && n_extra > 0));
        items += mp_layer_items(MP_ROUTE_EVEN, most[e]);
    }
    for (uint32_t e = 0; e < n_experts && items > ITEMS_MAX; e++) { /* as tables would be too large */
        items -= mp_layer_items(MP_ROUTE_EVEN, most[e]);
        most[e] = most[e] > 2 ? 2 : most[e];
        items += mp_layer_items(MP_ROUTE_EVEN, most[e]);
    }
    return MP_OK;
}

static bool is_over(struct local *x) {
    const struct mp_budget *b = x->in->budget;
    if (mp_layer_cost_work(x->x.cost) >= x->limit)
        x->is_over = true;
    if (!x->is_over && b->wall_seconds > 0 && mp_now_seconds() - x->in->started > b->wall_seconds)
        x->is_over = x->has_struck = true;
    return x->is_over;
}

/* Tries; keeps what is better than `than`. */
static bool attempt(struct local *x, const struct mp_shift *shifts, uint32_t n, uint64_t than, bool is_race) {
    const uint64_t value = mp_replicated_try(&x->x, shifts, n, is_race);
    if (value >= than)
        return false;
    mp_replicated_keep(&x->x, shifts, n);
    for (uint32_t k = 0; k < n; k++) {
        if (shifts[k].from != MP_ITEM_OFF)
            x->is_dirty[shifts[k].from] = true;
        if (shifts[k].to != MP_ITEM_OFF)
            x->is_dirty[shifts[k].to] = true;
    }
    if (x->n_log < LOG_MAX) {
        memcpy(x->log[x->n_log], shifts, n * sizeof *shifts);
        x->log_n[x->n_log] = (uint8_t)n;
    }
    x->n_log += x->n_log <= LOG_MAX; /* LOG_MAX + 1: it does not say all */
    return true;
}
static bool improve(struct local *x, const struct mp_shift *shifts, uint32_t n) {
    return attempt(x, shifts, n, mp_layer_cost_now(x->x.cost), x->in->is_race);
}

static bool may_add(const struct local *x, uint32_t expert, uint32_t gpu) {
    return !x->in->must_fill && x->x.n_extra < x->in->n_extra && x->x.set[expert].n < x->x.most[expert] &&
           mp_replicated_room(&x->x, gpu) > 0 && !mp_replicated_has(&x->x, expert, gpu);
}
static bool may_drop(const struct local *x, uint32_t expert) { return !x->in->must_fill && x->x.set[expert].n > 1; }
/* A replica of `expert` in the place of one of `other`. */
static bool may_replace(const struct local *x, uint32_t expert, uint32_t other, uint32_t gpu) {
    return expert != other && x->x.set[other].n > 1 && x->x.set[expert].n < x->x.most[expert] &&
           mp_replicated_has(&x->x, other, gpu) && !mp_replicated_has(&x->x, expert, gpu);
}
static bool replace(struct local *x, uint32_t expert, uint32_t other, uint32_t gpu) {
    const struct mp_shift two[2] = {{(uint16_t)other, (uint16_t)gpu, MP_ITEM_OFF},
                                    {(uint16_t)expert, MP_ITEM_OFF, (uint16_t)gpu}};
    return may_replace(x, expert, other, gpu) && improve(x, two, 2);
}
static bool relocate(struct local *x, uint32_t expert, uint32_t from, uint32_t to) {
    const struct mp_shift one = {(uint16_t)expert, (uint16_t)from, (uint16_t)to};
    return from != to && mp_replicated_room(&x->x, to) > 0 && improve(x, &one, 1);
}
static bool add(struct local *x, uint32_t expert, uint32_t gpu) {
    const struct mp_shift one = {(uint16_t)expert, MP_ITEM_OFF, (uint16_t)gpu};
    return may_add(x, expert, gpu) && improve(x, &one, 1);
}

/* Everything that relieves GPU g; true when something was better. */
static bool scan_gpu(struct local *x, uint32_t g) {
    const uint32_t E = x->x.n_experts, G = x->x.n_gpus, shift = (uint32_t)mp_rng_below(&x->rng, E);
    uint32_t n = 0;
    for (uint32_t i = 0; i < E; i++)
        if (mp_replicated_has(&x->x, (i + shift) % E, g))
            x->here[n++] = (uint16_t)((i + shift) % E);
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t a = x->here[k];
        const struct mp_shift drop = {(uint16_t)a, (uint16_t)g, MP_ITEM_OFF};
        if (may_drop(x, a) && improve(x, &drop, 1))
            return true;
        for (uint32_t i = 1; i < G; i++) {
            const uint32_t h = (g + i) % G;
            if (relocate(x, a, g, h) || add(x, a, h))
                return true;
        }
        if (is_over(x))
            return false;
        for (uint32_t i = 0; i < E; i++) {
            const uint32_t b = (i + shift) % E;
            if (a == b)
                continue;
            for (uint32_t r = 0; r < x->x.set[b].n; r++) {
                const uint32_t h = x->x.set[b].gpu[r];
                const struct mp_shift two[2] = {{(uint16_t)a, (uint16_t)g, (uint16_t)h},
                                                {(uint16_t)b, (uint16_t)h, (uint16_t)g}};
                if (replace(x, a, b, h) || (h != g && improve(x, two, 2)))
                    return true;
            }
            if (replace(x, b, a, g))
                return true;
            if ((i & 15) == 15 && is_over(x))
                return false;
        }
    }
    for (uint32_t b = 0; b < E && mp_replicated_room(&x->x, g) > 0; b++) {
        if (add(x, b, g))
            return true;
        for (uint32_t r = 0; r < x->x.set[b].n; r++)
            if (relocate(x, b, x->x.set[b].gpu[r], g))
                return true;
        if ((b & 15) == 15 && is_over(x))
            return false;
    }
    return false;
}

static void descend(struct local *x) {
    bool is_settled = false;
    while (!is_over(x)) {
        uint32_t most = MP_NONE;
        mp_layer_cost_busy(x->x.cost, x->busy);
        for (uint32_t g = 0; g < x->x.n_gpus; g++)
            if (x->is_dirty[g] && (most == MP_NONE || x->busy[g] > x->busy[most]))
                most = g;
        if (most == MP_NONE) {
            if (is_settled)
                return;
            is_settled = true; /* once around all of them */
            memset(x->is_dirty, true, x->x.n_gpus * sizeof *x->is_dirty);
            continue;
        }
        x->is_dirty[most] = false;
        if (scan_gpu(x, most)) {
            is_settled = false;
            x->is_dirty[most] = true;
        }
    }
}

static void keep_best(struct local *x) {
    if (mp_layer_cost_now(x->x.cost) >= x->best_value)
        return;
    x->best_value = mp_layer_cost_now(x->x.cost);
    memcpy(x->best, x->x.set, x->x.n_experts * sizeof *x->best);
    x->n_log = 0;
}

static void return_to_best(struct local *x) {
    if (x->n_log > LOG_MAX) {
        mp_replicated_set(&x->x, x->best);
    } else {
        for (uint32_t i = x->n_log; i-- > 0;) {
            struct mp_shift back[MP_SHIFTS_MAX];
            for (uint32_t k = 0; k < x->log_n[i]; k++)
                back[k] = (struct mp_shift){x->log[i][k].expert, x->log[i][k].to, x->log[i][k].from};
            (void)mp_replicated_try(&x->x, back, x->log_n[i], false);
            mp_replicated_keep(&x->x, back, x->log_n[i]);
        }
    }
    x->n_log = 0;
}

static void kick(struct local *x, uint32_t n) {
    const uint32_t E = x->x.n_experts, G = x->x.n_gpus;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t a = (uint32_t)mp_rng_below(&x->rng, E), b = (uint32_t)mp_rng_below(&x->rng, E),
                       g = x->x.set[a].gpu[mp_rng_below(&x->rng, x->x.set[a].n)],
                       h = x->x.set[b].gpu[mp_rng_below(&x->rng, x->x.set[b].n)],
                       to = (uint32_t)mp_rng_below(&x->rng, G);
        const struct mp_shift swap[2] = {{(uint16_t)a, (uint16_t)g, (uint16_t)h},
                                         {(uint16_t)b, (uint16_t)h, (uint16_t)g}},
                              replaced[2] = {{(uint16_t)b, (uint16_t)h, MP_ITEM_OFF},
                                             {(uint16_t)a, MP_ITEM_OFF, (uint16_t)h}},
                              added = {(uint16_t)a, MP_ITEM_OFF, (uint16_t)to},
                              dropped = {(uint16_t)a, (uint16_t)g, MP_ITEM_OFF};
        const uint64_t way = mp_rng_below(&x->rng, 4);
        if (way == 0 && may_replace(x, a, b, h))
            (void)attempt(x, replaced, 2, UINT64_MAX, false);
        else if (way == 1 && may_add(x, a, to))
            (void)attempt(x, &added, 1, UINT64_MAX, false);
        else if (way == 2 && may_drop(x, a))
            (void)attempt(x, &dropped, 1, UINT64_MAX, false);
        else if (a != b && g != h)
            (void)attempt(x, swap, 2, UINT64_MAX, false);
    }
}

struct start {
    uint64_t value;
    uint32_t number;
};
static int by_value(const void *a, const void *b) {
    const struct start *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static bool fits(const struct local *x) {
    const struct mp_joint *in = x->in;
    for (uint32_t g = 0; g < x->x.n_gpus; g++)
        if (x->x.n_used[g] > in->first_slot[g + 1] - in->first_slot[g] ||
            (in->must_fill && mp_replicated_room(&x->x, g) > 0))
            return false;
    return x->x.n_extra <= in->n_extra;
}

static enum mp_status search(struct local *x, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_joint *in = x->in;
    struct start *starts = mp_arena_alloc(arena, x->n_starts, sizeof *starts);
    uint32_t n = 0;
    if (starts == NULL)
        return mp_nomem(err, "replicas of a layer");
    for (uint32_t i = 0; i < x->n_starts; i++) {
        if (!mp_replicated_read(&x->x, x->starts[i]) || !fits(x))
            continue;
        keep_best(x);
        starts[n++] = (struct start){mp_layer_cost_now(x->x.cost), i};
    }
    if (n == 0)
        return MP_OK; /* best_value says that there is none */
    qsort(starts, n, sizeof *starts, by_value);
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && starts[i].value == starts[i - 1].value)
            continue;
        const uint64_t used = mp_layer_cost_work(x->x.cost), left = in->effort > used ? in->effort - used : 0;
        x->limit = used + (i == 0 ? left / 2 : left / 8);
        x->is_over = false;
        (void)mp_replicated_read(&x->x, x->starts[starts[i].number]);
        memset(x->is_dirty, true, x->x.n_gpus * sizeof *x->is_dirty);
        descend(x);
        keep_best(x);
    }
    x->limit = in->effort;
    x->is_over = false;
    mp_replicated_set(&x->x, x->best);
    x->n_log = 0;
    memset(x->is_dirty, true, x->x.n_gpus * sizeof *x->is_dirty);
    descend(x);
    keep_best(x);
    for (uint32_t i = 0; i < in->kicks && !is_over(x); i++) {
        const uint64_t before = x->best_value;
        memset(x->is_dirty, 0, x->x.n_gpus * sizeof *x->is_dirty);
        kick(x, 2 + (uint32_t)mp_rng_below(&x->rng, 3));
        descend(x);
        keep_best(x);
        if (x->best_value < before)
            i = 0;
        else
            return_to_best(x);
    }
    return MP_OK;
}

/* A replica on every node, of a few nodes, keeps what an expert is sent at home. */
static void allow_each_node(uint8_t *most, const struct mp_topology *topology, uint32_t n_experts) {
    const uint32_t n = mp_topology_n_nodes(topology);
    for (uint32_t e = 0; e < n_experts && n <= NODES_MAX; e++)
        most[e] = (uint8_t)(most[e] < n ? n : most[e]);
}

/* Those given, and the first of them with what nodes need at home. */
static enum mp_status list_starts(struct local *x, const uint8_t *most, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_joint *in = x->in;
    const uint32_t n_slots = in->first_slot[in->cost.problem->topology->n_gpus];
    uint16_t *near = mp_arena_alloc(arena, n_slots, sizeof *near);
    bool has_near = false;
    x->starts = mp_arena_alloc(arena, in->n_starts + 1, sizeof *x->starts);
    if (near == NULL || x->starts == NULL)
        return mp_nomem(err, "replicas of a layer");
    for (uint32_t i = 0; i < in->n_starts; i++)
        x->starts[x->n_starts++] = in->starts[i];
    if (in->n_starts > 0) {
        memcpy(near, in->starts[0], n_slots * sizeof *near);
        enum mp_status status = mp_joint_near(in, most, near, &has_near, arena, err);
        if (status != MP_OK)
            return status;
    }
    if (has_near)
        x->starts[x->n_starts++] = near;
    return MP_OK;
}

enum mp_status mp_joint_search(const struct mp_joint *in, uint16_t *slots, uint64_t *value, uint64_t *work,
                               bool *has_struck, enum mp_outcome *outcome, struct mp_error *err) {
    struct local x = {.in = in, .rng = mp_rng_seed(in->seed), .best_value = UINT64_MAX};
    const uint32_t n_experts = in->cost.problem->workload->trace->n_experts,
                   n_gpus = in->cost.problem->topology->n_gpus;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    uint8_t *most = arena != NULL ? mp_arena_alloc(arena, n_experts, sizeof *most) : NULL;
    if (most == NULL) {
        status = mp_nomem(err, "replicas of a layer");
        goto out;
    }
    MP_TRY(mp_joint_most(most, in->load, n_experts, n_gpus, in->n_extra, arena, err));
    if (in->cost.rule == MP_ROUTE_NEAREST)
        allow_each_node(most, in->cost.problem->topology, n_experts);
    MP_TRY(list_starts(&x, most, arena, err));
    MP_TRY(mp_replicated_new(&x.x, &in->cost, most, in->first_slot, arena, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    x.is_dirty = mp_arena_alloc(arena, n_gpus, sizeof *x.is_dirty);
    x.busy = mp_arena_alloc(arena, n_gpus, sizeof *x.busy);
    x.here = mp_arena_alloc(arena, n_experts, sizeof *x.here);
    x.best = mp_arena_alloc(arena, n_experts, sizeof *x.best);
    x.log = mp_arena_alloc(arena, LOG_MAX, sizeof *x.log);
    x.log_n = mp_arena_alloc(arena, LOG_MAX, sizeof *x.log_n);
    if (x.is_dirty == NULL || x.busy == NULL || x.here == NULL || x.best == NULL || x.log == NULL || x.log_n == NULL) {
        status = mp_nomem(err, "replicas of a layer");
        goto out;
    }
    MP_TRY(search(&x, arena, err));
    *work += mp_layer_cost_work(x.x.cost);
    *has_struck |= x.has_struck;
    *value = x.best_value;
    if (x.best_value == UINT64_MAX) {
        *outcome = MP_NOT_FOUND;
        goto out;
    }
    memcpy(x.x.set, x.best, n_experts * sizeof *x.best);
    mp_replicated_write(&x.x, slots, in->first_slot[n_gpus]);
out:
    mp_layer_cost_free(x.x.cost);
    mp_arena_free(arena);
    return status;
}
