/* What a report says first: is the plan worth it over what one runs? The words are those of docs/REPORT.md; what counts
 * as worth it is score_gain_kind's, as everywhere. */
#include "report.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE 0.05 /* percent that a text shows as more than 0.0 */

const char *report_kind(const struct report_verdict *v) {
    static const char *const kinds[] = {"real", "tie", "too few", "noise", "loss"};
    return v->is_none ? "none" : kinds[v->kind];
}

struct saved {
    double ns;
    uint32_t layer;
};
static int more_saved(const void *a, const void *b) {
    const struct saved *x = a, *y = b;
    return x->ns != y->ns ? (x->ns < y->ns) - (x->ns > y->ns) : (x->layer > y->layer) - (x->layer < y->layer);
}

/* The fewest layers that save half or more of what is saved in all. */
static void where(struct report *r, const struct mp_sim_result *base, const struct mp_sim_result *plan) {
    struct report_verdict *v = &r->verdict;
    struct saved saved[MP_MAX_LAYERS];
    const uint32_t n = plan->n_layers;
    double all = 0, so_far = 0;
    uint32_t k = 0;
    for (uint32_t l = 0; l < n; l++) {
        saved[l] = (struct saved){base->layer_ns[l] - plan->layer_ns[l], l};
        all += saved[l].ns;
    }
    if (!(all > 0) || n < 2)
        return;
    qsort(saved, n, sizeof *saved, more_saved);
    while (k < n && so_far < all / 2)
        so_far += saved[k++].ns;
    v->n_layers = k < REPORT_LAYERS_NAMED ? k : REPORT_LAYERS_NAMED;
    size_t used = k <= REPORT_LAYERS_NAMED
                      ? (size_t)snprintf(v->where_text, sizeof v->where_text, "%u of %u layers carr%s most of it: ", k,
                                         n, k == 1 ? "ies" : "y")
                      : (size_t)snprintf(v->where_text, sizeof v->where_text,
                                         "it is spread over the layers: %u of %u carry half of it, first ", k, n);
    for (uint32_t i = 0; i < v->n_layers; i++) {
        v->layers[i] = saved[i].layer;
        v->saved_ns[i] = saved[i].ns;
        used += (size_t)snprintf(v->where_text + used, sizeof v->where_text - used, "%sL%u", i > 0 ? ", " : "",
                                 r->s.trace->layer_ids[saved[i].layer]);
    }
}

static const char *label_of(const char *evaluated_on) {
    return strcmp(evaluated_on, "held-out") == 0        ? "held out"
           : strcmp(evaluated_on, "planning data") == 0 ? "on the data it was made from, so expect less"
                                                        : "on data that it may have been made from";
}

/* What one runs, as a sentence names it. */
static const char *base_name(const struct report *r) {
    return r->plans[0].path == NULL ? "the contiguous placement" : r->scores[0].name;
}

static void say(struct report *r, const struct score *plan) {
    struct report_verdict *v = &r->verdict;
    const struct mp_interval *i = &plan->against_base;
    const char *label = label_of(plan->shown.evaluated_on), *no = plan->shown.no_interval;
    const double step = -100 * v->change, moe = -100 * v->moe_change;
    const char *word = step >= 0 ? "shorter" : "longer";
    const char *base = base_name(r);
    char more[160];
    score_what_to_record(&r->s, v->kind, v->change, i, more);
    if (i->is_known && v->kind == GAIN_LOSS)
        snprintf(v->interval_text, sizeof v->interval_text,
                 "95 %% interval over requests: steps %.1f to %.1f %% longer", 100 * i->low, 100 * i->high);
    else if (i->is_known && v->kind != GAIN_TIE)
        snprintf(v->interval_text, sizeof v->interval_text,
                 "95 %% interval over requests: steps %.1f to %.1f %% shorter%s%s", -100 * i->high, -100 * i->low,
                 v->kind == GAIN_NOISE ? ", so it may as well be nothing" : "", more);
    else if (v->kind != GAIN_TIE)
        snprintf(v->interval_text, sizeof v->interval_text, "no interval%s%s%s", no != NULL ? ": " : " was asked for",
                 no != NULL ? no : "", more);
    if (v->kind == GAIN_TIE)
        snprintf(v->headline, sizeof v->headline, "Not worth it: %s's steps are as long as %s's, %s", plan->name, base,
                 label);
    else if (v->kind == GAIN_LOSS)
        snprintf(v->headline, sizeof v->headline, "No: %s's steps are %.1f %% longer than %s's, %s", plan->name, -step,
                 base, label);
    else if (v->kind == GAIN_REAL)
        snprintf(v->headline, sizeof v->headline, "%s saves %.1f %% of MoE time, %.1f %% of the step, %s, over %s",
                 plan->name, moe, step, label, base);
    else
        snprintf(v->headline, sizeof v->headline, "Not worth it%s: %s's steps are %.1f %% %s than %s's, %s, and %s",
                 v->kind == GAIN_TOO_FEW ? " yet" : "", plan->name, fabs(step), word, base, label,
                 v->kind == GAIN_NOISE ? "that is within the noise" : "nothing says whether that is noise");
}

/* A plan further down that is shorter still; what was picked on these steps looks better than it is. */
static void say_better(struct report *r) {
    struct report_verdict *v = &r->verdict;
    const struct mp_sim_result *judged = r->scores[1].result;
    uint32_t best = 1;
    for (uint32_t i = 2; i < r->n; i++)
        if (r->scores[i].result != NULL && !r->scores[i].is_barred &&
            (r->plans[i].verified == NULL || r->plans[i].verified->n == 0) && /* nobody is sent to a refused plan */
            r->scores[i].result->mean.step_ns < r->scores[best].result->mean.step_ns)
            best = i;
    const double more = 100 * (1 - (double)r->scores[best].result->mean.step_ns / (double)judged->mean.step_ns);
    if (best != 1 && more >= VISIBLE)
        snprintf(v->other_text, sizeof v->other_text,
                 "%s came out shorter still on these steps, by %.1f %% (picked on these very steps, so expect less)",
                 r->scores[best].name, more);
}

void report_judge(struct report *r) {
    struct report_verdict *v = &r->verdict;
    const struct score *base = &r->scores[0], *plan = &r->scores[1];
    const struct mp_verify_report *verified = r->plans[1].verified;
    v->kind = GAIN_TIE;
    v->moe_change = NAN;
    v->is_none = true;
    if (base->result == NULL || plan->result == NULL) {
        snprintf(v->headline, sizeof v->headline, "Nothing can be said: %s was not scored",
                 base->result == NULL ? base_name(r) : plan->name);
        return;
    }
    v->change = (double)plan->result->mean.step_ns / (double)base->result->mean.step_ns - 1;
    if (base->result->moe_ns > 0)
        v->moe_change = (double)plan->result->moe_ns / (double)base->result->moe_ns - 1;
    v->moe_share = (double)base->result->moe_ns / (double)base->result->mean.step_ns;
    /* Without an interval nothing is worth it, be it that none was asked for. */
    v->kind =
        score_gain_kind(v->change, &plan->against_base,
                        plan->shown.no_interval == NULL && !plan->against_base.is_known ? "none was asked for"
                                                                                        : plan->shown.no_interval);
    if (verified != NULL && verified->n > 0) {
        snprintf(v->headline, sizeof v->headline, "Do not use %s: the verifier refuses it (%s: %.400s)", plan->name,
                 mp_violation_name(verified->violations[0].kind), verified->violations[0].message);
        return;
    }
    if (plan->is_barred) {
        snprintf(v->headline, sizeof v->headline, "Do not use %s: it %.500s", plan->name, plan->note);
        return;
    }
    v->is_none = false;
    say(r, plan);
    if (v->kind == GAIN_REAL)
        where(r, base->result, plan->result);
    say_better(r);
}
