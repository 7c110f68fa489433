/* What a recording cannot say is asked for, never guessed: everything that is missing in one message. */
#include "trace_box.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum mp_status trace_ask(const char *path, const char *format, struct trace_needs needs,
                         const struct mp_trace_hints *hints, struct mp_error *err) {
    char text[512];
    size_t used = 0;
    text[0] = '\0';
#define ASK(condition, words)                                                                                          \
    do {                                                                                                               \
        if (condition)                                                                                                 \
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used > 0 ? "; " : "", words);            \
    } while (0)
    ASK(needs.phase && hints->phase == MP_PHASE_UNKNOWN, "its phase (give --phase prefill|decode|train|mixed)");
    ASK(needs.layer_base && hints->layer_base < 0, "which layer of the model its layer 0 is (give --layer-base N)");
    ASK(needs.ids && hints->ids_are_physical < 0, "whether its ids are experts or slots (give --ids logical|physical)");
    ASK(needs.experts && hints->n_experts == 0, "how many experts a layer has (give --experts N)");
    ASK(needs.top_k && hints->top_k == 0, "how many experts a token uses (give --top-k K)");
#undef ASK
    if (used > 0 && hints->missing != NULL) {
        struct mp_trace_missing *m = hints->missing;
        m->phase |= needs.phase && hints->phase == MP_PHASE_UNKNOWN;
        m->layer_base |= needs.layer_base && hints->layer_base < 0;
        m->ids |= needs.ids && hints->ids_are_physical < 0;
        m->experts |= needs.experts && hints->n_experts == 0;
        m->top_k |= needs.top_k && hints->top_k == 0;
    }
    if (used > 0)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "a recording of the format %s does not say %s", format, text);
    if (needs.ids && hints->ids_are_physical == 1 && hints->map_path == NULL)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                          "its ids are slots, and it does not hold the map from slots to experts (give --map FILE, a "
                          "JSON object with "
                          "physical_to_logical_map)");
    if (hints->n_experts > MP_MAX_EXPERTS)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "--experts %u is not in [1, %u]", hints->n_experts,
                          MP_MAX_EXPERTS);
    if (hints->top_k > MP_MAX_TOP_K)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "--top-k %u is not in [1, %u]", hints->top_k, MP_MAX_TOP_K);
    return MP_OK;
}

enum mp_status trace_note(struct mp_trace *t, struct mp_error *err, const char *fmt, ...) {
    char text[512], all[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)snprintf(all, sizeof all, "%s%s%s", t->note != NULL ? t->note : "", t->note != NULL ? "; " : "", text);
    t->note = mp_arena_strdup(t->arena, all);
    return t->note != NULL ? MP_OK : mp_nomem(err, "note");
}

enum mp_status trace_check_base(const char *path, int base, uint64_t n_layers, struct mp_error *err) {
    if (base < 0 || (uint64_t)base >= MP_MAX_LAYERS || n_layers > MP_MAX_LAYERS - (uint64_t)base)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "--layer-base %d with %llu layers passes the limit of %u layers",
                          base, (unsigned long long)n_layers, MP_MAX_LAYERS);
    return MP_OK;
}

enum mp_status trace_fail_at(struct mp_error *err, const struct mp_error *inner, const char *path, uint64_t line,
                             uint64_t column) {
    if (inner->path[0] != '\0') {
        if (err != NULL && err->status == MP_OK)
            *err = *inner;
        return inner->status;
    }
    return mp_fail_at(err, inner->status, path, line, column, "%s", inner->message);
}
