/* Dense matrices of measured bandwidth and latency, row = sender: text (CSV, blanks; also what p2pBandwidthLatencyTest
 * of the CUDA samples prints) or .npy. A line above a block names its unit, and the unit says which it is. */
#include "topo_measured.h"
#include <ctype.h>
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/json.h>
#include <moeplan/npy.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LINE = 1 << 20 };

/* One cell at a time; separators are commas, semicolons, tabs and blanks. */
struct cells {
    const char *at, *end;
    char separator; /* ',' or ';' when the line has one, else 0: blanks */
};

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

static struct cells cells_of(const char *line, size_t n) {
    struct cells c = {line, line + n, memchr(line, ',', n) != NULL ? ',' : memchr(line, ';', n) != NULL ? ';' : 0};
    while (c.end > c.at && is_blank(c.end[-1]))
        c.end--;
    if (c.separator != 0 && c.end > c.at && c.end[-1] == c.separator)
        c.end--; /* one behind the last */
    return c;
}

static bool next_cell(struct cells *c, const char **cell, size_t *n) {
    while (c->at < c->end && is_blank(*c->at))
        c->at++;
    if (c->at >= c->end)
        return false;
    const char *stop = c->at;
    while (stop < c->end && (c->separator != 0 ? *stop != c->separator : !is_blank(*stop)))
        stop++;
    *cell = c->at;
    *n = (size_t)(stop - c->at);
    c->at = stop + (c->separator != 0);
    while (*n > 0 && is_blank((*cell)[*n - 1]))
        --*n;
    return true;
}

static bool is_number(const char *s, size_t n) {
    double unused;
    return n > 0 && n < 64 && mp_parse_double(s, n, &unused);
}

/* What stands on a diagonal that was not measured. */
static bool is_gap(const char *s, size_t n) {
    static const char *const gaps[] = {"-", "x", "X", "nan", "NaN", "inf", "N/A"};
    bool is_one = n == 0;
    for (size_t i = 0; i < sizeof gaps / sizeof *gaps; i++)
        is_one = is_one || (strlen(gaps[i]) == n && memcmp(gaps[i], s, n) == 0);
    return is_one;
}

/* A line of numbers, or of one number and gaps. */
static bool is_row(const char *line, size_t n) {
    struct cells c = cells_of(line, n);
    const char *s;
    size_t k;
    uint32_t n_cells = 0, n_numbers = 0;
    while (next_cell(&c, &s, &k) && n_cells < 4) {
        n_cells++;
        n_numbers += is_number(s, k);
        if (!is_number(s, k) && !is_gap(s, k))
            return false;
    }
    return n_numbers > 0;
}

/* A unit in a line: "# bandwidth GB/s", "... Matrix (GB/s)"; the factor into bytes/s or ns, 0 = none. */
static double find_unit(const char *line, size_t n, bool *is_rate) {
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && strchr(" \t()[],;:#=", line[k]) == NULL)
            k++;
        const double rate = k > i && k - i < 8 ? topo_rate_unit(line + i, k - i) : 0;
        const double time = k > i && k - i < 8 && rate == 0 ? topo_time_unit(line + i, k - i) : 0;
        if (rate > 0 || time > 0) {
            *is_rate = rate > 0;
            return rate > 0 ? rate : time;
        }
        i = k > i ? k : i + 1;
    }
    return 0;
}

static bool has_word(const char *line, size_t n, const char *word) {
    const size_t k = strlen(word);
    for (size_t i = 0; i + k <= n; i++) {
        size_t same = 0;
        while (same < k && tolower((unsigned char)line[i + same]) == word[same])
            same++;
        if (same == k)
            return true;
    }
    return false;
}

static size_t skip_blanks(const char *line, size_t n) {
    size_t i = 0;
    while (i < n && is_blank(line[i]))
        i++;
    return i;
}

static bool starts(const char *line, size_t n, const char *with) {
    const size_t i = skip_blanks(line, n), k = strlen(with);
    return n - i >= k && memcmp(line + i, with, k) == 0;
}

static bool detect(const char *text, size_t size) {
    const char *cursor = text, *line;
    size_t n;
    bool is_p2p = false;
    if (size >= 6 && memcmp(text, MP_NPY_MAGIC, 6) == 0)
        return true;
    for (uint32_t i = 0; i < 1000 && mp_next_line_within(&cursor, text + size, MAX_LINE, &line, &n); i++) {
        if (n > MAX_LINE || skip_blanks(line, n) == n || starts(line, n, "#"))
            continue;
        is_p2p = is_p2p || has_word(line, n, "bandwidth");
        if (!is_p2p)
            return is_row(line, n);
        if (starts(line, n, "D\\D"))
            return true;
    }
    return false;
}

/* ---- text ---- */

struct block {
    double factor;
    bool is_rate, is_taken, has_index;
    uint32_t n_rows;
    uint64_t line; /* of the title */
};

struct text {
    const struct topo_source *in;
    struct measured *m;
    struct block block;
    uint64_t line;
    uint32_t n_ignored; /* blocks of a kind that was there already */
    size_t room;        /* rows allocated */
};

static enum mp_status fail(const struct text *x, const char *line, const char *at, struct mp_error *err,
                           const char *fmt, ...) MP_PRINTF(5, 6);
static enum mp_status fail(const struct text *x, const char *line, const char *at, struct mp_error *err,
                           const char *fmt, ...) {
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return mp_fail_at(err, MP_EINPUT, x->in->path, x->line, (uint64_t)(at - line) + 1, "%s", text);
}

static enum mp_status grow(double **a, uint32_t n, size_t rows, struct mp_error *err) {
    double *p = mp_realloc(*a, rows * n, sizeof **a);
    if (p == NULL)
        return mp_nomem(err, "reading a topology");
    *a = p;
    return MP_OK;
}

static enum mp_status end_block(struct text *x, struct mp_error *err) {
    const struct block *b = &x->block;
    const uint32_t n = x->m->n;
    if (b->is_taken && b->n_rows > 0 && b->n_rows != n)
        return mp_fail_at(
            err, MP_EINPUT, x->in->path, x->line, 0,
            "%u rows of %u numbers end here: a matrix has as many rows as columns (write a square matrix)", b->n_rows,
            n);
    x->block = (struct block){0};
    return MP_OK;
}

static enum mp_status read_title(struct text *x, const char *line, size_t n, struct mp_error *err) {
    bool is_rate;
    const double factor = find_unit(line, n, &is_rate);
    if (factor == 0)
        return MP_OK;
    enum mp_status status = end_block(x, err);
    if (status != MP_OK)
        return status;
    const bool is_there = is_rate ? x->m->rate != NULL : x->m->latency_ns != NULL;
    const bool is_wanted = !has_word(line, n, "disabled") && !has_word(line, n, "bidirectional");
    x->n_ignored += is_there || !is_wanted;
    x->block =
        (struct block){.factor = factor, .is_rate = is_rate, .is_taken = is_wanted && !is_there, .line = x->line};
    return MP_OK;
}

static enum mp_status read_row(struct text *x, const char *line, size_t n, struct mp_error *err) {
    enum mp_status status;
    struct block *b = &x->block;
    struct cells c = cells_of(line, n);
    double **values = b->is_rate ? &x->m->rate : &x->m->latency_ns;
    const char *s;
    size_t k;
    uint32_t column = 0, n_columns = 0;
    uint64_t index;
    char quoted[200];
    if (b->factor == 0)
        return fail(
            x, line, line, err,
            "no line above says the unit of these numbers (write \"# bandwidth GB/s\", or \"# latency us\", above)");
    for (struct cells count = c; next_cell(&count, &s, &k);)
        n_columns++;
    n_columns -= b->has_index && n_columns > 0;
    if (x->m->n == 0 && n_columns > MEASURED_MAX)
        return mp_fail_at(err, MP_ELIMIT, x->in->path, x->line, 0, "more than %d columns (write fewer GPUs)",
                          MEASURED_MAX);
    if (x->m->n == 0)
        x->m->n = n_columns;
    if (n_columns != x->m->n)
        return fail(x, line, line, err, "%u numbers in a row of a matrix of %u columns (write a square matrix)",
                    n_columns, x->m->n);
    if (b->n_rows == x->m->n)
        return fail(x, line, line, err, "one row more than the %u columns (write a square matrix)", x->m->n);
    if (b->n_rows == 0)
        x->room = 0;
    if (b->n_rows >= x->room) {
        x->room = x->room == 0 ? 8 : 2 * x->room;
        x->room = x->room < x->m->n ? x->room : x->m->n;
        MP_TRY(grow(values, x->m->n, x->room, err));
    }
    if (b->has_index && next_cell(&c, &s, &k) && (!mp_parse_u64(s, k, &index) || index != b->n_rows))
        return fail(x, line, s, err, "\"%s\" is not the number of this row (write %u)",
                    mp_quote(s, k, quoted, sizeof quoted), b->n_rows);
    for (; next_cell(&c, &s, &k); column++) {
        double v = 0;
        const bool is_self = column == b->n_rows;
        if (!is_self && (k >= 64 || !mp_parse_double(s, k, &v) || v <= 0))
            return fail(x, line, s, err, "\"%s\" from GPU %u to %u is not a number above 0 (write what was measured)",
                        mp_quote(s, k, quoted, sizeof quoted), b->n_rows, column);
        v *= b->factor;
        if (!is_self && (v > (b->is_rate ? (double)TOPO_RATE_MAX : (double)TOPO_TIME_MAX) || (b->is_rate && v < 1)))
            return fail(x, line, s, err, "\"%s\" from GPU %u to %u is out of range in this unit (look at the unit)",
                        mp_quote(s, k, quoted, sizeof quoted), b->n_rows, column);
        (*values)[(size_t)b->n_rows * x->m->n + column] = v;
    }
    b->n_rows++;
    status = MP_OK;
out:
    return status;
}

static enum mp_status read_text(struct text *x, struct mp_error *err) {
    enum mp_status status;
    const char *cursor = x->in->text, *line, *end = x->in->text + x->in->size;
    size_t n;
    for (x->line = 1; mp_next_line_within(&cursor, end, MAX_LINE, &line, &n); x->line++) {
        if (n > MAX_LINE) {
            status = mp_fail_at(err, MP_ELIMIT, x->in->path, x->line, 0,
                                "the line is longer than %d bytes (write fewer GPUs)", MAX_LINE);
            goto out;
        }
        if (skip_blanks(line, n) == n)
            continue;
        if (starts(line, n, "D\\D") || starts(line, n, "GPU")) {
            if (x->block.factor == 0) /* a table of something else */
                x->block.factor = 1;
            x->block.has_index = true;
        } else if (starts(line, n, "CPU")) {
            MP_TRY(end_block(x, err)); /* latencies of the host's side follow */
            x->block = (struct block){.factor = 1};
        } else if (!starts(line, n, "#") && is_row(line, n)) {
            /* Of a block that is not wanted, or in the text around the matrices of a tool. */
            if (x->block.factor > 0 && !x->block.is_taken)
                continue;
            MP_TRY(read_row(x, line, n, err));
        } else {
            MP_TRY(read_title(x, line, n, err));
        }
    }
    MP_TRY(end_block(x, err));
    if (x->m->rate == NULL)
        status = mp_fail_at(err, MP_EINPUT, x->in->path, 1, 0,
                            "there is no matrix of bandwidth (write \"# bandwidth GB/s\", then a row for each GPU)");
out:
    return status;
}

/* ---- .npy ---- */

/* A unit between dots, dashes or underscores of the file's name. */
static double unit_of_name(const char *path) {
    const char *slash = strrchr(path, '/');
    for (const char *s = slash != NULL ? slash + 1 : path; *s != '\0';) {
        const size_t n = strcspn(s, "._-");
        const double unit = n > 0 && memchr(s, '/', n) == NULL ? topo_rate_unit(s, n) : 0;
        if (unit > 0)
            return unit;
        s += n + (s[n] != '\0');
    }
    return 0;
}

static double npy_value(const struct mp_npy_header *h, const uint8_t *p) {
    uint64_t bits = 0;
    float f;
    double d;
    for (uint32_t i = 0; i < h->item_bytes; i++)
        bits |= (uint64_t)p[i] << (8 * i);
    if (h->is_float && h->item_bytes == 8) {
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    if (h->is_float) {
        const uint32_t half = (uint32_t)bits;
        memcpy(&f, &half, sizeof f);
        return f;
    }
    const uint32_t shift = 64 - 8 * h->item_bytes;
    return h->is_signed ? (double)((int64_t)(bits << shift) >> shift) : (double)bits;
}

static enum mp_status read_npy(struct text *x, struct mp_error *err) {
    enum mp_status status;
    const struct topo_source *in = x->in;
    const uint8_t *bytes = (const uint8_t *)in->text;
    struct mp_npy_header h;
    uint64_t n_header;
    const double unit = unit_of_name(in->path);
    MP_TRY(mp_npy_header_bytes(bytes, in->size < MP_NPY_PREFIX ? in->size : MP_NPY_PREFIX, in->path, 0,
                               &mp_limits_default, &n_header, err));
    if (n_header > in->size) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, in->size + 1, "the file ends in its header (copy it whole)");
        goto out;
    }
    MP_TRY(mp_npy_header_parse(&h, bytes, (size_t)n_header, true, in->path, 0, err));
    const bool has_latency = h.n_dims == 3;
    const uint64_t n = h.shape[has_latency];
    if (h.n_dims < 2 || h.n_dims > 3 || (has_latency && h.shape[0] != 2) || h.shape[has_latency + 1] != n || n == 0 ||
        n > MEASURED_MAX) {
        status =
            mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                       "the array is not [N, N] (bandwidth) or [2, N, N] (bandwidth, latency in us) with N in [1, %d] "
                       "(write one of these)",
                       MEASURED_MAX);
        goto out;
    }
    if (h.data_bytes > in->size - n_header) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, in->size + 1,
                            "the file ends before its numbers do (copy it whole)");
        goto out;
    }
    if (unit == 0) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                            "a .npy has no place for the unit (write it into the file's name: links.GBps.npy, or Gbps, "
                            "MBps)");
        goto out;
    }
    x->m->n = (uint32_t)n;
    for (uint64_t plane = 0; plane <= has_latency; plane++) {
        double **values = plane == 0 ? &x->m->rate : &x->m->latency_ns;
        const double factor = plane == 0 ? unit : 1e3, max = plane == 0 ? (double)TOPO_RATE_MAX : (double)TOPO_TIME_MAX;
        MP_TRY(grow(values, (uint32_t)n, (size_t)n, err));
        for (uint64_t i = 0; i < n; i++)
            for (uint64_t k = 0; k < n; k++) {
                const uint64_t planes = has_latency ? 2 : 1;
                const uint64_t at = h.is_fortran ? (k * n + i) * planes + plane : (plane * n + i) * n + k;
                const double v = npy_value(&h, bytes + n_header + at * h.item_bytes) * factor;
                if (i != k && !(v > 0 && v <= max && (plane == 1 || v >= 1))) {
                    status = mp_fail_at(err, MP_EINPUT, in->path, 0, n_header + at * h.item_bytes + 1,
                                        "%s from GPU %llu to %llu is not a measured one (write a number above 0)",
                                        plane == 0 ? "the bandwidth" : "the latency", (unsigned long long)i,
                                        (unsigned long long)k);
                    goto out;
                }
                (*values)[i * n + k] = v;
            }
    }
out:
    return status;
}

static enum mp_status read_matrix(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    struct measured m = {0};
    struct topo_draft *d = NULL;
    struct text x = {.in = in, .m = &m};
    const bool is_npy = in->size >= 6 && memcmp(in->text, MP_NPY_MAGIC, 6) == 0;
    MP_TRY(topo_draft_new(&d, in, "which GPUs these are", err));
    MP_TRY(is_npy ? read_npy(&x, err) : read_text(&x, err));
    MP_TRY(topo_draft_gpus(d, m.n, 1, err));
    topo_draft_say(d, "Read from a measured matrix of %u GPUs.", m.n);
    if (x.n_ignored > 0)
        topo_draft_say(
            d, "%u more matrices of the file are not used (of each kind the first, one direction, peer to peer).",
            x.n_ignored);
    MP_TRY(measured_fit(&m, d, err));
    (void)topo_draft_network(d);
    topo_draft_write(d, yaml);
out:
    mp_free(m.rate);
    mp_free(m.latency_ns);
    topo_draft_free(d);
    return status;
}

const struct topo_reader topo_reader_matrix = {
    .name = "bandwidth-matrix",
    .summary = "measured bandwidth (and latency) of all pairs: CSV, p2pBandwidthLatencyTest, .npy (needs :GPU)",
    .reference = "topologies/FORMAT.md, Other formats",
    .detect = detect,
    .read = read_matrix,
};
