/* What a plan of two models asks of every GPU and port in one layer, and what that is worth. */
#include "coloc_load.h"
#include "coloc.h"
#include <moeplan/base.h>
#include <string.h>

#define NS_MAX (UINT64_C(1) << 48) /* a load past this counts as this: sums of a timeline stay exact */
#define BYTES_MAX (UINT64_C(1) << 60)
#define LAYERS 8u

enum mp_status mp_coloc_plan_new(struct mp_coloc_plan **out, const struct mp_coloc_problem *in, struct mp_error *err) {
    struct mp_coloc_plan *p = mp_calloc(1, sizeof *p);
    *out = NULL;
    if (p == NULL)
        return mp_nomem(err, "a plan of two models");
    for (int m = 0; m < 2; m++) {
        p->gpu[m] = mp_calloc(in->model[m].n_experts, sizeof *p->gpu[m]);
        if (p->gpu[m] == NULL) {
            mp_coloc_plan_free(p);
            return mp_nomem(err, "a plan of two models");
        }
        for (uint32_t e = 0; e < in->model[m].n_experts; e++)
            p->gpu[m][e] = MP_NONE;
    }
    *out = p;
    return MP_OK;
}

void mp_coloc_plan_free(struct mp_coloc_plan *p) {
    if (p == NULL)
        return;
    mp_free(p->gpu[0]);
    mp_free(p->gpu[1]);
    mp_free(p);
}

void mp_coloc_shape_of(struct mp_coloc_shape *out, const struct mp_coloc_problem *in) {
    const struct mp_topology *t = in->topology;
    uint64_t latency = 0;
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency = t->levels[l].latency_ns > latency ? t->levels[l].latency_ns : latency;
    *out = (struct mp_coloc_shape){.n_gpus = t->n_gpus,
                                   .n_ports = t->n_resources,
                                   .n_layers = in->n_layers == 0 ? LAYERS : in->n_layers,
                                   .shot_ns = latency + t->launch_ns};
}

uint64_t mp_coloc_port_ns(uint64_t bytes, uint64_t bytes_per_s) {
    uint64_t ns = mp_mul_div_ceil(bytes, 1000000000, bytes_per_s);
    return ns < NS_MAX ? ns : NS_MAX;
}

uint64_t mp_coloc_bytes(const struct mp_coloc_model *m, uint64_t tokens, bool is_combine) {
    uint64_t bytes = mp_mul_div_ceil(tokens, is_combine ? m->combine_bytes : m->dispatch_bytes, m->n_steps);
    return bytes < BYTES_MAX ? bytes : BYTES_MAX;
}

static uint64_t linear_ns(const struct mp_coloc_problem *in, uint32_t gpu, uint64_t rows, uint64_t ps) {
    uint64_t ns = mp_mul_div_ceil(mp_mul_div_ceil(rows, ps, 1), 1000, in->topology->gpus[gpu].speed_ppm);
    return ns < NS_MAX ? ns : NS_MAX;
}

uint64_t mp_coloc_gate_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t tokens) {
    const struct mp_coloc_model *m = &in->model[model];
    const uint64_t rows = mp_ceil_div(tokens, m->n_steps);
    if (m->model == NULL)
        return linear_ns(in, gpu, rows, m->gate_ps);
    const uint64_t ns = mp_attention_ns(in->topology, gpu, m->model, rows);
    return ns < NS_MAX ? ns : NS_MAX;
}

uint64_t mp_coloc_aggregate_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t tokens) {
    const struct mp_coloc_model *m = &in->model[model];
    return m->model == NULL ? linear_ns(in, gpu, mp_ceil_div(tokens, m->n_steps), m->aggregate_ps) : 0;
}

uint64_t mp_coloc_experts_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t source_tokens,
                             uint64_t active, uint64_t padded) {
    const struct mp_coloc_model *m = &in->model[model];
    const uint64_t rows = mp_ceil_div(padded, m->n_steps);
    if (m->model == NULL)
        return linear_ns(in, gpu, rows, m->experts_ps);
    uint64_t ns = mp_shared_ns(in->topology, gpu, m->model, mp_ceil_div(source_tokens, m->n_steps));
    ns = ns < NS_MAX / 2 ? ns : NS_MAX / 2;
    const uint64_t experts =
        rows == 0 ? 0 : mp_compute_ns(in->topology, gpu, m->model, (uint32_t)mp_ceil_div(active, m->n_steps), rows);
    return ns + (experts < NS_MAX / 2 ? experts : NS_MAX / 2);
}

static enum mp_status loads_of(struct mp_coloc_load *out, const struct mp_coloc_problem *in, uint32_t model,
                               const uint32_t *gpu_of, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_coloc_model *m = &in->model[model];
    const struct mp_topology *t = in->topology;
    const uint32_t n = t->n_gpus, ports = t->n_resources, n_sources = m->is_coupled ? m->n_experts : n;
    uint64_t *pairs = mp_arena_alloc(arena, (size_t)n * n, sizeof *pairs);
    uint64_t *starting = mp_arena_alloc(arena, 3 * (size_t)n, sizeof *starting);
    out->gate = mp_arena_alloc(arena, 3 * (size_t)n + 2 * (size_t)ports, sizeof *out->gate);
    if (pairs == NULL || starting == NULL || out->gate == NULL)
        return mp_nomem(err, "the load of a model");
    out->experts = out->gate + n;
    out->aggregate = out->experts + n;
    out->dispatch = out->aggregate + n;
    out->combine = out->dispatch + ports;
    uint64_t *active = starting + n, *padded = active + n;
    for (uint32_t s = 0; s < n_sources; s++) {
        const uint32_t from = m->is_coupled ? gpu_of[s] : s;
        uint64_t sum = 0;
        for (uint32_t e = 0; e < m->n_experts; e++) {
            pairs[(size_t)from * n + gpu_of[e]] += m->tokens[(size_t)s * m->n_experts + e];
            sum += m->tokens[(size_t)s * m->n_experts + e];
        }
        starting[from] += m->source_tokens != NULL ? m->source_tokens[s] : sum;
    }
    for (uint32_t e = 0; e < m->n_experts; e++) {
        uint64_t sum = 0;
        for (uint32_t s = 0; s < n_sources; s++)
            sum += m->tokens[(size_t)s * m->n_experts + e];
        padded[gpu_of[e]] += m->padded != NULL ? m->padded[e] : sum;
        active[gpu_of[e]] += m->active != NULL ? m->active[e] : sum > 0 ? m->n_steps : 0;
    }
    for (uint32_t g = 0; g < n; g++) {
        out->gate[g] = mp_coloc_gate_ns(in, model, g, starting[g]);
        out->experts[g] = mp_coloc_experts_ns(in, model, g, starting[g], active[g], padded[g]);
        out->aggregate[g] = mp_coloc_aggregate_ns(in, model, g, starting[g]);
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t tokens = pairs[(size_t)i * n + j];
            if (i == j || tokens == 0)
                continue;
            for (int back = 0; back < 2; back++) {
                struct mp_path path;
                uint64_t *sum = back ? out->combine : out->dispatch;
                mp_topology_path(t, back ? j : i, back ? i : j, &path);
                for (uint32_t k = 0; k < path.n; k++) {
                    sum[path.resource[k]] += mp_coloc_bytes(m, tokens, back == 1);
                    if (sum[path.resource[k]] > BYTES_MAX)
                        sum[path.resource[k]] = BYTES_MAX;
                }
            }
        }
    for (uint32_t p = 0; p < ports; p++) {
        out->dispatch[p] = mp_coloc_port_ns(out->dispatch[p], t->resources[p].bytes_per_s);
        out->combine[p] = mp_coloc_port_ns(out->combine[p], t->resources[p].bytes_per_s);
    }
    return MP_OK;
}

enum mp_status mp_coloc_loads(struct mp_coloc_load load[2], const struct mp_coloc_problem *in,
                              const struct mp_coloc_plan *plan, struct mp_arena *arena, struct mp_error *err) {
    for (uint32_t m = 0; m < 2; m++) {
        for (uint32_t e = 0; e < in->model[m].n_experts; e++)
            if (plan->gpu[m][e] >= in->topology->n_gpus)
                return mp_fail(err, MP_EBUG, "expert %u of model %u is on no GPU", e, m);
        enum mp_status status = loads_of(&load[m], in, m, plan->gpu[m], arena, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

enum mp_status mp_coloc_evaluate(struct mp_coloc_times *out, const struct mp_coloc_problem *in,
                                 const struct mp_coloc_plan *plan, struct mp_coloc_log *log, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct mp_coloc_load load[2];
    struct mp_coloc_shape shape;
    struct mp_coloc_peaks peaks;
    bool failed = false;
    enum mp_status status = MP_OK;
    *out = (struct mp_coloc_times){.closed_ns = 0};
    if (arena == NULL)
        return mp_nomem(err, "the load of a model");
    MP_TRY(mp_coloc_loads(load, in, plan, arena, err));
    mp_coloc_shape_of(&shape, in);
    shape.free_at = mp_arena_alloc(arena, (size_t)shape.n_gpus + shape.n_ports, sizeof *shape.free_at);
    if (shape.free_at == NULL) {
        status = mp_nomem(err, "a timeline");
        goto out;
    }
    mp_coloc_peaks_of(&peaks, load, &shape);
    for (unsigned m = 0; m < 2; m++)
        out->alone_ns[m] = mp_coloc_timeline(load, 1u << m, &shape, NULL, &failed);
    out->timeline_ns = mp_coloc_timeline(load, 3, &shape, log, &failed);
    out->closed_ns = mp_coloc_closed(&peaks, shape.shot_ns);
    out->port_ns = peaks.port;
    out->compute_ns = peaks.compute;
    for (uint32_t g = 0; g < shape.n_gpus; g++)
        for (int m = 0; m < 2; m++)
            out->busy_ns += load[m].gate[g] + load[m].experts[g] + load[m].aggregate[g];
    if (failed)
        status = mp_nomem(err, "the events of a timeline");
out:
    mp_arena_free(arena);
    return status;
}
