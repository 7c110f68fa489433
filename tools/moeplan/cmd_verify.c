/* moeplan verify: the independent check of a plan file, or of two that were made together. */
#include "terminal.h"
#include "tool.h"
#include <stdio.h>

/* What is checked: one plan; or two, and then the two together. */
struct checked {
    const char *path[3];
    struct mp_verify_report *report[3];
    uint32_t n;
    bool names_matrix;              /* the plan: it orders a traffic matrix */
    struct mp_proof_again proof[2]; /* with --prove, of what is accepted */
};
static const char *const verdict_names[] = {"none", "holds", "refuted", "open"};

static bool is_refuted(const struct checked *c) {
    return c->proof[0].verdict == MP_PROOF_IS_REFUTED || c->proof[1].verdict == MP_PROOF_IS_REFUTED;
}

static json_t *proofs_of(const struct opts *o, const struct checked *c) {
    json_t *list = json_array();
    for (uint32_t k = 0; o->prove && k < 2 && k < c->n; k++) {
        const struct mp_proof_again *p = &c->proof[k];
        (void)json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:I,s:I,s:I}", "plan", c->path[k], "verdict",
                                                    verdict_names[p->verdict], "claimed_ns", (json_int_t)p->claimed_ns,
                                                    "best_ns", (json_int_t)p->best_ns, "bound_ns",
                                                    (json_int_t)p->bound_ns, "nodes", (json_int_t)p->nodes));
    }
    return list;
}

static void write_proof(const char *path, const struct mp_proof_again *p, struct mp_out *out) {
    const unsigned long long claimed = p->claimed_ns, best = p->best_ns, bound = p->bound_ns, nodes = p->nodes;
    if (p->verdict == MP_PROOF_IS_NONE)
        mp_out_printf(out, "%s: no certificate of a search, nothing to prove again\n", path);
    else if (p->verdict == MP_PROOF_HOLDS)
        mp_out_printf(out, "%s: proven again in %llu nodes: no placement of its copies is below %llu ns\n", path, nodes,
                      claimed);
    else if (p->verdict == MP_PROOF_IS_REFUTED)
        mp_out_printf(out, "%s: certificate: no placement is said to be below %llu ns, and one of %llu ns was found\n",
                      path, claimed, best);
    else if (p->why != NULL)
        mp_out_printf(out, "%s: not proven again: %s\n", path, p->why);
    else
        mp_out_printf(out,
                      "%s: not proven again in %llu nodes: no placement is said to be below %llu ns, the best found is "
                      "%llu ns and the bound %llu ns (write a larger --work-limit)\n",
                      path, nodes, claimed, best, bound);
}

static json_t *violations_of(const struct checked *c) {
    json_t *list = json_array();
    for (uint32_t k = 0; k < c->n; k++)
        for (uint32_t i = 0; i < c->report[k]->n; i++) {
            const struct mp_violation *v = &c->report[k]->violations[i];
            json_t *one = json_pack("{s:s,s:s}", "kind", mp_violation_name(v->kind), "message", v->message);
            if (c->n > 1 && one != NULL)
                (void)json_object_set_new(one, "plan", k < 2 ? json_string(c->path[k]) : json_null());
            (void)json_array_append_new(list, one);
        }
    return list;
}

static void write_report(const struct opts *o, const struct checked *c, struct mp_out *out) {
    uint64_t n = 0, n_checks = 0, n_steps = 0;
    for (uint32_t k = 0; k < c->n; k++) {
        n += c->report[k]->n;
        n_checks += c->report[k]->n_checks;
        n_steps += c->report[k]->n_steps_simulated;
    }
    const bool has_data = c->report[0]->has_data, has_matrix = c->report[0]->has_matrix;
    const char *path = c->path[c->n - 1], *plain = terminal_plain(o), *good = terminal_tone(o, TONE_GOOD),
               *bad = terminal_tone(o, TONE_BAD);
    if (o->json) {
        json_t *root = json_pack("{s:s,s:i,s:s,s:b,s:b,s:b,s:I,s:i,s:o}", "schema", "moeplan.verify", "version", 1,
                                 "plan", c->path[0], "accepted", (int)(n == 0 && !is_refuted(c)), "with_data",
                                 (int)has_data, "with_matrix", (int)has_matrix, "checks", (json_int_t)n_checks,
                                 "steps_simulated", (int)n_steps, "violations", violations_of(c));
        if (c->n > 1 && root != NULL)
            (void)json_object_set_new(root, "plan_b", json_string(c->path[1]));
        if (o->prove && root != NULL)
            (void)json_object_set_new(root, "proofs", proofs_of(o, c));
        mp_json_write(root, out);
        json_decref(root);
        return;
    }
    for (uint32_t k = 0; k < c->n; k++)
        for (uint32_t i = 0; i < c->report[k]->n; i++)
            mp_out_printf(out, "%s: %s: %s\n", c->path[k], mp_violation_name(c->report[k]->violations[i].kind),
                          c->report[k]->violations[i].message);
    if (n > 0)
        mp_out_printf(out, "%s: %srefused%s, %llu violation%s in %llu checks\n", path, bad, plain,
                      (unsigned long long)n, n == 1 ? "" : "s", (unsigned long long)n_checks);
    else if (is_refuted(c))
        mp_out_printf(out,
                      "%s: %srefused%s, what it says of other placements is false (%llu checks, all else is right)\n",
                      path, bad, plain, (unsigned long long)n_checks);
    else if (has_matrix)
        mp_out_printf(out, "%s: %saccepted%s, %llu checks, the matrix's bound derived again%s\n", path, good, plain,
                      (unsigned long long)n_checks,
                      n_steps > 0 ? " and its dispatch simulated again"
                                  : "; its dispatch is too long to simulate but with --thorough");
    else if (has_data && !c->names_matrix)
        mp_out_printf(out, "%s: %saccepted%s, %llu checks, %llu steps simulated again\n", path, good, plain,
                      (unsigned long long)n_checks, (unsigned long long)n_steps);
    else
        mp_out_printf(out, "%s: %saccepted%s, %llu checks of %s structure (give %s to check what %s)\n", path, good,
                      plain, (unsigned long long)n_checks, c->n > 1 ? "their" : "its",
                      c->n > 1          ? "both recordings and TOPOLOGY"
                      : c->names_matrix ? "its MATRIX and TOPOLOGY"
                                        : "TRACE and TOPOLOGY",
                      c->n > 1 ? "they claim" : "it claims");
    for (uint32_t k = 0; o->prove && n == 0 && k < 2 && k < c->n; k++)
        write_proof(c->path[k], &c->proof[k], out);
}

static enum mp_status check_arguments(const struct opts *o, const struct args *args, struct mp_error *err) {
    if (o->colocate && args->n != 2 && args->n != 5)
        return mp_fail(err, MP_EUSAGE,
                       "verify --colocate: %d argument%s (write PLAN, the second model's PLAN, and TRACE, "
                       "the second model's TRACE, TOPOLOGY, or not these three)",
                       args->n, tool_s((uint64_t)args->n));
    if (!o->colocate && o->model_b != NULL)
        return mp_fail(err, MP_EUSAGE, "--model-b is for two models (add --colocate)");
    if (!o->colocate && args->n > 3)
        return mp_fail(err, MP_EUSAGE, "too many arguments: \"%.60s\" (two plans need --colocate)", args->value[3]);
    if (!o->colocate && args->n == 2)
        return mp_fail(err, MP_EUSAGE, "verify: TOPOLOGY is missing (give TRACE or MATRIX and TOPOLOGY, or neither)");
    if (o->prove && args->n < 3)
        return mp_fail(err, MP_EUSAGE, "--prove: a search needs the steps (give TRACE and TOPOLOGY)");
    return MP_OK;
}

enum mp_status cmd_verify(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    const int n_plans = o->colocate ? 2 : 1;
    struct opts own[2] = {*o, *o};
    struct mp_plan *plan[2] = {NULL, NULL};
    struct mp_trace *trace[2] = {NULL, NULL};
    struct mp_model *model[2] = {NULL, NULL};
    struct mp_matrix *matrix = NULL;
    const char *format = NULL; /* of a matrix */
    struct mp_topology *topology = NULL;
    struct checked c = {.n = (uint32_t)n_plans};
    struct mp_progress_part *part = NULL;
    struct mp_out *out = NULL;
    char both[256];
    enum mp_status status = check_arguments(o, args, err);
    if (status != MP_OK)
        return status;
    own[1].model = o->model_b;
    for (int k = 0; k < n_plans; k++) {
        c.path[k] = args->value[k];
        MP_TRY(mp_plan_load(&plan[k], args->value[k], &o->limits, err));
    }
    if (args->n > 2)
        MP_TRY(mp_topology_load(&topology, args->value[args->n - 1], &o->limits, err));
    c.names_matrix = n_plans == 1 && plan[0]->provenance.matrix.is_present;
    if (n_plans == 1 && topology != NULL)
        MP_TRY(tool_matrix_format(&format, args->value[1], plan[0], o, err));
    if (format != NULL)
        MP_TRY(mp_matrix_load(&matrix, args->value[1], format, 0, &o->limits, err));
    for (int k = 0; k < n_plans && topology != NULL && matrix == NULL; k++) {
        MP_TRY(tool_load_trace(&trace[k], args->value[n_plans + k], &own[k], err));
        MP_TRY(tool_load_model(&model[k], &own[k], trace[k], err));
    }
    bool is_accepted = true;
    part = mp_progress_begin(o->progress, "verifying", 0, MP_PROGRESS_LEAF);
    for (int k = 0; k < n_plans; k++) {
        if (matrix != NULL)
            MP_TRY(mp_plan_verify_matrix(&c.report[k], plan[k], matrix, topology, o->thorough, err));
        else
            MP_TRY((o->thorough ? mp_plan_verify_thoroughly : mp_plan_verify)(&c.report[k], plan[k], trace[k], topology,
                                                                              model[k], err));
        is_accepted &= c.report[k]->n == 0;
    }
    if (n_plans == 2 && is_accepted) { /* a broken plan says nothing about two */
        const struct mp_verify_side side[2] = {{plan[0], trace[0], model[0]}, {plan[1], trace[1], model[1]}};
        snprintf(both, sizeof both, "%.120s, %.120s", c.path[0], c.path[1]);
        c.path[c.n++] = both;
        MP_TRY(mp_plan_verify_together(&c.report[2], side, topology, err));
        is_accepted = c.report[2]->n == 0;
    }
    for (int k = 0; k < n_plans && o->prove && is_accepted && matrix == NULL; k++)
        MP_TRY(mp_plan_prove_again(&c.proof[k], plan[k], trace[k], topology, model[k], o->work_limit, tool_threads(o),
                                   err));
    for (int k = 0; k < n_plans; k++)
        is_accepted =
            is_accepted && c.proof[k].verdict != MP_PROOF_IS_REFUTED && c.proof[k].verdict != MP_PROOF_IS_OPEN;
    mp_progress_end(part);
    *exit_code = is_accepted ? 0 : 1;
    MP_TRY(tool_open_result(&out, o, err));
    write_report(o, &c, out);
    status = tool_close_result(out, o, err);
out:
    for (int k = 0; k < 3; k++)
        mp_verify_report_free(c.report[k]);
    for (int k = 0; k < 2; k++) {
        mp_model_free(model[k]);
        mp_trace_free(trace[k]);
        mp_plan_free(plan[k]);
    }
    mp_matrix_free(matrix);
    mp_topology_free(topology);
    return status;
}
