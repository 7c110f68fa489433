/* The table of matrix formats, and reading whichever it is. */
#include "matrix_registry.h"
#include <moeplan/base.h>
#include <moeplan/matrix.h>
#include <stdio.h>
#include <string.h>

#define DECLARE(name) extern const struct mp_matrix_format mp_matrix_format_##name;
#define ENTRY(name) &mp_matrix_format_##name,
MP_REGISTRY(DECLARE)
static const struct mp_matrix_format *const formats[] = {MP_REGISTRY(ENTRY)};
enum { N_FORMATS = sizeof formats / sizeof *formats };

const struct mp_matrix_format *mp_matrix_format_at(uint32_t i) { return i < N_FORMATS ? formats[i] : NULL; }

const struct mp_matrix_format *mp_matrix_format_find(const char *name) {
    for (uint32_t i = 0; name != NULL && i < N_FORMATS; i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

void mp_matrix_free(struct mp_matrix *m) {
    if (m == NULL)
        return;
    mp_free(m->cells);
    mp_free(m);
}

static const char *names(char *buf, size_t size) {
    size_t used = 0;
    buf[0] = '\0';
    for (uint32_t i = 0; i < N_FORMATS && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%s", i > 0 ? ", " : "", formats[i]->name);
    return buf;
}

/* to may be m->cells. */
static bool times(const struct mp_matrix *m, uint64_t token_bytes, uint64_t *to) {
    uint64_t total = 0;
    for (size_t k = 0; k < (size_t)m->n * m->n; k++)
        if (mp_mul_overflow(m->cells[k], token_bytes, &to[k]) || mp_add_overflow(total, to[k], &total) ||
            total > MP_MAX_MATRIX_BYTES)
            return false;
    return true;
}

bool mp_matrix_bytes(const struct mp_matrix *m, uint64_t token_bytes, uint64_t *bytes) {
    if (!times(m, token_bytes > 0 ? token_bytes : 1, bytes))
        return false;
    for (size_t i = 0; i < m->n; i++)
        bytes[i * m->n + i] = 0;
    return true;
}

const struct mp_matrix_format *mp_matrix_detect(const struct mp_in *in) {
    const struct mp_matrix_format *f = NULL;
    int best = 0;
    for (uint32_t i = 0; i < N_FORMATS; i++) {
        int sure = formats[i]->probe(in);
        f = sure > best ? formats[i] : f;
        best = sure > best ? sure : best;
    }
    return f;
}

enum mp_status mp_matrix_parse(struct mp_matrix **out, const struct mp_in *in, const char *format, uint64_t token_bytes,
                               const struct mp_limits *limits, struct mp_error *err) {
    const struct mp_matrix_format *f = mp_matrix_format_find(format);
    char all[128];
    *out = NULL;
    if (format != NULL && f == NULL)
        return mp_fail(err, MP_EUSAGE, "\"%s\" is not a matrix format (use one of: %s)", format,
                       names(all, sizeof all));
    if (format == NULL)
        f = mp_matrix_detect(in);
    if (f == NULL && in->size == 0)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "is empty (write n rows of n numbers)");
    if (f == NULL)
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 1, "is not a matrix of a known format (the formats are %s)",
                          names(all, sizeof all));
    struct mp_matrix *m = mp_calloc(1, sizeof *m);
    if (m == NULL)
        return mp_nomem(err, in->path);
    enum mp_status status = MP_OK;
    m->format = f->name;
    MP_TRY(f->read(m, in, limits, err));
    mp_sha256_hex(in->data, in->size, m->sha256);
    if (m->n < 2)
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "has a single cell (give a matrix of at least 2 GPUs)");
    else if (token_bytes > 0 && !times(m, token_bytes, m->cells))
        status = mp_fail_at(err, MP_ELIMIT, in->path, 0, 0,
                            "the cells times %llu bytes a token add up to more than 2^53 bytes",
                            (unsigned long long)token_bytes);
out:
    if (status == MP_OK)
        *out = m;
    else
        mp_matrix_free(m);
    return status;
}

enum mp_status mp_matrix_load(struct mp_matrix **out, const char *path, const char *format, uint64_t token_bytes,
                              const struct mp_limits *limits, struct mp_error *err) {
    struct mp_in *in;
    *out = NULL;
    enum mp_status status = mp_in_open(&in, path, 0, err);
    if (status != MP_OK)
        return status;
    status = mp_matrix_parse(out, in, format, token_bytes, limits, err);
    mp_in_close(in);
    return status;
}
