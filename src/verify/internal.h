/* The verifier's parts. Nothing here may include cost.h, sim.h or strategy.h: what those compute is derived anew. */
#ifndef VERIFY_INTERNAL_H
#define VERIFY_INTERNAL_H

#include <moeplan/verify.h>

#define MAX_VIOLATIONS 1000u

/* Scopes of the certificates in closed form: every plan that was planned carries one of each. */
#define VF_SCOPE_DISPATCH "dispatch, all layers, planning steps"
#define VF_SCOPE_COMBINE "combine, all layers, planning steps"
#define VF_SCOPE_PLACEMENT "step, every static plan with these slots, planning steps"
#define VF_SCOPE_RESIDUAL "step, a plan for each step with any slots, planning steps"
/* And a plan of one matrix this one. */
#define VF_SCOPE_MATRIX "one dispatch of the matrix"
#define ULL(x) ((unsigned long long)(x))

struct verifier {
    struct mp_verify_report *report;
    const struct mp_plan *plan;
    const struct mp_trace *trace; /* any of the four may be NULL */
    const struct mp_topology *topology;
    const struct mp_model *model;
    const struct mp_matrix *matrix; /* as its file has it */
    struct mp_arena *arena;         /* the report's */
    bool is_full;                   /* out of memory while recording a violation */
    bool is_thorough;               /* no limit on the samples' simulation */
};

/* An empty report, and *v pointing into it. */
enum mp_status vf_report_new(struct mp_verify_report **out, struct verifier *v, struct mp_error *err) MP_MUST_CHECK;
/* Counts one compared fact; when it does not hold, records a violation. Returns `holds`. */
bool vf_expect(struct verifier *v, bool holds, enum mp_violation_kind kind, const char *fmt, ...) MP_PRINTF(4, 5);

/* Classes of sources of the rule sourced. */
static inline uint32_t vf_classes(const struct mp_plan *p) {
    return p->route_by == MP_ROUTE_BY_GPU ? p->n_gpus : p->n_nodes;
}

/* Which copies of a token travel under a dispatcher, as docs/VERIFY.md part 3 says. */
enum vf_copies { VF_PER_EXPERT, VF_PER_NODE, VF_ALL };
struct vf_dispatcher {
    const char *name;
    enum vf_copies copies;
    uint32_t n_launches;
    bool is_overlapped;
};

/* One (step, layer) under the plan: copies (not bytes) from row to column, and what each GPU computes. */
struct vf_flows {
    uint64_t *first, *second; /* [n][n]; second: the fan-out inside nodes of VF_PER_NODE, else all 0 */
    uint64_t *rows, *padded_rows, *source_rows; /* [n] */
    uint32_t *active;                           /* [n] */
    uint64_t n_tokens;                          /* without padding */
};

/* Work of the slow simulator: spent on the samples at most; and on all planning steps, where that is enough. */
#define VF_SAMPLE_OPERATIONS UINT64_C(1000000000)
#define VF_ALL_OPERATIONS UINT64_C(300000000)
#define VF_THOROUGH_OPERATIONS UINT64_C(10000000000) /* of all planning steps, when asked to be thorough */

/* What a planning step adds up to without any network simulation. */
struct vf_sums {
    /* Of the first phase, over layers: relay bounds where the order is between nodes, else port bounds. */
    uint64_t dispatch_bound_ns, combine_bound_ns;
    uint64_t n_copying, n_combining; /* layers in which anything travels */
    uint64_t compute_ns, other_ns;   /* other: attention, and other_ns_per_step */
    uint64_t lower_ns;               /* docs/BOUNDS.md part 2.3 */
    uint64_t residual_ns;            /* part 2.4 */
};
struct vf_slowest { /* over GPUs, of one step and layer */
    uint64_t attention_ns, shared_ns, compute_ns;
};
struct vf_bounds {                /* tables of verify_bound.c; names as in docs/BOUNDS.md */
    uint32_t *tokens;             /* c[rank][expert] */
    uint64_t *of_expert, *padded; /* n_e; m_e, falling */
    uint64_t *scratch, *rows;     /* row_g, falling */
    uint64_t *out_rate, *in_rate, *node_out, *node_in;
    uint64_t *slots, *node_slots; /* S_g, S_v */
    uint64_t *starts;             /* T_r */
    struct mp_compute_coefficients *k;
};

/* What the checks against data share: the steps rebuilt from the plan's provenance, and tables of the layer at hand. */
struct vf_data {
    struct verifier *v;
    struct vf_dispatcher dispatcher;
    struct mp_part planning, held_out;
    struct mp_workload *workload;
    struct mp_arena *arena;
    uint32_t n;                                             /* GPUs */
    uint32_t *node, *index_in_node, *node_size, *node_gpus; /* [n], [n], [n_nodes], [n_nodes][n] */
    struct mp_path *paths;                                  /* [n][n], or NULL when that is too large a table */
    /* of layer `layer`, by vf_prepare_layer */
    uint32_t layer;
    uint32_t *first, *slot; /* replicas: slots of expert e are slot[first[e] .. first[e + 1]) */
    uint32_t *nearest;      /* [n_experts][n], rule NEAREST */
    uint32_t *tokens;       /* [n_ranks][n_experts], COUNTS */
    uint64_t *slot_rows;    /* [n_slots] */
    uint64_t *expert_rows;  /* [n_experts] over all steps of a layer */
    uint32_t *number;       /* scratch of NEAREST, [n_slots + 1] squared by replicas: see there */
    size_t number_size;
    uint64_t *through;                     /* [n_resources] */
    uint64_t *leaving, *node_leaving;      /* [2][n] bytes that leave and enter a GPU, a node */
    uint64_t n_operations, operations_max; /* of the slow simulator, counted so that it can stop */
    struct vf_flows flows;
    struct vf_sums *sums; /* [n_steps] */
    struct vf_bounds bounds;
};

enum mp_status vf_data_open(struct vf_data *d, struct verifier *v, bool *is_usable, struct mp_error *err) MP_MUST_CHECK;
/* What times and bounds of a matrix need, without any steps: nodes, paths, rates. */
enum mp_status vf_network_open(struct vf_data *d, struct verifier *v, struct mp_error *err) MP_MUST_CHECK;
void vf_data_close(struct vf_data *d);
enum mp_status vf_prepare_layer(struct vf_data *d, uint32_t layer, struct mp_error *err) MP_MUST_CHECK;
/* Fills d->flows for the prepared layer. */
enum mp_status vf_flows_of_step(struct vf_data *d, uint32_t step, struct mp_error *err) MP_MUST_CHECK;
/* The slot for one token of the prepared layer. */
uint32_t vf_choose(const struct vf_data *d, uint32_t expert, uint32_t source, uint64_t token_hash);
struct mp_path vf_path(const struct vf_data *d, uint32_t src, uint32_t dst);
/* max over ports and capped pairs of ceil(copies * bytes * 10^9 / bytes_per_s); is_reversed: of the transpose. */
uint64_t vf_port_bound(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed);

/* Times of the dispatch matrix `copies` of `bytes` each, with what launching stages costs. is_reversed and is_combine:
 * of its transpose. way: of a dispatch MP_COMBINE_FORWARD. *is_done false: d->n_operations passed d->operations_max
 * before the end. clock: NULL = all start together; else [n] when each GPU comes, and then when it goes on
 * (docs/COST.md part 6; stages not under a barrier), and *out_ns counts from the first that came. */
enum mp_status vf_concurrent_ns(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed,
                                uint64_t *clock, uint64_t *out_ns, bool *is_done, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_staged_ns(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                            const uint64_t *copies, uint64_t bytes, uint64_t *clock, uint64_t *out_ns, bool *is_done,
                            struct mp_error *err) MP_MUST_CHECK;

/* The order between nodes `o`, as vf_staged_ns. */
enum mp_status vf_nodes_ns(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                           const uint64_t *copies, uint64_t bytes, uint64_t *out_ns, bool *is_done,
                           struct mp_error *err) MP_MUST_CHECK;
/* Relay bound of docs/ORDERS.md part 4; is_reversed: of the transpose. */
uint64_t vf_relay_bound(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed);
/* Does this direction go in one shot instead (docs/ORDERS.md part 5)? */
enum mp_status vf_falls_back(struct vf_data *d, const struct mp_order *o, bool is_combine, enum mp_combine way,
                             const uint64_t *copies, uint64_t bytes, bool *falls_back,
                             struct mp_error *err) MP_MUST_CHECK;

/* Of the GPUs of d->flows. */
struct mp_compute_coefficients vf_coefficients(const struct vf_data *d, uint32_t gpu);
/* Of so many active slots and padded rows. */
uint64_t vf_expert_ns(const struct vf_data *d, uint32_t gpu, uint64_t active, uint64_t rows);
uint64_t vf_attention_ns(const struct vf_data *d, uint32_t gpu, uint64_t rows);
uint64_t vf_shared_ns(const struct vf_data *d, uint32_t gpu, uint64_t rows);
struct vf_slowest vf_slowest_gpu(const struct vf_data *d);
/* How often a layer's attention counts: the first one stands for the dense layers too. */
uint64_t vf_layer_weight(const struct vf_data *d, uint32_t layer);
/* Time of one direction of layer d->layer, as the plan runs it, launches included; the first phase moves the copies of
 * d->flows of `bytes` each. */
enum mp_status vf_direction_ns(struct vf_data *d, bool is_combine, uint64_t bytes, uint64_t *out_ns, bool *is_done,
                               struct mp_error *err) MP_MUST_CHECK;
/* Fluid times in one direction of a layer: each may be rounded differently by 1 ns. */
uint64_t vf_fluid_times(const struct vf_data *d, uint32_t layer);
/* One planning step through the slow simulator; *is_done false: past d->operations_max. */
enum mp_status vf_time_of_step(struct vf_data *d, uint32_t step, struct mp_plan_sample *out, bool *is_done,
                               struct mp_error *err) MP_MUST_CHECK;
/* The same step with a clock per GPU. */
enum mp_status vf_pipelined_step(struct vf_data *d, uint32_t step, uint64_t *out_ns, bool *is_done,
                                 struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_rates_open(struct vf_data *d, struct mp_error *err) MP_MUST_CHECK; /* of GPUs and nodes */
enum mp_status vf_bounds_open(struct vf_data *d, struct mp_error *err) MP_MUST_CHECK;
/* Of the prepared layer with d->flows of this step: adds attention, max(D, shared) + C + R of parts 2.3 and 2.4. */
void vf_layer_bound(struct vf_data *d, uint32_t step, struct vf_sums *sums);
uint64_t vf_launch_floor(const struct vf_data *d); /* latency and launch that any copy pays at least */

/* Each returns MP_OK whatever it finds; other statuses are out of memory and the like. */
enum mp_status vf_check_structure(struct verifier *v, bool *is_indexable, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_training(struct verifier *v, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_evidence(struct vf_data *d, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_claims(struct vf_data *d, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_orders(struct verifier *v, struct mp_error *err) MP_MUST_CHECK;
enum mp_status vf_check_matrix(struct verifier *v, struct mp_error *err) MP_MUST_CHECK;

#endif
