/* Any bytes as a matrix of every format: what is read is square and bounded, and comes back equal when written. */
#include <moeplan/matrix.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
    if (!holds)
        abort();
}

static void write_and_read_again(const struct mp_matrix_format *f, const struct mp_matrix *m) {
    struct mp_error err = {0};
    struct mp_out *out = NULL;
    struct mp_in *in = NULL;
    struct mp_matrix *again = NULL;
    size_t n;
    if (f->write == NULL || mp_out_open_memory(&out, &err) != MP_OK)
        return;
    f->write(m->n, m->cells, out);
    const uint8_t *bytes = mp_out_memory_bytes(out, &n);
    must(mp_in_from_memory(&in, "again", bytes, n, &err) == MP_OK);
    must(mp_matrix_parse(&again, in, NULL, 0, &mp_limits_default, &err) == MP_OK);
    must(again->n == m->n && memcmp(again->cells, m->cells, (size_t)m->n * m->n * sizeof *m->cells) == 0);
    mp_matrix_free(again);
    mp_in_close(in);
    mp_out_cancel(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t live = mp_alloc_live();
    for (uint32_t i = 0; i == 0 || mp_matrix_format_at(i - 1) != NULL; i++) {
        const char *format = i == 0 ? NULL : mp_matrix_format_at(i - 1)->name;
        struct mp_error err = {0};
        struct mp_matrix *m = NULL;
        struct mp_in *in = NULL;
        must(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
        enum mp_status status = mp_matrix_parse(&m, in, format, i % 2, &mp_limits_default, &err);
        must((status == MP_OK) == (m != NULL));
        if (m != NULL) {
            uint64_t total = 0;
            must(m->n >= 2 && m->n <= MP_MAX_GPUS);
            for (size_t k = 0; k < (size_t)m->n * m->n; k++)
                total += m->cells[k];
            must(total <= MP_MAX_MATRIX_BYTES);
            for (uint32_t k = 0; mp_matrix_format_at(k) != NULL; k++)
                write_and_read_again(mp_matrix_format_at(k), m);
        }
        mp_matrix_free(m);
        mp_in_close(in);
    }
    must(mp_alloc_live() == live);
    return 0;
}
