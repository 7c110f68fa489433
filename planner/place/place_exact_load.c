/* Replica counts and placement of least possible load, proven.
 *
 * Decides   how many replicas each expert gets and which GPU holds each; of the replicate stage it takes only how many
 *           redundant slots there are.
 * Minimises in each layer the fullest GPU's load, summed over all steps, replicas sharing evenly.
 * Method    planner/exact/exact_load.c.
 * Bound     proven, or the heuristic solution it began with and better ones found until its budget struck.
 * Differs   load only: neither steps nor traffic. Equal GPUs: speeds are not looked at.
 * Cost      exponential; `nodes` for each layer (or an equal share of --work-limit). */
#include "exact_load.h"
#include "grid.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>

static const struct mp_option options[] = {
    {"nodes", "nodes", "search nodes of each layer, unless --work-limit says", 1000000, 1, INT64_MAX},
    {NULL, NULL, NULL, 0, 0, 0}};

struct work {
    const struct mp_problem *in;
    const struct mp_plan *plan;
    const uint32_t *slots;
    uint64_t node_limit;
    struct mp_exact_load_answer *answers; /* [n_layers] */
};

static enum mp_status solve_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct work *w = ctx;
    (void)worker;
    const struct mp_exact_load in = {.n_experts = w->plan->n_experts,
                                     .n_gpus = w->plan->n_gpus,
                                     .load = w->in->load + i * w->plan->n_experts,
                                     .slots = w->slots,
                                     .n_copies_max = w->plan->n_experts + w->in->n_redundant,
                                     .node_limit = w->node_limit};
    return mp_exact_load_solve(&w->answers[i], &in, err);
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    uint32_t *slots = mp_arena_alloc(scratch, p->n_gpus, sizeof *slots);
    struct work w = {.in = in, .plan = p, .slots = slots};
    bool is_stopped = false;
    uint64_t nodes = 0;
    w.answers = mp_arena_alloc(scratch, p->n_layers, sizeof *w.answers);
    if (slots == NULL || w.answers == NULL)
        return mp_nomem(err, "an exact placement");
    if (p->n_experts > MP_EXACT_LOAD_EXPERTS || p->n_gpus > MP_EXACT_LOAD_GPUS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "exact-load: more than %u experts or %u GPUs are not searched exactly (use lpt-replicated)",
                          MP_EXACT_LOAD_EXPERTS, MP_EXACT_LOAD_GPUS);
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    w.node_limit = in->option_values != NULL ? (uint64_t)in->option_values[0] : 1000000;
    if (in->exact_nodes > 0)
        w.node_limit = in->exact_nodes;
    else if (budget != NULL && budget->work_limit > 0)
        w.node_limit = budget->work_limit / p->n_layers + (budget->work_limit < p->n_layers);
    enum mp_status status =
        mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, p->n_layers, solve_layer, &w, err);
    if (status == MP_OK)
        status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct mp_exact_load_answer *a = &w.answers[l];
        uint32_t n = 0;
        if (a->n_replicas[0] == 0)
            return mp_decline(err, outcome, MP_NOT_FOUND, "exact-load: layer %u: no placement was found", l);
        mp_grid_begin(grid, p, l);
        for (uint32_t e = 0; e < p->n_experts; e++)
            for (uint32_t i = 0; i < a->n_replicas[e]; i++, n++)
                mp_grid_put(grid, a->gpu[e][i], e);
        if (in->needs_equal_slots && n != p->n_slots)
            return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                              "exact-load: layer %u is best with %u of %u slots filled, and the target needs all (use "
                              "lpt-replicated)",
                              l, n, p->n_slots);
        mp_grid_sort(grid);
        is_stopped |= a->outcome == MP_STOPPED;
        nodes += a->nodes;
    }
    draft->work_used += mp_work_of_nodes(in, nodes, 1);
    *outcome = is_stopped ? MP_STOPPED : MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_exact_load = {
    .name = "exact-load",
    .summary = "replica counts and placement of least possible load, proven for small layers",
    .reference = "branch and bound, docs/STRATEGIES.md",
    .stage = MP_PLAN_PLACE,
    .options = options,
    .solve = solve};
