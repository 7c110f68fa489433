#include "help.h"
#include "csv.h"
#include <moeplan/report.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 100, INDENT = 30 };
static const char exit_codes[] = "0 done; 1 the answer is no (not feasible, not verified, not loadable); 2 usage; 3 "
                                 "bad input; 4 environment or I/O; "
                                 "5 peer or deadline; 70 internal error; 130 and 143 after SIGINT and SIGTERM.";

static const char purpose[] =
    "moeplan decides which GPU holds which expert of a Mixture-of-Experts model, from a recording of the experts\n"
    "it really used, and writes one verified plan that serving stacks can load";

/* Text wrapped at WIDTH, starting in column `column`, following lines indented. */
static void put_wrapped(struct mp_out *o, const char *s, int column, int indent) {
    while (*s != '\0') {
        int n = (int)strcspn(s, " ");
        if (column > indent && column + n > WIDTH) {
            mp_out_printf(o, "\n%*s", indent, "");
            column = indent;
        }
        mp_out_write(o, s, (size_t)n);
        column += n;
        s += n;
        while (*s == ' ')
            s++;
        if (*s != '\0') {
            if (column + 1 + (int)strcspn(s, " ") <= WIDTH)
                mp_out_puts(o, " ");
            column++;
        }
    }
    mp_out_puts(o, "\n");
}

/* "-m, --model MODEL" */
static void option_head(const struct opt *opt, char *buf, size_t size) {
    char letter[8] = "";
    if (opt->letter != 0)
        snprintf(letter, sizeof letter, "-%c, ", opt->letter);
    snprintf(buf, size, "%s--%s%s%s", letter, opt->name, opt->metavar != NULL ? " " : "",
             opt->metavar != NULL ? opt->metavar : "");
}

/* "summary: a, b or c (default: x)" */
static void option_text(const struct opt *opt, char *buf, size_t size) {
    char words[200] = "", word[128];
    if (opt->words == WORDS_STATIC)
        for (uint32_t i = 0; opt_word(opt->words, opt->choices, i, word) != NULL; i++) {
            size_t used = strlen(words);
            snprintf(words + used, sizeof words - used, "%s%s", i > 0 ? ", " : ": ", word);
        }
    const char *otherwise = opt->otherwise != NULL ? opt->otherwise : opt->initial;
    snprintf(buf, size, "%s%s%s%s%s", opt->summary, words, otherwise != NULL ? " (default: " : "",
             otherwise != NULL ? otherwise : "", otherwise != NULL ? ")" : "");
}

static void put_entry(struct mp_out *o, const char *head, const char *text) {
    int used = (int)strlen(head) + 2;
    mp_out_printf(o, "  %s", head);
    if (used + 2 > INDENT) {
        mp_out_printf(o, "\n%*s", INDENT, "");
        used = INDENT;
    } else {
        mp_out_printf(o, "%*s", INDENT - used, "");
    }
    put_wrapped(o, text, INDENT, INDENT);
}

/* Table i of a verb's, or NULL. */
static const struct csv_table *table_at(const struct verb *v, uint32_t i) {
    const struct csv_table *t;
    for (uint32_t k = 0; (t = csv_table_at(k)) != NULL; k++)
        if (strcmp(t->verb, v->name) == 0 && i-- == 0)
            return t;
    return NULL;
}

void help_overview(struct mp_out *o) {
    mp_out_printf(o, "%s.\n\n", purpose);
    mp_out_puts(o, "usage: moeplan VERB [arguments] [options]\n\nverbs:\n");
    for (uint32_t v = 0; v < n_verbs; v++)
        put_entry(o, verbs[v].name, verbs[v].summary);
    mp_out_puts(o, "\nmoeplan help VERB explains one; moeplan --version prints the version.\n\nexit codes: ");
    put_wrapped(o, exit_codes, 12, 2);
}

void help_verb(const struct verb *v, struct mp_out *o) {
    char head[128], text[512];
    mp_out_printf(o, "usage: %s\n\n", v->usage);
    put_wrapped(o, v->about, 0, 0);
    if (v->arguments[0].name != NULL)
        mp_out_puts(o, "\narguments:\n");
    for (const struct argument *a = v->arguments; a->name != NULL; a++)
        put_entry(o, a->name, a->summary);
    mp_out_puts(o, "\noptions:\n");
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        if (opt_table[*id].is_hidden)
            continue;
        option_head(&opt_table[*id], head, sizeof head);
        option_text(&opt_table[*id], text, sizeof text);
        put_entry(o, head, text);
    }
    if (table_at(v, 0) != NULL)
        mp_out_puts(o, "\ntables (--format csv --table NAME):\n");
    for (uint32_t i = 0; table_at(v, i) != NULL; i++)
        put_entry(o, table_at(v, i)->name, table_at(v, i)->summary);
    mp_out_puts(o, "\nexamples:\n");
    for (const char *const *e = v->examples; *e != NULL; e++)
        mp_out_printf(o, "  %s\n", *e);
}

/* ---- manual page ---- */

static void put_roff(struct mp_out *o, const char *s) {
    if (*s == '.' || *s == '\'')
        mp_out_puts(o, "\\&");
    for (; *s != '\0'; s++) {
        if (*s == '-')
            mp_out_puts(o, "\\-");
        else if (*s == '\\')
            mp_out_puts(o, "\\e");
        else
            mp_out_write(o, s, 1);
    }
}

static void man_verb(const struct verb *v, struct mp_out *o) {
    char head[128], text[512];
    put_roff(o, v->about);
    mp_out_puts(o, "\n");
    for (const struct argument *a = v->arguments; a->name != NULL; a++) {
        mp_out_puts(o, ".TP\n.I ");
        put_roff(o, a->name);
        mp_out_puts(o, "\n");
        put_roff(o, a->summary);
        mp_out_puts(o, "\n");
    }
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        if (opt_table[*id].is_hidden)
            continue;
        option_head(&opt_table[*id], head, sizeof head);
        option_text(&opt_table[*id], text, sizeof text);
        mp_out_puts(o, ".TP\n.B ");
        put_roff(o, head);
        mp_out_puts(o, "\n");
        put_roff(o, text);
        mp_out_puts(o, "\n");
    }
    for (uint32_t i = 0; table_at(v, i) != NULL; i++) {
        mp_out_puts(o, ".TP\n.B \\-\\-format csv \\-\\-table ");
        put_roff(o, table_at(v, i)->name);
        mp_out_puts(o, "\n");
        put_roff(o, table_at(v, i)->summary);
        mp_out_puts(o, "\n");
    }
}

void help_man(const struct verb *only, struct mp_out *o) {
    if (only != NULL) {
        mp_out_printf(o, ".TH MOEPLAN\\-%s 1 \"\" \"moeplan %s\" \"User Commands\"\n.SH NAME\nmoeplan\\-%s \\- ",
                      only->is_program ? "EXEC" : only->name, MOEPLAN_VERSION, only->is_program ? "exec" : only->name);
        put_roff(o, only->summary);
        mp_out_puts(o, "\n.SH SYNOPSIS\n.B ");
        put_roff(o, only->usage);
        mp_out_puts(o, "\n.SH DESCRIPTION\n");
        man_verb(only, o);
    } else {
        mp_out_printf(
            o,
            ".TH MOEPLAN 1 \"\" \"moeplan %s\" \"User Commands\"\n.SH NAME\nmoeplan \\- plan the placement of "
            "Mixture\\-of\\-Experts models on GPUs\n.SH SYNOPSIS\n.B moeplan\n.I VERB\n[arguments] [options]\n.SH "
            "DESCRIPTION\n%s.\nEach verb has a page of its own: moeplan\\-plan(1) and so on.\n.SH VERBS\n",
            MOEPLAN_VERSION, purpose);
        for (uint32_t v = 0; v < n_verbs; v++) {
            mp_out_puts(o, ".SS ");
            put_roff(o, verbs[v].usage);
            mp_out_puts(o, "\n");
            man_verb(&verbs[v], o);
        }
    }
    mp_out_puts(o, ".SH EXAMPLES\n.nf\n");
    for (uint32_t v = 0; v < n_verbs; v++)
        for (const char *const *e = verbs[v].examples; *e != NULL && (only == NULL || only == &verbs[v]); e++) {
            put_roff(o, *e);
            mp_out_puts(o, "\n");
        }
    mp_out_puts(o, ".fi\n.SH EXIT STATUS\n");
    put_roff(o, exit_codes);
    mp_out_puts(o, "\n.SH SEE ALSO\n");
    if (only != NULL)
        mp_out_puts(o, ".BR moeplan (1),\n");
    else
        for (uint32_t v = 0; v < n_verbs; v++)
            mp_out_printf(o, ".BR moeplan\\-%s (1),\n", verbs[v].name);
    mp_out_puts(o, ".BR moeplan\\-exec (1),\n.BR plancheck (1),\n.BR moeplan\\-plan (5),\n"
                   ".BR moeplan\\-topology (5),\n.BR moeplan\\-trace (5),\n.BR moeplan\\-model (5)\n");
}

/* ---- docs/CLI.md ---- */

static void put_cell(struct mp_out *o, const char *s) {
    for (; *s != '\0'; s++) {
        if (*s == '|' || *s == '<')
            mp_out_puts(o, "\\");
        mp_out_write(o, s, 1);
    }
}

/* Tables of arguments and options, examples. */
static void markdown_verb(const struct verb *v, struct mp_out *o) {
    char head[128], text[512];
    if (v->arguments[0].name != NULL) {
        mp_out_puts(o, "| argument | what it is |\n|---|---|\n");
        for (const struct argument *a = v->arguments; a->name != NULL; a++)
            mp_out_printf(o, "| %s | %s |\n", a->name, a->summary);
        mp_out_puts(o, "\n");
    }
    mp_out_puts(o, "| option | what it does |\n|---|---|\n");
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        if (opt_table[*id].is_hidden)
            continue;
        option_head(&opt_table[*id], head, sizeof head);
        option_text(&opt_table[*id], text, sizeof text);
        mp_out_printf(o, "| `%s` | ", head);
        put_cell(o, text);
        mp_out_puts(o, " |\n");
    }
    mp_out_puts(o, "\n");
    if (table_at(v, 0) != NULL)
        mp_out_puts(o, "| `--table` | `--format csv`: what each row is, and the header |\n|---|---|\n");
    for (uint32_t i = 0; table_at(v, i) != NULL; i++) {
        mp_out_printf(o, "| `%s` | %s: `", table_at(v, i)->name, table_at(v, i)->summary);
        for (const struct mp_record_column *c = table_at(v, i)->columns; c->name != NULL; c++)
            mp_out_printf(o, "%s%s", c == table_at(v, i)->columns ? "" : ",", c->name);
        mp_out_puts(o, "` |\n");
    }
    if (table_at(v, 0) != NULL)
        mp_out_puts(o, "\n");
    for (const char *const *e = v->examples; *e != NULL; e++)
        mp_out_printf(o, "    %s\n", *e);
}

void help_markdown(struct mp_out *o) {
    mp_out_puts(o, "# The command line\n\nGenerated by `moeplan help --markdown` from the tables that parse; a test "
                   "compares the two.\n"
                   "Results go to standard output, notes and errors to standard error. Errors read `moeplan: "
                   "path:line:column: what is wrong\n"
                   "(what to write instead)`.\n\n");
    mp_out_printf(o, "Exit codes: %s\n\n| verb | what it does |\n|---|---|\n", exit_codes);
    for (uint32_t v = 0; v < n_verbs; v++)
        mp_out_printf(o, "| [%s](#moeplan-%s) | %s |\n", verbs[v].name, verbs[v].name, verbs[v].summary);
    for (uint32_t v = 0; v < n_verbs; v++) {
        mp_out_printf(o, "\n## moeplan %s\n\n    %s\n\n%s\n\n", verbs[v].name, verbs[v].usage, verbs[v].about);
        markdown_verb(&verbs[v], o);
    }
}

void help_program_markdown(const struct verb *v, struct mp_out *o) {
    mp_out_printf(o,
                  "# %s\n\nGenerated by `%s --markdown` from the table that parses; a test compares the two.\n\n"
                  "    %s\n\n%s\n\nExit codes: %s\n\n",
                  v->name, v->name, v->usage, v->about, exit_codes);
    markdown_verb(v, o);
}

/* ---- completion ---- */

static bool takes_words(enum opt_words w) { return w != WORDS_NONE && w != WORDS_FILE; }

static void put_words(struct mp_out *o, enum opt_words words, const char *choices, const char *between) {
    char buf[128];
    const char *word;
    for (uint32_t i = 0; (word = opt_word(words, choices, i, buf)) != NULL; i++)
        mp_out_printf(o, "%s%s", i > 0 ? between : "", word);
}

/* What may follow each option that takes a value: patterns of a case, each with `before` in front. */
static void bash_values(struct mp_out *o, const struct verb *v, const char *before) {
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        const struct opt *opt = &opt_table[*id];
        if (opt->type == OPT_IS_FLAG || opt->is_hidden)
            continue;
        mp_out_printf(o, "    %s--%s", before, opt->name);
        if (opt->letter != 0)
            mp_out_printf(o, "|%s-%c", before, opt->letter);
        if (takes_words(opt->words)) {
            mp_out_puts(o, ") COMPREPLY=($(compgen -W \"");
            put_words(o, opt->words, opt->choices, " ");
            mp_out_printf(o, "\"%s -- \"$cur\")); return ;;\n", opt->words == WORDS_MODELS ? " -f" : "");
        } else if (opt->words == WORDS_FILE) {
            mp_out_puts(o, ") COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
        } else {
            mp_out_puts(o, ") return ;;\n");
        }
    }
}
static void bash_names(struct mp_out *o, const struct verb *v) {
    const char *between = "";
    mp_out_puts(o, "        if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"");
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        if (opt_table[*id].is_hidden)
            continue;
        mp_out_printf(o, "%s--%s", between, opt_table[*id].name);
        between = " ";
    }
    mp_out_puts(o, "\" -- \"$cur\")); return; fi\n");
}

void help_program_bash(const struct verb *v, struct mp_out *o) {
    mp_out_printf(o,
                  "# bash completion of %s, generated by: %s --completion bash\n"
                  "_moeplan_exec() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                  "    COMPREPLY=()\n    case $prev in\n",
                  v->name, v->name);
    bash_values(o, v, "");
    mp_out_puts(o, "    esac\n");
    bash_names(o, v);
    mp_out_printf(o, "        COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -o filenames -F _moeplan_exec %s\n",
                  v->name);
}

void help_completion_bash(struct mp_out *o) {
    mp_out_puts(o, "# bash completion of moeplan, generated by: moeplan help --completion bash\n"
                   "_moeplan() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} "
                   "verb=${COMP_WORDS[1]}\n"
                   "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W \"");
    put_words(o, WORDS_VERBS, NULL, " ");
    mp_out_puts(o, " --help --version\" -- \"$cur\"))\n        return\n    fi\n    case $verb:$prev in\n");
    for (uint32_t v = 0; v < n_verbs; v++) {
        char before[64];
        snprintf(before, sizeof before, "%s:", verbs[v].name);
        bash_values(o, &verbs[v], before);
    }
    mp_out_puts(o, "    esac\n    case $verb in\n");
    for (uint32_t v = 0; v < n_verbs; v++) {
        mp_out_printf(o, "    %s)\n", verbs[v].name);
        bash_names(o, &verbs[v]);
        const struct argument *a = verbs[v].arguments;
        if (a->name != NULL && takes_words(a->words)) {
            mp_out_puts(o, "        COMPREPLY=($(compgen -W \"");
            put_words(o, a->words, NULL, " ");
            mp_out_puts(o, "\" -- \"$cur\")) ;;\n");
        } else {
            mp_out_puts(o, "        COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n");
        }
    }
    mp_out_puts(o, "    esac\n}\ncomplete -o filenames -F _moeplan moeplan\n");
}

/* Text inside '...[here]' of a zsh specification. */
static void put_zsh(struct mp_out *o, const char *s) {
    for (; *s != '\0'; s++) {
        if (*s == '\'')
            mp_out_puts(o, "'\\''");
        else if (strchr("[]:\\", *s) != NULL)
            mp_out_printf(o, "\\%c", *s);
        else
            mp_out_write(o, s, 1);
    }
}

static void zsh_action(struct mp_out *o, enum opt_words words, const char *choices) {
    if (takes_words(words)) {
        mp_out_puts(o, "(");
        put_words(o, words, choices, " ");
        mp_out_puts(o, ")");
    } else if (words == WORDS_FILE) {
        mp_out_puts(o, "_files");
    }
}

/* Options and arguments, behind _arguments. */
static void zsh_arguments(struct mp_out *o, const struct verb *v) {
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        const struct opt *opt = &opt_table[*id];
        for (int form = 0; form < 2; form++) {
            if (opt->is_hidden)
                continue;
            if (form == 0)
                mp_out_printf(o, " \\\n        '--%s%s[", opt->name, opt->type == OPT_IS_FLAG ? "" : "=");
            else if (opt->letter != 0)
                mp_out_printf(o, " \\\n        '-%c[", opt->letter);
            else
                continue;
            put_zsh(o, opt->summary);
            mp_out_puts(o, "]");
            if (opt->type != OPT_IS_FLAG) {
                mp_out_puts(o, ":");
                put_zsh(o, opt->metavar);
                mp_out_puts(o, ":");
                zsh_action(o, opt->words, opt->choices);
            }
            mp_out_puts(o, "'");
        }
    }
    for (const struct argument *a = v->arguments; a->name != NULL; a++) {
        mp_out_printf(o, " \\\n        ':%s:", a->name);
        zsh_action(o, a->words, NULL);
        mp_out_puts(o, "'");
    }
}

void help_program_zsh(const struct verb *v, struct mp_out *o) {
    mp_out_printf(o, "#compdef %s\n# zsh completion of %s, generated by: %s --completion zsh\n_arguments", v->name,
                  v->name, v->name);
    zsh_arguments(o, v);
    mp_out_puts(o, "\n");
}

void help_completion_zsh(struct mp_out *o) {
    mp_out_puts(o, "#compdef moeplan\n# zsh completion of moeplan, generated by: moeplan help --completion zsh\n"
                   "_moeplan() {\n    local -a verbs\n    verbs=(\n");
    for (uint32_t v = 0; v < n_verbs; v++) {
        mp_out_printf(o, "        '%s:", verbs[v].name);
        put_zsh(o, verbs[v].summary);
        mp_out_puts(o, "'\n");
    }
    mp_out_puts(o, "    )\n    if (( CURRENT == 2 )); then\n        _describe 'verb' verbs\n        return\n    fi\n"
                   "    local verb=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $verb in\n");
    for (uint32_t v = 0; v < n_verbs; v++) {
        mp_out_printf(o, "    %s) _arguments", verbs[v].name);
        zsh_arguments(o, &verbs[v]);
        mp_out_puts(o, " ;;\n");
    }
    mp_out_puts(o, "    esac\n}\n_moeplan \"$@\"\n");
}

/* Text inside '...' of fish. */
static void put_fish(struct mp_out *o, const char *s) {
    for (; *s != '\0'; s++) {
        if (*s == '\'' || *s == '\\')
            mp_out_puts(o, "\\");
        mp_out_write(o, s, 1);
    }
}

/* One line for each option, of the program v or of the program's verb v. */
static void fish_options(struct mp_out *o, const struct verb *v) {
    for (const enum opt_id *id = v->options; *id != OPT_END; id++) {
        const struct opt *opt = &opt_table[*id];
        if (opt->is_hidden)
            continue;
        if (v->is_program)
            mp_out_printf(o, "complete -c %s -l %s", v->name, opt->name);
        else
            mp_out_printf(o, "complete -c moeplan -n '__moeplan_verb %s' -l %s", v->name, opt->name);
        if (opt->letter != 0)
            mp_out_printf(o, " -s %c", opt->letter);
        if (takes_words(opt->words)) {
            mp_out_printf(o, " %s -a '", opt->words == WORDS_MODELS ? "-rF" : "-x");
            put_words(o, opt->words, opt->choices, " ");
            mp_out_puts(o, "'");
        } else if (opt->type != OPT_IS_FLAG) {
            mp_out_puts(o, opt->words == WORDS_FILE ? " -rF" : " -x");
        }
        mp_out_puts(o, " -d '");
        put_fish(o, opt->summary);
        mp_out_puts(o, "'\n");
    }
}

void help_program_fish(const struct verb *v, struct mp_out *o) {
    mp_out_printf(o, "# fish completion of %s, generated by: %s --completion fish\n", v->name, v->name);
    fish_options(o, v);
}

void help_completion_fish(struct mp_out *o) {
    mp_out_puts(o, "# fish completion of moeplan, generated by: moeplan help --completion fish\n"
                   "function __moeplan_verb\n    set -l words (commandline -opc)\n"
                   "    test (count $words) -gt 1; and contains -- $words[2] $argv\nend\n"
                   "function __moeplan_no_verb\n    test (count (commandline -opc)) -eq 1\nend\n");
    for (uint32_t v = 0; v < n_verbs; v++) {
        mp_out_printf(o, "complete -c moeplan -f -n __moeplan_no_verb -a %s -d '", verbs[v].name);
        put_fish(o, verbs[v].summary);
        mp_out_puts(o, "'\n");
    }
    for (uint32_t v = 0; v < n_verbs; v++) {
        const struct argument *a = verbs[v].arguments;
        if (a->name != NULL && takes_words(a->words)) {
            mp_out_printf(o, "complete -c moeplan -f -n '__moeplan_verb %s' -a '", verbs[v].name);
            put_words(o, a->words, NULL, " ");
            mp_out_puts(o, "'\n");
        }
        fish_options(o, &verbs[v]);
    }
}

/* ---- JSON ---- */

static json_t *text_or_null(const char *s) { return s != NULL ? json_string(s) : json_null(); }

static json_t *option_json(const struct opt *opt) {
    static const char *const types[] = {"flag", "whole", "text", "choice", "seconds", "size", "ratio"};
    char letter[2] = {opt->letter, '\0'}, buf[128];
    json_t *choices = json_array();
    const char *word;
    if (takes_words(opt->words))
        for (uint32_t i = 0; (word = opt_word(opt->words, opt->choices, i, buf)) != NULL; i++)
            (void)json_array_append_new(choices, json_string(word));
    return json_pack("{s:s,s:o,s:o,s:s,s:o,s:o,s:o,s:s}", "name", opt->name, "letter",
                     text_or_null(opt->letter != 0 ? letter : NULL), "value", text_or_null(opt->metavar), "type",
                     types[opt->type], "choices", choices, "initial", text_or_null(opt->initial), "default",
                     text_or_null(opt->otherwise != NULL ? opt->otherwise : opt->initial), "summary", opt->summary);
}

/* Where every cell of --format csv comes from. */
static json_t *tables_json(void) {
    static const char *const kinds[] = {"list", "one", "members", "lists"};
    json_t *all = json_array();
    const struct csv_table *t;
    for (uint32_t i = 0; (t = csv_table_at(i)) != NULL; i++) {
        json_t *columns = json_array();
        for (const struct mp_record_column *c = t->columns; c->name != NULL; c++)
            (void)json_array_append_new(
                columns, json_pack("{s:s,s:s}", "name", c->name, "path", c->path != NULL ? c->path : c->name));
        (void)json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o}", "verb", t->verb, "name", t->name,
                                                   "schema", t->schema, "kind", kinds[t->kind], "rows", t->rows,
                                                   "summary", t->summary, "columns", columns));
    }
    return all;
}

void help_json(struct mp_out *o) {
    json_t *list = json_array();
    for (uint32_t v = 0; v < n_verbs; v++) {
        json_t *arguments = json_array(), *options = json_array(), *examples = json_array();
        for (const struct argument *a = verbs[v].arguments; a->name != NULL; a++)
            (void)json_array_append_new(arguments, json_pack("{s:s,s:s,s:b}", "name", a->name, "summary", a->summary,
                                                             "optional", a->is_optional));
        for (const enum opt_id *id = verbs[v].options; *id != OPT_END; id++)
            (void)json_array_append_new(options, option_json(&opt_table[*id]));
        for (const char *const *e = verbs[v].examples; *e != NULL; e++)
            (void)json_array_append_new(examples, json_string(*e));
        (void)json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s,s:o,s:o,s:o}", "name", verbs[v].name, "summary",
                                                    verbs[v].summary, "usage", verbs[v].usage, "about", verbs[v].about,
                                                    "arguments", arguments, "options", options, "examples", examples));
    }
    json_t *root = json_pack("{s:s,s:i,s:s,s:o,s:o}", "schema", "moeplan.help", "version", 1, "tool", MOEPLAN_VERSION,
                             "verbs", list, "tables", tables_json());
    mp_json_write(root, o);
    json_decref(root);
}
