/* How far a static placement without redundancy could get below EPLB on held-out steps: the search run on those very
 * steps. It has seen them, so nothing that has not can be expected to reach it; with longer searches it could be lower.
 *
 * usage: place_oracle TRACE MODEL decode|prefill STEP_SIZE TOPOLOGY [LAYER_BASE]
 * Prints the mean step, ns, of EPLB made on the planning half and of the search made on the held-out steps. */
#include "planner.h"
#include <moeplan/base.h>
#include <moeplan/moeplan.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "place_oracle: %s\n", err->message);
    exit(1);
}

static double mean_step(const struct mp_problem *p, const struct mp_plan *plan, const struct mp_workload *w) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    require(mp_simulate(&r, plan, w, p->topology, p->model, &p->sim, &err), &err);
    double mean = (double)r->mean.step_ns;
    mp_sim_result_free(r);
    return mean;
}

/* Places the experts with `place` on the steps of `on`; the mean of the plan on `scored`. */
static double plan_and_score(struct mp_problem p, const char *place, const struct mp_workload *on,
                             const struct mp_workload *scored) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_plan *plan = NULL;
    struct mp_budget budget = {0};
    uint64_t work = 0;
    enum mp_outcome outcome;
    if (arena == NULL)
        require(mp_nomem(&err, "planning"), &err);
    p.workload = on;
    require(mp_load_table(&p.load, on, 1, arena, &err), &err);
    require(mp_problem_check(&p, arena, &outcome, &err), &err);
    const struct mp_combination c = {{mp_strategy_find(MP_PLAN_REPLICATE, "none"),
                                      mp_strategy_find(MP_PLAN_PLACE, place), mp_strategy_find(MP_PLAN_ROUTE, "even"),
                                      mp_strategy_find(MP_PLAN_ORDER, "single")},
                                     false};
    require(mp_combination_run(&plan, &p, &c, NULL, &budget, &work, &outcome, &err), &err);
    double mean = 0;
    if (plan != NULL)
        mean = mean_step(&p, plan, scored);
    mp_plan_free(plan);
    mp_arena_free(arena);
    return mean;
}

int main(int argc, char **argv) {
    struct mp_error err = {0};
    struct mp_limits limits = mp_limits_default;
    struct mp_trace_hints hints = mp_trace_hints_none;
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part[2];
    struct mp_workload *steps[2] = {NULL, NULL};
    if (argc < 6) {
        fprintf(stderr, "usage: place_oracle TRACE MODEL decode|prefill STEP_SIZE TOPOLOGY [LAYER_BASE]\n");
        return 2;
    }
    uint64_t size, layer_base = 0;
    if (!mp_parse_u64(argv[4], strlen(argv[4]), &size) || size == 0 || size > UINT32_MAX ||
        (argc > 6 && (!mp_parse_u64(argv[6], strlen(argv[6]), &layer_base) || layer_base > 1000))) {
        fprintf(stderr, "place_oracle: STEP_SIZE and LAYER_BASE are whole numbers\n");
        return 2;
    }
    const bool is_decode = strcmp(argv[3], "decode") == 0;
    hints.phase = is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL;
    hints.layer_base = (int)layer_base;
    hints.ids_are_physical = 0;
    hints.is_ranked = 0;
    require(mp_model_load(&model, argv[2], &limits, &err), &err);
    hints.n_experts = model->n_experts;
    require(mp_trace_load(&trace, argv[1], &hints, &limits, &err), &err);
    require(mp_topology_load(&topology, argv[5], &limits, &err), &err);
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000};
    require(mp_part_split(&part[0], &part[1], trace, &split, &err), &err);
    const uint32_t each = (uint32_t)size / topology->n_gpus;
    struct mp_batching b = {.phase = hints.phase,
                            .n_ranks = topology->n_gpus,
                            .batch_per_rank = is_decode ? each : 0,
                            .tokens_per_rank = is_decode ? 0 : each,
                            .n_steps_max = 64};
    for (int k = 0; k < 2; k++) { /* recorded, or drawn where either part is too small: as place_results.py does */
        enum mp_status status = MP_OK;
        b.resample = k == 1;
        for (int i = 0; i < 2 && status == MP_OK; i++)
            status = mp_workload_build(&steps[i], &part[i], &b, &err);
        if (status == MP_OK)
            break;
        mp_workload_free(steps[0]);
        steps[0] = NULL;
        if (k == 1 || status != MP_EINPUT)
            require(status, &err);
    }
    const struct mp_setting settings[] = {{"search", "draw", 0}, {"search", "effort", 300}};
    const struct mp_problem problem = {
        .topology = topology,
        .model = model,
        .sim = {.dispatcher = mp_dispatcher_default(hints.phase, MP_TRACE_TOKENS), .stage_mode = -1},
        .limits = &limits,
        .settings = settings,
        .n_settings = 2,
        .needs_distinct = true,
        .n_threads = 1};
    double eplb = plan_and_score(problem, "eplb", steps[0], steps[1]),
           oracle = plan_and_score(problem, "search", steps[1], steps[1]);
    printf("%.0f %.0f\n", eplb, oracle);
    for (int i = 0; i < 2; i++) {
        mp_workload_free(steps[i]);
        mp_part_free(&part[i]);
    }
    mp_trace_free(trace);
    mp_topology_free(topology);
    mp_model_free(model);
    return 0;
}
