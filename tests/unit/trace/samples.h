/* Small recordings in every format of this folder, as bytes, and readers over bytes in memory. */
#ifndef TRACE_SAMPLES_H
#define TRACE_SAMPLES_H

#include "support.h"
#include <moeplan/base.h>
#include <moeplan/trace.h>
#include <zlib.h>

struct bytes {
    uint8_t *p;
    size_t n;
};

static inline void append(struct bytes *b, const void *p, size_t n) {
    b->p = realloc(b->p, b->n + n + 1);
    assert_non_null(b->p);
    if (n > 0)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = 0;
}
static inline void append_repeated(struct bytes *b, const char *s, size_t times) {
    size_t n = strlen(s);
    char *all = malloc(n * times);
    assert_non_null(all);
    for (size_t i = 0; i < times; i++)
        memcpy(all + i * n, s, n);
    append(b, all, n * times);
    free(all);
}
static inline void append_text(struct bytes *b, const char *s) { append(b, s, strlen(s)); }
static inline void append_number(struct bytes *b, uint64_t v, size_t n) { append(b, &v, n); }
static inline struct bytes text_bytes(const char *s) {
    struct bytes b = {0};
    append_text(&b, s);
    return b;
}
static inline const char *save_bytes(const char *name, const void *p, size_t n) {
    const char *path = temp_path(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* A .npy of version 1 with this descr and shape text, over `n` bytes of data. */
static inline struct bytes npy_bytes(const char *descr, const char *shape, const void *data, size_t n) {
    char header[256];
    int used = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    while ((10 + used + 1) % 64 != 0)
        header[used++] = ' ';
    header[used++] = '\n';
    struct bytes b = {0};
    append(&b, "\x93NUMPY\x01\x00", 8);
    append_number(&b, (uint64_t)used, 2);
    append(&b, header, (size_t)used);
    append(&b, data, n);
    return b;
}

struct member {
    const char *name;
    struct bytes data;
    bool deflate;
};
/* A ZIP archive of these members. */
static inline struct bytes zip_bytes(const struct member *m, size_t n_members) {
    struct bytes z = {0}, directory = {0};
    for (size_t i = 0; i < n_members; i++) {
        size_t n_name = strlen(m[i].name), offset = z.n;
        uint32_t crc = (uint32_t)crc32(0, m[i].data.p, (unsigned)m[i].data.n);
        struct bytes packed = {0};
        if (m[i].deflate) {
            z_stream s = {0};
            assert_int_equal(deflateInit2(&s, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
            size_t room = deflateBound(&s, m[i].data.n);
            uint8_t *out = malloc(room);
            s.next_in = m[i].data.p;
            s.avail_in = (unsigned)m[i].data.n;
            s.next_out = out;
            s.avail_out = (unsigned)room;
            assert_int_equal(deflate(&s, Z_FINISH), Z_STREAM_END);
            append(&packed, out, room - s.avail_out);
            deflateEnd(&s);
            free(out);
        } else
            append(&packed, m[i].data.p, m[i].data.n);
        for (int is_directory = 0; is_directory < 2; is_directory++) {
            struct bytes *b = is_directory ? &directory : &z;
            append(b, is_directory ? "PK\1\2\x14\0\x14\0" : "PK\3\4\x14\0", is_directory ? 8 : 6);
            append_number(b, 0, 2);
            append_number(b, m[i].deflate ? 8 : 0, 2);
            append_number(b, 0, 4);
            append_number(b, crc, 4);
            append_number(b, packed.n, 4);
            append_number(b, m[i].data.n, 4);
            append_number(b, n_name, 2);
            append_number(b, 0, 2);
            if (is_directory) {
                append_number(b, 0, 6); /* comment, disk, internal attributes */
                append_number(b, 0, 4);
                append_number(b, offset, 4);
            }
            append(b, m[i].name, n_name);
        }
        append(&z, packed.p, packed.n);
        free(packed.p);
    }
    size_t at = z.n;
    append(&z, directory.p, directory.n);
    append(&z, "PK\5\6\0\0\0\0", 8);
    append_number(&z, n_members, 2);
    append_number(&z, n_members, 2);
    append_number(&z, directory.n, 4);
    append_number(&z, at, 4);
    append_number(&z, 0, 2);
    free(directory.p);
    return z;
}

static inline const struct mp_trace_format *format_named(const char *name) {
    for (uint32_t i = 0; mp_trace_format_at(i) != NULL; i++)
        if (strcmp(mp_trace_format_at(i)->name, name) == 0)
            return mp_trace_format_at(i);
    fail_msg("there is no format %s", name);
    return NULL;
}

/* Reads bytes as a format; *out NULL on failure. */
static inline enum mp_status read_bytes(struct mp_trace **out, const char *format, const void *p, size_t n,
                                        const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                        struct mp_error *err) {
    struct mp_in *in;
    *out = NULL;
    enum mp_status status = mp_in_from_memory(&in, "sample", p, n, err);
    if (status != MP_OK)
        return status;
    bool keep = false;
    status = format_named(format)->read(out, "sample", in, &keep, hints != NULL ? hints : &mp_trace_hints_none,
                                        limits != NULL ? limits : &mp_limits_default, err);
    if (!keep)
        mp_in_close(in);
    assert_true((status == MP_OK) == (*out != NULL));
    return status;
}

static inline struct bytes native_bytes(const struct mp_trace *t) {
    struct mp_out *o;
    struct mp_error err = {0};
    size_t n;
    struct bytes b = {0};
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_trace_write(t, o);
    const uint8_t *p = mp_out_memory_bytes(o, &n);
    append(&b, p, n);
    CHECK_OK(mp_out_commit(o, &err), err);
    return b;
}

struct shape {
    uint32_t n_layers, n_experts, top_k, n_requests, rows_per_request;
    bool has_weights, has_unused;
};

/* A random recording of tokens; the same seed gives the same one. */
static inline struct mp_trace *token_trace(struct shape s, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    struct mp_trace_builder *b;
    struct mp_error err = {0};
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = MP_PHASE_DECODE,
                                 .model = "sample",
                                 .format = "test",
                                 .is_ranked = true,
                                 .is_time_ordered = true,
                                 .n_layers = s.n_layers,
                                 .n_experts = s.n_experts,
                                 .top_k = s.top_k,
                                 .has_weights = s.has_weights,
                                 .has_unused = s.has_unused};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    uint16_t *ids = calloc((size_t)s.n_layers * s.top_k, 2), *weights = calloc((size_t)s.n_layers * s.top_k, 2);
    for (uint32_t r = 0; r < s.n_requests; r++) {
        struct mp_request q = {
            .id = 1000 + r, .first_position = r % 7, .source = r % 3 == 0 ? MP_NONE : r % 4, .category = MP_NONE};
        if (r % 2 == 1) {
            char name[32];
            snprintf(name, sizeof name, "category %u", r % 5);
            CHECK_OK(mp_trace_builder_category(b, name, &q.category, &err), err);
        }
        CHECK_OK(mp_trace_builder_request(b, &q, &err), err);
        for (uint32_t i = 0; i < s.rows_per_request; i++) {
            for (uint32_t l = 0; l < s.n_layers; l++) {
                uint32_t used = s.has_unused ? (uint32_t)mp_rng_below(&rng, s.top_k + 1) : s.top_k;
                for (uint32_t j = 0; j < s.top_k; j++) {
                    uint16_t *id = &ids[(size_t)l * s.top_k + j];
                    bool is_new = false;
                    *id = MP_NO_EXPERT;
                    while (j < used && !is_new) {
                        *id = (uint16_t)mp_rng_below(&rng, s.n_experts);
                        is_new = true;
                        for (uint32_t m = 0; m < j; m++)
                            is_new &= ids[(size_t)l * s.top_k + m] != *id;
                    }
                    weights[(size_t)l * s.top_k + j] = (uint16_t)mp_rng_below(&rng, 65536);
                }
            }
            CHECK_OK(mp_trace_builder_row(b, ids, s.has_weights ? weights : NULL, &err), err);
        }
    }
    free(ids);
    free(weights);
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}
/* The same with a random signature for each token and layer. */
static inline struct mp_trace *signed_trace(struct shape s, uint64_t seed) {
    struct mp_trace *t = token_trace(s, seed);
    struct mp_rng rng = mp_rng_seed(seed + 1);
    struct mp_error err = {0};
    uint64_t *const *chunks;
    CHECK_OK(mp_trace_signatures_add(t, &chunks, &mp_limits_default, &err), err);
    for (uint64_t first = 0, c = 0; first < t->n_rows; first += MP_CHUNK_TOKENS, c++) {
        const uint64_t left = t->n_rows - first, rows = left < MP_CHUNK_TOKENS ? left : MP_CHUNK_TOKENS;
        for (uint64_t i = 0; i < rows * t->n_layers; i++)
            chunks[c][i] = mp_rng_next(&rng);
    }
    return t;
}

/* A random recording of counts with categories, sources and pairs. */
static inline struct mp_trace *count_trace(uint32_t n_iterations, uint32_t n_sources, uint32_t n_layers,
                                           uint32_t n_experts, uint64_t seed) {
    struct mp_rng rng = mp_rng_seed(seed);
    struct mp_trace_builder *b;
    struct mp_error err = {0};
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = MP_PHASE_PREFILL,
                                 .model = "",
                                 .format = "test",
                                 .n_layers = n_layers,
                                 .n_experts = n_experts,
                                 .n_sources = n_sources};
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < n_iterations; i++) {
        uint32_t category = MP_NONE;
        if (i % 3 != 0)
            CHECK_OK(mp_trace_builder_category(b, i % 3 == 1 ? "one" : "two", &category, &err), err);
        CHECK_OK(mp_trace_builder_iteration(b, category, &err), err);
        for (uint32_t s = 0; s < n_sources; s++)
            for (uint32_t l = 0; l < n_layers; l++)
                for (uint32_t e = 0; e < n_experts; e++)
                    CHECK_OK(mp_trace_builder_count(b, s, l, e, mp_rng_below(&rng, 100), &err), err);
    }
    for (uint32_t e = 1; e < n_experts; e++) {
        struct mp_pair pair = {.layer = (n_experts - e) % n_layers, .first = e - 1, .second = e, .count = e};
        CHECK_OK(mp_trace_builder_pair(b, &pair, &err), err);
    }
    struct mp_trace *t;
    CHECK_OK(mp_trace_builder_finish(b, NULL, &t, &err), err);
    return t;
}

/* All that foreign formats cannot say. */
static inline struct mp_trace_hints full_hints(void) {
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_DECODE;
    h.layer_base = 0;
    h.ids_are_physical = 0;
    h.n_experts = 4;
    return h;
}

static const char jsonl_sample[] =
    "{\"moeplan_trace\": 1, \"model\": \"toy\", \"phase\": \"decode\", \"ids\": \"logical\", \"layer_base\": 3, "
    "\"n_experts\": 4, \"ranked\": true}\n"
    "{\"request\": 7, \"position\": 5, \"layer\": 0, \"experts\": [1, 2], \"weights\": [0.75, 0.25], \"category\": "
    "\"a\", \"source\": 1}\n"
    "{\"request\": 7, \"position\": 5, \"layer\": 1, \"experts\": [0, 3], \"weights\": [0.5, 0.5], \"category\": "
    "\"a\", \"source\": 1}\n"
    "{\"request\": 7, \"position\": 6, \"layer\": 1, \"experts\": [3, 0], \"weights\": [1, 0], \"category\": \"a\", "
    "\"source\": 1}\n"
    "{\"request\": 7, \"position\": 6, \"layer\": 0, \"experts\": [2], \"weights\": [1.0], \"category\": \"a\", "
    "\"source\": 1}\n"
    "{\"request\": 9, \"position\": 0, \"layer\": 0, \"experts\": [0, 1], \"weights\": [0.5, 0.5]}\n"
    "{\"request\": 9, \"position\": 0, \"layer\": 1, \"experts\": [2, 1], \"weights\": [0.5, 0.5]}\n";
static const char csv_long_sample[] = "layer,expert,count\n0,0,5\n0,1,6\n0,3,7\n2,0,1\n2,1,2\n2,2,3\n";
static const char csv_wide_sample[] =
    "rank,layer,iteration,latency_ms,e0,e1,e2\n0,0,0,1.5,1,2,3\n1,0,0,1.5,4,5,6\n0,0,1,1.5,7,8,9\n1,0,1,1.5,10,11,12\n";
static const char json_sample[] =
    "{\"model\": \"toy\", \"n_layers\": 2, \"n_expert_per_layer\": 3, \"k\": 2, \"n_decode_tokens\": 4, \"layers\": ["
    "{\"layer\": 0, \"heat\": [4, 3, 1], \"pairs\": [[1, 0, 3, 1.5], [0, 2, 1, 1.0]]}, {\"layer\": 1, \"heat\": [0, 4, "
    "4]}]}";
static const char json_logical_sample[] =
    "{\"logical_count\": [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 0]], [[7, 8, 9], [1, 1, 1]]]}";
static const char requests_sample[] = "request,first_row,tokens,first_position,category\n0,0,2,10,x\n4,2,3,0,\n";
static const uint8_t ids_sample[5 * 2 * 2] = {0, 1, 2, 3, 1, 2, 3, 0, 2, 1, 0, 3, 3, 2, 1, 0, 0, 3, 2, 1};

static inline struct bytes npz_sample(bool deflate) {
    struct bytes npy = npy_bytes("|u1", "(5, 2, 2)", ids_sample, sizeof ids_sample);
    struct member m = {"topk_ids.npy", npy, deflate};
    struct bytes z = zip_bytes(&m, 1);
    free(npy.p);
    return z;
}

#define RUN(tests)                                                                                                     \
    int main(void) {                                                                                                   \
        cmocka_set_message_output(CM_OUTPUT_TAP);                                                                      \
        return cmocka_run_group_tests(tests, NULL, NULL);                                                              \
    }

/* Each cut of the file is refused with a position in the file, or (text that ends between two lines) is a shorter
 * recording. */
static inline void cut_everywhere(const char *format, struct bytes b, const struct mp_trace_hints *hints,
                                  bool may_succeed) {
    uint64_t live = mp_alloc_live();
    for (size_t n = 0; n < b.n; n++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        enum mp_status status = read_bytes(&t, format, b.p, n, hints, NULL, &err);
        if (status == MP_OK) {
            if (!may_succeed)
                fail_msg("%s cut at %zu of %zu is accepted", format, n, b.n);
            CHECK_OK(mp_trace_check(t, &err), err);
            mp_trace_free(t);
        } else if (status != MP_EINPUT && status != MP_ELIMIT && !(may_succeed && status == MP_EUSAGE))
            fail_msg("%s cut at %zu: status %d, %s", format, n, (int)status, err.message);
        assert_int_equal(mp_alloc_live(), live);
    }
}
/* Each flipped bit is refused, or leaves a recording that keeps every promise. With must_fail nothing may be accepted
 * unless equal. */
static inline void flip_everywhere(const char *format, struct bytes b, const struct mp_trace_hints *hints,
                                   bool must_fail) {
    uint64_t live = mp_alloc_live();
    for (size_t i = 0; i < b.n * 8; i++) {
        struct mp_trace *t;
        struct mp_error err = {0};
        b.p[i / 8] ^= (uint8_t)(1u << i % 8);
        enum mp_status status = read_bytes(&t, format, b.p, b.n, hints, NULL, &err);
        b.p[i / 8] ^= (uint8_t)(1u << i % 8);
        if (status == MP_OK) {
            if (must_fail)
                fail_msg("%s with bit %zu flipped is accepted", format, i);
            CHECK_OK(mp_trace_check(t, &err), err);
            mp_trace_free(t);
        } else if (status == MP_EBUG || status == MP_EIO || err.message[0] == '\0' || (must_fail && err.column == 0))
            fail_msg("%s with bit %zu flipped: status %d, column %llu, %s", format, i, (int)status,
                     (unsigned long long)err.column, err.message);
        assert_int_equal(mp_alloc_live(), live);
    }
}

#endif
