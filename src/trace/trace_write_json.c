/* Counts of one iteration with their co-activation pairs. */
#include "trace_describe.h"
#include <string.h>

static enum mp_status write_json(const struct mp_trace *t, struct mp_out *o, struct mp_out *table,
                                 struct mp_error *err) {
    (void)table;
    enum mp_status status = trace_write_check(t, "json", MP_TRACE_COUNTS, err);
    if (status != MP_OK)
        return status;
    if (t->n_iterations > 1 || t->n_sources > 1 || t->iteration_category != NULL || t->n_categories > 0)
        return mp_fail(err, MP_EINPUT,
                       "json carries one iteration without source ranks and categories, the recording has %u, %u, %u "
                       "(write csv or native)",
                       t->n_iterations, t->n_sources, t->n_categories);
    mp_out_puts(o, "{\"" DESCRIBE_KEY "\": 1");
    if (t->model[0] != '\0') {
        mp_out_puts(o, ", \"model\": ");
        trace_put_json_text(o, t->model);
    }
    mp_out_printf(o, ", \"phase\": \"%s\"", mp_phase_name(t->phase));
    mp_out_printf(o,
                  ", \"ids\": \"logical\", \"layer_base\": 0, \"ranked\": %s, \"time_ordered\": %s, \"synthetic\": %s, "
                  "\"n_layers\": %u, \"n_expert_per_layer\": %u",
                  t->is_ranked ? "true" : "false", t->is_time_ordered ? "true" : "false",
                  t->is_synthetic ? "true" : "false", t->n_layers, t->n_experts);
    if (t->top_k > 0)
        mp_out_printf(o, ", \"k\": %u", t->top_k);
    mp_out_puts(o, ", \"layers\": [");
    uint64_t p = 0;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        mp_out_printf(o, "%s\n{\"layer\": %u, \"heat\": [", l > 0 ? "," : "", t->layer_ids[l]);
        for (uint32_t e = 0; e < t->n_experts; e++)
            mp_out_printf(o, "%s%llu", e > 0 ? ", " : "", (unsigned long long)t->counts[(size_t)l * t->n_experts + e]);
        mp_out_puts(o, "], \"pairs\": [");
        for (bool is_first = true; p < t->n_pairs && t->pairs[p].layer == l; p++, is_first = false)
            mp_out_printf(o, "%s[%u, %u, %llu]", is_first ? "" : ", ", t->pairs[p].first, t->pairs[p].second,
                          (unsigned long long)t->pairs[p].count);
        mp_out_puts(o, "]}");
    }
    mp_out_puts(o, "\n]}\n");
    return MP_OK;
}

const struct trace_writer trace_writer_json = {
    .name = "json",
    .summary = "counts of one iteration with co-activation pairs (.json, .json.gz, .json.zst)",
    .reference = "traces/FORMAT.md, \"Counts as JSON\"",
    .is_text = true,
    .write = write_json,
};
