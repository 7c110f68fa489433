/* The plan of one traffic matrix: an order between GPUs, or one shot, as a plan of one layer that names the matrix and
 * carries the certificate of that one dispatch.
 *
 * Decides   nothing: the schedule is given.
 * Method    one expert for each GPU, expert i on GPU i, so that tokens for expert i are bytes for GPU i; shares of the
 *           largest cell, so that this matrix is replayed to the byte.
 * Bound     docs/BOUNDS.md part 1 (between nodes part 3) and the launch floor of one launch.
 * Cost      O(n^2) and what the verifier spends. */
#include "planner.h"
#include <moeplan/base.h>
#include <moeplan/verify.h>
#include <string.h>

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

enum mp_status mp_matrix_certify(struct mp_plan *p, const struct mp_topology *t, const uint64_t *bytes,
                                 uint64_t time_ns, struct mp_error *err) {
    static const struct mp_dispatcher one_launch = {.name = "matrix", .n_launches = 1};
    const uint32_t o = p->layers[0].order;
    const bool is_relayed = o != MP_NONE && p->orders[o].between_nodes;
    const uint64_t ports = mp_port_bound_ns(t, bytes), least = is_relayed ? mp_relay_bound_ns(t, bytes) : ports;
    uint64_t bound = 0;
    if (ports > 0 && mp_add_overflow(least, mp_launch_floor_ns(t, &one_launch), &bound))
        bound = UINT64_MAX;
    p->certificates = mp_arena_alloc(p->arena, 1, sizeof *p->certificates);
    p->n_certificates = p->certificates != NULL;
    if (p->certificates == NULL)
        return mp_nomem(err, "a plan's certificate");
    p->certificates[0] = (struct mp_certificate){.kind = MP_CERT_ORDER,
                                                 .proof = MP_PROOF_CLOSED_FORM,
                                                 .scope = MP_SCOPE_MATRIX,
                                                 /* rounding must not pass below what no schedule can */
                                                 .value_ns = larger(time_ns, bound),
                                                 .bound_ns = bound};
    return MP_OK;
}

static enum mp_status add_order(struct mp_plan *p, const struct mp_matrix_request *r, const uint64_t *bytes,
                                struct mp_error *err) {
    const size_t n_ends = r->schedule->n;
    struct mp_order *order = mp_arena_alloc(p->arena, 1, sizeof *order);
    uint64_t *cells = mp_calloc(n_ends * n_ends, sizeof *cells), unit = 1;
    if (order == NULL || cells == NULL) {
        mp_free(cells);
        return mp_nomem(err, "the plan of a matrix");
    }
    if (r->schedule->between_nodes)
        mp_node_matrix(r->topology, bytes, cells);
    else
        memcpy(cells, bytes, n_ends * n_ends * sizeof *cells);
    for (size_t k = 0; k < n_ends * n_ends; k++)
        unit = larger(unit, cells[k]);
    enum mp_status status = mp_schedule_order(
        order, r->schedule, cells, unit < UINT32_MAX ? (uint32_t)unit : UINT32_MAX, r->strategy, p->arena, err);
    mp_free(cells);
    if (status != MP_OK)
        return status;
    p->orders = order;
    p->n_orders = 1;
    p->layers[0].order = 0;
    p->layers[0].combine = order->has_flush ? MP_COMBINE_SWAPPED : MP_COMBINE_REVERSED;
    return MP_OK;
}

static enum mp_status fill(struct mp_plan *p, const struct mp_matrix_request *r, struct mp_error *err) {
    struct mp_provenance *v = &p->provenance;
    const struct mp_topology *t = r->topology;
    uint32_t *node = mp_arena_alloc(p->arena, p->n_gpus, sizeof *node);
    v->topology = mp_arena_strdup(p->arena, t->name != NULL ? t->name : "");
    v->topology_sha256 = mp_arena_strdup(p->arena, t->sha256);
    v->matrix = (struct mp_matrix_source){.is_present = true,
                                          .format = r->matrix->format,
                                          .sha256 = mp_arena_strdup(p->arena, r->matrix->sha256),
                                          .token_bytes = r->token_bytes};
    if (node == NULL || v->topology == NULL || v->topology_sha256 == NULL || v->matrix.sha256 == NULL)
        return mp_nomem(err, "the plan of a matrix");
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        node[g] = mp_topology_node(t, g);
        p->layers[0].slot_expert[g] = (uint16_t)g;
    }
    p->gpu_node = node;
    p->n_nodes = mp_topology_n_nodes(t);
    p->route = MP_ROUTE_EVEN;
    p->stage_mode = r->stage_mode;
    p->is_paced = r->can_pace;
    v->tool = MP_TOOL;
    v->strategy = v->order = r->strategy;
    v->replicate = "none";
    v->place = "contiguous";
    v->route = mp_route_rule_name(MP_ROUTE_EVEN);
    v->seed = r->seed;
    v->work_used = r->work_used;
    v->stopped_by = r->stopped_by;
    v->is_reproducible = strcmp(r->stopped_by, "wall_clock") != 0;
    return mp_settings_text(&v->options, p->arena, r->settings, r->n_settings, err);
}

static enum mp_status gate(const struct mp_plan *p, const struct mp_matrix_request *r, bool *is_simulated,
                           struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    enum mp_status status = mp_plan_verify_matrix(&report, p, r->matrix, r->topology, false, err);
    if (status == MP_OK && report->n > 0)
        status = mp_fail(err, MP_EBUG, "the verifier refuses the order of %s: %s: %.400s", r->strategy,
                         mp_violation_name(report->violations[0].kind), report->violations[0].message);
    if (status == MP_OK)
        *is_simulated = report->n_steps_simulated > 0;
    mp_verify_report_free(report);
    return status;
}

enum mp_status mp_matrix_plan(struct mp_plan **out, bool *is_simulated, const struct mp_matrix_request *r,
                              struct mp_error *err) {
    const size_t n = r->matrix->n;
    struct mp_plan *p = NULL;
    enum mp_status status = MP_OK;
    uint32_t *slots = mp_calloc(n, sizeof *slots);
    uint64_t *bytes = mp_calloc(n * n, sizeof *bytes);
    *out = NULL;
    *is_simulated = false;
    if (slots == NULL || bytes == NULL) {
        status = mp_nomem(err, "the plan of a matrix");
        goto out;
    }
    if (r->matrix->n != r->topology->n_gpus || !mp_matrix_bytes(r->matrix, r->token_bytes, bytes)) {
        status = mp_fail(err, MP_EUSAGE, "a matrix of %u GPUs and tokens of %llu bytes, and a topology of %u GPUs",
                         r->matrix->n, (unsigned long long)r->token_bytes, r->topology->n_gpus);
        goto out;
    }
    for (size_t g = 0; g < n; g++)
        slots[g] = 1;
    MP_TRY(mp_plan_new(&p, 1, (uint32_t)n, (uint32_t)n, slots, err));
    MP_TRY(fill(p, r, err));
    if (r->schedule->n_stages > 0)
        MP_TRY(add_order(p, r, bytes, err));
    MP_TRY(mp_matrix_certify(p, r->topology, bytes, r->time_ns, err));
    MP_TRY(gate(p, r, is_simulated, err));
out:
    mp_free(slots);
    mp_free(bytes);
    if (status == MP_OK)
        *out = p;
    else
        mp_plan_free(p);
    return status;
}
