/* moeplan check: is a plan still good for what the model is asked now?
 *
 * Decides   whether planning again is worth it.
 * Method    drift: the distance of the experts' shares from those that the plan carries, against the noise of samples
 *           (src/workload/drift.c). Steps: a new plan by the same strategies from the first half of the new recording,
 *           and the old one, are scored on the same steps of the other half; worth it when the whole 95 % interval of
 *           the gain is above --threshold. Ceiling: the bound for a plan of every single step (docs/BOUNDS.md 2.4). */
#include "score.h"
#include "verb_json.h"
#include "terminal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum check_answer { CHECK_GOOD, CHECK_STALE, CHECK_UNKNOWN, CHECK_DRIFT_ONLY };
enum { SHOWN_LAYERS = 5, THRESHOLD_PPM = 10000 };

struct check {
    const struct opts *o;
    struct opts own; /* with the plan's slots */
    struct setup s;
    struct score scores[2]; /* old, new */
    struct mp_drift *drift;
    char no_drift[200], no_steps[400], verdict[1000];
    enum check_answer answer;
    double change;
    bool is_own_recording;
};
enum { OLD, NEW };

/* The plan's layer of each of the recording's, or NULL. */
static const struct mp_plan_layer *layer_of(const struct mp_plan *p, uint32_t id) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (p->layers[l].layer_id == id)
            return &p->layers[l];
    return NULL;
}

static enum mp_status measure_drift(struct check *c, const struct mp_plan *p, const char *path, struct mp_error *err) {
    const struct mp_trace *t = c->s.trace;
    struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_part all = {0}, same = {0};
    enum mp_status status = MP_OK;
    if (p->n_experts != t->n_experts)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "places %u experts, the recording has %u (give a recording of the same model)", p->n_experts,
                          t->n_experts);
    const uint64_t **before = mp_calloc(t->n_layers, sizeof *before);
    if (before == NULL)
        return mp_nomem(err, "drift");
    for (uint32_t l = 0; l < t->n_layers && c->no_drift[0] == '\0'; l++) {
        const struct mp_plan_layer *layer = layer_of(p, t->layer_ids[l]);
        if (layer == NULL) {
            status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                                "has no layer %u, which the recording has (its first is %u; --layer-base says which "
                                "layer its first row is)",
                                t->layer_ids[l], p->n_layers > 0 ? p->layers[0].layer_id : 0);
            goto out;
        }
        before[l] = layer->expert_rows;
        if (layer->expert_rows == NULL)
            snprintf(c->no_drift, sizeof c->no_drift, "%s",
                     p->provenance.has_workload
                         ? "the plan was written by an earlier version, without the experts' rows"
                         : "the file does not say what it was made from");
    }
    if (c->no_drift[0] != '\0')
        goto out;
    MP_TRY(mp_part_split(&all, &same, t, &none, err));
    MP_TRY(mp_drift_measure(&c->drift, &all, before, c->o->seed, tool_threads(c->o), err));
out:
    mp_part_free(&all);
    mp_part_free(&same);
    mp_free(before);
    return status;
}

/* As many slots, and copies beyond one per expert, as the plan has. */
static void take_slots(struct check *c, const struct mp_plan *p) {
    uint32_t filled_max = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n = 0;
        for (uint32_t s = 0; s < p->n_slots; s++)
            n += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
        filled_max = n > filled_max ? n : filled_max;
    }
    c->own.redundant = filled_max > p->n_experts ? filled_max - p->n_experts : 0;
    c->own.slots_per_gpu = p->gpu_first_slot[1];
    for (uint32_t g = 1; g < p->n_gpus; g++)
        if (p->gpu_first_slot[g + 1] - p->gpu_first_slot[g] != c->own.slots_per_gpu)
            c->own.slots_per_gpu = 0; /* memory gave them unevenly, and will do so again */
}

static enum mp_status compare_steps(struct check *c, const char *path, struct mp_error *err) {
    struct mp_plan *p = c->scores[OLD].plan;
    struct mp_error refused = {0};
    enum mp_status status = MP_OK;
    const bool has_stages = p->provenance.has_workload && mp_strategy_find(MP_PLAN_PLACE, p->provenance.place) != NULL;
    if (p->n_colocations > 0 || p->together.is_present)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0,
                          "is one of two plans that were made together (compare both with "
                          "moeplan compare --colocate)");
    take_slots(c, p);
    status = setup_as_planned(&c->s, p, &refused);
    if (status == MP_EINPUT) { /* the recording does not fill the plan's steps: drift can be told all the same */
        snprintf(c->no_steps, sizeof c->no_steps, "%.390s", refused.message);
        return MP_OK;
    }
    if (status != MP_OK) {
        *err = refused;
        return status;
    }
    c->s.sim.with_bound = true;
    c->is_own_recording = strcmp(c->s.evaluated_on, "planning data") == 0;
    if (c->o->strategy == NULL && has_stages)
        MP_TRY(score_like(&c->scores[NEW], &c->s, p, err));
    else
        MP_TRY(score_plan(&c->scores[NEW], &c->s, c->o->strategy != NULL ? c->o->strategy : "auto", NULL, err));
    if (c->scores[NEW].plan == NULL) {
        snprintf(c->no_steps, sizeof c->no_steps, "no new plan can be made: %.300s", c->scores[NEW].note);
        return MP_OK;
    }
    MP_TRY(score_all(c->scores, 2, OLD, &c->s, (uint32_t)c->o->interval_groups, err));
    c->change = (double)c->scores[NEW].result->mean.step_ns / (double)c->scores[OLD].result->mean.step_ns - 1;
out:
    return status;
}

static double ceiling_of(const struct check *c) {
    const struct mp_sim_result *r = c->scores[OLD].result;
    return r->residual_ns > 0 ? 1 - (double)r->residual_ns / (double)r->mean.step_ns : 0;
}

static void judge(struct check *c) {
    char drift[240], range[120] = "no interval";
    const struct mp_drift *d = c->drift;
    const struct mp_interval *i = &c->scores[NEW].against_base;
    const double gain = -100 * c->change, threshold = (double)c->own.threshold_ppm / 1e6;
    const bool has_moved = d != NULL && d->has_noise && d->mean > d->mean_noise;
    if (d == NULL)
        snprintf(drift, sizeof drift, "drift unknown: %s", c->no_drift);
    else if (!d->has_noise)
        snprintf(drift, sizeof drift, "%.1f %% of the pairs use other experts (too few requests to tell the noise)",
                 100 * d->mean);
    else
        snprintf(drift, sizeof drift, "%.1f %% of the pairs use other experts, %s (%.1f %%)", 100 * d->mean,
                 has_moved ? "more than noise" : "no more than noise", 100 * d->mean_noise);
    if (c->scores[NEW].result == NULL) {
        c->answer = c->no_steps[0] != '\0' ? CHECK_UNKNOWN : CHECK_DRIFT_ONLY;
        snprintf(c->verdict, sizeof c->verdict, "%s: %s%s%s",
                 c->answer == CHECK_UNKNOWN ? "cannot tell"
                 : has_moved                ? "the traffic has moved"
                                            : "nothing says that the plan is stale",
                 drift, c->no_steps[0] != '\0' ? "; " : "; give the topology for what that costs",
                 c->no_steps[0] != '\0' ? c->no_steps : "");
        return;
    }
    if (i->is_known)
        snprintf(range, sizeof range, "95 %% interval %.1f to %.1f %%", -100 * i->high, -100 * i->low);
    enum gain_kind kind = score_gain_kind(c->change, i, c->scores[NEW].shown.no_interval);
    const bool is_worth = kind == GAIN_REAL && -c->change > threshold && (!i->is_known || -i->high > threshold);
    c->answer = is_worth ? CHECK_STALE : kind == GAIN_TOO_FEW && gain > 100 * threshold ? CHECK_UNKNOWN : CHECK_GOOD;
    static const char *const begins[] = {"still good", "plan again", "cannot tell"};
    const char *why = kind == GAIN_TIE ? "a new plan's steps are as long" : gain > 0 ? "shorter" : "longer";
    if (kind == GAIN_TIE)
        snprintf(c->verdict, sizeof c->verdict, "%s: %s", begins[c->answer], why);
    else
        snprintf(c->verdict, sizeof c->verdict, "%s: a new plan's steps are %.1f %% %s (%s)%s%s", begins[c->answer],
                 gain > 0 ? gain : -gain, why, range,
                 kind == GAIN_NOISE               ? ", which is within the noise"
                 : kind == GAIN_REAL && !is_worth ? ", which is not above --threshold throughout"
                 : kind == GAIN_TOO_FEW           ? ", and nothing says whether that is noise: "
                                                  : "",
                 kind == GAIN_TOO_FEW ? c->scores[NEW].shown.no_interval : "");
    size_t used = strlen(c->verdict);
    snprintf(c->verdict + used, sizeof c->verdict - used, "; no plan could gain more than %.1f %%; %s%s",
             100 * ceiling_of(c), drift,
             c->is_own_recording ? "; this is the recording that the plan was made from" : "");
}

/* ---- output ---- */

/* Layers by falling distance over noise. */
static int more_moved(const void *a, const void *b) {
    const struct {
        uint32_t layer;
        double ratio;
    } *x = a, *y = b;
    return x->ratio != y->ratio ? (x->ratio < y->ratio) - (x->ratio > y->ratio)
                                : (x->layer > y->layer) - (x->layer < y->layer);
}

static void write_drift(const struct check *c, struct mp_out *out) {
    const struct mp_drift *d = c->drift;
    struct {
        uint32_t layer;
        double ratio;
    } rank[MP_MAX_LAYERS];
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(out, MP_ENOMEM, "out of memory: table");
        return;
    }
    for (uint32_t l = 0; l < d->n_layers; l++) {
        rank[l].layer = l;
        rank[l].ratio = d->has_noise && d->noise[l] > 0 ? d->distance[l] / d->noise[l] : d->distance[l];
    }
    qsort(rank, d->n_layers, sizeof *rank, more_moved);
    if (d->has_noise)
        mp_out_printf(out, "drift: %.2f %% of the pairs use other experts, noise up to %.2f %%; %u of %u layers beyond",
                      100 * d->mean, 100 * d->mean_noise, d->n_beyond, d->n_layers);
    else
        mp_out_printf(out, "drift: %.2f %% of the pairs use other experts; too few requests to tell the noise",
                      100 * d->mean);
    mp_out_puts(out, "\n\n");
    mp_table_column(t, "layer", true);
    mp_table_column(t, "drift", true);
    mp_table_column(t, "noise (95 %)", true);
    mp_table_column(t, "beyond", false);
    uint32_t n = c->o->wide || d->n_layers < SHOWN_LAYERS ? d->n_layers : SHOWN_LAYERS;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t l = rank[i].layer;
        mp_table_cell(t, "%u", c->s.trace->layer_ids[l]);
        mp_table_cell(t, "%.2f %%", 100 * d->distance[l]);
        if (d->has_noise)
            mp_table_cell(t, "%.2f %%", 100 * d->noise[l]);
        else
            mp_table_cell(t, "-");
        mp_table_cell(t, "%s", d->has_noise && d->distance[l] > d->noise[l] ? "yes" : "");
    }
    mp_table_show(t, c->o->style, out);
    mp_table_free(t);
    if (n < d->n_layers)
        mp_out_printf(out, "(the %u that moved most of %u layers; --wide shows all)\n", n, d->n_layers);
    mp_out_puts(out, "\n");
}

static void write_text(const struct check *c, struct mp_out *out) {
    char text[1024], a[32], b[32];
    static const char *const names[] = {"this plan", "a new plan"};
    if (c->scores[OLD].result != NULL)
        mp_out_printf(out, "%s on %s\n%s\n\n", c->scores[OLD].name, c->s.topology->name,
                      score_describe(&c->s, text, sizeof text));
    if (c->scores[OLD].note[0] != '\0')
        mp_out_printf(out, "%s: %s\n\n", c->scores[OLD].name, c->scores[OLD].note);
    if (c->drift != NULL)
        write_drift(c, out);
    for (int i = 0; i < 2 && c->scores[NEW].result != NULL; i++) {
        const struct mp_sim_result *r = c->scores[i].result;
        const struct mp_interval *step = &c->scores[i].shown.step_ns;
        mp_out_printf(out, "%-10s  step %s", names[i], mp_human_ns((double)r->mean.step_ns, a));
        if (step->is_known)
            mp_out_printf(out, " (+- %s)", mp_human_ns((step->high - step->low) / 2, b));
        mp_out_printf(out, ", max/mean %.2f, %s between nodes\n", r->balance.max_over_mean,
                      mp_human_bytes(r->inter_bytes, b));
    }
    if (c->scores[NEW].result != NULL)
        mp_out_printf(out, "%-10s  step %s: what no plan goes below, not even one for every step\n", "ceiling",
                      mp_human_ns((double)c->scores[OLD].result->residual_ns, a));
    tool_verdict(c->o, c->answer == CHECK_GOOD ? TONE_GOOD : TONE_DOUBTFUL, c->verdict, out);
}

static json_t *drift_json(const struct check *c) {
    const struct mp_drift *d = c->drift;
    json_t *layers = json_array();
    if (d == NULL) {
        json_decref(layers);
        return json_null();
    }
    for (uint32_t l = 0; l < d->n_layers; l++)
        (void)json_array_append_new(layers,
                                    json_pack("{s:I,s:o,s:o,s:b}", "layer", (json_int_t)c->s.trace->layer_ids[l],
                                              "distance", mp_json_finite(d->distance[l]), "noise",
                                              d->has_noise ? mp_json_finite(d->noise[l]) : json_null(), "beyond",
                                              (int)(d->has_noise && d->distance[l] > d->noise[l])));
    if (json_array_size(layers) != d->n_layers) { /* memory ran out on the way */
        json_decref(layers);
        return NULL;
    }
    return json_pack("{s:o,s:o,s:i,s:o}", "mean", mp_json_finite(d->mean), "mean_noise",
                     d->has_noise ? mp_json_finite(d->mean_noise) : json_null(), "n_beyond", (int)d->n_beyond, "layers",
                     layers);
}

static json_t *check_json(const struct check *c) {
    static const char *const answers[] = {"good", "plan again", "cannot tell", "drift only"};
    const bool has_steps = c->scores[NEW].result != NULL;
    return json_pack("{s:s,s:i,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "schema", "moeplan.check", "version", 1,
                     "answer", answers[c->answer], "verdict", c->verdict, "threshold",
                     mp_json_finite((double)c->own.threshold_ppm / 1e6), "evaluated_on",
                     has_steps ? json_string(c->s.evaluated_on) : json_null(), "drift", drift_json(c), "change",
                     has_steps ? mp_json_finite(c->change) : json_null(), "change_interval",
                     mp_interval_json(&c->scores[NEW].against_base), "ceiling_ns",
                     has_steps ? json_integer((json_int_t)c->scores[OLD].result->residual_ns) : json_null(),
                     "ceiling_change", has_steps ? mp_json_finite(-ceiling_of(c)) : json_null(), "old",
                     has_steps ? mp_scored_json(&c->scores[OLD].shown, c->s.workload) : json_null(), "new",
                     has_steps ? mp_scored_json(&c->scores[NEW].shown, c->s.workload) : json_null());
}

static void free_check(struct check *c) {
    mp_drift_free(c->drift);
    for (int i = 0; i < 2; i++)
        score_free(&c->scores[i]);
    setup_free(&c->s);
}

/* Drift and steps of a plan on a recording, and the answer. */
static enum mp_status check_with_topology(struct check *c, const char *plan, const char *trace, const char *topology,
                                          struct mp_error *err) {
    enum mp_status status = MP_OK;
    MP_TRY(setup_load(&c->s, &c->own, trace, topology, err));
    MP_TRY(score_load(&c->scores[OLD], &c->s, plan, err));
    MP_TRY(measure_drift(c, c->scores[OLD].plan, plan, err));
    MP_TRY(compare_steps(c, plan, err));
    judge(c);
out:
    return status;
}

enum mp_status check_object(json_t **out, const struct opts *o, const char *plan, const char *trace,
                            const char *topology, struct mp_error *err) {
    struct check c = {.o = o, .own = *o};
    *out = NULL;
    c.own.threshold_ppm = THRESHOLD_PPM;
    enum mp_status status = check_with_topology(&c, plan, trace, topology, err);
    if (status == MP_OK) {
        *out = check_json(&c);
        if (*out == NULL)
            status = mp_nomem(err, "check");
    }
    free_check(&c);
    return status;
}

static void write_json(const struct check *c, struct mp_out *out) {
    json_t *root = check_json(c);
    mp_json_write(root, out);
    json_decref(root);
}

enum mp_status cmd_check(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct check c = {.o = o, .own = *o};
    struct mp_out *out = NULL;
    struct mp_plan *peek = NULL;
    const char *topology = args->n > 2 ? args->value[2] : NULL;
    enum mp_status status = MP_OK;
    if (!o->is_set[OPT_THRESHOLD])
        c.own.threshold_ppm = THRESHOLD_PPM;
    status = tool_check_strict(o, err);
    if (status != MP_OK)
        return status;
    if (topology == NULL) {
        enum tool_kind kind;
        MP_TRY(tool_kind_of(&kind, args->value[0], &(struct opts){.limits = o->limits}, err));
        if (kind != TOOL_PLAN)
            return mp_fail(err, MP_EUSAGE, "check: %s is no plan of moeplan's (give the topology too)", args->value[0]);
        MP_TRY(mp_plan_load(&peek, args->value[0], &o->limits, err));
        if (tool_names_topology(peek, o))
            topology = peek->provenance.topology;
        else
            tool_note(o, "the plan's topology \"%s\" cannot be had from its name: drift only (give the topology)",
                      peek->provenance.topology);
    }
    if (topology == NULL) {
        c.s.o = &c.own;
        MP_TRY(tool_load_trace(&c.s.trace, args->value[1], o, err));
        MP_TRY(measure_drift(&c, peek, args->value[0], err));
        judge(&c);
    } else {
        MP_TRY(check_with_topology(&c, args->value[0], args->value[1], topology, err));
    }
    if (o->strict && c.answer == CHECK_STALE)
        *exit_code = 1;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&c, out);
    else
        write_text(&c, out);
    status = tool_close_result(out, o, err);
out:
    mp_plan_free(peek);
    free_check(&c);
    return status;
}
