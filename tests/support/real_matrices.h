/* Traffic matrices of the recorded traces in the shared data, for tests and benchmarks of orders: bytes from ranks to
 * GPUs with the experts placed contiguously, one copy per (token, expert). */
#ifndef TEST_REAL_MATRICES_H
#define TEST_REAL_MATRICES_H

#include <moeplan/workload.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_TOKEN_BYTES 4096u

struct real_trace {
    const char *name, *path; /* under the shared data's traces/ */
    uint32_t n_experts, layer_base;
    enum mp_phase phase;
    uint32_t n_gpus[3]; /* sizes to make matrices for; 0 = no more */
};
static const struct real_trace real_traces[] = {
    {"qwen1.5-moe-6ranks", "qwen1.5-moe-6ranks/dispatch_counts.csv", 60, 0, MP_PHASE_PREFILL, {6}},
    {"deepseek-v2-lite", "deepseek-v2-lite/chat_prefill.npz", 64, 1, MP_PHASE_PREFILL, {8, 32, 64}},
    {"gpt-oss-20b mmlu_test", "gpt-oss-20b/mmlu_test.npz", 32, 0, MP_PHASE_DECODE, {8, 16, 32}},
    {"gpt-oss-20b mmlu_dev", "gpt-oss-20b/mmlu_dev.npz", 32, 0, MP_PHASE_DECODE, {8}},
};
#define N_REAL_TRACES (sizeof real_traces / sizeof *real_traces)

struct real_set {
    struct mp_trace *trace;
    struct mp_part part, same;
    struct mp_workload *workload;
    uint32_t *tokens; /* scratch */
};

static inline void real_set_free(struct real_set *s) {
    free(s->tokens);
    mp_workload_free(s->workload);
    mp_part_free(&s->part);
    mp_part_free(&s->same);
    mp_trace_free(s->trace);
}

/* Loads `path` (the trace's file) and cuts it into steps over n_gpus ranks. */
static inline enum mp_status real_set_load(struct real_set *s, const struct real_trace *real, const char *path,
                                           uint32_t n_gpus, struct mp_error *err) {
    enum mp_status status;
    struct mp_trace_hints hints = mp_trace_hints_none;
    struct mp_split none = {.kind = MP_SPLIT_NONE};
    hints.n_experts = real->n_experts;
    hints.layer_base = (int)real->layer_base;
    hints.phase = real->phase;
    hints.ids_are_physical = 0;
    hints.is_ranked = 0;
    memset(s, 0, sizeof *s);
    MP_TRY(mp_trace_load(&s->trace, path, &hints, &mp_limits_default, err));
    MP_TRY(mp_part_split(&s->part, &s->same, s->trace, &none, err));
    uint64_t rows = s->trace->n_rows;
    struct mp_batching batching = {.phase = real->phase,
                                   .n_ranks = n_gpus,
                                   .batch_per_rank = 64 / n_gpus > 1 ? 64 / n_gpus : 1,
                                   .tokens_per_rank = rows / n_gpus / 4 < 1024 ? rows / n_gpus / 4 + 1 : 1024,
                                   .n_steps_max = 16};
    MP_TRY(mp_workload_build(&s->workload, &s->part, &batching, err));
    s->tokens = calloc((size_t)n_gpus * s->trace->n_experts, sizeof *s->tokens);
    status = s->tokens == NULL ? mp_nomem(err, "a matrix") : MP_OK;
out:
    if (status != MP_OK)
        real_set_free(s);
    return status;
}

/* matrix[n_gpus][n_gpus] of one layer, summed over the steps [first, end). */
static inline void real_matrix(struct real_set *s, uint32_t layer, uint32_t first, uint32_t end, uint64_t *matrix) {
    const uint32_t n = s->workload->n_ranks, n_experts = s->trace->n_experts;
    memset(matrix, 0, (size_t)n * n * sizeof *matrix);
    for (uint32_t step = first; step < end; step++) {
        mp_workload_tokens(s->workload, step, layer, s->tokens);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t e = 0; e < n_experts; e++)
                matrix[(size_t)i * n + e * n / n_experts] +=
                    (uint64_t)s->tokens[(size_t)i * n_experts + e] * REAL_TOKEN_BYTES;
    }
    for (uint32_t i = 0; i < n; i++)
        matrix[(size_t)i * n + i] = 0;
}

#endif
