/* Occult's grouping: seeds far apart, then whoever is closest to a group.
 *
 * Decides   expert -> GPU; of replicas, the first copy.
 * Minimises (greedily) the GPUs that a token needs, at equal group sizes.
 * Method    one seed per GPU: first the expert with most co-activation in all, then always the one with least affinity
 *           to the seeds there are (ties: most co-activation, then the lower id), among experts that are used. Then the
 *           pair of a free expert and a group with room whose mean affinity to the group's members is largest, until
 *           none is free. Fractions are compared in whole numbers. Copies beyond an expert's first go to the GPUs with
 *           least load.
 * Bound     none, as published.
 * Paper     Occult, arXiv 2505.13345.
 * Differs   nodes are not looked at (the paper has one); how the first seed and ties are chosen is ours. Its pruning of
 *           experts, which changes the model's answers, is left out.
 * Cost      O(L (tokens k^2 + E^2 GPUs)). */
#include "affinity.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <string.h>

struct occult {
    const struct mp_problem *in;
    const struct mp_plan *shape;
    const uint32_t *room, *share; /* [n_gpus] */
    uint16_t *gpu;                /* [n_layers][n_experts] */
    enum mp_outcome *outcomes;    /* [n_layers] */
    struct mp_error *declined;    /* [n_layers] */
};

struct greedy {
    uint32_t n, n_groups;
    const uint64_t *a;
    const uint32_t *share;
    uint64_t *degree; /* [n] */
    uint64_t *to;     /* [n][n_groups] */
    uint32_t *size;   /* [n_groups] */
    uint32_t *group;  /* [n], MP_NONE = free */
};

static void put(struct greedy *x, uint32_t item, uint32_t group) {
    x->group[item] = group;
    x->size[group]++;
    for (uint32_t i = 0; i < x->n; i++)
        x->to[(size_t)i * x->n_groups + group] += x->a[(size_t)i * x->n + item];
}

static uint32_t next_seed(const struct greedy *x, uint32_t n_seeds) {
    uint32_t best = MP_NONE;
    uint64_t best_sum = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        uint64_t sum = 0;
        if (x->group[i] != MP_NONE || (best != MP_NONE && x->degree[i] == 0))
            continue; /* an expert that nobody uses is far from all */
        for (uint32_t g = 0; g < n_seeds; g++)
            sum += x->to[(size_t)i * x->n_groups + g];
        const bool is_first = best == MP_NONE || (x->degree[best] == 0 && x->degree[i] > 0);
        if (is_first || sum < best_sum || (sum == best_sum && x->degree[i] > x->degree[best])) {
            best = i;
            best_sum = sum;
        }
    }
    return best;
}

/* a / b > c / d, for b and d > 0. */
static bool is_more(uint64_t a, uint32_t b, uint64_t c, uint32_t d) {
    return (unsigned __int128)a * d > (unsigned __int128)c * b;
}

static void grow(struct greedy *x) {
    uint32_t n_free = 0;
    for (uint32_t g = 0; g < x->n_groups; g++) {
        const uint32_t seed = x->share[g] > 0 ? next_seed(x, g) : MP_NONE;
        if (seed != MP_NONE)
            put(x, seed, g);
    }
    for (uint32_t i = 0; i < x->n; i++)
        n_free += x->group[i] == MP_NONE;
    for (; n_free > 0; n_free--) {
        uint32_t item = MP_NONE, group = MP_NONE;
        for (uint32_t i = 0; i < x->n; i++)
            for (uint32_t g = 0; x->group[i] == MP_NONE && g < x->n_groups; g++) {
                if (x->size[g] >= x->share[g])
                    continue;
                if (item != MP_NONE && !is_more(x->to[(size_t)i * x->n_groups + g], x->size[g],
                                                x->to[(size_t)item * x->n_groups + group], x->size[group]))
                    continue;
                item = i;
                group = g;
            }
        put(x, item, group);
    }
}

static enum mp_status group_layer(struct occult *w, uint32_t layer, struct mp_arena *arena, struct mp_error *err) {
    struct greedy x = {.n = w->shape->n_experts, .n_groups = w->shape->n_gpus, .share = w->share};
    enum mp_status status;
    uint64_t *a = mp_arena_alloc(arena, (size_t)x.n * x.n, sizeof *a);
    x.degree = mp_arena_alloc(arena, x.n, sizeof *x.degree);
    x.to = mp_arena_alloc(arena, (size_t)x.n * x.n_groups, sizeof *x.to);
    x.size = mp_arena_alloc(arena, x.n_groups, sizeof *x.size);
    x.group = mp_arena_alloc(arena, x.n, sizeof *x.group);
    if (a == NULL || x.degree == NULL || x.to == NULL || x.size == NULL || x.group == NULL)
        return mp_nomem(err, "grouping experts");
    struct mp_error why = {0};
    MP_TRY(mp_affinity(w->in, layer, "occult", a, &w->outcomes[layer], &why));
    if (w->outcomes[layer] != MP_FOUND) {
        w->declined[layer] = why;
        return MP_OK;
    }
    x.a = a;
    for (uint32_t i = 0; i < x.n; i++) {
        x.group[i] = MP_NONE;
        for (uint32_t j = 0; j < x.n; j++)
            x.degree[i] += a[(size_t)i * x.n + j];
    }
    grow(&x);
    for (uint32_t i = 0; i < x.n; i++)
        w->gpu[(size_t)layer * x.n + i] = (uint16_t)x.group[i];
out:
    return status;
}

static enum mp_status one_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    (void)worker;
    if (arena == NULL)
        return mp_nomem(err, "grouping experts");
    enum mp_status status = group_layer(ctx, (uint32_t)i, arena, err);
    mp_arena_free(arena);
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    struct occult w = {.in = in, .shape = p};
    uint32_t *room = mp_arena_alloc(scratch, p->n_gpus, sizeof *room);
    uint32_t *share = mp_arena_alloc(scratch, p->n_gpus, sizeof *share);
    w.gpu = mp_arena_alloc(scratch, (size_t)p->n_layers * p->n_experts, sizeof *w.gpu);
    w.outcomes = mp_arena_alloc(scratch, p->n_layers, sizeof *w.outcomes);
    w.declined = mp_arena_alloc(scratch, p->n_layers, sizeof *w.declined);
    if (room == NULL || share == NULL || w.gpu == NULL || w.outcomes == NULL || w.declined == NULL)
        return mp_nomem(err, "grouping experts");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        room[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    mp_bins_share(room, p->n_gpus, p->n_experts, share);
    w.share = share;
    enum mp_status status =
        mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, p->n_layers, one_layer, &w, err);
    if (status != MP_OK)
        return status;
    *outcome = MP_FOUND;
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (w.outcomes[l] != MP_FOUND) {
            *outcome = w.outcomes[l];
            if (err != NULL)
                *err = w.declined[l];
            return MP_OK;
        }
    return mp_place_groups(in, draft, "occult", w.gpu, scratch, outcome, err);
}

const struct mp_strategy mp_strategy_place_occult = {
    .name = "occult",
    .summary = "Occult's greedy groups: seeds far apart, then the largest mean affinity, equal sizes",
    .reference = "Occult, arXiv 2505.13345",
    .stage = MP_PLAN_PLACE,
    .is_named_only = true,
    .takes_layers = true,
    .solve = solve};
