/* The matrix file of NVIDIA nccl-tests' alltoallv_perf (NCCL_TESTS_ALLTOALLV_MATRIX_FILE): rows of numbers between
 * blanks, cell [i][j] = bytes from rank i to rank j. The program rounds each down to a multiple of 16; the file keeps
 * them. */
#include "matrix_text.h"
#include <string.h>

static int probe(const struct mp_in *in) {
    const char *line;
    size_t n;
    return matrix_text_head(in, &line, &n) && n > 0 && *line >= '0' && *line <= '9' && memchr(line, ',', n) == NULL ? 40
                                                                                                                    : 0;
}

static enum mp_status read(struct mp_matrix *m, const struct mp_in *in, const struct mp_limits *limits,
                           struct mp_error *err) {
    return matrix_text_read(m, &(struct matrix_text){.separator = ' '}, in, limits, err);
}

static void write(uint32_t n, const uint64_t *cells, struct mp_out *out) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            mp_out_printf(out, "%llu%c", (unsigned long long)cells[(size_t)i * n + j], j + 1 < n ? ' ' : '\n');
}

const struct mp_matrix_format mp_matrix_format_nccl_tests = {
    .name = "nccl-tests",
    .summary = "rows of bytes between blanks, the matrix file of alltoallv_perf",
    .reference = "NVIDIA nccl-tests src/alltoallv.cu, NCCL_TESTS_ALLTOALLV_MATRIX_FILE",
    .probe = probe,
    .read = read,
    .write = write,
};
