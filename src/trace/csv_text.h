/* Plain comma-separated text: one header line, no quotes, LF or CR LF. Private to src/trace. */
#ifndef CSV_TEXT_H
#define CSV_TEXT_H

#include "trace_box.h"

enum { CSV_MAX_FIELDS = (int)MP_MAX_EXPERTS + 64 };
struct csv_field {
    const char *text; /* in the file, not terminated */
    size_t n;
};
struct csv_text {
    const char *path, *at, *end;
    uint64_t line; /* of the fields, 1-based */
    size_t max_line;
    uint32_t n_fields;
    struct csv_field *fields; /* [CSV_MAX_FIELDS] */
    const char *line_text;
    struct csv_field comment; /* the first line behind its #, when it starts with one; NULL = it does not */
    struct csv_field *names;  /* of the header, [n_names] */
    uint32_t n_names;
};
/* Starts and reads the header line. Refuses a byte-order mark, an empty file, empty or repeated column names. */
enum mp_status csv_open(struct csv_text *c, const struct mp_in *in, const struct mp_limits *limits,
                        struct mp_error *err) MP_MUST_CHECK;
void csv_close(struct csv_text *c);
/* The next line that is not empty, split; *more false at the end. A line with another number of fields than the header
 * is refused. */
enum mp_status csv_next(struct csv_text *c, bool *more, struct mp_error *err) MP_MUST_CHECK;
/* Column of a name, or MP_NONE. */
uint32_t csv_column(const struct csv_text *c, const char *name);
bool csv_is(const struct csv_field *f, const char *text);
/* A field as a whole number in [min, max]. */
enum mp_status csv_u64(const struct csv_text *c, uint32_t column, uint64_t min, uint64_t max, uint64_t *out,
                       struct mp_error *err) MP_MUST_CHECK;
/* A field as a name: text of 1 to MP_MAX_NAME bytes, terminated in buf. */
enum mp_status csv_name(const struct csv_text *c, uint32_t column, char buf[MP_MAX_NAME + 1],
                        struct mp_error *err) MP_MUST_CHECK;
/* Position of a field on its line, 1-based. */
uint64_t csv_at(const struct csv_text *c, uint32_t column);

/* The requests table of an array: request,first_row,tokens[,first_position][,dataset][,category][,source]. */
struct request_table {
    uint64_t n;
    struct mp_request *requests; /* category indexes categories */
    uint64_t *lines;
    struct trace_names categories;
};
enum mp_status request_table_read(struct request_table *out, const struct mp_in *in, uint64_t n_rows,
                                  const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
void request_table_clear(struct request_table *t);
/* The table that the hints name, else "<stem>.requests.csv" beside the array `path`, packed or not. MP_EUSAGE: neither
 * is there. */
enum mp_status request_table_open(struct mp_in **out, const char *path, const struct mp_trace_hints *hints,
                                  struct mp_error *err) MP_MUST_CHECK;

#endif
