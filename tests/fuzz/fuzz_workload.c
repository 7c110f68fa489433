/* Bytes become a tiny trace, a split and a batching; whatever comes out must keep the rules that every reader of steps
 * relies on. */
#include <moeplan/base.h>
#include <moeplan/workload.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    const uint8_t *data;
    size_t left;
};
static uint32_t next(struct bytes *b, uint32_t least, uint32_t most) {
    uint32_t x = 0;
    if (b->left > 0) {
        x = *b->data++;
        b->left--;
    }
    return least + x % (most - least + 1);
}
static void must(bool holds) {
    if (!holds)
        abort();
}

static struct mp_trace *make_trace(struct bytes *b) {
    struct mp_error err = {0};
    struct mp_trace_builder *builder;
    uint32_t n_categories = next(b, 0, 3), category[3];
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "",
                                 .format = "fuzz",
                                 .n_layers = next(b, 1, 2),
                                 .n_experts = next(b, 2, 9),
                                 .top_k = next(b, 1, 2)};
    must(mp_trace_builder_new(&builder, &meta, &mp_limits_default, &err) == MP_OK);
    for (uint32_t c = 0; c < n_categories; c++) {
        char name[2] = {(char)('a' + c), '\0'};
        must(mp_trace_builder_category(builder, name, &category[c], &err) == MP_OK);
    }
    uint32_t n = next(b, 1, 40);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t kind = next(b, 0, 255), rows = next(b, 1, 20);
        struct mp_request r = {
            .id = kind & 1 ? i : kind, .source = kind & 2 ? kind >> 2 & 15 : MP_NONE, .category = MP_NONE};
        if (n_categories > 0 && (kind & 64) != 0)
            r.category = category[kind % n_categories];
        must(mp_trace_builder_request(builder, &r, &err) == MP_OK);
        for (uint32_t row = 0; row < rows; row++) {
            uint16_t ids[4];
            for (uint32_t j = 0; j < meta.n_layers * meta.top_k; j++)
                ids[j] = (uint16_t)((row + j) % meta.n_experts);
            must(mp_trace_builder_row(builder, ids, NULL, &err) == MP_OK);
        }
    }
    struct mp_trace *t = NULL;
    must(mp_trace_builder_finish(builder, NULL, &t, &err) == MP_OK);
    return t;
}

static bool is_member(const struct mp_part *p, uint64_t row) {
    for (uint32_t i = 0; i < p->n; i++) {
        const struct mp_request *r = &p->trace->requests[p->members[i]];
        if (row >= r->first_row && row - r->first_row < r->n_rows)
            return true;
    }
    return false;
}

static void check(const struct mp_workload *w, const struct mp_part *p) {
    uint64_t rows = 0, tokens_sum = 0, load_sum = 0;
    uint8_t used[1024] = {0};
    must(w->n_steps > 0 && w->n_requests > 0 && w->n_requests <= p->n);
    for (uint32_t s = 0; s < w->n_steps; s++) {
        const struct mp_step *step = &w->steps[s];
        uint32_t of_rank[16] = {0}, tokens[16 * 16];
        must(step->n > 0);
        for (uint32_t i = 0; i < step->n; i++) {
            must(is_member(p, step->row[i]) && step->source[i] < w->n_ranks);
            must(i == 0 || step->source[i] >= step->source[i - 1]);
            must(w->is_bootstrap || used[step->row[i]]++ == 0);
            of_rank[step->source[i]]++;
        }
        for (uint32_t r = 0; r < w->n_ranks; r++)
            must(w->batching.pad_tokens < 2 || (of_rank[r] + step->padding[r]) % w->batching.pad_tokens == 0);
        mp_workload_tokens(w, s, 0, tokens);
        for (uint32_t i = 0; i < w->n_ranks * w->trace->n_experts; i++)
            tokens_sum += tokens[i];
        rows += step->n;
    }
    uint64_t load[16];
    mp_workload_load(w, 0, load);
    for (uint32_t e = 0; e < w->trace->n_experts; e++)
        load_sum += load[e];
    must(rows == w->n_rows && load_sum == tokens_sum && load_sum == rows * w->trace->top_k);
}

static bool same(const struct mp_workload *a, const struct mp_workload *b) {
    if (a->n_steps != b->n_steps || a->n_rows != b->n_rows || a->n_requests != b->n_requests)
        return false;
    for (uint32_t s = 0; s < a->n_steps; s++)
        if (a->steps[s].n != b->steps[s].n ||
            memcmp(a->steps[s].row, b->steps[s].row, a->steps[s].n * sizeof *a->steps[s].row) != 0)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bytes b = {data, size};
    static const char *const splits[] = {"none", "0.5", "time:0.3", "category:a", "category:a,b", "0.9", "hash:0.01"};
    struct mp_split split;
    struct mp_error err = {0};
    must(mp_split_parse(&split, splits[next(&b, 0, 6)], next(&b, 0, 255), &err) == MP_OK);
    struct mp_batching batching = {.phase = (enum mp_phase)next(&b, 0, 4),
                                   .n_ranks = next(&b, 0, 16),
                                   .batch_per_rank = next(&b, 0, 8),
                                   .tokens_per_rank = next(&b, 0, 40),
                                   .source_skew_ppm = next(&b, 0, 20) * 200000,
                                   .pad_tokens = next(&b, 0, 8),
                                   .n_steps_max = next(&b, 0, 9),
                                   .resample = next(&b, 0, 1) == 1,
                                   .seed = next(&b, 0, 255)};
    struct mp_trace *t = make_trace(&b);
    struct mp_part planning, held_out;
    if (mp_part_split(&planning, &held_out, t, &split, &err) == MP_OK) {
        const struct mp_part *parts[] = {&planning, &held_out};
        for (int i = 0; i < 2; i++) {
            struct mp_workload *w, *again;
            err = (struct mp_error){0};
            enum mp_status status = mp_workload_build(&w, parts[i], &batching, &err);
            must(status == MP_OK || (w == NULL && err.message[0] != '\0'));
            must(status == MP_OK || status == MP_EINPUT || status == MP_EUSAGE);
            if (status != MP_OK)
                continue;
            check(w, parts[i]);
            must(mp_workload_build(&again, parts[i], &batching, &err) == MP_OK && same(w, again));
            mp_workload_free(w);
            mp_workload_free(again);
        }
        mp_part_free(&planning);
        mp_part_free(&held_out);
    } else {
        must(err.message[0] != '\0' && planning.members == NULL && held_out.members == NULL);
    }
    mp_trace_free(t);
    return 0;
}
