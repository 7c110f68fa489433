/* What a plan claims: exact sums over its planning steps, sampled steps, the prediction, and certificates. Both
 * verifiers recompute all of it. */
#include "planner.h"
#include <moeplan/base.h>
#include <string.h>

struct evidence {
    const struct mp_problem *problem;
    struct mp_plan *plan;
    struct mp_cost_setup setup;
    struct mp_traffic **traffic; /* [n_threads] */
    struct order_bound *bounds;  /* [n_layers] */
};
/* What the orders of one layer cannot go below, summed over steps. */
struct order_bound {
    uint64_t dispatch_ns, combine_ns;    /* relay bounds where the order is between nodes, else port bounds */
    uint64_t n_dispatching, n_combining; /* steps in which anything travels */
};

static void add_bytes(const struct mp_plan *p, const uint64_t *matrix, struct mp_plan_layer *layer) {
    for (uint32_t i = 0; i < p->n_gpus; i++)
        for (uint32_t j = 0; j < p->n_gpus; j++) {
            uint64_t bytes = matrix[(size_t)i * p->n_gpus + j];
            if (i == j || bytes == 0)
                continue;
            if (p->gpu_node[i] == p->gpu_node[j])
                layer->dispatch_intra_bytes += bytes;
            else
                layer->dispatch_inter_bytes += bytes;
        }
}

static enum mp_status sum_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct evidence *e = ctx;
    const struct mp_plan *p = e->plan;
    struct mp_plan_layer *layer = &e->plan->layers[i];
    struct mp_traffic *t = e->traffic[worker];
    layer->rows_max_sum = layer->dispatch_intra_bytes = layer->dispatch_inter_bytes = layer->port_bound_ns = 0;
    mp_workload_load(e->problem->workload, (uint32_t)i, layer->expert_rows);
    for (uint32_t step = 0; step < e->problem->workload->n_steps; step++) {
        enum mp_status status = mp_traffic_compute(t, &e->setup, step, (uint32_t)i, err);
        if (status != MP_OK)
            return status;
        uint64_t most = 0;
        for (uint32_t g = 0; g < p->n_gpus; g++)
            most = t->rows[g] > most ? t->rows[g] : most;
        layer->rows_max_sum += most;
        add_bytes(p, t->dispatch, layer);
        if (t->has_second)
            add_bytes(p, t->dispatch2, layer);
        const struct mp_topology *topology = e->problem->topology;
        bool is_relayed = layer->order != MP_NONE && p->orders[layer->order].between_nodes;
        struct order_bound *b = &e->bounds[i];
        uint64_t ports = mp_port_bound_ns(topology, t->dispatch), back = mp_port_bound_ns(topology, t->combine);
        layer->port_bound_ns += ports;
        b->n_dispatching += ports > 0;
        b->n_combining += back > 0;
        b->dispatch_ns += is_relayed ? mp_relay_bound_ns(topology, t->dispatch) : ports;
        b->combine_ns += is_relayed ? mp_relay_bound_ns(topology, t->combine) : back;
    }
    return MP_OK;
}

/* What the dispatches and the combines of all steps and layers cannot go below, launches included. */
static enum mp_status sum_layers(struct mp_plan *plan, const struct mp_problem *problem, uint64_t *dispatch_bound_ns,
                                 uint64_t *combine_bound_ns, struct mp_error *err) {
    struct evidence e = {.problem = problem, .plan = plan};
    struct mp_router *router = NULL;
    unsigned n = problem->n_threads > 1 ? problem->n_threads : 1;
    n = n > MP_MAX_THREADS ? MP_MAX_THREADS : n;
    enum mp_status status = mp_router_new(&router, plan, err);
    e.traffic = mp_calloc(n, sizeof *e.traffic);
    e.bounds = mp_calloc(plan->n_layers, sizeof *e.bounds);
    if (status == MP_OK && (e.traffic == NULL || e.bounds == NULL))
        status = mp_nomem(err, "summing up evidence");
    for (unsigned i = 0; i < n && status == MP_OK; i++)
        status = mp_traffic_new(&e.traffic[i], plan->n_gpus, err);
    e.setup = (struct mp_cost_setup){.plan = plan,
                                     .router = router,
                                     .workload = problem->workload,
                                     .topology = problem->topology,
                                     .model = problem->model,
                                     .dispatcher = problem->sim.dispatcher,
                                     .sources = problem->sim.sources};
    for (uint32_t l = 0; l < plan->n_layers && status == MP_OK; l++) {
        plan->layers[l].expert_rows = mp_arena_alloc(plan->arena, plan->n_experts, sizeof(uint64_t));
        if (plan->layers[l].expert_rows == NULL)
            status = mp_nomem(err, "summing up evidence");
    }
    if (status == MP_OK)
        status = mp_parallel_for(n, plan->n_layers, sum_layer, &e, err);
    const uint64_t floor_ns = mp_launch_floor_ns(problem->topology, problem->sim.dispatcher);
    *dispatch_bound_ns = *combine_bound_ns = 0;
    for (uint32_t l = 0; l < plan->n_layers && status == MP_OK; l++) {
        *dispatch_bound_ns += e.bounds[l].dispatch_ns + e.bounds[l].n_dispatching * floor_ns;
        *combine_bound_ns += e.bounds[l].combine_ns + e.bounds[l].n_combining * floor_ns;
    }
    for (unsigned i = 0; e.traffic != NULL && i < n; i++)
        mp_traffic_free(e.traffic[i]);
    mp_free(e.traffic);
    mp_free(e.bounds);
    mp_router_free(router);
    return status;
}

/* The search's scope: every layer one shot, every replica drawn evenly. */
static bool has_single_shots(const struct mp_plan *p, const struct mp_problem *problem,
                             const struct mp_certificate *searched) {
    bool has_orders = false;
    for (uint32_t l = 0; l < p->n_layers; l++)
        has_orders |= p->layers[l].order != MP_NONE;
    return !has_orders && problem->sim.sources == MP_SOURCES_DP &&
           (p->route == MP_ROUTE_EVEN || strcmp(searched->scope, MP_SCOPE_REPLICAS) != 0);
}

/* In ns per step: all of the step but what the search left open. */
static struct mp_certificate searched_certificate(const struct mp_certificate *searched,
                                                  const struct mp_sim_result *r) {
    struct mp_certificate c = *searched;
    unsigned __int128 sum = 0, open = searched->value_ns - searched->bound_ns;
    for (uint32_t s = 0; s < r->n_steps; s++)
        sum += r->steps[s].step_ns;
    c.value_ns = r->mean.step_ns;
    c.bound_ns = (uint64_t)((sum - open) / r->n_steps);
    return c;
}

enum mp_status mp_plan_prove(struct mp_plan *plan, const struct mp_problem *problem, struct mp_error *err) {
    /* What a placement strategy left of its proof: sums over steps and layers. */
    const struct mp_certificate searched =
        plan->n_certificates == 1 ? plan->certificates[0] : (struct mp_certificate){.kind = MP_CERT_ORDER};
    struct mp_sim_result *r = NULL, *clocks = NULL;
    struct mp_sim_options options = problem->sim;
    enum mp_status status;
    uint64_t dispatch_bound_ns, combine_bound_ns;
    MP_TRY(sum_layers(plan, problem, &dispatch_bound_ns, &combine_bound_ns, err));
    options.network = MP_NETWORK_PLAN;
    options.stage_mode = -1;
    options.no_pacing = false;
    options.n_threads = problem->n_threads;
    options.n_steps_max = 0;
    options.with_bound = true;
    options.is_pipelined = false; /* whatever it was chosen by: this is what bounds hold for */
    MP_TRY(mp_simulate(&r, plan, problem->workload, problem->topology, problem->model, &options, err));
    if (plan->is_pipelined) {
        options.is_pipelined = true;
        MP_TRY(mp_simulate(&clocks, plan, problem->workload, problem->topology, problem->model, &options, err));
    }

    uint32_t n = r->n_steps, sample[3] = {0, n / 2, n - 1};
    plan->n_planning_steps = n;
    plan->predicted_step_ns = r->mean.step_ns;
    plan->predicted_pipelined_ns = clocks != NULL ? clocks->mean.step_ns : 0;
    plan->samples = mp_arena_alloc(plan->arena, 3, sizeof *plan->samples);
    plan->certificates = mp_arena_alloc(plan->arena, 5, sizeof *plan->certificates);
    if (plan->samples == NULL || plan->certificates == NULL) {
        status = mp_nomem(err, "summing up evidence");
        goto out;
    }
    plan->n_samples = 0;
    for (int i = 0; i < 3; i++) {
        if (i > 0 && sample[i] == sample[i - 1])
            continue;
        const struct mp_step_times *t = &r->steps[sample[i]];
        plan->samples[plan->n_samples++] = (struct mp_plan_sample){
            sample[i],     t->step_ns,    t->dispatch_ns,
            t->compute_ns, t->combine_ns, clocks != NULL ? clocks->steps[sample[i]].step_ns : 0};
    }
    plan->n_certificates = 4;
    plan->certificates[0] = (struct mp_certificate){.kind = MP_CERT_ORDER,
                                                    .proof = MP_PROOF_CLOSED_FORM,
                                                    .scope = "dispatch, all layers, planning steps",
                                                    .value_ns = r->mean.dispatch_ns,
                                                    .bound_ns = dispatch_bound_ns / n};
    plan->certificates[1] = (struct mp_certificate){.kind = MP_CERT_ORDER,
                                                    .proof = MP_PROOF_CLOSED_FORM,
                                                    .scope = "combine, all layers, planning steps",
                                                    .value_ns = r->mean.combine_ns,
                                                    .bound_ns = combine_bound_ns / n};
    plan->certificates[2] = (struct mp_certificate){.kind = MP_CERT_PLACEMENT,
                                                    .proof = MP_PROOF_CLOSED_FORM,
                                                    .scope = "step, every static plan with these slots, planning steps",
                                                    .value_ns = r->mean.step_ns,
                                                    .bound_ns = r->lower_bound_ns};
    plan->certificates[3] =
        (struct mp_certificate){.kind = MP_CERT_RESIDUAL,
                                .proof = MP_PROOF_CLOSED_FORM,
                                .scope = "step, a plan for each step with any slots, planning steps",
                                .value_ns = r->mean.step_ns,
                                .bound_ns = r->residual_ns};
    if (searched.kind == MP_CERT_PLACEMENT && has_single_shots(plan, problem, &searched))
        plan->certificates[plan->n_certificates++] = searched_certificate(&searched, r);
out:
    mp_sim_result_free(r);
    mp_sim_result_free(clocks);
    return status;
}
