/* The driver: builds the planning steps, runs replicate -> place -> route -> order, proves what the plan claims,
 * and hands nothing out that the verifier has not accepted. */
#include "planner.h"
#include <moeplan/base.h>
#include <moeplan/homes.h>
#include <moeplan/progress.h>
#include <moeplan/verify.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* `auto` runs the exact searches among others: they get this many nodes per layer of one step. */
#define EXACT_NODES_IN_AUTO 32000u

/* ---- shared by the search and the strategies ---- */
double mp_now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#define NODE_STEPS_PER_PAIR 32u

uint64_t mp_work_of_nodes(const struct mp_problem *p, uint64_t nodes, uint32_t steps_of_a_node) {
    uint64_t work;
    if (p->exact_nodes == 0)
        return nodes;
    return mp_mul_overflow(nodes, steps_of_a_node, &work) ? UINT64_MAX : mp_ceil_div(work, NODE_STEPS_PER_PAIR);
}

struct load_ctx {
    const struct mp_workload *workload;
    uint64_t *load;
};
static enum mp_status load_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)worker, (void)err;
    struct load_ctx *c = ctx;
    mp_workload_load(c->workload, (uint32_t)i, c->load + i * c->workload->trace->n_experts);
    return MP_OK;
}

enum mp_status mp_load_table(const uint64_t **out, const struct mp_workload *w, unsigned n_threads,
                             struct mp_arena *arena, struct mp_error *err) {
    struct load_ctx c = {w, mp_arena_alloc(arena, (size_t)w->trace->n_layers * w->trace->n_experts, sizeof *c.load)};
    if (c.load == NULL)
        return mp_nomem(err, "summing up expert loads");
    *out = c.load;
    return mp_parallel_for(n_threads, w->trace->n_layers, load_layer, &c, err);
}

#define SCORED_FLOWS 2000000u
#define SCORED_ROWS 16000000u /* over all layers */

uint32_t mp_scoring_steps(const struct mp_problem *p) {
    uint64_t flows = (uint64_t)p->workload->trace->n_layers * p->topology->n_gpus * p->topology->n_gpus;
    uint64_t n = SCORED_FLOWS / (flows > 0 ? flows : 1);
    const uint64_t rows = mp_ceil_div(p->workload->n_rows, p->workload->n_steps > 0 ? p->workload->n_steps : 1) *
                          p->workload->trace->n_layers,
                   by_rows = SCORED_ROWS / (rows > 0 ? rows : 1);
    n = by_rows < n ? by_rows : n;
    n = n < 4 ? 4 : n > 64 ? 64 : n;
    return n < p->workload->n_steps ? (uint32_t)n : p->workload->n_steps;
}

static enum mp_status score(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                            enum mp_network_mode network, uint32_t n_steps, struct mp_error *err) {
    struct mp_sim_options options = p->sim;
    options.network = network;
    options.stage_mode = -1;
    options.no_pacing = false;
    options.with_bound = false;
    options.n_threads = p->n_threads;
    options.n_steps_max = n_steps;
    return mp_simulate(out, plan, p->workload, p->topology, p->model, &options, err);
}

enum mp_status mp_score(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                        uint64_t *work, struct mp_error *err) {
    *work += (uint64_t)mp_scoring_steps(p) * plan->n_layers;
    return score(out, plan, p, MP_NETWORK_PLAN, mp_scoring_steps(p), err);
}

enum mp_status mp_score_below(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                              struct mp_error *err) {
    return score(out, plan, p, MP_NETWORK_PORT_BOUND, mp_scoring_steps(p), err);
}

enum mp_status mp_score_glance(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                               uint32_t n_steps, struct mp_error *err) {
    return score(out, plan, p, MP_NETWORK_PORT_BOUND, n_steps, err);
}

/* ---- the whole ---- */
struct run {
    struct mp_problem problem;
    struct mp_workload *workload;
    struct mp_arena *arena;
    struct mp_combination combination;
    const struct mp_recipe *recipe;
    uint64_t work;
    const char *selected_on, *stopped_by;
    bool wall_struck;
};

static enum mp_status find_recipe(struct run *run, const struct mp_plan_request *r, struct mp_error *err) {
    const char *name = r->strategy != NULL ? r->strategy : "auto";
    run->recipe = mp_recipe_find(name);
    if (run->recipe != NULL)
        return MP_OK;
    if (mp_policy_find(name) != NULL)
        return mp_fail(
            err, MP_EUSAGE,
            "strategy: %s moves experts while the model is served: it is no plan (moeplan compare --strategy "
            "%s replays it)",
            name, name);
    char known[512] = "";
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++) {
        strncat(known, i > 0 ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, mp_recipe_at(i)->name, sizeof known - strlen(known) - 1);
    }
    return mp_fail(err, MP_EUSAGE, "strategy: \"%.60s\" is not a strategy (write one of %s)", name, known);
}

static enum mp_status prepare(struct run *run, const struct mp_plan_request *r, struct mp_error *err) {
    const struct mp_trace *t = r->planning->trace;
    enum mp_status status = find_recipe(run, r, err);
    if (status == MP_OK)
        status = mp_settings_check(r->settings, r->n_settings, err);
    if (status != MP_OK)
        return status;
    if (r->model->n_experts != t->n_experts)
        return mp_fail(
            err, MP_EUSAGE,
            "model: %s has %u experts per layer and the trace %u (name the model the trace was recorded from)",
            r->model->name, r->model->n_experts, t->n_experts);
    if (r->batching.n_ranks != r->topology->n_gpus)
        return mp_fail(err, MP_EUSAGE, "batching: %u source ranks and %u GPUs (both are the expert-parallel group)",
                       r->batching.n_ranks, r->topology->n_gpus);
    if (r->steps == NULL)
        status = mp_workload_build(&run->workload, r->planning, &r->batching, err);
    if (status != MP_OK)
        return status;
    const struct mp_workload *steps = r->steps != NULL ? r->steps : run->workload;
    run->arena = mp_arena_new();
    if (run->arena == NULL)
        return mp_nomem(err, "planning");
    run->problem = (struct mp_problem){.workload = steps,
                                       .part = r->fits_steps ? NULL : r->planning,
                                       .topology = r->topology,
                                       .model = r->model,
                                       .sim = r->sim,
                                       .objective = r->objective,
                                       .n_redundant = r->n_redundant,
                                       .slots_per_gpu = r->slots_per_gpu,
                                       .allowed_routes = r->allowed_routes,
                                       .needs_equal_slots = r->needs_equal_slots,
                                       .needs_distinct = r->needs_distinct,
                                       .stage_mode = r->stage_mode,
                                       .can_pace = r->can_pace,
                                       .settings = r->settings,
                                       .n_settings = r->n_settings,
                                       .limits = r->limits,
                                       .export_lp = r->export_lp,
                                       .import_solution = r->import_solution,
                                       .exact_nodes = (run->recipe->place == NULL && r->place == NULL) || r->is_trial
                                                          ? EXACT_NODES_IN_AUTO / (steps->n_steps + 1) + 1
                                                          : 0,
                                       .given = r->given,
                                       .given_slots = r->given_slots,
                                       .memory_bytes = r->memory_bytes,
                                       .seed = r->seed,
                                       .n_threads = r->n_threads};
    if (run->problem.sim.dispatcher == NULL)
        run->problem.sim.dispatcher = mp_dispatcher_default(r->batching.phase, t->kind);
    return mp_load_table(&run->problem.load, steps, r->n_threads, run->arena, err);
}

/* strdup into the plan; NULL becomes "". */
static const char *keep(struct mp_plan *p, const char *s, bool *is_full) {
    const char *copy = mp_arena_strdup(p->arena, s != NULL ? s : "");
    *is_full |= copy == NULL;
    return copy;
}

static int by_name(const void *a, const void *b) {
    const struct mp_setting *const *x = a, *const *y = b;
    char a_name[200], b_name[200];
    snprintf(a_name, sizeof a_name, "%s.%s", (*x)->strategy, (*x)->option);
    snprintf(b_name, sizeof b_name, "%s.%s", (*y)->strategy, (*y)->option);
    int c = strcmp(a_name, b_name);
    return c != 0 ? c : *x < *y ? -1 : *x > *y; /* the array's order: of two the later one holds */
}

enum mp_status mp_settings_text(const char **out, struct mp_arena *arena, const struct mp_setting *settings,
                                uint32_t n_settings, struct mp_error *err) {
    struct mp_out *text = NULL;
    *out = "";
    if (n_settings == 0)
        return MP_OK;
    const struct mp_setting **sorted = mp_arena_alloc(arena, n_settings, sizeof *sorted);
    if (sorted == NULL)
        return mp_nomem(err, "recording where a plan comes from");
    for (uint32_t i = 0; i < n_settings; i++)
        sorted[i] = &settings[i];
    qsort(sorted, n_settings, sizeof *sorted, by_name);
    enum mp_status status = mp_out_open_memory(&text, err);
    if (status != MP_OK)
        return status;
    bool is_first = true;
    for (uint32_t i = 0; i < n_settings; i++) {
        const struct mp_setting *s = sorted[i], *next = i + 1 < n_settings ? sorted[i + 1] : NULL;
        if (next != NULL && strcmp(s->strategy, next->strategy) == 0 && strcmp(s->option, next->option) == 0)
            continue;
        mp_out_printf(text, "%s%s.%s=%lld", is_first ? "" : ",", s->strategy, s->option, (long long)s->value);
        is_first = false;
    }
    size_t n;
    const uint8_t *bytes = mp_out_memory_bytes(text, &n);
    char *copy = bytes != NULL ? mp_arena_alloc(arena, n + 1, 1) : NULL;
    if (copy != NULL)
        memcpy(copy, bytes, n);
    *out = copy;
    status = mp_out_commit(text, err);
    return status == MP_OK && copy == NULL ? mp_nomem(err, "recording where a plan comes from") : status;
}

static enum mp_status fill_provenance(struct mp_plan *p, const struct run *run, const struct mp_plan_request *r,
                                      struct mp_error *err) {
    const struct mp_trace *t = r->planning->trace;
    struct mp_provenance *v = &p->provenance;
    const struct mp_combination *c = &run->combination;
    bool is_full = false;
    v->tool = MP_TOOL;
    v->trace_sha256 = keep(p, t->sha256, &is_full);
    v->trace_format = keep(p, t->format, &is_full);
    v->trace_model = keep(p, t->model, &is_full);
    v->topology = keep(p, r->topology->name, &is_full);
    v->topology_sha256 = keep(p, r->topology->sha256, &is_full);
    v->model = keep(p, r->model->name, &is_full);
    v->model_sha256 = keep(p, r->model->sha256, &is_full);
    v->strategy = run->recipe->name;
    v->replicate = c->stage[MP_PLAN_REPLICATE]->name;
    v->place = c->stage[MP_PLAN_PLACE]->name;
    v->route = c->stage[MP_PLAN_ROUTE]->name;
    v->order = c->stage[MP_PLAN_ORDER]->name;
    v->dispatcher = run->problem.sim.dispatcher->name;
    v->sources = r->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp";
    v->selected_on = run->selected_on;
    v->batching = r->batching;
    v->split = r->split;
    v->split.categories = keep(p, r->split.categories, &is_full);
    v->seed = r->seed;
    v->work_used = run->work + r->given_work;
    v->stopped_by = run->stopped_by;
    v->is_reproducible = !run->wall_struck;
    v->is_synthetic = t->is_synthetic;
    v->has_workload = !r->is_trial; /* a trial claims nothing */
    if (r->given != NULL || r->given_slots != NULL)
        v->strategy = v->place = keep(p, r->given_name, &is_full);
    if (r->import_solution != NULL) /* and not what place exact would have found */
        v->strategy = v->place = "imported";
    if (r->together != NULL) {
        p->together = *r->together;
        p->together.is_present = true;
        p->together.other_trace_sha256 = keep(p, r->together->other_trace_sha256, &is_full);
        p->together.other_model_sha256 = keep(p, r->together->other_model_sha256, &is_full);
    }
    if (r->n_colocations > 0) {
        struct mp_colocation *pairs = mp_arena_alloc(p->arena, r->n_colocations, sizeof *pairs);
        is_full |= pairs == NULL;
        if (pairs != NULL)
            memcpy(pairs, r->colocations, r->n_colocations * sizeof *pairs);
        p->colocations = pairs;
        p->n_colocations = pairs != NULL ? r->n_colocations : 0;
    }
    return is_full ? mp_nomem(err, "recording where a plan comes from")
                   : mp_settings_text(&v->options, p->arena, r->settings, r->n_settings, err);
}

static enum mp_status gate(const struct mp_plan *p, const struct mp_plan_request *r, struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    const struct mp_trace *trace = r->is_trial ? NULL : r->planning->trace; /* structure alone */
    struct mp_progress_part *part = mp_progress_begin(r->sim.progress, "verifying", 0, MP_PROGRESS_LEAF);
    enum mp_status status = mp_plan_verify(&report, p, trace, r->topology, r->model, err);
    mp_progress_end(part);
    if (status == MP_OK && report->n > 0)
        status = mp_fail(err, MP_EBUG,
                         "the verifier refuses this plan of strategy %s: %s: %s (%u violations in all; please report)",
                         p->provenance.strategy, mp_violation_name(report->violations[0].kind),
                         report->violations[0].message, report->n);
    mp_verify_report_free(report);
    return status;
}

enum mp_status mp_plan_make(struct mp_plan **out, const struct mp_plan_request *request, enum mp_outcome *outcome,
                            double *seconds, struct mp_error *err) {
    struct run run = {.selected_on = "planning data", .stopped_by = "done"};
    if (request->homes != NULL && strcmp(request->homes, "none") != 0)
        return mp_homes_plan(out, request, outcome, seconds, err);
    const struct mp_budget budget = {request->work_limit, request->wall_seconds, &run.wall_struck};
    struct mp_plan *plan = NULL;
    enum mp_status status;
    double started = mp_now_seconds();
    *out = NULL;
    *outcome = MP_NOT_FOUND;
    MP_TRY(prepare(&run, request, err));
    MP_TRY(mp_problem_check(&run.problem, run.arena, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    if (request->gpu_slots != NULL)
        run.problem.gpu_slots = request->gpu_slots;
    if (run.recipe->place == NULL)
        MP_TRY(mp_auto_choose(&run.combination, &plan, request, &run.problem, &budget, &run.work, &run.selected_on,
                              &run.stopped_by, outcome, err));
    else
        MP_TRY(mp_combination_of(&run.combination, run.recipe, request, err));
    if (*outcome != MP_FOUND && *outcome != MP_STOPPED)
        goto out;
    if (request->given != NULL || request->given_slots != NULL) {
        run.combination.stage[MP_PLAN_PLACE] = &mp_place_given;
        mp_plan_free(plan);
        plan = NULL;
    }
    if (plan == NULL)
        MP_TRY(mp_combination_run(&plan, &run.problem, &run.combination, NULL, &budget, &run.work, outcome, err));
    if (plan == NULL)
        goto out;
    const bool is_out_of_budget = run.wall_struck || (request->work_limit > 0 && run.work >= request->work_limit);
    if (*outcome == MP_STOPPED && run.problem.exact_nodes > 0 && !is_out_of_budget)
        *outcome = MP_FOUND; /* a part of `auto` that had enough */
    if (*outcome == MP_STOPPED && strcmp(run.stopped_by, "done") == 0)
        run.stopped_by = run.wall_struck ? "wall_clock" : "work_limit";
    if (request->given_is_stopped && strcmp(run.stopped_by, "done") == 0)
        run.stopped_by = "work_limit";
    if (run.wall_struck)
        run.stopped_by = "wall_clock"; /* also where only a part of the search ran out of time */
    MP_TRY(fill_provenance(plan, &run, request, err));
    if (!request->is_trial)
        MP_TRY(mp_plan_prove(plan, &run.problem, err));
    MP_TRY(gate(plan, request, err));
    *out = plan;
    plan = NULL;
    if (err != NULL)
        mp_error_clear(err);
out:
    if (seconds != NULL)
        *seconds = mp_now_seconds() - started;
    mp_plan_free(plan);
    mp_workload_free(run.workload);
    mp_arena_free(run.arena);
    return status;
}

enum mp_status mp_plan_adopt(struct mp_plan **out, struct mp_plan *made, const struct mp_plan_request *request,
                             const char *name, struct mp_error *err) {
    const struct mp_provenance was = made->provenance;
    const char *const names[MP_N_PLANNER_STAGES] = {was.replicate, was.place, was.route, was.order};
    struct run run = {
        .selected_on = "planning data", .stopped_by = was.stopped_by, .wall_struck = !was.is_reproducible};
    enum mp_status status;
    *out = NULL;
    MP_TRY(prepare(&run, request, err));
    for (int s = 0; s < MP_N_PLANNER_STAGES; s++) {
        const bool is_given = s == MP_PLAN_PLACE && mp_homes_find(names[s]) != NULL; /* placed with homes */
        run.combination.stage[s] = is_given ? &mp_place_given : NULL;
        if (!is_given)
            MP_TRY(mp_strategy_need(&run.combination.stage[s], (enum mp_planner_stage)s, names[s], err));
    }
    MP_TRY(fill_provenance(made, &run, request, err));
    made->provenance.place = was.place;
    made->provenance.strategy = name;
    made->n_certificates = 0; /* what a search proved holds for the steps that it was given */
    MP_TRY(mp_plan_prove(made, &run.problem, err));
    MP_TRY(gate(made, request, err));
    *out = made;
    made = NULL;
out:
    mp_plan_free(made);
    mp_workload_free(run.workload);
    mp_arena_free(run.arena);
    return status;
}
