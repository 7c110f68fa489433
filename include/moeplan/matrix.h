/* Traffic matrices: whole numbers from every GPU to every other, in the files that others write. One file
 * src/matrix/matrix_<name>.c per format. */
#ifndef MOEPLAN_MATRIX_H
#define MOEPLAN_MATRIX_H

#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <stdbool.h>

MP_API_BEGIN

#define MP_MAX_MATRIX_BYTES (UINT64_C(1) << 53) /* of all cells together: sums are exact everywhere */

struct mp_matrix {
    uint32_t n;         /* senders and receivers, 2 .. MP_MAX_GPUS */
    uint64_t *cells;    /* [n][n] bytes, row = sender; the diagonal as the file has it */
    const char *format; /* name of the format it was read from */
    char sha256[65];    /* of the file's bytes */
};
void mp_matrix_free(struct mp_matrix *m);

struct mp_matrix_format {
    const char *name, *summary, *reference;
    int (*probe)(const struct mp_in *in); /* 0 = no, larger = surer */
    enum mp_status (*read)(struct mp_matrix *m, const struct mp_in *in, const struct mp_limits *limits,
                           struct mp_error *err);
    void (*write)(uint32_t n, const uint64_t *cells, struct mp_out *out); /* NULL = is only read */
};
const struct mp_matrix_format *mp_matrix_format_at(uint32_t i); /* NULL past the last */
const struct mp_matrix_format *mp_matrix_format_find(const char *name);

/* The format that this content is of; NULL = none. */
const struct mp_matrix_format *mp_matrix_detect(const struct mp_in *in);
/* bytes[n][n] of a matrix read with token_bytes 0: the cells, times token_bytes when that is not 0; the diagonal 0.
 * Returns false when all cells of the file together are more than MP_MAX_MATRIX_BYTES. */
bool mp_matrix_bytes(const struct mp_matrix *m, uint64_t token_bytes, uint64_t *bytes);
/* Reads a matrix; format NULL = whichever its content is of. token_bytes > 0: the cells count tokens of this many bytes
 * each. The caller frees with mp_matrix_free. */
enum mp_status mp_matrix_load(struct mp_matrix **out, const char *path, const char *format, uint64_t token_bytes,
                              const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_matrix_parse(struct mp_matrix **out, const struct mp_in *in, const char *format, uint64_t token_bytes,
                               const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
