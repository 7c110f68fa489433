#include "trace_describe.h"

static enum mp_status write_native(const struct mp_trace *t, struct mp_out *o, struct mp_out *table,
                                   struct mp_error *err) {
    (void)table;
    (void)err;
    mp_trace_write(t, o);
    return MP_OK;
}

const struct trace_writer trace_writer_native = {
    .name = "native",
    .summary = "moeplan's own: carries everything",
    .reference = "traces/FORMAT.md, \"Native\"",
    .write = write_native,
};
