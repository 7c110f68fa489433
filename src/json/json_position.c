/* Where a value stands in JSON text: jansson drops positions, messages need them. Works on text that parsed already. */
#include <moeplan/base.h>
#include <moeplan/json.h>
#include <string.h>

static const char *blanks(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* Past the string that starts at p. */
static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\' && p + 1 < end)
            p++;
    return p < end ? p + 1 : end;
}

/* Past the value that starts at p. */
static const char *skip_value(const char *p, const char *end) {
    uint64_t depth = 0;
    do {
        p = blanks(p, end);
        if (p >= end)
            return end;
        if (*p == '"') {
            p = skip_string(p, end);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            if (depth == 0)
                return p;
            depth--;
            p++;
        } else if (*p == ',' || *p == ':') {
            p++;
        } else {
            do /* a byte that no JSON value starts with is passed too, so that every text ends */
                p++;
            while (p < end && memchr(",]} \t\r\n", *p, 7) == NULL);
        }
    } while (depth > 0 && p < end);
    return p;
}

/* The value of the key (or index) of one step inside the container at p, or NULL. */
static const char *enter(const char *p, const char *end, const char *step, size_t n) {
    p = blanks(p, end);
    if (p >= end || (*p != '{' && *p != '['))
        return NULL;
    bool is_object = *p == '{';
    uint64_t index = 0, i = 0;
    if (!is_object && !mp_parse_u64(step, n, &index))
        return NULL;
    p = blanks(p + 1, end);
    for (; p < end && *p != '}' && *p != ']'; i++) {
        if (is_object) {
            const char *key = p;
            p = blanks(skip_string(p, end), end);
            bool is_it = (size_t)(p - key) >= n + 2 && strncmp(key + 1, step, n) == 0 && key[n + 1] == '"';
            p = blanks(p < end ? p + 1 : end, end);
            if (is_it)
                return p;
        } else if (i == index) {
            return p;
        }
        p = blanks(skip_value(p, end), end);
        if (p < end && *p == ',')
            p = blanks(p + 1, end);
    }
    return NULL;
}

bool mp_json_position(const char *text, size_t n, const char *steps, uint64_t *line, uint64_t *column) {
    const char *end = text + n, *at = blanks(text, end);
    *line = *column = 0;
    while (steps != NULL && *steps != '\0' && at != NULL) {
        size_t length = strcspn(steps, "/");
        at = enter(at, end, steps, length);
        steps += length + (steps[length] == '/');
    }
    if (at == NULL || at >= end)
        return false;
    *line = *column = 1;
    for (const char *p = text; p < at; p++) { /* columns in characters, as the JSON reader counts them */
        *column = *p == '\n' ? 1 : *column + ((*p & 0xc0) != 0x80);
        *line += *p == '\n';
    }
    return true;
}
