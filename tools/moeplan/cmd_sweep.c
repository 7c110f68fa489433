/* moeplan sweep: how a step, its balance and the room for KV cache change with redundant slots, batch, GPUs or nodes.
 *
 * Decides   nothing; every point is planned on one part of the recording and scored on the other, as `compare` does.
 * Method    points of one cluster and batch share their steps, so that those of an axis of redundant slots are paired:
 *           their differences to the first have an interval of their own. The knee is that of the time per token
 *           (src/report/knee.c). */
#include "score.h"
#include "sweep_axes.h"
#include "verb_json.h"
#include <moeplan/page.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define VISIBLE 0.0005 /* a gain that a table shows as more than 0.0 % */

struct point {
    uint64_t value[SWEEP_AXES];
    char topology[256];
    uint32_t n_gpus, batch; /* batch: 0 = steps are not decode */
    bool is_known;          /* it was planned and scored */
    char note[900];
    struct mp_step_times mean;
    struct mp_interval step_ns, against_first;
    double tokens; /* of a step */
    double max_over_mean, inter_bytes, remote_bytes;
    uint64_t p95_ns, moe_ns, memory_bytes, kv_tokens;
    double plan_seconds;
};
struct sweep {
    const struct opts *o;
    struct mp_progress_part *part;
    struct sweep_axes axes;
    struct setup base; /* recording and model; topology of the first cluster */
    struct point *points;
    uint32_t n, n_known;
    bool is_told;                                /* notes on the inputs were given */
    struct mp_batching batching;                 /* of the last steps; all steps are alike but for batch and ranks */
    const char *dispatcher, *sources, *timeline; /* of the same; NULL: there were none */
    char steps[1024];
    const char *no_interval;
};

static double per_token_ns(const struct point *p) { return (double)p->mean.step_ns / p->tokens; }
static bool has_kv_cache(const struct sweep *w) { return w->base.model->kv_bytes_per_token > 0; }

/* Requests that the GPUs' memory keeps, each with --context tokens; the fullest GPU decides for all. */
static uint64_t requests_of(const struct sweep *w, const struct point *p) {
    return p->kv_tokens / w->o->context * p->n_gpus;
}

static void keep(struct sweep *w, struct point *p, const struct setup *v, const struct score *s) {
    const struct mp_sim_result *r = s->result;
    p->is_known = true;
    p->n_gpus = v->topology->n_gpus;
    p->batch = v->batching.batch_per_rank;
    p->mean = r->mean;
    p->p95_ns = r->p95_ns;
    p->moe_ns = r->moe_ns;
    p->step_ns = s->shown.step_ns;
    p->against_first = s->against_base;
    p->tokens = (double)v->workload->n_rows / v->workload->n_steps;
    p->max_over_mean = r->balance.max_over_mean;
    p->inter_bytes = r->inter_bytes;
    p->remote_bytes = r->inter_bytes + r->intra_bytes;
    p->memory_bytes = r->memory_bytes_max;
    p->kv_tokens = r->kv_tokens_min;
    p->plan_seconds = s->shown.plan_seconds;
    if (s->shown.no_interval != NULL)
        w->no_interval = s->shown.no_interval;
    w->n_known++;
    uint64_t fits = requests_of(w, p) / p->n_gpus;
    if (has_kv_cache(w) && v->batching.batch_per_rank > fits)
        snprintf(p->note, sizeof p->note, "does not run: a GPU has room for %llu requests of %llu tokens, not for %u",
                 (unsigned long long)fits, (unsigned long long)w->o->context, v->batching.batch_per_rank);
}

/* COUNTS recordings do not say how many tokens a step had; each has top_k pairs. */
static void count_tokens(struct point *p, const struct setup *v) {
    if (v->trace->kind != MP_TRACE_COUNTS)
        return;
    uint64_t pairs = 0;
    uint32_t top_k = v->trace->top_k > 0 ? v->trace->top_k : v->model->top_k;
    for (uint32_t i = 0; i < v->workload->n_steps; i++)
        for (uint64_t part = 0; part < v->trace->n_sources; part++) {
            const uint64_t *from =
                v->trace->counts + ((uint64_t)v->workload->iterations[i] * v->trace->n_sources + part) *
                                       v->trace->n_layers * v->trace->n_experts;
            for (uint32_t e = 0; e < v->trace->n_experts; e++)
                pairs += from[e];
        }
    p->tokens = (double)pairs / top_k / v->workload->n_steps;
}

/* All redundancies on one cluster with one batch. `points`: one for each. A refusal by the input's numbers is these
 * points' alone. */
static enum mp_status run_group(struct sweep *w, struct point *points, struct score *scores, struct mp_error *err) {
    const struct sweep_axis *redundant = &w->axes.axis[SWEEP_REDUNDANT];
    struct opts own = *w->o;
    struct setup v = w->base;
    struct mp_error refused = {0};
    enum mp_status status = MP_OK;
    uint32_t first = MP_NONE;
    own.batch = points->value[SWEEP_BATCH];
    own.is_set[OPT_BATCH] = w->o->is_set[OPT_SWEEP_BATCH];
    own.quiet |= w->is_told;
    v.o = &own;
    v.topology = NULL;
    v.planning = v.scored = (struct mp_part){0};
    v.workload = NULL;
    MP_TRY(mp_topology_load(&v.topology, points->topology, &w->o->limits, err));
    MP_TRY(tool_batching(&v.batching, &own, v.trace, v.topology, err));
    v.sim = tool_sim_options(&own, v.trace, v.batching.phase);
    v.sim.with_bound = false;
    w->batching = v.batching;
    w->dispatcher = v.sim.dispatcher->name;
    w->sources = v.sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp";
    w->timeline = v.sim.is_pipelined ? "pipelined" : "barrier";
    status = setup_split(&v, own.split, &refused);
    w->is_told |= status == MP_OK;
    for (uint32_t i = 0; status == MP_OK && i < redundant->n; i++) {
        own.redundant = redundant->value[i];
        status = score_plan(&scores[i], &v, w->o->strategy, NULL, &refused);
        if (status == MP_EINPUT) { /* the part that is planned on does not fill a step */
            snprintf(scores[i].note, sizeof scores[i].note, "%.790s", refused.message);
            mp_error_clear(&refused);
            status = MP_OK;
        }
        mp_progress_add(w->part, 1);
        if (status == MP_OK && scores[i].plan != NULL && first == MP_NONE)
            first = i;
        if (status == MP_OK && scores[i].plan != NULL)
            tool_note(w->o, "%s, redundant %llu: planned in %.2f s", points->topology,
                      (unsigned long long)own.redundant, scores[i].shown.plan_seconds);
    }
    if (status == MP_EINPUT) {
        for (uint32_t i = 0; i < redundant->n; i++)
            snprintf(points[i].note, sizeof points[i].note, "%.890s", refused.message);
        status = MP_OK;
        goto out;
    }
    if (status != MP_OK) {
        *err = refused;
        goto out;
    }
    MP_TRY(score_all(scores, redundant->n, first, &v, (uint32_t)own.interval_groups, err));
    if (w->steps[0] == '\0')
        (void)score_describe(&v, w->steps, sizeof w->steps);
    for (uint32_t i = 0; i < redundant->n; i++) {
        if (scores[i].result != NULL) {
            keep(w, &points[i], &v, &scores[i]);
            count_tokens(&points[i], &v);
        } else {
            snprintf(points[i].note, sizeof points[i].note, "%.790s", scores[i].note);
        }
    }
out:
    for (uint32_t i = 0; i < redundant->n; i++)
        score_free(&scores[i]);
    mp_workload_free(v.workload);
    mp_part_free(&v.planning);
    mp_part_free(&v.scored);
    mp_topology_free(v.topology);
    return status;
}

static enum mp_status run_points(struct sweep *w, const char *topology, struct mp_error *err) {
    const struct sweep_axis *a = w->axes.axis;
    enum mp_status status = MP_OK;
    struct score *scores = mp_calloc(a[SWEEP_REDUNDANT].n, sizeof *scores);
    const uint64_t n = (uint64_t)a[SWEEP_REDUNDANT].n * a[SWEEP_BATCH].n * a[SWEEP_GPUS].n * a[SWEEP_NODES].n;
    w->points = mp_calloc(n, sizeof *w->points);
    w->part = mp_progress_begin(w->o->progress, "points", n, 0);
    if (scores == NULL || w->points == NULL) {
        status = mp_nomem(err, "sweep");
        goto out;
    }
    for (uint32_t nodes = 0; nodes < a[SWEEP_NODES].n; nodes++)
        for (uint32_t gpus = 0; gpus < a[SWEEP_GPUS].n; gpus++)
            for (uint32_t batch = 0; batch < a[SWEEP_BATCH].n; batch++) {
                struct point *group = &w->points[w->n];
                bool is_one = false;
                for (uint32_t r = 0; r < a[SWEEP_REDUNDANT].n; r++) {
                    struct point *p = &w->points[w->n++];
                    p->value[SWEEP_NODES] = a[SWEEP_NODES].value[nodes];
                    p->value[SWEEP_GPUS] = a[SWEEP_GPUS].value[gpus];
                    p->value[SWEEP_BATCH] = a[SWEEP_BATCH].value[batch];
                    p->value[SWEEP_REDUNDANT] = a[SWEEP_REDUNDANT].value[r];
                    MP_TRY(sweep_topology(p->topology, sizeof p->topology, &is_one, topology, p->value[SWEEP_GPUS],
                                          p->value[SWEEP_NODES], err));
                    if (!is_one) {
                        snprintf(p->note, sizeof p->note, "%s", p->topology);
                        p->topology[0] = '\0';
                    }
                }
                memset(scores, 0, a[SWEEP_REDUNDANT].n * sizeof *scores);
                if (is_one)
                    MP_TRY(run_group(w, group, scores, err));
            }
out:
    mp_progress_end(w->part);
    mp_free(scores);
    return status;
}

/* ---- what the curves say ---- */

/* The points of curve c in order; fills at[] and returns how many. */
static uint32_t curve_of(const struct sweep *w, uint32_t c, const struct point **at) {
    const struct sweep_axes *x = &w->axes;
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (x->family == SWEEP_AXES || w->points[i].value[x->family] == x->axis[x->family].value[c])
            at[n++] = &w->points[i];
    return n;
}
static uint32_t n_curves(const struct sweep *w) {
    return w->axes.family == SWEEP_AXES ? 1 : w->axes.axis[w->axes.family].n;
}

struct finding {
    struct mp_knee knee;
    const struct point *first, *at, *next; /* of the points that are known and run; next: behind the knee */
    bool is_noise;                         /* paired, and the knee's gain is no more than noise */
    char text[700];
};

static const char *curve_name(const struct sweep *w, uint32_t c, char buf[64]) {
    if (w->axes.family == SWEEP_AXES)
        snprintf(buf, 64, "--%s", w->axes.axis[w->axes.along].name);
    else
        snprintf(buf, 64, "--%s %llu", w->axes.axis[w->axes.family].name,
                 (unsigned long long)w->axes.axis[w->axes.family].value[c]);
    return buf;
}

/* "3.1 us of the step (0.30 %) for 1200 tokens of KV cache on every GPU" */
static void price_text(const struct sweep *w, const struct point *a, const struct point *b, char *buf, size_t size) {
    const enum sweep_axis_id k = w->axes.along;
    double units = (double)(b->value[k] - a->value[k]), ns = (per_token_ns(a) - per_token_ns(b)) / units;
    double share = 100 * ns / per_token_ns(a);
    char human[32];
    if (k != SWEEP_REDUNDANT) {
        snprintf(buf, size, "%s per token (%+.2f %%)", mp_human_ns(-ns, human), -share);
        return;
    }
    double kv = ((double)a->kv_tokens - (double)b->kv_tokens) / units;
    ns *= a->tokens;
    int n = snprintf(buf, size, "%s%s of the step (%.2f %%)", mp_human_ns(fabs(ns), human), ns < 0 ? " more" : "",
                     fabs(share));
    if (has_kv_cache(w) && n > 0 && (size_t)n < size)
        snprintf(buf + n, size - (size_t)n, " for %.0f tokens of KV cache on the fullest GPU", kv);
}

static void find(const struct sweep *w, uint32_t c, const struct point **at, struct finding *f) {
    const enum sweep_axis_id k = w->axes.along;
    double x[SWEEP_VALUES_MAX], y[SWEEP_VALUES_MAX];
    char up_to[200], beyond[200], name[64], human[32];
    uint32_t n = 0, all = curve_of(w, c, at);
    *f = (struct finding){.first = NULL};
    for (uint32_t i = 0; i < all; i++)
        if (at[i]->is_known && at[i]->note[0] == '\0') {
            x[n] = (double)at[i]->value[k];
            y[n] = per_token_ns(at[i]);
            at[n++] = at[i];
        }
    (void)curve_name(w, c, name);
    if (n < 2) {
        snprintf(f->text, sizeof f->text, "%s: %s can be run, so there is no curve", name,
                 n == 0 ? "no point" : "only one point");
        return;
    }
    f->knee = mp_knee_of(n, x, y);
    if (f->knee.kind != MP_KNEE_NONE && y[f->knee.at] > y[0] * (1 - VISIBLE))
        f->knee = (struct mp_knee){.kind = MP_KNEE_NONE};
    f->first = at[0];
    f->at = at[f->knee.at];
    f->next = f->knee.at + 1 < n ? at[f->knee.at + 1] : NULL;
    const struct mp_interval *gain = &f->at->against_first;
    f->is_noise = k == SWEEP_REDUNDANT && gain->is_known && gain->low <= 0 && gain->high >= 0;
    const char *what = k == SWEEP_REDUNDANT ? "steps" : "time per token", *is = k == SWEEP_REDUNDANT ? "are" : "is";
    if (f->knee.kind == MP_KNEE_NONE) {
        snprintf(f->text, sizeof f->text, "%s: no knee: %s %s nowhere shorter than at %s %llu, stay there", name, what,
                 is, w->axes.axis[k].name, (unsigned long long)f->first->value[k]);
        return;
    }
    price_text(w, f->first, f->at, up_to, sizeof up_to);
    double share = 100 * (1 - per_token_ns(f->at) / per_token_ns(f->first));
    int used =
        snprintf(f->text, sizeof f->text,
                 "%s: the knee is at %s %llu (step %s, %s %.1f %% shorter than at %llu); up to there one more %s", name,
                 w->axes.axis[k].name, (unsigned long long)f->at->value[k],
                 mp_human_ns((double)f->at->mean.step_ns, human), what, share, (unsigned long long)f->first->value[k],
                 k == SWEEP_REDUNDANT ? "replica in every layer buys" : "changes it by");
    size_t left = used > 0 && (size_t)used < sizeof f->text ? sizeof f->text - (size_t)used : 0;
    if (f->next != NULL) {
        price_text(w, f->at, f->next, beyond, sizeof beyond);
        used += snprintf(f->text + used, left, " %s, behind it %s", up_to, beyond);
    } else {
        used += snprintf(f->text + used, left, " %s; the sweep ends there", up_to);
    }
    left = (size_t)used < sizeof f->text ? sizeof f->text - (size_t)used : 0;
    if (f->is_noise && left > 0)
        snprintf(f->text + used, left, "; all of it within the noise (95 %% interval of the gain %.1f to %.1f %%)",
                 -100 * gain->high, -100 * gain->low);
}

/* ---- output ---- */

static const char *human_per_token(double ns, char *buf) { return mp_human_ns(ns, buf); }

static void put_row(struct mp_table *t, const struct sweep *w, const struct point *p) {
    char a[32];
    const bool is_paired = w->axes.along == SWEEP_REDUNDANT;
    for (int k = 0; k < SWEEP_AXES; k++)
        if (w->axes.axis[k].n > 1)
            mp_table_cell(t, "%llu", (unsigned long long)p->value[k]);
    if (!p->is_known) {
        for (int i = 0; i < 8 + 2 * is_paired + has_kv_cache(w) * 2; i++)
            mp_table_cell(t, "%s", i == 0 ? "-" : "");
        return;
    }
    mp_table_cell(t, "%s", mp_human_ns((double)p->mean.step_ns, a));
    if (p->step_ns.is_known)
        mp_table_cell(t, "%s", mp_human_ns((p->step_ns.high - p->step_ns.low) / 2, a));
    else
        mp_table_cell(t, "-");
    if (is_paired) {
        const struct point *first = p - (p - w->points) % w->axes.axis[SWEEP_REDUNDANT].n;
        while (!first->is_known)
            first++;
        bool is_first = first == p;
        if (is_first)
            mp_table_cell(t, "%s", "");
        else
            mp_table_cell(t, "%+.1f %%", 100 * ((double)p->mean.step_ns / (double)first->mean.step_ns - 1));
        if (is_first || !p->against_first.is_known)
            mp_table_cell(t, "%s", is_first ? "" : "-");
        else
            mp_table_cell(t, "%+.1f .. %+.1f", 100 * p->against_first.low, 100 * p->against_first.high);
    }
    mp_table_cell(t, "%s", mp_human_ns(per_token_ns(p), a));
    mp_table_cell(t, "%.1f %%", 100 * (double)p->moe_ns / (double)p->mean.step_ns);
    mp_table_cell(t, "%.2f", p->max_over_mean);
    mp_table_cell(t, "%s", mp_human_bytes(p->remote_bytes, a));
    mp_table_cell(t, "%s", mp_human_bytes(p->inter_bytes, a));
    mp_table_cell(t, "%s", mp_human_bytes((double)p->memory_bytes, a));
    if (has_kv_cache(w)) {
        mp_table_cell(t, "%llu", (unsigned long long)p->kv_tokens);
        mp_table_cell(t, "%llu%s", (unsigned long long)requests_of(w, p), p->note[0] != '\0' ? "!" : "");
    }
}

static void put_plot(const struct sweep *w, const struct point **at, struct mp_out *o) {
    struct mp_curve curves[SWEEP_VALUES_MAX];
    const uint32_t n = n_curves(w);
    char names[SWEEP_VALUES_MAX][64];
    double *xy = mp_calloc(2 * (size_t)w->n, sizeof *xy);
    if (xy == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: plot");
        return;
    }
    for (uint32_t c = 0, used = 0; c < n; c++) {
        uint32_t n_points = curve_of(w, c, at);
        double *x = xy + used, *y = xy + w->n + used;
        for (uint32_t i = 0; i < n_points; i++) {
            x[i] = (double)at[i]->value[w->axes.along];
            y[i] = !at[i]->is_known                   ? NAN
                   : w->axes.along == SWEEP_REDUNDANT ? (double)at[i]->mean.step_ns
                                                      : per_token_ns(at[i]);
        }
        used += n_points;
        curves[c] = (struct mp_curve){curve_name(w, c, names[c]), n_points, x, y};
    }
    mp_out_printf(o, "\n%s (the scale begins at the least)\n",
                  w->axes.along == SWEEP_REDUNDANT ? "mean step" : "mean step per token");
    mp_plot_write(curves, n, w->axes.axis[w->axes.along].name, human_per_token, o);
    mp_free(xy);
}

static void write_text(const struct sweep *w, const struct point **at, struct mp_out *o) {
    struct mp_table *t = mp_table_new();
    struct finding f;
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: table");
        return;
    }
    mp_out_printf(o, "%s, strategy %s%s%s\n", w->base.model->name, w->o->strategy,
                  w->base.trace->is_synthetic ? "; SYNTHETIC recording" : "",
                  w->axes.along == SWEEP_REDUNDANT ? "" : "; step times of different points are of different steps");
    if (w->steps[0] != '\0')
        mp_out_printf(o, "%s%s\n",
                      n_curves(w) * w->axes.axis[SWEEP_REDUNDANT].n == w->n ? "" : "first point: ", w->steps);
    mp_out_puts(o, "\n");
    for (int k = 0; k < SWEEP_AXES; k++)
        if (w->axes.axis[k].n > 1)
            mp_table_column(t, w->axes.axis[k].name, true);
    static const char *const steps[] = {"step", "+- (95 %)"}, *const paired[] = {"vs first", "95 % interval"},
                             *const costs[] = {"per token", "MoE share", "max/mean", "remote", "inter-node", "weights"},
                             *const cache[] = {"KV tokens", "requests"};
    mp_table_columns(t, steps, 2, "04", 0);
    mp_table_columns(t, paired, w->axes.along == SWEEP_REDUNDANT ? 2 : 0, "03", 0);
    mp_table_columns(t, costs, 6, "685972", 0);
    mp_table_columns(t, cache, has_kv_cache(w) ? 2 : 0, "21", 0);
    for (uint32_t i = 0; i < w->n; i++)
        put_row(t, w, &w->points[i]);
    mp_table_show(t, w->o->style, o);
    mp_table_free(t);
    for (uint32_t i = 0; i < w->n; i++) {
        const struct point *p = &w->points[i];
        if (p->note[0] == '\0')
            continue;
        mp_out_puts(o, p->is_known ? "! " : "- ");
        bool is_next = false;
        for (int k = 0; k < SWEEP_AXES; k++)
            if (w->axes.axis[k].n > 1) {
                mp_out_printf(o, "%s%s %llu", is_next ? ", " : "", w->axes.axis[k].name,
                              (unsigned long long)p->value[k]);
                is_next = true;
            }
        mp_out_printf(o, ": %s\n", p->note);
    }
    if (w->no_interval != NULL)
        mp_out_printf(o, "no interval: %s\n", w->no_interval);
    if (has_kv_cache(w))
        mp_out_printf(o, "requests: that the memory beside the weights keeps, %llu tokens each (--context)\n",
                      (unsigned long long)w->o->context);
    if (w->n_known > 0)
        put_plot(w, at, o);
    mp_out_puts(o, "\n");
    for (uint32_t c = 0; c < n_curves(w); c++) {
        find(w, c, at, &f);
        mp_out_printf(o, "%s\n", f.text);
    }
}

static json_t *point_json(const struct sweep *w, const struct point *p) {
    json_t *at = json_object();
    for (int k = 0; k < SWEEP_AXES; k++)
        if (w->axes.axis[k].is_given)
            (void)json_object_set_new(at, w->axes.axis[k].name, json_integer((json_int_t)p->value[k]));
    json_t *note = p->note[0] != '\0' ? json_string(p->note) : json_null();
    json_t *batch = p->batch > 0 ? json_integer((json_int_t)p->batch) : json_null();
    if (!p->is_known)
        return json_pack("{s:o,s:I,s:o,s:s,s:b,s:o}", "at", at, "redundant", (json_int_t)p->value[SWEEP_REDUNDANT],
                         "batch", batch, "topology", p->topology, "feasible", 0, "note", note);
    const bool is_cached = has_kv_cache(w);
    return json_pack(
        "{s:o,s:I,s:o,s:s,s:b,s:o,s:i,s:{s:I,s:I},s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:o,s:{s:o,s:o},s:o,s:I,s:o,s:o}",
        "at", at, "redundant", (json_int_t)p->value[SWEEP_REDUNDANT], "batch", batch, "topology", p->topology,
        "feasible", 1, "note", note, "n_gpus", (int)p->n_gpus, "step_time_ns", "mean", (json_int_t)p->mean.step_ns,
        "p95", (json_int_t)p->p95_ns, "step_time_interval_ns", mp_interval_json(&p->step_ns), "change_interval",
        mp_interval_json(&p->against_first), "tokens_per_step", mp_json_finite(p->tokens), "ns_per_token",
        mp_json_finite(per_token_ns(p)), "moe_ns", (json_int_t)p->moe_ns, "dispatch_ns",
        (json_int_t)p->mean.dispatch_ns, "compute_ns", (json_int_t)p->mean.compute_ns, "combine_ns",
        (json_int_t)p->mean.combine_ns, "moe_share", mp_json_finite((double)p->moe_ns / (double)p->mean.step_ns),
        "bytes", "remote", mp_json_finite(p->remote_bytes), "inter_node", mp_json_finite(p->inter_bytes),
        "max_over_mean", mp_json_finite(p->max_over_mean), "memory_bytes_max", (json_int_t)p->memory_bytes,
        "kv_tokens_min", is_cached ? json_integer((json_int_t)p->kv_tokens) : json_null(), "requests_max",
        is_cached ? json_integer((json_int_t)requests_of(w, p)) : json_null());
}

static json_t *curve_json(const struct sweep *w, uint32_t c, const struct point **at) {
    static const char *const kinds[] = {"none", "bend", "end"};
    struct finding f;
    json_t *of = json_object();
    find(w, c, at, &f);
    if (w->axes.family != SWEEP_AXES)
        (void)json_object_set_new(of, w->axes.axis[w->axes.family].name,
                                  json_integer((json_int_t)w->axes.axis[w->axes.family].value[c]));
    return json_pack("{s:o,s:s,s:o,s:b,s:s}", "of", of, "knee", kinds[f.knee.kind], "at",
                     f.knee.kind != MP_KNEE_NONE ? json_integer((json_int_t)f.at->value[w->axes.along]) : json_null(),
                     "within_noise", (int)f.is_noise, "verdict", f.text);
}

static json_t *sweep_json(const struct sweep *w, const struct point **at) {
    json_t *points = json_array(), *curves = json_array();
    for (uint32_t i = 0; i < w->n; i++)
        (void)json_array_append_new(points, point_json(w, &w->points[i]));
    for (uint32_t c = 0; c < n_curves(w); c++)
        (void)json_array_append_new(curves, curve_json(w, c, at));
    if (json_array_size(points) != w->n || json_array_size(curves) != n_curves(w)) { /* memory ran out on the way */
        json_decref(points);
        json_decref(curves);
        return NULL;
    }
    const bool has_tokens = w->dispatcher != NULL && w->batching.phase != MP_PHASE_DECODE;
    return json_pack(
        "{s:s,s:i,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:s,s:s,s:s,s:I,s:b,s:I,s:s,s:o,s:o,s:o}", "schema", "moeplan.sweep",
        "version", 1, "model", w->base.model->name, "trace_sha256", mp_json_text(w->base.trace->sha256), "phase",
        mp_json_text(w->dispatcher != NULL ? mp_phase_name(w->batching.phase) : NULL), "tokens_per_rank",
        has_tokens ? json_integer((json_int_t)w->batching.tokens_per_rank) : json_null(), "dispatcher",
        mp_json_text(w->dispatcher), "sources", mp_json_text(w->sources), "timeline", mp_json_text(w->timeline),
        "strategy", w->o->strategy, "split", w->o->split, "evaluated_on",
        strcmp(w->o->split, "none") == 0 ? "planning data" : "held-out", "context", (json_int_t)w->o->context,
        "synthetic", (int)w->base.trace->is_synthetic, "seed", (json_int_t)w->o->seed, "along",
        w->axes.axis[w->axes.along].name, "interval_note",
        w->no_interval != NULL ? json_string(w->no_interval) : json_null(), "points", points, "curves", curves);
}

/* Plans and scores every point. *at: room for the points of a curve. */
static enum mp_status run(struct sweep *w, const struct point ***at, const char *trace, const char *topology,
                          struct mp_error *err) {
    struct mp_split split;
    struct mp_part a = {0}, b = {0};
    enum mp_status status = sweep_axes_of(&w->axes, w->o, err);
    if (status != MP_OK)
        return status;
    MP_TRY(setup_load(&w->base, w->o, trace, topology, err));
    /* What is wrong with the split is wrong with every point. */
    MP_TRY(mp_split_parse(&split, w->o->split, w->o->seed, err));
    MP_TRY(mp_part_split(&a, &b, w->base.trace, &split, err));
    MP_TRY(run_points(w, topology, err));
    *at = mp_calloc(w->n, sizeof **at);
    if (*at == NULL)
        status = mp_nomem(err, "sweep");
out:
    mp_part_free(&a);
    mp_part_free(&b);
    return status;
}

static void free_sweep(struct sweep *w, const struct point **at) {
    mp_free(at);
    mp_free(w->points);
    setup_free(&w->base);
}

enum mp_status sweep_object(json_t **out, bool *any, const struct opts *o, const char *trace, const char *topology,
                            struct mp_error *err) {
    struct sweep w = {.o = o};
    const struct point **at = NULL;
    *out = NULL;
    enum mp_status status = run(&w, &at, trace, topology, err);
    if (status == MP_OK) {
        *any = w.n_known > 0;
        *out = sweep_json(&w, at);
        if (*out == NULL)
            status = mp_nomem(err, "sweep");
    }
    free_sweep(&w, at);
    return status;
}

enum mp_status cmd_sweep(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct sweep w = {.o = o};
    struct mp_out *out = NULL;
    const struct point **at = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(run(&w, &at, args->value[0], args->value[1], err));
    if (w.n_known == 0)
        *exit_code = 1;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json) {
        json_t *root = sweep_json(&w, at);
        mp_json_write(root, out);
        json_decref(root);
    } else {
        write_text(&w, at, out);
    }
    status = tool_close_result(out, o, err);
out:
    free_sweep(&w, at);
    return status;
}
