/* A matrix as a NumPy array [n][n] of whole numbers: i1 .. u8, f4 or f8, in C or Fortran order. */
#include <moeplan/base.h>
#include <moeplan/matrix.h>
#include <moeplan/npy.h>
#include <string.h>

static int probe(const struct mp_in *in) { return in->size >= 6 && memcmp(in->data, MP_NPY_MAGIC, 6) == 0 ? 60 : 0; }

/* Why cell p is no amount, or NULL. */
static const char *cell(const struct mp_npy_header *h, const uint8_t *p, uint64_t *out) {
    uint64_t v = 0;
    memcpy(&v, p, h->item_bytes);
    if (h->is_float) {
        double real;
        float narrow;
        memcpy(&narrow, p, sizeof narrow);
        real = narrow;
        if (h->item_bytes == 8)
            memcpy(&real, p, sizeof real);
        if (!(real >= 0 && real <= (double)MP_MAX_MATRIX_BYTES))
            return real < 0 ? "is negative" : real > 0 ? "is more than 2^53" : "is no number";
        v = (uint64_t)real;
        if ((double)v != real)
            return "is not whole";
    } else if (h->is_signed && v >> (8 * h->item_bytes - 1) != 0)
        return "is negative";
    *out = v;
    return v > MP_MAX_MATRIX_BYTES ? "is more than 2^53" : NULL;
}

static enum mp_status read(struct mp_matrix *m, const struct mp_in *in, const struct mp_limits *limits,
                           struct mp_error *err) {
    struct mp_npy_header h;
    uint64_t header, total = 0;
    enum mp_status status = mp_npy_header_bytes(in->data, in->size, in->path, 0, limits, &header, err);
    if (status != MP_OK)
        return status;
    if (header > in->size)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, in->size + 1, "the array ends inside its header");
    status = mp_npy_header_parse(&h, in->data, header, true, in->path, 0, err);
    if (status != MP_OK)
        return status;
    if (h.n_dims != 2 || h.shape[0] != h.shape[1])
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                          "the array has %u dimensions%s (save a matrix [n][n], row = sender)", h.n_dims,
                          h.n_dims == 2 ? " and is not square" : "");
    if (h.shape[0] > MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, 1, "the array is for %llu GPUs, more than %u",
                          (unsigned long long)h.shape[0], MP_MAX_GPUS);
    if (h.data_bytes != in->size - header)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, header + 1, "%llu bytes follow the header, its shape needs %llu",
                          (unsigned long long)(in->size - header), (unsigned long long)h.data_bytes);
    const size_t n = h.shape[0];
    m->n = (uint32_t)n;
    m->cells = mp_calloc(n * n, sizeof *m->cells);
    if (m->cells == NULL)
        return mp_nomem(err, in->path);
    for (size_t k = 0; k < n * n; k++) {
        size_t i = h.is_fortran ? k % n : k / n, j = h.is_fortran ? k / n : k % n, at = header + k * h.item_bytes;
        const char *wrong = cell(&h, in->data + at, &m->cells[i * n + j]);
        if (wrong != NULL)
            return mp_fail_at(err, MP_EINPUT, in->path, 0, at + 1, "cell [%zu][%zu] %s (write whole numbers from 0 on)",
                              i, j, wrong);
        total += m->cells[i * n + j];
        if (total > MP_MAX_MATRIX_BYTES)
            return mp_fail_at(err, MP_ELIMIT, in->path, 0, at + 1, "the cells up to here add up to more than 2^53");
    }
    return MP_OK;
}

const struct mp_matrix_format mp_matrix_format_npy = {
    .name = "npy",
    .summary = "NumPy array [n][n] of whole numbers, integer or floating-point, C or Fortran order",
    .reference = "NumPy NEP 1",
    .probe = probe,
    .read = read,
};
