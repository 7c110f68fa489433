/* The command line, parsed by the option table. */
#include "cmd.h"
#include "csv.h"
#include "opt.h"
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

/* ---- values ---- */

static enum mp_status parse_size(const struct opt *opt, const char *s, uint64_t *out, struct mp_error *err) {
    static const struct {
        const char *suffix;
        uint64_t factor;
    } units[] = {{"", 1},          {"KiB", 1 << 10},           {"MiB", 1 << 20},
                 {"GiB", 1 << 30}, {"TiB", UINT64_C(1) << 40}, {"kB", 1000},
                 {"MB", 1000000},  {"GB", 1000000000},         {"TB", UINT64_C(1000000000000)}};
    size_t digits = strspn(s, "0123456789");
    uint64_t n;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(s + digits, units[i].suffix) == 0 && mp_parse_u64(s, digits, &n) &&
            !mp_mul_overflow(n, units[i].factor, out) && *out >= opt->min && *out <= opt->max)
            return MP_OK;
    char shown[64];
    return mp_fail(err, MP_EUSAGE, "--%s: \"%s\" is not a size of at least %llu bytes (write bytes, or 512MiB, 8GiB)",
                   opt->name, mp_quote(s, strlen(s), shown, sizeof shown), (unsigned long long)opt->min);
}

static enum mp_status check_choice(const struct opt *opt, const char *s, struct mp_error *err) {
    char buf[128], all[512] = "", shown[64];
    const char *word;
    for (uint32_t i = 0; (word = opt_word(opt->words, opt->choices, i, buf)) != NULL; i++) {
        if (strcmp(word, s) == 0)
            return MP_OK;
        size_t used = strlen(all);
        if (used + strlen(word) + 3 < sizeof all)
            snprintf(all + used, sizeof all - used, "%s%s", used > 0 ? ", " : "", word);
    }
    mp_quote(s, strlen(s), shown, sizeof shown);
    return mp_fail(err, MP_EUSAGE, "--%s: unknown \"%s\" (write one of: %s)", opt->name, shown, all);
}

/* A word that --format took when it named the input: all but those that it still takes. */
static bool is_input_format(const char *s) {
    static const enum opt_words inputs[] = {WORDS_FORMATS, WORDS_MATRICES};
    char buf[128];
    const char *word;
    for (uint32_t i = 0; (word = opt_word(WORDS_STATIC, opt_table[OPT_OUTPUT_FORMAT].choices, i, buf)) != NULL; i++)
        if (strcmp(word, s) == 0)
            return false;
    for (size_t k = 0; k < sizeof inputs / sizeof *inputs; k++)
        for (uint32_t i = 0; (word = opt_word(inputs[k], NULL, i, buf)) != NULL; i++)
            if (strcmp(word, s) == 0)
                return true;
    return false;
}

static enum mp_status set_value(struct opts *o, const struct opt *opt, const char *s, struct mp_error *err) {
    void *at = (char *)o + opt->offset;
    size_t n = s != NULL ? strlen(s) : 0;
    char shown[64];
    uint64_t whole;
    double real;
    switch (opt->type) {
    case OPT_IS_FLAG:
        *(bool *)at = true;
        return MP_OK;
    case OPT_IS_WHOLE:
        if (!mp_parse_u64(s, n, &whole) || whole < opt->min || whole > opt->max)
            return mp_fail(err, MP_EUSAGE, "--%s: \"%s\" is not a whole number in [%llu, %llu]", opt->name,
                           mp_quote(s, n, shown, sizeof shown), (unsigned long long)opt->min,
                           (unsigned long long)opt->max);
        *(uint64_t *)at = whole;
        return MP_OK;
    case OPT_IS_SECONDS:
        if (!mp_parse_double(s, n, &real) || real < 0 || real > 1e9)
            return mp_fail(err, MP_EUSAGE, "--%s: \"%s\" is not a number of seconds (write for instance 30 or 0.5)",
                           opt->name, mp_quote(s, n, shown, sizeof shown));
        *(double *)at = real;
        return MP_OK;
    case OPT_IS_RATIO:
        if (!mp_parse_double(s, n, &real) || real < 0 || real * 1e6 > (double)opt->max)
            return mp_fail(err, MP_EUSAGE, "--%s: \"%s\" is not a number in [0, %g]", opt->name,
                           mp_quote(s, n, shown, sizeof shown), (double)opt->max / 1e6);
        *(uint64_t *)at = (uint64_t)(real * 1e6 + 0.5);
        return MP_OK;
    case OPT_IS_SIZE:
        return parse_size(opt, s, at, err);
    case OPT_IS_TEXT:
        if (n == 0)
            return mp_fail(err, MP_EUSAGE, "--%s: an empty value (write %s)", opt->name, opt->metavar);
        *(const char **)at = s;
        return MP_OK;
    case OPT_IS_CHOICE:
        if (opt == &opt_table[OPT_OUTPUT_FORMAT] && is_input_format(s))
            return mp_fail(
                err, MP_EUSAGE,
                "--format: \"%s\" is the format of an input (write --input-format %s; --format is how results "
                "are printed: table, json, csv, markdown)",
                s, s);
        if (check_choice(opt, s, err) != MP_OK)
            return MP_EUSAGE;
        *(const char **)at = s;
        return MP_OK;
    }
    return mp_fail(err, MP_EBUG, "--%s: no such type", opt->name);
}

/* ---- the command line ---- */

static const char *option_of_verb(void *ctx, uint32_t i) {
    const struct verb *verb = ctx;
    for (uint32_t k = 0; k <= i; k++)
        if (verb->options[k] == OPT_END)
            return NULL;
    return opt_table[verb->options[i]].name;
}

static enum opt_id find_long(const struct verb *verb, const char *name, size_t n) {
    for (const enum opt_id *id = verb->options; *id != OPT_END; id++)
        if (strlen(opt_table[*id].name) == n && memcmp(opt_table[*id].name, name, n) == 0)
            return *id;
    return OPT_END;
}

static enum opt_id find_letter(const struct verb *verb, char letter) {
    for (const enum opt_id *id = verb->options; *id != OPT_END; id++)
        if (opt_table[*id].letter == letter)
            return *id;
    return OPT_END;
}

/* How messages begin: the verb, or nothing for a program without verbs. */
static const char *speaker(const struct verb *verb, char buf[64]) {
    snprintf(buf, 64, "%s%s", verb->is_program ? "" : verb->name, verb->is_program ? "" : ": ");
    return buf;
}
static const char *help_of(const struct verb *verb, char buf[64]) {
    snprintf(buf, 64, verb->is_program ? "%s --help" : "moeplan help %s", verb->name);
    return buf;
}

static enum mp_status unknown_option(const struct verb *verb, const char *arg, struct mp_error *err) {
    char shown[64];
    size_t n = strcspn(arg, "=");
    char name[64];
    const char *bare = arg + strspn(arg, "-");
    snprintf(name, sizeof name, "%.*s", (int)strcspn(bare, "="), bare);
    const char *near = opt_nearest(name, option_of_verb, (void *)(uintptr_t)verb);
    char who[64], help[64];
    return mp_fail(err, MP_EUSAGE, "%sunknown option \"%s\" (nearest: --%s; all: %s)", speaker(verb, who),
                   mp_quote(arg, n, shown, sizeof shown), near != NULL ? near : "help", help_of(verb, help));
}

/* The ways to say how results are printed: all that are given say the same. */
static enum mp_status choose_format(struct opts *o, const struct verb *verb, struct mp_error *err) {
    static const char *const words[] = {"table", "json", "csv", "markdown"};
    const bool is_short[] = {false, o->json, o->csv, o->markdown_table};
    char text[2][32], who[64];
    int n = 0;
    for (enum output_format f = FORMAT_TABLE; f <= FORMAT_MARKDOWN; f++) {
        const bool is_long = o->format != NULL && strcmp(o->format, words[f]) == 0;
        if (!is_long && !is_short[f])
            continue;
        o->output = f;
        if (n < 2)
            snprintf(text[n], sizeof text[n], is_long ? "--format %s" : "--%s", words[f]);
        n++;
    }
    if (n > 1)
        return mp_fail(err, MP_EUSAGE, "%s%s and %s exclude each other (give one)", speaker(verb, who), text[0],
                       text[1]);
    if (o->table != NULL && o->output != FORMAT_CSV)
        return mp_fail(err, MP_EUSAGE, "%s--table is for --format csv (add it)", speaker(verb, who));
    o->verb = verb;
    o->json = o->output == FORMAT_JSON || o->output == FORMAT_CSV; /* CSV is made from the document */
    return o->output == FORMAT_CSV ? csv_check(o, verb->name, err) : MP_OK;
}

/* Options that say the same thing differently, or need each other. */
static enum mp_status check_together(const struct opts *o, const struct verb *verb, struct mp_error *err) {
    char who[64];
    if (o->stage_barrier && o->stage_coupled)
        return mp_fail(err, MP_EUSAGE, "%s--stage-barrier and --stage-coupled exclude each other (give one)",
                       speaker(verb, who));
    if (o->score_on != NULL && (o->is_set[OPT_SPLIT_PLAN] || o->is_set[OPT_SPLIT_COMPARE]))
        return mp_fail(err, MP_EUSAGE,
                       "%s--score-on and --split exclude each other: another recording is scored whole, and all of "
                       "TRACE is planned on (give one)",
                       speaker(verb, who));
    if ((o->export_lp != NULL || o->import_solution != NULL) && strcmp(o->strategy, "exact") != 0 &&
        (o->place == NULL || strcmp(o->place, "exact") != 0))
        return mp_fail(err, MP_EUSAGE, "%s--%s is about the placement problem of strategy exact (add --place exact)",
                       speaker(verb, who), o->export_lp != NULL ? "export-lp" : "import-solution");
    if (o->map != NULL && (o->ids == NULL || strcmp(o->ids, "physical") != 0))
        return mp_fail(err, MP_EUSAGE, "%s--map is for physical ids (add --ids physical)", speaker(verb, who));
    return MP_OK;
}

enum mp_status opt_parse(struct opts *o, struct args *args, const struct verb *verb, int argc, char **argv,
                         struct mp_error *err) {
    *o = (struct opts){0};
    *args = (struct args){0};
    int n_needed = 0, n_allowed = 0;
    for (const struct argument *a = verb->arguments; a->name != NULL; a++) {
        n_allowed = a->is_repeated ? ARGUMENTS_MAX : n_allowed + 1;
        n_needed += !a->is_optional;
    }
    for (const enum opt_id *id = verb->options; *id != OPT_END; id++)
        if (opt_table[*id].initial != NULL && set_value(o, &opt_table[*id], opt_table[*id].initial, err) != MP_OK)
            return MP_EBUG;
    bool only_arguments = false;
    char who[64], help[64];
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = NULL;
        char shown[64];
        if (only_arguments || arg[0] != '-' || arg[1] == '\0') {
            if (args->n >= n_allowed)
                return mp_fail(err, MP_EUSAGE, "%stoo many arguments: \"%s\" (see: %s)", speaker(verb, who),
                               mp_quote(arg, strlen(arg), shown, sizeof shown), help_of(verb, help));
            args->value[args->n++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_arguments = true;
            continue;
        }
        bool is_long = arg[1] == '-';
        size_t n = is_long ? strcspn(arg + 2, "=") : 1;
        enum opt_id id = is_long ? find_long(verb, arg + 2, n) : find_letter(verb, arg[1]);
        if (id == OPT_END)
            return unknown_option(verb, arg, err);
        const struct opt *opt = &opt_table[id];
        if (is_long && arg[2 + n] == '=')
            value = arg + 3 + n;
        else if (!is_long && arg[2] != '\0')
            value = arg + 2;
        if (opt->type == OPT_IS_FLAG && value != NULL)
            return mp_fail(err, MP_EUSAGE, "%s--%s takes no value", speaker(verb, who), opt->name);
        if (opt->type != OPT_IS_FLAG && value == NULL) {
            if (i + 1 >= argc)
                return mp_fail(err, MP_EUSAGE, "%s--%s needs a value (write --%s %s)", speaker(verb, who), opt->name,
                               opt->name, opt->metavar);
            value = argv[++i];
        }
        if (o->is_set[id] && opt->type != OPT_IS_FLAG)
            return mp_fail(err, MP_EUSAGE, "%s--%s is given twice", speaker(verb, who), opt->name);
        o->is_set[id] = true;
        enum mp_status status = set_value(o, opt, value, err);
        if (status != MP_OK)
            return status;
        if (id == OPT_HELP)
            return MP_OK;
    }
    const bool is_about_itself =
        verb->is_program && (o->list != NULL || o->version || o->man || o->markdown || o->completion != NULL);
    if (args->n < n_needed && !is_about_itself)
        return mp_fail(err, MP_EUSAGE, "%s%s is missing (usage: %s)", speaker(verb, who), verb->arguments[args->n].name,
                       verb->usage);
    if ((o->export_lp != NULL || o->import_solution != NULL) && !o->is_set[OPT_STRATEGY])
        o->strategy = "exact";
    enum mp_status status = choose_format(o, verb, err);
    return status == MP_OK ? check_together(o, verb, err) : status;
}
