#include <moeplan/base.h>

struct mp_rng mp_rng_seed(uint64_t seed) {
    struct mp_rng r;
    for (int i = 0; i < 4; i++)
        r.s[i] = mp_mix64(seed + (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15));
    return r;
}

static uint64_t rotate_left(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t mp_rng_next(struct mp_rng *r) {
    uint64_t *s = r->s, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t mp_rng_below(struct mp_rng *r, uint64_t n) {
    uint64_t reject_below = (UINT64_C(0) - n) % n; /* 2^64 mod n */
    for (;;) {
        uint64_t x = mp_rng_next(r);
        if (x >= reject_below)
            return x % n;
    }
}

double mp_rng_unit(struct mp_rng *r) { return (double)(mp_rng_next(r) >> 11) * 0x1.0p-53; }

void mp_rng_shuffle(struct mp_rng *r, uint32_t *a, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)mp_rng_below(r, i);
        uint32_t t = a[i - 1];
        a[i - 1] = a[j];
        a[j] = t;
    }
}
