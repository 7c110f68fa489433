/* Bytes become a command line: a verb, then one argument per line. Parsing answers with values inside the table's
 * ranges, or with one usage message. */
#include "../../tools/moeplan/cmd.h"
#include <moeplan/alloc.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) {
    if (!condition)
        abort();
}

static void check_values(const struct opts *o, const struct verb *verb) {
    for (const enum opt_id *id = verb->options; *id != OPT_END; id++) {
        const struct opt *opt = &opt_table[*id];
        const char *at = (const char *)o + opt->offset;
        uint64_t whole;
        const char *text;
        if (!o->is_set[*id])
            continue;
        if (opt->type == OPT_IS_WHOLE || opt->type == OPT_IS_SIZE || opt->type == OPT_IS_RATIO) {
            memcpy(&whole, at, sizeof whole);
            require(whole >= opt->min && whole <= opt->max);
        } else if (opt->type == OPT_IS_TEXT || opt->type == OPT_IS_CHOICE) {
            memcpy(&text, at, sizeof text);
            require(text != NULL && text[0] != '\0');
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { WORDS_MAX = 64 };
    char text[4096], *argv[WORDS_MAX + 1];
    int argc = 1;
    struct opts o;
    struct args args;
    struct mp_error err = {0};
    if (size == 0 || size >= sizeof text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    const struct verb *verb = &verbs[data[0] % n_verbs];
    argv[0] = (char *)(uintptr_t)verb->name;
    for (char *p = text; p < text + size - 1 && argc < WORDS_MAX; p += strlen(p) + 1) {
        argv[argc++] = p;
        p[strcspn(p, "\n")] = '\0';
    }
    argv[argc] = NULL;
    enum mp_status status = opt_parse(&o, &args, verb, argc, argv, &err);
    require(status == MP_OK || (status == MP_EUSAGE && err.status == MP_EUSAGE && err.message[0] != '\0'));
    require(status == MP_OK || strchr(err.message, '\n') == NULL);
    if (status == MP_OK)
        check_values(&o, verb);
    require(args.n >= 0 && args.n <= ARGUMENTS_MAX);
    require(mp_alloc_live() == 0);
    return 0;
}
