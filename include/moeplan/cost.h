/* What a step costs: traffic of a placement, time of computation, bounds. Integer bytes and nanoseconds. */
#ifndef MOEPLAN_COST_H
#define MOEPLAN_COST_H

#include <moeplan/model.h>
#include <moeplan/plan.h>

MP_API_BEGIN

/* Which copies of a token travel (DESIGN.md part 2). */
enum mp_copy_count {
    MP_COPY_PER_EXPERT, /* one per (token, expert) whose slot is on another GPU */
    MP_COPY_PER_GPU,    /* one per (token, other GPU) */
    MP_COPY_PER_NODE,   /* one per (token, other node), to the GPU there with the source's index in its node (mod node
                         * size), then one per (token, GPU) inside that node; own-node GPUs get one copy each */
    MP_COPY_ALL         /* all-gather / reduce-scatter: every token to every other GPU, whatever the placement */
};
/* Do experts stay on their GPUs while tokens travel, or not (docs/LUFFY.md, "Experts that travel")? */
enum mp_weights {
    MP_WEIGHTS_STAY,
    MP_WEIGHTS_FETCH, /* every GPU fetches the experts that its tokens use; no token travels */
    MP_WEIGHTS_SHADOW /* experts that it is cheaper for are copied to all GPUs; tokens of the others travel */
};
struct mp_dispatcher {
    const char *name, *summary, *reference;
    enum mp_copy_count copies;
    uint32_t n_launches; /* collective launches of one dispatch (and of one combine) */
    bool is_overlapped;  /* PER_NODE: the two phases are pipelined (time = max) instead of added */
    bool hides_routing;  /* the routing of the second phase is computed while the first travels (docs/COST.md part 6) */
    enum mp_weights weights;
};
const struct mp_dispatcher *
mp_dispatcher_at(uint32_t i); /* a2av, deepep-normal, deepep-ll, hierarchical, agrs, hsc; NULL past the last */
const struct mp_dispatcher *mp_dispatcher_find(const char *name); /* NULL = unknown */
/* Ways in which experts travel: janus, fastermoe; NULL past the last. No plan is made for one, and no bound known; they
 * need tokens that start on their own ranks (dp, without a flow). */
const struct mp_dispatcher *mp_travel_at(uint32_t i);
const struct mp_dispatcher *mp_travel_find(const char *name); /* NULL = unknown */
/* What stacks use: counts a2av (nothing else can be told from them), decode deepep-ll, else deepep-normal. */
const struct mp_dispatcher *mp_dispatcher_default(enum mp_phase phase, enum mp_trace_kind kind);

/* Where tokens start. DP: on the rank that owns the request. COUPLED: Aurora's, a source moves with its expert: the
 * token starts on the GPU that holds the slot of expert (row mod n_experts) under the plan's routing. */
enum mp_sources { MP_SOURCES_DP, MP_SOURCES_COUPLED };

/* Traffic and load of one (step, layer). Matrices are [n_gpus][n_gpus] bytes, row = sender, diagonal 0. Reused
 * between calls. */
struct mp_traffic {
    uint32_t n_gpus;
    uint64_t *dispatch, *combine;   /* first phase (PER_NODE: between nodes plus own-node copies) */
    uint64_t *dispatch2, *combine2; /* PER_NODE: the fan-out inside nodes; else all zero. The combine is the transpose
                                     * with combine_bytes in place of dispatch_bytes; its fan-in runs first. With a
                                     * flow it goes where the tokens are next, and is no transpose of anything */
    bool has_second;
    bool has_weights;
    uint64_t *weights;             /* of the dispatch, bytes of experts; all zero where they stay */
    uint64_t *rows;                /* [n_gpus] (token, expert) pairs computed */
    uint64_t *padded_rows;         /* [n_gpus] with each expert's padded to the tile of the GPU's type */
    uint32_t *active;              /* [n_gpus] slots with at least one token */
    uint64_t *source_rows;         /* [n_gpus] tokens that start there, padding included */
    uint32_t *sequences, *longest; /* [n_gpus] of a flow: sequences that are there, rows of the longest; else 0 */
    uint32_t n_slots;
    uint64_t *slot_rows; /* [n_slots] of the plan: (token, expert) pairs computed in each slot */
    uint64_t copies_expert, copies_gpu, copies_node; /* of the dispatch: remote copies only, whichever travels */
    uint64_t copies_inter;                           /* of copies_expert those between nodes; 0 for counts */
    uint64_t intra_bytes, inter_bytes; /* of dispatch + dispatch2 + combine + combine2, by path level 0 / above */
};
enum mp_status mp_traffic_new(struct mp_traffic **out, uint32_t n_gpus, struct mp_error *err) MP_MUST_CHECK;
void mp_traffic_free(struct mp_traffic *t);

struct mp_token_flow;  /* <moeplan/flow.h> */
struct mp_cost_setup { /* everything but the step; all borrowed */
    const struct mp_plan *plan;
    const struct mp_router *router;
    const struct mp_workload *workload;
    const struct mp_topology *topology;
    const struct mp_model *model;
    const struct mp_dispatcher *dispatcher;
    enum mp_sources sources;
    struct mp_choice choice;
    const struct mp_token_flow *flow; /* of the one step it is asked about; NULL = tokens come back where they were */
};
/* MP_EUSAGE when a COUNTS trace meets a dispatcher that de-duplicates (per GPU or node): the message says to record
 * tokens or use --dispatcher a2av. */
enum mp_status mp_traffic_compute(struct mp_traffic *out, const struct mp_cost_setup *s, uint32_t step, uint32_t layer,
                                  struct mp_error *err) MP_MUST_CHECK;

/* Compute coefficients of a GPU for a model: the measured override, or the roofline a = c = kernel_ns, b = expert
 * bytes over usable memory bandwidth, beta = FLOPs per token over usable FLOPS. */
struct mp_compute_coefficients mp_compute_coefficients(const struct mp_topology *t, uint32_t gpu,
                                                       const struct mp_model *m);
/* ns of one GPU in one layer: max(a + b*active, c + beta*padded_rows) / speed, rounded up; 0 when active is 0. */
uint64_t mp_compute_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint32_t active,
                       uint64_t padded_rows);
/* Gate, attention and shared experts for `rows` tokens on one GPU, per layer. Shared experts and attention: roofline
 * as above. */
uint64_t mp_attention_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t rows);
uint64_t mp_shared_ns(const struct mp_topology *t, uint32_t gpu, const struct mp_model *m, uint64_t rows);

/* max over resources of ceil(bytes through it * 10^9 / bytes_per_s), pairs under their caps: no schedule of this
 * matrix is faster. */
uint64_t mp_port_bound_ns(const struct mp_topology *t, const uint64_t *matrix);
/* The same for orders between nodes, where GPUs pass bytes on for others: bytes that leave or enter a node over all
 * its ports to other nodes, an uplink over its rate, a GPU over all its ports (docs/ORDERS.md part 4). Never above the
 * port bound. */
uint64_t mp_relay_bound_ns(const struct mp_topology *t, const uint64_t *matrix);
/* What no order can avoid on top of the ports once anything travels: the least latency of a level, and the dispatcher's
 * launches or one stage's, whichever is less. */
uint64_t mp_launch_floor_ns(const struct mp_topology *t, const struct mp_dispatcher *d);

/* Lower bounds on one layer's dispatch, compute (slowest GPU) and combine, each valid for every static placement with
 * at most these slots and any routing; their sum bounds the layer. MP_EUSAGE with a flow: a token that may be anywhere
 * need not travel, and one that another stands for need not be computed. docs/BOUNDS.md. */
struct mp_layer_bound {
    uint64_t dispatch_ns, compute_ns, combine_ns;
    /* The same where every GPU may hold every expert, part 2.4: what no plan made for this step alone goes below. */
    uint64_t free_dispatch_ns, free_compute_ns, free_combine_ns;
};
enum mp_status mp_layer_lower_bound(struct mp_layer_bound *out, const struct mp_cost_setup *s, uint32_t step,
                                    uint32_t layer, struct mp_error *err) MP_MUST_CHECK;
/* A lower bound on the expert part (dispatch + compute + combine) of this step, summed over layers, valid for every
 * static placement with at most these slots and any routing: closed form, docs/BOUNDS.md. */
enum mp_status mp_step_lower_bound(uint64_t *out_ns, const struct mp_cost_setup *s, uint32_t step,
                                   struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
