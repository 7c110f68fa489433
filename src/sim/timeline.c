/* One step, event by event: the simulator's own times laid one behind the other. docs/COST.md part 6 says what follows
 * what; nothing is computed anew but each GPU's share of a layer's times. */
#include "simulate.h"

static enum mp_status add(struct mp_timeline *t, const struct mp_timeline_event *e, struct mp_error *err) {
    if (e->end_ns <= e->start_ns)
        return MP_OK;
    if (t->n == t->n_allocated) {
        size_t n = 2 * t->n_allocated + 256;
        struct mp_timeline_event *grown = mp_realloc(t->events, n, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a timeline");
        t->events = grown;
        t->n_allocated = n;
    }
    t->events[t->n++] = *e;
    return MP_OK;
}

/* An event of the step itself. */
static enum mp_status add_part(struct mp_timeline *t, enum mp_timeline_kind kind, uint32_t layer, uint64_t *at,
                               uint64_t ns, struct mp_error *err) {
    struct mp_timeline_event e = {kind, layer, MP_NONE, MP_NONE, MP_NONE, false, 0, *at, *at + ns};
    *at += ns;
    return add(t, &e, err);
}

/* What a GPU computes from `at` on; MP_NONE is no peer. */
static enum mp_status add_work(struct mp_timeline *t, enum mp_timeline_kind kind, uint32_t layer, uint32_t gpu,
                               uint64_t rows, uint64_t at, uint64_t ns, struct mp_error *err) {
    struct mp_timeline_event e = {kind, layer, gpu, MP_NONE, MP_NONE, false, rows, at, at + ns};
    return add(t, &e, err);
}

/* The logged transfers of one direction, which lasts from `at` to `end`. */
static enum mp_status add_transfers(struct mp_timeline *t, const struct worker *w, bool is_combine, uint32_t layer,
                                    bool is_overlapped, uint64_t at, uint64_t end, struct mp_error *err) {
    const struct sim_seen *s = &w->seen[is_combine];
    /* Launches come first; phases that do not overlap follow each other, in the combine the one inside nodes first. */
    uint64_t first = at + s->launch_ns + (is_combine && !is_overlapped ? s->second_ns : 0);
    uint64_t second = at + s->launch_ns + (!is_combine && !is_overlapped ? s->first_ns : 0);
    enum mp_status status = MP_OK;
    for (size_t i = is_combine ? w->seen[0].n_all : 0; i < s->n_all && status == MP_OK; i++) {
        const struct mp_net_transfer *x = &w->log.transfers[i];
        bool is_second = i >= s->n_first;
        uint64_t from = is_second ? second : first;
        struct mp_timeline_event e = {is_combine ? MP_TIME_COMBINE : MP_TIME_DISPATCH,
                                      layer,
                                      x->src,
                                      x->dst,
                                      s->is_staged && !is_second ? x->stage : MP_NONE,
                                      is_second,
                                      x->bytes,
                                      from + sane(x->start_ns),
                                      from + sane(x->end_ns)};
        e.end_ns = e.end_ns < end ? e.end_ns : end; /* a time that was cut off at 2^52 */
        status = add(t, &e, err);
    }
    return status;
}

enum mp_status sim_timeline_layer(const struct run *run, struct worker *w, uint32_t layer, const struct sim_layer *l,
                                  struct mp_error *err) {
    struct mp_timeline *t = run->timeline;
    const struct mp_topology *topology = run->setup.topology;
    const struct mp_model *m = run->setup.model;
    const struct mp_traffic *x = w->traffic;
    const bool is_overlapped = run->setup.dispatcher->is_overlapped;
    const uint64_t excess = l->shared_ns > l->dispatch_ns ? l->shared_ns - l->dispatch_ns : 0;
    const uint64_t n_dense = l->n_attention - 1;
    uint64_t at = t->times.step_ns, dense = at, attention, dispatch, experts, combine;
    enum mp_status status = MP_OK;
    MP_TRY(add_part(t, MP_TIME_DENSE, layer, &at, l->attention_ns * n_dense, err));
    attention = at;
    MP_TRY(add_part(t, MP_TIME_ATTENTION, layer, &at, l->attention_ns, err));
    dispatch = at;
    MP_TRY(add_part(t, MP_TIME_DISPATCH, layer, &at, l->dispatch_ns, err));
    MP_TRY(add_part(t, MP_TIME_SHARED, layer, &at, excess, err));
    experts = at;
    MP_TRY(add_part(t, MP_TIME_EXPERTS, layer, &at, l->compute_ns, err));
    combine = at;
    MP_TRY(add_part(t, MP_TIME_COMBINE, layer, &at, l->combine_ns, err));
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        uint64_t rows = x->source_rows[g], a = sane(mp_layer_attention_ns(&run->setup, x, g));
        MP_TRY(add_work(t, MP_TIME_DENSE, layer, g, rows, dense, a * n_dense, err));
        MP_TRY(add_work(t, MP_TIME_ATTENTION, layer, g, rows, attention, a, err));
        MP_TRY(add_work(t, MP_TIME_SHARED, layer, g, rows, dispatch, sane(mp_shared_ns(topology, g, m, rows)), err));
        MP_TRY(add_work(t, MP_TIME_EXPERTS, layer, g, x->rows[g], experts,
                        sane(mp_compute_ns(topology, g, m, x->active[g], x->padded_rows[g])), err));
    }
    MP_TRY(add_transfers(t, w, false, layer, is_overlapped, dispatch, dispatch + l->dispatch_ns, err));
    MP_TRY(add_transfers(t, w, true, layer, is_overlapped, combine, combine + l->combine_ns, err));
    t->times.step_ns = at;
out:
    w->log.n = 0;
    return status;
}

enum mp_status sim_timeline_clocks(const struct run *run, struct worker *w, uint32_t layer, uint64_t n_attention,
                                   struct mp_error *err) {
    struct mp_timeline *t = run->timeline;
    const struct mp_topology *topology = run->setup.topology;
    const struct mp_model *m = run->setup.model;
    const struct mp_traffic *x = w->traffic;
    const struct sim_ends *ends = w->clocks.ends + (size_t)layer * t->n_gpus;
    enum mp_status status = MP_OK;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct sim_ends *e = &ends[g];
        const uint64_t rows = x->source_rows[g], a = sane(mp_layer_attention_ns(&run->setup, x, g));
        MP_TRY(add_work(t, MP_TIME_DENSE, layer, g, rows, e->attention - n_attention * a, (n_attention - 1) * a, err));
        MP_TRY(add_work(t, MP_TIME_ATTENTION, layer, g, rows, e->attention - a, a, err));
        MP_TRY(
            add_work(t, MP_TIME_SHARED, layer, g, rows, e->attention, sane(mp_shared_ns(topology, g, m, rows)), err));
        MP_TRY(add_work(t, MP_TIME_EXPERTS, layer, g, x->rows[g], e->shared, e->experts - e->shared, err));
    }
    for (size_t i = 0; i < w->log.n; i++) {
        const bool is_combine = i >= w->seen[0].n_all;
        const struct sim_seen *s = &w->seen[is_combine];
        const struct mp_net_transfer *r = &w->log.transfers[i];
        const bool is_second = i < s->first_from || i >= s->first_to;
        MP_TRY(add(t,
                   &(struct mp_timeline_event){is_combine ? MP_TIME_COMBINE : MP_TIME_DISPATCH, layer, r->src, r->dst,
                                               s->is_staged && !is_second ? r->stage : MP_NONE, is_second, r->bytes,
                                               r->start_ns, r->end_ns},
                   err));
    }
out:
    w->log.n = 0;
    return status;
}

enum mp_status sim_timeline_last(const struct run *run, struct worker *w, uint64_t n_attention, struct mp_error *err) {
    struct mp_timeline *t = run->timeline;
    const uint32_t last = sim_pipelined_last(w, t->n_gpus);
    uint64_t at = 0;
    enum mp_status status = MP_OK;
    for (uint32_t l = 0; l < t->n_layers; l++, n_attention = 1) {
        const struct sim_ends *e = &w->clocks.ends[(size_t)l * t->n_gpus + last];
        const uint64_t attention = (e->attention - at) / n_attention;
        MP_TRY(add_part(t, MP_TIME_DENSE, l, &at, attention * (n_attention - 1), err));
        MP_TRY(add_part(t, MP_TIME_ATTENTION, l, &at, e->attention - at, err));
        MP_TRY(add_part(t, MP_TIME_DISPATCH, l, &at, e->dispatch - at, err));
        MP_TRY(add_part(t, MP_TIME_SHARED, l, &at, e->shared - at, err));
        MP_TRY(add_part(t, MP_TIME_EXPERTS, l, &at, e->experts - at, err));
        MP_TRY(add_part(t, MP_TIME_COMBINE, l, &at, e->combine - at, err));
    }
    t->times.step_ns = at;
out:
    return status;
}

void mp_timeline_free(struct mp_timeline *t) {
    if (t == NULL)
        return;
    mp_free(t->events);
    mp_free(t);
}

enum mp_status mp_simulate_timeline(struct mp_timeline **out, const struct mp_plan *plan,
                                    const struct mp_workload *workload, const struct mp_topology *topology,
                                    const struct mp_model *model, const struct mp_sim_options *options, uint32_t step,
                                    struct mp_error *err) {
    *out = NULL;
    enum mp_status status = MP_OK;
    struct mp_router *router = NULL;
    struct mp_arena *scratch = NULL;
    struct mp_timeline *t = NULL;
    struct worker worker = {0};
    struct step_out step_out = {0};
    struct mp_step_times times = {0};
    uint64_t step_of = step;
    struct mp_sim_result r = {.n_steps = 1, .n_layers = plan->n_layers, .n_gpus = plan->n_gpus};
    if (options->dispatcher == NULL)
        return mp_fail(err, MP_EUSAGE, "no dispatcher is given");
    if (options->is_pipelined && options->network != MP_NETWORK_PLAN && options->network != MP_NETWORK_CONCURRENT)
        return mp_fail(err, MP_EUSAGE,
                       "the papers' baselines have no clocks to lay out (write --timeline barrier, or --network plan)");
    if (step >= workload->n_steps)
        return mp_fail(err, MP_EUSAGE, "there is no step %u: the steps are 0 to %u", step, workload->n_steps - 1);
    r.step_of = &step_of;
    r.steps = &times;
    t = mp_calloc(1, sizeof *t);
    scratch = mp_arena_new();
    if (t == NULL || scratch == NULL) {
        status = mp_nomem(err, "a timeline");
        goto out;
    }
    t->n_layers = plan->n_layers;
    t->n_gpus = plan->n_gpus;
    worker.rows = mp_arena_alloc(scratch, (size_t)plan->n_layers * plan->n_gpus, sizeof *worker.rows);
    worker.layer_ns = mp_arena_alloc(scratch, plan->n_layers, sizeof *worker.layer_ns);
    double *imbalance = mp_arena_alloc(scratch, plan->n_layers, sizeof *imbalance);
    if (worker.rows == NULL || worker.layer_ns == NULL || imbalance == NULL) {
        status = mp_nomem(err, "a timeline");
        goto out;
    }
    MP_TRY(mp_router_new(&router, plan, err));
    MP_TRY(mp_net_new(&worker.net, topology, err));
    MP_TRY(mp_traffic_new(&worker.traffic, plan->n_gpus, err));
    mp_net_log_to(worker.net, &worker.log);
    if (options->is_pipelined) {
        MP_TRY(sim_pipelined_new(&worker, scratch, plan->n_gpus, plan->n_layers, err));
        worker.clocks.ends = mp_arena_alloc(scratch, (size_t)plan->n_layers * plan->n_gpus, sizeof *worker.clocks.ends);
        if (worker.clocks.ends == NULL) {
            status = mp_nomem(err, "a timeline");
            goto out;
        }
    }
    struct run run = {.setup = {.plan = plan,
                                .router = router,
                                .workload = workload,
                                .topology = topology,
                                .model = model,
                                .dispatcher = options->dispatcher,
                                .sources = options->sources,
                                .choice = options->choice},
                      .options = options,
                      .r = &r,
                      .steps = &step_out,
                      .imbalance = imbalance,
                      .workers = &worker,
                      .timeline = t};
    MP_TRY(sim_one_step(&run, 0, 0, err));
    MP_TRY(add_part(t, MP_TIME_OTHER, MP_NONE, &t->times.step_ns, model->other_ns_per_step, err));
    if (t->times.step_ns != times.step_ns)
        status = mp_fail(err, MP_EBUG, "the timeline ends at %llu ns, the step takes %llu",
                         (unsigned long long)t->times.step_ns, (unsigned long long)times.step_ns);
    t->times = times;
out:
    mp_net_log_free(&worker.log);
    mp_net_free(worker.net);
    mp_traffic_free(worker.traffic);
    mp_router_free(router);
    mp_arena_free(scratch);
    if (status == MP_OK)
        *out = t;
    else
        mp_timeline_free(t);
    return status;
}
