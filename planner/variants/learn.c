/* A library of plan variants: how many, for whose traffic, switched in which groups of layers.
 *
 * Decides   the variants, the layers that are switched together, the rule's window and patience.
 * Minimises on the validation part, the mean over block lengths of the library's time over the static plan's.
 * Method    a third of the planning data's requests is kept back. Candidates are made on the others: one for each
 * domain (up to DOMAINS_MOST), one for each of 2 and 4 groups of like requests (cluster.c). Starting with the static
 *           plan alone, the candidate that saves most on the replayed blocks is taken in, again and again, as long as
 * it saves LEAST_GAIN more; then groups of layers, window and patience are tried. What was chosen is made again on all
 * planning data.
 * Bound     of the rule, not of the choice: the static plan's time and the budget (rule.c). K = 1 is the static plan.
 * Paper     METHODS.md N.5: plan variants picked by nearest popularity, in place of Lina's second phase.
 * Differs   Lina plans anew in every layer; here nothing is planned while serving.
 * Cost      two runs of the static plan's stages for each candidate, some hundred replays of a few thousand steps. */
#include "variants.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOMAINS_MOST = 8, CANDIDATES_MOST = MP_VARIANTS_MAX, CLUSTERINGS = 2, GROUPINGS_MOST = 4 };
static const uint32_t clusterings[CLUSTERINGS] = {2, 4};
#define VARIANTS_USUAL 8u
#define LEAST_GAIN 0.0003
#define POOL_STEPS 32u
#define STATIC_STEPS 128u /* of several recordings together */
#define LENGTH_MOST 2000u
enum { POOL = 31, STREAM };

struct candidate {
    struct mp_part fit, whole; /* whose traffic: of the data without the validation part, of all */
    const char *from;
    uint32_t *share; /* [n_layers][n_experts] of fit */
    struct mp_plan *plan;
    uint64_t *ns; /* on the pool */
};
struct config {
    uint32_t n, chosen[CANDIDATES_MOST]; /* candidates, 0 first */
    uint32_t grouping, window, patience_ppm;
};
struct grouping {
    uint32_t n_groups, *first_layer;
    uint32_t *moves; /* [n_groups][candidates][candidates] */
    uint64_t *cost_ns;
};
struct learn {
    const struct mp_variants_request *request;
    const struct mp_plan_request *base;
    struct mp_part *fit, *validation; /* [n_domains] */
    struct vpool *pool;
    uint32_t n, n_groupings;
    struct candidate candidate[CANDIDATES_MOST];
    struct grouping grouping[GROUPINGS_MOST];
    struct mp_arena *arena;
    const struct mp_plan *fixed; /* the static plan of all planning data */
};

/* ---- parts ---- */

static uint64_t id_of(const struct mp_trace *t, uint32_t member) {
    return t->kind == MP_TRACE_TOKENS ? t->requests[member].id : member;
}

static enum mp_status part_of(struct mp_part *out, const struct mp_trace *t, uint32_t n_most, struct mp_arena *arena,
                              struct mp_error *err) {
    *out = (struct mp_part){.trace = t, .members = mp_arena_alloc(arena, n_most > 0 ? n_most : 1, sizeof(uint32_t))};
    return out->members != NULL ? MP_OK : mp_nomem(err, "parts of the planning data");
}

static int ascending(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* All members of the parts. */
static enum mp_status together(struct mp_part *out, const struct mp_part *parts, uint32_t n, struct mp_arena *arena,
                               struct mp_error *err) {
    uint32_t n_all = 0;
    for (uint32_t d = 0; d < n; d++)
        n_all += parts[d].n;
    enum mp_status status = part_of(out, parts[0].trace, n_all, arena, err);
    for (uint32_t d = 0; d < n && status == MP_OK; d++) {
        memcpy(out->members + out->n, parts[d].members, parts[d].n * sizeof *out->members);
        out->n += parts[d].n;
    }
    if (status == MP_OK && out->n > 0)
        qsort(out->members, out->n, sizeof *out->members, ascending);
    return status;
}

/* A third of each domain is for validation; where that leaves one side empty both have all. */
static enum mp_status keep_back(struct learn *x, struct mp_error *err) {
    const uint32_t n = x->request->n_domains;
    x->fit = mp_arena_alloc(x->arena, n, sizeof *x->fit);
    x->validation = mp_arena_alloc(x->arena, n, sizeof *x->validation);
    if (x->fit == NULL || x->validation == NULL)
        return mp_nomem(err, "parts of the planning data");
    for (uint32_t d = 0; d < n; d++) {
        const struct mp_part *all = &x->request->domains[d];
        enum mp_status status = part_of(&x->fit[d], all->trace, all->n, x->arena, err);
        if (status == MP_OK)
            status = part_of(&x->validation[d], all->trace, all->n, x->arena, err);
        if (status != MP_OK)
            return status;
        for (uint32_t m = 0; m < all->n; m++) {
            const uint64_t key = mp_mix64(id_of(all->trace, all->members[m]) ^ mp_mix64(x->base->seed + 77));
            struct mp_part *to = key % 3 == 0 ? &x->validation[d] : &x->fit[d];
            to->members[to->n++] = all->members[m];
        }
        if (x->fit[d].n == 0 || x->validation[d].n == 0)
            x->fit[d] = x->validation[d] = *all;
    }
    return MP_OK;
}

/* ---- candidates ---- */

static enum mp_status add(struct learn *x, const struct mp_part *fit, const struct mp_part *whole, const char *from,
                          struct mp_error *err) {
    struct candidate *c = &x->candidate[x->n];
    const struct mp_trace *t = fit->trace;
    enum mp_status status = MP_OK;
    if (x->n == CANDIDATES_MOST || fit->n == 0)
        return MP_OK;
    *c = (struct candidate){.fit = *fit, .whole = *whole, .from = mp_arena_strdup(x->arena, from)};
    c->share = mp_arena_alloc(x->arena, (size_t)t->n_layers * t->n_experts, sizeof *c->share);
    if (c->share == NULL || c->from == NULL)
        return mp_nomem(err, "variants");
    MP_TRY(vcluster_shares(c->share, fit, err));
    const bool is_pooled = x->n == 0 && x->request->proven != NULL;
    MP_TRY(vplan_make(&c->plan, x->fixed, x->n > 0 ? x->candidate[0].plan : NULL, is_pooled ? x->fit : fit,
                      is_pooled ? x->request->n_domains : 1, x->base, err));
    if (c->plan == NULL)
        return MP_OK; /* there is none, or no layer is worth changing */
    MP_TRY(vpool_times(&c->ns, x->pool, MP_NONE, c->plan, x->base, x->arena, err));
    x->n++;
out:
    return status;
}

static uint64_t distance(const uint32_t *a, const uint32_t *b, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
    return sum;
}

/* Requests in k groups, of those without the validation part; all of them go to the nearest. */
static enum mp_status add_clusters(struct learn *x, uint32_t k, const struct mp_part *fit, const struct mp_part *all,
                                   struct mp_error *err) {
    const struct mp_trace *t = fit->trace;
    const size_t cells = (size_t)t->n_layers * t->n_experts;
    struct mp_part part[MP_VARIANTS_MAX], whole[MP_VARIANTS_MAX];
    enum mp_status status = MP_OK;
    uint32_t *group = mp_arena_alloc(x->arena, fit->n > 0 ? fit->n : 1, sizeof *group),
             *share = mp_arena_alloc(x->arena, k + 1, cells * sizeof *share);
    if (group == NULL || share == NULL)
        return mp_nomem(err, "variants");
    MP_TRY(vcluster_group(group, &k, fit, err));
    if (k < 2)
        return MP_OK;
    for (uint32_t c = 0; c < k; c++) {
        MP_TRY(part_of(&part[c], t, fit->n, x->arena, err));
        MP_TRY(part_of(&whole[c], t, all->n, x->arena, err));
        for (uint32_t m = 0; m < fit->n; m++)
            if (group[m] == c)
                part[c].members[part[c].n++] = fit->members[m];
        MP_TRY(vcluster_shares(share + c * cells, &part[c], err));
    }
    for (uint32_t m = 0; m < all->n; m++) {
        const struct mp_part one = {.trace = t, .n = 1, .members = &all->members[m]};
        uint32_t best = 0;
        MP_TRY(vcluster_shares(share + k * cells, &one, err));
        for (uint32_t c = 1; c < k; c++)
            if (distance(share + k * cells, share + c * cells, cells) <
                distance(share + k * cells, share + best * cells, cells))
                best = c;
        whole[best].members[whole[best].n++] = all->members[m];
    }
    for (uint32_t c = 0; c < k; c++) {
        char name[64];
        snprintf(name, sizeof name, "group %u of %u of requests", c + 1, k);
        MP_TRY(add(x, &part[c], whole[c].n > 0 ? &whole[c] : &part[c], name, err));
    }
out:
    return status;
}

static enum mp_status add_all(struct learn *x, struct mp_error *err) {
    const struct mp_variants_request *q = x->request;
    struct mp_part fit, all;
    enum mp_status status = MP_OK;
    MP_TRY(together(&fit, x->fit, q->n_domains, x->arena, err));
    MP_TRY(together(&all, q->domains, q->n_domains, x->arena, err));
    MP_TRY(vpool_make(&x->pool, x->validation, q->n_domains, x->base, POOL_STEPS, POOL, err));
    MP_TRY(add(x, &fit, &all, "all", err));
    if (x->n == 0 || q->n_variants_max == 1)
        return MP_OK;
    for (uint32_t d = 0; d < q->n_domains && q->n_domains > 1 && q->n_domains <= DOMAINS_MOST; d++)
        MP_TRY(add(x, &x->fit[d], &q->domains[d], q->names[d], err));
    for (int i = 0; i < CLUSTERINGS; i++)
        MP_TRY(add_clusters(x, clusterings[i], &fit, &all, err));
out:
    return status;
}

/* ---- groups of layers ---- */

static enum mp_status group_layers(struct grouping *g, uint32_t each, uint32_t n_layers, struct mp_arena *arena,
                                   struct mp_error *err) {
    g->n_groups = (n_layers + each - 1) / each;
    g->first_layer = mp_arena_alloc(arena, (size_t)g->n_groups + 1, sizeof *g->first_layer);
    if (g->first_layer == NULL)
        return mp_nomem(err, "groups of layers");
    for (uint32_t i = 0; i <= g->n_groups; i++)
        g->first_layer[i] = i * each < n_layers ? i * each : n_layers;
    return MP_OK;
}

static enum mp_status price(uint32_t **moves, uint64_t **cost_ns, const struct grouping *g,
                            const struct mp_plan *const *plans, uint32_t n, const struct mp_variants_request *q,
                            struct mp_arena *arena, struct mp_error *err) {
    *moves = mp_arena_alloc(arena, (size_t)g->n_groups * n * n, sizeof **moves);
    *cost_ns = mp_arena_alloc(arena, (size_t)g->n_groups * n * n, sizeof **cost_ns);
    if (*moves == NULL || *cost_ns == NULL)
        return mp_nomem(err, "groups of layers");
    const enum mp_status status = vplan_costs(*moves, *cost_ns, plans, n, g->first_layer, g->n_groups, &q->base, err);
    for (size_t i = 0; i < (size_t)g->n_groups * n * n; i++)
        (*cost_ns)[i] = mp_mul_div_ceil((*cost_ns)[i], 1000000 - q->overlap_ppm, 1000000);
    return status;
}

static enum mp_status make_groupings(struct learn *x, struct mp_error *err) {
    const uint32_t n_layers = x->fixed->n_layers, asked = x->request->group_layers;
    const uint32_t sizes[GROUPINGS_MOST] = {asked > 0 && asked < n_layers ? asked : n_layers, (n_layers + 1) / 2,
                                            (n_layers + 5) / 6, 1};
    const struct mp_plan *plans[CANDIDATES_MOST];
    for (uint32_t i = 0; i < x->n; i++)
        plans[i] = x->candidate[i].plan;
    for (uint32_t i = 0; i < (asked > 0 ? 1 : GROUPINGS_MOST); i++) {
        struct grouping *g = &x->grouping[x->n_groupings];
        if (i > 0 && sizes[i] == sizes[i - 1])
            continue;
        enum mp_status status = group_layers(g, sizes[i], n_layers, x->arena, err);
        if (status == MP_OK)
            status = price(&g->moves, &g->cost_ns, g, plans, x->n, x->request, x->arena, err);
        if (status != MP_OK)
            return status;
        x->n_groupings++;
    }
    return MP_OK;
}

/* ---- the choice ---- */

/* The mean over block lengths of the time over the static plan's, on the validation part. */
static enum mp_status evaluate(double *score, const struct learn *x, const struct config *c, struct mp_error *err) {
    const struct grouping *g = &x->grouping[c->grouping];
    const uint32_t n_steps = x->pool->first[x->pool->n_domains], n_layers = x->pool->n_layers;
    const size_t cells = (size_t)n_layers * x->pool->n_experts;
    const uint64_t *ns[CANDIDATES_MOST];
    struct mp_arena *scratch = mp_arena_new();
    enum mp_status status = MP_OK;
    uint32_t n_lengths = 0;
    *score = 0;
    if (scratch == NULL)
        return mp_nomem(err, "replaying a library");
    uint32_t *share = mp_arena_alloc(scratch, c->n, cells * sizeof *share),
             *moves = mp_arena_alloc(scratch, (size_t)g->n_groups * c->n * c->n, sizeof *moves);
    uint64_t *cost = mp_arena_alloc(scratch, (size_t)g->n_groups * c->n * c->n, sizeof *cost),
             *group_ns = mp_arena_alloc(scratch, (size_t)n_steps * g->n_groups * c->n, sizeof *group_ns);
    if (share == NULL || moves == NULL || cost == NULL || group_ns == NULL) {
        status = mp_nomem(err, "replaying a library");
        goto out;
    }
    struct mp_switch_rule rule = {.n_variants = c->n,
                                  .n_groups = g->n_groups,
                                  .n_layers = n_layers,
                                  .n_experts = x->pool->n_experts,
                                  .first_layer = g->first_layer,
                                  .share = share,
                                  .cost_ns = cost,
                                  .window = c->window,
                                  .patience_ppm = c->patience_ppm,
                                  .budget_ppm = x->request->budget_ppm};
    for (uint32_t v = 0; v < c->n; v++) {
        const struct candidate *from = &x->candidate[c->chosen[v]];
        ns[v] = from->ns;
        memcpy(share + v * cells, from->share, cells * sizeof *share);
        for (uint32_t k = 0; k < g->n_groups; k++)
            for (uint32_t to = 0; to < c->n; to++) {
                const size_t at = ((size_t)k * x->n + c->chosen[v]) * x->n + c->chosen[to];
                moves[((size_t)k * c->n + v) * c->n + to] = g->moves[at];
                cost[((size_t)k * c->n + v) * c->n + to] = g->cost_ns[at];
            }
    }
    vreplay_groups(group_ns, &rule.worst_loss_ns, ns, n_steps, &rule);
    for (uint32_t i = 0; i < x->request->n_lengths; i++) {
        struct vstream stream = {x->pool, x->request->weights, x->request->lengths[i], 0, x->base->seed + STREAM};
        struct vreplay r;
        stream.length = stream.length > LENGTH_MOST ? LENGTH_MOST : stream.length;
        stream.n_blocks = (vstream_blocks(stream.length) + 3) / 4;
        MP_TRY(vreplay_run(&r, &rule, moves, group_ns, &stream, NULL, NULL, err));
        *score += r.variants_ns / r.static_ns;
        n_lengths++;
    }
    *score /= n_lengths;
out:
    mp_arena_free(scratch);
    return status;
}

/* Is it better with this? Takes it then. */
static enum mp_status consider(struct config *best, double *least, const struct learn *x, const struct config *c,
                               double by, struct mp_error *err) {
    double score;
    enum mp_status status = evaluate(&score, x, c, err);
    if (status == MP_OK && score < *least - by) {
        *best = *c;
        *least = score;
    }
    return status;
}

static enum mp_status tune(struct config *best, double *least, const struct learn *x, struct mp_error *err) {
    static const uint32_t windows[] = {1, 4, 16}, patience[] = {60000, 250000, 1000000};
    const struct mp_variants_request *q = x->request;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < x->n_groupings; i++) {
        struct config c = *best;
        c.grouping = i;
        MP_TRY(consider(best, least, x, &c, 0, err));
    }
    for (size_t i = 0; i < sizeof windows / sizeof *windows && q->window == 0; i++) {
        struct config c = *best;
        c.window = windows[i];
        MP_TRY(consider(best, least, x, &c, 0, err));
    }
    for (size_t i = 0; i < sizeof patience / sizeof *patience && q->patience_ppm == 0; i++) {
        struct config c = *best;
        c.patience_ppm = patience[i];
        MP_TRY(consider(best, least, x, &c, 0, err));
    }
out:
    return status;
}

static enum mp_status choose(struct config *best, double *least, const struct learn *x, struct mp_error *err) {
    const struct mp_variants_request *q = x->request;
    const uint32_t most = q->n_variants_max > 0 ? q->n_variants_max : VARIANTS_USUAL;
    enum mp_status status = MP_OK;
    *best = (struct config){.n = 1,
                            .window = q->window > 0 ? q->window : 4,
                            .patience_ppm = q->patience_ppm > 0 ? q->patience_ppm : 250000};
    *least = 1;
    while (best->n < most) {
        struct config next = *best;
        const double before = *least;
        for (uint32_t i = 1; i < x->n; i++) {
            struct config c = *best;
            bool is_in = false;
            for (uint32_t k = 0; k < c.n; k++)
                is_in |= c.chosen[k] == i;
            if (is_in)
                continue;
            c.chosen[c.n++] = i;
            MP_TRY(consider(&next, least, x, &c, 0, err));
        }
        if (*least > before - LEAST_GAIN) {
            *least = before;
            break;
        }
        *best = next;
        MP_TRY(tune(best, least, x, err));
    }
out:
    return status;
}

/* ---- the library ---- */

/* What was chosen, made of all planning data; *out NULL: it is not there any more. */
static enum mp_status make_again(struct mp_plan **out, const struct candidate *c, const struct learn *x,
                                 struct mp_error *err) {
    struct mp_plan *made = NULL;
    *out = NULL;
    enum mp_status status = vplan_make(&made, x->fixed, x->fixed, &c->whole, 1, x->base, err);
    if (status != MP_OK || made == NULL)
        return status;
    return mp_plan_adopt(out, made, x->request->proven != NULL ? x->request->proven : x->base, "variant", err);
}

static enum mp_status finish(struct mp_variants *v, struct learn *x, const struct config *c, struct mp_error *err) {
    const struct mp_plan *plans[MP_VARIANTS_MAX];
    const uint64_t *ns[MP_VARIANTS_MAX];
    const size_t cells = (size_t)x->fixed->n_layers * x->fixed->n_experts;
    struct grouping g = {.n_groups = 0};
    uint32_t *share = mp_arena_alloc(v->arena, c->n, cells * sizeof *share);
    enum mp_status status = MP_OK;
    if (share == NULL)
        return mp_nomem(err, "variants");
    for (uint32_t i = 0; i < c->n; i++) {
        const struct candidate *from = &x->candidate[c->chosen[i]];
        struct mp_variant *to = &v->variant[v->n];
        if (i > 0)
            MP_TRY(make_again(&to->plan, from, x, err));
        if (to->plan == NULL)
            continue;
        MP_TRY(vcluster_shares(share + v->n * cells, &from->whole, err));
        to->from = mp_arena_strdup(v->arena, from->from);
        to->n_members = from->whole.n;
        if (to->from == NULL) {
            status = mp_nomem(err, "variants");
            goto out;
        }
        plans[v->n++] = to->plan;
    }
    const struct grouping *chosen = &x->grouping[c->grouping];
    MP_TRY(group_layers(&g, v->n > 1 ? chosen->first_layer[1] : x->fixed->n_layers, x->fixed->n_layers, v->arena, err));
    MP_TRY(price(&g.moves, &g.cost_ns, &g, plans, v->n, x->request, v->arena, err));
    v->moves = g.moves;
    v->rule = (struct mp_switch_rule){.n_variants = v->n,
                                      .n_groups = g.n_groups,
                                      .n_layers = x->fixed->n_layers,
                                      .n_experts = x->fixed->n_experts,
                                      .first_layer = g.first_layer,
                                      .share = share,
                                      .cost_ns = g.cost_ns,
                                      .window = c->window,
                                      .patience_ppm = c->patience_ppm,
                                      .budget_ppm = x->request->budget_ppm};
    for (uint32_t i = 0; i < v->n; i++) {
        uint64_t *of_plan;
        MP_TRY(vpool_times(&of_plan, x->pool, MP_NONE, plans[i], x->base, x->arena, err));
        ns[i] = of_plan;
        for (uint32_t l = 0; l < x->fixed->n_layers; l++)
            v->variant[i].n_layers_changed += memcmp(plans[i]->layers[l].slot_expert, plans[0]->layers[l].slot_expert,
                                                     plans[0]->n_slots * sizeof(uint16_t)) != 0;
        for (uint32_t k = 0; k < g.n_groups; k++)
            v->variant[i].n_moves += g.moves[(size_t)k * v->n * v->n + i];
    }
    const uint32_t n_steps = x->pool->first[x->pool->n_domains];
    uint64_t *group_ns = mp_arena_alloc(x->arena, (size_t)n_steps * g.n_groups * v->n, sizeof *group_ns);
    if (group_ns == NULL) {
        status = mp_nomem(err, "variants");
        goto out;
    }
    vreplay_groups(group_ns, &v->rule.worst_loss_ns, ns, n_steps, &v->rule);
out:
    return status;
}

static enum mp_status check(const struct mp_variants_request *q, enum mp_outcome *outcome, struct mp_error *err) {
    if (q->n_domains < 1 || q->n_domains > MP_VARIANT_DOMAINS_MAX)
        return mp_fail(err, MP_EUSAGE, "variants: %u domains are not in [1, %d]", q->n_domains, MP_VARIANT_DOMAINS_MAX);
    if (q->n_variants_max > MP_VARIANTS_MAX)
        return mp_fail(err, MP_EUSAGE, "variants: %u variants are not in [1, %d]", q->n_variants_max, MP_VARIANTS_MAX);
    if (q->overlap_ppm > 1000000)
        return mp_fail(err, MP_EUSAGE, "variants: an overlap of %u millionths is not in [0, 1000000]", q->overlap_ppm);
    if (q->n_lengths < 1)
        return mp_fail(err, MP_EUSAGE, "variants: no length of blocks");
    for (uint32_t i = 0; i < q->n_lengths; i++)
        if (q->lengths[i] < 1)
            return mp_fail(err, MP_EUSAGE, "variants: a block of no steps");
    for (uint32_t d = 0; d < q->n_domains; d++)
        if (q->domains[d].n == 0)
            return mp_fail(err, MP_EINPUT, "domain %.80s has nothing in the planning part", q->names[d]);
    *outcome = MP_FOUND;
    if (q->base.sim.is_pipelined)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "layers of the pipelined reading overlap, so groups of them cannot be switched by their own "
                          "times (leave --timeline pipelined out)");
    return MP_OK;
}

static enum mp_status make_static(struct mp_plan **out, const struct mp_variants_request *q, enum mp_outcome *outcome,
                                  struct mp_error *err) {
    struct mp_plan_request trial = q->base;
    struct mp_workload *steps = NULL;
    struct mp_plan *made = NULL;
    enum mp_status status;
    *out = NULL;
    if (q->proven == NULL)
        return mp_plan_make(out, &q->base, outcome, NULL, err);
    MP_TRY(vpool_steps(&steps, q->domains, q->n_domains, &q->base, STATIC_STEPS, POOL, err));
    trial.is_trial = trial.fits_steps = true;
    trial.steps = steps;
    MP_TRY(mp_plan_make(&made, &trial, outcome, NULL, err));
    if (made != NULL)
        status = mp_plan_adopt(out, made, q->proven, "variant", err);
out:
    mp_workload_free(steps);
    return status;
}

static void learn_free(struct learn *x) {
    for (uint32_t i = 0; i < CANDIDATES_MOST; i++)
        mp_plan_free(x->candidate[i].plan);
    vpool_free(x->pool);
    mp_arena_free(x->arena);
}

enum mp_status mp_variants_make(struct mp_variants **out, const struct mp_variants_request *request,
                                enum mp_outcome *outcome, double *seconds, struct mp_error *err) {
    struct mp_variants_request own = *request;
    struct learn x = {.request = &own, .base = &own.base};
    struct mp_arena *arena = mp_arena_new();
    struct mp_variants *v = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *v) : NULL;
    const double started = mp_now_seconds();
    struct config best;
    double least;
    *out = NULL;
    *outcome = MP_NOT_FOUND;
    enum mp_status status = v != NULL ? MP_OK : mp_nomem(err, "variants");
    if (status != MP_OK)
        goto out;
    v->arena = arena;
    arena = NULL;
    if (own.base.sim.dispatcher == NULL)
        own.base.sim.dispatcher = mp_dispatcher_default(own.base.batching.phase, own.base.planning->trace->kind);
    x.arena = mp_arena_new();
    if (x.arena == NULL) {
        status = mp_nomem(err, "variants");
        goto out;
    }
    MP_TRY(check(request, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(make_static(&v->variant[0].plan, &own, outcome, err));
    x.fixed = v->variant[0].plan;
    if (x.fixed == NULL)
        goto out;
    MP_TRY(keep_back(&x, err));
    MP_TRY(add_all(&x, err));
    v->n_candidates = x.n;
    MP_TRY(make_groupings(&x, err));
    MP_TRY(choose(&best, &least, &x, err));
    v->validation_gain = 1 - least;
    MP_TRY(finish(v, &x, &best, err));
    *out = v;
    v = NULL;
out:
    learn_free(&x);
    mp_variants_free(v);
    mp_arena_free(arena);
    if (seconds != NULL)
        *seconds = mp_now_seconds() - started;
    return status;
}

void mp_variants_free(struct mp_variants *v) {
    if (v == NULL)
        return;
    for (uint32_t i = 0; i < MP_VARIANTS_MAX; i++)
        mp_plan_free(v->variant[i].plan);
    mp_arena_free(v->arena);
}
