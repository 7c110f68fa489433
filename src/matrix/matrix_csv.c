/* A matrix as comma-separated text: n lines of n numbers, lines of comments (#) and one header line where they are. */
#include "matrix_text.h"
#include <string.h>

static int probe(const struct mp_in *in) {
    const char *line;
    size_t n;
    return matrix_text_head(in, &line, &n) && memchr(line, ',', n) != NULL && *line != '{' && *line != '[' ? 30 : 0;
}

static enum mp_status read(struct mp_matrix *m, const struct mp_in *in, const struct mp_limits *limits,
                           struct mp_error *err) {
    static const struct matrix_text form = {.separator = ',', .has_comments = true, .may_have_header = true};
    return matrix_text_read(m, &form, in, limits, err);
}

static void write(uint32_t n, const uint64_t *cells, struct mp_out *out) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            mp_out_printf(out, "%llu%c", (unsigned long long)cells[(size_t)i * n + j], j + 1 < n ? ',' : '\n');
}

const struct mp_matrix_format mp_matrix_format_csv = {
    .name = "csv",
    .summary = "n lines of n whole numbers between commas; # comments and one header line are skipped",
    .reference = "none",
    .probe = probe,
    .read = read,
    .write = write,
};
