/* Builds a trace token by token or cell by cell. Memory is what the trace will need, plus at most one chunk while the
 * last one grows. */
#include "recording_rows.h"
#include "trace_box.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { FIRST_CHUNK_ROWS = 256, MAX_CATEGORIES = 65536, COPY_BLOCK_ROWS = 256 };

struct mp_trace_builder {
    struct trace_box *box;
    struct mp_trace *t;
    bool has_unused, has_weights;
    uint64_t memory_bytes; /* the limit */
    size_t row_bytes;      /* of one token in all layers, ids only */
    uint64_t room_rows;    /* of the chunk being filled */
    uint64_t n_checked;    /* rows whose lists have been checked */
    uint64_t n_expected;   /* rows in all, as far as is known; 0 = not */
    uint64_t chunk_room, request_room, pair_room, iteration_room;
    struct mp_request *requests;
    struct mp_pair *pairs;
    uint64_t *counts;
    uint32_t *iteration_category;
    bool any_iteration_category;
    const char **categories;
    uint32_t category_room, *category_slots; /* open addressing, index + 1; size a power of two, at most half full */
    uint32_t n_category_slots;
    uint64_t request_open; /* the current request is requests[request_open - 1]; 0 = none */
};

/* Doubles *p until it holds `need` items. */
static bool grow(void **p, uint64_t *room, uint64_t need, size_t size) {
    if (need <= *room)
        return true;
    uint64_t more = *room == 0 ? 16 : *room * 2;
    if (more < need)
        more = need;
    void *grown = mp_realloc(*p, more, size);
    if (grown == NULL)
        return false;
    *p = grown;
    *room = more;
    return true;
}

static enum mp_status check_meta(const struct mp_trace_meta *m, struct mp_error *err) {
    if (m->kind != MP_TRACE_TOKENS && m->kind != MP_TRACE_COUNTS)
        return mp_fail(err, MP_EBUG, "a trace of kind %d cannot be built", (int)m->kind);
    if (m->n_layers < 1 || m->n_layers > MP_MAX_LAYERS)
        return mp_fail(err, MP_ELIMIT, "%u layers are not in [1, %u]", m->n_layers, MP_MAX_LAYERS);
    if (m->n_experts < 1 || m->n_experts > MP_MAX_EXPERTS)
        return mp_fail(err, MP_ELIMIT, "%u experts are not in [1, %u]", m->n_experts, MP_MAX_EXPERTS);
    if (m->kind == MP_TRACE_TOKENS && (m->top_k < 1 || m->top_k > MP_MAX_TOP_K))
        return mp_fail(err, MP_ELIMIT, "top-%u is not in [1, %u]", m->top_k, MP_MAX_TOP_K);
    if (m->top_k > m->n_experts)
        return mp_fail(err, MP_EINPUT, "top-%u of %u experts is not possible", m->top_k, m->n_experts);
    if (m->kind == MP_TRACE_COUNTS && m->n_sources > MP_MAX_GPUS)
        return mp_fail(err, MP_ELIMIT, "%u source ranks are more than %u", m->n_sources, MP_MAX_GPUS);
    if (m->model != NULL && (strlen(m->model) > MP_MAX_NAME || !mp_is_text(m->model, strlen(m->model))))
        return mp_fail(err, MP_EINPUT, "the model's name is not text of at most %u bytes", MP_MAX_NAME);
    for (uint32_t l = 0; m->layer_ids != NULL && l < m->n_layers; l++) {
        if (m->layer_ids[l] >= MP_MAX_LAYERS)
            return mp_fail(err, MP_ELIMIT, "layer %u is not below %u", m->layer_ids[l], MP_MAX_LAYERS);
        if (l > 0 && m->layer_ids[l] <= m->layer_ids[l - 1])
            return mp_fail(err, MP_EINPUT, "layer %u stands after layer %u (layers must ascend)", m->layer_ids[l],
                           m->layer_ids[l - 1]);
    }
    return MP_OK;
}

enum mp_status mp_trace_builder_new(struct mp_trace_builder **out, const struct mp_trace_meta *m,
                                    const struct mp_limits *limits, struct mp_error *err) {
    *out = NULL;
    enum mp_status status = check_meta(m, err);
    if (status != MP_OK)
        return status;
    struct mp_trace_builder *b = mp_calloc(1, sizeof *b);
    if (b == NULL || (b->box = trace_box_new()) == NULL)
        goto nomem;
    struct mp_trace *t = b->t = &b->box->t;
    b->box->owns_chunks = true;
    b->memory_bytes = limits->memory_bytes != 0 ? limits->memory_bytes : UINT64_MAX;
    b->has_unused = m->has_unused;
    b->has_weights = m->has_weights && m->kind == MP_TRACE_TOKENS;
    t->kind = m->kind;
    t->phase = m->phase;
    t->is_synthetic = m->is_synthetic;
    t->is_ranked = m->is_ranked;
    t->is_time_ordered = m->is_time_ordered;
    t->n_layers = m->n_layers;
    t->n_experts = m->n_experts;
    t->top_k = m->top_k;
    t->model = mp_arena_strdup(t->arena, m->model != NULL ? m->model : "");
    t->format = mp_arena_strdup(t->arena, m->format != NULL ? m->format : "");
    uint32_t *ids = mp_arena_alloc(t->arena, m->n_layers, sizeof *ids);
    if (t->model == NULL || t->format == NULL || ids == NULL)
        goto nomem;
    for (uint32_t l = 0; l < m->n_layers; l++)
        ids[l] = m->layer_ids != NULL ? m->layer_ids[l] : l;
    t->layer_ids = ids;
    if (m->kind == MP_TRACE_TOKENS) {
        t->id_bytes = trace_id_bytes(m->n_experts, m->has_unused);
        b->row_bytes = (size_t)m->n_layers * m->top_k * t->id_bytes;
    } else {
        t->n_sources = m->n_sources > 1 ? m->n_sources : 1;
        t->source_known = m->n_sources > 1;
    }
    *out = b;
    return MP_OK;
nomem:
    mp_trace_builder_free(b);
    return mp_nomem(err, "trace");
}

void mp_trace_builder_free(struct mp_trace_builder *b) {
    if (b == NULL)
        return;
    mp_free(b->requests);
    mp_free(b->pairs);
    mp_free(b->counts);
    mp_free(b->iteration_category);
    mp_free(b->categories);
    mp_free(b->category_slots);
    if (b->box != NULL)
        mp_trace_free(&b->box->t);
    mp_free(b);
}

static uint64_t hash_name(const char *s) {
    uint64_t h = 0;
    for (; *s != '\0'; s++)
        h = mp_mix64(h ^ (unsigned char)*s);
    return h;
}

static void put_category(struct mp_trace_builder *b, uint32_t index) {
    uint32_t mask = b->n_category_slots - 1;
    uint32_t i = (uint32_t)hash_name(b->categories[index]) & mask;
    while (b->category_slots[i] != 0)
        i = (i + 1) & mask;
    b->category_slots[i] = index + 1;
}

enum mp_status mp_trace_builder_category(struct mp_trace_builder *b, const char *name, uint32_t *out,
                                         struct mp_error *err) {
    *out = MP_NONE;
    size_t n = strlen(name);
    if (n == 0 || n > MP_MAX_NAME || !mp_is_text(name, n)) {
        char quoted[64];
        return mp_fail(err, MP_EINPUT, "category \"%s\" is not text of 1 to %u bytes",
                       mp_quote(name, n, quoted, sizeof quoted), MP_MAX_NAME);
    }
    if (b->n_category_slots > 0) {
        uint32_t mask = b->n_category_slots - 1;
        for (uint32_t i = (uint32_t)hash_name(name) & mask; b->category_slots[i] != 0; i = (i + 1) & mask)
            if (strcmp(b->categories[b->category_slots[i] - 1], name) == 0) {
                *out = b->category_slots[i] - 1;
                return MP_OK;
            }
    }
    uint32_t index = b->t->n_categories;
    if (index >= MAX_CATEGORIES)
        return mp_fail(err, MP_ELIMIT, "more than %d categories", (int)MAX_CATEGORIES);
    uint64_t room = b->category_room;
    if (!grow((void **)&b->categories, &room, index + 1, sizeof *b->categories))
        return mp_nomem(err, "categories");
    b->category_room = (uint32_t)room;
    if ((index + 1) * 2 > b->n_category_slots) {
        uint32_t n_slots = b->n_category_slots == 0 ? 64 : b->n_category_slots * 2;
        uint32_t *slots = mp_calloc(n_slots, sizeof *slots);
        if (slots == NULL)
            return mp_nomem(err, "categories");
        mp_free(b->category_slots);
        b->category_slots = slots;
        b->n_category_slots = n_slots;
        for (uint32_t i = 0; i < index; i++)
            put_category(b, i);
    }
    b->categories[index] = mp_arena_strdup(b->t->arena, name);
    if (b->categories[index] == NULL)
        return mp_nomem(err, "categories");
    put_category(b, index);
    b->t->n_categories = index + 1;
    *out = index;
    return MP_OK;
}

static enum mp_status check_open_request(const struct mp_trace_builder *b, struct mp_error *err) {
    if (b->request_open > 0 && b->requests[b->request_open - 1].n_rows == 0)
        return mp_fail(err, MP_EINPUT, "request %llu has no tokens",
                       (unsigned long long)b->requests[b->request_open - 1].id);
    return MP_OK;
}

enum mp_status mp_trace_builder_request(struct mp_trace_builder *b, const struct mp_request *r, struct mp_error *err) {
    if (b->t->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EBUG, "a trace of counts has no requests");
    enum mp_status status = check_open_request(b, err);
    if (status != MP_OK)
        return status;
    if (r->category != MP_NONE && r->category >= b->t->n_categories)
        return mp_fail(err, MP_EBUG, "request %llu names category %u of %u", (unsigned long long)r->id, r->category,
                       b->t->n_categories);
    if (r->source != MP_NONE && r->source >= MP_MAX_GPUS)
        return mp_fail(err, MP_EINPUT, "request %llu ran on rank %u, which is not below %u", (unsigned long long)r->id,
                       r->source, MP_MAX_GPUS);
    if (!grow((void **)&b->requests, &b->request_room, b->request_open + 1, sizeof *r))
        return mp_nomem(err, "requests");
    b->requests[b->request_open] = *r;
    b->requests[b->request_open].first_row = b->t->n_rows;
    b->requests[b->request_open].n_rows = 0;
    b->request_open++;
    return MP_OK;
}

/* Lays the first `rows` rows of every layer out again at another stride; `to` may be `from` when the stride shrinks. */
static void restride(uint8_t *to, size_t to_stride, const uint8_t *from, size_t from_stride, size_t used,
                     uint32_t n_layers) {
    for (uint32_t l = 0; l < n_layers; l++)
        memmove(to + l * to_stride, from + l * from_stride, used);
}

/* Makes room for one more row in the last chunk. */
static enum mp_status reserve_row(struct mp_trace_builder *b, struct mp_error *err) {
    struct mp_trace *t = b->t;
    struct trace_box *box = b->box;
    if (b->request_open == 0)
        return mp_fail(err, MP_EBUG, "a row without a request");
    if (t->n_rows >= MP_MAX_TOKENS)
        return mp_fail(err, MP_ELIMIT, "more than %llu tokens", (unsigned long long)MP_MAX_TOKENS);
    uint64_t used = t->n_rows % MP_CHUNK_TOKENS;
    size_t list_ids = (size_t)t->top_k * t->id_bytes, list_weights = (size_t)t->top_k * 2;
    size_t row_all = b->row_bytes + (b->has_weights ? list_weights * t->n_layers : 0);
    if (used == 0) {
        uint64_t c = box->n_chunks, room = b->chunk_room, same = b->chunk_room;
        if (!grow((void **)&box->ids, &room, c + 1, sizeof *box->ids) ||
            (b->has_weights && !grow((void **)&box->weights, &same, c + 1, sizeof *box->weights)))
            return mp_nomem(err, "trace");
        b->chunk_room = room;
        /* The first chunk starts small; once one is full, the next most likely fills up too. */
        uint64_t rows = c == 0 ? FIRST_CHUNK_ROWS : MP_CHUNK_TOKENS;
        if (b->n_expected > t->n_rows)
            rows = b->n_expected - t->n_rows < MP_CHUNK_TOKENS ? b->n_expected - t->n_rows : MP_CHUNK_TOKENS;
        if ((t->n_rows + rows) > b->memory_bytes / row_all)
            rows = FIRST_CHUNK_ROWS;
        if ((t->n_rows + rows) > b->memory_bytes / row_all)
            return mp_fail(err, MP_ELIMIT, "the trace does not fit the memory limit of %llu bytes",
                           (unsigned long long)b->memory_bytes);
        box->ids[c] = mp_realloc(NULL, rows, b->row_bytes);
        if (b->has_weights)
            box->weights[c] = mp_realloc(NULL, rows, list_weights * t->n_layers);
        if (box->ids[c] == NULL || (b->has_weights && box->weights[c] == NULL)) {
            mp_free(box->ids[c]);
            if (b->has_weights)
                mp_free(box->weights[c]);
            return mp_nomem(err, "trace");
        }
        box->n_chunks++;
        b->room_rows = rows;
    } else if (used == b->room_rows) {
        uint64_t rows = b->room_rows * 2 < MP_CHUNK_TOKENS ? b->room_rows * 2 : MP_CHUNK_TOKENS, c = box->n_chunks - 1;
        if ((t->n_rows - used + rows) > b->memory_bytes / row_all)
            return mp_fail(err, MP_ELIMIT, "the trace does not fit the memory limit of %llu bytes",
                           (unsigned long long)b->memory_bytes);
        uint8_t *ids = mp_realloc(NULL, rows, b->row_bytes);
        uint8_t *weights = b->has_weights ? mp_realloc(NULL, rows, list_weights * t->n_layers) : NULL;
        if (ids == NULL || (b->has_weights && weights == NULL)) {
            mp_free(ids);
            mp_free(weights);
            return mp_nomem(err, "trace");
        }
        restride(ids, rows * list_ids, box->ids[c], used * list_ids, used * list_ids, t->n_layers);
        mp_free(box->ids[c]);
        box->ids[c] = ids;
        if (b->has_weights) {
            restride(weights, rows * list_weights, box->weights[c], used * list_weights, used * list_weights,
                     t->n_layers);
            mp_free(box->weights[c]);
            box->weights[c] = weights;
        }
        b->room_rows = rows;
    }
    return MP_OK;
}

static enum mp_status fail_list(const struct mp_trace_builder *b, uint32_t layer, uint64_t row, const char *what,
                                struct mp_error *err) {
    const struct mp_request *r = &b->requests[b->request_open - 1];
    while (row < r->first_row)
        r--;
    return mp_fail(err, MP_EINPUT, "token %llu of request %llu, layer %u: %s", (unsigned long long)(row - r->first_row),
                   (unsigned long long)r->id, b->t->layer_ids[layer], what);
}

void trace_builder_expect(struct mp_trace_builder *b, uint64_t n_rows) { b->n_expected = n_rows; }

uint8_t *trace_builder_list(const struct mp_trace_builder *b, uint32_t layer, uint64_t row) {
    uint64_t c = row / MP_CHUNK_TOKENS, rows = c + 1 < b->box->n_chunks ? MP_CHUNK_TOKENS : b->room_rows;
    return b->box->ids[c] + (layer * rows + row % MP_CHUNK_TOKENS) * b->t->top_k * b->t->id_bytes;
}

enum mp_status trace_builder_blank_row(struct mp_trace_builder *b, struct mp_error *err) {
    if (b->t->kind != MP_TRACE_TOKENS || b->has_weights)
        return mp_fail(err, MP_EBUG, "a row of another kind than its trace");
    enum mp_status status = reserve_row(b, err);
    if (status != MP_OK)
        return status;
    b->t->n_rows++;
    b->requests[b->request_open - 1].n_rows++;
    return MP_OK;
}

/* Checks n rows of one chunk, many at once, which is several times as fast as one by one. */
static enum mp_status check_rows(const struct mp_trace_builder *b, uint64_t from, uint64_t n, struct mp_error *err) {
    const struct mp_trace *t = b->t;
    uint32_t k = t->top_k;
    uint64_t bad;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        const uint8_t *start = trace_builder_list(b, l, from);
        char what[128];
        if (trace_find_bad_list(start, n, k, t->id_bytes, t->n_experts, &bad, what, sizeof what))
            return fail_list(b, l, from + bad, what, err);
        for (uint64_t i = 0; !b->has_unused && trace_has_unused(t->n_experts, t->id_bytes) && i < n; i++) {
            const uint8_t *last = start + ((i + 1) * k - 1) * t->id_bytes;
            if (last[0] == 0xff && last[t->id_bytes - 1] == 0xff) {
                snprintf(what, sizeof what, "%u is not an expert in [0, %u)", t->id_bytes == 1 ? 255u : 65535u,
                         t->n_experts);
                return fail_list(b, l, from + i, what, err);
            }
        }
    }
    return MP_OK;
}

/* Checks the lists that nobody has looked at yet. Called when a chunk of mp_trace_builder_rows is full and at the
 * end. */
static enum mp_status check_pending(struct mp_trace_builder *b, struct mp_error *err) {
    enum mp_status status = MP_OK;
    while (status == MP_OK && b->n_checked < b->t->n_rows) {
        uint64_t from = b->n_checked, n = MP_CHUNK_TOKENS - from % MP_CHUNK_TOKENS;
        if (n > b->t->n_rows - from)
            n = b->t->n_rows - from;
        b->n_checked += n;
        status = check_rows(b, from, n, err);
    }
    return status;
}

enum mp_status mp_trace_builder_row(struct mp_trace_builder *b, const uint16_t *ids, const uint16_t *weights,
                                    struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (t->kind != MP_TRACE_TOKENS || (weights != NULL) != b->has_weights)
        return mp_fail(err, MP_EBUG, "a row of another kind than its trace");
    enum mp_status status = reserve_row(b, err);
    if (status != MP_OK)
        return status;
    uint32_t k = t->top_k;
    uint64_t used = t->n_rows % MP_CHUNK_TOKENS, bad;
    char what[128];
    for (uint32_t l = 0; l < t->n_layers; l++) {
        const uint16_t *list = ids + (size_t)l * k;
        if (trace_find_bad_list((const uint8_t *)list, 1, k, 2, t->n_experts, &bad, what, sizeof what))
            return fail_list(b, l, t->n_rows, what, err);
        if (!b->has_unused && list[k - 1] == MP_NO_EXPERT)
            return fail_list(b, l, t->n_rows, "has fewer experts than top-k says", err);
    }
    uint64_t c = b->box->n_chunks - 1;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        const uint16_t *list = ids + (size_t)l * k;
        size_t place = ((size_t)l * b->room_rows + used) * k;
        if (t->id_bytes == 2)
            memcpy(b->box->ids[c] + place * 2, list, (size_t)k * 2);
        else
            for (uint32_t i = 0; i < k; i++)
                b->box->ids[c][place + i] = (uint8_t)list[i];
        if (b->has_weights)
            memcpy(b->box->weights[c] + place * 2, weights + (size_t)l * k, (size_t)k * 2);
    }
    if (b->n_checked == t->n_rows) /* this row is checked already */
        b->n_checked++;
    t->n_rows++;
    b->requests[b->request_open - 1].n_rows++;
    return t->n_rows % MP_CHUNK_TOKENS == 0 ? check_pending(b, err) : MP_OK;
}

/* One id of the source array as the trace keeps it. False: it is not an expert and not "unused". */
static bool narrow(const uint8_t *p, uint32_t bytes, uint32_t n_experts, bool has_unused, uint16_t *out,
                   uint64_t *value) {
    uint64_t v = 0;
    memcpy(&v, p, bytes);
    uint64_t all = bytes == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * bytes)) - 1;
    *value = v;
    if (has_unused && v == all && v >= n_experts) {
        *out = MP_NO_EXPERT;
        return true;
    }
    *out = (uint16_t)v;
    return v < n_experts;
}

/* n lists that stand `stride` apart, one after the other. The usual sizes are spelt out, so that each copy is an
 * instruction or two. */
static void gather(uint8_t *restrict to, const uint8_t *restrict from, size_t list, size_t stride, uint64_t n) {
#define COPY(size)                                                                                                     \
    for (uint64_t i = 0; i < n; i++)                                                                                   \
    memcpy(to + i * (size), from + i * stride, size)
    switch (list) {
    case 4:
        COPY(4);
        break;
    case 6:
        COPY(6);
        break;
    case 8:
        COPY(8);
        break;
    case 16:
        COPY(16);
        break;
    default:
        COPY(list);
        break;
    }
#undef COPY
}

/* Rows [0, n) of token-major ids into rows [used, used + n) of the chunk, all layers. */
static enum mp_status scatter(struct mp_trace_builder *b, const uint8_t *ids, uint32_t bytes, uint64_t n,
                              struct mp_error *err) {
    struct mp_trace *t = b->t;
    uint32_t k = t->top_k;
    size_t list = (size_t)k * bytes, stride = list * t->n_layers;
    uint64_t used = t->n_rows % MP_CHUNK_TOKENS;
    uint8_t *chunk = b->box->ids[b->box->n_chunks - 1];
    for (uint32_t l = 0; l < t->n_layers; l++) {
        uint8_t *to = chunk + ((size_t)l * b->room_rows + used) * k * t->id_bytes;
        const uint8_t *from = ids + l * list;
        if (bytes == t->id_bytes) {
            gather(to, from, list, stride, n);
        } else {
            for (uint64_t i = 0; i < n; i++, from += stride)
                for (uint32_t j = 0; j < k; j++, to += t->id_bytes) {
                    uint16_t id;
                    uint64_t value;
                    if (!narrow(from + (size_t)j * bytes, bytes, t->n_experts, b->has_unused, &id, &value)) {
                        char what[96];
                        int64_t negative =
                            bytes == 8 ? (int64_t)value : (int64_t)(value << (64 - 8 * bytes)) >> (64 - 8 * bytes);
                        if (b->has_unused && negative < 0)
                            snprintf(what, sizeof what, "%lld is not an expert in [0, %u)", (long long)negative,
                                     t->n_experts);
                        else
                            snprintf(what, sizeof what, "%llu is not an expert in [0, %u)", (unsigned long long)value,
                                     t->n_experts);
                        return fail_list(b, l, t->n_rows + i, what, err);
                    }
                    memcpy(to, &id, t->id_bytes);
                }
        }
    }
    return MP_OK;
}

enum mp_status mp_trace_builder_rows(struct mp_trace_builder *b, const void *ids, uint32_t id_bytes, uint64_t n,
                                     struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (t->kind != MP_TRACE_TOKENS || b->has_weights ||
        (id_bytes != 1 && id_bytes != 2 && id_bytes != 4 && id_bytes != 8))
        return mp_fail(err, MP_EBUG, "rows of another kind than their trace");
    const uint8_t *p = ids;
    while (n > 0) {
        enum mp_status status = reserve_row(b, err);
        if (status != MP_OK)
            return status;
        uint64_t part = b->room_rows - t->n_rows % MP_CHUNK_TOKENS;
        if (part > n)
            part = n;
        if (part > COPY_BLOCK_ROWS) /* small enough for the caches while the layers are picked out of it */
            part = COPY_BLOCK_ROWS;
        status = scatter(b, p, id_bytes, part, err);
        if (status != MP_OK)
            return status;
        t->n_rows += part;
        b->requests[b->request_open - 1].n_rows += part;
        if (t->n_rows % MP_CHUNK_TOKENS == 0 && (status = check_pending(b, err)) != MP_OK)
            return status;
        p += part * t->n_layers * t->top_k * id_bytes;
        n -= part;
    }
    return MP_OK;
}

/* Asks for large pages: filling hundreds of MB in pages of 4 KiB costs a fifth of the time of reading a recording. Only
 * a hint. */
static void hint_large(void *p, size_t n) {
    enum { LARGE_PAGE = 2 << 20 };
    uintptr_t from = ((uintptr_t)p + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE,
              to = ((uintptr_t)p + n) / LARGE_PAGE * LARGE_PAGE;
    if (to > from && to - from >= 8 * (uintptr_t)LARGE_PAGE)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
}

enum mp_status mp_trace_builder_iteration(struct mp_trace_builder *b, uint32_t category, struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (t->kind != MP_TRACE_COUNTS || (category != MP_NONE && category >= t->n_categories))
        return mp_fail(err, MP_EBUG, "an iteration of another kind than its trace");
    size_t cells = (size_t)t->n_sources * t->n_layers * t->n_experts; /* at most 2^34 */
    uint64_t need = (uint64_t)t->n_iterations + 1;
    if (need > UINT32_MAX / 2 || need > b->memory_bytes / 8 / cells)
        return mp_fail(err, MP_ELIMIT, "%llu iterations of %zu counts do not fit the memory limit of %llu bytes",
                       (unsigned long long)need, cells, (unsigned long long)b->memory_bytes);
    uint64_t room = b->iteration_room, same = b->iteration_room;
    if (!grow((void **)&b->iteration_category, &room, need, sizeof(uint32_t)))
        return mp_nomem(err, "trace");
    if (need > same) {
        /* Counts are the large part: twice as many while few, a quarter more later. */
        uint64_t more = same < 64 ? (same == 0 ? 1 : same * 2) : same + same / 4;
        uint64_t *grown = mp_realloc(b->counts, more, cells * sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "trace");
        b->counts = grown;
        b->iteration_room = more;
    }
    memset(b->counts + (need - 1) * cells, 0, cells * sizeof *b->counts);
    b->iteration_category[need - 1] = category;
    b->any_iteration_category |= category != MP_NONE;
    t->n_iterations = (uint32_t)need;
    return MP_OK;
}

enum mp_status mp_trace_builder_count(struct mp_trace_builder *b, uint32_t source, uint32_t layer, uint32_t expert,
                                      uint64_t n, struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (t->kind != MP_TRACE_COUNTS || t->n_iterations == 0)
        return mp_fail(err, MP_EBUG, "a count without an iteration");
    if (source >= t->n_sources || layer >= t->n_layers || expert >= t->n_experts)
        return mp_fail(err, MP_EINPUT, "source %u, layer %u, expert %u is not inside %u x %u x %u", source, layer,
                       expert, t->n_sources, t->n_layers, t->n_experts);
    size_t i = (((size_t)(t->n_iterations - 1) * t->n_sources + source) * t->n_layers + layer) * t->n_experts + expert;
    uint64_t sum;
    if (mp_add_overflow(b->counts[i], n, &sum) || sum > MP_MAX_TOKENS)
        return mp_fail(err, MP_ELIMIT, "the count of source %u, layer %u, expert %u passes %llu", source,
                       t->layer_ids[layer], expert, (unsigned long long)MP_MAX_TOKENS);
    b->counts[i] = sum;
    return MP_OK;
}

enum mp_status recording_bad_count(const struct mp_in *in, uint64_t at, int64_t value, struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, in->path, 0, at + 1, "\"%lld\" is not a count of tokens (0 to %llu)",
                      (long long)value, (unsigned long long)MP_MAX_TOKENS);
}

/* Adds counts in place, without a branch per cell. False when one was negative or a sum passes MP_MAX_TOKENS: the build
 * is then lost, and the slow way finds the first culprit among numbers that are still as in the file. */
static bool add_in_place(uint64_t *to, const uint8_t *bytes, uint32_t item, uint32_t n) {
    uint64_t all = 0;
    if (item == 4)
        for (uint32_t i = 0; i < n; i++) {
            int32_t c;
            memcpy(&c, bytes + (size_t)i * 4, 4);
            to[i] += (uint64_t)(int64_t)c;
            all |= to[i] | (uint64_t)(int64_t)c;
        }
    else
        for (uint32_t i = 0; i < n; i++) {
            uint64_t c;
            memcpy(&c, bytes + (size_t)i * 8, 8);
            to[i] += c;
            all |= to[i] | c;
        }
    return all < MP_MAX_TOKENS;
}

enum mp_status trace_builder_reserve(struct mp_trace_builder *b, uint64_t n_iterations, struct mp_error *err) {
    struct mp_trace *t = b->t;
    size_t cells = (size_t)t->n_sources * t->n_layers * t->n_experts;
    if (b->counts != NULL || n_iterations == 0 || n_iterations > UINT32_MAX / 2 ||
        n_iterations > b->memory_bytes / 8 / cells)
        return MP_OK; /* growing will say what is wrong */
    b->counts = mp_realloc(NULL, n_iterations, cells * sizeof *b->counts);
    b->iteration_category = mp_realloc(NULL, n_iterations, sizeof *b->iteration_category);
    if (b->counts == NULL || b->iteration_category == NULL)
        return mp_nomem(err, "trace");
    b->iteration_room = n_iterations;
    hint_large(b->counts, n_iterations * cells * sizeof *b->counts);
    return MP_OK;
}

enum mp_status trace_builder_add(struct mp_trace_builder *b, uint32_t layer, const uint8_t *bytes, uint32_t item,
                                 uint32_t n, const uint16_t *logical, uint64_t *bad, struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (t->kind != MP_TRACE_COUNTS || t->n_iterations == 0 || layer >= t->n_layers ||
        (logical == NULL && n > t->n_experts))
        return mp_fail(err, MP_EBUG, "a row of counts that the trace has no place for");
    uint64_t *to = b->counts + ((size_t)(t->n_iterations - 1) * t->n_sources * t->n_layers + layer) * t->n_experts;
    if (logical == NULL && add_in_place(to, bytes, item, n))
        return MP_OK;
    for (uint32_t i = 0; i < n; i++) {
        int64_t count = number_at(bytes, item, i);
        uint32_t expert = logical != NULL ? logical[i] : i;
        if (count == 0)
            continue;
        *bad = i;
        if (count < 0 || count > (int64_t)MP_MAX_TOKENS)
            return MP_EINPUT;
        if (expert >= t->n_experts)
            return mp_fail(err, MP_EINPUT, "expert %u is not one of %u", expert, t->n_experts);
        /* In place it has been added already. */
        uint64_t sum = logical == NULL ? to[expert] : to[expert] + (uint64_t)count;
        if (sum > MP_MAX_TOKENS)
            return mp_fail(err, MP_ELIMIT, "the count of layer %u, expert %u passes %llu", t->layer_ids[layer], expert,
                           (unsigned long long)MP_MAX_TOKENS);
        to[expert] = sum;
    }
    return MP_OK;
}

enum mp_status mp_trace_builder_pair(struct mp_trace_builder *b, const struct mp_pair *p, struct mp_error *err) {
    struct mp_trace *t = b->t;
    if (p->layer >= t->n_layers || p->first >= p->second || p->second >= t->n_experts)
        return mp_fail(err, MP_EINPUT, "pair %u, %u of layer %u is not two ascending experts of [0, %u)", p->first,
                       p->second, p->layer < t->n_layers ? t->layer_ids[p->layer] : p->layer, t->n_experts);
    if (p->count > MP_MAX_TOKENS)
        return mp_fail(err, MP_ELIMIT, "pair %u, %u: the count passes %llu", p->first, p->second,
                       (unsigned long long)MP_MAX_TOKENS);
    if ((t->n_pairs + 1) > b->memory_bytes / sizeof *p)
        return mp_fail(err, MP_ELIMIT, "the pairs do not fit the memory limit of %llu bytes",
                       (unsigned long long)b->memory_bytes);
    if (!grow((void **)&b->pairs, &b->pair_room, t->n_pairs + 1, sizeof *p))
        return mp_nomem(err, "pairs");
    struct mp_pair *to = &b->pairs[t->n_pairs++];
    memset(to, 0, sizeof *to); /* the padding is written to files */
    to->layer = p->layer;
    to->first = p->first;
    to->second = p->second;
    to->count = p->count;
    return MP_OK;
}

static int compare_pairs(const void *pa, const void *pb) {
    const struct mp_pair *a = pa, *b = pb;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return a->second < b->second ? -1 : a->second > b->second;
}

/* Closes the gap between the layers of a last chunk that is not full, and gives back the room. */
static void shrink_last_chunk(struct mp_trace_builder *b) {
    struct mp_trace *t = b->t;
    struct trace_box *box = b->box;
    uint64_t c = box->n_chunks - 1, rows = trace_chunk_rows(t->n_rows, c);
    if (rows == b->room_rows)
        return;
    size_t list_ids = (size_t)t->top_k * t->id_bytes, list_weights = (size_t)t->top_k * 2;
    restride(box->ids[c], rows * list_ids, box->ids[c], b->room_rows * list_ids, rows * list_ids, t->n_layers);
    uint8_t *smaller = mp_realloc(box->ids[c], rows, b->row_bytes);
    if (smaller != NULL)
        box->ids[c] = smaller;
    if (b->has_weights) {
        restride(box->weights[c], rows * list_weights, box->weights[c], b->room_rows * list_weights,
                 rows * list_weights, t->n_layers);
        smaller = mp_realloc(box->weights[c], rows, list_weights * t->n_layers);
        if (smaller != NULL)
            box->weights[c] = smaller;
    }
}

enum mp_status mp_trace_builder_finish(struct mp_trace_builder *b, const char *sha256, struct mp_trace **out,
                                       struct mp_error *err) {
    *out = NULL;
    struct mp_trace *t = b->t;
    struct trace_box *box = b->box;
    enum mp_status status = MP_OK;
    if (t->kind == MP_TRACE_TOKENS) {
        if (t->n_rows == 0) {
            status = mp_fail(err, MP_EINPUT, "the recording holds no tokens");
            goto out;
        }
        MP_TRY(check_open_request(b, err));
        MP_TRY(check_pending(b, err));
        shrink_last_chunk(b);
        t->chunks = (const uint8_t *const *)box->ids;
        t->weight_chunks = b->has_weights ? (const uint8_t *const *)box->weights : NULL;
        t->n_requests = b->request_open;
        t->requests = box->requests = b->requests;
        b->requests = NULL;
    } else {
        if (t->n_iterations == 0) {
            status = mp_fail(err, MP_EINPUT, "the recording holds no counts");
            goto out;
        }
        t->counts = box->counts = b->counts;
        b->counts = NULL;
        if (b->any_iteration_category) {
            t->iteration_category = box->iteration_category = b->iteration_category;
            b->iteration_category = NULL;
        }
    }
    if (t->n_pairs > 0) {
        qsort(b->pairs, t->n_pairs, sizeof *b->pairs, compare_pairs); /* keys are unique, or the build is refused */
        for (uint64_t i = 1; i < t->n_pairs; i++)
            if (compare_pairs(&b->pairs[i - 1], &b->pairs[i]) == 0) {
                status = mp_fail(err, MP_EINPUT, "pair %u, %u of layer %u is given twice", b->pairs[i].first,
                                 b->pairs[i].second, t->layer_ids[b->pairs[i].layer]);
                goto out;
            }
        t->pairs = box->pairs = b->pairs;
        b->pairs = NULL;
    }
    const char **names = mp_arena_alloc(t->arena, t->n_categories, sizeof *names);
    if (names == NULL) {
        status = mp_nomem(err, "categories");
        goto out;
    }
    for (uint32_t i = 0; i < t->n_categories; i++)
        names[i] = b->categories[i];
    t->categories = names;
    snprintf(t->sha256, sizeof t->sha256, "%s", sha256 != NULL ? sha256 : "");
    *out = t;
    b->box = NULL;
out:
    mp_trace_builder_free(b);
    return status;
}
