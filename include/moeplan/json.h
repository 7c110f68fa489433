/* JSON in: jansson behind our own limits (size, depth, heap, duplicate keys refused, NaN refused), with
 * path:line:column. The only header that includes <jansson.h>. */
#ifndef MOEPLAN_JSON_H
#define MOEPLAN_JSON_H

#include <jansson.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>

MP_API_BEGIN

/* Parses `n` bytes as one document. `first_line` is the line of its first byte in the file (JSONL: the line's number).
 * The caller frees with json_decref. MP_ELIMIT when past a limit: limits->json_heap_bytes is for the text and all that
 * parsing allocates. Linking this file sends jansson's allocations to mp_realloc, from before main. */
enum mp_status mp_json_parse(json_t **out, const char *path, const char *text, size_t n, uint64_t first_line,
                             const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
/* A member that must be there and be a whole number in [min, max]. Messages name file, line, key and value. */
enum mp_status mp_json_u64(const json_t *object, const char *key, const char *path, uint64_t line, uint64_t min,
                           uint64_t max, uint64_t *out, struct mp_error *err) MP_MUST_CHECK;
/* Iterates over the lines of a text: false at the end; *line without its newline (CR LF too). */
bool mp_next_line(const char **cursor, const char *end, const char **line, size_t *n);
/* The same, but looks no further than `max` bytes for the newline: *n > max says that the line is longer than that, and
 * then it is the last. */
bool mp_next_line_within(const char **cursor, const char *end, size_t max, const char **line, size_t *n);
/* Line and column of a value in JSON text that is known to parse, for messages (the parser keeps no positions). steps
 * are separated by
 * '/': keys, or indexes into arrays ("records/3/load"). False and 0, 0 when there is no such place. O(n). */
bool mp_json_position(const char *text, size_t n, const char *steps, uint64_t *line, uint64_t *column);

MP_API_END

#endif
