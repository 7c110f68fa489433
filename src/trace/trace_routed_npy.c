/* Routed experts as serving APIs return them and RL stacks keep them: a folder with one .npy [tokens, layers, k] per
 * request, named after it, or one such file. -1 is an unused place; a layer without experts (SGLang has a row for every
 * layer, dense ones too) is all -1 and is left out. One array of many requests, with a requests table, is read as npz
 * reads it. */
#include "csv_text.h"
#include "recording_folder.h"
#include <moeplan/npy.h>
#include <stdio.h>
#include <string.h>

extern const struct mp_trace_format mp_trace_format_npz;

static bool wanted(const char *name, uint64_t keys[3]) {
    size_t n = name_without_packing(name);
    if (n < 5 || name[0] == '.' || memcmp(name + n - 4, ".npy", 4) != 0)
        return false;
    /* Numbers first, in their order; other names behind them, in theirs. */
    if (mp_parse_u64(name, n - 4, &keys[1]))
        return true;
    keys[0] = 1;
    return true;
}

/* A file alone is never recognised as this, it could hold counts: the format must be named. */
static int probe(const char *path, const struct mp_in *in) { return in == NULL && folder_has(path, wanted) ? 50 : 0; }

struct array {
    struct mp_npy_header h;
    const uint8_t *data;
    uint64_t at; /* of the data in the file */
};

static enum mp_status read_array(struct array *a, const struct mp_in *in, const struct mp_limits *limits,
                                 struct mp_error *err) {
    uint64_t header_bytes;
    enum mp_status status = mp_npy_header_bytes(in->data, in->size < MP_NPY_PREFIX ? in->size : MP_NPY_PREFIX, in->path,
                                                0, limits, &header_bytes, err);
    if (status != MP_OK)
        return status;
    if (header_bytes > in->size)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 9, "the array's header of %llu bytes does not fit its %zu bytes",
                          (unsigned long long)header_bytes, in->size);
    status = mp_npy_header_parse(&a->h, in->data, header_bytes, false, in->path, 0, err);
    if (status != MP_OK)
        return status;
    a->data = in->data + header_bytes;
    a->at = header_bytes;
    if (a->h.data_bytes != in->size - header_bytes)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, header_bytes + 1,
                          "the array's header promises %llu bytes of data but %llu follow (is the file cut short?)",
                          (unsigned long long)a->h.data_bytes, (unsigned long long)(in->size - header_bytes));
    if (a->h.n_dims != 3 || a->h.shape[0] == 0 || a->h.shape[1] == 0 || a->h.shape[2] == 0)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                          "is not an array [tokens, layers, k] with something in it (it has %u dimensions)",
                          a->h.n_dims);
    if (a->h.shape[0] > MP_MAX_TOKENS || a->h.shape[1] > MP_MAX_LAYERS || a->h.shape[2] > MP_MAX_TOP_K)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, 1,
                          "[%llu, %llu, %llu] tokens, layers, k pass the limits (are the axes in this order?)",
                          (unsigned long long)a->h.shape[0], (unsigned long long)a->h.shape[1],
                          (unsigned long long)a->h.shape[2]);
    return MP_OK;
}

/* Slots into experts. */
static enum mp_status map_rows(const struct trace_map *map, const struct array *a, uint64_t first, uint64_t n,
                               uint16_t *out, const char *path, struct mp_error *err) {
    uint64_t k = a->h.shape[2], n_layers = a->h.shape[1], bytes = a->h.item_bytes;
    for (uint64_t i = 0; i < n * n_layers * k; i++) {
        uint64_t v = 0, at = first * n_layers * k + i, layer = i / k % n_layers;
        memcpy(&v, a->data + at * bytes, bytes);
        if (v < map->n_physical)
            out[i] = (uint16_t)map->logical[layer * map->n_physical + v];
        else if (a->h.is_signed && v == UINT64_MAX >> (64 - 8 * bytes))
            out[i] = MP_NO_EXPERT;
        else
            return mp_fail_at(err, MP_EINPUT, path, 0, a->at + at * bytes + 1,
                              "token %llu, layer %llu: slot %llu is not in [0, %u)",
                              (unsigned long long)(at / k / n_layers), (unsigned long long)layer, (unsigned long long)v,
                              map->n_physical);
    }
    return MP_OK;
}

struct reader {
    const char *path;
    const struct mp_trace_hints *hints;
    const struct mp_limits *limits;
    struct folder_list list;
    struct trace_map map;
    struct mp_trace_builder *b;
    uint64_t n_layers, k;
    bool is_numbered; /* every name is a number: the request's id */
    bool has_unused;
    uint16_t *mapped;
};

static enum mp_status start(struct reader *r, const struct array *a, struct mp_error *err) {
    uint32_t ids[MP_MAX_LAYERS];
    enum mp_status status = trace_check_base(r->path, r->hints->layer_base, a->h.shape[1], err);
    if (status != MP_OK)
        return status;
    r->n_layers = a->h.shape[1];
    r->k = a->h.shape[2];
    if (r->hints->top_k != 0 && r->hints->top_k != r->k)
        return mp_fail_at(err, MP_EINPUT, r->list.files[0].path, 0, 1,
                          "the array has %llu experts per token but --top-k or the model says %u",
                          (unsigned long long)r->k, r->hints->top_k);
    if (r->map.logical != NULL && (r->map.n_layers != r->n_layers || r->map.n_logical > r->hints->n_experts))
        return mp_fail_at(err, MP_EINPUT, r->hints->map_path, 0, 0,
                          "the map has %u layers and %u experts, the recording %llu and %u", r->map.n_layers,
                          r->map.n_logical, (unsigned long long)r->n_layers, r->hints->n_experts);
    for (uint32_t l = 0; l < r->n_layers; l++)
        ids[l] = (uint32_t)r->hints->layer_base + l;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = r->hints->phase,
                                 .model = r->hints->model_name,
                                 .format = "routed_npy",
                                 .is_ranked = r->hints->is_ranked == 1,
                                 .is_time_ordered = true,
                                 .n_layers = (uint32_t)r->n_layers,
                                 .n_experts = r->hints->n_experts,
                                 .top_k = (uint32_t)r->k,
                                 .layer_ids = ids,
                                 .has_unused = a->h.is_signed};
    r->has_unused = a->h.is_signed;
    return mp_trace_builder_new(&r->b, &meta, r->limits, err);
}

static enum mp_status add_request(struct reader *r, uint32_t i, const struct mp_in *in, struct mp_error *err) {
    enum { PART = 4096 };
    struct array a;
    struct mp_error inner = {0};
    enum mp_status status = read_array(&a, in, r->limits, err);
    if (status == MP_OK && i == 0)
        status = start(r, &a, err);
    if (status != MP_OK)
        return status;
    if (a.h.shape[1] != r->n_layers || a.h.shape[2] != r->k || a.h.is_signed != r->has_unused)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                          "has [%llu layers, %llu experts] of a %ssigned type, but %s has [%llu, %llu] of a %ssigned "
                          "one (keep one recording per folder)",
                          (unsigned long long)a.h.shape[1], (unsigned long long)a.h.shape[2], a.h.is_signed ? "" : "un",
                          r->list.files[0].name, (unsigned long long)r->n_layers, (unsigned long long)r->k,
                          r->has_unused ? "" : "un");
    struct mp_request q = {.id = r->is_numbered ? r->list.files[i].keys[1] : i, .source = MP_NONE, .category = MP_NONE};
    status = mp_trace_builder_request(r->b, &q, &inner);
    for (uint64_t row = 0, n; row < a.h.shape[0] && status == MP_OK; row += n) {
        n = a.h.shape[0] - row < PART ? a.h.shape[0] - row : PART;
        if (r->map.logical == NULL) {
            status = mp_trace_builder_rows(r->b, a.data + row * r->n_layers * r->k * a.h.item_bytes, a.h.item_bytes, n,
                                           &inner);
            continue;
        }
        if (r->mapped == NULL && (r->mapped = mp_realloc(NULL, PART * r->n_layers * r->k, 2)) == NULL)
            return mp_nomem(err, in->path);
        if ((status = map_rows(&r->map, &a, row, n, r->mapped, in->path, err)) == MP_OK)
            status = mp_trace_builder_rows(r->b, r->mapped, 2, n, &inner);
    }
    if (status != MP_OK && inner.message[0] != '\0')
        (void)trace_fail_at(err, &inner, in->path, 0, 0);
    return status;
}

static enum mp_status finish(struct reader *r, struct mp_trace **out, struct mp_error *err) {
    struct mp_trace_builder *done = r->b;
    r->b = NULL;
    enum mp_status status = mp_trace_builder_finish(done, NULL, out, err);
    if (status == MP_OK)
        status = trace_drop_empty_layers(*out, err);
    if (status == MP_OK && !r->is_numbered)
        status = trace_note(*out, err,
                            r->list.arena != NULL ? "requests are numbered in the order of their files' names"
                                                  : "one request, without a requests table");
    if (status != MP_OK) {
        mp_trace_free(*out);
        *out = NULL;
    }
    return status;
}

static enum mp_status ask(struct reader *r, struct mp_error *err) {
    enum mp_status status =
        trace_ask(r->path, "routed_npy",
                  (struct trace_needs){.layer_base = true, .phase = true, .ids = true, .experts = true}, r->hints, err);
    if (status == MP_OK && r->hints->ids_are_physical == 1)
        status = trace_map_load(&r->map, r->hints->map_path, r->limits, err);
    return status;
}

/* One file: the requests of its table, else one request. */
static enum mp_status read_file(struct reader *r, struct mp_trace **out, struct mp_in *in, bool *keep_in,
                                struct mp_error *err) {
    static const char axes[] = "tokens,layers,k";
    enum mp_status status;
    struct mp_in *table = NULL;
    struct mp_error absent = {0};
    const char *slash = strrchr(r->path, '/');
    struct folder_file file = {.path = r->path, .name = slash != NULL ? slash + 1 : r->path};
    if (in->size < 6 || memcmp(in->data, MP_NPY_MAGIC, 6) != 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 1,
                          "is not an .npy array (name one, or a folder of them, or leave --input-format out)");
    if (r->hints->axes != NULL && strcmp(r->hints->axes, axes) != 0)
        return mp_fail_at(err, MP_EUSAGE, r->path, 0, 0, "routed experts are %s (leave out --axes, or --input-format)",
                          axes);
    status = request_table_open(&table, r->path, r->hints, &absent);
    if (status == MP_OK) {
        struct mp_trace_hints hints = *r->hints;
        mp_in_close(table);
        hints.axes = axes;
        hints.format = "routed_npy";
        return mp_trace_format_npz.read(out, r->path, in, keep_in, &hints, r->limits, err);
    }
    if (status != MP_EUSAGE || r->hints->requests_path != NULL)
        return trace_fail_at(err, &absent, r->path, 0, 0);
    r->list.files = &file;
    r->list.n = 1;
    r->is_numbered = wanted(file.name, file.keys) && file.keys[0] == 0;
    file.keys[1] = r->is_numbered ? file.keys[1] : 0;
    MP_TRY(ask(r, err));
    MP_TRY(add_request(r, 0, in, err));
    MP_TRY(finish(r, out, err));
out:
    r->list.files = NULL;
    r->list.n = 0;
    return status;
}

static enum mp_status read_folder(struct reader *r, struct mp_trace **out, struct mp_error *err) {
    enum mp_status status;
    if (r->hints->requests_path != NULL)
        return mp_fail_at(err, MP_EUSAGE, r->path, 0, 0, "a folder has a file per request (leave out --requests)");
    MP_TRY(ask(r, err));
    MP_TRY(folder_list_read(&r->list, r->path, wanted, err));
    if (r->list.n == 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "holds no .npy (name a folder with one per request)");
    for (uint32_t i = 0; i < r->list.n; i++)
        r->is_numbered &= r->list.files[i].keys[0] == 0;
    for (uint32_t i = 0; i < r->list.n; i++) {
        struct mp_in *file;
        if (i > 0 && r->is_numbered && r->list.files[i].keys[1] == r->list.files[i - 1].keys[1])
            return mp_fail_at(err, MP_EINPUT, r->list.files[i].path, 0, 0, "is request %llu, as is %s (keep one)",
                              (unsigned long long)r->list.files[i].keys[1], r->list.files[i - 1].name);
        MP_TRY(mp_in_open(&file, r->list.files[i].path, 0, err));
        status = add_request(r, i, file, err);
        mp_in_close(file);
        MP_TRY(status);
    }
    MP_TRY(finish(r, out, err));
out:
    return status;
}

static enum mp_status read_routed(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                  const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                  struct mp_error *err) {
    struct reader r = {.path = path, .hints = hints, .limits = limits, .is_numbered = true};
    *out = NULL;
    *keep_in = false;
    enum mp_status status = in != NULL ? read_file(&r, out, in, keep_in, err) : read_folder(&r, out, err);
    mp_trace_builder_free(r.b);
    trace_map_clear(&r.map);
    folder_list_clear(&r.list);
    mp_free(r.mapped);
    return status;
}

const struct mp_trace_format mp_trace_format_routed_npy = {
    .name = "routed_npy",
    .summary = "routed experts of serving APIs: a folder of one .npy [tokens, layers, k] per request, or one such file",
    .reference = "vLLM enable_return_routed_experts, SGLang --enable-return-routed-experts",
    .probe = probe,
    .read = read_routed,
};
