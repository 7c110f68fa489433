/* The plans of a report, scored side by side as `compare` does, on the steps that `simulate` takes for the first. */
#include "report.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

bool report_note(struct report *r, const char *fmt, ...) {
    char text[1200];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    return json_array_append_new(r->notes, mp_json_text(text)) == 0;
}

/* A name or sentence as it may stand in JSON, which is UTF-8. */
static void clean_name(char *name) {
    if (mp_is_text(name, strlen(name)))
        return;
    for (char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7F)
            *c = '?';
}

/* Two files of one name are told apart by their folders, and one that is given twice by a number. */
static void tell_apart(struct report *r, uint32_t i, const char *path) {
    char *name = r->scores[i].name;
    const size_t n = strlen(path), most = MP_MAX_NAME - 8;
    uint32_t same = 1;
    bool is_taken = false;
    for (uint32_t k = 0; k < i; k++) {
        is_taken = is_taken || strcmp(r->scores[k].name, name) == 0;
        same += r->plans[k].path != NULL && strcmp(r->plans[k].path, path) == 0;
    }
    if (!is_taken)
        return;
    const int used = snprintf(name, MP_MAX_NAME, "%s", path + (n > most ? n - most : 0));
    if (same > 1 && used > 0)
        snprintf(name + used, MP_MAX_NAME - (size_t)used, " (%u)", same);
}

static enum mp_status digest(char hex[65], const char *path, struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_open(&in, path, 0, err);
    if (status != MP_OK)
        return status;
    mp_sha256_hex(in->data, in->size, hex);
    mp_in_close(in);
    return MP_OK;
}

/* Scores and the file's own words. */
static enum mp_status add(struct report *r, const char *path, struct mp_error *err) {
    const uint32_t i = r->n;
    struct score *score = &r->scores[i];
    enum tool_kind kind;
    struct stat st;
    struct opts plain = *r->o; /* --input-format speaks of the recording */
    enum mp_status status = MP_OK;
    plain.input_format = NULL;
    r->plans[i].path = path;
    r->n++; /* freed from here on */
    MP_TRY(score_load(score, &r->s, path, err));
    tell_apart(r, i, path);
    clean_name(score->name);
    if (score->plan->n_colocations > 0 || score->plan->together.is_present)
        return mp_fail_at(
            err, MP_EUSAGE, path, 0, 0,
            "is one of two plans that were made together, and a report is of one model (compare both with "
            "moeplan compare --colocate)");
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        r->plans[i].why_not_verified = "it came from a pipe, which is read once: give a file to have it verified";
        goto out;
    }
    MP_TRY(digest(r->plans[i].sha256, path, err));
    MP_TRY(tool_kind_of(&kind, path, &plain, err));
    if (kind == TOOL_PLAN)
        MP_TRY(mp_plan_load(&r->plans[i].file, path, &r->o->limits, err));
out:
    return status;
}

/* The contiguous placement: what one has without a plan. */
static enum mp_status add_contiguous(struct report *r, struct mp_error *err) {
    struct setup v = r->s;
    v.planning = v.scored; /* it looks at no data, but asks for steps that can be filled */
    r->plans[0].why_not_verified = "made for this report, not read from a file";
    enum mp_status status = score_like(&r->scores[0], &v, NULL, err);
    if (status == MP_OK && r->scores[0].plan == NULL)
        return mp_fail(err, MP_EINPUT, "the contiguous placement cannot be made here: %.300s (give --incumbent FILE)",
                       r->scores[0].note);
    return status;
}

/* The steps are the first plan's, but not its homes: the others have none, or their own. */
static enum mp_status take_homes_off(struct setup *s, struct mp_error *err) {
    if (s->homes == NULL)
        return MP_OK;
    mp_workload_free(s->workload);
    s->workload = NULL;
    s->homes = s->scored.homes = NULL;
    return mp_workload_build(&s->workload, &s->scored, &s->batching, err);
}

static enum mp_status verify(struct report *r, uint32_t i, struct mp_error *err) {
    struct report_plan *p = &r->plans[i];
    if (p->file == NULL) {
        if (p->why_not_verified == NULL)
            p->why_not_verified = "a placement of a serving stack: it claims nothing";
        return MP_OK;
    }
    const struct mp_provenance *from = &p->file->provenance;
    const bool is_own = from->has_workload && strcmp(from->trace_sha256, r->s.trace->sha256) == 0;
    if (!is_own)
        p->why_not_verified = from->has_workload
                                  ? "made from another recording: only its structure was checked, what it "
                                    "claims of its own steps was not derived again"
                                  : "the file does not say what it was made from: only its structure was "
                                    "checked";
    return mp_plan_verify(&p->verified, p->file, is_own ? r->s.trace : NULL, is_own ? r->s.topology : NULL,
                          is_own ? r->s.model : NULL, err);
}

/* Says of a refused plan that it is, in its result too: its figures stand beside those of others. */
static void note_refused(struct score *s, const struct mp_verify_report *v) {
    const size_t used = strlen(s->note);
    if (v == NULL || v->n == 0)
        return;
    snprintf(s->note + used, sizeof s->note - used, "%srefused by the verifier (%s: %.400s)", used > 0 ? "; " : "",
             mp_violation_name(v->violations[0].kind), v->violations[0].message);
    clean_name(s->note); /* the cut may be inside a character */
    s->shown.note = s->note;
}

enum mp_status report_load(struct report *r, struct mp_error *err) {
    const struct opts *o = r->o;
    const struct args *a = r->args;
    struct mp_progress_part *part = NULL;
    enum mp_status status = MP_OK;
    r->limits = json_array();
    r->notes = json_array();
    r->sweep = json_null();
    r->measured = json_null();
    if (r->limits == NULL || r->notes == NULL)
        return mp_nomem(err, "report");
    MP_TRY(setup_load(&r->s, o, a->value[1], a->value[2], err));
    if (o->incumbent != NULL)
        MP_TRY(add(r, o->incumbent, err));
    else
        r->n = 1;
    MP_TRY(add(r, a->value[0], err));
    MP_TRY(setup_as_planned(&r->s, r->scores[1].plan, err));
    MP_TRY(take_homes_off(&r->s, err));
    if (o->incumbent == NULL)
        MP_TRY(add_contiguous(r, err));
    for (int i = 3; i < a->n; i++)
        MP_TRY(add(r, a->value[i], err));
    for (uint32_t i = 0; i < r->n; i++)
        if (r->plans[i].path != NULL)
            r->scores[i].shown.evaluated_on = score_origin(&r->s, r->scores[i].plan);
    MP_TRY(score_all(r->scores, r->n, 0, &r->s, (uint32_t)o->interval_groups, err));
    part = mp_progress_begin(o->progress, "plans verified", r->n, 0);
    for (uint32_t i = 0; i < r->n; i++) {
        mp_progress_add(part, i > 0);
        MP_TRY(verify(r, i, err));
        note_refused(&r->scores[i], r->plans[i].verified);
    }
out:
    mp_progress_end(part);
    return status;
}

void report_detail_free(struct report_detail *d) {
    void *const all[] = {d->mean_rows, d->max_rows, d->dispatch, d->combine,  d->dispatch_sum, d->combine_sum,
                         d->bars,      d->sent,     d->received, d->start_ns, d->length_ns,    d->parts_ns};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mp_free(all[i]);
    *d = (struct report_detail){.n_steps = 0};
}

void report_free(struct report *r) {
    for (uint32_t i = 0; i < r->n; i++) {
        report_detail_free(&r->details[i]);
        mp_verify_report_free(r->plans[i].verified);
        mp_plan_free(r->plans[i].file);
        score_free(&r->scores[i]);
    }
    json_t *const all[] = {r->sweep, r->drift, r->measured, r->limits, r->notes};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        json_decref(all[i]);
    setup_free(&r->s);
}
