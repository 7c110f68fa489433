/* Reads traces/FORMAT.md without copying: chunks, counts, pairs and requests stay in the mapping. The header is checked
 * first and holds the checksum of every chunk; chunks are then checked in parallel, ids included, so that nobody behind
 * this file meets a wrong one. */
#include "trace_native.h"
#include <moeplan/progress.h>
#include <string.h>

struct native {
    const struct mp_in *in;
    const char *path;
    const struct mp_limits *limits;
    struct mp_error *err;
};

static uint32_t get_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t get_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return 0;
    if (in->size >= 8 && memcmp(in->data, NATIVE_MAGIC, 8) == 0)
        return 100;
    /* A damaged or cut magic is still ours when the name says so: its message helps more than "unknown format". */
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".mpt") == 0 ? 2 : 0;
}

#define BAD(at, ...) mp_fail_at(err, MP_EINPUT, path, 0, (uint64_t)(at) + 1, __VA_ARGS__)

static enum mp_status check_fixed(const struct mp_in *in, const char *path, struct mp_error *err) {
    const uint8_t *h = in->data;
    if (in->size < 8 || memcmp(h, NATIVE_MAGIC, 8) != 0)
        return BAD(
            0, "does not start with the mark of a native trace (it was damaged, or changed by a text-mode transfer)");
    if (in->size < NATIVE_FIXED)
        return BAD(in->size, "the file ends inside its header of at least %d bytes (copy it again)", NATIVE_FIXED);
    if (get_u32(h + 8) != NATIVE_VERSION)
        return BAD(8, "version %u is not known (this program reads version %d)", get_u32(h + 8), NATIVE_VERSION);
    uint64_t file_bytes = get_u64(h + 16), header_bytes = get_u64(h + 24);
    if (file_bytes != in->size)
        return BAD(16, "the file is %zu bytes but says it has %llu (it is cut short or damaged: copy it again)",
                   in->size, (unsigned long long)file_bytes);
    if (header_bytes < NATIVE_FIXED || header_bytes > in->size || header_bytes % NATIVE_ALIGN != 0)
        return BAD(24, "a header of %llu bytes is not possible in a file of %zu", (unsigned long long)header_bytes,
                   in->size);
    static const uint8_t zeros[4];
    uint32_t crc = trace_crc32(0, h, NATIVE_CRC_AT);
    crc = trace_crc32(crc, zeros, 4);
    crc = trace_crc32(crc, h + NATIVE_FIXED, header_bytes - NATIVE_FIXED);
    if (crc != get_u32(h + NATIVE_CRC_AT))
        return BAD(NATIVE_CRC_AT,
                   "the header's checksum is %08x but its bytes give %08x (the file is damaged: copy it again)",
                   get_u32(h + NATIVE_CRC_AT), crc);
    return MP_OK;
}

/* Where each part of the header lies. */
struct places {
    size_t layers, iteration_categories, requests, entries, strings;
    uint64_t n_chunks, n_strings;
    bool has_weights, has_signatures;
};

/* Fills in the figures of the fixed part and checks that the parts fit the header exactly. A header with a right
 * checksum can still be hostile: nothing is believed. */
static enum mp_status read_figures(struct mp_trace *t, struct places *pl, const struct mp_in *in, const char *path,
                                   struct mp_error *err) {
    const uint8_t *h = in->data;
    uint32_t flags = get_u32(h + 12);
    uint64_t header_bytes = get_u64(h + 24);
    if (flags > NATIVE_ALL_FLAGS)
        return BAD(12, "flags %#x hold one that is not known", flags);
    if (h[32] != MP_TRACE_TOKENS && h[32] != MP_TRACE_COUNTS)
        return BAD(32, "kind %u is neither tokens (1) nor counts (2)", h[32]);
    if (h[33] > MP_PHASE_MIXED)
        return BAD(33, "phase %u is not known", h[33]);
    t->kind = h[32];
    t->phase = h[33];
    t->id_bytes = h[34];
    t->is_synthetic = flags & NATIVE_SYNTHETIC;
    t->is_ranked = flags & NATIVE_RANKED;
    t->is_time_ordered = flags & NATIVE_TIME_ORDERED;
    t->source_known = flags & NATIVE_SOURCES;
    t->n_layers = get_u32(h + 36);
    t->n_experts = get_u32(h + 40);
    t->top_k = get_u32(h + 44);
    t->n_rows = get_u64(h + 48);
    t->n_requests = get_u64(h + 56);
    t->n_iterations = get_u32(h + 64);
    t->n_sources = get_u32(h + 68);
    t->n_pairs = get_u64(h + 72);
    pl->n_chunks = get_u64(h + 80);
    pl->n_strings = get_u64(h + 88);
    t->n_categories = get_u32(h + 96);
    if (h[35] != 0)
        return BAD(35, "a reserved byte is not zero");
    for (size_t i = 100; i < NATIVE_CRC_AT; i++)
        if (h[i] != 0)
            return BAD(i, "a reserved byte is not zero");
    if (t->n_layers < 1 || t->n_layers > MP_MAX_LAYERS)
        return BAD(36, "%u layers are not in [1, %u]", t->n_layers, MP_MAX_LAYERS);
    if (t->n_experts < 1 || t->n_experts > MP_MAX_EXPERTS)
        return BAD(40, "%u experts are not in [1, %u]", t->n_experts, MP_MAX_EXPERTS);
    if (t->top_k > MP_MAX_TOP_K || t->top_k > t->n_experts || (t->kind == MP_TRACE_TOKENS && t->top_k == 0))
        return BAD(44, "top-%u of %u experts is not possible", t->top_k, t->n_experts);
    bool is_tokens = t->kind == MP_TRACE_TOKENS;
    if (is_tokens) {
        bool needs_two = t->n_experts > 256;
        if (t->id_bytes != 2 && (t->id_bytes != 1 || needs_two))
            return BAD(34, "ids of %u bytes cannot hold %u experts", t->id_bytes, t->n_experts);
        if (t->n_rows < 1 || t->n_rows > MP_MAX_TOKENS || t->n_rows > in->size)
            return BAD(48, "%llu tokens are not possible in a file of %zu bytes", (unsigned long long)t->n_rows,
                       in->size);
        if (t->n_requests < 1 || t->n_requests > t->n_rows)
            return BAD(56, "%llu requests are not possible for %llu tokens", (unsigned long long)t->n_requests,
                       (unsigned long long)t->n_rows);
        if (t->n_iterations != 0 || t->n_sources != 0 || t->n_pairs != 0 ||
            flags & (NATIVE_SOURCES | NATIVE_ITERATION_CATEGORIES))
            return BAD(64, "a recording of tokens has no iterations, sources or pairs");
    } else {
        if (t->id_bytes != 0 || t->n_rows != 0 || t->n_requests != 0 || flags & (NATIVE_WEIGHTS | NATIVE_SIGNATURES))
            return BAD(34, "a recording of counts has no tokens");
        if (t->n_iterations < 1 || t->n_iterations > in->size)
            return BAD(64, "%u iterations are not possible in a file of %zu bytes", t->n_iterations, in->size);
        if (t->n_sources < 1 || t->n_sources > MP_MAX_GPUS || (!t->source_known && t->n_sources != 1))
            return BAD(68, "%u source ranks are not possible", t->n_sources);
        if (t->n_pairs > in->size / sizeof(struct mp_pair))
            return BAD(72, "%llu pairs do not fit a file of %zu bytes", (unsigned long long)t->n_pairs, in->size);
    }
    pl->has_weights = flags & NATIVE_WEIGHTS;
    pl->has_signatures = flags & NATIVE_SIGNATURES;
    uint64_t want = is_tokens ? trace_n_chunks(t->n_rows) * (1u + pl->has_weights + pl->has_signatures) : 0;
    if (!is_tokens) {
        uint64_t per_iteration = (uint64_t)t->n_sources * t->n_layers * t->n_experts * 8; /* at most 2^37 */
        if (per_iteration > in->size / t->n_iterations)
            return BAD(64, "%u iterations of %llu bytes do not fit a file of %zu", t->n_iterations,
                       (unsigned long long)per_iteration, in->size);
        want = mp_ceil_div(per_iteration * t->n_iterations, NATIVE_BLOCK) +
               mp_ceil_div(t->n_pairs * sizeof(struct mp_pair), NATIVE_PAIR_BLOCK);
    }
    if (pl->n_chunks != want)
        return BAD(80, "%llu chunks where the figures make %llu", (unsigned long long)pl->n_chunks,
                   (unsigned long long)want);
    /* Every factor is at most the file's size here, so these sums cannot pass 64 bits for any file that can be mapped.
     */
    pl->layers = NATIVE_FIXED;
    pl->iteration_categories = pl->layers + native_pad((uint64_t)t->n_layers * 4, 8);
    pl->requests = pl->iteration_categories +
                   (flags & NATIVE_ITERATION_CATEGORIES ? native_pad((uint64_t)t->n_iterations * 4, 8) : 0);
    if (t->n_requests > header_bytes / sizeof(struct mp_request))
        return BAD(56, "%llu requests do not fit the header", (unsigned long long)t->n_requests);
    pl->entries = pl->requests + t->n_requests * sizeof(struct mp_request);
    if (pl->n_chunks > header_bytes / NATIVE_ENTRY)
        return BAD(80, "%llu chunks do not fit the header", (unsigned long long)pl->n_chunks);
    pl->strings = pl->entries + pl->n_chunks * NATIVE_ENTRY;
    if (pl->strings > header_bytes || pl->n_strings > header_bytes - pl->strings ||
        native_pad(pl->strings + pl->n_strings, NATIVE_ALIGN) != header_bytes)
        return BAD(88, "the parts of the header do not add up to its %llu bytes", (unsigned long long)header_bytes);
    if (t->n_categories > pl->n_strings || pl->n_strings < 2)
        return BAD(88, "%llu bytes of names do not hold %u categories and two names", (unsigned long long)pl->n_strings,
                   t->n_categories);
    if (flags & NATIVE_ITERATION_CATEGORIES) {
        t->iteration_category = (const uint32_t *)(const void *)(h + pl->iteration_categories);
        for (uint32_t i = 0; i < t->n_iterations; i++)
            if (t->iteration_category[i] != MP_NONE && t->iteration_category[i] >= t->n_categories)
                return BAD(pl->iteration_categories + (size_t)i * 4, "iteration %u names category %u of %u", i,
                           t->iteration_category[i], t->n_categories);
    }
    t->layer_ids = (const uint32_t *)(const void *)(h + pl->layers);
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->layer_ids[l] >= MP_MAX_LAYERS || (l > 0 && t->layer_ids[l] <= t->layer_ids[l - 1]))
            return BAD(pl->layers + (size_t)l * 4, "layer %u is not below %u and above the one before it",
                       t->layer_ids[l], MP_MAX_LAYERS);
    return MP_OK;
}

static enum mp_status read_names(struct mp_trace *t, const struct places *pl, const struct mp_in *in, const char *path,
                                 struct mp_error *err) {
    const char *p = (const char *)in->data + pl->strings, *end = p + pl->n_strings;
    const char **names = mp_arena_alloc(t->arena, (size_t)t->n_categories + 2, sizeof *names);
    if (names == NULL)
        return mp_nomem(err, "names of the trace");
    for (uint32_t i = 0; i < t->n_categories + 2; i++) {
        const char *stop = p < end ? memchr(p, '\0', (size_t)(end - p)) : NULL;
        if (stop == NULL)
            return BAD(pl->strings, "%llu bytes of names do not hold %u categories and two names",
                       (unsigned long long)pl->n_strings, t->n_categories);
        size_t n = (size_t)(stop - p);
        if (n > MP_MAX_NAME || !mp_is_text(p, n) || (n == 0 && i >= 2))
            return BAD(p - (const char *)in->data, "a name is not text of at most %u bytes", MP_MAX_NAME);
        names[i] = p; /* in the mapping, NUL-terminated there */
        p = stop + 1;
    }
    if (p != end)
        return BAD(p - (const char *)in->data, "%zu bytes follow the last name", (size_t)(end - p));
    t->model = names[0];
    t->format = names[1][0] != '\0' ? names[1] : "native"; /* older files name one */
    t->categories = names + 2;
    return MP_OK;
}

static enum mp_status check_requests(const struct mp_trace *t, const struct places *pl, const char *path,
                                     struct mp_error *err) {
    uint64_t bad;
    const char *why;
    if (trace_find_bad_request(t, &bad, &why))
        return BAD(pl->requests + bad * sizeof *t->requests, "request %llu %s", (unsigned long long)bad, why);
    return MP_OK;
}

/* Offsets follow from the lengths; both are stored so that a reader can seek, and both are checked. */
static enum mp_status check_entries(const struct mp_trace *t, const struct places *pl, const struct mp_in *in,
                                    const char *path, struct mp_error *err) {
    uint64_t offset = get_u64(in->data + 24), n_id_chunks = trace_n_chunks(t->n_rows);
    for (uint64_t i = 0; i < pl->n_chunks; i++) {
        size_t at = pl->entries + i * NATIVE_ENTRY;
        const uint8_t *e = in->data + at;
        uint64_t want;
        if (t->kind == MP_TRACE_TOKENS)
            want = trace_chunk_rows(t->n_rows, i % n_id_chunks) * t->n_layers *
                   (i < n_id_chunks                          ? (uint64_t)t->top_k * t->id_bytes
                    : pl->has_weights && i < 2 * n_id_chunks ? (uint64_t)t->top_k * 2
                                                             : 8);
        else {
            uint64_t counts = (uint64_t)t->n_iterations * t->n_sources * t->n_layers * t->n_experts * 8;
            uint64_t n = mp_ceil_div(counts, NATIVE_BLOCK), block = i < n ? NATIVE_BLOCK : NATIVE_PAIR_BLOCK;
            uint64_t left = i < n ? counts - i * block : t->n_pairs * sizeof(struct mp_pair) - (i - n) * block;
            want = left < block ? left : block;
        }
        uint64_t aligned = native_pad(offset, NATIVE_ALIGN);
        if (get_u64(e) != aligned)
            return BAD(at, "chunk %llu starts at %llu, not at %llu", (unsigned long long)i,
                       (unsigned long long)get_u64(e), (unsigned long long)aligned);
        if (get_u64(e + 8) != want)
            return BAD(at + 8, "chunk %llu has %llu bytes, not %llu", (unsigned long long)i,
                       (unsigned long long)get_u64(e + 8), (unsigned long long)want);
        if (get_u32(e + 20) != 0)
            return BAD(at + 20, "a reserved field is not zero");
        if (aligned > in->size || want > in->size - aligned)
            return BAD(at, "chunk %llu ends past the end of the file", (unsigned long long)i);
        for (uint64_t z = offset; z < aligned; z++)
            if (in->data[z] != 0)
                return BAD(z, "a byte between two chunks is not zero (the file is damaged: copy it again)");
        offset = aligned + want;
    }
    if (offset != in->size)
        return BAD(offset, "%llu bytes follow the last chunk", (unsigned long long)(in->size - offset));
    return MP_OK;
}

struct verify {
    const struct mp_trace *t;
    const struct places *pl;
    const struct mp_in *in;
    const char *path;
    struct mp_progress_part *part;
};

static enum mp_status verify_chunk(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)worker;
    const struct verify *v = ctx;
    const struct mp_trace *t = v->t;
    const char *path = v->path;
    const uint8_t *e = v->in->data + v->pl->entries + i * NATIVE_ENTRY;
    uint64_t offset = get_u64(e), bytes = get_u64(e + 8);
    const uint8_t *data = v->in->data + offset;
    mp_progress_add(v->part, bytes);
    uint64_t n_id_chunks = trace_n_chunks(t->n_rows);
    uint32_t crc = 0;
    if (t->kind == MP_TRACE_TOKENS && i < n_id_chunks) {
        /* Checksum and ids layer by layer, while the bytes are in the cache. */
        uint64_t rows = trace_chunk_rows(t->n_rows, i), layer_bytes = rows * t->top_k * t->id_bytes, bad;
        uint64_t bad_at = 0;
        char what[128] = "";
        for (uint32_t l = 0; l < t->n_layers; l++) {
            const uint8_t *layer = data + l * layer_bytes;
            crc = trace_crc32(crc, layer, layer_bytes);
            if (what[0] == '\0' &&
                trace_find_bad_list(layer, rows, t->top_k, t->id_bytes, t->n_experts, &bad, what, sizeof what))
                bad_at = (uint64_t)(layer - v->in->data) + bad * t->top_k * t->id_bytes;
        }
        if (crc == get_u32(e + 16) && what[0] != '\0')
            return BAD(
                bad_at, "token %llu, layer %u: %s",
                (unsigned long long)(i * MP_CHUNK_TOKENS + (bad_at - offset) % layer_bytes / (t->top_k * t->id_bytes)),
                t->layer_ids[(bad_at - offset) / layer_bytes], what);
    } else
        crc = trace_crc32(0, data, bytes);
    if (crc != get_u32(e + 16))
        return BAD(offset,
                   "the checksum of chunk %zu is %08x but its bytes give %08x (the file is damaged: copy it again)", i,
                   get_u32(e + 16), crc);
    return MP_OK;
}

/* A native recording says everything itself: a hint that says something else is a mistake, not a wish. */
static enum mp_status check_hints(struct mp_trace *t, const char *path, const struct mp_trace_hints *hints,
                                  struct mp_error *err) {
#define REFUSE(option, ...) return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording " __VA_ARGS__, option)
    bool has_phase = t->phase != MP_PHASE_UNKNOWN && t->phase != MP_PHASE_MIXED;
    if (hints->phase != MP_PHASE_UNKNOWN && hints->phase != t->phase && has_phase && !hints->overrides)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says phase %s (leave out --phase)",
                          mp_phase_name(t->phase));
    if (hints->layer_base >= 0 && (uint32_t)hints->layer_base != t->layer_ids[0] && !hints->overrides)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says layer base %u (leave out --layer-base)",
                          t->layer_ids[0]);
    /* With a model's name the number of experts may be the model's, which is compared with more to say about it. */
    if (hints->n_experts != 0 && hints->n_experts != t->n_experts && hints->model_name == NULL)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says %u experts (leave out --experts)",
                          t->n_experts);
    if (hints->top_k != 0 && t->top_k != 0 && hints->top_k != t->top_k)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says top-%u (leave out --top-k)", t->top_k);
    if (hints->is_ranked >= 0 && (hints->is_ranked == 1) != t->is_ranked)
        return mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says that its ids are %s (leave out --ranked)",
                          t->is_ranked ? "ranked" : "not ranked");
    if (hints->ids_are_physical == 1 || hints->map_path != NULL)
        REFUSE(hints->map_path != NULL ? "--map" : "--ids", "holds logical ids (leave out %s)");
    if (hints->axes != NULL)
        REFUSE("--axes", "is no bare array (leave out %s)");
    if (hints->requests_path != NULL)
        REFUSE("--requests", "holds its requests itself (leave out %s)");
#undef REFUSE
    return MP_OK;
}

/* hints->overrides: another phase, other layers. True when something changed. */
static enum mp_status override_facts(struct mp_trace *t, const char *path, const struct mp_trace_hints *hints,
                                     bool *is_changed, struct mp_error *err) {
    *is_changed = false;
    if (hints->phase != MP_PHASE_UNKNOWN && hints->phase != t->phase) {
        t->phase = hints->phase;
        *is_changed = true;
    }
    if (hints->layer_base >= 0 && (uint32_t)hints->layer_base != t->layer_ids[0]) {
        uint32_t span = t->layer_ids[t->n_layers - 1] - t->layer_ids[0] + 1;
        enum mp_status status = trace_check_base(path, hints->layer_base, span, err);
        uint32_t *ids = status == MP_OK ? mp_arena_alloc(t->arena, t->n_layers, sizeof *ids) : NULL;
        if (status != MP_OK || ids == NULL)
            return status != MP_OK ? status : mp_nomem(err, path);
        for (uint32_t l = 0; l < t->n_layers; l++)
            ids[l] = t->layer_ids[l] - t->layer_ids[0] + (uint32_t)hints->layer_base;
        t->layer_ids = ids;
        *is_changed = true;
    }
    return MP_OK;
}

static enum mp_status read_native(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                  const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                  struct mp_error *err) {
    (void)limits; /* nothing is allocated but tables of the header's own size */
    *out = NULL;
    struct trace_box *box = NULL;
    struct places pl;
    enum mp_status status = check_fixed(in, path, err);
    if (status != MP_OK)
        return status;
    box = trace_box_new();
    if (box == NULL)
        return mp_nomem(err, path);
    struct mp_trace *t = &box->t;
    MP_TRY(read_figures(t, &pl, in, path, err));
    MP_TRY(read_names(t, &pl, in, path, err));
    MP_TRY(check_entries(t, &pl, in, path, err));
    MP_TRY(check_hints(t, path, hints, err));
    if (t->kind == MP_TRACE_TOKENS) {
        t->requests = (const struct mp_request *)(const void *)(in->data + pl.requests);
        MP_TRY(check_requests(t, &pl, path, err));
        uint64_t n = trace_n_chunks(t->n_rows);
        box->ids = mp_calloc(n, sizeof *box->ids);
        box->weights = pl.has_weights ? mp_calloc(n, sizeof *box->weights) : NULL;
        box->signatures = pl.has_signatures ? mp_calloc(n, sizeof *box->signatures) : NULL;
        if (box->ids == NULL || (pl.has_weights && box->weights == NULL) ||
            (pl.has_signatures && box->signatures == NULL)) {
            status = mp_nomem(err, path);
            goto out;
        }
        for (uint64_t c = 0; c < pl.n_chunks; c++) {
            uint8_t *at = (uint8_t *)(uintptr_t)in->data + get_u64(in->data + pl.entries + c * NATIVE_ENTRY);
            if (c < n)
                box->ids[c] = at;
            else if (pl.has_weights && c < 2 * n)
                box->weights[c - n] = at;
            else
                box->signatures[c % n] = (uint64_t *)(void *)at;
        }
        t->chunks = (const uint8_t *const *)box->ids;
        t->weight_chunks = (const uint8_t *const *)box->weights;
        t->signature_chunks = (const uint64_t *const *)box->signatures;
    } else {
        uint64_t n_counts =
            mp_ceil_div((uint64_t)t->n_iterations * t->n_sources * t->n_layers * t->n_experts * 8, NATIVE_BLOCK);
        t->counts = (const uint64_t *)(const void *)(in->data + get_u64(in->data + pl.entries));
        if (t->n_pairs > 0)
            t->pairs = (const struct mp_pair *)(const void *)(in->data +
                                                              get_u64(in->data + pl.entries + n_counts * NATIVE_ENTRY));
    }
    struct verify v = {t, &pl, in, path, hints->part};
    MP_TRY(mp_parallel_for(hints->n_threads, pl.n_chunks, verify_chunk, &v, err));
    if (t->kind == MP_TRACE_COUNTS)
        MP_TRY(mp_trace_check(t, err));
    bool is_changed = false;
    if (hints->overrides)
        MP_TRY(override_facts(t, path, hints, &is_changed, err));
    if (!is_changed) /* else mp_trace_load makes the digest of what it is now */
        mp_sha256_hex(in->data, get_u64(in->data + 24), t->sha256);
    t->mapped = in;
    *keep_in = true;
    *out = t;
    box = NULL;
out:
    if (box != NULL)
        mp_trace_free(&box->t);
    return status;
}

const struct mp_trace_format mp_trace_format_native = {
    .name = "native",
    .summary = "moeplan's own: columnar, checksummed, mapped (.mpt)",
    .reference = "traces/FORMAT.md",
    .probe = probe,
    .read = read_native,
};
