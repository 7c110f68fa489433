/* What the terminal can: its width, whether colours are wanted. The only place that asks the environment about it:
 * NO_COLOR, TERM, COLUMNS. */
#ifndef TOOL_TERMINAL_H
#define TOOL_TERMINAL_H

#include "opt.h"

/* Fills o->style (in *style, which must live as long) from --format, --color, --wide and the terminal. */
void terminal_start(struct opts *o, struct mp_style *style);
/* The width anew: it may have changed since the start. */
void terminal_measure(const struct opts *o);
/* Columns of the terminal that standard error is, 0 when it is none or one that cannot rewrite a line. */
unsigned terminal_of_errors(void);

/* What begins and ends a coloured text of the result; "" without colours. */
enum tone { TONE_GOOD, TONE_BAD, TONE_DOUBTFUL };
const char *terminal_tone(const struct opts *o, enum tone tone);
const char *terminal_plain(const struct opts *o);
/* "verdict: TEXT", the text in its tone. */
void tool_verdict(const struct opts *o, enum tone tone, const char *text, struct mp_out *out);
/* The word that errors begin with, coloured where standard error is a terminal. color: --color, or NULL. */
const char *terminal_error_name(const char *name, const char *color, char buf[64]);

#endif
