#include "json_place.h"
#include "trace_box.h"
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

void trace_map_clear(struct trace_map *m) {
    mp_free(m->logical);
    *m = (struct trace_map){0};
}

/* An error at layer l (and slot s, unless it is SIZE_MAX) of the map. */
static enum mp_status fail_there(const struct mp_in *in, bool is_object, size_t l, size_t s, const char *message,
                                 struct mp_error *err) {
    char place[96];
    uint64_t line, column;
    int n = snprintf(place, sizeof place, "%s[%zu]", is_object ? "physical_to_logical_map" : "", l);
    if (s != SIZE_MAX)
        snprintf(place + n, sizeof place - (size_t)n, "[%zu]", s);
    json_place((const char *)in->data, in->size, place, &line, &column);
    return mp_fail_at(err, MP_EINPUT, in->path, line, column, "%s", message);
}

enum mp_status trace_map_load(struct trace_map *out, const char *path, const struct mp_limits *limits,
                              struct mp_error *err) {
    *out = (struct trace_map){0};
    struct mp_in *in = NULL;
    json_t *root = NULL;
    enum mp_status status = mp_in_open(&in, path, limits->json_bytes, err);
    if (status != MP_OK)
        return status;
    MP_TRY(mp_json_parse(&root, path, (const char *)in->data, in->size, 1, limits, err));
    const json_t *rows = json_is_object(root) ? json_object_get(root, "physical_to_logical_map") : root;
    size_t n_layers = json_array_size(rows), n_physical = json_array_size(json_array_get(rows, 0));
    if (n_layers < 1 || n_layers > MP_MAX_LAYERS || n_physical < 1 || n_physical > MP_MAX_EXPERTS) {
        status = mp_fail_at(
            err, MP_EINPUT, path, 0, 0,
            "is not a map from slots to experts (write {\"physical_to_logical_map\": [[..], ..]}, a list per layer)");
        goto out;
    }
    out->logical = mp_calloc(n_layers * n_physical, sizeof *out->logical);
    if (out->logical == NULL) {
        status = mp_nomem(err, path);
        goto out;
    }
    out->n_layers = (uint32_t)n_layers;
    out->n_physical = (uint32_t)n_physical;
    for (size_t l = 0; l < n_layers; l++) {
        const json_t *row = json_array_get(rows, l);
        char message[128];
        if (json_array_size(row) != n_physical) {
            snprintf(message, sizeof message, "layer %zu of the map has %zu slots, layer 0 has %zu", l,
                     json_array_size(row), n_physical);
            status = fail_there(in, json_is_object(root), l, SIZE_MAX, message, err);
            goto out;
        }
        for (size_t s = 0; s < n_physical; s++) {
            const json_t *v = json_array_get(row, s);
            if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MP_MAX_EXPERTS) {
                snprintf(message, sizeof message, "layer %zu, slot %zu of the map is not an expert in [0, %u)", l, s,
                         MP_MAX_EXPERTS);
                status = fail_there(in, json_is_object(root), l, s, message, err);
                goto out;
            }
            uint32_t e = (uint32_t)json_integer_value(v);
            out->logical[l * n_physical + s] = e;
            if (e >= out->n_logical)
                out->n_logical = e + 1;
        }
    }
out:
    json_decref(root);
    mp_in_close(in);
    if (status != MP_OK)
        trace_map_clear(out);
    return status;
}
