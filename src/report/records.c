/* Tables of raw values from the records of a JSON document. */
#include <math.h>
#include <moeplan/report.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value at a path of keys separated by dots, or NULL. */
static const json_t *value_at(const json_t *object, const char *path) {
    char key[64];
    while (object != NULL) {
        const size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        object = json_object_get(object, key); /* NULL where it is no object */
        if (path[n] == '\0')
            return object;
        path += n + 1;
    }
    return NULL;
}

static bool is_whole_unit(const char *name) {
    const size_t n = strlen(name);
    return (n > 3 && strcmp(name + n - 3, "_ns") == 0) || (n > 6 && strcmp(name + n - 6, "_bytes") == 0);
}

static int keep_chunk(const char *data, size_t n, void *out) {
    mp_out_write(out, data, n);
    return 0;
}

/* Lists and objects as compact JSON. */
static void put_compact(struct mp_table *t, const json_t *v) {
    struct mp_out *o = NULL;
    struct mp_error err = {0};
    size_t n;
    const char *text = NULL;
    if (mp_out_open_memory(&o, &err) == MP_OK &&
        json_dump_callback(v, keep_chunk, o, JSON_COMPACT | JSON_REAL_PRECISION(15)) == 0)
        text = (const char *)mp_out_memory_bytes(o, &n);
    mp_table_text(t, text); /* NULL: the table says that memory ran out */
    if (o != NULL)
        mp_out_cancel(o);
}

static void put_value(struct mp_table *t, const struct mp_record_column *column, const json_t *v) {
    if (v == NULL || json_is_null(v))
        mp_table_text(t, "");
    else if (json_is_string(v))
        mp_table_text(t, json_string_value(v));
    else if (json_is_integer(v))
        mp_table_cell(t, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v) && is_whole_unit(column->name))
        mp_table_cell(t, "%.0f", round(json_real_value(v)));
    else if (json_is_real(v))
        mp_table_cell(t, "%.15g", json_real_value(v));
    else if (json_is_boolean(v))
        mp_table_text(t, json_is_true(v) ? "true" : "false");
    else
        put_compact(t, v);
}

struct mp_table *mp_table_of_records(const json_t *rows, const struct mp_record_column *columns) {
    struct mp_table *t = mp_table_new();
    for (const struct mp_record_column *c = columns; t != NULL && c->name != NULL; c++)
        mp_table_column(t, c->name, false);
    for (size_t i = 0; t != NULL && i < json_array_size(rows); i++)
        for (const struct mp_record_column *c = columns; c->name != NULL; c++)
            put_value(t, c, value_at(json_array_get(rows, i), c->path != NULL ? c->path : c->name));
    return t;
}
