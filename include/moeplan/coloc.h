/* Two models on one cluster, one layer of each at a time: which GPU holds which experts of both, and what a layer then
 * takes. docs/COLOCATION.md is normative. Integer nanoseconds. */
#ifndef MOEPLAN_COLOC_H
#define MOEPLAN_COLOC_H

#include <moeplan/cost.h>
#include <moeplan/workload.h>

MP_API_BEGIN

#define MP_COLOC_GPUS_MAX 512u

/* One model in one layer. All borrowed. Sums over n_steps steps; times are those of the mean step. */
struct mp_coloc_model {
    uint32_t n_experts;
    bool is_coupled;        /* source i is expert i and moves with it (Aurora's); else source i is GPU i */
    const uint64_t *tokens; /* [sources][n_experts] (token, expert) pairs; a pair whose two ends meet costs no port */
    const uint64_t *source_tokens; /* [sources] tokens that start there; NULL = the sums of the rows (top-1) */
    const uint64_t *padded;        /* [n_experts] pairs with each step's padded to the tile; NULL = as they are */
    const uint64_t *active;        /* [n_experts] steps in which the expert has a token; NULL = all */
    uint32_t n_steps;
    uint64_t dispatch_bytes, combine_bytes;     /* of one pair */
    const struct mp_model *model;               /* computation as in docs/COST.md part 3, or NULL: */
    uint64_t gate_ps, experts_ps, aggregate_ps; /* per token or pair on a GPU of speed 1,000,000 ppm */
};
enum mp_coloc_objective { MP_COLOC_TIMELINE, MP_COLOC_CLOSED };
struct mp_coloc_problem {
    const struct mp_topology *topology;
    struct mp_coloc_model model[2];
    uint32_t slots[2];            /* experts of each model on a GPU at most; 0 = ceil(n_experts / n_gpus) */
    const uint32_t *gpu_slots[2]; /* [n_gpus] in place of that, where GPUs have unlike memory; NULL = not */
    uint32_t n_layers;            /* that follow each other in the timeline; 0 = 8 */
    enum mp_coloc_objective objective;
    uint64_t seed;
    uint64_t work_limit; /* search: evaluations; exact: nodes; 0 = the strategy's default */
};

/* Where the experts are: GPU of each expert, MP_NONE nowhere. */
struct mp_coloc_plan {
    uint32_t *gpu[2];  /* [n_experts] */
    uint64_t bound_ns; /* no assignment of these groups is faster by the problem's objective; 0 = not known */
    uint64_t work_used;
    bool is_optimal; /* value = bound_ns, proven */
};
enum mp_status mp_coloc_plan_new(struct mp_coloc_plan **out, const struct mp_coloc_problem *in,
                                 struct mp_error *err) MP_MUST_CHECK;
void mp_coloc_plan_free(struct mp_coloc_plan *p);

/* A layer of a workload over steps [first_step, first_step + n_steps), arrays in `arena`: data-parallel sources, one
 * copy for each (token, expert). */
enum mp_status mp_coloc_model_of(struct mp_coloc_model *out, const struct mp_workload *w, const struct mp_model *model,
                                 const struct mp_topology *topology, uint32_t layer, uint32_t first_step,
                                 uint32_t n_steps, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* A model of one expert that does nothing: beside it the other one is alone. */
enum mp_status mp_coloc_nobody(struct mp_coloc_model *out, uint32_t n_gpus, struct mp_arena *arena,
                               struct mp_error *err) MP_MUST_CHECK;
/* The same tokens started on n_share GPUs instead of n_gpus (not coupled). */
enum mp_status mp_coloc_fold(struct mp_coloc_model *m, uint32_t n_gpus, uint32_t n_share, struct mp_arena *arena,
                             struct mp_error *err) MP_MUST_CHECK;

struct mp_coloc_times {
    uint64_t timeline_ns; /* one layer of both models, mean over the layers of the timeline, rounded up */
    uint64_t closed_ns;   /* Aurora's table 2 with the maxima its equalities leave out */
    uint64_t alone_ns[2]; /* timeline of each model with the GPUs to itself, same places */
    uint64_t port_ns;     /* busiest port in a layer, both models and both directions */
    uint64_t compute_ns;  /* busiest GPU in a layer, both models */
    uint64_t busy_ns;     /* computation of all GPUs in a layer: utilisation = busy / (GPUs * time) */
};
/* A computation or a transfer phase on one resource, as the timeline ran it. */
struct mp_coloc_event {
    uint32_t model, layer;
    uint32_t phase; /* 0 gate, 1 dispatch, 2 experts, 3 combine, 4 aggregate (with the next layer's gate behind it) */
    uint32_t resource; /* GPU of a computation, port (id of the topology) of a transfer */
    uint64_t start_ns, end_ns;
};
struct mp_coloc_log {
    size_t n, n_allocated;
    struct mp_coloc_event *events;
};
void mp_coloc_log_free(struct mp_coloc_log *log); /* its memory, not *log */
/* What a plan is worth. log: NULL or where the timeline of both models goes. */
enum mp_status mp_coloc_evaluate(struct mp_coloc_times *out, const struct mp_coloc_problem *in,
                                 const struct mp_coloc_plan *plan, struct mp_coloc_log *log,
                                 struct mp_error *err) MP_MUST_CHECK;

/* The extension point: planner/coloc_<name>.c, one word in planner/meson.build. */
struct mp_coloc_strategy {
    const char *name, *summary, *reference;
    bool is_apart; /* no GPU has experts of both models; then one may have as many as half of the GPUs have to hold */
    enum mp_status (*solve)(const struct mp_coloc_problem *in, struct mp_coloc_plan *out, enum mp_outcome *outcome,
                            struct mp_error *err);
};
const struct mp_coloc_strategy *mp_coloc_strategy_at(uint32_t i); /* NULL past the last */
const struct mp_coloc_strategy *mp_coloc_strategy_find(const char *name);
/* Runs a strategy and checks what it made: every expert on one GPU, no GPU over its slots (or apart, as above). The
 * caller frees *out. NOT_APPLICABLE and NOT_FOUND: *out NULL, err->message says why (status MP_OK then). */
enum mp_status mp_coloc_solve(struct mp_coloc_plan **out, const struct mp_coloc_strategy *s,
                              const struct mp_coloc_problem *in, enum mp_outcome *outcome,
                              struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
