/* Counts as one JSON object: per-layer "heat" with co-activation pairs (as mbolt writes it), or SGLang's
 * {"logical_count": ...}. */
#include "json_place.h"
#include "trace_describe.h"
#include <moeplan/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool has_text(const struct mp_in *in, size_t within, const char *text) {
    size_t n = in->size < within ? in->size : within;
    return memmem(in->data, n, text, strlen(text)) != NULL;
}

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return 0;
    size_t i = 0;
    while (i < in->size && i < 4096 && strchr(" \t\r\n", in->data[i]) != NULL && in->data[i] != '\0')
        i++;
    if (i < in->size && in->data[i] == '{') {
        if (has_text(in, 65536, "\"n_expert_per_layer\"") && has_text(in, 65536, "\"heat\""))
            return has_text(in, 4096, "\"" DESCRIBE_KEY "\"") ? 90 : 80; /* a first line like that is .jsonl's too */
        if (has_text(in, 4096, "\"logical_count\""))
            return 80;
    }
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0 ? 2 : 0;
}

/* The document and its text, which knows where things stand. */
struct document {
    const char *path;
    const struct mp_in *in;
    json_t *root;
    struct trace_described described;
};

static enum mp_status fail_there(const struct document *d, const char *place, struct mp_error *err, const char *fmt,
                                 ...) MP_PRINTF(4, 5);
static enum mp_status fail_there(const struct document *d, const char *place, struct mp_error *err, const char *fmt,
                                 ...) {
    char message[512];
    uint64_t line, column;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    json_place((const char *)d->in->data, d->in->size, place, &line, &column);
    return mp_fail_at(err, MP_EINPUT, d->path, line, column, "%s", message);
}
#define BAD(place, ...) fail_there(d, place, err, __VA_ARGS__)

/* A whole number of an array, or an error that names the place. */
static enum mp_status take(const struct document *d, const json_t *array, size_t i, uint64_t max, const char *what,
                           uint64_t *out, struct mp_error *err) {
    const json_t *v = json_array_get(array, i);
    if (json_is_integer(v) && json_integer_value(v) >= 0 && (uint64_t)json_integer_value(v) <= max) {
        *out = (uint64_t)json_integer_value(v);
        return MP_OK;
    }
    char place[128];
    snprintf(place, sizeof place, "%s[%zu]", what, i);
    return BAD(place, "%s is not a whole number in [0, %llu]", place, (unsigned long long)max);
}

/* A whole number of an object. */
static enum mp_status take_key(const struct document *d, const json_t *object, const char *prefix, const char *key,
                               uint64_t min, uint64_t max, uint64_t *out, struct mp_error *err) {
    struct mp_error inner = {0};
    enum mp_status status = mp_json_u64(object, key, d->path, 1, min, max, out, &inner);
    char place[128];
    snprintf(place, sizeof place, "%s%s", prefix, key);
    return status == MP_OK ? MP_OK : BAD(place, "%s", inner.message);
}

static enum mp_status read_layers(struct mp_trace_builder **b, const struct document *d,
                                  const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                  struct mp_error *err) {
    const json_t *root = d->root;
    const char *path = d->path;
    uint64_t n_layers, n_experts, k = 0, count, first, second;
    uint32_t layer_ids[MP_MAX_LAYERS];
    bool is_decode = json_object_get(root, "n_decode_tokens") != NULL;
    const struct trace_described *m = &d->described;
    enum mp_status status = trace_ask(
        path, "json",
        (struct trace_needs){.layer_base = true, .phase = !is_decode && !m->is_phase_unknown, .ids = true}, hints, err);
    if (status != MP_OK)
        return status;
    if (is_decode && hints->phase != MP_PHASE_UNKNOWN && hints->phase != MP_PHASE_DECODE)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                          "--phase %s, but the recording counts decode tokens (n_decode_tokens)",
                          mp_phase_name(hints->phase));
    if (hints->ids_are_physical == 1)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                          "counts of slots are not read in this format (write them as .npy and give --map)");
    MP_TRY(take_key(d, root, "", "n_layers", 1, MP_MAX_LAYERS, &n_layers, err));
    MP_TRY(take_key(d, root, "", "n_expert_per_layer", 1, MP_MAX_EXPERTS, &n_experts, err));
    if (json_object_get(root, "k") != NULL)
        MP_TRY(take_key(d, root, "", "k", 1, n_experts < MP_MAX_TOP_K ? n_experts : MP_MAX_TOP_K, &k, err));
    MP_TRY(trace_check_base(path, hints->layer_base, n_layers, err));
    if (hints->n_experts != 0 && hints->n_experts != n_experts)
        return BAD("n_expert_per_layer", "n_expert_per_layer is %llu but --experts or the model says %u",
                   (unsigned long long)n_experts, hints->n_experts);
    if (hints->top_k != 0 && k != 0 && hints->top_k != k)
        return BAD("k", "k is %llu but --top-k or the model says %u", (unsigned long long)k, hints->top_k);
    const json_t *layers = json_object_get(root, "layers"), *model = json_object_get(root, "model");
    if (json_array_size(layers) != n_layers)
        return BAD("layers", "layers has %zu entries, n_layers says %llu", json_array_size(layers),
                   (unsigned long long)n_layers);
    if (model != NULL && !json_is_string(model))
        return BAD("model", "model is not a string");
    for (uint32_t l = 0; l < n_layers; l++) {
        char what[64];
        uint64_t id = l;
        snprintf(what, sizeof what, "layers[%u].", l);
        if (m->is_there) /* then the layers are named, and may be any that ascend */
            MP_TRY(take_key(d, json_array_get(layers, l), what, "layer", l > 0 ? layer_ids[l - 1] + 1 : 0,
                            MP_MAX_LAYERS - 1, &id, err));
        layer_ids[l] = (uint32_t)id + (uint32_t)hints->layer_base;
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .is_synthetic = m->is_synthetic,
                                 .is_ranked = m->is_ranked == 1,
                                 .phase = is_decode ? MP_PHASE_DECODE : hints->phase,
                                 .format = "json",
                                 .model = hints->model_name != NULL ? hints->model_name
                                          : model != NULL           ? json_string_value(model)
                                                                    : "",
                                 .n_layers = (uint32_t)n_layers,
                                 .n_experts = (uint32_t)n_experts,
                                 .is_time_ordered = m->is_time_ordered != 0,
                                 .top_k = k != 0 ? (uint32_t)k : hints->top_k,
                                 .layer_ids = layer_ids};
    MP_TRY(mp_trace_builder_new(b, &meta, limits, err));
    MP_TRY(mp_trace_builder_iteration(*b, MP_NONE, err));
    for (uint32_t l = 0; l < n_layers; l++) {
        const json_t *layer = json_array_get(layers, l), *heat = json_object_get(layer, "heat"),
                     *pairs = json_object_get(layer, "pairs");
        char what[64];
        uint64_t id;
        snprintf(what, sizeof what, "layers[%u].", l);
        if (!json_is_object(layer))
            return BAD(what, "layers[%u] is not an object", l);
        if (json_object_get(layer, "layer") != NULL) {
            MP_TRY(take_key(d, layer, what, "layer", 0, MP_MAX_LAYERS - 1, &id, err));
            if (!m->is_there && id != l)
                return BAD(what, "layers[%u] says layer %llu (write the layers in order, from 0)", l,
                           (unsigned long long)id);
        }
        if (json_array_size(heat) != n_experts)
            return BAD(what, "layers[%u]: heat has %zu entries, not %llu", l, json_array_size(heat),
                       (unsigned long long)n_experts);
        snprintf(what, sizeof what, "layers[%u].heat", l);
        for (uint32_t e = 0; e < n_experts; e++) {
            MP_TRY(take(d, heat, e, MP_MAX_TOKENS, what, &count, err));
            MP_TRY(mp_trace_builder_count(*b, 0, l, e, count, err));
        }
        if (pairs != NULL && !json_is_array(pairs))
            return BAD(what, "layers[%u].pairs is not a list", l);
        for (size_t i = 0; i < json_array_size(pairs); i++) {
            const json_t *p = json_array_get(pairs, i);
            snprintf(what, sizeof what, "layers[%u].pairs[%zu]", l, i);
            if (json_array_size(p) < 3)
                return BAD(what, "%s is not [expert, expert, count, ...]", what);
            MP_TRY(take(d, p, 0, n_experts - 1, what, &first, err));
            MP_TRY(take(d, p, 1, n_experts - 1, what, &second, err));
            MP_TRY(take(d, p, 2, MP_MAX_TOKENS, what, &count, err));
            struct mp_pair pair = {.layer = l, .first = (uint32_t)first, .second = (uint32_t)second, .count = count};
            if (first > second) {
                pair.first = (uint32_t)second;
                pair.second = (uint32_t)first;
            }
            struct mp_error inner = {0};
            if ((status = mp_trace_builder_pair(*b, &pair, &inner)) != MP_OK) {
                status = status == MP_EINPUT ? BAD(what, "%s: %s", what, inner.message)
                                             : trace_fail_at(err, &inner, path, 0, 0);
                goto out;
            }
        }
    }
out:
    return status;
}

/* [L, E] or [buffer, L, E]. SGLang's buffer is circular: its unused rows are zero and dropped, and the others have no
 * order in time. */
static enum mp_status read_logical_count(struct mp_trace_builder **b, const struct document *d,
                                         const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                         struct mp_error *err) {
    const char *path = d->path;
    enum mp_status status =
        trace_ask(path, "json", (struct trace_needs){.layer_base = true, .phase = true}, hints, err);
    if (status != MP_OK)
        return status;
    const json_t *all = json_object_get(d->root, "logical_count");
    bool is_flat = json_is_integer(json_array_get(json_array_get(all, 0), 0));
    const json_t *first = is_flat ? all : json_array_get(all, 0);
    size_t n_buffers = is_flat ? 1 : json_array_size(all), n_layers = json_array_size(first),
           n_experts = json_array_size(json_array_get(first, 0));
    uint32_t layer_ids[MP_MAX_LAYERS];
    if (n_layers < 1 || n_layers > MP_MAX_LAYERS || n_experts < 1 || n_experts > MP_MAX_EXPERTS)
        return BAD("logical_count",
                   "logical_count is not [layers, experts] or [buffer, layers, experts] with 1 to %u layers and 1 to "
                   "%u experts",
                   MP_MAX_LAYERS, MP_MAX_EXPERTS);
    MP_TRY(trace_check_base(path, hints->layer_base, n_layers, err));
    if (hints->n_experts != 0 && hints->n_experts != n_experts)
        return BAD("logical_count", "logical_count has %zu experts but --experts or the model says %u", n_experts,
                   hints->n_experts);
    for (uint32_t l = 0; l < n_layers; l++)
        layer_ids[l] = l + (uint32_t)hints->layer_base;
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .format = "json",
                                 .model = hints->model_name,
                                 .n_layers = (uint32_t)n_layers,
                                 .n_experts = (uint32_t)n_experts,
                                 .is_time_ordered = n_buffers == 1,
                                 .top_k = hints->top_k,
                                 .layer_ids = layer_ids};
    MP_TRY(mp_trace_builder_new(b, &meta, limits, err));
    for (size_t i = 0; i < n_buffers; i++) {
        const json_t *buffer = is_flat ? all : json_array_get(all, i);
        bool is_used = false;
        if (json_array_size(buffer) != n_layers)
            return BAD("logical_count", "logical_count[%zu] has %zu layers, the first has %zu", i,
                       json_array_size(buffer), n_layers);
        for (int pass = 0; pass < 2; pass++) { /* is any count above zero? then take them */
            if (pass == 1 && (is_used || n_buffers == 1))
                MP_TRY(mp_trace_builder_iteration(*b, MP_NONE, err));
            for (size_t l = 0; l < n_layers; l++) {
                const json_t *row = json_array_get(buffer, l);
                char what[64];
                snprintf(what, sizeof what, "logical_count[%zu][%zu]", i, l);
                if (json_array_size(row) != n_experts)
                    return BAD(what, "%s has %zu experts, the first has %zu", what, json_array_size(row), n_experts);
                for (size_t e = 0; e < n_experts; e++) {
                    uint64_t v;
                    MP_TRY(take(d, row, e, MP_MAX_TOKENS, what, &v, err));
                    is_used |= v > 0;
                    if (pass == 1 && v > 0)
                        MP_TRY(mp_trace_builder_count(*b, 0, (uint32_t)l, (uint32_t)e, v, err));
                }
            }
        }
    }
out:
    return status;
}

static enum mp_status read_json(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                const struct mp_trace_hints *given, const struct mp_limits *limits,
                                struct mp_error *err) {
    (void)keep_in;
    *out = NULL;
    struct mp_trace_builder *b = NULL;
    struct document d = {.path = path, .in = in};
    struct mp_trace_hints settled = *given, *hints = &settled;
    trace_described_clear(&d.described);
    enum mp_status status = mp_json_parse(&d.root, path, (const char *)in->data, in->size, 1, limits, err);
    if (status != MP_OK)
        return status;
    if (json_object_get(d.root, DESCRIBE_KEY) != NULL) {
        MP_TRY(trace_describe_read(&d.described, d.root, true, path, 1, err));
        MP_TRY(trace_describe_settle(&settled, &d.described, path, err));
    }
    if (json_object_get(d.root, "logical_count") != NULL)
        MP_TRY(read_logical_count(&b, &d, hints, limits, err));
    else if (json_object_get(d.root, "layers") != NULL)
        MP_TRY(read_layers(&b, &d, hints, limits, err));
    else {
        status =
            mp_fail_at(err, MP_EINPUT, path, 1, 1,
                       "has neither \"layers\" with \"heat\" nor \"logical_count\" (is it a recording of counts?)");
        goto out;
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    struct mp_error inner = {0};
    bool is_flat = json_object_get(d.root, "logical_count") != NULL;
    status = mp_trace_builder_finish(done, NULL, out, &inner);
    if (status == MP_EINPUT) /* a pair twice, or nothing at all: found only when everything is there */
        status = fail_there(&d, is_flat ? "logical_count" : "layers", err, "%s", inner.message);
    else if (status != MP_OK)
        status = trace_fail_at(err, &inner, path, 0, 0);
out:
    mp_trace_builder_free(b);
    trace_described_clear(&d.described);
    json_decref(d.root);
    return status;
}

const struct mp_trace_format mp_trace_format_json = {
    .name = "json",
    .summary = "counts with co-activation pairs per layer, or SGLang's logical_count",
    .reference = "traces/FORMAT.md, \"Counts as JSON\"",
    .probe = probe,
    .read = read_json,
};
