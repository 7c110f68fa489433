/* Private to planner/: what colocation strategies share. */
#ifndef COLOC_H
#define COLOC_H

#include <moeplan/coloc.h>

/* What one model asks of the cluster in a layer, ns. */
struct mp_coloc_load {
    uint64_t *gate, *experts, *aggregate; /* [n_gpus] */
    uint64_t *dispatch, *combine;         /* [n_ports] */
};
struct mp_coloc_shape {
    uint32_t n_gpus, n_ports, n_layers;
    uint64_t shot_ns;  /* launch and latency of one all-to-all that moves anything */
    uint64_t *free_at; /* [n_gpus + n_ports] of the timeline */
};

/* Maxima of which every bound and the closed form are made; all of them are non-decreasing in each. Index [0], [1]:
 * model. */
struct mp_coloc_peaks {
    uint64_t gate[2], experts[2], aggregate[2], between[2]; /* between: aggregate + the next gate on one GPU */
    uint64_t dispatch[2], combine[2], both_dispatch, both_combine, port, compute;
};
uint64_t mp_coloc_closed(const struct mp_coloc_peaks *k, uint64_t shot_ns);
/* No timeline with these peaks is shorter. */
uint64_t mp_coloc_timeline_bound(const struct mp_coloc_peaks *k, const struct mp_coloc_shape *shape);
void mp_coloc_peaks_of(struct mp_coloc_peaks *out, const struct mp_coloc_load load[2],
                       const struct mp_coloc_shape *shape);
/* Mean ns per layer. which: bit m = model m runs. log NULL or to be appended to. *failed: the log ran out of memory. */
uint64_t mp_coloc_timeline(const struct mp_coloc_load load[2], unsigned which, const struct mp_coloc_shape *shape,
                           struct mp_coloc_log *log, bool *failed);
/* The same of both models, given up (UINT64_MAX) as soon as it cannot end below `limit` ns per layer. */
uint64_t mp_coloc_timeline_below(const struct mp_coloc_load load[2], const struct mp_coloc_shape *shape,
                                 const struct mp_coloc_peaks *peaks, uint64_t limit);

/* A problem by groups of experts, one group of each model for each GPU; the search's view of it. */
struct mp_coloc_groups {
    const struct mp_coloc_problem *in;
    uint32_t n;
    uint32_t *group_of[2]; /* [n_experts] */
    uint32_t *size[2];     /* [n] experts of a group */
    bool is_separable;     /* each GPU has ports of its own: what a group costs does not depend on where others are */
    /* [model][group * n + gpu] ns; the last two of out and in ports */
    uint64_t *gate[2], *experts[2], *aggregate[2], *dispatch[2][2], *combine[2][2];
    uint32_t *gpu_class; /* [n] GPUs of the same number are alike in every table */
    struct mp_coloc_shape shape;
    struct mp_coloc_load load[2];    /* scratch */
    struct mp_coloc_problem grouped; /* the same with groups for experts */
    uint64_t *rate;                  /* [n] out rate of each GPU, bytes per s */
    struct mp_coloc_plan on_plan;    /* scratch where groups are not separable: GPU of each group */
    struct mp_arena *arena, *scratch;
};
enum mp_status mp_coloc_groups_new(struct mp_coloc_groups **out, const struct mp_coloc_problem *in,
                                   struct mp_error *err) MP_MUST_CHECK;
void mp_coloc_groups_free(struct mp_coloc_groups *g);
/* on[m][gpu] = group of model m there. The value by the problem's objective where it is below `limit`, else any that is
 * not; peaks may be NULL. */
enum mp_status mp_coloc_value(struct mp_coloc_groups *g, uint32_t *const on[2], uint64_t limit, uint64_t *value,
                              struct mp_coloc_peaks *peaks, struct mp_error *err) MP_MUST_CHECK;
/* May GPUs x and y (alike) have the groups that they have? Always where GPUs have equally many slots. */
bool mp_coloc_fits(const struct mp_coloc_groups *g, uint32_t *const on[2], uint32_t x, uint32_t y);
bool mp_coloc_is_uneven(const struct mp_coloc_groups *g);
uint64_t mp_coloc_bound(const struct mp_coloc_groups *g, const struct mp_coloc_peaks *k);
void mp_coloc_place(const struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out);
/* Bytes that a group sends or receives, as the mean over the GPUs it might be on of its time times their rate. */
uint64_t mp_coloc_traffic(const struct mp_coloc_groups *g, uint32_t model, uint32_t group, bool is_in);
/* Aurora's case I and II: pair[i] = group of model 1 that shares a GPU with group i of model 0. */
enum mp_status mp_coloc_pair_sorted(const struct mp_coloc_groups *g, uint32_t *pair,
                                    struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_coloc_pair_bottleneck(const struct mp_coloc_groups *g, uint32_t *pair,
                                        struct mp_error *err) MP_MUST_CHECK;
/* Pairs to GPUs: the most loaded pair to the fastest GPU and so on (theorem 5.1). */
enum mp_status mp_coloc_spread_sorted(const struct mp_coloc_groups *g, const uint32_t *pair, uint32_t *const on[2],
                                      struct mp_error *err) MP_MUST_CHECK;
/* Pairs to GPUs so that the largest time of a pair by itself is least (A.2.6). */
enum mp_status mp_coloc_spread_bottleneck(const struct mp_coloc_groups *g, const uint32_t *pair, uint32_t *const on[2],
                                          struct mp_error *err) MP_MUST_CHECK;
/* Adds group i of model 0 and j of model 1 on this GPU to the peaks. */
void mp_coloc_peaks_add(struct mp_coloc_peaks *k, const struct mp_coloc_groups *g, uint32_t i, uint32_t j,
                        uint32_t gpu);
/* Column of each row of weight[n][n] so that the largest is least. */
enum mp_status mp_coloc_least_largest(uint32_t n, const uint64_t *weight, uint32_t *to, uint64_t *largest,
                                      struct mp_error *err) MP_MUST_CHECK;
/* Local search from `on` and other starts; on holds the best. */
enum mp_status mp_coloc_improve(struct mp_coloc_groups *g, uint32_t *const on[2], uint64_t work_limit, uint64_t *value,
                                uint64_t *work_used, struct mp_error *err) MP_MUST_CHECK;
/* What strategies by groups have in common: the groups are made, fn says which is on which GPU, their experts follow.
 */
typedef enum mp_status (*mp_coloc_on_fn)(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out,
                                         enum mp_outcome *outcome, struct mp_error *err);
enum mp_status mp_coloc_by_groups(const struct mp_coloc_problem *in, mp_coloc_on_fn fn, struct mp_coloc_plan *out,
                                  enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;
/* Loads of a plan of experts. */
enum mp_status mp_coloc_loads(struct mp_coloc_load load[2], const struct mp_coloc_problem *in,
                              const struct mp_coloc_plan *plan, struct mp_arena *arena,
                              struct mp_error *err) MP_MUST_CHECK;
void mp_coloc_shape_of(struct mp_coloc_shape *out, const struct mp_coloc_problem *in);

#endif
