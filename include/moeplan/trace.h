/* A recording of which experts a model used. Two kinds: TOKENS has the top-k of every token and layer, grouped by
 * request; COUNTS has only numbers per (iteration, source, layer, expert). Immutable after load; may be shared between
 * threads. */
#ifndef MOEPLAN_TRACE_H
#define MOEPLAN_TRACE_H

#include <moeplan/alloc.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/progress.h>
#include <moeplan/status.h>
#include <string.h>

MP_API_BEGIN

enum mp_trace_kind { MP_TRACE_TOKENS = 1, MP_TRACE_COUNTS = 2 };
enum mp_phase {
    MP_PHASE_UNKNOWN = 0,
    MP_PHASE_PREFILL = 1,
    MP_PHASE_DECODE = 2,
    MP_PHASE_TRAIN = 3,
    MP_PHASE_MIXED = 4
};
#define MP_NO_EXPERT UINT16_MAX /* an unused place of a top-k list */
#define MP_CHUNK_TOKENS 65536u  /* tokens of a chunk; all chunks but the last are full */

/* One request: consecutive rows of the trace, one row per token. */
struct mp_request {
    uint64_t id; /* from the recording, or its ordinal */
    uint64_t first_row, n_rows;
    uint64_t first_position; /* position of its first row in the sequence */
    uint32_t source;         /* rank it ran on, or MP_NONE */
    uint32_t category;       /* index into categories, or MP_NONE */
};

/* Co-activation of one pair in one layer, for count traces that record it. */
struct mp_pair {
    uint32_t layer, first, second; /* first < second */
    uint64_t count;
};

struct mp_trace {
    enum mp_trace_kind kind;
    enum mp_phase phase;
    const char *model; /* as recorded; "" = unknown */
    bool is_synthetic;
    bool is_ranked;                      /* the k ids stand by falling gate weight */
    bool is_time_ordered;                /* rows or iterations stand in time order (SGLang stat buffers do not) */
    uint32_t n_layers, n_experts, top_k; /* top_k 0 = unknown (counts) */
    const uint32_t *layer_ids;           /* [n_layers] absolute layer index, ascending */
    uint32_t n_categories;
    const char *const *categories; /* [n_categories] */

    /* TOKENS. Chunk c holds rows [c * MP_CHUNK_TOKENS, ...): ids[layer][row in chunk][k], id_bytes each, little-endian;
     * the stride is the rows of that chunk (fewer in the last). An unused place is 0xFF.. (all bits) and stands after
     * the used ones; with id_bytes 1 and 256 experts there is none, and 0xFF is expert 255. */
    uint64_t n_rows;
    uint32_t id_bytes;            /* 1 (up to 255 experts, or 256 when no place is unused) or 2 */
    const uint8_t *const *chunks; /* [ceil(n_rows / MP_CHUNK_TOKENS)] */
    const uint8_t *const
        *weight_chunks; /* NULL, or the gate weights in the same shape: uint16, weight * 65535 rounded */
    const uint64_t *const *signature_chunks; /* NULL, or [layer][row in chunk] the similarity signature of each token
                                              * in front of the layer's experts (traces/FORMAT.md) */
    uint64_t n_requests;
    const struct mp_request *requests; /* [n_requests], in row order, covering every row exactly once */

    /* COUNTS: counts[iteration][source][layer][expert]. n_sources 1 with source_known false: not split by rank. */
    uint32_t n_iterations, n_sources;
    bool source_known;
    const uint64_t *counts;
    const uint32_t *iteration_category; /* NULL, or [n_iterations] */
    uint64_t n_pairs;
    const struct mp_pair *pairs;

    /* Identity of the content, 64 hex digits: SHA-256 of the native header (traces/FORMAT.md), which holds the checksum
     * of every chunk, whatever format the recording was read from. The same recording read with the same hints, or
     * converted with them and read back, has the same. "" for traces that were built in memory. */
    char sha256[65];
    const char *format; /* name of the format it was read from */
    const char *note;   /* what its reader assumed or left out, for the user to know; NULL = nothing */
    struct mp_arena *arena;
    struct mp_in *mapped; /* kept open while chunks point into it, or NULL */
};

/* Facts that a recording does not say and no hint gave. */
struct mp_trace_missing {
    bool phase, layer_base, ids, experts, top_k, requests;
};
/* What cannot be detected and is asked for. Unset fields: -1, NULL, UNKNOWN. */
struct mp_trace_hints {
    int layer_base; /* absolute index of the recording's layer 0 */
    enum mp_phase phase;
    int ids_are_physical; /* 0, 1 or -1 */
    const char *map_path; /* physical-to-logical map when ids are physical and the recording has none */
    const char
        *requests_path; /* requests table of an .npy/.npz; NULL = "<stem>.requests.csv" beside it when it exists */
    const char *model_name;
    int is_ranked;             /* -1 = ask where the format cannot say */
    uint32_t n_experts, top_k; /* 0 = from the file */
    const char *format;        /* NULL = detect */
    const char *axes;          /* of a bare array: "tokens,layers,k", "layers,experts", "iterations,layers,experts" or
                                * "sources,layers,experts"; NULL = ask where the array's name does not say */
    int mtp_base;              /* Megatron: absolute layer of the first MTP layer; -1 = MTP layers are left out */
    uint32_t n_stages;         /* Megatron: pipeline stages; 0 = ask where it matters */
    bool overrides;            /* phase and layer_base replace what a native recording says, instead of being refused */
    struct mp_trace_missing *missing; /* NULL, or receives what MP_EUSAGE asks for; an array without a requests table is
                                       * then read as one request, which it says too */
    unsigned n_threads;               /* for checking chunks; 0 or 1 = the caller's thread */
    struct mp_progress *progress;     /* told how far reading is; NULL = nobody listens */
    struct mp_progress_part *part;    /* of mp_trace_load's own: bytes that a reader is done with */
};
extern const struct mp_trace_hints mp_trace_hints_none;

/* Reads a recording of any listed format (a file, or a folder for TensorRT-LLM). MP_EUSAGE when a hint is missing: the
 * message names the option to give. */
enum mp_status mp_trace_load(struct mp_trace **out, const char *path, const struct mp_trace_hints *hints,
                             const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
void mp_trace_free(struct mp_trace *t); /* NULL is fine */
/* Structural checker of everything promised above: sizes, order of layers, requests covering the rows, every id (range,
 * no expert twice in one top-k, unused places last), pairs. MP_EINPUT names the first violation. Loading has done this
 * already. O(bytes). */
enum mp_status mp_trace_check(const struct mp_trace *t, struct mp_error *err) MP_MUST_CHECK;
/* Do two traces hold the same recording? Everything but sha256 and format. */
bool mp_trace_equal(const struct mp_trace *a, const struct mp_trace *b);
/* Writes the native format (traces/FORMAT.md): the header first, which holds each chunk's checksum, then the chunks.
 * Errors are kept by the writer and reported by mp_out_commit. Same trace, same bytes. */
void mp_trace_write(const struct mp_trace *t, struct mp_out *o);

/* The forms that a recording can be written in, besides being native. Each of them is lossless: reading it gives a
 * recording with the same sha256, without any hint. False past the last. */
struct mp_trace_form {
    const char *name, *summary, *reference;
    bool is_text;   /* may be packed (mp_out_pack) */
    bool has_table; /* writes the requests to <stem>.requests.csv beside it */
};
bool mp_trace_writer(uint32_t i, struct mp_trace_form *out);
/* Writes it in a form; `table` is where the requests go, NULL unless has_table. MP_EINPUT: the form cannot carry it,
 * and the message says what. MP_EUSAGE: there is no such form. */
enum mp_status mp_trace_write_as(const struct mp_trace *t, const char *form, struct mp_out *o, struct mp_out *table,
                                 struct mp_error *err) MP_MUST_CHECK;

/* Pointer to the ids of rows [row, row + *n_rows) of one layer, up to the end of the chunk. */
const uint8_t *mp_trace_ids(const struct mp_trace *t, uint32_t layer, uint64_t row, uint64_t *n_rows);
/* The top-k of one token: ids[top_k], MP_NO_EXPERT where unused. Returns how many are used (they come first). */
static inline uint32_t mp_trace_row(const struct mp_trace *t, uint32_t layer, uint64_t row, uint16_t *ids) {
    const uint64_t chunk = row / MP_CHUNK_TOKENS, left = t->n_rows - chunk * MP_CHUNK_TOKENS;
    const uint64_t at = layer * (left < MP_CHUNK_TOKENS ? left : MP_CHUNK_TOKENS) + row % MP_CHUNK_TOKENS;
    const uint8_t *p = t->chunks[chunk] + at * t->top_k * t->id_bytes;
    const uint32_t k = t->top_k;
    uint32_t used = 0;
    if (t->id_bytes == 1 && t->n_experts == 256) { /* no place is unused */
        for (uint32_t i = 0; i < k; i++)
            ids[i] = p[i];
        return k;
    }
    if (t->id_bytes == 1) {
        for (uint32_t i = 0; i < k; i++) {
            ids[i] = p[i] == UINT8_MAX ? MP_NO_EXPERT : p[i];
            used += p[i] != UINT8_MAX;
        }
        return used;
    }
    memcpy(ids, p, (size_t)k * 2);
    while (used < k && ids[used] != MP_NO_EXPERT)
        used++;
    return used;
}
/* The signature of a token in one layer; only of a trace that has signature_chunks. */
static inline uint64_t mp_trace_signature(const struct mp_trace *t, uint32_t layer, uint64_t row) {
    const uint64_t chunk = row / MP_CHUNK_TOKENS, left = t->n_rows - chunk * MP_CHUNK_TOKENS;
    return t
        ->signature_chunks[chunk][layer * (left < MP_CHUNK_TOKENS ? left : MP_CHUNK_TOKENS) + row % MP_CHUNK_TOKENS];
}
/* In how many of their 64 bits two signatures differ. */
static inline uint32_t mp_signature_distance(uint64_t a, uint64_t b) {
    uint64_t x =
        a ^ b; /* in place of the compiler's count, which is a call where the machine is not known to have one */
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (uint32_t)(x * UINT64_C(0x0101010101010101) >> 56);
}
/* The cosine that so many differing bits say, in millionths: cos(pi * distance / 64), 0 from 32 on. One estimate is off
 * by 0.06 at 0.9, 0.10 at 0.8 and 0.16 at 0.5 (one standard deviation). */
uint32_t mp_signature_similarity_ppm(uint32_t distance);
/* The most bits that two signatures of at least this similarity differ in; -1 above 10^6. */
int mp_signature_reach(uint32_t similarity_ppm);
/* Gives a TOKENS trace without signatures room for them: chunks[c][layer][row in chunk], all 0, the caller's to fill in
 * before anybody else reads. sha256 becomes "". mp_trace_signatures_drop takes them away again; does nothing when there
 * are none. */
enum mp_status mp_trace_signatures_add(struct mp_trace *t, uint64_t *const **chunks, const struct mp_limits *limits,
                                       struct mp_error *err) MP_MUST_CHECK;
void mp_trace_signatures_drop(struct mp_trace *t);
/* Summed tokens per expert of one layer over everything: load[n_experts]. */
void mp_trace_load_of_layer(const struct mp_trace *t, uint32_t layer, uint64_t *load);

/* Readers and generators build traces through this. Meta first, then requests with their rows, or counts. */
struct mp_trace_builder;
struct mp_trace_meta {
    enum mp_trace_kind kind;
    enum mp_phase phase;
    const char *model, *format;
    bool is_synthetic, is_ranked, is_time_ordered;
    uint32_t n_layers, n_experts, top_k;
    const uint32_t *layer_ids; /* NULL = 0, 1, 2, ... */
    uint32_t n_sources;        /* COUNTS: 0 or 1 = not split by rank */
    bool has_weights;
    bool has_unused; /* TOKENS: some top-k places may be unused */
};
enum mp_status mp_trace_builder_new(struct mp_trace_builder **out, const struct mp_trace_meta *meta,
                                    const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
/* Index of a category name, added when new. */
enum mp_status mp_trace_builder_category(struct mp_trace_builder *b, const char *name, uint32_t *out,
                                         struct mp_error *err) MP_MUST_CHECK;
/* Starts a request (first_row and n_rows are filled in by the builder). */
enum mp_status mp_trace_builder_request(struct mp_trace_builder *b, const struct mp_request *r,
                                        struct mp_error *err) MP_MUST_CHECK;
/* Appends one token to the current request: ids[n_layers][top_k] (MP_NO_EXPERT = unused, at the end), weights the same
 * shape or NULL. MP_EINPUT: an id >= n_experts, or the same expert twice in a layer. */
enum mp_status mp_trace_builder_row(struct mp_trace_builder *b, const uint16_t *ids, const uint16_t *weights,
                                    struct mp_error *err) MP_MUST_CHECK;
/* Appends n tokens given token-major as the .npz files are: ids[n][n_layers][top_k] of id_bytes (1, 2, 4 or 8,
 * little-endian; all bits set, that is -1 = unused when meta.has_unused). The fast path of the array readers. */
enum mp_status mp_trace_builder_rows(struct mp_trace_builder *b, const void *ids, uint32_t id_bytes, uint64_t n,
                                     struct mp_error *err) MP_MUST_CHECK;
/* COUNTS: starts an iteration (category or MP_NONE), then adds to its cells. */
enum mp_status mp_trace_builder_iteration(struct mp_trace_builder *b, uint32_t category,
                                          struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_trace_builder_count(struct mp_trace_builder *b, uint32_t source, uint32_t layer, uint32_t expert,
                                      uint64_t n, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_trace_builder_pair(struct mp_trace_builder *b, const struct mp_pair *pair,
                                     struct mp_error *err) MP_MUST_CHECK;
/* Ends the build in either case (b is freed); on success the trace is the caller's. sha256 NULL = "". Refuses
 * (MP_EINPUT) an empty recording, a request without rows, and a pair given twice. */
enum mp_status mp_trace_builder_finish(struct mp_trace_builder *b, const char *sha256, struct mp_trace **out,
                                       struct mp_error *err) MP_MUST_CHECK;
void mp_trace_builder_free(struct mp_trace_builder *b); /* abandons a build; NULL is fine */

/* The extension point: one file src/trace/trace_<name>.c, one word in src/trace/meson.build. */
struct mp_trace_format {
    const char *name, *summary, *reference;
    /* How sure the format is that this is its own: 0 = no, larger = surer. `in` is NULL for a folder. */
    int (*probe)(const char *path, const struct mp_in *in);
    /* Reads it all. `in` is borrowed; a reader that keeps pointers into it sets trace->mapped and *keep_in. */
    enum mp_status (*read)(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                           const struct mp_trace_hints *hints, const struct mp_limits *limits, struct mp_error *err);
};
const struct mp_trace_format *mp_trace_format_at(uint32_t i); /* NULL past the last */
const char *mp_phase_name(enum mp_phase phase);               /* "prefill", ... */

MP_API_END

#endif
