/* The simulator: how long the transfers of a matrix take, and what a plan is worth on a workload. */
#ifndef MOEPLAN_SIM_H
#define MOEPLAN_SIM_H

#include <moeplan/cost.h>
#include <moeplan/progress.h>

MP_API_BEGIN

/* ---- network ---- */
struct mp_net; /* scratch of one thread: reused between calls, so that steady state allocates nothing */
enum mp_status mp_net_new(struct mp_net **out, const struct mp_topology *t, struct mp_error *err) MP_MUST_CHECK;
void mp_net_free(struct mp_net *n);

/* All flows at once at max-min fair rates (event simulation; incast and pair caps honoured); no launch cost. Time =
 * max over flows of latency + finish. matrix[n_gpus][n_gpus] bytes. finish_ns NULL or [n_gpus][n_gpus] (0 = no flow).
 */
enum mp_status mp_net_concurrent(struct mp_net *n, const uint64_t *matrix, uint64_t *time_ns, uint64_t *finish_ns,
                                 struct mp_error *err) MP_MUST_CHECK;
/* No schedule of this matrix is faster: mp_port_bound_ns over the network's prepared paths (the same number, many
 * times faster). */
uint64_t mp_net_port_bound(struct mp_net *n, const uint64_t *matrix);
/* The order's stages. FREE: a sender starts its next stage's transfers as soon as its own previous ones ended and the
 * receiver's port took all of its own earlier stages; BARRIER: all wait for all; COUPLED: a rank's send and receive
 * of a stage end together. Each stage in which a rank takes part costs it stage_launch_ns. way: of a dispatch
 * MP_COMBINE_FORWARD; matrix is that of the direction itself. Orders between nodes always run as barriers
 * (docs/ORDERS.md part 4). */
enum mp_status mp_net_staged(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                             enum mp_stage_mode mode, const uint64_t *matrix, uint64_t *time_ns,
                             struct mp_error *err) MP_MUST_CHECK;
/* The same for ranks that come at their own times: clock_ns[n_gpus] says when each rank has come to the transfers, and
 * then when it goes on, which is when all that it sends and receives has ended (at once without any). A transfer waits
 * for both its ends. After stages with a barrier, and orders between nodes, all go on together, and before them the
 * last to come is waited for. docs/COST.md part 6. */
enum mp_status mp_net_concurrent_from(struct mp_net *n, const uint64_t *matrix, uint64_t *clock_ns,
                                      struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_net_staged_from(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                  enum mp_stage_mode mode, const uint64_t *matrix, uint64_t *clock_ns,
                                  struct mp_error *err) MP_MUST_CHECK;
/* The two sides of the rule that lets a direction fall back to one shot (docs/ORDERS.md part 5): what this order is
 * estimated to take on this matrix, and one shot. From counts alone, whole numbers, nothing simulated. */
enum mp_status mp_net_order_estimate(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                     const uint64_t *matrix, uint64_t *staged_ns, uint64_t *single_ns,
                                     struct mp_error *err) MP_MUST_CHECK;
/* The rule: does a plan with this fallback_ppm (0 = never) send the matrix in one shot? Not when it is all zero. */
enum mp_status mp_net_falls_back(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                 uint32_t fallback_ppm, const uint64_t *matrix, bool *falls_back,
                                 struct mp_error *err) MP_MUST_CHECK;
/* The papers' baselines: each sender sends one flow at a time (in random order seeded / shortest first / rotation),
 * receivers shared fairly. */
enum mp_baseline { MP_BASELINE_RCS, MP_BASELINE_SJF, MP_BASELINE_SPREAD_OUT };
enum mp_status mp_net_baseline(struct mp_net *n, enum mp_baseline which, uint64_t seed, const uint64_t *matrix,
                               uint64_t *time_ns, struct mp_error *err) MP_MUST_CHECK;

/* What a simulated transfer did: from when its bytes flow to when its latency has passed, from the start of the call,
 * or on the ranks' clocks where those are given. */
struct mp_net_transfer {
    uint32_t src, dst, stage; /* stage: as run, 0-based; 0 in a single shot */
    uint64_t bytes, start_ns, end_ns;
};
struct mp_net_log {
    size_t n, n_allocated;
    struct mp_net_transfer *transfers;
};
/* While a log is set, the calls above append every transfer of theirs to it (NULL = off, the default; borrowed). They
 * take the general way then, which is slower and gives the same times. */
void mp_net_log_to(struct mp_net *n, struct mp_net_log *log);
void mp_net_log_free(struct mp_net_log *log); /* its memory, not *log */

/* ---- orders between nodes (docs/ORDERS.md part 4) ---- */
/* `bytes` bytes of the flow src -> dst, from byte `offset` of it, travel src -> out -> in -> dst: inside the node, on
 * the rail, inside the node. A hop whose two ends are the same GPU does not exist. */
struct mp_relay {
    uint32_t src, dst, out, in;
    uint64_t offset, bytes;
};
/* The relays of one transfer of a stage, as the sequences of part 4 have them: by `out`, then by `in`. */
typedef enum mp_status (*mp_relay_fn)(void *ctx, uint32_t stage, const struct mp_relay *relays, size_t n,
                                      struct mp_error *err);
/* Calls fn for every transfer with bytes, stages forwards. For a combine that is reversed or swapped give the
 * transposed matrix and read the relays from dst to src. Flows inside a node are in no relay. */
enum mp_status mp_nodes_relays(const struct mp_order *order, const struct mp_topology *t, const uint64_t *matrix,
                               mp_relay_fn fn, void *ctx, struct mp_error *err) MP_MUST_CHECK;
enum mp_hop_part { MP_HOP_BALANCE, MP_HOP_RAIL, MP_HOP_INSIDE, MP_HOP_FORWARD };
struct mp_hop {
    uint32_t src, dst;
    enum mp_hop_part part;
    uint64_t bytes;
};
/* One single shot: all its hops. A pair of GPUs occurs at most once per part. */
typedef enum mp_status (*mp_shot_fn)(void *ctx, uint32_t shot, const struct mp_hop *hops, size_t n,
                                     struct mp_error *err);
/* Calls fn for every single shot with bytes, in the order they run; shot is k of part 4 (falling when way is REVERSED).
 * Unless way is FORWARD a hop of the part BALANCE takes bytes to their destination and FORWARD is what comes first. */
enum mp_status mp_nodes_shots(const struct mp_order *order, const struct mp_topology *t, enum mp_combine way,
                              const uint64_t *matrix, mp_shot_fn fn, void *ctx, struct mp_error *err) MP_MUST_CHECK;

/* ---- plan on workload ---- */
enum mp_network_mode {
    MP_NETWORK_PLAN,
    MP_NETWORK_CONCURRENT,
    MP_NETWORK_RCS,
    MP_NETWORK_SJF,
    MP_NETWORK_SPREAD_OUT,
    MP_NETWORK_PORT_BOUND /* every transfer takes its port bound (relay bound where the plan's order is between nodes),
                           * a staged one a single launch: a fast lower bound on PLAN and CONCURRENT, step by step */
};
struct mp_sim_options {
    const struct mp_dispatcher *dispatcher;
    enum mp_sources sources;
    struct mp_choice choice;      /* of a serving stack in place of the plan's rule */
    enum mp_network_mode network; /* PLAN: each layer as its plan says */
    int stage_mode;               /* -1 = the plan's, else enum mp_stage_mode */
    bool no_pacing;               /* caps of sub-ports count for nothing even if the plan is paced */
    unsigned n_threads;
    uint64_t seed;
    uint64_t routing_ns;  /* what a GPU takes to compute the routing of a phase of a dispatch; no plan claims with it */
    bool with_bound;      /* also compute lower_bound_ns; neither pipelined nor with a flow, where it does not hold */
    bool with_layers;     /* also fill step_layer_ns; not of the pipelined reading, whose layers overlap */
    bool is_pipelined;    /* every GPU goes on when its own part has ended: docs/COST.md part 6 */
    uint32_t n_steps_max; /* 0 = all steps of the workload; else this many, evenly spaced */
    const struct mp_flow_maker *flow; /* where tokens are between layers; NULL = they come back where they were */
    struct mp_progress *progress;     /* told how far planning, simulating and proving are; NULL = nobody listens */
};

/* Balance, by formula (FORMATS.md 3.6); each averaged over steps and layers unless said otherwise. Load = rows per
 * GPU. */
struct mp_balance {
    double max_over_mean;         /* vllm-ascend "peak to average" */
    double max_over_mean_worst;   /* its largest value over steps and layers */
    double mean_over_max;         /* SGLang "balancedness": (mean + 1e-5) / (max + 1e-5) */
    double sum_mean_over_sum_max; /* vLLM: sums over layers, then averaged over steps */
    double excess;                /* TensorRT-LLM: (max - mean) / mean */
    double flashlb;               /* mean over time of (max * D + 0.01) / (total + 0.01) */
    double min_over_max_slot;     /* min / max over slots */
    double totals_max_over_mean;  /* max/mean of loads summed over all steps (what totals hide), averaged over layers */
    double peak_rows;             /* rows of the busiest GPU */
};
struct mp_step_times {
    uint64_t step_ns, dispatch_ns, compute_ns, combine_ns,
        other_ns; /* other: attention, gate, shared experts, rest of the model */
};
struct mp_sim_result {
    uint32_t n_steps, n_layers, n_gpus;
    uint64_t *step_of;                             /* [n_steps] index in the workload */
    struct mp_step_times *steps;                   /* [n_steps] */
    struct mp_step_times mean;                     /* rounded */
    uint64_t p50_ns, p95_ns, max_ns;               /* of step_ns; nearest rank */
    uint64_t moe_ns;                               /* mean of dispatch + compute + combine */
    double intra_bytes, inter_bytes;               /* per step */
    double copies_expert, copies_gpu, copies_node; /* remote copies per step */
    double copies_inter;                           /* of copies_expert those between nodes */
    struct mp_balance balance;
    double utilization;        /* mean over GPUs of expert-compute time / (dispatch + compute + combine) */
    double port_bound_ns;      /* mean per step: sum over layers of the dispatch and combine port bounds (relay bounds
                                * where the plan's order is between nodes) */
    uint64_t lower_bound_ns;   /* mean per step; 0 when not asked for; includes other_ns */
    uint64_t residual_ns;      /* with it: of a plan for each step where every GPU may hold every expert */
    double gap;                /* mean step / lower bound - 1; 0 without a bound */
    double *gpu_rows;          /* [n_layers][n_gpus] mean rows per step */
    double *layer_ns;          /* [n_layers] mean MoE time per step */
    uint64_t *step_layer_ns;   /* with_layers: [n_steps][n_layers] all of a step but the model's other_ns_per_step, its
                                * dense layers' attention in the first layer; else NULL */
    double *layer_imbalance;   /* [n_layers] mean max/mean */
    uint64_t memory_bytes_max; /* weights on the fullest GPU: experts + dense */
    uint64_t kv_tokens_min;    /* tokens of KV cache that fit beside them on the fullest GPU */
    struct mp_arena *arena;
};
/* One layer is: attention and gate on every GPU (max), dispatch, experts (max), combine; shared experts run beside
 * the dispatch on their own GPU and count only past it. Pipelined: no barriers between these, and the parts of a step
 * are those of the GPU that ends last, waiting counted where it waits. Steps run in parallel over n_threads; the result
 * does not depend on n_threads. */
enum mp_status mp_simulate(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_workload *workload,
                           const struct mp_topology *topology, const struct mp_model *model,
                           const struct mp_sim_options *options, struct mp_error *err) MP_MUST_CHECK;
/* The same where the placement changes between steps: a version serves the workload's steps from from_step up to the
 * next version's. All have the first one's shape, from_step ascends from 0. wait_ns NULL, or [workload->n_steps] what a
 * step waits before it starts, counted in other_ns; where not every step is simulated, one has its share of what those
 * waited that it stands for. A choice TABLE is of one plan: MP_EUSAGE with several. */
struct mp_sim_version {
    uint32_t from_step;
    const struct mp_plan *plan;
};
enum mp_status mp_simulate_versions(struct mp_sim_result **out, const struct mp_sim_version *versions,
                                    uint32_t n_versions, const uint64_t *wait_ns, const struct mp_workload *workload,
                                    const struct mp_topology *topology, const struct mp_model *model,
                                    const struct mp_sim_options *options, struct mp_error *err) MP_MUST_CHECK;
void mp_sim_result_free(struct mp_sim_result *r);

/* One step of a simulation, event by event. */
enum mp_timeline_kind {
    MP_TIME_ATTENTION, /* gate included; bytes: tokens that start there */
    MP_TIME_DENSE,     /* attention of the layers without experts */
    MP_TIME_DISPATCH,
    MP_TIME_SHARED, /* shared experts beside the dispatch; in the step's own events what is past it */
    MP_TIME_EXPERTS,
    MP_TIME_COMBINE,
    MP_TIME_OTHER /* the rest of the model */
};
struct mp_timeline_event {
    enum mp_timeline_kind kind;
    uint32_t layer; /* index into the plan's layers, MP_NONE for OTHER */
    uint32_t gpu;   /* that computes or sends; MP_NONE = the step itself: these follow each other without a gap from 0
                     * to step_ns and are what mp_simulate adds up */
    uint32_t peer;  /* that receives; MP_NONE = no transfer */
    uint32_t stage; /* of the order as run; MP_NONE = all at once */
    bool is_second; /* the phase inside nodes of dispatchers that send per node */
    uint64_t bytes, start_ns, end_ns; /* bytes of a transfer; (token, expert) pairs or tokens of a computation */
};
struct mp_timeline {
    uint32_t n_layers, n_gpus;
    struct mp_step_times times;
    size_t n, n_allocated;
    struct mp_timeline_event *events; /* in order of layers; the step's events of a layer before those of its GPUs, or
                                       * pipelined behind all others */
};
/* What mp_simulate does in step `step` of the workload. With barriers transfers lie inside the step's event of their
 * direction; pipelined the step's events are the parts of the GPU that ends last, waiting counted in the transfer that
 * waits (networks PLAN and CONCURRENT only, else MP_EUSAGE). */
enum mp_status mp_simulate_timeline(struct mp_timeline **out, const struct mp_plan *plan,
                                    const struct mp_workload *workload, const struct mp_topology *topology,
                                    const struct mp_model *model, const struct mp_sim_options *options, uint32_t step,
                                    struct mp_error *err) MP_MUST_CHECK;
void mp_timeline_free(struct mp_timeline *t);

/* Objective value of a result: mean step, p95 step, peak load (mean of max rows) or inter-node bytes. */
enum mp_objective { MP_OBJECTIVE_STEP, MP_OBJECTIVE_P95, MP_OBJECTIVE_PEAK, MP_OBJECTIVE_INTER };
double mp_sim_objective(const struct mp_sim_result *r, enum mp_objective objective);

MP_API_END

#endif
