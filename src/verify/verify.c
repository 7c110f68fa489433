/* The report, and the order of the checks: what stands on its own first; then what needs trace, topology and model, and
 * only when everything before held, because numbers derived from a broken plan say nothing. docs/VERIFY.md lists every
 * check. */
#include "internal.h"
#include <stdio.h>
#include <string.h>

static const char *const names[MP_N_VIOLATION_KINDS] = {
    [MP_V_SHAPE] = "shape",
    [MP_V_LAYER_MISSING] = "layer-missing",
    [MP_V_LAYER_ID] = "layer-id",
    [MP_V_EXPERT_MISSING] = "expert-missing",
    [MP_V_EXPERT_RANGE] = "expert-range",
    [MP_V_REPLICA_SAME_GPU] = "replica-same-gpu",
    [MP_V_SLOTS] = "slots",
    [MP_V_CAPACITY] = "capacity",
    [MP_V_ROUTE_WEIGHTS] = "route-weights",
    [MP_V_ORDER_SHARE] = "order-share",
    [MP_V_ORDER_PORT] = "order-port",
    [MP_V_ORDER_SELF] = "order-self",
    [MP_V_ORDER_RATE] = "order-rate",
    [MP_V_ORDER_FLUSH] = "order-flush",
    [MP_V_COLOCATION] = "colocation",
    [MP_V_TRAINING] = "training",
    [MP_V_PROVENANCE] = "provenance",
    [MP_V_EVIDENCE_ROWS] = "evidence-rows",
    [MP_V_EVIDENCE_BYTES] = "evidence-bytes",
    [MP_V_EVIDENCE_BOUND] = "evidence-bound",
    [MP_V_SAMPLE] = "sample",
    [MP_V_PREDICTION] = "prediction",
    [MP_V_CERTIFICATE] = "certificate",
};

const char *mp_violation_name(enum mp_violation_kind kind) {
    return (unsigned)kind < MP_N_VIOLATION_KINDS ? names[kind] : "?";
}

bool vf_expect(struct verifier *v, bool holds, enum mp_violation_kind kind, const char *fmt, ...) {
    struct mp_verify_report *r = v->report;
    r->n_checks++;
    if (holds || r->n == MAX_VIOLATIONS)
        return holds;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *message = mp_arena_strdup(v->arena, text);
    if (message == NULL)
        v->is_full = true;
    else
        r->violations[r->n++] = (struct mp_violation){kind, message};
    return false;
}

enum mp_status vf_report_new(struct mp_verify_report **out, struct verifier *v, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct mp_verify_report *r = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *r) : NULL;
    *out = NULL;
    if (r != NULL)
        r->violations = mp_arena_alloc(arena, MAX_VIOLATIONS, sizeof *r->violations);
    if (r == NULL || r->violations == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "verifying a plan");
    }
    r->arena = v->arena = arena;
    v->report = *out = r;
    return MP_OK;
}

/* v: what is checked against what. */
static enum mp_status verify(struct mp_verify_report **out, struct verifier v, struct mp_error *err) {
    struct mp_verify_report *r;
    enum mp_status status = vf_report_new(&r, &v, err);
    *out = NULL;
    if (status != MP_OK)
        return status;
    r->has_data = v.trace != NULL && v.topology != NULL && v.model != NULL;
    r->has_matrix = v.matrix != NULL && v.topology != NULL;
    bool wants_data = r->has_data && v.plan->provenance.has_workload;
    struct vf_data d = {0};
    bool is_indexable = false, is_usable = false;
    MP_TRY(vf_check_structure(&v, &is_indexable, err));
    if (is_indexable)
        MP_TRY(vf_check_orders(&v, err));
    if (wants_data && r->n == 0) {
        MP_TRY(vf_data_open(&d, &v, &is_usable, err));
        if (is_usable)
            MP_TRY(vf_check_evidence(&d, err));
        if (is_usable && r->n == 0)
            MP_TRY(vf_check_claims(&d, err));
    }
    if (r->has_matrix && r->n == 0)
        MP_TRY(vf_check_matrix(&v, err));
    if (v.is_full)
        status = mp_nomem(err, "verifying a plan");
out:
    vf_data_close(&d);
    if (status == MP_OK)
        *out = r;
    else
        mp_verify_report_free(r);
    return status;
}

enum mp_status mp_plan_verify(struct mp_verify_report **out, const struct mp_plan *plan, const struct mp_trace *trace,
                              const struct mp_topology *topology, const struct mp_model *model, struct mp_error *err) {
    return verify(out, (struct verifier){.plan = plan, .trace = trace, .topology = topology, .model = model}, err);
}

enum mp_status mp_plan_verify_thoroughly(struct mp_verify_report **out, const struct mp_plan *plan,
                                         const struct mp_trace *trace, const struct mp_topology *topology,
                                         const struct mp_model *model, struct mp_error *err) {
    const struct verifier v = {.plan = plan, .trace = trace, .topology = topology, .model = model, .is_thorough = true};
    return verify(out, v, err);
}

enum mp_status mp_plan_verify_matrix(struct mp_verify_report **out, const struct mp_plan *plan,
                                     const struct mp_matrix *matrix, const struct mp_topology *topology,
                                     bool is_thorough, struct mp_error *err) {
    return verify(
        out, (struct verifier){.plan = plan, .matrix = matrix, .topology = topology, .is_thorough = is_thorough}, err);
}

void mp_verify_report_free(struct mp_verify_report *r) {
    if (r != NULL)
        mp_arena_free(r->arena);
}
