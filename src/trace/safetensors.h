/* A .safetensors file of whole numbers: 8 bytes of header length, a JSON header, raw data. The header is read by a
 * scanner of our own, because a recording has up to 10^5 tensors and each costs a JSON tree ten times its text. Private
 * to src/trace. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>
#include <stdbool.h>

/* A tensor "<iter>_<layer>" of int32 or int64 in one or two dimensions. */
struct safetensor {
    uint64_t iter, size[2]; /* size[1] is 1 for one dimension */
    uint32_t layer, item, n_dims;
    uint64_t offset; /* of its first byte in the file */
};
struct safetensors {
    uint32_t n;
    struct safetensor
        *at; /* [n] by ascending (iter, layer), each once; their bytes lie in the file and do not overlap */
};
/* MP_EINPUT with the byte: anything malformed, other dtypes, names that are not <iter>_<layer>. */
enum mp_status safetensors_read(struct safetensors *out, const struct mp_in *in, const struct mp_limits *limits,
                                struct mp_error *err) MP_MUST_CHECK;
void safetensors_clear(struct safetensors *s);

#endif
