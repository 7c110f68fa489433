/* ZIP directory (APPNOTE 6.3: local headers, central directory, ZIP64) read from the mapping; zlib inflates, with its
 * memory taken from our allocation table. Stored members are used where they lie, which libzip cannot offer. */
#include "zip_container.h"
#include "trace_box.h"
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { END_BYTES = 22, ENTRY_BYTES = 46, LOCAL_BYTES = 30, MAX_COMMENT = 65535, LOCATOR_BYTES = 20, END64_BYTES = 56 };
#define SIG_LOCAL 0x04034b50u
#define SIG_ENTRY 0x02014b50u
#define SIG_END 0x06054b50u
#define SIG_LOCATOR 0x07064b50u
#define SIG_END64 0x06064b50u

static uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const uint8_t *p) { return u16(p) | u16(p + 2) << 16; }
static uint64_t u64(const uint8_t *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

#define BAD(at, ...) mp_fail_at(err, MP_EINPUT, in->path, 0, (uint64_t)(at) + 1, __VA_ARGS__)

bool zip_is_archive(const struct mp_in *in) { return in->size >= 4 && u32(in->data) == SIG_LOCAL; }

bool zip_first_name(const struct mp_in *in, const char **name, size_t *n) {
    if (!zip_is_archive(in) || in->size < LOCAL_BYTES)
        return false;
    *n = u16(in->data + 26);
    *name = (const char *)in->data + LOCAL_BYTES;
    return *n > 0 && *n <= in->size - LOCAL_BYTES;
}

/* Where the central directory lies and how many entries it has. */
static enum mp_status find_directory(const struct mp_in *in, uint64_t *offset, uint64_t *bytes, uint64_t *n,
                                     uint64_t *end_at, struct mp_error *err) {
    if (in->size < END_BYTES)
        return BAD(in->size, "the archive has no directory: the file is cut short (copy it again)");
    size_t at = in->size - END_BYTES, least = at > MAX_COMMENT ? at - MAX_COMMENT : 0;
    while (u32(in->data + at) != SIG_END || u16(in->data + at + 20) != in->size - at - END_BYTES) {
        if (at == least)
            return BAD(in->size, "the archive has no directory: the file is cut short (copy it again)");
        at--;
    }
    const uint8_t *e = in->data + at;
    *end_at = at;
    *n = u16(e + 10);
    *bytes = u32(e + 12);
    *offset = u32(e + 16);
    if (at >= LOCATOR_BYTES && u32(e - LOCATOR_BYTES) == SIG_LOCATOR) {
        uint64_t at64 = u64(e - LOCATOR_BYTES + 8);
        if (at64 > at - LOCATOR_BYTES || at - LOCATOR_BYTES - at64 < END64_BYTES || u32(in->data + at64) != SIG_END64)
            return BAD(at - LOCATOR_BYTES, "the archive's 64-bit directory is not where it should be");
        const uint8_t *e64 = in->data + at64;
        *n = u64(e64 + 32);
        *bytes = u64(e64 + 40);
        *offset = u64(e64 + 48);
        *end_at = at64;
    } else if (u16(e + 4) != 0 || u16(e + 6) != 0)
        return BAD(at + 4, "archives in several parts are not read (write it as one file)");
    if (*offset > *end_at || *bytes > *end_at - *offset)
        return BAD(at + 12, "the archive's directory lies outside the file");
    return MP_OK;
}

/* Values past 32 bits stand in an extra field with id 1, in a fixed order, only those whose 32-bit field is all ones.
 */
static bool read_zip64(const uint8_t *extra, size_t n, uint64_t *bytes, uint64_t *packed, uint64_t *offset) {
    bool want_bytes = *bytes == UINT32_MAX, want_packed = *packed == UINT32_MAX, want_offset = *offset == UINT32_MAX;
    if (!want_bytes && !want_packed && !want_offset)
        return true;
    while (n >= 4) {
        size_t id = u16(extra), size = u16(extra + 2);
        if (size > n - 4)
            return false;
        if (id == 1) {
            const uint8_t *p = extra + 4, *end = p + size;
            uint64_t *fields[3] = {want_bytes ? bytes : NULL, want_packed ? packed : NULL, want_offset ? offset : NULL};
            for (int i = 0; i < 3; i++) {
                if (fields[i] == NULL)
                    continue;
                if (end - p < 8)
                    return false;
                *fields[i] = u64(p);
                p += 8;
            }
            return true;
        }
        extra += 4 + size;
        n -= 4 + size;
    }
    return false;
}

static int compare_places(const void *pa, const void *pb) {
    const struct zip_member *a = *(const struct zip_member *const *)pa, *b = *(const struct zip_member *const *)pb;
    return a->data_offset < b->data_offset ? -1 : a->data_offset > b->data_offset;
}
static int compare_names(const void *pa, const void *pb) {
    const struct zip_member *a = *(const struct zip_member *const *)pa, *b = *(const struct zip_member *const *)pb;
    return strcmp(a->name, b->name);
}

/* Overlapping members are how small archives unpack without end; the same name twice has no meaning. */
static enum mp_status check_members(struct zip_archive *z, uint64_t directory_at, struct mp_error *err) {
    const struct mp_in *in = z->in;
    const struct zip_member **order = mp_calloc(z->n_members, sizeof *order);
    if (order == NULL)
        return mp_nomem(err, "archive");
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < z->n_members; i++)
        order[i] = &z->members[i];
    qsort(order, z->n_members, sizeof *order,
          compare_places); /* a tie is an overlap or two empty members: order is irrelevant */
    for (uint32_t i = 0; i < z->n_members && status == MP_OK; i++) {
        uint64_t end = order[i]->data_offset + order[i]->packed_bytes;
        uint64_t next = i + 1 < z->n_members ? order[i + 1]->data_offset : directory_at;
        if (end > next)
            status = BAD(order[i]->data_offset, "member \"%s\" overlaps what follows it", order[i]->name);
    }
    if (status == MP_OK)
        qsort(order, z->n_members, sizeof *order, compare_names); /* a tie is refused next */
    for (uint32_t i = 1; i < z->n_members && status == MP_OK; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            status = BAD(order[i]->data_offset, "member \"%s\" is there twice", order[i]->name);
    mp_free(order);
    return status;
}

static enum mp_status read_entry(struct zip_archive *z, struct zip_member *m, uint64_t at, uint64_t directory_at,
                                 const struct mp_limits *limits, struct mp_error *err) {
    const struct mp_in *in = z->in;
    const uint8_t *e = in->data + at;
    uint32_t flags = u16(e + 8), method = u16(e + 10), n_name = u16(e + 28), n_extra = u16(e + 30);
    uint64_t local = u32(e + 42);
    m->crc32 = u32(e + 16);
    m->packed_bytes = u32(e + 20);
    m->bytes = u32(e + 24);
    if (n_name == 0 || !mp_is_text((const char *)e + ENTRY_BYTES, n_name))
        return BAD(at + ENTRY_BYTES, "a member's name is empty or not text");
    m->name = mp_arena_strndup(z->arena, (const char *)e + ENTRY_BYTES, n_name);
    if (m->name == NULL)
        return mp_nomem(err, "archive");
    if (flags & 1)
        return BAD(at + 8, "member \"%s\" is encrypted (save it without a password)", m->name);
    if (method != 0 && method != 8)
        return BAD(at + 10, "member \"%s\" is packed by method %u (use stored or deflate)", m->name, method);
    if (!read_zip64(e + ENTRY_BYTES + n_name, n_extra, &m->bytes, &m->packed_bytes, &local))
        return BAD(at + ENTRY_BYTES + n_name, "member \"%s\": its 64-bit sizes are missing", m->name);
    if (local > directory_at || directory_at - local < LOCAL_BYTES || u32(in->data + local) != SIG_LOCAL)
        return BAD(at + 42, "member \"%s\" is not where the directory says", m->name);
    m->data_offset = local + LOCAL_BYTES + u16(in->data + local + 26) + u16(in->data + local + 28);
    if (m->data_offset > directory_at || m->packed_bytes > directory_at - m->data_offset)
        return BAD(at + 20, "member \"%s\" has %llu bytes, more than the file holds", m->name,
                   (unsigned long long)m->packed_bytes);
    if (u16(in->data + local + 26) != n_name || memcmp(in->data + local + LOCAL_BYTES, e + ENTRY_BYTES, n_name) != 0)
        return BAD(local + LOCAL_BYTES, "member \"%s\" has another name in front of its bytes", m->name);
    m->is_stored = method == 0;
    if (m->is_stored) {
        if (m->bytes != m->packed_bytes)
            return BAD(at + 24, "member \"%s\" is stored but its two sizes differ", m->name);
        m->data = in->data + m->data_offset;
    } else if (m->bytes > limits->inflate_free_bytes && m->bytes / limits->inflate_ratio > m->packed_bytes)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, at + 25,
                          "member \"%s\" claims %llu bytes from %llu packed ones, past the ratio limit of %llu",
                          m->name, (unsigned long long)m->bytes, (unsigned long long)m->packed_bytes,
                          (unsigned long long)limits->inflate_ratio);
    return MP_OK;
}

enum mp_status zip_open(struct zip_archive **out, const struct mp_in *in, const struct mp_limits *limits,
                        struct mp_error *err) {
    *out = NULL;
    uint64_t offset = 0, bytes = 0, n = 0, end_at = 0;
    enum mp_status status = MP_OK;
    struct zip_archive *z = NULL;
    if (!zip_is_archive(in))
        return BAD(0, "is not a ZIP archive");
    MP_TRY(find_directory(in, &offset, &bytes, &n, &end_at, err));
    if (n > limits->zip_members) {
        status = mp_fail_at(err, MP_ELIMIT, in->path, 0, offset + 1, "the archive has %llu members, more than %zu",
                            (unsigned long long)n, limits->zip_members);
        goto out;
    }
    if (n > bytes / ENTRY_BYTES) {
        status = BAD(offset, "%llu members do not fit a directory of %llu bytes", (unsigned long long)n,
                     (unsigned long long)bytes);
        goto out;
    }
    z = mp_calloc(1, sizeof *z);
    if (z == NULL || (z->arena = mp_arena_new()) == NULL ||
        (z->members = mp_arena_alloc(z->arena, n, sizeof *z->members)) == NULL) {
        status = mp_nomem(err, "archive");
        goto out;
    }
    z->in = in;
    z->path = in->path;
    uint64_t at = offset, stop = offset + bytes;
    for (uint64_t i = 0; i < n; i++) {
        if (stop - at < ENTRY_BYTES || u32(in->data + at) != SIG_ENTRY) {
            status = BAD(at, "entry %llu of the archive's directory is damaged", (unsigned long long)i + 1);
            goto out;
        }
        uint64_t size =
            ENTRY_BYTES + (uint64_t)u16(in->data + at + 28) + u16(in->data + at + 30) + u16(in->data + at + 32);
        if (size > stop - at) {
            status = BAD(at, "entry %llu of the archive's directory is damaged", (unsigned long long)i + 1);
            goto out;
        }
        MP_TRY(read_entry(z, &z->members[i], at, offset, limits, err));
        at += size;
    }
    z->n_members = (uint32_t)n;
    if (at != stop) {
        status =
            BAD(at, "%llu bytes follow the last entry of the archive's directory", (unsigned long long)(stop - at));
        goto out;
    }
    MP_TRY(check_members(z, offset, err));
    *out = z;
    return MP_OK;
out:
    zip_close(z);
    return status;
}

void zip_close(struct zip_archive *z) {
    if (z == NULL)
        return;
    mp_arena_free(z->arena);
    mp_free(z);
}

uint32_t zip_find(const struct zip_archive *z, const char *name) {
    for (uint32_t i = 0; i < z->n_members; i++)
        if (strcmp(z->members[i].name, name) == 0)
            return i;
    return MP_NONE;
}

struct zip_stream {
    const struct zip_archive *z;
    const struct zip_member *m;
    uint64_t done; /* bytes given out */
    uint32_t crc;
    bool is_inflating;
    z_stream inflate;
};

static void *inflate_alloc(void *ctx, unsigned n, unsigned size) {
    (void)ctx;
    return mp_realloc(NULL, n, size);
}
static void inflate_free(void *ctx, void *p) {
    (void)ctx;
    mp_free(p);
}

enum mp_status zip_stream_open(struct zip_stream **out, const struct zip_archive *z, uint32_t member,
                               struct mp_error *err) {
    *out = NULL;
    struct zip_stream *s = mp_calloc(1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "archive");
    s->z = z;
    s->m = &z->members[member];
    if (!s->m->is_stored) {
        s->inflate.zalloc = inflate_alloc;
        s->inflate.zfree = inflate_free;
        s->inflate.next_in = (uint8_t *)(uintptr_t)z->in->data + s->m->data_offset;
        if (inflateInit2(&s->inflate, -MAX_WBITS) != Z_OK) {
            mp_free(s);
            return mp_nomem(err, "archive");
        }
        s->is_inflating = true;
    }
    *out = s;
    return MP_OK;
}

enum mp_status zip_stream_read(struct zip_stream *s, void *buf, size_t n, size_t *got, struct mp_error *err) {
    const struct zip_member *m = s->m;
    const struct mp_in *in = s->z->in;
    uint64_t left = m->bytes - s->done;
    size_t want = left < n ? (size_t)left : n, have = 0;
    *got = 0;
    if (m->is_stored) {
        if (want > 0)
            memcpy(buf, m->data + s->done, want);
        have = want;
    }
    while (have < want) {
        /* zlib counts in 32 bits: feed and drain in parts. */
        enum { PART = 1 << 30 };
        uint64_t packed_left = m->packed_bytes - (uint64_t)(s->inflate.next_in - (in->data + m->data_offset));
        s->inflate.avail_in = packed_left < PART ? (unsigned)packed_left : PART;
        size_t room = want - have < PART ? want - have : PART;
        s->inflate.next_out = (uint8_t *)buf + have;
        s->inflate.avail_out = (unsigned)room;
        int rc = inflate(&s->inflate, Z_NO_FLUSH);
        size_t made = room - s->inflate.avail_out;
        have += made;
        if (rc == Z_STREAM_END ? have < want
                               : (rc != Z_OK && rc != Z_BUF_ERROR) || (made == 0 && s->inflate.avail_in == 0)) {
            if (rc == Z_MEM_ERROR)
                return mp_nomem(err, "archive");
            return BAD(s->inflate.next_in - in->data,
                       "member \"%s\" is damaged: its packed bytes end or break at byte %llu of %llu", m->name,
                       (unsigned long long)(s->done + have), (unsigned long long)m->bytes);
        }
    }
    s->crc = trace_crc32(s->crc, buf, have);
    s->done += have;
    *got = have;
    if (s->done == m->bytes && (n > want || have > 0) && s->crc != m->crc32)
        return BAD(m->data_offset,
                   "member \"%s\": its checksum is %08x but its bytes give %08x (the file is damaged: copy it again)",
                   m->name, m->crc32, s->crc);
    return MP_OK;
}

void zip_stream_close(struct zip_stream *s) {
    if (s == NULL)
        return;
    if (s->is_inflating)
        (void)inflateEnd(&s->inflate);
    mp_free(s);
}

enum mp_status zip_read(const struct zip_archive *z, uint32_t member, uint64_t max_bytes, const uint8_t **bytes,
                        uint8_t **owned, struct mp_error *err) {
    const struct zip_member *m = &z->members[member];
    const struct mp_in *in = z->in;
    *bytes = NULL;
    *owned = NULL;
    if (m->bytes > max_bytes)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, m->data_offset + 1,
                          "member \"%s\" has %llu bytes, more than the limit of %llu", m->name,
                          (unsigned long long)m->bytes, (unsigned long long)max_bytes);
    if (m->is_stored) {
        uint32_t crc = trace_crc32(0, m->data, m->bytes);
        if (crc != m->crc32)
            return BAD(
                m->data_offset,
                "member \"%s\": its checksum is %08x but its bytes give %08x (the file is damaged: copy it again)",
                m->name, m->crc32, crc);
        *bytes = m->data;
        return MP_OK;
    }
    struct zip_stream *s = NULL;
    uint8_t *buf = mp_realloc(NULL, m->bytes + 1, 1);
    if (buf == NULL)
        return mp_nomem(err, "archive");
    size_t got = 0;
    enum mp_status status = zip_stream_open(&s, z, member, err);
    if (status == MP_OK)
        status = zip_stream_read(s, buf, m->bytes, &got, err);
    zip_stream_close(s);
    if (status != MP_OK) {
        mp_free(buf);
        return status;
    }
    buf[m->bytes] = 0;
    *bytes = *owned = buf;
    return MP_OK;
}
