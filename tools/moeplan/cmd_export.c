/* moeplan export: the file that a serving stack loads, and the flags to start it with; or what a plan's steps look
 * like, for other programs. */
#include "progress.h"
#include "score.h"
#include "served.h"
#include <stdio.h>
#include <string.h>

/* How to use what was written: data when the files are elsewhere, and talk when the file is on standard output. */
static enum mp_status tell(const struct opts *o, json_t *root, struct mp_out *usage, bool to_stdout,
                           struct mp_error *err) {
    size_t n;
    const char *text = (const char *)mp_out_memory_bytes(usage, &n);
    struct mp_out *out;
    if (to_stdout) {
        progress_hide();
        if (!o->quiet)
            fprintf(stderr, "%s", text);
        json_decref(root);
        return MP_OK;
    }
    enum mp_status status = tool_open_result(&out, o, err);
    if (status == MP_OK && o->json)
        mp_json_write(root, out);
    else if (status == MP_OK)
        mp_out_write(out, text, n);
    json_decref(root);
    return status == MP_OK ? tool_close_result(out, o, err) : status;
}

static enum mp_status refuse_plan(const struct opts *o, const char *path, const struct mp_verify_report *report,
                                  int *exit_code, struct mp_error *err) {
    char note[2048];
    snprintf(note, sizeof note, "%s: %s: %s", path, mp_violation_name(report->violations[0].kind),
             report->violations[0].message);
    tool_say("%s", note);
    *exit_code = 1;
    return o->json ? tool_write_no(o, "moeplan.export", "refused", note, err) : MP_OK;
}

/* ---- exports of steps ---- */

/* Name of file i: what -o says for a single one, else in the folder -o, or behind the prefix -o. */
static enum mp_status name_file(const struct mp_exporter *e, const struct mp_export *in, uint32_t i, const char *path,
                                char *buf, size_t size, struct mp_error *err) {
    char name[MP_MAX_NAME];
    int n;
    if (e->file_name == NULL) {
        n = snprintf(buf, size, "%s", path);
    } else {
        e->file_name(in, i, name, sizeof name);
        size_t length = strlen(path);
        bool needs_slash = mp_is_folder(path) && path[length - 1] != '/';
        n = snprintf(buf, size, "%s%s%s", path, needs_slash ? "/" : "", name);
    }
    return n < 0 || (size_t)n >= size ? mp_fail_at(err, MP_EIO, path, 0, 0, "the name is too long")
                                      : tool_check_output(buf, err);
}

/* Complete, but under its temporary name. */
static enum mp_status write_file(struct mp_out **out, const struct mp_exporter *e, const struct mp_export *in,
                                 uint32_t i, const char *path, struct mp_out *usage, struct mp_error *err) {
    enum mp_status status = mp_out_open(out, path, err);
    if (status == MP_OK)
        status = e->write(in, i, path, *out, usage, err);
    return status == MP_OK ? mp_out_finish(*out, err) : status;
}

static enum mp_status export_steps(const struct opts *o, const struct args *args, const struct mp_exporter *e,
                                   int *exit_code, struct mp_error *err) {
    struct setup s = {.o = o};
    struct score score = {0};
    struct mp_verify_report *report = NULL;
    struct mp_out *usage = NULL, **written = NULL;
    struct mp_export in = {0};
    uint32_t n_files = 0;
    char path[4096];
    json_t *files = NULL;
    enum mp_status status = MP_OK;
    const char *to = o->out != NULL ? o->out : "-";
    if (args->n != 3)
        return mp_fail(err, MP_EUSAGE,
                       "export: --to %s shows steps: it needs the recording and the topology (write moeplan export "
                       "PLAN TRACE TOPOLOGY --to %s)",
                       e->name, e->name);
    if (e->n_files != NULL && strcmp(to, "-") == 0)
        return mp_fail(err, MP_EUSAGE,
                       "export: %s writes several files (add -o FOLDER, or -o and how their names begin)", e->name);
    if (e->n_files == NULL) /* of several files the names are known later */
        MP_TRY(tool_check_output(to, err));
    MP_TRY(setup_load(&s, o, args->value[1], args->value[2], err));
    MP_TRY(score_load(&score, &s, args->value[0], err));
    MP_TRY(mp_plan_verify(&report, score.plan, NULL, NULL, NULL, err));
    if (report->n > 0) {
        status = refuse_plan(o, args->value[0], report, exit_code, err);
        goto out;
    }
    MP_TRY(setup_as_planned(&s, score.plan, err));
    if (o->is_set[OPT_STEP] && o->step >= s.workload->n_steps) {
        status = mp_fail(err, MP_EUSAGE, "--step: there is no step %llu: the steps are 0 to %u",
                         (unsigned long long)o->step, s.workload->n_steps - 1);
        goto out;
    }
    in = (struct mp_export){.plan = score.plan,
                            .workload = s.workload,
                            .topology = s.topology,
                            .model = s.model,
                            .sim = &s.sim,
                            .step = o->is_set[OPT_STEP] ? (uint32_t)o->step : MP_NONE};
    n_files = e->n_files != NULL ? e->n_files(&in) : 1;
    files = json_array();
    written = mp_calloc(n_files, sizeof(struct mp_out *));
    if (written == NULL) {
        status = mp_nomem(err, "exporting a plan");
        goto out;
    }
    MP_TRY(mp_out_open_memory(&usage, err));
    for (uint32_t i = 0; i < n_files; i++) /* nothing is written before every name is good */
        MP_TRY(name_file(e, &in, i, to, path, sizeof path, err));
    if (e->prepare != NULL)
        MP_TRY(e->prepare(&in, &in.shared, err));
    for (uint32_t i = 0; i < n_files; i++) {
        MP_TRY(name_file(e, &in, i, to, path, sizeof path, err));
        MP_TRY(write_file(&written[i], e, &in, i, path, usage, err));
        (void)json_array_append_new(files, json_string(path));
    }
    for (uint32_t i = 0; i < n_files; i++) { /* and none has its name before all are complete */
        struct mp_out *file = written[i];
        written[i] = NULL;
        MP_TRY(mp_out_commit(file, err));
    }
    size_t n;
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:O,s:s}", "schema", "moeplan.export", "version", 1, "outcome", "written", "export",
                  e->name, "files", files, "usage", (const char *)mp_out_memory_bytes(usage, &n));
    status = tell(o, root, usage, strcmp(to, "-") == 0, err);
out:
    for (uint32_t i = 0; written != NULL && i < n_files; i++)
        mp_out_cancel(written[i]);
    mp_free(written);
    if (e->release != NULL)
        e->release(in.shared);
    json_decref(files);
    mp_out_cancel(usage);
    mp_verify_report_free(report);
    score_free(&score);
    setup_free(&s);
    return status;
}

/* ---- placements for stacks ---- */

/* Options that say which steps, for an export that has none. */
static enum mp_status check_no_steps(const struct opts *o, const struct args *args, struct mp_error *err) {
    static const enum opt_id ids[] = {OPT_STEP,
                                      OPT_BATCH,
                                      OPT_TOKENS_PER_RANK,
                                      OPT_RESAMPLE,
                                      OPT_STEPS,
                                      OPT_SOURCE_SKEW,
                                      OPT_PAD,
                                      OPT_DISPATCHER,
                                      OPT_SOURCES,
                                      OPT_SPLIT_SIMULATE,
                                      OPT_NETWORK,
                                      OPT_TIMELINE_PLANNED,
                                      OPT_STAGE_BARRIER,
                                      OPT_STAGE_COUPLED,
                                      OPT_INCUMBENT_ROUTE};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (o->is_set[ids[i]] && (args->n == 1 || ids[i] == OPT_STEP))
            return mp_fail(err, MP_EUSAGE, "export: a placement for %s has no steps (leave out --%s)", o->to,
                           opt_table[ids[i]].name);
    if (args->n == 2)
        return mp_fail(err, MP_EUSAGE,
                       "export: the steps need both the recording and the topology (write moeplan export PLAN TRACE "
                       "TOPOLOGY --to %s)",
                       o->to);
    return MP_OK;
}

/* What the stack's servers are going to make of the placement. */
struct prediction {
    bool is_known;
    uint64_t step_ns, own_ns; /* own_ns: with the plan's routing and orders on the same steps; 0 = it is the stack's */
    char steps[600], choice[500];
    json_t *choice_json;
};

/* Scores the placement on the recording as the servers of --to run it, and the plan beside it where they follow its
 * routing. A routing table that they do not know gains nothing there, so nothing that needs one is told. */
static enum mp_status predict(struct prediction *out, const struct opts *o, const struct args *args,
                              struct mp_error *err) {
    struct opts as = *o;
    struct setup s = {.o = &as};
    struct score score = {0};
    struct mp_sim_result *own = NULL;
    enum mp_status status = MP_OK;
    char text[1024];
    as.for_stack = mp_stack_find(o->to)->name;
    MP_TRY(setup_load(&s, &as, args->value[1], args->value[2], err));
    MP_TRY(score_load(&score, &s, args->value[0], err));
    MP_TRY(setup_as_planned(&s, score.plan, err));
    s.sim.with_bound = false;
    MP_TRY(served_simulate(&score.result, &s, score.plan, s.workload, &s.sim, err));
    if (!served_loses_route(&as, score.plan) && score.plan->provenance.has_workload)
        MP_TRY(mp_simulate(&own, score.plan, s.workload, s.topology, s.model, &s.sim, err));
    out->is_known = true;
    out->step_ns = score.result->mean.step_ns;
    out->own_ns = own != NULL ? own->mean.step_ns : 0;
    (void)score_describe(&s, text, sizeof text);
    char *line = strchr(text, '\n'); /* two lines become one */
    if (line != NULL)
        *line = '\0';
    snprintf(out->steps, sizeof out->steps, "%.300s%s%.280s", text, line != NULL ? "; " : "",
             line != NULL ? line + 1 : "");
    (void)served_describe(&as, score.plan, out->choice, sizeof out->choice);
    out->choice_json = served_json(&as, score.plan);
out:
    mp_sim_result_free(own);
    score_free(&score);
    setup_free(&s);
    return status;
}

static void say_prediction(const struct opts *o, const struct mp_plan *plan, const struct mp_stack *stack,
                           const struct prediction *p) {
    char a[32], b[32];
    const bool has_own = plan->provenance.has_workload && (stack->routes >> plan->route & 1) != 0;
    if (p->is_known)
        tool_note(o, "predicted step on %s: %s (%s)", stack->name, mp_human_ns((double)p->step_ns, a), p->steps);
    else
        tool_note(o, "no step time is predicted for %s (moeplan export PLAN TRACE TOPOLOGY --to %s predicts it)",
                  stack->name, stack->name);
    if (p->is_known)
        tool_note(o, "replicas as %s", p->choice);
    if (p->own_ns > 0)
        tool_note(o, "the plan itself on these steps, routing %s%s: %s", mp_route_rule_name(plan->route),
                  plan->n_orders > 0 ? " and its orders, which the export loses" : "",
                  mp_human_ns((double)p->own_ns, a));
    if (has_own)
        tool_note(o, "the plan's prediction for its planning data: %s",
                  mp_human_ns((double)plan->predicted_step_ns, b));
    else if (plan->provenance.has_workload)
        tool_note(o,
                  "what the plan predicts needs its %s routing, which %s does not do: it says nothing about this "
                  "export",
                  mp_route_rule_name(plan->route), stack->name);
}

static json_t *prediction_json(const struct mp_plan *plan, const struct mp_stack *stack, const struct prediction *p) {
    const bool has_own = plan->provenance.has_workload && (stack->routes >> plan->route & 1) != 0;
    if (!p->is_known)
        return json_null();
    return json_pack("{s:I,s:O,s:o,s:o,s:s}", "step_ns", (json_int_t)p->step_ns, "replica_choice", p->choice_json,
                     "own_step_ns", p->own_ns > 0 ? json_integer((json_int_t)p->own_ns) : json_null(),
                     "planning_step_ns", has_own ? json_integer((json_int_t)plan->predicted_step_ns) : json_null(),
                     "steps", p->steps);
}

enum mp_status cmd_export(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    struct mp_model *model = NULL;
    struct mp_verify_report *report = NULL;
    struct mp_out *file = NULL, *flags = NULL;
    enum mp_status status = MP_OK;
    enum mp_outcome outcome = MP_FOUND;
    struct prediction prediction = {.is_known = false};
    const struct mp_stack_choice *choice;
    char note[2048];
    if (o->to == NULL)
        return mp_fail(
            err, MP_EUSAGE,
            "export: for which stack or program? (add --to NAME; all: moeplan list stacks, moeplan list exports)");
    const char *path = o->out != NULL ? o->out : "-";
    if (strcmp(path, "-") == 0 && o->json)
        return mp_fail(err, MP_EUSAGE, "export: %s and the file both want standard output (add -o FILE)",
                       tool_format_name(o));
    const struct mp_stack *stack = mp_stack_find(o->to);
    if (stack == NULL)
        return export_steps(o, args, mp_exporter_find(o->to), exit_code, err);
    MP_TRY(check_no_steps(o, args, err));
    struct opts as_served = *o;
    as_served.for_stack = stack->name;
    MP_TRY(served_check(&choice, &as_served, err));
    if (strcmp(path, "-") != 0 && !mp_stack_name_fits(stack, path))
        return mp_fail(err, MP_EUSAGE, "export: %s: %s takes only a file whose name ends in %s (write -o %s%s)", path,
                       stack->name, stack->extension, path, stack->extension);
    MP_TRY(tool_check_output(path, err));
    if (o->model != NULL)
        MP_TRY(mp_model_load(&model, o->model, &o->limits, err));
    struct mp_stack_options options = tool_stack_options(o, model, NULL);
    MP_TRY(mp_stack_load(&plan, args->value[0], o->input_format, &options, &o->limits, err));
    if (model == NULL && plan->provenance.model != NULL && plan->provenance.has_workload) {
        struct mp_error unknown = {0}; /* the plan's model may have been a file that is not here */
        if (mp_model_load(&model, plan->provenance.model, &o->limits, &unknown) != MP_OK)
            model = NULL;
        options.model = model;
    }
    MP_TRY(mp_plan_verify(&report, plan, NULL, NULL, NULL, err));
    if (report->n > 0) {
        status = refuse_plan(o, args->value[0], report, exit_code, err);
        goto out;
    }
    if (plan->provenance.matrix.is_present) { /* the answer is no */
        snprintf(note, sizeof note,
                 "%s orders a traffic matrix and places no model's experts: there is nothing for %s to load (export a "
                 "plan of moeplan plan)",
                 args->value[0], stack->name);
        tool_say("%s", note);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.export", "refused", note, err) : MP_OK;
        goto out;
    }
    MP_TRY(stack->check(plan, &options, &outcome, err));
    if (outcome != MP_FOUND) {
        char text[1400];
        snprintf(note, sizeof note, "%s cannot load this plan: %s", stack->name, mp_error_text(err, text, sizeof text));
        mp_error_clear(err);
        tool_say("%s", note);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.export", "refused", note, err) : MP_OK;
        goto out;
    }
    if (args->n == 3) /* before the file is replaced, so that trouble leaves the old one */
        MP_TRY(predict(&prediction, o, args, err));
    MP_TRY(mp_out_open(&file, path, err));
    stack->write(plan, &options, file);
    status = mp_out_commit(file, err);
    file = NULL;
    if (status != MP_OK)
        goto out;
    MP_TRY(mp_out_open_memory(&flags, err));
    stack->flags(plan, &options, path, flags);
    size_t n;
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:s,s:s,s:o}", "schema", "moeplan.export", "version", 1, "outcome", "written",
                  "stack", stack->name, "output", path, "flags", (const char *)mp_out_memory_bytes(flags, &n),
                  "prediction", prediction_json(plan, stack, &prediction));
    say_prediction(o, plan, stack, &prediction);
    status = tell(o, root, flags, strcmp(path, "-") == 0, err);
out:
    json_decref(prediction.choice_json);
    mp_out_cancel(flags);
    mp_out_cancel(file);
    mp_verify_report_free(report);
    mp_plan_free(plan);
    mp_model_free(model);
    return status;
}
