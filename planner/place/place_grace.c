/* GRACE's hierarchical grouping: experts that tokens use together on one node, and there on one GPU.
 *
 * Decides   expert -> GPU; of replicas, the first copy.
 * Minimises (heuristically) nodes, then GPUs, that a token needs, at a bounded spread of group sizes.
 * Method    per layer: spectral clustering of the co-activation matrix into as many groups as nodes, sizes as they
 * come; in each node into as many groups as GPUs, made to have between (1 - r) and (1 + r) of an equal share. r: the
 * knee of the curve of affinity kept inside groups, U, over the standard deviation of sizes, S, both over all layers:
 * the candidate farthest above the chord from the first to the last. Slots bound every group. Copies beyond an expert's
 * first go to the GPUs with least load.
 * Bound     none, as published.
 * Paper     GRACE-MoE, arXiv 2509.25041, sections 4.1 and 4.2, algorithms 1 and 2.
 * Differs   seeds of k-means and ties are fixed; empty groups and slots are looked after; a group that is too large
 *           gives up the expert that loses least, one by one; r = 0 means equal sizes (printed: one expert more or
 *           less); how the knee is found is not printed. With equal slots that are all needed every group is of equal
 *           size, and r decides nothing.
 * Cost      O(L (tokens k^2 + E^3)). */
#include "place_grace.h"
#include "spectral.h"
#include <moeplan/progress.h>
#include <math.h>
#include <moeplan/base.h>
#include <string.h>

enum { OPTION_RATIO, OPTION_NODE_RATIO, OPTION_RESTARTS };
static const struct mp_option options[] = {
    {"ratio", "percent", "how far the experts of a GPU may be from an equal share (-1 = the knee of the curve)", -1, -1,
     1000000},
    {"node-ratio", "percent", "the same for the experts of a node (-1 = as far as slots go)", -1, -1, 1000000},
    {"restarts", "restarts", "of k-means, the tightest clustering wins", 10, 1, 1000},
    {.name = NULL}};

static const uint32_t candidates[] = {0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50}; /* percent */
#define N_CANDIDATES (sizeof candidates / sizeof candidates[0])

struct grace {
    const struct mp_problem *in;
    const struct mp_plan *shape;
    const int64_t *values;
    struct mp_bins bins;
    uint32_t n_ratios;
    int64_t ratios[N_CANDIDATES];
    uint16_t *gpu;             /* [n_ratios][n_layers][n_experts] */
    uint64_t *inside;          /* [n_ratios][n_layers] */
    uint64_t *squares;         /* [n_ratios][n_layers] sum over GPUs of (GPUs of the node * size - experts of it)^2 */
    enum mp_outcome *outcomes; /* [n_layers] */
    struct mp_error *declined; /* [n_layers] */
};

/* Least and most items of each bin: `percent` about an equal share; negative: as far as room goes. A bin with room has
 * at least one, and as many as its own bins. */
static void limits_of(const uint32_t *room, const uint32_t *n_inner, uint32_t n_bins, uint32_t n, int64_t percent,
                      uint32_t *least, uint32_t *most) {
    mp_bins_share(room, n_bins, n, least);
    for (uint32_t b = 0; b < n_bins; b++) {
        const uint32_t share = least[b], one = n_inner != NULL ? n_inner[b] : 1;
        uint64_t away = percent < 0 ? n : ((uint64_t)percent * share + 50) / 100;
        away = percent > 0 && away == 0 ? 1 : away < n ? away : n;
        least[b] = share > one + away ? share - (uint32_t)away : share < one ? share : one;
        least[b] = away == 0 ? share : least[b];
        most[b] = share + (uint32_t)away < room[b] ? share + (uint32_t)away : room[b];
    }
}

struct layer {
    struct grace *grace;
    struct mp_arena *arena;
    uint32_t index, n;
    const uint64_t *pairs;
};

/* The experts of a node to its GPUs, once for each ratio. */
static enum mp_status group_node(const struct layer *x, uint32_t node, const uint32_t *experts, uint32_t n,
                                 struct mp_error *err) {
    struct grace *w = x->grace;
    const struct mp_bins *bins = &w->bins;
    const uint32_t from = bins->node_first[node], n_gpus = bins->node_first[node + 1] - from;
    const size_t n_layers = w->shape->n_layers;
    enum mp_status status;
    uint64_t *a = mp_arena_alloc(x->arena, (size_t)n * n, sizeof *a);
    uint32_t *loose = mp_arena_alloc(x->arena, n, sizeof *loose), *group = mp_arena_alloc(x->arena, n, sizeof *group);
    uint32_t *least = mp_arena_alloc(x->arena, n_gpus, sizeof *least);
    uint32_t *most = mp_arena_alloc(x->arena, n_gpus, sizeof *most);
    uint32_t *size = mp_arena_alloc(x->arena, n_gpus, sizeof *size);
    if (a == NULL || loose == NULL || group == NULL || least == NULL || most == NULL || size == NULL)
        return mp_nomem(err, "grouping experts");
    mp_affinity_among(x->pairs, x->n, experts, n, a);
    struct mp_groups g = {.n = n, .n_groups = n_gpus, .a = a, .least = least, .most = most, .group = loose};
    const uint64_t seed = mp_mix64(w->in->seed ^ mp_mix64((uint64_t)x->index << 32 | (node + 1)));
    MP_TRY(mp_spectral(&g, (uint32_t)w->values[OPTION_RESTARTS], seed, x->arena, err));
    MP_TRY(mp_groups_rename(&g, bins->room + from, x->arena, err));
    g.group = group;
    for (uint32_t r = 0; r < w->n_ratios; r++) {
        uint16_t *gpu = w->gpu + (r * n_layers + x->index) * x->n;
        memcpy(group, loose, n * sizeof *group);
        limits_of(bins->room + from, NULL, n_gpus, n, w->ratios[r], least, most);
        MP_TRY(mp_groups_fit(&g, x->arena, err));
        memset(size, 0, n_gpus * sizeof *size);
        for (uint32_t i = 0; i < n; i++) {
            gpu[experts[i]] = (uint16_t)bins->gpus[from + group[i]];
            size[group[i]]++;
        }
        w->inside[r * n_layers + x->index] += mp_groups_inside(&g);
        for (uint32_t b = 0; b < n_gpus; b++) {
            const int64_t off = (int64_t)size[b] * n_gpus - n;
            w->squares[r * n_layers + x->index] += (uint64_t)(off * off);
        }
    }
out:
    return status;
}

static enum mp_status group_layer(struct layer *x, struct mp_error *err) {
    struct grace *w = x->grace;
    const struct mp_bins *bins = &w->bins;
    const uint32_t n_nodes = bins->n_nodes, n = x->n;
    enum mp_status status;
    uint64_t *pairs = mp_arena_alloc(x->arena, (size_t)n * n, sizeof *pairs);
    uint32_t *node = mp_arena_alloc(x->arena, n, sizeof *node), *list = mp_arena_alloc(x->arena, n, sizeof *list);
    uint32_t *least = mp_arena_alloc(x->arena, n_nodes, sizeof *least);
    uint32_t *most = mp_arena_alloc(x->arena, n_nodes, sizeof *most);
    uint32_t *inner = mp_arena_alloc(x->arena, n_nodes, sizeof *inner);
    if (pairs == NULL || node == NULL || list == NULL || least == NULL || most == NULL || inner == NULL)
        return mp_nomem(err, "grouping experts");
    struct mp_error why = {0};
    MP_TRY(mp_affinity(w->in, x->index, "grace", pairs, &w->outcomes[x->index], &why));
    if (w->outcomes[x->index] != MP_FOUND) {
        w->declined[x->index] = why;
        return MP_OK;
    }
    x->pairs = pairs;
    struct mp_groups g = {.n = n, .n_groups = n_nodes, .a = pairs, .least = least, .most = most, .group = node};
    const uint64_t seed = mp_mix64(w->in->seed ^ mp_mix64((uint64_t)x->index << 32));
    MP_TRY(mp_spectral(&g, (uint32_t)w->values[OPTION_RESTARTS], seed, x->arena, err));
    MP_TRY(mp_groups_rename(&g, bins->node_room, x->arena, err));
    for (uint32_t v = 0; v < n_nodes; v++)
        inner[v] = bins->node_first[v + 1] - bins->node_first[v];
    limits_of(bins->node_room, inner, n_nodes, n, w->values[OPTION_NODE_RATIO], least, most);
    MP_TRY(mp_groups_fit(&g, x->arena, err));
    for (uint32_t v = 0; v < n_nodes; v++) {
        uint32_t m = 0;
        for (uint32_t e = 0; e < n; e++)
            if (node[e] == v)
                list[m++] = e;
        MP_TRY(group_node(x, v, list, m, err));
    }
out:
    return status;
}

static enum mp_status one_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct grace *w = ctx;
    struct layer x = {.grace = w, .index = (uint32_t)i, .n = w->shape->n_experts, .arena = mp_arena_new()};
    (void)worker;
    if (x.arena == NULL)
        return mp_nomem(err, "grouping experts");
    enum mp_status status = group_layer(&x, err);
    mp_arena_free(x.arena);
    return status;
}

/* The candidate farthest above the chord of the curve (S, U). Where none is, affinity grows to the end as fast as
 * sizes spread: the first that is where the curve ends. */
static uint32_t knee(const struct grace *w) {
    double s[N_CANDIDATES] = {0}, u[N_CANDIDATES] = {0}, farthest = 0;
    const uint32_t n_layers = w->shape->n_layers, last = w->n_ratios - 1;
    uint32_t best = 0;
    for (uint32_t r = 0; r < w->n_ratios; r++) {
        uint64_t inside = 0, squares = 0;
        for (uint32_t l = 0; l < n_layers; l++) {
            inside += w->inside[(size_t)r * n_layers + l];
            squares += w->squares[(size_t)r * n_layers + l];
        }
        u[r] = (double)inside;
        s[r] = sqrt((double)squares);
    }
    for (uint32_t r = 1; r < last; r++) {
        const double above = (u[r] - u[0]) * (s[last] - s[0]) - (s[r] - s[0]) * (u[last] - u[0]);
        best = above > farthest ? r : best;
        farthest = above > farthest ? above : farthest;
    }
    for (uint32_t r = 0; farthest <= 0; r++)
        if (u[r] == u[last] && s[r] == s[last])
            return r;
    return best;
}

static enum mp_status group_all(struct grace *w, uint16_t *gpu, struct mp_arena *arena, enum mp_outcome *outcome,
                                struct mp_error *err) {
    const size_t n_layers = w->shape->n_layers, n = w->shape->n_experts;
    enum mp_status status;
    *outcome = MP_FOUND;
    w->n_ratios = w->values[OPTION_RATIO] < 0 ? N_CANDIDATES : 1;
    for (uint32_t r = 0; r < w->n_ratios; r++)
        w->ratios[r] = w->values[OPTION_RATIO] < 0 ? (int64_t)candidates[r] : w->values[OPTION_RATIO];
    MP_TRY(mp_bins_of(&w->bins, w->shape, arena, err));
    w->gpu = mp_arena_alloc(arena, w->n_ratios * n_layers * n, sizeof *w->gpu);
    w->inside = mp_arena_alloc(arena, w->n_ratios * n_layers, sizeof *w->inside);
    w->squares = mp_arena_alloc(arena, w->n_ratios * n_layers, sizeof *w->squares);
    w->outcomes = mp_arena_alloc(arena, n_layers, sizeof *w->outcomes);
    w->declined = mp_arena_alloc(arena, n_layers, sizeof *w->declined);
    if (w->gpu == NULL || w->inside == NULL || w->squares == NULL || w->outcomes == NULL || w->declined == NULL)
        return mp_nomem(err, "grouping experts");
    MP_TRY(mp_parallel_for_told(w->in->sim.progress, "layers", w->in->n_threads, n_layers, one_layer, w, err));
    for (size_t l = 0; l < n_layers; l++)
        if (w->outcomes[l] != MP_FOUND) {
            *outcome = w->outcomes[l];
            if (err != NULL)
                *err = w->declined[l];
            return MP_OK;
        }
    memcpy(gpu, w->gpu + (w->n_ratios > 1 ? knee(w) : 0) * n_layers * n, n_layers * n * sizeof *gpu);
out:
    return status;
}

enum mp_status mp_grace_groups(uint16_t *gpu, const struct mp_problem *in, const struct mp_plan *shape,
                               struct mp_arena *arena, enum mp_outcome *outcome, struct mp_error *err) {
    struct grace w = {.in = in, .shape = shape};
    enum mp_status status =
        mp_option_values(&w.values, mp_strategy_find(MP_PLAN_PLACE, "grace"), in->settings, in->n_settings, arena, err);
    return status == MP_OK ? group_all(&w, gpu, arena, outcome, err) : status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    uint16_t *gpu = mp_arena_alloc(scratch, (size_t)p->n_layers * p->n_experts, sizeof *gpu);
    if (gpu == NULL)
        return mp_nomem(err, "grouping experts");
    enum mp_status status = mp_grace_groups(gpu, in, p, scratch, outcome, err);
    if (status != MP_OK || *outcome != MP_FOUND)
        return status;
    return mp_place_groups(in, draft, "grace", gpu, scratch, outcome, err);
}

const struct mp_strategy mp_strategy_place_grace = {
    .name = "grace",
    .summary = "GRACE's grouping: experts used together on one node, then on one GPU, sizes as far as slots go",
    .reference = "GRACE-MoE, arXiv 2509.25041",
    .stage = MP_PLAN_PLACE,
    .is_named_only = true,
    .takes_layers = true,
    .options = options,
    .solve = solve};
