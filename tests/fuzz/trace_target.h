/* What every fuzz target of a trace reader does with its bytes: the reader refuses them with a message, or makes a
 * trace that keeps every promise and comes back equal from the native format. Nothing leaks either way. */
#ifndef TRACE_TARGET_H
#define TRACE_TARGET_H

#include <moeplan/trace.h>
#include <stdlib.h>
#include <string.h>

static inline void require(bool what) {
    if (!what)
        abort();
}

static inline const struct mp_trace_format *format_named(const char *name) {
    for (uint32_t i = 0; mp_trace_format_at(i) != NULL; i++)
        if (strcmp(mp_trace_format_at(i)->name, name) == 0)
            return mp_trace_format_at(i);
    abort();
}

static inline enum mp_status read_as(struct mp_trace **out, const char *format, const uint8_t *data, size_t size,
                                     const struct mp_trace_hints *hints, struct mp_error *err) {
    static struct mp_limits limits;
    struct mp_in *in = NULL;
    bool keep = false;
    limits = mp_limits_default;
    limits.memory_bytes = (uint64_t)64 << 20;
    require(mp_in_from_memory(&in, "fuzz", data, size, err) == MP_OK);
    const struct mp_trace_format *f = format_named(format);
    require(f->probe("fuzz", in) >= 0);
    enum mp_status status = f->read(out, "fuzz", in, &keep, hints, &limits, err);
    if (!keep)
        mp_in_close(in);
    require((status == MP_OK) == (*out != NULL));
    return status;
}

/* A recording comes back equal from every text form that does not refuse it. */
static inline void check_forms(const struct mp_trace *t) {
    static const char *const forms[] = {"jsonl", "csv", "json"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct mp_error err = {0};
        struct mp_trace *back = NULL;
        struct mp_out *o = NULL;
        size_t n;
        require(mp_out_open_memory(&o, &err) == MP_OK);
        enum mp_status status = mp_trace_write_as(t, forms[i], o, NULL, &err);
        require(status == MP_OK || (status == MP_EINPUT && err.message[0] != '\0'));
        const uint8_t *bytes = mp_out_memory_bytes(o, &n);
        if (status == MP_OK && n < 1 << 20) {
            require(read_as(&back, forms[i], bytes, n, &mp_trace_hints_none, &err) == MP_OK || err.status == MP_ELIMIT);
            require(back == NULL || mp_trace_equal(t, back));
        }
        mp_trace_free(back);
        mp_out_cancel(o);
    }
}

static inline void check_reader(const char *format, const uint8_t *data, size_t size,
                                const struct mp_trace_hints *hints) {
    struct mp_error err = {0};
    struct mp_trace *t = NULL, *back = NULL;
    enum mp_status status = read_as(&t, format, data, size, hints, &err);
    if (status != MP_OK) {
        require(status == MP_EINPUT || status == MP_ELIMIT || status == MP_EUSAGE);
        require(err.message[0] != '\0');
    } else {
        struct mp_out *o = NULL;
        size_t n;
        require(mp_trace_check(t, &err) == MP_OK);
        require(mp_out_open_memory(&o, &err) == MP_OK);
        mp_trace_write(t, o);
        const uint8_t *bytes = mp_out_memory_bytes(o, &n);
        require(read_as(&back, "native", bytes, n, &mp_trace_hints_none, &err) == MP_OK);
        require(mp_trace_equal(t, back));
        mp_trace_free(back);
        mp_out_cancel(o);
        check_forms(t);
    }
    mp_trace_free(t);
    require(mp_alloc_live() == 0);
}

/* Everything that foreign formats cannot say. */
static inline struct mp_trace_hints full_hints(void) {
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_DECODE;
    h.layer_base = 0;
    h.ids_are_physical = 0;
    h.n_experts = 4;
    return h;
}

#endif
