/* The best placement there is, proven, where that can be.
 *
 * Decides   which GPU holds each copy, layer by layer; replica counts are those of the replicate stage.
 * Minimises mean step time as simulated (single shots, rule EVEN), or with --objective peak the fullest GPU's rows.
 * Method    planner/exact/exact_steps.c on every layer: layers do not meet, so the best of each is the best of all.
 * With `engine` 1 GLPK instead, on the program of planner/place/place_model.c with the greedy solution to begin with.
 *           An imported solution is taken as it is, once all its rows hold.
 * Bound     proven, or the least bound of what the search had not looked at when its budget struck; GLPK's bound is in
 *           floating point and is not used.
 * Differs   declines beyond 24 copies a layer or 16 GPUs.
 * Cost      exponential; `nodes` placements of one copy for each layer (or an equal share of --work-limit). */
#include "grid.h"
#include "place_model.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <string.h>

#define SOLUTION_BYTES_MAX (UINT64_C(64) << 20) /* of a solver's answer: a line for each variable */

static const struct mp_option options[] = {
    {"nodes", "nodes", "search nodes of each layer, unless --work-limit says", 200000, 1, INT64_MAX},
    {"engine", "number", "0: branch and bound of our own, 1: GLPK", 0, 0, 1},
    {"memory", "MiB", "of GLPK, which gives up where it needs more", 1024, 1, 1 << 20},
    {NULL, NULL, NULL, 0, 0, 0}};
enum { OPTION_NODES, OPTION_ENGINE, OPTION_MEMORY };

struct work {
    const struct mp_problem *in;
    const struct mp_draft *draft;
    uint64_t node_limit;
    struct mp_exact_steps_answer *answers; /* [n_layers] */
};

static const uint16_t *copies_of(const struct mp_draft *d, uint32_t layer) {
    return d->copies + (size_t)layer * d->plan->n_slots;
}

static enum mp_status solve_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct work *w = ctx;
    (void)worker;
    const struct mp_exact_steps in = {.problem = w->in,
                                      .shape = w->draft->plan,
                                      .layer = (uint32_t)i,
                                      .n_copies = w->draft->n_copies,
                                      .copies = copies_of(w->draft, (uint32_t)i),
                                      .node_limit = w->node_limit};
    return mp_exact_steps_solve(&w->answers[i], &in, err);
}

/* GLPK on one layer, from the answer at hand; kept when it is no worse as the program counts. Where GLPK fails there is
 * no plan: who asks for it wants to know. */
static enum mp_status ask_glpk(struct work *w, uint32_t layer, const struct mp_budget *budget, struct mp_arena *scratch,
                               enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_draft *d = w->draft;
    struct mp_exact_steps_answer *a = &w->answers[layer];
    struct mp_mip *m = NULL;
    struct mp_mip_answer answer;
    enum mp_status status;
    MP_TRY(mp_place_model_new(&m, w->in, d->plan, d->copies, d->n_copies, layer, 1, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    int64_t *values = mp_arena_alloc(scratch, m->n_variables, sizeof *values);
    if (values == NULL) {
        status = mp_nomem(err, "a mixed-integer program");
        goto out;
    }
    for (uint32_t v = 0; v < m->n_variables; v++)
        values[v] = m->variables[v].lower;
    if (a->has_solution) {
        mp_place_model_put(w->in, d->n_copies, 0, a->gpu, values);
        mp_mip_repair(m, values);
    }
    const struct mp_mip_options o = {.node_limit = w->node_limit,
                                     .seconds = budget->wall_seconds,
                                     .incumbent = a->has_solution ? values : NULL,
                                     .memory_mib = (uint32_t)w->in->option_values[OPTION_MEMORY]};
    MP_TRY(mp_mip_solve(&answer, m, &o, scratch, err));
    if (answer.wall_struck && budget->wall_struck != NULL)
        *budget->wall_struck = true;
    if (answer.outcome == MP_NOT_APPLICABLE) {
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                            "exact: layer %u: GLPK gives up: %s (leave out exact.engine, or give more exact.memory)",
                            layer, answer.why);
        goto out;
    }
    a->nodes += answer.nodes;
    a->outcome = answer.outcome; /* no proof: what GLPK proves is not ours */
    a->has_solution = answer.values != NULL;
    for (uint32_t c = 0; c < d->n_copies && answer.values != NULL; c++)
        for (uint32_t g = 0; g < d->plan->n_gpus; g++)
            if (answer.values[mp_place_model_at(w->in, d->n_copies, 0, c, g)] == 1)
                a->gpu[c] = (uint16_t)g;
out:
    mp_mip_free(m);
    return status;
}

static enum mp_status fill(struct work *w, struct mp_draft *draft, struct mp_arena *scratch, struct mp_error *err) {
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, w->in, draft, scratch, err);
    for (uint32_t l = 0; l < draft->plan->n_layers && status == MP_OK; l++) {
        mp_grid_begin(grid, draft->plan, l);
        for (uint32_t c = 0; c < draft->n_copies; c++)
            mp_grid_put(grid, w->answers[l].gpu[c], copies_of(draft, l)[c]);
        mp_grid_sort(grid);
    }
    return status;
}

/* What was proven, for mp_plan_prove: sums over steps and layers; value_ns less bound_ns is what is left open. */
static enum mp_status keep_proof(const struct work *w, struct mp_draft *draft, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct mp_certificate *c = mp_arena_alloc(p->arena, 1, sizeof *c);
    unsigned __int128 value = 0, bound = 0;
    if (c == NULL)
        return mp_nomem(err, "an exact placement");
    *c = (struct mp_certificate){.kind = MP_CERT_PLACEMENT,
                                 .proof = MP_PROOF_SEARCH,
                                 .scope = draft->n_copies > p->n_experts ? MP_SCOPE_REPLICAS : MP_SCOPE_SINGLE_COPIES};
    for (uint32_t l = 0; l < p->n_layers; l++) {
        value += w->answers[l].value;
        bound += w->answers[l].bound;
        c->nodes += w->answers[l].nodes;
        if (w->answers[l].outcome != MP_FOUND)
            c->proof = MP_PROOF_STOPPED;
    }
    if (value > UINT64_MAX)
        return MP_OK; /* no certificate */
    c->value_ns = (uint64_t)value;
    c->bound_ns = (uint64_t)bound;
    p->certificates = c;
    p->n_certificates = 1;
    return MP_OK;
}

/* ---- other solvers ---- */
static enum mp_status export_model(const struct mp_problem *in, const struct mp_draft *d, enum mp_outcome *outcome,
                                   struct mp_error *err) {
    struct mp_mip *m = NULL;
    struct mp_out *o = NULL;
    size_t n = strlen(in->export_lp);
    enum mp_status status;
    MP_TRY(mp_place_model_new(&m, in, d->plan, d->copies, d->n_copies, 0, d->plan->n_layers, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(mp_out_open(&o, in->export_lp, err));
    mp_mip_write(m, n > 4 && strcmp(in->export_lp + n - 4, ".mps") == 0,
                 "moeplan: x_LAYER_EXPERT_REPLICA_GPU is 1 where that replica goes; docs/STRATEGIES.md, Exact", o);
    status = mp_out_commit(o, err);
out:
    mp_mip_free(m);
    return status;
}

/* However many copies: it is only read. */
static enum mp_status import_solution(struct work *w, struct mp_draft *d, struct mp_arena *scratch,
                                      enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_grid *grid;
    struct mp_mip *m = NULL;
    struct mp_in *in = NULL;
    int64_t *values;
    const char *broken = NULL;
    enum mp_status status;
    MP_TRY(mp_place_model_new(&m, w->in, d->plan, d->copies, d->n_copies, 0, d->plan->n_layers, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(mp_in_open(&in, w->in->import_solution, SOLUTION_BYTES_MAX, err));
    MP_TRY(mp_mip_read_solution(&values, m, in, scratch, err));
    if (!mp_mip_holds(m, values, NULL, &broken)) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                            "%s does not hold (each copy on one GPU, no more of them than slots, replicas by rising "
                            "GPU)",
                            broken);
        goto out;
    }
    MP_TRY(mp_grid_new(&grid, w->in, d, scratch, err));
    for (uint32_t l = 0; l < d->plan->n_layers; l++) {
        mp_grid_begin(grid, d->plan, l);
        for (uint32_t c = 0; c < d->n_copies; c++)
            for (uint32_t g = 0; g < d->plan->n_gpus; g++)
                if (values[mp_place_model_at(w->in, d->n_copies, l, c, g)] == 1)
                    mp_grid_put(grid, g, copies_of(d, l)[c]);
        mp_grid_sort(grid);
    }
out:
    mp_in_close(in);
    mp_mip_free(m);
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    uint64_t per_layer = in->option_values != NULL ? (uint64_t)in->option_values[OPTION_NODES] : 200000;
    bool is_glpk = in->option_values != NULL && in->option_values[OPTION_ENGINE] == 1, is_stopped = false;
    const char *why = mp_exact_steps_declines(in, draft->n_copies);
    if (in->exact_nodes > 0)
        per_layer = in->exact_nodes;
    else if (budget != NULL && budget->work_limit > 0)
        per_layer = budget->work_limit / p->n_layers + (budget->work_limit < p->n_layers);
    struct work w = {.in = in, .draft = draft, .node_limit = per_layer};
    enum mp_status status = MP_OK;
    *outcome = MP_FOUND;
    if (in->export_lp != NULL) {
        status = export_model(in, draft, outcome, err);
        if (status != MP_OK || *outcome != MP_FOUND)
            return status;
        if (why != NULL)
            return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                              "exact: %s; the program is in %s: solve it and come back with --import-solution", why,
                              in->export_lp);
    }
    if (why != NULL && in->import_solution == NULL)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "exact: %s", why);
    if (!in->needs_distinct)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "exact: replicas are placed on distinct GPUs");
    if (in->import_solution != NULL)
        return import_solution(&w, draft, scratch, outcome, err);
    w.answers = mp_arena_alloc(scratch, p->n_layers, sizeof *w.answers);
    if (w.answers == NULL)
        return mp_nomem(err, "an exact placement");
    if (is_glpk)
        w.node_limit = 1; /* just something to begin with */
    status = mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, p->n_layers, solve_layer, &w, err);
    if (status != MP_OK)
        return status;
    w.node_limit = per_layer;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (is_glpk)
            status = ask_glpk(&w, l, budget, scratch, outcome, err);
        if (status != MP_OK || *outcome != MP_FOUND)
            return status;
        if (!w.answers[l].has_solution)
            return mp_decline(err, outcome, MP_NOT_FOUND,
                              "exact: layer %u: no placement of %u copies on distinct GPUs was found", l,
                              draft->n_copies);
        is_stopped |= w.answers[l].outcome == MP_STOPPED;
    }
    uint64_t nodes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        nodes += w.answers[l].nodes;
    draft->work_used += mp_work_of_nodes(in, nodes, in->workload->n_steps);
    status = fill(&w, draft, scratch, err);
    if (status == MP_OK && in->objective == MP_OBJECTIVE_STEP && !is_glpk)
        status = keep_proof(&w, draft, err);
    *outcome = is_stopped ? MP_STOPPED : MP_FOUND;
    return status;
}

const struct mp_strategy mp_strategy_place_exact = {
    .name = "exact",
    .summary = "the best placement there is, proven, for up to 24 copies a layer on up to 16 GPUs",
    .reference = "branch and bound, docs/STRATEGIES.md",
    .stage = MP_PLAN_PLACE,
    .options = options,
    .solve = solve};
