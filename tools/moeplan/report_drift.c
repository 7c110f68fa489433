/* Does what experts are asked for move? Within the recording: stretches of it in file order against what the first plan
 * was made from; and a newer recording, by moeplan check's own measure.
 *
 * Decides   how many stretches: as many as hold MEMBERS_MIN requests each, at most WINDOWS_MAX.
 * Method    mp_drift_measure of each stretch. */
#include "report.h"
#include "verb_json.h"
#include <stdio.h>
#include <string.h>

enum { WINDOWS_MAX = 8, MEMBERS_MIN = 8 };

struct windows {
    uint32_t n, n_layers;
    uint32_t first[WINDOWS_MAX], n_members[WINDOWS_MAX], beyond[WINDOWS_MAX];
    double mean[WINDOWS_MAX], noise[WINDOWS_MAX];
    double *distance; /* [WINDOWS_MAX][L] */
    const uint64_t **before;
    uint64_t *load; /* of the whole recording, where the plan does not say what it was made from */
};

/* What the first plan was made from, else the whole recording. */
static enum mp_status take_before(struct windows *w, const struct report *r, struct mp_error *err) {
    const struct mp_plan *p = r->scores[1].plan;
    const struct mp_trace *t = r->s.trace;
    bool is_known = true;
    w->before = mp_calloc(t->n_layers, sizeof *w->before);
    w->distance = mp_calloc((size_t)t->n_layers * WINDOWS_MAX, sizeof *w->distance);
    if (w->before == NULL || w->distance == NULL)
        return mp_nomem(err, "drift");
    for (uint32_t l = 0; l < t->n_layers; l++) {
        w->before[l] = p->layers[l].expert_rows;
        is_known = is_known && w->before[l] != NULL;
    }
    if (is_known)
        return MP_OK;
    w->load = mp_calloc((size_t)t->n_layers * t->n_experts, sizeof *w->load);
    if (w->load == NULL)
        return mp_nomem(err, "drift");
    for (uint32_t l = 0; l < t->n_layers; l++) {
        mp_trace_load_of_layer(t, l, w->load + (size_t)l * t->n_experts);
        w->before[l] = w->load + (size_t)l * t->n_experts;
    }
    return MP_OK;
}

static enum mp_status measure(struct windows *w, const struct report *r, const struct mp_part *all, uint32_t i,
                              struct mp_error *err) {
    const uint32_t from = (uint32_t)((uint64_t)all->n * i / w->n), to = (uint32_t)((uint64_t)all->n * (i + 1) / w->n);
    const struct mp_part part = {.trace = all->trace, .n = to - from, .members = all->members + from};
    struct mp_drift *d;
    enum mp_status status = mp_drift_measure(&d, &part, w->before, r->o->seed, tool_threads(r->o), err);
    if (status != MP_OK)
        return status;
    w->first[i] = all->members[from];
    w->n_members[i] = part.n;
    w->mean[i] = d->mean;
    w->noise[i] = d->mean_noise;
    w->beyond[i] = d->n_beyond;
    memcpy(w->distance + (size_t)i * w->n_layers, d->distance, w->n_layers * sizeof *d->distance);
    mp_drift_free(d);
    return MP_OK;
}

static json_t *windows_json(const struct windows *w, const struct report *r) {
    json_t *first = json_array(), *members = json_array(), *mean = json_array(), *noise = json_array(),
           *beyond = json_array();
    const uint32_t shape[] = {w->n, w->n_layers};
    for (uint32_t i = 0; i < w->n; i++) {
        (void)json_array_append_new(first, json_integer(w->first[i]));
        (void)json_array_append_new(members, json_integer(w->n_members[i]));
        (void)json_array_append_new(mean, mp_json_finite(w->mean[i]));
        (void)json_array_append_new(noise, mp_json_finite(w->noise[i]));
        (void)json_array_append_new(beyond, json_integer(w->beyond[i]));
    }
    const bool is_whole = json_array_size(first) == w->n && json_array_size(members) == w->n &&
                          json_array_size(mean) == w->n && json_array_size(noise) == w->n &&
                          json_array_size(beyond) == w->n;
    json_t *o = json_pack("{s:s,s:b,s:i,s:o,s:o,s:o,s:o,s:o,s:o}", "against",
                          w->load == NULL ? "planning data" : "recording", "ordered", (int)r->s.trace->is_time_ordered,
                          "n", (int)w->n, "first", first, "n_members", members, "mean", mean, "noise", noise, "beyond",
                          beyond, "distance", mp_json_packed(MP_PACK_U16, w->distance, shape, 2));
    if (o != NULL && !is_whole) {
        json_decref(o);
        o = NULL;
    }
    return o;
}

static enum mp_status measure_windows(json_t **out, char note[200], const struct report *r, struct mp_error *err) {
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_part all = {0}, same = {0};
    struct windows w = {.n_layers = r->s.trace->n_layers};
    enum mp_status status = MP_OK;
    MP_TRY(mp_part_split(&all, &same, r->s.trace, &none, err));
    w.n = all.n / MEMBERS_MIN < WINDOWS_MAX ? all.n / MEMBERS_MIN : WINDOWS_MAX;
    if (w.n < 2) {
        snprintf(note, 200, "too few %s to tell stretches of the recording apart: %u",
                 r->s.trace->kind == MP_TRACE_COUNTS ? "iterations" : "requests", all.n);
        *out = json_null();
        goto out;
    }
    MP_TRY(take_before(&w, r, err));
    for (uint32_t i = 0; i < w.n; i++)
        MP_TRY(measure(&w, r, &all, i, err));
    *out = windows_json(&w, r);
    if (*out == NULL)
        status = mp_nomem(err, "drift");
out:
    mp_free(w.before);
    mp_free(w.distance);
    mp_free(w.load);
    mp_part_free(&all);
    mp_part_free(&same);
    return status;
}

/* As `moeplan check PLAN TRACE TOPOLOGY` says it. */
static enum mp_status check_recording(json_t **out, const struct report *r, struct mp_error *err) {
    struct opts own = *r->o;
    const char *slash;
    *out = json_null();
    if (r->o->drift_on == NULL)
        return MP_OK;
    own.split = "time:0.5";
    own.strategy = NULL;
    own.is_set[OPT_SPLIT_SIMULATE] = own.strict = false;
    enum mp_status status = check_object(out, &own, r->args->value[0], r->o->drift_on, r->args->value[2], err);
    if (status != MP_OK)
        return status;
    static const char *const sides[] = {"old", "new"};
    for (int i = 0; i < 2; i++) /* a report does not change with the weather */
        (void)json_object_del(json_object_get(*out, sides[i]), "plan_seconds");
    slash = strrchr(r->o->drift_on, '/');
    return json_object_set_new(*out, "name", mp_json_text(slash != NULL ? slash + 1 : r->o->drift_on)) == 0
               ? MP_OK
               : mp_nomem(err, "drift");
}

enum mp_status report_drift(struct report *r, struct mp_error *err) {
    json_t *windows = NULL, *recording = NULL;
    char note[200] = "";
    enum mp_status status = MP_OK;
    MP_TRY(measure_windows(&windows, note, r, err));
    MP_TRY(check_recording(&recording, r, err));
    r->drift = json_pack("{s:O,s:s?,s:O}", "windows", windows, "windows_note", note[0] != '\0' ? note : NULL,
                         "recording", recording);
    if (r->drift == NULL)
        status = mp_nomem(err, "drift");
out:
    json_decref(windows);
    json_decref(recording);
    return status;
}
