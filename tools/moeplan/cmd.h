/* The verbs: one table, one file cmd_<verb>.c each. */
#ifndef TOOL_CMD_H
#define TOOL_CMD_H

#include "opt.h"

struct argument {
    const char *name, *summary;
    bool is_optional, is_repeated;
    enum opt_words words;
};
/* Runs a verb. *exit_code is 0 or 1 (the answer is no) and is used only with MP_OK. */
typedef enum mp_status (*verb_fn)(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err);
struct verb {
    const char *name;
    verb_fn fn;
    const char *summary, *usage;
    const char *about;                /* a paragraph or two for help and the manual page */
    const struct argument *arguments; /* ends with name NULL */
    const enum opt_id *options;       /* ends with OPT_END */
    const char *const *examples;      /* ends with NULL */
    bool is_program;                  /* no verb of moeplan, but a program of its own: name is the program's */
};
extern const struct verb verbs[];
extern const uint32_t n_verbs;
const struct verb *verb_find(const char *name); /* NULL = unknown */

enum mp_status cmd_inspect(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_convert(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_generate(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_plan(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_verify(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_simulate(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_compare(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_predict(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_variants(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_sweep(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_check(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_migrate(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_order(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_export(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_report(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_list(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;
enum mp_status cmd_help(const struct opts *, const struct args *, int *, struct mp_error *) MP_MUST_CHECK;

#endif
