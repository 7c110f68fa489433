/* NumPy arrays (.npz members or a bare .npy): topk_ids [tokens, layers, k] with a requests table beside it, or counts
 * whose axes are asked for. A member is inflated straight into the trace; the array is never held as a whole. */
#include "csv_text.h"
#include "trace_describe.h"
#include <moeplan/progress.h>
#include <moeplan/npy.h>
#include "zip_container.h"
#include <stdio.h>
#include <string.h>

/* The bytes of one array, wherever they lie. */
struct source {
    const struct mp_in *in;
    const char *name;      /* of the member without .npy, or "" */
    struct zip_archive *z; /* NULL for a bare .npy */
    struct zip_stream *stream;
    uint64_t at, bytes, start; /* next byte, all bytes, offset in the file for messages */
};

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return 0;
    if (in->size >= 6 && memcmp(in->data, MP_NPY_MAGIC, 6) == 0)
        return 90;
    const char *name;
    size_t n;
    if (zip_first_name(in, &name, &n))
        return n > 4 && memcmp(name + n - 4, ".npy", 4) == 0 ? 90 : 0;
    n = strlen(path);
    return n > 4 && (strcmp(path + n - 4, ".npz") == 0 || strcmp(path + n - 4, ".npy") == 0) ? 2 : 0;
}

static enum mp_status take(struct source *s, void *buf, size_t n, struct mp_error *err) {
    size_t got = 0;
    if (s->z != NULL) {
        enum mp_status status = zip_stream_read(s->stream, buf, n, &got, err);
        if (status != MP_OK)
            return status;
    } else {
        got = s->bytes - s->at < n ? (size_t)(s->bytes - s->at) : n;
        memcpy(buf, s->in->data + s->at, got);
    }
    s->at += got;
    if (got < n)
        return mp_fail_at(err, MP_EINPUT, s->in->path, 0, s->start + s->at + 1,
                          "the array ends after %llu bytes, inside its header", (unsigned long long)s->at);
    return MP_OK;
}

/* Which member holds the recording: one of the known names, or the only one. */
static enum mp_status choose_member(const struct zip_archive *z, uint32_t *out, struct mp_error *err) {
    static const char *const known[] = {"topk_ids.npy", "routed_experts.npy", "expert_counts.npy", "counts.npy",
                                        "logical_count.npy"};
    char names[256];
    size_t used = 0;
    *out = MP_NONE;
    for (size_t i = 0; i < sizeof known / sizeof known[0] && *out == MP_NONE; i++)
        *out = zip_find(z, known[i]);
    if (*out == MP_NONE && z->n_members == 1)
        *out = 0;
    if (*out != MP_NONE)
        return MP_OK;
    names[0] = '\0';
    for (uint32_t i = 0; i < z->n_members && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? ", " : "", z->members[i].name);
    return mp_fail_at(err, MP_EINPUT, z->path, 0, 0, "none of its arrays is topk_ids or counts (it holds %s)", names);
}

enum axes { AXES_NONE, AXES_TOKENS, AXES_LAYERS, AXES_ITERATIONS, AXES_SOURCES };

static enum mp_status find_axes(enum axes *out, const struct source *s, const struct mp_npy_header *h,
                                const struct mp_trace_hints *hints, struct mp_error *err) {
    static const char *const names[] = {"", "tokens,layers,k", "layers,experts", "iterations,layers,experts",
                                        "sources,layers,experts"};
    const char *path = s->in->path;
    *out = AXES_NONE;
    if (hints->axes != NULL) {
        for (int a = AXES_TOKENS; a <= AXES_SOURCES; a++)
            if (strcmp(hints->axes, names[a]) == 0)
                *out = (enum axes)a;
        if (*out == AXES_NONE)
            return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                              "--axes %s is not known (write tokens,layers,k, layers,experts, "
                              "iterations,layers,experts or sources,layers,experts)",
                              hints->axes);
    } else if (strcmp(s->name, "topk_ids") == 0 || strcmp(s->name, "routed_experts") == 0)
        *out = AXES_TOKENS;
    else
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                          "an array does not say what its %u axes are (give --axes tokens,layers,k, layers,experts, "
                          "iterations,layers,experts or sources,layers,experts%s)",
                          h->n_dims,
                          s->z == NULL && h->n_dims == 3 ? "; for routed experts --input-format routed_npy" : "");
    uint32_t want = *out == AXES_LAYERS ? 2 : 3;
    if (h->n_dims != want)
        return mp_fail_at(err, MP_EINPUT, path, 0, s->start + 1, "the array has %u dimensions, not the %u of %s",
                          h->n_dims, want, names[*out]);
    for (uint32_t d = 0; d < h->n_dims; d++)
        if (h->shape[d] == 0)
            return mp_fail_at(err, MP_EINPUT, path, 0, s->start + 1, "the array is empty: dimension %u of %s is 0", d,
                              names[*out]);
    return MP_OK;
}

/* Turns slots into experts, in place, ids[n][n_layers][k] of `bytes` each into uint16. */
static enum mp_status map_ids(const struct trace_map *map, const uint8_t *ids, uint32_t bytes, uint64_t first_row,
                              uint64_t n, uint64_t n_layers, uint64_t k, uint16_t *out, const char *path,
                              struct mp_error *err) {
    uint64_t all = bytes == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * bytes)) - 1;
    for (uint64_t i = 0; i < n * n_layers * k; i++) {
        uint64_t v = 0;
        memcpy(&v, ids + i * bytes, bytes);
        uint64_t layer = i / k % n_layers;
        if (v < map->n_physical)
            out[i] = (uint16_t)map->logical[layer * map->n_physical + v];
        else if (v == all)
            out[i] = MP_NO_EXPERT;
        else
            return mp_fail_at(err, MP_EINPUT, path, 0, 0, "row %llu, layer %llu: slot %llu is not in [0, %u)",
                              (unsigned long long)(first_row + i / k / n_layers), (unsigned long long)layer,
                              (unsigned long long)v, map->n_physical);
    }
    return MP_OK;
}

/* What moeplan says about an archive that it wrote: the bytes of a JSON object, as an array. */
static enum mp_status read_description(struct trace_described *d, const struct source *s,
                                       const struct mp_limits *limits, struct mp_error *err) {
    uint32_t member = s->z != NULL ? zip_find(s->z, DESCRIBE_KEY ".npy") : MP_NONE;
    const uint8_t *bytes;
    uint8_t *owned = NULL;
    uint64_t header_bytes = 0;
    struct mp_npy_header h;
    if (member == MP_NONE)
        return MP_OK;
    const struct zip_member *m = &s->z->members[member];
    const char *path = s->in->path;
    enum mp_status status = zip_read(s->z, member, limits->line_bytes, &bytes, &owned, err);
    if (status != MP_OK)
        return status;
    MP_TRY(mp_npy_header_bytes(bytes, m->bytes < MP_NPY_PREFIX ? (size_t)m->bytes : MP_NPY_PREFIX, path, m->data_offset,
                               limits, &header_bytes, err));
    if (header_bytes > m->bytes) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, m->data_offset + 1, "member %s ends inside its header", m->name);
        goto out;
    }
    MP_TRY(mp_npy_header_parse(&h, bytes, header_bytes, false, path, m->data_offset, err));
    if (h.item_bytes != 1 || h.n_dims != 1 || h.data_bytes != m->bytes - header_bytes) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, m->data_offset + 1,
                            "member %s is not a list of bytes (a JSON object)", m->name);
        goto out;
    }
    MP_TRY(trace_describe_parse(d, (const char *)bytes + header_bytes, h.data_bytes, path, 0, limits, err));
out:
    mp_free(owned);
    return status;
}

/* Categories in the order that was described, and then the others, in the builder; the table's indexes follow. */
static enum mp_status settle_categories(struct request_table *table, const struct trace_described *d,
                                        struct mp_trace_builder *b, struct mp_error *err) {
    enum mp_status status = trace_names_to_builder(&d->categories, b, err);
    uint32_t *index = mp_calloc(table->categories.n, sizeof *index);
    if (status == MP_OK && index == NULL)
        status = mp_nomem(err, "categories");
    for (uint32_t i = 0; i < table->categories.n && status == MP_OK; i++)
        status = mp_trace_builder_category(b, table->categories.names[i], &index[i], err);
    for (uint64_t r = 0; r < table->n && status == MP_OK; r++)
        if (table->requests[r].category != MP_NONE)
            table->requests[r].category = index[table->requests[r].category];
    mp_free(index);
    return status;
}

static enum mp_status read_tokens(struct mp_trace **out, struct source *s, const struct mp_npy_header *h,
                                  const struct mp_trace_hints *hints, const struct trace_described *described,
                                  const struct mp_limits *limits, struct mp_error *err) {
    const char *path = s->in->path;
    /* The reader of routed experts passes arrays with a requests table on. */
    const char *format = hints->format != NULL && strcmp(hints->format, "routed_npy") == 0 ? "routed_npy" : "npz";
    struct mp_trace_builder *b = NULL;
    struct request_table table = {0};
    struct trace_map map = {0};
    struct mp_in *requests = NULL;
    char one_request[64];
    uint8_t *buf = NULL;
    uint16_t *mapped = NULL;
    uint32_t layer_ids[MP_MAX_LAYERS];
    enum mp_status status = trace_ask(
        path, format,
        (struct trace_needs){.layer_base = true, .phase = !described->is_phase_unknown, .ids = true, .experts = true},
        hints, err);
    if (status != MP_OK)
        return status;
    uint64_t n_rows = h->shape[0], n_layers = h->shape[1], k = h->shape[2];
    if (n_rows > MP_MAX_TOKENS || n_layers > MP_MAX_LAYERS || k > MP_MAX_TOP_K)
        return mp_fail_at(
            err, MP_ELIMIT, path, 0, s->start + 1,
            "[%llu, %llu, %llu] tokens, layers, k pass the limits %llu, %u, %u (are the axes in this order?)",
            (unsigned long long)n_rows, (unsigned long long)n_layers, (unsigned long long)k,
            (unsigned long long)MP_MAX_TOKENS, MP_MAX_LAYERS, MP_MAX_TOP_K);
    if (hints->top_k != 0 && hints->top_k != k)
        return mp_fail_at(err, MP_EINPUT, path, 0, s->start + 1,
                          "the array has %llu experts per token but --top-k or the model says %u",
                          (unsigned long long)k, hints->top_k);
    uint64_t id_bytes = hints->n_experts <= 255 ? 1 : 2;
    if (limits->memory_bytes != 0 && n_rows > limits->memory_bytes / (n_layers * k * id_bytes))
        return mp_fail_at(err, MP_ELIMIT, path, 0, s->start + 1,
                          "%llu tokens need more than the memory limit of %llu bytes "
                          "(raise --mem-limit, or convert it in parts)",
                          (unsigned long long)n_rows, (unsigned long long)limits->memory_bytes);
    if (described->n_layers != 0 && described->n_layers != n_layers)
        return mp_fail_at(err, MP_EINPUT, path, 0, s->start + 1, "%u layers are described, the array has %llu",
                          described->n_layers, (unsigned long long)n_layers);
    MP_TRY(trace_check_base(path, hints->layer_base, n_layers, err));
    for (uint32_t l = 0; l < n_layers; l++)
        layer_ids[l] = described->n_layers != 0 ? described->layers[l] : (uint32_t)hints->layer_base + l;
    struct mp_error refused = {0};
    status = request_table_open(&requests, path, hints, &refused);
    if (status == MP_EUSAGE && hints->missing != NULL) {
        hints->missing->requests = true;
        (void)snprintf(one_request, sizeof one_request, "request,first_row,tokens\n0,0,%llu\n",
                       (unsigned long long)n_rows);
        status = mp_in_from_memory(&requests, path, one_request, strlen(one_request), &refused);
    }
    if (status != MP_OK) {
        (void)trace_fail_at(err, &refused, path, 0, 0);
        goto out;
    }
    MP_TRY(request_table_read(&table, requests, n_rows, limits, err));
    if (hints->ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints->map_path, limits, err));
        if (map.n_layers != n_layers || map.n_logical > hints->n_experts) {
            status = mp_fail_at(err, MP_EINPUT, hints->map_path, 0, 0,
                                "the map has %u layers and %u experts, the recording %llu and %u", map.n_layers,
                                map.n_logical, (unsigned long long)n_layers, hints->n_experts);
            goto out;
        }
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = format,
                                 .is_synthetic = described->is_synthetic,
                                 .is_ranked = hints->is_ranked == 1,
                                 .is_time_ordered = described->is_time_ordered != 0,
                                 .n_layers = (uint32_t)n_layers,
                                 .n_experts = hints->n_experts,
                                 .top_k = (uint32_t)k,
                                 .layer_ids = layer_ids,
                                 .has_unused = h->is_signed};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(settle_categories(&table, described, b, err));
    size_t row_bytes = (size_t)(n_layers * k) * h->item_bytes;
    uint64_t per_read = ((size_t)256 << 10) / row_bytes + 1, row = 0;
    if (per_read > n_rows)
        per_read = n_rows;
    buf = mp_realloc(NULL, per_read, row_bytes);
    if (map.logical != NULL)
        mapped = mp_realloc(NULL, per_read * n_layers * k, sizeof *mapped);
    if (buf == NULL || (map.logical != NULL && mapped == NULL)) {
        status = mp_nomem(err, path);
        goto out;
    }
    mp_progress_expect(hints->part, n_rows * row_bytes); /* unpacked */
    for (uint64_t r = 0; r < table.n; r++) {
        MP_TRY(mp_trace_builder_request(b, &table.requests[r], err));
        for (uint64_t left = table.requests[r].n_rows, n; left > 0; left -= n, row += n) {
            n = left < per_read ? left : per_read;
            MP_TRY(take(s, buf, n * row_bytes, err));
            mp_progress_add(hints->part, n * row_bytes);
            if (map.logical != NULL) {
                MP_TRY(map_ids(&map, buf, h->item_bytes, row, n, n_layers, k, mapped, path, err));
                MP_TRY(mp_trace_builder_rows(b, mapped, 2, n, err));
            } else
                MP_TRY(mp_trace_builder_rows(b, buf, h->item_bytes, n, err));
        }
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
    if (h->is_signed && !described->is_there && (status = trace_drop_empty_layers(*out, err)) != MP_OK) {
        mp_trace_free(*out);
        *out = NULL;
    }
out:
    mp_trace_builder_free(b);
    request_table_clear(&table);
    trace_map_clear(&map);
    mp_in_close(requests);
    mp_free(buf);
    mp_free(mapped);
    return status;
}

static enum mp_status read_counts(struct mp_trace **out, struct source *s, const struct mp_npy_header *h,
                                  enum axes axes, const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                  struct mp_error *err) {
    const char *path = s->in->path;
    struct mp_trace_builder *b = NULL;
    struct trace_map map = {0};
    uint8_t *buf = NULL;
    uint32_t layer_ids[MP_MAX_LAYERS];
    enum mp_status status =
        trace_ask(path, "npz", (struct trace_needs){.layer_base = true, .phase = true, .ids = true}, hints, err);
    if (status != MP_OK)
        return status;
    uint64_t n_outer = axes == AXES_LAYERS ? 1 : h->shape[0], n_layers = h->shape[h->n_dims - 2],
             n_columns = h->shape[h->n_dims - 1];
    if (n_layers > MP_MAX_LAYERS || n_columns > MP_MAX_EXPERTS || (axes == AXES_SOURCES && n_outer > MP_MAX_GPUS) ||
        n_outer > UINT32_MAX / 2)
        return mp_fail_at(err, MP_ELIMIT, path, 0, s->start + 1,
                          "%llu x %llu layers x %llu experts pass the limits (are the axes in this order?)",
                          (unsigned long long)n_outer, (unsigned long long)n_layers, (unsigned long long)n_columns);
    MP_TRY(trace_check_base(path, hints->layer_base, n_layers, err));
    for (uint32_t l = 0; l < n_layers; l++)
        layer_ids[l] = (uint32_t)hints->layer_base + l;
    uint64_t n_experts = n_columns;
    if (hints->ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints->map_path, limits, err));
        if (map.n_layers != n_layers || map.n_physical != n_columns) {
            status = mp_fail_at(err, MP_EINPUT, hints->map_path, 0, 0,
                                "the map has %u layers and %u slots, the recording %llu and %llu", map.n_layers,
                                map.n_physical, (unsigned long long)n_layers, (unsigned long long)n_columns);
            goto out;
        }
        n_experts = map.n_logical;
    }
    if (hints->n_experts != 0 && hints->n_experts != n_experts) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, s->start + 1,
                            "the array has %llu experts but --experts or the model says %u",
                            (unsigned long long)n_experts, hints->n_experts);
        goto out;
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "npz",
                                 .is_time_ordered = true,
                                 .n_layers = (uint32_t)n_layers,
                                 .n_experts = (uint32_t)n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = layer_ids,
                                 .n_sources = axes == AXES_SOURCES ? (uint32_t)n_outer : 1};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    size_t row_bytes = (size_t)n_columns * h->item_bytes;
    buf = mp_realloc(NULL, 1, row_bytes);
    if (buf == NULL) {
        status = mp_nomem(err, path);
        goto out;
    }
    for (uint64_t o = 0; o < n_outer; o++) {
        if (axes != AXES_SOURCES || o == 0)
            MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
        for (uint32_t l = 0; l < n_layers; l++) {
            uint64_t at = s->start + s->at;
            MP_TRY(take(s, buf, row_bytes, err));
            for (uint32_t e = 0; e < n_columns; e++) {
                uint64_t v = 0;
                memcpy(&v, buf + (size_t)e * h->item_bytes, h->item_bytes);
                if (h->is_signed && v >> (8 * h->item_bytes - 1) != 0) {
                    status =
                        mp_fail_at(err, MP_EINPUT, path, 0, s->z != NULL ? 0 : at + (uint64_t)e * h->item_bytes + 1,
                                   "the count of layer %u, expert %u is negative", layer_ids[l], e);
                    goto out;
                }
                uint32_t expert = map.logical != NULL ? map.logical[(size_t)l * map.n_physical + e] : e;
                MP_TRY(mp_trace_builder_count(b, axes == AXES_SOURCES ? (uint32_t)o : 0, l, expert, v, err));
            }
        }
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    trace_map_clear(&map);
    mp_free(buf);
    return status;
}

static enum mp_status read_npz(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                               const struct mp_trace_hints *given, const struct mp_limits *limits,
                               struct mp_error *err) {
    (void)keep_in;
    *out = NULL;
    struct mp_trace_hints settled = *given, *hints = &settled;
    struct trace_described described = {0};
    trace_described_clear(&described);
    struct source s = {.in = in, .name = "", .bytes = in->size};
    char name[64] = "";
    uint8_t *header = NULL;
    enum mp_status status = MP_OK;
    if (zip_is_archive(in)) {
        uint32_t member;
        MP_TRY(zip_open(&s.z, in, limits, err));
        MP_TRY(choose_member(s.z, &member, err));
        MP_TRY(zip_stream_open(&s.stream, s.z, member, err));
        const struct zip_member *m = &s.z->members[member];
        size_t n = strlen(m->name);
        if (n > 4 && n < sizeof name && strcmp(m->name + n - 4, ".npy") == 0)
            memcpy(name, m->name, n - 4);
        s.name = name;
        s.bytes = m->bytes;
        s.start = m->data_offset;
    }
    uint8_t prefix[MP_NPY_PREFIX] = {0};
    uint64_t header_bytes;
    struct mp_npy_header h;
    size_t n_prefix = s.bytes < MP_NPY_PREFIX ? (size_t)s.bytes : MP_NPY_PREFIX;
    MP_TRY(take(&s, prefix, n_prefix, err));
    MP_TRY(mp_npy_header_bytes(prefix, n_prefix, in->path, s.start, limits, &header_bytes, err));
    if (header_bytes > s.bytes || header_bytes < n_prefix) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, s.start + 9,
                            "the array's header of %llu bytes does not fit its %llu bytes",
                            (unsigned long long)header_bytes, (unsigned long long)s.bytes);
        goto out;
    }
    header = mp_calloc(header_bytes, 1);
    if (header == NULL) {
        status = mp_nomem(err, in->path);
        goto out;
    }
    memcpy(header, prefix, n_prefix);
    MP_TRY(take(&s, header + n_prefix, header_bytes - n_prefix, err));
    MP_TRY(mp_npy_header_parse(&h, header, header_bytes, false, in->path, s.start, err));
    if (h.data_bytes != s.bytes - header_bytes) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, s.start + header_bytes + 1,
                            "the array's header promises %llu bytes of data but %llu follow (is the file cut short?)",
                            (unsigned long long)h.data_bytes, (unsigned long long)(s.bytes - header_bytes));
        goto out;
    }
    MP_TRY(read_description(&described, &s, limits, err));
    MP_TRY(trace_describe_settle(&settled, &described, path, err));
    enum axes axes;
    MP_TRY(find_axes(&axes, &s, &h, hints, err));
    if (axes == AXES_TOKENS)
        MP_TRY(read_tokens(out, &s, &h, hints, &described, limits, err));
    else
        MP_TRY(read_counts(out, &s, &h, axes, hints, limits, err));
out:
    mp_free(header);
    trace_described_clear(&described);
    zip_stream_close(s.stream);
    zip_close(s.z);
    return status;
}

const struct mp_trace_format mp_trace_format_npz = {
    .name = "npz",
    .summary = "NumPy array of top-k ids [tokens, layers, k] with a requests table, or of counts (.npz, .npy)",
    .reference = "traces/FORMAT.md, \"Arrays\"",
    .probe = probe,
    .read = read_npz,
};
