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

/* Elements of a block: a multiple of every vector width, small enough for the caches. */
enum { BLOCK = 2048 };

/* Does block p[0, n) break a rule? inside[d][i] is all ones when elements i and i + d lie in one list. Written so that the compiler
 * turns each loop into vector code; p has k more readable elements behind n. */
#define DEFINE_BLOCK_IS_BAD(name, type)                                                                              \
    static bool name(const type *restrict p, uint32_t n, uint32_t k, type n_experts_last, bool has_unused,           \
                     const type *restrict inside) {                                                                  \
        const type none = (type)~(type)0;                                                                            \
        type bad = 0;                                                                                                \
        if (has_unused) {                                                                                            \
            for (uint32_t i = 0; i < n; i++)                                                                         \
                bad |= (type) - (type)((p[i] > n_experts_last) & (p[i] != none));                                    \
            for (uint32_t d = 1; d < k; d++) {                                                                       \
                const type *restrict in = inside + (size_t)d * BLOCK;                                                \
                const type *restrict q = p + d;                                                                      \
                for (uint32_t i = 0; i < n; i++)                                                                     \
                    bad |= (type)((type) - (type)((p[i] == q[i]) & (p[i] != none)) & in[i]);                         \
            }                                                                                                        \
            if (k > 1)                                                                                               \
                for (uint32_t i = 0; i < n; i++)                                                                     \
                    bad |= (type)((type) - (type)((p[i] == none) & (p[i + 1] != none)) & inside[BLOCK + i]);         \
        } else {                                                                                                     \
            for (uint32_t i = 0; i < n; i++)                                                                         \
                bad |= (type) - (type)(p[i] > n_experts_last);                                                       \
            for (uint32_t d = 1; d < k; d++) {                                                                       \
                const type *restrict in = inside + (size_t)d * BLOCK;                                                \
                const type *restrict q = p + d;                                                                      \
                for (uint32_t i = 0; i < n; i++)                                                                     \
                    bad |= (type)((type) - (type)(p[i] == q[i]) & in[i]);                                            \
            }                                                                                                        \
        }                                                                                                            \
        return bad != 0;                                                                                             \
    }
DEFINE_BLOCK_IS_BAD(block_is_bad8, uint8_t)
DEFINE_BLOCK_IS_BAD(block_is_bad16, uint16_t)

bool trace_find_bad_list(const uint8_t *ids, uint64_t n, uint32_t k, uint32_t id_bytes, uint32_t n_experts, uint64_t *bad,
                         char *what, size_t what_size) {
    bool has_unused = trace_has_unused(n_experts, id_bytes);
    uint64_t done = 0;
    enum { LARGEST_K = 16 };
    uint32_t per_block = BLOCK / k * k;
    if (n * k > 2 * BLOCK && k <= LARGEST_K && (uintptr_t)ids % id_bytes == 0) {
        /* A block reads up to k elements past its end, so the last lists are left to the plain loop. */
        _Alignas(64) uint8_t masks[LARGEST_K * BLOCK * 2];
        for (uint32_t d = 1; d < k; d++)
            for (uint32_t i = 0; i < BLOCK; i++) {
                uint8_t m = i % k + d < k ? 0xff : 0;
                if (id_bytes == 1)
                    masks[(size_t)d * BLOCK + i] = m;
                else
                    masks[((size_t)d * BLOCK + i) * 2] = masks[((size_t)d * BLOCK + i) * 2 + 1] = m;
            }
        uint64_t n_elements = (n - 1) * k;
        for (uint64_t at = 0; at + per_block <= n_elements; at += per_block) {
            bool is_bad = id_bytes == 1
                              ? block_is_bad8(ids + at, per_block, k, (uint8_t)(n_experts - 1), has_unused, masks)
                              : block_is_bad16((const uint16_t *)(const void *)(ids + at * 2), per_block, k,
                                               (uint16_t)(n_experts - 1), has_unused, (const uint16_t *)(const void *)masks);
            if (is_bad)
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
    if (t->n_layers < 1 || t->n_layers > MP_MAX_LAYERS || t->n_experts < 1 || t->n_experts > MP_MAX_EXPERTS || t->top_k > MP_MAX_TOP_K ||
        t->top_k > t->n_experts)
        return mp_fail(err, MP_EINPUT, "%u layers, %u experts, top-%u are not a trace's", t->n_layers, t->n_experts, t->top_k);
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->layer_ids[l] >= MP_MAX_LAYERS || (l > 0 && t->layer_ids[l] <= t->layer_ids[l - 1]))
            return mp_fail(err, MP_EINPUT, "layer %u of the list does not ascend", l);
    for (uint64_t i = 0; i < t->n_pairs; i++) {
        const struct mp_pair *p = &t->pairs[i];
        if (p->layer >= t->n_layers || p->first >= p->second || p->second >= t->n_experts || p->count > MP_MAX_TOKENS)
            return mp_fail(err, MP_EINPUT, "pair %llu is not two ascending experts of one layer", (unsigned long long)i);
        const struct mp_pair *before = i > 0 ? p - 1 : NULL;
        if (before != NULL && (before->layer > p->layer || (before->layer == p->layer && (before->first > p->first ||
                               (before->first == p->first && before->second >= p->second)))))
            return mp_fail(err, MP_EINPUT, "pair %llu is not in order, or given twice", (unsigned long long)i);
    }
    if (t->kind == MP_TRACE_COUNTS) {
        if (t->n_iterations == 0 || t->n_sources == 0 || t->n_sources > MP_MAX_GPUS || (!t->source_known && t->n_sources != 1))
            return mp_fail(err, MP_EINPUT, "%u iterations of %u sources are not a trace's", t->n_iterations, t->n_sources);
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
        return mp_fail(err, MP_EINPUT, "%llu tokens of top-%u in %u bytes are not a trace's", (unsigned long long)t->n_rows, t->top_k,
                       t->id_bytes);
    if (trace_find_bad_request(t, &bad, &why))
        return mp_fail(err, MP_EINPUT, "request %llu %s", (unsigned long long)bad, why);
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint64_t row = 0, n; row < t->n_rows; row += n) {
            const uint8_t *p = mp_trace_ids(t, l, row, &n);
            char what[128];
            if (trace_find_bad_list(p, n, t->top_k, t->id_bytes, t->n_experts, &bad, what, sizeof what))
                return mp_fail(err, MP_EINPUT, "token %llu, layer %u: %s", (unsigned long long)(row + bad), t->layer_ids[l], what);
        }
    return MP_OK;
}

static bool same_bytes(const void *a, const void *b, size_t n) { return n == 0 || memcmp(a, b, n) == 0; }

bool mp_trace_equal(const struct mp_trace *a, const struct mp_trace *b) {
    if (a->kind != b->kind || a->phase != b->phase || strcmp(a->model, b->model) != 0 || a->is_synthetic != b->is_synthetic ||
        a->is_ranked != b->is_ranked || a->is_time_ordered != b->is_time_ordered || a->n_layers != b->n_layers ||
        a->n_experts != b->n_experts || a->top_k != b->top_k || a->n_categories != b->n_categories || a->n_rows != b->n_rows ||
        a->id_bytes != b->id_bytes || a->n_requests != b->n_requests || a->n_iterations != b->n_iterations ||
        a->n_sources != b->n_sources || a->source_known != b->source_known || a->n_pairs != b->n_pairs ||
        (a->weight_chunks == NULL) != (b->weight_chunks == NULL) || (a->iteration_category == NULL) != (b->iteration_category == NULL))
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
            (a->weight_chunks != NULL && !same_bytes(a->weight_chunks[c], b->weight_chunks[c], n * 2)))
            return false;
    }
    return true;
}
