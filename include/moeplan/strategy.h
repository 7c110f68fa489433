/* The planner: strategies propose drafts, the driver evaluates, has them verified, and keeps the best. */
#ifndef MOEPLAN_STRATEGY_H
#define MOEPLAN_STRATEGY_H

#include <moeplan/matrix.h>
#include <moeplan/schedule.h>

MP_API_BEGIN

/* Type, range and default of one tuning constant: drives parsing, --help, man page, completion and `moeplan list`. */
struct mp_option {
    const char *name, *unit, *summary;
    int64_t default_value, min, max;
};

/* An option of a strategy that is not at its default. */
struct mp_setting {
    const char *strategy, *option;
    int64_t value;
};

enum mp_planner_stage { MP_PLAN_REPLICATE, MP_PLAN_PLACE, MP_PLAN_ROUTE, MP_PLAN_ORDER };
#define MP_N_PLANNER_STAGES 4

struct mp_problem {                     /* all borrowed */
    const struct mp_workload *workload; /* planning steps */
    const struct mp_part *part;         /* the requests they are of, to draw further steps from; NULL = none */
    const struct mp_topology *topology;
    const struct mp_model *model;
    struct mp_sim_options sim;
    enum mp_objective objective;
    uint32_t n_redundant;      /* slots beyond one per expert, per layer, over all GPUs */
    uint32_t slots_per_gpu;    /* 0 = ceil((n_experts + n_redundant) / n_gpus) */
    const uint32_t *gpu_slots; /* [n_gpus], where memory gives some GPUs fewer and others more; NULL = slots_per_gpu */
    bool needs_equal_slots;    /* the target stack wants every slot filled, equally many on each GPU */
    uint32_t allowed_routes;   /* 1 << enum mp_route_rule of each rule the target follows; 0 = all */
    bool needs_distinct; /* at most one replica of an expert on a GPU (default true; EPLB as published breaks it) */
    enum mp_stage_mode stage_mode; /* how the target runs stages */
    bool can_pace;                 /* and whether it honours rate caps */
    uint64_t memory_bytes;         /* per GPU for routed experts; 0 = what the GPU has less the model's other weights */
    uint64_t seed;
    unsigned n_threads;
    /* load[n_layers][n_experts]: (token, expert) pairs over the planning steps */
    const uint64_t *load;
    const int64_t *option_values; /* of the strategy being called, in its options' order */
    const struct mp_setting *settings;
    uint32_t n_settings;
    /* The rule that tokens will follow to replicas, or of EVEN and NEAREST the one more like it: for place strategies
     * that choose replicas. */
    enum mp_route_rule placed_for;
    const struct mp_plan *singles;     /* what place search makes of one copy each, where that is known; NULL = not */
    const uint32_t *given;             /* [n_layers][n_experts] GPU of each expert, decided elsewhere; NULL = not */
    const struct mp_plan *given_slots; /* in place of that: the slots of this plan, of the same shape; NULL = not */
    const struct mp_limits *limits;    /* a plan's orders take at most an eighth of its text; NULL = the defaults */
    const char *export_lp, *import_solution; /* files, for place exact; NULL = none */
    uint64_t exact_nodes; /* search nodes of the exact strategies per layer; 0 = as their options say */
};

/* What strategies write. `plan` has its shape and slots; copies[layer] is the list of physical experts to place, in
 * creation order: one each of 0..E-1, then the extra replicas. n_copies <= n_slots (the rest stay empty). */
struct mp_draft {
    struct mp_plan *plan; /* allocate what goes into it from plan->arena */
    uint32_t n_copies;    /* per layer */
    uint16_t *copies;     /* [n_layers][n_slots], first n_copies of each row used */
    uint64_t work_used;
    /* What the replicate stage may say besides; the driver makes room for the arrays. NULL: it has none. */
    uint32_t *layer_copies; /* [n_layers] where layers have different numbers of copies, n_copies being the most; 0 =
                               n_copies */
    uint16_t *wish;         /* [n_layers][n_slots] GPU on which it counts for each copy */
    bool has_wish;          /* wish is filled in */
    bool is_open;           /* copies are one each, and the place stage adds replicas, up to n_redundant */
    bool by_rule;           /* what was chosen depends on the problem's placed_for */
};
/* Copies of one layer. */
static inline uint32_t mp_draft_n(const struct mp_draft *d, uint32_t layer) {
    return d->layer_copies != NULL && d->layer_copies[layer] > 0 ? d->layer_copies[layer] : d->n_copies;
}
/* Do layers have different numbers of copies? */
bool mp_draft_varies(const struct mp_draft *d);
/* What the orders that share a budget have used; zero before the first. */
struct mp_spent {
    uint64_t work;  /* simulated orders */
    double started; /* of mp_now_seconds; 0 = by the next order */
    bool is_stopped;
};
struct mp_budget {
    uint64_t work_limit;    /* work units; 0 = none */
    double wall_seconds;    /* safety net; 0 = none */
    bool *wall_struck;      /* set when the safety net ended a search */
    struct mp_spent *spent; /* orders only; one thread's */
};
/* One traffic matrix to put in order. All borrowed. */
struct mp_order_problem {
    const struct mp_topology *topology;
    const uint64_t *matrix;  /* [n_gpus][n_gpus] bytes, diagonal ignored */
    struct mp_net *net;      /* this thread's simulator */
    enum mp_stage_mode mode; /* how stages will follow each other; matters to list schedules */
    bool can_pace;           /* the transport honours rate caps (sub-ports): sockets do, NCCL does not */
    bool is_both_ways;       /* a combine of these sizes will run the order too: with incast, the mean of both counts */
    uint64_t seed;
    const int64_t *option_values; /* of the strategy being called, in its options' order; mp_order_run fills them in */
    const struct mp_setting *settings; /* in place of defaults */
    uint32_t n_settings;
    const struct mp_budget *budget; /* with `spent`; NULL = none */
    /* What is known beforehand, 0 = nothing: the time of the single shot, launch included, so that it is not simulated
     * again; and a time that is reached already. On more than MP_QUICK_GPUS GPUs strategies leave out what cannot be
     * below that. */
    uint64_t single_ns, reached_ns;
};
#define MP_QUICK_GPUS 64u

/* The extension point: planner/<stage prefix>_<name>.c (repl_, place_, route_, order_), one word in
 * planner/meson.build. */
struct mp_strategy {
    const char *name, *summary, *reference;
    enum mp_planner_stage stage;
    bool between_nodes;              /* ORDER: works on the matrix of nodes, so many GPUs are no burden */
    bool takes_layers;               /* PLACE: layers may have different numbers of copies */
    bool takes_open;                 /* PLACE: adds replicas where the draft is_open */
    bool is_named_only;              /* `auto` tries it in recipes alone, not in every combination */
    bool is_only_asked;              /* and `auto` never tries it of itself */
    const struct mp_option *options; /* ends with name NULL; NULL = none */
    enum mp_status (*solve)(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err);
    /* Stage ORDER in place of solve: stages for one matrix. *out is initialised for n_gpus ends. FOUND with no stages =
     * single shot. NOT_APPLICABLE: err->message says why. The driver (planner/order/order.c) decides which layers use
     * it. */
    enum mp_status (*order)(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err);
};
const struct mp_strategy *mp_strategy_at(uint32_t i); /* NULL past the last */
const struct mp_strategy *mp_strategy_find(enum mp_planner_stage stage, const char *name);
/* Values of a strategy's options, in their order, in `arena`: the defaults with the settings over them. *out NULL when
 * it has none. MP_EUSAGE for a setting of this strategy that it has not or that is out of range. */
enum mp_status mp_option_values(const int64_t **out, const struct mp_strategy *s, const struct mp_setting *settings,
                                uint32_t n_settings, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* Are all settings of options that exist, in their ranges? MP_EUSAGE says what to write. */
enum mp_status mp_settings_check(const struct mp_setting *settings, uint32_t n_settings,
                                 struct mp_error *err) MP_MUST_CHECK;
const char *mp_planner_stage_name(enum mp_planner_stage stage); /* "replicate", "place", "route", "order" */
/* Runs an order strategy on one matrix and checks what it made with mp_schedule_check (and the port rule of
 * docs/ORDERS.md). The caller frees *out in every case. Thread-safe given a net of its own. Outcome STOPPED: the budget
 * ran out, *out is the best so far. */
enum mp_status mp_order_run(const struct mp_strategy *s, const struct mp_order_problem *in, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;
/* Has the budget (NULL = none) stopped the orders that share it? From then on always. A strategy asks before each
 * simulation and then makes do with the best so far. */
bool mp_order_is_stopped(const struct mp_budget *budget);
/* Takes one work unit, a simulated order; false: there is none left, or no time. */
bool mp_order_spend(const struct mp_budget *budget);
/* Is an order of this time faster than the single shot by more than rounding? */
bool mp_order_gains(uint64_t time_ns, uint64_t single_ns);
/* Time of a schedule on its own matrix, as the plan would be simulated (launches of its stages included); with no
 * stages the single shot and its one launch_ns. */
enum mp_status mp_schedule_time(const struct mp_schedule *s, const struct mp_order_problem *in, uint64_t *time_ns,
                                struct mp_error *err) MP_MUST_CHECK;

/* The order of one traffic matrix as a plan. All borrowed. */
struct mp_matrix_request {
    const struct mp_matrix *matrix; /* as its file has it: read with token_bytes 0 */
    uint64_t token_bytes;           /* > 0: its cells count tokens of this many bytes */
    const struct mp_topology *topology;
    const struct mp_schedule *schedule; /* of the bytes of mp_matrix_bytes; without stages one shot */
    uint64_t time_ns;                   /* mp_schedule_time of it */
    const char *strategy;               /* that made it; must live as long as the plan */
    enum mp_stage_mode stage_mode;
    bool can_pace;
    const struct mp_setting *settings;
    uint32_t n_settings;
    uint64_t seed, work_used;
    const char *stopped_by; /* "done" | "work_limit" | "wall_clock" */
};
/* Makes the plan: one layer, expert i on GPU i, so that a token for expert i is bytes for GPU i; it names the matrix
 * and carries the certificate of this dispatch. Nothing that the verifier has not accepted with the matrix leaves this
 * function. *is_simulated: the verifier has simulated the time again; false: it is too long for the limit on simulated
 * work, and only the bound was derived again. */
enum mp_status mp_matrix_plan(struct mp_plan **out, bool *is_simulated, const struct mp_matrix_request *request,
                              struct mp_error *err) MP_MUST_CHECK;

/* A named combination, what --strategy takes: contiguous, round-robin, random, lpt, eplb, eplb-hierarchical, auto, ...
 */
struct mp_recipe {
    const char *name, *summary, *reference;
    const char *replicate, *place, *route, *order; /* NULL place = auto: search over the others */
    bool may_repeat_on_gpu;                        /* breaks needs_distinct by design */
    bool is_usual;      /* what someone who has a cluster to run wants to see side by side: `compare` without names */
    bool is_only_asked; /* `auto` does not try it */
};
const struct mp_recipe *mp_recipe_at(uint32_t i);
const struct mp_recipe *mp_recipe_find(const char *name);

struct mp_plan_request {
    const struct mp_part *planning; /* data to plan on */
    struct mp_batching batching;
    const struct mp_workload *steps; /* is_trial: these in place of steps of `planning`; NULL = not */
    struct mp_split split;           /* recorded in the plan */
    const struct mp_topology *topology;
    const struct mp_model *model;
    struct mp_sim_options sim;
    enum mp_objective objective;
    const char *strategy;                          /* a recipe's name */
    const char *replicate, *place, *route, *order; /* NULL = the recipe's */
    uint32_t n_redundant, slots_per_gpu;
    uint32_t allowed_routes; /* 1 << enum mp_route_rule of each rule the target follows; 0 = all */
    bool needs_equal_slots;
    bool needs_distinct;   /* the target breaks on two replicas of an expert on one GPU: recipes that make them are
                            * repaired (otherwise the plan says allow_same_gpu_replicas) */
    uint64_t memory_bytes; /* per GPU for routed experts; 0 = what the GPU has less the model's other weights */
    enum mp_stage_mode stage_mode;     /* how the target runs stages: NCCL COUPLED */
    bool can_pace;                     /* the target honours rate caps of sub-ports: NCCL does not */
    const struct mp_setting *settings; /* options of strategies that are not at their defaults */
    uint32_t n_settings;
    uint64_t seed;
    uint64_t work_limit; /* `auto`: simulated (step, layer) pairs; 0 = none */
    double wall_seconds;
    unsigned n_threads;
    const struct mp_limits *limits;
    bool no_exact;   /* `auto` does not try the exact searches */
    bool fits_steps; /* the planning steps themselves are what counts: nothing is drawn from their requests, none are
                      * kept back to choose on */
    /* Only to be scored, never for a file: no evidence, samples or certificates, and the verifier checks the structure
     * alone; exact searches get as little as they get in `auto`. */
    bool is_trial;
    /* place exact: also write its program here (.mps: free MPS, else CPLEX LP); take this file's solution */
    const char *export_lp, *import_solution;
    /* A placement decided elsewhere (colocation) in place of the recipe's, with its name; NULL = none. */
    const uint32_t *given;             /* [n_layers][n_experts] GPU */
    const struct mp_plan *given_slots; /* in place of that: every slot as in this plan; replicas come with it */
    const char *given_name;
    uint64_t given_work;                     /* what deciding it took */
    bool given_is_stopped;                   /* and whether work_limit ended it */
    const struct mp_colocation *colocations; /* recorded in the plan */
    uint32_t n_colocations;
    const struct mp_plan_together *together; /* the same; NULL = the plan is not one of two */
    const uint32_t *gpu_slots;               /* [n_gpus] slots of each GPU in place of slots_per_gpu; NULL = not */
    const char *homes; /* how homes of requests are planned (mp_homes_at); NULL or "none": not at all */
};
/* Runs the stages, simulates on the planning steps, fills in evidence, samples, certificates and provenance, and has
 * the verifier accept the plan; nothing unverified leaves this function. outcome NOT_FOUND: infeasible, err->message
 * says what to change (status MP_OK then). The caller owns *out. seconds: wall time spent planning, simulation for
 * `auto` included; may be NULL. */
enum mp_status mp_plan_make(struct mp_plan **out, const struct mp_plan_request *request, enum mp_outcome *outcome,
                            double *seconds, struct mp_error *err) MP_MUST_CHECK;

/* ---- policies: placements made while the model is served (docs/ONLINE.md) ---- */
/* Name, summary, reference and options of a policy; it is no stage of a plan. */
const struct mp_strategy *mp_policy_at(uint32_t i); /* NULL past the last */
const struct mp_strategy *mp_policy_find(const char *name);
/* The recipe whose placement a policy starts with under these settings. */
enum mp_status mp_online_start(const char **recipe, const struct mp_strategy *policy, const struct mp_setting *settings,
                               uint32_t n_settings, struct mp_error *err) MP_MUST_CHECK;
/* Does it need to know which experts one token used? */
bool mp_online_needs_tokens(const struct mp_strategy *policy);

struct mp_online_request {              /* all borrowed; the result borrows `start` */
    const struct mp_strategy *policy;   /* NULL = eplb-online */
    const struct mp_part *planning;     /* what a policy that needs tokens learns from; others take NULL */
    const struct mp_plan *start;        /* placement that serves first, and routing for all of them; without orders */
    const struct mp_workload *workload; /* the steps in the order they are served */
    const struct mp_topology *topology;
    const struct mp_model *model;
    struct mp_sim_options sim; /* n_steps_max: the policy sees every step, so many are simulated in full */
    uint32_t n_redundant;      /* as `start` was planned */
    bool needs_distinct;
    const struct mp_setting *settings;
    uint32_t n_settings;
};
struct mp_online_result {
    struct mp_sim_result *sim;         /* waiting for moves, or being slowed by them, is in other_ns */
    uint32_t n_rebalances, n_left_out; /* left out: due while the last one's experts were still moving */
    uint64_t moved_experts, moved_bytes, moved_inter_bytes; /* over all steps: experts that a GPU had to fetch */
    uint64_t mean_wait_ns;                                  /* per step */
    double plan_seconds;                                    /* wall time of all plans */
    uint32_t n_versions;
    const struct mp_sim_version *versions; /* [n_versions] what served when */
    const uint64_t *wait_ns;               /* [n_steps] */
    struct mp_plan **made;                 /* [n_rebalances] */
    struct mp_plan *home;                  /* whose shape the versions have, where that is not start's; NULL = not */
    /* Of policies that schedule every layer of every step (Lina's); 0 otherwise. */
    uint64_t n_schedules, n_checks, n_tuned; /* (step, layer)s: scheduled ahead; lists compared; scheduled again */
    uint32_t n_layers;
    struct mp_arena *arena;
};
/* Replays a policy over the steps. MP_EUSAGE when EPLB cannot plan for this shape. */
enum mp_status mp_online_simulate(struct mp_online_result **out, const struct mp_online_request *in,
                                  struct mp_error *err) MP_MUST_CHECK;
void mp_online_result_free(struct mp_online_result *r);

/* A plan's certificate of kind search or stopped says that no placement of its copies in its slots is faster than its
 * bound. Whether that is so takes the search that it came from. */
enum mp_proof_verdict {
    MP_PROOF_IS_NONE,    /* the plan has no such certificate */
    MP_PROOF_HOLDS,      /* proven again */
    MP_PROOF_IS_REFUTED, /* a placement is faster: best_ns < claimed_ns */
    MP_PROOF_IS_OPEN     /* node_limit struck between the two, or this plan cannot be searched: `why` */
};
struct mp_proof_again {
    enum mp_proof_verdict verdict;
    uint64_t claimed_ns, best_ns, bound_ns; /* mean step: the certificate's bound; the best found; proven by now */
    uint64_t nodes;
    const char *why; /* static text, or NULL */
};
#define MP_PROOF_NODES UINT64_C(100000000)
/* On the planning steps, derived from `trace` by what the plan says of them; of an accepted plan. node_limit of each
 * layer; 0 = as many as the certificate gives, at most MP_PROOF_NODES. */
enum mp_status mp_plan_prove_again(struct mp_proof_again *out, const struct mp_plan *plan, const struct mp_trace *trace,
                                   const struct mp_topology *topology, const struct mp_model *model,
                                   uint64_t node_limit, unsigned n_threads, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
