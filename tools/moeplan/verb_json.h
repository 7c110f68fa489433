/* What a verb answers with --json, for another verb to show. */
#ifndef TOOL_VERB_JSON_H
#define TOOL_VERB_JSON_H

#include "cmd.h"
#include <moeplan/json.h>

/* The object of `moeplan sweep TRACE TOPOLOGY --json` with these options. *any: a point could be run. */
enum mp_status sweep_object(json_t **out, bool *any, const struct opts *o, const char *trace, const char *topology,
                            struct mp_error *err) MP_MUST_CHECK;
/* The object of `moeplan check PLAN TRACE TOPOLOGY --json`. */
enum mp_status check_object(json_t **out, const struct opts *o, const char *plan, const char *trace,
                            const char *topology, struct mp_error *err) MP_MUST_CHECK;

#endif
