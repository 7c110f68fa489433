/* Lines of numbers, whatever stands between them. Private to src/matrix. */
#ifndef MATRIX_TEXT_H
#define MATRIX_TEXT_H

#include <moeplan/base.h>
#include <moeplan/matrix.h>

struct matrix_text {
    char separator;       /* between numbers; ' ' = any blanks */
    bool has_comments;    /* lines that start with # are skipped */
    bool may_have_header; /* a first line whose first field is no number is skipped */
};
enum mp_status matrix_text_read(struct mp_matrix *m, const struct matrix_text *form, const struct mp_in *in,
                                const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
/* The first line that is neither empty nor a comment; false when there is none. */
bool matrix_text_head(const struct mp_in *in, const char **line, size_t *n);
/* A number of bytes or tokens: whole, also as 1e6 or 64.0, at most MP_MAX_MATRIX_BYTES. */
bool matrix_number(const char *s, size_t n, uint64_t *out);

#endif
