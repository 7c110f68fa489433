/* Shifted rounds.
 *
 * Decides   the order of transfers: n - 1 stages, in stage k GPU i sends its whole flow to GPU (i + k) mod n; the
 *           combine runs them backwards. Only for layers where it pays; all others stay single shot.
 * Minimises the simulated time of each layer, launches included, over the planning steps.
 * Method    every layer simulated both ways; staged where the mean time is below.
 * Bound     none: a stage waits for its largest flow, so skew costs up to n - 1 times.
 * Differs   the papers' spread-out baseline uses it everywhere.
 * Paper     spread-out all-to-all of MPI practice: R. Thakur, R. Rabenseifner, W. Gropp, IJHPCA 19(1), 2005.
 * Cost      two simulations of at most 64 planning steps; declines nothing. */
#include "planner.h"

/* The stages "+1" .. "+(n-1)". */
static struct mp_order *make_order(const struct mp_plan *p) {
    uint32_t n = p->n_gpus;
    struct mp_order *order = mp_arena_alloc(p->arena, 1, sizeof *order);
    struct mp_stage *stages = mp_arena_alloc(p->arena, n - 1, sizeof *stages);
    struct mp_transfer *transfers = mp_arena_alloc(p->arena, (size_t)n * (n - 1), sizeof *transfers);
    if (order == NULL || stages == NULL || transfers == NULL)
        return NULL;
    for (uint32_t k = 1; k < n; k++) {
        struct mp_transfer *t = transfers + (size_t)(k - 1) * n;
        for (uint32_t i = 0; i < n; i++)
            t[i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + k) % n), 1};
        stages[k - 1] = (struct mp_stage){n, t};
    }
    *order = (struct mp_order){.name = "shifted", .unit = 1, .ports = 1, .n_stages = n - 1, .stages = stages};
    return order;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget, (void)scratch;
    struct mp_plan *p = draft->plan;
    struct mp_sim_result *single = NULL, *staged = NULL;
    enum mp_status status = MP_OK;
    *outcome = MP_FOUND;
    if (p->n_gpus < 2)
        return MP_OK;
    MP_TRY(mp_score(&single, p, in, &draft->work_used, err));
    struct mp_order *order = make_order(p);
    if (order == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    p->orders = order;
    p->n_orders = 1;
    p->stage_mode = MP_STAGE_COUPLED;
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
    return status;
}

const struct mp_strategy mp_strategy_order_shifted = {.name = "shifted",
                                                      .summary = "rounds of one peer each, in layers where that pays",
                                                      .reference = "Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005",
                                                      .stage = MP_PLAN_ORDER,
                                                      .solve = solve};
