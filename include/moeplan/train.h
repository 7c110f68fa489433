/* Training steps: forward and backward of every MoE layer, with all-to-alls that block and allreduces that need not.
 * docs/TRAINING.md. */
#ifndef MOEPLAN_TRAIN_H
#define MOEPLAN_TRAIN_H

#include <moeplan/cost.h>
#include <moeplan/policy.h>

MP_API_BEGIN

/* ---- a step as work ---- */

/* One collective of all ranks. */
struct mp_train_transfer {
    uint64_t ns;    /* of its bytes when nothing else travels; 0 = there is none */
    uint64_t bytes; /* of the rank that sends most: what chunks are cut from */
    const uint32_t
        *end_ppm; /* [n_ranks] which part of ns has passed when a rank has its own, of one all; NULL = of all */
    const uint32_t *load_ppm; /* [n_ports] which part of each port it fills when alone; NULL = all of all */
};
enum mp_train_a2a { MP_TRAIN_DISPATCH, MP_TRAIN_COMBINE, MP_TRAIN_COMBINE_BACK, MP_TRAIN_DISPATCH_BACK };
#define MP_TRAIN_N_A2A 4
struct mp_train_layer {                                    /* times: [n_ranks] ns; NULL = none */
    const uint64_t *attention_ns, *expert_ns, *combine_ns; /* combine: weighting what came back */
    const uint64_t *combine_back_ns, *expert_back_ns, *attention_back_ns;
    struct mp_train_transfer a2a[MP_TRAIN_N_A2A];
    struct mp_train_transfer reduce;        /* of gradients that all ranks hold, ready when attention_back has ended */
    struct mp_train_transfer expert_reduce; /* of experts that several ranks hold, ready when expert_back has ended */
};
struct mp_train_step { /* all borrowed */
    uint32_t n_ranks, n_layers, n_ports;
    uint64_t launch_ns; /* of each transfer or chunk of one, latency included */
    uint64_t kernel_ns; /* of the experts' time, what each piece pays again when they run in pieces */
    uint64_t split_ns;  /* what cutting a tensor and joining it again costs its stream; 0 when it stays whole */
    uint64_t loss_ns;   /* between forward and backward, on every rank */
    uint64_t update_ns; /* behind the last gradient, on every rank */
    const struct mp_train_layer *layers; /* [n_layers] in order of the forward pass */
};

/* What a plan's forward step says nothing of. */
struct mp_train_options {
    uint32_t backward_ppm;  /* computation of the backward pass over that of the forward one; 2,000,000 */
    uint32_t gradient_bits; /* of one weight's gradient as it travels; 16 */
    uint32_t state_bytes;   /* read and written per weight by the update: weight, gradient, moments; 20 */
    uint64_t split_ns;
    uint32_t held_bytes; /* of optimiser state kept per weight: weight and two moments in 32 bits; 12 */
    enum mp_train_offload offload;
    uint64_t host_bytes_per_s;  /* of one GPU's link to its host, each way; 25 GB/s, what PCIe 4.0 x16 carries */
    uint64_t host_memory_bytes; /* of a host for each of its GPUs; 0 = enough */
};
struct mp_train_options mp_train_defaults(void);

/* What a GPU holds in a training step: that of the fullest one. docs/TRAINING.md part 3. */
struct mp_train_memory {
    uint32_t gpu;
    uint64_t has_bytes;
    uint64_t weight_bytes, gradient_bytes, state_bytes, activation_bytes; /* activations: of this step */
    /* With each offload: what it holds, and what its host does; and over all GPUs what lacks most. */
    uint64_t need_bytes[MP_TRAIN_N_OFFLOADS], host_bytes[MP_TRAIN_N_OFFLOADS], lacks_bytes[MP_TRAIN_N_OFFLOADS];
};
/* The least offload with which nothing lacks in any of these; MP_EINPUT says in numbers that there is none. */
enum mp_status mp_train_offload_for(enum mp_train_offload *out, const struct mp_train_memory *const *memory, uint32_t n,
                                    const struct mp_train_options *options, struct mp_error *err) MP_MUST_CHECK;

struct mp_train_work {
    struct mp_train_step step;
    struct mp_train_memory memory;
    uint64_t host_ns; /* what waiting for the hosts adds to the step of the slowest rank, updates included */
    struct mp_arena *arena;
};
/* The training step of one step of the setup's workload, on its plan. All-to-alls: those of the forward pass, and back
 * the same ways with combine_bytes in both directions. Gradients of what every rank holds are summed over all ranks;
 * those of an expert over the GPUs that hold it. docs/TRAINING.md part 2. MP_EUSAGE for COUNTS traces and coupled
 * sources where traffic cannot be told (mp_traffic_compute). Released with mp_train_work_free. */
enum mp_status mp_train_work_make(struct mp_train_work *out, const struct mp_cost_setup *setup, uint32_t step,
                                  const struct mp_train_options *options, struct mp_error *err) MP_MUST_CHECK;
void mp_train_work_free(struct mp_train_work *w); /* its memory, not *w */

/* ---- a policy: what the network does first ---- */

/* enum mp_train_guard, enum mp_train_order, struct mp_train_policy: moeplan/policy.h. */
struct mp_train_named_policy {
    const char *name, *summary, *reference;
    struct mp_train_policy policy;
};
/* fair, priority, deferred, lina; NULL past the last. */
const struct mp_train_named_policy *mp_train_policy_at(uint32_t i);
const struct mp_train_named_policy *mp_train_policy_find(const char *name);

/* The buckets that a policy without a list makes of the step's gradients, in the order in which the backward pass makes
 * them: *n of them in `arena`. They depend on the plan and its model, not on the step. */
enum mp_status mp_train_buckets(const struct mp_train_bucket **out, uint32_t *n, const struct mp_train_step *step,
                                uint64_t bucket_bytes, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* ---- its timeline ---- */

enum mp_train_what {
    MP_TRAIN_ATTENTION,
    MP_TRAIN_EXPERTS,
    MP_TRAIN_WEIGHTING, /* computation, of one rank */
    MP_TRAIN_WEIGHTING_BACK,
    MP_TRAIN_EXPERTS_BACK,
    MP_TRAIN_ATTENTION_BACK,
    MP_TRAIN_LOSS,
    MP_TRAIN_A2A,
    MP_TRAIN_REDUCE,
    MP_TRAIN_EXPERT_REDUCE /* transfers, of all ranks */
};
struct mp_train_event {
    enum mp_train_what what;
    uint32_t rank;  /* MP_NONE of transfers */
    uint32_t layer; /* of a bucket: its last */
    uint32_t chunk;
    enum mp_train_a2a a2a; /* of MP_TRAIN_A2A */
    uint64_t ready_ns, start_ns, end_ns;
};
struct mp_train_timeline {
    uint64_t step_ns;     /* when the last rank's update has ended */
    uint64_t forward_ns;  /* when the last rank has ended its forward pass */
    uint64_t backward_ns; /* likewise the backward pass, gradients aside */
    uint64_t reduce_ns;   /* when the last gradient is summed */
    uint64_t compute_ns;  /* computation of the rank with most */
    uint64_t blocked_ns;  /* mean over ranks of what lies between the computations of a rank: waiting for all-to-alls */
    uint64_t a2a_ns;      /* in which an all-to-all was ready or on its way */
    uint64_t a2a_alone_ns;         /* sum of all-to-alls if nothing else travelled and nothing was cut */
    uint64_t *reduced_ns;          /* [n_layers] when each layer's own gradients are summed; 0 = it has none */
    struct mp_train_event *events; /* [n_events] in order of their ends; NULL unless asked for */
    size_t n_events;
};
/* Runs the step once. Whole nanoseconds, every time rounded up; deterministic. MP_EUSAGE when chunks times ranks would
 * be more than 16 million, or the policy's list of buckets leaves out gradients. The timeline is released with
 * mp_train_timeline_free. */
enum mp_status mp_train_run(struct mp_train_timeline *out, const struct mp_train_step *step,
                            const struct mp_train_policy *policy, bool with_events, struct mp_error *err) MP_MUST_CHECK;
void mp_train_timeline_free(struct mp_train_timeline *t); /* its memory, not *t */

/* ---- expert packing (Lina, section 4.2) ---- */

/* Packing puts k experts of each layer on every GPU: groups of n_experts / k neighbouring GPUs hold each expert once,
 * tokens stay in their group, and what several groups hold is summed between them. k[]: all that there are, rising;
 * returns how many. */
#define MP_TRAIN_MAX_PACKINGS 64u
uint32_t mp_train_packings(uint32_t k[MP_TRAIN_MAX_PACKINGS], uint32_t n_experts, uint32_t n_gpus);
/* That placement with its routing, as a plan without claims: what strategy packed makes. Freed with mp_plan_free. */
enum mp_status mp_train_pack_plan(struct mp_plan **out, const struct mp_trace *trace,
                                  const struct mp_topology *topology, uint32_t k, struct mp_error *err) MP_MUST_CHECK;
/* Mean over layers and steps of the forward pass: what the slowest rank's experts and an all-to-all take for one chunk.
 */
struct mp_train_micro {
    uint64_t expert_ns, a2a_ns;
};
struct mp_train_micro mp_train_micro(const struct mp_train_step *const *steps, uint32_t n_steps, uint64_t chunk_bytes);

enum mp_train_packing {
    MP_TRAIN_PACK_GIVEN, /* k as the request says */
    MP_TRAIN_PACK_LINA, /* the least k, doubled while experts take less than an all-to-all, a chunk each, and it fits */
    MP_TRAIN_PACK_SEARCHED /* all k */
};
struct mp_train_pack_request { /* all borrowed */
    const struct mp_workload *workload;
    const struct mp_topology *topology;
    const struct mp_model *model;
    const struct mp_dispatcher *dispatcher;
    enum mp_sources sources;
    struct mp_train_options options; /* of offloads the least that fits is taken */
    enum mp_train_packing packing;
    uint32_t k;                           /* GIVEN */
    const struct mp_train_policy *policy; /* NULL = searched, for each k */
    uint32_t n_steps_max;                 /* evenly over the workload */
    unsigned n_threads;
    struct mp_arena *arena; /* of lists of buckets that are searched, too; NULL = they are not */
};
struct mp_train_packed {
    uint32_t k;
    enum mp_train_offload offload;
    struct mp_train_policy policy;
    struct mp_train_micro micro; /* LINA: at this k */
    uint64_t mean_ns;            /* step, over the steps chosen on */
    uint32_t n_tried, n_unfit;   /* k that were looked at; of these those that no offload makes fit */
};
/* Chooses. On its steps a searched packing with a searched policy is never slower than Lina's with Lina's. *outcome
 * NOT_FOUND: no k fits, or there is none like the one given, and err says why (status MP_OK). */
enum mp_status mp_train_pack(struct mp_train_packed *out, const struct mp_train_pack_request *request,
                             enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

/* ---- our own policy ---- */

/* The best policy found over these steps: what is cut, how small, what waits and which gradients go first are changed
 * one at a time, from each named policy, as long as the mean step falls. So on these steps it is never slower than any
 * of them. mean_ns: rounded up. Deterministic for any number of threads. */
enum mp_status mp_train_search(struct mp_train_policy *out, uint64_t *mean_ns, const struct mp_train_step *const *steps,
                               uint32_t n_steps, unsigned n_threads, struct mp_error *err) MP_MUST_CHECK;
/* Goes on from a policy and its mean: buckets of each kind of their own size, and which goes first. Lists that are
 * faster are put into `arena`; the mean never rises. Of steps of the same plan. */
enum mp_status mp_train_search_buckets(struct mp_train_policy *policy, uint64_t *mean_ns,
                                       const struct mp_train_step *const *steps, uint32_t n_steps, unsigned n_threads,
                                       struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;
/* Mean step of a policy over these, rounded up. */
enum mp_status mp_train_mean(uint64_t *mean_ns, const struct mp_train_step *const *steps, uint32_t n_steps,
                             const struct mp_train_policy *policy, unsigned n_threads,
                             struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
