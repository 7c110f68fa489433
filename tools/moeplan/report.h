/* moeplan report: what is gathered, and who writes which part of it. docs/REPORT.md. */
#ifndef TOOL_REPORT_H
#define TOOL_REPORT_H

#include "score.h"
#include <moeplan/page.h>
#include <moeplan/verify.h>

enum { REPORT_PLANS_MAX = 1 + ARGUMENTS_MAX, REPORT_WHY = 400, REPORT_KINDS = 8, REPORT_LAYERS_NAMED = 5 };

/* Bars of a GPU in a layer, docs/REPORT.md part 2. */
enum report_bar {
    REPORT_DENSE,
    REPORT_ATTENTION,
    REPORT_DISPATCH_SENDS,
    REPORT_DISPATCH_RECEIVES,
    REPORT_SHARED,
    REPORT_EXPERTS,
    REPORT_COMBINE_SENDS,
    REPORT_COMBINE_RECEIVES
};

/* What charts show of one plan. L layers, G GPUs. NULL: it is not there, and `why` says so. All owned. */
struct report_detail {
    uint32_t n_steps;                   /* that load and traffic are of */
    double *mean_rows, *max_rows;       /* [L][G] */
    double *dispatch, *combine;         /* [L][G][G] bytes of a step; NULL = only the sums */
    double *dispatch_sum, *combine_sum; /* [G][G] */
    struct mp_step_times times;         /* of the timeline's step; bars NULL = no timeline */
    uint32_t step;
    double *bars;                   /* [L][G][REPORT_KINDS][2] from the layer's start */
    double *sent, *received;        /* [L][G][2] bytes of dispatch and combine */
    uint64_t *start_ns, *length_ns; /* [L] */
    uint64_t *parts_ns;             /* [L][5] */
    char why[REPORT_WHY];
};
/* A plan as its file says it, and what the verifier said. */
struct report_plan {
    const char *path;                  /* NULL: made here */
    struct mp_plan *file;              /* as written, for what it claims; NULL for a stack's placement */
    struct mp_verify_report *verified; /* NULL: why_not_verified says why */
    const char *why_not_verified;
    char sha256[65]; /* of the file's bytes; "" = none */
};

struct report_verdict {
    enum gain_kind kind;
    bool is_none;                                   /* there is nothing to judge: headline says why */
    uint32_t n_layers, layers[REPORT_LAYERS_NAMED]; /* those named, largest saving first */
    double saved_ns[REPORT_LAYERS_NAMED];
    double change, moe_change, moe_share;
    char headline[700], interval_text[700], where_text[400], other_text[400];
};

struct report {
    const struct opts *o;
    const struct args *args;
    struct setup s;
    uint32_t n; /* plans, the baseline first */
    struct score scores[REPORT_PLANS_MAX];
    struct report_plan plans[REPORT_PLANS_MAX];
    struct report_detail details[REPORT_PLANS_MAX];
    struct report_verdict verdict;
    enum mp_packed_type packing;      /* of traffic layer by layer */
    json_t *sweep, *drift, *measured; /* objects or null */
    json_t *limits, *notes;           /* sentences */
};

/* The baseline, the plans, their steps and scores; what verify says of them. */
enum mp_status report_load(struct report *r, struct mp_error *err) MP_MUST_CHECK;
void report_free(struct report *r);
/* One sentence more of what was left out or limited; false = out of memory. */
bool report_note(struct report *r, const char *fmt, ...) MP_PRINTF(2, 3);

enum mp_status report_traffic(struct report *r, uint32_t plan, struct mp_error *err) MP_MUST_CHECK;
enum mp_status report_timeline(struct report *r, uint32_t plan, uint32_t step, struct mp_error *err) MP_MUST_CHECK;
/* Bars [n_layers][n_bars][2] on one clock: where each layer starts and how long it is, and the bars from there on. */
void report_set_starts(double *bars, uint64_t *start_ns, uint64_t *length_ns, size_t n_layers, size_t n_bars);
void report_detail_free(struct report_detail *d);

/* r->drift, r->sweep (--redundant, --sweep) and r->measured (--measured). */
enum mp_status report_drift(struct report *r, struct mp_error *err) MP_MUST_CHECK;
enum mp_status report_sweep(struct report *r, struct mp_error *err) MP_MUST_CHECK;
enum mp_status report_measured(struct report *r, struct mp_error *err) MP_MUST_CHECK;
enum mp_status report_read_json(json_t **out, const char *path, const struct opts *o,
                                struct mp_error *err) MP_MUST_CHECK;

void report_judge(struct report *r);
/* "real", "tie", "too few", "noise", "loss", "none" */
const char *report_kind(const struct report_verdict *v);
/* What is outside the model: r->limits. */
enum mp_status report_limits(struct report *r, struct mp_error *err) MP_MUST_CHECK;

/* The data object; NULL when out of memory. */
json_t *report_json(const struct report *r);
/* A result as compare has it, without what changes from run to run. */
json_t *report_result_json(const struct report *r, uint32_t plan);

/* The static parts; ctx is a struct report. */
void report_html_title(void *ctx, struct mp_out *o);
void report_html_verdict(void *ctx, struct mp_out *o);
void report_html_comparison(void *ctx, struct mp_out *o);
void report_html_certificates(void *ctx, struct mp_out *o);
void report_html_limits(void *ctx, struct mp_out *o);
void report_html_provenance(void *ctx, struct mp_out *o);

#endif
