/* Groups of experts that tokens use together: the matrix, sizes of groups, and groups on GPUs. */
#include "affinity.h"
#include "grid.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

enum mp_status mp_affinity(const struct mp_problem *in, uint32_t layer, const char *strategy, uint64_t *pairs,
                           enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_error why = {0};
    const uint32_t n = in->workload->trace->n_experts;
    enum mp_status status = mp_workload_pairs(in->workload, layer, pairs, &why);
    *outcome = MP_FOUND;
    if (status == MP_EUSAGE)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "%s: %s", strategy, why.message);
    if (status != MP_OK && err != NULL)
        *err = why;
    for (uint32_t e = 0; e < n; e++)
        pairs[(size_t)e * n + e] = 0;
    return status;
}

enum mp_status mp_bins_of(struct mp_bins *out, const struct mp_plan *plan, struct mp_arena *arena,
                          struct mp_error *err) {
    const uint32_t n = plan->n_gpus, n_nodes = plan->n_nodes < n && plan->n_nodes > 0 ? plan->n_nodes : 1;
    out->n_nodes = n_nodes;
    out->n_gpus = n;
    out->node_first = mp_arena_alloc(arena, n_nodes + 1, sizeof *out->node_first);
    out->gpus = mp_arena_alloc(arena, n, sizeof *out->gpus);
    out->room = mp_arena_alloc(arena, n, sizeof *out->room);
    out->node_room = mp_arena_alloc(arena, n_nodes, sizeof *out->node_room);
    if (out->node_first == NULL || out->gpus == NULL || out->room == NULL || out->node_room == NULL)
        return mp_nomem(err, "grouping experts");
    uint32_t at = 0;
    for (uint32_t v = 0; v < n_nodes; v++) {
        for (uint32_t g = 0; g < n; g++) {
            if (n_nodes > 1 && plan->gpu_node[g] != v)
                continue;
            out->room[at] = plan->gpu_first_slot[g + 1] - plan->gpu_first_slot[g];
            out->node_room[v] += out->room[at];
            out->gpus[at++] = g;
        }
        out->node_first[v + 1] = at;
    }
    return MP_OK;
}

void mp_bins_share(const uint32_t *room, uint32_t n_bins, uint32_t n, uint32_t *share) {
    memset(share, 0, n_bins * sizeof *share);
    for (uint32_t left = n; left > 0;) {
        uint32_t n_open = 0;
        for (uint32_t b = 0; b < n_bins; b++)
            n_open += share[b] < room[b];
        if (n_open == 0)
            return;
        const uint32_t each = left / n_open > 0 ? left / n_open : 1;
        for (uint32_t b = 0; b < n_bins && left > 0; b++) {
            uint32_t more = room[b] - share[b] < each ? room[b] - share[b] : each;
            more = more < left ? more : left;
            share[b] += more;
            left -= more;
        }
    }
}

/* to[item][group]: affinity of each item to each group. */
static void sum_up(const struct mp_groups *x, uint64_t *to) {
    memset(to, 0, (size_t)x->n * x->n_groups * sizeof *to);
    for (uint32_t i = 0; i < x->n; i++)
        for (uint32_t j = 0; j < x->n; j++)
            to[(size_t)i * x->n_groups + x->group[j]] += x->a[(size_t)i * x->n + j];
}

static void move(struct mp_groups *x, uint32_t item, uint32_t group, uint32_t *size, uint64_t *to) {
    const uint32_t from = x->group[item];
    for (uint32_t i = 0; i < x->n; i++) {
        to[(size_t)i * x->n_groups + from] -= x->a[(size_t)i * x->n + item];
        to[(size_t)i * x->n_groups + group] += x->a[(size_t)i * x->n + item];
    }
    size[from]--;
    size[group]++;
    x->group[item] = group;
}

/* The move out of a group above `floor` into a group below `ceiling` that loses least: leaves the weakest of a group
 * first, and goes where its affinity is most. False: there is none. */
static bool cheapest(const struct mp_groups *x, const uint64_t *to, const uint32_t *size, const uint32_t *floor,
                     const uint32_t *ceiling, uint32_t *item, uint32_t *group) {
    bool is_any = false;
    int64_t least = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        const uint32_t from = x->group[i];
        if (size[from] <= floor[from])
            continue;
        for (uint32_t g = 0; g < x->n_groups; g++) {
            if (g == from || size[g] >= ceiling[g])
                continue;
            const int64_t loss = (int64_t)to[(size_t)i * x->n_groups + from] - (int64_t)to[(size_t)i * x->n_groups + g];
            if (is_any && loss >= least)
                continue;
            is_any = true;
            least = loss;
            *item = i;
            *group = g;
        }
    }
    return is_any;
}

enum mp_status mp_groups_fit(struct mp_groups *x, struct mp_arena *arena, struct mp_error *err) {
    uint32_t item = 0, group = 0;
    uint32_t *size = mp_arena_alloc(arena, x->n_groups, sizeof *size);
    uint64_t *to = mp_arena_alloc(arena, (size_t)x->n * x->n_groups, sizeof *to);
    if (size == NULL || to == NULL)
        return mp_nomem(err, "grouping experts");
    for (uint32_t i = 0; i < x->n; i++)
        size[x->group[i]]++;
    sum_up(x, to);
    while (cheapest(x, to, size, x->most, x->most, &item, &group))
        move(x, item, group, size, to);
    while (cheapest(x, to, size, x->least, x->least, &item, &group))
        move(x, item, group, size, to);
    return MP_OK;
}

uint64_t mp_groups_inside(const struct mp_groups *x) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < x->n; i++)
        for (uint32_t j = 0; j < i; j++)
            sum += x->group[i] == x->group[j] ? x->a[(size_t)i * x->n + j] : 0;
    return sum;
}

struct ranked {
    uint32_t size, first, index;
};
static int by_size(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->size != y->size)
        return x->size < y->size ? 1 : -1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

enum mp_status mp_groups_rename(struct mp_groups *x, const uint32_t *room, struct mp_arena *arena,
                                struct mp_error *err) {
    struct ranked *groups = mp_arena_alloc(arena, x->n_groups, sizeof *groups);
    struct ranked *bins = mp_arena_alloc(arena, x->n_groups, sizeof *bins);
    uint32_t *name = mp_arena_alloc(arena, x->n_groups, sizeof *name);
    if (groups == NULL || bins == NULL || name == NULL)
        return mp_nomem(err, "grouping experts");
    for (uint32_t g = 0; g < x->n_groups; g++) {
        groups[g] = (struct ranked){0, x->n, g};
        bins[g] = (struct ranked){room[g], g, g};
    }
    for (uint32_t i = x->n; i-- > 0;) {
        groups[x->group[i]].size++;
        groups[x->group[i]].first = i;
    }
    qsort(groups, x->n_groups, sizeof *groups, by_size);
    qsort(bins, x->n_groups, sizeof *bins, by_size);
    for (uint32_t k = 0; k < x->n_groups; k++)
        name[groups[k].index] = bins[k].index;
    for (uint32_t i = 0; i < x->n; i++)
        x->group[i] = name[x->group[i]];
    return MP_OK;
}

void mp_affinity_among(const uint64_t *a, uint32_t n, const uint32_t *items, uint32_t m, uint64_t *out) {
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < m; j++)
            out[(size_t)i * m + j] = a[(size_t)items[i] * n + items[j]];
}

/* ---- on GPUs ---- */
struct extra {
    uint64_t load; /* of a copy */
    uint32_t expert, index;
};
static int by_falling_load(const void *a, const void *b) {
    const struct extra *x = a, *y = b;
    if (x->load != y->load)
        return x->load < y->load ? 1 : -1;
    if (x->expert != y->expert)
        return x->expert < y->expert ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* The GPU with least load that can take the expert and has no copy of it. */
static uint32_t least_loaded(const struct mp_grid *grid, const uint64_t *load, uint32_t expert) {
    uint32_t best = MP_NONE;
    for (uint32_t g = 0; g < grid->n_gpus; g++)
        if (mp_grid_can(grid, g, expert) && !mp_grid_has(grid, g, expert) && (best == MP_NONE || load[g] < load[best]))
            best = g;
    return best;
}

enum mp_status mp_place_groups(const struct mp_problem *in, struct mp_draft *draft, const char *strategy,
                               const uint16_t *gpu, struct mp_arena *arena, enum mp_outcome *outcome,
                               struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    const uint32_t n = p->n_experts;
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, in, draft, arena, err);
    if (status != MP_OK)
        return status;
    struct extra *extras = mp_arena_alloc(arena, p->n_slots, sizeof *extras);
    uint64_t *load = mp_arena_alloc(arena, p->n_gpus, sizeof *load);
    uint32_t *count = mp_arena_alloc(arena, n, sizeof *count);
    if (extras == NULL || load == NULL || count == NULL)
        return mp_nomem(err, "placing groups of experts");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint16_t *copies = draft->copies + (size_t)l * p->n_slots, *at = gpu + (size_t)l * n;
        const uint64_t *of = in->load + (size_t)l * n;
        const uint32_t n_copies = mp_draft_n(draft, l);
        memset(load, 0, p->n_gpus * sizeof *load);
        memset(count, 0, n * sizeof *count);
        for (uint32_t i = 0; i < n_copies; i++)
            count[copies[i]]++;
        mp_grid_begin(grid, p, l);
        for (uint32_t e = 0; e < n; e++) {
            mp_grid_put(grid, at[e], e);
            load[at[e]] += of[e];
        }
        for (uint32_t i = n; i < n_copies; i++)
            extras[i - n] = (struct extra){of[copies[i]] / count[copies[i]], copies[i], i};
        qsort(extras, n_copies - n, sizeof *extras, by_falling_load);
        for (uint32_t k = 0; k + n < n_copies; k++) {
            const uint32_t e = extras[k].expert;
            uint32_t g = draft->has_wish ? draft->wish[(size_t)l * p->n_slots + extras[k].index] : MP_NONE;
            if (g >= p->n_gpus || !mp_grid_can(grid, g, e) || mp_grid_has(grid, g, e))
                g = least_loaded(grid, load, e);
            if (g != MP_NONE)
                mp_grid_put(grid, g, e);
            else if (!mp_grid_put_from(grid, 0, e))
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, strategy, l);
        }
        mp_grid_sort(grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}
