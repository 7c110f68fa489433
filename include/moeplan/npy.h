/* The header of a NumPy .npy array (format versions 1 to 3). */
#ifndef MOEPLAN_NPY_H
#define MOEPLAN_NPY_H

#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <stdbool.h>

MP_API_BEGIN

enum { MP_NPY_MAX_DIMS = 8, MP_NPY_PREFIX = 12 };
struct mp_npy_header {
    uint32_t item_bytes; /* 1, 2, 4 or 8 */
    bool is_signed;      /* of integers */
    bool is_float, is_fortran;
    uint32_t n_dims;
    uint64_t shape[MP_NPY_MAX_DIMS];
    uint64_t data_bytes; /* product of the shape times item_bytes */
};
#define MP_NPY_MAGIC "\x93NUMPY"

/* How many bytes the header has, prefix included, from the array's first MP_NPY_PREFIX bytes. Positions in messages
 * start at `at`. */
enum mp_status mp_npy_header_bytes(const uint8_t *prefix, size_t n, const char *path, uint64_t at,
                                   const struct mp_limits *limits, uint64_t *bytes, struct mp_error *err) MP_MUST_CHECK;
/* Reads the whole header (n bytes as mp_npy_header_bytes said). Integers in C order, little-endian, are accepted;
 * is_matrix: floating-point numbers of 4 and 8 bytes and Fortran order too. */
enum mp_status mp_npy_header_parse(struct mp_npy_header *out, const uint8_t *header, size_t n, bool is_matrix,
                                   const char *path, uint64_t at, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
