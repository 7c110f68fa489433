/* Tables of text cells, written aligned (for people) or as Markdown (for documents). */
#include <moeplan/alloc.h>
#include <moeplan/report.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS_MAX = 32 };

struct mp_table {
    struct mp_arena *arena;
    uint32_t n_columns;
    const char *title[COLUMNS_MAX];
    bool is_right[COLUMNS_MAX];
    size_t n_cells, room;
    const char **cells; /* [n_cells], row by row */
    bool is_broken;     /* memory ran out: writing reports it */
};

/* Columns on a terminal: code points, which is right for everything moeplan prints (no wide or combining characters).
 */
static size_t width_of(const char *s) {
    size_t n = 0;
    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

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

void mp_table_cell(struct mp_table *t, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *copy = n < 0 ? NULL : mp_arena_strdup(t->arena, text);
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

static bool is_whole(const struct mp_table *t, struct mp_out *o) {
    if (t->is_broken || t->n_columns == 0)
        mp_out_fail(o, MP_ENOMEM, "out of memory: table");
    return !t->is_broken && t->n_columns > 0;
}

static void put_padded(struct mp_out *o, const char *s, size_t width, bool is_right, bool is_last) {
    size_t used = width_of(s);
    size_t gap = width > used ? width - used : 0;
    if (is_right)
        mp_out_printf(o, "%*s", (int)gap, "");
    mp_out_puts(o, s);
    if (!is_right && !is_last)
        mp_out_printf(o, "%*s", (int)gap, "");
}

static void widths_of(const struct mp_table *t, size_t *width) {
    for (uint32_t c = 0; c < t->n_columns; c++)
        width[c] = width_of(t->title[c]);
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t w = width_of(t->cells[i]);
        if (w > width[i % t->n_columns])
            width[i % t->n_columns] = w;
    }
}

void mp_table_write(const struct mp_table *t, struct mp_out *o) {
    size_t width[COLUMNS_MAX];
    if (!is_whole(t, o))
        return;
    widths_of(t, width);
    for (uint32_t c = 0; c < t->n_columns; c++) {
        put_padded(o, t->title[c], width[c], t->is_right[c], c + 1 == t->n_columns);
        mp_out_puts(o, c + 1 == t->n_columns ? "\n" : "  ");
    }
    for (uint32_t c = 0; c < t->n_columns; c++) {
        for (size_t i = 0; i < width[c]; i++)
            mp_out_puts(o, "-");
        mp_out_puts(o, c + 1 == t->n_columns ? "\n" : "  ");
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        uint32_t c = (uint32_t)(i % t->n_columns);
        bool is_last = c + 1 == t->n_columns || i + 1 == t->n_cells;
        put_padded(o, t->cells[i], width[c], t->is_right[c], is_last);
        mp_out_puts(o, is_last ? "\n" : "  ");
    }
}

static void put_markdown_cell(struct mp_out *o, const char *s, size_t width, bool is_right) {
    size_t used = width_of(s);
    for (const char *p = s; *p != '\0'; p++)
        used += *p == '|';
    size_t gap = width > used ? width - used : 0;
    mp_out_puts(o, " ");
    if (is_right)
        mp_out_printf(o, "%*s", (int)gap, "");
    for (const char *p = s; *p != '\0'; p++) {
        if (*p == '|')
            mp_out_puts(o, "\\");
        mp_out_write(o, p, 1);
    }
    if (!is_right)
        mp_out_printf(o, "%*s", (int)gap, "");
    mp_out_puts(o, " |");
}

void mp_table_write_markdown(const struct mp_table *t, struct mp_out *o) {
    size_t width[COLUMNS_MAX];
    if (!is_whole(t, o))
        return;
    widths_of(t, width);
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
