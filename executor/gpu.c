#include "gpu.h"
#include <string.h>
#include <time.h>

enum mp_status gpu_fail(struct mp_error *err, cudaError_t error, const char *doing) {
    (void)cudaGetLastError(); /* it is told here; the next call shall not find it again */
    return mp_fail(err, error == cudaErrorMemoryAllocation ? MP_ENOMEM : MP_EIO, "%s: CUDA error %d: %s", doing,
                   (int)error, cudaGetErrorString(error));
}

enum mp_status gpu_count(int *out, const char *transport, struct mp_error *err) {
    *out = 0;
    const cudaError_t error = cudaGetDeviceCount(out);
    (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice || (error == cudaSuccess && *out < 1))
        return mp_fail(err, MP_EIO,
                       "transport %s: no CUDA driver or no GPU on this machine (%s): transports loop, socket and mpi "
                       "need none",
                       transport, error == cudaSuccess ? "no devices" : cudaGetErrorString(error));
    return error == cudaSuccess ? MP_OK : gpu_fail(err, error, "counting GPUs");
}

uint64_t gpu_now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void gpu_nap(uint64_t since_ns) {
    const struct timespec nap = {0, 50000};
    if (gpu_now_ns() - since_ns > 2000000)
        (void)nanosleep(&nap, NULL);
}

uint64_t gpu_elapsed_ns(cudaEvent_t from, cudaEvent_t to) {
    float ms = 0;
    if (cudaEventElapsedTime(&ms, from, to) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return ms > 0 ? (uint64_t)((double)ms * 1e6) : 0;
}

/* ---- blocks ---- */

enum mp_status gpu_block_open(struct gpu_block *b, int device, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *b = (struct gpu_block){.device = device};
    GPU_TRY(cudaSetDevice(device), "taking a GPU");
    GPU_TRY(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking), "making a stream");
    GPU_TRY(cudaEventCreateWithFlags(&b->done, cudaEventDisableTiming), "making an event");
    for (int k = 0; k < 2; k++)
        GPU_TRY(cudaEventCreate(&b->timed[k]), "making an event");
out:
    if (status != MP_OK)
        gpu_block_close(b);
    return status;
}

static void give_up_room(struct gpu_block *b) {
    if (b->bytes != NULL)
        (void)cudaFree(b->bytes);
    if (b->view != NULL)
        (void)cudaFreeHost(b->view);
    b->bytes = b->view = NULL;
    b->n = 0;
}

enum mp_status gpu_block_room(struct gpu_block *b, uint32_t rank, uint64_t n, struct mp_error *err) {
    void *bytes = NULL, *view = NULL;
    size_t n_free = 0, n_total = 0;
    enum mp_status status = MP_OK;
    GPU_TRY(cudaSetDevice(b->device), "taking a GPU");
    if (b->n < n) {
        give_up_room(b);
        cudaError_t error = cudaMalloc(&bytes, n);
        b->bytes = bytes;
        if (error == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            (void)cudaMemGetInfo(&n_free, &n_total);
            return mp_fail(err, MP_ENOMEM,
                           "GPU %d has no %llu bytes for the block of rank %u (%llu of %llu are free): fewer --steps, "
                           "a smaller --batch or more GPUs need less of each",
                           b->device, (unsigned long long)n, rank, (unsigned long long)n_free,
                           (unsigned long long)n_total);
        }
        GPU_TRY(error, "taking memory of a GPU");
        GPU_TRY(cudaMallocHost(&view, n), "taking pinned memory");
        b->view = view;
        b->n = n;
    }
    memset(b->view, 0, b->n);
    GPU_TRY(cudaMemsetAsync(b->bytes, 0, b->n, b->stream), "clearing memory of a GPU");
    GPU_TRY(cudaStreamSynchronize(b->stream), "clearing memory of a GPU");
out:
    if (status != MP_OK)
        give_up_room(b);
    return status;
}

static enum mp_status move(struct gpu_block *b, bool is_push, uint64_t at, uint64_t n, uint64_t deadline_ms,
                           struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint64_t since = gpu_now_ns();
    const char *const doing = is_push ? "copying to a GPU" : "copying from a GPU";
    cudaError_t error;
    if (n == 0)
        return MP_OK;
    GPU_TRY(cudaSetDevice(b->device), "taking a GPU"); /* of this thread */
    GPU_TRY(cudaMemcpyAsync(is_push ? b->bytes + at : b->view + at, is_push ? b->view + at : b->bytes + at, n,
                            is_push ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, b->stream),
            doing);
    GPU_TRY(cudaEventRecord(b->done, b->stream), doing);
    while ((error = cudaEventQuery(b->done)) == cudaErrorNotReady) {
        if (gpu_now_ns() - since > deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "GPU %d did not copy %llu bytes %s the host within %llu ms", b->device,
                           (unsigned long long)n, is_push ? "from" : "to", (unsigned long long)deadline_ms);
        gpu_nap(since);
    }
    GPU_TRY(error, doing);
out:
    return status;
}
enum mp_status gpu_block_push(struct gpu_block *b, uint64_t at, uint64_t n, uint64_t deadline_ms,
                              struct mp_error *err) {
    return move(b, true, at, n, deadline_ms, err);
}
enum mp_status gpu_block_pull(struct gpu_block *b, uint64_t at, uint64_t n, uint64_t deadline_ms,
                              struct mp_error *err) {
    return move(b, false, at, n, deadline_ms, err);
}

enum mp_status gpu_block_rows(struct gpu_block *b, uint32_t rank, const struct ex_rows_table *t, uint64_t deadline_ms,
                              uint64_t *ns, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const char *const doing = ex_rows_name(t->kind);
    const uint64_t since = gpu_now_ns();
    void *const table = b->bytes + t->at, *const terms = b->bytes + t->terms_at;
    cudaError_t error;
    *ns = 0;
    if (t->n == 0)
        return MP_OK;
    GPU_TRY(cudaSetDevice(b->device), "taking a GPU");
    GPU_TRY(cudaEventRecord(b->timed[0], b->stream), doing);
    GPU_TRY((cudaError_t)(t->adds ? gpu_rows_add(b->bytes, table, terms, t->n, t->row_bytes, b->stream)
                                  : gpu_rows_move(b->bytes, table, t->n, t->row_bytes, b->stream)),
            doing);
    GPU_TRY(cudaEventRecord(b->timed[1], b->stream), doing);
    while ((error = cudaEventQuery(b->timed[1])) == cudaErrorNotReady) {
        if (gpu_now_ns() - since > deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "GPU %d did not end %s %u rows of %llu bytes of rank %u within %llu ms",
                           b->device, doing, t->n, (unsigned long long)t->row_bytes, rank,
                           (unsigned long long)deadline_ms);
        gpu_nap(since);
    }
    GPU_TRY(error, doing);
    *ns = gpu_elapsed_ns(b->timed[0], b->timed[1]);
out:
    return status;
}

void gpu_block_close(struct gpu_block *b) {
    if (b->stream == NULL)
        return;
    (void)cudaSetDevice(b->device);
    give_up_room(b);
    if (b->done != NULL)
        (void)cudaEventDestroy(b->done);
    for (int k = 0; k < 2; k++)
        if (b->timed[k] != NULL)
            (void)cudaEventDestroy(b->timed[k]);
    (void)cudaStreamDestroy(b->stream);
    *b = (struct gpu_block){0};
}
