/* The plan: which slot of which GPU holds which expert, which replica serves which token, in which order transfers run,
 * and what that was predicted to be worth. In memory a plain tree in one arena; on disk canonical YAML (docs/PLAN.md).
 */
#ifndef MOEPLAN_PLAN_H
#define MOEPLAN_PLAN_H

#include <moeplan/policy.h>
#include <moeplan/topology.h>
#include <moeplan/workload.h>

MP_API_BEGIN

/* Which replica of an expert serves a token. All rules are deterministic and shared by simulator and executor
 * (mp_router_slot); both verifiers re-implement them from these comments.
 * Candidates: the slots of the expert in ascending slot order. hash = mp_mix64(mp_token_hash(row) ^ (layer << 32 |
 * expert)), layer = MoE layer index.
 *   EVEN     candidate hash % n.
 *   NEAREST  fixed per (layer, expert, source): a candidate on the source's GPU, else on its node, else all; several
 *            candidates left: number the sources that are left with this same candidate set in ascending order 0, 1,
 *            ...; source number i takes candidate (i + expert) % n. (SGLang's static rule with a defined choice in
 *            place of its seeded one.)
 *   WEIGHTED drawn by the slots' integer weights: w = hash % sum; the first candidate whose cumulative weight exceeds
 *            w.
 *   TIERED   as WEIGHTED, among the candidates on the source's GPU if there are any, else on its node, else all.
 *   SOURCED  as WEIGHTED, by the weights of the source's class: its GPU, or its node (enum mp_route_by).
 * "This same candidate set" compares sets: a node that holds every replica shares its numbering with the sources
 * outside it. Under WEIGHTED, TIERED and SOURCED a slot of weight 0 is no candidate (of that class). */
enum mp_route_rule { MP_ROUTE_EVEN, MP_ROUTE_NEAREST, MP_ROUTE_WEIGHTED, MP_ROUTE_TIERED, MP_ROUTE_SOURCED };
#define MP_N_ROUTE_RULES 5
/* Rule SOURCED: which sources share their weights. Class of a source: its GPU's number, or its node's. */
enum mp_route_by { MP_ROUTE_BY_GPU, MP_ROUTE_BY_NODE };
#define MP_N_ROUTE_BY 2
#define MP_MAX_ROUTE_CELLS (UINT64_C(1) << 26) /* rule SOURCED: layers x classes x slots */

/* How stages follow each other (DESIGN.md part 3). */
enum mp_stage_mode { MP_STAGE_FREE, MP_STAGE_BARRIER, MP_STAGE_COUPLED };

/* How an order runs a combine (docs/ORDERS.md part 1). A dispatch always runs FORWARD.
 *   FORWARD   the stages as they are, on the combine matrix.
 *   REVERSED  src and dst of every transfer swapped, stages backwards.
 *   SWAPPED   src and dst of every transfer swapped, stages in the same sequence as the dispatch.
 * Under the last two the same tokens come back together that went out together. */
enum mp_combine { MP_COMBINE_FORWARD, MP_COMBINE_REVERSED, MP_COMBINE_SWAPPED };
#define MP_N_COMBINES 3

/* One transfer of a stage: the flow (src, dst) moves share / order.unit of its bytes, over `width` sub-ports of both
 * ends (>= 1; 1 where sub-ports are not used). */
struct mp_transfer {
    uint16_t src, dst;
    uint32_t share;
    uint16_t width;
};
struct mp_stage {
    uint32_t n;
    const struct mp_transfer *transfers; /* [n], by ascending (src, dst) */
};
/* An order: stages in sequence. Shares of every ordered pair of distinct GPUs sum to `unit` exactly. A flow of n bytes
 * is cut at floor(cumulative share * n / unit). At most `ports` sends and receives per GPU and stage, widths counted,
 * but in a flush. docs/ORDERS.md is normative. */
struct mp_order {
    const char *name;          /* strategy that made it */
    bool between_nodes;        /* src and dst are nodes; bytes take rails between nodes and are passed on inside them */
    bool has_flush;            /* the last stage is everything that is left, at once */
    uint32_t unit, ports;      /* ports 1 = one-to-one stages */
    uint64_t port_bytes_per_s; /* rate cap of one sub-port: a transfer's is width times this; 0 = none */
    uint32_t n_stages;
    const struct mp_stage *stages;
};

struct mp_plan_layer {
    uint32_t layer_id;     /* absolute layer index */
    uint16_t *slot_expert; /* [n_slots] expert in each slot, or MP_NO_EXPERT = empty */
    uint32_t
        *slot_weight; /* WEIGHTED, TIERED: [n_slots] routing weights, >= 0; of each expert's not all 0; else NULL */
    /* SOURCED: [classes][n_slots] routing weights, else NULL. 0 but in the slots of experts with two slots or more; of
     * such an expert's not all 0 in any class. mp_plan_source_weights makes them. */
    uint32_t *slot_weight_by_source;
    uint32_t order;          /* index into orders, or MP_NONE = concurrent (single shot) */
    enum mp_combine combine; /* how the order runs the combine; FORWARD without an order */
    /* Evidence, exact sums over all planning steps; both verifiers recompute it. */
    uint64_t rows_max_sum; /* sum over steps of max over GPUs of (token, expert) pairs computed there */
    uint64_t dispatch_intra_bytes, dispatch_inter_bytes; /* inside nodes / between nodes, self excluded */
    uint64_t port_bound_ns;                              /* sum over steps of mp_port_bound_ns of the dispatch matrix */
    int8_t *home_weights;  /* NULL, or [n_nodes - 1][n_experts]: homes of requests, weights of the nodes from 1 on */
    uint64_t *expert_rows; /* NULL = not known, or [n_experts]: pairs of each expert: how far is other data? */
};

/* {value, bound, gap}: value is what this plan does, bound what no plan (of the stated scope) can go below; mean ns per
 * step. */
enum mp_certificate_kind { MP_CERT_ORDER, MP_CERT_PLACEMENT, MP_CERT_RESIDUAL };
enum mp_proof_kind { MP_PROOF_CLOSED_FORM, MP_PROOF_SEARCH, MP_PROOF_STOPPED };
/* Scopes of proofs by search: what was searched are all placements of the plan's own copies, with single shots. */
#define MP_SCOPE_SINGLE_COPIES                                                                                         \
    "step, single shots, every placement of one copy per expert in these slots, planning steps"
#define MP_SCOPE_REPLICAS "step, single shots, every placement of these replicas in these slots, planning steps"
/* Scope of the order of one traffic matrix (moeplan order): that dispatch, launches included. */
#define MP_SCOPE_MATRIX "one dispatch of the matrix"
struct mp_certificate {
    enum mp_certificate_kind kind;
    enum mp_proof_kind proof;
    const char *scope; /* for instance "dispatch, all layers, planning steps" */
    uint64_t value_ns, bound_ns;
    uint64_t nodes; /* search nodes, 0 = none */
};

struct mp_plan_sample { /* one sampled planning step, recomputed by the verifiers' own slow simulators */
    uint32_t step;
    uint64_t step_ns, dispatch_ns, compute_ns, combine_ns;
    uint64_t pipelined_step_ns; /* with a clock per GPU; 0 unless the plan is_pipelined */
};

/* Two models on one cluster: expert `expert_b` of the other plan's layer shares a GPU with expert_a. */
struct mp_colocation {
    uint32_t layer, expert_a, expert_b, gpu;
};
/* Of a plan that is one of two: which, who the other is, and what a step of both takes (docs/COLOCATION.md part 6). */
struct mp_plan_together {
    bool is_present, is_second;
    const char *other_trace_sha256, *other_model_sha256;
    uint64_t timeline_ns, closed_form_ns; /* both planning data's mean steps, summed over layers */
};
/* Of a plan for training: how its steps are to run. The policy's buckets are always listed: every layer's gradients of
 * what all ranks hold once, and of experts where one is on several GPUs (docs/PLAN.md). */
struct mp_plan_training {
    bool is_present;
    const char *name;         /* of the policy: as `moeplan list policies` says it, or "searched" */
    uint32_t experts_per_gpu; /* of each layer on every GPU, where packing made the placement; else 0 */
    uint32_t gradient_bits;   /* of one weight's gradient as it travels */
    enum mp_train_offload offload;
    struct mp_train_policy policy;
};
#define MP_MAX_GRADIENT_BITS 64

/* The rule that gives a request its home when it arrives (docs/HOMES.md); its weights are in the layers. */
struct mp_plan_homes {
    bool is_present;
    const char *method; /* "affinity", "codesign" */
    uint32_t prefix_rows, price_milli;
    uint64_t tolerance;
    const int32_t *bias_milli; /* [n_nodes] */
};

/* Tokens that are alike travel once (docs/LUFFY.md, "Token condensation"). LOSSY: results change. */
struct mp_plan_condense {
    bool is_present;
    uint32_t threshold_ppm, sure_ppm, never_ppm; /* as struct mp_condense has them */
    uint32_t *condensed_ppm;                     /* [n_layers] share that it condensed of planning steps */
};

/* The traffic matrix that a plan of `moeplan order` puts in order. Such a plan has one layer, no workload, and a
 * certificate. */
struct mp_matrix_source {
    bool is_present;
    const char *format, *sha256; /* its format's name; of the file's bytes, 64 hex digits */
    uint64_t token_bytes;        /* > 0: the cells count tokens of this many bytes; 0: they are bytes */
};
#define MP_MAX_TOKEN_BYTES (UINT64_C(1) << 24)

struct mp_provenance {
    const char *tool; /* "moeplan 0.1.0" */
    const char *trace_sha256, *trace_format, *trace_model;
    const char *topology, *topology_sha256, *model, *model_sha256;
    const char *place, *replicate, *route, *order, *strategy; /* names */
    const char *options;                                      /* given for strategies: "matchings.stages=8,..." */
    const char *dispatcher, *sources;                         /* "a2av"..., "dp" | "coupled" */
    const char *selected_on;                                  /* "planning data" or "validation part" */
    struct mp_batching batching;
    struct mp_split split; /* categories owned by the arena */
    uint64_t seed, work_used;
    const char *stopped_by;         /* "done" | "work_limit" | "wall_clock" */
    bool is_reproducible;           /* false when wall clock struck */
    bool is_synthetic;              /* planned on a synthetic trace */
    bool has_workload;              /* false: imported placement or the order of a matrix: no evidence, no prediction */
    struct mp_matrix_source matrix; /* not together with a workload */
};

struct mp_plan {
    struct mp_provenance provenance;
    uint32_t n_layers, n_experts, n_gpus, n_nodes, n_slots;
    const uint32_t *gpu_first_slot; /* [n_gpus + 1]: slots of GPU g are [first[g], first[g + 1]) in every layer */
    const uint32_t *gpu_node;       /* [n_gpus] */
    const uint32_t *slot_gpu;       /* [n_slots], derived from gpu_first_slot */
    bool allow_same_gpu_replicas;   /* a named strategy (EPLB) may put two replicas of an expert on one GPU; said in the
                                       file */
    enum mp_route_rule route;
    enum mp_route_by route_by; /* rule SOURCED only; else 0 */
    enum mp_stage_mode stage_mode;
    bool is_paced; /* the target caps the rate of a transfer; false (NCCL): port_bytes_per_s of orders counts as 0 */
    uint32_t fallback_ppm; /* a direction of a step whose order is estimated to lose more than this over one shot goes
                              in one shot (docs/ORDERS.md part 5); 0 = never */
    bool is_pipelined; /* chosen by the pipelined reading of a step (docs/COST.md part 6), which is then also how it is
                        * simulated unless asked otherwise; parts and certificates are with barriers all the same */
    struct mp_plan_layer *layers; /* [n_layers] */
    uint32_t n_orders, n_colocations, n_certificates, n_samples;
    const struct mp_order *orders;
    const struct mp_colocation *colocations;
    struct mp_plan_together together;
    struct mp_certificate *certificates;
    struct mp_plan_sample *samples;
    struct mp_plan_training training;
    struct mp_plan_homes homes;
    struct mp_plan_condense condense;
    uint64_t n_planning_steps, predicted_step_ns; /* mean over the planning steps */
    uint64_t predicted_pipelined_ns;              /* the same with a clock per GPU; 0 unless is_pipelined */
    struct mp_arena *arena;
};

/* An empty plan of this shape (every slot empty, no orders); fill it in with memory from plan->arena. */
enum mp_status mp_plan_new(struct mp_plan **out, uint32_t n_layers, uint32_t n_experts, uint32_t n_gpus,
                           const uint32_t *slots_per_gpu, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_plan_load(struct mp_plan **out, const char *path, const struct mp_limits *limits,
                            struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_plan_parse(struct mp_plan **out, const struct mp_in *in, const struct mp_limits *limits,
                             struct mp_error *err) MP_MUST_CHECK;
/* Writes the canonical text: fixed key order, LF, ASCII, last line a checksum. Same plan, same bytes. */
void mp_plan_write(const struct mp_plan *p, struct mp_out *o);
void mp_plan_free(struct mp_plan *p);
/* GPU of a slot. */
uint32_t mp_plan_slot_gpu(const struct mp_plan *p, uint32_t slot);
/* Rule SOURCED: how many classes of sources there are, and that of a source GPU. */
uint32_t mp_plan_n_classes(const struct mp_plan *p);
uint32_t mp_plan_class(const struct mp_plan *p, uint32_t source);
/* Gives the plan the rule SOURCED with such classes, and every layer weights that are all 0, to be filled in: small
 * whole numbers, those of an expert and class with a sum of 4,096 at most, keep the file small. Nodes must be set
 * already. MP_ELIMIT when the tables would have more than MP_MAX_ROUTE_CELLS. */
enum mp_status mp_plan_source_weights(struct mp_plan *p, enum mp_route_by by, struct mp_error *err) MP_MUST_CHECK;
/* Tokens stay in their own run of `group` consecutive GPUs, each of which holds every expert once: rule NEAREST where
 * that says the same, else SOURCED. Nodes and slots must be set already. MP_EUSAGE when a run holds one twice or not.
 */
enum mp_status mp_plan_route_groups(struct mp_plan *p, uint32_t group, struct mp_error *err) MP_MUST_CHECK;
/* The rule of homes that it carries, in its arena; *out NULL: it carries none. */
enum mp_status mp_plan_home_rule(const struct mp_home_rule **out, const struct mp_plan *p,
                                 struct mp_error *err) MP_MUST_CHECK;
/* Shape and range only (indexes in range, lists consistent), so that other code may index without care. MP_EINPUT. */
enum mp_status mp_plan_check(const struct mp_plan *p, struct mp_error *err) MP_MUST_CHECK;

/* An order as text, one stage a scalar: "+3" = every GPU i sends its whole flow to (i + 3) mod n; "*" = a flush;
 * otherwise transfers "src>dst" (whole unit) or "src>dst*share", each with "xWIDTH" behind it when wider than 1,
 * separated by blanks. n: GPUs, or nodes when between_nodes. */
void mp_stage_write(const struct mp_order *order, uint32_t stage, uint32_t n, struct mp_out *o);

/* Replica choice, prepared once per plan. */
struct mp_router;
enum mp_status mp_router_new(struct mp_router **out, const struct mp_plan *p, struct mp_error *err) MP_MUST_CHECK;
void mp_router_free(struct mp_router *r);
/* The slot that serves (layer, expert) for a token with this mp_token_hash starting on GPU `source`; MP_NONE when the
 * expert has no slot. */
uint32_t mp_router_slot(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t source,
                        uint64_t token_hash);
/* The same for n experts of one token: slots[n]. */
void mp_router_row(const struct mp_router *r, uint32_t layer, const uint16_t *experts, uint32_t n, uint32_t source,
                   uint64_t token_hash, uint32_t *slots);
/* slot[n_experts]: of tokens that start on `source`, where nothing is drawn; else MP_NONE. */
void mp_router_certain(const struct mp_router *r, uint32_t layer, uint32_t source, uint32_t *slot);
/* Slots of an expert, ascending. */
const uint32_t *mp_router_replicas(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t *n);
/* For COUNTS traces: splits n tokens of (layer, expert) from `source` over its replicas, share[i] for replica i. EVEN:
 * floor, the remainder to replicas (source + j) % r; NEAREST: all to the one; WEIGHTED, TIERED and SOURCED: floor by
 * weight, the remainder by ascending slot of a weight above 0. */
void mp_router_split(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t source, uint64_t n,
                     uint64_t *share);

/* How the servers of a stack choose among an expert's n replicas, for scoring what they would do (docs/STACKS.md part
 * Replica choice); no plan asks for it. Replicas are in ascending slot order, `rank` is where the token starts, its row
 * is its number among that rank's tokens of the step, and entry = row * top_k + its place among the row's experts.
 *   PLAN      the plan's rule (mp_router_slot).
 *   RANK      replica rank % n.
 *   ROW       replica (row * 2654435769 mod 2^32) % n.
 *   POSITION  replica entry % n.
 *   TURNS     the rank's entries in blocks of 1,024: replica (block + rank + earlier entries of the expert in the
 *             block) % n.
 *   TABLE     table[layer][expert][rank], a slot.
 * COUNTS traces know no rows: ROW, POSITION and TURNS split there as the plan's rule says. */
enum mp_choice_kind {
    MP_CHOICE_PLAN,
    MP_CHOICE_RANK,
    MP_CHOICE_ROW,
    MP_CHOICE_POSITION,
    MP_CHOICE_TURNS,
    MP_CHOICE_TABLE
};
#define MP_CHOICE_BLOCK 1024u
struct mp_choice {
    enum mp_choice_kind kind;
    const uint32_t *table; /* [n_layers][n_experts][n_gpus], of the plan it is used with */
};

const char *mp_route_rule_name(enum mp_route_rule rule); /* "even", "nearest", "weighted", "tiered", "sourced" */
const char *mp_route_by_name(enum mp_route_by by);       /* "gpu", "node" */
const char *mp_stage_mode_name(enum mp_stage_mode mode); /* "free", "barrier", "coupled" */
const char *mp_combine_name(enum mp_combine combine);    /* "forward", "reversed", "swapped" */

MP_API_END

#endif
