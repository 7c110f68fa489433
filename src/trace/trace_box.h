/* Private to src/trace: who owns the memory of a trace, the checks that every way in shares, and the hints that readers
 * ask for. */
#ifndef TRACE_BOX_H
#define TRACE_BOX_H

#include <moeplan/base.h>
#include <moeplan/trace.h>

/* A trace with what it owns. Every struct mp_trace of this folder is the first member of one. */
struct trace_box {
    struct mp_trace t;
    uint8_t **ids, **weights; /* the tables of chunks; the chunks themselves only when owns_chunks */
    uint64_t n_chunks;
    bool owns_chunks;
    uint64_t **signatures; /* the table of them; the signatures themselves only when owns_signatures */
    bool owns_signatures;
    void *counts, *pairs, *requests, *iteration_category; /* NULL when they lie in the mapping */
};
struct trace_box *trace_box_new(void); /* with an empty arena; NULL when out of memory */

static inline uint64_t trace_n_chunks(uint64_t n_rows) { return mp_ceil_div(n_rows, MP_CHUNK_TOKENS); }
/* Rows of chunk c. */
static inline uint64_t trace_chunk_rows(uint64_t n_rows, uint64_t c) {
    uint64_t left = n_rows - c * MP_CHUNK_TOKENS;
    return left < MP_CHUNK_TOKENS ? left : MP_CHUNK_TOKENS;
}
/* Bytes of an id: one where that holds every expert, and "unused" where it is needed. */
static inline uint32_t trace_id_bytes(uint32_t n_experts, bool has_unused) {
    return n_experts <= 255 || (n_experts == 256 && !has_unused) ? 1 : 2;
}
/* Has the id type a value for "unused"? Not with 256 experts in one byte. */
static inline bool trace_has_unused(uint32_t n_experts, uint32_t id_bytes) {
    return !(id_bytes == 1 && n_experts == 256);
}

/* Looks for the first bad token among n lists of k ids of id_bytes each. False when all are good. `what` receives the
 * reason as text for a message. */
bool trace_find_bad_list(const uint8_t *ids, uint64_t n, uint32_t k, uint32_t id_bytes, uint32_t n_experts,
                         uint64_t *bad, char *what, size_t what_size);
/* The first request that breaks the promises of trace.h; false when none does. */
bool trace_find_bad_request(const struct mp_trace *t, uint64_t *bad, const char **what);

/* The recording's sha256: of the header that mp_trace_write writes. O(bytes). */
enum mp_status trace_identity(const struct mp_trace *t, char hex[65], struct mp_error *err) MP_MUST_CHECK;
uint32_t trace_crc32(uint32_t crc, const void *data, size_t n); /* zlib's CRC-32; start with 0 */

/* What a format cannot say and hints may: each reader names what it needs, all that is missing is asked for in one
 * message. */
struct trace_needs {
    bool layer_base, phase, ids, experts, top_k;
};
enum mp_status trace_ask(const char *path, const char *format, struct trace_needs needs,
                         const struct mp_trace_hints *hints, struct mp_error *err) MP_MUST_CHECK;
/* Absolute layers base, base + 1, ...: MP_EUSAGE when they would pass MP_MAX_LAYERS. */
enum mp_status trace_check_base(const char *path, int base, uint64_t n_layers, struct mp_error *err) MP_MUST_CHECK;
enum { TRACE_MAX_NAMES = 4096 };
/* Distinct names in order of first appearance, as readers meet categories before the builder exists. Zero-initialised =
 * empty. */
struct trace_names {
    struct mp_arena *arena;
    const char **names;
    uint32_t n, last;
};
/* Index of a name, added when new. MP_ELIMIT past 4,096 of them; the error has no position. */
enum mp_status trace_names_find(struct trace_names *l, const char *name, uint32_t *out,
                                struct mp_error *err) MP_MUST_CHECK;
enum mp_status trace_names_to_builder(const struct trace_names *l, struct mp_trace_builder *b,
                                      struct mp_error *err) MP_MUST_CHECK;
void trace_names_clear(struct trace_names *l);

/* Leaves out the layers of a new trace of tokens in which no token uses an expert: dense ones, where a format has a row
 * for every layer. Says so. MP_EINPUT when that is all of them. */
enum mp_status trace_drop_empty_layers(struct mp_trace *t, struct mp_error *err) MP_MUST_CHECK;

/* Says something about how a recording was read, behind what was said before. */
enum mp_status trace_note(struct mp_trace *t, struct mp_error *err, const char *fmt, ...) MP_PRINTF(3, 4) MP_MUST_CHECK;

/* Passes on an error that has no position (the builder's) with one. */
enum mp_status trace_fail_at(struct mp_error *err, const struct mp_error *inner, const char *path, uint64_t line,
                             uint64_t column);

/* A physical-to-logical map: JSON {"physical_to_logical_map": [[..]]}, or the bare list of lists. */
struct trace_map {
    uint32_t n_layers, n_physical, n_logical;
    uint32_t *logical; /* [n_layers][n_physical] */
};
enum mp_status trace_map_load(struct trace_map *out, const char *path, const struct mp_limits *limits,
                              struct mp_error *err) MP_MUST_CHECK;
void trace_map_clear(struct trace_map *m);

#endif
