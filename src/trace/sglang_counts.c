/* SGLang's stat and per_pass recordings: counts. */
#include "recording_rows.h"
#include "sglang_parts.h"

/* The layers that ever count anything. */
static uint32_t keep_layers(const bool *is_used, uint32_t n_layers, uint32_t *ids) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < n_layers; l++)
        if (is_used[l])
            ids[n++] = l;
    return n;
}

/* "logical_count": [buffer][layers][experts]. The buffer is circular: rows never used are zero, and after a wrap they
 * are not in time order. */
enum mp_status sglang_read_stat(struct mp_trace **out, struct sglang_recording *r, const struct mp_trace_hints *hints,
                                const struct mp_limits *limits, struct mp_error *err) {
    struct torch_file *f = r->files[0];
    const struct mp_pickle_tensor *t;
    const uint8_t *bytes;
    uint32_t item, ids[MP_MAX_LAYERS];
    uint64_t at, bad = 0;
    bool is_used[MP_MAX_LAYERS] = {false};
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    MP_TRY(torch_file_numbers(f, mp_pickle_get(f->root, "logical_count"), "logical_count", 3, &t, &bytes, &item, &at,
                              err));
    uint64_t n_rows = t->size[0];
    if (n_rows == 0 || t->size[1] == 0 || t->size[1] > MP_MAX_LAYERS || t->size[2] == 0 ||
        t->size[2] > MP_MAX_EXPERTS) {
        status = sglang_bad(f->in, err,
                            "logical_count: shape (%llu, %llu, %llu) is not [buffer, 1..%u layers, 1..%u experts]",
                            (unsigned long long)n_rows, (unsigned long long)t->size[1], (unsigned long long)t->size[2],
                            MP_MAX_LAYERS, MP_MAX_EXPERTS);
        goto out;
    }
    uint32_t n_layers = (uint32_t)t->size[1], n_experts = (uint32_t)t->size[2];
    if (hints->n_experts != 0 && hints->n_experts != n_experts) {
        status =
            sglang_bad(f->in, err, "logical_count: has %u experts, but --experts says %u", n_experts, hints->n_experts);
        goto out;
    }
    size_t row = (size_t)n_experts * item;
    for (uint32_t l = 0; l < n_layers; l++)
        for (uint64_t i = 0; i < n_rows && !is_used[l]; i++)
            is_used[l] = !all_zero(bytes + (i * n_layers + l) * row, row);
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "sglang_pt",
                                 .n_experts = n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = ids};
    meta.n_layers = keep_layers(is_used, n_layers, ids);
    if (meta.n_layers == 0) {
        status = sglang_bad(f->in, err,
                            "logical_count: every count is 0 (send requests between start and stop of the recording)");
        goto out;
    }
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    uint64_t n_used = 0;
    for (uint64_t i = 0; i < n_rows; i++)
        n_used += !all_zero(bytes + i * n_layers * row, n_layers * row);
    MP_TRY(trace_builder_reserve(b, n_used, err));
    for (uint64_t i = 0; i < n_rows; i++) {
        if (all_zero(bytes + i * n_layers * row, n_layers * row))
            continue;
        MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
        for (uint32_t l = 0; l < meta.n_layers; l++) {
            uint64_t cell = (i * n_layers + ids[l]) * n_experts;
            status = trace_builder_add(b, l, bytes + cell * item, item, n_experts, NULL, &bad, err);
            if (status == MP_EINPUT)
                (void)recording_bad_count(f->in, at + (cell + bad) * item, number_at(bytes, item, cell + bad), err);
            if (status != MP_OK)
                goto out;
        }
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    return status;
}

/* The counts of one record; the shape is the map's. */
static enum mp_status record_counts(struct sglang_recording *r, const struct sglang_record *record,
                                    const uint8_t **bytes, uint32_t *item, uint64_t *at, struct mp_error *err) {
    const struct mp_pickle_tensor *t;
    enum mp_status status = torch_file_numbers(record->file, mp_pickle_get(record->dict, "global_physical_count"),
                                               "global_physical_count", 2, &t, bytes, item, at, err);
    if (status == MP_OK && (t->size[0] != r->n_layers || t->size[1] != r->n_physical))
        return sglang_bad(record->file->in, err,
                          "pass %lld, rank %u: global_physical_count has shape (%llu, %llu), the map (%u, %u)",
                          (long long)record->pass, record->rank, (unsigned long long)t->size[0],
                          (unsigned long long)t->size[1], r->n_layers, r->n_physical);
    return status;
}

/* Counts per pass, summed over the ranks, folded from slots to experts. A pass that some rank did not record (the first
 * and last ones of a recording) is left out: its sum would be wrong. */
enum mp_status sglang_read_per_pass(struct mp_trace **out, struct sglang_recording *r,
                                    const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                    struct mp_error *err) {
    const uint8_t *bytes;
    uint32_t item, ids[MP_MAX_LAYERS], index[MP_MAX_LAYERS];
    uint64_t at, bad = 0, n_kept = 0;
    bool is_used[MP_MAX_LAYERS] = {false};
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    for (uint64_t k = 0; k < r->n_records; k++) {
        MP_TRY(record_counts(r, &r->records[k], &bytes, &item, &at, err));
        for (uint32_t l = 0; l < r->n_layers; l++)
            is_used[l] |= !all_zero(bytes + (size_t)l * r->n_physical * item, (size_t)r->n_physical * item);
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "sglang_pt",
                                 .is_time_ordered = true,
                                 .n_experts = r->n_logical,
                                 .top_k = hints->top_k,
                                 .layer_ids = ids};
    meta.n_layers = keep_layers(is_used, r->n_layers, ids);
    if (meta.n_layers == 0) {
        status = mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                            "every count is 0 (send requests between start and stop of the recording)");
        goto out;
    }
    for (uint32_t l = 0; l < meta.n_layers; l++)
        index[ids[l]] = l;
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    for (uint64_t first = 0, end; first < r->n_records; first = end) {
        for (end = first; end < r->n_records && r->records[end].pass == r->records[first].pass;)
            end++;
        if (end - first != r->n_ranks)
            continue;
        n_kept++;
        MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
        for (uint64_t k = first; k < end; k++) {
            MP_TRY(record_counts(r, &r->records[k], &bytes, &item, &at, err));
            for (uint32_t l = 0; l < r->n_layers; l++) {
                uint64_t cell = (uint64_t)l * r->n_physical;
                if (!is_used[l])
                    continue;
                status = trace_builder_add(b, index[l], bytes + cell * item, item, r->n_physical, r->logical + cell,
                                           &bad, err);
                if (status == MP_EINPUT)
                    (void)recording_bad_count(r->records[k].file->in, at + (cell + bad) * item,
                                              number_at(bytes, item, cell + bad), err);
                if (status != MP_OK)
                    goto out;
            }
        }
    }
    if (n_kept == 0) {
        status =
            mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                       "no forward pass was recorded by all %u ranks (keep the files of one recording)", r->n_ranks);
        goto out;
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    return status;
}
