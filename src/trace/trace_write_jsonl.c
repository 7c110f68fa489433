/* A line per token and layer. Weights are written with as many digits as bring the same 16 bits back. */
#include "trace_describe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_ids(const void *pa, const void *pb) {
    const uint64_t *a = pa, *b = pb;
    return *a < *b ? -1 : *a > *b;
}

/* Lines of two requests with one id would become one request. */
static enum mp_status check_requests(const struct mp_trace *t, struct mp_error *err) {
    uint64_t *ids = mp_calloc(t->n_requests, sizeof *ids);
    enum mp_status status = MP_OK;
    if (ids == NULL)
        return mp_nomem(err, "requests");
    for (uint64_t i = 0; i < t->n_requests; i++) {
        const struct mp_request *q = &t->requests[i];
        ids[i] = q->id;
        if (q->id > INT64_MAX || q->first_position > MP_MAX_TOKENS || q->n_rows > MP_MAX_TOKENS - q->first_position)
            status = mp_fail(err, MP_EINPUT, "jsonl cannot carry request %llu at position %llu (write native or npz)",
                             (unsigned long long)q->id, (unsigned long long)q->first_position);
    }
    qsort(ids, t->n_requests, sizeof *ids, compare_ids);
    for (uint64_t i = 1; i < t->n_requests && status == MP_OK; i++)
        if (ids[i] == ids[i - 1])
            status = mp_fail(err, MP_EINPUT, "jsonl cannot carry two requests with the id %llu (write native or npz)",
                             (unsigned long long)ids[i]);
    mp_free(ids);
    return status;
}

/* The longest list decides what a reader takes for top_k, which is described; nothing else does. */
static enum mp_status write_jsonl(const struct mp_trace *t, struct mp_out *o, struct mp_out *table,
                                  struct mp_error *err) {
    (void)table;
    enum mp_status status = trace_write_check(t, "jsonl", MP_TRACE_TOKENS, err);
    if (status == MP_OK)
        status = check_requests(t, err);
    if (status != MP_OK)
        return status;
    trace_describe_write(t, false, o);
    mp_out_write(o, "\n", 1);
    uint16_t ids[MP_MAX_TOP_K];
    for (uint64_t r = 0; r < t->n_requests; r++) {
        const struct mp_request *q = &t->requests[r];
        for (uint64_t i = 0; i < q->n_rows; i++)
            for (uint32_t l = 0; l < t->n_layers; l++) {
                char line[64 + MP_MAX_TOP_K * 24];
                uint64_t row = q->first_row + i, chunk = row / MP_CHUNK_TOKENS;
                uint32_t used = mp_trace_row(t, l, row, ids);
                int n =
                    snprintf(line, sizeof line,
                             "{\"request\": %llu, \"position\": %llu, \"layer\": %u, "
                             "\"experts\": [",
                             (unsigned long long)q->id, (unsigned long long)(q->first_position + i), t->layer_ids[l]);
                mp_out_write(o, line, (size_t)n);
                n = 0;
                for (uint32_t k = 0; k < used; k++)
                    n += snprintf(line + n, sizeof line - (size_t)n, "%s%u", k > 0 ? ", " : "", ids[k]);
                mp_out_write(o, line, (size_t)n);
                mp_out_puts(o, "]");
                if (t->weight_chunks != NULL) {
                    uint64_t rows = trace_chunk_rows(t->n_rows, chunk);
                    const uint8_t *w = t->weight_chunks[chunk] + ((l * rows + row % MP_CHUNK_TOKENS) * t->top_k) * 2;
                    for (uint32_t k = used; k < t->top_k; k++)
                        if (w[k * 2] != 0 || w[k * 2 + 1] != 0)
                            return mp_fail(err, MP_EINPUT,
                                           "jsonl cannot carry a gate weight of an unused place (request %llu, "
                                           "position %llu; write native)",
                                           (unsigned long long)q->id, (unsigned long long)(q->first_position + i));
                    n = snprintf(line, sizeof line, ", \"weights\": [");
                    for (uint32_t k = 0; k < used; k++) {
                        uint16_t v;
                        memcpy(&v, w + (size_t)k * 2, 2);
                        uint32_t millionths = (uint32_t)(((uint64_t)v * 1000000 + 32767) / 65535);
                        n += snprintf(line + n, sizeof line - (size_t)n, "%s%u.%06u", k > 0 ? ", " : "",
                                      millionths / 1000000, millionths % 1000000);
                    }
                    mp_out_write(o, line, (size_t)n);
                    mp_out_puts(o, "]");
                }
                if (q->source != MP_NONE)
                    mp_out_printf(o, ", \"source\": %u", q->source);
                if (q->category != MP_NONE) {
                    mp_out_puts(o, ", \"category\": ");
                    trace_put_json_text(o, t->categories[q->category]);
                }
                mp_out_write(o, "}\n", 2);
            }
    }
    return MP_OK;
}

const struct trace_writer trace_writer_jsonl = {
    .name = "jsonl",
    .summary = "a line per token and layer: carries all but signatures (.jsonl, .jsonl.gz, .jsonl.zst)",
    .reference = "traces/FORMAT.md, \"Lines\"",
    .is_text = true,
    .write = write_jsonl,
};
