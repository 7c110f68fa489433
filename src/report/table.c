/* Tables of text cells: aligned for people, fitted to a terminal, as Markdown for documents, as CSV for programs. */
#include "text_width.h"
#include <moeplan/alloc.h>
#include <moeplan/report.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* LONG_WORD: what is longer is a checksum or a path, and broken where a line ends. */
enum { COLUMNS_MAX = 64, GAP = 2, LEAST_TEXT = 8, LONG_WORD = 30 };

struct mp_table {
    struct mp_arena *arena;
    uint32_t n_columns;
    const char *title[COLUMNS_MAX];
    bool is_right[COLUMNS_MAX];
    unsigned rank[COLUMNS_MAX]; /* 0 = always shown */
    size_t n_cells, room;
    const char **cells; /* [n_cells], row by row */
    bool is_broken;     /* memory ran out: writing reports it */
};

struct mp_table *mp_table_new(void) {
    struct mp_table *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    t->arena = mp_arena_new();
    if (t->arena == NULL) {
        mp_free(t);
        return NULL;
    }
    return t;
}

void mp_table_free(struct mp_table *t) {
    if (t == NULL)
        return;
    mp_arena_free(t->arena);
    mp_free(t->cells);
    mp_free(t);
}

void mp_table_column(struct mp_table *t, const char *title, bool is_right) {
    const char *copy = mp_arena_strdup(t->arena, title);
    if (copy == NULL || t->n_columns == COLUMNS_MAX || t->n_cells > 0) {
        t->is_broken = true;
        return;
    }
    t->title[t->n_columns] = copy;
    t->is_right[t->n_columns++] = is_right;
}

void mp_table_may_drop(struct mp_table *t, unsigned rank) {
    if (t->n_columns > 0)
        t->rank[t->n_columns - 1] = rank;
}

void mp_table_columns(struct mp_table *t, const char *const *titles, size_t n, const char *ranks, size_t n_left) {
    for (size_t i = 0; i < n; i++) {
        mp_table_column(t, titles[i], i >= n_left);
        mp_table_may_drop(t, (unsigned)(ranks[i] - '0'));
    }
}

void mp_table_text(struct mp_table *t, const char *text) {
    const char *copy = text != NULL ? mp_arena_strdup(t->arena, text) : NULL;
    if (copy == NULL) {
        t->is_broken = true;
        return;
    }
    if (t->n_cells == t->room) {
        size_t room = t->room == 0 ? 64 : t->room * 2;
        const char **grown = mp_realloc(t->cells, room, sizeof *grown);
        if (grown == NULL) {
            t->is_broken = true;
            return;
        }
        t->cells = grown;
        t->room = room;
    }
    t->cells[t->n_cells++] = copy;
}

void mp_table_cell(struct mp_table *t, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        t->is_broken = true;
    else
        mp_table_text(t, text);
}

static bool is_whole(const struct mp_table *t, struct mp_out *o) {
    if (t->is_broken || t->n_columns == 0)
        mp_out_fail(o, MP_ENOMEM, "out of memory: table");
    return !t->is_broken && t->n_columns > 0;
}

static void put_spaces(struct mp_out *o, size_t n) { mp_out_printf(o, "%*s", (int)n, ""); }

/* Of the widest cells; with titles of them too. */
static void widths_of(const struct mp_table *t, bool with_titles, size_t *width) {
    for (uint32_t c = 0; c < t->n_columns; c++)
        width[c] = with_titles ? mp_text_width(t->title[c]) : 0;
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t w = mp_text_width(t->cells[i]);
        if (w > width[i % t->n_columns])
            width[i % t->n_columns] = w;
    }
}

/* ---- fitting ---- */

struct fit {
    size_t width[COLUMNS_MAX];
    bool is_dropped[COLUMNS_MAX];
    uint32_t n_shown;
};

static size_t total_of(const struct mp_table *t, const struct fit *f) {
    size_t sum = f->n_shown > 0 ? (f->n_shown - 1) * (size_t)GAP : 0;
    for (uint32_t c = 0; c < t->n_columns; c++)
        sum += f->is_dropped[c] ? 0 : f->width[c];
    return sum;
}

/* The widest word of a text. */
static size_t longest_word(const char *s) {
    size_t most = 0, n = 0;
    while (*s != '\0') {
        const bool is_space = *s == ' ';
        const size_t w = mp_text_next(&s);
        n = is_space ? 0 : n + w;
        most = n > most ? n : most;
    }
    return most;
}

/* Takes columns off the widest ones until the table fits or all are at their least. */
static void narrow(const struct mp_table *t, struct fit *f, const size_t *least, size_t limit) {
    while (total_of(t, f) > limit) {
        uint32_t widest = MP_NONE;
        for (uint32_t c = 0; c < t->n_columns; c++)
            if (!f->is_dropped[c] && f->width[c] > least[c] && (widest == MP_NONE || f->width[c] > f->width[widest]))
                widest = c;
        if (widest == MP_NONE)
            return;
        f->width[widest]--;
    }
}

static void fit_to(const struct mp_table *t, size_t limit, struct fit *f) {
    size_t least[COLUMNS_MAX], cells[COLUMNS_MAX], wrapped[COLUMNS_MAX];
    widths_of(t, true, f->width);
    widths_of(t, false, cells);
    f->n_shown = t->n_columns;
    for (uint32_t c = 0; c < t->n_columns; c++) {
        const size_t word = longest_word(t->title[c]);
        f->is_dropped[c] = false;
        least[c] = cells[c] > word ? cells[c] : word;
        wrapped[c] = t->is_right[c] ? least[c] : word;
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        const uint32_t c = (uint32_t)(i % t->n_columns);
        const size_t word = t->is_right[c] ? 0 : longest_word(t->cells[i]);
        if (word > wrapped[c])
            wrapped[c] = word < LONG_WORD ? word : LONG_WORD > wrapped[c] ? LONG_WORD : wrapped[c];
    }
    narrow(t, f, least, limit); /* titles of several lines */
    while (total_of(t, f) > limit) {
        uint32_t last = MP_NONE;
        for (uint32_t c = 0; c < t->n_columns; c++)
            if (!f->is_dropped[c] && t->rank[c] > 0 && (last == MP_NONE || t->rank[c] >= t->rank[last]))
                last = c;
        if (last == MP_NONE)
            break;
        f->is_dropped[last] = true;
        f->n_shown--;
        widths_of(t, true, f->width);
        narrow(t, f, least, limit);
    }
    narrow(t, f, wrapped, limit); /* between words */
    for (uint32_t c = 0; c < t->n_columns; c++)
        if (!t->is_right[c] && wrapped[c] > LEAST_TEXT)
            wrapped[c] = LEAST_TEXT;
    narrow(t, f, wrapped, limit); /* inside words */
}

/* The next line of a cell, at most `width` columns: its bytes; *s moves behind it and the space it was broken at. */
static size_t next_line(const char **s, size_t width, size_t *columns) {
    const char *start = *s, *p = start, *space = NULL;
    size_t used = 0, used_at_space = 0;
    while (*p != '\0') {
        const char *before = p;
        const bool is_space = *p == ' ';
        const size_t w = mp_text_next(&p);
        if (is_space && before > start) {
            space = before;
            used_at_space = used;
        }
        if (used + w > width && before > start) {
            p = before;
            break;
        }
        used += w;
    }
    if (*p == '\0') {
        *s = p;
        *columns = used;
        return (size_t)(p - start);
    }
    if (space != NULL) {
        p = space;
        used = used_at_space;
    }
    *columns = used;
    *s = p + strspn(p, " ");
    return (size_t)(p - start);
}

/* A row, on as many lines as its cells need. cells: one for each column; absent ones are NULL. */
static void put_row(const struct mp_table *t, const struct fit *f, const char *const *cells, bool is_title,
                    const struct mp_style *style, struct mp_out *o) {
    const char *rest[COLUMNS_MAX];
    bool is_left = true;
    for (uint32_t c = 0; c < t->n_columns; c++)
        rest[c] = cells[c];
    for (bool is_first = true; is_left || is_first; is_first = false) {
        uint32_t last = 0, n_columns = t->n_columns;
        while (n_columns > 0 && cells[n_columns - 1] == NULL) /* a row that was cut short ends there */
            n_columns--;
        for (uint32_t c = 0; c < n_columns; c++)
            if (!f->is_dropped[c] && (is_first || *rest[c] != '\0')) /* what wraps leaves no spaces behind */
                last = c;
        is_left = false;
        if (is_title && style->has_color)
            mp_out_puts(o, "\033[1m");
        for (uint32_t c = 0; c <= last; c++) {
            if (f->is_dropped[c])
                continue;
            size_t columns;
            const char *start = rest[c];
            const size_t n = next_line(&rest[c], f->width[c], &columns);
            const size_t gap = f->width[c] > columns ? f->width[c] - columns : 0;
            if (t->is_right[c])
                put_spaces(o, gap);
            mp_out_write(o, start, n);
            if (!t->is_right[c] && c != last)
                put_spaces(o, gap);
            if (c != last)
                put_spaces(o, GAP);
            is_left |= *rest[c] != '\0';
        }
        mp_out_puts(o, is_title && style->has_color ? "\033[0m\n" : "\n");
    }
}

/* What was left out, a line that fits too. */
static void put_dropped(const struct mp_table *t, const struct fit *f, size_t limit, struct mp_out *o) {
    char text[COLUMNS_MAX * 40];
    size_t n = 0;
    for (uint32_t c = 0; c < t->n_columns; c++)
        if (f->is_dropped[c] && n < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%.36s", n > 0 ? ", " : "(not shown: ", t->title[c]);
    if (n == 0)
        return;
    if (n < sizeof text)
        (void)snprintf(text + n, sizeof text - n, "; --wide shows all)");
    for (const char *p = text; *p != '\0';) {
        size_t columns;
        const char *start = p;
        n = next_line(&p, limit, &columns);
        mp_out_write(o, start, n);
        mp_out_puts(o, "\n");
    }
}

static void write_text(const struct mp_table *t, const struct mp_style *style, struct mp_out *o) {
    static const struct mp_style plain;
    struct fit f = {.n_shown = t->n_columns};
    if (!is_whole(t, o))
        return;
    if (style == NULL)
        style = &plain;
    fit_to(t, style->width > 0 ? style->width : SIZE_MAX, &f);
    put_row(t, &f, t->title, true, style, o);
    uint32_t last = 0;
    for (uint32_t c = 0; c < t->n_columns; c++)
        last = f.is_dropped[c] ? last : c;
    for (uint32_t c = 0; c <= last; c++) {
        for (size_t i = 0; !f.is_dropped[c] && i < f.width[c]; i++)
            mp_out_puts(o, "-");
        if (!f.is_dropped[c])
            mp_out_puts(o, c == last ? "\n" : "  ");
    }
    for (size_t i = 0; i < t->n_cells; i += t->n_columns) {
        const char *cells[COLUMNS_MAX] = {NULL};
        for (uint32_t c = 0; c < t->n_columns && i + c < t->n_cells; c++)
            cells[c] = t->cells[i + c];
        put_row(t, &f, cells, false, style, o);
    }
    put_dropped(t, &f, style->width, o);
}

void mp_table_write(const struct mp_table *t, struct mp_out *o) { write_text(t, NULL, o); }

void mp_table_show(const struct mp_table *t, const struct mp_style *style, struct mp_out *o) {
    if (style != NULL && style->is_markdown)
        mp_table_write_markdown(t, o);
    else
        write_text(t, style, o);
}

/* ---- Markdown ---- */

static void put_markdown_cell(struct mp_out *o, const char *s, size_t width, bool is_right) {
    size_t used = mp_text_width(s);
    for (const char *p = s; *p != '\0'; p++)
        used += *p == '|';
    size_t gap = width > used ? width - used : 0;
    mp_out_puts(o, " ");
    if (is_right)
        put_spaces(o, gap);
    for (const char *p = s; *p != '\0'; p++) {
        if (*p == '|')
            mp_out_puts(o, "\\");
        mp_out_write(o, p, 1);
    }
    if (!is_right)
        put_spaces(o, gap);
    mp_out_puts(o, " |");
}

void mp_table_write_markdown(const struct mp_table *t, struct mp_out *o) {
    size_t width[COLUMNS_MAX];
    if (!is_whole(t, o))
        return;
    widths_of(t, true, width);
    mp_out_puts(o, "|");
    for (uint32_t c = 0; c < t->n_columns; c++)
        put_markdown_cell(o, t->title[c], width[c], t->is_right[c]);
    mp_out_puts(o, "\n|");
    for (uint32_t c = 0; c < t->n_columns; c++) {
        for (size_t i = 0; i + t->is_right[c] < width[c] + 2; i++)
            mp_out_puts(o, "-");
        mp_out_puts(o, t->is_right[c] ? ":|" : "|");
    }
    mp_out_puts(o, "\n");
    for (size_t i = 0; i < t->n_cells; i++) {
        uint32_t c = (uint32_t)(i % t->n_columns);
        if (c == 0)
            mp_out_puts(o, "|");
        put_markdown_cell(o, t->cells[i], width[c], t->is_right[c]);
        if (c + 1 == t->n_columns || i + 1 == t->n_cells)
            mp_out_puts(o, "\n");
    }
}

/* ---- CSV ---- */

static void put_csv_cell(struct mp_out *o, const char *s, bool is_alone) {
    const size_t n = strlen(s);
    /* A line of one empty cell would be no line at all to many readers. */
    const bool is_quoted =
        strpbrk(s, ",\"\r\n") != NULL || (n > 0 && (s[0] == ' ' || s[n - 1] == ' ')) || (n == 0 && is_alone);
    if (!is_quoted) {
        mp_out_write(o, s, n);
        return;
    }
    mp_out_puts(o, "\"");
    for (; *s != '\0'; s++)
        mp_out_write(o, *s == '"' ? "\"\"" : s, *s == '"' ? 2 : 1);
    mp_out_puts(o, "\"");
}

void mp_table_write_csv(const struct mp_table *t, struct mp_out *o) {
    if (!is_whole(t, o))
        return;
    for (size_t i = 0; i < t->n_columns + t->n_cells; i++) {
        const bool is_last = (i + 1) % t->n_columns == 0 || i + 1 == t->n_columns + t->n_cells;
        put_csv_cell(o, i < t->n_columns ? t->title[i] : t->cells[i - t->n_columns], t->n_columns == 1);
        mp_out_puts(o, is_last ? "\n" : ",");
    }
}
