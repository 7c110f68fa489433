#include "csv_text.h"
#include <string.h>

static enum mp_status split(struct csv_text *c, bool *more, struct mp_error *err) {
    for (;;) {
        *more = false;
        if (c->at == c->end)
            return MP_OK;
        /* Looks no further for the newline than a line may be long. */
        const size_t left = (size_t)(c->end - c->at), near = left > c->max_line + 2 ? c->max_line + 2 : left;
        const char *start = c->at, *newline = memchr(start, '\n', near);
        const char *stop = newline != NULL ? newline : start + near;
        c->at = newline != NULL ? newline + 1 : c->end;
        c->line++;
        if (stop > start && stop[-1] == '\r')
            stop--;
        if ((size_t)(stop - start) > c->max_line)
            return mp_fail_at(err, MP_ELIMIT, c->path, c->line, 1, "the line has more than %zu bytes, the limit",
                              c->max_line);
        if (stop == start)
            continue;
        c->line_text = start;
        c->n_fields = 0;
        for (const char *p = start;;) {
            const char *comma = memchr(p, ',', (size_t)(stop - p));
            const char *field_end = comma != NULL ? comma : stop;
            if (c->n_fields == CSV_MAX_FIELDS)
                return mp_fail_at(err, MP_ELIMIT, c->path, c->line, (uint64_t)(p - start) + 1,
                                  "the line has more than %d fields", (int)CSV_MAX_FIELDS);
            c->fields[c->n_fields++] = (struct csv_field){p, (size_t)(field_end - p)};
            if (comma == NULL)
                break;
            p = comma + 1;
        }
        *more = true;
        return MP_OK;
    }
}

uint64_t csv_at(const struct csv_text *c, uint32_t column) {
    return (uint64_t)(c->fields[column].text - c->line_text) + 1;
}
bool csv_is(const struct csv_field *f, const char *text) {
    return strlen(text) == f->n && memcmp(text, f->text, f->n) == 0;
}

uint32_t csv_column(const struct csv_text *c, const char *name) {
    for (uint32_t i = 0; i < c->n_names; i++)
        if (csv_is(&c->names[i], name))
            return i;
    return MP_NONE;
}

enum mp_status csv_open(struct csv_text *c, const struct mp_in *in, const struct mp_limits *limits,
                        struct mp_error *err) {
    *c = (struct csv_text){.path = in->path,
                           .at = (const char *)in->data,
                           .end = (const char *)in->data + in->size,
                           .max_line = limits->line_bytes};
    enum mp_status status = MP_OK;
    bool more;
    if (in->size >= 3 && memcmp(in->data, "\xef\xbb\xbf", 3) == 0)
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 1,
                          "starts with a byte-order mark (save it as UTF-8 without one)");
    c->fields = mp_calloc(CSV_MAX_FIELDS, sizeof *c->fields);
    if (c->fields == NULL) {
        csv_close(c);
        return mp_nomem(err, in->path);
    }
    if (c->at < c->end && *c->at == '#') {
        const size_t left = (size_t)(c->end - c->at), near = left > c->max_line ? c->max_line : left;
        const char *newline = memchr(c->at, '\n', near);
        if (newline == NULL && near < left) {
            status =
                mp_fail_at(err, MP_ELIMIT, c->path, 1, 1, "the line has more than %zu bytes, the limit", c->max_line);
            goto out;
        }
        const char *text = c->at + 1, *stop = newline != NULL ? newline : c->end;
        while (text < stop && (*text == ' ' || *text == '\t'))
            text++;
        if (text < stop && *text == '{') /* others are remarks */
            c->comment = (struct csv_field){text, (size_t)(stop - text)};
        c->at = newline != NULL ? newline + 1 : c->end;
        c->line = 1;
    }
    MP_TRY(split(c, &more, err));
    if (!more) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 1, 1, "the file holds no header line");
        goto out;
    }
    c->names = mp_calloc(c->n_fields, sizeof *c->names);
    if (c->names == NULL) {
        status = mp_nomem(err, in->path);
        goto out;
    }
    memcpy(c->names, c->fields, c->n_fields * sizeof *c->names);
    c->n_names = c->n_fields;
out:
    if (status != MP_OK)
        csv_close(c);
    return status;
}

void csv_close(struct csv_text *c) {
    mp_free(c->fields);
    mp_free(c->names);
    c->fields = c->names = NULL;
}

enum mp_status csv_next(struct csv_text *c, bool *more, struct mp_error *err) {
    enum mp_status status = split(c, more, err);
    if (status != MP_OK || !*more)
        return status;
    if (c->n_fields != c->n_names)
        return mp_fail_at(err, MP_EINPUT, c->path, c->line, 1, "the line has %u fields but the header has %u%s",
                          c->n_fields, c->n_names, c->at == c->end ? " (is the file cut short?)" : "");
    return MP_OK;
}

enum mp_status csv_u64(const struct csv_text *c, uint32_t column, uint64_t min, uint64_t max, uint64_t *out,
                       struct mp_error *err) {
    const struct csv_field *f = &c->fields[column];
    if (mp_parse_u64(f->text, f->n, out) && *out >= min && *out <= max)
        return MP_OK;
    char value[128], name[128];
    return mp_fail_at(err, MP_EINPUT, c->path, c->line, csv_at(c, column),
                      "%s: \"%s\" is not a whole number in [%llu, %llu]",
                      mp_quote(c->names[column].text, c->names[column].n, name, sizeof name),
                      mp_quote(f->text, f->n, value, sizeof value), (unsigned long long)min, (unsigned long long)max);
}

enum mp_status csv_name(const struct csv_text *c, uint32_t column, char buf[MP_MAX_NAME + 1], struct mp_error *err) {
    const struct csv_field *f = &c->fields[column];
    char value[128], name[128];
    if (f->n == 0 || f->n > MP_MAX_NAME || !mp_is_text(f->text, f->n) || memchr(f->text, '"', f->n) != NULL)
        return mp_fail_at(err, MP_EINPUT, c->path, c->line, csv_at(c, column),
                          "%s: \"%s\" is not a name (write 1 to %u bytes of text without quotes)",
                          mp_quote(c->names[column].text, c->names[column].n, name, sizeof name),
                          mp_quote(f->text, f->n, value, sizeof value), MP_MAX_NAME);
    memcpy(buf, f->text, f->n);
    buf[f->n] = '\0';
    return MP_OK;
}
