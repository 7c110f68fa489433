/* Counts as text: a line per iteration, source rank and layer. The first line, behind a #, says what the columns
 * cannot. */
#include "trace_describe.h"
#include <stdio.h>
#include <string.h>

static enum mp_status write_csv(const struct mp_trace *t, struct mp_out *o, struct mp_out *table,
                                struct mp_error *err) {
    (void)table;
    enum mp_status status = trace_write_check(t, "csv", MP_TRACE_COUNTS, err);
    if (status != MP_OK)
        return status;
    if (t->n_pairs > 0)
        return mp_fail(err, MP_EINPUT, "csv cannot carry the %llu co-activation pairs (write json or native)",
                       (unsigned long long)t->n_pairs);
    bool has_categories = t->iteration_category != NULL;
    for (uint32_t i = 0; has_categories && i < t->n_categories; i++)
        if (strpbrk(t->categories[i], ",\"") != NULL)
            return mp_fail(err, MP_EINPUT, "csv cannot carry the category \"%s\" (no commas or quotes; write native)",
                           t->categories[i]);
    mp_out_puts(o, "# ");
    trace_describe_write(t, false, o);
    mp_out_printf(o, "\n%slayer,iteration%s", t->source_known ? "rank," : "", has_categories ? ",category" : "");
    for (uint32_t e = 0; e < t->n_experts; e++)
        mp_out_printf(o, ",e%u", e);
    mp_out_puts(o, "\n");
    const uint64_t *counts = t->counts;
    for (uint32_t i = 0; i < t->n_iterations; i++)
        for (uint32_t s = 0; s < t->n_sources; s++)
            for (uint32_t l = 0; l < t->n_layers; l++) {
                if (t->source_known)
                    mp_out_printf(o, "%u,", s);
                mp_out_printf(o, "%u,%u", t->layer_ids[l], i);
                if (has_categories) {
                    uint32_t c = t->iteration_category[i];
                    mp_out_printf(o, ",%s", c != MP_NONE ? t->categories[c] : "");
                }
                for (uint32_t e = 0; e < t->n_experts; e++, counts++) {
                    char text[24];
                    int n = snprintf(text, sizeof text, ",%llu", (unsigned long long)*counts);
                    mp_out_write(o, text, (size_t)n);
                }
                mp_out_write(o, "\n", 1);
            }
    return MP_OK;
}

const struct trace_writer trace_writer_csv = {
    .name = "csv",
    .summary = "counts as text: carries all but co-activation pairs (.csv, .csv.gz, .csv.zst)",
    .reference = "traces/FORMAT.md, \"Counts as text\"",
    .is_text = true,
    .write = write_csv,
};
