/* XML in: expat's events as a tree. expat itself takes a million levels of nesting and expands entities; here each
 * limit is checked in the first handler that can see it. */
#include <expat.h>
#include <moeplan/base.h>
#include <moeplan/xml.h>
#include <stdio.h>
#include <string.h>

enum { N_NAME_SLOTS = 4 * MP_XML_MAX_NAMES };

struct parser {
    XML_Parser expat;
    const char *path, *text;
    size_t size;
    struct mp_arena *arena;
    struct mp_error *err;
    struct mp_xml *root, *open[MP_XML_MAX_DEPTH], *last[MP_XML_MAX_DEPTH]; /* last child of each open element */
    uint32_t depth, n_elements, n_attributes, n_names;
    const char *names[N_NAME_SLOTS]; /* each once; by hash, in the next free slot */
    char *pending;                   /* characters of the innermost element since its last tag */
    size_t n_pending, pending_size;
    enum mp_status status; /* the first failure; nothing is read after it */
};

static void *xml_malloc(size_t n) { return mp_realloc(NULL, n > 0 ? n : 1, 1); }
static void *xml_realloc(void *p, size_t n) { return mp_realloc(p, n > 0 ? n : 1, 1); }
static const XML_Memory_Handling_Suite memory = {xml_malloc, xml_realloc, mp_free};

static void stop(struct parser *p, enum mp_status status) {
    if (p->status == MP_OK)
        p->status = status;
    (void)XML_StopParser(p->expat, XML_FALSE);
}

static uint32_t position(uint64_t n) { return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX; }
static uint32_t line_now(const struct parser *p) { return position(XML_GetCurrentLineNumber(p->expat)); }
static uint32_t column_now(const struct parser *p) { return position(XML_GetCurrentColumnNumber(p->expat) + 1); }

static void refuse(struct parser *p, enum mp_status status, const char *message) {
    if (p->status == MP_OK)
        stop(p, mp_fail_at(p->err, status, p->path, line_now(p), column_now(p), "%s", message));
}

static void refuse_limit(struct parser *p, const char *what, uint32_t limit) {
    if (p->status == MP_OK)
        stop(p, mp_fail_at(p->err, MP_ELIMIT, p->path, line_now(p), column_now(p), "more than %u %s", limit, what));
}

/* The characters so far belong to the innermost element, when it has no child yet. */
static bool flush(struct parser *p) {
    if (p->n_pending == 0 || p->depth == 0)
        return true;
    struct mp_xml *e = p->open[p->depth - 1];
    const size_t n = p->n_pending;
    p->n_pending = 0;
    if (e->first != NULL || p->pending[strspn(p->pending, " \t\r\n")] == '\0')
        return true; /* indentation */
    e->text = mp_arena_strndup(p->arena, p->pending, n);
    if (e->text == NULL)
        stop(p, mp_nomem(p->err, "reading XML"));
    return e->text != NULL;
}

/* An "&" that starts none of the entities of XML itself: expat leaves out others silently where a DTD might have
 * declared them. */
static bool is_known_entity(const char *s, size_t n) {
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;", "&#"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (n >= strlen(known[i]) && memcmp(s, known[i], strlen(known[i])) == 0)
            return true;
    return false;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Walks the text of a start tag, which expat has found well-formed, for the places of its n attributes. */
static bool place_attributes(struct parser *p, struct mp_xml_attribute *a, uint32_t n) {
    const long long at = XML_GetCurrentByteIndex(p->expat);
    const int length = XML_GetCurrentByteCount(p->expat);
    uint32_t line = line_now(p), column = column_now(p), k = 0;
    char quote = '\0';
    bool in_name = false, is_tag_name = true;
    if (at < 0 || length < 0 || (size_t)at > p->size || p->size - (size_t)at < (size_t)length)
        return true;
    const char *s = p->text + at;
    for (int i = 0; i < length; i++) {
        const char c = s[i];
        if (quote != '\0') {
            if (c == '&' && !is_known_entity(s + i, (size_t)(length - i))) {
                stop(p, mp_fail_at(p->err, MP_EINPUT, p->path, line, column,
                                   "an entity that the file would have to declare (write the characters themselves)"));
                return false;
            }
            quote = c == quote ? '\0' : quote;
        } else if (c == '"' || c == '\'') {
            quote = c;
            in_name = false;
        } else if (is_blank(c)) {
            is_tag_name = is_tag_name && i == 0;
            in_name = false;
        } else if (c == '=' || c == '/' || c == '>') {
            in_name = false;
            is_tag_name = false;
        } else if (!is_tag_name && !in_name && k < n) {
            in_name = true;
            a[k].line = line;
            a[k++].column = column;
        }
        if (c == '\n') {
            line++;
            column = 1;
        } else
            column += ((unsigned char)c & 0xc0) != 0x80;
    }
    return true;
}

/* The name, in the arena; expat keeps each different one too, with some 100 bytes, until the end. NULL = stopped. */
static const char *keep_name(struct parser *p, const char *name) {
    uint32_t slot = 2166136261u;
    for (const char *c = name; *c != '\0'; c++)
        slot = (slot ^ (unsigned char)*c) * 16777619u;
    for (slot %= N_NAME_SLOTS; p->names[slot] != NULL; slot = (slot + 1) % N_NAME_SLOTS)
        if (strcmp(p->names[slot], name) == 0)
            return p->names[slot];
    if (p->n_names == MP_XML_MAX_NAMES) {
        refuse_limit(p, "different names", MP_XML_MAX_NAMES);
        return NULL;
    }
    p->n_names++;
    p->names[slot] = mp_arena_strdup(p->arena, name);
    if (p->names[slot] == NULL)
        stop(p, mp_nomem(p->err, "reading XML"));
    return p->names[slot];
}

static void XMLCALL on_start(void *ctx, const XML_Char *name, const XML_Char **attributes) {
    struct parser *p = ctx;
    uint32_t n = 0;
    if (p->status != MP_OK || !flush(p))
        return;
    while (attributes[2 * (size_t)n] != NULL)
        n++;
    if (p->depth == MP_XML_MAX_DEPTH) {
        refuse_limit(p, "levels of nesting", MP_XML_MAX_DEPTH);
        return;
    }
    if (p->n_elements == MP_XML_MAX_ELEMENTS) {
        refuse_limit(p, "elements", MP_XML_MAX_ELEMENTS);
        return;
    }
    if (n > MP_XML_MAX_ATTRIBUTES - p->n_attributes) {
        refuse_limit(p, "attributes", MP_XML_MAX_ATTRIBUTES);
        return;
    }
    p->n_elements++;
    p->n_attributes += n;
    struct mp_xml *e = mp_arena_alloc(p->arena, 1, sizeof *e);
    struct mp_xml_attribute *a = mp_arena_alloc(p->arena, n, sizeof *a);
    bool is_whole = e != NULL && a != NULL;
    if (is_whole) {
        *e = (struct mp_xml){.name = keep_name(p, name),
                             .line = line_now(p),
                             .column = column_now(p),
                             .n_attributes = n,
                             .attributes = a,
                             .text = ""};
        is_whole = e->name != NULL;
    }
    for (uint32_t i = 0; i < n && is_whole; i++) {
        a[i].name = keep_name(p, attributes[2 * (size_t)i]);
        a[i].value = mp_arena_strdup(p->arena, attributes[2 * (size_t)i + 1]);
        is_whole = a[i].name != NULL && a[i].value != NULL;
    }
    if (!is_whole) {
        stop(p, p->status != MP_OK ? p->status : mp_nomem(p->err, "reading XML"));
        return;
    }
    if (!place_attributes(p, a, n))
        return;
    if (p->depth == 0)
        p->root = e;
    else {
        e->parent = p->open[p->depth - 1];
        if (p->last[p->depth - 1] != NULL)
            p->last[p->depth - 1]->next = e;
        else
            p->open[p->depth - 1]->first = e;
        p->last[p->depth - 1] = e;
    }
    p->open[p->depth] = e;
    p->last[p->depth++] = NULL;
}

static void XMLCALL on_end(void *ctx, const XML_Char *name) {
    struct parser *p = ctx;
    (void)name;
    if (p->status == MP_OK && flush(p) && p->depth > 0)
        p->depth--;
}

static void XMLCALL on_characters(void *ctx, const XML_Char *s, int length) {
    struct parser *p = ctx;
    const size_t n = (size_t)length;
    if (p->status != MP_OK || p->depth == 0)
        return;
    if (p->pending_size - p->n_pending <= n) {
        const size_t size = 2 * (p->n_pending + n) + 64;
        char *grown = mp_realloc(p->pending, size, 1);
        if (grown == NULL) {
            stop(p, mp_nomem(p->err, "reading XML"));
            return;
        }
        p->pending = grown;
        p->pending_size = size;
    }
    memcpy(p->pending + p->n_pending, s, n);
    p->n_pending += n;
    p->pending[p->n_pending] = '\0';
}

static void XMLCALL on_doctype(void *ctx, const XML_Char *name, const XML_Char *system, const XML_Char *public_id,
                               int has_internal_subset) {
    (void)name;
    (void)system;
    (void)public_id;
    if (has_internal_subset)
        refuse(ctx, MP_EINPUT, "a DOCTYPE with declarations inside is not read (remove what stands in its brackets)");
}

static void XMLCALL on_entity(void *ctx, const XML_Char *name, int is_parameter, const XML_Char *value, int length,
                              const XML_Char *base, const XML_Char *system, const XML_Char *public_id,
                              const XML_Char *notation) {
    (void)name;
    (void)is_parameter;
    (void)value;
    (void)length;
    (void)base;
    (void)system;
    (void)public_id;
    (void)notation;
    refuse(ctx, MP_EINPUT, "an entity declaration is not read (write the characters themselves)");
}

static void XMLCALL on_skipped(void *ctx, const XML_Char *name, int is_parameter) {
    (void)name;
    (void)is_parameter;
    refuse(ctx, MP_EINPUT, "an entity that the file would have to declare (write the characters themselves)");
}

static bool starts(const char *s, const char *end, const char *with) {
    const size_t n = strlen(with);
    return (size_t)(end - s) >= n && memcmp(s, with, n) == 0;
}

/* Behind the next `mark`, or the end. */
static const char *behind(const char *s, const char *end, const char *mark) {
    const char *at = s < end ? memmem(s, (size_t)(end - s), mark, strlen(mark)) : NULL;
    return at != NULL ? at + strlen(mark) : end;
}

/* expat reads all attributes of an element, 50 bytes of memory for each, before it tells of the first: they are counted
 * here. What is not well-formed is left to expat. */
static enum mp_status check_tags(const char *path, const char *text, size_t size, struct mp_error *err) {
    const char *end = text + size, *s = text;
    while (s < end && (s = memchr(s, '<', (size_t)(end - s))) != NULL) {
        const char *start = s++;
        if (starts(start, end, "<!--"))
            s = behind(start + 4, end, "-->");
        else if (starts(start, end, "<![CDATA["))
            s = behind(start, end, "]]>");
        else if (starts(start, end, "<?"))
            s = behind(start, end, "?>");
        else {
            uint32_t n = 0;
            for (char quote = '\0'; s < end && (quote != '\0' || *s != '>'); s++) {
                if (quote != '\0')
                    quote = *s == quote ? '\0' : quote;
                else if (*s == '"' || *s == '\'') {
                    quote = *s;
                    n++;
                }
            }
            if (n <= MP_XML_MAX_OF_ELEMENT)
                continue;
            uint64_t line = 1, column = 1;
            for (const char *c = text; c < start; c++) {
                column = *c == '\n' ? 1 : column + (((unsigned char)*c & 0xc0) != 0x80);
                line += *c == '\n';
            }
            return mp_fail_at(err, MP_ELIMIT, path, line, column, "more than %u attributes of one element",
                              MP_XML_MAX_OF_ELEMENT);
        }
    }
    return MP_OK;
}

static enum mp_status fail_syntax(struct parser *p) {
    const enum XML_Error code = XML_GetErrorCode(p->expat);
    const uint32_t line = line_now(p), column = column_now(p);
    char quoted[200];
    if (code == XML_ERROR_NO_MEMORY)
        return mp_nomem(p->err, "reading XML");
    if (p->depth > 0 && (code == XML_ERROR_TAG_MISMATCH || code == XML_ERROR_NO_ELEMENTS ||
                         code == XML_ERROR_UNCLOSED_TOKEN || code == XML_ERROR_UNCLOSED_CDATA_SECTION)) {
        const struct mp_xml *e = p->open[p->depth - 1];
        return mp_fail_at(p->err, MP_EINPUT, p->path, line, column,
                          "not well-formed XML: %s (<%s> of line %u is still open: write </%s> first)",
                          XML_ErrorString(code), mp_quote(e->name, strlen(e->name), quoted, sizeof quoted), e->line,
                          quoted);
    }
    return mp_fail_at(p->err, MP_EINPUT, p->path, line, column, "not well-formed XML: %s%s", XML_ErrorString(code),
                      code == XML_ERROR_UNDEFINED_ENTITY ? " (write the characters themselves)" : "");
}

enum mp_status mp_xml_parse_text(struct mp_xml_doc **out, const char *path, const char *text, size_t size,
                                 struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_xml_doc *d = NULL;
    *out = NULL;
    if (size > MP_XML_MAX_BYTES)
        return mp_fail_at(err, MP_ELIMIT, path, 0, 0, "an XML file of more than %u bytes", MP_XML_MAX_BYTES);
    status = check_tags(path, text, size, err);
    if (status != MP_OK)
        return status;
    struct parser *p = mp_calloc(1, sizeof *p);
    if (p == NULL)
        return mp_nomem(err, "reading XML");
    p->path = path;
    p->text = text;
    p->size = size;
    p->err = err;
    p->arena = mp_arena_new();
    p->expat = XML_ParserCreate_MM("UTF-8", &memory, NULL);
    d = p->arena != NULL ? mp_arena_alloc(p->arena, 1, sizeof *d) : NULL;
    if (d == NULL || p->expat == NULL || (d->path = mp_arena_strdup(p->arena, path)) == NULL) {
        status = mp_nomem(err, "reading XML");
        goto out;
    }
    XML_SetUserData(p->expat, p);
    XML_SetElementHandler(p->expat, on_start, on_end);
    XML_SetCharacterDataHandler(p->expat, on_characters);
    XML_SetStartDoctypeDeclHandler(p->expat, on_doctype);
    XML_SetEntityDeclHandler(p->expat, on_entity);
    XML_SetSkippedEntityHandler(p->expat, on_skipped);
    (void)XML_SetParamEntityParsing(p->expat, XML_PARAM_ENTITY_PARSING_NEVER);
    /* All at once: a token that is cut is not read again from its start (quadratic otherwise). */
    const enum XML_Status parsed = XML_Parse(p->expat, text, (int)size, XML_TRUE);
    status = p->status != MP_OK ? p->status : parsed != XML_STATUS_OK ? fail_syntax(p) : MP_OK;
    if (status != MP_OK)
        goto out;
    d->root = p->root;
    d->n_elements = p->n_elements;
    d->arena = p->arena;
    p->arena = NULL;
    *out = d;
out:
    if (p->expat != NULL)
        XML_ParserFree(p->expat);
    mp_arena_free(p->arena);
    mp_free(p->pending);
    mp_free(p);
    return status;
}

enum mp_status mp_xml_parse(struct mp_xml_doc **out, const struct mp_in *in, struct mp_error *err) {
    return mp_xml_parse_text(out, in->path, (const char *)in->data, in->size, err);
}

void mp_xml_free(struct mp_xml_doc *d) {
    if (d != NULL)
        mp_arena_free(d->arena);
}

/* ---- reads ---- */

const struct mp_xml_attribute *mp_xml_attribute(const struct mp_xml *e, const char *name) {
    for (uint32_t i = 0; i < e->n_attributes; i++)
        if (strcmp(e->attributes[i].name, name) == 0)
            return &e->attributes[i];
    return NULL;
}

const char *mp_xml_get(const struct mp_xml *e, const char *name) {
    const struct mp_xml_attribute *a = mp_xml_attribute(e, name);
    return a != NULL ? a->value : NULL;
}

static enum mp_status fail_named(const struct mp_xml_doc *d, const char *name, uint32_t line, uint32_t column,
                                 struct mp_error *err, const char *fmt, va_list args) MP_PRINTF(6, 0);
static enum mp_status fail_named(const struct mp_xml_doc *d, const char *name, uint32_t line, uint32_t column,
                                 struct mp_error *err, const char *fmt, va_list args) {
    char message[600], quoted[200];
    vsnprintf(message, sizeof message, fmt, args);
    return mp_fail_at(err, MP_EINPUT, d->path, line, column, "%s: %s",
                      mp_quote(name, strlen(name), quoted, sizeof quoted), message);
}

enum mp_status mp_xml_fail(const struct mp_xml_doc *d, const struct mp_xml *e, struct mp_error *err, const char *fmt,
                           ...) {
    va_list args;
    va_start(args, fmt);
    enum mp_status status = fail_named(d, e->name, e->line, e->column, err, fmt, args);
    va_end(args);
    return status;
}

enum mp_status mp_xml_fail_at(const struct mp_xml_doc *d, const struct mp_xml_attribute *a, struct mp_error *err,
                              const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    enum mp_status status = fail_named(d, a->name, a->line, a->column, err, fmt, args);
    va_end(args);
    return status;
}

enum mp_status mp_xml_need(const struct mp_xml_doc *d, const struct mp_xml *e, const char *name, const char *hint,
                           const struct mp_xml_attribute **out, struct mp_error *err) {
    *out = mp_xml_attribute(e, name);
    return *out != NULL ? MP_OK : mp_xml_fail(d, e, err, "has no %s (%s)", name, hint);
}

enum mp_status mp_xml_u64(const struct mp_xml_doc *d, const struct mp_xml_attribute *a, uint64_t min, uint64_t max,
                          uint64_t *out, struct mp_error *err) {
    char quoted[200];
    if (mp_parse_u64(a->value, strlen(a->value), out) && *out >= min && *out <= max)
        return MP_OK;
    return mp_xml_fail_at(d, a, err, "\"%s\" is not a whole number in [%llu, %llu] (write one)",
                          mp_quote(a->value, strlen(a->value), quoted, sizeof quoted), (unsigned long long)min,
                          (unsigned long long)max);
}
