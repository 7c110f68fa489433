/* The checks of a trace's promises. Loading a trace is bound by these loops, so they run over whole layers at once. */
#include "trace_box.h"
#include <stdio.h>
#include <string.h>

static uint32_t id_at(const uint8_t *p, uint64_t i, uint32_t id_bytes) {
    uint16_t id = p[i];
    if (id_bytes == 2)
        memcpy(&id, p + i * 2, 2);
    return id;
}

/* Why one list is bad; false when it is good. The slow, plain form of the rule. */
static bool explain_list(const uint8_t *p, uint32_t k, uint32_t id_bytes, uint32_t n_experts, char *what, size_t size) {
    uint32_t none = trace_has_unused(n_experts, id_bytes) ? (id_bytes == 1 ? 0xff : 0xffff) : UINT32_MAX;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t a = id_at(p, i, id_bytes);
        if (a == none)
            continue;
        if (a >= n_experts) {
            snprintf(what, size, "%u is not an expert in [0, %u)", a, n_experts);
            return true;
        }
        if (i > 0 && id_at(p, i - 1, id_bytes) == none) {
            snprintf(what, size, "expert %u stands after an unused place", a);
            return true;
        }
        for (uint32_t j = 0; j < i; j++)
            if (id_at(p, j, id_bytes) == a) {
                snprintf(what, size, "expert %u is chosen twice", a);
                return true;
            }
    }
    return false;
}

/* Elements of a block: a multiple of the vectors' lanes, small enough for the caches. */
enum { BLOCK = 2048, VECTOR_BYTES = 16, LARGEST_K = 16 };

/* Does block p[0, n) break a rule? inside[d * BLOCK + i] is all ones when elements i and i + d lie in one list of the
 * block (d = 0: when i lies in the block at all), so that BLOCK elements can always be read; p has that many, and k
 * more. Vector types, because at -O2 gcc leaves loops like these scalar, and loading a trace is bound by them. */
#define DEFINE_BLOCK_IS_BAD(name, type, vector)                                                                        \
    typedef type vector __attribute__((vector_size(VECTOR_BYTES)));                                                    \
    static vector load_##vector(const type *p) {                                                                       \
        vector v;                                                                                                      \
        memcpy(&v, p, sizeof v);                                                                                       \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) bool name(const type *p, uint32_t k, type last_expert,                \
                                                           bool has_unused, const type *inside) {                      \
        enum { LANES = VECTOR_BYTES / sizeof(type) };                                                                  \
        const vector none = (vector){0} - 1, last = (vector){0} + last_expert;                                         \
        vector bad = {0};                                                                                              \
        for (size_t i = 0; i < BLOCK; i += LANES) {                                                                    \
            vector v = load_##vector(p + i), here = (vector)(v > last) & load_##vector(inside + i), gap = {0};         \
            for (size_t d = 1; d < k; d++)                                                                             \
                here |= (vector)(v == load_##vector(p + i + d)) & load_##vector(inside + d * BLOCK + i);               \
            if (has_unused) {                                                                                          \
                here &= (vector)(v != none);                                                                           \
                if (k > 1)                                                                                             \
                    gap = (vector)(v == none) & (vector)(load_##vector(p + i + 1) != none) &                           \
                          load_##vector(inside + BLOCK + i);                                                           \
            }                                                                                                          \
            bad |= here | gap;                                                                                         \
        }                                                                                                              \
        for (size_t i = 0; i < LANES; i++)                                                                             \
            if (bad[i] != 0)                                                                                           \
                return true;                                                                                           \
        return false;                                                                                                  \
    }
DEFINE_BLOCK_IS_BAD(block_is_bad8, uint8_t, v8)
DEFINE_BLOCK_IS_BAD(block_is_bad16, uint16_t, v16)

/* Lists that fill a 64-bit or 32-bit lane: each is compared with itself turned by 1 to k / 2 places, which meets every
 * pair, without masks and without an inner loop (k is 4 or 8). */
#define DEFINE_LANES_ARE_BAD(name, type, vector, lane, k)                                                              \
    typedef lane name##_lanes __attribute__((vector_size(VECTOR_BYTES)));                                              \
    static bool name(const type *p, type last_expert, bool has_unused) {                                               \
        enum {                                                                                                         \
            LANES = VECTOR_BYTES / sizeof(type),                                                                       \
            BITS = 8 * sizeof(type),                                                                                   \
            ALL = 8 * sizeof(lane),                                                                                    \
            TURN = (k) == 8 ? BITS : 1                                                                                 \
        };                                                                                                             \
        const vector none = (vector){0} - 1, last = (vector){0} + last_expert;                                         \
        vector bad = {0};                                                                                              \
        for (size_t i = 0; i < BLOCK; i += LANES) {                                                                    \
            vector v = load_##vector(p + i), here = (vector)(v > last);                                                \
            name##_lanes lists = (name##_lanes)v;                                                                      \
            here |= (vector)(v == (vector)(lists >> BITS | lists << (ALL - BITS)));                                    \
            here |= (vector)(v == (vector)(lists >> 2 * BITS | lists << (ALL - 2 * BITS)));                            \
            if ((k) == 8) {                                                                                            \
                here |= (vector)(v == (vector)(lists >> 3 * TURN | lists << (ALL - 3 * TURN)));                        \
                here |= (vector)(v == (vector)(lists >> 4 * TURN | lists << (ALL - 4 * TURN)));                        \
            }                                                                                                          \
            if (has_unused) {                                                                                          \
                vector is_none = (vector)(v == none);                                                                  \
                /* the place before each, the first of a list counting as used */                                      \
                vector before = (vector)((name##_lanes)is_none << BITS);                                               \
                here = (here | before) & ~is_none;                                                                     \
            }                                                                                                          \
            bad |= here;                                                                                               \
        }                                                                                                              \
        for (size_t i = 0; i < LANES; i++)                                                                             \
            if (bad[i] != 0)                                                                                           \
                return true;                                                                                           \
        return false;                                                                                                  \
    }
DEFINE_LANES_ARE_BAD(lanes_are_bad8x8, uint8_t, v8, uint64_t, 8)
DEFINE_LANES_ARE_BAD(lanes_are_bad8x4, uint8_t, v8, uint32_t, 4)
DEFINE_LANES_ARE_BAD(lanes_are_bad16x4, uint16_t, v16, uint64_t, 4)

static bool block_is_bad(const uint8_t *p, uint32_t k, uint32_t id_bytes, uint32_t n_experts, bool has_unused,
                         const uint8_t *masks) {
    uint16_t last = (uint16_t)(n_experts - 1);
    if (id_bytes == 2) {
        const uint16_t *wide = (const uint16_t *)(const void *)p, *inside = (const uint16_t *)(const void *)masks;
        return k == 4   ? lanes_are_bad16x4(wide, last, has_unused)
               : k == 8 ? block_is_bad16(wide, 8, last, has_unused, inside)
                        : block_is_bad16(wide, k, last, has_unused, inside);
    }
    switch (k) { /* with k known, the compiler unrolls the inner loop */
    case 4:
        return lanes_are_bad8x4(p, (uint8_t)last, has_unused);
    case 6:
        return block_is_bad8(p, 6, (uint8_t)last, has_unused, masks);
    case 8:
        return lanes_are_bad8x8(p, (uint8_t)last, has_unused);
    case 10:
        return block_is_bad8(p, 10, (uint8_t)last, has_unused, masks);
    default:
        return block_is_bad8(p, k, (uint8_t)last, has_unused, masks);
    }
}

bool trace_find_bad_list(const uint8_t *ids, uint64_t n, uint32_t k, uint32_t id_bytes, uint32_t n_experts,
                         uint64_t *bad, char *what, size_t what_size) {
    bool has_unused = trace_has_unused(n_experts, id_bytes);
    uint64_t done = 0;
    uint32_t per_block = BLOCK / k * k;
    uint64_t n_elements = n * k;
    if (n_elements > 2 * BLOCK && k <= LARGEST_K && (uintptr_t)ids % id_bytes == 0) {
        _Alignas(64) uint8_t masks[LARGEST_K * BLOCK * 2];
        bool is_lane = k == 4 || (k == 8 && id_bytes == 1); /* these do not look at the masks */
        for (uint32_t d = 0; d < k && !is_lane; d++)
            for (uint32_t i = 0; i < BLOCK; i++) {
                uint8_t m = i < per_block && i % k + d < k ? 0xff : 0;
                if (id_bytes == 1)
                    masks[(size_t)d * BLOCK + i] = m;
                else
                    masks[((size_t)d * BLOCK + i) * 2] = masks[((size_t)d * BLOCK + i) * 2 + 1] = m;
            }
        /* A block reads up to k elements past its end, so the last lists are left to the plain loop. */
        for (uint64_t at = 0; at + BLOCK + k <= n_elements; at += per_block) {
            if (block_is_bad(ids + at * id_bytes, k, id_bytes, n_experts, has_unused, masks))
                break;
            done = (at + per_block) / k;
        }
    }
    for (uint64_t i = done; i < n; i++)
        if (explain_list(ids + i * k * id_bytes, k, id_bytes, n_experts, what, what_size)) {
            *bad = i;
            return true;
        }
    return false;
}

bool trace_find_bad_request(const struct mp_trace *t, uint64_t *bad, const char **what) {
    uint64_t row = 0;
    for (uint64_t i = 0; i < t->n_requests; i++) {
        const struct mp_request *r = &t->requests[i];
        *bad = i;
        *what = NULL;
        if (r->first_row != row)
            *what = "does not start where the one before it ends";
        else if (r->n_rows == 0)
            *what = "has no tokens";
        else if (r->n_rows > t->n_rows - row)
            *what = "has more tokens than the trace";
        else if (r->source != MP_NONE && r->source >= MP_MAX_GPUS)
            *what = "names a source rank past the limit";
        else if (r->category != MP_NONE && r->category >= t->n_categories)
            *what = "names a category that the trace does not list";
        if (*what != NULL)
            return true;
        row += r->n_rows;
    }
    *bad = t->n_requests;
    *what = "is missing: the requests do not cover all tokens";
    return row != t->n_rows;
}

enum mp_status mp_trace_check(const struct mp_trace *t, struct mp_error *err) {
    if (t->n_layers < 1 || t->n_layers > MP_MAX_LAYERS || t->n_experts < 1 || t->n_experts > MP_MAX_EXPERTS ||
        t->top_k > MP_MAX_TOP_K || t->top_k > t->n_experts)
        return mp_fail(err, MP_EINPUT, "%u layers, %u experts, top-%u are not a trace's", t->n_layers, t->n_experts,
                       t->top_k);
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->layer_ids[l] >= MP_MAX_LAYERS || (l > 0 && t->layer_ids[l] <= t->layer_ids[l - 1]))
            return mp_fail(err, MP_EINPUT, "layer %u of the list does not ascend", l);
    for (uint64_t i = 0; i < t->n_pairs; i++) {
        const struct mp_pair *p = &t->pairs[i];
        if (p->layer >= t->n_layers || p->first >= p->second || p->second >= t->n_experts || p->count > MP_MAX_TOKENS)
            return mp_fail(err, MP_EINPUT, "pair %llu is not two ascending experts of one layer",
                           (unsigned long long)i);
        const struct mp_pair *before = i > 0 ? p - 1 : NULL;
        if (before != NULL &&
            (before->layer > p->layer ||
             (before->layer == p->layer &&
              (before->first > p->first || (before->first == p->first && before->second >= p->second)))))
            return mp_fail(err, MP_EINPUT, "pair %llu is not in order, or given twice", (unsigned long long)i);
    }
    if (t->kind == MP_TRACE_COUNTS) {
        if (t->n_iterations == 0 || t->n_sources == 0 || t->n_sources > MP_MAX_GPUS ||
            (!t->source_known && t->n_sources != 1))
            return mp_fail(err, MP_EINPUT, "%u iterations of %u sources are not a trace's", t->n_iterations,
                           t->n_sources);
        size_t n = (size_t)t->n_iterations * t->n_sources * t->n_layers * t->n_experts;
        for (size_t i = 0; i < n; i++)
            if (t->counts[i] > MP_MAX_TOKENS)
                return mp_fail(err, MP_EINPUT, "count %zu passes %llu", i, (unsigned long long)MP_MAX_TOKENS);
        for (uint32_t i = 0; t->iteration_category != NULL && i < t->n_iterations; i++)
            if (t->iteration_category[i] != MP_NONE && t->iteration_category[i] >= t->n_categories)
                return mp_fail(err, MP_EINPUT, "iteration %u names a category that the trace does not list", i);
        return MP_OK;
    }
    uint64_t bad;
    const char *why;
    if (t->top_k == 0 || t->n_rows == 0 || t->n_rows > MP_MAX_TOKENS || (t->id_bytes != 1 && t->id_bytes != 2) ||
        (t->id_bytes == 1 && t->n_experts > 256))
        return mp_fail(err, MP_EINPUT, "%llu tokens of top-%u in %u bytes are not a trace's",
                       (unsigned long long)t->n_rows, t->top_k, t->id_bytes);
    if (trace_find_bad_request(t, &bad, &why))
        return mp_fail(err, MP_EINPUT, "request %llu %s", (unsigned long long)bad, why);
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint64_t row = 0, n; row < t->n_rows; row += n) {
            const uint8_t *p = mp_trace_ids(t, l, row, &n);
            char what[128];
            if (trace_find_bad_list(p, n, t->top_k, t->id_bytes, t->n_experts, &bad, what, sizeof what))
                return mp_fail(err, MP_EINPUT, "token %llu, layer %u: %s", (unsigned long long)(row + bad),
                               t->layer_ids[l], what);
        }
    return MP_OK;
}

static bool same_bytes(const void *a, const void *b, size_t n) { return n == 0 || memcmp(a, b, n) == 0; }

bool mp_trace_equal(const struct mp_trace *a, const struct mp_trace *b) {
    if (a->kind != b->kind || a->phase != b->phase || strcmp(a->model, b->model) != 0 ||
        a->is_synthetic != b->is_synthetic || a->is_ranked != b->is_ranked ||
        a->is_time_ordered != b->is_time_ordered || a->n_layers != b->n_layers || a->n_experts != b->n_experts ||
        a->top_k != b->top_k || a->n_categories != b->n_categories || a->n_rows != b->n_rows ||
        a->id_bytes != b->id_bytes || a->n_requests != b->n_requests || a->n_iterations != b->n_iterations ||
        a->n_sources != b->n_sources || a->source_known != b->source_known || a->n_pairs != b->n_pairs ||
        (a->weight_chunks == NULL) != (b->weight_chunks == NULL) ||
        (a->signature_chunks == NULL) != (b->signature_chunks == NULL) ||
        (a->iteration_category == NULL) != (b->iteration_category == NULL))
        return false;
    if (!same_bytes(a->layer_ids, b->layer_ids, a->n_layers * sizeof *a->layer_ids) ||
        !same_bytes(a->requests, b->requests, a->n_requests * sizeof *a->requests) ||
        !same_bytes(a->pairs, b->pairs, a->n_pairs * sizeof *a->pairs))
        return false;
    for (uint32_t i = 0; i < a->n_categories; i++)
        if (strcmp(a->categories[i], b->categories[i]) != 0)
            return false;
    if (a->iteration_category != NULL &&
        !same_bytes(a->iteration_category, b->iteration_category, a->n_iterations * sizeof *a->iteration_category))
        return false;
    size_t cells = (size_t)a->n_iterations * a->n_sources * a->n_layers * a->n_experts;
    if (a->kind == MP_TRACE_COUNTS && !same_bytes(a->counts, b->counts, cells * sizeof *a->counts))
        return false;
    for (uint64_t c = 0; a->kind == MP_TRACE_TOKENS && c < trace_n_chunks(a->n_rows); c++) {
        size_t n = (size_t)trace_chunk_rows(a->n_rows, c) * a->n_layers * a->top_k;
        if (!same_bytes(a->chunks[c], b->chunks[c], n * a->id_bytes) ||
            (a->weight_chunks != NULL && !same_bytes(a->weight_chunks[c], b->weight_chunks[c], n * 2)) ||
            (a->signature_chunks != NULL &&
             !same_bytes(a->signature_chunks[c], b->signature_chunks[c], n / a->top_k * 8)))
            return false;
    }
    return true;
}
