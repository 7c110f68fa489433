/* The data of a report: docs/REPORT.md part 2 is normative. */
#include "report.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PARTS = 5 };

/* Adds a member; a NULL value is memory that ran out, and makes *o NULL. */
static void put(json_t **o, const char *key, json_t *value) {
    if (*o == NULL) {
        json_decref(value);
    } else if (value == NULL || json_object_set_new_nocheck(*o, key, value) != 0) {
        json_decref(*o);
        *o = NULL;
    }
}
static void append(json_t **list, json_t *value) {
    if (*list == NULL) {
        json_decref(value);
    } else if (value == NULL || json_array_append_new(*list, value) != 0) {
        json_decref(*list);
        *list = NULL;
    }
}
static json_t *whole(uint64_t v) { return json_integer((json_int_t)(v < INT64_MAX ? v : INT64_MAX)); }
static json_t *text_or_null(const char *s) { return mp_json_text(s != NULL && s[0] != '\0' ? s : NULL); }
static json_t *copy(json_t *value) { return json_incref(value); }

static json_t *wholes(const uint64_t *v, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        append(&list, whole(v[i]));
    return list;
}
/* Rounded to `digits` digits behind the point. */
static json_t *reals(const double *v, size_t n, double unit) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        append(&list, unit > 1 ? mp_json_finite(round(v[i] * unit) / unit) : json_integer((json_int_t)llround(v[i])));
    return list;
}
static json_t *packed(enum mp_packed_type type, const double *v, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t shape[] = {a, b, c, d};
    return mp_json_packed(type, v, shape, d > 0 ? 4 : c > 0 ? 3 : 2);
}

static json_t *verdict_json(const struct report *r) {
    const struct report_verdict *v = &r->verdict;
    const struct score *plan = &r->scores[1];
    const bool has_change = r->scores[0].result != NULL && plan->result != NULL;
    json_t *o = json_object(), *layers = json_array();
    for (uint32_t i = 0; i < v->n_layers; i++)
        append(&layers, json_pack("{s:I,s:I,s:I}", "layer", (json_int_t)r->s.trace->layer_ids[v->layers[i]], "index",
                                  (json_int_t)v->layers[i], "saved_ns", (json_int_t)llround(v->saved_ns[i])));
    put(&o, "kind", json_string(report_kind(v)));
    put(&o, "worth", json_boolean(!v->is_none && v->kind == GAIN_REAL));
    put(&o, "headline", mp_json_text(v->headline));
    put(&o, "interval_text", mp_json_text(v->interval_text));
    put(&o, "where_text", mp_json_text(v->where_text));
    put(&o, "other_text", mp_json_text(v->other_text));
    put(&o, "plan", has_change ? json_integer(1) : json_null());
    put(&o, "baseline", json_integer(0));
    put(&o, "step_change", has_change ? mp_json_finite(v->change) : json_null());
    put(&o, "step_change_interval", has_change ? mp_interval_json(&plan->against_base) : json_null());
    put(&o, "interval_note", text_or_null(plan->shown.no_interval));
    put(&o, "moe_change", has_change ? mp_json_finite(v->moe_change) : json_null());
    put(&o, "moe_share", has_change ? mp_json_finite(v->moe_share) : json_null());
    put(&o, "evaluated_on", json_string(plan->shown.evaluated_on));
    put(&o, "layers", layers);
    return o;
}

static json_t *subject_json(const struct report *r) {
    const struct setup *s = &r->s;
    const struct mp_trace *t = s->trace;
    const struct mp_workload *w = s->workload;
    char text[1024];
    json_t *o = json_object();
    put(&o, "model", mp_json_text(s->model->name));
    put(&o, "topology", mp_json_text(s->topology->name));
    put(&o, "n_gpus", whole(s->topology->n_gpus));
    put(&o, "n_nodes", whole(mp_topology_n_nodes(s->topology)));
    put(&o, "n_layers", whole(t->n_layers));
    put(&o, "n_experts", whole(t->n_experts));
    put(&o, "top_k", whole(t->top_k > 0 ? t->top_k : s->model->top_k));
    put(&o, "phase", json_string(mp_phase_name(s->batching.phase)));
    put(&o, "kind", json_string(t->kind == MP_TRACE_COUNTS ? "counts" : "tokens"));
    put(&o, "synthetic", json_boolean(t->is_synthetic));
    put(&o, "dispatcher", json_string(s->sim.dispatcher->name));
    put(&o, "sources", json_string(s->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp"));
    put(&o, "timeline", json_string(s->sim.is_pipelined ? "pipelined" : "barrier"));
    put(&o, "steps", json_string(w->is_bootstrap ? "bootstrap" : "recorded"));
    put(&o, "n_steps", whole(w->n_steps));
    put(&o, "n_requests", whole(w->n_requests));
    put(&o, "n_rows", whole(w->n_rows));
    put(&o, "steps_text", mp_json_text(score_describe(s, text, sizeof text)));
    return o;
}

static json_t *gpus_json(const struct mp_topology *t) {
    json_t *node = json_array(), *type = json_array(), *types = json_array(), *o = json_object();
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        append(&node, whole(mp_topology_node(t, g)));
        append(&type, whole(t->gpus[g].type));
    }
    for (uint32_t i = 0; i < t->n_types; i++)
        append(&types, mp_json_text(t->types[i].name));
    put(&o, "node", node);
    put(&o, "type", type);
    put(&o, "types", types);
    return o;
}

json_t *report_result_json(const struct report *r, uint32_t plan) {
    const struct score *s = &r->scores[plan];
    json_t *o = mp_scored_json(&s->shown, score_steps(s, &r->s));
    if (o == NULL)
        return NULL;
    (void)json_object_del(o, "plan_seconds");
    put(&o, "kind", json_string(r->plans[plan].path == NULL ? "strategy" : "incumbent"));
    if (o != NULL && !score_change_json(o, s, r->scores[0].result)) {
        json_decref(o);
        return NULL;
    }
    if (s->plan != NULL && s->plan->homes.is_present && s->result != NULL)
        put(&o, "homes", score_homes_json(s));
    return o;
}

static json_t *comparison_json(const struct report *r) {
    json_t *results = json_array(), *o = json_object();
    for (uint32_t i = 0; i < r->n; i++)
        append(&results, report_result_json(r, i));
    put(&o, "baseline", json_integer(0));
    put(&o, "results", results);
    return o;
}

/* ---- one plan ---- */

/* Slots with an expert of each GPU in each layer. */
static json_t *hosts_json(const struct mp_plan *p) {
    double *n = mp_calloc((size_t)p->n_layers * p->n_gpus, sizeof *n);
    if (n == NULL)
        return NULL;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t k = p->gpu_first_slot[g]; k < p->gpu_first_slot[g + 1]; k++)
                n[(size_t)l * p->n_gpus + g] += p->layers[l].slot_expert[k] != MP_NO_EXPERT;
    json_t *o = packed(MP_PACK_U16, n, p->n_layers, p->n_gpus, 0, 0);
    mp_free(n);
    return o;
}

static json_t *load_json(const struct score *s, const struct report_detail *d) {
    const struct mp_sim_result *x = s->result;
    json_t *o = json_object();
    if (d->mean_rows == NULL) {
        json_decref(o);
        return json_null();
    }
    put(&o, "n_steps", whole(d->n_steps));
    put(&o, "mean_rows", packed(MP_PACK_U16, d->mean_rows, x->n_layers, x->n_gpus, 0, 0));
    put(&o, "max_rows", packed(MP_PACK_U16, d->max_rows, x->n_layers, x->n_gpus, 0, 0));
    put(&o, "max_over_mean", reals(x->layer_imbalance, x->n_layers, 1e4));
    return o;
}

/* Is the combine the dispatch transposed, times `factor`? */
static bool is_transpose(const struct report_detail *d, size_t n_layers, size_t n, double factor) {
    for (size_t l = 0; l < n_layers; l++)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                const double want = d->dispatch[(l * n + j) * n + i] * factor, is = d->combine[(l * n + i) * n + j];
                if (fabs(want - is) > 1e-9 * (want + is))
                    return false;
            }
    return true;
}

static json_t *traffic_json(const struct report *r, uint32_t plan) {
    const struct report_detail *d = &r->details[plan];
    const uint32_t n_layers = r->scores[plan].plan->n_layers, n = r->scores[plan].plan->n_gpus;
    const double factor = (double)r->s.model->combine_bytes / (double)r->s.model->dispatch_bytes;
    if (d->dispatch_sum == NULL)
        return json_null();
    const bool is_same = d->dispatch != NULL && is_transpose(d, n_layers, n, factor);
    json_t *o = json_object();
    put(&o, "n_steps", whole(d->n_steps));
    put(&o, "dispatch_bytes", d->dispatch != NULL ? packed(r->packing, d->dispatch, n_layers, n, n, 0) : json_null());
    put(&o, "combine_bytes",
        d->dispatch != NULL && !is_same ? packed(r->packing, d->combine, n_layers, n, n, 0) : json_null());
    put(&o, "combine_of_dispatch", is_same ? mp_json_finite(factor) : json_null());
    put(&o, "dispatch_sum_bytes", packed(MP_PACK_U16, d->dispatch_sum, n, n, 0, 0));
    put(&o, "combine_sum_bytes", packed(MP_PACK_U16, d->combine_sum, n, n, 0, 0));
    return o;
}

static json_t *timeline_json(const struct report *r, uint32_t plan) {
    const struct report_detail *d = &r->details[plan];
    const uint32_t n_layers = r->scores[plan].plan->n_layers, n = r->scores[plan].plan->n_gpus;
    json_t *o, *parts;
    if (d->bars == NULL)
        return json_null();
    o = json_object();
    parts = json_array();
    for (uint32_t l = 0; l < n_layers; l++)
        append(&parts, wholes(d->parts_ns + (size_t)l * PARTS, PARTS));
    put(&o, "step", whole(d->step));
    put(&o, "step_ns", whole(d->times.step_ns));
    put(&o, "reading", json_string(r->s.sim.is_pipelined ? "pipelined" : "barrier"));
    put(&o, "layer_start_ns", wholes(d->start_ns, n_layers));
    put(&o, "layer_length_ns", wholes(d->length_ns, n_layers));
    put(&o, "parts_ns", parts);
    put(&o, "bars_ns", packed(MP_PACK_U16, d->bars, n_layers, n, REPORT_KINDS, 2));
    put(&o, "send_bytes", packed(MP_PACK_U16, d->sent, n_layers, n, 2, 0));
    put(&o, "receive_bytes", packed(MP_PACK_U16, d->received, n_layers, n, 2, 0));
    return o;
}

static json_t *certificates_json(const struct mp_plan *p) {
    static const char *const kinds[] = {"order", "placement", "residual"};
    static const char *const proofs[] = {"closed-form", "search", "stopped"};
    json_t *list = json_array();
    for (uint32_t i = 0; p != NULL && i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        json_t *o = json_object();
        put(&o, "kind", json_string(kinds[c->kind]));
        put(&o, "proof", json_string(proofs[c->proof]));
        put(&o, "scope", mp_json_text(c->scope));
        put(&o, "value_ns", whole(c->value_ns));
        put(&o, "bound_ns", whole(c->bound_ns));
        put(&o, "gap", c->bound_ns > 0 ? mp_json_finite((double)c->value_ns / (double)c->bound_ns - 1) : json_null());
        append(&list, o);
    }
    return list;
}

static json_t *verified_json(const struct report_plan *p) {
    const struct mp_verify_report *v = p->verified;
    char text[1200];
    json_t *o = json_object(), *violations = json_array();
    for (uint32_t i = 0; v != NULL && i < v->n && i < 20; i++) {
        snprintf(text, sizeof text, "%s: %.1000s", mp_violation_name(v->violations[i].kind), v->violations[i].message);
        append(&violations, mp_json_text(text));
    }
    put(&o, "accepted", v == NULL ? json_null() : json_boolean(v->n == 0));
    put(&o, "with_data", json_boolean(v != NULL && v->has_data));
    put(&o, "checks", whole(v != NULL ? v->n_checks : 0));
    put(&o, "steps_simulated", whole(v != NULL ? v->n_steps_simulated : 0));
    put(&o, "violations", violations);
    put(&o, "note", text_or_null(p->why_not_verified));
    return o;
}

static json_t *plan_json(const struct report *r, uint32_t i) {
    const struct score *s = &r->scores[i];
    const struct mp_plan *p = s->plan;
    const struct mp_provenance *from = &p->provenance;
    const bool has_result = s->result != NULL;
    uint32_t filled = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < p->n_slots; k++)
            n += p->layers[l].slot_expert[k] != MP_NO_EXPERT;
        filled = n > filled ? n : filled;
    }
    json_t *o = json_object();
    put(&o, "name", mp_json_text(s->name));
    put(&o, "role", json_string(i == 0 ? "baseline" : "plan"));
    put(&o, "strategy", text_or_null(from->strategy));
    put(&o, "place", text_or_null(from->place));
    put(&o, "replicate", text_or_null(from->replicate));
    put(&o, "route", json_string(mp_route_rule_name(p->route)));
    put(&o, "order", text_or_null(from->order));
    put(&o, "n_slots", whole(p->n_slots));
    put(&o, "n_redundant", whole(filled > p->n_experts ? filled - p->n_experts : 0));
    put(&o, "hosts", hosts_json(p));
    put(&o, "layer_ns", has_result ? reals(s->result->layer_ns, s->result->n_layers, 1) : json_null());
    put(&o, "load", has_result ? load_json(s, &r->details[i]) : json_null());
    put(&o, "traffic", traffic_json(r, i));
    put(&o, "timeline", timeline_json(r, i));
    put(&o, "detail_note", text_or_null(r->details[i].why));
    put(&o, "certificates", certificates_json(r->plans[i].file));
    put(&o, "verified", verified_json(&r->plans[i]));
    return o;
}

/* ---- where it all comes from ---- */

static json_t *source_json(const char *name, const char *sha256, const char *key, const char *value) {
    json_t *o = json_object();
    put(&o, "name", mp_json_text(name));
    put(&o, "sha256", text_or_null(sha256));
    put(&o, key, text_or_null(value));
    return o;
}

static json_t *provenance_json(const struct report *r) {
    const struct setup *s = &r->s;
    json_t *o = json_object(), *command = json_array(), *plans = json_array();
    for (int i = 0; i < r->o->argc; i++)
        append(&command, mp_json_text(r->o->argv[i]));
    for (uint32_t i = 0; i < r->n; i++) {
        if (r->plans[i].path == NULL)
            continue;
        const struct mp_provenance *from = &r->scores[i].plan->provenance;
        json_t *one = source_json(r->scores[i].name, r->plans[i].sha256, "tool", from->tool);
        put(&one, "options", text_or_null(from->options));
        put(&one, "trace_sha256", text_or_null(from->trace_sha256));
        append(&plans, one);
    }
    put(&o, "command", command);
    put(&o, "seed", whole(r->o->seed));
    put(&o, "trace", source_json(r->args->value[1], s->trace->sha256, "format", s->trace->format));
    put(&o, "topology", source_json(s->topology->name, s->topology->sha256, "source", s->topology->source));
    put(&o, "model", source_json(s->model->name, s->model->sha256, "source", s->model->source));
    put(&o, "plans", plans);
    return o;
}

json_t *report_json(const struct report *r) {
    const struct mp_trace *t = r->s.trace;
    json_t *o = json_object(), *layers = json_array(), *plans = json_array();
    for (uint32_t l = 0; l < t->n_layers; l++)
        append(&layers, whole(t->layer_ids[l]));
    for (uint32_t i = 0; i < r->n; i++)
        append(&plans, plan_json(r, i));
    put(&o, "schema", json_string("moeplan.report"));
    put(&o, "version", json_integer(1));
    put(&o, "tool", json_string("moeplan " MOEPLAN_VERSION));
    put(&o, "verdict", verdict_json(r));
    put(&o, "subject", subject_json(r));
    put(&o, "layers", layers);
    put(&o, "gpus", gpus_json(r->s.topology));
    put(&o, "comparison", comparison_json(r));
    put(&o, "plans", plans);
    put(&o, "sweep", copy(r->sweep));
    put(&o, "drift", copy(r->drift));
    put(&o, "measured", copy(r->measured));
    put(&o, "limits", copy(r->limits));
    put(&o, "notes", copy(r->notes));
    put(&o, "provenance", provenance_json(r));
    return o;
}
