/* The forms that recordings are written in. Each gives the same recording back, or refuses to be written. */
#include "trace_describe.h"
#include "trace_writer_registry.h"
#include <stdio.h>
#include <string.h>

#define DECLARE(name) extern const struct trace_writer trace_writer_##name;
#define ENTRY(name) &trace_writer_##name,
MP_REGISTRY(DECLARE)
static const struct trace_writer *const writers[] = {MP_REGISTRY(ENTRY)};
enum { N_WRITERS = sizeof writers / sizeof *writers };

bool mp_trace_writer(uint32_t i, struct mp_trace_form *out) {
    if (i >= N_WRITERS)
        return false;
    const struct trace_writer *w = writers[i];
    *out = (struct mp_trace_form){w->name, w->summary, w->reference, w->is_text, w->has_table};
    return true;
}

enum mp_status mp_trace_write_as(const struct mp_trace *t, const char *form, struct mp_out *o, struct mp_out *table,
                                 struct mp_error *err) {
    for (uint32_t i = 0; i < N_WRITERS; i++)
        if (strcmp(writers[i]->name, form) == 0)
            return writers[i]->write(t, o, table, err);
    return mp_fail(err, MP_EUSAGE, "\"%.40s\" is not a form recordings are written in (see: moeplan list formats)",
                   form);
}

enum mp_status trace_write_check(const struct mp_trace *t, const char *form, enum mp_trace_kind kind,
                                 struct mp_error *err) {
    if (t->kind != kind)
        return mp_fail(err, MP_EINPUT, "%s carries %s, and the recording has %s (write %s)", form,
                       kind == MP_TRACE_TOKENS ? "tokens" : "counts", kind == MP_TRACE_TOKENS ? "counts" : "tokens",
                       kind == MP_TRACE_TOKENS ? "csv, json or native" : "jsonl, npz or native");
    if (t->signature_chunks != NULL)
        return mp_fail(err, MP_EINPUT,
                       "%s cannot carry the similarity signatures of %llu tokens (write native, or give "
                       "--drop-signatures)",
                       form, (unsigned long long)t->n_rows);
    if (t->kind == MP_TRACE_TOKENS && t->n_experts != 256 &&
        t->id_bytes != trace_id_bytes(t->n_experts, trace_has_unused(t->n_experts, t->id_bytes)))
        return mp_fail(err, MP_EINPUT, "%s would write the ids in one byte, the recording has two (write native)",
                       form);
    if (t->n_categories > TRACE_MAX_NAMES)
        return mp_fail(err, MP_EINPUT, "%s cannot carry %u categories, only %d (write native)", form, t->n_categories,
                       (int)TRACE_MAX_NAMES);
    bool has_category = t->iteration_category == NULL;
    for (uint32_t i = 0; !has_category && i < t->n_iterations; i++)
        has_category = t->iteration_category[i] != MP_NONE;
    if (!has_category)
        return mp_fail(err, MP_EINPUT, "%s cannot carry categories of iterations that are all none (write native)",
                       form);
    if (t->source_known && t->n_sources == 1)
        return mp_fail(err, MP_EINPUT, "%s cannot carry that the one source rank is known (write native)", form);
    return MP_OK;
}
