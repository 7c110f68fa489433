/* What a GPU does: the copy ceiling, packing rows and adding them up against it, launching (eager and as a graph),
 * groups of NCCL with one rank, matrix products of experts against the roofline. One JSON object on standard output;
 * the parts of tools/gpu-tests that need a GPU and no test harness. Exit code 4 and a message where there is none. */
#include "../../executor/gpu_gemm.h"
#include "../../executor/gpu_rows.h"
#include <moeplan/base.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if BENCH_HAS_NCCL
#include "../../executor/nccl_library.h"
#endif

enum { ROUNDS = 20, GROUPS = 200 };

static void check_cuda(cudaError_t error, const char *what) {
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "bench_gpu: %s: CUDA error %d: %s\n", what, (int)error, cudaGetErrorString(error));
    exit(4);
}
static void check(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_gpu: %s\n", err->message);
    exit(mp_exit_code(status));
}

struct timing {
    cudaStream_t stream;
    cudaEvent_t from, to;
};
static void begin(const struct timing *t) { check_cuda(cudaEventRecord(t->from, t->stream), "timing"); }
static double end_s(const struct timing *t) {
    float ms = 0;
    check_cuda(cudaEventRecord(t->to, t->stream), "timing");
    check_cuda(cudaEventSynchronize(t->to), "timing");
    check_cuda(cudaEventElapsedTime(&ms, t->from, t->to), "timing");
    return (double)ms / 1e3;
}
static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *s, size_t n) {
    qsort(s, n, sizeof *s, by_value);
    return s[n / 2];
}

/* Bytes read and written, as for every other figure of memory here. */
static double copy_ceiling(const struct timing *t, uint8_t *to, const uint8_t *from, uint64_t n) {
    double s[ROUNDS];
    for (int i = -3; i < ROUNDS; i++) {
        begin(t);
        check_cuda(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, t->stream), "copying");
        const double one = end_s(t);
        if (i >= 0)
            s[i] = one;
    }
    return 2.0 * (double)n / median(s, ROUNDS);
}

/* Rows packed in any order, and sums of four rows each: bytes read and written a second. */
static void rows(const struct timing *t, const uint8_t *noise, uint64_t n, double ceiling) {
    static const uint64_t sizes[] = {2048, 4096, 7168, 8192, 14336};
    enum { TERMS = 4 };
    uint8_t *block = NULL;
    check_cuda(cudaMalloc((void **)&block, 2 * n), "memory");
    for (int half = 0; half < 2; half++)
        check_cuda(cudaMemcpy(block + (uint64_t)half * n, noise, n, cudaMemcpyDeviceToDevice), "copying");
    printf(",\n \"rows\": [");
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const uint64_t size = sizes[k];
        const uint32_t n_rows = (uint32_t)(n / size), n_sums = n_rows / TERMS;
        struct gpu_row_move *moves = malloc(n_rows * sizeof *moves), *moves_there = NULL;
        struct gpu_row_sum *sums = malloc(n_sums * sizeof *sums), *sums_there = NULL;
        struct gpu_row_term *terms = malloc(n_rows * sizeof *terms), *terms_there = NULL;
        struct mp_rng rng = mp_rng_seed(k);
        double s[2][ROUNDS];
        if (moves == NULL || sums == NULL || terms == NULL)
            exit(4);
        for (uint32_t i = 0; i < n_rows; i++) { /* from the second half of the block into the first */
            const uint32_t other = (uint32_t)mp_rng_below(&rng, (uint64_t)i + 1);
            moves[i].to_at = i * size;
            moves[i].from_at = moves[other].from_at;
            moves[other].from_at = n + i * size;
        }
        for (uint32_t i = 0; i < n_sums * TERMS; i++)
            terms[i] = (struct gpu_row_term){moves[i].from_at, 3};
        for (uint32_t i = 0; i < n_sums; i++)
            sums[i] = (struct gpu_row_sum){i * size, i * TERMS, TERMS};
        check_cuda(cudaMalloc((void **)&moves_there, n_rows * sizeof *moves), "memory");
        check_cuda(cudaMalloc((void **)&sums_there, n_sums * sizeof *sums), "memory");
        check_cuda(cudaMalloc((void **)&terms_there, n_rows * sizeof *terms), "memory");
        check_cuda(cudaMemcpy(moves_there, moves, n_rows * sizeof *moves, cudaMemcpyHostToDevice), "copying");
        check_cuda(cudaMemcpy(sums_there, sums, n_sums * sizeof *sums, cudaMemcpyHostToDevice), "copying");
        check_cuda(cudaMemcpy(terms_there, terms, n_sums * TERMS * sizeof *terms, cudaMemcpyHostToDevice), "copying");
        for (int i = -3; i < ROUNDS; i++)
            for (int which = 0; which < 2; which++) {
                begin(t);
                check_cuda((cudaError_t)(which == 0
                                             ? gpu_rows_move(block, moves_there, n_rows, size, t->stream)
                                             : gpu_rows_add(block, sums_there, terms_there, n_sums, size, t->stream)),
                           "a kernel");
                const double one = end_s(t);
                if (i >= 0)
                    s[which][i] = one;
            }
        const double at[2] = {2.0 * (double)n_rows * (double)size / median(s[0], ROUNDS),
                              (TERMS + 2.0) * (double)n_sums * (double)size / median(s[1], ROUNDS)};
        printf("%s\n  {\"row_bytes\": %" PRIu64 ", \"pack_gb_per_s\": %.1f, \"pack_of_ceiling\": %.3f, "
               "\"unpack_gb_per_s\": %.1f, \"unpack_of_ceiling\": %.3f}",
               k > 0 ? "," : "", size, at[0] / 1e9, at[0] / ceiling, at[1] / 1e9, at[1] / ceiling);
        check_cuda(cudaFree(moves_there), "memory");
        check_cuda(cudaFree(sums_there), "memory");
        check_cuda(cudaFree(terms_there), "memory");
        free(moves);
        free(sums);
        free(terms);
    }
    check_cuda(cudaFree(block), "memory");
    printf("]");
}

/* Small copies one behind the other: what a message costs that carries next to nothing. */
static void launches(const struct timing *t, uint8_t *to, const uint8_t *from) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    double s[2][ROUNDS];
    check_cuda(cudaStreamBeginCapture(t->stream, cudaStreamCaptureModeThreadLocal), "capturing");
    for (int i = 0; i < GROUPS; i++)
        check_cuda(cudaMemcpyAsync(to, from, 64, cudaMemcpyDeviceToDevice, t->stream), "copying");
    check_cuda(cudaStreamEndCapture(t->stream, &graph), "capturing");
    check_cuda(cudaGraphInstantiate(&exec, graph, 0), "a graph");
    for (int i = -3; i < ROUNDS; i++)
        for (int which = 0; which < 2; which++) {
            begin(t);
            for (int k = 0; k < GROUPS && which == 0; k++)
                check_cuda(cudaMemcpyAsync(to, from, 64, cudaMemcpyDeviceToDevice, t->stream), "copying");
            if (which == 1)
                check_cuda(cudaGraphLaunch(exec, t->stream), "a graph");
            const double one = end_s(t);
            if (i >= 0)
                s[which][i] = one;
        }
    printf(",\n \"copy_launch_us\": {\"eager\": %.3f, \"captured\": %.3f}", median(s[0], ROUNDS) / GROUPS * 1e6,
           median(s[1], ROUNDS) / GROUPS * 1e6);
    check_cuda(cudaGraphExecDestroy(exec), "a graph");
    check_cuda(cudaGraphDestroy(graph), "a graph");
}

#if BENCH_HAS_NCCL
static void check_nccl(const struct nccl_library *nccl, ncclResult_t result, const char *what) {
    if (result == ncclSuccess || result == ncclInProgress)
        return;
    fprintf(stderr, "bench_gpu: NCCL, %s: %s\n", what, nccl->GetErrorString(result));
    exit(4);
}
static void settle(const struct nccl_library *nccl, ncclComm_t comm) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress)
        check_nccl(nccl, nccl->CommGetAsyncError(comm, &state), "asking");
    check_nccl(nccl, state, "working");
}
static void one_group(const struct nccl_library *nccl, ncclComm_t comm, const struct timing *t, uint8_t *to,
                      const uint8_t *from) {
    check_nccl(nccl, nccl->GroupStart(), "a group");
    check_nccl(nccl, nccl->Send(from, 64, ncclUint8, 0, comm, t->stream), "sending");
    check_nccl(nccl, nccl->Recv(to, 64, ncclUint8, 0, comm, t->stream), "receiving");
    check_nccl(nccl, nccl->GroupEnd(), "a group");
    settle(nccl, comm);
}
/* One rank that sends to itself: what a group costs to launch, and that all calls work. */
static void groups(const struct timing *t, uint8_t *to, uint8_t *from) {
    struct nccl_library nccl;
    struct mp_error err = {0};
    ncclUniqueId id;
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    uint8_t sent[64], got[64];
    double s[2][ROUNDS];
    int version = 0;
    check(nccl_load(&nccl, &err), &err);
    config.blocking = 0;
    check_nccl(&nccl, nccl.GetVersion(&version), "its version");
    check_nccl(&nccl, nccl.GetUniqueId(&id), "an id");
    check_nccl(&nccl, nccl.CommInitRankConfig(&comm, 1, id, 0, &config), "a communicator");
    settle(&nccl, comm);
    for (int i = 0; i < 64; i++)
        sent[i] = (uint8_t)(i * 7 + 1);
    check_cuda(cudaMemcpy(from, sent, 64, cudaMemcpyHostToDevice), "copying");
    one_group(&nccl, comm, t, to, from);
    check_cuda(cudaStreamSynchronize(t->stream), "a group");
    check_cuda(cudaMemcpy(got, to, 64, cudaMemcpyDeviceToHost), "copying");
    if (memcmp(sent, got, 64) != 0) {
        fprintf(stderr, "bench_gpu: NCCL brought other bytes than it was given\n");
        exit(5);
    }
    check_cuda(cudaStreamBeginCapture(t->stream, cudaStreamCaptureModeThreadLocal), "capturing");
    for (int i = 0; i < GROUPS; i++)
        one_group(&nccl, comm, t, to, from);
    check_cuda(cudaStreamEndCapture(t->stream, &graph), "capturing");
    check_cuda(cudaGraphInstantiate(&exec, graph, 0), "a graph");
    for (int i = -3; i < ROUNDS; i++)
        for (int which = 0; which < 2; which++) {
            begin(t);
            for (int k = 0; k < GROUPS && which == 0; k++)
                one_group(&nccl, comm, t, to, from);
            if (which == 1)
                check_cuda(cudaGraphLaunch(exec, t->stream), "a graph");
            const double one = end_s(t);
            if (i >= 0)
                s[which][i] = one;
        }
    printf(",\n \"nccl\": {\"version\": %d, \"ranks\": 1, \"group_us\": {\"eager\": %.3f, \"captured\": %.3f}}",
           version, median(s[0], ROUNDS) / GROUPS * 1e6, median(s[1], ROUNDS) / GROUPS * 1e6);
    check_cuda(cudaGraphExecDestroy(exec), "a graph");
    check_cuda(cudaGraphDestroy(graph), "a graph");
    (void)nccl.CommFinalize(comm);
    settle(&nccl, comm);
    (void)nccl.CommDestroy(comm);
}
#endif

static double gemm_s(struct gpu_gemm *g, const struct timing *t, uint32_t n_experts, const uint32_t *n_rows, uint32_t n,
                     uint32_t k, const uint8_t *in, const uint8_t *weights, uint8_t *out) {
    struct mp_error err = {0};
    double s[ROUNDS];
    for (int i = -3; i < ROUNDS; i++) {
        begin(t);
        check(gpu_gemm_run(g, n_experts, n_rows, n, k, in, weights, out, t->stream, &err), &err);
        const double one = end_s(t);
        if (i >= 0)
            s[i] = one;
    }
    return median(s, ROUNDS);
}

/* Roofline: the faster of the two ceilings that were measured here, a large product and a copy, binds. Zeros run faster
 * than numbers, so the operands are random. */
static void gemms(const struct timing *t, uint8_t *a, uint8_t *b, uint8_t *c, uint64_t room, double ceiling) {
    enum { N = 2048, K = 7168, BIG = 8192, EXPERTS = 8 };
    static const uint32_t loads[] = {8, 64, 256, 1024, 4096};
    const uint32_t big[] = {BIG};
    struct gpu_gemm *g;
    struct mp_error err = {0};
    if (room < 2ull * EXPERTS * 4096 * K || room < 2ull * BIG * BIG)
        return;
    check(gpu_gemm_open(&g, &err), &err);
    const double peak = 2.0 * BIG * BIG * BIG / gemm_s(g, t, 1, big, BIG, BIG, a, b, c);
    printf(",\n \"gemm\": {\"peak_tflop_per_s\": %.1f, \"experts\": %d, \"n\": %d, \"k\": %d, \"loads\": [",
           peak / 1e12, EXPERTS, N, K);
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        uint32_t n_rows[EXPERTS];
        for (int e = 0; e < EXPERTS; e++)
            n_rows[e] = loads[i];
        const double s = gemm_s(g, t, EXPERTS, n_rows, N, K, a, b, c), m = (double)EXPERTS * loads[i],
                     flops = 2.0 * m * N * K, bytes = 2.0 * (m * K + m * N + (double)EXPERTS * N * K),
                     by_flops = flops / peak, by_bytes = bytes / ceiling,
                     roof = by_flops > by_bytes ? by_flops : by_bytes;
        printf("%s\n  {\"rows_per_expert\": %u, \"us\": %.2f, \"tflop_per_s\": %.1f, \"roofline_us\": %.2f, "
               "\"of_roofline\": %.3f}",
               i > 0 ? "," : "", loads[i], s * 1e6, flops / s / 1e12, roof * 1e6, roof / s);
    }
    printf("]}");
    gpu_gemm_close(g);
}

int main(void) {
    const uint64_t n = 1ull << 30;
    struct mp_error err = {0};
    struct cudaDeviceProp device;
    struct timing t;
    uint8_t *memory[3];
    int n_devices, driver = 0;
    check(gpu_count(&n_devices, "cuda", &err), &err);
    check_cuda(cudaSetDevice(0), "taking a GPU");
    check_cuda(cudaGetDeviceProperties(&device, 0), "asking a GPU");
    check_cuda(cudaDriverGetVersion(&driver), "asking the driver");
    check_cuda(cudaStreamCreateWithFlags(&t.stream, cudaStreamNonBlocking), "a stream");
    check_cuda(cudaEventCreate(&t.from), "an event");
    check_cuda(cudaEventCreate(&t.to), "an event");
    uint64_t *noise = malloc(1u << 20);
    struct mp_rng rng = mp_rng_seed(1);
    if (noise == NULL)
        return 4;
    for (size_t i = 0; i < (1u << 20) / 8; i++) /* bfloat16 of both signs between 0.5 and 2 */
        noise[i] = (mp_rng_next(&rng) & 0x80FF80FF80FF80FFu) | 0x3F003F003F003F00u;
    for (int i = 0; i < 3; i++) {
        check_cuda(cudaMalloc((void **)&memory[i], n), "memory");
        for (uint64_t at = 0; at < n; at += 1u << 20)
            check_cuda(cudaMemcpy(memory[i] + at, noise, 1u << 20, cudaMemcpyHostToDevice), "copying");
    }
    const double ceiling = copy_ceiling(&t, memory[0], memory[1], n);
    printf("{\"device\": \"%s\", \"compute_capability\": \"%d.%d\", \"devices\": %d, \"driver\": %d,\n "
           "\"copy_ceiling_gb_per_s\": %.1f",
           device.name, device.major, device.minor, n_devices, driver, ceiling / 1e9);
    rows(&t, memory[0], n, ceiling);
    launches(&t, memory[0], memory[1]);
    gemms(&t, memory[1], memory[2], memory[0], n, ceiling);
#if BENCH_HAS_NCCL
    groups(&t, memory[0], memory[1]);
#endif
    printf("}\n");
    for (int i = 0; i < 3; i++)
        check_cuda(cudaFree(memory[i]), "memory");
    free(noise);
    return 0;
}
