/* The verifier: the only gate to writing a plan. Shares no code with planner, cost and sim; re-derives everything the
 * plan claims. */
#ifndef MOEPLAN_VERIFY_H
#define MOEPLAN_VERIFY_H

#include <moeplan/matrix.h>
#include <moeplan/model.h>
#include <moeplan/plan.h>

MP_API_BEGIN

enum mp_violation_kind {
    MP_V_SHAPE, /* counts, indexes, node map against the topology */
    MP_V_LAYER_MISSING,
    MP_V_LAYER_ID,
    MP_V_EXPERT_MISSING,
    MP_V_EXPERT_RANGE,
    MP_V_REPLICA_SAME_GPU,
    MP_V_SLOTS,
    MP_V_CAPACITY,
    MP_V_ROUTE_WEIGHTS,
    MP_V_ORDER_SHARE,
    MP_V_ORDER_PORT,
    MP_V_ORDER_SELF,
    MP_V_ORDER_RATE,
    MP_V_ORDER_FLUSH,
    MP_V_COLOCATION,
    MP_V_TRAINING,
    MP_V_PROVENANCE, /* hashes or names do not match the given trace, topology, model */
    MP_V_EVIDENCE_ROWS,
    MP_V_EVIDENCE_BYTES,
    MP_V_EVIDENCE_BOUND,
    MP_V_SAMPLE,
    MP_V_PREDICTION,
    MP_V_CERTIFICATE,
    MP_N_VIOLATION_KINDS
};
const char *
mp_violation_name(enum mp_violation_kind kind); /* "expert-missing", ...; the same words in tools/plancheck */

struct mp_violation {
    enum mp_violation_kind kind;
    const char *message; /* what is wrong, with layer, slot, GPU and numbers */
};
struct mp_verify_report {
    uint32_t n; /* violations, in order of checking, at most 1,000 */
    struct mp_violation *violations;
    uint64_t n_checks;          /* facts compared */
    uint32_t n_steps_simulated; /* sampled steps re-simulated by the slow simulator; of a matrix its dispatch, 0 or 1 */
    bool has_data;              /* trace, topology and model were given: evidence was recomputed */
    bool has_matrix;            /* matrix and topology were given: the certificate was derived again */
    struct mp_arena *arena;
};
/* Structure always; against topology and model when given; evidence, samples, prediction and certificates when the
 * trace is given too. `trace` is the whole recording: the verifier re-derives split and steps from the plan's
 * provenance. n = 0 in the report means accepted. */
enum mp_status mp_plan_verify(struct mp_verify_report **out, const struct mp_plan *plan, const struct mp_trace *trace,
                              const struct mp_topology *topology, const struct mp_model *model,
                              struct mp_error *err) MP_MUST_CHECK;
/* The same without the limits on simulated work that keep the gate quick (docs/VERIFY.md part 5): every sample is
 * simulated again, and the prediction wherever 10^10 operations are enough. May take minutes for large clusters. */
enum mp_status mp_plan_verify_thoroughly(struct mp_verify_report **out, const struct mp_plan *plan,
                                         const struct mp_trace *trace, const struct mp_topology *topology,
                                         const struct mp_model *model, struct mp_error *err) MP_MUST_CHECK;
/* Two plans of two models on the same GPUs, each accepted by itself beforehand: do the two belong together, are their
 * lists of pairs the same and complete; with all the data also whether every GPU's memory holds both and a step of both
 * takes what the plans say by both evaluators (docs/COLOCATION.md part 6). */
struct mp_verify_side {
    const struct mp_plan *plan;
    const struct mp_trace *trace; /* NULL: structure only, like the two others */
    const struct mp_model *model;
};
enum mp_status mp_plan_verify_together(struct mp_verify_report **out, const struct mp_verify_side side[2],
                                       const struct mp_topology *topology, struct mp_error *err) MP_MUST_CHECK;
/* The plan of a matrix (moeplan order) against that matrix, read with token_bytes 0, and its topology: bound and time
 * of the dispatch are derived again. The time of more flows than the limit on simulated work allows is only bounded,
 * unless is_thorough. */
enum mp_status mp_plan_verify_matrix(struct mp_verify_report **out, const struct mp_plan *plan,
                                     const struct mp_matrix *matrix, const struct mp_topology *topology,
                                     bool is_thorough, struct mp_error *err) MP_MUST_CHECK;
void mp_verify_report_free(struct mp_verify_report *r);

MP_API_END

#endif
