/* A .pt file: the pickle inside, and the numbers of its tensors. Private to src/trace. */
#ifndef TORCH_FILE_H
#define TORCH_FILE_H

#include "pickle.h"
#include "zip_container.h"

struct torch_file {
    const struct mp_in *in;
    struct zip_archive *zip;
    struct mp_pickle *pickle;
    const struct mp_pickle_value *root;
    uint8_t *pickle_bytes; /* when data.pkl was packed */
    uint32_t n_storages;
    uint32_t *member, *uses; /* [n_storages] of storage i: its member (MP_NONE = none), how many tensors asked for it */
    uint8_t *inflated;       /* the last packed storage that was asked for */
    uint32_t inflated_storage;
};
/* Does it look like one? By its first bytes and the directory at its end. */
bool torch_file_is(const struct mp_in *in);
/* Opens the archive and reads the pickle. `in` is borrowed. */
enum mp_status torch_file_open(struct torch_file **out, const struct mp_in *in, const struct mp_limits *limits,
                               struct mp_error *err) MP_MUST_CHECK;
void torch_file_close(struct torch_file *f); /* NULL is fine */
/* The numbers of a tensor that must be int32 or int64 (`what` names it in messages) with n_dims dimensions: *bytes
 * points at t->n numbers of *item bytes, valid until the next call for this file when the member is packed. *position
 * is the byte offset of the first one in the file. */
enum mp_status torch_file_numbers(struct torch_file *f, const struct mp_pickle_value *v, const char *what,
                                  uint32_t n_dims, const struct mp_pickle_tensor **t, const uint8_t **bytes,
                                  uint32_t *item, uint64_t *position, struct mp_error *err) MP_MUST_CHECK;

#endif
