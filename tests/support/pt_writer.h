/* Writes .pt files for tests and benchmarks: a pickle by hand, a ZIP with stored members. Shared by test programs; not
 * part of the product. */
#ifndef PT_WRITER_H
#define PT_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
    uint8_t *at;
    size_t n, room;
};
static inline void put(struct bytes *b, const void *data, size_t n) {
    if (b->n + n > b->room) {
        b->room = (b->n + n) * 2 + 64;
        b->at = realloc(b->at, b->room);
        if (b->at == NULL)
            abort();
    }
    if (n > 0)
        memcpy(b->at + b->n, data, n);
    b->n += n;
}
static inline void put_text(struct bytes *b, const char *s) { put(b, s, strlen(s)); }
static inline void put_byte(struct bytes *b, unsigned v) {
    uint8_t c = (uint8_t)v;
    put(b, &c, 1);
}
static inline void put_le(struct bytes *b, uint64_t v, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        put_byte(b, i < 8 ? (unsigned)(v >> (8 * i)) & 0xff : 0);
}

/* Pickle pieces. */
static inline void pickle_start(struct bytes *b) { put(b, "\x80\x02", 2); }
static inline void pickle_string(struct bytes *b, const char *s) {
    put_byte(b, 'X');
    put_le(b, strlen(s), 4);
    put_text(b, s);
}
static inline void pickle_int(struct bytes *b, int64_t v) {
    if (v >= 0 && v < 256) {
        put_byte(b, 'K');
        put_le(b, (uint64_t)v, 1);
    } else if (v >= INT32_MIN && v <= INT32_MAX) {
        put_byte(b, 'J');
        put_le(b, (uint64_t)v, 4);
    } else {
        put(b, "\x8a\x08", 2);
        put_le(b, (uint64_t)v, 8);
    }
}
static inline void pickle_ints(struct bytes *b, const int64_t *v, size_t n) {
    put_text(b, "](");
    for (size_t i = 0; i < n; i++)
        pickle_int(b, v[i]);
    put_text(b, "e");
}
/* A contiguous tensor over all of storage `key`. */
static inline void pickle_tensor(struct bytes *b, const char *storage, const char *key, unsigned n_dims,
                                 const uint64_t *size) {
    uint64_t n = 1;
    for (unsigned d = 0; d < n_dims; d++)
        n *= size[d];
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_string(b, "storage");
    put_text(b, "ctorch\n");
    put_text(b, storage);
    put_text(b, "\n");
    pickle_string(b, key);
    pickle_string(b, "cpu");
    pickle_int(b, (int64_t)n);
    put_text(b, "tQ");
    pickle_int(b, 0);
    put_text(b, "(");
    for (unsigned d = 0; d < n_dims; d++)
        pickle_int(b, (int64_t)size[d]);
    put_text(b, "t(");
    for (unsigned d = 0; d < n_dims; d++) {
        n = size[d] == 0 ? 0 : n / size[d];
        pickle_int(b, (int64_t)n);
    }
    put_text(b, "t\x89"
                "ccollections\nOrderedDict\n)RtR");
}

/* A ZIP with stored members, written to memory; checksums are right. */
struct zip_writer {
    struct bytes file, directory;
    unsigned n;
};
static inline uint32_t zip_crc(const uint8_t *p, size_t n) {
    static uint32_t table[256];
    if (table[1] == 0)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = (c >> 1) ^ (0xEDB88320u & -(c & 1));
            table[i] = c;
        }
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++)
        crc = table[(crc ^ p[i]) & 0xff] ^ (crc >> 8);
    return ~crc;
}
static inline void zip_member_as(struct zip_writer *z, const char *name, const void *data, size_t n, bool is_deflated) {
    uint32_t crc = zip_crc(data, n), at = (uint32_t)z->file.n;
    /* Deflate without zlib: one block that is stored, of at most 65,535 bytes. */
    size_t packed = is_deflated ? n + 5 : n;
    unsigned method = is_deflated ? 8 : 0;
    put_le(&z->file, 0x04034b50, 4);
    put_le(&z->file, 20, 2);
    put_le(&z->file, 0, 2); /* flags */
    put_le(&z->file, method, 2);
    put_le(&z->file, 0, 4); /* time, date */
    put_le(&z->file, crc, 4);
    put_le(&z->file, packed, 4);
    put_le(&z->file, n, 4);
    put_le(&z->file, strlen(name), 2);
    put_le(&z->file, 0, 2);
    put_text(&z->file, name);
    if (is_deflated) {
        put_byte(&z->file, 1);
        put_le(&z->file, n, 2);
        put_le(&z->file, ~n, 2);
    }
    put(&z->file, data, n);
    put_le(&z->directory, 0x02014b50, 4);
    put_le(&z->directory, 20, 2);
    put_le(&z->directory, 20, 2);
    put_le(&z->directory, 0, 2);
    put_le(&z->directory, method, 2);
    put_le(&z->directory, 0, 4);
    put_le(&z->directory, crc, 4);
    put_le(&z->directory, packed, 4);
    put_le(&z->directory, n, 4);
    put_le(&z->directory, strlen(name), 2);
    put_le(&z->directory, 0, 12); /* extra, comment, disk, attributes */
    put_le(&z->directory, at, 4);
    put_text(&z->directory, name);
    z->n++;
}
static inline void zip_member(struct zip_writer *z, const char *name, const void *data, size_t n) {
    zip_member_as(z, name, data, n, false);
}
/* The finished file; free it with free(). */
static inline struct bytes zip_finish(struct zip_writer *z) {
    size_t at = z->file.n;
    put(&z->file, z->directory.at, z->directory.n);
    put_le(&z->file, 0x06054b50, 4);
    put_le(&z->file, 0, 4);
    put_le(&z->file, z->n, 2);
    put_le(&z->file, z->n, 2);
    put_le(&z->file, z->directory.n, 4);
    put_le(&z->file, at, 4);
    put_le(&z->file, 0, 2);
    free(z->directory.at);
    struct bytes out = z->file;
    memset(z, 0, sizeof *z);
    return out;
}

#endif
