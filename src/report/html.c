#include <moeplan/page.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Bytes of the UTF-8 character at s, 0 when there is none: overlong forms, surrogates and what ends early are none. */
static size_t character(const unsigned char *s) {
    static const struct {
        unsigned char first, last, low, high; /* first byte's range, second byte's range */
        size_t n;
    } forms[] = {{0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3}, {0xE1, 0xEC, 0x80, 0xBF, 3},
                 {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
                 {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    if (s[0] < 0x80)
        return s[0] == '\n' || s[0] == '\t' || (s[0] >= ' ' && s[0] != 0x7F);
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (s[0] < forms[f].first || s[0] > forms[f].last)
            continue;
        if (s[1] < forms[f].low || s[1] > forms[f].high)
            return 0;
        for (size_t k = 2; k < forms[f].n; k++)
            if (s[k] < 0x80 || s[k] > 0xBF)
                return 0;
        return forms[f].n;
    }
    return 0;
}

/* Writes the character at s as text; returns its bytes. */
static size_t put_character(struct mp_out *o, const unsigned char *s) {
    const size_t n = character(s);
    const char *escaped = n == 0       ? REPLACEMENT
                          : *s == '&'  ? "&amp;"
                          : *s == '<'  ? "&lt;"
                          : *s == '>'  ? "&gt;"
                          : *s == '"'  ? "&quot;"
                          : *s == '\'' ? "&#39;"
                                       : NULL;
    if (escaped != NULL)
        mp_out_puts(o, escaped);
    else
        mp_out_write(o, s, n);
    return n > 0 ? n : 1;
}

void mp_html_text(struct mp_out *o, const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; s != NULL && *s != '\0';)
        s += put_character(o, s);
}

static bool is_letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Bytes of the unit at s, 0 when there is none. */
static size_t unit(const char *s) {
    static const char *const units[] = {"%", "ns", "us", "ms", "s", "B", "kB", "MB", "GB", "TB", "PB"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        const size_t n = strlen(units[u]);
        if (strncmp(s, units[u], n) == 0 && !is_letter_or_digit(s[n]))
            return n;
    }
    return 0;
}

void mp_html_figures(struct mp_out *o, const char *text) {
    for (const char *s = text; s != NULL && *s != '\0';) {
        const bool is_behind = *s == ' ' && s > text && s[-1] >= '0' && s[-1] <= '9' && unit(s + 1) > 0;
        if (!is_behind) {
            s += put_character(o, (const unsigned char *)s);
            continue;
        }
        mp_out_puts(o, "\xc2\xa0");
        s++;
        if (s[0] == 'u') {
            mp_out_puts(o, "\xc2\xb5");
            s++;
        }
    }
}

json_t *mp_json_text(const char *text) {
    if (text == NULL)
        return json_null();
    char *clean = mp_calloc(strlen(text) + 1, sizeof REPLACEMENT - 1), *to = clean;
    if (clean == NULL)
        return NULL;
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        const size_t n = character(s);
        memcpy(to, n > 0 ? (const char *)s : REPLACEMENT, n > 0 ? n : sizeof REPLACEMENT - 1);
        to += n > 0 ? n : sizeof REPLACEMENT - 1;
        s += n > 0 ? n : 1;
    }
    json_t *value = json_stringn(clean, (size_t)(to - clean));
    mp_free(clean);
    return value;
}

/* In JSON these characters stand in strings only. */
static int write_chunk(const char *data, size_t n, void *out) {
    size_t from = 0;
    for (size_t i = 0; i < n; i++)
        if (data[i] == '<' || data[i] == '>' || data[i] == '&') {
            mp_out_write(out, data + from, i - from);
            mp_out_printf(out, "\\u%04x", (unsigned)data[i]);
            from = i + 1;
        }
    mp_out_write(out, data + from, n - from);
    return 0;
}

void mp_json_write_in_script(const json_t *value, struct mp_out *o) {
    /* ASCII only: U+2028 and U+2029 go as \uXXXX with all the others. */
    const size_t flags = JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15);
    if (value == NULL || json_dump_callback(value, write_chunk, o, flags) != 0)
        mp_out_fail(o, MP_ENOMEM, "out of memory: JSON");
}
