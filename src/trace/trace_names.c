#include "trace_box.h"
#include <string.h>

enum mp_status trace_names_find(struct trace_names *l, const char *name, uint32_t *out, struct mp_error *err) {
    *out = MP_NONE;
    /* Lines of one category mostly stand together, so the last one is tried first. */
    if (l->n > 0 && strcmp(l->names[l->last], name) == 0) {
        *out = l->last;
        return MP_OK;
    }
    for (uint32_t i = 0; i < l->n; i++)
        if (strcmp(l->names[i], name) == 0) {
            *out = l->last = i;
            return MP_OK;
        }
    if (l->n == TRACE_MAX_NAMES)
        return mp_fail(err, MP_ELIMIT, "there are more than %d categories", (int)TRACE_MAX_NAMES);
    if (l->arena == NULL && (l->arena = mp_arena_new()) == NULL)
        return mp_nomem(err, "categories");
    if ((l->n & (l->n - 1)) == 0) { /* full at every power of two */
        const char **grown = mp_realloc(l->names, l->n == 0 ? 1 : (size_t)l->n * 2, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "categories");
        l->names = grown;
    }
    l->names[l->n] = mp_arena_strdup(l->arena, name);
    if (l->names[l->n] == NULL)
        return mp_nomem(err, "categories");
    *out = l->last = l->n++;
    return MP_OK;
}

enum mp_status trace_names_to_builder(const struct trace_names *l, struct mp_trace_builder *b, struct mp_error *err) {
    uint32_t index;
    for (uint32_t i = 0; i < l->n; i++) {
        enum mp_status status = mp_trace_builder_category(b, l->names[i], &index, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

void trace_names_clear(struct trace_names *l) {
    mp_free(l->names);
    mp_arena_free(l->arena);
    *l = (struct trace_names){0};
}
