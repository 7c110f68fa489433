/* Colocation: the table of strategies, and the check of what they make. */
#include "coloc.h"
#include "coloc_registry.h"
#include "planner.h"
#include <string.h>

#define X(name) extern const struct mp_coloc_strategy mp_strategy_##name;
MP_REGISTRY(X)
#undef X

#define X(name) &mp_strategy_##name,
static const struct mp_coloc_strategy *const strategies[] = {MP_REGISTRY(X)};
#undef X

#define N_STRATEGIES (sizeof strategies / sizeof strategies[0])

const struct mp_coloc_strategy *mp_coloc_strategy_at(uint32_t i) { return i < N_STRATEGIES ? strategies[i] : NULL; }

const struct mp_coloc_strategy *mp_coloc_strategy_find(const char *name) {
    for (size_t i = 0; i < N_STRATEGIES; i++)
        if (strcmp(strategies[i]->name, name) == 0)
            return strategies[i];
    return NULL;
}

static uint32_t slots_of(const struct mp_coloc_problem *in, uint32_t model) {
    const uint32_t n = in->topology->n_gpus;
    return in->slots[model] > 0 ? in->slots[model] : (in->model[model].n_experts + n - 1) / n;
}

/* Of one GPU: experts of the model that it may hold. */
static uint32_t room_of(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu) {
    return in->gpu_slots[model] != NULL ? in->gpu_slots[model][gpu] : slots_of(in, model);
}

static enum mp_status check(const struct mp_coloc_problem *in, const struct mp_coloc_plan *plan,
                            const struct mp_coloc_strategy *s, struct mp_error *err) {
    const uint32_t n = in->topology->n_gpus;
    uint32_t *used = mp_calloc(2 * (size_t)n, sizeof *used);
    const char *name = s->name;
    enum mp_status status = MP_OK;
    if (used == NULL)
        return mp_nomem(err, "checking a plan of two models");
    for (uint32_t m = 0; m < 2; m++) {
        const uint32_t half = n / 2 > 0 ? n / 2 : 1, experts = in->model[m].n_experts;
        for (uint32_t e = 0; e < in->model[m].n_experts && status == MP_OK; e++) {
            const uint32_t gpu = plan->gpu[m][e];
            const uint32_t most = s->is_apart ? (experts + half - 1) / half : gpu < n ? room_of(in, m, gpu) : 0;
            if (gpu >= n)
                status = mp_fail(err, MP_EBUG, "%s: expert %u of model %u is on no GPU", name, e, m);
            else if (++used[m * (size_t)n + gpu] > most)
                status = mp_fail(err, MP_EBUG, "%s: GPU %u holds more than %u experts of model %u", name, gpu, most, m);
            else if (s->is_apart && m == 1 && used[gpu] > 0)
                status = mp_fail(err, MP_EBUG, "%s: GPU %u holds experts of both models", name, gpu);
        }
    }
    mp_free(used);
    return status;
}

enum mp_status mp_coloc_solve(struct mp_coloc_plan **out, const struct mp_coloc_strategy *s,
                              const struct mp_coloc_problem *in, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_coloc_plan *plan = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    *outcome = MP_NOT_FOUND;
    if (in->topology->n_gpus > MP_COLOC_GPUS_MAX)
        return mp_fail(err, MP_ELIMIT, "colocation is planned on at most %u GPUs, not %u", MP_COLOC_GPUS_MAX,
                       in->topology->n_gpus);
    for (uint32_t m = 0; m < 2; m++) {
        const struct mp_coloc_model *x = &in->model[m];
        if (x->n_steps == 0 || x->n_experts == 0 || x->n_experts > MP_MAX_EXPERTS)
            return mp_fail(err, MP_EBUG, "model %u of a colocation has no steps or no experts", m);
        uint64_t room = 0;
        for (uint32_t g = 0; g < in->topology->n_gpus; g++)
            room += room_of(in, m, g);
        if (room < x->n_experts)
            return mp_decline(err, outcome, MP_NOT_FOUND,
                              "%u experts of the %s model do not fit %u slots on each of %u GPUs (use more GPUs)",
                              x->n_experts, m == 0 ? "first" : "second", slots_of(in, m), in->topology->n_gpus);
    }
    MP_TRY(mp_coloc_plan_new(&plan, in, err));
    MP_TRY(s->solve(in, plan, outcome, err));
    if (*outcome == MP_NOT_FOUND || *outcome == MP_NOT_APPLICABLE)
        goto out;
    MP_TRY(check(in, plan, s, err));
    *out = plan;
    return MP_OK;
out:
    mp_coloc_plan_free(plan);
    return status;
}

enum mp_status mp_coloc_by_groups(const struct mp_coloc_problem *in, mp_coloc_on_fn fn, struct mp_coloc_plan *out,
                                  enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_coloc_groups *g = NULL;
    uint32_t *on[2] = {NULL, NULL};
    enum mp_status status = MP_OK;
    MP_TRY(mp_coloc_groups_new(&g, in, err));
    on[0] = mp_arena_alloc(g->arena, 2 * (size_t)g->n, sizeof *on[0]);
    if (on[0] == NULL) {
        status = mp_nomem(err, "an assignment");
        goto out;
    }
    on[1] = on[0] + g->n;
    *outcome = MP_FOUND;
    MP_TRY(fn(g, on, out, outcome, err));
    for (uint32_t x = 0; x < g->n && (*outcome == MP_FOUND || *outcome == MP_STOPPED); x++)
        if (!mp_coloc_fits(g, on, x, x)) {
            status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                                "GPU %u has no room for as many experts as this strategy puts there: it takes GPUs to "
                                "have equal memory (use search)",
                                x);
            goto out;
        }
    if (*outcome == MP_FOUND || *outcome == MP_STOPPED)
        mp_coloc_place(g, on, out);
out:
    mp_coloc_groups_free(g);
    return status;
}
