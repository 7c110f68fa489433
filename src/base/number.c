#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mp_parse_u64(const char *s, size_t n, uint64_t *out) {
    if (n == 0 || n > 20 || (s[0] == '0' && n > 1))
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

bool mp_parse_i64(const char *s, size_t n, int64_t *out) {
    bool is_negative = n > 0 && s[0] == '-';
    uint64_t v;
    if (!mp_parse_u64(s + is_negative, n - is_negative, &v) || (is_negative && v == 0))
        return false;
    if (v > (uint64_t)INT64_MAX + (is_negative ? 1 : 0))
        return false;
    *out = is_negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

bool mp_parse_double(const char *s, size_t n, double *out) {
    char buf[64];
    if (n == 0 || n >= sizeof buf)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(s[i] >= '0' && s[i] <= '9') && strchr("+-.eE", s[i]) == NULL)
            return false;
    memcpy(buf, s, n);
    buf[n] = '\0';
    /* One locale object per call: nothing to share between threads, and with glibc "C" costs no allocation. */
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale == (locale_t)0)
        return false;
    char *end;
    double v = strtod_l(buf, &end, c_locale);
    freelocale(c_locale);
    if (end != buf + n || !isfinite(v))
        return false;
    *out = v;
    return true;
}

uint64_t mp_mul_div(uint64_t a, uint64_t b, uint64_t c) {
    unsigned __int128 q = (unsigned __int128)a * b / c;
    return q > UINT64_MAX ? UINT64_MAX : (uint64_t)q;
}

uint64_t mp_mul_div_ceil(uint64_t a, uint64_t b, uint64_t c) {
    unsigned __int128 q = ((unsigned __int128)a * b + (c - 1)) / c;
    return q > UINT64_MAX ? UINT64_MAX : (uint64_t)q;
}

bool mp_is_text(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s, *end = p + n;
    while (p < end) {
        if (*p < 0x80) {
            if ((*p < 0x20 && *p != '\t') || *p == 0x7f)
                return false;
            p++;
            continue;
        }
        int more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
        uint32_t code = *p & (0x3fu >> more);
        if (*p < 0xc2 || *p > 0xf4 || end - p <= more)
            return false;
        for (int i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return false;
            code = code << 6 | (p[i] & 0x3f);
        }
        static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
        if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        p += more + 1;
    }
    return true;
}

const char *mp_quote(const char *s, size_t n, char *buf, size_t size) {
    size_t used = 0;
    bool is_cut = n > 40;
    for (size_t i = 0; i < (is_cut ? 40 : n) && used + 8 < size; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x7f)
            buf[used++] = (char)c;
        else
            used += (size_t)snprintf(buf + used, size - used, "\\x%02x", c);
    }
    snprintf(buf + used, size - used, "%s", is_cut ? "..." : "");
    return buf;
}
