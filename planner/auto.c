/* The search of `auto`: the best of the named strategies' combinations.
 *
 * Decides   which strategy each stage uses.
 * Minimises the objective as the simulator computes it, on the selection data: the validation part (a quarter of
 *           the planning requests by hash, when there are at least 40 and both parts can be batched), on steps drawn
 *           from it (planner/drawn.c) where that can be, else all planning data. At most 64 steps.
 * Method    every named recipe, then every replicate x place x route combination with a single shot (of strategies that
 *           are not for recipes alone), then the best three placements with replicas under the other routes; where the
 *           validation part is small, the few best of those on two other quarters too; then the best with order
 *           `auto`. Ties: the earlier one. The winner is run again on all planning data by the driver.
 * Bound     never worse than any named recipe on its selection score, unless a budget stopped it.
 * Cost      one plan and one simulation per candidate; work is counted in simulated (step, layer) pairs. */
#include "planner.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <string.h>

#define N_CANDIDATES_MAX 1024u
#define MIN_REQUESTS 40u
#define N_PARTS 4u
#define CHOICE_STEPS 64u
#define LARGE_ROWS 15000000u /* scored for each candidate, over all layers */
#define TURNS 3u
#define TURNS_REQUESTS 400u            /* with fewer, three of the quarters are the validation part in turn */
#define TURNS_FLOWS 62500u             /* layers x GPUs^2: with more, a turn is too dear */
#define TURNS_CANDIDATES 8u            /* for the best of the first turn, */
#define TURNS_WITHIN 1.01              /* if they are so near */
#define ROUTED_PLACEMENTS 3u           /* placements with replicas that all other routes are tried on */
#define ROUTED_PAIRS UINT64_C(6000000) /* of a step: above that, on the best one */
#define GLANCE_STEPS_MIN 32u           /* with redundant slots, and so many steps to score on, */
#define GLANCE_PART 8u                 /* this part of them says which candidates are */
#define GLANCE_STEPS_MAX 8u
#define GLANCE_FAR 0.01       /* farther than this from the best, and beyond doubt */
enum { FIT = 1, VALIDATION }; /* seeds of draws */
#define EXACT_COPIES_MAX 12u
#define EXACT_GPUS_MAX 8u

struct glance {
    uint32_t n;
    double step_ns[GLANCE_STEPS_MAX];
};

struct search {
    const struct mp_plan_request *request;
    const struct mp_budget *budget;
    struct mp_problem fit;      /* what plans are made on */
    struct mp_problem score_on; /* what they are scored on */
    struct mp_combination tried[N_CANDIDATES_MAX], best;
    double score_tried[N_CANDIDATES_MAX]; /* or a bound on it; 0: no plan, or one that was scored already */
    struct mp_placed_list *placed;        /* on the fit data */
    struct mp_plan *best_plan;
    enum mp_outcome best_outcome;
    uint32_t n_tried, n_scored;
    uint64_t scored[N_CANDIDATES_MAX]; /* keys of the plans scored so far */
    bool is_found, is_stopped;
    double best_score, started;
    struct glance glance; /* of best_plan; n 0: not looked at */
    uint64_t work;
    const char *stopped_by;
    struct mp_error declined; /* of the first candidate that did not apply */
    struct mp_progress_part *part;
};

/* Without redundancy all replicate and route strategies come to the same plan. */
static void normalise(struct search *s, struct mp_combination *c) {
    const struct mp_plan_request *r = s->request;
    const char *const asked[MP_N_PLANNER_STAGES] = {r->replicate, r->place, r->route, r->order};
    const struct mp_combination before = *c;
    if (s->fit.n_redundant == 0) {
        c->stage[MP_PLAN_REPLICATE] = mp_strategy_find(MP_PLAN_REPLICATE, "none");
        c->stage[MP_PLAN_ROUTE] = mp_strategy_find(MP_PLAN_ROUTE, "even");
        c->may_repeat_on_gpu = false;
    }
    if (r->needs_distinct)
        c->may_repeat_on_gpu = false;
    for (int i = 0; i < MP_N_PLANNER_STAGES; i++)
        if (asked[i] != NULL)
            c->stage[i] = before.stage[i];
}

static bool was_tried(const struct search *s, const struct mp_combination *c) {
    for (uint32_t i = 0; i < s->n_tried; i++)
        if (memcmp(s->tried[i].stage, c->stage, sizeof c->stage) == 0 &&
            s->tried[i].may_repeat_on_gpu == c->may_repeat_on_gpu)
            return true;
    return false;
}

static bool must_stop(struct search *s) {
    uint64_t next = (uint64_t)s->score_on.workload->trace->n_layers * mp_scoring_steps(&s->score_on);
    if (!s->is_found)
        return false;
    if (s->budget->work_limit > 0 && s->work + next > s->budget->work_limit) {
        s->stopped_by = "work_limit";
        s->is_stopped = true;
    } else if (s->budget->wall_seconds > 0 && mp_now_seconds() - s->started > s->budget->wall_seconds) {
        s->stopped_by = "wall_clock";
        s->is_stopped = true;
        if (s->budget->wall_struck != NULL)
            *s->budget->wall_struck = true;
    }
    return s->is_stopped;
}

/* What a plan's score depends on, as one number: many combinations come to the same plan. */
static uint64_t key_of(const struct mp_plan *p) {
    bool has_replicas = false;
    uint64_t key = 0;
    for (uint32_t o = 0; o < p->n_orders; o++)
        key = mp_mix64(key ^ mp_xxh64(p->orders[o].name, strlen(p->orders[o].name)));
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct mp_plan_layer *layer = &p->layers[l];
        uint32_t n_used = 0;
        for (uint32_t s = 0; s < p->n_slots; s++)
            n_used += layer->slot_expert[s] != MP_NO_EXPERT;
        has_replicas |= n_used > p->n_experts;
        key = mp_mix64(key ^ mp_xxh64(layer->slot_expert, p->n_slots * sizeof *layer->slot_expert));
        key = mp_mix64(key ^ layer->order);
    }
    if (!has_replicas)
        return mp_mix64(key);
    size_t by_source = (size_t)mp_plan_n_classes(p) * p->n_slots;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct mp_plan_layer *layer = &p->layers[l];
        if (layer->slot_weight != NULL)
            key = mp_mix64(key ^ mp_xxh64(layer->slot_weight, p->n_slots * sizeof *layer->slot_weight));
        if (layer->slot_weight_by_source != NULL)
            key = mp_mix64(key ^
                           mp_xxh64(layer->slot_weight_by_source, by_source * sizeof *layer->slot_weight_by_source));
    }
    return mp_mix64(key ^ ((uint64_t)p->route << 1 | (uint64_t)p->route_by));
}

static bool was_scored(struct search *s, const struct mp_plan *p) {
    uint64_t key = key_of(p);
    for (uint32_t i = 0; i < s->n_scored; i++)
        if (s->scored[i] == key)
            return true;
    s->scored[s->n_scored++] = key;
    return false;
}

/* A few of the steps, every transfer at its port bound. */
static enum mp_status glance_at(const struct search *s, const struct mp_plan *plan, struct glance *out,
                                struct mp_error *err) {
    struct mp_sim_result *result;
    enum mp_status status =
        mp_score_glance(&result, plan, &s->score_on, mp_scoring_steps(&s->score_on) / GLANCE_PART, err);
    if (status != MP_OK)
        return status;
    out->n = result->n_steps < GLANCE_STEPS_MAX ? result->n_steps : GLANCE_STEPS_MAX;
    for (uint32_t i = 0; i < out->n; i++)
        out->step_ns[i] = (double)result->steps[i].step_ns;
    mp_sim_result_free(result);
    return MP_OK;
}

/* Is its mean step longer by more than GLANCE_FAR of the other's, by four times what that mean is uncertain? */
static bool is_far(const struct glance *x, const struct glance *best, double *ratio) {
    double sum = 0, spread = 0, all = 0;
    for (uint32_t i = 0; i < best->n; i++) {
        sum += x->step_ns[i] - (1 + GLANCE_FAR) * best->step_ns[i];
        all += best->step_ns[i];
    }
    for (uint32_t i = 0; i < best->n; i++) {
        const double d = x->step_ns[i] - (1 + GLANCE_FAR) * best->step_ns[i] - sum / best->n;
        spread += d * d;
    }
    *ratio = 1 + GLANCE_FAR + sum / all;
    return sum > 0 && sum * sum * (best->n - 1.0) > 16.0 * best->n * spread;
}

/* With redundant slots there are many combinations, most of them far from the best: *score gets about what they take
 * then, else 0. */
static enum mp_status score_if_far(struct search *s, const struct mp_plan *plan, double *score, struct mp_error *err) {
    const struct mp_problem *p = &s->score_on;
    struct glance its;
    double ratio;
    *score = 0;
    if (!s->is_found || s->fit.n_redundant == 0 || p->objective != MP_OBJECTIVE_STEP || p->sim.is_pipelined ||
        plan->n_orders > 0 || s->best_plan->n_orders > 0 || mp_scoring_steps(p) < GLANCE_STEPS_MIN)
        return MP_OK;
    enum mp_status status = s->glance.n > 0 ? MP_OK : glance_at(s, s->best_plan, &s->glance, err);
    if (status == MP_OK)
        status = glance_at(s, plan, &its, err);
    if (status == MP_OK && its.n == s->glance.n && is_far(&its, &s->glance, &ratio))
        *score = s->best_score * ratio;
    return status;
}

/* The selection score; a lower bound on it when that alone shows that the plan is not the best. Objectives that the
 * network has no part in are exact with the bound. */
static enum mp_status score_of(struct search *s, const struct mp_plan *plan, double *score, struct mp_error *err) {
    const struct mp_problem *p = &s->score_on;
    bool is_timed = p->objective == MP_OBJECTIVE_STEP || p->objective == MP_OBJECTIVE_P95;
    struct mp_sim_result *result = NULL;
    enum mp_status status = score_if_far(s, plan, score, err);
    if (status != MP_OK || *score > 0)
        return status;
    if (!is_timed || (s->is_found && plan->n_orders == 0 && !p->sim.is_pipelined)) { /* no bound on that reading */
        status = mp_score_below(&result, plan, p, err);
        if (status != MP_OK)
            return status;
        *score = mp_sim_objective(result, p->objective);
        mp_sim_result_free(result);
        if (!is_timed || *score >= s->best_score)
            return MP_OK;
    }
    status = mp_score(&result, plan, p, &s->work, err);
    if (status == MP_OK)
        *score = mp_sim_objective(result, p->objective);
    mp_sim_result_free(result);
    return status;
}

static enum mp_status try_one(struct search *s, struct mp_combination c, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    double score;
    struct mp_error why = {0};
    enum mp_outcome outcome;
    normalise(s, &c);
    if (s->is_stopped || s->n_tried == N_CANDIDATES_MAX || was_tried(s, &c) || must_stop(s))
        return MP_OK;
    s->tried[s->n_tried++] = c;
    mp_progress_add(s->part, 1);
    struct mp_budget left = *s->budget; /* what the search may still use */
    if (left.work_limit > 0)
        left.work_limit = left.work_limit > s->work ? left.work_limit - s->work : 1;
    enum mp_status status = mp_combination_run(&plan, &s->fit, &c, s->placed, &left, &s->work, &outcome, &why);
    if (status != MP_OK) {
        if (err != NULL)
            *err = why;
        return status;
    }
    if (plan == NULL) {
        if (s->declined.message[0] == '\0')
            s->declined = why;
        return MP_OK;
    }
    if (was_scored(s, plan)) {
        mp_plan_free(plan);
        return MP_OK;
    }
    status = score_of(s, plan, &score, err);
    s->score_tried[s->n_tried - 1] = status == MP_OK ? score : 0;
    if (status == MP_OK && (!s->is_found || score < s->best_score)) {
        s->is_found = true;
        s->best_score = score;
        s->glance.n = 0;
        s->best = c;
        s->best_outcome = outcome;
        mp_plan_free(s->best_plan);
        s->best_plan = plan;
        plan = NULL;
    }
    mp_plan_free(plan);
    return status;
}

/* The exact search knows the recorded steps and nothing else. Where the search is given hundreds of steps drawn from
 * the same requests it is within 0.01 % of their optimum, and the recorded steps' optimum is not (docs/STRATEGIES.md,
 * auto). */
static bool is_for_few_steps(const struct search *s, const struct mp_strategy *place) {
    return strcmp(place->name, "exact") == 0 && s->request->place == NULL && !s->request->fits_steps &&
           mp_can_draw(s->request->planning);
}

static bool is_by_solver(const struct mp_strategy *place) {
    return strncmp(place->name, "exact", 5) == 0 || strcmp(place->name, "moetuner") == 0;
}

/* All recipes; `searches`: only those that place by search. */
static enum mp_status try_recipes(struct search *s, bool searches, struct mp_error *err) {
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++) {
        const struct mp_recipe *recipe = mp_recipe_at(i);
        if (recipe->place == NULL || recipe->is_only_asked || (searches && strcmp(recipe->place, "search") != 0))
            continue;
        struct mp_combination c;
        enum mp_status status = mp_combination_of(&c, recipe, s->request, err);
        if (status == MP_OK && ((s->request->no_exact && is_by_solver(c.stage[MP_PLAN_PLACE])) ||
                                is_for_few_steps(s, c.stage[MP_PLAN_PLACE])))
            continue;
        if (status == MP_OK)
            status = try_one(s, c, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* With redundant slots the best ones first, so that those far from them are soon known. Not where a limit could end it
 * before the quick ones had their turn. */
static enum mp_status try_named(struct search *s, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (s->fit.n_redundant > 0 && s->budget->work_limit == 0 && s->budget->wall_seconds <= 0)
        status = try_recipes(s, true, err);
    return status == MP_OK ? try_recipes(s, false, err) : status;
}

/* The exact searches take part where they are quick: small layers. */
static bool is_left_out(const struct search *s, const struct mp_strategy *strategy) {
    return strategy->stage == MP_PLAN_PLACE && is_by_solver(strategy) &&
           (s->request->no_exact || is_for_few_steps(s, strategy) || s->request->topology->n_gpus > EXACT_GPUS_MAX ||
            s->fit.workload->trace->n_experts + s->fit.n_redundant > EXACT_COPIES_MAX);
}

/* The search is dear: for no replicas and for those that it chooses itself, beginning with EPLB's; for others only if
 * someone asks for them. */
static bool is_too_dear(const struct search *s, const struct mp_combination *c) {
    const char *replicate = c->stage[MP_PLAN_REPLICATE]->name;
    return strcmp(c->stage[MP_PLAN_PLACE]->name, "search") == 0 && s->request->place == NULL &&
           s->request->replicate == NULL && strcmp(replicate, "none") != 0 && strcmp(replicate, "search") != 0;
}

/* With redundant slots there are more combinations than a large problem has time for; those that are no recipe have not
 * won there. A function of the shape alone. */
static bool is_large(const struct search *s) {
    const struct mp_plan_request *r = s->request;
    const struct mp_workload *w = s->score_on.workload;
    return s->fit.n_redundant > 0 && r->replicate == NULL && r->place == NULL && r->route == NULL && w->n_steps > 0 &&
           w->n_rows / w->n_steps * w->trace->n_layers * mp_scoring_steps(&s->score_on) > LARGE_ROWS;
}

/* Every strategy of `stage` put into *c, and so on with the stages after it up to the order, which stays. */
static enum mp_status try_stage(struct search *s, struct mp_combination c, enum mp_planner_stage stage,
                                struct mp_error *err) {
    const struct mp_plan_request *r = s->request;
    const char *const asked[MP_N_PLANNER_STAGES] = {r->replicate, r->place, r->route, r->order};
    if (stage == MP_PLAN_ORDER)
        return is_too_dear(s, &c) ? MP_OK : try_one(s, c, err);
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++) {
        const struct mp_strategy *strategy = mp_strategy_at(i);
        if (strategy->stage != stage || (asked[stage] != NULL && strcmp(asked[stage], strategy->name) != 0) ||
            (asked[stage] == NULL &&
             (strcmp(strategy->name, "random") == 0 || strategy->is_named_only || is_left_out(s, strategy))))
            continue;
        c.stage[stage] = strategy;
        enum mp_status status = try_stage(s, c, stage + 1, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* Candidate i has replicas, and no better candidate has the same placement. */
static bool is_best_of_placement(const struct search *s, uint32_t i) {
    const struct mp_combination *c = &s->tried[i];
    if (s->score_tried[i] == 0 || strcmp(c->stage[MP_PLAN_REPLICATE]->name, "none") == 0)
        return false;
    for (uint32_t k = 0; k < s->n_tried; k++) {
        const struct mp_combination *d = &s->tried[k];
        if (k != i && d->stage[MP_PLAN_REPLICATE] == c->stage[MP_PLAN_REPLICATE] &&
            d->stage[MP_PLAN_PLACE] == c->stage[MP_PLAN_PLACE] && d->may_repeat_on_gpu == c->may_repeat_on_gpu &&
            s->score_tried[k] > 0 &&
            (s->score_tried[k] < s->score_tried[i] || (s->score_tried[k] == s->score_tried[i] && k < i)))
            return false;
    }
    return true;
}

/* Routes that are for recipes alone, on the best placements with replicas; where steps are long on the best one alone.
 */
static enum mp_status try_routes(struct search *s, struct mp_error *err) {
    const struct mp_workload *w = s->fit.workload;
    const uint64_t pairs = w->n_rows / (w->n_steps > 0 ? w->n_steps : 1) * w->trace->top_k * w->trace->n_layers;
    const uint32_t n_most = pairs > ROUTED_PAIRS ? 1 : ROUTED_PLACEMENTS;
    uint32_t best[ROUTED_PLACEMENTS], n = 0, n_tried = s->n_tried;
    enum mp_status status = MP_OK;
    if (s->request->route != NULL || s->fit.n_redundant == 0)
        return MP_OK;
    for (uint32_t i = 0; i < n_tried; i++) {
        uint32_t at = n;
        if (!is_best_of_placement(s, i))
            continue;
        while (at > 0 && s->score_tried[best[at - 1]] > s->score_tried[i])
            at--;
        if (at == n_most)
            continue;
        n += n < n_most;
        for (uint32_t k = n - 1; k > at; k--)
            best[k] = best[k - 1];
        best[at] = i;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t r = 0; mp_strategy_at(r) != NULL && status == MP_OK; r++) {
            struct mp_combination c = s->tried[best[i]];
            if (mp_strategy_at(r)->stage != MP_PLAN_ROUTE || !mp_strategy_at(r)->is_named_only ||
                mp_strategy_at(r)->is_only_asked ||
                strcmp(mp_strategy_at(r)->name, "split") == 0) /* split-active begins with the same candidates */
                continue;
            c.stage[MP_PLAN_ROUTE] = mp_strategy_at(r);
            status = try_one(s, c, err);
        }
    return status;
}

/* The winner with the best of all orders: `auto` is never worse than another on the matrices it is given. */
static enum mp_status try_orders(struct search *s, struct mp_error *err) {
    const struct mp_strategy *all = mp_strategy_find(MP_PLAN_ORDER, "auto");
    if (!s->is_found || s->request->order != NULL || all == NULL)
        return MP_OK;
    struct mp_combination c = s->best;
    c.stage[MP_PLAN_ORDER] = all;
    return try_one(s, c, err);
}

/* ---- fit and validation parts ---- */
struct parts {
    struct mp_part fit, validation;
    struct mp_workload *fit_steps, *validation_steps;
    struct mp_arena *arena;
    const uint64_t *fit_load;
};

static void free_parts(struct parts *p) {
    mp_workload_free(p->fit_steps);
    mp_workload_free(p->validation_steps);
    mp_part_free(&p->fit);
    mp_free(p->validation.members);
    mp_arena_free(p->arena);
}

/* The members of `all` that are not in `fit`; both ascending. */
static enum mp_status rest_of(struct mp_part *out, const struct mp_part *all, const struct mp_part *fit,
                              struct mp_error *err) {
    *out = (struct mp_part){.trace = all->trace, .homes = all->homes};
    out->members = mp_calloc(all->n, sizeof *out->members);
    if (out->members == NULL)
        return mp_nomem(err, "splitting off a validation part");
    for (uint32_t i = 0, j = 0; i < all->n; i++) {
        if (j < fit->n && fit->members[j] == all->members[i])
            j++;
        else
            out->members[out->n++] = all->members[i];
    }
    return MP_OK;
}

/* Splits off group `turn` where there are enough requests to fill steps of both parts. *has_parts false: the caller
 * uses all planning data. */
static enum mp_status split_parts(struct parts *p, const struct mp_plan_request *r, uint32_t turn, bool *has_parts,
                                  struct mp_error *err) {
    struct mp_error why = {0};
    enum mp_status status;
    *has_parts = false;
    if (r->fits_steps || r->planning->n < MIN_REQUESTS)
        return MP_OK;
    status = mp_part_without_group(&p->fit, r->planning, N_PARTS, turn, &why);
    if (status == MP_OK)
        status = rest_of(&p->validation, r->planning, &p->fit, &why);
    if (status == MP_OK && (p->fit.n == 0 || p->validation.n == 0))
        return MP_OK;
    const bool can_draw = mp_can_draw(r->planning);
    if (status == MP_OK)
        status = mp_workload_build(&p->fit_steps, &p->fit, &r->batching, &why);
    if (status == MP_EINPUT && can_draw)
        status = mp_draw_steps(&p->fit_steps, &p->fit, &r->batching, CHOICE_STEPS, FIT, &why);
    if (status == MP_OK && can_draw) /* more steps than it could fill */
        status = mp_draw_steps(&p->validation_steps, &p->validation, &r->batching, CHOICE_STEPS, VALIDATION, &why);
    if (status == MP_OK && p->validation_steps == NULL)
        status = mp_workload_build(&p->validation_steps, &p->validation, &r->batching, &why);
    if (status == MP_OK && p->fit_steps != NULL) {
        *has_parts = true;
    } else if (status == MP_EINPUT || status == MP_EUSAGE) {
        status = MP_OK; /* a part cannot fill a step */
    } else if (status != MP_OK && err != NULL) {
        *err = why;
    }
    return status;
}

/* Plans are made on parts->fit and scored on parts->validation. */
static enum mp_status use_parts(struct search *s, struct parts *parts, const struct mp_problem *problem,
                                struct mp_error *err) {
    parts->arena = mp_arena_new();
    if (parts->arena == NULL)
        return mp_nomem(err, "choosing a strategy");
    enum mp_status status = mp_load_table(&parts->fit_load, parts->fit_steps, problem->n_threads, parts->arena, err);
    s->fit.workload = parts->fit_steps;
    s->fit.load = parts->fit_load;
    s->fit.part = &parts->fit;
    s->score_on.workload = parts->validation_steps;
    s->score_on.part = &parts->validation;
    return status;
}

/* Adds each candidate's score in this turn; *is_done false: the budget struck, or a candidate does not apply here. */
static enum mp_status score_turn(struct search *s, const struct mp_combination *candidates, uint32_t n, double *scores,
                                 bool *is_done, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *is_done = false;
    for (uint32_t i = 0; i < n; i++) {
        struct mp_plan *plan = NULL;
        struct mp_sim_result *result = NULL;
        struct mp_error why = {0};
        enum mp_outcome outcome;
        if (must_stop(s))
            return MP_OK;
        mp_progress_add(s->part, 1);
        struct mp_budget left = *s->budget;
        if (left.work_limit > 0)
            left.work_limit = left.work_limit > s->work ? left.work_limit - s->work : 1;
        status = mp_combination_run(&plan, &s->fit, &candidates[i], s->placed, &left, &s->work, &outcome, &why);
        if (status != MP_OK && err != NULL)
            *err = why;
        if (status == MP_OK && plan != NULL)
            status = mp_score(&result, plan, &s->score_on, &s->work, err);
        if (result != NULL)
            scores[i] += mp_sim_objective(result, s->score_on.objective);
        mp_sim_result_free(result);
        const bool has_plan = plan != NULL;
        mp_plan_free(plan);
        if (status != MP_OK || !has_plan)
            return status;
    }
    *is_done = true;
    return MP_OK;
}

/* A part of a few dozen requests tells candidates apart that are 1 % apart, no nearer: the best are scored on three
 * quarters of the requests in turn, and the sum decides. */
static enum mp_status take_turns(struct search *s, const struct mp_problem *problem, struct mp_error *err) {
    struct mp_combination candidates[TURNS_CANDIDATES];
    double near[TURNS_CANDIDATES], scores[TURNS_CANDIDATES] = {0}, first[TURNS_CANDIDATES] = {0};
    struct mp_placed_list *const placed = s->placed;
    const struct mp_problem fit = s->fit, score_on = s->score_on;
    uint32_t n = 0, best = 0;
    enum mp_status status = MP_OK;
    bool is_done = true;
    const uint64_t n_gpus = s->request->topology->n_gpus;
    if (!s->is_found || s->is_stopped || s->request->planning->n >= TURNS_REQUESTS ||
        s->fit.workload->trace->n_layers * n_gpus * n_gpus > TURNS_FLOWS)
        return MP_OK;
    for (uint32_t i = 0; i < s->n_tried; i++) {
        uint32_t at = n;
        if (s->score_tried[i] == 0 || s->score_tried[i] > TURNS_WITHIN * s->best_score)
            continue;
        while (at > 0 && near[at - 1] > s->score_tried[i])
            at--;
        if (at == TURNS_CANDIDATES)
            continue;
        n += n < TURNS_CANDIDATES;
        for (uint32_t k = n - 1; k > at; k--) {
            near[k] = near[k - 1];
            candidates[k] = candidates[k - 1];
        }
        near[at] = s->score_tried[i];
        candidates[at] = s->tried[i];
    }
    for (uint32_t turn = 0; turn < TURNS && n > 1 && is_done && status == MP_OK; turn++) {
        struct parts parts = {0};
        bool has_parts = true;
        if (turn > 0) {
            s->placed = NULL;
            status = split_parts(&parts, s->request, turn, &has_parts, err);
            if (status == MP_OK && has_parts)
                status = use_parts(s, &parts, problem, err);
            if (status == MP_OK)
                status = mp_placed_list_new(&s->placed, err);
        }
        if (status == MP_OK && has_parts)
            status = score_turn(s, candidates, n, scores, &is_done, err);
        if (turn == 0)
            memcpy(first, scores, sizeof first);
        else
            mp_placed_list_free(s->placed);
        free_parts(&parts);
        s->placed = placed;
        s->fit = fit;
        s->score_on = score_on;
    }
    if (status != MP_OK || !is_done || n < 2)
        return status;
    for (uint32_t i = 1; i < n; i++)
        best = scores[i] < scores[best] ? i : best;
    s->best = candidates[best];
    s->best_score = first[best];
    return MP_OK;
}

enum mp_status mp_auto_choose(struct mp_combination *out, struct mp_plan **plan, const struct mp_plan_request *request,
                              const struct mp_problem *problem, const struct mp_budget *budget, uint64_t *work,
                              const char **selected_on, const char **stopped_by, enum mp_outcome *outcome,
                              struct mp_error *err) {
    struct parts parts = {0};
    bool has_parts;
    enum mp_status status;
    struct search *s = mp_calloc(1, sizeof *s);
    *plan = NULL;
    if (s == NULL)
        return mp_nomem(err, "choosing a strategy");
    s->request = request;
    s->budget = budget;
    s->fit = s->score_on = *problem;
    s->stopped_by = "done";
    s->started = mp_now_seconds();
    s->part = mp_progress_begin(problem->sim.progress, "plans", 0, MP_PROGRESS_UNEVEN);
    MP_TRY(mp_placed_list_new(&s->placed, err));
    MP_TRY(split_parts(&parts, request, 0, &has_parts, err));
    *selected_on = "planning data";
    if (has_parts) {
        MP_TRY(use_parts(s, &parts, problem, err));
        *selected_on = "validation part";
    }
    MP_TRY(try_named(s, err));
    struct mp_combination c = {{0}, false};
    MP_TRY(mp_strategy_need(&c.stage[MP_PLAN_ORDER], MP_PLAN_ORDER, request->order != NULL ? request->order : "single",
                            err));
    if (!is_large(s))
        MP_TRY(try_stage(s, c, MP_PLAN_REPLICATE, err));
    MP_TRY(try_routes(s, err));
    if (has_parts)
        MP_TRY(take_turns(s, problem, err));
    MP_TRY(try_orders(s, err));
    *work += s->work;
    *stopped_by = s->stopped_by;
    *outcome = MP_FOUND;
    *out = s->best;
    if (s->is_found && !has_parts) {
        *outcome = s->best_outcome;
        *plan = s->best_plan;
        s->best_plan = NULL;
    }
    if (!s->is_found)
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE, "auto: no strategy applies; the first says: %s",
                            s->declined.message);
out:
    mp_progress_end(s->part);
    free_parts(&parts);
    mp_plan_free(s->best_plan);
    mp_placed_list_free(s->placed);
    mp_free(s);
    return status;
}
