#include "help.h"
#include "tool.h"

enum mp_status cmd_help(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    struct mp_out *out;
    const struct verb *v = NULL;
    if (args->n > 0) {
        v = verb_find(args->value[0]);
        if (v == NULL)
            return tool_unknown_verb(args->value[0], err);
    }
    enum mp_status status = mp_out_open(&out, "-", err);
    if (status != MP_OK)
        return status;
    if (o->completion != NULL && o->completion[0] == 'b')
        help_completion_bash(out);
    else if (o->completion != NULL && o->completion[0] == 'z')
        help_completion_zsh(out);
    else if (o->completion != NULL)
        help_completion_fish(out);
    else if (o->man)
        help_man(v, out);
    else if (o->markdown)
        help_markdown(out);
    else if (o->json)
        help_json(out);
    else if (v != NULL)
        help_verb(v, out);
    else
        help_overview(out);
    return mp_out_commit(out, err);
}
