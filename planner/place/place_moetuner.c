/* MoETuner: two integer programs, one for balance, one for what tokens travel from layer to layer.
 *
 * Decides   which GPU holds each expert; one copy of each.
 * Minimises first, layer by layer, the rows of the fullest of as many clusters of experts as there are GPUs; then, all
 *           layers together, the sum over neighbouring layers of the longest transfer between two GPUs, when a token
 *           goes from the GPU of its expert in one layer straight to that of its expert in the next.
 * Method    both through planner/exact/mip.h (GLPK), each with a solution to begin with: longest processing time first
 *           and exchanges; clusters to GPUs layer by layer, then exchanges. Left out of GLPK where that solution is at
 *           a bound that can be counted. Symmetric clusters are told apart by their heaviest expert. In the second
 *           program cluster i of a layer on GPU g and j of the next on h cost C[i][j] bytes over the slowest port
 *           between g and h; rows that the least possible value keeps anyway are left out.
 * Bound     none of ours: optimal for its programs when GLPK ends, STOPPED when its nodes struck.
 * Paper     arXiv 2502.06643 (section 4), solved there with Gurobi.
 * Differs   clusters have at most ceil(experts / GPUs) experts: without a size the first program as printed may leave
 *           clusters empty. Its measure of balance is the fullest cluster. Several experts of a token count as one
 *           transfer for each pair of an expert of this layer and one of the next.
 * Cost      `nodes` relaxations for each layer and for the second program. Declines above 64 experts, 8 GPUs, or
 *           8,192 rows of the second program. */
#include "place_moetuner.h"
#include "grid.h"
#include "mip.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 8192u
#define NS_MAX (UINT64_C(1) << 40)
#define IN_AUTO_EXPERTS 12u /* as the exact searches */

static const struct mp_option options[] = {
    {"nodes", "nodes", "GLPK's nodes of each program, unless --work-limit says", 200, 1, INT64_MAX},
    {NULL, NULL, NULL, 0, 0, 0}};

struct tuner {
    const struct mp_problem *in;
    const struct mp_budget *budget;
    uint32_t n_experts, n_gpus, n_layers, size; /* size: experts of a cluster at most */
    uint64_t node_limit, nodes;
    bool is_stopped;
    uint32_t *cluster;     /* [n_layers][n_experts] */
    uint64_t *moved;       /* [n_layers - 1][n_gpus][n_gpus] pairs from cluster to cluster of the next layer */
    uint64_t *ps_per_pair; /* [n_gpus][n_gpus] 0 on the diagonal */
    uint32_t *gpu;         /* [n_layers][n_gpus] of each cluster */
    struct mp_arena *arena;
};

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* ---- the first program ---- */
struct heavy {
    uint64_t rows;
    uint32_t expert;
};
static int falling(const void *a, const void *b) {
    const struct heavy *x = a, *y = b;
    if (x->rows != y->rows)
        return x->rows < y->rows ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

struct packing {
    uint32_t n, n_clusters, size;
    struct heavy *experts; /* [n] heaviest first */
    uint32_t *to;          /* [n] cluster of the k-th */
    uint64_t *rows;        /* [n_clusters] */
};

static uint64_t fullest(const struct packing *p) {
    uint64_t most = 0;
    for (uint32_t c = 0; c < p->n_clusters; c++)
        most = more(most, p->rows[c]);
    return most;
}

static void sum_up(struct packing *p) {
    memset(p->rows, 0, p->n_clusters * sizeof *p->rows);
    for (uint32_t k = 0; k < p->n; k++)
        p->rows[p->to[k]] += p->experts[k].rows;
}

/* Longest processing time first, then exchanges and moves out of the fullest cluster as long as they help. */
static void pack(struct packing *p) {
    uint32_t used[MP_MOETUNER_GPUS] = {0};
    memset(p->rows, 0, p->n_clusters * sizeof *p->rows);
    for (uint32_t k = 0; k < p->n; k++) {
        uint32_t best = MP_NONE;
        for (uint32_t c = 0; c < p->n_clusters; c++)
            if (used[c] < p->size && (best == MP_NONE || p->rows[c] < p->rows[best]))
                best = c;
        p->to[k] = best;
        p->rows[best] += p->experts[k].rows;
        used[best]++;
    }
    for (bool is_better = true; is_better;) {
        const uint64_t most = fullest(p);
        is_better = false;
        for (uint32_t a = 0; a < p->n && !is_better; a++) {
            const uint32_t from = p->to[a];
            if (p->rows[from] != most)
                continue;
            for (uint32_t b = 0; b < p->n && !is_better; b++) {
                const uint32_t into = p->to[b];
                if (into == from || p->experts[b].rows >= p->experts[a].rows)
                    continue;
                const uint64_t lighter = p->experts[a].rows - p->experts[b].rows;
                if (p->rows[into] + lighter >= most)
                    continue;
                p->to[a] = into;
                p->to[b] = from;
                p->rows[from] -= lighter;
                p->rows[into] += lighter;
                is_better = true; /* one full cluster less, or a lower one */
            }
        }
    }
}

/* Clusters by their heaviest expert: the k-th heaviest is in one of the first k + 1. */
static void rename_clusters(struct packing *p) {
    uint32_t name[MP_MOETUNER_GPUS], n = 0;
    for (uint32_t c = 0; c < p->n_clusters; c++)
        name[c] = MP_NONE;
    for (uint32_t k = 0; k < p->n; k++) {
        if (name[p->to[k]] == MP_NONE)
            name[p->to[k]] = n++;
        p->to[k] = name[p->to[k]];
    }
    sum_up(p);
}

static uint32_t x_at(const struct packing *p, uint32_t k, uint32_t c) { return k * p->n_clusters + c; }

static enum mp_status balance_model(struct mp_mip **out, const struct packing *p, uint64_t least,
                                    struct mp_error *err) {
    struct mp_mip *m = NULL;
    struct mp_mip_term terms[MP_MOETUNER_EXPERTS + 1];
    char name[MP_MIP_NAME_MAX + 1];
    enum mp_status status;
    *out = NULL;
    MP_TRY(mp_mip_new(&m, err));
    for (uint32_t k = 0; k < p->n; k++)
        for (uint32_t c = 0; c < p->n_clusters; c++) {
            snprintf(name, sizeof name, "x_%u_%u", p->experts[k].expert, c);
            const struct mp_mip_variable v = {.name = name, .upper = c <= k, .is_integer = true};
            MP_TRY(mp_mip_add_variable(m, &v, NULL, err));
        }
    const struct mp_mip_variable rows = {
        .name = "rows", .lower = (int64_t)least, .upper = MP_MIP_FREE, .cost = 1, .is_integer = false};
    MP_TRY(mp_mip_add_variable(m, &rows, NULL, err));
    for (uint32_t k = 0; k < p->n; k++) {
        for (uint32_t c = 0; c < p->n_clusters; c++)
            terms[c] = (struct mp_mip_term){x_at(p, k, c), 1};
        snprintf(name, sizeof name, "somewhere_%u", p->experts[k].expert);
        const struct mp_mip_row row = {.name = name, .lower = 1, .upper = 1, .n = p->n_clusters, .terms = terms};
        MP_TRY(mp_mip_add_row(m, &row, err));
    }
    for (uint32_t c = 0; c < p->n_clusters; c++) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < p->n; k++)
            terms[k] = (struct mp_mip_term){x_at(p, k, c), 1};
        snprintf(name, sizeof name, "size_%u", c);
        const struct mp_mip_row row = {.name = name, .upper = p->size, .n = p->n, .terms = terms};
        MP_TRY(mp_mip_add_row(m, &row, err));
        for (uint32_t k = 0; k < p->n; k++)
            if (p->experts[k].rows > 0)
                terms[n++] = (struct mp_mip_term){x_at(p, k, c), -(int64_t)p->experts[k].rows};
        terms[n++] = (struct mp_mip_term){p->n * p->n_clusters, 1};
        snprintf(name, sizeof name, "load_%u", c);
        const struct mp_mip_row load = {.name = name, .upper = MP_MIP_FREE, .n = n, .terms = terms};
        MP_TRY(mp_mip_add_row(m, &load, err));
    }
    *out = m;
    m = NULL;
out:
    mp_mip_free(m);
    return status;
}

/* GLPK's answer, or NULL: the solution at hand is as good, or GLPK failed. */
static enum mp_status ask(struct tuner *t, const struct mp_mip *m, const int64_t *incumbent, const int64_t **values,
                          struct mp_error *err) {
    struct mp_mip_answer a;
    const struct mp_mip_options o = {.node_limit = t->node_limit,
                                     .seconds = t->budget != NULL ? t->budget->wall_seconds : 0,
                                     .incumbent = incumbent};
    enum mp_status status = mp_mip_solve(&a, m, &o, t->arena, err);
    *values = NULL;
    if (status != MP_OK)
        return status;
    t->nodes += a.nodes;
    t->is_stopped |= a.outcome != MP_FOUND;
    if (a.wall_struck && t->budget != NULL && t->budget->wall_struck != NULL)
        *t->budget->wall_struck = true;
    if (a.outcome == MP_FOUND || a.outcome == MP_STOPPED)
        *values = a.values;
    return MP_OK;
}

static enum mp_status balance(struct tuner *t, uint32_t layer, struct mp_error *err) {
    struct heavy experts[MP_MOETUNER_EXPERTS];
    uint32_t to[MP_MOETUNER_EXPERTS];
    uint64_t rows[MP_MOETUNER_GPUS], sum = 0, size;
    struct packing p = {
        .n = t->n_experts, .n_clusters = t->n_gpus, .size = t->size, .experts = experts, .to = to, .rows = rows};
    struct mp_mip *m = NULL;
    enum mp_status status = MP_OK;
    for (uint32_t e = 0; e < p.n; e++) {
        experts[e] = (struct heavy){t->in->load[(size_t)layer * p.n + e], e};
        if (mp_add_overflow(sum, experts[e].rows, &sum) || sum > NS_MAX)
            return mp_fail(err, MP_ELIMIT, "moetuner: more than 2^40 rows in layer %u", layer);
    }
    qsort(experts, p.n, sizeof *experts, falling);
    pack(&p);
    rename_clusters(&p);
    uint64_t least = more(mp_ceil_div(sum, p.n_clusters), experts[0].rows);
    size = fullest(&p);
    if (size > least) {
        const uint32_t n_x = p.n * p.n_clusters;
        const int64_t *values;
        int64_t *incumbent = mp_arena_alloc(t->arena, n_x + 1, sizeof *incumbent);
        if (incumbent == NULL)
            return mp_nomem(err, "moetuner");
        for (uint32_t k = 0; k < p.n; k++)
            incumbent[x_at(&p, k, to[k])] = 1;
        incumbent[n_x] = (int64_t)size;
        MP_TRY(balance_model(&m, &p, least, err));
        MP_TRY(ask(t, m, incumbent, &values, err));
        for (uint32_t k = 0; k < p.n && values != NULL; k++)
            for (uint32_t c = 0; c < p.n_clusters; c++)
                if (values[x_at(&p, k, c)] == 1)
                    to[k] = c;
    }
    for (uint32_t k = 0; k < p.n; k++)
        t->cluster[(size_t)layer * p.n + experts[k].expert] = to[k];
out:
    mp_mip_free(m);
    return status;
}

/* ---- the second program ---- */

/* pairs[l][i][j]: of an expert in box i of layer l and one in box j of the next, over the tokens of all steps. */
static void count_moves(const struct mp_workload *w, const uint32_t *box, uint32_t n_boxes, uint64_t *pairs) {
    const struct mp_trace *t = w->trace;
    uint16_t ids[2][MP_MAX_TOP_K];
    for (uint32_t l = 0; l + 1 < t->n_layers; l++) {
        const uint32_t *from = box + (size_t)l * t->n_experts, *to = from + t->n_experts;
        uint64_t *of = pairs + (size_t)l * n_boxes * n_boxes;
        for (uint32_t s = 0; s < w->n_steps; s++)
            for (uint32_t i = 0; i < w->steps[s].n; i++) {
                const uint32_t n = mp_trace_row(t, l, w->steps[s].row[i], ids[0]);
                const uint32_t m = mp_trace_row(t, l + 1, w->steps[s].row[i], ids[1]);
                for (uint32_t a = 0; a < n; a++)
                    for (uint32_t b = 0; b < m; b++)
                        of[(size_t)from[ids[0][a]] * n_boxes + to[ids[1][b]]]++;
            }
    }
}

/* Picoseconds for the bytes of one token between two GPUs, at the slowest port or cap on the way. */
static void pair_times(const struct mp_problem *in, uint64_t *ps) {
    const uint32_t n = in->topology->n_gpus;
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t h = 0; h < n; h++) {
            struct mp_path path;
            uint64_t rate = UINT64_MAX;
            if (g == h)
                continue;
            mp_topology_path(in->topology, g, h, &path);
            for (uint32_t k = 0; k < path.n; k++)
                rate = in->topology->resources[path.resource[k]].bytes_per_s < rate
                           ? in->topology->resources[path.resource[k]].bytes_per_s
                           : rate;
            if (path.cap_bytes_per_s > 0 && path.cap_bytes_per_s < rate)
                rate = path.cap_bytes_per_s;
            ps[g * n + h] = mp_mul_div_ceil(in->model->dispatch_bytes, UINT64_C(1000000000000), rate);
        }
}

static uint64_t transfer_ns(uint64_t pairs, uint64_t ps) {
    const uint64_t ns = mp_mul_div_ceil(pairs, ps, 1000);
    return ns < NS_MAX ? ns : NS_MAX;
}

/* Longest transfer between layers l and l + 1. */
static uint64_t longest(const struct tuner *t, uint32_t l) {
    const uint32_t n = t->n_gpus, *a = t->gpu + (size_t)l * n, *b = a + n;
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            most = more(most, transfer_ns(t->moved[((size_t)l * n + i) * n + j], t->ps_per_pair[a[i] * n + b[j]]));
    return most;
}

static uint64_t around(const struct tuner *t, uint32_t l, bool with_next) {
    return (l > 0 ? longest(t, l - 1) : 0) + (with_next && l + 1 < t->n_layers ? longest(t, l) : 0);
}

/* Clusters to GPUs: layers one after the other, each as near to the one before as exchanges get it; then exchanges in
 * any layer as long as one helps. */
static void follow(struct tuner *t) {
    const uint32_t n = t->n_gpus;
    for (uint32_t round = 0, is_better = 1; is_better; round++) {
        is_better = round == 0;
        for (uint32_t l = 0; l < t->n_layers; l++) {
            uint32_t *gpu = t->gpu + (size_t)l * n;
            for (uint32_t c = 0; c < n && round == 0; c++)
                gpu[c] = c;
            uint64_t best = around(t, l, round > 0);
            for (bool again = true; again;) {
                again = false;
                for (uint32_t i = 1; i < n; i++)
                    for (uint32_t j = 0; j < i; j++) {
                        const uint32_t was = gpu[i];
                        gpu[i] = gpu[j];
                        gpu[j] = was;
                        const uint64_t now = around(t, l, round > 0);
                        if (now < best) {
                            best = now;
                            again = true;
                            is_better = 1;
                            continue;
                        }
                        gpu[j] = gpu[i];
                        gpu[i] = was;
                    }
            }
        }
    }
}

static int rising(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What layers l and l + 1 need at least: of the pairs of clusters only n can share a GPU, one for each cluster; the
 * largest two that get in each other's way tell. At the fastest rate there is. */
static uint64_t least_longest(const struct tuner *t, uint32_t l) {
    const uint32_t n = t->n_gpus;
    uint64_t fastest = UINT64_MAX, cost[MP_MOETUNER_GPUS * MP_MOETUNER_GPUS], least = 0;
    for (uint32_t g = 0; g < n * n; g++)
        if (g / n != g % n && t->ps_per_pair[g] < fastest)
            fastest = t->ps_per_pair[g];
    for (uint32_t k = 0; k < n * n; k++)
        cost[k] = transfer_ns(t->moved[(size_t)l * n * n + k], fastest);
    for (uint32_t line = 0; line < 2 * n; line++) { /* of a row or column all but one have to travel */
        uint64_t in_line[MP_MOETUNER_GPUS];
        for (uint32_t k = 0; k < n; k++)
            in_line[k] = line < n ? cost[line * n + k] : cost[k * n + line - n];
        qsort(in_line, n, sizeof *in_line, rising);
        least = more(least, n > 1 ? in_line[n - 2] : 0);
    }
    return least;
}

static uint32_t y_at(const struct tuner *t, uint32_t l, uint32_t c, uint32_t g) {
    return (l * t->n_gpus + c) * t->n_gpus + g;
}

static enum mp_status travel_variables(const struct tuner *t, struct mp_mip *m, const uint64_t *least,
                                       struct mp_error *err) {
    char name[MP_MIP_NAME_MAX + 1];
    enum mp_status status = MP_OK;
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t c = 0; c < t->n_gpus; c++)
            for (uint32_t g = 0; g < t->n_gpus; g++) {
                snprintf(name, sizeof name, "y_%u_%u_%u", l, c, g);
                const struct mp_mip_variable v = {.name = name, .upper = 1, .is_integer = true};
                MP_TRY(mp_mip_add_variable(m, &v, NULL, err));
            }
    for (uint32_t l = 0; l + 1 < t->n_layers; l++) {
        snprintf(name, sizeof name, "ns_%u", l);
        const struct mp_mip_variable v = {
            .name = name, .lower = (int64_t)least[l], .upper = MP_MIP_FREE, .cost = 1, .is_integer = false};
        MP_TRY(mp_mip_add_variable(m, &v, NULL, err));
    }
out:
    return status;
}

static enum mp_status places(const struct tuner *t, struct mp_mip *m, struct mp_error *err) {
    struct mp_mip_term terms[MP_MOETUNER_GPUS];
    char name[MP_MIP_NAME_MAX + 1];
    enum mp_status status = MP_OK;
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t a = 0; a < t->n_gpus; a++) {
                for (uint32_t b = 0; b < t->n_gpus; b++)
                    terms[b] = (struct mp_mip_term){side == 0 ? y_at(t, l, a, b) : y_at(t, l, b, a), 1};
                snprintf(name, sizeof name, "%s_%u_%u", side == 0 ? "cluster" : "gpu", l, a);
                const struct mp_mip_row row = {.name = name, .lower = 1, .upper = 1, .n = t->n_gpus, .terms = terms};
                MP_TRY(mp_mip_add_row(m, &row, err));
            }
out:
    return status;
}

/* ns_l >= cost * (y_l,i,g + y_l+1,j,h - 1) where the cost is above what ns_l is anyway. m NULL: only counts. */
static enum mp_status transfers(const struct tuner *t, struct mp_mip *m, const uint64_t *least, uint64_t *n_rows,
                                struct mp_error *err) {
    const uint32_t n = t->n_gpus;
    char name[MP_MIP_NAME_MAX + 1];
    enum mp_status status = MP_OK;
    *n_rows = 0;
    for (uint32_t l = 0; l + 1 < t->n_layers; l++)
        for (uint32_t pair = 0; pair < n * n; pair++)
            for (uint32_t way = 0; way < n * n; way++) {
                const uint32_t i = pair / n, j = pair % n, g = way / n, h = way % n;
                const uint64_t cost = transfer_ns(t->moved[(size_t)l * n * n + pair], t->ps_per_pair[way]);
                if (cost <= least[l])
                    continue;
                ++*n_rows;
                if (m == NULL)
                    continue;
                const struct mp_mip_term terms[] = {{y_at(t, l, i, g), -(int64_t)cost},
                                                    {y_at(t, l + 1, j, h), -(int64_t)cost},
                                                    {t->n_layers * n * n + l, 1}};
                snprintf(name, sizeof name, "way_%u_%u_%u_%u_%u", l, i, j, g, h);
                const struct mp_mip_row row = {
                    .name = name, .lower = -(int64_t)cost, .upper = MP_MIP_FREE, .n = 3, .terms = terms};
                MP_TRY(mp_mip_add_row(m, &row, err));
            }
out:
    return status;
}

static enum mp_status travel(struct tuner *t, enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = t->n_gpus, n_y = t->n_layers * n * n, n_links = t->n_layers - 1;
    uint64_t *least = mp_arena_alloc(t->arena, t->n_layers, sizeof *least), n_rows, open = 0;
    int64_t *incumbent = mp_arena_alloc(t->arena, n_y + n_links, sizeof *incumbent);
    struct mp_mip *m = NULL;
    const int64_t *values;
    enum mp_status status = MP_OK;
    if (least == NULL || incumbent == NULL)
        return mp_nomem(err, "moetuner");
    follow(t);
    for (uint32_t l = 0; l < n_links; l++) {
        least[l] = least_longest(t, l);
        incumbent[n_y + l] = (int64_t)longest(t, l);
        open += (uint64_t)incumbent[n_y + l] - least[l];
    }
    if (open == 0)
        return MP_OK;
    MP_TRY(transfers(t, NULL, least, &n_rows, err));
    if (n_rows > ROWS_MAX)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "moetuner: its second program would have %llu rows for %u layers on %u GPUs, and at most %u "
                          "are solved (use search)",
                          (unsigned long long)n_rows, t->n_layers, n, ROWS_MAX);
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t c = 0; c < n; c++)
            incumbent[y_at(t, l, c, t->gpu[(size_t)l * n + c])] = 1;
    MP_TRY(mp_mip_new(&m, err));
    MP_TRY(travel_variables(t, m, least, err));
    MP_TRY(places(t, m, err));
    MP_TRY(transfers(t, m, least, &n_rows, err));
    MP_TRY(ask(t, m, incumbent, &values, err));
    for (uint32_t k = 0; k < n_y && values != NULL; k++)
        if (values[k] == 1)
            t->gpu[k / n] = k % n;
out:
    mp_mip_free(m);
    return status;
}

/* ---- the strategy ---- */
static enum mp_status declines(const struct mp_problem *in, const struct mp_draft *draft, uint32_t size,
                               enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_plan *p = draft->plan;
    if (in->workload->trace->kind != MP_TRACE_TOKENS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "moetuner: the way of tokens from layer to layer is needed, and the trace has counts only "
                          "(record the experts of each token)");
    if (draft->n_copies != p->n_experts)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "moetuner: no replicas are placed (write --replicate none)");
    if (p->n_experts > MP_MOETUNER_EXPERTS || p->n_gpus > MP_MOETUNER_GPUS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "moetuner: its programs are for at most %u experts and %u GPUs, not %u and %u (use search)",
                          MP_MOETUNER_EXPERTS, MP_MOETUNER_GPUS, p->n_experts, p->n_gpus);
    if (in->exact_nodes > 0 && p->n_experts > IN_AUTO_EXPERTS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "moetuner: with more than %u experts it is not a part of auto (write --place moetuner)",
                          IN_AUTO_EXPERTS);
    for (uint32_t g = 0; g < p->n_gpus; g++)
        if (p->gpu_first_slot[g + 1] - p->gpu_first_slot[g] < size)
            return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                              "moetuner: clusters have %u experts, and GPU %u has room for %u (use search)", size, g,
                              p->gpu_first_slot[g + 1] - p->gpu_first_slot[g]);
    return MP_OK;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct tuner t = {.in = in,
                      .budget = budget,
                      .n_experts = p->n_experts,
                      .n_gpus = p->n_gpus,
                      .n_layers = p->n_layers,
                      .size = (p->n_experts + p->n_gpus - 1) / p->n_gpus,
                      .node_limit = in->option_values != NULL ? (uint64_t)in->option_values[0] : 200,
                      .arena = scratch};
    struct mp_grid *grid;
    enum mp_status status;
    *outcome = MP_FOUND;
    MP_TRY(declines(in, draft, t.size, outcome, err));
    if (*outcome != MP_FOUND)
        return MP_OK;
    if (budget != NULL && budget->work_limit > 0)
        t.node_limit = mp_ceil_div(budget->work_limit, (uint64_t)p->n_layers + 1);
    const size_t n = p->n_gpus, cells = n * n;
    t.cluster = mp_arena_alloc(scratch, (size_t)p->n_layers * p->n_experts, sizeof *t.cluster);
    t.gpu = mp_arena_alloc(scratch, p->n_layers * n, sizeof *t.gpu);
    t.moved = mp_arena_alloc(scratch, p->n_layers * cells, sizeof *t.moved);
    t.ps_per_pair = mp_arena_alloc(scratch, cells, sizeof *t.ps_per_pair);
    if (t.cluster == NULL || t.gpu == NULL || t.moved == NULL || t.ps_per_pair == NULL)
        return mp_nomem(err, "moetuner");
    for (uint32_t l = 0; l < p->n_layers; l++)
        MP_TRY(balance(&t, l, err));
    count_moves(in->workload, t.cluster, p->n_gpus, t.moved);
    pair_times(in, t.ps_per_pair);
    MP_TRY(travel(&t, outcome, err));
    if (*outcome != MP_FOUND)
        return MP_OK;
    MP_TRY(mp_grid_new(&grid, in, draft, scratch, err));
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_grid_begin(grid, p, l);
        for (uint32_t e = 0; e < p->n_experts; e++)
            mp_grid_put(grid, t.gpu[l * n + t.cluster[(size_t)l * p->n_experts + e]], e);
        mp_grid_sort(grid);
    }
    draft->work_used += mp_work_of_nodes(in, t.nodes, in->workload->n_steps);
    *outcome = t.is_stopped ? MP_STOPPED : MP_FOUND;
out:
    return status;
}

enum mp_status mp_moetuner_worth(struct mp_moetuner_worth *out, const struct mp_problem *in, const struct mp_plan *plan,
                                 struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    const size_t n = plan->n_gpus, cells = n * n;
    *out = (struct mp_moetuner_worth){0};
    if (arena == NULL)
        return mp_nomem(err, "moetuner");
    uint32_t *gpu = mp_arena_alloc(arena, (size_t)plan->n_layers * plan->n_experts, sizeof *gpu);
    uint64_t *moved = mp_arena_alloc(arena, plan->n_layers * cells, sizeof *moved);
    uint64_t *ps = mp_arena_alloc(arena, cells, sizeof *ps), *rows = mp_arena_alloc(arena, n, sizeof *rows);
    if (gpu == NULL || moved == NULL || ps == NULL || rows == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "moetuner");
    }
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        uint64_t most = 0;
        memset(rows, 0, n * sizeof *rows);
        for (uint32_t s = 0; s < plan->n_slots; s++) {
            const uint32_t e = plan->layers[l].slot_expert[s], g = mp_plan_slot_gpu(plan, s);
            if (e == MP_NO_EXPERT)
                continue;
            gpu[(size_t)l * plan->n_experts + e] = g;
            rows[g] += in->load[(size_t)l * plan->n_experts + e];
            most = more(most, rows[g]);
        }
        out->rows += most;
    }
    count_moves(in->workload, gpu, plan->n_gpus, moved);
    pair_times(in, ps);
    for (uint32_t l = 0; l + 1 < plan->n_layers; l++) {
        uint64_t most = 0;
        for (size_t k = 0; k < cells; k++)
            most = more(most, transfer_ns(moved[l * cells + k], ps[k]));
        out->transfer_ns += most;
    }
    mp_arena_free(arena);
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_moetuner = {
    .name = "moetuner",
    .summary = "MoETuner's two integer programs through GLPK: even clusters, then the way from layer to layer",
    .reference = "MoETuner, arXiv 2502.06643",
    .stage = MP_PLAN_PLACE,
    .options = options,
    .solve = solve};
