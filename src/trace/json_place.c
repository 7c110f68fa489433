#include "json_place.h"
#include <moeplan/base.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct cursor {
    const char *p, *end;
};

static void skip_blanks(struct cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r'))
        c->p++;
}
static void skip_string(struct cursor *c) {
    for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
        if (*c->p == '\\' && c->p + 1 < c->end)
            c->p++;
    if (c->p < c->end)
        c->p++;
}
/* Past one value, by counting brackets. */
static void skip_value(struct cursor *c) {
    size_t depth = 0;
    skip_blanks(c);
    while (c->p < c->end) {
        if (*c->p == '"') {
            skip_string(c);
            if (depth == 0)
                return;
            continue;
        }
        if (depth == 0 && strchr(",]} \t\r\n", *c->p) != NULL)
            return;
        if (*c->p == '[' || *c->p == '{')
            depth++;
        else if ((*c->p == ']' || *c->p == '}') && --depth == 0) {
            c->p++;
            return;
        }
        c->p++;
    }
}

/* From the start of a container to its member; false when there is none. */
static bool enter_index(struct cursor *c, size_t index) {
    struct cursor at = *c;
    if (at.p == at.end || *at.p != '[')
        return false;
    at.p++;
    for (size_t i = 0;; i++) {
        skip_blanks(&at);
        if (at.p == at.end || *at.p == ']')
            return false;
        if (i == index)
            break;
        skip_value(&at);
        skip_blanks(&at);
        if (at.p < at.end && *at.p == ',')
            at.p++;
    }
    *c = at;
    return true;
}
static bool enter_key(struct cursor *c, const char *key, size_t n) {
    struct cursor at = *c;
    if (at.p == at.end || *at.p != '{')
        return false;
    at.p++;
    for (;;) {
        skip_blanks(&at);
        if (at.p == at.end || *at.p != '"')
            return false;
        const char *name = at.p + 1;
        skip_string(&at);
        bool is_it = (size_t)(at.p - 1 - name) == n && memcmp(name, key, n) == 0;
        skip_blanks(&at);
        if (at.p < at.end && *at.p == ':')
            at.p++;
        skip_blanks(&at);
        if (is_it)
            break;
        skip_value(&at);
        skip_blanks(&at);
        if (at.p < at.end && *at.p == ',')
            at.p++;
    }
    *c = at;
    return true;
}

void json_place(const char *text, size_t n, const char *path, uint64_t *line, uint64_t *column) {
    struct cursor c = {text, text + n};
    bool is_found = true;
    skip_blanks(&c);
    while (is_found && *path != '\0') {
        if (*path == '[') {
            size_t digits = strspn(path + 1, "0123456789");
            uint64_t index = 0;
            is_found = mp_parse_u64(path + 1, digits, &index) && enter_index(&c, (size_t)index);
            path += 1 + digits;
            path += *path == ']';
        } else {
            path += *path == '.';
            size_t length = strcspn(path, ".[");
            is_found = length > 0 && enter_key(&c, path, length);
            path += length;
        }
    }
    *line = *column = 1;
    for (const char *p = text; p < c.p; p++) {
        *column = *p == '\n' ? 1 : *column + (((unsigned char)*p & 0xc0) != 0x80);
        *line += *p == '\n';
    }
}
