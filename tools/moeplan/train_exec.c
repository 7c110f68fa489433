#include "train_exec.h"
#include <moeplan/train.h>
#include <stdio.h>
#include <string.h>

enum { STEPS_MAX = 16 };

static uint64_t divided(uint64_t bytes, uint64_t scale) { return bytes == 0 ? 0 : mp_ceil_div(bytes, scale); }

static void divide(struct mp_train_policy *p, uint64_t scale) {
    p->a2a_chunk_bytes = divided(p->a2a_chunk_bytes, scale);
    p->reduce_chunk_bytes = divided(p->reduce_chunk_bytes, scale);
    p->bucket_bytes = divided(p->bucket_bytes, scale);
}

/* The search knows sizes from 2 MB on: it is shown tensors `scale` times as large, which take as long as they do. */
static void multiply(struct mp_train_work *w, uint64_t scale) {
    struct mp_train_layer *layers = (struct mp_train_layer *)w->step.layers; /* of w's arena */
    for (uint32_t l = 0; l < w->step.n_layers; l++) {
        for (int i = 0; i < MP_TRAIN_N_A2A; i++)
            layers[l].a2a[i].bytes *= scale;
        layers[l].reduce.bytes *= scale;
        layers[l].expert_reduce.bytes *= scale;
    }
}

static enum mp_status search(struct mp_train_policy *out, const struct setup *s, const struct mp_plan *plan,
                             uint64_t scale, struct mp_error *err) {
    struct mp_train_options options = mp_train_defaults();
    const uint32_t n_steps = s->workload->n_steps, n = n_steps < STEPS_MAX ? n_steps : STEPS_MAX;
    struct mp_train_work works[STEPS_MAX];
    const struct mp_train_step *steps[STEPS_MAX];
    struct mp_dispatcher dispatcher = *s->sim.dispatcher;
    struct mp_router *router = NULL;
    uint32_t n_made = 0;
    uint64_t ns;
    enum mp_status status = mp_router_new(&router, plan, err);
    dispatcher.is_overlapped = false; /* as it is replayed */
    if (plan->training.is_present) {
        options.gradient_bits = plan->training.gradient_bits;
        options.offload = plan->training.offload;
    }
    const struct mp_cost_setup setup = {.plan = plan,
                                        .router = router,
                                        .workload = s->workload,
                                        .topology = s->topology,
                                        .model = s->model,
                                        .dispatcher = &dispatcher,
                                        .sources = s->sim.sources,
                                        .choice = s->sim.choice};
    for (; n_made < n && status == MP_OK; n_made++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)n_made + 1) * n_steps / (2 * (uint64_t)n));
        status = mp_train_work_make(&works[n_made], &setup, step, &options, err);
        if (status != MP_OK)
            break;
        multiply(&works[n_made], scale);
        steps[n_made] = &works[n_made].step;
    }
    if (status == MP_OK)
        status = mp_train_search(out, &ns, steps, n, tool_threads(s->o), err);
    for (uint32_t i = 0; i < n_made; i++)
        mp_train_work_free(&works[i]);
    mp_router_free(router);
    return status;
}

static enum mp_status add(struct train_policies *out, const char *name, size_t n, const struct setup *s,
                          const struct mp_plan *plan, struct mp_error *err) {
    struct mp_exec_policy *p = &out->list[out->n];
    char *copy = out->names[out->n];
    enum mp_status status = MP_OK;
    if (out->n == TRAIN_POLICIES_MAX)
        return mp_fail(err, MP_EUSAGE, "--train: more than %d policies", TRAIN_POLICIES_MAX);
    snprintf(copy, sizeof out->names[0], "%.*s", (int)(n < 31 ? n : 31), name);
    for (uint32_t i = 0; i < out->n; i++)
        if (strcmp(out->names[i], copy) == 0)
            return mp_fail(err, MP_EUSAGE, "--train: \"%s\" is there twice", copy);
    *p = (struct mp_exec_policy){.name = copy};
    const struct mp_train_named_policy *named = mp_train_policy_find(copy);
    if (strcmp(copy, "plan") == 0 && plan->training.is_present) {
        p->policy = plan->training.policy;
    } else if (strcmp(copy, "plan") == 0) {
        return mp_fail(err, MP_EUSAGE,
                       "--train: the plan says nothing of training steps (make it with moeplan plan --phase train, or "
                       "name a policy: moeplan list policies)");
    } else if (strcmp(copy, "searched") == 0) {
        status = search(&p->policy, s, plan, s->o->chunk_scale, err);
        divide(&p->policy, s->o->chunk_scale);
    } else if (named != NULL) {
        p->policy = named->policy;
        divide(&p->policy, s->o->chunk_scale);
    } else {
        return mp_fail(
            err, MP_EUSAGE,
            "--train: unknown policy \"%.80s\" (write plan, searched, none, or one of moeplan list policies)", copy);
    }
    out->n += status == MP_OK;
    return status;
}

enum mp_status train_policies(struct train_policies *out, const struct setup *s, const struct mp_plan *plan,
                              struct mp_error *err) {
    const struct opts *o = s->o;
    enum mp_status status = MP_OK;
    *out = (struct train_policies){0};
    const char *list = o->train;
    const bool moves = o->rehome != NULL || o->condense != NULL; /* replayed in forward passes */
    if (list == NULL)
        list =
            plan->training.is_present && !moves && s->batching.phase == MP_PHASE_TRAIN && !o->matrix ? "plan" : "none";
    if (strcmp(list, "none") == 0)
        return MP_OK;
    if (o->matrix)
        return mp_fail(err, MP_EUSAGE, "--train: a matrix has no training steps (leave out --matrix)");
    for (const char *at = list; status == MP_OK; at++) {
        const size_t n = strcspn(at, ",");
        status = add(out, at, n, s, plan, err);
        at += n;
        if (*at == '\0')
            break;
    }
    return status;
}
