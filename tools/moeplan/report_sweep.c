/* A sweep over redundant slots in a report: run for it, or read. Files are not trusted: only what is known of a sweep
 * is kept, and the kind of everything is checked. */
#include "report.h"
#include "sweep_axes.h"
#include "verb_json.h"
#include <stdio.h>
#include <string.h>

enum { SWEEP_BYTES = 1 << 20 };

enum mp_status report_read_json(json_t **out, const char *path, const struct opts *o, struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_open(&in, path, o->limits.json_bytes, err);
    if (status != MP_OK)
        return status;
    status = mp_json_parse(out, path, (const char *)in->data, in->size, 1, &o->limits, err);
    mp_in_close(in);
    return status;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* What a member has to be: one character each, in the manner of json_unpack. */
struct member {
    const char *key;
    char kind; /* i whole, r number, s text, b true or false, o object */
    bool may_be_null;
};

static bool is_kind(const json_t *v, const struct member *m) {
    return (m->may_be_null && json_is_null(v)) ||
           (m->kind == 'i' && json_is_integer(v) && json_integer_value(v) >= 0) ||
           (m->kind == 'r' && json_is_number(v)) || (m->kind == 's' && json_is_string(v)) ||
           (m->kind == 'b' && json_is_boolean(v)) || (m->kind == 'o' && json_is_object(v));
}

/* An object of these members and no others; `where` says in a message which one it was. */
static enum mp_status keep(json_t **out, const json_t *from, const struct member *members, size_t n, const char *path,
                           const char *where, struct mp_error *err) {
    static const char *const words[] = {"a whole number", "a number", "a text", "true or false", "an object"};
    json_t *o = json_object();
    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        json_t *v = json_object_get(from, members[i].key);
        if (v == NULL || !is_kind(v, &members[i])) {
            json_decref(o);
            return mp_fail_at(err, MP_EINPUT, path, 0, 0, "%s: %s is not %s (write it with moeplan sweep --json)",
                              where, members[i].key, words[strchr("irsbo", members[i].kind) - "irsbo"]);
        }
        if (o == NULL || json_object_set(o, members[i].key, v) != 0) {
            json_decref(o);
            return mp_nomem(err, "report");
        }
    }
    *out = o;
    return MP_OK;
}

/* ---- sweep ---- */

static const struct member head_members[] = {
    {"strategy", 's', false}, {"split", 's', false}, {"evaluated_on", 's', false}, {"context", 'i', false},
    {"seed", 'i', false},     {"along", 's', false}, {"interval_note", 's', true}};
static const struct member point_members[] = {
    {"at", 'o', false}, {"topology", 's', false}, {"feasible", 'b', false}, {"note", 's', true}};
static const struct member known_members[] = {{"n_gpus", 'i', false},
                                              {"step_time_ns", 'o', false},
                                              {"step_time_interval_ns", 'o', true},
                                              {"change_interval", 'o', true},
                                              {"tokens_per_step", 'r', false},
                                              {"ns_per_token", 'r', false},
                                              {"moe_ns", 'i', false},
                                              {"dispatch_ns", 'i', false},
                                              {"compute_ns", 'i', false},
                                              {"combine_ns", 'i', false},
                                              {"moe_share", 'r', false},
                                              {"max_over_mean", 'r', false},
                                              {"memory_bytes_max", 'i', false},
                                              {"kv_tokens_min", 'i', true},
                                              {"requests_max", 'i', true},
                                              {"bytes", 'o', false}};
static const struct member time_members[] = {{"mean", 'i', false}, {"p95", 'i', false}};
static const struct member interval_members[] = {{"low", 'r', false}, {"high", 'r', false}};
static const struct member byte_members[] = {{"remote", 'r', false}, {"inter_node", 'r', false}};
static const struct member at_members[] = {{"redundant", 'i', false}};
static const struct member curve_members[] = {
    {"of", 'o', false}, {"knee", 's', false}, {"at", 'i', true}, {"within_noise", 'b', false}, {"verdict", 's', false}};
#define N(members) (sizeof(members) / sizeof *(members))

/* Replaces an object inside `o` by one of these members alone. */
static enum mp_status narrow(json_t *o, const char *key, const struct member *members, size_t n, const char *path,
                             const char *where, struct mp_error *err) {
    json_t *inner;
    if (json_is_null(json_object_get(o, key)))
        return MP_OK;
    enum mp_status status = keep(&inner, json_object_get(o, key), members, n, path, where, err);
    if (status != MP_OK)
        return status;
    return json_object_set_new(o, key, inner) == 0 ? MP_OK : mp_nomem(err, "report");
}

static enum mp_status take_point(json_t *points, const json_t *from, const char *path, size_t i, struct mp_error *err) {
    char where[64];
    json_t *o = NULL, *figures = NULL;
    enum mp_status status = MP_OK;
    snprintf(where, sizeof where, "point %zu", i + 1);
    MP_TRY(keep(&o, from, point_members, N(point_members), path, where, err));
    MP_TRY(narrow(o, "at", at_members, N(at_members), path, where, err));
    if (json_is_true(json_object_get(o, "feasible"))) {
        MP_TRY(keep(&figures, from, known_members, N(known_members), path, where, err));
        MP_TRY(narrow(figures, "step_time_ns", time_members, N(time_members), path, where, err));
        MP_TRY(narrow(figures, "step_time_interval_ns", interval_members, N(interval_members), path, where, err));
        MP_TRY(narrow(figures, "change_interval", interval_members, N(interval_members), path, where, err));
        MP_TRY(narrow(figures, "bytes", byte_members, N(byte_members), path, where, err));
        if (json_object_update(o, figures) != 0)
            status = mp_nomem(err, "report");
    }
    if (status == MP_OK && json_array_append(points, o) != 0)
        status = mp_nomem(err, "report");
out:
    json_decref(figures);
    json_decref(o);
    return status;
}

/* The sweep as a report shows it. source NULL: it was run here. */
static enum mp_status take_sweep(json_t **out, const json_t *from, const char *path, const char *source,
                                 struct mp_error *err) {
    json_t *o = NULL, *points = json_array(), *curves = json_array(), *curve = NULL;
    const json_t *all = json_object_get(from, "points"), *lines = json_object_get(from, "curves");
    const char *schema = json_string_value(json_object_get(from, "schema"));
    enum mp_status status = MP_OK;
    *out = NULL;
    if (schema == NULL || strcmp(schema, "moeplan.sweep") != 0 ||
        json_integer_value(json_object_get(from, "version")) != 1) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "is no sweep (write it with moeplan sweep --json)");
        goto out;
    }
    MP_TRY(keep(&o, from, head_members, N(head_members), path, "sweep", err));
    if (strcmp(json_string_value(json_object_get(o, "along")), "redundant") != 0 || json_array_size(lines) != 1) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "is no sweep over redundant slots alone (write it with moeplan sweep --redundant RANGE "
                            "--json)");
        goto out;
    }
    if (json_array_size(all) < 1 || json_array_size(all) > SWEEP_POINTS_MAX) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "has %zu points (a sweep has 1 to %d)", json_array_size(all),
                            SWEEP_POINTS_MAX);
        goto out;
    }
    for (size_t i = 0; i < json_array_size(all); i++)
        MP_TRY(take_point(points, json_array_get(all, i), path, i, err));
    MP_TRY(keep(&curve, json_array_get(lines, 0), curve_members, N(curve_members), path, "curve 1", err));
    if (json_object_set_new(curve, "of", json_object()) != 0 || json_array_append(curves, curve) != 0 ||
        json_object_set(o, "points", points) != 0 || json_object_set(o, "curves", curves) != 0 ||
        json_object_set_new(o, "schema", json_string("moeplan.sweep")) != 0 ||
        json_object_set_new(o, "version", json_integer(1)) != 0 ||
        json_object_set_new(o, "source", mp_json_text(source)) != 0) {
        status = mp_nomem(err, "report");
        goto out;
    }
    *out = o;
    o = NULL;
out:
    json_decref(o);
    json_decref(points);
    json_decref(curves);
    json_decref(curve);
    return status;
}

/* The batch of a sweep over the report's steps; 0 = they are not decode. */
static uint32_t batch_of(const struct report *r) {
    const struct mp_batching *b = &r->s.batching;
    return b->phase != MP_PHASE_DECODE ? 0 : b->batch_per_rank > 0 ? b->batch_per_rank : 1;
}

static enum mp_status refuse(const char *path, const char *key, const char *is, const char *own, struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                      "is a sweep of another %s: %.200s, this report is of %.200s (give --redundant RANGE instead, and "
                      "the sweep is run for this report)",
                      key, is, own);
}

/* A figure that both name, and that differs? */
static enum mp_status check_whole(const json_t *v, const char *key, uint64_t own, const char *path,
                                  struct mp_error *err) {
    char is[32], want[32];
    if (!json_is_integer(v) || own == 0 || (uint64_t)json_integer_value(v) == own)
        return MP_OK;
    snprintf(is, sizeof is, "%lld", (long long)json_integer_value(v));
    snprintf(want, sizeof want, "%llu", (unsigned long long)own);
    return refuse(path, key, is, want, err);
}

/* Names of a topology: what the command line says, the same without folders, or its own. */
static bool is_topology(const struct report *r, const char *name) {
    const char *given = r->args->value[2];
    return strcmp(name, given) == 0 || strcmp(base_name(name), base_name(given)) == 0 ||
           strcmp(name, r->s.topology->name) == 0;
}

/* Other requests held out than in this report, which has a split of one number? (A report without one is of the steps
 * the plan was made from, and no sweep is.) */
static bool is_other_split(const struct report *r, const json_t *from) {
    const json_t *seed = json_object_get(from, "seed");
    const char *text = json_string_value(json_object_get(from, "split"));
    const struct mp_split *own = &r->s.split;
    struct mp_split split;
    struct mp_error ignored = {0};
    if ((own->kind != MP_SPLIT_HASH && own->kind != MP_SPLIT_TIME) || text == NULL)
        return false;
    if (mp_split_parse(&split, text, (uint64_t)json_integer_value(seed), &ignored) != MP_OK) {
        mp_error_clear(&ignored);
        return true;
    }
    return split.kind != own->kind || split.planning_ppm != own->planning_ppm ||
           (split.kind == MP_SPLIT_HASH && split.seed != own->seed);
}

/* A sweep that was read is of what this report is of, as far as it says: what changes its times is refused, what may be
 * another name of the same is noted. */
static enum mp_status check_sweep(struct report *r, const json_t *from, const char *path, struct mp_error *err) {
    const struct setup *s = &r->s;
    const struct {
        const char *key, *word, *own;
    } texts[] = {{"model", "model", s->model->name},
                 {"trace_sha256", "recording", s->trace->sha256},
                 {"phase", "phase", mp_phase_name(s->batching.phase)},
                 {"dispatcher", "dispatcher", s->sim.dispatcher->name},
                 {"sources", "kind of sources", s->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp"},
                 {"timeline", "reading of a step", s->sim.is_pipelined ? "pipelined" : "barrier"}};
    const json_t *points = json_object_get(from, "points"), *context = json_object_get(from, "context");
    const char *said = NULL, *name = base_name(path);
    bool is_ok = true;
    enum mp_status status = MP_OK;
    for (size_t i = 0; i < N(texts); i++) {
        const char *is = json_string_value(json_object_get(from, texts[i].key));
        if (is != NULL && is[0] != '\0' && texts[i].own[0] != '\0' && strcmp(is, texts[i].own) != 0)
            return refuse(path, texts[i].word, is, texts[i].own, err);
    }
    if (s->batching.phase != MP_PHASE_DECODE)
        MP_TRY(check_whole(json_object_get(from, "tokens_per_rank"), "number of tokens per rank",
                           s->batching.tokens_per_rank, path, err));
    for (size_t i = 0; i < json_array_size(points); i++) {
        const json_t *p = json_array_get(points, i);
        const char *topology = json_string_value(json_object_get(p, "topology"));
        MP_TRY(check_whole(json_object_get(p, "n_gpus"), "number of GPUs", s->topology->n_gpus, path, err));
        MP_TRY(check_whole(json_object_get(p, "batch"), "batch", batch_of(r), path, err));
        if (said == NULL && topology != NULL && topology[0] != '\0' && !is_topology(r, topology))
            said = topology;
    }
    if (said != NULL)
        is_ok &=
            report_note(r, "%.200s: swept on topology %.200s, this report is of %.200s", name, said, s->topology->name);
    if (is_other_split(r, from))
        is_ok &= report_note(r, "%.200s: swept with --split %.200s --seed %lld, so on other requests than this report",
                             name, json_string_value(json_object_get(from, "split")),
                             (long long)json_integer_value(json_object_get(from, "seed")));
    if (json_is_integer(context) && (uint64_t)json_integer_value(context) != r->o->context)
        is_ok &= report_note(r, "%.200s: swept with a context of %lld tokens, this report has %llu", name,
                             (long long)json_integer_value(context), (unsigned long long)r->o->context);
    if (!json_is_string(json_object_get(from, "trace_sha256")))
        is_ok &= report_note(r, "%.200s: does not say which recording was swept", name);
    if (!is_ok)
        status = mp_nomem(err, "report");
out:
    return status;
}

/* `moeplan sweep` with the steps, dispatcher and split of this report. */
static enum mp_status run_sweep(json_t **out, const struct report *r, struct mp_error *err) {
    struct opts own = *r->o;
    const struct setup *s = &r->s;
    char batch[32], split[64];
    bool any;
    enum mp_status status;
    snprintf(batch, sizeof batch, "%u", batch_of(r) > 0 ? batch_of(r) : 1);
    snprintf(split, sizeof split, "%s%.6f", s->split.kind == MP_SPLIT_TIME ? "time:" : "", s->split.planning_ppm / 1e6);
    own.is_set[OPT_SWEEP_REDUNDANT] = true;
    own.is_set[OPT_SWEEP_BATCH] = s->batching.phase == MP_PHASE_DECODE;
    own.sweep_batch = batch;
    own.tokens_per_rank = s->batching.tokens_per_rank > 0 ? s->batching.tokens_per_rank : own.tokens_per_rank;
    own.dispatcher = s->sim.dispatcher->name;
    own.sources = s->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp";
    own.timeline = s->sim.is_pipelined ? "pipelined" : "barrier";
    if (own.split == NULL)
        own.split = s->split.kind == MP_SPLIT_HASH || s->split.kind == MP_SPLIT_TIME ? split : "0.5";
    status = sweep_object(out, &any, &own, r->args->value[1], r->args->value[2], err);
    return status;
}

enum mp_status report_sweep(struct report *r, struct mp_error *err) {
    const struct opts *o = r->o;
    json_t *from = NULL;
    enum mp_status status = MP_OK;
    if (o->sweep_file == NULL && o->sweep_redundant == NULL)
        return MP_OK;
    if (o->sweep_file != NULL) {
        MP_TRY(report_read_json(&from, o->sweep_file, o, err));
        if (json_dumpb(from, NULL, 0, JSON_COMPACT) > SWEEP_BYTES) {
            status = mp_fail_at(err, MP_ELIMIT, o->sweep_file, 0, 0, "is larger than a sweep can be");
            goto out;
        }
    } else {
        MP_TRY(run_sweep(&from, r, err));
    }
    json_decref(r->sweep);
    r->sweep = NULL;
    MP_TRY(take_sweep(&r->sweep, from, o->sweep_file != NULL ? o->sweep_file : r->args->value[1],
                      o->sweep_file != NULL ? base_name(o->sweep_file) : NULL, err));
    if (o->sweep_file != NULL)
        MP_TRY(check_sweep(r, from, o->sweep_file, err));
out:
    json_decref(from);
    return status;
}
