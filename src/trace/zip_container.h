/* ZIP archives as .npz and .pt use them: read straight from the mapping, with limits before every allocation. Private
 * to src/trace. */
#ifndef ZIP_CONTAINER_H
#define ZIP_CONTAINER_H

#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>

struct zip_member {
    const char *name; /* NUL-terminated, owned by the archive */
    uint64_t bytes;   /* uncompressed */
    uint64_t packed_bytes;
    uint64_t data_offset; /* of its first packed byte in the file, for messages */
    uint32_t crc32;
    bool is_stored;
    const uint8_t *data; /* of a stored member: its bytes in the input; NULL when deflated */
};
struct zip_archive {
    const char *path;
    const struct mp_in *in;
    uint32_t n_members;
    struct zip_member *members; /* in the order of the central directory */
    struct mp_arena *arena;
};

/* Is this a ZIP archive by its first bytes? */
bool zip_is_archive(const struct mp_in *in);
/* Name of the member that stands first in the file (looks at the first bytes only); false when there is none. Not
 * NUL-terminated. */
bool zip_first_name(const struct mp_in *in, const char **name, size_t *n);
/* Reads the directory. Refuses (MP_EINPUT with the byte offset): damage, encryption, methods other than stored and
 * deflate, members that overlap or leave the file, names twice or not text; MP_ELIMIT: more members than
 * limits->zip_members, or a member that claims a larger ratio than limits->inflate_ratio. `in` is borrowed. */
enum mp_status zip_open(struct zip_archive **out, const struct mp_in *in, const struct mp_limits *limits,
                        struct mp_error *err) MP_MUST_CHECK;
void zip_close(struct zip_archive *z); /* NULL is fine */
/* Index of a member by its whole name, or MP_NONE. */
uint32_t zip_find(const struct zip_archive *z, const char *name);

/* A member's bytes in order, without holding them all. The checksum is verified when the last byte has been read. */
struct zip_stream;
enum mp_status zip_stream_open(struct zip_stream **out, const struct zip_archive *z, uint32_t member,
                               struct mp_error *err) MP_MUST_CHECK;
/* Up to n bytes; *got < n only at the end. */
enum mp_status zip_stream_read(struct zip_stream *s, void *buf, size_t n, size_t *got,
                               struct mp_error *err) MP_MUST_CHECK;
void zip_stream_close(struct zip_stream *s); /* NULL is fine */

/* All bytes of a member, at most max_bytes (MP_ELIMIT), checksum verified. A stored member is not copied: *bytes points
 * into the input and *owned is NULL; else *owned is the same pointer, to be freed with mp_free. */
enum mp_status zip_read(const struct zip_archive *z, uint32_t member, uint64_t max_bytes, const uint8_t **bytes,
                        uint8_t **owned, struct mp_error *err) MP_MUST_CHECK;

#endif
