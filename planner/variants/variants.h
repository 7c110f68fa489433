/* Private to planner/variants: what learning, replaying and scoring share. */
#ifndef VARIANTS_H
#define VARIANTS_H

#include "planner.h"
#include <moeplan/variants.h>

/* Distinct steps of each domain, with what the rule sees of them. */
struct vpool {
    uint32_t n_domains, n_layers, n_experts;
    struct mp_workload **steps; /* [n_domains]; NULL = none */
    uint32_t *first;            /* [n_domains + 1] number of each domain's first step */
    uint32_t *load;             /* [steps][n_layers][n_experts] */
    uint64_t rest_ns;           /* of a step beside its layers */
    struct mp_arena *arena;
};
/* n_steps drawn of each part that has members; of counts every iteration. */
enum mp_status vpool_make(struct vpool **out, const struct mp_part *parts, uint32_t n_parts,
                          const struct mp_plan_request *base, uint32_t n_steps, uint64_t seed,
                          struct mp_error *err) MP_MUST_CHECK;
void vpool_free(struct vpool *p);
/* ns[steps][n_layers] under a plan, in `arena`; of one domain's steps alone (the others stay 0), or MP_NONE = all. */
enum mp_status vpool_times(uint64_t **ns, const struct vpool *p, uint32_t domain, const struct mp_plan *plan,
                           const struct mp_plan_request *base, struct mp_arena *arena,
                           struct mp_error *err) MP_MUST_CHECK;
/* Steps for planning or scoring: drawn, or of counts all; of several parts as many of each, behind one another. */
enum mp_status vpool_steps(struct mp_workload **out, const struct mp_part *parts, uint32_t n_parts,
                           const struct mp_plan_request *base, uint32_t n_steps, uint64_t seed,
                           struct mp_error *err) MP_MUST_CHECK;

/* share[n_layers][n_experts] of a part's pairs. */
enum mp_status vcluster_shares(uint32_t *share, const struct mp_part *part, struct mp_error *err) MP_MUST_CHECK;
/* The members of a part in at most *n groups of like shares: group[part->n]. Whole numbers, ties to the lower. */
enum mp_status vcluster_group(uint32_t *group, uint32_t *n, const struct mp_part *part,
                              struct mp_error *err) MP_MUST_CHECK;

/* A plan with the stages of `like`, made on steps of the parts, as many of each; label NULL, or the plan whose labels
 * it takes, and whose layers stay where changing them is not worth it. *out NULL: there is none (err->message). For
 * scoring. */
enum mp_status vplan_make(struct mp_plan **out, const struct mp_plan *like, const struct mp_plan *label,
                          const struct mp_part *parts, uint32_t n_parts, const struct mp_plan_request *base,
                          struct mp_error *err) MP_MUST_CHECK;
/* Moves of each layer between each two of n plans, and their time by groups: moves[n_groups][n][n], cost likewise. */
enum mp_status vplan_costs(uint32_t *moves, uint64_t *cost_ns, const struct mp_plan *const *plans, uint32_t n,
                           const uint32_t *first_layer, uint32_t n_groups, const struct mp_plan_request *base,
                           struct mp_error *err) MP_MUST_CHECK;

/* A stream of blocks over a pool, and the library replayed on it. */
struct vstream {
    const struct vpool *pool;
    const uint32_t *weights; /* [n_domains] how often each has a block */
    uint32_t length, n_blocks;
    uint64_t seed;
};
uint32_t vstream_blocks(uint32_t length);
struct vreplay {
    uint64_t n_steps, n_switches, n_moves;
    double static_ns, variants_ns, switching_ns, worst_block;
};
/* group_ns[steps][n_groups][n_variants]. Calls each(ctx, step of the pool) for every step, where not NULL. */
enum mp_status vreplay_run(struct vreplay *out, const struct mp_switch_rule *rule, const uint32_t *moves,
                           const uint64_t *group_ns, const struct vstream *stream,
                           void (*each)(void *ctx, uint32_t step), void *ctx, struct mp_error *err) MP_MUST_CHECK;
/* group_ns of the variants' layer times: ns[n_variants][steps][n_layers]. */
void vreplay_groups(uint64_t *group_ns, uint64_t *worst_loss_ns, const uint64_t *const *ns, uint32_t n_steps,
                    const struct mp_switch_rule *rule);

#endif
