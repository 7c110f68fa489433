#include <moeplan/npy.h>
#include <moeplan/base.h>
#include <string.h>

#define BAD(where, ...) mp_fail_at(err, MP_EINPUT, path, 0, (where) + 1, __VA_ARGS__)

enum mp_status mp_npy_header_bytes(const uint8_t *p, size_t n, const char *path, uint64_t at,
                                   const struct mp_limits *limits, uint64_t *bytes, struct mp_error *err) {
    if (n < 10 || memcmp(p, MP_NPY_MAGIC, 6) != 0)
        return BAD(at, "is not a NumPy array (write it with numpy.save or numpy.savez)");
    if (p[6] < 1 || p[6] > 3 || p[7] != 0)
        return BAD(at + 6, "version %u.%u of the .npy format is not known", p[6], p[7]);
    uint32_t prefix = p[6] == 1 ? 10 : 12, length = (uint32_t)p[8] | (uint32_t)p[9] << 8;
    if (n < prefix)
        return BAD(at + n, "the array ends inside its header");
    if (prefix == 12)
        length |= (uint32_t)p[10] << 16 | (uint32_t)p[11] << 24;
    if (length > limits->npy_header_bytes)
        return mp_fail_at(err, MP_ELIMIT, path, 0, at + 9, "an array header of %u bytes is more than the limit of %zu",
                          length, limits->npy_header_bytes);
    *bytes = (uint64_t)prefix + length;
    return MP_OK;
}

struct text {
    const char *p, *end;
};
static void skip_blanks(struct text *t) {
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\n' || *t->p == '\t'))
        t->p++;
}
static bool take(struct text *t, const char *word) {
    skip_blanks(t);
    size_t n = strlen(word);
    if ((size_t)(t->end - t->p) < n || memcmp(t->p, word, n) != 0)
        return false;
    t->p += n;
    return true;
}
/* A string between single or double quotes, without escapes. */
static bool take_string(struct text *t, const char **s, size_t *n) {
    skip_blanks(t);
    if (t->p == t->end || (*t->p != '\'' && *t->p != '"'))
        return false;
    const char *stop = memchr(t->p + 1, *t->p, (size_t)(t->end - t->p - 1));
    if (stop == NULL)
        return false;
    *s = t->p + 1;
    *n = (size_t)(stop - *s);
    t->p = stop + 1;
    return true;
}
static bool take_number(struct text *t, uint64_t *v) {
    skip_blanks(t);
    const char *start = t->p;
    while (t->p < t->end && *t->p >= '0' && *t->p <= '9')
        t->p++;
    return mp_parse_u64(start, (size_t)(t->p - start), v);
}

enum mp_status mp_npy_header_parse(struct mp_npy_header *out, const uint8_t *header, size_t n, bool is_matrix,
                                   const char *path, uint64_t at, struct mp_error *err) {
    *out = (struct mp_npy_header){0};
    const char *start = (const char *)header;
    struct text t = {start + (header[6] == 1 ? 10 : 12), start + n};
    bool has_descr = false, has_order = false, has_shape = false;
#define HERE (at + (uint64_t)(t.p - start))
    if (!take(&t, "{"))
        return BAD(HERE, "the array's header is not a dictionary");
    while (!take(&t, "}")) {
        const char *key, *value;
        size_t n_key, n_value;
        char quoted[128];
        if (!take_string(&t, &key, &n_key) || !take(&t, ":"))
            return BAD(HERE, "the array's header is damaged");
        uint64_t value_at = HERE;
        if (n_key == 5 && memcmp(key, "descr", 5) == 0 && !has_descr) {
            has_descr = true;
            if (!take_string(&t, &value, &n_value))
                return BAD(value_at, "the array's elements are records (save a plain integer array)");
            bool is_size = n_value == 3 && (value[2] == '1' || value[2] == '2' || value[2] == '4' || value[2] == '8');
            if (is_size && value[0] == '>' && value[2] != '1')
                return BAD(value_at, "descr: \"%s\" is big-endian (save it with .astype('<%.2s'))",
                           mp_quote(value, n_value, quoted, sizeof quoted), value + 1);
            bool is_order = n_value == 3 && strchr("<|=>", value[0]) != NULL;
            out->is_float = is_size && value[1] == 'f';
            if (is_matrix && (!is_size || !is_order || (value[1] != 'i' && value[1] != 'u' && value[1] != 'f') ||
                              (out->is_float && value[2] != '4' && value[2] != '8')))
                return BAD(value_at,
                           "descr: \"%s\" is no type of numbers that is read (save the matrix as i8, u8 or f8)",
                           mp_quote(value, n_value, quoted, sizeof quoted));
            if (!is_matrix && (!is_size || !is_order || (value[1] != 'i' && value[1] != 'u')))
                return BAD(value_at, "descr: \"%s\" is not an integer type (save the ids as u1, u2, i1, i2, i4 or i8)",
                           mp_quote(value, n_value, quoted, sizeof quoted));
            out->item_bytes = (uint32_t)(value[2] - '0');
            out->is_signed = value[1] == 'i';
        } else if (n_key == 13 && memcmp(key, "fortran_order", 13) == 0 && !has_order) {
            has_order = true;
            if (take(&t, "True"))
                out->is_fortran = true;
            if (out->is_fortran && !is_matrix)
                return BAD(value_at, "the array is in Fortran order (save it with numpy.ascontiguousarray)");
            if (!out->is_fortran && !take(&t, "False"))
                return BAD(value_at, "fortran_order is neither True nor False");
        } else if (n_key == 5 && memcmp(key, "shape", 5) == 0 && !has_shape) {
            has_shape = true;
            if (!take(&t, "("))
                return BAD(value_at, "shape is not a tuple");
            while (!take(&t, ")")) {
                if (out->n_dims == MP_NPY_MAX_DIMS)
                    return BAD(HERE, "the array has more than %d dimensions", (int)MP_NPY_MAX_DIMS);
                if (!take_number(&t, &out->shape[out->n_dims]))
                    return BAD(HERE, "shape holds something that is not a whole number");
                out->n_dims++;
                if (!take(&t, ",") && (t.p == t.end || *t.p != ')'))
                    return BAD(HERE, "shape is damaged");
            }
        } else
            return BAD(HERE, "key \"%s\" of the array's header is not known or there twice",
                       mp_quote(key, n_key, quoted, sizeof quoted));
        if (!take(&t, ",")) {
            if (!take(&t, "}"))
                return BAD(HERE, "the array's header is damaged");
            break;
        }
    }
    skip_blanks(&t);
    if (t.p != t.end)
        return BAD(HERE, "the array's header is damaged");
    if (!has_descr || !has_order || !has_shape)
        return BAD(at, "the array's header lacks %s", !has_descr ? "descr" : !has_order ? "fortran_order" : "shape");
#undef HERE
    out->data_bytes = out->item_bytes;
    for (uint32_t d = 0; d < out->n_dims; d++)
        if (mp_mul_overflow(out->data_bytes, out->shape[d], &out->data_bytes))
            return mp_fail_at(err, MP_ELIMIT, path, 0, at + 1, "the array's shape passes 64 bits");
    return MP_OK;
}
