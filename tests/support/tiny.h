/* A tiny planning problem in memory: trace, topology, model and request. Shared by the planner's tests and its fuzz
 * target. */
#ifndef TINY_H
#define TINY_H

#include <moeplan/base.h>
#include <moeplan/strategy.h>
#include <string.h>

struct tiny_spec {
    uint32_t n_layers, n_experts, top_k, n_requests, n_rows; /* n_rows: tokens of a request */
    const char *topology;
    bool is_counts;
    enum mp_phase phase;
    uint32_t batch; /* B of decode, T of prefill */
    uint64_t seed;
    struct mp_topology *shared; /* borrowed, in place of `topology`: reading YAML would take most of a fuzzer's time */
};
struct tiny {
    struct mp_trace *trace;
    struct mp_topology *topology, *own_topology;
    struct mp_model *model;
    struct mp_part part;
    struct mp_part unused;
    struct mp_plan_request request;
};

static inline void tiny_free(struct tiny *t) {
    mp_part_free(&t->part);
    mp_part_free(&t->unused);
    mp_trace_free(t->trace);
    mp_topology_free(t->own_topology);
    mp_model_free(t->model);
    *t = (struct tiny){0};
}

/* top_k distinct experts, low ids likelier. */
static inline void tiny_row(struct mp_rng *rng, const struct tiny_spec *s, uint16_t *ids) {
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t k = 0; k < s->top_k; k++) {
            uint16_t *mine = ids + l * s->top_k;
            uint64_t e = mp_rng_below(rng, mp_rng_below(rng, s->n_experts) + 1);
            for (uint32_t j = 0; j < k; j++)
                if (mine[j] == e) {
                    e = (e + 1) % s->n_experts;
                    j = MP_NONE; /* from the start again */
                }
            mine[k] = (uint16_t)e;
        }
}

static inline enum mp_status tiny_trace(struct mp_trace **out, const struct tiny_spec *s, struct mp_error *err) {
    struct mp_rng rng = mp_rng_seed(s->seed);
    struct mp_trace_builder *b = NULL;
    const struct mp_trace_meta meta = {.kind = s->is_counts ? MP_TRACE_COUNTS : MP_TRACE_TOKENS,
                                       .phase = s->phase,
                                       .model = "tiny",
                                       .format = "test",
                                       .is_synthetic = true,
                                       .is_time_ordered = true,
                                       .n_layers = s->n_layers,
                                       .n_experts = s->n_experts,
                                       .top_k = s->top_k};
    enum mp_status status = mp_trace_builder_new(&b, &meta, &mp_limits_default, err);
    for (uint32_t r = 0; r < s->n_requests && status == MP_OK; r++) {
        if (s->is_counts) {
            status = mp_trace_builder_iteration(b, MP_NONE, err);
            for (uint32_t l = 0; l < s->n_layers && status == MP_OK; l++)
                for (uint32_t e = 0; e < s->n_experts && status == MP_OK; e++)
                    status = mp_trace_builder_count(b, 0, l, e, mp_rng_below(&rng, 50 / (e + 1) + 1), err);
            continue;
        }
        const struct mp_request request = {.id = r, .source = MP_NONE, .category = MP_NONE};
        status = mp_trace_builder_request(b, &request, err);
        for (uint32_t i = 0; i < s->n_rows && status == MP_OK; i++) {
            uint16_t ids[64];
            tiny_row(&rng, s, ids);
            status = mp_trace_builder_row(b, ids, NULL, err);
        }
    }
    if (status == MP_OK)
        return mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", out, err);
    mp_trace_builder_free(b);
    return status;
}

/* The search as short as it goes: tests make thousands of plans. */
static const struct mp_setting tiny_settings[] = {{"search", "effort", 1}};

/* n_layers * top_k <= 64. The caller ends with tiny_free, whatever the status. */
static inline enum mp_status tiny_make(struct tiny *t, const struct tiny_spec *s, struct mp_error *err) {
    enum mp_status status;
    *t = (struct tiny){0};
    MP_TRY(tiny_trace(&t->trace, s, err));
    if (s->shared == NULL)
        MP_TRY(mp_topology_load(&t->own_topology, s->topology, &mp_limits_default, err));
    t->topology = s->shared != NULL ? s->shared : t->own_topology;
    MP_TRY(mp_model_generic(&t->model, NULL, s->n_layers, s->n_experts, s->top_k, err));
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    MP_TRY(mp_part_split(&t->part, &t->unused, t->trace, &split, err));
    t->request = (struct mp_plan_request){
        .planning = &t->part,
        .batching = {.phase = s->phase,
                     .n_ranks = t->topology->n_gpus,
                     .batch_per_rank = s->batch,
                     .tokens_per_rank = s->batch},
        .split = split,
        .topology = t->topology,
        .model = t->model,
        .sim = {.dispatcher = mp_dispatcher_find(s->is_counts                  ? "a2av"
                                                 : s->phase == MP_PHASE_DECODE ? "deepep-ll"
                                                                               : "deepep-normal"),
                .stage_mode = -1},
        .strategy = "auto",
        .settings = tiny_settings,
        .n_settings = 1,
        .n_threads = 1,
        .limits = &mp_limits_default};
out:
    return status;
}

/* The plan's canonical text; NULL when out of memory. The caller frees with mp_free. */
static inline char *tiny_text(const struct mp_plan *p) {
    struct mp_out *o;
    size_t n;
    if (mp_out_open_memory(&o, NULL) != MP_OK)
        return NULL;
    mp_plan_write(p, o);
    char *copy = mp_strdup((const char *)mp_out_memory_bytes(o, &n));
    if (mp_out_commit(o, NULL) != MP_OK) {
        mp_free(copy);
        return NULL;
    }
    return copy;
}

#endif
