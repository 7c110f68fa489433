/* moeplan report: one HTML file that says what a plan is worth and shows why. docs/REPORT.md. */
#include "report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 2000000 };

static enum mp_status check_output(const struct opts *o, struct mp_error *err) {
    if (o->out == NULL)
        return mp_fail(err, MP_EUSAGE, "report: where to? (add -o FILE.html; - is standard output)");
    if (o->output == FORMAT_MARKDOWN)
        return mp_fail(err, MP_EUSAGE,
                       "report: writes a page, or with --json its data (moeplan compare writes Markdown)");
    if (o->sweep_file != NULL && o->sweep_redundant != NULL)
        return mp_fail(err, MP_EUSAGE, "--redundant and --sweep exclude each other (give one)");
    return tool_check_output(o->out, err);
}

/* The scored step whose time is nearest to the mean of the first plan, which is shown; the earliest of several. */
static uint32_t typical_step(const struct mp_sim_result *x) {
    uint64_t best = UINT64_MAX;
    uint32_t at = 0;
    for (uint32_t i = 0; i < x->n_steps; i++) {
        const uint64_t is = x->steps[i].step_ns, mean = x->mean.step_ns, away = is > mean ? is - mean : mean - is;
        if (away < best) {
            best = away;
            at = (uint32_t)x->step_of[i];
        }
    }
    return at;
}

/* Notes of what a plan's charts lack from the start. */
static bool note_gaps(struct report *r) {
    for (uint32_t i = 0; i < r->n; i++)
        if (r->details[i].why[0] != '\0' && !report_note(r, "%s: %s", r->scores[i].name, r->details[i].why))
            return false;
    return true;
}

enum part { TRAFFIC, TIMELINE };

/* Leaves a plan's part out; false = it has none. */
static bool leave_out(struct report *r, uint32_t plan, enum part part) {
    static const char *const what[] = {"traffic layer by layer", "timeline"};
    struct report_detail *d = &r->details[plan];
    double **arrays[][2] = {{&d->dispatch, &d->combine}, {&d->bars, &d->bars}};
    const size_t used = strlen(d->why);
    if (*arrays[part][0] == NULL)
        return false;
    for (int k = 0; k < 2; k++) {
        mp_free(*arrays[part][k]);
        *arrays[part][k] = NULL;
    }
    snprintf(d->why + used, sizeof d->why - used, "%s%s left out to keep the page below 2 MB", used > 0 ? "; " : "",
             what[part]);
    return true;
}

/* Makes the page smaller, a step each time; *is_done: nothing is left to drop. docs/REPORT.md part 3 has the order. */
static enum mp_status shrink(struct report *r, bool *is_done, struct mp_error *err) {
    *is_done = false;
    if (r->packing == MP_PACK_U16) {
        r->packing = MP_PACK_U8;
        return report_note(r, "to keep the page below 2 MB, traffic layer by layer is rounded to 1/100 of its largest "
                              "value or finer; sums over layers are not")
                   ? MP_OK
                   : mp_nomem(err, "report");
    }
    for (uint32_t k = 0; k < 2 * r->n; k++) {
        /* Traffic of the last to the third, their timelines; then of the first plan and the baseline. */
        const uint32_t others = r->n - 2;
        const bool is_other = k < 2 * others;
        const enum part part = (enum part)(is_other ? k / others : (k - 2 * others) / 2);
        const uint32_t i = is_other ? r->n - 1 - k % others : (k - 2 * others) % 2;
        if (leave_out(r, i, part))
            return report_note(r, "%s: %s left out to keep the page below 2 MB", r->scores[i].name,
                               part == TRAFFIC ? "traffic layer by layer" : "timeline")
                       ? MP_OK
                       : mp_nomem(err, "report");
    }
    *is_done = true;
    return MP_OK;
}

static void write_data(void *ctx, struct mp_out *o) {
    json_t *data = report_json(ctx);
    mp_json_write_in_script(data, o);
    mp_out_puts(o, "\n");
    json_decref(data);
}

/* The data alone, for programs. */
static void write_json(const struct report *r, struct mp_out *o) {
    json_t *data = report_json(r);
    mp_json_write(data, o);
    json_decref(data);
}

static enum mp_status write_page(struct report *r, struct mp_out *out, struct mp_error *err) {
    const struct mp_page_part parts[] = {{"TITLE", report_html_title, r},
                                         {"VERDICT", report_html_verdict, r},
                                         {"COMPARISON", report_html_comparison, r},
                                         {"CERTIFICATES", report_html_certificates, r},
                                         {"LIMITS", report_html_limits, r},
                                         {"PROVENANCE", report_html_provenance, r},
                                         {"DATA", write_data, r}};
    return mp_page_write(out, parts, sizeof parts / sizeof *parts, err);
}

/* The page, made smaller until it fits. The caller cancels *out. */
static enum mp_status make_page(struct mp_out **out, struct report *r, struct mp_error *err) {
    bool is_done = false;
    for (;;) {
        enum mp_status status = mp_out_open_memory(out, err);
        if (status == MP_OK)
            status = write_page(r, *out, err);
        if (status == MP_OK)
            status = mp_out_finish(*out, err);
        if (status != MP_OK || is_done || mp_out_offset(*out) <= PAGE_BYTES)
            return status;
        status = shrink(r, &is_done, err);
        if (status != MP_OK || is_done)
            return status;
        mp_out_cancel(*out);
        *out = NULL;
    }
}

/* Load, traffic and timeline of every plan; the same step of all. */
static enum mp_status gather_charts(struct report *r, struct mp_error *err) {
    struct mp_progress_part *part = mp_progress_begin(r->o->progress, "charts", r->n, 0);
    const struct score *judged = &r->scores[1];
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < r->n; i++) {
        mp_progress_add(part, i > 0);
        if (r->scores[i].result == NULL)
            continue;
        const struct mp_workload *w = score_steps(&r->scores[i], &r->s);
        const uint32_t step = typical_step(judged->result != NULL ? judged->result : r->scores[i].result);
        MP_TRY(report_traffic(r, i, err));
        MP_TRY(report_timeline(r, i, step < w->n_steps ? step : w->n_steps - 1, err));
    }
out:
    mp_progress_end(part);
    return status;
}

enum mp_status cmd_report(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_out *out = NULL, *page = NULL;
    struct report *r = NULL;
    size_t n;
    (void)exit_code;
    enum mp_status status = check_output(o, err);
    if (status != MP_OK)
        return status;
    r = mp_calloc(1, sizeof *r);
    if (r == NULL)
        return mp_nomem(err, "report");
    r->o = o;
    r->args = args;
    r->packing = MP_PACK_U16;
    MP_TRY(report_load(r, err));
    report_judge(r);
    MP_TRY(gather_charts(r, err));
    MP_TRY(report_limits(r, err));
    MP_TRY(report_measured(r, err));
    MP_TRY(report_drift(r, err));
    MP_TRY(report_sweep(r, err));
    if (!note_gaps(r)) {
        status = mp_nomem(err, "report");
        goto out;
    }
    if (!o->json)
        MP_TRY(make_page(&page, r, err));
    MP_TRY(mp_out_open(&out, o->out, err));
    if (o->json) {
        write_json(r, out);
    } else {
        const uint8_t *bytes = mp_out_memory_bytes(page, &n);
        mp_out_write(out, bytes, n);
    }
    status = mp_out_commit(out, err);
out:
    mp_out_cancel(page);
    report_free(r);
    mp_free(r);
    return status;
}
