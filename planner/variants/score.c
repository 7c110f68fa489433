/* What a library is worth, beside one static plan and plans that know more.
 *
 * Decides   nothing.
 * Minimises -
 * Method    blocks of held-out steps (replay.c). Every row is on the same steps: the static plan, the library, the
 *           library's best variant of each group for each step with switches free, a plan for each domain with switches
 *           free (the static plan's stages on the domain's planning data; the static plan itself where that is no
 *           worse), and the lower bound of a plan for each step where every GPU may hold every expert.
 * Bound     -
 * Differs   -
 * Cost      one simulation of each distinct step for each plan, and the replays. */
#include "variants.h"
#include <moeplan/base.h>
#include <string.h>

enum { POOL = 41, LENGTHS = 14 };

struct scoring {
    const struct mp_variants *v;
    const struct mp_variants_score_request *q;
    struct mp_plan_request base;
    struct vpool *pool;
    uint64_t *ns[MP_VARIANTS_MAX]; /* [steps][n_layers] */
    uint64_t *group_ns;
    struct mp_switch_rule rule;
    uint64_t *oracle, *best, *bound, *policy[MP_VARIANT_POLICIES_MAX]; /* [steps] whole ones */
    double sum_oracle, sum_best, sum_bound, sum_policy[MP_VARIANT_POLICIES_MAX];
    struct mp_variants_score *out;
};

static void each_step(void *ctx, uint32_t step) {
    struct scoring *x = ctx;
    x->sum_oracle += (double)x->oracle[step];
    x->sum_best += (double)x->best[step];
    x->sum_bound += (double)x->bound[step];
    for (uint32_t i = 0; i < x->q->n_policies; i++)
        x->sum_policy[i] += (double)x->policy[i][step];
}

static uint64_t step_ns(const struct scoring *x, const uint64_t *ns, uint32_t step) {
    uint64_t sum = x->pool->rest_ns;
    for (uint32_t l = 0; l < x->pool->n_layers; l++)
        sum += ns[(size_t)step * x->pool->n_layers + l];
    return sum;
}

static uint64_t mean_of(const struct scoring *x, const uint64_t *ns, uint32_t domain) {
    const uint32_t first = x->pool->first[domain], n = x->pool->first[domain + 1] - first;
    unsigned __int128 sum = 0;
    for (uint32_t t = 0; t < n; t++)
        sum += step_ns(x, ns, first + t);
    return (uint64_t)((sum + n / 2) / n);
}

/* A step's time of the library, every group by its best variant. */
static uint64_t best_of(const struct scoring *x, uint32_t step) {
    uint64_t sum = x->pool->rest_ns;
    for (uint32_t g = 0; g < x->rule.n_groups; g++) {
        const uint64_t *ns = x->group_ns + ((size_t)step * x->rule.n_groups + g) * x->rule.n_variants;
        uint64_t least = ns[0];
        for (uint32_t i = 1; i < x->rule.n_variants; i++)
            least = ns[i] < least ? ns[i] : least;
        sum += least;
    }
    return sum;
}

static enum mp_status find_bound(uint64_t *ns, const struct scoring *x, uint32_t domain, struct mp_error *err) {
    struct mp_sim_options sim = x->base.sim;
    struct mp_sim_result *r;
    sim.network = MP_NETWORK_PORT_BOUND;
    sim.with_bound = true;
    sim.n_threads = x->base.n_threads;
    sim.n_steps_max = 0;
    enum mp_status status =
        mp_simulate(&r, x->v->variant[0].plan, x->pool->steps[domain], x->base.topology, x->base.model, &sim, err);
    if (status != MP_OK)
        return status;
    *ns = r->residual_ns;
    mp_sim_result_free(r);
    return MP_OK;
}

static enum mp_status score_domain(struct scoring *x, uint32_t d, struct mp_error *err) {
    struct mp_variants_domain *to = &x->out->domain[d];
    const struct mp_workload *w = x->pool->steps[d];
    struct mp_plan *own = NULL;
    uint64_t *oracle = x->ns[0];
    enum mp_status status = MP_OK;
    unsigned __int128 best = 0, policy[MP_VARIANT_POLICIES_MAX] = {0};
    if (w == NULL)
        return MP_OK;
    to->n_steps = w->n_steps;
    to->n_requests = w->n_requests;
    for (uint32_t i = 0; i < x->v->n; i++)
        to->variant_ns[i] = mean_of(x, x->ns[i], d);
    to->static_ns = to->oracle_ns = to->variant_ns[0];
    if (x->q->planned[d].n > 0)
        MP_TRY(vplan_make(&own, x->v->variant[0].plan, NULL, &x->q->planned[d], 1, &x->base, err));
    if (own != NULL) {
        uint64_t *ns;
        MP_TRY(vpool_times(&ns, x->pool, d, own, &x->base, x->out->arena, err));
        const uint64_t mean = mean_of(x, ns, d);
        if (mean < to->oracle_ns) {
            to->oracle_ns = mean;
            oracle = ns;
        }
    }
    MP_TRY(find_bound(&to->bound_ns, x, d, err));
    for (uint32_t i = 0; i < x->q->n_policies; i++)
        MP_TRY(x->q->policy(x->q->policy_ctx, i, d, w, x->policy[i] + x->pool->first[d], err));
    for (uint32_t t = x->pool->first[d]; t < x->pool->first[d + 1]; t++) {
        x->oracle[t] = step_ns(x, oracle, t);
        x->best[t] = best_of(x, t);
        x->bound[t] = to->bound_ns;
        best += x->best[t];
        for (uint32_t i = 0; i < x->q->n_policies; i++)
            policy[i] += x->policy[i][t];
    }
    to->best_ns = (uint64_t)((best + w->n_steps / 2) / w->n_steps);
    for (uint32_t i = 0; i < x->q->n_policies; i++)
        to->policy_ns[i] = (uint64_t)(policy[i] / w->n_steps);
out:
    mp_plan_free(own);
    return status;
}

static enum mp_status score_length(struct mp_variants_cell *to, struct scoring *x, uint32_t length,
                                   struct mp_error *err) {
    const struct vstream stream = {x->pool, x->q->weights, length, vstream_blocks(length), x->q->seed};
    struct vreplay r;
    x->sum_oracle = x->sum_best = x->sum_bound = 0;
    memset(x->sum_policy, 0, sizeof x->sum_policy);
    enum mp_status status = vreplay_run(&r, &x->rule, x->v->moves, x->group_ns, &stream, each_step, x, err);
    if (status != MP_OK)
        return status;
    const double n = (double)r.n_steps;
    *to = (struct mp_variants_cell){.length = length,
                                    .n_blocks = stream.n_blocks,
                                    .n_steps = r.n_steps,
                                    .static_ns = r.static_ns / n,
                                    .variants_ns = r.variants_ns / n,
                                    .switching_ns = r.switching_ns / n,
                                    .best_ns = x->sum_best / n,
                                    .oracle_ns = x->sum_oracle / n,
                                    .bound_ns = x->sum_bound / n,
                                    .n_switches = r.n_switches,
                                    .moved_bytes = r.n_moves * x->base.model->expert_bytes,
                                    .worst_block = r.worst_block};
    for (uint32_t i = 0; i < x->q->n_policies; i++)
        to->policy_ns[i] = x->sum_policy[i] / n;
    return MP_OK;
}

/* The shortest length from which on blocks of every length tried are served faster. */
static enum mp_status find_break_even(struct scoring *x, struct mp_error *err) {
    static const uint32_t lengths[LENGTHS] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000};
    struct mp_variants_score *s = x->out;
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->n_lengths; i++)
        most = s->cell[i].length > most ? s->cell[i].length : most;
    for (int i = LENGTHS - 1; i >= 0; i--) {
        struct mp_variants_cell cell = {.length = 0};
        if (lengths[i] > most)
            continue;
        for (uint32_t k = 0; k < s->n_lengths; k++)
            if (s->cell[k].length == lengths[i])
                cell = s->cell[k];
        enum mp_status status = cell.length == 0 ? score_length(&cell, x, lengths[i], err) : MP_OK;
        if (status != MP_OK || cell.variants_ns >= cell.static_ns)
            return status;
        s->break_even = lengths[i];
    }
    return MP_OK;
}

/* What switching between the domains' best variants takes, and saves. */
static void mean_switch(struct scoring *x) {
    struct mp_variants_score *s = x->out;
    const uint32_t n = x->rule.n_variants;
    uint32_t best[MP_VARIANT_DOMAINS_MAX], n_scored = 0, n_pairs = 0;
    double cost = 0, saved = 0;
    for (uint32_t d = 0; d < s->n_domains; d++) {
        best[d] = 0;
        for (uint32_t i = 1; i < n; i++)
            if (s->domain[d].variant_ns[i] < s->domain[d].variant_ns[best[d]])
                best[d] = i;
        if (s->domain[d].n_steps == 0)
            continue;
        n_scored++;
        saved += (double)s->domain[d].static_ns - (double)s->domain[d].variant_ns[best[d]];
    }
    for (uint32_t a = 0; a < s->n_domains; a++)
        for (uint32_t b = 0; b < s->n_domains; b++) {
            if (a == b || s->domain[a].n_steps == 0 || s->domain[b].n_steps == 0)
                continue;
            n_pairs++;
            for (uint32_t g = 0; g < x->rule.n_groups; g++)
                cost += (double)x->rule.cost_ns[((size_t)g * n + best[a]) * n + best[b]];
        }
    s->switch_ns = n_pairs > 0 ? cost / n_pairs : 0;
    s->saved_ns = n_scored > 0 ? saved / n_scored : 0;
}

static enum mp_status score_all(struct scoring *x, struct mp_error *err) {
    struct mp_variants_score *s = x->out;
    const struct mp_variants_score_request *q = x->q;
    enum mp_status status = MP_OK;
    s->domain = mp_arena_alloc(s->arena, q->n_domains, sizeof *s->domain);
    s->cell = mp_arena_alloc(s->arena, q->n_lengths, sizeof *s->cell);
    if (s->domain == NULL || s->cell == NULL)
        return mp_nomem(err, "scoring a library");
    s->n_domains = q->n_domains;
    MP_TRY(vpool_make(&x->pool, q->scored, q->n_domains, &x->base, q->n_steps, POOL, err));
    const uint32_t n_steps = x->pool->first[x->pool->n_domains];
    if (n_steps == 0)
        return mp_fail(err, MP_EINPUT, "none of the domains has anything to score on (another --split)");
    x->rule = x->v->rule;
    x->group_ns =
        mp_arena_alloc(s->arena, (size_t)n_steps * x->rule.n_groups * x->rule.n_variants, sizeof *x->group_ns);
    x->oracle = mp_arena_alloc(s->arena, n_steps, sizeof *x->oracle);
    x->best = mp_arena_alloc(s->arena, n_steps, sizeof *x->best);
    x->bound = mp_arena_alloc(s->arena, n_steps, sizeof *x->bound);
    if (x->group_ns == NULL || x->oracle == NULL || x->best == NULL || x->bound == NULL)
        return mp_nomem(err, "scoring a library");
    for (uint32_t i = 0; i < q->n_policies; i++) {
        x->policy[i] = mp_arena_alloc(s->arena, n_steps, sizeof *x->policy[i]);
        if (x->policy[i] == NULL)
            return mp_nomem(err, "scoring a library");
    }
    for (uint32_t i = 0; i < x->v->n; i++)
        MP_TRY(vpool_times(&x->ns[i], x->pool, MP_NONE, x->v->variant[i].plan, &x->base, s->arena, err));
    uint64_t unknown; /* the rule goes by what planning saw */
    vreplay_groups(x->group_ns, &unknown, (const uint64_t *const *)x->ns, n_steps, &x->rule);
    for (uint32_t d = 0; d < q->n_domains; d++)
        MP_TRY(score_domain(x, d, err));
    for (uint32_t i = 0; i < q->n_lengths; i++) {
        MP_TRY(score_length(&s->cell[i], x, q->lengths[i], err));
        s->n_lengths++;
    }
    mean_switch(x);
    if (x->v->n > 1)
        MP_TRY(find_break_even(x, err));
out:
    return status;
}

enum mp_status mp_variants_score(struct mp_variants_score **out, const struct mp_variants *v,
                                 const struct mp_variants_score_request *request, struct mp_error *err) {
    struct scoring x = {.v = v, .q = request, .base = *request->base};
    struct mp_arena *arena = mp_arena_new();
    *out = NULL;
    if (request->n_policies > MP_VARIANT_POLICIES_MAX) {
        mp_arena_free(arena);
        return mp_fail(err, MP_EUSAGE, "variants: more than %d policies beside it", MP_VARIANT_POLICIES_MAX);
    }
    x.out = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *x.out) : NULL;
    if (x.out == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "scoring a library");
    }
    x.out->arena = arena;
    if (x.base.sim.dispatcher == NULL)
        x.base.sim.dispatcher = mp_dispatcher_default(x.base.batching.phase, x.base.planning->trace->kind);
    enum mp_status status = score_all(&x, err);
    vpool_free(x.pool);
    if (status == MP_OK)
        *out = x.out;
    else
        mp_arena_free(arena);
    return status;
}

void mp_variants_score_free(struct mp_variants_score *s) {
    if (s != NULL)
        mp_arena_free(s->arena);
}
