/* A square of numbers in text: as many lines as numbers on each. */
#include "matrix_text.h"
#include <string.h>

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }

bool matrix_number(const char *s, size_t n, uint64_t *out) {
    double real;
    if (mp_parse_u64(s, n, out))
        return *out <= MP_MAX_MATRIX_BYTES;
    if (!mp_parse_double(s, n, &real) || !(real >= 0 && real <= (double)MP_MAX_MATRIX_BYTES))
        return false;
    *out = (uint64_t)real;
    return (double)*out == real;
}

/* The next line, without its end and blanks around it. False at the end of the file. */
static bool next_line(const char **at, const char *end, const char **line, size_t *n) {
    if (*at == end)
        return false;
    const char *newline = memchr(*at, '\n', (size_t)(end - *at)), *stop = newline != NULL ? newline : end;
    *line = *at;
    *at = newline != NULL ? newline + 1 : end;
    if (stop > *line && stop[-1] == '\r')
        stop--;
    while (stop > *line && is_blank(stop[-1]))
        stop--;
    while (*line < stop && is_blank(**line))
        (*line)++;
    *n = (size_t)(stop - *line);
    return true;
}

bool matrix_text_head(const struct mp_in *in, const char **line, size_t *n) {
    const char *at = (const char *)in->data, *end = at + in->size;
    while (next_line(&at, end, line, n))
        if (*n > 0 && **line != '#')
            return true;
    return false;
}

/* Field that starts at *p: its end goes to *stop, the next one's start to *p; false when it was the last. */
static bool next_field(char separator, const char **p, const char *end, const char **stop) {
    const char *q = *p;
    if (separator == ' ') {
        while (q < end && !is_blank(*q))
            q++;
        *stop = q;
        while (q < end && is_blank(*q))
            q++;
        *p = q;
        return q < end;
    }
    const char *mark = memchr(q, separator, (size_t)(end - q));
    *stop = mark != NULL ? mark : end;
    q = mark != NULL ? mark + 1 : end;
    while (*stop > *p && is_blank((*stop)[-1]))
        (*stop)--;
    while (q < end && is_blank(*q))
        q++;
    *p = q;
    return mark != NULL;
}

struct reader {
    struct mp_matrix *m;
    const struct matrix_text *form;
    const char *path, *start; /* start: of the line, blanks included */
    uint64_t line, total;
    uint32_t n_rows;
    size_t n_allocated; /* cells */
};
#define COLUMN(p) ((uint64_t)((p)-r->start) + 1)

static enum mp_status no_number(const struct reader *r, const char *s, size_t n, struct mp_error *err) {
    char shown[64];
    double real;
    mp_quote(s, n, shown, sizeof shown);
    if (n > 0 && *s == '#')
        return mp_fail_at(
            err, MP_EINPUT, r->path, r->line, COLUMN(s),
            "\"%s\": comments have lines of their own in CSV, and alltoallv_perf reads none (leave it out)", shown);
    if (n > 0 && r->form->separator != ';' && memchr(s, ';', n) != NULL)
        return mp_fail_at(err, MP_EINPUT, r->path, r->line, COLUMN(s),
                          "\"%s\" is not a whole number (separate the columns by commas, not by semicolons)", shown);
    if (mp_parse_double(s, n, &real) && real > (double)MP_MAX_MATRIX_BYTES)
        return mp_fail_at(err, MP_ELIMIT, r->path, r->line, COLUMN(s), "%s is more than 2^53, which one cell may hold",
                          shown);
    return mp_fail_at(err, MP_EINPUT, r->path, r->line, COLUMN(s), "row %u: \"%s\" is not a whole number (write %s)",
                      r->n_rows, shown, n == 0 ? "0 where nothing is sent" : "how much is sent, 0 or more");
}

/* Room for another row once the first has said how many numbers a row has. */
static enum mp_status reserve(struct reader *r, size_t n_cells, struct mp_error *err) {
    if (n_cells <= r->n_allocated)
        return MP_OK;
    size_t wanted = 2 * r->n_allocated + 64;
    wanted = wanted < n_cells ? n_cells : wanted;
    uint64_t *grown = mp_realloc(r->m->cells, wanted, sizeof *grown);
    if (grown == NULL)
        return mp_nomem(err, r->path);
    r->m->cells = grown;
    r->n_allocated = wanted;
    return MP_OK;
}

static enum mp_status read_row(struct reader *r, const char *line, size_t n_line, struct mp_error *err) {
    const char *p = line, *end = line + n_line, *stop, *field;
    size_t n = 0, before = (size_t)r->n_rows * r->m->n;
    bool more;
    if (r->n_rows > 0 && r->n_rows == r->m->n)
        return mp_fail_at(err, MP_EINPUT, r->path, r->line, COLUMN(line),
                          "there are more than %u rows of %u numbers (a matrix is square; is the first line a header? "
                          "start it with #)",
                          r->m->n, r->m->n);
    do {
        uint64_t v;
        field = p;
        more = next_field(r->form->separator, &p, end, &stop);
        if (n == MP_MAX_GPUS)
            return mp_fail_at(err, MP_ELIMIT, r->path, r->line, COLUMN(field), "a row has more than %u numbers",
                              MP_MAX_GPUS);
        if (r->n_rows > 0 && n == r->m->n)
            return mp_fail_at(err, MP_EINPUT, r->path, r->line, COLUMN(field),
                              "row %u has more than the %u numbers of the first row", r->n_rows, r->m->n);
        if (!matrix_number(field, (size_t)(stop - field), &v))
            return no_number(r, field, (size_t)(stop - field), err);
        r->total += v; /* 2^53 at most so far, and 2^53 more */
        if (r->total > MP_MAX_MATRIX_BYTES)
            return mp_fail_at(err, MP_ELIMIT, r->path, r->line, COLUMN(field),
                              "the cells up to here add up to more than 2^53");
        enum mp_status status = reserve(r, before + n + 1, err);
        if (status != MP_OK)
            return status;
        r->m->cells[before + n++] = v;
    } while (more);
    if (r->n_rows > 0 && n < r->m->n)
        return mp_fail_at(err, MP_EINPUT, r->path, r->line, COLUMN(line),
                          "row %u has %zu numbers, the first row has %u", r->n_rows, n, r->m->n);
    r->m->n = (uint32_t)n;
    r->n_rows++;
    return MP_OK;
}

enum mp_status matrix_text_read(struct mp_matrix *m, const struct matrix_text *form, const struct mp_in *in,
                                const struct mp_limits *limits, struct mp_error *err) {
    struct reader r = {.m = m, .form = form, .path = in->path};
    const char *at = (const char *)in->data, *end = at + in->size, *line;
    size_t n;
    uint64_t number;
    bool may_be_header = form->may_have_header;
    if (in->size >= 3 && memcmp(in->data, "\xef\xbb\xbf", 3) == 0)
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 1,
                          "starts with a byte-order mark (save it as UTF-8 without one)");
    for (r.start = at; next_line(&at, end, &line, &n); r.start = at) {
        r.line++;
        if (n > limits->line_bytes)
            return mp_fail_at(err, MP_ELIMIT, in->path, r.line, 1, "the line has %zu bytes, more than the limit of %zu",
                              n, limits->line_bytes);
        if (n == 0 || (form->has_comments && *line == '#'))
            continue;
        const char *p = line, *stop;
        (void)next_field(form->separator, &p, line + n, &stop);
        bool is_header = may_be_header && stop > line && !(*line >= '0' && *line <= '9') &&
                         strchr("+-.", *line) == NULL && !matrix_number(line, (size_t)(stop - line), &number);
        may_be_header = false;
        if (is_header)
            continue;
        enum mp_status status = read_row(&r, line, n, err);
        if (status != MP_OK)
            return status;
    }
    if (r.n_rows == 0)
        return mp_fail_at(err, MP_EINPUT, in->path, r.line > 0 ? r.line : 1, 1, "holds no numbers (write n rows of n)");
    if (r.n_rows != m->n)
        return mp_fail_at(err, MP_EINPUT, in->path, r.line, 1,
                          "ends after %u rows of %u numbers (a matrix is square; is it cut short?)", r.n_rows, m->n);
    return MP_OK;
}
