/* A template for a new strategy. Copy it to <stage>_<name>.c, rename, add the word <stage>_<name> to meson.build:
 * the table, `moeplan list`, `compare` and `auto` then know it. This one is compiled and run by
 * tests/unit/planner/test_place.c, but is in no table.
 *
 * Decides   expert -> GPU (say what the stage decides, as a formula where it helps).
 * Minimises nothing exactly; close to max over GPUs of the summed load.
 * Method    snake deal: experts by falling load, dealt to GPUs 0 .. n-1, then n-1 .. 0, and so on.
 * Bound     none (give the factor and its proof where there is one).
 * Differs   from the paper, in what it names: here, distinct replicas and slots are honoured.
 * Paper     the deal of SGLang's `deepseek_vec` (authors, title, venue, year, DOI go here).
 * Cost      O(L S log S) time, O(S) scratch. Deterministic (say what the budget does, if it is used). */
#include "grid.h"
#include <stdlib.h>

struct item {
    uint64_t load;
    uint32_t expert;
};

/* qsort is not stable: every comparison ends in an index. */
static int by_falling_load(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->load != y->load)
        return x->load < y->load ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* Tuning constants: they appear in help, man page and completion. in->option_values holds their values in this
 * order. */
static const struct mp_option options[] = {{"first-gpu", "GPU", "where the deal begins", 0, 0, MP_MAX_GPUS - 1},
                                           {.name = NULL}};

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget; /* a search counts its work and stops at budget->work_limit with outcome MP_STOPPED */
    struct mp_plan *p = draft->plan;
    struct mp_grid *grid;
    enum mp_status status = mp_grid_new(&grid, in, draft, scratch, err);
    if (status != MP_OK)
        return status;
    struct item *items =
        mp_arena_alloc(scratch, draft->n_copies, sizeof *items); /* scratch is emptied after each stage */
    if (items == NULL)
        return mp_nomem(err, "placing experts");
    if (p->n_gpus == 1) /* a method that cannot work on this input says what would be needed; that is no error */
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "xyz: one GPU leaves nothing to decide (use strategy contiguous)");
    uint32_t first = in->option_values != NULL ? (uint32_t)in->option_values[0] : 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        for (uint32_t i = 0; i < draft->n_copies; i++) {
            uint32_t e = draft->copies[(size_t)l * p->n_slots + i];
            items[i] = (struct item){in->load[(size_t)l * p->n_experts + e], e};
        }
        qsort(items, draft->n_copies, sizeof *items, by_falling_load);
        mp_grid_begin(grid, p, l);
        for (uint32_t i = 0; i < draft->n_copies; i++) {
            uint32_t at = i % (2 * p->n_gpus), g = at < p->n_gpus ? at : 2 * p->n_gpus - 1 - at;
            if (!mp_grid_put_from(grid, (first + g) % p->n_gpus, items[i].expert))
                return mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "xyz", l);
        }
        mp_grid_sort(grid);
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

extern const struct mp_strategy mp_strategy_xyz;
const struct mp_strategy mp_strategy_xyz = {.name = "xyz",
                                            .summary = "a template: snake deal by load",
                                            .reference = "SGLang deepseek_vec",
                                            .stage = MP_PLAN_PLACE,
                                            .options = options,
                                            .solve = solve};
