/* What the verbs share: reading inputs as the options say, notes, writing results. */
#ifndef TOOL_TOOL_H
#define TOOL_TOOL_H

#include "cmd.h"
#include <moeplan/moeplan.h>
#include <moeplan/report.h>

/* Standard streams that are closed cannot be taken for files; a signal leaves no temporary file behind. */
void tool_start(void);

enum mp_status tool_unknown_verb(const char *name, struct mp_error *err) MP_MUST_CHECK;

/* A line on standard error, unless --quiet. */
void tool_note(const struct opts *o, const char *fmt, ...) MP_PRINTF(2, 3);
/* The same whatever --quiet says: why the answer is no. */
void tool_say(const char *fmt, ...) MP_PRINTF(1, 2);
unsigned tool_threads(const struct opts *o);

/* The recording, read with the hints of the options. */
enum mp_status tool_load_trace(struct mp_trace **out, const char *path, const struct opts *o,
                               struct mp_error *err) MP_MUST_CHECK;
/* The same, but --phase and --layer-base replace what a native recording says. */
enum mp_status tool_load_trace_changed(struct mp_trace **out, const char *path, const struct opts *o,
                                       struct mp_error *err) MP_MUST_CHECK;
/* The same for looking at it: what is missing has a stand-in (phase mixed, layer base 0, logical ids, the most experts
 * there can be, one request) and is named in *missing. */
enum mp_status tool_load_trace_with_gaps(struct mp_trace **out, const char *path, const struct opts *o,
                                         struct mp_trace_missing *missing, struct mp_error *err) MP_MUST_CHECK;
const char *tool_s(uint64_t n); /* plural ending: "" for one, else "s" */
/* --model, else the preset that the trace names, else a generic one. Checks experts and layers against
 * the trace. */
enum mp_status tool_load_model(struct mp_model **out, const struct opts *o, const struct mp_trace *trace,
                               struct mp_error *err) MP_MUST_CHECK;
/* Says so when the model is a generic one. */
void tool_note_generic(const struct opts *o, const struct mp_model *model);
/* Says so when the recording has fewer MoE layers than the model. */
void tool_note_layers(const struct opts *o, const struct mp_trace *trace, const struct mp_model *model);
/* The batching rule of the options on this trace. MP_EUSAGE asks for --phase when neither says it. */
enum mp_status tool_batching(struct mp_batching *out, const struct opts *o, const struct mp_trace *trace,
                             const struct mp_topology *topology, struct mp_error *err) MP_MUST_CHECK;
/* Dispatcher, sources, network and stage mode of the options; the dispatcher's default depends on trace and phase. */
struct mp_sim_options tool_sim_options(const struct opts *o, const struct mp_trace *trace, enum mp_phase phase);
struct mp_stack_options tool_stack_options(const struct opts *o, const struct mp_model *model,
                                           const struct mp_topology *topology);
/* Calls fn for each part of a comma-separated list, copied to word; empty parts are refused. */
enum mp_status tool_for_each_word(const char *list, const char *option, char *word, size_t size,
                                  enum mp_status (*fn)(void *ctx, const char *word, struct mp_error *err), void *ctx,
                                  struct mp_error *err) MP_MUST_CHECK;
/* --set: the settings, in memory of `arena`, checked against the strategies' options. */
enum mp_status tool_settings(const struct mp_setting **out, uint32_t *n, const struct opts *o, struct mp_arena *arena,
                             struct mp_error *err) MP_MUST_CHECK;
/* Can the topology (the model) that the plan was made for be had from its name alone: a short string, a preset? */
bool tool_names_topology(const struct mp_plan *p, const struct opts *o);
bool tool_names_model(const struct mp_plan *p, const struct opts *o);
enum mp_stage_mode tool_stages(const struct opts *o); /* --stages */
/* --strict needs an interval, and one model. */
enum mp_status tool_check_strict(const struct opts *o, struct mp_error *err) MP_MUST_CHECK;
enum mp_objective tool_objective(const struct opts *o);

/* Standard output for a result: what is written there, JSON for --json and CSV, becomes what --format says when it is
 * closed. tool_close_result ends the writer in either case. */
enum mp_status tool_open_result(struct mp_out **out, const struct opts *o, struct mp_error *err) MP_MUST_CHECK;
enum mp_status tool_close_result(struct mp_out *out, const struct opts *o, struct mp_error *err) MP_MUST_CHECK;
const char *tool_format_name(const struct opts *o); /* "--json", "--format csv": for messages */

/* Can `path` be written (its folder is there, it is no folder, device or pipe itself)? Asked before long work. "-"
 * always can. */
enum mp_status tool_check_output(const char *path, struct mp_error *err) MP_MUST_CHECK;
/* MP_EUSAGE when a result (-o, --out-b) is to replace a file that the verb reads. */
enum mp_status tool_keep_inputs(const struct opts *o, const struct args *args, struct mp_error *err) MP_MUST_CHECK;
/* The object that --json prints when the answer is no: {schema, version, outcome: "infeasible" | "refused", note}. */
enum mp_status tool_write_no(const struct opts *o, const char *schema, const char *outcome, const char *note,
                             struct mp_error *err) MP_MUST_CHECK;
/* What kind of thing a command-line word is. */
enum tool_kind { TOOL_TRACE, TOOL_PLAN, TOOL_PLACEMENT, TOOL_TOPOLOGY, TOOL_MODEL };
enum mp_status tool_kind_of(enum tool_kind *out, const char *spec, const struct opts *o,
                            struct mp_error *err) MP_MUST_CHECK;
/* The format of a traffic matrix to verify the plan with; NULL: it is a recording. Told by the content; an array may be
 * either, and what nobody knows too: then it is what the plan says. */
enum mp_status tool_matrix_format(const char **out, const char *spec, const struct mp_plan *plan, const struct opts *o,
                                  struct mp_error *err) MP_MUST_CHECK;

#endif
