/* --rehome: sequences that move between layers, and what each strategy makes of a plan's steps. docs/LUFFY.md. */
#ifndef TOOL_REHOMING_H
#define TOOL_REHOMING_H

#include "score.h"
#include <moeplan/rehome.h>

struct rehoming;
/* Reads --rehome and its options into s->rehoming; NULL there without it. Behind setup_load. */
enum mp_status rehoming_setup(struct setup *s, struct mp_error *err) MP_MUST_CHECK;
/* MP_EUSAGE when sequences cannot move in these steps. Behind s->batching and s->sim. */
enum mp_status rehoming_check(const struct setup *s, struct mp_error *err) MP_MUST_CHECK;
/* Where tokens are between layers in scored steps; NULL without --rehome. */
const struct mp_flow_maker *rehoming_flow(const struct setup *s);
void rehoming_head(const struct setup *s, struct mp_out *o); /* a line, or nothing */
/* What a JSON object with figures of such steps says beside them: "rehomed_by", or nothing. */
bool rehoming_mark_json(const struct setup *s, json_t *o);

struct rehoming_table;
/* Every strategy on up to 8 of the scored steps, each once with its own balance and those that can also with Algorithm
 * 1's. *out is NULL without --rehome. */
enum mp_status rehoming_run(struct rehoming_table **out, const struct setup *s, const struct score *score,
                            struct mp_error *err) MP_MUST_CHECK;
/* Nothing where t is NULL. */
void rehoming_text(const struct rehoming_table *t, const struct mp_style *style, struct mp_out *o);
json_t *rehoming_json(const struct rehoming_table *t); /* an array; NULL = out of memory */
void rehoming_free(struct rehoming_table *t);

#endif
