/* Every limit of moeplan in one place. All can be changed by the caller; the defaults are what the CLI uses. */
#ifndef MOEPLAN_LIMITS_H
#define MOEPLAN_LIMITS_H

#include <moeplan/api.h>
#include <stddef.h>
#include <stdint.h>

MP_API_BEGIN

#define MP_MAX_GPUS 4096u
#define MP_MAX_LAYERS 1024u
#define MP_MAX_EXPERTS 4096u
#define MP_MAX_TOP_K 64u
#define MP_MAX_LEVELS 4u
#define MP_MAX_TOKENS (UINT64_C(1) << 53)
#define MP_MAX_NAME 128u
#define MP_MAX_THREADS 256u
#define MP_NONE UINT32_MAX /* "no such id" wherever a uint32_t id is optional */

struct mp_limits {
    size_t yaml_bytes;               /* a YAML file; 16 MiB */
    unsigned yaml_depth;             /* 32 */
    size_t yaml_events;              /* 10^6 */
    size_t yaml_scalar;              /* one scalar; 4 KiB, but 1 MiB for plan stages (the reader asks per key) */
    size_t json_bytes;               /* one JSON document; 64 MiB */
    size_t json_heap_bytes;          /* what parsing it may allocate; 48 MiB */
    unsigned json_depth;             /* 64 */
    size_t line_bytes;               /* one line of a text format; 4 MiB */
    size_t pickle_bytes;             /* data.pkl; 16 MiB */
    size_t pickle_ops;               /* opcodes; 4 * 10^6 */
    size_t pickle_heap_bytes;        /* what its values may take; 40 MiB */
    size_t npy_header_bytes;         /* 64 KiB */
    size_t safetensors_header_bytes; /* 16 MiB */
    size_t zip_members;              /* 65,536 */
    uint64_t inflate_ratio;          /* unpacked : packed bytes of a member or of a gzip or zstd file; 200 */
    uint64_t inflate_free_bytes;     /* what any of them may unpack to, whatever the ratio; 16 MiB */
    uint64_t memory_bytes;           /* all of moeplan's allocations; 2 GiB; enforced by the allocator table */
};

extern const struct mp_limits mp_limits_default;

MP_API_END

#endif
