/* Path tables in a file: a checked header, then popularity and hints, rounded and packed (docs/PREDICTION.md section
 * 4). The reader believes nothing: sizes follow from the shape, the shape is held against the packed bytes before
 * anything is allocated, and every entry is in range or the file is refused. */
#include <moeplan/alloc.h>
#include <moeplan/predict.h>
#include <string.h>
#include <zlib.h>

enum {
    VERSION = 1,
    FIXED = 128,
    SHA_AT = 72,
    PAYLOAD_CRC_AT = 120,
    CRC_AT = 124,
    POPULARITY_PLACES = 8,
    LARGEST_OCTAVES = 64, /* no hint of 2^53 tokens is beyond */
    MOST_PACKED = 1032    /* no byte of a packed stream holds more than so many */
};
#define MOST_BYTES (UINT64_C(1) << 31)
static const char digits[] = "0123456789abcdef";
static const uint8_t magic[8] = {0x89, 'M', 'P', 'P', '\r', '\n', 0x1a, '\n'};

static void *zlib_alloc(void *ctx, unsigned n, unsigned size) {
    (void)ctx;
    return mp_calloc(n, size);
}
static void zlib_free(void *ctx, void *p) {
    (void)ctx;
    mp_free(p);
}
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

/* Hints of tables of this shape: those of layers that have so many before them. */
static uint64_t n_hints(uint32_t n_layers, uint32_t n_experts, uint32_t length) {
    uint64_t n = 0;
    for (uint32_t l = 0; l < n_layers; l++)
        n += l < length ? l : length;
    return n * n_experts * n_experts; /* below 2^10 * 6 * 2^24 */
}
static const int32_t *hints_of(const struct mp_path_tables *t, uint32_t layer) {
    return t->hint + (size_t)layer * t->length * t->n_experts * t->n_experts;
}
static uint64_t hints_in(const struct mp_path_tables *t, uint32_t layer) {
    return (uint64_t)(layer < t->length ? layer : t->length) * t->n_experts * t->n_experts;
}

/* To the nearest multiple of 2^-places, halves up, as how many. */
static int32_t rounded(int32_t value, uint32_t places) {
    return places >= 16 ? value : (int32_t)(((int64_t)value + (1 << (15 - places))) >> (16 - places));
}

static enum mp_status pack(uint8_t **packed, uint64_t *packed_bytes, uint8_t *raw, uint64_t n, struct mp_error *err) {
    z_stream z = {.zalloc = zlib_alloc, .zfree = zlib_free};
    *packed = NULL;
    if (deflateInit(&z, Z_BEST_COMPRESSION) != Z_OK)
        return mp_nomem(err, "packing path tables");
    const uint64_t room = deflateBound(&z, n);
    enum mp_status status = MP_OK;
    *packed = room > UINT32_MAX ? NULL : mp_calloc(room, 1);
    if (*packed == NULL) {
        status = mp_nomem(err, "packing path tables");
        goto out;
    }
    z.next_in = raw;
    z.avail_in = (unsigned)n;
    z.next_out = *packed;
    z.avail_out = (unsigned)room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) {
        status = mp_fail(err, MP_EBUG, "path tables do not fit the room that zlib asked for");
        mp_free(*packed);
        *packed = NULL;
        goto out;
    }
    *packed_bytes = room - z.avail_out;
out:
    (void)deflateEnd(&z);
    return status;
}

/* raw: popularity, then hints of entry_bytes each. */
static void fill(uint8_t *raw, const struct mp_path_tables *t, uint32_t places, uint32_t entry_bytes) {
    for (size_t i = 0; i < (size_t)t->n_layers * t->n_experts; i++, raw += 2) {
        const uint16_t v = (uint16_t)rounded(t->popularity[i], POPULARITY_PLACES);
        memcpy(raw, &v, 2);
    }
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint64_t i = 0; i < hints_in(t, l); i++, raw += entry_bytes) {
            const int16_t v = (int16_t)rounded(hints_of(t, l)[i], places);
            const int8_t small = (int8_t)v;
            memcpy(raw, entry_bytes == 1 ? (const void *)&small : &v, entry_bytes);
        }
}

enum mp_status mp_path_write(const struct mp_path_tables *t, uint32_t hint_places, struct mp_out *o,
                             struct mp_error *err) {
    const uint32_t places = hint_places < t->hint_places ? hint_places : t->hint_places;
    const uint64_t header_bytes = FIXED + 4 * (uint64_t)t->n_layers;
    uint32_t entry_bytes = 1;
    uint8_t *raw = NULL, *packed = NULL, *header = NULL;
    uint64_t packed_bytes = 0;
    enum mp_status status = MP_OK;
    if (places > MP_PATH_PLACES_MAX)
        return mp_fail(err, MP_EUSAGE, "hints of %u binary places are too fine (write at most %u)", hint_places,
                       MP_PATH_PLACES_MAX);
    for (uint32_t l = 0; l < t->n_layers && entry_bytes == 1; l++)
        for (uint64_t i = 0; i < hints_in(t, l) && entry_bytes == 1; i++) {
            const int32_t v = rounded(hints_of(t, l)[i], places);
            entry_bytes = v < INT8_MIN || v > INT8_MAX ? 2 : 1;
        }
    const uint64_t raw_bytes =
        2 * (uint64_t)t->n_layers * t->n_experts + entry_bytes * n_hints(t->n_layers, t->n_experts, t->length);
    if (raw_bytes > MOST_BYTES)
        return mp_fail(err, MP_ELIMIT, "path tables of more than 2 GiB (write a shorter --path-length)");
    raw = mp_calloc(raw_bytes, 1);
    header = mp_calloc(header_bytes, 1);
    if (raw == NULL || header == NULL) {
        status = mp_nomem(err, "packing path tables");
        goto out;
    }
    fill(raw, t, places, entry_bytes);
    MP_TRY(pack(&packed, &packed_bytes, raw, raw_bytes, err));
    const uint32_t small[] = {VERSION, places};
    const uint64_t file_bytes = header_bytes + packed_bytes;
    const uint32_t length = t->length < t->n_layers ? t->length : t->n_layers - 1; /* no layer has more before it */
    const uint32_t shape[] = {t->n_layers, t->n_experts, t->top_k, length};
    const uint64_t facts[] = {t->n_tokens, t->part_checksum, raw_bytes};
    memcpy(header, magic, 8);
    memcpy(header + 8, small, 8);
    memcpy(header + 16, &file_bytes, 8);
    memcpy(header + 24, shape, 16);
    memcpy(header + 40, facts, 24);
    memcpy(header + 64, &entry_bytes, 4);
    for (uint32_t i = 0; i < 64 && t->trace_sha256[i] != '\0'; i++) {
        const char *at = memchr(digits, t->trace_sha256[i], 16);
        header[SHA_AT + i / 2] |= (uint8_t)((at != NULL ? at - digits : 0) << (i % 2 == 0 ? 4 : 0));
    }
    memcpy(header + FIXED, t->layer_ids, 4 * (size_t)t->n_layers);
    const uint32_t payload_crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), packed, packed_bytes);
    memcpy(header + PAYLOAD_CRC_AT, &payload_crc, 4);
    const uint32_t crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), header, header_bytes); /* its own field still 0 */
    memcpy(header + CRC_AT, &crc, 4);
    mp_out_write(o, header, header_bytes);
    mp_out_write(o, packed, packed_bytes);
out:
    mp_free(raw);
    mp_free(packed);
    mp_free(header);
    return status;
}

#define BAD(at, ...) mp_fail_at(err, MP_EINPUT, in->path, 0, (uint64_t)(at) + 1, __VA_ARGS__)

static enum mp_status check_range(const struct mp_in *in, uint32_t at, const char *name, uint32_t value, uint32_t min,
                                  uint32_t max, struct mp_error *err) {
    if (value >= min && value <= max)
        return MP_OK;
    return BAD(at, "%s: %u is not in [%u, %u]", name, value, min, max);
}

/* The header, and what follows from it. */
struct facts {
    uint32_t places, n_layers, n_experts, top_k, length, entry_bytes;
    uint64_t n_tokens, part_checksum, raw_bytes, header_bytes;
};
static enum mp_status check_header(struct facts *f, const struct mp_in *in, struct mp_error *err) {
    const uint8_t *h = in->data;
    enum mp_status status = MP_OK;
    if (in->size < 8 || memcmp(h, magic, 8) != 0)
        return BAD(0, "does not start with the mark of path tables (write them with moeplan predict TRACE -o FILE)");
    if (in->size < FIXED)
        return BAD(in->size, "the file ends inside its header of at least %d bytes (copy it again)", FIXED);
    if (get_u32(h + 8) != VERSION)
        return BAD(8, "version %u is not known (this program reads version %d)", get_u32(h + 8), VERSION);
    if (get_u64(h + 16) != in->size)
        return BAD(16, "the file is %zu bytes but says it has %llu (it is cut short or damaged: copy it again)",
                   in->size, (unsigned long long)get_u64(h + 16));
    *f = (struct facts){.places = get_u32(h + 12),
                        .n_layers = get_u32(h + 24),
                        .n_experts = get_u32(h + 28),
                        .top_k = get_u32(h + 32),
                        .length = get_u32(h + 36),
                        .n_tokens = get_u64(h + 40),
                        .part_checksum = get_u64(h + 48),
                        .raw_bytes = get_u64(h + 56),
                        .entry_bytes = get_u32(h + 64)};
    MP_TRY(check_range(in, 24, "layers", f->n_layers, 1, MP_MAX_LAYERS, err));
    f->header_bytes = FIXED + 4 * (uint64_t)f->n_layers;
    if (f->header_bytes > in->size)
        return BAD(24, "%u layers do not fit a file of %zu bytes", f->n_layers, in->size);
    static const uint8_t zeros[4];
    uLong crc = crc32_z(crc32_z(0, NULL, 0), h, CRC_AT);
    crc = crc32_z(crc, zeros, 4);
    crc = crc32_z(crc, h + FIXED, f->header_bytes - FIXED);
    if (crc != get_u32(h + CRC_AT))
        return BAD(CRC_AT, "the header's checksum is %08x but its bytes give %08x (the file is damaged: copy it again)",
                   get_u32(h + CRC_AT), (unsigned)crc);
    MP_TRY(check_range(in, 12, "binary places", f->places, 0, MP_PATH_PLACES_MAX, err));
    MP_TRY(check_range(in, 28, "experts", f->n_experts, 1, MP_MAX_EXPERTS, err));
    MP_TRY(check_range(in, 32, "top-k", f->top_k, 1, f->n_experts < MP_MAX_TOP_K ? f->n_experts : MP_MAX_TOP_K, err));
    MP_TRY(check_range(in, 36, "path length", f->length, 0, f->n_layers <= MP_PATH_MAX ? f->n_layers - 1 : MP_PATH_MAX,
                       err));
    MP_TRY(check_range(in, 64, "bytes of a hint", f->entry_bytes, 1, 2, err));
    for (uint32_t l = 0; l < f->n_layers; l++) {
        const uint32_t at = FIXED + 4 * l, id = get_u32(h + at);
        MP_TRY(check_range(in, at, "layer", id, l == 0 ? 0 : get_u32(h + at - 4) + 1, MP_MAX_LAYERS - 1, err));
    }
    const uint64_t raw_bytes =
        2 * (uint64_t)f->n_layers * f->n_experts + f->entry_bytes * n_hints(f->n_layers, f->n_experts, f->length);
    if (f->raw_bytes != raw_bytes)
        return BAD(56, "holds %llu bytes of entries, and its shape needs %llu", (unsigned long long)f->raw_bytes,
                   (unsigned long long)raw_bytes);
    const uint64_t packed_bytes = in->size - f->header_bytes;
    if (raw_bytes > MOST_BYTES || raw_bytes / MOST_PACKED > packed_bytes)
        return BAD(56, "%llu bytes of entries cannot come out of %llu (the file is damaged)",
                   (unsigned long long)raw_bytes, (unsigned long long)packed_bytes);
    if (packed_bytes > raw_bytes + raw_bytes / 64 + 1024) /* also keeps them below 2^32, which zlib counts to */
        return BAD(f->header_bytes,
                   "%llu bytes for %llu bytes of entries, more than packing them ever takes (the file is damaged)",
                   (unsigned long long)packed_bytes, (unsigned long long)raw_bytes);
    crc = crc32_z(crc32_z(0, NULL, 0), h + f->header_bytes, packed_bytes);
    if (crc != get_u32(h + PAYLOAD_CRC_AT))
        return BAD(PAYLOAD_CRC_AT,
                   "the checksum of the entries is %08x but their bytes give %08x (the file is damaged: copy it again)",
                   get_u32(h + PAYLOAD_CRC_AT), (unsigned)crc);
out:
    return status;
}

static enum mp_status unpack(uint8_t *raw, const struct facts *f, const struct mp_in *in, struct mp_error *err) {
    z_stream z = {.zalloc = zlib_alloc, .zfree = zlib_free};
    z.next_in = (uint8_t *)(uintptr_t)in->data + f->header_bytes;
    z.avail_in = (unsigned)(in->size - f->header_bytes); /* below 2^32: see check_header */
    if (inflateInit(&z) != Z_OK)
        return mp_nomem(err, "path tables");
    z.next_out = raw;
    z.avail_out = (unsigned)f->raw_bytes;
    const int rc = inflate(&z, Z_FINISH);
    const uint64_t made = f->raw_bytes - z.avail_out, left = z.avail_in, read = in->size - left;
    (void)inflateEnd(&z);
    if (rc == Z_MEM_ERROR)
        return mp_nomem(err, "path tables");
    if (rc != Z_STREAM_END || made != f->raw_bytes || left > 0)
        return BAD(read, "the packed entries end or break at byte %llu of %llu (the file is damaged)",
                   (unsigned long long)made, (unsigned long long)f->raw_bytes);
    return MP_OK;
}

/* Entries into the tables; nothing beyond what a log2 of token counts can be. */
static enum mp_status take(struct mp_path_tables *t, const uint8_t *raw, const struct facts *f, const struct mp_in *in,
                           struct mp_error *err) {
    for (size_t i = 0; i < (size_t)t->n_layers * t->n_experts; i++, raw += 2) {
        uint16_t v;
        memcpy(&v, raw, 2);
        if (v > LARGEST_OCTAVES << POPULARITY_PLACES)
            return BAD(f->header_bytes, "entry %zu: no expert has a popularity of 2^%u", i, v >> POPULARITY_PLACES);
        t->popularity[i] = v * (1 << (16 - POPULARITY_PLACES));
    }
    uint64_t at = 0;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        int32_t *hint = t->hint + (size_t)l * t->length * t->n_experts * t->n_experts;
        for (uint64_t i = 0; i < hints_in(t, l); i++, at++, raw += f->entry_bytes) {
            int16_t v = (int8_t)raw[0];
            if (f->entry_bytes == 2)
                memcpy(&v, raw, 2);
            if (v > LARGEST_OCTAVES << f->places || v < -(LARGEST_OCTAVES << f->places))
                return BAD(f->header_bytes, "hint %llu: %d / 2^%u is beyond %d octaves", (unsigned long long)at, v,
                           f->places, LARGEST_OCTAVES);
            hint[i] = v * (1 << (16 - f->places));
        }
    }
    return MP_OK;
}

enum mp_status mp_path_read(struct mp_path_tables **out, const struct mp_in *in, struct mp_error *err) {
    struct facts f = {0};
    *out = NULL;
    enum mp_status status = check_header(&f, in, err);
    if (status != MP_OK)
        return status;
    struct mp_path_tables *t = mp_calloc(1, sizeof *t);
    uint8_t *raw = mp_calloc(f.raw_bytes, 1);
    if (t == NULL || raw == NULL) {
        mp_free(t);
        mp_free(raw);
        return mp_nomem(err, "path tables");
    }
    const size_t rows = (size_t)f.n_layers * f.n_experts;
    *t = (struct mp_path_tables){.n_layers = f.n_layers,
                                 .n_experts = f.n_experts,
                                 .top_k = f.top_k,
                                 .length = f.length,
                                 .n_tokens = f.n_tokens,
                                 .hint_places = f.places,
                                 .part_checksum = f.part_checksum};
    t->popularity = mp_calloc(rows, sizeof *t->popularity);
    t->layer_ids = mp_calloc(f.n_layers, sizeof *t->layer_ids);
    MP_TRY(unpack(raw, &f, in, err));
    t->hint = mp_calloc(rows * f.length * f.n_experts, sizeof *t->hint);
    if (t->popularity == NULL || t->layer_ids == NULL || t->hint == NULL) {
        status = mp_nomem(err, "path tables");
        goto out;
    }
    memcpy(t->layer_ids, in->data + FIXED, 4 * (size_t)f.n_layers);
    uint8_t any = 0;
    for (uint32_t i = 0; i < 32; i++)
        any |= in->data[SHA_AT + i];
    for (uint32_t i = 0; i < 64 && any != 0; i++)
        t->trace_sha256[i] = digits[in->data[SHA_AT + i / 2] >> (i % 2 == 0 ? 4 : 0) & 15];
    MP_TRY(take(t, raw, &f, in, err));
out:
    mp_free(raw);
    if (status == MP_OK)
        *out = t;
    else
        mp_path_free(t);
    return status;
}

enum mp_status mp_path_check_fit(const struct mp_path_tables *t, const char *path, const struct mp_trace *trace,
                                 struct mp_error *err) {
    if (trace->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE, "counts do not say which experts one token used (record tokens)");
    if (t->n_layers != trace->n_layers || t->n_experts != trace->n_experts || t->top_k != trace->top_k)
        return mp_fail_at(
            err, MP_EINPUT, path, 0, 0,
            "tables of %u layers, the top-%u of %u experts; the recording has %u, the top-%u of %u (learn "
            "them from a recording of the same model)",
            t->n_layers, t->top_k, t->n_experts, trace->n_layers, trace->top_k, trace->n_experts);
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->layer_ids[l] != trace->layer_ids[l])
            return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                              "table %u is of layer %u, the recording's of layer %u (--layer-base says which layer its "
                              "first row is)",
                              l, t->layer_ids[l], trace->layer_ids[l]);
    return MP_OK;
}
