#include "terminal.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { USUAL_WIDTH = 80, LEAST_WIDTH = 20 };

static bool is_dumb(void) {
    const char *term = getenv("TERM");
    return term == NULL || term[0] == '\0' || strcmp(term, "dumb") == 0;
}

/* https://no-color.org: set and not empty. */
static bool wants_color(const char *color, int fd) {
    const char *no = getenv("NO_COLOR");
    if (color != NULL && strcmp(color, "auto") != 0)
        return strcmp(color, "always") == 0;
    return isatty(fd) && !is_dumb() && (no == NULL || no[0] == '\0');
}

static unsigned width_of(int fd) {
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    uint64_t n;
    if (!isatty(fd))
        return 0;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        n = size.ws_col;
    else if (columns == NULL || !mp_parse_u64(columns, strlen(columns), &n) || n == 0 || n > 10000)
        n = USUAL_WIDTH;
    return n < LEAST_WIDTH ? LEAST_WIDTH : (unsigned)n;
}

void terminal_measure(const struct opts *o) { o->style->width = o->wide ? 0 : width_of(STDOUT_FILENO); }

void terminal_start(struct opts *o, struct mp_style *style) {
    *style = (struct mp_style){.is_markdown = o->output == FORMAT_MARKDOWN,
                               .has_color = o->output == FORMAT_TABLE && wants_color(o->color, STDOUT_FILENO)};
    o->style = style;
    terminal_measure(o);
}

unsigned terminal_of_errors(void) { return is_dumb() ? 0 : width_of(STDERR_FILENO); }

const char *terminal_tone(const struct opts *o, enum tone tone) {
    static const char *const tones[] = {"\033[32m", "\033[31m", "\033[33m"};
    return o->style->has_color ? tones[tone] : "";
}

const char *terminal_plain(const struct opts *o) { return o->style->has_color ? "\033[0m" : ""; }

void tool_verdict(const struct opts *o, enum tone tone, const char *text, struct mp_out *out) {
    mp_out_printf(out, "verdict: %s%s%s\n", terminal_tone(o, tone), text, terminal_plain(o));
}

const char *terminal_error_name(const char *name, const char *color, char buf[64]) {
    snprintf(buf, 64, wants_color(color, STDERR_FILENO) ? "\033[1;31m%s:\033[0m" : "%s:", name);
    return buf;
}
