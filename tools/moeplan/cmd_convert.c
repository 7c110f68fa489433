/* moeplan convert: any known input in moeplan's own form. */
#include "tool.h"
#include <stdio.h>
#include <string.h>

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static enum mp_file_packing packing_of(const char *path) {
    return ends_with(path, ".gz") ? MP_FILE_GZIP : ends_with(path, ".zst") ? MP_FILE_ZSTD : MP_FILE_PLAIN;
}

/* An unpacked file under a packed one's name could not be read again. */
static enum mp_status check_unpacked(const char *what, const char *path, struct mp_error *err) {
    const enum mp_file_packing packing = packing_of(path);
    return packing == MP_FILE_PLAIN
               ? MP_OK
               : mp_fail(err, MP_EUSAGE, "convert: %s is not written packed (name a file without %s)", what,
                         packing == MP_FILE_GZIP ? ".gz" : ".zst");
}

/* How the recording goes to `path`: packed where a text's name ends so, and with a table beside it where the form has
 * one. */
static enum mp_status open_form(const struct opts *o, const char *path, struct mp_out *file, struct mp_out **table,
                                struct mp_error *err) {
    struct mp_trace_form form;
    const char *to = o->to != NULL ? o->to : "native";
    uint32_t i = 0;
    while (mp_trace_writer(i, &form) && strcmp(form.name, to) != 0)
        i++;
    if (!mp_trace_writer(i, &form))
        return mp_fail(err, MP_EUSAGE,
                       "convert: --to %.40s is no form that recordings are written in (see: moeplan list formats)", to);
    enum mp_status status = form.is_text ? MP_OK : check_unpacked(form.name, path, err);
    if (status != MP_OK)
        return status;
    mp_out_pack(file, packing_of(path));
    if (!form.has_table)
        return MP_OK;
    char name[4096];
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    int stem = (int)(dot != NULL && (slash == NULL || dot > slash) ? dot - path : (ptrdiff_t)strlen(path));
    if (strcmp(path, "-") == 0)
        return mp_fail(err, MP_EUSAGE, "convert: %s has a table beside it and cannot go to standard output", form.name);
    if (snprintf(name, sizeof name, "%.*s.requests.csv", stem, path) >= (int)sizeof name)
        return mp_fail(err, MP_EUSAGE, "convert: the name of the output is too long");
    return mp_out_open(table, name, err);
}

static enum mp_status convert_trace(const char *in, const struct opts *o, struct mp_out *file, struct mp_out *table,
                                    char *text, size_t size, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = tool_load_trace_changed(&t, in, o, err);
    if (status != MP_OK)
        return status;
    if (strcmp(t->format, "native") == 0 && (o->phase != NULL || o->is_set[OPT_LAYER_BASE]))
        tool_note(o, "%s: written as %s from layer %u on, as the options say", in, mp_phase_name(t->phase),
                  t->layer_ids[0]);
    if (o->drop_signatures)
        mp_trace_signatures_drop(t);
    struct mp_error inner = {0};
    struct mp_progress_part *part = mp_progress_begin(o->progress, "bytes", 0, MP_PROGRESS_LEAF);
    mp_out_tell(file, part);
    status = mp_trace_write_as(t, o->to != NULL ? o->to : "native", file, table, &inner);
    mp_out_pack_end(file);
    mp_out_tell(file, NULL);
    mp_progress_end(part);
    if (status != MP_OK) {
        (void)mp_fail(err, status, "%s: %s", in, inner.message);
        mp_trace_free(t);
        return status;
    }
    if (t->kind == MP_TRACE_TOKENS)
        snprintf(text, size, "%s: %llu request%s, %llu token%s, %u layer%s of %u experts, top-%u, %s", t->format,
                 (unsigned long long)t->n_requests, tool_s(t->n_requests), (unsigned long long)t->n_rows,
                 tool_s(t->n_rows), t->n_layers, tool_s(t->n_layers), t->n_experts, t->top_k, mp_phase_name(t->phase));
    else
        snprintf(text, size, "%s: counts of %u iteration%s, %u layer%s of %u experts, %s", t->format, t->n_iterations,
                 tool_s(t->n_iterations), t->n_layers, tool_s(t->n_layers), t->n_experts, mp_phase_name(t->phase));
    mp_trace_free(t);
    return MP_OK;
}

static enum mp_status convert_placement(const char *in, const struct opts *o, struct mp_out *file, char *text,
                                        size_t size, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    struct mp_model *model = NULL;
    struct mp_verify_report *report = NULL;
    enum mp_status status = MP_OK;
    if (o->model != NULL)
        MP_TRY(mp_model_load(&model, o->model, &o->limits, err));
    struct mp_stack_options options = tool_stack_options(o, model, NULL);
    MP_TRY(mp_stack_load(&plan, in, o->input_format, &options, &o->limits, err));
    MP_TRY(mp_plan_verify(&report, plan, NULL, NULL, NULL, err));
    if (report->n > 0) {
        status = mp_fail_at(err, MP_EINPUT, in, 0, 0, "%s: %s", mp_violation_name(report->violations[0].kind),
                            report->violations[0].message);
        goto out;
    }
    mp_plan_write(plan, file);
    snprintf(text, size, "placement: %u layer%s, %u experts in %u slots on %u GPU%s", plan->n_layers,
             tool_s(plan->n_layers), plan->n_experts, plan->n_slots, plan->n_gpus, tool_s(plan->n_gpus));
out:
    mp_verify_report_free(report);
    mp_plan_free(plan);
    mp_model_free(model);
    return status;
}

static enum mp_status convert_topology(const char *in, const struct opts *o, struct mp_out *file, char *text,
                                       size_t size, struct mp_error *err) {
    struct mp_topology *t;
    enum mp_status status = mp_topology_load(&t, in, &o->limits, err);
    if (status != MP_OK)
        return status;
    char lost[2048];
    status = mp_topology_write_as(t, o->to != NULL ? o->to : "yaml", file, lost, sizeof lost, err);
    for (const char *line = lost; status == MP_OK && *line != '\0'; line += strspn(line, "\n")) {
        const size_t n = strcspn(line, "\n");
        tool_note(o, "%s: %.*s", in, (int)n, line);
        line += n;
    }
    snprintf(text, size, "topology: %u GPU%s in %u node%s", t->n_gpus, tool_s(t->n_gpus), mp_topology_n_nodes(t),
             tool_s(mp_topology_n_nodes(t)));
    mp_topology_free(t);
    return status;
}

enum mp_status cmd_convert(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    const char *in = args->value[0], *path = args->value[1];
    char text[512] = "";
    enum tool_kind kind = TOOL_TRACE;
    struct mp_out *file = NULL, *out = NULL, *table = NULL;
    enum mp_status status = MP_OK;
    bool to_stdout = strcmp(path, "-") == 0;
    if (to_stdout && o->json)
        return mp_fail(err, MP_EUSAGE, "convert: %s and OUT - both want standard output (write to a file)",
                       tool_format_name(o));
    MP_TRY(tool_check_output(path, err));
    MP_TRY(tool_kind_of(&kind, in, o, err));
    if (kind == TOOL_MODEL)
        return mp_fail(err, MP_EUSAGE, "convert: \"%.80s\" is a model, which has only one form (see: moeplan inspect)",
                       in);
    if (o->to != NULL && kind != TOOL_TOPOLOGY && kind != TOOL_TRACE)
        return mp_fail(err, MP_EUSAGE,
                       "convert: --to is for recordings and topologies, and \"%.80s\" is none (see: moeplan export)",
                       in);
    if (kind != TOOL_TRACE)
        MP_TRY(check_unpacked(kind == TOOL_TOPOLOGY ? "a topology" : "a placement", path, err));
    MP_TRY(mp_out_open(&file, path, err));
    if (kind == TOOL_TRACE) {
        MP_TRY(open_form(o, path, file, &table, err));
        MP_TRY(convert_trace(in, o, file, table, text, sizeof text, err));
    }
    if (kind == TOOL_TOPOLOGY)
        MP_TRY(convert_topology(in, o, file, text, sizeof text, err));
    if (kind == TOOL_PLACEMENT || kind == TOOL_PLAN)
        MP_TRY(convert_placement(in, o, file, text, sizeof text, err));
    unsigned long long n_bytes = mp_out_offset(file);
    const bool has_table = table != NULL;
    if (has_table) { /* both or none */
        MP_TRY(mp_out_finish(file, err));
        MP_TRY(mp_out_finish(table, err));
        status = mp_out_commit(table, err);
        table = NULL;
        MP_TRY(status);
    }
    status = mp_out_commit(file, err);
    file = NULL;
    if (status != MP_OK || to_stdout)
        goto out;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json) {
        json_t *root = json_pack("{s:s,s:i,s:s,s:s,s:s,s:I}", "schema", "moeplan.convert", "version", 1, "input", in,
                                 "output", path, "what", text, "bytes", (json_int_t)n_bytes);
        mp_json_write(root, out);
        json_decref(root);
    } else {
        mp_out_printf(out, "%s: %llu bytes, from %s%s\n", path, n_bytes, text,
                      has_table ? "; its requests are in the .requests.csv beside it" : "");
    }
    status = tool_close_result(out, o, err);
out:
    mp_out_cancel(table);
    mp_out_cancel(file);
    return status;
}
