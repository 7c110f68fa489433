/* Private to planner/: DeepSeek's EPLB for one layer, float32, bit for bit (FORMATS.md 3.1). */
#ifndef EPLB_H
#define EPLB_H

#include "planner.h"

struct mp_eplb_shape {
    uint32_t n_experts, n_slots, n_groups, n_nodes, n_gpus;
    uint32_t max_replicas; /* of an expert inside a node (global: in all); 0 = as published, no limit */
};
struct mp_eplb; /* workspace for one shape: reused between layers */

/* MP_EUSAGE when the shape breaks an assertion of the original: groups divide experts, nodes divide GPUs, GPUs
 * divide slots. As published, groups that do not divide by nodes mean the global policy (one group, one node).
 * Lives in `arena`. */
enum mp_status mp_eplb_new(struct mp_eplb **out, const struct mp_eplb_shape *shape, struct mp_arena *arena,
                           struct mp_error *err) MP_MUST_CHECK;
/* rebalance_experts for one layer: phy2log[n_slots] expert of each slot (slot s is on GPU s / (n_slots / n_gpus));
 * rank[n_slots] which replica of its expert the slot is, in creation order; logcnt[n_experts] replicas of each
 * expert. */
void mp_eplb_layer(struct mp_eplb *w, const uint64_t *load, uint16_t *phy2log, uint16_t *rank, uint16_t *logcnt);
/* log2phy[n_experts][width], -1 padded, width >= the largest logcnt: the slot of each replica in creation order. */
void mp_eplb_log2phy(const struct mp_eplb *w, const uint16_t *phy2log, const uint16_t *rank, uint32_t width,
                     int32_t *log2phy);
/* replicate_experts alone, over all experts: copies[n_slots] = 0 .. E-1, then the extra replicas in creation order.
 * */
void mp_eplb_copies(struct mp_eplb *w, const uint64_t *load, uint16_t *copies);
/* balanced_packing alone: copies[n_slots] with the load of each divided by its expert's number of copies, onto
 * n_gpus equal packs. */
void mp_eplb_pack_copies(struct mp_eplb *w, const uint64_t *load, const uint16_t *copies, uint16_t *phy2log);
/* Exchanges slots until no GPU holds an expert twice: each duplicate in slot order with the slot of nearest load
 * per replica on a GPU of the same node for which both sides stay distinct (ties: lower slot). Needs max_replicas
 * <= GPUs of a node. */
void mp_eplb_make_distinct(struct mp_eplb *w, const uint64_t *load, uint16_t *phy2log);

/* EPLB gives every GPU n_copies / n_gpus slots. False where memory gave a GPU fewer. */
bool mp_eplb_has_room(const struct mp_plan *p, uint32_t n_copies);
#define MP_EPLB_NO_ROOM                                                                                                \
    "%s: EPLB as published puts %u slots on each GPU, and the memory of some has room for fewer (use strategy lpt or " \
    "lpt-replicated)"

#endif
