/* The other direction of unpack.c: gzip at level 6 without a time stamp, zstd at level 3 with a checksum; the same
 * bytes for the same input and library. */
#define ZSTD_STATIC_LINKING_ONLY /* custom allocation */
#include "packing.h"
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { PART = 65536 };

struct packer {
    packer_sink sink;
    void *ctx;
    bool is_gzip, has_gzip; /* has_gzip: to be ended */
    z_stream gzip;
    ZSTD_CCtx *zstd;
    uint8_t out[PART];
};

static void *zlib_alloc(void *ctx, unsigned n, unsigned size) {
    (void)ctx;
    return mp_realloc(NULL, n, size);
}
static void *zstd_alloc(void *ctx, size_t n) {
    (void)ctx;
    return mp_realloc(NULL, n, 1);
}
static void release(void *ctx, void *p) {
    (void)ctx;
    mp_free(p);
}

struct packer *packer_new(enum mp_file_packing kind, packer_sink sink, void *ctx) {
    struct packer *p = mp_calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->sink = sink;
    p->ctx = ctx;
    p->is_gzip = kind == MP_FILE_GZIP;
    if (p->is_gzip) {
        p->gzip.zalloc = zlib_alloc;
        p->gzip.zfree = release;
        p->has_gzip = deflateInit2(&p->gzip, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK;
        if (p->has_gzip)
            return p;
    } else {
        p->zstd = ZSTD_createCCtx_advanced((ZSTD_customMem){zstd_alloc, release, NULL});
        if (p->zstd != NULL && !ZSTD_isError(ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1)))
            return p;
    }
    packer_free(p);
    return NULL;
}

bool packer_take(struct packer *p, const void *data, size_t n, bool is_last) {
    if (p->is_gzip) {
        const uint8_t *from = data;
        do {
            const unsigned part = n < PART ? (unsigned)n : PART;
            p->gzip.next_in = (uint8_t *)(uintptr_t)from;
            p->gzip.avail_in = part;
            do {
                p->gzip.next_out = p->out;
                p->gzip.avail_out = PART;
                if (deflate(&p->gzip, is_last && n == part ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
                    return false;
                p->sink(p->ctx, p->out, PART - p->gzip.avail_out);
            } while (p->gzip.avail_out == 0);
            from = part > 0 ? from + part : from;
            n -= part;
        } while (n > 0);
        return true;
    }
    ZSTD_inBuffer from = {data, n, 0};
    size_t left;
    do {
        ZSTD_outBuffer to = {p->out, PART, 0};
        left = ZSTD_compressStream2(p->zstd, &to, &from, is_last ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return false;
        p->sink(p->ctx, p->out, to.pos);
    } while (is_last ? left > 0 : from.pos < from.size);
    return true;
}

void packer_free(struct packer *p) {
    if (p == NULL)
        return;
    if (p->has_gzip)
        (void)deflateEnd(&p->gzip);
    if (p->zstd != NULL)
        (void)ZSTD_freeCCtx(p->zstd);
    mp_free(p);
}
