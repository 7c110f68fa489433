/* From a part of a trace to steps: what both batching rules share. The rules are normative in docs/STEPS.md.
 *
 * Decides   which rows of the trace run together in one forward pass, and on which source rank each starts.
 * Minimises nothing: it re-enacts a serving loop.
 * Method    decode: steps_decode.c; prefill and train: steps_prefill.c; COUNTS: one step per iteration.
 * Bound     recorded steps use every row at most once.
 * Differs   -
 * Cost      O(rows of the part) time, O(rows of the kept steps + requests of the part) memory.  Deterministic. */
#include "internal.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct mp_number_text mp_workload_number(uint64_t n) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, n);
    struct mp_number_text out = {{0}};
    size_t used = 0;
    for (int i = 0; i < length; i++) {
        out.text[used++] = digits[i];
        if ((length - 1 - i) % 3 == 0 && i + 1 < length)
            out.text[used++] = ',';
    }
    return out;
}

uint64_t mp_rank_weights(uint32_t n_ranks, uint32_t skew_ppm, uint64_t *weights) {
    uint64_t sum = 0;
    for (uint32_t r = 0; r < n_ranks; r++) {
        weights[r] = (uint64_t)llround(pow((double)r + 1, -(double)skew_ppm / 1e6) * 1048576.0);
        sum += weights[r];
    }
    return sum;
}

uint32_t mp_padding_of(uint32_t n, uint32_t multiple) {
    if (multiple <= 1)
        return 0;
    uint64_t padding = mp_ceil_div(n, multiple) * multiple - n;
    return (uint32_t)padding; /* < multiple */
}

uint64_t mp_steps_kept(const struct mp_batching *b, uint64_t n) {
    return b->n_steps_max == 0 || n <= b->n_steps_max ? n : b->n_steps_max;
}
uint64_t mp_steps_kept_index(const struct mp_batching *b, uint64_t n, uint64_t i) {
    uint64_t kept = mp_steps_kept(b, n);
    return kept == n ? i : mp_mul_div(2 * i + 1, n, 2 * kept); /* the middle of the i-th of `kept` stretches */
}

enum mp_status mp_steps_start(struct mp_step_builder *b, uint64_t n_steps, struct mp_error *err) {
    if (n_steps > UINT32_MAX)
        return mp_fail(err, MP_ELIMIT, "the trace gives %s steps (at most 4,294,967,295; use --steps to take fewer)",
                       mp_workload_number(n_steps).text);
    b->steps = mp_arena_alloc(b->arena, (size_t)n_steps, sizeof *b->steps);
    if (b->steps == NULL)
        return mp_nomem(err, "the steps");
    b->workload->steps = b->steps;
    b->workload->n_steps = (uint32_t)n_steps;
    return MP_OK;
}

void mp_steps_mark_used(struct mp_step_builder *b, uint32_t member) {
    uint32_t bit = UINT32_C(1) << (member % 32);
    if ((b->used[member / 32] & bit) != 0)
        return;
    b->used[member / 32] |= bit;
    b->workload->n_requests++;
}

/* ---- COUNTS ---- */
static enum mp_status build_counts(struct mp_workload *w, const struct mp_part *part, struct mp_error *err) {
    const struct mp_trace *t = part->trace;
    uint64_t per_iteration = (uint64_t)t->n_sources * t->n_layers * t->n_experts;
    uint32_t *iterations = mp_arena_alloc(w->arena, part->n, sizeof *iterations);
    if (iterations == NULL)
        return mp_nomem(err, "the steps");
    uint32_t n = 0;
    for (uint32_t m = 0; m < part->n; m++) {
        const uint64_t *counts = t->counts + part->members[m] * per_iteration;
        uint64_t largest = 0;
        for (uint64_t i = 0; i < per_iteration; i++)
            largest = counts[i] > largest ? counts[i] : largest;
        if (largest == 0)
            continue; /* nothing ran: not a step */
        /* One (layer, expert) summed over sources must fit the 32 bits of mp_workload_tokens. */
        if (largest > UINT32_MAX / t->n_sources)
            return mp_fail(
                err, MP_ELIMIT, "iteration %u counts %s tokens for one expert (at most %s per step and source)",
                part->members[m], mp_workload_number(largest).text, mp_workload_number(UINT32_MAX / t->n_sources).text);
        iterations[n++] = part->members[m];
    }
    if (n == 0)
        return mp_fail(err, MP_EINPUT, "all %s iterations of the part are empty", mp_workload_number(part->n).text);
    uint32_t kept = (uint32_t)mp_steps_kept(&w->batching, n);
    for (uint32_t i = 0; i < kept; i++)
        iterations[i] = iterations[mp_steps_kept_index(&w->batching, n, i)];
    w->iterations = iterations;
    w->n_steps = w->n_requests = kept;
    return MP_OK;
}

/* ---- TOKENS ---- */
/* Steps that are drawn have no end of their own: at most 2^24 rows of them. */
#define DRAWN_ROWS_MAX (UINT64_C(1) << 24)
static enum mp_status check_drawn(const struct mp_batching *b, uint64_t rows, struct mp_error *err) {
    uint64_t n = b->n_steps_max == 0 ? 64 : b->n_steps_max;
    if (!b->resample || (rows > 0 && n <= DRAWN_ROWS_MAX / rows))
        return MP_OK;
    return mp_fail(err, MP_ELIMIT, "%s drawn steps of up to %s rows are more than %s rows in all (use fewer --steps)",
                   mp_workload_number(n).text, mp_workload_number(rows).text, mp_workload_number(DRAWN_ROWS_MAX).text);
}

static enum mp_status check_batching(const struct mp_batching *b, struct mp_error *err) {
    uint64_t rows;
    switch (b->phase) {
    case MP_PHASE_DECODE:
        if (b->batch_per_rank == 0)
            return mp_fail(err, MP_EUSAGE, "decode steps need the requests per rank (use --batch)");
        rows = (uint64_t)b->batch_per_rank * b->n_ranks;
        if (rows > UINT32_MAX)
            return mp_fail(err, MP_ELIMIT,
                           "%u requests per rank on %u ranks are %s rows per step (at most 4,294,967,295)",
                           b->batch_per_rank, b->n_ranks, mp_workload_number(rows).text);
        return check_drawn(b, rows, err);
    case MP_PHASE_PREFILL:
    case MP_PHASE_TRAIN:
        if (b->tokens_per_rank == 0)
            return mp_fail(err, MP_EUSAGE, "prefill steps need the tokens per rank (use --tokens-per-rank)");
        if (mp_mul_overflow(b->tokens_per_rank, (uint64_t)b->n_ranks, &rows) || rows > UINT32_MAX)
            return mp_fail(err, MP_ELIMIT, "%s tokens per rank on %u ranks are more rows per step than 4,294,967,295",
                           mp_workload_number(b->tokens_per_rank).text, b->n_ranks);
        return check_drawn(b, rows, err);
    case MP_PHASE_UNKNOWN:
    case MP_PHASE_MIXED:
        break;
    }
    return mp_fail(err, MP_EUSAGE, "the phase of the steps is not known (use --phase decode or --phase prefill)");
}

/* ---- homes ---- */
static enum mp_status assign_homes(struct mp_step_builder *b, struct mp_error *err) {
    const struct mp_home_rule *rule = b->part->homes;
    if (rule == NULL)
        return MP_OK;
    if (rule->n_gpus != b->batching->n_ranks)
        return mp_fail(err, MP_EUSAGE, "homes: the rule is for %u ranks and there are %u (plan for this topology)",
                       rule->n_gpus, b->batching->n_ranks);
    if (b->batching->source_skew_ppm > 0)
        return mp_fail(err, MP_EUSAGE, "homes deal requests to ranks, and so does --source-skew (leave one out)");
    b->home = mp_calloc(b->part->n, sizeof *b->home);
    if (b->home == NULL)
        return mp_nomem(err, "the steps");
    return mp_home_assign(b->home, b->part, rule, b->batching->phase, err);
}

enum mp_status mp_members_by_node(struct mp_members_by_node *out, const struct mp_step_builder *b,
                                  struct mp_error *err) {
    const struct mp_home_rule *rule = b->part->homes;
    *out = (struct mp_members_by_node){mp_calloc((size_t)rule->n_nodes + 1, sizeof *out->first),
                                       mp_calloc(b->part->n, sizeof *out->list)};
    if (out->first == NULL || out->list == NULL)
        return mp_nomem(err, "the steps");
    for (uint32_t v = 0, n = 0; v < rule->n_nodes; v++) {
        for (uint32_t m = 0; m < b->part->n; m++)
            if (mp_member_request(b->part, m)->n_rows > 0 && rule->gpu_node[b->home[m]] == v)
                out->list[n++] = m;
        out->first[v + 1] = n;
        if (out->first[v + 1] == out->first[v])
            return mp_fail(err, MP_EINPUT, "none of the %s requests of the part has its home on node %u (use more)",
                           mp_workload_number(b->part->n).text, v);
    }
    return MP_OK;
}

static enum mp_status build_tokens(struct mp_step_builder *b, struct mp_error *err) {
    enum mp_status status = check_batching(b->batching, err);
    if (status != MP_OK)
        return status;
    b->used = mp_calloc((size_t)b->part->n / 32 + 1, sizeof *b->used);
    if (b->used == NULL)
        return mp_nomem(err, "the steps");
    bool decode = b->batching->phase == MP_PHASE_DECODE;
    status = assign_homes(b, err);
    if (status != MP_OK) {
        mp_free(b->home);
        mp_free(b->used);
        return status;
    }
    if (b->batching->resample)
        status = decode ? mp_steps_decode_bootstrap(b, err) : mp_steps_prefill_bootstrap(b, err);
    else
        status = decode ? mp_steps_decode(b, err) : mp_steps_prefill(b, err);
    b->workload->is_bootstrap = b->batching->resample;
    mp_free(b->home);
    mp_free(b->used);
    return status;
}

enum mp_status mp_workload_build(struct mp_workload **out, const struct mp_part *part,
                                 const struct mp_batching *batching, struct mp_error *err) {
    *out = NULL;
    if (batching->n_ranks == 0 || batching->n_ranks > MP_MAX_GPUS)
        return mp_fail(err, MP_EUSAGE, "%u source ranks are not in [1, %u]", batching->n_ranks, MP_MAX_GPUS);
    if (part->n == 0)
        return mp_fail(err, MP_EINPUT, "the part of the trace is empty (use another split or a larger trace)");
    struct mp_arena *arena = mp_arena_new();
    struct mp_workload *w = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *w) : NULL;
    if (w == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "the workload");
    }
    *w =
        (struct mp_workload){.trace = part->trace, .batching = *batching, .n_ranks = batching->n_ranks, .arena = arena};
    enum mp_status status;
    if (part->trace->kind == MP_TRACE_COUNTS) {
        status = build_counts(w, part, err);
    } else {
        struct mp_step_builder b = {.part = part, .batching = batching, .workload = w, .arena = arena};
        status = build_tokens(&b, err);
    }
    if (status != MP_OK) {
        mp_arena_free(arena);
        return status;
    }
    *out = w;
    return MP_OK;
}

void mp_workload_free(struct mp_workload *w) {
    if (w != NULL)
        mp_arena_free(w->arena);
}
