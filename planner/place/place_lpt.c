/* Longest-processing-time placement.
 *
 * Decides   expert -> GPU.
 * Minimises max over GPUs of load * time per row, load = sum of each expert's rows over its replicas.
 * Method    sort copies by load per replica (ties: lower id), give each to the GPU that would be done first with it
 *           (ties: lower id) among those that have room and do not hold the expert. Time per row of a GPU is its
 *           share of an average step in the compute model, so that slower GPUs get less. Experts ascending inside a
 *           GPU.
 * Bound     4/3 - 1/(3m) times optimal for m equal GPUs whose slots do not bind: R. L. Graham, SIAM J. Appl. Math.
 *           17(2), 1969, doi:10.1137/0117039.
 * Differs   slots, distinct replicas and unequal GPUs are honoured; where only GPUs that hold the expert have room,
 *           another expert is moved.
 * Cost      O(L (S log S + S G)). */
#include "grid.h"
#include <moeplan/base.h>
#include <stdlib.h>

struct item {
    uint64_t weight;
    uint32_t expert;
};

static int by_falling_weight(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* ns[g]: how long GPU g takes for an even share of an average step and layer. */
static void probe(const struct mp_problem *in, const struct mp_plan *p, uint64_t *ns) {
    uint64_t rows = 0, n = (uint64_t)p->n_layers * p->n_gpus * (in->workload->n_steps > 0 ? in->workload->n_steps : 1);
    for (size_t i = 0; i < (size_t)p->n_layers * p->n_experts; i++)
        rows += in->load[i];
    uint64_t share = mp_ceil_div(rows, n);
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        ns[g] = mp_compute_ns(in->topology, g, in->model, (uint32_t)mp_ceil_div(p->n_experts, p->n_gpus),
                              share > 0 ? share : 1);
        /* At most 2^40 ns (18 minutes), so that sums of loads times ns stay inside 128 bits. */
        ns[g] = ns[g] == 0 ? 1 : ns[g] > UINT64_C(1) << 40 ? UINT64_C(1) << 40 : ns[g];
    }
}

static uint32_t done_first(const struct mp_grid *grid, const unsigned __int128 *done, const uint64_t *ns,
                           const struct item *item) {
    uint32_t best = MP_NONE;
    unsigned __int128 best_done = 0;
    for (uint32_t g = 0; g < grid->n_gpus; g++) {
        if (!mp_grid_can(grid, g, item->expert))
            continue;
        unsigned __int128 would_be = done[g] + (unsigned __int128)item->weight * ns[g];
        if (best == MP_NONE || would_be < best_done) {
            best = g;
            best_done = would_be;
        }
    }
    return best;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    struct item *items = mp_arena_alloc(scratch, draft->n_copies, sizeof *items);
    uint32_t *count = mp_arena_alloc(scratch, p->n_experts, sizeof *count);
    uint64_t *ns = mp_arena_alloc(scratch, p->n_gpus, sizeof *ns);
    unsigned __int128 *done = mp_arena_alloc(scratch, p->n_gpus, sizeof *done);
    if (items == NULL || count == NULL || ns == NULL || done == NULL)
        return mp_nomem(err, "placing experts");
    probe(in, p, ns);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint16_t *copies = draft->copies + (size_t)l * p->n_slots;
        const uint64_t *load = in->load + (size_t)l * p->n_experts;
        const uint32_t n = mp_draft_n(draft, l);
        for (uint32_t e = 0; e < p->n_experts; e++)
            count[e] = 0;
        for (uint32_t i = 0; i < n; i++)
            count[copies[i]]++;
        for (uint32_t i = 0; i < n; i++) /* in 1/1024 rows: loads divided by replicas keep three digits */
            items[i] = (struct item){mp_mul_div(load[copies[i]], 1024, count[copies[i]]), copies[i]};
        qsort(items, n, sizeof *items, by_falling_weight);
        mp_grid_begin(grid, p, l);
        for (uint32_t g = 0; g < p->n_gpus; g++)
            done[g] = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t g = done_first(grid, done, ns, &items[i]);
            if (g != MP_NONE) {
                mp_grid_put(grid, g, items[i].expert);
                done[g] += (unsigned __int128)items[i].weight * ns[g];
            } else if (!mp_grid_put_from(grid, 0, items[i].expert)) {
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "lpt", l);
            }
        }
        mp_grid_sort(grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_lpt = {.name = "lpt",
                                                  .summary = "heaviest first, to the GPU that would be done first",
                                                  .reference = "R. L. Graham, SIAM J. Appl. Math. 17(2), 1969",
                                                  .stage = MP_PLAN_PLACE,
                                                  .takes_layers = true,
                                                  .solve = solve};
