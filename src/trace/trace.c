/* Finds the reader of a recording, and reads from loaded traces. */
#include "trace_box.h"
#include "trace_registry.h"
#include <moeplan/progress.h>
#include <stdio.h>
#include <string.h>

#define DECLARE(name) extern const struct mp_trace_format mp_trace_format_##name;
#define ENTRY(name) &mp_trace_format_##name,
MP_REGISTRY(DECLARE)
static const struct mp_trace_format *const formats[] = {MP_REGISTRY(ENTRY) NULL};

const struct mp_trace_hints mp_trace_hints_none = {
    .layer_base = -1, .ids_are_physical = -1, .is_ranked = -1, .mtp_base = -1};

const struct mp_trace_format *mp_trace_format_at(uint32_t i) {
    return i < sizeof formats / sizeof formats[0] ? formats[i] : NULL;
}

const char *mp_phase_name(enum mp_phase phase) {
    static const char *const names[] = {"unknown", "prefill", "decode", "train", "mixed"};
    return (unsigned)phase < sizeof names / sizeof names[0] ? names[phase] : "unknown";
}

struct trace_box *trace_box_new(void) {
    struct trace_box *box = mp_calloc(1, sizeof *box);
    if (box != NULL && (box->t.arena = mp_arena_new()) == NULL) {
        mp_free(box);
        return NULL;
    }
    return box;
}

void mp_trace_free(struct mp_trace *t) {
    if (t == NULL)
        return;
    struct trace_box *box = (struct trace_box *)t;
    for (uint64_t c = 0; box->owns_chunks && c < box->n_chunks; c++) {
        mp_free(box->ids[c]);
        if (box->weights != NULL)
            mp_free(box->weights[c]);
    }
    mp_trace_signatures_drop(t);
    mp_free(box->ids);
    mp_free(box->weights);
    mp_free(box->counts);
    mp_free(box->pairs);
    mp_free(box->requests);
    mp_free(box->iteration_category);
    mp_arena_free(t->arena);
    mp_in_close(t->mapped);
    mp_free(box);
}

static const struct mp_trace_format *find_named(const char *name) {
    for (uint32_t i = 0; formats[i] != NULL; i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

/* Names of the formats that score `score` (0 = all), for messages. */
static void list_formats(char *buf, size_t size, const char *path, const struct mp_in *in, int score) {
    size_t used = 0;
    buf[0] = '\0';
    for (uint32_t i = 0; formats[i] != NULL; i++)
        if ((score == 0 || formats[i]->probe(path, in) == score) && used < size)
            used += (size_t)snprintf(buf + used, size - used, "%s%s", used > 0 ? ", " : "", formats[i]->name);
}

static enum mp_status detect(const struct mp_trace_format **out, const char *path, const struct mp_in *in,
                             struct mp_error *err) {
    int best = 0, n_best = 0;
    char names[512];
    *out = NULL;
    for (uint32_t i = 0; formats[i] != NULL; i++) {
        int score = formats[i]->probe(path, in);
        if (score > best) {
            best = score;
            n_best = 1;
            *out = formats[i];
        } else if (score == best && best > 0)
            n_best++;
    }
    if (n_best == 1)
        return MP_OK;
    *out = NULL;
    if (in != NULL && in->size == 0)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0, "the file is empty");
    if (best == 0)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "is not a recording that any format recognises (moeplan list formats has them; name one with "
                          "--input-format)");
    list_formats(names, sizeof names, path, in, best);
    return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                      "could be any of these formats: %s (name the right one with --input-format)", names);
}

enum mp_status mp_trace_load(struct mp_trace **out, const char *path, const struct mp_trace_hints *hints,
                             const struct mp_limits *limits, struct mp_error *err) {
    *out = NULL;
    if (hints == NULL)
        hints = &mp_trace_hints_none;
    struct mp_in *in = NULL;
    bool keep_in = false;
    enum mp_status status = MP_OK;
    const struct mp_trace_format *format = NULL;
    if (hints->format != NULL && (format = find_named(hints->format)) == NULL) {
        char names[512];
        list_formats(names, sizeof names, path, NULL, 0);
        return mp_fail(err, MP_EUSAGE, "--input-format %s: there is no such format (write one of %s)", hints->format,
                       names);
    }
    if (!mp_is_folder(path))
        MP_TRY(mp_in_open(&in, path, 0, err));
    if (format == NULL)
        MP_TRY(detect(&format, path, in, err));
    struct mp_error inner = {0};
    struct mp_trace_hints told = *hints;
    told.part = mp_progress_begin(hints->progress, "bytes", in != NULL ? in->size : 0, MP_PROGRESS_LEAF);
    status = format->read(out, path, in, &keep_in, &told, limits, &inner);
    mp_progress_end(told.part);
    if (status == MP_OK && (*out)->sha256[0] == '\0') /* the native reader mostly has it from its file */
        status = trace_identity(*out, (*out)->sha256, &inner);
    if (status != MP_OK && *out != NULL) {
        mp_trace_free(*out); /* closes the file too where keep_in is set */
        *out = NULL;
    }
    /* A few errors come without a file (out of memory, limits of the builder): say which file it was. */
    if (status != MP_OK && inner.path[0] == '\0' && status != MP_EUSAGE)
        (void)mp_fail_at(err, status, path, 0, 0, "%s", inner.message);
    else if (status != MP_OK && err != NULL && err->status == MP_OK)
        *err = inner;
out:
    if (!keep_in)
        mp_in_close(in);
    return status;
}

const uint8_t *mp_trace_ids(const struct mp_trace *t, uint32_t layer, uint64_t row, uint64_t *n_rows) {
    uint64_t c = row / MP_CHUNK_TOKENS, inside = row % MP_CHUNK_TOKENS, rows = trace_chunk_rows(t->n_rows, c);
    *n_rows = rows - inside;
    return t->chunks[c] + ((size_t)layer * rows + inside) * t->top_k * t->id_bytes;
}

void mp_trace_load_of_layer(const struct mp_trace *t, uint32_t layer, uint64_t *load) {
    memset(load, 0, t->n_experts * sizeof *load);
    if (t->kind == MP_TRACE_COUNTS) {
        size_t n_parts = (size_t)t->n_iterations * t->n_sources;
        for (size_t i = 0; i < n_parts; i++) {
            const uint64_t *from = t->counts + (i * t->n_layers + layer) * t->n_experts;
            for (uint32_t e = 0; e < t->n_experts; e++)
                load[e] += from[e];
        }
        return;
    }
    for (uint64_t row = 0, n; row < t->n_rows; row += n) {
        const uint8_t *p = mp_trace_ids(t, layer, row, &n);
        for (uint64_t i = 0; i < n * t->top_k; i++) {
            uint16_t id = p[i * t->id_bytes];
            if (t->id_bytes == 2)
                memcpy(&id, p + i * 2, 2);
            if (id < t->n_experts)
                load[id]++;
        }
    }
}
