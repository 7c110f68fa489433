/* The executor: replays a plan over real links, checks every token bit for bit, and times what it did beside what was
 * predicted. It never plans. docs/EXECUTOR.md. */
#ifndef MOEPLAN_EXECUTOR_H
#define MOEPLAN_EXECUTOR_H

#include <moeplan/flow.h>
#include <moeplan/json.h>
#include <moeplan/policy.h>
#include <moeplan/report.h>
#include <moeplan/sim.h>

MP_API_BEGIN

/* Transports built in: fills what is known of transport i; false past the last. */
bool mp_transport_at(uint32_t i, const char **name, const char **summary, const char **needs);

/* Has the transport one rank in each process? Else all are in this one. */
bool mp_transport_has_one_rank_each(const char *name);

struct mp_exec_policy { /* of training steps */
    const char *name;
    struct mp_train_policy policy;
};
struct mp_exec { /* what to execute; all borrowed */
    const struct mp_plan *plan;
    const struct mp_workload *workload; /* every step of it is executed; NULL with a matrix */
    const uint64_t *matrix; /* NULL, or [n_gpus][n_gpus] bytes to move in place of steps, in the order of the plan's
                             * first layer, and back: model, dispatcher and sources are not used */
    const struct mp_topology *topology;
    const struct mp_model *model;
    const struct mp_dispatcher *dispatcher;
    enum mp_sources sources;
    /* NULL, or where tokens are between layers, and which stand for others (docs/LUFFY.md); flow_name: what says it
     * all, which ranks compare. */
    const struct mp_flow_maker *flow;
    const char *flow_name;
    bool is_lossy;  /* tokens stand for others */
    int stage_mode; /* -1 = the plan's, else enum mp_stage_mode */
    /* Whole training steps in place of forward passes: each step under each of them. 0 = forward passes. */
    uint32_t n_policies;
    const struct mp_exec_policy *policies;
    uint32_t gradient_bits; /* of one weight's gradient as it travels; 0 = 16 */
    const char *transport;
    uint32_t n_warmup, n_iterations; /* of a step: not timed, timed; at least one timed */
    uint64_t seed;
    unsigned n_threads;   /* for packing and checking; what moves is the transport's business */
    bool with_gemm;       /* real matrix products of the experts beside the checks, on GPU transports; timed apart */
    bool with_timeline;   /* keep every transfer of the first step's last iteration */
    uint64_t deadline_ms; /* of every wait */
    const char *fault;    /* executor/fault.h, or NULL */
    /* Launch: which ranks this process has, and how it finds the others. */
    uint32_t n_ranks, first_rank, n_local, local_rank;
    const char *rendezvous, *hosts, *congestion; /* see executor/transport.h */
    int launcher_fd;
};

/* One part of a layer that moves bytes, in one step. INSIDE: of dispatchers that send one copy per node. */
enum mp_exec_part_kind { MP_EXEC_DISPATCH, MP_EXEC_DISPATCH_INSIDE, MP_EXEC_COMBINE_INSIDE, MP_EXEC_COMBINE };
#define MP_N_EXEC_PARTS 4
const char *mp_exec_part_name(enum mp_exec_part_kind kind);
struct mp_exec_part {
    uint32_t step, layer; /* of the workload; index into the plan's layers */
    enum mp_exec_part_kind kind;
    uint32_t n_stages;
    uint64_t n_messages, bytes; /* bytes: the matrix; what is passed on by others is not counted */
    bool is_staged, has_fallen_back;
    enum mp_stage_mode mode; /* how its stages were run and predicted, which some transports decide */
    uint64_t bound_ns;       /* port bound, or relay bound */
    uint64_t predicted_ns;   /* what the network model says of exactly this: launches included */
    uint64_t *measured_ns;   /* [n_iterations] the slowest rank's */
};
/* Training steps under one policy: means over steps and iterations, as measured and as predicted. All times count from
 * the step's begin, and are the slowest rank's. */
struct mp_exec_training_layer {
    uint64_t a2a_ns[4], predicted_a2a_ns[4];   /* dispatch, combine, back to the experts, back home: from begin to end,
                                                * summed over chunks */
    uint64_t reduced_ns, predicted_reduced_ns; /* when the gradients of what all ranks hold are summed; 0 = none */
};
struct mp_exec_training {
    const char *policy;
    bool is_cut_down;                               /* all-to-alls of two phases stay whole, whatever the policy says */
    uint64_t *step_ns;                              /* [n_steps][n_iterations] */
    uint64_t *predicted_ns;                         /* [n_steps] */
    uint64_t forward_ns, backward_ns, gradients_ns; /* when each has ended */
    uint64_t predicted_forward_ns, predicted_backward_ns, predicted_gradients_ns;
    uint64_t
        late_ns; /* of forward and backward: packing and checking took longer than the computation it is hidden in */
    uint32_t n_a2a_chunks, n_sum_chunks;   /* of the last step */
    struct mp_exec_training_layer *layers; /* [n_layers] */
};
struct mp_exec_transfer { /* of the timeline */
    uint32_t layer, part, stage, src, dst;
    uint64_t bytes, begin_ns, end_ns;
};
struct mp_exec_result {
    uint32_t n_ranks, n_steps, n_layers, n_iterations;
    const char *transport;
    uint64_t n_tokens; /* verified at home: (token, layer, iteration) */
    uint64_t n_copies; /* verified where they arrived */
    uint64_t n_bytes;  /* moved between ranks, checked */
    size_t n_parts;
    struct mp_exec_part *parts; /* by step, layer, part */
    uint32_t n_policies;
    struct mp_exec_training *training; /* [n_policies]; then there are no parts */
    uint64_t n_gradient_bytes;         /* compared with the sum of all holders' own, on every rank */
    uint64_t *gemm_ns; /* [n_steps][n_iterations] matrix products, the slowest rank's of each layer; NULL = none */
    /* [n_steps][n_iterations] kernels that lay activations into blocks (pack) and add answers up (unpack), the slowest
     * rank's of each layer; NULL where ranks pack on the host. */
    uint64_t *pack_ns, *unpack_ns;
    size_t n_predicted, n_measured; /* of the timeline: every transfer, as predicted and as it was */
    struct mp_exec_transfer *predicted, *measured;
    struct mp_arena *arena;
};
/* Every rank gets the counts of all ranks. MP_EPEER: a rank failed, was too slow or sent what it should not have; the
 * message names stage, peer and bytes, or token, expert, source and byte. */
enum mp_status mp_exec_run(struct mp_exec_result **out, const struct mp_exec *in, struct mp_error *err) MP_MUST_CHECK;
void mp_exec_result_free(struct mp_exec_result *r);

/* What people read; schema moeplan.exec; a Chrome trace with predicted and measured side by side. */
void mp_exec_write_text(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_style *style,
                        struct mp_out *o); /* style NULL = plain */
void mp_exec_write_json(const struct mp_exec_result *r, const struct mp_exec *in, struct mp_out *o);
void mp_exec_write_timeline(const struct mp_exec_result *r, const struct mp_exec *in, struct mp_out *o);

/* ---- launch ---- */

enum { MP_RENDEZVOUS_SIZE = 300 };
struct mp_launch {  /* what the environment says of this process */
    const char *by; /* "torchrun", "Open MPI", ...; NULL: nothing, and what follows is 0 */
    uint32_t rank, n_ranks, local_rank;
    const char *hosts;                   /* of tools/emulate, or NULL */
    char rendezvous[MP_RENDEZVOUS_SIZE]; /* "" = it does not say */
};
/* Looks for tools/emulate, torchrun, Open MPI, PMI and Slurm, in this order. get: getenv, in all but tests. MP_EUSAGE:
 * a launcher's variables make no sense. */
enum mp_status mp_launch_find(struct mp_launch *out, const char *(*get)(void *ctx, const char *name), void *ctx,
                              struct mp_error *err) MP_MUST_CHECK;

/* All ranks on this machine. mp_local_start forks and returns in the parent, with *rank MP_NONE, and in every rank,
 * with its number and what mp_exec wants for launcher_fd and rendezvous. SIGINT, SIGTERM, SIGHUP and SIGQUIT are
 * blocked in the parent until mp_local_wait has passed them on. When the parent dies, ranks die. */
struct mp_local;
enum mp_status mp_local_start(struct mp_local **out, uint32_t n_ranks, uint32_t *rank, int *launcher_fd,
                              char rendezvous[MP_RENDEZVOUS_SIZE], struct mp_error *err) MP_MUST_CHECK;
/* A rank: tells the parent why it ends. */
void mp_local_fail(struct mp_local *l, const struct mp_error *why);
void mp_local_leave(struct mp_local *l); /* a rank: frees l */
/* The parent: until all ranks have ended. When one has failed, those that have not ended patience_ms later are killed.
 * Fails with the error of the rank that knew best; *signal_number: the signal that ended it all, or 0; *no: 1
 * when a rank ended with 1 (its answer is no, which is no failure), else 0. Frees l. */
enum mp_status mp_local_wait(struct mp_local *l, uint64_t patience_ms, int *signal_number, int *no,
                             struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
