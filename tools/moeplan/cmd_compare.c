/* moeplan compare: plan with several strategies on one part of a recording, score all of them on the same steps of the
 * other. */
#include <math.h>
#include "lossy.h"
#include "rehoming.h"
#include "score.h"
#include "colocate.h"
#include "served.h"
#include "terminal.h"
#include "training.h"
#include <moeplan/homes.h>
#include <stdio.h>
#include <string.h>

struct contest {
    struct setup setup;
    struct score *scores;      /* [SCORE_PLANS_MAX] */
    uint32_t n, base;          /* base: MP_NONE when there is none */
    uint32_t n_strategies;     /* the rest are incumbents */
    struct training *training; /* phase train; else NULL */
    struct mp_progress_part *part;
};

static bool is_eligible(const struct score *s) { return s->plan != NULL && !s->is_barred; }

/* The baseline's result, or NULL. */
static const struct mp_sim_result *base_result(const struct contest *c) {
    return c->base != MP_NONE ? c->scores[c->base].result : NULL;
}
static const char *base_name(const struct contest *c) { return c->base != MP_NONE ? c->scores[c->base].name : "-"; }

static struct score *next_score(struct contest *c, struct mp_error *err) {
    if (c->n == SCORE_PLANS_MAX) {
        (void)mp_fail(err, MP_EUSAGE, "compare: more than %d plans (compare fewer)", SCORE_PLANS_MAX);
        return NULL;
    }
    return &c->scores[c->n++];
}

static const char *name_of_recipe(void *ctx, uint32_t i) {
    (void)ctx;
    return opt_word(WORDS_RECIPES, NULL, i, NULL);
}

static enum mp_status check_strategy(void *ctx, const char *name, struct mp_error *err) {
    (void)ctx;
    if (mp_recipe_find(name) != NULL || mp_policy_find(name) != NULL || mp_travel_find(name) != NULL)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "--strategy: unknown \"%.40s\" (nearest: %s; all: moeplan list strategies)", name,
                   opt_nearest(name, name_of_recipe, NULL));
}

/* --for STACK: a plan that the stack does not load is shown, and cannot win. */
static enum mp_status check_stack(const struct contest *c, struct score *s, struct mp_error *err) {
    enum mp_outcome outcome;
    if (!is_eligible(s))
        return MP_OK;
    enum mp_status status = score_check_stack(&c->setup, s->plan, &outcome, err);
    if (status != MP_OK || outcome == MP_FOUND)
        return status;
    snprintf(s->note, sizeof s->note, "%s cannot load this: %s", c->setup.o->for_stack, err->message);
    mp_error_clear(err);
    s->is_barred = true;
    return MP_OK;
}

/* Without names: the usual ones; "all": every one. */
static bool is_asked(const char *list, const struct mp_recipe *r) {
    return list == NULL ? r->is_usual : strcmp(list, "all") == 0;
}

static enum mp_status add_one(struct contest *c, const char *name, const char *homes, struct mp_error *err) {
    struct score *s = next_score(c, err);
    if (s == NULL)
        return MP_EUSAGE;
    enum mp_status status = score_plan(s, &c->setup, name, homes, err);
    for (uint32_t i = 0; i + 1 < c->n; i++) /* named twice is planned once */
        if (status == MP_OK && strcmp(c->scores[i].name, s->name) == 0) {
            score_free(s);
            c->n--;
            return MP_OK;
        }
    if (status == MP_OK && s->note[0] == '\0')
        tool_note(c->setup.o, "planned with %s in %.2f s", s->name, s->shown.plan_seconds);
    if (status == MP_OK)
        status = check_stack(c, s, err);
    if (strcmp(s->name, "contiguous") == 0 && is_eligible(s))
        c->base = c->n - 1;
    return status;
}

struct with_homes {
    struct contest *contest;
    const char *strategy;
};
static enum mp_status add_with_homes(void *ctx, const char *homes, struct mp_error *err) {
    const struct with_homes *w = ctx;
    return add_one(w->contest, w->strategy, homes, err);
}

static enum mp_status add_strategy(void *ctx, const char *name, struct mp_error *err) {
    struct contest *c = ctx;
    mp_progress_add(c->part, c->n > 0);
    char word[MP_MAX_NAME];
    const char *homes = mp_recipe_find(name) != NULL ? c->setup.o->homes : NULL;
    for (uint32_t i = 0; i < c->n; i++) /* named twice is planned once */
        if (strcmp(c->scores[i].name, name) == 0)
            return MP_OK;
    struct with_homes with = {c, name};
    return homes == NULL ? add_one(c, name, NULL, err)
                         : tool_for_each_word(homes, "homes", word, sizeof word, add_with_homes, &with, err);
}

static enum mp_status check_homes(void *ctx, const char *name, struct mp_error *err) {
    (void)ctx;
    return mp_homes_find(name) != NULL
               ? MP_OK
               : mp_fail(err, MP_EUSAGE, "--homes: unknown \"%.40s\" (write none, affinity or codesign)", name);
}

static enum mp_status add_incumbent(void *ctx, const char *path, struct mp_error *err) {
    struct contest *c = ctx;
    struct score *s = next_score(c, err);
    if (s == NULL)
        return MP_EUSAGE;
    enum mp_status status = score_load(s, &c->setup, path, err);
    if (status != MP_OK)
        return status;
    s->shown.evaluated_on = score_origin(&c->setup, s->plan);
    return check_stack(c, s, err);
}

static void put_percent_range(struct mp_table *t, const struct mp_interval *i, bool is_base) {
    if (is_base || !i->is_known)
        mp_table_cell(t, "%s", is_base ? "" : "-");
    else
        mp_table_cell(t, "%+.1f .. %+.1f", i->low * 100, i->high * 100);
}

/* Change against the baseline; base 0 = nothing to say. */
static void put_change(struct mp_table *t, uint64_t value, uint64_t base) {
    if (base == 0)
        mp_table_cell(t, "%s", "");
    else
        mp_table_cell(t, "%+.1f %%", 100 * ((double)value / (double)base - 1));
}

/* The table's columns: those that fit a terminal, and with --wide all of them. */
enum { COLUMNS = 14, COLUMNS_NARROW = 9 };
static bool is_shown(int column, bool is_wide) {
    static const bool is_narrow[COLUMNS] = {true, true,  true,  true,  true, false, true,
                                            true, false, false, false, true, true,  false};
    return is_wide || is_narrow[column];
}

/* A row's label where it is not the head's: "" or the footnote's mark. */
static const char *mark_of(const struct contest *c, uint32_t i) {
    const char *label = c->scores[i].shown.evaluated_on;
    if (label == NULL || strcmp(label, c->setup.evaluated_on) == 0)
        return "";
    return strcmp(label, "planning data") == 0 ? "*" : strcmp(label, "held-out") == 0 ? "+" : "?";
}

/* What a scheduling of one layer may cost before the policy's steps are as long as the baseline's, ns; 0 = nothing. */
static uint64_t break_even_ns(const struct contest *c, const struct score *s) {
    const struct mp_sim_result *base = base_result(c);
    const uint64_t free_ns = s->result->mean.step_ns - s->online.wait_ns;
    if (base == NULL || base->mean.step_ns <= free_ns || s->online.n_layers == 0)
        return 0;
    return (base->mean.step_ns - free_ns) / s->online.n_layers;
}

/* What a policy did on the scored steps. */
static void put_online(const struct contest *c, const struct score *s, struct mp_out *o) {
    char bytes[32], inter[32], wait[32], even[32];
    if (s->online.n_layers > 0) {
        const double all = (double)s->online.n_steps * s->online.n_layers;
        mp_out_printf(
            o,
            "%s: %.0f %% of layers placed ahead, %.1f %% placed after the gate; %s swapped in per step; waits "
            "%s per step; as long as %s where a layer costs %s\n",
            s->name, 100 * (double)s->online.n_schedules / all, 100 * (double)s->online.n_tuned / all,
            mp_human_bytes((double)s->online.moved_bytes / s->online.n_steps, bytes),
            mp_human_ns((double)s->online.wait_ns, wait), base_name(c),
            break_even_ns(c, s) > 0 ? mp_human_ns((double)break_even_ns(c, s), even) : "less than nothing");
        return;
    }
    mp_out_printf(o, "%s: %u rebalance%s in %u steps", s->name, s->online.n_rebalances, tool_s(s->online.n_rebalances),
                  s->online.n_steps);
    if (s->online.n_left_out > 0)
        mp_out_printf(o, ", %u left out because the one before still moved", s->online.n_left_out);
    mp_out_printf(o, "; %llu experts moved, %s, of that %s between nodes, which cost %s per step\n",
                  (unsigned long long)s->online.moved_experts, mp_human_bytes((double)s->online.moved_bytes, bytes),
                  mp_human_bytes((double)s->online.moved_inter_bytes, inter),
                  mp_human_ns((double)s->online.wait_ns, wait));
}

static void put_footnotes(const struct contest *c, struct mp_out *o) {
    static const char *const notes[][2] = {
        {"*", "planning data: this plan was made from requests that are scored here"},
        {"+", "held-out: this plan was not made from the requests that are scored here"},
        {"?", "unknown origin: the file does not say which recording it was made from"},
    };
    const char *no_interval = NULL;
    for (size_t k = 0; k < sizeof notes / sizeof *notes; k++) {
        bool is_used = false;
        for (uint32_t i = 0; i < c->n; i++)
            is_used |= strcmp(mark_of(c, i), notes[k][0]) == 0;
        if (is_used)
            mp_out_printf(o, "%s %s\n", notes[k][0], notes[k][1]);
    }
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->scores[i].shown.no_interval != NULL)
            no_interval = c->scores[i].shown.no_interval;
        if (c->scores[i].note[0] != '\0')
            mp_out_printf(o, "%s: %s\n", c->scores[i].name, c->scores[i].note);
        if (c->scores[i].is_online && c->scores[i].result != NULL)
            put_online(c, &c->scores[i], o);
        lossy_line(&c->scores[i], o);
        if (c->scores[i].result != NULL && served_loses_route(c->setup.o, c->scores[i].plan))
            mp_out_printf(o, "%s: scored as %s routes; its own routing, %s, is not among what those servers do\n",
                          c->scores[i].name, c->setup.o->for_stack, mp_route_rule_name(c->scores[i].plan->route));
    }
    if (no_interval != NULL)
        mp_out_printf(o, "no interval: %s\n", no_interval);
}

static void put_row(struct mp_table *t, const struct contest *c, uint32_t i, bool is_wide) {
    char a[32];
    const struct score *s = &c->scores[i];
    const struct mp_sim_result *r = s->result, *rb = base_result(c);
    const char *mark = mark_of(c, i);
    mp_table_cell(t, "%s%s%s%s%s%s%s", s->name, lossy_mark(s), s->is_imported ? " (route " : "",
                  s->is_imported ? mp_route_rule_name(s->plan->route) : "", s->is_imported ? ")" : "",
                  mark[0] != '\0' ? " " : "", mark);
    if (r == NULL) {
        for (int k = 1; k < (is_wide ? COLUMNS : COLUMNS_NARROW); k++)
            mp_table_cell(t, "%s", "");
        return;
    }
    bool is_base = i == c->base || rb == NULL;
    mp_table_cell(t, "%s", mp_human_ns((double)r->mean.step_ns, a));
    if (s->shown.step_ns.is_known)
        mp_table_cell(t, "%s", mp_human_ns((s->shown.step_ns.high - s->shown.step_ns.low) / 2, a));
    else
        mp_table_cell(t, "-");
    put_change(t, r->mean.step_ns, is_base ? 0 : rb->mean.step_ns);
    put_percent_range(t, &s->against_base, is_base);
    if (is_wide)
        put_change(t, r->moe_ns, is_base ? 0 : rb->moe_ns);
    mp_table_cell(t, "%s", mp_human_ns((double)r->p95_ns, a));
    mp_table_cell(t, "%.2f", r->balance.max_over_mean);
    if (is_wide) {
        mp_table_cell(t, "%s", mp_human_ns((double)r->mean.dispatch_ns, a));
        mp_table_cell(t, "%s", mp_human_ns((double)r->mean.compute_ns, a));
        mp_table_cell(t, "%s", mp_human_ns((double)r->mean.combine_ns, a));
    }
    mp_table_cell(t, "%s", mp_human_bytes(r->inter_bytes, a));
    mp_table_cell(t, r->lower_bound_ns > 0 ? "%.1f %%" : "-", r->gap * 100);
    if (is_wide)
        mp_table_cell(t, i < c->n_strategies ? "%.2f" : "given", s->shown.plan_seconds);
}

/* Index of the shortest mean step, or MP_NONE. Ties: the earlier one. */
static uint32_t best_of(const struct contest *c) {
    uint32_t best = MP_NONE;
    for (uint32_t i = 0; i < c->n; i++)
        if (is_eligible(&c->scores[i]) && c->scores[i].result != NULL &&
            (best == MP_NONE || c->scores[i].result->mean.step_ns < c->scores[best].result->mean.step_ns))
            best = i;
    return best;
}

/* What to judge: `auto`, which was chosen on the planning data; without it the shortest on the scored steps, which is a
 * choice made after the fact and looks better than it is. */
static uint32_t judged_of(const struct contest *c, bool *is_after_the_fact) {
    *is_after_the_fact = false;
    for (uint32_t i = 0; i < c->n_strategies; i++)
        if (strcmp(c->scores[i].name, "auto") == 0 && is_eligible(&c->scores[i]) && c->scores[i].result != NULL)
            return i;
    *is_after_the_fact = c->n > 2;
    return best_of(c);
}

/* Percent that the table shows as more than 0.0; less is a tie. */
#define VISIBLE 0.05

/* What is judged, against the baseline; TIE when there is nothing else than the baseline. */
static enum gain_kind judged_kind(const struct contest *c) {
    bool is_after_the_fact;
    const uint32_t judged = judged_of(c, &is_after_the_fact);
    if (best_of(c) == MP_NONE || base_result(c) == NULL || judged == c->base)
        return GAIN_TIE;
    const struct score *s = &c->scores[judged];
    const double change = (double)s->result->mean.step_ns / (double)base_result(c)->mean.step_ns - 1;
    return score_gain_kind(change, &s->against_base, s->shown.no_interval);
}

static void verdict_text(const struct contest *c, char *buf, size_t size) {
    bool is_after_the_fact;
    uint32_t best = best_of(c), judged = judged_of(c, &is_after_the_fact);
    if (best == MP_NONE || base_result(c) == NULL) {
        snprintf(buf, size, "no strategy gives a plan that can be used here");
        return;
    }
    const struct score *s = &c->scores[judged], *base = &c->scores[c->base];
    const struct mp_interval *i = &s->against_base;
    double gain = 100 * (1 - (double)s->result->mean.step_ns / (double)base->result->mean.step_ns);
    double moe = base->result->moe_ns > 0 ? 100 * (1 - (double)s->result->moe_ns / (double)base->result->moe_ns) : 0;
    double share = 100 * (double)base->result->moe_ns / (double)base->result->mean.step_ns;
    const char *label = s->shown.evaluated_on, *base_label = base->shown.evaluated_on;
    const char *sign = gain >= 0 ? "shorter" : "longer";
    char where[MP_MAX_NAME + 64], range[96], more_data[160], other[MP_MAX_NAME + 128] = "";
    const enum gain_kind kind = judged_kind(c);
    if (strcmp(label, base_label) == 0)
        snprintf(where, sizeof where, "%s", label);
    else
        snprintf(where, sizeof where, "%s (%s: %s)", label, base->name, base_label);
    double more = 100 * (1 - (double)c->scores[best].result->mean.step_ns / (double)s->result->mean.step_ns);
    if (i->is_known)
        snprintf(range, sizeof range, "95 %% interval %.1f to %.1f %%", -100 * i->high, -100 * i->low);
    else
        snprintf(range, sizeof range, "no interval");
    if (is_after_the_fact)
        snprintf(other, sizeof other, "; picked on these very steps, so expect less");
    else if (best != judged && best != c->base && more >= VISIBLE)
        snprintf(other, sizeof other, "; %s came out shorter still on these steps, by %.1f %%%s%s%s",
                 c->scores[best].name, more, mark_of(c, best)[0] != '\0' ? " (" : "",
                 mark_of(c, best)[0] != '\0' ? c->scores[best].shown.evaluated_on : "",
                 mark_of(c, best)[0] != '\0' ? ")" : "");
    score_what_to_record(&c->setup, kind, -gain / 100, i, more_data);
    if (judged == c->base)
        snprintf(buf, size, "no strategy has shorter steps than %s (%s)", base->name, where);
    else if (kind == GAIN_TIE)
        snprintf(buf, size, "do not bother: %s's steps are as long as %s's (%s)%s", s->name, base->name, where, other);
    else if (kind == GAIN_NOISE)
        snprintf(buf, size, "do not bother: %s's steps are %.1f %% %s than %s's, within the noise (%s, %s)%s%s",
                 s->name, fabs(gain), sign, base->name, range, where, more_data, other);
    else if (kind == GAIN_TOO_FEW)
        snprintf(buf, size,
                 "do not bother: %s's steps are %.1f %% %s than %s's, and nothing says whether that is noise (no "
                 "interval: %s; %s)%s%s",
                 s->name, fabs(gain), sign, base->name, s->shown.no_interval, where, more_data, other);
    else if (gain <= 0)
        snprintf(buf, size, "no: %s's steps are %.1f %% longer than %s's (%s, %s)%s", s->name, -gain, base->name, range,
                 where, other);
    else
        snprintf(buf, size,
                 "%s: steps %.1f %% shorter than %s (%s), MoE time %.1f %% shorter (it is %.0f %% of the step); %s%s",
                 s->name, gain, base->name, range, moe, share, where, other);
}

/* Each way of choosing replicas that is scored, once. */
static void put_choices(const struct contest *c, struct mp_out *o) {
    char text[512];
    const struct opts *opts = c->setup.o;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct mp_plan *plan = c->scores[i].plan;
        const struct mp_stack_choice *choice = plan != NULL ? served_choice(opts, plan) : NULL;
        bool is_new = choice != NULL;
        for (uint32_t k = 0; k < i && is_new; k++)
            is_new = c->scores[k].plan == NULL || served_choice(opts, c->scores[k].plan) != choice;
        if (is_new)
            mp_out_printf(o, "replicas as %s\n", served_describe(opts, plan, text, sizeof text));
    }
}

/* Change of a figure against the same strategy without homes, which is the row before that has none. */
static void put_change_of(struct mp_table *t, double value, double without, bool is_base) {
    if (is_base || !(without > 0))
        mp_table_cell(t, "%s", "");
    else
        mp_table_cell(t, "%+.1f %%", 100 * (value / without - 1));
}

/* Where requests have homes: both counts of copies between nodes, for a token in a layer, and the load beside them. */
static void put_homes(const struct contest *c, struct mp_out *o) {
    const struct score *without = NULL;
    bool has_homes = false;
    for (uint32_t i = 0; i < c->n; i++)
        has_homes |= c->scores[i].result != NULL && c->scores[i].plan->homes.is_present;
    if (!has_homes)
        return;
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: table");
        return;
    }
    static const char *const titles[] = {
        "copies between nodes", "per expert", "change", "de-duplicated", "change", "max/mean", "change", "tokens/step"};
    mp_table_columns(t, titles, sizeof titles / sizeof *titles, "00123456", 1);
    for (uint32_t i = 0; i < c->n; i++) {
        const struct score *s = &c->scores[i];
        const struct mp_sim_result *r = s->result;
        if (r == NULL)
            continue;
        const bool is_base = !s->plan->homes.is_present;
        const struct mp_workload *w = score_steps(s, &c->setup);
        const double tokens = (double)w->n_rows / w->n_steps, per = tokens * r->n_layers;
        without = is_base ? s : without;
        const struct mp_sim_result *b = without != NULL ? without->result : r;
        const struct mp_workload *wb = score_steps(without != NULL ? without : s, &c->setup);
        const double per_base = (double)wb->n_rows / wb->n_steps * r->n_layers;
        mp_table_cell(t, "%s", s->name);
        mp_table_cell(t, "%.4f", r->copies_inter / per);
        put_change_of(t, r->copies_inter / per, b->copies_inter / per_base, is_base);
        mp_table_cell(t, "%.4f", r->copies_node / per);
        put_change_of(t, r->copies_node / per, b->copies_node / per_base, is_base);
        mp_table_cell(t, "%.4f", r->balance.max_over_mean);
        put_change_of(t, r->balance.max_over_mean, b->balance.max_over_mean, is_base);
        mp_table_cell(t, "%.0f", tokens);
    }
    mp_out_puts(o, "\n");
    mp_table_show(t, c->setup.o->style, o);
    mp_table_free(t);
}

static void write_text(const struct contest *c, struct mp_out *o) {
    char text[1024], of_step[MP_MAX_NAME + 16], of_moe[MP_MAX_NAME + 16];
    const struct opts *opts = c->setup.o;
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: table");
        return;
    }
    mp_out_printf(o, "%s: %u GPU%s, %u node%s; model %s, %u layer%s of %u experts, top-%u%s\n", c->setup.topology->name,
                  c->setup.topology->n_gpus, tool_s(c->setup.topology->n_gpus), mp_topology_n_nodes(c->setup.topology),
                  mp_topology_n_nodes(c->setup.topology) == 1 ? "" : "s", c->setup.model->name,
                  c->setup.trace->n_layers, tool_s(c->setup.trace->n_layers), c->setup.trace->n_experts,
                  c->setup.trace->top_k > 0 ? c->setup.trace->top_k : c->setup.model->top_k,
                  c->setup.trace->is_synthetic ? "; SYNTHETIC recording" : "");
    mp_out_printf(o, "%s\n", score_describe(&c->setup, text, sizeof text));
    put_choices(c, o);
    lossy_head(&c->setup, o);
    rehoming_head(&c->setup, o);
    mp_out_puts(o, "\n");
    snprintf(of_step, sizeof of_step, "vs %s", base_name(c));
    snprintf(of_moe, sizeof of_moe, "MoE time vs %s", base_name(c));
    const char *titles[COLUMNS] = {"strategy", "step",     "+- (95 %)", of_step,   "95 % interval", of_moe, "p95",
                                   "max/mean", "dispatch", "compute",   "combine", "inter-node",    "gap",  "plan s"};
    for (int i = 0; i < COLUMNS; i++)
        if (is_shown(i, opts->wide))
            mp_table_columns(t, &titles[i], 1, &"00402563888179"[i], i == 0);
    for (uint32_t i = 0; i < c->n; i++)
        put_row(t, c, i, opts->wide);
    mp_table_show(t, opts->style, o);
    mp_table_free(t);
    put_footnotes(c, o);
    put_homes(c, o);
    const struct mp_sim_result *r = base_result(c);
    if (r != NULL && best_of(c) != MP_NONE) {
        mp_out_printf(o, "\nMoE time is %.1f %% of %s's step; %s.\n", 100 * (double)r->moe_ns / (double)r->mean.step_ns,
                      base_name(c),
                      lossy_flow(&c->setup) != NULL ? "no bound is known for tokens that move or are condensed"
                      : c->setup.sim.is_pipelined
                          ? "no bound is known for this timeline"
                          : "gap is to a bound that no static plan with these slots can go below");
    }
    if (c->setup.sim.dispatcher->copies == MP_COPY_ALL)
        mp_out_puts(o, "This dispatcher sends every token to every GPU: placement cannot change the bytes.\n");
    verdict_text(c, text, sizeof text);
    tool_verdict(opts, judged_kind(c) == GAIN_REAL ? TONE_GOOD : TONE_DOUBTFUL, text, o);
    if (c->training != NULL)
        training_text(c->training, opts->style, o);
}

static json_t *score_json(const struct contest *c, uint32_t i) {
    const struct score *s = &c->scores[i];
    json_t *o = mp_scored_json(&s->shown, score_steps(s, &c->setup));
    if (o == NULL)
        return NULL;
    bool ok = json_object_set_new(o, "kind",
                                  json_string(s->is_online          ? "policy"
                                              : s->travel != NULL   ? "experts travel"
                                              : i < c->n_strategies ? "strategy"
                                                                    : "incumbent")) == 0;
    if (ok && s->is_online && s->result != NULL)
        ok = json_object_set_new(
                 o, "online",
                 json_pack("{s:i,s:i,s:I,s:I,s:I,s:I}", "n_rebalances", (int)s->online.n_rebalances, "n_left_out",
                           (int)s->online.n_left_out, "moved_experts", (json_int_t)s->online.moved_experts,
                           "moved_bytes", (json_int_t)s->online.moved_bytes, "moved_inter_bytes",
                           (json_int_t)s->online.moved_inter_bytes, "move_ns", (json_int_t)s->online.wait_ns)) == 0;
    if (ok && s->is_online && s->result != NULL && s->online.n_layers > 0)
        ok = json_object_update_new(
                 json_object_get(o, "online"),
                 json_pack("{s:i,s:i,s:I,s:I,s:I,s:I}", "n_steps", (int)s->online.n_steps, "n_layers",
                           (int)s->online.n_layers, "n_scheduled", (json_int_t)s->online.n_schedules, "n_checked",
                           (json_int_t)s->online.n_checks, "n_fine_tuned", (json_int_t)s->online.n_tuned,
                           "break_even_ns", (json_int_t)break_even_ns(c, s))) == 0;
    if (ok && s->plan != NULL && i < c->n_strategies && !s->is_online &&
        s->travel == NULL) /* on its own planning steps: how far it fell is over-fitting */
        ok = json_object_set_new(o, "planning_step_ns", json_integer((json_int_t)s->plan->predicted_step_ns)) == 0;
    ok = ok && score_change_json(o, s, base_result(c));
    ok = ok && lossy_json(&c->setup, s, o) && (s->travel != NULL || rehoming_mark_json(&c->setup, o));
    if (ok && s->plan != NULL && c->setup.o->for_stack != NULL)
        ok = json_object_set_new(o, "replica_choice", served_json(c->setup.o, s->plan)) == 0;
    if (ok && s->result != NULL && (c->setup.o->homes != NULL || s->plan->homes.is_present))
        ok = json_object_set_new(o, "homes", score_homes_json(s)) == 0;
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static void write_json(const struct contest *c, struct mp_out *o) {
    char verdict[1024];
    const struct setup *s = &c->setup;
    verdict_text(c, verdict, sizeof verdict);
    static const char *const splits[] = {"none", "hash", "time", "category"};
    json_t *results = json_array();
    for (uint32_t i = 0; results != NULL && i < c->n; i++)
        if (json_array_append_new(results, score_json(c, i)) != 0) {
            json_decref(results);
            results = NULL;
        }
    json_t *split = json_pack("{s:s}", "kind", s->score_trace != NULL ? "score-on" : splits[s->split.kind]);
    if (split != NULL && s->split.planning_ppm > 0 &&
        json_object_set_new(split, "planning_share", json_real(s->split.planning_ppm / 1e6)) != 0) {
        json_decref(split);
        split = NULL;
    }
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:s?,s:o,s:s,s:I,s:I,s:s,s:s,s:s,s:s,s:b,s:I,s:s,s:o}", "schema", "moeplan.compare",
                  "version", 1, "topology", s->topology->name, "model", s->model->name, "baseline",
                  c->base != MP_NONE ? c->scores[c->base].name : NULL, "split", split, "steps",
                  s->workload->is_bootstrap ? "bootstrap" : "recorded", "n_steps", (json_int_t)s->workload->n_steps,
                  "n_requests", (json_int_t)s->workload->n_requests, "phase", mp_phase_name(s->batching.phase),
                  "dispatcher", s->sim.dispatcher->name, "sources",
                  s->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp", "timeline", s->o->timeline, "synthetic",
                  (int)s->trace->is_synthetic, "seed", (json_int_t)s->o->seed, "verdict", verdict, "results", results);
    if (root != NULL && s->sim.routing_ns > 0 &&
        json_object_set_new(root, "routing_ns", json_integer((json_int_t)s->sim.routing_ns)) != 0) {
        json_decref(root);
        root = NULL;
    }
    if (root != NULL && c->training != NULL && json_object_set_new(root, "training", training_json(c->training)) != 0) {
        json_decref(root);
        root = NULL;
    }
    mp_json_write(root, o);
    json_decref(root);
}

/* Strategies that are going to be planned with, policies and travels of "all" aside. */
static uint64_t n_asked(const struct opts *o) {
    uint64_t n = 1;
    if (o->strategies != NULL && strcmp(o->strategies, "all") != 0) {
        for (const char *p = o->strategies; *p != '\0'; p++)
            n += *p == ',';
        return n;
    }
    n = 0;
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++)
        n += is_asked(o->strategies, mp_recipe_at(i));
    return n;
}

enum mp_status cmd_compare(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct contest c = {0};
    struct mp_progress_part *part = NULL;
    struct mp_out *out = NULL;
    char word[4096];
    enum mp_status status = colocate_check(o, args, err);
    if (status != MP_OK || o->colocate)
        return status == MP_OK ? colocate_compare(o, args, exit_code, err) : status;
    status = tool_check_strict(o, err);
    if (status != MP_OK)
        return status;
    c.scores = mp_calloc(SCORE_PLANS_MAX, sizeof *c.scores);
    if (c.scores == NULL)
        return mp_nomem(err, "compare");
    const bool has_names = o->strategies != NULL && strcmp(o->strategies, "all") != 0;
    if (has_names)
        MP_TRY(tool_for_each_word(o->strategies, "strategy", word, MP_MAX_NAME, check_strategy, NULL, err));
    if (o->homes != NULL)
        MP_TRY(tool_for_each_word(o->homes, "homes", word, MP_MAX_NAME, check_homes, NULL, err));
    MP_TRY(setup_load(&c.setup, o, args->value[0], args->value[1], err));
    MP_TRY(tool_batching(&c.setup.batching, o, c.setup.trace, c.setup.topology, err));
    c.setup.sim = tool_sim_options(o, c.setup.trace, c.setup.batching.phase);
    MP_TRY(setup_split(&c.setup, o->split, err));
    c.base = MP_NONE;
    c.part = part = mp_progress_begin(o->progress, "strategies", n_asked(o), MP_PROGRESS_UNEVEN);
    if (has_names)
        MP_TRY(tool_for_each_word(o->strategies, "strategy", word, MP_MAX_NAME, add_strategy, &c, err));
    for (uint32_t i = 0; !has_names && mp_recipe_at(i) != NULL; i++)
        if (is_asked(o->strategies, mp_recipe_at(i)))
            MP_TRY(add_strategy(&c, mp_recipe_at(i)->name, err));
    for (uint32_t i = 0; o->strategies != NULL && !has_names && mp_policy_at(i) != NULL; i++)
        MP_TRY(add_strategy(&c, mp_policy_at(i)->name, err));
    for (uint32_t i = 0;
         o->strategies != NULL && !has_names && c.setup.batching.phase == MP_PHASE_TRAIN && mp_travel_at(i) != NULL;
         i++)
        MP_TRY(add_strategy(&c, mp_travel_at(i)->name, err));
    mp_progress_end(part);
    c.n_strategies = c.n;
    if (o->incumbent != NULL)
        MP_TRY(tool_for_each_word(o->incumbent, "incumbent", word, sizeof word, add_incumbent, &c, err));
    for (uint32_t i = 0; c.base == MP_NONE && i < c.n; i++)
        if (is_eligible(&c.scores[i]))
            c.base = i;
    if (c.base == MP_NONE) /* nothing is feasible: the answer is no */
        *exit_code = 1;
    MP_TRY(score_all(c.scores, c.n, c.base, &c.setup, (uint32_t)o->interval_groups, err));
    MP_TRY(training_compare(&c.training, &c.setup, c.scores, c.n, c.base, err));
    if (o->strict && judged_kind(&c) != GAIN_REAL)
        *exit_code = 1;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&c, out);
    else
        write_text(&c, out);
    status = tool_close_result(out, o, err);
out:
    training_free(c.training);
    for (uint32_t i = 0; i < c.n; i++)
        score_free(&c.scores[i]);
    mp_free(c.scores);
    setup_free(&c.setup);
    return status;
}
