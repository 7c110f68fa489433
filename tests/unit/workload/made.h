/* Small traces for the tests of src/workload. */
#ifndef MADE_H
#define MADE_H

#include "support.h"
#include <moeplan/base.h>
#include <moeplan/workload.h>

struct made {
    uint32_t n, n_layers, n_experts, top_k;
    const uint32_t *rows;       /* [n] */
    const uint32_t *sources;    /* [n] or NULL = none named */
    const uint32_t *categories; /* [n] index of "A", "B", ... or MP_NONE; or NULL */
    const uint64_t *ids;        /* [n] or NULL = 0, 1, ... */
    uint64_t seed;              /* of the experts */
};

static inline struct mp_trace *make_trace(const struct made *m) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    uint32_t n_layers = m->n_layers > 0 ? m->n_layers : 1, k = m->top_k > 0 ? m->top_k : 1;
    uint32_t n_experts = m->n_experts > 0 ? m->n_experts : 4;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "made",
                                 .is_time_ordered = true,
                                 .n_layers = n_layers,
                                 .n_experts = n_experts,
                                 .top_k = k};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t c = 0; m->categories != NULL && c < 26; c++) {
        char name[2] = {(char)('A' + c), '\0'};
        uint32_t index;
        bool is_used = false;
        for (uint32_t i = 0; i < m->n; i++)
            is_used |= m->categories[i] != MP_NONE && m->categories[i] >= c;
        if (is_used)
            CHECK_OK(mp_trace_builder_category(b, name, &index, &err), err);
    }
    struct mp_rng rng = mp_rng_seed(m->seed);
    uint16_t ids[64];
    for (uint32_t i = 0; i < m->n; i++) {
        struct mp_request r = {.id = m->ids != NULL ? m->ids[i] : i,
                               .source = m->sources != NULL ? m->sources[i] : MP_NONE,
                               .category = m->categories != NULL ? m->categories[i] : MP_NONE};
        CHECK_OK(mp_trace_builder_request(b, &r, &err), err);
        for (uint32_t row = 0; row < m->rows[i]; row++) {
            for (uint32_t l = 0; l < n_layers; l++) {
                uint32_t first = (uint32_t)mp_rng_below(&rng, n_experts);
                uint32_t stride = k > 1 ? 1 + (uint32_t)mp_rng_below(&rng, (n_experts - 1) / (k - 1)) : 1;
                for (uint32_t j = 0; j < k; j++)
                    ids[l * k + j] = (uint16_t)((first + j * stride) % n_experts);
            }
            CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
        }
    }
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}

static inline struct mp_part part_of_all(const struct mp_trace *t) {
    struct mp_error err = {0};
    struct mp_part planning, held_out;
    struct mp_split none = {.kind = MP_SPLIT_NONE};
    CHECK_OK(mp_part_split(&planning, &held_out, t, &none, &err), err);
    mp_part_free(&held_out);
    return planning;
}

#endif
