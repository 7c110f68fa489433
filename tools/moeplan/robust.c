/* plan --robust: scenarios, the plan for all of them (planner/robust.c), and how it does where it was not planned on.
 */
#include "robust.h"
#include "served.h"
#include <stdio.h>
#include <string.h>

#define CATEGORIES_GROUPS 4u /* unless the option says */

static bool is_worst(const struct opts *o) { return strcmp(o->robust_objective, "worst") == 0; }
enum mp_status robust_check(const struct opts *o, struct mp_error *err) {
    if (o->robust == NULL && (o->is_set[OPT_WEIGHTS] || o->is_set[OPT_ROBUST_OBJECTIVE]))
        return mp_fail(err, MP_EUSAGE,
                       "plan: --weights and --robust-objective are for several kinds of traffic (add --robust TRACE2)");
    if (o->robust == NULL)
        return MP_OK;
    if (o->colocate || o->strict || o->score_on != NULL || o->from != NULL || o->export_lp != NULL ||
        o->import_solution != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "plan: --robust does not go with --colocate, --strict, --score-on, --from, --export-lp or "
                       "--import-solution (leave them out)");
    return MP_OK;
}

/* ---- scenarios ---- */

struct list {
    struct robust *r;
    const struct setup *s;
    uint32_t n;
};

static enum mp_status add_weight(void *ctx, const char *word, struct mp_error *err) {
    struct list *list = ctx;
    uint64_t value;
    if (!mp_parse_u64(word, strlen(word), &value) || value < 1 || value > 1000000)
        return mp_fail(err, MP_EUSAGE, "--weights: \"%.40s\" is not a whole number in [1, 1000000]", word);
    if (list->n < list->r->kinds.n)
        list->r->scenarios[list->n].weight = (uint32_t)value;
    list->n++;
    return MP_OK;
}

static enum mp_status set_weights(struct robust *r, const struct setup *s, struct mp_error *err) {
    struct list list = {.r = r, .s = s};
    char word[32];
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < r->kinds.n; i++)
        r->scenarios[i] = (struct mp_scenario){.part = &r->kinds.planning[i], .weight = 1};
    if (s->o->weights != NULL)
        status = tool_for_each_word(s->o->weights, "weights", word, sizeof word, add_weight, &list, err);
    if (status == MP_OK && s->o->weights != NULL && list.n != r->kinds.n)
        return mp_fail(err, MP_EUSAGE, "--weights: %u weight%s for %u scenarios (write one for each, TRACE's first)",
                       list.n, tool_s(list.n), r->kinds.n);
    return status;
}

/* ---- scoring ---- */

static enum mp_status mean_step(uint64_t *out, const struct setup *s, const struct mp_plan *plan,
                                const struct mp_workload *w, struct mp_error *err) {
    struct mp_sim_result *result;
    enum mp_status status = served_simulate(&result, s, plan, w, &s->sim, err);
    if (status != MP_OK)
        return status;
    *out = result->mean.step_ns;
    mp_sim_result_free(result);
    return MP_OK;
}

static enum mp_status score_one(struct robust *r, uint32_t i, const struct mp_plan *plan, const struct setup *s,
                                const struct mp_workload *w, struct mp_error *err) {
    enum mp_status status = mean_step(&r->step_ns[i], s, plan, w, err);
    r->n_steps[i] = w->n_steps;
    return status == MP_OK ? mean_step(&r->plain_ns[i], s, r->how.plain, w, err) : status;
}

/* Each scenario's own requests that were not planned on, in recorded steps or, where they fill none, drawn ones. */
static enum mp_status score_scenarios(struct robust *r, const struct mp_plan *plan, const struct setup *s,
                                      struct mp_error *err) {
    for (uint32_t i = 0; i < r->kinds.n; i++) {
        struct mp_workload *w = NULL;
        struct mp_batching batching = s->batching;
        struct mp_error why = {0};
        if (r->kinds.scored[i].n == 0)
            continue;
        enum mp_status status = mp_workload_build(&w, &r->kinds.scored[i], &batching, &why);
        if (status == MP_EINPUT && !batching.resample && s->trace->kind == MP_TRACE_TOKENS) {
            batching.resample = true;
            status = mp_workload_build(&w, &r->kinds.scored[i], &batching, &why);
        }
        if (status == MP_EINPUT)
            continue;
        if (status != MP_OK) {
            if (err != NULL)
                *err = why;
            return status;
        }
        status = score_one(r, i, plan, s, w, err);
        mp_workload_free(w);
        if (status != MP_OK)
            return status;
    }
    return score_one(r, r->kinds.n, plan, s, s->workload, err);
}

enum mp_status robust_plan(struct robust *r, struct score *score, const struct setup *s, const char *trace,
                           struct mp_error *err) {
    const struct opts *o = s->o;
    struct mp_robust_request request = {.base = score_request(s, o->strategy), .is_worst = is_worst(o)};
    enum mp_outcome outcome;
    enum mp_status status;
    *score = (struct score){0};
    snprintf(score->name, sizeof score->name, "%s", o->strategy);
    r->is_used = true;
    MP_TRY(kinds_load(&r->kinds, s, o->robust, "robust", trace, CATEGORIES_GROUPS, MP_SCENARIOS_MAX, err));
    MP_TRY(set_weights(r, s, err));
    request.scenarios = r->scenarios;
    request.n = r->kinds.n;
    MP_TRY(mp_robust_make(&score->plan, &r->how, &request, &outcome, &score->shown.plan_seconds, err));
    if (score->plan == NULL) {
        snprintf(score->note, sizeof score->note, "%s: %s",
                 outcome == MP_NOT_APPLICABLE ? "not applicable" : "not feasible", err->message);
        mp_error_clear(err);
        return MP_OK;
    }
    MP_TRY(score_scenarios(r, score->plan, s, err));
out:
    return status;
}

void robust_free(struct robust *r) {
    kinds_free(&r->kinds);
    mp_robust_free(&r->how);
    *r = (struct robust){.is_used = false};
}

/* ---- reports ---- */

/* Longest and weighted mean of the scenarios that have steps. */
static void sum_up(const struct robust *r, const uint64_t *ns, uint64_t *worst, uint64_t *mean) {
    unsigned __int128 sum = 0;
    uint64_t weights = 0;
    *worst = *mean = 0;
    for (uint32_t i = 0; i < r->kinds.n; i++)
        if (r->n_steps[i] > 0) {
            *worst = ns[i] > *worst ? ns[i] : *worst;
            sum += (unsigned __int128)ns[i] * r->scenarios[i].weight;
            weights += r->scenarios[i].weight;
        }
    if (weights > 0)
        *mean = (uint64_t)(sum / weights);
}

static const char *from_text(const struct robust *r, char buf[160]) {
    if (r->how.from == MP_ROBUST_PLAIN)
        snprintf(buf, 160, "the plan without --robust");
    else if (r->how.from == MP_ROBUST_ALONE)
        snprintf(buf, 160, "the plan of %.100s alone", r->kinds.name[r->how.scenario]);
    else
        snprintf(buf, 160, "planned on steps of all of them");
    return buf;
}

static double change_of(uint64_t ns, uint64_t plain) { return plain > 0 ? (double)ns / (double)plain - 1 : 0; }

void robust_write(const struct robust *r, const struct setup *s, struct mp_out *o) {
    char a[32], b[32], text[160];
    uint64_t worst, mean, plain_worst, plain_mean;
    sum_up(r, r->step_ns, &worst, &mean);
    sum_up(r, r->plain_ns, &plain_worst, &plain_mean);
    mp_out_printf(o, "robust over %u scenarios (%s): best of %u candidates, %s\n", r->kinds.n,
                  is_worst(s->o) ? "worst case" : "weighted mean", r->how.n_candidates, from_text(r, text));
    for (uint32_t i = 0; i < r->kinds.n; i++) {
        mp_out_printf(o, "  %.60s%s, weight %u", r->kinds.name[i], strlen(r->kinds.name[i]) > 60 ? "..." : "",
                      r->scenarios[i].weight);
        if (r->how.from == MP_ROBUST_POOLED)
            mp_out_printf(o, ", %.0f %% of the steps", r->how.share_ppm[i] / 1e4);
        if (r->n_steps[i] == 0)
            mp_out_puts(o, ": its requests fill no step\n");
        else
            mp_out_printf(o, ": step %s, without --robust %s (%+.1f %%; %s)\n", mp_human_ns((double)r->step_ns[i], a),
                          mp_human_ns((double)r->plain_ns[i], b), 100 * change_of(r->step_ns[i], r->plain_ns[i]),
                          s->evaluated_on);
    }
    if (worst > 0)
        mp_out_printf(o, "  worst case %s, without --robust %s (%+.1f %%); ", mp_human_ns((double)worst, a),
                      mp_human_ns((double)plain_worst, b), 100 * change_of(worst, plain_worst));
    if (worst > 0)
        mp_out_printf(o, "mean %s, %s (%+.1f %%)\n", mp_human_ns((double)mean, a), mp_human_ns((double)plain_mean, b),
                      100 * change_of(mean, plain_mean));
}

json_t *robust_json(const struct robust *r, const struct setup *s) {
    static const char *const from[] = {"plain", "alone", "pooled"};
    char text[160];
    uint64_t worst, mean, plain_worst, plain_mean;
    if (!r->is_used)
        return json_null();
    sum_up(r, r->step_ns, &worst, &mean);
    sum_up(r, r->plain_ns, &plain_worst, &plain_mean);
    json_t *scenarios = json_array();
    for (uint32_t i = 0; i < r->kinds.n; i++)
        (void)json_array_append_new(
            scenarios,
            json_pack("{s:s,s:i,s:o,s:i,s:o,s:o}", "name", r->kinds.name[i], "weight", (int)r->scenarios[i].weight,
                      "share",
                      r->how.from == MP_ROBUST_POOLED ? mp_json_finite(r->how.share_ppm[i] / 1e6) : json_null(),
                      "n_steps", (int)r->n_steps[i], "step_ns",
                      r->n_steps[i] > 0 ? json_integer((json_int_t)r->step_ns[i]) : json_null(), "plain_ns",
                      r->n_steps[i] > 0 ? json_integer((json_int_t)r->plain_ns[i]) : json_null()));
    return json_pack("{s:s,s:s,s:s,s:i,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "objective", s->o->robust_objective, "from",
                     from[r->how.from], "summary", from_text(r, text), "n_candidates", (int)r->how.n_candidates,
                     "evaluated_on", s->evaluated_on, "worst_ns", (json_int_t)worst, "plain_worst_ns",
                     (json_int_t)plain_worst, "mean_ns", (json_int_t)mean, "plain_mean_ns", (json_int_t)plain_mean,
                     "scored_ns", (json_int_t)r->step_ns[r->kinds.n], "plain_scored_ns",
                     (json_int_t)r->plain_ns[r->kinds.n], "scenarios", scenarios);
}
