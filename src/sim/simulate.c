/* A plan on the steps of a workload: each layer is attention and gate, dispatch, experts, combine; docs/COST.md part
 * 6. Steps run in parallel and are reduced in order; sums are integers, or doubles added in step order. */
#include "simulate.h"
#include <moeplan/progress.h>
#include <stdlib.h>
#include <string.h>

enum mp_status sim_transfer(const struct run *run, struct worker *w, uint32_t step, uint32_t layer, bool is_combine,
                            uint64_t *clock_ns, uint64_t *out_ns, uint64_t *bound_ns, struct mp_error *err) {
    const struct mp_plan *plan = run->setup.plan;
    const struct mp_plan_layer *l = &plan->layers[layer];
    const struct mp_dispatcher *d = run->setup.dispatcher;
    const struct mp_topology *t = run->setup.topology;
    const struct mp_traffic *traffic = w->traffic;
    struct sim_direction x = {.first = is_combine ? traffic->combine : traffic->dispatch,
                              .second = !traffic->has_second ? NULL
                                        : is_combine         ? traffic->combine2
                                                             : traffic->dispatch2,
                              .is_overlapped = d->is_overlapped,
                              .is_combine = is_combine,
                              .hides_routing = d->hides_routing};
    uint64_t first_ns = 0, second_ns = 0;
    enum mp_status status = MP_OK;
    *out_ns = *bound_ns = 0;
    if (plan->n_gpus < 2)
        return MP_OK;
    const bool is_plan = run->options->network == MP_NETWORK_PLAN,
               is_floor = run->options->network == MP_NETWORK_PORT_BOUND,
               is_concurrent = run->options->network == MP_NETWORK_CONCURRENT;
    if (l->order != MP_NONE && l->order >= plan->n_orders)
        return mp_fail(err, MP_EBUG, "layer %u uses order %u of %u", l->layer_id, l->order, plan->n_orders);
    /* Bytes that other GPUs pass on are not held by their own GPU's ports alone. */
    const bool is_relayed = (is_plan || is_floor) && l->order != MP_NONE && plan->orders[l->order].between_nodes;
    const uint64_t floor_ns = is_relayed ? mp_relay_bound_ns(t, x.first) : mp_net_port_bound(w->net, x.first);
    if (is_plan && l->order != MP_NONE) {
        bool falls_back = false;
        x.mode = run->options->stage_mode < 0 ? plan->stage_mode : (enum mp_stage_mode)run->options->stage_mode;
        x.order = plan->orders[l->order];
        if (run->options->no_pacing || !plan->is_paced)
            x.order.port_bytes_per_s = 0;
        x.way = is_combine ? l->combine : MP_COMBINE_FORWARD;
        MP_TRY(mp_net_falls_back(w->net, &x.order, x.way, plan->fallback_ppm, x.first, &falls_back, err));
        x.is_staged = !falls_back;
    }
    /* Stages pay for themselves; what remains is launched once. */
    const bool is_ordered = x.is_staged || (is_floor && l->order != MP_NONE);
    x.launch_ns = (d->n_launches - (is_ordered && d->n_launches > 0)) * sane(t->launch_ns);
    if (is_floor && is_ordered && floor_ns > 0) /* one stage, or the one shot that a fallback may make of it */
        x.launch_ns += sane(t->stage_launch_ns < t->launch_ns ? t->stage_launch_ns : t->launch_ns);
    if (!is_combine) { /* it goes back where it came from */
        x.routing_ns = x.second != NULL && !x.is_overlapped ? sane(run->options->routing_ns) : 0;
        x.launch_ns += sane(run->options->routing_ns);
    }
    *bound_ns = floor_ns;
    if (x.second != NULL) {
        const uint64_t second_bound = mp_net_port_bound(w->net, x.second);
        *bound_ns = !x.is_overlapped ? *bound_ns + second_bound : *bound_ns > second_bound ? *bound_ns : second_bound;
        second_ns = is_floor ? second_bound : 0;
    }
    *bound_ns = sane(*bound_ns);
    if (clock_ns != NULL && (is_plan || is_concurrent)) {
        w->seen[is_combine].is_staged = x.is_staged;
        status = sim_move_clocks(w, &x, clock_ns, err);
        goto out;
    }
    if (x.is_staged) {
        MP_TRY(mp_net_staged(w->net, &x.order, x.way, x.mode, x.first, &first_ns, err));
    } else if (is_plan || is_concurrent) {
        MP_TRY(mp_net_concurrent(w->net, x.first, &first_ns, NULL, err));
    } else if (is_floor) {
        first_ns = floor_ns;
    } else {
        enum mp_baseline which = run->options->network == MP_NETWORK_RCS   ? MP_BASELINE_RCS
                                 : run->options->network == MP_NETWORK_SJF ? MP_BASELINE_SJF
                                                                           : MP_BASELINE_SPREAD_OUT;
        uint64_t seed =
            mp_mix64(run->options->seed ^ mp_mix64((uint64_t)step << 32 | (uint64_t)layer << 1 | is_combine));
        MP_TRY(mp_net_baseline(w->net, which, seed, x.first, &first_ns, err));
    }
    w->seen[is_combine].n_first = w->log.n;
    if (x.second != NULL && !is_floor)
        MP_TRY(mp_net_concurrent(w->net, x.second, &second_ns, NULL, err));
    first_ns = sane(first_ns);
    second_ns = sane(second_ns);
    first_ns = !x.hides_routing ? first_ns + x.routing_ns : first_ns > x.routing_ns ? first_ns : x.routing_ns;
    w->seen[is_combine].first_ns = first_ns;
    w->seen[is_combine].second_ns = second_ns;
    *out_ns = (!x.is_overlapped ? first_ns + second_ns : first_ns > second_ns ? first_ns : second_ns) + x.launch_ns;
    w->seen[is_combine].launch_ns = x.launch_ns;
    w->seen[is_combine].is_staged = x.is_staged;
    if (clock_ns != NULL) /* the papers' baselines, and the floor, know no clocks */
        net_clocks_barrier(w->net, clock_ns, *out_ns);
out:
    w->seen[is_combine].n_all = w->log.n;
    return status;
}

/* The slowest GPU's attention and shared experts if tokens could start anywhere (coupled sources: the placement moves
 * them). */
static void anywhere(const struct run *run, const struct mp_traffic *traffic, uint64_t *attention_ns,
                     uint64_t *shared_ns) {
    uint64_t total = 0;
    for (uint32_t g = 0; g < traffic->n_gpus; g++)
        total += traffic->source_rows[g];
    total = mp_ceil_div(total, traffic->n_gpus);
    *attention_ns = *shared_ns = UINT64_MAX;
    for (uint32_t g = 0; g < traffic->n_gpus; g++) {
        uint64_t a = sane(mp_attention_ns(run->setup.topology, g, run->setup.model, total));
        uint64_t s = sane(mp_shared_ns(run->setup.topology, g, run->setup.model, total));
        *attention_ns = a < *attention_ns ? a : *attention_ns;
        *shared_ns = s < *shared_ns ? s : *shared_ns;
    }
}

/* The run as step i sees it: with the version that serves it. */
static struct run at_step(const struct run *whole, size_t i) {
    struct run run = *whole;
    uint32_t k = whole->n_versions;
    while (k > 0 && whole->versions[k - 1].from_step > whole->r->step_of[i])
        k--;
    if (k > 0) {
        run.setup.plan = whole->versions[k - 1].plan;
        run.setup.router = whole->routers[k - 1];
    }
    return run;
}

enum mp_status sim_one_step(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct run here = at_step(ctx, i), *run = &here;
    struct worker *w = &run->workers[worker];
    struct step_out *o = &run->steps[i];
    const struct mp_cost_setup *in = &run->setup;
    struct mp_token_flow *flow = NULL;
    const struct mp_topology *t = in->topology;
    const struct mp_model *m = in->model;
    struct mp_step_times sum = {0};
    uint32_t step = (uint32_t)run->r->step_of[i], n = in->plan->n_gpus, n_layers = in->plan->n_layers;
    uint32_t n_dense = m->n_hidden_layers > m->n_layers ? m->n_hidden_layers - m->n_layers : 0;
    enum mp_status status = MP_OK;
    sum.other_ns = o->lower_bound_ns = o->residual_ns = m->other_ns_per_step;
    if (run->options->flow != NULL)
        MP_TRY(run->options->flow->make(&flow, run->options->flow->ctx, in, step, err));
    run->setup.flow = flow;
    if (run->options->is_pipelined)
        sim_pipelined_begin(w, n);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        uint64_t dispatch = 0, combine = 0, bounds[2], attention = 0, shared = 0, compute = 0;
        uint64_t times = layer == 0 ? 1 + n_dense : 1; /* dense layers attend like the first one */
        struct mp_traffic *x = w->traffic;
        MP_TRY(mp_traffic_compute(x, in, step, layer, err));
        if (run->options->is_pipelined) {
            MP_TRY(sim_pipelined_layer(run, w, step, layer, times, bounds, err));
        } else {
            MP_TRY(sim_transfer(run, w, step, layer, false, NULL, &dispatch, &bounds[0], err));
            MP_TRY(sim_transfer(run, w, step, layer, true, NULL, &combine, &bounds[1], err));
        }
        for (uint32_t g = 0; g < n; g++) {
            uint64_t a = sane(mp_layer_attention_ns(in, x, g)), s = sane(mp_shared_ns(t, g, m, x->source_rows[g]));
            uint64_t c = sane(mp_compute_ns(t, g, m, x->active[g], x->padded_rows[g]));
            attention = a > attention ? a : attention;
            shared = s > shared ? s : shared;
            compute = c > compute ? c : compute;
            o->compute_sum_ns += c;
            w->rows[(size_t)layer * n + g] += x->rows[g];
        }
        if (!run->options->is_pipelined) {
            sum.other_ns += attention * times + (shared > dispatch ? shared - dispatch : 0);
            sum.dispatch_ns += dispatch;
            sum.compute_ns += compute;
            sum.combine_ns += combine;
            w->layer_ns[layer] += dispatch + compute + combine;
            if (run->r->step_layer_ns != NULL)
                run->r->step_layer_ns[i * n_layers + layer] =
                    attention * times + (shared > dispatch ? shared : dispatch) + compute + combine;
        }
        if (run->timeline != NULL && !run->options->is_pipelined)
            MP_TRY(sim_timeline_layer(run, w, layer,
                                      &(struct sim_layer){attention, times, dispatch, shared, compute, combine}, err));
        o->port_bound_ns += bounds[0] + bounds[1];
        o->intra += x->intra_bytes;
        o->inter += x->inter_bytes;
        o->copies_expert += x->copies_expert;
        o->copies_gpu += x->copies_gpu;
        o->copies_node += x->copies_node;
        o->copies_inter += x->copies_inter;
        run->imbalance[i * n_layers + layer] = balance_add(&o->balance, x->rows, n, x->slot_rows, x->n_slots);
        if (run->has_bound) {
            struct mp_layer_bound b;
            MP_TRY(mp_layer_lower_bound(&b, in, step, layer, err));
            if (in->sources == MP_SOURCES_COUPLED)
                anywhere(run, x, &attention, &shared);
            o->lower_bound_ns += attention * times + sane(shared > b.dispatch_ns ? shared : b.dispatch_ns) +
                                 sane(b.compute_ns) + sane(b.combine_ns);
            o->residual_ns += attention * times + sane(shared > b.free_dispatch_ns ? shared : b.free_dispatch_ns) +
                              sane(b.free_compute_ns) + sane(b.free_combine_ns);
        }
    }
    if (run->options->is_pipelined)
        sim_pipelined_end(w, n, n_layers, &sum);
    if (run->options->is_pipelined && run->timeline != NULL)
        MP_TRY(sim_timeline_last(run, w, 1 + n_dense, err));
    sum.other_ns += run->wait_ns != NULL ? run->wait_ns[i] : 0;
    sum.step_ns = sum.dispatch_ns + sum.compute_ns + sum.combine_ns + sum.other_ns;
    run->r->steps[i] = sum;
out:
    mp_flow_free(flow);
    return status;
}

static uint64_t rounded_mean(unsigned __int128 sum, uint32_t n) { return n == 0 ? 0 : (uint64_t)((sum + n / 2) / n); }

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Weights per GPU and what they leave for the KV cache: of all MoE layers of the model, recorded or not. */
static void memory_use(struct mp_sim_result *r, const struct mp_cost_setup *in) {
    const struct mp_plan *p = in->plan;
    const struct mp_model *m = in->model;
    uint32_t n_layers = m->n_layers > p->n_layers ? m->n_layers : p->n_layers;
    r->kv_tokens_min = UINT64_MAX;
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        uint32_t n_slots = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
        unsigned __int128 sum = (unsigned __int128)m->expert_bytes * n_slots * n_layers +
                                (unsigned __int128)m->shared_bytes * n_layers + m->dense_bytes;
        uint64_t weights = sum > UINT64_MAX ? UINT64_MAX : (uint64_t)sum;
        uint64_t memory = in->topology->types[in->topology->gpus[g].type].memory_bytes;
        uint64_t room = memory > weights && m->kv_bytes_per_token > 0 ? (memory - weights) / m->kv_bytes_per_token : 0;
        r->memory_bytes_max = weights > r->memory_bytes_max ? weights : r->memory_bytes_max;
        r->kv_tokens_min = room < r->kv_tokens_min ? room : r->kv_tokens_min;
    }
}

static void reduce(struct run *run, uint32_t n_workers, uint64_t *sorted, struct balance_sum *balance,
                   uint64_t *totals) {
    struct mp_sim_result *r = run->r;
    uint32_t n = r->n_steps, n_gpus = r->n_gpus, n_layers = r->n_layers;
    unsigned __int128 step = 0, dispatch = 0, compute = 0, combine = 0, other = 0, moe = 0, bound = 0, busy = 0,
                      lower = 0, residual = 0, intra = 0, inter = 0, by_expert = 0, by_gpu = 0, by_node = 0,
                      between = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_step_times *s = &r->steps[i];
        const struct step_out *o = &run->steps[i];
        sorted[i] = s->step_ns;
        step += s->step_ns;
        dispatch += s->dispatch_ns;
        compute += s->compute_ns;
        combine += s->combine_ns;
        other += s->other_ns;
        bound += o->port_bound_ns;
        lower += o->lower_bound_ns;
        residual += o->residual_ns;
        busy += o->compute_sum_ns;
        intra += o->intra;
        inter += o->inter;
        by_expert += o->copies_expert;
        by_gpu += o->copies_gpu;
        by_node += o->copies_node;
        between += o->copies_inter;
        balance[i] = o->balance;
    }
    moe = dispatch + compute + combine;
    r->mean = (struct mp_step_times){rounded_mean(step, n), rounded_mean(dispatch, n), rounded_mean(compute, n),
                                     rounded_mean(combine, n), rounded_mean(other, n)};
    r->moe_ns = rounded_mean(moe, n);
    qsort(sorted, n, sizeof *sorted, ascending);
    r->p50_ns = sorted[(n + 1) / 2 - 1];
    r->p95_ns = sorted[((uint64_t)n * 95 + 99) / 100 - 1];
    r->max_ns = sorted[n - 1];
    r->intra_bytes = (double)intra / n;
    r->inter_bytes = (double)inter / n;
    r->copies_expert = (double)by_expert / n;
    r->copies_gpu = (double)by_gpu / n;
    r->copies_node = (double)by_node / n;
    r->copies_inter = (double)between / n;
    r->port_bound_ns = (double)bound / n;
    r->utilization = moe == 0 ? 0 : (double)busy / ((double)moe * n_gpus);
    if (run->has_bound) {
        r->lower_bound_ns = (uint64_t)(lower / n); /* rounded down: it stays a bound */
        r->residual_ns = (uint64_t)(residual / n);
        r->gap = lower == 0 ? 0 : (double)step / (double)lower - 1;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        uint64_t ns = 0;
        double imbalance = 0;
        for (uint32_t g = 0; g < n_gpus; g++) {
            size_t cell = (size_t)l * n_gpus + g;
            for (uint32_t k = 0; k < n_workers; k++)
                totals[cell] += run->workers[k].rows[cell];
            r->gpu_rows[cell] = (double)totals[cell] / n;
        }
        for (uint32_t k = 0; k < n_workers; k++)
            ns += run->workers[k].layer_ns[l];
        for (uint32_t i = 0; i < n; i++)
            imbalance += run->imbalance[(size_t)i * n_layers + l];
        r->layer_ns[l] = (double)ns / n;
        r->layer_imbalance[l] = imbalance / n;
    }
    balance_finish(&r->balance, balance, n, totals, n_layers, n_gpus);
}

static enum mp_status check_versions(const struct mp_sim_version *versions, uint32_t n, const struct mp_choice *choice,
                                     struct mp_error *err) {
    for (uint32_t k = 1; k < n; k++) {
        const struct mp_plan *a = versions[0].plan, *b = versions[k].plan;
        if (versions[k].from_step <= versions[k - 1].from_step || a->n_layers != b->n_layers ||
            a->n_experts != b->n_experts || a->n_gpus != b->n_gpus || a->n_slots != b->n_slots)
            return mp_fail(err, MP_EBUG, "version %u of a placement is not of the first one's shape, or not later", k);
    }
    if (n > 1 && choice->kind == MP_CHOICE_TABLE)
        return mp_fail(err, MP_EUSAGE, "a table of replicas is of one placement, and this one changes");
    return versions[0].from_step == 0
               ? MP_OK
               : mp_fail(err, MP_EBUG, "no placement serves the steps before step %u", versions[0].from_step);
}

/* What simulated steps wait: their shares of what the steps waited that they stand for. */
static void spread_waits(uint64_t *out, uint32_t n, const uint64_t *wait_ns, uint32_t n_all) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t sum = 0;
        for (uint64_t t = (uint64_t)i * n_all / n; t < ((uint64_t)i + 1) * n_all / n; t++)
            sum += wait_ns[t];
        out[i] = sane(mp_mul_div(sum, n, n_all));
    }
}

enum mp_status mp_simulate(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_workload *workload,
                           const struct mp_topology *topology, const struct mp_model *model,
                           const struct mp_sim_options *options, struct mp_error *err) {
    const struct mp_sim_version only = {0, plan};
    return mp_simulate_versions(out, &only, 1, NULL, workload, topology, model, options, err);
}

enum mp_status mp_simulate_versions(struct mp_sim_result **out, const struct mp_sim_version *versions,
                                    uint32_t n_versions, const uint64_t *wait_ns, const struct mp_workload *workload,
                                    const struct mp_topology *topology, const struct mp_model *model,
                                    const struct mp_sim_options *options, struct mp_error *err) {
    *out = NULL;
    enum mp_status status = check_versions(versions, n_versions, &options->choice, err);
    const struct mp_plan *plan = versions[0].plan;
    struct mp_router **routers = NULL;
    struct mp_sim_result *r = NULL;
    struct mp_arena *scratch = NULL;
    struct worker *workers = NULL;
    uint32_t n_workers = 0;
    if (status != MP_OK)
        return status;
    if (options->dispatcher == NULL)
        return mp_fail(err, MP_EUSAGE,
                       "no dispatcher is given (--dispatcher a2av, deepep-normal, deepep-ll, hierarchical or agrs)");
    if (workload->n_steps == 0)
        return mp_fail(err, MP_EUSAGE, "there is no step to simulate");
    uint32_t n_steps = workload->n_steps, n_layers = plan->n_layers, n_gpus = plan->n_gpus;
    if (options->n_steps_max > 0 && options->n_steps_max < n_steps)
        n_steps = options->n_steps_max;
    r = mp_calloc(1, sizeof *r);
    scratch = mp_arena_new();
    if (r == NULL || scratch == NULL || (r->arena = mp_arena_new()) == NULL) {
        status = mp_nomem(err, "a simulation");
        goto out;
    }
    r->n_steps = n_steps;
    r->n_layers = n_layers;
    r->n_gpus = n_gpus;
    r->step_of = mp_arena_alloc(r->arena, n_steps, sizeof *r->step_of);
    r->steps = mp_arena_alloc(r->arena, n_steps, sizeof *r->steps);
    r->gpu_rows = mp_arena_alloc(r->arena, (size_t)n_layers * n_gpus, sizeof *r->gpu_rows);
    r->layer_ns = mp_arena_alloc(r->arena, n_layers, sizeof *r->layer_ns);
    r->layer_imbalance = mp_arena_alloc(r->arena, n_layers, sizeof *r->layer_imbalance);
    const bool with_layers = options->with_layers && !options->is_pipelined;
    if (with_layers)
        r->step_layer_ns = mp_arena_alloc(r->arena, (size_t)n_steps * n_layers, sizeof *r->step_layer_ns);
    n_workers = options->n_threads < 1 ? 1 : options->n_threads > MP_MAX_THREADS ? MP_MAX_THREADS : options->n_threads;
    n_workers = n_workers > n_steps ? n_steps : n_workers;
    struct run run = {.setup = {.plan = plan,
                                .workload = workload,
                                .topology = topology,
                                .model = model,
                                .dispatcher = options->dispatcher,
                                .sources = options->sources,
                                .choice = options->choice},
                      .options = options,
                      .r = r,
                      .n_versions = n_versions,
                      .versions = versions,
                      .has_bound = options->with_bound && !options->is_pipelined && options->flow == NULL &&
                                   options->dispatcher->weights == MP_WEIGHTS_STAY};
    uint64_t *waits = wait_ns != NULL ? mp_arena_alloc(scratch, n_steps, sizeof *waits) : NULL;
    run.wait_ns = waits;
    run.routers = routers = mp_arena_alloc(scratch, n_versions, sizeof(struct mp_router *));
    run.steps = mp_arena_alloc(scratch, n_steps, sizeof *run.steps);
    run.imbalance = mp_arena_alloc(scratch, (size_t)n_steps * n_layers, sizeof *run.imbalance);
    run.workers = workers = mp_arena_alloc(scratch, n_workers, sizeof *workers);
    uint64_t *sorted = mp_arena_alloc(scratch, n_steps, sizeof *sorted);
    struct balance_sum *balance = mp_arena_alloc(scratch, n_steps, sizeof *balance);
    uint64_t *totals = mp_arena_alloc(scratch, (size_t)n_layers * n_gpus, sizeof *totals);
    if ((with_layers && r->step_layer_ns == NULL) || r->step_of == NULL || r->steps == NULL || r->gpu_rows == NULL ||
        r->layer_ns == NULL || r->layer_imbalance == NULL || run.steps == NULL || run.imbalance == NULL ||
        workers == NULL || sorted == NULL || balance == NULL || totals == NULL || routers == NULL ||
        (wait_ns != NULL && waits == NULL)) {
        status = mp_nomem(err, "a simulation");
        goto out;
    }
    for (uint32_t i = 0; i < n_steps; i++)
        r->step_of[i] = mp_mul_div(2 * (uint64_t)i + 1, workload->n_steps, 2 * (uint64_t)n_steps);
    if (wait_ns != NULL)
        spread_waits(waits, n_steps, wait_ns, workload->n_steps);
    for (uint32_t k = 0; k < n_versions; k++)
        MP_TRY(mp_router_new(&routers[k], versions[k].plan, err));
    run.setup.router = routers[0];
    for (uint32_t k = 0; k < n_workers; k++) {
        MP_TRY(mp_net_new(&workers[k].net, topology, err));
        MP_TRY(mp_traffic_new(&workers[k].traffic, n_gpus, err));
        workers[k].rows = mp_arena_alloc(scratch, (size_t)n_layers * n_gpus, sizeof *workers[k].rows);
        workers[k].layer_ns = mp_arena_alloc(scratch, n_layers, sizeof *workers[k].layer_ns);
        if (workers[k].rows == NULL || workers[k].layer_ns == NULL) {
            status = mp_nomem(err, "a simulation");
            goto out;
        }
        if (options->is_pipelined)
            MP_TRY(sim_pipelined_new(&workers[k], scratch, n_gpus, n_layers, err));
    }
    MP_TRY(mp_parallel_for_told(options->progress, "steps", n_workers, n_steps, sim_one_step, &run, err));
    reduce(&run, n_workers, sorted, balance, totals);
    memory_use(r, &run.setup);
out:
    for (uint32_t k = 0; workers != NULL && k < n_workers; k++) {
        mp_net_free(workers[k].net);
        mp_traffic_free(workers[k].traffic);
    }
    for (uint32_t k = 0; routers != NULL && k < n_versions; k++)
        mp_router_free(routers[k]);
    mp_arena_free(scratch);
    if (status == MP_OK)
        *out = r;
    else
        mp_sim_result_free(r);
    return status;
}

void mp_sim_result_free(struct mp_sim_result *r) {
    if (r == NULL)
        return;
    mp_arena_free(r->arena);
    mp_free(r);
}

double mp_sim_objective(const struct mp_sim_result *r, enum mp_objective objective) {
    switch (objective) {
    case MP_OBJECTIVE_P95:
        return (double)r->p95_ns;
    case MP_OBJECTIVE_PEAK:
        return r->balance.peak_rows;
    case MP_OBJECTIVE_INTER:
        return r->inter_bytes;
    case MP_OBJECTIVE_STEP:
    default:
        return (double)r->mean.step_ns;
    }
}
