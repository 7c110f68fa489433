#include "template.h"
#include <moeplan/page.h>
#include <string.h>

static const struct mp_embedded *file_of(const char *name) {
    const struct mp_embedded *f = report_page;
    while (f->name != NULL && strcmp(f->name, name) != 0)
        f++;
    return f->name != NULL ? f : NULL;
}

/* The placeholder that is all of this line: its name and length; NULL = an ordinary line. */
static const char *placeholder(const char *line, size_t n, size_t *length) {
    static const char begin[] = "<!--", end[] = "-->";
    while (n > 0 && (line[0] == ' ' || line[0] == '\t')) {
        line++;
        n--;
    }
    if (n < sizeof begin + sizeof end - 1 || memcmp(line, begin, 4) != 0 || memcmp(line + n - 3, end, 3) != 0)
        return NULL;
    *length = n - 7;
    for (size_t i = 4; i < n - 3; i++)
        if (line[i] < 'A' || line[i] > 'Z')
            return NULL;
    return line + 4;
}

static bool is_name(const char *name, const char *text, size_t n) {
    return strlen(name) == n && memcmp(name, text, n) == 0;
}

enum mp_status mp_page_write(struct mp_out *o, const struct mp_page_part *parts, uint32_t n_parts,
                             struct mp_error *err) {
    const struct mp_embedded *html = file_of("page.html");
    const char *const end = html->text + html->length;
    uint32_t n_written = 0;
    size_t n, length;
    for (const char *line = html->text; line < end; line += n + 1) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        n = (size_t)((newline != NULL ? newline : end) - line);
        const char *name = placeholder(line, n, &length);
        uint32_t i = 0;
        if (name == NULL) {
            mp_out_write(o, line, n);
            mp_out_puts(o, "\n");
            continue;
        }
        const struct mp_embedded *own = is_name("STYLE", name, length)    ? file_of("page.css")
                                        : is_name("SCRIPT", name, length) ? file_of("page.js")
                                                                          : NULL;
        if (own != NULL) {
            mp_out_write(o, own->text, own->length);
            continue;
        }
        while (i < n_parts && !is_name(parts[i].name, name, length))
            i++;
        if (i == n_parts)
            return mp_fail(err, MP_EBUG, "the page's template has a place %.*s that nothing fills", (int)length, name);
        parts[i].write(parts[i].ctx, o);
        n_written++;
    }
    if (n_written != n_parts)
        return mp_fail(err, MP_EBUG, "the page's template has %u places for %u parts", n_written, n_parts);
    return MP_OK;
}
