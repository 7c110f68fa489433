/* The series of thresholds h_t: a constant, a file of them, or the printed sigmoid of a file of losses. */
#include <moeplan/base.h>
#include <moeplan/condense.h>
#include <math.h>
#include <string.h>

enum { THRESHOLDS_MAX = 10000000 };

/* Losses above the first would give more than a half, up to 1. */
uint32_t mp_condense_sigmoid_ppm(double loss_first, double loss_before) {
    const double fallen = loss_first > 0 ? (loss_first - loss_before) / loss_first : 0;
    return (uint32_t)llround(1e6 / (1 + exp(fallen)));
}

/* The last cell of a line, without blanks around it. */
static const char *last_cell(const char *line, size_t n, size_t *n_cell) {
    size_t from = n;
    while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\r' || line[n - 1] == '\t'))
        n--;
    for (from = n; from > 0 && line[from - 1] != ',';)
        from--;
    while (from < n && (line[from] == ' ' || line[from] == '\t'))
        from++;
    *n_cell = n - from;
    return line + from;
}

static enum mp_status read_file(const uint32_t **out, uint32_t *n_out, const char *path, bool is_losses,
                                struct mp_arena *arena, struct mp_error *err) {
    struct mp_in *in = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(mp_in_open(&in, path, 0, err));
    const char *p = (const char *)in->data, *end = p + in->size;
    size_t n_lines = 1;
    for (const char *c = p; c < end; c++)
        n_lines += *c == '\n';
    if (n_lines > THRESHOLDS_MAX) {
        status = mp_fail_at(err, MP_ELIMIT, path, 0, 0, "%zu lines are more than %d", n_lines, (int)THRESHOLDS_MAX);
        goto out;
    }
    uint32_t *values = mp_arena_alloc(arena, n_lines + 1, sizeof *values), n = 0;
    if (values == NULL) {
        status = mp_nomem(err, path);
        goto out;
    }
    double first = 0;
    uint64_t line = 0;
    bool is_any = false;
    for (const char *next; p < end; p = next) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const size_t length = (size_t)((stop != NULL ? stop : end) - p);
        next = stop != NULL ? stop + 1 : end;
        line++;
        size_t n_cell;
        const char *cell = last_cell(p, length, &n_cell);
        double v;
        char quoted[64];
        if (n_cell == 0 || *p == '#')
            continue;
        const bool is_number = mp_parse_double(cell, n_cell, &v);
        if (!is_number && line == 1 && strchr("0123456789.+-", *cell) == NULL)
            continue; /* names of columns */
        if (!is_number || (is_losses ? !(v > 0 && v < 1e12) : !(v >= 0 && v <= 1))) {
            status = mp_fail_at(err, MP_EINPUT, path, line, (uint64_t)(cell - p) + 1, "\"%s\" is not %s",
                                mp_quote(cell, n_cell, quoted, sizeof quoted),
                                is_losses ? "a loss (write a number above 0)"
                                          : "a threshold in [0, 1] (write sigmoid:FILE for losses)");
            goto out;
        }
        if (!is_losses)
            values[n++] = (uint32_t)llround(v * 1e6);
        else {
            if (!is_any) { /* of the first step, before any loss is known: as if nothing had fallen */
                first = v;
                values[n++] = mp_condense_sigmoid_ppm(first, first);
            }
            values[n++] = mp_condense_sigmoid_ppm(first, v);
        }
        is_any = true;
    }
    if (!is_any)
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "holds no %s (write one number a line)",
                            is_losses ? "losses" : "thresholds");
    *out = values;
    *n_out = n;
out:
    mp_in_close(in);
    return status;
}

enum mp_status mp_condense_parse(const uint32_t **threshold_ppm, uint32_t *n, const char *text, struct mp_arena *arena,
                                 struct mp_error *err) {
    static const char prefix[] = "sigmoid:";
    double v;
    *threshold_ppm = NULL;
    *n = 0;
    if (strncmp(text, prefix, sizeof prefix - 1) == 0)
        return read_file(threshold_ppm, n, text + sizeof prefix - 1, true, arena, err);
    if (!mp_parse_double(text, strlen(text), &v))
        return read_file(threshold_ppm, n, text, false, arena, err);
    if (!(v >= 0 && v <= 1))
        return mp_fail(err, MP_EUSAGE, "--condense %.40s is not in [0, 1] (a cosine)", text);
    uint32_t *one = mp_arena_alloc(arena, 1, sizeof *one);
    if (one == NULL)
        return mp_nomem(err, "thresholds");
    *one = (uint32_t)llround(v * 1e6);
    *threshold_ppm = one;
    *n = 1;
    return MP_OK;
}
