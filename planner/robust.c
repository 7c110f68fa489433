/* One plan for several kinds of traffic.
 *
 * Decides   placement, replicas and routing that hold for all scenarios.
 * Minimises the longest of the scenarios' mean steps, or their weighted mean (any objective of the simulator in place
 * of the mean step), on up to 64 steps drawn from each scenario's requests.
 * Method    candidates: the plan of the base's requests, of each scenario alone, and of one pool of steps of them all,
 *           which has as many steps of each scenario as its weight says. For the worst case the pool is made anew with
 *           more steps of those scenarios that the last plan is slow on (multiplicative weights), with the strategies
 *           that the first pool chose. All are simulated on steps that no candidate was planned on, drawn with another
 *           seed; ties: the earlier one. The best is then proven on the base's requests like any plan.
 * Bound     none of its own; never worse than a candidate on those steps.
 * Paper     the weights: Arora, Hazan and Kale, "The multiplicative weights update method", Theory of Computing 8,
 * 2012.
 * Differs   what is planned with the weights is a heuristic plan, so nothing is promised of the rounds; they are few
 * and only the best candidate counts.
 * Cost      n + 2 runs of the strategy, ROUNDS runs of one combination, n simulations for each candidate. */
#include "planner.h"
#include <moeplan/robust.h>
#include <string.h>

#define ROUNDS 4u
#define STEPS 64u       /* drawn of each scenario, at most */
#define POOL_STEPS 256u /* of all scenarios in the pool */
#define SHARPNESS 8     /* a scenario twice as slow gets 2^SHARPNESS times the weight */
enum { FIT = 11, CHOICE };

struct robust {
    const struct mp_robust_request *request;
    struct mp_workload *fit[MP_SCENARIOS_MAX], *choice[MP_SCENARIOS_MAX];
    double time[MP_SCENARIOS_MAX]; /* of the last candidate */
    struct mp_plan *best;          /* may be the plain one */
    uint64_t work;
    struct mp_error declined;
};

static enum mp_status steps_of(struct mp_workload **out, const struct mp_part *part, const struct mp_plan_request *base,
                               uint64_t seed, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *out = NULL;
    if (!base->fits_steps && mp_can_draw(part))
        status = mp_draw_steps(out, part, &base->batching, STEPS, seed, err);
    return status != MP_OK || *out != NULL ? status : mp_workload_build(out, part, &base->batching, err);
}

/* The steps of all scenarios, share[i] of n each, as one workload. */
static enum mp_status pool_of(struct mp_workload **out, const struct robust *r, const double *share,
                              struct mp_error *err) {
    const uint32_t n = r->request->n;
    uint32_t count[MP_SCENARIOS_MAX], n_steps = 0, at = 0;
    struct mp_arena *arena = mp_arena_new();
    struct mp_workload *w = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *w) : NULL;
    *out = NULL;
    for (uint32_t i = 0; i < n; i++) {
        count[i] = (uint32_t)(share[i] * POOL_STEPS + 0.5);
        count[i] += count[i] == 0;
        n_steps += count[i];
    }
    struct mp_step *steps = w != NULL ? mp_arena_alloc(arena, n_steps, sizeof *steps) : NULL;
    uint32_t *iterations = w != NULL ? mp_arena_alloc(arena, n_steps, sizeof *iterations) : NULL;
    if (steps == NULL || iterations == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "pooling steps");
    }
    *w = *r->fit[0];
    w->arena = arena;
    w->n_steps = n_steps;
    w->n_rows = 0;
    w->n_requests = 0;
    const bool is_counts = w->trace->kind == MP_TRACE_COUNTS;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_workload *from = r->fit[i];
        w->n_requests += from->n_requests;
        w->is_bootstrap |= from->is_bootstrap;
        for (uint32_t k = 0; k < count[i]; k++, at++) {
            const uint32_t step = count[i] < from->n_steps /* spread over them all */
                                      ? (uint32_t)((uint64_t)k * from->n_steps / count[i])
                                      : k % from->n_steps;
            if (is_counts) {
                iterations[at] = from->iterations[step];
            } else {
                steps[at] = from->steps[step];
                w->n_rows += steps[at].n;
            }
        }
    }
    w->steps = is_counts ? NULL : steps;
    w->iterations = is_counts ? iterations : NULL;
    *out = w;
    return MP_OK;
}

/* What a plan scores on every scenario, and by the objective. */
static enum mp_status weigh(double *score, struct robust *r, const struct mp_plan *plan, struct mp_error *err) {
    const struct mp_robust_request *q = r->request;
    double sum = 0, weights = 0, worst = 0;
    for (uint32_t i = 0; i < q->n; i++) {
        struct mp_sim_options options = q->base.sim;
        struct mp_sim_result *result;
        options.network = MP_NETWORK_PLAN;
        options.stage_mode = -1;
        options.no_pacing = false;
        options.with_bound = false;
        options.n_threads = q->base.n_threads;
        const struct mp_problem p = {.workload = r->choice[i], .topology = q->base.topology};
        options.n_steps_max = mp_scoring_steps(&p);
        r->work += (uint64_t)options.n_steps_max * plan->n_layers;
        enum mp_status status =
            mp_simulate(&result, plan, r->choice[i], q->base.topology, q->base.model, &options, err);
        if (status != MP_OK)
            return status;
        r->time[i] = mp_sim_objective(result, q->base.objective);
        mp_sim_result_free(result);
        sum += r->time[i] * q->scenarios[i].weight;
        weights += q->scenarios[i].weight;
        worst = r->time[i] > worst ? r->time[i] : worst;
    }
    *score = q->is_worst ? worst : sum / weights;
    return MP_OK;
}

/* A plan by `request`, for scoring alone; NULL where there is none. */
static enum mp_status try_plan(struct mp_plan **out, struct robust *r, struct mp_plan_request request,
                               enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_error why = {0};
    request.is_trial = true;
    request.export_lp = request.import_solution = NULL;
    enum mp_status status = mp_plan_make(out, &request, outcome, NULL, &why);
    if (status != MP_OK && err != NULL)
        *err = why;
    if (status == MP_OK && *out != NULL)
        r->work += (*out)->provenance.work_used;
    else if (status == MP_OK && r->declined.message[0] == '\0')
        r->declined = why;
    return status;
}

/* Takes the plan if it is the best so far, else frees it; the plain one is kept in any case. */
static enum mp_status consider(struct robust *r, struct mp_robust *how, struct mp_plan *plan, enum mp_robust_from from,
                               uint32_t scenario, const double *share, double *score, struct mp_error *err) {
    enum mp_status status = weigh(score, r, plan, err);
    how->n_candidates++;
    if (status == MP_OK && (r->best == NULL || *score < how->score)) {
        if (r->best != how->plain)
            mp_plan_free(r->best);
        r->best = plan;
        how->score = *score;
        how->from = from;
        how->scenario = scenario;
        for (uint32_t i = 0; i < r->request->n; i++)
            how->share_ppm[i] = share != NULL ? (uint32_t)(share[i] * 1e6 + 0.5) : 0;
    } else if (plan != how->plain) {
        mp_plan_free(plan);
    }
    return status;
}

static const char *recipe_like(const struct mp_plan *plan) {
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++)
        if (mp_recipe_at(i)->place != NULL && mp_recipe_at(i)->may_repeat_on_gpu == plan->allow_same_gpu_replicas)
            return mp_recipe_at(i)->name;
    return "contiguous";
}

/* Pools of other proportions, with the strategies that the first pool chose. */
static enum mp_status pools(struct robust *r, struct mp_robust *how, struct mp_error *err) {
    const struct mp_robust_request *q = r->request;
    struct mp_plan_request request = q->base;
    double share[MP_SCENARIOS_MAX], sum = 0, score;
    enum mp_status status = MP_OK;
    request.planning = q->scenarios[0].part;
    request.fits_steps = true;
    for (uint32_t i = 0; i < q->n; i++)
        sum += q->scenarios[i].weight;
    for (uint32_t i = 0; i < q->n; i++)
        share[i] = q->scenarios[i].weight / sum;
    for (uint32_t round = 0; round <= (q->is_worst ? ROUNDS : 0) && status == MP_OK; round++) {
        struct mp_workload *pool = NULL;
        struct mp_plan *plan = NULL;
        enum mp_outcome outcome;
        status = pool_of(&pool, r, share, err);
        request.steps = pool;
        if (status == MP_OK)
            status = try_plan(&plan, r, request, &outcome, err);
        mp_workload_free(pool);
        if (status != MP_OK || plan == NULL)
            return status;
        if (round == 0) {
            request.strategy = recipe_like(plan);
            request.replicate = plan->provenance.replicate;
            request.place = plan->provenance.place;
            request.route = plan->provenance.route;
            request.order = plan->provenance.order;
        }
        status = consider(r, how, plan, MP_ROBUST_POOLED, 0, share, &score, err);
        double most = 0, all = 0;
        for (uint32_t i = 0; i < q->n; i++)
            most = r->time[i] > most ? r->time[i] : most;
        for (uint32_t i = 0; i < q->n && most > 0; i++) {
            double slow = r->time[i] / most, factor = 1;
            for (int k = 0; k < SHARPNESS; k++)
                factor *= slow;
            share[i] *= factor;
            all += share[i];
        }
        for (uint32_t i = 0; i < q->n && all > 0; i++)
            share[i] /= all;
    }
    return status;
}

static enum mp_status candidates(struct robust *r, struct mp_robust *how, enum mp_outcome *outcome,
                                 struct mp_error *err) {
    const struct mp_robust_request *q = r->request;
    double score;
    enum mp_status status = try_plan(&how->plain, r, q->base, outcome, err);
    if (status != MP_OK || how->plain == NULL) {
        if (status == MP_OK && err != NULL)
            *err = r->declined;
        return status;
    }
    status = consider(r, how, how->plain, MP_ROBUST_PLAIN, 0, NULL, &how->plain_score, err);
    for (uint32_t i = 0; i < q->n && status == MP_OK; i++) {
        struct mp_plan_request request = q->base;
        struct mp_plan *plan = NULL;
        enum mp_outcome ignored;
        if (q->scenarios[i].part->n == q->base.planning->n && i == 0)
            continue; /* the base itself */
        request.planning = q->scenarios[i].part;
        status = try_plan(&plan, r, request, &ignored, err);
        if (status == MP_OK && plan != NULL)
            status = consider(r, how, plan, MP_ROBUST_ALONE, i, NULL, &score, err);
    }
    return status == MP_OK ? pools(r, how, err) : status;
}

enum mp_status mp_robust_make(struct mp_plan **out, struct mp_robust *how, const struct mp_robust_request *request,
                              enum mp_outcome *outcome, double *seconds, struct mp_error *err) {
    struct robust r = {.request = request};
    enum mp_status status = MP_OK;
    const double started = mp_now_seconds();
    *out = NULL;
    *how = (struct mp_robust){.n_candidates = 0};
    *outcome = MP_NOT_FOUND;
    if (request->n < 1 || request->n > MP_SCENARIOS_MAX)
        return mp_fail(err, MP_EUSAGE, "robust: %u scenarios are not in [1, %d]", request->n, MP_SCENARIOS_MAX);
    struct mp_robust_request own = *request;
    if (own.base.sim.dispatcher == NULL)
        own.base.sim.dispatcher = mp_dispatcher_default(own.base.batching.phase, own.base.planning->trace->kind);
    r.request = &own;
    for (uint32_t i = 0; i < own.n; i++) {
        MP_TRY(steps_of(&r.fit[i], own.scenarios[i].part, &own.base, FIT, err));
        MP_TRY(steps_of(&r.choice[i], own.scenarios[i].part, &own.base, CHOICE, err));
    }
    MP_TRY(candidates(&r, how, outcome, err));
    if (r.best == NULL)
        goto out;
    if (r.best == how->plain) { /* proven, and as it is without scenarios; the other is kept to be scored beside it */
        MP_TRY(mp_plan_make(out, &own.base, outcome, NULL, err));
    } else {
        struct mp_plan *taken = r.best;
        r.best = NULL;
        own.base.given_work = r.work;
        *outcome = MP_FOUND;
        MP_TRY(mp_plan_adopt(out, taken, &own.base, "robust", err));
    }
out:
    if (seconds != NULL)
        *seconds = mp_now_seconds() - started;
    if (r.best != how->plain)
        mp_plan_free(r.best);
    for (uint32_t i = 0; i < MP_SCENARIOS_MAX; i++) {
        mp_workload_free(r.fit[i]);
        mp_workload_free(r.choice[i]);
    }
    if (status != MP_OK)
        mp_robust_free(how);
    return status;
}

void mp_robust_free(struct mp_robust *r) {
    mp_plan_free(r->plain);
    r->plain = NULL;
}
