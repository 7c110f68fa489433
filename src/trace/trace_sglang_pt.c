/* SGLang's recorder (--expert-distribution-recorder-mode stat, stat_approx, per_pass, per_token): a .pt, or a folder
 * with one per rank. Layers are the model's hidden layers; dense ones never count anything and are dropped, ids of the
 * others stay absolute. */
#include "recording_rows.h"
#include "sglang_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 4096 };

static bool is_pt(const char *name) {
    size_t n = strlen(name);
    return n > 3 && name[0] != '.' && strcmp(name + n - 3, ".pt") == 0;
}

/* A folder counts when it holds a .pt. */
static int probe(const char *path, const struct mp_in *in) {
    if (in != NULL)
        return torch_file_is(in) ? 90 : 0;
    DIR *d = opendir(path);
    int sure = 0;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (is_pt(e->d_name))
            sure = 70;
    if (d != NULL)
        closedir(d);
    return sure;
}

enum mp_status sglang_bad(const struct mp_in *in, struct mp_error *err, const char *fmt, ...) {
    char message[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "%s", message);
}

bool sglang_number(const struct mp_pickle_value *dict, const char *key, int64_t *out) {
    const struct mp_pickle_value *v = mp_pickle_get(dict, key);
    *out = v != NULL && v->kind == MP_PICKLE_INT ? v->as.number : 0;
    return v != NULL && v->kind == MP_PICKLE_INT;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The .pt files of a folder in name order. */
static enum mp_status list_folder(const char *path, char ***names, uint32_t *n, struct mp_error *err) {
    *names = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (d == NULL)
        return mp_fail_at(err, MP_EIO, path, 0, 0, "cannot open: %s", strerror(errno));
    enum mp_status status = MP_OK;
    char **list = mp_calloc(MAX_FILES, sizeof *list);
    if (list == NULL)
        status = mp_nomem(err, "folder");
    for (struct dirent *e; status == MP_OK && (e = readdir(d)) != NULL;) {
        if (!is_pt(e->d_name))
            continue;
        size_t size = strlen(path) + strlen(e->d_name) + 2;
        if (*n == MAX_FILES)
            status = mp_fail_at(err, MP_ELIMIT, path, 0, 0, "holds more than %d .pt files", (int)MAX_FILES);
        else if ((list[*n] = mp_calloc(size, 1)) == NULL)
            status = mp_nomem(err, "folder");
        else
            (void)snprintf(list[(*n)++], size, "%s/%s", path, e->d_name);
    }
    closedir(d);
    if (status == MP_OK && *n == 0)
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "holds no .pt file");
    if (list != NULL && status == MP_OK)
        qsort(list, *n, sizeof *list, compare_names); /* names of one folder differ */
    *names = list;
    return status;
}

static enum mp_status open_files(struct sglang_recording *r, const char *path, struct mp_in *in,
                                 const struct mp_limits *limits, struct mp_error *err) {
    char **names = NULL;
    uint32_t n = 1;
    enum mp_status status = MP_OK;
    if (in == NULL)
        MP_TRY(list_folder(path, &names, &n, err));
    r->ins = mp_calloc(n, sizeof *r->ins);
    r->files = mp_calloc(n, sizeof *r->files);
    if (r->ins == NULL || r->files == NULL) {
        status = mp_nomem(err, "recording");
        goto out;
    }
    r->n_files = n;
    for (uint32_t i = 0; i < n; i++) {
        if (in == NULL)
            MP_TRY(mp_in_open(&r->ins[i], names[i], 0, err));
        const struct mp_in *file = in != NULL ? in : r->ins[i];
        MP_TRY(torch_file_open(&r->files[i], file, limits, err));
    }
out:
    for (uint32_t i = 0; names != NULL && i < n; i++)
        mp_free(names[i]);
    mp_free(names);
    return status;
}

static void close_all(struct sglang_recording *r) {
    for (uint32_t i = 0; i < r->n_files; i++) {
        torch_file_close(r->files[i]);
        mp_in_close(r->ins[i]);
    }
    mp_free(r->files);
    mp_free(r->ins);
    mp_free(r->records);
    mp_free(r->logical);
}

/* The map of one file; all files have the same. */
static enum mp_status read_map(struct sglang_recording *r, struct torch_file *f, const struct mp_trace_hints *hints,
                               struct mp_error *err) {
    const struct mp_pickle_tensor *t;
    const uint8_t *bytes;
    uint32_t item;
    uint64_t at;
    enum mp_status status = torch_file_numbers(f, mp_pickle_get(f->root, "last_physical_to_logical_map"),
                                               "last_physical_to_logical_map", 2, &t, &bytes, &item, &at, err);
    if (status != MP_OK)
        return status;
    if (t->size[0] == 0 || t->size[0] > MP_MAX_LAYERS || t->size[1] == 0 || t->size[1] > UINT16_MAX)
        return sglang_bad(f->in, err,
                          "last_physical_to_logical_map: shape (%llu, %llu) is not [1..%u layers, 1..%u slots]",
                          (unsigned long long)t->size[0], (unsigned long long)t->size[1], MP_MAX_LAYERS, UINT16_MAX);
    bool is_first = r->logical == NULL;
    if (is_first) {
        r->n_layers = (uint32_t)t->size[0];
        r->n_physical = (uint32_t)t->size[1];
        r->logical = mp_calloc(t->n, sizeof *r->logical);
        if (r->logical == NULL)
            return mp_nomem(err, "map");
    }
    if (t->size[0] != r->n_layers || t->size[1] != r->n_physical)
        return sglang_bad(
            f->in, err,
            "last_physical_to_logical_map: is of another shape than in the first file (keep one recording per folder)");
    for (uint64_t i = 0; i < t->n; i++) {
        int64_t e = number_at(bytes, item, i);
        if (e < 0 || e >= (int64_t)MP_MAX_EXPERTS)
            return mp_fail_at(err, MP_EINPUT, f->in->path, 0, at + i * item + 1,
                              "last_physical_to_logical_map: \"%lld\" is not an expert (0 to %u)", (long long)e,
                              MP_MAX_EXPERTS - 1);
        if (!is_first && r->logical[i] != e)
            return mp_fail_at(err, MP_EINPUT, f->in->path, 0, at + i * item + 1,
                              "last_physical_to_logical_map: differs from the first file's (record without a "
                              "rebalance, one recording per folder)");
        r->logical[i] = (uint16_t)e;
        if ((uint32_t)e >= r->n_logical)
            r->n_logical = (uint32_t)e + 1;
    }
    if (hints->n_experts != 0 && hints->n_experts < r->n_logical)
        return sglang_bad(f->in, err, "last_physical_to_logical_map: names expert %u, but --experts says there are %u",
                          r->n_logical - 1, hints->n_experts);
    return MP_OK;
}

static int compare_records(const void *pa, const void *pb) {
    const struct sglang_record *a = pa, *b = pb;
    if (a->pass != b->pass)
        return a->pass < b->pass ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

/* Every record of every file, sorted, with its numbers. */
static enum mp_status read_records(struct sglang_recording *r, const struct mp_trace_hints *hints,
                                   struct mp_error *err) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < r->n_files; i++) {
        const struct mp_pickle_value *list = mp_pickle_get(r->files[i]->root, "records");
        if (list == NULL || list->kind != MP_PICKLE_LIST)
            return sglang_bad(r->files[i]->in, err,
                              "records: is %s, not a list (per_pass and per_token files have one)",
                              mp_pickle_kind_name(list));
        n += list->as.items->n;
        enum mp_status status = read_map(r, r->files[i], hints, err);
        if (status != MP_OK)
            return status;
    }
    if (hints->n_experts != 0)
        r->n_logical = hints->n_experts;
    r->records = mp_calloc(n, sizeof *r->records);
    bool *seen = mp_calloc(MP_MAX_GPUS, sizeof *seen);
    enum mp_status status = r->records == NULL || seen == NULL ? mp_nomem(err, "records") : MP_OK;
    for (uint32_t i = 0; i < r->n_files && status == MP_OK; i++) {
        const struct mp_pickle_items *list = mp_pickle_get(r->files[i]->root, "records")->as.items;
        for (uint32_t k = 0; k < list->n && status == MP_OK; k++) {
            struct sglang_record *record = &r->records[r->n_records++];
            int64_t rank = 0;
            *record = (struct sglang_record){.file = r->files[i], .dict = &list->at[k]};
            if (!sglang_number(record->dict, "forward_pass_id", &record->pass) ||
                !sglang_number(record->dict, "rank", &rank) || rank < 0 || rank >= (int64_t)MP_MAX_GPUS) {
                status = sglang_bad(record->file->in, err,
                                    "records[%u]: has no whole forward_pass_id and rank (0 to %u)", k, MP_MAX_GPUS - 1);
                break;
            }
            record->rank = (uint32_t)rank;
            r->n_ranks += !seen[rank];
            seen[rank] = true;
        }
    }
    mp_free(seen);
    if (status != MP_OK)
        return status;
    if (r->n_records == 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "holds no records (send requests between start and stop of the recording)");
    qsort(r->records, r->n_records, sizeof *r->records, compare_records); /* a tie is refused next */
    for (uint64_t k = 1; k < r->n_records; k++)
        if (compare_records(&r->records[k - 1], &r->records[k]) == 0)
            return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                              "forward pass %lld of rank %u is there twice (keep the files of one recording, without "
                              "two-batch overlap)",
                              (long long)r->records[k].pass, r->records[k].rank);
    return MP_OK;
}

static enum mp_status read(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                           const struct mp_trace_hints *hints, const struct mp_limits *limits, struct mp_error *err) {
    struct sglang_recording r = {.path = path};
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    if (hints->layer_base > 0)
        return mp_fail(err, MP_EUSAGE, "%s: SGLang records absolute layers (leave out --layer-base)", path);
    MP_TRY(open_files(&r, path, in, limits, err));
    if (mp_pickle_get(r.files[0]->root, "logical_count") != NULL) {
        if (r.n_files != 1)
            status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                                "holds %u .pt files and one is a stat dump, which is whole in itself (name that file)",
                                r.n_files);
        else
            status = sglang_read_stat(out, &r, hints, limits, err);
        goto out;
    }
    if (r.files[0]->root->kind != MP_PICKLE_DICT || mp_pickle_get(r.files[0]->root, "records") == NULL) {
        status = sglang_bad(r.files[0]->in, err,
                            "is %s without logical_count or records (is it a dump of SGLang's expert recorder?)",
                            mp_pickle_kind_name(r.files[0]->root));
        goto out;
    }
    MP_TRY(read_records(&r, hints, err));
    if (mp_pickle_get(r.records[0].dict, "topk_ids_of_layer") != NULL)
        MP_TRY(sglang_read_per_token(out, &r, hints, limits, err));
    else
        MP_TRY(sglang_read_per_pass(out, &r, hints, limits, err));
out:
    close_all(&r);
    return status;
}

const struct mp_trace_format mp_trace_format_sglang_pt = {
    .name = "sglang_pt",
    .summary = "SGLang expert recorder (stat, per_pass, per_token), a .pt or a folder of them",
    .reference = "sgl-project/sglang python/sglang/srt/eplb/expert_distribution.py",
    .probe = probe,
    .read = read,
};
