/* Help in every shape, all from the tables of opt.c and cmd.c. */
#ifndef TOOL_HELP_H
#define TOOL_HELP_H

#include "cmd.h"
#include <moeplan/io.h>

void help_overview(struct mp_out *o);                   /* moeplan help */
void help_verb(const struct verb *v, struct mp_out *o); /* moeplan help VERB */
void help_man(const struct verb *v, struct mp_out *o);  /* v NULL: moeplan(1) with every verb */
void help_markdown(struct mp_out *o);                   /* docs/CLI.md */
void help_completion_bash(struct mp_out *o);
void help_completion_zsh(struct mp_out *o);
void help_completion_fish(struct mp_out *o);
void help_json(struct mp_out *o);
/* The same of a program without verbs; its --help and --man are help_verb and help_man. */
void help_program_markdown(const struct verb *v, struct mp_out *o);
void help_program_bash(const struct verb *v, struct mp_out *o);
void help_program_zsh(const struct verb *v, struct mp_out *o);
void help_program_fish(const struct verb *v, struct mp_out *o);

#endif
