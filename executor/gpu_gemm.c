#include "gpu_gemm.h"
#include <cublas_v2.h>
#include <dlfcn.h>
#include <limits.h>
#include <string.h>

struct gpu_gemm {
    cublasHandle_t handle;
    cublasStatus_t (*Create)(cublasHandle_t *handle);
    cublasStatus_t (*Destroy)(cublasHandle_t handle);
    cublasStatus_t (*SetStream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*GemmEx)(cublasHandle_t handle, cublasOperation_t trans_a, cublasOperation_t trans_b, int m, int n,
                             int k, const void *alpha, const void *a, cudaDataType type_a, int lda, const void *b,
                             cudaDataType type_b, int ldb, const void *beta, void *c, cudaDataType type_c, int ldc,
                             cublasComputeType_t compute, cublasGemmAlgo_t algorithm);
};

static enum mp_status load(struct gpu_gemm *g, struct mp_error *err) {
    static const char *const places[] = {"libcublas.so.13", EXECUTOR_CUDA_HOME "/lib64/libcublas.so",
                                         EXECUTOR_CUDA_HOME "/lib/libcublas.so", "libcublas.so.12", "libcublas.so"};
    static const char *const names[] = {"cublasCreate_v2", "cublasDestroy_v2", "cublasSetStream_v2", "cublasGemmEx"};
    void **const to[] = {(void **)(void *)&g->Create, (void **)(void *)&g->Destroy, (void **)(void *)&g->SetStream,
                         (void **)(void *)&g->GemmEx};
    void *library = NULL;
    for (size_t i = 0; library == NULL && i < sizeof places / sizeof *places; i++)
        library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return mp_fail(err, MP_EIO, "libcublas is not installed, or cannot be loaded: %.200s", dlerror());
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *function = dlsym(library, names[i]);
        if (function == NULL)
            return mp_fail(err, MP_EIO, "libcublas has no %s", names[i]);
        memcpy(to[i], &function, sizeof function); /* ISO C has no cast for it */
    }
    return MP_OK;
}

enum mp_status gpu_gemm_open(struct gpu_gemm **out, struct mp_error *err) {
    struct gpu_gemm *g = mp_calloc(1, sizeof *g);
    enum mp_status status = MP_OK;
    *out = NULL;
    if (g == NULL)
        return mp_nomem(err, "cuBLAS");
    MP_TRY(load(g, err));
    const cublasStatus_t result = g->Create(&g->handle);
    if (result != CUBLAS_STATUS_SUCCESS)
        status = mp_fail(err, MP_EIO, "cuBLAS does not start: error %d", (int)result);
out:
    if (status != MP_OK)
        gpu_gemm_close(g);
    else
        *out = g;
    return status;
}

void gpu_gemm_close(struct gpu_gemm *g) {
    if (g != NULL && g->handle != NULL)
        (void)g->Destroy(g->handle);
    mp_free(g);
}

enum mp_status gpu_gemm_run(struct gpu_gemm *g, uint32_t n_experts, const uint32_t *rows, uint32_t n, uint32_t k,
                            const void *in, const void *weights, void *out, cudaStream_t stream, struct mp_error *err) {
    const float one = 1, zero = 0;
    const size_t two = 2; /* bytes of a bfloat16 */
    const uint8_t *a = in, *b = weights;
    uint8_t *c = out;
    cublasStatus_t result = g->SetStream(g->handle, stream);
    for (uint32_t e = 0; e < n_experts && result == CUBLAS_STATUS_SUCCESS; e++) {
        /* Column-major, as cuBLAS has it: out' = weights' * in'. */
        if (rows[e] > INT_MAX || n > INT_MAX || k > INT_MAX)
            return mp_fail(err, MP_ELIMIT, "a matrix of %u x %u x %u", rows[e], n, k);
        if (rows[e] > 0)
            result = g->GemmEx(g->handle, CUBLAS_OP_N, CUBLAS_OP_N, (int)n, (int)rows[e], (int)k, &one, b, CUDA_R_16BF,
                               (int)n, a, CUDA_R_16BF, (int)k, &zero, c, CUDA_R_16BF, (int)n, CUBLAS_COMPUTE_32F,
                               CUBLAS_GEMM_DEFAULT);
        a += two * rows[e] * k;
        b += two * n * k;
        c += two * rows[e] * n;
    }
    return result == CUBLAS_STATUS_SUCCESS ? MP_OK : mp_fail(err, MP_EIO, "cuBLAS: error %d", (int)result);
}

/* ---- the experts of ranks ---- */

static enum mp_status make_room(struct gpu_experts *x, int device, const struct ex_gemm *q, struct mp_error *err) {
    const uint64_t two = 2;
    uint64_t n_rows = 0;
    enum mp_status status = MP_OK;
    for (uint32_t e = 0; e < q->n_experts; e++)
        n_rows += q->rows[e];
    const uint64_t needs[4] = {two * n_rows * q->hidden, two * n_rows * q->up, two * n_rows * q->inner,
                               two * q->n_experts * q->hidden * (q->up > q->inner ? q->up : q->inner)};
    for (int i = 0; i < 4; i++) {
        void *memory = NULL;
        if (needs[i] <= x->n_bytes[i])
            continue;
        if (x->memory[i] != NULL)
            (void)cudaFree(x->memory[i]);
        x->memory[i] = NULL;
        x->n_bytes[i] = 0;
        const cudaError_t error = cudaMalloc(&memory, needs[i]);
        if (error == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            return mp_fail(err, MP_ENOMEM, "GPU %d has no %llu bytes for the experts (--compute none needs none)",
                           device, (unsigned long long)needs[i]);
        }
        GPU_TRY(error, "taking memory of a GPU");
        x->memory[i] = memory;
        x->n_bytes[i] = needs[i];
        /* Small numbers, none of them denormal or not a number: 0x3C3C is 0.0115 as bfloat16. */
        GPU_TRY(cudaMemset(memory, 0x3C, needs[i]), "filling memory of a GPU");
    }
out:
    return status;
}

enum mp_status gpu_experts_run(struct gpu_experts *x, int device, const struct ex_gemm *q, uint64_t deadline_ms,
                               uint64_t *ns, struct mp_error *err) {
    const uint64_t since = gpu_now_ns();
    cudaError_t error;
    enum mp_status status = MP_OK;
    *ns = 0;
    GPU_TRY(cudaSetDevice(device), "taking a GPU");
    if (x->gemm == NULL)
        MP_TRY(gpu_gemm_open(&x->gemm, err));
    if (x->stream == NULL) {
        GPU_TRY(cudaStreamCreateWithFlags(&x->stream, cudaStreamNonBlocking), "making a stream");
        GPU_TRY(cudaEventCreate(&x->from), "making an event");
        GPU_TRY(cudaEventCreate(&x->to), "making an event");
    }
    MP_TRY(make_room(x, device, q, err));
    GPU_TRY(cudaEventRecord(x->from, x->stream), "an event");
    MP_TRY(gpu_gemm_run(x->gemm, q->n_experts, q->rows, q->up, q->hidden, x->memory[0], x->memory[3], x->memory[1],
                        x->stream, err));
    MP_TRY(gpu_gemm_run(x->gemm, q->n_experts, q->rows, q->hidden, q->inner, x->memory[2], x->memory[3], x->memory[0],
                        x->stream, err));
    GPU_TRY(cudaEventRecord(x->to, x->stream), "an event");
    while ((error = cudaEventQuery(x->to)) == cudaErrorNotReady) {
        if (gpu_now_ns() - since > deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "GPU %d did not end the experts' matrix products within %llu ms", device,
                           (unsigned long long)deadline_ms);
        gpu_nap(since);
    }
    GPU_TRY(error, "the experts' matrix products");
    *ns = gpu_elapsed_ns(x->from, x->to);
out:
    return status;
}

void gpu_experts_close(struct gpu_experts *x) {
    gpu_gemm_close(x->gemm);
    for (int i = 0; i < 4; i++)
        if (x->memory[i] != NULL)
            (void)cudaFree(x->memory[i]);
    if (x->from != NULL)
        (void)cudaEventDestroy(x->from);
    if (x->to != NULL)
        (void)cudaEventDestroy(x->to);
    if (x->stream != NULL)
        (void)cudaStreamDestroy(x->stream);
    *x = (struct gpu_experts){0};
}
