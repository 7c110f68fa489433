/* One line on standard error about how far long work is: only where that is a terminal, only after a second, at most
 * ten times a second, and nothing of it is left. A thread of its own reads what the library tells (moeplan/progress.h).
 */
#ifndef TOOL_PROGRESS_H
#define TOOL_PROGRESS_H

#include "cmd.h"
#include <moeplan/progress.h>

/* Begins to show o->progress, which it makes; without a terminal, with --quiet or where memory or threads are short it
 * stays NULL, and nothing is told. */
void progress_start(struct opts *o, const struct args *args);
void progress_stop(struct opts *o); /* the line is gone; o->progress is freed */
/* Standard error is about to be written to: takes the line away, and keeps it away until progress_show. Pairs may not
 * nest. */
void progress_hide(void);
void progress_show(void);
/* Takes the line away from a signal handler. */
void progress_erase_signal_safe(void);

#endif
