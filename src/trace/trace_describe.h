/* What a recording is, as one JSON object (traces/FORMAT.md, "Lines"): the first line of .jsonl, a first line behind #
 * in .csv, keys of .json, a member of .npz. Private to src/trace. */
#ifndef TRACE_DESCRIBE_H
#define TRACE_DESCRIBE_H

#include "trace_box.h"
#include <moeplan/json.h>

#define DESCRIBE_KEY "moeplan_trace"

struct trace_described {
    bool is_there;
    char model[MP_MAX_NAME + 1];
    enum mp_phase phase;
    bool is_phase_unknown;                                        /* and that is all there is to say */
    int layer_base, ids_are_physical, is_ranked, is_time_ordered; /* -1 = not said */
    uint32_t n_experts, top_k, id_bytes;                          /* 0 = not said */
    bool is_synthetic;
    uint32_t n_layers, layers[MP_MAX_LAYERS]; /* 0 = not said */
    struct trace_names categories;
};
void trace_described_clear(struct trace_described *d);
/* Reads the object. Other keys are refused, unless there may be any beside it. */
enum mp_status trace_describe_read(struct trace_described *out, const json_t *o, bool has_others, const char *path,
                                   uint64_t line, struct mp_error *err) MP_MUST_CHECK;
/* The same from its text. */
enum mp_status trace_describe_parse(struct trace_described *out, const char *text, size_t n, const char *path,
                                    uint64_t line, const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
/* What is said fills in what the hints leave open; MP_EUSAGE where both speak and disagree. `d` must live on. */
enum mp_status trace_describe_settle(struct mp_trace_hints *hints, const struct trace_described *d, const char *path,
                                     struct mp_error *err) MP_MUST_CHECK;
/* Index in the recording of a category, in the order that was described; others follow. */
enum mp_status trace_describe_categories(const struct trace_described *d, struct trace_names *names,
                                         struct mp_error *err) MP_MUST_CHECK;

/* The object as one line of JSON without its end; with_layers: as a list, where the rows do not name them. */
void trace_describe_write(const struct mp_trace *t, bool with_layers, struct mp_out *o);
void trace_put_json_text(struct mp_out *o, const char *s); /* in quotes, escaped */

/* The forms that recordings are written in: one file trace_write_<name>.c, one word in meson.build. */
struct trace_writer {
    const char *name, *summary, *reference;
    bool is_text;   /* may be packed */
    bool has_table; /* writes a table of the requests beside it */
    /* Refuses (MP_EINPUT) what the form cannot carry. `table` is NULL unless has_table. */
    enum mp_status (*write)(const struct mp_trace *t, struct mp_out *o, struct mp_out *table, struct mp_error *err);
};
/* For writers: signatures, and ids that another program wrote wider than they need be, fit into no other form. */
enum mp_status trace_write_check(const struct mp_trace *t, const char *form, enum mp_trace_kind kind,
                                 struct mp_error *err) MP_MUST_CHECK;

#endif
