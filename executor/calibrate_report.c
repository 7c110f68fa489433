/* What a calibration found: a topology file with comments, a table, an object. */
#include <moeplan/calibrate.h>
#include <moeplan/report.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The value as people read it, and what the topology said. */
static const char *value_text(const struct mp_fit *f, char buf[160]) {
    char one[32], two[32];
    if (!f->is_known)
        return "-";
    switch (f->kind) {
    case MP_FIT_RATE:
    case MP_FIT_PAIR:
        snprintf(buf, 160, "%s/s (%.2f %% of the nominal rate)", mp_human_bytes(f->value, one),
                 f->nominal > 0 ? f->value / (double)f->nominal * 100 : 0);
        break;
    case MP_FIT_LAUNCH:
    case MP_FIT_STAGE:
        snprintf(buf, 160, "%s (nominal %s)", mp_human_ns(f->value, one), mp_human_ns((double)f->nominal, two));
        break;
    case MP_FIT_INCAST:
        snprintf(buf, 160, "%.1f %% with the most senders", f->value * 100);
        break;
    default:
        snprintf(buf, 160, "max(%.0f ns + %.0f ns x experts, %.0f ns + %.3f ns x rows)", f->a, f->b, f->c, f->beta);
    }
    return buf;
}

void mp_calibration_write_topology(const struct mp_calibration *c, struct mp_out *o) {
    char buf[160];
    mp_out_printf(o,
                  "# moeplan-exec --calibrate: transport %s, %u ranks, stages %s, least of %u runs; residual: root of "
                  "the mean square of fitted / measured - 1.\n",
                  c->transport, c->n_ranks, mp_stage_mode_name(c->stage_mode), c->n_iterations);
    for (size_t i = 0; i < c->n_fits; i++) {
        const struct mp_fit *f = &c->fits[i];
        mp_out_printf(o, "# %s: %s", f->what, value_text(f, buf));
        if (f->is_known)
            mp_out_printf(o, ", residual %.2f %% of %zu points", f->residual * 100, f->n_points);
        if (f->note[0] != '\0')
            mp_out_printf(o, "; %s%s", f->is_bad ? "BAD: " : "", f->note);
        mp_out_puts(o, "\n");
    }
    mp_topology_write(&c->topology, o);
}

void mp_calibration_write_text(const struct mp_calibration *c, const struct mp_style *style, struct mp_out *o) {
    static const char *const columns[] = {"figure", "fitted", "residual", "points", "note"};
    struct mp_table *t = mp_table_new();
    char buf[160];
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        return;
    }
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        mp_table_column(t, columns[i], i == 2 || i == 3);
    for (size_t i = 0; i < c->n_fits; i++) {
        const struct mp_fit *f = &c->fits[i];
        mp_table_cell(t, "%s", f->what);
        mp_table_cell(t, "%s", value_text(f, buf));
        if (f->is_known)
            mp_table_cell(t, "%.2f %%", f->residual * 100);
        else
            mp_table_cell(t, "-");
        mp_table_cell(t, "%zu", f->n_points);
        mp_table_cell(t, "%s%s", f->is_bad ? "BAD: " : "", f->note);
    }
    mp_table_show(t, style, o);
    mp_table_free(t);
    mp_out_printf(o, "launch %llu ns, stage %llu ns", (unsigned long long)c->topology.launch_ns,
                  (unsigned long long)c->topology.stage_launch_ns);
    for (uint32_t l = 0; l < c->topology.n_levels; l++)
        mp_out_printf(o, ", latency of %s %llu ns", c->topology.levels[l].name,
                      (unsigned long long)c->topology.levels[l].latency_ns);
    mp_out_printf(o, "\n%zu of %zu fits are bad\n", c->n_bad, c->n_fits);
}

/* ---- JSON ---- */

static json_t *points_of(const struct mp_fit *f) {
    json_t *all = json_array();
    for (size_t i = 0; i < f->n_points; i++) {
        const struct mp_fit_point *p = &f->points[i];
        json_t *one = f->kind == MP_FIT_COMPUTE ? json_pack("{s:I,s:I}", "experts", (json_int_t)(p->x / 4294967296.0),
                                                            "rows", (json_int_t)fmod(p->x, 4294967296.0))
                                                : json_pack("{s:I}",
                                                            f->kind == MP_FIT_STAGE    ? "stages"
                                                            : f->kind == MP_FIT_INCAST ? "senders"
                                                                                       : "bytes",
                                                            (json_int_t)p->x);
        (void)json_object_set_new(one, "measured_ns", json_integer((json_int_t)p->measured_ns));
        (void)json_object_set_new(one, "fitted_ns", json_integer((json_int_t)llround(p->fitted_ns)));
        (void)json_array_append_new(all, one);
    }
    return all;
}

/* A millionth is kept: what is printed does not depend on the last bits of a sum. */
static json_t *rounded(double x) { return json_real(round(x * 1e6) / 1e6); }

static json_t *fit_of(const struct mp_calibration *c, const struct mp_fit *f) {
    json_t *o = json_pack("{s:s,s:s,s:b,s:b,s:s}", "kind", mp_fit_kind_name(f->kind), "what", f->what, "known",
                          f->is_known, "bad", f->is_bad, "note", f->note);
    const bool is_rate = f->kind == MP_FIT_RATE || f->kind == MP_FIT_PAIR;
    if (f->level != MP_NONE)
        (void)json_object_set_new(o, "level", json_string(c->topology.levels[f->level].name));
    if (f->type != MP_NONE)
        (void)json_object_set_new(o, "type", json_string(c->topology.types[f->type].name));
    if (f->nominal > 0)
        (void)json_object_set_new(o, is_rate ? "nominal_bytes_per_s" : "nominal_ns",
                                  json_integer((json_int_t)f->nominal));
    if (f->is_known) {
        (void)json_object_set_new(o, "residual", rounded(f->residual));
        if (f->kind == MP_FIT_COMPUTE)
            (void)json_object_set_new(o, "coefficients_ps",
                                      json_pack("{s:I,s:I,s:I,s:I}", "a", (json_int_t)llround(f->a * 1000), "b",
                                                (json_int_t)llround(f->b * 1000), "c", (json_int_t)llround(f->c * 1000),
                                                "beta", (json_int_t)llround(f->beta * 1000)));
        else if (f->kind == MP_FIT_INCAST)
            (void)json_object_set_new(o, "least_factor", rounded(f->value));
        else
            (void)json_object_set_new(o, is_rate ? "bytes_per_s" : "ns", json_integer((json_int_t)llround(f->value)));
        if (f->error > 0)
            (void)json_object_set_new(o, "standard_error", rounded(f->error));
    }
    (void)json_object_set_new(o, "points", points_of(f));
    return o;
}

void mp_calibration_write_json(const struct mp_calibration *c, struct mp_out *o) {
    json_t *fits = json_array(), *latencies = json_object();
    for (size_t i = 0; i < c->n_fits; i++)
        (void)json_array_append_new(fits, fit_of(c, &c->fits[i]));
    for (uint32_t l = 0; l < c->topology.n_levels; l++)
        (void)json_object_set_new(latencies, c->topology.levels[l].name,
                                  json_integer((json_int_t)c->topology.levels[l].latency_ns));
    json_t *root = json_pack("{s:s,s:i,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:o,s:o}", "schema", "moeplan.calibration",
                             "version", 1, "transport", c->transport, "topology", c->topology.name, "stage_mode",
                             mp_stage_mode_name(c->stage_mode), "ranks", (json_int_t)c->n_ranks, "iterations",
                             (json_int_t)c->n_iterations, "bad_fits", (json_int_t)c->n_bad, "launch_ns",
                             (json_int_t)c->topology.launch_ns, "stage_launch_ns",
                             (json_int_t)c->topology.stage_launch_ns, "latency_ns", latencies, "fits", fits);
    mp_json_write(root, o);
    json_decref(root);
}
