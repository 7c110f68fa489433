/* The best colocation there is, or how far from it the one found can be.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the problem's objective.
 * Method    branch and bound. An incumbent by local search first. GPUs, the fastest first, are given one group of each
 *           model; GPUs that are alike take theirs in rising order. Both evaluators never fall when a peak (the largest
 *           dispatch, the largest sum of both, ...) rises, so bounds of the peaks bound the objective: what is
 *           placed so far; the least that each peak of the rest can be (coloc_states.c: all peaks up to 10 GPUs, those
 *           of one model up to 16); above 10, for each peak of one model its bottleneck assignment, and for each peak
 *           of both what is left to place over what the free GPUs can take, and what every group left costs in its
 *           best place. Timelines are longer than their peaks tell: while five or more GPUs are free, coloc_merge.c.
 * Bound     its own: value when finished, else the least bound of what was not looked at.
 * Paper     none; the problem is Aurora's, arXiv 2410.17043 section 7.1 (NP-hard).
 *           Where what a group costs depends on where the others are (several levels, shared ports): tables of what it
 *           costs at least, and what the placed groups bring on every port (coloc_levels.c).
 * Cost      work_limit nodes of O(n^2), 2,000,000 by default. */
#include "coloc.h"
#include "coloc_levels.h"
#include "coloc_merge.h"
#include "coloc_states.h"
#include "planner.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

#define NODES 2000000u
#define EVALUATIONS 20000u
#define GPUS_MAX 64u
#define MERGE_REST 5u   /* GPUs that are free yet where timelines are bounded last */
#define MERGE_TRIES 16u /* there one in so many has to end it */
#define MERGE_NODES 15u /* nodes that take as long */
#define N_SUMS 10u /* dispatch, combine, both: out and in of each; computation; of the first three out + in, halved */
#define TABLE_MAX (UINT64_C(1) << 40)  /* so that sums of products below stay whole */
#define MULTIPLIER (UINT64_C(1) << 14) /* of the fastest GPU */

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }

struct child {
    uint64_t bound, tie;
    uint32_t i, j;
};
struct search {
    struct mp_coloc_groups *g;
    uint32_t n;
    uint32_t *order;           /* GPUs as they are filled */
    uint64_t *sum[2];          /* [N_SUMS][n][n] tables of what adds up, by model */
    uint64_t *multiplier;      /* [N_SUMS][n] of GPUs: any make a bound, those like their speeds a good one */
    uint64_t *least[2];        /* [N_SUMS][n] least of multiplier * sum over GPUs, by group */
    uint64_t *free_multiplier; /* [N_SUMS][n + 1] sum over the GPUs from depth d on */
    uint64_t *cheapest;        /* [dispatch, combine][out, in][model][n]: least of a group on each GPU */
    uint32_t *rising[2];       /* [N_SUMS][n] groups by least */
    uint64_t *prefix;          /* scratch of subsets() */
    bool is_falling[N_SUMS];   /* multipliers fall in the order of GPUs */
    uint32_t *on[2], *best[2];
    bool *used[2];
    struct mp_coloc_states *states; /* NULL above MP_COLOC_STATES_GPUS */
    uint32_t mask[2];               /* groups placed, with states */
    struct mp_coloc_levels *levels; /* NULL where groups are separable */
    struct mp_coloc_merge *merge;   /* NULL unless timelines are to be bounded */
    struct {
        uint64_t seen, asked, cut;
    } * merges;               /* [n + 1] by depth: how often a bound of timelines was worth its time */
    uint64_t left[2][N_SUMS]; /* sum of least over the groups not placed */
    struct child *children;   /* [n][n * n] by depth */
    uint64_t value, bound, nodes, node_limit;
    bool stopped;
};

static uint64_t sum_at(const struct search *s, int m, uint32_t what, uint32_t group, uint32_t gpu) {
    return s->sum[m][((size_t)what * s->n + group) * s->n + gpu];
}

/* Raises the peak that belongs to table `what` to `least`. */
static void raise(struct mp_coloc_peaks *k, uint32_t what, uint64_t least) {
    uint64_t *const peaks[N_SUMS] = {&k->both_dispatch, &k->both_dispatch, &k->both_combine, &k->both_combine,
                                     &k->port,          &k->port,          &k->compute,      &k->both_dispatch,
                                     &k->both_combine,  &k->port};
    least = what > 6 ? (least + 1) / 2 : least;
    *peaks[what] = more(*peaks[what], least);
}

/* With what is placed, and what is left over what the free GPUs can take. */
static uint64_t bound_of(const struct search *s, const struct mp_coloc_peaks *placed, const uint64_t left[2][N_SUMS],
                         uint32_t depth) {
    struct mp_coloc_peaks k = *placed;
    for (uint32_t what = 0; what < N_SUMS && depth < s->n; what++)
        raise(&k, what, mp_ceil_div(left[0][what] + left[1][what], s->free_multiplier[what * (s->n + 1) + depth]));
    return mp_coloc_bound(s->g, &k);
}

/* The slowest k free GPUs take k groups of each model at least as light as the lightest; the heaviest p groups of both
 * models take r GPUs, p <= r <= 2p, at most as fast as the fastest, and the lightest groups with them. */
static void subsets(struct search *s, struct mp_coloc_peaks *k, uint32_t depth) {
    const uint32_t n = s->n, n_left = n - depth;
    for (uint32_t what = 0; what < N_SUMS; what++) {
        const uint64_t *y = s->free_multiplier + (size_t)what * (n + 1);
        uint64_t *light[2] = {s->prefix, s->prefix + n + 1}, *heavy[2] = {s->prefix + 2 * n + 2, s->prefix + 3 * n + 3};
        for (int m = 0; m < 2; m++) {
            const uint32_t *rising = s->rising[m] + (size_t)what * n;
            const uint64_t *least = s->least[m] + (size_t)what * n;
            uint32_t count = 0;
            for (uint32_t x = 0; x < n; x++)
                if (!s->used[m][rising[x]]) {
                    light[m][count + 1] = light[m][count] + least[rising[x]];
                    count++;
                }
            for (uint32_t p = 0; p <= n_left; p++)
                heavy[m][p] = light[m][n_left] - light[m][n_left - p];
        }
        for (uint32_t d = depth + 1; d < n; d++)
            raise(k, what, mp_ceil_div(light[0][n - d] + light[1][n - d], y[d]));
        for (uint32_t p = 1; p < n_left && s->is_falling[what]; p++) {
            uint64_t least = UINT64_MAX;
            for (uint32_t r = p; r <= 2 * p && r <= n_left; r++) {
                const uint32_t more_a = r - p;
                uint64_t sum = heavy[0][p] + heavy[1][p] + light[0][more_a] + light[1][more_a];
                sum = mp_ceil_div(sum, y[depth] - y[depth + r]);
                least = sum < least ? sum : least;
            }
            raise(k, what, least);
            for (int m = 0; m < 2; m++) /* one model's by themselves */
                raise(k, what, mp_ceil_div(heavy[m][p] + light[1 - m][p], y[depth] - y[depth + p]));
        }
    }
}

/* Each group left needs some free GPU with some free partner. */
static void partners(const struct search *s, struct mp_coloc_peaks *k, uint32_t depth) {
    for (uint32_t what = 0; what < 4; what += 2) { /* dispatch and combine of both; out and in together */
        uint64_t *peak = what == 0 ? &k->both_dispatch : &k->both_combine;
        for (int m = 0; m < 2; m++)
            for (uint32_t i = 0; i < s->n; i++) {
                uint64_t least = UINT64_MAX;
                if (s->used[m][i])
                    continue;
                for (uint32_t d = depth; d < s->n && least > *peak; d++) {
                    const uint32_t gpu = s->order[d];
                    uint64_t here = 0;
                    for (uint32_t side = 0; side < 2; side++) {
                        uint64_t partner = s->cheapest[(((size_t)what + side) * 2 + (size_t)(1 - m)) * s->n + gpu];
                        here = more(here, sum_at(s, m, what + side, i, gpu) + partner);
                    }
                    least = here < least ? here : least;
                }
                *peak = more(*peak, least);
            }
    }
}

static int by_bound(const void *x, const void *y) {
    const struct child *a = x, *b = y;
    if (a->bound != b->bound)
        return a->bound < b->bound ? -1 : 1;
    if (a->tie != b->tie)
        return a->tie < b->tie ? -1 : 1;
    if (a->i != b->i)
        return a->i < b->i ? -1 : 1;
    return a->j < b->j ? -1 : a->j > b->j;
}

/* With groups i and j on the next GPU as well. */
static uint64_t child_bound(const struct search *s, const struct mp_coloc_peaks *placed, uint32_t i, uint32_t j,
                            uint32_t depth) {
    struct mp_coloc_peaks k = *placed;
    uint64_t left[2][N_SUMS];
    mp_coloc_peaks_add(&k, s->g, i, j, s->order[depth]);
    if (s->states != NULL) {
        const uint32_t mask[2] = {s->mask[0] | 1u << i, s->mask[1] | 1u << j};
        mp_coloc_states_raise(s->states, mask, &k);
    }
    if (s->n <= MP_COLOC_PAIRS_GPUS)
        return mp_coloc_bound(s->g, &k);
    for (uint32_t what = 0; what < N_SUMS; what++) {
        left[0][what] = s->left[0][what] - s->least[0][(size_t)what * s->n + i];
        left[1][what] = s->left[1][what] - s->least[1][(size_t)what * s->n + j];
    }
    return bound_of(s, &k, (const uint64_t(*)[N_SUMS])left, depth + 1);
}

/* A timeline is longer than its peaks tell. The bound that knows costs as much as running tens of assignments: it is
 * asked where more are to come, and near the end only as long as it often says no. */
static uint64_t merged(struct search *s, uint64_t bound, const struct mp_coloc_peaks *placed, uint32_t depth) {
    if (s->merge == NULL || depth + MERGE_REST > s->n)
        return bound;
    const bool is_near_end = depth + MERGE_REST == s->n;
    if (is_near_end && s->merges[depth].seen++ % MERGE_TRIES != 0 && s->merges[depth].asked >= 4 * MERGE_TRIES &&
        s->merges[depth].cut * MERGE_TRIES < s->merges[depth].asked)
        return bound;
    struct mp_coloc_peaks k = *placed;
    if (s->states != NULL)
        mp_coloc_states_raise(s->states, s->mask, &k);
    const uint64_t least = mp_coloc_merge_bound(s->merge, depth, s->order, s->on, &k, s->value);
    s->nodes += MERGE_NODES;
    s->merges[depth].asked++;
    s->merges[depth].cut += least >= s->value;
    return more(bound, least);
}

static enum mp_status visit(struct search *s, uint32_t depth, const struct mp_coloc_peaks *placed,
                            struct mp_error *err) {
    const uint32_t n = s->n;
    enum mp_status status;
    if (depth == n) {
        uint64_t value;
        status = mp_coloc_value(s->g, s->on, s->value, &value, NULL, err);
        if (status == MP_OK && value < s->value) {
            s->value = value;
            for (int m = 0; m < 2; m++)
                memcpy(s->best[m], s->on[m], n * sizeof *s->on[m]);
        }
        return status;
    }
    const uint32_t gpu = s->order[depth];
    const bool is_twin = depth > 0 && s->g->gpu_class[s->order[depth - 1]] == s->g->gpu_class[gpu];
    struct child *children = s->children + (size_t)depth * n * n;
    size_t count = 0;
    for (uint32_t i = is_twin ? s->on[0][s->order[depth - 1]] + 1 : 0; i < n; i++) {
        if (s->used[0][i])
            continue;
        for (uint32_t j = 0; j < n; j++) {
            if (s->used[1][j])
                continue;
            const uint64_t bound = child_bound(s, placed, i, j, depth);
            if (bound < s->value)
                children[count++] =
                    (struct child){.bound = bound,
                                   .tie = UINT64_MAX - (sum_at(s, 0, 4, i, gpu) + sum_at(s, 1, 4, j, gpu)),
                                   .i = i,
                                   .j = j};
        }
    }
    qsort(children, count, sizeof *children, by_bound);
    for (size_t c = 0; c < count; c++) {
        const uint32_t i = children[c].i, j = children[c].j;
        if (children[c].bound >= s->value)
            break;
        if (s->stopped || s->nodes >= s->node_limit) { /* what is left out bounds what might have been found */
            s->stopped = true;
            s->bound = children[c].bound < s->bound ? children[c].bound : s->bound;
            return MP_OK;
        }
        s->nodes++;
        struct mp_coloc_peaks k = *placed;
        uint64_t left[2][N_SUMS];
        const uint32_t mask[2] = {s->mask[0], s->mask[1]};
        mp_coloc_peaks_add(&k, s->g, i, j, gpu);
        memcpy(left, s->left, sizeof left);
        s->on[0][gpu] = i;
        s->on[1][gpu] = j;
        s->used[0][i] = s->used[1][j] = true;
        uint64_t inner = children[c].bound;
        if (s->levels != NULL) {
            mp_coloc_levels_raise(s->levels, depth + 1, s->order, s->on, &k);
            inner = more(inner, mp_coloc_bound(s->g, &k));
        }
        if (s->states != NULL) {
            s->mask[0] |= 1u << i;
            s->mask[1] |= 1u << j;
        }
        if (n > MP_COLOC_PAIRS_GPUS) {
            for (uint32_t what = 0; what < N_SUMS; what++) {
                s->left[0][what] -= s->least[0][(size_t)what * n + i];
                s->left[1][what] -= s->least[1][(size_t)what * n + j];
            }
            if (s->states != NULL)
                mp_coloc_states_raise(s->states, s->mask, &k);
            partners(s, &k, depth + 1);
            subsets(s, &k, depth + 1);
            inner = more(inner, bound_of(s, &k, (const uint64_t(*)[N_SUMS])s->left, depth + 1));
        }
        if (inner < s->value)
            inner = merged(s, inner, &k, depth + 1);
        status = inner < s->value ? visit(s, depth + 1, &k, err) : MP_OK;
        memcpy(s->left, left, sizeof left);
        memcpy(s->mask, mask, sizeof mask);
        s->used[0][i] = s->used[1][j] = false;
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* Peaks that no assignment is under: each table of one model by itself. */
static enum mp_status root_peaks(struct search *s, struct mp_coloc_peaks *k, struct mp_error *err) {
    const struct mp_coloc_groups *g = s->g;
    const size_t size = (size_t)s->n * s->n;
    uint64_t *sum = mp_arena_alloc(g->arena, 3 * size, sizeof *sum);
    enum mp_status status = MP_OK;
    if (sum == NULL)
        return mp_nomem(err, "branch and bound");
    for (int m = 0; m < 2; m++) {
        for (size_t at = 0; at < size; at++) {
            sum[at] = g->gate[m][at] + g->aggregate[m][at];
            sum[size + at] = more(g->dispatch[m][0][at], g->dispatch[m][1][at]);
            sum[2 * size + at] = more(g->combine[m][0][at], g->combine[m][1][at]);
        }
        MP_TRY(mp_coloc_least_largest(s->n, g->gate[m], NULL, &k->gate[m], err));
        MP_TRY(mp_coloc_least_largest(s->n, g->experts[m], NULL, &k->experts[m], err));
        MP_TRY(mp_coloc_least_largest(s->n, g->aggregate[m], NULL, &k->aggregate[m], err));
        MP_TRY(mp_coloc_least_largest(s->n, sum, NULL, &k->between[m], err));
        MP_TRY(mp_coloc_least_largest(s->n, sum + size, NULL, &k->dispatch[m], err));
        MP_TRY(mp_coloc_least_largest(s->n, sum + 2 * size, NULL, &k->combine[m], err));
    }
out:
    return status;
}

/* Tables of what adds up, multipliers, sums over them. False: a table is past what whole numbers can hold. */
static enum mp_status prepare(struct search *s, bool *fits, struct mp_error *err) {
    struct mp_coloc_groups *g = s->g;
    const uint32_t n = s->n;
    const size_t size = (size_t)n * n;
    struct mp_arena *arena = g->arena;
    *fits = true;
    s->order = mp_arena_alloc(arena, 3 * (size_t)n, sizeof *s->order);
    s->sum[0] = mp_arena_alloc(arena, 2 * N_SUMS * size, sizeof *s->sum[0]);
    s->multiplier = mp_arena_alloc(arena, N_SUMS * (4 * (size_t)n + 1), sizeof *s->multiplier);
    s->cheapest = mp_arena_alloc(arena, 12 * (size_t)n + 4, sizeof *s->cheapest);
    s->rising[0] = mp_arena_alloc(arena, 2 * N_SUMS * (size_t)n, sizeof *s->rising[0]);
    s->used[0] = mp_arena_alloc(arena, 2 * (size_t)n, sizeof *s->used[0]);
    s->children = mp_arena_alloc(arena, (size_t)n * size, sizeof *s->children);
    if (s->order == NULL || s->sum[0] == NULL || s->multiplier == NULL || s->cheapest == NULL || s->rising[0] == NULL ||
        s->used[0] == NULL || s->children == NULL)
        return mp_nomem(err, "branch and bound");
    s->sum[1] = s->sum[0] + N_SUMS * size;
    s->least[0] = s->multiplier + N_SUMS * (size_t)n;
    s->least[1] = s->least[0] + N_SUMS * (size_t)n;
    s->free_multiplier = s->least[1] + N_SUMS * (size_t)n;
    s->prefix = s->cheapest + 8 * (size_t)n;
    s->rising[1] = s->rising[0] + N_SUMS * (size_t)n;
    s->used[1] = s->used[0] + n;
    s->on[0] = s->order + n;
    s->on[1] = s->order + 2 * (size_t)n;
    for (int m = 0; m < 2; m++)
        for (size_t at = 0; at < size; at++)
            for (uint32_t side = 0; side < 2; side++) {
                uint64_t *to = s->sum[m];
                to[side * size + at] = g->dispatch[m][side][at];
                to[(2 + side) * size + at] = g->combine[m][side][at];
                to[(4 + side) * size + at] = g->dispatch[m][side][at] + g->combine[m][side][at];
                to[6 * size + at] = g->gate[m][at] + g->experts[m][at] + g->aggregate[m][at];
                to[7 * size + at] = g->dispatch[m][0][at] + g->dispatch[m][1][at];
                to[8 * size + at] = g->combine[m][0][at] + g->combine[m][1][at];
                to[9 * size + at] = to[7 * size + at] + to[8 * size + at];
                *fits = *fits && to[9 * size + at] <= TABLE_MAX && to[6 * size + at] <= TABLE_MAX;
            }
    if (!*fits)
        return MP_OK;
    for (uint32_t what = 0; what < N_SUMS; what++) {
        uint64_t least = UINT64_MAX;
        uint64_t *multiplier = s->multiplier + (size_t)what * n;
        for (uint32_t gpu = 0; gpu < n; gpu++) { /* time of all groups: inverse of the speed */
            for (uint32_t i = 0; i < n; i++)
                multiplier[gpu] += sum_at(s, 0, what, i, gpu) + sum_at(s, 1, what, i, gpu);
            least = multiplier[gpu] < least ? multiplier[gpu] : least;
        }
        for (uint32_t gpu = 0; gpu < n; gpu++) {
            uint64_t y = multiplier[gpu] == 0 ? MULTIPLIER : mp_mul_div(MULTIPLIER, least, multiplier[gpu]);
            multiplier[gpu] = y > 0 ? y : 1;
        }
        for (int m = 0; m < 2; m++)
            for (uint32_t i = 0; i < n; i++) {
                uint64_t *to = &s->least[m][(size_t)what * n + i];
                *to = UINT64_MAX;
                for (uint32_t gpu = 0; gpu < n; gpu++) {
                    const uint64_t x = multiplier[gpu] * sum_at(s, m, what, i, gpu);
                    *to = x < *to ? x : *to;
                }
                s->left[m][what] += *to;
            }
    }
    /* The fastest GPU first, GPUs that are alike side by side. */
    for (uint32_t gpu = 0; gpu < n; gpu++) {
        s->children[gpu] = (struct child){.tie = g->gpu_class[gpu], .i = gpu};
        for (uint32_t i = 0; i < n; i++)
            s->children[gpu].bound += sum_at(s, 0, 4, i, gpu) + sum_at(s, 1, 4, i, gpu);
    }
    qsort(s->children, n, sizeof *s->children, by_bound);
    for (uint32_t d = 0; d < n; d++)
        s->order[d] = s->children[d].i;
    for (uint32_t what = 0; what < N_SUMS; what++)
        for (uint32_t d = n; d-- > 0;)
            s->free_multiplier[(size_t)what * (n + 1) + d] =
                s->free_multiplier[(size_t)what * (n + 1) + d + 1] + s->multiplier[(size_t)what * n + s->order[d]];
    for (uint32_t what = 0; what < N_SUMS; what++) {
        s->is_falling[what] = true;
        for (uint32_t d = 1; d < n; d++)
            s->is_falling[what] = s->is_falling[what] && s->multiplier[(size_t)what * n + s->order[d]] <=
                                                             s->multiplier[(size_t)what * n + s->order[d - 1]];
        for (int m = 0; m < 2; m++) {
            for (uint32_t i = 0; i < n; i++)
                s->children[i] = (struct child){.bound = s->least[m][(size_t)what * n + i], .i = i};
            qsort(s->children, n, sizeof *s->children, by_bound);
            for (uint32_t i = 0; i < n; i++)
                s->rising[m][(size_t)what * n + i] = s->children[i].i;
        }
    }
    for (uint32_t what = 0; what < 4; what++)
        for (int m = 0; m < 2; m++)
            for (uint32_t gpu = 0; gpu < n; gpu++) {
                uint64_t *to = &s->cheapest[((size_t)what * 2 + (size_t)m) * n + gpu];
                *to = UINT64_MAX;
                for (uint32_t i = 0; i < n; i++)
                    *to = sum_at(s, m, what, i, gpu) < *to ? sum_at(s, m, what, i, gpu) : *to;
            }
    return MP_OK;
}

static enum mp_status assign(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                             enum mp_outcome *outcome, struct mp_error *err) {
    struct search s = {.g = g,
                       .n = g->n,
                       .best = {on[0], on[1]},
                       .bound = UINT64_MAX,
                       .node_limit = g->in->work_limit > 0 ? g->in->work_limit : NODES};
    struct mp_coloc_peaks root = {.port = 0};
    enum mp_status status;
    bool fits;
    uint64_t work;
    if (g->n > GPUS_MAX)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "at most %u GPUs, not %u (use search)", GPUS_MAX, g->n);
    if (mp_coloc_is_uneven(g))
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "not searched exactly where GPUs have room for unlike numbers of experts (use search)");
    MP_TRY(mp_coloc_improve(g, on, EVALUATIONS, &s.value, &work, err));
    if (!g->is_separable)
        MP_TRY(mp_coloc_levels_new(&s.levels, g, g->arena, err));
    MP_TRY(prepare(&s, &fits, err));
    if (!fits)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "a layer may take 18 minutes at most (use search)");
    if (g->n <= MP_COLOC_STATES_GPUS)
        MP_TRY(mp_coloc_states_new(&s.states, g, s.order, g->arena, err));
    if (g->n > MP_COLOC_PAIRS_GPUS) {
        MP_TRY(root_peaks(&s, &root, err));
        partners(&s, &root, 0);
        subsets(&s, &root, 0);
    }
    if (g->in->objective == MP_COLOC_TIMELINE && g->shape.n_layers <= MP_COLOC_MERGE_LAYERS && g->n > MERGE_REST) {
        MP_TRY(mp_coloc_merge_new(&s.merge, g, g->arena, err));
        s.merges = mp_arena_alloc(g->arena, (size_t)g->n + 1, sizeof *s.merges);
        if (s.merges == NULL)
            return mp_nomem(err, "branch and bound");
    }
    MP_TRY(visit(&s, 0, &root, err));
    out->work_used = s.nodes;
    out->is_optimal = !s.stopped;
    out->bound_ns = s.stopped && s.bound < s.value ? s.bound : s.value;
    *outcome = s.stopped ? MP_STOPPED : MP_FOUND;
out:
    return status;
}

static enum mp_status solve(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err) {
    return mp_coloc_by_groups(in, assign, out, outcome, err);
}

const struct mp_coloc_strategy mp_strategy_coloc_exact = {.name = "exact",
                                                          .summary =
                                                              "branch and bound over pairs and GPUs, with its proof",
                                                          .reference = "moeplan",
                                                          .solve = solve};
