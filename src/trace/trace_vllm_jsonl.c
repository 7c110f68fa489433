/* vLLM's expert load: JSON lines of PR #41141 in both revisions (with and without the eplb_load_meta line), and the
 * development branch's dump, one object with snapshots[]. Loads are per slot and fold through the map beside them;
 * layers are MoE indexes, so the base is asked for. */
#include "trace_box.h"

#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

static bool head_has(const struct mp_in *in, const char *word) {
    size_t head = in->size < 65536 ? in->size : 65536;
    return memmem(in->data, head, word, strlen(word)) != NULL;
}

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    if (in == NULL || in->size == 0)
        return 0;
    if (head_has(in, "\"record_type\"") && (head_has(in, "\"eplb_load_stats\"") || head_has(in, "\"eplb_load_meta\"")))
        return 90;
    return head_has(in, "\"snapshots\"") &&
                   (head_has(in, "\"latest_expert_load\"") || head_has(in, "\"window_expert_load\""))
               ? 85
               : 0;
}

struct reader {
    const char *path;
    const struct mp_trace_hints *hints;
    const struct mp_limits *limits;
    struct mp_trace_builder *b;
    char model[MP_MAX_NAME + 1];
    bool has_meta, has_step;
    uint64_t n_ranks, n_meta_layers, n_redundant, step; /* n_meta_layers 0 = not said */
    uint32_t n_layers, n_physical, n_logical;
    bool any; /* a count above 0 */
    /* The record at hand, for messages. */
    const char *text, *place; /* place: steps to the record inside text */
    size_t n_text;
    uint64_t line;
};

/* MP_EINPUT at a value of the record: `steps` from the record on. */
static enum mp_status bad(const struct reader *d, const char *steps, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(4, 5);
static enum mp_status bad(const struct reader *d, const char *steps, struct mp_error *err, const char *fmt, ...) {
    char message[512], all[200];
    uint64_t line = 0, column = 0;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    (void)snprintf(all, sizeof all, "%s%s%s", d->place, *d->place != '\0' && *steps != '\0' ? "/" : "", steps);
    if (mp_json_position(d->text, d->n_text, all, &line, &column) ||
        mp_json_position(d->text, d->n_text, d->place, &line, &column))
        line += d->line - 1;
    else
        line = d->line;
    return mp_fail_at(err, MP_EINPUT, d->path, line, column, "%s", message);
}

static enum mp_status number_of(const struct reader *d, const json_t *record, const char *key, uint64_t min,
                                uint64_t max, uint64_t *out, struct mp_error *err) {
    const json_t *v = json_object_get(record, key);
    if (v == NULL)
        return bad(d, "", err, "the key \"%s\" is missing (add a whole number)", key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) < min ||
        (uint64_t)json_integer_value(v) > max)
        return bad(d, key, err, "%s: is not a whole number in [%llu, %llu]", key, (unsigned long long)min,
                   (unsigned long long)max);
    *out = (uint64_t)json_integer_value(v);
    return MP_OK;
}

/* record[key][layer][slot], a whole number in [0, max]. */
static enum mp_status cell_of(const struct reader *d, const json_t *rows, const char *key, uint32_t l, uint32_t p,
                              uint64_t max, uint64_t *out, struct mp_error *err) {
    const json_t *v = json_array_get(json_array_get(rows, l), p);
    char steps[96];
    if (json_is_integer(v) && json_integer_value(v) >= 0 && (uint64_t)json_integer_value(v) <= max) {
        *out = (uint64_t)json_integer_value(v);
        return MP_OK;
    }
    (void)snprintf(steps, sizeof steps, "%s/%u/%u", key, l, p);
    if (json_is_integer(v))
        return bad(d, steps, err, "%s[%u][%u]: \"%lld\" is not a whole number in [0, %llu]", key, l, p,
                   (long long)json_integer_value(v), (unsigned long long)max);
    return bad(d, steps, err, "%s[%u][%u]: is not a whole number", key, l, p);
}

/* rows is [n_layers][n_physical], as in the first record. */
static enum mp_status check_shape(const struct reader *d, const json_t *rows, const char *key, struct mp_error *err) {
    char steps[96];
    if (!json_is_array(rows))
        return bad(d, rows == NULL ? "" : key, err, "%s: is not a list of one list of slots per layer", key);
    if (json_array_size(rows) != d->n_layers)
        return bad(d, key, err, "%s: has %zu layers, not %u", key, json_array_size(rows), d->n_layers);
    for (uint32_t l = 0; l < d->n_layers; l++)
        if (json_array_size(json_array_get(rows, l)) != d->n_physical) {
            (void)snprintf(steps, sizeof steps, "%s/%u", key, l);
            return bad(d, steps, err, "%s[%u]: has %zu slots, not %u", key, l, json_array_size(json_array_get(rows, l)),
                       d->n_physical);
        }
    return MP_OK;
}

/* Shape and experts from the first record, and the builder. */
static enum mp_status start(struct reader *d, const json_t *load, const json_t *map, const char *load_key,
                            const char *map_key, struct mp_error *err) {
    uint32_t ids[MP_MAX_LAYERS];
    size_t n_layers = json_array_size(load), n_physical = json_array_size(json_array_get(load, 0));
    if (n_layers == 0 || n_layers > MP_MAX_LAYERS || n_physical == 0 || n_physical > UINT16_MAX)
        return bad(d, load == NULL ? "" : load_key, err, "%s: is not [1..%u layers][1..%u slots]", load_key,
                   MP_MAX_LAYERS, UINT16_MAX);
    d->n_layers = (uint32_t)n_layers;
    d->n_physical = (uint32_t)n_physical;
    if (d->n_meta_layers != 0 && d->n_meta_layers != n_layers)
        return bad(d, load_key, err, "%s: has %zu layers, the meta line says %llu", load_key, n_layers,
                   (unsigned long long)d->n_meta_layers);
    enum mp_status status = trace_check_base(d->path, d->hints->layer_base, n_layers, err);
    if (status == MP_OK)
        status = check_shape(d, map, map_key, err);
    for (uint32_t l = 0; status == MP_OK && l < d->n_layers; l++)
        for (uint32_t p = 0; status == MP_OK && p < d->n_physical; p++) {
            uint64_t e = 0;
            status = cell_of(d, map, map_key, l, p, MP_MAX_EXPERTS - 1, &e, err);
            d->n_logical = e >= d->n_logical ? (uint32_t)e + 1 : d->n_logical;
        }
    if (status != MP_OK)
        return status;
    if (d->has_meta && d->n_logical + d->n_redundant != d->n_physical)
        return bad(d, map_key, err, "%s: names %u experts in %u slots, but the meta line says %llu are redundant",
                   map_key, d->n_logical, d->n_physical, (unsigned long long)d->n_redundant);
    if (d->hints->n_experts != 0 && d->hints->n_experts != d->n_logical)
        return bad(d, map_key, err, "%s: names %u experts, but --experts says %u", map_key, d->n_logical,
                   d->hints->n_experts);
    for (uint32_t l = 0; l < d->n_layers; l++)
        ids[l] = (uint32_t)d->hints->layer_base + l;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = d->hints->phase,
                                 .model = d->hints->model_name != NULL ? d->hints->model_name : d->model,
                                 .format = "vllm_jsonl",
                                 .is_time_ordered = true,
                                 .n_layers = d->n_layers,
                                 .n_experts = d->n_logical,
                                 .top_k = d->hints->top_k,
                                 .layer_ids = ids};
    return mp_trace_builder_new(&d->b, &meta, d->limits, err);
}

/* One record's loads become an iteration. */
static enum mp_status add(struct reader *d, const json_t *record, const char *load_key, const char *map_key,
                          struct mp_error *err) {
    const json_t *load = json_object_get(record, load_key), *map = json_object_get(record, map_key);
    uint64_t step = 0;
    enum mp_status status = MP_OK;
    MP_TRY(number_of(d, record, "step", 0, MP_MAX_TOKENS, &step, err));
    if (d->has_step && step <= d->step) {
        status =
            bad(d, "step", err, "step: \"%llu\" does not come after step %llu (keep one recording per file, in order)",
                (unsigned long long)step, (unsigned long long)d->step);
        goto out;
    }
    d->step = step;
    d->has_step = true;
    if (d->b == NULL)
        MP_TRY(start(d, load, map, load_key, map_key, err));
    MP_TRY(check_shape(d, load, load_key, err));
    MP_TRY(check_shape(d, map, map_key, err));
    MP_TRY(mp_trace_builder_iteration(d->b, MP_NONE, err));
    for (uint32_t l = 0; l < d->n_layers; l++)
        for (uint32_t p = 0; p < d->n_physical; p++) {
            uint64_t n = 0, expert = 0;
            MP_TRY(cell_of(d, load, load_key, l, p, MP_MAX_TOKENS, &n, err));
            MP_TRY(cell_of(d, map, map_key, l, p, d->n_logical - 1, &expert, err));
            MP_TRY(mp_trace_builder_count(d->b, 0, l, (uint32_t)expert, n, err));
            d->any |= n > 0;
        }
out:
    return status;
}

/* The meta line: exactly one, before any stats. */
static enum mp_status read_meta(struct reader *d, const json_t *record, struct mp_error *err) {
    const char *model = json_string_value(json_object_get(record, "model"));
    if (d->has_meta || d->b != NULL)
        return bad(d, "record_type", err, "an eplb_load_meta line stands after %s (write exactly one, first)",
                   d->has_meta ? "another one" : "the first eplb_load_stats");
    d->has_meta = true;
    if (model != NULL && strlen(model) <= MP_MAX_NAME)
        (void)snprintf(d->model, sizeof d->model, "%s", model);
    enum mp_status status = number_of(d, record, "num_ranks", 1, MP_MAX_GPUS, &d->n_ranks, err);
    if (status == MP_OK)
        status = number_of(d, record, "num_layers", 1, MP_MAX_LAYERS, &d->n_meta_layers, err);
    if (status == MP_OK)
        status = number_of(d, record, "num_redundant_experts", 0, UINT16_MAX, &d->n_redundant, err);
    return status;
}

static enum mp_status read_record(struct reader *d, const json_t *record, struct mp_error *err) {
    const char *type = json_string_value(json_object_get(record, "record_type"));
    uint64_t version = 0, n_ranks = 0;
    if (!json_is_object(record))
        return bad(d, "", err, "is not an object (write {\"record_type\": ...})");
    bool is_meta = type != NULL && strcmp(type, "eplb_load_meta") == 0,
         is_stats = type != NULL && strcmp(type, "eplb_load_stats") == 0;
    if (!is_meta && !is_stats)
        return MP_OK; /* session_metadata, bench_run_start, ... */
    enum mp_status status = number_of(d, record, "version", 1, 1, &version, err);
    if (status != MP_OK || is_meta)
        return status != MP_OK ? status : read_meta(d, record, err);
    if (json_object_get(record, "num_ranks") != NULL) {
        status = number_of(d, record, "num_ranks", 1, MP_MAX_GPUS, &n_ranks, err);
        if (status == MP_OK && d->n_ranks != 0 && n_ranks != d->n_ranks)
            status = bad(d, "num_ranks", err,
                         "num_ranks: \"%llu\" is not %llu, as said before (keep one recording per file)",
                         (unsigned long long)n_ranks, (unsigned long long)d->n_ranks);
        d->n_ranks = n_ranks;
    }
    return status == MP_OK ? add(d, record, "expert_load", "p2l_map", err) : status;
}

static enum mp_status read_lines(struct reader *d, const struct mp_in *in, struct mp_error *err) {
    const char *cursor = (const char *)in->data, *end = cursor + in->size;
    enum mp_status status = MP_OK;
    for (d->line = 1; status == MP_OK && mp_next_line_within(&cursor, end, d->limits->line_bytes, &d->text, &d->n_text);
         d->line++) {
        json_t *record = NULL;
        size_t i = 0;
        mp_progress_add(d->hints->part, d->n_text + 1);
        while (i < d->n_text && i <= d->limits->line_bytes && (d->text[i] == ' ' || d->text[i] == '\t'))
            i++;
        if (i == d->n_text)
            continue;
        if (d->n_text > d->limits->line_bytes)
            return mp_fail_at(err, MP_ELIMIT, d->path, d->line, 1, "the line has more than %zu bytes, the limit",
                              d->limits->line_bytes);
        status = mp_json_parse(&record, d->path, d->text, d->n_text, d->line, d->limits, err);
        if (status == MP_OK)
            status = read_record(d, record, err);
        json_decref(record);
    }
    return status;
}

/* {"snapshots": [...]}: latest_expert_load is of one step; window_expert_load sums overlapping windows and is not used.
 */
static enum mp_status read_dump(struct reader *d, const struct mp_in *in, struct mp_error *err) {
    json_t *root = NULL;
    char place[64];
    d->text = (const char *)in->data;
    d->n_text = in->size;
    d->line = 1;
    enum mp_status status = mp_json_parse(&root, d->path, d->text, d->n_text, 1, d->limits, err);
    if (status != MP_OK)
        return status;
    const json_t *list = json_object_get(root, "snapshots");
    if (!json_is_array(list))
        status = bad(d, "snapshots", err, "snapshots: is not a list");
    for (size_t i = 0; status == MP_OK && i < json_array_size(list); i++) {
        const json_t *snapshot = json_array_get(list, i);
        (void)snprintf(place, sizeof place, "snapshots/%zu", i);
        d->place = place;
        if (json_object_get(snapshot, "latest_expert_load") == NULL)
            status = bad(
                d, "", err,
                "has no latest_expert_load (window_expert_load sums overlapping windows and cannot stand in for it)");
        else
            status = add(d, snapshot, "latest_expert_load", "physical_to_logical_map", err);
        d->place = "";
    }
    json_decref(root);
    return status;
}

static enum mp_status read_jsonl(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                 const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                 struct mp_error *err) {
    struct reader d = {.path = path, .hints = hints, .limits = limits, .place = ""};
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    if (in == NULL)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0, "is a folder (name the .jsonl file)");
    MP_TRY(trace_ask(path, "vllm_jsonl", (struct trace_needs){.layer_base = true}, hints, err));
    MP_TRY(head_has(in, "\"snapshots\"") && !head_has(in, "\"record_type\"") ? read_dump(&d, in, err)
                                                                             : read_lines(&d, in, err));
    if (d.b == NULL || !d.any) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "%s",
                            d.b == NULL ? "holds no expert loads (record with expert_load_stats_path set)"
                                        : "every load is 0 (send requests while recording)");
        goto out;
    }
    struct mp_trace_builder *done = d.b;
    d.b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(d.b);
    return status;
}

const struct mp_trace_format mp_trace_format_vllm_jsonl = {
    .name = "vllm_jsonl",
    .summary = "vLLM expert load lines (PR #41141, both revisions) and the development branch's snapshots",
    .reference = "vllm-project/vllm pull request 41141, tools/eplb/generate_static_mapping.py",
    .probe = probe,
    .read = read_jsonl,
};
