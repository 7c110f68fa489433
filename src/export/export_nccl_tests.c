/* Traffic matrices for nccl-tests' alltoallv_perf: one file per layer and direction, and one more for each where the
 * dispatcher sends per node and then inside nodes. Bytes of one step, or their mean over all steps, rounded half up.
 *
 * There is no file per stage: alltoallv_perf runs a matrix all at once, so that its time is to be held against the
 * single shot. A plan's order is timed by the executor, or by `moeplan order` on such a file. */
#include "mean_traffic.h"
#include <moeplan/matrix.h>
#include <stdio.h>
#include <string.h>

static uint32_t n_files(const struct mp_export *in) { return in->plan->n_layers * export_traffic_parts(in); }

static void file_name(const struct mp_export *in, uint32_t i, char *buf, size_t size) {
    const uint32_t k = export_traffic_parts(in);
    snprintf(buf, size, "layer-%u-%s.txt", in->plan->layers[i / k].layer_id, export_traffic_names[i % k]);
}

/* What -b and -e must be: the most that a rank sends or receives, each cell rounded down to 16 bytes as the test does.
 */
static uint64_t largest_rank(const uint64_t *cells, size_t n) {
    uint64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t out = 0, in = 0;
        for (size_t j = 0; j < n; j++) {
            out += cells[i * n + j] / 16 * 16;
            in += cells[j * n + i] / 16 * 16;
        }
        most = out > most ? out : most;
        most = in > most ? in : most;
    }
    return most;
}

/* A word of a shell command. */
static void put_word(struct mp_out *o, const char *s) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
    if (s[strspn(s, plain)] == '\0') {
        mp_out_puts(o, s);
        return;
    }
    mp_out_puts(o, "'");
    for (; *s != '\0'; s++) {
        if (*s == '\'')
            mp_out_puts(o, "'\\''");
        else
            mp_out_write(o, s, 1);
    }
    mp_out_puts(o, "'");
}

static enum mp_status write(const struct mp_export *in, uint32_t i, const char *path, struct mp_out *out,
                            struct mp_out *usage, struct mp_error *err) {
    const size_t n = in->plan->n_gpus;
    const uint32_t k = export_traffic_parts(in);
    enum mp_status status = MP_OK;
    struct mp_net *net = NULL;
    uint64_t ns = 0, *cells = mp_calloc(n * n, sizeof *cells);
    if (cells == NULL) {
        status = mp_nomem(err, "a matrix");
        goto out;
    }
    uint64_t *parts[TRAFFIC_PARTS] = {NULL};
    parts[i % k] = cells;
    MP_TRY(export_mean_traffic(parts, in, i / k, err));
    mp_matrix_format_find("nccl-tests")->write((uint32_t)n, cells, out);
    MP_TRY(mp_net_new(&net, in->topology, err));
    MP_TRY(mp_net_concurrent(net, cells, &ns, NULL, err));
    unsigned long long size = largest_rank(cells, n);
    if (i == 0)
        mp_out_printf(usage,
                      "# %zu ranks each, all transfers at once; the times are what moeplan predicts for that, with one "
                      "launch\n",
                      n);
    mp_out_puts(usage, "NCCL_TESTS_ALLTOALLV_MATRIX_FILE=");
    put_word(usage, path);
    mp_out_printf(usage, " alltoallv_perf -b %llu -e %llu -a 3  # %.1f us\n", size, size,
                  ns > 0 ? (double)(ns + in->topology->launch_ns) / 1e3 : 0.0);
out:
    mp_net_free(net);
    mp_free(cells);
    return status;
}

const struct mp_exporter mp_exporter_nccl_tests = {
    .name = "nccl-tests",
    .summary =
        "matrices for alltoallv_perf, one per layer and direction: bytes of --step N, else the mean over the steps",
    .reference = "NVIDIA nccl-tests src/alltoallv.cu, NCCL_TESTS_ALLTOALLV_MATRIX_FILE",
    .n_files = n_files,
    .file_name = file_name,
    .write = write,
};
