/* What strategies that replicate an existing placement begin with. */
#include "start.h"
#include <moeplan/base.h>
#include <string.h>

#define STEP_ROWS 262144u
#define STEPS_MIN 4u

enum mp_status mp_replicate_steps(struct mp_problem *out, struct mp_workload **drawn, uint32_t **steps,
                                  uint32_t *n_steps, const struct mp_problem *in, uint32_t n, struct mp_arena *arena,
                                  struct mp_error *err) {
    const struct mp_workload *w = in->workload;
    const uint64_t rows = w->n_steps > 0 ? w->n_rows / w->n_steps : 0, most = rows > 0 ? STEP_ROWS / rows : n;
    n = most >= n ? n : most < STEPS_MIN ? STEPS_MIN : (uint32_t)most;
    *out = *in;
    *drawn = NULL;
    if (mp_can_draw(in->part)) {
        enum mp_status status = mp_draw_steps(drawn, in->part, &in->workload->batching, n, in->seed, err);
        if (status != MP_OK)
            return status;
    }
    out->workload = *drawn != NULL ? *drawn : in->workload;
    const uint32_t all = out->workload->n_steps;
    *n_steps = all < n ? all : n;
    *steps = mp_arena_alloc(arena, *n_steps, sizeof **steps);
    if (*steps == NULL)
        return mp_nomem(err, "replicating experts");
    for (uint32_t i = 0; i < *n_steps; i++)
        (*steps)[i] = (uint32_t)mp_mul_div(2 * (uint64_t)i + 1, all, 2 * (uint64_t)*n_steps);
    return MP_OK;
}

enum mp_status mp_replicate_start(struct mp_plan **out, const struct mp_problem *in, const struct mp_budget *budget,
                                  const struct mp_draft *draft, const char *name, enum mp_outcome *outcome,
                                  struct mp_error *err) {
    const struct mp_strategy *strategy;
    const struct mp_plan *p = draft->plan;
    struct mp_problem problem = *in;
    struct mp_draft single = {.n_copies = p->n_experts};
    struct mp_arena *arena = mp_arena_new();
    uint32_t *slots = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    MP_TRY(mp_strategy_need(&strategy, MP_PLAN_PLACE, name, err));
    slots = arena != NULL ? mp_arena_alloc(arena, p->n_gpus, sizeof *slots) : NULL;
    single.copies =
        slots != NULL ? mp_arena_alloc(arena, (size_t)p->n_layers * p->n_slots, sizeof *single.copies) : NULL;
    if (single.copies == NULL) {
        status = mp_nomem(err, "replicating experts");
        goto out;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    MP_TRY(mp_plan_new(&single.plan, p->n_layers, p->n_experts, p->n_gpus, slots, err));
    single.plan->gpu_node = p->gpu_node;
    single.plan->n_nodes = p->n_nodes;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t e = 0; e < p->n_experts; e++)
            single.copies[(size_t)l * p->n_slots + e] = (uint16_t)e;
    problem.needs_distinct = true;
    MP_TRY(mp_option_values(&problem.option_values, strategy, in->settings, in->n_settings, arena, err));
    MP_TRY(strategy->solve(&problem, budget, arena, &single, outcome, err));
    if (*outcome == MP_FOUND || *outcome == MP_STOPPED) {
        *outcome = MP_FOUND;
        *out = single.plan;
        single.plan = NULL;
    }
out:
    mp_plan_free(single.plan);
    mp_arena_free(arena);
    return status;
}

void mp_replicate_write(struct mp_draft *draft, uint32_t layer, const struct mp_replica_set *set) {
    const struct mp_plan *p = draft->plan;
    uint16_t *copies = draft->copies + (size_t)layer * p->n_slots, *wish = draft->wish + (size_t)layer * p->n_slots;
    uint32_t at = p->n_experts;
    for (uint32_t e = 0; e < p->n_experts; e++)
        for (uint32_t r = 0; r < set[e].n; r++) {
            const uint32_t i = r == 0 ? e : at++;
            copies[i] = (uint16_t)e;
            wish[i] = set[e].gpu[r];
        }
    draft->layer_copies[layer] = at;
}
