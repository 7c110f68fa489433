/* How fast recorded ids are read on one core: the native format (mapped, every checksum and every id checked), and the
 * same ids as a .npy array (copied into a trace). Files of 464 bytes a token, as DeepSeek-V3 gives (58 layers, 256
 * experts, top-8), in a temporary folder. usage: bench_trace_native [TOKENS [FILE.npz ...]]   (further arrays need 4 or
 * 6 experts a token and a requests table) */
#include <moeplan/base.h>
#include <moeplan/trace.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LAYERS = 58, EXPERTS = 256, TOP_K = 8, BLOCK = 4096, ROUNDS = 5 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* one thread: what the core spent, whoever else runs */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void stop_on(enum mp_status status, const struct mp_error *err) {
    char text[2048];
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_trace_native: %s\n", mp_error_text(err, text, sizeof text));
    exit(mp_exit_code(status));
}

/* Tokens [0, BLOCK) of token-major ids: eight distinct experts each. */
static void fill(uint8_t *ids, uint64_t seed) {
    for (size_t i = 0; i < (size_t)BLOCK * LAYERS; i++) {
        uint64_t h = mp_mix64(seed + i);
        for (uint32_t j = 0; j < TOP_K; j++)
            ids[i * TOP_K + j] = (uint8_t)(j * 32 + (h >> (8 * j) & 31));
    }
}

static void write_files(const char *native, const char *npy, const char *requests, uint64_t n_tokens) {
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_out *o, *array;
    struct mp_error err = {0};
    uint8_t *ids = mp_calloc((size_t)BLOCK * LAYERS * TOP_K, 1);
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .is_synthetic = true,
                                 .n_layers = LAYERS,
                                 .n_experts = EXPERTS,
                                 .top_k = TOP_K};
    stop_on(ids != NULL ? MP_OK : mp_nomem(&err, "ids"), &err);
    stop_on(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), &err);
    stop_on(mp_out_open(&array, npy, &err), &err);
    char header[256];
    int n = snprintf(header, sizeof header, "{'descr': '|u1', 'fortran_order': False, 'shape': (%llu, %d, %d), }",
                     (unsigned long long)n_tokens, LAYERS, TOP_K);
    mp_out_write(array, "\x93NUMPY\x01\x00", 8);
    mp_out_write(array, (uint8_t[]){(uint8_t)n, (uint8_t)(n >> 8)}, 2);
    mp_out_write(array, header, (size_t)n);
    for (uint64_t done = 0; done < n_tokens; done += BLOCK) {
        uint64_t part = n_tokens - done < BLOCK ? n_tokens - done : BLOCK;
        struct mp_request r = {.id = done / BLOCK, .source = MP_NONE, .category = MP_NONE};
        fill(ids, done);
        stop_on(mp_trace_builder_request(b, &r, &err), &err);
        stop_on(mp_trace_builder_rows(b, ids, 1, part, &err), &err);
        mp_out_write(array, ids, part * LAYERS * TOP_K);
    }
    stop_on(mp_out_commit(array, &err), &err);
    stop_on(mp_trace_builder_finish(b, NULL, &t, &err), &err);
    stop_on(mp_out_open(&o, native, &err), &err);
    mp_trace_write(t, o);
    stop_on(mp_out_commit(o, &err), &err);
    stop_on(mp_out_open(&o, requests, &err), &err);
    mp_out_printf(o, "request,first_row,tokens\n0,0,%llu\n", (unsigned long long)n_tokens);
    stop_on(mp_out_commit(o, &err), &err);
    mp_trace_free(t);
    mp_free(ids);
}

static double best_load(const char *path, const struct mp_trace_hints *h, int rounds, uint64_t *id_bytes) {
    double best = 1e9;
    for (int i = 0; i < rounds; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        double start = seconds();
        stop_on(mp_trace_load(&t, path, h, &mp_limits_default, &err), &err);
        double took = seconds() - start;
        *id_bytes = t->n_rows * t->n_layers * t->top_k * t->id_bytes;
        mp_trace_free(t);
        best = took < best ? took : best;
    }
    return best;
}

int main(int argc, char **argv) {
    uint64_t n_tokens = argc > 1 ? strtoull(argv[1], NULL, 10) : 600000, id_bytes = 0;
    char folder[] = "/tmp/moeplan-bench-XXXXXX", native[64], npy[64], requests[64];
    if (n_tokens == 0 || mkdtemp(folder) == NULL)
        return 2;
    snprintf(native, sizeof native, "%s/t.mpt", folder);
    snprintf(npy, sizeof npy, "%s/t.npy", folder);
    snprintf(requests, sizeof requests, "%s/t.requests.csv", folder);
    write_files(native, npy, requests, n_tokens);
    double took = best_load(native, NULL, ROUNDS, &id_bytes);
    printf("native  %7.1f MB of ids read and checked in %6.1f ms on one core: %5.2f GB/s   (reference: >= 1 GB/s)\n",
           (double)id_bytes / 1e6, took * 1e3, (double)id_bytes / took / 1e9);
    uint64_t peak = mp_alloc_peak();
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_DECODE;
    h.layer_base = 0;
    h.ids_are_physical = 0;
    h.n_experts = EXPERTS;
    h.axes = "tokens,layers,k";
    took = best_load(npy, &h, 2, &id_bytes);
    printf("npy     %7.1f MB of ids read and checked in %6.1f ms on one core: %5.2f GB/s\n", (double)id_bytes / 1e6,
           took * 1e3, (double)id_bytes / took / 1e9);
    printf("peak of allocations: %.1f MB\n", (double)(mp_alloc_peak() > peak ? mp_alloc_peak() : peak) / 1e6);
    for (int i = 2; i < argc; i++) {
        h.axes = NULL;
        took = best_load(argv[i], &h, 3, &id_bytes);
        printf("npz     %7.1f MB of ids inflated and checked in %6.1f ms on one core: %5.2f GB/s   %s\n",
               (double)id_bytes / 1e6, took * 1e3, (double)id_bytes / took / 1e9, argv[i]);
    }
    (void)unlink(native);
    (void)unlink(npy);
    (void)unlink(requests);
    (void)rmdir(folder);
    return 0;
}
