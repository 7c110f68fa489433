/* Private to planner/: groups of experts that tokens use together (co-activation), and where such groups go. */
#ifndef AFFINITY_H
#define AFFINITY_H

#include "planner.h"

/* pairs[n_experts][n_experts]: tokens of the planning steps that use both experts in this layer; 0 on the diagonal.
 * NOT_APPLICABLE, with `strategy` in front of the reason, where the recording does not say. */
enum mp_status mp_affinity(const struct mp_problem *in, uint32_t layer, const char *strategy, uint64_t *pairs,
                           enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

/* The cluster as bins within bins. On nodes of one GPU each, and on one node, the GPUs are the bins of a single node.
 */
struct mp_bins {
    uint32_t n_nodes, n_gpus;
    uint32_t *node_first; /* [n_nodes + 1] into gpus */
    uint32_t *gpus;       /* [n_gpus] node by node, ascending */
    uint32_t *room;       /* [n_gpus] slots of gpus[i] */
    uint32_t *node_room;  /* [n_nodes] */
};
enum mp_status mp_bins_of(struct mp_bins *out, const struct mp_plan *plan, struct mp_arena *arena,
                          struct mp_error *err) MP_MUST_CHECK;

/* How many of n each bin gets when all get equally many as far as their room goes; the remainder to the first that have
 * some left. share[n_bins]. */
void mp_bins_share(const uint32_t *room, uint32_t n_bins, uint32_t n, uint32_t *share);

/* Items 0..n-1 in groups, by their affinity a[n][n]. */
struct mp_groups {
    uint32_t n, n_groups;
    const uint64_t *a;            /* symmetric, 0 on the diagonal */
    const uint32_t *least, *most; /* [n_groups] items of each */
    uint32_t *group;              /* [n] */
};
/* Items move between groups until each has between least and most of them: first the ones with least affinity to their
 * group out of groups that are too large, to where they have most; then into groups that are too small the ones that
 * lose least. Ties: lower item, lower group. sum(least) <= n <= sum(most). */
enum mp_status mp_groups_fit(struct mp_groups *x, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* Sum of a over pairs within a group, each pair once. */
uint64_t mp_groups_inside(const struct mp_groups *x);
/* Groups by falling size (ties: lowest item first) to bins by falling room, so that unequal rooms are used. */
enum mp_status mp_groups_rename(struct mp_groups *x, const uint32_t *room, struct mp_arena *arena,
                                struct mp_error *err) MP_MUST_CHECK;
/* out[m][m]: a of the items listed. */
void mp_affinity_among(const uint64_t *a, uint32_t n, const uint32_t *items, uint32_t m, uint64_t *out);

/* Fills the layers of the draft's plan: expert e of layer l on gpu[l][n_experts]. Copies of an expert beyond the first
 * go where the draft wishes, else to the GPUs with least load of these first copies, as GRACE's do, where there is
 * room. NOT_FOUND where the copies do not fit. */
enum mp_status mp_place_groups(const struct mp_problem *in, struct mp_draft *draft, const char *strategy,
                               const uint16_t *gpu, struct mp_arena *arena, enum mp_outcome *outcome,
                               struct mp_error *err) MP_MUST_CHECK;

#endif
