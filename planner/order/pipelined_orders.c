/* Orders in a step without barriers.
 *
 * Decides    which of the orders that pay with barriers stay in a plan chosen by the pipelined reading (docs/COST.md
 *            part 6).
 * Minimises  the mean pipelined step, all layers together: there a layer has no time of its own.
 * Method     in a pipelined step a single shot lets every GPU go on when its own part has ended, so orders gain less
 *            there than with barriers, and layers can wait for each other's. The plan is simulated as it is; then for
 *            each order, the one of fewest layers first, with its layers in one shot, and the order goes where that is
 *            no slower. What is left has to be faster than single shots everywhere on all planning steps.
 * Bound      in the pipelined reading no slower on the planning steps than the same plan with single shots.
 * Differs    from the choice with barriers (order_layers.c), which proposes the orders: one that does not pay there is
 *            not looked at.
 * Cost       two simulations of all planning steps, and one of the scoring steps for each order and one more. */
#include "planner.h"
#include <string.h>

static enum mp_status mean_step(uint64_t *ns, const struct mp_plan *plan, const struct mp_problem *in,
                                uint32_t n_steps_max, uint64_t *work, struct mp_error *err) {
    struct mp_sim_options options = in->sim;
    struct mp_sim_result *r;
    options.network = MP_NETWORK_PLAN;
    options.stage_mode = -1;
    options.no_pacing = options.with_bound = false;
    options.is_pipelined = true;
    options.n_threads = in->n_threads;
    options.n_steps_max = n_steps_max;
    enum mp_status status = mp_simulate(&r, plan, in->workload, in->topology, in->model, &options, err);
    if (status != MP_OK)
        return status;
    *ns = r->mean.step_ns;
    *work += (uint64_t)r->n_steps * plan->n_layers;
    mp_sim_result_free(r);
    return MP_OK;
}

/* The layers of order `order` (MP_NONE: of every order) in one shot; put_back: as they were in `before`. */
static void send_at_once(struct mp_plan *plan, uint32_t order) {
    for (uint32_t l = 0; l < plan->n_layers; l++)
        if (order == MP_NONE || plan->layers[l].order == order) {
            plan->layers[l].order = MP_NONE;
            plan->layers[l].combine = MP_COMBINE_FORWARD;
        }
}
static void put_back(struct mp_plan *plan, const struct mp_plan_layer *before) {
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        plan->layers[l].order = before[l].order;
        plan->layers[l].combine = before[l].combine;
    }
}

static uint32_t n_users(const struct mp_plan *plan, uint32_t order) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < plan->n_layers; l++)
        n += plan->layers[l].order == order;
    return n;
}

/* Orders that no layer uses any more leave the plan. */
static enum mp_status compact(struct mp_plan *plan, struct mp_error *err) {
    uint32_t kept = 0;
    struct mp_order *orders = mp_arena_alloc(plan->arena, plan->n_orders, sizeof *orders);
    if (orders == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t k = 0; k < plan->n_orders; k++) {
        if (n_users(plan, k) == 0)
            continue;
        for (uint32_t l = 0; l < plan->n_layers; l++)
            if (plan->layers[l].order == k)
                plan->layers[l].order = kept;
        orders[kept++] = plan->orders[k];
    }
    plan->orders = kept > 0 ? orders : NULL;
    plan->n_orders = kept;
    if (kept == 0) { /* as if none had been made */
        plan->fallback_ppm = 0;
        plan->stage_mode = MP_STAGE_FREE;
    }
    return MP_OK;
}

enum mp_status mp_keep_pipelined_orders(struct mp_plan *plan, const struct mp_problem *in,
                                        const struct mp_budget *budget, uint64_t *work, struct mp_error *err) {
    const uint32_t n_scoring = mp_scoring_steps(in);
    uint64_t best_ns, ns, single_ns;
    struct mp_arena *scratch = NULL;
    enum mp_status status = MP_OK;
    if (plan->n_orders == 0)
        return MP_OK;
    scratch = mp_arena_new();
    struct mp_plan_layer *before = scratch == NULL ? NULL : mp_arena_alloc(scratch, plan->n_layers, sizeof *before);
    bool *is_seen = scratch == NULL ? NULL : mp_arena_alloc(scratch, plan->n_orders, sizeof *is_seen);
    if (before == NULL || is_seen == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    MP_TRY(mean_step(&best_ns, plan, in, n_scoring, work, err));
    for (uint32_t i = 0; i < plan->n_orders; i++) {
        uint32_t order = MP_NONE;
        for (uint32_t k = 0; k < plan->n_orders; k++)
            if (!is_seen[k] && (order == MP_NONE || n_users(plan, k) < n_users(plan, order)))
                order = k;
        is_seen[order] = true;
        if (n_users(plan, order) == 0 || (budget->work_limit > 0 && *work >= budget->work_limit))
            continue;
        memcpy(before, plan->layers, plan->n_layers * sizeof *before);
        send_at_once(plan, order);
        MP_TRY(mean_step(&ns, plan, in, n_scoring, work, err));
        if (ns <= best_ns)
            best_ns = ns;
        else
            put_back(plan, before);
    }
    MP_TRY(mean_step(&ns, plan, in, 0, work, err));
    memcpy(before, plan->layers, plan->n_layers * sizeof *before);
    send_at_once(plan, MP_NONE);
    MP_TRY(mean_step(&single_ns, plan, in, 0, work, err));
    if (ns < single_ns)
        put_back(plan, before);
    status = compact(plan, err);
out:
    mp_arena_free(scratch);
    return status;
}
