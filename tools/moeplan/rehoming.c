#include "rehoming.h"
#include "lossy.h"
#include "served.h"
#include <moeplan/train.h>
#include <stdio.h>
#include <string.h>

enum { ROWS_MAX = 16, STEPS_MAX = 8, SLACK_PPM = 50000 };
#define EQUAL_TO "luffy"
#define POLICY "lina" /* of plans that carry none */

struct rehoming {
    struct mp_rehome_job job;
    struct mp_flow_maker maker;
};

enum mp_status rehoming_setup(struct setup *s, struct mp_error *err) {
    const struct opts *o = s->o;
    static const enum opt_id others[] = {OPT_REHOME_BALANCE, OPT_REHOME_SLACK, OPT_REHOME_CANDIDATES};
    for (size_t i = 0; i < sizeof others / sizeof *others && o->rehome == NULL; i++)
        if (o->is_set[others[i]])
            return mp_fail(err, MP_EUSAGE, "--%s says how --rehome moves sequences (add --rehome NAME)",
                           opt_table[others[i]].name);
    if (o->rehome == NULL)
        return MP_OK;
    struct rehoming *r = mp_arena_alloc(s->arena, 1, sizeof *r);
    if (r == NULL)
        return mp_nomem(err, "reading options");
    const bool is_sequences = o->rehome_balance != NULL && strcmp(o->rehome_balance, "sequences") == 0;
    r->job = (struct mp_rehome_job){.strategy = mp_rehome_find(o->rehome),
                                    .balance = is_sequences ? MP_REHOME_SEQUENCES : MP_REHOME_TOKENS,
                                    .slack_ppm = o->is_set[OPT_REHOME_SLACK] ? (uint32_t)o->rehome_slack_ppm
                                                                             : (uint32_t)SLACK_PPM,
                                    .n_candidates = (uint32_t)o->rehome_candidates};
    r->maker = mp_rehome_maker(&r->job);
    s->rehoming = r;
    return MP_OK;
}

enum mp_status rehoming_check(const struct setup *s, struct mp_error *err) {
    if (s->rehoming == NULL)
        return MP_OK;
    if (s->batching.phase == MP_PHASE_DECODE)
        return mp_fail(
            err, MP_EUSAGE,
            "--rehome moves sequences in training and prefill steps, these are of phase decode: keys and "
            "values would have to move too (convert FILE --phase train makes training steps of its requests)");
    if (s->sim.sources == MP_SOURCES_COUPLED)
        return mp_fail(err, MP_EUSAGE, "--rehome needs sequences that start on their own ranks (use --sources dp)");
    if (s->o->travel != NULL)
        return mp_fail(err, MP_EUSAGE, "--rehome moves tokens and --travel experts (write one of them)");
    return MP_OK;
}

const struct mp_flow_maker *rehoming_flow(const struct setup *s) {
    return s->rehoming == NULL ? NULL : &s->rehoming->maker;
}

static const char *balance_name(const struct mp_rehome_job *job) {
    return job->balance == MP_REHOME_SEQUENCES ? "sequences" : "tokens";
}

void rehoming_head(const struct setup *s, struct mp_out *o) {
    if (s->rehoming == NULL)
        return;
    const struct mp_rehome_job *job = &s->rehoming->job;
    mp_out_printf(o, "sequences move between layers: %s, ", job->strategy->name);
    if (job->balance == MP_REHOME_SEQUENCES)
        mp_out_puts(o, "numbers of sequences equal on every GPU, attention padded to the longest\n");
    else
        mp_out_printf(o, "tokens equal on every GPU within %.3g %%\n", job->slack_ppm * 1e-4);
    if (s->batching.phase != MP_PHASE_TRAIN)
        mp_out_puts(o, "their keys and values are left behind on the GPUs of each layer: a prefill that does this "
                       "decodes nowhere (docs/LUFFY.md)\n");
}

bool rehoming_mark_json(const struct setup *s, json_t *o) {
    if (s->rehoming == NULL)
        return true;
    const struct mp_rehome_job *job = &s->rehoming->job;
    return json_object_set_new(o, "rehomed_by",
                               json_pack("{s:s,s:s,s:f,s:i}", "strategy", job->strategy->name, "balance",
                                         balance_name(job), "slack", job->slack_ppm * 1e-6, "candidates",
                                         (int)job->n_candidates)) == 0;
}

/* ---- all of them, side by side ---- */

struct row {
    char name[64];
    const struct mp_rehome *strategy;
    struct mp_step_times mean;
    uint64_t train_ns; /* phase train; else 0 */
    double intra, inter, attention_ns, moved;
};
struct rehoming_table {
    uint32_t n, n_steps;
    bool is_train, is_condensed; /* the latter: not here, but in the figures above */
    const char *policy, *balance;
    struct row rows[ROWS_MAX];
};

/* Attention of the slowest GPU and sequences that change GPU, in one step. */
static enum mp_status look(struct row *row, const struct mp_cost_setup *setup, struct mp_traffic *traffic,
                           uint32_t step, struct mp_error *err) {
    const struct mp_token_flow *f = setup->flow;
    for (uint32_t l = 0; l < f->n_layers; l++) {
        uint64_t slowest = 0;
        enum mp_status status = mp_traffic_compute(traffic, setup, step, l, err);
        if (status != MP_OK)
            return status;
        for (uint32_t g = 0; g < traffic->n_gpus; g++) {
            const uint64_t ns = mp_layer_attention_ns(setup, traffic, g);
            slowest = ns > slowest ? ns : slowest;
        }
        row->attention_ns += (double)slowest;
        for (size_t i = 0; i < f->n_sequences; i++)
            row->moved += f->home[((size_t)l + 1) * f->n_sequences + i] != f->home[(size_t)l * f->n_sequences + i];
    }
    return MP_OK;
}

static enum mp_status train_step(uint64_t *out, const struct setup *s, const struct mp_cost_setup *setup, uint32_t step,
                                 const struct mp_train_policy *policy, struct mp_error *err) {
    struct mp_train_options options = mp_train_defaults();
    struct mp_train_work work;
    struct mp_train_timeline timeline;
    options.host_bytes_per_s = s->o->host_link;
    options.host_memory_bytes = s->o->host_memory;
    options.offload = setup->plan->training.is_present ? setup->plan->training.offload : MP_TRAIN_OFFLOAD_NONE;
    enum mp_status status = mp_train_work_make(&work, setup, step, &options, err);
    if (status != MP_OK)
        return status;
    status = mp_train_run(&timeline, &work.step, policy, false, err);
    if (status == MP_OK) {
        *out += timeline.step_ns;
        mp_train_timeline_free(&timeline);
    }
    mp_train_work_free(&work);
    return status;
}

/* What a simulation does not tell of these steps. */
static enum mp_status look_at_steps(struct row *row, const struct setup *s, const struct score *score,
                                    const struct mp_flow_maker *maker, const struct mp_sim_result *r,
                                    const struct mp_train_policy *policy, struct mp_error *err) {
    struct mp_router *router = NULL;
    struct mp_traffic *traffic = NULL;
    struct mp_token_flow *flow = NULL;
    enum mp_status status = MP_OK;
    const struct mp_plan *plan = score->plan;
    struct mp_cost_setup setup = {.plan = plan,
                                  .workload = score_steps(score, s),
                                  .topology = s->topology,
                                  .model = s->model,
                                  .dispatcher = s->sim.dispatcher,
                                  .sources = s->sim.sources,
                                  .choice = s->sim.choice};
    MP_TRY(mp_router_new(&router, plan, err));
    MP_TRY(mp_traffic_new(&traffic, plan->n_gpus, err));
    setup.router = router;
    for (uint32_t i = 0; i < r->n_steps; i++) {
        setup.flow = NULL;
        MP_TRY(maker->make(&flow, maker->ctx, &setup, (uint32_t)r->step_of[i], err));
        setup.flow = flow;
        MP_TRY(look(row, &setup, traffic, (uint32_t)r->step_of[i], err));
        if (policy != NULL)
            MP_TRY(train_step(&row->train_ns, s, &setup, (uint32_t)r->step_of[i], policy, err));
        mp_flow_free(flow);
        flow = NULL;
    }
    row->attention_ns /= r->n_steps;
    row->moved /= (double)r->n_steps * plan->n_layers;
    row->train_ns = (row->train_ns + r->n_steps / 2) / r->n_steps;
out:
    mp_flow_free(flow);
    mp_traffic_free(traffic);
    mp_router_free(router);
    return status;
}

static enum mp_status add_row(struct rehoming_table *t, const struct setup *s, const struct score *score,
                              const struct mp_rehome *strategy, bool is_like, const struct mp_train_policy *policy,
                              struct mp_error *err) {
    struct row *row = &t->rows[t->n];
    struct mp_rehome_job job = s->rehoming->job;
    struct mp_sim_options sim = s->sim;
    struct mp_sim_result *r = NULL;
    job.strategy = strategy;
    job.balance_of = is_like ? mp_rehome_find(EQUAL_TO) : NULL;
    const struct mp_flow_maker maker = mp_rehome_maker(&job);
    sim.flow = &maker;
    sim.with_bound = false;
    sim.n_steps_max = STEPS_MAX;
    enum mp_status status = served_simulate(&r, s, score->plan, score_steps(score, s), &sim, err);
    if (status != MP_OK)
        return status;
    *row = (struct row){.strategy = strategy, .mean = r->mean, .intra = r->intra_bytes, .inter = r->inter_bytes};
    snprintf(row->name, sizeof row->name, "%s%s", strategy->name, is_like ? ", balanced as " EQUAL_TO : "");
    status = look_at_steps(row, s, score, &maker, r, policy, err);
    t->n_steps = r->n_steps;
    t->n++;
    mp_sim_result_free(r);
    return status;
}

enum mp_status rehoming_run(struct rehoming_table **out, const struct setup *s, const struct score *score,
                            struct mp_error *err) {
    const struct mp_plan_training *own = &score->plan->training;
    *out = NULL;
    if (s->rehoming == NULL)
        return MP_OK;
    struct rehoming_table *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return mp_nomem(err, "strategies that move sequences");
    t->is_train = s->batching.phase == MP_PHASE_TRAIN;
    t->is_condensed = s->lossy != NULL;
    t->policy = own->is_present ? own->name : POLICY;
    t->balance = balance_name(&s->rehoming->job);
    const struct mp_train_policy *policy = own->is_present ? &own->policy : &mp_train_policy_find(POLICY)->policy;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; mp_rehome_at(i) != NULL && status == MP_OK; i++)
        for (uint32_t k = 0; k < 1 + (uint32_t)mp_rehome_at(i)->sees_next && t->n < ROWS_MAX && status == MP_OK; k++)
            status = add_row(t, s, score, mp_rehome_at(i), k == 1, t->is_train ? policy : NULL, err);
    if (status == MP_OK)
        *out = t;
    else
        mp_free(t);
    return status;
}

static void put_against(struct mp_table *t, double value, double base) {
    if (base > 0)
        mp_table_cell(t, "%+.1f %%", 100 * (value / base - 1));
    else
        mp_table_cell(t, "%s", value > 0 ? "more" : "0");
}

void rehoming_text(const struct rehoming_table *t, const struct mp_style *style, struct mp_out *o) {
    static const char *const columns[] = {"sequences", "step",         "against none", "dispatch",  "combine",
                                          "between",   "inside nodes", "attention",    "that move", "training step"};
    char buf[32];
    if (t == NULL)
        return;
    struct mp_table *table = mp_table_new();
    if (table == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: strategies that move sequences");
        return;
    }
    const size_t n_columns = sizeof columns / sizeof *columns - !t->is_train;
    mp_table_columns(table, columns, n_columns, "0015637842", 1);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i], *none = &t->rows[0];
        mp_table_cell(table, "%s", r->name);
        mp_table_cell(table, "%s", mp_human_ns((double)r->mean.step_ns, buf));
        put_against(table, (double)r->mean.step_ns, (double)none->mean.step_ns);
        put_against(table, (double)r->mean.dispatch_ns, (double)none->mean.dispatch_ns);
        put_against(table, (double)r->mean.combine_ns, (double)none->mean.combine_ns);
        put_against(table, r->inter, none->inter);
        put_against(table, r->intra, none->intra);
        put_against(table, r->attention_ns, none->attention_ns);
        mp_table_cell(table, "%.1f", r->moved);
        if (t->is_train) {
            char percent[32];
            snprintf(percent, sizeof percent, "%+.1f %%",
                     100 * ((double)r->train_ns / (double)(none->train_ns > 0 ? none->train_ns : 1) - 1));
            mp_table_cell(table, "%s%s%s", mp_human_ns((double)r->train_ns, buf), i == 0 ? "" : ", ",
                          i == 0 ? "" : percent);
        }
    }
    mp_out_printf(
        o,
        "\nsequences that move between layers (docs/LUFFY.md), mean of %u step%s, %s kept equal; against those "
        "that stay%s%s%s\n\n",
        t->n_steps, t->n_steps == 1 ? "" : "s", t->balance, t->is_condensed ? "; lossless, nothing condensed" : "",
        t->is_train ? "; training steps under " : "", t->is_train ? t->policy : "");
    mp_table_show(table, style, o);
    mp_table_free(table);
}

json_t *rehoming_json(const struct rehoming_table *t) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < t->n && rows != NULL; i++) {
        const struct row *r = &t->rows[i];
        json_t *one =
            json_pack("{s:s,s:s,s:b,s:i,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:o}", "strategy", r->strategy->name,
                      "balance", t->balance, "balanced_as_luffy", strlen(r->name) > strlen(r->strategy->name),
                      "n_steps", (int)t->n_steps, "step_ns", (json_int_t)r->mean.step_ns, "dispatch_ns",
                      (json_int_t)r->mean.dispatch_ns, "compute_ns", (json_int_t)r->mean.compute_ns, "combine_ns",
                      (json_int_t)r->mean.combine_ns, "other_ns", (json_int_t)r->mean.other_ns, "inter_node_bytes",
                      r->inter, "intra_node_bytes", r->intra, "attention_ns", r->attention_ns, "moved_per_layer",
                      r->moved, "training_step_ns", t->is_train ? json_integer((json_int_t)r->train_ns) : json_null());
        if (one == NULL || json_array_append_new(rows, one) != 0) {
            json_decref(rows);
            rows = NULL;
        }
    }
    return rows;
}

void rehoming_free(struct rehoming_table *t) { mp_free(t); }
