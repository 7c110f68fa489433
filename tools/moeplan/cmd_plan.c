/* moeplan plan: a verified plan file from a recording and a topology. */
#include "score.h"
#include "colocate.h"
#include "from.h"
#include "robust.h"
#include "served.h"
#include "lossy.h"
#include "training.h"
#include <stdio.h>
#include <string.h>

static const char *certificate_name(enum mp_certificate_kind kind) {
    return kind == MP_CERT_ORDER ? "order" : kind == MP_CERT_PLACEMENT ? "placement" : "residual";
}
static const char *proof_name(enum mp_proof_kind proof) {
    return proof == MP_PROOF_CLOSED_FORM ? "closed-form" : proof == MP_PROOF_SEARCH ? "search" : "stopped";
}
static double gap_of(const struct mp_certificate *c) {
    return c->bound_ns > 0 ? (double)c->value_ns / (double)c->bound_ns - 1 : 0;
}

static void write_text(const struct setup *s, const struct score *score, const struct from *from,
                       const struct robust *robust, struct mp_out *o) {
    char a[32], b[32], text[1024];
    const struct mp_plan *p = score->plan;
    const struct mp_sim_result *r = score->result;
    mp_out_printf(
        o, "%s: %u layer%s of %u experts in %u slots on %u GPU%s (%s): replicate %s, place %s, route %s, order %s\n",
        s->o->out, p->n_layers, tool_s(p->n_layers), p->n_experts, p->n_slots, p->n_gpus, tool_s(p->n_gpus),
        s->topology->name, p->provenance.replicate, p->provenance.place, p->provenance.route, p->provenance.order);
    mp_out_printf(o, "strategy %s%s, selected on %s, %.2f s, verified\n", p->provenance.strategy,
                  p->provenance.is_synthetic ? " (SYNTHETIC recording)" : "", p->provenance.selected_on,
                  score->shown.plan_seconds);
    mp_out_printf(o, "predicted step on the planning data: %s (mean of %llu step%s%s)",
                  mp_human_ns((double)p->predicted_step_ns, a), (unsigned long long)p->n_planning_steps,
                  tool_s(p->n_planning_steps), p->is_pipelined ? ", with barriers" : "");
    if (p->is_pipelined)
        mp_out_printf(o, ", pipelined %s", mp_human_ns((double)p->predicted_pipelined_ns, a));
    mp_out_puts(o, "\n");
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        mp_out_printf(o, "%s: %s, bound %s, gap %.1f %% (%s; %s)\n", certificate_name(c->kind),
                      mp_human_ns((double)c->value_ns, a), mp_human_ns((double)c->bound_ns, b), 100 * gap_of(c),
                      proof_name(c->proof), c->scope);
    }
    if (p->provenance.stopped_by != NULL && strcmp(p->provenance.stopped_by, "done") != 0)
        mp_out_printf(o, "the search was stopped by its %s\n",
                      strcmp(p->provenance.stopped_by, "wall_clock") == 0 ? "time limit" : "work limit");
    if (p->condense.is_present)
        mp_out_printf(o, "%s; figures here are without\n", lossy_describe(p, text, sizeof text));
    if (p->training.is_present)
        mp_out_printf(o, "%s\n", training_describe(p, text, sizeof text));
    if (from->is_used)
        from_write(from, o);
    if (robust->is_used)
        robust_write(robust, s, o);
    if (r == NULL)
        return;
    mp_out_printf(o, "\n%s\n", score_describe(s, text, sizeof text));
    if (served_describe(s->o, p, text, sizeof text)[0] != '\0')
        mp_out_printf(o, "replicas as %s\n", text);
    mp_out_printf(o, "step %s (p95 %s): ", mp_human_ns((double)r->mean.step_ns, a), mp_human_ns((double)r->p95_ns, b));
    mp_out_printf(o, "dispatch %s, ", mp_human_ns((double)r->mean.dispatch_ns, a));
    mp_out_printf(o, "experts %s, combine %s, ", mp_human_ns((double)r->mean.compute_ns, a),
                  mp_human_ns((double)r->mean.combine_ns, b));
    mp_out_printf(o, "other %s; max/mean %.2f\n", mp_human_ns((double)r->mean.other_ns, a), r->balance.max_over_mean);
    mp_out_printf(o, "memory of the fullest GPU: %s of weights, %s tokens of KV cache beside them\n",
                  mp_human_bytes((double)r->memory_bytes_max, a), score_kv_tokens(s, r, b));
}

static void write_json(const struct setup *s, const struct score *score, const struct gain *gain,
                       const struct from *from, const struct robust *robust, struct mp_out *o) {
    const struct mp_plan *p = score->plan;
    char text[256];
    json_t *certificates = json_array();
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        (void)json_array_append_new(
            certificates, json_pack("{s:s,s:s,s:s,s:I,s:I,s:o}", "kind", certificate_name(c->kind), "proof",
                                    proof_name(c->proof), "scope", c->scope, "value_ns", (json_int_t)c->value_ns,
                                    "bound_ns", (json_int_t)c->bound_ns, "gap", mp_json_finite(gap_of(c))));
    }
    json_t *root = json_pack(
        "{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:I,s:I,s:o,s:s,s:b,s:o,s:o,s:o,s:o}", "schema",
        "moeplan.plan", "version", 1, "outcome", "found", "output", s->o->out, "strategy", p->provenance.strategy,
        "replicate", p->provenance.replicate, "place", p->provenance.place, "route", p->provenance.route, "order",
        p->provenance.order, "n_layers", (int)p->n_layers, "n_experts", (int)p->n_experts, "n_gpus", (int)p->n_gpus,
        "n_slots", (int)p->n_slots, "predicted_step_ns", (json_int_t)p->predicted_step_ns, "n_planning_steps",
        (json_int_t)p->n_planning_steps, "plan_seconds", mp_json_finite(score->shown.plan_seconds), "stopped_by",
        p->provenance.stopped_by != NULL ? p->provenance.stopped_by : "done", "reproducible",
        (int)p->provenance.is_reproducible, "certificates", certificates, "gain", gain_json(gain), "from",
        from_json(from), "result",
        score->result != NULL ? mp_scored_json(&score->shown, score_steps(score, s)) : json_null());
    if (root != NULL && s->o->for_stack != NULL &&
        json_object_set_new(root, "replica_choice", served_json(s->o, p)) != 0) {
        json_decref(root);
        root = NULL;
    }
    if (root != NULL && robust->is_used && json_object_set_new(root, "robust", robust_json(robust, s)) != 0) {
        json_decref(root);
        root = NULL;
    }
    if (root != NULL && p->training.is_present &&
        json_object_set_new(root, "training", training_section_json(p)) != 0) {
        json_decref(root);
        root = NULL;
    }
    if (root != NULL && p->condense.is_present &&
        json_object_set_new(root, "lossy", json_string(lossy_describe(p, text, sizeof text))) != 0) {
        json_decref(root);
        root = NULL;
    }
    mp_json_write(root, o);
    json_decref(root);
}

/* --policy: of training alone. */
static enum mp_status choose_policy(struct mp_plan *plan, const struct setup *s, const struct mp_train_packed *packed,
                                    struct mp_error *err) {
    if (s->o->policy != NULL && strcmp(s->o->policy, "none") == 0)
        return MP_OK;
    return training_choose(plan, s, s->o->policy, packed->k > 0 ? packed : NULL, err);
}

/* --policy and --packing are of training alone; packing makes the placement. */
static enum mp_status check_training(const struct setup *s, struct mp_error *err) {
    static const enum opt_id placing[] = {OPT_STRATEGY,  OPT_REPLICATE, OPT_PLACE,          OPT_ROUTE,
                                          OPT_REDUNDANT, OPT_FROM,      OPT_SLOTS_PER_GPU,  OPT_ROBUST,
                                          OPT_FOR,       OPT_EXPORT_LP, OPT_IMPORT_SOLUTION};
    const struct opts *o = s->o;
    if ((o->policy != NULL || o->packing != NULL) && s->batching.phase != MP_PHASE_TRAIN)
        return mp_fail(err, MP_EUSAGE,
                       "plan: --%s is about training steps, and these are of phase %s (add --phase train)",
                       o->policy != NULL ? "policy" : "packing", mp_phase_name(s->batching.phase));
    for (size_t i = 0; i < sizeof placing / sizeof *placing && o->packing != NULL; i++)
        if (o->is_set[placing[i]])
            return mp_fail(err, MP_EUSAGE, "plan: --packing makes the placement, and so does --%s (leave one out)",
                           opt_table[placing[i]].name);
    if (o->packing != NULL && o->policy != NULL && strcmp(o->policy, "none") == 0)
        return mp_fail(err, MP_EUSAGE, "plan: --packing is chosen for a policy (leave --policy none out)");
    return MP_OK;
}

/* --packing as a strategy with its options. */
static enum mp_status pack(struct mp_train_packed *packed, struct opts *own, struct score *score, const struct setup *s,
                           struct mp_error *err) {
    enum mp_outcome outcome;
    enum mp_status status = training_pack(packed, s, &outcome, err);
    if (status != MP_OK)
        return status;
    if (outcome != MP_FOUND) {
        snprintf(score->note, sizeof score->note, "not feasible: %s", err->message);
        mp_error_clear(err);
        return MP_OK;
    }
    own->strategy = "packed";
    own->slots_per_gpu = packed->k;
    own->redundant = packed->k * s->topology->n_gpus - s->model->n_experts;
    return score_plan(score, s, own->strategy, NULL, err);
}

enum mp_status cmd_plan(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_train_packed packed = {0};
    struct setup s = {.o = o};
    struct score score = {0}, old = {0};
    struct gain gain = {.is_known = false};
    struct from from = {.is_used = false};
    struct opts own = *o;
    s.o = &own;
    struct robust robust = {.is_used = false};
    struct mp_out *file = NULL, *out = NULL;
    enum mp_status status = robust_check(o, err);
    if (status == MP_OK)
        status = colocate_check(o, args, err);
    if (status != MP_OK || o->colocate)
        return status == MP_OK ? colocate_plan(o, args, exit_code, err) : status;
    MP_TRY(tool_check_strict(o, err));
    if (o->is_set[OPT_MOVE_BUDGET] && o->from == NULL)
        return mp_fail(err, MP_EUSAGE, "plan: --move-budget is about moving from a placement (add --from OLD)");
    if (o->homes != NULL && strcmp(o->homes, "none") != 0 &&
        (o->from != NULL || o->robust != NULL || o->packing != NULL))
        return mp_fail(err, MP_EUSAGE, "plan: --homes %s and --%s each make the placement (leave one out)", o->homes,
                       o->from != NULL     ? "from"
                       : o->robust != NULL ? "robust"
                                           : "packing");
    if (o->from != NULL && o->strict)
        return mp_fail(
            err, MP_EUSAGE,
            "plan: --strict asks for a gain over contiguous, and with --from what counts is the gain over OLD "
            "(leave one out)");
    if (mp_policy_find(o->strategy) != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "plan: %s moves experts while the model is served, and a plan does not (moeplan compare "
                       "--strategy %s replays it)",
                       o->strategy, o->strategy);
    if (o->out == NULL)
        return mp_fail(err, MP_EUSAGE, "plan: where to? (add -o PLAN, or -o - for standard output)");
    bool to_stdout = strcmp(o->out, "-") == 0;
    if (to_stdout && o->json)
        return mp_fail(err, MP_EUSAGE, "plan: %s and -o - both want standard output (write the plan to a file)",
                       tool_format_name(o));
    MP_TRY(tool_check_output(o->out, err));
    MP_TRY(setup_load(&s, &own, args->value[0], args->value[1], err));
    struct lossy *lossy = s.lossy;
    s.lossy = NULL; /* planned and scored as if all tokens travelled */
    MP_TRY(tool_batching(&s.batching, o, s.trace, s.topology, err));
    s.sim = tool_sim_options(o, s.trace, s.batching.phase);
    MP_TRY(check_training(&s, err));
    MP_TRY(setup_split(&s, o->split, err));
    if (o->from != NULL)
        MP_TRY(from_load(&old, &own, &s, err));
    if (o->robust != NULL)
        MP_TRY(robust_plan(&robust, &score, &s, args->value[0], err));
    else if (o->packing != NULL)
        MP_TRY(pack(&packed, &own, &score, &s, err));
    else
        MP_TRY(score_plan(&score, &s, o->strategy, o->homes, err));
    if (o->from != NULL && score.plan != NULL)
        MP_TRY(from_plan(&from, &score, &old, &s, err));
    if (score.plan == NULL) {
        tool_say("plan: %s", score.note);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.plan", "infeasible", score.note, err) : MP_OK;
        goto out;
    }
    enum mp_outcome outcome;
    MP_TRY(score_check_stack(&s, score.plan, &outcome, err));
    if (outcome != MP_FOUND) {
        snprintf(score.note, sizeof score.note, "%s cannot load what %s makes: %s", o->for_stack, o->strategy,
                 err->message);
        mp_error_clear(err);
        tool_say("plan: %s", score.note);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.plan", "refused", score.note, err) : MP_OK;
        goto out;
    }
    if (o->from == NULL && o->robust == NULL && o->interval_groups > 0 && (o->strict || o->json || !o->quiet))
        MP_TRY(gain_over_contiguous(&gain, &s, score.plan, err));
    if (o->strict && gain.kind != GAIN_REAL) {
        tool_say("plan: %s", gain.verdict);
        *exit_code = 1;
        status = o->json ? tool_write_no(o, "moeplan.plan", "refused", gain.verdict, err) : MP_OK;
        goto out;
    }
    MP_TRY(choose_policy(score.plan, &s, &packed, err));
    s.lossy = lossy;
    MP_TRY(lossy_choose(score.plan, &s, err));
    s.lossy = NULL;
    /* Scored before the file is replaced, so that trouble in scoring leaves the old plan. */
    if (!to_stdout)
        MP_TRY(score_all(&score, 1, MP_NONE, &s, 0, err));
    MP_TRY(mp_out_open(&file, o->out, err));
    mp_plan_write(score.plan, file);
    status = mp_out_commit(file, err);
    file = NULL;
    if (status != MP_OK)
        goto out;
    if (gain.is_known && (gain.kind != GAIN_TIE || strcmp(o->strategy, "contiguous") != 0))
        tool_note(o, "%s", gain.verdict);
    if (to_stdout)
        goto out;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&s, &score, &gain, &from, &robust, out);
    else
        write_text(&s, &score, &from, &robust, out);
    status = tool_close_result(out, o, err);
out:
    mp_out_cancel(file);
    score_free(&score);
    score_free(&old);
    robust_free(&robust);
    setup_free(&s);
    return status;
}
