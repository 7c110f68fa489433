/* Where results go, in the form that --format asks for. */
#include "csv.h"
#include "progress.h"
#include "terminal.h"
#include "tool.h"

enum mp_status tool_open_result(struct mp_out **out, const struct opts *o, struct mp_error *err) {
    terminal_measure(o);
    progress_hide(); /* what follows may stand on the same terminal, and ends the run */
    return o->output == FORMAT_CSV ? mp_out_open_memory(out, err) : mp_out_open(out, "-", err);
}

enum mp_status tool_close_result(struct mp_out *out, const struct opts *o, struct mp_error *err) {
    struct mp_out *csv = NULL;
    size_t n;
    if (o->output != FORMAT_CSV)
        return mp_out_commit(out, err);
    const char *json = (const char *)mp_out_memory_bytes(out, &n);
    enum mp_status status = mp_out_finish(out, err);
    if (status == MP_OK)
        status = mp_out_open(&csv, "-", err);
    if (status == MP_OK)
        status = csv_write(o, json, n, csv, err);
    mp_out_cancel(out);
    if (status == MP_OK)
        return mp_out_commit(csv, err);
    mp_out_cancel(csv);
    return status;
}

const char *tool_format_name(const struct opts *o) { return o->output == FORMAT_CSV ? "--format csv" : "--json"; }

enum mp_status tool_write_no(const struct opts *o, const char *schema, const char *outcome, const char *note,
                             struct mp_error *err) {
    struct mp_out *out;
    enum mp_status status = tool_open_result(&out, o, err);
    if (status != MP_OK)
        return status;
    json_t *root = json_pack("{s:s,s:i,s:s,s:s}", "schema", schema, "version", 1, "outcome", outcome, "note", note);
    mp_json_write(root, out);
    json_decref(root);
    return tool_close_result(out, o, err);
}
