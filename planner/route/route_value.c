/* What each layer takes over many steps with the routing that a plan has now.
 *
 * Decides   nothing.
 * Minimises -
 * Method    the simulator's own traffic and router, every transfer at its port bound; layers in parallel.
 * Bound     -
 * Differs   -
 * Cost      O(pairs) per call, some 20 ns each where copies are counted per token. */
#include "route_value.h"
#include <moeplan/base.h>

struct mp_route_value {
    const struct mp_problem *problem;
    const struct mp_workload *steps;
    uint32_t n_steps;
    bool is_dear;
    unsigned n_threads;
    struct mp_traffic **traffic; /* [n_threads] */
    struct mp_net **net;         /* [n_threads] */
    /* of the call */
    struct mp_cost_setup setup;
    const struct mp_layer_value *best;
    const bool *is_left_out;
    struct mp_layer_value *value;
};

void mp_route_value_free(struct mp_route_value *v) {
    if (v == NULL)
        return;
    for (unsigned i = 0; i < v->n_threads; i++) {
        if (v->traffic != NULL)
            mp_traffic_free(v->traffic[i]);
        if (v->net != NULL)
            mp_net_free(v->net[i]);
    }
    mp_free(v->traffic);
    mp_free(v->net);
    mp_free(v);
}

enum mp_status mp_route_value_new(struct mp_route_value **out, const struct mp_problem *problem,
                                  const struct mp_workload *steps, uint32_t steps_max, uint64_t pairs_max,
                                  struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_route_value *v = mp_calloc(1, sizeof *v);
    *out = NULL;
    if (v == NULL)
        return mp_nomem(err, "scoring routes");
    v->problem = problem;
    v->steps = steps;
    const uint64_t pairs =
        steps->n_rows / (steps->n_steps > 0 ? steps->n_steps : 1) * problem->model->top_k * steps->trace->n_layers;
    uint64_t n = pairs_max / (pairs > 0 ? pairs : 1);
    v->is_dear = n < 2;
    n = n < 2 ? 2 : n;
    n = n > steps_max ? steps_max : n;
    v->n_steps = n < steps->n_steps ? (uint32_t)n : steps->n_steps;
    v->n_threads = problem->n_threads > 1 ? problem->n_threads : 1;
    v->n_threads = v->n_threads > MP_MAX_THREADS ? MP_MAX_THREADS : v->n_threads;
    v->traffic = mp_calloc(v->n_threads, sizeof *v->traffic);
    v->net = mp_calloc(v->n_threads, sizeof *v->net);
    if (v->traffic == NULL || v->net == NULL)
        status = mp_nomem(err, "scoring routes");
    for (unsigned i = 0; i < v->n_threads && status == MP_OK; i++) {
        status = mp_traffic_new(&v->traffic[i], problem->topology->n_gpus, err);
        if (status == MP_OK)
            status = mp_net_new(&v->net[i], problem->topology, err);
    }
    if (status == MP_OK)
        *out = v;
    else
        mp_route_value_free(v);
    return status;
}

bool mp_route_value_is_dear(const struct mp_route_value *v) { return v->is_dear; }

static uint64_t step_value(const struct mp_route_value *v, const struct mp_traffic *x, struct mp_net *net) {
    const struct mp_problem *p = v->problem;
    const struct mp_topology *t = p->topology;
    uint64_t compute = 0, shared = 0, rows = 0;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const uint64_t c = mp_compute_ns(t, g, p->model, x->active[g], x->padded_rows[g]);
        const uint64_t s = mp_shared_ns(t, g, p->model, x->source_rows[g]);
        compute = c > compute ? c : compute;
        shared = s > shared ? s : shared;
        rows = x->rows[g] > rows ? x->rows[g] : rows;
    }
    if (p->objective == MP_OBJECTIVE_PEAK)
        return rows;
    if (p->objective == MP_OBJECTIVE_INTER)
        return x->inter_bytes;
    uint64_t dispatch = mp_net_port_bound(net, x->dispatch), combine = mp_net_port_bound(net, x->combine);
    if (x->has_second) {
        const uint64_t out = mp_net_port_bound(net, x->dispatch2), back = mp_net_port_bound(net, x->combine2);
        const bool is_overlapped = p->sim.dispatcher->is_overlapped;
        dispatch = !is_overlapped ? dispatch + out : dispatch > out ? dispatch : out;
        combine = !is_overlapped ? combine + back : combine > back ? combine : back;
    }
    const uint64_t launches = t->n_gpus > 1 ? p->sim.dispatcher->n_launches * t->launch_ns : 0;
    return (dispatch + launches > shared ? dispatch + launches : shared) + compute + combine + launches;
}

static enum mp_status layer_value(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    const struct mp_route_value *v = ctx;
    const struct mp_layer_value *best = v->best != NULL ? &v->best[i] : NULL;
    struct mp_layer_value *value = &v->value[i];
    const uint32_t n = v->n_steps, quarter = (n + 3) / 4;
    *value = (struct mp_layer_value){0, UINT64_MAX};
    if (v->is_left_out != NULL && v->is_left_out[i])
        return MP_OK;
    uint64_t sum = 0;
    uint32_t n_seen = 0;
    for (uint32_t first = 0; first < 4; first++) /* every fourth step, then those after them, ... */
        for (uint32_t k = first; k < n; k += 4) {
            const uint32_t step = (uint32_t)((2 * (uint64_t)k + 1) * v->steps->n_steps / (2 * (uint64_t)n));
            enum mp_status status = mp_traffic_compute(v->traffic[worker], &v->setup, step, (uint32_t)i, err);
            if (status != MP_OK)
                return status;
            sum += step_value(v, v->traffic[worker], v->net[worker]);
            if (++n_seen == quarter)
                value->quarter = sum;
            if (best == NULL || best->all == UINT64_MAX)
                continue;
            if (sum >= best->all || (n_seen == quarter && sum - sum / 100 > best->quarter))
                return MP_OK;
        }
    value->all = sum;
    return MP_OK;
}

enum mp_status mp_route_value_of(struct mp_route_value *v, const struct mp_plan *plan,
                                 const struct mp_layer_value *best, const bool *is_left_out,
                                 struct mp_layer_value *value, struct mp_error *err) {
    const struct mp_problem *p = v->problem;
    struct mp_router *router;
    enum mp_status status = mp_router_new(&router, plan, err);
    if (status != MP_OK)
        return status;
    v->setup = (struct mp_cost_setup){.plan = plan,
                                      .router = router,
                                      .workload = v->steps,
                                      .topology = p->topology,
                                      .model = p->model,
                                      .dispatcher = p->sim.dispatcher,
                                      .sources = p->sim.sources};
    v->best = best;
    v->is_left_out = is_left_out;
    v->value = value;
    status = mp_parallel_for(v->n_threads, plan->n_layers, layer_value, v, err);
    mp_router_free(router);
    return status;
}
