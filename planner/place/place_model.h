/* Private to planner/: the placement of given copies as a mixed-integer program, for GLPK and for other solvers. */
#ifndef PLACE_MODEL_H
#define PLACE_MODEL_H

#include "exact_steps.h"
#include "mip.h"

/* Layers [first_layer, first_layer + n_layers) of the problem, copies[n_layers of the plan][n_slots] as in mp_draft.
 * Variables, in this order for each layer: x_LAYER_EXPERT_REPLICA_GPU (1: that replica is there; GPUs last), then for
 * each step what it waits for in ns (dispatch_LAYER_STEP, experts_, combine_), or with objective PEAK rows_LAYER_STEP.
 * NOT_APPLICABLE (err->message says why) for dispatchers whose copies are not counted per expert, coupled sources, and
 * programs of more than 2^22 terms. */
enum mp_status mp_place_model_new(struct mp_mip **out, const struct mp_problem *in, const struct mp_plan *shape,
                                  const uint16_t *copies, uint32_t n_copies, uint32_t first_layer, uint32_t n_layers,
                                  enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;
/* Index of x for copy c (of copies) on GPU g in the k-th layer of the model. */
uint32_t mp_place_model_at(const struct mp_problem *in, uint32_t n_copies, uint32_t k, uint32_t c, uint32_t g);
/* Fills in the variables of the k-th layer for a placement: gpu[n_copies]. Fractional ones are left to
 * mp_mip_repair. */
void mp_place_model_put(const struct mp_problem *in, uint32_t n_copies, uint32_t k, const uint16_t *gpu,
                        int64_t *values);

#endif
