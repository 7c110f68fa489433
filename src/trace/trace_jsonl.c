/* One JSON object per token and layer (traces/FORMAT.md, "Lines"). Lines may stand in any order: a recorder writes
 * layer by layer, a user token by token. They are kept as small records, sorted, and only then built. */
#include "trace_describe.h"
#include <moeplan/progress.h>
#include <math.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record {
    uint32_t request, layer; /* request: index of first appearance */
    uint64_t position, line;
    size_t list; /* first of its ids in the pool */
    uint32_t n;
};
struct request {
    uint64_t id;
    uint32_t source, category;
};
struct reader {
    const char *path;
    const struct mp_limits *limits;
    struct mp_progress_part *part;
    struct record *records;
    uint64_t n, room;
    uint16_t *ids, *weights; /* the pools, same places */
    size_t n_ids, ids_room, weights_room;
    struct request *requests;
    uint32_t n_requests, requests_room;
    uint32_t *slots, n_slots; /* open addressing by id: index + 1 */
    uint32_t last_request;
    struct trace_names categories;
    bool has_weights;
    uint32_t longest, shortest;
};

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return 0;
    size_t n = in->size < 65536 ? in->size : 65536;
    const char *text = (const char *)in->data, *stop = memchr(text, '\n', n);
    size_t line = stop != NULL ? (size_t)(stop - text) : n;
    if (line > 2 && text[0] == '{') {
        if (memmem(text, line, "\"moeplan_trace\"", 15) != NULL)
            return 85;
        if (memmem(text, line, "\"experts\"", 9) != NULL && memmem(text, line, "\"request\"", 9) != NULL)
            return 80;
    }
    n = strlen(path);
    return n > 6 && strcmp(path + n - 6, ".jsonl") == 0 ? 2 : 0;
}

#define BAD(...) mp_fail_at(err, MP_EINPUT, r->path, line, 1, __VA_ARGS__)

/* p of at least `need` items; grows by doubling within the memory limit. */
static bool grow(const struct reader *r, void **p, size_t *room, size_t need, size_t size, enum mp_status *status,
                 struct mp_error *err) {
    *status = MP_OK;
    if (need <= *room)
        return true;
    size_t more = *room == 0 ? 64 : *room * 2;
    if (r->limits->memory_bytes != 0 && more > r->limits->memory_bytes / size) {
        *status = mp_fail_at(err, MP_ELIMIT, r->path, 0, 0, "the recording does not fit the memory limit of %llu bytes",
                             (unsigned long long)r->limits->memory_bytes);
        return false;
    }
    void *grown = mp_realloc(*p, more, size);
    if (grown == NULL) {
        *status = mp_nomem(err, r->path);
        return false;
    }
    *p = grown;
    *room = more;
    return true;
}

static enum mp_status find_request(struct reader *r, uint64_t id, uint32_t *out, bool *is_new, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *is_new = false;
    if (r->n_requests > 0 && r->requests[r->last_request].id == id) {
        *out = r->last_request;
        return MP_OK;
    }
    if ((r->n_requests + 1) * 2 > r->n_slots) {
        uint32_t n = r->n_slots == 0 ? 64 : r->n_slots * 2;
        uint32_t *slots = mp_calloc(n, sizeof *slots);
        if (slots == NULL)
            return mp_nomem(err, r->path);
        for (uint32_t i = 0; i < r->n_requests; i++) {
            uint32_t at = (uint32_t)mp_mix64(r->requests[i].id) & (n - 1);
            while (slots[at] != 0)
                at = (at + 1) & (n - 1);
            slots[at] = i + 1;
        }
        mp_free(r->slots);
        r->slots = slots;
        r->n_slots = n;
    }
    uint32_t at = (uint32_t)mp_mix64(id) & (r->n_slots - 1);
    for (; r->slots[at] != 0; at = (at + 1) & (r->n_slots - 1))
        if (r->requests[r->slots[at] - 1].id == id) {
            *out = r->last_request = r->slots[at] - 1;
            return MP_OK;
        }
    size_t room = r->requests_room;
    if (!grow(r, (void **)&r->requests, &room, (size_t)r->n_requests + 1, sizeof *r->requests, &status, err))
        return status;
    r->requests_room = (uint32_t)room;
    r->requests[r->n_requests] = (struct request){id, MP_NONE, MP_NONE};
    r->slots[at] = r->n_requests + 1;
    *out = r->last_request = r->n_requests++;
    *is_new = true;
    return MP_OK;
}

/* Source and category belong to the request: every line that gives one must give the same. */
static enum mp_status read_request_facts(struct reader *r, struct request *q, bool is_new, const json_t *o,
                                         uint64_t line, struct mp_error *err) {
    const json_t *source = json_object_get(o, "source"), *category = json_object_get(o, "category");
    uint32_t s = MP_NONE, c = MP_NONE;
    enum mp_status status;
    uint64_t v;
    if (source != NULL) {
        if ((status = mp_json_u64(o, "source", r->path, line, 0, MP_MAX_GPUS - 1, &v, err)) != MP_OK)
            return status;
        s = (uint32_t)v;
    }
    if (category != NULL) {
        if (!json_is_string(category))
            return BAD("category is not a string");
        const char *name = json_string_value(category);
        struct mp_error inner = {0};
        if (name[0] == '\0' || strlen(name) > MP_MAX_NAME || !mp_is_text(name, strlen(name)))
            return BAD("category is not text of 1 to %u bytes", MP_MAX_NAME);
        if ((status = trace_names_find(&r->categories, name, &c, &inner)) != MP_OK)
            return trace_fail_at(err, &inner, r->path, line, 1);
    }
    if (is_new) {
        q->source = s;
        q->category = c;
    } else if (q->source != s || q->category != c)
        return BAD("request %llu has another source or category than on its first line", (unsigned long long)q->id);
    return MP_OK;
}

static enum mp_status read_lists(struct reader *r, struct record *rec, const json_t *o, struct mp_error *err) {
    uint64_t line = rec->line;
    const json_t *experts = json_object_get(o, "experts"), *weights = json_object_get(o, "weights");
    enum mp_status status = MP_OK;
    size_t n = json_array_size(experts);
    if (!json_is_array(experts) || n > MP_MAX_TOP_K)
        return BAD("experts is not a list of at most %u experts", MP_MAX_TOP_K);
    if (weights != NULL && json_array_size(weights) != n)
        return BAD("weights has %zu entries, experts has %zu", json_array_size(weights), n);
    if (r->n == 0)
        r->has_weights = weights != NULL;
    else if (r->has_weights != (weights != NULL))
        return BAD("weights must be on every line or on none");
    while (r->n_ids + n > r->ids_room)
        if (!grow(r, (void **)&r->ids, &r->ids_room, r->n_ids + n, sizeof *r->ids, &status, err))
            return status;
    while (r->has_weights && r->n_ids + n > r->weights_room)
        if (!grow(r, (void **)&r->weights, &r->weights_room, r->n_ids + n, sizeof *r->weights, &status, err))
            return status;
    rec->list = r->n_ids;
    rec->n = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(experts, i), *w = json_array_get(weights, i);
        if (!json_is_integer(e) || json_integer_value(e) < 0 || json_integer_value(e) >= MP_MAX_EXPERTS)
            return BAD("experts[%zu] is not an expert in [0, %u)", i, MP_MAX_EXPERTS);
        r->ids[r->n_ids + i] = (uint16_t)json_integer_value(e);
        if (weights == NULL)
            continue;
        double x = json_number_value(w);
        if (!json_is_number(w) || !(x >= 0.0 && x <= 1.0))
            return BAD("weights[%zu] is not a number in [0, 1]", i);
        r->weights[r->n_ids + i] = (uint16_t)llround(x * 65535.0);
    }
    r->n_ids += n;
    r->longest = n > r->longest ? (uint32_t)n : r->longest;
    r->shortest = n < r->shortest ? (uint32_t)n : r->shortest;
    return MP_OK;
}

static enum mp_status read_line(struct reader *r, const json_t *o, uint64_t line, struct mp_error *err) {
    static const char *const known[] = {"request", "position", "layer", "experts", "weights", "source", "category"};
    const char *key;
    json_t *value;
    struct record rec = {.line = line};
    uint64_t id, layer;
    bool is_new;
    enum mp_status status = MP_OK;
    json_object_foreach((json_t *)(uintptr_t)o, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(known[i], key) != 0)
            i++;
        char quoted[128];
        if (i == sizeof known / sizeof known[0])
            return BAD("key \"%s\" is not known (request, position, layer, experts, weights, source, category)",
                       mp_quote(key, strlen(key), quoted, sizeof quoted));
    }
    MP_TRY(mp_json_u64(o, "request", r->path, line, 0, INT64_MAX, &id, err));
    MP_TRY(mp_json_u64(o, "position", r->path, line, 0, MP_MAX_TOKENS, &rec.position, err));
    MP_TRY(mp_json_u64(o, "layer", r->path, line, 0, MP_MAX_LAYERS - 1, &layer, err));
    rec.layer = (uint32_t)layer;
    MP_TRY(find_request(r, id, &rec.request, &is_new, err));
    MP_TRY(read_request_facts(r, &r->requests[rec.request], is_new, o, line, err));
    MP_TRY(read_lists(r, &rec, o, err));
    size_t room = r->room;
    if (!grow(r, (void **)&r->records, &room, r->n + 1, sizeof *r->records, &status, err))
        return status;
    r->room = room;
    r->records[r->n++] = rec;
out:
    return status;
}

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b))
static int compare_records(const void *pa, const void *pb) {
    const struct record *a = pa, *b = pb;
    int by = ORDER(a->request, b->request);
    if (by == 0)
        by = ORDER(a->position, b->position);
    if (by == 0)
        by = ORDER(a->layer, b->layer);
    return by != 0 ? by : ORDER(a->line, b->line);
}

/* Sorted records into rows: every token has every layer exactly once, positions of a request follow each other. */
static enum mp_status build(struct mp_trace_builder *b, struct reader *r, const uint32_t *layer_of, uint32_t n_layers,
                            uint32_t k, const struct trace_map *map, struct mp_error *err) {
    uint16_t *ids = mp_calloc((size_t)n_layers * k, sizeof *ids),
             *weights = r->has_weights ? mp_calloc((size_t)n_layers * k, sizeof *weights) : NULL;
    enum mp_status status = MP_OK;
    if (ids == NULL || (r->has_weights && weights == NULL)) {
        status = mp_nomem(err, r->path);
        goto out;
    }
    for (uint64_t i = 0; i < r->n; i += n_layers) {
        const struct record *first = &r->records[i];
        uint64_t line = first->line;
        for (uint32_t l = 0; l < n_layers; l++) {
            const struct record *rec = &r->records[i + l < r->n ? i + l : i];
            bool is_same = i + l < r->n && rec->request == first->request && rec->position == first->position;
            if (l > 0 && is_same && rec->layer == rec[-1].layer) {
                line = rec->line;
                status = BAD("request %llu, position %llu, layer %u stands on line %llu already",
                             (unsigned long long)r->requests[rec->request].id, (unsigned long long)rec->position,
                             rec->layer, (unsigned long long)rec[-1].line);
                goto out;
            }
            if (!is_same || layer_of[rec->layer] != l) {
                uint32_t id = 0;
                while (layer_of[id] != l)
                    id++;
                status =
                    BAD("request %llu, position %llu has no line for layer %u (every token needs every layer)",
                        (unsigned long long)r->requests[first->request].id, (unsigned long long)first->position, id);
                goto out;
            }
            line = rec->line;
            for (uint32_t j = 0; j < k; j++) {
                uint16_t e = j < rec->n ? r->ids[rec->list + j] : MP_NO_EXPERT;
                if (e != MP_NO_EXPERT && map->logical != NULL) {
                    if (e >= map->n_physical) {
                        status = BAD("experts: slot %u is not in [0, %u)", e, map->n_physical);
                        goto out;
                    }
                    e = (uint16_t)map->logical[(size_t)l * map->n_physical + e];
                }
                ids[(size_t)l * k + j] = e;
                if (r->has_weights)
                    weights[(size_t)l * k + j] = j < rec->n ? r->weights[rec->list + j] : 0;
            }
            line = first->line;
        }
        struct mp_error inner = {0};
        if (i == 0 || first->request != first[-1].request) {
            const struct request *q = &r->requests[first->request];
            struct mp_request request = {
                .id = q->id, .first_position = first->position, .source = q->source, .category = q->category};
            status = mp_trace_builder_request(b, &request, &inner);
        } else if (first->position != first[-1].position + 1) {
            status = BAD("request %llu jumps from position %llu to %llu (a request's positions follow each other)",
                         (unsigned long long)r->requests[first->request].id, (unsigned long long)first[-1].position,
                         (unsigned long long)first->position);
            goto out;
        }
        if (status == MP_OK)
            status = mp_trace_builder_row(b, ids, weights, &inner);
        if (status != MP_OK) {
            (void)trace_fail_at(err, &inner, r->path, first->line, 1);
            goto out;
        }
    }
out:
    mp_free(ids);
    mp_free(weights);
    return status;
}

static enum mp_status read_all(struct reader *r, struct trace_described *m, const struct mp_in *in,
                               struct mp_error *err) {
    const char *cursor = (const char *)in->data, *end = cursor + in->size, *text;
    size_t n;
    for (uint64_t line = 1; mp_next_line_within(&cursor, end, r->limits->line_bytes, &text, &n); line++) {
        mp_progress_add(r->part, n + 1);
        if (n == 0)
            continue;
        if (n > r->limits->line_bytes)
            return mp_fail_at(err, MP_ELIMIT, r->path, line, 1, "the line has more than %zu bytes, the limit",
                              r->limits->line_bytes);
        json_t *o;
        enum mp_status status = mp_json_parse(&o, r->path, text, n, line, r->limits, err);
        if (status != MP_OK)
            return status;
        if (!json_is_object(o))
            status = BAD("the line is not an object");
        else if (json_object_get(o, "moeplan_trace") == NULL)
            status = read_line(r, o, line, err);
        else if (line != 1)
            status = BAD("the line that describes the recording must be the first");
        else if ((status = trace_describe_read(m, o, false, r->path, line, err)) == MP_OK)
            status = trace_describe_categories(m, &r->categories, err);
        json_decref(o);
        if (status != MP_OK)
            return status;
    }
    return r->n > 0 ? MP_OK : mp_fail_at(err, MP_EINPUT, r->path, 1, 1, "the recording holds no tokens");
}

static enum mp_status read_jsonl(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                 const struct mp_trace_hints *given, const struct mp_limits *limits,
                                 struct mp_error *err) {
    (void)keep_in;
    *out = NULL;
    struct reader r = {.path = path, .limits = limits, .part = given->part, .shortest = UINT32_MAX};
    struct trace_described m = {0};
    trace_described_clear(&m);
    struct mp_trace_hints hints = *given;
    struct mp_trace_builder *b = NULL;
    struct trace_map map = {0};
    uint32_t layer_of[MP_MAX_LAYERS], layer_ids[MP_MAX_LAYERS], n_layers = 0;
    enum mp_status status = MP_OK;
    MP_TRY(read_all(&r, &m, in, err));
    MP_TRY(trace_describe_settle(&hints, &m, path, err));
    if (m.n_layers != 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 1, 1, "layers: every line names its own (leave it out)");
        goto out;
    }
    MP_TRY(
        trace_ask(path, "jsonl",
                  (struct trace_needs){.layer_base = true, .phase = !m.is_phase_unknown, .ids = true, .experts = true},
                  &hints, err));
    memset(layer_of, 0xff, sizeof layer_of);
    for (uint64_t i = 0; i < r.n; i++)
        layer_of[r.records[i].layer] = 0;
    for (uint32_t l = 0; l < MP_MAX_LAYERS; l++)
        if (layer_of[l] != MP_NONE) {
            layer_of[l] = n_layers;
            layer_ids[n_layers++] = l + (uint32_t)hints.layer_base;
        }
    MP_TRY(trace_check_base(path, hints.layer_base, layer_ids[n_layers - 1] - (uint32_t)hints.layer_base + 1, err));
    if (hints.top_k != 0 && r.longest > hints.top_k) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "a token uses %u experts but --top-k, the model or the first line says %u", r.longest,
                            hints.top_k);
        goto out;
    }
    uint32_t k = hints.top_k != 0 ? hints.top_k : r.longest;
    if (k == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "no token uses any expert");
        goto out;
    }
    if (hints.ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints.map_path, limits, err));
        if (map.n_layers != n_layers || map.n_logical > hints.n_experts) {
            status = mp_fail_at(err, MP_EINPUT, hints.map_path, 0, 0,
                                "the map has %u layers and %u experts, the recording %u and %u", map.n_layers,
                                map.n_logical, n_layers, hints.n_experts);
            goto out;
        }
    }
    qsort(r.records, r.n, sizeof *r.records, compare_records);
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = hints.phase,
                                 .model = hints.model_name,
                                 .format = "jsonl",
                                 .is_synthetic = m.is_synthetic,
                                 .is_ranked = hints.is_ranked == 1,
                                 .is_time_ordered = m.is_time_ordered != 0,
                                 .n_layers = n_layers,
                                 .n_experts = hints.n_experts,
                                 .top_k = k,
                                 .layer_ids = layer_ids,
                                 .has_weights = r.has_weights,
                                 .has_unused = r.shortest < k || m.id_bytes == 2};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(trace_names_to_builder(&r.categories, b, err));
    MP_TRY(build(b, &r, layer_of, n_layers, k, &map, err));
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    trace_map_clear(&map);
    mp_free(r.records);
    mp_free(r.ids);
    mp_free(r.weights);
    mp_free(r.requests);
    mp_free(r.slots);
    trace_names_clear(&r.categories);
    trace_described_clear(&m);
    return status;
}

const struct mp_trace_format mp_trace_format_jsonl = {
    .name = "jsonl",
    .summary = "one JSON object per token and layer: request, position, layer, experts[, weights]",
    .reference = "traces/FORMAT.md, \"Lines\"",
    .probe = probe,
    .read = read_jsonl,
};
