/* YAML in: libyaml's events, behind our own limits.
 *
 * libyaml alone takes 35 s for 100 KB of "[" and any amount of memory for one long scalar. Three measures keep it
 * linear and small: the bytes are checked before it sees them (size, UTF-8, control characters, directives); its input
 * comes through read_bytes, which stops when too much was read since the last event (so one scalar, comment or run of
 * blanks cannot grow without bound); and depth and number of events are checked at each event, which bounds its
 * look-ahead (1,024 characters) in turn. Events are kept as 16-byte records in preorder, and become nodes only when the
 * whole document is good. */
#include "yaml_node.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum {
    SLACK_BYTES = 128 << 10
}; /* bytes between two events that no limit of scalars allows for: comments, blanks, libyaml's buffer */

/* One node in preorder; of a mapping, keys and values alternate. */
struct record {
    uint32_t text;   /* offset into texts; collections: none */
    uint32_t length; /* of the text, or number of children (a mapping counts pairs) */
    uint32_t line;
    uint32_t column : 27;
    uint32_t kind : 2;
    uint32_t is_quoted : 1;
};

struct parse {
    const struct mp_in *in;
    const struct mp_limits *limits;
    struct mp_error *err;
    yaml_parser_t yaml;
    size_t read, read_at_event; /* bytes given to libyaml, now and at the last event */
    size_t n_events;
    struct record *records;
    size_t n_records, records_size;
    char *texts;
    size_t n_texts, texts_size;
    uint32_t *open; /* records of the collections that are open */
    uint32_t *children;
    size_t n_open;
};

static enum mp_status fail_mark(struct parse *p, enum mp_status status, const yaml_mark_t *at, const char *message) {
    return mp_fail_at(p->err, status, p->in->path, at->line + 1, at->column + 1, "%s", message);
}

/* ---- before libyaml: the bytes ---- */

static enum mp_status fail_byte(struct parse *p, size_t at, const char *what) {
    uint64_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (p->in->data[i] == '\n') {
            line++;
            column = 1;
        } else if ((p->in->data[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    return mp_fail_at(p->err, MP_EINPUT, p->in->path, line, column, "%s", what);
}

/* Length of the valid UTF-8 sequence at s, 0 = none. */
static size_t utf8_length(const uint8_t *s, size_t n, uint32_t *code) {
    if (*s < 0x80) {
        *code = *s;
        return 1;
    }
    size_t length = *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : 2;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (*s < 0xc2 || *s > 0xf4 || n < length)
        return 0;
    uint32_t c = *s & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    *code = c;
    return c < least[length] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : length;
}

static enum mp_status check_bytes(struct parse *p) {
    const uint8_t *s = p->in->data;
    size_t n = p->in->size;
    if (n > p->limits->yaml_bytes || n > UINT32_MAX / 4)
        return mp_fail_at(p->err, MP_ELIMIT, p->in->path, 1, 1,
                          "%zu bytes are more than a YAML file may have, %zu (write a smaller file)", n,
                          p->limits->yaml_bytes);
    bool is_line_start = true;
    for (size_t i = 0; i < n;) {
        if (s[i] >= 0x20 && s[i] < 0x7f) {
            if (s[i] == '%' && is_line_start)
                return fail_byte(p, i, "directives are not accepted (remove the line that starts with %)");
            is_line_start = false;
            i++;
            continue;
        }
        uint32_t code;
        size_t length = utf8_length(s + i, n - i, &code);
        if (length == 0)
            return fail_byte(p, i, "this byte is not valid UTF-8 (save the file as UTF-8)");
        if (code == 0)
            return fail_byte(p, i, "NUL byte: this is not a text file (give a YAML file)");
        if (code == 0xfeff)
            return fail_byte(p, i, "byte order mark (save the file as UTF-8 without one)");
        if ((code < 0x20 && code != '\t' && code != '\n' && code != '\r') || (code >= 0x7f && code < 0xa0) ||
            code == 0x2028 || code == 0x2029 || code == 0xfffe || code == 0xffff)
            return fail_byte(p, i, "control character (remove it, or write it as an escape in double quotes)");
        is_line_start = code == '\n' || code == '\r';
        i += length;
    }
    return MP_OK;
}

/* ---- libyaml ---- */

static int read_bytes(void *data, unsigned char *buffer, size_t size, size_t *n) {
    struct parse *p = data;
    /* Ten bytes of input (\U0010ffff) can stand for four of text, never more than that. */
    if (p->read - p->read_at_event > p->limits->yaml_scalar * 4 + SLACK_BYTES) {
        *n = 0;
        return 0;
    }
    size_t left = p->in->size - p->read;
    *n = left < size ? left : size;
    if (*n > 0)
        memcpy(buffer, p->in->data + p->read, *n);
    p->read += *n;
    return 1;
}

static enum mp_status parser_error(struct parse *p) {
    yaml_parser_t *y = &p->yaml;
    char text[256];
    switch (y->error) {
    case YAML_MEMORY_ERROR:
        return mp_nomem(p->err, "reading YAML");
    case YAML_READER_ERROR:
        return fail_mark(p, MP_ELIMIT, &y->mark, "too many bytes without a value (shorten this text or comment)");
    default:
        snprintf(text, sizeof text, "not valid YAML: %s%s%s (see the YAML page of the manual, or quote the text)",
                 y->context != NULL ? y->context : "", y->context != NULL ? ", " : "",
                 y->problem != NULL ? y->problem : "unknown");
        return fail_mark(p, MP_EINPUT, &y->problem_mark, text);
    }
}

static enum mp_status add_record(struct parse *p, const yaml_event_t *e, enum mp_yaml_kind kind, const char *text,
                                 size_t n, bool is_quoted) {
    if (p->n_records == p->records_size) {
        size_t size = p->records_size + p->records_size / 2 + 64;
        if (size > p->limits->yaml_events)
            size = p->limits->yaml_events; /* each record had its event, so there is one to spare */
        struct record *grown = mp_realloc(p->records, size, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(p->err, "reading YAML");
        p->records = grown;
        p->records_size = size;
    }
    struct record r = {.text = (uint32_t)p->n_texts,
                       .length = (uint32_t)n,
                       .line = (uint32_t)e->start_mark.line + 1,
                       .column = ((uint32_t)e->start_mark.column + 1) & 0x7ffffffu,
                       .kind = (unsigned)kind & 3u,
                       .is_quoted = is_quoted};
    if (kind == MP_YAML_SCALAR) {
        if (p->texts_size - p->n_texts < n + 1) {
            size_t size = p->texts_size + p->texts_size / 2 + n + 512;
            char *grown = size > UINT32_MAX ? NULL : mp_realloc(p->texts, size, 1);
            if (grown == NULL)
                return mp_nomem(p->err, "reading YAML");
            p->texts = grown;
            p->texts_size = size;
        }
        memcpy(p->texts + p->n_texts, text, n);
        p->texts[p->n_texts + n] = '\0';
        p->n_texts += n + 1;
    }
    if (p->n_open > 0)
        p->children[p->n_open - 1]++;
    p->records[p->n_records++] = r;
    return MP_OK;
}

static enum mp_status open_collection(struct parse *p, const yaml_event_t *e, enum mp_yaml_kind kind) {
    char text[128];
    if (p->n_open > 0 && p->records[p->open[p->n_open - 1]].kind == MP_YAML_MAPPING &&
        p->children[p->n_open - 1] % 2 == 0)
        return fail_mark(p, MP_EINPUT, &e->start_mark,
                         "a list or mapping cannot be a key (write a word before the colon)");
    if (p->n_open >= p->limits->yaml_depth) {
        snprintf(text, sizeof text, "nested deeper than %u levels (write it flatter)", p->limits->yaml_depth);
        return fail_mark(p, MP_ELIMIT, &e->start_mark, text);
    }
    enum mp_status status = add_record(p, e, kind, NULL, 0, false);
    if (status != MP_OK)
        return status;
    p->open[p->n_open] = (uint32_t)p->n_records - 1;
    p->children[p->n_open++] = 0;
    return MP_OK;
}

static enum mp_status take_scalar(struct parse *p, const yaml_event_t *e) {
    char text[128];
    size_t n = e->data.scalar.length;
    if (n > p->limits->yaml_scalar) {
        snprintf(text, sizeof text, "a text of %zu bytes is longer than %zu (shorten it)", n, p->limits->yaml_scalar);
        return fail_mark(p, MP_ELIMIT, &e->start_mark, text);
    }
    const char *value = (const char *)e->data.scalar.value;
    if (memchr(value, '\0', n) != NULL)
        return fail_mark(p, MP_EINPUT, &e->start_mark, "a text may not contain \\0 (remove the escape)");
    return add_record(p, e, MP_YAML_SCALAR, value, n, e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE);
}

/* Handles one event; *is_done at the end of the stream. */
static enum mp_status take_event(struct parse *p, const yaml_event_t *e, bool *is_done) {
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor != NULL)
        return fail_mark(p, MP_EINPUT, &e->start_mark,
                         "anchors (&name) are not accepted (write the value out where it is used)");
    if (tag != NULL)
        return fail_mark(p, MP_EINPUT, &e->start_mark, "tags (!name) are not accepted (write the plain value)");
    if (++p->n_events > p->limits->yaml_events) {
        char text[128];
        snprintf(text, sizeof text, "more than %zu values and brackets (write a smaller file)", p->limits->yaml_events);
        return fail_mark(p, MP_ELIMIT, &e->start_mark, text);
    }
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return fail_mark(p, MP_EINPUT, &e->start_mark, "aliases (*name) are not accepted (write the value out)");
    case YAML_SCALAR_EVENT:
        return take_scalar(p, e);
    case YAML_SEQUENCE_START_EVENT:
        return open_collection(p, e, MP_YAML_SEQUENCE);
    case YAML_MAPPING_START_EVENT:
        return open_collection(p, e, MP_YAML_MAPPING);
    case YAML_SEQUENCE_END_EVENT:
        p->n_open--;
        p->records[p->open[p->n_open]].length = p->children[p->n_open];
        return MP_OK;
    case YAML_MAPPING_END_EVENT:
        p->n_open--;
        p->records[p->open[p->n_open]].length = p->children[p->n_open] / 2;
        return MP_OK;
    case YAML_DOCUMENT_START_EVENT:
        if (p->n_records > 0)
            return fail_mark(p, MP_EINPUT, &e->start_mark, "a second document (write one document per file)");
        return MP_OK;
    case YAML_STREAM_END_EVENT:
        *is_done = true;
        return MP_OK;
    default:
        return MP_OK;
    }
}

static enum mp_status read_events(struct parse *p) {
    bool is_done = false;
    while (!is_done) {
        yaml_event_t e;
        if (!yaml_parser_parse(&p->yaml, &e))
            return parser_error(p);
        p->read_at_event = p->read;
        enum mp_status status = take_event(p, &e, &is_done);
        yaml_event_delete(&e);
        if (status != MP_OK)
            return status;
    }
    if (p->n_records == 0)
        return mp_fail_at(p->err, MP_EINPUT, p->in->path, 1, 1,
                          "the file holds no values (write \"schema: ...\" first)");
    return MP_OK;
}

/* ---- after libyaml: records become nodes ---- */

static int compare_records(const struct parse *p, uint32_t a, uint32_t b) {
    const struct record *x = &p->records[a], *y = &p->records[b];
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    int c = memcmp(p->texts + x->text, p->texts + y->text, x->length);
    return c != 0 ? c : (a > b) - (a < b);
}

/* Sorts record numbers by key text, then position (bottom-up merge: no worst case, no allocation behind our back). */
static uint32_t *merge_sort(const struct parse *p, uint32_t *a, uint32_t *b, size_t n) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t middle = low + width < n ? low + width : n, high = low + 2 * width < n ? low + 2 * width : n;
            for (size_t i = low, j = middle, k = low; k < high; k++)
                b[k] = j >= high || (i < middle && compare_records(p, a[i], a[j]) < 0) ? a[i++] : a[j++];
        }
        uint32_t *swap = a;
        a = b;
        b = swap;
    }
    return a;
}

/* keys[n] are the records of one mapping's keys, ascending; scratch has room for n. The first repeated key is reported.
 */
static enum mp_status check_keys(struct parse *p, uint32_t *keys, uint32_t *scratch, size_t n) {
    uint32_t *sorted = merge_sort(p, keys, scratch, n), repeated = UINT32_MAX;
    for (size_t i = 1; i < n; i++) {
        const struct record *x = &p->records[sorted[i - 1]], *y = &p->records[sorted[i]];
        if (x->length == y->length && memcmp(p->texts + x->text, p->texts + y->text, x->length) == 0 &&
            sorted[i] < repeated)
            repeated = sorted[i];
    }
    if (repeated == UINT32_MAX)
        return MP_OK;
    const struct record *r = &p->records[repeated];
    char quoted[256];
    return mp_fail_at(p->err, MP_EINPUT, p->in->path, r->line, r->column, "the key \"%s\" is there twice (remove one)",
                      mp_quote(p->texts + r->text, r->length, quoted, sizeof quoted));
}

/* An open collection while nodes are built: its next child, and for mappings where its keys are listed. */
struct frame {
    struct mp_yaml *node;
    uint32_t next;
    uint32_t first_key;
};

static enum mp_status build_nodes(struct parse *p, struct mp_yaml *nodes, struct frame *frames, uint32_t *keys) {
    size_t n_nodes = 1, n_frames = 0, n_keys = 0;
    const char *key = NULL;
    uint32_t *scratch = keys + p->n_records;
    for (size_t i = 0; i < p->n_records; i++) {
        const struct record *r = &p->records[i];
        struct mp_yaml *n = &nodes[0];
        if (n_frames > 0) {
            struct frame *f = &frames[n_frames - 1];
            if (f->node->kind == MP_YAML_MAPPING && key == NULL) {
                keys[n_keys++] = (uint32_t)i;
                key = p->texts + r->text;
                continue;
            }
            n = &f->node->items[f->next++];
            n->key = f->node->kind == MP_YAML_MAPPING ? key : f->node->key;
            key = NULL;
        }
        n->kind = (enum mp_yaml_kind)r->kind;
        n->line = r->line;
        n->column = r->column;
        if (r->kind == MP_YAML_SCALAR) {
            n->text = p->texts + r->text;
            n->length = r->length;
            n->is_quoted = r->is_quoted;
        } else {
            n->n = r->length;
            n->items = nodes + n_nodes;
            n_nodes += n->n;
            frames[n_frames++] = (struct frame){.node = n, .first_key = (uint32_t)n_keys};
        }
        while (n_frames > 0 && frames[n_frames - 1].next == frames[n_frames - 1].node->n) {
            struct frame *f = &frames[--n_frames];
            enum mp_status status = check_keys(p, keys + f->first_key, scratch, n_keys - f->first_key);
            if (status != MP_OK)
                return status;
            n_keys = f->first_key;
        }
    }
    return MP_OK;
}

static enum mp_status make_document(struct parse *p, struct mp_yaml_doc **out) {
    enum mp_status status;
    struct yaml_document *d = mp_calloc(1, sizeof *d);
    struct mp_yaml *nodes = mp_calloc(p->n_records, sizeof *nodes);
    struct frame *frames = mp_calloc((size_t)p->limits->yaml_depth + 1, sizeof *frames);
    uint32_t *keys = mp_calloc(p->n_records, 2 * sizeof *keys);
    char *path = mp_strdup(p->in->path);
    struct mp_arena *arena = mp_arena_new();
    if (d == NULL || nodes == NULL || frames == NULL || keys == NULL || path == NULL || arena == NULL) {
        status = mp_nomem(p->err, "reading YAML");
        goto out;
    }
    MP_TRY(build_nodes(p, nodes, frames, keys));
    d->doc = (struct mp_yaml_doc){.path = path, .root = nodes, .n_events = p->n_events, .arena = arena};
    d->nodes = nodes;
    d->texts = p->texts;
    d->path = path;
    p->texts = NULL;
    *out = &d->doc;
out:
    mp_free(frames);
    mp_free(keys);
    if (status != MP_OK) {
        mp_free(d);
        mp_free(nodes);
        mp_free(path);
        mp_arena_free(arena);
    }
    return status;
}

enum mp_status mp_yaml_parse(struct mp_yaml_doc **out, const struct mp_in *in, const struct mp_limits *limits,
                             struct mp_error *err) {
    enum mp_status status;
    struct parse p = {.in = in, .limits = limits != NULL ? limits : &mp_limits_default, .err = err};
    bool has_parser = false;
    *out = NULL;
    MP_TRY(check_bytes(&p));
    p.open = mp_calloc((size_t)p.limits->yaml_depth + 1, sizeof *p.open);
    p.children = mp_calloc((size_t)p.limits->yaml_depth + 1, sizeof *p.children);
    has_parser = p.open != NULL && p.children != NULL && yaml_parser_initialize(&p.yaml) == 1;
    if (!has_parser) {
        status = mp_nomem(err, "reading YAML");
        goto out;
    }
    yaml_parser_set_encoding(&p.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input(&p.yaml, read_bytes, &p);
    MP_TRY(read_events(&p));
    MP_TRY(make_document(&p, out));
out:
    if (has_parser)
        yaml_parser_delete(&p.yaml);
    mp_free(p.open);
    mp_free(p.children);
    mp_free(p.records);
    mp_free(p.texts);
    return status;
}

void mp_yaml_free(struct mp_yaml_doc *doc) {
    if (doc == NULL)
        return;
    struct yaml_document *d = (struct yaml_document *)doc;
    mp_arena_free(d->doc.arena);
    mp_free(d->nodes);
    mp_free(d->texts);
    mp_free(d->path);
    mp_free(d);
}
