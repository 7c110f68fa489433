#include "help.h"
#include "progress.h"
#include "terminal.h"
#include "tool.h"
#include <moeplan/alloc.h>
#include <stdio.h>
#include <string.h>

/* Help and version: text on standard output. v NULL = the overview. */
static enum mp_status print_help(const struct verb *v, bool is_version, struct mp_error *err) {
    struct mp_out *out;
    enum mp_status status = mp_out_open(&out, "-", err);
    if (status != MP_OK)
        return status;
    if (is_version)
        mp_out_printf(out, "moeplan %s\n", MOEPLAN_VERSION);
    else if (v != NULL)
        help_verb(v, out);
    else
        help_overview(out);
    return mp_out_commit(out, err);
}

static enum mp_status run(int argc, char **argv, int *exit_code, const char **color, struct mp_error *err) {
    struct opts o;
    struct mp_style style;
    struct args args;
    if (argc < 2)
        return mp_fail(err, MP_EUSAGE,
                       "which verb? (usage: moeplan VERB [arguments] [options]; all verbs: moeplan help)");
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
        return print_help(NULL, true, err);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_help(NULL, false, err);
    const struct verb *verb = verb_find(argv[1]);
    if (verb == NULL)
        return tool_unknown_verb(argv[1], err);
    enum mp_status status = opt_parse(&o, &args, verb, argc - 1, argv + 1, err);
    *color = o.color;
    if (status != MP_OK)
        return status;
    terminal_start(&o, &style);
    if (o.help)
        return print_help(verb, false, err);
    status = tool_keep_inputs(&o, &args, err);
    if (status != MP_OK)
        return status;
    o.argc = argc;
    o.argv = argv;
    o.limits = mp_limits_default;
    if (o.mem_limit > 0) { /* not every verb has the option */
        o.limits.memory_bytes = o.mem_limit;
        mp_alloc_limit(o.mem_limit);
    }
    progress_start(&o, &args);
    status = verb->fn(&o, &args, exit_code, err);
    progress_stop(&o);
    return status;
}

int main(int argc, char **argv) {
    int exit_code = 0;
    struct mp_error err = {0};
    const char *color = NULL;
    char text[2048], name[64];
    tool_start();
    enum mp_status status = run(argc, argv, &exit_code, &color, &err);
    if (status == MP_OK)
        return exit_code;
    fprintf(stderr, "%s %s\n", terminal_error_name("moeplan", color, name),
            err.status != MP_OK ? mp_error_text(&err, text, sizeof text) : "internal error without a message");
    return mp_exit_code(status);
}
