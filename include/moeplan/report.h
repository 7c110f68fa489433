/* What people and programs read: aligned tables, and JSON objects of results. */
#ifndef MOEPLAN_REPORT_H
#define MOEPLAN_REPORT_H

#include <moeplan/json.h>
#include <moeplan/sim.h>

MP_API_BEGIN

/* A table of text cells; columns are as wide as their widest cell (as a terminal shows it); numbers right-aligned. */
struct mp_table;
struct mp_table *mp_table_new(void); /* NULL when out of memory */
void mp_table_column(struct mp_table *t, const char *title, bool is_right);
/* The last column added may be left out where the table is too wide: the highest rank goes first. 0 = never. */
void mp_table_may_drop(struct mp_table *t, unsigned rank);
/* Columns all at once: ranks has a digit for each; the first n_left are texts. */
void mp_table_columns(struct mp_table *t, const char *const *titles, size_t n, const char *ranks, size_t n_left);
void mp_table_cell(struct mp_table *t, const char *fmt, ...) MP_PRINTF(2, 3); /* fills row by row; 1,023 bytes */
void mp_table_text(struct mp_table *t, const char *text);        /* of any length, as it is; NULL: memory ran out */
void mp_table_write(const struct mp_table *t, struct mp_out *o); /* text, as wide as it comes */
void mp_table_write_markdown(const struct mp_table *t, struct mp_out *o);
/* RFC 4180, but lines end with a line feed alone. Cells as they are: for tables of raw values. */
void mp_table_write_csv(const struct mp_table *t, struct mp_out *o);
void mp_table_free(struct mp_table *t);

/* How tables and words are shown to people; all zero = plain text as wide as it comes. */
struct mp_style {
    bool is_markdown;
    bool has_color; /* ANSI sequences */
    unsigned width; /* columns of the terminal; 0 = any */
};
/* As the style says. A text wider than style->width first gets titles of several lines, then loses columns that may be
 * dropped (a line below names them), then has its text cells wrapped between words, and at last inside words; columns
 * of numbers are never broken, so that a table of nothing else may still be too wide. NULL = plain. */
void mp_table_show(const struct mp_table *t, const struct mp_style *style, struct mp_out *o);
/* Columns that a terminal needs for UTF-8 text: 2 for East Asian wide characters and emoji, 0 for combining marks. */
size_t mp_text_width(const char *s);

/* Tables of raw values from JSON. A column takes the value at `path` ("step_time_ns.mean") of every record; null or
 * absent is an empty cell, lists and objects are compact JSON. Numbers are those of the document, but in columns whose
 * name ends in _ns or _bytes rounded to whole ones. */
struct mp_record_column {
    const char *name, *path; /* path NULL: as the name */
};
/* rows: a list of objects; columns end with name NULL. The caller frees the table; NULL when out of memory. */
struct mp_table *mp_table_of_records(const json_t *rows, const struct mp_record_column *columns);

/* "1.234 ms", "567 us", "12.3 MB". buf of at least 32. */
const char *mp_human_ns(double ns, char *buf);
const char *mp_human_bytes(double bytes, char *buf);

/* A 95 % interval. */
struct mp_interval {
    double low, high;
    bool is_known;
};
/* Student's t quantile of a two-sided 95 % interval; infinite for 0 degrees of freedom. */
double mp_t_quantile_95(uint32_t freedom);
/* Delete-a-group jackknife: `whole` is the figure on everything, without[g] the one without group g. Unknown with fewer
 * than two groups or a figure that is not finite. */
struct mp_interval mp_interval_jackknife(double whole, const double *without, uint32_t n_groups);

/* The knee of a falling curve (x rising): the point farthest below the chord from its first point to its lowest one. */
enum mp_knee_kind {
    MP_KNEE_NONE, /* nothing is lower than the first point */
    MP_KNEE_BEND, /* `at` is where it bends: further right each unit of x buys less */
    MP_KNEE_END   /* it bends nowhere: `at` is the lowest point */
};
struct mp_knee {
    enum mp_knee_kind kind;
    uint32_t at;
    double distance; /* from the chord, both axes scaled to [0, 1] */
};
struct mp_knee mp_knee_of(uint32_t n, const double *x, const double *y);

/* Curves as text; a y that is not finite is no point. The y axis begins at the lowest point, not at 0. */
struct mp_curve {
    const char *name;
    uint32_t n;
    const double *x, *y;
};
void mp_plot_write(const struct mp_curve *curves, uint32_t n_curves, const char *x_title,
                   const char *(*human)(double value, char *buf), struct mp_out *o);

/* A topology as text: a tree in which parts that are alike stand once, and up to 8 GPUs what a single transfer between
 * each two gets. As an SVG picture: groups inside each other, GPUs, the NICs they share; more than 72 GPUs with alike
 * groups once. Integers only, same topology, same bytes. */
enum mp_status mp_topology_draw_text(const struct mp_topology *t, struct mp_out *o, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_topology_draw_svg(const struct mp_topology *t, struct mp_out *o, struct mp_error *err) MP_MUST_CHECK;

/* One strategy's (or incumbent's) result, as `compare` prints it. */
struct mp_scored {
    const char *strategy;
    const struct mp_sim_result *result;
    struct mp_interval step_ns; /* over requests, delete-a-group jackknife */
    double plan_seconds;
    const char *evaluated_on; /* "held-out" | "planning data" | "unknown origin" */
    const char *note;         /* why there is no plan (result NULL), why it cannot be used as it is, or NULL */
    const char *no_interval;  /* why step_ns is unknown, or NULL */
    bool is_without_kv_cache; /* the model keeps none: kv_tokens_min means nothing */
    const struct mp_plan *plan;
};
/* The object of DESIGN.md part 6 for one result; the caller owns it. NULL when out of memory. Without a result every
 * figure is null. */
json_t *mp_scored_json(const struct mp_scored *s, const struct mp_workload *w);
json_t *mp_interval_json(const struct mp_interval *i); /* {low, high}, or null when unknown */
json_t *mp_json_finite(double v);                      /* a real, or null when it is not finite */
/* The document and a newline. value NULL (memory ran out while it was built) is recorded in o. */
void mp_json_write(const json_t *value, struct mp_out *o);

MP_API_END

#endif
