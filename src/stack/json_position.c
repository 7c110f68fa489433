/* Where a value stands in JSON text: jansson drops positions, messages need them. Works on text that parsed already. */
#include "stack_shared.h"

#include <moeplan/base.h>
#include <stdio.h>

static const char *blanks(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* Past the string that starts at p. */
static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\' && p + 1 < end)
            p++;
    return p < end ? p + 1 : end;
}

/* Past the value that starts at p. */
static const char *skip_value(const char *p, const char *end) {
    uint64_t depth = 0;
    do {
        p = blanks(p, end);
        if (p >= end)
            return end;
        if (*p == '"') {
            p = skip_string(p, end);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (*p == ',' || *p == ':') {
            p++;
        } else {
            while (p < end && strchr(",]} \t\r\n", *p) == NULL)
                p++;
        }
    } while (depth > 0 && p < end);
    return p;
}

/* The value of the key (or index) of one step inside the container at p, or NULL. */
static const char *enter(const char *p, const char *end, const char *step, size_t n) {
    p = blanks(p, end);
    if (p >= end || (*p != '{' && *p != '['))
        return NULL;
    bool is_object = *p == '{';
    uint64_t index = 0, i = 0;
    if (!is_object && !mp_parse_u64(step, n, &index))
        return NULL;
    p = blanks(p + 1, end);
    for (; p < end && *p != '}' && *p != ']'; i++) {
        if (is_object) {
            const char *key = p;
            p = blanks(skip_string(p, end), end);
            bool is_it = (size_t)(p - key) >= n + 2 && strncmp(key + 1, step, n) == 0 && key[n + 1] == '"';
            p = blanks(p < end ? p + 1 : end, end);
            if (is_it)
                return p;
        } else if (i == index) {
            return p;
        }
        p = blanks(skip_value(p, end), end);
        if (p < end && *p == ',')
            p = blanks(p + 1, end);
    }
    return NULL;
}

bool mp_json_position(const char *text, size_t n, const char *steps, uint64_t *line, uint64_t *column) {
    const char *end = text + n, *at = blanks(text, end);
    *line = *column = 0;
    while (steps != NULL && *steps != '\0' && at != NULL) {
        size_t length = strcspn(steps, "/");
        at = enter(at, end, steps, length);
        steps += length + (steps[length] == '/');
    }
    if (at == NULL || at >= end)
        return false;
    *line = *column = 1;
    for (const char *p = text; p < at; p++) { /* columns in characters, as the JSON reader counts them */
        *column = *p == '\n' ? 1 : *column + ((*p & 0xc0) != 0x80);
        *line += *p == '\n';
    }
    return true;
}

enum mp_status mp_json_bad(const struct mp_in *in, const char *steps, struct mp_error *err, const char *fmt, ...) {
    char message[700];
    uint64_t line, column;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    (void)mp_json_position((const char *)in->data, in->size, steps, &line, &column);
    return mp_fail_at(err, MP_EINPUT, in->path, line, column, "%s", message);
}

enum mp_status mp_json_keys(const json_t *object, const char *const *keys, uint32_t n_needed, const struct mp_in *in,
                            const char *steps, struct mp_error *err) {
    char list[256] = "", where[128], quoted[80];
    size_t used = 0;
    if (!json_is_object(object))
        return mp_json_bad(in, steps, err, "is not an object (write {\"%s\": ...})", keys[0]);
    for (uint32_t k = 0; keys[k] != NULL && used < sizeof list; k++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", k == 0 ? "" : ", ", keys[k]);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        uint32_t k = 0;
        while (keys[k] != NULL && strcmp(keys[k], key) != 0)
            k++;
        (void)snprintf(where, sizeof where, "%s%s%.64s", steps, *steps == '\0' ? "" : "/", key);
        if (keys[k] == NULL)
            return mp_json_bad(in, where, err, "\"%s\" is not a key of this format (leave it out; the keys are %s)",
                               mp_quote(key, strlen(key), quoted, sizeof quoted), list);
    }
    for (uint32_t k = 0; k < n_needed; k++)
        if (json_object_get(object, keys[k]) == NULL)
            return mp_json_bad(in, steps, err, "has no \"%s\" (the keys are %s)", keys[k], list);
    return MP_OK;
}
