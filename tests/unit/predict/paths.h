/* Recordings whose next experts are known, and what was learned from one half of them. */
#ifndef TEST_PATHS_H
#define TEST_PATHS_H

#include "support.h"
#include <moeplan/predict.h>

#define LAYERS 5u
#define EXPERTS 12u
#define TOP_K 2u

/* Requests of 40 tokens. is_chain: a token's experts in a layer are those of the layer before, one further; else they
 * are drawn anew, the first half of the experts twice as often. */
static inline struct mp_trace *make_trace(uint32_t n_requests, bool is_chain, uint64_t seed) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_rng r = mp_rng_seed(seed);
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "",
                                       .format = "test",
                                       .n_layers = LAYERS,
                                       .n_experts = EXPERTS,
                                       .top_k = TOP_K};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < n_requests; i++) {
        const struct mp_request q = {.id = i, .source = MP_NONE, .category = MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
        for (uint32_t row = 0; row < 40; row++) {
            uint16_t ids[LAYERS * TOP_K];
            for (uint32_t l = 0; l < LAYERS; l++)
                for (uint32_t k = 0; k < TOP_K; k++) {
                    uint16_t *id = &ids[l * TOP_K + k];
                    if (is_chain && l > 0)
                        *id = (uint16_t)((ids[(l - 1) * TOP_K + k] + 1) % EXPERTS);
                    else
                        do {
                            const uint64_t x = mp_rng_below(&r, EXPERTS * 3 / 2);
                            *id = (uint16_t)(x < EXPERTS ? x / 2 : x - EXPERTS / 2);
                        } while (k > 0 && *id == id[-1]);
                }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}
static inline void halves(struct mp_trace *t, struct mp_part *a, struct mp_part *b) {
    struct mp_error err = {0};
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000};
    CHECK_OK(mp_part_split(a, b, t, &split, &err), err);
}
struct learned { /* from one half of a recording */
    struct mp_trace *trace;
    struct mp_part a, b;
    struct mp_path_tables *tables;
};
static inline struct learned learn(struct mp_trace *t, uint32_t length) {
    struct mp_error err = {0};
    struct learned x = {.trace = t};
    halves(t, &x.a, &x.b);
    CHECK_OK(mp_path_learn(&x.tables, &x.a, length, &err), err);
    return x;
}
static inline void forget(struct learned *x) {
    mp_path_free(x->tables);
    mp_part_free(&x->a);
    mp_part_free(&x->b);
    mp_trace_free(x->trace);
}
static inline struct mp_path_accuracy measured(const struct mp_path_tables *tables, const struct mp_part *part,
                                               uint32_t length, unsigned threads) {
    struct mp_error err = {0};
    struct mp_path_accuracy a;
    struct mp_workload *steps;
    const struct mp_batching b = {
        .phase = MP_PHASE_DECODE, .n_ranks = 1, .batch_per_rank = 8, .n_steps_max = 10, .resample = true};
    CHECK_OK(mp_workload_build(&steps, part, &b, &err), err);
    CHECK_OK(
        mp_path_measure(&a, &(struct mp_foresight){.tables = tables, .length = length}, part, steps, threads, &err),
        err);
    mp_workload_free(steps);
    return a;
}

#endif
