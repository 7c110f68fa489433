/* moeplan verify: the independent check of a plan file. */
#include "tool.h"
#include <stdio.h>

static void write_report(const struct opts *o, const char *path, const struct mp_verify_report *r, struct mp_out *out) {
    if (o->json) {
        json_t *list = json_array();
        for (uint32_t i = 0; i < r->n; i++)
            (void)json_array_append_new(list, json_pack("{s:s,s:s}", "kind", mp_violation_name(r->violations[i].kind),
                                                        "message", r->violations[i].message));
        json_t *root =
            json_pack("{s:s,s:i,s:s,s:b,s:b,s:I,s:i,s:o}", "schema", "moeplan.verify", "version", 1, "plan", path,
                      "accepted", (int)(r->n == 0), "with_data", (int)r->has_data, "checks", (json_int_t)r->n_checks,
                      "steps_simulated", (int)r->n_steps_simulated, "violations", list);
        mp_json_write(root, out);
        json_decref(root);
        return;
    }
    for (uint32_t i = 0; i < r->n; i++)
        mp_out_printf(out, "%s: %s: %s\n", path, mp_violation_name(r->violations[i].kind), r->violations[i].message);
    if (r->n > 0)
        mp_out_printf(out, "%s: refused, %u violation%s in %llu checks\n", path, r->n, r->n == 1 ? "" : "s",
                      (unsigned long long)r->n_checks);
    else if (r->has_data)
        mp_out_printf(out, "%s: accepted, %llu checks, %u steps simulated again\n", path,
                      (unsigned long long)r->n_checks, r->n_steps_simulated);
    else
        mp_out_printf(out,
                      "%s: accepted, %llu checks of its structure (give TRACE and TOPOLOGY to check what it claims)\n",
                      path, (unsigned long long)r->n_checks);
}

enum mp_status cmd_verify(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    struct mp_trace *trace = NULL;
    struct mp_topology *topology = NULL;
    struct mp_model *model = NULL;
    struct mp_verify_report *report = NULL;
    struct mp_out *out = NULL;
    enum mp_status status = MP_OK;
    if (args->n == 2)
        return mp_fail(err, MP_EUSAGE, "verify: TOPOLOGY is missing (give TRACE and TOPOLOGY, or neither)");
    MP_TRY(mp_plan_load(&plan, args->value[0], &o->limits, err));
    if (args->n == 3) {
        MP_TRY(mp_topology_load(&topology, args->value[2], &o->limits, err));
        MP_TRY(tool_load_trace(&trace, args->value[1], o, err));
        MP_TRY(tool_load_model(&model, o, trace, err));
    }
    MP_TRY((o->thorough ? mp_plan_verify_thoroughly : mp_plan_verify)(&report, plan, trace, topology, model, err));
    *exit_code = report->n == 0 ? 0 : 1;
    MP_TRY(mp_out_open(&out, "-", err));
    write_report(o, args->value[0], report, out);
    status = mp_out_commit(out, err);
out:
    mp_verify_report_free(report);
    mp_model_free(model);
    mp_topology_free(topology);
    mp_trace_free(trace);
    mp_plan_free(plan);
    return status;
}
