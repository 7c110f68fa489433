/* A layer of a workload as one of two models that share a cluster. */
#include "coloc.h"
#include <moeplan/base.h>
#include <string.h>

enum mp_status mp_coloc_model_of(struct mp_coloc_model *out, const struct mp_workload *w, const struct mp_model *model,
                                 const struct mp_topology *topology, uint32_t layer, uint32_t first_step,
                                 uint32_t n_steps, struct mp_arena *arena, struct mp_error *err) {
    const uint32_t experts = w->trace->n_experts, n = topology->n_gpus;
    const uint32_t tile = topology->types[topology->gpus[0].type].tile_tokens;
    const uint32_t top_k = w->trace->top_k > 0 ? w->trace->top_k : model->top_k;
    uint32_t *step_tokens = mp_arena_alloc(arena, (size_t)n * experts, sizeof *step_tokens);
    uint64_t *tokens = mp_arena_alloc(arena, (size_t)n * experts + n + 2 * (size_t)experts, sizeof *tokens);
    if (step_tokens == NULL || tokens == NULL)
        return mp_nomem(err, "a layer of a workload");
    if (w->n_ranks > n)
        return mp_fail(err, MP_EBUG, "%u source ranks on %u GPUs", w->n_ranks, n);
    uint64_t *sources = tokens + (size_t)n * experts, *padded = sources + n, *active = padded + experts;
    for (uint32_t s = first_step; s < first_step + n_steps; s++) {
        mp_workload_tokens(w, s, layer, step_tokens);
        for (uint32_t e = 0; e < experts; e++) {
            uint64_t sum = 0;
            for (uint32_t r = 0; r < w->n_ranks; r++) {
                tokens[(size_t)r * experts + e] += step_tokens[(size_t)r * experts + e];
                sum += step_tokens[(size_t)r * experts + e];
            }
            active[e] += sum > 0;
            padded[e] += tile > 1 ? mp_ceil_div(sum, tile) * tile : sum;
        }
        for (uint32_t r = 0; r < w->n_ranks && w->steps == NULL; r++) {
            uint64_t pairs = 0;
            for (uint32_t e = 0; e < experts; e++)
                pairs += step_tokens[(size_t)r * experts + e];
            sources[r] += mp_ceil_div(pairs, top_k > 0 ? top_k : 1);
        }
        for (uint32_t i = 0; w->steps != NULL && i < w->steps[s].n; i++)
            sources[w->steps[s].source[i]]++;
        for (uint32_t r = 0; w->steps != NULL && r < w->n_ranks; r++)
            sources[r] += w->steps[s].padding[r];
    }
    *out = (struct mp_coloc_model){.n_experts = experts,
                                   .tokens = tokens,
                                   .source_tokens = sources,
                                   .padded = padded,
                                   .active = active,
                                   .n_steps = n_steps,
                                   .dispatch_bytes = model->dispatch_bytes,
                                   .combine_bytes = model->combine_bytes,
                                   .model = model};
    return MP_OK;
}

enum mp_status mp_coloc_nobody(struct mp_coloc_model *out, uint32_t n_gpus, struct mp_arena *arena,
                               struct mp_error *err) {
    uint64_t *tokens = mp_arena_alloc(arena, n_gpus, sizeof *tokens);
    if (tokens == NULL)
        return mp_nomem(err, "a layer of a workload");
    *out = (struct mp_coloc_model){.n_experts = 1, .tokens = tokens, .n_steps = 1};
    return MP_OK;
}

enum mp_status mp_coloc_fold(struct mp_coloc_model *m, uint32_t n_gpus, uint32_t n_share, struct mp_arena *arena,
                             struct mp_error *err) {
    const size_t experts = m->n_experts;
    uint64_t *tokens = mp_arena_alloc(arena, n_share * experts + n_share, sizeof *tokens);
    if (tokens == NULL)
        return mp_nomem(err, "a share of a cluster");
    for (uint32_t s = 0; s < n_gpus; s++) {
        const size_t to = (size_t)((uint64_t)s * n_share / n_gpus);
        for (size_t e = 0; e < experts; e++)
            tokens[to * experts + e] += m->tokens[s * experts + e];
        tokens[n_share * experts + to] += m->source_tokens != NULL ? m->source_tokens[s] : 0;
    }
    if (m->source_tokens != NULL)
        m->source_tokens = tokens + n_share * experts;
    m->tokens = tokens;
    return MP_OK;
}
