/* Private to src/sim: one step of a plan on a workload, for means and for timelines. */
#ifndef SIM_SIMULATE_H
#define SIM_SIMULATE_H

#include "balance.h"
#include "net.h"
#include <moeplan/flow.h>

/* Times of one layer stop at 52 days, so that no sum over layers can overflow. */
static inline uint64_t sane(uint64_t ns) { return ns < UINT64_C(1) << 52 ? ns : UINT64_C(1) << 52; }

struct step_out { /* of one step */
    struct balance_sum balance;
    uint64_t intra, inter, copies_expert, copies_gpu, copies_node, copies_inter, port_bound_ns, lower_bound_ns,
        residual_ns, compute_sum_ns;
};
struct sim_seen { /* what the last dispatch [0] and combine [1] took, and where their transfers are in the log */
    uint64_t first_ns, second_ns, launch_ns;
    size_t n_first, n_all;
    size_t first_from, first_to; /* pipelined: entries of the first phase, which does not always come first */
    bool is_staged;
};
struct sim_ends { /* when a GPU ended each part of a layer; the combine's is when the next layer starts */
    uint64_t attention, dispatch, shared, experts, combine;
};
struct sim_clocks {              /* of the pipelined reading */
    uint64_t *at, *came, *other; /* [n_gpus] where each GPU is; was; scratch */
    struct mp_step_times *parts; /* [n_gpus] what its time of this step went into; step_ns unused */
    uint64_t *moe;               /* [n_layers][n_gpus] of this step */
    struct sim_ends *ends;       /* [n_layers][n_gpus] of this step, for a timeline; else NULL */
};
struct worker {
    struct mp_net *net;
    struct mp_traffic *traffic;
    uint64_t *rows;        /* [n_layers][n_gpus] summed over this worker's steps */
    uint64_t *layer_ns;    /* [n_layers] */
    struct mp_net_log log; /* filled for a timeline only */
    struct sim_seen seen[2];
    struct sim_clocks clocks; /* NULLs unless pipelined */
};
struct run {
    struct mp_cost_setup setup;
    const struct mp_sim_options *options;
    struct mp_sim_result *r;
    struct step_out *steps;
    double *imbalance; /* [n_steps][n_layers] */
    struct worker *workers;
    bool has_bound;
    struct mp_timeline *timeline; /* NULL = nobody looks */
    uint32_t n_versions;          /* 0 or 1: the setup's plan serves all steps */
    const struct mp_sim_version *versions;
    struct mp_router **routers; /* [n_versions] */
    const uint64_t *wait_ns;    /* [n_steps] of the result, or NULL */
};

/* Step i of the run on this worker's scratch. */
enum mp_status sim_one_step(void *ctx, size_t i, unsigned worker, struct mp_error *err);

struct sim_direction {              /* how a dispatch or combine goes */
    const uint64_t *first, *second; /* second NULL = one phase */
    struct mp_order order;          /* of the first phase, when staged */
    enum mp_combine way;
    enum mp_stage_mode mode;
    uint64_t launch_ns;  /* before anything; stages pay their own; with the routing of the first phase */
    uint64_t routing_ns; /* of the second, where it comes after the first */
    bool is_staged, is_overlapped, is_combine, hides_routing;
};
/* One direction of one layer, launches included. clock_ns NULL, or [n_gpus] when each GPU comes, then goes on; *out_ns
 * is of the barrier reading only. */
enum mp_status sim_transfer(const struct run *run, struct worker *w, uint32_t step, uint32_t layer, bool is_combine,
                            uint64_t *clock_ns, uint64_t *out_ns, uint64_t *bound_ns, struct mp_error *err);

/* The pipelined reading (pipeline.c). A step: begin, every layer, end. */
enum mp_status sim_pipelined_new(struct worker *w, struct mp_arena *arena, uint32_t n_gpus, uint32_t n_layers,
                                 struct mp_error *err);
void sim_pipelined_begin(struct worker *w, uint32_t n_gpus);
enum mp_status sim_pipelined_layer(const struct run *run, struct worker *w, uint32_t step, uint32_t layer,
                                   uint64_t n_attention, uint64_t bounds_ns[2], struct mp_error *err);
/* The GPU that ends last; the lowest of several. */
uint32_t sim_pipelined_last(const struct worker *w, uint32_t n_gpus);
/* Adds the parts of the GPU that ends last to *sum, and its layers to w->layer_ns. */
void sim_pipelined_end(struct worker *w, uint32_t n_gpus, uint32_t n_layers, struct mp_step_times *sum);
/* Both phases of a direction, each GPU from its clock on. */
enum mp_status sim_move_clocks(struct worker *w, const struct sim_direction *x, uint64_t *clock_ns,
                               struct mp_error *err);

struct sim_layer { /* times of a layer: attention and shared of the slowest GPU; attention counts n_attention times */
    uint64_t attention_ns, n_attention, dispatch_ns, shared_ns, compute_ns, combine_ns;
};
enum mp_status sim_timeline_layer(const struct run *run, struct worker *w, uint32_t layer, const struct sim_layer *l,
                                  struct mp_error *err);
/* The same of the pipelined reading, w->clocks.ends of the layer being known; and behind all layers the step's own
 * events, those of the GPU that ended last. */
enum mp_status sim_timeline_clocks(const struct run *run, struct worker *w, uint32_t layer, uint64_t n_attention,
                                   struct mp_error *err);
enum mp_status sim_timeline_last(const struct run *run, struct worker *w, uint64_t n_attention, struct mp_error *err);

#endif
