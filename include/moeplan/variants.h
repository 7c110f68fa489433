/* A library of plans for traffic that changes, and the rule that switches between them while a model is served
 * (planner/variants, docs/VARIANTS.md). Variant 0 is the static plan; consecutive layers are switched in groups. */
#ifndef MOEPLAN_VARIANTS_H
#define MOEPLAN_VARIANTS_H

#include <moeplan/migrate.h>
#include <moeplan/strategy.h>

MP_API_BEGIN

enum { MP_VARIANTS_MAX = 16, MP_VARIANT_DOMAINS_MAX = 64, MP_VARIANT_POLICIES_MAX = 4 };
#define MP_SHARE_ONE (UINT32_C(1) << 20) /* shares of a layer's (token, expert) pairs sum to about this */

/* ---- the rule ---- */
struct mp_switch_rule { /* all borrowed */
    uint32_t n_variants, n_groups, n_layers, n_experts;
    const uint32_t *first_layer; /* [n_groups + 1] */
    const uint32_t *share;       /* [n_variants][n_layers][n_experts] of the traffic that each was made for */
    const uint64_t *cost_ns;     /* [n_groups][n_variants][n_variants] from, to: what moving the weights takes */
    uint32_t window;             /* steps whose popularity is looked at; 1 and up */
    uint32_t patience_ppm;       /* staying may have cost this much of a switch before it is made */
    uint32_t budget_ppm;         /* of the time under the static plan: never more than this longer */
    uint64_t worst_loss_ns;      /* what a step can take more than under the static plan; grows by what is seen */
};
struct mp_switch; /* where it stands */
/* The rule must outlive it. MP_EUSAGE for a rule that is none (no variant, window 0, groups that do not cover the
 * layers in order, a cost of staying, ...). */
enum mp_status mp_switch_new(struct mp_switch **out, const struct mp_switch_rule *rule,
                             struct mp_error *err) MP_MUST_CHECK;
void mp_switch_free(struct mp_switch *s);
/* Before a step: variant[n_groups] that serves it. Returns what switching to that takes. Knows earlier steps only. */
uint64_t mp_switch_choose(struct mp_switch *s, uint32_t *variant);
/* After it: load[n_layers][n_experts] its pairs, ns[n_groups][n_variants] what each group's layers take under each
 * variant, rest_ns everything else of the step. */
void mp_switch_seen(struct mp_switch *s, const uint32_t *load, const uint64_t *ns, uint64_t rest_ns);
/* The guarantee: after any number of steps, the time so far, switches and the way back to the static plan included, is
 * at most (1 + budget_ppm / 10^6) times the static plan's, as long as no step loses more than worst_loss_ns; a step
 * that does adds what it loses beyond, once. ahead_ns: how far ahead of the static plan it is; may be negative. */
int64_t mp_switch_ahead_ns(const struct mp_switch *s);

/* ---- the library ---- */
struct mp_variants_request {
    struct mp_plan_request base; /* the static plan: byte for byte what mp_plan_make makes of it */
    /* What the plans are proven on, where that is not the base: its planning part is another one. NULL = the base. */
    const struct mp_plan_request *proven;
    const struct mp_part *domains; /* [n_domains] of the planning data: blocks of one domain are what is served */
    const char *const *names;      /* [n_domains] */
    const uint32_t *weights; /* [n_domains] how much there is of each; with `proven` the static plan is made of as many
                              * steps of each all the same */
    uint32_t n_domains;
    uint32_t n_variants_max; /* static plan included; 0 = 8 */
    uint32_t window;         /* 0 = chosen */
    uint32_t group_layers;   /* 0 = chosen */
    uint32_t patience_ppm;   /* 0 = chosen */
    uint32_t budget_ppm;
    uint32_t overlap_ppm;    /* of the time of moves, what steps hide; 0 = it is charged in full */
    const uint32_t *lengths; /* [n_lengths] of blocks that the choice is made for, steps */
    uint32_t n_lengths;
};
struct mp_variant {
    struct mp_plan *plan;               /* owned; all of one shape, labelled so that little moves from the static one */
    const char *from;                   /* whose traffic it was made for */
    uint32_t n_members;                 /* requests (iterations) of that */
    uint32_t n_layers_changed, n_moves; /* against the static plan */
};
struct mp_variants {
    uint32_t n; /* 1: nothing beats the static plan */
    struct mp_variant variant[MP_VARIANTS_MAX];
    struct mp_switch_rule rule;
    const uint32_t *moves; /* [n_groups][n][n] experts that a switch moves */
    uint32_t n_candidates;
    double validation_gain; /* of the mean over block lengths, on the validation part, of 1 - time / static time */
    struct mp_arena *arena;
};
/* Learns the library. NOT_FOUND, NOT_APPLICABLE (also of the pipelined reading, whose layers overlap): err->message
 * says why, the status is MP_OK. */
enum mp_status mp_variants_make(struct mp_variants **out, const struct mp_variants_request *request,
                                enum mp_outcome *outcome, double *seconds, struct mp_error *err) MP_MUST_CHECK;
void mp_variants_free(struct mp_variants *v);
/* The rule as YAML, for whoever serves; plan_names[n] the files of the plans, sha256[n] of their bytes. */
void mp_variants_write_rule(const struct mp_variants *v, const char *const *plan_names, const char *const *sha256,
                            struct mp_out *o);

/* ---- what it is worth ---- */
/* Time of each of a domain's steps under something else, to be shown beside the library: policy `which`, domain: which
 * of the request's; ns[w->n_steps] is filled in. */
typedef enum mp_status (*mp_variants_policy_fn)(void *ctx, uint32_t which, uint32_t domain, const struct mp_workload *w,
                                                uint64_t *ns, struct mp_error *err);
struct mp_variants_score_request {
    const struct mp_plan_request *base;
    const struct mp_part *planned; /* [n_domains] planning data of each: what the oracle's plans are made of */
    const struct mp_part *scored;  /* [n_domains]; without members: left out */
    const uint32_t *weights;       /* [n_domains] how many of the blocks are of each */
    uint32_t n_domains;
    const uint32_t *lengths; /* [n_lengths], steps of a block */
    uint32_t n_lengths;
    uint32_t n_steps; /* distinct ones drawn of each domain; of counts all there are */
    uint64_t seed;
    uint32_t n_policies;
    mp_variants_policy_fn policy;
    void *policy_ctx;
};
struct mp_variants_domain {
    uint32_t n_steps, n_requests;                     /* 0 steps: not scored */
    uint64_t static_ns, oracle_ns, bound_ns, best_ns; /* means; best: of the library, free, step by step */
    uint64_t policy_ns[MP_VARIANT_POLICIES_MAX];
    uint64_t variant_ns[MP_VARIANTS_MAX];
};
struct mp_variants_cell { /* one block length; times are means per step */
    uint32_t length, n_blocks;
    uint64_t n_steps;
    double static_ns, variants_ns, switching_ns /* of variants_ns */, best_ns, oracle_ns, bound_ns;
    double policy_ns[MP_VARIANT_POLICIES_MAX];
    uint64_t n_switches, moved_bytes; /* of any group; in all */
    double worst_block;               /* the library's time over the static plan's - 1, of the blocks so far: largest */
};
struct mp_variants_score {
    uint32_t n_domains, n_lengths;
    struct mp_variants_domain *domain; /* [n_domains] */
    struct mp_variants_cell *cell;     /* [n_lengths] */
    uint32_t break_even;               /* from this length on (of 1, 2, 5, 10, ...) it is shorter; 0 = of none */
    double switch_ns, saved_ns;        /* switching from one domain's best variant to another's; saved per step then */
    struct mp_arena *arena;
};
enum mp_status mp_variants_score(struct mp_variants_score **out, const struct mp_variants *v,
                                 const struct mp_variants_score_request *request, struct mp_error *err) MP_MUST_CHECK;
void mp_variants_score_free(struct mp_variants_score *s);

MP_API_END

#endif
