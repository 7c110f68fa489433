/* The whole verb in this process, so that every allocation and every file operation of it can fail. */
#include "support.h"
#include "../../../tools/moeplan/cmd.h"
#include "../../../tools/moeplan/terminal.h"
#include <unistd.h>

struct words {
    int n;
    char *word[24];
};

/* Bytes of the page that faults are held against; NULL = not yet. */
static char *reference;

static char *bytes_of(const char *path) {
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    assert_non_null(f);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

static enum mp_status run(void *ctx, struct mp_error *err) {
    const struct words *w = ctx;
    struct opts o;
    struct args args;
    struct mp_style style;
    int exit_code = 0;
    const struct verb *verb = verb_find(w->word[0]);
    enum mp_status status = opt_parse(&o, &args, verb, w->n, (char **)(uintptr_t)w->word, err);
    if (status != MP_OK)
        return status;
    terminal_start(&o, &style);
    o.limits = mp_limits_default;
    o.argc = w->n;
    o.argv = w->word;
    return verb->fn(&o, &args, &exit_code, err);
}

static struct words split(char *line) {
    struct words w = {0};
    for (char *word = line; *word != '\0';) {
        w.word[w.n++] = word;
        word += strcspn(word, " ");
        if (*word == ' ')
            *word++ = '\0';
    }
    return w;
}

static void make_inputs(void) {
    struct mp_error err = {0};
    char line[1024];
    snprintf(
        line, sizeof line,
        "generate --layers 2 --experts 8 --top-k 2 --n-requests 40 --tokens-per-request 16 --phase prefill -q -o %s",
        temp_path("t.mpt"));
    struct words generate = split(line);
    CHECK_OK(run(&generate, &err), err);
    snprintf(line, sizeof line,
             "plan %s 2x2:h100 --tokens-per-rank 16 --strategy eplb --redundant 4 --split 0.5 -q -o %s",
             temp_path("t.mpt"), temp_path("p.yaml"));
    struct words plan = split(line);
    CHECK_OK(run(&plan, &err), err);
}

/* A run that says it is well has written the whole page, whatever failed on the way. */
static enum mp_status report(void *ctx, struct mp_error *err) {
    enum mp_status status = run(ctx, err);
    if (status == MP_OK) {
        char *now = bytes_of(temp_path("r.html"));
        size_t at = 0;
        while (reference != NULL && now[at] == reference[at] && now[at] != '\0')
            at++;
        if (reference != NULL && now[at] != reference[at])
            fail_msg("from byte %zu on: %.200s\nnot: %.200s", at, now + at, reference + at);
        free(now);
    }
    return status;
}

static void test_verb_report__faults_are_told_and_leave_nothing(void **state) {
    (void)state;
    static char line[2048];
    struct mp_error err = {0};
    const int output = dup(STDOUT_FILENO); /* which is the test's own protocol */
    assert_non_null(freopen("/dev/null", "w", stdout));
    make_inputs();
    fflush(stdout);
    dup2(output, STDOUT_FILENO);
    close(output);
    snprintf(line, sizeof line, "report %s %s 2x2:h100 %s -q --threads 1 --interval-groups 2 --drift %s -o %s",
             temp_path("p.yaml"), temp_path("t.mpt"), temp_path("p.yaml"), temp_path("t.mpt"), temp_path("r.html"));
    struct words w = split(line);
    CHECK_OK(report(&w, &err), err);
    reference = bytes_of(temp_path("r.html"));
    sweep_faults(report, &w, 13);
    free(reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verb_report__faults_are_told_and_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
