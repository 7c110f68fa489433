/* METIS on the graph of co-activation: the general-purpose partitioner.
 *
 * Decides   expert -> GPU; of replicas, the first copy.
 * Minimises the weight of cut edges, edges weighing the tokens that use both experts, at equal group sizes.
 * Method    per layer METIS_PartGraphRecursive into nodes, then the experts of each node into its GPUs; seed fixed, the
 *           best of `cuts` partitions. Parts that METIS leaves unequal are made equal by planner/place/affinity.c.
 *           Copies beyond an expert's first go to the GPUs with least load.
 * Bound     none.
 * Paper     Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998; METIS 5.1, optional (meson option `metis`).
 * Differs   weights above METIS's 32 bits are scaled down. METIS draws from the C library's rand(): it is called from
 *           one thread, and the same partition comes out wherever rand() is the same.
 * Cost      O(L (tokens k^2 + E^2 log GPUs)). */
#include "affinity.h"
#include <moeplan/base.h>
#include <string.h>

#if MP_HAS_METIS
#include <metis.h>
#include <pthread.h>

static const struct mp_option options[] = {
    {"cuts", "partitions", "that METIS makes each time, the best of which counts", 8, 1, 1000},
    {"seed", "seed", "of METIS", 1, 0, INT32_MAX},
    {.name = NULL}};

/* METIS seeds and draws from rand(), which the whole process shares. */
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* Sums of weights have to stay in METIS's 32-bit integers. */
#define WEIGHT_SUM_MAX (UINT64_C(1) << 30)

static enum mp_status cut(struct mp_groups *x, const int64_t *values, struct mp_arena *arena, struct mp_error *err) {
    const size_t n = x->n;
    uint64_t sum = 0;
    idx_t n_vertices = (idx_t)n, n_constraints = 1, n_parts = (idx_t)x->n_groups, cut_weight, settings[METIS_NOPTIONS];
    idx_t *first = mp_arena_alloc(arena, n + 1, sizeof *first), *to = mp_arena_alloc(arena, n * n, sizeof *to);
    idx_t *weight = mp_arena_alloc(arena, n * n, sizeof *weight), *part = mp_arena_alloc(arena, n, sizeof *part);
    real_t *share = mp_arena_alloc(arena, x->n_groups, sizeof *share), slack = 1.001f;
    if (first == NULL || to == NULL || weight == NULL || part == NULL || share == NULL)
        return mp_nomem(err, "metis");
    for (size_t i = 0; i < n * n; i++)
        sum += x->a[i];
    for (size_t i = 0, at = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const uint64_t w =
                sum > WEIGHT_SUM_MAX ? mp_mul_div(x->a[i * n + j], WEIGHT_SUM_MAX, sum) : x->a[i * n + j];
            if (j == i || w == 0)
                continue;
            to[at] = (idx_t)j;
            weight[at++] = (idx_t)w;
        }
        first[i + 1] = (idx_t)at;
    }
    for (size_t i = 0; i < n; i++) /* in a row, where METIS has nothing to do */
        x->group[i] = (uint32_t)(i * x->n_groups / n);
    if (x->n_groups < 2 || n <= x->n_groups || first[n] == 0)
        return MP_OK;
    for (uint32_t g = 0; g < x->n_groups; g++)
        share[g] = (real_t)x->most[g] / (real_t)n;
    METIS_SetDefaultOptions(settings);
    settings[METIS_OPTION_NUMBERING] = 0;
    settings[METIS_OPTION_NCUTS] = (idx_t)values[0];
    settings[METIS_OPTION_SEED] = (idx_t)values[1];
    (void)pthread_mutex_lock(&one_at_a_time);
    const int result = METIS_PartGraphRecursive(&n_vertices, &n_constraints, first, to, NULL, NULL, weight, &n_parts,
                                                share, &slack, settings, &cut_weight, part);
    (void)pthread_mutex_unlock(&one_at_a_time);
    if (result == METIS_ERROR_MEMORY)
        return mp_nomem(err, "metis");
    for (size_t i = 0; i < n && result == METIS_OK; i++)
        x->group[i] = (uint32_t)part[i];
    return MP_OK;
}

/* Groups of equal size, as far as room goes: rooms that differ are METIS's target weights. */
static enum mp_status split(struct mp_groups *x, const uint32_t *room, const int64_t *values, struct mp_arena *arena,
                            struct mp_error *err) {
    enum mp_status status;
    uint32_t *share = mp_arena_alloc(arena, x->n_groups, sizeof *share);
    if (share == NULL)
        return mp_nomem(err, "metis");
    mp_bins_share(room, x->n_groups, x->n, share);
    for (uint32_t g = 0; g < x->n_groups; g++) /* METIS takes no empty part; the last step is not so shy */
        if (share[g] == 0) {
            for (uint32_t i = 0; i < x->n; i++)
                x->group[i] = 0;
            x->least = x->most = share;
            return mp_groups_fit(x, arena, err);
        }
    x->least = x->most = share;
    MP_TRY(cut(x, values, arena, err));
    MP_TRY(mp_groups_fit(x, arena, err));
out:
    return status;
}

static enum mp_status group_layer(const struct mp_bins *bins, const uint64_t *pairs, uint32_t n, const int64_t *values,
                                  uint16_t *gpu, struct mp_arena *arena, struct mp_error *err) {
    enum mp_status status;
    uint32_t *node = mp_arena_alloc(arena, n, sizeof *node), *list = mp_arena_alloc(arena, n, sizeof *list);
    uint32_t *group = mp_arena_alloc(arena, n, sizeof *group);
    uint64_t *a = mp_arena_alloc(arena, (size_t)n * n, sizeof *a);
    if (node == NULL || list == NULL || group == NULL || a == NULL)
        return mp_nomem(err, "metis");
    struct mp_groups nodes = {.n = n, .n_groups = bins->n_nodes, .a = pairs, .group = node};
    MP_TRY(split(&nodes, bins->node_room, values, arena, err));
    for (uint32_t v = 0; v < bins->n_nodes; v++) {
        const uint32_t from = bins->node_first[v];
        uint32_t m = 0;
        for (uint32_t e = 0; e < n; e++)
            if (node[e] == v)
                list[m++] = e;
        mp_affinity_among(pairs, n, list, m, a);
        struct mp_groups gpus = {.n = m, .n_groups = bins->node_first[v + 1] - from, .a = a, .group = group};
        MP_TRY(split(&gpus, bins->room + from, values, arena, err));
        for (uint32_t i = 0; i < m; i++)
            gpu[list[i]] = (uint16_t)bins->gpus[from + group[i]];
    }
out:
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    static const int64_t defaults[] = {8, 1};
    const struct mp_plan *p = draft->plan;
    const size_t n = p->n_experts;
    struct mp_bins bins;
    struct mp_arena *arena = NULL;
    enum mp_status status;
    uint16_t *gpu = mp_arena_alloc(scratch, p->n_layers * n, sizeof *gpu);
    uint64_t *pairs = mp_arena_alloc(scratch, n * n, sizeof *pairs);
    if (gpu == NULL || pairs == NULL)
        return mp_nomem(err, "metis");
    MP_TRY(mp_bins_of(&bins, p, scratch, err));
    arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "metis");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        MP_TRY(mp_affinity(in, l, "metis", pairs, outcome, err));
        if (*outcome != MP_FOUND)
            goto out;
        MP_TRY(group_layer(&bins, pairs, p->n_experts, in->option_values != NULL ? in->option_values : defaults,
                           gpu + l * n, arena, err));
        mp_arena_reset(arena);
    }
    MP_TRY(mp_place_groups(in, draft, "metis", gpu, scratch, outcome, err));
out:
    mp_arena_free(arena);
    return status;
}

#else /* without METIS */

static const struct mp_option options[] = {{.name = NULL}};

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)in;
    (void)budget;
    (void)scratch;
    (void)draft;
    return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                      "metis: this moeplan was built without METIS (install libmetis-dev and build it again; grace "
                      "groups by co-activation without it)");
}
#endif

const struct mp_strategy mp_strategy_place_metis = {.name = "metis",
                                                    .summary = "METIS on the graph of co-activation, nodes, then GPUs",
                                                    .reference = "Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998",
                                                    .stage = MP_PLAN_PLACE,
                                                    .is_named_only = true,
                                                    .takes_layers = true,
                                                    .options = options,
                                                    .solve = solve};
