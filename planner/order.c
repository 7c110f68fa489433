/* Orders for the layers of a plan.
 *
 * Decides   which layers run their dispatch and combine in stages, and in which.
 * Minimises the simulated time of each layer, launches included, over the planning steps.
 * Method    the strategy is given the bytes of the dispatch summed over the planning steps and all layers; every layer
 * is simulated both ways and staged where the mean time is below. The combine runs the stages backwards.
 * Cost      one order, two simulations of the scoring steps. */
#include "planner.h"
#include <moeplan/base.h>
#include <string.h>

#define SHARE_UNIT 65536u /* shares of a plan's flows */

enum mp_status mp_order_run(const struct mp_strategy *s, const struct mp_order_problem *in, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_arena *scratch = mp_arena_new();
    struct mp_order_problem problem = *in;
    enum mp_status status = MP_OK;
    mp_schedule_init(out, in->topology->n_gpus);
    if (scratch == NULL)
        return mp_nomem(err, "ordering transfers");
    size_t n_options = 0;
    while (s->options != NULL && s->options[n_options].name != NULL)
        n_options++;
    if (n_options > 0 && problem.option_values == NULL) {
        int64_t *values = mp_arena_alloc(scratch, n_options, sizeof *values);
        if (values == NULL) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
        for (size_t i = 0; i < n_options; i++)
            values[i] = s->options[i].default_value;
        problem.option_values = values;
    }
    MP_TRY(s->order(&problem, scratch, out, outcome, err));
    if (*outcome != MP_FOUND && *outcome != MP_STOPPED)
        goto out;
    mp_schedule_finish(out);
    if (out->n_stages == 0)
        goto out;
    if (out->between_nodes) {
        uint64_t *nodes = mp_arena_alloc(scratch, (size_t)out->n * out->n, sizeof *nodes);
        if (nodes == NULL) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
        mp_node_matrix(in->topology, in->matrix, nodes);
        status = mp_schedule_check(out, nodes, err);
    } else {
        status = mp_schedule_check(out, in->matrix, err);
    }
out:
    mp_arena_free(scratch);
    return status;
}

static uint64_t largest(const uint64_t *matrix, size_t n) {
    uint64_t most = 1;
    for (size_t i = 0; i < n * n; i++)
        most = i / n != i % n && matrix[i] > most ? matrix[i] : most;
    return most;
}

enum mp_status mp_schedule_time(const struct mp_schedule *s, const struct mp_order_problem *in, uint64_t *time_ns,
                                struct mp_error *err) {
    const uint32_t n_gpus = in->topology->n_gpus;
    struct mp_arena *arena = NULL;
    uint64_t *nodes = NULL;
    const uint64_t *matrix = in->matrix;
    struct mp_order order;
    enum mp_status status = MP_OK;
    if (s->n_stages == 0) {
        MP_TRY(mp_net_concurrent(in->net, in->matrix, time_ns, NULL, err));
        *time_ns += *time_ns > 0 ? in->topology->launch_ns : 0;
        goto out;
    }
    arena = mp_arena_new();
    nodes = s->between_nodes ? mp_calloc((size_t)s->n * s->n, sizeof *nodes) : NULL;
    if (arena == NULL || (s->between_nodes && nodes == NULL)) {
        status = mp_nomem(err, "timing an order");
        goto out;
    }
    if (s->between_nodes) {
        mp_node_matrix(in->topology, in->matrix, nodes);
        matrix = nodes;
    }
    uint64_t unit = largest(matrix, s->between_nodes ? s->n : n_gpus);
    unit = unit < UINT32_MAX ? unit : UINT32_MAX;
    MP_TRY(mp_schedule_order(&order, s, matrix, (uint32_t)unit, "", arena, err));
    status = mp_net_staged(in->net, &order, false, in->mode, in->matrix, time_ns, err);
out:
    mp_arena_free(arena);
    mp_free(nodes);
    return status;
}

/* Bytes per second of the distinct ports of one side of GPU g from level `from` on; those in `seen` (n_seen of them)
 * do not count again. */
static uint64_t ports_of(const struct mp_topology *t, uint32_t g, bool is_in, uint32_t from, uint32_t *seen,
                         uint32_t *n_seen) {
    const uint32_t *port = is_in ? t->gpus[g].in_port : t->gpus[g].out_port;
    uint64_t rate = 0;
    for (uint32_t l = from; l < t->n_levels; l++) {
        bool is_known = port[l] >= t->n_resources;
        for (uint32_t k = 0; k < *n_seen && !is_known; k++)
            is_known = seen[k] == port[l];
        if (is_known || *n_seen == MP_MAX_LEVELS)
            continue;
        seen[(*n_seen)++] = port[l];
        if (mp_add_overflow(rate, t->resources[port[l]].bytes_per_s, &rate))
            return UINT64_MAX;
    }
    return rate;
}

/* What passes each GPU's ports, whoever relays it. */
static uint64_t relay_floor(const struct mp_topology *t, const uint64_t *matrix) {
    const size_t n = t->n_gpus;
    uint64_t most = 0;
    for (uint32_t g = 0; g < n; g++)
        for (int is_in = 0; is_in < 2; is_in++) {
            uint64_t bytes = 0;
            uint32_t seen[MP_MAX_LEVELS], n_seen = 0;
            for (size_t j = 0; j < n; j++) {
                uint64_t b = j == g ? 0 : matrix[is_in ? j * n + g : g * n + j];
                if (mp_add_overflow(bytes, b, &bytes))
                    bytes = UINT64_MAX;
            }
            uint64_t rate = ports_of(t, g, is_in == 1, 0, seen, &n_seen);
            uint64_t ns = rate > 0 ? mp_mul_div(bytes, UINT64_C(1000000000), rate) : 0;
            most = ns > most ? ns : most;
        }
    return most;
}

uint64_t mp_order_floor(const struct mp_order_problem *in) {
    const struct mp_topology *t = in->topology;
    uint64_t ports = mp_net_port_bound(in->net, in->matrix), latency = t->levels[0].latency_ns;
    if (ports == 0)
        return 0;
    if (mp_topology_n_nodes(t) > 1) {
        uint64_t relay = relay_floor(t, in->matrix);
        ports = relay < ports ? relay : ports;
    }
    for (uint32_t l = 1; l < t->n_levels; l++)
        latency = t->levels[l].latency_ns < latency ? t->levels[l].latency_ns : latency;
    return ports - 1 + latency + t->stage_launch_ns; /* times are rounded, by less than 1 ns */
}

/* Bytes of the dispatch, summed over layers and planning steps. */
static enum mp_status sum_matrix(uint64_t *matrix, const struct mp_problem *in, const struct mp_plan *p,
                                 struct mp_error *err) {
    struct mp_router *router = NULL;
    struct mp_traffic *traffic = NULL;
    enum mp_status status;
    MP_TRY(mp_router_new(&router, p, err));
    MP_TRY(mp_traffic_new(&traffic, p->n_gpus, err));
    struct mp_cost_setup setup = {.plan = p,
                                  .router = router,
                                  .workload = in->workload,
                                  .topology = in->topology,
                                  .model = in->model,
                                  .dispatcher = in->sim.dispatcher,
                                  .sources = in->sim.sources};
    for (uint32_t s = 0; s < in->workload->n_steps; s++)
        for (uint32_t l = 0; l < p->n_layers; l++) {
            MP_TRY(mp_traffic_compute(traffic, &setup, s, l, err));
            for (size_t i = 0; i < (size_t)p->n_gpus * p->n_gpus; i++)
                matrix[i] += traffic->dispatch[i];
        }
out:
    mp_traffic_free(traffic);
    mp_router_free(router);
    return status;
}

enum mp_status mp_plan_order(const struct mp_strategy *s, const struct mp_problem *in, struct mp_draft *draft,
                             enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct mp_sim_result *single = NULL, *staged = NULL;
    struct mp_schedule schedule = {0};
    struct mp_net *net = NULL;
    uint64_t *matrix = NULL, *nodes = NULL;
    enum mp_status status = MP_OK;
    *outcome = MP_FOUND;
    for (uint32_t l = 0; l < p->n_layers; l++)
        p->layers[l].order = MP_NONE;
    if (p->n_gpus < 2 || strcmp(s->name, "single") == 0)
        return MP_OK;
    matrix = mp_calloc((size_t)p->n_gpus * p->n_gpus, sizeof *matrix);
    nodes = mp_calloc((size_t)p->n_gpus * p->n_gpus, sizeof *nodes);
    struct mp_order *order = mp_arena_alloc(p->arena, 1, sizeof *order);
    if (matrix == NULL || nodes == NULL || order == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    MP_TRY(mp_net_new(&net, in->topology, err));
    MP_TRY(sum_matrix(matrix, in, p, err));
    struct mp_order_problem problem = {.topology = in->topology,
                                       .matrix = matrix,
                                       .net = net,
                                       .mode = in->stage_mode,
                                       .can_pace = in->can_pace,
                                       .seed = in->seed};
    MP_TRY(mp_order_run(s, &problem, &schedule, outcome, err));
    if (*outcome != MP_FOUND || schedule.n_stages == 0)
        goto out;
    if (schedule.between_nodes)
        mp_node_matrix(in->topology, matrix, nodes);
    MP_TRY(mp_schedule_order(order, &schedule, schedule.between_nodes ? nodes : matrix, SHARE_UNIT, s->name, p->arena,
                             err));
    MP_TRY(mp_score(&single, p, in, &draft->work_used, err));
    p->orders = order;
    p->n_orders = 1;
    p->stage_mode = in->stage_mode;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        p->layers[l].order = 0;
        p->layers[l].combine_reversed = true;
    }
    MP_TRY(mp_score(&staged, p, in, &draft->work_used, err));
    uint32_t n_staged = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (staged->layer_ns[l] < single->layer_ns[l]) {
            n_staged++;
        } else {
            p->layers[l].order = MP_NONE;
            p->layers[l].combine_reversed = false;
        }
    }
    if (n_staged == 0) {
        p->n_orders = 0;
        p->orders = NULL;
    }
out:
    mp_sim_result_free(single);
    mp_sim_result_free(staged);
    mp_schedule_free(&schedule);
    mp_net_free(net);
    mp_free(matrix);
    mp_free(nodes);
    return status;
}
