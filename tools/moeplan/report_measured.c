/* What moeplan-exec measured, for a report: its --json (each layer's directions, the slowest rank), and its --timeline
 * (each GPU's transfers). Both may be given, with a comma between. Files are not trusted.
 *
 * Method    of several steps a layer's figures are means; a GPU's bar goes from its first byte to its last. */
#include "report.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PARTS = 4, N_FIGURES = 5 };
#define NS_MAX 1e15 /* longer than any transfer */

static const char *const part_names[N_PARTS] = {"dispatch", "dispatch inside nodes", "combine inside nodes", "combine"};
static const char *const figure_names[N_FIGURES] = {"predicted_ns", "min", "median", "p95", "max"};

struct cell { /* of one layer and part */
    double sum[N_FIGURES];
    uint64_t n, step;
};

/* A note where the file names another topology, model, dispatcher or strategy than this report's. Names alone do not
 * make it foreign: a calibrated topology has another name than the one that was measured. */
static bool note_if_other(struct report *r, const json_t *from, const char *key, const char *own, const char *path) {
    const char *name = json_string_value(json_object_get(from, key)), *slash = strrchr(path, '/');
    if (name == NULL || name[0] == '\0' || own == NULL || own[0] == '\0' || strcmp(name, own) == 0)
        return true;
    return report_note(r, "%.200s: measured with %s %.200s, this report is of %.200s", slash != NULL ? slash + 1 : path,
                       key, name, own);
}

static enum mp_status check_same(struct report *r, const json_t *from, const json_int_t n_ranks, const char *path,
                                 struct mp_error *err) {
    if (n_ranks >= 0 && n_ranks != r->s.topology->n_gpus)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "was measured on %lld GPU%s, the topology has %u (give what was measured with this plan and "
                          "topology)",
                          (long long)n_ranks, tool_s((uint64_t)n_ranks), r->s.topology->n_gpus);
    return note_if_other(r, from, "topology", r->s.topology->name, path) &&
                   note_if_other(r, from, "model", r->s.model->name, path) &&
                   note_if_other(r, from, "dispatcher", r->s.sim.dispatcher->name, path) &&
                   note_if_other(r, from, "strategy", r->scores[1].plan->provenance.strategy, path)
               ? MP_OK
               : mp_nomem(err, "report");
}

/* Index of a layer id in the recording, or MP_NONE. */
static uint32_t layer_of(const struct report *r, uint64_t id) {
    const struct mp_trace *t = r->s.trace;
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->layer_ids[l] == id)
            return l;
    return MP_NONE;
}

static enum mp_status take_part(struct cell *cells, const struct report *r, const json_t *part, const char *path,
                                size_t i, struct mp_error *err) {
    const char *name = json_string_value(json_object_get(part, "part"));
    const json_t *id = json_object_get(part, "layer"), *step = json_object_get(part, "step"),
                 *measured = json_object_get(part, "measured_ns");
    const uint32_t layer = json_is_integer(id) ? layer_of(r, (uint64_t)json_integer_value(id)) : MP_NONE;
    int k = 0;
    while (name != NULL && k < N_PARTS && strcmp(part_names[k], name) != 0)
        k++;
    if (name == NULL || k == N_PARTS || !json_is_integer(step) || json_integer_value(step) < 0)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "part %zu: its part or step is none of moeplan-exec's (give what its --json printed)", i + 1);
    if (layer == MP_NONE)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "part %zu: its layer is none of the recording's (give what was measured with this plan and "
                          "recording)",
                          i + 1);
    struct cell *c = &cells[layer * N_PARTS + (size_t)k];
    for (int f = 0; f < N_FIGURES; f++) {
        const json_t *v = json_object_get(f == 0 ? part : measured, figure_names[f]);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                              "part %zu: %s is not a whole number (give what moeplan-exec --json printed)", i + 1,
                              figure_names[f]);
        c->sum[f] += (double)json_integer_value(v);
    }
    c->step = (uint64_t)json_integer_value(step);
    c->n++;
    return MP_OK;
}

static json_t *part_json(const struct cell *c, uint32_t layer_id, const char *part) {
    json_t *o = json_pack("{s:I,s:s,s:I,s:o}", "layer", (json_int_t)layer_id, "part", part, "n_steps", (json_int_t)c->n,
                          "step", c->n == 1 ? json_integer((json_int_t)c->step) : json_null());
    static const char *const keys[N_FIGURES] = {"predicted_ns", "min_ns", "median_ns", "p95_ns", "max_ns"};
    for (int f = 0; f < N_FIGURES && o != NULL; f++)
        if (json_object_set_new(o, keys[f], json_integer((json_int_t)llround(c->sum[f] / (double)c->n))) != 0) {
            json_decref(o);
            o = NULL;
        }
    return o;
}

static enum mp_status take_parts(json_t *measured, const struct report *r, const json_t *from, const char *path,
                                 struct mp_error *err) {
    const json_t *parts = json_object_get(from, "parts"), *iterations = json_object_get(from, "iterations");
    const char *transport = json_string_value(json_object_get(from, "transport"));
    const uint32_t n_layers = r->s.trace->n_layers;
    json_t *list = json_array();
    struct cell *cells = mp_calloc((size_t)n_layers * N_PARTS, sizeof *cells);
    enum mp_status status = MP_OK;
    bool is_ok = true;
    if (cells == NULL || list == NULL) {
        status = mp_nomem(err, "report");
        goto out;
    }
    if (transport == NULL || !json_is_integer(iterations) || json_integer_value(iterations) < 1) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "its transport or iterations are none of moeplan-exec's (give what its --json printed)");
        goto out;
    }
    if (!json_is_array(parts) || json_array_size(parts) == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "has no parts that were measured (training steps and matrices are not shown by a report)");
        goto out;
    }
    for (size_t i = 0; i < json_array_size(parts); i++)
        MP_TRY(take_part(cells, r, json_array_get(parts, i), path, i, err));
    for (uint32_t l = 0; l < n_layers; l++)
        for (int k = 0; k < N_PARTS; k++)
            if (cells[l * N_PARTS + (uint32_t)k].n > 0)
                is_ok &= json_array_append_new(list, part_json(&cells[l * N_PARTS + (uint32_t)k],
                                                               r->s.trace->layer_ids[l], part_names[k])) == 0;
    is_ok &= json_object_set(measured, "parts", list) == 0 &&
             json_object_set_new(measured, "transport", mp_json_text(transport)) == 0 &&
             json_object_set_new(measured, "iterations", json_integer(json_integer_value(iterations))) == 0;
    if (!is_ok)
        status = mp_nomem(err, "report");
out:
    mp_free(cells);
    json_decref(list);
    return status;
}

/* ---- timeline ---- */

struct drawn {
    size_t n_layers, n_gpus, n_events;
    double *bars; /* [L][G][REPORT_KINDS][2] */
};

static void widen(const struct drawn *d, size_t layer, size_t gpu, enum report_bar kind, double start, double end) {
    double *bar = d->bars + ((layer * d->n_gpus + gpu) * REPORT_KINDS + kind) * 2;
    const bool is_new = bar[1] <= bar[0];
    bar[0] = is_new || start < bar[0] ? start : bar[0];
    bar[1] = is_new || end > bar[1] ? end : bar[1];
}

/* GPUs that moeplan-exec names as measured, or -1 where it names none. */
static json_int_t count_ranks(const json_t *events) {
    json_int_t n = -1;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *e = json_array_get(events, i), *pid = json_object_get(e, "pid");
        const char *name = json_string_value(json_object_get(e, "name"));
        if (name != NULL && strcmp(name, "process_name") == 0 && json_is_integer(pid) &&
            json_integer_value(pid) % 2 == 1 && json_integer_value(pid) / 2 >= n)
            n = json_integer_value(pid) / 2 + 1;
    }
    return n;
}

/* A timeline that moeplan-exec wrote? What `moeplan export --to chrome-trace` writes looks alike, and was not measured.
 */
static enum mp_status check_source(const json_t *from, const char *path, struct mp_error *err) {
    const char *source = json_string_value(json_object_get(json_object_get(from, "otherData"), "source"));
    if (source != NULL && strcmp(source, "predicted by moeplan") == 0)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "is a prediction of moeplan's, nothing in it was measured (give what moeplan-exec --timeline "
                          "wrote)");
    if (source == NULL || strcmp(source, "moeplan-exec") != 0)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "is a timeline that moeplan-exec did not write (give what its --timeline wrote)");
    return MP_OK;
}

/* "combine L7 to GPU 3" of an odd process is a transfer as it was; anything else is not looked at. */
static void take_event(struct drawn *d, const struct report *r, const json_t *e) {
    const char *name = json_string_value(json_object_get(e, "name")), *ph = json_string_value(json_object_get(e, "ph"));
    const json_t *pid = json_object_get(e, "pid"), *ts = json_object_get(e, "ts"), *dur = json_object_get(e, "dur");
    const char *layer = name != NULL ? strstr(name, " L") : NULL,
               *to = layer != NULL ? strstr(layer, " to GPU ") : NULL;
    uint64_t id, peer;
    if (to == NULL || ph == NULL || strcmp(ph, "X") != 0 || !json_is_integer(pid) || json_integer_value(pid) % 2 != 1 ||
        !json_is_number(ts) || !json_is_number(dur) || !mp_parse_u64(layer + 2, (size_t)(to - layer) - 2, &id) ||
        !mp_parse_u64(to + 8, strlen(to + 8), &peer))
        return;
    const bool is_back = strncmp(name, "combine", 7) == 0;
    const uint64_t gpu = (uint64_t)json_integer_value(pid) / 2;
    const uint32_t l = layer_of(r, id);
    const double start = json_number_value(ts) * 1000, end = start + json_number_value(dur) * 1000;
    if (l == MP_NONE || gpu >= d->n_gpus || peer >= d->n_gpus || !(start >= 0) || !(end > start) || end > NS_MAX)
        return;
    widen(d, l, gpu, is_back ? REPORT_COMBINE_SENDS : REPORT_DISPATCH_SENDS, start, end);
    widen(d, l, peer, is_back ? REPORT_COMBINE_RECEIVES : REPORT_DISPATCH_RECEIVES, start, end);
    d->n_events++;
}

static enum mp_status take_timeline(json_t *measured, const struct report *r, const json_t *events, const char *path,
                                    struct mp_error *err) {
    const uint32_t n_layers = r->s.trace->n_layers, n_gpus = r->s.topology->n_gpus;
    const uint32_t shape[] = {n_layers, n_gpus, REPORT_KINDS, 2};
    struct drawn d = {n_layers, n_gpus, 0, mp_calloc((size_t)n_layers * n_gpus, REPORT_KINDS * 2 * sizeof(double))};
    uint64_t *start = mp_calloc(n_layers, sizeof *start), *length = mp_calloc(n_layers, sizeof *length);
    json_t *lengths = json_array(), *o = NULL;
    enum mp_status status = MP_OK;
    if (d.bars == NULL || start == NULL || length == NULL || lengths == NULL) {
        status = mp_nomem(err, "report");
        goto out;
    }
    for (size_t i = 0; i < json_array_size(events); i++)
        take_event(&d, r, json_array_get(events, i));
    if (d.n_events == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "has no transfer that was measured between this topology's GPUs in the recording's layers "
                            "(write it with moeplan-exec --timeline, for this plan and recording)");
        goto out;
    }
    report_set_starts(d.bars, start, length, n_layers, (size_t)n_gpus * REPORT_KINDS);
    for (uint32_t l = 0; l < n_layers; l++)
        (void)json_array_append_new(lengths, json_integer((json_int_t)length[l]));
    o = json_pack("{s:O,s:o}", "layer_length_ns", lengths, "bars_ns", mp_json_packed(MP_PACK_U16, d.bars, shape, 4));
    if (o == NULL || json_array_size(lengths) != n_layers || json_object_set(measured, "timeline", o) != 0)
        status = mp_nomem(err, "report");
out:
    json_decref(o);
    json_decref(lengths);
    mp_free(d.bars);
    mp_free(start);
    mp_free(length);
    return status;
}

static enum mp_status take_file(void *ctx, const char *path, struct mp_error *err) {
    struct report *r = ctx;
    json_t *from = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(report_read_json(&from, path, r->o, err));
    const char *schema = json_string_value(json_object_get(from, "schema"));
    const json_t *events = json_object_get(from, "traceEvents");
    const char *slash = strrchr(path, '/');
    if (json_is_array(events)) {
        MP_TRY(check_source(from, path, err));
        MP_TRY(check_same(r, json_object_get(from, "otherData"), count_ranks(events), path, err));
        MP_TRY(take_timeline(r->measured, r, events, path, err));
    } else if (schema != NULL && strcmp(schema, "moeplan.exec") == 0) {
        const json_t *ranks = json_object_get(from, "ranks");
        MP_TRY(check_same(r, from, json_is_integer(ranks) ? json_integer_value(ranks) : -1, path, err));
        MP_TRY(take_parts(r->measured, r, from, path, err));
    } else {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "is nothing that moeplan-exec measured (give its --json, or what its --timeline wrote)");
    }
    if (status == MP_OK && json_is_null(json_object_get(r->measured, "source")) &&
        json_object_set_new(r->measured, "source", mp_json_text(slash != NULL ? slash + 1 : path)) != 0)
        status = mp_nomem(err, "report");
out:
    json_decref(from);
    return status;
}

enum mp_status report_measured(struct report *r, struct mp_error *err) {
    char word[4096];
    if (r->o->measured == NULL)
        return MP_OK;
    json_decref(r->measured);
    r->measured = json_pack("{s:n,s:n,s:n,s:[],s:n}", "source", "transport", "iterations", "parts", "timeline");
    if (r->measured == NULL)
        return mp_nomem(err, "report");
    return tool_for_each_word(r->o->measured, "measured", word, sizeof word, take_file, r, err);
}
