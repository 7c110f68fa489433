/* Distinct steps of each domain, and what they take under a plan layer by layer.
 *
 * Decides   nothing.
 * Minimises -
 * Method    steps drawn from a domain's requests (docs/STEPS.md, bootstrap), of counts every iteration; simulated once
 *           under every plan. Between barriers a layer's time does not depend on the others', so what a step takes
 * under any mixture of variants is a sum of these.
 * Bound     -
 * Differs   -
 * Cost      one simulation of each step for each plan. */
#include "variants.h"
#include <moeplan/base.h>
#include <string.h>

static enum mp_status steps_of(struct mp_workload **out, const struct mp_part *part, const struct mp_plan_request *base,
                               uint32_t n_steps, uint64_t seed, struct mp_error *err) {
    struct mp_batching b = base->batching;
    if (part->trace->kind == MP_TRACE_TOKENS) {
        b.resample = true;
        b.n_steps_max = n_steps;
        b.seed = mp_mix64(base->seed ^ mp_mix64(seed));
    }
    return mp_workload_build(out, part, &b, err);
}

/* A step with memory of its own. */
static enum mp_status copy_step(struct mp_step *to, const struct mp_step *from, uint32_t n_ranks,
                                struct mp_arena *arena, struct mp_error *err) {
    uint64_t *row = mp_arena_alloc(arena, from->n, sizeof *row);
    uint16_t *source = mp_arena_alloc(arena, from->n, sizeof *source);
    uint32_t *padding = mp_arena_alloc(arena, n_ranks, sizeof *padding);
    if (row == NULL || source == NULL || padding == NULL)
        return mp_nomem(err, "steps of domains");
    memcpy(row, from->row, from->n * sizeof *row);
    memcpy(source, from->source, from->n * sizeof *source);
    memcpy(padding, from->padding, n_ranks * sizeof *padding);
    *to = (struct mp_step){from->n, row, source, padding};
    return MP_OK;
}

/* Each workload's steps behind one another, `each` of every one. */
static enum mp_status join(struct mp_workload **out, struct mp_workload *const *parts, uint32_t n, uint32_t each,
                           struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct mp_workload *w = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *w) : NULL;
    const bool is_counts = parts[0]->iterations != NULL;
    struct mp_step *steps = w != NULL ? mp_arena_alloc(arena, (size_t)n * each, sizeof *steps) : NULL;
    uint32_t *iterations = w != NULL ? mp_arena_alloc(arena, (size_t)n * each, sizeof *iterations) : NULL;
    enum mp_status status = steps != NULL && iterations != NULL ? MP_OK : mp_nomem(err, "steps of domains");
    if (status != MP_OK) {
        mp_arena_free(arena);
        return status;
    }
    *w = *parts[0];
    w->arena = arena;
    w->n_steps = n * each;
    w->n_rows = 0;
    w->n_requests = 0;
    for (uint32_t d = 0; d < n; d++) {
        w->n_requests += parts[d]->n_requests;
        for (uint32_t i = 0; i < each && status == MP_OK; i++) {
            const uint32_t step = (uint32_t)((uint64_t)i * parts[d]->n_steps / each); /* spread, or repeated */
            if (is_counts) {
                iterations[d * each + i] = parts[d]->iterations[step];
            } else {
                status = copy_step(&steps[d * each + i], &parts[d]->steps[step], w->n_ranks, arena, err);
                w->n_rows += parts[d]->steps[step].n;
            }
        }
    }
    w->steps = is_counts ? NULL : steps;
    w->iterations = is_counts ? iterations : NULL;
    if (status == MP_OK)
        *out = w;
    else
        mp_arena_free(arena);
    return status;
}

enum mp_status vpool_steps(struct mp_workload **out, const struct mp_part *parts, uint32_t n_parts,
                           const struct mp_plan_request *base, uint32_t n_steps, uint64_t seed, struct mp_error *err) {
    struct mp_workload *own[MP_VARIANT_DOMAINS_MAX] = {NULL};
    enum mp_status status = MP_OK;
    *out = NULL;
    if (n_parts == 1)
        return steps_of(out, parts, base, n_steps, seed, err);
    const uint32_t each = (n_steps + n_parts - 1) / n_parts;
    for (uint32_t d = 0; d < n_parts; d++)
        MP_TRY(steps_of(&own[d], &parts[d], base, each, mp_mix64(seed) + d, err));
    uint32_t most = each;
    for (uint32_t d = 0; d < n_parts; d++)
        most = own[d]->n_steps > most ? own[d]->n_steps : most;
    status = join(out, own, n_parts, most, err);
out:
    for (uint32_t d = 0; d < n_parts; d++)
        mp_workload_free(own[d]);
    return status;
}

struct loads {
    const struct vpool *pool;
    uint32_t domain;
};
static enum mp_status load_step(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    const struct loads *x = ctx;
    const struct vpool *p = x->pool;
    const struct mp_workload *w = p->steps[x->domain];
    uint32_t *tokens = mp_calloc((size_t)w->n_ranks * p->n_experts, sizeof *tokens);
    (void)worker;
    if (tokens == NULL)
        return mp_nomem(err, "popularity");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t *to = p->load + ((p->first[x->domain] + i) * p->n_layers + l) * p->n_experts;
        mp_workload_tokens(w, (uint32_t)i, l, tokens);
        for (size_t k = 0; k < (size_t)w->n_ranks * p->n_experts; k++)
            to[k % p->n_experts] += tokens[k];
    }
    mp_free(tokens);
    return MP_OK;
}

enum mp_status vpool_make(struct vpool **out, const struct mp_part *parts, uint32_t n_parts,
                          const struct mp_plan_request *base, uint32_t n_steps, uint64_t seed, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct vpool *p = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *p) : NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (p == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "steps of domains");
    }
    *p = (struct vpool){.n_domains = n_parts,
                        .n_layers = base->planning->trace->n_layers,
                        .n_experts = base->planning->trace->n_experts,
                        .rest_ns = base->model->other_ns_per_step,
                        .arena = arena};
    p->steps = mp_arena_alloc(arena, n_parts, sizeof(struct mp_workload *));
    p->first = mp_arena_alloc(arena, (size_t)n_parts + 1, sizeof *p->first);
    if (p->steps == NULL || p->first == NULL) {
        status = mp_nomem(err, "steps of domains");
        goto out;
    }
    for (uint32_t d = 0; d < n_parts; d++) {
        if (parts[d].n > 0)
            MP_TRY(steps_of(&p->steps[d], &parts[d], base, n_steps, mp_mix64(seed) + d, err));
        p->first[d + 1] = p->first[d] + (p->steps[d] != NULL ? p->steps[d]->n_steps : 0);
    }
    p->load = mp_arena_alloc(arena, (size_t)p->first[n_parts] * p->n_layers, p->n_experts * sizeof *p->load);
    if (p->load == NULL) {
        status = mp_nomem(err, "steps of domains");
        goto out;
    }
    for (uint32_t d = 0; d < n_parts; d++) {
        struct loads x = {p, d};
        MP_TRY(mp_parallel_for(base->n_threads, p->first[d + 1] - p->first[d], load_step, &x, err));
    }
    *out = p;
    p = NULL;
out:
    vpool_free(p);
    return status;
}

void vpool_free(struct vpool *p) {
    if (p == NULL)
        return;
    for (uint32_t d = 0; p->steps != NULL && d < p->n_domains; d++)
        mp_workload_free(p->steps[d]);
    mp_arena_free(p->arena);
}

enum mp_status vpool_times(uint64_t **ns, const struct vpool *p, uint32_t domain, const struct mp_plan *plan,
                           const struct mp_plan_request *base, struct mp_arena *arena, struct mp_error *err) {
    struct mp_sim_options sim = base->sim;
    sim.network = MP_NETWORK_PLAN;
    sim.with_bound = false;
    sim.with_layers = true;
    sim.n_threads = base->n_threads;
    sim.n_steps_max = 0;
    *ns = mp_arena_alloc(arena, p->first[p->n_domains], p->n_layers * sizeof **ns);
    if (*ns == NULL)
        return mp_nomem(err, "steps of domains");
    for (uint32_t d = 0; d < p->n_domains; d++) {
        struct mp_sim_result *r;
        if (p->steps[d] == NULL || (domain != MP_NONE && d != domain))
            continue;
        enum mp_status status = mp_simulate(&r, plan, p->steps[d], base->topology, base->model, &sim, err);
        if (status != MP_OK)
            return status;
        memcpy(*ns + (size_t)p->first[d] * p->n_layers, r->step_layer_ns,
               (size_t)r->n_steps * p->n_layers * sizeof **ns);
        mp_sim_result_free(r);
    }
    return MP_OK;
}
