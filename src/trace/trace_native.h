/* Private to the native format: its figures, shared by reader and writer. traces/FORMAT.md is the normative text. */
#ifndef TRACE_NATIVE_H
#define TRACE_NATIVE_H

#include "trace_box.h"

#define NATIVE_MAGIC "\x89MPT\r\n\x1a\n"
enum {
    NATIVE_VERSION = 1,
    NATIVE_FIXED = 128, /* bytes of the fixed part */
    NATIVE_ENTRY = 24,  /* bytes of a chunk's entry: offset, bytes, crc32, 0 */
    NATIVE_ALIGN = 64,
    NATIVE_CRC_AT = 124,   /* the header's own checksum, counted as zero in it */
    NATIVE_BLOCK = 1 << 23 /* bytes of a full block of counts */
};
#define NATIVE_PAIR_BLOCK ((uint64_t)sizeof(struct mp_pair) << 18)
enum {
    NATIVE_SYNTHETIC = 1,
    NATIVE_RANKED = 2,
    NATIVE_TIME_ORDERED = 4,
    NATIVE_WEIGHTS = 8,
    NATIVE_SOURCES = 16,
    NATIVE_ITERATION_CATEGORIES = 32,
    NATIVE_SIGNATURES = 64,
    NATIVE_ALL_FLAGS = 127
};
_Static_assert(sizeof(struct mp_request) == 40 && sizeof(struct mp_pair) == 24,
               "the file holds these structures as they are");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian and mapped as it is");

static inline uint64_t native_pad(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

#endif
