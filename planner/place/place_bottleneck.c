/* Bottleneck assignment: who waits for whom decides, not averages.
 *
 * Decides   which GPU holds each copy.
 * Minimises with one copy per GPU at most: slowest dispatch + slowest experts + slowest combine, each the worst pair
 *           (copy, GPU) of its own, over all steps together; with more copies the slowest GPU of each round.
 * Method    threshold and Hopcroft-Karp (planner/exact/assign.c), exactly, for at most 16 GPUs; above that one table of
 * the sums. With several copies per GPU: copies by falling rows in rounds of as many as there are GPUs; each round is a
 * bottleneck assignment of its copies to GPUs, a pair weighing what the GPU would take in all. The last round, of fewer
 * copies than GPUs, goes first when it leaves nobody more slots than others, so that fast GPUs get one more.
 * Bound     exact for one copy per GPU under totals over steps (Aurora's sorted order is up to 1.13 times worse where
 *           GPUs differ in more than one figure).
 * Differs   from Aurora, arXiv 2410.17043, section 5: a time per pair in place of one popularity and one speed.
 * Cost      O(L S G sqrt(G) log G). */
#include "assign.h"
#include "gpu_share.h"
#include "grid.h"
#include <moeplan/base.h>
#include <stdlib.h>

#define SUM_GPUS_MAX 16u
#define SUM_NODES 2000u

struct weighed {
    uint64_t rows;
    uint32_t expert;
};

static int falling(const void *a, const void *b) {
    const struct weighed *x = a, *y = b;
    if (x->rows != y->rows)
        return x->rows < y->rows ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

struct matcher {
    const struct mp_problem *in;
    const struct mp_gpu_share *shares;
    struct mp_grid *grid;
    struct mp_gpu_load *load; /* [n_gpus] of what each holds */
    struct weighed *copies;
    uint64_t *weight[3]; /* [n_gpus][n_gpus] */
    uint32_t *to, n_gpus;
};

/* `n` copies, at most one per GPU. *is_found false when they cannot all have one. */
static enum mp_status place_round(struct matcher *m, const struct weighed *copies, uint32_t n, bool is_alone,
                                  bool *is_found, struct mp_error *err) {
    uint64_t worst, bound, nodes;
    bool is_proven, has_tables = is_alone && m->n_gpus <= SUM_GPUS_MAX;
    enum mp_status status;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t g = 0; g < m->n_gpus; g++) {
            uint64_t ns[3];
            size_t at = (size_t)i * m->n_gpus + g;
            mp_gpu_share_ns(&m->shares[g], mp_gpu_load_sum(m->load[g], mp_gpu_load_of(&m->shares[g], copies[i].rows)),
                            ns);
            for (int k = 0; k < 3; k++)
                m->weight[k][at] = !mp_grid_can(m->grid, g, copies[i].expert) ? MP_ASSIGN_NEVER : ns[k];
            if (!has_tables && m->weight[0][at] != MP_ASSIGN_NEVER)
                m->weight[0][at] = ns[0] + ns[1] + ns[2];
        }
    if (has_tables)
        status = mp_assign_sum(n, m->n_gpus, 3, (const uint64_t *const *)m->weight, SUM_NODES, m->to, &worst, &bound,
                               &nodes, is_found, &is_proven, err);
    else
        status = mp_assign_bottleneck(n, m->n_gpus, m->weight[0], m->to, &worst, is_found, err);
    for (uint32_t i = 0; i < n && status == MP_OK && *is_found; i++) {
        uint32_t g = m->to[i];
        mp_grid_put(m->grid, g, copies[i].expert);
        m->load[g] = mp_gpu_load_sum(m->load[g], mp_gpu_load_of(&m->shares[g], copies[i].rows));
    }
    return status;
}

/* One by one to the GPU that takes least in all with it, where a round has no assignment. */
static bool place_singly(struct matcher *m, const struct weighed *copies, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = MP_NONE;
        uint64_t least = 0;
        for (uint32_t g = 0; g < m->n_gpus; g++) {
            if (!mp_grid_can(m->grid, g, copies[i].expert))
                continue;
            uint64_t ns = mp_gpu_share_total_ns(
                &m->shares[g], mp_gpu_load_sum(m->load[g], mp_gpu_load_of(&m->shares[g], copies[i].rows)));
            if (best == MP_NONE || ns < least) {
                best = g;
                least = ns;
            }
        }
        if (best != MP_NONE) {
            mp_grid_put(m->grid, best, copies[i].expert);
            m->load[best] = mp_gpu_load_sum(m->load[best], mp_gpu_load_of(&m->shares[best], copies[i].rows));
        } else if (!mp_grid_put_from(m->grid, 0, copies[i].expert)) {
            return false;
        }
    }
    return true;
}

static enum mp_status place_layer(struct matcher *m, uint32_t n, bool *is_stuck, struct mp_error *err) {
    uint32_t first = n % m->n_gpus; /* the short round */
    enum mp_status status = MP_OK;
    for (uint32_t g = 0; g < m->n_gpus; g++)
        m->load[g] = (struct mp_gpu_load){0, 0, 0};
    for (uint32_t at = 0; at < n && status == MP_OK && !*is_stuck;) {
        uint32_t size = at == 0 && first > 0 ? first : m->n_gpus;
        bool is_found;
        status = place_round(m, m->copies + at, size, n <= m->n_gpus, &is_found, err);
        if (status == MP_OK && !is_found)
            *is_stuck = !place_singly(m, m->copies + at, size);
        at += size;
    }
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct matcher m = {.in = in, .n_gpus = p->n_gpus};
    struct mp_gpu_share *shares;
    size_t cells = (size_t)p->n_gpus * p->n_gpus;
    enum mp_status status = mp_grid_new(&m.grid, in, draft, scratch, err);
    if (status == MP_OK)
        status = mp_gpu_shares(&shares, in, scratch, err);
    if (status != MP_OK)
        return status;
    m.shares = shares;
    m.load = mp_arena_alloc(scratch, p->n_gpus, sizeof *m.load);
    m.copies = mp_arena_alloc(scratch, draft->n_copies, sizeof *m.copies);
    m.to = mp_arena_alloc(scratch, p->n_gpus, sizeof *m.to);
    uint32_t *count = mp_arena_alloc(scratch, p->n_experts, sizeof *count);
    for (int k = 0; k < 3; k++)
        m.weight[k] = mp_arena_alloc(scratch, cells, sizeof *m.weight[k]);
    if (m.load == NULL || m.copies == NULL || m.to == NULL || count == NULL || m.weight[0] == NULL ||
        m.weight[1] == NULL || m.weight[2] == NULL)
        return mp_nomem(err, "placing experts");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint16_t *copies = draft->copies + (size_t)l * p->n_slots;
        bool is_stuck = false;
        for (uint32_t e = 0; e < p->n_experts; e++)
            count[e] = 0;
        for (uint32_t i = 0; i < draft->n_copies; i++)
            count[copies[i]]++;
        for (uint32_t i = 0; i < draft->n_copies; i++)
            m.copies[i] = (struct weighed){
                mp_ceil_div(in->load[(size_t)l * p->n_experts + copies[i]], count[copies[i]]), copies[i]};
        qsort(m.copies, draft->n_copies, sizeof *m.copies, falling);
        mp_grid_begin(m.grid, p, l);
        status = place_layer(&m, draft->n_copies, &is_stuck, err);
        if (status != MP_OK)
            return status;
        if (is_stuck)
            return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "bottleneck", l);
        mp_grid_sort(m.grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_place_bottleneck = {
    .name = "bottleneck",
    .summary = "rounds of bottleneck assignments: one expert per GPU exactly, for unequal GPUs",
    .reference = "Aurora, arXiv 2410.17043, section 5; Burkard, Dell'Amico, Martello, Assignment Problems, 2009",
    .stage = MP_PLAN_PLACE,
    .solve = solve};
