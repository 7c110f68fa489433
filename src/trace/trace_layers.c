#include "trace_box.h"
#include <string.h>

/* Does any token use an expert in this layer? Unused places stand last, so the first of a list tells. */
static bool is_used(const struct mp_trace *t, uint32_t layer) {
    size_t list = (size_t)t->top_k * t->id_bytes;
    uint16_t first = 0;
    for (uint64_t row = 0, n; row < t->n_rows; row += n) {
        const uint8_t *p = mp_trace_ids(t, layer, row, &n);
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&first, p + i * list, t->id_bytes);
            if (first != (t->id_bytes == 1 ? UINT8_MAX : MP_NO_EXPERT))
                return true;
        }
    }
    return false;
}

enum mp_status trace_drop_empty_layers(struct mp_trace *t, struct mp_error *err) {
    struct trace_box *box = (struct trace_box *)t;
    uint32_t kept[MP_MAX_LAYERS], n_kept = 0, n_all = t->n_layers;
    if (!trace_has_unused(t->n_experts, t->id_bytes))
        return MP_OK;
    for (uint32_t l = 0; l < n_all; l++)
        if (is_used(t, l))
            kept[n_kept++] = l;
    if (n_kept == n_all)
        return MP_OK;
    if (n_kept == 0)
        return mp_fail(err, MP_EINPUT, "no token uses an expert in any layer");
    uint32_t *ids = mp_arena_alloc(t->arena, n_kept, sizeof *ids);
    if (ids == NULL)
        return mp_nomem(err, "layers");
    for (uint64_t c = 0; c < box->n_chunks; c++) {
        size_t slice = (size_t)trace_chunk_rows(t->n_rows, c) * t->top_k * t->id_bytes;
        for (uint32_t l = 0; l < n_kept; l++)
            if (kept[l] != l)
                memmove(box->ids[c] + l * slice, box->ids[c] + kept[l] * slice, slice);
        uint8_t *smaller = mp_realloc(box->ids[c], n_kept, slice);
        if (smaller != NULL)
            box->ids[c] = smaller;
    }
    for (uint32_t l = 0; l < n_kept; l++)
        ids[l] = t->layer_ids[kept[l]];
    t->layer_ids = ids;
    t->n_layers = n_kept;
    return trace_note(t, err, "%u of its %u layers have no experts and are left out", n_all - n_kept, n_all);
}
