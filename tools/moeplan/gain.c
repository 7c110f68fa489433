/* What a plan is worth against doing nothing, in words that say when it is not worth the trouble.
 *
 * Decides   nothing; whether a gain in mean step time over contiguous is more than noise.
 * Method    the recording is halved by hash; the plan's strategies make a plan of one half, which is scored on the
 *           other, paired with contiguous, with a delete-a-group jackknife over requests (src/report/interval.c): what
 *           `compare` does with its default split. Where requests were held out from the plan, it is scored on those.
 * Differs   `auto` does not choose anew: the combination of strategies is the plan's.
 * Cost      one more plan without proofs, and a simulation of two plans for each group; on many GPUs with every
 *           transfer of a group's simulation at its port bound. */
#include "score.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FLOWS_MAX = 2000000, STEPS_MIN = 4, STEPS_MAX = 64 }; /* simulated flows and steps of one figure */
#define VISIBLE 0.0005                                       /* a change that a table shows as more than 0.0 % */
#define TIMES_MAX 1000.0                                     /* more data than so many times the recording: forget it */

enum gain_kind score_gain_kind(double change, const struct mp_interval *interval, const char *no_interval) {
    if (fabs(change) < VISIBLE)
        return GAIN_TIE;
    if (no_interval != NULL)
        return GAIN_TOO_FEW;
    if (interval->is_known && interval->low <= 0 && interval->high >= 0)
        return GAIN_NOISE;
    return change > 0 ? GAIN_LOSS : GAIN_REAL;
}

static uint64_t members_of(const struct mp_trace *t) {
    return t->kind == MP_TRACE_COUNTS ? t->n_iterations : t->n_requests;
}

/* Rounded up to two digits. */
static uint64_t round_up(double n) {
    double unit = 1;
    while (n / unit > 100)
        unit *= 10;
    return (uint64_t)(ceil(n / unit) * unit);
}

const char *score_what_to_record(const struct setup *s, enum gain_kind kind, double change,
                                 const struct mp_interval *interval, char *buf) {
    const struct mp_trace *t = s->scored.trace != NULL ? s->scored.trace : s->trace;
    const char *what = t->kind == MP_TRACE_COUNTS ? "iterations" : "requests";
    const uint64_t has = members_of(t), groups = s->o->interval_groups;
    const uint64_t is_few = groups > 0 && s->scored.n < 2 * groups;
    double times = 0;
    buf[0] = '\0';
    if (kind == GAIN_NOISE && change < 0)
        times = pow((interval->high - interval->low) / 2 / -change, 2);
    else if (kind == GAIN_TOO_FEW && is_few)
        times = 2 * (double)groups / (s->scored.n > 0 ? s->scored.n : 1);
    if (times > TIMES_MAX)
        snprintf(buf, 160, "; no recording of a sensible length would tell");
    else if (times > 0)
        snprintf(buf, 160, "; %s %llu %s would tell (the recording has %llu)",
                 kind == GAIN_NOISE ? "about" : "at least", (unsigned long long)round_up((double)has * times), what,
                 (unsigned long long)has);
    return buf;
}

enum mp_status score_like(struct score *out, const struct setup *s, const struct mp_plan *like, struct mp_error *err) {
    struct mp_plan_request request = score_request(s, "contiguous");
    enum mp_outcome outcome;
    const struct mp_provenance *p = like != NULL ? &like->provenance : NULL;
    request.replicate = p != NULL ? p->replicate : NULL;
    request.place = p != NULL ? p->place : NULL;
    request.route = p != NULL ? p->route : NULL;
    request.order = p != NULL ? p->order : NULL;
    request.export_lp = request.import_solution = NULL;
    request.is_trial = true;
    if (like == NULL) { /* what one has without a plan does not have to suit a stack */
        request.needs_equal_slots = request.needs_distinct = false;
        request.allowed_routes = 0;
    }
    if (like != NULL && like->homes.is_present) { /* with homes the place stage is none of the table's */
        const struct mp_recipe *recipe = mp_recipe_find(p->strategy);
        request.homes = like->homes.method;
        request.strategy = recipe != NULL && recipe->place != NULL ? recipe->name : "search";
        request.replicate = request.place = request.route = request.order = NULL;
        like = NULL;
    }
    for (uint32_t i = 0; like != NULL && mp_recipe_at(i) != NULL; i++)
        if (mp_recipe_at(i)->place != NULL && mp_recipe_at(i)->may_repeat_on_gpu == like->allow_same_gpu_replicas) {
            request.strategy = mp_recipe_at(i)->name;
            break;
        }
    snprintf(out->name, sizeof out->name, "%s", p != NULL ? p->strategy : "contiguous");
    enum mp_status status = mp_plan_make(&out->plan, &request, &outcome, NULL, err);
    if (status == MP_OK && out->plan == NULL) {
        snprintf(out->note, sizeof out->note, "%s: %.600s", out->name, err->message);
        mp_error_clear(err);
    }
    return status;
}

static void forget(struct score scores[2], const struct mp_plan *plan) {
    for (int i = 0; i < 2; i++) {
        if (scores[i].plan == plan)
            scores[i].plan = NULL;
        score_free(&scores[i]);
        scores[i] = (struct score){.note = ""};
    }
}

/* One attempt on the parts and with the batching of `v`. *why: the steps cannot be filled, or no plan can be made. */
static enum mp_status attempt(struct score scores[2], struct setup *v, struct mp_plan *plan, bool is_held_out,
                              char why[300], struct mp_error *err) {
    struct mp_error refused = {0};
    enum mp_status status = MP_OK;
    why[0] = '\0';
    if (!is_held_out && v->o->import_solution != NULL) {
        snprintf(why, 300,
                 "an imported solution is not made anew from half of the requests (write --split 0.5, there "
                 "and where it is exported)");
        return MP_OK;
    }
    if (v->workload == NULL)
        status = mp_workload_build(&v->workload, &v->scored, &v->batching, &refused);
    if (status == MP_OK && is_held_out)
        scores[0].plan = plan;
    else if (status == MP_OK)
        status = score_like(&scores[0], v, plan, &refused);
    if (status == MP_OK)
        status = score_like(&scores[1], v, NULL, &refused);
    if (status == MP_EINPUT) {
        snprintf(why, 300, "%.299s", refused.message);
        return MP_OK;
    }
    if (status != MP_OK) {
        *err = refused;
        return status;
    }
    for (int i = 0; i < 2; i++)
        if (scores[i].plan == NULL) {
            snprintf(why, 300, "%.299s", scores[i].note);
            return MP_OK;
        }
    snprintf(scores[0].name, sizeof scores[0].name, "%s", plan->provenance.strategy);
    return score_all(scores, 2, 1, v, (uint32_t)v->o->interval_groups, err);
}

static void say(struct gain *g, const struct setup *v, const struct score *score, const char *why) {
    char range[200], more[160], where[200];
    const char *name = score->name;
    const char *whose = v->scored.trace->kind == MP_TRACE_COUNTS ? "iteration" : "request";
    const double percent = 100 * fabs(g->change);
    if (why[0] != '\0') {
        snprintf(g->verdict, sizeof g->verdict, "do not bother: nothing says what the plan gains over contiguous: %s",
                 why);
        return;
    }
    snprintf(where, sizeof where, "%u %s step%s of %u %s%s %s", g->n_steps, g->is_bootstrap ? "bootstrap" : "recorded",
             tool_s(g->n_steps), g->n_requests, whose, tool_s(g->n_requests),
             strcmp(g->evaluated_on, "held-out") == 0 ? "held out from the plan"
                                                      : "with a plan made from the other half");
    if (g->interval.is_known)
        snprintf(range, sizeof range, "95 %% interval %.1f to %.1f %%", -100 * g->interval.high,
                 -100 * g->interval.low);
    else
        snprintf(range, sizeof range, "no interval%s%s", score->shown.no_interval != NULL ? ": " : "",
                 score->shown.no_interval != NULL ? score->shown.no_interval : "");
    score_what_to_record(v, g->kind, g->change, &g->interval, more);
    if (g->kind == GAIN_TIE)
        snprintf(g->verdict, sizeof g->verdict, "do not bother: %s's steps are as long as contiguous's (%s)", name,
                 where);
    else if (g->kind == GAIN_LOSS)
        snprintf(g->verdict, sizeof g->verdict, "no: %s's steps are %.1f %% longer than contiguous's (%s; %s)", name,
                 percent, range, where);
    else if (g->kind == GAIN_REAL)
        snprintf(g->verdict, sizeof g->verdict, "%s's steps are %.1f %% shorter than contiguous's (%s; %s)", name,
                 percent, range, where);
    else
        snprintf(
            g->verdict, sizeof g->verdict, "do not bother: %s's steps are %.1f %% %s than contiguous's, %s (%s; %s)%s",
            name, percent, g->change < 0 ? "shorter" : "longer",
            g->kind == GAIN_NOISE ? "within the noise" : "and nothing says whether that is noise", range, where, more);
}

enum mp_status gain_over_contiguous(struct gain *out, const struct setup *s, const struct mp_plan *plan,
                                    struct mp_error *err) {
    const bool is_held_out = strcmp(s->evaluated_on, "held-out") == 0;
    const struct mp_split half = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000, .seed = s->o->seed};
    const uint64_t flows = (uint64_t)plan->n_layers * plan->n_gpus * plan->n_gpus;
    struct setup v = *s;
    struct score scores[2] = {{.note = ""}, {.note = ""}};
    struct mp_plan own = *plan; /* scores borrow it */
    char why[300] = "";
    enum mp_status status = MP_OK;
    *out = (struct gain){
        .is_known = true, .kind = GAIN_TOO_FEW, .evaluated_on = is_held_out ? "held-out" : "validation part"};
    const uint64_t most = FLOWS_MAX / flows;
    v.n_replicate_steps = v.sim.n_steps_max = (uint32_t)(most < STEPS_MIN   ? STEPS_MIN
                                                         : most > STEPS_MAX ? STEPS_MAX
                                                                            : most);
    if (v.n_replicate_steps > SCORE_REPLICATE_STEPS)
        v.n_replicate_steps = SCORE_REPLICATE_STEPS;
    v.is_replicate_bound = most < SCORE_REPLICATE_STEPS && v.sim.network == MP_NETWORK_PLAN;
    v.sim.with_bound = false;
    if (!is_held_out) {
        struct mp_error refused = {0};
        v.planning = v.scored = (struct mp_part){.trace = s->trace};
        v.workload = NULL;
        v.split = half;
        status = mp_part_split(&v.planning, &v.scored, s->trace, &half, &refused);
        if (status == MP_EINPUT) {
            snprintf(why, sizeof why, "%.299s", refused.message);
            v.planning.trace = v.scored.trace = s->trace;
            say(out, &v, &scores[0], why);
            return MP_OK;
        }
        if (status != MP_OK) {
            *err = refused;
            return status;
        }
    }
    const bool can_resample = !is_held_out && s->trace->kind == MP_TRACE_TOKENS && !v.batching.resample;
    for (int resample = 0; resample < 1 + can_resample; resample++) {
        if (resample) { /* recorded steps are not full, or not without a group */
            if (why[0] == '\0' && (scores[0].shown.no_interval == NULL || v.scored.n < 2 * s->o->interval_groups))
                break;
            forget(scores, &own);
            mp_workload_free(v.workload);
            v.workload = NULL;
            v.batching.resample = true;
        }
        MP_TRY(attempt(scores, &v, &own, is_held_out, why, err));
    }
    if (why[0] == '\0') {
        const struct score *score = &scores[0];
        out->change = (double)score->result->mean.step_ns / (double)scores[1].result->mean.step_ns - 1;
        out->interval = score->against_base;
        out->kind = score_gain_kind(out->change, &out->interval, score->shown.no_interval);
        out->n_steps = score->result->n_steps;
        out->n_requests = v.workload->n_requests;
        out->is_bootstrap = v.workload->is_bootstrap;
    }
    say(out, &v, &scores[0], why);
out:
    forget(scores, &own);
    if (!is_held_out) {
        mp_workload_free(v.workload);
        mp_part_free(&v.planning);
        mp_part_free(&v.scored);
    }
    return status;
}

json_t *gain_json(const struct gain *g) {
    static const char *const kinds[] = {"real", "tie", "too few", "noise", "loss"};
    if (!g->is_known)
        return json_null();
    return json_pack("{s:s,s:s,s:b,s:o,s:o,s:s,s:s,s:i,s:i,s:s}", "over", "contiguous", "kind", kinds[g->kind], "worth",
                     (int)(g->kind == GAIN_REAL), "change", g->n_steps > 0 ? mp_json_finite(g->change) : json_null(),
                     "change_interval", mp_interval_json(&g->interval), "evaluated_on", g->evaluated_on, "steps",
                     g->is_bootstrap ? "bootstrap" : "recorded", "n_steps", (int)g->n_steps, "n_requests",
                     (int)g->n_requests, "verdict", g->verdict);
}
