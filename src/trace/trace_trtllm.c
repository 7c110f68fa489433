/* TensorRT-LLM's expert statistic: a folder with meta_info.json and, per rank, rank<R>.safetensors (counts, summed over
 * the ranks) or rank<R>_raw.safetensors (the experts of every token, which say more and are taken when they are there).
 * Layers are absolute, ids logical. */
#include "recording_rows.h"
#include "safetensors.h"
#include "trace_box.h"

#include <dirent.h>
#include <errno.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

#define META "meta_info.json"

/* The folder of a path that is the folder or its meta_info.json; false when the name is another. */
static bool folder_of(const char *path, bool is_folder, char *folder, size_t size) {
    size_t n = strlen(path), k = strlen(META);
    if (is_folder)
        return (size_t)snprintf(folder, size, "%s", path) < size;
    if (n < k || strcmp(path + n - k, META) != 0 || (n > k && path[n - k - 1] != '/'))
        return false;
    return (size_t)snprintf(folder, size, "%.*s", n == k ? 1 : (int)(n - k), n == k ? "." : path) < size;
}

static int probe(const char *path, const struct mp_in *in) {
    char folder[4096];
    bool found = false;
    if (!folder_of(path, in == NULL, folder, sizeof folder))
        return 0;
    if (in != NULL)
        return 80;
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        found |= strcmp(e->d_name, META) == 0;
    if (d != NULL)
        closedir(d);
    return found ? 80 : 0;
}

struct recording {
    const char *path;
    char folder[4096];
    uint64_t n_experts, top_k;
    bool is_raw;
    uint32_t n_ranks;
    struct mp_in **ins;        /* [n_ranks] */
    struct safetensors *files; /* [n_ranks] */
    uint32_t n_layers, ids[MP_MAX_LAYERS];
    uint64_t first_iter, n_iters;
};

/* "rank<R>.safetensors" or, raw, "rank<R>_raw.safetensors". */
static bool parse_file_name(const char *name, bool is_raw, uint64_t *rank) {
    const char *end = is_raw ? "_raw.safetensors" : ".safetensors";
    size_t n = strlen(name), k = strlen(end);
    return n > 4 + k && strncmp(name, "rank", 4) == 0 && strcmp(name + n - k, end) == 0 &&
           mp_parse_u64(name + 4, n - 4 - k, rank);
}

/* How many ranks there are, and of which kind: raw when any raw file is there. */
static enum mp_status count_ranks(struct recording *r, struct mp_error *err) {
    uint64_t n[2] = {0, 0}, highest[2] = {0, 0}, rank;
    DIR *d = opendir(r->folder);
    if (d == NULL)
        return mp_fail_at(err, MP_EIO, r->folder, 0, 0, "cannot open: %s", strerror(errno));
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        for (int raw = 0; raw < 2; raw++)
            if (parse_file_name(e->d_name, raw == 1, &rank)) {
                n[raw]++;
                highest[raw] = rank > highest[raw] ? rank : highest[raw];
            }
    closedir(d);
    r->is_raw = n[1] > 0;
    uint64_t count = n[r->is_raw];
    if (count == 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "there is no rank<R>.safetensors beside " META);
    if (count > MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, r->path, 0, 0, "there are %llu ranks, more than %u",
                          (unsigned long long)count, MP_MAX_GPUS);
    if (highest[r->is_raw] != count - 1)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "holds the files of %llu ranks, but rank %llu is the highest (copy the files of all ranks)",
                          (unsigned long long)count, (unsigned long long)highest[r->is_raw]);
    r->n_ranks = (uint32_t)count;
    return MP_OK;
}

static enum mp_status read_meta(struct recording *r, const struct mp_limits *limits, struct mp_error *err) {
    char name[4200];
    struct mp_in *in = NULL;
    json_t *root = NULL;
    enum mp_status status;
    (void)snprintf(name, sizeof name, "%s/" META, r->folder);
    MP_TRY(mp_in_open(&in, name, limits->json_bytes, err));
    MP_TRY(mp_json_parse(&root, name, (const char *)in->data, in->size, 1, limits, err));
    if (!json_is_object(root)) {
        status = mp_fail_at(err, MP_EINPUT, name, 1, 1,
                            "is not an object (write {\"num_experts\": E, \"num_experts_per_token\": K})");
        goto out;
    }
    MP_TRY(mp_json_u64(root, "num_experts", name, 1, 1, MP_MAX_EXPERTS, &r->n_experts, err));
    MP_TRY(mp_json_u64(root, "num_experts_per_token", name, 1, 1,
                       r->n_experts < MP_MAX_TOP_K ? r->n_experts : MP_MAX_TOP_K, &r->top_k, err));
out:
    json_decref(root);
    mp_in_close(in);
    return status;
}

static enum mp_status open_ranks(struct recording *r, const struct mp_limits *limits, struct mp_error *err) {
    char name[4200];
    for (uint32_t g = 0; g < r->n_ranks; g++) {
        (void)snprintf(name, sizeof name, "%s/rank%u%s.safetensors", r->folder, g, r->is_raw ? "_raw" : "");
        enum mp_status status = mp_in_open(&r->ins[g], name, 0, err);
        if (status == MP_OK)
            status = safetensors_read(&r->files[g], r->ins[g], limits, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* Every rank has every (iteration, layer), iterations follow each other, and shapes fit the meta file. */
static enum mp_status check_grid(struct recording *r, struct mp_error *err) {
    const struct safetensors *first = &r->files[0];
    if (first->n == 0)
        return mp_fail_at(err, MP_EINPUT, r->ins[0]->path, 0, 0,
                          "holds no tensors (is EXPERT_STATISTIC_ITER_RANGE reached?)");
    r->first_iter = first->at[0].iter;
    while (r->n_layers < first->n && r->n_layers < MP_MAX_LAYERS && first->at[r->n_layers].iter == r->first_iter) {
        r->ids[r->n_layers] = first->at[r->n_layers].layer;
        r->n_layers++;
    }
    r->n_iters = mp_ceil_div(first->n, r->n_layers);
    for (uint32_t g = 0; g < r->n_ranks; g++) {
        const struct safetensors *f = &r->files[g];
        const char *path = r->ins[g]->path;
        for (uint32_t i = 0; i < f->n || i < r->n_iters * r->n_layers; i++) {
            uint64_t iter = r->first_iter + i / r->n_layers;
            uint32_t layer = r->ids[i % r->n_layers];
            if (i >= r->n_iters * r->n_layers)
                return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                                  "holds tensor %llu_%u, which rank 0 does not (copy the files of one run)",
                                  (unsigned long long)f->at[i].iter, f->at[i].layer);
            if (i >= f->n || f->at[i].iter != iter || f->at[i].layer != layer)
                return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                                  "tensor %llu_%u is missing (every rank needs every layer of every iteration, "
                                  "iterations without gaps)",
                                  (unsigned long long)iter, layer);
            const struct safetensor *t = &f->at[i];
            if (!r->is_raw && (t->n_dims != 1 || t->size[0] != r->n_experts))
                return mp_fail_at(err, MP_EINPUT, path, 0, t->offset + 1,
                                  "tensor %llu_%u: has %llu numbers, " META " says %llu experts",
                                  (unsigned long long)t->iter, t->layer, (unsigned long long)(t->size[0] * t->size[1]),
                                  (unsigned long long)r->n_experts);
            const struct safetensor *same = &f->at[i - i % r->n_layers];
            if (r->is_raw &&
                (t->n_dims != 2 || t->size[1] != r->top_k || t->size[0] != same->size[0] || t->size[0] > UINT32_MAX))
                return mp_fail_at(
                    err, MP_EINPUT, path, 0, t->offset + 1,
                    "tensor %llu_%u: is not [%llu tokens, %llu experts per token], as in layer %u and " META,
                    (unsigned long long)t->iter, t->layer, (unsigned long long)same->size[0],
                    (unsigned long long)r->top_k, same->layer);
        }
    }
    return MP_OK;
}

static enum mp_status build_counts(struct recording *r, struct mp_trace_builder *b, struct mp_error *err) {
    uint64_t bad = 0;
    enum mp_status status = trace_builder_reserve(b, r->n_iters, err);
    for (uint64_t i = 0; i < r->n_iters && status == MP_OK; i++) {
        status = mp_trace_builder_iteration(b, MP_NONE, err);
        for (uint32_t g = 0; g < r->n_ranks && status == MP_OK; g++)
            for (uint32_t l = 0; l < r->n_layers && status == MP_OK; l++) {
                const struct safetensor *t = &r->files[g].at[i * r->n_layers + l];
                const uint8_t *bytes = r->ins[g]->data + t->offset;
                status = trace_builder_add(b, l, bytes, t->item, (uint32_t)r->n_experts, NULL, &bad, err);
                if (status == MP_EINPUT)
                    (void)recording_bad_count(r->ins[g], t->offset + bad * t->item, number_at(bytes, t->item, bad),
                                              err);
            }
    }
    return status;
}

/* Does any token leave places of its top-k unused? */
static bool any_unused(const struct recording *r) {
    for (uint32_t g = 0; g < r->n_ranks; g++)
        for (uint32_t i = 0; i < r->files[g].n; i++) {
            const struct safetensor *t = &r->files[g].at[i];
            for (uint64_t k = 0; k < t->size[0] * t->size[1]; k++)
                if (number_at(r->ins[g]->data + t->offset, t->item, k) < 0)
                    return true;
        }
    return false;
}

/* One token of one rank and iteration: its experts in every layer. */
static enum mp_status add_token(struct recording *r, struct mp_trace_builder *b, uint32_t g, uint64_t i, uint64_t token,
                                uint16_t *row, struct mp_error *err) {
    for (uint32_t l = 0; l < r->n_layers; l++) {
        const struct safetensor *t = &r->files[g].at[i * r->n_layers + l];
        const uint8_t *bytes = r->ins[g]->data + t->offset;
        uint32_t n = 0;
        for (uint64_t k = 0; k < r->top_k; k++) {
            int64_t e = number_at(bytes, t->item, token * r->top_k + k);
            if (e >= (int64_t)r->n_experts)
                return mp_fail_at(err, MP_EINPUT, r->ins[g]->path, 0, t->offset + (token * r->top_k + k) * t->item + 1,
                                  "\"%lld\" is not an expert (0 to %llu)", (long long)e,
                                  (unsigned long long)r->n_experts - 1);
            if (e >= 0)
                row[l * r->top_k + n++] = (uint16_t)e;
        }
        for (; n < r->top_k; n++)
            row[l * r->top_k + n] = MP_NO_EXPERT;
    }
    return mp_trace_builder_row(b, row, NULL, err);
}

/* Nothing says which rows belong to one request. Prefill: what a rank computed in one iteration is a request (a batch
 * of whole prompts packs like one). Decode: every row is a request of its own. */
static enum mp_status build_tokens(struct recording *r, enum mp_phase phase, struct mp_trace_builder *b,
                                   struct mp_error *err) {
    uint16_t *row = mp_calloc((size_t)r->n_layers * r->top_k, sizeof *row);
    enum mp_status status = row == NULL ? mp_nomem(err, "recording") : MP_OK;
    uint64_t n_requests = 0;
    for (uint64_t i = 0; i < r->n_iters && status == MP_OK; i++)
        for (uint32_t g = 0; g < r->n_ranks && status == MP_OK; g++) {
            uint64_t n = r->files[g].at[i * r->n_layers].size[0];
            for (uint64_t token = 0; token < n && status == MP_OK; token++) {
                struct mp_request q = {.id = n_requests, .source = g, .category = MP_NONE};
                if (token == 0 || phase == MP_PHASE_DECODE) {
                    n_requests++;
                    status = mp_trace_builder_request(b, &q, err);
                }
                if (status == MP_OK)
                    status = add_token(r, b, g, i, token, row, err);
            }
        }
    mp_free(row);
    return status;
}

static enum mp_status read_folder(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                  const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                  struct mp_error *err) {
    struct recording *r = mp_calloc(1, sizeof *r);
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    if (r == NULL)
        return mp_nomem(err, "recording");
    r->path = path;
    if (!folder_of(path, in == NULL, r->folder, sizeof r->folder)) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "is neither a folder of TensorRT-LLM's expert statistic nor its " META);
        goto out;
    }
    if (hints->layer_base > 0) {
        status = mp_fail(err, MP_EUSAGE, "%s: TensorRT-LLM records absolute layers (leave out --layer-base)", path);
        goto out;
    }
    MP_TRY(count_ranks(r, err));
    if (r->is_raw)
        MP_TRY(trace_ask(path, "trtllm", (struct trace_needs){.phase = true}, hints, err));
    r->ins = mp_calloc(r->n_ranks, sizeof *r->ins);
    r->files = mp_calloc(r->n_ranks, sizeof *r->files);
    if (r->ins == NULL || r->files == NULL) {
        status = mp_nomem(err, "recording");
        goto out;
    }
    MP_TRY(read_meta(r, limits, err));
    if (hints->n_experts != 0 && hints->n_experts != r->n_experts) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, META " says %llu experts, --experts says %u",
                            (unsigned long long)r->n_experts, hints->n_experts);
        goto out;
    }
    MP_TRY(open_ranks(r, limits, err));
    MP_TRY(check_grid(r, err));
    struct mp_trace_meta meta = {.kind = r->is_raw ? MP_TRACE_TOKENS : MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "trtllm",
                                 .is_ranked = hints->is_ranked == 1,
                                 .is_time_ordered = true,
                                 .n_layers = r->n_layers,
                                 .n_experts = (uint32_t)r->n_experts,
                                 .top_k = (uint32_t)r->top_k,
                                 .layer_ids = r->ids,
                                 .has_unused = r->is_raw && any_unused(r)};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(r->is_raw ? build_tokens(r, hints->phase, b, err) : build_counts(r, b, err));
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    for (uint32_t g = 0; g < r->n_ranks && r->files != NULL && r->ins != NULL; g++) {
        safetensors_clear(&r->files[g]);
        mp_in_close(r->ins[g]);
    }
    mp_free(r->ins);
    mp_free(r->files);
    mp_free(r);
    return status;
}

const struct mp_trace_format mp_trace_format_trtllm = {
    .name = "trtllm",
    .summary = "TensorRT-LLM expert statistic (meta_info.json and rank<R>[_raw].safetensors), a folder",
    .reference = "NVIDIA/TensorRT-LLM examples/wide_ep/ep_load_balancer/report_load_statistics.py",
    .probe = probe,
    .read = read_folder,
};
