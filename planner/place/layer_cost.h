/* Private to planner/: what the expert part of one layer costs over many steps, for a placement under construction. */
#ifndef LAYER_COST_H
#define LAYER_COST_H

#include "planner.h"

/* One physical expert is an *item*: item i < n_copies is of expert copies[i]; the replicas of an expert are counted in
 * the order of their items. Tokens are dealt to replicas by the rule `even`, replica r of the plan being the one on the
 * r-th lowest GPU: give the items of an expert rising GPUs.
 *
 * Where the number of replicas is to change too (`most` given), every expert has one item for each number n of replicas
 * and each of these: item mp_replica_item(first item of the expert, n, r). Those of the number it has stand on GPUs,
 * all its others on MP_ITEM_OFF; adding or dropping a replica moves its items there and back. By the rule `nearest` an
 * expert has one item for when it has one copy and two banks of `most` beside it: which tokens a replica serves depends
 * on where all of them are, so those of the bank that is not in use are filled (mp_layer_cost_fill) and moved in.
 *
 * The cost of a step is what mp_simulate says of this layer with every transfer at its port bound
 * (MP_NETWORK_PORT_BOUND): attention + max(dispatch, shared experts) + slowest GPU's computation + combine, launches
 * included; whole nanoseconds, exactly the same ones (tests/unit/planner/test_layer_cost.c). Where copies are counted
 * per token and there are more tokens than rows_max, every m-th token of a step stands for m: rows and computation stay
 * exact, bytes become an estimate, and is_exact is false. */
struct mp_layer_cost_spec {
    const struct mp_problem *problem;
    const uint16_t *copies; /* [n_copies]; not looked at with `most` */
    uint32_t n_copies, layer;
    const uint8_t *most; /* [n_experts] replicas of each that there may be, 1 to MP_REPLICAS_MAX; n_copies is the sum of
                            mp_layer_items over it; NULL: as `copies` says. Not with coupled sources. */
    enum mp_route_rule rule; /* with `most`: EVEN or NEAREST */
    uint32_t n_steps;
    const uint32_t *steps; /* [n_steps] of the workload; NULL = the first n_steps */
    uint64_t rows_max;     /* 0 = none */
    /* Against over-fitting: each step's rows (and copies per pair) are moved this far towards what the step would have
     * if its experts were used as they are over all steps; which of them are active stays. 0 = exact. */
    uint32_t shrink_permille;
};
struct mp_layer_cost;
#define MP_ITEM_OFF UINT16_MAX
#define MP_REPLICAS_MAX 8u
static inline uint32_t mp_layer_items(enum mp_route_rule rule, uint32_t most) {
    return rule == MP_ROUTE_NEAREST ? 1 + 2 * most : most * (most + 1) / 2;
}
static inline uint32_t mp_replica_item(uint32_t first, uint32_t n, uint32_t r) { return first + n * (n - 1) / 2 + r; }

/* NOT_APPLICABLE when counts or times could pass what the tables hold; err->message says so. Free with
 * mp_layer_cost_free. */
enum mp_status mp_layer_cost_new(struct mp_layer_cost **out, const struct mp_layer_cost_spec *spec,
                                 enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;
void mp_layer_cost_free(struct mp_layer_cost *c);
bool mp_layer_cost_is_exact(const struct mp_layer_cost *c);

/* Puts item i on gpu[i] (or MP_ITEM_OFF), for all items; what was tried is forgotten. */
void mp_layer_cost_set(struct mp_layer_cost *c, const uint16_t *gpu);
const uint16_t *mp_layer_cost_gpus(const struct mp_layer_cost *c); /* [n_copies] */

#define MP_LAYER_MOVES_MAX 16u /* GPUs that a change may touch; twice as many items */
struct mp_item_move {
    uint16_t item, gpu; /* where it goes; or MP_ITEM_OFF */
};
/* Objective with these items moved, each at most once, at most MP_LAYER_MOVES_MAX GPUs touched: whole ns summed over
 * the steps; for p95 the sum of the longest eighth of them, for peak rows of the busiest GPU, for inter copies between
 * nodes. is_race: gives up on a change that is no better on the first eighth, quarter or half of the steps (taken
 * evenly from all of them) and returns UINT64_MAX. */
uint64_t mp_layer_cost_try(struct mp_layer_cost *c, const struct mp_item_move *moves, uint32_t n, bool is_race);
#define MP_LAYER_FILLS_MAX 4u
/* Rule nearest. The next change (or mp_layer_cost_fill_now) first fills n items of an expert from `first` on, which
 * stand nowhere: item first + i gets the tokens of the sources with replica[source] = i. base: its item of one copy. */
void mp_layer_cost_fill(struct mp_layer_cost *c, uint32_t expert, uint32_t base, uint32_t first, uint32_t n,
                        const uint8_t *replica);
void mp_layer_cost_fill_now(struct mp_layer_cost *c);
/* Makes what was tried last (in full) the placement. */
void mp_layer_cost_keep(struct mp_layer_cost *c);
uint64_t mp_layer_cost_now(const struct mp_layer_cost *c);                 /* objective of the placement */
const uint64_t *mp_layer_cost_steps(const struct mp_layer_cost *c);        /* [n_steps] ns of the placement */
uint64_t mp_layer_cost_rows(const struct mp_layer_cost *c, uint32_t item); /* summed over the steps */
/* A placement to begin with where tokens send one copy to each node they need: from gpu[n_copies], exchanges items
 * between nodes so that tokens need fewer of them, and fills the GPUs of each node evenly. spec: what c was made from.
 * `work` elementary operations. *has_groups false: nothing to gain here (other dispatchers, one node, replicas); gpu is
 * as it was. */
enum mp_status mp_layer_cost_groups(struct mp_layer_cost *c, const struct mp_layer_cost_spec *spec,
                                    const uint32_t *first_slot, struct mp_rng *rng, uint64_t work, uint16_t *gpu,
                                    bool *has_groups, struct mp_error *err) MP_MUST_CHECK;
/* How many steps have this GPU as the one that computes longest: where the time is lost. busy[n_gpus]. */
void mp_layer_cost_busy(const struct mp_layer_cost *c, uint32_t *busy);
/* Elementary operations since the last mp_layer_cost_new, for budgets. */
uint64_t mp_layer_cost_work(const struct mp_layer_cost *c);

#endif
