/* A reader for the pickles that torch.save writes, and for nothing else: data comes out, no code ever runs. Only the
 * opcodes and globals of the recorders' files are known; the first other one ends the reading, with its position.
 * Private to this folder. */
#ifndef MP_PICKLE_H
#define MP_PICKLE_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>
#include <stdbool.h>

enum mp_pickle_kind {
    MP_PICKLE_NONE,
    MP_PICKLE_BOOL,
    MP_PICKLE_INT,
    MP_PICKLE_FLOAT,
    MP_PICKLE_STRING,
    MP_PICKLE_TUPLE,
    MP_PICKLE_LIST,
    MP_PICKLE_DICT,
    MP_PICKLE_GLOBAL,
    MP_PICKLE_STORAGE,
    MP_PICKLE_TENSOR
};
#define MP_PICKLE_MAX_DIMS 8u

struct mp_pickle_items;
struct mp_pickle_value {
    uint8_t kind;   /* enum mp_pickle_kind */
    uint8_t global; /* GLOBAL: which */
    uint32_t n;     /* STRING: bytes */
    union {
        bool truth;
        int64_t number;
        double real;
        const char *text;              /* STRING: into the data, not terminated */
        struct mp_pickle_items *items; /* TUPLE, LIST, DICT (key, value, key, value, ...) */
        const struct mp_pickle_storage *storage;
        const struct mp_pickle_tensor *tensor;
    } as;
};
struct mp_pickle_items {
    struct mp_pickle_items *next; /* of all lists, for freeing */
    uint32_t n, room;             /* values */
    struct mp_pickle_value *at;
};
/* A block of numbers, kept beside the pickle under a name. */
struct mp_pickle_storage {
    const char *type; /* "IntStorage" */
    uint32_t item;    /* bytes of one number */
    char key[24];     /* member "<name>/data/<key>" */
    uint64_t n;       /* numbers */
};
/* A contiguous view of a storage; offset + the product of sizes is within it. */
struct mp_pickle_tensor {
    const struct mp_pickle_storage *storage;
    uint64_t offset, n; /* numbers */
    uint32_t n_dims;
    uint64_t size[MP_PICKLE_MAX_DIMS];
    uint64_t position; /* where in the file it was made, for messages */
};

struct mp_pickle;
/* Reads n bytes. `position` is where they stand in the file (added to positions in messages). The data is borrowed and
 * must outlive the pickle. MP_EINPUT: anything that is not such a pickle; MP_ELIMIT: past limits->pickle_*. */
enum mp_status mp_pickle_read(struct mp_pickle **out, const char *path, const uint8_t *data, size_t n,
                              uint64_t position, const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
const struct mp_pickle_value *mp_pickle_root(const struct mp_pickle *p);
void mp_pickle_free(struct mp_pickle *p); /* NULL is fine */
/* The value of a text key; NULL when there is none or v is not a dictionary. */
const struct mp_pickle_value *mp_pickle_get(const struct mp_pickle_value *v, const char *key);
/* "a list", "None", ... for messages. */
const char *mp_pickle_kind_name(const struct mp_pickle_value *v);

#endif
