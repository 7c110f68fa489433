#include "mock_cuda.h"
#include "../../../executor/gpu_rows.h"
#include <assert.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum kind { NOTHING, COPY, CLEAR, HOST, MOVE_ROWS, ADD_ROWS, PROGRESS };
struct op {
    enum kind kind;
    uint8_t *to;
    const uint8_t *from;
    size_t n;
    cudaHostFn_t function;
    bool (*progress)(void *ctx);
    void *ctx;
    const void *table, *terms; /* of rows, n of them, in the block `to` */
    uint64_t row_bytes;
    struct op **after; /* what must be done first */
    size_t n_after, n_after_allocated;
    bool is_started, is_done, is_captured;
    uint64_t done_at;
    pthread_t thread;
};
struct CUstream_st {
    int priority;
    struct op *last;
    bool is_capturing;
    int device;
};
struct CUevent_st {
    struct op *at;
    int device;
};
struct CUgraph_st {
    struct op **ops;
    size_t n;
};
struct CUgraphExec_st {
    struct CUgraph_st graph;
};

static struct {
    int n_devices, device;
    uint64_t n_rows[2];
    bool is_mistaken[2];
    uint64_t random, n_objects, n_mallocs, fail_at, clock, n_launches, n_peer_copies;
    struct op **ops; /* all, in the order they were given */
    size_t n, n_allocated, first_undone;
    struct CUstream_st *streams[4096];
    size_t n_streams;
    size_t capture_from; /* the first op of the graph that is being captured */
    struct CUstream_st *origin;
} m;

void mock_cuda_begin(int n_devices, uint64_t seed, uint64_t fail_at) {
    memset(&m, 0, sizeof m);
    m.n_devices = n_devices;
    m.random = seed * 2 + 1;
    m.fail_at = fail_at;
}

static void free_op(struct op *o) {
    free(o->after);
    free(o);
}

uint64_t mock_cuda_end(void) {
    for (size_t i = 0; i < m.n; i++) {
        if (m.ops[i]->kind == HOST && m.ops[i]->is_started && !m.ops[i]->is_captured)
            (void)pthread_join(m.ops[i]->thread, NULL);
        free_op(m.ops[i]);
    }
    free(m.ops);
    m.ops = NULL;
    m.n = 0;
    return m.n_objects;
}
uint64_t mock_cuda_launches(void) { return m.n_launches; }
uint64_t mock_cuda_peer_copies(void) { return m.n_peer_copies; }
uint64_t mock_cuda_rows(bool adds) { return m.n_rows[adds]; }
void mock_cuda_mistake_row(bool adds) { m.is_mistaken[adds] = true; }

/* ---- ops ---- */

static void add_after(struct op *o, struct op *before) {
    if (before == NULL)
        return;
    if (o->n_after == o->n_after_allocated) {
        o->n_after_allocated = 2 * o->n_after_allocated + 2;
        o->after = realloc(o->after, o->n_after_allocated * sizeof(struct op *));
        assert(o->after != NULL);
    }
    o->after[o->n_after++] = before;
}
static struct op *add(struct CUstream_st *s, struct op like) {
    if (m.n == m.n_allocated) {
        m.n_allocated = 2 * m.n_allocated + 64;
        m.ops = realloc(m.ops, m.n_allocated * sizeof(struct op *));
        assert(m.ops != NULL);
    }
    struct op *o = malloc(sizeof *o);
    assert(o != NULL);
    *o = like;
    m.ops[m.n++] = o;
    if (s != NULL) {
        add_after(o, s->last);
        o->is_captured = s->is_capturing;
        s->last = o;
    }
    return o;
}
static void *host_main(void *ctx) {
    struct op *o = ctx;
    o->function(o->ctx);
    __atomic_store_n(&o->is_done, true, __ATOMIC_RELEASE);
    return NULL;
}
static bool is_done(const struct op *o) { return __atomic_load_n(&o->is_done, __ATOMIC_ACQUIRE); }

/* Kernels do what their reference does; tables are read when a kernel runs, not when it is launched. */
static void move_rows(const struct op *o) {
    struct gpu_row_move *rows = malloc(o->n * sizeof *rows);
    assert(rows != NULL);
    memcpy(rows, o->table, o->n * sizeof *rows);
    if (m.is_mistaken[0] && o->n > 1)
        rows[o->n / 2 - 1].from_at = rows[o->n / 2].from_at;
    gpu_rows_move_reference(o->to, rows, (uint32_t)o->n, o->row_bytes);
    m.n_rows[0] += o->n;
    free(rows);
}
static void add_rows(const struct op *o) {
    const struct gpu_row_sum *sums = o->table;
    uint32_t n_terms = 0;
    for (size_t i = 0; i < o->n; i++)
        n_terms += sums[i].n_terms;
    struct gpu_row_term *terms = malloc(n_terms * sizeof *terms + 1);
    assert(terms != NULL);
    if (n_terms > 0)
        memcpy(terms, o->terms, n_terms * sizeof *terms);
    if (m.is_mistaken[1] && n_terms > 1)
        terms[n_terms / 2 - 1].from_at = terms[n_terms / 2].from_at;
    gpu_rows_add_reference(o->to, sums, terms, (uint32_t)o->n, o->row_bytes);
    m.n_rows[1] += o->n;
    free(terms);
}

static void carry_out(struct op *o) {
    o->is_started = true;
    if (o->kind == HOST) {
        if (pthread_create(&o->thread, NULL, host_main, o) != 0)
            abort();
        return;
    }
    if (o->kind == COPY)
        memmove(o->to, o->from, o->n);
    if (o->kind == CLEAR)
        memset(o->to, 0, o->n);
    if (o->kind == MOVE_ROWS)
        move_rows(o);
    if (o->kind == ADD_ROWS)
        add_rows(o);
    if (o->kind == PROGRESS && !o->progress(o->ctx))
        return; /* again, later */
    o->done_at = ++m.clock;
    o->is_done = true;
}

/* Carries out one op that may run, drawn at random among the first few. */
static void step(void) {
    struct op *ready[16];
    size_t n = 0;
    while (m.first_undone < m.n && (is_done(m.ops[m.first_undone]) || m.ops[m.first_undone]->is_captured))
        m.first_undone++;
    for (size_t i = m.first_undone; i < m.n && n < 16; i++) {
        struct op *o = m.ops[i];
        bool is_ready = (!o->is_started || (o->kind == PROGRESS && !is_done(o))) && !o->is_captured;
        for (size_t k = 0; k < o->n_after && is_ready; k++)
            is_ready = is_done(o->after[k]);
        if (is_ready)
            ready[n++] = o;
    }
    m.random = m.random * 6364136223846793005u + 1442695040888963407u;
    if (n > 0)
        carry_out(ready[(m.random >> 33) % n]);
}

static cudaError_t finish(const struct op *o) {
    while (o != NULL && !is_done(o))
        step();
    return cudaSuccess;
}

void mock_cuda_drain(void) {
    for (size_t i = 0; i < m.n; i++)
        if (!m.ops[i]->is_captured)
            (void)finish(m.ops[i]);
}

/* ---- the runtime ---- */

const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorInsufficientDriver ? "mock: no driver" : "mock"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) {
    *n = m.n_devices;
    return m.n_devices > 0 ? cudaSuccess : cudaErrorInsufficientDriver;
}
cudaError_t cudaSetDevice(int device) {
    m.device = device;
    return device >= 0 && device < m.n_devices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) {
    *can = a != b;
    return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    (void)flags;
    return peer == m.device ? cudaErrorInvalidDevice : cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) {
    if (++m.n_mallocs == m.fail_at)
        return cudaErrorMemoryAllocation;
    *p = malloc(n);
    m.n_objects++;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n) { return cudaMalloc(p, n); }
cudaError_t cudaFree(void *p) {
    free(p);
    m.n_objects--;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total) {
    *n_free = 1;
    *n_total = 2;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    (*out)->device = m.device;
    m.streams[m.n_streams++] = *out;
    m.n_objects++;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return m.n_devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    if (priority > 0 || priority < -5)
        return cudaErrorInvalidValue;
    cudaError_t error = cudaStreamCreateWithFlags(out, flags);
    if (error == cudaSuccess)
        (*out)->priority = priority;
    return error;
}
int mock_cuda_priority(const struct CUstream_st *s) { return s->priority; }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    for (size_t i = 0; i < m.n_streams; i++)
        if (m.streams[i] == s)
            m.streams[i] = m.streams[--m.n_streams];
    free(s);
    m.n_objects--;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    (*out)->device = m.device;
    m.n_objects++;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    free(e);
    m.n_objects--;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    if (e->device != s->device)
        return cudaErrorInvalidResourceHandle; /* an event is recorded on its own device only */
    e->at = add(s, (struct op){.kind = NOTHING});
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    (void)flags;
    if (e->at == NULL)
        return cudaSuccess;
    if (e->at->is_captured && m.origin == NULL)
        return cudaErrorCapturedEvent;
    if (s->is_capturing && !e->at->is_captured)
        return cudaErrorStreamCaptureIsolation;
    if (e->at->is_captured && !s->is_capturing) {
        s->is_capturing = true; /* it joins the capture */
        s->last = NULL;
    }
    struct op *o = add(s, (struct op){.kind = NOTHING});
    add_after(o, e->at);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    if (e->at == NULL)
        return cudaSuccess;
    if (e->at->is_captured)
        return cudaErrorCapturedEvent;
    for (int i = 0; i < 8 && !is_done(e->at); i++)
        step();
    return is_done(e->at) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    if (a->at == NULL || b->at == NULL || !is_done(a->at) || !is_done(b->at) || a->device != b->device)
        return cudaErrorInvalidResourceHandle;
    *ms = (float)(b->at->done_at - a->at->done_at);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    if (s->last != NULL && !is_done(s->last))
        step();
    return s->last == NULL || is_done(s->last) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    return s->is_capturing ? cudaErrorStreamCaptureUnsupported : finish(s->last);
}

static cudaError_t copy(void *to, const void *from, size_t n, cudaStream_t s) {
    (void)add(s, (struct op){.kind = COPY, .to = to, .from = from, .n = n});
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s) {
    (void)kind;
    return copy(to, from, n, s);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t n, cudaStream_t s) {
    m.n_peer_copies++;
    return to_device == from_device ? cudaErrorInvalidValue : copy(to, from, n, s);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
    (void)kind;
    memcpy(to, from, n);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t n) {
    memset(to, value, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s) {
    (void)add(s, (struct op){.kind = CLEAR, .to = to, .n = n});
    return value == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
int gpu_rows_move(uint8_t *block, const struct gpu_row_move *rows, uint32_t n_rows, uint64_t row_bytes, void *s) {
    (void)add(s, (struct op){.kind = MOVE_ROWS, .to = block, .table = rows, .n = n_rows, .row_bytes = row_bytes});
    return cudaSuccess;
}
int gpu_rows_add(uint8_t *block, const struct gpu_row_sum *sums, const struct gpu_row_term *terms, uint32_t n_sums,
                 uint64_t row_bytes, void *s) {
    (void)add(
        s,
        (struct op){.kind = ADD_ROWS, .to = block, .table = sums, .terms = terms, .n = n_sums, .row_bytes = row_bytes});
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *ctx) {
    (void)add(s, (struct op){.kind = HOST, .function = function, .ctx = ctx});
    return cudaSuccess;
}

void mock_cuda_enqueue(struct CUstream_st *s, bool (*progress)(void *ctx), void *ctx) {
    (void)add(s, (struct op){.kind = PROGRESS, .progress = progress, .ctx = ctx});
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    (void)mode;
    if (m.origin != NULL)
        return cudaErrorStreamCaptureUnsupported;
    m.origin = s;
    m.capture_from = m.n;
    s->is_capturing = true;
    s->last = NULL;
    return cudaSuccess;
}

/* Does everything captured come before the origin's last op? */
static bool has_joined(const struct op *last) {
    size_t n = m.n - m.capture_from, n_open = 1, n_seen = 0;
    const struct op **open = malloc((n + 1) * sizeof(struct op *));
    bool *is_seen = calloc(n + 1, 1);
    open[0] = last;
    while (n_open > 0) {
        const struct op *o = open[--n_open];
        for (size_t i = 0; i < n; i++)
            if (m.ops[m.capture_from + i] == o && !is_seen[i]) {
                is_seen[i] = true;
                n_seen++;
                for (size_t k = 0; k < o->n_after; k++) {
                    bool is_open = false;
                    for (size_t q = 0; q < n_open; q++)
                        is_open = is_open || open[q] == o->after[k];
                    if (!is_open)
                        open[n_open++] = o->after[k];
                }
            }
    }
    free(open);
    free(is_seen);
    return n_seen == n;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    *out = NULL;
    if (m.origin != s)
        return cudaErrorStreamCaptureUnmatched;
    const bool is_whole = s->last == NULL ? m.n == m.capture_from : has_joined(s->last);
    m.origin = NULL;
    for (size_t i = 0; i < m.n_streams; i++)
        if (m.streams[i]->is_capturing) {
            m.streams[i]->is_capturing = false;
            m.streams[i]->last = NULL;
        }
    if (!is_whole)
        return cudaErrorStreamCaptureUnjoined;
    *out = calloc(1, sizeof **out);
    (*out)->n = m.n - m.capture_from;
    (*out)->ops = calloc((*out)->n + 1, sizeof(struct op *));
    memcpy((*out)->ops, m.ops + m.capture_from, (*out)->n * sizeof(struct op *));
    m.n_objects++;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    free(g->ops);
    free(g);
    m.n_objects--;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    (*out)->graph.n = g->n;
    (*out)->graph.ops = calloc(g->n + 1, sizeof(struct op *));
    memcpy((*out)->graph.ops, g->ops, g->n * sizeof(struct op *));
    m.n_objects++;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    free(g->graph.ops);
    free(g);
    m.n_objects--;
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t g, cudaStream_t s) {
    (void)g;
    (void)s;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    struct op **made = calloc(g->graph.n + 1, sizeof(struct op *));
    struct op *before = s->last;
    for (size_t i = 0; i < g->graph.n; i++) {
        const struct op *from = g->graph.ops[i];
        struct op like = *from;
        like.after = NULL;
        like.n_after = like.n_after_allocated = 0;
        like.is_captured = false;
        made[i] = add(NULL, like);
        add_after(made[i], before);
        for (size_t k = 0; k < from->n_after; k++)
            for (size_t q = 0; q < i; q++)
                if (g->graph.ops[q] == from->after[k])
                    add_after(made[i], made[q]);
    }
    struct op *last = add(s, (struct op){.kind = NOTHING});
    for (size_t i = 0; i < g->graph.n; i++)
        add_after(last, made[i]);
    free(made);
    m.n_launches++;
    return cudaSuccess;
}
