/* Reading the text of `nvidia-smi topo -m` as people paste it: colours, tabs or blanks, rows cut off, lines around it.
 * The matrix is symmetric, so that a cell is read from either place; both places must agree. */
#include "topo_smi.h"
#include <moeplan/base.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LINE = 16384, MAX_TOKENS = SMI_MAX_DEVICES + 32 };

/* A line without its colours, cut into tokens. */
struct tokens {
    char text[MAX_LINE];
    uint16_t column[MAX_LINE]; /* of each byte of text in the line */
    uint32_t n;
    struct {
        uint32_t at, length, column;
    } token[MAX_TOKENS];
    bool is_whole; /* false: too long, or more tokens than fit */
};

/* The bytes of an escape sequence at s: ESC [ ... letter, ESC ( B; also "[4m" whose ESC was lost in pasting. */
static size_t escape_length(const char *s, size_t n) {
    size_t i = 0;
    const bool has_escape = s[0] == '\x1b';
    i += has_escape;
    if (has_escape && n >= 3 && s[1] == '(')
        return 3;
    if (i >= n || s[i] != '[')
        return has_escape ? 1 : 0;
    for (i++; i < n && ((s[i] >= '0' && s[i] <= '9') || s[i] == ';' || s[i] == '?');)
        i++;
    if (i < n && (s[i] == 'm' || (has_escape && s[i] >= '@' && s[i] <= '~')))
        return i + 1;
    return has_escape ? i : 0;
}

static void split(struct tokens *t, const char *line, size_t n) {
    size_t used = 0;
    t->n = 0;
    t->is_whole = n < MAX_LINE;
    n = t->is_whole ? n : MAX_LINE - 1;
    for (size_t i = 0; i < n;) {
        const size_t skipped = escape_length(line + i, n - i);
        if (skipped > 0) {
            i += skipped;
            continue;
        }
        /* A no-break space, as web pages have it, or a byte order mark. */
        const bool is_wide_blank = n - i >= 2 && memcmp(line + i, "\xc2\xa0", 2) == 0;
        const bool is_mark = n - i >= 3 && memcmp(line + i, "\xef\xbb\xbf", 3) == 0;
        t->text[used] = is_wide_blank || is_mark ? ' ' : line[i];
        t->column[used++] = (uint16_t)(i + 1);
        i += is_mark ? 3 : is_wide_blank ? 2 : 1;
    }
    for (size_t i = 0; i < used;) {
        if (t->text[i] == ' ' || t->text[i] == '\t' || t->text[i] == '\r') {
            i++;
            continue;
        }
        size_t end = i;
        while (end < used && t->text[end] != ' ' && t->text[end] != '\t' && t->text[end] != '\r')
            end++;
        if (t->n == MAX_TOKENS) {
            t->is_whole = false;
            return;
        }
        t->token[t->n].at = (uint32_t)i;
        t->token[t->n].length = (uint32_t)(end - i);
        t->token[t->n++].column = t->column[i];
        i = end;
    }
}

static const char *token(const struct tokens *t, uint32_t i) { return t->text + t->token[i].at; }

static bool is_token(const struct tokens *t, uint32_t i, const char *s) {
    return i < t->n && t->token[i].length == strlen(s) && memcmp(token(t, i), s, strlen(s)) == 0;
}

static bool is_gpu_name(const char *s, size_t n) {
    uint64_t number;
    return n > 3 && memcmp(s, "GPU", 3) == 0 && mp_parse_u64(s + 3, n - 3, &number);
}

/* 0 = not a class. SOC is what old drivers called SYS. */
static uint32_t read_class(const char *s, size_t n) {
    static const char *const names[] = {"PIX", "PXB", "PHB", "NODE", "SYS", "X"};
    uint64_t lanes;
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0)
            return i + 1;
    if (n == 3 && memcmp(s, "SOC", 3) == 0)
        return SMI_SYS;
    if (n > 2 && memcmp(s, "NV", 2) == 0 && mp_parse_u64(s + 2, n - 2, &lanes) && lanes > 0 && lanes <= 1024)
        return SMI_NV + (uint32_t)lanes;
    return 0;
}

const char *smi_class_name(uint32_t cell) {
    static const char *const names[] = {"nothing", "PIX", "PXB", "PHB", "NODE", "SYS", "X"};
    return cell < sizeof names / sizeof *names ? names[cell] : "NV";
}

/* "NV18" or "PIX" into buf. */
static const char *cell_text(uint32_t cell, char buf[16]) {
    if (cell > SMI_NV)
        snprintf(buf, 16, "NV%u", cell - SMI_NV);
    else
        snprintf(buf, 16, "%s", smi_class_name(cell));
    return buf;
}

/* The line of column names: GPUs first, and no class behind the first. */
static bool is_header(const struct tokens *t) {
    return t->n > 0 && is_gpu_name(token(t, 0), t->token[0].length) &&
           (t->n == 1 || read_class(token(t, 1), t->token[1].length) == 0);
}

/* Where a row of the matrix starts: its GPU with links behind it, one of them X. MP_NONE: the line is none. */
static uint32_t row_start(const struct tokens *t) {
    for (uint32_t i = 0; i + 1 < t->n; i++) {
        if (!is_gpu_name(token(t, i), t->token[i].length) || read_class(token(t, i + 1), t->token[i + 1].length) == 0)
            continue;
        for (uint32_t k = i + 1; k < t->n; k++)
            if (is_token(t, k, "X"))
                return i;
        return MP_NONE;
    }
    return MP_NONE;
}

bool smi_detect(const char *text, size_t size) {
    const char *cursor = text, *line, *end = text + size;
    size_t n;
    struct tokens *t = mp_calloc(1, sizeof *t);
    bool is_found = false;
    /* The header stands near the start; other formats have no such line. */
    for (uint32_t i = 0; t != NULL && i < 1000 && !is_found && mp_next_line(&cursor, end, &line, &n); i++) {
        if (n >= MAX_LINE || memmem(line, n, "GPU", 3) == NULL)
            continue;
        split(t, line, n);
        /* A row without a header, or behind a prefix, is refused with what is missing. */
        is_found = t->n > 1 && token(t, 0)[0] != '#' && (is_header(t) || row_start(t) != MP_NONE);
    }
    mp_free(t);
    return is_found;
}

/* ---- comment lines ---- */

/* "# moeplan: SYS 10 GB/s"; other comments say nothing to us. */
static enum mp_status read_comment(struct smi *m, const struct tokens *t, uint64_t line, struct mp_arena *arena,
                                   struct mp_error *err) {
    static const char *const names[SMI_N_RATES] = {"NV", "PIX", "PXB", "PHB", "NODE", "SYS", "NIC"};
    uint32_t i = is_token(t, 0, "#moeplan:") ? 1 : is_token(t, 0, "#") && is_token(t, 1, "moeplan:") ? 2 : 0;
    if (i == 0)
        return MP_OK;
    char quoted[200];
    uint32_t which = 0;
    while (which < SMI_N_RATES && !is_token(t, i, names[which]))
        which++;
    if (which == SMI_N_RATES || t->n < i + 2)
        return mp_fail_at(
            err, MP_EINPUT, m->in->path, line, t->token[i < t->n ? i : i - 1].column,
            "\"%s\" is not a link whose rate can be given (write for instance \"# moeplan: SYS 10 GB/s\"; "
            "NV for one lane, PIX, PXB, PHB, NODE, SYS, NIC)",
            i < t->n ? mp_quote(token(t, i), t->token[i].length, quoted, sizeof quoted) : "");
    const uint32_t first = t->token[i + 1].at, end = t->token[t->n - 1].at + t->token[t->n - 1].length;
    const struct mp_yaml_doc d = {.path = m->in->path};
    const struct mp_yaml node = {.kind = MP_YAML_SCALAR,
                                 .line = (uint32_t)line,
                                 .column = t->token[i + 1].column,
                                 .key = names[which],
                                 .length = end - first,
                                 .text = mp_arena_strndup(arena, t->text + first, end - first)};
    if (node.text == NULL)
        return mp_nomem(err, "reading a topology");
    return mp_yaml_quantity(&d, &node, "bytes/s", 1, TOPO_RATE_MAX, &m->rates[which], err);
}

/* ---- header and rows ---- */

static enum mp_status read_header(struct smi *m, const struct tokens *t, struct mp_arena *arena, struct mp_error *err) {
    char quoted[200];
    while (m->n < t->n && !is_token(t, m->n, "CPU") && !is_token(t, m->n, "NUMA") && !is_token(t, m->n, "GPU"))
        m->n++;
    if (!t->is_whole || m->n > SMI_MAX_DEVICES)
        return mp_fail_at(err, MP_ELIMIT, m->in->path, m->header_line, 1, "more than %u devices (paste one host)",
                          (uint32_t)SMI_MAX_DEVICES);
    m->names = mp_arena_alloc(arena, m->n, sizeof *m->names);
    m->legend = mp_arena_alloc(arena, m->n, sizeof *m->legend);
    m->gpus = mp_arena_alloc(arena, m->n, sizeof *m->gpus);
    m->nics = mp_arena_alloc(arena, m->n, sizeof *m->nics);
    m->row_line = mp_arena_alloc(arena, m->n, sizeof *m->row_line);
    m->cells = mp_arena_alloc(arena, (size_t)m->n * m->n, sizeof *m->cells);
    if (m->names == NULL || m->legend == NULL || m->gpus == NULL || m->nics == NULL || m->row_line == NULL ||
        m->cells == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t i = 0; i < m->n; i++) {
        const char *name = token(t, i);
        const size_t n = t->token[i].length;
        if (n >= SMI_NAME || !mp_is_text(name, n) || read_class(name, n) != 0)
            return mp_fail_at(err, MP_EINPUT, m->in->path, m->header_line, t->token[i].column,
                              "\"%s\" is not the name of a device (write GPU0, GPU1, ..., then the NICs)",
                              mp_quote(name, n, quoted, sizeof quoted));
        memcpy(m->names[i], name, n);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(m->names[k], m->names[i]) == 0)
                return mp_fail_at(err, MP_EINPUT, m->in->path, m->header_line, t->token[i].column,
                                  "two columns are called %s (paste the header whole)", m->names[i]);
        if (is_gpu_name(name, n))
            m->gpus[m->n_gpus++] = i;
        else
            m->nics[m->n_nics++] = i;
    }
    return MP_OK;
}

static enum mp_status read_row(struct smi *m, const struct tokens *t, uint32_t row, uint64_t line,
                               struct mp_error *err) {
    char quoted[200], here[16], there[16];
    if (m->row_line[row] != 0)
        return mp_fail_at(err, MP_EINPUT, m->in->path, line, t->token[0].column,
                          "%s has a row already, in line %u (remove one)", m->names[row], m->row_line[row]);
    m->row_line[row] = (uint32_t)line;
    for (uint32_t k = 0; k < m->n && k + 1 < t->n; k++) {
        const char *s = token(t, k + 1);
        const size_t n = t->token[k + 1].length;
        const uint32_t column = t->token[k + 1].column, cell = read_class(s, n), mirror = smi_cell(m, k, row);
        const bool is_last = k + 2 == t->n && k + 1 < m->n;
        /* Cut inside its last cell: the start of what the other row has. */
        if (is_last && mirror != 0 && cell != mirror && strlen(cell_text(mirror, there)) > n &&
            memcmp(there, s, n) == 0)
            break;
        if (cell == 0 && is_last && n < 4 && k + 1 < m->n)
            break; /* cut inside a cell that is not known yet: as missing */
        if (cell == 0)
            return mp_fail_at(err, MP_EINPUT, m->in->path, line, column,
                              "%s to %s: \"%s\" is not a link (write X, NV and a number, PIX, PXB, PHB, NODE or SYS)",
                              m->names[row], m->names[k], mp_quote(s, n, quoted, sizeof quoted));
        if ((cell == SMI_SELF) != (k == row))
            return mp_fail_at(err, MP_EINPUT, m->in->path, line, column,
                              "%s to %s is %s: the row does not fit the header (paste both whole)", m->names[row],
                              m->names[k], cell_text(cell, here));
        if (mirror != 0 && mirror != cell)
            return mp_fail_at(err, MP_EINPUT, m->in->path, line, column,
                              "%s to %s is %s here and %s in line %u (paste the matrix as it was printed)",
                              m->names[row], m->names[k], cell_text(cell, here), cell_text(mirror, there),
                              m->row_line[k]);
        m->cells[(size_t)row * m->n + k] = (uint16_t)cell;
    }
    return MP_OK;
}

static uint32_t find_device(const struct smi *m, const char *s, size_t n) {
    for (uint32_t i = 0; i < m->n; i++)
        if (strlen(m->names[i]) == n && memcmp(m->names[i], s, n) == 0)
            return i;
    return MP_NONE;
}

/* "NIC0: mlx5_0" of the NIC legend. */
static void read_legend(struct smi *m, const struct tokens *t) {
    const uint32_t n = t->token[0].length;
    const uint32_t device = n > 1 && token(t, 0)[n - 1] == ':' ? find_device(m, token(t, 0), n - 1) : MP_NONE;
    if (device == MP_NONE || t->n < 2 || t->token[1].length >= SMI_NAME || !mp_is_text(token(t, 1), t->token[1].length))
        return;
    memcpy(m->legend[device], token(t, 1), t->token[1].length);
    m->legend[device][t->token[1].length] = '\0';
}

static enum mp_status read_line(struct smi *m, const struct tokens *t, uint64_t line, struct mp_error *err) {
    const char *s = token(t, 0);
    const size_t n = t->token[0].length;
    const uint32_t device = find_device(m, s, n);
    if (is_header(t) && t->n > 1)
        return mp_fail_at(
            err, MP_EINPUT, m->in->path, line, t->token[0].column,
            "a second header: the matrix was folded, or there are two (paste one matrix, unfolded; several hosts "
            "alike are 4xFILE)");
    if (device != MP_NONE && t->n > 1)
        return read_row(m, t, device, line, err);
    if (is_gpu_name(s, n) || (n > 3 && memcmp(s, "NIC", 3) == 0 && t->n > 1 && n < 7))
        return device != MP_NONE
                   ? MP_OK
                   : mp_fail_at(err, MP_EINPUT, m->in->path, line, t->token[0].column,
                                "%.*s has a row but no column: the header in line %llu is cut off (paste it whole)",
                                (int)n, s, (unsigned long long)m->header_line);
    if (read_class(s, n) != 0 && read_class(s, n) != SMI_SELF)
        return mp_fail_at(err, MP_EINPUT, m->in->path, line, t->token[0].column,
                          "the line starts with a link, not with a device: the text was folded (paste it unfolded)");
    return MP_OK; /* a prompt, a fence, what else stands around */
}

enum mp_status smi_missing(const struct smi *m, uint32_t row, uint32_t column, struct mp_error *err) {
    const uint32_t line = m->row_line[row] != 0 ? m->row_line[row] : m->row_line[column];
    return mp_fail_at(err, MP_EINPUT, m->in->path, line != 0 ? line : m->header_line, 0,
                      "what links %s and %s is cut off: %s (paste the whole matrix)", m->names[row], m->names[column],
                      m->row_line[row] == 0 && m->row_line[column] == 0 ? "neither has a row"
                      : m->row_line[row] != 0 && m->row_line[column] != 0
                          ? "both rows end before it"
                          : "this row ends before it, and the other has none");
}

enum mp_status smi_parse(struct smi *m, const struct topo_source *in, struct mp_arena *arena, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const char *cursor = in->text, *line, *end = in->text + in->size;
    size_t n;
    bool in_legend = false, is_prefixed = false;
    uint32_t start = MP_NONE, row_column = 0;
    uint64_t row_line = 0;
    *m = (struct smi){.in = in};
    struct tokens *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint64_t number = 1; mp_next_line(&cursor, end, &line, &n); number++) {
        split(t, line, n);
        if (t->n == 0)
            continue;
        if (token(t, 0)[0] == '#') {
            MP_TRY(read_comment(m, t, number, arena, err));
        } else if (m->header_line == 0) {
            if (!is_header(t)) {
                if (row_line == 0 && (start = row_start(t)) != MP_NONE) {
                    row_line = number;
                    row_column = t->token[start].column;
                    is_prefixed = start > 0;
                }
                continue;
            }
            m->header_line = number;
            MP_TRY(read_header(m, t, arena, err));
        } else if (is_token(t, 0, "Legend:") || (is_token(t, 0, "NIC") && is_token(t, 1, "Legend:"))) {
            in_legend = true;
        } else if (in_legend && !is_header(t)) {
            read_legend(m, t);
        } else {
            MP_TRY(read_line(m, t, number, err));
        }
    }
    if (m->header_line == 0 && row_line != 0) {
        status = is_prefixed
                     ? mp_fail_at(err, MP_EINPUT, in->path, row_line, row_column,
                                  "this looks like nvidia-smi topo -m with something in front of its lines (remove "
                                  "the quote marks or time stamps, and paste the header GPU0 GPU1 ... too)")
                     : mp_fail_at(err, MP_EINPUT, in->path, row_line, 0,
                                  "this looks like nvidia-smi topo -m without its first line (paste the header GPU0 "
                                  "GPU1 ... too)");
        goto out;
    }
    if (m->header_line == 0) {
        status =
            mp_fail_at(err, MP_EINPUT, in->path, 1, 0, "no line names the GPUs (paste the header GPU0 GPU1 ... too)");
        goto out;
    }
    for (uint32_t i = 0; i < m->n; i++)
        for (uint32_t k = 0; k < i; k++) {
            uint16_t *a = &m->cells[(size_t)i * m->n + k], *b = &m->cells[(size_t)k * m->n + i];
            *a = *b = *a != 0 ? *a : *b;
        }
out:
    mp_free(t);
    return status;
}
