/* Writes traces/FORMAT.md. Two passes over the chunks: one for the checksums in the header, one for the bytes. */
#include "trace_native.h"
#include <string.h>

struct chunk {
    const void *data;
    uint64_t bytes;
};

static void put_zeros(struct mp_out *o, uint64_t n) {
    static const uint8_t zeros[NATIVE_ALIGN];
    mp_out_write(o, zeros, (size_t)n);
}

/* The chunks in file order: ids, weights, signatures; or counts, then pairs. */
static struct chunk chunk_at(const struct mp_trace *t, uint64_t i) {
    if (t->kind == MP_TRACE_TOKENS) {
        uint64_t n = trace_n_chunks(t->n_rows), c = i % n;
        uint64_t cells = trace_chunk_rows(t->n_rows, c) * t->n_layers * t->top_k;
        if (i < n)
            return (struct chunk){t->chunks[c], cells * t->id_bytes};
        if (t->weight_chunks != NULL && i < 2 * n)
            return (struct chunk){t->weight_chunks[c], cells * 2};
        return (struct chunk){t->signature_chunks[c], trace_chunk_rows(t->n_rows, c) * t->n_layers * 8};
    }
    uint64_t all = (uint64_t)t->n_iterations * t->n_sources * t->n_layers * t->n_experts * 8,
             n = mp_ceil_div(all, NATIVE_BLOCK);
    const void *base = t->counts;
    uint64_t block = NATIVE_BLOCK;
    if (i >= n) {
        i -= n;
        all = t->n_pairs * sizeof *t->pairs;
        base = t->pairs;
        block = NATIVE_PAIR_BLOCK;
    }
    uint64_t left = all - i * block;
    return (struct chunk){(const uint8_t *)base + i * block, left < block ? left : block};
}

static void put(uint8_t *header, size_t at, const void *value, size_t n) { memcpy(header + at, value, n); }
static void put_u32(uint8_t *header, size_t at, uint32_t v) { put(header, at, &v, 4); }
static void put_u64(uint8_t *header, size_t at, uint64_t v) { put(header, at, &v, 8); }

/* The whole header, or NULL when out of memory. It depends on the recording alone: the name of the format that it was
 * read from stays empty. */
static uint8_t *make_header(const struct mp_trace *t, uint64_t *bytes, uint64_t *n_all) {
    uint64_t n_chunks, strings = strlen(t->model) + 1 + 1;
    for (uint32_t i = 0; i < t->n_categories; i++)
        strings += strlen(t->categories[i]) + 1;
    if (t->kind == MP_TRACE_TOKENS)
        n_chunks = trace_n_chunks(t->n_rows) * (1u + (t->weight_chunks != NULL) + (t->signature_chunks != NULL));
    else
        n_chunks =
            mp_ceil_div((uint64_t)t->n_iterations * t->n_sources * t->n_layers * t->n_experts * 8, NATIVE_BLOCK) +
            mp_ceil_div(t->n_pairs * sizeof *t->pairs, NATIVE_PAIR_BLOCK);
    size_t layers_at = NATIVE_FIXED, categories_at = layers_at + native_pad((uint64_t)t->n_layers * 4, 8);
    size_t requests_at =
        categories_at + (t->iteration_category != NULL ? native_pad((uint64_t)t->n_iterations * 4, 8) : 0);
    size_t entries_at = requests_at + t->n_requests * sizeof *t->requests,
           strings_at = entries_at + n_chunks * NATIVE_ENTRY;
    uint64_t header_bytes = native_pad(strings_at + strings, NATIVE_ALIGN);
    uint8_t *h = mp_calloc(header_bytes, 1);
    if (h == NULL)
        return NULL;
    put(h, 0, NATIVE_MAGIC, 8);
    put_u32(h, 8, NATIVE_VERSION);
    put_u32(h, 12,
            (t->is_synthetic ? NATIVE_SYNTHETIC : 0u) | (t->is_ranked ? NATIVE_RANKED : 0u) |
                (t->is_time_ordered ? NATIVE_TIME_ORDERED : 0u) | (t->weight_chunks != NULL ? NATIVE_WEIGHTS : 0u) |
                (t->source_known ? NATIVE_SOURCES : 0u) |
                (t->iteration_category != NULL ? NATIVE_ITERATION_CATEGORIES : 0u) |
                (t->signature_chunks != NULL ? NATIVE_SIGNATURES : 0u));
    put_u64(h, 24, header_bytes);
    h[32] = (uint8_t)t->kind;
    h[33] = (uint8_t)t->phase;
    h[34] = (uint8_t)t->id_bytes;
    put_u32(h, 36, t->n_layers);
    put_u32(h, 40, t->n_experts);
    put_u32(h, 44, t->top_k);
    put_u64(h, 48, t->n_rows);
    put_u64(h, 56, t->n_requests);
    put_u32(h, 64, t->n_iterations);
    put_u32(h, 68, t->n_sources);
    put_u64(h, 72, t->n_pairs);
    put_u64(h, 80, n_chunks);
    put_u64(h, 88, strings);
    put_u32(h, 96, t->n_categories);
    put(h, layers_at, t->layer_ids, (size_t)t->n_layers * 4);
    if (t->iteration_category != NULL)
        put(h, categories_at, t->iteration_category, (size_t)t->n_iterations * 4);
    if (t->n_requests > 0)
        put(h, requests_at, t->requests, t->n_requests * sizeof *t->requests);
    uint64_t offset = header_bytes;
    for (uint64_t i = 0; i < n_chunks; i++) {
        struct chunk c = chunk_at(t, i);
        offset = native_pad(offset, NATIVE_ALIGN);
        put_u64(h, entries_at + i * NATIVE_ENTRY, offset);
        put_u64(h, entries_at + i * NATIVE_ENTRY + 8, c.bytes);
        put_u32(h, entries_at + i * NATIVE_ENTRY + 16, trace_crc32(0, c.data, c.bytes));
        offset += c.bytes;
    }
    put_u64(h, 16, offset);
    size_t at = strings_at;
    put(h, at, t->model, strlen(t->model));
    at += strlen(t->model) + 1;
    at += 1;
    for (uint32_t i = 0; i < t->n_categories; i++) {
        put(h, at, t->categories[i], strlen(t->categories[i]));
        at += strlen(t->categories[i]) + 1;
    }
    put_u32(h, NATIVE_CRC_AT, trace_crc32(0, h, header_bytes));
    *bytes = header_bytes;
    *n_all = n_chunks;
    return h;
}

enum mp_status trace_identity(const struct mp_trace *t, char hex[65], struct mp_error *err) {
    uint64_t header_bytes, n_chunks;
    uint8_t *h = make_header(t, &header_bytes, &n_chunks);
    if (h == NULL)
        return mp_nomem(err, "header of the trace");
    mp_sha256_hex(h, header_bytes, hex);
    mp_free(h);
    return MP_OK;
}

void mp_trace_write(const struct mp_trace *t, struct mp_out *o) {
    uint64_t header_bytes, n_chunks;
    uint8_t *h = make_header(t, &header_bytes, &n_chunks);
    if (h == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: header of the trace");
        return;
    }
    mp_out_write(o, h, header_bytes);
    mp_free(h);
    uint64_t written = header_bytes;
    for (uint64_t i = 0; i < n_chunks; i++) {
        struct chunk c = chunk_at(t, i);
        put_zeros(o, native_pad(written, NATIVE_ALIGN) - written);
        mp_out_write(o, c.data, c.bytes);
        written = native_pad(written, NATIVE_ALIGN) + c.bytes;
    }
}
