/* --condense: results of token condensation, and what marks them as LOSSY. docs/LUFFY.md. */
#ifndef TOOL_LOSSY_H
#define TOOL_LOSSY_H

#include "score.h"

/* Reads --condense and --condense-history into s->lossy; NULL there when they are not given. MP_EUSAGE when the
 * recording has no signatures. Behind setup_load; what it makes is s->arena's. */
enum mp_status lossy_setup(struct setup *s, struct mp_error *err) MP_MUST_CHECK;
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
