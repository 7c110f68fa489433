/* Mixed-integer programs in whole numbers: building, exact checking, texts for other solvers and their answers. */
#include "mip.h"
#include <stdlib.h>
#include <string.h>

#define LARGEST (INT64_C(1) << 53)

enum mp_status mp_mip_new(struct mp_mip **out, struct mp_error *err) {
    *out = NULL;
    struct mp_mip *m = mp_calloc(1, sizeof *m);
    if (m == NULL || (m->arena = mp_arena_new()) == NULL) {
        mp_free(m);
        return mp_nomem(err, "a mixed-integer program");
    }
    *out = m;
    return MP_OK;
}

void mp_mip_free(struct mp_mip *m) {
    if (m == NULL)
        return;
    mp_free(m->variables);
    mp_free(m->rows);
    mp_arena_free(m->arena);
    mp_free(m);
}

/* Room for one more; false when out of memory. */
static bool grow(void **list, uint32_t *n_allocated, uint32_t n, size_t size) {
    if (n < *n_allocated)
        return true;
    uint32_t want = *n_allocated < 64 ? 64 : 2 * *n_allocated;
    void *larger = want > *n_allocated ? mp_realloc(*list, want, size) : NULL;
    if (larger == NULL)
        return false;
    *list = larger;
    *n_allocated = want;
    return true;
}

static bool is_name(const char *s) {
    size_t n = s != NULL ? strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") : 0;
    return n > 0 && n <= MP_MIP_NAME_MAX && s[n] == '\0' && (s[0] < '0' || s[0] > '9');
}

static bool is_small(int64_t x) { return x > -LARGEST && x < LARGEST; }
static bool is_range(int64_t lower, int64_t upper) {
    return lower <= upper && (is_small(lower) || lower == -MP_MIP_FREE) && (is_small(upper) || upper == MP_MIP_FREE);
}

enum mp_status mp_mip_add_variable(struct mp_mip *m, const struct mp_mip_variable *v, uint32_t *index,
                                   struct mp_error *err) {
    if (!is_name(v->name) || !is_range(v->lower, v->upper) || !is_small(v->cost))
        return mp_fail(err, MP_EBUG, "variable %.64s: its name, bounds or cost are none", v->name);
    void *list = m->variables;
    if (!grow(&list, &m->n_variables_allocated, m->n_variables, sizeof *m->variables))
        return mp_nomem(err, "a mixed-integer program");
    m->variables = list;
    struct mp_mip_variable *mine = &m->variables[m->n_variables];
    *mine = *v;
    mine->name = mp_arena_strdup(m->arena, v->name);
    if (mine->name == NULL)
        return mp_nomem(err, "a mixed-integer program");
    if (index != NULL)
        *index = m->n_variables;
    m->n_variables++;
    return MP_OK;
}

static int by_variable(const void *a, const void *b) {
    const struct mp_mip_term *x = a, *y = b;
    return (x->variable > y->variable) - (x->variable < y->variable);
}

enum mp_status mp_mip_add_row(struct mp_mip *m, const struct mp_mip_row *row, struct mp_error *err) {
    if (!is_name(row->name) || !is_range(row->lower, row->upper))
        return mp_fail(err, MP_EBUG, "row %.64s: its name or bounds are none", row->name);
    struct mp_mip_term *terms = mp_arena_alloc(m->arena, row->n, sizeof *terms);
    void *list = m->rows;
    if (terms == NULL || !grow(&list, &m->n_rows_allocated, m->n_rows, sizeof *m->rows))
        return mp_nomem(err, "a mixed-integer program");
    m->rows = list;
    if (row->n > 0)
        memcpy(terms, row->terms, row->n * sizeof *terms);
    qsort(terms, row->n, sizeof *terms, by_variable);
    uint32_t n = 0;
    for (uint32_t i = 0; i < row->n; i++) {
        struct mp_mip_term t = terms[i];
        while (i + 1 < row->n && terms[i + 1].variable == t.variable)
            t.factor += terms[++i].factor;
        if (t.variable >= m->n_variables || !is_small(t.factor))
            return mp_fail(err, MP_EBUG, "row %s: a term of variable %u of %u", row->name, t.variable, m->n_variables);
        if (t.factor != 0)
            terms[n++] = t;
    }
    struct mp_mip_row *mine = &m->rows[m->n_rows];
    *mine = *row;
    mine->terms = terms;
    mine->n = n;
    mine->name = mp_arena_strdup(m->arena, row->name);
    if (mine->name == NULL)
        return mp_nomem(err, "a mixed-integer program");
    m->n_rows++;
    return MP_OK;
}

/* ---- exact checks ---- */
static __int128 sum_of(const struct mp_mip_row *row, const int64_t *values) {
    __int128 sum = 0;
    for (uint32_t i = 0; i < row->n; i++)
        sum += (__int128)row->terms[i].factor * values[row->terms[i].variable];
    return sum;
}
static bool is_above(__int128 x, int64_t upper) { return upper != MP_MIP_FREE && x > upper; }
static bool is_below(__int128 x, int64_t lower) { return lower != -MP_MIP_FREE && x < lower; }

bool mp_mip_holds(const struct mp_mip *m, const int64_t *values, __int128 *objective, const char **broken) {
    __int128 cost = 0;
    for (uint32_t i = 0; i < m->n_variables; i++) {
        const struct mp_mip_variable *v = &m->variables[i];
        cost += (__int128)v->cost * values[i];
        if (is_above(values[i], v->upper) || is_below(values[i], v->lower)) {
            if (broken != NULL)
                *broken = v->name;
            return false;
        }
    }
    for (uint32_t i = 0; i < m->n_rows; i++) {
        __int128 sum = sum_of(&m->rows[i], values);
        if (is_above(sum, m->rows[i].upper) || is_below(sum, m->rows[i].lower)) {
            if (broken != NULL)
                *broken = m->rows[i].name;
            return false;
        }
    }
    if (objective != NULL)
        *objective = cost;
    return true;
}

void mp_mip_repair(const struct mp_mip *m, int64_t *values) {
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const struct mp_mip_row *row = &m->rows[i];
        __int128 sum = sum_of(row, values), lack = 0; /* what the sum must change by */
        if (is_above(sum, row->upper))
            lack = row->upper - sum;
        else if (is_below(sum, row->lower))
            lack = row->lower - sum;
        for (uint32_t k = 0; lack != 0 && k < row->n; k++) {
            const struct mp_mip_term *t = &row->terms[k];
            if (m->variables[t->variable].is_integer)
                continue;
            __int128 size = t->factor > 0 ? t->factor : -(__int128)t->factor, need = lack > 0 ? lack : -lack;
            __int128 by = (need + size - 1) / size * ((lack > 0) == (t->factor > 0) ? 1 : -1);
            __int128 moved = values[t->variable] + by;
            if (moved > -LARGEST && moved < LARGEST)
                values[t->variable] = (int64_t)moved;
            lack = 0;
        }
    }
}

/* ---- texts ---- */
#define LL(x) ((long long)(x))

static void write_terms(const struct mp_mip *m, const struct mp_mip_row *row, struct mp_out *o) {
    for (uint32_t k = 0; k < row->n; k++)
        mp_out_printf(o, "%s%+lld %s", k > 0 && k % 6 == 0 ? "\n   " : " ", LL(row->terms[k].factor),
                      m->variables[row->terms[k].variable].name);
}

static void write_lp(const struct mp_mip *m, const char *comment, struct mp_out *o) {
    mp_out_printf(o, "\\ %s\nMinimize\n cost:", comment);
    for (uint32_t i = 0; i < m->n_variables; i++) /* all of them: readers number columns as they meet them */
        mp_out_printf(o, "%s%+lld %s", i > 0 && i % 6 == 0 ? "\n   " : " ", LL(m->variables[i].cost),
                      m->variables[i].name);
    mp_out_puts(o, "\nSubject To\n");
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const struct mp_mip_row *row = &m->rows[i];
        bool has_lower = row->lower != -MP_MIP_FREE, has_upper = row->upper != MP_MIP_FREE;
        bool is_equal = has_lower && has_upper && row->lower == row->upper;
        if (row->n == 0)
            continue;
        if (has_upper) {
            mp_out_printf(o, " %s:", row->name);
            write_terms(m, row, o);
            mp_out_printf(o, " %s %lld\n", is_equal ? "=" : "<=", LL(row->upper));
        }
        if (has_lower && !is_equal) {
            mp_out_printf(o, " %s%s:", row->name, has_upper ? "_low" : "");
            write_terms(m, row, o);
            mp_out_printf(o, " >= %lld\n", LL(row->lower));
        }
    }
    mp_out_puts(o, "Bounds\n");
    for (uint32_t i = 0; i < m->n_variables; i++) {
        const struct mp_mip_variable *v = &m->variables[i];
        if (v->lower == -MP_MIP_FREE)
            mp_out_puts(o, " -inf");
        else
            mp_out_printf(o, " %lld", LL(v->lower));
        mp_out_printf(o, " <= %s", v->name);
        if (v->upper == MP_MIP_FREE)
            mp_out_puts(o, " <= +inf\n");
        else
            mp_out_printf(o, " <= %lld\n", LL(v->upper));
    }
    mp_out_puts(o, "General\n");
    for (uint32_t i = 0; i < m->n_variables; i++)
        if (m->variables[i].is_integer)
            mp_out_printf(o, " %s\n", m->variables[i].name);
    mp_out_puts(o, "End\n");
}

static void write_mps_column(const struct mp_mip *m, uint32_t v, const uint32_t *at, const uint32_t *row_of,
                             const int64_t *factor, struct mp_out *o) {
    const char *name = m->variables[v].name;
    mp_out_printf(o, " %s cost %lld\n", name, LL(m->variables[v].cost));
    for (uint32_t k = at[v]; k < at[v + 1]; k++)
        mp_out_printf(o, " %s %s %lld\n", name, m->rows[row_of[k]].name, LL(factor[k]));
}

static char mps_type(const struct mp_mip_row *row) {
    if (row->lower == row->upper)
        return 'E';
    return row->upper != MP_MIP_FREE ? 'L' : row->lower != -MP_MIP_FREE ? 'G' : 'N';
}

static void write_mps(const struct mp_mip *m, const char *comment, struct mp_out *o) {
    size_t n_terms = 0;
    for (uint32_t i = 0; i < m->n_rows; i++)
        n_terms += m->rows[i].n;
    uint32_t *at = mp_calloc((size_t)m->n_variables + 2, sizeof *at), *row_of = mp_calloc(n_terms, sizeof *row_of);
    int64_t *factor = mp_calloc(n_terms, sizeof *factor);
    bool is_open = false;
    if (at == NULL || row_of == NULL || factor == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory while writing a mixed-integer program");
        goto out;
    }
    for (uint32_t i = 0; i < m->n_rows; i++)
        for (uint32_t k = 0; k < m->rows[i].n; k++)
            at[m->rows[i].terms[k].variable + 2]++;
    for (uint32_t v = 0; v < m->n_variables; v++)
        at[v + 2] += at[v + 1];
    for (uint32_t i = 0; i < m->n_rows; i++)
        for (uint32_t k = 0; k < m->rows[i].n; k++) {
            uint32_t to = at[m->rows[i].terms[k].variable + 1]++;
            row_of[to] = i;
            factor[to] = m->rows[i].terms[k].factor;
        }
    mp_out_printf(o, "* %s\nNAME moeplan\nROWS\n N cost\n", comment);
    for (uint32_t i = 0; i < m->n_rows; i++)
        mp_out_printf(o, " %c %s\n", mps_type(&m->rows[i]), m->rows[i].name);
    mp_out_puts(o, "COLUMNS\n");
    for (uint32_t v = 0; v < m->n_variables; v++) {
        if (m->variables[v].is_integer != is_open)
            mp_out_printf(o, " MARKER 'MARKER' '%s'\n", is_open ? "INTEND" : "INTORG");
        is_open = m->variables[v].is_integer;
        write_mps_column(m, v, at, row_of, factor, o);
    }
    if (is_open)
        mp_out_puts(o, " MARKER 'MARKER' 'INTEND'\n");
    mp_out_puts(o, "RHS\n");
    for (uint32_t i = 0; i < m->n_rows; i++) {
        int64_t side = m->rows[i].upper != MP_MIP_FREE ? m->rows[i].upper : m->rows[i].lower;
        if (side != 0 && side != -MP_MIP_FREE)
            mp_out_printf(o, " RHS %s %lld\n", m->rows[i].name, LL(side));
    }
    mp_out_puts(o, "RANGES\n");
    for (uint32_t i = 0; i < m->n_rows; i++)
        if (m->rows[i].lower != -MP_MIP_FREE && m->rows[i].upper != MP_MIP_FREE && m->rows[i].lower < m->rows[i].upper)
            mp_out_printf(o, " RANGE %s %lld\n", m->rows[i].name, LL(m->rows[i].upper - m->rows[i].lower));
    mp_out_puts(o, "BOUNDS\n");
    for (uint32_t v = 0; v < m->n_variables; v++) {
        const struct mp_mip_variable *x = &m->variables[v];
        if (x->lower == -MP_MIP_FREE)
            mp_out_printf(o, " MI BOUND %s\n", x->name);
        else
            mp_out_printf(o, " LO BOUND %s %lld\n", x->name, LL(x->lower));
        if (x->upper == MP_MIP_FREE)
            mp_out_printf(o, " PL BOUND %s\n", x->name);
        else
            mp_out_printf(o, " UP BOUND %s %lld\n", x->name, LL(x->upper));
    }
    mp_out_puts(o, "ENDATA\n");
out:
    mp_free(at);
    mp_free(row_of);
    mp_free(factor);
}

void mp_mip_write(const struct mp_mip *m, bool is_mps, const char *comment, struct mp_out *o) {
    if (is_mps)
        write_mps(m, comment, o);
    else
        write_lp(m, comment, o);
}

/* ---- answers of other solvers ---- */
struct words { /* of one line */
    const char *at[4];
    size_t n[4];
    uint32_t count;
};

static struct words split(const char *line, const char *end) {
    struct words w = {.count = 0};
    while (line < end) {
        while (line < end && (*line == ' ' || *line == '\t' || *line == '\r'))
            line++;
        const char *start = line;
        while (line < end && *line != ' ' && *line != '\t' && *line != '\r')
            line++;
        if (line > start && w.count < 4) {
            w.at[w.count] = start;
            w.n[w.count] = (size_t)(line - start);
        }
        w.count += line > start;
    }
    return w;
}

struct answer {
    const struct mp_mip *m;
    const uint32_t *by_name; /* [n_variables] indexes by name */
    int64_t *values;
    bool *is_set;
    const char *path;
    uint64_t line_number;
    const char *line;
};

static uint32_t find(const struct answer *a, const char *name, size_t n) {
    uint32_t low = 0, high = a->m->n_variables;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const char *other = a->m->variables[a->by_name[middle]].name;
        int order = strncmp(other, name, n);
        if (order == 0 && other[n] == '\0')
            return a->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return MP_NONE;
}

static enum mp_status set_value(struct answer *a, uint32_t v, const char *text, size_t n, struct mp_error *err) {
    char shown[64];
    double x;
    uint64_t column = (uint64_t)(text - a->line) + 1;
    const struct mp_mip_variable *var = &a->m->variables[v];
    if (!mp_parse_double(text, n, &x))
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, column, "%s: \"%s\" is not a number", var->name,
                          mp_quote(text, n, shown, sizeof shown));
    if (a->is_set[v])
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, 1, "%s: a second value (keep one)", var->name);
    a->is_set[v] = true;
    double whole =
        x < 0 ? -(double)(int64_t)(0.5 - (x > -9e15 ? x : -9e15)) : (double)(int64_t)((x < 9e15 ? x : 9e15) + 0.5);
    if (var->is_integer && (x - whole > 1e-5 || whole - x > 1e-5))
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, column,
                          "%s: \"%s\" is not a whole number (solve it as an integer program, not its relaxation)",
                          var->name, mp_quote(text, n, shown, sizeof shown));
    if (var->is_integer && (is_above((__int128)whole, var->upper) || is_below((__int128)whole, var->lower)))
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, column, "%s: %s is not in [%lld, %lld]", var->name,
                          mp_quote(text, n, shown, sizeof shown), LL(var->lower), LL(var->upper));
    a->values[v] = (int64_t)whole;
    return MP_OK;
}

static enum mp_status read_glpk_line(struct answer *a, const struct words *w, struct mp_error *err) {
    uint64_t v;
    char shown[64];
    if (w->n[0] != 1 || strchr("csije", w->at[0][0]) == NULL)
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, 1,
                          "\"%s\" begins no line of a GLPK solution (write what glpsol -w does)",
                          mp_quote(w->at[0], w->n[0], shown, sizeof shown));
    if (w->at[0][0] != 'j')
        return MP_OK;
    if (w->count != 3 || !mp_parse_u64(w->at[1], w->n[1], &v) || v < 1 || v > a->m->n_variables)
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, 1,
                          "a column of a GLPK solution is \"j NUMBER VALUE\", with a number in [1, %u] (was it another "
                          "model that was solved?)",
                          a->m->n_variables);
    return set_value(a, (uint32_t)v - 1, w->at[2], w->n[2], err);
}

static enum mp_status read_line(struct answer *a, const struct words *w, struct mp_error *err) {
    char shown[64];
    if (w->count != 2)
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, 1,
                          "%u words where a name and a value are wanted (write NAME VALUE, # begins a comment)",
                          w->count);
    uint32_t v = find(a, w->at[0], w->n[0]);
    if (v == MP_NONE)
        return mp_fail_at(err, MP_EINPUT, a->path, a->line_number, (uint64_t)(w->at[0] - a->line) + 1,
                          "\"%s\" is no variable of this problem (was another model solved, or with other options?)",
                          mp_quote(w->at[0], w->n[0], shown, sizeof shown));
    return set_value(a, v, w->at[1], w->n[1], err);
}

struct named {
    const char *name;
    uint32_t index;
};
static int by_name(const void *a, const void *b) {
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

enum mp_status mp_mip_read_solution(int64_t **values, const struct mp_mip *m, const struct mp_in *in,
                                    struct mp_arena *arena, struct mp_error *err) {
    struct answer a = {.m = m, .path = in->path};
    struct named *names = mp_arena_alloc(arena, m->n_variables, sizeof *names);
    uint32_t *order = mp_arena_alloc(arena, m->n_variables, sizeof *order);
    a.values = mp_arena_alloc(arena, m->n_variables, sizeof *a.values);
    a.is_set = mp_arena_alloc(arena, m->n_variables, sizeof *a.is_set);
    *values = NULL;
    if (names == NULL || order == NULL || a.values == NULL || a.is_set == NULL)
        return mp_nomem(err, "reading a solution");
    for (uint32_t i = 0; i < m->n_variables; i++) {
        names[i] = (struct named){m->variables[i].name, i};
        a.values[i] = m->variables[i].lower > 0 ? m->variables[i].lower : 0;
    }
    qsort(names, m->n_variables, sizeof *names, by_name);
    for (uint32_t i = 0; i < m->n_variables; i++)
        order[i] = names[i].index;
    a.by_name = order;
    const char *at = (const char *)in->data, *end = at + in->size;
    bool is_glpk = false, has_any = false;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        a.line = at;
        a.line_number++;
        struct words w = split(at, stop);
        at = stop < end ? stop + 1 : end;
        if (w.count == 0 || w.at[0][0] == '#' || w.at[0][0] == '=')
            continue;
        if (!has_any)
            is_glpk = w.n[0] == 1 && (w.at[0][0] == 'c' || w.at[0][0] == 's') && find(&a, w.at[0], 1) == MP_NONE;
        has_any = true;
        enum mp_status status = is_glpk ? read_glpk_line(&a, &w, err) : read_line(&a, &w, err);
        if (status != MP_OK)
            return status;
    }
    if (!has_any)
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 1, "no solution in it (write a line NAME VALUE per variable)");
    mp_mip_repair(m, a.values);
    *values = a.values;
    return MP_OK;
}
