/* Rows of little-endian whole numbers, as recorders write them, into a trace of counts. Private to src/trace. */
#ifndef RECORDING_ROWS_H
#define RECORDING_ROWS_H

#include <moeplan/trace.h>
#include <string.h>

/* Number i of `item` (4 or 8) bytes each, at any alignment. */
static inline int64_t number_at(const uint8_t *bytes, uint32_t item, uint64_t i) {
    int32_t small;
    int64_t large;
    if (item == 4) {
        memcpy(&small, bytes + i * 4, 4);
        return small;
    }
    memcpy(&large, bytes + i * 8, 8);
    return large;
}
static inline bool all_zero(const uint8_t *p, size_t n) {
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Makes room for this many iterations at once; right after mp_trace_builder_new. A wish: what does not fit is found out
 * when it is used. */
enum mp_status trace_builder_reserve(struct mp_trace_builder *b, uint64_t n_iterations,
                                     struct mp_error *err) MP_MUST_CHECK;
/* How many rows will come, so that chunks are made as large as they get. A hint. */
void trace_builder_expect(struct mp_trace_builder *b, uint64_t n_rows);
/* Appends a token to the current request whose lists are filled in later, in any order: list of `layer` of `row` is
 * top_k ids of trace_id_bytes(). Pointers hold until the next row. The lists are checked when the build is finished. */
enum mp_status trace_builder_blank_row(struct mp_trace_builder *b, struct mp_error *err) MP_MUST_CHECK;
uint8_t *trace_builder_list(const struct mp_trace_builder *b, uint32_t layer, uint64_t row);
/* Adds n counts to a layer of the current iteration (not split by rank): count i to expert logical[i], or to expert i
 * when logical is NULL. MP_EINPUT without a message when count *bad is negative or past MP_MAX_TOKENS; the builder's
 * errors with theirs. */
enum mp_status trace_builder_add(struct mp_trace_builder *b, uint32_t layer, const uint8_t *bytes, uint32_t item,
                                 uint32_t n, const uint16_t *logical, uint64_t *bad,
                                 struct mp_error *err) MP_MUST_CHECK;
/* MP_EINPUT: this number, at this byte of the file, is not a count. */
enum mp_status recording_bad_count(const struct mp_in *in, uint64_t at, int64_t value, struct mp_error *err);

#endif
