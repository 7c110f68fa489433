/* moeplan export: the file that a serving stack loads, and the flags to start it with. */
#include "tool.h"
#include <stdio.h>
#include <string.h>

enum mp_status cmd_export(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    struct mp_model *model = NULL;
    struct mp_verify_report *report = NULL;
    struct mp_out *file = NULL, *flags = NULL;
    enum mp_status status = MP_OK;
    enum mp_outcome outcome = MP_FOUND;
    char note[2048];
    if (o->to == NULL)
        return mp_fail(err, MP_EUSAGE, "export: for which stack? (add --to NAME; all: moeplan list stacks)");
    const char *path = o->out != NULL ? o->out : "-";
    if (strcmp(path, "-") == 0 && o->json)
        return mp_fail(err, MP_EUSAGE, "export: --json and the file both want standard output (add -o FILE)");
    const struct mp_stack *stack = mp_stack_find(o->to);
    if (strcmp(path, "-") != 0 && !mp_stack_name_fits(stack, path))
        return mp_fail(err, MP_EUSAGE, "export: %s: %s takes only a file whose name ends in %s (write -o %s%s)", path,
                       stack->name, stack->extension, path, stack->extension);
    MP_TRY(tool_check_output(path, err));
    if (o->model != NULL)
        MP_TRY(mp_model_load(&model, o->model, &o->limits, err));
    struct mp_stack_options options = tool_stack_options(o, model, NULL);
    MP_TRY(mp_stack_load(&plan, args->value[0], o->format, &options, &o->limits, err));
    if (model == NULL && plan->provenance.model != NULL && plan->provenance.has_workload) {
        struct mp_error unknown = {0}; /* the plan's model may have been a file that is not here */
        if (mp_model_load(&model, plan->provenance.model, &o->limits, &unknown) != MP_OK)
            model = NULL;
        options.model = model;
    }
    MP_TRY(mp_plan_verify(&report, plan, NULL, NULL, NULL, err));
    if (report->n > 0) {
        snprintf(note, sizeof note, "%s: %s: %s", args->value[0], mp_violation_name(report->violations[0].kind),
                 report->violations[0].message);
        fprintf(stderr, "moeplan: %s\n", note);
        *exit_code = 1;
        status = o->json ? tool_write_no("moeplan.export", "refused", note, err) : MP_OK;
        goto out;
    }
    MP_TRY(stack->check(plan, &options, &outcome, err));
    if (outcome != MP_FOUND) {
        char text[1400];
        snprintf(note, sizeof note, "%s cannot load this plan: %s", stack->name, mp_error_text(err, text, sizeof text));
        mp_error_clear(err);
        fprintf(stderr, "moeplan: %s\n", note);
        *exit_code = 1;
        status = o->json ? tool_write_no("moeplan.export", "refused", note, err) : MP_OK;
        goto out;
    }
    MP_TRY(mp_out_open(&file, path, err));
    stack->write(plan, &options, file);
    status = mp_out_commit(file, err);
    file = NULL;
    if (status != MP_OK)
        goto out;
    /* Flags are data when the file is elsewhere, and talk when the file itself is on standard output. */
    MP_TRY(mp_out_open_memory(&flags, err));
    stack->flags(plan, &options, path, flags);
    size_t n;
    const char *text = (const char *)mp_out_memory_bytes(flags, &n);
    if (strcmp(path, "-") == 0) {
        if (!o->quiet)
            fprintf(stderr, "%s", text);
    } else {
        struct mp_out *out;
        MP_TRY(mp_out_open(&out, "-", err));
        if (o->json) {
            json_t *root = json_pack("{s:s,s:i,s:s,s:s,s:s,s:s}", "schema", "moeplan.export", "version", 1, "outcome",
                                     "written", "stack", stack->name, "output", path, "flags", text);
            mp_json_write(root, out);
            json_decref(root);
        } else {
            mp_out_write(out, text, n);
        }
        status = mp_out_commit(out, err);
    }
out:
    mp_out_cancel(flags);
    mp_out_cancel(file);
    mp_verify_report_free(report);
    mp_plan_free(plan);
    mp_model_free(model);
    return status;
}
