/* Planning and scoring as plan, simulate and compare share them: inputs, parts, steps, results with intervals over
 * requests. */
#ifndef TOOL_SCORE_H
#define TOOL_SCORE_H

#include "tool.h"

/* An iteration with more tokens per rank than this is taken for a total over many steps. */
enum { SCORE_STEP_TOKENS_MAX = 16384, SCORE_DECODE_STEP_TOKENS_MAX = 1024 };
enum { SCORE_GROUPS_MAX = 100, SCORE_REPLICATE_STEPS = 32, SCORE_PLANS_MAX = 64 };

/* Everything that is the same for all plans that are scored side by side. Owned; freed with setup_free. */
struct setup {
    const struct opts *o;
    struct mp_trace *trace, *score_trace; /* score_trace: --score-on, or NULL */
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_split split;
    struct mp_part planning, scored; /* what is planned on, what is scored on */
    struct mp_batching batching;
    struct mp_sim_options sim;
    struct mp_workload *workload;      /* steps of the scored part */
    const struct mp_setting *settings; /* --set */
    uint32_t n_settings;
    struct mp_arena *arena;
    const struct mp_home_rule *homes; /* of the plan that the steps are for; NULL: none */
    struct lossy *lossy;              /* --condense (lossy.h), or NULL */
    struct rehoming *rehoming;        /* --rehome (rehoming.h), or NULL */
    const char *evaluated_on;         /* what the scored steps are to plans made here: "held-out" | "planning data" */
    uint32_t n_replicate_steps;       /* of the jackknife, at most; 0 = SCORE_REPLICATE_STEPS */
    bool is_replicate_bound; /* the jackknife's transfers take their port bound: much faster, nearly the same spread */
};
/* Reads recording, topology and model. */
enum mp_status setup_load(struct setup *s, const struct opts *o, const char *trace, const char *topology,
                          struct mp_error *err) MP_MUST_CHECK;
/* Splits (text as --split takes it), reads --score-on, builds the steps that are scored. s->batching and s->sim must be
 * set. */
enum mp_status setup_split(struct setup *s, const char *split, struct mp_error *err) MP_MUST_CHECK;
/* Steps, dispatcher and part of the recording as the plan was made for, where the options do not say otherwise. */
enum mp_status setup_as_planned(struct setup *s, const struct mp_plan *plan, struct mp_error *err) MP_MUST_CHECK;
/* Notes on what the steps are not: totals instead of steps, ranks that idle or are folded. */
void setup_note_inputs(const struct setup *s);
void setup_inputs_text(const struct setup *s, char ranks[300], char totals[300]); /* the notes, or "" */
void setup_free(struct setup *s);

/* One plan and how it scored. */
struct score {
    struct mp_scored shown;           /* what reports print; its plan and result are those below */
    struct mp_plan *plan;             /* owned */
    struct mp_workload *workload;     /* owned: where the plan's requests have homes, its steps; else NULL */
    struct mp_sim_result *result;     /* owned */
    struct mp_interval against_base;  /* of step / baseline's step - 1 */
    double without[SCORE_GROUPS_MAX]; /* mean step without each group */
    char name[MP_MAX_NAME], note[800];
    bool is_barred;   /* it has a plan that cannot be used as it is (note says why): neither winner nor baseline */
    bool is_imported; /* a stack's placement, routed as --incumbent-route says */
    bool is_online;   /* a policy: `plan` is what it starts with */
    const struct mp_dispatcher *travel; /* mp_travel_find: experts travel; NULL = as the options say */
    struct {                            /* what condensation did to the scored steps (lossy.h) */
        bool is_lossy;
        double share, rows, compared, by_history, intra_bytes, inter_bytes, plain_bytes;
        uint64_t plain_step_ns;
    } lossy;
    struct { /* what it did on the scored steps */
        uint32_t n_rebalances, n_left_out, n_steps;
        uint64_t moved_experts, moved_bytes, moved_inter_bytes, wait_ns; /* wait_ns: mean per step */
        uint64_t n_schedules, n_checks, n_tuned; /* of (step, layer)s; of policies that schedule each of them */
        uint32_t n_layers;                       /* 0: another kind of policy */
    } online;
};
/* Plans with one recipe and way to give homes (NULL: none) on the planning part; of a policy (mp_policy_find), what it
 * starts with. Not applicable or infeasible: score->note says why, and the status is MP_OK. */
enum mp_status score_plan(struct score *out, const struct setup *s, const char *strategy, const char *homes,
                          struct mp_error *err) MP_MUST_CHECK;
/* The strategies of `like` (NULL = contiguous) on the planning part, for scoring alone: no evidence, no proofs. */
enum mp_status score_like(struct score *out, const struct setup *s, const struct mp_plan *like,
                          struct mp_error *err) MP_MUST_CHECK;
/* Reads a placement or plan file as an incumbent and fits it to the recording's layers and the topology. */
enum mp_status score_load(struct score *out, const struct setup *s, const char *path,
                          struct mp_error *err) MP_MUST_CHECK;
/* Simulates all plans on the same steps; intervals when n_groups > 1, and only when every replicate has steps of the
 * same kind as the whole. base: index of the baseline, or MP_NONE. */
enum mp_status score_all(struct score *scores, uint32_t n, uint32_t base, const struct setup *s, uint32_t n_groups,
                         struct mp_error *err) MP_MUST_CHECK;
void score_free(struct score *score);
/* The steps a plan is scored on. */
static inline const struct mp_workload *score_steps(const struct score *score, const struct setup *s) {
    return score->workload != NULL ? score->workload : s->workload;
}
/* The steps of a part, its requests at the homes that the plan gives them, if it does. */
enum mp_status score_build_homed(struct mp_workload **out, const struct mp_plan *plan, const struct mp_part *part,
                                 const struct mp_batching *batching, struct mp_error *err) MP_MUST_CHECK;
/* Adds change, change_interval and moe_change against the baseline's result to a result, an object; nothing where one
 * of the two has none. False = out of memory. */
bool score_change_json(json_t *result, const struct score *score, const struct mp_sim_result *base);
/* Copies between nodes and load, for plans whose requests have homes. */
json_t *score_homes_json(const struct score *score);

/* What a difference to a baseline is worth, as every verb says it: only REAL is worth the trouble. */
enum gain_kind { GAIN_REAL, GAIN_TIE, GAIN_TOO_FEW, GAIN_NOISE, GAIN_LOSS };
/* change = step / baseline's step - 1. no_interval: why there is none although one was asked for, or NULL. */
enum gain_kind score_gain_kind(double change, const struct mp_interval *interval, const char *no_interval);
/* What to record so that more can be said, after a comma: "; about 1,300 requests would tell (the recording has 120)",
 * or "". buf of at least 160. */
const char *score_what_to_record(const struct setup *s, enum gain_kind kind, double change,
                                 const struct mp_interval *interval, char *buf);

/* What a plan made by `plan` gains over contiguous. */
struct gain {
    enum gain_kind kind;
    double change;
    struct mp_interval interval;
    const char *evaluated_on; /* "held-out" | "validation part" */
    uint32_t n_steps, n_requests;
    bool is_known, is_bootstrap;
    char verdict[1200];
};
/* Mean step time against contiguous with the jackknife's interval: on what was held out from the plan, else on half of
 * the requests with a plan that the same strategies make from the other half. */
enum mp_status gain_over_contiguous(struct gain *out, const struct setup *s, const struct mp_plan *plan,
                                    struct mp_error *err) MP_MUST_CHECK;
json_t *gain_json(const struct gain *g); /* null when it was not asked for */
/* What the scored steps are to a plan that was read: "held-out", "planning data" (made from this recording, and not
 * with the split that is scored) or "unknown origin" (the file does not say what it was made from). */
const char *score_origin(const struct setup *s, const struct mp_plan *plan);
/* --for STACK: is the plan one that the stack loads? NOT_FOUND: the message of `err` says why not. */
enum mp_status score_check_stack(const struct setup *s, const struct mp_plan *plan, enum mp_outcome *outcome,
                                 struct mp_error *err) MP_MUST_CHECK;
/* Rearranges a plan's layers to those of the recording, by layer id. MP_EINPUT with the numbers when it does not fit.
 */
enum mp_status score_fit(struct mp_plan *plan, const char *path, const struct mp_trace *trace,
                         const struct mp_topology *topology, struct mp_error *err) MP_MUST_CHECK;

/* The planner's request of the options. */
struct mp_plan_request score_request(const struct setup *s, const char *strategy);
/* "123" tokens of KV cache, or "-" for a model that has none; buf of at least 32. */
const char *score_kv_tokens(const struct setup *s, const struct mp_sim_result *r, char *buf);
/* "steps: 24 recorded, ..." for the head of a report; buf of at least 512. */
const char *score_describe(const struct setup *s, char *buf, size_t size);

#endif
