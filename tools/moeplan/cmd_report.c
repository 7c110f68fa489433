/* moeplan report: one HTML file that says what a plan is worth and shows why. docs/REPORT.md. */
#include "report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 2000000, REST_BYTES = 250000 }; /* rest: template, tables, sweep, drift, provenance */

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

/* What one plan's charts take in the file, base64 of u16. */
static size_t traffic_bytes(const struct report *r, uint32_t i) {
    const struct mp_plan *p = r->scores[i].plan;
    return r->details[i].dispatch != NULL ? (size_t)p->n_layers * p->n_gpus * p->n_gpus * 8 / 3 : 0;
}
static size_t timeline_bytes(const struct report *r, uint32_t i) {
    const struct mp_plan *p = r->scores[i].plan;
    return r->details[i].bars != NULL ? (size_t)p->n_layers * p->n_gpus * (2 * REPORT_KINDS + 4) * 8 / 3 : 0;
}

static size_t all_bytes(const struct report *r) {
    size_t sum = REST_BYTES;
    for (uint32_t i = 0; i < r->n; i++)
        sum += traffic_bytes(r, i) + timeline_bytes(r, i);
    return sum;
}

/* Drops what does not fit: of the last plan first, the first plan and the baseline last. */
static bool fit(struct report *r) {
    static const char *const what[] = {"traffic layer by layer", "timeline"};
    for (uint32_t k = 0; k < 2 * r->n && all_bytes(r) > PAGE_BYTES; k++) {
        /* Pairs (plan, part): traffic of the last ... third plan, their timelines, then both of the first two. */
        const uint32_t others = r->n > 2 ? r->n - 2 : 0;
        const bool is_other = k < 2 * others;
        const uint32_t part = is_other ? k / others : (k - 2 * others) / 2;
        const uint32_t i = is_other ? r->n - 1 - k % others : 1 - (k - 2 * others) % 2;
        struct report_detail *d = &r->details[i];
        if ((part == 0 ? traffic_bytes(r, i) : timeline_bytes(r, i)) == 0)
            continue;
        if (part == 0) {
            mp_free(d->dispatch);
            mp_free(d->combine);
            d->dispatch = d->combine = NULL;
        } else {
            mp_free(d->bars);
            d->bars = NULL;
        }
        const size_t used = strlen(d->why);
        snprintf(d->why + used, sizeof d->why - used, "%s%s left out to keep the page below 2 MB", used > 0 ? "; " : "",
                 what[part]);
    }
    for (uint32_t i = 0; i < r->n; i++)
        if (r->details[i].why[0] != '\0' && !report_note(r, "%s: %s", r->scores[i].name, r->details[i].why))
            return false;
    return true;
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

enum mp_status cmd_report(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_out *out = NULL;
    struct report *r = NULL;
    (void)exit_code;
    enum mp_status status = check_output(o, err);
    if (status != MP_OK)
        return status;
    r = mp_calloc(1, sizeof *r);
    if (r == NULL)
        return mp_nomem(err, "report");
    r->o = o;
    r->args = args;
    MP_TRY(report_load(r, err));
    report_judge(r);
    for (uint32_t i = 0; i < r->n; i++) {
        if (r->scores[i].result == NULL)
            continue;
        const struct mp_workload *w = score_steps(&r->scores[i], &r->s);
        const uint32_t step = typical_step(r->scores[1].result != NULL ? r->scores[1].result : r->scores[i].result);
        MP_TRY(report_traffic(r, i, err));
        MP_TRY(report_timeline(r, i, step < w->n_steps ? step : w->n_steps - 1, err));
    }
    MP_TRY(report_limits(r, err));
    MP_TRY(report_measured(r, err));
    MP_TRY(report_drift(r, err));
    MP_TRY(report_sweep(r, err));
    if (!fit(r)) {
        status = mp_nomem(err, "report");
        goto out;
    }
    MP_TRY(mp_out_open(&out, o->out, err));
    if (o->json)
        write_json(r, out);
    else
        status = write_page(r, out, err);
    if (status == MP_OK)
        status = mp_out_commit(out, err);
    else
        mp_out_cancel(out);
out:
    report_free(r);
    mp_free(r);
    return status;
}
