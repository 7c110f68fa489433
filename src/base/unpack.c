/* gzip (RFC 1952) and zstd (RFC 8878) files into memory, known by their first bytes: zlib and libzstd do the work, with
 * memory from our allocation table. Several members or frames may stand behind one another; anything else behind the
 * last one is refused. What a file unpacks to is limited by its own size, so that a bomb is refused early. */
#define ZSTD_STATIC_LINKING_ONLY /* custom allocation */
#include "packing.h"
#include <moeplan/base.h>
#include <moeplan/io.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define ZSTD_WINDOW_LOG_MAX 27 /* 128 MiB, what zstd itself accepts unasked; only what is used gets resident */

static uint32_t u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool starts_gzip(const uint8_t *p, size_t n) { return n >= 3 && p[0] == 0x1f && p[1] == 0x8b && p[2] == 8; }
/* A frame, or one to be skipped, which may stand before it. */
static bool starts_zstd(const uint8_t *p, size_t n) {
    return n >= 4 && (u32(p) == ZSTD_MAGICNUMBER || (u32(p) & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START);
}

enum mp_file_packing mp_file_packing_of(const void *data, size_t n) {
    return starts_gzip(data, n) ? MP_FILE_GZIP : starts_zstd(data, n) ? MP_FILE_ZSTD : MP_FILE_PLAIN;
}

const char *mp_file_packing_name(enum mp_file_packing kind) {
    return kind == MP_FILE_GZIP ? "gzip" : kind == MP_FILE_ZSTD ? "zstd" : "none";
}

struct unpacker {
    const struct mp_in *in;
    const struct mp_limits *limits;
    uint64_t max_bytes, enough; /* enough: more need not be unpacked; 0 = all */
    const char *kind;
    size_t at; /* of the packed bytes: the next */
    uint8_t *buf;
    size_t used, room;
};

enum { STEP = 1 << 20 }; /* unpacked between two looks at the limits */

static enum mp_status make_room(struct unpacker *u, struct mp_error *err) {
    if (u->room - u->used > STEP / 16)
        return MP_OK;
    size_t more = u->room < (size_t)64 << 20 ? u->room * 2 : u->room + u->room / 4;
    uint8_t *grown = mp_realloc(u->buf, more, 1);
    if (grown == NULL)
        return mp_nomem(err, u->in->path);
    u->buf = grown;
    u->room = more;
    return MP_OK;
}

static size_t room_of_step(const struct unpacker *u) {
    size_t room = u->room - u->used - 1; /* the NUL behind the text */
    return room < STEP ? room : STEP;
}

static enum mp_status check_limits(const struct unpacker *u, struct mp_error *err) {
    if (u->max_bytes != 0 && u->used > u->max_bytes)
        return mp_fail_at(err, MP_ELIMIT, u->in->path, 0, 0, "unpacks to more than %llu bytes",
                          (unsigned long long)u->max_bytes);
    if (u->used > u->limits->inflate_free_bytes && u->used / u->limits->inflate_ratio > u->at)
        return mp_fail_at(err, MP_ELIMIT, u->in->path, 0, 0,
                          "unpacks to more than %llu bytes and than %llu for each packed one: a bomb, not a recording "
                          "(when it is right, unpack it yourself)",
                          (unsigned long long)u->limits->inflate_free_bytes,
                          (unsigned long long)u->limits->inflate_ratio);
    return MP_OK;
}

static enum mp_status fail_cut(const struct unpacker *u, struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, u->in->path, 0, u->in->size + 1,
                      "the %s stream ends too early, after %llu unpacked bytes (the file is cut short: copy it again)",
                      u->kind, (unsigned long long)u->used);
}
static enum mp_status fail_damaged(const struct unpacker *u, const char *why, struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, u->in->path, 0, u->at + 1,
                      "the %s stream is damaged after %llu unpacked bytes: %s (copy the file again)", u->kind,
                      (unsigned long long)u->used, why);
}
static enum mp_status fail_trailing(const struct unpacker *u, struct mp_error *err) {
    return mp_fail_at(err, MP_EINPUT, u->in->path, 0, u->at + 1,
                      "%llu bytes follow the %s stream that are none of it (copy the file again, or cut them off)",
                      (unsigned long long)(u->in->size - u->at), u->kind);
}

static void *zlib_alloc(void *ctx, unsigned n, unsigned size) {
    (void)ctx;
    return mp_realloc(NULL, n, size);
}
static void zlib_free(void *ctx, void *p) {
    (void)ctx;
    mp_free(p);
}

static enum mp_status unpack_gzip(struct unpacker *u, struct mp_error *err) {
    z_stream z = {.zalloc = zlib_alloc, .zfree = zlib_free};
    enum mp_status status = MP_OK;
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return mp_nomem(err, u->in->path);
    for (bool is_inside = true; is_inside;) {
        MP_TRY(make_room(u, err));
        size_t left = u->in->size - u->at, room = room_of_step(u);
        const unsigned given = left < STEP ? (unsigned)left : STEP;
        z.next_in = (uint8_t *)(uintptr_t)u->in->data + u->at;
        z.avail_in = given;
        z.next_out = u->buf + u->used;
        z.avail_out = (unsigned)room;
        int rc = inflate(&z, Z_NO_FLUSH);
        size_t made = room - z.avail_out;
        u->at += given - z.avail_in;
        u->used += made;
        MP_TRY(check_limits(u, err));
        if (u->enough != 0 && u->used >= u->enough)
            break;
        if (rc == Z_STREAM_END) {
            is_inside = u->at < u->in->size;
            if (is_inside && !starts_gzip(u->in->data + u->at, u->in->size - u->at)) {
                status = fail_trailing(u, err);
                goto out;
            }
            if (is_inside && inflateReset(&z) != Z_OK) {
                status = mp_fail(err, MP_EBUG, "inflateReset");
                goto out;
            }
        } else if (rc == Z_MEM_ERROR) {
            status = mp_nomem(err, u->in->path);
            goto out;
        } else if (rc != Z_OK && rc != Z_BUF_ERROR) {
            status = fail_damaged(u, z.msg != NULL ? z.msg : "not deflate", err);
            goto out;
        } else if (made == 0 && z.avail_in == 0 && u->at == u->in->size) {
            status = fail_cut(u, err);
            goto out;
        }
    }
out:
    (void)inflateEnd(&z);
    return status;
}

static void *zstd_alloc(void *ctx, size_t n) {
    (void)ctx;
    return mp_realloc(NULL, n, 1);
}
static void zstd_free(void *ctx, void *p) {
    (void)ctx;
    mp_free(p);
}

static enum mp_status fail_zstd(const struct unpacker *u, size_t rc, struct mp_error *err) {
    switch (ZSTD_getErrorCode(rc)) {
    case ZSTD_error_memory_allocation:
        return mp_nomem(err, u->in->path);
    case ZSTD_error_frameParameter_windowTooLarge:
        return mp_fail_at(err, MP_ELIMIT, u->in->path, 0, u->at + 1,
                          "the zstd frame needs a window of more than %u MiB (pack it without --long)",
                          1u << (ZSTD_WINDOW_LOG_MAX - 20));
    case ZSTD_error_dictionary_wrong:
        return mp_fail_at(err, MP_EINPUT, u->in->path, 0, u->at + 1,
                          "the zstd frame needs a dictionary (pack it without one)");
    default:
        return fail_damaged(u, ZSTD_getErrorName(rc), err);
    }
}

static enum mp_status unpack_zstd(struct unpacker *u, struct mp_error *err) {
    ZSTD_DCtx *z = ZSTD_createDCtx_advanced((ZSTD_customMem){zstd_alloc, zstd_free, NULL});
    enum mp_status status = MP_OK;
    if (z == NULL || ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX))) {
        (void)ZSTD_freeDCtx(z);
        return mp_nomem(err, u->in->path);
    }
    for (bool is_inside = true; is_inside;) {
        MP_TRY(make_room(u, err));
        size_t left = u->in->size - u->at;
        ZSTD_inBuffer from = {u->in->data + u->at, left < STEP ? left : STEP, 0};
        ZSTD_outBuffer to = {u->buf + u->used, room_of_step(u), 0};
        size_t rc = ZSTD_decompressStream(z, &to, &from);
        u->at += from.pos;
        u->used += to.pos;
        MP_TRY(check_limits(u, err));
        if (u->enough != 0 && u->used >= u->enough)
            break;
        if (ZSTD_isError(rc)) {
            status = fail_zstd(u, rc, err);
            goto out;
        }
        if (rc == 0) {
            is_inside = u->at < u->in->size;
            if (is_inside && !starts_zstd(u->in->data + u->at, u->in->size - u->at)) {
                status = fail_trailing(u, err);
                goto out;
            }
        } else if (to.pos == 0 && from.pos == 0 && u->at == u->in->size) {
            status = fail_cut(u, err);
            goto out;
        }
    }
out:
    (void)ZSTD_freeDCtx(z);
    return status;
}

static enum mp_status unpack(struct mp_in *in, uint64_t max_bytes, uint64_t enough, const struct mp_limits *limits,
                             struct mp_error *err) {
    enum mp_file_packing kind = mp_file_packing_of(in->data, in->size);
    if (kind == MP_FILE_PLAIN)
        return MP_OK;
    struct unpacker u = {
        .in = in, .limits = limits, .max_bytes = max_bytes, .enough = enough, .kind = mp_file_packing_name(kind)};
    /* Text packs 4 to 40 times smaller: few doublings are needed. */
    u.room = in->size < (size_t)16 << 20 ? in->size * 4 + STEP / 8 : (size_t)64 << 20;
    if (enough != 0)
        u.room = STEP * 2;
    u.buf = mp_realloc(NULL, u.room, 1);
    enum mp_status status = u.buf == NULL          ? mp_nomem(err, in->path)
                            : kind == MP_FILE_GZIP ? unpack_gzip(&u, err)
                                                   : unpack_zstd(&u, err);
    if (status == MP_OK && mp_file_packing_of(u.buf, u.used) != MP_FILE_PLAIN)
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "is packed twice (unpack it once)");
    if (status != MP_OK) {
        mp_free(u.buf);
        return status;
    }
    uint8_t *smaller = mp_realloc(u.buf, u.used + 1, 1);
    if (smaller != NULL)
        u.buf = smaller;
    u.buf[u.used] = 0;
    mp_in_replace(in, u.buf, u.used);
    return MP_OK;
}

enum mp_status mp_in_unpack(struct mp_in *in, uint64_t max_bytes, const struct mp_limits *limits,
                            struct mp_error *err) {
    return unpack(in, max_bytes, 0, limits, err);
}

enum mp_status mp_in_unpack_head(struct mp_in *in, const struct mp_limits *limits, struct mp_error *err) {
    return unpack(in, 0, STEP, limits, err);
}
