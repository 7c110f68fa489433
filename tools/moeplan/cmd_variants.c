/* moeplan variants: a library of plans for domains that take turns, the rule that switches between them, and what both
 * are worth on held-out steps beside one static plan and plans that know more. docs/VARIANTS.md. */
#include "kinds.h"
#include <stdio.h>
#include <string.h>

enum { LENGTHS_MAX = 16, DOMAINS_USUAL = 4, LENGTH_MOST = 1000000, WEIGHT_MOST = 1000000 };

struct variants {
    const struct opts *o;
    struct setup s;
    struct kinds kinds;
    struct mp_part joined; /* planning data of all recordings, where there are several */
    uint32_t lengths[LENGTHS_MAX], n_lengths, weights[KINDS_MAX], n_weights;
    struct mp_plan_request base, proven;
    const struct mp_strategy *policy[MP_VARIANT_POLICIES_MAX];
    uint32_t n_policies;
    struct mp_plan *start; /* what they begin with */
    struct mp_variants *library;
    struct mp_variants_score *score;
    double seconds;
    const char *plan_name[MP_VARIANTS_MAX], *path[MP_VARIANTS_MAX];
};

static enum mp_status add_length(void *ctx, const char *word, struct mp_error *err) {
    struct variants *x = ctx;
    uint64_t n;
    if (!mp_parse_u64(word, strlen(word), &n) || n < 1 || n > LENGTH_MOST)
        return mp_fail(err, MP_EUSAGE, "--blocks: \"%.40s\" is not a number of steps in [1, %d]", word, LENGTH_MOST);
    if (x->n_lengths == LENGTHS_MAX)
        return mp_fail(err, MP_EUSAGE, "--blocks: more than %d lengths (give fewer)", LENGTHS_MAX);
    for (uint32_t i = 0; i < x->n_lengths; i++)
        if (x->lengths[i] >= n)
            return mp_fail(err, MP_EUSAGE, "--blocks: %llu comes after %u (write lengths in ascending order)",
                           (unsigned long long)n, x->lengths[i]);
    x->lengths[x->n_lengths++] = (uint32_t)n;
    return MP_OK;
}

static enum mp_status add_weight(void *ctx, const char *word, struct mp_error *err) {
    struct variants *x = ctx;
    uint64_t n;
    if (!mp_parse_u64(word, strlen(word), &n) || n < 1 || n > WEIGHT_MOST)
        return mp_fail(err, MP_EUSAGE, "--weights: \"%.40s\" is not a whole number in [1, %d]", word, WEIGHT_MOST);
    if (x->n_weights < KINDS_MAX)
        x->weights[x->n_weights] = (uint32_t)n;
    x->n_weights++;
    return MP_OK;
}

/* How many blocks there are of each domain: as asked, else as requests of a recording, and of several alike. */
static enum mp_status set_weights(struct variants *x, struct mp_error *err) {
    char word[32];
    if (x->o->weights == NULL) {
        for (uint32_t i = 0; i < x->kinds.n; i++)
            x->weights[i] = x->kinds.joined != NULL ? 1 : x->kinds.planning[i].n;
        return MP_OK;
    }
    enum mp_status status = tool_for_each_word(x->o->weights, "weights", word, sizeof word, add_weight, x, err);
    if (status == MP_OK && x->n_weights != x->kinds.n)
        return mp_fail(err, MP_EUSAGE, "--weights: %u weight%s for %u domains (write one for each)", x->n_weights,
                       tool_s(x->n_weights), x->kinds.n);
    return status;
}

/* Where there are several recordings all are planned on together, and the plans are proven on TRACE. */
static enum mp_status set_requests(struct variants *x, struct mp_error *err) {
    x->base = x->proven = score_request(&x->s, x->o->strategy);
    if (x->kinds.joined == NULL)
        return MP_OK;
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->kinds.n; i++)
        n += x->kinds.planning[i].n;
    x->joined = (struct mp_part){.trace = x->kinds.joined, .members = mp_calloc(n, sizeof(uint32_t))};
    if (x->joined.members == NULL)
        return mp_nomem(err, "planning");
    for (uint32_t i = 0; i < x->kinds.n; i++) { /* they ascend: one recording is behind the other */
        memcpy(x->joined.members + x->joined.n, x->kinds.planning[i].members,
               x->kinds.planning[i].n * sizeof *x->joined.members);
        x->joined.n += x->kinds.planning[i].n;
    }
    x->base.planning = &x->joined;
    return MP_OK;
}

static enum mp_status make(struct variants *x, const char **no, struct mp_error *err) {
    const struct opts *o = x->o;
    const struct mp_variants_request request = {.base = x->base,
                                                .proven = x->kinds.joined != NULL ? &x->proven : NULL,
                                                .domains = x->kinds.planning,
                                                .names = x->kinds.name,
                                                .weights = x->weights,
                                                .n_domains = x->kinds.n,
                                                .n_variants_max = (uint32_t)o->variants,
                                                .window = (uint32_t)o->window,
                                                .group_layers = (uint32_t)o->group_layers,
                                                .budget_ppm = (uint32_t)o->regret_ppm,
                                                .overlap_ppm = (uint32_t)o->overlap_ppm,
                                                .lengths = x->lengths,
                                                .n_lengths = x->n_lengths};
    enum mp_outcome outcome;
    struct mp_error why = {0};
    enum mp_status status = mp_variants_make(&x->library, &request, &outcome, &x->seconds, &why);
    *no = NULL;
    if (status != MP_OK) {
        *err = why;
        return status;
    }
    if (x->library != NULL)
        return MP_OK;
    *no = mp_arena_printf(x->s.arena, "%s: %s", outcome == MP_NOT_APPLICABLE ? "not applicable" : "not feasible",
                          why.message);
    return *no != NULL ? MP_OK : mp_nomem(err, "planning");
}

/* ---- policies beside it ---- */

static enum mp_status add_policy(void *ctx, const char *word, struct mp_error *err) {
    struct variants *x = ctx;
    const struct mp_strategy *p = mp_policy_find(word);
    if (p == NULL || !mp_online_needs_tokens(p))
        return mp_fail(err, MP_EUSAGE,
                       "--beside: \"%.40s\" is no policy that decides step by step (write lina-online, lina-free or "
                       "another of them, or none; moeplan list strategies)",
                       word);
    if (x->n_policies == MP_VARIANT_POLICIES_MAX)
        return mp_fail(err, MP_EUSAGE, "--beside: more than %d policies (give fewer)", MP_VARIANT_POLICIES_MAX);
    x->policy[x->n_policies++] = p;
    return MP_OK;
}

/* What the policies start with; a note where they cannot run. */
static enum mp_status start_policies(struct variants *x, struct mp_error *err) {
    struct mp_plan_request request = x->base;
    struct mp_error why = {0};
    enum mp_outcome outcome;
    const char *recipe;
    if (x->s.trace->kind != MP_TRACE_TOKENS && x->n_policies > 0) {
        tool_note(x->o, "%s and the like need to know which experts one token used: left out", x->policy[0]->name);
        x->n_policies = 0;
    }
    if (x->n_policies == 0)
        return MP_OK;
    enum mp_status status = mp_online_start(&recipe, x->policy[0], x->s.settings, x->s.n_settings, err);
    if (status != MP_OK)
        return status;
    request.strategy = recipe;
    request.replicate = request.place = request.route = NULL;
    request.order = "single";
    request.is_trial = true;
    status = mp_plan_make(&x->start, &request, &outcome, NULL, &why);
    if (status != MP_OK)
        *err = why;
    if (status == MP_OK && x->start == NULL) {
        tool_note(x->o, "%s: %s: left out", x->policy[0]->name, why.message);
        x->n_policies = 0;
    }
    return status;
}

static enum mp_status policy_times(void *ctx, uint32_t which, uint32_t domain, const struct mp_workload *w,
                                   uint64_t *ns, struct mp_error *err) {
    const struct variants *x = ctx;
    struct mp_online_request request = {.policy = x->policy[which],
                                        .planning = x->base.planning,
                                        .start = x->start,
                                        .workload = w,
                                        .topology = x->s.topology,
                                        .model = x->s.model,
                                        .sim = x->s.sim,
                                        .n_redundant = x->base.n_redundant,
                                        .needs_distinct = x->base.needs_distinct,
                                        .settings = x->s.settings,
                                        .n_settings = x->s.n_settings};
    struct mp_online_result *r;
    (void)domain;
    request.sim.n_threads = x->base.n_threads;
    enum mp_status status = mp_online_simulate(&r, &request, err);
    if (status != MP_OK)
        return status;
    for (uint32_t t = 0; t < r->sim->n_steps; t++)
        ns[t] = r->sim->steps[t].step_ns;
    mp_online_result_free(r);
    return MP_OK;
}

static enum mp_status score(struct variants *x, struct mp_error *err) {
    const struct mp_variants_score_request request = {.base = &x->base,
                                                      .planned = x->kinds.planning,
                                                      .scored = x->kinds.scored,
                                                      .weights = x->weights,
                                                      .n_domains = x->kinds.n,
                                                      .lengths = x->lengths,
                                                      .n_lengths = x->n_lengths,
                                                      .n_steps = (uint32_t)x->o->pool,
                                                      .seed = x->o->seed,
                                                      .n_policies = x->n_policies,
                                                      .policy = policy_times,
                                                      .policy_ctx = x};
    return mp_variants_score(&x->score, x->library, &request, err);
}

/* ---- files ---- */

/* lib.yaml -> lib.0.yaml, lib.1.yaml ... beside it. */
static enum mp_status name_plans(struct variants *x, struct mp_error *err) {
    const char *out = x->o->out, *slash = strrchr(out, '/'), *dot = strrchr(out, '.');
    if (dot == NULL || (slash != NULL && dot < slash))
        dot = out + strlen(out);
    for (uint32_t i = 0; i < x->library->n; i++) {
        x->path[i] = mp_arena_printf(x->s.arena, "%.*s.%u%s", (int)(dot - out), out, i, dot);
        if (x->path[i] == NULL)
            return mp_nomem(err, "writing a library");
        slash = strrchr(x->path[i], '/');
        x->plan_name[i] = slash != NULL ? slash + 1 : x->path[i];
    }
    return MP_OK;
}

/* All files or none: each is finished before the first gets its name. */
static enum mp_status write_files(struct variants *x, struct mp_error *err) {
    struct mp_out *files[MP_VARIANTS_MAX + 1] = {NULL};
    const char *sha256[MP_VARIANTS_MAX];
    const uint32_t n = x->library->n;
    enum mp_status status = MP_OK;
    MP_TRY(name_plans(x, err));
    for (uint32_t i = 0; i <= n; i++) {
        MP_TRY(mp_out_open(&files[i], i < n ? x->path[i] : x->o->out, err));
        if (i < n) {
            struct mp_out *text;
            size_t size;
            char hex[65];
            MP_TRY(mp_out_open_memory(&text, err));
            mp_plan_write(x->library->variant[i].plan, text);
            const uint8_t *bytes = mp_out_memory_bytes(text, &size);
            if (bytes != NULL) {
                mp_sha256_hex(bytes, size, hex);
                mp_out_write(files[i], bytes, size);
                sha256[i] = mp_arena_strdup(x->s.arena, hex);
            }
            status = mp_out_commit(text, err);
            if (status == MP_OK && (bytes == NULL || sha256[i] == NULL))
                status = mp_nomem(err, "writing a library");
            if (status != MP_OK)
                goto out;
        } else {
            mp_variants_write_rule(x->library, x->plan_name, sha256, files[i]);
        }
        MP_TRY(mp_out_finish(files[i], err));
    }
    for (uint32_t i = 0; i <= n; i++) {
        struct mp_out *file = files[i];
        files[i] = NULL;
        MP_TRY(mp_out_commit(file, err));
    }
out:
    for (uint32_t i = 0; i <= MP_VARIANTS_MAX; i++)
        mp_out_cancel(files[i]);
    return status;
}

/* ---- reports ---- */

static double change(double ns, double base) { return base > 0 ? ns / base - 1 : 0; }

static void put_row(struct mp_table *t, const struct variants *x, const char *name, size_t field) {
    const struct mp_variants_score *s = x->score;
    mp_table_cell(t, "%s", name);
    for (uint32_t i = 0; i < s->n_lengths; i++) {
        const double ns = *(const double *)((const char *)&s->cell[i] + field);
        char buf[32];
        mp_table_cell(t, "%s", mp_human_ns(ns, buf));
        mp_table_cell(t, "%+.2f %%", 100 * change(ns, s->cell[i].static_ns));
    }
}

static void write_table(const struct variants *x, struct mp_out *o) {
    const struct mp_variants_score *s = x->score;
    struct mp_table *t = mp_table_new();
    char text[64];
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a table");
        return;
    }
    mp_table_column(t, "blocks of", false);
    for (uint32_t i = 0; i < s->n_lengths; i++) {
        snprintf(text, sizeof text, "%u step%s", s->cell[i].length, tool_s(s->cell[i].length));
        mp_table_column(t, text, true);
        mp_table_may_drop(t, 1);
        mp_table_column(t, "vs static", true);
    }
    put_row(t, x, "static plan", offsetof(struct mp_variants_cell, static_ns));
    snprintf(text, sizeof text, "K = %u variants", x->library->n);
    put_row(t, x, text, offsetof(struct mp_variants_cell, variants_ns));
    for (uint32_t i = 0; i < x->n_policies; i++)
        put_row(t, x, x->policy[i]->name, offsetof(struct mp_variants_cell, policy_ns) + i * sizeof(double));
    put_row(t, x, "best variant of each step, free", offsetof(struct mp_variants_cell, best_ns));
    put_row(t, x, "per-domain oracle, free", offsetof(struct mp_variants_cell, oracle_ns));
    put_row(t, x, "per-step oracle (bound)", offsetof(struct mp_variants_cell, bound_ns));
    mp_table_show(t, x->o->style, o);
    mp_table_free(t);
    for (uint32_t i = 0; i < s->n_lengths && x->library->n > 1; i++) {
        const struct mp_variants_cell *c = &s->cell[i];
        const double gap = c->static_ns - c->oracle_ns;
        char a[32], b[32];
        mp_out_printf(o, "%u: %u blocks, %llu switches of a group, %s moved, %s per step", c->length, c->n_blocks,
                      (unsigned long long)c->n_switches, mp_human_bytes((double)c->moved_bytes, a),
                      mp_human_ns(c->switching_ns, b));
        if (gap > 0)
            mp_out_printf(o, "; %.0f %% of the gap to the per-domain oracle",
                          100 * (c->static_ns - c->variants_ns) / gap);
        mp_out_printf(o, "; at any block's end at most %+.2f %% of the static plan's time\n", 100 * c->worst_block);
    }
}

static void write_text(const struct variants *x, struct mp_out *o) {
    const struct mp_variants *v = x->library;
    const struct mp_variants_score *s = x->score;
    const struct mp_switch_rule *r = &v->rule;
    char a[32], b[32];
    mp_out_printf(o, "%u domain%s of %s, %s; static plan: %s; %u candidates, %.2f s\n", x->kinds.n, tool_s(x->kinds.n),
                  x->s.trace->kind == MP_TRACE_COUNTS ? "iterations" : "requests",
                  x->s.split.kind == MP_SPLIT_NONE ? "scored on the planning data" : "scored held-out", x->o->strategy,
                  v->n_candidates, x->seconds);
    if (v->n == 1 && x->o->variants == 1)
        mp_out_puts(o, "K = 1, as asked: nothing is switched\n");
    else if (v->n == 1)
        mp_out_printf(o,
                      "K = 1: on the validation part no variant beats the static plan by more than 0.03 %% within a "
                      "budget of %.4g %% (--regret); nothing is switched\n",
                      (double)x->o->regret_ppm / 1e4);
    else
        mp_out_printf(
            o,
            "K = %u variants, validated gain %.2f %%; %u group%s of up to %u layers, window %u step%s, patience "
            "%.2f of a switch, budget %.2f %%\n",
            v->n, 100 * v->validation_gain, r->n_groups, tool_s(r->n_groups), r->first_layer[1], r->window,
            tool_s(r->window), r->patience_ppm / 1e6, r->budget_ppm / 1e4);
    for (uint32_t i = 0; i < v->n && v->n > 1; i++)
        mp_out_printf(o, "  variant %u: made for %.60s%s (%u), %u layers and %u experts away from the static plan\n", i,
                      v->variant[i].from, strlen(v->variant[i].from) > 60 ? "..." : "", v->variant[i].n_members,
                      v->variant[i].n_layers_changed, v->variant[i].n_moves);
    mp_out_puts(o, "\n");
    for (uint32_t d = 0; d < s->n_domains; d++) {
        const struct mp_variants_domain *m = &s->domain[d];
        mp_out_printf(o, "  %.60s%s: ", x->kinds.name[d], strlen(x->kinds.name[d]) > 60 ? "..." : "");
        if (m->n_steps == 0) {
            mp_out_puts(o, "nothing to score on\n");
            continue;
        }
        mp_out_printf(o, "%u distinct steps of %u %s%s; static %s", m->n_steps, m->n_requests,
                      x->s.trace->kind == MP_TRACE_COUNTS ? "iteration" : "request", tool_s(m->n_requests),
                      mp_human_ns((double)m->static_ns, a));
        for (uint32_t i = 1; i < v->n; i++)
            mp_out_printf(o, ", variant %u %+.2f %%", i, 100 * change((double)m->variant_ns[i], (double)m->static_ns));
        mp_out_printf(o, ", its own plan %+.2f %%\n", 100 * change((double)m->oracle_ns, (double)m->static_ns));
    }
    mp_out_puts(o, "\n");
    write_table(x, o);
    if (v->n > 1) {
        mp_out_printf(o, "switching between two domains' best variants: %s, saves %s a step: even after %.0f steps\n",
                      mp_human_ns(s->switch_ns, a), mp_human_ns(s->saved_ns, b),
                      s->saved_ns > 0 ? s->switch_ns / s->saved_ns : 0.0);
        if (s->break_even > 0)
            mp_out_printf(o, "break-even: blocks of %u steps and longer are served faster than by the static plan\n",
                          s->break_even);
        else
            mp_out_puts(o, "break-even: blocks of no length tried are served faster than by the static plan\n");
    }
    if (x->o->out != NULL)
        mp_out_printf(o, "%s: the rule, beside %u plan%s\n", x->o->out, v->n, tool_s(v->n));
}

static json_t *cell_json(const struct variants *x, const struct mp_variants_cell *c) {
    const double gap = c->static_ns - c->oracle_ns;
    json_t *policies = json_object();
    for (uint32_t i = 0; i < x->n_policies; i++)
        (void)json_object_set_new(policies, x->policy[i]->name, mp_json_finite(c->policy_ns[i]));
    return json_pack("{s:i,s:i,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:o,s:o,s:o}", "block_steps", (int)c->length,
                     "n_blocks", (int)c->n_blocks, "n_steps", (json_int_t)c->n_steps, "static_ns",
                     mp_json_finite(c->static_ns), "variants_ns", mp_json_finite(c->variants_ns), "switching_ns",
                     mp_json_finite(c->switching_ns), "best_variant_ns", mp_json_finite(c->best_ns), "domain_oracle_ns",
                     mp_json_finite(c->oracle_ns), "step_oracle_ns", mp_json_finite(c->bound_ns), "n_switches",
                     (json_int_t)c->n_switches, "moved_bytes", (json_int_t)c->moved_bytes, "share_of_gap",
                     gap > 0 ? mp_json_finite((c->static_ns - c->variants_ns) / gap) : json_null(), "worst_at_a_block",
                     mp_json_finite(c->worst_block), "policies_ns", policies);
}

static void write_json(const struct variants *x, struct mp_out *o) {
    const struct mp_variants *v = x->library;
    const struct mp_variants_score *s = x->score;
    json_t *domains = json_array(), *variants = json_array(), *cells = json_array();
    for (uint32_t d = 0; d < s->n_domains; d++) {
        const struct mp_variants_domain *m = &s->domain[d];
        json_t *times = json_array();
        for (uint32_t i = 0; i < v->n; i++)
            (void)json_array_append_new(times, json_integer((json_int_t)m->variant_ns[i]));
        (void)json_array_append_new(domains,
                                    json_pack("{s:s,s:i,s:i,s:o,s:I,s:I,s:I}", "name", x->kinds.name[d], "n_steps",
                                              (int)m->n_steps, "n_requests", (int)m->n_requests, "variant_ns", times,
                                              "oracle_ns", (json_int_t)m->oracle_ns, "best_ns", (json_int_t)m->best_ns,
                                              "bound_ns", (json_int_t)m->bound_ns));
    }
    for (uint32_t i = 0; i < v->n; i++)
        (void)json_array_append_new(variants, json_pack("{s:s,s:i,s:i,s:i,s:o}", "made_for", v->variant[i].from,
                                                        "n_members", (int)v->variant[i].n_members, "layers_changed",
                                                        (int)v->variant[i].n_layers_changed, "experts_away",
                                                        (int)v->variant[i].n_moves, "plan",
                                                        x->path[i] != NULL ? json_string(x->path[i]) : json_null()));
    for (uint32_t i = 0; i < s->n_lengths; i++)
        (void)json_array_append_new(cells, cell_json(x, &s->cell[i]));
    json_t *root = json_pack(
        "{s:s,s:i,s:s,s:i,s:i,s:o,s:i,s:i,s:i,s:i,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "schema", "moeplan.variants",
        "version", 1, "strategy", x->o->strategy, "k", (int)v->n, "n_candidates", (int)v->n_candidates,
        "validation_gain", mp_json_finite(v->validation_gain), "n_groups", (int)v->rule.n_groups, "window_steps",
        (int)v->rule.window, "patience_ppm", (int)v->rule.patience_ppm, "budget_ppm", (int)v->rule.budget_ppm,
        "evaluated_on", x->s.split.kind == MP_SPLIT_NONE ? "planning data" : "held-out", "plan_seconds",
        mp_json_finite(x->seconds), "variants", variants, "domains", domains, "blocks", cells, "switch_ns",
        mp_json_finite(s->switch_ns), "saved_ns", mp_json_finite(s->saved_ns), "break_even_steps",
        s->break_even > 0 ? json_integer((json_int_t)s->break_even) : json_null());
    mp_json_write(root, o);
    json_decref(root);
}

static enum mp_status check(const struct opts *o, struct mp_error *err) {
    if (mp_policy_find(o->strategy) != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "variants: %s moves experts while the model is served, and a plan does not (moeplan compare "
                       "--strategy %s replays it)",
                       o->strategy, o->strategy);
    if (o->out != NULL && strcmp(o->out, "-") == 0)
        return mp_fail(err, MP_EUSAGE, "variants: -o - has no place for several files (write -o FILE)");
    return o->out != NULL ? tool_check_output(o->out, err) : MP_OK;
}

enum mp_status cmd_variants(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct variants x = {.o = o, .s = {.o = o}};
    struct mp_out *out = NULL;
    const char *no;
    enum mp_status status = MP_OK;
    MP_TRY(check(o, err));
    MP_TRY(setup_load(&x.s, o, args->value[0], args->value[1], err));
    MP_TRY(tool_batching(&x.s.batching, o, x.s.trace, x.s.topology, err));
    x.s.sim = tool_sim_options(o, x.s.trace, x.s.batching.phase);
    char word[64];
    MP_TRY(tool_for_each_word(o->blocks, "blocks", word, sizeof word, add_length, &x, err));
    if (strcmp(o->beside, "none") != 0)
        MP_TRY(tool_for_each_word(o->beside, "beside", word, sizeof word, add_policy, &x, err));
    MP_TRY(mp_split_parse(&x.s.split, o->split, o->seed, err));
    MP_TRY(mp_part_split(&x.s.planning, &x.s.scored, x.s.trace, &x.s.split, err));
    tool_note_generic(o, x.s.model);
    MP_TRY(kinds_load(&x.kinds, &x.s, o->kinds, "domains", args->value[0], DOMAINS_USUAL, KINDS_MAX, err));
    MP_TRY(set_weights(&x, err));
    MP_TRY(set_requests(&x, err));
    MP_TRY(start_policies(&x, err));
    MP_TRY(make(&x, &no, err));
    if (no != NULL) {
        tool_say("variants: %s", no);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.variants", "infeasible", no, err) : MP_OK;
        goto out;
    }
    tool_note(o, "K = %u of %u candidates in %.2f s", x.library->n, x.library->n_candidates, x.seconds);
    MP_TRY(score(&x, err));
    if (o->out != NULL)
        MP_TRY(write_files(&x, err));
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&x, out);
    else
        write_text(&x, out);
    status = tool_close_result(out, o, err);
out:
    mp_variants_score_free(x.score);
    mp_plan_free(x.start);
    mp_variants_free(x.library);
    mp_part_free(&x.joined);
    kinds_free(&x.kinds);
    setup_free(&x.s);
    return status;
}
