/* Private to src/workload: what the step builders share. */
#ifndef WORKLOAD_INTERNAL_H
#define WORKLOAD_INTERNAL_H

#include <moeplan/workload.h>

/* "1,048,576" in buf; returns buf. */
struct mp_number_text {
    char text[32];
};
struct mp_number_text mp_workload_number(uint64_t n);

/* What a step builder works on and adds to. */
struct mp_step_builder {
    const struct mp_part *part;
    const struct mp_batching *batching;
    struct mp_workload *workload;
    struct mp_arena *arena; /* the workload's */
    struct mp_step *steps;  /* [n_steps] once start was called */
    uint32_t *used;         /* bit per member: appears in a step */
    uint16_t *home;         /* [part->n] rank by the part's rule of homes; NULL: it has none */
};
/* Fixes the number of steps and allocates their table. MP_ELIMIT past 2^32 - 1. */
enum mp_status mp_steps_start(struct mp_step_builder *b, uint64_t n_steps, struct mp_error *err) MP_MUST_CHECK;
void mp_steps_mark_used(struct mp_step_builder *b, uint32_t member);
/* How many of n recorded steps are kept, and which is the i-th of them. */
uint64_t mp_steps_kept(const struct mp_batching *b, uint64_t n);
uint64_t mp_steps_kept_index(const struct mp_batching *b, uint64_t n, uint64_t i);
/* Integer weights of the ranks, scaled to 2^20: llround((r + 1)^-skew * 2^20); returns their sum. */
uint64_t mp_rank_weights(uint32_t n_ranks, uint32_t skew_ppm, uint64_t *weights);
/* Padding of a rank with n tokens. */
uint32_t mp_padding_of(uint32_t n, uint32_t multiple);
static inline const struct mp_request *mp_member_request(const struct mp_part *p, uint32_t member) {
    return &p->trace->requests[p->members[member]];
}
/* The rank a member runs on, or MP_NONE: any. */
static inline uint32_t mp_member_rank(const struct mp_step_builder *b, uint32_t member) {
    const uint32_t source = mp_member_request(b->part, member)->source;
    return b->home != NULL ? b->home[member] : source == MP_NONE ? MP_NONE : source % b->batching->n_ranks;
}
/* Members with rows, by the node of their home: those of node v are list[first[v]] up to list[first[v + 1]]. */
struct mp_members_by_node {
    uint32_t *first, *list; /* [n_nodes + 1]; owned, mp_free both */
};
enum mp_status mp_members_by_node(struct mp_members_by_node *out, const struct mp_step_builder *b,
                                  struct mp_error *err) MP_MUST_CHECK;

enum mp_status mp_steps_decode(struct mp_step_builder *b, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_steps_decode_bootstrap(struct mp_step_builder *b, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_steps_prefill(struct mp_step_builder *b, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_steps_prefill_bootstrap(struct mp_step_builder *b, struct mp_error *err) MP_MUST_CHECK;

#endif
