/* Shared by the targets of single readers of recordings: bytes in, a sound trace or an error out, nothing leaked. */
#ifndef FUZZ_TRACE_READER_H
#define FUZZ_TRACE_READER_H

#include <moeplan/trace.h>
#include <stdlib.h>
#include <string.h>

static inline void fuzz_reader(const char *name, const uint8_t *data, size_t size, const struct mp_trace_hints *hints) {
    const struct mp_trace_format *format = NULL;
    struct mp_limits limits = mp_limits_default;
    struct mp_error err = {0};
    struct mp_trace *t = NULL;
    struct mp_in *in = NULL;
    bool keep_in = false;
    uint64_t live = mp_alloc_live();
    limits.memory_bytes = UINT64_C(64) << 20;
    limits.pickle_heap_bytes = limits.json_heap_bytes = (size_t)4 << 20;
    for (uint32_t i = 0; (format = mp_trace_format_at(i)) != NULL && strcmp(format->name, name) != 0;)
        i++;
    if (format == NULL || mp_in_from_memory(&in, "fuzz", data, size, &err) != MP_OK)
        abort();
    (void)format->probe("fuzz", in);
    enum mp_status status = format->read(&t, "fuzz", in, &keep_in, hints, &limits, &err);
    if ((status == MP_OK) != (t != NULL) || (t != NULL && mp_trace_check(t, &err) != MP_OK))
        abort();
    mp_trace_free(t);
    if (!keep_in)
        mp_in_close(in);
    if (mp_alloc_live() != live)
        abort();
}

#endif
