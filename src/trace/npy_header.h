/* The header of a NumPy .npy array (format versions 1 to 3). Private to src/trace. */
#ifndef NPY_HEADER_H
#define NPY_HEADER_H

#include <moeplan/io.h>
#include <moeplan/limits.h>

enum { NPY_MAX_DIMS = 8, NPY_PREFIX = 12 };
struct npy_header {
    uint32_t item_bytes; /* 1, 2, 4 or 8 */
    bool is_signed;
    uint32_t n_dims;
    uint64_t shape[NPY_MAX_DIMS];
    uint64_t data_bytes; /* product of the shape times item_bytes */
};
#define NPY_MAGIC "\x93NUMPY"

/* How many bytes the header has, prefix included, from the array's first NPY_PREFIX bytes. Positions in messages start
 * at `at`. */
enum mp_status npy_header_bytes(const uint8_t *prefix, size_t n, const char *path, uint64_t at,
                                const struct mp_limits *limits, uint64_t *bytes, struct mp_error *err) MP_MUST_CHECK;
/* Reads the whole header (n bytes as npy_header_bytes said). Only integers in C order, little-endian, are accepted. */
enum mp_status npy_header_parse(struct npy_header *out, const uint8_t *header, size_t n, const char *path, uint64_t at,
                                struct mp_error *err) MP_MUST_CHECK;

#endif
