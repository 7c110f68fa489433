/* One matrix in order: running a strategy, timing what it made, and what no order can beat. */
#include "planner.h"
#include <moeplan/base.h>

bool mp_order_is_stopped(const struct mp_budget *budget) {
    struct mp_spent *spent = budget != NULL ? budget->spent : NULL;
    if (spent == NULL || spent->is_stopped)
        return spent != NULL;
    if (budget->work_limit > 0 && spent->work >= budget->work_limit)
        spent->is_stopped = true;
    if (budget->wall_seconds > 0) {
        const double now = mp_now_seconds();
        spent->started = spent->started > 0 ? spent->started : now;
        if (now - spent->started > budget->wall_seconds) {
            spent->is_stopped = true;
            if (budget->wall_struck != NULL)
                *budget->wall_struck = true;
        }
    }
    return spent->is_stopped;
}

bool mp_order_spend(const struct mp_budget *budget) {
    if (mp_order_is_stopped(budget))
        return false;
    if (budget != NULL && budget->spent != NULL)
        budget->spent->work++;
    return true;
}

/* Times are rounded to ns, and the simulator takes rates for equal within 10^-12. */
bool mp_order_gains(uint64_t time_ns, uint64_t single_ns) {
    const uint64_t rounding = 1 + (single_ns >> 36);
    return time_ns < single_ns && single_ns - time_ns > rounding;
}

enum mp_status mp_order_run(const struct mp_strategy *s, const struct mp_order_problem *in, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_arena *scratch = mp_arena_new();
    struct mp_order_problem problem = *in;
    enum mp_status status = MP_OK;
    mp_schedule_init(out, in->topology->n_gpus);
    if (scratch == NULL)
        return mp_nomem(err, "ordering transfers");
    if (problem.option_values == NULL)
        MP_TRY(mp_option_values(&problem.option_values, s, in->settings, in->n_settings, scratch, err));
    MP_TRY(s->order(&problem, scratch, out, outcome, err));
    if (*outcome == MP_FOUND && in->budget != NULL && in->budget->spent != NULL && in->budget->spent->is_stopped)
        *outcome = MP_STOPPED;
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

bool mp_order_counts_return(const struct mp_order_problem *in) {
    for (uint32_t l = 0; l < in->topology->n_levels && in->is_both_ways; l++)
        if (in->topology->levels[l].n_incast > 0)
            return true;
    return false;
}

void mp_transpose(uint64_t *out, const uint64_t *matrix, size_t n) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            out[j * n + i] = matrix[i * n + j];
}

static enum mp_status run_once(const struct mp_order_problem *in, const struct mp_order *order, enum mp_combine way,
                               const uint64_t *matrix, uint64_t *time_ns, struct mp_error *err) {
    return order == NULL ? mp_net_concurrent(in->net, matrix, time_ns, NULL, err)
                         : mp_net_staged(in->net, order, way, in->mode, matrix, time_ns, err);
}

enum mp_status mp_order_time(const struct mp_order_problem *in, const struct mp_order *order, uint64_t *time_ns,
                             struct mp_error *err) {
    const size_t n = in->topology->n_gpus;
    uint64_t *back = NULL, back_ns;
    enum mp_status status;
    MP_TRY(run_once(in, order, MP_COMBINE_FORWARD, in->matrix, time_ns, err));
    if (!mp_order_counts_return(in))
        goto out;
    back = mp_calloc(n * n, sizeof *back);
    if (back == NULL) {
        status = mp_nomem(err, "timing an order");
        goto out;
    }
    mp_transpose(back, in->matrix, n);
    const bool is_nodes = order != NULL && order->between_nodes;
    MP_TRY(run_once(in, order, is_nodes ? MP_COMBINE_REVERSED : MP_COMBINE_SWAPPED, back, &back_ns, err));
    *time_ns = *time_ns / 2 + back_ns / 2 + (*time_ns % 2 + back_ns % 2 + 1) / 2;
out:
    mp_free(back);
    return status;
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
        MP_TRY(mp_order_time(in, NULL, time_ns, err));
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
    status = mp_order_time(in, &order, time_ns, err);
out:
    mp_arena_free(arena);
    mp_free(nodes);
    return status;
}

uint64_t mp_order_floor(const struct mp_order_problem *in) {
    const struct mp_topology *t = in->topology;
    uint64_t ports = mp_net_port_bound(in->net, in->matrix), latency = t->levels[0].latency_ns;
    if (ports == 0)
        return 0;
    if (mp_topology_n_nodes(t) > 1) {
        uint64_t relay = mp_relay_bound_ns(t, in->matrix);
        ports = relay < 1 ? 1 : relay < ports ? relay : ports;
    }
    for (uint32_t l = 1; l < t->n_levels; l++)
        latency = t->levels[l].latency_ns < latency ? t->levels[l].latency_ns : latency;
    return ports - 1 + latency + t->stage_launch_ns; /* times are rounded, by less than 1 ns */
}
