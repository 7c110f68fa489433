/* YAML in: libyaml behind our own limits (no anchors, aliases, tags, duplicate keys, second documents; depth, events,
 * sizes), as a tree of nodes that know their position; typed reads that report `path:line:column: key: "value" is not
 * ... (write ...)`. */
#ifndef MOEPLAN_YAML_H
#define MOEPLAN_YAML_H

#include <moeplan/io.h>
#include <moeplan/limits.h>

MP_API_BEGIN

enum mp_yaml_kind { MP_YAML_SCALAR, MP_YAML_SEQUENCE, MP_YAML_MAPPING };
struct mp_yaml {
    enum mp_yaml_kind kind;
    uint32_t line, column; /* 1-based */
    uint32_t length;       /* SCALAR: of text */
    uint32_t n;            /* SEQUENCE, MAPPING: items */
    bool is_quoted;
    const char *key;       /* of the mapping entry it is the value of (or whose list it is an item of), or NULL; of a
                              mapping's items never NULL */
    const char *text;      /* SCALAR: terminated, length bytes, no NUL inside */
    struct mp_yaml *items; /* [n] values */
};
struct mp_yaml_doc {
    const char *path;
    struct mp_yaml *root;
    size_t n_events;
    struct mp_arena *arena;
};
/* Parses the whole input as one document; limits NULL = the defaults. To allow longer texts (stages of a plan), pass a
 * copy of the limits with yaml_scalar raised. MP_EINPUT: not YAML, or YAML that moeplan does not take; MP_ELIMIT: past
 * a limit. Linear time; about 80 bytes per value. The document does not refer to `in` afterwards. The caller frees it
 * with mp_yaml_free. */
enum mp_status mp_yaml_parse(struct mp_yaml_doc **out, const struct mp_in *in, const struct mp_limits *limits,
                             struct mp_error *err) MP_MUST_CHECK;
void mp_yaml_free(struct mp_yaml_doc *d); /* NULL is fine */

/* The value of `key`, or NULL. */
const struct mp_yaml *mp_yaml_get(const struct mp_yaml *map, const char *key);
/* As mp_yaml_get, but a missing key is MP_EINPUT at the mapping's position. */
enum mp_status mp_yaml_need(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *key,
                            const struct mp_yaml **out, struct mp_error *err) MP_MUST_CHECK;
/* MP_EINPUT at the first key that is not in `keys` (NULL-terminated); the message lists those that are. Also checks the
 * kind. */
enum mp_status mp_yaml_keys(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *const *keys,
                            struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_yaml_expect(const struct mp_yaml_doc *d, const struct mp_yaml *n, enum mp_yaml_kind kind,
                              struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_yaml_u64(const struct mp_yaml_doc *d, const struct mp_yaml *n, uint64_t min, uint64_t max,
                           uint64_t *out, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_yaml_u32(const struct mp_yaml_doc *d, const struct mp_yaml *n, uint32_t min, uint32_t max,
                           uint32_t *out, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_yaml_bool(const struct mp_yaml_doc *d, const struct mp_yaml *n, bool *out,
                            struct mp_error *err) MP_MUST_CHECK;
/* A scalar of printable text, copied into `arena`. */
enum mp_status mp_yaml_string(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_arena *arena,
                              const char **out, struct mp_error *err) MP_MUST_CHECK;
/* A quantity with an optional unit, as a whole number of the base unit: "450 GB/s", "141 GiB", "989 TFLOPS", "2.5 us",
 * "0.8" (ratios as ppm). unit is one of "bytes", "bytes/s", "ns", "flops", "ppm". A bare integer is in the base unit; a
 * bare decimal is only taken as a ratio. Exact: what is not a whole number of the base unit is refused. */
enum mp_status mp_yaml_quantity(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *unit, uint64_t min,
                                uint64_t max, uint64_t *out, struct mp_error *err) MP_MUST_CHECK;
/* A figure with where it comes from: as mp_yaml_quantity (unit NULL: as mp_yaml_u64), but a mapping {value: ...,
 * source: "..."} is taken too. */
enum mp_status mp_yaml_figure(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *unit, uint64_t min,
                              uint64_t max, uint64_t *out, struct mp_error *err) MP_MUST_CHECK;
/* The two required first keys: `schema: <schema>`, `version: 1`. */
enum mp_status mp_yaml_schema(const struct mp_yaml_doc *d, const char *schema, struct mp_error *err) MP_MUST_CHECK;
/* Reports at a node: MP_EINPUT "key: message". */
enum mp_status mp_yaml_fail(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_error *err, const char *fmt,
                            ...) MP_PRINTF(4, 5);
/* Writes a string as a scalar, plain where that is safe and double-quoted where not. */
void mp_yaml_write_string(struct mp_out *o, const char *s);

MP_API_END

#endif
