/* Aurora's sorted assignment: popular experts on fast GPUs.
 *
 * Decides   which GPU holds each copy.
 * Minimises the slowest GPU's time, when each GPU holds one expert and one number says how popular an expert is.
 * Method    one group of experts for each GPU: with one copy per GPU the copies themselves, else heaviest first to the
 *           lightest group with room. Groups by falling rows, GPUs by rising time for an even share of the steps
 *           (docs/COST.md part 3, ports included: decode and prefill rank GPU types differently), in order; a group
 *           only goes to a GPU with at least as many slots.
 * Bound     optimal for one expert per GPU under one scalar per expert: Aurora, arXiv 2410.17043, Theorem 5.1. With a
 *           send and a receive load of their own per expert up to 1.13 times the optimum (bench_exact): `bottleneck`
 *           does not have that trap.
 * Differs   the paper has as many experts as GPUs.
 * Cost      O(L (S log S + S G)). */
#include "gpu_share.h"
#include "grid.h"
#include <moeplan/base.h>
#include <stdlib.h>

struct weighed {
    uint64_t weight;
    uint32_t index;
};

static int falling(const void *a, const void *b) {
    const struct weighed *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

struct sorter {
    const struct mp_plan *plan;
    struct mp_grid *grid;
    uint32_t n_copies;
    uint32_t *by_speed; /* [n_gpus] fastest first; group k has the slots of GPU by_speed[k] */
    struct weighed *copies, *groups;
    uint32_t *group_of; /* [n_copies] in the order of `copies` */
    uint32_t *n_in, *count;
};

static uint32_t n_slots_of(const struct mp_plan *p, uint32_t g) {
    return p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
}

static bool has_expert(const struct sorter *s, uint32_t n, uint32_t group, const uint16_t *copies, uint32_t expert) {
    for (uint32_t i = 0; i < n; i++)
        if (s->group_of[i] == group && copies[s->copies[i].index] == expert)
            return true;
    return false;
}

/* Heaviest copy first to the lightest group with room; NONE where only groups that have the expert have room. */
static void make_groups(struct sorter *s, const uint16_t *copies) {
    uint32_t n_gpus = s->plan->n_gpus;
    for (uint32_t g = 0; g < n_gpus; g++) {
        s->groups[g] = (struct weighed){0, g};
        s->n_in[g] = 0;
    }
    for (uint32_t i = 0; i < s->n_copies; i++) {
        uint32_t best = MP_NONE;
        for (uint32_t g = 0; g < n_gpus; g++)
            if (s->n_in[g] < n_slots_of(s->plan, s->by_speed[g]) &&
                (best == MP_NONE || s->groups[g].weight < s->groups[best].weight) &&
                !(s->grid->is_distinct && has_expert(s, i, g, copies, copies[s->copies[i].index])))
                best = g;
        s->group_of[i] = best;
        if (best == MP_NONE)
            continue;
        s->groups[best].weight += s->copies[i].weight;
        s->n_in[best]++;
    }
}

/* Groups by falling rows to GPUs by falling speed, the next free one with room for it. */
static void give_out(struct sorter *s, const uint16_t *copies, bool *is_taken) {
    uint32_t n_gpus = s->plan->n_gpus;
    qsort(s->groups, n_gpus, sizeof *s->groups, falling);
    for (uint32_t k = 0; k < n_gpus; k++)
        is_taken[k] = false;
    for (uint32_t k = 0; k < n_gpus; k++) {
        uint32_t group = s->groups[k].index, at = MP_NONE;
        for (uint32_t j = 0; j < n_gpus && at == MP_NONE; j++)
            if (!is_taken[j] && n_slots_of(s->plan, s->by_speed[j]) == n_slots_of(s->plan, s->by_speed[group]))
                at = j;
        is_taken[at] = true; /* as many GPUs of so many slots as groups */
        for (uint32_t i = 0; i < s->n_copies; i++)
            if (s->group_of[i] == group)
                mp_grid_put(s->grid, s->by_speed[at], copies[s->copies[i].index]);
    }
}

static enum mp_status sort_gpus(struct sorter *s, const struct mp_problem *in, struct mp_arena *scratch,
                                struct mp_error *err) {
    struct mp_gpu_share *shares;
    enum mp_status status = mp_gpu_shares(&shares, in, scratch, err);
    if (status != MP_OK)
        return status;
    uint32_t n_gpus = s->plan->n_gpus, n_experts = s->plan->n_experts;
    uint64_t rows = 0, n_each = mp_ceil_div(n_experts, n_gpus);
    for (size_t i = 0; i < (size_t)s->plan->n_layers * n_experts; i++)
        rows += in->load[i];
    rows = mp_ceil_div(rows, (uint64_t)s->plan->n_layers * n_experts); /* of an average expert */
    for (uint32_t g = 0; g < n_gpus; g++) {
        struct mp_gpu_load load = mp_gpu_load_of(&shares[g], rows), sum = load;
        for (uint64_t i = 1; i < n_each; i++)
            sum = mp_gpu_load_sum(sum, load);
        s->groups[g] = (struct weighed){UINT64_MAX - mp_gpu_share_total_ns(&shares[g], sum), g};
    }
    qsort(s->groups, n_gpus, sizeof *s->groups, falling);
    for (uint32_t g = 0; g < n_gpus; g++)
        s->by_speed[g] = s->groups[g].index;
    return MP_OK;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    struct mp_plan *p = draft->plan;
    struct sorter s = {.plan = p, .n_copies = draft->n_copies};
    enum mp_status status = mp_grid_new(&s.grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    s.by_speed = mp_arena_alloc(scratch, p->n_gpus, sizeof *s.by_speed);
    s.groups = mp_arena_alloc(scratch, p->n_gpus, sizeof *s.groups);
    s.n_in = mp_arena_alloc(scratch, p->n_gpus, sizeof *s.n_in);
    s.copies = mp_arena_alloc(scratch, s.n_copies, sizeof *s.copies);
    s.group_of = mp_arena_alloc(scratch, s.n_copies, sizeof *s.group_of);
    s.count = mp_arena_alloc(scratch, p->n_experts, sizeof *s.count);
    bool *is_taken = mp_arena_alloc(scratch, p->n_gpus, sizeof *is_taken);
    if (s.by_speed == NULL || s.groups == NULL || s.n_in == NULL || s.copies == NULL || s.group_of == NULL ||
        s.count == NULL || is_taken == NULL)
        return mp_nomem(err, "placing experts");
    status = sort_gpus(&s, in, scratch, err);
    for (uint32_t l = 0; l < p->n_layers && status == MP_OK; l++) {
        const uint16_t *copies = draft->copies + (size_t)l * p->n_slots;
        const uint64_t *load = in->load + (size_t)l * p->n_experts;
        for (uint32_t e = 0; e < p->n_experts; e++)
            s.count[e] = 0;
        for (uint32_t i = 0; i < s.n_copies; i++)
            s.count[copies[i]]++;
        for (uint32_t i = 0; i < s.n_copies; i++)
            s.copies[i] = (struct weighed){mp_mul_div(load[copies[i]], 1024, s.count[copies[i]]), i};
        qsort(s.copies, s.n_copies, sizeof *s.copies, falling);
        mp_grid_begin(s.grid, p, l);
        make_groups(&s, copies);
        give_out(&s, copies, is_taken);
        for (uint32_t i = 0; i < s.n_copies; i++)
            if (s.group_of[i] == MP_NONE && !mp_grid_put_from(s.grid, 0, copies[s.copies[i].index]))
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "sorted", l);
        mp_grid_sort(s.grid);
    }
    *outcome = MP_FOUND;
    return status;
}

const struct mp_strategy mp_strategy_place_sorted = {
    .name = "sorted",
    .summary = "Aurora's: groups of experts by falling load on GPUs by falling speed",
    .reference = "Aurora, arXiv 2410.17043, Theorem 5.1",
    .stage = MP_PLAN_PLACE,
    .solve = solve};
