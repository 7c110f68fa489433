/* Megatron-LM's tokens per expert: {save}/tokens_per_expert/rank<R>.jsonl, a line per iteration and MoE layer with
 * tpe[microbatch][local expert]. A rank only sees its own experts: the experts of EP rank r are r * local to
 * r * local + local - 1, and with Megatron's order of ranks (tensor, EP, data, pipeline; no tensor parallel experts)
 * rank R is EP rank R mod ep. Every microbatch of every group of ep ranks is a step with an all-to-all of its own,
 * hence an iteration of the trace. `layer` counts from the first layer of the pipeline stage, which files do not name.
 */
#include "recording_folder.h"
#include <moeplan/progress.h>
#include <moeplan/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "tokens_per_expert"

/* One line. */
struct entry {
    uint32_t rank; /* index of its file */
    bool is_mtp;
    uint32_t mtp, layer, n_micro;
    uint32_t id; /* absolute layer, once that is known */
    uint64_t iter, line;
    size_t first; /* of its counts in the pool: [n_micro][n_local] */
};
struct recording {
    const char *path;
    const struct mp_trace_hints *hints;
    const struct mp_limits *limits;
    struct folder_list list;
    struct folder_file one; /* a file of its own */
    struct folder_file *files;
    uint32_t n_experts, n_ranks, n_local, n_ep, n_stages, n_replicas;
    struct entry *entries;
    size_t n, room;
    uint32_t *counts;
    size_t n_counts, counts_room;
    uint32_t n_left_out; /* lines of MTP layers */
    uint32_t n_layers, ids[MP_MAX_LAYERS];
    /* The line at hand, for messages. */
    const char *file, *text;
    size_t n_text;
    uint64_t line;
};

static bool wanted(const char *name, uint64_t keys[3]) { return name_is_numbered(name, "rank", ".jsonl", &keys[0]); }

/* The folder with the files: the one that is named, or the one that Megatron makes in it. */
static bool folder_of(const char *path, char *folder, size_t size) {
    (void)snprintf(folder, size, "%s", path);
    if (folder_has(folder, wanted))
        return true;
    return (size_t)snprintf(folder, size, "%s/" FOLDER, path) < size && folder_has(folder, wanted);
}

static int probe(const char *path, const struct mp_in *in) {
    char folder[4096];
    if (in == NULL)
        return folder_of(path, folder, sizeof folder) ? 70 : 0;
    size_t n = in->size < 4096 ? in->size : 4096;
    const char *stop = memchr(in->data, '\n', n);
    if (stop != NULL)
        n = (size_t)(stop - (const char *)in->data);
    return memmem(in->data, n, "\"tpe\"", 5) != NULL && memmem(in->data, n, "\"block\"", 7) != NULL ? 85 : 0;
}

/* MP_EINPUT at a value of the line at hand. */
static enum mp_status bad(const struct recording *r, const char *steps, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(4, 5);
static enum mp_status bad(const struct recording *r, const char *steps, struct mp_error *err, const char *fmt, ...) {
    char message[512];
    uint64_t line = 0, column = 0;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (!mp_json_position(r->text, r->n_text, steps, &line, &column))
        column = 1;
    return mp_fail_at(err, MP_EINPUT, r->file, r->line, column, "%s", message);
}
/* MP_EINPUT at a line that has been read. */
#define BAD_ENTRY(e, ...) mp_fail_at(err, MP_EINPUT, r->files[(e)->rank].path, (e)->line, 1, __VA_ARGS__)

static bool grow(void **p, size_t *room, size_t need, size_t size) {
    if (need <= *room)
        return true;
    size_t more = *room == 0 ? 256 : *room * 2;
    more = more < need ? need : more;
    void *grown = mp_realloc(*p, more, size);
    if (grown != NULL) {
        *p = grown;
        *room = more;
    }
    return grown != NULL;
}

/* tpe: [microbatch][local expert], as many experts as on every line. */
static enum mp_status read_counts(struct recording *r, struct entry *e, const json_t *tpe, struct mp_error *err) {
    char steps[64];
    size_t n_micro = json_array_size(tpe);
    if (!json_is_array(tpe) || n_micro == 0 || n_micro > UINT16_MAX)
        return bad(r, tpe == NULL ? "" : "tpe", err,
                   "tpe: is not a list of 1 to %u microbatches (write [[tokens of each local expert], ...])",
                   UINT16_MAX);
    if (r->n_local == 0) {
        size_t n = json_array_size(json_array_get(tpe, 0));
        if (n == 0 || n > MP_MAX_EXPERTS)
            return bad(r, "tpe/0", err, "tpe[0]: is not a list of 1 to %u local experts", MP_MAX_EXPERTS);
        r->n_local = (uint32_t)n;
    }
    if (!grow((void **)&r->counts, &r->counts_room, r->n_counts + n_micro * r->n_local, sizeof *r->counts))
        return mp_nomem(err, r->file);
    e->first = r->n_counts;
    e->n_micro = (uint32_t)n_micro;
    for (size_t m = 0; m < n_micro; m++) {
        const json_t *row = json_array_get(tpe, m);
        (void)snprintf(steps, sizeof steps, "tpe/%zu", m);
        if (json_array_size(row) != r->n_local)
            return bad(r, steps, err, "tpe[%zu]: has %zu local experts, not the %u of the first line", m,
                       json_array_size(row), r->n_local);
        for (uint32_t i = 0; i < r->n_local; i++) {
            const json_t *v = json_array_get(row, i);
            if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= UINT32_MAX) {
                r->counts[r->n_counts++] = (uint32_t)json_integer_value(v);
                continue;
            }
            (void)snprintf(steps, sizeof steps, "tpe/%zu/%u", m, i);
            return bad(r, steps, err, "tpe[%zu][%u]: is not a count of tokens (a whole number in [0, %u])", m, i,
                       UINT32_MAX);
        }
    }
    return MP_OK;
}

static enum mp_status read_line(struct recording *r, uint32_t rank, const json_t *o, struct mp_error *err) {
    struct entry e = {.rank = rank, .line = r->line};
    uint64_t layer, mtp = 0;
    if (!json_is_object(o))
        return bad(r, "", err, "the line is not an object");
    const char *block = json_string_value(json_object_get(o, "block"));
    e.is_mtp = block != NULL && strcmp(block, "mtp") == 0;
    if (block == NULL || (!e.is_mtp && strcmp(block, "decoder") != 0))
        return bad(r, "block", err, "block: is neither \"decoder\" nor \"mtp\"");
    enum mp_status status = mp_json_u64(o, "iter", r->file, r->line, 0, MP_MAX_TOKENS, &e.iter, err);
    if (status == MP_OK)
        status = mp_json_u64(o, "layer", r->file, r->line, 0, MP_MAX_LAYERS - 1, &layer, err);
    if (status == MP_OK && e.is_mtp)
        status = mp_json_u64(o, "mtp_idx", r->file, r->line, 0, MP_MAX_LAYERS - 1, &mtp, err);
    if (status == MP_OK)
        status = read_counts(r, &e, json_object_get(o, "tpe"), err);
    if (status != MP_OK)
        return status;
    e.layer = (uint32_t)layer;
    e.mtp = (uint32_t)mtp;
    if (e.is_mtp && r->hints->mtp_base < 0) {
        r->n_left_out++;
        r->n_counts = e.first;
        return MP_OK;
    }
    if (r->limits->memory_bytes != 0 && (r->n + 1) * sizeof e > r->limits->memory_bytes)
        return mp_fail_at(err, MP_ELIMIT, r->file, r->line, 1, "the lines do not fit the memory limit of %llu bytes",
                          (unsigned long long)r->limits->memory_bytes);
    if (!grow((void **)&r->entries, &r->room, r->n + 1, sizeof e))
        return mp_nomem(err, r->file);
    r->entries[r->n++] = e;
    return MP_OK;
}

static enum mp_status read_file(struct recording *r, uint32_t rank, const struct mp_in *in, struct mp_error *err) {
    const char *cursor = (const char *)in->data, *end = cursor + in->size;
    r->file = r->files[rank].path;
    for (r->line = 1; mp_next_line_within(&cursor, end, r->limits->line_bytes, &r->text, &r->n_text); r->line++) {
        json_t *o;
        mp_progress_add(r->hints->part, r->n_text + 1);
        if (r->n_text == 0)
            continue;
        if (r->n_text > r->limits->line_bytes)
            return mp_fail_at(err, MP_ELIMIT, r->file, r->line, 1, "the line has more than %zu bytes, the limit",
                              r->limits->line_bytes);
        enum mp_status status = mp_json_parse(&o, r->file, r->text, r->n_text, r->line, r->limits, err);
        if (status != MP_OK)
            return status;
        status = read_line(r, rank, o, err);
        json_decref(o);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static enum mp_status read_all(struct recording *r, const struct mp_in *in, struct mp_error *err) {
    if (in != NULL)
        return read_file(r, 0, in, err);
    for (uint32_t f = 0; f < r->n_ranks; f++) {
        struct mp_in *file;
        enum mp_status status = mp_in_open(&file, r->files[f].path, 0, err);
        if (status != MP_OK)
            return status;
        status = read_file(r, f, file, err);
        mp_in_close(file);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* The files of the ranks: all from 0 on, one of each. */
static enum mp_status find_files(struct recording *r, bool is_folder, struct mp_error *err) {
    char folder[4096];
    if (!is_folder) {
        r->one = (struct folder_file){.path = r->path, .name = r->path};
        r->files = &r->one;
        r->n_ranks = 1;
        return MP_OK;
    }
    if (!folder_of(r->path, folder, sizeof folder))
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "holds no rank<R>.jsonl, nor a folder " FOLDER " that does");
    enum mp_status status = folder_list_read(&r->list, folder, wanted, err);
    r->files = r->list.files;
    r->n_ranks = r->list.n;
    for (uint32_t i = 0; status == MP_OK && i < r->n_ranks; i++) {
        if (i > 0 && r->files[i].keys[0] == r->files[i - 1].keys[0])
            status = mp_fail_at(err, MP_EINPUT, r->files[i].path, 0, 0, "is of rank %u, as is %s (keep one of them)",
                                i - 1, r->files[i - 1].name);
        else if (r->files[i].keys[0] != i)
            status = mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                                "the file of rank %u is missing; the last is rank %llu (copy the files of all ranks)",
                                i, (unsigned long long)r->files[r->n_ranks - 1].keys[0]);
    }
    if (status == MP_OK && r->n_ranks > MP_MAX_GPUS)
        status = mp_fail_at(err, MP_ELIMIT, r->path, 0, 0, "holds the files of %u ranks, more than %u", r->n_ranks,
                            MP_MAX_GPUS);
    return status;
}

/* How many ranks share the experts, and what the others are. */
static enum mp_status find_groups(struct recording *r, bool is_folder, struct mp_error *err) {
    uint32_t n_experts = r->hints->n_experts;
    bool is_stand_in = r->hints->missing != NULL && r->hints->missing->experts;
    if (is_stand_in) /* the caller asks for everything that can be seen without */
        r->n_experts = n_experts = r->n_local * r->n_ranks <= MP_MAX_EXPERTS ? r->n_local * r->n_ranks : r->n_local;
    if (n_experts % r->n_local != 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "%u experts are no multiple of the %u that each rank holds (is --experts right?)", n_experts,
                          r->n_local);
    r->n_ep = n_experts / r->n_local;
    if (!is_folder && r->n_ep > 1)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "holds the %u experts of one rank, of %u (name the folder with the files of all ranks)",
                          r->n_local, n_experts);
    if (r->n_ranks % r->n_ep != 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "%u ranks are no whole groups of %u ranks with %u experts each (copy the files of all ranks; "
                          "is --experts %u right?)",
                          r->n_ranks, r->n_ep, r->n_local, n_experts);
    uint32_t n_groups = r->n_ranks / r->n_ep;
    if (n_groups > 1 && r->hints->n_stages == 0 && !is_stand_in)
        return mp_fail_at(err, MP_EUSAGE, r->path, 0, 0,
                          "a recording of the format megatron does not say whether its %u groups of %u ranks are "
                          "replicas or pipeline stages (give --pipeline-stages N; 1 = all are replicas)",
                          n_groups, r->n_ep);
    r->n_stages = r->hints->n_stages > 0 ? r->hints->n_stages : 1;
    if (n_groups % r->n_stages != 0)
        return mp_fail_at(err, MP_EUSAGE, r->path, 0, 0, "--pipeline-stages %u: there are %u groups of %u ranks",
                          r->n_stages, n_groups, r->n_ep);
    r->n_replicas = n_groups / r->n_stages;
    return MP_OK;
}

static uint32_t stage_of(const struct recording *r, uint32_t rank) { return rank / r->n_ep / r->n_replicas; }

/* Absolute layers: those of earlier stages, whose last layer is an MoE layer, stand before. */
static enum mp_status find_layers(struct recording *r, struct mp_error *err) {
    uint32_t n_inner = 1;
    uint32_t *first = mp_calloc(r->n_stages + 1, sizeof *first);
    bool *is_there = mp_calloc(MP_MAX_LAYERS, sizeof *is_there);
    enum mp_status status = first == NULL || is_there == NULL ? mp_nomem(err, r->path) : MP_OK;
    for (size_t i = 0; status == MP_OK && i < r->n; i++) {
        const struct entry *e = &r->entries[i];
        uint32_t *end = &first[stage_of(r, e->rank) + 1];
        if (e->is_mtp)
            n_inner = e->layer >= n_inner ? e->layer + 1 : n_inner;
        else
            *end = e->layer >= *end ? e->layer + 1 : *end;
    }
    for (uint32_t s = 0; status == MP_OK && s < r->n_stages; s++)
        first[s + 1] += first[s];
    for (size_t i = 0; status == MP_OK && i < r->n; i++) {
        struct entry *e = &r->entries[i];
        uint64_t id = e->is_mtp ? (uint64_t)r->hints->mtp_base + (uint64_t)e->mtp * n_inner + e->layer
                                : (uint64_t)first[stage_of(r, e->rank)] + e->layer;
        if (id >= MP_MAX_LAYERS)
            status = mp_fail_at(err, MP_ELIMIT, r->files[e->rank].path, e->line, 1, "layer %llu is not below %u",
                                (unsigned long long)id, MP_MAX_LAYERS);
        else if (e->is_mtp && id < first[r->n_stages])
            status = mp_fail_at(err, MP_EUSAGE, r->path, 0, 0,
                                "--mtp-base %d: the decoder has layers up to %u (MTP layers stand behind them)",
                                r->hints->mtp_base, first[r->n_stages] - 1);
        else
            is_there[e->id = (uint32_t)id] = true;
    }
    for (uint32_t l = 0; status == MP_OK && l < MP_MAX_LAYERS; l++)
        if (is_there[l])
            r->ids[r->n_layers++] = l;
    mp_free(first);
    mp_free(is_there);
    return status;
}

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b))
static int compare_entries(const void *pa, const void *pb) {
    const struct entry *a = pa, *b = pb;
    int by = ORDER(a->iter, b->iter);
    if (by == 0)
        by = ORDER(a->id, b->id);
    if (by == 0)
        by = ORDER(a->rank, b->rank);
    return by != 0 ? by : ORDER(a->line, b->line);
}

/* What an entry that should be here is, for messages. */
static enum mp_status fail_missing(struct recording *r, const struct entry *same, uint32_t layer, uint32_t rank,
                                   struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, r->files[rank].path, 0, 0,
                      "has no line for iteration %llu, layer %u, which rank %u has (%s:%llu): every rank of a "
                      "pipeline stage needs the same layers and iterations",
                      (unsigned long long)same->iter, layer, same->rank, r->files[same->rank].name,
                      (unsigned long long)same->line);
}

/* Entries [at, *end) are one iteration: every layer with every rank of its stage, and as many microbatches. */
static enum mp_status check_iteration(struct recording *r, size_t at, size_t *end, struct mp_error *err) {
    const struct entry *first = &r->entries[at];
    for (uint32_t l = 0; l < r->n_layers; l++) {
        const struct entry *e = &r->entries[at];
        if (at == r->n || e->iter != first->iter || e->id != r->ids[l])
            return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                              "no rank has a line for iteration %llu, layer %u, which other iterations have",
                              (unsigned long long)first->iter, r->ids[l]);
        uint32_t n = r->n_ep * r->n_replicas, start = stage_of(r, e->rank) * n;
        for (uint32_t i = 0; i < n; i++, at++) {
            const struct entry *f = &r->entries[at];
            bool is_layer = at < r->n && f->iter == first->iter && f->id == r->ids[l];
            if (is_layer && i > 0 && f->rank == f[-1].rank)
                return BAD_ENTRY(
                    f,
                    "iteration %llu, layer %u stands on line %llu already (a resumed run writes iterations "
                    "again: keep one)",
                    (unsigned long long)f->iter, f->id, (unsigned long long)f[-1].line);
            if (!is_layer || f->rank != start + i)
                return fail_missing(r, i > 0 ? f - 1 : f, r->ids[l], start + i, err);
            if (f->n_micro != first->n_micro)
                return BAD_ENTRY(f,
                                 "microbatches of iteration %llu: %u in layer %u, but %u in layer %u of rank %u (every "
                                 "layer has each of them)",
                                 (unsigned long long)f->iter, f->n_micro, f->id, first->n_micro, first->id,
                                 first->rank);
        }
        const struct entry *f = &r->entries[at];
        if (at < r->n && f->iter == first->iter && f->id == r->ids[l]) {
            if (f->rank == f[-1].rank)
                return BAD_ENTRY(
                    f,
                    "iteration %llu, layer %u stands on line %llu already (a resumed run writes iterations "
                    "again: keep one)",
                    (unsigned long long)f->iter, f->id, (unsigned long long)f[-1].line);
            return BAD_ENTRY(f, "layer %u is of two pipeline stages (rank %u has it too)", f->id, f[-1].rank);
        }
    }
    *end = at;
    return MP_OK;
}

static enum mp_status add_iteration(struct recording *r, struct mp_trace_builder *b, size_t at, struct mp_error *err) {
    uint32_t n_micro = r->entries[at].n_micro;
    enum mp_status status = MP_OK;
    for (uint32_t m = 0; m < n_micro; m++)
        for (uint32_t replica = 0; replica < r->n_replicas; replica++) {
            MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
            const struct entry *e = &r->entries[at];
            for (uint32_t l = 0; l < r->n_layers; l++, e += r->n_ep * r->n_replicas)
                for (uint32_t g = 0; g < r->n_ep; g++) {
                    const struct entry *f = &e[replica * r->n_ep + g];
                    const uint32_t *counts = r->counts + f->first + (size_t)m * r->n_local;
                    for (uint32_t i = 0; i < r->n_local; i++)
                        MP_TRY(mp_trace_builder_count(b, 0, l, g * r->n_local + i, counts[i], err));
                }
        }
out:
    return status;
}

/* What is worth knowing but no reason to refuse. */
static enum mp_status add_notes(struct recording *r, struct mp_trace *t, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint64_t step = 0, n_gaps = 0, first_gap = 0;
    for (size_t i = 1; i < r->n; i++) {
        uint64_t by = r->entries[i].iter - r->entries[i - 1].iter;
        step = by > 0 && (step == 0 || by < step) ? by : step;
    }
    for (size_t i = 1; i < r->n; i++)
        if (r->entries[i].iter - r->entries[i - 1].iter > step && n_gaps++ == 0)
            first_gap = r->entries[i - 1].iter + step;
    if (n_gaps > 0)
        MP_TRY(trace_note(t, err, "its iterations are %llu apart, but %llu is missing%s", (unsigned long long)step,
                          (unsigned long long)first_gap, n_gaps > 1 ? ", and others" : ""));
    if (r->n_left_out > 0)
        MP_TRY(trace_note(t, err, "%u line%s of MTP layers left out (--mtp-base N says which layer the first one is)",
                          r->n_left_out, r->n_left_out == 1 ? "" : "s"));
    if (r->n_replicas > 1)
        MP_TRY(trace_note(t, err, "each microbatch of its %u replicas of %u ranks is a step of its own", r->n_replicas,
                          r->n_ep));
    if (r->n_stages > 1)
        MP_TRY(trace_note(t, err, "the layers of its %u pipeline stages are counted on, each up to its last MoE layer",
                          r->n_stages));
out:
    return status;
}

static enum mp_status read_megatron(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                    const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                    struct mp_error *err) {
    struct recording *r = mp_calloc(1, sizeof *r);
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    if (r == NULL)
        return mp_nomem(err, path);
    r->path = path;
    r->hints = hints;
    r->limits = limits;
    r->n_experts = hints->n_experts;
    if (hints->layer_base > 0) { /* 0 is true, and what a caller without better knowledge says */
        status = mp_fail_at(err, MP_EUSAGE, path, 0, 0, "Megatron names its layers (leave out --layer-base)");
        goto out;
    }
    MP_TRY(trace_ask(path, "megatron", (struct trace_needs){.experts = true}, hints, err));
    MP_TRY(find_files(r, in == NULL, err));
    MP_TRY(read_all(r, in, err));
    if (r->n == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "%s",
                            r->n_left_out > 0 ? "holds MTP layers only (give --mtp-base N to read them)"
                                              : "holds no lines (is --save-tokens-per-expert-interval set?)");
        goto out;
    }
    MP_TRY(find_groups(r, in == NULL, err));
    MP_TRY(find_layers(r, err));
    qsort(r->entries, r->n, sizeof *r->entries, compare_entries);
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase != MP_PHASE_UNKNOWN ? hints->phase : MP_PHASE_TRAIN,
                                 .model = hints->model_name,
                                 .format = "megatron",
                                 .is_time_ordered = true,
                                 .n_layers = r->n_layers,
                                 .n_experts = r->n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = r->ids};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    for (size_t at = 0, end = 0; at < r->n; at = end) {
        MP_TRY(check_iteration(r, at, &end, err));
        MP_TRY(add_iteration(r, b, at, err));
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
    if ((status = add_notes(r, *out, err)) != MP_OK) {
        mp_trace_free(*out);
        *out = NULL;
    }
out:
    mp_trace_builder_free(b);
    folder_list_clear(&r->list);
    mp_free(r->entries);
    mp_free(r->counts);
    mp_free(r);
    return status;
}

const struct mp_trace_format mp_trace_format_megatron = {
    .name = "megatron",
    .summary = "Megatron-LM tokens per expert (rank<R>.jsonl, a file or the folder with all ranks')",
    .reference = "NVIDIA/Megatron-LM megatron/training/activation_logging.py",
    .probe = probe,
    .read = read_megatron,
};
