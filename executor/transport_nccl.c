/* One process per GPU, NCCL between them: one group per stage, in it what the script says of this rank, empty pairs
 * left out on both sides, at most 256 operations (beyond, NCCL cuts a group by each rank's own budget, and ranks that
 * cut differently hang; the proof refuses such scripts). Groups of a communicator follow each other, so a rank goes
 * from stage to stage as with coupled queues: free stages are coupled ones here, in what is predicted too. With
 * barriers ranks meet over TCP.
 *
 * Every pair is warmed up before anything is timed. A script without barriers is captured as a CUDA graph once. The
 * communicator does not block: this process looks whether the last event is there, whether NCCL has an error and what
 * the others say over TCP (the mesh of transport socket, which also launches, compares, gathers and spreads the reason
 * when one fails), and aborts at the deadline. */
#include "gpu_gemm.h"
#include "nccl_sum.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { OPS_MAX = 256, N_SCRATCH = 256, NAP_NS = 50000 };

struct graph {
    const struct ex_script *s;
    cudaGraphExec_t exec;
};
struct nccl_link {
    struct ex_world world;
    struct ex_link *control;
    struct nccl_library nccl;
    uint32_t me, n;
    ncclComm_t comm;
    struct gpu_block block;
    uint8_t *scratch; /* [2][N_SCRATCH] on the device: what warming up sends and receives */
    bool *is_warm;    /* [n * n] */
    cudaStream_t stream;
    cudaEvent_t begin, end, *stages; /* stages: behind each stage of a script that is no graph */
    size_t n_stages;
    struct graph *graphs;
    size_t n_graphs;
    struct gpu_experts experts;
    struct nccl_sums sums;
    bool is_broken;
};
static struct nccl_link *of(struct ex_link *l) { return (struct nccl_link *)(void *)l; }

/* ---- waiting ---- */

static enum mp_status nccl_fail(struct nccl_link *l, ncclResult_t result, const char *doing, struct mp_error *err) {
    return mp_fail(err, result == ncclRemoteError ? MP_EPEER : MP_EIO, "rank %u, %s: NCCL: %s (%.300s)", l->me, doing,
                   l->nccl.GetErrorString(result), l->nccl.GetLastError(l->comm));
}
#define NCCL_TRY(call, doing)                                                                                          \
    do {                                                                                                               \
        ncclResult_t nccl_result_ = (call);                                                                            \
        if (nccl_result_ != ncclSuccess && nccl_result_ != ncclInProgress) {                                           \
            status = nccl_fail(l, nccl_result_, doing, err);                                                           \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Whether NCCL is through with what it was told, and what it says; what the other ranks say. */
static enum mp_status look(struct nccl_link *l, ncclResult_t *state, const char *doing, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *state = ncclSuccess;
    if (l->comm != NULL)
        NCCL_TRY(l->nccl.CommGetAsyncError(l->comm, state), doing);
    if (*state != ncclSuccess && *state != ncclInProgress)
        return nccl_fail(l, *state, doing, err);
    status = socket_step(l->control, gpu_now_ns() + NAP_NS, err);
out:
    return status;
}
/* Until NCCL has taken in what it was told: before that the stream must not be touched. */
static enum mp_status settle(struct nccl_link *l, const char *doing, struct mp_error *err) {
    const uint64_t since = gpu_now_ns();
    ncclResult_t state = ncclSuccess;
    enum mp_status status = MP_OK;
    if (l->nccl.CommGetAsyncError(l->comm, &state) == ncclSuccess && state == ncclSuccess)
        return MP_OK;
    do {
        MP_TRY(look(l, &state, doing, err));
        if (state == ncclInProgress && gpu_now_ns() - since > l->world.deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "rank %u, %s: NCCL did not answer within %llu ms (are the others alive?)",
                           l->me, doing, (unsigned long long)l->world.deadline_ms);
    } while (state == ncclInProgress);
out:
    return status;
}

/* The deadline has passed: what this rank waits for in the first stage that is not through. */
static enum mp_status blame(const struct nccl_link *l, const struct ex_script *s, bool is_graph, struct mp_error *err) {
    const struct ex_end *ends[2] = {s->receives, s->sends};
    const size_t *first[2] = {s->receive_first, s->send_first};
    char name[96];
    uint32_t stage = 0;
    while (!is_graph && stage < s->n_stages && stage < l->n_stages && cudaEventQuery(l->stages[stage]) == cudaSuccess)
        stage++;
    for (int k = 0; k < 2 && !is_graph; k++)
        for (size_t i = first[k][l->me]; i < first[k][l->me + 1]; i++)
            if (ends[k][i].stage == stage)
                return ex_fail_deadline(err, s, l->me, stage, ends[k][i].peer, k == 0, ends[k][i].bytes, EX_LATE,
                                        l->world.deadline_ms);
    return mp_fail(
        err, MP_EPEER,
        "%s: rank %u did not end within %llu ms (%llu bytes to receive in %u stages; as one graph, so nobody "
        "knows which peer is missing: --timeline runs stages one by one)",
        ex_script_name(s, name, sizeof name), l->me, (unsigned long long)l->world.deadline_ms,
        (unsigned long long)ex_script_bytes(s, l->me, true), s->n_stages);
}

static enum mp_status wait_for(struct nccl_link *l, cudaEvent_t event, const struct ex_script *s, bool is_graph,
                               struct mp_error *err) {
    const uint64_t since = gpu_now_ns();
    ncclResult_t state;
    cudaError_t error;
    enum mp_status status = MP_OK;
    while ((error = cudaEventQuery(event)) == cudaErrorNotReady) {
        MP_TRY(look(l, &state, "running a script", err));
        if (gpu_now_ns() - since <= l->world.deadline_ms * 1000000)
            continue;
        if (s != NULL)
            return blame(l, s, is_graph, err);
        return mp_fail(err, MP_EPEER, "rank %u: warming up took longer than %llu ms (are the others alive?)", l->me,
                       (unsigned long long)l->world.deadline_ms);
    }
    GPU_TRY(error, "running a script");
out:
    return status;
}

/* What the messages of barriers and of ranks that are gone name. */
static void note_doing(struct nccl_link *l, const struct ex_script *s, const char *where, uint32_t stage) {
    char name[96], number[24] = "";
    if (stage != MP_NONE)
        (void)snprintf(number, sizeof number, "%u of ", stage);
    (void)snprintf(l->control->doing, sizeof l->control->doing, "%s%s%s", where, number,
                   ex_script_name(s, name, sizeof name));
}

/* ---- a script into the stream ---- */

static enum mp_status copy_around(struct nccl_link *l, const struct ex_script *s, size_t *copy, uint32_t stage,
                                  bool is_before, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (;
         *copy < s->copy_first[l->me + 1] && s->copies[*copy].stage == stage && s->copies[*copy].is_before == is_before;
         (*copy)++)
        GPU_TRY(cudaMemcpyAsync(l->block.bytes + s->copies[*copy].to_at, l->block.bytes + s->copies[*copy].from_at,
                                s->copies[*copy].bytes, cudaMemcpyDeviceToDevice, l->stream),
                "copying inside a block");
out:
    return status;
}

static enum mp_status misbehave(struct nccl_link *l, const struct ex_script *s, uint32_t stage, struct mp_error *err) {
    const struct ex_fault *f = &l->world.fault;
    enum mp_status status = MP_OK;
    if (!ex_fault_strikes(f, s, stage, l->me))
        return MP_OK;
    if (f->kind == EX_FAULT_KILL)
        (void)raise(SIGKILL);
    const uint64_t since = gpu_now_ns();
    while ((f->kind == EX_FAULT_STOP || f->kind == EX_FAULT_SLOW) &&
           (f->kind == EX_FAULT_STOP || gpu_now_ns() - since < 2 * l->world.deadline_ms * 1000000))
        MP_TRY(socket_step(l->control, gpu_now_ns() + 10000000, err)); /* ends when the others do */
    for (size_t i = s->send_first[l->me]; f->kind == EX_FAULT_CORRUPT && i < s->send_first[l->me + 1]; i++) {
        uint8_t byte, *at = l->block.bytes + s->sends[i].at + s->sends[i].bytes / 2;
        if (s->sends[i].stage != stage)
            continue;
        GPU_TRY(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost), "a fault");
        byte ^= 1;
        GPU_TRY(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice), "a fault");
        break;
    }
out:
    return status;
}

/* One group; at[0], at[1]: the first send and receive of the rank in this stage or behind it, which move on. */
static enum mp_status stage_group(struct nccl_link *l, const struct ex_script *s, const struct ex_end *sends,
                                  uint32_t stage, size_t at[2], struct mp_error *err) {
    const size_t last[2] = {s->send_first[l->me + 1], s->receive_first[l->me + 1]};
    const bool is_dropped = l->world.fault.kind == EX_FAULT_DROP && ex_fault_strikes(&l->world.fault, s, stage, l->me);
    bool is_open = false;
    enum mp_status status = MP_OK;
    for (int k = 0; k < 2; k++)
        for (; at[k] < last[k] && (k == 0 ? s->sends : s->receives)[at[k]].stage == stage; at[k]++) {
            const struct ex_end *e = k == 0 ? &sends[at[0] - s->send_first[l->me]] : &s->receives[at[1]];
            if (is_dropped || e->bytes == 0)
                continue;
            if (!is_open)
                NCCL_TRY(l->nccl.GroupStart(), "beginning a group");
            is_open = true;
            if (k == 0)
                NCCL_TRY(l->nccl.Send(l->block.bytes + e->at, e->bytes, ncclUint8, (int)e->peer, l->comm, l->stream),
                         "sending");
            else
                NCCL_TRY(l->nccl.Recv(l->block.bytes + e->at, e->bytes, ncclUint8, (int)e->peer, l->comm, l->stream),
                         "receiving");
        }
    if (is_open) {
        is_open = false;
        NCCL_TRY(l->nccl.GroupEnd(), "ending a group");
        status = settle(l, "ending a group", err);
    }
out:
    if (is_open)
        (void)l->nccl.GroupEnd();
    return status;
}

/* is_eager: with an event behind each stage, faults, and with barriers where the script has them. */
static enum mp_status enqueue(struct nccl_link *l, const struct ex_script *s, bool is_eager, struct mp_error *err) {
    size_t at[2] = {s->send_first[l->me], s->receive_first[l->me]}, copy = s->copy_first[l->me];
    struct ex_end *faulty = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(ex_fault_sends(&faulty, &l->world.fault, s, l->me, err));
    const struct ex_end *sends = faulty != NULL ? faulty : s->sends + s->send_first[l->me];
    for (uint32_t k = 0; k < s->n_stages; k++) {
        if (is_eager)
            MP_TRY(misbehave(l, s, k, err));
        MP_TRY(copy_around(l, s, &copy, k, true, err));
        MP_TRY(stage_group(l, s, sends, k, at, err));
        MP_TRY(copy_around(l, s, &copy, k, false, err));
        if (!is_eager)
            continue;
        GPU_TRY(cudaEventRecord(l->stages[k], l->stream), "an event");
        if (s->mode == MP_STAGE_BARRIER && k + 1 < s->n_stages) {
            MP_TRY(wait_for(l, l->stages[k], s, false, err));
            note_doing(l, s, "behind stage ", k);
            MP_TRY(socket_barrier(l->control, err));
            note_doing(l, s, "", MP_NONE);
        }
    }
out:
    mp_free(faulty);
    return status;
}

/* ---- prepare: warm-up, capture ---- */

/* Every pair that any script uses, once, a few bytes: NCCL connects at first use. Rank r's round d is a send to r + d
 * and a receive from r - d, the same round at both ends. */
static enum mp_status warm_up(struct nccl_link *l, const struct ex_script *const *scripts, size_t n_scripts,
                              struct mp_error *err) {
    bool *is_used = mp_calloc((size_t)l->n * l->n, sizeof *is_used);
    enum mp_status status = MP_OK;
    if (is_used == NULL)
        return mp_nomem(err, "warming up");
    for (size_t i = 0; i < n_scripts; i++)
        for (size_t m = 0; m < scripts[i]->n_messages; m++)
            is_used[(size_t)scripts[i]->messages[m].src * l->n + scripts[i]->messages[m].dst] = true;
    for (uint32_t d = 1; d < l->n; d++) {
        const uint32_t to = (l->me + d) % l->n, from = (l->me + l->n - d) % l->n;
        const size_t pairs[2] = {(size_t)l->me * l->n + to, (size_t)from * l->n + l->me};
        const bool does[2] = {is_used[pairs[0]] && !l->is_warm[pairs[0]], is_used[pairs[1]] && !l->is_warm[pairs[1]]};
        if (!does[0] && !does[1])
            continue;
        NCCL_TRY(l->nccl.GroupStart(), "warming up");
        if (does[0])
            NCCL_TRY(l->nccl.Send(l->scratch, N_SCRATCH, ncclUint8, (int)to, l->comm, l->stream), "warming up");
        if (does[1])
            NCCL_TRY(l->nccl.Recv(l->scratch + N_SCRATCH, N_SCRATCH, ncclUint8, (int)from, l->comm, l->stream),
                     "warming up");
        NCCL_TRY(l->nccl.GroupEnd(), "warming up");
        MP_TRY(settle(l, "warming up", err));
        GPU_TRY(cudaEventRecord(l->end, l->stream), "an event");
        MP_TRY(wait_for(l, l->end, NULL, false, err));
        l->is_warm[pairs[0]] = l->is_warm[pairs[0]] || does[0];
        l->is_warm[pairs[1]] = l->is_warm[pairs[1]] || does[1];
    }
out:
    mp_free(is_used);
    return status;
}

static void drop_graphs(struct nccl_link *l) {
    for (size_t g = 0; g < l->n_graphs; g++)
        if (l->graphs[g].exec != NULL)
            (void)cudaGraphExecDestroy(l->graphs[g].exec);
    mp_free(l->graphs);
    l->graphs = NULL;
    l->n_graphs = 0;
}

static enum mp_status capture(struct nccl_link *l, const struct ex_script *s, cudaGraphExec_t *out,
                              struct mp_error *err) {
    cudaGraph_t graph = NULL;
    bool is_capturing = false;
    enum mp_status status = MP_OK;
    GPU_TRY(cudaStreamBeginCapture(l->stream, cudaStreamCaptureModeThreadLocal), "capturing a graph");
    is_capturing = true;
    MP_TRY(enqueue(l, s, false, err));
    is_capturing = false;
    GPU_TRY(cudaStreamEndCapture(l->stream, &graph), "capturing a graph");
    GPU_TRY(cudaGraphInstantiate(out, graph, 0), "making a graph ready");
out:
    if (is_capturing)
        (void)cudaStreamEndCapture(l->stream, &graph);
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    return status;
}

static enum mp_status make_stages(struct nccl_link *l, const struct ex_script *const *scripts, size_t n,
                                  struct mp_error *err) {
    size_t most = 0;
    enum mp_status status = MP_OK;
    for (size_t i = 0; i < n; i++)
        most = scripts[i]->n_stages > most ? scripts[i]->n_stages : most;
    if (most <= l->n_stages)
        return MP_OK;
    cudaEvent_t *grown = mp_realloc(l->stages, most, sizeof(cudaEvent_t));
    if (grown == NULL)
        return mp_nomem(err, "events of stages");
    l->stages = grown;
    for (; l->n_stages < most; l->n_stages++)
        GPU_TRY(cudaEventCreate(&l->stages[l->n_stages]), "making an event");
out:
    return status;
}

static enum mp_status nccl_prepare(struct ex_link *link, const struct ex_script *const *scripts, size_t n,
                                   struct mp_error *err) {
    struct nccl_link *l = of(link);
    const struct ex_fault *f = &l->world.fault;
    enum mp_status status = MP_OK;
    GPU_TRY(cudaSetDevice(l->block.device), "taking a GPU");
    drop_graphs(l);
    MP_TRY(make_stages(l, scripts, n, err));
    MP_TRY(warm_up(l, scripts, n, err));
    if (l->world.with_timeline)
        return MP_OK;
    l->graphs = mp_calloc(n, sizeof *l->graphs);
    if (l->graphs == NULL)
        return mp_nomem(err, "graphs");
    /* All ranks capture the same scripts: what is uniform about a script decides, not what this rank does in it. */
    for (size_t i = 0; i < n; i++) {
        const struct ex_script *s = scripts[i];
        const bool is_struck =
            f->kind != EX_FAULT_NONE && s->part == EX_DISPATCH && f->step == s->step && f->layer == s->layer;
        if (is_struck || s->n_messages == 0 || (s->mode == MP_STAGE_BARRIER && s->n_stages > 1))
            continue;
        l->graphs[l->n_graphs].s = s;
        MP_TRY(capture(l, s, &l->graphs[l->n_graphs++].exec, err));
    }
out:
    return status;
}

/* ---- sums beside scripts ---- */

static enum mp_status nccl_attend(struct ex_link *link, ex_attend_fn *fn, void *ctx, struct mp_error *err) {
    struct ex_link *control = of(link)->control;
    (void)err;
    control->attend = fn;
    control->attend_ctx = ctx;
    control->attend_ns = 0;
    return MP_OK;
}
static enum mp_status nccl_prepare_sums(struct ex_link *link, uint32_t n_sets, const struct ex_span *sets,
                                        struct mp_error *err) {
    return nccl_sums_prepare(&of(link)->sums, n_sets, sets, err);
}
static enum mp_status nccl_sum(struct ex_link *link, uint32_t rank, const struct ex_sum *sum, struct mp_error *err) {
    (void)rank;
    return nccl_sums_begin(&of(link)->sums, sum, err);
}
static enum mp_status nccl_has_summed(struct ex_link *link, uint32_t rank, bool *has, struct mp_error *err) {
    (void)rank;
    return nccl_sums_look(&of(link)->sums, has, err);
}
/* Nothing says when a GPU has done something: while it sums this rank looks again and again. */
static enum mp_status nccl_idle(struct ex_link *link, uint64_t until_ns, uint32_t waits_for, const char *doing,
                                struct mp_error *err) {
    const struct nccl_link *l = of(link);
    const uint64_t nap = gpu_now_ns() + NAP_NS;
    return socket_idle(l->control, l->sums.sum != NULL && nap < until_ns ? nap : until_ns, waits_for, doing, err);
}
static enum mp_status nccl_tell(struct ex_link *link, uint32_t to, const struct ex_word *word, struct mp_error *err) {
    return socket_tell_word(of(link)->control, to, word, err);
}
static bool nccl_hear(struct ex_link *link, struct ex_word *word) { return socket_hear_word(of(link)->control, word); }
static void nccl_stir(struct ex_link *link) { socket_stir(of(link)->control); }

static const struct ex_beside nccl_beside = {.attend = nccl_attend,
                                             .prepare = nccl_prepare_sums,
                                             .sum = nccl_sum,
                                             .has_summed = nccl_has_summed,
                                             .idle = nccl_idle,
                                             .stir = nccl_stir,
                                             .tell = nccl_tell,
                                             .hear = nccl_hear};

/* ---- the table's functions ---- */

static void give_up(struct nccl_link *l) {
    if (!l->is_broken && l->comm != NULL) {
        (void)l->nccl.CommAbort(l->comm);
        l->comm = NULL;
    }
    l->is_broken = true;
}

static void note_stages(const struct nccl_link *l, const struct ex_script *s, struct ex_times *t) {
    const struct ex_end *ends[2] = {s->sends, s->receives};
    const size_t *first[2] = {s->send_first, s->receive_first};
    for (int k = 0; k < 2; k++)
        for (size_t i = first[k][l->me]; i < first[k][l->me + 1]; i++) {
            const uint32_t stage = ends[k][i].stage;
            const size_t cell = (size_t)l->me * s->n_stages + stage;
            const uint64_t begin = stage > 0 ? gpu_elapsed_ns(l->begin, l->stages[stage - 1]) : 0,
                           end = gpu_elapsed_ns(l->begin, l->stages[stage]);
            t->begin_ns[cell] = t->message_begin_ns[ends[k][i].message] = begin;
            t->end_ns[cell] = t->message_end_ns[ends[k][i].message] = end;
        }
}

static enum mp_status nccl_run(struct ex_link *link, const struct ex_script *s, struct ex_times *times,
                               struct mp_error *err) {
    struct nccl_link *l = of(link);
    cudaGraphExec_t graph = NULL;
    enum mp_status status = MP_OK;
    for (size_t g = 0; g < l->n_graphs; g++)
        graph = l->graphs[g].s == s ? l->graphs[g].exec : graph;
    GPU_TRY(cudaSetDevice(l->block.device), "taking a GPU");
    MP_TRY(make_stages(l, &s, 1, err));
    note_doing(l, s, "before ", MP_NONE);
    if (!s->is_agreed)
        MP_TRY(socket_barrier(l->control, err));
    note_doing(l, s, "", MP_NONE);
    GPU_TRY(cudaEventRecord(l->begin, l->stream), "an event");
    if (graph != NULL)
        GPU_TRY(cudaGraphLaunch(graph, l->stream), "launching a graph");
    else
        MP_TRY(enqueue(l, s, true, err));
    GPU_TRY(cudaEventRecord(l->end, l->stream), "an event");
    MP_TRY(wait_for(l, l->end, s, graph != NULL, err));
    note_doing(l, s, "after ", MP_NONE);
    times->total_ns[l->me] = gpu_elapsed_ns(l->begin, l->end);
    if (graph == NULL)
        note_stages(l, s, times);
out:
    if (status != MP_OK)
        give_up(l);
    return status;
}

static enum mp_status nccl_alloc(struct ex_link *link, uint32_t rank, uint64_t bytes, void **host_view,
                                 struct mp_error *err) {
    struct nccl_link *l = of(link);
    drop_graphs(l); /* they have the addresses of the old block */
    enum mp_status status = gpu_block_room(&l->block, rank, bytes, err);
    *host_view = l->block.view;
    return status;
}
static enum mp_status nccl_push(struct ex_link *link, uint32_t rank, uint64_t at, uint64_t n, struct mp_error *err) {
    (void)rank;
    return gpu_block_push(&of(link)->block, at, n, of(link)->world.deadline_ms, err);
}
static enum mp_status nccl_pull(struct ex_link *link, uint32_t rank, uint64_t at, uint64_t n, struct mp_error *err) {
    (void)rank;
    return gpu_block_pull(&of(link)->block, at, n, of(link)->world.deadline_ms, err);
}
static enum mp_status nccl_rows(struct ex_link *link, uint32_t rank, const struct ex_rows_table *table, uint64_t *ns,
                                struct mp_error *err) {
    return gpu_block_rows(&of(link)->block, rank, table, of(link)->world.deadline_ms, ns, err);
}
static enum mp_status nccl_compute(struct ex_link *link, uint32_t rank, const struct ex_gemm *gemm, uint64_t *ns,
                                   struct mp_error *err) {
    struct nccl_link *l = of(link);
    (void)rank;
    return gpu_experts_run(&l->experts, l->block.device, gemm, l->world.deadline_ms, ns, err);
}
static enum mp_status nccl_barrier(struct ex_link *link, struct mp_error *err) {
    return socket_barrier(of(link)->control, err);
}
static enum mp_status nccl_pulse(struct ex_link *link, struct mp_error *err) {
    return socket_pulse(of(link)->control, err);
}
static enum mp_status nccl_gather(struct ex_link *link, const void *mine, void *all, size_t n, struct mp_error *err) {
    return socket_gather(of(link)->control, mine, all, n, err);
}
static void nccl_abort(struct ex_link *link, const struct mp_error *why) {
    struct nccl_link *l = of(link);
    socket_abort(l->control, why);
    give_up(l);
}

static void nccl_close(struct ex_link *link) {
    struct nccl_link *l = of(link);
    struct mp_error ignored = {0};
    if (l == NULL)
        return;
    if (l->comm != NULL && l->nccl.CommFinalize(l->comm) == ncclSuccess)
        (void)l->nccl.CommDestroy(l->comm);
    else if (l->comm != NULL && settle(l, "ending", &ignored) == MP_OK)
        (void)l->nccl.CommDestroy(l->comm);
    nccl_sums_close(&l->sums, l->is_broken);
    if (!l->is_broken) { /* else the GPU may be at work without an end, and giving memory back waits for it */
        drop_graphs(l);
        gpu_experts_close(&l->experts);
        for (size_t k = 0; k < l->n_stages; k++)
            (void)cudaEventDestroy(l->stages[k]);
        if (l->begin != NULL)
            (void)cudaEventDestroy(l->begin);
        if (l->end != NULL)
            (void)cudaEventDestroy(l->end);
        if (l->scratch != NULL)
            (void)cudaFree(l->scratch);
        if (l->stream != NULL)
            (void)cudaStreamDestroy(l->stream);
        gpu_block_close(&l->block);
    }
    socket_close(l->control);
    mp_free(l->stages);
    mp_free(l->graphs);
    mp_free(l->is_warm);
    mp_free(l);
}

struct verdict {
    int32_t status;
    char text[252];
};

/* What this rank needs of its machine. */
static enum mp_status take_device(struct nccl_link *l, struct mp_error *err) {
    int n_devices;
    enum mp_status status = MP_OK;
    MP_TRY(gpu_count(&n_devices, "nccl", err));
    MP_TRY(nccl_load(&l->nccl, err));
    if (l->world.local_rank >= (uint32_t)n_devices)
        return mp_fail(
            err, MP_EIO,
            "transport nccl: this is rank %u of its machine, which has %d GPUs (one rank for each GPU: start "
            "fewer here, or take cuda, whose ranks share GPUs)",
            l->world.local_rank, n_devices);
    MP_TRY(gpu_block_open(&l->block, (int)l->world.local_rank, err));
    int least, greatest;
    GPU_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
    GPU_TRY(cudaStreamCreateWithPriority(&l->stream, cudaStreamNonBlocking, greatest), "making a stream");
    if (l->world.with_sums)
        MP_TRY(nccl_sums_open(&l->sums, &l->nccl, l->control, &l->world, &l->block, err));
    GPU_TRY(cudaEventCreate(&l->begin), "making an event");
    GPU_TRY(cudaEventCreate(&l->end), "making an event");
    void *scratch = NULL;
    GPU_TRY(cudaMalloc(&scratch, 2 * N_SCRATCH), "taking memory of a GPU");
    l->scratch = scratch;
out:
    return status;
}

/* All have what they need, or all end with the first that has not. */
static enum mp_status agree(struct nccl_link *l, enum mp_status mine_status, const struct mp_error *why,
                            struct mp_error *err) {
    struct verdict mine = {.status = (int32_t)mine_status}, *all = mp_calloc(l->n, sizeof *all);
    enum mp_status status = MP_OK;
    if (all == NULL)
        return mp_nomem(err, "a meeting of ranks");
    if (mine_status != MP_OK)
        (void)snprintf(mine.text, sizeof mine.text, "%.250s", why->message);
    MP_TRY(socket_gather(l->control, &mine, all, sizeof mine, err));
    for (uint32_t r = 0; r < l->n && status == MP_OK; r++)
        if (all[r].status != MP_OK)
            status = mp_fail(err, (enum mp_status)all[r].status, "rank %u: %.251s", r, all[r].text);
out:
    mp_free(all);
    return status;
}

static enum mp_status nccl_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    struct mp_error why = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    enum mp_status status = MP_OK;
    *out = NULL;
    struct nccl_link *l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "a transport");
    l->world = *world;
    l->me = world->first_rank;
    l->n = world->n_ranks;
    l->is_warm = mp_calloc((size_t)l->n * l->n, sizeof *l->is_warm);
    if (l->is_warm == NULL) {
        status = mp_nomem(err, "a transport");
        goto out;
    }
    struct ex_world meeting = *world; /* sums go over NCCL */
    meeting.with_sums = false;
    MP_TRY(socket_open(&l->control, &meeting, err));
    const enum mp_status mine = take_device(l, &why);
    MP_TRY(agree(l, mine, &why, err));
    MP_TRY(nccl_share_id(&l->nccl, l->control, &id, err));
    config.blocking = 0;
    NCCL_TRY(l->nccl.CommInitRankConfig(&l->comm, (int)l->n, id, (int)l->me, &config), "making a communicator");
    status = settle(l, "making a communicator", err);
out:
    if (status != MP_OK) {
        if (l->control != NULL)
            socket_abort(l->control, err);
        give_up(l);
        nccl_close((struct ex_link *)(void *)l);
    } else {
        *out = (struct ex_link *)(void *)l;
    }
    return status;
}

const struct ex_transport ex_nccl = {
    .name = "nccl",
    .summary = "GPUs of many processes: a group per stage over NCCL, one process per GPU",
    .needs = "an NVIDIA GPU for each rank, its driver, NCCL",
    .limits = {.max_ranks = 4096, .ops_per_stage = OPS_MAX, .packs = true, .couples = true},
    .has_one_rank_each = true,
    .open = nccl_open,
    .alloc = nccl_alloc,
    .push = nccl_push,
    .pull = nccl_pull,
    .prepare = nccl_prepare,
    .run = nccl_run,
    .rows = nccl_rows,
    .compute = nccl_compute,
    .beside = &nccl_beside,
    .barrier = nccl_barrier,
    .pulse = nccl_pulse,
    .gather = nccl_gather,
    .abort = nccl_abort,
    .close = nccl_close,
};
