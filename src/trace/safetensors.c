#include "safetensors.h"

#include <moeplan/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scanner {
    const struct mp_in *in;
    size_t at, end; /* of the header in the file */
    uint32_t room;
    uint64_t data; /* where the data starts */
};

static enum mp_status bad(const struct scanner *s, size_t at, struct mp_error *err, const char *what) {
    return mp_fail_at(err, MP_EINPUT, s->in->path, 0, at + 1, "%s", what);
}

static void skip_blanks(struct scanner *s) {
    while (s->at < s->end && strchr(" \t\r\n", s->in->data[s->at]) != NULL && s->in->data[s->at] != '\0')
        s->at++;
}
static bool take(struct scanner *s, char c) {
    skip_blanks(s);
    if (s->at >= s->end || s->in->data[s->at] != (uint8_t)c)
        return false;
    s->at++;
    return true;
}
/* A string; *n bytes without the quotes, escapes left as they are. */
static bool string(struct scanner *s, const char **text, size_t *n) {
    if (!take(s, '"'))
        return false;
    size_t start = s->at;
    for (; s->at < s->end && s->in->data[s->at] != '"'; s->at++) {
        if (s->in->data[s->at] < 0x20)
            return false;
        if (s->in->data[s->at] == '\\')
            s->at++;
    }
    if (s->at >= s->end)
        return false;
    *text = (const char *)s->in->data + start;
    *n = s->at++ - start;
    return true;
}
/* A whole number in decimal digits. */
static bool number(struct scanner *s, uint64_t *out) {
    skip_blanks(s);
    size_t start = s->at;
    while (s->at < s->end && s->in->data[s->at] >= '0' && s->in->data[s->at] <= '9')
        s->at++;
    return mp_parse_u64((const char *)s->in->data + start, s->at - start, out);
}
/* [a, b, ...] of at most `max` whole numbers. */
static bool numbers(struct scanner *s, uint64_t *out, uint32_t max, uint32_t *n) {
    *n = 0;
    if (!take(s, '['))
        return false;
    if (take(s, ']'))
        return true;
    do {
        if (*n == max || !number(s, &out[(*n)++]))
            return false;
    } while (take(s, ','));
    return take(s, ']');
}

/* "<iter>_<layer>" */
static bool parse_name(const char *text, size_t n, struct safetensor *t) {
    const char *bar = memchr(text, '_', n);
    uint64_t layer;
    if (bar == NULL || !mp_parse_u64(text, (size_t)(bar - text), &t->iter) || t->iter > MP_MAX_TOKENS ||
        !mp_parse_u64(bar + 1, n - (size_t)(bar - text) - 1, &layer) || layer >= MP_MAX_LAYERS)
        return false;
    t->layer = (uint32_t)layer;
    return true;
}

/* {"dtype": "I64", "shape": [..], "data_offsets": [a, b]} in any order. */
static enum mp_status tensor(struct scanner *s, struct safetensor *t, struct mp_error *err) {
    uint64_t span[2] = {0, 0};
    uint32_t n_span = 0;
    unsigned seen = 0;
    size_t start = s->at;
    const char *text;
    size_t n;
    if (!take(s, '{'))
        return bad(s, s->at, err, "a tensor's entry is not an object");
    do {
        if (!string(s, &text, &n) || !take(s, ':'))
            return bad(s, s->at, err, "the header is not valid JSON here");
        unsigned key = n == 5 && memcmp(text, "dtype", 5) == 0            ? 1
                       : n == 5 && memcmp(text, "shape", 5) == 0          ? 2
                       : n == 12 && memcmp(text, "data_offsets", 12) == 0 ? 4
                                                                          : 0;
        if (key == 0 || (seen & key) != 0)
            return bad(s, s->at, err,
                       "a tensor's entry has a key other than dtype, shape and data_offsets, or one twice");
        seen |= key;
        size_t at = s->at;
        if (key == 1) {
            if (!string(s, &text, &n))
                return bad(s, at, err, "dtype is not a text");
            t->item = n == 3 && memcmp(text, "I32", 3) == 0 ? 4 : n == 3 && memcmp(text, "I64", 3) == 0 ? 8 : 0;
            if (t->item == 0)
                return bad(s, at, err, "dtype is not I32 or I64");
        } else if (key == 2) {
            t->size[1] = 1;
            if (!numbers(s, t->size, 2, &t->n_dims) || t->n_dims == 0)
                return bad(s, at, err, "shape is not one or two whole numbers");
        } else if (!numbers(s, span, 2, &n_span) || n_span != 2) {
            return bad(s, at, err, "data_offsets is not two whole numbers");
        }
    } while (take(s, ','));
    if (!take(s, '}') || seen != 7)
        return bad(s, s->at, err, "a tensor's entry does not end, or lacks dtype, shape or data_offsets");
    uint64_t bytes, room = s->in->size - s->data;
    if (mp_mul_overflow(t->size[0], t->size[1], &bytes) || mp_mul_overflow(bytes, (uint64_t)t->item, &bytes) ||
        span[0] > span[1] || span[1] - span[0] != bytes)
        return bad(s, start, err, "data_offsets do not span what shape and dtype need");
    if (span[1] > room)
        return bad(s, start, err, "data_offsets reach past the end of the file (is it complete?)");
    t->offset = s->data + span[0];
    return MP_OK;
}

static int compare_keys(const void *pa, const void *pb) {
    const struct safetensor *a = pa, *b = pb;
    if (a->iter != b->iter)
        return a->iter < b->iter ? -1 : 1;
    return a->layer < b->layer ? -1 : a->layer > b->layer;
}
static int compare_offsets(const void *pa, const void *pb) {
    const struct safetensor *a = pa, *b = pb;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}
static uint64_t bytes_of(const struct safetensor *t) { return t->size[0] * t->size[1] * t->item; }

static enum mp_status scan(struct scanner *s, struct safetensors *out, struct mp_error *err) {
    const char *text;
    size_t n;
    if (!take(s, '{'))
        return bad(s, s->at, err, "the header is not a JSON object");
    bool is_empty = take(s, '}');
    if (!is_empty)
        do {
            size_t at = s->at;
            if (!string(s, &text, &n) || !take(s, ':'))
                return bad(s, at, err, "the header is not valid JSON here");
            if (n == 12 && memcmp(text, "__metadata__", 12) == 0) { /* texts only */
                const char *value;
                size_t length;
                bool is_good = take(s, '{');
                if (is_good && !take(s, '}')) {
                    do
                        is_good = string(s, &value, &length) && take(s, ':') && string(s, &value, &length);
                    while (is_good && take(s, ','));
                    is_good = is_good && take(s, '}');
                }
                if (!is_good)
                    return bad(s, s->at, err, "__metadata__ is not an object of texts");
                continue;
            }
            if (out->n == s->room) {
                uint32_t room = s->room == 0 ? 64 : s->room * 2;
                struct safetensor *grown = mp_realloc(out->at, room, sizeof *grown);
                if (grown == NULL)
                    return mp_nomem(err, "safetensors");
                out->at = grown;
                s->room = room;
            }
            struct safetensor *t = &out->at[out->n];
            memset(t, 0, sizeof *t);
            if (!parse_name(text, n, t))
                return bad(s, at, err, "a tensor's name is not <iteration>_<layer>");
            enum mp_status status = tensor(s, t, err);
            if (status != MP_OK)
                return status;
            out->n++;
        } while (take(s, ','));
    if (!is_empty && !take(s, '}'))
        return bad(s, s->at, err, "the header is not valid JSON here");
    skip_blanks(s);
    return s->at == s->end ? MP_OK : bad(s, s->at, err, "text follows the header's object");
}

enum mp_status safetensors_read(struct safetensors *out, const struct mp_in *in, const struct mp_limits *limits,
                                struct mp_error *err) {
    *out = (struct safetensors){0};
    uint64_t n = 0;
    struct scanner s = {.in = in};
    if (in->size < 8)
        return bad(&s, in->size, err, "is not a .safetensors file: it has no header length (is it complete?)");
    for (int i = 7; i >= 0; i--)
        n = n << 8 | in->data[i];
    if (n > limits->safetensors_header_bytes)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, 1, "the header says %llu bytes, more than the limit of %zu",
                          (unsigned long long)n, limits->safetensors_header_bytes);
    if (n > in->size - 8)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 1,
                          "the header says %llu bytes, but %zu follow (is the file complete?)", (unsigned long long)n,
                          in->size - 8);
    s.at = 8;
    s.end = 8 + (size_t)n;
    s.data = s.end;
    enum mp_status status = scan(&s, out, err);
    if (status == MP_OK && out->n > 0) {
        qsort(out->at, out->n, sizeof *out->at, compare_offsets); /* equal offsets: an overlap, or empty tensors */
        for (uint32_t i = 1; i < out->n && status == MP_OK; i++)
            if (bytes_of(&out->at[i - 1]) > 0 && out->at[i - 1].offset + bytes_of(&out->at[i - 1]) > out->at[i].offset)
                status = mp_fail_at(err, MP_EINPUT, in->path, 0, out->at[i].offset + 1,
                                    "tensors %llu_%u and %llu_%u overlap", (unsigned long long)out->at[i - 1].iter,
                                    out->at[i - 1].layer, (unsigned long long)out->at[i].iter, out->at[i].layer);
        qsort(out->at, out->n, sizeof *out->at, compare_keys); /* equal keys are refused next */
        for (uint32_t i = 1; i < out->n && status == MP_OK; i++)
            if (compare_keys(&out->at[i - 1], &out->at[i]) == 0)
                status = mp_fail_at(err, MP_EINPUT, in->path, 0, 9, "tensor %llu_%u is there twice",
                                    (unsigned long long)out->at[i].iter, out->at[i].layer);
    }
    if (status != MP_OK)
        safetensors_clear(out);
    return status;
}

void safetensors_clear(struct safetensors *s) {
    mp_free(s->at);
    *s = (struct safetensors){0};
}
