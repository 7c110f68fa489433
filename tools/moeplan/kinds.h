/* Kinds of traffic: other recordings of the model, or groups of one recording's categories. --robust and --domains. */
#ifndef TOOL_KINDS_H
#define TOOL_KINDS_H

#include "score.h"
#include <moeplan/robust.h>
#include <moeplan/variants.h>

enum { KINDS_MAX = MP_VARIANT_DOMAINS_MAX };
struct kinds {
    uint32_t n;
    const char *name[KINDS_MAX];
    struct mp_trace *traces[KINDS_MAX]; /* owned; NULL = TRACE */
    struct mp_trace *joined;            /* all recordings behind one another; NULL = TRACE has all */
    struct mp_part planning[KINDS_MAX], scored[KINDS_MAX];
    struct mp_arena *arena;
};
/* text: TRACE2,TRACE3,... or categories[:N]. option: its name, for messages; first: what TRACE is called; usual: groups
 * without N; most: of either. Each recording is split as the setup says. */
enum mp_status kinds_load(struct kinds *k, const struct setup *s, const char *text, const char *option,
                          const char *first, uint32_t usual, uint32_t most, struct mp_error *err) MP_MUST_CHECK;
bool kinds_are_categories(const char *text);
void kinds_free(struct kinds *k);

#endif
