/* Messages about a place in a JSON placement. */
#include "stack_shared.h"

#include <moeplan/base.h>
#include <stdio.h>

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
