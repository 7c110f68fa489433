#include "trace_describe.h"
#include <stdio.h>
#include <string.h>

void trace_described_clear(struct trace_described *d) {
    trace_names_clear(&d->categories);
    *d = (struct trace_described){.layer_base = -1, .ids_are_physical = -1, .is_ranked = -1, .is_time_ordered = -1};
}

#define BAD(...) mp_fail_at(err, MP_EINPUT, path, line, 1, __VA_ARGS__)

static enum mp_status read_bool(const json_t *value, const char *key, const char *path, uint64_t line, int *out,
                                struct mp_error *err) {
    if (!json_is_boolean(value))
        return BAD("%s is neither true nor false", key);
    *out = json_is_true(value);
    return MP_OK;
}

static enum mp_status read_layers(struct trace_described *d, const json_t *value, const char *path, uint64_t line,
                                  struct mp_error *err) {
    size_t n = json_array_size(value);
    for (size_t i = 0; i < n && n <= MP_MAX_LAYERS; i++) {
        const json_t *v = json_array_get(value, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MP_MAX_LAYERS ||
            (i > 0 && json_integer_value(v) <= d->layers[i - 1]))
            return BAD("layers[%zu] is not a layer below %u behind the one before it", i, MP_MAX_LAYERS);
        d->layers[i] = (uint32_t)json_integer_value(v);
    }
    if (n == 0 || n > MP_MAX_LAYERS)
        return BAD("layers is not a list of 1 to %u layers", MP_MAX_LAYERS);
    d->n_layers = (uint32_t)n;
    return MP_OK;
}

static enum mp_status read_categories(struct trace_described *d, const json_t *value, const char *path, uint64_t line,
                                      struct mp_error *err) {
    if (!json_is_array(value))
        return BAD("categories is not a list of names");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *name = json_string_value(json_array_get(value, i));
        uint32_t index;
        struct mp_error inner = {0};
        if (name == NULL || name[0] == '\0' || strlen(name) > MP_MAX_NAME || !mp_is_text(name, strlen(name)))
            return BAD("categories[%zu] is not text of 1 to %u bytes", i, MP_MAX_NAME);
        enum mp_status status = trace_names_find(&d->categories, name, &index, &inner);
        if (status != MP_OK)
            return trace_fail_at(err, &inner, path, line, 1);
        if (index != i)
            return BAD("categories[%zu] is there twice", i);
    }
    return MP_OK;
}

enum mp_status trace_describe_read(struct trace_described *d, const json_t *o, bool has_others, const char *path,
                                   uint64_t line, struct mp_error *err) {
    uint64_t v;
    int is = 0;
    const char *key;
    json_t *value;
    enum mp_status status = mp_json_u64(o, DESCRIBE_KEY, path, line, 1, 1, &v, err);
    trace_described_clear(d);
    if (status != MP_OK)
        return status;
    d->is_there = true;
    json_object_foreach((json_t *)(uintptr_t)o, key, value) {
        const char *s = json_string_value(value);
        if (strcmp(key, "model") == 0) {
            if (s == NULL || strlen(s) > MP_MAX_NAME || !mp_is_text(s, strlen(s)))
                return BAD("model is not text of at most %u bytes", MP_MAX_NAME);
            snprintf(d->model, sizeof d->model, "%s", s);
        } else if (strcmp(key, "phase") == 0) {
            for (int p = MP_PHASE_PREFILL; p <= MP_PHASE_MIXED; p++)
                if (s != NULL && strcmp(s, mp_phase_name((enum mp_phase)p)) == 0)
                    d->phase = (enum mp_phase)p;
            d->is_phase_unknown = s != NULL && strcmp(s, "unknown") == 0;
            if (d->phase == MP_PHASE_UNKNOWN && !d->is_phase_unknown)
                return BAD("phase is not one of \"prefill\", \"decode\", \"train\", \"mixed\"");
        } else if (strcmp(key, "ids") == 0) {
            if (s == NULL || (strcmp(s, "logical") != 0 && strcmp(s, "physical") != 0))
                return BAD("ids is neither \"logical\" nor \"physical\"");
            d->ids_are_physical = s[0] == 'p';
        } else if (strcmp(key, "ranked") == 0) {
            status = read_bool(value, key, path, line, &d->is_ranked, err);
        } else if (strcmp(key, "synthetic") == 0) {
            if ((status = read_bool(value, key, path, line, &is, err)) == MP_OK)
                d->is_synthetic = is == 1;
        } else if (strcmp(key, "time_ordered") == 0) {
            status = read_bool(value, key, path, line, &d->is_time_ordered, err);
        } else if (strcmp(key, "layer_base") == 0) {
            if ((status = mp_json_u64(o, key, path, line, 0, MP_MAX_LAYERS - 1, &v, err)) == MP_OK)
                d->layer_base = (int)v;
        } else if (strcmp(key, "n_experts") == 0) {
            if ((status = mp_json_u64(o, key, path, line, 1, MP_MAX_EXPERTS, &v, err)) == MP_OK)
                d->n_experts = (uint32_t)v;
        } else if (strcmp(key, "top_k") == 0) {
            if ((status = mp_json_u64(o, key, path, line, 1, MP_MAX_TOP_K, &v, err)) == MP_OK)
                d->top_k = (uint32_t)v;
        } else if (strcmp(key, "id_bytes") == 0) {
            if ((status = mp_json_u64(o, key, path, line, 1, 2, &v, err)) == MP_OK)
                d->id_bytes = (uint32_t)v;
        } else if (strcmp(key, "layers") == 0 && !has_others) {
            status = read_layers(d, value, path, line, err);
        } else if (strcmp(key, "categories") == 0) {
            status = read_categories(d, value, path, line, err);
        } else if (!has_others && strcmp(key, DESCRIBE_KEY) != 0) {
            char quoted[128];
            return BAD("key \"%s\" is not known (model, phase, ids, ranked, synthetic, time_ordered, layer_base, "
                       "n_experts, top_k, id_bytes, layers, categories)",
                       mp_quote(key, strlen(key), quoted, sizeof quoted));
        }
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

enum mp_status trace_describe_parse(struct trace_described *d, const char *text, size_t n, const char *path,
                                    uint64_t line, const struct mp_limits *limits, struct mp_error *err) {
    json_t *o;
    enum mp_status status = mp_json_parse(&o, path, text, n, line, limits, err);
    if (status != MP_OK)
        return status;
    status = json_is_object(o) ? trace_describe_read(d, o, false, path, line, err)
                               : BAD("the description of the recording is not an object");
    json_decref(o);
    return status;
}

enum mp_status trace_describe_settle(struct mp_trace_hints *h, const struct trace_described *d, const char *path,
                                     struct mp_error *err) {
#define AGREE(field, none, value, option)                                                                              \
    do {                                                                                                               \
        if (h->field == (none))                                                                                        \
            h->field = (value);                                                                                        \
        else if ((value) != (none) && h->field != (value))                                                             \
            return mp_fail_at(err, MP_EUSAGE, path, 1, 1,                                                              \
                              "%s says something else than the recording's first line (leave it out)", option);        \
    } while (0)
    AGREE(phase, MP_PHASE_UNKNOWN, d->phase, "--phase");
    AGREE(layer_base, -1, d->layer_base, "--layer-base");
    AGREE(ids_are_physical, -1, d->ids_are_physical, "--ids");
    AGREE(is_ranked, -1, d->is_ranked, "--ranked");
    AGREE(n_experts, 0, d->n_experts, "--experts");
    AGREE(top_k, 0, d->top_k, "--top-k");
#undef AGREE
    if (h->model_name == NULL && d->model[0] != '\0')
        h->model_name = d->model;
    return MP_OK;
}

enum mp_status trace_describe_categories(const struct trace_described *d, struct trace_names *names,
                                         struct mp_error *err) {
    uint32_t index;
    for (uint32_t i = 0; i < d->categories.n; i++) {
        enum mp_status status = trace_names_find(names, d->categories.names[i], &index, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* ---- out ---- */

void trace_put_json_text(struct mp_out *o, const char *s) {
    mp_out_write(o, "\"", 1);
    for (size_t n; *s != '\0'; s += n) {
        n = strcspn(s, "\"\\\t"); /* a tab is the only control character that a name may hold */
        mp_out_write(o, s, n);
        if (s[n] != '\0') {
            char escaped[2] = {'\\', s[n] == '\t' ? 't' : s[n]};
            mp_out_write(o, escaped, 2);
            n++;
        }
    }
    mp_out_write(o, "\"", 1);
}

void trace_describe_write(const struct mp_trace *t, bool with_layers, struct mp_out *o) {
    mp_out_puts(o, "{\"" DESCRIBE_KEY "\": 1");
    if (t->model[0] != '\0') {
        mp_out_puts(o, ", \"model\": ");
        trace_put_json_text(o, t->model);
    }
    mp_out_printf(o, ", \"phase\": \"%s\"", mp_phase_name(t->phase));
    mp_out_puts(o, ", \"ids\": \"logical\"");
    if (with_layers) {
        mp_out_puts(o, ", \"layers\": [");
        for (uint32_t l = 0; l < t->n_layers; l++)
            mp_out_printf(o, "%s%u", l > 0 ? ", " : "", t->layer_ids[l]);
        mp_out_puts(o, "]");
    }
    mp_out_printf(o, ", \"layer_base\": 0, \"n_experts\": %u", t->n_experts);
    if (t->top_k != 0)
        mp_out_printf(o, ", \"top_k\": %u", t->top_k);
    if (t->kind == MP_TRACE_TOKENS)
        mp_out_printf(o, ", \"id_bytes\": %u", t->id_bytes);
    mp_out_printf(o, ", \"ranked\": %s, \"time_ordered\": %s, \"synthetic\": %s", t->is_ranked ? "true" : "false",
                  t->is_time_ordered ? "true" : "false", t->is_synthetic ? "true" : "false");
    if (t->n_categories > 0) {
        mp_out_puts(o, ", \"categories\": [");
        for (uint32_t i = 0; i < t->n_categories; i++) {
            mp_out_puts(o, i > 0 ? ", " : "");
            trace_put_json_text(o, t->categories[i]);
        }
        mp_out_puts(o, "]");
    }
    mp_out_puts(o, "}");
}
