/* JSON in: jansson, with our limits in front and its memory on our account. */
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/json.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

/* jansson's allocator is one per process, so it is set once, when the library is loaded: --mem-limit and the fault
 * tests see what it takes. A program that uses jansson beside us frees some of that with free(), and has us free what
 * malloc() gave: blocks have nothing in front of them (mp_plain_alloc). jansson must never see a failed allocation: its
 * lexer goes on without the character that it found no room for, and may then run past its buffer. So the first failure
 * leaves the parse by longjmp, and the parse's blocks, which are listed, are freed here. */
enum { OVERHEAD = 32 }; /* of an allocation: malloc's and a place in the list, while it grows in two copies */
/* The parse that runs on this thread. */
static _Thread_local struct {
    size_t used, limit; /* limit 0 = none runs */
    bool was_hit;
    void **blocks; /* [n]; NULL: released since. What goes first came last, but for keys, behind which their values are:
                    * so it is found from the end after few, and all in all in (blocks x depth) steps */
    size_t n, n_allocated;
    jmp_buf leave;
} parse;

static void *json_allocate(size_t n) {
    if (parse.limit == 0)
        return mp_plain_alloc(n);
    /* Never given back: what was freed again during a parse (keys, buffers) counts too, which keeps the bound
     * simple and safe. */
    parse.was_hit = n > parse.limit - parse.used || parse.limit - parse.used - n < OVERHEAD;
    if (parse.was_hit)
        longjmp(parse.leave, 1);
    parse.used += n + OVERHEAD;
    if (parse.n == parse.n_allocated) {
        size_t wanted = parse.n_allocated > 0 ? 2 * parse.n_allocated : 64;
        void **more = mp_realloc(parse.blocks, wanted, sizeof *more);
        if (more == NULL)
            longjmp(parse.leave, 1);
        parse.blocks = more;
        parse.n_allocated = wanted;
    }
    void *p = mp_plain_alloc(n);
    if (p == NULL)
        longjmp(parse.leave, 1);
    parse.blocks[parse.n++] = p;
    return p;
}

static void json_release(void *p) {
    size_t i = parse.limit > 0 && p != NULL ? parse.n : 0;
    while (i > 0 && parse.blocks[i - 1] != p)
        i--;
    if (i > 0)
        parse.blocks[i - 1] = NULL;
    while (parse.n > 0 && parse.blocks[parse.n - 1] == NULL)
        parse.n--;
    mp_plain_free(p);
}

/* Ends the parse: its blocks become ordinary ones, or go. */
static void end_parse(bool is_kept) {
    parse.limit = 0;
    for (size_t i = 0; i < parse.n && !is_kept; i++)
        mp_plain_free(parse.blocks[i]);
    mp_free(parse.blocks);
    parse.blocks = NULL;
    parse.n = parse.n_allocated = 0;
}

__attribute__((constructor)) static void set_allocator(void) { json_set_alloc_funcs(json_allocate, json_release); }

/* False when the parse was left. Alone in a function, because what changes between setjmp and longjmp is lost. */
static bool load(json_t **out, const char *text, size_t n, json_error_t *e) {
    if (setjmp(parse.leave) != 0)
        return false;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, e);
    return true;
}

static void position(const char *text, size_t at, uint64_t first_line, uint64_t *line, uint64_t *column) {
    *line = first_line;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        *column = text[i] == '\n' ? 1 : *column + ((text[i] & 0xc0) != 0x80);
        *line += text[i] == '\n';
    }
}

/* Depth of brackets outside strings, before the recursive parser sees them. */
static enum mp_status check_depth(const char *path, const char *text, size_t n, uint64_t first_line, unsigned limit,
                                  struct mp_error *err) {
    unsigned depth = 0;
    bool is_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (is_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                is_string = false;
        } else if (c == '"') {
            is_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limit) {
                uint64_t line, column;
                position(text, i, first_line, &line, &column);
                return mp_fail_at(err, MP_ELIMIT, path, line, column, "nested deeper than %u levels (write it flatter)",
                                  limit);
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return MP_OK;
}

enum mp_status mp_json_parse(json_t **out, const char *path, const char *text, size_t n, uint64_t first_line,
                             const struct mp_limits *limits, struct mp_error *err) {
    *out = NULL;
    if (limits == NULL)
        limits = &mp_limits_default;
    if (n > limits->json_bytes)
        return mp_fail_at(err, MP_ELIMIT, path, first_line, 1,
                          "%zu bytes are more than a JSON document may have, %zu (split it)", n, limits->json_bytes);
    /* Parsing takes more than the text: what cannot end well is not even looked at. */
    if (limits->json_heap_bytes > 0 && n > limits->json_heap_bytes)
        return mp_fail_at(err, MP_ELIMIT, path, first_line, 1,
                          "%zu bytes of JSON take more than %zu bytes of memory (split the file)", n,
                          limits->json_heap_bytes);
    enum mp_status status = check_depth(path, text, n, first_line, limits->json_depth, err);
    if (status != MP_OK)
        return status;
    json_error_t e = {0};
    parse.used =
        n < limits->json_heap_bytes ? n : limits->json_heap_bytes; /* the text is in memory too while it is read */
    parse.was_hit = false;
    parse.limit = limits->json_heap_bytes > 0 ? limits->json_heap_bytes : SIZE_MAX;
    json_t *j = NULL;
    bool is_done = load(&j, text, n, &e);
    end_parse(is_done);
    if (!is_done && parse.was_hit)
        return mp_fail_at(err, MP_ELIMIT, path, first_line, 1,
                          "%zu bytes of JSON take more than %zu bytes of memory (split the file)", n,
                          limits->json_heap_bytes);
    if (!is_done)
        return mp_nomem(err, "reading JSON");
    if (j != NULL) {
        *out = j;
        return MP_OK;
    }
    uint64_t line = first_line + (e.line > 0 ? (uint64_t)e.line - 1 : 0),
             column = e.column > 0 ? (uint64_t)e.column : 1;
    enum json_error_code code = json_error_code(&e);
    char what[JSON_ERROR_TEXT_LENGTH * 2];
    size_t used = 0;
    for (const char *s = e.text; *s != '\0' && used + 5 < sizeof what; s++)
        used += (size_t)snprintf(what + used, sizeof what - used, *s >= 0x20 && *s < 0x7f ? "%c" : "\\x%02x",
                                 (unsigned char)*s);
    what[used] = '\0';
    return mp_fail_at(err, MP_EINPUT, path, line, column, "not valid JSON: %s (%s)", what,
                      code == json_error_duplicate_key            ? "remove one of the two"
                      : code == json_error_premature_end_of_input ? "the text ends too early: is the file complete?"
                                                                  : "correct it here or just before");
}

enum mp_status mp_json_u64(const json_t *object, const char *key, const char *path, uint64_t line, uint64_t min,
                           uint64_t max, uint64_t *out, struct mp_error *err) {
    const json_t *v = json_object_get(object, key);
    if (v == NULL)
        return mp_fail_at(err, MP_EINPUT, path, line, 1, "the key \"%s\" is missing (add \"%s\": a whole number)", key,
                          key);
    if (json_is_integer(v) && json_integer_value(v) >= 0 && (uint64_t)json_integer_value(v) >= min &&
        (uint64_t)json_integer_value(v) <= max) {
        *out = (uint64_t)json_integer_value(v);
        return MP_OK;
    }
    char value[128], quoted[200];
    size_t n = 0;
    if (json_is_string(v))
        n = (size_t)snprintf(value, sizeof value, "%.60s", json_string_value(v));
    else if (json_is_integer(v))
        n = (size_t)snprintf(value, sizeof value, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        n = (size_t)snprintf(value, sizeof value, "%.17g", json_real_value(v));
    else
        n = (size_t)snprintf(value, sizeof value, "%s",
                             json_is_null(v)    ? "null"
                             : json_is_true(v)  ? "true"
                             : json_is_false(v) ? "false"
                             : json_is_array(v) ? "[...]"
                                                : "{...}");
    return mp_fail_at(err, MP_EINPUT, path, line, 1,
                      "%s: \"%s\" is not a whole number in [%llu, %llu] (write digits, without quotes or a point)", key,
                      mp_quote(value, n, quoted, sizeof quoted), (unsigned long long)min, (unsigned long long)max);
}

bool mp_next_line_within(const char **cursor, const char *end, size_t max, const char **line, size_t *n) {
    if (*cursor >= end)
        return false;
    const char *start = *cursor;
    size_t left = (size_t)(end - start), near = left > max && left - max > 2 ? max + 2 : left;
    const char *newline = memchr(start, '\n', near);
    const char *stop = newline != NULL ? newline : start + near;
    *cursor = newline != NULL ? newline + 1 : near < left ? end : stop;
    if (stop > start && stop[-1] == '\r')
        stop--;
    *line = start;
    *n = (size_t)(stop - start);
    return true;
}

bool mp_next_line(const char **cursor, const char *end, const char **line, size_t *n) {
    return mp_next_line_within(cursor, end, SIZE_MAX, line, n);
}
