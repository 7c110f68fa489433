/* The result object of `compare --json` and `simulate --json` (DESIGN.md part 6). */
#include <math.h>
#include <moeplan/report.h>
#include <stdio.h>

/* JSON has no infinity and no NaN: such a figure is null. */
json_t *mp_json_finite(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *whole(uint64_t v) { return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v); }

static bool put(json_t *object, const char *key, json_t *value) {
    /* json_object_set_new refuses NULL and then owns nothing. */
    return json_object_set_new(object, key, value) == 0;
}

/* Half-open parts of an object: on any failure the whole object goes. */
static json_t *times_json(const struct mp_sim_result *r) {
    return json_pack("{s:I,s:I,s:I,s:I}", "mean", (json_int_t)r->mean.step_ns, "p50", (json_int_t)r->p50_ns, "p95",
                     (json_int_t)r->p95_ns, "max", (json_int_t)r->max_ns);
}

static json_t *imbalance_json(const struct mp_balance *b) {
    json_t *o = json_object();
    bool ok = o != NULL && put(o, "max_over_mean", mp_json_finite(b->max_over_mean)) &&
              put(o, "mean_over_max", mp_json_finite(b->mean_over_max)) &&
              put(o, "max_over_mean_worst", mp_json_finite(b->max_over_mean_worst)) &&
              put(o, "sum_mean_over_sum_max", mp_json_finite(b->sum_mean_over_sum_max)) &&
              put(o, "excess", mp_json_finite(b->excess)) && put(o, "flashlb", mp_json_finite(b->flashlb)) &&
              put(o, "min_over_max_slot", mp_json_finite(b->min_over_max_slot)) &&
              put(o, "totals_max_over_mean", mp_json_finite(b->totals_max_over_mean));
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *bytes_json(const struct mp_sim_result *r) {
    json_t *o = json_object();
    if (o == NULL || !put(o, "intra_node", mp_json_finite(r->intra_bytes)) ||
        !put(o, "inter_node", mp_json_finite(r->inter_bytes))) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *copies_json(const struct mp_sim_result *r) {
    json_t *o = json_object();
    if (o == NULL || !put(o, "per_expert", mp_json_finite(r->copies_expert)) ||
        !put(o, "per_gpu", mp_json_finite(r->copies_gpu)) || !put(o, "per_node", mp_json_finite(r->copies_node))) {
        json_decref(o);
        return NULL;
    }
    return o;
}

json_t *mp_interval_json(const struct mp_interval *i) {
    if (!i->is_known)
        return json_null();
    json_t *o = json_object();
    if (o == NULL || !put(o, "low", mp_json_finite(i->low)) || !put(o, "high", mp_json_finite(i->high))) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static bool put_result(json_t *o, const struct mp_scored *s) {
    const struct mp_sim_result *r = s->result;
    bool has_bound = r->lower_bound_ns > 0;
    return put(o, "step_time_ns", times_json(r)) && put(o, "step_time_interval_ns", mp_interval_json(&s->step_ns)) &&
           put(o, "dispatch_ns", whole(r->mean.dispatch_ns)) && put(o, "compute_ns", whole(r->mean.compute_ns)) &&
           put(o, "combine_ns", whole(r->mean.combine_ns)) && put(o, "other_ns", whole(r->mean.other_ns)) &&
           put(o, "moe_ns", whole(r->moe_ns)) && put(o, "bytes", bytes_json(r)) && put(o, "copies", copies_json(r)) &&
           put(o, "imbalance", imbalance_json(&r->balance)) && put(o, "utilization", mp_json_finite(r->utilization)) &&
           put(o, "port_bound_ns", mp_json_finite(r->port_bound_ns)) &&
           put(o, "lower_bound_ns", has_bound ? whole(r->lower_bound_ns) : json_null()) &&
           put(o, "gap", has_bound ? mp_json_finite(r->gap) : json_null()) &&
           put(o, "memory_bytes_max", whole(r->memory_bytes_max)) &&
           put(o, "kv_tokens_min", s->is_without_kv_cache ? json_null() : whole(r->kv_tokens_min));
}

/* The same keys for a strategy that gave no plan. */
static bool put_nothing(json_t *o) {
    static const char *const keys[] = {"step_time_ns",     "step_time_interval_ns",
                                       "dispatch_ns",      "compute_ns",
                                       "combine_ns",       "other_ns",
                                       "moe_ns",           "bytes",
                                       "copies",           "imbalance",
                                       "utilization",      "port_bound_ns",
                                       "lower_bound_ns",   "gap",
                                       "memory_bytes_max", "kv_tokens_min"};
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof keys / sizeof *keys; i++)
        ok = put(o, keys[i], json_null());
    return ok;
}

json_t *mp_scored_json(const struct mp_scored *s, const struct mp_workload *w) {
    json_t *o = json_object();
    bool ok = o != NULL && put(o, "strategy", json_string(s->strategy)) &&
              put(o, "note", s->note != NULL ? json_string(s->note) : json_null()) &&
              put(o, "evaluated_on", json_string(s->evaluated_on)) &&
              put(o, "plan_seconds", mp_json_finite(s->plan_seconds)) &&
              put(o, "interval_note", s->no_interval != NULL ? json_string(s->no_interval) : json_null()) &&
              put(o, "route", s->plan != NULL ? json_string(mp_route_rule_name(s->plan->route)) : json_null()) &&
              (s->result != NULL ? put_result(o, s) : put_nothing(o));
    if (ok && w != NULL)
        ok = put(o, "steps", json_string(w->is_bootstrap ? "bootstrap" : "recorded")) &&
             put(o, "n_steps", whole(s->result != NULL ? s->result->n_steps : w->n_steps)) &&
             put(o, "n_requests", whole(w->n_requests)) && put(o, "n_rows", whole(w->n_rows));
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static int write_chunk(const char *data, size_t n, void *out) {
    mp_out_write(out, data, n);
    return 0;
}

void mp_json_write(const json_t *value, struct mp_out *o) {
    if (value == NULL || json_dump_callback(value, write_chunk, o, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) != 0)
        mp_out_fail(o, MP_ENOMEM, "out of memory: JSON");
    mp_out_puts(o, "\n");
}
