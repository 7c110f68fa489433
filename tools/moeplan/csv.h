/* What a verb prints as CSV: one table at a time, named by --table, taken from its JSON document. */
#ifndef TOOL_CSV_H
#define TOOL_CSV_H

#include "opt.h"
#include <moeplan/report.h>

enum csv_kind {
    CSV_LIST,    /* `rows` is a list of records */
    CSV_ONE,     /* `rows` is the only record */
    CSV_MEMBERS, /* every member of the object `rows` is a record {key, value, unit} */
    CSV_LISTS    /* every member of the object `rows` is a list of records, which get its name as "key" */
};
struct csv_table {
    const char *verb, *name; /* a verb prints the first one that its document has, or --table's */
    const char *schema;      /* of the document */
    enum csv_kind kind;
    const char *rows; /* where in it: keys separated by dots; "" = the document itself */
    const char *summary;
    const struct mp_record_column *columns;
};
const struct csv_table *csv_table_at(uint32_t i); /* NULL past the last */

/* MP_EUSAGE when the verb has no tables, or none named --table. */
enum mp_status csv_check(const struct opts *o, const char *verb, struct mp_error *err) MP_MUST_CHECK;
/* Writes the table that the options ask for from a JSON document; its verdict is a note on standard error. */
enum mp_status csv_write(const struct opts *o, const char *json, size_t n, struct mp_out *out,
                         struct mp_error *err) MP_MUST_CHECK;

#endif
