/* Arrays of numbers as base64 of little-endian integers.
 *
 * Decides   the scale of an array: the least of 1, 2, 5 times a power of ten with which its largest value still fits.
 * Cost      4 characters for 3 bytes; an error of half a scale, so of at most 1 / 26,000 of the largest value for u16.
 */
#include <math.h>
#include <moeplan/page.h>

enum { TEN_MIN = -9, TEN_MAX = 15 };

static double power_of_ten(int ten) {
    double p = 1; /* exact */
    for (int i = 0; i < ten; i++)
        p *= 10;
    return p;
}

struct scale {
    int digit, ten; /* digit * 10^ten */
};
static double times(double value, struct scale s) { /* value / scale */
    return s.ten < 0 ? value * power_of_ten(-s.ten) / s.digit : value / (power_of_ten(s.ten) * s.digit);
}

static struct scale scale_of(const double *values, size_t n, double top) {
    double most = 0;
    bool is_whole = true;
    for (size_t i = 0; i < n; i++) {
        most = values[i] > most ? values[i] : most;
        is_whole = is_whole && values[i] == floor(values[i]);
    }
    static const int digits[] = {1, 2, 5};
    for (int ten = is_whole ? 0 : TEN_MIN; ten < TEN_MAX; ten++)
        for (int d = 0; d < 3; d++)
            if (times(most, (struct scale){digits[d], ten}) <= top)
                return (struct scale){digits[d], ten};
    return (struct scale){1, TEN_MAX};
}

static void encode(const uint8_t *bytes, size_t n, char *to) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)bytes[i] << 16;
        three |= i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0;
        three |= i + 2 < n ? (uint32_t)bytes[i + 2] : 0;
        *to++ = letters[three >> 18];
        *to++ = letters[three >> 12 & 63];
        *to++ = i + 1 < n ? letters[three >> 6 & 63] : '=';
        *to++ = i + 2 < n ? letters[three & 63] : '=';
    }
}

json_t *mp_json_packed(enum mp_packed_type type, const double *values, const uint32_t *shape, uint32_t n_dims) {
    static const struct {
        const char *name;
        size_t bytes;
        double top;
    } types[] = {{"u8", 1, 255}, {"u16", 2, 65535}, {"u32", 4, 4294967295.0}};
    const size_t width = types[type].bytes;
    size_t n = 1;
    json_t *dims = json_array();
    for (uint32_t d = 0; d < n_dims; d++) {
        n *= shape[d];
        (void)json_array_append_new(dims, json_integer(shape[d]));
    }
    const struct scale s = scale_of(values, n, types[type].top);
    const size_t n_bytes = n * width, n_letters = (n_bytes + 2) / 3 * 4;
    uint8_t *bytes = mp_calloc(n_bytes + 1, 1);
    char *text = mp_calloc(n_letters + 1, 1);
    json_t *out = NULL;
    if (bytes == NULL || text == NULL || json_array_size(dims) != n_dims) {
        json_decref(dims);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const double q = floor(times(values[i], s) + 0.5);
        const uint64_t whole = q > types[type].top ? (uint64_t)types[type].top : (uint64_t)q;
        for (size_t k = 0; k < width; k++)
            bytes[i * width + k] = (uint8_t)(whole >> 8 * k & 255);
    }
    encode(bytes, n_bytes, text);
    const double factor = s.ten < 0 ? s.digit / power_of_ten(-s.ten) : s.digit * power_of_ten(s.ten);
    out = json_pack("{s:s,s:o,s:o,s:o}", "type", types[type].name, "shape", dims, "scale",
                    s.ten < 0 ? json_real(factor) : json_integer((json_int_t)factor), "base64",
                    json_stringn_nocheck(text, n_letters));
out:
    mp_free(bytes);
    mp_free(text);
    return out;
}
