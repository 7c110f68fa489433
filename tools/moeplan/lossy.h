/* --condense: results of token condensation, and what marks them as LOSSY. docs/LUFFY.md. */
#ifndef TOOL_LOSSY_H
#define TOOL_LOSSY_H

#include "score.h"

/* Reads --condense and --condense-history into s->lossy; NULL there when they are not given. MP_EUSAGE when the
 * recording has no signatures. Behind setup_load; what it makes is s->arena's. */
enum mp_status lossy_setup(struct setup *s, struct mp_error *err) MP_MUST_CHECK;
/* For plan: fills the plan's section `condense` as s->lossy says, with the shares of planning steps; MP_EUSAGE for a
 * series of thresholds. */
enum mp_status lossy_choose(struct mp_plan *plan, const struct setup *s, struct mp_error *err) MP_MUST_CHECK;
/* For simulate: without --condense, what the plan says; a note where the recording has no signatures for that. */
enum mp_status lossy_planned(struct setup *s, const struct mp_plan *plan, struct mp_error *err) MP_MUST_CHECK;
/* The section in a line: "LOSSY: ...", or "" without one; buf of at least 200. */
const char *lossy_describe(const struct mp_plan *plan, char *buf, size_t size);
/* What tokens do in scored steps: --rehome's homes, and with --condense condensation on top. */
const struct mp_flow_maker *lossy_flow(const struct setup *s);
/* What condensation saves of this plan's steps: fills score->lossy. Nothing without --condense. */
enum mp_status lossy_measure(struct score *score, const struct setup *s, struct mp_error *err) MP_MUST_CHECK;
void lossy_head(const struct setup *s, struct mp_out *o);     /* a line, or nothing */
void lossy_line(const struct score *score, struct mp_out *o); /* likewise */
const char *lossy_mark(const struct score *score);            /* " (LOSSY)" or "" */
/* Adds "lossy" to a result, an object; false = out of memory. Nothing without --condense. */
bool lossy_json(const struct setup *s, const struct score *score, json_t *result);

#endif
