/* The three kinds of SGLang recordings, one file each. Private to src/trace. */
#ifndef SGLANG_PARTS_H
#define SGLANG_PARTS_H

#include "torch_file.h"
#include "trace_box.h"

/* One record of a per_pass or per_token file. */
struct sglang_record {
    struct torch_file *file;
    const struct mp_pickle_value *dict;
    int64_t pass;
    uint32_t rank;
};
/* All records of all files, by ascending (pass, rank), each pair once; and the map from slots to experts, the same in
 * all files. */
struct sglang_recording {
    const char *path;
    uint32_t n_files;
    struct mp_in **ins; /* NULL where borrowed */
    struct torch_file **files;
    uint64_t n_records;
    struct sglang_record *records;
    uint32_t n_ranks;                         /* distinct */
    uint32_t n_layers, n_physical, n_logical; /* hidden layers, dense ones included */
    uint16_t *logical;                        /* [n_layers][n_physical] */
};

enum mp_status sglang_read_stat(struct mp_trace **out, struct sglang_recording *r, const struct mp_trace_hints *hints,
                                const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
enum mp_status sglang_read_per_pass(struct mp_trace **out, struct sglang_recording *r,
                                    const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                    struct mp_error *err) MP_MUST_CHECK;
enum mp_status sglang_read_per_token(struct mp_trace **out, struct sglang_recording *r,
                                     const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                     struct mp_error *err) MP_MUST_CHECK;
/* A whole number of a record; false when the key is missing or holds something else. */
bool sglang_number(const struct mp_pickle_value *dict, const char *key, int64_t *out);
/* MP_EINPUT without a place in the file. */
enum mp_status sglang_bad(const struct mp_in *in, struct mp_error *err, const char *fmt, ...) MP_PRINTF(3, 4);

#endif
