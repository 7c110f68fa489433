/* A proof by search, again: does a plan's certificate of kind search or stopped hold?
 *
 * Decides   whether a placement of the plan's copies is faster than the certificate says that any can be.
 * Minimises the mean planning step, single shots, as planner/exact/exact_steps.c does.
 * Method    the planning steps are made anew from what the plan says of them, every layer is searched with the plan's
 *           copies in the plan's slots, and what was found is simulated in the plan's place. The search knows the
 *           plan's copies and nothing else of it.
 * Bound     its own.
 * Differs   -
 * Cost      that of the first proof. A search takes the same nodes every time, so the nodes that a certificate gives
 *           are enough for each layer of an honest one. */
#include "exact_steps.h"
#include <moeplan/base.h>
#include <string.h>

struct again {
    const struct mp_plan *plan;
    const struct mp_problem *problem;
    struct mp_plan *best;
    uint16_t *copies;                      /* [n_layers][n_copies] */
    uint32_t *n_copies;                    /* [n_layers] */
    struct mp_exact_steps_answer *answers; /* [n_layers] */
    uint64_t node_limit;                   /* of a layer */
};

static const struct mp_certificate *claim_of(const struct mp_plan *p) {
    for (uint32_t c = 0; c < p->n_certificates; c++)
        if (p->certificates[c].kind == MP_CERT_PLACEMENT && p->certificates[c].proof != MP_PROOF_CLOSED_FORM)
            return &p->certificates[c];
    return NULL;
}

static enum mp_status search_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    struct again *x = ctx;
    (void)worker;
    const struct mp_exact_steps in = {.problem = x->problem,
                                      .shape = x->plan,
                                      .layer = (uint32_t)l,
                                      .n_copies = x->n_copies[l],
                                      .copies = x->copies + l * x->plan->n_slots,
                                      .node_limit = x->node_limit};
    return mp_exact_steps_solve(&x->answers[l], &in, err);
}

/* A plan of the same shape with the best placements; where none was found the given one stays. */
static enum mp_status put_best(struct again *x, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_plan *p = x->plan;
    uint32_t *slots = mp_arena_alloc(arena, p->n_gpus, sizeof *slots), *node;
    if (slots == NULL)
        return mp_nomem(err, "a proof");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    enum mp_status status = mp_plan_new(&x->best, p->n_layers, p->n_experts, p->n_gpus, slots, err);
    if (status != MP_OK)
        return status;
    node = mp_arena_alloc(x->best->arena, p->n_gpus, sizeof *node);
    if (node == NULL)
        return mp_nomem(err, "a proof");
    memcpy(node, p->gpu_node, p->n_gpus * sizeof *node);
    x->best->gpu_node = node;
    x->best->n_nodes = p->n_nodes;
    x->best->route = p->route;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint16_t *to = x->best->layers[l].slot_expert;
        x->best->layers[l].layer_id = p->layers[l].layer_id;
        memcpy(to, p->layers[l].slot_expert, p->n_slots * sizeof *to);
        if (!x->answers[l].has_solution)
            continue;
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t s = p->gpu_first_slot[g], c = 0; s < p->gpu_first_slot[g + 1]; s++) {
                while (c < x->n_copies[l] && x->answers[l].gpu[c] != g)
                    c++;
                to[s] = c < x->n_copies[l] ? x->copies[(size_t)l * p->n_slots + c++] : MP_NO_EXPERT;
            }
    }
    return MP_OK;
}

static enum mp_status weigh(struct mp_proof_again *out, const struct again *x, const struct mp_certificate *claim,
                            struct mp_error *err) {
    struct mp_sim_options options = x->problem->sim;
    struct mp_sim_result *r = NULL;
    unsigned __int128 sum = 0, open = 0;
    bool is_bounded = true;
    options.network = MP_NETWORK_PLAN;
    options.n_threads = x->problem->n_threads;
    enum mp_status status =
        mp_simulate(&r, x->best, x->problem->workload, x->problem->topology, x->problem->model, &options, err);
    if (status != MP_OK)
        return status;
    for (uint32_t s = 0; s < r->n_steps; s++)
        sum += r->steps[s].step_ns;
    for (uint32_t l = 0; l < x->plan->n_layers; l++) {
        const struct mp_exact_steps_answer *a = &x->answers[l];
        out->nodes += a->nodes;
        is_bounded = is_bounded && a->has_solution;
        open += a->has_solution ? a->value - a->bound : 0;
    }
    out->best_ns = (uint64_t)(sum / r->n_steps);
    out->bound_ns = is_bounded && open <= sum ? (uint64_t)((sum - open) / r->n_steps) : 0;
    out->verdict = claim->bound_ns > out->best_ns    ? MP_PROOF_IS_REFUTED
                   : claim->bound_ns > out->bound_ns ? MP_PROOF_IS_OPEN
                                                     : MP_PROOF_HOLDS;
    mp_sim_result_free(r);
    return MP_OK;
}

enum mp_status mp_plan_prove_again(struct mp_proof_again *out, const struct mp_plan *plan, const struct mp_trace *trace,
                                   const struct mp_topology *topology, const struct mp_model *model,
                                   uint64_t node_limit, unsigned n_threads, struct mp_error *err) {
    const struct mp_certificate *claim = claim_of(plan);
    struct mp_part part = {0}, rest = {0};
    struct mp_workload *workload = NULL;
    struct mp_arena *arena = NULL;
    struct again x = {.plan = plan};
    const char *why = NULL;
    enum mp_status status = MP_OK;
    *out = (struct mp_proof_again){.verdict = MP_PROOF_IS_NONE};
    if (claim == NULL)
        return MP_OK;
    arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "a proof");
    out->claimed_ns = claim->bound_ns;
    MP_TRY(mp_part_split(&part, &rest, trace, &plan->provenance.split, err));
    MP_TRY(mp_plan_home_rule(&part.homes, plan, err));
    MP_TRY(mp_workload_build(&workload, &part, &plan->provenance.batching, err));
    struct mp_problem problem = {
        .workload = workload,
        .topology = topology,
        .model = model,
        .sim = {.dispatcher = mp_dispatcher_find(plan->provenance.dispatcher), .stage_mode = -1},
        .n_threads = n_threads};
    MP_TRY(mp_load_table(&problem.load, workload, n_threads, arena, err));
    x.problem = &problem;
    x.copies = mp_arena_alloc(arena, (size_t)plan->n_layers * plan->n_slots, sizeof *x.copies);
    x.n_copies = mp_arena_alloc(arena, plan->n_layers, sizeof *x.n_copies);
    x.answers = mp_arena_alloc(arena, plan->n_layers, sizeof *x.answers);
    if (x.copies == NULL || x.n_copies == NULL || x.answers == NULL) {
        status = mp_nomem(err, "a proof");
        goto out;
    }
    for (uint32_t l = 0; l < plan->n_layers && why == NULL; l++) {
        for (uint32_t e = 0; e < plan->n_experts; e++) /* by rising experts: not as the plan has them */
            for (uint32_t s = 0; s < plan->n_slots; s++)
                if (plan->layers[l].slot_expert[s] == e)
                    x.copies[(size_t)l * plan->n_slots + x.n_copies[l]++] = (uint16_t)e;
        why = problem.sim.dispatcher == NULL ? "its dispatcher is not known"
                                             : mp_exact_steps_declines(&problem, x.n_copies[l]);
    }
    if (why != NULL) {
        out->verdict = MP_PROOF_IS_OPEN;
        out->why = why;
        goto out;
    }
    x.node_limit = node_limit > 0                                      ? node_limit
                   : claim->nodes < MP_PROOF_NODES && claim->nodes > 0 ? claim->nodes + 1
                                                                       : MP_PROOF_NODES;
    MP_TRY(mp_parallel_for(n_threads, plan->n_layers, search_layer, &x, err));
    MP_TRY(put_best(&x, arena, err));
    MP_TRY(weigh(out, &x, claim, err));
out:
    mp_plan_free(x.best);
    mp_workload_free(workload);
    mp_part_free(&part);
    mp_part_free(&rest);
    mp_arena_free(arena);
    return status;
}
