/* All ranks in one process, rank r on GPU r mod n: with fewer GPUs than ranks several virtual ranks share one.
 *
 * A message is a copy on the stream of its sender, from device to device or inside one. Streams keep the order of a
 * rank's sends; events keep the rest of the rules of stages (docs/COST.md part 5): before a message its stream waits
 * for what the receiver's queue has before it, coupled for what both ends have before it in either direction, and with
 * barriers all streams meet between stages. prepare captures a script into one CUDA graph, which run then launches;
 * scripts that misbehave on purpose, or whose messages shall be timed one by one, are enqueued anew each time.
 *
 * The host never blocks in the driver: it asks whether the last event is done, until the deadline. */
#include "cuda_sum.h"
#include "gpu_gemm.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RANKS_MAX = 1024, POLL_NS = 1000000, IDLE_NS = 50000000 };

struct device {
    cudaEvent_t begun, *events; /* begun: when a run began; events: for messages of ranks on it */
    size_t n_events, n_taken;
    struct gpu_experts experts;
};
struct graph {
    const struct ex_script *s;
    cudaGraphExec_t exec;
};
struct ex_link {
    struct ex_world world;
    uint32_t n_devices;
    struct device *devices;
    struct gpu_block *blocks; /* [n_ranks] */
    cudaStream_t *streams;    /* [n_ranks], and [n_ranks] = the one that all begin and end on, of device 0 */
    cudaEvent_t *joins;       /* [n_ranks + 1] where streams meet */
    cudaEvent_t timed[2];     /* around a graph */
    struct graph *graphs;
    size_t n_graphs;
    struct cuda_sums sums;
    struct mp_error why;
    bool is_broken;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bool is_released; /* who stopped on purpose goes on */
};

/* One script on its way into streams. */
struct run {
    struct ex_link *link;
    const struct ex_script *s;
    bool is_timed;
    cudaEvent_t *begin, *end; /* [n_messages] */
    struct ex_end **faulty;   /* [n_ranks] what a rank sends instead, or NULL */
    size_t *at[2];            /* [n_ranks] sends, receives: the first of the stage at hand */
    size_t *copy;             /* [n_ranks] */
    struct mp_error *err;
};

static uint32_t device_of(const struct ex_link *l, uint32_t rank) { return rank % l->n_devices; }

static cudaError_t take_event(struct device *d, uint32_t device, cudaEvent_t *out) {
    if (d->n_taken == d->n_events) {
        const size_t more = 2 * d->n_events + 256;
        cudaEvent_t *grown = mp_realloc(d->events, more, sizeof(cudaEvent_t));
        if (grown == NULL)
            return cudaErrorMemoryAllocation;
        d->events = grown;
        cudaError_t error = cudaSetDevice((int)device);
        for (; d->n_events < more && error == cudaSuccess; d->n_events += error == cudaSuccess)
            error = cudaEventCreate(&d->events[d->n_events]);
        if (error != cudaSuccess)
            return error;
    }
    *out = d->events[d->n_taken++];
    return cudaSuccess;
}

/* ---- what must come before what ---- */

/* All streams meet: nothing behind it begins before everything in front of it has ended. */
static enum mp_status join(struct run *x, bool comes_back) {
    struct ex_link *l = x->link;
    struct mp_error *err = x->err;
    const uint32_t n = l->world.n_ranks;
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < n; r++) {
        GPU_TRY(cudaEventRecord(l->joins[r], l->streams[r]), "an event");
        GPU_TRY(cudaStreamWaitEvent(l->streams[n], l->joins[r], 0), "waiting for an event");
    }
    if (!comes_back)
        goto out;
    GPU_TRY(cudaEventRecord(l->joins[n], l->streams[n]), "an event");
    for (uint32_t r = 0; r < n; r++)
        GPU_TRY(cudaStreamWaitEvent(l->streams[r], l->joins[n], 0), "waiting for an event");
out:
    return status;
}

/* The stream of `src` waits for the group of messages that rank r sent (received) in its last stage before this one;
 * that group itself waited for those before it. */
static enum mp_status wait_for_group(struct run *x, uint32_t src, uint32_t r, bool is_receive, uint32_t stage) {
    const struct ex_script *s = x->s;
    const struct ex_end *ends = is_receive ? s->receives : s->sends;
    const size_t first = is_receive ? s->receive_first[r] : s->send_first[r],
                 last = is_receive ? s->receive_first[r + 1] : s->send_first[r + 1];
    size_t *at = &x->at[is_receive][r];
    struct mp_error *err = x->err;
    enum mp_status status = MP_OK;
    while (*at < last && ends[*at].stage < stage)
        (*at)++;
    for (size_t i = *at; i > first && ends[i - 1].stage == ends[*at - 1].stage; i--)
        if (s->messages[ends[i - 1].message].src != src) /* the own stream keeps its order */
            GPU_TRY(cudaStreamWaitEvent(x->link->streams[src], x->end[ends[i - 1].message], 0), "waiting for an event");
out:
    return status;
}

/* ---- what is done ---- */

static void CUDART_CB stand_still(void *ctx) {
    struct ex_link *l = ctx;
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    const uint64_t ms = l->world.fault.kind == EX_FAULT_SLOW ? 2 * l->world.deadline_ms : 86400000;
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_mutex_lock(&l->lock);
    while (!l->is_released && pthread_cond_timedwait(&l->changed, &l->lock, &until) == 0)
        ;
    (void)pthread_mutex_unlock(&l->lock);
}

/* STOP, KILL and SLOW: the stream of the rank stands still from the stage on. */
static enum mp_status misbehave(struct run *x, uint32_t stage) {
    struct ex_link *l = x->link;
    struct mp_error *err = x->err;
    const struct ex_fault *f = &l->world.fault;
    enum mp_status status = MP_OK;
    if ((f->kind == EX_FAULT_STOP || f->kind == EX_FAULT_KILL || f->kind == EX_FAULT_SLOW) &&
        ex_fault_strikes(f, x->s, stage, f->rank) && f->rank < l->world.n_ranks)
        GPU_TRY(cudaLaunchHostFunc(l->streams[f->rank], stand_still, l), "a fault");
out:
    return status;
}

static enum mp_status copy_around(struct run *x, uint32_t stage, bool is_before) {
    struct ex_link *l = x->link;
    const struct ex_script *s = x->s;
    struct mp_error *err = x->err;
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < s->n_ranks; r++)
        for (size_t *c = &x->copy[r];
             *c < s->copy_first[r + 1] && s->copies[*c].stage == stage && s->copies[*c].is_before == is_before;
             (*c)++) {
            const struct ex_copy *e = &s->copies[*c];
            GPU_TRY(cudaMemcpyAsync(l->blocks[r].bytes + e->to_at, l->blocks[r].bytes + e->from_at, e->bytes,
                                    cudaMemcpyDeviceToDevice, l->streams[r]),
                    "copying inside a block");
        }
out:
    return status;
}

/* One bit of what came is turned over. */
static enum mp_status corrupt(struct run *x, const struct ex_message *m) {
    struct ex_link *l = x->link;
    struct mp_error *err = x->err;
    uint8_t byte, *at = l->blocks[m->dst].bytes + m->dst_at + m->bytes / 2;
    enum mp_status status = MP_OK;
    GPU_TRY(cudaStreamSynchronize(l->streams[m->src]), "a fault");
    GPU_TRY(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost), "a fault");
    byte ^= 1;
    GPU_TRY(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice), "a fault");
out:
    return status;
}

static enum mp_status send(struct run *x, const struct ex_message *m, size_t index) {
    struct ex_link *l = x->link;
    const struct ex_script *s = x->s;
    struct mp_error *err = x->err;
    const struct ex_fault *f = &l->world.fault;
    const uint32_t device = device_of(l, m->src), to = device_of(l, m->dst);
    cudaStream_t stream = l->streams[m->src];
    uint64_t bytes = m->bytes, src_at = m->src_at;
    bool is_first = true;
    char name[96];
    enum mp_status status = MP_OK;
    for (size_t i = s->send_first[m->src]; f->kind != EX_FAULT_NONE && i < s->send_first[m->src + 1]; i++) {
        is_first = is_first && (s->sends[i].stage != m->stage || s->sends[i].message >= index);
        if (x->faulty[m->src] != NULL && s->sends[i].message == index) {
            bytes = x->faulty[m->src][i - s->send_first[m->src]].bytes;
            src_at = x->faulty[m->src][i - s->send_first[m->src]].at;
        }
    }
    if (bytes != m->bytes && bytes != 0)
        return mp_fail(err, MP_EPEER, "%s, stage %u: rank %u sends %llu bytes to rank %u where %llu were agreed",
                       ex_script_name(s, name, sizeof name), m->stage, m->src, (unsigned long long)bytes, m->dst,
                       (unsigned long long)m->bytes);
    if (s->mode != MP_STAGE_BARRIER)
        MP_TRY(wait_for_group(x, m->src, m->dst, true, m->stage));
    if (s->mode == MP_STAGE_COUPLED) {
        MP_TRY(wait_for_group(x, m->src, m->dst, false, m->stage));
        MP_TRY(wait_for_group(x, m->src, m->src, true, m->stage));
    }
    if (x->is_timed) {
        GPU_TRY(take_event(&l->devices[device], device, &x->begin[index]), "making an event");
        GPU_TRY(cudaEventRecord(x->begin[index], stream), "an event");
    }
    const uint8_t *from_at = l->blocks[m->src].bytes + src_at;
    uint8_t *to_at = l->blocks[m->dst].bytes + m->dst_at;
    if (bytes > 0 && device == to)
        GPU_TRY(cudaMemcpyAsync(to_at, from_at, bytes, cudaMemcpyDeviceToDevice, stream), "copying inside a GPU");
    else if (bytes > 0)
        GPU_TRY(cudaMemcpyPeerAsync(to_at, (int)to, from_at, (int)device, bytes, stream), "copying between GPUs");
    if (f->kind == EX_FAULT_CORRUPT && ex_fault_strikes(f, s, m->stage, m->src) && is_first)
        MP_TRY(corrupt(x, m));
    GPU_TRY(take_event(&l->devices[device], device, &x->end[index]), "making an event");
    GPU_TRY(cudaEventRecord(x->end[index], stream), "an event");
out:
    return status;
}

/* The whole script into the streams, from the one that all begin on to it. */
static enum mp_status enqueue(struct run *x) {
    struct ex_link *l = x->link;
    const struct ex_script *s = x->s;
    const uint32_t n = s->n_ranks;
    struct mp_error *err = x->err;
    enum mp_status status = MP_OK;
    for (uint32_t d = 0; d < l->n_devices; d++)
        l->devices[d].n_taken = 0;
    GPU_TRY(cudaEventRecord(l->joins[n], l->streams[n]), "an event");
    for (uint32_t r = 0; r < n; r++) {
        struct device *d = &l->devices[device_of(l, r)];
        GPU_TRY(cudaStreamWaitEvent(l->streams[r], l->joins[n], 0), "waiting for an event");
        if (x->is_timed && r < l->n_devices)
            GPU_TRY(cudaEventRecord(d->begun, l->streams[r]), "an event"); /* on its first rank's stream */
        else if (x->is_timed)
            GPU_TRY(cudaStreamWaitEvent(l->streams[r], d->begun, 0), "waiting for an event");
    }
    for (uint32_t k = 0; k < s->n_stages; k++) {
        MP_TRY(misbehave(x, k));
        MP_TRY(copy_around(x, k, true));
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; m++)
            MP_TRY(send(x, &s->messages[m], m));
        if (s->mode == MP_STAGE_BARRIER)
            MP_TRY(join(x, true));
        MP_TRY(copy_around(x, k, false));
    }
    status = join(x, false);
out:
    return status;
}

static void unmake(struct run *x) {
    for (uint32_t r = 0; x->faulty != NULL && r < x->link->world.n_ranks; r++)
        mp_free(x->faulty[r]);
    void *owned[] = {x->begin, x->end, x->faulty, x->at[0], x->at[1], x->copy};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
}

static enum mp_status make(struct run *x, struct ex_link *l, const struct ex_script *s, bool is_timed,
                           struct mp_error *err) {
    const uint32_t n = s->n_ranks;
    enum mp_status status = MP_OK;
    *x = (struct run){.link = l, .s = s, .is_timed = is_timed, .err = err};
    x->begin = mp_calloc(s->n_messages, sizeof(cudaEvent_t));
    x->end = mp_calloc(s->n_messages, sizeof(cudaEvent_t));
    x->faulty = mp_calloc(n, sizeof *x->faulty);
    x->at[0] = mp_calloc(n, sizeof(size_t));
    x->at[1] = mp_calloc(n, sizeof(size_t));
    x->copy = mp_calloc(n, sizeof(size_t));
    if (x->begin == NULL || x->end == NULL || x->faulty == NULL || x->at[0] == NULL || x->at[1] == NULL ||
        x->copy == NULL)
        return mp_nomem(err, "running a script");
    for (uint32_t r = 0; r < n; r++) {
        x->at[0][r] = s->send_first[r];
        x->at[1][r] = s->receive_first[r];
        x->copy[r] = s->copy_first[r];
        MP_TRY(ex_fault_sends(&x->faulty[r], &l->world.fault, s, r, err));
    }
out:
    return status;
}

/* ---- graphs ---- */

static void drop_graphs(struct ex_link *l) {
    for (size_t g = 0; g < l->n_graphs; g++)
        if (l->graphs[g].exec != NULL)
            (void)cudaGraphExecDestroy(l->graphs[g].exec);
    mp_free(l->graphs);
    l->graphs = NULL;
    l->n_graphs = 0;
}

static bool is_struck(const struct ex_link *l, const struct ex_script *s) {
    const struct ex_fault *f = &l->world.fault;
    return f->kind != EX_FAULT_NONE && s->part == EX_DISPATCH && f->step == s->step && f->layer == s->layer;
}

static enum mp_status capture(struct ex_link *l, const struct ex_script *s, cudaGraphExec_t *out,
                              struct mp_error *err) {
    struct run x;
    cudaGraph_t graph = NULL;
    bool is_capturing = false;
    enum mp_status status = make(&x, l, s, false, err);
    if (status != MP_OK)
        goto out;
    GPU_TRY(cudaSetDevice(0), "taking a GPU");
    GPU_TRY(cudaStreamBeginCapture(l->streams[s->n_ranks], cudaStreamCaptureModeThreadLocal), "capturing a graph");
    is_capturing = true;
    MP_TRY(enqueue(&x));
    is_capturing = false;
    GPU_TRY(cudaStreamEndCapture(l->streams[s->n_ranks], &graph), "capturing a graph");
    GPU_TRY(cudaGraphInstantiate(out, graph, 0), "making a graph ready");
    GPU_TRY(cudaGraphUpload(*out, l->streams[s->n_ranks]), "making a graph ready");
    GPU_TRY(cudaStreamSynchronize(l->streams[s->n_ranks]), "making a graph ready");
out:
    if (is_capturing)
        (void)cudaStreamEndCapture(l->streams[s->n_ranks], &graph);
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    unmake(&x);
    return status;
}

static enum mp_status cuda_prepare(struct ex_link *l, const struct ex_script *const *scripts, size_t n,
                                   struct mp_error *err) {
    enum mp_status status = MP_OK;
    drop_graphs(l);
    if (l->world.with_timeline)
        return MP_OK;
    l->graphs = mp_calloc(n, sizeof *l->graphs);
    if (l->graphs == NULL)
        return mp_nomem(err, "graphs");
    for (size_t i = 0; i < n; i++)
        if (!is_struck(l, scripts[i]) && scripts[i]->n_messages > 0) {
            l->graphs[l->n_graphs].s = scripts[i];
            MP_TRY(capture(l, scripts[i], &l->graphs[l->n_graphs++].exec, err));
        }
out:
    return status;
}

/* ---- running ---- */

static void release(struct ex_link *l) {
    (void)pthread_mutex_lock(&l->lock);
    l->is_released = true;
    (void)pthread_cond_broadcast(&l->changed);
    (void)pthread_mutex_unlock(&l->lock);
}

/* The deadline has passed: the first message that has not come, in the order of the script. */
static enum mp_status blame(const struct run *x, struct mp_error *err) {
    const struct ex_script *s = x->s;
    const uint64_t deadline_ms = x->link->world.deadline_ms;
    uint64_t bytes = 0;
    char name[96];
    for (uint32_t r = 0; r < s->n_ranks; r++)
        bytes += ex_script_bytes(s, r, true);
    for (size_t m = 0; m < s->n_messages && x->end != NULL; m++)
        if (cudaEventQuery(x->end[m]) == cudaErrorNotReady)
            return ex_fail_deadline(err, s, s->messages[m].dst, s->messages[m].stage, s->messages[m].src, true,
                                    s->messages[m].bytes, EX_LATE, deadline_ms);
    return mp_fail(err, MP_EPEER,
                   "%s: the GPUs did not end within %llu ms (%zu messages of %llu bytes in %u stages; as one graph, so "
                   "nobody knows which is missing: --timeline runs them one by one)",
                   ex_script_name(s, name, sizeof name), (unsigned long long)deadline_ms, s->n_messages,
                   (unsigned long long)bytes, s->n_stages);
}

/* Until the event is there, or until nothing has happened for the deadline. */
static enum mp_status wait_for(const struct run *x, cudaEvent_t last, struct mp_error *err) {
    const uint64_t deadline_ns = x->link->world.deadline_ms * 1000000, since = gpu_now_ns();
    uint64_t progress = since, looked = since;
    size_t seen = 0;
    for (;;) {
        const cudaError_t error = cudaEventQuery(last);
        if (error == cudaSuccess)
            return MP_OK;
        if (error != cudaErrorNotReady)
            return gpu_fail(err, error, "running a script");
        const uint64_t now = gpu_now_ns();
        if (x->end != NULL && now - looked > POLL_NS) { /* messages end in any order: the first that is missing */
            looked = now;
            size_t before = seen;
            while (seen < x->s->n_messages && cudaEventQuery(x->end[seen]) == cudaSuccess)
                seen++;
            progress = seen > before ? now : progress;
        }
        if (now - progress > deadline_ns)
            return blame(x, err);
        uint64_t next;
        enum mp_status status = cuda_sums_attend(&x->link->sums, &next, err);
        if (status != MP_OK)
            return status;
        gpu_nap(since);
    }
}

static void note_times(const struct run *x, struct ex_times *t) {
    const struct ex_script *s = x->s;
    for (size_t i = 0; i < s->n_messages; i++) {
        const struct ex_message *m = &s->messages[i];
        const struct device *d = &x->link->devices[device_of(x->link, m->src)];
        const uint64_t begin = gpu_elapsed_ns(d->begun, x->begin[i]), end = gpu_elapsed_ns(d->begun, x->end[i]);
        const uint32_t ends[2] = {m->src, m->dst};
        t->message_begin_ns[i] = begin;
        t->message_end_ns[i] = end;
        for (int k = 0; k < 2; k++) {
            const size_t cell = (size_t)ends[k] * s->n_stages + m->stage;
            t->begin_ns[cell] = t->end_ns[cell] == 0 || begin < t->begin_ns[cell] ? begin : t->begin_ns[cell];
            t->end_ns[cell] = end > t->end_ns[cell] ? end : t->end_ns[cell];
        }
    }
}

static enum mp_status cuda_run(struct ex_link *l, const struct ex_script *s, struct ex_times *times,
                               struct mp_error *err) {
    const uint32_t n = s->n_ranks;
    cudaStream_t origin = l->streams[n];
    struct run x = {.link = l, .s = s};
    cudaGraphExec_t graph = NULL;
    enum mp_status status = MP_OK;
    for (size_t g = 0; g < l->n_graphs; g++)
        graph = l->graphs[g].s == s ? l->graphs[g].exec : graph;
    if (graph == NULL)
        MP_TRY(make(&x, l, s, true, err));
    GPU_TRY(cudaSetDevice(0), "taking a GPU");
    GPU_TRY(cudaEventRecord(l->timed[0], origin), "an event");
    if (graph != NULL)
        GPU_TRY(cudaGraphLaunch(graph, origin), "launching a graph");
    else
        MP_TRY(enqueue(&x));
    GPU_TRY(cudaEventRecord(l->timed[1], origin), "an event");
    MP_TRY(wait_for(&x, l->timed[1], err));
    for (uint32_t r = 0; r < n; r++)
        times->total_ns[r] = gpu_elapsed_ns(l->timed[0], l->timed[1]);
    if (graph == NULL)
        note_times(&x, times);
out:
    if (status != MP_OK) {
        l->is_broken = true;
        release(l);
    }
    unmake(&x);
    return status;
}

/* ---- sums beside scripts ---- */

static enum mp_status cuda_attend(struct ex_link *l, ex_attend_fn *fn, void *ctx, struct mp_error *err) {
    (void)err;
    l->sums.attend = fn;
    l->sums.attend_ctx = ctx;
    return MP_OK;
}
static enum mp_status cuda_sum(struct ex_link *l, uint32_t rank, const struct ex_sum *sum, struct mp_error *err) {
    return cuda_sums_begin(&l->sums, rank, sum, err);
}
static enum mp_status cuda_has_summed(struct ex_link *l, uint32_t rank, bool *has, struct mp_error *err) {
    return cuda_sums_look(&l->sums, rank, has, err);
}
static enum mp_status cuda_idle(struct ex_link *l, uint64_t until_ns, uint32_t waits_for, const char *doing,
                                struct mp_error *err) {
    uint64_t next;
    (void)waits_for;
    (void)doing;
    enum mp_status status = cuda_sums_attend(&l->sums, &next, err);
    next = next < until_ns ? next : until_ns;
    if (status == MP_OK && next > gpu_now_ns())
        gpu_nap(gpu_now_ns() - 3000000); /* a short one: nothing says when a GPU has done something */
    return status;
}
static void cuda_stir(struct ex_link *l) { (void)l; } /* who idles looks often enough */

static const struct ex_beside cuda_beside = {
    .attend = cuda_attend, .sum = cuda_sum, .has_summed = cuda_has_summed, .idle = cuda_idle, .stir = cuda_stir};

/* ---- the table's functions ---- */

static enum mp_status cuda_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **host_view,
                                 struct mp_error *err) {
    drop_graphs(l); /* they have the addresses of the old block */
    enum mp_status status = gpu_block_room(&l->blocks[rank], rank, bytes, err);
    *host_view = l->blocks[rank].view;
    return status;
}
static enum mp_status cuda_push(struct ex_link *l, uint32_t rank, uint64_t at, uint64_t n, struct mp_error *err) {
    return gpu_block_push(&l->blocks[rank], at, n, l->world.deadline_ms, err);
}
static enum mp_status cuda_pull(struct ex_link *l, uint32_t rank, uint64_t at, uint64_t n, struct mp_error *err) {
    return gpu_block_pull(&l->blocks[rank], at, n, l->world.deadline_ms, err);
}
static enum mp_status cuda_rows(struct ex_link *l, uint32_t rank, const struct ex_rows_table *table, uint64_t *ns,
                                struct mp_error *err) {
    return gpu_block_rows(&l->blocks[rank], rank, table, l->world.deadline_ms, ns, err);
}
static enum mp_status cuda_compute(struct ex_link *l, uint32_t rank, const struct ex_gemm *gemm, uint64_t *ns,
                                   struct mp_error *err) {
    const uint32_t device = device_of(l, rank);
    enum mp_status status =
        gpu_experts_run(&l->devices[device].experts, (int)device, gemm, l->world.deadline_ms, ns, err);
    l->is_broken = l->is_broken || status != MP_OK;
    return status;
}
static enum mp_status cuda_barrier(struct ex_link *l, struct mp_error *err) {
    (void)l;
    (void)err;
    return MP_OK;
}
static enum mp_status cuda_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) {
    (void)err;
    memcpy(all, mine, n * l->world.n_ranks);
    return MP_OK;
}
static void cuda_abort(struct ex_link *l, const struct mp_error *why) {
    (void)why;
    l->is_broken = true;
    release(l);
}

static bool becomes_idle(const struct ex_link *l) {
    const uint64_t since = gpu_now_ns();
    for (uint32_t r = 0; l->streams != NULL && r <= l->world.n_ranks; r++) {
        cudaError_t error = cudaSuccess;
        while (l->streams[r] != NULL && (error = cudaStreamQuery(l->streams[r])) == cudaErrorNotReady &&
               gpu_now_ns() - since < IDLE_NS)
            gpu_nap(since);
        (void)cudaGetLastError();
        if (error != cudaSuccess)
            return false;
    }
    return true;
}

static void cuda_close(struct ex_link *l) {
    if (l == NULL)
        return;
    release(l);
    /* Behind a failure streams may never end, and giving memory back waits for them: the process ends anyway. */
    const bool is_idle = !l->is_broken || becomes_idle(l);
    cuda_sums_close(&l->sums, is_idle);
    if (is_idle) {
        drop_graphs(l);
        for (uint32_t r = 0; l->blocks != NULL && r < l->world.n_ranks; r++)
            gpu_block_close(&l->blocks[r]);
        for (uint32_t r = 0; l->streams != NULL && r <= l->world.n_ranks; r++)
            if (l->streams[r] != NULL)
                (void)cudaStreamDestroy(l->streams[r]);
        for (uint32_t r = 0; l->joins != NULL && r <= l->world.n_ranks; r++)
            if (l->joins[r] != NULL)
                (void)cudaEventDestroy(l->joins[r]);
        for (int k = 0; k < 2; k++)
            if (l->timed[k] != NULL)
                (void)cudaEventDestroy(l->timed[k]);
        for (uint32_t d = 0; l->devices != NULL && d < l->n_devices; d++) {
            for (size_t e = 0; e < l->devices[d].n_events; e++)
                (void)cudaEventDestroy(l->devices[d].events[e]);
            gpu_experts_close(&l->devices[d].experts);
            if (l->devices[d].begun != NULL)
                (void)cudaEventDestroy(l->devices[d].begun);
        }
    }
    for (uint32_t d = 0; l->devices != NULL && d < l->n_devices; d++)
        mp_free(l->devices[d].events);
    mp_free(l->devices);
    mp_free(l->blocks);
    mp_free(l->streams);
    mp_free(l->joins);
    (void)pthread_mutex_destroy(&l->lock);
    (void)pthread_cond_destroy(&l->changed);
    mp_free(l);
}

/* Devices write into each other's memory where they can; where not the driver goes through the host. */
static enum mp_status meet_peers(struct ex_link *l, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t a = 0; a < l->n_devices; a++)
        for (uint32_t b = 0; b < l->n_devices; b++) {
            int can = 0;
            if (a == b)
                continue;
            GPU_TRY(cudaDeviceCanAccessPeer(&can, (int)a, (int)b), "looking for peers");
            if (can == 0)
                continue;
            GPU_TRY(cudaSetDevice((int)a), "taking a GPU");
            const cudaError_t error = cudaDeviceEnablePeerAccess((int)b, 0);
            if (error != cudaSuccess && error != cudaErrorPeerAccessAlreadyEnabled)
                GPU_TRY(error, "opening a peer's memory");
            (void)cudaGetLastError();
        }
out:
    return status;
}

static enum mp_status cuda_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    const uint32_t n = world->n_ranks;
    int n_devices = 0;
    struct ex_link *l = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (world->n_local != n || world->first_rank != 0 || world->rendezvous != NULL || world->hosts != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "transport cuda has all ranks in one process (leave out --rank, --nranks, --rendezvous and "
                       "--hosts, or take nccl)");
    if (n > RANKS_MAX)
        return mp_fail(err, MP_EUSAGE, "transport cuda has at most %d ranks, the plan %u", RANKS_MAX, n);
    MP_TRY(gpu_count(&n_devices, "cuda", err));
    l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "a transport");
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    l->world = *world;
    l->n_devices = (uint32_t)n_devices < n ? (uint32_t)n_devices : n;
    l->devices = mp_calloc(l->n_devices, sizeof *l->devices);
    l->blocks = mp_calloc(n, sizeof *l->blocks);
    l->streams = mp_calloc(n + 1, sizeof(cudaStream_t));
    l->joins = mp_calloc(n + 1, sizeof(cudaEvent_t));
    if (l->devices == NULL || l->blocks == NULL || l->streams == NULL || l->joins == NULL) {
        cuda_close(l);
        return mp_nomem(err, "a transport");
    }
    for (uint32_t d = 0; d < l->n_devices && status == MP_OK; d++) {
        GPU_TRY(cudaSetDevice((int)d), "taking a GPU");
        GPU_TRY(cudaEventCreate(&l->devices[d].begun), "making an event");
    }
    for (uint32_t r = 0; r <= n; r++) {
        GPU_TRY(cudaSetDevice((int)(r < n ? device_of(l, r) : 0)), "taking a GPU");
        int least, greatest; /* above those of sums */
        GPU_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
        GPU_TRY(cudaStreamCreateWithPriority(&l->streams[r], cudaStreamNonBlocking, greatest), "making a stream");
        GPU_TRY(cudaEventCreateWithFlags(&l->joins[r], cudaEventDisableTiming), "making an event");
        if (r < n)
            MP_TRY(gpu_block_open(&l->blocks[r], (int)device_of(l, r), err));
    }
    for (int k = 0; k < 2; k++)
        GPU_TRY(cudaEventCreate(&l->timed[k]), "making an event");
    if (world->with_sums)
        MP_TRY(cuda_sums_open(&l->sums, &l->world, l->blocks, err));
    status = meet_peers(l, err);
out:
    if (status != MP_OK)
        cuda_close(l);
    else
        *out = l;
    return status;
}

const struct ex_transport ex_cuda = {
    .name = "cuda",
    .summary = "GPUs of one process: copies on streams, captured as CUDA graphs; with fewer GPUs than ranks they share",
    .needs = "an NVIDIA GPU and its driver",
    .limits = {.max_ranks = RANKS_MAX, .packs = true},
    .open = cuda_open,
    .alloc = cuda_alloc,
    .push = cuda_push,
    .pull = cuda_pull,
    .prepare = cuda_prepare,
    .run = cuda_run,
    .rows = cuda_rows,
    .compute = cuda_compute,
    .beside = &cuda_beside,
    .barrier = cuda_barrier,
    .gather = cuda_gather,
    .abort = cuda_abort,
    .close = cuda_close,
};
